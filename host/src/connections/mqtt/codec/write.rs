//! Writing. PUBLISH and the acknowledgements are written straight into the link's buffer; callers
//! have checked sizes and string lengths before (`publish_size`), so nothing is ever cut short.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::{self, v4};
use rumqttc::v5::mqttbytes::v5;

use super::Malformed;
use crate::connections::mqtt::packet::{Ack, LARGEST_PACKET, Version};

/// CONNECT, for all versions.
#[derive(Clone, Debug)]
pub(in crate::connections::mqtt) struct Connect<'a> {
    pub(in crate::connections::mqtt) client_id: &'a str,
    /// Clean session, clean start.
    pub(in crate::connections::mqtt) clean: bool,
    /// Seconds, 0 for none.
    pub(in crate::connections::mqtt) keep_alive: u16,
    pub(in crate::connections::mqtt) login: Option<(&'a str, &'a str)>,
    pub(in crate::connections::mqtt) will: Option<&'a Will>,
    /// Seconds that the session outlives the link (version 5).
    pub(in crate::connections::mqtt) session_expiry: u32,
    /// Messages above level 0 that may be unacknowledged towards us (version 5).
    pub(in crate::connections::mqtt) receive_max: u16,
    /// Topic aliases that the broker may use (version 5).
    pub(in crate::connections::mqtt) topic_aliases: u16,
}

/// What the broker publishes when the link ends without a farewell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::connections::mqtt) struct Will {
    pub(in crate::connections::mqtt) topic: String,
    pub(in crate::connections::mqtt) payload: Bytes,
    pub(in crate::connections::mqtt) qos: u8,
    pub(in crate::connections::mqtt) retained: bool,
}

/// A message to be written, without its payload's bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::connections::mqtt) struct Outgoing<'a> {
    /// Empty where only an alias says what it is.
    pub(in crate::connections::mqtt) topic: &'a str,
    /// The topic's alias on this link (version 5); zero: none.
    pub(in crate::connections::mqtt) alias: u16,
    pub(in crate::connections::mqtt) payload: &'a [u8],
    pub(in crate::connections::mqtt) qos: u8,
    pub(in crate::connections::mqtt) retain: bool,
    pub(in crate::connections::mqtt) dup: bool,
    /// Ignored at level 0.
    pub(in crate::connections::mqtt) id: u16,
    pub(in crate::connections::mqtt) headers: &'a [(String, String)],
    pub(in crate::connections::mqtt) content_type: Option<&'a str>,
    /// Seconds.
    pub(in crate::connections::mqtt) expiry: Option<u32>,
}

fn properties_len(outgoing: &Outgoing<'_>) -> usize {
    let user: usize = outgoing
        .headers
        .iter()
        .map(|(name, value)| 5 + name.len() + value.len())
        .sum();
    let content_type = outgoing.content_type.map_or(0, |text| 3 + text.len());
    let alias = if outgoing.alias > 0 { 3 } else { 0 };
    let expiry = if outgoing.expiry.is_some() { 5 } else { 0 };
    user + content_type + alias + expiry
}

fn body_len(version: Version, outgoing: &Outgoing<'_>) -> usize {
    let id = if outgoing.qos > 0 { 2 } else { 0 };
    let properties = if version == Version::V5 {
        let length = properties_len(outgoing);
        variable_len(length) + length
    } else {
        0
    };
    2 + outgoing.topic.len() + id + properties + outgoing.payload.len()
}

/// Bytes of the whole packet.
pub(in crate::connections::mqtt) fn publish_size(
    version: Version,
    outgoing: &Outgoing<'_>,
) -> usize {
    let body = body_len(version, outgoing);
    1 + variable_len(body) + body
}

