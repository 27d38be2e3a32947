//! Connections to the outside: one folder per connection type, one file per piece of machinery that
//! all types share. Knows nothing of wasm, WIT, rules or REST.
//!
//! A type implements [`ConnectionType`] and [`Connection`], and one trait per interface that it
//! offers ([`Messaging`], [`Http`], [`Sql`]). It says how to dial **once** and how to notice that the
//! link is lost; the supervisor dials again, the pool shares, `status` publishes.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use crate::error::ConnectionError;
use crate::message::{Batch, Message, Rejection, Take};

pub mod backoff;
pub mod breaker;
pub mod dataport;
pub mod edgex;
pub mod file;
pub mod http;
pub mod httppush;
pub mod inbox;
pub mod interest;
pub mod listener;
pub mod memory;
pub mod mqtt;
pub mod nats;
pub mod nng;
pub mod outbox;
pub mod pool;
pub mod properties;
pub mod property;
pub mod redis;
pub mod registry;
pub mod secrets;
pub mod sql;
pub mod status;
mod supervisor;
pub mod takers;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod transport;
pub mod uplink;
pub mod urls;
pub mod websocket;
pub mod window;

pub use inbox::Inbox;
pub use property::{Property, PropertyKind};

/// The part of a refused payload that goes to the dead letters.
const REFUSED_HEAD: usize = 1024;

/// Properties of a connection as a user wrote them: names as in eKuiper.
pub type Properties = Map<String, Value>;

/// Looks at a header's name and value.
///
/// # Errors
/// It is left out, for this reason.
pub type Carries = fn(&str, &str) -> Result<(), &'static str>;

/// A protocol that the host speaks.
pub trait ConnectionType: Send + Sync + 'static {
    /// The `typ` of a connection, lower case.
    const NAME: &'static str;
    /// Other spellings of `typ` that mean this type.
    const ALIASES: &'static [&'static str] = &[];
    /// Every property this type knows. Anything else is refused with the nearest of these.
    const PROPERTIES: &'static [Property];

    /// Checks the properties and makes the connection. Opens nothing, touches no network.
    ///
    /// # Errors
    /// [`ConfigError`]s, all of them at once, each naming its property.
    fn build(
        properties: &Properties,
        context: Context,
    ) -> Result<Arc<dyn Connection>, Vec<ConfigError>>;

    /// What two anonymous connections must not both own (a URL that takes one peer, a path).
    /// None: anonymous connections of this type are never shared.
    fn exclusive_endpoint(_properties: &Properties) -> Option<String> {
        None
    }

    /// Properties that name that endpoint and nothing else: whoever shares a connection says the same by
    /// them, though perhaps by another one of them.
    const ENDPOINT: &'static [&'static str] = &[];

    /// Who this connection is to its server, where the server knows a client by that (MQTT: server
    /// and client id): two with the same one would end each other's session for ever, so the second
    /// is refused. None: any number may be open at once.
    fn identity(_properties: &Properties) -> Option<String> {
        None
    }

    /// The header under which the other side looks for a message's id, or an application behind it.
    const MESSAGE_ID_HEADER: &'static str = "message-id";

    /// Whether a header that came with a message from elsewhere may go out over this type; None: all may.
    /// What an action itself says of its headers is never asked about.
    const CARRIES: Option<Carries> = None;

    /// Where a source or an action makes its connection itself: takes out of its properties what is
    /// this type's though a connector may know the name too, and gives it back (of `headers` those
    /// that never change; of a `url` with a template in it what stands before). All else that
    /// [`ConnectionType::PROPERTIES`] names and the connector does not is taken anyway.
    ///
    /// # Errors
    /// [`ConfigError`]s at `/<property>`.
    fn divide(_properties: &mut Properties) -> Result<Properties, Vec<ConfigError>> {
        Ok(Properties::new())
    }
}

