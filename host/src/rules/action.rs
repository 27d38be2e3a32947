//! One action of a rule: output steps, memory queue, disk queue, sink.
//!
//! The source calls [`Action::accept`]; one task per action, [`Action::run`], writes. The task keeps
//! two promises at once: messages leave in order, and nobody upstream waits for a sink that is slow
//! or away. So while a write is under way it moves what waits behind it, and the write's own batch
//! first, to the disk queue as soon as that is due; from then on the batch in hand is on disk and
//! its read is settled, and the write that ends later only moves the disk queue's cursor.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::deliver::{self, Delivery, Graveyard, Progress, Stop, Writer};
use super::queue::{Item, Queue, join};
use super::retry::RetryPolicy;
use super::settle::Ticket;
use super::spill::Spill;
use crate::config::RestartStrategy;
use crate::error::ConnectionError;
use crate::message::{Batch, Message};

mod keep;

use keep::{Hand, Kept, SPILL_MESSAGES, SPILL_RETRY};

/// A sink instance without work for this long is put away.
const IDLE: Duration = Duration::from_secs(10);
/// Messages and bytes in one write.
const WRITE_MESSAGES: usize = 1024;
const WRITE_BYTES: usize = 4 * 1024 * 1024;

/// What the action's task needs of its sink beyond writing.
#[async_trait]
pub trait Sink: Writer {
    /// Frees the instance; the next write makes it again.
    async fn put_away(&mut self);
    /// Ends the instance in good order.
    async fn close(&mut self);
}

/// Whether the links of a sink are up, for a task that has lent the sink itself to a write.
#[async_trait]
pub trait Links: Send + Sync + fmt::Debug {
    /// All are up.
    fn are_up(&self) -> bool;
    /// Waits for any change of any of them.
    async fn changed(&self);
}

/// What happens with a message that has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Somebody upstream waits for the acknowledgement: always taken in, spilled when due.
    Always,
    /// Nobody waits, and nobody else is held up: taken in; the source waits for room afterwards.
    Wait,
    /// Nobody waits, and others share the source: dropped, newest first, when there is no room.
    Offer,
}

/// One action, as the source and the status see it.
#[derive(Debug)]
pub struct Action {
    /// `<sink type>_<place>`, as in eKuiper's metrics.
    pub name: String,
    /// What it counts.
    pub progress: Progress,
    /// Messages that came out of the output steps.
    pub accepted: AtomicU64,
    /// Messages moved to disk.
    pub spilled: AtomicU64,
    queue: Queue,
    graves: Queue,
    spill: Arc<dyn Spill>,
    retry: RetryPolicy,
    restart: RestartStrategy,
    /// The source goes on without this action: see [`Action::let_go`].
    let_go: AtomicBool,
    /// Messages that were let go.
    lost: AtomicU64,
    /// Why nothing can be moved to disk, while that is so.
    blocked: Mutex<Option<String>>,
    stopped: Mutex<Option<String>>,
    writing: AtomicBool,
}

/// Says when there was no work for long. One timer that is set anew only when it fires: to set one
/// for each message costs more than many a write.
#[derive(Debug)]
struct Idle {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            timer: Box::pin(tokio::time::sleep(IDLE)),
        }
    }

    /// # Cancel safety
    /// Safe.
    async fn over(&mut self) {
        loop {
            self.timer.as_mut().await;
            let due = self.since + IDLE;
            if Instant::now() >= due {
                return;
            }
            self.timer.as_mut().reset(due);
        }
    }
}

/// How the task of an action was told to end: by when, at the latest.
pub type StopSignal = watch::Receiver<Option<Instant>>;

impl Action {
    /// An action with a memory queue of `capacity` messages.
    pub fn new(name: String, capacity: usize, spill: Arc<dyn Spill>) -> Self {
        Self {
            name,
            progress: Progress::default(),
            accepted: AtomicU64::new(0),
            spilled: AtomicU64::new(0),
            queue: Queue::new(capacity),
            graves: Queue::new(capacity),
            spill,
            retry: RetryPolicy::default(),
            restart: RestartStrategy::default(),
            let_go: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            blocked: Mutex::default(),
            stopped: Mutex::default(),
            writing: AtomicBool::new(false),
        }
    }

