//! `websocket`: messages as WebSocket frames (RFC 6455), text or binary. Without `addr` the data port
//! serves a path and others connect (`server.rs`); with it this host dials (`client.rs`). Knows nothing of
//! what a message says; imports nothing of the other types.
//!
//! The protocol acknowledges nothing. What arrives is given to all takers, and dropped, counted, where a
//! queue is full: at most once. A publish returns when its messages are written to every client that is
//! there, or to the server that was dialled.

use std::sync::Arc;

use super::outbox::{known_options, plain_options};
use super::properties::Reader;
use super::takers::Takers;
use super::{
    ConfigError, Connection, ConnectionType, Context, Inbox, Properties, Property, PublishOptions,
    SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::message::Message;
use tokio_tungstenite::tungstenite::{Message as Frame, Utf8Bytes};

mod client;
mod config;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use config::{Common, Config};

/// The connection type.
#[derive(Debug)]
pub struct WebSocket;

impl ConnectionType for WebSocket {
    const NAME: &'static str = "websocket";
    const PROPERTIES: &'static [Property] = config::PROPERTIES;
    const ENDPOINT: &'static [&'static str] = &["path", "datasource"];

    fn build(
        properties: &Properties,
        context: Context,
    ) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
        let mut reader = Reader::new(properties, Self::PROPERTIES, &context.base);
        let config = Config::read(&mut reader, &context.limits);
        let warnings = reader.finish()?;
        Ok(match config {
            Config::Serving(config) => Arc::new(server::Server::new(config, context, warnings)),
            Config::Dialling(config) => Arc::new(client::Client::new(*config, context, warnings)),
        })
    }

    /// The path, where the data port serves it.
    fn exclusive_endpoint(properties: &Properties) -> Option<String> {
        config::endpoint(properties)
    }
}

/// What kind of frame a message becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Text where it is UTF-8.
    Auto,
    Text,
    Binary,
}

/// The one option of a publish.
const FRAME: &str = "frame";

/// How messages become frames, as these options say.
fn frames(
    common: &Common,
    options: &PublishOptions,
) -> Result<impl Fn(&Message) -> Result<Frame, ConnectionError> + use<>, ConnectionError> {
    plain_options(WebSocket::NAME, options, &[FRAME])?;
    let kind = match options.extra.iter().find(|(name, _)| name == FRAME) {
        None => Kind::Auto,
        Some((_, word)) => match word.as_str() {
            "auto" => Kind::Auto,
            "text" => Kind::Text,
            "binary" => Kind::Binary,
            other => {
                let sentence = format!("frame: found \"{other}\"; Allowed: auto, text, binary");
                return Err(ConnectionError::misconfigured("option", sentence));
            }
        },
    };
    let most = common.most;
    Ok(move |message: &Message| frame(message, kind, most))
}

fn frame(message: &Message, kind: Kind, most: usize) -> Result<Frame, ConnectionError> {
    let payload = &message.payload;
    if payload.len() > most {
        let sentence = format!(
            "the message has {} bytes; allowed are {most}",
            payload.len()
        );
        return Err(ConnectionError::permanent("too-large", sentence));
    }
    if kind == Kind::Binary {
        return Ok(Frame::Binary(payload.clone()));
    }
    match Utf8Bytes::try_from(payload.clone()) {
        Ok(text) => Ok(Frame::Text(text)),
        Err(_) if kind == Kind::Auto => Ok(Frame::Binary(payload.clone())),
        Err(_) => Err(ConnectionError::permanent(
            "text",
            "the message is no UTF-8, which a text frame must be",
        )),
    }
}

/// Adds a taker of all that comes. A filter may name the path, and no other one.
fn subscribe(
    common: &Common,
    takers: &Arc<Takers>,
    filters: &[String],
    options: &SubscribeOptions,
    inbox: Arc<Inbox>,
) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
    known_options(WebSocket::NAME, &options.extra, &[])?;
    let other = filters
        .iter()
        .find(|filter| !filter.is_empty() && **filter != common.path);
    if let Some(other) = other {
        let sentence = format!(
            "the path of this connection is \"{}\"; found \"{other}\"",
            common.path
        );
        return Err(ConnectionError::misconfigured("path", sentence));
    }
    Ok(Box::new(takers.add(inbox)))
}
