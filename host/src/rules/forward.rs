//! Dead letters of one rule, forwarded to a connection of the operator's choice: each as a JSON message
//! with its reason and its payload. A letter stays in the store until the other side has taken it, so
//! that while the connection is down nothing happens to it; then it is removed.
//!
//! At least once: between the other side's word and the removal the process may end, and the letter is
//! sent again. `host` and `id` in it tell it from all others.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::deliver::Progress;
use super::engine::TENANT;
use super::retry::RetryPolicy;
use crate::connections::pool::Lease;
use crate::connections::{Granted, PublishOptions, Qos};
use crate::error::{ConnectionError, ErrorKind, chain};
use crate::message::{Batch, Message};
use crate::store::{KeptLetter, Store};

/// Letters in one publish.
const AT_ONCE: u32 = 100;
/// How often it is looked whether there are new ones.
const PAUSE: Duration = Duration::from_millis(500);
/// The store is asked at least so often: letters may have come back from being sent again.
const LOOK: Duration = Duration::from_secs(30);

/// Where the dead letters of a rule go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardTo {
    /// The id of a connection that offers messaging.
    pub connection: String,
    /// The topic.
    pub topic: String,
    /// The level of the delivery.
    pub qos: Qos,
}

/// Forwards the dead letters of one rule.
pub struct Forwarder {
    store: Store,
    rule: String,
    to: ForwardTo,
    lease: Arc<Lease>,
    trouble: Mutex<Option<String>>,
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder")
            .field("rule", &self.rule)
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

/// What came of one publish.
#[derive(Debug, Default)]
struct Outcome {
    /// The other side has these.
    taken: Vec<i64>,
    /// It will never take these; they stay where they are.
    refused: Vec<i64>,
    /// It did not take something else, for this reason.
    failed: Option<ConnectionError>,
}

/// Why some were not taken, by place; or why none was.
type Sent = Result<Vec<(usize, ConnectionError)>, ConnectionError>;

impl Outcome {
    fn add(&mut self, letters: &[KeptLetter], sent: Sent) {
        let rejections = match sent {
            Ok(rejections) => rejections,
            Err(error) if error.kind == ErrorKind::Permanent => {
                self.refused.extend(letters.iter().map(|letter| letter.id));
                return;
            }
            Err(error) => {
                self.failed = Some(error);
                return;
            }
        };
        for (place, letter) in letters.iter().enumerate() {
            match rejections.iter().find(|(index, _)| *index == place) {
                None => self.taken.push(letter.id),
                Some((_, error)) if error.kind == ErrorKind::Permanent => {
                    self.refused.push(letter.id);
                }
                Some((_, error)) => self.failed = Some(error.clone()),
            }
        }
    }
}

impl Forwarder {
    /// Of this rule, over this connection.
    #[must_use]
    pub fn new(store: Store, rule: String, to: ForwardTo, lease: Arc<Lease>) -> Self {
        Self {
            store,
            rule,
            to,
            lease,
            trouble: Mutex::default(),
        }
    }

    /// Why letters stay behind, while some do.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Forwards what is there and what comes. `progress` of the rule's actions says when some have come.
    ///
    /// # Cancel safety
    /// Safe: what was under way stays in the store, and may have arrived.
    pub async fn run(&self, progress: &[&Progress]) {
        // Letters that the other side refuses stay, and are passed by.
        let mut after = 0;
        let mut seen = None;
        let mut looked = Instant::now();
        let mut failures = 0;
        loop {
            let buried: u64 = progress
                .iter()
                .map(|progress| progress.buried.load(Ordering::Relaxed))
                .sum();
            if seen == Some(buried) && looked.elapsed() < LOOK {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            self.link_up().await;
            match self.forward(&mut after).await {
                Ok(0) => {
                    seen = Some(buried);
                    looked = Instant::now();
                    failures = 0;
                }
                Ok(_) => failures = 0,
                Err(error) => {
                    let words = format!("dead letters cannot be forwarded: {error}");
                    self.note(Some(words));
                    failures += 1;
                    let wait =
                        RetryPolicy::default().wait(error.retry_after, failures, rand::random());
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    fn note(&self, words: Option<String>) {
        let mut trouble = self.trouble.lock();
        if *trouble != words {
            if let Some(words) = &words {
                tracing::warn!(rule = %self.rule, connection = %self.to.connection, "{words}");
            }
            *trouble = words;
        }
    }

    async fn link_up(&self) {
        let mut status = self.lease.status();
        // An error: the connection is gone for good, and the publish will say so.
        drop(status.wait_for(|status| status.is_up()).await);
    }

    /// One publish: how many letters it looked at. 0: there are none.
    async fn forward(&self, after: &mut i64) -> Result<usize, ConnectionError> {
        let letters = self
            .store
            .letters_to_forward(TENANT, &self.rule, *after, AT_ONCE)
            .await
            .map_err(|error| ConnectionError::transient("store", chain(&error)))?;
        if letters.is_empty() {
            return Ok(0);
        }
        let outcome = self.publish(&letters).await;
        if !outcome.taken.is_empty() {
            self.store
                .forwarded(TENANT, &outcome.taken)
                .await
                .map_err(|error| ConnectionError::transient("store", chain(&error)))?;
        }
        if let Some(error) = outcome.failed {
            return Err(error);
        }
        if let Some(last) = outcome.refused.last() {
            *after = (*after).max(*last);
        }
        self.note((*after > 0).then(|| {
            format!(
                "the other side refuses some dead letters, number {after} for one; they stay where they are"
            )
        }));
        Ok(letters.len())
    }

    /// Publishes them together, or one by one where the other side says no to all of them.
    async fn publish(&self, letters: &[KeptLetter]) -> Outcome {
        let mut outcome = Outcome::default();
        match self.send(letters).await {
            Err(error) if error.kind == ErrorKind::Permanent && letters.len() > 1 => {
                for letter in letters.chunks(1) {
                    let sent = self.send(letter).await;
                    outcome.add(letter, sent);
                    if outcome.failed.is_some() {
                        break;
                    }
                }
            }
            sent => outcome.add(letters, sent),
        }
        outcome
    }

    async fn send(&self, letters: &[KeptLetter]) -> Sent {
        let messages = letters.iter().map(|letter| self.message(letter));
        let batch = Batch::from(messages.collect::<Vec<_>>());
        let options = PublishOptions {
            subject: Some(self.to.topic.clone()),
            qos: Some(self.to.qos),
            ..PublishOptions::default()
        };
        let connection = self.lease.connection();
        let messaging = connection.messaging().ok_or_else(|| {
            ConnectionError::misconfigured("interface", "the connection has no messaging")
        })?;
        let rejections = messaging.publish(&batch, &options).await?;
        Ok(rejections
            .into_iter()
            .map(|rejection| (rejection.index as usize, rejection.error))
            .collect())
    }

    fn message(&self, letter: &KeptLetter) -> Message {
        let mut json = letter.to_json();
        if let Some(fields) = json.as_object_mut() {
            fields.insert("host".to_owned(), self.store.host_id().into());
            fields.insert("tenant".to_owned(), letter.letter.tenant.clone().into());
            // It is on its way out: where it was means nothing to others.
            fields.shift_remove("state");
        }
        Message::new(json.to_string())
    }
}
