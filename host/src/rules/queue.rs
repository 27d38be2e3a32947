//! The bounded memory queue in front of one action: the source pushes, the action's task takes.
//!
//! What somebody upstream waits for is always accepted: the connection's own bound on unsettled
//! messages limits the sum, and the action's task moves it to the disk queue when it may not stay
//! (see `action.rs`). What promises nothing is dropped, newest first, and counted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::settle::Ticket;
use crate::error::ConnectionError;
use crate::message::{Batch, Message};

/// Messages for the action's task, with the shares of the reads that wait for them.
#[derive(Debug)]
pub struct Item {
    /// The messages, in order.
    pub batch: Batch,
    /// Dropped when the messages are final.
    pub tickets: Vec<Ticket>,
    /// When they were queued.
    pub since: Instant,
    /// They can never be written, for this reason: keep them as dead letters.
    pub reason: Option<Box<ConnectionError>>,
}

impl Item {
    /// Messages to write.
    #[must_use]
    pub fn new(batch: Batch, tickets: Vec<Ticket>) -> Self {
        Self {
            batch,
            tickets,
            since: Instant::now(),
            reason: None,
        }
    }

    /// How many messages it is.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// No message at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Somebody upstream waits for it.
    #[must_use]
    pub fn lossless(&self) -> bool {
        self.tickets.iter().any(Ticket::lossless)
    }
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    /// There is something to take, or the queue was closed.
    ready: Notify,
    /// There is room again.
    room: Notify,
    /// The queue has just become full.
    pressed: Notify,
    /// How many messages it holds before it is full.
    capacity: usize,
    closed: AtomicBool,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    messages: usize,
    lossless: usize,
    /// Nobody takes anything any more.
    ended: bool,
}

impl Queue {
    /// A queue for so many messages.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::default(),
            ready: Notify::new(),
            room: Notify::new(),
            pressed: Notify::new(),
            capacity: capacity.max(1),
            closed: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        }
    }

    /// Adds work, also over the capacity: for what somebody waits for.
    pub fn push(&self, item: Item) {
        let mut state = self.state.lock();
        if state.ended {
            drop(state);
            item.tickets.into_iter().for_each(Ticket::abandon);
            return;
        }
        let had_room = state.messages < self.capacity;
        state.messages += item.len();
        state.lossless += usize::from(item.lossless());
        state.items.push_back(item);
        let pressed = had_room && state.messages >= self.capacity;
        let first = state.items.len() == 1;
        drop(state);
        if first {
            self.ready.notify_one();
        }
        if pressed {
            self.pressed.notify_one();
        }
    }

    /// Waits until the queue becomes full (or has become so since the last call).
    pub async fn pressed(&self) {
        self.pressed.notified().await;
    }

    /// Adds work where there is room. False: there was none; the messages are counted as dropped.
    pub fn offer(&self, item: Item) -> bool {
        if self.has_room() {
            self.push(item);
            return true;
        }
        self.dropped.fetch_add(item.len() as u64, Ordering::Relaxed);
        false
    }

    /// Fewer messages than the capacity are there, or the queue is closed.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.closed.load(Ordering::Relaxed) || self.state.lock().messages < self.capacity
    }

    /// Waits for room.
    pub async fn room(&self) {
        loop {
            let room = self.room.notified();
            if self.has_room() {
                return;
            }
            room.await;
        }
    }

    /// Waits until there is work, or the queue is closed.
    pub async fn ready(&self) {
        loop {
            let ready = self.ready.notified();
            if !self.state.lock().items.is_empty() || self.is_closed() {
                return;
            }
            ready.await;
        }
    }

    /// Takes items from the front, of together at most `max` messages, at least one item.
    pub fn take(&self, max: usize) -> Vec<Item> {
        let mut state = self.state.lock();
        let mut taken = Vec::new();
        let mut messages = 0;
        while let Some(item) = state.items.front() {
            if !taken.is_empty() && messages + item.len() > max {
                break;
            }
            let Some(item) = state.pop() else { break };
            messages += item.len();
            taken.push(item);
        }
        self.after_take(state);
        taken
    }

    /// Takes everything.
    pub fn take_all(&self) -> Vec<Item> {
        let mut state = self.state.lock();
        let mut taken = Vec::with_capacity(state.items.len());
        while let Some(item) = state.pop() {
            taken.push(item);
        }
        self.after_take(state);
        taken
    }

    /// Puts work back to the front, in its order.
    pub fn give_back(&self, items: Vec<Item>) {
        let mut state = self.state.lock();
        for item in items.into_iter().rev() {
            state.messages += item.len();
            state.lossless += usize::from(item.lossless());
            state.items.push_front(item);
        }
        drop(state);
        self.ready.notify_one();
    }

    fn after_take(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        if state.items.is_empty() && state.items.capacity() > 1024 {
            state.items = VecDeque::new();
        }
        let room = state.messages < self.capacity;
        drop(state);
        if room {
            self.room.notify_waiters();
        }
    }

    /// Nothing new comes in; what is there is still taken.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.ready.notify_one();
        self.room.notify_waiters();
    }

    /// Nobody takes anything any more: gives out what is left, and what comes later is abandoned,
    /// for a ticket that is merely dropped would be acknowledged.
    pub fn end(&self) -> Vec<Item> {
        self.close();
        self.state.lock().ended = true;
        self.take_all()
    }

    /// [`Queue::close`] was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Messages waiting.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.state.lock().messages
    }

    /// As many messages as the capacity, or more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.messages() >= self.capacity
    }

    /// Items for which somebody upstream waits.
    #[must_use]
    pub fn lossless(&self) -> usize {
        self.state.lock().lossless
    }

    /// Since when the oldest item waits.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.state.lock().items.front().map(|item| item.since)
    }

    /// Messages dropped because there was no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl State {
    fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.messages = self.messages.saturating_sub(item.len());
        self.lossless = self.lossless.saturating_sub(usize::from(item.lossless()));
        Some(item)
    }
}

