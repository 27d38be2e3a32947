//! What one instance's host calls may touch, and the state of the call that is under way.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::component::Resource;

use super::batches::Batches;
use super::clock::CallClock;
use super::journal::Journal;
use super::messaging::Wake;
use super::subscriptions::Subscriptions;
use super::types::BatchHandle;
use crate::connections::{Connection, Granted, Inbox, Interface};
use crate::error::ConnectionError;
use crate::message::{Batch, Delivery, Take};

/// A slot of the connector and the connection that a rule bound to it.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The slot's name in the connector's descriptor.
    pub slot: String,
    /// The connection.
    pub target: Arc<dyn Granted>,
}

/// What an instance is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Only to be asked what it is.
    Meta,
    /// `source`.
    Source,
    /// `sink`.
    Sink,
}

/// The guest call under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// None, or the start of the instance.
    Start,
    /// `meta.describe`.
    Describe,
    /// `open`.
    Open,
    /// `source.read`.
    Read,
    /// `sink.write`.
    Write,
    /// `close`.
    Close,
}

impl Phase {
    /// The export's name, as people know it from the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Describe => "describe",
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Close => "close",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one `receive` took: enough to give it back, or to settle it.
#[derive(Debug)]
pub struct Taken {
    inbox: Arc<Inbox>,
    batch: Batch,
    /// One per message.
    takes: Vec<Option<Take>>,
}

impl Taken {
    pub(super) fn new(inbox: Arc<Inbox>, deliveries: Vec<Delivery>) -> Self {
        let mut messages = Vec::with_capacity(deliveries.len());
        let mut takes = Vec::with_capacity(deliveries.len());
        for Delivery { message, take } in deliveries {
            messages.push(message);
            takes.push(take);
        }
        Self {
            inbox,
            batch: Batch::from(messages),
            takes,
        }
    }

    pub(super) fn batch(&self) -> &Batch {
        &self.batch
    }

    fn give_back(self) {
        let deliveries = self.batch.iter().zip(self.takes);
        self.inbox.give_back(
            deliveries
                .map(|(message, take)| Delivery {
                    message: message.clone(),
                    take,
                })
                .collect(),
        );
    }

    /// The takes in the order in which their messages arrived.
    pub fn into_takes(self) -> impl Iterator<Item = Take> {
        self.takes.into_iter().flatten()
    }
}

/// What a [`Host`] is made of.
#[derive(Debug)]
pub struct HostParts {
    /// What it is used for.
    pub role: Role,
    /// What it may reach.
    pub grants: Arc<[Grant]>,
    /// Its words.
    pub journal: Arc<Journal>,
    /// Its subscriptions.
    pub subscriptions: Arc<Subscriptions>,
    /// How the host asks for it back.
    pub wake: Arc<Wake>,
    /// What its calls use.
    pub clock: Arc<CallClock>,
    /// How long a call may take, without the time in `receive`.
    pub deadline: Duration,
    /// How many host calls one guest call may make.
    pub host_calls: u32,
    /// Bytes of the guest's memory: larger contents of a batch cannot be handed over.
    pub memory_bytes: usize,
    /// Bytes of batches that one guest call may make.
    pub batch_bytes: usize,
}

/// What one instance's host calls may touch.
#[derive(Debug)]
pub struct Host {
    pub(super) parts: HostParts,
    pub(super) batches: Batches,
    /// Handles of subscriptions, by their place.
    pub(super) handles: Vec<Option<(u64, Arc<Inbox>)>>,
    pub(super) phase: Phase,
    pub(super) ignored_wakes: u32,
    host_calls: u32,
    taken: Vec<Taken>,
}

/// A guest that asks too much of one call. A trap.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} host calls in one call")]
struct TooManyHostCalls(u32);

impl Host {
    /// The host of a new instance.
    #[must_use]
    pub fn new(parts: HostParts) -> Self {
        Self {
            batches: Batches::new(parts.batch_bytes),
            parts,
            handles: Vec::new(),
            phase: Phase::Start,
            ignored_wakes: 0,
            host_calls: 0,
            taken: Vec::new(),
        }
    }

    /// A guest call starts.
    pub fn begin(&mut self, phase: Phase) {
        self.phase = phase;
        self.host_calls = 0;
        self.ignored_wakes = 0;
    }

