//! What an answer means for its message.

use serde_json::Value;
use windlass_connector::http::Response;
use windlass_connector::{Error, retry_after_ms};

/// Bytes of an answer that stand in an error.
const SAID: usize = 512;

/// Reads answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judge {
    /// The answer is JSON, and the number in its field `code` counts as the status does.
    pub(crate) by_body: bool,
}

impl Judge {
    /// # Errors
    /// `transient`: try again. `permanent`: never.
    pub(crate) fn of(self, response: &Response) -> Result<(), Error> {
        if !is_success(response.status) {
            return Err(refused(response.status, response));
        }
        if !self.by_body {
            return Ok(());
        }
        let answer: Option<Value> = serde_json::from_slice(&response.body).ok();
        let code = answer
            .as_ref()
            .and_then(|answer| answer.get("code")?.as_u64())
            .and_then(|code| u16::try_from(code).ok());
        match code {
            Some(code) if is_success(code) => Ok(()),
            Some(code) => Err(refused(code, response)),
            None => Err(Error::permanent(
                "http:body",
                format!("the answer has no number \"code\": {}", said(response)),
            )),
        }
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// RFC 9110, section 15: these say that the same request may work later.
fn refused(status: u16, response: &Response) -> Error {
    let code = format!("http:{status}");
    let message = format!("HTTP {status}: {}", said(response));
    if !(matches!(status, 408 | 425 | 429) || status >= 500) {
        return Error::permanent(code, message);
    }
    let error = Error::transient(code, message);
    match retry_after_ms(&response.headers) {
        Some(wait) => error.retry_after(wait),
        None => error,
    }
}

/// The answer's body as text, cut.
pub(crate) fn said(response: &Response) -> String {
    let head = response.body.get(..SAID).unwrap_or(&response.body);
    let text = String::from_utf8_lossy(head);
    let text = text.trim();
    if text.is_empty() {
        return "no word about why".to_owned();
    }
    let more = response.truncated || response.body.len() > SAID;
    format!("{text}{}", if more { "..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::Kind;

    fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Response {
            status,
            headers: headers.iter().map(pair).collect(),
            body: body.as_bytes().to_vec(),
            truncated: false,
        }
    }

    #[test]
    fn a_status_says_whether_it_worked_and_whether_to_try_again() {
        let judge = Judge { by_body: false };
        for status in [200, 201, 204, 299] {
            assert_eq!(judge.of(&response(status, &[], "x")), Ok(()));
        }
        for (status, kind) in [
            (302, Kind::Permanent),
            (400, Kind::Permanent),
            (403, Kind::Permanent),
            (422, Kind::Permanent),
            (408, Kind::Transient),
            (425, Kind::Transient),
            (429, Kind::Transient),
            (500, Kind::Transient),
            (503, Kind::Transient),
        ] {
            let error = judge
                .of(&response(status, &[], "no such machine"))
                .unwrap_err();
            assert_eq!(
                (error.kind, error.code.as_str()),
                (kind, format!("http:{status}").as_str())
            );
            assert!(
                error.message.contains("no such machine"),
                "{}",
                error.message
            );
        }
        let error = judge
            .of(&response(429, &[("retry-after", "7")], ""))
            .unwrap_err();
        assert_eq!(error.retry_after_ms, Some(7000));
        let long = judge
            .of(&response(400, &[], &"x".repeat(2000)))
            .unwrap_err();
        assert!(long.message.len() < 600 && long.message.ends_with("..."));
    }

    #[test]
    fn a_body_may_have_the_last_word() {
        let judge = Judge { by_body: true };
        assert_eq!(judge.of(&response(200, &[], r#"{"code":200}"#)), Ok(()));
        for (body, kind) in [
            (r#"{"code":503}"#, Kind::Transient),
            (r#"{"code":400,"msg":"no"}"#, Kind::Permanent),
            (r#"{"status":"ok"}"#, Kind::Permanent),
            ("no json", Kind::Permanent),
        ] {
            let error = judge.of(&response(200, &[], body)).unwrap_err();
            assert_eq!(error.kind, kind, "{body}");
        }
    }
}
