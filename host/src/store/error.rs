//! Why the store refuses, and what it found broken.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why the store refuses.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process uses the data folder.
    #[error("the data folder {} is in use by {}", folder.display(), holder(*pid))]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The process that holds it, where its lock file says so.
        pid: Option<u32>,
    },
    /// There is no store in that folder.
    #[error("there is no windlass data in {}", .0.display())]
    NotThere(PathBuf),
    /// The database cannot be opened at present. Every call tries again.
    #[error("the database cannot be opened")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// The data folder cannot be used at present. Every call tries again.
    #[error("the data folder cannot be used")]
    Folder(#[source] Arc<io::Error>),
    /// The disk is full.
    #[error("the disk of the data folder is full")]
    NoSpace(#[source] Arc<sqlx::Error>),
    /// The database refuses.
    #[error("the database has failed")]
    Database(#[source] Arc<sqlx::Error>),
    /// There is no room for more dead letters; none was kept.
    #[error(
        "the dead letters are full: {messages} messages of {bytes} bytes are kept, {max_messages} messages or \
         {max_bytes} bytes are allowed"
    )]
    DeadLettersFull {
        /// Messages kept.
        messages: u64,
        /// Their bytes.
        bytes: u64,
        /// Messages allowed.
        max_messages: u64,
        /// Bytes allowed.
        max_bytes: u64,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

/// Result codes of SQLite (<https://www.sqlite.org/rescode.html>).
const ERROR: i32 = 1;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const NOT_A_DATABASE: i32 = 26;

/// The primary result code of an error of SQLite.
fn code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<i32>().ok().map(|code| code & 0xff)
}

/// The content of the database is broken, as opposed to the disk or the rights on it.
pub(super) fn is_broken(error: &sqlx::Error) -> bool {
    use sqlx::migrate::MigrateError;

    if let sqlx::Error::Migrate(error) = error {
        return match &**error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                is_broken(error) || code(error) == Some(ERROR)
            }
            MigrateError::Source(_) => false,
            _ => true,
        };
    }
    // A database that is sound and has other tables than ours answers with a plain error.
    matches!(code(error), Some(CORRUPT | NOT_A_DATABASE))
}

/// The database has not the tables it should have.
pub(super) fn is_foreign(error: &sqlx::Error) -> bool {
    code(error) == Some(ERROR)
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match code(&error) {
            Some(FULL) => Self::NoSpace(Arc::new(error)),
            _ => Self::Database(Arc::new(error)),
        }
    }
}

/// Something in the data folder that was not as it should be, and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file or folder.
    pub what: PathBuf,
    /// What is wrong with it and what follows.
    pub reason: String,
    /// Where it is now, if it was set aside.
    pub moved_to: Option<PathBuf>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what.display(), self.reason)?;
        match &self.moved_to {
            Some(to) => write!(f, "; set aside as {}", to.display()),
            None => Ok(()),
        }
    }
}
