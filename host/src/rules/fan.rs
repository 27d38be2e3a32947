//! Where a source's batch fans out: to each rule's query, and from there to each action's output
//! steps and queue. No task of its own; it runs in the source's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::action::{Action, Admission};
use super::duplicates::Window;
use super::inherited::Inherited;
use super::message_id::MessageIds;
use super::output::{Batched, Batcher, OutputPlan};
use super::query::{Passing, Query, RowBatch, Selection};
use super::settle::Ticket;
use crate::connections::Carries;
use crate::error::ConnectionError;
use crate::message::{Batch, Message};

/// The code of a dead letter that no query has seen: as it came from its stream.
pub const UNREAD: &str = "payload";
/// The code of a dead letter that passed the query and failed in an action's output steps.
pub const UNSHAPED: &str = "output";

/// A rule, as its source sees it.
#[derive(Debug)]
pub struct RuleInput {
    /// The rule's id.
    pub rule: String,
    /// The query.
    pub query: Arc<Query>,
    /// The actions.
    pub outputs: Vec<Output>,
    /// What it counts.
    pub stats: QueryStats,
    /// The newest results, for showing.
    pub newest: Newest,
}

/// The newest results of a rule, as many as somebody wants to look at.
#[derive(Debug, Default)]
pub struct Newest {
    keep: usize,
    rows: Mutex<VecDeque<(u64, Bytes)>>,
}

/// Bytes of a payload that are kept for showing.
const SHOWN: usize = 200;

impl Newest {
    /// Keeps so many; none for 0.
    #[must_use]
    pub fn new(keep: usize) -> Self {
        Self {
            keep,
            rows: Mutex::default(),
        }
    }

    fn see(&self, batch: &[Message]) {
        if self.keep == 0 || batch.is_empty() {
            return;
        }
        let now = super::now_ms();
        let mut rows = self.rows.lock();
        for message in batch.iter().skip(batch.len().saturating_sub(self.keep)) {
            if rows.len() >= self.keep {
                rows.pop_front();
            }
            let shown = message.payload.len().min(SHOWN);
            // A copy: a slice would keep the whole buffer it came in.
            rows.push_back((
                now,
                Bytes::copy_from_slice(message.payload.get(..shown).unwrap_or_default()),
            ));
        }
    }

    /// What was kept, oldest first: when (ms since the epoch) and the payload, cut short.
    #[must_use]
    pub fn rows(&self) -> Vec<(u64, Bytes)> {
        self.rows.lock().iter().cloned().collect()
    }
}

/// What a query counts.
#[derive(Debug, Default)]
pub struct QueryStats {
    /// Messages looked at.
    pub messages_in: AtomicU64,
    /// Rows that passed.
    pub rows_out: AtomicU64,
    /// Payloads that could not be decoded.
    pub failures: AtomicU64,
    /// Comparisons and functions on values of the wrong type.
    pub type_errors: AtomicU64,
}

/// An action with the steps before its queue.
#[derive(Debug)]
pub struct Output {
    /// The action.
    pub action: Arc<Action>,
    plan: Arc<OutputPlan>,
    ids: Option<MessageIds>,
    inherited: Inherited,
    window: Option<Window>,
    batcher: Option<Mutex<Waiting>>,
    /// The batcher has rows that wait for a time.
    waits: Notify,
}

/// Rows that wait to fill a payload, and what becomes of it when there is no room for it.
#[derive(Debug)]
struct Waiting {
    batcher: Batcher<Ticket>,
    admission: Admission,
}

