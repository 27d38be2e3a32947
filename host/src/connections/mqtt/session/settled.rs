//! The way back from the takers: which deliveries are final, told from any thread without touching
//! the session's own lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::message::{Acknowledge, Take};

/// What became of one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::connections::mqtt) struct Outcome {
    /// The delivery's number in this session, never used twice in a process.
    pub(in crate::connections::mqtt) serial: u64,
    /// Every taker settled it. False: a taker dropped it, so nothing may be acknowledged.
    pub(in crate::connections::mqtt) settled: bool,
}

/// A broker that could go on is not silent for so long while it has a backlog.
const SILENCE: Duration = Duration::from_millis(20);

/// Collects outcomes until the link's task fetches them. Bounded by the session's own bound on
/// what is unsettled: each delivery gives one outcome.
#[derive(Debug)]
pub(in crate::connections::mqtt) struct Settled {
    outcomes: Mutex<Vec<Outcome>>,
    pub(in crate::connections::mqtt) waker: AtomicWaker,
    /// Deliveries of the present link that are not acknowledged.
    window: AtomicUsize,
    /// So many may be all that the broker sends without an acknowledgement.
    narrow: usize,
    made: Instant,
    /// When the last one came, in microseconds since this was made.
    arrived: AtomicU64,
}

impl Settled {
    /// For a broker whose window may be as small as `narrow`.
    pub(in crate::connections::mqtt) fn new(narrow: usize) -> Self {
        Self {
            outcomes: Mutex::default(),
            waker: AtomicWaker::new(),
            window: AtomicUsize::new(0),
            narrow,
            made: Instant::now(),
            arrived: AtomicU64::new(0),
        }
    }

    /// So many deliveries are not acknowledged now.
    pub(super) fn window(&self, deliveries: usize) {
        self.window.store(deliveries, Ordering::Relaxed);
    }

    /// Some came.
    pub(in crate::connections::mqtt) fn arrived(&self, now: Instant) {
        self.arrived.store(self.since_made(now), Ordering::Relaxed);
    }

    /// The broker seems to have come to the end of its window: many deliveries are not acknowledged,
    /// and no more have come for a while.
    fn is_exhausted(&self) -> bool {
        let arrived = Duration::from_micros(self.arrived.load(Ordering::Relaxed));
        self.window.load(Ordering::Relaxed) >= self.narrow
            && self.made.elapsed() >= arrived + SILENCE
    }

    fn since_made(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.made);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn push(&self, outcome: Outcome) {
        let first = {
            let mut outcomes = self.outcomes.lock();
            outcomes.push(outcome);
            outcomes.len() == 1
        };
        if first {
            self.waker.wake();
        }
    }

    /// Exchanges what has come in for an empty list, which keeps its memory for the next round.
    pub(in crate::connections::mqtt) fn fetch(&self, into: &mut Vec<Outcome>) {
        into.clear();
        std::mem::swap(&mut *self.outcomes.lock(), into);
    }
}

/// One delivery, held by the takes of all its takers. The last take to go reports.
#[derive(Debug)]
pub(super) struct Pending {
    to: Arc<Settled>,
    serial: u64,
    left: AtomicU32,
}

impl Pending {
    /// Takes for a delivery with this many takers come from `take`.
    pub(super) fn new(to: Arc<Settled>, serial: u64, takers: u32) -> Arc<Self> {
        Arc::new(Self {
            to,
            serial,
            left: AtomicU32::new(takers),
        })
    }

    pub(super) fn take(self: &Arc<Self>) -> Take {
        Take::new(Arc::<Self>::clone(self), self.serial)
    }
}

impl Acknowledge for Pending {
    fn settled(&self, _key: u64) {
        self.left.fetch_sub(1, Ordering::AcqRel);
    }

    fn presses(&self) -> bool {
        self.to.is_exhausted()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.to.push(Outcome {
            serial: self.serial,
            settled: *self.left.get_mut() == 0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_several_takers_reports_and_a_dropped_take_is_no_settlement() {
        let settled = Arc::new(Settled::new(10));
        let mut outcomes = Vec::new();
        let pending = Pending::new(Arc::clone(&settled), 7, 2);
        let (one, two) = (pending.take(), pending.take());
        drop(pending);
        one.settle();
        settled.fetch(&mut outcomes);
        assert!(outcomes.is_empty());
        two.settle();
        settled.fetch(&mut outcomes);
        assert_eq!(
            outcomes,
            [Outcome {
                serial: 7,
                settled: true
            }]
        );
        let pending = Pending::new(Arc::clone(&settled), 8, 2);
        let (one, two) = (pending.take(), pending.take());
        drop(pending);
        one.settle();
        drop(two);
        settled.fetch(&mut outcomes);
        assert_eq!(
            outcomes,
            [Outcome {
                serial: 8,
                settled: false
            }]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_presses_while_many_are_unacknowledged_and_no_more_come() {
        let settled = Arc::new(Settled::new(10));
        let take = Pending::new(Arc::clone(&settled), 7, 1).take();
        let after = |pause: u64| tokio::time::sleep(Duration::from_millis(pause));
        settled.window(9);
        settled.arrived(Instant::now());
        after(1000).await;
        assert!(!take.presses(), "the broker may send more");
        settled.window(10);
        settled.arrived(Instant::now());
        after(10).await;
        assert!(!take.presses(), "some came just now");
        after(20).await;
        assert!(take.presses());
        settled.window(0);
        assert!(!take.presses());
    }
}
