//! What all handles of a pool share: the table, the tasks, the gate; and the starting and ending of
//! connections, the only places that spawn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::entry::{Claims, Entry, Life, Made};
use super::{PoolConfig, PoolError};
use crate::connections::registry::AnyConnectionType;
use crate::connections::secrets::Scrubber;
use crate::connections::status::{Event, StatusChange};
use crate::connections::supervisor::{DialGate, Supervisor};
use crate::connections::{
    ConfigError, Connection, Context, Properties, SubscriptionGuard, Traffic,
};

/// How long takers are awaited once all rules have been started.
const BOOT: Duration = Duration::from_secs(60);
/// How long an anonymous connection with a persistent session waits for its source to subscribe.
/// A sink never does: it must not wait longer than a publish does.
const FIRST_TAKER: Duration = Duration::from_secs(2);

/// Changes of status that a slow listener may be behind.
const CHANGES: usize = 4096;

/// Tenant and id.
pub(super) type Key = (Arc<str>, Arc<str>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: PoolConfig,
    pub(super) table: Mutex<Table>,
    tasks: Mutex<JoinSet<()>>,
    pub(super) boot: Boot,
    pub(super) stopped: CancellationToken,
    pub(super) bus: crate::connections::memory::Bus,
    /// Changes of all that are listed.
    pub(super) changes: broadcast::Sender<StatusChange>,
}

/// All connections, and those that are still closing.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) entries: BTreeMap<Key, Arc<Entry>>,
    closing: Vec<Closing>,
}

#[derive(Debug)]
struct Closing {
    key: Key,
    claims: Claims,
    done: CancellationToken,
}

/// When the takers of persistent sessions are known.
#[derive(Clone, Debug)]
pub(super) struct Boot {
    known: CancellationToken,
    /// They are not; sessions that were dialled all the same heed it.
    booting: Arc<AtomicBool>,
    /// So long they are awaited. None: rules are still being started, connectors compiled.
    until: watch::Sender<Option<Instant>>,
}

impl Boot {
    fn new() -> Self {
        Self {
            known: CancellationToken::new(),
            booting: Arc::new(AtomicBool::new(true)),
            until: watch::channel(None).0,
        }
    }

    pub(super) fn rules_started(&self) {
        self.until.send_replace(Some(Instant::now() + BOOT));
    }

    pub(super) fn takers_known(&self) {
        self.booting.store(false, Ordering::Release);
        self.known.cancel();
    }

    pub(super) fn awaits(&self) -> bool {
        let in_time = |until: Instant| Instant::now() < until;
        !self.known.is_cancelled() && self.until.borrow().is_none_or(in_time)
    }

