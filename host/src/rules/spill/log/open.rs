//! Finds out what is on disk, and puts aside or cuts what is no use.

use std::io;
use std::path::Path;

use super::{CURSOR, Cursor, Log, SEGMENT, Segment};
use crate::rules::now_ms;
use crate::rules::spill::record::{self, Begins, PREAMBLE, SLOT};
use crate::rules::spill::scan::Scan;
use crate::rules::spill::{Position, SpillError};

impl Log {
    /// Looks at what is on disk. Whatever it is, this succeeds if the folder can be listed at all.
    pub(in crate::rules::spill) fn open(&mut self) -> Result<(), SpillError> {
        if self.opened {
            return Ok(());
        }
        let entries = self
            .storage
            .list(&self.folder)
            .map_err(|error| SpillError::io("opened", error))?;
        let mut found = Vec::new();
        for entry in entries
            .iter()
            .filter(|entry| !entry.folder && entry.name.ends_with(SEGMENT))
        {
            if let Some(segment) = self.look_at(&entry.name, entry.bytes)? {
                found.push(segment);
            }
        }
        found.sort_by_key(|(made, segment)| (segment.first, *made));
        for (_, mut segment) in found {
            segment.place = self.place_for();
            if let Some(before) = self.segments.back_mut() {
                before.end = segment.first;
            }
            self.segments.push_back(segment);
        }
        while let Some(last) = self.segments.pop_back() {
            if let Some(last) = self.look_through(last)? {
                self.segments.push_back(last);
                break;
            }
        }
        self.next_number = self.segments.back().map_or(1, |last| last.end);
        self.restore_cursor(entries.iter().any(|entry| entry.name == CURSOR));
        self.opened = true;
        self.count_share();
        if self.damage.any() {
            tracing::warn!(folder = %self.folder.display(), damage = %self.damage, "a disk queue was damaged");
        }
        Ok(())
    }

    /// What a file says of itself. None: it holds nothing for this queue.
    fn look_at(&mut self, name: &str, bytes: u64) -> Result<Option<(u64, Segment)>, SpillError> {
        let path = self.path(name);
        let opened = |error| SpillError::io("opened", error);
        let mut file = match self.storage.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(opened(error)),
        };
        let mut label = [0; PREAMBLE];
        // What cannot be read is treated as what cannot be understood, but for one thing: it is kept.
        let label_read = file.read_at(0, &mut label);
        let unread = label_read.is_err();
        let read = label_read.unwrap_or_default();
        let segment = |id, first, unread| Segment {
            place: 0,
            id,
            name: name.to_owned(),
            first,
            end: first,
            good: bytes,
            unread,
        };
        match record::parse_label(&self.key, label.get(..read).unwrap_or_default()) {
            Begins::Ours(label, both) => {
                self.damage.mended += u64::from(!both);
                Ok(Some((label.made_ms, segment(label.id, label.first, false))))
            }
            Begins::Foreign => {
                drop(file);
                self.put_away(&path);
                Ok(None)
            }
            Begins::Unknown => {
                let key = self.key.clone();
                let mut scan = Scan::new(file, &key, 0, bytes);
                let first = scan.next().map_err(opened)?;
                let unread = unread || scan.unread();
                drop(scan);
                match first {
                    Some(first) => {
                        self.damage.places += 1;
                        self.damage.bytes += first.start;
                        Ok(Some((first.at_ms, segment(0, first.number, unread))))
                    }
                    None if bytes < PREAMBLE as u64 && !unread => {
                        self.cut_whole(&path, bytes);
                        Ok(None)
                    }
                    None => {
                        self.put_away(&path);
                        Ok(None)
                    }
                }
            }
        }
    }

    /// Reads the newest file to its end and cuts what is torn. None: it holds no record. A file of which
    /// blocks could not be read is neither cut nor removed: that looks like a torn end, but the disk may
    /// only have failed for a moment, and what is in them was acknowledged.
    fn look_through(&mut self, mut last: Segment) -> Result<Option<Segment>, SpillError> {
        let path = self.path(&last.name);
        let opened = |error| SpillError::io("opened", error);
        let key = self.key.clone();
        let file = self.storage.open(&path).map_err(opened)?;
        let mut scan = Scan::new(file, &key, PREAMBLE as u64, last.good);
        // A newer file may have said where this one ends, and have turned out to hold nothing.
        last.end = last.first;
        let mut end = None;
        while let Some(found) = scan.next().map_err(opened)? {
            if found.number >= last.end {
                last.end = found.number + 1;
                end = Some(found.end);
            }
        }
        let tail = scan.tail();
        last.unread |= scan.unread();
        drop(scan);
        let Some(end) = end else {
            if last.unread {
                self.damage.places += 1;
                self.damage.bytes += tail;
                self.put_away(&path);
                return Ok(None);
            }
            self.cut_whole(&path, last.good);
            return Ok(None);
        };
        if tail > 0 && last.unread {
            self.damage.places += 1;
            self.damage.bytes += tail;
        } else if tail > 0 {
            self.damage.torn += 1;
            self.damage.bytes += tail;
            // Only for tidiness: nothing is added to this file any more, and nothing read beyond.
            let _cut = self.storage.open(&path).and_then(|mut file| file.cut(end));
        }
        last.good = end;
        Ok(Some(last))
    }

    /// Removes a file that ends before its first record.
    fn cut_whole(&mut self, path: &Path, bytes: u64) {
        self.damage.torn += 1;
        self.damage.bytes += bytes;
        if let Err(error) = self.storage.remove(path) {
            tracing::debug!(file = %path.display(), %error, "a torn file could not be removed");
        }
    }

    fn put_away(&mut self, path: &Path) {
        if let Err(error) = self.set_aside(path) {
            tracing::warn!(file = %path.display(), %error, "a file that is no use to this queue could not be set aside");
        }
    }

    /// Gives a file another name, under which no queue looks at it.
    pub(super) fn set_aside(&mut self, path: &Path) -> io::Result<()> {
        self.damage.set_aside += 1;
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{}", now_ms()));
        self.storage.rename(path, Path::new(&name))
    }

    /// Goes to where the last process stopped reading.
    fn restore_cursor(&mut self, exists: bool) {
        self.cursor = Cursor {
            number: self
                .segments
                .front()
                .map_or(self.next_number, |front| front.first),
            offset: PREAMBLE as u64,
        };
        if !exists {
            return;
        }
        let mut bytes = [0; 2 * SLOT];
        let read = self
            .storage
            .open(&self.path(CURSOR))
            .and_then(|mut file| file.read_at(0, &mut bytes));
        let read = read.unwrap_or_default();
        let (mark, bad) = record::parse_marks(&self.key, bytes.get(..read).unwrap_or_default());
        self.damage.mended += u64::from(bad);
        let Some(mark) = mark else { return };
        self.turn = mark.turn;
        self.next_number = self.next_number.max(mark.number + 1);
        // A mark in a segment that is gone says nothing of those that are left.
        let Some(marked) = self
            .segments
            .iter()
            .find(|segment| segment.id == mark.segment)
        else {
            return;
        };
        let place = marked.place;
        let position = Position {
            segment: place,
            end: mark.offset,
            number: mark.number,
            at_ms: 0,
        };
        if position.number >= marked.first {
            self.advance(&position);
        }
        self.oldest_ms = None;
    }
}
