//! `neuron`: samples of Neuron, the gateway of industrial protocols, and writes to its tags, over an nng
//! connection.
//!
//! Source: what Neuron sends is JSON, and stays as it is; where Neuron traces, 26 bytes go before it
//! (`0A CE`, 16 bytes of the trace, 8 of the span), and are taken off. Sink: each row is a write of its
//! own, in the form that Neuron reads; see `write`. Neuron answers nothing, and drops a write that it
//! cannot read without a word: what it is known to drop is rejected here instead.

use serde::Deserialize;
use windlass_connector::messaging::{Client, PublishOptions, SubscribeOptions, Subscription};
use windlass_connector::{
    Batch, Columns, Descriptor, Error, Outcome, Rejection, Schema, Sink, Slot, Source,
};

mod trace;
mod write;

use trace::untraced;
use write::{Form, Target, each_row};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "neuron",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::PerRole {
            source: include_str!("../source.schema.json"),
            sink: include_str!("../sink.schema.json"),
        },
        slots: &[Slot::messaging("neuron", "Where Neuron listens.")],
    },
    source: NeuronSource,
    sink: NeuronSink,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceConfig {
    #[serde(default = "most_per_read")]
    buffer_length: u32,
}

fn most_per_read() -> u32 {
    1024
}

#[derive(Debug)]
struct NeuronSource {
    subscription: Subscription,
    most: u32,
}

impl Source for NeuronSource {
    type Config = SourceConfig;

    fn open(config: SourceConfig, _resume: Option<String>) -> Result<Self, Error> {
        let subscription = Client::open("neuron")?.subscribe(&[], &SubscribeOptions::default())?;
        Ok(Self {
            subscription,
            most: config.buffer_length,
        })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        let batch = self.subscription.receive(self.most, None)?;
        Ok(Outcome::batch(match plain(&batch.columns()) {
            None => batch,
            Some(plain) => batch.with_payloads(&Batch::from_columns(&plain)?)?,
        }))
    }
}

/// The messages without their traces. None: none has one.
fn plain(columns: &Columns) -> Option<Columns> {
    columns.each().find_map(untraced)?;
    let mut plain = Columns::empty();
    for payload in columns.each() {
        let payload = untraced(payload).unwrap_or(payload);
        plain.payloads.extend_from_slice(payload);
        plain.end_message();
    }
    Some(plain)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SinkConfig {
    node_name: Option<String>,
    group_name: Option<String>,
    /// As it was written. A node and a group are required, so that one that is not here is rendered;
    /// of these that could not be told otherwise, and a message may bring a header of the same name.
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    raw: bool,
}

impl SinkConfig {
    /// The host renders the tags of each message.
    fn renders_tags(&self) -> bool {
        self.tags.iter().any(|tag| tag.contains("{{"))
    }
}

#[derive(Debug)]
struct NeuronSink {
    client: Client,
    config: SinkConfig,
}

impl Sink for NeuronSink {
    type Config = SinkConfig;

    fn open(config: SinkConfig) -> Result<Self, Error> {
        Ok(Self {
            client: Client::open("neuron")?,
            config,
        })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        let columns = batch.columns();
        let targets = Targets::new(&self.config, &batch);
        let (mut made, mut from, mut rejections) = (Columns::empty(), Vec::new(), Vec::new());
        for (index, payload) in (0_u32..).zip(columns.each()) {
            let before = (made.payloads.len(), made.ends.len());
            let written = targets.of(index).and_then(|form| {
                each_row(payload, &form, |write| {
                    made.payloads.extend_from_slice(write);
                    made.end_message();
                })
            });
            match written {
                Ok(()) => from.resize(made.ends.len(), index),
                Err(why) => {
                    // Of a message that cannot be written nothing is.
                    made.payloads.truncate(before.0);
                    made.ends.truncate(before.1);
                    rejections.push(Error::permanent("neuron", why).at(index));
                }
            }
        }
        if from.is_empty() {
            return Ok(rejections);
        }
        let writes = Batch::from_columns(&made)?;
        let refused = self.client.publish(&writes, &PublishOptions::default())?;
        for Rejection { index, error } in refused {
            let place = usize::try_from(index)
                .ok()
                .and_then(|place| from.get(place));
            let index = place.copied().unwrap_or(index);
            if rejections.iter().all(|known| known.index != index) {
                rejections.push(error.at(index));
            }
        }
        Ok(rejections)
    }
}

/// Where each message of a batch is to be written: as configured, or as the host has rendered it into
/// the message's headers.
struct Targets<'a> {
    config: &'a SinkConfig,
    nodes: Vec<String>,
    groups: Vec<String>,
    tags: Vec<String>,
}

