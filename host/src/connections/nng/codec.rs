//! The wire of nanomsg's scalability protocols (SP) as a state machine without I/O: the greeting of eight
//! bytes, then frames, over a stream of the network or a local one.
//!
//! After RFC drafts `sp-tcp-mapping` and `sp-ipc-mapping` of nanomsg, and what nng 1.11 sends: both sides
//! begin with `00 'S' 'P' 00`, the protocol's number (16 bits, big-endian) and two bytes of zero. A frame
//! is its length (64 bits, big-endian) and its body; on a local socket a byte `01` goes before. Bodies of
//! pair0, push and pull are the payload and nothing else.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a greeting.
pub(super) const GREETING: usize = 8;
const MAGIC: [u8; 4] = [0, b'S', b'P', 0];
/// What goes before the length on a local socket: this frame is a message.
const MESSAGE: u8 = 1;
/// How much of a message that is skipped is kept, to show what it was.
const KEPT: usize = 256;
/// A length beyond is taken for no message at all: skipping it would swallow all that follows.
const MOST_SKIPPED: u64 = 2 * 1024 * 1024 * 1024;

/// Names of the protocols by their numbers, as nng has them.
const NAMES: [(u16, &str); 12] = [
    (0x10, "pair0"),
    (0x11, "pair1"),
    (0x20, "pub"),
    (0x21, "sub"),
    (0x30, "req"),
    (0x31, "rep"),
    (0x50, "push"),
    (0x51, "pull"),
    (0x62, "surveyor"),
    (0x63, "respondent"),
    (0x70, "bus"),
    (0x00, "no protocol"),
];

/// A protocol that this side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// One peer, both ways.
    Pair0,
    /// Only out, to a `pull`.
    Push,
}

impl Protocol {
    fn number(self) -> u16 {
        match self {
            Self::Pair0 => 0x10,
            Self::Push => 0x50,
        }
    }

    /// Who may be on the other side.
    fn partner(self) -> u16 {
        match self {
            Self::Pair0 => 0x10,
            Self::Push => 0x51,
        }
    }
}

/// How frames stand on the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// On TCP: the length, the body.
    Network,
    /// On a local socket: `01`, the length, the body.
    Local,
}

impl Framing {
    fn head(self) -> usize {
        match self {
            Self::Network => 8,
            Self::Local => 9,
        }
    }
}

/// What the other side sent is not what SP allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// Another protocol altogether.
    #[error("it does not speak nanomsg's protocols: it began with {0}")]
    NoGreeting(String),
    /// SP, but not the partner's protocol.
    #[error("it speaks {found}, and this connection needs {needed} there")]
    Partner {
        /// What it speaks.
        found: String,
        /// What it would have to.
        needed: &'static str,
    },
    /// A frame of an unknown kind.
    #[error("it sent a frame of the kind {0:#04x}")]
    Kind(u8),
    /// A length that no message has.
    #[error("it announced a message of {0} bytes")]
    Length(u64),
}

/// What the other side sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Its greeting, and it is the right partner.
    Greeted,
    /// A message.
    Message(Bytes),
    /// A message that was too large, and has been skipped.
    Skipped {
        /// Bytes that it had.
        length: u64,
        /// The first of them.
        head: Bytes,
    },
}

/// The greeting of this side.
pub(super) fn greeting(protocol: Protocol) -> [u8; GREETING] {
    let [high, low] = protocol.number().to_be_bytes();
    let [a, b, c, d] = MAGIC;
    [a, b, c, d, high, low, 0, 0]
}

