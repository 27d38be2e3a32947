//! One link: the task that moves bytes between a socket and the session. It always reads, writes once
//! per turn what the session has to say, keeps the link alive and notices when it is dead. Holds no
//! state of the protocol beyond that.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::codec::{self, Decoder, Malformed};
use super::pace::Pace;
use super::packet::{ConnAck, LARGEST_PACKET, Packet};
use super::session::{Keep, Outcome};
use super::shared::Shared;
use crate::connections::tls;
use crate::connections::transport::Stream;
use crate::error::ConnectionError;

/// How much is written at once at most, give or take one packet.
const WRITE_BUDGET: usize = 64 * 1024;
/// Read buffers grow from the first to the second while reads fill them.
const READ_SMALL: usize = 4 * 1024;
const READ_LARGE: usize = 64 * 1024;
/// A buffer with less room than this is replaced before a read.
const READ_LEAST: usize = 1024;
/// Turns before other tasks get their chance.
const TURNS: usize = 32;
/// A link this old may be given up to have abandoned messages sent again.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);

/// When a turn of [`Link::poll`] has reached what its caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Accepted,
    Subscribed,
    Lost,
}

/// A link to a broker, from CONNECT on.
pub(super) struct Link {
    io: Box<dyn Stream>,
    shared: Arc<Shared>,
    decoder: Decoder,
    read: BytesMut,
    chunk: usize,
    write: BytesMut,
    /// Something was written and not flushed.
    unflushed: bool,
    accepted: bool,
    outcomes: Vec<Outcome>,
    keeping: Option<Keeping>,
    since: Instant,
    last_read: Instant,
    last_write: Instant,
    last_ping: Instant,
    /// The socket has taken nothing of what is to be written since then.
    stalled: Option<Instant>,
    keep_alive: Duration,
    timer: Pin<Box<Sleep>>,
    pace: Pace,
}

type Keeping = Pin<Box<dyn Future<Output = (Keep, Result<(), ConnectionError>)> + Send>>;

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("accepted", &self.accepted)
            .field("keep_alive", &self.keep_alive)
            .finish_non_exhaustive()
    }
}

fn malformed(error: Malformed) -> ConnectionError {
    ConnectionError::disconnected("mqtt:0x81", "what the broker sent is not valid MQTT")
        .caused_by(error)
}

fn ended(error: std::io::Error) -> ConnectionError {
    tls::explain(&error).unwrap_or_else(|| {
        ConnectionError::disconnected("io", "the link to the broker broke").caused_by(error)
    })
}

impl Link {
    /// A link over a stream that is connected; `connect` is the CONNECT packet.
    pub(super) fn new(io: Box<dyn Stream>, shared: Arc<Shared>, connect: BytesMut) -> Self {
        let now = Instant::now();
        let limit = shared
            .context
            .limits
            .max_message_bytes
            .saturating_add(64 * 1024 + 16)
            .min(LARGEST_PACKET);
        let keep_alive = Duration::from_secs(u64::from(shared.config.keep_alive));
        Self {
            io,
            decoder: Decoder::new(shared.config.version, limit),
            shared,
            read: BytesMut::new(),
            chunk: READ_SMALL,
            write: connect,
            unflushed: false,
            accepted: false,
            outcomes: Vec::new(),
            keeping: None,
            since: now,
            last_read: now,
            last_write: now,
            last_ping: now,
            stalled: None,
            keep_alive,
            timer: Box::pin(tokio::time::sleep(Duration::from_secs(3600))),
            pace: Pace::new(now),
        }
    }

    /// Sends CONNECT and waits for CONNACK.
    ///
    /// # Errors
    /// The broker refuses, or the link breaks.
    pub(super) async fn accepted(&mut self) -> Result<(), ConnectionError> {
        std::future::poll_fn(|cx| self.poll(cx, Until::Accepted)).await
    }

    /// Runs until every filter that is wanted has the broker's answer.
    ///
    /// # Errors
    /// The link breaks.
    pub(super) async fn subscribed(&mut self) -> Result<(), ConnectionError> {
        std::future::poll_fn(|cx| self.poll(cx, Until::Subscribed)).await
    }

    /// Runs until the link is lost or the connection is being closed.
    ///
    /// # Cancel safety
    /// May be called again.
    pub(super) async fn lost(&mut self) -> ConnectionError {
        match std::future::poll_fn(|cx| self.poll(cx, Until::Lost)).await {
            Err(error) => error,
            Ok(()) => ConnectionError::disconnected("closed", "the connection was closed"),
        }
    }

