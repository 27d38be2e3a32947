//! `memory`: topics within the host, from one rule to the next. No payload enters the sandbox.
//!
//! Source: `datasource` (or `topic`) is a topic, or a filter with `+` and `#`. Sink: `topic` with
//! `{{...}}` in it is rendered by the host, which then gives each message its own subject and takes
//! the property out.

use serde::Deserialize;
use windlass_connector::messaging::{Client, PublishOptions, SubscribeOptions, Subscription};
use windlass_connector::{
    Batch, Descriptor, Error, Outcome, Rejection, Schema, Sink, Slot, Source,
};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "memory",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::PerRole {
            source: include_str!("../source.schema.json"),
            sink: include_str!("../sink.schema.json"),
        },
        slots: &[Slot::messaging("bus", "The host's own topics.")],
    },
    source: MemorySource,
    sink: MemorySink,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceConfig {
    datasource: Option<String>,
    topic: Option<String>,
    #[serde(default = "most_per_read")]
    buffer_length: u32,
}

fn most_per_read() -> u32 {
    1024
}

#[derive(Debug)]
struct MemorySource {
    subscription: Subscription,
    most: u32,
}

impl Source for MemorySource {
    type Config = SourceConfig;

    fn open(config: SourceConfig, _resume: Option<String>) -> Result<Self, Error> {
        let most = config.buffer_length;
        let filter = filter(config)?;
        let subscription =
            Client::open("bus")?.subscribe(&[filter], &SubscribeOptions::default())?;
        Ok(Self { subscription, most })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        Ok(Outcome::batch(self.subscription.receive(self.most, None)?))
    }
}

fn filter(config: SourceConfig) -> Result<String, Error> {
    config
        .topic
        .or(config.datasource)
        .filter(|filter| !filter.is_empty())
        .ok_or_else(|| Error::misconfigured("config", "datasource: a topic is required"))
}

#[derive(Debug, Deserialize)]
struct SinkConfig {
    topic: Option<String>,
}

#[derive(Debug)]
struct MemorySink {
    client: Client,
    options: PublishOptions,
}

impl Sink for MemorySink {
    type Config = SinkConfig;

    fn open(config: SinkConfig) -> Result<Self, Error> {
        let options = PublishOptions {
            subject: config.topic,
            ..PublishOptions::default()
        };
        Ok(Self {
            client: Client::open("bus")?,
            options,
        })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        self.client.publish(&batch, &self.options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::{Kind, from_json};

    #[test]
    fn a_source_takes_its_topic_from_topic_else_from_the_datasource() {
        let filter_of = |text| filter(from_json(text).unwrap());
        assert_eq!(filter_of(r#"{"datasource":"a/+"}"#).unwrap(), "a/+");
        assert_eq!(filter_of(r#"{"datasource":"a","topic":"b"}"#).unwrap(), "b");
        assert_eq!(filter_of("{}").unwrap_err().kind, Kind::Misconfigured);
    }
}
