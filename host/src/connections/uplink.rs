//! The link that a connection has at present, for callers that want to use it: they wait for it a
//! while and then go away with `disconnected`. For types whose link is a handle that many may use at
//! once. Dials nothing, knows no protocol.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::error::ConnectionError;

/// How long a caller waits for a link.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether there is a link.
#[derive(Debug)]
enum Present<L> {
    Up(Arc<L>),
    /// None since then.
    Down(Instant),
    /// None, and none will come.
    Closed,
}

/// The present link of one connection.
#[derive(Debug)]
pub struct Uplink<L>(watch::Sender<Present<L>>);

impl<L> Default for Uplink<L> {
    fn default() -> Self {
        Self(watch::channel(Present::Down(Instant::now())).0)
    }
}

impl<L> Uplink<L> {
    /// The link is up: whoever waits goes on.
    pub fn up(&self, link: Arc<L>) {
        self.0.send_replace(Present::Up(link));
    }

    /// The link is gone. The patience of those who wait begins now, unless it was gone already.
    pub fn down(&self) {
        self.0.send_if_modified(|present| {
            let was_up = matches!(present, Present::Up(_));
            if was_up {
                *present = Present::Down(Instant::now());
            }
            was_up
        });
    }

    /// The connection was closed: nobody waits any more.
    pub fn close(&self) {
        self.0.send_replace(Present::Closed);
    }

    /// The link, if there is one now.
    #[must_use]
    pub fn now(&self) -> Option<Arc<L>> {
        match &*self.0.borrow() {
            Present::Up(link) => Some(Arc::clone(link)),
            Present::Down(_) | Present::Closed => None,
        }
    }

    /// The link, after waiting up to 5 s for one.
    ///
    /// # Errors
    /// `disconnected`: there was none in that time, or the connection was closed.
    ///
    /// # Cancel safety
    /// Nothing changes.
    pub async fn get(&self) -> Result<Arc<L>, ConnectionError> {
        let mut present = self.0.subscribe();
        let called = Instant::now();
        loop {
            let until = match &*present.borrow_and_update() {
                Present::Up(link) => return Ok(Arc::clone(link)),
                Present::Down(since) => (*since).max(called) + PATIENCE,
                Present::Closed => return Err(no_link("the connection was closed")),
            };
            tokio::select! {
                biased;
                changed = present.changed() => if changed.is_err() {
                    return Err(no_link("the connection was closed"));
                },
                () = sleep_until(until) => return Err(no_link("there is no link to the server")),
            }
        }
    }
}

fn no_link(why: &str) -> ConnectionError {
    ConnectionError::disconnected("no-link", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_link_when_it_comes_and_gives_up_after_five_seconds() {
        let uplink = Uplink::<u8>::default();
        let begin = Instant::now();
        assert_eq!(uplink.get().await.unwrap_err().code, "no-link");
        assert_eq!(begin.elapsed(), PATIENCE);
        let (got, ()) = tokio::join!(uplink.get(), async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            uplink.up(Arc::new(7));
        });
        assert_eq!(*got.unwrap(), 7);
        uplink.down();
        assert!(uplink.now().is_none());
        let (got, ()) = tokio::join!(uplink.get(), async { uplink.close() });
        assert!(got.unwrap_err().message.contains("closed"));
    }
}
