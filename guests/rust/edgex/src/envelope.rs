//! The message envelope of EdgeX (go-mod-messaging, `types/message_envelope.go`): finds the payload in
//! it, whatever its version. v2 has the names of Go's fields, v3 and v4 camel case; names are read
//! without regard to case. The payload is inline (v4), or base64 of JSON or of CBOR (v2, v3); or the
//! whole envelope is one CBOR map (v4.1); or, on NATS, its fields are headers and the payload is the
//! body.

use std::borrow::Cow;

use serde_json::value::RawValue;
use windlass_connector::base64_decode;

use crate::cbor;
use crate::pairs::{self, Pairs};

/// Headers of NATS in place of an envelope (go-mod-messaging, `nats/marshaller.go`).
pub(crate) const CORRELATION: &str = "X-Correlation-ID";
/// The payload's kind there.
pub(crate) const CONTENT_TYPE: &str = "Content-Type";

/// What an envelope carries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The payload, JSON.
    pub(crate) payload: String,
    pub(crate) correlation: String,
}

/// Opens an envelope in the body. `headers` are correlation id and content type of NATS, empty if
/// there are none.
///
/// # Errors
/// Why it is none, or what it says went wrong at its sender.
pub(crate) fn open(body: &[u8], headers: (&str, &str)) -> Result<Opened, String> {
    let (correlation, content_type) = headers;
    if !content_type.is_empty() && !is_whole(body) {
        return Ok(Opened {
            payload: of_bytes(body, content_type)?,
            correlation: correlation.to_owned(),
        });
    }
    let text: Cow<'_, str> = if cbor_map(body) {
        cbor::to_json(body)?.into()
    } else {
        std::str::from_utf8(body)
            .map_err(|_| "it is neither UTF-8 nor CBOR".to_owned())?
            .into()
    };
    let envelope = pairs::parse(&text).map_err(|why| format!("it is no EdgeX envelope: {why}"))?;
    let payload = envelope
        .get_any_case("payload")
        .ok_or("it is no EdgeX envelope: it has no payload")?;
    let content_type = texts(&envelope, "contentType");
    let failed = envelope
        .get_any_case("errorCode")
        .is_some_and(|code| code.get() != "0");
    if failed {
        let words: String = payload.get().chars().take(200).collect();
        return Err(format!(
            "the envelope says that something failed at its sender: {words}"
        ));
    }
    Ok(Opened {
        payload: inner(payload, &content_type)?,
        correlation: texts(&envelope, "correlationID"),
    })
}

/// The body holds an envelope of its own, headers or not: JSON with a payload, as EdgeX writes it on
/// NATS with `Format: json`.
fn is_whole(body: &[u8]) -> bool {
    let Some(text) = std::str::from_utf8(body).ok().filter(|_| !cbor_map(body)) else {
        return false;
    };
    let known = |envelope: Pairs<'_>| {
        ["payload", "contentType", "errorCode"]
            .iter()
            .all(|name| envelope.get_any_case(name).is_some())
    };
    pairs::parse(text).is_ok_and(known)
}

fn texts(envelope: &Pairs<'_>, name: &str) -> String {
    envelope
        .get_any_case(name)
        .and_then(|value| serde_json::from_str(value.get()).ok())
        .unwrap_or_default()
}

/// The payload of an envelope: an object as it is; a text is base64, and JSON itself if it is not.
fn inner(payload: &RawValue, content_type: &str) -> Result<String, String> {
    if !payload.get().starts_with('"') {
        return Ok(payload.get().to_owned());
    }
    let text: String = serde_json::from_str(payload.get()).map_err(|error| error.to_string())?;
    match base64_decode(&text) {
        Some(bytes) => of_bytes(&bytes, content_type),
        None => Ok(text),
    }
}

fn of_bytes(bytes: &[u8], content_type: &str) -> Result<String, String> {
    if content_type.eq_ignore_ascii_case("application/cbor") || cbor_map(bytes) {
        return cbor::to_json(bytes);
    }
    String::from_utf8(bytes.to_vec())
        .map_err(|_| "its payload is neither UTF-8 nor CBOR".to_owned())
}

/// A CBOR map, or the tag that says "this is CBOR" (RFC 8949, 3.4.6): JSON never begins so.
fn cbor_map(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(0xa0..=0xbf)) || bytes.starts_with(&[0xd9, 0xd9, 0xf7])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_text(text: &str) -> Result<Opened, String> {
        open(text.as_bytes(), ("", ""))
    }

    #[test]
    fn the_payload_is_found_in_every_version() {
        let inline = r#"{"apiVersion":"v3","correlationID":"c","errorCode":0,"payload":{"a":1760000000000000001},"contentType":"application/json"}"#;
        let base64 = r#"{"apiVersion":"v3","correlationID":"c","errorCode":0,"payload":"eyJhIjoxfQ==","contentType":"application/json"}"#;
        let go_names = r#"{"ReceivedTopic":"","CorrelationID":"c","ApiVersion":"v2","ErrorCode":0,"Payload":"eyJhIjoxfQ==","ContentType":"application/json"}"#;
        let in_cbor = r#"{"correlationID":"c","errorCode":0,"payload":"oWFhAQ==","contentType":"application/cbor"}"#;
        let plain = r#"{"correlationID":"c","payload":"{\"a\":1}"}"#;
        assert_eq!(
            open_text(inline).unwrap().payload,
            r#"{"a":1760000000000000001}"#
        );
        for text in [base64, go_names, in_cbor, plain] {
            let opened = open_text(text).unwrap();
            assert_eq!(
                (opened.payload.as_str(), opened.correlation.as_str()),
                (r#"{"a":1}"#, "c"),
                "{text}"
            );
        }
        // The whole envelope as CBOR: {"correlationID": "c", "payload": {"a": 1}}, and with bytes as payload.
        let whole = b"\xa2\x6dcorrelationID\x61c\x67payload\xa1\x61a\x01";
        let bytes = b"\xa2\x6dcorrelationID\x61c\x67payload\x44\xa1\x61a\x01";
        for body in [&whole[..], bytes] {
            let opened = open(body, ("", "")).unwrap();
            assert_eq!(
                (opened.payload.as_str(), opened.correlation.as_str()),
                (r#"{"a":1}"#, "c")
            );
        }
        let headers = ("c", "application/json");
        assert_eq!(open(br#"{"a":1}"#, headers).unwrap().correlation, "c");
        assert_eq!(
            open(b"\xa1\x61a\x01", ("c", "application/cbor"))
                .unwrap()
                .payload,
            r#"{"a":1}"#
        );
        // On NATS with `Format: json` the body is the envelope, whatever headers there are.
        assert_eq!(
            open(base64.as_bytes(), ("x", "application/json"))
                .unwrap()
                .correlation,
            "c"
        );
    }

    #[test]
    fn what_is_no_envelope_or_carries_a_failure_is_refused() {
        for text in ["", "17", "[]", "{}", r#"{"a":1}"#, "nonsense", "\u{1}"] {
            let why = open_text(text).unwrap_err();
            assert!(why.contains("EdgeX envelope"), "{text}: {why}");
        }
        let why = open_text(r#"{"errorCode":1,"payload":"device d is locked"}"#).unwrap_err();
        assert!(why.contains("device d is locked"), "{why}");
        assert!(open(&[0xff, 0xfe], ("", "")).is_err());
        assert!(open(&[0xa1], ("", "")).is_err());
    }
}
