//! The driver: a loaded connector in use as a source or as a sink, called as a rule calls it, over
//! whatever connections it is granted. Knows nothing of scripts or of where messages go.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::message::{Batch, Rejection};
use crate::runtime::{
    Connector, Grant, GuestConfig, GuestError, GuestLimits, GuestStats, Read, Runtime, SinkGuest,
    SourceGuest, Waker,
};

/// A connector without a rule around it. Clones are the same connector.
#[derive(Clone)]
pub struct Alone {
    runtime: Runtime,
    connector: Arc<Connector>,
    limits: GuestLimits,
}

impl fmt::Debug for Alone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alone")
            .field("connector", &self.connector.name)
            .finish_non_exhaustive()
    }
}

impl Alone {
    /// This connector with the limits that a rule would give it.
    #[must_use]
    pub fn new(runtime: &Runtime, connector: Arc<Connector>) -> Self {
        Self {
            runtime: runtime.clone(),
            connector,
            limits: GuestLimits::default(),
        }
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(&self, limits: GuestLimits) -> Self {
        Self {
            limits,
            ..self.clone()
        }
    }

    /// What was loaded.
    #[must_use]
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &GuestLimits {
        &self.limits
    }

    /// Runs work where guests run: whatever calls a [`Source`] or a [`Sink`] belongs here. Dropped
    /// half-way, the work ends. None: it panicked, or the runtime has ended.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        AbortOnDropHandle::new(self.runtime.handle().spawn(work))
            .await
            .ok()
    }

    /// It as a source, not open yet. `config`: see [`super::properties::apply`].
    #[must_use]
    pub fn source(&self, config: String, grants: Arc<[Grant]>) -> Source {
        let guest = self.guest("source", config, grants);
        let guest = SourceGuest::new(&self.runtime, Arc::clone(&self.connector), guest);
        Source {
            guest,
            recycle: false,
        }
    }

    /// It as a sink, not open yet. `config`: see [`super::properties::apply`].
    #[must_use]
    pub fn sink(&self, config: String, grants: Arc<[Grant]>) -> Sink {
        let guest = self.guest("sink", config, grants);
        let guest = SinkGuest::new(&self.runtime, Arc::clone(&self.connector), guest);
        Sink {
            guest,
            recycle: false,
        }
    }

    fn guest(&self, label: &str, config: String, grants: Arc<[Grant]>) -> GuestConfig {
        GuestConfig {
            tenant: "default".into(),
            rule: "".into(),
            label: label.into(),
            config,
            grants,
            limits: self.limits.clone(),
        }
    }
}

/// A connector in use as a source. Dropped without [`Source::close`], it is as if the host was killed:
/// what is not settled comes again.
#[derive(Debug)]
pub struct Source {
    guest: SourceGuest,
    recycle: bool,
}

impl Source {
    /// From now on a new instance for every call.
    pub fn recycle_each(&mut self, on: bool) {
        self.recycle = on;
    }

    /// Opens it at a checkpoint, or at the beginning.
    ///
    /// # Errors
    /// What the guest said, or why no instance runs.
    pub async fn open(&mut self, resume: Option<String>) -> Result<(), GuestError> {
        self.guest.open(resume).await
    }

    /// Reads once. After `patience` the guest is asked to come back, and answers with what it has;
    /// the second value says that it was asked.
    ///
    /// # Errors
    /// What the guest said, or how it failed. What it took is back in its queues.
    pub async fn read(&mut self, patience: Duration) -> (Result<Read, GuestError>, bool) {
        if self.recycle {
            self.guest.put_away().await;
        }
        let waker = self.guest.waker();
        let mut read = std::pin::pin!(self.guest.read());
        tokio::select! {
            biased;
            read = &mut read => (read, false),
            () = tokio::time::sleep(patience) => {
                waker.wake();
                (read.await, true)
            }
        }
    }

    /// How another task asks the guest to come back from a read.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.guest.waker()
    }

    /// Messages that arrived and were not read.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.guest.waiting()
    }

    /// What is counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::of(&self.guest.stats())
    }

    /// Ends it as a rule that stops does.
    pub async fn close(&mut self) {
        self.guest.close().await;
    }
}

/// A connector in use as a sink.
#[derive(Debug)]
pub struct Sink {
    guest: SinkGuest,
    recycle: bool,
}

impl Sink {
    /// From now on a new instance for every call.
    pub fn recycle_each(&mut self, on: bool) {
        self.recycle = on;
    }

    /// Opens it.
    ///
    /// # Errors
    /// What the guest said, or why no instance runs.
    pub async fn open(&mut self) -> Result<(), GuestError> {
        self.guest.open().await
    }

    /// Writes a batch.
    ///
    /// # Errors
    /// What the guest said, or how it failed: none is known to be written.
    pub async fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, GuestError> {
        if self.recycle {
            self.guest.put_away().await;
        }
        self.guest.write(batch).await
    }

    /// What is counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::of(&self.guest.stats())
    }

    /// Ends it as a rule that stops does.
    pub async fn close(&mut self) {
        self.guest.close().await;
    }
}

/// Counters of one use at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instances made.
    pub instances: u64,
    /// Of them, those made because memory had reached its mark.
    pub for_memory: u64,
    /// Of them, those made because handles of old batches were kept.
    pub for_handles: u64,
    /// Bytes of linear memory of the present instance.
    pub memory: u64,
    /// Time on the processor in all calls.
    pub cpu: Duration,
}

impl Counts {
    fn of(stats: &GuestStats) -> Self {
        Self {
            instances: stats.instances.load(Ordering::Relaxed),
            for_memory: stats.recycled_memory.load(Ordering::Relaxed),
            for_handles: stats.recycled_handles.load(Ordering::Relaxed),
            memory: stats.memory_bytes.load(Ordering::Relaxed),
            cpu: Duration::from_nanos(stats.cpu_ns.load(Ordering::Relaxed)),
        }
    }
}
