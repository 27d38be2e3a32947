//! What a request that fails is answered: a status and eKuiper's envelope
//! `{"error":<code>,"message":"..."}`, a newline behind it. Knows no resource.
//!
//! Unlike eKuiper's, it is JSON whatever the message holds, and says so in `Content-Type`.

use std::fmt;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::connections::listener::body::BodyError;

/// eKuiper's numbers (`pkg/errorx/error_code.go`). Its clients match on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Anything without a number of its own.
    Undefined = 1000,
    /// A general failure.
    General = 1001,
    /// There is no such thing.
    NotFound = 1002,
    /// The network, a disk.
    Io = 1003,
    /// A query or a stream that cannot be read.
    Parser = 2001,
    /// A query that cannot be planned.
    Plan = 2101,
    /// A stream or a table.
    Stream = 3000,
    /// A rule.
    Rule = 4000,
    /// A conf key.
    ConfKey = 5000,
}

/// The body of every answer that is no success.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Envelope {
    /// eKuiper's number for the kind of failure.
    #[schema(example = 1002)]
    pub error: u32,
    /// What is wrong, for people.
    #[schema(example = "connection \"plant\" not existed")]
    pub message: String,
}

/// A request that fails, and how.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    code: Code,
    message: String,
    /// Boxed: most errors have none.
    headers: Option<Box<HeaderMap>>,
}

impl ApiError {
    /// A status, eKuiper's number and a sentence for people.
    pub fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            headers: None,
        }
    }

    /// 400.
    pub fn bad_request(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 400 for a body that cannot be read, with eKuiper's beginning.
    pub fn invalid_body(why: impl fmt::Display) -> Self {
        Self::bad_request(Code::Undefined, format!("Invalid body: {why}"))
    }

    /// 404: there is nothing of that name.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NotFound, message)
    }

    /// 405 with what is allowed.
    #[must_use]
    pub fn method_not_allowed(method: &Method) -> Self {
        let message = format!("this path does not take {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Code::Undefined, message)
    }

    /// 409: what is there stands in the way.
    pub fn conflict(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// 412: it was changed since the client read it (`If-Match`), or is there (`If-None-Match: *`).
    pub fn precondition_failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, Code::Undefined, message)
    }

    /// 401: the token is missing or not good.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Code::Undefined, message)
            .with(WWW_AUTHENTICATE, "Bearer")
    }

    /// 403: the client may not do that.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, Code::Undefined, message)
    }

    /// 503: the same request may succeed in so many seconds.
    pub fn unavailable(message: impl Into<String>, seconds: u32) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Undefined, message)
            .with(RETRY_AFTER, &seconds.to_string())
    }

    /// 500: this host's own fault. What it was stands in the log, not here.
    #[must_use]
    pub fn internal() -> Self {
        let message = "this host has made a mistake; its log says more";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::General, message)
    }

    /// The same with words before the message: `create connection failed: ...`.
    #[must_use]
    pub fn within(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The same with a header; one that cannot be one is left out.
    #[must_use]
    pub fn with(mut self, name: http::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.get_or_insert_default().insert(name, value);
        }
        self
    }

    /// The same, and the connection is closed behind it: the rest of the request is not read.
    #[must_use]
    pub fn close(self) -> Self {
        self.with(CONNECTION, "close")
    }

    /// The same with the methods that the path takes.
    #[must_use]
    pub fn allow(self, methods: &str) -> Self {
        self.with(ALLOW, methods)
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// eKuiper's number.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// Its sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let message = error.to_string();
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
        match error {
            BodyError::NoRoom => Self::unavailable(message, 1),
            _ => Self::new(status, Code::Undefined, message),
        }
        .within("Invalid body")
        .close()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let envelope = Envelope {
            error: self.code as u32,
            message: self.message,
        };
        // A number and a text can always be written.
        let mut body = serde_json::to_vec(&envelope).unwrap_or_default();
        body.push(b'\n');
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        if let Some(headers) = self.headers {
            *response.headers_mut() = *headers;
        }
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(error: ApiError) -> String {
        let body = error.into_response().into_body();
        let bytes = axum::body::to_bytes(body, 10_000).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_envelope_is_ekuipers_to_the_byte_and_always_json() {
        let error = ApiError::bad_request(Code::Undefined, "connection X not existed");
        assert_eq!(
            text(error.within("update connection failed")).await,
            "{\"error\":1000,\"message\":\"update connection failed: connection X not existed\"}\n"
        );
        let odd = text(ApiError::not_found("\u{1}\u{1f4a5}\"\\\u{7f}")).await;
        let value: serde_json::Value = serde_json::from_str(&odd).unwrap();
        assert_eq!(value["message"], "\u{1}\u{1f4a5}\"\\\u{7f}");
        assert_eq!(value["error"], 1002);
    }

    #[test]
    fn a_body_that_was_not_read_ends_the_connection() {
        let response = ApiError::from(BodyError::TooSlow).into_response();
        assert_eq!(response.status(), 408);
        assert_eq!(response.headers()["connection"], "close");
        let response = ApiError::from(BodyError::NoRoom).into_response();
        assert_eq!(response.headers()["retry-after"], "1");
    }
}