impl RuleInput {
    /// Runs the query over a batch and gives every action its part. Never waits.
    pub fn accept(&self, rows: &RowBatch, ticket: &Ticket, admission: Admission) {
        let selection = self.query.run(rows);
        let passed = match &selection.passing {
            Passing::All => rows.batch().len(),
            Passing::Messages(places) => places.len(),
            Passing::Rows(built) => built.len(),
        };
        self.stats
            .messages_in
            .fetch_add(rows.batch().len() as u64, Ordering::Relaxed);
        self.stats
            .rows_out
            .fetch_add(passed as u64, Ordering::Relaxed);
        if selection.type_errors > 0 {
            self.stats
                .type_errors
                .fetch_add(selection.type_errors, Ordering::Relaxed);
        }
        for failure in &selection.failures {
            self.stats.failures.fetch_add(1, Ordering::Relaxed);
            if let Some(message) = rows.batch().get(failure.index as usize)
                && !ticket.refuse(message.arrival.delivery, &failure.reason)
            {
                let reason = ConnectionError::permanent(UNREAD, failure.reason.clone());
                self.bury(Batch::from(vec![message.clone()]), ticket, reason);
            }
        }
        for (place, output) in self.outputs.iter().enumerate() {
            let newest = (place == 0).then_some(&self.newest);
            output.accept(rows, &selection, ticket, admission, newest);
        }
    }

    /// A message that is not what its stream says becomes a dead letter, unless its sender is told.
    pub fn refuse(&self, message: &Message, reason: &ConnectionError, ticket: &Ticket) {
        self.stats.messages_in.fetch_add(1, Ordering::Relaxed);
        self.stats.failures.fetch_add(1, Ordering::Relaxed);
        if !ticket.refuse(message.arrival.delivery, &reason.message) {
            let batch = Batch::from(vec![message.clone()]);
            self.bury(batch, ticket, reason.clone());
        }
    }

    /// Messages that can never be read become dead letters of the first action.
    pub fn bury(&self, batch: Batch, ticket: &Ticket, reason: ConnectionError) {
        if let Some(output) = self.outputs.first() {
            output.action.bury(batch, vec![ticket.clone()], reason);
        }
    }
}

impl Output {
    /// An action behind its output steps.
    #[must_use]
    pub fn new(action: Arc<Action>, plan: Arc<OutputPlan>) -> Self {
        let waiting = |batcher| {
            Mutex::new(Waiting {
                batcher,
                admission: Admission::Wait,
            })
        };
        let batcher = plan.batcher().map(waiting);
        Self {
            action,
            plan,
            ids: None,
            inherited: Inherited::default(),
            window: None,
            batcher,
            waits: Notify::new(),
        }
    }

    /// Each message gets an id.
    #[must_use]
    pub fn with_ids(mut self, ids: Option<MessageIds>) -> Self {
        self.ids = ids;
        self
    }

    /// Headers that came with a message and that one of these does not carry are left out.
    #[must_use]
    pub fn with_carries(mut self, carries: Vec<Carries>) -> Self {
        self.inherited = Inherited::new(carries, self.action.progress.owner.clone());
        self
    }

    /// Duplicates are left out; the plan says what makes two messages the same
    /// ([`OutputPlan::with_key`]).
    #[must_use]
    pub fn with_window(mut self, window: Option<Window>) -> Self {
        self.window = window;
        self
    }

