//! NATS: the connection type `nats`, over the library `async-nats`. Core subjects (at most once) and
//! JetStream (at least once: durable consumers, acknowledged when settled; publishes acknowledged by
//! the stream). The level decides: 0 is core, 1 and 2 are JetStream. Knows no rules; imports nothing
//! of the other types.

mod config;
mod consumers;
mod fault;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod jet;
mod link;
mod publish;
mod subject;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::{ServerError, Subject};
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::interest::Interest;
use super::uplink::Uplink;
use super::window::Window;
use super::{
    Carries, ConfigError, Connection, ConnectionType, Context, Inbox, Messaging, Properties,
    Property, PublishOptions, SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::message::{Batch, Rejection};
use config::Config;
use link::{Handle, Link};
use subject::{Making, Wanted};

/// The name under which this host's part of consumers' names is kept.
const HOST: &str = "nats-host";
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_millis(700);

/// What a delivery of JetStream is known by: consumer, place in the stream, time there.
type Key = (Arc<str>, u64, u64);

/// The connection type `nats`.
#[derive(Debug)]
pub struct Nats;

impl ConnectionType for Nats {
    const NAME: &'static str = "nats";
    const PROPERTIES: &'static [Property] = config::PROPERTIES;
    const MESSAGE_ID_HEADER: &'static str = "Nats-Msg-Id";
    const CARRIES: Option<Carries> = Some(publish::carries);

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
                served: Mutex::default(),
                consumers: consumers::Consumers::default(),
                uplink: Uplink::default(),
                unsure: publish::Unsure::default(),
                duplicates: AtomicU64::new(0),
                useful: AtomicBool::new(false),
                host: OnceLock::new(),
                notes: Mutex::default(),
                noted: Notify::new(),
            }),
            link: tokio::sync::Mutex::new(None),
            closing: CancellationToken::new(),
            server: AtomicUsize::new(0),
            peer: Mutex::new(None),
        }))
    }
}

/// What outlives each link.
#[derive(Debug)]
struct Shared {
    config: Config,
    context: Context,
    takers: Arc<Interest<Wanted, Making>>,
    /// Consumers that are or were there.
    consumers: consumers::Consumers,
    /// Consumers that are read over the present link.
    served: Mutex<BTreeSet<Arc<str>>>,
    /// Deliveries of JetStream that are not settled.
    window: Window<Key, Subject>,
    uplink: Uplink<Handle>,
    unsure: publish::Unsure,
    /// Messages that a stream had already, by their id, when they were sent for the first time.
    duplicates: AtomicU64,
    /// A stream has acknowledged a message since this was last asked, or one came that nobody
    /// acknowledges.
    useful: AtomicBool,
    /// This host's part of the names of consumers.
    host: OnceLock<String>,
    /// What is not as it should be though the link works, by what it is about.
    notes: Mutex<BTreeMap<String, String>>,
    /// The notes have changed.
    noted: Notify,
}

/// A consumer is read while this lives.
#[derive(Debug)]
struct Served<'a> {
    shared: &'a Shared,
    name: Arc<str>,
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.shared.served.lock().remove(&self.name);
    }
}

impl Shared {
    /// Marks a consumer as read; None: somebody reads it already.
    fn serve(&self, name: &Arc<str>) -> Option<Served<'_>> {
        let new = self.served.lock().insert(Arc::clone(name));
        new.then(|| Served {
            shared: self,
            name: Arc::clone(name),
        })
    }

    /// Of takers of one consumer the first decides how it is made.
    fn odds(&self) -> impl Iterator<Item = String> {
        let all = self.takers.at_odds().into_iter();
        all.map(|(wanted, first, other)| {
            let (Wanted::Core { subject, .. } | Wanted::Jet(subject::Jet { subject, .. })) = wanted;
            let names = first.differences(&other).join(", ");
            format!("\"{subject}\" is read over one consumer for several sources; as the first of them was started with other options, those of a later one have no effect: {names}")
        })
    }

    /// Takes or drops the note on something that is wanted.
    fn note(&self, wanted: &Wanted, why: Option<String>) {
        let (Wanted::Core { subject, .. } | Wanted::Jet(subject::Jet { subject, .. })) = wanted;
        let mut notes = self.notes.lock();
        match why {
            Some(why) => notes.insert(
                subject.clone(),
                format!("nothing arrives from \"{subject}\": {why}"),
            ),
            None => notes.remove(subject),
        };
        self.noted.notify_one();
    }

    /// The server may have refused a subscription, and whoever takes it is told, or a publish. True:
    /// that is what it said, and the link goes on.
    fn note_denied(&self, said: &ServerError) -> bool {
        let ServerError::Other(text) = said else {
            return false;
        };
        let lower = text.to_lowercase();
        if !lower.starts_with("permissions violation") {
            return false;
        }
        let quoted = text.split('"').nth(1).unwrap_or_default();
        if lower.contains("publish") {
            let note = format!("the server refuses what is published to \"{quoted}\"");
            // One for all subjects: there may be any number of them.
            self.notes.lock().insert("publish".to_owned(), note);
            self.noted.notify_one();
            return true;
        }
        for (wanted, _) in self.takers.wanted() {
            if matches!(&wanted, Wanted::Core { subject, .. } if subject == quoted) {
                for inbox in self.takers.of(&wanted) {
                    inbox.fail(ConnectionError::misconfigured(
                        "nats:permission",
                        format!("the server does not allow to subscribe to \"{quoted}\""),
                    ));
                }
            }
        }
        true
    }

    /// A stream has answered that it has a message already, which was sent for the first time here: the
    /// message is not in it a second time. Right where a sender's own id says so, and after a crash;
    /// else somebody gives one id to several messages, and the operator should know.
    fn note_duplicate(&self, stream: &str) {
        let count = self.duplicates.fetch_add(1, Ordering::Relaxed) + 1;
        if !count.is_power_of_two() {
            return;
        }
        let stream: String = stream.chars().take(100).collect();
        let note = format!(
            "the stream \"{stream}\" has not kept {count} messages, because it had some with the same {} already",
            Nats::MESSAGE_ID_HEADER
        );
        if count == 1 {
            tracing::warn!(connection = %self.context.id, "{note}");
        }
        self.notes.lock().insert("duplicates".to_owned(), note);
        self.noted.notify_one();
    }

    /// A consumer's name where none is given: the same after a restart, and no other host's.
    fn consumer_name(&self, subject: &str) -> String {
        let Context { tenant, id, .. } = &self.context;
        let host = self.host.get().map_or("", String::as_str);
        let hash = blake3::hash(format!("{tenant}/{id}/{host}/{subject}").as_bytes()).to_hex();
        let plain: String = id
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            .take(40)
            .collect();
        format!("windlass-{plain}-{}", hash.get(..12).unwrap_or_default())
    }
}

