//! Messages on their way out over one link of a protocol that acknowledges nothing (`nng`, a client's
//! `websocket`): written to the socket is all that can be known. Knows no protocol and no socket.
//!
//! One publisher at a time has its messages here, so nothing piles up; the others wait for their turn.
//! The link takes them one by one and says when all that it took is written. What it took and did not
//! write when it broke is taken again by the next link.

use std::fmt;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::{PublishOptions, Traffic};
use crate::error::ConnectionError;
use crate::message::{Batch, Rejection};

/// How long a publisher waits for a link, for its turn, and for a link that takes nothing.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A message ready to be written, by its place in the publisher's batch.
#[derive(Clone, Debug)]
pub struct Outgoing<T> {
    /// Its place.
    pub index: u32,
    /// What the link writes.
    pub frame: T,
    /// Payload bytes, to be counted.
    pub bytes: usize,
}

/// The messages of one publisher at a time.
pub struct Outbox<T> {
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State<T>>,
    /// Wakes the link.
    filled: AtomicWaker,
    /// Wakes the publisher whose turn it is.
    moved: Notify,
}

struct State<T> {
    up: bool,
    messages: Vec<Outgoing<T>>,
    /// How many of them the present link has taken, and how many it has written.
    taken: usize,
    written: usize,
    /// When the link last came up or got something through.
    moved_at: Instant,
}

/// Shows no payload.
impl<T> fmt::Debug for Outbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Outbox")
            .field("up", &state.up)
            .field("messages", &state.messages.len())
            .field("written", &state.written)
            .finish_non_exhaustive()
    }
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self {
            turn: tokio::sync::Mutex::new(()),
            state: Mutex::new(State {
                up: false,
                messages: Vec::new(),
                taken: 0,
                written: 0,
                moved_at: Instant::now(),
            }),
            filled: AtomicWaker::new(),
            moved: Notify::new(),
        }
    }
}

impl<T: Clone> Outbox<T> {
    /// Makes each message of a batch into what the link writes; what does not fit is rejected. Then
    /// waits until the link has written them.
    ///
    /// # Errors
    /// None is known to be written: `disconnected` after [`PATIENCE`] without a link, `transient` when
    /// the link takes nothing for as long, or others are in front for as long. Where some are written,
    /// the others are rejections.
    ///
    /// # Cancel safety
    /// What the link has taken already may still be written.
    pub async fn publish(
        &self,
        batch: &Batch,
        make: impl Fn(&crate::message::Message) -> Result<T, ConnectionError>,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        let (mut messages, mut rejections) = (Vec::with_capacity(batch.len()), Vec::new());
        for (index, message) in (0_u32..).zip(batch.iter()) {
            match make(message) {
                Ok(frame) => messages.push(Outgoing {
                    index,
                    frame,
                    bytes: message.payload.len(),
                }),
                Err(error) => rejections.push(Rejection { index, error }),
            }
        }
        if messages.is_empty() {
            return Ok(rejections);
        }
        let Ok(_turn) = timeout_at(Instant::now() + PATIENCE, self.turn.lock()).await else {
            return Err(self.why());
        };
        let _present = self.present(messages);
        while !self.is_written() {
            let until = self.state.lock().moved_at + PATIENCE;
            let late = timeout_at(until, self.moved.notified()).await.is_err();
            if late && self.state.lock().moved_at + PATIENCE <= Instant::now() {
                break;
            }
        }
        let why = self.why();
        let state = self.state.lock();
        if state.written == 0 {
            return Err(why);
        }
        let left = state.messages.iter().skip(state.written);
        rejections.extend(left.map(|message| Rejection {
            index: message.index,
            error: why.clone(),
        }));
        Ok(rejections)
    }

    fn why(&self) -> ConnectionError {
        if self.state.lock().up {
            ConnectionError::transient(
                "timeout",
                "the other side does not take what is written to it",
            )
        } else {
            ConnectionError::disconnected("no-link", "the connection is down")
        }
    }

