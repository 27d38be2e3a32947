//! Dead letters that were marked for sending again go back to their action; when they are delivered
//! they are removed. The mark may come from another process on the same data folder. Those that are
//! older than their bound are removed, which is counted and logged.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::engine::{Engine, TENANT};
use super::query::RowBatch;
use super::settle::{Ledger, Settle};
use crate::error::chain;
use crate::message::Batch;
use crate::store::Store;

/// How often letters that are too old are looked for.
const EXPIRE: Duration = Duration::from_secs(10);
/// How often the store is looked at.
const PAUSE: Duration = Duration::from_secs(1);
/// Letters taken up at once per action.
const AT_ONCE: u32 = 100;

/// Looks for marked letters.
#[derive(Debug)]
pub struct Resender {
    store: Store,
    engine: Arc<Engine>,
    ended: Arc<Mutex<Ended>>,
}

/// How letters ended that were on their way, by their numbers.
#[derive(Debug, Default)]
struct Ended {
    delivered: Vec<i64>,
    /// Their action ended before them.
    returned: Vec<i64>,
}

/// One letter on its way; settled when its action has delivered it, put it on disk, or buried it anew.
#[derive(Debug)]
struct Letter {
    id: i64,
    ended: Arc<Mutex<Ended>>,
    settled: bool,
}

impl Drop for Letter {
    fn drop(&mut self) {
        let mut ended = self.ended.lock();
        if self.settled {
            ended.delivered.push(self.id);
        } else {
            ended.returned.push(self.id);
        }
    }
}

impl Settle for Letter {
    fn settle(mut self: Box<Self>) {
        self.settled = true;
    }
    fn is_kept(&self) -> bool {
        true
    }
    fn lossless(&self) -> bool {
        // It is in the store until it is delivered: no reason to write it to the disk queue at once.
        false
    }
}

impl Resender {
    /// For the rules of this engine.
    #[must_use]
    pub fn new(store: Store, engine: Arc<Engine>) -> Self {
        Self {
            store,
            engine,
            ended: Arc::default(),
        }
    }

    /// Runs until told to stop.
    pub async fn run(&self, over: CancellationToken) {
        let mut expired: Option<Instant> = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = over.cancelled() => return,
            }
            self.look().await;
            if expired.is_none_or(|at| at.elapsed() >= EXPIRE) {
                self.expire().await;
                expired = Some(Instant::now());
            }
        }
    }

    async fn expire(&self) {
        match self.store.expire_letters(super::now_ms()).await {
            Ok(0) => {}
            Ok(letters) => tracing::warn!(
                letters,
                "dead letters are older than deadLetterAge and removed"
            ),
            Err(error) => {
                tracing::debug!(error = %chain(&error), "old dead letters cannot be removed");
            }
        }
    }

    async fn look(&self) {
        let Ended {
            delivered,
            returned,
        } = std::mem::take(&mut *self.ended.lock());
        if !returned.is_empty()
            && let Err(error) = self.store.return_resends(TENANT, &returned).await
        {
            tracing::warn!(error = %chain(&error), "dead letters that could not be sent again wait for the next start");
        }
        if !delivered.is_empty()
            && let Err(error) = self.store.resent(TENANT, &delivered).await
        {
            tracing::warn!(error = %chain(&error), "delivered dead letters are still there and will be sent once more");
        }
        let waiting = match self.store.waiting_resends().await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "the dead letters cannot be read");
                return;
            }
        };
        let rules = self.engine.rules();
        for waiting in waiting.iter().filter(|waiting| waiting.tenant == TENANT) {
            // Its rule does not run: the letters wait for it.
            let Some(rule) = rules.iter().find(|rule| rule.id == waiting.rule) else {
                continue;
            };
            let mut outputs = rule.input.outputs.iter();
            let Some(output) = outputs.find(|output| output.action.name == waiting.action) else {
                continue;
            };
            if !output.action.has_room() {
                continue;
            }
            match self
                .store
                .take_resends(TENANT, &waiting.rule, &waiting.action, AT_ONCE)
                .await
            {
                Ok(letters) => {
                    for kept in letters {
                        let settle = Letter {
                            id: kept.id,
                            ended: Arc::clone(&self.ended),
                            settled: false,
                        };
                        let ticket = Ledger::new().open(Some(Box::new(settle)), None, 1);
                        let letter = kept.letter;
                        let source = &rule.source.source;
                        let (message, code) = match source.unpacked(letter.message, &letter.code) {
                            Ok(unpacked) => unpacked,
                            Err(refused) => {
                                let (message, reason) = *refused;
                                rule.input.refuse(&message, &reason, &ticket);
                                continue;
                            }
                        };
                        let batch = Batch::from(vec![message]);
                        let rows = RowBatch::new(batch, source.format().clone());
                        output.again(&rule.input, &rows, code, &ticket);
                    }
                }
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "dead letters cannot be taken")
                }
            }
        }
    }
}
