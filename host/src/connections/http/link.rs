//! The link to one server: a pool of sockets that is there while the server can be reached. Dials
//! once (TCP, TLS, a token where there is OAuth), notices by use that the link is lost, renews
//! tokens, lends itself to requests with a bound on how many.
//!
//! Lost is: no connection to the server, credentials that it refuses, five requests in a row without
//! any answer. What it answers, also 500, is an answer: then the circuit breaker alone holds
//! requests back, and the link stays up with a warning.

mod requests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use http::header::HeaderMap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::config::Config;
use super::oauth::{self, Token};
use super::pace::Pace;
use super::sockets::{ALPN, REACH, SWEEP, Sockets};
use crate::connections::breaker::{Breaker, Circuit};
use crate::connections::{Connection, Context, Http};
use crate::error::ConnectionError;

/// How long a request waits for a link that is down, counted from when it went down.
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon a token is asked for again that could not be renewed while the old one is good.
const AGAIN: Duration = Duration::from_secs(2);

/// A link that is up.
#[derive(Debug)]
struct Live {
    sockets: Arc<Sockets>,
    /// The runtime of the sockets, on which all requests run.
    handle: Handle,
    /// The connection's own headers, credentials among them.
    headers: HeaderMap,
    token: Option<Token>,
    /// When it was dialled, which tells it from others.
    dialled: Instant,
}

impl Live {
    /// The same dial: a renewed token makes another value of the same link.
    fn is_dial_of(&self, other: &Self) -> bool {
        self.dialled == other.dialled
    }
}

/// See the module.
pub(super) struct Link {
    /// Itself, for the tasks of its requests.
    this: Weak<Self>,
    config: Config,
    context: Context,
    /// None: down.
    live: watch::Sender<Option<Arc<Live>>>,
    down_since: Mutex<Instant>,
    /// Why a request found the link lost; `lost` takes it.
    broken: Mutex<Option<ConnectionError>>,
    told: Notify,
    breaker: Breaker,
    /// The change of the breaker that was last published.
    published: AtomicU64,
    permits: Semaphore,
    pace: Option<Pace>,
    /// One renewal of the token at a time.
    renewing: tokio::sync::Mutex<()>,
    useful: AtomicBool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("id", &self.context.id)
            .field("up", &self.live.borrow().is_some())
            .finish_non_exhaustive()
    }
}

/// Ends the link when its driving ends, however it does.
struct Driven<'a>(&'a Link);

impl Drop for Driven<'_> {
    fn drop(&mut self) {
        self.0.down();
    }
}

