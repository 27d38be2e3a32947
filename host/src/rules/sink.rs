//! A sandboxed sink and its links, as an action sees them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::select_all;
use tokio::sync::watch;

use super::action::{Links, Sink};
use super::deliver::{WriteError, Writer};
use crate::connections::pool::Lease;
use crate::connections::status::Status;
use crate::error::ErrorKind;
use crate::message::{Batch, Rejection};
use crate::runtime::{GuestError, SinkGuest};

/// The connections that a sink was granted.
#[derive(Clone)]
pub struct Slots(Arc<Vec<Arc<Lease>>>);

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|lease| lease.status().borrow().word()))
            .finish()
    }
}

impl Slots {
    /// These connections.
    #[must_use]
    pub fn new(leases: Vec<Arc<Lease>>) -> Self {
        Self(Arc::new(leases))
    }

    /// The lowest status of them: 1, 0 or -1; connected where there is none.
    #[must_use]
    pub fn lowest(&self) -> Option<Status> {
        self.0
            .iter()
            .map(|lease| lease.status().borrow().clone())
            .min_by_key(Status::metric)
    }

    /// What should be looked at though the connections work.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.0
            .iter()
            .flat_map(|lease| lease.status().borrow().warnings.clone())
            .collect()
    }

    fn receivers(&self) -> Vec<watch::Receiver<Status>> {
        self.0.iter().map(|lease| lease.status()).collect()
    }

    /// Waits until all are up.
    async fn up(&self) {
        // Receivers first, then the look: a change in between is not missed.
        let mut receivers = self.receivers();
        while !receivers
            .iter_mut()
            .all(|receiver| receiver.borrow_and_update().is_up())
        {
            next_change(&mut receivers).await;
        }
    }
}

async fn next_change(receivers: &mut [watch::Receiver<Status>]) {
    if receivers.is_empty() {
        return std::future::pending().await;
    }
    let waits = receivers
        .iter_mut()
        .map(|receiver| Box::pin(receiver.changed()));
    if select_all(waits).await.0.is_err() {
        // The connection is gone for good and changes no more; the rule is about to end.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[async_trait]
impl Links for Slots {
    fn are_up(&self) -> bool {
        self.0.iter().all(|lease| lease.status().borrow().is_up())
    }

    async fn changed(&self) {
        next_change(&mut self.receivers()).await;
    }
}

/// A sink guest with its slots.
#[derive(Debug)]
pub struct GuestSink {
    guest: SinkGuest,
    slots: Slots,
}

impl GuestSink {
    /// This guest on these connections.
    #[must_use]
    pub fn new(guest: SinkGuest, slots: Slots) -> Self {
        Self { guest, slots }
    }
}

#[async_trait]
impl Writer for GuestSink {
    async fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, WriteError> {
        self.guest.write(batch).await.map_err(|error| match error {
            error if error.is_before_work() => match error {
                // Of a configuration, what can never work.
                GuestError::Said { mut error, .. } => {
                    if error.kind == ErrorKind::Permanent {
                        error.kind = ErrorKind::Misconfigured;
                    }
                    WriteError::Said(error)
                }
                other => WriteError::Unready(other.to_string()),
            },
            GuestError::Said { error, .. } => WriteError::Said(error),
            other => WriteError::Broke(other.to_string()),
        })
    }

    async fn slots_up(&mut self) {
        self.slots.up().await;
    }
}

#[async_trait]
impl Sink for GuestSink {
    async fn put_away(&mut self) {
        self.guest.put_away().await;
    }

    async fn close(&mut self) {
        self.guest.close().await;
    }
}
