//! EdgeX' message bus: the connection type `edgex`. It is another type underneath (MQTT, NATS core, NATS
//! JetStream, Redis pub/sub), made by its name through the parent; here are EdgeX' names of its
//! properties, its topics on each bus, and its envelope as NATS headers. What an envelope means is the
//! connector's affair.

mod config;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod topic;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::breaker::Circuit;
use super::registry::Registry;
use super::{
    Carries, ConfigError, Connection, ConnectionType, Context, Inbox, Messaging, Properties,
    Property, PublishOptions, SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::message::{Batch, Message, Rejection};
use config::{Bus, Config};

/// The connection type `edgex`.
#[derive(Debug)]
pub struct Edgex;

impl ConnectionType for Edgex {
    const NAME: &'static str = "edgex";
    const PROPERTIES: &'static [Property] = config::PROPERTIES;
    const CARRIES: Option<Carries> = Some(carries);

    fn build(
        properties: &Properties,
        context: Context,
    ) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
        let config = Config::read(properties, &context.base)?;
        let kind = Registry::default()
            .get(config.bus.type_name())
            .map_err(|mistake| vec![mistake])?;
        let inner = kind.build(&config.inner, context).map_err(|mistakes| {
            mistakes
                .into_iter()
                .map(config::in_our_words)
                .collect::<Vec<_>>()
        })?;
        Ok(Arc::new(Connected { inner, config }))
    }

    fn identity(properties: &Properties) -> Option<String> {
        let config = Config::read(properties, std::path::Path::new("")).ok()?;
        let kind = Registry::default().get(config.bus.type_name()).ok()?;
        kind.identity(&config.inner)
    }
}

/// Of the buses only NATS takes some headers for commands; which bus it is, the type alone cannot say.
fn carries(name: &str, value: &str) -> Result<(), &'static str> {
    let nats = Registry::default().get(Bus::NatsCore.type_name());
    match nats.ok().and_then(|nats| nats.carries()) {
        Some(carries) => carries(name, value),
        None => Ok(()),
    }
}

/// A bus, over the connection that speaks its protocol.
#[derive(Debug)]
struct Connected {
    inner: Arc<dyn Connection>,
    config: Config,
}

impl Connected {
    fn bus(&self) -> Result<&dyn Messaging, ConnectionError> {
        self.inner
            .messaging()
            .ok_or_else(|| ConnectionError::misconfigured("interface", "this bus has no messaging"))
    }
}

#[async_trait]
impl Connection for Connected {
    async fn connect(&self) -> Result<(), ConnectionError> {
        self.inner.connect().await
    }

    async fn lost(&self) -> ConnectionError {
        self.inner.lost().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    async fn probe(&self) -> Result<(), ConnectionError> {
        self.inner.probe().await
    }

    fn dial_timeout(&self) -> Duration {
        self.inner.dial_timeout()
    }

    fn waits_for_takers(&self) -> bool {
        self.inner.waits_for_takers()
    }

    fn was_useful(&self) -> bool {
        self.inner.was_useful()
    }

    fn peer(&self) -> Option<String> {
        self.inner.peer()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.config.warnings.clone();
        warnings.extend(self.inner.warnings());
        warnings
    }

    fn circuit(&self) -> Option<Circuit> {
        self.inner.circuit()
    }

    async fn warned(&self) {
        self.inner.warned().await;
    }

    fn messaging(&self) -> Option<&dyn Messaging> {
        Some(self)
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
        let filters = topic::filters(self.config.bus, filters);
        let mut options = options.clone();
        options.extra.extend(self.config.subscribe.iter().cloned());
        self.bus()?.subscribe(&filters, &options, inbox)
    }

    async fn publish(
        &self,
        batch: &Batch,
        options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        let bus = self.bus()?;
        let mut options = options.clone();
        options.retain |= self.config.retained;
        if self.config.bus == Bus::Mqtt {
            return bus.publish(batch, &options).await;
        }
        options.subject = options.subject.map(|subject| topic::dotted(&subject));
        let messages: Vec<Message> = batch
            .iter()
            .map(|message| {
                let message = Message {
                    subject: topic::dotted(&message.subject).into(),
                    ..message.clone()
                };
                if self.config.framed {
                    frame::headers(message)
                } else {
                    message
                }
            })
            .collect();
        bus.publish(&Batch::from(messages), &options).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_bus_is_another_type_and_a_client_is_the_same_under_both_names() {
        let props = json!({"host": "h", "optional": {"clientid": "c"}});
        let identity = Edgex::identity(props.as_object().unwrap());
        assert_eq!(identity.as_deref(), Some("h:1883 c"));
        let nats = json!({"host": "h", "type": "nats-core"});
        assert_eq!(Edgex::identity(nats.as_object().unwrap()), None);
    }
}
