//! One request and its answer over a link that is up: headers put together, redirects followed within
//! the base, the body read with a bound. Decides nothing about the link.

use std::future::poll_fn;
use std::pin::pin;

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Body, Client, Method, Request, Response, StatusCode};
use tokio::runtime::Handle;
use url::Url;

use super::address::Base;
use super::config::FRAMING;
use super::failure;
use crate::connections::{HttpHead, HttpResponse};
use crate::error::ConnectionError;

/// Redirects of one request.
const REDIRECTS: usize = 5;

/// The head of requests, checked and put together once for many of them.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    method: Method,
    url: Url,
    headers: HeaderMap,
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
        Ok(Self {
            method,
            url,
            headers,
        })
    }
}

/// Sends it and reads the answer, `most` bytes of its body.
///
/// # Errors
/// No answer, or one that redirects to where the connection may not go.
pub(super) async fn exchange(
    client: &Client,
    base: &Base,
    prepared: &Prepared,
    body: Bytes,
    most: usize,
) -> Result<HttpResponse, ConnectionError> {
    let (mut method, mut body) = (prepared.method.clone(), body);
    let mut response = send(client, prepared, prepared.url.clone(), &method, &body).await?;
    let mut url = None;
    for _ in 0..REDIRECTS {
        let status = response.status();
        let Some(location) = followed(status, &method, &response) else {
            return read(response, most).await;
        };
        let from = url.as_ref().unwrap_or(&prepared.url);
        let target = base.redirect(from, &location).map_err(|masked| {
            ConnectionError::transient(
                "http:redirect",
                format!(
                    "the server redirects (HTTP {}) to {masked}, which is not below the connection's URL",
                    status.as_u16()
                ),
            )
        })?;
        if status == StatusCode::SEE_OTHER && method != Method::HEAD {
            (method, body) = (Method::GET, Bytes::new());
        }
        response = send(client, prepared, target.clone(), &method, &body).await?;
        url = Some(target);
    }
    if followed(response.status(), &method, &response).is_some() {
        return Err(ConnectionError::transient(
            "http:redirects",
            format!("the server redirects more than {REDIRECTS} times"),
        ));
    }
    read(response, most).await
}

/// Where to, if this answer is followed (RFC 9110, section 15.4). 301 and 302 are not for methods that
/// change something: clients turn these into GET, and what was to be written would be lost.
fn followed(status: StatusCode, method: &Method, response: &Response) -> Option<String> {
    let follow = match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT | StatusCode::SEE_OTHER => {
            true
        }
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => {
            matches!(*method, Method::GET | Method::HEAD)
        }
        _ => false,
    };
    let location = follow.then(|| response.headers().get(LOCATION))??;
    Some(String::from_utf8_lossy(location.as_bytes()).into_owned())
}

async fn send(
    client: &Client,
    prepared: &Prepared,
    url: Url,
    method: &Method,
    body: &Bytes,
) -> Result<Response, ConnectionError> {
    let mut request = Request::new(method.clone(), url);
    *request.headers_mut() = prepared.headers.clone();
    if !body.is_empty() {
        *request.body_mut() = Some(Body::from(body.clone()));
    }
    client.execute(request).await.map_err(failure::of)
}

async fn read(mut response: Response, most: usize) -> Result<HttpResponse, ConnectionError> {
    let headers = response.headers().iter();
    let headers = headers
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect();
    let status = response.status().as_u16();
    let (body, truncated) = failure::body(&mut response, most).await?;
    Ok(HttpResponse {
        status,
        headers,
        body,
        truncated,
    })
}

/// Polls it within a runtime: what it spawns (the tasks of its sockets) runs there, and not among the
/// guests that wait for it.
pub(super) async fn within<T>(handle: &Handle, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|context| {
        let _entered = handle.enter();
        future.as_mut().poll(context)
    })
    .await
}
