//! `httppush`: brings in what others push by HTTP to a path of the host's data port. No payload enters
//! the sandbox.
//!
//! `datasource` is the path; it is the subject of each message. One read takes what has arrived, up to
//! `bufferLength`. When a push is answered, and what, is the host's business.

use serde::Deserialize;
use windlass_connector::messaging::{Client, SubscribeOptions, Subscription};
use windlass_connector::{Descriptor, Error, Outcome, Schema, Slot, Source};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "httppush",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::One(include_str!("../source.schema.json")),
        slots: &[Slot::messaging("port", "Where messages are pushed to.")],
    },
    source: PushSource,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceConfig {
    datasource: String,
    method: Option<String>,
    #[serde(default = "most_per_read")]
    buffer_length: u32,
}

fn most_per_read() -> u32 {
    1024
}

#[derive(Debug)]
struct PushSource {
    subscription: Subscription,
    most: u32,
}

impl Source for PushSource {
    type Config = SourceConfig;

    fn open(config: SourceConfig, _resume: Option<String>) -> Result<Self, Error> {
        let options = options(&config);
        let subscription = Client::open("port")?.subscribe(&[config.datasource], &options)?;
        Ok(Self {
            subscription,
            most: config.buffer_length,
        })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        Ok(Outcome::batch(self.subscription.receive(self.most, None)?))
    }
}

fn options(config: &SourceConfig) -> SubscribeOptions {
    let method = config.method.as_ref();
    SubscribeOptions {
        extra: method
            .map(|method| ("method".to_owned(), method.clone()))
            .into_iter()
            .collect(),
        ..SubscribeOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::from_json;

    #[test]
    fn the_method_is_asked_for_only_where_it_is_given() {
        let plain: SourceConfig = from_json(r#"{"datasource":"/a"}"#).unwrap();
        assert!(options(&plain).extra.is_empty());
        assert_eq!(plain.buffer_length, 1024);
        let put: SourceConfig = from_json(r#"{"datasource":"/a","method":"PUT"}"#).unwrap();
        assert_eq!(
            options(&put).extra,
            [("method".to_owned(), "PUT".to_owned())]
        );
    }
}
