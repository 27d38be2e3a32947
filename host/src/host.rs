//! All of it: builds store, pool, runtime and engine from a configuration, runs them, and stops them
//! in order. The only place that knows every room.

mod refused;
pub mod schema;
mod serving;
pub mod trial;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::catalog::{connection_row, disk_row, letters_row};
use crate::config::{HostLimits, Manifest, ManifestError, Push};
use crate::connections::backoff::Backoff;
pub use crate::connections::dataport::ADDRESS as PUSH_ADDRESS;
use crate::connections::dataport::{self, DataPort};
use crate::connections::pool::{ConnectionDef, Pool, PoolConfig, Surroundings};
use crate::connections::registry::Registry;
use crate::connections::{Limits, Memory, Refused};
use crate::error::{ConnectionError, chain};
use crate::progress::Progress;
use crate::rules::engine::{Engine, Parts, TENANT};
use crate::rules::letters::Letters;
use crate::rules::plan::{self, Plan};
use crate::rules::resend::Resender;
use crate::rules::spill::{HostBounds, SpillSet};
use crate::runtime::{GuestLimits, LoadError, Runtime, RuntimeConfig};
use crate::snapshot::{Change, Checked, Dialled, Inspection, Snapshot};

use crate::store::{Store, StoreOptions};
use refused::{RefusedLetters, Waiting};
pub use serving::ServeConfig;
use serving::Served;

