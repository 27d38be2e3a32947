//! The window of messages from the broker: what is unsettled, and in which order acknowledgements
//! leave. Knows packet ids, levels and serials; knows no taker and no socket.
//!
//! Acknowledgements leave in the order of arrival (MQTT-4.6.0-2, -3). What is unsettled when a link
//! ends sleeps: if the broker resumes the session and sends it again, the new delivery is bound to the
//! one that is still in flight here, and nothing is processed twice.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

use crate::connections::mqtt::packet::{Ack, AckKind};
use crate::message::Subject;

/// How far a repeated delivery on the same link is looked for.
const LOOK_BACK: usize = 4096;

#[derive(Debug)]
struct Slot {
    id: u16,
    qos: u8,
    state: State,
    weight: usize,
    /// Under which the takers report; the slot's own unless it was bound to an earlier delivery.
    serial: u64,
    content: Content,
}

/// What a message is recognised by when it comes again; only where the session can be resumed.
#[derive(Debug)]
enum Content {
    Unknown,
    Whole(Subject, Bytes),
    /// Settled, but an earlier one holds its acknowledgement back: the payload is let go.
    Hash(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Settled,
    /// A taker dropped it: it pins the window until the broker sends it again on a new link.
    Abandoned,
}

/// The inbound half of a session.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    window: VecDeque<Slot>,
    /// Number of the slot at the head of the window.
    base: u64,
    /// Deliveries of earlier links, by packet id.
    asleep: HashMap<u16, Slot>,
    /// Where a serial that is not its slot's number is found.
    moved: HashMap<u64, Place>,
    /// Level 2: taken over (PUBREC sent), not released by the broker (PUBREL).
    taken_over: HashSet<u16>,
    unsettled: usize,
    bytes: usize,
    abandoned: usize,
    ready: usize,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Window(u64),
    Asleep(u16),
}

impl Inbound {
    /// Deliveries that are not settled, and their bytes.
    pub(super) fn unsettled(&self) -> (usize, usize) {
        (self.unsettled, self.bytes)
    }

    /// Deliveries of this link that are not acknowledged.
    pub(super) fn window(&self) -> usize {
        self.window.len()
    }

    /// The number that the next delivery gets.
    pub(super) fn end(&self) -> u64 {
        self.base + self.window.len() as u64
    }

    /// Deliveries of this link that a taker dropped.
    pub(super) fn abandoned(&self) -> usize {
        self.abandoned
    }

    /// Whether a message with this id needs the takers at all. `dup` and what is known of its
    /// content decide whether it is one that is in flight here.
    pub(super) fn is_known(
        &mut self,
        id: u16,
        qos: u8,
        dup: bool,
        topic: &[u8],
        payload: &[u8],
        acks: &mut Vec<Ack>,
    ) -> bool {
        if qos == 2 && self.taken_over.contains(&id) {
            acks.push(Ack {
                kind: AckKind::PubRec,
                id,
                reason: 0,
            });
            return true;
        }
        if !self.asleep.is_empty()
            && let Some(slot) = self.asleep.remove(&id)
        {
            if slot.state != State::Abandoned && slot.is(qos, topic, payload) {
                self.bind(slot);
                return true;
            }
            // The broker uses the id for something else: what sleeps can never be acknowledged.
            self.forget(&slot);
        }
        dup && self.window.iter().rev().take(LOOK_BACK).any(|slot| {
            slot.id == id && slot.state != State::Abandoned && slot.is(qos, topic, payload)
        })
    }

    fn bind(&mut self, slot: Slot) {
        if slot.state == State::Open {
            let number = self.end();
            self.moved.insert(slot.serial, Place::Window(number));
        } else {
            self.ready += 1;
        }
        self.window.push_back(slot);
    }

    fn forget(&mut self, slot: &Slot) {
        self.moved.remove(&slot.serial);
        if slot.state == State::Open {
            self.unsettled -= 1;
            self.bytes -= slot.weight;
        }
    }

    /// Adds a message that the takers will settle, and gives the serial under which they report.
    pub(super) fn admit(
        &mut self,
        id: u16,
        qos: u8,
        weight: usize,
        content: Option<(Subject, Bytes)>,
    ) -> u64 {
        let serial = self.end();
        self.window.push_back(Slot {
            id,
            qos,
            state: State::Open,
            weight,
            serial,
            content: content.into(),
        });
        self.unsettled += 1;
        self.bytes += weight;
        serial
    }

    /// Adds a message that is final already (no taker, too large, dropped): its acknowledgement
    /// still waits for its turn.
    pub(super) fn admit_settled(&mut self, id: u16, qos: u8) {
        let serial = self.end();
        self.window.push_back(Slot {
            id,
            qos,
            state: State::Settled,
            weight: 0,
            serial,
            content: Content::Unknown,
        });
        self.ready += 1;
    }

