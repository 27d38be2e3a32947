//! What of an action goes to its disk queue, and when: nobody upstream waits for a sink that is slow
//! or away. Writes nothing to the sink.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{Action, Links};
use crate::message::{Batch, Message};
use crate::rules::now_ms;
use crate::rules::queue::{Item, join};
use crate::rules::settle::Ticket;
use crate::rules::spill::{Position, SpillError};

/// How long a message may wait in memory behind a write before it goes to disk.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a write may hold its own batch before that goes to disk as well.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);
/// The same while the sender is at a standstill for it: others on its connection wait too.
const PRESSED_PATIENCE: Duration = Duration::from_millis(20);
/// How soon a full or failing disk queue is asked again.
pub(super) const SPILL_RETRY: Duration = Duration::from_millis(250);
/// Messages that go to disk in one append: what does not fit holds up no more than that.
pub(super) const SPILL_MESSAGES: usize = 4096;

/// A batch under way, and where it is kept meanwhile.
#[derive(Debug)]
pub(super) struct Hand {
    pub(super) batch: Batch,
    pub(super) kept: Kept,
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) enum Kept {
    /// Only here: the reads wait.
    Memory(Vec<Ticket>),
    /// On disk up to this position.
    Disk(Position),
}

impl Hand {
    /// When its messages were taken that do not say so themselves (ms since the Unix epoch).
    pub(super) fn taken_ms(&self) -> u64 {
        let waited = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        now_ms().saturating_sub(waited)
    }

    fn lossless(&self) -> bool {
        matches!(&self.kept, Kept::Memory(tickets) if tickets.iter().any(Ticket::lossless))
    }

    /// By when it has to be on disk, if it is not and somebody waits for it.
    fn due(&self) -> Option<Instant> {
        match &self.kept {
            Kept::Memory(tickets) if self.lossless() => {
                // The oldest read holds up all later ones.
                let pressed = tickets.first().is_some_and(Ticket::presses);
                let patience = if pressed {
                    PRESSED_PATIENCE
                } else {
                    WRITE_PATIENCE
                };
                Some(self.since + patience)
            }
            _ => None,
        }
    }
}

impl Action {
    /// Waits until something in memory has to go to disk (`semantics.md`, Settlement: inbound window).
    pub(super) async fn spill_due<L: Links>(&self, hand: &Hand, links: &L) {
        loop {
            let waiting = self.queue.lossless() > 0;
            let on_disk = matches!(hand.kept, Kept::Disk(_));
            if !waiting && !hand.lossless() {
                // Nothing here is waited for. A push may change that.
                if self.queue.messages() == 0 && !self.queue.is_closed() {
                    self.queue.ready().await;
                } else {
                    tokio::time::sleep(PATIENCE).await;
                }
                continue;
            }
            if self.blocked.lock().is_some() {
                tokio::time::sleep(SPILL_RETRY).await;
                return;
            }
            if !links.are_up() || (waiting && (on_disk || self.queue.is_full())) {
                return;
            }
            let now = Instant::now();
            let queued = self.queue.oldest().map(|since| since + PATIENCE);
            let held = hand.due();
            let due = match (queued, held) {
                (Some(a), Some(b)) => a.min(b),
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => now + PATIENCE,
            };
            if due <= now {
                return;
            }
            // Nothing tells when the sender comes to a standstill.
            let look = if held.is_some() {
                PRESSED_PATIENCE
            } else {
                PATIENCE
            };
            tokio::select! {
                () = tokio::time::sleep_until(due.min(now + look)) => {}
                () = self.queue.pressed() => {}
                () = links.changed() => {}
            }
        }
    }

    /// Moves the batch in hand, if it is only in memory, and all that waits behind it to disk.
    pub(super) async fn spill(&self, hand: &mut Hand) {
        if let Kept::Memory(_) = hand.kept {
            match self.append(hand.batch.to_vec()).await {
                Ok(position) => hand.kept = Kept::Disk(position),
                Err(()) => return,
            }
        }
        // Only what is there now: what comes meanwhile must not keep the next write waiting.
        let mut left = self.queue.messages();
        while left > 0 {
            let items = self.queue.take(SPILL_MESSAGES);
            let count: usize = items.iter().map(Item::len).sum();
            if count == 0 {
                return;
            }
            if self.append(join(&items).to_vec()).await.is_err() {
                self.queue.give_back(items);
                return;
            }
            left = left.saturating_sub(count);
        }
    }

    pub(super) async fn append(&self, messages: Vec<Message>) -> Result<Position, ()> {
        let count = messages.len() as u64;
        match self.spill.append(messages).await {
            Ok(position) => {
                self.spilled.fetch_add(count, Ordering::Relaxed);
                *self.blocked.lock() = None;
                Ok(position)
            }
            Err(error) => {
                self.note_blocked(&error);
                Err(())
            }
        }
    }

    pub(super) fn note_blocked(&self, error: &SpillError) {
        let words = crate::error::chain(error);
        let mut blocked = self.blocked.lock();
        if blocked.as_ref() != Some(&words) {
            // Switched off is what the user wants; upstream waits.
            if !matches!(error, SpillError::Disabled) {
                tracing::warn!(action = %self.name, error = %words, "the disk queue takes nothing at present");
            }
            *blocked = Some(words);
        }
    }

    /// At the end, and after an error: what is in memory goes to disk. What the disk refuses is
    /// abandoned: not acknowledged, so it comes again.
    pub(super) async fn keep_rest(&self, hand: Option<Hand>) {
        let mut messages = Vec::new();
        let mut tickets = Vec::new();
        if let Some(Hand {
            batch,
            kept: Kept::Memory(held),
            ..
        }) = hand
        {
            messages.extend_from_slice(&batch);
            tickets.extend(held);
        }
        for item in self.queue.take_all() {
            messages.extend_from_slice(&item.batch);
            tickets.extend(item.tickets);
        }
        self.keep_all(messages, tickets).await;
    }

    /// Work that came after the end.
    pub(super) async fn keep(&self, items: Vec<Item>) {
        for item in items {
            if item.reason.is_some() {
                self.give_up(item.tickets, item.batch.len());
            } else {
                self.keep_all(item.batch.to_vec(), item.tickets).await;
            }
        }
    }

    async fn keep_all(&self, messages: Vec<Message>, tickets: Vec<Ticket>) {
        if messages.is_empty() {
            return;
        }
        let count = messages.len();
        // Memory was bounded, so the queue's bound gives way by that much this once.
        match self.spill.append_last(messages).await {
            Ok(_) => {
                self.spilled.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) => {
                self.note_blocked(&error);
                self.give_up(tickets, count);
            }
        }
    }

    /// Messages that can be kept nowhere.
    pub(super) fn give_up(&self, tickets: Vec<Ticket>, messages: usize) {
        let (kept, tickets): (Vec<_>, Vec<_>) = tickets.into_iter().partition(Ticket::is_kept);
        let messages = messages.saturating_sub(kept.len());
        kept.into_iter().for_each(Ticket::abandon);
        if messages == 0 && tickets.is_empty() {
            return;
        }
        if self.let_go.load(Ordering::Relaxed) {
            self.lost.fetch_add(messages as u64, Ordering::Relaxed);
            tracing::warn!(action = %self.name, messages, "the rule stops, and messages that could be kept nowhere are dropped");
        } else {
            tickets.into_iter().for_each(Ticket::abandon);
        }
    }
}
