//! Messages out: by core NATS, where nobody acknowledges them, or to a stream of JetStream, which
//! does. What a stream may have taken without our knowing it is sent again under the same
//! `Nats-Msg-Id`, so that the stream keeps it once (within its duplicate window).

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use parking_lot::Mutex;

use super::link::{Handle, IN_FLIGHT};
use super::{Shared, fault, subject};
use crate::connections::{PublishOptions, Qos};
use crate::error::{ConnectionError, ErrorKind};
use crate::message::{Batch, Message, Rejection};

/// The header by which a stream knows a message again.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Messages that are remembered after a publish whose outcome is not known.
const REMEMBERED: usize = 8 * 1024;

/// Messages that were sent and whose outcome is not known, or that were taken while others of their
/// batch were not. The message is kept, so that its payload's address stays its own.
#[derive(Debug, Default)]
pub(super) struct Unsure(Mutex<VecDeque<Sent>>);

#[derive(Debug)]
struct Sent {
    subject: String,
    message: Message,
    id: String,
    taken: bool,
}

impl Sent {
    fn is(&self, subject: &str, message: &Message) -> bool {
        let place = |message: &Message| (message.payload.as_ptr(), message.payload.len());
        self.subject == subject && place(&self.message) == place(message)
    }
}

impl Unsure {
    /// Takes out what is known of an earlier attempt with this message.
    fn recall(&self, subject: &str, message: &Message) -> Option<(String, bool)> {
        let mut sent = self.0.lock();
        let place = sent.iter().position(|sent| sent.is(subject, message))?;
        sent.remove(place).map(|sent| (sent.id, sent.taken))
    }

    fn remember(&self, attempts: Vec<Sent>) {
        let mut sent = self.0.lock();
        sent.extend(attempts);
        while sent.len() > REMEMBERED {
            sent.pop_front();
        }
    }

    fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

/// Publishes a batch over a link.
///
/// # Errors
/// None is known to be published.
pub(super) async fn publish(
    shared: &Shared,
    handle: &Handle,
    batch: &Batch,
    options: &PublishOptions,
) -> Result<Vec<Rejection>, ConnectionError> {
    if options.qos.unwrap_or(shared.config.qos) == Qos::AtMostOnce {
        core(shared, handle, batch, options).await
    } else {
        stream(shared, handle, batch, options).await
    }
}

/// Beginnings of names that JetStream takes for commands, in any case: by them a message is dropped as a
/// duplicate, refused, or purges its stream. (Constants of nats-server, `stream.go`, and of clients' key
/// value stores.)
const COMMANDS: [&str; 2] = ["nats-", "kv-"];

/// Of headers that came with a message from elsewhere, those that may be sent on: what a sender or
/// another server meant by the others is no business of ours. What an action itself puts into a header
/// is not asked about here.
///
/// # Errors
/// Why it is left out.
pub(super) fn carries(name: &str, value: &str) -> Result<(), &'static str> {
    let begins = |command: &&str| {
        let head = name.get(..command.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(command))
    };
    if COMMANDS.iter().any(begins) {
        return Err("to NATS it would be a command");
    }
    // Nobody asked for it: the message is worth more than a header that NATS has no way to write.
    match written(name, value) {
        Some(_) => Ok(()),
        None => Err("NATS cannot write it"),
    }
}

/// A header as it is written; None: NATS has no way to.
fn written(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = name.parse().ok().filter(|_| !name.is_empty())?;
    Some((name, value.parse().ok()?))
}

/// What is wrong with the options themselves.
///
/// # Errors
/// `misconfigured`.
pub(super) fn check(options: &PublishOptions) -> Result<(), ConnectionError> {
    if let Some((name, _)) = options.extra.first() {
        return Err(subject::unknown(name, &[]));
    }
    if options.retain {
        return Err(ConnectionError::misconfigured(
            "option",
            "NATS keeps no retained messages: leave `retain` out",
        ));
    }
    match options.subject.as_deref().and_then(subject::publish_fault) {
        Some(fault) => Err(ConnectionError::misconfigured("subject", fault)),
        None => Ok(()),
    }
}

/// A message that can be sent.
struct Ready<'a> {
    index: u32,
    subject: &'a str,
    headers: HeaderMap,
    message: &'a Message,
}