/// A mistake in a configuration: where, what was found, what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct ConfigError {
    /// JSON Pointer below the object that was checked, e.g. `/props/qos`.
    pub at: String,
    /// One sentence: what was found and what is allowed. Never the value of a secret.
    pub message: String,
}

impl ConfigError {
    /// A mistake at a JSON Pointer.
    pub fn new(at: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            at: at.into(),
            message: message.into(),
        }
    }
}

/// What a connection gets from the host beside its own properties.
#[derive(Clone, Debug)]
pub struct Context {
    /// The tenant, `default` until there are more.
    pub tenant: Arc<str>,
    /// The connection's id in its tenant.
    pub id: Arc<str>,
    /// Relative paths in properties (certificates) start here.
    pub base: PathBuf,
    /// A few values that must survive a restart (session filters, blocks of packet ids).
    pub memory: Arc<dyn Memory>,
    /// The host is going down: nothing is unsubscribed any more.
    pub stopping: Arc<AtomicBool>,
    /// The host is starting, and not all takers are known: nothing of an earlier run is unsubscribed, or
    /// acknowledged for want of a taker.
    pub booting: Arc<AtomicBool>,
    /// What this connection counts.
    pub traffic: Arc<Traffic>,
    /// Where deliveries go that no taker may ever see (too large, malformed).
    pub refused: Arc<dyn Refused>,
    /// Bounds of what may be unsettled.
    pub limits: Limits,
    /// The host's one HTTP listener, for types that others reach by a path.
    pub port: dataport::DataPort,
}

impl Context {
    /// Counts a message that came in. None: it is too large for this host, and with the dead letters.
    pub(crate) fn received(&self, message: Message) -> Option<Message> {
        let bytes = message.payload.len();
        let limit = self.limits.max_message_bytes;
        if bytes > limit {
            self.traffic.refused.fetch_add(1, Ordering::Relaxed);
            let sentence = format!("the message has {bytes} bytes; {limit} are taken in");
            let error = ConnectionError::permanent("too-large", sentence);
            let head = message.payload.slice(..REFUSED_HEAD.min(bytes));
            self.refused.refused(&message.subject, head, &error);
            return None;
        }
        self.traffic.received(bytes);
        Some(message)
    }

    /// This host's part of the names under which a server knows its consumers: 8 hexadecimal digits,
    /// kept over restarts in the memory under `name`.
    ///
    /// # Errors
    /// `transient` when it cannot be read or kept: it would be another one now or after a restart, and so
    /// would be the consumers; what they had not settled would be nobody's.
    pub(crate) async fn host_part(&self, name: &str) -> Result<String, ConnectionError> {
        if let Some(kept) = self.memory.get(name).await? {
            return Ok(kept);
        }
        let part = format!("{:08x}", rand::random::<u32>());
        self.memory.put(name, &part).await?;
        Ok(part)
    }
}

/// Bounds of one connection: of its memory, and of what is asked of it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Inbound messages received and not settled. Past it the session disconnects with that reason.
    pub unsettled_messages: usize,
    /// The same in bytes.
    pub unsettled_bytes: usize,
    /// The largest message taken in; larger ones are skipped by length and reported.
    pub max_message_bytes: usize,
    /// How long a call of a connector may take, and what it asks for with it: `callDeadline`.
    pub call: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unsettled_messages: 65_535,
            unsettled_bytes: 64 * 1024 * 1024,
            max_message_bytes: 16 * 1024 * 1024,
            call: Duration::from_secs(10),
        }
    }
}

/// Counters of one connection, read by status and metrics.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Messages received.
    pub messages_in: AtomicU64,
    /// Messages the other side has taken, as far as their level says.
    pub messages_out: AtomicU64,
    /// Payload bytes received.
    pub bytes_in: AtomicU64,
    /// Payload bytes sent.
    pub bytes_out: AtomicU64,
    /// Inbound messages for which no taker was there: acknowledged and counted.
    pub untaken: AtomicU64,
    /// Messages dropped that promised nothing: inbound ones because a queue was full; outbound ones
    /// because nobody was there to take them, where the connection says that they are dropped then.
    pub dropped: AtomicU64,
    /// Inbound messages refused (too large, malformed).
    pub refused: AtomicU64,
}

