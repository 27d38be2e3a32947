//! One link to a server: dialled once, driven by one task until it is lost. Everything that a taker
//! wants is a future of its own in that task (`core` below, `jet.rs`). The library's own reconnecting
//! is led into a dead end: the supervisor alone decides when to dial, and a lost link is never hidden.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, Event, ReconnectToServer, ServerAddr, ServerError};
use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use secrecy::ExposeSecret as _;
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};

use super::config::{Config, Login};
use super::subject::{Making, Wanted};
use super::{Shared, fault, jet};
use crate::connections::status::now_ms;
use crate::connections::transport::Endpoint;
use crate::error::ConnectionError;
use crate::message::{Delivery, Headers, Message};

/// Where the library's reconnecting ends: nothing listens on port 0, so the attempt fails within the
/// machine, and it is the only one that is allowed.
const DEAD_END: &str = "nats://127.0.0.1:0";
/// Events that may wait for the link's task; more say nothing new.
const EVENTS: usize = 64;
/// Messages of one subscription that may wait for the link's task, which hands them on at once.
const SUBSCRIPTION: usize = 8_192;
/// Commands that may wait for the library's task.
const COMMANDS: usize = 1_024;
/// How long one request to JetStream and the acknowledgement of a message may take.
const REQUEST: Duration = Duration::from_secs(5);
/// Messages of one publish that wait for the stream's acknowledgement at once.
pub(super) const IN_FLIGHT: usize = 256;
/// How long the server's answer to the first subscriptions is awaited.
const SETTLE: Duration = Duration::from_secs(1);
/// How often unsettled deliveries are prolonged: well within the shortest `ackWait`.
const PROLONG: Duration = Duration::from_millis(700);

/// What others use of a link.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) client: Client,
    pub(super) jetstream: jetstream::Context,
}

/// A link from its login on.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) handle: Arc<Handle>,
    events: mpsc::Receiver<Event>,
    /// Core subscriptions that were made while it was dialled.
    made: BTreeMap<Wanted, async_nats::Subscriber>,
}

