//! A rule's counters as rows and under eKuiper's flat names (`source_demo_0_records_in_total`).
//! Reads atomics and watch channels; touches no network and waits for nothing.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value, json};

use super::engine::{Rule, RuleState};
use super::sink::Slots;
use crate::connections::status::Status;
use crate::snapshot::{Row, RuleRow};

impl Rule {
    /// Its newest results, oldest first.
    #[must_use]
    pub fn newest(&self) -> Vec<Row> {
        let text = |payload: &[u8]| String::from_utf8_lossy(payload).into_owned();
        let rows = self.input.newest.rows().into_iter();
        rows.map(|(at_ms, payload)| Row {
            at_ms,
            rule: self.id.clone(),
            text: text(&payload),
        })
        .collect()
    }

    /// Everything there is to show of it.
    #[must_use]
    pub fn row(&self) -> RuleRow {
        let state = self.state();
        let actions = || self.input.outputs.iter().map(|output| &output.action);
        let mut warnings = Vec::new();
        let mut trouble: Vec<_> = self
            .source
            .source
            .stats
            .trouble
            .lock()
            .clone()
            .into_iter()
            .collect();
        for (action, slots) in actions().zip(&self.slots) {
            if let Some(words) = action.blocked() {
                warnings.push(format!(
                    "{}: the disk queue takes nothing, upstream waits: {words}",
                    action.name
                ));
            }
            if let Some(words) = action.progress.trouble.lock().clone() {
                trouble.push(format!("{}: {words}", action.name));
            }
            warnings.extend(slots.warnings());
        }
        warnings.extend(self.source.slots.warnings());
        let message = if state.message().is_empty() && state == RuleState::Running {
            trouble.join("; ")
        } else {
            state.message().to_owned()
        };
        RuleRow {
            id: self.id.clone(),
            status: state.word().to_owned(),
            message,
            records_in: self.input.stats.messages_in.load(Relaxed),
            records_out: actions()
                .map(|action| action.progress.written.load(Relaxed))
                .sum(),
            selected: self.input.stats.rows_out.load(Relaxed),
            queued: actions().map(|action| action.queued() as u64).sum(),
            disk_messages: actions().map(|action| action.disk().len()).sum(),
            disk_bytes: actions().map(|action| action.disk().bytes()).sum(),
            dead_letters: actions()
                .map(|action| action.progress.buried.load(Relaxed))
                .sum(),
            warnings,
            metrics: self.metrics(),
        }
    }

    /// eKuiper's names. The source stands there under the stream's name, and where it uses a named
    /// connection also under `<connection>/<datasource>`, as eKuiper shows it then.
    fn metrics(&self) -> Map<String, Value> {
        let mut all = Map::new();
        let source = &self.source.source;
        let stats = &source.stats;
        let (words, at) = stats.last_failure.lock().clone().unwrap_or_default();
        let read = stats.messages.load(Relaxed);
        let figures = Figures {
            records_in: read,
            records_out: read,
            processed: read,
            latency_us: source.ledger().last_latency_us(),
            queued: 0,
            last_invocation: stats.last_read_ms.load(Relaxed),
            exceptions: stats.failures.load(Relaxed),
            last_exception: words,
            last_exception_ms: at,
        };
        let names = std::iter::once(source.stream.clone()).chain(self.source.named.iter().cloned());
        for name in names {
            let prefix = format!("source_{name}_0");
            figures.write(&prefix, &mut all);
            connection(&prefix, &self.source.slots, &mut all);
        }
        let query = &self.input.stats;
        all.insert(
            "op_query_0_records_in_total".to_owned(),
            query.messages_in.load(Relaxed).into(),
        );
        all.insert(
            "op_query_0_records_out_total".to_owned(),
            query.rows_out.load(Relaxed).into(),
        );
        all.insert(
            "op_query_0_exceptions_total".to_owned(),
            query.failures.load(Relaxed).into(),
        );
        all.insert(
            "op_query_0_type_errors_total".to_owned(),
            query.type_errors.load(Relaxed).into(),
        );
        let parts = self.input.outputs.iter().zip(&self.slots).zip(&self.guests);
        for ((output, slots), guest) in parts {
            let action = &output.action;
            let prefix = format!("sink_{}_0", action.name);
            let (words, at) = action
                .progress
                .last_failure
                .lock()
                .clone()
                .unwrap_or_default();
            let written = action.progress.written.load(Relaxed);
            let figures = Figures {
                records_in: action.accepted.load(Relaxed),
                records_out: written,
                processed: written,
                latency_us: 0,
                queued: action.queued() as u64,
                last_invocation: 0,
                exceptions: action.progress.failures.load(Relaxed),
                last_exception: words,
                last_exception_ms: at,
            };
            figures.write(&prefix, &mut all);
            connection(&prefix, slots, &mut all);
            let more = [
                ("queue_depth", action.queued() as u64),
                ("disk_messages", action.disk().len()),
                ("disk_bytes", action.disk().bytes()),
                ("spilled_total", action.spilled.load(Relaxed)),
                ("dropped_total", action.dropped()),
                ("dead_letters_total", action.progress.buried.load(Relaxed)),
                ("traps_total", guest.traps.load(Relaxed)),
                ("overtime_total", guest.overtime.load(Relaxed)),
                ("instances_total", guest.instances.load(Relaxed)),
                ("memory_bytes", guest.memory_bytes.load(Relaxed)),
            ];
            for (name, value) in more {
                all.insert(format!("{prefix}_{name}"), value.into());
            }
        }
        all
    }
}

struct Figures {
    records_in: u64,
    records_out: u64,
    processed: u64,
    latency_us: u64,
    queued: u64,
    last_invocation: u64,
    exceptions: u64,
    last_exception: String,
    last_exception_ms: u64,
}

impl Figures {
    fn write(&self, prefix: &str, all: &mut Map<String, Value>) {
        let values = [
            ("records_in_total", json!(self.records_in)),
            ("records_out_total", json!(self.records_out)),
            ("messages_processed_total", json!(self.processed)),
            ("process_latency_us", json!(self.latency_us)),
            ("buffer_length", json!(self.queued)),
            ("last_invocation", json!(self.last_invocation)),
            ("exceptions_total", json!(self.exceptions)),
            ("last_exception", json!(self.last_exception)),
            ("last_exception_time", json!(self.last_exception_ms)),
        ];
        for (name, value) in values {
            all.insert(format!("{prefix}_{name}"), value);
        }
    }
}

/// The lowest status of a guest's connections. A guest without any counts as connected.
fn connection(prefix: &str, slots: &Slots, all: &mut Map<String, Value>) {
    let lowest = slots.lowest();
    let metric = lowest.as_ref().map_or(1, Status::metric);
    let status = lowest.unwrap_or_default();
    let values = [
        ("connection_status", json!(metric)),
        (
            "connection_last_connected_time",
            json!(status.last_connected_ms),
        ),
        (
            "connection_last_disconnected_time",
            json!(status.last_disconnected_ms),
        ),
        (
            "connection_last_disconnected_message",
            json!(status.err.clone().unwrap_or_default()),
        ),
        ("connection_last_try_time", json!(status.last_try_ms)),
    ];
    for (name, value) in values {
        all.insert(format!("{prefix}_{name}"), value);
    }
}
