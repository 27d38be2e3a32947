//! What the link's task and the callers share: the session behind its lock, the way to wake the task,
//! and whether there is a link.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::config::Config;
use super::packet::Version;
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
        let narrow = match config.version {
            // The broker keeps to what CONNECT announced.
            Version::V5 => usize::from(config.receive_maximum) / 2,
            // The broker's own, which it tells nobody: 20 is mosquitto's default.
            Version::V31 | Version::V311 => 10,
        };
        let settled = Arc::new(Settled::new(narrow.max(1)));
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
