//! The data port: the one HTTP listener of the host, for every connection type that others reach by a
//! path (`httppush`, `websocket`). Bounds connections, requests, heads, bodies and time, and finds who serves a
//! path; knows nothing of what is served there.
//!
//! It listens while a connection holds a [`PortLease`]; without one, nothing does. A port that is
//! taken is the lease's failure, so the connection's supervisor tries again with its back-off and its
//! status says why.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Request};
use parking_lot::RwLock;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::listener::body::Budget;
use super::listener::{self, Listener};
use crate::error::ConnectionError;

mod answer;
#[cfg(test)]
pub(crate) mod tests;
mod token;

pub use super::listener::body::{BodyError, BodyLimits, read_body};
pub use answer::{Answer, Response};
pub use token::Token;

/// Where it listens unless told.
pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10_081);
/// The tenant of a request, until there are more.
const TENANT: &str = "default";
/// Paths remembered that were served and are not any more.
const MOST_GONE: usize = 4096;
/// How long after the start takers are awaited, if some source never opens.
const BOOT: Duration = Duration::from_secs(60);
/// Bytes of request bodies in memory that no connection has taken yet, of all requests together.
const BUFFERED: usize = 64 * 1024 * 1024;

/// How the port is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens; port 0: any free one.
    pub address: SocketAddr,
    /// PEM files of the certificate with its chain and of its private key. None: plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Connections at once; one more is answered 503 and closed.
    pub max_connections: usize,
    /// Requests under way at once, over all connections; one more is answered 503.
    pub max_requests: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: ADDRESS,
            tls: None,
            max_connections: 1024,
            max_requests: 4096,
        }
    }
}

/// Who serves a path.
#[async_trait]
pub trait Endpoint: Send + Sync + fmt::Debug {
    /// Answers one request. With [`listener::take_over`] the connection goes on as something else.
    ///
    /// # Cancel safety
    /// Dropped when the client goes away before the answer.
    async fn serve(&self, request: Request<Incoming>) -> Response;
}

/// The port of a host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DataPort(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    listener: Listener,
    routes: RwLock<Routes>,
    /// Every source has opened: all takers of all paths are known.
    known: AtomicBool,
    /// So long they are awaited. None: rules are still being started.
    until: OnceLock<Instant>,
    listening: tokio::sync::Mutex<Weak<Listening>>,
    requests: Semaphore,
    bodies: Budget,
}

/// Keeps the port open.
#[derive(Clone, Debug)]
pub struct PortLease(Arc<Listening>);

#[derive(Debug)]
struct Listening {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl PortLease {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }
}

#[derive(Debug, Default)]
struct Routes {
    next: u64,
    gone: usize,
    /// By tenant and path.
    tenants: HashMap<Arc<str>, HashMap<String, Vec<Served>>>,
}

#[derive(Clone, Debug)]
struct Served {
    number: u64,
    owner: Arc<str>,
    method: Method,
    endpoint: Arc<dyn Endpoint>,
}

/// A path that is served; not any more once this is dropped.
#[derive(Debug)]
pub struct Route {
    port: DataPort,
    tenant: Arc<str>,
    path: String,
    number: u64,
}

impl Drop for Route {
    fn drop(&mut self) {
        let mut routes = self.port.0.routes.write();
        let routes = &mut *routes;
        let Some(paths) = routes.tenants.get_mut(&self.tenant) else {
            return;
        };
        let Some(served) = paths.get_mut(&self.path) else {
            return;
        };
        served.retain(|one| one.number != self.number);
        if !served.is_empty() {
            return;
        }
        // Remembered, so that a sender is told to wait and not that it has the wrong path.
        if routes.gone < MOST_GONE {
            routes.gone += 1;
        } else {
            paths.remove(&self.path);
        }
    }
}

/// Another connection serves this path with this method.
#[derive(Debug, thiserror::Error)]
#[error("the path is served by connection \"{owner}\" already")]
pub struct PathTaken {
    /// The id of that connection.
    pub owner: String,
}

/// What there is at a path.
enum Found {
    Served(Arc<dyn Endpoint>),
    /// Not with this method, but with these.
    Methods(Vec<Method>),
    /// It was served, and may be again.
    Stopped,
    /// Not all takers are known: the host is starting.
    Starting,
    Nothing,
}

