//! `wit/http.wit`: requests over a connection that was granted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::component::Resource;

use super::bindings::windlass::connector::http as wit;
use super::host::Host;
use super::types::{BatchHandle, to_guest};
use crate::connections::{Connection, HttpHead, HttpRequest, HttpResponse, Interface};
use crate::error::ConnectionError;

/// A client: the place of its grant.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub struct ClientHandle;

type Answer = Result<wit::Response, wit::Error>;

/// Of many answers each may have so much, whatever their number: what is said about a failure is in it.
const LEAST_BODY: usize = 4 * 1024;

fn request_in(request: wit::Request) -> HttpRequest {
    let mut method = request.method;
    method.make_ascii_uppercase();
    HttpRequest {
        head: Arc::new(HttpHead {
            method,
            path: request.path,
            headers: request.headers,
            timeout_ms: request.timeout_ms,
            brief: false,
        }),
        body: request.body.into(),
    }
}

/// For the guest, whose memory bounds the body.
fn answer_out(answer: Result<HttpResponse, ConnectionError>, most: usize) -> Answer {
    match answer {
        Ok(response) => Ok(wit::Response {
            status: response.status,
            headers: response.headers,
            truncated: response.truncated || response.body.len() > most,
            body: match response.body.get(..most) {
                Some(head) => head.to_vec(),
                None => response.body.into(),
            },
        }),
        Err(error) => Err(to_guest(&error)),
    }
}

/// Of many requests one that there was no time for. Nothing was sent, and it may be at once.
fn not_begun() -> ConnectionError {
    ConnectionError::transient(
        "not-sent",
        "not sent yet: the requests before it took the time of the call",
    )
    .retry_after(Duration::ZERO)
}

impl Host {
    async fn send_one(
        &self,
        connection: &dyn Connection,
        request: HttpRequest,
    ) -> Result<HttpResponse, ConnectionError> {
        Self::bounded(self.parts.deadline, &self.parts.clock, async {
            connection
                .http()
                .ok_or_else(ConnectionError::denied)?
                .send(request)
                .await
        })
        .await
    }

    /// As many at once as the connection allows; answers in the order of the requests. None begins in
    /// the second half of the call's time: it would be cut off, and perhaps arrive twice.
    async fn send_many(
        &self,
        place: u32,
        requests: Vec<HttpRequest>,
    ) -> wasmtime::Result<Vec<Answer>> {
        let connection = self.granted(place)?.target.connection();
        let body = (self.most_body() / requests.len().max(1)).max(LEAST_BODY);
        let Some(http) = connection.http() else {
            let denied = |_| Err(to_guest(&ConnectionError::denied()));
            return Ok(requests.iter().map(denied).collect());
        };
        let (now, deadline) = (Instant::now(), self.parts.deadline);
        let left = |share: Duration| now + share.saturating_sub(self.parts.clock.counted(now));
        // The last twentieth is the guest's, to return in.
        let (begin, end) = (left(deadline / 2), left(deadline * 19 / 20));
        let answers = http.send_all(requests, begin, end).await;
        Ok(answers
            .into_iter()
            .map(|answer| answer_out(answer.unwrap_or_else(|| Err(not_begun())), body))
            .collect())
    }

    /// Bytes of bodies that one call may bring into the guest.
    fn most_body(&self) -> usize {
        self.parts.memory_bytes / 4
    }
}

impl wit::Host for Host {}

impl wit::HostClient for Host {
    async fn open(
        &mut self,
        id: String,
    ) -> wasmtime::Result<Result<Resource<ClientHandle>, wit::Error>> {
        self.count_call()?;
        Ok(self
            .grant(&id, Interface::Http)
            .map(Resource::new_own)
            .map_err(|error| to_guest(&error)))
    }

    async fn send(
        &mut self,
        client: Resource<ClientHandle>,
        request: wit::Request,
    ) -> wasmtime::Result<Answer> {
        self.count_call()?;
        let connection = self.granted(client.rep())?.target.connection();
        let answer = self.send_one(&*connection, request_in(request)).await;
        Ok(answer_out(answer, self.most_body()))
    }

    async fn send_all(
        &mut self,
        client: Resource<ClientHandle>,
        requests: Vec<wit::Request>,
    ) -> wasmtime::Result<Vec<Answer>> {
        self.count_call()?;
        self.send_many(client.rep(), requests.into_iter().map(request_in).collect())
            .await
    }

    async fn send_each(
        &mut self,
        client: Resource<ClientHandle>,
        request: wit::Request,
        bodies: Resource<BatchHandle>,
    ) -> wasmtime::Result<Vec<Answer>> {
        self.count_call()?;
        let mut head = request_in(request).head;
        // Nobody else has it yet.
        Arc::make_mut(&mut head).brief = true;
        let batch = self.batches.get(&bodies)?;
        let requests = batch.iter().map(|message| HttpRequest {
            head: Arc::clone(&head),
            body: message.payload.clone(),
        });
        let requests = requests.collect();
        self.send_many(client.rep(), requests).await
    }

    async fn drop(&mut self, _client: Resource<ClientHandle>) -> wasmtime::Result<()> {
        Ok(())
    }
}
