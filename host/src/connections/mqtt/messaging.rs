//! Publish and subscribe as the rest of the host sees them: checks what is asked, hands it to the
//! session, waits for what became of it. Touches no socket.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::codec;
use super::packet::{LARGEST_PACKET, Version};
use super::session::{Manner, TakerId, Ticket};
use super::shared::{Shared, Up};
use super::{Connected, topic};
use crate::connections::properties::nearest;
use crate::connections::{
    Inbox, Messaging, PublishOptions, Qos, SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::message::{Batch, Rejection};

/// How long a publish waits for a link.
const WITHOUT_LINK: Duration = Duration::from_secs(5);
/// Options of version 5 in `extra`.
const EXTRA: [&str; 2] = ["contentType", "messageExpiry"];

fn level(qos: Qos) -> u8 {
    match qos {
        Qos::AtMostOnce => 0,
        Qos::AtLeastOnce => 1,
        Qos::ExactlyOnce => 2,
    }
}

/// Ends a taker's subscription when dropped.
#[derive(Debug)]
struct Guard {
    shared: Arc<Shared>,
    taker: TakerId,
    inbox: Arc<Inbox>,
}

impl SubscriptionGuard for Guard {}

impl Drop for Guard {
    fn drop(&mut self) {
        let stopping = self.shared.is_stopping();
        self.shared.session.lock().unsubscribe(self.taker, stopping);
        self.inbox.close();
        self.shared.wake();
    }
}

/// Takes a batch back when its caller goes away before it is done.
struct Withdraw<'a> {
    shared: &'a Shared,
    ticket: &'a Arc<Ticket>,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        if !self.ticket.is_done() {
            self.shared.session.lock().withdraw(self.ticket);
        }
    }
}

#[async_trait]
impl Messaging for Connected {
    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        if let Some((name, _)) = options.extra.first() {
            return Err(unknown_option(name, &[]));
        }
        if filters.is_empty() {
            return Err(ConnectionError::misconfigured(
                "filter",
                "a subscription needs a topic filter",
            ));
        }
        if let Some(fault) = filters
            .iter()
            .find_map(|filter| topic::filter_fault(filter))
        {
            return Err(ConnectionError::misconfigured("filter", fault));
        }
        let qos = options
            .qos
            .map(level)
            .or(self.shared.config.qos)
            .unwrap_or(1);
        if qos > 0 && !self.shared.config.persistent {
            self.lossy.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        let taker = self
            .shared
            .session
            .lock()
            .subscribe(filters, qos, Arc::clone(&inbox));
        self.shared.wake();
        Ok(Box::new(Guard {
            shared: Arc::clone(&self.shared),
            taker,
            inbox,
        }))
    }

    async fn publish(
        &self,
        batch: &Batch,
        options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        let shared = &*self.shared;
        let manner = self.manner(options)?;
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let rejections = self.unfit(batch, &manner);
        let rejected: Vec<u32> = rejections.iter().map(|rejection| rejection.index).collect();
        let ticket = Arc::new(Ticket::new(batch.clone(), manner, rejections));
        let withdraw = Withdraw {
            shared,
            ticket: &ticket,
        };
        if !ticket.is_done() {
            shared
                .session
                .lock()
                .publish(Arc::clone(&ticket), &rejected);
            shared.wake();
        }
        self.wait(&ticket).await?;
        drop(withdraw);
        Ok(ticket.rejections())
    }
}

