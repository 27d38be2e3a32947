//! What the host shows of itself at one moment: plain rows, for the command line, for metrics, for
//! REST. Holds no secret; knows nothing of who made it or who shows it.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::config::ManifestError;

mod flat;

/// Everything at one moment.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// All connections, named ones first, each group by id.
    pub connections: Vec<ConnectionRow>,
    /// All rules, in the order of the manifest.
    pub rules: Vec<RuleRow>,
    /// The newest results of queries, oldest first.
    pub rows: Vec<Row>,
    /// Where the data port listens; None: it does not.
    pub push: Option<String>,
    /// What all disk queues have together, and what is left of their disk.
    pub disk: DiskRow,
    /// What has become of dead letters since the host started.
    pub letters: LettersRow,
}

/// All disk queues together, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskRow {
    /// What they have.
    pub used: u64,
    /// What they may have.
    pub max: u64,
    /// What is free on their disk; None: not known.
    pub free: Option<u64>,
    /// What they leave free there, for the store.
    pub reserve: u64,
}

/// Dead letters that are gone, since the host started.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LettersRow {
    /// Removed for their age.
    pub expired: u64,
    /// Forwarded, and removed with that.
    pub forwarded: u64,
}

impl Snapshot {
    /// The present states as if each had just been entered, for somebody who begins to listen.
    #[must_use]
    pub fn states(&self) -> Vec<Change> {
        let connections = self.connections.iter().map(|row| Change::Connection {
            id: row.id.clone(),
            status: row.status.clone(),
            err: row.err.clone(),
            warnings: row.warnings.clone(),
        });
        let rules = self.rules.iter().map(|row| Change::Rule {
            id: row.id.clone(),
            status: row.status.clone(),
            message: row.message.clone(),
        });
        connections.chain(rules).collect()
    }
}

/// One connection.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionRow {
    /// Its id in its tenant.
    pub id: String,
    /// Its type.
    pub typ: String,
    /// Made by the user, not by a rule.
    pub is_named: bool,
    /// `connected`, `connecting` or `disconnected`.
    pub status: String,
    /// The same as a number: 1, 0, -1.
    pub metric: i8,
    /// Why it is not up; empty while it is.
    pub err: String,
    /// In this status since, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Attempts to dial since it was last up.
    pub attempts: u64,
    /// When it is dialled next, milliseconds since the Unix epoch; None: not waiting.
    pub next_attempt_ms: Option<u64>,
    /// How often it came up.
    pub sessions: u64,
    /// Messages received.
    pub messages_in: u64,
    /// Messages that the other side has taken.
    pub messages_out: u64,
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes sent.
    pub bytes_out: u64,
    /// Received messages for which no taker was there.
    pub untaken: u64,
    /// Received messages dropped that promised nothing.
    pub dropped: u64,
    /// Received messages refused.
    pub refused: u64,
    /// Its circuit breaker: 0 closed, 1 half open, 2 open; None: its type has none.
    pub circuit: Option<i8>,
    /// How often that has opened.
    pub circuit_opened: u64,
    /// Ids of the rules that use it.
    pub users: Vec<String>,
    /// What should be looked at though it works.
    pub warnings: Vec<String>,
}

/// One rule.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleRow {
    /// Its id in its tenant.
    pub id: String,
    /// `running`, `stopped`, `starting`, `stopping`, `stopped by error`.
    pub status: String,
    /// Why, where it is stopped or held up.
    pub message: String,
    /// Messages read.
    pub records_in: u64,
    /// Messages that its actions have delivered.
    pub records_out: u64,
    /// Messages that the query let pass, for the first action to see.
    pub selected: u64,
    /// Messages in the memory queues of its actions.
    pub queued: u64,
    /// Messages in the disk queues of its actions.
    pub disk_messages: u64,
    /// Bytes in the disk queues of its actions.
    pub disk_bytes: u64,
    /// Dead letters that it has made since the host started.
    pub dead_letters: u64,
    /// What should be looked at though it works.
    pub warnings: Vec<String>,
    /// Its source, its query and its actions, in the order of the way of a message.
    pub operators: Vec<OperatorRow>,
    /// The flat metrics as another host has said them; None: [`RuleRow::metrics`] makes them.
    #[serde(skip)]
    pub metrics: Option<Map<String, Value>>,
}

impl RuleRow {
    /// The counters under eKuiper's flat names, `source_demo_0_records_in_total` and so on. Made when
    /// they are asked for: for many rules they are large beside the rows that they are made from.
    #[must_use]
    pub fn metrics(&self) -> Cow<'_, Map<String, Value>> {
        match &self.metrics {
            Some(said) => Cow::Borrowed(said),
            None => Cow::Owned(flat::flat(&self.operators)),
        }
    }
}

/// One step of a rule. Times are in milliseconds since the Unix epoch, 0 for never.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorRow {
    /// `source`, `op` or `sink`.
    pub kind: &'static str,
    /// The stream, `query`, or the action: `<type>_<place>`.
    pub name: String,
    /// Further names under which eKuiper shows a source: `<connection>/<datasource>`.
    pub aliases: Vec<String>,
    /// Messages that came in.
    pub records_in: u64,
    /// Messages that went on.
    pub records_out: u64,
    /// Messages that are done with.
    pub processed: u64,
    /// Microseconds from read to settled, of the last read that settled.
    pub latency_us: u64,
    /// Messages that wait in memory.
    pub buffered: u64,
    /// When it last had something to do.
    pub last_invocation_ms: u64,
    /// Failures.
    pub exceptions: u64,
    /// The last of them.
    pub last_exception: String,
    /// When that was.
    pub last_exception_ms: u64,
    /// Comparisons and functions on values of the wrong type; of a query alone.
    pub type_errors: u64,
    /// The lowest status of its connections; None: a query.
    pub link: Option<LinkRow>,
    /// What its reads wait for; of a source alone.
    pub settlement: Option<SettlementRow>,
    /// Its queues; of an action alone.
    pub queue: Option<QueueRow>,
    /// What its connector costs; None: a query.
    pub guest: Option<GuestRow>,
}

