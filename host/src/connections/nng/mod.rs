//! `nng`: nanomsg's pair0 and push over TCP and local sockets, as Neuron speaks it (connection type of
//! the connector `neuron`). This side dials, the other listens, and takes one partner: whoever has the
//! same URL shares one connection. Knows no JSON; imports nothing of the other types.
//!
//! The protocol acknowledges nothing, in neither direction. What arrives is given to all takers, and
//! dropped, counted, where a queue is full: the socket is always read. A publish returns when its
//! messages are written to the socket; what was on its way when a link broke may be lost, or come twice.
//! A message that is too large is skipped by its length, and the link stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout};

use super::outbox::{Outbox, known_options, plain_options};
use super::properties::Reader;
use super::takers::Takers;
use super::{
    ConfigError, Connection, ConnectionType, Context, Inbox, Messaging, Properties, Property,
    PublishOptions, SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::message::{Batch, Rejection};

mod codec;
mod config;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod link;
#[cfg(test)]
mod tests;

use codec::Protocol;
use config::Config;
use link::Link;

/// A listener that has a partner hangs up on the next one at once, after its greeting: this long, and
/// four times what reaching it took, a link is looked at before it counts.
const GRACE: Duration = Duration::from_millis(150);
const MOST_GRACE: Duration = Duration::from_secs(1);
/// So often in a row "it has a partner" may be the partner that this connection was itself.
const EXCUSED: u32 = 3;

/// The connection type.
#[derive(Debug)]
pub struct Nng;

impl ConnectionType for Nng {
    const NAME: &'static str = "nng";
    const ALIASES: &'static [&'static str] = &["neuron"];
    const PROPERTIES: &'static [Property] = config::PROPERTIES;
    const ENDPOINT: &'static [&'static str] = &["url"];

    fn build(
        properties: &Properties,
        context: Context,
    ) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
        let mut reader = Reader::new(properties, Self::PROPERTIES, &context.base);
        let config = Config::read(&mut reader, &context.limits);
        let warnings = reader.finish()?;
        Ok(Arc::new(Dialled {
            shared: Arc::new(Shared {
                config,
                context,
                takers: Arc::default(),
                outbox: Outbox::default(),
                useful: AtomicBool::new(false),
                closing: AtomicBool::new(false),
                close: tokio::sync::Notify::new(),
            }),
            link: tokio::sync::Mutex::new(None),
            taken: AtomicU32::new(0),
            warnings,
        }))
    }

    fn exclusive_endpoint(properties: &Properties) -> Option<String> {
        Some(config::endpoint(properties))
    }
}

/// What a connection shares with its link.
#[derive(Debug)]
struct Shared {
    config: Config,
    context: Context,
    takers: Arc<Takers>,
    outbox: Outbox<bytes::Bytes>,
    /// The present link has carried a message.
    useful: AtomicBool,
    closing: AtomicBool,
    close: tokio::sync::Notify,
}

#[derive(Debug)]
struct Dialled {
    shared: Arc<Shared>,
    link: tokio::sync::Mutex<Option<Link>>,
    /// How often in a row the other side had a partner.
    taken: AtomicU32,
    warnings: Vec<String>,
}

impl Dialled {
    async fn dial(&self) -> Result<Link, ConnectionError> {
        let began = Instant::now();
        let attempt = async {
            let io = link::dial(&self.shared.config).await?;
            let reached = began.elapsed();
            let mut link = Link::new(io, Arc::clone(&self.shared));
            link.greet().await?;
            Ok::<_, ConnectionError>((link, reached))
        };
        let limit = self.shared.config.connect_timeout;
        let (mut link, reached) = timeout(limit, attempt).await.map_err(|_elapsed| {
            ConnectionError::disconnected("timeout", "the other side says nothing")
        })??;
        let grace = GRACE.saturating_add(reached * 4).min(MOST_GRACE);
        if link.hangs_up(grace).await? {
            return Err(self.has_a_partner());
        }
        Ok(link)
    }

    fn has_a_partner(&self) -> ConnectionError {
        let error = ConnectionError::disconnected(
            "nng:taken",
            "the other side hung up after its greeting: it has another partner already",
        );
        if self.taken.fetch_add(1, Ordering::Relaxed) < EXCUSED {
            error
        } else {
            error.slow()
        }
    }
}

#[async_trait]
impl Connection for Dialled {
    async fn connect(&self) -> Result<(), ConnectionError> {
        let mut held = self.link.lock().await;
        *held = None;
        self.shared.closing.store(false, Ordering::Release);
        self.shared.useful.store(false, Ordering::Relaxed);
        let link = self.dial().await?;
        self.taken.store(0, Ordering::Relaxed);
        *held = Some(link);
        self.shared.outbox.up();
        Ok(())
    }

    async fn lost(&self) -> ConnectionError {
        let mut held = self.link.lock().await;
        let Some(link) = held.as_mut() else {
            return ConnectionError::disconnected("closed", "there is no link");
        };
        let error = link.lost().await;
        *held = None;
        error
    }

    /// SP has no goodbye: the link ends.
    async fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.close.notify_one();
        self.link.lock().await.take();
    }

    fn dial_timeout(&self) -> Duration {
        self.shared.config.connect_timeout + MOST_GRACE + Duration::from_secs(1)
    }

    fn was_useful(&self) -> bool {
        self.shared.useful.load(Ordering::Relaxed)
    }

    fn peer(&self) -> Option<String> {
        Some(self.shared.config.place.to_string())
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn messaging(&self) -> Option<&dyn Messaging> {
        Some(self)
    }
}

#[async_trait]
impl Messaging for Dialled {
    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        known_options(Nng::NAME, &options.extra, &[])?;
        if filters.iter().any(|filter| !filter.is_empty()) {
            let sentence = "nng has no topics: subscribe without a filter";
            return Err(ConnectionError::misconfigured("filter", sentence));
        }
        if self.shared.config.protocol == Protocol::Push {
            let sentence = "this connection only sends: its \"protocol\" is push";
            return Err(ConnectionError::misconfigured("direction", sentence));
        }
        Ok(Box::new(self.shared.takers.add(inbox)))
    }

    async fn publish(
        &self,
        batch: &Batch,
        options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        plain_options(Nng::NAME, options, &[])?;
        let most = self.shared.config.most;
        let fits = |message: &crate::message::Message| {
            if message.payload.len() <= most {
                return Ok(message.payload.clone());
            }
            Err(too_large(message.payload.len(), most))
        };
        self.shared.outbox.publish(batch, fits).await
    }
}

fn too_large(length: impl std::fmt::Display, most: usize) -> ConnectionError {
    let sentence = format!("the message has {length} bytes; allowed are {most}");
    ConnectionError::permanent("too-large", sentence)
}
