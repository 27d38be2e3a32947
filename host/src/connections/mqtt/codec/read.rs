//! Reading: frames out of a buffer that grows, packets out of frames. Payloads stay slices of the
//! buffer. A message above the limit is skipped by its length and never held.

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use super::Malformed;
use crate::connections::mqtt::packet::{Ack, AckKind, ConnAck, Packet, Publish, Version};
use crate::connections::mqtt::reason;

const PUBLISH: u8 = 3;
const SUBSCRIPTION_ID: u8 = 0x0B;
/// How much of an oversize message's head is looked at: fixed header, the longest topic, the id, and
/// on version 5 this much of its properties.
const PROPERTIES_LOOKED_AT: usize = 4 * 1024;

/// Takes packets out of what was read. Holds no bytes of its own.
#[derive(Debug)]
pub(in crate::connections::mqtt) struct Decoder {
    version: Version,
    max: usize,
    skip: Option<Skip>,
}

#[derive(Debug)]
struct Skip {
    left: usize,
    packet: Option<Packet>,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    byte: u8,
    len: usize,
    body: usize,
}

impl Header {
    fn kind(self) -> u8 {
        self.byte >> 4
    }

    fn frame(self) -> usize {
        self.len + self.body
    }

    /// The same for the library, which skips the fixed header by its length.
    fn of_library(self) -> v5::FixedHeader {
        v5::FixedHeader::new(self.byte, self.len - 1, self.body)
    }
}

impl Decoder {
    /// For one link; `max` bounds the frames that are held.
    pub(in crate::connections::mqtt) fn new(version: Version, max: usize) -> Self {
        Self {
            version,
            max,
            skip: None,
        }
    }

    /// The next whole packet, or None until more bytes are there.
    ///
    /// # Errors
    /// The bytes are not MQTT of this version: the link cannot go on.
    pub(in crate::connections::mqtt) fn next(
        &mut self,
        buffer: &mut BytesMut,
    ) -> Result<Option<Packet>, Malformed> {
        if let Some(skip) = &mut self.skip {
            let gone = skip.left.min(buffer.len());
            buffer.advance(gone);
            skip.left -= gone;
            if skip.left > 0 {
                return Ok(None);
            }
            let packet = skip.packet.take();
            self.skip = None;
            if packet.is_some() {
                return Ok(packet);
            }
        }
        let Some(header) = header(buffer)? else {
            return Ok(None);
        };
        if header.frame() > self.max {
            return self.oversize(header, buffer);
        }
        if buffer.len() < header.frame() {
            return Ok(None);
        }
        if let Some(packet) = short_ack(header, buffer) {
            buffer.advance(header.frame());
            return Ok(Some(packet));
        }
        let frame = buffer.split_to(header.frame()).freeze();
        self.packet(header, frame).map(Some)
    }

    /// How many bytes the frame at the head of the buffer needs in all, as far as that is known and
    /// worth reserving.
    pub(in crate::connections::mqtt) fn wanted(&self, buffer: &BytesMut) -> usize {
        if self.skip.is_some() {
            return 0;
        }
        match header(buffer) {
            Ok(Some(header)) if header.frame() <= self.max => header.frame(),
            _ => 0,
        }
    }

    fn packet(&self, header: Header, frame: Bytes) -> Result<Packet, Malformed> {
        if header.kind() == PUBLISH {
            return publish(self.version, header, frame).map(Packet::Publish);
        }
        let mut body = frame.clone();
        body.advance(header.len);
        match header.kind() {
            2 => connack(self.version, header, frame)
                .map(|connack| Packet::ConnAck(Box::new(connack))),
            4 => ack(AckKind::PubAck, &mut body),
            5 => ack(AckKind::PubRec, &mut body),
            6 => ack(AckKind::PubRel, &mut body),
            7 => ack(AckKind::PubComp, &mut body),
            9 => {
                let id = id(&mut body)?;
                skip_properties(self.version, &mut body)?;
                Ok(Packet::SubAck {
                    id,
                    reasons: body.to_vec(),
                })
            }
            11 => {
                let id = id(&mut body)?;
                Ok(Packet::UnsubAck { id })
            }
            13 => Ok(Packet::Pong),
            14 if self.version == Version::V5 => disconnect(&mut body),
            kind => Err(Malformed::new(format!(
                "the broker sent a packet of type {kind}, which only a client may send"
            ))),
        }
    }

