//! The disk queue that stands behind each action: what a slow or dead sink cannot take waits here,
//! and what is here is acknowledged upstream.
//!
//! [`SpillSet`] holds the queues of a host, one folder each below `<tenant>/<rule>/<action>`; [`Spill`]
//! is one of them as its action sees it. A queue is a row of segment files (`log`), each a row of
//! records with a number and a check (`record`); a cursor beside them says how far reading has come.
//! An append returns after the file is synced. The cursor is not synced: after a crash some messages
//! come again, none is missing. A queue that is empty has no file open, no task, and no segment.
//!
//! Beside its own bound a queue heeds that of all queues together, and leaves a part of the disk to the
//! store (`budget`).
//!
//! Content on disk never makes a queue fail: a torn tail is cut, bad records are skipped, files that
//! belong elsewhere are set aside, all of it counted in [`Damage`]. The numbers of the records say how
//! many are missing.
//!
//! It is a log of our own because the crates for it (write-ahead logs, mostly) end a log at its first
//! bad record or refuse to open it, trust a second sync after one that failed, and know no bound.
//!
//! May not touch connections, guests or the store. All file work runs on blocking threads.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;

use crate::message::Message;

mod budget;
mod log;
mod names;
mod options;
mod queue;
mod record;
mod scan;
pub mod schema;
mod set;
pub mod storage;

#[cfg(test)]
mod faulty;
#[cfg(test)]
mod tests;

pub use budget::{DEFAULT_HOST_BYTES, DiskUse, HostBounds};
pub use options::SpillOptions;
pub use queue::FileQueue;
pub use set::{QueueName, SpillSet};

/// Bytes of one queue on disk unless told otherwise: 1 GiB.
pub const DEFAULT_MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// A place behind one message of a queue. Means nothing to another queue or another process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    segment: u64,
    end: u64,
    number: u64,
    at_ms: u64,
}

/// The disk queue of one action.
///
/// One reader takes messages with [`Spill::peek`] and says with [`Spill::advance`] how far they are
/// done; any number of callers append.
#[async_trait]
pub trait Spill: Send + Sync + fmt::Debug {
    /// Adds messages at the end: all of them or, on an error, none. They are on disk when this
    /// returns. Answers the place behind the last one.
    ///
    /// # Errors
    /// [`SpillError`]; each of them may go away, so the same call may succeed later.
    ///
    /// # Cancel safety
    /// A dropped call may have added the messages.
    async fn append(&self, messages: Vec<Message>) -> Result<Position, SpillError>;

    /// As [`Spill::append`], but also over the queue's bound: for the rest that is in memory when its
    /// action ends, which is bounded and has no other place.
    ///
    /// # Errors
    /// [`SpillError`], but not `Full`.
    async fn append_last(&self, messages: Vec<Message>) -> Result<Position, SpillError>;

