//! The circuit breaker of a connection, for every type whose requests may fail though the link is up:
//! after some failures in a row nothing is sent for a while, then one request tries; its success lets
//! the others through again. Counts and waits; knows no protocol.
//!
//! A success of any request closes the circuit, also of one that was sent before it opened. Its state
//! is a [`Circuit`], which a connection hands to its status ([`Connection::circuit`]).
//!
//! [`Connection::circuit`]: super::Connection::circuit

use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::status::{millis, now_ms};
use crate::error::{CIRCUIT_OPEN, ConnectionError};

/// Failures in a row that open the circuit.
const FAILURES: u32 = 5;
/// How long it is open at first, and at most; it doubles with each try that fails.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// Whether requests go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CircuitState {
    /// They do.
    #[default]
    Closed,
    /// They do not, for a while.
    Open,
    /// One of them tries, or the next one does.
    HalfOpen,
}

impl CircuitState {
    /// The state as a number: 0 closed, 1 half open, 2 open.
    #[must_use]
    pub fn metric(self) -> i8 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

/// The breaker as status, REST and metrics show it. Times are in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Circuit {
    /// Where it is.
    pub state: CircuitState,
    /// Since when.
    pub since: u64,
    /// Failures since the last success.
    pub failures: u64,
    /// When one request may try; only while it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_probe: Option<u64>,
    /// How often it has opened since the connection was made.
    pub opened: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    failures: u32,
    /// All of them were without any answer.
    silent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed(Row),
    /// Nothing is sent before this time.
    Open {
        until: Instant,
        open: Duration,
    },
    /// One request tries, or may.
    HalfOpen {
        trying: bool,
        open: Duration,
    },
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// Why the circuit is not closed.
    why: String,
    since_ms: u64,
    failures: u64,
    opened: u64,
}

impl Inner {
    fn enter(&mut self, state: State) {
        if state.word() != self.state.word() {
            self.since_ms = now_ms();
        }
        self.state = state;
    }
}

impl State {
    fn word(&self) -> CircuitState {
        match self {
            Self::Closed(_) => CircuitState::Closed,
            Self::Open { .. } => CircuitState::Open,
            Self::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Stands before the code of a refusal: the type's name.
    prefix: &'static str,
    inner: Mutex<Inner>,
    /// Counts the changes of state.
    changed: watch::Sender<u64>,
}

/// What a failure did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Requests go on.
    Goes,
    /// The circuit is open; the server answered some of the requests.
    Opened,
    /// The circuit is open, and the server has answered none of them.
    Silent,
}

/// The permission to send one request. Dropped without a verdict it counts for nothing.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    tries: bool,
    done: bool,
}

enum Decision {
    Go { tries: bool },
    Refuse(Duration),
    Wait,
}

impl Breaker {
    /// Closed. Refusals have the code `<prefix>:circuit-open`.
    pub(super) fn new(prefix: &'static str) -> Self {
        Self {
            prefix,
            inner: Mutex::new(Inner {
                state: State::Closed(Row::default()),
                why: String::new(),
                since_ms: now_ms(),
                failures: 0,
                opened: 0,
            }),
            changed: watch::Sender::new(0),
        }
    }

    /// Where it is.
    pub(super) fn circuit(&self) -> Circuit {
        let inner = self.inner.lock();
        let next_probe = match inner.state {
            State::Open { until, .. } => {
                let left = until.saturating_duration_since(Instant::now());
                Some(now_ms().saturating_add(millis(left)))
            }
            State::Closed(_) | State::HalfOpen { .. } => None,
        };
        Circuit {
            state: inner.state.word(),
            since: inner.since_ms,
            failures: inner.failures,
            next_probe,
            opened: inner.opened,
        }
    }

    /// Lets one request through, or waits for the one that tries.
    ///
    /// # Errors
    /// `transient` while the circuit is open, with the time that is left.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn enter(&self) -> Result<Pass<'_>, ConnectionError> {
        let pass = |tries| Pass {
            breaker: self,
            tries,
            done: false,
        };
        // So it is nearly always, and nobody needs to be told of a change.
        if let Decision::Go { tries } = self.decide(Instant::now()) {
            return Ok(pass(tries));
        }
        loop {
            let mut changed = self.changed.subscribe();
            match self.decide(Instant::now()) {
                Decision::Go { tries } => return Ok(pass(tries)),
                Decision::Refuse(left) => {
                    return Err(ConnectionError::transient(
                        format!("{}:{CIRCUIT_OPEN}", self.prefix),
                        "nothing is sent at present: too many requests in a row have failed",
                    )
                    .retry_after(left));
                }
                // Its sender is this breaker: it does not end before us.
                Decision::Wait => drop(changed.changed().await),
            }
        }
    }

    fn decide(&self, now: Instant) -> Decision {
        let mut inner = self.inner.lock();
        match inner.state {
            State::Closed(_) => Decision::Go { tries: false },
            State::Open { until, .. } if now < until => Decision::Refuse(until - now),
            State::Open { open, .. }
            | State::HalfOpen {
                trying: false,
                open,
            } => {
                inner.enter(State::HalfOpen { trying: true, open });
                Decision::Go { tries: true }
            }
            State::HalfOpen { trying: true, .. } => Decision::Wait,
        }
    }

    /// A new link: what was open may be tried at once.
    pub(super) fn renewed(&self) {
        let mut inner = self.inner.lock();
        match inner.state {
            State::Closed(_) => inner.state = State::Closed(Row::default()),
            State::Open { open, .. } => {
                inner.enter(State::HalfOpen {
                    trying: false,
                    open,
                });
            }
            State::HalfOpen { .. } => {}
        }
        drop(inner);
        self.tell();
    }

    /// A sentence for the operator, where the circuit is not closed.
    pub(super) fn warning(&self) -> Option<String> {
        let inner = self.inner.lock();
        let word = match inner.state {
            State::Closed(_) => return None,
            State::Open { .. } => "open: nothing is sent for a while",
            State::HalfOpen { .. } => "half open: one request tries",
        };
        Some(format!("the circuit is {word}, after {}", inner.why))
    }

    /// Changes of what [`Breaker::warning`] says.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn succeeded(&self) {
        let mut inner = self.inner.lock();
        let was_closed = matches!(inner.state, State::Closed(_));
        inner.enter(State::Closed(Row::default()));
        inner.failures = 0;
        drop(inner);
        if !was_closed {
            self.tell();
        }
    }

    fn failed(&self, tries: bool, silent: bool, why: &str, now: Instant) -> Verdict {
        let mut inner = self.inner.lock();
        inner.failures = inner.failures.saturating_add(1);
        let (open, silent) = match inner.state {
            State::Closed(row) => {
                let row = Row {
                    failures: row.failures + 1,
                    silent: silent && (row.silent || row.failures == 0),
                };
                if row.failures < FAILURES {
                    inner.state = State::Closed(row);
                    return Verdict::Goes;
                }
                (FIRST, row.silent)
            }
            State::HalfOpen { open, .. } if tries => ((open * 2).min(LONGEST), silent),
            // Sent before it opened.
            State::Open { .. } | State::HalfOpen { .. } => return Verdict::Goes,
        };
        inner.enter(State::Open {
            until: now + open,
            open,
        });
        inner.opened = inner.opened.saturating_add(1);
        inner.why = format!("{FAILURES} failures in a row or more, the last: {why}");
        drop(inner);
        self.tell();
        if silent {
            Verdict::Silent
        } else {
            Verdict::Opened
        }
    }
}

