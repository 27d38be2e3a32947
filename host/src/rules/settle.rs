//! Settlement: a read's takes are acknowledged when everything made of its batch is final, and
//! reads settle in the order in which they were made. A read for which nobody waits, and after which
//! nothing has to be written, holds up none that came after it.
//!
//! A [`Ticket`] is cloned into every place that still owes something to a read: a queue, a write
//! under way, a row that waits for its batch. When the last clone is dropped the read is final; a
//! ticket that was told to [`Ticket::abandon`] makes it, and all later reads, come again instead.
//! Knows nothing of connections beyond the takes, nothing of wasm, and nothing of the store: what
//! must be written before an acknowledgement goes out through [`Committer`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What a read has taken, as far as settlement is concerned.
pub trait Settle: Send + fmt::Debug {
    /// All of it is final, in the order in which it arrived.
    fn settle(self: Box<Self>);
    /// Somebody upstream waits for the acknowledgement.
    fn lossless(&self) -> bool;
    /// Tells the sender of the delivery with this key that it cannot be read. True: it will be told.
    fn refuse(&self, _delivery: u64, _reason: &str) -> bool {
        false
    }
    /// The sender is at a standstill until it is settled.
    fn presses(&self) -> bool {
        false
    }
    /// It is kept elsewhere until it is settled: to abandon it loses nothing and holds up nobody.
    fn is_kept(&self) -> bool {
        false
    }
}

/// Keeps checkpoints. On disk when it returns.
#[async_trait]
pub trait Committer: Send + Sync + fmt::Debug {
    /// False: another owner has taken over; nothing may be acknowledged any more.
    async fn commit(&self, checkpoint: &str) -> bool;
}

/// The reads of one source that are not final yet, in order.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The settler has work.
    work: Notify,
    /// The last read became final.
    quiet: Notify,
    settled_messages: AtomicU64,
    latency: Arc<Latency>,
}

/// The least upper bounds of the times that are counted apart, in microseconds.
const BOUNDS_US: [u64; 8] = [
    1_000, 5_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000, 60_000_000,
];

/// How long reads took to become final. Counts on over all ledgers of a source.
#[derive(Debug, Default)]
pub struct Latency {
    last_us: AtomicU64,
    sum_us: AtomicU64,
    /// One for each bound, and one for what takes longer.
    reads: [AtomicU64; BOUNDS_US.len() + 1],
}

impl Latency {
    fn enter(&self, us: u64) {
        self.last_us.store(us, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
        let place = BOUNDS_US.iter().filter(|bound| us >= **bound).count();
        if let Some(count) = self.reads.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Microseconds from read to final, of the read that became final last.
    #[must_use]
    pub fn last_us(&self) -> u64 {
        self.last_us.load(Ordering::Relaxed)
    }

    /// The same of all reads together.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum_us.load(Ordering::Relaxed)
    }

    /// Upper bounds in seconds, and the reads between each and the one before.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "the bounds are small")]
    pub fn times(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
        let counts = self.reads.iter().map(|count| count.load(Ordering::Relaxed));
        bounds.chain([f64::INFINITY]).zip(counts).collect()
    }
}

#[derive(Debug, Default)]
struct State {
    first: u64,
    entries: VecDeque<Entry>,
    /// Reads that are not among the entries, because nothing depends on their order.
    loose: usize,
    /// Final, with a checkpoint to write before their takes settle.
    ready: VecDeque<Entry>,
    abandoned: bool,
    /// What is entered now comes too late.
    sealed: bool,
    /// Another owner writes the checkpoints now.
    fenced: bool,
}

#[derive(Debug)]
struct Entry {
    takes: Option<Box<dyn Settle>>,
    checkpoint: Option<String>,
    messages: u64,
    read_at: Instant,
    last: bool,
}

/// A share in a read that is not final yet.
#[derive(Clone, Debug)]
pub struct Ticket(Arc<Open>);

#[derive(Debug)]
struct Open {
    ledger: Arc<Shared>,
    place: Place,
    lossless: bool,
    read_at: Instant,
    abandoned: AtomicBool,
}

/// Where a read that is not final stands.
#[derive(Debug)]
enum Place {
    /// In its ledger, under this number.
    Entry(u64),
    /// By itself: it would hold up those after it for as long as a sink is away.
    Loose(Mutex<Option<Entry>>),
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Self {
        Self::timed(Arc::default())
    }

