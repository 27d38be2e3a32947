//! A stream's source: reads from a sandboxed guest and hands each batch to every rule of the stream.
//!
//! One task per source. It is the only one that reads, so order is the guest's; it never waits for
//! an action on which somebody upstream depends (`Admission`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::action::Admission;
use super::decompress::{PACKED, Share, Unpacker};
use super::fan::{RuleInput, UNREAD};
use super::query::{Format, RowBatch};
use super::settle::{Committer, Latency, Ledger, Settle, Ticket};
use crate::error::{ConnectionError, ErrorKind};
use crate::message::{Batch, Message};
use crate::runtime::{GuestError, Inboxes, Read, SourceGuest, Takes};

/// Failed reads in a row on the same messages before they are looked at one by one, and then
/// before the one is dead-lettered.
const READS_PER_MESSAGE: u32 = 3;
const RETRY_CAP: Duration = Duration::from_secs(10);
/// Messages dead-lettered for traps within a minute before the source ends: a connector that is
/// broken must not drain a broker into the dead letters.
const TRAPPED_PER_MINUTE: usize = 10;
/// The shortest wait after an idle read.
const IDLE_FLOOR: Duration = Duration::from_millis(1);
/// How often a source that waits for room looks whether somebody waits for it.
const LOOK: Duration = Duration::from_millis(100);
/// How often the checkpoint of a source that takes nothing is written, at most.
const CHECKPOINT_SPACING: Duration = Duration::from_secs(1);

/// What a source counts and shows.
#[derive(Debug, Default)]
pub struct SourceStats {
    /// Messages read.
    pub messages: AtomicU64,
    /// Batches read.
    pub reads: AtomicU64,
    /// Failed reads.
    pub failures: AtomicU64,
    /// The last failure, and when (ms since the epoch).
    pub last_failure: Mutex<Option<(String, u64)>>,
    /// The failure it is in now: ends with the next read that works.
    pub trouble: Mutex<Option<String>>,
    /// When the last batch came (ms since the epoch).
    pub last_read_ms: AtomicU64,
    /// `finished` was answered.
    pub finished: AtomicBool,
    /// How long its reads took to become final.
    pub latency: Arc<Latency>,
}

/// A source and the rules that share it.
#[derive(Debug)]
pub struct Source {
    /// The stream's name.
    pub stream: String,
    /// What it counts.
    pub stats: SourceStats,
    format: Format,
    /// Payloads come compressed.
    unpacker: Option<Unpacker>,
    /// Held for reading while a batch is handed on: a rule that has left gets nothing any more.
    inputs: RwLock<Arc<Vec<Arc<RuleInput>>>>,
    /// What came since a rule has left, that is about to come back: by rule. Changed under `inputs`.
    parked: Mutex<HashMap<String, Vec<Parked>>>,
    /// The actions have been told to end: what a guest still returns is not taken in.
    sealed: AtomicBool,
    /// Somebody upstream waits behind messages that found no room: those are dropped until there is.
    pressed: AtomicBool,
    ledger: Mutex<Ledger>,
}

/// A batch for a rule that is away for a moment.
#[derive(Debug)]
struct Parked {
    batch: Batch,
    failures: Vec<(Message, ConnectionError)>,
    ticket: Ticket,
    admission: Admission,
}

/// The takes of one read, as settlement sees them.
#[derive(Debug)]
struct ReadTakes(Takes);

impl Settle for ReadTakes {
    fn settle(self: Box<Self>) {
        self.0.settle();
    }
    fn lossless(&self) -> bool {
        self.0.lossless()
    }
    fn refuse(&self, delivery: u64, reason: &str) -> bool {
        self.0.refuse(delivery, reason)
    }
    fn presses(&self) -> bool {
        self.0.presses()
    }
}

/// The takes of one read whose messages are handed on in parts: settled with the last of them, since
/// they are final in their order.
#[derive(Debug)]
struct PartTakes {
    takes: Arc<Mutex<Takes>>,
    last: bool,
    lossless: bool,
    share: Share,
}

