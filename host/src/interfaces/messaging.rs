//! `wit/messaging.wit`: publish, subscribe, and the wait for messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use wasmtime::component::Resource;

use super::bindings::windlass::connector::messaging as wit;
use super::host::{Host, Phase, Role, Taken};
use super::types::{BatchHandle, rejections, to_guest};
use crate::connections::{Inbox, Interface, PublishOptions, Qos, SubscribeOptions};
use crate::error::ConnectionError;
use crate::message::{Batch, Delivery};

/// A client: the place of its grant.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub struct ClientHandle;

/// A subscription: the place of its inbox in [`Host`].
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub struct SubscriptionHandle;

/// After so many receives that went on although the host wanted the guest back, it is replaced.
const IGNORED_WAKES: u32 = 3;
/// One `receive` takes no more than this, whatever the guest asks for.
const MOST_MESSAGES: u32 = 65_536;
/// How long a wait on an inbox that has been closed lasts before the guest is given back.
const CLOSED_WAIT: Duration = Duration::from_secs(1);

/// How the host asks a source's guest to return from `receive`. Level-triggered: it stays set until
/// the call that saw it has returned; set between two calls, it ends the next one's wait.
#[derive(Debug, Default)]
pub struct Wake {
    set: AtomicBool,
    notify: Notify,
}

impl Wake {
    /// The host wants the guest back.
    pub fn wake(&self) {
        self.set.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// It is wanted back now.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    pub(super) fn clear(&self) {
        self.set.store(false, Ordering::Release);
    }

    /// Waits until it is wanted back.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn woken(&self) {
        while !self.is_set() {
            self.notify.notified().await;
        }
    }
}

/// The guest does not return though it is wanted back.
#[derive(Debug, thiserror::Error)]
#[error(
    "`receive` was called again {IGNORED_WAKES} times after it had returned early; an empty batch means: return from `read`"
)]
pub(crate) struct IgnoredWakes;

fn qos_in(qos: wit::Qos) -> Qos {
    match qos {
        wit::Qos::AtMostOnce => Qos::AtMostOnce,
        wit::Qos::AtLeastOnce => Qos::AtLeastOnce,
        wit::Qos::ExactlyOnce => Qos::ExactlyOnce,
    }
}

enum Received {
    Woken,
    Nothing,
    Taken(Vec<Delivery>),
}

impl Host {
    async fn wait(
        &self,
        inbox: &Inbox,
        max: usize,
        wait: Option<Duration>,
    ) -> Result<Received, ConnectionError> {
        let _not_counted = self.parts.clock.receiving();
        let none = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let deliveries = tokio::select! {
            biased;
            () = self.parts.wake.woken() => return Ok(Received::Woken),
            deliveries = inbox.receive(max) => deliveries?,
            () = none => return Ok(Received::Nothing),
        };
        if deliveries.is_empty() {
            // Closed: the connection is gone. Without this wait a guest would spin.
            let wait = wait.map_or(CLOSED_WAIT, |wait| wait.min(CLOSED_WAIT));
            return Ok(
                match tokio::time::timeout(wait, self.parts.wake.woken()).await {
                    Ok(()) => Received::Woken,
                    Err(_elapsed) => Received::Nothing,
                },
            );
        }
        Ok(Received::Taken(deliveries))
    }
}

impl wit::Host for Host {}

impl wit::HostClient for Host {
    async fn open(
        &mut self,
        id: String,
    ) -> wasmtime::Result<Result<Resource<ClientHandle>, wit::Error>> {
        self.count_call()?;
        Ok(self
            .grant(&id, Interface::Messaging)
            .map(Resource::new_own)
            .map_err(|error| to_guest(&error)))
    }

