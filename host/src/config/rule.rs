//! A rule's JSON as eKuiper's REST takes it, to types: names, options, actions. The query and the
//! actions' properties are checked elsewhere, by those who know them.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use super::node::{Kind, to_object};
use super::place::pointer_to;
use super::reader::{At, Reader};
use crate::names::unknown;

/// A rule: a query over a stream, and what happens with its result.
#[derive(Clone, Debug)]
pub struct RuleDef {
    /// Unique in the manifest.
    pub id: String,
    /// For people; empty if none was given.
    pub name: String,
    /// The query.
    pub sql: String,
    /// At least one, in the order of the manifest.
    pub actions: Vec<ActionDef>,
    /// How it runs.
    pub options: RuleOptions,
    /// False: known, but not started.
    pub triggered: bool,
    /// For grouping; no meaning here.
    pub tags: Vec<String>,
    /// eKuiper's version text; empty if none was given.
    pub version: String,
    /// Where it stands in the manifest, e.g. `/rules/0`; the query is at `…/sql`.
    pub pointer: String,
    /// As it was written. May hold secrets.
    pub json: Written,
}

/// A definition as it was written. Shows nothing of itself: it may hold secrets.
#[derive(Clone, PartialEq)]
pub struct Written(pub Value);

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written(..)")
    }
}

/// One sink of a rule.
#[derive(Clone)]
pub struct ActionDef {
    /// The connector's name.
    pub typ: String,
    /// Its properties, the common sink properties among them. May hold secrets.
    pub props: Map<String, Value>,
    /// Where its properties stand, e.g. `/rules/0/actions/0/mqtt`.
    pub pointer: String,
}

/// Shows the names of the properties, never their values.
impl fmt::Debug for ActionDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.props.keys().collect();
        f.debug_struct("ActionDef")
            .field("typ", &self.typ)
            .field("props", &names)
            .finish_non_exhaustive()
    }
}

/// What becomes of new messages when an action's disk queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// They wait upstream, unacknowledged.
    #[default]
    Block,
    /// The oldest are dropped and counted.
    DropOldest,
}

/// How a rule comes back after an error that stopped it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RestartStrategy {
    /// How often; 0: never.
    pub attempts: u32,
    /// Before the first attempt.
    pub delay: Duration,
    /// The wait grows by this factor.
    pub multiplier: f64,
    /// The longest wait.
    pub max_delay: Duration,
    /// Part of the wait that is random, 0 to 1.
    pub jitter_factor: f64,
}

impl Default for RestartStrategy {
    fn default() -> Self {
        Self {
            attempts: 0,
            delay: Duration::from_secs(1),
            multiplier: 2.0,
            max_delay: Duration::from_secs(30),
            jitter_factor: 0.1,
        }
    }
}

/// Where a rule's dead letters are forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetters {
    /// The id of a connection.
    pub connection: String,
    /// The topic there.
    pub topic: String,
    /// Level of the delivery: 0, 1 or 2.
    pub qos: u8,
}

/// A rule's options: eKuiper's names, and `overflow`, `diskQueueBytes` and `deadLetters` of our own.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleOptions {
    /// 0, 1 or 2, as written. What is acknowledged upstream does not depend on it.
    pub qos: u8,
    /// Messages in the memory queue of each action.
    pub buffer_length: usize,
    /// None: not given.
    pub restart_strategy: Option<RestartStrategy>,
    /// Fields that are null are sent too.
    pub send_nil_field: bool,
    /// What becomes of new messages when the disk queue is full.
    pub overflow: Overflow,
    /// Bytes of each action's disk queue; None: as `limits` says.
    pub disk_queue_bytes: Option<u64>,
    /// Where its dead letters go; None: they stay in the store.
    pub dead_letters: Option<DeadLetters>,
}

impl Default for RuleOptions {
    fn default() -> Self {
        Self {
            qos: 0,
            buffer_length: 1024,
            restart_strategy: None,
            send_nil_field: false,
            overflow: Overflow::Block,
            disk_queue_bytes: None,
            dead_letters: None,
        }
    }
}

pub(super) const RULE: &[&str] = &[
    "id",
    "name",
    "sql",
    "actions",
    "options",
    "triggered",
    "tags",
    "version",
    "temp",
];

pub(super) const OPTIONS: &[&str] = &[
    "qos",
    "bufferLength",
    "restartStrategy",
    "sendNilField",
    "overflow",
    "diskQueueBytes",
    "deadLetters",
];

pub(super) const DEAD_LETTERS: &[&str] = &["connectionSelector", "topic", "qos"];