    /// When a failed write is tried again, and when its messages are given up.
    #[must_use]
    pub fn with_retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Whose it is, for the log.
    #[must_use]
    pub fn with_owner(mut self, owner: String) -> Self {
        self.progress.owner = owner;
        self
    }

    /// How it comes back after an error that ended it. Without it: never.
    #[must_use]
    pub fn with_restart(mut self, strategy: Option<RestartStrategy>) -> Self {
        self.restart = strategy.unwrap_or_default();
        self
    }

    /// Takes in messages, in order. Never waits. False: there was no room, and they were dropped.
    pub fn accept(&self, batch: Batch, tickets: Vec<Ticket>, admission: Admission) -> bool {
        if batch.is_empty() {
            return true;
        }
        self.accepted
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        let item = Item::new(batch, tickets);
        match admission {
            // A payload of several messages may hold one that somebody waits for.
            Admission::Offer if !item.lossless() => self.queue.offer(item),
            Admission::Always | Admission::Wait | Admission::Offer => {
                self.queue.push(item);
                true
            }
        }
    }

    /// Takes in messages that can never be written.
    pub fn bury(&self, batch: Batch, tickets: Vec<Ticket>, reason: ConnectionError) {
        let item = Item {
            reason: Some(Box::new(reason)),
            ..Item::new(batch, tickets)
        };
        if item.lossless() {
            self.graves.push(item);
        } else {
            // Nobody upstream bounds them.
            self.graves.offer(item);
        }
    }

    /// The rule stops and its source goes on for others: what can be neither delivered nor put on
    /// disk by the end is dropped and counted. To leave it unacknowledged would hold up the others,
    /// and could not bring it back to a rule that is gone.
    pub fn let_go(&self) {
        self.let_go.store(true, Ordering::Relaxed);
    }

