//! A batch as rows: decoded when somebody looks inside, once for all rules that share it.
//!
//! A JSON object is one row, a list of objects is a row each. Binary payloads are `{"self": <base64>}`.
//! Delimited payloads are one row with the stream's column names. Every row is checked JSON text;
//! for a JSON stream that text is the payload itself, and no value in it is decoded before an
//! expression asks for it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::datum::Datum;
use super::functions;
use super::json::{self, Entry, Object, Shape};
use crate::message::{Batch, Message};

/// How the payloads of a stream are written.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// An object, or a list of objects.
    #[default]
    Json,
    /// Anything.
    Binary,
    /// One line of values.
    Delimited(Arc<Delimited>),
}

/// How a delimited line is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delimited {
    /// Between two values.
    pub delimiter: String,
    /// Names of the columns, each with its type (see `functions::CAST_TYPES`) if the stream states
    /// one; columns beyond them are `col<place>`.
    pub columns: Vec<(String, Option<String>)>,
}

/// A message that cannot be used, by its place in the batch, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Place in the batch.
    pub index: u32,
    /// One sentence, without any of the payload.
    pub reason: String,
}

/// A batch and, once somebody has looked inside, its rows.
#[derive(Debug)]
pub struct RowBatch {
    batch: Batch,
    format: Format,
    decoded: OnceLock<Decoded>,
}

#[derive(Debug, Default)]
struct Decoded {
    entries: Vec<Entry>,
    objects: Vec<Object>,
    /// Per message the place behind its last object.
    ends: Vec<u32>,
    /// Per message its JSON text, where the payload is not JSON itself.
    texts: Vec<Vec<u8>>,
    failures: Vec<Failure>,
    lists: bool,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    message: &'a Message,
    index: u32,
    text: &'a [u8],
    object: &'a [u8],
    entries: &'a [Entry],
}

impl RowBatch {
    /// Nothing is decoded yet.
    #[must_use]
    pub fn new(batch: Batch, format: Format) -> Self {
        Self {
            batch,
            format,
            decoded: OnceLock::new(),
        }
    }

    /// The messages.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// How the payloads are written.
    #[must_use]
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// Messages that could not be decoded. Decodes.
    #[must_use]
    pub fn failures(&self) -> &[Failure] {
        &self.decode().failures
    }

    /// Somebody has looked inside, and a payload is a list of rows.
    #[must_use]
    pub fn has_lists(&self) -> bool {
        self.decoded.get().is_some_and(|decoded| decoded.lists)
    }

    /// The rows of one message; none if it could not be decoded. Decodes.
    pub fn rows(&self, index: u32) -> impl Iterator<Item = Row<'_>> {
        let decoded = self.decode();
        let end = |place: Option<u32>| {
            place
                .and_then(|place| decoded.ends.get(place as usize))
                .copied()
                .unwrap_or_default()
        };
        let objects = end(index.checked_sub(1)) as usize..end(Some(index)) as usize;
        let message = self.batch.get(index as usize);
        let text = match decoded.texts.get(index as usize) {
            Some(text) => text,
            None => message.map_or(&[][..], |message| &message.payload),
        };
        let objects = decoded.objects.get(objects).unwrap_or_default().iter();
        message.into_iter().flat_map(move |message| {
            objects.clone().map(move |object| {
                let entries = object.entries.start as usize..object.entries.end as usize;
                Row {
                    message,
                    index,
                    text,
                    object: object.span.of(text),
                    entries: decoded.entries.get(entries).unwrap_or_default(),
                }
            })
        })
    }

    /// A message as a row without fields, for a query that does not look inside. Decodes nothing.
    #[must_use]
    pub fn bare(message: &Message, index: u32) -> Row<'_> {
        Row {
            message,
            index,
            text: &[],
            object: b"{}",
            entries: &[],
        }
    }

    fn decode(&self) -> &Decoded {
        self.decoded.get_or_init(|| {
            let mut decoded = Decoded::default();
            decoded.objects.reserve(self.batch.len());
            decoded.ends.reserve(self.batch.len());
            for (index, message) in (0_u32..).zip(self.batch.iter()) {
                match &self.format {
                    Format::Json => decoded.add(index, &message.payload),
                    Format::Binary => decoded.add_made(index, binary(&message.payload)),
                    Format::Delimited(how) => match how.read(&message.payload) {
                        Ok(text) => decoded.add_made(index, text),
                        Err(reason) => {
                            decoded.failures.push(Failure { index, reason });
                            decoded.texts.push(Vec::new());
                            decoded.end();
                        }
                    },
                }
            }
            decoded
        })
    }
}

impl Decoded {
    fn add(&mut self, index: u32, text: &[u8]) {
        match json::parse(text, &mut self.objects, &mut self.entries) {
            Ok(shape) => self.lists |= shape == Shape::List,
            Err(error) => self.failures.push(Failure {
                index,
                reason: error.to_string(),
            }),
        }
        self.end();
    }

    fn add_made(&mut self, index: u32, text: Vec<u8>) {
        self.add(index, &text);
        self.texts.push(text);
    }

    fn end(&mut self) {
        self.ends
            .push(u32::try_from(self.objects.len()).unwrap_or(u32::MAX));
    }
}

fn binary(payload: &[u8]) -> Vec<u8> {
    let mut text = b"{\"self\":\"".to_vec();
    text.extend_from_slice(BASE64.encode(payload).as_bytes());
    text.extend_from_slice(b"\"}");
    text
}

