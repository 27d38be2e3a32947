//! `edgex`: events of the EdgeX message bus as rows, and rows as events, requests to add them, or
//! commands to devices. The bus (MQTT, NATS, Redis) is the connection's affair; here are envelopes,
//! events and readings.
//!
//! Source: `topic` or `datasource` is one topic filter or several with commas, in MQTT's form on every
//! bus. An envelope that is none, and an event without a usable reading, are refused: the host finds
//! the one message and puts it to the dead letters. Sink: to `topic`, or to
//! `<topicPrefix>/<profile>/<device>/<source>`; one message is one event. Defaults are eKuiper's.

mod cbor;
mod envelope;
mod event;
mod made;
mod pairs;
mod topic;

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use windlass_connector::messaging::{Client, PublishOptions, SubscribeOptions, Subscription};
use windlass_connector::{
    Batch, Columns, Descriptor, Error, Message, Outcome, Rejection, Schema, Sink, Slot, Source, log,
};

use made::{Fresh, Maker, MessageType, Version};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "edgex",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::PerRole {
            source: include_str!("../source.schema.json"),
            sink: include_str!("../sink.schema.json"),
        },
        slots: &[Slot::messaging("bus", "The EdgeX message bus.")],
    },
    source: EdgexSource,
    sink: EdgexSink,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceConfig {
    topic: Option<String>,
    datasource: Option<String>,
    #[serde(default = "most_per_read")]
    buffer_length: u32,
}

fn most_per_read() -> u32 {
    1024
}

/// Where eKuiper's rules get their events from unless told.
const STANDARD_TOPIC: &str = "edgex/rules-events";

#[derive(Debug)]
struct EdgexSource {
    subscription: Subscription,
    filters: Vec<String>,
    most: u32,
}

impl Source for EdgexSource {
    type Config = SourceConfig;

    fn open(config: SourceConfig, _resume: Option<String>) -> Result<Self, Error> {
        let filters = filters(&config);
        let client = Client::open("bus")?;
        Ok(Self {
            subscription: client.subscribe(&filters, &SubscribeOptions::default())?,
            filters,
            most: config.buffer_length,
        })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        let batch = self.subscription.receive(self.most, None)?;
        if batch.len() == 0 {
            return Ok(Outcome::batch(batch));
        }
        let correlations = batch.header(envelope::CORRELATION);
        let content_types = batch.header(envelope::CONTENT_TYPE);
        let columns = batch.columns();
        let mut rows = Vec::new();
        for (place, (payload, subject)) in each(&columns).enumerate() {
            let Some(subject) = topic::topic(&self.filters, subject) else {
                // A pattern of Redis brings more than was asked for.
                log::write(
                    log::Level::Debug,
                    &format!("{subject}: no filter asks for this topic"),
                );
                continue;
            };
            let header = |headers: &[String]| headers.get(place).cloned().unwrap_or_default();
            let (correlation, content_type) = (header(&correlations), header(&content_types));
            let read = envelope::open(payload, (&correlation, &content_type))
                .and_then(|opened| event::row(&opened.payload, &opened.correlation));
            // One that cannot be read is found by the host and put to the dead letters.
            let row = read.map_err(|why| Error::permanent("edgex", why))?;
            for why in row.left_out {
                log::write(log::Level::Warn, &format!("a reading is left out: {why}"));
            }
            rows.push(Message {
                payload: row.json,
                subject,
                headers: row.headers,
            });
        }
        Ok(Outcome::batch(Batch::new(&rows)))
    }
}

fn filters(config: &SourceConfig) -> Vec<String> {
    let given = config.topic.as_deref().or(config.datasource.as_deref());
    let filters: Vec<String> = given
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|filter| !filter.is_empty())
        .map(str::to_owned)
        .collect();
    if filters.is_empty() {
        vec![STANDARD_TOPIC.to_owned()]
    } else {
        filters
    }
}

/// Payload and subject of each message.
fn each(columns: &Columns) -> impl Iterator<Item = (&[u8], &str)> {
    let mut begin = 0;
    columns.ends.iter().enumerate().map(move |(place, end)| {
        let end = usize::try_from(*end).unwrap_or(usize::MAX);
        let payload = columns.payloads.get(begin..end).unwrap_or_default();
        begin = end;
        let of = columns.subject_of.get(place).copied().unwrap_or(0);
        let subject = usize::try_from(of)
            .ok()
            .and_then(|of| columns.subjects.get(of));
        (payload, subject.map_or("", String::as_str))
    })
}

/// Where eKuiper's events go unless told.
const STANDARD_SINK_TOPIC: &str = "application";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SinkConfig {
    /// As it was written: what holds a template is each message's subject.
    topic: Option<String>,
    topic_prefix: Option<String>,
    #[serde(default)]
    message_type: MessageType,
    #[serde(default)]
    envelope: Version,
    metadata: Option<String>,
    profile_name: Option<String>,
    device_name: Option<String>,
    source_name: Option<String>,
}

#[derive(Debug)]
struct EdgexSink {
    client: Client,
    maker: Maker,
    prefix: Option<String>,
    options: PublishOptions,
}

impl Sink for EdgexSink {
    type Config = SinkConfig;

