//! Opens the database, sets a broken one aside, and tries again as long as the disk refuses.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{SqlSafeStr, SqlitePool};
use tokio::time::Instant;

use super::error::{Damage, StoreError, is_broken, is_foreign};
use super::folder;

/// The database's name in the data folder.
pub(super) const FILE: &str = "windlass.db";
/// One connection writes; one reads meanwhile.
const CONNECTIONS: u32 = 2;
/// Up to this size a database is checked whole when it is opened; a larger one, where that would
/// hold up the start, when it first shows a fault.
const CHECKED_WHOLE: u64 = 8 * 1024 * 1024;
/// After a failure the disk is asked again at most so often.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long to wait for another process that writes.
const BUSY: Duration = Duration::from_secs(5);
/// How often a visitor looks whether the host has made the tables.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

fn migrations() -> Migrator {
    let one = |version, name: &'static str, sql: &'static str| {
        Migration::new(
            version,
            name.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    let all = vec![
        one(1, "begin", include_str!("migrations/0001_begin.sql")),
        one(
            2,
            "revisions",
            include_str!("migrations/0002_revisions.sql"),
        ),
    ];
    let mut migrator = Migrator::with_migrations(all);
    // A later version of the program may have been here; what it added does not matter.
    migrator.set_ignore_missing(true);
    migrator
}

/// The database, open or to be opened.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    /// A host makes, migrates and replaces it; a visitor only uses it.
    host: bool,
    state: Mutex<State>,
    opening: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    pool: Option<SqlitePool>,
    /// Its content has turned out broken; to be closed before its files are touched.
    suspect: Option<SqlitePool>,
    failed: Option<(Instant, StoreError)>,
}

impl Database {
    pub(super) fn new(folder: &Path, host: bool) -> Self {
        let path = folder.join(FILE);
        Self {
            path,
            host,
            state: Mutex::default(),
            opening: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The open database. Opens it if it is not open, at most once a second.
    pub(super) async fn get(&self) -> Result<SqlitePool, StoreError> {
        if let Some(pool) = &self.state.lock().pool {
            return Ok(pool.clone());
        }
        let mut damage = Vec::new();
        let pool = self.open(&mut damage).await;
        for damage in damage {
            tracing::error!(%damage, "the database was damaged");
        }
        pool
    }

    /// Opens it; what had to be set aside is added to `damage`.
    pub(super) async fn open(&self, damage: &mut Vec<Damage>) -> Result<SqlitePool, StoreError> {
        let _turn = self.opening.lock().await;
        let suspect = {
            let mut state = self.state.lock();
            if let Some(pool) = &state.pool {
                return Ok(pool.clone());
            }
            match &state.failed {
                Some((at, error)) if at.elapsed() < ASK_AGAIN => return Err(error.clone()),
                _ => state.suspect.take(),
            }
        };
        let is_suspect = suspect.is_some();
        if let Some(pool) = suspect {
            // SQLite removes the log beside a database by its name when the last connection closes:
            // that must not be the log of the new one.
            pool.close().await;
        }
        let opened = self.open_or_replace(is_suspect, damage).await;
        let mut state = self.state.lock();
        match opened {
            Ok(pool) => {
                *state = State {
                    pool: Some(pool.clone()),
                    suspect: None,
                    failed: None,
                };
                Ok(pool)
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn open_or_replace(
        &self,
        suspect: bool,
        damage: &mut Vec<Damage>,
    ) -> Result<SqlitePool, StoreError> {
        if !self.host {
            return self.visit().await;
        }
        let (parent, path) = (self.path.parent().map(Path::to_owned), self.path.clone());
        let looked = tokio::task::spawn_blocking(move || {
            parent.map_or(Ok(()), std::fs::create_dir_all)?;
            match std::fs::metadata(&path) {
                Ok(about) => Ok((about.len(), about.is_dir())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((0, false)),
                Err(error) => Err(error),
            }
        });
        let looked = looked
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let (bytes, is_folder) = looked.map_err(|error| StoreError::Folder(Arc::new(error)))?;
        let reason = if is_folder {
            "is a folder".to_owned()
        } else {
            match self.connect(suspect || bytes <= CHECKED_WHOLE).await {
                Ok(pool) => return Ok(pool),
                Err(Trouble::Broken(found)) => found,
                Err(refused) => return Err(refused.into()),
            }
        };
        let path = self.path.clone();
        let moved = tokio::task::spawn_blocking(move || folder::set_database_aside(&path));
        let moved_to = moved
            .await
            .unwrap_or_else(|_| Err(StoreError::NotThere(self.path.clone())))?;
        let reason = format!("cannot be used ({reason}); a new one was made");
        damage.push(Damage {
            what: self.path.clone(),
            reason,
            moved_to: Some(moved_to),
        });
        Ok(self.connect(false).await?)
    }

    /// Opens what the host has made. One that has only just started may still be making it: it is
    /// waited for.
    async fn visit(&self) -> Result<SqlitePool, StoreError> {
        let until = Instant::now() + BUSY;
        loop {
            match self.connect(false).await {
                Err(Trouble::Empty) if Instant::now() < until => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(Trouble::Empty) => {
                    let folder = self.path.parent().unwrap_or(&self.path);
                    return Err(StoreError::NotThere(folder.to_owned()));
                }
                opened => return Ok(opened?),
            }
        }
    }

    async fn connect(&self, check: bool) -> Result<SqlitePool, Trouble> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(self.host)
            .journal_mode(SqliteJournalMode::Wal)
            // Each commit is on disk when it returns: nothing here may be acknowledged and then lost.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY)
            .pragma("cache_size", "-256")
            .pragma("temp_store", "MEMORY")
            .pragma("journal_size_limit", "1048576")
            .statement_cache_capacity(32)
            .command_buffer_size(8)
            .row_buffer_size(16)
            .thread_name(|_| "store".to_owned());
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(BUSY * 2)
            .idle_timeout(Duration::from_secs(60))
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options)
            .await?;
        match self.prepare(&pool, check).await {
            Ok(()) => Ok(pool),
            Err(error) => {
                pool.close().await;
                Err(error)
            }
        }
    }

    async fn prepare(&self, pool: &SqlitePool, check: bool) -> Result<(), Trouble> {
        if check {
            let found: String = sqlx::query_scalar("PRAGMA quick_check(1)")
                .fetch_one(pool)
                .await?;
            if found != "ok" {
                return Err(Trouble::Broken(found));
            }
        }
        if self.host {
            migrations().run(pool).await.map_err(sqlx::Error::from)?;
            sqlx::query("SELECT last FROM revisions WHERE tenant = ''")
                .fetch_optional(pool)
                .await?;
        } else {
            // The first migration makes all tables in one transaction; before it there is its list.
            let tables: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name <> '_sqlx_migrations'",
            )
            .fetch_one(pool)
            .await?;
            if tables == 0 {
                return Err(Trouble::Empty);
            }
        }
        for probe in [
            "SELECT revision, body FROM definitions WHERE tenant = ''",
            "SELECT epoch, checkpoint FROM progress WHERE tenant = ''",
            "SELECT content FROM memory WHERE tenant = ''",
            "SELECT messages, bytes, last_id FROM dead_letter_totals WHERE tenant = ''",
            "SELECT rule, headers, arrived_ms, state, size FROM dead_letters WHERE tenant = ''",
        ] {
            sqlx::query(probe).fetch_optional(pool).await?;
        }
        Ok(())
    }

    /// Turns an error of a statement into the caller's; a broken database is opened anew, and
    /// replaced, by the next call.
    pub(super) fn failed(&self, error: sqlx::Error) -> StoreError {
        if is_broken(&error) {
            let mut state = self.state.lock();
            if let Some(pool) = state.pool.take() {
                state.suspect = Some(pool);
            }
        }
        error.into()
    }

    /// Closes it in good order.
    pub(super) async fn close(&self) {
        let pool = self.state.lock().pool.take();
        if let Some(pool) = pool {
            pool.close().await;
        }
    }
}

/// Why a database could not be opened.
enum Trouble {
    /// Its content is no use.
    Broken(String),
    /// It has no tables: a host is making it, or died before it had. Only a visitor meets it.
    Empty,
    /// The disk, the rights, another process.
    Refused(sqlx::Error),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        if is_broken(&error) || is_foreign(&error) {
            Self::Broken(crate::error::chain(&error))
        } else {
            Self::Refused(error)
        }
    }
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        Self::Unavailable(Arc::new(match trouble {
            Trouble::Broken(found) => sqlx::Error::Protocol(found),
            Trouble::Empty => sqlx::Error::Protocol("it has no tables".to_owned()),
            Trouble::Refused(error) => error,
        }))
    }
}