impl Link {
    pub(super) fn new(config: Config, context: Context) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            permits: Semaphore::new(config.in_flight),
            pace: config.spacing.map(Pace::new),
            config,
            context,
            live: watch::Sender::new(None),
            down_since: Mutex::new(Instant::now()),
            broken: Mutex::default(),
            told: Notify::new(),
            breaker: Breaker::new("http"),
            published: AtomicU64::new(0),
            renewing: tokio::sync::Mutex::default(),
            useful: AtomicBool::new(false),
        })
    }

    fn down(&self) {
        if self.live.send_replace(None).is_some() {
            *self.down_since.lock() = Instant::now();
        }
    }

    /// No socket yet.
    fn sockets(&self) -> Result<Sockets, ConnectionError> {
        let (host, port, over_tls) = self.config.base.endpoint();
        let tls = &self.config.tls;
        let secure = over_tls.then(|| Ok((tls.server_name(&host)?, tls.client(ALPN)?)));
        Ok(Sockets::new(host, port, secure.transpose()?))
    }

    async fn token(&self, before: Option<&Token>) -> Result<Option<Token>, ConnectionError> {
        match &self.config.oauth {
            None => Ok(None),
            Some(grant) => {
                let tls = self.config.tls.client(ALPN)?;
                oauth::fetch(&tls, grant, before, self.config.timeout)
                    .await
                    .map(Some)
            }
        }
    }

    fn headers(&self, token: Option<&Token>) -> Result<HeaderMap, ConnectionError> {
        self.config.headers(token.map(|token| &token.fields))
    }

    /// One dial, nothing kept.
    async fn dial(&self) -> Result<Live, ConnectionError> {
        let sockets = self.sockets()?;
        sockets.reach().await?;
        let token = self.token(None).await?;
        Ok(Live {
            sockets: Arc::new(sockets),
            handle: Handle::current(),
            headers: self.headers(token.as_ref())?,
            token,
            dialled: Instant::now(),
        })
    }

    /// Another token in place of that of `old`, unless somebody was quicker.
    async fn renew(&self, old: &Arc<Live>) -> Result<(), ConnectionError> {
        let _alone = self.renewing.lock().await;
        let is_old =
            |live: &Option<Arc<Live>>| live.as_ref().is_some_and(|live| Arc::ptr_eq(live, old));
        if !is_old(&self.live.borrow()) {
            return Ok(());
        }
        let token = self.token(old.token.as_ref()).await?;
        let new = Arc::new(Live {
            sockets: Arc::clone(&old.sockets),
            handle: old.handle.clone(),
            headers: self.headers(token.as_ref())?,
            token,
            dialled: old.dialled,
        });
        self.live.send_if_modified(|live| {
            // The link may have ended meanwhile.
            let same = is_old(live);
            if same {
                *live = Some(new);
            }
            same
        });
        Ok(())
    }

    /// Waits until the present token should be renewed, and renews it. Err: it could not, and is over.
    ///
    /// # Cancel safety
    /// Not safe: an endpoint that gives each refresh token once has given the next one to nobody then.
    async fn keep_token(&self) -> Result<(), ConnectionError> {
        let mut changes = self.live.subscribe();
        let live = changes.borrow_and_update().clone();
        let renew_at = live
            .as_ref()
            .and_then(|live| live.token.as_ref()?.renew_at());
        let (Some(live), Some(at)) = (live, renew_at) else {
            // A renewal after a 401 brings another one, perhaps with an end.
            drop(changes.changed().await);
            return Ok(());
        };
        tokio::select! {
            () = sleep_until(at) => {}
            _ = changes.changed() => return Ok(()),
        }
        match self.renew(&live).await {
            Ok(()) => Ok(()),
            Err(error)
                if live
                    .token
                    .as_ref()
                    .is_some_and(|token| token.is_over(Instant::now())) =>
            {
                Err(error)
            }
            Err(error) => {
                tracing::warn!(connection = %self.context.id, err = error.report(), "the token was not renewed; it is good for a while");
                tokio::time::sleep(AGAIN).await;
                Ok(())
            }
        }
    }

    fn sweep(&self) {
        if let Some(live) = &*self.live.borrow() {
            live.sockets.sweep();
        }
    }

    /// Tells `lost` what a request over this link has met; nothing, if it is another one by now.
    fn report(&self, live: &Arc<Live>, error: &ConnectionError) {
        let same = |now: &Arc<Live>| now.is_dial_of(live);
        if self.live.borrow().as_ref().is_some_and(same) {
            self.broken.lock().get_or_insert_with(|| error.clone());
            self.told.notify_one();
        }
    }

    /// The link, once it is up.
    async fn up(&self) -> Result<Arc<Live>, ConnectionError> {
        if let Some(live) = &*self.live.borrow() {
            return Ok(Arc::clone(live));
        }
        let down = || ConnectionError::disconnected("disconnected", "the server is not reachable");
        let until = *self.down_since.lock() + PATIENCE;
        let mut changes = self.live.subscribe();
        match timeout_at(until, changes.wait_for(Option::is_some)).await {
            Ok(Ok(live)) => live.clone().ok_or_else(down),
            Ok(Err(_)) | Err(_) => Err(down()),
        }
    }
}

#[async_trait]
impl Connection for Link {
    async fn connect(&self) -> Result<(), ConnectionError> {
        self.down();
        let live = self.dial().await?;
        *self.broken.lock() = None;
        self.useful.store(false, Ordering::Relaxed);
        self.breaker.renewed();
        self.live.send_replace(Some(Arc::new(live)));
        Ok(())
    }

