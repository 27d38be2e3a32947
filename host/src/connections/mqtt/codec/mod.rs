//! Bytes on the wire to packets and back. The frequent packets (PUBLISH and its acknowledgements)
//! are read and written here without an allocation; the rare ones go through `rumqttc`'s codec,
//! which is a copy of the specification in types. Touches no socket and no session.

mod read;
mod write;

pub(super) use read::Decoder;
pub(super) use write::{
    Connect, Outgoing, Will, ack, connect, disconnect, ping, publish, publish_size, subscribe,
    unsubscribe,
};

/// Why the broker's bytes cannot be understood; the link ends with it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) String);

impl Malformed {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

#[cfg(test)]
mod tests;
