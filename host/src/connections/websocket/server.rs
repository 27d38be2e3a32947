//! A WebSocket path of the data port. The connection "dials" by listening: it is connected while the path
//! is served, whoever has come.
//!
//! A message goes to every client that is there. Each has a bounded queue: one that takes nothing for a
//! while is not waited for any more, and one whose queue is full then is cut off. While no client is
//! there, a publish waits, and is `disconnected` in the end, so that the message stays with its action;
//! or it is dropped and counted, as `withoutClient` says.
//!
//! Web pages: a browser sends their `Origin` and no token. Without a token, a page may connect only if
//! its origin stands in `origins`: the port of a host on this machine is within reach of every page that
//! its user looks at.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Context as TaskContext;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::task::AtomicWaker;
use http::HeaderValue;
use http::header::{ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message as Frame, error::ProtocolError};

use super::config::Serving;
use super::wire::{self, End, Moved, Next, Side, Wire};
use super::{frames, subscribe};
use crate::connections::dataport::{Answer, Endpoint, PortLease, Response, Route, Token};
use crate::connections::listener::{self, take_over};
use crate::connections::outbox::PATIENCE;
use crate::connections::takers::Takers;
use crate::connections::{
    Connection, Context, Inbox, Messaging, PublishOptions, SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::message::{Batch, Rejection};

/// Messages, and bytes of them, that wait for one client at most.
const QUEUE: usize = 4096;
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// So many are given to the clients before it is waited for them.
const CHUNK: usize = 256;
/// A client that writes nothing for so long is not waited for until it has caught up.
const LAG: Duration = Duration::from_secs(1);
/// How long clients may take to be told that the connection ends.
const FAREWELL: Duration = Duration::from_millis(800);

/// A connection that serves.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    warnings: Vec<String>,
    open: Mutex<Option<(PortLease, Route)>>,
}

/// What a connection shares with its path and its clients.
#[derive(Debug)]
struct Shared {
    config: Serving,
    context: Context,
    takers: Arc<Takers>,
    clients: Clients,
    useful: AtomicBool,
}

/// The clients that are there.
#[derive(Debug)]
struct Clients {
    list: Mutex<BTreeMap<u64, Arc<Client>>>,
    next: AtomicU64,
    count: watch::Sender<usize>,
    /// Cut off because they were too slow.
    cut: AtomicU64,
    /// A message found nobody, and nobody has come since.
    missed: AtomicBool,
}

/// One client: what waits for it.
#[derive(Debug)]
struct Client {
    queue: Mutex<Queue>,
    filled: AtomicWaker,
    done: watch::Sender<Done>,
    lagging: AtomicBool,
}

/// How far a client is.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// Messages written to it.
    written: u64,
    /// It has gone.
    gone: bool,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Messages that were ever given to it.
    given: u64,
    /// Messages that were taken to be written.
    taken: u64,
    end: Option<(CloseCode, &'static str)>,
    /// Messages go before the end.
    in_order: bool,
}

impl Client {
    fn new() -> Self {
        Self {
            queue: Mutex::default(),
            filled: AtomicWaker::new(),
            done: watch::Sender::default(),
            lagging: AtomicBool::new(false),
        }
    }

    /// Adds messages; what to wait for. None: it is cut off, or was.
    fn offer(&self, frames: &[Frame]) -> Option<u64> {
        let mut queue = self.queue.lock();
        if queue.end.is_some() {
            return None;
        }
        let bytes: usize = frames.iter().map(Frame::len).sum();
        let full = queue.frames.len() + frames.len() > QUEUE || queue.bytes + bytes > QUEUE_BYTES;
        if full && !queue.frames.is_empty() {
            queue.frames = VecDeque::new();
            queue.end = Some((CloseCode::Policy, "too slow"));
            drop(queue);
            self.filled.wake();
            return None;
        }
        queue.frames.extend(frames.iter().cloned());
        queue.bytes += bytes;
        queue.given += u64::try_from(frames.len()).unwrap_or_default();
        let given = queue.given;
        drop(queue);
        self.filled.wake();
        Some(given)
    }

    /// It is to end, after what waits for it.
    fn end(&self, code: CloseCode, reason: &'static str) {
        let mut queue = self.queue.lock();
        queue.end.get_or_insert((code, reason));
        queue.in_order = true;
        drop(queue);
        self.filled.wake();
    }

