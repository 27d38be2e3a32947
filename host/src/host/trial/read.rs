//! A source alone: read, print, settle, in that order, one read at a time.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Outcome, Tell, Trial, lines};
use crate::connections::pool::Pool;
use crate::error::ErrorKind;
use crate::runtime::{GuestError, Read, SourceGuest};

/// How long a reader of the lines may hold up the end.
const GRACE: Duration = Duration::from_secs(2);
/// Failures in a row that do not lie in the weather, before it ends.
const FAILURES: u32 = 10;
/// From so many on, messages are taken one by one, to find out which of them it is.
const CLOSELY: u32 = 3;
const RETRY_CAP: Duration = Duration::from_secs(5);

/// Takes the lines. What it has answered for is settled.
#[async_trait]
pub trait Printer: Send + 'static {
    /// Writes whole lines, and returns when they are out of this process.
    ///
    /// # Errors
    /// They are not, and never will be: nothing more is read.
    async fn print(&mut self, lines: Vec<u8>) -> io::Result<()>;
}

/// How a source is read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// A checkpoint to go on from.
    pub resume: Option<String>,
    /// End after so many messages.
    pub max: Option<u64>,
    /// Always a JSON object, also for text on one line.
    pub json: bool,
}

struct Reader<P> {
    guest: SourceGuest,
    pool: Pool,
    printer: P,
    options: Reading,
    tell: Tell,
    stop: CancellationToken,
    outcome: Outcome,
    /// Told last, so that a storm of failures is one line.
    told: Option<String>,
}

impl Trial {
    /// Reads and prints until it is told to stop, has printed enough, or there is nothing more.
    pub async fn read(
        self,
        printer: impl Printer,
        options: Reading,
        tell: Tell,
        stop: CancellationToken,
    ) -> Outcome {
        let handle = self.runtime.handle();
        let guest = SourceGuest::new(
            &self.runtime,
            std::sync::Arc::clone(&self.connector),
            self.guest.clone(),
        );
        let reader = Reader {
            guest,
            pool: self.pool.clone(),
            printer,
            options,
            tell,
            stop,
            outcome: Outcome::default(),
            told: None,
        };
        let task = AbortOnDropHandle::new(handle.spawn(reader.run()));
        let outcome = task.await.unwrap_or_else(|error| Outcome {
            failure: Some(format!("ended by a fault of the host: {error}")),
            ..Outcome::default()
        });
        self.end().await;
        outcome
    }
}

impl<P: Printer> Reader<P> {
    async fn run(mut self) -> Outcome {
        if self.open().await {
            while self.step().await {}
        }
        // Before the guest goes: what it leaves must stay with the other side.
        self.pool.going_down();
        self.guest.close().await;
        self.outcome
    }

    async fn open(&mut self) -> bool {
        let mut failures = 0;
        loop {
            let opened = self.guest.open(self.options.resume.clone()).await;
            self.pool.takers_known();
            let Err(error) = opened else { return true };
            failures += 1;
            if !self.failed(&error, failures).await {
                return false;
            }
        }
    }

    fn left(&self) -> usize {
        let left = self
            .options
            .max
            .map(|max| max.saturating_sub(self.outcome.messages));
        left.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        })
    }

    /// One read that worked, to its end. False: that was the last.
    async fn step(&mut self) -> bool {
        let mut failures = 0;
        loop {
            if self.stop.is_cancelled() || self.left() == 0 {
                return false;
            }
            self.guest.bound(self.left());
            match self.read_once().await {
                Ok(Read::Messages {
                    batch,
                    checkpoint,
                    takes,
                }) => {
                    let shown = batch.slice(0, self.left());
                    let mut text = Vec::new();
                    for message in shown.iter() {
                        lines::append(&mut text, message, self.options.json);
                    }
                    if !text.is_empty() && !self.print(text).await {
                        return false;
                    }
                    self.outcome.messages += shown.len() as u64;
                    if shown.len() == batch.len() {
                        takes.settle();
                        if checkpoint.is_some() {
                            self.outcome.checkpoint = checkpoint;
                        }
                    }
                    // A batch that was cut is not settled: it comes again as a whole.
                    self.told = None;
                    return true;
                }
                Ok(Read::Idle(wait)) => {
                    tokio::select! {
                        () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
                        () = self.stop.cancelled() => {}
                    }
                }
                Ok(Read::Finished) => return false,
                Err(error) => {
                    failures += 1;
                    if !self.failed(&error, failures).await {
                        return false;
                    }
                }
            }
        }
    }

    /// A read, from which the guest is asked back when it is time to stop.
    async fn read_once(&mut self) -> Result<Read, GuestError> {
        let waker = self.guest.waker();
        let read = self.guest.read();
        tokio::pin!(read);
        tokio::select! {
            biased;
            read = &mut read => return read,
            () = self.stop.cancelled() => waker.wake(),
        }
        read.await
    }

    async fn print(&mut self, text: Vec<u8>) -> bool {
        let hurry = async {
            self.stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        let printed = tokio::select! {
            biased;
            printed = self.printer.print(text) => printed,
            () = hurry => {
                (self.tell)("the last lines could not be written in time; what they hold is not acknowledged");
                return false;
            }
        };
        match printed {
            Ok(()) => true,
            Err(error) => {
                self.outcome.printer = Some(error);
                false
            }
        }
    }

    /// Whether to try again, after a wait.
    async fn failed(&mut self, error: &GuestError, failures: u32) -> bool {
        let words = error.to_string();
        let (weather, asked) = match error {
            GuestError::Said { error, .. } => match error.kind {
                ErrorKind::Denied | ErrorKind::Misconfigured => {
                    self.outcome.failure = Some(words);
                    return false;
                }
                ErrorKind::Transient | ErrorKind::Disconnected => (true, error.retry_after),
                ErrorKind::Permanent => (false, error.retry_after),
            },
            GuestError::Trapped { .. }
            | GuestError::Overtime { .. }
            | GuestError::CannotStart { .. } => (false, None),
        };
        if !weather && failures >= FAILURES {
            if let Some((message, takes)) = self.guest.take_suspect() {
                // Dropped, not settled: it stays with whoever sent it.
                drop(takes);
                let mut line = Vec::new();
                lines::append(&mut line, &message, true);
                let line = String::from_utf8_lossy(&line);
                (self.tell)(&format!("it fails on this message: {}", line.trim_end()));
            }
            self.outcome.failure = Some(format!("{words} ({failures} times in a row)"));
            return false;
        }
        if !weather && failures >= CLOSELY {
            self.guest.look_closely();
        }
        if self.told.as_ref() != Some(&words) {
            (self.tell)(&words);
            self.told = Some(words);
        }
        let doubling = Duration::from_millis(50).saturating_mul(1 << failures.min(10));
        tokio::select! {
            () = tokio::time::sleep(asked.unwrap_or_else(|| doubling.min(RETRY_CAP))) => true,
            () = self.stop.cancelled() => false,
        }
    }
}
