//! The link to one server: a pool of sockets that is there while the server can be reached. Dials
//! once (TCP, TLS, a token where there is OAuth), notices by use that the link is lost, renews
//! tokens, lends itself to requests with a bound on how many.
//!
//! Lost is: no connection to the server, credentials that it refuses, five requests in a row without
//! any answer. What it answers, also 500, is an answer: then the circuit breaker alone holds
//! requests back, and the link stays up with a warning.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::HeaderMap;
use reqwest::{Client, StatusCode, redirect};
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::address::Base;
use super::config::Config;
use super::exchange::{Prepared, exchange, within};
use super::failure;
use super::oauth::{self, Token};
use super::pace::Pace;
use crate::connections::breaker::{Breaker, Circuit, Pass, Verdict};
use crate::connections::transport::{self, Dial, Endpoint};
use crate::connections::{Connection, Context, Http, HttpHead, HttpRequest, HttpResponse};
use crate::error::{ConnectionError, ErrorKind};

/// How long a dial may take to reach the server, TLS included.
const REACH: Duration = Duration::from_secs(5);
/// How long a request waits for a link that is down, counted from when it went down.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an idle socket is kept: less than what servers usually grant (nginx: 75 s).
const IDLE: Duration = Duration::from_secs(50);
/// How soon a token is asked for again that could not be renewed while the old one is good.
const AGAIN: Duration = Duration::from_secs(2);
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// A link that is up.
#[derive(Debug)]
struct Live {
    client: Client,
    /// The runtime on which the sockets' tasks run.
    handle: Handle,
    /// The connection's own headers, credentials among them.
    headers: HeaderMap,
    token: Option<Token>,
    /// When it was dialled, which tells it from others.
    dialled: Instant,
}

impl Live {
    /// The same dial: a renewed token makes another value of the same link.
    fn client_is(&self, other: &Self) -> bool {
        self.dialled == other.dialled
    }
}

/// A head that was put together, and for which link. Both are recognised by their address.
type Ready = (Arc<HttpHead>, Arc<Live>, Arc<Prepared>);

/// See the module.
pub(super) struct Link {
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
    ready: Mutex<Option<Ready>>,
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

/// Asks for the address of the connection's host, whatever name the URL of a request has.
#[derive(Debug)]
struct Host(String, u16);

impl Resolve for Host {
    fn resolve(&self, _name: Name) -> Resolving {
        let (host, port) = (self.0.clone(), self.1);
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, port)).await?;
            Ok(Box::new(found) as Addrs)
        })
    }
}

impl Link {
    pub(super) fn new(config: Config, context: Context) -> Self {
        Self {
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
            ready: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
            useful: AtomicBool::new(false),
        }
    }

    /// The base of the requests: under the name that the server must prove.
    fn base(&self) -> &Base {
        self.config
            .server_name
            .as_ref()
            .unwrap_or(&self.config.base)
    }

    fn down(&self) {
        if self.live.send_replace(None).is_some() {
            *self.down_since.lock() = Instant::now();
        }
        *self.ready.lock() = None;
    }

    /// TCP and TLS to the server, and back.
    async fn reach(&self) -> Result<(), ConnectionError> {
        let (host, port, tls) = self.config.base.endpoint();
        let endpoint = Endpoint::new(host, port, tls);
        let how = Dial {
            tls: &self.config.tls,
            alpn: ALPN,
            websocket_protocol: "",
            websocket_limit: 0,
            user_timeout: None,
            probe: None,
        };
        let mut stream = timeout(REACH, transport::dial(&endpoint, &how))
            .await
            .map_err(|_| {
                ConnectionError::disconnected("timeout", "the server does not answer")
            })??;
        // Its end is of no interest: the handshake has told.
        drop(timeout(Duration::from_millis(200), stream.shutdown()).await);
        Ok(())
    }

