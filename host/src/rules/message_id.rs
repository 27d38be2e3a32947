//! An id for each message that an action sends, where the other side finds it: a user property of
//! MQTT 5, the `Idempotency-Key` of HTTP, the `Nats-Msg-Id` of NATS. Made once, before the queue, and
//! kept with the message on disk and among the dead letters: however often it is sent, it is the same.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};

use super::output::DynamicProperty;
use crate::connections::ConfigError;
use crate::message::{Batch, Message};

const MESSAGE_ID: &str = "messageId";
const HEADER: &str = "messageIdHeader";

/// What an action says of its messages' ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MessageIdOptions {
    /// Where an id comes from; None: there is none.
    pub origin: Option<IdOrigin>,
    /// The header's name; None: as the type of the connection has it.
    pub header: Option<String>,
}

/// Where an id comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum IdOrigin {
    /// The one that came with the message, else a new one.
    Made,
    /// Rendered from the row.
    Rendered(DynamicProperty),
}

impl MessageIdOptions {
    /// Names of all properties that are read here.
    pub const PROPERTIES: &'static [&'static str] = &[MESSAGE_ID, HEADER];

    /// Takes `messageId` and `messageIdHeader` out of an action's properties.
    ///
    /// # Errors
    /// All mistakes at once, each with its JSON Pointer below the action's properties.
    pub fn take_from(properties: &mut Map<String, Value>) -> Result<Self, Vec<ConfigError>> {
        let mut options = Self::default();
        let mut errors = Vec::new();
        if let Some((name, value)) = super::retry::take(properties, MESSAGE_ID) {
            match origin(&value) {
                Ok(origin) => options.origin = origin,
                Err(message) => errors.push(ConfigError::new(format!("/{name}"), message)),
            }
        }
        if let Some((name, value)) = super::retry::take(properties, HEADER) {
            let fits = |text: &&str| !text.is_empty() && text.bytes().all(is_token);
            match value.as_str().filter(fits) {
                Some(text) => options.header = Some(text.to_owned()),
                None if value.is_null() => {}
                None => errors.push(ConfigError::new(
                    format!("/{name}"),
                    format!(
                        "\"{HEADER}\" is the name of a header, letters, digits and -, not {value}"
                    ),
                )),
            }
        }
        if errors.is_empty() {
            Ok(options)
        } else {
            Err(errors)
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.'
}

fn origin(value: &Value) -> Result<Option<IdOrigin>, String> {
    match value {
        Value::Null | Value::Bool(false) => Ok(None),
        Value::Bool(true) => Ok(Some(IdOrigin::Made)),
        Value::String(text) if text == "true" => Ok(Some(IdOrigin::Made)),
        Value::String(text) if text == "false" => Ok(None),
        Value::String(text) if DynamicProperty::is_dynamic(text) => DynamicProperty::parse(text)
            .map(|template| Some(IdOrigin::Rendered(template)))
            .map_err(|error| error.to_string()),
        other => Err(format!(
            "\"{MESSAGE_ID}\" is true, false, or a template like \"{{{{.id}}}}\", not {other}"
        )),
    }
}

/// Gives ids to the messages of one action.
#[derive(Debug)]
pub struct MessageIds {
    /// The header that the connector reads it from.
    header: String,
    /// The header that an id comes in with.
    incoming: String,
    /// Of this start: no two processes make the same ids.
    prefix: String,
    next: AtomicU64,
}

impl MessageIds {
    /// Ids in that header; one that comes in under `incoming` is kept.
    #[must_use]
    pub fn new(header: String, incoming: String) -> Self {
        Self {
            header,
            incoming,
            prefix: format!("{:016x}", rand::random::<u64>()),
            next: AtomicU64::new(0),
        }
    }

    /// The header that it goes into. One that came with the message is the message's id.
    #[must_use]
    pub fn header(&self) -> &str {
        &self.header
    }

    /// The batch with an id in each message that has none. `places`: which incoming message each was
    /// made of; of several that were made of one, with an id that came with it, each gets its own.
    #[must_use]
    pub fn stamp(&self, batch: &Batch, places: Option<&[u32]>) -> Batch {
        let mut before: Option<(u32, u32)> = None;
        let stamped = batch.iter().zip(0_u32..).map(|(message, index)| {
            let place = places.map_or(index, |places| {
                places.get(index as usize).copied().unwrap_or(index)
            });
            let part = match before {
                Some((same, part)) if same == place => part + 1,
                _ => 0,
            };
            before = Some((place, part));
            self.one(message, part)
        });
        stamped.collect::<Vec<_>>().into()
    }

    fn one(&self, message: &Message, part: u32) -> Message {
        let given = message.headers.get(&self.header);
        let given = given.or_else(|| message.headers.get(&self.incoming));
        let id = match (given, part) {
            (Some(id), 0) => id.to_owned(),
            (Some(id), part) => format!("{id}-{part}"),
            (None, _) => {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                format!("{}-{number:x}", self.prefix)
            }
        };
        let others = message.headers.pairs().iter();
        let mut pairs: Vec<_> = others
            .filter(|(name, _)| *name != self.header)
            .cloned()
            .collect();
        pairs.push((self.header.clone(), id));
        Message {
            headers: pairs.into(),
            ..message.clone()
        }
    }
}

/// Name to JSON Schema: all of [`MessageIdOptions::PROPERTIES`].
#[must_use]
pub fn properties() -> Map<String, Value> {
    let mut all = Map::new();
    all.insert(
        MESSAGE_ID.to_owned(),
        json!({
            "description": "True: each message gets an id in a header, the same however often it is sent. A template such as {{.id}} makes it of the message.",
            "type": ["boolean", "string", "null"],
            "pattern": "^(true|false)$|\\{\\{|\\$\\{",
        }),
    );
    all.insert(
        HEADER.to_owned(),
        json!({
            "description": "The header for it; Idempotency-Key over http, Nats-Msg-Id over nats, else message-id, unless told.",
            "type": ["string", "null"],
            "pattern": "^[A-Za-z0-9_.-]+$|\\$\\{",
        }),
    );
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(batch: &Batch) -> Vec<&str> {
        batch
            .iter()
            .map(|message| message.headers.get("id").unwrap())
            .collect()
    }

    fn with(headers: &[(&str, &str)]) -> Message {
        let pairs = headers.iter();
        let pairs = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Message {
            headers: pairs.collect::<Vec<_>>().into(),
            ..Message::new("x")
        }
    }

    #[test]
    fn an_id_is_made_once_and_one_that_came_is_kept() {
        let maker = MessageIds::new("id".into(), "Idempotency-Key".into());
        let batch = Batch::from(vec![
            with(&[]),
            with(&[("Idempotency-Key", "k")]),
            with(&[("a", "b")]),
        ]);
        let stamped = maker.stamp(&batch, None);
        let first: Vec<String> = ids(&stamped).into_iter().map(str::to_owned).collect();
        assert_eq!(first[1], "k");
        assert!(first[0] != first[2] && first[0].len() > 16, "{first:?}");
        assert_eq!(stamped[2].headers.get("a"), Some("b"));
        assert_eq!(
            ids(&maker.stamp(&stamped, None)),
            first,
            "sent again it is the same"
        );
        let other = MessageIds::new("id".into(), "id".into());
        assert_ne!(
            ids(&other.stamp(&batch, None))[0],
            first[0],
            "after a new start too"
        );
    }

    #[test]
    fn parts_of_one_message_have_ids_of_their_own_and_the_same_ones_each_time() {
        let maker = MessageIds::new("id".into(), "id".into());
        let one = with(&[("id", "k")]);
        let batch = Batch::from(vec![one.clone(), one.clone(), one.clone(), one]);
        let stamped = maker.stamp(&batch, Some(&[3, 3, 3, 4]));
        assert_eq!(ids(&stamped), ["k", "k-1", "k-2", "k"]);
    }

    #[test]
    fn what_stands_in_the_properties_is_checked_with_its_place() {
        let read =
            |value: Value| MessageIdOptions::take_from(&mut value.as_object().unwrap().clone());
        assert_eq!(read(json!({})).unwrap(), MessageIdOptions::default());
        assert_eq!(
            read(json!({"messageId": true})).unwrap().origin,
            Some(IdOrigin::Made)
        );
        let rendered = read(json!({"messageID": "a-{{.id}}", "messageIdHeader": "X-Id"})).unwrap();
        assert!(matches!(rendered.origin, Some(IdOrigin::Rendered(_))));
        for (given, at) in [
            (json!({"messageId": "id"}), "/messageId"),
            (json!({"messageId": "{{.id"}), "/messageId"),
            (json!({"messageId": 3}), "/messageId"),
            (json!({"messageIdHeader": "a b"}), "/messageIdHeader"),
        ] {
            let errors = read(given.clone()).unwrap_err();
            assert_eq!((errors.len(), &*errors[0].at), (1, at), "{given}");
        }
        let all = properties();
        let names: Vec<_> = all.keys().map(String::as_str).collect();
        assert_eq!(names, MessageIdOptions::PROPERTIES);
    }
}
