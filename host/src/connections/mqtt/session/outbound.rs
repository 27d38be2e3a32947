//! The window of messages to the broker: which are under way, under which packet ids, in which order.
//! Knows tickets and packet ids; knows no socket. Writes into the link's buffer what may go now.
//!
//! Messages have serial numbers that never repeat; a packet id is the serial folded into the lower
//! part of the range, so that an id is looked up by arithmetic, is not used again soon, and never
//! meets those of SUBSCRIBE (`session/filters.rs`), which come from the upper part.

mod aliases;
mod doubt;
mod orphans;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;

use super::ticket::Ticket;
use crate::connections::mqtt::codec;
use crate::connections::mqtt::packet::{Ack, AckKind, Version};
use crate::connections::mqtt::reason;
use crate::error::ConnectionError;
use aliases::Aliases;
use doubt::Doubt;

/// Packet ids 1 to this one are for PUBLISH.
pub(super) const PUBLISH_IDS: u16 = 60_000;
/// How many serials of level 2 are written down at once.
const BLOCK: u64 = 1024;

/// Limits of one link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) version: Version,
    /// Messages above level 0 that may be unacknowledged.
    pub(super) window: usize,
    /// The same for level 2 alone.
    pub(super) window_2: usize,
    /// Bytes of a whole packet.
    pub(super) max_packet: usize,
    pub(super) max_qos: u8,
    /// Topic aliases that the broker takes.
    pub(super) aliases: u16,
    /// Ids of level 2 must be on disk before they are used.
    pub(super) remember: bool,
}

#[derive(Debug)]
struct Slot {
    /// None: final.
    ticket: Option<Arc<Ticket>>,
    index: u32,
    phase: Phase,
    /// It counts against the present link's window.
    counted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// PUBLISH sent, PUBACK or PUBREC awaited.
    Sent,
    /// Level 2: PUBREC came, PUBCOMP awaited.
    Release,
}

impl Slot {
    /// It was handed in at level 2.
    fn is_level_2(&self) -> bool {
        self.ticket
            .as_ref()
            .is_some_and(|ticket| ticket.manner().qos == 2)
    }
}

#[derive(Debug)]
struct Queued {
    ticket: Arc<Ticket>,
    indices: Indices,
}

/// Which messages of a ticket are still to be sent.
#[derive(Debug)]
enum Indices {
    From(u32),
    Only(VecDeque<u32>),
}

/// What was completed since the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// The outbound half of a session.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    window: VecDeque<Slot>,
    /// Serial of the slot at the head.
    base: u64,
    /// Next serial to be sent again on this link; everything from there on was sent on earlier ones.
    cursor: u64,
    in_flight: usize,
    /// Of these, level 2.
    in_flight_2: usize,
    /// Lost with a session: to be sent before everything else, under new ids.
    again: VecDeque<(Arc<Ticket>, u32)>,
    queue: VecDeque<Queued>,
    /// Written into the link's buffer at level 0, not yet on the socket.
    unflushed: Vec<(Arc<Ticket>, usize)>,
    orphans: usize,
    /// Serials of level 2 below this one are on disk.
    reserved: u64,
    wants_reserve: bool,
    /// Ids that an earlier process may have left open at the broker.
    releasing: HashSet<u16>,
    release_low: Option<u64>,
    to_release: VecDeque<u16>,
    /// Those of the present link.
    aliases: Aliases,
    tally: Tally,
    doubt: Doubt,
}

fn id_of(serial: u64) -> u16 {
    u16::try_from(serial % u64::from(PUBLISH_IDS)).unwrap_or(0) + 1
}

impl Outbound {
    /// Starts behind what an earlier process had written down: `low` up to `high` may be open.
    pub(super) fn restore(&mut self, low: u64, high: u64) {
        self.base = high;
        self.cursor = high;
        self.reserved = high;
        self.release_low = Some(low);
    }

    /// What an earlier process left open at the broker must be released (MQTT 4.3.3): a used id
    /// would pass for a duplicate.
    fn release_earlier(&mut self, session_present: bool) {
        let Some(low) = self.release_low else { return };
        if session_present && self.releasing.is_empty() {
            let first = low.max(self.reserved.saturating_sub(u64::from(PUBLISH_IDS)));
            self.releasing = (first..self.base.min(self.reserved)).map(id_of).collect();
        }
        self.to_release = if session_present {
            self.releasing.iter().copied().collect()
        } else {
            VecDeque::new()
        };
        if self.to_release.is_empty() {
            self.releasing = HashSet::new();
            self.release_low = None;
        }
    }