    fn is_written(&self) -> bool {
        let state = self.state.lock();
        state.written == state.messages.len()
    }

    fn present(&self, messages: Vec<Outgoing<T>>) -> Present<'_, T> {
        let mut state = self.state.lock();
        state.messages = messages;
        state.moved_at = Instant::now();
        drop(state);
        self.filled.wake();
        Present(self)
    }

    /// The next message to write. None: there is none now; the task is woken when there is.
    pub fn take(&self, cx: &Context<'_>) -> Option<T> {
        self.filled.register(cx.waker());
        let mut state = self.state.lock();
        let next = state.messages.get(state.taken)?.frame.clone();
        state.taken += 1;
        Some(next)
    }

    /// The link has written all that it took. False: that was nothing.
    pub fn written(&self, traffic: &Traffic) -> bool {
        let mut state = self.state.lock();
        let (from, to) = (state.written, state.taken);
        state.moved_at = Instant::now();
        if from == to {
            return false;
        }
        state.written = to;
        let done = state.messages.get(from..to).unwrap_or_default();
        let bytes: usize = done.iter().map(|message| message.bytes).sum();
        let (count, bytes) = (u64::try_from(done.len()), u64::try_from(bytes));
        drop(state);
        traffic
            .messages_out
            .fetch_add(count.unwrap_or_default(), Ordering::Relaxed);
        traffic
            .bytes_out
            .fetch_add(bytes.unwrap_or_default(), Ordering::Relaxed);
        self.moved.notify_one();
        true
    }

    /// Some bytes of what it took got through.
    pub fn moving(&self) {
        self.state.lock().moved_at = Instant::now();
    }

    /// A link is there; what the last one took and did not write is to be written again.
    pub fn up(&self) {
        self.set_up(true);
    }

    /// The link is gone.
    pub fn down(&self) {
        self.set_up(false);
    }

    fn set_up(&self, up: bool) {
        let mut state = self.state.lock();
        if state.up != up {
            state.up = up;
            state.moved_at = Instant::now();
        }
        state.taken = state.written;
        drop(state);
        self.moved.notify_one();
    }
}

/// Takes the messages away again, however their publisher ends.
struct Present<'a, T>(&'a Outbox<T>);

impl<T> Drop for Present<'_, T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        (state.taken, state.written) = (0, 0);
        state.messages = Vec::new();
    }
}

/// Refuses what a protocol without topics, levels and stored messages cannot do. The level asked for is
/// no mistake: the nearest that there is, is given.
///
/// # Errors
/// `misconfigured`, with the name.
pub fn plain_options(
    typ: &str,
    options: &PublishOptions,
    known: &[&str],
) -> Result<(), ConnectionError> {
    if options.subject.is_some() {
        let sentence = format!("{typ} has no topics: leave the subject out");
        return Err(ConnectionError::misconfigured("subject", sentence));
    }
    if options.retain {
        let sentence = format!("{typ} keeps no message for later");
        return Err(ConnectionError::misconfigured("retain", sentence));
    }
    known_options(typ, &options.extra, known)
}

