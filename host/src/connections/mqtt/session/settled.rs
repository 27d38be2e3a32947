//! The way back from the takers: which deliveries are final, told from any thread without touching
//! the session's own lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::message::{Acknowledge, Take};

/// What became of one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::connections::mqtt) struct Outcome {
    /// The delivery's number in this session, never used twice in a process.
    pub(in crate::connections::mqtt) serial: u64,
    /// Every taker settled it. False: a taker dropped it, so nothing may be acknowledged.
    pub(in crate::connections::mqtt) settled: bool,
}

/// Collects outcomes until the link's task fetches them. Bounded by the session's own bound on
/// what is unsettled: each delivery gives one outcome.
#[derive(Debug, Default)]
pub(in crate::connections::mqtt) struct Settled {
    outcomes: Mutex<Vec<Outcome>>,
    pub(in crate::connections::mqtt) waker: AtomicWaker,
}

impl Settled {
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
        let settled = Arc::new(Settled::default());
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
}
