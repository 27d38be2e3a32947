//! Drives one case: its connections, its reads or writes, and everything that came out.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::compare::{self, Difference};
use super::read::Case;
use crate::connections::Qos;
use crate::error::ConnectionError;
use crate::harness::alone::Alone;
use crate::harness::scripted::{Call, Record, Scripted};
use crate::interfaces::Grant;
use crate::message::{Batch, Message, Rejection};
use crate::runtime::{GuestError, Read};

/// After so long without a message, a source that waits for one is asked to come back.
const QUIET: Duration = Duration::from_millis(200);
/// Reads in a row that gave nothing although nobody asked for the guest.
const MOST_EMPTY: u32 = 1_000;

/// What came out of a case.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What a source gave, in order.
    pub messages: Vec<Message>,
    /// Its last checkpoint.
    pub checkpoint: Option<String>,
    /// What it said last about the time until the next read.
    pub idle: Option<Duration>,
    /// It will give nothing more.
    pub finished: bool,
    /// Messages of the connections that are settled.
    pub settled: usize,
    /// What was asked of the connections, in order.
    pub calls: Vec<Call>,
    /// What a sink rejected, with the number of the batch.
    pub rejections: Vec<(usize, Rejection)>,
    /// Why it ended.
    pub failure: Option<Failure>,
    /// What may explain a failure.
    pub notes: Vec<String>,
}

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The error's kind; `trap` or `overtime` for a guest that could not say one.
    pub kind: &'static str,
    /// The error's code.
    pub code: String,
    /// Its words.
    pub message: String,
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        let kind = match &error {
            GuestError::Said { error, .. } => {
                return Self {
                    kind: error.kind.as_str(),
                    code: error.code.clone(),
                    message: error.message.clone(),
                };
            }
            GuestError::Trapped { .. } | GuestError::CannotStart { .. } => "trap",
            GuestError::Overtime { .. } => "overtime",
        };
        Self {
            kind,
            code: String::new(),
            message: error.to_string(),
        }
    }
}

impl Case {
    /// Runs it.
    pub async fn run(&self, connector: &Alone) -> Outcome {
        let record = Arc::new(Record::default());
        let connections: Vec<Arc<Scripted>> = self
            .connections
            .iter()
            .map(|(slot, interface, script)| {
                Scripted::new(slot, *interface, script.clone(), &record)
            })
            .collect();
        let grants: Arc<[Grant]> = connections.iter().map(Scripted::grant).collect();
        let ends = Instant::now() + self.timeout;
        let work: std::pin::Pin<Box<dyn Future<Output = Outcome> + Send>> = if self.is_source {
            let source = connector.source(self.config.clone(), grants);
            Box::pin(read(
                source,
                Reading {
                    resume: self.resume.clone(),
                    recycle: self.recycle,
                    reads: self.reads,
                    settle: self.settle,
                    ends,
                },
            ))
        } else {
            let sink = connector.sink(self.config.clone(), grants);
            let batches = self.write.iter().cloned().map(Batch::from).collect();
            Box::pin(write(sink, batches, self.recycle, ends))
        };
        let mut outcome = connector.run(work).await.unwrap_or_else(|| Outcome {
            failure: Some(Failure {
                kind: "trap",
                code: String::new(),
                message: "the run itself failed; see the log".to_owned(),
            }),
            ..Outcome::default()
        });
        outcome.settled = connections.iter().map(|one| one.settled()).sum();
        outcome.calls = record.take();
        for connection in &connections {
            for subject in connection.unwanted() {
                let slot = connection.slot();
                outcome.notes.push(format!(
                    "connection {slot}: nobody subscribed to what the message on \"{subject}\" is on"
                ));
            }
            if connection.unused() > 0 {
                let (slot, unused) = (connection.slot(), connection.unused());
                outcome.notes.push(format!(
                    "connection {slot}: {unused} of its answers were not used"
                ));
            }
        }
        outcome
    }

    /// Where the outcome is another than expected; empty: nowhere.
    #[must_use]
    pub fn judge(&self, outcome: &Outcome) -> Vec<Difference> {
        compare::compare(&self.expect, outcome)
    }
}

struct Reading {
    resume: Option<String>,
    recycle: bool,
    reads: Option<u32>,
    settle: bool,
    ends: Instant,
}

fn late() -> Failure {
    Failure {
        kind: "overtime",
        code: "timeout".to_owned(),
        message: "the case was not done within its timeout".to_owned(),
    }
}

async fn read(mut source: crate::harness::alone::Source, how: Reading) -> Outcome {
    let mut outcome = Outcome::default();
    source.recycle_each(how.recycle);
    if let Err(error) = source.open(how.resume).await {
        outcome.failure = Some(error.into());
        return outcome;
    }
    let mut unsettled = Vec::new();
    let (mut reads, mut empty) = (0_u32, 0_u32);
    while how.reads.is_none_or(|most| reads < most) {
        if Instant::now() >= how.ends {
            outcome.failure = Some(late());
            break;
        }
        let (read, woken) = source.read(QUIET).await;
        reads += 1;
        // A guest that was asked to come back may have left something behind.
        let nothing_more = how.reads.is_none() && source.waiting() == 0;
        match read {
            Ok(Read::Messages {
                batch,
                checkpoint,
                takes,
            }) => {
                let is_empty = batch.is_empty();
                outcome.messages.extend(batch.iter().cloned());
                outcome.checkpoint = checkpoint.or(outcome.checkpoint);
                if how.settle {
                    takes.settle();
                } else {
                    unsettled.push(takes);
                }
                empty = if is_empty { empty + 1 } else { 0 };
                if nothing_more && is_empty && (woken || empty >= MOST_EMPTY) {
                    break;
                }
            }
            Ok(Read::Idle(wait)) => {
                outcome.idle = Some(wait);
                if nothing_more {
                    break;
                }
                tokio::time::sleep_until((Instant::now() + wait).min(how.ends)).await;
            }
            Ok(Read::Finished) => {
                outcome.finished = true;
                break;
            }
            Err(error) => {
                outcome.failure = Some(error.into());
                break;
            }
        }
    }
    source.close().await;
    outcome
}

async fn write(
    mut sink: crate::harness::alone::Sink,
    batches: Vec<Batch>,
    recycle: bool,
    ends: Instant,
) -> Outcome {
    let mut outcome = Outcome::default();
    sink.recycle_each(recycle);
    if let Err(error) = sink.open().await {
        outcome.failure = Some(error.into());
        return outcome;
    }
    for (number, batch) in batches.into_iter().enumerate() {
        if Instant::now() >= ends {
            outcome.failure = Some(late());
            break;
        }
        match sink.write(batch).await {
            Ok(rejections) => {
                let rejections = rejections.into_iter().map(|one| (number, one));
                outcome.rejections.extend(rejections);
            }
            Err(error) => {
                outcome.failure = Some(error.into());
                break;
            }
        }
    }
    sink.close().await;
    outcome
}

/// The number of a level.
pub(super) fn qos_number(qos: Qos) -> u8 {
    match qos {
        Qos::AtMostOnce => 0,
        Qos::AtLeastOnce => 1,
        Qos::ExactlyOnce => 2,
    }
}

/// An error as a test file would write it.
pub(super) fn error_words(error: &ConnectionError) -> String {
    format!("{} ({}): {}", error.kind, error.code, error.message)
}