/// Options that eKuiper knows and that change nothing here, and why.
pub(super) const WITHOUT_MEANING: &[(&str, &str)] = &[
    ("logFilename", "all logs go to stderr"),
    ("debug", "one level for all: --log"),
    (
        "sendError",
        "what cannot be read or written becomes a dead letter with its reason",
    ),
    ("sendMetaToSink", "select what is needed with meta(...)"),
    ("isEventTime", "the query has no windows"),
    ("lateTolerance", "the query has no windows"),
    (
        "concurrency",
        "several reads are in flight and settle in order",
    ),
    (
        "checkpointInterval",
        "checkpoints follow what has been delivered",
    ),
    ("cron", "rules are not scheduled: it runs always"),
    ("duration", "rules are not scheduled: it runs always"),
    (
        "cronDatetimeRange",
        "rules are not scheduled: it runs always",
    ),
    ("planOptimizeStrategy", "the query has one plan"),
    ("notifySub", "there is nobody to notify"),
    (
        "disableBufferFullDiscard",
        "a full queue never discards; see \"overflow\"",
    ),
    ("enableSaveStateBeforeStop", "the position is always saved"),
    ("forceExitTimeout", "a rule that stops drains for 10 s"),
    ("experiment", "it names eKuiper's own internals"),
];

pub(super) const RESTART: &[&str] = &[
    "attempts",
    "delay",
    "multiplier",
    "maxDelay",
    "jitterFactor",
];

/// One rule; None after a mistake that leaves nothing to be checked further.
pub(super) fn rule(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    id_from_key: Option<&str>,
) -> Option<RuleDef> {
    let entries = reader.mapping(at, "a rule")?;
    for entry in entries {
        if entry.key == "graph" {
            reader.wrong_key(
                &at.below(entry),
                "\"graph\" is not supported; write the rule as \"sql\"",
            );
        } else if !RULE.contains(&entry.key.as_str()) {
            reader.wrong_key(&at.below(entry), unknown("key of a rule", &entry.key, RULE));
        }
    }
    let id = reader.id(at, "a rule", id_from_key);
    let name = reader.optional_text(at, "name").unwrap_or_default();
    let sql = reader.required_text(at, "sql", "the query");
    let version = reader.optional_text(at, "version").unwrap_or_default();
    let triggered = reader.optional_bool(at, "triggered").unwrap_or(true);
    if reader.optional_bool(at, "temp") == Some(true) {
        reader.warn(
            &at.child("temp"),
            "\"temp\" changes nothing: every rule comes from the manifest",
        );
    }
    let tags = tags(reader, at);
    let options = match at.get("options") {
        Some(options) if !options.is_null() => rule_options(reader, &options),
        _ => RuleOptions::default(),
    };
    let actions = actions(reader, at);
    let id = id?;
    let mut json = at.node.to_value();
    if let Some(object) = json.as_object_mut() {
        object.insert("id".to_owned(), id.clone().into());
    }
    Some(RuleDef {
        id,
        json: Written(json),
        name,
        sql: sql?,
        actions: actions?,
        options,
        triggered,
        tags,
        version,
        pointer: at.pointer.clone(),
    })
}

fn tags(reader: &mut Reader<'_>, at: &At<'_>) -> Vec<String> {
    let Some(list) = at.get("tags").filter(|list| !list.is_null()) else {
        return Vec::new();
    };
    let Kind::List(nodes) = &list.node.kind else {
        reader.wrong(
            &list,
            format!(
                "\"tags\" must be a list of texts, found {}",
                list.node.what()
            ),
        );
        return Vec::new();
    };
    let mut tags = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        match node.text() {
            Some(tag) => tags.push(tag.to_owned()),
            None => {
                reader.wrong(
                    &list.item(index, node),
                    format!("a tag must be text, found {}", node.what()),
                );
            }
        }
    }
    tags
}

/// `[{mqtt: {...}}, {log: {}}]`: each key of each mapping is one action.
fn actions(reader: &mut Reader<'_>, rule: &At<'_>) -> Option<Vec<ActionDef>> {
    const SHAPE: &str = "a list like [{\"log\": {}}]";
    let Some(list) = rule.get("actions").filter(|list| !list.is_null()) else {
        reader.wrong(
            &rule.child("actions"),
            format!("a rule needs \"actions\": {SHAPE}"),
        );
        return None;
    };
    let nodes = match &list.node.kind {
        Kind::List(nodes) if !nodes.is_empty() => nodes,
        Kind::List(_) => {
            reader.wrong(&list, format!("\"actions\" is empty: a rule needs {SHAPE}"));
            return None;
        }
        _ => {
            reader.wrong(
                &list,
                format!("\"actions\" must be {SHAPE}, found {}", list.node.what()),
            );
            return None;
        }
    };
    let mut actions = Vec::with_capacity(nodes.len());
    let mut sound = true;
    for (index, node) in nodes.iter().enumerate() {
        let item = list.item(index, node);
        let entries = match &node.kind {
            Kind::Map(entries) if !entries.is_empty() => entries,
            _ => {
                let found = node.what();
                reader.wrong(
                    &item,
                    format!("an action must be a mapping from a connector's name to its properties, found {found}"),
                );
                sound = false;
                continue;
            }
        };
        for entry in entries {
            let below = item.below(entry);
            let props = match &entry.node.kind {
                Kind::Map(props) => to_object(props),
                Kind::Null => Map::new(),
                _ => {
                    let found = entry.node.what();
                    reader.wrong(
                        &below,
                        format!("the properties of an action must be a mapping, found {found}"),
                    );
                    sound = false;
                    continue;
                }
            };
            let pointer = pointer_to(&item.pointer, &entry.key);
            actions.push(ActionDef {
                typ: entry.key.clone(),
                props,
                pointer,
            });
        }
    }
    sound.then_some(actions)
}

