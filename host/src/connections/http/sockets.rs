//! The sockets to one server. One of HTTP/1.1 carries a request at a time and waits for the next in
//! between; a connection of HTTP/2 carries all of them. Dials, sends a request, reads its answer with
//! a bound. Follows no redirect; knows nothing of the link.
//!
//! A socket of HTTP/1.1 has no task of its own: whoever sends over it drives it. So a request is one
//! write and one read of the task that waits for it, and no word passes between tasks.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, HeaderMap, HeaderValue, RANGE, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::runtime::Handle;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::failure;
use crate::connections::tls::TlsConfig;
use crate::connections::transport::{self, Dial, Endpoint, Stream};
use crate::error::ConnectionError;

/// How long a dial may take to reach the server, TLS included.
pub(super) const REACH: Duration = Duration::from_secs(5);
/// How long a socket waits for its next request: less than what servers usually grant (nginx: 75 s).
const IDLE: Duration = Duration::from_secs(50);
/// How often those are looked for that have waited too long.
pub(super) const SWEEP: Duration = Duration::from_secs(25);
/// A connection of HTTP/2 on which nothing comes is asked whether it lives, and given up without answer.
const ASK: Duration = Duration::from_secs(20);
const GIVE_UP: Duration = Duration::from_secs(10);
/// So many sockets that have ended are tried before one is dialled, where others wait too.
const ENDED: usize = 32;
/// What is offered in a TLS handshake.
pub(super) const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

const AGENT: &str = concat!("windlass/", env!("CARGO_PKG_VERSION"));
const UNPACKED: &str = "gzip, zstd";

type Body = Full<Bytes>;
type Io = TokioIo<Box<dyn Stream>>;
type Drive = http1::Connection<Io, Body>;

/// What stands before a request's body, put together once for many of them.
#[derive(Clone, Debug)]
pub(super) struct Head {
    method: Method,
    /// Path and query: HTTP/1.1.
    origin: Uri,
    /// The whole of it: HTTP/2.
    absolute: Uri,
    headers: HeaderMap,
}

impl Head {
    /// `host` is what stands in the header of that name. What a client of HTTP says of itself is added
    /// where `headers` does not.
    ///
    /// # Errors
    /// `permanent`: the URL cannot be sent.
    pub(super) fn new(
        method: Method,
        url: &Url,
        host: &str,
        mut headers: HeaderMap,
    ) -> Result<Self, ConnectionError> {
        let unfit = || ConnectionError::permanent("http:path", "the path cannot be sent");
        let host = HeaderValue::from_str(host).map_err(|_| unfit())?;
        headers.insert(HOST, host);
        let mut add = |name, value| {
            headers
                .entry(name)
                .or_insert(HeaderValue::from_static(value));
        };
        add(ACCEPT, "*/*");
        add(USER_AGENT, AGENT);
        if !headers.contains_key(RANGE) {
            headers
                .entry(ACCEPT_ENCODING)
                .or_insert(HeaderValue::from_static(UNPACKED));
        }
        let (origin, absolute) = target(url).ok_or_else(unfit)?;
        Ok(Self {
            method,
            origin,
            absolute,
            headers,
        })
    }

    /// The method.
    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// The same to another URL of the same server.
    ///
    /// # Errors
    /// As [`Head::new`].
    pub(super) fn moved(&self, method: Method, url: &Url) -> Result<Self, ConnectionError> {
        let host = self.headers.get(HOST).and_then(|host| host.to_str().ok());
        Self::new(method, url, host.unwrap_or_default(), self.headers.clone())
    }

    fn first(&self, body: &Bytes) -> Request<Body> {
        self.request(self.origin.clone(), self.headers.clone(), body)
    }

    /// Without `Host`, which the URL says (RFC 9113, section 8.3.1).
    fn second(&self, body: &Bytes) -> Request<Body> {
        let mut headers = self.headers.clone();
        headers.remove(HOST);
        self.request(self.absolute.clone(), headers, body)
    }

    fn request(&self, uri: Uri, headers: HeaderMap, body: &Bytes) -> Request<Body> {
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        request
    }
}

/// Path and query alone, and the whole of a URL.
fn target(url: &Url) -> Option<(Uri, Uri)> {
    let absolute: Uri = url.as_str().parse().ok()?;
    let origin = Uri::from(absolute.path_and_query()?.clone());
    Some((origin, absolute))
}

/// An answer with as much of its body as was wanted.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// There was more.
    pub(super) truncated: bool,
}

/// A socket of HTTP/1.1.
struct Socket {
    send: http1::SendRequest<Body>,
    /// None: it has ended.
    drive: Option<Drive>,
    /// When its last request was over.
    since: Instant,
}

/// A connection of HTTP/2, and the task that drives it.
struct Shared {
    send: http2::SendRequest<Body>,
    _task: AbortOnDropHandle<()>,
}

