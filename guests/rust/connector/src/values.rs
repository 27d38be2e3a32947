//! Values of a database's rows as JSON.

use crate::sql::Value;

impl Value {
    /// Appends it as JSON. 64-bit integers and text keep every digit and character; bytes are base64;
    /// a float that JSON has no number for is the text `NaN`, `Infinity` or `-Infinity`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Boolean(true) => out.extend_from_slice(b"true"),
            Self::Boolean(false) => out.extend_from_slice(b"false"),
            Self::Integer(value) => write_json(out, value),
            Self::Real(value) => match not_a_number(*value) {
                None => write_json(out, value),
                Some(word) => write_json_text(out, word),
            },
            Self::Text(value) => write_json_text(out, value),
            Self::Blob(value) => {
                out.push(b'"');
                out.extend_from_slice(base64_encode(value).as_bytes());
                out.push(b'"');
            }
        }
    }
}

/// Appends a text as JSON, in quotes.
pub fn write_json_text(out: &mut Vec<u8>, text: &str) {
    write_json(out, text);
}

/// Numbers and texts always have a place in JSON, and memory takes all.
fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.extend_from_slice(b"null");
    }
}

/// The word for a float that JSON has no number for. Databases read it as that float.
#[must_use]
pub fn not_a_number(value: f64) -> Option<&'static str> {
    match value {
        value if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

const ALPHABET: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes as base64 (RFC 4648), with padding.
#[must_use]
pub fn base64_encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().skip(1).zip(group) {
            *to = *from;
        }
        let bits = u32::from_be_bytes(word);
        for place in 0..4 {
            let six = (bits >> (18 - 6 * place)) & 63;
            let digit = ALPHABET.get(six as usize).copied().unwrap_or(b'=');
            out.push(if place > group.len() {
                '='
            } else {
                digit.into()
            });
        }
    }
    out
}

/// What [`base64_encode`] wrote. None: it is no base64.
#[must_use]
pub fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for group in digits.as_bytes().chunks(4) {
        let mut bits = 0;
        for digit in group {
            let six = ALPHABET.iter().position(|known| known == digit)?;
            bits = bits << 6 | u32::try_from(six).ok()?;
        }
        bits <<= 6 * (4 - group.len());
        out.extend(bits.to_be_bytes().into_iter().skip(1).take(group.len() - 1));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_through_base64_and_back() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"\xff\xfe\xfd\xfc", "//79/A=="),
        ] {
            assert_eq!(base64_encode(bytes), text);
            assert_eq!(base64_decode(text).as_deref(), Some(bytes));
        }
        for text in ["Z", "Zg=", "Z===", "Zm9v=", "Zm 9"] {
            assert_eq!(base64_decode(text), None, "{text}");
        }
    }
}
