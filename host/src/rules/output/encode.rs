//! From rows to the bytes of a payload: format and compression.

use std::borrow::Cow;
use std::io::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use crate::rules::query::datum::Datum;
use crate::rules::query::json;

/// How an action writes its payloads.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum OutputFormat {
    /// `{...}`, or `[{...}]`.
    #[default]
    Json,
    /// The bytes of the field `self`.
    Binary,
    /// A line for each row; columns in the order of `fields`, else by name. A value that holds the
    /// delimiter, a quote or a line break stands in double quotes (RFC 4180).
    Delimited {
        /// Between two values.
        delimiter: String,
        /// Each payload begins with a line of the columns' names.
        header: bool,
    },
    /// `a=1&b=x` (WHATWG URL, application/x-www-form-urlencoded): the columns in the order of `fields`,
    /// else as they stand.
    Urlencoded,
}

/// How payloads are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    pub(super) method: Method,
    /// None: the method's own.
    pub(super) level: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rules) enum Method {
    Gzip,
    Zlib,
    /// DEFLATE without a frame.
    Flate,
    Zstd,
}

pub(in crate::rules) const METHODS: [(&str, Method); 4] = [
    ("gzip", Method::Gzip),
    ("zlib", Method::Zlib),
    ("flate", Method::Flate),
    ("zstd", Method::Zstd),
];

impl Compression {
    /// As hard as the method does by itself.
    #[cfg(test)]
    pub(in crate::rules) fn of(method: Method) -> Self {
        Self {
            method,
            level: None,
        }
    }

    /// Compresses a payload. Writing to memory fails only for want of memory.
    pub(in crate::rules) fn apply(self, payload: &[u8]) -> io::Result<Vec<u8>> {
        let level = self
            .level
            .and_then(|level| u32::try_from(level).ok())
            .map_or_else(flate2::Compression::default, flate2::Compression::new);
        match self.method {
            Method::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(payload)?;
                encoder.finish()
            }
            Method::Zlib => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(payload)?;
                encoder.finish()
            }
            Method::Flate => {
                let mut encoder = DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(payload)?;
                encoder.finish()
            }
            Method::Zstd => zstd::bulk::compress(payload, self.level.unwrap_or(0)),
        }
    }
}

impl OutputFormat {
    /// Several rows as one payload; `single` writes the only row without a list around it.
    pub(super) fn encode(
        &self,
        rows: &[Cow<'_, [u8]>],
        columns: &[String],
        single: bool,
    ) -> Result<Vec<u8>, String> {
        match self {
            Self::Json => {
                let size: usize = rows.iter().map(|row| row.len() + 1).sum();
                let mut out = Vec::with_capacity(size + 2);
                if !single {
                    out.push(b'[');
                }
                for (place, row) in rows.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(row);
                }
                if !single {
                    out.push(b']');
                }
                Ok(out)
            }
            Self::Binary => {
                let [row] = rows else {
                    return Err("binary payloads cannot be put into a list".to_owned());
                };
                let Some(Datum::Text(text)) = json::find(row, "self").map(Datum::from_json) else {
                    return Err("the row has no text field \"self\" for format binary".to_owned());
                };
                BASE64.decode(text.as_bytes()).map_err(|_| {
                    "field \"self\" is not base64, which format binary needs".to_owned()
                })
            }
            Self::Delimited { delimiter, header } => {
                Ok(delimited(rows, columns, delimiter, *header))
            }
            Self::Urlencoded => match rows {
                [row] => Ok(urlencoded(row, columns)),
                _ => Err("a form cannot be put into a list".to_owned()),
            },
        }
    }
}

fn urlencoded(row: &[u8], columns: &[String]) -> Vec<u8> {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    let mut pair = |name: &str, raw: &[u8]| {
        form.append_pair(name, &plain(raw));
    };
    if columns.is_empty() {
        for (name, _, raw) in json::members(row) {
            pair(&json::unescape(name), raw);
        }
    }
    for name in columns {
        if let Some(raw) = json::find(row, name) {
            pair(name, raw);
        }
    }
    form.finish().into_bytes()
}

/// A value as text, a number as it was written: no digit is lost.
fn plain(raw: &[u8]) -> Cow<'_, str> {
    match raw.first() {
        Some(b'-' | b'0'..=b'9') => String::from_utf8_lossy(raw),
        _ => Cow::Owned(Datum::from_json(raw).plain().into_owned()),
    }
}