    fn open(config: SinkConfig) -> Result<Self, Error> {
        let (maker, prefix, options) = sink(config)?;
        Ok(Self {
            client: Client::open("bus")?,
            maker,
            prefix,
            options,
        })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        let columns = batch.columns();
        let (mut messages, mut kept, mut rejections) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (payload, subject)) in (0_u32..).zip(each(&columns)) {
            match self.maker.make(payload, &mut Host) {
                Ok(made) => {
                    for why in &made.left_out {
                        log::write(log::Level::Warn, &format!("a field is left out: {why}"));
                    }
                    let subject = match &self.prefix {
                        Some(prefix) => format!("{}/{}", prefix.trim_end_matches('/'), made.path),
                        None => subject.to_owned(),
                    };
                    kept.push(index);
                    messages.push(Message {
                        payload: made.envelope,
                        subject,
                        headers: Vec::new(),
                    });
                }
                Err(why) => rejections.push(Error::permanent("row", why).at(index)),
            }
        }
        for mut rejection in self.client.publish(&Batch::new(&messages), &self.options)? {
            let place = usize::try_from(rejection.index)
                .ok()
                .and_then(|at| kept.get(at));
            rejection.index = place.copied().unwrap_or(rejection.index);
            rejections.push(rejection);
        }
        Ok(rejections)
    }
}

fn sink(config: SinkConfig) -> Result<(Maker, Option<String>, PublishOptions), Error> {
    let wrong = |text: &str| Error::misconfigured("config", text);
    if config.topic.is_some() && config.topic_prefix.is_some() {
        return Err(wrong("topic and topicPrefix exclude each other"));
    }
    if config.topic_prefix.is_some() && config.message_type == MessageType::Command {
        return Err(wrong(
            "topicPrefix: a command goes to a topic of its own, edgex/core/command/request/<device>/<command>/set",
        ));
    }
    for topic in [&config.topic, &config.topic_prefix].into_iter().flatten() {
        // What stands in a template is no part of the topic.
        if !topic.contains("{{") && topic.contains(['#', '+']) {
            return Err(wrong("topic: must not contain # or +"));
        }
    }
    let or = |given: Option<String>, standard: &str| {
        given
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| standard.to_owned())
    };
    let maker = Maker {
        message_type: config.message_type,
        version: config.envelope,
        metadata: config.metadata.filter(|name| !name.is_empty()),
        profile: or(config.profile_name, "ekuiperProfile"),
        device: or(config.device_name, "ekuiper"),
        // The host fills in the rule's id; outside of a rule there is none.
        source: or(config.source_name, "windlass"),
    };
    // With a prefix each message has a topic of its own, and so it has where the host renders it.
    let subject = match (&config.topic_prefix, config.topic) {
        (None, None) => Some(STANDARD_SINK_TOPIC.to_owned()),
        (_, topic) => topic.filter(|topic| !topic.contains("{{")),
    };
    let options = PublishOptions {
        subject,
        ..PublishOptions::default()
    };
    Ok((maker, config.topic_prefix, options))
}

/// Ids and the time, from the host.
struct Host;

impl Fresh for Host {
    /// Version 4 of RFC 9562, from the keys that each new hasher is given.
    fn uuid(&mut self) -> String {
        let [high, low] = [0_u64, 1].map(|salt| RandomState::new().hash_one(salt));
        let high = high & 0xffff_ffff_ffff_0fff | 0x4000;
        let low = low & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000;
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }

    fn now(&mut self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::{Kind, from_json};

    #[test]
    fn the_topic_goes_before_the_datasource_and_without_both_it_is_the_rules_events() {
        let of = |text| filters(&from_json::<SourceConfig>(text).unwrap());
        assert_eq!(of(r#"{"topic":"a/#, b","datasource":"c"}"#), ["a/#", "b"]);
        assert_eq!(of(r#"{"datasource":"c"}"#), ["c"]);
        assert_eq!(of("{}"), [STANDARD_TOPIC]);
    }

    #[test]
    fn a_sink_has_a_topic_or_a_prefix_and_the_names_of_ekuiper() {
        let of = |text| sink(from_json::<SinkConfig>(text).unwrap());
        let (maker, prefix, options) = of(r#"{"topic":"application"}"#).unwrap();
        assert_eq!(
            (maker.profile.as_str(), maker.device.as_str()),
            ("ekuiperProfile", "ekuiper")
        );
        assert_eq!(
            (prefix, options.subject.as_deref()),
            (None, Some("application"))
        );
        let (_, prefix, options) = of(r#"{"topicPrefix":"edgex/events"}"#).unwrap();
        assert_eq!(
            (prefix.as_deref(), options.subject),
            (Some("edgex/events"), None)
        );
        for (text, subject) in [
            ("{}", Some("application")),
            (r#"{"topic":"a/{{.b}}"}"#, None),
        ] {
            let (_, prefix, options) = of(text).unwrap();
            assert_eq!((prefix, options.subject.as_deref()), (None, subject));
        }
        for text in [
            r#"{"topic":"a","topicPrefix":"b"}"#,
            r#"{"topic":"{{.a}}","topicPrefix":"b"}"#,
            r##"{"topic":"a/#"}"##,
            r#"{"topicPrefix":"b","messageType":"command"}"#,
        ] {
            assert_eq!(of(text).unwrap_err().kind, Kind::Misconfigured, "{text}");
        }
    }

    #[test]
    fn an_id_is_a_uuid_of_version_4_and_never_the_same() {
        let (one, two) = (Host.uuid(), Host.uuid());
        assert_ne!(one, two);
        let parts: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert!(
            one[14..].starts_with('4') && "89ab".contains(&one[19..20]),
            "{one}"
        );
    }
}
