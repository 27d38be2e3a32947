//! Gives out messages in order, past whatever is broken, and moves the cursor.

use std::io;

use super::{Bounds, CURSOR_EVERY, CURSOR_MESSAGES, Cursor, Log};
use crate::message::Message;
use crate::rules::now_ms;
use crate::rules::spill::record::{self, PREAMBLE};
use crate::rules::spill::scan::Scan;
use crate::rules::spill::{Position, SpillError};

impl Log {
    /// The oldest messages.
    pub(in crate::rules::spill) fn peek(
        &mut self,
        max_messages: usize,
        max_bytes: usize,
        bounds: &Bounds,
    ) -> Result<Vec<(Position, Message)>, SpillError> {
        let (max_messages, max_bytes) = (max_messages.max(1), max_bytes.max(1));
        let mut out = Vec::new();
        let mut taken = 0;
        let mut expired: Option<Position> = None;
        let now = now_ms();
        let old = bounds
            .age
            .map(|age| now.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
        let mut index = 0;
        while let Some(segment) = self.segments.get(index) {
            let (mut expect, from) = match index {
                0 => (self.cursor.number.max(segment.first), self.cursor.offset),
                _ => (segment.first, PREAMBLE as u64),
            };
            let (place, end, good) = (segment.place, segment.end, segment.good);
            let last = index + 1 == self.segments.len();
            let file = match self.storage.open(&self.path(&segment.name)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.count_damage(place, u64::MAX, end - expect, 0);
                    self.pass(&mut index, out.is_empty());
                    continue;
                }
                Err(error) => return Err(SpillError::io("read", error)),
            };
            let key = self.key.clone();
            let mut scan = Scan::new(file, &key, from, good);
            let whole = loop {
                let Some(found) = scan.next().map_err(|error| SpillError::io("read", error))?
                else {
                    break true;
                };
                if found.number < expect {
                    continue;
                }
                if found.number >= end {
                    break true;
                }
                let size = found.record.len();
                if !out.is_empty() && taken + size > max_bytes {
                    break false;
                }
                let missing = found.number - expect;
                if missing > 0 || found.skipped > 0 {
                    self.count_damage(place, found.start, missing, found.skipped);
                }
                expect = found.number + 1;
                let position = Position {
                    segment: place,
                    end: found.end,
                    number: found.number,
                    at_ms: found.at_ms,
                };
                if out.is_empty() && old.is_some_and(|old| found.at_ms < old) {
                    self.expired += 1;
                    expired = Some(position);
                    continue;
                }
                let Some(mut message) = record::decode(&found.record) else {
                    self.count_damage(place, found.end, 1, size as u64);
                    continue;
                };
                if message.arrival.at_ms == 0 {
                    // Made by a connector: nobody knows better how old it is.
                    message.arrival.at_ms = found.at_ms;
                }
                if out.is_empty() {
                    self.oldest_ms = Some(found.at_ms);
                }
                taken += size;
                out.push((position, message));
                if out.len() >= max_messages || taken >= max_bytes {
                    break false;
                }
            };
            let (tail, unread) = (scan.tail(), scan.unread());
            drop(scan);
            if unread && let Some(segment) = self.segments.get_mut(index) {
                segment.unread = true;
            }
            if !whole {
                break;
            }
            if expect < end || (last && tail > 0) {
                self.count_damage(place, u64::MAX, end.saturating_sub(expect), tail);
            }
            self.pass(&mut index, out.is_empty());
        }
        if let Some(position) = expired {
            self.advance(&position);
        }
        Ok(out)
    }

    /// Goes to the next segment; one of which nothing was wanted is done.
    fn pass(&mut self, index: &mut usize, nothing: bool) {
        if nothing && *index == 0 {
            self.finish_front();
        } else {
            *index += 1;
        }
    }

    /// Counts each broken place once, however often it is read.
    fn count_damage(&mut self, place: u64, offset: u64, lost: u64, bytes: u64) {
        if (place, offset) <= self.counted {
            return;
        }
        self.counted = (place, offset);
        self.damage.places += 1;
        self.damage.lost += lost;
        self.damage.bytes += bytes;
    }

    /// Everything before `position` is done.
    pub(in crate::rules::spill) fn advance(&mut self, position: &Position) {
        if position.number < self.cursor.number
            || !self
                .segments
                .iter()
                .any(|segment| segment.place == position.segment)
        {
            return;
        }
        while self
            .segments
            .front()
            .is_some_and(|front| front.place != position.segment)
        {
            self.finish_front();
        }
        self.unwritten += position.number + 1 - self.cursor.number;
        self.cursor = Cursor {
            number: position.number + 1,
            offset: position.end,
        };
        self.oldest_ms = Some(position.at_ms);
        if self
            .segments
            .front()
            .is_some_and(|front| self.cursor.number >= front.end)
        {
            self.finish_front();
            return;
        }
        let due = self
            .written
            .is_none_or(|written| written.elapsed() >= CURSOR_EVERY);
        if due || self.unwritten >= CURSOR_MESSAGES {
            // A cursor that stays behind makes messages come again, nothing worse.
            if let Err(error) = self.write_cursor(false) {
                tracing::debug!(folder = %self.folder.display(), %error, "the cursor was not written");
            }
        }
    }
}
