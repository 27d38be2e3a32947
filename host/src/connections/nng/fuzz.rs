//! A door for `fuzz/`, behind the feature `fuzzing`: what a peer may send, taken apart, and what is sent.
//! Touches no socket.

use bytes::BytesMut;

use super::codec::{Decoder, Event, Framing, Protocol, greeting, write};

fn framing(local: bool) -> Framing {
    if local {
        Framing::Local
    } else {
        Framing::Network
    }
}

/// What these bytes are, each event as text, read in pieces of `piece` bytes; behind them why the rest
/// cannot be read, if so. `local`: as on a local socket. `most` bounds a message.
#[must_use]
pub fn decode(local: bool, most: usize, piece: usize, bytes: &[u8]) -> Vec<String> {
    let mut decoder = Decoder::new(Protocol::Pair0, framing(local), most);
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(event)) => {
                    if let Event::Message(message) = &event {
                        assert!(message.len() <= most, "a message beyond the limit");
                    }
                    found.push(format!("{event:?}"));
                }
                Ok(None) => break,
                Err(error) => {
                    // Its words show what was there so far, which the pieces decide.
                    let words = error.to_string();
                    found.push(
                        words
                            .split(": it began with")
                            .next()
                            .unwrap_or_default()
                            .to_owned(),
                    );
                    return found;
                }
            }
            let wanted = decoder.wanted();
            assert!(wanted <= most.max(9), "{wanted} bytes are wanted");
        }
    }
    found
}

/// The bytes on the wire of one message from this side, its greeting first.
#[must_use]
pub fn encode(local: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::from(&greeting(Protocol::Pair0)[..]);
    write(framing(local), payload, &mut out);
    out.to_vec()
}