/// Appends a message.
pub(super) fn write(framing: Framing, payload: &[u8], out: &mut BytesMut) {
    if framing == Framing::Local {
        out.extend_from_slice(&[MESSAGE]);
    }
    let length = u64::try_from(payload.len()).unwrap_or(u64::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
}

#[derive(Debug)]
enum Phase {
    Greeting,
    Head,
    Body(usize),
    Skip {
        left: u64,
        length: u64,
        head: BytesMut,
    },
}

/// Takes bytes apart, however they come in pieces.
#[derive(Debug)]
pub(super) struct Decoder {
    protocol: Protocol,
    framing: Framing,
    /// Bytes of the largest message that is handed on.
    limit: usize,
    phase: Phase,
}

impl Decoder {
    pub(super) fn new(protocol: Protocol, framing: Framing, limit: usize) -> Self {
        Self {
            protocol,
            framing,
            limit,
            phase: Phase::Greeting,
        }
    }

    /// How many bytes are needed, those there included, before anything more can be said.
    pub(super) fn wanted(&self) -> usize {
        match &self.phase {
            Phase::Greeting => GREETING,
            Phase::Head => self.framing.head(),
            Phase::Body(length) => *length,
            Phase::Skip { .. } => 1,
        }
    }

    /// Takes the next thing off the front of `input`. None: it is not whole yet.
    ///
    /// # Errors
    /// The rest cannot be read.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Malformed> {
        loop {
            match &mut self.phase {
                Phase::Greeting => {
                    self.check_greeting(input)?;
                    if input.len() < GREETING {
                        return Ok(None);
                    }
                    input.advance(GREETING);
                    self.phase = Phase::Head;
                    return Ok(Some(Event::Greeted));
                }
                Phase::Head => {
                    if self.framing == Framing::Local
                        && let Some(&kind) = input.first()
                        && kind != MESSAGE
                    {
                        return Err(Malformed::Kind(kind));
                    }
                    if input.len() < self.framing.head() {
                        return Ok(None);
                    }
                    input.advance(self.framing.head() - 8);
                    let length = input.get_u64();
                    self.phase = match usize::try_from(length) {
                        Ok(length) if length <= self.limit => Phase::Body(length),
                        _ if length > MOST_SKIPPED => return Err(Malformed::Length(length)),
                        _ => Phase::Skip {
                            left: length,
                            length,
                            head: BytesMut::new(),
                        },
                    };
                }
                Phase::Body(length) => {
                    if input.len() < *length {
                        return Ok(None);
                    }
                    let message = input.split_to(*length).freeze();
                    self.phase = Phase::Head;
                    return Ok(Some(Event::Message(message)));
                }
                Phase::Skip { left, length, head } => {
                    let there = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(input.len());
                    let kept = (KEPT - head.len()).min(there);
                    head.extend_from_slice(input.get(..kept).unwrap_or_default());
                    input.advance(there);
                    *left -= u64::try_from(there).unwrap_or(*left);
                    if *left > 0 {
                        return Ok(None);
                    }
                    let skipped = Event::Skipped {
                        length: *length,
                        head: std::mem::take(head).freeze(),
                    };
                    self.phase = Phase::Head;
                    return Ok(Some(skipped));
                }
            }
        }
    }

    /// Each byte as it comes: what speaks another protocol may never send eight.
    fn check_greeting(&self, input: &[u8]) -> Result<(), Malformed> {
        let magic = MAGIC
            .iter()
            .zip(input)
            .all(|(wanted, found)| wanted == found);
        let reserved = input.iter().take(GREETING).skip(6).all(|byte| *byte == 0);
        if !magic || !reserved {
            let begin = input.get(..input.len().min(GREETING)).unwrap_or_default();
            return Err(Malformed::NoGreeting(begin.escape_ascii().to_string()));
        }
        // Whose greeting it is shows the whole of it, however it comes in pieces.
        let Some(&[_, _, _, _, high, low, _, _]) = input.first_chunk::<GREETING>() else {
            return Ok(());
        };
        let found = u16::from_be_bytes([high, low]);
        if found == self.protocol.partner() {
            return Ok(());
        }
        let needed = name(self.protocol.partner()).unwrap_or_default();
        let found = match name(found) {
            Some(name) => name.to_owned(),
            None => format!("the protocol {found:#x}"),
        };
        Err(Malformed::Partner { found, needed })
    }
}

fn name(number: u16) -> Option<&'static str> {
    NAMES
        .iter()
        .find(|(known, _)| *known == number)
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests;