    /// It takes messages still.
    fn is_open(&self) -> bool {
        self.queue.lock().end.is_none()
    }

    /// Waits until so many messages are written, for a while at most. False: it has gone without them.
    async fn written(&self, given: u64) -> bool {
        // One that lags behind has them in its queue.
        if self.lagging.load(Ordering::Relaxed) {
            return true;
        }
        let mut done = self.done.subscribe();
        let far = done.wait_for(|done| done.gone || done.written >= given);
        match timeout(LAG, far).await {
            Ok(Ok(done)) => done.written >= given,
            Ok(Err(_closed)) => false,
            Err(_elapsed) => {
                self.lagging.store(true, Ordering::Relaxed);
                true
            }
        }
    }
}

/// A client's side of its link; gone from the list when dropped.
struct Served {
    shared: Arc<Shared>,
    client: Arc<Client>,
    number: u64,
}

impl Side for Served {
    fn next(&mut self, cx: &TaskContext<'_>) -> Next {
        self.client.filled.register(cx.waker());
        let mut queue = self.client.queue.lock();
        match queue.end {
            Some((code, reason)) if queue.frames.is_empty() || !queue.in_order => {
                return Next::Close(code, reason);
            }
            _ => {}
        }
        let Some(frame) = queue.frames.pop_front() else {
            return Next::Nothing;
        };
        queue.bytes = queue.bytes.saturating_sub(frame.len());
        queue.taken += 1;
        Next::Frame(frame)
    }

    fn is_cut(&mut self, cx: &TaskContext<'_>) -> bool {
        self.client.filled.register(cx.waker());
        let queue = self.client.queue.lock();
        queue.end.is_some() && !queue.in_order
    }

    fn written(&mut self) {
        let (taken, empty) = {
            let queue = self.client.queue.lock();
            (queue.taken, queue.frames.is_empty())
        };
        if empty {
            self.client.lagging.store(false, Ordering::Relaxed);
        }
        self.client.done.send_modify(|done| done.written = taken);
    }

    fn arrived(&mut self, payload: Bytes) {
        self.shared.useful.store(true, Ordering::Relaxed);
        self.shared
            .takers
            .give(payload, &self.shared.context.traffic);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let clients = &self.shared.clients;
        clients.list.lock().remove(&self.number);
        clients
            .count
            .send_modify(|count| *count = count.saturating_sub(1));
        self.client.done.send_modify(|done| done.gone = true);
    }
}

impl Shared {
    /// What a request has to have before it becomes a WebSocket.
    fn admit(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Answer> {
        let Serving {
            common,
            token,
            origins,
            ..
        } = &self.config;
        if let Some(token) = token
            && !token.is_in(headers)
        {
            return Err(Token::missing());
        }
        if let Some(origin) = headers.get(ORIGIN) {
            let known = |allowed: &String| {
                allowed == "*" || origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes())
            };
            let open = token.is_some() && origins.is_empty();
            if !open && !origins.iter().any(known) {
                let sentence = "this path is not open to web pages of that origin";
                return Err(Answer::new(403, sentence));
            }
        }
        if common.sub_protocols.is_empty() {
            return Ok(None);
        }
        let offered: Vec<&str> = headers
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .collect();
        let chosen = common
            .sub_protocols
            .iter()
            .find(|own| offered.contains(&own.as_str()));
        let chosen = chosen.and_then(|name| HeaderValue::from_str(name).ok());
        match chosen {
            Some(chosen) => Ok(Some(chosen)),
            None => Err(Answer::new(
                400,
                format!(
                    "this path speaks the sub-protocols {}; offer one of them",
                    common.sub_protocols.join(", ")
                ),
            )),
        }
    }

    /// A place among the clients. None: there are too many.
    fn enter(self: &Arc<Self>) -> Option<Served> {
        let clients = &self.clients;
        let mut list = clients.list.lock();
        if list.len() >= self.config.most_clients {
            return None;
        }
        let number = clients.next.fetch_add(1, Ordering::Relaxed);
        let client = Arc::new(Client::new());
        list.insert(number, Arc::clone(&client));
        drop(list);
        clients.missed.store(false, Ordering::Relaxed);
        clients.count.send_modify(|count| *count += 1);
        Some(Served {
            shared: Arc::clone(self),
            client,
            number,
        })
    }

