//! The packets of MQTT as the session sees them: one set for versions 3.1, 3.1.1 and 5. The codec
//! maps bytes onto them; nothing here knows of bytes on a wire or of sockets.

use bytes::Bytes;

use crate::message::Headers;

/// The protocol's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// 3.1, protocol level 3.
    V31,
    /// 3.1.1, protocol level 4.
    V311,
    /// 5, protocol level 5.
    V5,
}

/// What came from the broker.
#[derive(Debug)]
pub(super) enum Packet {
    ConnAck(Box<ConnAck>),
    Publish(Publish),
    /// A message larger than the limit: `payload` is empty, `size` is what the packet weighed.
    Oversize {
        publish: Publish,
        size: usize,
    },
    Ack(Ack),
    /// One reason per filter, in the order of the request.
    SubAck {
        id: u16,
        reasons: Vec<u8>,
    },
    UnsubAck {
        id: u16,
    },
    Pong,
    Disconnect {
        reason: u8,
        text: Option<String>,
    },
}

/// A message from the broker.
#[derive(Debug, Default)]
pub(super) struct Publish {
    pub(super) dup: bool,
    pub(super) qos: u8,
    pub(super) retain: bool,
    /// Not yet checked to be UTF-8; empty where only an alias came.
    pub(super) topic: Bytes,
    /// Zero at level 0.
    pub(super) id: u16,
    pub(super) payload: Bytes,
    pub(super) headers: Headers,
    /// Zero: none.
    pub(super) alias: u16,
    pub(super) subscriptions: SubscriptionIds,
}

/// The subscription identifiers of one message. One is the rule; more allocate.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct SubscriptionIds {
    first: u32,
    more: Vec<u32>,
}

impl SubscriptionIds {
    pub(super) fn push(&mut self, id: u32) {
        if self.first == 0 {
            self.first = id;
        } else {
            self.more.push(id);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (self.first != 0)
            .then_some(self.first)
            .into_iter()
            .chain(self.more.iter().copied())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == 0
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        (self.first == id && id != 0) || self.more.contains(&id)
    }
}

/// The four packets that carry a packet id and a reason, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) kind: AckKind,
    pub(super) id: u16,
    /// Always 0 before version 5.
    pub(super) reason: u8,
}

/// Which of the four; the values are the packet types of the protocol (MQTT 2.1.2).
#[expect(
    clippy::enum_variant_names,
    reason = "they are the protocol's own names"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckKind {
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
}

/// The broker's answer to CONNECT. Limits that it did not name are the protocol's own defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConnAck {
    pub(super) session_present: bool,
    /// 0: accepted. As in the protocol of that version otherwise.
    pub(super) code: u8,
    pub(super) text: Option<String>,
    pub(super) receive_max: u16,
    /// Topic aliases that it lets this side use.
    pub(super) topic_aliases: u16,
    /// Bytes of a whole packet.
    pub(super) max_packet: usize,
    pub(super) max_qos: u8,
    pub(super) retain_available: bool,
    pub(super) wildcards_available: bool,
    pub(super) subscription_ids_available: bool,
    pub(super) shared_available: bool,
    /// Seconds; in place of what CONNECT asked for.
    pub(super) keep_alive: Option<u16>,
    pub(super) client_id: Option<String>,
    pub(super) session_expiry: Option<u32>,
}

/// The largest remaining length that the protocol can say (MQTT 2.2.3), plus its fixed header.
pub(super) const LARGEST_PACKET: usize = 268_435_455 + 5;

impl Default for ConnAck {
    fn default() -> Self {
        Self {
            session_present: false,
            code: 0,
            text: None,
            receive_max: u16::MAX,
            topic_aliases: 0,
            max_packet: LARGEST_PACKET,
            max_qos: 2,
            retain_available: true,
            wildcards_available: true,
            subscription_ids_available: true,
            shared_available: true,
            keep_alive: None,
            client_id: None,
            session_expiry: None,
        }
    }
}