/// What carries the next request.
enum Line {
    First(Box<Socket>),
    Second(http2::SendRequest<Body>),
}

/// Why there is no answer.
enum Failed {
    /// The socket had ended before anything was sent.
    Unsent,
    Broken(ConnectionError),
}

/// See the module.
pub(super) struct Sockets {
    endpoint: Endpoint,
    secure: Option<(ServerName<'static>, Arc<ClientConfig>)>,
    /// The newest last: what is too much grows old.
    #[expect(
        clippy::vec_box,
        reason = "it is large, and goes in and out with each request"
    )]
    waiting: Mutex<Vec<Box<Socket>>>,
    shared: Mutex<Option<Shared>>,
    /// The last handshake agreed on HTTP/2.
    shares: AtomicBool,
    /// One dial at a time where one connection is enough.
    dialling: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets")
            .field("waiting", &self.waiting.lock().len())
            .field("shared", &self.shared.lock().is_some())
            .finish_non_exhaustive()
    }
}

impl Sockets {
    /// Dials nothing yet. `secure`: the name that the server must prove, and how.
    pub(super) fn new(
        host: String,
        port: u16,
        secure: Option<(ServerName<'static>, Arc<ClientConfig>)>,
    ) -> Self {
        Self {
            endpoint: Endpoint::new(host, port, false),
            secure,
            waiting: Mutex::default(),
            shared: Mutex::default(),
            shares: AtomicBool::new(false),
            dialling: tokio::sync::Mutex::default(),
        }
    }

    /// Dials once. What it gives waits for the first request.
    ///
    /// # Errors
    /// `disconnected`.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn reach(&self) -> Result<(), ConnectionError> {
        if let Line::First(socket) = self.dial().await? {
            self.waiting.lock().push(socket);
        }
        Ok(())
    }

    /// Sends it and reads the answer, `most` bytes of its body as they came.
    ///
    /// # Errors
    /// No answer, or one that breaks off.
    ///
    /// # Cancel safety
    /// The request may have arrived; its socket is closed.
    pub(super) async fn send(
        &self,
        head: &Head,
        body: &Bytes,
        most: usize,
    ) -> Result<Answer, ConnectionError> {
        for _ in 0..ENDED {
            let Some(line) = self.at_hand() else { break };
            match self.over(line, head, body, most).await {
                Err(Failed::Unsent) => {}
                Err(Failed::Broken(error)) => return Err(error),
                Ok(answer) => return Ok(answer),
            }
        }
        let line = self.line().await?;
        let answer = self.over(line, head, body, most).await;
        answer.map_err(|failed| match failed {
            Failed::Broken(error) => error,
            Failed::Unsent => failure::closed(),
        })
    }

    /// Closes what has waited too long, or has ended.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let is_good = |socket: &mut Box<Socket>| now < socket.since + IDLE && socket.is_alive();
        self.waiting.lock().retain_mut(is_good);
    }

    async fn over(
        &self,
        line: Line,
        head: &Head,
        body: &Bytes,
        most: usize,
    ) -> Result<Answer, Failed> {
        match line {
            Line::First(mut socket) => {
                let answer = socket.send(head.first(body), most).await?;
                // What was not read to its end is of no use any more.
                if !answer.truncated && socket.is_free() {
                    socket.since = Instant::now();
                    self.waiting.lock().push(socket);
                }
                Ok(answer)
            }
            Line::Second(mut send) => {
                send.ready().await.map_err(|_| Failed::Unsent)?;
                let sent = send.try_send_request(head.second(body)).await;
                let (parts, body) = sent.map_err(not_answered)?.into_parts();
                let read = read(&mut None, body, most).await;
                answered(parts, read)
            }
        }
    }

    fn at_hand(&self) -> Option<Line> {
        if self.shares.load(Ordering::Relaxed)
            && let Some(shared) = &*self.shared.lock()
            && !shared.send.is_closed()
        {
            return Some(Line::Second(shared.send.clone()));
        }
        let mut waiting = self.waiting.lock();
        let socket = waiting.pop()?;
        if Instant::now() >= socket.since + IDLE {
            // The newest has waited too long, and so have all.
            waiting.clear();
            return None;
        }
        // Whether it has ended meanwhile is seen before anything is sent over it.
        Some(Line::First(socket))
    }

    /// A new one; or the one that somebody else has just dialled for all.
    async fn line(&self) -> Result<Line, ConnectionError> {
        if !self.shares.load(Ordering::Relaxed) {
            return self.dial().await;
        }
        let _alone = self.dialling.lock().await;
        match self.at_hand() {
            Some(line) => Ok(line),
            None => self.dial().await,
        }
    }

    async fn dial(&self) -> Result<Line, ConnectionError> {
        match timeout(REACH, self.connect()).await {
            Ok(line) => line,
            Err(_elapsed) => Err(ConnectionError::disconnected(
                "timeout",
                "the server does not answer",
            )),
        }
    }

    async fn connect(&self) -> Result<Line, ConnectionError> {
        let how = Dial {
            // Over the stream comes the one configuration of all dials.
            tls: &TlsConfig::default(),
            alpn: &[],
            websocket_protocol: "",
            websocket_limit: 0,
            user_timeout: None,
            probe: None,
        };
        let stream = transport::open(&self.endpoint, &how).await?;
        let Some((name, config)) = &self.secure else {
            return first(stream).await;
        };
        let stream = transport::secure(stream, name.clone(), Arc::clone(config)).await?;
        let shares = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.shares.store(shares, Ordering::Relaxed);
        let stream: Box<dyn Stream> = Box::new(stream);
        if !shares {
            return first(stream).await;
        }
        let shared = second(stream).await?;
        let send = shared.send.clone();
        *self.shared.lock() = Some(shared);
        Ok(Line::Second(send))
    }
}

