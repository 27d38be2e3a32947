//! A storage in memory for tests: it loses and reorders what was not synced, is full, and fails.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the files of a test are small"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::storage::{Entry, Space, Storage, StorageFile};

/// A clone is the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Faulty(Arc<Mutex<Disk>>);

#[derive(Clone, Debug, Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    safe_names: BTreeMap<PathBuf, usize>,
    unsafe_names: Vec<Renaming>,
    folders: BTreeSet<PathBuf>,
    faults: Faults,
    syncs: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// Bytes in all files together.
    pub(super) capacity: Option<u64>,
    /// So many writes fail in the middle with an I/O error.
    pub(super) writes: u32,
    /// So many syncs fail; what they should have made safe never will be.
    pub(super) syncs: u32,
    /// Each sync of a file takes so long.
    pub(super) delay: std::time::Duration,
    /// So many removals fail.
    pub(super) removals: u32,
    /// So many cuts fail.
    pub(super) cuts: u32,
    /// What is removed shows as free only when this is 0 again.
    pub(super) unseen: Option<u64>,
    /// Reading these bytes of any file fails.
    pub(super) unreadable: Option<std::ops::Range<u64>>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    now: Vec<u8>,
    safe: Vec<u8>,
    unsafe_: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Cut(u64),
}

#[derive(Clone, Debug)]
struct Renaming {
    remove: Option<PathBuf>,
    add: Option<(PathBuf, usize)>,
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, bytes) => {
            let (at, end) = (*at as usize, *at as usize + bytes.len());
            if content.len() < end {
                content.resize(end, 0);
            }
            content[at..end].copy_from_slice(bytes);
        }
        Change::Cut(bytes) => content.resize(*bytes as usize, 0),
    }
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Faulty {
    pub(super) fn fail(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.0.lock().faults);
    }

    pub(super) fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// An independent copy.
    pub(super) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())))
    }

    /// All files as they are now.
    pub(super) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let disk = self.0.lock();
        disk.names
            .iter()
            .map(|(path, inode)| (path.clone(), disk.inodes[*inode].now.clone()))
            .collect()
    }

    /// Puts a file there as if it had always been.
    pub(super) fn put(&self, path: &Path, content: Vec<u8>) {
        let mut disk = self.0.lock();
        let inode = disk.inodes.len();
        disk.inodes.push(Inode {
            now: content.clone(),
            safe: content,
            unsafe_: Vec::new(),
        });
        disk.names.insert(path.to_owned(), inode);
        disk.safe_names.insert(path.to_owned(), inode);
    }

    /// The power fails: of what was not synced any part survives, in any order, torn in the middle.
    pub(super) fn crash(&self, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut disk = self.0.lock().clone();
        let mut names = disk.safe_names.clone();
        for change in disk.unsafe_names.drain(..) {
            if random.random() {
                if let Some(path) = change.remove {
                    names.remove(&path);
                }
                if let Some((path, inode)) = change.add {
                    names.insert(path, inode);
                }
            }
        }
        for inode in &mut disk.inodes {
            let mut content = inode.safe.clone();
            let mut changes = std::mem::take(&mut inode.unsafe_);
            if random.random_bool(0.3) {
                changes.reverse();
            }
            for mut change in changes {
                if let Change::Write(_, bytes) = &mut change {
                    let from = random.random_range(0..=bytes.len());
                    match random.random_range(0..4) {
                        0 => bytes.truncate(from),
                        1 => bytes[from..].fill(0),
                        _ => {}
                    }
                }
                if random.random_bool(0.6) {
                    apply(&mut content, &change);
                }
            }
            inode.now = content.clone();
            inode.safe = content;
        }
        disk.safe_names = names.clone();
        disk.names = names;
        disk.faults = Faults::default();
        Self(Arc::new(Mutex::new(disk)))
    }
}

