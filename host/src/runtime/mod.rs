//! WebAssembly: the engine, the cache of compiled code, and the life of instances.
//!
//! [`Runtime::load`] makes a [`Connector`] of a component; a [`SourceGuest`] or [`SinkGuest`] is one
//! use of it, which makes, recycles and replaces instances as it must. Sees connections only through
//! the traits behind a [`Grant`]; knows nothing of rules, the store or REST.
//!
//! Guests run on a tokio runtime of their own ([`Runtime::handle`]), so that none can hold up a
//! connection. Among themselves they yield at each tick of 10 ms; one that goes on computing after
//! that does so on a thread beside them, where the system shares the cores out.

mod cache;
mod connector;
mod engine;
mod error;
mod instance;
mod limits;
mod restarts;
mod sink;
mod source;
mod state;
mod stdio;
#[cfg(test)]
pub(crate) mod tests;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::task::AbortOnDropHandle;
use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};

pub use self::cache::compile_main;
pub use self::connector::{Connector, Descriptor, Slot};
pub use self::error::{GuestError, LoadError, Overtime, Place, RuntimeError};
pub use self::limits::{GuestLimits, LARGE_MEMORY_BYTES, MEMORY_BYTES, Recycle};
pub use self::sink::SinkGuest;
pub use self::source::{Inboxes, KeptSubscriptions, Read, SourceGuest, Takes, Waker};
pub use crate::interfaces::{Grant, GuestStats};

use self::cache::Cache;
use self::engine::Ticker;
use self::instance::{Use, run};
use self::state::State;
use crate::interfaces::bindings;
use crate::interfaces::{Host, Phase, Role};
use crate::progress::Progress;

/// How long a `close` may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Memory of an instance that is only asked what it is.
const DESCRIBE_MEMORY_BYTES: usize = 256 << 20;

/// Guests that may compute beside the others' threads at once. More take turns among all.
const MOST_ASIDE: usize = 8;

/// What a [`Runtime`] is made of.
#[derive(Clone)]
pub struct RuntimeConfig {
    /// Where compiled code is kept. Must belong to this process's user alone.
    pub cache_dir: PathBuf,
    /// The child that compiles: a program and its first arguments. Two paths are added.
    pub compile_command: Vec<OsString>,
    /// Threads that run guests. 0: half as many as there are cores, 1 to 4; connections have the
    /// other half.
    pub worker_threads: usize,
    /// Key of the hash that guards compiled code. None: one that is made at the first start and kept
    /// in the folder.
    pub code_cache_key: Option<[u8; 32]>,
}

/// A folder `code`, and no compiler: only what is in the cache can be loaded.
impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            cache_dir: "code".into(),
            compile_command: Vec::new(),
            worker_threads: 0,
            code_cache_key: None,
        }
    }
}

impl fmt::Debug for RuntimeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeConfig")
            .field("cache_dir", &self.cache_dir)
            .field("compile_command", &self.compile_command)
            .field("worker_threads", &self.worker_threads)
            .finish_non_exhaustive()
    }
}

/// How many threads the connections have, and how many the guests: half of the cores each, 1 to 4.
/// A message crosses from one to the other and back several times, and tokio wakes a second idle
/// thread after each first one: two more wake-ups per crossing, for nothing, where one thread would do.
#[must_use]
pub fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, 4)
}

/// One use of a connector in a rule.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The rule.
    pub rule: Arc<str>,
    /// The stream's or the action's name, for the log.
    pub label: Arc<str>,
    /// JSON, already checked against the connector's schema. No connection properties in it.
    pub config: String,
    /// The connections it may reach.
    pub grants: Arc<[Grant]>,
    /// What it may take.
    pub limits: GuestLimits,
}

/// The engine and all that belongs to it. Clones are the same runtime.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    engine: Engine,
    linker: Linker<State>,
    ticker: Ticker,
    cache: Arc<Cache>,
    /// Guests that compute on a thread beside the others'.
    aside: AtomicUsize,
    handle: Handle,
    guests: Mutex<Option<tokio::runtime::Runtime>>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("cache", &self.0.cache)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The last clone may be dropped where nothing may wait.
        if let Some(guests) = self.guests.get_mut().take() {
            guests.shutdown_background();
        }
    }
}

