//! Batches that come in, and those whose caller went away: what such a caller left in the window is
//! attached to when the same content is published again, so that nothing is sent twice. Content
//! decides, since a guest that repeats a call makes its messages anew; only messages without a
//! caller can be attached to, so equal messages are never taken for each other.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::super::ticket::Ticket;
use super::{Indices, Outbound, Queued};

#[derive(Clone, Copy, Debug)]
enum Orphan {
    Window(usize),
    Again(usize),
}

impl Outbound {
    /// Adds a batch behind all others. What an orphan of the same content has in the window is
    /// attached to instead of being sent twice.
    pub(in crate::connections::mqtt::session) fn enqueue(
        &mut self,
        ticket: Arc<Ticket>,
        rejected: &[u32],
    ) {
        let count = u32::try_from(ticket.batch().len()).unwrap_or(u32::MAX);
        if rejected.is_empty() && self.orphans == 0 {
            self.queue.push_back(Queued {
                ticket,
                indices: Indices::From(0),
            });
            return;
        }
        let mut orphans = self.orphans_by_content();
        let mut left = VecDeque::new();
        for index in (0..count).filter(|index| !rejected.contains(index)) {
            if !self.claim(&mut orphans, &ticket, index) {
                left.push_back(index);
            }
        }
        if !left.is_empty() {
            self.queue.push_back(Queued {
                ticket,
                indices: Indices::Only(left),
            });
        }
    }

    /// Places in `again` and in the window whose callers are gone, by the hash of their content.
    fn orphans_by_content(&mut self) -> HashMap<u64, VecDeque<Orphan>> {
        let mut found: HashMap<u64, VecDeque<Orphan>> = HashMap::new();
        if self.orphans == 0 {
            return found;
        }
        let again = self
            .again
            .iter()
            .enumerate()
            .map(|(place, (ticket, index))| (Orphan::Again(place), ticket, *index));
        let window = self.window.iter().enumerate().filter_map(|(place, slot)| {
            Some((Orphan::Window(place), slot.ticket.as_ref()?, slot.index))
        });
        for (orphan, ticket, index) in window.chain(again) {
            if ticket.is_orphan() {
                found
                    .entry(content_hash(ticket, index))
                    .or_default()
                    .push_back(orphan);
            }
        }
        self.orphans = found.values().map(VecDeque::len).sum();
        found
    }

    fn claim(
        &mut self,
        orphans: &mut HashMap<u64, VecDeque<Orphan>>,
        ticket: &Arc<Ticket>,
        index: u32,
    ) -> bool {
        let Some(places) = orphans.get_mut(&content_hash(ticket, index)) else {
            return false;
        };
        let Some(&orphan) = places.front() else {
            return false;
        };
        let held = match orphan {
            Orphan::Window(place) => self
                .window
                .get_mut(place)
                .and_then(|slot| Some((slot.ticket.as_mut()?, &mut slot.index))),
            Orphan::Again(place) => self
                .again
                .get_mut(place)
                .map(|(ticket, index)| (ticket, index)),
        };
        let Some((held, there)) = held else {
            return false;
        };
        if !ticket.same(index, held, *there) {
            return false;
        }
        *held = Arc::clone(ticket);
        *there = index;
        places.pop_front();
        self.orphans = self.orphans.saturating_sub(1);
        true
    }

    /// The caller does not wait any more. What was never sent is taken back; what is in the window
    /// stays there.
    pub(in crate::connections::mqtt::session) fn withdraw(&mut self, ticket: &Arc<Ticket>) {
        if ticket.is_done() {
            return;
        }
        self.queue
            .retain(|queued| !Arc::ptr_eq(&queued.ticket, ticket));
        self.unflushed
            .retain(|(held, _)| !Arc::ptr_eq(held, ticket));
        ticket.orphan();
        let window = self.window.iter().filter(|slot| {
            slot.ticket
                .as_ref()
                .is_some_and(|held| Arc::ptr_eq(held, ticket))
        });
        let again = self
            .again
            .iter()
            .filter(|(held, _)| Arc::ptr_eq(held, ticket));
        self.orphans += window.count() + again.count();
    }
}

fn content_hash(ticket: &Ticket, index: u32) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(message) = ticket.batch().get(index as usize) {
        ticket.topic(message).hash(&mut hasher);
        message.payload.hash(&mut hasher);
    }
    hasher.finish()
}
