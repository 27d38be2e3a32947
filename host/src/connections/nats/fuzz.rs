//! A door for `fuzz/`, behind the feature `fuzzing`: what is made of a server's words and of headers. The wire
//! itself is the library's.

use async_nats::{HeaderMap, ServerError};

use super::{fault, link};
use crate::error::ConnectionError;
use crate::message::Message;

/// What a server's last words mean.
#[must_use]
pub fn said(words: &str) -> ConnectionError {
    fault::server(&ServerError::Other(words.to_owned()))
}

/// A message with these headers, those that the library refuses left out.
#[must_use]
pub fn message(subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> Message {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = name.parse::<async_nats::HeaderName>();
        let value = value.parse::<async_nats::HeaderValue>();
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    link::ours(async_nats::Message {
        subject: subject.into(),
        reply: None,
        payload: payload.to_vec().into(),
        headers: Some(map),
        status: None,
        description: None,
        length: payload.len(),
    })
}