/// The messages of several items as one batch; of one item, that very batch.
#[must_use]
pub fn join(items: &[Item]) -> Batch {
    match items {
        [] => Batch::default(),
        [only] => only.batch.clone(),
        many => {
            let mut messages: Vec<Message> = Vec::with_capacity(many.iter().map(Item::len).sum());
            for item in many {
                messages.extend_from_slice(&item.batch);
            }
            Batch::from(messages)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::settle::Ledger;

    fn write(count: usize) -> Item {
        let messages = (0..count)
            .map(|n| Message::new(n.to_string()))
            .collect::<Vec<_>>();
        Item::new(messages.into(), Vec::new())
    }

    #[test]
    fn what_promises_nothing_is_dropped_when_full_and_counted() {
        let queue = Queue::new(3);
        assert!(queue.offer(write(2)));
        assert!(
            queue.offer(write(2)),
            "one place is left: the batch goes in whole"
        );
        assert!(!queue.offer(write(5)));
        assert_eq!((queue.messages(), queue.dropped()), (4, 5));
    }

    #[test]
    fn taking_keeps_order_and_bounds_a_batch() {
        let queue = Queue::new(100);
        for count in [3, 4, 5] {
            queue.push(write(count));
        }
        assert_eq!(join(&queue.take(8)).len(), 7);
        assert_eq!(
            join(&queue.take(1)).len(),
            5,
            "at least one item, however large"
        );
        assert!(queue.take(1).is_empty());
    }

    #[test]
    fn what_somebody_waits_for_is_accepted_over_the_capacity() {
        #[derive(Debug)]
        struct Waits;
        impl super::super::settle::Settle for Waits {
            fn settle(self: Box<Self>) {}
            fn lossless(&self) -> bool {
                true
            }
        }
        let queue = Queue::new(1);
        let ledger = Ledger::new();
        for _ in 0..3 {
            let ticket = ledger.open(Some(Box::new(Waits)), None, 1);
            queue.push(Item {
                tickets: vec![ticket],
                ..write(1)
            });
        }
        assert_eq!((queue.messages(), queue.lossless()), (3, 3));
        drop(queue.take_all());
        assert_eq!(
            (queue.messages(), queue.lossless(), ledger.open_reads()),
            (0, 0, 0)
        );
    }

    #[tokio::test]
    async fn room_is_announced_to_who_waits_for_it() {
        let queue = Queue::new(1);
        queue.push(write(1));
        assert!(!queue.has_room());
        let waiting = tokio::time::timeout(std::time::Duration::from_secs(5), queue.room());
        let (woken, ()) = tokio::join!(waiting, async { drop(queue.take(10)) });
        woken.unwrap();
    }
}