impl Traffic {
    /// Counts a message that came in, with a payload of so many bytes.
    pub(crate) fn received(&self, bytes: usize) {
        count(&self.messages_in, &self.bytes_in, bytes);
    }

    /// Counts a message that went out, with a payload of so many bytes.
    pub(crate) fn sent(&self, bytes: usize) {
        count(&self.messages_out, &self.bytes_out, bytes);
    }
}

fn count(messages: &AtomicU64, all: &AtomicU64, bytes: usize) {
    messages.fetch_add(1, Ordering::Relaxed);
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    all.fetch_add(bytes, Ordering::Relaxed);
}

/// Small values kept across restarts for one connection. Backed by the store.
#[async_trait]
pub trait Memory: Send + Sync + fmt::Debug {
    /// The value of that name, if one was kept.
    ///
    /// # Errors
    /// `transient` when the disk refuses: whether there is one is not known then, and nothing may be put
    /// in its place.
    async fn get(&self, name: &str) -> Result<Option<String>, ConnectionError>;
    /// Keeps it; on disk when this returns.
    ///
    /// # Errors
    /// `transient` when the disk refuses.
    async fn put(&self, name: &str, value: &str) -> Result<(), ConnectionError>;
}

/// Takes what can never be delivered to a taker, for the dead letters.
pub trait Refused: Send + Sync + fmt::Debug {
    /// `subject` and a sentence on why; `head` is what is known of the payload, cut short.
    fn refused(&self, subject: &str, head: Bytes, reason: &ConnectionError);

    /// The same of a message that its sender has until it is acknowledged: `take` is settled once it is
    /// kept, and dropped if it cannot be, so that it comes again.
    fn refused_until_kept(&self, subject: &str, head: Bytes, reason: &ConnectionError, take: Take) {
        self.refused(subject, head, reason);
        take.settle();
    }
}

/// One configured link. Its supervisor calls `connect`, then `lost`, then `connect` again, never
/// two at a time. The interfaces may be called at any time, also before the first `connect`.
#[async_trait]
pub trait Connection: Send + Sync + fmt::Debug {
    /// Dials once. Returns when the link can be used: authenticated, known filters subscribed.
    ///
    /// # Errors
    /// Why not. `misconfigured` ends all attempts until the properties change.
    ///
    /// # Cancel safety
    /// The supervisor drops it at its deadline: nothing half open may stay behind.
    async fn connect(&self) -> Result<(), ConnectionError>;

    /// Drives the link until it is lost, and says why. Called after a successful `connect`.
    ///
    /// # Cancel safety
    /// Dropped when the connection is closed or replaced; the link ends with it.
    async fn lost(&self) -> ConnectionError;

    /// Ends the link in the protocol's own way (MQTT DISCONNECT). Neither unsubscribes nor
    /// acknowledges anything. Returns within a second. Called once, at the end; where the link is up,
    /// `lost` is driven meanwhile, so that what `close` asks for can be written.
    async fn close(&self);

    /// Dials once and ends the link again, to see whether it would work, without touching what a
    /// server keeps for this client (MQTT: a session of its own, a client id of its own). `connect`
    /// unless the type says otherwise; the caller closes.
    ///
    /// # Errors
    /// As [`Connection::connect`].
    async fn probe(&self) -> Result<(), ConnectionError> {
        self.connect().await
    }

    /// How long one `connect` may take.
    fn dial_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// The link must not be dialled before its takers are known (a persistent session would get
    /// messages that nobody takes yet). See `semantics.md`, Boot.
    fn waits_for_takers(&self) -> bool {
        false
    }

    /// Whether the present session has moved data to its end (a message settled, or taken where
    /// nobody waits for that), for back-off: an attempt after a session that did is a young failure
    /// again.
    fn was_useful(&self) -> bool {
        false
    }

