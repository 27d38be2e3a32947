//! Watches one client's connection: a head that does not come, a client that says nothing for long,
//! and one that does not read its answer, end it. Bodies of requests have their own limits, with
//! whoever serves the path.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
/// How long a client may take none of the bytes that wait for it.
const UNREAD: Duration = Duration::from_secs(30);
/// Idle for less than this, a client is taken to be about to ask again: its place is its own.
const FRESH: Duration = Duration::from_secs(5);

/// What a client is at.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// A head has begun. A request follows: `Busy`.
    Head(Instant),
    /// So many requests are being answered. The last answer is given: `Idle`.
    Busy(usize),
    /// Nothing is under way. A byte comes: `Head`, but with HTTP/2, where it may be of no request.
    Idle(Instant),
    /// Its place is given to another. The end.
    Ended,
}

/// The state of one connection, shared by its stream and its requests.
#[derive(Debug)]
pub(super) struct Watch {
    phase: Mutex<Phase>,
    /// Bytes for it wait since then.
    unread: Mutex<Option<Instant>>,
    sooner: Notify,
    multiplexed: AtomicBool,
}

impl Watch {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: Mutex::new(Phase::Head(Instant::now())),
            unread: Mutex::new(None),
            sooner: Notify::new(),
            multiplexed: AtomicBool::new(false),
        })
    }

    /// The TLS handshake is done: the time for a head begins.
    pub(super) fn begin(&self) {
        let mut phase = self.phase.lock();
        if let Phase::Head(_) = *phase {
            *phase = Phase::Head(Instant::now());
        }
    }

    /// A request has come.
    pub(super) fn request(self: &Arc<Self>, multiplexed: bool) -> Busy {
        self.multiplexed.store(multiplexed, Ordering::Relaxed);
        let mut phase = self.phase.lock();
        *phase = match *phase {
            Phase::Busy(count) => Phase::Busy(count + 1),
            Phase::Head(_) | Phase::Idle(_) => Phase::Busy(1),
            Phase::Ended => Phase::Ended,
        };
        Busy(Arc::clone(self))
    }

    /// Since when it owes a head, or has had nothing to ask for a while. None: it is being served.
    pub(super) fn silent(&self) -> Option<Instant> {
        match *self.phase.lock() {
            Phase::Head(since) => Some(since),
            Phase::Idle(since) if since.elapsed() > FRESH => Some(since),
            Phase::Idle(_) | Phase::Busy(_) | Phase::Ended => None,
        }
    }

    /// Ends it, for another to have its place.
    pub(super) fn end(&self) {
        *self.phase.lock() = Phase::Ended;
        self.sooner.notify_one();
    }

    fn bytes(&self) {
        let multiplexed = self.multiplexed.load(Ordering::Relaxed);
        let mut phase = self.phase.lock();
        if let Phase::Idle(_) = *phase
            && !multiplexed
        {
            *phase = Phase::Head(Instant::now());
            self.sooner.notify_one();
        }
    }

    /// The client has taken bytes, or takes none at present.
    fn takes(&self, takes: bool) {
        let mut unread = self.unread.lock();
        if takes {
            *unread = None;
        } else if unread.is_none() {
            *unread = Some(Instant::now());
            self.sooner.notify_one();
        }
    }

    /// Returns when the client has had its time.
    pub(super) async fn over(&self) {
        loop {
            let phase = match *self.phase.lock() {
                Phase::Head(since) => Some(since + HEAD),
                Phase::Idle(since) => Some(since + IDLE),
                Phase::Busy(_) => None,
                Phase::Ended => return,
            };
            let unread = (*self.unread.lock()).map(|since| since + UNREAD);
            match [phase, unread].into_iter().flatten().min() {
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
            Phase::Ended => Phase::Ended,
            _ => {
                self.0.sooner.notify_one();
                Phase::Idle(Instant::now())
            }
        };
    }
}

/// A stream that tells the watch of every byte that comes, and of those that nobody takes.
#[derive(Debug)]
pub(super) struct Watched<S> {
    pub(super) stream: S,
    pub(super) watch: Arc<Watch>,
}

impl<S> Watched<S> {
    fn noted<T>(&self, polled: Poll<T>) -> Poll<T> {
        self.watch.takes(polled.is_ready());
        polled
    }
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
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.noted(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.noted(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.noted(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn over_within(watch: &Watch, limit: Duration) -> bool {
        tokio::time::timeout(limit, watch.over()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_its_answer_is_cut() {
        let watch = Watch::new();
        let (stream, mut other) = tokio::io::duplex(100);
        let mut stream = Watched {
            stream,
            watch: Arc::clone(&watch),
        };
        let _busy = watch.request(false);
        assert!(
            !over_within(&watch, Duration::from_secs(3600)).await,
            "an answer may take its time"
        );
        let writing = async {
            for _ in 0..10 {
                stream.write_all(&[0; 60]).await.unwrap();
            }
        };
        // A slow reader is no silent one.
        let reading = async {
            let mut piece = [0; 20];
            for _ in 0..28 {
                tokio::time::sleep(UNREAD - Duration::from_secs(1)).await;
                other.read_exact(&mut piece).await.unwrap();
            }
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(writing, reading) } => {}
            () = watch.over() => panic!("it read all the time"),
        }
        let stuck = async { stream.write_all(&[0; 200]).await };
        tokio::select! {
            _ = stuck => panic!("nobody reads"),
            over = over_within(&watch, UNREAD + Duration::from_secs(1)) => assert!(over),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_served_or_was_just_now_keeps_its_place() {
        let watch = Watch::new();
        assert!(watch.silent().is_some(), "it owes a head");
        let busy = watch.request(false);
        assert!(watch.silent().is_none());
        drop(busy);
        assert!(watch.silent().is_none(), "it may ask again at once");
        tokio::time::advance(FRESH * 2).await;
        assert!(watch.silent().is_some());
        watch.end();
        assert!(over_within(&watch, Duration::ZERO).await && watch.silent().is_none());
    }
}
