//! A door for `fuzz/`, behind the feature `fuzzing`: an envelope in JSON as headers and a payload.

use crate::message::Message;

/// The message as it goes over NATS.
#[must_use]
pub fn headers(payload: &[u8]) -> Message {
    super::frame::headers(Message::new(payload.to_vec()))
}
