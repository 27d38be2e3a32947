//! Messages as lines: the payload alone where it is text on one line, else a JSON object with
//! subject, payload (or base64) and headers. Reads nothing and prints nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::message::{Headers, Message};

/// A line that came in.
#[derive(Clone, Debug)]
pub struct Line {
    /// Counted from 1.
    pub number: u64,
    /// Without its end.
    pub text: Vec<u8>,
}

/// Appends a message with its line end.
pub(super) fn append(out: &mut Vec<u8>, message: &Message, json: bool) {
    let text = std::str::from_utf8(&message.payload).ok();
    match text {
        Some(text) if !json && !text.chars().any(|c| c.is_control() && c != '\t') => {
            out.extend_from_slice(text.as_bytes());
        }
        _ => out.extend_from_slice(envelope(message, text).to_string().as_bytes()),
    }
    out.push(b'\n');
}

fn envelope(message: &Message, text: Option<&str>) -> Value {
    let mut object = Map::new();
    if !message.subject.is_empty() {
        object.insert("subject".to_owned(), Value::from(&*message.subject));
    }
    match text {
        Some(text) => object.insert("payload".to_owned(), text.into()),
        None => object.insert(
            "base64".to_owned(),
            STANDARD.encode(&message.payload).into(),
        ),
    };
    let mut headers: Map<String, Value> = Map::new();
    for (name, value) in message.headers.pairs() {
        // A name that comes twice has a list.
        match headers.get_mut(name) {
            None => {
                headers.insert(name.clone(), Value::from(value.as_str()));
            }
            Some(Value::Array(values)) => values.push(Value::from(value.as_str())),
            Some(first) => *first = Value::from(vec![first.take(), Value::from(value.as_str())]),
        }
    }
    if !headers.is_empty() {
        object.insert("headers".to_owned(), Value::Object(headers));
    }
    Value::Object(object)
}

/// The message of a line: the line itself, or what the JSON object says.
///
/// # Errors
/// A sentence: it is no such object.
pub(super) fn message(line: Vec<u8>, json: bool) -> Result<Message, String> {
    if !json {
        return Ok(Message::new(line));
    }
    const SHAPE: &str =
        "{\"subject\": …, \"payload\": … or \"base64\": …, \"headers\": {…}} on one line";
    let Ok(Value::Object(mut object)) = serde_json::from_slice(&line) else {
        return Err(format!("it is not JSON of the form {SHAPE}"));
    };
    let payload = match (
        object.shift_remove("payload"),
        object.shift_remove("base64"),
    ) {
        (Some(Value::String(text)), None) => Bytes::from(text),
        (Some(value), None) => Bytes::from(value.to_string()),
        (None, Some(Value::String(text))) => Bytes::from(
            STANDARD
                .decode(text)
                .map_err(|error| format!("base64: {error}"))?,
        ),
        (None, Some(_)) => return Err("\"base64\" must be text".to_owned()),
        (Some(_), Some(_)) => return Err("\"payload\" and \"base64\" are both given".to_owned()),
        (None, None) => return Err(format!("it has no \"payload\"; the form is {SHAPE}")),
    };
    let subject = match object.shift_remove("subject") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(subject)) => subject,
        Some(_) => return Err("\"subject\" must be text".to_owned()),
    };
    let headers = match object.shift_remove("headers") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(headers)) => pairs(headers)?,
        Some(_) => return Err("\"headers\" must be an object of texts".to_owned()),
    };
    if let Some((odd, _)) = object.iter().next() {
        return Err(format!("unknown key \"{odd}\"; the form is {SHAPE}"));
    }
    Ok(Message {
        payload,
        subject: subject.into(),
        headers: Headers::from(headers),
        ..Message::default()
    })
}

fn pairs(headers: Map<String, Value>) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    for (name, value) in headers {
        let values = match value {
            Value::Array(values) => values,
            one => vec![one],
        };
        for value in values {
            match value {
                Value::String(text) => pairs.push((name.clone(), text)),
                _ => return Err(format!("header \"{name}\" must be text")),
            }
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(message: &Message, json: bool) -> String {
        let mut out = Vec::new();
        append(&mut out, message, json);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_on_one_line_stands_alone_and_anything_else_is_json() {
        let plain = Message {
            subject: "in/1".into(),
            ..Message::new("{\"a\":1}")
        };
        assert_eq!(shown(&plain, false), "{\"a\":1}\n");
        assert_eq!(
            shown(&plain, true),
            "{\"subject\":\"in/1\",\"payload\":\"{\\\"a\\\":1}\"}\n"
        );
        assert_eq!(
            shown(&Message::new("a\nb"), false),
            "{\"payload\":\"a\\nb\"}\n"
        );
        assert_eq!(
            shown(&Message::new(vec![0xff, 0]), false),
            "{\"base64\":\"/wA=\"}\n"
        );
        assert!(!shown(&Message::new("\u{1b}[2J"), false).contains('\u{1b}'));
    }

    #[test]
    fn what_is_written_with_json_is_read_with_json() {
        let pairs = [("a", "1"), ("b", "x"), ("a", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        for payload in [&b"text"[..], b"", b"a\nb", &[0, 255, 10]] {
            let sent = Message {
                payload: Bytes::copy_from_slice(payload),
                subject: "s".into(),
                headers: Headers::from(pairs.to_vec()),
                ..Message::default()
            };
            let line = shown(&sent, true);
            assert_eq!(line.matches('\n').count(), 1);
            let back = message(line.trim_end().as_bytes().to_vec(), true).unwrap();
            assert_eq!(
                (&back.payload, &back.subject),
                (&sent.payload, &sent.subject)
            );
            assert_eq!(back.headers.get("b"), Some("x"));
            assert_eq!(back.headers.pairs().len(), 3);
        }
    }

    #[test]
    fn a_payload_may_be_json_as_it_is_and_a_mistake_is_a_sentence() {
        let good = message(br#"{"payload": {"t": 1}}"#.to_vec(), true).unwrap();
        assert_eq!(&*good.payload, b"{\"t\":1}");
        for (line, words) in [
            ("no json", "not JSON"),
            ("{}", "no \"payload\""),
            (r#"{"payload": "a", "topic": "x"}"#, "unknown key \"topic\""),
            (r#"{"base64": "!"}"#, "base64"),
            (r#"{"payload": "a", "base64": "YQ=="}"#, "both"),
            (r#"{"payload": "a", "headers": {"a": 1}}"#, "header \"a\""),
        ] {
            let sentence = message(line.as_bytes().to_vec(), true).unwrap_err();
            assert!(sentence.contains(words), "{line}: {sentence}");
        }
    }
}
