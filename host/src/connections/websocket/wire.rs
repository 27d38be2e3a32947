//! One WebSocket, whoever has dialled it: moves frames both ways, keeps the link alive and notices when
//! it is dead. It always reads, whatever its writes do. Knows nothing of takers and queues: those are its
//! [`Side`]'s.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use crate::connections::tls;
use crate::error::ConnectionError;

/// How much is put together before it is written, give or take one message.
const WRITE_BUDGET: usize = 64 * 1024;
/// Turns before other tasks get their chance.
const TURNS: usize = 32;
/// How long the other side may take to answer a close.
const GOODBYE: Duration = Duration::from_millis(500);

/// What is to be written next.
#[derive(Debug)]
pub(super) enum Next {
    Frame(Message),
    /// Nothing now; the task is woken when there is.
    Nothing,
    /// The link is to end so.
    Close(CloseCode, &'static str),
}

/// Whose link it is.
pub(super) trait Side: Send {
    /// What to write next; the task is woken when there is more.
    fn next(&mut self, cx: &Context<'_>) -> Next;
    /// Nothing more goes to the other side, though it has not taken all; the task is woken when that
    /// comes to be so.
    fn is_cut(&mut self, _cx: &Context<'_>) -> bool {
        false
    }
    /// Everything that [`Side::next`] gave is written.
    fn written(&mut self);
    /// Some of it got through.
    fn moving(&mut self) {}
    /// A message has come.
    fn arrived(&mut self, payload: Bytes);
}

/// Why a link ended.
#[derive(Debug)]
pub(super) enum End {
    /// [`Next::Close`], and the other side has answered or had its time.
    Closed,
    /// The other side closed it, with its code and its words if it gave any.
    Left(Option<(u16, String)>),
    /// The connection broke off.
    Broken(std::io::Error),
    /// Nothing was heard for too long.
    Silent,
    /// A message of more bytes than are allowed.
    TooLarge(usize),
    /// What it sent is no WebSocket.
    Malformed(Error),
}

impl End {
    /// In the words of a status.
    pub(super) fn error(self) -> ConnectionError {
        match self {
            Self::Closed => ConnectionError::disconnected("closed", "the connection was closed"),
            Self::Left(None) => {
                ConnectionError::disconnected("closed", "the other side closed the connection")
            }
            Self::Left(Some((code, words))) => {
                let words = printable(&words);
                let why = if words.is_empty() {
                    format!("the other side closed the connection with code {code}")
                } else {
                    format!("the other side closed the connection with code {code}: {words}")
                };
                let error = ConnectionError::disconnected(format!("websocket:{code}"), why);
                // Policy, and those beyond 3000, which are the applications' own refusals.
                if code == 1008 || code >= 3000 {
                    error.slow()
                } else {
                    error
                }
            }
            Self::Broken(error) => tls::explain(&error).unwrap_or_else(|| {
                ConnectionError::disconnected("io", "the link broke").caused_by(error)
            }),
            Self::Silent => {
                ConnectionError::disconnected("timeout", "the other side does not answer")
            }
            Self::TooLarge(most) => ConnectionError::disconnected(
                "too-large",
                format!("the other side sent a message of more than {most} bytes"),
            )
            .slow(),
            Self::Malformed(error) => ConnectionError::disconnected(
                "websocket:malformed",
                "what the other side sent is not valid WebSocket",
            )
            .caused_by(error)
            .slow(),
        }
    }

