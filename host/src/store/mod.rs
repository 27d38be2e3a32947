//! What the host keeps in its data folder beside the disk queues: one SQLite database.
//!
//! Four things, kept apart: **definitions** (what users made), **progress** (how far sources have
//! come), the **memory** of connections (session filters, blocks of packet ids), and **dead letters**
//! (what could not be delivered). All of it is keyed by tenant. Statements are portable; what only
//! SQLite has stands in `database`.
//!
//! What a writing call answers is on disk. Callers that commit progress, bury messages or keep a
//! connection's memory at the same time share one transaction (`writer`).
//!
//! Nothing on disk keeps a [`Store`] from opening, except another host that uses the folder: a broken
//! database is set aside and a new one made; one that cannot be opened is asked for again by every
//! call, and until then reading and writing calls fail with [`StoreError::Unavailable`] or
//! [`StoreError::Folder`]. Nothing is ever kept in memory in its place: an answer that is not on disk
//! would be acknowledged upstream.
//!
//! A second process may use the database beside a running host: [`Store::open_shared`].
//!
//! May not touch connections (beyond their [`Memory`]), rules, or guests.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use sqlx::SqlitePool;

use crate::connections::Memory;

mod database;
mod definitions;
mod error;
mod folder;
mod gone;
mod letters;
mod memory;
mod progress;
mod resend;
mod transaction;
mod writer;

#[cfg(test)]
mod tests;

pub use definitions::{Definition, Put};
pub use error::{Damage, StoreError};
pub use gone::Gone;
pub use letters::{DeadLetter, KeptLetter, LetterFilter, LetterState};
pub use progress::Commit;
pub use resend::Waiting;

use database::Database;
use writer::Writer;

/// Bounds of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Dead letters of one tenant.
    pub dead_letters: u64,
    /// Their bytes: payload, subject, headers and 96 bytes each.
    pub dead_letter_bytes: u64,
    /// How long one is kept; None: until somebody removes it.
    pub dead_letter_age: Option<Duration>,
}

impl Default for StoreOptions {
    /// 100 000 dead letters of 256 MiB.
    fn default() -> Self {
        Self {
            dead_letters: 100_000,
            dead_letter_bytes: 256 * 1024 * 1024,
            dead_letter_age: None,
        }
    }
}

/// The store. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    writer: Writer,
    options: StoreOptions,
    host_id: String,
    expired: AtomicU64,
    forwarded: AtomicU64,
    /// Locked as long as the store lives.
    _lock: Option<File>,
}

impl Store {
    /// Opens the store of a host, and makes what is not there. Beside it, what was found broken and
    /// what follows from it.
    ///
    /// # Errors
    /// [`StoreError::Locked`]: another process uses the folder. Nothing else prevents it.
    pub async fn open(data_dir: &Path) -> Result<(Self, Vec<Damage>), StoreError> {
        Self::open_with(data_dir, StoreOptions::default()).await
    }

    /// [`Store::open`] with other bounds.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_with(
        data_dir: &Path,
        options: StoreOptions,
    ) -> Result<(Self, Vec<Damage>), StoreError> {
        let folder = data_dir.to_owned();
        let claimed = tokio::task::spawn_blocking(move || {
            let mut damage = Vec::new();
            folder::claim(&folder, &mut damage).map(|folder| (folder, damage))
        });
        let (folder, mut damage) = claimed
            .await
            .unwrap_or_else(|_| Err(StoreError::NotThere(data_dir.to_owned())))?;
        let database = Database::new(data_dir, true);
        let opened = database.open(&mut damage).await;
        let store = Self::new(database, options, folder.host_id, folder.lock);
        let ready = match opened {
            Ok(pool) => store.return_all_resends(&pool).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ready {
            let reason = format!(
                "cannot be used until the disk allows it ({})",
                crate::error::chain(&error)
            );
            damage.push(Damage {
                what: store.inner.database.path().to_owned(),
                reason,
                moved_to: None,
            });
        }
        Ok((store, damage))
    }

    /// Opens the store beside the host that may be running on it: takes no lock, makes nothing.
    ///
    /// # Errors
    /// [`StoreError::NotThere`], [`StoreError::Unavailable`].
    pub async fn open_shared(data_dir: &Path) -> Result<Self, StoreError> {
        let database = Database::new(data_dir, false);
        if !tokio::fs::try_exists(database.path()).await.unwrap_or(true) {
            return Err(StoreError::NotThere(data_dir.to_owned()));
        }
        database.open(&mut Vec::new()).await?;
        Ok(Self::new(
            database,
            StoreOptions::default(),
            String::new(),
            None,
        ))
    }

    fn new(database: Database, options: StoreOptions, host_id: String, lock: Option<File>) -> Self {
        let inner = Inner {
            database,
            writer: Writer::default(),
            options,
            host_id,
            expired: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            _lock: lock,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The id that this host has had since its first day: 32 hexadecimal digits. Empty for a store
    /// that was opened beside its host.
    #[must_use]
    pub fn host_id(&self) -> &str {
        &self.inner.host_id
    }

    /// The small values of one connection that survive restarts.
    #[must_use]
    pub fn memory(&self, tenant: &str, connection: &str) -> Arc<dyn Memory> {
        Arc::new(memory::ConnectionMemory::new(
            self.clone(),
            tenant,
            connection,
        ))
    }

    /// Closes the database in good order. Whoever calls the store later opens it again.
    pub async fn close(&self) {
        self.inner.database.close().await;
    }

    async fn pool(&self) -> Result<SqlitePool, StoreError> {
        self.inner.database.get().await
    }

    /// What a failed statement means for the caller, and for the database.
    fn failed(&self, error: sqlx::Error) -> StoreError {
        self.inner.database.failed(error)
    }
}

/// For columns: the database counts in signed numbers.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