    fn oversize(
        &mut self,
        header: Header,
        buffer: &mut BytesMut,
    ) -> Result<Option<Packet>, Malformed> {
        if header.kind() != PUBLISH {
            return Err(Malformed::new(format!(
                "the broker sent a packet of type {} with {} bytes, more than the limit of {}",
                header.kind(),
                header.frame(),
                self.max
            )));
        }
        let Some(topic) = buffer.get(header.len..header.len + 2) else {
            return Ok(None);
        };
        let topic = usize::from(u16::from_be_bytes([
            topic.first().copied().unwrap_or(0),
            topic.last().copied().unwrap_or(0),
        ]));
        let properties = if self.version == Version::V5 {
            PROPERTIES_LOOKED_AT
        } else {
            0
        };
        let head = (header.len + 2 + topic + 2 + properties).min(header.frame());
        if buffer.len() < head {
            buffer.reserve(head - buffer.len());
            return Ok(None);
        }
        let mut start = Bytes::copy_from_slice(buffer.get(header.len..head).unwrap_or_default());
        let qos = (header.byte >> 1) & 3;
        let mut publish = Publish {
            dup: header.byte & 8 != 0,
            qos: check_qos(qos)?,
            retain: header.byte & 1 != 0,
            topic: string(&mut start)?,
            ..Publish::default()
        };
        if qos > 0 {
            publish.id = id(&mut start)?;
        }
        if self.version == Version::V5 && publish.topic.is_empty() {
            // Only the alias says what it is; without it the message is reported without a topic.
            let whole = (|| {
                let length = variable(&mut start).ok()?;
                (length <= start.len()).then(|| start.slice(..length))
            })();
            if let Some(properties) = whole {
                publish.alias = alias_in(header.byte, properties).unwrap_or(0);
            }
        }
        self.skip = Some(Skip {
            left: header.frame(),
            packet: Some(Packet::Oversize {
                publish,
                size: header.frame(),
            }),
        });
        self.next(buffer)
    }
}

/// The fixed header (MQTT 2.2), or None while it is not whole.
fn header(buffer: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some((&byte, rest)) = buffer.split_first() else {
        return Ok(None);
    };
    let mut body = 0usize;
    for (place, &part) in rest.iter().take(4).enumerate() {
        body |= usize::from(part & 0x7F) << (7 * place);
        if part & 0x80 == 0 {
            return Ok(Some(Header {
                byte,
                len: 2 + place,
                body,
            }));
        }
    }
    if rest.len() >= 4 {
        return Err(Malformed::new(
            "the broker sent a packet length of more than four bytes",
        ));
    }
    Ok(None)
}

/// An acknowledgement without properties, read in place: the most frequent packet but one.
fn short_ack(header: Header, buffer: &[u8]) -> Option<Packet> {
    if header.body > 3 {
        return None;
    }
    let kind = ack_kind(header.kind())?;
    let body = buffer.get(header.len..header.frame())?;
    let (high, low, reason) = match *body {
        [high, low] => (high, low, 0),
        [high, low, reason] => (high, low, reason),
        _ => return None,
    };
    let id = u16::from_be_bytes([high, low]);
    (id != 0).then_some(Packet::Ack(Ack { kind, id, reason }))
}

fn ack_kind(kind: u8) -> Option<AckKind> {
    match kind {
        4 => Some(AckKind::PubAck),
        5 => Some(AckKind::PubRec),
        6 => Some(AckKind::PubRel),
        7 => Some(AckKind::PubComp),
        _ => None,
    }
}

