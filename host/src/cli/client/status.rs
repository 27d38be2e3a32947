//! `windlass status [--watch]`: connections and rules of a server with their states and counters, once
//! or until Ctrl-C: a table that redraws itself on a terminal, plain lines elsewhere.
//!
//! Everything shown comes from the same requests that anybody can make. The server's stream of events
//! only says when to look again before a second has passed; a server without one is asked each second.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};
use tokio::time::MissedTickBehavior;

use super::http::{ClientError, Rest};
use super::render::{Table, field};
use super::{Common, items};
use crate::cli::logs::Logs;
use crate::cli::session::Signals;
use crate::cli::table::TableView;
use crate::cli::view::{JsonView, LinesView, View};
use crate::cli::{FAILED, output};
use crate::snapshot::{Change, ConnectionRow, RuleRow, Snapshot};

/// How often a server is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How soon it is asked again after an event.
const SOONEST: Duration = Duration::from_millis(200);
/// Rules whose counters are asked for; of the others only the state is shown.
const MOST_COUNTED: usize = 200;

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Go on until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

impl Arguments {
    /// A live table takes the terminal.
    pub(in crate::cli) fn draws_table(&self) -> bool {
        self.watch && !self.common.json
    }
}

pub(in crate::cli) async fn status(arguments: Arguments, logs: &Logs) -> anyhow::Result<ExitCode> {
    let Arguments { common, watch: on } = arguments;
    let rest = common.connect()?;
    if on {
        return watch(&rest, common.json, logs).await;
    }
    let snapshot = look(&rest).await?;
    let is_well = snapshot.connections.iter().all(|row| row.metric == 1)
        && snapshot
            .rules
            .iter()
            .all(|row| row.status != "stopped by error");
    if common.json {
        output::say_json(&snapshot)?;
    } else {
        show(&snapshot)?;
    }
    Ok(if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn show(snapshot: &Snapshot) -> anyhow::Result<()> {
    let mut table = Table::new(&["CONNECTION", "TYPE", "STATUS", "IN", "OUT", ""]);
    for row in &snapshot.connections {
        table.row(&[
            &row.id,
            &row.typ,
            &row.status,
            &row.messages_in.to_string(),
            &row.messages_out.to_string(),
            &joined(&row.err, &row.warnings),
        ]);
    }
    table.say("no connections")?;
    output::say("")?;
    let mut table = Table::new(&[
        "RULE",
        "STATUS",
        "READ",
        "DELIVERED",
        "WAITING",
        "DEAD LETTERS",
        "",
    ]);
    for row in &snapshot.rules {
        table.row(&[
            &row.id,
            &row.status,
            &row.records_in.to_string(),
            &row.records_out.to_string(),
            &(row.queued + row.disk_messages).to_string(),
            &row.dead_letters.to_string(),
            &joined(&row.message, &row.warnings),
        ]);
    }
    table.say("no rules")?;
    Ok(())
}

fn joined(first: &str, more: &[String]) -> String {
    let texts = std::iter::once(first).chain(more.iter().map(String::as_str));
    texts
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

async fn watch(rest: &Rest, json: bool, logs: &Logs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let mut view: Box<dyn View> = if json {
        Box::new(JsonView)
    } else if std::io::stdout().is_terminal() {
        Box::new(TableView::new(rest.name(), false, logs.clone()))
    } else {
        Box::new(LinesView::new(10, false))
    };
    let mut states = States::default();
    let mut events = rest.stream(&["events"], &[]).await.ok();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut is_seen, mut is_away) = (false, false);
    let ended = loop {
        match look(rest).await {
            Ok(snapshot) => {
                if is_away && !json {
                    output::complain(&format!("{} answers again", rest.name()));
                }
                (is_seen, is_away) = (true, false);
                for change in states.enter(&snapshot) {
                    view.change(&change)?;
                }
                view.tick(&snapshot)?;
            }
            // It may come back: said once, then waited for.
            Err(error @ ClientError::Unreachable { .. }) => {
                if !is_seen {
                    break Err(error);
                }
                if !is_away {
                    output::complain(&error.to_string());
                }
                is_away = true;
                events = None;
            }
            Err(error) => break Err(error),
        }
        tokio::select! {
            () = signals.next() => break Ok(()),
            _ = ticks.tick() => {
                if events.is_none() && !is_away {
                    events = rest.stream(&["events"], &[]).await.ok();
                }
            }
            () = next(&mut events) => tokio::time::sleep(SOONEST).await,
        }
    };
    logs.release();
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// Something came in the stream of events; never, if there is none. A stream that has ended is let go.
async fn next(events: &mut Option<reqwest::Response>) {
    let Some(response) = events else {
        return std::future::pending().await;
    };
    if !matches!(response.chunk().await, Ok(Some(_))) {
        *events = None;
    }
}

/// The states as last seen, to say what has changed.
#[derive(Debug, Default)]
struct States(HashMap<(bool, String), (String, String)>);

impl States {
    fn enter(&mut self, snapshot: &Snapshot) -> Vec<Change> {
        let mut now = HashMap::new();
        let mut changes = Vec::new();
        for change in snapshot.states() {
            let (key, state) = match &change {
                Change::Connection {
                    id, status, err, ..
                } => ((true, id.clone()), (status.clone(), err.clone())),
                Change::Rule {
                    id,
                    status,
                    message,
                } => ((false, id.clone()), (status.clone(), message.clone())),
                // A state is what is so, and nothing that was missed.
                Change::Missed { .. } => continue,
            };
            if self.0.get(&key) != Some(&state) {
                changes.push(change);
            }
            now.insert(key, state);
        }
        self.0 = now;
        changes
    }
}

/// Everything at one moment.
async fn look(rest: &Rest) -> Result<Snapshot, ClientError> {
    let connections = rest.get(&["connections"], &[("forceAll", "true")]).await?;
    let rules = items(rest.get(&["rules"], &[]).await?);
    let mut rows = Vec::with_capacity(rules.len());
    for (place, rule) in rules.iter().enumerate() {
        let id = field(rule, "id");
        let counted = if place < MOST_COUNTED {
            rest.find(&["rules", &id, "status"]).await?
        } else {
            None
        };
        rows.push(rule_row(id, counted.as_ref().unwrap_or(rule)));
    }
    let now = std::time::SystemTime::now();
    let since = now
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Snapshot {
        at_ms: u64::try_from(since.as_millis()).unwrap_or_default(),
        connections: items(connections).iter().map(connection_row).collect(),
        rules: rows,
        ..Snapshot::default()
    })
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let list = value.get(name).and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

fn connection_row(one: &Value) -> ConnectionRow {
    let none = Value::Null;
    let traffic = one.get("traffic").unwrap_or(&none);
    let status = field(one, "status");
    ConnectionRow {
        metric: match status.as_str() {
            "connected" => 1,
            "connecting" => 0,
            _ => -1,
        },
        id: field(one, "id"),
        typ: field(one, "typ"),
        is_named: one
            .get("isNamed")
            .and_then(Value::as_bool)
            .unwrap_or_default(),
        status,
        err: field(one, "err"),
        since_ms: number(one, "since"),
        attempts: number(one, "attempts"),
        next_attempt_ms: one.get("nextAttempt").and_then(Value::as_u64),
        sessions: number(one, "generation"),
        messages_in: number(traffic, "messagesIn"),
        messages_out: number(traffic, "messagesOut"),
        bytes_in: number(traffic, "bytesIn"),
        bytes_out: number(traffic, "bytesOut"),
        untaken: number(traffic, "untaken"),
        dropped: number(traffic, "dropped"),
        refused: number(traffic, "refused"),
        circuit: one
            .pointer("/circuit/state")
            .map(|state| match state.as_str() {
                Some("open") => 2,
                Some("half-open") => 1,
                _ => 0,
            }),
        circuit_opened: one
            .get("circuit")
            .map_or(0, |circuit| number(circuit, "opened")),
        users: texts(one, "users"),
        warnings: texts(one, "warnings"),
    }
}

fn rule_row(id: String, status: &Value) -> RuleRow {
    let metrics: Map<String, Value> = status
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| {
            ["source_", "op_", "sink_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let named = |prefix: &'static str, suffix: &'static str| {
        let named = metrics
            .iter()
            .filter(move |(name, _)| name.starts_with(prefix) && name.ends_with(suffix));
        named.filter_map(|(_, value)| value.as_u64())
    };
    let sum = |prefix, suffix| -> u64 { named(prefix, suffix).sum() };
    // A source on a named connection stands there twice: under its stream's name, and the connection's.
    let records_in = named("source_", "_0_records_in_total").max();
    RuleRow {
        id,
        status: field(status, "status"),
        message: field(status, "message"),
        records_in: records_in.unwrap_or_default(),
        records_out: sum("sink_", "_0_records_out_total"),
        selected: sum("op_query", "_0_records_out_total"),
        queued: sum("sink_", "_0_queue_depth"),
        disk_messages: sum("sink_", "_0_disk_messages"),
        disk_bytes: sum("sink_", "_0_disk_bytes"),
        dead_letters: sum("sink_", "_0_dead_letters_total"),
        warnings: texts(status, "warnings"),
        metrics: Some(metrics.clone()),
        ..RuleRow::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_what_the_server_says() {
        let row = connection_row(&json!({
            "id": "plant", "typ": "mqtt", "isNamed": true, "status": "connecting", "err": "refused",
            "users": ["r"], "nextAttempt": 7, "traffic": {"messagesIn": 3, "bytesOut": 9},
        }));
        assert_eq!((row.metric, row.messages_in, row.bytes_out), (0, 3, 9));
        assert_eq!((row.next_attempt_ms, row.users.len()), (Some(7), 1));
        let row = rule_row(
            "r".to_owned(),
            &json!({
                "status": "running", "message": "", "lastStartTimestamp": 5,
                "source_demo_0_records_in_total": 10, "op_query_0_records_out_total": 6,
                "sink_log_0_0_records_out_total": 4, "sink_mqtt_1_0_records_out_total": 2,
                "sink_log_0_0_disk_messages": 1, "sink_log_0_0_dead_letters_total": 2,
            }),
        );
        assert_eq!((row.records_in, row.selected, row.records_out), (10, 6, 6));
        assert_eq!(
            (row.disk_messages, row.dead_letters, row.metrics().len()),
            (1, 2, 6)
        );
        // eKuiper says less.
        let row = connection_row(&json!({"id": "a", "status": "disconnected"}));
        assert_eq!((row.metric, row.messages_in), (-1, 0));
    }

    #[test]
    fn only_what_has_changed_is_said() {
        let snapshot = |status: &str| Snapshot {
            connections: vec![ConnectionRow {
                id: "plant".into(),
                status: status.into(),
                ..ConnectionRow::default()
            }],
            rules: vec![RuleRow {
                id: "plant".into(),
                status: "running".into(),
                ..RuleRow::default()
            }],
            ..Snapshot::default()
        };
        let mut states = States::default();
        assert_eq!(states.enter(&snapshot("connecting")).len(), 2);
        assert_eq!(states.enter(&snapshot("connecting")), []);
        let changes = states.enter(&snapshot("connected"));
        assert!(
            matches!(&changes[..], [Change::Connection { status, .. }] if status == "connected")
        );
    }
}
