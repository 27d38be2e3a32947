//! The session: a state machine without I/O and without clocks. Packets and outcomes go in, bytes for
//! the link and deliveries for the takers come out. One for all versions of the protocol; it outlives
//! the links it runs over. Touches no socket, spawns nothing, waits for nothing.

mod arrivals;
mod filters;
mod inbound;
mod outbound;
mod settled;
mod ticket;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

pub(super) use filters::TakerId;
pub(super) use settled::{Outcome, Settled};
pub(super) use ticket::{Manner, Ticket};

use super::codec::{self, Malformed};
use super::packet::{Ack, AckKind, ConnAck, Packet, Version};
use super::reason;
use crate::connections::{Context, Inbox, Limits, Refused, Traffic};
use crate::error::ConnectionError;
use filters::{Abilities, Filters};
use inbound::Inbound;
use outbound::{Bounds, Outbound};

/// Topic aliases that the broker may use towards us.
pub(super) const TOPIC_ALIASES: u16 = 64;

/// What the session is built with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) version: Version,
    /// The broker keeps the session between links.
    pub(super) persistent: bool,
    /// Messages to the broker that may be unacknowledged.
    pub(super) max_inflight: u16,
    /// The same for level 2.
    pub(super) max_inflight_2: u16,
}

/// Something to be kept on disk before the session goes on.
#[derive(Debug)]
pub(super) enum Keep {
    Filters(String),
    Ids(String, u64),
}

/// One session with a broker.
#[derive(Debug)]
pub(super) struct Session {
    settings: Settings,
    limits: Limits,
    traffic: Arc<Traffic>,
    refused: Arc<dyn Refused>,
    /// The host is going down: a message without a taker had one, and must come again.
    stopping: Arc<AtomicBool>,
    /// The host is starting: a filter of an earlier run without a taker may still get its taker.
    booting: Arc<AtomicBool>,
    settled: Arc<Settled>,
    inbound: Inbound,
    outbound: Outbound,
    filters: Filters,
    /// What the broker said of itself; None while there is no link.
    broker: Option<ConnAck>,
    acks: Vec<Ack>,
    aliases: HashMap<u16, Bytes>,
    dropped: u64,
    /// A message went through to its end on the present link.
    useful: bool,
}

impl Session {
    pub(super) fn new(settings: Settings, context: &Context, settled: Arc<Settled>) -> Self {
        Self {
            settings,
            limits: context.limits,
            traffic: Arc::clone(&context.traffic),
            refused: Arc::clone(&context.refused),
            stopping: Arc::clone(&context.stopping),
            booting: Arc::clone(&context.booting),
            settled,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            filters: Filters::default(),
            broker: None,
            acks: Vec::new(),
            aliases: HashMap::new(),
            dropped: 0,
            useful: false,
        }
    }

    /// Takers may still come for what an earlier process has at the broker. A clean session has nothing.
    fn is_booting(&self) -> bool {
        self.settings.persistent && self.booting.load(Ordering::Acquire)
    }

    /// Messages that were left with the broker for want of a taker can be taken now, over a new link.
    /// `young`: this one is not given up for a source that opens while others still try; it may fail again.
    pub(super) fn is_left_to_take(&self, young: bool) -> bool {
        let booting = self.is_booting();
        !(young && booting) && self.filters.are_left_to_take(booting)
    }

    /// What an earlier process kept: its filters, and which ids of level 2 it may have left open.
    pub(super) fn restore(
        &mut self,
        filters: Option<BTreeMap<String, u32>>,
        ids: Option<(u64, u64)>,
    ) {
        if let Some(filters) = filters {
            self.filters.restore(filters);
        }
        if let Some((low, high)) = ids {
            self.outbound.restore(low, high);
        }
    }

    /// There is memory for what the broker would send again.
    ///
    /// # Errors
    /// `transient`: takers hold too much; dial later.
    pub(super) fn has_room(&self) -> Result<(), ConnectionError> {
        let (count, bytes) = self.inbound.unsettled();
        if count > self.limits.unsettled_messages / 4 * 3
            || bytes > self.limits.unsettled_bytes / 4 * 3
        {
            return Err(unsettled(count, bytes));
        }
        Ok(())
    }

