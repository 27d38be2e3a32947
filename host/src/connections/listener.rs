//! An HTTP listener and its clients, for the data port and for REST: accepts, does TLS, speaks
//! HTTP/1.1 and 2, bounds connections, heads and slow clients, ends in order. Knows nothing of what
//! is served.
//!
//! Whoever has not sent a whole head has no claim on a place: when all places are taken, the one that
//! has been silent for longest makes room. So sockets left half open do not keep others out.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::UPGRADE;
use hyper::service::service_fn;
use hyper::{Request, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::tls::ServerTls;
use crate::error::ConnectionError;

pub mod body;
mod upgrade;
mod watch;

use upgrade::Client;
pub use upgrade::{NotUpgradable, Stream, take_over};
use watch::{Busy, HEAD, Watch, Watched};

/// The largest head of a request, in bytes; one more is answered 431.
const MOST_HEAD: usize = 32 * 1024;
/// Headers in it.
const MOST_HEADERS: usize = 100;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 128;
/// How long a client may take to read its last answers when the listener ends.
const GRACE: Duration = Duration::from_secs(2);
/// After a failed accept (no file handles left), so that it is no busy loop.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a new client waits for the place of one that was sent away.
const ROOM: Duration = Duration::from_secs(1);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 55\r\n\r\n{\"error\":503,\"message\":\"too many connections are open\"}";

/// The body of an answer: whole, or a stream.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn StdError + Send + Sync>>;
/// An answer.
pub type Response = hyper::Response<Body>;

/// Who answers the requests.
#[async_trait]
pub trait Serve: Send + Sync + fmt::Debug + 'static {
    /// Answers one request. Where it came from is a [`Peer`] in its extensions. With [`take_over`] the
    /// connection goes on as something else.
    ///
    /// # Cancel safety
    /// Dropped when the client goes away before the answer.
    async fn serve(&self, request: Request<Incoming>) -> Response;
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// How a listener is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What it is called in errors and logs: `the data port`.
    pub name: &'static str,
    /// Where it listens; port 0: any free one.
    pub address: SocketAddr,
    /// PEM files of the certificate with its chain and of its private key. None: plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Connections at once; one more is answered 503 and closed, unless a silent one makes room.
    pub max_connections: usize,
    /// HTTP/2 is spoken too.
    pub http2: bool,
}

/// A listener, whether it listens or not. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Listener(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    tls: Option<ServerTls>,
    /// Where it listened last: what was any free port stays the same one.
    address: Mutex<Option<SocketAddr>>,
    places: Arc<Semaphore>,
    taken: Mutex<Taken>,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    watches: HashMap<u64, Arc<Watch>>,
}

/// A client's place among the connections.
struct Place {
    listener: Listener,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// It is not to make room for another client, however silent it is.
    fn keep(&self) {
        self.listener.0.taken.lock().watches.remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.keep();
    }
}

/// Runs the tasks that HTTP/2 needs for its streams.
#[derive(Clone, Debug)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

