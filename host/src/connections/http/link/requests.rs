//! Requests over the link: many at once, each with its turn, its permit, its time and its token, and
//! what its answer means for the link.
//!
//! They run on the runtime of the sockets, in one task for all that are asked for together: from the
//! threads of the guests and back is one step for each call, not one for each request.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::{Link, Live};
use crate::connections::breaker::{Pass, Verdict};
use crate::connections::http::exchange::{Prepared, exchange};
use crate::connections::http::failure;
use crate::connections::{Http, HttpHead, HttpRequest, HttpResponse, too_late};
use crate::error::{ConnectionError, ErrorKind};

type Answer = Result<HttpResponse, ConnectionError>;

/// Why there is no answer.
enum Fault {
    /// The call had no more time, which says nothing of the server.
    Late,
    Error(ConnectionError),
}

impl From<ConnectionError> for Fault {
    fn from(error: ConnectionError) -> Self {
        Self::Error(error)
    }
}

/// For a request that has no end but its own: longer than any.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// A head that was put together, and for which link. Both are recognised by their address.
type Ready = (Arc<HttpHead>, Arc<Live>, Arc<Prepared>);

/// Requests that are asked for together.
struct Batch {
    /// Those that nobody has begun, each with its place.
    rest: Mutex<std::iter::Enumerate<std::vec::IntoIter<HttpRequest>>>,
    begin: Instant,
    end: Instant,
    ready: Mutex<Option<Ready>>,
}

impl Batch {
    fn next(&self) -> Option<(usize, HttpRequest)> {
        self.rest.lock().next()
    }

    fn is_over(&self) -> bool {
        Instant::now() > self.begin
    }
}

impl Link {
    /// All of them, by as many lanes as may be under way at once.
    async fn all(
        &self,
        requests: Vec<HttpRequest>,
        begin: Instant,
        end: Instant,
    ) -> Vec<Option<Answer>> {
        let count = requests.len();
        let batch = Batch {
            rest: Mutex::new(requests.into_iter().enumerate()),
            begin,
            end,
            ready: Mutex::default(),
        };
        let mut lanes: FuturesUnordered<_> = (0..self.config.in_flight.min(count))
            .map(|_| self.lane(&batch))
            .collect();
        let mut answers: Vec<Option<Answer>> = (0..count).map(|_| None).collect();
        while let Some(some) = lanes.next().await {
            for (place, answer) in some {
                if let Some(kept) = answers.get_mut(place) {
                    *kept = Some(answer);
                }
            }
        }
        answers
    }

    /// One request after the other, until none is left or there is no time to begin.
    async fn lane(&self, batch: &Batch) -> Vec<(usize, Answer)> {
        let mut answers = Vec::new();
        while !batch.is_over() {
            let Some((place, request)) = batch.next() else {
                break;
            };
            if let Some(answer) = self.one(batch, &request).await {
                answers.push((place, answer));
            }
        }
        answers
    }

    /// None: there was no time to begin.
    async fn one(&self, batch: &Batch, request: &HttpRequest) -> Option<Answer> {
        if request.body.len() > self.config.body_bytes {
            return Some(Err(ConnectionError::permanent(
                "too-large",
                format!(
                    "a body of {} bytes is larger than the connection's {}",
                    request.body.len(),
                    self.config.body_bytes
                ),
            )));
        }
        let admitted = timeout_at(batch.end, async {
            // Never closed.
            let permit = self.permits.acquire().await;
            if let Some(pace) = &self.pace
                && !pace.turn(batch.begin).await
            {
                return None;
            }
            Some((permit, self.link().await))
        });
        let (_permit, link) = admitted.await.ok().flatten()?;
        let (live, pass) = match link {
            Ok(link) => link,
            Err(error) => return Some(Err(error)),
        };
        if batch.is_over() {
            return None;
        }
        let answer = match self.sent(batch, &live, request).await {
            Ok(response) => Ok(response),
            // Whoever needs longer than a call has is no less there: no verdict.
            Err(Fault::Late) => return Some(Err(too_late())),
            Err(Fault::Error(error)) => Err(error),
        };
        self.judge(&live, pass, &answer);
        if let Ok(response) = &answer {
            self.count(request, response);
        }
        Some(answer)
    }

    /// The link, once it is up, and the permission to send over it.
    async fn link(&self) -> Result<(Arc<Live>, Pass<'_>), ConnectionError> {
        let live = self.up().await?;
        let pass = self.breaker.enter().await?;
        Ok((live, pass))
    }

