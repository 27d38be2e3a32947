//! `redis`: brings in what Redis channels and streams carry; publishes to them, and sets keys.
//!
//! Source: `datasource` (or `channels`, as eKuiper's `redissub` has it) are channels and patterns, or
//! with `group` the names of streams, read as a consumer of that group. Sink: `channel` publishes,
//! `stream` adds entries, `key` or `field` set keys or push to lists. The subject of each message is
//! the channel or key; what stands in `channel`, `stream` or `key` with `{{...}}` is rendered by the host.

mod keys;

use serde::Deserialize;
use windlass_connector::messaging::{Client, SubscribeOptions, Subscription};
use windlass_connector::{
    Batch, Descriptor, Error, Outcome, Rejection, Schema, Sink, Slot, Source,
};

use keys::{SinkConfig, Writer};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "redis",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::PerRole {
            source: include_str!("../source.schema.json"),
            sink: include_str!("../sink.schema.json"),
        },
        slots: &[Slot::messaging("server", "The Redis server.")],
    },
    source: RedisSource,
    sink: RedisSink,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceConfig {
    #[serde(default)]
    datasource: String,
    #[serde(default)]
    channels: Vec<String>,
    group: Option<String>,
    consumer: Option<String>,
    from: Option<String>,
    field: Option<String>,
    claim_idle: Option<String>,
    #[serde(default = "most_per_read")]
    buffer_length: u32,
}

fn most_per_read() -> u32 {
    1024
}

#[derive(Debug)]
struct RedisSource {
    subscription: Subscription,
    most: u32,
}

impl Source for RedisSource {
    type Config = SourceConfig;

    fn open(config: SourceConfig, _resume: Option<String>) -> Result<Self, Error> {
        let names = names(&config)?;
        let most = config.buffer_length;
        let options = options(config);
        Ok(Self {
            subscription: Client::open("server")?.subscribe(&names, &options)?,
            most,
        })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        Ok(Outcome::batch(self.subscription.receive(self.most, None)?))
    }
}

fn names(config: &SourceConfig) -> Result<Vec<String>, Error> {
    let listed = config.datasource.split(',').map(str::trim);
    let mut names: Vec<String> = listed
        .chain(config.channels.iter().map(String::as_str))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(Error::misconfigured(
            "config",
            "datasource: a channel or a stream is required (or channels: a list of them)",
        ));
    }
    Ok(names)
}

fn options(config: SourceConfig) -> SubscribeOptions {
    let given = [
        ("group", config.group),
        ("consumer", config.consumer),
        ("from", config.from),
        ("field", config.field),
        ("claimIdle", config.claim_idle),
    ];
    let extra = given
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    SubscribeOptions {
        qos: None,
        extra: extra.collect(),
    }
}

#[derive(Debug)]
struct RedisSink {
    client: Client,
    writer: Writer,
}

impl Sink for RedisSink {
    type Config = SinkConfig;

    fn open(config: SinkConfig) -> Result<Self, Error> {
        let writer = Writer::new(config)?;
        Ok(Self {
            client: Client::open("server")?,
            writer,
        })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        if !self.writer.looks_inside() {
            return self.client.publish(&batch, self.writer.plain());
        }
        let (runs, mut rejections) = self.writer.runs(&batch.columns());
        for run in runs {
            let messages = Batch::from_columns(&run.columns)?;
            for mut rejection in self.client.publish(&messages, &run.options)? {
                let place = usize::try_from(rejection.index)
                    .ok()
                    .and_then(|at| run.of.get(at));
                rejection.index = place.copied().unwrap_or(rejection.index);
                rejections.push(rejection);
            }
        }
        rejections.sort_by_key(|rejection| rejection.index);
        rejections.dedup_by_key(|rejection| rejection.index);
        Ok(rejections)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::{Kind, from_json};

    #[test]
    fn channels_come_from_both_properties_once_each() {
        let config: SourceConfig =
            from_json(r#"{"datasource":"b, a","channels":["a","c.*"]}"#).unwrap();
        assert_eq!(names(&config).unwrap(), ["a", "b", "c.*"]);
        let none: SourceConfig = from_json(r#"{"datasource":" ,"}"#).unwrap();
        assert_eq!(names(&none).unwrap_err().kind, Kind::Misconfigured);
    }

    #[test]
    fn only_what_is_given_is_asked_for() {
        let plain: SourceConfig = from_json(r#"{"datasource":"a"}"#).unwrap();
        assert!(options(plain).extra.is_empty());
        let group: SourceConfig =
            from_json(r#"{"datasource":"a","group":"g","from":"0"}"#).unwrap();
        let extra = options(group).extra;
        let wanted = [("group", "g"), ("from", "0")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(extra, wanted);
    }
}