/// The state of an operator's connections together.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkRow {
    /// The lowest status: 1, 0, -1. Without any connection: 1.
    pub metric: i8,
    /// When it last came up.
    pub last_connected_ms: Option<u64>,
    /// When it was last lost.
    pub last_disconnected_ms: Option<u64>,
    /// When it was last tried.
    pub last_try_ms: Option<u64>,
    /// Why it is not up.
    pub err: String,
}

/// How a source's reads become final.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SettlementRow {
    /// Reads that are not final.
    pub open_reads: u64,
    /// How long the oldest of them has waited, in milliseconds; None: none waits.
    pub oldest_ms: Option<u64>,
    /// Microseconds from read to final, of all reads together.
    pub sum_us: u64,
    /// Reads by the time they took: the upper bound in seconds, and how many were below it and not
    /// below the one before. The last bound is infinite.
    pub times: Vec<(f64, u64)>,
}

/// What waits for an action.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueRow {
    /// How long the oldest message in memory has waited, in milliseconds; None: none waits.
    pub oldest_ms: Option<u64>,
    /// Messages on disk.
    pub disk_messages: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Messages moved to disk.
    pub spilled: u64,
    /// Messages dropped for want of room.
    pub dropped: u64,
    /// Messages on disk dropped because they were too old (`maxDiskAge`).
    pub expired: u64,
    /// Messages on disk that are missing, because the disk queue was damaged.
    pub lost: u64,
    /// Files of the disk queue that were no use and got another name.
    pub set_aside: u64,
    /// Messages left out as duplicates.
    pub duplicates: u64,
    /// Dead letters since the rule started.
    pub dead_letters: u64,
    /// Why upstream waits for it, while it does.
    pub blocked: Option<String>,
}

/// What a connector's instances have cost since the rule started.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestRow {
    /// Calls.
    pub calls: u64,
    /// Calls that ended in a trap.
    pub traps: u64,
    /// Calls that took too long.
    pub overtime: u64,
    /// Instances made.
    pub instances: u64,
    /// Bytes of memory of the present instance.
    pub memory_bytes: u64,
    /// Nanoseconds on the processor.
    pub cpu_ns: u64,
    /// Nanoseconds that calls have waited.
    pub wait_ns: u64,
}

/// One result of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The rule's id.
    pub rule: String,
    /// The payload as text, cut short.
    pub text: String,
}

/// A change of state, as it happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum Change {
    /// A connection's status, or the reason for it.
    Connection {
        /// Its id.
        id: String,
        /// `connected`, `connecting` or `disconnected`.
        status: String,
        /// Why it is not up; empty while it is.
        err: String,
        /// What should be looked at though it works.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    },
    /// A rule's status, or the reason for it.
    Rule {
        /// Its id.
        id: String,
        /// As in [`RuleRow::status`].
        status: String,
        /// Why.
        message: String,
    },
    /// Changes that came faster than anybody could be told: the present states say what is so now.
    Missed {
        /// So many.
        missed: u64,
    },
}

impl Change {
    /// What changed: the word that stands in `event`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connection { .. } => "connection",
            Self::Rule { .. } => "rule",
            Self::Missed { .. } => "missed",
        }
    }

    /// Whose state it is; empty: nobody's alone.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Connection { id, .. } | Self::Rule { id, .. } => id,
            Self::Missed { .. } => "",
        }
    }
}

/// What a check of a manifest found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Checked {
    /// What keeps it from starting.
    pub errors: Vec<ManifestError>,
    /// What should be looked at.
    pub warnings: Vec<ManifestError>,
    /// The connections that were tried, if that was asked for.
    pub dialled: Vec<Dialled>,
}

/// One connection that was tried.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dialled {
    /// Its id.
    pub id: String,
    /// Its type.
    pub typ: String,
    /// Why it cannot be reached; None: it can.
    pub err: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// What a connector's file says of itself.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// The name it gives itself.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One sentence.
    pub description: String,
    /// Size of the component in bytes.
    pub bytes: u64,
    /// `source`, `sink` or both.
    pub roles: Vec<String>,
    /// The connections it needs.
    pub slots: Vec<SlotRow>,
    /// Interfaces it imports, with their versions.
    pub imports: Vec<String>,
    /// The JSON Schema of its configuration, as text.
    pub config_schema: String,
}

/// A connection that a connector needs.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Slot)]
pub struct SlotRow {
    /// Its name.
    pub name: String,
    /// `messaging`, `http` or `sql`.
    pub interface: String,
    /// The connector can work without it.
    pub optional: bool,
    /// What it is for.
    pub description: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_one_json_object_each_with_the_words_of_the_manual() {
        let change = Change::Connection {
            id: "plant".into(),
            status: "connected".into(),
            err: String::new(),
            warnings: Vec::new(),
        };
        assert_eq!(
            serde_json::to_string(&change).unwrap(),
            r#"{"event":"connection","id":"plant","status":"connected","err":""}"#
        );
        let change = Change::Rule {
            id: "hot".into(),
            status: "running".into(),
            message: String::new(),
        };
        assert_eq!(
            serde_json::to_string(&change).unwrap(),
            r#"{"event":"rule","id":"hot","status":"running","message":""}"#
        );
    }
}
