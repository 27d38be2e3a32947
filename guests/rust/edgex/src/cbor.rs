//! CBOR (RFC 8949) as JSON text, so that one reader serves both. Integers keep all their digits, bytes
//! become base64 as EdgeX has them in JSON. Depth and length are bounded: what comes in is a stranger's.

use minicbor::data::Type;
use minicbor::decode::{Decoder, Error};
use windlass_connector::{base64_encode, write_json_text};

/// Values within values.
const DEEPEST: usize = 32;
/// Bytes of the text, for each byte of CBOR: a text of control characters grows by six, and a little
/// for what is short. A claim of a length that is not there ends at the input's own end.
const GROWS: usize = 8;

/// The document as JSON text.
///
/// # Errors
/// Why it is none, in a few words.
pub(crate) fn to_json(bytes: &[u8]) -> Result<String, String> {
    let mut decoder = Decoder::new(bytes);
    let mut out = Vec::new();
    let limit = bytes.len().saturating_mul(GROWS).saturating_add(64);
    value(&mut decoder, &mut out, limit, 0)?;
    if decoder.position() < bytes.len() {
        return Err("something follows the CBOR value".to_owned());
    }
    String::from_utf8(out).map_err(|_| "a text is not UTF-8".to_owned())
}

fn value(
    decoder: &mut Decoder<'_>,
    out: &mut Vec<u8>,
    limit: usize,
    depth: usize,
) -> Result<(), String> {
    if depth > DEEPEST {
        return Err(format!("CBOR values are nested more than {DEEPEST} deep"));
    }
    if out.len() > limit {
        return Err("the CBOR value is too large".to_owned());
    }
    match decoder.datatype().map_err(words)? {
        Type::Bool => text(
            out,
            if decoder.bool().map_err(words)? {
                "true"
            } else {
                "false"
            },
        ),
        Type::Null => {
            decoder.null().map_err(words)?;
            text(out, "null");
        }
        Type::Undefined => {
            decoder.undefined().map_err(words)?;
            text(out, "null");
        }
        Type::U8
        | Type::U16
        | Type::U32
        | Type::U64
        | Type::I8
        | Type::I16
        | Type::I32
        | Type::I64
        | Type::Int => {
            let number = i128::from(decoder.int().map_err(words)?);
            text(out, &number.to_string());
        }
        Type::F16 => float(out, half(decoder)?),
        Type::F32 => float(out, f64::from(decoder.f32().map_err(words)?)),
        Type::F64 => float(out, decoder.f64().map_err(words)?),
        Type::Bytes => write_json_text(out, &base64_encode(decoder.bytes().map_err(words)?)),
        Type::BytesIndef => {
            let mut all = Vec::new();
            for part in decoder.bytes_iter().map_err(words)? {
                all.extend_from_slice(part.map_err(words)?);
            }
            write_json_text(out, &base64_encode(&all));
        }
        Type::String => write_json_text(out, decoder.str().map_err(words)?),
        Type::StringIndef => {
            let mut all = String::new();
            for part in decoder.str_iter().map_err(words)? {
                all.push_str(part.map_err(words)?);
            }
            write_json_text(out, &all);
        }
        Type::Array | Type::ArrayIndef => {
            let length = decoder.array().map_err(words)?;
            many(decoder, out, length, (b'[', b']'), |decoder, out| {
                value(decoder, out, limit, depth + 1)
            })?;
        }
        Type::Map | Type::MapIndef => {
            let length = decoder.map().map_err(words)?;
            many(decoder, out, length, (b'{', b'}'), |decoder, out| {
                name(decoder, out)?;
                out.push(b':');
                value(decoder, out, limit, depth + 1)
            })?;
        }
        // What a tag says of a value (a time, a URI) is nothing that JSON could say.
        Type::Tag => {
            decoder.tag().map_err(words)?;
            value(decoder, out, limit, depth + 1)?;
        }
        other => return Err(format!("CBOR of type {other} has no place in JSON")),
    }
    Ok(())
}

