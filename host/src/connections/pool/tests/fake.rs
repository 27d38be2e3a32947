//! A connection type whose far end is a script: switchable while connections run.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;
use crate::connections::properties::Reader;
use crate::connections::registry::{AnyConnectionType, Erased};
use crate::connections::{
    Connection, ConnectionType, Context, Inbox, Messaging, Property, PublishOptions,
    SubscribeOptions, SubscriptionGuard,
};
use crate::message::{Batch, Rejection};

/// What the far end does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Up,
    Refuse,
    Deny,
    Hang,
    AcceptAndClose,
    Misconfigured,
    Panic,
}

/// The number of the connection that subscribed, its filters, its inbox.
type Taker = (usize, Vec<String>, Arc<Inbox>);

/// One far end, found by the property `server`.
#[derive(Debug)]
pub(crate) struct Far {
    pub(crate) mode: watch::Sender<Mode>,
    pub(crate) dials: Mutex<Vec<Instant>>,
    pub(crate) open: AtomicUsize,
    pub(crate) most_open: AtomicUsize,
    pub(crate) closes: AtomicUsize,
    pub(crate) built: AtomicUsize,
    pub(crate) unsubscribed: AtomicUsize,
    pub(crate) takers: Mutex<HashMap<usize, Taker>>,
    next: AtomicUsize,
}

static FARS: LazyLock<Mutex<HashMap<String, Arc<Far>>>> = LazyLock::new(Mutex::default);

/// The far end of that name.
pub(crate) fn far(server: &str) -> Arc<Far> {
    let mut fars = FARS.lock();
    Arc::clone(fars.entry(server.to_owned()).or_insert_with(|| {
        Arc::new(Far {
            mode: watch::Sender::new(Mode::Up),
            dials: Mutex::default(),
            open: AtomicUsize::default(),
            most_open: AtomicUsize::default(),
            closes: AtomicUsize::default(),
            built: AtomicUsize::default(),
            unsubscribed: AtomicUsize::default(),
            takers: Mutex::default(),
            next: AtomicUsize::default(),
        })
    }))
}

#[derive(Debug)]
pub(crate) struct Fake {
    far: Arc<Far>,
    number: usize,
    peer: String,
    password: String,
    persistent: bool,
    up: AtomicBool,
    stopping: Arc<AtomicBool>,
}

impl ConnectionType for Fake {
    const NAME: &'static str = "fake";
    const ALIASES: &'static [&'static str] = &["phony"];
    const PROPERTIES: &'static [Property] = &[
        Property::plain("server"),
        Property::plain("clientid"),
        Property::plain("endpoint"),
        Property::plain("persistent"),
        Property::secret("password"),
    ];

    fn build(
        properties: &Properties,
        context: Context,
    ) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
        use secrecy::ExposeSecret;
        let mut reader = Reader::new(properties, Self::PROPERTIES, &context.base);
        let server = reader.required_string("server");
        let persistent = reader.bool("persistent").unwrap_or(false);
        reader.string("clientid");
        reader.string("endpoint");
        let password = reader
            .secret("password")
            .map(|p| p.expose_secret().to_owned())
            .unwrap_or_default();
        reader.finish()?;
        let far = far(&server);
        let number = far.built.fetch_add(1, Ordering::Relaxed);
        let stopping = context.stopping;
        let up = AtomicBool::new(false);
        Ok(Arc::new(Self {
            far,
            number,
            peer: server,
            password,
            persistent,
            up,
            stopping,
        }))
    }

    fn exclusive_endpoint(properties: &Properties) -> Option<String> {
        Some(properties.get("endpoint")?.as_str()?.to_owned())
    }

    fn identity(properties: &Properties) -> Option<String> {
        let client = properties.get("clientid")?.as_str()?;
        Some(format!("{} {client}", properties.get("server")?.as_str()?))
    }
}

/// An open link; the far end sees it go whatever way it goes.
struct Link<'a>(&'a Fake);