    /// What to tell the other side, if it can still be told (RFC 6455, 7.4.1).
    fn farewell(&self) -> Option<(CloseCode, &'static str)> {
        match self {
            Self::TooLarge(_) => Some((CloseCode::Size, "the message is too large")),
            Self::Malformed(Error::Utf8(_)) => Some((CloseCode::Invalid, "the text is no UTF-8")),
            Self::Malformed(_) => Some((CloseCode::Protocol, "this is not valid WebSocket")),
            Self::Silent => Some((CloseCode::Policy, "nothing was heard for too long")),
            Self::Closed | Self::Left(_) | Self::Broken(_) => None,
        }
    }
}

/// Others' words, safe for a status line.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

/// How each WebSocket is set up.
pub(super) fn settings(most: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(most))
        .max_frame_size(Some(most))
        .read_buffer_size(16 * 1024)
        .write_buffer_size(WRITE_BUDGET)
}

pub(super) fn close_frame(code: CloseCode, reason: &'static str) -> Message {
    Message::Close(Some(CloseFrame {
        code,
        reason: Utf8Bytes::from_static(reason),
    }))
}

/// A stream that notes that something got through, either way: a large message on a slow link is no
/// standstill.
#[derive(Debug)]
pub(super) struct Moved<S> {
    stream: S,
    /// Out.
    moved: bool,
    /// In.
    heard: bool,
}

impl<S> Moved<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            moved: false,
            heard: false,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Moved<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.heard |= buf.filled().len() > before;
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Moved<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.moved |= matches!(written, Poll::Ready(Ok(_)));
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A WebSocket that is open.
pub(super) struct Wire<S> {
    socket: WebSocketStream<Moved<S>>,
    keep_alive: Duration,
    most: usize,
    /// Something was given to the socket and is not flushed.
    unflushed: bool,
    /// Of that, something came from the side.
    pending: bool,
    /// The stream took not all of it when it was last asked.
    blocked: bool,
    /// When the other side last showed that it lives.
    alive: Instant,
    last_ping: Instant,
    timer: Pin<Box<Sleep>>,
    /// This side has said goodbye.
    closing: bool,
    /// The other side has said goodbye.
    left: Option<Option<(u16, String)>>,
    /// One of them has: the link ends then, whatever the other side does.
    until: Option<Instant>,
}

impl<S> std::fmt::Debug for Wire<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("closing", &self.closing)
            .finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire<S> {
    /// `keep_alive` of zero: never.
    pub(super) fn new(
        socket: WebSocketStream<Moved<S>>,
        keep_alive: Duration,
        most: usize,
    ) -> Self {
        let now = Instant::now();
        Self {
            socket,
            keep_alive,
            most,
            unflushed: false,
            pending: false,
            blocked: false,
            alive: now,
            last_ping: now,
            timer: Box::pin(tokio::time::sleep(Duration::from_secs(3600))),
            closing: false,
            left: None,
            until: None,
        }
    }

    /// Runs until the link ends.
    ///
    /// # Cancel safety
    /// May be called again.
    pub(super) async fn run(&mut self, side: &mut dyn Side) -> End {
        let end = poll_fn(|cx| self.poll(cx, side)).await;
        if let Some((code, reason)) = end.farewell() {
            let goodbye = async {
                poll_fn(|cx| Pin::new(&mut self.socket).poll_ready(cx)).await?;
                Pin::new(&mut self.socket).start_send(close_frame(code, reason))?;
                poll_fn(|cx| Pin::new(&mut self.socket).poll_flush(cx)).await
            };
            // It has been told, or it cannot be told.
            drop(timeout(GOODBYE, goodbye).await);
        }
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>, side: &mut dyn Side) -> Poll<End> {
        for _ in 0..TURNS {
            let more = match self.poll_write(cx, side) {
                Ok(more) => more,
                Err(error) => return Poll::Ready(self.end(error)),
            };
            let read = Pin::new(&mut self.socket).poll_next(cx);
            // A part of a message will do: the whole of it may take long.
            if std::mem::take(&mut self.socket.get_mut().heard) {
                self.alive = Instant::now();
            }
            match read {
                Poll::Ready(Some(Ok(message))) => self.read(message, side),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(self.end(error)),
                Poll::Ready(None) => return Poll::Ready(self.end(Error::ConnectionClosed)),
                Poll::Pending if more => {}
                Poll::Pending => return self.poll_time(cx),
            }
        }
        cx.waker().wake_by_ref();
        self.poll_time(cx)
    }

    fn read(&mut self, message: Message, side: &mut dyn Side) {
        match message {
            Message::Text(text) => side.arrived(Bytes::from(text)),
            Message::Binary(bytes) => side.arrived(bytes),
            // The answer stands ready in the socket.
            Message::Ping(_) => self.unflushed = true,
            Message::Pong(_) | Message::Frame(_) => {}
            Message::Close(frame) => {
                self.unflushed = true;
                let said = |frame: CloseFrame| (u16::from(frame.code), frame.reason.to_string());
                self.left = Some(frame.map(said));
                self.until.get_or_insert(Instant::now() + GOODBYE);
            }
        }
    }

    /// Gives the socket what there is to write. True: all of it is written, and there may be more.
    fn poll_write(&mut self, cx: &mut Context<'_>, side: &mut dyn Side) -> Result<bool, Error> {
        let (mut given, mut more) = (0, false);
        while given < WRITE_BUDGET && self.until.is_none() {
            match Pin::new(&mut self.socket).poll_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending if side.is_cut(cx) => {
                    // It takes nothing, not even a goodbye.
                    self.closing = true;
                    self.until = Some(Instant::now() + GOODBYE);
                    return Ok(false);
                }
                Poll::Pending => {
                    self.moving(side, true);
                    return Ok(false);
                }
            }
            match side.next(cx) {
                Next::Nothing => break,
                Next::Frame(message) => {
                    given += message.len() + 1;
                    more = true;
                    self.pending = true;
                    Pin::new(&mut self.socket).start_send(message)?;
                }
                Next::Close(code, reason) => {
                    self.closing = true;
                    self.until = Some(Instant::now() + GOODBYE);
                    Pin::new(&mut self.socket).start_send(close_frame(code, reason))?;
                }
            }
            self.unflushed = true;
        }
        if self.unflushed {
            let flushed = Pin::new(&mut self.socket).poll_flush(cx);
            self.moving(side, flushed.is_pending());
            match flushed {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending => return Ok(false),
            }
            self.unflushed = false;
            if std::mem::take(&mut self.pending) {
                side.written();
            }
        }
        Ok(more)
    }

