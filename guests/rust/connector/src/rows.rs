//! JSON as rows, as a sink gets it: a message is an object, or a list of objects. Values stay as they
//! stand there, so that no digit is lost.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::Columns;

/// An object: its fields, each once, with their values as they stand.
#[derive(Debug)]
pub struct Row<'a> {
    /// Names and values, in the order in which the names first stand there.
    pub fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Row<'a> {
    /// The value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
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
pub fn rows(payload: &[u8]) -> Result<Vec<Row<'_>>, String> {
    let first = payload.iter().find(|byte| !byte.is_ascii_whitespace());
    let parsed = if first == Some(&b'[') {
        serde_json::from_slice(payload)
    } else {
        serde_json::from_slice(payload).map(|row| vec![row])
    };
    parsed
        .map_err(|error| format!("the message is not a JSON object or a list of objects: {error}"))
}

/// Payloads end to end, as columns have them.
impl Columns {
    /// No message yet.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            payloads: Vec::new(),
            ends: Vec::new(),
            subjects: Vec::new(),
            subject_of: Vec::new(),
        }
    }

    /// Each message's payload.
    pub fn each(&self) -> impl Iterator<Item = &[u8]> {
        let mut begin = 0;
        self.ends.iter().map(move |end| {
            let end = usize::try_from(*end).unwrap_or(usize::MAX);
            let payload = self.payloads.get(begin..end).unwrap_or_default();
            begin = end;
            payload
        })
    }

    /// What has been appended to `payloads` since the last one is a message.
    pub fn end_message(&mut self) {
        self.ends
            .push(u32::try_from(self.payloads.len()).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn payloads_are_cut_where_the_columns_say() {
        let mut columns = Columns::empty();
        for payload in [&b"a"[..], b"", b"bcd"] {
            columns.payloads.extend_from_slice(payload);
            columns.end_message();
        }
        let all: Vec<_> = columns.each().collect();
        assert_eq!(all, [&b"a"[..], b"", b"bcd"]);
    }
}
