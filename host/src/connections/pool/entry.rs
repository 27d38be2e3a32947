//! One connection of the pool: what it is made from, what runs it, who uses it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::connections::registry::AnyConnectionType;
use crate::connections::secrets::Scrubber;
use crate::connections::status::{Event, Publisher};
use crate::connections::{
    ConfigError, Connection, Inbox, Messaging, Properties, SubscribeOptions, SubscriptionGuard,
    Traffic,
};
use crate::error::ConnectionError;

/// A connection that is built, with what it was built from. Not dialled yet.
pub(super) struct Made {
    /// As the user wrote it, when it is no known type; else the type's name.
    pub(super) typ: Arc<str>,
    /// None: a stored definition of a type that this program does not have.
    pub(super) kind: Option<&'static dyn AnyConnectionType>,
    pub(super) props: Properties,
    pub(super) connection: Arc<dyn Connection>,
    pub(super) claims: Claims,
    /// Told when nothing may be unsubscribed any more.
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) scrub: Arc<Scrubber>,
}

impl Made {
    /// Stands for a stored definition that cannot be built at present.
    pub(super) fn broken(
        typ: &str,
        kind: Option<&'static dyn AnyConnectionType>,
        props: Properties,
        mistakes: &[ConfigError],
    ) -> Self {
        let texts: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        Self {
            typ: typ.into(),
            kind,
            connection: Arc::new(Broken(texts.join("; "))),
            claims: Claims::default(),
            stopping: Arc::default(),
            scrub: Arc::new(Scrubber::new(
                &props,
                kind.map_or(&[], |kind| kind.properties()),
                Path::new(""),
            )),
            props,
        }
    }
}

/// What no two connections may both have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// Client and server, on the whole host.
    pub(super) identity: Option<String>,
    /// Within a tenant.
    pub(super) endpoint: Option<String>,
}

impl Claims {
    /// Both claim the same; `tenants` says whether they belong to the same one.
    pub(super) fn clash(&self, other: &Self, same_tenant: bool) -> bool {
        let both = |a: &Option<String>, b: &Option<String>| a.is_some() && a == b;
        both(&self.identity, &other.identity)
            || (same_tenant && both(&self.endpoint, &other.endpoint))
    }
}

/// The task that runs a connection, from outside.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) stop: CancellationToken,
    pub(super) replaced: CancellationToken,
    /// Cancelled when the task has ended, however it ended.
    pub(super) done: CancellationToken,
    pub(super) nudge: watch::Sender<u64>,
}

impl Life {
    pub(super) fn new() -> Self {
        Self {
            stop: CancellationToken::new(),
            replaced: CancellationToken::new(),
            done: CancellationToken::new(),
            nudge: watch::Sender::new(0),
        }
    }
}

/// A subscription made through the pool: enough to make it again on another connection.
struct Subscription {
    filters: Vec<String>,
    options: SubscribeOptions,
    inbox: Arc<Inbox>,
    /// None: the present connection refused it.
    guard: Option<Box<dyn SubscriptionGuard>>,
}

pub(super) struct Entry {
    pub(super) tenant: Arc<str>,
    pub(super) id: Arc<str>,
    pub(super) named: bool,
    pub(super) traffic: Arc<Traffic>,
    pub(super) status: Arc<Publisher>,
    /// Cancelled with the first subscription.
    pub(super) subscribed: CancellationToken,
    present: RwLock<Arc<dyn Connection>>,
    inner: Mutex<Inner>,
}