/// How a host is to run.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Store, disk queues, code cache.
    pub data_dir: PathBuf,
    /// Who hears of long work.
    pub progress: Arc<dyn Progress>,
    /// How many of the newest results to keep for showing; 0: none.
    pub rows: usize,
}

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The manifest's mistakes, all of them.
    #[error("the configuration has {} mistakes", .0.len())]
    Config(Vec<ManifestError>),
    /// The data folder cannot be used: another process has it.
    #[error("the data folder cannot be used")]
    Store(#[source] crate::store::StoreError),
    /// The engine for connectors cannot be set up.
    #[error("connectors cannot be run")]
    Runtime(#[source] crate::runtime::RuntimeError),
    /// REST cannot be served.
    #[error(transparent)]
    Rest(#[from] crate::api::ServeError),
    /// What is defined cannot be read.
    #[error(transparent)]
    Catalog(#[from] crate::catalog::CatalogError),
}

/// A host that runs.
#[derive(Debug)]
pub struct Host {
    store: Store,
    pool: Pool,
    port: DataPort,
    runtime: Runtime,
    spills: Arc<SpillSet>,
    engine: Arc<Engine>,
    changes: broadcast::Sender<Change>,
    order: Vec<String>,
    over: CancellationToken,
    /// A client has asked that the process ends.
    leave: CancellationToken,
    tasks: TaskTracker,
    served: Option<Served>,
}

impl Host {
    /// Checks the manifest, and starts everything it says if there is no mistake. Neither a disk that
    /// refuses nor a network that is away keeps it from starting.
    ///
    /// # Errors
    /// [`StartError`]; nothing was started then.
    pub async fn start(config: HostConfig, manifest: Manifest) -> Result<Self, StartError> {
        let (host, plan) = Self::build(&config, &manifest, true).await?;
        host.begin(&manifest, &plan).await?;
        Ok(host)
    }

    /// Everything but what is defined. `check`: the manifest is planned, and its mistakes prevent it.
    async fn build(
        config: &HostConfig,
        manifest: &Manifest,
        check: bool,
    ) -> Result<(Self, Plan), StartError> {
        let mut options = StoreOptions::default();
        if let Some(bytes) = manifest.limits.dead_letter_bytes {
            options.dead_letter_bytes = bytes;
        }
        options.dead_letter_age = manifest.limits.dead_letter_age;
        let opened = Store::open_with(&config.data_dir, options).await;
        let (store, damage) = opened.map_err(StartError::Store)?;
        for damage in damage {
            tracing::error!(%damage, "set aside");
        }
        let runtime = runtime(&config.data_dir).map_err(StartError::Runtime)?;
        let (refused, waiting) = refused::letters();
        let surroundings = Stored {
            store: store.clone(),
            refused,
        };
        let config_of_pool = pool_config(manifest, Arc::new(surroundings));
        let port = config_of_pool.port.clone();
        let pool = Pool::new(config_of_pool);
        let mut plan = Plan::default();
        if check {
            let (planned, errors, warnings) =
                plan::plan(manifest, &runtime, &pool, &*config.progress).await;
            if !errors.is_empty() {
                return Err(StartError::Config(arranged(errors)));
            }
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            plan = planned;
        }
        let spills = SpillSet::open(
            config.data_dir.join("queues"),
            disk_bounds(&manifest.limits),
        )
        .await;
        let engine = Arc::new(Engine::new(Parts {
            store: store.clone(),
            pool: pool.clone(),
            runtime: runtime.clone(),
            spills: Arc::clone(&spills),
            limits: guest_limits(&manifest.limits),
            rows: config.rows,
        }));
        let host = Self {
            store,
            pool,
            port,
            runtime,
            spills,
            engine,
            changes: broadcast::channel(4096).0,
            order: manifest.rules.iter().map(|rule| rule.id.clone()).collect(),
            over: CancellationToken::new(),
            leave: CancellationToken::new(),
            tasks: TaskTracker::new(),
            served: None,
        };
        host.forward_changes();
        host.keep_refused(waiting);
        Ok((host, plan))
    }

    async fn begin(&self, manifest: &Manifest, plan: &Plan) -> Result<(), StartError> {
        let mut errors = Vec::new();
        for def in &manifest.connections {
            let named = ConnectionDef {
                id: def.id.clone(),
                typ: def.typ.clone(),
                props: def.props.clone(),
            };
            if let Err(error) = self.pool.create_named(TENANT, named) {
                errors.push(manifest.error(&def.pointer, chain(&error)));
            }
        }
        if errors.is_empty() {
            for rule in plan.rules.iter().filter(|rule| rule.def.triggered) {
                if let Err(error) = self.engine.start(rule) {
                    errors.push(manifest.error(&rule.def.pointer, chain(&error)));
                }
            }
        }
        if !errors.is_empty() {
            self.end(Duration::ZERO).await;
            return Err(StartError::Config(arranged(errors)));
        }
        self.await_takers();
        self.resend();
        Ok(())
    }

    /// Persistent sessions are dialled once every source on them has opened or failed.
    fn await_takers(&self) {
        self.pool.rules_started();
        let (engine, pool, over) = (
            Arc::clone(&self.engine),
            self.pool.clone(),
            self.over.clone(),
        );
        self.tasks.spawn(async move {
            tokio::select! {
                () = engine.sources_opened() => pool.takers_known(),
                () = over.cancelled() => {}
            }
        });
    }

    /// What connections refuse becomes dead letters of no rule.
    fn keep_refused(&self, waiting: mpsc::Receiver<Waiting>) {
        let letters = Letters {
            store: self.store.clone(),
            tenant: TENANT.into(),
            rule: String::new(),
            action: String::new(),
            stream: String::new(),
        };
        let over = self.over.clone();
        self.tasks.spawn(refused::keep(waiting, letters, over));
    }

    /// Dead letters that are marked for it are sent again.
    fn resend(&self) {
        let resender = Resender::new(self.store.clone(), Arc::clone(&self.engine));
        let over = self.over.clone();
        self.tasks.spawn(async move { resender.run(over).await });
    }

    /// Changes of rules and connections, into the one stream.
    fn forward_changes(&self) {
        let (mut rules, mut connections) = (self.engine.changes(), self.pool.changes());
        let (changes, over) = (self.changes.clone(), self.over.clone());
        self.tasks.spawn(async move {
            loop {
                let change = tokio::select! {
                    change = rules.recv() => change.map(|change| Change::Rule {
                        id: change.rule,
                        status: change.state.word().to_owned(),
                        message: change.state.message().to_owned(),
                    }),
                    change = connections.recv() => change.map(|change| Change::Connection {
                        id: change.id.to_string(),
                        status: change.status.to_owned(),
                        err: change.err.unwrap_or_default(),
                        warnings: change.warnings,
                    }),
                    () = over.cancelled() => return,
                };
                let change = match change {
                    Ok(change) => change,
                    Err(broadcast::error::RecvError::Lagged(missed)) => Change::Missed { missed },
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                // Nobody may be listening.
                drop(changes.send(change));
            }
        });
    }

    /// Everything at this moment. Touches no network.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        if let Some(served) = &self.served {
            return served.snapshot();
        }
        let rules = self.engine.rules();
        let mut rows: Vec<_> = rules.iter().flat_map(|rule| rule.newest()).collect();
        rows.sort_by_key(|row| row.at_ms);
        let mut shown: Vec<_> = rules.iter().map(|rule| rule.row()).collect();
        shown.sort_by_key(|row| self.order.iter().position(|id| *id == row.id));
        Snapshot {
            at_ms: crate::rules::now_ms(),
            connections: self
                .pool
                .list(TENANT, true)
                .into_iter()
                .map(connection_row)
                .collect(),
            rules: shown,
            rows,
            disk: disk_row(self.spills.disk_use()),
            letters: letters_row(&self.store),
            push: self.port.address().map(|address| address.to_string()),
        }
    }

    /// Changes of states from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Waits until a client of REST has asked that the process ends, to be started anew.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn asked_to_leave(&self) {
        self.leave.cancelled().await;
    }

    /// Whether a client of REST has asked that.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leave.is_cancelled()
    }

    /// Stops reading, delivers what is under way for at most `grace`, puts the rest on disk,
    /// acknowledges, and closes the connections. Never unsubscribes, never acknowledges what is not
    /// settled.
    pub async fn stop(self, grace: Duration) {
        self.end(grace).await;
    }

    async fn end(&self, grace: Duration) {
        // From here on a taker that goes away does not unsubscribe.
        self.pool.going_down();
        if let Some(served) = &self.served {
            served.stop(Duration::from_secs(2)).await;
        }
        self.engine.stop_all(Instant::now() + grace).await;
        self.over.cancel();
        self.pool.stop(Duration::from_secs(2)).await;
        self.port.stop(Duration::from_secs(3)).await;
        self.tasks.close();
        self.tasks.wait().await;
        self.spills.close().await;
        self.store.close().await;
        self.runtime.shutdown(Duration::from_secs(1)).await;
    }

    /// Checks a manifest: names, types, queries, connectors; with `dial` it also tries each
    /// connection once. Starts nothing; compiled connectors are kept in `data_dir`.
    ///
    /// # Errors
    /// The engine for connectors cannot be set up.
    pub async fn check(
        manifest: &Manifest,
        data_dir: &Path,
        dial: bool,
        progress: &dyn Progress,
    ) -> Result<Checked, StartError> {
        let runtime = runtime(data_dir).map_err(StartError::Runtime)?;
        let pool = Pool::new(pool_config(manifest, Arc::new(Nowhere)));
        let (_, errors, warnings) = plan::plan(manifest, &runtime, &pool, progress).await;
        runtime.shutdown(Duration::from_secs(1)).await;
        let mut dialled = Vec::new();
        if dial && errors.is_empty() {
            for def in &manifest.connections {
                let began = Instant::now();
                let result = pool.check(TENANT, &def.typ, def.props.clone()).await;
                dialled.push(Dialled {
                    id: def.id.clone(),
                    typ: def.typ.clone(),
                    err: result.err().map(|error| chain(&error)),
                    took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                });
            }
        }
        Ok(Checked {
            errors: arranged(errors),
            warnings: arranged(warnings),
            dialled,
        })
    }

    /// What a connector's file says of itself.
    ///
    /// # Errors
    /// It is no connector, or cannot be compiled.
    pub async fn inspect(
        name: &str,
        wasm: Bytes,
        data_dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Inspection, InspectError> {
        let runtime = runtime(data_dir).map_err(InspectError::Runtime)?;
        let loaded = runtime.load(name, wasm, progress).await;
        runtime.shutdown(Duration::from_secs(1)).await;
        let connector = loaded.map_err(InspectError::Load)?;
        Ok(crate::catalog::inspection(&connector))
    }
}

/// Why a connector's file cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The engine cannot be set up.
    #[error("connectors cannot be run")]
    Runtime(#[source] crate::runtime::RuntimeError),
    /// The file is no connector.
    #[error("this is no connector")]
    Load(#[source] LoadError),
}

/// A runtime that keeps compiled code below this folder and compiles in a child of this program.
///
/// # Errors
/// The folder cannot be used, or the machine cannot run WebAssembly.
pub fn runtime(data_dir: &Path) -> Result<Runtime, crate::runtime::RuntimeError> {
    let own = std::env::current_exe()
        .map_or_else(|_| OsString::from("windlass"), PathBuf::into_os_string);
    Runtime::new(RuntimeConfig {
        cache_dir: data_dir.join("code"),
        compile_command: vec![own, "compile-component".into()],
        ..RuntimeConfig::default()
    })
}

fn connection_limits(limits: &HostLimits) -> Limits {
    let default = Limits::default();
    let size = |value: Option<u64>, or: usize| {
        value
            .and_then(|value| usize::try_from(value).ok())
            .unwrap_or(or)
    };
    Limits {
        unsettled_messages: size(limits.unsettled_messages, default.unsettled_messages),
        unsettled_bytes: size(limits.unsettled_bytes, default.unsettled_bytes),
        max_message_bytes: size(limits.max_message_bytes, default.max_message_bytes),
        call: guest_limits(limits).call_deadline,
    }
}

fn disk_bounds(limits: &HostLimits) -> HostBounds {
    HostBounds {
        queue_bytes: limits.disk_queue_bytes,
        all_bytes: limits.disk_bytes,
        reserve_bytes: limits.disk_reserve_bytes,
    }
}

fn guest_limits(limits: &HostLimits) -> GuestLimits {
    let mut guest = GuestLimits::default();
    if let Some(bytes) = limits
        .guest_memory_bytes
        .and_then(|bytes| usize::try_from(bytes).ok())
    {
        guest.memory_bytes = Some(bytes);
    }
    if let Some(cpu) = limits.guest_cpu {
        guest.cpu_per_call = cpu;
    }
    if let Some(deadline) = limits.call_deadline {
        guest.call_deadline = deadline;
    }
    guest
}

fn arranged(mut errors: Vec<ManifestError>) -> Vec<ManifestError> {
    ManifestError::arrange(&mut errors);
    errors
}

fn pool_config(manifest: &Manifest, surroundings: Arc<dyn Surroundings>) -> PoolConfig {
    PoolConfig {
        runtime: tokio::runtime::Handle::current(),
        registry: Registry::default(),
        surroundings,
        base: manifest.base.clone(),
        files: manifest.files.root.clone(),
        limits: connection_limits(&manifest.limits),
        backoff: Backoff::default(),
        port: DataPort::new(port_settings(&manifest.push)),
    }
}

fn port_settings(push: &Push) -> dataport::Settings {
    let default = dataport::Settings::default();
    let count = |value: Option<u64>, or: usize| {
        value
            .and_then(|value| usize::try_from(value).ok())
            .unwrap_or(or)
    };
    dataport::Settings {
        address: push.address.unwrap_or(default.address),
        tls: push.tls.clone(),
        max_connections: count(push.max_connections, default.max_connections),
        max_requests: count(push.max_requests, default.max_requests),
    }
}

/// What connections get from a host that runs: the store.
#[derive(Debug)]
struct Stored {
    store: Store,
    refused: RefusedLetters,
}

impl Surroundings for Stored {
    fn memory(&self, tenant: &str, id: &str) -> Arc<dyn Memory> {
        self.store.memory(tenant, id)
    }
    fn refused(&self, _tenant: &str, _id: &str) -> Arc<dyn Refused> {
        Arc::new(self.refused.clone())
    }
}

/// What connections get where nothing runs: they are looked at, or dialled once.
#[derive(Debug)]
struct Nowhere;

impl Surroundings for Nowhere {
    fn memory(&self, _tenant: &str, _id: &str) -> Arc<dyn Memory> {
        Arc::new(Self)
    }
    fn refused(&self, _tenant: &str, _id: &str) -> Arc<dyn Refused> {
        Arc::new(Self)
    }
}

#[async_trait]
impl Memory for Nowhere {
    async fn get(&self, _name: &str) -> Result<Option<String>, ConnectionError> {
        Ok(None)
    }
    async fn put(&self, _name: &str, _value: &str) -> Result<(), ConnectionError> {
        Ok(())
    }
}

impl Refused for Nowhere {
    fn refused(&self, _subject: &str, _head: Bytes, _reason: &ConnectionError) {}
}
