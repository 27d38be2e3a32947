//! Takes an answer apart. Values stay as they were written: no digit of a number is lost.

use serde_json::Value;
use serde_json::value::RawValue;
use windlass_connector::http::Response;
use windlass_connector::{Error, retry_after_ms};

/// The elements of an answer.
#[derive(Debug)]
pub(crate) struct Answer<'a>(Vec<&'a RawValue>);

impl<'a> Answer<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn last(&self) -> Option<&'a RawValue> {
        self.0.last().copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a str> {
        self.0.iter().map(|element| element.get())
    }
}

/// An object is one element, a list has its own; nothing and null have none.
///
/// # Errors
/// `transient`: the answer is none. It is asked for again later, from the same position.
pub(crate) fn read(response: &Response, by_body: bool) -> Result<Answer<'_>, Error> {
    let failed = |code: String, message: String| {
        let error = Error::transient(code, message);
        match retry_after_ms(&response.headers) {
            Some(wait) => error.retry_after(wait),
            None => error,
        }
    };
    let status = response.status;
    if !(200..300).contains(&status) {
        return Err(failed(format!("http:{status}"), format!("HTTP {status}")));
    }
    if response.truncated {
        return Err(failed(
            "too-large".to_owned(),
            "the answer is larger than the connection lets through (maxBodyBytes)".to_owned(),
        ));
    }
    let body = response.body.trim_ascii();
    if body.is_empty() {
        return Ok(Answer(Vec::new()));
    }
    let broken = |error: serde_json::Error| {
        failed("json".to_owned(), format!("the answer is no JSON: {error}"))
    };
    let whole: &RawValue = serde_json::from_slice(body).map_err(broken)?;
    if by_body {
        let code = serde_json::from_str::<Value>(whole.get())
            .ok()
            .and_then(|answer| answer.get("code")?.as_u64());
        if !code.is_some_and(|code| (200..300).contains(&code)) {
            let code = code.map_or_else(|| "no number".to_owned(), |code| code.to_string());
            return Err(failed(
                "http:body".to_owned(),
                format!("the answer's field code is {code}"),
            ));
        }
    }
    match whole.get().bytes().next() {
        Some(b'[') => serde_json::from_str(whole.get())
            .map(Answer)
            .map_err(broken),
        Some(b'{') => Ok(Answer(vec![whole])),
        Some(b'n') => Ok(Answer(Vec::new())),
        _ => Err(failed(
            "json".to_owned(),
            "the answer is neither a JSON object nor a list".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response {
        Response {
            status,
            headers: vec![("retry-after".to_owned(), "2".to_owned())],
            body: body.as_bytes().to_vec(),
            truncated: false,
        }
    }

    fn elements(body: &str, by_body: bool) -> Result<Vec<String>, Error> {
        read(&response(200, body), by_body).map(|answer| answer.iter().map(str::to_owned).collect())
    }

    #[test]
    fn an_object_is_one_message_and_a_list_is_many_as_they_were_written() {
        for (body, wanted) in [
            (r#" {"a": 1.50} "#, vec![r#"{"a": 1.50}"#]),
            (
                r#"[{"a":18446744073709551615}, {"b":1e400}]"#,
                vec![r#"{"a":18446744073709551615}"#, r#"{"b":1e400}"#],
            ),
            ("[]", vec![]),
            ("null", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(elements(body, false).unwrap(), wanted, "{body}");
        }
        assert_eq!(elements(r#"{"code":201}"#, true).unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_answer_is_tried_again() {
        for (status, body) in [
            (500, ""),
            (404, "{}"),
            (200, "<html>"),
            (200, "3"),
            (200, "[1"),
        ] {
            let error = read(&response(status, body), false).unwrap_err();
            assert_eq!(
                error.kind,
                windlass_connector::Kind::Transient,
                "{status} {body}"
            );
            assert_eq!(error.retry_after_ms, Some(2000));
        }
        assert!(elements(r#"{"code":500}"#, true).is_err() && elements("[]", true).is_err());
        let cut = Response {
            truncated: true,
            ..response(200, "[]")
        };
        assert!(
            read(&cut, false)
                .unwrap_err()
                .message
                .contains("maxBodyBytes")
        );
    }
}