    /// An empty ledger that enters there how long its reads take.
    #[must_use]
    pub fn timed(latency: Arc<Latency>) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            work: Notify::new(),
            quiet: Notify::new(),
            settled_messages: AtomicU64::new(0),
            latency,
        }))
    }

    /// Enters a read. It is final when the last clone of the ticket is dropped.
    #[must_use]
    pub fn open(
        &self,
        takes: Option<Box<dyn Settle>>,
        checkpoint: Option<String>,
        messages: usize,
    ) -> Ticket {
        let lossless = takes.as_ref().is_some_and(|takes| takes.lossless());
        let read_at = Instant::now();
        let is_loose = !lossless && checkpoint.is_none();
        let entry = Entry {
            takes,
            checkpoint,
            messages: messages as u64,
            read_at,
            last: false,
        };
        let mut state = self.0.state.lock();
        let place = if is_loose {
            state.loose += 1;
            Place::Loose(Mutex::new(Some(entry)))
        } else {
            state.abandoned |= state.sealed;
            state.entries.push_back(entry);
            Place::Entry(state.first + state.entries.len() as u64 - 1)
        };
        drop(state);
        Ticket(Arc::new(Open {
            ledger: Arc::clone(&self.0),
            place,
            lossless,
            read_at,
            abandoned: AtomicBool::new(false),
        }))
    }

    /// Reads that are not final.
    #[must_use]
    pub fn open_reads(&self) -> usize {
        let state = self.0.state.lock();
        state.entries.len() + state.ready.len() + state.loose
    }

    /// Since when the oldest of them waits, of those whose order counts.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        let state = self.0.state.lock();
        state
            .ready
            .front()
            .or_else(|| state.entries.front())
            .map(|entry| entry.read_at)
    }

    /// Something was abandoned: nothing settles any more, and the source must go back to its last
    /// final checkpoint on a new ledger.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.state.lock().abandoned
    }

    /// Another owner has taken over: reading again would be of no use.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.0.state.lock().fenced
    }

    /// Messages that became final.
    #[must_use]
    pub fn settled_messages(&self) -> u64 {
        self.0.settled_messages.load(Ordering::Relaxed)
    }

    /// Waits until every read is final, or `deadline` passes. True: all are.
    pub async fn drained(&self, deadline: Instant) -> bool {
        loop {
            let quiet = self.0.quiet.notified();
            if self.open_reads() == 0 || self.is_abandoned() {
                return self.open_reads() == 0;
            }
            if tokio::time::timeout_at(deadline, quiet).await.is_err() {
                return self.open_reads() == 0;
            }
        }
    }

    /// Writes checkpoints and settles what waits for them; runs as long as the source. Reads that
    /// took nothing that can be acknowledged are written at most once in `spacing`.
    ///
    /// # Cancel safety
    /// Dropped in the middle, a checkpoint may be written whose takes settle with the next call.
    pub async fn settle_with(&self, committer: &dyn Committer, spacing: Duration) {
        let mut last_write: Option<Instant> = None;
        loop {
            self.wait_for_work().await;
            if let Some(last) = last_write
                && !self.someone_waits()
            {
                let due = last + spacing;
                while Instant::now() < due && !self.someone_waits() {
                    let work = self.0.work.notified();
                    if self.someone_waits() {
                        break;
                    }
                    let _timed_out = tokio::time::timeout_at(due, work).await;
                }
            }
            self.commit_ready(committer).await;
            last_write = Some(Instant::now());
        }
    }

    /// Writes what is ready now, without spacing: at the end of a source.
    pub async fn commit_ready(&self, committer: &dyn Committer) {
        // The entries stay where they are until the write is done: dropped in the middle, nothing is lost.
        let (count, newest) = {
            let state = self.0.state.lock();
            let newest = state
                .ready
                .iter()
                .rev()
                .find_map(|entry| entry.checkpoint.clone());
            (state.ready.len(), newest)
        };
        if count == 0 {
            return;
        }
        let kept = match newest {
            Some(checkpoint) => committer.commit(&checkpoint).await,
            None => true,
        };
        let mut state = self.0.state.lock();
        if kept {
            for entry in state.ready.drain(..count) {
                self.0.finish(entry);
            }
        } else {
            // Never to be committed: the takes are given up with their entries.
            state.abandoned = true;
            state.fenced = true;
            state.ready.clear();
        }
        self.0.release(&mut state);
        drop(state);
        self.0.quiet.notify_waiters();
    }

    /// The end: what is not final by now never will be here, whoever still drops a ticket.
    pub fn seal(&self) {
        let mut state = self.0.state.lock();
        state.abandoned |= !(state.entries.is_empty() && state.ready.is_empty());
        state.sealed = true;
        drop(state);
        self.0.quiet.notify_waiters();
    }

    fn someone_waits(&self) -> bool {
        let state = self.0.state.lock();
        state
            .ready
            .iter()
            .any(|entry| entry.takes.as_ref().is_some_and(|takes| takes.lossless()))
    }

    async fn wait_for_work(&self) {
        loop {
            let work = self.0.work.notified();
            if !self.0.state.lock().ready.is_empty() {
                return;
            }
            work.await;
        }
    }
}

