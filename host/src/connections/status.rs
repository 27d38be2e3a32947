//! What is known of a connection's link, and the one place where it changes. REST, metrics, rules
//! and events read it from a watch channel; reading never touches the network.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::{broadcast, watch};
use utoipa::ToSchema;

use super::Connection;
use super::secrets::Scrubber;
use crate::error::ConnectionError;

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ConnectionState)]
pub enum State {
    /// An attempt is under way, and the link was never up with these properties.
    /// Up: `Connected`. Failed: `Waiting`. Stopped: `Closed`.
    Connecting,
    /// The link is up.
    /// Lost: `Waiting`. Stopped: `Closed`. Replaced: `Waiting`.
    Connected,
    /// An attempt is under way to bring back a link that was up.
    /// Up: `Connected`. Failed: `Waiting`. Stopped: `Closed`.
    Reconnecting,
    /// No attempt is under way: between two of them, before the first while takers are awaited, or
    /// for ever while the configuration cannot work ([`Status::misconfigured`]).
    /// Time is up, or asked to try now: `Connecting` or `Reconnecting`. Stopped: `Closed`.
    Waiting,
    /// Stopped on purpose. No exit.
    Closed,
}

/// The state with what led to it. Times are in milliseconds since 1970, for people; nothing is timed
/// by them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where it is.
    pub state: State,
    /// The last failure's words with all its causes, until it is up again.
    pub err: Option<String>,
    /// The code of that failure.
    pub code: Option<String>,
    /// It cannot work with its configuration: no attempt is made until it is replaced, or somebody
    /// asks for a try.
    pub misconfigured: bool,
    /// The link was up with the present properties.
    pub was_up: bool,
    /// Since when it is in this state.
    pub since_ms: u64,
    /// Attempts begun since it was last up.
    pub attempts: u32,
    /// How often it came up, over all replacements.
    pub generation: u64,
    /// When the next attempt begins.
    pub next_attempt_ms: Option<u64>,
    /// When the last attempt began.
    pub last_try_ms: Option<u64>,
    /// When it last came up.
    pub last_connected_ms: Option<u64>,
    /// When it was last lost.
    pub last_disconnected_ms: Option<u64>,
    /// The server, without credentials.
    pub peer: Option<String>,
    /// Sentences for the operator, though it works.
    pub warnings: Vec<String>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            state: State::Waiting,
            err: None,
            code: None,
            misconfigured: false,
            was_up: false,
            since_ms: now_ms(),
            attempts: 0,
            generation: 0,
            next_attempt_ms: None,
            last_try_ms: None,
            last_connected_ms: None,
            last_disconnected_ms: None,
            peer: None,
            warnings: Vec::new(),
        }
    }
}

impl Status {
    /// The link can be used.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == State::Connected
    }

    /// eKuiper's word. A link that was up and is brought back is `connecting` all the time; one that
    /// was never up is `disconnected` from its first failure on, also during later attempts.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.metric() {
            1 => "connected",
            0 => "connecting",
            _ => "disconnected",
        }
    }

    /// The same as a number: 1, 0, -1.
    #[must_use]
    pub fn metric(&self) -> i8 {
        match self.state {
            State::Connected => 1,
            State::Closed => -1,
            State::Connecting | State::Reconnecting | State::Waiting => {
                let lost_hope = self.misconfigured || (!self.was_up && self.err.is_some());
                if lost_hope { -1 } else { 0 }
            }
        }
    }
}

/// What happens to a connection.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// It must not be dialled yet: its takers are not known.
    Held,
    /// An attempt begins.
    Dial,
    /// The attempt succeeded.
    Up,
    /// The attempt failed, or the link was lost; the next attempt comes after that wait, or never.
    Down {
        error: &'a ConnectionError,
        next: Option<Duration>,
    },
    /// It got new properties: what was known of the old link does not count.
    Replaced,
    /// It works, and what the operator should read has changed.
    Warned,
    /// It was stopped.
    Closed,
}

