//! How far sources have come: one checkpoint for each, owned by an epoch.

use sqlx::SqliteConnection;

use super::writer::{Write, Written};
use super::{Store, StoreError, signed};

/// What came of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// On disk.
    Committed,
    /// A later epoch owns this source. The caller abandons what it has, acknowledges nothing, stops.
    Fenced,
}

impl Store {
    /// The last checkpoint committed under this key.
    ///
    /// # Errors
    /// [`StoreError`]; it is not known whether there is one.
    pub async fn checkpoint(&self, tenant: &str, key: &str) -> Result<Option<String>, StoreError> {
        sqlx::query_scalar("SELECT checkpoint FROM progress WHERE tenant = $1 AND name = $2")
            .bind(tenant)
            .bind(key)
            .fetch_optional(&self.pool().await?)
            .await
            .map_err(|error| self.failed(error))
    }

    /// Keeps a checkpoint, unless a later epoch has kept one. On disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; the earlier checkpoint is still there.
    pub async fn commit(
        &self,
        tenant: &str,
        key: &str,
        epoch: u64,
        checkpoint: &str,
    ) -> Result<Commit, StoreError> {
        let write = Write::Commit {
            tenant: tenant.to_owned(),
            key: key.to_owned(),
            epoch,
            checkpoint: checkpoint.to_owned(),
        };
        match self.write(write).await? {
            Written::Commit(commit) => Ok(commit),
            other => Err(other.mixed_up()),
        }
    }

    /// Forgets the checkpoint under this key: its source begins anew.
    ///
    /// # Errors
    /// [`StoreError`]; it is still there.
    pub async fn forget_checkpoint(&self, tenant: &str, key: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM progress WHERE tenant = $1 AND name = $2")
            .bind(tenant)
            .bind(key)
            .execute(&self.pool().await?)
            .await
            .map(drop)
            .map_err(|error| self.failed(error))
    }
}

pub(super) async fn commit(
    to: &mut SqliteConnection,
    tenant: &str,
    key: &str,
    epoch: u64,
    checkpoint: &str,
) -> Result<Commit, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO progress (tenant, name, epoch, checkpoint) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (tenant, name) DO UPDATE SET epoch = excluded.epoch, checkpoint = excluded.checkpoint \
         WHERE progress.epoch <= excluded.epoch",
    )
    .bind(tenant)
    .bind(key)
    .bind(signed(epoch))
    .bind(checkpoint)
    .execute(to)
    .await?;
    Ok(if done.rows_affected() == 0 {
        Commit::Fenced
    } else {
        Commit::Committed
    })
}
