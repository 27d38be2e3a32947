//! One push, from its head to its answer:
//!
//! | answer | when |
//! |---|---|
//! | 200 `ok` | every rule has delivered, filtered or dead-lettered it, or has it on disk |
//! | 400 | not readable where a query looks inside; cut short; not what its encoding says |
//! | 401 | the path has a token, and it was not given as `Authorization: Bearer` |
//! | 408, 413, 415 | the body was too slow, too large (also unpacked), in an unknown encoding |
//! | 422 | the `Idempotency-Key` was used for another message |
//! | 503 with `Retry-After` | not taken: no rule, too much under way, given back, or unread for 10 s |
//! | 504 | read, and not final within 10 s: it may still be delivered |
//!
//! The port itself answers 404, 405, and 503 where it cannot take a request at all.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Request, Uri};

use super::pending::{Outcome, Pending, Unsettled, Waiting};
use super::repeats::Entered;
use super::takers::Shared;
use crate::connections::dataport::{Answer, BodyError, Endpoint, Response, Token, read_body};
use crate::message::{Arrival, Headers, Message, Subject};

/// How long a client waits for its message to become final.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// The header that makes a repetition known.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest key, in bytes.
const LONGEST_KEY: usize = 255;
/// Under this name the query of the request goes with the message, if there is one.
const QUERY: &str = ":query";
/// What belongs to the link or to the sender's secrets, and not to the message.
const KEPT_BACK: [&str; 26] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "pragma",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-api-key",
    "x-auth-token",
    "via",
];

/// One path with one method.
#[derive(Debug)]
pub(super) struct PathEndpoint {
    /// Weak: the connection ends with its users, not with its paths.
    pub(super) shared: Weak<Shared>,
    pub(super) path: Subject,
    pub(super) method: String,
}

#[async_trait]
impl Endpoint for PathEndpoint {
    async fn serve(&self, request: Request<Incoming>) -> Response {
        let Some(shared) = self.shared.upgrade() else {
            return stopped().response();
        };
        let answered = self.push(&shared, request).await;
        if answered.status() == 200 {
            shared.useful.store(true, Ordering::Relaxed);
            return Answer::ok();
        }
        if (400..500).contains(&answered.status()) {
            let refused = &shared.context.traffic.refused;
            refused.fetch_add(1, Ordering::Relaxed);
        }
        match answered.status() {
            // The rest of the body is not worth reading.
            401 | 408 | 413 | 415 => answered.close(),
            _ => answered.response(),
        }
    }
}

impl PathEndpoint {
    async fn push(&self, shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        if !shared.config.admits(&self.path, &head.headers) {
            return Token::missing();
        }
        let key = head.headers.get(IDEMPOTENCY_KEY).map(|key| key.as_bytes());
        if key.is_some_and(|key| key.is_empty() || key.len() > LONGEST_KEY) {
            let sentence = format!("an Idempotency-Key has 1 to {LONGEST_KEY} characters");
            return Answer::new(400, sentence);
        }
        let bodies = shared.context.port.bodies();
        let limits = shared.config.body;
        let (body, room) = match read_body(bodies, &head.headers, body, limits).await {
            Ok(read) => read,
            Err(error) => {
                if error == BodyError::Cut {
                    tracing::debug!("a push was cut short");
                }
                return error.answer();
            }
        };
        let until = tokio::time::Instant::now() + DEADLINE;
        let pending = match key {
            None => Entered::New(Pending::new()),
            Some(key) => {
                let mut repeats = shared.repeats.lock();
                repeats.enter(&self.path, &self.method, key, &body)
            }
        };
        let (pending, new) = match pending {
            Entered::New(pending) => (pending, true),
            Entered::Repeated(pending) => (pending, false),
            Entered::Other => {
                return Answer::new(422, "this Idempotency-Key was used for another message");
            }
        };
        // Before it is given away: who refuses it must know that somebody listens.
        let mut waiting = pending.waiting();
        if new && let Err(answer) = self.give(shared, &pending, &head.headers, &head.uri, body) {
            pending.give_up();
            return answer;
        }
        drop(room);
        answer(&pending, &mut waiting, until).await
    }

    /// Hands the message to everybody who takes this path.
    fn give(
        &self,
        shared: &Arc<Shared>,
        pending: &Arc<Pending>,
        headers: &HeaderMap,
        uri: &Uri,
        body: Bytes,
    ) -> Result<(), Answer> {
        let length = body.len();
        let message = Message {
            payload: body,
            subject: self.path.clone(),
            headers: message_headers(headers, uri),
            arrival: Arrival {
                at_ms: now_ms(),
                delivery: pending.number(),
                ..Arrival::default()
            },
        };
        let Some(share) = Unsettled::of(shared, message.weight()) else {
            return Err(Answer::unavailable(
                "too many messages are under way on this connection",
                1,
            ));
        };
        shared.with_takers(&self.path, &self.method, |takers| {
            if takers.is_empty() {
                return Err(stopped());
            }
            pending.give(&message, takers, share);
            Ok(())
        })?;
        shared.context.traffic.received(length);
        Ok(())
    }
}

/// Waits for the outcome, until the deadline at most.
async fn answer(pending: &Pending, waiting: &mut Waiting, until: tokio::time::Instant) -> Answer {
    let outcome = match tokio::time::timeout_at(until, waiting.ended()).await {
        Ok(outcome) => outcome,
        Err(_elapsed) if pending.withdraw() => Outcome::Withdrawn,
        Err(_elapsed) => match pending.outcome() {
            Some(outcome) => outcome,
            None => {
                return Answer::new(
                    504,
                    "it was read but is not delivered yet; it may still be. A repetition with the same Idempotency-Key tells",
                );
            }
        },
    };
    match outcome {
        Outcome::Settled => Answer::new(200, "ok"),
        Outcome::Refused(reason) => Answer::new(400, format!("it cannot be read: {reason}")),
        Outcome::Abandoned => Answer::unavailable("it could not be delivered or kept", 1),
        Outcome::Withdrawn => Answer::unavailable("nobody read it in time; it was not taken", 5),
    }
}

fn stopped() -> Answer {
    Answer::unavailable("no rule takes this path at present", 10)
}

/// The headers that go with the message.
fn message_headers(headers: &HeaderMap, uri: &Uri) -> Headers {
    let kept = |name: &HeaderName| !KEPT_BACK.contains(&name.as_str());
    let mut pairs: Vec<(String, String)> = headers
        .iter()
        .filter(|(name, _)| kept(name))
        .filter_map(|(name, value)| {
            let text = std::str::from_utf8(value.as_bytes()).ok()?;
            Some((name.as_str().to_owned(), text.to_owned()))
        })
        .collect();
    if let Some(query) = uri.query().filter(|query| !query.is_empty()) {
        pairs.push((QUERY.to_owned(), query.to_owned()));
    }
    pairs.into()
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
