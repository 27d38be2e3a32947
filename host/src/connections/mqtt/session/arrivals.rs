//! What happens to a message of the broker: to whom it goes, what is counted, and when it is refused.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::settled::Pending;
use super::{Session, TOPIC_ALIASES, unsettled, violation};
use crate::connections::mqtt::packet::Publish;
use crate::error::ConnectionError;
use crate::message::{Arrival, Delivery, Message};

impl Session {
    fn alias(&mut self, publish: &mut Publish) -> Result<(), ConnectionError> {
        if publish.alias == 0 {
            return Ok(());
        }
        if publish.alias > TOPIC_ALIASES {
            return Err(violation("a topic alias above the maximum"));
        }
        if publish.topic.is_empty() {
            let known = self.aliases.get(&publish.alias);
            publish.topic = known
                .cloned()
                .ok_or_else(|| violation("a topic alias that it has not defined"))?;
        } else {
            self.aliases
                .insert(publish.alias, Bytes::copy_from_slice(&publish.topic));
        }
        Ok(())
    }

    pub(super) fn arrived(
        &mut self,
        mut publish: Publish,
        at_ms: u64,
    ) -> Result<(), ConnectionError> {
        self.alias(&mut publish)?;
        self.traffic.messages_in.fetch_add(1, Ordering::Relaxed);
        self.traffic
            .bytes_in
            .fetch_add(publish.payload.len() as u64, Ordering::Relaxed);
        if publish.qos > 0
            && self.inbound.is_known(
                publish.id,
                publish.qos,
                publish.dup,
                &publish.topic,
                &publish.payload,
                &mut self.acks,
            )
        {
            return Ok(());
        }
        let Some(route) = self
            .filters
            .route(&publish.topic)
            .filter(|_| !publish.topic.is_empty())
        else {
            return Err(violation("a message whose topic is no topic"));
        };
        // A taker has not come yet: then all of them wait, so that none of them misses it.
        let left = publish.qos > 0 && self.filters.leave(&route.subject, self.is_booting());
        let mut chosen = Vec::new();
        self.filters
            .chosen(&route, &publish.subscriptions, publish.retain, &mut chosen);
        // Its taker has gone with the host: unacknowledged, it comes again after the next start.
        let gone = chosen.is_empty() && self.stopping.load(Ordering::Acquire);
        if gone || left {
            if publish.qos > 0 {
                self.inbound.admit(publish.id, publish.qos, 0, None);
            }
            return Ok(());
        }
        if chosen.is_empty() {
            // A retained copy that no taker waits for was meant for nobody here: it is not counted.
            if !(publish.retain && self.filters.takes(&route)) {
                self.traffic.untaken.fetch_add(1, Ordering::Relaxed);
            }
            if publish.qos > 0 {
                self.inbound.admit_settled(publish.id, publish.qos);
            }
            return Ok(());
        }
        let message = Message {
            payload: publish.payload,
            subject: route.subject.clone(),
            headers: publish.headers,
            arrival: Arrival {
                qos: publish.qos,
                retained: publish.retain,
                message_id: publish.id,
                at_ms,
                delivery: 0,
            },
        };
        if publish.qos == 0 {
            let last = chosen.len() - 1;
            let mut message = Some(message);
            for (place, target) in chosen.iter().enumerate() {
                let copy = if place == last {
                    message.take()
                } else {
                    message.clone()
                };
                let Some(message) = copy else { break };
                if !matches!(
                    target.inbox.push(Delivery {
                        message,
                        take: None
                    }),
                    Ok(true)
                ) {
                    self.dropped += 1;
                }
            }
            // It is at its end here. A retained copy comes with each subscription and proves nothing.
            self.useful |= !publish.retain;
            return Ok(());
        }
        let weight = message.weight();
        let (count, bytes) = self.inbound.unsettled();
        if count >= self.limits.unsettled_messages || bytes + weight > self.limits.unsettled_bytes {
            if self.settings.persistent {
                return Err(unsettled(count, bytes));
            }
            // The broker would discard what a clean session left unacknowledged: keep the link.
            // Its window does not keep us from here, announced or not: mosquitto 2.0.11 sends a whole
            // window more for each PUBACK of its oldest, while a backlog lasts.
            self.dropped += 1;
            self.inbound.admit_settled(publish.id, publish.qos);
            return Ok(());
        }
        let content = self
            .settings
            .persistent
            .then(|| (message.subject.clone(), message.payload.clone()));
        let serial = self.inbound.admit(publish.id, publish.qos, weight, content);
        let takers = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
        let pending = Pending::new(Arc::clone(&self.settled), serial, takers);
        let mut message = Some(message);
        let last = chosen.len() - 1;
        for (place, target) in chosen.iter().enumerate() {
            let copy = if place == last {
                message.take()
            } else {
                message.clone()
            };
            let Some(message) = copy else { break };
            if let Err(closed) = target.inbox.push(Delivery {
                message,
                take: Some(pending.take()),
            }) {
                // The taker is gone: nothing of it is waited for.
                if let Some(take) = closed.take {
                    take.settle();
                }
            }
        }
        Ok(())
    }

    pub(super) fn oversize(
        &mut self,
        mut publish: Publish,
        size: usize,
    ) -> Result<(), ConnectionError> {
        self.alias(&mut publish)?;
        self.traffic.messages_in.fetch_add(1, Ordering::Relaxed);
        self.traffic.refused.fetch_add(1, Ordering::Relaxed);
        let error = ConnectionError::permanent(
            "too-large",
            format!(
                "a message in a packet of {size} bytes was skipped; the limit is {} bytes",
                self.limits.max_message_bytes
            ),
        );
        let topic = String::from_utf8_lossy(&publish.topic);
        if publish.qos == 0 {
            self.refused.refused(&topic, Bytes::new(), &error);
            return Ok(());
        }
        let serial = self.inbound.admit(publish.id, publish.qos, 0, None);
        let take = Pending::new(Arc::clone(&self.settled), serial, 1).take();
        self.refused
            .refused_until_kept(&topic, Bytes::new(), &error, take);
        Ok(())
    }
}
