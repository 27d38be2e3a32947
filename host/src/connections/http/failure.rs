//! What a failed request means for the host, and bodies read with a bound. Addresses and a library's
//! words go to operators only, and never with the URL, whose query may hold a secret.

use std::error::Error as StdError;
use std::io;

use bytes::{Bytes, BytesMut};
use reqwest::Response;

use crate::connections::tls;
use crate::error::ConnectionError;

/// No connection to the server, or no answer that is one.
pub(super) fn of(error: reqwest::Error) -> ConnectionError {
    let error = error.without_url();
    if error.is_timeout() {
        return no_answer("the server does not answer in time").caused_by(error);
    }
    let explained = chain(&error).find_map(|link| tls::explain(link.downcast_ref::<io::Error>()?));
    if let Some(found) = explained {
        return found;
    }
    if error.is_connect() {
        let resolving = chain(&error).any(|link| link.to_string().contains("dns error"));
        return if resolving {
            ConnectionError::disconnected("resolve", "the server's name cannot be resolved")
        } else {
            ConnectionError::disconnected("connect", "the server cannot be reached")
        }
        .caused_by(error);
    }
    let parse = chain(&error).any(|link| {
        link.downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_parse)
    });
    if parse {
        return ConnectionError::transient(
            "http:protocol",
            "what answers there does not speak HTTP as expected",
        )
        .caused_by(error);
    }
    if error.is_body() || error.is_decode() {
        return ConnectionError::transient(
            "http:cut",
            "the answer broke off or cannot be unpacked",
        )
        .caused_by(error);
    }
    ConnectionError::transient(
        "http:closed",
        "the server ended the connection before it answered",
    )
    .caused_by(error)
}

/// The same where a dial needs the answer.
pub(super) fn of_dial(error: reqwest::Error) -> ConnectionError {
    let mut found = of(error);
    found.kind = crate::error::ErrorKind::Disconnected;
    found
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

/// The body, unpacked, `most` bytes of it; true: there was more. What is not read is not fetched.
///
/// # Errors
/// It broke off, or cannot be unpacked.
pub(super) async fn body(
    response: &mut Response,
    most: usize,
) -> Result<(Bytes, bool), ConnectionError> {
    let Some(first) = response.chunk().await.map_err(of)? else {
        return Ok((Bytes::new(), false));
    };
    let mut rest: Option<BytesMut> = None;
    let mut head = first;
    loop {
        let length = rest.as_ref().map_or(head.len(), BytesMut::len);
        if length > most {
            let mut all = rest.map_or(head, BytesMut::freeze);
            all.truncate(most);
            return Ok((all, true));
        }
        let Some(next) = response.chunk().await.map_err(of)? else {
            return Ok((rest.map_or(head, BytesMut::freeze), false));
        };
        let all = rest.get_or_insert_with(|| BytesMut::from(&head[..]));
        all.extend_from_slice(&next);
        head = Bytes::new();
    }
}
