//! A part of a batch with its history, and the time that its messages are judged by. Writes nothing.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{Batch, Message};
use crate::rules::now_ms;

/// The wall clock as it stood when the batch came, and the monotonic one since: a jump of the first
/// makes nothing expire under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Of messages that do not say themselves when they were taken.
    taken_ms: u64,
    began_ms: u64,
    began: Instant,
}

impl Clock {
    pub(super) fn new(taken_ms: u64) -> Self {
        Self {
            taken_ms,
            began_ms: now_ms(),
            began: Instant::now(),
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.began_ms.saturating_add(millis(self.began.elapsed()))
    }

    pub(super) fn taken_ms(&self, message: &Message) -> u64 {
        match message.arrival.at_ms {
            0 => self.taken_ms,
            at_ms => at_ms,
        }
    }
}

/// A part of a batch, with its history.
pub(super) struct Part {
    pub(super) batch: Batch,
    /// Tries that count against the policy, message by message; empty: none yet.
    pub(super) tries: Vec<u32>,
    pub(super) traps: u32,
    pub(super) attempts: u32,
    /// Tries since one that wrote something: a sink that takes a part each time is not slowed down.
    pub(super) in_vain: u32,
}

pub(super) fn halve(part: Part, parts: &mut VecDeque<Part>) {
    let middle = part.batch.len() / 2;
    for (from, to) in [(middle, part.batch.len()), (0, middle)] {
        parts.push_front(Part {
            batch: part.batch.slice(from, to),
            tries: part.tries.get(from..to).unwrap_or_default().to_vec(),
            traps: 0,
            attempts: part.attempts,
            in_vain: 0,
        });
    }
}

impl Part {
    /// Only these of its messages, by place; None: none at all.
    pub(super) fn pick(self, places: &[u32]) -> Option<Self> {
        let batch = self.batch.select(places).ok()?;
        let tries = |place: &u32| self.tries.get(*place as usize).copied();
        let tries = places.iter().filter_map(tries).collect();
        (!batch.is_empty()).then_some(Self {
            batch,
            tries,
            ..self
        })
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
