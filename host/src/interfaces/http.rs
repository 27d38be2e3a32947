//! `wit/http.wit`: requests over a connection that was granted.

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use wasmtime::component::Resource;

use super::bindings::windlass::connector::http as wit;
use super::host::Host;
use super::types::{BatchHandle, to_guest};
use crate::connections::{Connection, HttpRequest, HttpResponse, Interface};
use crate::error::ConnectionError;

/// A client: the place of its grant.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub struct ClientHandle;

type Answer = Result<wit::Response, wit::Error>;

fn request_in(request: wit::Request) -> HttpRequest {
    let mut method = request.method;
    method.make_ascii_uppercase();
    HttpRequest {
        method,
        path: request.path,
        headers: request.headers,
        body: request.body.into(),
        timeout_ms: request.timeout_ms,
    }
}

fn answer_out(answer: Result<HttpResponse, ConnectionError>) -> Answer {
    match answer {
        Ok(response) => Ok(wit::Response {
            status: response.status,
            headers: response.headers,
            body: response.body.into(),
            truncated: response.truncated,
        }),
        Err(error) => Err(to_guest(&error)),
    }
}

impl Host {
    async fn send_one(&self, connection: &dyn Connection, request: HttpRequest) -> Answer {
        let answer = Self::bounded(self.parts.deadline, &self.parts.clock, async {
            connection
                .http()
                .ok_or_else(ConnectionError::denied)?
                .send(request)
                .await
        });
        answer_out(answer.await)
    }

    /// As many at once as the connection allows; answers in the order of the requests.
    async fn send_many(
        &self,
        place: u32,
        requests: Vec<HttpRequest>,
    ) -> wasmtime::Result<Vec<Answer>> {
        let connection = self.granted(place)?.target.connection();
        let most = connection
            .http()
            .map_or(1, |http| http.concurrency().max(1));
        let answers = requests
            .into_iter()
            .map(|request| self.send_one(&*connection, request));
        Ok(stream::iter(answers).buffered(most).collect().await)
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
        Ok(self.send_one(&*connection, request_in(request)).await)
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
        let request = HttpRequest {
            body: Bytes::new(),
            ..request_in(request)
        };
        let batch = self.batches.get(&bodies)?;
        let requests = batch.iter().map(|message| HttpRequest {
            body: message.payload.clone(),
            ..request.clone()
        });
        let requests = requests.collect();
        self.send_many(client.rep(), requests).await
    }

    async fn drop(&mut self, _client: Resource<ClientHandle>) -> wasmtime::Result<()> {
        Ok(())
    }
}