impl<'a> Targets<'a> {
    fn new(config: &'a SinkConfig, batch: &Batch) -> Self {
        let rendered = |configured: bool, name: &str| {
            if configured || config.raw {
                Vec::new()
            } else {
                batch.header(name)
            }
        };
        Self {
            nodes: rendered(config.node_name.is_some(), "nodeName"),
            groups: rendered(config.group_name.is_some(), "groupName"),
            tags: rendered(!config.renders_tags(), "tags"),
            config,
        }
    }

    fn of(&self, index: u32) -> Result<Form, String> {
        if self.config.raw {
            return Ok(Form::Raw);
        }
        let at = |rendered: &[String]| {
            let place = usize::try_from(index).unwrap_or(usize::MAX);
            let text = rendered.get(place).filter(|text| !text.is_empty());
            text.cloned()
        };
        let name = |configured: &Option<String>, rendered: &[String], property: &str| {
            let name = configured.clone().or_else(|| at(rendered));
            name.ok_or_else(|| format!("{property} is empty for this row"))
        };
        let tags = if self.config.renders_tags() {
            let list = at(&self.tags).ok_or("tags is empty for this row")?;
            serde_json::from_str(&list).map_err(|error| format!("tags: {error}"))?
        } else {
            self.config.tags.clone()
        };
        Ok(Form::Tags(Target {
            node: name(&self.config.node_name, &self.nodes, "nodeName")?,
            group: name(&self.config.group_name, &self.groups, "groupName")?,
            tags,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::from_json;

    #[test]
    fn a_trace_is_taken_off_and_nothing_else_is() {
        let traced = [&[0x0A, 0xCE][..], &[7; 24], b"{}"].concat();
        assert_eq!(untraced(&traced), Some(&b"{}"[..]));
        for payload in [&b"{}"[..], b"", &traced[..26], &[0x0A; 30]] {
            assert_eq!(untraced(payload), None);
        }
        let mut columns = Columns::empty();
        for payload in [&b"[1]"[..], &traced] {
            columns.payloads.extend_from_slice(payload);
            columns.end_message();
        }
        let made = plain(&columns).unwrap();
        assert_eq!(made.each().collect::<Vec<_>>(), [&b"[1]"[..], b"{}"]);
        columns.ends.truncate(1);
        assert!(plain(&columns).is_none());
    }

    #[test]
    fn names_come_from_the_configuration_or_from_what_was_rendered() {
        let text = r#"{"nodeName":"plc","tags":["{{.x}}","b"]}"#;
        let config: SinkConfig = from_json(text).unwrap();
        let targets = Targets {
            config: &config,
            nodes: Vec::new(),
            groups: vec!["g1".to_owned(), String::new(), "g3".to_owned()],
            tags: vec![r#"["a","b"]"#.to_owned(); 2],
        };
        let Ok(Form::Tags(target)) = targets.of(0) else {
            panic!("tags")
        };
        assert_eq!((&*target.node, &*target.group), ("plc", "g1"));
        assert_eq!(target.tags, ["a", "b"]);
        assert!(targets.of(1).is_err_and(|why| why.contains("groupName")));
        // Nothing is rendered: not all columns.
        assert!(targets.of(2).is_err_and(|why| why.contains("tags")));
        // Headers that a message came with say nothing where nothing is rendered.
        for (given, wanted) in [("", &[][..]), (r#","tags":["c"]"#, &["c"])] {
            let text = format!(r#"{{"nodeName":"plc","groupName":"g"{given}}}"#);
            let config: SinkConfig = from_json(&text).unwrap();
            let targets = Targets {
                config: &config,
                nodes: Vec::new(),
                groups: Vec::new(),
                tags: vec![r#"{"floor":"2"}"#.to_owned()],
            };
            let Ok(Form::Tags(target)) = targets.of(0) else {
                panic!("tags")
            };
            assert_eq!(target.tags, wanted);
        }
        let raw: SinkConfig = from_json(r#"{"raw":true}"#).unwrap();
        let targets = Targets {
            config: &raw,
            nodes: Vec::new(),
            groups: Vec::new(),
            tags: Vec::new(),
        };
        assert!(matches!(targets.of(0), Ok(Form::Raw)));
    }
}
