//! One call of `publish`: a batch on its way to the broker, and what is known of it so far. Shared by
//! the caller, who waits for it, and the session, which sends it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::connections::mqtt::codec::Outgoing;
use crate::error::ConnectionError;
use crate::message::{Batch, Message, Rejection};

/// How the messages of one call are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::connections::mqtt) struct Manner {
    /// In place of each message's own.
    pub(in crate::connections::mqtt) topic: Option<String>,
    pub(in crate::connections::mqtt) qos: u8,
    pub(in crate::connections::mqtt) retain: bool,
    /// Version 5.
    pub(in crate::connections::mqtt) content_type: Option<String>,
    /// Version 5, seconds.
    pub(in crate::connections::mqtt) expiry: Option<u32>,
}

/// A batch under way.
#[derive(Debug)]
pub(in crate::connections::mqtt) struct Ticket {
    batch: Batch,
    manner: Manner,
    left: AtomicUsize,
    orphaned: AtomicBool,
    rejections: Mutex<Vec<Rejection>>,
    done: Notify,
}

impl Ticket {
    /// All messages of the batch are open, except those rejected beforehand.
    pub(in crate::connections::mqtt) fn new(
        batch: Batch,
        manner: Manner,
        rejections: Vec<Rejection>,
    ) -> Self {
        let left = batch.len().saturating_sub(rejections.len());
        Self {
            batch,
            manner,
            left: AtomicUsize::new(left),
            orphaned: AtomicBool::new(false),
            rejections: Mutex::new(rejections),
            done: Notify::new(),
        }
    }

    pub(in crate::connections::mqtt) fn batch(&self) -> &Batch {
        &self.batch
    }

    pub(in crate::connections::mqtt) fn manner(&self) -> &Manner {
        &self.manner
    }

    /// The message at a place as it goes onto the wire.
    pub(super) fn outgoing(&self, index: u32, id: u16, dup: bool) -> Option<Outgoing<'_>> {
        let message = self.batch.get(index as usize)?;
        Some(Outgoing {
            topic: self.topic(message),
            alias: 0,
            payload: &message.payload,
            qos: self.manner.qos,
            retain: self.manner.retain,
            dup,
            id,
            headers: message.headers.pairs(),
            content_type: self.manner.content_type.as_deref(),
            expiry: self.manner.expiry,
        })
    }

    pub(in crate::connections::mqtt) fn topic<'a>(&'a self, message: &'a Message) -> &'a str {
        self.manner.topic.as_deref().unwrap_or(&message.subject)
    }

    /// One message is final. True: it was the last.
    pub(super) fn complete(&self, count: usize) -> bool {
        let last = self.left.fetch_sub(count, Ordering::AcqRel) == count;
        if last {
            self.done.notify_one();
        }
        last
    }

    pub(super) fn reject(&self, index: u32, error: ConnectionError) {
        self.rejections.lock().push(Rejection { index, error });
        self.complete(1);
    }

    pub(in crate::connections::mqtt) fn is_done(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    /// Waits for the last message. One waiter.
    pub(in crate::connections::mqtt) async fn done(&self) {
        while !self.is_done() {
            self.done.notified().await;
        }
    }

    /// What was rejected, by place.
    pub(in crate::connections::mqtt) fn rejections(&self) -> Vec<Rejection> {
        let mut rejections = std::mem::take(&mut *self.rejections.lock());
        rejections.sort_by_key(|rejection| rejection.index);
        rejections
    }

    /// Nobody waits for it any more: what is in the window may be claimed by a repeated call.
    pub(super) fn orphan(&self) {
        self.orphaned.store(true, Ordering::Release);
    }

    pub(super) fn is_orphan(&self) -> bool {
        self.orphaned.load(Ordering::Acquire)
    }

    /// The message at `index` is the same as that of `other`: content, topic and manner.
    pub(super) fn same(&self, index: u32, other: &Self, there: u32) -> bool {
        let (Some(one), Some(two)) = (
            self.batch.get(index as usize),
            other.batch.get(there as usize),
        ) else {
            return false;
        };
        one.payload == two.payload
            && self.topic(one) == other.topic(two)
            && one.headers == two.headers
            && self.manner.qos == other.manner.qos
            && self.manner.retain == other.manner.retain
            && self.manner.content_type == other.manner.content_type
            && self.manner.expiry == other.manner.expiry
    }
}
