//! A sink alone: lines to batches, by the same delivery as in a rule. What is rejected is told.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Line, Outcome, Tell, Trial, lines};
use crate::error::ConnectionError;
use crate::message::{Batch, Message};
use crate::rules::action::{Links as _, Sink as _};
use crate::rules::deliver::{Delivery, Graveyard, Progress};
use crate::rules::output::Addressed;
use crate::rules::sink::{GuestSink, Slots};
use crate::runtime::SinkGuest;

/// Lines as they come in; closed at the end of the input.
pub type Input = mpsc::Receiver<io::Result<Line>>;

/// Messages in one write.
const MOST: usize = 1024;
/// How long what is in hand may be delivered after it was told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Tells what can never be written, with its line.
struct Told {
    tell: Tell,
    /// Line numbers of the present batch, by where the payload lies in memory.
    numbers: Mutex<Vec<(usize, u64)>>,
    count: AtomicU64,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Told")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Told {
    fn reject(&self, line: Option<u64>, why: &str) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let line = line.map_or_else(|| "a line".to_owned(), |line| format!("line {line}"));
        (self.tell)(&format!("{line}: rejected: {why}"));
    }

    fn line_of(&self, message: &Message) -> Option<u64> {
        let place = message.payload.as_ptr().addr();
        let numbers = self.numbers.lock();
        let found = numbers.iter().find(|(known, _)| *known == place);
        found
            .filter(|_| !message.payload.is_empty())
            .map(|(_, number)| *number)
    }
}

#[async_trait]
impl Graveyard for Told {
    async fn bury(
        &self,
        batch: &Batch,
        reason: &ConnectionError,
        _attempts: u32,
    ) -> Result<(), String> {
        for message in batch.iter() {
            let why = format!("{} ({}, {})", reason.message, reason.kind, reason.code);
            self.reject(self.line_of(message), &why);
        }
        Ok(())
    }
}

struct Writing {
    sink: GuestSink,
    slots: Slots,
    input: Input,
    json: bool,
    dynamic: Vec<Addressed>,
    max: Option<u64>,
    told: Told,
    progress: Progress,
    stop: CancellationToken,
    outcome: Outcome,
}

impl Trial {
    /// Writes the lines until their end, or until it is told to stop or has taken `max` of them.
    pub async fn write(
        self,
        input: Input,
        json: bool,
        max: Option<u64>,
        tell: Tell,
        stop: CancellationToken,
    ) -> Outcome {
        // No source has to subscribe first.
        self.pool.takers_known();
        let guest = SinkGuest::new(
            &self.runtime,
            Arc::clone(&self.connector),
            self.guest.clone(),
        );
        let writing = Writing {
            sink: GuestSink::new(guest, self.slots.clone()),
            slots: self.slots.clone(),
            input,
            json,
            dynamic: self.dynamic.clone(),
            max,
            told: Told {
                tell,
                numbers: Mutex::default(),
                count: AtomicU64::new(0),
            },
            progress: Progress {
                owner: self.connector.name.to_string(),
                ..Progress::default()
            },
            stop,
            outcome: Outcome::default(),
        };
        let task = AbortOnDropHandle::new(self.runtime.handle().spawn(writing.run()));
        let outcome = task.await.unwrap_or_else(|error| Outcome {
            failure: Some(format!("ended by a fault of the host: {error}")),
            ..Outcome::default()
        });
        self.end().await;
        outcome
    }
}

impl Writing {
    async fn run(mut self) -> Outcome {
        let mut trapped = VecDeque::new();
        let (mut taken, mut delivered) = (0_u64, 0_u64);
        loop {
            let left = self.max.map_or(u64::MAX, |max| max.saturating_sub(taken));
            let room = usize::try_from(left).unwrap_or(MOST).min(MOST);
            let mut found = Vec::new();
            let count = tokio::select! {
                biased;
                () = self.stop.cancelled() => 0,
                count = self.input.recv_many(&mut found, room), if room > 0 => count,
                else => 0,
            };
            if count == 0 {
                break;
            }
            taken += count as u64;
            let batch = self.batch(found);
            delivered += batch.len() as u64;
            let mut delivery =
                Delivery::new(&mut self.sink, &self.told, &self.progress, &mut trapped);
            let ended = tokio::select! {
                biased;
                ended = delivery.run(batch, crate::rules::now_ms()) => ended,
                () = hopeless(&self.stop, &self.slots) => break,
            };
            if let Err(stop) = ended {
                self.outcome.failure = Some(stop.0);
                break;
            }
            if self.outcome.failure.is_some() {
                break;
            }
        }
        self.sink.close().await;
        let buried = self.progress.buried.load(Ordering::Relaxed);
        self.outcome.messages = self.progress.written.load(Ordering::Relaxed);
        self.outcome.rejected = self.told.count.load(Ordering::Relaxed);
        self.outcome.unwritten = delivered.saturating_sub(self.outcome.messages + buried);
        self.outcome
    }

    /// The messages of these lines; a line that is none is told at once.
    fn batch(&mut self, found: Vec<io::Result<Line>>) -> Batch {
        let mut messages = Vec::with_capacity(found.len());
        let mut numbers = Vec::with_capacity(found.len());
        for line in found {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    self.outcome.failure = Some(format!("the input cannot be read: {error}"));
                    break;
                }
            };
            let number = line.number;
            let made = lines::message(line.text, self.json).and_then(|mut message| {
                for property in &self.dynamic {
                    let rendered = property.render_json(&message.payload);
                    let text = rendered.map_err(|error| error.to_string())?;
                    message = property.put(message, text);
                }
                Ok(message)
            });
            match made {
                Ok(message) => {
                    numbers.push((message.payload.as_ptr().addr(), number));
                    messages.push(message);
                }
                Err(why) => self.told.reject(Some(number), &why),
            }
        }
        *self.told.numbers.lock() = numbers;
        Batch::from(messages)
    }
}

/// It was told to stop, and a connection is down or the time is over.
async fn hopeless(stop: &CancellationToken, slots: &Slots) {
    stop.cancelled().await;
    let down = async {
        while slots.are_up() {
            slots.changed().await;
        }
    };
    tokio::select! {
        () = down => {}
        () = tokio::time::sleep(DRAIN) => {}
    }
}
