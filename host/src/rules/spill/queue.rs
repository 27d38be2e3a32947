//! A queue as its action uses it: hands the file work to blocking threads, a few at a time for all
//! queues, and puts appends that meet into one sync.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use super::log::{Bounds, Log};
use super::options::SpillOptions;
use super::{DEFAULT_MAX_BYTES, Position, Spill, SpillError, SpillStats};
use crate::message::Message;

/// The disk queue of one action, in files.
pub struct FileQueue {
    core: Arc<Core>,
    permits: Arc<Semaphore>,
    /// Who holds it writes for all that have come by then.
    gate: tokio::sync::Mutex<()>,
}

/// What a blocking thread works on.
struct Core {
    log: Mutex<Log>,
    pending: Mutex<Vec<Pending>>,
    /// As of the last file work, so that nobody waits for one under way.
    stats: Mutex<SpillStats>,
    /// Nothing waits, as far as is known.
    empty: AtomicBool,
    settings: Mutex<Settings>,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    bounds: Bounds,
    enabled: bool,
    clear_at_stop: bool,
}

/// An append that nobody has written yet.
struct Pending {
    messages: Vec<Message>,
    over_bound: bool,
    answer: oneshot::Sender<Result<Position, SpillError>>,
}

impl fmt::Debug for FileQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileQueue")
            .field("stats", &*self.core.stats.lock())
            .finish_non_exhaustive()
    }
}

impl Settings {
    fn new(options: &SpillOptions, default_bytes: Option<u64>) -> Self {
        Self {
            bounds: Bounds {
                bytes: options
                    .max_bytes
                    .or(default_bytes)
                    .unwrap_or(DEFAULT_MAX_BYTES),
                messages: options.max_messages,
                age: options.max_age,
                overflow: options.overflow(),
                none: false,
            },
            enabled: options.enabled,
            clear_at_stop: options.clean_at_stop,
        }
    }
}

impl FileQueue {
    /// A queue over a folder that is looked at when it is first used. `files`: there are segments.
    pub(super) fn new(
        log: Log,
        files: bool,
        permits: Arc<Semaphore>,
        options: &SpillOptions,
        default_bytes: Option<u64>,
    ) -> Self {
        let core = Core {
            log: Mutex::new(log),
            pending: Mutex::default(),
            stats: Mutex::default(),
            empty: AtomicBool::new(!files),
            settings: Mutex::new(Settings::new(options, default_bytes)),
        };
        Self {
            core: Arc::new(core),
            permits,
            gate: tokio::sync::Mutex::new(()),
        }
    }

    /// Other options from now on.
    pub(super) fn set_options(&self, options: &SpillOptions, default_bytes: Option<u64>) {
        *self.core.settings.lock() = Settings::new(options, default_bytes);
    }

    /// Writes the cursor, whatever is to happen when the rule stops.
    pub(super) async fn persist(&self) -> Result<(), SpillError> {
        if self.is_empty() {
            return Ok(());
        }
        self.work(|_, log| log.close()).await
    }

    /// Removes everything, the folder too: how many messages were in it.
    pub(super) async fn delete(&self) -> Result<u64, SpillError> {
        self.work(|_, log| log.delete()).await
    }

    /// Adds messages, with one sync for all that come meanwhile.
    async fn add(&self, messages: Vec<Message>, over_bound: bool) -> Result<Position, SpillError> {
        if !self.core.settings.lock().enabled {
            return Err(SpillError::Disabled);
        }
        if messages.is_empty() {
            return Ok(Position::default());
        }
        let (answer, mut answered) = oneshot::channel();
        self.core.pending.lock().push(Pending {
            messages,
            over_bound,
            answer,
        });
        let _turn = self.gate.lock().await;
        if let Ok(result) = answered.try_recv() {
            return result;
        }
        let worked = self
            .work(|core, log| {
                core.write_pending(log);
                Ok(())
            })
            .await;
        match answered.try_recv() {
            Ok(result) => result,
            // The folder could not be opened: nobody has written it, and nobody shall.
            Err(_) => Err(worked.err().unwrap_or(SpillError::Stopping)),
        }
    }

    /// Works on the files, away from the asynchronous threads.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Core, &mut Log) -> Result<T, SpillError> + Send + 'static,
    ) -> Result<T, SpillError> {
        // The permit stays with the work, also when this future is dropped.
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| SpillError::Stopping)?;
        let core = Arc::clone(&self.core);
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut log = core.log.lock();
            let result = log.open().and_then(|()| work(&core, &mut log));
            core.publish(&log);
            result
        });
        done.await.unwrap_or(Err(SpillError::Stopping))
    }
}

impl Core {
    fn publish(&self, log: &Log) {
        if log.opened {
            let stats = log.stats();
            self.empty.store(stats.messages == 0, Ordering::Release);
            let before = std::mem::replace(&mut *self.stats.lock(), stats.clone());
            if before.damage.lost < stats.damage.lost {
                tracing::warn!(folder = %log.folder.display(), damage = %stats.damage, "messages of a disk queue are lost");
            }
        }
    }

    /// Writes what is pending. Callers that have gone away meanwhile get nothing written.
    fn write_pending(&self, log: &mut Log) {
        let pending = std::mem::take(&mut *self.pending.lock());
        let mut bounds = self.settings.lock().bounds;
        if pending.iter().any(|pending| pending.over_bound) {
            bounds.none = true;
        }
        let (batches, answers): (Vec<_>, Vec<_>) = pending
            .into_iter()
            .filter(|pending| !pending.answer.is_closed())
            .map(|pending| (pending.messages, pending.answer))
            .unzip();
        let results = log.append(batches, &bounds);
        // Seen by whoever gets an answer.
        self.publish(log);
        for (answer, result) in answers.into_iter().zip(results) {
            // Gone in this very moment: then the messages come twice, which is allowed.
            drop(answer.send(result));
        }
    }
}

#[async_trait]
impl Spill for FileQueue {
    async fn append(&self, messages: Vec<Message>) -> Result<Position, SpillError> {
        self.add(messages, false).await
    }

    async fn append_last(&self, messages: Vec<Message>) -> Result<Position, SpillError> {
        self.add(messages, true).await
    }

    async fn peek(
        &self,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<(Position, Message)>, SpillError> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        self.work(move |core, log| {
            let bounds = core.settings.lock().bounds;
            log.peek(max_messages, max_bytes, &bounds)
        })
        .await
    }

    async fn advance(&self, position: Position) -> Result<(), SpillError> {
        self.work(move |_, log| {
            log.advance(&position);
            Ok(())
        })
        .await
    }

    async fn close(&self) -> Result<(), SpillError> {
        if self.core.settings.lock().clear_at_stop {
            return self.clear().await.map(drop);
        }
        self.persist().await
    }

    async fn clear(&self) -> Result<u64, SpillError> {
        if self.is_empty() {
            return Ok(0);
        }
        self.work(|_, log| log.clear()).await
    }

    fn is_empty(&self) -> bool {
        self.core.empty.load(Ordering::Acquire)
    }

    fn stats(&self) -> SpillStats {
        self.core.stats.lock().clone()
    }
}