impl Storage for Faulty {
    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let disk = self.0.lock();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let inside = |path: &&PathBuf| path.parent() == Some(folder);
        let folders = disk.folders.iter().filter(inside);
        let folders = folders.map(|path| Entry {
            name: name(path),
            bytes: 0,
            folder: true,
        });
        let files = disk.names.iter().filter(|(path, _)| inside(path));
        let files = files.map(|(path, inode)| Entry {
            name: name(path),
            bytes: disk.inodes[*inode].now.len() as u64,
            folder: false,
        });
        Ok(folders.chain(files).collect())
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.folders.extend(folder.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let mut disk = self.0.lock();
        assert!(
            disk.folders.contains(path.parent().unwrap()),
            "no folder for {}",
            path.display()
        );
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = disk.inodes.len();
        disk.inodes.push(Inode::default());
        disk.names.insert(path.to_owned(), inode);
        disk.unsafe_names.push(Renaming {
            remove: None,
            add: Some((path.to_owned(), inode)),
        });
        Ok(Box::new(Open {
            disk: Arc::clone(&self.0),
            inode,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let inode = self
            .0
            .lock()
            .names
            .get(path)
            .copied()
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Open {
            disk: Arc::clone(&self.0),
            inode,
        }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        if disk.faults.removals > 0 {
            disk.faults.removals -= 1;
            return Err(broken());
        }
        let inode = disk.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        let size = disk.inodes[inode].now.len() as u64;
        if let Some(unseen) = &mut disk.faults.unseen {
            *unseen += size;
        }
        disk.unsafe_names.push(Renaming {
            remove: Some(path.to_owned()),
            add: None,
        });
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        let used = disk
            .names
            .keys()
            .chain(&disk.folders)
            .any(|inside| inside.parent() == Some(path));
        if used || !disk.folders.remove(path) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        let inode = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), inode);
        disk.unsafe_names.push(Renaming {
            remove: Some(from.to_owned()),
            add: Some((to.to_owned(), inode)),
        });
        Ok(())
    }

    fn sync_folder(&self, _folder: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.syncs += 1;
        if disk.faults.syncs > 0 {
            disk.faults.syncs -= 1;
            return Err(broken());
        }
        disk.unsafe_names.clear();
        disk.safe_names = disk.names.clone();
        Ok(())
    }

    fn space(&self, _folder: &Path) -> Option<Space> {
        let disk = self.0.lock();
        let total = disk.faults.capacity?;
        let names = disk.names.values();
        let used: usize = names.map(|inode| disk.inodes[*inode].now.len()).sum();
        Some(Space {
            total,
            free: total.saturating_sub(used as u64 + disk.faults.unseen.unwrap_or_default()),
        })
    }
}

#[derive(Debug)]
struct Open {
    disk: Arc<Mutex<Disk>>,
    inode: usize,
}

impl StorageFile for Open {
    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let disk = self.disk.lock();
        let wanted = at..at + buffer.len() as u64;
        if disk
            .faults
            .unreadable
            .as_ref()
            .is_some_and(|bad| bad.start < wanted.end && wanted.start < bad.end)
        {
            return Err(broken());
        }
        let rest = disk.inodes[self.inode]
            .now
            .get(at as usize..)
            .unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let used: usize = disk
            .names
            .values()
            .map(|inode| disk.inodes[*inode].now.len())
            .sum();
        let grows = (at as usize + bytes.len()).saturating_sub(disk.inodes[self.inode].now.len());
        let (mut bytes, mut error) = (bytes.to_vec(), None);
        if let Some(capacity) = disk.faults.capacity
            && used + grows > capacity as usize
        {
            bytes.truncate(bytes.len().saturating_sub(used + grows - capacity as usize));
            error = Some(io::ErrorKind::StorageFull.into());
        }
        if disk.faults.writes > 0 {
            disk.faults.writes -= 1;
            bytes.truncate(bytes.len() * 2 / 3);
            error = Some(broken());
        }
        let change = Change::Write(at, bytes);
        apply(&mut disk.inodes[self.inode].now, &change);
        disk.inodes[self.inode].unsafe_.push(change);
        error.map_or(Ok(()), Err)
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        if disk.faults.cuts > 0 {
            disk.faults.cuts -= 1;
            return Err(broken());
        }
        apply(&mut disk.inodes[self.inode].now, &Change::Cut(bytes));
        disk.inodes[self.inode].unsafe_.push(Change::Cut(bytes));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let delay = self.disk.lock().faults.delay;
        std::thread::sleep(delay);
        let mut disk = self.disk.lock();
        disk.syncs += 1;
        let fails = disk.faults.syncs > 0;
        let inode = &mut disk.inodes[self.inode];
        if fails {
            // Some of it may have got there; nobody will try again with the rest.
            let half = inode.unsafe_.len() / 2;
            let changes: Vec<_> = inode.unsafe_.drain(..).take(half).collect();
            for change in &changes {
                apply(&mut inode.safe, change);
            }
            disk.faults.syncs -= 1;
            return Err(broken());
        }
        inode.safe = inode.now.clone();
        inode.unsafe_.clear();
        Ok(())
    }
}
