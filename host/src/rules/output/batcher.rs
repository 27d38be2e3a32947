//! `batchSize` and `lingerInterval`: several rows in one payload. Holds rows and what the caller
//! wants back with them; has no clock and no task of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{OutputPlan, each_row};
use crate::message::Message;
use crate::rules::query::{RowBatch, Selection};

/// Without `lingerInterval` rows wait this long for others.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// Without `batchSize`, and beside it, a payload is not made of more than this.
const MOST_ROWS: usize = 10_000;
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// When a payload is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) rows: Option<usize>,
    pub(super) linger: Duration,
}

/// Rows that wait for others. `T` is what the caller ties to a message: a settlement ticket.
#[derive(Debug)]
pub struct Batcher<T> {
    plan: Arc<OutputPlan>,
    bounds: Bounds,
    pending: Vec<Pending<T>>,
    rows: usize,
    bytes: usize,
    rendered: Vec<String>,
    due: Option<Instant>,
}

/// The rows of one message; they are never parted.
#[derive(Debug)]
struct Pending<T> {
    message: Message,
    rows: Vec<Bytes>,
    token: T,
}

/// What a batcher gave out.
#[derive(Debug)]
pub struct Batched<T> {
    /// Payloads, in order, each with its dynamic properties and the tokens of all messages in it.
    pub messages: Vec<(Message, Vec<String>, Vec<T>)>,
    /// Tokens of messages that left nothing to send (`omitIfEmpty`): filtered.
    pub omitted: Vec<T>,
    /// Messages that cannot be sent, each with its reason and token: dead letters.
    pub failures: Vec<(Message, String, T)>,
}

impl<T> Default for Batched<T> {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            omitted: Vec::new(),
            failures: Vec::new(),
        }
    }
}

impl OutputPlan {
    /// A batcher, if this plan batches.
    #[must_use]
    pub fn batcher<T>(self: &Arc<Self>) -> Option<Batcher<T>> {
        self.batching.map(|bounds| Batcher {
            plan: Arc::clone(self),
            bounds,
            pending: Vec::new(),
            rows: 0,
            bytes: 0,
            rendered: Vec::new(),
            due: None,
        })
    }
}

impl<T> Batcher<T> {
    /// Takes in what passed, and gives out the payloads that are complete. `token` is called once, in
    /// order, for each message that has rows or fails here; with its place in the batch.
    pub fn push(
        &mut self,
        rows: &RowBatch,
        selection: &Selection,
        now: Instant,
        mut token: impl FnMut(u32) -> T,
    ) -> Batched<T> {
        let mut out = Batched::default();
        let plan = Arc::clone(&self.plan);
        let mut open: Option<(u32, Vec<String>, Pending<T>)> = None;
        let failures = each_row(rows, selection, |message, index, row| {
            if open.as_ref().is_some_and(|(place, ..)| *place != index)
                && let Some((_, rendered, pending)) = open.take()
            {
                self.add(rendered, pending, now, &mut out);
            }
            match &mut open {
                Some((.., pending)) => pending.rows.push(row.keep(message)),
                None => {
                    let rendered = plan.render_dynamic(&row)?;
                    let rows = vec![row.keep(message)];
                    let pending = Pending {
                        message: message.clone(),
                        rows,
                        token: token(index),
                    };
                    open = Some((index, rendered, pending));
                }
            }
            Ok(())
        });
        if let Some((_, rendered, pending)) = open {
            self.add(rendered, pending, now, &mut out);
        }
        for failure in failures {
            if let Some(message) = rows.batch().get(failure.index as usize) {
                out.failures
                    .push((message.clone(), failure.reason, token(failure.index)));
            }
        }
        out
    }

    /// When [`Batcher::flush`] is due, if anything waits.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Messages that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Gives out what waits: when it is due, at the end, or when the source can give no more until
    /// something is settled.
    #[must_use]
    pub fn flush(&mut self) -> Batched<T> {
        let mut out = Batched::default();
        self.flush_into(&mut out);
        out
    }

    fn add(
        &mut self,
        rendered: Vec<String>,
        pending: Pending<T>,
        now: Instant,
        out: &mut Batched<T>,
    ) {
        // One payload goes to one topic.
        if !self.pending.is_empty() && self.rendered != rendered {
            self.flush_into(out);
        }
        if self.pending.is_empty() {
            self.due = Some(now + self.bounds.linger);
            self.rendered = rendered;
        }
        self.rows += pending.rows.len();
        self.bytes += pending.rows.iter().map(Bytes::len).sum::<usize>();
        self.pending.push(pending);
        let most = self.bounds.rows.unwrap_or(MOST_ROWS).min(MOST_ROWS);
        if self.rows >= most || self.bytes >= MOST_BYTES {
            self.flush_into(out);
        }
    }

    fn flush_into(&mut self, out: &mut Batched<T>) {
        (self.rows, self.bytes, self.due) = (0, 0, None);
        let rendered = std::mem::take(&mut self.rendered);
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return;
        }
        match shape(&self.plan, &pending) {
            Ok(payloads) => give(payloads, rendered, pending, out),
            Err(reason) if pending.len() == 1 => {
                let fail = |failed: Pending<T>| (failed.message, reason.clone(), failed.token);
                out.failures.extend(pending.into_iter().map(fail));
            }
            Err(_) => {
                // Only those that fail alone are to be blamed.
                let mut good = Vec::with_capacity(pending.len());
                for one in pending {
                    match shape(&self.plan, std::slice::from_ref(&one)) {
                        Ok(_) => good.push(one),
                        Err(reason) => out.failures.push((one.message, reason, one.token)),
                    }
                }
                match shape(&self.plan, &good) {
                    _ if good.is_empty() => {}
                    Ok(payloads) => give(payloads, rendered, good, out),
                    Err(reason) => {
                        let fail =
                            |failed: Pending<T>| (failed.message, reason.clone(), failed.token);
                        out.failures.extend(good.into_iter().map(fail));
                    }
                }
            }
        }
    }
}

fn shape<T>(plan: &OutputPlan, pending: &[Pending<T>]) -> Result<Vec<Bytes>, String> {
    let rows: Vec<&[u8]> = pending
        .iter()
        .flat_map(|one| one.rows.iter().map(|row| &**row))
        .collect();
    plan.shape(&rows)
}

fn give<T>(
    mut payloads: Vec<Bytes>,
    rendered: Vec<String>,
    pending: Vec<Pending<T>>,
    out: &mut Batched<T>,
) {
    let first = pending
        .first()
        .map(|one| one.message.clone())
        .unwrap_or_default();
    let tokens: Vec<T> = pending.into_iter().map(|one| one.token).collect();
    // A plan that batches makes one payload, or none.
    match payloads.pop() {
        Some(payload) => out
            .messages
            .push((Message { payload, ..first }, rendered, tokens)),
        None => out.omitted.extend(tokens),
    }
}