    /// The takers are done with a delivery. A serial that is not known is of an earlier session and
    /// is ignored. True: something settled.
    pub(super) fn outcome(&mut self, serial: u64, settled: bool) -> bool {
        let place = if self.moved.is_empty() {
            None
        } else {
            self.moved.remove(&serial)
        };
        let number = match place {
            Some(Place::Asleep(id)) => return self.outcome_asleep(id, settled),
            Some(Place::Window(number)) => number,
            None => serial,
        };
        let Some(slot) = number
            .checked_sub(self.base)
            .and_then(|offset| usize::try_from(offset).ok())
            .and_then(|offset| self.window.get_mut(offset))
            .filter(|slot| slot.serial == serial && slot.state == State::Open)
        else {
            return false;
        };
        self.unsettled -= 1;
        self.bytes -= slot.weight;
        if settled {
            slot.state = State::Settled;
            // In order, as nearly always, its acknowledgement leaves at once.
            let next = number - self.base == self.ready as u64;
            slot.content = if next {
                Content::Unknown
            } else {
                slot.content.hashed()
            };
            self.ready += 1;
        } else {
            slot.state = State::Abandoned;
            slot.content = Content::Unknown;
            self.abandoned += 1;
        }
        settled
    }

    fn outcome_asleep(&mut self, id: u16, settled: bool) -> bool {
        let Some(slot) = self.asleep.get_mut(&id) else {
            return false;
        };
        self.unsettled -= 1;
        self.bytes -= slot.weight;
        if settled {
            slot.state = State::Settled;
            slot.content = slot.content.hashed();
        } else {
            // When it comes again it is a new delivery.
            self.asleep.remove(&id);
        }
        settled
    }

    /// Gives up on what was abandoned: where the session cannot be resumed nobody will send it again.
    /// Gives how many.
    pub(super) fn release_abandoned(&mut self) -> usize {
        let mut count = 0;
        for slot in self
            .window
            .iter_mut()
            .filter(|slot| slot.state == State::Abandoned)
        {
            slot.state = State::Settled;
            count += 1;
        }
        self.ready += count;
        self.abandoned = 0;
        count
    }

    /// Moves the acknowledgements whose turn has come.
    pub(super) fn acknowledge(&mut self, acks: &mut Vec<Ack>) {
        if self.ready == 0 {
            return;
        }
        while let Some(slot) = self.window.front() {
            if slot.state != State::Settled {
                break;
            }
            let kind = if slot.qos == 2 {
                self.taken_over.insert(slot.id);
                AckKind::PubRec
            } else {
                AckKind::PubAck
            };
            acks.push(Ack {
                kind,
                id: slot.id,
                reason: 0,
            });
            self.window.pop_front();
            self.base += 1;
            self.ready -= 1;
        }
        if self.window.is_empty() && self.window.capacity() > 1024 {
            self.window = VecDeque::new();
        }
    }

    /// PUBREL: the broker releases the id. Answered whether it is known or not, so that a broker
    /// that repeats itself after a restart comes to an end (MQTT 4.3.3).
    pub(super) fn release(&mut self, id: u16, acks: &mut Vec<Ack>) {
        let known = self.taken_over.remove(&id);
        acks.push(Ack {
            kind: AckKind::PubComp,
            id,
            reason: if known { 0 } else { 0x92 },
        });
    }

    /// The link ended: what is in flight sleeps.
    pub(super) fn sleep(&mut self) {
        let slots = std::mem::take(&mut self.window);
        self.base += slots.len() as u64;
        self.ready = 0;
        self.abandoned = 0;
        for slot in slots {
            if matches!(slot.content, Content::Unknown) {
                self.forget(&slot);
                continue;
            }
            if slot.state == State::Open {
                self.moved.insert(slot.serial, Place::Asleep(slot.id));
            }
            if let Some(old) = self.asleep.insert(slot.id, slot) {
                self.forget(&old);
            }
        }
    }

    /// The broker has no session: nothing of before will ever be asked for again.
    pub(super) fn new_session(&mut self) {
        let asleep = std::mem::take(&mut self.asleep);
        for slot in asleep.values() {
            self.forget(slot);
        }
        self.moved.clear();
        self.taken_over.clear();
    }
}

impl Slot {
    /// It is the message with this content.
    fn is(&self, qos: u8, topic: &[u8], payload: &[u8]) -> bool {
        self.qos == qos
            && match &self.content {
                Content::Unknown => false,
                Content::Whole(subject, bytes) => subject.as_bytes() == topic && bytes == payload,
                Content::Hash(hash) => *hash == hash_of(topic, payload),
            }
    }
}

impl Content {
    fn hashed(&self) -> Self {
        match self {
            Self::Unknown => Self::Unknown,
            Self::Whole(subject, bytes) => Self::Hash(hash_of(subject.as_bytes(), bytes)),
            Self::Hash(hash) => Self::Hash(*hash),
        }
    }
}

impl From<Option<(Subject, Bytes)>> for Content {
    fn from(content: Option<(Subject, Bytes)>) -> Self {
        content.map_or(Self::Unknown, |(subject, payload)| {
            Self::Whole(subject, payload)
        })
    }
}

fn hash_of(topic: &[u8], payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    topic.hash(&mut hasher);
    payload.hash(&mut hasher);
    hasher.finish()
}
