//! What a running host shows: changes as they happen and a snapshot every second, as JSON lines, as
//! plain lines, or as a table that redraws itself (`table.rs`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::output::{plain, say, say_json, size};
use crate::snapshot::{Change, ConnectionRow, DiskRow, LettersRow, Row, RuleRow, Snapshot};

/// Results of a query that are kept to be shown.
pub(super) const ROWS: usize = 16;

/// One way of showing.
pub(super) trait View: Send {
    /// REST is served there.
    fn listening(&mut self, address: SocketAddr) -> io::Result<()>;
    /// A state changed.
    fn change(&mut self, change: &Change) -> io::Result<()>;
    /// A second has passed.
    fn tick(&mut self, snapshot: &Snapshot) -> io::Result<()>;
    /// A command that can be tried from now on.
    fn hint(&mut self, command: &str) -> io::Result<()>;
    /// The host begins to stop.
    fn stopping(&mut self) -> io::Result<()>;
    /// It has stopped; the last snapshot before that.
    fn end(&mut self, snapshot: &Snapshot) -> io::Result<()>;
}

/// One JSON object per line on stdout.
#[derive(Debug, Default)]
pub(super) struct JsonView;

impl View for JsonView {
    fn listening(&mut self, address: SocketAddr) -> io::Result<()> {
        say_json(&json!({ "event": "listening", "rest": address.to_string() }))
    }

    fn change(&mut self, change: &Change) -> io::Result<()> {
        say_json(change)
    }

    fn tick(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        say_json(&metrics(snapshot))
    }

    fn hint(&mut self, command: &str) -> io::Result<()> {
        say_json(&json!({ "event": "hint", "command": command }))
    }

    fn stopping(&mut self) -> io::Result<()> {
        say_json(&json!({ "event": "stopping" }))
    }

    fn end(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.tick(snapshot)?;
        say_json(&json!({ "event": "stopped" }))
    }
}

/// Counters of all rules and connections by id, with the newest rows. Written row by row: a host of
/// many rules says this every second, and the whole of it in memory is more than its rules are.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metrics<'a> {
    event: &'static str,
    at_ms: u64,
    #[serde(serialize_with = "rules_by_id")]
    rules: &'a [RuleRow],
    #[serde(serialize_with = "connections_by_id")]
    connections: &'a [ConnectionRow],
    rows: &'a [Row],
    push: Option<&'a str>,
    disk: &'a DiskRow,
    letters: &'a LettersRow,
}

/// A rule's row with its flat metrics.
#[derive(Serialize)]
struct WithMetrics<'a> {
    #[serde(flatten)]
    row: &'a RuleRow,
    metrics: Cow<'a, Map<String, Value>>,
}

fn metrics(snapshot: &Snapshot) -> Metrics<'_> {
    Metrics {
        event: "metrics",
        at_ms: snapshot.at_ms,
        rules: &snapshot.rules,
        connections: &snapshot.connections,
        rows: &snapshot.rows,
        push: snapshot.push.as_deref(),
        disk: &snapshot.disk,
        letters: &snapshot.letters,
    }
}

fn rules_by_id<S: Serializer>(rules: &&[RuleRow], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(rules.iter().map(|row| {
        let metrics = row.metrics();
        (&row.id, WithMetrics { row, metrics })
    }))
}

fn connections_by_id<S: Serializer>(rows: &&[ConnectionRow], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(rows.iter().map(|row| (&row.id, row)))
}

/// Plain lines on stdout: states as they change, counters every few seconds, new rows.
#[derive(Debug)]
pub(super) struct LinesView {
    ticks: u64,
    every: u64,
    rows: bool,
    shown: RowsShown,
}

impl LinesView {
    /// Counters every so many seconds; with or without the rows.
    pub(super) fn new(every: u64, rows: bool) -> Self {
        Self {
            ticks: 0,
            every: every.max(1),
            rows,
            shown: RowsShown::default(),
        }
    }
}

impl View for LinesView {
    fn listening(&mut self, address: SocketAddr) -> io::Result<()> {
        say(&format!("listening   REST on {address}"))
    }

    fn change(&mut self, change: &Change) -> io::Result<()> {
        say(&change_line(change))
    }

    fn tick(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.ticks += 1;
        if self.rows {
            for row in self.shown.new_ones(&snapshot.rows) {
                say(&format!(
                    "row         {}  {}",
                    row.rule,
                    plain(&row.text, 160)
                ))?;
            }
        }
        if self.ticks.is_multiple_of(self.every) {
            for rule in &snapshot.rules {
                say(&rule_line(rule))?;
            }
        }
        Ok(())
    }

    fn hint(&mut self, command: &str) -> io::Result<()> {
        say(&format!("try         {command}"))
    }

    fn stopping(&mut self) -> io::Result<()> {
        say(
            "stopping: what is under way is delivered or kept, for 10 s at most; Ctrl-C again ends at once",
        )
    }

    fn end(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        for connection in &snapshot.connections {
            say(&connection_line(connection))?;
        }
        for rule in &snapshot.rules {
            say(&rule_line(rule))?;
        }
        say("stopped")
    }
}