impl Drop for Link<'_> {
    fn drop(&mut self) {
        if self.0.up.swap(false, Ordering::Relaxed) {
            self.0.far.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[async_trait]
impl Connection for Fake {
    async fn connect(&self) -> Result<(), ConnectionError> {
        self.far.dials.lock().push(Instant::now());
        let mode = *self.far.mode.borrow();
        // Dialling takes a moment.
        tokio::time::sleep(Duration::from_millis(2)).await;
        match mode {
            Mode::Up | Mode::AcceptAndClose => {
                self.up.store(true, Ordering::Relaxed);
                let open = self.far.open.fetch_add(1, Ordering::Relaxed) + 1;
                self.far.most_open.fetch_max(open, Ordering::Relaxed);
                Ok(())
            }
            Mode::Refuse => {
                let words = format!("{} refused {}", self.peer, self.password);
                Err(
                    ConnectionError::disconnected("refused", "cannot reach the server")
                        .caused_by(words),
                )
            }
            Mode::Deny => Err(ConnectionError::disconnected("denied", "not authorised").slow()),
            Mode::Hang => std::future::pending().await,
            Mode::Misconfigured => Err(ConnectionError::misconfigured("config", "never works")),
            Mode::Panic => panic!("a defect"),
        }
    }

    async fn lost(&self) -> ConnectionError {
        let _link = Link(self);
        let mut mode = self.far.mode.subscribe();
        drop(mode.wait_for(|mode| *mode != Mode::Up).await);
        ConnectionError::disconnected("closed", "the server hung up")
    }

    async fn close(&self) {
        // A goodbye takes a moment, and the link is open until it is said.
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(Link(self));
        self.far.closes.fetch_add(1, Ordering::Relaxed);
    }

    fn waits_for_takers(&self) -> bool {
        self.persistent
    }
    fn peer(&self) -> Option<String> {
        Some(self.peer.clone())
    }
    fn messaging(&self) -> Option<&dyn Messaging> {
        Some(self)
    }
}

#[derive(Debug)]
struct Guard {
    far: Arc<Far>,
    key: usize,
    stopping: Arc<AtomicBool>,
}

impl SubscriptionGuard for Guard {}

impl Drop for Guard {
    fn drop(&mut self) {
        self.far.takers.lock().remove(&self.key);
        if !self.stopping.load(Ordering::Acquire) {
            self.far.unsubscribed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[async_trait]
impl Messaging for Fake {
    fn subscribe(
        &self,
        filters: &[String],
        _options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        let key = self.far.next.fetch_add(1, Ordering::Relaxed);
        self.far
            .takers
            .lock()
            .insert(key, (self.number, filters.to_vec(), inbox));
        Ok(Box::new(Guard {
            far: Arc::clone(&self.far),
            key,
            stopping: Arc::clone(&self.stopping),
        }))
    }
    async fn publish(
        &self,
        _batch: &Batch,
        _options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        Ok(Vec::new())
    }
}

#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Memory for Nothing {
    async fn get(&self, _name: &str) -> Result<Option<String>, ConnectionError> {
        Ok(None)
    }
    async fn put(&self, _name: &str, _value: &str) -> Result<(), ConnectionError> {
        Ok(())
    }
}

impl Refused for Nothing {
    fn refused(&self, _subject: &str, _head: bytes::Bytes, _reason: &ConnectionError) {}
}

impl Surroundings for Nothing {
    fn memory(&self, _tenant: &str, _id: &str) -> Arc<dyn Memory> {
        Arc::new(Self)
    }
    fn refused(&self, _tenant: &str, _id: &str) -> Arc<dyn Refused> {
        Arc::new(Self)
    }
}

/// A context for a connection under test.
pub(crate) fn context(tenant: &str, id: &str) -> Context {
    Context {
        tenant: tenant.into(),
        id: id.into(),
        base: PathBuf::from("/"),
        memory: Arc::new(Nothing),
        stopping: Arc::default(),
        booting: Arc::default(),
        traffic: Arc::default(),
        refused: Arc::new(Nothing),
        limits: Limits::default(),
        port: crate::connections::dataport::DataPort::default(),
    }
}

/// The same under another name.
pub(crate) struct Other;

impl ConnectionType for Other {
    const NAME: &'static str = "other";
    const PROPERTIES: &'static [Property] = Fake::PROPERTIES;
    fn build(
        properties: &Properties,
        context: Context,
    ) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
        Fake::build(properties, context)
    }
}

const TYPES: &[&dyn AnyConnectionType] = &[&Erased::<Fake>::NEW, &Erased::<Other>::NEW];

/// A pool on the test's own runtime, its takers known.
pub(crate) fn pool() -> Pool {
    let pool = booting_pool();
    pool.takers_known();
    pool
}

pub(crate) fn booting_pool() -> Pool {
    Pool::new(PoolConfig {
        runtime: Handle::current(),
        registry: Registry::of(TYPES),
        surroundings: Arc::new(Nothing),
        base: PathBuf::from("/"),
        files: None,
        limits: Limits::default(),
        backoff: Backoff::default(),
        port: crate::connections::dataport::DataPort::default(),
    })
}
