//! A door for `fuzz/`, behind the feature `fuzzing`: what is made of a server's answers. The wire itself (RESP)
//! is the library's.

use redis::{PushInfo, PushKind, Value};

use super::link::published;
use super::reader::{message, of_stream};
use crate::message::Message;

/// The messages in an answer that is on the wire so: entries of a stream, or one that was pushed. None: the
/// library cannot read it.
#[must_use]
pub fn messages(field: &str, bytes: &[u8]) -> Option<Vec<Message>> {
    let reply = redis::parse_redis_value(bytes).ok()?;
    let mut found = Vec::new();
    if let Value::Push { kind, data } = &reply {
        let kinds = [kind.clone(), PushKind::Message, PushKind::PMessage];
        for kind in kinds {
            let data = data.clone();
            found.extend(published(PushInfo { kind, data }).map(|(_, message)| message));
        }
    }
    for entry in of_stream(reply) {
        found.extend(entry.fields.map(|fields| message("key", field, fields)));
    }
    Some(found)
}
