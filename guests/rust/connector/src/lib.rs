//! What an author needs to write a Windlass connector in Rust: the contract in `wit/` as Rust types,
//! the traits [`Source`] and [`Sink`], and [`export!`]. A connector depends on this crate and on serde.
//!
//! ```no_run
//! use windlass_connector::{Descriptor, Error, Outcome, Schema, Slot, Source, messaging};
//!
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     topic: String,
//! }
//!
//! struct Mirror(messaging::Subscription);
//!
//! impl Source for Mirror {
//!     type Config = Config;
//!
//!     fn open(config: Config, _resume: Option<String>) -> Result<Self, Error> {
//!         let client = messaging::Client::open("broker")?;
//!         Ok(Self(client.subscribe(&[config.topic], &messaging::SubscribeOptions::default())?))
//!     }
//!
//!     fn read(&mut self) -> Result<Outcome, Error> {
//!         Ok(Outcome::batch(self.0.receive(1000, None)?))
//!     }
//! }
//!
//! windlass_connector::export! {
//!     descriptor: Descriptor {
//!         name: "mirror",
//!         version: env!("CARGO_PKG_VERSION"),
//!         description: "Hands on what a topic brings.",
//!         schema: Schema::One(r#"{ "type": "object", "properties": { "topic": { "type": "string" } } }"#),
//!         slots: &[Slot::messaging("broker", "Where the topic is.")],
//!     },
//!     source: Mirror,
//! }
//! ```

mod config;
mod descriptor;
mod dialect;
mod error;
#[doc(hidden)]
pub mod export;
mod retry_after;
mod rows;
mod values;

pub use config::{Millis, from_json};
pub use descriptor::{Descriptor, Schema, Slot};
pub use dialect::Dialect;
pub use export::source::exports::windlass::connector::source::{Delivery, Outcome};
pub use imports::windlass::connector::types::{Batch, Columns, Error, Kind, Message, Rejection};
pub use imports::windlass::connector::{http, log, messaging, sql};
pub use retry_after::retry_after_ms;
pub use rows::{Row, rows};
pub use values::{base64_decode, base64_encode, not_a_number, write_json_text};

/// Every import of the contract. What a connector does not use does not get into its file.
#[allow(
    missing_docs,
    missing_debug_implementations,
    reason = "generated from wit/, described there"
)]
mod imports {
    wit_bindgen::generate!({
        path: "../../../wit",
        world: "imports",
        generate_all,
        additional_derives: [PartialEq],
    });
}

/// Brings messages in. The host makes a value with `open`, then calls `read` again and again.
///
/// The host may end the instance after any call and go on with a new one: keep no position outside
/// the checkpoint.
pub trait Source: Sized {
    /// The configuration, parsed from JSON that the host has checked against the schema.
    type Config: serde::de::DeserializeOwned;

    /// `resume` is the last checkpoint kept.
    ///
    /// # Errors
    /// `misconfigured` stops the rule; after anything else the host tries again.
    fn open(config: Self::Config, resume: Option<String>) -> Result<Self, Error>;

    /// One transaction: what is taken from connections during this call is final when the batch it
    /// returns has been delivered, and comes again when not.
    ///
    /// # Errors
    /// What was taken goes back to the host's queue.
    fn read(&mut self) -> Result<Outcome, Error>;

    /// A last chance to tidy up. Not called after a trap.
    fn close(self) {}
}

/// Takes messages out. The host makes a value with `open`, then calls `write` for each batch.
pub trait Sink: Sized {
    /// The configuration, parsed from JSON that the host has checked against the schema.
    type Config: serde::de::DeserializeOwned;

    /// # Errors
    /// `misconfigured` stops the rule; after anything else the host tries again.
    fn open(config: Self::Config) -> Result<Self, Error>;

    /// Returns when the messages are safe on the other side, with those that were not taken.
    ///
    /// # Errors
    /// None is known to be written: the host gives the whole batch again, or dead-letters it.
    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error>;

    /// A last chance to tidy up. Not called after a trap.
    fn close(self) {}
}

impl Outcome {
    /// These messages. The position is the connection's affair.
    #[must_use]
    pub fn batch(batch: Batch) -> Self {
        Self::Messages(Delivery {
            batch,
            checkpoint: None,
        })
    }

    /// These messages, and where to go on after them.
    #[must_use]
    pub fn batch_until(batch: Batch, checkpoint: String) -> Self {
        Self::Messages(Delivery {
            batch,
            checkpoint: Some(checkpoint),
        })
    }
}

#[expect(clippy::derivable_impls, reason = "the type is generated")]
impl Default for messaging::SubscribeOptions {
    fn default() -> Self {
        Self {
            qos: None,
            extra: Vec::new(),
        }
    }
}

#[expect(clippy::derivable_impls, reason = "the type is generated")]
impl Default for messaging::PublishOptions {
    fn default() -> Self {
        Self {
            subject: None,
            qos: None,
            retain: false,
            extra: Vec::new(),
        }
    }
}

impl TryFrom<u8> for messaging::Qos {
    type Error = Error;

    /// The level of an MQTT-like `qos` property.
    fn try_from(level: u8) -> Result<Self, Error> {
        match level {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            _ => Err(Error::misconfigured(
                "config",
                format!("qos: {level} is not 0, 1 or 2"),
            )),
        }
    }
}