fn change_line(change: &Change) -> String {
    match change {
        Change::Connection {
            id,
            status,
            err,
            warnings,
        } => {
            let reason = if err.is_empty() {
                warnings.join("; ")
            } else {
                err.clone()
            };
            with_reason(format!("connection  {id}  {status}"), &reason)
        }
        Change::Rule {
            id,
            status,
            message,
        } => with_reason(format!("rule        {id}  {status}"), message),
        Change::Missed { missed } => format!("{missed} changes were too quick to be shown"),
    }
}

fn with_reason(line: String, reason: &str) -> String {
    if reason.is_empty() {
        line
    } else {
        format!("{line}: {}", plain(reason, 400))
    }
}

fn connection_line(row: &ConnectionRow) -> String {
    let line = format!(
        "connection  {} ({})  {}  in {}  out {}",
        row.id, row.typ, row.status, row.messages_in, row.messages_out
    );
    with_reason(line, &row.err)
}

fn rule_line(rule: &RuleRow) -> String {
    let mut line = format!(
        "rule        {}  {}  read {}  selected {}  delivered {}",
        rule.id, rule.status, rule.records_in, rule.selected, rule.records_out
    );
    for (count, word) in [(rule.queued, "queued"), (rule.dead_letters, "dead letters")] {
        if count > 0 {
            line.push_str(&format!("  {word} {count}"));
        }
    }
    if rule.disk_messages > 0 {
        line.push_str(&format!(
            "  on disk {} ({})",
            rule.disk_messages,
            size(rule.disk_bytes)
        ));
    }
    with_reason(line, &rule.message)
}

/// Tells new rows from those that were shown already: the rows of a snapshot overlap with those of
/// the one before.
#[derive(Debug, Default)]
struct RowsShown {
    /// The newest rows of each rule at the last call.
    last: HashMap<String, Vec<Row>>,
}

impl RowsShown {
    fn new_ones(&mut self, rows: &[Row]) -> Vec<Row> {
        let mut by_rule: HashMap<String, Vec<Row>> = HashMap::new();
        for row in rows {
            by_rule
                .entry(row.rule.clone())
                .or_default()
                .push(row.clone());
        }
        let mut fresh = Vec::new();
        for (rule, now) in &by_rule {
            let before = self.last.get(rule).map_or(&[][..], Vec::as_slice);
            // As much as possible of what is there now was there before, at the end.
            let known = (0..=before.len().min(now.len()))
                .rev()
                .find(|&known| before.get(before.len() - known..) == now.get(..known))
                .unwrap_or(0);
            fresh.extend(now.iter().skip(known).cloned());
        }
        fresh.sort_by_key(|row| row.at_ms);
        self.last = by_rule;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_shown_once_though_snapshots_overlap() {
        let row = |at_ms: u64, rule: &str, text: &str| Row {
            at_ms,
            rule: rule.to_owned(),
            text: text.to_owned(),
        };
        let mut shown = RowsShown::default();
        let first = [row(1, "a", "x"), row(1, "a", "x"), row(1, "b", "x")];
        assert_eq!(
            shown.new_ones(&first).len(),
            3,
            "equal rows of one moment are two rows"
        );
        assert!(shown.new_ones(&first).is_empty());
        let next = [
            row(1, "a", "x"),
            row(1, "b", "x"),
            row(1, "a", "y"),
            row(2, "b", "z"),
        ];
        let texts: Vec<_> = shown
            .new_ones(&next)
            .into_iter()
            .map(|row| row.text)
            .collect();
        assert_eq!(texts, ["y", "z"]);
    }

    #[test]
    fn lines_say_what_stands_out_and_nothing_else() {
        let mut rule = RuleRow {
            id: "hot".into(),
            status: "running".into(),
            records_in: 10,
            selected: 4,
            records_out: 3,
            ..RuleRow::default()
        };
        assert_eq!(
            rule_line(&rule),
            "rule        hot  running  read 10  selected 4  delivered 3"
        );
        rule.disk_messages = 1;
        rule.disk_bytes = 2048;
        rule.message = "the action log_0 waits".into();
        assert_eq!(
            rule_line(&rule),
            "rule        hot  running  read 10  selected 4  delivered 3  on disk 1 (2.0 KiB): the action log_0 waits"
        );
        let change = Change::Connection {
            id: "plant".into(),
            status: "disconnected".into(),
            err: "connection refused".into(),
            warnings: Vec::new(),
        };
        assert_eq!(
            change_line(&change),
            "connection  plant  disconnected: connection refused"
        );
    }

    #[test]
    fn metrics_are_by_id() {
        let snapshot = Snapshot {
            rules: vec![RuleRow {
                id: "hot".into(),
                records_in: 7,
                ..RuleRow::default()
            }],
            connections: vec![ConnectionRow {
                id: "plant".into(),
                metric: -1,
                ..ConnectionRow::default()
            }],
            ..Snapshot::default()
        };
        let value = serde_json::to_value(metrics(&snapshot)).unwrap();
        assert_eq!(value["event"], "metrics");
        assert_eq!(value["rules"]["hot"]["recordsIn"], 7);
        assert_eq!(value["connections"]["plant"]["metric"], -1);
    }
}