/// A status or its reason has changed, told to whoever listens to all connections at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusChange {
    /// Whose connection.
    pub tenant: Arc<str>,
    /// Which one.
    pub id: Arc<str>,
    /// `connected`, `connecting` or `disconnected`.
    pub status: &'static str,
    /// Why it is not up.
    pub err: Option<String>,
    /// What the operator should read though it works.
    pub warnings: Vec<String>,
}

/// Where changes of one listed connection are told.
#[derive(Debug)]
struct Feed {
    tenant: Arc<str>,
    id: Arc<str>,
    sender: broadcast::Sender<StatusChange>,
}

/// Publishes one connection's status. The only way to change it.
#[derive(Debug)]
pub(super) struct Publisher {
    name: Arc<str>,
    sender: watch::Sender<Status>,
    feed: OnceLock<Feed>,
}

impl Publisher {
    /// Starts as waiting. `name` stands in the log.
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            sender: watch::Sender::new(Status::default()),
            feed: OnceLock::new(),
        }
    }

    /// From now on its changes are told there too, the present state first.
    pub(super) fn tell(
        &self,
        tenant: &Arc<str>,
        id: &Arc<str>,
        sender: &broadcast::Sender<StatusChange>,
    ) {
        let feed = Feed {
            tenant: Arc::clone(tenant),
            id: Arc::clone(id),
            sender: sender.clone(),
        };
        if self.feed.set(feed).is_ok() {
            self.tell_now();
        }
    }

    fn tell_now(&self) {
        let Some(feed) = self.feed.get() else { return };
        let change = {
            let status = self.sender.borrow();
            StatusChange {
                tenant: Arc::clone(&feed.tenant),
                id: Arc::clone(&feed.id),
                status: status.word(),
                err: status.err.clone(),
                warnings: status.warnings.clone(),
            }
        };
        // Nobody may be listening.
        drop(feed.sender.send(change));
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Status> {
        self.sender.subscribe()
    }

    pub(super) fn now(&self) -> Status {
        self.sender.borrow().clone()
    }

    /// Every transition. What the connection itself knows (peer, warnings) is taken along, and no
    /// secret of its properties gets through, whatever a library wrote into an error.
    pub(super) fn publish(&self, event: &Event<'_>, connection: &dyn Connection, scrub: &Scrubber) {
        let peer = connection.peer().map(|peer| scrub.clean(&peer));
        let warnings: Vec<_> = connection
            .warnings()
            .iter()
            .map(|warning| scrub.clean(warning))
            .collect();
        let mut before = State::Waiting;
        let mut shows = false;
        self.sender.send_modify(|status| {
            before = status.state;
            let shown = (status.word(), status.err.clone());
            let warned = status.warnings.clone();
            apply(status, event, scrub, now_ms());
            status.peer = peer.or_else(|| status.peer.take());
            status.warnings = warnings;
            shows = shown != (status.word(), status.err.clone()) || warned != status.warnings;
        });
        if shows {
            self.tell_now();
        }
        if matches!(event, Event::Warned) {
            self.log_warnings();
        } else {
            self.log(before);
        }
    }

    fn log_warnings(&self) {
        let status = self.sender.borrow();
        for warning in &status.warnings {
            tracing::warn!(connection = &*self.name, "{warning}");
        }
    }

    fn log(&self, before: State) {
        let status = self.sender.borrow();
        let (connection, after) = (&*self.name, status.state);
        let err = status.err.as_deref().unwrap_or_default();
        // A storm of attempts must not become a storm of lines: the first failure is told.
        let loud = after == State::Connected
            || status.misconfigured
            || (after == State::Waiting
                && !err.is_empty()
                && (before == State::Connected || status.attempts == 1));
        if loud && after == State::Connected {
            tracing::info!(connection, peer = status.peer, "connected");
        } else if loud {
            tracing::warn!(connection, err, "not connected");
        } else {
            tracing::debug!(
                connection,
                ?before,
                ?after,
                attempts = status.attempts,
                err,
                "state"
            );
        }
    }
}

