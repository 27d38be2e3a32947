//! One request and its answer over a link that is up: headers put together, redirects followed within
//! the base, the body read with a bound. Decides nothing about the link.

use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, LOCATION, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use url::Url;

use super::address::Base;
use super::config::FRAMING;
use super::sockets::{Answer, Head, Sockets};
use super::unpack::unpack;
use crate::connections::{HttpHead, HttpResponse};
use crate::error::ConnectionError;

/// Redirects of one request.
const REDIRECTS: usize = 5;

/// The head of requests, checked and put together once for many of them.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    url: Url,
    head: Head,
    /// See [`HttpHead::brief`].
    brief: bool,
}

impl Prepared {
    /// A head below `base`; the headers of the connection go before its own of the same name.
    ///
    /// # Errors
    /// `denied`: the path leaves the base. `permanent`: it cannot be sent.
    pub(super) fn new(
        head: &HttpHead,
        base: &Base,
        own: &HeaderMap,
    ) -> Result<Self, ConnectionError> {
        let url = base.below(&head.path)?;
        let method = Method::from_bytes(head.method.as_bytes())
            .ok()
            .filter(|method| *method != Method::CONNECT && *method != Method::TRACE)
            .ok_or_else(|| {
                let method: String = head.method.chars().take(20).collect();
                ConnectionError::permanent(
                    "http:method",
                    format!("\"{method}\" is no method that is sent"),
                )
            })?;
        let mut headers = HeaderMap::with_capacity(head.headers.len() + own.len());
        for (name, value) in &head.headers {
            let unfit = |what: &str| {
                let name: String = name.chars().take(60).collect();
                ConnectionError::permanent("http:header", format!("header \"{name}\" {what}"))
            };
            let name: HeaderName = name.parse().map_err(|_| unfit("has no valid name"))?;
            if FRAMING.contains(&name.as_str()) {
                return Err(unfit("is set by the connection itself"));
            }
            let value = HeaderValue::from_str(value)
                .map_err(|_| unfit("holds what cannot be sent in a header"))?;
            if !own.contains_key(&name) {
                headers.append(name, value);
            }
        }
        headers.extend(
            own.iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        let brief = head.brief;
        let head = Head::new(method, &url, &base.authority(), headers)?;
        Ok(Self { url, head, brief })
    }
}

/// Sends it and reads the answer, `most` bytes of its body.
///
/// # Errors
/// No answer, or one that redirects to where the connection may not go.
pub(super) async fn exchange(
    sockets: &Sockets,
    base: &Base,
    prepared: &Prepared,
    body: Bytes,
    most: usize,
) -> Result<HttpResponse, ConnectionError> {
    let answer = sockets.send(&prepared.head, &body, most).await?;
    match followed(answer.status, prepared.head.method(), &answer) {
        None => read(answer, most, prepared.brief).await,
        Some(location) => follow(sockets, base, prepared, body, most, (answer, location)).await,
    }
}

/// Follows an answer to where it redirects to, and further.
async fn follow(
    sockets: &Sockets,
    base: &Base,
    prepared: &Prepared,
    mut body: Bytes,
    most: usize,
    (mut answer, mut location): (Answer, String),
) -> Result<HttpResponse, ConnectionError> {
    let (mut head, mut url) = (prepared.head.clone(), prepared.url.clone());
    for _ in 0..REDIRECTS {
        let status = answer.status;
        url = base.redirect(&url, &location).map_err(|masked| {
            ConnectionError::transient(
                "http:redirect",
                format!(
                    "the server redirects (HTTP {}) to {masked}, which is not below the connection's URL",
                    status.as_u16()
                ),
            )
        })?;
        let mut method = head.method().clone();
        if status == StatusCode::SEE_OTHER && method != Method::HEAD {
            (method, body) = (Method::GET, Bytes::new());
        }
        head = head.moved(method, &url)?;
        answer = sockets.send(&head, &body, most).await?;
        match followed(answer.status, head.method(), &answer) {
            None => return read(answer, most, prepared.brief).await,
            Some(next) => location = next,
        }
    }
    Err(ConnectionError::transient(
        "http:redirects",
        format!("the server redirects more than {REDIRECTS} times"),
    ))
}

/// Where to, if this answer is followed (RFC 9110, section 15.4). 301 and 302 are not for methods that
/// change something: clients turn these into GET, and what was to be written would be lost.
fn followed(status: StatusCode, method: &Method, answer: &Answer) -> Option<String> {
    let follow = match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT | StatusCode::SEE_OTHER => {
            true
        }
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => {
            matches!(*method, Method::GET | Method::HEAD)
        }
        _ => false,
    };
    let location = follow.then(|| answer.headers.get(LOCATION))??;
    Some(String::from_utf8_lossy(location.as_bytes()).into_owned())
}

async fn read(
    mut answer: Answer,
    most: usize,
    brief: bool,
) -> Result<HttpResponse, ConnectionError> {
    unpack(&mut answer, most).await?;
    if brief && answer.status.is_success() {
        answer.headers = HeaderMap::new();
    }
    let headers = answer.headers.iter();
    let headers = headers
        .filter(|(name, _)| !of_the_socket(name))
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect();
    Ok(HttpResponse {
        status: answer.status.as_u16(),
        headers,
        body: answer.body,
        truncated: answer.truncated,
    })
}

/// What is between the server and this host only (RFC 9110, section 7.6.1).
fn of_the_socket(name: &HeaderName) -> bool {
    *name == CONNECTION || *name == TRANSFER_ENCODING || name.as_str() == "keep-alive"
}
