//! One link to a server: over RESP3, so that commands, their answers and published messages share it.
//! The library gives the protocol over a stream that `transport` has dialled; it is driven here, by
//! one task, until it is lost. Streams are read over links of their own (`reader.rs`), because such a
//! read blocks the link.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable, Aborted};
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::asked::{Reading, Wanted};
use super::{Shared, fault, reader};
use crate::connections::status::now_ms;
use crate::connections::transport::{self, Dial};
use crate::error::ConnectionError;
use crate::message::{Delivery, Message};

/// Commands that may wait for the link at once.
const COMMANDS: usize = 1024;
/// Settled entries acknowledged with one command.
const ACKS: usize = 512;

/// What drives a link; it ends when the link is lost.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A link from its login on.
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    driver: Driver,
    /// Channels and patterns that are subscribed to.
    subscribed: BTreeSet<Wanted>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("subscribed", &self.subscribed)
            .finish_non_exhaustive()
    }
}

/// Dials, and logs in. `patience` is for the answer to a command; `pushed` takes what is published.
///
/// # Errors
/// Why not.
pub(super) async fn open(
    shared: &Shared,
    patience: Duration,
    pushed: Option<Arc<Shared>>,
) -> Result<(MultiplexedConnection, Driver), ConnectionError> {
    let config = &shared.config;
    let how = Dial {
        tls: &config.tls,
        alpn: &[],
        websocket_protocol: "",
        websocket_limit: 0,
        user_timeout: Some(config.keep_alive.mul_f32(1.5)),
        // A link that only reads a stream has nothing else that would show a peer that is gone.
        probe: Some(config.keep_alive),
    };
    let login = config.login()?;
    let attempt = async {
        let stream = transport::dial(&config.server, &how).await?;
        let mut settings = AsyncConnectionConfig::new()
            .set_response_timeout(Some(patience))
            .set_pipeline_buffer_size(COMMANDS);
        if let Some(shared) = pushed {
            settings = settings.set_push_sender(move |info: PushInfo| {
                arrived(&shared, info);
                Ok::<(), std::convert::Infallible>(())
            });
        }
        let made = MultiplexedConnection::new_with_config(&login, stream, settings).await;
        let (connection, driver) = made.map_err(|error| fault::link(&error))?;
        Ok((connection, Box::pin(driver) as Driver))
    };
    match timeout(config.connect_timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(fault::silent()),
    }
}

impl Link {
    /// Dials, and subscribes to what is wanted.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn dial(shared: &Arc<Shared>) -> Result<Self, ConnectionError> {
        let (connection, driver) =
            open(shared, shared.config.timeout, Some(Arc::clone(shared))).await?;
        let mut link = Self {
            connection,
            driver,
            subscribed: BTreeSet::new(),
        };
        let Self {
            connection,
            driver,
            subscribed,
        } = &mut link;
        tokio::select! {
            done = subscribe(shared, connection, subscribed) => done?,
            () = driver => return Err(fault::lost()),
        }
        Ok(link)
    }

    /// Drives the link until it is lost.
    ///
    /// # Cancel safety
    /// May be called again; readers of streams begin anew.
    pub(super) async fn lost(&mut self, shared: &Arc<Shared>) -> ConnectionError {
        let Self {
            connection,
            driver,
            subscribed,
        } = self;
        tokio::select! {
            error = serve(shared, connection, subscribed) => error,
            () = driver => fault::lost(),
        }
    }
}

/// What serves one stream; it ends when the link cannot go on.
type Task = Pin<Box<dyn Future<Output = ConnectionError> + Send>>;

async fn serve(
    shared: &Arc<Shared>,
    connection: &mut MultiplexedConnection,
    subscribed: &mut BTreeSet<Wanted>,
) -> ConnectionError {
    let mut changes = shared.takers.changes();
    changes.mark_changed();
    let mut running: BTreeMap<Wanted, (Reading, AbortHandle)> = BTreeMap::new();
    let mut tasks: FuturesUnordered<Abortable<Task>> = FuturesUnordered::new();
    let mut look = interval(shared.config.keep_alive);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            biased;
            () = shared.window.any_ended() => acknowledge(shared, connection).await,
            _ = changes.changed() => {
                let wanted = shared.takers.wanted();
                running.retain(|key, (reading, handle)| {
                    let same = |wanted: &&(Wanted, Reading)| wanted.0 == *key;
                    let keep = wanted.iter().find(same).is_some_and(|it| it.1 == *reading);
                    if !keep {
                        handle.abort();
                    }
                    keep
                });
                // Who wants a stream again after that begins as they say.
                shared.made.lock().retain(|place| {
                    let same = |wanted: &Wanted| matches!(wanted, Wanted::Stream(it) if it.key == place.key && it.group == place.group);
                    wanted.iter().any(|(wanted, _)| same(wanted))
                });
                // Takers that are at odds may have come or gone.
                shared.noted.notify_one();
                for (key, reading) in wanted {
                    let Wanted::Stream(group) = &key else { continue };
                    if running.contains_key(&key) {
                        continue;
                    }
                    let (handle, registration) = AbortHandle::new_pair();
                    let task: Task = Box::pin(reader::read(
                        Arc::clone(shared),
                        group.clone(),
                        reading.clone(),
                    ));
                    tasks.push(Abortable::new(task, registration));
                    running.insert(key, (reading, handle));
                }
                subscribe(shared, connection, subscribed).await
            }
            Some(ended) = tasks.next(), if !tasks.is_empty() => match ended {
                Ok(error) => Err(error),
                Err(Aborted) => Ok(()),
            },
            _ = look.tick() => {
                let answer = redis::cmd("PING").query_async::<Value>(connection).await;
                answer.map(drop).map_err(|error| fault::link(&error))
            }
        };
        if let Err(error) = done {
            return error;
        }
    }
}

