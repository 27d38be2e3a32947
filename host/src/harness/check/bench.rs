//! What the checks stand on: connections for every slot, a configuration with which the connector
//! opens, messages to be given, and the checks that sources and sinks have in common.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Finding, Promise};
use crate::connections::{HttpResponse, Interface, Rows, SqlValue};
use crate::error::{ConnectionError, ErrorKind};
use crate::harness::alone::{Alone, Counts, Sink, Source};
use crate::harness::properties;
use crate::harness::scripted::{Answer, Record, Script, Scripted, SqlAnswer};
use crate::interfaces::Grant;
use crate::message::{Batch, Message};
use crate::runtime::{GuestError, GuestLimits, Recycle};

pub(super) const OPEN: Promise = (
    "open",
    "it opens with a configuration that its schema allows",
    "let `open` take what the schema allows; where the schema cannot say what is needed, give a configuration with --config",
);

pub(super) const PROMISES: [Promise; 2] = [
    OPEN,
    (
        "without-grant",
        "without the connections that it needs it says denied or misconfigured",
        "hand on the error of `client.open`",
    ),
];

/// Handles of old batches that a guest may keep before it is replaced, in these checks.
pub(super) const KEPT_HANDLES: usize = 16;

/// A connector in one role, ready to be tried again and again.
#[derive(Clone, Debug)]
pub(super) struct Bench {
    alone: Alone,
    pub(super) is_source: bool,
    config: String,
    samples: Arc<[Bytes]>,
}

/// Connections for all slots.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) connections: Vec<Arc<Scripted>>,
    pub(super) record: Arc<Record>,
}

impl Rig {
    fn grants(&self) -> Arc<[Grant]> {
        self.connections.iter().map(Scripted::grant).collect()
    }

    /// Gives messages to every connection that has some.
    pub(super) fn give(&self, messages: &[Message]) {
        for connection in self
            .connections
            .iter()
            .filter(|one| one.interface() == Interface::Messaging)
        {
            connection.give(messages.to_vec());
        }
    }
}