/// A guest computes beside the others until this is dropped.
struct Aside<'a>(&'a AtomicUsize);

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Runtime {
    /// Starts the engine and the guests' threads. Starts no compiler.
    ///
    /// # Errors
    /// The cache's folder cannot be used, or the machine cannot run WebAssembly.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let engine = engine::serving().map_err(|error| RuntimeError::new("the engine", error))?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)
            .map_err(|error| RuntimeError::new("WASI", error))?;
        bindings::Connector::add_to_linker::<State, HasSelf<Host>>(&mut linker, |state| {
            &mut state.host
        })
        .map_err(|error| RuntimeError::new("the contract", error))?;
        let ticker =
            Ticker::start(&engine).map_err(|error| RuntimeError::new("the ticker", error))?;
        let cache = Cache::open(
            config.cache_dir,
            config.code_cache_key,
            config.compile_command,
        )
        .map_err(|error| RuntimeError::new("the folder of compiled code", error))?;
        let threads = match config.worker_threads {
            0 => threads(),
            threads => threads,
        };
        let guests = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            // A guest that computes gives its thread back at each tick only. What comes from the
            // connections' threads, and timers, must not wait for dozens of such turns.
            .global_queue_interval(2)
            .event_interval(4)
            .thread_name("guests")
            .enable_all()
            .build()
            .map_err(|error| RuntimeError::new("the guests' threads", error))?;
        let handle = guests.handle().clone();
        let cache = Arc::new(cache);
        Ok(Self(Arc::new(Inner {
            engine,
            linker,
            ticker,
            cache,
            aside: AtomicUsize::new(0),
            handle,
            guests: Mutex::new(Some(guests)),
        })))
    }

    /// Where guests run: spawn the tasks that call [`SourceGuest`] and [`SinkGuest`] here.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.0.handle.clone()
    }

    /// Makes a connector of a component: from the cache, or compiled now in a child process, one at a
    /// time. Asks it what it is, on an instance without any grant.
    ///
    /// # Errors
    /// A sentence that says which import, export or statement is the trouble, and what to do.
    pub async fn load(
        &self,
        name: &str,
        wasm: Bytes,
        progress: &dyn Progress,
    ) -> Result<Arc<Connector>, LoadError> {
        connector::check_header(name, &wasm)?;
        let hashed = wasm.clone();
        let digest =
            tokio::task::spawn_blocking(move || blake3::hash(&hashed).to_hex().to_string()).await;
        let digest = digest.map_err(|error| LoadError::Host {
            name: name.to_owned(),
            attempt: "cannot be hashed",
            source: error.into(),
        })?;
        let compiled = self
            .0
            .cache
            .get(&self.0.engine, name, &digest, &wasm, progress)
            .await?;
        let linked = connector::Linked::new(&self.0.engine, &self.0.linker, name, &compiled)?;
        let blank = Connector {
            name: name.into(),
            digest,
            descriptor: Descriptor::unknown(),
            has_source: linked.source.is_some(),
            has_sink: linked.sink.is_some(),
            wasm_size: wasm.len() as u64,
            compiled_size: compiled.bytes,
            initial_memory: 0,
            imports: connector::imports(&self.0.engine, &compiled.component),
            linked: Arc::new(linked),
        };
        let (runtime, asked) = (self.clone(), blank.clone());
        let answer = AbortOnDropHandle::new(
            self.0
                .handle
                .spawn(async move { runtime.describe(asked).await }),
        )
        .await;
        let (descriptor, initial_memory) = answer.map_err(|error| LoadError::Host {
            name: name.to_owned(),
            attempt: "cannot be asked what it is",
            source: error.into(),
        })??;
        Ok(Arc::new(Connector {
            descriptor,
            initial_memory,
            ..blank
        }))
    }

    /// Entries of the code cache that were found damaged since the start.
    #[must_use]
    pub fn damaged_code(&self) -> u64 {
        self.0.cache.damaged()
    }

    /// Ends the guests' threads. Tasks that still run there after `grace` are left behind.
    pub async fn shutdown(&self, grace: Duration) {
        let guests = self.0.guests.lock().take();
        if let Some(guests) = guests {
            let ended = tokio::task::spawn_blocking(move || guests.shutdown_timeout(grace)).await;
            if let Err(error) = ended {
                tracing::warn!(%error, "the guests' threads did not end well");
            }
        }
    }

    fn engine(&self) -> &Engine {
        &self.0.engine
    }

    fn ticker(&self) -> &Ticker {
        &self.0.ticker
    }

    /// A place for a guest that computes longer than a tick: while it is held, the present thread may
    /// be blocked, and the tasks that wait for it go on elsewhere. None: it must take turns.
    fn aside(&self) -> Option<Aside<'_>> {
        let may = Handle::try_current()
            .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
        if !may {
            return None;
        }
        let aside = Aside(&self.0.aside);
        (self.0.aside.fetch_add(1, Ordering::Relaxed) < MOST_ASIDE).then_some(aside)
    }

    async fn describe(&self, connector: Connector) -> Result<(Descriptor, u64), LoadError> {
        let name = connector.name.to_string();
        let limits = GuestLimits {
            memory_bytes: Some(DESCRIBE_MEMORY_BYTES),
            ..GuestLimits::default()
        };
        let nobody: Arc<str> = "".into();
        let config = GuestConfig {
            tenant: Arc::clone(&nobody),
            rule: Arc::clone(&nobody),
            label: nobody,
            config: String::new(),
            grants: Arc::new([]),
            limits,
        };
        let failed = |error: GuestError| LoadError::Descriptor {
            name: name.clone(),
            reason: error.to_string(),
        };
        let used = Use::new(self, Arc::new(connector), config, Role::Meta);
        let made = used
            .make(|store, made| used.connector.linked.meta.load(store, made))
            .await;
        let (mut meter, exports) = made.map_err(&failed)?;
        let memory = meter.store.data().limiter.memory() as u64;
        meter.begin(Phase::Describe);
        let said = {
            let call = exports.call_describe(&mut meter.store);
            run(self, &meter.clock, used.limits().call_deadline, call).await
        };
        let said = said.map_err(|ended| failed(used.failed(Phase::Describe, &ended, &meter)))?;
        Ok((connector::descriptor(&name, said)?, memory))
    }
}
