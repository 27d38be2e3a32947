//! Who takes what a link brings, where the protocol has no topics: everybody takes everything (`nng`,
//! `websocket`). Nothing was promised for it, so a taker whose queue is full misses it, counted, and the
//! link never waits. Knows no protocol.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::Mutex;

use super::status::now_ms;
use super::{Inbox, SubscriptionGuard, Traffic};
use crate::message::{Arrival, Delivery, Message};

/// The takers of one connection.
#[derive(Debug, Default)]
pub struct Takers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    inboxes: BTreeMap<u64, Arc<Inbox>>,
}

impl Takers {
    /// Adds a taker, until the guard is dropped.
    #[must_use]
    pub fn add(self: &Arc<Self>, inbox: Arc<Inbox>) -> Taking {
        let mut state = self.state.lock();
        state.next += 1;
        let key = state.next;
        state.inboxes.insert(key, inbox);
        Taking {
            takers: Arc::clone(self),
            key,
        }
    }

    /// Gives a payload to all of them, and counts it.
    pub fn give(&self, payload: Bytes, traffic: &Traffic) {
        traffic.received(payload.len());
        let message = Message {
            payload,
            arrival: Arrival {
                at_ms: now_ms(),
                ..Arrival::default()
            },
            ..Message::default()
        };
        let state = self.state.lock();
        if state.inboxes.is_empty() {
            traffic.untaken.fetch_add(1, Ordering::Relaxed);
        }
        for inbox in state.inboxes.values() {
            let delivery = Delivery {
                message: message.clone(),
                take: None,
            };
            if !matches!(inbox.push(delivery), Ok(true)) {
                traffic.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A taker; gone when dropped.
#[derive(Debug)]
pub struct Taking {
    takers: Arc<Takers>,
    key: u64,
}

impl SubscriptionGuard for Taking {}

impl Drop for Taking {
    fn drop(&mut self) {
        self.takers.state.lock().inboxes.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::inbox::LOSSY_MESSAGES;

    #[test]
    fn every_taker_gets_everything_and_one_that_is_full_holds_nobody() {
        let (takers, traffic) = (Arc::new(Takers::default()), Traffic::default());
        takers.give(Bytes::from_static(b"nobody"), &traffic);
        let (slow, quick) = (Arc::new(Inbox::default()), Arc::new(Inbox::default()));
        let guards = [
            takers.add(Arc::clone(&slow)),
            takers.add(Arc::clone(&quick)),
        ];
        for _ in 0..LOSSY_MESSAGES + 10 {
            takers.give(Bytes::from_static(b"x"), &traffic);
            assert_eq!(quick.try_receive(2).unwrap().unwrap().len(), 1);
        }
        drop(guards);
        takers.give(Bytes::from_static(b"nobody"), &traffic);
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!((slow.len(), slow.dropped()), (LOSSY_MESSAGES, 10));
        assert_eq!((count(&traffic.untaken), count(&traffic.dropped)), (2, 10));
        assert!(quick.is_empty());
    }
}
