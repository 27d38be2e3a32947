//! Puts the writings of callers that meet into one transaction, so that they share one sync.

use std::sync::Arc;

use parking_lot::Mutex;
use sqlx::SqliteConnection;
use tokio::sync::oneshot;

use super::letters::{self, DeadLetter};
use super::progress::{self, Commit};
use super::transaction::Transaction;
use super::{Store, StoreError, StoreOptions, memory};

/// One writing.
#[derive(Debug)]
pub(super) enum Write {
    Commit {
        tenant: String,
        key: String,
        epoch: u64,
        checkpoint: String,
    },
    Bury(Vec<DeadLetter>),
    Remember {
        tenant: String,
        connection: String,
        name: String,
        content: String,
    },
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Written {
    Commit(Commit),
    Buried(Vec<i64>),
    Remembered,
}

impl Written {
    /// The answer to another writing than the one that was asked for: a fault of this program.
    pub(super) fn mixed_up(&self) -> StoreError {
        StoreError::Database(Arc::new(sqlx::Error::Protocol(format!(
            "an answer to another writing: {self:?}"
        ))))
    }
}

/// The writings that wait.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pending: Mutex<Vec<Pending>>,
    /// Who holds it writes for all that have come by then.
    gate: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Pending {
    write: Arc<Write>,
    answer: oneshot::Sender<Result<Written, StoreError>>,
}

impl Store {
    /// Writes; on disk when this returns.
    pub(super) async fn write(&self, write: Write) -> Result<Written, StoreError> {
        let write = Arc::new(write);
        let writer = &self.inner.writer;
        loop {
            let (answer, mut answered) = oneshot::channel();
            writer.pending.lock().push(Pending {
                write: Arc::clone(&write),
                answer,
            });
            let _turn = writer.gate.lock().await;
            match answered.try_recv() {
                Ok(result) => return result,
                // Whoever was about to write it has been dropped: once more.
                Err(oneshot::error::TryRecvError::Closed) => continue,
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            self.write_pending().await;
            if let Ok(result) = answered.try_recv() {
                return result;
            }
        }
    }

    async fn write_pending(&self) {
        let mut pending = std::mem::take(&mut *self.inner.writer.pending.lock());
        pending.retain(|pending| !pending.answer.is_closed());
        let writes: Vec<_> = pending
            .iter()
            .map(|pending| Arc::clone(&pending.write))
            .collect();
        let results = match self.write_together(&writes).await {
            Err(_) if writes.len() > 1 => {
                // One of them may be the reason: let it fail alone.
                let mut results = Vec::with_capacity(writes.len());
                for write in &writes {
                    let alone = self.write_together(std::slice::from_ref(write)).await;
                    results.extend(alone.unwrap_or_else(|error| vec![Err(error)]));
                }
                results
            }
            Ok(results) => results,
            Err(error) => writes.iter().map(|_| Err(error.clone())).collect(),
        };
        for (pending, result) in pending.into_iter().zip(results) {
            // Whoever has gone away does not want to know.
            drop(pending.answer.send(result));
        }
    }

    /// All in one transaction. Inside, an answer for each: a refusal that concerns one alone does
    /// not undo the others.
    async fn write_together(
        &self,
        writes: &[Arc<Write>],
    ) -> Result<Vec<Result<Written, StoreError>>, StoreError> {
        let pool = self.pool().await?;
        let failed = |error| self.failed(error);
        let mut transaction = Transaction::begin(&pool).await.map_err(failed)?;
        let mut results = Vec::with_capacity(writes.len());
        for write in writes {
            let result = apply(write, transaction.connection(), &self.inner.options).await;
            results.push(result.map_err(failed)?);
        }
        transaction.commit().await.map_err(failed)?;
        Ok(results)
    }
}

async fn apply(
    write: &Write,
    to: &mut SqliteConnection,
    options: &StoreOptions,
) -> Result<Result<Written, StoreError>, sqlx::Error> {
    match write {
        Write::Commit {
            tenant,
            key,
            epoch,
            checkpoint,
        } => Ok(Ok(Written::Commit(
            progress::commit(to, tenant, key, *epoch, checkpoint).await?,
        ))),
        Write::Bury(letters) => Ok(letters::bury(to, letters, options)
            .await?
            .map(Written::Buried)),
        Write::Remember {
            tenant,
            connection,
            name,
            content,
        } => {
            memory::remember(to, tenant, connection, name, content).await?;
            Ok(Ok(Written::Remembered))
        }
    }
}