/// Properties of an acknowledgement (a reason string) change nothing that is done with it.
fn ack(kind: AckKind, body: &mut Bytes) -> Result<Packet, Malformed> {
    let id = id(body)?;
    let reason = if body.is_empty() { 0 } else { body.get_u8() };
    Ok(Packet::Ack(Ack { kind, id, reason }))
}

fn publish(version: Version, header: Header, frame: Bytes) -> Result<Publish, Malformed> {
    let byte = header.byte;
    let qos = check_qos((byte >> 1) & 3)?;
    let mut body = frame;
    let whole = (version == Version::V5).then(|| body.clone());
    body.advance(header.len);
    let topic = string(&mut body)?;
    let id = if qos > 0 { id(&mut body)? } else { 0 };
    let mut publish = Publish {
        dup: byte & 8 != 0,
        qos,
        retain: byte & 1 != 0,
        topic,
        id,
        ..Publish::default()
    };
    if let Some(whole) = whole {
        let length = variable(&mut body)?;
        if length > body.len() {
            return Err(Malformed::new(
                "the properties of a message are longer than the message",
            ));
        }
        if length > 0
            && !only_subscription_ids(body.get(..length).unwrap_or_default(), &mut publish)
        {
            properties(header.of_library(), whole, &mut publish)?;
        }
        body.advance(length);
    }
    publish.payload = body;
    Ok(publish)
}

/// The properties that nearly every message of version 5 has, and nothing beside them.
fn only_subscription_ids(mut rest: &[u8], publish: &mut Publish) -> bool {
    let mut found = Publish::default().subscriptions;
    while let Some((&SUBSCRIPTION_ID, tail)) = rest.split_first() {
        let mut value = 0u32;
        let mut used = 0;
        for &part in tail.iter().take(4) {
            value |= u32::from(part & 0x7F) << (7 * used);
            used += 1;
            if part & 0x80 == 0 {
                break;
            }
        }
        if used == 0 || value == 0 {
            return false;
        }
        found.push(value);
        rest = tail.get(used..).unwrap_or_default();
    }
    if rest.is_empty() {
        publish.subscriptions = found;
    }
    rest.is_empty()
}

/// All other properties, by the library's codec.
fn properties(
    header: v5::FixedHeader,
    frame: Bytes,
    publish: &mut Publish,
) -> Result<(), Malformed> {
    let parsed =
        v5::Publish::read(header, frame).map_err(|error| Malformed::new(error.to_string()))?;
    let Some(properties) = parsed.properties else {
        return Ok(());
    };
    publish.headers = properties.user_properties.into();
    publish.alias = match properties.topic_alias {
        Some(0) => return Err(Malformed::new("the broker sent a topic alias of zero")),
        Some(alias) => alias,
        None => 0,
    };
    for id in properties.subscription_identifiers {
        publish.subscriptions.push(u32::try_from(id).unwrap_or(0));
    }
    Ok(())
}

fn alias_in(byte: u8, properties: Bytes) -> Option<u16> {
    // A message of its own with an empty topic, for the library to read.
    let mut body = BytesMut::new();
    body.extend_from_slice(&[byte, 0, 0]);
    if (byte >> 1) & 3 > 0 {
        body.extend_from_slice(&[0, 1]);
    }
    let mut length = properties.len();
    loop {
        let part = u8::try_from(length % 128).unwrap_or(0);
        length /= 128;
        body.extend_from_slice(&[part | if length > 0 { 0x80 } else { 0 }]);
        if length == 0 {
            break;
        }
    }
    body.extend_from_slice(&properties);
    let mut publish = Publish::default();
    let header = Header {
        byte,
        len: 1,
        body: body.len() - 1,
    };
    self::properties(header.of_library(), body.freeze(), &mut publish).ok()?;
    Some(publish.alias)
}

