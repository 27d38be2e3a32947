//! Takes values out of a test file, each mistake with its place, its sentence and the nearest valid
//! name. The notation of messages, errors and SQL values stands here, once for what is given and
//! once, as JSON, for what is expected.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::config::{Document, ManifestError, pointer_to, unknown};
use crate::connections::SqlValue;
use crate::error::{ConnectionError, ErrorKind};
use crate::message::{Message, Rejection};

/// The words for what to do about an error.
pub(super) const KINDS: [ErrorKind; 5] = [
    ErrorKind::Transient,
    ErrorKind::Disconnected,
    ErrorKind::Permanent,
    ErrorKind::Denied,
    ErrorKind::Misconfigured,
];

/// Collects the mistakes of one file.
#[derive(Debug)]
pub(super) struct Fields<'d> {
    pub(super) document: &'d Document,
    pub(super) errors: Vec<ManifestError>,
}

/// What a value is, for a sentence.
fn what(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn last(pointer: &str) -> &str {
    pointer.rsplit('/').next().unwrap_or_default()
}

impl<'d> Fields<'d> {
    pub(super) fn new(document: &'d Document) -> Self {
        Self {
            document,
            errors: Vec::new(),
        }
    }

    pub(super) fn wrong(&mut self, pointer: &str, message: impl Into<String>) {
        self.errors.push(self.document.error(pointer, message));
    }

    fn must_be(&mut self, pointer: &str, wanted: &str, found: &Value) {
        let name = last(pointer);
        let sentence = format!("\"{name}\" must be {wanted}, found {}", what(found));
        self.wrong(pointer, sentence);
    }

    /// A mapping that has only these keys.
    pub(super) fn mapping<'v>(
        &mut self,
        value: &'v Value,
        pointer: &str,
        allowed: &[&str],
    ) -> Option<&'v Map<String, Value>> {
        let Value::Object(map) = value else {
            self.must_be(pointer, "a mapping", value);
            return None;
        };
        for key in map.keys().filter(|key| !allowed.contains(&key.as_str())) {
            let at = pointer_to(pointer, key);
            let error = self
                .document
                .error_at_key(&at, unknown("key", key, allowed));
            self.errors.push(error);
        }
        Some(map)
    }

    pub(super) fn list<'v>(&mut self, value: &'v Value, pointer: &str) -> Option<&'v Vec<Value>> {
        if let Value::Array(items) = value {
            return Some(items);
        }
        self.must_be(pointer, "a list", value);
        None
    }

    pub(super) fn text(&mut self, value: &Value, pointer: &str) -> Option<String> {
        if let Value::String(text) = value {
            return Some(text.clone());
        }
        let name = last(pointer);
        let found = what(value);
        self.wrong(
            pointer,
            format!("\"{name}\" must be text, found {found}; put it in quotes"),
        );
        None
    }

    pub(super) fn boolean(&mut self, value: &Value, pointer: &str) -> Option<bool> {
        if let Value::Bool(value) = value {
            return Some(*value);
        }
        self.must_be(pointer, "true or false", value);
        None
    }

    /// A whole number of at most `most`.
    pub(super) fn number(&mut self, value: &Value, pointer: &str, most: u32) -> Option<u32> {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        if let Some(number) = number.filter(|number| *number <= most) {
            return Some(number);
        }
        self.wrong(
            pointer,
            format!(
                "\"{}\" must be a whole number from 0 to {most}",
                last(pointer)
            ),
        );
        None
    }

    /// The payload that one of `json`, `text` and `base64` says.
    pub(super) fn payload(&mut self, map: &Map<String, Value>, pointer: &str) -> Option<Vec<u8>> {
        let mut found: Vec<(&str, &Value)> = ["json", "text", "base64"]
            .into_iter()
            .filter_map(|key| map.get(key).map(|value| (key, value)))
            .collect();
        if found.len() > 1 {
            self.wrong(pointer, "give one of json, text and base64, not several");
        }
        let (key, value) = found.pop()?;
        let at = pointer_to(pointer, key);
        match key {
            "json" => Some(value.to_string().into_bytes()),
            "text" => self.text(value, &at).map(String::into_bytes),
            _ => {
                let text = self.text(value, &at)?;
                let bytes = STANDARD.decode(text.trim());
                if bytes.is_err() {
                    self.wrong(&at, "\"base64\" is not base64");
                }
                bytes.ok()
            }
        }
    }

    pub(super) fn headers(
        &mut self,
        map: &Map<String, Value>,
        pointer: &str,
    ) -> Vec<(String, String)> {
        let at = pointer_to(pointer, "headers");
        let mut pairs = Vec::new();
        match map.get("headers") {
            None => {}
            Some(Value::Object(headers)) => {
                for (name, value) in headers {
                    if let Some(value) = self.text(value, &pointer_to(&at, name)) {
                        pairs.push((name.clone(), value));
                    }
                }
            }
            Some(other) => self.must_be(&at, "a mapping of names to texts", other),
        }
        pairs
    }

    /// A message that is given.
    pub(super) fn message(&mut self, value: &Value, pointer: &str) -> Option<Message> {
        let keys = ["subject", "json", "text", "base64", "headers"];
        let map = self.mapping(value, pointer, &keys)?;
        let subject = match map.get("subject") {
            Some(value) => self.text(value, &pointer_to(pointer, "subject"))?,
            None => String::new(),
        };
        let headers = self.headers(map, pointer);
        let payload = self.payload(map, pointer);
        Some(Message {
            subject: subject.into(),
            headers: headers.into(),
            ..Message::new(payload.unwrap_or_default())
        })
    }

    pub(super) fn messages(&mut self, value: &Value, pointer: &str) -> Vec<Message> {
        let items = self.list(value, pointer).into_iter().flatten();
        (0..)
            .zip(items)
            .filter_map(|(index, item)| self.message(item, &format!("{pointer}/{index}")))
            .collect()
    }

    pub(super) fn kind(&mut self, value: &Value, pointer: &str) -> Option<ErrorKind> {
        let word = self.text(value, pointer)?;
        let kind = KINDS.into_iter().find(|kind| kind.as_str() == word);
        if kind.is_none() {
            let words = KINDS.map(ErrorKind::as_str);
            self.wrong(pointer, unknown("kind of error", &word, &words));
        }
        kind
    }

    /// An error that a connection gives: `{kind, code, message}`.
    pub(super) fn error(&mut self, value: &Value, pointer: &str) -> Option<ConnectionError> {
        let map = self.mapping(value, pointer, &["kind", "code", "message"])?;
        self.error_of(map, pointer)
    }

    fn error_of(&mut self, map: &Map<String, Value>, pointer: &str) -> Option<ConnectionError> {
        let Some(kind) = map.get("kind") else {
            let words = KINDS.map(ErrorKind::as_str).join(", ");
            self.wrong(pointer, format!("\"kind\" is missing: one of {words}"));
            return None;
        };
        let kind = self.kind(kind, &pointer_to(pointer, "kind"))?;
        let mut word = |key: &str, default: &str| match map.get(key) {
            Some(value) => self.text(value, &pointer_to(pointer, key)),
            None => Some(default.to_owned()),
        };
        let (code, message) = (word("code", "test")?, word("message", "the test says so")?);
        Some(ConnectionError::new(kind, code, message))
    }

    /// What is under `error`, if it is there.
    pub(super) fn error_under(
        &mut self,
        map: &Map<String, Value>,
        pointer: &str,
    ) -> Option<ConnectionError> {
        let value = map.get("error")?;
        self.error(value, &pointer_to(pointer, "error"))
    }

    /// Messages that a connection refuses.
    pub(super) fn rejections(&mut self, value: &Value, pointer: &str) -> Option<Vec<Rejection>> {
        let items = self.list(value, pointer)?;
        let mut rejections = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let at = format!("{pointer}/{index}");
            let map = self.mapping(item, &at, &["index", "kind", "code", "message"])?;
            let Some(place) = map.get("index") else {
                self.wrong(
                    &at,
                    "\"index\" is missing: the message's place in the batch",
                );
                continue;
            };
            let place = self.number(place, &pointer_to(&at, "index"), u32::MAX)?;
            rejections.push(Rejection {
                index: place,
                error: self.error_of(map, &at)?,
            });
        }
        Some(rejections)
    }

    /// A value of a row or of a parameter.
    pub(super) fn sql(&mut self, value: &Value, pointer: &str) -> Option<SqlValue> {
        Some(match value {
            Value::Null => SqlValue::Null,
            Value::Bool(value) => SqlValue::Boolean(*value),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => SqlValue::Integer(whole),
                None => SqlValue::Real(number.as_f64()?),
            },
            Value::String(text) => SqlValue::Text(text.clone()),
            Value::Object(map) if map.contains_key("base64") => {
                self.mapping(value, pointer, &["base64"]);
                SqlValue::Blob(self.payload(map, pointer)?)
            }
            Value::Array(_) | Value::Object(_) => {
                self.wrong(
                    pointer,
                    "this is no value of SQL: null, true, a number, text, or { base64: ... }",
                );
                return None;
            }
        })
    }
}

/// A value of SQL as it is written in a test file.
pub(super) fn sql_value(value: &SqlValue) -> Value {
    match value {
        SqlValue::Null => Value::Null,
        SqlValue::Boolean(value) => Value::Bool(*value),
        SqlValue::Integer(value) => (*value).into(),
        SqlValue::Real(value) => (*value).into(),
        SqlValue::Text(text) => text.clone().into(),
        SqlValue::Blob(bytes) => serde_json::json!({ "base64": STANDARD.encode(bytes) }),
    }
}

/// The payload as it is written in a test file: the most readable way that is exact.
pub(super) fn payload_value(payload: &[u8]) -> (&'static str, Value) {
    match std::str::from_utf8(payload) {
        Ok(text) => match serde_json::from_str::<Value>(text) {
            Ok(value @ (Value::Object(_) | Value::Array(_))) => ("json", value),
            _ => ("text", text.into()),
        },
        Err(_) => ("base64", STANDARD.encode(payload).into()),
    }
}