    async fn subscribe(
        &mut self,
        client: Resource<ClientHandle>,
        subjects: Vec<String>,
        options: wit::SubscribeOptions,
    ) -> wasmtime::Result<Result<Resource<SubscriptionHandle>, wit::Error>> {
        self.count_call()?;
        if self.parts.role != Role::Source {
            let error =
                ConnectionError::misconfigured("sink-subscribes", "only a source may subscribe");
            return Ok(Err(to_guest(&error)));
        }
        let options = SubscribeOptions {
            qos: options.qos.map(qos_in),
            extra: options.extra,
        };
        let claimed =
            self.parts
                .subscriptions
                .claim(self.granted(client.rep())?, subjects, options);
        let claimed = match claimed {
            Ok(claimed) => Some(claimed),
            Err(error) => return Ok(Err(to_guest(&error))),
        };
        let free = self
            .handles
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.handles.len());
        match self.handles.get_mut(free) {
            Some(place) => *place = claimed,
            None => self.handles.push(claimed),
        }
        Ok(Ok(Resource::new_own(u32::try_from(free)?)))
    }

    async fn publish(
        &mut self,
        client: Resource<ClientHandle>,
        messages: Resource<BatchHandle>,
        options: wit::PublishOptions,
    ) -> wasmtime::Result<
        Result<Vec<super::bindings::windlass::connector::types::Rejection>, wit::Error>,
    > {
        self.count_call()?;
        let options = PublishOptions {
            subject: options.subject,
            qos: options.qos.map(qos_in),
            retain: options.retain,
            extra: options.extra,
        };
        let connection = self.granted(client.rep())?.target.connection();
        let batch = self.batches.get(&messages)?;
        if batch.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let answer = Self::bounded(self.parts.deadline, &self.parts.clock, async {
            connection
                .messaging()
                .ok_or_else(ConnectionError::denied)?
                .publish(batch, &options)
                .await
        });
        Ok(match answer.await {
            Ok(rejected) => Ok(rejections(&rejected)),
            Err(error) => Err(to_guest(&error)),
        })
    }

    async fn drop(&mut self, _client: Resource<ClientHandle>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl wit::HostSubscription for Host {
    async fn receive(
        &mut self,
        subscription: Resource<SubscriptionHandle>,
        max: u32,
        wait_ms: Option<u32>,
    ) -> wasmtime::Result<Result<Resource<BatchHandle>, wit::Error>> {
        self.count_call()?;
        if self.phase != Phase::Read {
            let error = ConnectionError::misconfigured(
                "not-in-read",
                "`receive` may be called only within `read`",
            );
            return Ok(Err(to_guest(&error)));
        }
        let inbox = match self.handles.get(subscription.rep() as usize) {
            Some(Some((_, inbox))) => Arc::clone(inbox),
            Some(None) | None => {
                return Err(wasmtime::Error::msg("a subscription handle does not exist"));
            }
        };
        let max = self
            .parts
            .subscriptions
            .most(max.clamp(1, MOST_MESSAGES) as usize);
        let ready = if self.parts.wake.is_set() {
            Ok(None)
        } else {
            inbox.try_receive(max)
        };
        let received = match ready {
            Ok(Some(deliveries)) if !deliveries.is_empty() => Ok(Received::Taken(deliveries)),
            Ok(_) => {
                self.wait(
                    &inbox,
                    max,
                    wait_ms.map(|ms| Duration::from_millis(ms.into())),
                )
                .await
            }
            Err(error) => Err(error),
        };
        let batch = match received {
            Ok(Received::Taken(deliveries)) => {
                let taken = Taken::new(inbox, deliveries);
                let batch = taken.batch().clone();
                self.note_taken(taken);
                batch
            }
            Ok(Received::Nothing) => Batch::default(),
            Ok(Received::Woken) => {
                self.ignored_wakes += 1;
                if self.ignored_wakes > IGNORED_WAKES {
                    return Err(IgnoredWakes.into());
                }
                Batch::default()
            }
            Err(error) => return Ok(Err(to_guest(&error))),
        };
        Ok(Ok(self.batches.push(batch)?))
    }

    async fn drop(&mut self, subscription: Resource<SubscriptionHandle>) -> wasmtime::Result<()> {
        let ended = self
            .handles
            .get_mut(subscription.rep() as usize)
            .and_then(Option::take);
        // A guest that tidies up in `close` does not mean it: its successor subscribes again.
        if let Some((number, _)) = ended
            && self.phase != Phase::Close
        {
            self.parts.subscriptions.end(number);
        }
        Ok(())
    }
}