    /// Messages left out as duplicates.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.window.as_ref().map_or(0, Window::dropped)
    }

    fn accept(
        &self,
        rows: &RowBatch,
        selection: &Selection,
        ticket: &Ticket,
        admission: Admission,
        newest: Option<&Newest>,
    ) {
        if let Some(batcher) = &self.batcher {
            let mut held = batcher.lock();
            held.admission = admission;
            let batched = held
                .batcher
                .push(rows, selection, Instant::now(), |_| ticket.clone());
            let waiting = held.batcher.due().is_some();
            // In the lock: what is flushed later must queue up later.
            self.send(batched, admission, newest, Some(rows));
            drop(held);
            if waiting {
                self.waits.notify_one();
            }
            return;
        }
        let output = self.plan.apply(rows, selection);
        for failure in output.failures {
            if let Some(message) = rows.batch().get(failure.index as usize) {
                self.fail(message.clone(), &failure.reason, ticket.clone(), Some(rows));
            }
        }
        let id = self.ids.as_ref().map(MessageIds::header);
        // Before anything of the action's own is among the headers.
        let inherited = self.inherited.strip(output.batch, id);
        let mut batch = if output.rendered.is_empty() {
            inherited
        } else {
            let pairs = inherited.iter().zip(output.rendered);
            pairs
                .map(|(message, rendered)| self.plan.address(message.clone(), rendered))
                .collect::<Vec<_>>()
                .into()
        };
        if let Some(ids) = &self.ids {
            batch = ids.stamp(&batch, output.sources.as_deref());
        }
        let mut tickets = vec![ticket.clone()];
        if let Some(window) = &self.window {
            let admitted = window.admit(&output.keys, ticket);
            tickets.extend(admitted.hold);
            if let Some(places) = admitted.places {
                batch = batch.select(&places).unwrap_or_default();
            }
        }
        if let Some(newest) = newest {
            newest.see(&batch);
        }
        self.action.accept(batch, tickets, admission);
    }

    /// A dead letter comes again, from where it died: before the query for the whole rule, before the
    /// output steps or at the sink for this action alone.
    pub fn again(&self, rule: &RuleInput, rows: &RowBatch, code: &str, ticket: &Ticket) {
        match code {
            UNREAD => rule.accept(rows, ticket, Admission::Wait),
            UNSHAPED => self.accept(rows, &rule.query.run(rows), ticket, Admission::Wait, None),
            _ => {
                self.action
                    .accept(rows.batch().clone(), vec![ticket.clone()], Admission::Wait);
            }
        }
    }

    fn send(
        &self,
        batched: Batched<Ticket>,
        admission: Admission,
        newest: Option<&Newest>,
        rows: Option<&RowBatch>,
    ) {
        for (message, reason, ticket) in batched.failures {
            self.fail(message, &reason, ticket, rows);
        }
        for (message, rendered, tickets) in batched.messages {
            let id = self.ids.as_ref().map(MessageIds::header);
            let message = self.inherited.strip_one(&message, id).unwrap_or(message);
            let message = self.plan.address(message, rendered);
            if let Some(newest) = newest {
                newest.see(std::slice::from_ref(&message));
            }
            let mut batch = Batch::from(vec![message]);
            if let Some(ids) = &self.ids {
                batch = ids.stamp(&batch, None);
            }
            self.action.accept(batch, tickets, admission);
        }
    }

    /// What cannot be shaped becomes a dead letter; but if it is no readable payload, and its sender
    /// waits to hear that, the sender is told instead.
    fn fail(&self, message: Message, reason: &str, ticket: Ticket, rows: Option<&RowBatch>) {
        let delivery = message.arrival.delivery;
        let same = |other: &Message| other.arrival.delivery == delivery;
        let unreadable = delivery != 0
            && rows.is_some_and(|rows| {
                let broken = rows.failures().iter();
                broken
                    .filter_map(|failure| rows.batch().get(failure.index as usize))
                    .any(same)
            });
        if unreadable && ticket.refuse(delivery, reason) {
            return;
        }
        let reason = ConnectionError::permanent(UNSHAPED, reason);
        self.action
            .bury(Batch::from(vec![message]), vec![ticket], reason);
    }

    /// Rows that wait to fill a batch go now.
    pub fn flush(&self) {
        if let Some(batcher) = &self.batcher {
            self.flush_held(&mut batcher.lock());
        }
    }

    /// Rows of reads for which nobody waits may be dropped here too: the links may be down for days.
    fn flush_held(&self, held: &mut Waiting) {
        let batched = held.batcher.flush();
        self.send(batched, held.admission, None, None);
    }

    /// Flushes when the lingering is over; runs as long as the rule.
    pub async fn linger(&self) {
        let Some(batcher) = &self.batcher else { return };
        loop {
            let waits = self.waits.notified();
            let due = batcher.lock().batcher.due();
            match due {
                None => waits.await,
                Some(due) => {
                    tokio::time::sleep_until(due).await;
                    let mut held = batcher.lock();
                    if held.batcher.due().is_some_and(|due| due <= Instant::now()) {
                        self.flush_held(&mut held);
                    }
                }
            }
        }
    }
}
