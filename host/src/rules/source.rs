//! A stream's source: reads from a sandboxed guest and hands each batch to every rule of the stream.
//!
//! One task per source. It is the only one that reads, so order is the guest's; it never waits for
//! an action on which somebody upstream depends (`Admission`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::action::Admission;
use super::fan::RuleInput;
use super::query::{Format, RowBatch};
use super::settle::{Committer, Ledger, Settle, Ticket};
use crate::error::{ConnectionError, ErrorKind};
use crate::message::Batch;
use crate::runtime::{GuestError, Read, SourceGuest, Takes};

/// Failed reads in a row on the same messages before they are looked at one by one, and then
/// before the one is dead-lettered.
const READS_PER_MESSAGE: u32 = 3;
const RETRY_CAP: Duration = Duration::from_secs(10);
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
    /// When the last batch came (ms since the epoch).
    pub last_read_ms: AtomicU64,
    /// `finished` was answered.
    pub finished: AtomicBool,
}

/// A source and the rules that share it.
#[derive(Debug)]
pub struct Source {
    /// The stream's name.
    pub stream: String,
    /// What it counts.
    pub stats: SourceStats,
    format: Format,
    inputs: RwLock<Arc<Vec<Arc<RuleInput>>>>,
    ledger: Mutex<Ledger>,
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
    /// It cannot work: the rules stop with this sentence.
    Failed(String),
}

