//! REST: eKuiper's paths, JSON and words over HTTP. One file per resource, which holds its handlers
//! beside their routes; everything else here is the same for all of them. Below the host: it is
//! handed what it shows and changes.
//!
//! | file | what |
//! |---|---|
//! | [`guard`] | who may speak to the port at all: `Host`, `Origin`, which address |
//! | [`auth`] | who asks, and what he may do |
//! | [`error`], [`json`], [`etag`], [`extract`] | what goes in and out |
//! | [`system`], [`events`], [`metrics`] | what the host says of itself |
//! | [`tasks`] | what clients have begun and ask after |
//! | [`openapi`] | the description of all that, from the handlers |
//! | [`connections`], [`metadata`], [`streams`], [`rules`], [`connectors`], [`deadletters`], [`transfer`] | the resources, over the [`crate::catalog`] |
//!
//! A request goes: head within 10 s ([`crate::connections::listener`]), guard, authentication, its
//! handler, within a minute. A handler that changes something runs to its end even if its client goes
//! away in the middle; one that panics is answered 500, and nothing else ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper::{Method, Request, StatusCode};
use hyper_util::service::TowerToHyperService;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::catalog::Catalog;
use crate::connections::listener::body::{BodyLimits, Budget};
use crate::connections::listener::{self, Listener};
use crate::error::ConnectionError;

pub mod auth;
pub mod connections;
pub mod connectors;
pub mod deadletters;
pub mod error;
pub mod etag;
pub mod events;
pub mod extract;
pub mod guard;
pub mod json;
pub mod metadata;
pub mod metrics;
pub mod openapi;
mod refused;
pub mod rules;
pub mod streams;
pub mod system;
pub mod tasks;
#[cfg(test)]
mod tests;
pub mod transfer;

use auth::{AuthConfig, Authority, Identity, Role};
use error::{ApiError, Code};
use guard::{BadName, Foreign, Guard};
use system::View;

/// Where it listens unless told: eKuiper's port, for this machine alone.
pub const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9081);
/// Bytes of bodies in memory that no handler has taken yet, of all requests together.
const BUFFERED: usize = 64 * 1024 * 1024;

/// How REST is served.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Where it listens; port 0: any free one. Whether it may be open to others is asked before, with
    /// [`guard::exposure`].
    pub address: SocketAddr,
    /// PEM files of the certificate with its chain and of its private key. None: plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// How tokens are checked. None: everybody is an admin.
    pub auth: Option<AuthConfig>,
    /// Host names of this server beside loopback and addresses.
    pub names: Vec<String>,
    /// Pages of other servers that may use it, as `https://name[:port]`.
    pub origins: Vec<String>,
    /// Bounds.
    pub limits: ApiLimits,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            address: ADDRESS,
            tls: None,
            auth: None,
            names: Vec::new(),
            origins: Vec::new(),
            limits: ApiLimits::default(),
        }
    }
}

/// Bounds of all requests.
#[derive(Clone, Copy, Debug)]
pub struct ApiLimits {
    /// Connections at once. One more takes the place of a silent one, or is answered 503.
    pub connections: usize,
    /// Bytes of a body, also unpacked; more is 413. A route can have its own: [`body_limit`].
    pub body_bytes: usize,
    /// For a whole body to come; later is 408.
    pub body_time: Duration,
    /// From the head to the answer; later is 504. What was begun goes on.
    pub request: Duration,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self {
            connections: 512,
            body_bytes: 16 * 1024 * 1024,
            body_time: Duration::from_secs(30),
            request: Duration::from_secs(60),
        }
    }
}

/// Why REST cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A name or an origin that is none.
    #[error("REST cannot be served: {0}")]
    Name(#[from] BadName),
    /// The port is taken, or the TLS files cannot be used.
    #[error("REST cannot be served: {}", .0.report())]
    Listen(ConnectionError),
}

/// How a body is to be read; with every request.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    budget: Budget,
    limits: BodyLimits,
}

/// Ends with the server: for answers that would go on for ever.
#[derive(Clone, Debug)]
pub(crate) struct Stopping(CancellationToken);

/// Where work goes on that its request does not wait for; the server does before it ends.
#[derive(Clone, Debug)]
pub(crate) struct Background(TaskTracker);

/// REST that is being served.
#[derive(Debug)]
pub struct ListeningApi {
    /// Where.
    pub address: SocketAddr,
    listener: Listener,
    handlers: TaskTracker,
}

impl ListeningApi {
    /// Waits until every client and every handler has ended, after the token of [`serve`] was
    /// cancelled; those that do not in time are cut when the runtime ends.
    pub async fn ended(&self, limit: Duration) {
        let until = Instant::now() + limit;
        self.listener.ended(limit).await;
        self.handlers.close();
        let left = until.saturating_duration_since(Instant::now());
        if timeout(left, self.handlers.wait()).await.is_err() {
            tracing::warn!(
                left = self.handlers.len(),
                "requests were not answered in time"
            );
        }
    }
}