/// What can be sent of a batch, and what can never be.
fn ready<'a>(
    handle: &Handle,
    batch: &'a Batch,
    options: &'a PublishOptions,
) -> (Vec<Ready<'a>>, Vec<Rejection>) {
    let largest = handle.client.max_payload();
    let (mut good, mut bad) = (Vec::with_capacity(batch.len()), Vec::new());
    for (index, message) in (0..).zip(batch.iter()) {
        let subject = options.subject.as_deref().unwrap_or(&message.subject);
        match one(subject, message, largest) {
            Ok(headers) => good.push(Ready {
                index,
                subject,
                headers,
                message,
            }),
            Err(error) => bad.push(Rejection { index, error }),
        }
    }
    (good, bad)
}

fn one(subject: &str, message: &Message, largest: usize) -> Result<HeaderMap, ConnectionError> {
    if let Some(fault) = subject::publish_fault(subject) {
        return Err(ConnectionError::permanent("subject", fault));
    }
    let mut headers = HeaderMap::new();
    // The version line and the empty line of a block of headers, and an id that is added.
    let mut size = message.payload.len() + 16 + MESSAGE_ID.len() + 40;
    for (name, value) in message.headers.pairs() {
        let Some((header, text)) = written(name, value) else {
            let name: String = name.chars().take(60).collect();
            let sentence = format!(
                "the header \"{name}\" cannot be sent: blanks and colons may not be in its name, nor line ends in its value"
            );
            return Err(ConnectionError::permanent("header", sentence));
        };
        size += name.len() + value.len() + 4;
        headers.append(header, text);
    }
    if size > largest {
        let sentence = format!("the message needs {size} bytes; the server takes {largest}");
        return Err(ConnectionError::permanent("too-large", sentence));
    }
    Ok(headers)
}

async fn core(
    shared: &Shared,
    handle: &Handle,
    batch: &Batch,
    options: &PublishOptions,
) -> Result<Vec<Rejection>, ConnectionError> {
    let (good, bad) = ready(handle, batch, options);
    for Ready {
        subject,
        headers,
        message,
        ..
    } in good
    {
        let (subject, payload) = (subject.to_owned(), message.payload.clone());
        let sent = if headers.is_empty() {
            handle.client.publish(subject, payload).await
        } else {
            handle
                .client
                .publish_with_headers(subject, headers, payload)
                .await
        };
        sent.map_err(|_| fault::lost())?;
        shared.context.traffic.sent(message.payload.len());
    }
    handle.client.flush().await.map_err(|_| fault::lost())?;
    Ok(bad)
}

async fn stream(
    shared: &Shared,
    handle: &Handle,
    batch: &Batch,
    options: &PublishOptions,
) -> Result<Vec<Rejection>, ConnectionError> {
    let (good, mut bad) = ready(handle, batch, options);
    let first_time = shared.unsure.is_empty();
    let mut attempts = Attempts {
        shared,
        sent: Vec::with_capacity(good.len()),
    };
    let mut failure = None;
    let mut good = good.into_iter().peekable();
    while good.peek().is_some() && failure.is_none() {
        let mut acknowledgements: Vec<(usize, u32, bool, PublishAckFuture)> = Vec::new();
        for ready in good.by_ref().take(IN_FLIGHT) {
            let known = if first_time {
                None
            } else {
                shared.unsure.recall(ready.subject, ready.message)
            };
            let given = ready
                .headers
                .get(MESSAGE_ID)
                .map(|id| id.as_str().to_owned());
            let again = known.is_some();
            let (id, taken) = known
                .unwrap_or_else(|| (given.unwrap_or_else(|| handle.client.new_inbox()), false));
            let place = attempts.sent.len();
            attempts.sent.push(Sent {
                subject: ready.subject.to_owned(),
                message: ready.message.clone(),
                id: id.clone(),
                taken,
            });
            if taken {
                continue;
            }
            let publish = PublishMessage::build()
                .headers(ready.headers)
                .message_id(&id)
                .payload(ready.message.payload.clone());
            match handle
                .jetstream
                .send_publish(ready.subject.to_owned(), publish)
                .await
            {
                Ok(acknowledgement) => {
                    acknowledgements.push((place, ready.index, again, acknowledgement));
                }
                Err(error) => {
                    failure = Some(fault::publishing(error));
                    break;
                }
            }
        }
        for (place, index, again, acknowledgement) in acknowledgements {
            match acknowledgement.await.map_err(fault::publishing) {
                Ok(answer) => {
                    attempts.taken(place);
                    // Sent again after an outcome that was not known, it is what the id is for.
                    if answer.duplicate && !again {
                        shared.note_duplicate(&answer.stream);
                    }
                }
                // The outcome of a lost link or of silence is not known: all come again.
                Err(error) if error.kind == ErrorKind::Disconnected || error.code == "timeout" => {
                    failure.get_or_insert(error);
                }
                Err(error) => {
                    attempts.done(place);
                    bad.push(Rejection { index, error });
                }
            }
        }
    }
    match failure {
        Some(error) => Err(error),
        None => {
            attempts.sent.clear();
            bad.sort_by_key(|rejection| rejection.index);
            Ok(bad)
        }
    }
}

