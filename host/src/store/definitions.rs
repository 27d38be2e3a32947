//! What users made: connections, streams, rules, each a JSON text with a revision.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::transaction::Transaction;
use super::{Store, StoreError, unsigned};

/// One definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its id within tenant and kind.
    pub id: String,
    /// Grows with each change. No two definitions of a tenant ever have the same one, also when one
    /// was deleted and made again.
    pub revision: u64,
    /// JSON.
    pub body: String,
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// On disk, with this revision now (of a deletion: the one that was deleted).
    Done(u64),
    /// It has not the revision that was expected, but this one; 0: it does not exist.
    Conflict(u64),
}

fn read(row: &SqliteRow) -> Result<Definition, sqlx::Error> {
    Ok(Definition {
        id: row.try_get("id")?,
        revision: unsigned(row.try_get("revision")?),
        body: row.try_get("body")?,
    })
}

impl Store {
    /// One definition.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn definition(
        &self,
        tenant: &str,
        kind: &str,
        id: &str,
    ) -> Result<Option<Definition>, StoreError> {
        let row = sqlx::query("SELECT id, revision, body FROM definitions WHERE tenant = $1 AND kind = $2 AND id = $3")
            .bind(tenant)
            .bind(kind)
            .bind(id)
            .fetch_optional(&self.pool().await?)
            .await;
        row.and_then(|row| row.as_ref().map(read).transpose())
            .map_err(|error| self.failed(error))
    }

    /// All definitions of a kind, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn definitions(
        &self,
        tenant: &str,
        kind: &str,
    ) -> Result<Vec<Definition>, StoreError> {
        let rows =
            sqlx::query("SELECT id, revision, body FROM definitions WHERE tenant = $1 AND kind = $2 ORDER BY id")
                .bind(tenant)
                .bind(kind)
                .fetch_all(&self.pool().await?)
                .await;
        rows.and_then(|rows| rows.iter().map(read).collect())
            .map_err(|error| self.failed(error))
    }

    /// Makes or changes a definition. `expected`: only if it has this revision; 0: only if it does
    /// not exist.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed.
    pub async fn put_definition(
        &self,
        tenant: &str,
        kind: &str,
        id: &str,
        body: &str,
        expected: Option<u64>,
    ) -> Result<Put, StoreError> {
        let changed = self
            .change_definition(tenant, kind, id, Some(body), expected)
            .await;
        changed.map_err(|error| self.failed(error))?
    }

    /// Deletes a definition. `expected` as in [`Store::put_definition`].
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed.
    pub async fn delete_definition(
        &self,
        tenant: &str,
        kind: &str,
        id: &str,
        expected: Option<u64>,
    ) -> Result<Put, StoreError> {
        let changed = self
            .change_definition(tenant, kind, id, None, expected)
            .await;
        changed.map_err(|error| self.failed(error))?
    }

    async fn change_definition(
        &self,
        tenant: &str,
        kind: &str,
        id: &str,
        body: Option<&str>,
        expected: Option<u64>,
    ) -> Result<Result<Put, StoreError>, sqlx::Error> {
        let pool = match self.pool().await {
            Ok(pool) => pool,
            Err(error) => return Ok(Err(error)),
        };
        let mut transaction = Transaction::begin(&pool).await?;
        let present: Option<i64> = sqlx::query_scalar(
            "SELECT revision FROM definitions WHERE tenant = $1 AND kind = $2 AND id = $3",
        )
        .bind(tenant)
        .bind(kind)
        .bind(id)
        .fetch_optional(transaction.connection())
        .await?;
        let present = present.map_or(0, unsigned);
        if expected.is_some_and(|expected| expected != present) || (body.is_none() && present == 0)
        {
            transaction.commit().await?;
            return Ok(Ok(Put::Conflict(present)));
        }
        let revision = match body {
            Some(body) => {
                let next: i64 = sqlx::query_scalar(
                    "INSERT INTO revisions (tenant, last) VALUES ($1, 1) \
                     ON CONFLICT (tenant) DO UPDATE SET last = revisions.last + 1 RETURNING last",
                )
                .bind(tenant)
                .fetch_one(transaction.connection())
                .await?;
                sqlx::query(
                    "INSERT INTO definitions (tenant, kind, id, revision, body) VALUES ($1, $2, $3, $4, $5) \
                     ON CONFLICT (tenant, kind, id) DO UPDATE SET revision = excluded.revision, body = excluded.body",
                )
                .bind(tenant)
                .bind(kind)
                .bind(id)
                .bind(next)
                .bind(body)
                .execute(transaction.connection())
                .await?;
                unsigned(next)
            }
            None => {
                sqlx::query("DELETE FROM definitions WHERE tenant = $1 AND kind = $2 AND id = $3")
                    .bind(tenant)
                    .bind(kind)
                    .bind(id)
                    .execute(transaction.connection())
                    .await?;
                present
            }
        };
        transaction.commit().await?;
        Ok(Ok(Put::Done(revision)))
    }
}
