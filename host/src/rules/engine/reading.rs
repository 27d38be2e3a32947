//! A source that was started: it is read, settled, begun again after an error, and ended. Knows the
//! rules on it only to tell them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Engine, Rule, RuleState};
use crate::config::RestartStrategy;
use crate::rules::action::restart_delay;
use crate::rules::letters::Checkpoints;
use crate::rules::plan::StreamPlan;
use crate::rules::sink::Slots;
use crate::rules::source::{End, Source};
use crate::runtime::{GuestStats, KeptSubscriptions, SourceGuest, Waker};

/// A source that was started.
#[derive(Debug)]
pub struct RunningSource {
    /// The source and what it counts.
    pub source: Source,
    /// Its connections.
    pub slots: Slots,
    /// The ids of its named connections with the datasource, for eKuiper's names of metrics.
    pub named: Vec<String>,
    /// What its guest costs.
    pub guest: Arc<GuestStats>,
    pub(super) key: String,
    pub(super) waker: Waker,
    pub(super) stop: CancellationToken,
    /// Why it has ended by itself, while that is so.
    pub(super) failed: Mutex<Option<String>>,
    /// Its guest's `open` has worked, and it has not failed since.
    open: AtomicBool,
    /// The reading has ended.
    pub(super) ended: watch::Sender<bool>,
    /// The actions are done: settle what is left and close.
    pub(super) finish: watch::Sender<Option<Instant>>,
    /// It will not come back: its subscriptions end. Not so when the host stops.
    pub(super) gone: AtomicBool,
    /// Another will come in its place: its subscriptions are left there.
    pub(super) replaced: AtomicBool,
    pub(super) left: Mutex<Option<KeptSubscriptions>>,
    /// How it was planned.
    pub(super) plan: Arc<StreamPlan>,
    pub(super) tasks: TaskTracker,
}

impl Engine {
    /// Reads, and after an error again as often as the strategy says.
    pub(super) async fn read(
        &self,
        running: &Arc<RunningSource>,
        guest: &mut SourceGuest,
        checkpoints: &Checkpoints,
        opening: Opening,
        restart: &RestartStrategy,
    ) {
        let opening = Mutex::new(Some(opening));
        let opened = || {
            drop(opening.lock().take());
            self.source_opened(running);
        };
        let mut failures = 0;
        loop {
            let source = &running.source;
            let refused = |words| *source.stats.trouble.lock() = Some(words);
            let settling = async {
                settle_on(source, checkpoints).await;
                std::future::pending().await
            };
            let resume = tokio::select! {
                resume = checkpoints.last(refused) => resume,
                () = settling => return,
                () = running.stop.cancelled() => return,
            };
            let before = source.stats.reads.load(Ordering::Relaxed);
            let end = source
                .run(guest, resume, checkpoints, &running.stop, &opened)
                .await;
            // What has ended is not waited for.
            drop(opening.lock().take());
            let wait = match end {
                End::Stopped | End::Finished => return,
                End::Abandoned => {
                    tracing::warn!(stream = %source.stream, "a batch was abandoned; reading goes on from the last final checkpoint");
                    source.renew();
                    Duration::from_secs(1)
                }
                End::Failed(reason) => {
                    self.source_failed(running, Some(reason));
                    if source.stats.reads.load(Ordering::Relaxed) > before {
                        failures = 0;
                    }
                    let Some(wait) = restart_delay(restart, failures, rand::random()) else {
                        return;
                    };
                    failures += 1;
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = settle_on(source, checkpoints) => {}
                () = running.stop.cancelled() => return,
            }
            self.source_failed(running, None);
        }
    }

    /// Every rule that waits for that source runs.
    fn source_opened(&self, source: &Arc<RunningSource>) {
        // A rule that is about to join sees it then.
        let _joining = self.joining.lock();
        source.open.store(true, Ordering::Relaxed);
        for rule in self.rules_on(source) {
            if rule.state() == RuleState::Starting {
                rule.enter(RuleState::Running, &self.changes);
            }
        }
    }

    fn rules_on(&self, source: &Arc<RunningSource>) -> impl Iterator<Item = Arc<Rule>> {
        let rules = self.rules().into_iter();
        rules.filter(|rule| Arc::ptr_eq(&rule.source, source))
    }

    /// Every rule on that source stops with the reason, or goes on.
    fn source_failed(&self, source: &Arc<RunningSource>, reason: Option<String>) {
        // A rule that is about to join sees it then.
        let _joining = self.joining.lock();
        if source.failed.lock().is_none() && reason.is_none() {
            return;
        }
        if reason.is_some() {
            source.open.store(false, Ordering::Relaxed);
        }
        *source.failed.lock() = reason;
        for rule in self.rules_on(source) {
            match rule.source_trouble() {
                Some(trouble) => rule.enter(RuleState::Failed(trouble), &self.changes),
                None => rule.recover(&self.changes),
            }
        }
    }
}

impl RunningSource {
    pub(super) fn new(
        source: Source,
        slots: Slots,
        named: Vec<String>,
        guest: &SourceGuest,
        key: String,
        plan: &Arc<StreamPlan>,
    ) -> Self {
        Self {
            source,
            slots,
            named,
            guest: guest.stats(),
            key,
            waker: guest.waker(),
            stop: CancellationToken::new(),
            failed: Mutex::default(),
            open: AtomicBool::new(false),
            ended: watch::channel(false).0,
            finish: watch::channel(None).0,
            gone: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
            left: Mutex::default(),
            plan: Arc::clone(plan),
            tasks: TaskTracker::new(),
        }
    }

    /// Under which name its position is kept.
    #[must_use]
    pub fn key(&self) -> String {
        self.key.clone()
    }

    /// Its guest's `open` has worked, and it has not failed since.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) async fn stop_reading(&self, deadline: Instant) {
        self.stop.cancel();
        self.waker.wake();
        let mut ended = self.ended.subscribe();
        // A guest that does not come back is ended by its own deadline; it holds nobody up here.
        let _in_time = tokio::time::timeout_at(deadline, ended.wait_for(|ended| *ended)).await;
    }

    /// Nobody is left to wait for its end: it unsubscribes, and is gone.
    pub(super) fn let_end(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.stop.cancel();
        self.waker.wake();
        self.finish.send_replace(Some(Instant::now()));
        self.tasks.close();
    }

    pub(super) async fn end(&self, deadline: Instant) {
        self.finish.send_replace(Some(deadline));
        self.tasks.close();
        if tokio::time::timeout_at(deadline + Duration::from_secs(2), self.tasks.wait())
            .await
            .is_err()
        {
            tracing::error!(stream = %self.source.stream, "the source did not end in time");
        }
        // Whatever task is dropped from now on has not made anything final.
        self.source.ledger().seal();
    }
}

/// A source whose `open` has not worked yet, and which still tries.
pub(super) struct Opening(watch::Sender<usize>);

impl Opening {
    pub(super) fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|opening| *opening += 1);
        Self(count.clone())
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0
            .send_modify(|opening| *opening = opening.saturating_sub(1));
    }
}

/// Goes on settling after the reading has ended.
pub(super) async fn settle_on(source: &Source, checkpoints: &Checkpoints) {
    source
        .ledger()
        .settle_with(checkpoints, Duration::from_secs(1))
        .await;
}