/// What one call has sent so far. Unless it ends well, that is remembered for the next attempt: also
/// when the call is dropped half way.
struct Attempts<'a> {
    shared: &'a Shared,
    sent: Vec<Sent>,
}

impl Attempts<'_> {
    /// The stream has it.
    fn taken(&mut self, place: usize) {
        if let Some(sent) = self.sent.get_mut(place) {
            sent.taken = true;
            self.shared.context.traffic.sent(sent.message.payload.len());
            self.shared.useful.store(true, Ordering::Relaxed);
        }
    }

    /// The stream has said no: a further attempt is a new one.
    fn done(&mut self, place: usize) {
        if let Some(sent) = self.sent.get_mut(place) {
            sent.subject.clear();
        }
    }
}

impl Drop for Attempts<'_> {
    fn drop(&mut self) {
        let mut sent = std::mem::take(&mut self.sent);
        sent.retain(|sent| !sent.subject.is_empty());
        if !sent.is_empty() {
            self.shared.unsure.remember(sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Message {
        Message {
            headers: vec![(name.to_owned(), value.to_owned())].into(),
            ..Message::new("x")
        }
    }

    #[test]
    fn a_message_that_was_sent_before_keeps_its_id_and_an_equal_one_gets_its_own() {
        let unsure = Unsure::default();
        let message = Message::new(vec![1, 2, 3]);
        unsure.remember(vec![Sent {
            subject: "a".to_owned(),
            message: message.clone(),
            id: "one".to_owned(),
            taken: true,
        }]);
        let equal = Message::new(vec![1, 2, 3]);
        assert_eq!(unsure.recall("a", &equal), None);
        assert_eq!(unsure.recall("b", &message), None);
        assert_eq!(unsure.recall("a", &message), Some(("one".to_owned(), true)));
        assert!(unsure.is_empty());
    }

    #[test]
    fn what_a_stream_would_take_for_a_command_is_not_sent_on() {
        for name in [
            "Nats-Msg-Id",
            "nats-rollup",
            "NATS-Expected-Stream",
            "kv-operation",
        ] {
            assert!(carries(name, "x").is_err(), "{name}");
        }
        for name in ["nats", "X-Nats-Msg-Id", "KVOperation", "message-id"] {
            assert!(carries(name, "x").is_ok(), "{name}");
        }
        assert!(
            one("a", &with("Nats-Msg-Id", "1"), 1000).is_ok(),
            "the action's own are sent"
        );
    }

    #[test]
    fn a_header_that_cannot_be_written_is_left_out_unless_the_action_says_so_itself() {
        for (name, value) in [
            (":query", "a=b"),
            ("a b", "x"),
            ("é", "x"),
            ("a", "b\r\nc"),
            ("", "x"),
        ] {
            assert!(carries(name, value).is_err(), "{name}");
            assert!(one("a", &with(name, value), 1000).is_err(), "{name}");
        }
        assert!(carries("a", "ü b:c").is_ok());
    }

    #[test]
    fn what_can_never_be_sent_says_why() {
        assert_eq!(one("a.b", &with("A", "b"), 1000).unwrap().len(), 1);
        for (subject, message, code) in [
            ("a.*", Message::new("x"), "subject"),
            ("", Message::new("x"), "subject"),
            ("a", with("a b", "c"), "header"),
            ("a", with("a", "c\r\nd"), "header"),
            ("a", Message::new(vec![0; 1000]), "too-large"),
        ] {
            let error = one(subject, &message, 1000).unwrap_err();
            assert_eq!(
                (error.kind, error.code.as_str()),
                (ErrorKind::Permanent, code)
            );
        }
    }
}
