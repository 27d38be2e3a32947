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

use keys::{Run, SinkConfig, Writer};

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
        for (place, run) in runs.iter().enumerate() {
            let messages = Batch::from_columns(&run.columns)?;
            let rejected = match self.client.publish(&messages, &run.options) {
                Ok(rejected) => rejected,
                Err(error) if place == 0 => return Err(error),
                // What earlier runs have written must not come again.
                Err(error) => {
                    rejections.extend(not_written(runs.get(place..).unwrap_or_default(), &error));
                    break;
                }
            };
            for mut rejection in rejected {
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

/// A rejection for each message with a row in these runs.
fn not_written<'a>(runs: &'a [Run], error: &'a Error) -> impl Iterator<Item = Rejection> + 'a {
    let messages = runs.iter().flat_map(|run| &run.of);
    messages.map(|index| error.clone().at(*index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::{Columns, Kind, from_json};

    #[test]
    fn channels_come_from_both_properties_once_each() {
        let config: SourceConfig =
            from_json(r#"{"datasource":"b, a","channels":["a","c.*"]}"#).unwrap();
        assert_eq!(names(&config).unwrap(), ["a", "b", "c.*"]);
        let none: SourceConfig = from_json(r#"{"datasource":" ,"}"#).unwrap();
        assert_eq!(names(&none).unwrap_err().kind, Kind::Misconfigured);
    }

    #[test]
    fn after_an_error_only_the_messages_of_that_run_and_later_ones_are_rejected() {
        let config = r#"{"key":"k","dataType":"list","rowkindField":"do"}"#;
        let writer = Writer::new(from_json(config).unwrap()).unwrap();
        let payloads = [r#"{"n":0}"#, r#"{"do":"delete"}"#, r#"{"n":2}"#];
        let mut columns = Columns {
            payloads: Vec::new(),
            ends: Vec::new(),
            subjects: Vec::new(),
            subject_of: Vec::new(),
        };
        for payload in payloads {
            columns.payloads.extend_from_slice(payload.as_bytes());
            let end = u32::try_from(columns.payloads.len()).unwrap();
            columns.ends.push(end);
        }
        let (runs, rejections) = writer.runs(&columns);
        assert_eq!((runs.len(), rejections.len()), (3, 0));
        let error = Error::transient("timeout", "no answer");
        let rejected: Vec<u32> = not_written(&runs[1..], &error)
            .map(|one| one.index)
            .collect();
        assert_eq!(rejected, [1, 2]);
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
