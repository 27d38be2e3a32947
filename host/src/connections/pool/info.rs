//! What the pool shows of a connection: eKuiper's fields in eKuiper's order, then ours.

use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;
use utoipa::ToSchema;

use super::entry::Entry;
use crate::connections::breaker::Circuit;
use crate::connections::status::State;
use crate::connections::{Connection, Interface, Properties, secrets};

/// One connection as REST and the command line show it. Holds no secret.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Connection)]
pub struct Info {
    /// Its id in its tenant.
    pub id: String,
    /// Its type.
    pub typ: String,
    /// Its properties, secrets masked.
    #[schema(value_type = Object)]
    pub props: Properties,
    /// It was created by name, not by a rule.
    pub is_named: bool,
    /// `connected`, `connecting` or `disconnected`.
    #[schema(pattern = "^(connected|connecting|disconnected)$")]
    pub status: &'static str,
    /// The last failure, until it is up again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub err: Option<String>,
    /// How many sources and sinks hold it.
    #[serde(skip_serializing_if = "is_zero")]
    pub ref_count: usize,
    /// The rules that hold it.
    pub users: Vec<String>,
    /// 1, 0, -1.
    pub metric: i8,
    /// The state behind the word.
    pub state: State,
    /// The code of the last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// No attempt is made until it is replaced or a check is asked for.
    pub misconfigured: bool,
    /// In this state since, in milliseconds since 1970; so are the other times.
    pub since: u64,
    /// Attempts since it was last up.
    pub attempts: u32,
    /// How often it came up.
    pub generation: u64,
    /// When the next attempt begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<u64>,
    /// When the last one began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_try: Option<u64>,
    /// When it last came up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_connected: Option<u64>,
    /// When it was last lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_disconnected: Option<u64>,
    /// The server, without credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Its circuit breaker, where its type has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit: Option<Circuit>,
    /// What the operator should read though it works.
    pub warnings: Vec<String>,
    /// The interfaces it offers.
    pub interfaces: Vec<&'static str>,
    /// What it has counted.
    pub traffic: Counts,
}

/// The counters of [`crate::connections::Traffic`] at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Traffic)]
#[allow(missing_docs, reason = "each is described at its counter in Traffic")]
pub struct Counts {
    pub messages_in: u64,
    pub messages_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub untaken: u64,
    pub dropped: u64,
    pub refused: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The interfaces that a connection offers.
#[must_use]
pub fn interfaces(connection: &dyn Connection) -> Vec<Interface> {
    let offers = |interface: &Interface| match interface {
        Interface::Messaging => connection.messaging().is_some(),
        Interface::Http => connection.http().is_some(),
        Interface::Sql => connection.sql().is_some(),
    };
    Interface::ALL.into_iter().filter(offers).collect()
}

impl Info {
    pub(super) fn of(entry: &Entry) -> Self {
        let (kind, typ, props) = entry.definition();
        let (status, connection) = (entry.status.now(), entry.present());
        let scrub = entry.scrub();
        let traffic = &entry.traffic;
        Self {
            id: entry.id.to_string(),
            typ: typ.to_string(),
            props: secrets::mask(&props, kind.map_or(&[], |kind| kind.properties())),
            is_named: entry.named,
            status: status.word(),
            metric: status.metric(),
            ref_count: entry.references(),
            users: entry.users(),
            state: status.state,
            err: status.err,
            code: status.code,
            misconfigured: status.misconfigured,
            since: status.since_ms,
            attempts: status.attempts,
            generation: status.generation,
            next_attempt: status.next_attempt_ms,
            last_try: status.last_try_ms,
            last_connected: status.last_connected_ms,
            last_disconnected: status.last_disconnected_ms,
            peer: status.peer,
            circuit: connection.circuit(),
            // Fresher than those of the last transition.
            warnings: connection
                .warnings()
                .iter()
                .map(|warning| scrub.clean(warning))
                .collect(),
            interfaces: interfaces(&*connection)
                .iter()
                .map(|interface| interface.as_str())
                .collect(),
            traffic: Counts {
                messages_in: traffic.messages_in.load(Relaxed),
                messages_out: traffic.messages_out.load(Relaxed),
                bytes_in: traffic.bytes_in.load(Relaxed),
                bytes_out: traffic.bytes_out.load(Relaxed),
                untaken: traffic.untaken.load(Relaxed),
                dropped: traffic.dropped.load(Relaxed),
                refused: traffic.refused.load(Relaxed),
            },
        }
    }
}
