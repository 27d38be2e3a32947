//! The one task per connection that dials it, drives it, waits and dials again, until it is stopped.
//! Knows nothing of protocols; asks `backoff` how long, tells `status` what happened.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::backoff::{Backoff, End, History};
use super::secrets::Scrubber;
use super::status::{Event, Publisher};
use crate::error::{ConnectionError, ErrorKind};

/// How long a connection may take to end its link in the protocol's own way.
const CLOSE: Duration = Duration::from_millis(1_500);

/// Asked before a connection's first attempt: the one place where dialling can be held back.
#[async_trait]
pub(super) trait DialGate: Send + Sync + std::fmt::Debug {
    /// Dialling this connection now would be wrong.
    fn holds(&self, connection: &dyn Connection) -> bool;
    /// Not even on request may a connection that is held be dialled: messages would be lost.
    fn insists(&self) -> bool;
    /// Returns when it may be dialled; bounded in time.
    async fn open(&self);
}

/// What a supervisor needs. Its owner cancels `stop` to end it.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) connection: Arc<dyn Connection>,
    pub(super) status: Arc<Publisher>,
    pub(super) scrub: Arc<Scrubber>,
    pub(super) gate: Arc<dyn DialGate>,
    pub(super) backoff: Backoff,
    pub(super) stop: CancellationToken,
    /// The connection was replaced: another supervisor publishes its status now.
    pub(super) replaced: CancellationToken,
    /// Changes when somebody asks for a try now.
    pub(super) nudge: watch::Receiver<u64>,
}

/// Why a wait ended.
#[derive(PartialEq, Eq)]
enum Woken {
    Dial,
    Stop,
}

impl Supervisor {
    /// Runs until `stop`. Every path through the loop waits: for an attempt, for the link to be
    /// lost, and at least the back-off's floor after each.
    pub(super) async fn run(mut self) {
        let driven = self.until_the_gate_opens().await == Woken::Dial && self.keep_open().await;
        if !driven {
            self.goodbye().await;
        }
        self.publish(&Event::Closed);
    }

    async fn until_the_gate_opens(&mut self) -> Woken {
        if !self.gate.holds(&*self.connection) {
            return if self.stop.is_cancelled() {
                Woken::Stop
            } else {
                Woken::Dial
            };
        }
        self.publish(&Event::Held);
        let (gate, stop) = (Arc::clone(&self.gate), self.stop.clone());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Woken::Stop,
                () = self.nudged() => if !gate.insists() {
                    return Woken::Dial;
                },
                () = gate.open() => return Woken::Dial,
            }
        }
    }

    /// Until stopped. True: the link was up then, and has said goodbye.
    async fn keep_open(&mut self) -> bool {
        let began = Instant::now();
        let mut history = History::default();
        loop {
            self.publish(&Event::Dial);
            let stop = self.stop.clone();
            let attempt = tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                attempt = self.dial() => attempt,
            };
            let (end, error) = match attempt {
                Err(error) => (End::Failed, error),
                Ok(()) => {
                    self.publish(&Event::Up);
                    let up = Instant::now();
                    let Some(error) = self.drive().await else {
                        return true;
                    };
                    let useful = self.connection.was_useful();
                    (
                        End::Lost {
                            lasted: up.elapsed(),
                            useful,
                        },
                        error,
                    )
                }
            };
            let now = began.elapsed();
            history = history.after(&self.backoff, end, now);
            let next = (error.kind != ErrorKind::Misconfigured).then(|| {
                let random = rand::random();
                self.backoff
                    .wait(&history, now, error.pace, error.retry_after, random)
            });
            // A nudge from before this failure was for the attempt that has just ended.
            self.nudge.mark_unchanged();
            self.publish(&Event::Down {
                error: &error,
                next,
            });
            if self.wait(next).await == Woken::Stop {
                return false;
            }
        }
    }

    async fn dial(&self) -> Result<(), ConnectionError> {
        let limit = self.connection.dial_timeout();
        let attempt = AssertUnwindSafe(self.connection.connect()).catch_unwind();
        match timeout(limit, attempt).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(panicked(&*panic)),
            Err(_) => {
                let seconds = limit.as_secs_f32();
                let sentence = format!("no connection within {seconds} s");
                Err(ConnectionError::disconnected("timeout", sentence))
            }
        }
    }

    /// Drives the link until it is lost. None: stopped; then the link is still driven while the
    /// connection says goodbye, so that the goodbye can be written.
    async fn drive(&self) -> Option<ConnectionError> {
        let mut lost = std::pin::pin!(AssertUnwindSafe(self.connection.lost()).catch_unwind());
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                lost = &mut lost => {
                    return Some(lost.unwrap_or_else(|panic| panicked(&*panic)));
                }
                () = self.connection.warned() => self.publish(&Event::Warned),
            }
        }
        let driven = async {
            // Why it was lost is of no interest any more; the goodbye still has its time.
            drop(lost.await);
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = self.goodbye() => {}
            () = driven => {}
        }
        None
    }

    async fn goodbye(&self) {
        let close = AssertUnwindSafe(self.connection.close()).catch_unwind();
        match timeout(CLOSE, close).await {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => tracing::error!(err = panicked(&*panic).report(), "close"),
            Err(_) => tracing::debug!("a connection did not close in time"),
        }
    }

    async fn wait(&mut self, next: Option<Duration>) -> Woken {
        let time = async {
            match next {
                Some(wait) => sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => Woken::Stop,
            () = self.nudged() => Woken::Dial,
            () = time => Woken::Dial,
        }
    }

    async fn nudged(&mut self) {
        if self.nudge.changed().await.is_err() {
            // Nobody is left who could ask.
            std::future::pending().await
        }
    }

    fn publish(&self, event: &Event<'_>) {
        if !self.replaced.is_cancelled() {
            self.status.publish(event, &*self.connection, &self.scrub);
        }
    }
}

/// A defect of a connection type must not end its supervision; it must not spin either.
fn panicked(panic: &(dyn Any + Send)) -> ConnectionError {
    let words = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    ConnectionError::disconnected(
        "internal",
        "the connection failed by a defect of this program",
    )
    .caused_by(words)
    .slow()
}
