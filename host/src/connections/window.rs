//! What a connection has received and its takers have not settled, for types whose other side wants
//! each delivery acknowledged by itself (NATS JetStream, Redis streams): hands a delivery to all its
//! takers, binds one that comes again to the one in flight, and tells the link's task what became of
//! each. Lives as long as the connection, over all its links. Sends nothing itself.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Inbox, Limits};
use crate::message::{Acknowledge, Delivery, Message, Take};

/// Settled deliveries that are remembered: their acknowledgement may have been lost with a link, and
/// the other side sends them once more.
const REMEMBERED: usize = 16 * 1024;

/// What was done with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is with its takers.
    Given,
    /// It is in flight here already: the way to acknowledge it is the newest one.
    Bound,
    /// It was settled here before: acknowledge it again.
    Settled,
    /// Nobody takes it.
    Untaken,
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended<K, T> {
    /// Which one.
    pub key: K,
    /// How it is acknowledged.
    pub to: T,
    /// False: a taker gave it back before its end, and it must come again.
    pub settled: bool,
}

/// The deliveries of one connection. `K` is what the other side knows a delivery by, over all links;
/// `T` is how it is acknowledged.
#[derive(Debug)]
pub struct Window<K, T>(Arc<Inner<K, T>>);

#[derive(Debug)]
struct Inner<K, T> {
    limits: Limits,
    state: Mutex<State<K, T>>,
    /// Something has ended. One waits: the link's task.
    ended: Notify,
    /// There may be room. Many wait.
    freed: Notify,
}

#[derive(Debug)]
struct State<K, T> {
    entries: HashMap<K, Entry<T>>,
    bytes: usize,
    ended: Vec<Ended<K, T>>,
    remembered: HashSet<K>,
    order: VecDeque<K>,
    /// Something was settled since this was last asked.
    useful: bool,
}

#[derive(Debug)]
struct Entry<T> {
    to: T,
    /// Takers that have not said anything.
    left: usize,
    abandoned: bool,
    weight: usize,
}

impl<K, T> Window<K, T>
where
    K: Hash + Eq + Clone + Debug + Send + Sync + 'static,
    T: Clone + Debug + Send + Sync + 'static,
{
    /// An empty one within these bounds.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner {
            limits,
            state: Mutex::new(State {
                entries: HashMap::new(),
                bytes: 0,
                ended: Vec::new(),
                remembered: HashSet::new(),
                order: VecDeque::new(),
                useful: false,
            }),
            ended: Notify::new(),
            freed: Notify::new(),
        }))
    }

    /// Hands a delivery to its takers. `again`: the other side says that it has sent it before, so that it
    /// may be one whose acknowledgement was lost. Without that word one that was settled here is given
    /// anyway: an operator has it sent anew.
    pub fn give(
        &self,
        key: K,
        to: T,
        message: &Message,
        again: bool,
        inboxes: &[Arc<Inbox>],
    ) -> Fate {
        {
            let mut state = self.0.state.lock();
            if let Some(entry) = state.entries.get_mut(&key) {
                entry.to = to;
                return Fate::Bound;
            }
            if again && state.remembered.contains(&key) {
                return Fate::Settled;
            }
            if inboxes.is_empty() {
                return Fate::Untaken;
            }
            let weight = message.weight();
            let entry = Entry {
                to,
                left: inboxes.len(),
                abandoned: false,
                weight,
            };
            state.bytes += weight;
            // Should it be abandoned this time, it was not settled.
            state.remembered.remove(&key);
            state.entries.insert(key.clone(), entry);
        }
        let mut returned = Vec::new();
        for inbox in inboxes {
            let share = Share {
                inner: Arc::clone(&self.0),
                key: key.clone(),
                said: AtomicBool::new(false),
            };
            let delivery = Delivery {
                message: message.clone(),
                take: Some(Take::new(Arc::new(share), 0)),
            };
            if let Err(delivery) = inbox.push(delivery) {
                returned.extend(delivery.take);
            }
        }
        // A taker that has just gone wants nothing any more; if all have, nobody has it.
        if returned.len() < inboxes.len() {
            returned.into_iter().for_each(Take::settle);
        }
        Fate::Given
    }

    /// What has ended since this was last asked.
    #[must_use]
    pub fn ended(&self) -> Vec<Ended<K, T>> {
        std::mem::take(&mut self.0.state.lock().ended)
    }

    /// Waits until something has ended. Only one may wait.
    ///
    /// # Cancel safety
    /// Nothing is taken.
    pub async fn any_ended(&self) {
        loop {
            let ended = self.0.ended.notified();
            if !self.0.state.lock().ended.is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Waits until more may be received.
    ///
    /// # Cancel safety
    /// Nothing changes.
    pub async fn room(&self) {
        loop {
            let mut freed = std::pin::pin!(self.0.freed.notified());
            freed.as_mut().enable();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    fn has_room(&self) -> bool {
        let state = self.0.state.lock();
        state.entries.len() < self.0.limits.unsettled_messages
            && state.bytes < self.0.limits.unsettled_bytes
    }

    /// All that is in flight, and how it is acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> Vec<(K, T)> {
        let state = self.0.state.lock();
        let entries = state.entries.iter();
        entries
            .map(|(key, entry)| (key.clone(), entry.to.clone()))
            .collect()
    }

    /// How many are in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.state.lock().entries.len()
    }

    /// Nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether something was settled since this was last asked.
    #[must_use]
    pub fn was_useful(&self) -> bool {
        std::mem::take(&mut self.0.state.lock().useful)
    }
}

impl<K: Hash + Eq + Clone, T> Inner<K, T> {
    fn said(&self, key: &K, abandoned: bool) {
        {
            let mut state = self.state.lock();
            let Some(entry) = state.entries.get_mut(key) else {
                return;
            };
            entry.left = entry.left.saturating_sub(1);
            entry.abandoned |= abandoned;
            if entry.left > 0 {
                return;
            }
            let Some((key, entry)) = state.entries.remove_entry(key) else {
                return;
            };
            state.bytes = state.bytes.saturating_sub(entry.weight);
            let settled = !entry.abandoned;
            if settled {
                state.useful = true;
                state.remember(key.clone());
            }
            state.ended.push(Ended {
                key,
                to: entry.to,
                settled,
            });
        }
        self.ended.notify_one();
        self.freed.notify_waiters();
    }
}

impl<K: Hash + Eq + Clone, T> State<K, T> {
    fn remember(&mut self, key: K) {
        if !self.remembered.insert(key.clone()) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.remembered.remove(&oldest);
        }
    }
}