    async fn time_is_up(&self) {
        let mut until = self.until.subscribe();
        // The sender lives in self: it cannot be closed while this runs.
        let known = until.wait_for(Option::is_some).await;
        let at = known.ok().and_then(|until| *until);
        match at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// "May I dial?" of one connection.
#[derive(Debug)]
struct Gate {
    boot: Boot,
    /// Of an anonymous connection: its first subscription.
    subscribed: Option<CancellationToken>,
}

#[async_trait]
impl DialGate for Gate {
    fn insists(&self) -> bool {
        self.boot.awaits()
    }

    fn holds(&self, connection: &dyn Connection) -> bool {
        let untaken = self
            .subscribed
            .as_ref()
            .is_some_and(|first| !first.is_cancelled());
        connection.waits_for_takers() && (self.boot.awaits() || untaken)
    }

    async fn open(&self) {
        // Either the takers are known or the time is up: both open it.
        if !self.boot.known.is_cancelled() {
            tokio::select! {
                () = self.boot.known.cancelled() => {}
                () = self.boot.time_is_up() => {}
            }
        } else if let Some(first) = &self.subscribed {
            timeout(FIRST_TAKER, first.cancelled()).await.ok();
        }
    }
}

impl Shared {
    pub(super) fn new(config: PoolConfig) -> Self {
        Self {
            config,
            table: Mutex::default(),
            tasks: Mutex::new(JoinSet::new()),
            boot: Boot::new(),
            stopped: CancellationToken::new(),
            bus: crate::connections::memory::Bus::default(),
            changes: broadcast::channel(CHANGES).0,
        }
    }

    pub(super) fn context(
        &self,
        tenant: &Arc<str>,
        id: &Arc<str>,
        traffic: &Arc<Traffic>,
    ) -> Context {
        Context {
            tenant: Arc::clone(tenant),
            id: Arc::clone(id),
            base: self.config.base.clone(),
            memory: self.config.surroundings.memory(tenant, id),
            stopping: Arc::default(),
            booting: Arc::clone(&self.boot.booting),
            traffic: Arc::clone(traffic),
            refused: self.config.surroundings.refused(tenant, id),
            limits: self.config.limits,
            port: self.config.port.clone(),
        }
    }

    /// Builds a connection. Touches no network and no table.
    pub(super) fn make(
        &self,
        kind: &'static dyn AnyConnectionType,
        props: Properties,
        context: Context,
    ) -> Result<Made, Vec<ConfigError>> {
        let stopping = Arc::clone(&context.stopping);
        let connection = kind.build(&props, context)?;
        let name = kind.name();
        let endpoint = kind.exclusive_endpoint(&props);
        Ok(Made {
            typ: name.into(),
            kind: Some(kind),
            claims: Claims {
                identity: kind
                    .identity(&props)
                    .map(|identity| format!("{name} {identity}")),
                endpoint: endpoint.map(|endpoint| format!("{name} {endpoint}")),
            },
            scrub: Arc::new(Scrubber::new(&props, kind.properties(), &self.config.base)),
            connection,
            stopping,
            props,
        })
    }

    /// Enters a connection and begins to dial it.
    pub(super) fn enter(
        self: &Arc<Self>,
        table: &mut Table,
        entry: &Arc<Entry>,
    ) -> Result<(), PoolError> {
        if self.stopped.is_cancelled() {
            return Err(PoolError::Stopping);
        }
        let key = (Arc::clone(&entry.tenant), Arc::clone(&entry.id));
        if table.entries.contains_key(&key) {
            return Err(PoolError::Exists(entry.id.to_string()));
        }
        table.admit(&entry.tenant, None, &entry.claims())?;
        let first = table.before(&key, &entry.claims());
        table.entries.insert(key, Arc::clone(entry));
        entry.status.tell(&entry.tenant, &entry.id, &self.changes);
        self.start(entry, first, Vec::new());
        Ok(())
    }

    /// Starts the task of an entry's present connection, once those before it have ended.
    pub(super) fn start(
        self: &Arc<Self>,
        entry: &Entry,
        first: Vec<CancellationToken>,
        guards: Vec<Box<dyn SubscriptionGuard>>,
    ) {
        let Life {
            stop,
            replaced,
            done,
            nudge,
        } = entry.life();
        let supervisor = Supervisor {
            connection: entry.present(),
            status: Arc::clone(&entry.status),
            scrub: entry.scrub(),
            gate: Arc::new(Gate {
                boot: self.boot.clone(),
                subscribed: (!entry.named).then(|| entry.subscribed.clone()),
            }),
            backoff: self.config.backoff,
            stop,
            replaced,
            nudge: nudge.subscribe(),
        };
        let task = async move {
            let done = done.drop_guard();
            for other in first {
                other.cancelled().await;
            }
            drop(guards);
            supervisor.run().await;
            drop(done);
        };
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.config.runtime);
    }

    /// Takes an entry out of the table and ends its task.
    pub(super) fn leave(table: &mut Table, entry: &Entry) {
        let key = (Arc::clone(&entry.tenant), Arc::clone(&entry.id));
        table.entries.remove(&key);
        let life = entry.life();
        life.stop.cancel();
        table.closing.retain(|closing| !closing.done.is_cancelled());
        table.closing.push(Closing {
            key,
            claims: entry.claims(),
            done: life.done,
        });
    }

    pub(super) fn give_back(&self, entry: &Arc<Entry>, token: u64) {
        let mut table = self.table.lock();
        let last = entry.remove_user(token);
        let key = (Arc::clone(&entry.tenant), Arc::clone(&entry.id));
        // An attached connection is not in the table and just ends.
        let listed = table
            .entries
            .get(&key)
            .is_some_and(|listed| Arc::ptr_eq(listed, entry));
        if last && listed && !entry.named {
            Self::leave(&mut table, entry);
        }
    }

    /// Ends all tasks; those that do not end in time are cut off.
    pub(super) async fn stop(&self, limit: Duration) {
        self.stopped.cancel();
        let entries: Vec<_> = self.table.lock().entries.values().cloned().collect();
        entries.iter().for_each(|entry| entry.keep_filters());
        for entry in &entries {
            entry.life().stop.cancel();
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout(limit, all).await.is_err() {
            tracing::warn!(left = tasks.len(), "connections did not close in time");
            tasks.shutdown().await;
        }
        for entry in &entries {
            entry
                .status
                .publish(&Event::Closed, &*entry.present(), &entry.scrub());
        }
    }

    /// Tasks that have not ended.
    pub(super) fn tasks(&self) -> usize {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.len()
    }
}

impl Table {
    /// No connection but `except` claims what these claims are.
    pub(super) fn admit(
        &self,
        tenant: &Arc<str>,
        except: Option<&Arc<Entry>>,
        claims: &Claims,
    ) -> Result<(), PoolError> {
        let clash = self
            .clash(tenant, claims)
            .filter(|other| !except.is_some_and(|one| Arc::ptr_eq(one, other)));
        match clash {
            None => Ok(()),
            Some(other) => {
                let other = (other.tenant == *tenant).then(|| other.id.to_string());
                Err(PoolError::SameClient { other })
            }
        }
    }

    /// A connection with the same claims.
    pub(super) fn clash(&self, tenant: &Arc<str>, claims: &Claims) -> Option<&Arc<Entry>> {
        self.entries
            .values()
            .find(|entry| entry.claims().clash(claims, entry.tenant == *tenant))
    }

    /// What must end before a connection with this key and these claims may begin.
    fn before(&mut self, key: &Key, claims: &Claims) -> Vec<CancellationToken> {
        self.closing.retain(|closing| !closing.done.is_cancelled());
        let same = |closing: &&Closing| {
            closing.key == *key || closing.claims.clash(claims, closing.key.0 == key.0)
        };
        self.closing
            .iter()
            .filter(same)
            .map(|closing| closing.done.clone())
            .collect()
    }
}