    /// There is room in the memory queue.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.queue.has_room()
    }

    /// Waits for room in the memory queue.
    pub async fn room(&self) {
        self.queue.room().await;
        self.graves.room().await;
    }

    /// Nothing new comes in.
    pub fn close(&self) {
        self.queue.close();
        self.graves.close();
    }

    /// Messages in memory, the one under way not among them.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.messages()
    }

    /// Since when the oldest of them waits.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.queue.oldest()
    }

    /// A write is under way.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.writing.load(Ordering::Relaxed)
    }

    /// Messages dropped for want of room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.queue.dropped() + self.graves.dropped() + self.lost.load(Ordering::Relaxed)
    }

    /// The disk queue.
    #[must_use]
    pub fn disk(&self) -> &dyn Spill {
        &*self.spill
    }

    /// Why nothing can be moved to disk at present, so that upstream waits for this action.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        self.blocked.lock().clone()
    }

    /// Why the action stopped for good, if it did.
    #[must_use]
    pub fn stopped(&self) -> Option<String> {
        self.stopped.lock().clone()
    }

    /// Writes until told to stop. `on_change` hears of an error that ends the rule, and of None when
    /// it is tried again after that; in between the action only moves what still comes to disk, so
    /// that nobody upstream waits for it.
    pub async fn run<S: Sink, G: Graveyard, L: Links>(
        &self,
        mut sink: S,
        graveyard: &G,
        links: &L,
        mut stop: StopSignal,
        on_change: impl Fn(Option<&Stop>) + Send,
    ) {
        let mut burying = stop.clone();
        tokio::join!(
            async {
                let mut failures = 0;
                loop {
                    let before = self.progress.written.load(Ordering::Relaxed);
                    let Err(reason) = self.write_all(&mut sink, graveyard, links, &mut stop).await
                    else {
                        break;
                    };
                    if self.progress.written.load(Ordering::Relaxed) > before {
                        failures = 0;
                    }
                    let wait = restart_delay(&self.restart, failures, rand::random());
                    failures = failures.saturating_add(1);
                    *self.stopped.lock() = Some(reason.0.clone());
                    on_change(Some(&reason));
                    sink.put_away().await;
                    if !self.park(&mut stop, wait).await {
                        break;
                    }
                    *self.stopped.lock() = None;
                    on_change(None);
                }
                self.keep_rest(None).await;
                sink.close().await;
            },
            self.bury_all(graveyard, &mut burying),
        );
        // What comes now comes too late: it is not acknowledged.
        for late in [self.queue.end(), self.graves.end()] {
            self.keep(late).await;
        }
    }

    /// The dead letters of decoding and of the output steps.
    async fn bury_all<G: Graveyard>(&self, graveyard: &G, stop: &mut StopSignal) {
        loop {
            self.graves.ready().await;
            for item in self.graves.take(64) {
                let Some(reason) = item.reason else { continue };
                let bury = deliver::bury(graveyard, &self.progress, &item.batch, &reason, 0);
                tokio::select! {
                    biased;
                    () = bury => {}
                    () = past_deadline(stop) => self.give_up(item.tickets, item.batch.len()),
                }
            }
            if self.graves.is_closed() && self.graves.messages() == 0 {
                return;
            }
        }
    }

    async fn write_all<S: Sink, G: Graveyard, L: Links>(
        &self,
        sink: &mut S,
        graveyard: &G,
        links: &L,
        stop: &mut StopSignal,
    ) -> Result<(), Stop> {
        let mut trapped = VecDeque::new();
        let ending = stop.clone();
        let mut idle = Idle::new();
        while let Some(mut hand) = self.next(sink, stop, &mut idle).await {
            self.writing.store(true, Ordering::Relaxed);
            let result = {
                let batch = hand.batch.clone();
                let mut delivery = Delivery::new(sink, graveyard, &self.progress, &mut trapped)
                    .with_retry(self.retry);
                let write = delivery.run(batch, hand.taken_ms());
                tokio::pin!(write);
                loop {
                    tokio::select! {
                        biased;
                        result = &mut write => break Some(result),
                        () = past_deadline(stop) => break None,
                        () = hopeless(&ending, links) => break None,
                        () = self.spill_due(&hand, links) => {}
                    }
                    // An append must not be dropped half-way, and the write, which has deadlines of
                    // its own, must not stand still for the disk.
                    if let Some(result) = beside(self.spill(&mut hand), write.as_mut()).await {
                        break Some(result);
                    }
                }
            };
            self.writing.store(false, Ordering::Relaxed);
            match result {
                Some(Ok(())) => self.done(hand).await,
                Some(Err(reason)) => {
                    self.return_to_queue(hand);
                    return Err(reason);
                }
                None => {
                    self.keep_rest(Some(hand)).await;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn return_to_queue(&self, hand: Hand) {
        if let Kept::Memory(tickets) = hand.kept {
            self.queue.give_back(vec![Item {
                since: hand.since,
                ..Item::new(hand.batch, tickets)
            }]);
        }
    }

    async fn done(&self, hand: Hand) {
        match hand.kept {
            Kept::Memory(tickets) => drop(tickets),
            Kept::Disk(position) => {
                if let Err(error) = self.spill.advance(position).await {
                    // Not fatal: the messages come again after a restart.
                    tracing::warn!(action = %self.name, %error, "the disk queue's cursor could not be moved");
                }
            }
        }
    }

    /// The next batch to write: from disk first, so that order holds. None: told to stop, and
    /// nothing is left in memory that should still be written.
    async fn next<S: Sink>(
        &self,
        sink: &mut S,
        stop: &mut StopSignal,
        idle: &mut Idle,
    ) -> Option<Hand> {
        idle.since = Instant::now();
        loop {
            let closing = self.queue.is_closed();
            if !self.spill.is_empty() {
                if closing {
                    // What is on disk stays there for the next start; the rest joins it.
                    return None;
                }
                match self.spill.peek(WRITE_MESSAGES, WRITE_BYTES).await {
                    Ok(records) => {
                        if let Some((position, _)) = records.last() {
                            let position = position.clone();
                            let messages: Vec<Message> =
                                records.into_iter().map(|(_, message)| message).collect();
                            let hand = Hand {
                                batch: messages.into(),
                                kept: Kept::Disk(position),
                                since: Instant::now(),
                            };
                            return Some(hand);
                        }
                    }
                    Err(error) => {
                        self.note_blocked(&error);
                        tokio::time::sleep(SPILL_RETRY).await;
                    }
                }
                continue;
            }
            // Nothing is on disk, and nothing has to go there at the moment.
            *self.blocked.lock() = None;
            let items = self.queue.take(WRITE_MESSAGES);
            if !items.is_empty() {
                let since = items.first().map_or_else(Instant::now, |item| item.since);
                let batch = join(&items);
                let tickets = items.into_iter().flat_map(|item| item.tickets).collect();
                return Some(Hand {
                    batch,
                    kept: Kept::Memory(tickets),
                    since,
                });
            }
            if closing {
                return None;
            }
            tokio::select! {
                () = self.queue.ready() => {}
                () = idle.over() => {
                    sink.put_away().await;
                    tokio::select! {
                        () = self.queue.ready() => {}
                        () = past_deadline(stop) => return None,
                    }
                }
                () = past_deadline(stop) => return None,
            }
        }
    }

    /// The rule has stopped for an error: its subscriptions stay, and what comes goes to disk. False:
    /// it was told to end; true: `wait` is over.
    async fn park(&self, stop: &mut StopSignal, wait: Option<Duration>) -> bool {
        let until = wait.map(|wait| Instant::now() + wait);
        let over = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        loop {
            tokio::select! {
                biased;
                () = past_deadline(stop) => return false,
                () = &mut over => return !self.queue.is_closed(),
                () = self.queue.ready() => {}
            }
            if self.queue.is_closed() {
                return false;
            }
            let items = self.queue.take(SPILL_MESSAGES);
            if self.append(join(&items).to_vec()).await.is_err() {
                self.queue.give_back(items);
                tokio::time::sleep(SPILL_RETRY).await;
            }
        }
    }
}

/// Runs `first` to its end and `other` beside it: what that gave, if it came to its own.
async fn beside<T>(
    first: impl Future<Output = ()>,
    mut other: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    tokio::pin!(first);
    let mut given = None;
    loop {
        tokio::select! {
            () = &mut first => return given,
            result = &mut other, if given.is_none() => given = Some(result),
        }
    }
}

/// How long before the next attempt, after so many that brought nothing; None: there is none.
pub(super) fn restart_delay(
    strategy: &RestartStrategy,
    failures: u32,
    random: f64,
) -> Option<Duration> {
    if failures >= strategy.attempts {
        return None;
    }
    let growth = strategy
        .multiplier
        .max(1.0)
        .powf(f64::from(failures.min(1000)));
    let most = strategy
        .max_delay
        .as_secs_f64()
        .max(strategy.delay.as_secs_f64());
    let wait = (strategy.delay.as_secs_f64() * growth).min(most);
    let jitter = 1.0 + strategy.jitter_factor.clamp(0.0, 1.0) * (2.0 * random - 1.0);
    Duration::try_from_secs_f64(wait * jitter).ok()
}

/// Waits until the action was told to stop while a connection of its sink is down: what is in hand
/// goes to disk, and there is nothing to wait for.
async fn hopeless<L: Links>(stop: &StopSignal, links: &L) {
    let mut stop = stop.clone();
    // Without anybody who could tell, the deadline's own wait ends the action.
    drop(stop.wait_for(Option::is_some).await);
    while links.are_up() {
        links.changed().await;
    }
}

/// Waits until the stop signal has a deadline and that has passed.
async fn past_deadline(stop: &mut StopSignal) {
    loop {
        let deadline = *stop.borrow_and_update();
        match deadline {
            Some(deadline) => {
                tokio::select! {
                    () = tokio::time::sleep_until(deadline) => return,
                    changed = stop.changed() => if changed.is_err() { return },
                }
            }
            None => {
                if stop.changed().await.is_err() {
                    // Whoever could tell is gone: the host is going down.
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