async fn first(stream: Box<dyn Stream>) -> Result<Line, ConnectionError> {
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (send, drive) = shaken.map_err(|error| failure::of(error, false))?;
    Ok(Line::First(Box::new(Socket {
        send,
        drive: Some(drive),
        since: Instant::now(),
    })))
}

async fn second(stream: Box<dyn Stream>) -> Result<Shared, ConnectionError> {
    let shaken = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(ASK)
        .keep_alive_timeout(GIVE_UP)
        .handshake(TokioIo::new(stream))
        .await;
    let (send, drive) = shaken.map_err(|error| failure::of(error, false))?;
    // How it ends is said to the requests on it.
    let task = Handle::current().spawn(async move { drop(drive.await) });
    Ok(Shared {
        send,
        _task: AbortOnDropHandle::new(task),
    })
}

impl Socket {
    async fn send(&mut self, request: Request<Body>, most: usize) -> Result<Answer, Failed> {
        let sent = self.send.try_send_request(request);
        let sent = driven(&mut self.drive, sent).await;
        let (parts, body) = sent.map_err(not_answered)?.into_parts();
        let read = read(&mut self.drive, body, most).await;
        answered(parts, read)
    }

    /// What has come meanwhile (its end, most of all) is looked at. False: it has ended.
    fn is_alive(&mut self) -> bool {
        turn(&mut self.drive, &mut Context::from_waker(Waker::noop()));
        self.drive.is_some() && !self.send.is_closed()
    }

    /// It can carry another request.
    fn is_free(&mut self) -> bool {
        self.send.is_ready() || (self.is_alive() && self.send.is_ready())
    }
}

fn turn(drive: &mut Option<Drive>, context: &mut Context<'_>) {
    if let Some(running) = drive
        && Pin::new(running).poll(context).is_ready()
    {
        *drive = None;
    }
}

/// Does `work`, which waits for what the socket brings, and the socket's own work.
///
/// Only the socket wakes the task: `work` is looked at after each of its turns, and to be woken for that
/// by the socket's own hand would be a second turn for nothing. So `work` must not yield for the sake
/// of other tasks either: nobody would hear that it wants to go on.
async fn driven<T>(drive: &mut Option<Drive>, work: impl Future<Output = T>) -> T {
    let mut work = pin!(unconstrained(work));
    poll_fn(|context| {
        turn(drive, context);
        match drive {
            Some(_) => work.as_mut().poll(&mut Context::from_waker(Waker::noop())),
            None => work.as_mut().poll(context),
        }
    })
    .await
}

/// The body, `most` bytes of it; true: there was more. What is not read is not fetched.
async fn read(
    drive: &mut Option<Drive>,
    mut body: Incoming,
    most: usize,
) -> Result<(Bytes, bool), hyper::Error> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while !body.is_end_stream() {
        let Some(frame) = driven(drive, body.frame()).await else {
            break;
        };
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        // Most bodies come in one piece, which needs no copy.
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
        if first.len().max(all.len()) > most {
            break;
        }
    }
    let mut whole = if all.is_empty() { first } else { all.freeze() };
    let more = whole.len() > most;
    whole.truncate(most);
    Ok((whole, more))
}

fn not_answered(error: TrySendError<Request<Body>>) -> Failed {
    if error.message().is_some() {
        return Failed::Unsent;
    }
    Failed::Broken(failure::of(error.into_error(), false))
}

fn answered(
    parts: http::response::Parts,
    read: Result<(Bytes, bool), hyper::Error>,
) -> Result<Answer, Failed> {
    let (body, truncated) = read.map_err(|error| Failed::Broken(failure::of(error, true)))?;
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body,
        truncated,
    })
}

#[cfg(test)]
mod tests;