    fn client(&self) -> Result<Client, ConnectionError> {
        let (host, port, _) = self.config.base.endpoint();
        let tls = self.config.tls.client(ALPN)?;
        let mut builder = Client::builder()
            .tls_backend_preconfigured((*tls).clone())
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .connect_timeout(REACH)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(self.config.in_flight)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(10))
            .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")));
        if self.config.server_name.is_some() {
            builder = builder.dns_resolver(Arc::new(Host(host, port)));
        }
        builder.build().map_err(|error| {
            ConnectionError::misconfigured("http", "the connection cannot be set up")
                .caused_by(error.without_url())
        })
    }

    /// For the token endpoint, which may be another server.
    fn plain_client(&self) -> Result<Client, ConnectionError> {
        let tls = self.config.tls.client(ALPN)?;
        let builder = Client::builder()
            .tls_backend_preconfigured((*tls).clone())
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(REACH)
            .pool_max_idle_per_host(0);
        builder.build().map_err(|error| {
            ConnectionError::misconfigured("http", "the connection cannot be set up")
                .caused_by(error.without_url())
        })
    }

    async fn token(&self, before: Option<&Token>) -> Result<Option<Token>, ConnectionError> {
        match &self.config.oauth {
            None => Ok(None),
            Some(grant) => {
                let client = self.plain_client()?;
                oauth::fetch(&client, grant, before, self.config.timeout)
                    .await
                    .map(Some)
            }
        }
    }

    fn headers(&self, token: Option<&Token>) -> Result<HeaderMap, ConnectionError> {
        // With a name of its own that the server must prove, requests are for that name: HTTP/2 allows no
        // `Host` beside it (RFC 9113, 8.3.1).
        self.config.headers(token.map(|token| &token.fields))
    }

    /// One dial, nothing kept.
    async fn dial(&self) -> Result<Live, ConnectionError> {
        self.reach().await?;
        let client = self.client()?;
        let token = self.token(None).await?;
        Ok(Live {
            client,
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
            client: old.client.clone(),
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
    async fn keep_token(&self) -> Result<(), ConnectionError> {
        let Some(live) = self.live.borrow().clone() else {
            return std::future::pending().await;
        };
        let Some(at) = live.token.as_ref().and_then(Token::renew_at) else {
            // A renewal after a 401 brings another one, perhaps with an end.
            let mut changes = self.live.subscribe();
            drop(changes.changed().await);
            return Ok(());
        };
        sleep_until(at).await;
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

    /// Tells `lost` what a request over this link has met; nothing, if it is another one by now.
    fn report(&self, live: &Arc<Live>, error: &ConnectionError) {
        let same = |now: &Arc<Live>| now.client_is(live);
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

    fn prepared(
        &self,
        head: &Arc<HttpHead>,
        live: &Arc<Live>,
    ) -> Result<Arc<Prepared>, ConnectionError> {
        if let Some((known, link, prepared)) = &*self.ready.lock()
            && Arc::ptr_eq(known, head)
            && Arc::ptr_eq(link, live)
        {
            return Ok(Arc::clone(prepared));
        }
        let prepared = Arc::new(Prepared::new(head, self.base(), &live.headers)?);
        *self.ready.lock() = Some((Arc::clone(head), Arc::clone(live), Arc::clone(&prepared)));
        Ok(prepared)
    }

    async fn once(
        &self,
        live: &Arc<Live>,
        head: &Arc<HttpHead>,
        body: Bytes,
    ) -> Result<HttpResponse, ConnectionError> {
        let prepared = self.prepared(head, live)?;
        let limit = match head.timeout_ms {
            Some(ms) => Duration::from_millis(ms.into()),
            None => self.config.timeout,
        };
        let work = exchange(
            &live.client,
            self.base(),
            &prepared,
            body,
            self.config.body_bytes,
        );
        match timeout(limit, within(&live.handle, work)).await {
            Ok(answer) => answer,
            Err(_) => Err(failure::no_answer(&format!(
                "the server does not answer within {} ms",
                limit.as_millis()
            ))),
        }
    }

    /// Sends it, and once more with another token if the present one is refused.
    async fn sent(
        &self,
        live: &Arc<Live>,
        request: &HttpRequest,
    ) -> Result<HttpResponse, ConnectionError> {
        let answer = self.once(live, &request.head, request.body.clone()).await?;
        if answer.status != StatusCode::UNAUTHORIZED.as_u16() {
            return Ok(answer);
        }
        let mut answer = answer;
        if live.token.is_some() {
            self.renew(live).await?;
            let live = self.up().await?;
            answer = self
                .once(&live, &request.head, request.body.clone())
                .await?;
        }
        if answer.status == StatusCode::UNAUTHORIZED.as_u16() {
            return Err(ConnectionError::disconnected(
                "http:401",
                "the server refuses the credentials (HTTP 401)",
            )
            .slow());
        }
        Ok(answer)
    }

    /// What an answer, or none, means for the breaker and the link.
    fn judge(
        &self,
        live: &Arc<Live>,
        pass: Pass<'_>,
        answer: &Result<HttpResponse, ConnectionError>,
    ) {
        let verdict = match answer {
            Ok(response) if response.status < 500 => {
                self.useful.store(true, Ordering::Relaxed);
                return pass.succeeded();
            }
            Ok(response) => pass.failed(false, &format!("HTTP {}", response.status)),
            Err(error) => match error.kind {
                ErrorKind::Disconnected => {
                    let verdict = pass.failed(true, &error.message);
                    self.report(live, error);
                    verdict
                }
                // It was not sent, or it was answered by a redirect.
                ErrorKind::Denied | ErrorKind::Permanent | ErrorKind::Misconfigured => return,
                ErrorKind::Transient if error.code.starts_with("http:redirect") => {
                    return pass.succeeded();
                }
                ErrorKind::Transient => pass.failed(true, &error.message),
            },
        };
        if verdict == Verdict::Silent
            && let Err(error) = answer
        {
            let mut lost = error.clone();
            lost.kind = ErrorKind::Disconnected;
            if error.code == "http:protocol" {
                lost = lost.slow();
            }
            self.report(live, &lost);
        }
    }

    fn count(&self, request: &HttpRequest, response: &HttpResponse) {
        let traffic = &self.context.traffic;
        let add = |counter: &AtomicU64, count: usize| {
            counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        };
        if (200..300).contains(&response.status) {
            add(&traffic.messages_out, 1);
            add(&traffic.bytes_out, request.body.len());
        }
        if !response.body.is_empty() {
            add(&traffic.messages_in, 1);
            add(&traffic.bytes_in, response.body.len());
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
        loop {
            if let Some(error) = self.broken.lock().take() {
                return error;
            }
            tokio::select! {
                () = self.told.notified() => {}
                kept = self.keep_token() => if let Err(error) = kept {
                    return error;
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

#[async_trait]
impl Http for Link {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, ConnectionError> {
        if request.body.len() > self.config.body_bytes {
            return Err(ConnectionError::permanent(
                "too-large",
                format!(
                    "a body of {} bytes is larger than the connection's {}",
                    request.body.len(),
                    self.config.body_bytes
                ),
            ));
        }
        // Never closed.
        let _permit = self.permits.acquire().await;
        if let Some(pace) = &self.pace {
            pace.turn().await;
        }
        let live = self.up().await?;
        let pass = self.breaker.enter().await?;
        let answer = self.sent(&live, &request).await;
        self.judge(&live, pass, &answer);
        if let Ok(response) = &answer {
            self.count(&request, response);
        }
        answer
    }

    fn concurrency(&self) -> usize {
        self.config.in_flight
    }
}