struct Inner {
    made: Made,
    life: Life,
    users: BTreeMap<u64, Arc<str>>,
    subscriptions: BTreeMap<u64, Subscription>,
    next: u64,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("tenant", &self.tenant)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Entry {
    pub(super) fn new(
        tenant: Arc<str>,
        id: Arc<str>,
        named: bool,
        traffic: Arc<Traffic>,
        made: Made,
    ) -> Self {
        Self {
            status: Arc::new(Publisher::new(format!("{tenant}/{id}").into())),
            tenant,
            id,
            named,
            traffic,
            subscribed: CancellationToken::new(),
            present: RwLock::new(Arc::clone(&made.connection)),
            inner: Mutex::new(Inner {
                made,
                life: Life::new(),
                users: BTreeMap::new(),
                subscriptions: BTreeMap::new(),
                next: 0,
            }),
        }
    }

    pub(super) fn present(&self) -> Arc<dyn Connection> {
        Arc::clone(&self.present.read())
    }

    pub(super) fn life(&self) -> Life {
        self.inner.lock().life.clone()
    }

    /// Type, its name, and the properties with their secrets.
    pub(super) fn definition(
        &self,
    ) -> (Option<&'static dyn AnyConnectionType>, Arc<str>, Properties) {
        let inner = self.inner.lock();
        (
            inner.made.kind,
            Arc::clone(&inner.made.typ),
            inner.made.props.clone(),
        )
    }

    pub(super) fn claims(&self) -> Claims {
        self.inner.lock().made.claims.clone()
    }

    pub(super) fn scrub(&self) -> Arc<Scrubber> {
        Arc::clone(&self.inner.lock().made.scrub)
    }

    /// Nothing is unsubscribed any more.
    pub(super) fn keep_filters(&self) {
        self.inner
            .lock()
            .made
            .stopping
            .store(true, Ordering::Release);
    }

    /// The users' names, in order, each once.
    pub(super) fn users(&self) -> Vec<String> {
        let inner = self.inner.lock();
        let mut users: Vec<_> = inner.users.values().map(|user| user.to_string()).collect();
        users.sort();
        users.dedup();
        users
    }

    pub(super) fn references(&self) -> usize {
        self.inner.lock().users.len()
    }

    pub(super) fn add_user(&self, user: &str) -> u64 {
        let mut inner = self.inner.lock();
        inner.next += 1;
        let token = inner.next;
        inner.users.insert(token, user.into());
        token
    }

    /// True: that was the last one.
    pub(super) fn remove_user(&self, token: u64) -> bool {
        let mut inner = self.inner.lock();
        inner.users.remove(&token).is_some() && inner.users.is_empty()
    }

    /// Puts another connection in the place of the present one and makes all subscriptions again on
    /// it. The old one keeps its guards until its link is closed, so that nothing which still
    /// arrives finds no taker: they are handed out, with what ends the old one.
    pub(super) fn swap(&self, made: Made) -> (Life, Vec<Box<dyn SubscriptionGuard>>) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.made.stopping.store(true, Ordering::Release);
        let mut guards = Vec::new();
        for subscription in inner.subscriptions.values_mut() {
            guards.extend(subscription.guard.take());
            let Subscription {
                filters,
                options,
                inbox,
                guard,
            } = subscription;
            match subscribe(&*made.connection, filters, options, Arc::clone(inbox)) {
                Ok(made) => *guard = Some(made),
                Err(error) => inbox.fail(error),
            }
        }
        let old = std::mem::replace(&mut inner.life, Life::new());
        *self.present.write() = Arc::clone(&made.connection);
        old.replaced.cancel();
        self.status
            .publish(&Event::Replaced, &*made.connection, &made.scrub);
        inner.made = made;
        old.stop.cancel();
        (old, guards)
    }

    pub(super) fn subscribe(
        self: &Arc<Self>,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        let mut inner = self.inner.lock();
        let guard = subscribe(
            &*inner.made.connection,
            filters,
            options,
            Arc::clone(&inbox),
        )?;
        inner.next += 1;
        let key = inner.next;
        let subscription = Subscription {
            filters: filters.to_vec(),
            options: options.clone(),
            inbox,
            guard: Some(guard),
        };
        inner.subscriptions.insert(key, subscription);
        drop(inner);
        self.subscribed.cancel();
        Ok(Box::new(PooledSubscription {
            entry: Arc::clone(self),
            key,
        }))
    }
}

fn subscribe(
    connection: &dyn Connection,
    filters: &[String],
    options: &SubscribeOptions,
    inbox: Arc<Inbox>,
) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
    let messaging: &dyn Messaging = connection.messaging().ok_or_else(|| {
        ConnectionError::misconfigured(
            "interface",
            "this connection has no messages to subscribe to",
        )
    })?;
    messaging.subscribe(filters, options, inbox)
}

/// Ends one subscription on whatever connection it is at that time.
#[derive(Debug)]
struct PooledSubscription {
    entry: Arc<Entry>,
    key: u64,
}

impl SubscriptionGuard for PooledSubscription {}

impl Drop for PooledSubscription {
    fn drop(&mut self) {
        let removed = self.entry.inner.lock().subscriptions.remove(&self.key);
        // The guard's own end may take locks of the connection: outside of ours.
        drop(removed);
    }
}

/// Stands in the place of a connection whose definition cannot be built: it never connects.
#[derive(Debug)]
struct Broken(String);

impl Broken {
    fn error(&self) -> ConnectionError {
        ConnectionError::misconfigured("config", "this connection's configuration cannot work")
            .caused_by(self.0.clone())
    }
}

#[async_trait]
impl Connection for Broken {
    async fn connect(&self) -> Result<(), ConnectionError> {
        Err(self.error())
    }
    async fn lost(&self) -> ConnectionError {
        self.error()
    }
    async fn close(&self) {}
}
