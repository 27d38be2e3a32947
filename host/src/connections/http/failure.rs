//! What a failed request means for the host. Addresses and a library's words go to operators only.

use std::error::Error as StdError;
use std::io;

use crate::connections::tls;
use crate::error::ConnectionError;

/// No answer, or one that is none; `begun`: its head was there.
pub(super) fn of(error: hyper::Error, begun: bool) -> ConnectionError {
    let explained = chain(&error).find_map(|link| tls::explain(link.downcast_ref::<io::Error>()?));
    if let Some(found) = explained {
        return found;
    }
    if error.is_parse() {
        return ConnectionError::transient(
            "http:protocol",
            "what answers there does not speak HTTP as expected",
        )
        .caused_by(error);
    }
    if begun {
        return ConnectionError::transient(
            "http:cut",
            "the answer broke off or cannot be unpacked",
        )
        .caused_by(error);
    }
    closed().caused_by(error)
}

/// No answer: the socket ended.
pub(super) fn closed() -> ConnectionError {
    ConnectionError::transient(
        "http:closed",
        "the server ended the connection before it answered",
    )
}

/// Nothing came within the time of a request.
pub(super) fn no_answer(sentence: &str) -> ConnectionError {
    ConnectionError::transient("timeout", sentence)
}

fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let link = next?;
        next = link.source();
        Some(link)
    })
}
