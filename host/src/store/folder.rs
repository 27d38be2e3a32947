//! The data folder itself: its lock, the host's id, names for what is set aside. Blocks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::{Damage, StoreError};

/// Held locked by the host that uses the folder; its text is the process id.
const LOCK: &str = "windlass.lock";
/// Holds the host's id: 32 hexadecimal digits.
const HOST_ID: &str = "host-id";

/// The data folder as far as it can be had.
#[derive(Debug)]
pub(super) struct Folder {
    /// Locked as long as this lives.
    pub(super) lock: Option<File>,
    pub(super) host_id: String,
}

/// Makes the folder, locks it and reads the host's id. What the disk refuses is reported.
///
/// # Errors
/// [`StoreError::Locked`] alone.
pub(super) fn claim(path: &Path, damage: &mut Vec<Damage>) -> Result<Folder, StoreError> {
    if let Err(error) = fs::create_dir_all(path) {
        report(
            damage,
            path,
            &error,
            "cannot be made; nothing is kept on disk until it can",
        );
        return Ok(Folder {
            lock: None,
            host_id: new_id(),
        });
    }
    let lock = lock(path, damage)?;
    let host_id = host_id(&path.join(HOST_ID), damage);
    Ok(Folder { lock, host_id })
}

fn lock(folder: &Path, damage: &mut Vec<Damage>) -> Result<Option<File>, StoreError> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) => {
            report(
                damage,
                &path,
                &error,
                "cannot be opened; a second process would not be noticed",
            );
            return Ok(None);
        }
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let read = (&file).take(32).read_to_string(&mut text);
            let pid = read.ok().and_then(|_| text.trim().parse().ok());
            return Err(StoreError::Locked {
                folder: folder.to_owned(),
                pid,
            });
        }
        Err(TryLockError::Error(error)) => {
            report(
                damage,
                &path,
                &error,
                "cannot be locked; a second process would not be noticed",
            );
            return Ok(None);
        }
    }
    // Only for the words of the error above: a full disk is no reason to stop.
    let told = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = told {
        tracing::debug!(file = %path.display(), %error, "the lock file does not say who holds it");
    }
    Ok(Some(file))
}

/// The id that the folder has had from its first day.
fn host_id(path: &Path, damage: &mut Vec<Damage>) -> String {
    match fs::read(path) {
        Ok(bytes) => match std::str::from_utf8(&bytes).map(str::trim) {
            Ok(id) if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                return id.to_owned();
            }
            _ => {
                let moved_to = set_aside(path).ok();
                let reason = "does not hold a host id; the host has a new one".to_owned();
                damage.push(Damage {
                    what: path.to_owned(),
                    reason,
                    moved_to,
                });
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            report(
                damage,
                path,
                &error,
                "cannot be read; the host has another id until the next start",
            );
            return new_id();
        }
    }
    let id = new_id();
    let written = || {
        // Whole or not at all, also when the power fails.
        let draft = path.with_extension("new");
        let mut file = File::create(&draft)?;
        file.write_all(id.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    if let Err(error) = written() {
        report(
            damage,
            path,
            &error,
            "cannot be written; the host has another id after the next start",
        );
    }
    id
}

fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn report(damage: &mut Vec<Damage>, what: &Path, error: &io::Error, consequence: &str) {
    damage.push(Damage {
        what: what.to_owned(),
        reason: format!("{consequence} ({error})"),
        moved_to: None,
    });
}

/// Gives a file or folder a name of its own beside the old one.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let to = aside(path, now_ms());
    fs::rename(path, &to)?;
    Ok(to)
}

/// Sets a database aside with the files that belong to it.
pub(super) fn set_database_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let now = now_ms();
    let to = aside(path, now);
    fs::rename(path, &to).map_err(|error| StoreError::Folder(Arc::new(error)))?;
    for ending in ["-wal", "-shm"] {
        let with = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        match fs::rename(with(path), with(&to)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::Folder(Arc::new(error)));
            }
            _ => {}
        }
    }
    Ok(to)
}

fn aside(path: &Path, now: u128) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{now}"));
    name.into()
}

fn now_ms() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis())
}