    /// The oldest messages, each with the place behind it, without removing them: at most so many
    /// and of about so many bytes, but at least one unless the queue is empty. Bad records are
    /// skipped and counted. After an empty answer [`Spill::is_empty`] is true until the next append.
    ///
    /// # Errors
    /// [`SpillError::Io`]: the disk refuses to be read at all.
    async fn peek(
        &self,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<(Position, Message)>, SpillError>;

    /// Everything before this place is done. A place that has been passed already changes nothing.
    ///
    /// # Errors
    /// [`SpillError::Io`] where the folder was never opened before and cannot be.
    async fn advance(&self, position: Position) -> Result<(), SpillError>;

    /// Ends the use for now: the cursor is on disk when this returns, or, with `cleanCacheAtStop`,
    /// the queue is emptied (counted as dropped). The queue can be used again.
    ///
    /// # Errors
    /// [`SpillError::Io`]: some messages may come again.
    async fn close(&self) -> Result<(), SpillError>;

    /// Removes everything: how many messages those were. They count as dropped.
    ///
    /// # Errors
    /// [`SpillError::Io`]: something is still there.
    async fn clear(&self) -> Result<u64, SpillError>;

    /// Nothing waits. False for a queue that has files but was not read yet: it may turn out empty.
    fn is_empty(&self) -> bool;

    /// What it holds and what has happened to it.
    fn stats(&self) -> SpillStats;

    /// Messages that wait; exact but for what turns out damaged. 0 before the first use.
    fn len(&self) -> u64 {
        self.stats().messages
    }

    /// Bytes on disk.
    fn bytes(&self) -> u64 {
        self.stats().bytes
    }

    /// When the oldest message was appended (ms since the Unix epoch), or shortly before.
    fn oldest_at(&self) -> Option<u64> {
        self.stats().oldest_ms
    }
}

/// What a queue holds and what has happened to it since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpillStats {
    /// Messages that wait.
    pub messages: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// When the oldest was appended, or shortly before (ms since the Unix epoch).
    pub oldest_ms: Option<u64>,
    /// Messages dropped for want of room, or because the queue was cleared.
    pub dropped: u64,
    /// Messages dropped because they were too old.
    pub expired: u64,
    /// What was found broken.
    pub damage: Damage,
}

/// What was found broken on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Messages that are missing, as far as the numbers of their neighbours tell.
    pub lost: u64,
    /// Places within files where records could not be read and were skipped.
    pub places: u64,
    /// Bytes in all that were skipped or cut.
    pub bytes: u64,
    /// Files that ended in something that is no record, and were cut there.
    pub torn: u64,
    /// Files that are not this queue's, or not to be read at all; they were given another name.
    pub set_aside: u64,
    /// Files of which only one copy of the label, or one slot of the cursor, was good. Nothing is lost.
    pub mended: u64,
}

impl Damage {
    /// Something was broken.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lost,
            places,
            bytes,
            torn,
            set_aside,
            mended,
        } = self;
        write!(
            f,
            "{lost} messages known to be lost, {places} places skipped, {torn} torn ends cut ({bytes} bytes in all), \
             {set_aside} files set aside, {mended} mended from a second copy"
        )
    }
}

/// Why a queue takes nothing, or gives nothing, at present.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SpillError {
    /// The bound of the queue is reached, and its rule says `overflow: block`.
    #[error("the disk queue is full: {used} of {max} {unit} are used")]
    Full {
        /// What it holds.
        used: u64,
        /// What it may hold.
        max: u64,
        /// `bytes` or `messages`.
        unit: &'static str,
    },
    /// All queues together have what they may have.
    #[error(
        "all disk queues together are full: they have the {max} bytes that they may have (limits: diskBytes)"
    )]
    HostFull {
        /// What they may hold.
        max: u64,
    },
    /// What is left of the disk is kept for the store.
    #[error(
        "the disk is nearly full: its last {reserve} bytes are kept for the store (limits: diskReserveBytes)"
    )]
    Reserved {
        /// What is kept free.
        reserve: u64,
    },
    /// The disk is full.
    #[error("the disk of the disk queue is full")]
    NoSpace(#[source] Arc<io::Error>),
    /// The disk refuses.
    #[error("the disk queue cannot be {doing}")]
    Io {
        /// What was tried: `read`, `written`, `opened`, `removed`.
        doing: &'static str,
        /// What the operating system says.
        #[source]
        source: Arc<io::Error>,
    },
    /// A message of more than 4 GiB.
    #[error("a message is too large for the disk queue: more than 4 GiB")]
    TooLarge,
    /// The action has no disk queue.
    #[error("the disk queue is switched off (enableCache is false)")]
    Disabled,
    /// The host is going down.
    #[error("the host is going down")]
    Stopping,
}

impl SpillError {
    pub(super) fn io(doing: &'static str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace(Arc::new(error))
            }
            _ => Self::Io {
                doing,
                source: Arc::new(error),
            },
        }
    }
}
