//! What a request is answered: a status, and for everything but success one JSON object
//! `{"error": <status>, "message": "..."}`.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};
use serde_json::json;

use super::BodyError;

/// A response with its whole body.
pub type Response = hyper::Response<Full<Bytes>>;

/// An answer on its way to a [`Response`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    message: String,
    retry_after: Option<u64>,
}

impl Answer {
    /// A status with a sentence for people.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            retry_after: None,
        }
    }

    /// 503: the same request may succeed in so many seconds.
    pub fn unavailable(message: impl Into<String>, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::new(503, message)
        }
    }

    /// 200 with the body `ok`, as eKuiper has it.
    #[must_use]
    pub fn ok() -> Response {
        plain(200, "text/plain; charset=utf-8", Bytes::from_static(b"ok"))
    }

    /// 405 with the methods that are allowed.
    #[must_use]
    pub fn method_not_allowed(allowed: &[Method]) -> Response {
        let names: Vec<_> = allowed.iter().map(Method::as_str).collect();
        let names = names.join(", ");
        let sentence = format!("this path takes {names}");
        set(
            Self::new(405, sentence).response(),
            ALLOW,
            HeaderValue::from_str(&names).ok(),
        )
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The response.
    #[must_use]
    pub fn response(&self) -> Response {
        let body = json!({ "error": self.status, "message": self.message }).to_string();
        let response = plain(self.status, "application/json", Bytes::from(body));
        let response = set(
            response,
            RETRY_AFTER,
            self.retry_after.map(HeaderValue::from),
        );
        let challenge = (self.status == 401).then(|| HeaderValue::from_static("Bearer"));
        set(response, hyper::header::WWW_AUTHENTICATE, challenge)
    }

    /// The response, after which the connection is closed: the rest of the request is not read.
    #[must_use]
    pub fn close(&self) -> Response {
        let close = HeaderValue::from_static("close");
        set(self.response(), CONNECTION, Some(close))
    }
}

impl BodyError {
    /// What the client is told.
    #[must_use]
    pub fn answer(&self) -> Answer {
        match self {
            Self::NoRoom => Answer::unavailable(self.to_string(), 1),
            _ => Answer::new(self.status(), self.to_string()),
        }
    }
}

fn plain(status: u16, content_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    set(
        response,
        CONTENT_TYPE,
        Some(HeaderValue::from_static(content_type)),
    )
}

fn set(mut response: Response, name: HeaderName, value: Option<HeaderValue>) -> Response {
    if let Some(value) = value {
        response.headers_mut().insert(name, value);
    }
    response
}