/// Refuses an option that the protocol does not know.
///
/// # Errors
/// `misconfigured`, with the name and what is allowed.
pub fn known_options(
    typ: &str,
    extra: &[(String, String)],
    known: &[&str],
) -> Result<(), ConnectionError> {
    let stranger = extra
        .iter()
        .find(|(name, _)| !known.contains(&name.as_str()));
    let Some((name, _)) = stranger else {
        return Ok(());
    };
    let sentence = if known.is_empty() {
        format!("{typ} knows no option \"{name}\"; it has none")
    } else {
        format!(
            "{typ} knows no option \"{name}\"; Allowed: {}",
            known.join(", ")
        )
    };
    Err(ConnectionError::misconfigured("option", sentence))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::poll_fn;
    use std::task::Poll;

    use super::*;
    use crate::error::ErrorKind;
    use crate::message::Message;

    fn batch(count: usize) -> Batch {
        let messages: Vec<_> = (0..count).map(|n| Message::new(n.to_string())).collect();
        Batch::from(messages)
    }

    fn plain(message: &Message) -> Result<String, ConnectionError> {
        match &message.payload[..] {
            b"1" => Err(ConnectionError::permanent("no", "not this one")),
            other => Ok(String::from_utf8_lossy(other).into_owned()),
        }
    }

    async fn next(outbox: &Outbox<String>) -> String {
        poll_fn(|cx| match outbox.take(cx) {
            Some(next) => Poll::Ready(next),
            None => Poll::Pending,
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_broken_link_took_is_taken_again_and_nothing_else() {
        let outbox = Outbox::<String>::default();
        let traffic = Traffic::default();
        outbox.up();
        let link = async {
            assert_eq!(next(&outbox).await, "0");
            assert!(outbox.written(&traffic));
            assert_eq!(next(&outbox).await, "2");
            outbox.down();
            tokio::time::sleep(Duration::from_secs(4)).await;
            outbox.up();
            assert_eq!(next(&outbox).await, "2");
            assert_eq!(next(&outbox).await, "3");
            assert!(outbox.written(&traffic));
        };
        let messages = batch(4);
        let (published, ()) = tokio::join!(outbox.publish(&messages, plain), link);
        let rejected: Vec<_> = published.unwrap().iter().map(|one| one.index).collect();
        assert_eq!(rejected, [1]);
        assert_eq!(traffic.messages_out.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_link_it_is_disconnected_after_five_seconds() {
        let outbox = Outbox::<String>::default();
        let began = Instant::now();
        let error = outbox.publish(&batch(1), plain).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Disconnected);
        assert_eq!(began.elapsed().as_secs(), 5);
        assert!(format!("{outbox:?}").contains("messages: 0"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_takes_nothing_is_told_from_one_that_is_slow() {
        let outbox = Outbox::<String>::default();
        let traffic = Traffic::default();
        outbox.up();
        let error = outbox.publish(&batch(1), plain).await.unwrap_err();
        assert_eq!(
            (error.kind, &*error.code),
            (ErrorKind::Transient, "timeout")
        );
        let slow = async {
            next(&outbox).await;
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                outbox.moving();
            }
            assert!(outbox.written(&traffic));
        };
        let one = batch(1);
        let (published, ()) = tokio::join!(outbox.publish(&one, plain), slow);
        assert!(published.unwrap().is_empty());
        // Some are written, the rest is not.
        let half = async {
            next(&outbox).await;
            assert!(outbox.written(&traffic));
        };
        let four = batch(4);
        let (published, ()) = tokio::join!(outbox.publish(&four, plain), half);
        let rejected: Vec<_> = published.unwrap();
        let rejected: Vec<_> = rejected
            .iter()
            .map(|one| (one.index, &*one.error.code))
            .collect();
        assert_eq!(rejected, [(1, "no"), (2, "timeout"), (3, "timeout")]);
    }

    #[tokio::test(start_paused = true)]
    async fn publishers_wait_for_their_turn_and_a_dropped_one_leaves_nothing() {
        let outbox = Arc::new(Outbox::<String>::default());
        let traffic = Traffic::default();
        let first = batch(1);
        let dropped =
            tokio::time::timeout(Duration::from_millis(10), outbox.publish(&first, plain));
        assert!(dropped.await.is_err());
        outbox.up();
        let (three, one) = (batch(3), batch(1));
        let link = async {
            let mut order = Vec::new();
            for _ in 0..3 {
                order.push(next(&outbox).await);
                assert!(outbox.written(&traffic));
            }
            order
        };
        let (a, b, order) = tokio::join!(
            outbox.publish(&three, plain),
            outbox.publish(&one, plain),
            link
        );
        assert_eq!((a.unwrap().len(), b.unwrap().len()), (1, 0));
        assert_eq!(order, ["0", "2", "0"]);
    }
}
