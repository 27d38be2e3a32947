//! The frequent packets, which are written and read by hand, against the library's codec; and bytes
//! of all kinds against the decoder.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use super::*;
use crate::connections::mqtt::packet::{Ack, AckKind, Packet, SubscriptionIds, Version};

fn outgoing<'a>(
    topic: &'a str,
    payload: &'a [u8],
    qos: u8,
    headers: &'a [(String, String)],
) -> Outgoing<'a> {
    Outgoing {
        topic,
        alias: 0,
        payload,
        qos,
        retain: true,
        dup: qos > 0,
        id: 77,
        headers,
        content_type: None,
        expiry: None,
    }
}

fn decode(version: Version, bytes: &[u8]) -> Packet {
    let mut buffer = BytesMut::from(bytes);
    Decoder::new(version, 1 << 20)
        .next(&mut buffer)
        .unwrap()
        .unwrap()
}

proptest! {
    #[test]
    fn a_publish_is_what_the_library_would_write_and_comes_back_whole(
        topic in "[a-z/]{1,300}", payload in prop::collection::vec(any::<u8>(), 0..20_000), qos in 0u8..3,
        headers in prop::collection::vec(("[a-z]{0,9}", "[a-z]{0,200}"), 0..4),
    ) {
        for version in [Version::V311, Version::V5] {
            let mut written = BytesMut::new();
            let mut packet = outgoing(&topic, &payload, qos, &headers);
            packet.expiry = (qos == 2).then_some(9);
            packet.content_type = (qos == 1).then_some("text/plain");
            packet.alias = u16::from(version == Version::V5) * 7;
            publish(version, &packet, &mut written);
            prop_assert_eq!(written.len(), publish_size(version, &packet));
            let mut copy = written.clone();
            if version == Version::V5 {
                let v5::Packet::Publish(read) = v5::Packet::read(&mut copy, None).unwrap() else { panic!() };
                prop_assert_eq!(&*read.payload, &*payload);
                let properties = read.properties.unwrap_or_default();
                prop_assert_eq!(properties.user_properties, headers.clone());
                prop_assert_eq!(properties.message_expiry_interval, packet.expiry);
                prop_assert_eq!(properties.topic_alias, Some(7));
            } else {
                let v4::Packet::Publish(read) = v4::Packet::read(&mut copy, 1 << 20).unwrap() else { panic!() };
                prop_assert_eq!((&*read.topic, read.retain, read.dup), (&*topic, true, qos > 0));
            }
            let Packet::Publish(read) = decode(version, &written) else { panic!() };
            prop_assert_eq!(&*read.topic, topic.as_bytes());
            prop_assert_eq!(&*read.payload, &*payload);
            prop_assert_eq!((read.qos, read.id), (qos, if qos > 0 { 77 } else { 0 }));
            if version == Version::V5 {
                prop_assert_eq!(read.headers.pairs(), &*headers);
            }
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_stand_still(bytes in prop::collection::vec(any::<u8>(), 0..300), max in 2usize..300) {
        for version in [Version::V31, Version::V311, Version::V5] {
            let mut decoder = Decoder::new(version, max);
            let mut buffer = BytesMut::from(&bytes[..]);
            for _ in 0..=bytes.len() {
                let before = buffer.len();
                match decoder.next(&mut buffer) {
                    Ok(Some(_)) => prop_assert!(buffer.len() < before || before == 0),
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }

    #[test]
    fn packets_cut_anywhere_are_put_together_and_oversize_ones_are_never_held(cuts in prop::collection::vec(1usize..400, 1..60)) {
        let large = vec![7u8; 5000];
        let mut stream = BytesMut::new();
        for n in 0..5u16 {
            publish(Version::V5, &Outgoing { id: n + 1, ..outgoing("small", &[1, 2], 1, &[]) }, &mut stream);
            publish(Version::V5, &Outgoing { id: n + 100, ..outgoing("large", &large, 1, &[]) }, &mut stream);
            ack(Version::V5, Ack { kind: AckKind::PubAck, id: n + 1, reason: 0x10 }, &mut stream);
        }
        let mut decoder = Decoder::new(Version::V5, 1000);
        let mut buffer = BytesMut::new();
        let (mut small, mut skipped, mut acks) = (0, 0, 0);
        for cut in cuts.iter().cycle() {
            if stream.is_empty() {
                break;
            }
            let part = stream.split_to((*cut).min(stream.len()));
            buffer.extend_from_slice(&part);
            while let Some(packet) = decoder.next(&mut buffer).unwrap() {
                match packet {
                    Packet::Publish(read) => { small += 1; prop_assert_eq!(&*read.topic, b"small"); }
                    Packet::Oversize { publish, size } => {
                        skipped += 1;
                        prop_assert!(publish.id >= 100 && size > 5000);
                        prop_assert_eq!(&*publish.topic, b"large");
                    }
                    Packet::Ack(read) => { acks += 1; prop_assert_eq!(read.reason, 0x10); }
                    other => panic!("{other:?}"),
                }
            }
            prop_assert!(buffer.len() < 5000 + 400);
        }
        prop_assert_eq!((small, skipped, acks), (5, 5, 5));
    }
}

#[test]
fn the_name_and_level_of_version_3_1_are_its_own_and_the_rest_is_as_in_3_1_1() {
    let will = Will {
        topic: "w".to_owned(),
        payload: Bytes::from_static(b"x"),
        qos: 1,
        retained: true,
    };
    let given = Connect {
        client_id: "me",
        clean: true,
        keep_alive: 10,
        login: Some(("u", "p")),
        will: Some(&will),
        session_expiry: 0,
        receive_max: 5,
        topic_aliases: 0,
    };
    let (mut old, mut new) = (BytesMut::new(), BytesMut::new());
    connect(Version::V31, &given, &mut old).unwrap();
    connect(Version::V311, &given, &mut new).unwrap();
    assert_eq!(&old[2..11], b"\x00\x06MQIsdp\x03");
    assert_eq!(old[11..], new[9..]);
    assert_eq!(usize::from(old[1]), old.len() - 2);
}

#[test]
fn subscription_identifiers_alias_and_reason_strings_are_read() {
    let mut buffer = BytesMut::new();
    let properties = v5::PublishProperties {
        subscription_identifiers: vec![3, 200_000],
        topic_alias: Some(4),
        ..Default::default()
    };
    let mut packet = v5::Publish::new(
        "a",
        rumqttc::v5::mqttbytes::QoS::AtMostOnce,
        "x",
        Some(properties),
    );
    packet.write(&mut buffer).unwrap();
    let Packet::Publish(read) = decode(Version::V5, &buffer) else {
        panic!()
    };
    assert_eq!(read.alias, 4);
    assert_eq!(read.subscriptions.iter().collect::<Vec<_>>(), [3, 200_000]);
    packet.properties = Some(v5::PublishProperties {
        subscription_identifiers: vec![300],
        ..Default::default()
    });
    buffer.clear();
    packet.write(&mut buffer).unwrap();
    let Packet::Publish(read) = decode(Version::V5, &buffer) else {
        panic!()
    };
    let mut expected = SubscriptionIds::default();
    expected.push(300);
    assert_eq!(read.subscriptions, expected);
    let Packet::Disconnect { reason, text } =
        decode(Version::V5, b"\xE0\x07\x8E\x05\x1F\x00\x02hi")
    else {
        panic!()
    };
    assert_eq!((reason, text.as_deref()), (0x8E, Some("hi")));
    assert!(matches!(
        decode(Version::V5, b"\xE0\x00"),
        Packet::Disconnect { reason: 0, .. }
    ));
}

#[test]
fn subscribe_carries_its_filters_levels_and_identifier() {
    let filters: Vec<(Arc<str>, u8)> = vec![("a/#".into(), 1), ("b".into(), 2)];
    let mut buffer = BytesMut::new();
    subscribe(Version::V5, 60_001, &filters, Some(9), &mut buffer).unwrap();
    let v5::Packet::Subscribe(read) = v5::Packet::read(&mut buffer, None).unwrap() else {
        panic!()
    };
    assert_eq!(
        (read.pkid, read.filters.len(), read.properties.unwrap().id),
        (60_001, 2, Some(9))
    );
    subscribe(Version::V311, 60_002, &filters, None, &mut buffer).unwrap();
    let v4::Packet::Subscribe(read) = v4::Packet::read(&mut buffer, 1000).unwrap() else {
        panic!()
    };
    assert_eq!(read.filters[1].path, "b");
}