impl Settle for PartTakes {
    fn settle(self: Box<Self>) {
        if self.last {
            std::mem::take(&mut *self.takes.lock()).settle();
        }
    }
    fn lossless(&self) -> bool {
        self.lossless
    }
    fn refuse(&self, delivery: u64, reason: &str) -> bool {
        self.takes.lock().refuse(delivery, reason)
    }
    fn presses(&self) -> bool {
        self.share.presses() || self.takes.lock().presses()
    }
}

/// What is handed on at once.
struct HandOver {
    batch: Batch,
    /// Not unpacked, as they came.
    failures: Vec<(Message, ConnectionError)>,
    checkpoint: Option<String>,
    /// None: nothing was taken, and nothing is held.
    settle: Option<Box<dyn Settle>>,
    /// Nothing upstream would send it again, so that a slow action must not hold it for the others.
    repeatable: bool,
}

/// Nobody upstream waits, but the read can be made again only from its checkpoint: what other
/// actions hold up goes to disk like what is acknowledged.
#[derive(Debug)]
struct Repeatable;

impl Settle for Repeatable {
    fn settle(self: Box<Self>) {}
    fn lossless(&self) -> bool {
        true
    }
}

/// Why a source ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Told to stop; everything read has been handed on.
    Stopped,
    /// Nothing more, ever.
    Finished,
    /// A batch was abandoned, and with it all later ones: it has to read again from its last final
    /// checkpoint, after [`Source::renew`].
    Abandoned,
    /// It cannot work: the rules stop with this sentence.
    Failed(String),
}

/// No other action can be held up by a slow one.
fn has_one_action(inputs: &[Arc<RuleInput>]) -> bool {
    inputs
        .iter()
        .map(|input| input.outputs.len())
        .sum::<usize>()
        <= 1
}

/// The failure may lie in a message, not in the weather.
fn chokes(error: &GuestError) -> bool {
    if error.is_before_work() {
        return false;
    }
    match error {
        GuestError::Said { error, .. } => error.kind == ErrorKind::Permanent,
        GuestError::Trapped { .. } | GuestError::Overtime { .. } => true,
        GuestError::CannotStart { .. } => false,
    }
}

impl Source {
    /// A source of a stream, without rules yet.
    #[must_use]
    pub fn new(stream: String, format: Format) -> Self {
        let stats = SourceStats::default();
        Self {
            stream,
            ledger: Mutex::new(Ledger::timed(Arc::clone(&stats.latency))),
            stats,
            format,
            unpacker: None,
            inputs: RwLock::default(),
            parked: Mutex::default(),
            sealed: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
        }
    }

    /// Its payloads come compressed.
    #[must_use]
    pub fn unpacking(mut self, unpacker: Option<Unpacker>) -> Self {
        self.unpacker = unpacker;
        self
    }

