//! As much of MQTT 3.1.1 as a load generator and an oracle need, on plain byte buffers.
//!
//! Written here and not taken from the codec that the product uses: a fault in that one would
//! cancel out. Section numbers are those of the OASIS standard, MQTT 3.1.1.

/// A packet that a broker sends to a client (or, seen by a proxy, a client to a broker).
#[derive(Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// 3.1: a client says hello.
    Connect,
    /// 3.2: whether the broker had the session, and its return code (0: accepted).
    ConnAck {
        /// The broker kept the session of this client id.
        session_present: bool,
        /// 0, or why it refused.
        code: u8,
    },
    /// 3.3
    Publish {
        /// Sent before.
        dup: bool,
        /// 0, 1 or 2.
        qos: u8,
        /// Kept by the broker and sent because of a new subscription.
        retain: bool,
        /// Where it was published.
        topic: &'a str,
        /// Packet id; 0 at QoS 0.
        id: u16,
        /// The message.
        payload: &'a [u8],
    },
    /// 3.4
    PubAck(u16),
    /// 3.5
    PubRec(u16),
    /// 3.6
    PubRel(u16),
    /// 3.7
    PubComp(u16),
    /// 3.8, its packet id.
    Subscribe(u16),
    /// 3.10, its packet id.
    Unsubscribe(u16),
    /// 3.9: the return code of the (only) filter.
    SubAck {
        /// 0 to 2, or 0x80 for refused.
        code: u8,
    },
    /// 3.11, 3.12, 3.13, 3.14
    Other(u8),
}

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Appends a remaining length (2.2.3).
fn put_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let byte = (length % 128) as u8;
        length /= 128;
        out.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            return;
        }
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("a string of MQTT has at most 65 535 bytes");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// CONNECT (3.1) without keep-alive.
#[must_use]
pub fn connect(client_id: &str, clean: bool, login: Option<(&str, &str)>) -> Vec<u8> {
    let mut flags = if clean { 0x02 } else { 0 };
    if login.is_some() {
        flags |= 0xc0;
    }
    let mut body = b"\x00\x04MQTT\x04".to_vec();
    body.push(flags);
    body.extend_from_slice(&0u16.to_be_bytes());
    put_string(&mut body, client_id);
    if let Some((user, password)) = login {
        put_string(&mut body, user);
        put_string(&mut body, password);
    }
    framed(0x10, &body)
}

/// SUBSCRIBE (3.8) for one filter.
#[must_use]
pub fn subscribe(id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    put_string(&mut body, filter);
    body.push(qos);
    framed(0x82, &body)
}

/// DISCONNECT (3.14).
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

/// What a PUBLISH carries beside topic and payload.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivery {
    /// 0, 1 or 2.
    pub qos: u8,
    /// Packet id; not written at QoS 0.
    pub id: u16,
    /// Sent before.
    pub dup: bool,
    /// To be kept by the broker.
    pub retain: bool,
}

/// Appends a PUBLISH (3.3).
pub fn publish(out: &mut Vec<u8>, topic: &str, delivery: Delivery, payload: &[u8]) {
    let Delivery {
        qos,
        id,
        dup,
        retain,
    } = delivery;
    out.push(0x30 | u8::from(dup) << 3 | qos << 1 | u8::from(retain));
    put_length(
        out,
        2 + topic.len() + if qos > 0 { 2 } else { 0 } + payload.len(),
    );
    put_string(out, topic);
    if qos > 0 {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.extend_from_slice(payload);
}

/// Appends a PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70).
pub fn acknowledge(out: &mut Vec<u8>, first_byte: u8, id: u16) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[first_byte, 2, high, low]);
}

fn framed(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first_byte];
    put_length(&mut out, body.len());
    out.extend_from_slice(body);
    out
}

