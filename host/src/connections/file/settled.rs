//! Who has taken the records of a file, and when all of them are final. Bounds what is read and is not.
//! Knows no file.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::connections::Limits;
use crate::message::{Acknowledge, Take};

/// What may be unsettled at once: what is read again after a crash is not more than that.
const MOST_RECORDS: usize = 16_384;
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What one rule has taken of all its files.
#[derive(Debug)]
pub(super) struct Flow {
    most: (usize, usize),
    open: Mutex<(usize, usize)>,
    freed: Notify,
    keys: AtomicU64,
}

impl Flow {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            most: (
                limits.unsettled_messages.min(MOST_RECORDS),
                limits.unsettled_bytes.min(MOST_BYTES),
            ),
            open: Mutex::default(),
            freed: Notify::new(),
            keys: AtomicU64::new(1),
        }
    }

    fn is_full(&self) -> bool {
        let (records, bytes) = *self.open.lock();
        records >= self.most.0 || bytes >= self.most.1
    }

    /// Waits until one more may be taken.
    ///
    /// # Cancel safety
    /// Nothing changes.
    pub(super) async fn room(&self) {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if !self.is_full() {
                return;
            }
            freed.await;
        }
    }

    fn less(&self, records: usize, bytes: usize) {
        let mut open = self.open.lock();
        *open = (open.0.saturating_sub(records), open.1.saturating_sub(bytes));
        drop(open);
        self.freed.notify_waiters();
    }
}

/// What became of one reading of a file.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By key: the weight of each that is not final.
    open: HashMap<u64, usize>,
    /// All of the file was read, and nobody has put any of it back.
    whole: bool,
    /// A part of it could not be read.
    refused: bool,
    /// Nobody holds any of it any more.
    gone: bool,
}

impl Outcome {
    /// Waits until nobody holds any record. True: all that was taken is final.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn end(&self) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(settled) = self.ended() {
                return settled;
            }
            changed.await;
        }
    }

    /// None: somebody holds a record.
    pub(super) fn ended(&self) -> Option<bool> {
        let state = self.state.lock();
        state.gone.then(|| state.open.is_empty())
    }

    /// A part of the file went to the dead letters instead.
    pub(super) fn is_refused(&self) -> bool {
        self.state.lock().refused
    }

    /// All records of the file went out and none came back.
    pub(super) fn is_whole(&self) -> bool {
        self.state.lock().whole
    }
}

/// The side that its takes settle at. Dropped with the last of them.
#[derive(Debug)]
pub(super) struct Settling {
    outcome: Arc<Outcome>,
    flow: Arc<Flow>,
}

impl Settling {
    pub(super) fn new(flow: Arc<Flow>) -> (Arc<Self>, Arc<Outcome>) {
        let outcome = Arc::<Outcome>::default();
        let settling = Self {
            outcome: Arc::clone(&outcome),
            flow,
        };
        (Arc::new(settling), outcome)
    }

    /// One more record: its key, and its take.
    pub(super) fn take(self: &Arc<Self>, weight: usize) -> (u64, Take) {
        let key = self.flow.keys.fetch_add(1, Ordering::Relaxed);
        self.outcome.state.lock().open.insert(key, weight);
        let mut open = self.flow.open.lock();
        *open = (open.0 + 1, open.1 + weight);
        drop(open);
        let to: Arc<dyn Acknowledge> = Arc::clone(self) as _;
        (key, Take::new(to, key))
    }

    /// The file was read to its end; whether a part of it could not be.
    pub(super) fn whole(&self, refused: bool) {
        let mut state = self.outcome.state.lock();
        state.whole = true;
        state.refused = refused;
    }

    /// A record that nobody has read was taken back: whoever reads on takes it anew.
    pub(super) fn withdraw(&self, key: u64) {
        self.outcome.state.lock().whole = false;
        self.settled(key);
    }
}

impl Acknowledge for Settling {
    fn settled(&self, key: u64) {
        let weight = self.outcome.state.lock().open.remove(&key);
        if let Some(weight) = weight {
            self.flow.less(1, weight);
        }
    }

    fn presses(&self) -> bool {
        self.flow.is_full()
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        let mut state = self.outcome.state.lock();
        state.gone = true;
        let (records, bytes) = (state.open.len(), state.open.values().sum());
        drop(state);
        self.flow.less(records, bytes);
        self.outcome.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(records: usize) -> Arc<Flow> {
        Arc::new(Flow::new(Limits {
            unsettled_messages: records,
            ..Limits::default()
        }))
    }

    #[tokio::test]
    async fn a_file_is_final_with_its_last_record_and_not_if_one_was_dropped() {
        let flow = flow(10);
        let (settling, outcome) = Settling::new(Arc::clone(&flow));
        let (first, second) = (settling.take(1).1, settling.take(1).1);
        settling.whole(false);
        drop(settling);
        first.settle();
        assert_eq!(outcome.ended(), None);
        second.settle();
        assert!(outcome.end().await && outcome.is_whole());
        let (settling, outcome) = Settling::new(flow);
        drop(settling.take(1).1);
        drop(settling);
        assert!(!outcome.end().await);
    }

    #[tokio::test]
    async fn what_was_taken_back_is_neither_final_nor_lost() {
        let (settling, outcome) = Settling::new(flow(10));
        let (key, take) = settling.take(1);
        settling.whole(false);
        settling.withdraw(key);
        drop((take, settling));
        assert!(outcome.end().await && !outcome.is_whole());
    }

    #[tokio::test]
    async fn no_more_is_taken_than_may_be_unsettled_and_what_is_dropped_makes_room() {
        let flow = flow(2);
        let (settling, _outcome) = Settling::new(Arc::clone(&flow));
        let (first, second) = (settling.take(1).1, settling.take(1).1);
        assert!(first.presses());
        tokio::join!(flow.room(), async { first.settle() });
        assert!(!second.presses());
        drop((second, settling));
        assert_eq!(*flow.open.lock(), (0, 0));
    }
}
