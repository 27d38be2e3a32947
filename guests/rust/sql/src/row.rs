//! JSON as rows: a message is an object, or a list of objects.
//!
//! A value goes to the database as what it is: an integer of 64 bits as one, a number with more digits
//! than a float keeps as its digits (SQLite has no such numbers: there as a float), an object or a list
//! as JSON text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use windlass_connector::Dialect;
use windlass_connector::sql::Value;

/// Digits of a decimal number that a float keeps.
const FLOAT_DIGITS: usize = 15;

/// An object: its fields, each once, with their values as they stand.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Row<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| *value)
    }
}

struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameVisitor)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Name<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
        Ok(Name(Cow::Borrowed(name)))
    }

    fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
        Ok(Name(Cow::Owned(name.to_owned())))
    }
}

impl<'de> Deserialize<'de> for Row<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RowVisitor)
    }
}

struct RowVisitor;

impl<'de> Visitor<'de> for RowVisitor {
    type Value = Row<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object, or a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row<'de>, A::Error> {
        let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(8);
        while let Some(Name(name)) = map.next_key()? {
            let value = map.next_value()?;
            match fields.iter_mut().find(|(known, _)| *known == name) {
                Some((_, kept)) => *kept = value,
                None => fields.push((name, value)),
            }
        }
        Ok(Row { fields })
    }
}

/// The rows of a message.
///
/// # Errors
/// A sentence: it is neither an object nor a list of objects.
pub(crate) fn rows(payload: &[u8]) -> Result<Vec<Row<'_>>, String> {
    let first = payload.iter().find(|byte| !byte.is_ascii_whitespace());
    let parsed = if first == Some(&b'[') {
        serde_json::from_slice(payload)
    } else {
        serde_json::from_slice(payload).map(|row| vec![row])
    };
    parsed
        .map_err(|error| format!("the message is not a JSON object or a list of objects: {error}"))
}

/// A value as a parameter. None: it is text that no database takes (half a character).
pub(crate) fn value(raw: &RawValue, dialect: Dialect) -> Option<Value> {
    let text = raw.get();
    Some(match text.as_bytes().first()? {
        b'n' => Value::Null,
        b't' => Value::Boolean(true),
        b'f' => Value::Boolean(false),
        b'"' => Value::Text(serde_json::from_str(text).ok()?),
        b'{' | b'[' => Value::Text(text.to_owned()),
        _ => number(text, dialect),
    })
}

fn number(text: &str, dialect: Dialect) -> Value {
    if let Ok(integer) = text.parse() {
        return Value::Integer(integer);
    }
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let digits = mantissa
        .trim_start_matches(['-', '0', '.'])
        .bytes()
        .filter(u8::is_ascii_digit)
        .count();
    match text.parse::<f64>() {
        Ok(real) if real.is_finite() && (digits <= FLOAT_DIGITS || dialect == Dialect::Sqlite) => {
            Value::Real(real)
        }
        _ => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(text: &str, dialect: Dialect) -> Value {
        value(serde_json::from_str(text).unwrap(), dialect).unwrap()
    }

    #[test]
    fn a_message_is_an_object_or_a_list_of_objects() {
        let one = rows(br#" {"a":1,"b\n":{"c": [2]},"a":3} "#).unwrap();
        assert_eq!(one.len(), 1);
        let fields: Vec<(&str, &str)> = one[0]
            .fields
            .iter()
            .map(|(name, value)| (&**name, value.get()))
            .collect();
        assert_eq!(fields, [("a", "3"), ("b\n", r#"{"c": [2]}"#)]);
        assert_eq!(rows(br#"[{"a":1},{}]"#).unwrap().len(), 2);
        assert_eq!(rows(b"[]").unwrap().len(), 0);
        for payload in [
            &b"7"[..],
            b"",
            b"\"a\"",
            b"[1]",
            b"{",
            b"{\"a\":1}x",
            b"\xff",
            b"[[{}]]",
            b"null",
        ] {
            let error = rows(payload).unwrap_err();
            assert!(error.contains("a list of objects"), "{error}");
        }
    }

    #[test]
    fn values_keep_what_they_are_and_every_digit() {
        for (text, wanted) in [
            ("null", Value::Null),
            ("true", Value::Boolean(true)),
            ("-9223372036854775808", Value::Integer(i64::MIN)),
            (
                "18446744073709551615",
                Value::Text("18446744073709551615".to_owned()),
            ),
            ("1.50", Value::Real(1.5)),
            ("-0.000000000012345", Value::Real(-0.000_000_000_012_345)),
            ("1e3", Value::Real(1000.0)),
            (
                "12345678901.123456789",
                Value::Text("12345678901.123456789".to_owned()),
            ),
            ("1e999", Value::Text("1e999".to_owned())),
            (r#""a\u00f6\"""#, Value::Text("aö\"".to_owned())),
            (r#"{"a": [1]}"#, Value::Text(r#"{"a": [1]}"#.to_owned())),
        ] {
            assert_eq!(value_of(text, Dialect::Postgresql), wanted, "{text}");
        }
        assert_eq!(
            value_of("0.12345678901234567", Dialect::Sqlite),
            Value::Real(0.123_456_789_012_345_67)
        );
        let half: &RawValue = serde_json::from_str(r#""\ud800""#).unwrap();
        assert_eq!(value(half, Dialect::Sqlite), None);
    }
}