/// The first packet of `bytes` and its length, or `None` while it is not whole.
///
/// # Errors
/// The bytes are no MQTT.
pub fn parse(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, Malformed> {
    let Some((header, body_length)) = frame(bytes)? else {
        return Ok(None);
    };
    let Some(body) = bytes.get(header..header + body_length) else {
        return Ok(None);
    };
    let first = bytes[0];
    let packet = match first >> 4 {
        1 => Packet::Connect,
        2 => Packet::ConnAck {
            session_present: at(body, 0)? & 1 == 1,
            code: at(body, 1)?,
        },
        3 => parse_publish(first, body)?,
        4 => Packet::PubAck(id_at(body, 0)?),
        5 => Packet::PubRec(id_at(body, 0)?),
        6 => Packet::PubRel(id_at(body, 0)?),
        7 => Packet::PubComp(id_at(body, 0)?),
        8 => Packet::Subscribe(id_at(body, 0)?),
        10 => Packet::Unsubscribe(id_at(body, 0)?),
        9 => Packet::SubAck { code: at(body, 2)? },
        other => Packet::Other(other),
    };
    Ok(Some((packet, header + body_length)))
}

/// Length of the fixed header and of what follows it.
fn frame(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut length = 0usize;
    for place in 0..4 {
        let Some(&byte) = bytes.get(1 + place) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((2 + place, length)));
        }
    }
    Err(Malformed("remaining length of more than four bytes"))
}

fn parse_publish(first: u8, body: &[u8]) -> Result<Packet<'_>, Malformed> {
    let qos = first >> 1 & 3;
    let mut at = 2 + usize::from(id_at(body, 0)?);
    let topic = body
        .get(2..at)
        .ok_or(Malformed("topic beyond the packet"))?;
    let topic = std::str::from_utf8(topic).map_err(|_| Malformed("topic is not UTF-8"))?;
    let id = if qos == 0 { 0 } else { id_at(body, at)? };
    if qos > 0 {
        at += 2;
    }
    let payload = &body[at..];
    Ok(Packet::Publish {
        dup: first & 8 != 0,
        qos,
        retain: first & 1 != 0,
        topic,
        id,
        payload,
    })
}

fn at(body: &[u8], place: usize) -> Result<u8, Malformed> {
    body.get(place)
        .copied()
        .ok_or(Malformed("packet too short"))
}

fn id_at(body: &[u8], place: usize) -> Result<u16, Malformed> {
    Ok(u16::from_be_bytes([at(body, place)?, at(body, place + 1)?]))
}

/// Bytes as they come from a socket, taken out packet by packet.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    start: usize,
}

impl Inbox {
    /// Appends what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole packet.
    ///
    /// # Errors
    /// The bytes are no MQTT.
    pub fn next_packet(&mut self) -> Result<Option<Packet<'_>>, Malformed> {
        let Some((packet, length)) = parse(&self.bytes[self.start..])? else {
            return Ok(None);
        };
        self.start += length;
        Ok(Some(packet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_written_is_the_publish_read_at_each_cut_of_the_bytes() {
        let mut bytes = Vec::new();
        let payload = [7u8; 300];
        publish(
            &mut bytes,
            "in/1",
            Delivery {
                qos: 1,
                id: 515,
                dup: true,
                retain: false,
            },
            &payload,
        );
        acknowledge(&mut bytes, 0x40, 9);
        for cut in 0..bytes.len() {
            let mut inbox = Inbox::default();
            inbox.push(&bytes[..cut]);
            let mut early = 0;
            while inbox.next_packet().expect("well-formed").is_some() {
                early += 1;
            }
            inbox.push(&bytes[cut..]);
            if early == 0 {
                let expected = Packet::Publish {
                    dup: true,
                    qos: 1,
                    retain: false,
                    topic: "in/1",
                    id: 515,
                    payload: &payload,
                };
                assert_eq!(inbox.next_packet(), Ok(Some(expected)));
            }
            assert_eq!(inbox.next_packet(), Ok(Some(Packet::PubAck(9))));
            assert_eq!(inbox.next_packet(), Ok(None));
        }
    }

    #[test]
    fn a_length_of_five_bytes_is_malformed() {
        assert!(parse(&[0x30, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
    }
}
