//! Gets a batch to its end: written, or dead-lettered message by message. Retries as its policy says
//! (`retry`), waits for the slots, bisects what a sink chokes on. Knows nothing of queues or of
//! settlement: who calls it keeps the batch, and may put it on disk meanwhile.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use self::part::{Clock, Part, halve, millis};
use super::retry::RetryPolicy;
use crate::error::{ConnectionError, ErrorKind};
use crate::message::{Batch, Message, Rejection};

mod part;

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

/// Delivers the batches of one action, one after another.
#[derive(Debug)]
pub struct Delivery<'a, W, G> {
    writer: &'a mut W,
    graveyard: &'a G,
    progress: &'a Progress,
    trapped: &'a mut VecDeque<Instant>,
    retry: RetryPolicy,
    clock: Clock,
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
            retry: RetryPolicy::default(),
            clock: Clock::new(0),
        }
    }

    /// When a failed write is tried again, and when its messages are given up.
    #[must_use]
    pub fn with_retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Returns when every message is written or dead-lettered. Order is kept also over retries:
    /// nothing of a later batch is written before this one is done. Messages that do not say when
    /// they arrived were taken at `taken_ms` (ms since the Unix epoch).
    ///
    /// # Errors
    /// [`Stop`]: the configuration cannot work, the grant is missing, or the connector is broken.
    ///
    /// # Cancel safety
    /// A write may be under way: what of it arrived is not known.
    pub async fn run(&mut self, batch: Batch, taken_ms: u64) -> Result<(), Stop> {
        self.clock = Clock::new(taken_ms);
        let mut parts = VecDeque::from([Part {
            batch,
            tries: Vec::new(),
            traps: 0,
            attempts: 0,
            in_vain: 0,
        }]);
        while let Some(part) = parts.pop_front() {
            if part.batch.is_empty() {
                continue;
            }
            let Some(mut part) = self.links_up(part).await else {
                continue;
            };
            part.attempts = part.attempts.saturating_add(1);
            part.in_vain = part.in_vain.saturating_add(1);
            let outcome = self.writer.write(part.batch.clone()).await;
            match outcome {
                Ok(rejections) => {
                    let rejected = rejections.len();
                    let again = self.sort_rejections(&part, rejections).await?;
                    self.count_written(part.batch.len().saturating_sub(rejected));
                    if again.is_empty() {
                        *self.progress.trouble.lock() = None;
                        continue;
                    }
                    if rejected < part.batch.len() {
                        part.in_vain = 1;
                    }
                    part.traps = 0;
                    if let Some(left) = self.again(part, &again).await {
                        parts.push_front(left);
                    }
                }
                Err(WriteError::Said(error)) => self.said(part, error, &mut parts).await?,
                Err(WriteError::Unready(words)) => {
                    self.note(&words);
                    let wait = self.retry.wait(None, part.in_vain, rand::random());
                    tokio::time::sleep(wait).await;
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
                let all = (0..part.batch.len()).map(|place| (place, error.clone()));
                let all: Vec<_> = all.collect();
                if let Some(left) = self.again(part, &all).await {
                    parts.push_front(left);
                }
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

    /// What is left to write after rejections: the places of the transient ones, in order, and why.
    async fn sort_rejections(
        &mut self,
        part: &Part,
        rejections: Vec<Rejection>,
    ) -> Result<Vec<(usize, ConnectionError)>, Stop> {
        let mut again = Vec::new();
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
                    again.push((index as usize, error));
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
        again.sort_by_key(|(place, _)| *place);
        again.dedup_by_key(|(place, _)| *place);
        Ok(again)
    }

    /// Waits until the next try of these messages of a part, and gives what is left of it. Those that
    /// have been tried often or long enough become dead letters first; the wait is kept all the same,
    /// for it is the other side that needs it.
    async fn again(&mut self, part: Part, failed: &[(usize, ConnectionError)]) -> Option<Part> {
        let asked = failed.iter().filter_map(|(_, error)| error.retry_after);
        let wait = self.retry.wait(asked.max(), part.in_vain, rand::random());
        let next = self.clock.now_ms().saturating_add(millis(wait));
        let (mut left, mut tries) = (Vec::new(), Vec::new());
        let mut gone: Vec<(Vec<Message>, ConnectionError, u32)> = Vec::new();
        for (place, error) in failed {
            let Some(message) = part.batch.get(*place) else {
                continue;
            };
            let before = part.tries.get(*place).copied().unwrap_or_default();
            let tried = before.saturating_add(u32::from(error.was_tried()));
            match self.given_up(message, tried, error, next) {
                None => {
                    left.push(u32::try_from(*place).unwrap_or(u32::MAX));
                    tries.push(tried);
                }
                Some(reason) => match gone.last_mut() {
                    Some((messages, same, _)) if same.message == reason.message => {
                        messages.push(message.clone());
                    }
                    _ => gone.push((vec![message.clone()], reason, tried)),
                },
            }
        }
        for (messages, reason, tried) in gone {
            let attempts = tried.max(1);
            bury(
                self.graveyard,
                self.progress,
                &messages.into(),
                &reason,
                attempts,
            )
            .await;
        }
        tokio::time::sleep(wait).await;
        let batch = part
            .batch
            .select(&left)
            .ok()
            .filter(|left| !left.is_empty())?;
        Some(Part {
            batch,
            tries,
            ..part
        })
    }

    /// Why a message is not tried again, if the next try would be at `next` (ms since the Unix epoch).
    fn given_up(
        &self,
        message: &Message,
        tried: u32,
        error: &ConnectionError,
        next: u64,
    ) -> Option<ConnectionError> {
        let because = |words: String| {
            let words = format!("given up {words}: {error}");
            Some(ConnectionError::new(error.kind, error.code.clone(), words))
        };
        if error.was_tried() && self.retry.is_used_up(tried) {
            return because(format!("after {tried} tries"));
        }
        let counts = error.was_tried() || self.retry.expire_while_down;
        let until = self.retry.until_ms(self.clock.taken_ms(message))?;
        if counts && until < next {
            let deadline = self.retry.deadline.unwrap_or_default();
            return because(format!("{deadline:?} after it was taken"));
        }
        None
    }

    /// Waits until the connections are up, and gives what is left of the part. Where the policy says
    /// so, messages whose deadline comes first become dead letters.
    async fn links_up(&mut self, mut part: Part) -> Option<Part> {
        if !self.retry.expire_while_down || self.retry.deadline.is_none() {
            self.writer.slots_up().await;
            return Some(part);
        }
        let down = ConnectionError::disconnected("deadline", "its connection was down");
        loop {
            let (retry, clock) = (&self.retry, &self.clock);
            let until = |message: &Message| retry.until_ms(clock.taken_ms(message));
            let first = part.batch.iter().filter_map(until).min()?;
            let left =
                Duration::from_millis(first.saturating_add(1).saturating_sub(clock.now_ms()));
            tokio::select! {
                biased;
                () = self.writer.slots_up() => return Some(part),
                () = tokio::time::sleep(left) => {}
            }
            let now = self.clock.now_ms();
            let mut keep = Vec::new();
            let mut gone = Vec::new();
            let mut reason = None;
            for (message, place) in part.batch.iter().zip(0_u32..) {
                match self.given_up(message, 0, &down, now) {
                    None => keep.push(place),
                    given_up => {
                        reason = given_up;
                        gone.push(message.clone());
                    }
                }
            }
            if let Some(reason) = reason {
                let attempts = part.attempts;
                bury(
                    self.graveyard,
                    self.progress,
                    &gone.into(),
                    &reason,
                    attempts,
                )
                .await;
            }
            part = part.pick(&keep)?;
        }
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
        let wait = RetryPolicy::default().wait(None, tries, rand::random());
        tokio::time::sleep(wait).await;
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

#[cfg(test)]
mod tests;