impl Link {
    /// Dials one server and logs in.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn dial(
        shared: &Shared,
        endpoint: &Endpoint,
    ) -> Result<Self, ConnectionError> {
        let config = &shared.config;
        let address = address(endpoint)?;
        let dead_end = server_address(DEAD_END)?;
        let (seen, events) = mpsc::channel(EVENTS);
        let options = login(ConnectOptions::new(), config)?
            .name(config.name.as_deref().unwrap_or(&shared.context.id))
            .connection_timeout(config.connect_timeout)
            .ping_interval(config.ping_interval)
            .request_timeout(Some(REQUEST))
            .subscription_capacity(SUBSCRIPTION)
            .client_capacity(COMMANDS)
            .ignore_discovered_servers()
            .retain_servers_order()
            .max_reconnects(1)
            .event_callback(move |event| {
                // Full: the task has enough to read.
                seen.try_send(event).ok();
                std::future::ready(())
            });
        let dialled = AtomicBool::new(false);
        let (first, after) = (address.clone(), dead_end.clone());
        let mut options = options.reconnect_to_server_callback(move |_, _| {
            let again = dialled.swap(true, Ordering::AcqRel);
            let addr = if again { after.clone() } else { first.clone() };
            std::future::ready(Some(ReconnectToServer {
                addr,
                delay: Some(Duration::ZERO),
            }))
        });
        if endpoint.is_tls() || config.tls.is_given() {
            let tls = config.tls.client(&[])?;
            options = options.require_tls(true).tls_client_config((*tls).clone());
        }
        let client = options
            .connect([address, dead_end].as_slice())
            .await
            .map_err(|error| fault::connecting(&error))?;
        let builder = jetstream::context::ContextBuilder::new()
            .ack_timeout(REQUEST)
            .max_ack_inflight(IN_FLIGHT * 8);
        let jetstream = match &config.domain {
            Some(domain) => builder
                .domain(domain)
                .timeout(REQUEST)
                .build(client.clone()),
            None => builder.timeout(REQUEST).build(client.clone()),
        };
        Ok(Self {
            handle: Arc::new(Handle { client, jetstream }),
            events,
            made: BTreeMap::new(),
        })
    }

    /// Subscribes to what is wanted of core NATS, and waits until the server has seen it.
    ///
    /// # Errors
    /// The link is lost already.
    pub(super) async fn subscribe(&mut self, shared: &Shared) -> Result<(), ConnectionError> {
        for (wanted, _) in shared.takers.wanted() {
            if let Wanted::Core { subject, queue } = &wanted {
                let subscriber = subscribe(&self.handle.client, subject, queue.as_deref()).await?;
                self.made.insert(wanted, subscriber);
            }
        }
        // The server answers in order: a message to ourselves comes back after it has taken them all.
        let client = &self.handle.client;
        let inbox = client.new_inbox();
        let mut echo = client
            .subscribe(inbox.clone())
            .await
            .map_err(|_| fault::lost())?;
        client
            .publish(inbox, bytes::Bytes::new())
            .await
            .map_err(|_| fault::lost())?;
        match timeout(SETTLE, echo.next()).await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(self.why_lost(None)),
            // It may not be allowed to publish to itself; the subscriptions are on their way.
            Err(_) if client.connection_state() == State::Connected => {}
            Err(_) => return Err(self.why_lost(None)),
        }
        Ok(())
    }

    /// Drives the link until it is lost.
    ///
    /// # Cancel safety
    /// May be called again; what is wanted is subscribed to anew.
    pub(super) async fn lost(&mut self, shared: &Arc<Shared>) -> ConnectionError {
        let mut changes = shared.takers.changes();
        let mut running: BTreeMap<Wanted, (Making, AbortHandle)> = BTreeMap::new();
        let mut tasks: FuturesUnordered<Abortable<Task>> = FuturesUnordered::new();
        let mut prolong = interval(PROLONG);
        prolong.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut said = None;
        changes.mark_changed();
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(Event::Disconnected | Event::Closed) | None => return self.why_lost(said),
                    Some(Event::ServerError(error)) => {
                        if !shared.note_denied(&error) {
                            said = Some(error);
                        }
                    }
                    Some(Event::SlowConsumer(_)) => {
                        shared.context.traffic.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(Event::LameDuckMode) if shared.config.servers.len() > 1 => {
                        return ConnectionError::disconnected("nats:lame-duck", "the server is about to go away");
                    }
                    Some(_) => {}
                },
                () = shared.window.any_ended() => {
                    if let Err(error) = self.acknowledge(shared).await {
                        return error;
                    }
                }
                _ = changes.changed() => {
                    let wanted = shared.takers.wanted();
                    running.retain(|key, (making, handle)| {
                        let same = |wanted: &&(Wanted, Making)| wanted.0 == *key;
                        let keep = wanted.iter().find(same).is_some_and(|it| it.1 == *making);
                        if !keep {
                            handle.abort();
                        }
                        keep
                    });
                    shared.consumers.keep(|jet| {
                        let same = |wanted: &Wanted| matches!(wanted, Wanted::Jet(it) if it == jet);
                        wanted.iter().any(|(wanted, _)| same(wanted))
                    });
                    // Takers that are at odds may have come or gone.
                    shared.noted.notify_one();
                    for (key, making) in wanted {
                        if running.contains_key(&key) {
                            continue;
                        }
                        let (handle, registration) = AbortHandle::new_pair();
                        let task = self.task(shared, &key, making);
                        tasks.push(Abortable::new(task, registration));
                        running.insert(key, (making, handle));
                    }
                }
                // One that was aborted is not wanted any more.
                Some(ended) = tasks.next(), if !tasks.is_empty() => if let Ok(error) = ended {
                    return self.why(said, error);
                },
                _ = prolong.tick() => {
                    if let Err(error) = jet::prolong(shared, &self.handle).await {
                        return error;
                    }
                }
            }
        }
    }

    fn task(&mut self, shared: &Arc<Shared>, wanted: &Wanted, making: Making) -> Task {
        let (shared, handle) = (Arc::clone(shared), Arc::clone(&self.handle));
        match wanted {
            Wanted::Jet(jet) => Box::pin(jet::pull(shared, handle, jet.clone(), making)),
            Wanted::Core { .. } => {
                let made = self.made.remove(wanted);
                Box::pin(core(shared, handle, wanted.clone(), made))
            }
        }
    }

    /// Acknowledges what is settled, and gives back what was abandoned.
    ///
    /// # Errors
    /// The link is gone.
    pub(super) async fn acknowledge(&self, shared: &Shared) -> Result<(), ConnectionError> {
        for ended in shared.window.ended() {
            let kind = if ended.settled {
                jetstream::AckKind::Ack
            } else {
                let (name, place, _) = &ended.key;
                shared.consumers.gave_back(name, *place);
                jetstream::AckKind::Nak(Some(Duration::from_secs(1)))
            };
            jet::answer(&self.handle, ended.to, kind).await?;
        }
        Ok(())
    }

    fn why(&mut self, said: Option<ServerError>, error: ConnectionError) -> ConnectionError {
        match self.handle.client.connection_state() {
            State::Connected => error,
            _ => self.why_lost(said),
        }
    }

    /// The server's last words, if it had any.
    fn why_lost(&mut self, mut said: Option<ServerError>) -> ConnectionError {
        while let Ok(event) = self.events.try_recv() {
            if let Event::ServerError(error) = event {
                said = Some(error);
            }
        }
        said.map_or_else(
            || ConnectionError::disconnected("closed", "the server closed the connection"),
            |said| fault::server(&said),
        )
    }
}