    /// The present server, for status (no credentials). None before the first attempt.
    fn peer(&self) -> Option<String> {
        None
    }

    /// Sentences that the operator should read though the link works (a granted qos lower than
    /// asked for, a limit of the broker).
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Its circuit breaker, where it has one: requests may fail though the link is up.
    fn circuit(&self) -> Option<breaker::Circuit> {
        None
    }

    /// Returns when [`Connection::warnings`] has other sentences than before, so that they are published
    /// while the link is up. Never, unless a type has such sentences.
    ///
    /// # Cancel safety
    /// Safe.
    async fn warned(&self) {
        std::future::pending().await
    }

    /// Publish and subscribe.
    fn messaging(&self) -> Option<&dyn Messaging> {
        None
    }
    /// Requests and responses.
    fn http(&self) -> Option<&dyn Http> {
        None
    }
    /// Statements.
    fn sql(&self) -> Option<&dyn Sql> {
        None
    }
}

/// A connection as a grant reaches it: what `interfaces/` sees of the pool. Lives as long as the rule
/// that holds it; the connection behind it may be replaced while it lives (a PUT).
pub trait Granted: Send + Sync + fmt::Debug {
    /// The connection's id in its tenant.
    fn id(&self) -> &str;
    /// The connection behind it at present. Ask again for each call; do not keep it.
    fn connection(&self) -> Arc<dyn Connection>;
    /// Subscribes through the pool, which subscribes again when the connection is replaced.
    ///
    /// # Errors
    /// As [`Messaging::subscribe`]; `misconfigured` when the connection has no messaging.
    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError>;
}

/// The names of the interfaces, as slots say them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interface {
    /// [`Messaging`].
    Messaging,
    /// [`Http`].
    Http,
    /// [`Sql`].
    Sql,
}

impl Interface {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Messaging, Self::Http, Self::Sql];

    /// The name in the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Messaging => "messaging",
            Self::Http => "http",
            Self::Sql => "sql",
        }
    }
}

/// Level of a delivery. A protocol without the level asked for gives the nearest it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// Perhaps.
    AtMostOnce,
    /// At least once.
    AtLeastOnce,
    /// Once, as far as the protocol can.
    ExactlyOnce,
}

/// What a taker asks for.
#[derive(Clone, Debug, Default)]
pub struct SubscribeOptions {
    /// None: as the connection is configured.
    pub qos: Option<Qos>,
    /// What only one protocol knows, by name. An unknown name is `misconfigured`.
    pub extra: Vec<(String, String)>,
}

/// How to publish.
#[derive(Clone, Debug, Default)]
pub struct PublishOptions {
    /// For all messages, in place of their own subject.
    pub subject: Option<String>,
    /// None: as the connection is configured.
    pub qos: Option<Qos>,
    /// Keep the last one for later subscribers.
    pub retain: bool,
    /// What only one protocol knows, by name. An unknown name is `misconfigured`.
    pub extra: Vec<(String, String)>,
}

/// Ends one taker's subscription when dropped. With the last taker of a filter the filter itself is
/// unsubscribed, unless the host is stopping.
pub trait SubscriptionGuard: Send + Sync + fmt::Debug {}

/// Publish and subscribe, whatever the protocol.
#[async_trait]
pub trait Messaging: Send + Sync {
    /// Adds a taker of these filters. Returns at once, also while the link is down; the connection
    /// subscribes on every (re)connect. What the other side refuses goes to [`Inbox::fail`].
    ///
    /// # Errors
    /// `misconfigured`: a filter that is none, or an option this protocol does not know.
    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError>;

