//! Who takes what comes to which path, for one connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hyper::Method;
use parking_lot::Mutex;

use super::config::Config;
use super::repeats::Repeats;
use super::request::PathEndpoint;
use crate::connections::dataport::Route;
use crate::connections::{Context, Inbox, SubscriptionGuard};
use crate::error::ConnectionError;

/// What a connection, its paths and its requests share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) context: Context,
    pub(super) repeats: Mutex<Repeats>,
    /// Messages and bytes that are handed over and not settled.
    pub(super) unsettled: Mutex<(usize, usize)>,
    /// A message was settled.
    pub(super) useful: AtomicBool,
    paths: Mutex<Paths>,
}

#[derive(Debug, Default)]
struct Paths {
    next: u64,
    served: BTreeMap<(String, String), Path>,
}

#[derive(Debug)]
struct Path {
    /// Served as long as it has takers.
    _route: Route,
    takers: BTreeMap<u64, Arc<Inbox>>,
}

impl Shared {
    pub(super) fn new(config: Config, context: Context) -> Self {
        Self {
            config,
            context,
            repeats: Mutex::default(),
            unsettled: Mutex::new((0, 0)),
            useful: AtomicBool::new(false),
            paths: Mutex::default(),
        }
    }

    /// Adds a taker of these paths.
    pub(super) fn take(
        self: &Arc<Self>,
        filters: &[String],
        method: &Method,
        inbox: Arc<Inbox>,
    ) -> Result<Guard, ConnectionError> {
        let mut paths = self.paths.lock();
        paths.next += 1;
        let guard = Guard {
            shared: Arc::clone(self),
            taker: paths.next,
            inbox,
        };
        for path in filters {
            let key = (path.clone(), method.to_string());
            if let Some(served) = paths.served.get_mut(&key) {
                served.takers.insert(guard.taker, Arc::clone(&guard.inbox));
                continue;
            }
            let endpoint = PathEndpoint {
                shared: Arc::downgrade(self),
                path: path.as_str().into(),
                method: method.to_string(),
            };
            let Context {
                tenant, id, port, ..
            } = &self.context;
            let route = port.serve(tenant, path, method.clone(), id, Arc::new(endpoint));
            match route {
                Ok(route) => {
                    let takers = BTreeMap::from([(guard.taker, Arc::clone(&guard.inbox))]);
                    let served = Path {
                        _route: route,
                        takers,
                    };
                    paths.served.insert(key, served);
                }
                Err(taken) => {
                    // The guard takes the lock to undo what it has.
                    drop(paths);
                    return Err(ConnectionError::misconfigured("path", taken.to_string()));
                }
            }
        }
        Ok(guard)
    }

    /// Hands on under the lock, so that a taker which has gone gets nothing more.
    pub(super) fn with_takers<T>(
        &self,
        path: &str,
        method: &str,
        give: impl FnOnce(Vec<Arc<Inbox>>) -> T,
    ) -> T {
        let paths = self.paths.lock();
        let served = paths.served.get(&(path.to_owned(), method.to_owned()));
        let takers = served.map(|served| served.takers.values().cloned().collect());
        give(takers.unwrap_or_default())
    }
}

/// A taker; gone when dropped.
#[derive(Debug)]
pub(super) struct Guard {
    shared: Arc<Shared>,
    taker: u64,
    inbox: Arc<Inbox>,
}

impl SubscriptionGuard for Guard {}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut ended = Vec::new();
        {
            let mut paths = self.shared.paths.lock();
            for path in paths.served.values_mut() {
                path.takers.remove(&self.taker);
            }
            let empty = |_: &(String, String), path: &mut Path| path.takers.is_empty();
            ended.extend(paths.served.extract_if(.., empty));
        }
        // Outside the lock: a route takes the port's.
        drop(ended);
        // Nobody will read what waits there, and settled unread it would be answered 200.
        drop(self.inbox.withdraw_all());
    }
}