/// A PUBLISH. The caller has checked its size and its strings.
pub(in crate::connections::mqtt) fn publish(
    version: Version,
    outgoing: &Outgoing<'_>,
    buffer: &mut BytesMut,
) {
    let body = body_len(version, outgoing);
    buffer.reserve(body + 5);
    buffer.put_u8(
        0x30 | (u8::from(outgoing.dup) << 3) | (outgoing.qos << 1) | u8::from(outgoing.retain),
    );
    put_variable(buffer, body);
    put_string(buffer, outgoing.topic);
    if outgoing.qos > 0 {
        buffer.put_u16(outgoing.id);
    }
    if version == Version::V5 {
        put_variable(buffer, properties_len(outgoing));
        if outgoing.alias > 0 {
            buffer.put_u8(0x23);
            buffer.put_u16(outgoing.alias);
        }
        if let Some(expiry) = outgoing.expiry {
            buffer.put_u8(0x02);
            buffer.put_u32(expiry);
        }
        if let Some(content_type) = outgoing.content_type {
            buffer.put_u8(0x03);
            put_string(buffer, content_type);
        }
        for (name, value) in outgoing.headers {
            buffer.put_u8(0x26);
            put_string(buffer, name);
            put_string(buffer, value);
        }
    }
    buffer.put_slice(outgoing.payload);
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP. The reason is left out where it is success (MQTT5 3.4.2.1).
pub(in crate::connections::mqtt) fn ack(version: Version, ack: Ack, buffer: &mut BytesMut) {
    let flags = if ack.kind as u8 == 6 { 2 } else { 0 };
    let reason = version == Version::V5 && ack.reason != 0;
    let [high, low] = ack.id.to_be_bytes();
    buffer.put_slice(&[
        ((ack.kind as u8) << 4) | flags,
        2 + u8::from(reason),
        high,
        low,
    ]);
    if reason {
        buffer.put_u8(ack.reason);
    }
}

/// PINGREQ.
pub(in crate::connections::mqtt) fn ping(buffer: &mut BytesMut) {
    buffer.put_slice(&[0xC0, 0]);
}

/// DISCONNECT: the will is discarded. Before version 5 there is no reason.
pub(in crate::connections::mqtt) fn disconnect(
    version: Version,
    reason: u8,
    buffer: &mut BytesMut,
) {
    if version == Version::V5 && reason != 0 {
        buffer.put_slice(&[0xE0, 1, reason]);
    } else {
        buffer.put_slice(&[0xE0, 0]);
    }
}

/// CONNECT.
///
/// # Errors
/// The library refuses it (a string too long).
pub(in crate::connections::mqtt) fn connect(
    version: Version,
    connect: &Connect<'_>,
    buffer: &mut BytesMut,
) -> Result<(), Malformed> {
    let failed = |error: String| Malformed::new(format!("CONNECT: {error}"));
    if version == Version::V5 {
        let mut properties = v5::ConnectProperties::new();
        properties.session_expiry_interval =
            (connect.session_expiry > 0).then_some(connect.session_expiry);
        properties.receive_maximum = Some(connect.receive_max);
        properties.topic_alias_max = (connect.topic_aliases > 0).then_some(connect.topic_aliases);
        let packet = v5::Connect {
            keep_alive: connect.keep_alive,
            client_id: connect.client_id.to_owned(),
            clean_start: connect.clean,
            properties: Some(properties),
        };
        let will = connect.will.map(|will| {
            v5::LastWill::new(
                &*will.topic,
                will.payload.to_vec(),
                qos5(will.qos),
                will.retained,
                None,
            )
        });
        let login = connect.login.map(|(username, password)| v5::Login {
            username: username.to_owned(),
            password: password.to_owned(),
        });
        return packet
            .write(&will, &login, buffer)
            .map(drop)
            .map_err(|error| failed(error.to_string()));
    }
    let mut packet = v4::Connect::new(connect.client_id);
    packet.keep_alive = connect.keep_alive;
    packet.clean_session = connect.clean;
    if let Some((username, password)) = connect.login {
        packet.set_login(username, password);
    }
    packet.last_will = connect.will.map(|will| {
        v4::LastWill::new(
            &*will.topic,
            will.payload.to_vec(),
            qos4(will.qos),
            will.retained,
        )
    });
    let mut written = BytesMut::new();
    packet
        .write(&mut written)
        .map_err(|error| failed(error.to_string()))?;
    if version == Version::V311 {
        buffer.extend_from_slice(&written);
        return Ok(());
    }
    // Version 3.1 differs in its name and level only (MQTT 3.1, 3.1): "MQIsdp", 3.
    let length = written
        .iter()
        .skip(1)
        .take_while(|&&part| part & 0x80 != 0)
        .count()
        + 1;
    let rest = written.get(1 + length + 2 + 4 + 1..).unwrap_or_default();
    buffer.put_u8(0x10);
    put_variable(buffer, 2 + 6 + 1 + rest.len());
    put_string(buffer, "MQIsdp");
    buffer.put_u8(3);
    buffer.extend_from_slice(rest);
    Ok(())
}

/// SUBSCRIBE of these filters and levels, in one packet.
///
/// # Errors
/// The library refuses it.
pub(in crate::connections::mqtt) fn subscribe(
    version: Version,
    id: u16,
    filters: &[(Arc<str>, u8)],
    subscription: Option<u32>,
    buffer: &mut BytesMut,
) -> Result<(), Malformed> {
    if version == Version::V5 {
        let filters = filters.iter().map(|(filter, qos)| v5::Filter {
            path: filter.as_ref().to_owned(),
            qos: qos5(*qos),
            ..v5::Filter::default()
        });
        let properties = subscription.map(|id| v5::SubscribeProperties {
            id: Some(id as usize),
            user_properties: Vec::new(),
        });
        let mut packet = v5::Subscribe::new_many(filters, properties);
        packet.pkid = id;
        packet
            .write(buffer)
            .map_err(|error| Malformed::new(error.to_string()))?;
    } else {
        let filters = filters
            .iter()
            .map(|(filter, qos)| v4::SubscribeFilter::new(filter.as_ref().to_owned(), qos4(*qos)));
        let mut packet = v4::Subscribe::new_many(filters);
        packet.pkid = id;
        packet
            .write(buffer)
            .map_err(|error| Malformed::new(error.to_string()))?;
    }
    Ok(())
}

/// UNSUBSCRIBE of these filters, in one packet.
///
/// # Errors
/// The library refuses it.
pub(in crate::connections::mqtt) fn unsubscribe(
    version: Version,
    id: u16,
    filters: &[Arc<str>],
    buffer: &mut BytesMut,
) -> Result<(), Malformed> {
    let names: Vec<String> = filters
        .iter()
        .map(|filter| filter.as_ref().to_owned())
        .collect();
    if version == Version::V5 {
        let packet = v5::Unsubscribe {
            pkid: id,
            filters: names,
            properties: None,
        };
        packet
            .write(buffer)
            .map_err(|error| Malformed::new(error.to_string()))?;
    } else {
        let packet = v4::Unsubscribe {
            pkid: id,
            topics: names,
        };
        packet
            .write(buffer)
            .map_err(|error| Malformed::new(error.to_string()))?;
    }
    Ok(())
}

fn qos4(qos: u8) -> mqttbytes::QoS {
    mqttbytes::qos(qos).unwrap_or(mqttbytes::QoS::AtLeastOnce)
}

fn qos5(qos: u8) -> rumqttc::v5::mqttbytes::QoS {
    rumqttc::v5::mqttbytes::qos(qos).unwrap_or(rumqttc::v5::mqttbytes::QoS::AtLeastOnce)
}

fn variable_len(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

fn put_variable(buffer: &mut BytesMut, value: usize) {
    debug_assert!(value <= LARGEST_PACKET);
    let mut left = value;
    loop {
        let part = u8::try_from(left % 128).unwrap_or(0);
        left /= 128;
        if left == 0 {
            buffer.put_u8(part);
            return;
        }
        buffer.put_u8(part | 0x80);
    }
}

fn put_string(buffer: &mut BytesMut, text: &str) {
    debug_assert!(text.len() <= usize::from(u16::MAX));
    buffer.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    buffer.put_slice(text.as_bytes());
}
