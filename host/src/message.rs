//! What flows: messages, batches, and the takes that tie them to an acknowledgement upstream.
//!
//! The one module that every room may import. It imports nothing of the crate but `error`.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::ConnectionError;

/// A topic, a path, an EdgeX topic. Cheap to clone; empty allocates nothing.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Subject(Option<Arc<str>>);

impl Subject {
    /// Empty: there is none.
    pub const NONE: Self = Self(None);
}

impl Deref for Subject {
    type Target = str;
    fn deref(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }
}

impl From<&str> for Subject {
    fn from(text: &str) -> Self {
        Self((!text.is_empty()).then(|| text.into()))
    }
}

impl From<String> for Subject {
    fn from(text: String) -> Self {
        Self((!text.is_empty()).then(|| text.into()))
    }
}

impl From<Arc<str>> for Subject {
    fn from(text: Arc<str>) -> Self {
        Self((!text.is_empty()).then_some(text))
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Names and values beside the payload (MQTT 5 user properties, HTTP headers). Cheap to clone.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Headers(Option<Arc<[(String, String)]>>);

impl Headers {
    /// No header at all.
    pub const NONE: Self = Self(None);

    /// All pairs, in the order in which they came.
    #[must_use]
    pub fn pairs(&self) -> &[(String, String)] {
        self.0.as_deref().unwrap_or(&[])
    }

    /// The first value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs()
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

impl From<Vec<(String, String)>> for Headers {
    fn from(pairs: Vec<(String, String)>) -> Self {
        Self((!pairs.is_empty()).then(|| pairs.into()))
    }
}

/// What the host knows of a message's arrival; read by `meta(...)` in a query, never by a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Level of the delivery (MQTT: 0, 1, 2).
    pub qos: u8,
    /// The broker sent it because it was retained.
    pub retained: bool,
    /// The protocol's own id of the delivery (MQTT packet id), 0 for none.
    pub message_id: u16,
    /// Milliseconds since the Unix epoch when the host got it, 0 if unknown.
    pub at_ms: u64,
    /// The key of its take, where whoever sent it waits for an answer and can be told that it is not
    /// readable; 0 else. Not kept on disk.
    pub delivery: u64,
}

/// One message. Cloning shares the payload.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The bytes, as they came or as a connector made them.
    pub payload: Bytes,
    /// Topic or path; empty for none.
    pub subject: Subject,
    /// Names and values beside the payload.
    pub headers: Headers,
    /// How it arrived; all zero when a connector made it.
    pub arrival: Arrival,
}

impl Message {
    /// A message without subject and headers.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            payload: payload.into(),
            ..Self::default()
        }
    }

    /// What it weighs in a bounded queue: payload, subject and headers, plus a fixed cost.
    #[must_use]
    pub fn weight(&self) -> usize {
        let headers: usize = self
            .headers
            .pairs()
            .iter()
            .map(|(k, v)| k.len() + v.len())
            .sum();
        self.payload.len() + self.subject.len() + headers + 96
    }
}

/// Messages in an order, never changed. Cloning shares them all.
#[derive(Clone, Debug, Default)]
pub struct Batch(Arc<Vec<Message>>);

impl Batch {
    /// The messages.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.0
    }

    /// The messages at these places, or the first place that is out of range.
    ///
    /// # Errors
    /// The index that does not fit.
    pub fn select(&self, indices: &[u32]) -> Result<Self, u32> {
        let picked = indices
            .iter()
            .map(|&index| self.0.get(index as usize).cloned().ok_or(index))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self::from(picked))
    }

    /// The messages from `start` on, `end` not among them; clamped to what is there.
    #[must_use]
    pub fn slice(&self, start: usize, end: usize) -> Self {
        if start == 0 && end >= self.len() {
            return self.clone();
        }
        let end = end.min(self.len());
        Self::from(self.0.get(start.min(end)..end).unwrap_or_default().to_vec())
    }
}

impl Deref for Batch {
    type Target = [Message];
    fn deref(&self) -> &[Message] {
        &self.0
    }
}

impl From<Vec<Message>> for Batch {
    fn from(messages: Vec<Message>) -> Self {
        Self(Arc::new(messages))
    }
}

/// A message of a batch that was not written, by its place, and why.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// Place in the batch.
    pub index: u32,
    /// Why.
    pub error: ConnectionError,
}

/// Who waits upstream for takes to be settled: a connection's session.
pub trait Acknowledge: Send + Sync + fmt::Debug {
    /// The delivery with this key is final here: delivered, filtered, dead-lettered or on disk.
    /// Must return at once. A key of an earlier generation of the session is ignored.
    fn settled(&self, key: u64);

    /// The delivery with this key cannot be read: why, in a sentence for its sender. It is settled
    /// afterwards. True: the sender will be told, so nothing need be kept of it.
    fn refused(&self, _key: u64, _reason: &str) -> bool {
        false
    }

    /// As far as can be told, the other side sends nothing more to anybody before some of what it
    /// waits for is settled: what is slow should go to disk now. Asked often; must return at once.
    fn presses(&self) -> bool {
        false
    }
}

/// The right, and the duty, to acknowledge one delivery. Dropped without [`Take::settle`] it is
/// abandoned: nothing is acknowledged, and the other side will send the message again.
#[derive(Debug)]
#[must_use = "a take that is dropped is a message that is not acknowledged"]
pub struct Take {
    to: Arc<dyn Acknowledge>,
    key: u64,
}

impl Take {
    /// A take that settles as `key` at `to`.
    pub fn new(to: Arc<dyn Acknowledge>, key: u64) -> Self {
        Self { to, key }
    }

    /// If this is the take with that key ([`Arrival::delivery`]): tells the sender that it cannot be
    /// read. True: the sender will be told. It is still to be settled.
    #[must_use]
    pub fn refuse(&self, key: u64, reason: &str) -> bool {
        self.key == key && self.to.refused(key, reason)
    }

    /// The other side is at a standstill until deliveries like this one are settled.
    #[must_use]
    pub fn presses(&self) -> bool {
        self.to.presses()
    }

    /// It is final: the session may acknowledge it.
    pub fn settle(self) {
        self.to.settled(self.key);
    }
}

/// A message on its way into a source, with its take where the other side wants to know.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// None: nothing upstream waits (MQTT QoS 0, `memory`).
    pub take: Option<Take>,
}
