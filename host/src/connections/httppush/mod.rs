//! `httppush`: others push messages by HTTP to a path of the data port (`dataport`); the path is the
//! subject. A push is answered 200 only when its message is delivered, filtered, dead-lettered or on
//! disk; `request.rs` has all answers.
//!
//! A connection "dials" by listening: it is connected while the data port listens. Which paths it
//! serves comes from its takers. Knows nothing of rules, and of HTTP no more than one request.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::dataport::{PortLease, check_path};
use super::properties::{Reader, text};
use super::{
    ConfigError, Connection, ConnectionType, Context, Inbox, Messaging, Properties, Property,
    PropertyKind, PublishOptions, SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::message::{Batch, Rejection};

mod config;
mod pending;
mod repeats;
mod request;
mod takers;
#[cfg(test)]
mod tests;

use config::Config;
use takers::Shared;

/// The connection type.
#[derive(Debug)]
pub struct HttpPush;

impl ConnectionType for HttpPush {
    const NAME: &'static str = "httppush";
    const PROPERTIES: &'static [Property] = &[
        Property::both("datasource")
            .text()
            .about("The only path that is served; none: those that the streams ask for."),
        Property::both("method")
            .one_of(&["POST", "PUT"])
            .default("POST")
            .about("The method of a push."),
        Property::secret("token").about("Who sends it as a bearer token may push to any path."),
        Property::secret("tokens")
            .of(PropertyKind::TextMap)
            .about("Paths with a token of their own each."),
        Property::plain("maxBodyBytes")
            .integer(1, i64::MAX)
            .about("Bytes of a body, decompressed; the host's maxMessageBytes unless told."),
        Property::plain("bodyTimeout")
            .duration()
            .default("30s")
            .about("How long a body may take."),
    ];

    fn build(
        properties: &Properties,
        context: Context,
    ) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
        let mut reader = Reader::new(properties, Self::PROPERTIES, &context.base);
        let config = Config::read(&mut reader, &context.limits);
        let warnings = reader.finish()?;
        Ok(Arc::new(Pushed {
            shared: Arc::new(Shared::new(config, context)),
            lease: Mutex::new(None),
            warnings,
        }))
    }

    /// Method and path, where the connection is made for one path.
    fn exclusive_endpoint(properties: &Properties) -> Option<String> {
        let method = text(properties, "method").unwrap_or("POST");
        let path = text(properties, "datasource")?;
        Some(format!("{} {path}", method.to_ascii_uppercase()))
    }
}

#[derive(Debug)]
struct Pushed {
    shared: Arc<Shared>,
    lease: Mutex<Option<PortLease>>,
    warnings: Vec<String>,
}

#[async_trait]
impl Connection for Pushed {
    async fn connect(&self) -> Result<(), ConnectionError> {
        let lease = self.shared.context.port.open().await?;
        *self.lease.lock() = Some(lease);
        Ok(())
    }

    /// The listener does not end by itself.
    async fn lost(&self) -> ConnectionError {
        std::future::pending().await
    }

    async fn close(&self) {
        self.lease.lock().take();
    }

    fn was_useful(&self) -> bool {
        self.shared.useful.load(Ordering::Relaxed)
    }

    fn peer(&self) -> Option<String> {
        let lease = self.lease.lock();
        lease.as_ref().map(|lease| lease.address().to_string())
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.clone();
        let lease = self.lease.lock();
        let public = lease
            .as_ref()
            .is_some_and(|lease| !lease.address().ip().is_loopback());
        if public && !self.shared.config.has_tokens() {
            warnings.push(
                "the data port is open to other machines and this connection has no token: anybody there can push"
                    .to_owned(),
            );
        }
        warnings
    }

    fn messaging(&self) -> Option<&dyn Messaging> {
        Some(self)
    }
}

#[async_trait]
impl Messaging for Pushed {
    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        let mut method = self.shared.config.method.clone();
        for (name, value) in &options.extra {
            if name != "method" {
                let sentence = format!("httppush knows no option \"{name}\"; Allowed: method");
                return Err(ConnectionError::misconfigured("option", sentence));
            }
            method = config::method(value)
                .map_err(|why| ConnectionError::misconfigured("method", why))?;
        }
        for path in filters {
            check_path(path).map_err(|why| ConnectionError::misconfigured("path", why))?;
            if let Some(only) = &self.shared.config.path
                && only != path
            {
                let sentence = format!(
                    "this connection serves \"{only}\" only, as its \"datasource\" says; found \"{path}\""
                );
                return Err(ConnectionError::misconfigured("path", sentence));
            }
        }
        let guard = self.shared.take(filters, &method, inbox)?;
        Ok(Box::new(guard))
    }

    async fn publish(
        &self,
        _batch: &Batch,
        _options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        Err(ConnectionError::misconfigured(
            "direction",
            "httppush only receives: nothing can be published to it",
        ))
    }
}