    /// CONNACK: what was under way goes first, in its order; where the broker has no session any
    /// more, under new ids.
    pub(super) fn begin(&mut self, session_present: bool) {
        self.release_earlier(session_present);
        self.doubt.begin();
        self.in_flight = 0;
        self.in_flight_2 = 0;
        self.aliases.clear();
        for slot in &mut self.window {
            slot.counted = false;
        }
        if !session_present {
            let end = self.end();
            let lost = std::mem::take(&mut self.window);
            let before = std::mem::take(&mut self.again);
            self.again = lost
                .into_iter()
                .filter_map(|slot| Some((slot.ticket?, slot.index)))
                .chain(before)
                .collect();
            self.base = end;
        }
        self.cursor = self.base;
    }

    /// The link ended. What lay in its buffer at level 0 counts as sent: level 0 promises no more. True: a
    /// message came to its end by that.
    pub(super) fn lost(&mut self) -> bool {
        self.flushed();
        self.to_release.clear();
        let links = self.doubt.ended(self.in_flight > 0);
        let ended = links.is_some_and(|links| self.blame(links));
        self.in_flight = 0;
        self.in_flight_2 = 0;
        self.cursor = self.base;
        ended
    }

    /// The broker closes the link.
    pub(super) fn hung_up(&mut self) {
        self.doubt.hung_up();
    }

    /// Takes the message out that was alone on the last links. One whose caller is gone stays: the
    /// verdict must reach somebody, and it is claimed again soon.
    fn blame(&mut self, links: u32) -> bool {
        // Not the first one of the window: that may be at level 2 and with the broker already.
        let Some(slot) = self.window.iter_mut().find(|slot| slot.counted) else {
            return false;
        };
        let Some(ticket) = slot.ticket.take_if(|ticket| !ticket.is_orphan()) else {
            return false;
        };
        let bytes = ticket
            .batch()
            .get(slot.index as usize)
            .map_or(0, |message| message.payload.len());
        ticket.reject(
            slot.index,
            ConnectionError::permanent(
                "hung-up",
                format!("the broker closed the connection {links} times in a row on this message of {bytes} bytes, and answered nothing: it may take none so large, or none on this topic"),
            ),
        );
        self.doubt.blamed();
        self.shrink();
        true
    }

    fn end(&self) -> u64 {
        self.base + self.window.len() as u64
    }

    /// Writes what may go now, until the buffer has `budget` bytes. True: more would go, were there
    /// room in the buffer.
    pub(super) fn fill(
        &mut self,
        bounds: &Bounds,
        acks: &mut Vec<Ack>,
        buffer: &mut BytesMut,
        budget: usize,
    ) -> bool {
        acks.extend(self.to_release.drain(..).map(|id| Ack {
            kind: AckKind::PubRel,
            id,
            reason: 0,
        }));
        let mut bounds = *bounds;
        if self.doubt.is_careful() {
            bounds.window = 1;
        }
        loop {
            if buffer.len() >= budget {
                return true;
            }
            let sent = if self.cursor < self.end() {
                self.send_again(&bounds, buffer)
            } else {
                self.send_next(&bounds, buffer)
            };
            if !sent {
                return false;
            }
        }
    }

    fn send_again(&mut self, bounds: &Bounds, buffer: &mut BytesMut) -> bool {
        let place = usize::try_from(self.cursor - self.base).unwrap_or(usize::MAX);
        let id = id_of(self.cursor);
        let Some(slot) = self.window.get_mut(place) else {
            return false;
        };
        let Some(ticket) = &slot.ticket else {
            self.cursor += 1;
            return true;
        };
        match slot.phase {
            Phase::Release => {
                codec::ack(
                    bounds.version,
                    Ack {
                        kind: AckKind::PubRel,
                        id,
                        reason: 0,
                    },
                    buffer,
                );
            }
            Phase::Sent => {
                let Some(mut outgoing) = ticket.outgoing(slot.index, id, true) else {
                    return false;
                };
                outgoing.qos = outgoing.qos.min(bounds.max_qos.max(1));
                if self.in_flight >= bounds.window
                    || (outgoing.qos == 2 && self.in_flight_2 >= bounds.window_2)
                {
                    return false;
                }
                if let Some(error) = unfit(bounds, &outgoing) {
                    // The broker's limit is lower than when it was first sent.
                    ticket.reject(slot.index, error);
                    slot.ticket = None;
                    self.cursor += 1;
                    self.shrink();
                    return true;
                }
                self.aliases.use_in(bounds, &mut outgoing);
                codec::publish(bounds.version, &outgoing, buffer);
                slot.counted = true;
                self.in_flight += 1;
                self.in_flight_2 += usize::from(slot.is_level_2());
            }
        }
        self.cursor += 1;
        true
    }

