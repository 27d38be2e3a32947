//! `websocket`: brings in what WebSocket frames carry, text or binary, and sends messages as frames. No
//! payload enters the sandbox.
//!
//! Whether the host serves the path or dials it is the connection's affair. One read takes what has
//! arrived, up to `bufferLength`. A message goes to everybody who is connected.

use serde::Deserialize;
use windlass_connector::messaging::{Client, PublishOptions, SubscribeOptions, Subscription};
use windlass_connector::{
    Batch, Descriptor, Error, Outcome, Rejection, Schema, Sink, Slot, Source,
};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "websocket",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::PerRole {
            source: include_str!("../source.schema.json"),
            sink: include_str!("../sink.schema.json"),
        },
        slots: &[Slot::messaging("socket", "Who is connected.")],
    },
    source: SocketSource,
    sink: SocketSink,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceConfig {
    datasource: Option<String>,
    #[serde(default = "most_per_read")]
    buffer_length: u32,
}

fn most_per_read() -> u32 {
    1024
}

#[derive(Debug)]
struct SocketSource {
    subscription: Subscription,
    most: u32,
}

impl Source for SocketSource {
    type Config = SourceConfig;

    fn open(config: SourceConfig, _resume: Option<String>) -> Result<Self, Error> {
        let path: Vec<String> = config.datasource.into_iter().collect();
        let subscription =
            Client::open("socket")?.subscribe(&path, &SubscribeOptions::default())?;
        Ok(Self {
            subscription,
            most: config.buffer_length,
        })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        Ok(Outcome::batch(self.subscription.receive(self.most, None)?))
    }
}

#[derive(Debug, Deserialize)]
struct SinkConfig {
    frame: Option<String>,
}

#[derive(Debug)]
struct SocketSink {
    client: Client,
    options: PublishOptions,
}

impl Sink for SocketSink {
    type Config = SinkConfig;

    fn open(config: SinkConfig) -> Result<Self, Error> {
        Ok(Self {
            client: Client::open("socket")?,
            options: options(config),
        })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        self.client.publish(&batch, &self.options)
    }
}

fn options(config: SinkConfig) -> PublishOptions {
    let frame = config.frame.map(|kind| ("frame".to_owned(), kind));
    PublishOptions {
        extra: frame.into_iter().collect(),
        ..PublishOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::from_json;

    #[test]
    fn the_kind_of_frame_is_asked_for_only_where_it_is_given() {
        assert!(options(from_json("{}").unwrap()).extra.is_empty());
        let told = options(from_json(r#"{"frame":"binary"}"#).unwrap());
        assert_eq!(told.extra, [("frame".to_owned(), "binary".to_owned())]);
    }

    #[test]
    fn a_source_takes_1024_messages_unless_told() {
        let config: SourceConfig = from_json(r#"{"datasource":"/a"}"#).unwrap();
        assert_eq!(config.buffer_length, 1024);
    }
}
