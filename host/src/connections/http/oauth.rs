//! Tokens: asking an endpoint for one, and when to ask again. eKuiper's `access` and `refresh`, and the
//! client credentials of RFC 6749, section 4.4. Keeps nothing: the link has the present token.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout};
use url::Url;

use super::address::{authority, endpoint};
use super::config::{Call, Grant, basic_value, seconds};
use super::sockets::{Answer, Head, Sockets};
use super::unpack::unpack;
use crate::error::{ConnectionError, ErrorKind};

/// The largest answer of a token endpoint.
const LARGEST: usize = 256 * 1024;
/// A token that is good for longer is taken to be good for so long.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A POST to a token endpoint.
struct Post {
    url: Url,
    headers: HeaderMap,
    body: Bytes,
}

/// What a token endpoint gave. Its fields are secrets.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) fields: Map<String, Value>,
    born: Instant,
    life: Option<Duration>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// When to ask for the next one: after half of its life, as eKuiper does. None: it says nothing of
    /// an end.
    pub(super) fn renew_at(&self) -> Option<Instant> {
        let half = (self.life? / 2).max(Duration::from_millis(500));
        Some(self.born + half)
    }

    /// It is not good any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.life.is_some_and(|life| now >= self.born + life)
    }
}

/// Asks for a token; `before` is the one to renew. `tls`: how an endpoint over TLS proves who it is.
///
/// # Errors
/// `disconnected`, slow where the endpoint refuses. No word of the endpoint's answer is in it: it may
/// repeat what it was sent.
pub(super) async fn fetch(
    tls: &Arc<ClientConfig>,
    grant: &Grant,
    before: Option<&Token>,
    limit: Duration,
) -> Result<Token, ConnectionError> {
    let renewed = match (grant, before) {
        (
            Grant::Access {
                refresh: Some(refresh),
                ..
            },
            Some(before),
        ) => {
            // A refresh token that is used up, or was never given: begin anew.
            let refreshed = match posted(refresh, &before.fields) {
                Ok(post) => ask(tls, post, limit).await,
                Err(error) => Err(error),
            };
            match refreshed {
                Ok(fields) => Some(merged(&before.fields, fields)),
                Err(error) => {
                    tracing::debug!(err = error.report(), "a token could not be refreshed");
                    None
                }
            }
        }
        _ => None,
    };
    let fields = match renewed {
        Some(fields) => fields,
        None => ask(tls, first(grant)?, limit).await?,
    };
    token(grant, fields)
}

/// The token in an endpoint's answer.
///
/// # Errors
/// `disconnected`, slow: its life is no time, or a field is missing.
pub(super) fn token(grant: &Grant, fields: Map<String, Value>) -> Result<Token, ConnectionError> {
    let life = life(grant, &fields)?;
    Ok(Token {
        fields,
        born: Instant::now(),
        // The endpoint may say any number, and a time so far away that no clock has it is a panic.
        life: life.map(|life| life.min(LONGEST_LIFE)),
    })
}

/// An answer to a refresh may leave out what stays the same (the refresh token).
fn merged(before: &Map<String, Value>, new: Map<String, Value>) -> Map<String, Value> {
    let mut all = before.clone();
    all.extend(new);
    all
}

fn life(grant: &Grant, fields: &Map<String, Value>) -> Result<Option<Duration>, ConnectionError> {
    let text = match grant {
        Grant::Access { expire: None, .. } => return Ok(None),
        Grant::Access {
            expire: Some(expire),
            ..
        } => expire.fill(fields).map_err(|field| lacks(&field))?,
        // RFC 6749, section 5.1: recommended, not required.
        Grant::ClientCredentials { .. } => match fields.get("expires_in") {
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::String(text)) => text.clone(),
            _ => return Ok(None),
        },
    };
    match seconds(&text) {
        Some(life) => Ok(Some(life)),
        None => Err(ConnectionError::disconnected(
            "oauth:expire",
            "the token endpoint says for how long a token is good, and it is no number of seconds",
        )
        .slow()),
    }
}

/// An answer without a field that is asked for. Perhaps the configuration names a wrong one; perhaps
/// the endpoint has only said that it is busy, with status 200. So it is asked again, slowly.
pub(super) fn lacks(field: &str) -> ConnectionError {
    ConnectionError::disconnected(
        "oauth:field",
        format!("the answer of the token endpoint has no field \"{field}\""),
    )
    .slow()
}

