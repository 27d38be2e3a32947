//! Connections for measurements: they give whatever is wanted, take all, and keep nothing but counts,
//! so that neither their memory grows nor their own work is seen in the figures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::scripted::subject_of;
use crate::connections::{
    Connection, Granted, Http, HttpRequest, HttpResponse, Inbox, Interface, Messaging,
    PublishOptions, Rows, Sql, SqlValue, SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::interfaces::Grant;
use crate::message::{Acknowledge, Batch, Delivery, Message, Rejection, Take};

/// A connection that is always up and never runs dry.
#[derive(Debug)]
pub struct Feeder {
    slot: String,
    interface: Interface,
    message: Message,
    /// Rows that a query gives.
    portion: u32,
    takers: Arc<Takers>,
    settled: Arc<Settled>,
    /// The next message's or row's number.
    next: AtomicU64,
}

/// Settles a delivery by counting it.
#[derive(Debug, Default)]
struct Settled(AtomicU64);

impl Acknowledge for Settled {
    fn settled(&self, _key: u64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Taker {
    number: u64,
    message: Message,
    inbox: Arc<Inbox>,
}

#[derive(Debug, Default)]
struct Takers(Mutex<Vec<Taker>>);

#[derive(Debug)]
struct Guard {
    takers: Arc<Takers>,
    number: u64,
}

impl SubscriptionGuard for Guard {}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut takers = self.takers.0.lock();
        takers.retain(|taker| taker.number != self.number);
    }
}

impl Feeder {
    /// A connection for a slot. Each message that it gives is this one, under a subject that the
    /// subscription's filter lets pass; each query gives `portion` rows.
    #[must_use]
    pub fn new(slot: &str, interface: Interface, message: Message, portion: u32) -> Arc<Self> {
        Arc::new(Self {
            slot: slot.to_owned(),
            interface,
            message,
            portion,
            takers: Arc::default(),
            settled: Arc::default(),
            next: AtomicU64::new(0),
        })
    }

    /// The grant of this connection to its slot.
    #[must_use]
    pub fn grant(self: &Arc<Self>) -> Grant {
        Grant {
            slot: self.slot.clone(),
            target: Arc::new(Target(Arc::clone(self))),
        }
    }

    /// So many messages arrive for every subscription.
    pub fn give(&self, count: usize) {
        let takers = self.takers.0.lock();
        for taker in takers.iter() {
            for _ in 0..count {
                let key = self.next.fetch_add(1, Ordering::Relaxed);
                let to: Arc<dyn Acknowledge> = Arc::<Settled>::clone(&self.settled);
                let delivery = Delivery {
                    message: taker.message.clone(),
                    take: Some(Take::new(to, key)),
                };
                // A closed inbox hands it back: nobody wants it any more.
                drop(taker.inbox.push(delivery));
            }
        }
    }

    /// Deliveries that were settled.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.settled.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Target(Arc<Feeder>);

impl Granted for Target {
    fn id(&self) -> &str {
        &self.0.slot
    }

    fn connection(&self) -> Arc<dyn Connection> {
        self.0.clone()
    }

    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        Messaging::subscribe(&*self.0, filters, options, inbox)
    }
}

#[async_trait]
impl Connection for Feeder {
    async fn connect(&self) -> Result<(), ConnectionError> {
        Ok(())
    }

    async fn lost(&self) -> ConnectionError {
        std::future::pending().await
    }

    async fn close(&self) {}

    fn messaging(&self) -> Option<&dyn Messaging> {
        (self.interface == Interface::Messaging).then_some(self)
    }

    fn http(&self) -> Option<&dyn Http> {
        (self.interface == Interface::Http).then_some(self)
    }

    fn sql(&self) -> Option<&dyn Sql> {
        (self.interface == Interface::Sql).then_some(self)
    }
}

#[async_trait]
impl Messaging for Feeder {
    fn subscribe(
        &self,
        filters: &[String],
        _options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        let subject = filters.first().map(|filter| subject_of(filter));
        let message = Message {
            subject: subject.unwrap_or_default().into(),
            ..self.message.clone()
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.takers.0.lock().push(Taker {
            number,
            message,
            inbox,
        });
        Ok(Box::new(Guard {
            takers: Arc::clone(&self.takers),
            number,
        }))
    }

    async fn publish(
        &self,
        _batch: &Batch,
        _options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Http for Feeder {
    async fn send(&self, _request: HttpRequest) -> Result<HttpResponse, ConnectionError> {
        Ok(HttpResponse {
            status: 200,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: Bytes::from_static(br#"[{"id":1,"value":21.5}]"#),
            truncated: false,
        })
    }

    fn concurrency(&self) -> usize {
        1
    }
}

#[async_trait]
impl Sql for Feeder {
    fn dialect(&self) -> &'static str {
        "sqlite"
    }

    /// Rows whose `id` goes on, so that a source that remembers where it was finds new ones.
    async fn query(
        &self,
        _statement: &str,
        _params: Vec<SqlValue>,
    ) -> Result<Rows, ConnectionError> {
        let row = |_| {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let id = i64::try_from(id).unwrap_or(i64::MAX);
            let name = SqlValue::Text("sensor".to_owned());
            vec![SqlValue::Integer(id), name, SqlValue::Real(21.5)]
        };
        Ok(Rows {
            columns: ["id", "name", "value"].map(str::to_owned).into(),
            rows: (0..self.portion).map(row).collect(),
            truncated: false,
        })
    }

    async fn execute_many(
        &self,
        _statement: &str,
        params: Vec<Vec<SqlValue>>,
    ) -> Result<u32, ConnectionError> {
        Ok(u32::try_from(params.len()).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_gives_as_many_as_wanted_to_who_subscribes_and_keeps_none() {
        let feeder = Feeder::new("broker", Interface::Messaging, Message::new("x"), 1);
        let grant = feeder.grant();
        let inbox = Arc::new(Inbox::default());
        let guard = grant
            .target
            .subscribe(
                &["plant/+".to_owned()],
                &SubscribeOptions::default(),
                Arc::clone(&inbox),
            )
            .unwrap();
        feeder.give(3);
        let taken = inbox.receive(10).await.unwrap();
        assert_eq!(taken.len(), 3);
        for delivery in taken {
            assert_eq!(&*delivery.message.subject, "plant/x");
            delivery.take.unwrap().settle();
        }
        assert_eq!(feeder.settled(), 3);
        drop(guard);
        feeder.give(1);
        assert!(inbox.is_empty());
    }

    #[tokio::test]
    async fn rows_go_on_where_the_query_before_ended() {
        let feeder = Feeder::new("db", Interface::Sql, Message::default(), 2);
        let first = feeder.query("", Vec::new()).await.unwrap();
        let second = feeder.query("", Vec::new()).await.unwrap();
        assert_eq!(first.rows.len(), 2);
        assert_eq!(second.rows[0][0], SqlValue::Integer(2));
    }
}