    /// Sends it, and once more with another token if the present one is refused.
    async fn sent(
        &self,
        batch: &Batch,
        live: &Arc<Live>,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Fault> {
        let mut answer = self.once(batch, live, request).await?;
        if answer.status != StatusCode::UNAUTHORIZED.as_u16() {
            return Ok(answer);
        }
        if live.token.is_some() {
            let renewed = timeout_at(batch.end, async {
                self.renew_to_the_end(live).await?;
                self.up().await
            });
            let live = renewed.await.map_err(|_elapsed| Fault::Late)??;
            answer = self.once(batch, &live, request).await?;
        }
        if answer.status == StatusCode::UNAUTHORIZED.as_u16() {
            return Err(ConnectionError::disconnected(
                "http:401",
                "the server refuses the credentials (HTTP 401)",
            )
            .slow()
            .into());
        }
        Ok(answer)
    }

    /// Renews the token, and goes on with that though the request has no more time to wait for it: see
    /// `keep_token`.
    async fn renew_to_the_end(&self, live: &Arc<Live>) -> Result<(), ConnectionError> {
        let this = self.this.upgrade().ok_or_else(failure::closed)?;
        let (live, handle) = (Arc::clone(live), live.handle.clone());
        // Bounded by the time of asking for a token.
        let work = handle.spawn(async move { this.renew(&live).await });
        work.await
            .unwrap_or_else(|error| Err(failure::closed().caused_by(error)))
    }

    async fn once(
        &self,
        batch: &Batch,
        live: &Arc<Live>,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Fault> {
        let prepared = self.prepared(batch, live, &request.head)?;
        let limit = match request.timeout_ms {
            Some(ms) => Duration::from_millis(ms.into()),
            None => self.config.timeout,
        };
        let left = batch.end.saturating_duration_since(Instant::now());
        let work = exchange(
            &live.sockets,
            &self.config.base,
            &prepared,
            Bytes::clone(&request.body),
            self.config.body_bytes,
        );
        match timeout(limit.min(left), work).await {
            Ok(answer) => Ok(answer?),
            Err(_elapsed) if left < limit => Err(Fault::Late),
            Err(_elapsed) => Err(failure::no_answer(&format!(
                "the server does not answer within {} ms",
                limit.as_millis()
            ))
            .into()),
        }
    }

    fn prepared(
        &self,
        batch: &Batch,
        live: &Arc<Live>,
        head: &Arc<HttpHead>,
    ) -> Result<Arc<Prepared>, ConnectionError> {
        let mut ready = batch.ready.lock();
        if let Some((known, link, prepared)) = &*ready
            && Arc::ptr_eq(known, head)
            && Arc::ptr_eq(link, live)
        {
            return Ok(Arc::clone(prepared));
        }
        let prepared = Arc::new(Prepared::new(head, &self.config.base, &live.headers)?);
        *ready = Some((Arc::clone(head), Arc::clone(live), Arc::clone(&prepared)));
        Ok(prepared)
    }

    /// What an answer, or none, means for the breaker and the link.
    fn judge(&self, live: &Arc<Live>, pass: Pass<'_>, answer: &Answer) {
        let verdict = match answer {
            Ok(response) if response.status < 500 => {
                self.useful.store(true, Ordering::Relaxed);
                return pass.succeeded();
            }
            Ok(response) => pass.failed(false, &format!("HTTP {}", response.status)),
            Err(error) => match error.kind {
                ErrorKind::Disconnected => {
                    let verdict = pass.failed(true, &error.message);
                    self.report(live, error);
                    verdict
                }
                // It was not sent, or it was answered by a redirect.
                ErrorKind::Denied | ErrorKind::Permanent | ErrorKind::Misconfigured => return,
                ErrorKind::Transient if error.code.starts_with("http:redirect") => {
                    return pass.succeeded();
                }
                ErrorKind::Transient => pass.failed(true, &error.message),
            },
        };
        if verdict == Verdict::Silent
            && let Err(error) = answer
        {
            let mut lost = error.clone();
            lost.kind = ErrorKind::Disconnected;
            if error.code == "http:protocol" {
                lost = lost.slow();
            }
            self.report(live, &lost);
        }
    }

    fn count(&self, request: &HttpRequest, response: &HttpResponse) {
        let traffic = &self.context.traffic;
        if (200..300).contains(&response.status) {
            traffic.sent(request.body.len());
        }
        if !response.body.is_empty() {
            traffic.received(response.body.len());
        }
    }
}

#[async_trait]
impl Http for Link {
    async fn send(&self, request: HttpRequest) -> Answer {
        let end = Instant::now() + LONG;
        let answer = self.send_all(vec![request], end, end).await.pop();
        answer.flatten().unwrap_or_else(|| Err(too_late()))
    }

    async fn send_all(
        &self,
        requests: Vec<HttpRequest>,
        begin: Instant,
        end: Instant,
    ) -> Vec<Option<Answer>> {
        let count = requests.len();
        let same = |error: &ConnectionError| (0..count).map(|_| Some(Err(error.clone()))).collect();
        let live = match timeout_at(end, self.up()).await {
            Ok(Ok(live)) => live,
            Ok(Err(error)) => return same(&error),
            Err(_elapsed) => return same(&too_late()),
        };
        let Some(this) = self.this.upgrade() else {
            return same(&failure::closed());
        };
        let work = async move { this.all(requests, begin, end).await };
        let work = AbortOnDropHandle::new(live.handle.spawn(work)).await;
        work.unwrap_or_else(|error| same(&failure::closed().caused_by(error)))
    }

    fn concurrency(&self) -> usize {
        self.config.in_flight
    }
}