/// Brings the subscriptions to channels and patterns in line with what is wanted. What the server
/// refuses is told to whoever takes it.
async fn subscribe(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
    subscribed: &mut BTreeSet<Wanted>,
) -> Result<(), ConnectionError> {
    let wanted = shared.takers.wanted().into_iter();
    let wanted: BTreeSet<Wanted> = wanted.map(|(wanted, _)| wanted).collect();
    for key in wanted.difference(&subscribed.clone()) {
        let done = match key {
            Wanted::Channel(channel) => connection.subscribe(channel).await,
            Wanted::Pattern(pattern) => connection.psubscribe(pattern).await,
            Wanted::Stream(_) => continue,
        };
        match done {
            Ok(()) => {
                subscribed.insert(key.clone());
            }
            Err(error) if error.code().is_some() => {
                let why = fault::command(&error);
                for inbox in shared.takers.of(key) {
                    inbox.fail(ConnectionError::misconfigured(
                        why.code.clone(),
                        why.message.clone(),
                    ));
                }
                // Not asked again on this link.
                subscribed.insert(key.clone());
            }
            Err(error) => return Err(fault::link(&error)),
        }
    }
    for key in subscribed.clone().difference(&wanted) {
        let done = match key {
            Wanted::Channel(channel) => connection.unsubscribe(channel).await,
            Wanted::Pattern(pattern) => connection.punsubscribe(pattern).await,
            Wanted::Stream(_) => Ok(()),
        };
        done.map_err(|error| fault::link(&error))?;
        subscribed.remove(key);
    }
    Ok(())
}

/// Acknowledges what is settled, and has what was abandoned read again.
///
/// # Errors
/// The link is gone.
pub(super) async fn acknowledge(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
) -> Result<(), ConnectionError> {
    let mut settled: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for ended in shared.window.ended() {
        let (place, id) = ended.key;
        if ended.settled {
            settled.entry(place).or_default().push(id);
        } else {
            shared.again.lock().insert(place);
        }
    }
    for (place, ids) in settled {
        for ids in ids.chunks(ACKS) {
            reader::acknowledge(connection, &place, ids).await?;
        }
    }
    Ok(())
}

/// What was published, and what it was subscribed to by. None: it is about something else.
pub(super) fn published(info: PushInfo) -> Option<(Wanted, Message)> {
    let mut data = info.data.into_iter();
    let mut next = || match data.next() {
        Some(Value::BulkString(bytes)) => Some(bytes),
        Some(Value::SimpleString(text)) => Some(text.into_bytes()),
        _ => None,
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (wanted, channel) = match info.kind {
        PushKind::Message => {
            let channel = text(next()?);
            (Wanted::Channel(channel.clone()), channel)
        }
        PushKind::PMessage => (Wanted::Pattern(text(next()?)), text(next()?)),
        _ => return None,
    };
    let mut message = Message {
        subject: channel.into(),
        ..Message::new(next()?)
    };
    message.arrival.at_ms = now_ms();
    Some((wanted, message))
}

/// Something was pushed.
fn arrived(shared: &Shared, info: PushInfo) {
    let Some((wanted, message)) = published(info) else {
        return;
    };
    let Some(message) = shared.context.received(message) else {
        return;
    };
    // Nothing waits for its end, so it is at its end here.
    shared.useful.store(true, Ordering::Relaxed);
    let takers = shared.takers.of(&wanted);
    let traffic = &shared.context.traffic;
    if takers.is_empty() {
        traffic.untaken.fetch_add(1, Ordering::Relaxed);
    }
    for inbox in takers {
        let delivery = Delivery {
            message: message.clone(),
            take: None,
        };
        if !inbox.push(delivery).unwrap_or(false) {
            traffic.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