    /// A dead letter with its code as it goes back into the rule: what could not be unpacked is tried
    /// again.
    ///
    /// # Errors
    /// The letter, and why it still cannot be.
    pub(super) fn unpacked<'a>(
        &self,
        message: Message,
        code: &'a str,
    ) -> Result<(Message, &'a str), Box<(Message, ConnectionError)>> {
        if code != PACKED {
            return Ok((message, code));
        }
        match self
            .unpacker
            .as_ref()
            .map(|unpacker| unpacker.one(&message))
        {
            None => Ok((message, UNREAD)),
            Some(Ok(unpacked)) => Ok((unpacked, UNREAD)),
            Some(Err(reason)) => Err(Box::new((
                message,
                ConnectionError::permanent(PACKED, reason),
            ))),
        }
    }

    /// How its payloads are written.
    #[must_use]
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// A rule joins, at "now".
    pub fn join(&self, input: Arc<RuleInput>) {
        let mut inputs = self.inputs.write();
        let parked = self.parked.lock().remove(&input.rule).unwrap_or_default();
        for Parked {
            batch,
            failures,
            ticket,
            admission,
        } in parked
        {
            for (message, reason) in &failures {
                input.refuse(message, reason, &ticket);
            }
            input.accept(
                &RowBatch::new(batch, self.format.clone()),
                &ticket,
                admission,
            );
        }
        let mut all = Vec::clone(&inputs);
        all.push(input);
        *inputs = Arc::new(all);
    }

    /// A rule leaves that is about to come back: what comes meanwhile waits for it, unacknowledged,
    /// until it joins again or [`Source::give_up`] is told.
    pub fn leave_for_a_moment(&self, rule: &str) {
        let mut inputs = self.inputs.write();
        let left = inputs.iter().filter(|input| input.rule != rule);
        *inputs = Arc::new(left.cloned().collect());
        self.parked.lock().insert(rule.to_owned(), Vec::new());
    }

    /// A rule that has left for a moment does not come back: how many messages had come for it.
    pub fn give_up(&self, rule: &str) -> usize {
        let parked = self.parked.lock().remove(rule).unwrap_or_default();
        // Tickets end outside of the lock.
        parked.iter().map(|parked| parked.batch.len()).sum()
    }

    /// No rule is here, and none comes back.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        let inputs = self.inputs.read();
        inputs.is_empty() && self.parked.lock().is_empty()
    }

    /// A rule leaves. True: it was the last.
    pub fn leave(&self, rule: &str) -> bool {
        let mut inputs = self.inputs.write();
        let left: Vec<_> = inputs
            .iter()
            .filter(|input| input.rule != rule)
            .cloned()
            .collect();
        let last = left.is_empty();
        *inputs = Arc::new(left);
        last
    }

    /// It is the only rule here.
    #[must_use]
    pub fn is_alone(&self, rule: &str) -> bool {
        let inputs = self.inputs.read();
        inputs.iter().all(|input| input.rule == rule) && self.parked.lock().is_empty()
    }

    /// Hands nothing on any more: what a late read returns is not acknowledged and comes again.
    pub fn seal(&self) {
        let _inputs = self.inputs.write();
        self.sealed.store(true, Ordering::Relaxed);
    }

    /// Reads that are not final.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.ledger.lock().clone()
    }

    /// Begins a new ledger: nothing of the one before will be acknowledged.
    pub fn renew(&self) {
        let next = Ledger::timed(Arc::clone(&self.stats.latency));
        std::mem::replace(&mut *self.ledger.lock(), next).seal();
    }

    /// Reads until told to stop, and beside that settles. `opened` hears of the `open` of the guest that
    /// works; one that fails and is tried again says nothing of who takes what.
    pub async fn run(
        &self,
        guest: &mut SourceGuest,
        resume: Option<String>,
        committer: &dyn Committer,
        stop: &CancellationToken,
        opened: &(dyn Fn() + Sync),
    ) -> End {
        let ledger = self.ledger();
        tokio::select! {
            biased;
            end = self.read_all(guest, resume, stop, opened) => end,
            () = ledger.settle_with(committer, CHECKPOINT_SPACING) => End::Stopped,
        }
    }

    async fn read_all(
        &self,
        guest: &mut SourceGuest,
        resume: Option<String>,
        stop: &CancellationToken,
        opened: &(dyn Fn() + Sync),
    ) -> End {
        let mut failures: u32 = 0;
        loop {
            if stop.is_cancelled() {
                return End::Stopped;
            }
            let result = guest.open(resume.clone()).await;
            match result {
                Ok(()) => {
                    opened();
                    break;
                }
                Err(error) => {
                    failures += 1;
                    if let Some(end) = self.failed(&error, failures, stop).await {
                        return end;
                    }
                }
            }
        }
        failures = 0;
        self.is_well();
        let mut trapped = VecDeque::new();
        let inboxes = guest.inboxes();
        loop {
            if stop.is_cancelled() {
                return End::Stopped;
            }
            // A source that always has something must let the settling have its turn.
            tokio::task::consume_budget().await;
            let ledger = self.ledger();
            if ledger.is_fenced() {
                return End::Failed("another owner has taken over its checkpoints".to_owned());
            }
            if ledger.is_abandoned() {
                return End::Abandoned;
            }
            match guest.read().await {
                Ok(Read::Messages {
                    batch,
                    checkpoint,
                    takes,
                }) => {
                    failures = 0;
                    self.is_well();
                    self.hand_on(batch, checkpoint, takes, stop, &inboxes).await;
                }
                Ok(Read::Idle(wait)) => {
                    failures = 0;
                    self.is_well();
                    self.flush();
                    tokio::select! {
                        () = tokio::time::sleep(wait.max(IDLE_FLOOR)) => {}
                        () = stop.cancelled() => {}
                    }
                }
                Ok(Read::Finished) => {
                    self.is_well();
                    self.flush();
                    self.stats.finished.store(true, Ordering::Relaxed);
                    stop.cancelled().await;
                    return End::Finished;
                }
                Err(error) => {
                    failures += 1;
                    let choked = failures >= READS_PER_MESSAGE && chokes(&error);
                    if choked && self.look_closely(guest, &error, failures) {
                        // The next message has its own tries.
                        failures = READS_PER_MESSAGE;
                        if too_many_trapped(&mut trapped, &error) {
                            return End::Failed(format!(
                                "more than {TRAPPED_PER_MINUTE} messages in a minute made the connector trap: {error}"
                            ));
                        }
                    }
                    if let Some(end) = self.failed(&error, failures, stop).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Hands a batch to every rule, then waits where nobody upstream does. What comes compressed is
    /// handed on in parts.
    async fn hand_on(
        &self,
        batch: Batch,
        checkpoint: Option<String>,
        takes: Takes,
        stop: &CancellationToken,
        inboxes: &Inboxes,
    ) {
        let (empty, received) = (takes.is_empty(), takes.received());
        let repeatable = empty && !received && !has_one_action(&self.inputs.read());
        let Some(unpacker) = self.unpacker.as_ref().filter(|_| !batch.is_empty()) else {
            let settle = if empty {
                repeatable.then(|| Box::new(Repeatable) as Box<dyn Settle>)
            } else {
                Some(Box::new(ReadTakes(takes)) as Box<dyn Settle>)
            };
            let all = HandOver {
                batch,
                failures: Vec::new(),
                checkpoint,
                settle,
                repeatable,
            };
            return self.hand_over_and_wait(all, stop, inboxes).await;
        };
        let (takes, mut checkpoint) = (Arc::new(Mutex::new(takes)), checkpoint);
        let mut start = 0;
        while start < batch.len() {
            tokio::select! {
                () = unpacker.room() => {}
                // What is not handed on is not acknowledged and comes again.
                () = stop.cancelled() => return,
            }
            let part = unpacker.part(&batch, start).await;
            start += part.took;
            let last = start >= batch.len();
            let because = |(message, reason)| (message, ConnectionError::permanent(PACKED, reason));
            let part = HandOver {
                batch: part.batch,
                failures: part.failures.into_iter().map(because).collect(),
                checkpoint: checkpoint.take_if(|_| last),
                settle: Some(Box::new(PartTakes {
                    takes: Arc::clone(&takes),
                    last,
                    lossless: !empty || repeatable,
                    share: part.share,
                })),
                repeatable,
            };
            self.hand_over_and_wait(part, stop, inboxes).await;
        }
    }

    async fn hand_over_and_wait(&self, all: HandOver, stop: &CancellationToken, inboxes: &Inboxes) {
        let repeatable = all.repeatable;
        let Some(waits) = self.hand_over(all) else {
            return;
        };
        let room = async {
            for output in waits.iter().flat_map(|input| &input.outputs) {
                output.action.room().await;
            }
        };
        // What somebody waits for does not wait for a sink that is away, behind what nobody does.
        let pressed = async {
            loop {
                tokio::time::sleep(LOOK).await;
                if inboxes.are_awaited() {
                    return self.pressed.store(true, Ordering::Relaxed);
                }
            }
        };
        // All is handed over: a stop needs no room.
        tokio::select! {
            () = room => {}
            () = pressed, if !repeatable => {}
            () = stop.cancelled() => {}
        }
    }

    /// Whether the source may wait for room at all.
    fn may_wait(&self, inputs: &[Arc<RuleInput>]) -> bool {
        if !self.pressed.load(Ordering::Relaxed) {
            return true;
        }
        let mut outputs = inputs.iter().flat_map(|input| &input.outputs);
        let room = outputs.all(|output| output.action.has_room());
        self.pressed.store(!room, Ordering::Relaxed);
        room
    }

    /// Hands a batch to every rule. Some: those for whose room the source should wait.
    fn hand_over(&self, all: HandOver) -> Option<Arc<Vec<Arc<RuleInput>>>> {
        let HandOver {
            batch,
            failures,
            checkpoint,
            settle,
            repeatable,
        } = all;
        let inputs = self.inputs.read();
        if self.sealed.load(Ordering::Relaxed) {
            return None;
        }
        let count = batch.len() + failures.len();
        self.stats.reads.fetch_add(1, Ordering::Relaxed);
        self.stats
            .messages
            .fetch_add(count as u64, Ordering::Relaxed);
        self.stats
            .last_read_ms
            .store(super::now_ms(), Ordering::Relaxed);
        let alone = has_one_action(&inputs);
        let ticket = self.ledger().open(settle, checkpoint, count);
        if count == 0 {
            return None;
        }
        let admission = match (ticket.lossless(), alone) {
            (true, _) => Admission::Always,
            (false, true) if self.may_wait(&inputs) => Admission::Wait,
            (false, _) => Admission::Offer,
        };
        for waiting in self.parked.lock().values_mut() {
            waiting.push(Parked {
                batch: batch.clone(),
                failures: failures.clone(),
                ticket: ticket.clone(),
                admission,
            });
        }
        for (message, reason) in &failures {
            for input in inputs.iter() {
                input.refuse(message, reason, &ticket);
            }
        }
        if !batch.is_empty() {
            let rows = RowBatch::new(batch, self.format.clone());
            for input in inputs.iter() {
                input.accept(&rows, &ticket, admission);
            }
        }
        // What no connection bounds is bounded by the queues; they make room by going to disk.
        (repeatable || admission == Admission::Wait).then(|| Arc::clone(&inputs))
    }

    /// The source can give no more for a while: rows that wait to fill a batch go now.
    fn flush(&self) {
        let inputs = self.inputs.read();
        for output in inputs.iter().flat_map(|input| &input.outputs) {
            output.flush();
        }
    }

    fn is_well(&self) {
        *self.stats.trouble.lock() = None;
    }

    /// What a failed read means. None: try again.
    async fn failed(
        &self,
        error: &GuestError,
        failures: u32,
        stop: &CancellationToken,
    ) -> Option<End> {
        let words = error.to_string();
        self.stats.failures.fetch_add(1, Ordering::Relaxed);
        let before = self
            .stats
            .last_failure
            .lock()
            .replace((words.clone(), super::now_ms()));
        *self.stats.trouble.lock() = Some(words.clone());
        if before.is_none_or(|(before, _)| before != words) || failures == 1 {
            tracing::warn!(stream = %self.stream, "{words}");
        }
        let asked = match error {
            GuestError::Said { error, .. } => match error.kind {
                ErrorKind::Denied | ErrorKind::Misconfigured => return Some(End::Failed(words)),
                ErrorKind::Transient | ErrorKind::Disconnected | ErrorKind::Permanent => {
                    error.retry_after
                }
            },
            _ => None,
        };
        // What chokes on a message is tried again soon: the runtime itself slows down one that fails for ever.
        let floor = Duration::from_millis(if chokes(error) { 5 } else { 50 });
        let doubling = floor.saturating_mul(1_u32.checked_shl(failures.min(16)).unwrap_or(1));
        let wait = asked.unwrap_or_else(|| doubling.min(RETRY_CAP));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => {}
        }
        None
    }

    /// Reads fail again and again on the same messages: one at a time from now on, so that only
    /// the one that does it is dead-lettered.
    /// True: it was.
    fn look_closely(&self, guest: &mut SourceGuest, error: &GuestError, failures: u32) -> bool {
        if failures < 2 * READS_PER_MESSAGE {
            guest.look_closely();
            return false;
        }
        let Some((message, takes)) = guest.take_suspect() else {
            return false;
        };
        let batch = Batch::from(vec![message]);
        // It came straight from its connection.
        let code = self.unpacker.as_ref().map_or(UNREAD, |_| PACKED);
        let reason = match error {
            GuestError::Said { error, .. } => {
                ConnectionError::permanent(code, error.message.clone())
            }
            other => ConnectionError::permanent(code, other.to_string()),
        };
        let ticket = self
            .ledger()
            .open(Some(Box::new(ReadTakes(takes))), None, batch.len());
        self.bury(&batch, &ticket, &reason);
        true
    }

    fn bury(&self, batch: &Batch, ticket: &Ticket, reason: &ConnectionError) {
        let inputs = self.inputs.read();
        for input in inputs.iter() {
            input.bury(batch.clone(), ticket, reason.clone());
        }
    }

    /// After the reading has ended: waits until everything read is final, `deadline` at the latest.
    pub async fn drain(&self, committer: &dyn Committer, deadline: Instant) -> bool {
        let ledger = self.ledger();
        tokio::select! {
            drained = ledger.drained(deadline) => {
                // A store that takes nothing at present is not waited for.
                let last = ledger.commit_ready(committer);
                let in_time = tokio::time::timeout_at(deadline + CHECKPOINT_SPACING, last).await.is_ok();
                drained && in_time
            }
            () = ledger.settle_with(committer, Duration::ZERO) => false,
        }
    }
}

/// A message was dead-lettered for a trap: whether there were too many of them lately.
fn too_many_trapped(trapped: &mut VecDeque<Instant>, error: &GuestError) -> bool {
    if matches!(error, GuestError::Said { .. }) {
        return false;
    }
    let now = Instant::now();
    trapped.push_back(now);
    trapped.retain(|at| now.duration_since(*at) < Duration::from_secs(60));
    trapped.len() > TRAPPED_PER_MINUTE
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::runtime::tests::support::{limits, on_guests, source};

    #[derive(Debug)]
    struct Anything;

    #[async_trait::async_trait]
    impl Committer for Anything {
        async fn commit(&self, _checkpoint: &str) -> bool {
            true
        }
    }

    /// How often a source whose guest does this there has opened after a while, and failed.
    fn opened_within(place: &'static str, deed: &'static str, time: Duration) -> (usize, u64) {
        on_guests(async move {
            let (mut guest, _broker) = source(place, deed, limits());
            let source = Source::new("s".to_owned(), Format::Json);
            let (opened, stop) = (AtomicUsize::new(0), CancellationToken::new());
            let count = || {
                opened.fetch_add(1, Ordering::Relaxed);
            };
            let run = source.run(&mut guest, None, &Anything, &stop, &count);
            drop(tokio::time::timeout(time, run).await);
            let failures = source.stats.failures.load(Ordering::Relaxed);
            (opened.into_inner(), failures)
        })
    }

    #[test]
    fn an_open_that_fails_and_is_tried_again_is_no_open() {
        let (opened, failures) = opened_within("open", "error", Duration::from_secs(2));
        assert!(failures >= 2, "{failures}");
        assert_eq!(opened, 0, "its takers are not known");
        assert_eq!(opened_within("read", "idle", Duration::from_secs(2)).0, 1);
    }
}