fn many(
    decoder: &mut Decoder<'_>,
    out: &mut Vec<u8>,
    length: Option<u64>,
    (open, close): (u8, u8),
    mut one: impl FnMut(&mut Decoder<'_>, &mut Vec<u8>) -> Result<(), String>,
) -> Result<(), String> {
    out.push(open);
    let mut count = 0;
    // Each turn reads at least a byte: a length that is too long ends with the input.
    while length.is_none_or(|length| count < length) {
        if length.is_none() && decoder.datatype().map_err(words)? == Type::Break {
            decoder.skip().map_err(words)?;
            break;
        }
        if count > 0 {
            out.push(b',');
        }
        one(decoder, out)?;
        count += 1;
    }
    out.push(close);
    Ok(())
}

/// A map's key: a text, or a number written as one.
fn name(decoder: &mut Decoder<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    match decoder.datatype().map_err(words)? {
        Type::String => write_json_text(out, decoder.str().map_err(words)?),
        Type::U8
        | Type::U16
        | Type::U32
        | Type::U64
        | Type::I8
        | Type::I16
        | Type::I32
        | Type::I64
        | Type::Int => {
            let number = i128::from(decoder.int().map_err(words)?);
            write_json_text(out, &number.to_string());
        }
        other => return Err(format!("a key of a CBOR map is of type {other}")),
    }
    Ok(())
}

/// A float of 16 bits (RFC 8949, appendix D).
fn half(decoder: &mut Decoder<'_>) -> Result<f64, String> {
    let at = decoder.position();
    let bytes = decoder.input().get(at + 1..at + 3);
    let Some(&[high, low]) = bytes else {
        return Err("it is not valid CBOR: a float is cut".to_owned());
    };
    decoder.set_position(at + 3);
    let bits = u16::from_be_bytes([high, low]);
    let fraction = f64::from(bits & 0x3ff) / 1024.0;
    let value = match i32::from(bits >> 10 & 0x1f) {
        0 => fraction * 2_f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1.0 + fraction) * 2_f64.powi(exponent - 15),
    };
    Ok(if bits >> 15 == 0 { value } else { -value })
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn float(out: &mut Vec<u8>, value: f64) {
    match serde_json::Number::from_f64(value) {
        Some(number) => text(out, &number.to_string()),
        None => text(out, "null"),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn words(error: Error) -> String {
    format!("it is not valid CBOR: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_keep_all_their_bits_and_bytes_become_base64() {
        for (bytes, json) in [
            (
                &[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..],
                "18446744073709551615",
            ),
            (
                &[0x3b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                "-9223372036854775808",
            ),
            (
                &[0x1b, 0x18, 0x6c, 0xc6, 0xac, 0xd4, 0xb0, 0x00, 0x01],
                "1760000000000000001",
            ),
            (&[0x43, 1, 2, 3], "\"AQID\""),
            (&[0x5f, 0x41, 1, 0x42, 2, 3, 0xff], "\"AQID\""),
            (
                &[0xa1, 0x61, b'a', 0x82, 0xf5, 0xf6],
                r#"{"a":[true,null]}"#,
            ),
            (
                &[
                    0xbf, 0x61, b'a', 0x9f, 1, 0xff, 0x62, b'"', b'b', 0xf9, 0x3e, 0x00, 0xff,
                ],
                r#"{"a":[1],"\"b":1.5}"#,
            ),
            (&[0xd9, 0xd9, 0xf7, 0x01], "1"),
            (&[0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0], "null"),
            (&[0xa1, 0x01, 0x02], r#"{"1":2}"#),
        ] {
            assert_eq!(to_json(bytes).unwrap(), json, "{bytes:02x?}");
        }
    }

    #[test]
    fn what_is_cut_nested_or_claims_too_much_is_refused() {
        let deep: Vec<u8> = std::iter::repeat_n(0x81, 10_000).chain([1]).collect();
        let tags: Vec<u8> = std::iter::repeat_n(0xc1, 10_000).chain([1]).collect();
        let open: Vec<u8> = std::iter::repeat_n(0x9f, 10_000).collect();
        for bytes in [
            &[][..],
            &[0xff],
            &[0x1b, 1],
            &[0xf9, 0x3e],
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x61, 0xff],
            &[0xa1, 0x80, 1],
            &[1, 2],
            &[0x9f, 1],
            &deep,
            &tags,
            &open,
        ] {
            assert!(
                to_json(bytes).is_err(),
                "{:02x?}",
                bytes.get(..12).unwrap_or(bytes)
            );
        }
    }
}