    /// CONNACK: a new link is there.
    ///
    /// # Errors
    /// The broker refuses, with its reason.
    pub(super) fn connected(&mut self, answer: ConnAck) -> Result<(), ConnectionError> {
        if answer.code != 0 {
            return Err(reason::refused(
                self.settings.version,
                answer.code,
                answer.text.as_deref(),
            ));
        }
        let present = answer.session_present && self.settings.persistent;
        self.acks.clear();
        self.aliases.clear();
        self.useful = false;
        if !present {
            self.inbound.new_session();
        }
        self.outbound.begin(present);
        self.filters.begin(present, self.is_booting());
        self.broker = Some(answer);
        Ok(())
    }

    /// The link is gone.
    pub(super) fn lost(&mut self) {
        if self.broker.take().is_none() {
            return;
        }
        self.acks.clear();
        self.inbound.sleep();
        self.settled.window(0);
        if !self.settings.persistent {
            self.inbound.new_session();
        }
        self.useful |= self.outbound.lost();
        self.filters.lost();
    }

    /// The broker closes the link; [`Session::lost`] follows.
    pub(super) fn hung_up(&mut self) {
        self.outbound.hung_up();
    }

    /// A message went through to its end on the present or the last link.
    pub(super) fn was_useful(&self) -> bool {
        self.useful
    }

    /// One packet of the broker.
    ///
    /// # Errors
    /// The link must end, with this reason.
    pub(super) fn receive(&mut self, packet: Packet, at_ms: u64) -> Result<(), ConnectionError> {
        match packet {
            Packet::Publish(publish) => self.arrived(publish, at_ms)?,
            Packet::Oversize { publish, size } => self.oversize(publish, size)?,
            Packet::Ack(ack) if ack.kind == AckKind::PubRel => {
                self.inbound.release(ack.id, &mut self.acks)
            }
            Packet::Ack(ack) => self.outbound.acknowledged(ack, &mut self.acks),
            Packet::SubAck { id, reasons } => {
                self.filters.granted(self.settings.version, id, &reasons)
            }
            Packet::UnsubAck { id } => self.filters.removed(id),
            Packet::Pong => {}
            Packet::Disconnect { reason, text } => {
                return Err(reason::disconnected(reason, text.as_deref()));
            }
            Packet::ConnAck(_) => return Err(violation("a second CONNACK")),
        }
        Ok(())
    }

    /// Deliveries of all links so far, those that came again among them.
    pub(super) fn arrivals(&self) -> u64 {
        self.inbound.end()
    }

    /// What was received in one go has been handled: counts it.
    pub(super) fn end_of_read(&mut self) {
        self.settled.window(self.inbound.window());
        if self.dropped > 0 {
            self.traffic
                .dropped
                .fetch_add(std::mem::take(&mut self.dropped), Ordering::Relaxed);
        }
        let tally = self.outbound.take_tally();
        if tally.messages > 0 {
            self.useful = true;
            self.traffic
                .messages_out
                .fetch_add(tally.messages, Ordering::Relaxed);
            self.traffic
                .bytes_out
                .fetch_add(tally.bytes, Ordering::Relaxed);
        }
    }

