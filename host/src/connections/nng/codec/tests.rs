//! Frames as nng 1.11 sends them, in pieces of any size, and rubbish.

use proptest::prelude::*;

use super::*;

const HELLO: &[u8] = b"\x00SP\x00\x00\x10\x00\x00";

/// All that comes of these pieces, and how it ended.
fn decode(decoder: &mut Decoder, pieces: &[&[u8]]) -> (Vec<Event>, Result<(), Malformed>) {
    let (mut input, mut events) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Err(error)),
            }
        }
        // What is not handed on is what is being waited for: it cannot pile up.
        assert!(input.len() < decoder.wanted().max(1), "{}", input.len());
    }
    (events, Ok(()))
}

fn pair(framing: Framing, limit: usize) -> Decoder {
    Decoder::new(Protocol::Pair0, framing, limit)
}

#[test]
fn frames_are_those_of_nng() {
    let payload = br#"{"a":1}"#;
    for (framing, head) in [
        (Framing::Network, &b"\0\0\0\0\0\0\0\x07"[..]),
        (Framing::Local, b"\x01\0\0\0\0\0\0\0\x07"),
    ] {
        let mut out = BytesMut::new();
        write(framing, payload, &mut out);
        assert_eq!(&out[..], [head, payload].concat());
        let (events, ended) = decode(&mut pair(framing, 7), &[HELLO, &out]);
        assert_eq!(
            events,
            [Event::Greeted, Event::Message(Bytes::from_static(payload))]
        );
        assert_eq!(ended, Ok(()));
    }
    assert_eq!(greeting(Protocol::Pair0), HELLO);
    assert_eq!(greeting(Protocol::Push), *b"\x00SP\x00\x00\x50\x00\x00");
}

#[test]
fn an_empty_message_is_a_message() {
    let (events, _) = decode(&mut pair(Framing::Network, 7), &[HELLO, &[0; 8]]);
    assert_eq!(events, [Event::Greeted, Event::Message(Bytes::new())]);
}

#[test]
fn another_partner_and_another_protocol_are_named() {
    let fault = |bytes: &[u8]| {
        let (events, ended) = decode(&mut pair(Framing::Network, 7), &[bytes]);
        assert!(events.is_empty());
        ended.unwrap_err().to_string()
    };
    let pair1 = fault(b"\x00SP\x00\x00\x11\x00\x00");
    assert!(
        pair1.contains("pair1") && pair1.contains("needs pair0"),
        "{pair1}"
    );
    assert!(fault(b"\x00SP\x00\x7f\xff\x00\x00").contains("0x7fff"));
    assert!(fault(b"HTTP/1.1 400 Bad Request").contains("HTTP/1.1"));
    assert!(fault(b"220 ").contains("220"), "four bytes are enough");
    assert!(fault(b"\x00SP\x00\x00\x10\x00\x01").contains("SP"));
    let (_, push) = decode(
        &mut Decoder::new(Protocol::Push, Framing::Network, 7),
        &[b"\x00SP\x00\x00\x51\x00\x00"],
    );
    assert_eq!(push, Ok(()), "a push may talk to a pull");
}

#[test]
fn a_message_that_is_too_large_is_skipped_and_the_next_one_is_whole() {
    let mut bytes = BytesMut::from(HELLO);
    let large: Vec<u8> = (0..=255).cycle().take(5000).collect();
    for payload in [&b"before"[..], &large, b"after"] {
        write(Framing::Network, payload, &mut bytes);
    }
    for size in [1, 7, 4096, bytes.len()] {
        let pieces: Vec<_> = bytes.chunks(size).collect();
        let (events, ended) = decode(&mut pair(Framing::Network, 4096), &pieces);
        assert_eq!(ended, Ok(()));
        assert_eq!(events[1], Event::Message(Bytes::from_static(b"before")));
        let Event::Skipped { length, head } = &events[2] else {
            panic!("{events:?}")
        };
        assert_eq!((*length, &head[..]), (5000, &large[..KEPT]));
        assert_eq!(events[3], Event::Message(Bytes::from_static(b"after")));
    }
}

#[test]
fn a_length_that_no_message_has_and_an_unknown_kind_end_it() {
    let (_, ended) = decode(&mut pair(Framing::Network, 7), &[HELLO, &[0xff; 8]]);
    assert_eq!(ended, Err(Malformed::Length(u64::MAX)));
    let (_, ended) = decode(&mut pair(Framing::Local, 7), &[HELLO, b"\x02"]);
    assert_eq!(ended, Err(Malformed::Kind(2)));
}

proptest! {
    #[test]
    fn pieces_of_any_size_give_the_same_messages(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..12),
        cuts in prop::collection::vec(1_usize..64, 1..40),
        local in any::<bool>(),
        limit in 0_usize..300,
    ) {
        let framing = if local { Framing::Local } else { Framing::Network };
        let mut bytes = BytesMut::from(HELLO);
        for payload in &payloads {
            write(framing, payload, &mut bytes);
        }
        let (mut rest, mut pieces) = (&bytes[..], Vec::new());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        let (events, ended) = decode(&mut pair(framing, limit), &pieces);
        prop_assert_eq!(ended, Ok(()));
        let found: Vec<_> = events[1..]
            .iter()
            .map(|event| match event {
                Event::Message(message) => (message.len(), message.to_vec()),
                Event::Skipped { length, head } => (usize::try_from(*length).unwrap(), head.to_vec()),
                Event::Greeted => panic!("greeted twice"),
            })
            .collect();
        let expected: Vec<_> = payloads
            .iter()
            .map(|payload| {
                let shown = if payload.len() > limit { payload.len().min(KEPT) } else { payload.len() };
                (payload.len(), payload[..shown].to_vec())
            })
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn rubbish_never_panics_and_never_piles_up(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        greeted in any::<bool>(),
        local in any::<bool>(),
    ) {
        let framing = if local { Framing::Local } else { Framing::Network };
        let hello = if greeted { HELLO } else { &[] };
        let pieces: Vec<_> = [hello].into_iter().chain(bytes.chunks(13)).collect();
        drop(decode(&mut pair(framing, 100), &pieces));
    }
}

#[test]
fn what_is_wrong_with_a_greeting_does_not_depend_on_its_pieces() {
    let wrong = b"\0SP\0\x01\0\0\x10";
    for piece in 1..=wrong.len() {
        let mut decoder = Decoder::new(Protocol::Pair0, Framing::Network, 100);
        let mut input = BytesMut::new();
        let mut pieces = wrong.chunks(piece);
        let error = loop {
            input.extend_from_slice(pieces.next().expect("an error at the end at the latest"));
            match decoder.next(&mut input) {
                Ok(event) => assert_eq!(event, None),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(error, Malformed::NoGreeting(_)),
            "{piece}: {error}"
        );
    }
}
