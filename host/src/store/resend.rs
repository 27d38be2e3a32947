//! Dead letters that are to be sent again: marked by anybody, taken by the host, removed when they
//! are delivered.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::letters::{KeptLetter, LetterState, read};
use super::transaction::Transaction;
use super::{Store, StoreError, unsigned};

/// Letters of one action that are to be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The tenant.
    pub tenant: String,
    /// The rule's id.
    pub rule: String,
    /// The action's name.
    pub action: String,
    /// How many.
    pub letters: u64,
}

impl Store {
    /// Marks dead letters to be sent again by the host: how many that were kept now are.
    ///
    /// # Errors
    /// [`StoreError`]; none is marked.
    pub async fn mark_resend(&self, tenant: &str, ids: &[i64]) -> Result<u64, StoreError> {
        self.change_state(tenant, ids, LetterState::Kept, LetterState::Resend)
            .await
    }

    /// Puts letters back that were taken to be sent again and could not be: they are tried again.
    ///
    /// # Errors
    /// [`StoreError`]; they are tried again after the next start.
    pub async fn return_resends(&self, tenant: &str, ids: &[i64]) -> Result<u64, StoreError> {
        self.change_state(tenant, ids, LetterState::Sending, LetterState::Resend)
            .await
    }

    /// Keeps letters that were taken to be sent again and failed for good once more.
    ///
    /// # Errors
    /// [`StoreError`]; they are tried again after the next start.
    pub async fn keep_resends(&self, tenant: &str, ids: &[i64]) -> Result<u64, StoreError> {
        self.change_state(tenant, ids, LetterState::Sending, LetterState::Kept)
            .await
    }

    async fn change_state(
        &self,
        tenant: &str,
        ids: &[i64],
        from: LetterState,
        to: LetterState,
    ) -> Result<u64, StoreError> {
        let pool = self.pool().await?;
        let changed = async {
            let mut transaction = Transaction::begin(&pool).await?;
            let mut changed = 0;
            for id in ids {
                changed += set_state(transaction.connection(), tenant, *id, from, to).await?;
            }
            transaction.commit().await?;
            Ok(changed)
        };
        changed.await.map_err(|error| self.failed(error))
    }

    /// What is to be sent again, for which actions. Cheap when nothing is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn waiting_resends(&self) -> Result<Vec<Waiting>, StoreError> {
        let rows = sqlx::query(
            "SELECT tenant, rule, action, count(*) AS letters FROM dead_letters WHERE state = 1 \
             GROUP BY tenant, rule, action ORDER BY tenant, rule, action",
        )
        .fetch_all(&self.pool().await?)
        .await;
        let read = |row: &SqliteRow| {
            Ok(Waiting {
                tenant: row.try_get("tenant")?,
                rule: row.try_get("rule")?,
                action: row.try_get("action")?,
                letters: unsigned(row.try_get("letters")?),
            })
        };
        rows.and_then(|rows| rows.iter().map(read).collect())
            .map_err(|error| self.failed(error))
    }

    /// Takes letters of one action that are to be sent again, oldest first, whole. They are not given
    /// out twice; what is neither [`Store::resent`] nor returned is given out after the next start.
    ///
    /// # Errors
    /// [`StoreError`]; none is taken.
    pub async fn take_resends(
        &self,
        tenant: &str,
        rule: &str,
        action: &str,
        max: u32,
    ) -> Result<Vec<KeptLetter>, StoreError> {
        let pool = self.pool().await?;
        let taken = async {
            let mut transaction = Transaction::begin(&pool).await?;
            let rows = sqlx::query(
                "SELECT tenant, id, rule, action, stream, subject, headers, qos, retained, message_id, arrived_ms, \
                 kind, code, reason, attempts, at_ms, state, length(payload) AS payload_bytes, payload \
                 FROM dead_letters WHERE tenant = $1 AND rule = $2 AND action = $3 AND state = 1 ORDER BY id LIMIT $4",
            )
            .bind(tenant)
            .bind(rule)
            .bind(action)
            .bind(i64::from(max))
            .fetch_all(transaction.connection())
            .await?;
            let mut letters = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
            for letter in &mut letters {
                set_state(
                    transaction.connection(),
                    tenant,
                    letter.id,
                    LetterState::Resend,
                    LetterState::Sending,
                )
                .await?;
                letter.state = LetterState::Sending;
            }
            transaction.commit().await?;
            Ok(letters)
        };
        taken.await.map_err(|error| self.failed(error))
    }

    /// These have been delivered, or are with their action for good: they are removed.
    ///
    /// # Errors
    /// [`StoreError`]; they may be sent once more after the next start.
    pub async fn resent(&self, tenant: &str, ids: &[i64]) -> Result<u64, StoreError> {
        self.remove_letters(tenant, ids).await
    }

    /// What the last process was sending when it ended is to be sent again.
    pub(super) async fn return_all_resends(&self, pool: &SqlitePool) -> Result<(), StoreError> {
        let done = sqlx::query("UPDATE dead_letters SET state = 1 WHERE state = 2")
            .execute(pool)
            .await;
        done.map(drop).map_err(|error| self.failed(error))
    }
}

async fn set_state(
    to: &mut SqliteConnection,
    tenant: &str,
    id: i64,
    from: LetterState,
    state: LetterState,
) -> Result<u64, sqlx::Error> {
    let number = |state| match state {
        LetterState::Kept => 0_i64,
        LetterState::Resend => 1,
        LetterState::Sending => 2,
    };
    let done = sqlx::query(
        "UPDATE dead_letters SET state = $4 WHERE tenant = $1 AND id = $2 AND state = $3",
    )
    .bind(tenant)
    .bind(id)
    .bind(number(from))
    .bind(number(state))
    .execute(to)
    .await?;
    Ok(done.rows_affected())
}