    /// What the takers are done with.
    pub(super) fn outcomes(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            self.useful |= self.inbound.outcome(outcome.serial, outcome.settled);
        }
        if self.inbound.abandoned() > 0 && !self.settings.persistent {
            // A clean session is never sent again: holding the window would only starve others.
            let released = self.inbound.release_abandoned();
            self.traffic
                .dropped
                .fetch_add(released as u64, Ordering::Relaxed);
        }
    }

    /// Deliveries that a taker dropped: the broker sends them again on a new link only.
    pub(super) fn abandoned(&self) -> usize {
        self.inbound.abandoned()
    }

    /// Writes what may go now: acknowledgements first, never behind messages. True: more would go,
    /// were there room in the buffer.
    ///
    /// # Errors
    /// The codec refuses a packet.
    pub(super) fn fill(&mut self, buffer: &mut BytesMut, budget: usize) -> Result<bool, Malformed> {
        let Some(broker) = &self.broker else {
            return Ok(false);
        };
        let version = self.settings.version;
        let abilities = Abilities {
            version,
            subscription_ids: broker.subscription_ids_available,
            wildcards: broker.wildcards_available,
            shared: broker.shared_available,
            max_qos: broker.max_qos,
        };
        let bounds = Bounds {
            version,
            window: usize::from(self.settings.max_inflight.min(broker.receive_max)),
            window_2: usize::from(self.settings.max_inflight_2),
            max_packet: broker.max_packet,
            max_qos: broker.max_qos,
            aliases: broker.topic_aliases,
            remember: self.settings.persistent,
        };
        self.inbound.acknowledge(&mut self.acks);
        self.settled.window(self.inbound.window());
        write_acks(version, &mut self.acks, buffer);
        if !self.is_booting() {
            self.filters.takers_known();
        }
        self.filters
            .fill(abilities, self.settings.persistent, buffer)?;
        let more = self.outbound.fill(&bounds, &mut self.acks, buffer, budget);
        write_acks(version, &mut self.acks, buffer);
        Ok(more)
    }

    /// Everything that [`Session::fill`] wrote is on the socket.
    pub(super) fn flushed(&mut self) {
        self.outbound.flushed();
        self.end_of_read();
    }

    /// What must be kept on disk now; answer with [`Session::kept`].
    pub(super) fn keep(&mut self) -> Option<Keep> {
        if !self.settings.persistent {
            return None;
        }
        if let Some(filters) = self.filters.store() {
            return Some(Keep::Filters(filters));
        }
        self.outbound
            .reserve()
            .map(|(value, high)| Keep::Ids(value, high))
    }

    /// It is on disk.
    pub(super) fn kept(&mut self, keep: &Keep) {
        match keep {
            Keep::Filters(_) => self.filters.stored(),
            Keep::Ids(_, high) => self.outbound.reserved(*high),
        }
    }

    /// Adds a taker; the filters have been checked.
    pub(super) fn subscribe(&mut self, filters: &[String], qos: u8, inbox: Arc<Inbox>) -> TakerId {
        self.filters.add(filters, qos, inbox)
    }

    /// Takes a taker away. `keep`: its filters stay with the broker.
    pub(super) fn unsubscribe(&mut self, taker: TakerId, keep: bool) {
        self.filters.remove(taker, keep, self.is_booting());
    }

    /// Every filter that a taker waits for has the broker's answer.
    pub(super) fn is_subscribed(&self) -> bool {
        self.filters.is_settled()
    }

    /// Takes a batch over, to be sent behind all others.
    pub(super) fn publish(&mut self, ticket: Arc<Ticket>, rejected: &[u32]) {
        self.outbound.enqueue(ticket, rejected);
    }

    /// The caller does not wait any more.
    pub(super) fn withdraw(&mut self, ticket: &Arc<Ticket>) {
        self.outbound.withdraw(ticket);
    }

    /// What the broker said of itself on the present link.
    pub(super) fn broker(&self) -> Option<&ConnAck> {
        self.broker.as_ref()
    }

    /// Sentences for the operator.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.filters.warnings().collect();
        let abandoned = self.inbound.abandoned();
        if abandoned > 0 {
            warnings.push(format!("{abandoned} messages were given up by their rule; the broker is asked to send them again"));
        }
        if let Some(broker) = &self.broker {
            if broker.max_qos < 2 {
                warnings.push(format!(
                    "the broker knows levels up to {} only",
                    broker.max_qos
                ));
            }
            if self.settings.persistent && broker.session_expiry == Some(0) {
                warnings.push(
                    "the broker does not keep the session: messages are lost while away".to_owned(),
                );
            }
        }
        warnings
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.outbound.in_flight()
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.outbound.is_idle()
    }

    #[cfg(test)]
    pub(super) fn unsettled(&self) -> usize {
        self.inbound.unsettled().0
    }
}

fn write_acks(version: Version, acks: &mut Vec<Ack>, buffer: &mut BytesMut) {
    for ack in acks.drain(..) {
        codec::ack(version, ack, buffer);
    }
    if acks.capacity() > 4096 {
        *acks = Vec::new();
    }
}

fn violation(what: &str) -> ConnectionError {
    ConnectionError::disconnected("mqtt:0x82", format!("the broker sent {what}"))
}

fn unsettled(count: usize, bytes: usize) -> ConnectionError {
    ConnectionError::transient(
        "unsettled",
        format!(
            "{count} messages ({bytes} bytes) are received and not settled; waiting until their rules are done with them"
        ),
    )
}

#[cfg(test)]
mod tests;