/// What a connection of that interface answers when nothing is wrong.
fn willing(interface: Interface) -> Script {
    let mut script = Script::default();
    match interface {
        Interface::Messaging => {}
        Interface::Http => {
            let answer = HttpResponse {
                status: 200,
                headers: vec![("content-type".to_owned(), "application/json".to_owned())],
                body: Bytes::from_static(br#"[{"id":1,"value":21.5},{"id":2,"value":22}]"#),
                truncated: false,
            };
            script.http = vec![Answer::always(Ok(answer))];
        }
        Interface::Sql => {
            let row = |id: i64| {
                let name = SqlValue::Text(format!("name {id}"));
                vec![SqlValue::Integer(id), name, SqlValue::Real(21.5)]
            };
            let rows = |rows: Vec<Vec<SqlValue>>| SqlAnswer {
                rows: Rows {
                    columns: ["id", "name", "value"].map(str::to_owned).into(),
                    rows,
                    truncated: false,
                },
                changed: None,
            };
            script.sql = vec![
                Answer::once(Ok(rows((1..4).map(row).collect()))),
                Answer::always(Ok(rows(Vec::new()))),
            ];
        }
    }
    script
}

/// What a connection of that interface answers when it is down.
fn down(interface: Interface) -> Script {
    let gone = || ConnectionError::disconnected("check:down", "the connection is down");
    match interface {
        Interface::Messaging => Script {
            receive: Some(gone()),
            publish_always: Some(gone()),
            ..Script::default()
        },
        Interface::Http => Script {
            http: vec![Answer::always(Err(gone()))],
            ..Script::default()
        },
        Interface::Sql => Script {
            sql: vec![Answer::always(Err(gone()))],
            ..Script::default()
        },
    }
}

impl Bench {
    /// Looks for a configuration with which it opens. With it, a word on which one it was.
    pub(super) async fn find(
        alone: &Alone,
        role: &str,
        given: Option<String>,
        samples: &[Bytes],
    ) -> Result<(Self, String), String> {
        let schema = alone.connector().config_schema(role);
        let mut candidates = Vec::new();
        match given {
            Some(config) => candidates.push((config, "with the given configuration".to_owned())),
            None => {
                for all in [false, true] {
                    let made = properties::sample(schema, all);
                    let words = format!("with {}", Value::Object(made.clone()));
                    if let Ok(config) = properties::apply(alone.connector(), role, made) {
                        candidates.push((config, words));
                    }
                }
            }
        }
        let mut bench = Self {
            alone: alone.with_limits(GuestLimits {
                call_deadline: Duration::from_secs(5),
                ..alone.limits().clone()
            }),
            is_source: role == "source",
            config: String::new(),
            samples: samples.into(),
        };
        let mut failed =
            "no configuration can be made from its schema; give one with --config".to_owned();
        for (index, (config, words)) in candidates.into_iter().enumerate() {
            bench.config = config;
            let trying = bench.clone();
            let opened = alone.run(async move { trying.open_once(true).await }).await;
            match opened {
                Some(Ok(())) => return Ok((bench, words)),
                Some(Err(error)) if index == 0 => failed = format!("{words}: {error}"),
                Some(Err(_)) => {}
                None => failed = "the check itself failed; see the log".to_owned(),
            }
        }
        Err(failed)
    }

    async fn open_once(&self, granted: bool) -> Result<(), GuestError> {
        let rig = self.rig(willing);
        let grants = if granted { rig.grants() } else { Arc::new([]) };
        if self.is_source {
            let mut source = self.alone.source(self.config.clone(), grants);
            source.open(None).await?;
            source.close().await;
        } else {
            let mut sink = self.alone.sink(self.config.clone(), grants);
            sink.open().await?;
            sink.close().await;
        }
        Ok(())
    }

    fn rig(&self, script: fn(Interface) -> Script) -> Rig {
        let record = Arc::new(Record::default());
        let slots = &self.alone.connector().descriptor.slots;
        let connections = slots
            .iter()
            .map(|slot| Scripted::new(&slot.name, slot.interface, script(slot.interface), &record))
            .collect();
        Rig {
            connections,
            record,
        }
    }

    /// Connections that answer, or that are down.
    pub(super) fn rig_of(&self, up: bool) -> Rig {
        self.rig(if up { willing } else { down })
    }

    /// It needs connections.
    pub(super) fn has_slots(&self) -> bool {
        !self.alone.connector().descriptor.slots.is_empty()
    }

    /// It as a source, open.
    pub(super) async fn source(
        &self,
        rig: &Rig,
        resume: Option<String>,
    ) -> Result<Source, GuestError> {
        let mut source = self.alone.source(self.config.clone(), rig.grants());
        source.open(resume).await?;
        Ok(source)
    }

    /// It as a sink, open.
    pub(super) async fn sink(&self, rig: &Rig) -> Result<Sink, GuestError> {
        let mut sink = self.alone.sink(self.config.clone(), rig.grants());
        sink.open().await?;
        Ok(sink)
    }

    /// The same, replaced as soon as it keeps a few handles of batches that are over.
    pub(super) fn strict_on_handles(&self) -> Self {
        let limits = GuestLimits {
            recycle: Recycle {
                stale_batches: KEPT_HANDLES,
                ..Recycle::default()
            },
            ..self.alone.limits().clone()
        };
        Self {
            alone: self.alone.with_limits(limits),
            ..self.clone()
        }
    }

    /// Messages as they might come, numbered from `from`.
    pub(super) fn messages(&self, from: usize, count: usize) -> Vec<Message> {
        let message = |number: usize| {
            let given = self
                .samples
                .get(number.checked_rem(self.samples.len()).unwrap_or(0));
            let payload = given.cloned().unwrap_or_else(|| {
                let value = json!({ "id": number, "name": format!("sensor {number}"), "value": 21.5, "temperature": 20 + number % 7 });
                value.to_string().into()
            });
            Message::new(payload)
        };
        (from..from + count).map(message).collect()
    }

    /// For a sink: the same with a subject each, as the host would give them.
    pub(super) fn batch(&self, from: usize, count: usize) -> Batch {
        let mut messages = self.messages(from, count);
        for message in &mut messages {
            message.subject = "check/1".into();
        }
        Batch::from(messages)
    }

    /// The checks that both roles have.
    pub(super) async fn look(&self, name: &str) -> Option<Finding> {
        if name != "without-grant" {
            return None;
        }
        if !self.has_slots() {
            return Some(Finding::Skip("it needs no connection".to_owned()));
        }
        let required = self
            .alone
            .connector()
            .descriptor
            .slots
            .iter()
            .any(|slot| !slot.optional);
        Some(match self.open_once(false).await {
            Ok(()) if required => Finding::Fail("it opened all the same".to_owned()),
            Ok(()) => Finding::Pass("it works without".to_owned()),
            Err(GuestError::Said { error, .. })
                if matches!(error.kind, ErrorKind::Denied | ErrorKind::Misconfigured) =>
            {
                Finding::Pass(format!("{}: {}", error.kind, error.message))
            }
            Err(error) => Finding::Fail(words(&error)),
        })
    }
}

/// A failed call in words, with the kind where it has one.
pub(super) fn words(error: &GuestError) -> String {
    match error {
        GuestError::Said { error: said, .. } => format!("{error} ({})", said.kind),
        other => other.to_string(),
    }
}

/// Payloads that nobody expects.
pub(super) fn odd() -> Vec<(&'static str, Bytes)> {
    vec![
        ("an empty payload", Bytes::new()),
        (
            "a payload that is no UTF-8",
            Bytes::from_static(&[0xff, 0xfe, 0x00, 0xc3, 0x28]),
        ),
        ("a payload that is no JSON", Bytes::from_static(b"{\"a\": ")),
        (
            "JSON that is no object",
            Bytes::from_static(b"[1,null,\"x\"]"),
        ),
        (
            "JSON with surprising values",
            Bytes::from_static(br#"{"id":null,"value":1e308,"name":{"a":[]},"":""}"#),
        ),
    ]
}

/// How an error of kind `disconnected` should come back. `Ok`: it did not, and what came instead.
pub(super) fn handed_on(answer: Result<String, GuestError>) -> Finding {
    match answer {
        Err(GuestError::Said { error, .. }) if error.kind == ErrorKind::Disconnected => {
            Finding::Pass("disconnected comes back as disconnected".to_owned())
        }
        Err(error) => Finding::Fail(format!(
            "a connection said disconnected, and it says: {}",
            words(&error)
        )),
        Ok(instead) => Finding::Fail(format!("a connection said disconnected, and {instead}")),
    }
}

/// Whether memory has grown too much in so many calls: a little is borne by replacing the instance,
/// which must not happen all the time.
pub(super) fn grown(before: Counts, after: Counts, calls: u32, word: &str) -> Finding {
    const RARELY: u64 = 200;
    let replaced = after.for_memory.saturating_sub(before.for_memory);
    let kib = after.memory.saturating_sub(before.memory) / 1024;
    if replaced > 0 && u64::from(calls) / replaced < RARELY {
        return Finding::Fail(format!(
            "it was replaced {replaced} times for its memory in {calls} {word}"
        ));
    }
    Finding::Pass(match (replaced, kib) {
        _ if calls < 100 => {
            format!("{kib} KiB more after {calls} {word}, more could not be made here")
        }
        (0, 0) => format!("flat over {calls} {word}"),
        (0, kib) => format!(
            "{kib} KiB more after {calls} {word}: the host replaces the instance now and then"
        ),
        (replaced, _) => format!("replaced {replaced} times in {calls} {word}"),
    })
}