fn apply(status: &mut Status, event: &Event<'_>, scrub: &Scrubber, now: u64) {
    let before = status.state;
    status.next_attempt_ms = None;
    match event {
        Event::Held => status.state = State::Waiting,
        Event::Warned => {}
        Event::Dial => {
            status.state = if status.was_up {
                State::Reconnecting
            } else {
                State::Connecting
            };
            status.attempts = status.attempts.saturating_add(1);
            status.last_try_ms = Some(now);
            status.misconfigured = false;
        }
        Event::Up => {
            status.state = State::Connected;
            status.was_up = true;
            status.attempts = 0;
            status.generation += 1;
            status.last_connected_ms = Some(now);
            (status.err, status.code) = (None, None);
        }
        Event::Down { error, next } => {
            if before == State::Connected {
                status.last_disconnected_ms = Some(now);
            }
            status.state = State::Waiting;
            status.err = Some(scrub.clean(&error.report()));
            status.code = Some(error.code.clone());
            status.misconfigured = next.is_none();
            status.next_attempt_ms = next.map(|wait| now.saturating_add(millis(wait)));
        }
        Event::Replaced => {
            if before == State::Connected {
                status.last_disconnected_ms = Some(now);
            }
            status.state = State::Waiting;
            status.was_up = false;
            status.attempts = 0;
            status.misconfigured = false;
            (status.err, status.code, status.peer) = (None, None, None);
        }
        Event::Closed => {
            if before == State::Connected {
                status.last_disconnected_ms = Some(now);
            }
            status.state = State::Closed;
        }
    }
    if status.state != before {
        status.since_ms = now;
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(status: &mut Status, event: &Event<'_>) -> (State, &'static str, i8) {
        apply(status, event, &Scrubber::default(), 1_000);
        (status.state, status.word(), status.metric())
    }

    #[test]
    fn the_three_words_are_those_of_the_table() {
        let error = ConnectionError::disconnected("refused", "cannot reach it");
        let down = Event::Down {
            error: &error,
            next: Some(Duration::from_secs(1)),
        };
        let never = Event::Down {
            error: &error,
            next: None,
        };
        let mut status = Status::default();
        assert_eq!(
            after(&mut status, &Event::Held),
            (State::Waiting, "connecting", 0)
        );
        assert_eq!(
            after(&mut status, &Event::Dial),
            (State::Connecting, "connecting", 0)
        );
        assert_eq!(
            after(&mut status, &down),
            (State::Waiting, "disconnected", -1)
        );
        assert_eq!(status.next_attempt_ms, Some(2_000));
        assert_eq!(
            after(&mut status, &Event::Dial),
            (State::Connecting, "disconnected", -1)
        );
        assert_eq!(status.err.as_deref(), Some("cannot reach it"));
        assert_eq!(
            after(&mut status, &Event::Up),
            (State::Connected, "connected", 1)
        );
        assert_eq!(
            (status.err.as_deref(), status.attempts, status.generation),
            (None, 0, 1)
        );
        assert_eq!(after(&mut status, &down), (State::Waiting, "connecting", 0));
        assert_eq!(status.last_disconnected_ms, Some(1_000));
        assert_eq!(
            after(&mut status, &Event::Dial),
            (State::Reconnecting, "connecting", 0)
        );
        assert_eq!(
            after(&mut status, &never),
            (State::Waiting, "disconnected", -1)
        );
        assert!(status.misconfigured && status.next_attempt_ms.is_none());
        assert_eq!(
            after(&mut status, &Event::Replaced),
            (State::Waiting, "connecting", 0)
        );
        assert_eq!(
            after(&mut status, &Event::Closed),
            (State::Closed, "disconnected", -1)
        );
    }
}
