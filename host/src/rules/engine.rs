//! Starts and stops rules: leases their connections, makes sources and actions, watches them end.
//!
//! A rule is its actions, each with a task, and its share in a source, which has one task however
//! many rules share it. All tasks run on the guests' runtime, in sets that are awaited at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::action::Action;
use super::decompress::Unpacker;
use super::duplicates::Window;
use super::fan::{Output, RuleInput};
use super::forward::Forwarder;
use super::letters::{Checkpoints, Letters};
use super::message_id::MessageIds;
use super::plan::{GuestPlan, Reach, RulePlan, StreamPlan};
use super::sink::{GuestSink, Slots};
use super::source::Source;
use super::spill::SpillSet;
use crate::config::RestartStrategy;
use crate::connections::pool::{Lease, Pool, PoolError};
use crate::runtime::{
    Grant, GuestConfig, GuestLimits, KeptSubscriptions, Runtime, SinkGuest, SourceGuest,
};
use crate::store::Store;

mod reading;
mod rule;

pub use self::reading::RunningSource;
use self::reading::{Opening, settle_on};
use self::rule::Watched;
pub use self::rule::{Rule, RuleChange, RuleState};

/// So many times what an HTTP connection sends at once is one write.
const ROUNDS: usize = 16;

/// The only tenant until there are more.
pub const TENANT: &str = "default";

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
    /// Sources whose `open` has not worked yet, and which have not failed.
    opening: watch::Sender<usize>,
}

/// What a rule that was stopped leaves to the one that is started in its place.
#[derive(Debug)]
pub struct Before {
    /// Of a source that ended with it.
    subscriptions: Option<KeptSubscriptions>,
    /// Its source. While this is held, connections of the rule's own stay too.
    source: Arc<RunningSource>,
    rule: String,
}

impl Before {
    /// The source of that stream would reach the same connections.
    fn serves(&self, stream: &StreamPlan) -> bool {
        let plan = &self.source.plan;
        plan.guest.slots == stream.guest.slots && plan.shared == stream.shared
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        let source = &self.source.source;
        // What waits for a rule that has joined again is with it already.
        let messages = source.give_up(&self.rule);
        if messages > 0 {
            tracing::warn!(rule = %self.rule, stream = %source.stream, messages, "messages that came while the rule was changed are dropped: it did not come back to its source");
        }
        if source.is_unused() {
            // The last of the others has left meanwhile.
            self.source.let_end();
        }
    }
}

