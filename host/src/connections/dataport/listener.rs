//! The listener and its clients: accepts, does TLS, speaks HTTP/1.1 and 2, ends in order.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Version;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::DataPort;
use super::watch::{HEAD, Watch, Watched};
use crate::error::ConnectionError;

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

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 55\r\n\r\n{\"error\":503,\"message\":\"too many connections are open\"}";

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

/// Binds and begins to accept, until the token is cancelled.
pub(super) async fn listen(
    port: &DataPort,
) -> Result<(SocketAddr, CancellationToken), ConnectionError> {
    let inner = &port.0;
    if let Some(tls) = &inner.tls {
        tls.config()?;
    }
    let mut wanted = inner.settings.address;
    if wanted.port() == 0
        && let Some(before) = *inner.address.lock()
    {
        wanted = before;
    }
    let failed = |error: std::io::Error| {
        let sentence = match error.kind() {
            std::io::ErrorKind::AddrInUse => "the data port is taken by another program",
            std::io::ErrorKind::PermissionDenied => "the data port may not be listened on",
            _ => "the data port cannot be listened on",
        };
        ConnectionError::disconnected("listen", sentence).caused_by(format!("{wanted}: {error}"))
    };
    let listener = TcpListener::bind(wanted).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let stop = CancellationToken::new();
    let (port, ended) = (port.clone(), stop.clone());
    inner.tasks.spawn(async move {
        tokio::select! {
            () = accept(&port, &listener, &ended) => {}
            () = ended.cancelled() => {}
        }
    });
    Ok((address, stop))
}

async fn accept(port: &DataPort, listener: &TcpListener, stop: &CancellationToken) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _from)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a client of the data port could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&port.0.connections).try_acquire_owned() else {
            if port.0.tls.is_none() {
                // What does not fit into an empty socket buffer at once is not worth waiting for.
                stream.try_write(FULL).ok();
            }
            continue;
        };
        let (served, stop) = (port.clone(), stop.clone());
        port.0.tasks.spawn(async move {
            client(served, stream, stop).await;
            drop(permit);
        });
    }
}

async fn client(port: DataPort, stream: TcpStream, stop: CancellationToken) {
    // Refused only for a socket that is gone already.
    stream.set_nodelay(true).ok();
    let Some(tls) = &port.0.tls else {
        return speak(port, stream, stop).await;
    };
    let config = match tls.config() {
        Ok(config) => config,
        Err(error) => {
            tracing::warn!(error = %error.report(), "a client of the data port cannot be served");
            return;
        }
    };
    match timeout(HEAD, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => speak(port, stream, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake on the data port failed"),
        Err(_elapsed) => tracing::debug!("a TLS handshake on the data port took too long"),
    }
}

async fn speak<S>(port: DataPort, stream: S, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = Watch::new();
    let io = TokioIo::new(Watched {
        stream,
        watch: Arc::clone(&watch),
    });
    let mut builder = Builder::new(Tracked(port.0.tasks.clone()));
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
    let serving = Arc::clone(&watch);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let busy = serving.request(request.version() == Version::HTTP_2);
        let port = port.clone();
        async move {
            let response = port.answer(request).await;
            drop(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = watch.over() => {
            tracing::debug!("a client of the data port was too slow, or silent for long");
            return;
        }
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
        tracing::debug!(%error, "a client of the data port ended in the middle");
    }
}