fn connack(version: Version, header: Header, frame: Bytes) -> Result<ConnAck, Malformed> {
    let body = frame.slice(header.len..);
    let (Some(&flags), Some(&code)) = (body.first(), body.get(1)) else {
        return Err(Malformed::new("the broker's CONNACK is too short"));
    };
    let mut answer = ConnAck {
        session_present: flags & 1 == 1,
        code,
        ..ConnAck::default()
    };
    if version != Version::V5 {
        // The library refuses codes it does not know; what counts is the number.
        let known = v4::ConnectReturnCode::NotAuthorized as u8;
        answer.text = (code > known).then(|| "a code that version 3 does not have".to_owned());
        return Ok(answer);
    }
    // A broker that speaks only version 3 answers in its own format: two bytes.
    if body.len() == 2 {
        return Ok(answer);
    }
    let parsed = v5::ConnAck::read(header.of_library(), frame);
    let Some(properties) = (match parsed {
        Ok(parsed) => parsed.properties,
        Err(_) if code != 0 => return Ok(answer),
        Err(error) => return Err(Malformed::new(format!("the broker's CONNACK: {error}"))),
    }) else {
        return Ok(answer);
    };
    let on = |value: Option<u8>| value != Some(0);
    answer.text = properties.reason_string;
    answer.receive_max = properties.receive_max.unwrap_or(u16::MAX).max(1);
    answer.topic_aliases = properties.topic_alias_max.unwrap_or(0);
    answer.max_packet = properties
        .max_packet_size
        .map_or(answer.max_packet, |max| max as usize);
    answer.max_qos = properties.max_qos.unwrap_or(2);
    answer.retain_available = on(properties.retain_available);
    answer.wildcards_available = on(properties.wildcard_subscription_available);
    answer.subscription_ids_available = on(properties.subscription_identifiers_available);
    answer.shared_available = on(properties.shared_subscription_available);
    answer.keep_alive = properties.server_keep_alive;
    answer.client_id = properties.assigned_client_identifier;
    answer.session_expiry = properties.session_expiry_interval;
    Ok(answer)
}

fn disconnect(body: &mut Bytes) -> Result<Packet, Malformed> {
    if body.is_empty() {
        return Ok(Packet::Disconnect {
            reason: 0,
            text: None,
        });
    }
    let reason = body.get_u8();
    let text = (|| {
        let length = variable(body).ok()?;
        let mut properties = body.get(..length)?;
        // The reason string is the first property in practice; anything else is left alone.
        let (&0x1F, rest) = properties.split_first()? else {
            return None;
        };
        properties = rest;
        let size = usize::from(u16::from_be_bytes([
            *properties.first()?,
            *properties.get(1)?,
        ]));
        let text = std::str::from_utf8(properties.get(2..2 + size)?).ok()?;
        Some(reason::printable(text))
    })();
    Ok(Packet::Disconnect { reason, text })
}

fn skip_properties(version: Version, body: &mut Bytes) -> Result<(), Malformed> {
    if version != Version::V5 {
        return Ok(());
    }
    let length = variable(body)?;
    if length > body.len() {
        return Err(Malformed::new("properties are longer than their packet"));
    }
    body.advance(length);
    Ok(())
}

fn check_qos(qos: u8) -> Result<u8, Malformed> {
    if qos > 2 {
        return Err(Malformed::new("the broker sent a message of level 3"));
    }
    Ok(qos)
}

fn id(body: &mut Bytes) -> Result<u16, Malformed> {
    if body.len() < 2 {
        return Err(Malformed::new("a packet ends before its packet id"));
    }
    let id = body.get_u16();
    if id == 0 {
        return Err(Malformed::new("the broker sent the packet id 0"));
    }
    Ok(id)
}

fn string(body: &mut Bytes) -> Result<Bytes, Malformed> {
    if body.len() < 2 {
        return Err(Malformed::new("a packet ends before its topic"));
    }
    let length = usize::from(body.get_u16());
    if length > body.len() {
        return Err(Malformed::new("a topic is longer than its packet"));
    }
    Ok(body.split_to(length))
}

fn variable(body: &mut Bytes) -> Result<usize, Malformed> {
    let mut value = 0usize;
    for place in 0..4 {
        if body.is_empty() {
            break;
        }
        let part = body.get_u8();
        value |= usize::from(part & 0x7F) << (7 * place);
        if part & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed::new("a packet's property length is malformed"))
}
