//! Gets a batch to its end: written, or dead-lettered message by message. Retries, waits for the
//! slots, bisects what a sink chokes on. Knows nothing of queues or of settlement: who calls it
//! keeps the batch, and may put it on disk meanwhile.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::error::{ConnectionError, ErrorKind};
use crate::message::{Batch, Rejection};

/// The sink, as delivery sees it.
#[async_trait]
pub trait Writer: Send + fmt::Debug {
    /// Writes once. A rejection: this one was not written.
    ///
    /// # Errors
    /// Nothing is known to be written.
    async fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, WriteError>;
    /// Waits until every connection that this sink needs is up.
    ///
    /// # Cancel safety
    /// Safe.
    async fn slots_up(&mut self);
}

/// Why a write gave nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// The sink's own verdict.
    #[error("{0}")]
    Said(ConnectionError),
    /// The instance trapped, ran out of time or memory; it is gone and will be replaced.
    #[error("{0}")]
    Broke(String),
    /// No instance could be made or opened: it was given nothing, and no message is to blame.
    #[error("{0}")]
    Unready(String),
}

/// Where messages go that can never be written.
#[async_trait]
pub trait Graveyard: Send + Sync + fmt::Debug {
    /// Keeps these messages with their reason; on disk when it returns.
    ///
    /// # Errors
    /// A sentence: the quota is used up, the disk is full. The caller waits and tries again.
    async fn bury(
        &self,
        batch: &Batch,
        reason: &ConnectionError,
        attempts: u32,
    ) -> Result<(), String>;
}

/// Why delivery ended for good; the rule stops with this sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Stop(pub String);

/// What delivery counts and shows; written here, read by status.
#[derive(Debug, Default)]
pub struct Progress {
    /// Whose it is, for the log: rule and action.
    pub owner: String,
    /// Why the last try failed, until one works.
    pub trouble: parking_lot::Mutex<Option<String>>,
    /// Messages written.
    pub written: std::sync::atomic::AtomicU64,
    /// Messages dead-lettered.
    pub buried: std::sync::atomic::AtomicU64,
    /// Failed tries.
    pub failures: std::sync::atomic::AtomicU64,
    /// The last failure of all, and when (ms since the epoch).
    pub last_failure: parking_lot::Mutex<Option<(String, u64)>>,
}

/// Traps on the same message before it is dead-lettered.
const TRAPS_PER_MESSAGE: u32 = 3;
/// Messages dead-lettered for traps within a minute before the rule stops: a connector that is
/// broken must not drain a broker into the dead letters.
const TRAPPED_PER_MINUTE: usize = 10;
const RETRY_FLOOR: Duration = Duration::from_millis(50);
const RETRY_CAP: Duration = Duration::from_secs(10);

/// Delivers the batches of one action, one after another.
#[derive(Debug)]
pub struct Delivery<'a, W, G> {
    writer: &'a mut W,
    graveyard: &'a G,
    progress: &'a Progress,
    trapped: &'a mut VecDeque<Instant>,
    resend_interval: Option<Duration>,
}

/// A part of a batch, with its history.
struct Part {
    batch: Batch,
    traps: u32,
    attempts: u32,
    /// Tries since one that wrote something: a sink that takes a part each time is not slowed down.
    in_vain: u32,
}

impl<'a, W: Writer, G: Graveyard> Delivery<'a, W, G> {
    /// Delivery by this writer. `trapped` remembers, across batches, when messages were
    /// dead-lettered for traps.
    pub fn new(
        writer: &'a mut W,
        graveyard: &'a G,
        progress: &'a Progress,
        trapped: &'a mut VecDeque<Instant>,
    ) -> Self {
        Self {
            writer,
            graveyard,
            progress,
            trapped,
            resend_interval: None,
        }
    }

    /// A failed write is tried again after this long, where the other side did not ask for more;
    /// None: after a back-off.
    #[must_use]
    pub fn with_resend_interval(mut self, interval: Option<Duration>) -> Self {
        self.resend_interval = interval;
        self
    }