fn rule_options(reader: &mut Reader<'_>, at: &At<'_>) -> RuleOptions {
    let mut options = RuleOptions::default();
    let Some(entries) = reader.mapping(at, "\"options\"") else {
        return options;
    };
    for entry in entries {
        let below = at.below(entry);
        match entry.key.as_str() {
            "qos" => {
                if let Some(qos) = reader.number(&below, 0, 2) {
                    options.qos = u8::try_from(qos).unwrap_or_default();
                }
            }
            "bufferLength" => {
                if let Some(length) = reader.number(&below, 1, 1_000_000) {
                    options.buffer_length = usize::try_from(length).unwrap_or(usize::MAX);
                }
            }
            "restartStrategy" => options.restart_strategy = restart(reader, &below),
            "sendNilField" => options.send_nil_field = reader.boolean(&below).unwrap_or_default(),
            "overflow" => match entry.node.text() {
                Some("block") => options.overflow = Overflow::Block,
                Some("drop-oldest") => options.overflow = Overflow::DropOldest,
                Some(other) => {
                    reader.wrong(
                        &below,
                        unknown("overflow", other, &["block", "drop-oldest"]),
                    );
                }
                None => {
                    let found = entry.node.what();
                    reader.wrong(
                        &below,
                        format!("\"overflow\" must be block or drop-oldest, found {found}"),
                    );
                }
            },
            "deadLetters" if below.is_null() => {}
            "deadLetters" => options.dead_letters = dead_letters(reader, &below),
            "diskQueueBytes" => options.disk_queue_bytes = reader.bytes(&below, 1 << 20),
            key => match WITHOUT_MEANING.iter().find(|(name, _)| *name == key) {
                Some((name, why)) => reader.warn(
                    &below,
                    format!("the option \"{name}\" changes nothing: {why}"),
                ),
                None => reader.wrong_key(&below, unknown("option", key, OPTIONS)),
            },
        }
    }
    if options.qos == 2 {
        reader.warn(
            &at.child("qos"),
            "qos 2 of a rule is treated as 1: what is read is delivered at least once",
        );
    }
    options
}

fn dead_letters(reader: &mut Reader<'_>, at: &At<'_>) -> Option<DeadLetters> {
    let entries = reader.mapping(at, "\"deadLetters\"")?;
    for entry in entries {
        if !DEAD_LETTERS.contains(&entry.key.as_str()) {
            let words = unknown("key of \"deadLetters\"", &entry.key, DEAD_LETTERS);
            reader.wrong_key(&at.below(entry), words);
        }
    }
    let connection = reader.required_text(at, "connectionSelector", "the id of a connection");
    let topic = reader.required_text(at, "topic", "where dead letters are published");
    let qos = match at.get("qos").filter(|qos| !qos.is_null()) {
        Some(qos) => u8::try_from(reader.number(&qos, 0, 2)?).ok()?,
        None => 1,
    };
    Some(DeadLetters {
        connection: connection?,
        topic: topic?,
        qos,
    })
}

fn restart(reader: &mut Reader<'_>, at: &At<'_>) -> Option<RestartStrategy> {
    let mut strategy = RestartStrategy::default();
    for entry in reader.mapping(at, "\"restartStrategy\"")? {
        let below = at.below(entry);
        match entry.key.as_str() {
            "attempts" => {
                if let Some(attempts) = reader.number(&below, 0, u64::from(u32::MAX)) {
                    strategy.attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
                }
            }
            "delay" => strategy.delay = reader.duration(&below).unwrap_or(strategy.delay),
            "maxDelay" => {
                strategy.max_delay = reader.duration(&below).unwrap_or(strategy.max_delay)
            }
            "multiplier" => {
                strategy.multiplier = reader
                    .real(&below, 1.0, 1000.0)
                    .unwrap_or(strategy.multiplier);
            }
            "jitterFactor" => {
                strategy.jitter_factor = reader
                    .real(&below, 0.0, 1.0)
                    .unwrap_or(strategy.jitter_factor);
            }
            key => reader.wrong_key(&below, unknown("key of \"restartStrategy\"", key, RESTART)),
        }
    }
    Some(strategy)
}