    async fn serve(mut served: Served, stream: listener::Stream) {
        let common = &served.shared.config.common;
        let (keep_alive, most) = (common.keep_alive, common.most);
        let settings = Some(wire::settings(most));
        let socket =
            WebSocketStream::from_raw_socket(Moved::new(stream), Role::Server, settings).await;
        let end = Wire::new(socket, keep_alive, most).run(&mut served).await;
        let context = &served.shared.context;
        if matches!(end, End::TooLarge(_) | End::Malformed(_)) {
            context.traffic.refused.fetch_add(1, Ordering::Relaxed);
        }
        let large = matches!(end, End::TooLarge(_));
        let slow = served
            .client
            .queue
            .lock()
            .end
            .is_some_and(|(code, _)| code == CloseCode::Policy);
        let error = end.error();
        if large {
            context.refused.refused("", Bytes::new(), &error);
        }
        if slow {
            served.shared.clients.cut.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(connection = %context.id, "a WebSocket client was too slow, and was cut off");
        } else {
            tracing::debug!(connection = %context.id, reason = %error.report(), "a WebSocket client has gone");
        }
    }

    /// Gives messages to every client that is there, and waits for those that keep up. False: none has
    /// got them.
    async fn give(&self, frames: &[Frame]) -> bool {
        let clients: Vec<_> = self.clients.list.lock().values().cloned().collect();
        let given: Vec<_> = clients
            .iter()
            .filter_map(|client| Some((client, client.offer(frames)?)))
            .collect();
        let each = given.iter().map(|(client, given)| client.written(*given));
        join_all(each).await.contains(&true)
    }

    fn has_clients(&self) -> bool {
        let list = self.clients.list.lock();
        list.values().any(|client| client.is_open())
    }
}

/// The path.
#[derive(Debug)]
struct Path(Arc<Shared>);

#[async_trait]
impl Endpoint for Path {
    async fn serve(&self, mut request: Request<Incoming>) -> Response {
        match self.upgrade(&mut request) {
            Ok(response) => response,
            Err(answer) => answer.response(),
        }
    }
}

impl Path {
    fn upgrade(&self, request: &mut Request<Incoming>) -> Result<Response, Answer> {
        let protocol = self.0.admit(request.headers())?;
        let mut response = create_response_with_body(request, Full::<Bytes>::default).map_err(
            |error| match error {
                tokio_tungstenite::tungstenite::Error::Protocol(
                    ProtocolError::MissingConnectionUpgradeHeader
                    | ProtocolError::MissingUpgradeWebSocketHeader
                    | ProtocolError::WrongHttpVersion,
                ) => Answer::new(426, "this path takes WebSockets: Upgrade: websocket"),
                other => Answer::new(400, format!("this is no WebSocket handshake: {other}")),
            },
        )?;
        if let Some(protocol) = protocol {
            let headers = response.headers_mut();
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let Some(served) = self.0.enter() else {
            return Err(Answer::unavailable("too many clients are connected", 10));
        };
        take_over(request, |stream| Shared::serve(served, stream))
            .map_err(|why| Answer::new(426, format!("{why}: this path takes WebSockets")))?;
        Ok(response)
    }
}

impl Server {
    pub(super) fn new(config: Serving, context: Context, warnings: Vec<String>) -> Self {
        Self {
            shared: Arc::new(Shared {
                config,
                context,
                takers: Arc::default(),
                clients: Clients {
                    list: Mutex::default(),
                    next: AtomicU64::new(0),
                    count: watch::Sender::new(0),
                    cut: AtomicU64::new(0),
                    missed: AtomicBool::new(false),
                },
                useful: AtomicBool::new(false),
            }),
            warnings,
            open: Mutex::new(None),
        }
    }
}

#[async_trait]
impl Connection for Server {
    async fn connect(&self) -> Result<(), ConnectionError> {
        let Context {
            tenant, id, port, ..
        } = &self.shared.context;
        let lease = port.open().await?;
        let endpoint = Arc::new(Path(Arc::clone(&self.shared)));
        let path = &self.shared.config.common.path;
        let route = port
            .serve(tenant, path, Method::GET, id, endpoint)
            .map_err(|taken| ConnectionError::disconnected("path", taken.to_string()).slow())?;
        *self.open.lock() = Some((lease, route));
        Ok(())
    }

    /// The listener does not end by itself.
    async fn lost(&self) -> ConnectionError {
        std::future::pending().await
    }