/// What serves one thing that is wanted; it ends when the link cannot go on.
type Task = Pin<Box<dyn Future<Output = ConnectionError> + Send>>;

async fn core(
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    wanted: Wanted,
    made: Option<async_nats::Subscriber>,
) -> ConnectionError {
    let Wanted::Core { subject, queue } = &wanted else {
        return fault::lost();
    };
    let mut subscriber = match made {
        Some(made) => made,
        None => match subscribe(&handle.client, subject, queue.as_deref()).await {
            Ok(made) => made,
            Err(error) => return error,
        },
    };
    while let Some(message) = subscriber.next().await {
        let Some(message) = shared.context.received(ours(message)) else {
            continue;
        };
        // Nothing waits for its end, so it is at its end here.
        shared.useful.store(true, Ordering::Relaxed);
        let takers = shared.takers.of(&wanted);
        for inbox in &takers {
            let delivery = Delivery {
                message: message.clone(),
                take: None,
            };
            if !inbox.push(delivery).unwrap_or(false) {
                shared
                    .context
                    .traffic
                    .dropped
                    .fetch_add(1, Ordering::Relaxed);
            }
        }
        if takers.is_empty() {
            shared
                .context
                .traffic
                .untaken
                .fetch_add(1, Ordering::Relaxed);
        }
    }
    // The library has let go of it: the link's end is on its way as an event.
    sleep(SETTLE).await;
    fault::lost()
}

async fn subscribe(
    client: &Client,
    subject: &str,
    queue: Option<&str>,
) -> Result<async_nats::Subscriber, ConnectionError> {
    let made = match queue {
        Some(queue) => {
            client
                .queue_subscribe(subject.to_owned(), queue.to_owned())
                .await
        }
        None => client.subscribe(subject.to_owned()).await,
    };
    made.map_err(|_| fault::lost())
}

/// A message of the library as one of ours.
pub(super) fn ours(message: async_nats::Message) -> Message {
    let pairs = message.headers.iter().flat_map(async_nats::HeaderMap::iter);
    let headers: Vec<(String, String)> = pairs
        .flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values
                .iter()
                .map(move |value| (name.to_owned(), value.as_str().to_owned()))
        })
        .collect();
    let mut message = Message {
        payload: message.payload,
        subject: message.subject.as_str().into(),
        headers: Headers::from(headers),
        ..Message::default()
    };
    message.arrival.at_ms = now_ms();
    message
}

fn login(options: ConnectOptions, config: &Config) -> Result<ConnectOptions, ConnectionError> {
    let plain = |what, secret| {
        let secret = config.resolve(what, secret)?;
        Ok::<_, ConnectionError>(secret.expose_secret().to_owned())
    };
    Ok(match &config.login {
        Login::Nobody => options,
        Login::User(name, password) => {
            let password = password
                .as_ref()
                .map(|it| plain("password", it))
                .transpose()?;
            options.user_and_password(name.clone(), password.unwrap_or_default())
        }
        Login::Token(token) => options.token(plain("token", token)?),
        Login::Nkey(seed) => options.nkey(plain("nkey", seed)?.trim().to_owned()),
        Login::Credentials(text) => {
            // The library's own words could quote the text.
            options
                .credentials(&plain("credentials", text)?)
                .map_err(|_| {
                    ConnectionError::disconnected(
                        "nats:authorization",
                        "the credentials hold no JWT and seed as a credentials file has them",
                    )
                    .slow()
                })?
        }
    })
}

fn address(endpoint: &Endpoint) -> Result<ServerAddr, ConnectionError> {
    let scheme = if endpoint.is_tls() { "tls" } else { "nats" };
    server_address(&format!("{scheme}://{endpoint}"))
}

fn server_address(text: &str) -> Result<ServerAddr, ConnectionError> {
    text.parse().map_err(|error: std::io::Error| {
        ConnectionError::misconfigured("server", "the server's address cannot be used")
            .caused_by(error)
    })
}