impl Default for DataPort {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl DataPort {
    /// A port that does not listen yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let listener = Listener::new(listener::Settings {
            name: "the data port",
            address: settings.address,
            tls: settings.tls,
            max_connections: settings.max_connections,
            http2: true,
        });
        Self(Arc::new(Inner {
            listener,
            requests: Semaphore::new(settings.max_requests),
            routes: RwLock::default(),
            known: AtomicBool::new(false),
            until: OnceLock::new(),
            listening: tokio::sync::Mutex::new(Weak::new()),
            bodies: Budget::new(BUFFERED),
        }))
    }

    /// Listens, or shares the listener that is there. It ends with the last lease, in order: requests
    /// under way are answered.
    ///
    /// # Errors
    /// `disconnected`: the address cannot be listened on at present, or the TLS files cannot be used.
    ///
    /// # Cancel safety
    /// Nothing is left open.
    pub async fn open(&self) -> Result<PortLease, ConnectionError> {
        let mut listening = self.0.listening.lock().await;
        if let Some(there) = listening.upgrade() {
            return Ok(PortLease(there));
        }
        let stop = CancellationToken::new();
        let serve = Arc::new(self.clone());
        let address = self.0.listener.listen(serve, stop.clone()).await?;
        let there = Arc::new(Listening { address, stop });
        *listening = Arc::downgrade(&there);
        tracing::info!(%address, tls = self.0.listener.is_tls(), "the data port listens");
        Ok(PortLease(there))
    }

    /// Where it listens now; None: it does not.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let listening = self.0.listening.try_lock().ok()?;
        listening.upgrade().map(|there| there.address)
    }

    /// All rules that ran before have been started: their sources are awaited a minute longer.
    pub fn rules_started(&self) {
        // Told twice, the first time counts.
        let _told = self.0.until.set(Instant::now() + BOOT);
    }

    /// Every source has opened or failed: from now on requests are taken. Before, a message would miss
    /// the takers that have not come yet.
    pub fn takers_known(&self) {
        self.0.known.store(true, Ordering::Release);
    }

    /// Serves a path. The same owner may serve it again; then the last one counts.
    ///
    /// # Errors
    /// Another owner serves it with this method.
    pub fn serve(
        &self,
        tenant: &Arc<str>,
        path: &str,
        method: Method,
        owner: &Arc<str>,
        endpoint: Arc<dyn Endpoint>,
    ) -> Result<Route, PathTaken> {
        let mut routes = self.0.routes.write();
        let routes = &mut *routes;
        let paths = routes.tenants.entry(Arc::clone(tenant)).or_default();
        if let Some(served) = paths.get(path) {
            let other = served
                .iter()
                .find(|one| one.method == method && one.owner != *owner);
            if let Some(other) = other {
                return Err(PathTaken {
                    owner: other.owner.to_string(),
                });
            }
            if served.is_empty() {
                routes.gone = routes.gone.saturating_sub(1);
            }
        }
        routes.next += 1;
        paths.entry(path.to_owned()).or_default().push(Served {
            number: routes.next,
            owner: Arc::clone(owner),
            method,
            endpoint,
        });
        Ok(Route {
            port: self.clone(),
            tenant: Arc::clone(tenant),
            path: path.to_owned(),
            number: routes.next,
        })
    }

    fn find(&self, path: &str, method: &Method) -> Found {
        let routes = self.0.routes.read();
        let served = routes
            .tenants
            .get(TENANT)
            .and_then(|paths| paths.get(path))
            .map(Vec::as_slice);
        // A path may have some of its takers and not yet all: who has not come would miss the message.
        let in_time = |until: &Instant| Instant::now() < *until;
        if !self.0.known.load(Ordering::Acquire) && self.0.until.get().is_none_or(in_time) {
            return Found::Starting;
        }
        let Some(served) = served else {
            return Found::Nothing;
        };
        match served.iter().rev().find(|one| one.method == *method) {
            Some(one) => Found::Served(Arc::clone(&one.endpoint)),
            None if served.is_empty() => Found::Stopped,
            None => {
                let mut methods: Vec<_> = served.iter().map(|one| one.method.clone()).collect();
                methods.dedup();
                Found::Methods(methods)
            }
        }
    }

    /// Answers one request, whoever serves its path.
    async fn answer(&self, request: Request<Incoming>) -> Response {
        let Ok(_permit) = self.0.requests.try_acquire() else {
            return Answer::unavailable("too many requests are under way", 1).close();
        };
        match self.find(request.uri().path(), request.method()) {
            Found::Served(endpoint) => endpoint.serve(request).await,
            Found::Methods(methods) => Answer::method_not_allowed(&methods),
            Found::Stopped => {
                Answer::unavailable("no rule takes this path at present", 10).response()
            }
            Found::Starting => Answer::unavailable("the host is starting", 1).response(),
            Found::Nothing => Answer::new(404, "there is no such path").response(),
        }
    }

    /// The memory for bodies that no connection has taken yet.
    #[must_use]
    pub fn bodies(&self) -> &Budget {
        &self.0.bodies
    }

    /// Waits until every connection has ended; those that do not in time are cut when the runtime ends.
    pub async fn stop(&self, limit: Duration) {
        self.0.listener.ended(limit).await;
    }
}

#[async_trait]
impl listener::Serve for DataPort {
    async fn serve(&self, request: Request<Incoming>) -> listener::Response {
        let response = self.answer(request).await;
        response.map(|body| body.map_err(|never| match never {}).boxed_unsync())
    }
}

/// A path as it stands in a request: beginning with `/`, without query, what is no URL character
/// percent-encoded.
///
/// # Errors
/// A sentence with the path and what one is.
pub fn check_path(path: &str) -> Result<(), String> {
    let valid = path.starts_with('/')
        && !path.contains(['?', '#'])
        && path
            .parse::<http::uri::PathAndQuery>()
            .is_ok_and(|parsed| parsed.as_str() == path);
    if valid {
        return Ok(());
    }
    Err(format!(
        "found \"{}\"; a path begins with \"/\" and has no \"?\" and no \"#\"; other characters than those of a URL are percent-encoded",
        path.chars().take(60).collect::<String>()
    ))
}
