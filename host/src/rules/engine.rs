//! Starts and stops rules: leases their connections, makes sources and actions, watches them end.
//!
//! A rule is its actions, each with a task, and its share in a source, which has one task however
//! many rules share it. All tasks run on the guests' runtime, in sets that are awaited at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::action::{Action, restart_delay};
use super::fan::{Output, RuleInput};
use super::letters::{Checkpoints, Letters};
use super::plan::{GuestPlan, Reach, RulePlan, StreamPlan};
use super::sink::{GuestSink, Slots};
use super::source::{End, Source};
use super::spill::SpillSet;
use crate::config::RestartStrategy;
use crate::connections::pool::{Lease, Pool, PoolError};
use crate::runtime::{
    Grant, GuestConfig, GuestLimits, GuestStats, Runtime, SinkGuest, SourceGuest, Waker,
};
use crate::store::Store;

/// The only tenant until there are more.
pub const TENANT: &str = "default";

/// Where a rule is. The words are eKuiper's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleState {
    /// Its source has not opened yet.
    Starting,
    /// It runs; its connections may be down.
    Running,
    /// It drains.
    Stopping,
    /// It was stopped.
    Stopped,
    /// It ended by itself, for this reason.
    Failed(String),
}

impl RuleState {
    /// The status word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed(_) => "stopped by error",
        }
    }

    /// Why, where there is a why.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Failed(reason) => reason,
            Self::Stopped => "canceled manually",
            Self::Starting | Self::Running | Self::Stopping => "",
        }
    }
}

/// A rule has changed its state.
#[derive(Clone, Debug)]
pub struct RuleChange {
    /// The rule.
    pub rule: String,
    /// Its new state.
    pub state: RuleState,
}

/// What the engine builds rules from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Checkpoints and dead letters.
    pub store: Store,
    /// Connections.
    pub pool: Pool,
    /// Guests.
    pub runtime: Runtime,
    /// Disk queues.
    pub spills: Arc<SpillSet>,
    /// Bounds of every guest.
    pub limits: GuestLimits,
    /// How many of each rule's newest results are kept for showing.
    pub rows: usize,
}

/// All rules.
#[derive(Debug)]
pub struct Engine {
    parts: Parts,
    rules: Mutex<BTreeMap<String, Arc<Rule>>>,
    sources: Mutex<BTreeMap<String, Arc<RunningSource>>>,
    /// Held while a rule finds its source and joins it, or is the last to leave it.
    joining: Mutex<()>,
    changes: broadcast::Sender<RuleChange>,
    /// Sources whose first `open` has not ended yet.
    opening: watch::Sender<usize>,
}

/// A rule that was started.
#[derive(Debug)]
pub struct Rule {
    /// Its id.
    pub id: String,
    /// Its stream's name.
    pub stream: String,
    /// The query's part.
    pub input: Arc<RuleInput>,
    /// The actions' connections, in the order of the actions.
    pub slots: Vec<Slots>,
    /// What each action's guest costs.
    pub guests: Vec<Arc<GuestStats>>,
    /// Its source.
    pub source: Arc<RunningSource>,
    /// Since when it runs (ms since the epoch).
    pub started_ms: u64,
    state: watch::Sender<RuleState>,
    stop: watch::Sender<Option<Instant>>,
    tasks: TaskTracker,
    lingering: CancellationToken,
}

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
    key: String,
    waker: Waker,
    stop: CancellationToken,
    /// Why it has ended by itself, while that is so.
    failed: Mutex<Option<String>>,
    /// The reading has ended.
    ended: watch::Sender<bool>,
    /// The actions are done: settle what is left and close.
    finish: watch::Sender<Option<Instant>>,
    /// It will not come back: its subscriptions end. Not so when the host stops.
    gone: AtomicBool,
    tasks: TaskTracker,
}

/// Why a rule could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A connection could not be had.
    #[error("rule {rule}: no connection for slot {slot}")]
    Connection {
        /// The rule.
        rule: String,
        /// The slot.
        slot: String,
        /// Why.
        #[source]
        source: Box<PoolError>,
    },
    /// The rule runs already.
    #[error("rule {0} already exists")]
    Exists(String),
}

impl Rule {
    /// Where it is.
    #[must_use]
    pub fn state(&self) -> RuleState {
        self.state.borrow().clone()
    }