fn posted(call: &Call, fields: &Map<String, Value>) -> Result<Post, ConnectionError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, text) in &call.headers {
        let text = text.fill(fields).map_err(|field| lacks(&field))?;
        // One without fields was checked where it was read.
        let value = HeaderValue::from_str(&text).map_err(|_| {
            ConnectionError::disconnected("header", format!("header \"{name}\" cannot be sent"))
                .slow()
        })?;
        headers.insert(name.clone(), value);
    }
    let body = call.body.fill(fields).map_err(|field| lacks(&field))?;
    Ok(Post {
        url: call.url.clone(),
        headers,
        body: body.into(),
    })
}

fn first(grant: &Grant) -> Result<Post, ConnectionError> {
    let (url, id, secret, scope, audience, in_body) = match grant {
        Grant::Access { access, .. } => return posted(access, &Map::new()),
        Grant::ClientCredentials {
            url,
            id,
            secret,
            scope,
            audience,
            in_body,
        } => (url, id, secret, scope, audience, *in_body),
    };
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    if let Some(scope) = scope {
        form.append_pair("scope", scope);
    }
    if let Some(audience) = audience {
        form.append_pair("audience", audience);
    }
    let mut headers = HeaderMap::new();
    if in_body {
        form.append_pair("client_id", id);
        form.append_pair("client_secret", secret.expose_secret());
    } else {
        // RFC 6749, section 2.3.1: both are form-encoded first.
        let encode =
            |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let value = basic_value(&encode(id), &encode(secret.expose_secret()));
        headers.insert(AUTHORIZATION, value);
    }
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    Ok(Post {
        url: url.clone(),
        headers,
        body: form.finish().into(),
    })
}

async fn ask(
    tls: &Arc<ClientConfig>,
    post: Post,
    limit: Duration,
) -> Result<Map<String, Value>, ConnectionError> {
    let answered = async {
        let mut answer = sent(tls, post).await?;
        unpack(&mut answer, LARGEST).await?;
        Ok::<_, ConnectionError>((answer.status, answer.body))
    };
    let (status, body) = timeout(limit, answered)
        .await
        .map_err(|_| {
            ConnectionError::disconnected("oauth:timeout", "the token endpoint does not answer")
        })?
        .map_err(|mut error| {
            // A dial needs the answer.
            if error.kind == ErrorKind::Transient {
                error.kind = ErrorKind::Disconnected;
            }
            error
        })?;
    if !status.is_success() {
        return Err(refused(status));
    }
    match serde_json::from_slice(&body) {
        Ok(Value::Object(fields)) => Ok(fields),
        // The parser's own words could quote the answer.
        _ => Err(ConnectionError::disconnected(
            "oauth:answer",
            "the answer of the token endpoint is no JSON object",
        )
        .slow()),
    }
}

/// Over a socket of its own, which ends then.
async fn sent(tls: &Arc<ClientConfig>, post: Post) -> Result<Answer, ConnectionError> {
    let Post {
        url,
        mut headers,
        body,
    } = post;
    headers
        .entry(ACCEPT)
        .or_insert(HeaderValue::from_static("application/json"));
    let (host, port, over_tls) = endpoint(&url);
    let secure = over_tls.then(|| {
        let name = ServerName::try_from(host.clone()).map_err(|error| {
            ConnectionError::misconfigured("tls:name", "the server's name is not valid for TLS")
                .caused_by(error)
        })?;
        Ok::<_, ConnectionError>((name, Arc::clone(tls)))
    });
    let sockets = Sockets::new(host, port, secure.transpose()?);
    let head = Head::new(Method::POST, &url, &authority(&url), headers)?;
    sockets.send(&head, &body, LARGEST).await
}

fn refused(status: StatusCode) -> ConnectionError {
    let code = format!("oauth:{}", status.as_u16());
    let sentence = format!("the token endpoint refuses: HTTP {}", status.as_u16());
    let error = ConnectionError::disconnected(code, sentence);
    let busy = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
    if busy { error } else { error.slow() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life_of(expires_in: Value) -> Option<Duration> {
        let grant = Grant::ClientCredentials {
            url: "http://127.0.0.1/token".parse().unwrap(),
            id: "id".to_owned(),
            secret: "secret".to_owned().into(),
            scope: None,
            audience: None,
            in_body: false,
        };
        let fields = Map::from_iter([("expires_in".to_owned(), expires_in)]);
        let token = token(&grant, fields).unwrap();
        assert!(!token.is_over(Instant::now()));
        Some(token.renew_at()? - token.born)
    }

    #[test]
    fn a_token_that_is_good_for_ever_does_not_go_beyond_the_clock() {
        for forever in [1e18.into(), Value::from(u64::MAX), Value::from("1e19")] {
            assert_eq!(life_of(forever), Some(LONGEST_LIFE / 2));
        }
        assert_eq!(life_of(3600.into()), Some(Duration::from_secs(1800)));
        assert_eq!(life_of(Value::Null), None);
    }
}