    fn send_next(&mut self, bounds: &Bounds, buffer: &mut BytesMut) -> bool {
        let (ticket, index) = match self.again.front() {
            Some((ticket, index)) => (ticket, *index),
            None => loop {
                let Some(queued) = self.queue.front() else {
                    return false;
                };
                match queued.indices.next(&queued.ticket) {
                    Some(index) => break (&queued.ticket, index),
                    None => {
                        self.queue.pop_front();
                    }
                }
            },
        };
        let qos = ticket.manner().qos.min(bounds.max_qos);
        let serial = self.base + self.window.len() as u64;
        if qos > 0
            && (self.in_flight >= bounds.window
                || self.window.len() >= usize::from(PUBLISH_IDS) - 1)
        {
            return false;
        }
        if qos == 2 && self.in_flight_2 >= bounds.window_2 {
            return false;
        }
        if qos == 2 && bounds.remember && serial >= self.reserved {
            self.wants_reserve = true;
            return false;
        }
        let id = if qos > 0 { id_of(serial) } else { 0 };
        if self.releasing.contains(&id) {
            // Not yet given back by the broker: leave a gap.
            self.window.push_back(Slot {
                ticket: None,
                index: 0,
                phase: Phase::Sent,
                counted: false,
            });
            self.cursor += 1;
            self.shrink();
            return true;
        }
        let Some(mut outgoing) = ticket.outgoing(index, id, false) else {
            return false;
        };
        outgoing.qos = qos;
        if let Some(error) = unfit(bounds, &outgoing) {
            let ticket = Arc::clone(ticket);
            self.advance(index);
            ticket.reject(index, error);
            return true;
        }
        self.aliases.use_in(bounds, &mut outgoing);
        codec::publish(bounds.version, &outgoing, buffer);
        let bytes = outgoing.payload.len() as u64;
        let ticket = Arc::clone(ticket);
        self.advance(index);
        if qos > 0 {
            let slot = Slot {
                ticket: Some(ticket),
                index,
                phase: Phase::Sent,
                counted: true,
            };
            self.in_flight_2 += usize::from(slot.is_level_2());
            self.window.push_back(slot);
            self.cursor += 1;
            self.in_flight += 1;
            return true;
        }
        self.tally.messages += 1;
        self.tally.bytes += bytes;
        match self.unflushed.last_mut() {
            Some((last, count)) if Arc::ptr_eq(last, &ticket) => *count += 1,
            _ => self.unflushed.push((ticket, 1)),
        }
        true
    }

    fn advance(&mut self, index: u32) {
        if self.again.pop_front().is_some() {
            return;
        }
        let Some(queued) = self.queue.front_mut() else {
            return;
        };
        match &mut queued.indices {
            Indices::From(next) => *next = index + 1,
            Indices::Only(list) => {
                list.pop_front();
            }
        }
        if queued.indices.next(&queued.ticket).is_none() {
            self.queue.pop_front();
        }
    }

    /// Everything in the link's buffer is on the socket: level 0 is done.
    pub(super) fn flushed(&mut self) {
        for (ticket, count) in self.unflushed.drain(..) {
            ticket.complete(count);
        }
    }

    fn slot(&mut self, id: u16) -> Option<&mut Slot> {
        let ids = u64::from(PUBLISH_IDS);
        let wanted = u64::from(id)
            .checked_sub(1)
            .filter(|wanted| *wanted < ids)?;
        let place = (wanted + ids - self.base % ids) % ids;
        self.window
            .get_mut(usize::try_from(place).ok()?)
            .filter(|slot| slot.ticket.is_some())
    }

