//! MQTT 3.1, 3.1.1 and 5: the connection type `mqtt`. The session is a state machine of our own
//! (`session/`) over the packet codec of `rumqttc`; `link.rs` moves its bytes. Knows no wasm and no
//! rules; imports nothing of the other types.

mod codec;
mod config;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod link;
mod messaging;
mod pace;
mod packet;
mod reason;
mod session;
mod shared;
mod topic;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::transport::{self, Dial, Endpoint};
use super::{ConfigError, Connection, ConnectionType, Context, Messaging, Properties, Property};
use crate::error::ConnectionError;
use config::Config;
use link::Link;
use packet::Version;
use shared::{Shared, Up};

/// The name under which the client id made by the host is kept.
const CLIENT_ID: &str = "client-id";
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_millis(700);

/// The connection type `mqtt`.
#[derive(Debug)]
pub struct Mqtt;

impl ConnectionType for Mqtt {
    const NAME: &'static str = "mqtt";
    const PROPERTIES: &'static [Property] = config::PROPERTIES;

    fn build(
        properties: &Properties,
        context: Context,
    ) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
        let config = Config::read(properties, &context.base)?;
        Ok(Arc::new(Connected::new(config, context)))
    }

    fn identity(properties: &Properties) -> Option<String> {
        config::identity(properties)
    }
}

/// One MQTT connection: the session, which lives as long as this does, and the link that is there
/// now.
#[derive(Debug)]
struct Connected {
    shared: Arc<Shared>,
    link: tokio::sync::Mutex<Option<Link>>,
    /// What an earlier process kept has been read.
    restored: AtomicBool,
    /// Which server is tried first.
    server: AtomicUsize,
    peer: Mutex<Option<String>>,
    /// A taker wants level 1 or 2 of a session that the broker forgets.
    lossy: AtomicBool,
    /// What the last probe was told of the broker.
    probed: Mutex<Vec<String>>,
}

impl Connected {
    fn new(config: Config, context: Context) -> Self {
        Self {
            shared: Arc::new(Shared::new(config, context)),
            link: tokio::sync::Mutex::new(None),
            restored: AtomicBool::new(false),
            server: AtomicUsize::new(0),
            peer: Mutex::new(None),
            lossy: AtomicBool::new(false),
            probed: Mutex::default(),
        }
    }

    /// The same way to the same broker as a client that it has never met and shall not remember: an
    /// id of its own, a clean session, no will. It has no takers, and counts apart.
    fn stranger(&self) -> Self {
        let mut config = self.shared.config.clone();
        config.client_id = None;
        config.persistent = false;
        config.session_expiry = 0;
        config.will = None;
        let context = Context {
            traffic: Arc::default(),
            ..self.shared.context.clone()
        };
        Self::new(config, context)
    }

    /// What an earlier process kept, once. Without it nothing may be dialled: packet ids that may be open
    /// would be used again, and filters of the broker's session would be unknown.
    async fn restore(&self) -> Result<(), ConnectionError> {
        if !self.shared.config.persistent || self.restored.load(Ordering::Acquire) {
            return Ok(());
        }
        let memory = &self.shared.context.memory;
        let filters = memory
            .get("filters")
            .await?
            .and_then(|text| serde_json::from_str(&text).ok());
        let ids = memory.get("qos2-ids").await?.and_then(|text| {
            let (low, high) = text.split_once(' ')?;
            Some((low.parse().ok()?, high.parse().ok()?))
        });
        self.shared.session.lock().restore(filters, ids);
        self.restored.store(true, Ordering::Release);
        Ok(())
    }

    /// The identifier towards the broker. A persistent session always has the same.
    async fn client_id(&self) -> Result<String, ConnectionError> {
        let Config {
            client_id,
            persistent,
            version,
            ..
        } = &self.shared.config;
        if let Some(id) = client_id {
            return Ok(id.clone());
        }
        if !persistent {
            return Ok(made_id(*version, &self.shared.context, rand::random()));
        }
        let memory = &self.shared.context.memory;
        if let Some(id) = memory.get(CLIENT_ID).await? {
            return Ok(id);
        }
        let id = made_id(*version, &self.shared.context, rand::random());
        // Not kept, it would be another one after a restart, and the session with its messages lost.
        memory.put(CLIENT_ID, &id).await?;
        Ok(id)
    }

    async fn dial(&self, endpoint: &Endpoint) -> Result<Link, ConnectionError> {
        let config = &self.shared.config;
        let client_id = self.client_id().await?;
        let password = config.password()?;
        let login = match (&config.username, &password) {
            (None, None) => None,
            (name, password) => Some((
                name.as_deref().unwrap_or(""),
                password.as_deref().unwrap_or(""),
            )),
        };
        let connect = codec::Connect {
            client_id: &client_id,
            clean: !config.persistent,
            keep_alive: config.keep_alive,
            login,
            will: config.will.as_ref(),
            session_expiry: config.session_expiry,
            receive_max: config.receive_maximum,
            topic_aliases: session::TOPIC_ALIASES,
        };
        let mut bytes = BytesMut::new();
        codec::connect(config.version, &connect, &mut bytes).map_err(|error| {
            ConnectionError::misconfigured("connect", "CONNECT cannot be written").caused_by(error)
        })?;
        let keep_alive = Duration::from_secs(u64::from(config.keep_alive));
        let how = Dial {
            tls: &config.tls,
            alpn: &[],
            websocket_protocol: if config.version == Version::V31 {
                "mqttv3.1"
            } else {
                "mqtt"
            },
            websocket_limit: self
                .shared
                .context
                .limits
                .max_message_bytes
                .saturating_add(64 * 1024),
            user_timeout: (!keep_alive.is_zero()).then(|| keep_alive.mul_f32(1.4)),
            probe: None,
        };
        let attempt = async {
            let stream = transport::dial(endpoint, &how).await?;
            let mut link = Link::new(stream, Arc::clone(&self.shared), bytes);
            link.accepted().await?;
            Ok::<_, ConnectionError>(link)
        };
        match timeout(config.connect_timeout, attempt).await {
            Ok(result) => result,
            Err(_) => Err(ConnectionError::disconnected(
                "timeout",
                "the broker does not answer",
            )),
        }
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
            match self.dial(endpoint).await {
                Ok(link) => {
                    self.server.store(place, Ordering::Relaxed);
                    return Ok(link);
                }
                Err(error) => {
                    self.shared.down(false);
                    tracing::debug!(connection = %self.shared.context.id, error = %error.report(), "attempt failed");
                    failure = error;
                }
            }
        }
        Err(failure)
    }
}