fn delimited(rows: &[Cow<'_, [u8]>], columns: &[String], delimiter: &str, header: bool) -> Vec<u8> {
    let mut sorted: Vec<String>;
    let columns = if columns.is_empty() {
        sorted = Vec::new();
        for row in rows {
            sorted.extend(json::members(row).map(|(name, ..)| json::unescape(name).into_owned()));
        }
        sorted.sort_unstable();
        sorted.dedup();
        &sorted
    } else {
        columns
    };
    let mut out = Vec::new();
    let mut line = |values: &mut dyn Iterator<Item = Cow<'_, str>>| {
        if !out.is_empty() {
            out.push(b'\n');
        }
        for (place, value) in values.enumerate() {
            if place > 0 {
                out.extend_from_slice(delimiter.as_bytes());
            }
            let quoted = value.contains(delimiter) || value.contains(['"', '\n', '\r']);
            if quoted {
                out.push(b'"');
                out.extend_from_slice(value.replace('"', "\"\"").as_bytes());
                out.push(b'"');
            } else {
                out.extend_from_slice(value.as_bytes());
            }
        }
    };
    if header {
        line(&mut columns.iter().map(|name| Cow::Borrowed(name.as_str())));
    }
    for row in rows {
        line(
            &mut columns
                .iter()
                .map(|name| json::find(row, name).map_or(Cow::Borrowed(""), plain)),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn encode(format: &OutputFormat, rows: &[&str], columns: &[&str]) -> Result<String, String> {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| Cow::Borrowed(row.as_bytes()))
            .collect();
        let columns: Vec<_> = columns.iter().map(|c| (*c).to_owned()).collect();
        format
            .encode(&rows, &columns, false)
            .map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn delimited_lines_have_columns_in_order_and_quote_what_would_break_them() {
        let format = |header| OutputFormat::Delimited {
            delimiter: ";".to_owned(),
            header,
        };
        let rows = [
            r#"{"b":"x;y","a":18446744073709551615,"c":null}"#,
            r#"{"a":1.50,"d":[1,"z"]}"#,
        ];
        assert_eq!(
            encode(&format(true), &rows, &[]).unwrap(),
            "a;b;c;d\n18446744073709551615;\"x;y\";;\n1.50;;;\"[1,\"\"z\"\"]\""
        );
        assert_eq!(
            encode(&format(false), &rows, &["d", "a"]).unwrap(),
            ";18446744073709551615\n\"[1,\"\"z\"\"]\";1.50"
        );
    }

    #[test]
    fn a_form_has_a_pair_for_each_column_and_keeps_every_digit() {
        let row = r#"{"a b":"x&y=ö","n":18446744073709551615,"c":null,"d":[1,"z"],"e":true}"#;
        assert_eq!(
            encode(&OutputFormat::Urlencoded, &[row], &[]).unwrap(),
            "a+b=x%26y%3D%C3%B6&n=18446744073709551615&c=&d=%5B1%2C%22z%22%5D&e=true"
        );
        assert_eq!(
            encode(&OutputFormat::Urlencoded, &[row], &["n", "nope"]).unwrap(),
            "n=18446744073709551615"
        );
        assert!(encode(&OutputFormat::Urlencoded, &[row, row], &[]).is_err());
    }

    #[test]
    fn binary_gives_back_the_bytes_of_self() {
        assert_eq!(
            encode(&OutputFormat::Binary, &[r#"{"self":"AWFiYw=="}"#], &[]).unwrap(),
            "\u{1}abc"
        );
        assert!(
            encode(&OutputFormat::Binary, &[r#"{"x":1}"#], &[])
                .unwrap_err()
                .contains("self")
        );
        assert!(
            encode(&OutputFormat::Binary, &[r#"{"self":"?"}"#], &[])
                .unwrap_err()
                .contains("base64")
        );
    }

    #[test]
    fn compressed_payloads_open_with_their_own_method() {
        let payload = b"{\"a\":1}".repeat(100);
        for (name, method) in METHODS {
            for level in [None, Some(1), Some(9)] {
                let packed = Compression { method, level }.apply(&payload).unwrap();
                assert!(packed.len() < payload.len(), "{name}");
                let mut open = Vec::new();
                match method {
                    Method::Gzip => flate2::read::GzDecoder::new(&*packed)
                        .read_to_end(&mut open)
                        .unwrap(),
                    Method::Zlib => flate2::read::ZlibDecoder::new(&*packed)
                        .read_to_end(&mut open)
                        .unwrap(),
                    Method::Flate => flate2::read::DeflateDecoder::new(&*packed)
                        .read_to_end(&mut open)
                        .unwrap(),
                    Method::Zstd => {
                        open = zstd::bulk::decompress(&packed, 10_000).unwrap();
                        open.len()
                    }
                };
                assert_eq!(open, payload, "{name}");
            }
        }
    }
}