/// The failure may lie in a message, not in the weather.
fn chokes(error: &GuestError) -> bool {
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
        Self {
            stream,
            stats: SourceStats::default(),
            format,
            inputs: RwLock::default(),
            ledger: Mutex::new(Ledger::new()),
        }
    }

    /// A rule joins, at "now".
    pub fn join(&self, input: Arc<RuleInput>) {
        let mut inputs = self.inputs.write();
        let mut all = Vec::clone(&inputs);
        all.push(input);
        *inputs = Arc::new(all);
    }

    /// A rule leaves. True: it was the last.
    pub fn leave(&self, rule: &str) -> bool {
        let mut inputs = self.inputs.write();
        let left: Vec<_> = inputs.iter().filter(|input| input.rule != rule).cloned().collect();
        let last = left.is_empty();
        *inputs = Arc::new(left);
        last
    }

    /// Reads that are not final.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.ledger.lock().clone()
    }

    /// Reads until told to stop, and beside that settles. `opening` is dropped once the guest's
    /// first `open` has worked or failed.
    pub async fn run(
        &self,
        guest: &mut SourceGuest,
        resume: Option<String>,
        committer: &dyn Committer,
        stop: &CancellationToken,
        opening: impl Send,
    ) -> End {
        let ledger = self.ledger();
        tokio::select! {
            biased;
            end = self.read_all(guest, resume, stop, opening) => end,
            () = ledger.settle_with(committer, CHECKPOINT_SPACING) => End::Stopped,
        }
    }

    async fn read_all(
        &self,
        guest: &mut SourceGuest,
        resume: Option<String>,
        stop: &CancellationToken,
        opening: impl Send,
    ) -> End {
        let mut opening = Some(opening);
        let mut failures: u32 = 0;
        loop {
            if stop.is_cancelled() {
                return End::Stopped;
            }
            let result = guest.open(resume.clone()).await;
            drop(opening.take());
            match result {
                Ok(()) => break,
                Err(error) => {
                    failures += 1;
                    if let Some(end) = self.failed(&error, failures, stop).await {
                        return end;
                    }
                }
            }
        }
        failures = 0;
        loop {
            if stop.is_cancelled() {
                return End::Stopped;
            }
            match guest.read().await {
                Ok(Read::Messages { batch, checkpoint, takes }) => {
                    failures = 0;
                    self.hand_on(batch, checkpoint, takes).await;
                }
                Ok(Read::Idle(wait)) => {
                    failures = 0;
                    self.flush();
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = stop.cancelled() => {}
                    }
                }
                Ok(Read::Finished) => {
                    self.flush();
                    self.stats.finished.store(true, Ordering::Relaxed);
                    stop.cancelled().await;
                    return End::Finished;
                }
                Err(error) => {
                    failures += 1;
                    if failures >= READS_PER_MESSAGE && chokes(&error) {
                        self.look_closely(guest, &error, failures);
                    }
                    if let Some(end) = self.failed(&error, failures, stop).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Hands a batch to every rule, then waits where nobody upstream does.
    async fn hand_on(&self, batch: Batch, checkpoint: Option<String>, takes: Takes) {
        let inputs = Arc::clone(&self.inputs.read());
        let count = batch.len();
        self.stats.reads.fetch_add(1, Ordering::Relaxed);
        self.stats.messages.fetch_add(count as u64, Ordering::Relaxed);
        self.stats.last_read_ms.store(super::now_ms(), Ordering::Relaxed);
        let alone = inputs.iter().map(|input| input.outputs.len()).sum::<usize>() <= 1;
        let received = takes.received();
        let settle: Option<Box<dyn Settle>> = if takes.is_empty() {
            (!alone && !received).then(|| Box::new(Repeatable) as Box<dyn Settle>)
        } else {
            Some(Box::new(ReadTakes(takes)))
        };
        let ticket = self.ledger().open(settle, checkpoint, count);
        if count == 0 {
            return;
        }
        let admission = match (ticket.lossless(), alone) {
            (true, _) => Admission::Always,
            (false, true) => Admission::Wait,
            (false, false) => Admission::Offer,
        };
        let rows = RowBatch::new(batch, self.format.clone());
        for input in inputs.iter() {
            input.accept(&rows, &ticket, admission);
        }
        drop(ticket);
        if admission == Admission::Wait {
            for output in inputs.iter().flat_map(|input| &input.outputs) {
                output.action.room().await;
            }
        }
    }

    /// The source can give no more for a while: rows that wait to fill a batch go now.
    fn flush(&self) {
        let inputs = Arc::clone(&self.inputs.read());
        for output in inputs.iter().flat_map(|input| &input.outputs) {
            output.flush();
        }
    }

    /// What a failed read means. None: try again.
    async fn failed(&self, error: &GuestError, failures: u32, stop: &CancellationToken) -> Option<End> {
        let words = error.to_string();
        self.stats.failures.fetch_add(1, Ordering::Relaxed);
        *self.stats.last_failure.lock() = Some((words.clone(), super::now_ms()));
        let asked = match error {
            GuestError::Said { error, .. } => match error.kind {
                ErrorKind::Denied | ErrorKind::Misconfigured => return Some(End::Failed(words)),
                ErrorKind::Transient | ErrorKind::Disconnected | ErrorKind::Permanent => error.retry_after,
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
    fn look_closely(&self, guest: &mut SourceGuest, error: &GuestError, failures: u32) {
        if failures < 2 * READS_PER_MESSAGE {
            guest.look_closely();
            return;
        }
        let Some((message, takes)) = guest.take_suspect() else { return };
        let batch = Batch::from(vec![message]);
        let reason = match error {
            GuestError::Said { error, .. } => error.clone(),
            other => ConnectionError::permanent("trap", other.to_string()),
        };
        let ticket = self.ledger().open(Some(Box::new(ReadTakes(takes))), None, batch.len());
        self.bury(&batch, &ticket, &reason);
    }

    fn bury(&self, batch: &Batch, ticket: &Ticket, reason: &ConnectionError) {
        let inputs = Arc::clone(&self.inputs.read());
        for input in inputs.iter() {
            input.bury(batch.clone(), ticket, reason.clone());
        }
    }

    /// After the reading has ended: waits until everything read is final, `deadline` at the latest.
    pub async fn drain(&self, committer: &dyn Committer, deadline: Instant) -> bool {
        let ledger = self.ledger();
        tokio::select! {
            drained = ledger.drained(deadline) => {
                ledger.commit_ready(committer).await;
                drained
            }
            () = ledger.settle_with(committer, Duration::ZERO) => false,
        }
    }
}
