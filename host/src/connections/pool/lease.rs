//! The right of one rule to use one connection.

use std::sync::{Arc, Weak};

use tokio::sync::watch;

use super::entry::Entry;
use super::info::{Info, interfaces};
use super::shared::Shared;
use crate::connections::status::Status;
use crate::connections::{
    Connection, Granted, Inbox, Interface, SubscribeOptions, SubscriptionGuard, Traffic,
};
use crate::error::ConnectionError;

/// Holds a connection for a rule. While it lives, the connection is neither deleted nor, if it is
/// anonymous, closed. Dropping it gives the connection back; with the last lease an anonymous
/// connection is closed.
#[derive(Debug)]
pub struct Lease {
    pub(super) entry: Arc<Entry>,
    pub(super) shared: Weak<Shared>,
    pub(super) token: u64,
}

impl Lease {
    /// The connection's status, also over replacements.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.entry.status.subscribe()
    }

    /// The name of its type.
    #[must_use]
    pub fn typ(&self) -> Arc<str> {
        self.entry.definition().1
    }

    /// What the connection offers.
    #[must_use]
    pub fn interfaces(&self) -> Vec<Interface> {
        interfaces(&*self.entry.present())
    }

    /// What the connection counts, for all that use it.
    #[must_use]
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.entry.traffic)
    }

    /// What may be shown of it.
    #[must_use]
    pub fn info(&self) -> Info {
        Info::of(&self.entry)
    }
}

impl Granted for Lease {
    fn id(&self) -> &str {
        &self.entry.id
    }

    fn connection(&self) -> Arc<dyn Connection> {
        self.entry.present()
    }

    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        self.entry.subscribe(filters, options, inbox)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.shared.upgrade() {
            Some(shared) => shared.give_back(&self.entry, self.token),
            // The pool is gone, and its connections with it.
            None => {
                self.entry.remove_user(self.token);
            }
        }
    }
}