    async fn lost(&self) -> ConnectionError {
        let _driven = Driven(self);
        // Outside of the loop: a renewal that is under way goes on whatever else happens.
        let mut kept = std::pin::pin!(self.keep_token());
        loop {
            if let Some(error) = self.broken.lock().take() {
                return error;
            }
            tokio::select! {
                () = self.told.notified() => {}
                () = sleep(SWEEP) => self.sweep(),
                done = &mut kept => {
                    if let Err(error) = done {
                        return error;
                    }
                    kept.set(self.keep_token());
                }
            }
        }
    }

    async fn close(&self) {
        self.down();
    }

    async fn probe(&self) -> Result<(), ConnectionError> {
        self.dial().await.map(drop)
    }

    fn dial_timeout(&self) -> Duration {
        let token = match self.config.oauth {
            Some(_) => self.config.timeout,
            None => Duration::ZERO,
        };
        REACH + token + Duration::from_secs(1)
    }

    fn was_useful(&self) -> bool {
        self.useful.load(Ordering::Relaxed)
    }

    fn peer(&self) -> Option<String> {
        Some(self.config.base.to_string())
    }

    fn warnings(&self) -> Vec<String> {
        let circuit = self.breaker.warning();
        self.config
            .warnings
            .iter()
            .cloned()
            .chain(circuit)
            .collect()
    }

    fn circuit(&self) -> Option<Circuit> {
        Some(self.breaker.circuit())
    }

    async fn warned(&self) {
        let mut changes = self.breaker.changes();
        loop {
            let now = *changes.borrow_and_update();
            if self.published.swap(now, Ordering::Relaxed) != now {
                return;
            }
            // Its sender is in this link.
            drop(changes.changed().await);
        }
    }

    fn http(&self) -> Option<&dyn Http> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};
    use windlass_tests::httpd::{Httpd, Reply};

    use super::*;
    use crate::connections::testing::context;

    fn link(properties: &Value) -> Arc<Link> {
        let context = context("api", Path::new("/"));
        let properties = properties.as_object().unwrap();
        let config = Config::read(properties, Path::new("/"), &context.limits).unwrap();
        Link::new(config, context)
    }

    fn token(link: &Link) -> Option<Value> {
        let live = link.live.borrow().clone()?;
        live.token.as_ref()?.fields.get("token").cloned()
    }

    async fn until(what: impl Fn() -> bool) {
        while !what() {
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_renewal_that_is_under_way_goes_on_whatever_else_the_link_does() {
        let server = Httpd::start(|asked| match asked.target.as_str() {
            "/access" => Reply::text(200, r#"{"token":"t1","refresh":"r1","life":1}"#),
            // The next one is for good.
            "/refresh" => Reply::After(
                Duration::from_millis(400),
                Box::new(Reply::text(
                    200,
                    r#"{"token":"t2","refresh":"r2","life":600}"#,
                )),
            ),
            _ => Reply::status(204),
        });
        let link = link(&json!({
            "url": server.url("/"), "headers": { "Authorization": "{{.token}}" },
            "oauth": {
                "access": { "url": server.url("/access"), "expire": "{{.life}}" },
                "refresh": { "url": server.url("/refresh"), "body": "{{.refresh}}" },
            },
        }));
        link.connect().await.unwrap();
        let renewed = async {
            let asked = |path: &str| server.asked().iter().any(|it| it.target == path);
            until(|| asked("/refresh")).await;
            // As the sweep does: it wakes the link, and nothing has happened to it.
            link.told.notify_one();
            until(|| token(&link) == Some("t2".into())).await;
        };
        tokio::select! {
            error = link.lost() => panic!("{error:?}"),
            done = timeout_at(Instant::now() + Duration::from_secs(5), renewed) => {
                done.expect("it is renewed");
            }
        }
        let asked: Vec<_> = server.asked().into_iter().map(|it| it.target).collect();
        assert_eq!(asked, ["/access", "/refresh"]);
    }
}
