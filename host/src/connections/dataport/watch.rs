//! Watches one client's connection: a head that does not come, and a client that says nothing for
//! long, end it. Bodies and answers have their own limits, with whoever serves the path.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// From the first byte of a head (or of a connection) to its end.
pub(super) const HEAD: Duration = Duration::from_secs(10);
/// Between an answer and the next request.
const IDLE: Duration = Duration::from_secs(60);

/// What a client is at.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// A head has begun. A request follows: `Busy`.
    Head(Instant),
    /// So many requests are being answered. The last answer is given: `Idle`.
    Busy(usize),
    /// Nothing is under way. A byte comes: `Head`, but with HTTP/2, where it may be of no request.
    Idle(Instant),
}

/// The state of one connection, shared by its stream and its requests.
#[derive(Debug)]
pub(super) struct Watch {
    phase: Mutex<Phase>,
    sooner: Notify,
    multiplexed: std::sync::atomic::AtomicBool,
}

impl Watch {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: Mutex::new(Phase::Head(Instant::now())),
            sooner: Notify::new(),
            multiplexed: std::sync::atomic::AtomicBool::new(false),
        })
    }

    /// A request has come.
    pub(super) fn request(self: &Arc<Self>, multiplexed: bool) -> Busy {
        self.multiplexed
            .store(multiplexed, std::sync::atomic::Ordering::Relaxed);
        let mut phase = self.phase.lock();
        *phase = match *phase {
            Phase::Busy(count) => Phase::Busy(count + 1),
            Phase::Head(_) | Phase::Idle(_) => Phase::Busy(1),
        };
        Busy(Arc::clone(self))
    }

    fn bytes(&self) {
        let multiplexed = self.multiplexed.load(std::sync::atomic::Ordering::Relaxed);
        let mut phase = self.phase.lock();
        if let Phase::Idle(_) = *phase
            && !multiplexed
        {
            *phase = Phase::Head(Instant::now());
            self.sooner.notify_one();
        }
    }

    /// Returns when the client has had its time.
    pub(super) async fn over(&self) {
        loop {
            let until = match *self.phase.lock() {
                Phase::Head(since) => Some(since + HEAD),
                Phase::Idle(since) => Some(since + IDLE),
                Phase::Busy(_) => None,
            };
            match until {
                Some(until) if until <= Instant::now() => return,
                Some(until) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => {}
                        () = self.sooner.notified() => {}
                    }
                }
                None => self.sooner.notified().await,
            }
        }
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Busy(Arc<Watch>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut phase = self.0.phase.lock();
        *phase = match *phase {
            Phase::Busy(count) if count > 1 => Phase::Busy(count - 1),
            _ => {
                self.0.sooner.notify_one();
                Phase::Idle(Instant::now())
            }
        };
    }
}

/// A stream that tells the watch of every byte that comes.
#[derive(Debug)]
pub(super) struct Watched<S> {
    pub(super) stream: S,
    pub(super) watch: Arc<Watch>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.watch.bytes();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
