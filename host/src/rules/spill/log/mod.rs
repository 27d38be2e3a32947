//! One queue's files: segments, cursor, and what is known of them. Blocks; one caller at a time.
//! `open` finds out what is on disk, `append` adds, `read` gives out.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::budget::Share;
use super::record::{self, Key, Mark, PREAMBLE, SLOT};
use super::storage::{Storage, StorageFile};
use super::{Damage, SpillError, SpillStats};
use crate::config::Overflow;

mod append;
mod open;
mod read;

/// The ending of a segment's name.
pub(in crate::rules::spill) const SEGMENT: &str = ".seg";
const CURSOR: &str = "cursor";
/// A segment is closed when it has this size, or an eighth of the queue's bound if that is less.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
const SMALLEST_SEGMENT: u64 = 4 * 1024;
/// The cursor is written at most so often, or after so many messages.
const CURSOR_EVERY: Duration = Duration::from_millis(100);
const CURSOR_MESSAGES: u64 = 1024;

/// Bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) bytes: u64,
    pub(super) messages: Option<u64>,
    pub(super) age: Option<Duration>,
    pub(super) overflow: Overflow,
    /// The bounds of the host are not looked at, nor any other: the rest of an action that ends.
    pub(super) none: bool,
}

impl Bounds {
    fn segment_bytes(&self) -> u64 {
        SEGMENT_BYTES.min((self.bytes / 8).max(SMALLEST_SEGMENT))
    }
}

/// The files of one queue.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) folder: PathBuf,
    pub(super) key: Key,
    pub(super) share: Option<Share>,
    pub(super) opened: bool,
    /// Oldest first. Together they are what is on disk.
    pub(super) segments: VecDeque<Segment>,
    /// The last segment's file, while more may be added to it.
    pub(super) active: Option<Box<dyn StorageFile>>,
    pub(super) cursor: Cursor,
    pub(super) next_number: u64,
    pub(super) damage: Damage,
    pub(super) turn: u64,
    dropped: u64,
    expired: u64,
    oldest_ms: Option<u64>,
    next_segment: u64,
    /// Up to where damage has been counted: segment and offset.
    counted: (u64, u64),
    written: Option<Instant>,
    unwritten: u64,
    /// Bytes removed for want of room on the disk, and since when, while none has shown.
    room_made: Option<(Instant, u64)>,
}

/// What is known of one file.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its place in this process; positions name it.
    pub(super) place: u64,
    /// As in its label; 0: unknown.
    pub(super) id: u64,
    pub(super) name: String,
    /// The number of its first record, and the one behind its last. What stands in the file with
    /// another number was never acknowledged.
    pub(super) first: u64,
    pub(super) end: u64,
    /// Up to where there may be records.
    pub(super) good: u64,
    /// Parts of it could not be read: when it is done it is not removed but set aside, since what was
    /// acknowledged may stand in them.
    pub(super) unread: bool,
}

/// Where reading goes on, in the first segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    /// The next record's number.
    pub(super) number: u64,
    pub(super) offset: u64,
}

impl Log {
    pub(super) fn new(storage: Arc<dyn Storage>, folder: PathBuf, key: Key) -> Self {
        Self {
            storage,
            folder,
            key,
            share: None,
            opened: false,
            segments: VecDeque::new(),
            active: None,
            cursor: Cursor {
                number: 1,
                offset: PREAMBLE as u64,
            },
            next_number: 1,
            damage: Damage::default(),
            turn: 0,
            dropped: 0,
            expired: 0,
            oldest_ms: None,
            next_segment: 1,
            counted: (0, 0),
            written: None,
            unwritten: 0,
            room_made: None,
        }
    }

    /// With a part of the host's budget.
    pub(super) fn with_share(mut self, share: Share) -> Self {
        self.share = Some(share);
        self
    }