    /// Returns when every message is written or dead-lettered. Order is kept also over retries:
    /// nothing of a later batch is written before this one is done.
    ///
    /// # Errors
    /// [`Stop`]: the configuration cannot work, the grant is missing, or the connector is broken.
    ///
    /// # Cancel safety
    /// A write may be under way: what of it arrived is not known.
    pub async fn run(&mut self, batch: Batch) -> Result<(), Stop> {
        let mut parts = VecDeque::from([Part {
            batch,
            traps: 0,
            attempts: 0,
            in_vain: 0,
        }]);
        while let Some(mut part) = parts.pop_front() {
            if part.batch.is_empty() {
                continue;
            }
            self.writer.slots_up().await;
            part.attempts = part.attempts.saturating_add(1);
            part.in_vain = part.in_vain.saturating_add(1);
            let outcome = self.writer.write(part.batch.clone()).await;
            match outcome {
                Ok(rejections) => {
                    let rejected = rejections.len();
                    let rest = self.sort_rejections(&mut part, rejections).await?;
                    self.count_written(part.batch.len().saturating_sub(rejected));
                    match rest {
                        None => *self.progress.trouble.lock() = None,
                        Some((batch, wait)) => {
                            let attempts = part.attempts;
                            if rejected < part.batch.len() {
                                part.in_vain = 1;
                            }
                            pause(wait.or(self.resend_interval), part.in_vain).await;
                            parts.push_front(Part {
                                batch,
                                traps: 0,
                                attempts,
                                in_vain: part.in_vain,
                            });
                        }
                    }
                }
                Err(WriteError::Said(error)) => self.said(part, error, &mut parts).await?,
                Err(WriteError::Unready(words)) => {
                    self.note(&words);
                    pause(self.resend_interval, part.in_vain).await;
                    parts.push_front(part);
                }
                Err(WriteError::Broke(words)) => self.broke(part, words, &mut parts).await?,
            }
        }
        Ok(())
    }

    /// The sink answered for the whole batch.
    async fn said(
        &mut self,
        part: Part,
        error: ConnectionError,
        parts: &mut VecDeque<Part>,
    ) -> Result<(), Stop> {
        self.note(&error.to_string());
        match error.kind {
            ErrorKind::Transient | ErrorKind::Disconnected => {
                pause(error.retry_after.or(self.resend_interval), part.in_vain).await;
                parts.push_front(part);
                Ok(())
            }
            ErrorKind::Permanent if part.batch.len() > 1 => {
                halve(part, parts);
                Ok(())
            }
            ErrorKind::Permanent => {
                bury(
                    self.graveyard,
                    self.progress,
                    &part.batch,
                    &error,
                    part.attempts,
                )
                .await;
                Ok(())
            }
            ErrorKind::Denied | ErrorKind::Misconfigured => Err(Stop(error.to_string())),
        }
    }

    /// The instance is gone. A batch of many is halved until the message that does it stands alone.
    async fn broke(
        &mut self,
        mut part: Part,
        words: String,
        parts: &mut VecDeque<Part>,
    ) -> Result<(), Stop> {
        self.note(&words);
        if part.batch.len() > 1 {
            halve(part, parts);
            return Ok(());
        }
        part.traps += 1;
        if part.traps < TRAPS_PER_MESSAGE {
            parts.push_front(part);
            return Ok(());
        }
        let reason = ConnectionError::permanent("trap", words.clone());
        bury(
            self.graveyard,
            self.progress,
            &part.batch,
            &reason,
            part.attempts,
        )
        .await;
        let now = Instant::now();
        self.trapped.push_back(now);
        self.trapped
            .retain(|at| now.duration_since(*at) < Duration::from_secs(60));
        if self.trapped.len() > TRAPPED_PER_MINUTE {
            return Err(Stop(format!(
                "more than {TRAPPED_PER_MINUTE} messages in a minute made the connector trap: {words}"
            )));
        }
        Ok(())
    }

