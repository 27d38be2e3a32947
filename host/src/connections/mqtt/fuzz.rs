//! A door for `fuzz/`, behind the feature `fuzzing`: what a broker may send, taken apart. Touches no socket.

use bytes::BytesMut;

use super::codec::Decoder;
use super::packet::Version;

/// What these bytes are, each packet as text, read in pieces of `piece` bytes; behind them why the rest
/// cannot be read, if so. `version` is that of the protocol: 3, 4 or 5; `most` bounds a packet.
#[must_use]
pub fn decode(version: u8, most: usize, piece: usize, bytes: &[u8]) -> Vec<String> {
    let version = match version {
        3 => Version::V31,
        4 => Version::V311,
        _ => Version::V5,
    };
    let mut decoder = Decoder::new(version, most);
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            // As the link does, which reserves so much.
            let wanted = decoder.wanted(&buffer);
            assert!(
                wanted <= most,
                "{wanted} bytes are reserved, {most} allowed"
            );
            match decoder.next(&mut buffer) {
                Ok(Some(packet)) => found.push(format!("{packet:?}")),
                Ok(None) => break,
                Err(error) => {
                    found.push(error.to_string());
                    return found;
                }
            }
        }
    }
    found
}