impl Listener {
    /// One that does not listen yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let protocols: &[&[u8]] = if settings.http2 {
            &[b"h2", b"http/1.1"]
        } else {
            &[b"http/1.1"]
        };
        let tls = settings
            .tls
            .clone()
            .map(|(certificates, key)| ServerTls::new(certificates, key, protocols));
        Self(Arc::new(Inner {
            places: Arc::new(Semaphore::new(settings.max_connections)),
            settings,
            tls,
            address: Mutex::new(None),
            taken: Mutex::default(),
            tasks: TaskTracker::new(),
        }))
    }

    /// It speaks TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.tls.is_some()
    }

    /// Binds and begins to accept, until the token is cancelled; then requests under way are answered,
    /// for a short while.
    ///
    /// # Errors
    /// `disconnected`: the address cannot be listened on at present, or the TLS files cannot be used.
    pub async fn listen(
        &self,
        serve: Arc<dyn Serve>,
        stop: CancellationToken,
    ) -> Result<SocketAddr, ConnectionError> {
        let inner = &self.0;
        if let Some(tls) = &inner.tls {
            tls.config()?;
        }
        let mut wanted = inner.settings.address;
        if wanted.port() == 0
            && let Some(before) = *inner.address.lock()
        {
            wanted = before;
        }
        let name = inner.settings.name;
        let failed = |error: std::io::Error| {
            let sentence = match error.kind() {
                std::io::ErrorKind::AddrInUse => format!("{name} is taken by another program"),
                std::io::ErrorKind::PermissionDenied => format!("{name} may not be listened on"),
                _ => format!("{name} cannot be listened on"),
            };
            ConnectionError::disconnected("listen", sentence)
                .caused_by(format!("{wanted}: {error}"))
        };
        let listener = TcpListener::bind(wanted).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        *inner.address.lock() = Some(address);
        let this = self.clone();
        inner.tasks.spawn(async move {
            tokio::select! {
                () = this.accept(&listener, &serve, &stop) => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(address)
    }

    /// Waits until every connection has ended; those that do not in time are cut when the runtime ends.
    pub async fn ended(&self, limit: Duration) {
        self.0.tasks.close();
        if timeout(limit, self.0.tasks.wait()).await.is_err() {
            let (name, left) = (self.0.settings.name, self.0.tasks.len());
            tracing::warn!(left, "clients of {name} did not end in time");
        }
    }

    async fn accept(
        &self,
        listener: &TcpListener,
        serve: &Arc<dyn Serve>,
        stop: &CancellationToken,
    ) {
        let name = self.0.settings.name;
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a client of {name} could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let watch = Watch::new();
            let Some(place) = self.place(&watch).await else {
                if self.0.tls.is_none() {
                    // What does not fit into an empty socket buffer at once is not worth waiting for.
                    stream.try_write(FULL).ok();
                }
                continue;
            };
            let (this, serve) = (self.clone(), Arc::clone(serve));
            let client = Client {
                place: Arc::new(place),
                stop: stop.clone(),
            };
            self.0.tasks.spawn(async move {
                let over = Arc::clone(&watch);
                tokio::select! {
                    () = this.client(stream, from, watch, serve, client) => {}
                    () = over.over() => {
                        tracing::debug!("a client of {name} was too slow, or silent for long");
                    }
                }
            });
        }
    }

    /// A place for a new client, if need be that of the client which has been silent for longest.
    async fn place(&self, watch: &Arc<Watch>) -> Option<Place> {
        let places = Arc::clone(&self.0.places);
        let permit = match places.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_full) => {
                self.send_one_away()?;
                timeout(ROOM, places.acquire_owned()).await.ok()?.ok()?
            }
        };
        let mut taken = self.0.taken.lock();
        taken.next += 1;
        let number = taken.next;
        taken.watches.insert(number, Arc::clone(watch));
        Some(Place {
            listener: self.clone(),
            number,
            _permit: permit,
        })
    }

    fn send_one_away(&self) -> Option<()> {
        let taken = self.0.taken.lock();
        let silent = taken
            .watches
            .values()
            .filter_map(|watch| Some((watch.silent()?, watch)));
        let (_, longest) = silent.min_by_key(|(since, _)| *since)?;
        longest.end();
        Some(())
    }

    async fn client(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        watch: Arc<Watch>,
        serve: Arc<dyn Serve>,
        client: Client,
    ) {
        // Refused only for a socket that is gone already.
        stream.set_nodelay(true).ok();
        let name = self.0.settings.name;
        let Some(tls) = &self.0.tls else {
            return self.speak(stream, from, watch, serve, client).await;
        };
        let config = match tls.config() {
            Ok(config) => config,
            Err(error) => {
                tracing::warn!(error = %error.report(), "a client of {name} cannot be served");
                return;
            }
        };
        match timeout(HEAD, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => {
                watch.begin();
                self.speak(stream, from, watch, serve, client).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake with {name} failed"),
            Err(_elapsed) => tracing::debug!("a TLS handshake with {name} took too long"),
        }
    }

    async fn speak<S>(
        &self,
        stream: S,
        from: SocketAddr,
        watch: Arc<Watch>,
        serve: Arc<dyn Serve>,
        client: Client,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(Watched {
            stream,
            watch: Arc::clone(&watch),
        });
        let stop = client.stop.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let busy = watch.request(request.version() == Version::HTTP_2);
            let serve = Arc::clone(&serve);
            request.extensions_mut().insert(Peer(from));
            if request.headers().contains_key(UPGRADE) {
                request.extensions_mut().insert(client.clone());
            }
            async move {
                let response = serve.serve(request).await;
                Ok::<_, Infallible>(response.map(|body| Guarded { body, _busy: busy }))
            }
        });
        let builder = self.builder();
        let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = stop.cancelled() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                match timeout(GRACE, connection).await {
                    Ok(ended) => ended,
                    Err(_elapsed) => return,
                }
            }
        };
        if let Err(error) = ended {
            let name = self.0.settings.name;
            tracing::debug!(%error, "a client of {name} ended in the middle");
        }
    }

    fn builder(&self) -> Builder<Tracked> {
        let mut builder = Builder::new(Tracked(self.0.tasks.clone()));
        if !self.0.settings.http2 {
            builder = builder.http1_only();
        }
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(MOST_HEAD)
            .max_headers(MOST_HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(MOST_HEAD).unwrap_or(u32::MAX))
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_send_buf_size(64 * 1024)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        builder
    }
}

/// A body whose client counts as busy until all of it is on its way.
struct Guarded {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for Guarded {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