    /// PUBACK, PUBREC or PUBCOMP. One that fits nothing is answered where the protocol asks for it
    /// and otherwise ignored: the broker may repeat itself, and nothing is wrong with the link.
    pub(super) fn acknowledged(&mut self, ack: Ack, acks: &mut Vec<Ack>) {
        let phase = self
            .slot(ack.id)
            .map(|slot| (slot.phase, slot.is_level_2()));
        if phase.is_some() {
            self.doubt.answered();
        }
        match (ack.kind, phase) {
            (AckKind::PubAck, Some((Phase::Sent, _))) => self.finish(ack.id, ack.reason),
            (AckKind::PubRec, Some((Phase::Sent, true))) if ack.reason >= 0x80 => {
                self.finish(ack.id, ack.reason)
            }
            (AckKind::PubRec, Some((_, true))) => {
                if let Some(slot) = self.slot(ack.id) {
                    slot.phase = Phase::Release;
                }
                acks.push(Ack {
                    kind: AckKind::PubRel,
                    id: ack.id,
                    reason: 0,
                });
            }
            (AckKind::PubRec, _) => acks.push(Ack {
                kind: AckKind::PubRel,
                id: ack.id,
                reason: 0x92,
            }),
            // 0x92 here: the broker forgot the id, which is what release means.
            (AckKind::PubComp, Some((Phase::Release, _))) => self.finish(ack.id, 0),
            (AckKind::PubComp, _) => {
                self.releasing.remove(&ack.id);
                if self.releasing.is_empty() && self.release_low.take().is_some() {
                    self.wants_reserve |= self.reserved > 0;
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self, id: u16, reason: u8) {
        let Some(slot) = self.slot(id) else { return };
        let level_2 = slot.is_level_2();
        let Some(ticket) = slot.ticket.take() else {
            return;
        };
        let index = slot.index;
        let counted = std::mem::take(&mut slot.counted);
        if counted {
            self.in_flight -= 1;
            self.in_flight_2 -= usize::from(level_2);
        }
        if ticket.is_orphan() {
            self.orphans = self.orphans.saturating_sub(1);
        }
        if reason >= 0x80 {
            ticket.reject(index, reason::message(reason));
        } else {
            self.tally.messages += 1;
            self.tally.bytes += ticket
                .batch()
                .get(index as usize)
                .map_or(0, |message| message.payload.len() as u64);
            ticket.complete(1);
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        while self
            .window
            .front()
            .is_some_and(|slot| slot.ticket.is_none())
        {
            self.window.pop_front();
            self.base += 1;
        }
        self.cursor = self.cursor.max(self.base);
        if self.window.is_empty() && self.window.capacity() > 2048 {
            self.window = VecDeque::new();
        }
    }

    /// The block of serials that must be on disk before level 2 goes on: its value, and the end of
    /// it for [`Outbound::reserved`].
    pub(super) fn reserve(&mut self) -> Option<(String, u64)> {
        if !std::mem::take(&mut self.wants_reserve) {
            return None;
        }
        let low = self.release_low.unwrap_or(self.base).min(self.base);
        let high = (self.end() + BLOCK).max(self.reserved);
        Some((format!("{low} {high}"), high))
    }

    /// The block is on disk.
    pub(super) fn reserved(&mut self, high: u64) {
        self.reserved = self.reserved.max(high);
    }

    pub(super) fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Something waits to be sent or acknowledged.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.window.is_empty()
            && self.again.is_empty()
            && self.queue.is_empty()
            && self.unflushed.is_empty()
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Indices {
    fn next(&self, ticket: &Ticket) -> Option<u32> {
        match self {
            Self::From(next) => ((*next as usize) < ticket.batch().len()).then_some(*next),
            Self::Only(list) => list.front().copied(),
        }
    }
}

fn unfit(bounds: &Bounds, outgoing: &codec::Outgoing<'_>) -> Option<ConnectionError> {
    let size = codec::publish_size(bounds.version, outgoing);
    (size > bounds.max_packet).then(|| {
        ConnectionError::permanent(
            "too-large",
            format!(
                "the message needs a packet of {size} bytes; the broker takes {}",
                bounds.max_packet
            ),
        )
    })
}