/// Serves these routes until the token is cancelled.
///
/// # Errors
/// [`ServeError`]; nothing listens then.
pub async fn serve(
    config: ApiConfig,
    router: Router,
    stop: CancellationToken,
) -> Result<ListeningApi, ServeError> {
    let listener = Listener::new(listener::Settings {
        name: "the REST interface",
        address: config.address,
        tls: config.tls,
        max_connections: config.limits.connections,
        // Answers of any length to clients that do not read are bounded by their socket alone.
        http2: false,
    });
    let handlers = TaskTracker::new();
    let api = Api {
        guard: Guard::new(&config.names, &config.origins)?,
        authority: config.auth.as_ref().map(Authority::new),
        router: router
            .method_not_allowed_fallback(|method: Method| async move {
                ApiError::method_not_allowed(&method)
            })
            .fallback(|| async { ApiError::not_found("there is no such path") }),
        limits: config.limits,
        budget: Budget::new(BUFFERED),
        handlers: handlers.clone(),
        stop: stop.clone(),
    };
    let listening = listener.listen(Arc::new(api), stop).await;
    let address = listening.map_err(ServeError::Listen)?;
    tracing::info!(%address, tls = listener.is_tls(), "REST is served");
    Ok(ListeningApi {
        address,
        listener,
        handlers,
    })
}

/// All routes: those that show the host, and one line for each resource. `leave`: cancelled when a
/// client has asked that the process ends and begins anew.
pub fn routes(view: Arc<dyn View>, catalog: &Catalog, leave: CancellationToken) -> Router {
    let tasks = tasks::Tasks::default();
    system::routes(Arc::clone(&view))
        .merge(openapi::routes())
        .merge(metrics::routes(Arc::clone(&view)))
        .merge(events::routes(view))
        .merge(connections::routes(catalog.clone()))
        .merge(metadata::routes(catalog.clone()))
        .merge(streams::routes(catalog.clone()))
        .merge(rules::routes(catalog.clone()))
        .merge(deadletters::routes(catalog.clone()))
        .merge(connectors::routes(catalog.clone()))
        .merge(transfer::routes(catalog.clone(), tasks.clone(), leave))
        .merge(tasks::routes(tasks))
}

/// A layer for routes whose bodies may be larger (or must be smaller) than others.
pub fn body_limit(bytes: usize) -> axum::Extension<BodyBytes> {
    axum::Extension(BodyBytes(bytes))
}

/// The most bytes of a body on a route.
#[derive(Clone, Copy, Debug)]
pub struct BodyBytes(pub usize);

/// Paths that need no token, as in eKuiper, and what a machine asks to see if it is alive.
const FREE: [&str; 6] = [
    "/",
    "/ping",
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/docs",
];

/// What serves REST.
#[derive(Debug)]
struct Api {
    guard: Guard,
    authority: Option<Authority>,
    router: Router,
    limits: ApiLimits,
    budget: Budget,
    handlers: TaskTracker,
    stop: CancellationToken,
}

#[async_trait]
impl listener::Serve for Api {
    async fn serve(&self, request: Request<Incoming>) -> listener::Response {
        let began = Instant::now();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = match self.guard.admit(&request) {
            Ok(None) => self.answer(request).await,
            Ok(Some(page)) if Foreign::is_preflight(&request) => {
                let mut response = page.preflight();
                page.mark(response.headers_mut());
                response
            }
            Ok(Some(page)) => {
                let mut response = self.answer(request).await;
                page.mark(response.headers_mut());
                response
            }
            Err(error) => error.into_response(),
        };
        let status = response.status().as_u16();
        let took_ms = began.elapsed().as_millis();
        tracing::debug!(%method, path, status, took_ms, "answered");
        response.map(|body| body.map_err(Into::into).boxed_unsync())
    }
}

impl Api {
    /// Finds out who asks, and lets the handler answer.
    async fn answer(&self, request: Request<Incoming>) -> Response {
        let mut request = request.map(Body::new);
        let (method, path) = (request.method(), request.uri().path());
        let is_free = FREE.contains(&path);
        let identity = match &self.authority {
            None => Some(Identity::anybody()),
            Some(authority) => match authority.check(request.headers()) {
                Ok(identity) => Some(identity),
                Err(_) if is_free => None,
                Err(error) => return error.close().into_response(),
            },
        };
        let needed = Role::needed(method, path);
        if let Some(identity) = &identity
            && !is_free
            && let Err(error) = identity.may(needed)
        {
            return error.close().into_response();
        }
        let reading = Reading {
            budget: self.budget.clone(),
            limits: BodyLimits {
                bytes: self.limits.body_bytes,
                time: self.limits.body_time,
            },
        };
        let only_looks = *method == Method::GET || *method == Method::HEAD;
        let extensions = request.extensions_mut();
        if let Some(identity) = identity {
            extensions.insert(identity);
        }
        extensions.insert(reading);
        extensions.insert(Stopping(self.stop.clone()));
        extensions.insert(Background(self.handlers.clone()));
        let answering = TowerToHyperService::new(self.router.clone()).call(request);
        // In a task of its own: a panic ends there, and so does nothing else.
        let task = self.handlers.spawn(answering);
        let answered = if only_looks {
            timeout(self.limits.request, AbortOnDropHandle::new(task)).await
        } else {
            timeout(self.limits.request, task).await
        };
        match answered {
            Ok(Ok(Ok(response))) => response,
            Ok(Ok(Err(never))) => match never {},
            Ok(Err(failed)) => {
                tracing::error!(
                    panicked = failed.is_panic(),
                    "a request was not answered by its handler"
                );
                ApiError::internal().close().into_response()
            }
            Err(_elapsed) => ApiError::new(
                StatusCode::GATEWAY_TIMEOUT,
                Code::Undefined,
                "the request takes too long; what it has begun may still happen",
            )
            .close()
            .into_response(),
        }
    }
}
