//! The batches that a guest holds handles to.
//!
//! A handle is good until the guest call in which it was got returns: [`Batches::end_call`] empties
//! what is left, so that nothing leaks and nobody can return an old read's batch. An emptied place
//! stays taken until the guest drops its handle; only then may another batch have it, so a stale
//! handle can never mean a new batch.

use wasmtime::component::Resource;

use super::types::BatchHandle;
use crate::message::{Batch, Message};

/// The table. Its size is bounded by the store's limit of handles.
#[derive(Debug, Default)]
pub(super) struct Batches {
    places: Vec<Place>,
    /// Head of the list of free places.
    free: Option<u32>,
    /// Places filled in this call; some may have been emptied or filled again since.
    fresh: Vec<u32>,
    live: usize,
    stale: usize,
    /// Bytes that the guest has made the host keep in this call, and how many it may.
    made: usize,
    most: usize,
}

#[derive(Debug)]
enum Place {
    Live(Batch),
    /// Its call has returned, but the guest has not dropped the handle.
    Stale,
    Free {
        next: Option<u32>,
    },
}

/// Why a handle gave no batch. A trap: values cannot cause it.
#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    #[error(
        "a batch was used after the call in which it was got had returned; a batch is good for one call"
    )]
    Stale,
    #[error("a batch handle does not exist")]
    Unknown,
    #[error("too many batches")]
    Full,
    #[error("more than {0} bytes of batches were made in one call")]
    Large(usize),
}

impl Batches {
    /// A table for a guest that may make so many bytes of batches in one call.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }

    /// Keeps a batch that the guest made. What it made counts until its call returns, also when it is
    /// dropped before: payloads may be kept by others.
    pub(super) fn push_made(
        &mut self,
        batch: Batch,
        payload_bytes: usize,
    ) -> Result<Resource<BatchHandle>, BatchError> {
        let bytes = batch
            .len()
            .saturating_mul(size_of::<Message>())
            .saturating_add(payload_bytes);
        self.made = self.made.saturating_add(bytes);
        if self.made > self.most {
            return Err(BatchError::Large(self.most));
        }
        self.push(batch)
    }

    /// Keeps a batch and makes the handle for the guest.
    pub(super) fn push(&mut self, batch: Batch) -> Result<Resource<BatchHandle>, BatchError> {
        let rep = match self.free {
            Some(rep) => {
                let place = self
                    .places
                    .get_mut(rep as usize)
                    .ok_or(BatchError::Unknown)?;
                let Place::Free { next } = *place else {
                    return Err(BatchError::Unknown);
                };
                *place = Place::Live(batch);
                self.free = next;
                rep
            }
            None => {
                let rep = u32::try_from(self.places.len()).map_err(|_full| BatchError::Full)?;
                self.places.push(Place::Live(batch));
                rep
            }
        };
        self.fresh.push(rep);
        self.live += 1;
        Ok(Resource::new_own(rep))
    }

    /// The batch behind a handle.
    pub(super) fn get(&self, handle: &Resource<BatchHandle>) -> Result<&Batch, BatchError> {
        match self.places.get(handle.rep() as usize) {
            Some(Place::Live(batch)) => Ok(batch),
            Some(Place::Stale) => Err(BatchError::Stale),
            Some(Place::Free { .. }) | None => Err(BatchError::Unknown),
        }
    }

    /// Takes the batch that the guest handed over; its place is free.
    pub(super) fn take(&mut self, handle: &Resource<BatchHandle>) -> Result<Batch, BatchError> {
        match self.empty(handle)? {
            Place::Live(batch) => Ok(batch),
            Place::Stale | Place::Free { .. } => Err(BatchError::Stale),
        }
    }

    /// The guest has dropped its handle.
    pub(super) fn drop_handle(&mut self, handle: &Resource<BatchHandle>) -> Result<(), BatchError> {
        self.empty(handle).map(drop)
    }

    fn empty(&mut self, handle: &Resource<BatchHandle>) -> Result<Place, BatchError> {
        let rep = handle.rep();
        let place = self
            .places
            .get_mut(rep as usize)
            .ok_or(BatchError::Unknown)?;
        match place {
            Place::Live(_) => self.live -= 1,
            Place::Stale => self.stale -= 1,
            Place::Free { .. } => return Err(BatchError::Unknown),
        }
        let was = std::mem::replace(place, Place::Free { next: self.free });
        self.free = Some(rep);
        Ok(was)
    }

    /// The guest's call has returned: whatever it still holds is emptied.
    pub(super) fn end_call(&mut self) {
        if self.live > 0 {
            for rep in &self.fresh {
                if let Some(place @ Place::Live(_)) = self.places.get_mut(*rep as usize) {
                    *place = Place::Stale;
                    self.stale += 1;
                }
            }
            self.live = 0;
        }
        self.made = 0;
        self.fresh.clear();
        if self.fresh.capacity() > 4 * 1024 {
            self.fresh = Vec::new();
        }
    }

    /// Emptied places whose handles the guest still holds.
    pub(super) fn stale(&self) -> usize {
        self.stale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(text: &'static str) -> Batch {
        Batch::from(vec![Message::new(text)])
    }

    #[test]
    fn a_handle_is_good_for_one_call_only() {
        let mut batches = Batches::default();
        let handle = batches.push(batch("a")).unwrap();
        assert_eq!(batches.get(&handle).unwrap().len(), 1);
        batches.end_call();
        assert!(matches!(batches.get(&handle), Err(BatchError::Stale)));
        assert_eq!(batches.stale(), 1);
        batches.drop_handle(&handle).unwrap();
        assert_eq!(batches.stale(), 0);
    }

    #[test]
    fn a_place_is_used_again_only_after_its_handle_was_dropped() {
        let mut batches = Batches::default();
        let old = batches.push(batch("old")).unwrap();
        batches.end_call();
        let new = batches.push(batch("new")).unwrap();
        assert_ne!(old.rep(), new.rep());
        batches.drop_handle(&old).unwrap();
        let third = batches.push(batch("third")).unwrap();
        assert_eq!(old.rep(), third.rep());
        assert_eq!(batches.get(&new).unwrap()[0].payload, "new");
        assert_eq!(batches.get(&third).unwrap()[0].payload, "third");
    }

    #[test]
    fn a_place_dropped_and_filled_within_one_call_is_emptied_once() {
        let mut batches = Batches::default();
        let first = batches.push(batch("1")).unwrap();
        batches.drop_handle(&first).unwrap();
        let second = batches.push(batch("2")).unwrap();
        assert_eq!(first.rep(), second.rep());
        batches.end_call();
        assert_eq!((batches.live, batches.stale), (0, 1));
    }

    #[test]
    fn what_was_taken_leaves_no_handle_behind() {
        let mut batches = Batches::default();
        let handle = batches.push(batch("a")).unwrap();
        assert_eq!(batches.take(&handle).unwrap().len(), 1);
        batches.end_call();
        assert_eq!(batches.stale(), 0);
        assert!(batches.take(&handle).is_err());
    }

    #[test]
    fn what_a_guest_makes_in_one_call_is_bounded() {
        let mut batches = Batches::new(1000);
        assert!(batches.push_made(batch("a"), 600).is_ok());
        assert!(matches!(
            batches.push_made(batch("b"), 600),
            Err(BatchError::Large(1000))
        ));
        batches.end_call();
        assert!(batches.push_made(batch("c"), 600).is_ok());
    }
}
