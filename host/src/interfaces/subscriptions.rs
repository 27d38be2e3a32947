//! The subscriptions of one source. They belong to the host, not to an instance: a new instance
//! that subscribes equally gets the same inbox, so replacing an instance is never noticed by the
//! other side and loses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::host::Grant;
use crate::connections::{Inbox, Qos, SubscribeOptions, SubscriptionGuard};
use crate::error::ConnectionError;
use crate::message::Delivery;

/// More than this many at once is a mistake of the guest.
const MOST: usize = 256;

/// How many reads in a row go one message at a time, once that was asked for.
const CLOSELY: u32 = 2048;

/// The subscriptions of one source, over all its instances.
#[derive(Debug)]
pub struct Subscriptions {
    state: Mutex<State>,
    /// Reads that still give one message each.
    closely: AtomicU32,
    /// What a `receive` may give in any case.
    bound: AtomicUsize,
    /// Where the only message of the last failed read went back to.
    suspect: Mutex<Option<Arc<Inbox>>>,
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            closely: AtomicU32::new(0),
            bound: AtomicUsize::new(usize::MAX),
            suspect: Mutex::default(),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    slot: String,
    filters: Vec<String>,
    qos: Option<Qos>,
    extra: Vec<(String, String)>,
    inbox: Arc<Inbox>,
    guard: Box<dyn SubscriptionGuard>,
    /// The present instance has a handle to it.
    claimed: bool,
}

impl Subscriptions {
    /// The inbox of an equal subscription of an earlier instance, or a new one.
    pub(super) fn claim(
        &self,
        grant: &Grant,
        filters: Vec<String>,
        options: SubscribeOptions,
    ) -> Result<(u64, Arc<Inbox>), ConnectionError> {
        let mut state = self.state.lock();
        let equal = state.kept.iter_mut().find(|kept| {
            !kept.claimed
                && kept.slot == grant.slot
                && kept.filters == filters
                && kept.qos == options.qos
                && kept.extra == options.extra
        });
        if let Some(kept) = equal {
            kept.claimed = true;
            return Ok((kept.number, Arc::clone(&kept.inbox)));
        }
        if state.kept.len() >= MOST {
            return Err(ConnectionError::misconfigured(
                "too-many-subscriptions",
                format!("one source may have {MOST} subscriptions"),
            ));
        }
        let inbox = Arc::new(Inbox::default());
        let guard = grant
            .target
            .subscribe(&filters, &options, Arc::clone(&inbox))?;
        let number = state.next;
        state.next += 1;
        state.kept.push(Kept {
            number,
            slot: grant.slot.clone(),
            filters,
            qos: options.qos,
            extra: options.extra,
            inbox: Arc::clone(&inbox),
            guard,
            claimed: true,
        });
        Ok((number, inbox))
    }

    /// The guest has dropped its handle and wants no more.
    pub(super) fn end(&self, number: u64) {
        self.end_where(|kept| kept.number == number);
    }

    /// The instance is gone; the next one may claim them again.
    pub fn release(&self) {
        for kept in &mut self.state.lock().kept {
            kept.claimed = false;
        }
    }

    /// They go on to another source of the same connections: bounds and suspicions of the one before
    /// do not count for it.
    pub fn hand_over(&self) {
        self.release();
        self.closely.store(0, Ordering::Relaxed);
        self.bound.store(usize::MAX, Ordering::Relaxed);
        self.suspect.lock().take();
    }

    /// A new instance is open: what it did not claim is not wanted any more.
    pub fn end_unclaimed(&self) {
        self.end_where(|kept| !kept.claimed);
    }

    /// Nobody wants them any more. What waited in them is settled: a message without a taker is
    /// acknowledged, or it would pin the other side's window. How many messages that were.
    pub fn end_all(&self) -> usize {
        self.end_where(|_| true)
    }

    fn end_where(&self, mut which: impl FnMut(&Kept) -> bool) -> usize {
        // Ended outside the lock: a guard's drop may reach into the pool.
        let ended: Vec<Kept> = self
            .state
            .lock()
            .kept
            .extract_if(.., |kept| which(kept))
            .collect();
        let mut untaken = 0;
        for kept in ended {
            drop(kept.guard);
            kept.inbox.close();
            while let Ok(Some(deliveries)) = kept.inbox.try_receive(1024) {
                if deliveries.is_empty() {
                    break;
                }
                untaken += deliveries.len();
                deliveries
                    .into_iter()
                    .filter_map(|delivery| delivery.take)
                    .for_each(|take| take.settle());
            }
        }
        untaken
    }

    /// From now on each `receive` gives one message, for a while: reads fail, and it has to be found
    /// out which message does it.
    pub fn look_closely(&self) {
        self.closely.store(CLOSELY, Ordering::Relaxed);
    }

    /// From now on no `receive` gives more than so many messages.
    pub fn bound(&self, most: usize) {
        self.bound.store(most.max(1), Ordering::Relaxed);
    }

    /// How many messages a `receive` may give at present.
    pub(super) fn most(&self, max: usize) -> usize {
        let max = max.min(self.bound.load(Ordering::Relaxed));
        let closely = self.closely.load(Ordering::Relaxed);
        if closely == 0 {
            return max;
        }
        self.closely.store(closely - 1, Ordering::Relaxed);
        1
    }

    /// A read has failed that had taken this one message.
    pub(super) fn suspect(&self, inbox: &Arc<Inbox>) {
        *self.suspect.lock() = Some(Arc::clone(inbox));
    }

    /// Takes away the message on which the last read failed, if it had taken only that one. Reads are
    /// as usual afterwards.
    pub fn take_suspect(&self) -> Option<Delivery> {
        let inbox = self.suspect.lock().take()?;
        let delivery = inbox.try_receive(1).ok().flatten()?.pop();
        self.closely.store(0, Ordering::Relaxed);
        delivery
    }

    /// Messages that wait in all of them.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state
            .lock()
            .kept
            .iter()
            .map(|kept| kept.inbox.len())
            .sum()
    }

    /// Somebody upstream waits for a message in one of them.
    #[must_use]
    pub fn are_awaited(&self) -> bool {
        self.state
            .lock()
            .kept
            .iter()
            .any(|kept| kept.inbox.is_awaited())
    }

    /// Messages without a promise that were dropped because a queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.state
            .lock()
            .kept
            .iter()
            .map(|kept| kept.inbox.dropped())
            .sum()
    }
}