    /// What waits for the clients is written, then each is told.
    async fn close(&self) {
        let open = self.open.lock().take();
        // Nobody comes any more, but the listener stays until they have gone.
        let lease = open.map(|(lease, _route)| lease);
        let clients: Vec<_> = self.shared.clients.list.lock().values().cloned().collect();
        for client in clients {
            client.end(CloseCode::Away, "the host is closing this connection");
        }
        let mut count = self.shared.clients.count.subscribe();
        if timeout(FAREWELL, count.wait_for(|count| *count == 0))
            .await
            .is_err()
        {
            tracing::debug!(connection = %self.shared.context.id, "clients did not leave in time");
        }
        drop(lease);
    }

    fn was_useful(&self) -> bool {
        self.shared.useful.load(Ordering::Relaxed)
    }

    fn peer(&self) -> Option<String> {
        let open = self.open.lock();
        let (lease, _) = open.as_ref()?;
        Some(format!(
            "{}{}",
            lease.address(),
            self.shared.config.common.path
        ))
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.clone();
        let public = self
            .open
            .lock()
            .as_ref()
            .is_some_and(|(lease, _)| !lease.address().ip().is_loopback());
        if public && self.shared.config.token.is_none() {
            warnings.push(
                "the data port is open to other machines and this connection has no token: anybody there can connect"
                    .to_owned(),
            );
        }
        let clients = &self.shared.clients;
        if clients.missed.load(Ordering::Relaxed) {
            let fate = if self.shared.config.drops {
                "are dropped"
            } else {
                "wait"
            };
            warnings.push(format!("no client is connected: messages {fate}"));
        }
        let cut = clients.cut.load(Ordering::Relaxed);
        if cut > 0 {
            warnings.push(format!("{cut} clients were too slow and were cut off"));
        }
        warnings
    }

    fn messaging(&self) -> Option<&dyn Messaging> {
        Some(self)
    }
}

#[async_trait]
impl Messaging for Server {
    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        let shared = &self.shared;
        subscribe(
            &shared.config.common,
            &shared.takers,
            filters,
            options,
            inbox,
        )
    }

    async fn publish(
        &self,
        batch: &Batch,
        options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        let make = frames(&self.shared.config.common, options)?;
        let (mut ready, mut rejections) = (Vec::with_capacity(batch.len()), Vec::new());
        for (index, message) in (0_u32..).zip(batch.iter()) {
            match make(message) {
                Ok(frame) => ready.push((index, frame)),
                Err(error) => rejections.push(Rejection { index, error }),
            }
        }
        let traffic = &self.shared.context.traffic;
        let until = Instant::now() + PATIENCE;
        let mut written = 0;
        let mut count = self.shared.clients.count.subscribe();
        while let Some(chunk) = ready.get(written..).filter(|rest| !rest.is_empty()) {
            let chunk: Vec<_> = chunk.iter().take(CHUNK).collect();
            let frames: Vec<Frame> = chunk.iter().map(|(_, frame)| frame.clone()).collect();
            if self.shared.give(&frames).await {
                written += chunk.len();
                self.shared.useful.store(true, Ordering::Relaxed);
                let bytes: usize = frames.iter().map(Frame::len).sum();
                let bytes = u64::try_from(bytes).unwrap_or_default();
                let messages = u64::try_from(chunk.len()).unwrap_or_default();
                traffic.messages_out.fetch_add(messages, Ordering::Relaxed);
                traffic.bytes_out.fetch_add(bytes, Ordering::Relaxed);
                continue;
            }
            if !self.shared.has_clients() {
                let missed = &self.shared.clients.missed;
                missed.store(true, Ordering::Relaxed);
            }
            if self.shared.config.drops {
                let dropped = u64::try_from(ready.len() - written).unwrap_or_default();
                traffic.dropped.fetch_add(dropped, Ordering::Relaxed);
                return Ok(rejections);
            }
            count.mark_unchanged();
            let came = async {
                while !self.shared.has_clients() {
                    if count.changed().await.is_err() {
                        return;
                    }
                }
            };
            if timeout_at(until, came).await.is_err() {
                break;
            }
        }
        let alone = || ConnectionError::disconnected("no-client", "no client is connected");
        if written == 0 && !ready.is_empty() {
            return Err(alone());
        }
        let left = ready.get(written..).unwrap_or_default();
        rejections.extend(left.iter().map(|(index, _)| Rejection {
            index: *index,
            error: alone(),
        }));
        Ok(rejections)
    }
}