/// One taker's duty. Dropped without a word it is abandoned.
#[derive(Debug)]
struct Share<K: Hash + Eq + Clone + Debug, T: Debug> {
    inner: Arc<Inner<K, T>>,
    key: K,
    said: AtomicBool,
}

impl<K, T> Acknowledge for Share<K, T>
where
    K: Hash + Eq + Clone + Debug + Send + Sync + 'static,
    T: Debug + Send + Sync + 'static,
{
    fn settled(&self, _key: u64) {
        if !self.said.swap(true, Ordering::AcqRel) {
            self.inner.said(&self.key, false);
        }
    }
}

impl<K: Hash + Eq + Clone + Debug, T: Debug> Drop for Share<K, T> {
    fn drop(&mut self) {
        if !*self.said.get_mut() {
            self.inner.said(&self.key, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(messages: usize) -> Window<u32, &'static str> {
        Window::new(Limits {
            unsettled_messages: messages,
            ..Limits::default()
        })
    }

    async fn take(inbox: &Inbox) -> Take {
        inbox.receive(1).await.unwrap().remove(0).take.unwrap()
    }

    #[tokio::test]
    async fn a_delivery_ends_when_its_last_taker_has_settled_it() {
        let (window, one, two) = (window(10), Arc::<Inbox>::default(), Arc::default());
        let inboxes = [Arc::clone(&one), Arc::clone(&two)];
        assert_eq!(
            window.give(1, "a", &Message::new("m"), true, &inboxes),
            Fate::Given
        );
        take(&one).await.settle();
        assert!(window.ended().is_empty() && window.len() == 1);
        // It comes again meanwhile: the newest way to acknowledge it counts.
        assert_eq!(
            window.give(1, "b", &Message::new("m"), true, &inboxes),
            Fate::Bound
        );
        assert_eq!(window.in_flight(), [(1, "b")]);
        take(&two).await.settle();
        window.any_ended().await;
        let ended = window.ended();
        assert_eq!((ended.len(), ended[0].to, ended[0].settled), (1, "b", true));
        assert!(window.was_useful() && !window.was_useful());
        // And once more, because the acknowledgement was lost.
        assert_eq!(
            window.give(1, "c", &Message::new("m"), true, &inboxes),
            Fate::Settled
        );
        assert!(one.is_empty() && two.is_empty());
        // An operator has it sent anew: the other side does not know that it was ever sent.
        assert_eq!(
            window.give(1, "d", &Message::new("m"), false, &inboxes),
            Fate::Given
        );
        assert_eq!(window.in_flight(), [(1, "d")]);
        drop((take(&one).await, take(&two).await));
        assert_eq!(
            window.give(1, "e", &Message::new("m"), true, &inboxes),
            Fate::Given,
            "what was abandoned is not settled"
        );
    }

    #[tokio::test]
    async fn one_that_is_given_back_by_any_taker_comes_again() {
        let (window, one, two) = (window(10), Arc::<Inbox>::default(), Arc::default());
        let inboxes = [Arc::clone(&one), Arc::clone(&two)];
        window.give(1, "a", &Message::new("m"), true, &inboxes);
        drop(take(&one).await);
        take(&two).await.settle();
        assert!(!window.ended()[0].settled);
        assert_eq!(
            window.give(1, "a", &Message::new("m"), true, &inboxes),
            Fate::Given
        );
    }

    #[tokio::test]
    async fn a_taker_that_has_gone_does_not_count_and_without_any_nothing_is_settled() {
        let (window, one, gone) = (window(10), Arc::<Inbox>::default(), Arc::<Inbox>::default());
        gone.close();
        window.give(
            1,
            "a",
            &Message::new("m"),
            false,
            &[Arc::clone(&one), Arc::clone(&gone)],
        );
        take(&one).await.settle();
        assert!(window.ended()[0].settled);
        window.give(2, "a", &Message::new("m"), false, &[gone]);
        assert!(!window.ended()[0].settled);
        assert_eq!(
            window.give(3, "a", &Message::new("m"), false, &[]),
            Fate::Untaken
        );
    }

    #[tokio::test]
    async fn a_full_window_has_room_again_when_something_is_settled() {
        let (window, inbox) = (window(1), Arc::<Inbox>::default());
        window.room().await;
        window.give(1, "a", &Message::new("m"), true, &[Arc::clone(&inbox)]);
        let ((), ()) = tokio::join!(window.room(), async { take(&inbox).await.settle() });
        assert!(window.is_empty());
    }
}