impl Pass<'_> {
    /// The server has answered, and is well.
    pub(super) fn succeeded(mut self) {
        self.done = true;
        self.breaker.succeeded();
    }

    /// It has not: `silent` if it did not answer at all. `why` is for operators.
    pub(super) fn failed(mut self, silent: bool, why: &str) -> Verdict {
        self.done = true;
        self.breaker.failed(self.tries, silent, why, Instant::now())
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.done || !self.tries {
            return;
        }
        let mut inner = self.breaker.inner.lock();
        if let State::HalfOpen { trying: true, open } = inner.state {
            inner.state = State::HalfOpen {
                trying: false,
                open,
            };
        }
        drop(inner);
        self.breaker.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fail(breaker: &Breaker, silent: bool) -> Verdict {
        breaker.enter().await.unwrap().failed(silent, "HTTP 503")
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_five_failures_tries_once_and_closes_on_success() {
        let breaker = Breaker::new("http");
        for _ in 0..4 {
            assert_eq!(fail(&breaker, false).await, Verdict::Goes);
        }
        assert_eq!(breaker.warning(), None);
        assert_eq!(fail(&breaker, false).await, Verdict::Opened);
        assert!(breaker.warning().unwrap().contains("HTTP 503"));
        let circuit = breaker.circuit();
        assert_eq!((circuit.state, circuit.failures), (CircuitState::Open, 5));
        assert!(circuit.next_probe.unwrap() >= circuit.since + 400);
        let refused = breaker.enter().await.unwrap_err();
        assert_eq!(refused.code, "http:circuit-open");
        assert!(!refused.was_tried());
        assert_eq!(refused.retry_after, Some(FIRST));

        tokio::time::advance(FIRST).await;
        let first = breaker.enter().await.unwrap();
        let second = tokio::time::timeout(Duration::from_millis(1), breaker.enter()).await;
        assert!(second.is_err(), "only one request tries");
        let circuit = breaker.circuit();
        assert_eq!(
            (circuit.state, circuit.next_probe, circuit.opened),
            (CircuitState::HalfOpen, None, 1)
        );
        assert_eq!(first.failed(false, "HTTP 500"), Verdict::Opened);
        assert_eq!(
            breaker.enter().await.unwrap_err().retry_after,
            Some(FIRST * 2),
            "the next time is longer"
        );

        tokio::time::advance(FIRST * 2).await;
        let probe = breaker.enter().await.unwrap();
        let (waits, ()) = tokio::join!(breaker.enter(), async { probe.succeeded() });
        waits.unwrap().succeeded();
        assert_eq!(breaker.warning(), None);
        let circuit = breaker.circuit();
        assert_eq!(
            (circuit.state, circuit.failures, circuit.opened),
            (CircuitState::Closed, 0, 2)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_in_between_begins_the_row_anew_and_a_dropped_try_lets_another_one_try() {
        let breaker = Breaker::new("http");
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(fail(&breaker, true).await, Verdict::Goes);
            }
            breaker.enter().await.unwrap().succeeded();
        }
        for _ in 0..4 {
            fail(&breaker, true).await;
        }
        assert_eq!(fail(&breaker, true).await, Verdict::Silent);
        breaker.renewed();
        drop(breaker.enter().await.unwrap());
        assert_eq!(fail(&breaker, true).await, Verdict::Silent);
        breaker.renewed();
        assert_eq!(fail(&breaker, false).await, Verdict::Opened);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_doubles_to_half_a_minute_and_no_further() {
        let breaker = Breaker::new("http");
        for _ in 0..5 {
            fail(&breaker, false).await;
        }
        for _ in 0..10 {
            tokio::time::advance(LONGEST).await;
            fail(&breaker, false).await;
        }
        let left = breaker.enter().await.unwrap_err().retry_after.unwrap();
        assert_eq!(left, LONGEST);
    }
}