impl Shared {
    /// The read `number` is final or abandoned.
    fn close(&self, number: u64, abandoned: bool) {
        let mut state = self.state.lock();
        let place = usize::try_from(number.saturating_sub(state.first)).unwrap_or(usize::MAX);
        if abandoned {
            state.abandoned = true;
        } else if let Some(entry) = state.entries.get_mut(place) {
            entry.last = true;
        }
        self.release(&mut state);
        let (work, quiet) = (
            !state.ready.is_empty(),
            (state.entries.is_empty() && state.loose == 0) || state.abandoned,
        );
        drop(state);
        if work {
            self.work.notify_one();
        }
        if quiet {
            self.quiet.notify_waiters();
        }
    }

    /// A read that nobody waits for is final or abandoned.
    fn close_loose(&self, entry: Entry, abandoned: bool) {
        let mut state = self.state.lock();
        state.loose = state.loose.saturating_sub(1);
        let counts = !(abandoned || state.abandoned || state.sealed);
        let quiet = state.entries.is_empty() && state.loose == 0;
        drop(state);
        if counts {
            self.finish(entry);
        }
        if quiet {
            self.quiet.notify_waiters();
        }
    }

    /// Settles from the front what is final: at once where nothing has to be written before.
    fn release(&self, state: &mut State) {
        if state.abandoned {
            return;
        }
        while state.entries.front().is_some_and(|entry| entry.last) {
            let Some(entry) = state.entries.pop_front() else {
                return;
            };
            state.first += 1;
            if entry.checkpoint.is_none() && state.ready.is_empty() {
                self.finish(entry);
            } else {
                state.ready.push_back(entry);
            }
        }
    }

    fn finish(&self, entry: Entry) {
        let us = u64::try_from(entry.read_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.settled_messages
            .fetch_add(entry.messages, Ordering::Relaxed);
        self.latency.enter(us);
        if let Some(takes) = entry.takes {
            takes.settle();
        }
    }
}

impl Ticket {
    /// Somebody upstream waits for this read's acknowledgement.
    #[must_use]
    pub fn lossless(&self) -> bool {
        self.0.lossless
    }

    /// Tells the sender of a delivery of this read, by its key, that it cannot be read. True: it will
    /// be told, and no dead letter is needed.
    #[must_use]
    pub fn refuse(&self, delivery: u64, reason: &str) -> bool {
        if delivery == 0 {
            return false;
        }
        self.ask(|takes| takes.refuse(delivery, reason))
    }

    /// The sender is at a standstill until this read is final.
    #[must_use]
    pub fn presses(&self) -> bool {
        self.ask(|takes| takes.presses())
    }