    /// What is left to write after rejections: the transient ones, in order, and how long to wait.
    async fn sort_rejections(
        &mut self,
        part: &mut Part,
        rejections: Vec<Rejection>,
    ) -> Result<Option<(Batch, Option<Duration>)>, Stop> {
        if rejections.is_empty() {
            return Ok(None);
        }
        let mut again = Vec::new();
        let mut wait = None;
        for Rejection { index, error } in rejections {
            let Some(message) = part.batch.get(index as usize) else {
                // The guest's arithmetic is wrong; nothing can be said about a message that is not there.
                self.note(&format!(
                    "rejection of message {index} of a batch of {}",
                    part.batch.len()
                ));
                continue;
            };
            self.note(&error.to_string());
            match error.kind {
                ErrorKind::Transient | ErrorKind::Disconnected => {
                    wait = wait.max(error.retry_after);
                    again.push(index);
                }
                ErrorKind::Permanent => {
                    let lone = Batch::from(vec![message.clone()]);
                    bury(self.graveyard, self.progress, &lone, &error, part.attempts).await;
                }
                ErrorKind::Denied | ErrorKind::Misconfigured => {
                    return Err(Stop(error.to_string()));
                }
            }
        }
        if again.is_empty() {
            return Ok(None);
        }
        again.sort_unstable();
        again.dedup();
        Ok(part.batch.select(&again).ok().map(|batch| (batch, wait)))
    }

    fn count_written(&self, messages: usize) {
        self.progress
            .written
            .fetch_add(messages as u64, std::sync::atomic::Ordering::Relaxed);
    }

    fn note(&self, words: &str) {
        note(self.progress, words);
    }
}

/// Keeps messages as dead letters, however long the graveyard has no room: they are neither dropped
/// nor acknowledged meanwhile.
pub async fn bury<G: Graveyard>(
    graveyard: &G,
    progress: &Progress,
    batch: &Batch,
    reason: &ConnectionError,
    attempts: u32,
) {
    let mut tries = 0;
    while let Err(full) = graveyard.bury(batch, reason, attempts).await {
        note(progress, &full);
        tries += 1;
        tokio::time::sleep(retry_delay(tries, rand::random())).await;
    }
    progress
        .buried
        .fetch_add(batch.len() as u64, std::sync::atomic::Ordering::Relaxed);
}

fn note(progress: &Progress, words: &str) {
    progress
        .failures
        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let before = progress.trouble.lock().replace(words.to_owned());
    let now = super::now_ms();
    let last = progress
        .last_failure
        .lock()
        .replace((words.to_owned(), now));
    // Once, until it works again or fails for another reason: a broker that is away for a day is one line.
    // So are reasons that take turns, message by message.
    let in_turns = before.is_some() && last.is_some_and(|(_, at)| now.saturating_sub(at) < 1000);
    if before.as_deref() != Some(words) && !in_turns {
        tracing::warn!(action = %progress.owner, "{words}");
    }
}

/// Waits before the next try: as long as the other side asked, else doubling with full jitter.
async fn pause(asked: Option<Duration>, attempts: u32) {
    let wait = asked.unwrap_or_else(|| retry_delay(attempts, rand::random()));
    tokio::time::sleep(wait).await;
}

/// Full jitter from a floor, doubling from 100 ms to a cap of 10 s.
fn retry_delay(attempts: u32, random: f64) -> Duration {
    let ceiling = Duration::from_millis(100)
        .saturating_mul(
            1_u32
                .checked_shl(attempts.saturating_sub(1))
                .unwrap_or(u32::MAX),
        )
        .min(RETRY_CAP);
    RETRY_FLOOR
        + ceiling
            .saturating_sub(RETRY_FLOOR)
            .mul_f64(random.clamp(0.0, 1.0))
}

fn halve(part: Part, parts: &mut VecDeque<Part>) {
    let middle = part.batch.len() / 2;
    let second = part.batch.slice(middle, part.batch.len());
    let first = part.batch.slice(0, middle);
    parts.push_front(Part {
        batch: second,
        traps: 0,
        attempts: part.attempts,
        in_vain: 0,
    });
    parts.push_front(Part {
        batch: first,
        traps: 0,
        attempts: part.attempts,
        in_vain: 0,
    });
}

#[cfg(test)]
mod tests;