impl Connected {
    /// Waits until the ticket is done, or until there was no link for too long.
    async fn wait(&self, ticket: &Ticket) -> Result<(), ConnectionError> {
        let mut up = self.shared.up.subscribe();
        let called = Instant::now();
        loop {
            let state = *up.borrow_and_update();
            let until = match state {
                Up::Yes => None,
                Up::No(since) => Some(since.max(called) + WITHOUT_LINK),
                Up::Closed => return Err(no_link("the connection was closed")),
            };
            let patience = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = ticket.done() => return Ok(()),
                changed = up.changed() => if changed.is_err() {
                    return Err(no_link("the connection was closed"));
                },
                () = patience => return Err(no_link("there is no link to the broker")),
            }
        }
    }

    fn manner(&self, options: &PublishOptions) -> Result<Manner, ConnectionError> {
        let version = self.shared.config.version;
        let mut manner = Manner {
            topic: options.subject.clone(),
            qos: options
                .qos
                .map(level)
                .or(self.shared.config.qos)
                .unwrap_or(0),
            retain: options.retain,
            ..Manner::default()
        };
        if let Some(fault) = options.subject.as_deref().and_then(topic::topic_fault) {
            return Err(ConnectionError::misconfigured("topic", fault));
        }
        for (name, value) in &options.extra {
            let known = EXTRA.iter().find(|known| known.eq_ignore_ascii_case(name));
            let Some(known) = known else {
                return Err(unknown_option(name, &EXTRA));
            };
            if version != Version::V5 {
                let text =
                    format!("the option `{known}` needs protocolVersion 5 on the connection");
                return Err(ConnectionError::misconfigured("option", text));
            }
            if *known == "contentType" {
                if value.len() > topic::LONGEST {
                    return Err(ConnectionError::misconfigured(
                        "option",
                        "`contentType` is longer than 65535 bytes",
                    ));
                }
                manner.content_type = Some(value.clone());
            } else {
                let seconds = value.parse().map_err(|_| {
                    let text = format!(
                        "`messageExpiry` is `{value}`; it must be whole seconds from 0 to {}",
                        u32::MAX
                    );
                    ConnectionError::misconfigured("option", text)
                })?;
                manner.expiry = Some(seconds);
            }
        }
        Ok(manner)
    }

    /// What can never be sent, by place.
    fn unfit(&self, batch: &Batch, manner: &Manner) -> Vec<Rejection> {
        let version = self.shared.config.version;
        let (max_packet, retains) = match self.shared.session.lock().broker() {
            Some(broker) => (
                broker.max_packet.min(LARGEST_PACKET),
                broker.retain_available,
            ),
            None => (LARGEST_PACKET, true),
        };
        let mut rejections = Vec::new();
        let mut good: Option<*const u8> = None;
        for (place, message) in batch.iter().enumerate() {
            let mut fault = None;
            let name = manner.topic.as_deref().unwrap_or(&message.subject);
            // Most batches share one topic, which is checked once.
            if manner.topic.is_none() && good != Some(name.as_ptr()) {
                fault =
                    topic::topic_fault(name).map(|text| ConnectionError::permanent("topic", text));
                good = fault.is_none().then_some(name.as_ptr());
            }
            let headers = message.headers.pairs();
            if fault.is_none()
                && version == Version::V5
                && headers
                    .iter()
                    .any(|(name, value)| name.len().max(value.len()) > topic::LONGEST)
            {
                fault = Some(ConnectionError::permanent(
                    "too-large",
                    "a header is longer than 65535 bytes",
                ));
            }
            if fault.is_none() {
                let outgoing = codec::Outgoing {
                    topic: name,
                    alias: 0,
                    payload: &message.payload,
                    qos: manner.qos,
                    retain: manner.retain,
                    dup: false,
                    id: 1,
                    headers,
                    content_type: manner.content_type.as_deref(),
                    expiry: manner.expiry,
                };
                let size = codec::publish_size(version, &outgoing);
                if size > max_packet {
                    let text = format!(
                        "the message needs a packet of {size} bytes; the broker takes {max_packet}"
                    );
                    fault = Some(ConnectionError::permanent("too-large", text));
                }
            }
            if fault.is_none() && manner.retain && !retains {
                fault = Some(ConnectionError::permanent(
                    "mqtt:0x9A",
                    "the broker keeps no retained messages",
                ));
            }
            if let Some(error) = fault {
                rejections.push(Rejection {
                    index: u32::try_from(place).unwrap_or(u32::MAX),
                    error,
                });
            }
        }
        rejections
    }
}

fn no_link(why: &str) -> ConnectionError {
    ConnectionError::disconnected("no-link", why)
}

fn unknown_option(name: &str, known: &[&str]) -> ConnectionError {
    let hint = nearest(name, known.iter().copied())
        .map(|meant| format!("did you mean `{meant}`? "))
        .unwrap_or_default();
    let allowed = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    ConnectionError::misconfigured(
        "option",
        format!("MQTT knows no option `{name}` here; {hint}Allowed: {allowed}"),
    )
}
