//! Messages between the rules of one tenant, inside this process: a host type behind `messaging`
//! that is attached to a rule and stands in no list. Touches no network and keeps nothing.
//!
//! Subjects are matched as MQTT matches topics (`+` one level, `#` the rest). What is published while
//! nobody subscribes is counted and gone. A taker that is full makes the publisher wait: nothing is
//! lost between two rules without somebody being told.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::time::{Instant, timeout_at};

use super::properties::Reader;
use super::{
    ConfigError, Connection, Context, Inbox, Messaging, Properties, PublishOptions,
    SubscribeOptions, SubscriptionGuard, Traffic,
};
use crate::error::ConnectionError;
use crate::message::{Arrival, Batch, Delivery, Message, Rejection, Subject};

/// The `typ`.
pub const NAME: &str = "memory";
/// How long a publisher waits for a taker that is full.
const PATIENCE: Duration = Duration::from_secs(5);

/// The subjects of all tenants.
#[derive(Debug, Default)]
pub struct Bus {
    tenants: Mutex<HashMap<Arc<str>, Arc<Takers>>>,
}

#[derive(Debug, Default)]
struct Takers {
    next: AtomicU64,
    list: RwLock<BTreeMap<u64, Taker>>,
}

#[derive(Clone, Debug)]
struct Taker {
    filters: Arc<[String]>,
    inbox: Arc<Inbox>,
    traffic: Arc<Traffic>,
}

/// One rule's access to its tenant's subjects.
#[derive(Debug)]
struct Attached {
    takers: Arc<Takers>,
    traffic: Arc<Traffic>,
}

/// Attaches a rule to its tenant's subjects. There are no properties.
///
/// # Errors
/// Each property that is given.
pub(super) fn attach(
    properties: &Properties,
    context: &Context,
    bus: &Bus,
) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
    Reader::new(properties, &[], Path::new("")).finish()?;
    let takers = Arc::clone(
        bus.tenants
            .lock()
            .entry(Arc::clone(&context.tenant))
            .or_default(),
    );
    Ok(Arc::new(Attached {
        takers,
        traffic: Arc::clone(&context.traffic),
    }))
}

#[async_trait]
impl Connection for Attached {
    async fn connect(&self) -> Result<(), ConnectionError> {
        Ok(())
    }
    async fn lost(&self) -> ConnectionError {
        std::future::pending().await
    }
    async fn close(&self) {}
    fn messaging(&self) -> Option<&dyn Messaging> {
        Some(self)
    }
}

#[async_trait]
impl Messaging for Attached {
    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        no_extra(&options.extra)?;
        for filter in filters {
            check_filter(filter)?;
        }
        let key = self.takers.next.fetch_add(1, Ordering::Relaxed);
        let traffic = Arc::clone(&self.traffic);
        self.takers.list.write().insert(
            key,
            Taker {
                filters: filters.into(),
                inbox,
                traffic,
            },
        );
        Ok(Box::new(Subscription {
            takers: Arc::clone(&self.takers),
            key,
        }))
    }

    async fn publish(
        &self,
        batch: &Batch,
        options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        no_extra(&options.extra)?;
        if options.retain {
            return Err(ConnectionError::misconfigured(
                "retain",
                "memory keeps no message for later",
            ));
        }
        let subject = options.subject.as_deref().map(Subject::from);
        let takers: Vec<_> = self.takers.list.read().values().cloned().collect();
        let until = Instant::now() + PATIENCE;
        let arrival = Arrival {
            at_ms: now_ms(),
            ..Arrival::default()
        };
        let (mut rejections, mut published) = (Vec::new(), 0_u64);
        for (index, message) in (0_u32..).zip(batch.iter()) {
            let message = Message {
                subject: subject.clone().unwrap_or_else(|| message.subject.clone()),
                arrival,
                ..message.clone()
            };
            let sent = match check_subject(&message.subject) {
                Ok(()) => self.fan_out(&takers, &message, until).await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(()) => published += 1,
                Err(error) => rejections.push(Rejection { index, error }),
            }
        }
        self.traffic
            .messages_out
            .fetch_add(published, Ordering::Relaxed);
        let all_waited = rejections.len() == batch.len()
            && rejections
                .iter()
                .all(|rejection| rejection.error.code == FULL);
        match rejections.pop() {
            Some(last) if all_waited => Err(last.error),
            Some(last) => {
                rejections.push(last);
                Ok(rejections)
            }
            None => Ok(rejections),
        }
    }
}

const FULL: &str = "full";

impl Attached {
    async fn fan_out(
        &self,
        takers: &[Taker],
        message: &Message,
        until: Instant,
    ) -> Result<(), ConnectionError> {
        let mut taken = false;
        for taker in takers {
            if !taker
                .filters
                .iter()
                .any(|filter| matches(filter, &message.subject))
            {
                continue;
            }
            taken = true;
            let weight = message.weight();
            let mut delivery = Delivery {
                message: message.clone(),
                take: None,
            };
            while let Err(back) = taker.inbox.offer(delivery) {
                delivery = back;
                if timeout_at(until, taker.inbox.room(weight)).await.is_err() {
                    return Err(ConnectionError::transient(
                        FULL,
                        "a rule that takes this subject is too slow",
                    ));
                }
            }
            taker.traffic.received(message.payload.len());
        }
        if !taken {
            self.traffic.untaken.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A taker's subscription; ends with it.
#[derive(Debug)]
struct Subscription {
    takers: Arc<Takers>,
    key: u64,
}

impl SubscriptionGuard for Subscription {}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.takers.list.write().remove(&self.key);
    }
}

fn no_extra(extra: &[(String, String)]) -> Result<(), ConnectionError> {
    match extra.first() {
        None => Ok(()),
        Some((name, _)) => {
            let sentence = format!("memory knows no option \"{name}\"; it has none");
            Err(ConnectionError::misconfigured("option", sentence))
        }
    }
}

fn check_filter(filter: &str) -> Result<(), ConnectionError> {
    let levels: Vec<_> = filter.split('/').collect();
    let last = levels.len() - 1;
    let valid = !filter.is_empty()
        && levels
            .iter()
            .enumerate()
            .all(|(place, level)| match *level {
                "+" => true,
                "#" => place == last,
                other => !other.contains(['+', '#']),
            });
    if valid {
        return Ok(());
    }
    let sentence = format!(
        "\"{filter}\" is no filter: \"+\" stands for one whole level, \"#\" for all levels at the end"
    );
    Err(ConnectionError::misconfigured("filter", sentence))
}

fn check_subject(subject: &str) -> Result<(), ConnectionError> {
    if subject.is_empty() || subject.contains(['+', '#']) {
        let sentence = "a message to memory needs a topic, without \"+\" and \"#\"";
        return Err(ConnectionError::permanent("subject", sentence));
    }
    Ok(())
}

/// The filter takes the subject, as MQTT 5 section 4.7 has it; here subjects that begin with `$` are
/// like all others.
fn matches(filter: &str, subject: &str) -> bool {
    let mut levels = subject.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
