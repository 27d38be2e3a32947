//! Adds messages: room is made or refused, then everything is written and synced, or nothing is.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::{Bounds, Cursor, Log, SEGMENT, Segment};
use crate::config::Overflow;
use crate::message::Message;
use crate::rules::now_ms;
use crate::rules::spill::record::{self, Label, PREAMBLE};
use crate::rules::spill::{Position, SpillError};

/// How much is encoded before it is handed to the file.
const WRITE_CHUNK: usize = 1024 * 1024;

/// After so long what was freed on a disk shows as free: btrfs commits every 30 s.
const ROOM_SHOWS: Duration = Duration::from_secs(30);

/// Places behind the batches, where the segment ends now, and the next number.
type Added = (Vec<Position>, u64, u64);

impl Log {
    /// Adds batches, each whole or not at all, with one sync for all of them.
    pub(in crate::rules::spill) fn append(
        &mut self,
        mut batches: Vec<Vec<Message>>,
        bounds: &Bounds,
    ) -> Vec<Result<Position, SpillError>> {
        let mut answers = Vec::with_capacity(batches.len());
        let (mut bytes, mut messages) = (0, 0);
        for batch in &mut batches {
            let answer = self.admit(batch, (bytes, messages), bounds);
            match answer {
                Ok(size) => {
                    bytes += size;
                    messages += batch.len() as u64;
                    answers.push(Ok(Position::default()));
                }
                Err(error) => {
                    batch.clear();
                    answers.push(Err(error));
                }
            }
        }
        if messages == 0 {
            return answers;
        }
        let written = self
            .take_share(bytes, bounds)
            .and_then(|()| self.write(&batches, bytes, bounds));
        self.count_share();
        for (place, answer) in answers
            .iter_mut()
            .enumerate()
            .filter(|(_, answer)| answer.is_ok())
        {
            *answer = match &written {
                Ok(positions) => Ok(positions.get(place).cloned().unwrap_or_default()),
                Err(error) => Err(error.clone()),
            };
        }
        answers
    }

    /// Room in the host's budget, which others take from at the same time.
    fn take_share(&mut self, bytes: u64, bounds: &Bounds) -> Result<(), SpillError> {
        match &mut self.share {
            Some(share) if !bounds.none => share.take(bytes),
            _ => Ok(()),
        }
    }

    /// Whether there is room for a batch beside what is admitted already: its size. With
    /// `drop-oldest` room is made, at worst by leaving out the batch's own oldest messages.
    fn admit(
        &mut self,
        batch: &mut Vec<Message>,
        beside: (u64, u64),
        bounds: &Bounds,
    ) -> Result<u64, SpillError> {
        let sizes: Option<Vec<u64>> = batch.iter().map(record::encoded_len).collect();
        let sizes = sizes.ok_or(SpillError::TooLarge)?;
        let mut size: u64 = sizes.iter().sum();
        let mut count = batch.len() as u64;
        let max_messages = bounds.messages.unwrap_or(u64::MAX);
        // A new segment's label counts too.
        let room_for = |log: &Self, size: u64, count: u64| {
            if bounds.none {
                return Ok(());
            }
            let (used, waiting) = (
                log.bytes() + beside.0 + PREAMBLE as u64,
                log.messages() + beside.1,
            );
            if waiting + count > max_messages {
                return Err(SpillError::Full {
                    used: waiting,
                    max: max_messages,
                    unit: "messages",
                });
            }
            if used + size > bounds.bytes {
                return Err(SpillError::Full {
                    used,
                    max: bounds.bytes,
                    unit: "bytes",
                });
            }
            let share = log.share.as_ref();
            share.map_or(Ok(()), |share| share.room(beside.0 + size))
        };
        loop {
            match room_for(self, size, count) {
                Ok(()) => {
                    self.room_made = None;
                    break;
                }
                Err(full) if bounds.overflow == Overflow::Block => return Err(full),
                Err(full @ SpillError::Reserved { .. }) => {
                    if !self.may_make_room(size, bounds) {
                        return Err(full);
                    }
                }
                Err(_) => {}
            }
            if !self.segments.is_empty() {
                self.dropped += self.front_waiting();
                self.remove_front();
                continue;
            }
            let left_out = (batch.len() as u64).saturating_sub(count);
            let Some(first) = usize::try_from(left_out)
                .ok()
                .and_then(|place| sizes.get(place))
            else {
                break;
            };
            size -= first;
            count -= 1;
            self.dropped += 1;
        }
        let keep = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .min(batch.len());
        batch.drain(..batch.len() - keep);
        Ok(size)
    }

