//! The envelope on NATS (go-mod-messaging, `nats/marshaller.go`, format `nats`): its fields are headers
//! and the payload is the body. The connector writes an envelope in JSON for every bus; here it is
//! taken apart. What is none goes out as it is.

use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::message::{Headers, Message};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(default)]
    api_version: String,
    #[serde(default, rename = "correlationID")]
    correlation_id: String,
    #[serde(default, rename = "requestID")]
    request_id: String,
    #[serde(default)]
    error_code: i64,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default)]
    content_type: String,
}

/// The message with its envelope as headers. The payload keeps every byte that it has in the envelope.
pub(super) fn headers(message: Message) -> Message {
    let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(&message.payload) else {
        return message;
    };
    let text = envelope.payload.get();
    let body = if text.starts_with('"') {
        let decoded = serde_json::from_str::<String>(text)
            .ok()
            .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        match decoded {
            Some(bytes) => Bytes::from(bytes),
            None => return message,
        }
    } else {
        Bytes::copy_from_slice(text.as_bytes())
    };
    let mut headers = message.headers.pairs().to_vec();
    let fields = [
        ("X-Correlation-ID", envelope.correlation_id),
        ("Content-Type", envelope.content_type),
        ("RequestId", envelope.request_id),
        ("ApiVersion", envelope.api_version),
        ("ErrorCode", envelope.error_code.to_string()),
    ];
    headers.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    Message {
        payload: body,
        headers: Headers::from(headers),
        ..message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_becomes_headers_and_its_payload_keeps_every_digit() {
        let text = r#"{"apiVersion":"v3","correlationID":"c","requestID":"","errorCode":0,"payload":{"origin":1760000000000000001,"f":1.0},"contentType":"application/json"}"#;
        let framed = headers(Message::new(text));
        assert_eq!(
            &*framed.payload,
            br#"{"origin":1760000000000000001,"f":1.0}"#
        );
        assert_eq!(framed.headers.get("X-Correlation-ID"), Some("c"));
        assert_eq!(framed.headers.get("Content-Type"), Some("application/json"));
        let base64 = headers(Message::new(r#"{"payload":"eyJhIjoxfQ=="}"#));
        assert_eq!(&*base64.payload, br#"{"a":1}"#);
        for none in ["nonsense", "{}", r#"{"payload":"no base64"}"#] {
            let same = headers(Message::new(none));
            assert_eq!(&*same.payload, none.as_bytes());
            assert!(same.headers.pairs().is_empty());
        }
    }
}