    /// Returns when the other side has taken the messages, as far as the level says, in order.
    /// While the link is down it waits up to 5 s for it, then answers `disconnected`. What is in
    /// the session's window then stays there and is sent again by the session alone; a repeated
    /// publish of the same batch attaches to it instead of sending twice.
    ///
    /// # Errors
    /// None is known to be published.
    ///
    /// # Cancel safety
    /// Messages that were handed to the session may still be sent after the future is dropped.
    async fn publish(
        &self,
        batch: &Batch,
        options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError>;
}

/// What stands before a request's body. See `wit/http.wit`.
#[derive(Clone, Debug, Default)]
pub struct HttpHead {
    /// The method, upper case.
    pub method: String,
    /// Path and query below the base URL.
    pub path: String,
    /// Headers of this request, beside the connection's own.
    pub headers: Vec<(String, String)>,
    /// None: as the connection is configured.
    pub timeout_ms: Option<u32>,
    /// Of an answer of 2xx only status and body are wanted.
    pub brief: bool,
}

/// A request below the connection's base URL. Cheap to clone: requests that differ in their bodies
/// only share one head, which a connection may recognise by its address.
#[derive(Clone, Debug, Default)]
pub struct HttpRequest {
    /// Method, path, headers.
    pub head: Arc<HttpHead>,
    /// The body.
    pub body: Bytes,
}

impl std::ops::Deref for HttpRequest {
    type Target = HttpHead;
    fn deref(&self) -> &HttpHead {
        &self.head
    }
}

/// Any status is a response.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, cut at the connection's limit.
    pub body: Bytes,
    /// It was cut.
    pub truncated: bool,
}

/// Requests over a connection whose base URL, credentials and pool are the host's.
#[async_trait]
pub trait Http: Send + Sync {
    /// One request.
    ///
    /// # Errors
    /// No response at all; `denied` for a path that leaves the base URL.
    ///
    /// # Cancel safety
    /// The request may have arrived after the future is dropped.
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, ConnectionError>;
    /// Many requests, as many at once as [`Http::concurrency`] says; answers in the order of the
    /// requests. None is begun after `begin`: it has no answer then. What is not answered at `end` is
    /// `transient`.
    ///
    /// # Cancel safety
    /// As [`Http::send`], for each.
    async fn send_all(
        &self,
        requests: Vec<HttpRequest>,
        begin: Instant,
        end: Instant,
    ) -> Vec<Option<Result<HttpResponse, ConnectionError>>> {
        let answers = requests.into_iter().map(|request| async move {
            if Instant::now() > begin {
                return None;
            }
            let answer = timeout_at(end, self.send(request)).await;
            Some(answer.unwrap_or_else(|_elapsed| Err(too_late())))
        });
        let answers = stream::iter(answers).buffered(self.concurrency().max(1));
        answers.collect().await
    }
    /// How many requests may be under way at once on this connection.
    fn concurrency(&self) -> usize;
}

/// One of many requests got no answer while there was time for all of them.
fn too_late() -> ConnectionError {
    ConnectionError::transient("timeout", "no answer within the time that the call had")
}

/// A value of a statement's parameter or of a row. See `wit/sql.wit`.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    missing_docs,
    reason = "the cases are those of wit/sql.wit, described there"
)]
pub enum SqlValue {
    Null,
    Boolean(bool),
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

/// What a query gave.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// The columns' names.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<SqlValue>>,
    /// More were there than the connection's limit.
    pub truncated: bool,
}

/// Statements over a pooled connection.
#[async_trait]
pub trait Sql: Send + Sync {
    /// How statements must be written: see `wit/sql.wit`. Known without a link.
    fn dialect(&self) -> &'static str;
    /// One statement that gives rows.
    ///
    /// # Errors
    /// `transient`, `disconnected` or `permanent`, with `sqlstate:…` as the code where there is one.
    async fn query(&self, statement: &str, params: Vec<SqlValue>) -> Result<Rows, ConnectionError>;
    /// Once per row of parameters, all in one transaction: how many rows changed.
    ///
    /// # Errors
    /// Nothing changed.
    async fn execute_many(
        &self,
        statement: &str,
        params: Vec<Vec<SqlValue>>,
    ) -> Result<u32, ConnectionError>;
}