    /// Whether the oldest segment may go because the disk has no room. Others fill the disk too, and
    /// some file systems (btrfs, XFS) show what was freed only seconds later: without a limit the whole
    /// queue would go for one message. So at most about what is to be written and one segment within
    /// `ROOM_SHOWS`, however often it is tried; until then it is as with `block`.
    fn may_make_room(&mut self, size: u64, bounds: &Bounds) -> bool {
        let Some(front) = self.segments.front() else {
            // Nothing of this queue could make room.
            return false;
        };
        let now = Instant::now();
        let (since, made) = self
            .room_made
            .filter(|(since, _)| now.duration_since(*since) < ROOM_SHOWS)
            .unwrap_or((now, 0));
        if made > 0 && made >= size.saturating_add(bounds.segment_bytes()) {
            return false;
        }
        self.room_made = Some((since, made + front.good));
        true
    }

    fn write(
        &mut self,
        batches: &[Vec<Message>],
        bytes: u64,
        bounds: &Bounds,
    ) -> Result<Vec<Position>, SpillError> {
        let at_ms = now_ms();
        self.make_active(bytes, bounds, at_ms)?;
        let result = self.write_records(batches, at_ms);
        if let Err((error, synced)) = result {
            self.after_failure(synced, batches.iter().map(|batch| batch.len() as u64).sum());
            return Err(SpillError::io("written", error));
        }
        let Ok((positions, good, next)) = result else {
            return Err(SpillError::Stopping);
        };
        if self.messages() == 0 {
            self.oldest_ms = Some(at_ms);
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.good = good;
            segment.end = next;
        }
        self.next_number = next;
        Ok(positions)
    }

    /// Writes and syncs. On an error, whether it was the sync that failed.
    fn write_records(
        &mut self,
        batches: &[Vec<Message>],
        at_ms: u64,
    ) -> Result<Added, (io::Error, bool)> {
        let (Some(file), Some(segment)) = (&mut self.active, self.segments.back()) else {
            return Err((io::Error::other("no segment"), false));
        };
        let fresh = segment.good == 0;
        let mut buffer = Vec::new();
        if fresh {
            let label = Label {
                id: segment.id,
                first: segment.first,
                made_ms: at_ms,
            };
            record::encode_label(&self.key, label, &mut buffer);
        }
        let (mut at, mut number) = (segment.good, self.next_number);
        let mut positions = Vec::with_capacity(batches.len());
        for batch in batches {
            for message in batch {
                record::encode(&self.key, message, number, at_ms, &mut buffer);
                number += 1;
                if buffer.len() >= WRITE_CHUNK {
                    file.write_at(at, &buffer).map_err(|error| (error, false))?;
                    at += buffer.len() as u64;
                    buffer.clear();
                }
            }
            let end = at + buffer.len() as u64;
            positions.push(Position {
                segment: segment.place,
                end,
                number: number.saturating_sub(1),
                at_ms,
            });
        }
        file.write_at(at, &buffer).map_err(|error| (error, false))?;
        at += buffer.len() as u64;
        file.sync().map_err(|error| (error, true))?;
        if fresh {
            self.storage
                .sync_folder(&self.folder)
                .map_err(|error| (error, true))?;
        }
        Ok((positions, at, number))
    }

    /// Makes sure that the last segment takes records.
    fn make_active(&mut self, bytes: u64, bounds: &Bounds, at_ms: u64) -> Result<(), SpillError> {
        let full = self
            .segments
            .back()
            .is_some_and(|last| last.good + bytes > bounds.segment_bytes());
        if self.active.is_some() && !full {
            return Ok(());
        }
        self.storage
            .make_folder(&self.folder)
            .map_err(|error| SpillError::io("written", error))?;
        let id = rand::random::<u64>().max(1);
        let name = format!("{:020}-{id:016x}{SEGMENT}", self.next_number);
        let file = self
            .storage
            .create(&self.path(&name))
            .map_err(|error| SpillError::io("written", error))?;
        if self.segments.is_empty() {
            self.cursor = Cursor {
                number: self.next_number,
                offset: PREAMBLE as u64,
            };
            self.oldest_ms = Some(at_ms);
        }
        let place = self.place_for();
        let (first, end) = (self.next_number, self.next_number);
        self.segments.push_back(Segment {
            place,
            id,
            name,
            first,
            end,
            good: 0,
            unread: false,
        });
        self.active = Some(file);
        Ok(())
    }

    /// Nothing half written stays. After a failed sync the file is never written to again: the
    /// kernel may have forgotten what it did not write, and a second sync would say that all is well.
    fn after_failure(&mut self, synced: bool, messages: u64) {
        let good = self.segments.back().map_or(0, |segment| segment.good);
        if good == 0 {
            self.active = None;
            if let Some(segment) = self.segments.pop_back()
                && self.storage.remove(&self.path(&segment.name)).is_err()
            {
                // It may come back with these numbers.
                self.next_number += messages;
            }
            return;
        }
        let cut = self
            .active
            .as_mut()
            .is_some_and(|file| file.cut(good).is_ok());
        if synced || !cut {
            self.active = None;
        }
    }
}
