//! A rule's counters as rows. Reads atomics and watch channels; touches no network and waits for nothing.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::engine::{Rule, RuleState};
use super::fan::Output;
use super::sink::Slots;
use crate::connections::status::Status;
use crate::runtime::GuestStats;
use crate::snapshot::{GuestRow, LinkRow, OperatorRow, QueueRow, Row, RuleRow, SettlementRow};

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
        warnings.extend(self.stranded.lock().iter().cloned());
        let forwarder = self.forwarder.as_ref();
        warnings.extend(forwarder.and_then(|forwarder| forwarder.trouble()));
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
            operators: self.operators(),
            metrics: None,
        }
    }

    /// Source, query, actions.
    fn operators(&self) -> Vec<OperatorRow> {
        let mut all = vec![self.source_row(), self.query_row()];
        let parts = self.input.outputs.iter().zip(&self.slots).zip(&self.guests);
        all.extend(parts.map(|((output, slots), guest)| sink_row(output, slots, guest)));
        all
    }

    /// The source stands there under the stream's name, and where it uses a named connection also
    /// under `<connection>/<datasource>`, as eKuiper shows it then.
    fn source_row(&self) -> OperatorRow {
        let source = &self.source.source;
        let stats = &source.stats;
        let (words, at) = stats.last_failure.lock().clone().unwrap_or_default();
        let read = stats.messages.load(Relaxed);
        let ledger = source.ledger();
        OperatorRow {
            kind: "source",
            name: source.stream.clone(),
            aliases: self.source.named.clone(),
            records_in: read,
            records_out: read,
            processed: read,
            latency_us: stats.latency.last_us(),
            last_invocation_ms: stats.last_read_ms.load(Relaxed),
            exceptions: stats.failures.load(Relaxed),
            last_exception: words,
            last_exception_ms: at,
            link: Some(link(&self.source.slots)),
            settlement: Some(SettlementRow {
                open_reads: ledger.open_reads() as u64,
                oldest_ms: ledger.oldest().map(age_ms),
                sum_us: stats.latency.sum_us(),
                times: stats.latency.times(),
            }),
            guest: Some(guest_row(&self.source.guest)),
            ..OperatorRow::default()
        }
    }

    fn query_row(&self) -> OperatorRow {
        let query = &self.input.stats;
        let looked_at = query.messages_in.load(Relaxed);
        OperatorRow {
            kind: "op",
            name: "query".to_owned(),
            records_in: looked_at,
            records_out: query.rows_out.load(Relaxed),
            processed: looked_at,
            exceptions: query.failures.load(Relaxed),
            type_errors: query.type_errors.load(Relaxed),
            ..OperatorRow::default()
        }
    }
}

fn sink_row(output: &Output, slots: &Slots, guest: &GuestStats) -> OperatorRow {
    let action = &output.action;
    let progress = &action.progress;
    let (words, at) = progress.last_failure.lock().clone().unwrap_or_default();
    let written = progress.written.load(Relaxed);
    let disk = action.disk().stats();
    OperatorRow {
        kind: "sink",
        name: action.name.clone(),
        records_in: action.accepted.load(Relaxed),
        records_out: written,
        processed: written,
        buffered: action.queued() as u64,
        exceptions: progress.failures.load(Relaxed),
        last_exception: words,
        last_exception_ms: at,
        link: Some(link(slots)),
        queue: Some(QueueRow {
            oldest_ms: action.oldest().map(age_ms),
            disk_messages: disk.messages,
            disk_bytes: disk.bytes,
            spilled: action.spilled.load(Relaxed),
            dropped: action.dropped().saturating_add(disk.dropped),
            expired: disk.expired,
            lost: disk.damage.lost,
            set_aside: disk.damage.set_aside,
            duplicates: output.duplicates(),
            dead_letters: progress.buried.load(Relaxed),
            blocked: action.blocked(),
        }),
        guest: Some(guest_row(guest)),
        ..OperatorRow::default()
    }
}

fn guest_row(stats: &GuestStats) -> GuestRow {
    GuestRow {
        calls: stats.calls.load(Relaxed),
        traps: stats.traps.load(Relaxed),
        overtime: stats.overtime.load(Relaxed),
        instances: stats.instances.load(Relaxed),
        memory_bytes: stats.memory_bytes.load(Relaxed),
        cpu_ns: stats.cpu_ns.load(Relaxed),
        wait_ns: stats.wait_ns.load(Relaxed),
    }
}

/// The lowest status of a guest's connections. A guest without any counts as connected.
fn link(slots: &Slots) -> LinkRow {
    let lowest = slots.lowest();
    let metric = lowest.as_ref().map_or(1, Status::metric);
    let status = lowest.unwrap_or_default();
    LinkRow {
        metric,
        last_connected_ms: status.last_connected_ms,
        last_disconnected_ms: status.last_disconnected_ms,
        last_try_ms: status.last_try_ms,
        err: status.err.unwrap_or_default(),
    }
}

fn age_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
