//! Reads the records of one segment file in order, skipping what is none.

use std::io;

use bytes::Bytes;

use super::record::{self, Key, Parsed};
use super::storage::StorageFile;

/// How much is read at once.
const CHUNK: u64 = 256 * 1024;
/// What is given up as unreadable at once: one block of a disk.
const BLOCK: usize = 4096;

/// A record and where it stands.
#[derive(Debug)]
pub(super) struct Found {
    /// Bytes skipped before it because they are no record.
    pub(super) skipped: u64,
    /// Where it begins.
    pub(super) start: u64,
    /// Where it ends.
    pub(super) end: u64,
    pub(super) number: u64,
    pub(super) at_ms: u64,
    /// All of it.
    pub(super) record: Bytes,
}

/// A reading of one file.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    file: Box<dyn StorageFile>,
    key: &'a Key,
    /// Where `buffer` begins.
    at: u64,
    /// Where to stop.
    end: u64,
    buffer: Bytes,
    skipped: u64,
    unread: bool,
}

impl<'a> Scan<'a> {
    /// Reads from `from` to `end`, or to where the file ends.
    pub(super) fn new(file: Box<dyn StorageFile>, key: &'a Key, from: u64, end: u64) -> Self {
        Self {
            file,
            key,
            at: from,
            end,
            buffer: Bytes::new(),
            skipped: 0,
            unread: false,
        }
    }

    /// The next record. None: there is none any more; [`Scan::tail`] says what stood behind the last.
    ///
    /// # Errors
    /// Of the operating system, except that single blocks which cannot be read pass for damaged.
    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        loop {
            let left = self.end.saturating_sub(self.at);
            if left == 0 {
                return Ok(None);
            }
            if self.buffer.is_empty() {
                self.fill(CHUNK)?;
                continue;
            }
            let buffered = self.buffer.len() as u64;
            match record::parse(self.key, &self.buffer) {
                Parsed::Record {
                    bytes,
                    number,
                    at_ms,
                } => {
                    let record = self.buffer.split_to(bytes);
                    let start = self.at;
                    self.at += bytes as u64;
                    let skipped = std::mem::take(&mut self.skipped);
                    return Ok(Some(Found {
                        skipped,
                        start,
                        end: self.at,
                        number,
                        at_ms,
                        record,
                    }));
                }
                Parsed::Partial(whole) if buffered < left && whole as u64 <= left => {
                    self.fill((whole as u64).max(CHUNK))?;
                }
                Parsed::Partial(_) | Parsed::Bad => {
                    let skip =
                        record::next_marker(self.key, &self.buffer).unwrap_or(self.buffer.len());
                    drop(self.buffer.split_to(skip));
                    self.at += skip as u64;
                    self.skipped += skip as u64;
                }
            }
        }
    }

    /// Bytes behind the last record that are none.
    pub(super) fn tail(&self) -> u64 {
        self.skipped
    }

    /// Blocks could not be read. What stands in them may be readable another time: nothing may be
    /// destroyed because of what this scan has not seen.
    pub(super) fn unread(&self) -> bool {
        self.unread
    }

    /// Reads anew from where the buffer begins.
    fn fill(&mut self, want: u64) -> io::Result<()> {
        let want = want.min(self.end.saturating_sub(self.at));
        let mut bytes = vec![0; usize::try_from(want).unwrap_or(usize::MAX)];
        let read = match self.file.read_at(self.at, &mut bytes) {
            Ok(read) => read,
            Err(error) if unreadable(&error) => self.read_blocks(&mut bytes)?,
            Err(error) => return Err(error),
        };
        if read < bytes.len() {
            // Shorter than it was: somebody has cut it.
            bytes.truncate(read);
            self.end = self.at + read as u64;
        }
        self.buffer = bytes.into();
        Ok(())
    }

    /// Block by block; one that cannot be read stays zero, which no record survives.
    fn read_blocks(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        for block in bytes.chunks_mut(BLOCK) {
            let wanted = block.len();
            match self.file.read_at(self.at + read as u64, block) {
                Ok(got) => {
                    read += got;
                    if got < wanted {
                        break;
                    }
                }
                Err(error) if unreadable(&error) => {
                    block.fill(0);
                    read += wanted;
                    self.unread = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }
}

/// The medium is broken there, as opposed to no right, no descriptor, no memory.
fn unreadable(error: &io::Error) -> bool {
    // EIO; the standard library has no kind for it.
    cfg!(unix) && error.raw_os_error() == Some(5)
}
