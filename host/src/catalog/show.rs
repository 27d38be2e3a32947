//! Everything at one moment, as plain rows. Reads only what is in memory, and asks the system for the
//! free space of one disk.

use super::Catalog;
use crate::connections::pool::Info;
use crate::rules::spill::DiskUse;
use crate::snapshot::{ConnectionRow, DiskRow, LettersRow, RuleRow, Snapshot};
use crate::store::Store;

impl Catalog {
    /// All connections and rules, those that do not run too.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let rules = self.rules().into_iter();
        Snapshot {
            at_ms: crate::rules::now_ms(),
            connections: self
                .connections(true)
                .into_iter()
                .map(connection_row)
                .collect(),
            rules: rules
                .filter_map(|rule| {
                    let status = self.rule_status(&rule.id)?;
                    let mut row = status.row.unwrap_or_default();
                    row.id = rule.id;
                    status.status.clone_into(&mut row.status);
                    row.message = status.message;
                    row.warnings = status.warnings;
                    Some(row)
                })
                .collect::<Vec<RuleRow>>(),
            rows: Vec::new(),
            disk: disk_row(self.0.parts.spills.disk_use()),
            letters: letters_row(&self.0.parts.store),
            push: None,
        }
    }
}

/// What all disk queues have and may have, as a row.
#[must_use]
pub fn disk_row(now: DiskUse) -> DiskRow {
    DiskRow {
        used: now.used,
        max: now.max,
        free: now.free,
        reserve: now.reserve,
    }
}

/// What has become of dead letters, as a row.
#[must_use]
pub fn letters_row(store: &Store) -> LettersRow {
    let gone = store.letters_gone();
    LettersRow {
        expired: gone.expired,
        forwarded: gone.forwarded,
    }
}

/// One connection as a row.
#[must_use]
pub fn connection_row(info: Info) -> ConnectionRow {
    let traffic = &info.traffic;
    ConnectionRow {
        id: info.id,
        typ: info.typ,
        is_named: info.is_named,
        status: info.status.to_owned(),
        metric: info.metric,
        err: info.err.unwrap_or_default(),
        since_ms: info.since,
        attempts: info.attempts.into(),
        next_attempt_ms: info.next_attempt,
        sessions: info.generation,
        messages_in: traffic.messages_in,
        messages_out: traffic.messages_out,
        bytes_in: traffic.bytes_in,
        bytes_out: traffic.bytes_out,
        untaken: traffic.untaken,
        dropped: traffic.dropped,
        refused: traffic.refused,
        circuit: info.circuit.map(|circuit| circuit.state.metric()),
        circuit_opened: info.circuit.map_or(0, |circuit| circuit.opened),
        users: info.users,
        warnings: info.warnings,
    }
}