/// `windlass-<connection>-<8 hex digits>`; for version 3.1, which allows 23 characters, a hash.
fn made_id(version: Version, context: &Context, host: u32) -> String {
    let name = format!("{}/{}/{host:08x}", context.tenant, context.id);
    let hash = blake3::hash(name.as_bytes()).to_hex();
    if version == Version::V31 {
        return format!("wl{}", hash.get(..20).unwrap_or_default());
    }
    let plain: String = context
        .id
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .take(40)
        .collect();
    format!("windlass-{plain}-{}", hash.get(..8).unwrap_or_default())
}

/// Ends the link of an attempt that is dropped half way.
struct Unfinished<'a>(Option<&'a Shared>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.down(false);
        }
    }
}

#[async_trait]
impl Connection for Connected {
    async fn connect(&self) -> Result<(), ConnectionError> {
        let mut held = self.link.lock().await;
        *held = None;
        self.shared.closing.store(false, Ordering::Release);
        self.shared.down(false);
        let mut outcomes = Vec::new();
        self.shared.settled.fetch(&mut outcomes);
        {
            let mut session = self.shared.session.lock();
            session.outcomes(&outcomes);
            session.has_room()?;
        }
        self.restore().await?;
        let mut unfinished = Unfinished(Some(&self.shared));
        let mut link = self.dial_any().await?;
        match timeout(self.shared.config.connect_timeout, link.subscribed()).await {
            Ok(result) => result?,
            Err(_) => {
                return Err(ConnectionError::disconnected(
                    "timeout",
                    "the broker does not answer a SUBSCRIBE",
                ));
            }
        }
        unfinished.0 = None;
        *held = Some(link);
        self.shared.up.send_replace(Up::Yes);
        Ok(())
    }

    async fn lost(&self) -> ConnectionError {
        let mut held = self.link.lock().await;
        let Some(link) = held.as_mut() else {
            return ConnectionError::disconnected("closed", "there is no link");
        };
        let error = link.lost().await;
        if !self.shared.closing.load(Ordering::Acquire) {
            *held = None;
            self.shared.down(false);
        }
        error
    }

    async fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.wake();
        let farewell = async {
            let mut held = self.link.lock().await;
            if let Some(mut link) = held.take() {
                link.farewell().await;
            }
        };
        if timeout(FAREWELL, farewell).await.is_err() {
            tracing::debug!(connection = %self.shared.context.id, "the link ended without a farewell");
        }
        self.shared.down(true);
    }

    /// CONNECT, CONNACK, DISCONNECT as a stranger to the broker: a client that runs under the
    /// configured id, here or elsewhere, keeps its link, its session and what is queued for it.
    async fn probe(&self) -> Result<(), ConnectionError> {
        let stranger = self.stranger();
        let dialled = stranger.dial_any().await;
        if *self.shared.up.borrow() != Up::Yes {
            *self.peer.lock() = stranger.peer();
        }
        let mut link = dialled?;
        *self.probed.lock() = stranger.shared.session.lock().warnings();
        if timeout(FAREWELL, link.farewell()).await.is_err() {
            tracing::debug!(connection = %self.shared.context.id, "a probe ended without a farewell");
        }
        Ok(())
    }

    /// Each server may use up its time, then the SUBSCRIBE; the rest is for what says more than
    /// "too late".
    fn dial_timeout(&self) -> Duration {
        let config = &self.shared.config;
        let steps = u32::try_from(config.servers.len()).unwrap_or(u32::MAX);
        config
            .connect_timeout
            .saturating_mul(steps.saturating_add(1))
            .saturating_add(Duration::from_secs(1))
    }

    fn waits_for_takers(&self) -> bool {
        self.shared.config.persistent
    }

    fn was_useful(&self) -> bool {
        self.shared.session.lock().was_useful()
    }

    fn peer(&self) -> Option<String> {
        self.peer.lock().clone()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.shared.config.warnings.clone();
        if self.lossy.load(Ordering::Relaxed) {
            warnings.push(
                "messages of level 1 and 2 are lost while the connection is away: enableClientSession is not set".to_owned(),
            );
        }
        warnings.extend(self.shared.session.lock().warnings());
        for warning in &*self.probed.lock() {
            if !warnings.contains(warning) {
                warnings.push(warning.clone());
            }
        }
        warnings
    }

    fn messaging(&self) -> Option<&dyn Messaging> {
        Some(self)
    }
}
