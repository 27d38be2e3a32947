//! Where a session puts what it received for one taker, and where the taker waits for it.
//!
//! Every connection type uses this one queue, so waiting, early wake, the return of an unfinished
//! read and the dropping of what promises nothing are the same everywhere.
//!
//! A delivery with a take is always accepted: the session that owns it bounds the sum of them
//! (`Limits::unsettled`). A delivery without one is dropped, and counted, when the queue is full:
//! nothing was promised for it, and a session must never wait for a taker.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::ConnectionError;
use crate::message::Delivery;

/// How many deliveries without a take may wait, and how many bytes of them.
pub const LOSSY_MESSAGES: usize = 16_384;
const LOSSY_BYTES: usize = 16 * 1024 * 1024;

/// The code of the error that says that nothing more will come.
pub const END: &str = "end";

/// The queue of one taker.
#[derive(Debug, Default)]
pub struct Inbox {
    queue: Mutex<Queue>,
    ready: Notify,
    freed: Notify,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    failure: Option<ConnectionError>,
    closed: bool,
    /// Nothing more will come, and the taker wants to know.
    ended: bool,
}

impl Queue {
    /// A queue that is empty has room for anything.
    fn has_room(&self, weight: usize) -> bool {
        let fits = self.deliveries.len() < LOSSY_MESSAGES && self.bytes + weight <= LOSSY_BYTES;
        fits || self.deliveries.is_empty()
    }
}

impl Inbox {
    /// Adds a delivery at the end. False: it carried no promise, and there was no room for it or
    /// nobody to take it; it is counted in [`Inbox::dropped`]. A delivery with a take is refused only
    /// by a closed inbox; then it is handed back, so that the session can settle it.
    ///
    /// # Errors
    /// The delivery, when it has a take and this inbox is closed.
    pub fn push(&self, delivery: Delivery) -> Result<bool, Delivery> {
        let mut queue = self.queue.lock();
        if queue.closed {
            if delivery.take.is_some() {
                return Err(delivery);
            }
            return Ok(self.drop_one());
        }
        let weight = delivery.message.weight();
        let full = queue.deliveries.len() >= LOSSY_MESSAGES || queue.bytes + weight > LOSSY_BYTES;
        if full && delivery.take.is_none() {
            return Ok(self.drop_one());
        }
        queue.bytes += weight;
        queue.deliveries.push_back(delivery);
        let first = queue.deliveries.len() == 1;
        drop(queue);
        if first {
            self.ready.notify_one();
        }
        Ok(true)
    }