    fn enter(&self, state: RuleState, changes: &broadcast::Sender<RuleChange>) {
        let changed = self.state.send_if_modified(|present| {
            // What ended by an error keeps its reason until it is started anew.
            let keeps =
                matches!(present, RuleState::Failed(_)) && !matches!(state, RuleState::Failed(_));
            if keeps || *present == state {
                return false;
            }
            *present = state.clone();
            true
        });
        if changed {
            if let RuleState::Failed(reason) = &state {
                tracing::error!(rule = %self.id, "stopped by error: {reason}");
            }
            // Nobody may be listening.
            let _listeners = changes.send(RuleChange {
                rule: self.id.clone(),
                state,
            });
        }
    }
}

impl Rule {
    /// Why its source has ended by itself.
    fn source_trouble(&self) -> Option<String> {
        let reason = self.source.failed.lock().clone()?;
        Some(format!("source {}: {reason}", self.stream))
    }

    /// An action or the source works again after its error.
    fn recover(&self, changes: &broadcast::Sender<RuleChange>) {
        let still = self.source_trouble().or_else(|| {
            self.input.outputs.iter().find_map(|output| {
                Some(format!(
                    "{}: {}",
                    output.action.name,
                    output.action.stopped()?
                ))
            })
        });
        let state = still.map_or(RuleState::Running, RuleState::Failed);
        let changed = self.state.send_if_modified(|present| {
            if !matches!(present, RuleState::Failed(_)) || *present == state {
                return false;
            }
            *present = state.clone();
            true
        });
        if changed {
            // Nobody may be listening.
            let _listeners = changes.send(RuleChange {
                rule: self.id.clone(),
                state,
            });
        }
    }
}

