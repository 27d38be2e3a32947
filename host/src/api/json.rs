//! JSON in and out. In: bounded in size and depth, UTF-8, and no name twice in one object, each
//! mistake with its line and column. Out: `application/json`, its length known, no newline behind it.
//! Knows no resource.
//!
//! eKuiper takes the last of two equal names. Here they are refused: one of the two is always a
//! mistake, and a proxy in between may read the other one.

use std::collections::HashSet;
use std::fmt;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value};

use super::error::ApiError;
use super::{BodyBytes, Reading};
use crate::connections::listener::body::read_body;

/// A body that is read into `T`, or a value that is answered.
///
/// Reading answers 400 `Invalid body: ...`, 408, 413, 415.
#[derive(Clone, Debug)]
pub struct Json<T>(pub T);

/// A body of JSON with its text as it was sent.
#[derive(Clone, Debug)]
pub struct RawJson {
    /// As it was sent.
    pub text: String,
    /// What it says.
    pub value: Value,
}

/// A body as it was sent, of any kind.
#[derive(Clone, Debug)]
pub struct Raw(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (mut head, body) = request.into_parts();
        let Some(reading) = head.extensions.remove::<Reading>() else {
            tracing::error!("a body is read outside of the server");
            return Err(ApiError::internal());
        };
        let mut limits = reading.limits;
        if let Some(BodyBytes(bytes)) = head.extensions.get() {
            limits.bytes = *bytes;
        }
        let (bytes, room) = read_body(&reading.budget, &head.headers, body, limits).await?;
        // It has come whole: from here on it counts as what the handler holds.
        drop(room);
        Ok(Self(bytes))
    }
}

impl<S: Send + Sync> FromRequest<S> for RawJson {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Raw(bytes) = Raw::from_request(request, state).await?;
        let text = text(&bytes)?;
        Ok(Self {
            value: parse(text).map_err(ApiError::invalid_body)?,
            text: text.to_owned(),
        })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Raw(bytes) = Raw::from_request(request, state).await?;
        let text = text(&bytes)?;
        parse(text).map_err(ApiError::invalid_body)?;
        // Read again and not converted, so that a wrong type has its place too.
        serde_json::from_str(text)
            .map(Self)
            .map_err(ApiError::invalid_body)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => {
                let mut response = Response::new(Body::from(bytes));
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Err(error) => {
                tracing::error!(%error, "an answer cannot be written as JSON");
                ApiError::internal().into_response()
            }
        }
    }
}

/// A success of eKuiper's: a status and words (`success`, `Rule X was started`).
#[must_use]
pub fn words(status: StatusCode, text: impl Into<String>) -> Response {
    (status, text.into()).into_response()
}

/// The text of a body.
fn text(bytes: &[u8]) -> Result<&str, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::invalid_body("it is empty; JSON is expected"));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = good.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        ApiError::invalid_body(format_args!(
            "it is not UTF-8 at line {line} column {column}"
        ))
    })
}

/// Reads JSON; objects keep the order of their names.
///
/// # Errors
/// What is wrong, with line and column: no JSON, more than 127 levels deep, a name twice in one object.
pub fn parse(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str::<Strict>(text).map(|strict| strict.0)
}

/// A value whose objects have each name once.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> DeserializeSeed<'de> for Reader {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // The reader refuses what is no finite number.
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Reader)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let mut seen = HashSet::new();
        while let Some(name) = items.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                let shown: String = name.chars().take(60).collect();
                return Err(A::Error::custom(format_args!(
                    "\"{shown}\" stands twice in one object"
                )));
            }
            object.insert(name, items.next_value_seed(Reader)?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        parse(json).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_have_their_line_and_column() {
        assert!(refused("{\"a\": 1,\n \"b\" 2}").contains("line 2 column 6"));
        assert!(
            refused("{\"a\": 1,\n \"b\": {\"c\": 1, \"c\": 2}}").contains("\"c\" stands twice")
        );
        assert!(refused("{\"a\":1,\n\"a\":2}").contains("line 2 column"));
        assert!(
            refused(&format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)))
                .contains("recursion")
        );
        assert!(refused("{} {}").contains("trailing"));
        assert!(refused("1e999").contains("out of range"));
        let error = text(b"{\"a\":\n \"\xff\"}").unwrap_err();
        assert_eq!(
            error.message(),
            "Invalid body: it is not UTF-8 at line 2 column 3"
        );
        assert!(text(b" \n").unwrap_err().message().contains("empty"));
    }

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        let json =
            r#"{"z":[1,-2,3.5,18446744073709551615,null,true],"a":{"é":"\u0000\ud83d\ude00"}}"#;
        let value: Value = serde_json::from_str(json).unwrap();
        let read = parse(json).unwrap();
        assert_eq!(read, value);
        let names: Vec<_> = read.as_object().unwrap().keys().collect();
        assert_eq!(names, ["z", "a"]);
    }
}