    /// It is kept elsewhere until it is final: to abandon it loses nothing and holds up nobody.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.ask(|takes| takes.is_kept())
    }

    fn ask(&self, question: impl FnOnce(&dyn Settle) -> bool) -> bool {
        let number = match &self.0.place {
            Place::Entry(number) => number,
            Place::Loose(entry) => {
                let entry = entry.lock();
                let takes = entry.as_ref().and_then(|entry| entry.takes.as_deref());
                return takes.is_some_and(question);
            }
        };
        let state = self.0.ledger.state.lock();
        let place = usize::try_from(number.saturating_sub(state.first));
        place
            .ok()
            .and_then(|place| state.entries.get(place))
            .and_then(|entry| entry.takes.as_deref())
            .is_some_and(question)
    }

    /// When the read returned.
    #[must_use]
    pub fn read_at(&self) -> Instant {
        self.0.read_at
    }

    /// This share can never become final here (the process ends, the disk refused): the read and
    /// all later ones are not acknowledged and come again. One for which nobody waits is gone.
    pub fn abandon(self) {
        self.0.abandoned.store(true, Ordering::Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // A task that panics has delivered nothing of what it drops.
        let abandoned = self.abandoned.load(Ordering::Relaxed) || std::thread::panicking();
        match &mut self.place {
            Place::Entry(number) => self.ledger.close(*number, abandoned),
            Place::Loose(entry) => {
                if let Some(entry) = entry.get_mut().take() {
                    self.ledger.close_loose(entry, abandoned);
                }
            }
        }
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Taken(u32, Arc<Mutex<Vec<u32>>>);
    impl Settle for Taken {
        fn settle(self: Box<Self>) {
            self.1.lock().push(self.0);
        }
        fn lossless(&self) -> bool {
            true
        }
    }

    #[derive(Debug, Default)]
    struct Disk {
        written: Mutex<Vec<String>>,
        fenced: AtomicBool,
    }
    #[async_trait]
    impl Committer for Disk {
        async fn commit(&self, checkpoint: &str) -> bool {
            self.written.lock().push(checkpoint.to_owned());
            !self.fenced.load(Ordering::Relaxed)
        }
    }

    fn take(number: u32, log: &Arc<Mutex<Vec<u32>>>) -> Option<Box<dyn Settle>> {
        Some(Box::new(Taken(number, Arc::clone(log))))
    }

    #[test]
    fn a_read_settles_with_its_last_share_and_reads_settle_in_order() {
        let log = Arc::default();
        let ledger = Ledger::new();
        let first = ledger.open(take(1, &log), None, 1);
        let share = first.clone();
        let second = ledger.open(take(2, &log), None, 1);
        drop(second);
        drop(first);
        assert!(
            log.lock().is_empty(),
            "the first read still has a share out"
        );
        drop(share);
        assert_eq!(*log.lock(), [1, 2]);
        assert_eq!(ledger.open_reads(), 0);
    }

    #[test]
    fn an_abandoned_read_takes_all_later_ones_with_it() {
        let log = Arc::default();
        let ledger = Ledger::new();
        let first = ledger.open(take(1, &log), None, 1);
        let second = ledger.open(take(2, &log), None, 1);
        let third = ledger.open(take(3, &log), None, 1);
        drop(first);
        second.abandon();
        drop(third);
        assert_eq!(*log.lock(), [1]);
        assert!(ledger.is_abandoned());
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_nobody_waits_for_holds_up_none_but_the_end() {
        let log = Arc::default();
        let ledger = Ledger::new();
        let lossy = ledger.open(None, None, 1);
        drop(ledger.open(take(1, &log), None, 1));
        assert_eq!(
            *log.lock(),
            [1],
            "the sink of the first may be away for days"
        );
        for _ in 0..1000 {
            drop(ledger.open(None, None, 1));
        }
        assert_eq!((ledger.open_reads(), ledger.settled_messages()), (1, 1001));
        let end = Instant::now() + Duration::from_secs(10);
        let (drained, ()) = tokio::join!(ledger.drained(end), async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            drop(lossy);
        });
        assert!(drained && Instant::now() < end);
        ledger.open(None, None, 1).abandon();
        assert!(!ledger.is_abandoned(), "it would bring nothing back");
    }

    #[tokio::test]
    async fn a_checkpoint_is_written_before_its_take_settles_and_one_write_serves_many() {
        let log = Arc::default();
        let ledger = Ledger::new();
        let disk = Disk::default();
        for number in 1..=3 {
            drop(ledger.open(take(number, &log), Some(format!("at {number}")), 1));
        }
        assert!(log.lock().is_empty());
        ledger.commit_ready(&disk).await;
        assert_eq!(*disk.written.lock(), ["at 3"]);
        assert_eq!(*log.lock(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_read_without_checkpoint_never_overtakes_one_that_waits_for_its_write() {
        let log = Arc::default();
        let ledger = Ledger::new();
        drop(ledger.open(take(1, &log), Some("one".into()), 1));
        drop(ledger.open(take(2, &log), None, 1));
        assert!(log.lock().is_empty());
        ledger.commit_ready(&Disk::default()).await;
        assert_eq!(*log.lock(), [1, 2]);
    }

    #[tokio::test]
    async fn a_fenced_checkpoint_acknowledges_nothing_any_more() {
        let log = Arc::default();
        let ledger = Ledger::new();
        let disk = Disk::default();
        disk.fenced.store(true, Ordering::Relaxed);
        drop(ledger.open(take(1, &log), Some("one".into()), 1));
        ledger.commit_ready(&disk).await;
        drop(ledger.open(take(2, &log), None, 1));
        assert!(log.lock().is_empty());
        assert!(ledger.is_abandoned());
    }

    #[tokio::test(start_paused = true)]
    async fn a_fenced_source_does_not_ask_the_store_again_and_again() {
        let ledger = Ledger::new();
        let disk = Disk::default();
        disk.fenced.store(true, Ordering::Relaxed);
        let log = Arc::default();
        drop(ledger.open(take(1, &log), Some("one".into()), 1));
        let settling = ledger.settle_with(&disk, Duration::ZERO);
        assert!(
            tokio::time::timeout(Duration::from_secs(60), settling)
                .await
                .is_err()
        );
        assert_eq!(disk.written.lock().len(), 1);
    }

    #[test]
    fn a_task_that_panics_acknowledges_nothing() {
        let log = Arc::default();
        let ledger = Ledger::new();
        let ticket = ledger.open(take(1, &log), None, 1);
        let end = std::thread::spawn(move || {
            let _held = ticket;
            panic!("as a task may");
        });
        assert!(end.join().is_err());
        assert!(ledger.is_abandoned() && log.lock().is_empty());
    }

    #[test]
    fn after_the_end_a_ticket_that_is_dropped_acknowledges_nothing() {
        let log = Arc::default();
        let ledger = Ledger::new();
        let early = ledger.open(take(1, &log), None, 1);
        ledger.seal();
        drop(early);
        drop(ledger.open(take(2, &log), None, 1));
        assert!(log.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_rest_is_told_at_once_when_it_was_abandoned() {
        let log = Arc::default();
        let ledger = Ledger::new();
        let first = ledger.open(take(1, &log), None, 1);
        let second = ledger.open(take(2, &log), None, 1);
        let begin = Instant::now();
        let (drained, ()) = tokio::join!(ledger.drained(begin + Duration::from_secs(10)), async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            second.abandon();
        });
        assert!(!drained && begin.elapsed() < Duration::from_secs(1));
        drop(first);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waiting_upstream_means_at_most_one_write_a_second() {
        let ledger = Ledger::new();
        let disk = Disk::default();
        let work = async {
            for number in 0..100 {
                drop(ledger.open(None, Some(number.to_string()), 1));
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        };
        tokio::select! {
            () = ledger.settle_with(&disk, Duration::from_secs(1)) => {}
            () = work => {}
        }
        let written = disk.written.lock().len();
        assert!((2..=5).contains(&written), "{written} writes in 3 s");
    }
}