    /// Says farewell: what is settled is acknowledged, then DISCONNECT.
    pub(super) async fn farewell(&mut self) {
        self.fetch_outcomes();
        {
            let mut session = self.shared.session.lock();
            if session.fill(&mut self.write, 0).is_err() {
                return;
            }
        }
        codec::disconnect(self.shared.config.version, 0, &mut self.write);
        let written = std::future::poll_fn(|cx| match self.poll_write(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.io).poll_shutdown(cx).map_err(ended),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        });
        if let Err(error) = written.await {
            tracing::debug!(error = %error.report(), "farewell not sent");
        }
    }

    fn fetch_outcomes(&mut self) {
        self.shared.settled.fetch(&mut self.outcomes);
        if !self.outcomes.is_empty() {
            self.shared.session.lock().outcomes(&self.outcomes);
            self.outcomes.clear();
            if self.outcomes.capacity() > 1024 {
                self.outcomes = Vec::new();
            }
        }
    }

    fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        until: Until,
    ) -> Poll<Result<(), ConnectionError>> {
        self.shared.settled.waker.register(cx.waker());
        if self.pace.poll_pause(cx).is_pending() {
            return Poll::Pending;
        }
        for _ in 0..TURNS {
            if until == Until::Lost && self.shared.closing.load(Ordering::Acquire) {
                return Poll::Ready(Ok(()));
            }
            self.fetch_outcomes();
            self.poll_keep(cx)?;
            let mut more = false;
            if self.accepted {
                let mut session = self.shared.session.lock();
                if self.write.len() < WRITE_BUDGET {
                    more = session
                        .fill(&mut self.write, WRITE_BUDGET)
                        .map_err(malformed)?;
                }
                if let Some(keep) = self.keeping.is_none().then(|| session.keep()).flatten() {
                    self.keeping = Some(keep_in(&self.shared, keep));
                    more = true;
                }
                if until == Until::Subscribed && session.is_subscribed() {
                    return Poll::Ready(Ok(()));
                }
            }
            let flushed = match self.poll_write(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.instead_of(cx, error))),
                Poll::Pending => false,
            };
            if flushed && self.pace.begin_pause(cx) {
                return Poll::Pending;
            }
            let read = match self.poll_read(cx)? {
                Poll::Ready(()) => true,
                Poll::Pending => false,
            };
            if until == Until::Accepted && self.accepted {
                return Poll::Ready(Ok(()));
            }
            if read || (more && flushed) {
                continue;
            }
            return self.poll_time(cx).map(Err);
        }
        cx.waker().wake_by_ref();
        self.poll_time(cx).map(Err)
    }

    /// A write failed: the broker's own words may still be there to be read (a CONNACK that refuses,
    /// a DISCONNECT with its reason), and they say more.
    fn instead_of(&mut self, cx: &mut TaskContext<'_>, error: ConnectionError) -> ConnectionError {
        for _ in 0..TURNS {
            match self.poll_read(cx) {
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => break,
                Err(said) if said.code.starts_with("mqtt:") => return said,
                Err(_) => break,
            }
        }
        error
    }

    fn poll_keep(&mut self, cx: &mut TaskContext<'_>) -> Result<(), ConnectionError> {
        let Some(keeping) = &mut self.keeping else {
            return Ok(());
        };
        if let Poll::Ready((keep, result)) = keeping.as_mut().poll(cx) {
            self.keeping = None;
            result?;
            self.shared.session.lock().kept(&keep);
        }
        Ok(())
    }

    /// The socket failed. A reset is the broker's doing, like an end.
    fn broke(&self, error: std::io::Error) -> ConnectionError {
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        if matches!(
            error.kind(),
            ConnectionReset | BrokenPipe | ConnectionAborted
        ) {
            self.shared.session.lock().hung_up();
        }
        ended(error)
    }

    fn poll_write(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), ConnectionError>> {
        while !self.write.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, &self.write) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(ended(std::io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(count)) => {
                    self.write.advance(count);
                    self.last_write = Instant::now();
                    self.stalled = None;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.broke(error))),
                Poll::Pending => {
                    self.stalled.get_or_insert_with(Instant::now);
                    return Poll::Pending;
                }
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.unflushed = false;
                    self.stalled = None;
                    self.shared.session.lock().flushed();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.broke(error))),
                Poll::Pending => {
                    self.stalled.get_or_insert_with(Instant::now);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room for a read: the present buffer while it has some, else a new one. What takers still
    /// hold of the old one keeps it alive.
    fn make_room(&mut self) {
        let wanted = self
            .decoder
            .wanted(&self.read)
            .saturating_sub(self.read.len());
        let room = self.read.capacity() - self.read.len();
        if room >= wanted.max(READ_LEAST) {
            return;
        }
        let mut next = BytesMut::with_capacity((self.read.len() + wanted).max(self.chunk));
        next.extend_from_slice(&self.read);
        self.read = next;
    }

    /// Reads once and hands everything that is whole to the session.
    fn poll_read(&mut self, cx: &mut TaskContext<'_>) -> Result<Poll<()>, ConnectionError> {
        self.make_room();
        let room = self.read.capacity() - self.read.len();
        let count = match pin!(self.io.read_buf(&mut self.read)).poll(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Err(error)) => return Err(self.broke(error)),
            Poll::Ready(Ok(count)) => count,
        };
        if count == 0 {
            self.shared.session.lock().hung_up();
            return Err(ConnectionError::disconnected(
                "closed",
                "the broker closed the connection",
            ));
        }
        if count == room {
            self.chunk = (self.chunk * 2).min(READ_LARGE);
        } else if count < self.chunk / 8 {
            self.chunk = (self.chunk / 2).max(READ_SMALL);
        }
        self.last_read = Instant::now();
        let packets = self.handle()?;
        self.pace.read(self.last_read, packets, count == room);
        Ok(Poll::Ready(()))
    }

    /// Gives how many packets there were.
    fn handle(&mut self) -> Result<usize, ConnectionError> {
        let at_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|since| u64::try_from(since.as_millis()).ok())
            .unwrap_or(0);
        let shared = Arc::clone(&self.shared);
        let mut session = shared.session.lock();
        let arrivals = session.arrivals();
        let mut packets = 0;
        let result = loop {
            packets += 1;
            match self.decoder.next(&mut self.read) {
                Ok(None) => break Ok(()),
                Ok(Some(Packet::ConnAck(answer))) if !self.accepted => {
                    if let Some(keep_alive) = answer.keep_alive {
                        self.keep_alive = Duration::from_secs(u64::from(keep_alive));
                    }
                    if let Err(error) = session.connected(*answer) {
                        break Err(error);
                    }
                    self.accepted = true;
                    self.since = Instant::now();
                }
                Ok(Some(Packet::Disconnect { reason, text })) if !self.accepted => {
                    let answer = ConnAck {
                        code: reason.max(0x80),
                        text,
                        ..ConnAck::default()
                    };
                    break session.connected(answer);
                }
                Ok(Some(_)) if !self.accepted => {
                    break Err(ConnectionError::disconnected(
                        "mqtt:0x82",
                        "the broker sent another packet before its CONNACK",
                    ));
                }
                Ok(Some(packet)) => {
                    if let Err(error) = session.receive(packet, at_ms) {
                        break Err(error);
                    }
                }
                Err(error) => break Err(malformed(error)),
            }
        };
        session.end_of_read();
        if session.arrivals() > arrivals {
            shared.settled.arrived(self.last_read);
        }
        result.map(|()| packets - 1)
    }

    /// Keeps the link alive and finds out that it is dead: the other side must be heard from within
    /// 1.4 times the keep-alive, whether or not our own writes get through.
    fn poll_time(&mut self, cx: &mut TaskContext<'_>) -> Poll<ConnectionError> {
        let now = Instant::now();
        let quiet = self.keep_alive.mul_f32(0.7);
        let dead = self.keep_alive.mul_f32(1.4);
        let mut wake = now + Duration::from_secs(30);
        if self.accepted && !self.keep_alive.is_zero() {
            let heard = self
                .stalled
                .map_or(self.last_read, |since| since.min(self.last_read));
            if now >= heard + dead {
                return Poll::Ready(ConnectionError::disconnected(
                    "timeout",
                    "the broker does not answer",
                ));
            }
            let due = self.last_read.min(self.last_write).max(self.last_ping) + quiet;
            if now >= due && self.write.is_empty() {
                codec::ping(&mut self.write);
                self.last_ping = now;
                cx.waker().wake_by_ref();
            }
            let next_ping = if self.last_ping == now {
                now + quiet
            } else {
                due.max(now + Duration::from_millis(10))
            };
            wake = wake.min(heard + dead).min(next_ping);
        }
        if self.accepted && now >= self.since + ABANDONED_AFTER && !self.shared.is_stopping() {
            let count = self.shared.session.lock().abandoned();
            if count > 0 {
                let text = format!(
                    "{count} messages were given up by their rule; dialling again has the broker send them again"
                );
                return Poll::Ready(ConnectionError::disconnected("abandoned", text));
            }
        }
        let young = now < self.since + ABANDONED_AFTER;
        if self.accepted
            && !self.shared.is_stopping()
            && self.shared.session.lock().is_left_to_take(young)
        {
            return Poll::Ready(ConnectionError::disconnected(
                "takers",
                "messages were left with the broker until their takers were there; dialling again has the broker send them again",
            ));
        }
        self.shrink(now);
        if self.timer.deadline() > wake || self.timer.is_elapsed() {
            self.timer.as_mut().reset(wake);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// An idle link holds small buffers only.
    fn shrink(&mut self, now: Instant) {
        if self.write.is_empty()
            && self.write.capacity() > READ_SMALL
            && now >= self.last_write + Duration::from_secs(1)
        {
            self.write = BytesMut::new();
        }
        if self.read.is_empty()
            && self.read.capacity() > READ_SMALL
            && now >= self.last_read + Duration::from_secs(1)
        {
            self.read = BytesMut::new();
            self.chunk = READ_SMALL;
        }
    }
}

fn keep_in(shared: &Arc<Shared>, keep: Keep) -> Keeping {
    let memory = Arc::clone(&shared.context.memory);
    Box::pin(async move {
        let result = match &keep {
            Keep::Filters(value) => memory.put("filters", value).await,
            Keep::Ids(value, _) => memory.put("qos2-ids", value).await,
        };
        (keep, result)
    })
}