    /// Notes what got through. What a stream takes only bit by bit, the other side reads: our ping stands
    /// behind it, and its answer behind that. What is taken at once may have gone nowhere.
    fn moving(&mut self, side: &mut dyn Side, blocked: bool) {
        let was_blocked = std::mem::replace(&mut self.blocked, blocked);
        if std::mem::take(&mut self.socket.get_mut().moved) {
            side.moving();
            if was_blocked {
                self.alive = Instant::now();
            }
        }
    }

    /// What the socket's error means.
    fn end(&mut self, error: Error) -> End {
        if self.closing {
            return End::Closed;
        }
        if let Some(said) = self.left.take() {
            return End::Left(said);
        }
        match error {
            Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Left(None),
            Error::Io(error) => End::Broken(error),
            Error::Capacity(CapacityError::MessageTooLong { .. }) => End::TooLarge(self.most),
            other => End::Malformed(other),
        }
    }

    /// The other side must show within 1.4 times the keep-alive that it lives: by a byte that comes, or by
    /// one that gets through where others wait for that.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let now = Instant::now();
        let wake = match self.until {
            Some(until) if now >= until => {
                return Poll::Ready(self.end(Error::ConnectionClosed));
            }
            Some(until) => until,
            None if self.keep_alive.is_zero() => return Poll::Pending,
            None => {
                let dead = self.alive + self.keep_alive.mul_f32(1.4);
                if now >= dead {
                    return Poll::Ready(End::Silent);
                }
                let quiet = self.keep_alive.mul_f32(0.7);
                let mut due = self.alive.max(self.last_ping) + quiet;
                // A socket that takes nothing takes no ping; then silence decides.
                if now >= due {
                    self.last_ping = now;
                    due = now + quiet;
                    if Pin::new(&mut self.socket).poll_ready(cx).is_ready()
                        && Pin::new(&mut self.socket)
                            .start_send(Message::Ping(Bytes::new()))
                            .is_ok()
                    {
                        self.unflushed = true;
                        cx.waker().wake_by_ref();
                    }
                }
                due.min(dead)
            }
        };
        self.timer.as_mut().reset(wake);
        if self.timer.as_mut().as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
