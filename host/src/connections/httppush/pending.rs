//! One message that was pushed, from its queueing to its outcome: how the settlement of all its takers
//! comes back to whoever waits with a client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::takers::Shared;
use crate::connections::Inbox;
use crate::message::{Acknowledge, Delivery, Message, Take};

/// Numbers of deliveries, never the same in a process; 0 is none.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Final for every taker: delivered, filtered, dead-lettered or on disk.
    Settled,
    /// A taker cannot read it: the sender's mistake.
    Refused(String),
    /// A taker gave it back before its end.
    Abandoned,
    /// Nobody had read it; it is out of the queues again.
    Withdrawn,
}

impl Outcome {
    /// The same message, pushed again, is a new try.
    pub(super) fn may_be_tried_again(&self) -> bool {
        matches!(self, Self::Abandoned | Self::Withdrawn)
    }
}

/// A message that was handed to its takers.
#[derive(Debug)]
pub(super) struct Pending {
    number: u64,
    state: Mutex<State>,
    outcome: watch::Sender<Option<Outcome>>,
}

#[derive(Debug)]
struct State {
    /// Takers that have not said anything.
    left: usize,
    refused: Option<String>,
    abandoned: bool,
    inboxes: Vec<Arc<Inbox>>,
    /// Its share of what may be unsettled.
    _share: Option<Unsettled>,
}

/// A share of what one connection may have unsettled.
#[derive(Debug)]
pub(super) struct Unsettled {
    shared: Arc<Shared>,
    weight: usize,
}

impl Unsettled {
    /// None: that would be more than the connection's limits allow.
    pub(super) fn of(shared: &Arc<Shared>, weight: usize) -> Option<Self> {
        let limits = shared.context.limits;
        let mut unsettled = shared.unsettled.lock();
        let (messages, bytes) = (unsettled.0 + 1, unsettled.1 + weight);
        // The first is taken whatever it weighs.
        let fits = messages <= limits.unsettled_messages && bytes <= limits.unsettled_bytes;
        if !fits && messages > 1 {
            return None;
        }
        *unsettled = (messages, bytes);
        Some(Self {
            shared: Arc::clone(shared),
            weight,
        })
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        let mut unsettled = self.shared.unsettled.lock();
        unsettled.0 = unsettled.0.saturating_sub(1);
        unsettled.1 = unsettled.1.saturating_sub(self.weight);
    }
}

/// One taker's duty. Dropped without a word it is abandoned.
#[derive(Debug)]
struct Share {
    pending: Arc<Pending>,
    said: std::sync::atomic::AtomicBool,
}

impl Acknowledge for Share {
    fn settled(&self, _key: u64) {
        if !self.said.swap(true, Ordering::AcqRel) {
            self.pending.one_done(false);
        }
    }

    fn refused(&self, _key: u64, reason: &str) -> bool {
        // Nobody would be told: then it has to be kept.
        if self.pending.outcome.receiver_count() == 0 {
            return false;
        }
        let mut state = self.pending.state.lock();
        state.refused.get_or_insert_with(|| reason.to_owned());
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if !*self.said.get_mut() {
            self.pending.one_done(true);
        }
    }
}

/// Somebody who waits for an outcome, with a client.
#[derive(Debug)]
pub(super) struct Waiting(watch::Receiver<Option<Outcome>>);

impl Waiting {
    /// What becomes of it.
    ///
    /// # Cancel safety
    /// Nothing changes.
    pub(super) async fn ended(&mut self) -> Outcome {
        match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Outcome::Abandoned),
            Err(_gone) => Outcome::Abandoned,
        }
    }
}

impl Pending {
    /// A message that has been given to nobody yet.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State {
                left: 0,
                refused: None,
                abandoned: false,
                inboxes: Vec::new(),
                _share: None,
            }),
            outcome: watch::Sender::new(None),
        })
    }

    /// Its number, which the message carries.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Queues it for these takers; there is at least one.
    pub(super) fn give(
        self: &Arc<Self>,
        message: &Message,
        inboxes: Vec<Arc<Inbox>>,
        share: Unsettled,
    ) {
        {
            let mut state = self.state.lock();
            state.left = inboxes.len();
            state.inboxes.clone_from(&inboxes);
            state._share = Some(share);
        }
        for inbox in inboxes {
            let duty = Share {
                pending: Arc::clone(self),
                said: std::sync::atomic::AtomicBool::new(false),
            };
            let refused = inbox.push(Delivery {
                message: message.clone(),
                take: Some(Take::new(Arc::new(duty), self.number)),
            });
            // A closed one hands it back: its taker has gone, and nobody has it.
            drop(refused);
        }
    }

    /// It was given to nobody, and never will be.
    pub(super) fn give_up(&self) {
        self.end(Outcome::Withdrawn);
    }

    fn one_done(&self, abandoned: bool) {
        let outcome = {
            let mut state = self.state.lock();
            state.left = state.left.saturating_sub(1);
            state.abandoned |= abandoned;
            if state.left > 0 {
                return;
            }
            match (&state.refused, state.abandoned) {
                (_, true) => Outcome::Abandoned,
                (Some(reason), false) => Outcome::Refused(reason.clone()),
                (None, false) => Outcome::Settled,
            }
        };
        self.end(outcome);
    }

    fn end(&self, outcome: Outcome) {
        self.outcome.send_if_modified(|now| {
            let first = now.is_none();
            if first {
                *now = Some(outcome);
            }
            first
        });
        let (inboxes, share) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.inboxes), state._share.take())
        };
        // Outside the lock: the share takes the connection's.
        drop((inboxes, share));
    }

    /// What became of it, if that is known.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.outcome.borrow().clone()
    }

    /// Somebody waits for the outcome from now on.
    pub(super) fn waiting(&self) -> Waiting {
        Waiting(self.outcome.subscribe())
    }

    /// Takes it out of the queues where nobody has read it. True: nobody had, anywhere.
    pub(super) fn withdraw(&self) -> bool {
        let (inboxes, left) = {
            let state = self.state.lock();
            (state.inboxes.clone(), state.left)
        };
        let withdrawn: Vec<_> = inboxes
            .iter()
            .filter_map(|inbox| inbox.withdraw(self.number))
            .collect();
        let nobody = !inboxes.is_empty() && withdrawn.len() == inboxes.len() && left > 0;
        if nobody {
            self.end(Outcome::Withdrawn);
        }
        drop(withdrawn);
        nobody
    }
}
