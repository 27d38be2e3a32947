//! All of it: builds store, pool, runtime and engine from a configuration, runs them, and stops them
//! in order. The only place that knows every room.

pub mod schema;
pub mod trial;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{HostLimits, Manifest, ManifestError, Push};
use crate::connections::backoff::Backoff;
use crate::connections::dataport::{self, DataPort};
use crate::connections::pool::{self, ConnectionDef, Pool, PoolConfig, Surroundings};
use crate::connections::registry::Registry;
use crate::connections::{Limits, Memory, Refused};
use crate::error::{ConnectionError, chain};
use crate::message::{Batch, Message};
use crate::progress::Progress;
use crate::rules::deliver::Graveyard;
use crate::rules::engine::{Engine, Parts, TENANT};
use crate::rules::letters::Letters;
use crate::rules::plan::{self, Plan};
use crate::rules::resend::Resender;
use crate::rules::spill::SpillSet;
use crate::runtime::{GuestLimits, LoadError, Runtime, RuntimeConfig};
use crate::snapshot::{Change, Checked, ConnectionRow, Dialled, Inspection, SlotRow, Snapshot};
use crate::store::{Store, StoreOptions};

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
    tasks: TaskTracker,
}

impl Host {
    /// Checks the manifest, and starts everything it says if there is no mistake. Neither a disk that
    /// refuses nor a network that is away keeps it from starting.
    ///
    /// # Errors
    /// [`StartError`]; nothing was started then.
    pub async fn start(config: HostConfig, manifest: Manifest) -> Result<Self, StartError> {
        let mut options = StoreOptions::default();
        if let Some(bytes) = manifest.limits.dead_letter_bytes {
            options.dead_letter_bytes = bytes;
        }
        let opened = Store::open_with(&config.data_dir, options).await;
        let (store, damage) = opened.map_err(StartError::Store)?;
        for damage in damage {
            tracing::error!(%damage, "set aside");
        }
        let runtime = runtime(&config.data_dir).map_err(StartError::Runtime)?;
        let surroundings = Stored {
            store: store.clone(),
            handle: tokio::runtime::Handle::current(),
        };
        let config_of_pool = pool_config(&manifest, Arc::new(surroundings));
        let port = config_of_pool.port.clone();
        let pool = Pool::new(config_of_pool);
        let (plan, errors, warnings) =
            plan::plan(&manifest, &runtime, &pool, &*config.progress).await;
        if !errors.is_empty() {
            return Err(StartError::Config(arranged(errors)));
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let spills = SpillSet::open(
            config.data_dir.join("queues"),
            manifest.limits.disk_queue_bytes,
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
            tasks: TaskTracker::new(),
        };
        host.begin(&manifest, &plan).await?;
        Ok(host)
    }

    async fn begin(&self, manifest: &Manifest, plan: &Plan) -> Result<(), StartError> {
        self.forward_changes();
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
        self.watch_connections();
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
        let resender = Resender::new(self.store.clone(), Arc::clone(&self.engine));
        let over = self.over.clone();
        self.tasks.spawn(async move { resender.run(over).await });
        Ok(())
    }

    /// Changes of rules, into the one stream.
    fn forward_changes(&self) {
        let mut rules = self.engine.changes();
        let (changes, over) = (self.changes.clone(), self.over.clone());
        self.tasks.spawn(async move {
            loop {
                let change = tokio::select! {
                    change = rules.recv() => change,
                    () = over.cancelled() => return,
                };
                match change {
                    Ok(change) => {
                        let change = Change::Rule {
                            id: change.rule,
                            status: change.state.word().to_owned(),
                            message: change.state.message().to_owned(),
                        };
                        // Nobody may be listening.
                        drop(changes.send(change));
                    }
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::debug!(missed, "changes came faster than they were handed on");
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
    }

    /// Changes of connections, into the one stream. Rules have brought theirs along by now.
    fn watch_connections(&self) {
        for info in self.pool.list(TENANT, true) {
            let Some(mut status) = self.pool.status(TENANT, &info.id) else {
                continue;
            };
            let (changes, over) = (self.changes.clone(), self.over.clone());
            self.tasks.spawn(async move {
                let mut shown = None;
                loop {
                    let change = {
                        let status = status.borrow_and_update();
                        Change::Connection {
                            id: info.id.clone(),
                            status: status.word().to_owned(),
                            err: status.err.clone().unwrap_or_default(),
                            warnings: status.warnings.clone(),
                        }
                    };
                    if shown.as_ref() != Some(&change) {
                        // Nobody may be listening.
                        drop(changes.send(change.clone()));
                        shown = Some(change);
                    }
                    tokio::select! {
                        changed = status.changed() => if changed.is_err() { return },
                        () = over.cancelled() => return,
                    }
                }
            });
        }
    }

    /// Everything at this moment. Touches no network.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
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
            push: self.port.address().map(|address| address.to_string()),
        }
    }

    /// Changes of states from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
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
        let bytes = wasm.len() as u64;
        let loaded = runtime.load(name, wasm, progress).await;
        runtime.shutdown(Duration::from_secs(1)).await;
        let connector = loaded.map_err(InspectError::Load)?;
        let descriptor = &connector.descriptor;
        let roles = [
            ("source", connector.has_source),
            ("sink", connector.has_sink),
        ];
        Ok(Inspection {
            name: descriptor.name.clone(),
            version: descriptor.version.clone(),
            description: descriptor.description.clone(),
            bytes,
            roles: roles
                .iter()
                .filter(|(_, has)| *has)
                .map(|(role, _)| (*role).to_owned())
                .collect(),
            slots: descriptor
                .slots
                .iter()
                .map(|slot| SlotRow {
                    name: slot.name.clone(),
                    interface: slot.interface.as_str().to_owned(),
                    optional: slot.optional,
                    description: slot.description.clone(),
                })
                .collect(),
            imports: connector.imports.clone(),
            config_schema: descriptor.config_schema.to_string(),
        })
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

fn connection_row(info: pool::Info) -> ConnectionRow {
    let traffic = &info.traffic;
    ConnectionRow {
        id: info.id,
        typ: info.typ,
        is_named: info.is_named,
        status: info.status.to_owned(),
        metric: info.metric,
        err: info.err.unwrap_or_default(),
        since_ms: info.since,
        attempts: info.attempts.into(),
        next_attempt_ms: info.next_attempt,
        messages_in: traffic.messages_in,
        messages_out: traffic.messages_out,
        bytes_in: traffic.bytes_in,
        bytes_out: traffic.bytes_out,
        untaken: traffic.untaken,
        dropped: traffic.dropped,
        refused: traffic.refused,
        users: info.users,
        warnings: info.warnings,
    }
}

/// What connections get from a host that runs: the store.
#[derive(Debug)]
struct Stored {
    store: Store,
    handle: tokio::runtime::Handle,
}

impl Surroundings for Stored {
    fn memory(&self, tenant: &str, id: &str) -> Arc<dyn Memory> {
        self.store.memory(tenant, id)
    }
    fn refused(&self, _tenant: &str, _id: &str) -> Arc<dyn Refused> {
        Arc::new(RefusedLetters {
            store: self.store.clone(),
            handle: self.handle.clone(),
        })
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
    async fn get(&self, _name: &str) -> Option<String> {
        None
    }
    async fn put(&self, _name: &str, _value: &str) -> Result<(), ConnectionError> {
        Ok(())
    }
}

impl Refused for Nowhere {
    fn refused(&self, _subject: &str, _head: Bytes, _reason: &ConnectionError) {}
}

/// Deliveries that no taker may ever see become dead letters of their connection.
#[derive(Debug)]
struct RefusedLetters {
    store: Store,
    handle: tokio::runtime::Handle,
}

impl Refused for RefusedLetters {
    fn refused(&self, subject: &str, head: Bytes, reason: &ConnectionError) {
        let letters = Letters {
            store: self.store.clone(),
            tenant: TENANT.into(),
            rule: String::new(),
            action: String::new(),
            stream: String::new(),
        };
        let message = Message {
            subject: subject.into(),
            ..Message::new(head)
        };
        let reason = reason.clone();
        #[allow(clippy::disallowed_methods, reason = "bounded: one short write, on the runtime that ends with the host")]
        self.handle.spawn(async move {
            if let Err(error) = letters.bury(&Batch::from(vec![message]), &reason, 0).await {
                tracing::error!(%error, reason = %reason, "a refused message could not be kept as a dead letter");
            }
        });
    }
}