/// Whether a rule that ends comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It does not: messages that can be kept nowhere are given up, for they hold up others.
    Gone,
    /// At once, perhaps otherwise: what comes meanwhile waits for it.
    ForAMoment,
    /// With all rules of its source, which has stopped reading.
    Together,
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

    /// Waits until every source started so far has opened, or has ended for good or until its restart. An
    /// `open` that fails and is tried again is waited for.
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
        self.start_after(plan, None)
    }

    /// [`Engine::start`] in the place of a rule that was stopped for it: see
    /// [`Engine::stop_for_another`].
    ///
    /// # Errors
    /// As [`Engine::start`]; the old subscriptions have ended then.
    pub fn start_after(
        self: &Arc<Self>,
        plan: &RulePlan,
        before: Option<Before>,
    ) -> Result<(), StartError> {
        // Longer than what was before: a source that is found is not ended as unused.
        let _joining = self.joining.lock();
        // Connections of the rule's own that are not the same any more must be gone first.
        let mut before = before.filter(|before| before.serves(&plan.stream));
        let started = self.start_joining(plan, before.as_mut());
        drop(before);
        started
    }

    /// Stops rules that share a source and starts them on a new one: nothing is read in between, so that
    /// none of them misses anything. `plans` are theirs, of one shared stream.
    pub async fn restart_together(
        self: &Arc<Self>,
        plans: &[RulePlan],
        deadline: Instant,
    ) -> Vec<(String, Result<(), StartError>)> {
        let rules: Vec<_> = plans
            .iter()
            .filter_map(|plan| self.rule(&plan.def.id))
            .collect();
        let mut before = None;
        if let Some((last, others)) = rules.split_last() {
            last.source.stop_reading(deadline).await;
            for rule in others {
                self.end_rule(rule, deadline, Ending::Together).await;
            }
            before = self.stop_for_another(&last.id, deadline).await;
        }
        let mut before = before.filter(|before| {
            let stream = plans.first().map(|plan| &plan.stream);
            stream.is_some_and(|stream| before.serves(stream))
        });
        // Until this is free, a source that has opened does not begin to read.
        let _joining = self.joining.lock();
        plans
            .iter()
            .map(|plan| {
                let started = self.start_joining(plan, before.as_mut());
                (plan.def.id.clone(), started)
            })
            .collect()
    }

    /// `joining` must be held.
    fn start_joining(
        self: &Arc<Self>,
        plan: &RulePlan,
        before: Option<&mut Before>,
    ) -> Result<(), StartError> {
        let id = plan.def.id.clone();
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
                .with_retry(action.retry)
                .with_portion(portion(&grants))
                .with_restart(plan.def.options.restart_strategy);
            let queue = Arc::new(queue);
            let guest = SinkGuest::new(
                &self.parts.runtime,
                Arc::clone(&action.guest.connector),
                self.guest_config(&id, &action.name, &action.guest, grants),
            );
            let ids = action.ids.clone();
            let output = Output::new(Arc::clone(&queue), Arc::clone(&action.output))
                .with_ids(ids.map(|(header, name)| MessageIds::new(header, name)))
                .with_carries(action.carries.clone())
                .with_window(action.deduplicate.as_ref().map(Window::new));
            outputs.push(output);
            sinks.push((queue, guest, Slots::new(leases)));
        }
        let input = Arc::new(RuleInput {
            rule: id.clone(),
            query: Arc::clone(&plan.query),
            outputs,
            stats: super::fan::QueryStats::default(),
            newest: super::fan::Newest::new(self.parts.rows),
        });
        let forwarder = self.forwarder(&id, plan)?;
        let source = self.source(
            &id,
            &plan.stream,
            plan.def.options.restart_strategy.unwrap_or_default(),
            before,
        )?;
        let rule = Arc::new(Rule {
            id: id.clone(),
            stream: plan.stream.name.clone(),
            input: Arc::clone(&input),
            slots: sinks.iter().map(|(_, _, slots)| slots.clone()).collect(),
            guests: sinks.iter().map(|(_, guest, _)| guest.stats()).collect(),
            source: Arc::clone(&source),
            forwarder: forwarder.clone(),
            started_ms: super::now_ms(),
            stranded: Mutex::default(),
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
        if let Some(forwarder) = forwarder {
            let (input, over) = (Arc::clone(&input), rule.lingering.clone());
            rule.tasks.spawn_on(
                async move {
                    let outputs = input.outputs.iter();
                    let progress: Vec<_> = outputs.map(|output| &output.action.progress).collect();
                    tokio::select! {
                        () = forwarder.run(&progress) => {}
                        () = over.cancelled() => {}
                    }
                },
                &handle,
            );
        }
        rule.tasks.spawn_on(
            look_for_stranded(Arc::clone(&self.parts.spills), Arc::clone(&rule)),
            &handle,
        );
        self.rules.lock().insert(id, Arc::clone(&rule));
        source.source.join(input);
        rule.enter(rule.state_by_source(), &self.changes);
        Ok(())
    }

    /// Whoever forwards the rule's dead letters, where somebody shall.
    fn forwarder(&self, rule: &str, plan: &RulePlan) -> Result<Option<Arc<Forwarder>>, StartError> {
        let Some(to) = plan.forward.clone() else {
            return Ok(None);
        };
        let lease = self.parts.pool.lease(TENANT, &to.connection, rule);
        let lease = lease.map_err(|source| StartError::Connection {
            rule: rule.to_owned(),
            slot: "deadLetters".to_owned(),
            source: Box::new(source),
        })?;
        let store = self.parts.store.clone();
        let forwarder = Forwarder::new(store, rule.to_owned(), to, lease);
        Ok(Some(Arc::new(forwarder)))
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
        before: Option<&mut Before>,
    ) -> Result<Arc<RunningSource>, StartError> {
        let key = if plan.shared {
            format!("stream/{}", plan.name)
        } else {
            format!("rule/{rule}/{}", plan.name)
        };
        let running = self.sources.lock().get(&key).cloned();
        if let Some(running) = running.filter(|running| !running.stop.is_cancelled()) {
            return Ok(running);
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
        if let Some(kept) = before.and_then(|before| before.subscriptions.take()) {
            guest.take_over(kept);
        }
        let most = self.parts.pool.limits().max_message_bytes;
        let source = Source::new(plan.name.clone(), plan.format.clone())
            .unpacking(plan.decompression.map(|how| Unpacker::new(how, most)));
        let running = Arc::new(RunningSource::new(
            source,
            Slots::new(leases),
            named,
            &guest,
            key.clone(),
            plan,
        ));
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
                if this.replaced.load(Ordering::Relaxed) {
                    *this.left.lock() = Some(guest.keep());
                } else if this.gone.load(Ordering::Relaxed) {
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

    /// Stops a rule: it leaves its source, or the source stops with its last rule; its actions
    /// drain until `deadline`, and what is left goes to their disk queues.
    pub async fn stop(&self, id: &str, deadline: Instant) -> bool {
        match self.rule(id) {
            Some(rule) => {
                self.end_rule(&rule, deadline, Ending::Gone).await;
                true
            }
            None => false,
        }
    }

    /// Stops a rule that is started again at once, perhaps otherwise: the subscriptions of its source
    /// stay, or where its source goes on for others what it reads waits, so that nothing is missed in
    /// between. None: it does not run.
    pub async fn stop_for_another(&self, id: &str, deadline: Instant) -> Option<Before> {
        let rule = self.rule(id)?;
        self.end_rule(&rule, deadline, Ending::ForAMoment).await;
        let subscriptions = rule.source.left.lock().take();
        Some(Before {
            subscriptions,
            source: Arc::clone(&rule.source),
            rule: rule.id.clone(),
        })
    }

    /// A rule that was started and not stopped since.
    #[must_use]
    pub fn rule(&self, id: &str) -> Option<Arc<Rule>> {
        self.rules.lock().get(id).cloned()
    }

    /// Whether other rules read the same source.
    #[must_use]
    pub fn is_shared(&self, rule: &Rule) -> bool {
        !rule.source.source.is_alone(&rule.id)
    }

    async fn end_rule(&self, rule: &Arc<Rule>, deadline: Instant, ending: Ending) {
        let id = rule.id.as_str();
        self.rules.lock().remove(id);
        rule.enter(RuleState::Stopping, &self.changes);
        let last = {
            let _joining = self.joining.lock();
            let last = rule.source.source.is_alone(id);
            if last {
                let replaced = ending == Ending::ForAMoment;
                rule.source.replaced.store(replaced, Ordering::Relaxed);
                // From now on a rule that starts on this stream gets a source of its own.
                let mut sources = self.sources.lock();
                if sources
                    .get(&rule.source.key)
                    .is_some_and(|running| Arc::ptr_eq(running, &rule.source))
                {
                    sources.remove(&rule.source.key);
                }
            } else {
                if ending == Ending::ForAMoment {
                    rule.source.source.leave_for_a_moment(id);
                } else {
                    rule.source.source.leave(id);
                }
                if ending == Ending::Gone {
                    let outputs = rule.input.outputs.iter();
                    outputs.for_each(|output| output.action.let_go());
                }
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

/// Says what waits on disk for actions that a rule had before it was changed.
async fn look_for_stranded(spills: Arc<SpillSet>, rule: Arc<Rule>) {
    let outputs = rule.input.outputs.iter();
    let actions: Vec<_> = outputs.map(|output| output.action.name.as_str()).collect();
    let stranded = spills.stranded(TENANT, &rule.id, &actions).await;
    let sentences = stranded.into_iter().map(|(action, messages)| {
        format!(
            "{messages} messages wait in the disk queue of {action}, an action that the rule has no more: \
             they go on when it has one of that name, and are deleted with the rule"
        )
    });
    let sentences: Vec<_> = sentences.collect();
    for sentence in &sentences {
        tracing::warn!(rule = %rule.id, "{sentence}");
    }
    *rule.stranded.lock() = sentences;
}

/// Messages of one write, where that should be fewer than usual. Over HTTP each is a request, some of
/// them at once: with more in one write nothing is quicker, and the first ones are settled late.
fn portion(grants: &[Grant]) -> Option<usize> {
    let at_once = grants.iter().filter_map(|grant| {
        let connection = grant.target.connection();
        connection.http().map(|http| http.concurrency())
    });
    Some(at_once.min()?.saturating_mul(ROUNDS))
}
