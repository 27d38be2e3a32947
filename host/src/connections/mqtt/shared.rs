//! What the link's task and the callers share: the session behind its lock, the way to wake the task,
//! and whether there is a link.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::config::Config;
use super::session::{Session, Settings, Settled};
use crate::connections::Context;

/// Whether messages can go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Up {
    /// A link is there.
    Yes,
    /// None since then.
    No(Instant),
    /// None, and none will come: the connection was closed.
    Closed,
}

/// One connection's shared state.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) context: Context,
    pub(super) session: Mutex<Session>,
    pub(super) settled: Arc<Settled>,
    pub(super) up: watch::Sender<Up>,
    /// The link's task is to hand the link over to `close`.
    pub(super) closing: AtomicBool,
}

impl Shared {
    pub(super) fn new(config: Config, context: Context) -> Self {
        let settled = Arc::new(Settled::default());
        let settings = Settings {
            version: config.version,
            persistent: config.persistent,
            max_inflight: config.max_inflight,
            max_inflight_2: config.max_inflight_2,
        };
        let session = Mutex::new(Session::new(settings, &context, Arc::clone(&settled)));
        let (up, _) = watch::channel(Up::No(Instant::now()));
        Self {
            config,
            context,
            session,
            settled,
            up,
            closing: AtomicBool::new(false),
        }
    }

    /// Has the link's task look again.
    pub(super) fn wake(&self) {
        self.settled.waker.wake();
    }

    /// The link is gone.
    pub(super) fn down(&self, closed: bool) {
        self.session.lock().lost();
        self.up.send_if_modified(|up| {
            let before = *up;
            *up = match before {
                _ if closed => Up::Closed,
                Up::Yes | Up::Closed => Up::No(Instant::now()),
                Up::No(since) => Up::No(since),
            };
            before != *up
        });
    }

    /// The host is going down.
    pub(super) fn is_stopping(&self) -> bool {
        self.context.stopping.load(Ordering::Acquire)
    }
}
