//! Dead letters that leave the store by themselves: those that are too old, and those that were
//! forwarded. Counts both since the start.

use std::sync::atomic::Ordering;

use sqlx::{Row, SqliteConnection};

use super::letters::{KeptLetter, read};
use super::transaction::Transaction;
use super::{Store, StoreError, signed, unsigned};

/// Letters removed for their age in one transaction: nobody else waits longer for the database.
const AT_ONCE: i64 = 1000;

/// What has left since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Removed for their age.
    pub expired: u64,
    /// Forwarded, and removed with that.
    pub forwarded: u64,
}

impl Store {
    /// What has left since the start.
    #[must_use]
    pub fn letters_gone(&self) -> Gone {
        Gone {
            expired: self.inner.expired.load(Ordering::Relaxed),
            forwarded: self.inner.forwarded.load(Ordering::Relaxed),
        }
    }

    /// Removes dead letters of all tenants that are older than the bound, if there is one, and counts
    /// them: how many. Those that are to be sent again stay. `now_ms` is in milliseconds since the Unix
    /// epoch.
    ///
    /// # Errors
    /// [`StoreError`]; some may be removed, and are counted.
    pub async fn expire_letters(&self, now_ms: u64) -> Result<u64, StoreError> {
        let Some(age) = self.inner.options.dead_letter_age else {
            return Ok(0);
        };
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let before = signed(now_ms.saturating_sub(age));
        let pool = self.pool().await?;
        let mut all = 0;
        loop {
            let removed = async {
                let mut transaction = Transaction::begin(&pool).await?;
                let removed = expire(transaction.connection(), before).await?;
                transaction.commit().await?;
                Ok(removed)
            };
            let removed = removed.await.map_err(|error| self.failed(error))?;
            self.inner.expired.fetch_add(removed, Ordering::Relaxed);
            all += removed;
            if removed < unsigned(AT_ONCE) {
                return Ok(all);
            }
        }
    }

    /// Letters of one rule that lie there, whole, those with a higher number than `after`, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn letters_to_forward(
        &self,
        tenant: &str,
        rule: &str,
        after: i64,
        max: u32,
    ) -> Result<Vec<KeptLetter>, StoreError> {
        let rows = sqlx::query(
            "SELECT tenant, id, rule, action, stream, subject, headers, qos, retained, message_id, arrived_ms, \
             kind, code, reason, attempts, at_ms, state, length(payload) AS payload_bytes, payload \
             FROM dead_letters WHERE tenant = $1 AND rule = $2 AND state = 0 AND id > $3 ORDER BY id LIMIT $4",
        )
            .bind(tenant)
            .bind(rule)
            .bind(after)
            .bind(i64::from(max))
            .fetch_all(&self.pool().await?)
            .await;
        rows.and_then(|rows| rows.iter().map(read).collect())
            .map_err(|error| self.failed(error))
    }

    /// These have been forwarded: they are removed.
    ///
    /// # Errors
    /// [`StoreError`]; they may be forwarded once more.
    pub async fn forwarded(&self, tenant: &str, ids: &[i64]) -> Result<u64, StoreError> {
        let removed = self.remove_letters(tenant, ids).await?;
        self.inner.forwarded.fetch_add(removed, Ordering::Relaxed);
        Ok(removed)
    }
}

/// Removes some that were given up before this time, and takes them off their tenants' totals.
async fn expire(to: &mut SqliteConnection, before: i64) -> Result<u64, sqlx::Error> {
    let rows = sqlx::query(
        "DELETE FROM dead_letters WHERE (tenant, id) IN \
         (SELECT tenant, id FROM dead_letters WHERE state = 0 AND at_ms < $1 ORDER BY tenant, id LIMIT $2) \
         RETURNING tenant, size",
    )
    .bind(before)
    .bind(AT_ONCE)
    .fetch_all(&mut *to)
    .await?;
    let mut weights = std::collections::BTreeMap::<String, (i64, i64)>::new();
    for row in &rows {
        let weight = weights.entry(row.try_get("tenant")?).or_default();
        weight.0 += 1;
        weight.1 += row.try_get::<i64, _>("size")?;
    }
    for (tenant, (messages, bytes)) in weights {
        sqlx::query("UPDATE dead_letter_totals SET messages = messages - $2, bytes = bytes - $3 WHERE tenant = $1")
            .bind(tenant)
            .bind(messages)
            .bind(bytes)
            .execute(&mut *to)
            .await?;
    }
    Ok(rows.len() as u64)
}
