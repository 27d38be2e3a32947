//! One link: dials, and moves bytes between the socket and the codec. It always reads, whatever its
//! takers and its writes do. Holds no state of the protocol beyond that.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::codec::{self, Decoder, Event, Malformed};
use super::config::{Config, Place};
use super::{Shared, too_large};
use crate::connections::tls::TlsConfig;
use crate::connections::transport::{self, Dial, Stream};
use crate::error::ConnectionError;

/// How much is written at once, give or take one message.
const WRITE_BUDGET: usize = 64 * 1024;
/// A read buffer with less room than this is replaced before a read.
const READ_LEAST: usize = 1024;
/// Read buffers of this size, but for a message that is larger.
const READ_CHUNK: usize = 16 * 1024;
/// A buffer larger than this is not kept.
const READ_KEPT: usize = 256 * 1024;
/// Room that is made at once for a message that was only announced.
const READ_STEP: usize = 1024 * 1024;
/// Turns before other tasks get their chance.
const TURNS: usize = 32;
/// SP has no ping: the kernel asks a peer that is silent for so long, and gives up 11 s later.
const PROBE: Duration = Duration::from_secs(15);
/// What is written must arrive within this (Linux).
const UNANSWERED: Duration = Duration::from_secs(15);

/// Dials the other side.
pub(super) async fn dial(config: &Config) -> Result<Box<dyn Stream>, ConnectionError> {
    match &config.place {
        Place::Network(endpoint) => {
            let how = Dial {
                tls: &TlsConfig::default(),
                alpn: &[],
                websocket_protocol: "",
                websocket_limit: 0,
                user_timeout: Some(UNANSWERED),
                probe: Some(PROBE),
            };
            transport::dial(endpoint, &how).await
        }
        Place::Local(path) => {
            let stream = UnixStream::connect(path).await.map_err(|error| {
                let why = match error.kind() {
                    std::io::ErrorKind::NotFound => "there is no socket at that path",
                    std::io::ErrorKind::ConnectionRefused => "nobody listens at that path",
                    std::io::ErrorKind::PermissionDenied => "the socket may not be opened",
                    _ => "the socket cannot be reached",
                };
                let cause = format!("{}: {error}", path.display());
                ConnectionError::disconnected("connect", why).caused_by(cause)
            })?;
            Ok(Box::new(stream))
        }
    }
}

fn broken(error: std::io::Error) -> ConnectionError {
    ConnectionError::disconnected("io", "the link broke").caused_by(error)
}

fn closed() -> ConnectionError {
    ConnectionError::disconnected("closed", "the other side closed the connection")
}

fn malformed(error: Malformed) -> ConnectionError {
    let (code, message) = match &error {
        Malformed::NoGreeting(_) => ("nng:greeting", "what listens there is no nng socket"),
        Malformed::Partner { .. } => (
            "nng:protocol",
            "the other side speaks another protocol of nng's",
        ),
        Malformed::Kind(_) | Malformed::Length(_) => {
            ("nng:frame", "the other side sent what is no message")
        }
    };
    ConnectionError::disconnected(code, message)
        .caused_by(error)
        .slow()
}

/// A link over a stream.
pub(super) struct Link {
    io: Box<dyn Stream>,
    shared: Arc<Shared>,
    decoder: Decoder,
    read: BytesMut,
    write: BytesMut,
    /// Something was written and not flushed.
    unflushed: bool,
    greeted: bool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("greeted", &self.greeted)
            .finish_non_exhaustive()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.outbox.down();
    }
}

impl Link {
    pub(super) fn new(io: Box<dyn Stream>, shared: Arc<Shared>) -> Self {
        let Config {
            protocol,
            place,
            most,
            ..
        } = &shared.config;
        Self {
            io,
            decoder: Decoder::new(*protocol, place.framing(), *most),
            read: BytesMut::new(),
            write: BytesMut::from(&codec::greeting(*protocol)[..]),
            unflushed: false,
            greeted: false,
            shared,
        }
    }