#[derive(Debug)]
struct Connected {
    shared: Arc<Shared>,
    link: tokio::sync::Mutex<Option<Link>>,
    /// Nothing drives the link any more.
    closing: CancellationToken,
    /// Which server is tried first.
    server: AtomicUsize,
    peer: Mutex<Option<String>>,
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

    async fn dial_any(&self) -> Result<Link, ConnectionError> {
        let servers = &self.shared.config.servers;
        let first = self.server.load(Ordering::Relaxed);
        let mut failure = ConnectionError::misconfigured("server", "no server is configured");
        for offset in 0..servers.len() {
            let place = (first + offset) % servers.len();
            let Some(endpoint) = servers.get(place) else {
                break;
            };
            *self.peer.lock() = Some(endpoint.to_string());
            match Link::dial(&self.shared, endpoint).await {
                Ok(link) => {
                    self.server.store(place, Ordering::Relaxed);
                    return Ok(link);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

#[async_trait]
impl Connection for Connected {
    async fn connect(&self) -> Result<(), ConnectionError> {
        let mut held = self.link.lock().await;
        *held = None;
        self.shared.uplink.down();
        self.host().await?;
        let mut link = self.dial_any().await?;
        link.subscribe(&self.shared).await?;
        self.shared.notes.lock().clear();
        self.shared.uplink.up(Arc::clone(&link.handle));
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
        self.shared.uplink.down();
        error
    }

    /// Acknowledges what is settled. The library's task ends with the last handle.
    async fn close(&self) {
        let handle = self.shared.uplink.now();
        self.shared.uplink.close();
        let farewell = async {
            if let Some(handle) = handle {
                for ended in self.shared.window.ended() {
                    if ended.settled {
                        let ack = async_nats::jetstream::AckKind::Ack;
                        jet::answer(&handle, ended.to, ack).await.ok();
                    }
                }
                handle.client.flush().await.ok();
            }
            self.closing.cancel();
            *self.link.lock().await = None;
        };
        if timeout(FAREWELL, farewell).await.is_err() {
            tracing::debug!(connection = %self.shared.context.id, "the link ended without a farewell");
        }
    }

    /// Logs in, and hangs up: a client of its own that subscribes to nothing.
    async fn probe(&self) -> Result<(), ConnectionError> {
        self.dial_any().await.map(drop)
    }

    fn dial_timeout(&self) -> Duration {
        let config = &self.shared.config;
        let servers = u32::try_from(config.servers.len()).unwrap_or(u32::MAX);
        // A name may have several addresses; the rest is for what says more than "too late".
        config
            .connect_timeout
            .saturating_mul(servers.saturating_add(1))
            .saturating_add(Duration::from_secs(2))
    }

    fn was_useful(&self) -> bool {
        let published = self.shared.useful.swap(false, Ordering::Relaxed);
        self.shared.window.was_useful() || published
    }

    fn peer(&self) -> Option<String> {
        self.peer.lock().clone()
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
        let wanted = subject::wanted(filters, options, self.shared.config.qos)?;
        Ok(self.shared.takers.add(wanted, inbox))
    }

    async fn publish(
        &self,
        batch: &Batch,
        options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        publish::check(options)?;
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let handle = self.shared.uplink.get().await?;
        publish::publish(&self.shared, &handle, batch, options).await
    }
}