    /// As [`Inbox::push`], but a delivery for which there is no room comes back at once and nothing
    /// is counted: for senders that can wait ([`Inbox::room`]). A closed inbox takes it and drops it.
    ///
    /// # Errors
    /// The delivery, when the queue is full.
    pub fn offer(&self, delivery: Delivery) -> Result<(), Delivery> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Ok(());
        }
        let weight = delivery.message.weight();
        if !queue.has_room(weight) {
            return Err(delivery);
        }
        queue.bytes += weight;
        queue.deliveries.push_back(delivery);
        let first = queue.deliveries.len() == 1;
        drop(queue);
        if first {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Waits until an offer of that weight would be taken. Returns at once when closed.
    ///
    /// # Cancel safety
    /// Nothing changes.
    pub async fn room(&self, weight: usize) {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            let free = {
                let queue = self.queue.lock();
                queue.closed || queue.has_room(weight)
            };
            if free {
                return;
            }
            freed.await;
        }
    }

    fn drop_one(&self) -> bool {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Puts back, in their order and before everything else, what a read that failed had taken.
    pub fn give_back(&self, deliveries: Vec<Delivery>) {
        let mut queue = self.queue.lock();
        for delivery in deliveries.into_iter().rev() {
            queue.bytes += delivery.message.weight();
            queue.deliveries.push_front(delivery);
        }
        drop(queue);
        self.ready.notify_one();
    }

    /// Takes back the delivery with this number ([`Arrival::delivery`](crate::message::Arrival)), if
    /// nobody has read it yet.
    pub fn withdraw(&self, number: u64) -> Option<Delivery> {
        let mut queue = self.queue.lock();
        let place = queue
            .deliveries
            .iter()
            .position(|delivery| delivery.message.arrival.delivery == number)?;
        let delivery = queue.deliveries.remove(place)?;
        queue.bytes = queue.bytes.saturating_sub(delivery.message.weight());
        self.freed.notify_waiters();
        Some(delivery)
    }

    /// Takes back all that nobody has read yet.
    pub fn withdraw_all(&self) -> Vec<Delivery> {
        let mut queue = self.queue.lock();
        queue.bytes = 0;
        self.freed.notify_waiters();
        queue.deliveries.drain(..).collect()
    }

    /// The other side refused the subscription: the next [`Inbox::receive`] says so, once.
    pub fn fail(&self, error: ConnectionError) {
        self.queue.lock().failure = Some(error);
        self.ready.notify_one();
    }

    /// Nothing more will ever come: when all is taken, each [`Inbox::receive`] says so ([`END`]).
    pub fn end(&self) {
        self.queue.lock().ended = true;
        self.ready.notify_one();
    }

    /// Waits until something is there and takes at most `max` of it; at least one unless closed.
    /// A closed inbox gives out the rest and then empty lists.
    ///
    /// # Errors
    /// What [`Inbox::fail`] was told; [`END`] where that was told.
    ///
    /// # Cancel safety
    /// Nothing is taken unless the future returns it.
    pub async fn receive(&self, max: usize) -> Result<Vec<Delivery>, ConnectionError> {
        loop {
            let ready = self.ready.notified();
            if let Some(taken) = self.try_receive(max)? {
                return Ok(taken);
            }
            ready.await;
        }
    }

    /// Takes what is there, without waiting. None: nothing is there yet.
    ///
    /// # Errors
    /// As [`Inbox::receive`].
    pub fn try_receive(&self, max: usize) -> Result<Option<Vec<Delivery>>, ConnectionError> {
        let mut queue = self.queue.lock();
        if let Some(failure) = queue.failure.take() {
            return Err(failure);
        }
        let count = queue.deliveries.len().min(max.max(1));
        if count == 0 && queue.ended && !queue.closed {
            return Err(ConnectionError::permanent(END, "nothing more will come"));
        }
        if count == 0 {
            return Ok(queue.closed.then(Vec::new));
        }
        let taken: Vec<_> = queue.deliveries.drain(..count).collect();
        let weight: usize = taken.iter().map(|delivery| delivery.message.weight()).sum();
        queue.bytes = queue.bytes.saturating_sub(weight);
        self.freed.notify_waiters();
        if queue.deliveries.is_empty() && queue.deliveries.capacity() > 4 * 1024 {
            queue.deliveries = VecDeque::new();
        } else if !queue.deliveries.is_empty() {
            // More is there: the next caller must not wait for a push that has already happened.
            self.ready.notify_one();
        }
        Ok(Some(taken))
    }

    /// No more comes in. What is there can still be taken.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.ready.notify_one();
        self.freed.notify_waiters();
    }

    /// Deliveries waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.lock().deliveries.len()
    }

    /// A delivery with a take waits.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        let queue = self.queue.lock();
        queue
            .deliveries
            .iter()
            .any(|delivery| delivery.take.is_some())
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many deliveries without a take were dropped because the queue was full or closed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::message::{Acknowledge, Message, Take};

    #[derive(Debug, Default)]
    struct Counter(AtomicUsize);
    impl Acknowledge for Counter {
        fn settled(&self, _key: u64) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lossy(text: &str) -> Delivery {
        Delivery {
            message: Message::new(text.to_owned()),
            take: None,
        }
    }

    #[tokio::test]
    async fn an_end_is_told_when_all_is_taken_and_again_whenever_asked() {
        let inbox = Inbox::default();
        assert!(inbox.push(lossy("a")).unwrap());
        inbox.end();
        let taken = inbox.receive(5).await.unwrap();
        assert_eq!(taken.len(), 1);
        inbox.give_back(taken);
        assert_eq!(inbox.receive(5).await.unwrap().len(), 1);
        for _ in 0..2 {
            assert_eq!(inbox.receive(5).await.unwrap_err().code, END);
        }
    }

    #[tokio::test]
    async fn a_receiver_that_waits_is_woken_and_takes_what_is_there() {
        let inbox = Inbox::default();
        let (taken, ()) = tokio::join!(inbox.receive(10), async {
            tokio::task::yield_now().await;
            inbox.push(lossy("a")).unwrap();
            inbox.push(lossy("b")).unwrap();
        });
        assert_eq!(taken.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn what_a_failed_read_took_comes_again_first_and_in_order() {
        let inbox = Inbox::default();
        for text in ["a", "b", "c"] {
            inbox.push(lossy(text)).unwrap();
        }
        let taken = inbox.receive(2).await.unwrap();
        inbox.give_back(taken);
        let again = inbox.receive(10).await.unwrap();
        let texts: Vec<_> = again.iter().map(|d| d.message.payload.clone()).collect();
        assert_eq!(texts, ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn a_full_queue_drops_the_newest_that_promises_nothing_and_keeps_what_does() {
        let inbox = Inbox::default();
        for _ in 0..LOSSY_MESSAGES {
            assert!(inbox.push(lossy("x")).unwrap());
        }
        assert!(!inbox.push(lossy("late")).unwrap());
        assert_eq!(inbox.dropped(), 1);
        let counter = Arc::new(Counter::default());
        let take = Take::new(counter.clone(), 1);
        assert!(
            inbox
                .push(Delivery {
                    message: Message::new("kept"),
                    take: Some(take)
                })
                .unwrap()
        );
        assert_eq!(inbox.len(), LOSSY_MESSAGES + 1);
        assert_eq!(counter.0.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_offer_waits_for_room_and_nothing_is_dropped() {
        let inbox = Inbox::default();
        while inbox.offer(lossy("x")).is_ok() {}
        assert_eq!((inbox.len(), inbox.dropped()), (LOSSY_MESSAGES, 0));
        let (taken, ()) = tokio::join!(async { inbox.receive(1).await }, inbox.room(1));
        assert_eq!(taken.unwrap().len(), 1);
        assert!(inbox.offer(lossy("y")).is_ok() && inbox.offer(lossy("z")).is_err());
    }

    #[tokio::test]
    async fn a_closed_inbox_hands_a_take_back_and_gives_out_the_rest() {
        let inbox = Inbox::default();
        inbox.push(lossy("rest")).unwrap();
        inbox.close();
        let take = Take::new(Arc::new(Counter::default()), 1);
        assert!(
            inbox
                .push(Delivery {
                    message: Message::new("x"),
                    take: Some(take)
                })
                .is_err()
        );
        assert_eq!(inbox.receive(5).await.unwrap().len(), 1);
        assert!(inbox.receive(5).await.unwrap().is_empty());
    }
}