    /// Both sides greet each other, at once.
    ///
    /// # Errors
    /// The other side is none that can be talked to.
    pub(super) async fn greet(&mut self) -> Result<(), ConnectionError> {
        poll_fn(|cx| {
            let mut sent = self.poll_write(cx)?.is_ready();
            while !self.greeted {
                match self.poll_read(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false)) => {
                        return Poll::Ready(Err(ConnectionError::disconnected(
                            "closed",
                            "the other side closed the connection without a greeting",
                        )));
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                }
                sent = self.poll_write(cx)?.is_ready();
            }
            if sent {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Whether the other side hangs up within that time. What it sends meanwhile is a message, and who has
    /// sent one, even in one piece with its greeting, has taken this side for its partner.
    ///
    /// # Errors
    /// What it sends cannot be read.
    pub(super) async fn hangs_up(&mut self, grace: Duration) -> Result<bool, ConnectionError> {
        if self.shared.useful.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match timeout(grace, poll_fn(|cx| self.poll_read(cx))).await {
            Err(_) | Ok(Ok(true)) => Ok(false),
            Ok(Ok(false)) => Ok(true),
            Ok(Err(error)) if error.code == "io" => Ok(true),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Runs until the link is lost or the connection is being closed.
    ///
    /// # Cancel safety
    /// May be called again.
    pub(super) async fn lost(&mut self) -> ConnectionError {
        let shared = Arc::clone(&self.shared);
        let mut closing = pin!(async {
            while !shared.closing.load(Ordering::Acquire) {
                shared.close.notified().await;
            }
        });
        poll_fn(|cx| {
            if closing.as_mut().poll(cx).is_ready() {
                let error = ConnectionError::disconnected("closed", "the connection was closed");
                return Poll::Ready(error);
            }
            self.poll(cx)
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionError> {
        for _ in 0..TURNS {
            let more = match self.poll_write(cx) {
                Poll::Ready(Ok(())) => self.fill(cx),
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => false,
            };
            match self.poll_read(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(closed()),
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending if more => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what is to be written. True: there is something.
    fn fill(&mut self, cx: &Context<'_>) -> bool {
        let framing = self.shared.config.place.framing();
        while self.write.len() < WRITE_BUDGET
            && let Some(payload) = self.shared.outbox.take(cx)
        {
            codec::write(framing, &payload, &mut self.write);
        }
        !self.write.is_empty()
    }

    /// Ready when all that was taken is written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        while !self.write.is_empty() {
            let count =
                ready!(Pin::new(&mut self.io).poll_write(cx, &self.write)).map_err(broken)?;
            if count == 0 {
                return Poll::Ready(Err(broken(std::io::ErrorKind::WriteZero.into())));
            }
            self.write.advance(count);
            self.unflushed = true;
            self.shared.outbox.moving();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx)).map_err(broken)?;
            self.unflushed = false;
            if self.write.capacity() > READ_KEPT {
                self.write = BytesMut::new();
            }
            if self.shared.outbox.written(&self.shared.context.traffic) {
                self.shared.useful.store(true, Ordering::Relaxed);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and hands on what is whole. False: the other side has closed.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ConnectionError>> {
        self.make_room();
        let count = ready!(pin!(self.io.read_buf(&mut self.read)).poll(cx)).map_err(broken)?;
        if count == 0 {
            return Poll::Ready(Ok(false));
        }
        loop {
            match self.decoder.next(&mut self.read).map_err(malformed)? {
                None => return Poll::Ready(Ok(true)),
                Some(Event::Greeted) => self.greeted = true,
                Some(Event::Message(payload)) => {
                    self.shared.useful.store(true, Ordering::Relaxed);
                    let traffic = &self.shared.context.traffic;
                    self.shared.takers.give(payload, traffic);
                }
                Some(Event::Skipped { length, head }) => {
                    let context = &self.shared.context;
                    context.traffic.refused.fetch_add(1, Ordering::Relaxed);
                    let why = too_large(length, self.shared.config.most);
                    context.refused.refused("", head, &why);
                }
            }
        }
    }

    /// Room for a read: the present buffer while it has some, else a new one. What takers hold of the
    /// old one keeps it alive. For a message that is only announced room is made as it comes.
    fn make_room(&mut self) {
        let wanted = self.decoder.wanted().saturating_sub(self.read.len());
        let least = wanted.clamp(READ_LEAST, READ_STEP);
        if self.read.capacity() - self.read.len() >= least {
            return;
        }
        let kept = self.read.len();
        // Twice what is there: a large message is copied a few times, not for each step.
        let size = (kept + least)
            .max(READ_CHUNK)
            .max(kept.saturating_mul(2).min(kept + wanted));
        let mut next = BytesMut::with_capacity(size);
        next.extend_from_slice(&self.read);
        self.read = next;
    }
}
