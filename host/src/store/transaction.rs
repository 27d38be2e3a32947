//! One writing transaction. Its connection is thrown away unless it ends well: after some errors (a
//! full disk) SQLite has already rolled back by itself, and the connection's own count of
//! transactions is wrong from then on.

use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqliteConnection, SqlitePool};

/// Dropped without [`Transaction::commit`], it has changed nothing.
#[derive(Debug)]
pub(super) struct Transaction {
    connection: PoolConnection<Sqlite>,
    open: bool,
}

impl Transaction {
    /// Begins. Nobody else writes until it ends.
    pub(super) async fn begin(pool: &SqlitePool) -> Result<Self, sqlx::Error> {
        let connection = pool.acquire().await?;
        let mut transaction = Self {
            connection,
            open: true,
        };
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut *transaction.connection)
            .await?;
        Ok(transaction)
    }

    /// For statements.
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// On disk when this returns.
    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::query("COMMIT").execute(&mut *self.connection).await?;
        self.open = false;
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.open {
            self.connection.close_on_drop();
        }
    }
}