impl Engine {
    /// An engine without rules.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            rules: Mutex::default(),
            sources: Mutex::default(),
            joining: Mutex::default(),
            changes: broadcast::channel(1024).0,
            opening: watch::channel(0).0,
        }
    }

    /// Changes of rules' states from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<RuleChange> {
        self.changes.subscribe()
    }

    /// All rules, by id.
    #[must_use]
    pub fn rules(&self) -> Vec<Arc<Rule>> {
        self.rules.lock().values().cloned().collect()
    }

    /// Waits until the first `open` of every source started so far has worked or failed.
    pub async fn sources_opened(&self) {
        let mut opening = self.opening.subscribe();
        // The sender lives in self: it cannot be closed while this runs.
        let _closed = opening.wait_for(|opening| *opening == 0).await;
    }

    /// Starts a rule. Its connections may be down; only a connection that does not exist, or cannot
    /// be configured so, is an error.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub fn start(self: &Arc<Self>, plan: &RulePlan) -> Result<(), StartError> {
        let id = plan.def.id.clone();
        let _joining = self.joining.lock();
        if self.rules.lock().contains_key(&id) {
            return Err(StartError::Exists(id));
        }
        let mut outputs = Vec::new();
        let mut sinks = Vec::new();
        let (stop, stop_signal) = watch::channel(None);
        for action in &plan.actions {
            let label = format!("{id}-{}-{}", action.name, action.topic);
            let (leases, grants) = self.lease(&id, &label, "sink", &action.guest)?;
            let spill = self
                .parts
                .spills
                .queue(TENANT, &id, &action.name, action.spill.clone());
            let capacity = action
                .spill
                .memory_messages
                .unwrap_or(plan.def.options.buffer_length);
            let queue = Action::new(action.name.clone(), capacity, spill)
                .with_owner(format!("{id}/{}", action.name))
                .with_resend_interval(action.spill.resend_interval)
                .with_restart(plan.def.options.restart_strategy);
            let queue = Arc::new(queue);
            let guest = SinkGuest::new(
                &self.parts.runtime,
                Arc::clone(&action.guest.connector),
                self.guest_config(&id, &action.name, &action.guest, grants),
            );
            outputs.push(Output::new(Arc::clone(&queue), Arc::clone(&action.output)));
            sinks.push((queue, guest, Slots::new(leases)));
        }
        let input = Arc::new(RuleInput {
            rule: id.clone(),
            query: Arc::clone(&plan.query),
            outputs,
            stats: super::fan::QueryStats::default(),
            newest: super::fan::Newest::new(self.parts.rows),
        });
        let source = self.source(
            &id,
            &plan.stream,
            plan.def.options.restart_strategy.unwrap_or_default(),
        )?;
        let rule = Arc::new(Rule {
            id: id.clone(),
            stream: plan.stream.name.clone(),
            input: Arc::clone(&input),
            slots: sinks.iter().map(|(_, _, slots)| slots.clone()).collect(),
            guests: sinks.iter().map(|(_, guest, _)| guest.stats()).collect(),
            source: Arc::clone(&source),
            started_ms: super::now_ms(),
            state: watch::channel(RuleState::Starting).0,
            stop,
            tasks: TaskTracker::new(),
            lingering: CancellationToken::new(),
        });
        let handle = self.parts.runtime.handle();
        for (action, guest, slots) in sinks {
            let letters = Letters {
                store: self.parts.store.clone(),
                tenant: TENANT.into(),
                rule: id.clone(),
                action: action.name.clone(),
                stream: plan.stream.name.clone(),
            };
            let (rule, signal, changes) =
                (Arc::clone(&rule), stop_signal.clone(), self.changes.clone());
            let tasks = rule.tasks.clone();
            tasks.spawn_on(
                async move {
                    let _watched = Watched {
                        rule: Arc::clone(&rule),
                        action: action.name.clone(),
                        changes: changes.clone(),
                    };
                    let sink = GuestSink::new(guest, slots.clone());
                    let changed = |stop: Option<&super::deliver::Stop>| match stop {
                        Some(reason) => {
                            rule.enter(
                                RuleState::Failed(format!("{}: {}", action.name, reason.0)),
                                &changes,
                            );
                        }
                        None => rule.recover(&changes),
                    };
                    action.run(sink, &letters, &slots, signal, changed).await;
                },
                &handle,
            );
        }
        for place in 0..input.outputs.len() {
            let (input, over) = (Arc::clone(&input), rule.lingering.clone());
            rule.tasks.spawn_on(
                async move {
                    let Some(output) = input.outputs.get(place) else {
                        return;
                    };
                    tokio::select! {
                        () = output.linger() => {}
                        () = over.cancelled() => {}
                    }
                },
                &handle,
            );
        }
        self.rules.lock().insert(id, Arc::clone(&rule));
        source.source.join(input);
        let state = rule
            .source_trouble()
            .map_or(RuleState::Running, RuleState::Failed);
        rule.enter(state, &self.changes);
        Ok(())
    }

    /// Connections for the slots of a guest.
    fn lease(
        &self,
        rule: &str,
        label: &str,
        role: &str,
        plan: &GuestPlan,
    ) -> Result<(Vec<Arc<Lease>>, Vec<Grant>), StartError> {
        let mut leases = Vec::new();
        let mut grants = Vec::new();
        for slot in &plan.slots {
            let lease = match &slot.reach {
                Reach::Named(id) => self.parts.pool.lease(TENANT, id, rule),
                Reach::Anonymous { typ, props } => {
                    let id = format!("{label}-{typ}-{role}");
                    self.parts
                        .pool
                        .lease_anonymous(TENANT, &id, typ, props.clone(), rule)
                }
            }
            .map_err(|source| StartError::Connection {
                rule: rule.to_owned(),
                slot: slot.slot.clone(),
                source: Box::new(source),
            })?;
            grants.push(Grant {
                slot: slot.slot.clone(),
                target: Arc::clone(&lease) as _,
            });
            leases.push(lease);
        }
        Ok((leases, grants))
    }

    fn guest_config(
        &self,
        rule: &str,
        label: &str,
        plan: &GuestPlan,
        grants: Vec<Grant>,
    ) -> GuestConfig {
        GuestConfig {
            tenant: TENANT.into(),
            rule: rule.into(),
            label: label.into(),
            config: plan.config.clone(),
            grants: grants.into(),
            limits: self.parts.limits.clone(),
        }
    }

    /// The source of a stream: the one that runs already where the stream is shared, else a new one.
    /// How it comes back after an error is up to the rule that starts it.
    fn source(
        self: &Arc<Self>,
        rule: &str,
        plan: &Arc<StreamPlan>,
        restart: RestartStrategy,
    ) -> Result<Arc<RunningSource>, StartError> {
        let key = if plan.shared {
            format!("stream/{}", plan.name)
        } else {
            format!("rule/{rule}/{}", plan.name)
        };
        if let Some(running) = self.sources.lock().get(&key) {
            return Ok(Arc::clone(running));
        }
        let (owner, part) = if plan.shared {
            (
                format!("$$subtopo_{}", plan.name),
                format!("subtopo_{}", plan.name),
            )
        } else {
            (rule.to_owned(), plan.name.clone())
        };
        let label = format!("{owner}-{part}-{}", plan.datasource);
        let (leases, grants) = self.lease(rule, &label, "source", &plan.guest)?;
        let named = plan
            .guest
            .slots
            .iter()
            .filter_map(|slot| match &slot.reach {
                Reach::Named(id) => Some(format!("{id}/{}", plan.datasource)),
                Reach::Anonymous { .. } => None,
            })
            .collect();
        let config = self.guest_config(rule, &plan.name, &plan.guest, grants);
        let mut guest = SourceGuest::new(
            &self.parts.runtime,
            Arc::clone(&plan.guest.connector),
            config,
        );
        let running = Arc::new(RunningSource {
            source: Source::new(plan.name.clone(), plan.format.clone()),
            slots: Slots::new(leases),
            named,
            guest: guest.stats(),
            key: key.clone(),
            waker: guest.waker(),
            stop: CancellationToken::new(),
            failed: Mutex::default(),
            ended: watch::channel(false).0,
            finish: watch::channel(None).0,
            gone: AtomicBool::new(false),
            tasks: TaskTracker::new(),
        });
        let checkpoints = Checkpoints {
            store: self.parts.store.clone(),
            tenant: TENANT.into(),
            key: key.clone(),
        };
        self.sources.lock().insert(key, Arc::clone(&running));
        let opening = Opening::new(&self.opening);
        let engine = Arc::clone(self);
        let this = Arc::clone(&running);
        running.tasks.spawn_on(
            async move {
                engine.read(&this, &mut guest, &checkpoints, opening, &restart).await;
                this.ended.send_replace(true);
                let mut finish = this.finish.subscribe();
                let deadline = tokio::select! {
                    told = finish.wait_for(Option::is_some) => told.ok().and_then(|deadline| *deadline),
                    () = settle_on(&this.source, &checkpoints) => None,
                };
                let deadline = deadline.unwrap_or_else(Instant::now);
                if !this.source.drain(&checkpoints, deadline).await {
                    tracing::warn!(stream = %this.source.stream, "not everything that was read is final; it will come again");
                }
                guest.close().await;
                if this.gone.load(Ordering::Relaxed) {
                    let untaken = guest.unsubscribe();
                    if untaken > 0 {
                        tracing::info!(stream = %this.source.stream, untaken, "messages came after the last read of a source that was stopped");
                    }
                }
            },
            &self.parts.runtime.handle(),
        );
        Ok(running)
    }

    /// Reads, and after an error again as often as the strategy says.
    async fn read(
        &self,
        running: &Arc<RunningSource>,
        guest: &mut SourceGuest,
        checkpoints: &Checkpoints,
        opening: Opening,
        restart: &RestartStrategy,
    ) {
        let mut opening = Some(opening);
        let mut failures = 0;
        loop {
            let resume = checkpoints.last().await;
            let before = running.source.stats.reads.load(Ordering::Relaxed);
            let source = &running.source;
            let wait = match source
                .run(guest, resume, checkpoints, &running.stop, opening.take())
                .await
            {
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

    /// Every rule on that source stops with the reason, or goes on.
    fn source_failed(&self, source: &Arc<RunningSource>, reason: Option<String>) {
        // A rule that is about to join sees it then.
        let _joining = self.joining.lock();
        if source.failed.lock().is_none() && reason.is_none() {
            return;
        }
        *source.failed.lock() = reason;
        for rule in self
            .rules()
            .iter()
            .filter(|rule| Arc::ptr_eq(&rule.source, source))
        {
            match rule.source_trouble() {
                Some(trouble) => rule.enter(RuleState::Failed(trouble), &self.changes),
                None => rule.recover(&self.changes),
            }
        }
    }

    /// Stops a rule: it leaves its source, or the source stops with its last rule; its actions
    /// drain until `deadline`, and what is left goes to their disk queues.
    pub async fn stop(&self, id: &str, deadline: Instant) -> bool {
        let Some(rule) = self.rules.lock().remove(id) else {
            return false;
        };
        rule.enter(RuleState::Stopping, &self.changes);
        let last = {
            let _joining = self.joining.lock();
            let last = rule.source.source.is_alone(id);
            if last {
                // From now on a rule that starts on this stream gets a source of its own.
                let mut sources = self.sources.lock();
                if sources
                    .get(&rule.source.key)
                    .is_some_and(|running| Arc::ptr_eq(running, &rule.source))
                {
                    sources.remove(&rule.source.key);
                }
            } else {
                rule.source.source.leave(id);
                rule.input
                    .outputs
                    .iter()
                    .for_each(|output| output.action.let_go());
            }
            last
        };
        if last {
            // It stays until the reading has ended: what is read meanwhile is still for it.
            rule.source.stop_reading(deadline).await;
            rule.source.source.seal();
        }
        rule.end_actions(deadline).await;
        for output in &rule.input.outputs {
            if let Err(error) = output.action.disk().close().await {
                tracing::warn!(rule = %rule.id, action = %output.action.name, %error, "the disk queue was not closed in good order");
            }
        }
        if last {
            rule.source.gone.store(true, Ordering::Relaxed);
            rule.source.end(deadline).await;
        }
        rule.enter(RuleState::Stopped, &self.changes);
        true
    }

    /// Stops everything, in order: sources, actions, settlement.
    pub async fn stop_all(&self, deadline: Instant) {
        let rules: Vec<_> = std::mem::take(&mut *self.rules.lock())
            .into_values()
            .collect();
        let sources: Vec<_> = std::mem::take(&mut *self.sources.lock())
            .into_values()
            .collect();
        for rule in &rules {
            rule.enter(RuleState::Stopping, &self.changes);
        }
        for source in &sources {
            source.stop.cancel();
            source.waker.wake();
        }
        for source in &sources {
            source.stop_reading(deadline).await;
        }
        for source in &sources {
            source.source.seal();
        }
        for rule in &rules {
            rule.tell_actions(deadline);
        }
        for rule in &rules {
            rule.end_actions(deadline).await;
        }
        for source in &sources {
            source.end(deadline + Duration::from_secs(1)).await;
        }
        for rule in &rules {
            rule.enter(RuleState::Stopped, &self.changes);
        }
    }
}

impl Rule {
    fn tell_actions(&self, deadline: Instant) {
        self.lingering.cancel();
        for output in &self.input.outputs {
            output.flush();
            output.action.close();
        }
        self.stop.send_replace(Some(deadline));
    }

    async fn end_actions(&self, deadline: Instant) {
        self.tell_actions(deadline);
        self.tasks.close();
        // A moment beyond the deadline, for what must still go to disk.
        if tokio::time::timeout_at(deadline + Duration::from_secs(2), self.tasks.wait())
            .await
            .is_err()
        {
            tracing::error!(rule = %self.id, "an action did not end in time");
        }
    }
}

impl RunningSource {
    async fn stop_reading(&self, deadline: Instant) {
        self.stop.cancel();
        self.waker.wake();
        let mut ended = self.ended.subscribe();
        // A guest that does not come back is ended by its own deadline; it holds nobody up here.
        let _in_time = tokio::time::timeout_at(deadline, ended.wait_for(|ended| *ended)).await;
    }

    async fn end(&self, deadline: Instant) {
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

/// An action's task: one that panics must not leave a rule that seems to run.
struct Watched {
    rule: Arc<Rule>,
    action: String,
    changes: broadcast::Sender<RuleChange>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let words = format!(
                "{}: ended by a fault of the host; the log has more",
                self.action
            );
            self.rule.enter(RuleState::Failed(words), &self.changes);
        }
    }
}

/// A source whose first `open` has not ended.
struct Opening(watch::Sender<usize>);

impl Opening {
    fn new(count: &watch::Sender<usize>) -> Self {
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
async fn settle_on(source: &Source, checkpoints: &Checkpoints) {
    source
        .ledger()
        .settle_with(checkpoints, Duration::from_secs(1))
        .await;
}