    /// Tells the host's budget what is on disk.
    fn count_share(&mut self) {
        let bytes = self.bytes();
        if let Some(share) = &mut self.share {
            share.count(bytes);
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Messages that wait.
    fn messages(&self) -> u64 {
        let all: u64 = self
            .segments
            .iter()
            .map(|segment| segment.end - segment.first)
            .sum();
        let done = self
            .segments
            .front()
            .map_or(0, |front| self.cursor.number.saturating_sub(front.first));
        all.saturating_sub(done)
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.good).sum()
    }

    pub(super) fn stats(&self) -> SpillStats {
        let messages = self.messages();
        SpillStats {
            messages,
            bytes: self.bytes(),
            oldest_ms: self.oldest_ms.filter(|_| messages > 0),
            dropped: self.dropped,
            expired: self.expired,
            damage: self.damage,
        }
    }

    pub(super) fn place_for(&mut self) -> u64 {
        let place = self.next_segment;
        self.next_segment += 1;
        place
    }

    /// Messages of the first segment that wait.
    fn front_waiting(&self) -> u64 {
        self.segments.front().map_or(0, |front| {
            front
                .end
                .saturating_sub(self.cursor.number.max(front.first))
        })
    }

    /// Everything in the first segment is done: its file goes, unless parts of it were never read.
    fn finish_front(&mut self) {
        if self.segments.front().is_some_and(|front| front.unread) {
            self.take_front(Self::set_aside);
        } else {
            self.remove_front();
        }
    }

    /// Removes the first segment and its file; reading goes on with the next.
    fn remove_front(&mut self) {
        self.take_front(|log, path| log.storage.remove(path));
    }

    fn take_front(&mut self, end: impl FnOnce(&mut Self, &Path) -> io::Result<()>) {
        let Some(front) = self.segments.pop_front() else {
            return;
        };
        if self.segments.is_empty() {
            self.active = None;
        }
        let path = self.path(&front.name);
        if let Err(error) = end(self, &path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %path.display(), %error, "a part of a disk queue that is done could not be removed");
            let mark = Mark {
                turn: self.turn + 1,
                segment: front.id,
                number: front.end.saturating_sub(1),
                offset: front.good,
            };
            let _kept = self.write_mark(mark, false);
        }
        let number = self
            .segments
            .front()
            .map_or(self.next_number, |next| next.first);
        self.cursor = Cursor {
            number,
            offset: PREAMBLE as u64,
        };
        self.written = None;
        self.unwritten = 0;
        self.count_share();
    }

    fn write_cursor(&mut self, sync: bool) -> io::Result<()> {
        let Some(front) = self.segments.front().filter(|front| front.id != 0) else {
            return Ok(());
        };
        let mark = Mark {
            turn: self.turn + 1,
            segment: front.id,
            number: self.cursor.number.saturating_sub(1),
            offset: self.cursor.offset,
        };
        self.write_mark(mark, sync)
    }

    fn write_mark(&mut self, mark: Mark, sync: bool) -> io::Result<()> {
        let path = self.path(CURSOR);
        let mut file = match self.storage.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.storage.create(&path)?,
            other => other?,
        };
        file.write_at(
            mark.turn % 2 * SLOT as u64,
            &record::encode_mark(&self.key, mark),
        )?;
        if sync {
            file.sync()?;
            self.storage.sync_folder(&self.folder)?;
        }
        self.turn = mark.turn;
        self.written = Some(Instant::now());
        self.unwritten = 0;
        Ok(())
    }

    /// Writes the cursor and closes the file that was being added to.
    pub(super) fn close(&mut self) -> Result<(), SpillError> {
        self.active = None;
        self.write_cursor(true)
            .map_err(|error| SpillError::io("written", error))
    }

    /// Removes everything: how many messages waited.
    pub(super) fn clear(&mut self) -> Result<u64, SpillError> {
        let mut cleared = 0;
        while !self.segments.is_empty() {
            cleared += self.front_waiting();
            self.remove_front();
        }
        self.dropped += cleared;
        match self.storage.remove(&self.path(CURSOR)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SpillError::io("written", error))
            }
            _ => Ok(cleared),
        }
    }

    /// [`Log::clear`], and then whatever else stands in the folder, and the folder.
    pub(super) fn delete(&mut self) -> Result<u64, SpillError> {
        let failed = |error| SpillError::io("removed", error);
        let cleared = self.clear()?;
        for entry in self.storage.list(&self.folder).map_err(failed)? {
            if !entry.folder {
                self.storage
                    .remove(&self.path(&entry.name))
                    .map_err(failed)?;
            }
        }
        // The folders of its rule and tenant go with their last queue.
        let mut folder = Some(self.folder.as_path());
        for _ in 0..3 {
            let Some(gone) = folder.filter(|folder| self.storage.remove_folder(folder).is_ok())
            else {
                break;
            };
            folder = gone.parent();
        }
        Ok(cleared)
    }
}
