//! Requests to an HTTP server: the connection type `http`, over `hyper`. `config.rs` reads the
//! properties, `address.rs` says what is below the base URL, `link.rs` keeps the link and its life and
//! sends requests over it, `exchange.rs` sends one and follows redirects, `sockets.rs` dials, writes
//! and reads, `unpack.rs` unpacks bodies, `oauth.rs` gets tokens, `pace.rs` and the circuit
//! breaker (of all types, `breaker.rs` above) hold requests back. Knows no wasm and no rules; imports nothing of the other types.
//!
//! The URL is the operator's, so that addresses of this machine and its networks are not refused; what
//! a connector or a message says stays below it. No proxy of the environment is used.

mod address;
mod config;
mod exchange;
mod failure;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod link;
mod oauth;
mod pace;
mod sockets;
mod text;
mod unpack;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{ConfigError, Connection, ConnectionType, Context, Properties, Property};
use config::Config;
use link::Link;

/// The connection type `http`.
#[derive(Debug)]
pub struct HttpServer;

impl ConnectionType for HttpServer {
    const NAME: &'static str = "http";
    const ALIASES: &'static [&'static str] = &["rest", "httppull"];
    const PROPERTIES: &'static [Property] = config::PROPERTIES;
    const MESSAGE_ID_HEADER: &'static str = "Idempotency-Key";

    fn build(
        properties: &Properties,
        context: Context,
    ) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
        let config = Config::read(properties, &context.base, &context.limits)?;
        Ok(Link::new(config, context))
    }

    fn divide(properties: &mut Properties) -> Result<Properties, Vec<ConfigError>> {
        config::divide(properties)
    }
}
