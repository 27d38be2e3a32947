//! Revisions as ETags, and the conditions of a request (RFC 9110, 8.8.3 and 13.1). Knows no resource.
//!
//! A handler that changes a definition takes [`Conditions`] and asks [`Conditions::may_change`] with
//! the revision that is there, under the lock that holds it.

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{ObjectBuilder, Required, Type};

use super::error::{ApiError, Code};
use super::json::Json;

/// The most tags in one condition; nobody means more.
const MOST: usize = 64;
/// The header that names what may be changed.
pub(super) const IF_MATCH: &str = "If-Match";
/// The header that names what is there already.
const IF_NONE_MATCH: &str = "If-None-Match";

/// The header `ETag` of a revision.
#[must_use]
pub fn etag(revision: u64) -> (HeaderName, HeaderValue) {
    let tag = HeaderValue::from_str(&format!("\"{revision}\""));
    (ETAG, tag.unwrap_or(HeaderValue::from_static("\"0\"")))
}

/// A list of tags, or any.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    Any,
    /// Weak or not, and what stands between the quotes.
    Listed(Vec<(bool, String)>),
}

impl Tags {
    /// Strong comparison (RFC 9110, 8.8.3.2): a weak tag is equal to nothing.
    fn strongly(&self, revision: u64) -> bool {
        self.has(revision, false)
    }

    fn weakly(&self, revision: u64) -> bool {
        self.has(revision, true)
    }

    fn has(&self, revision: u64, weak_counts: bool) -> bool {
        let revision = revision.to_string();
        match self {
            Self::Any => true,
            Self::Listed(tags) => tags
                .iter()
                .any(|(weak, tag)| *tag == revision && (weak_counts || !weak)),
        }
    }
}

/// `If-Match` and `If-None-Match` of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    matches: Option<Tags>,
    none: Option<Tags>,
}

impl Conditions {
    /// Whether the thing may be changed (or made, or deleted), given its revision; None: it is not there.
    ///
    /// # Errors
    /// 412, with what is there.
    pub fn may_change(&self, revision: Option<u64>) -> Result<(), ApiError> {
        match (&self.matches, revision) {
            (None, _) => {}
            (Some(_), None) => {
                return Err(ApiError::precondition_failed("If-Match: it does not exist"));
            }
            (Some(tags), Some(revision)) if tags.strongly(revision) => {}
            (Some(_), Some(revision)) => {
                return Err(changed("If-Match: it was changed", revision));
            }
        }
        match (&self.none, revision) {
            (Some(tags), Some(revision)) if tags.weakly(revision) => {
                Err(changed("If-None-Match: it is there", revision))
            }
            _ => Ok(()),
        }
    }

    /// Answers a definition with its revision; 304, if the client has it already.
    pub fn show(&self, revision: u64, definition: impl Serialize) -> Response {
        if self.none.as_ref().is_some_and(|tags| tags.weakly(revision)) {
            return (StatusCode::NOT_MODIFIED, [etag(revision)]).into_response();
        }
        ([etag(revision)], Json(definition)).into_response()
    }
}

/// How they are described: as the headers that they are.
impl IntoParams for Conditions {
    fn into_params(_inside: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let header = |name: &str| {
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Header)
                .required(Required::False)
                .description(Some("A revision as `ETag` gave it, or `*`"))
                .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
                .build()
        };
        [IF_MATCH, IF_NONE_MATCH].map(header).into()
    }
}

fn changed(what: &str, revision: u64) -> ApiError {
    let (name, value) = etag(revision);
    let error = ApiError::precondition_failed(format!("{what}; its revision is \"{revision}\""));
    error.with(name, value.to_str().unwrap_or_default())
}

impl<S: Send + Sync> FromRequestParts<S> for Conditions {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Ok(Self {
            matches: tags(&parts.headers, IF_MATCH)?,
            none: tags(&parts.headers, IF_NONE_MATCH)?,
        })
    }
}

fn tags(headers: &HeaderMap, name: &str) -> Result<Option<Tags>, ApiError> {
    let mut listed = Vec::new();
    let mut any = false;
    for value in headers.get_all(name) {
        let wrong = || {
            let sentence = format!("{name} is a list of tags in double quotes, or *");
            ApiError::bad_request(Code::Undefined, sentence)
        };
        let mut rest = value.to_str().map_err(|_| wrong())?.trim();
        if rest == "*" {
            any = true;
            continue;
        }
        while !rest.is_empty() {
            let (weak, quoted) = match rest.strip_prefix("W/") {
                Some(quoted) => (true, quoted),
                None => (false, rest),
            };
            let inner = quoted.strip_prefix('"').ok_or_else(wrong)?;
            let (tag, after) = inner.split_once('"').ok_or_else(wrong)?;
            listed.push((weak, tag.to_owned()));
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(more) => more.trim_start(),
                None if after.is_empty() => after,
                None => return Err(wrong()),
            };
            if listed.len() > MOST {
                return Err(wrong());
            }
        }
    }
    Ok(match (any, listed.is_empty()) {
        (true, _) => Some(Tags::Any),
        (false, false) => Some(Tags::Listed(listed)),
        (false, true) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn conditions(headers: &[(&str, &str)]) -> Result<Conditions, ApiError> {
        let mut request = http::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        Conditions::from_request_parts(&mut parts, &()).await
    }

    #[tokio::test]
    async fn a_change_needs_the_revision_that_it_names() {
        let none = conditions(&[]).await.unwrap();
        assert!(none.may_change(None).is_ok() && none.may_change(Some(3)).is_ok());
        for (header, good) in [
            ("\"3\"", true),
            ("\"1\", \"3\"", true),
            ("*", true),
            ("\"4\"", false),
            ("W/\"3\"", false),
        ] {
            let one = conditions(&[("if-match", header)]).await.unwrap();
            assert_eq!(one.may_change(Some(3)).is_ok(), good, "{header}");
            assert_eq!(one.may_change(None).unwrap_err().status(), 412, "{header}");
        }
        let only_new = conditions(&[("if-none-match", "*")]).await.unwrap();
        assert!(only_new.may_change(None).is_ok());
        let error = only_new.may_change(Some(3)).unwrap_err();
        assert!(error.message().contains("\"3\""), "{error}");
    }

    #[tokio::test]
    async fn a_reader_that_has_the_revision_is_told_so() {
        let weak = conditions(&[("if-none-match", "\"1\",W/\"3\"")])
            .await
            .unwrap();
        let status = |revision| weak.show(revision, "it").status().as_u16();
        assert_eq!([status(3), status(1), status(2)], [304, 304, 200]);
    }

    #[tokio::test]
    async fn what_is_no_list_of_tags_is_refused() {
        for header in ["3", "\"3", "\"3\" \"4\"", "W\"3\"", "**"] {
            let error = conditions(&[("if-match", header)]).await.unwrap_err();
            assert_eq!(error.status(), 400, "{header}");
        }
        let many = vec!["\"1\""; 100].join(",");
        assert!(conditions(&[("if-match", &many)]).await.is_err());
    }
}
