//! JetStream in: a durable pull consumer with explicit acknowledgement. A delivery is acknowledged
//! when it is settled, prolonged (`+WPI`) while it is not, and given back (`-NAK`) when it was
//! abandoned. Pulls only what there is room for, so that the server's limits are never needed.
//! Sources: NATS documentation "Consumers", ADR-13 (pull requests), ADR-15 (reply subjects).

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{AckKind, ErrorCode};
use async_nats::{StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep, timeout};

use super::consumers::{Begin, Found};
use super::link::Handle;
use super::subject::{Deliver, Jet, Making, Wanted};
use super::{Key, Shared, fault};
use crate::connections::window::Fate;
use crate::error::ConnectionError;

/// Messages asked for at once, at most.
const BATCH: usize = 256;
/// How long the server keeps a request for messages.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often it says meanwhile that it still has it.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Bytes asked for at once, unless one message may be larger.
const BYTES: usize = 8 * 1024 * 1024;
/// The wait before a stream or consumer that is not there is looked for again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Why a round with a consumer ended.
enum End {
    /// The link cannot go on.
    Link(ConnectionError),
    /// There is no such stream or consumer at present: why. Look again.
    Missing(String),
    /// This will never work.
    Wrong(ConnectionError),
}

/// Serves one consumer until the link is lost.
pub(super) async fn pull(
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    jet: Jet,
    making: Making,
) -> ConnectionError {
    let wanted = Wanted::Jet(jet.clone());
    let mut wait = AGAIN.0;
    loop {
        let begun = Instant::now();
        match round(&shared, &handle, &jet, making, &wanted).await {
            Ok(never) => match never {},
            Err(End::Link(error)) => return error,
            Err(End::Wrong(error)) => {
                for inbox in shared.takers.of(&wanted) {
                    inbox.fail(error.clone());
                }
                // Whoever takes it has been told; it may be put right meanwhile.
                sleep(AGAIN.1).await;
            }
            Err(End::Missing(why)) => {
                shared.note(&wanted, Some(why));
                if begun.elapsed() > AGAIN.1 {
                    wait = AGAIN.0;
                }
                sleep(wait).await;
                wait = (wait * 2).min(AGAIN.1);
            }
        }
    }
}

enum Never {}

async fn round(
    shared: &Shared,
    handle: &Handle,
    jet: &Jet,
    making: Making,
    wanted: &Wanted,
) -> Result<Never, End> {
    let consumer = consumer(shared, handle, jet, making).await?;
    let inbox = handle.client.new_inbox();
    let mut messages = handle
        .client
        .subscribe(inbox.clone())
        .await
        .map_err(|_| End::Link(fault::lost()))?;
    shared.note(wanted, None);
    let info = consumer.cached_info();
    let name = known_as(&info.stream_name, &info.name);
    let _served = shared.serve(&name).ok_or_else(|| shared_already(info))?;
    let most = usize::try_from(info.config.max_ack_pending.max(1)).unwrap_or(BATCH);
    loop {
        shared.window.room().await;
        let request = pull::BatchConfig {
            batch: BATCH.min(most),
            expires: Some(EXPIRES),
            idle_heartbeat: HEARTBEAT,
            max_bytes: BYTES.max(handle.client.max_payload().saturating_mul(2)),
            ..pull::BatchConfig::default()
        };
        let left = request.batch;
        consumer
            .request_batch(request, inbox.clone().into())
            .await
            .map_err(|_| End::Link(fault::lost()))?;
        answers(shared, handle, wanted, &name, left, &mut messages).await?;
    }
}

