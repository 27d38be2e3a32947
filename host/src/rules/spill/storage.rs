//! The few file operations that a disk queue needs, as a trait, so that tests can lose, reorder and
//! refuse them; and the real ones. Everything here blocks: call it from blocking threads only.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// What stands in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its size, 0 for a folder.
    pub bytes: u64,
    /// It is a folder.
    pub folder: bool,
}

/// Of the disk that a folder is on, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Its size.
    pub total: u64,
    /// What this process may still write.
    pub free: u64,
}

/// Folders and files. What was written is safe from a loss of power only after the file was synced,
/// and its name only after the folder was.
pub trait Storage: Send + Sync + fmt::Debug {
    /// What stands in a folder; nothing if there is no such folder. Names that are no text are
    /// left out.
    ///
    /// # Errors
    /// Of the operating system.
    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>>;
    /// Makes a folder and those above it; their names are safe when this returns.
    ///
    /// # Errors
    /// Of the operating system.
    fn make_folder(&self, folder: &Path) -> io::Result<()>;
    /// Makes a file that is not there yet.
    ///
    /// # Errors
    /// Of the operating system.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>>;
    /// Opens a file that is there, to read and to write.
    ///
    /// # Errors
    /// Of the operating system.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageFile>>;
    /// Removes a file.
    ///
    /// # Errors
    /// Of the operating system.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    ///
    /// # Errors
    /// Of the operating system.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name in the same folder.
    ///
    /// # Errors
    /// Of the operating system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a folder safe.
    ///
    /// # Errors
    /// Of the operating system.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// The disk that a folder is on, or will be; None: the system does not say.
    fn space(&self, folder: &Path) -> Option<Space>;
}

/// An open file.
pub trait StorageFile: Send + fmt::Debug {
    /// Reads until the buffer is full or the file ends: how many bytes.
    ///
    /// # Errors
    /// Of the operating system.
    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of it.
    ///
    /// # Errors
    /// Of the operating system; a part may have been written.
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file.
    ///
    /// # Errors
    /// Of the operating system.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
    /// Makes content and size safe. After an error nothing that was written since the last success
    /// is safe, and a second success would not change that.
    ///
    /// # Errors
    /// Of the operating system.
    fn sync(&mut self) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files;

impl Storage for Files {
    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            match entry.metadata() {
                Ok(about) => found.push(Entry {
                    name,
                    bytes: if about.is_dir() { 0 } else { about.len() },
                    folder: about.is_dir(),
                }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        match fs::create_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let above = folder.parent().ok_or(error)?;
                self.make_folder(above)?;
                fs::create_dir(folder)?;
            }
            Err(error) => return Err(error),
        }
        folder
            .parent()
            .map_or(Ok(()), |above| self.sync_folder(above))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(
            OpenOptions::new().read(true).write(true).open(path)?,
        ))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        if cfg!(unix) {
            let folder = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    fn space(&self, folder: &Path) -> Option<Space> {
        folder.ancestors().find_map(space_of)
    }
}

#[cfg(unix)]
fn space_of(folder: &Path) -> Option<Space> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let about = rustix::fs::statvfs(folder).ok()?;
    Some(Space {
        total: about.f_blocks.saturating_mul(about.f_frsize),
        free: about.f_bavail.saturating_mul(about.f_frsize),
    })
}

#[cfg(not(unix))]
fn space_of(_folder: &Path) -> Option<Space> {
    None
}

impl StorageFile for File {
    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.seek(SeekFrom::Start(at))?;
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(at))?;
        self.write_all(bytes)
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