impl Delimited {
    fn read(&self, payload: &[u8]) -> Result<Vec<u8>, String> {
        let line = std::str::from_utf8(payload)
            .map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))?;
        let mut rest = Some(line.trim_end_matches(['\r', '\n']));
        let mut out = vec![b'{'];
        let mut place = 0;
        while let Some(text) = rest {
            let (value, after) = self.value(text)?;
            rest = after;
            let column = self.columns.get(place);
            if place > 0 {
                out.push(b',');
            }
            match column {
                Some((name, _)) => json::write_string(&mut out, name),
                None => json::write_string(&mut out, &format!("col{place}")),
            }
            out.push(b':');
            let value = Datum::Text(value);
            match column.and_then(|(_, kind)| kind.as_deref()) {
                // A value that is not of its column's type is null, as a missing one.
                Some(kind) => {
                    functions::cast(&value, kind)
                        .unwrap_or(Datum::Null)
                        .write_json(&mut out);
                }
                None => value.write_json(&mut out),
            }
            place += 1;
        }
        out.push(b'}');
        Ok(out)
    }

    /// One value and what follows it. In double quotes it may hold the delimiter (RFC 4180).
    fn value<'a>(&self, text: &'a str) -> Result<(Cow<'a, str>, Option<&'a str>), String> {
        let Some(mut quoted) = text.strip_prefix('"') else {
            return Ok(match text.split_once(self.delimiter.as_str()) {
                Some((value, after)) => (Cow::Borrowed(value), Some(after)),
                None => (Cow::Borrowed(text), None),
            });
        };
        let mut value = String::new();
        loop {
            let (before, after) = quoted
                .split_once('"')
                .ok_or("a quoted value does not end")?;
            value.push_str(before);
            if let Some(after) = after.strip_prefix('"') {
                value.push('"');
                quoted = after;
            } else if after.is_empty() {
                return Ok((Cow::Owned(value), None));
            } else if let Some(after) = after.strip_prefix(self.delimiter.as_str()) {
                return Ok((Cow::Owned(value), Some(after)));
            } else {
                return Err("no delimiter follows a quoted value".to_owned());
            }
        }
    }
}

impl<'a> Row<'a> {
    /// The value of a member, as JSON text; the last one, where several have that name.
    #[inline]
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.entries
            .iter()
            .rev()
            .find(|entry| json::same_name(entry.key.of(self.text), entry.escaped, name))
            .map(|entry| entry.value.of(self.text))
    }

    /// The members as they stand in the payload: name as written, without quotes; whether there are
    /// escapes in it; value.
    pub fn members(&self) -> impl Iterator<Item = (&'a [u8], bool, &'a [u8])> {
        let text = self.text;
        self.entries
            .iter()
            .map(move |entry| (entry.key.of(text), entry.escaped, entry.value.of(text)))
    }

    /// The row as JSON text.
    #[must_use]
    pub fn object(&self) -> &'a [u8] {
        self.object
    }

    /// The message that it came in.
    #[must_use]
    pub fn message(&self) -> &'a Message {
        self.message
    }

    /// The place of that message in its batch.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(payloads: &[&str], format: Format) -> RowBatch {
        let messages: Vec<_> = payloads
            .iter()
            .map(|p| Message::new(p.to_string()))
            .collect();
        RowBatch::new(Batch::from(messages), format)
    }

    fn texts(rows: &RowBatch, index: u32) -> Vec<String> {
        rows.rows(index)
            .map(|row| String::from_utf8(row.object().to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn an_object_is_a_row_and_a_list_is_a_row_for_each_element() {
        let rows = batch(
            &[
                r#"{"a":1}"#,
                r#"[{"a":2},{"a":3}]"#,
                "{",
                "[]",
                r#"{"a":4}"#,
            ],
            Format::Json,
        );
        assert!(
            !rows.has_lists(),
            "nothing is decoded before somebody looks"
        );
        assert_eq!(texts(&rows, 0), [r#"{"a":1}"#]);
        assert_eq!(texts(&rows, 1), [r#"{"a":2}"#, r#"{"a":3}"#]);
        assert!(texts(&rows, 2).is_empty() && texts(&rows, 3).is_empty());
        assert_eq!(texts(&rows, 4), [r#"{"a":4}"#]);
        assert!(rows.has_lists());
        assert_eq!(rows.failures().len(), 1);
        assert_eq!(rows.failures()[0].index, 2);
        assert!(texts(&rows, 9).is_empty());
    }

    #[test]
    fn the_last_of_equal_names_counts() {
        let rows = batch(&[r#"{"a":1,"b":2,"a":3}"#], Format::Json);
        let row = rows.rows(0).next().unwrap();
        assert_eq!(row.field("a"), Some(&b"3"[..]));
        assert_eq!(row.members().count(), 3);
    }

    #[test]
    fn a_binary_payload_is_one_field_in_base64() {
        let rows = batch(&["\u{1}abc"], Format::Binary);
        assert_eq!(texts(&rows, 0), [r#"{"self":"AWFiYw=="}"#]);
    }

    #[test]
    fn a_delimited_line_takes_names_and_types_of_the_stream() {
        let columns = vec![
            ("id".to_owned(), Some("bigint".to_owned())),
            ("name".to_owned(), None),
            ("on".to_owned(), Some("boolean".to_owned())),
        ];
        let how = Delimited {
            delimiter: ",".to_owned(),
            columns,
        };
        let rows = batch(
            &["7,\"a,\"\"b\",true,x\r\n", "x,,0", "\"a"],
            Format::Delimited(Arc::new(how)),
        );
        assert_eq!(
            texts(&rows, 0),
            [r#"{"id":7,"name":"a,\"b","on":true,"col3":"x"}"#]
        );
        assert_eq!(texts(&rows, 1), [r#"{"id":null,"name":"","on":false}"#]);
        assert_eq!(
            rows.failures(),
            [Failure {
                index: 2,
                reason: "a quoted value does not end".to_owned()
            }]
        );
    }
}
