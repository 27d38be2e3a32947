//! What all disk queues of a host may take together, and what they leave free on their disk for the
//! store. Counts bytes; moves none.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::SpillError;
use super::storage::{Space, Storage};

/// Bytes of all queues together unless told otherwise: 8 GiB.
pub const DEFAULT_HOST_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// Bytes left free unless told otherwise: 64 MiB, or a sixteenth of a smaller disk.
const DEFAULT_RESERVE: u64 = 64 * 1024 * 1024;
const PART_OF_SMALL_DISK: u64 = 16;

/// Bounds of all disk queues together, in bytes. None: the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostBounds {
    /// One queue whose rule has no bound of its own; 1 GiB.
    pub queue_bytes: Option<u64>,
    /// All of them together; 8 GiB.
    pub all_bytes: Option<u64>,
    /// What they leave free on their disk; 64 MiB, or a sixteenth of the disk if that is less.
    pub reserve_bytes: Option<u64>,
}

/// What all queues hold and may hold, for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes of all queues.
    pub used: u64,
    /// What they may have together.
    pub max: u64,
    /// Bytes free on their disk; None: not known.
    pub free: Option<u64>,
    /// What is kept free there for the store.
    pub reserve: u64,
}

/// The budget of one host.
#[derive(Debug)]
pub(super) struct Budget {
    storage: Arc<dyn Storage>,
    /// The queues' folder; the disk is the one that it is on.
    folder: PathBuf,
    max: u64,
    reserve: Option<u64>,
    used: AtomicU64,
}

impl Budget {
    pub(super) fn new(storage: Arc<dyn Storage>, folder: PathBuf, bounds: HostBounds) -> Self {
        Self {
            storage,
            folder,
            max: bounds.all_bytes.unwrap_or(DEFAULT_HOST_BYTES),
            reserve: bounds.reserve_bytes,
            used: AtomicU64::new(0),
        }
    }

    fn reserve(&self, space: Option<Space>) -> u64 {
        let default = space.map_or(DEFAULT_RESERVE, |space| {
            DEFAULT_RESERVE.min(space.total / PART_OF_SMALL_DISK)
        });
        self.reserve.unwrap_or(default)
    }

    /// What all queues have. Asks the operating system for the free space.
    pub(super) fn show(&self) -> DiskUse {
        let space = self.storage.space(&self.folder);
        DiskUse {
            used: self.used.load(Ordering::Relaxed),
            max: self.max,
            free: space.map(|space| space.free),
            reserve: self.reserve(space),
        }
    }

    /// Whether so many bytes more have room.
    fn room(&self, bytes: u64) -> Result<(), SpillError> {
        if self.used.load(Ordering::Relaxed).saturating_add(bytes) > self.max {
            return Err(SpillError::HostFull { max: self.max });
        }
        let space = self.storage.space(&self.folder);
        let reserve = self.reserve(space);
        match space {
            Some(space) if space.free < reserve.saturating_add(bytes) => {
                Err(SpillError::Reserved { reserve })
            }
            _ => Ok(()),
        }
    }
}

/// One queue's part of the budget: what it holds is counted as long as this lives.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    counted: u64,
}

impl Share {
    /// Of a queue that has so many bytes already.
    pub(super) fn new(budget: Arc<Budget>, bytes: u64) -> Self {
        let mut share = Self { budget, counted: 0 };
        share.count(bytes);
        share
    }

    /// The queue has so many bytes now.
    pub(super) fn count(&mut self, bytes: u64) {
        // First what comes, so that the sum is never seen too small.
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(self.counted, Ordering::Relaxed);
        self.counted = bytes;
    }

    /// Whether so many bytes more have room at present.
    pub(super) fn room(&self, bytes: u64) -> Result<(), SpillError> {
        self.budget.room(bytes)
    }

    /// Takes room for so many bytes before they are written, so that no two queues take the same;
    /// [`Share::count`] says afterwards what became of it.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), SpillError> {
        let max = self.budget.max;
        let taken = self
            .budget
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= max)
            });
        match taken {
            Ok(_) => {
                self.counted += bytes;
                Ok(())
            }
            Err(_) => Err(SpillError::HostFull { max }),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.count(0);
    }
}