/// Takes in what one request brings, until it is used up.
async fn answers(
    shared: &Shared,
    handle: &Handle,
    wanted: &Wanted,
    name: &Arc<str>,
    mut left: usize,
    messages: &mut Subscriber,
) -> Result<(), End> {
    while left > 0 {
        let message = match timeout(HEARTBEAT * 2 + HEARTBEAT / 2, messages.next()).await {
            Ok(Some(message)) => message,
            Ok(None) => {
                // The link's end is on its way as an event, with its reason.
                sleep(HEARTBEAT).await;
                return Err(End::Link(fault::lost()));
            }
            Err(_) => return Err(End::Missing("the consumer does not answer".to_owned())),
        };
        match message.status {
            None => {
                left -= 1;
                deliver(shared, handle, wanted, name, message).await?;
            }
            Some(StatusCode::IDLE_HEARTBEAT) => {}
            // Time is up, or there is nothing.
            Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => return Ok(()),
            Some(StatusCode::NO_RESPONDERS) => {
                return Err(End::Missing(
                    "there is no such consumer any more".to_owned(),
                ));
            }
            Some(status) => {
                let why = message.description.unwrap_or_default();
                let lower = why.to_lowercase();
                if lower.contains("deleted") || lower.contains("push") {
                    return Err(End::Missing(format!("the consumer is gone ({why})")));
                }
                tracing::debug!(%status, why, "a request for messages ended");
                sleep(AGAIN.0).await;
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn deliver(
    shared: &Shared,
    handle: &Handle,
    wanted: &Wanted,
    name: &Arc<str>,
    message: async_nats::Message,
) -> Result<(), End> {
    let Some((reply, key, again)) = message.reply.clone().and_then(|reply| {
        let (key, delivered) = key(name, reply.as_str())?;
        Some((reply, key, delivered > 1))
    }) else {
        tracing::debug!(connection = %shared.context.id, "a message without a way to acknowledge it");
        return Ok(());
    };
    let place = key.1;
    let again = shared.consumers.arrived(name, place) || again;
    let answered = match shared.context.received(super::link::ours(message)) {
        // Too large for this host: it is with the dead letters.
        None => answer(handle, reply, AckKind::Term).await,
        Some(message) => {
            let takers = shared.takers.of(wanted);
            match shared
                .window
                .give(key, reply.clone(), &message, again, &takers)
            {
                Fate::Given | Fate::Bound => Ok(()),
                Fate::Settled => answer(handle, reply, AckKind::Ack).await,
                Fate::Untaken => {
                    shared.consumers.gave_back(name, place);
                    answer(handle, reply, AckKind::Nak(None)).await
                }
            }
        }
    };
    answered.map_err(End::Link)
}

/// What a message is known by over all links: its consumer, its place in the stream, and when it was
/// stored, because a stream that was made anew counts from 1 again; and how often it was delivered.
/// From the reply subject:
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<nanoseconds>.<pending>`,
/// with domain and account before the stream in the newer form.
fn key(name: &Arc<str>, reply: &str) -> Option<(Key, u64)> {
    let mut tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let from = if tokens.len() >= 9 { 2 } else { 0 };
    let tokens = tokens.drain(from..).collect::<Vec<_>>();
    let number = |place: usize| tokens.get(place)?.parse::<u64>().ok();
    let key = (Arc::clone(name), number(3)?, number(5)?);
    Some((key, number(2)?))
}

/// Sends an answer to a delivery.
///
/// # Errors
/// The link is gone.
pub(super) async fn answer(
    handle: &Handle,
    reply: Subject,
    kind: AckKind,
) -> Result<(), ConnectionError> {
    let sent = handle.client.publish(reply, Bytes::from(kind)).await;
    sent.map_err(|_| fault::lost())
}

/// Tells the server of all deliveries that are still at work, so that it does not send them again.
///
/// # Errors
/// The link is gone.
pub(super) async fn prolong(shared: &Shared, handle: &Handle) -> Result<(), ConnectionError> {
    for (_, reply) in shared.window.in_flight() {
        answer(handle, reply, AckKind::Progress).await?;
    }
    Ok(())
}

/// The consumer, made if it is not there.
async fn consumer(
    shared: &Shared,
    handle: &Handle,
    jet: &Jet,
    making: Making,
) -> Result<Consumer<pull::Config>, End> {
    let context = &handle.jetstream;
    let stream = match &jet.stream {
        Some(stream) => stream.clone(),
        None => context
            .stream_by_subject(jet.subject.clone())
            .await
            .map_err(|error| {
                End::Missing(format!(
                    "no stream of JetStream has the subject \"{}\" ({error})",
                    jet.subject
                ))
            })?,
    };
    let name = match &jet.durable {
        Some(name) => name.clone(),
        None => shared.consumer_name(&jet.subject),
    };
    let known = known_as(&stream, &name);
    let born = born(handle, &stream).await;
    let mut begin = None;
    let found = match context
        .get_consumer_from_stream::<pull::Config, _, _>(&name, &stream)
        .await
    {
        Ok(found) => found,
        Err(error) => {
            let code = jetstream_code(&error);
            if code == Some(ErrorCode::STREAM_NOT_FOUND) {
                return Err(End::Missing(format!("there is no stream \"{stream}\"")));
            }
            if code != Some(ErrorCode::CONSUMER_NOT_FOUND) {
                return Err(unusable(&name, &error));
            }
            let here = shared.window.in_flight().into_iter();
            let here = here.filter_map(|((of, place, _), _)| (of == known).then_some(place));
            let to_begin = shared.consumers.begin(&known, born, here.min());
            begin = Some(to_begin);
            let config = pull::Config {
                durable_name: Some(name.clone()),
                description: Some("Made by Windlass.".to_owned()),
                deliver_policy: policy(to_begin, making.deliver),
                ack_policy: AckPolicy::Explicit,
                ack_wait: making.ack_wait,
                max_deliver: -1,
                max_ack_pending: making.max_ack_pending,
                filter_subject: jet.subject.clone(),
                ..pull::Config::default()
            };
            let made = context.create_consumer_on_stream(config, &stream).await;
            made.map_err(|error| unusable(&name, &error))?
        }
    };
    let info = found.cached_info();
    let config = &info.config;
    let wrong = if config.ack_policy != AckPolicy::Explicit {
        "does not acknowledge each message (its ack policy is not explicit)"
    } else if !config.filter_subject.is_empty() && config.filter_subject != jet.subject {
        "is there already, for another subject"
    } else {
        let there = Found {
            stream: born,
            created: info.created.unix_timestamp_nanos(),
            floor: info.ack_floor.stream_sequence,
            pending: info.num_ack_pending > 0,
            ack_wait: config.ack_wait,
        };
        shared.consumers.found(&known, jet, there, begin);
        return Ok(found);
    };
    Err(End::Wrong(ConnectionError::misconfigured(
        "durable",
        format!("the consumer \"{name}\" of the stream \"{stream}\" {wrong}"),
    )))
}

/// What a consumer is known by among those of all streams.
fn known_as(stream: &str, consumer: &str) -> Arc<str> {
    format!("{stream}>{consumer}").into()
}

/// When a stream was made: by that one of the same name is told from it. None: the server does not tell us.
async fn born(handle: &Handle, stream: &str) -> Option<i128> {
    let found = handle.jetstream.get_stream(stream).await;
    if let Err(error) = &found {
        tracing::debug!(stream, %error, "a stream's age cannot be told");
    }
    Some(found.ok()?.cached_info().created.unix_timestamp_nanos())
}

fn policy(begin: Begin, asked: Deliver) -> DeliverPolicy {
    match (begin, asked) {
        (Begin::At(start_sequence), _) => DeliverPolicy::ByStartSequence { start_sequence },
        (Begin::All, _) | (Begin::Asked, Deliver::All) => DeliverPolicy::All,
        (Begin::Asked, Deliver::New) => DeliverPolicy::New,
        (Begin::Asked, Deliver::Last) => DeliverPolicy::Last,
    }
}

/// Two rounds on one consumer would each get a part of its messages. Takers that ask in the same words
/// have one round; of those that do not, one must say so.
fn shared_already(info: &async_nats::jetstream::consumer::Info) -> End {
    let (consumer, stream) = (&info.name, &info.stream_name);
    End::Wrong(ConnectionError::misconfigured(
        "durable",
        format!(
            "the consumer \"{consumer}\" of the stream \"{stream}\" is read by another source of this connection: give both the same subject and the same \"stream\", or this one a \"durable\" of its own"
        ),
    ))
}

/// The server's own code. The library keeps it in the kind of its error, and not among its causes.
fn jetstream_code(error: &ConsumerError) -> Option<ErrorCode> {
    match error.kind() {
        ConsumerErrorKind::JetStream(error) => Some(error.error_code()),
        _ => None,
    }
}

/// A consumer that pushes cannot be pulled from; everything else may pass.
fn unusable(name: &str, error: &(dyn std::error::Error + 'static)) -> End {
    let words = error.to_string();
    if words.contains("pull consumer") || words.contains("push consumer") {
        return End::Wrong(ConnectionError::misconfigured(
            "durable",
            format!(
                "the consumer \"{name}\" pushes its messages; one that is pulled from is needed"
            ),
        ));
    }
    End::Missing(format!(
        "the consumer \"{name}\" cannot be used at present ({words})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_known_by_its_consumer_its_place_and_its_time() {
        let name: Arc<str> = "S>c".into();
        let old = key(&name, "$JS.ACK.S.c.2.17.30.1700000000000000001.5").unwrap();
        let new = key(
            &name,
            "$JS.ACK._.hash.S.c.1.17.29.1700000000000000001.4.token",
        )
        .unwrap();
        assert_eq!((old.0.1, old.0.2), (17, 1_700_000_000_000_000_001));
        assert_eq!(old.0, new.0, "in both forms of the subject");
        assert_eq!((old.1, new.1), (2, 1));
        for bad in ["", "_INBOX.x", "$JS.ACK.S.c.x", "$JS.ACK.S.c.1.2"] {
            assert!(key(&name, bad).is_none(), "{bad}");
        }
    }
}