    /// The guest call has returned: its handles are emptied, and a wake during a read is answered.
    ///
    /// A wake is cleared here and not at the start of the next read: one that comes between two
    /// reads, or while an instance is replaced, would be lost, and the host would wait for a guest
    /// that waits for messages.
    pub fn end(&mut self) {
        if self.phase == Phase::Read {
            self.parts.wake.clear();
        }
        self.phase = Phase::Start;
        self.batches.end_call();
    }

    /// What the call has taken so far; the caller decides what becomes of it.
    pub fn taken(&mut self) -> Vec<Taken> {
        std::mem::take(&mut self.taken)
    }

    /// What the call has taken goes back to the heads of its queues.
    pub fn give_back(&mut self) {
        let taken = self.taken();
        if let [only] = taken.as_slice()
            && only.batch.len() == 1
        {
            self.parts.subscriptions.suspect(&only.inbox);
        }
        for taken in taken.into_iter().rev() {
            taken.give_back();
        }
    }

    pub(super) fn note_taken(&mut self, taken: Taken) {
        self.taken.push(taken);
    }

    /// Lends a batch to the guest for the call about to be made.
    ///
    /// # Errors
    /// There are too many handles.
    pub fn lend(&mut self, batch: Batch) -> wasmtime::Result<Resource<BatchHandle>> {
        Ok(self.batches.push(batch)?)
    }

    /// The batch that the guest has returned.
    ///
    /// # Errors
    /// The guest returned a handle that it got in an earlier call.
    pub fn returned(&mut self, handle: &Resource<BatchHandle>) -> wasmtime::Result<Batch> {
        Ok(self.batches.take(handle)?)
    }

    /// Batches of earlier calls whose handles the guest still keeps.
    #[must_use]
    pub fn stale_batches(&self) -> usize {
        self.batches.stale()
    }

    /// Counts a host call; too many in one guest call are a trap.
    pub(super) fn count_call(&mut self) -> wasmtime::Result<()> {
        self.host_calls += 1;
        if self.host_calls > self.parts.host_calls {
            return Err(TooManyHostCalls(self.parts.host_calls).into());
        }
        Ok(())
    }

    /// The grant that a guest means: by a slot's name first, then by the id of the connection.
    /// Everything else is `denied`, whether it exists or not.
    pub(super) fn grant(&self, name: &str, interface: Interface) -> Result<u32, ConnectionError> {
        let fits = |grant: &&Grant| offers(&*grant.target.connection(), interface);
        let grants = &self.parts.grants;
        let by_slot = grants.iter().position(|grant| grant.slot == name);
        let place = match by_slot {
            Some(place) => grants.get(place).filter(fits).map(|_| place),
            None => grants
                .iter()
                .position(|grant| grant.target.id() == name && fits(&grant)),
        };
        place
            .and_then(|place| u32::try_from(place).ok())
            .ok_or_else(ConnectionError::denied)
    }

    pub(super) fn granted(&self, place: u32) -> wasmtime::Result<&Grant> {
        self.parts
            .grants
            .get(place as usize)
            .ok_or_else(|| wasmtime::Error::msg("a client handle does not exist"))
    }

    /// Runs a host call within what is left of the guest call's time, so that a connection that hangs
    /// ends as an error record and not with the instance.
    pub(super) async fn bounded<T>(
        deadline: Duration,
        clock: &CallClock,
        call: impl Future<Output = Result<T, ConnectionError>>,
    ) -> Result<T, ConnectionError> {
        let mut call = pin!(call);
        // Most answers are there at once, and need no timer.
        if let Poll::Ready(answer) = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
            return answer;
        }
        let now = Instant::now();
        // The last twentieth is the guest's, to return in.
        let left = (deadline * 19 / 20).saturating_sub(clock.counted(now));
        match tokio::time::timeout_at(now + left, call).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(ConnectionError::transient(
                "timeout",
                format!(
                    "no answer within the {} ms that a call may take",
                    deadline.as_millis()
                ),
            )),
        }
    }
}

/// A read that did not end well, in whatever way, gives back what it took.
impl Drop for Host {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn offers(connection: &dyn Connection, interface: Interface) -> bool {
    match interface {
        Interface::Messaging => connection.messaging().is_some(),
        Interface::Http => connection.http().is_some(),
        Interface::Sql => connection.sql().is_some(),
    }
}
