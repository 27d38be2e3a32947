//! Redis: the connection type `redis`, over the library `redis` and RESP3 (Redis 6 or newer).
//! Channels and patterns (at most once), streams with consumer groups (at least once), and out:
//! PUBLISH, XADD, SET and lists. Knows no rules; imports nothing of the other types.

mod asked;
mod config;
mod fault;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod link;
mod publish;
mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::interest::Interest;
use super::uplink::Uplink;
use super::window::Window;
use super::{
    ConfigError, Connection, ConnectionType, Context, Inbox, Messaging, Properties, Property,
    PublishOptions, SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::message::{Batch, Message, Rejection};
use asked::{Manner, Reading, Wanted};
use config::Config;
use link::Link;

/// The name under which this host's part of consumers' names is kept.
const HOST: &str = "redis-host";
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_millis(700);

/// A stream as one consumer of a group sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    key: String,
    group: String,
    consumer: String,
}

/// The connection type `redis`.
#[derive(Debug)]
pub struct Redis;

impl ConnectionType for Redis {
    const NAME: &'static str = "redis";
    const ALIASES: &'static [&'static str] = &["redissub", "redispub"];
    const PROPERTIES: &'static [Property] = config::PROPERTIES;

    fn build(
        properties: &Properties,
        context: Context,
    ) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
        let config = Config::read(properties, &context.base)?;
        Ok(Arc::new(Connected {
            shared: Arc::new(Shared {
                window: Window::new(context.limits),
                config,
                context,
                takers: Arc::default(),
                again: Mutex::default(),
                made: Mutex::default(),
                useful: AtomicBool::new(false),
                host: OnceLock::new(),
                notes: Mutex::default(),
                noted: Notify::new(),
            }),
            uplink: Uplink::default(),
            link: tokio::sync::Mutex::new(None),
            closing: CancellationToken::new(),
        }))
    }
}

/// What outlives each link.
#[derive(Debug)]
struct Shared {
    config: Config,
    context: Context,
    takers: Arc<Interest<Wanted, Reading>>,
    /// Entries of streams that are not settled.
    window: Window<(Arc<Place>, String), ()>,
    /// Where entries were abandoned: they are to be read again.
    again: Mutex<BTreeSet<Arc<Place>>>,
    /// Whose groups were there when they were last looked for.
    made: Mutex<BTreeSet<Arc<Place>>>,
    /// The server has taken a message since this was last asked, or one came that nobody
    /// acknowledges.
    useful: AtomicBool,
    /// This host's part of the names of consumers.
    host: OnceLock<String>,
    /// What is not as it should be though the link works, by what it is about.
    notes: Mutex<BTreeMap<String, String>>,
    /// The notes have changed.
    noted: Notify,
}

impl Shared {
    /// Of takers of one stream as one consumer the first decides how it is read.
    fn odds(&self) -> impl Iterator<Item = String> {
        let all = self.takers.at_odds().into_iter();
        all.map(|(wanted, first, other)| {
            let name = match wanted {
                Wanted::Stream(group) => group.key,
                Wanted::Channel(name) | Wanted::Pattern(name) => name,
            };
            let names = first.differences(&other).join(", ");
            format!("the stream \"{name}\" is read as one consumer for several sources; as the first of them was started with other options, those of a later one have no effect: {names}")
        })
    }

    /// Takes or drops the note on a stream.
    fn note(&self, place: &Place, why: Option<String>) {
        let mut notes = self.notes.lock();
        match why {
            Some(why) => notes.insert(
                place.key.clone(),
                format!("the stream \"{}\" cannot be read: {why}", place.key),
            ),
            None => notes.remove(&place.key),
        };
        self.noted.notify_one();
    }

    /// A consumer's name where none is given: the same after a restart, and no other host's.
    fn consumer(&self) -> String {
        let host = self.host.get().map_or("", String::as_str);
        format!("windlass-{}-{host}", self.context.id)
    }

    /// Counts a message that went out.
    fn sent(&self, message: &Message) {
        self.context.traffic.sent(message.payload.len());
        self.useful.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Connected {
    shared: Arc<Shared>,
    uplink: Uplink<MultiplexedConnection>,
    link: tokio::sync::Mutex<Option<Link>>,
    /// Nothing drives the link any more.
    closing: CancellationToken,
}

impl Connected {
    /// This host's part of consumers' names, kept over restarts.
    async fn host(&self) -> Result<(), ConnectionError> {
        if self.shared.host.get().is_some() {
            return Ok(());
        }
        let host = self.shared.context.host_part(HOST).await?;
        self.shared.host.get_or_init(|| host);
        Ok(())
    }
}

#[async_trait]
impl Connection for Connected {
    async fn connect(&self) -> Result<(), ConnectionError> {
        let mut held = self.link.lock().await;
        *held = None;
        self.uplink.down();
        self.host().await?;
        let link = Link::dial(&self.shared).await?;
        self.shared.notes.lock().clear();
        self.uplink.up(Arc::new(link.connection.clone()));
        *held = Some(link);
        Ok(())
    }

    async fn lost(&self) -> ConnectionError {
        let mut held = self.link.lock().await;
        let Some(link) = held.as_mut() else {
            return ConnectionError::disconnected("closed", "there is no link");
        };
        let error = tokio::select! {
            biased;
            () = self.closing.cancelled() => {
                ConnectionError::disconnected("closed", "the connection was closed")
            }
            error = link.lost(&self.shared) => error,
        };
        *held = None;
        self.uplink.down();
        error
    }

    /// Acknowledges what is settled; Redis has no farewell that says more than the end of the link.
    async fn close(&self) {
        let connection = self.uplink.now();
        self.uplink.close();
        let farewell = async {
            if let Some(connection) = connection {
                let mut connection = (*connection).clone();
                link::acknowledge(&self.shared, &mut connection).await.ok();
            }
            self.closing.cancel();
            *self.link.lock().await = None;
        };
        if timeout(FAREWELL, farewell).await.is_err() {
            tracing::debug!(connection = %self.shared.context.id, "the link ended without a farewell");
        }
    }

    /// Logs in, and hangs up.
    async fn probe(&self) -> Result<(), ConnectionError> {
        link::open(&self.shared, self.shared.config.timeout, None)
            .await
            .map(drop)
    }

    fn dial_timeout(&self) -> Duration {
        let config = &self.shared.config;
        // The rest is for what says more than "too late".
        config.connect_timeout + config.timeout + Duration::from_secs(1)
    }

    fn was_useful(&self) -> bool {
        let published = self.shared.useful.swap(false, Ordering::Relaxed);
        self.shared.window.was_useful() || published
    }

    fn peer(&self) -> Option<String> {
        Some(self.shared.config.server.to_string())
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.shared.config.warnings.clone();
        warnings.extend(self.shared.notes.lock().values().cloned());
        warnings.extend(self.shared.odds());
        warnings
    }

    async fn warned(&self) {
        self.shared.noted.notified().await;
    }

    fn messaging(&self) -> Option<&dyn Messaging> {
        Some(self)
    }
}

#[async_trait]
impl Messaging for Connected {
    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        let wanted = asked::wanted(filters, options)?;
        Ok(self.shared.takers.add(wanted, inbox))
    }

    async fn publish(
        &self,
        batch: &Batch,
        options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        let manner = Manner::read(options)?;
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let connection = self.uplink.get().await?;
        let mut connection = (*connection).clone();
        publish::publish(&self.shared, &mut connection, batch, options, &manner).await
    }
}
