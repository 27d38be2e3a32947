//! Streams in, as a consumer of a group: at least once. First come the entries that this consumer got
//! earlier and did not settle (after a restart, after a lost link), then new ones. An entry is
//! acknowledged (XACK) when it is settled, kept as ours (XCLAIM) while it is not, and read again when
//! it was abandoned. What another consumer leaves lying is taken over (XAUTOCLAIM).
//! Source: Redis documentation, "Redis Streams".

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};
use tokio::time::{Instant, sleep, timeout};

use super::asked::{Group, Reading, Wanted};
use super::{Place, Shared, fault, link};
use crate::connections::status::now_ms;
use crate::connections::window::Fate;
use crate::error::ConnectionError;
use crate::message::{Headers, Message};

/// Entries asked for at once.
const COUNT: usize = 128;
/// How long the server waits for entries before it answers that there are none.
const BLOCK: Duration = Duration::from_secs(2);
/// Where a search of what is pending begins, and what it says at its end.
const START: &str = "0-0";
/// The wait before something that failed is tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Why a round of reading ended.
enum End {
    /// The link cannot go on.
    Link(ConnectionError),
    /// The group is gone, or the server cannot at present: why. Look again.
    Later(String),
    /// This will never work.
    Wrong(ConnectionError),
}

fn end(error: &RedisError) -> End {
    let Some(code) = error.code() else {
        return End::Link(fault::link(error));
    };
    match code {
        "WRONGTYPE" | "NOPERM" => {
            let why = fault::command(error);
            End::Wrong(ConnectionError::misconfigured(why.code, why.message))
        }
        _ => End::Later(error.to_string()),
    }
}

/// Serves one stream until the link is lost.
pub(super) async fn read(shared: Arc<Shared>, group: Group, reading: Reading) -> ConnectionError {
    let wanted = Wanted::Stream(group.clone());
    let place = Arc::new(Place {
        key: group.key.clone(),
        group: group.group.clone(),
        consumer: group.consumer.clone().unwrap_or_else(|| shared.consumer()),
    });
    let (connection, driver) = match link::open(&shared, BLOCK + shared.config.timeout, None).await
    {
        Ok(open) => open,
        Err(error) => return error,
    };
    let mut reader = Reader {
        shared: &shared,
        wanted: &wanted,
        reading: &reading,
        place,
        connection,
        scan: START.to_owned(),
        kept: Instant::now(),
    };
    tokio::select! {
        error = reader.run() => error,
        () = driver => fault::lost(),
    }
}

struct Reader<'a> {
    shared: &'a Shared,
    wanted: &'a Wanted,
    reading: &'a Reading,
    place: Arc<Place>,
    connection: MultiplexedConnection,
    /// Where the search for what other consumers left lying goes on.
    scan: String,
    /// When the entries in flight were last said to be at work.
    kept: Instant,
}

impl Reader<'_> {
    async fn run(&mut self) -> ConnectionError {
        let mut wait = AGAIN.0;
        loop {
            let begun = Instant::now();
            match self.round().await {
                Ok(never) => match never {},
                Err(End::Link(error)) => return error,
                Err(End::Wrong(error)) => {
                    for inbox in self.shared.takers.of(self.wanted) {
                        inbox.fail(error.clone());
                    }
                    // Whoever takes it has been told; it may be put right meanwhile.
                    sleep(AGAIN.1).await;
                }
                Err(End::Later(why)) => {
                    self.shared.note(&self.place, Some(why));
                    if begun.elapsed() > AGAIN.1 {
                        wait = AGAIN.0;
                    }
                    sleep(wait).await;
                    wait = (wait * 2).min(AGAIN.1);
                }
            }
        }
    }

    async fn round(&mut self) -> Result<Never, End> {
        self.make_group().await?;
        self.shared.note(&self.place, None);
        self.unsettled().await?;
        let every = self.every();
        let mut searched = None::<Instant>;
        loop {
            if self.shared.again.lock().remove(&self.place) {
                sleep(AGAIN.0).await;
                self.unsettled().await?;
            }
            if searched.is_none_or(|last| last.elapsed() >= every) || self.scan != START {
                self.room().await?;
                self.take_over().await?;
                if self.scan == START {
                    searched = Some(Instant::now());
                }
            }
            self.room().await?;
            let mut read = redis::cmd("XREADGROUP");
            read.arg("GROUP")
                .arg(&self.place.group)
                .arg(&self.place.consumer)
                .arg("COUNT")
                .arg(COUNT);
            // In the middle of a search nothing is waited for.
            if self.scan == START {
                read.arg("BLOCK")
                    .arg(u64::try_from(BLOCK.as_millis()).unwrap_or(1000));
            }
            let reply = read
                .arg("STREAMS")
                .arg(&self.place.key)
                .arg(">")
                .query_async::<Value>(&mut self.connection)
                .await
                .map_err(|error| end(&error))?;
            self.deliver(of_stream(reply), false).await?;
        }
    }

    /// The shortest idle time that others may have set is not known: a third of our own it is.
    fn every(&self) -> Duration {
        (self.reading.claim_idle / 3).min(Duration::from_secs(30))
    }

    /// Waits for room, and says meanwhile that the entries in flight are still at work here: without room
    /// for long, others would take them over.
    async fn room(&mut self) -> Result<(), End> {
        let every = self.every();
        loop {
            let left = every.saturating_sub(self.kept.elapsed());
            let room = timeout(left, self.shared.window.room()).await;
            if self.kept.elapsed() >= every {
                self.keep().await?;
                self.kept = Instant::now();
            }
            if room.is_ok() {
                return Ok(());
            }
        }
    }

    async fn make_group(&mut self) -> Result<(), End> {
        let before = self.shared.made.lock().contains(&*self.place);
        let made = redis::cmd("XGROUP")
            .arg("CREATE")
            .arg(&self.place.key)
            .arg(&self.place.group)
            .arg(begin(before, &self.reading.from))
            .arg("MKSTREAM")
            .query_async::<Value>(&mut self.connection)
            .await;
        match made {
            Ok(_) => {}
            Err(error) if error.code() == Some("BUSYGROUP") => {}
            Err(error) => return Err(end(&error)),
        }
        self.shared.made.lock().insert(Arc::clone(&self.place));
        Ok(())
    }

    /// What this consumer got and has not settled. What is in flight here is not handed on twice.
    async fn unsettled(&mut self) -> Result<(), End> {
        let mut after = "0".to_owned();
        loop {
            let reply = redis::cmd("XREADGROUP")
                .arg("GROUP")
                .arg(&self.place.group)
                .arg(&self.place.consumer)
                .arg("COUNT")
                .arg(COUNT)
                .arg("STREAMS")
                .arg(&self.place.key)
                .arg(&after)
                .query_async::<Value>(&mut self.connection)
                .await
                .map_err(|error| end(&error))?;
            let entries = of_stream(reply);
            let Some(last) = entries.last() else {
                return Ok(());
            };
            after.clone_from(&last.id);
            self.deliver(entries, true).await?;
            self.room().await?;
        }
    }

    /// Says that the entries in flight are still at work here.
    async fn keep(&mut self) -> Result<(), End> {
        let flying = self.shared.window.in_flight().into_iter();
        let ids: Vec<String> = flying
            .filter(|((place, _), ())| *place == self.place)
            .map(|((_, id), ())| id)
            .collect();
        for ids in ids.chunks(COUNT) {
            redis::cmd("XCLAIM")
                .arg(&self.place.key)
                .arg(&self.place.group)
                .arg(&self.place.consumer)
                .arg(0)
                .arg(ids)
                .arg("JUSTID")
                .query_async::<Value>(&mut self.connection)
                .await
                .map_err(|error| end(&error))?;
        }
        Ok(())
    }

    /// Takes over some of what other consumers of the group have left lying, and remembers how far it got:
    /// there may be millions, and nobody takes in more than there is room for.
    async fn take_over(&mut self) -> Result<(), End> {
        let reply = redis::cmd("XAUTOCLAIM")
            .arg(&self.place.key)
            .arg(&self.place.group)
            .arg(&self.place.consumer)
            .arg(u64::try_from(self.reading.claim_idle.as_millis()).unwrap_or(u64::MAX))
            .arg(&self.scan)
            .arg("COUNT")
            .arg(COUNT)
            .query_async::<Value>(&mut self.connection)
            .await;
        START.clone_into(&mut self.scan);
        let reply = match reply {
            Ok(reply) => reply,
            // Before Redis 6.2 there is no such command.
            Err(error) if error.code() == Some("ERR") => return Ok(()),
            Err(error) => return Err(end(&error)),
        };
        let (next, entries) = claimed(reply);
        self.scan = next;
        self.deliver(entries, true).await
    }

    /// `again`: they were pending at some consumer before. What comes as new, the group has given to nobody
    /// since it was last set (`XGROUP SETID`).
    async fn deliver(&mut self, entries: Vec<Entry>, again: bool) -> Result<(), End> {
        let mut done = Vec::new();
        for Entry { id, fields } in entries {
            // Trimmed or deleted meanwhile: there is nothing left to deliver.
            let Some(fields) = fields else {
                done.push(id);
                continue;
            };
            let message = message(&self.place.key, &self.reading.field, fields);
            // Too large for this host: it is with the dead letters.
            let Some(message) = self.shared.context.received(message) else {
                done.push(id);
                continue;
            };
            let takers = self.shared.takers.of(self.wanted);
            let key = (Arc::clone(&self.place), id.clone());
            match self.shared.window.give(key, (), &message, again, &takers) {
                Fate::Settled => done.push(id),
                Fate::Given | Fate::Bound | Fate::Untaken => {}
            }
        }
        if done.is_empty() {
            return Ok(());
        }
        acknowledge(&mut self.connection, &self.place, &done)
            .await
            .map_err(End::Link)
    }
}

enum Never {}

/// Where a group begins that is not there: one that was there when it was last looked for went with its
/// stream, or by somebody's hand, and nothing of what it had to give may be passed over.
fn begin(before: bool, from: &str) -> &str {
    if before { "0" } else { from }
}

/// The answer to XAUTOCLAIM: where to go on ([`START`]: that was all), and the entries.
fn claimed(reply: Value) -> (String, Vec<Entry>) {
    let Value::Array(reply) = reply else {
        return (START.to_owned(), Vec::new());
    };
    let mut parts = reply.into_iter();
    let next = parts.next().and_then(text).unwrap_or_default();
    let next = if next.is_empty() {
        START.to_owned()
    } else {
        next
    };
    (next, parts.next().map(entries).unwrap_or_default())
}

/// Acknowledges entries.
///
/// # Errors
/// The link is gone. What the server says against it is no reason to end it: the group may be gone.
pub(super) async fn acknowledge(
    connection: &mut MultiplexedConnection,
    place: &Place,
    ids: &[String],
) -> Result<(), ConnectionError> {
    let done = redis::cmd("XACK")
        .arg(&place.key)
        .arg(&place.group)
        .arg(ids)
        .query_async::<Value>(connection)
        .await;
    match done {
        Err(error) if error.code().is_none() => Err(fault::link(&error)),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// An entry of a stream; none: only its id is left.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    id: String,
    pub(super) fields: Option<Vec<(String, Vec<u8>)>>,
}

/// The entries in an answer about one stream: a map in RESP3, a list of pairs before it.
pub(super) fn of_stream(reply: Value) -> Vec<Entry> {
    let streams: Vec<Value> = match reply {
        Value::Map(pairs) => pairs.into_iter().map(|(_, entries)| entries).collect(),
        Value::Array(pairs) => pairs.into_iter().filter_map(second).collect(),
        _ => Vec::new(),
    };
    streams.into_iter().flat_map(entries).collect()
}

fn second(pair: Value) -> Option<Value> {
    match pair {
        Value::Array(pair) => pair.into_iter().nth(1),
        _ => None,
    }
}

fn entries(list: Value) -> Vec<Entry> {
    let Value::Array(list) = list else {
        return Vec::new();
    };
    let entry = |value| {
        let Value::Array(pair) = value else {
            return None;
        };
        let mut pair = pair.into_iter();
        let id = pair.next().and_then(text)?;
        let fields = match pair.next() {
            Some(Value::Array(flat)) => {
                let mut flat = flat.into_iter();
                let mut fields = Vec::new();
                while let (Some(name), Some(value)) = (flat.next().and_then(text), flat.next()) {
                    fields.push((name, bytes(value).unwrap_or_default()));
                }
                Some(fields)
            }
            _ => None,
        };
        Some(Entry { id, fields })
    };
    list.into_iter().filter_map(entry).collect()
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        _ => None,
    }
}

fn text(value: Value) -> Option<String> {
    bytes(value).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// One field is the payload, the others are headers. Without that field all of them are the payload,
/// as a JSON object of texts.
pub(super) fn message(key: &str, field: &str, mut fields: Vec<(String, Vec<u8>)>) -> Message {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (payload, headers) = match fields.iter().position(|(name, _)| name == field) {
        Some(place) => {
            let (_, payload) = fields.remove(place);
            let headers: Vec<(String, String)> = fields
                .into_iter()
                .map(|(name, value)| (name, lossy(&value)))
                .collect();
            (payload, Headers::from(headers))
        }
        None => {
            let object: serde_json::Map<String, serde_json::Value> = fields
                .into_iter()
                .map(|(name, value)| (name, lossy(&value).into()))
                .collect();
            (
                serde_json::Value::Object(object).to_string().into_bytes(),
                Headers::NONE,
            )
        }
    };
    let mut message = Message {
        subject: key.into(),
        headers,
        ..Message::new(payload)
    };
    message.arrival.at_ms = now_ms();
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn entry(id: &str, fields: &[&str]) -> Value {
        let flat = fields.iter().map(|field| bulk(field)).collect();
        Value::Array(vec![bulk(id), Value::Array(flat)])
    }

    #[test]
    fn entries_are_found_in_both_forms_of_an_answer_and_a_deleted_one_keeps_its_id() {
        let list = Value::Array(vec![
            entry("1-0", &["payload", "p", "h", "v"]),
            Value::Array(vec![bulk("2-0"), Value::Nil]),
        ]);
        let map = of_stream(Value::Map(vec![(bulk("s"), list.clone())]));
        let pairs = of_stream(Value::Array(vec![Value::Array(vec![bulk("s"), list])]));
        assert_eq!(map, pairs);
        assert_eq!(
            (map.len(), map[0].id.as_str(), &map[1].fields),
            (2, "1-0", &None)
        );
        assert!(of_stream(Value::Nil).is_empty());
    }

    #[test]
    fn a_search_of_what_is_pending_goes_on_where_it_stopped_until_it_is_through() {
        let answer = |next: &str| {
            Value::Array(vec![
                bulk(next),
                Value::Array(vec![entry("1-0", &["payload", "p"])]),
                Value::Array(Vec::new()),
            ])
        };
        let (next, entries) = claimed(answer("7-1"));
        assert_eq!((next.as_str(), entries.len()), ("7-1", 1));
        assert_eq!(claimed(answer("0-0")).0, START);
        assert_eq!(claimed(Value::Nil), (START.to_owned(), Vec::new()));
    }

    #[test]
    fn a_group_that_was_there_before_begins_with_all_there_is() {
        assert_eq!((begin(false, "$"), begin(true, "$")), ("$", "0"));
    }

    #[test]
    fn one_field_is_the_payload_and_without_it_all_are() {
        let fields = || {
            vec![
                ("a".to_owned(), b"1".to_vec()),
                ("b".to_owned(), b"2".to_vec()),
            ]
        };
        let one = message("s", "b", fields());
        assert_eq!((&*one.payload, &*one.subject), (&b"2"[..], "s"));
        assert_eq!(one.headers.get("a"), Some("1"));
        let all = message("s", "payload", fields());
        assert_eq!(&*all.payload, br#"{"a":"1","b":"2"}"#);
        assert!(all.headers.pairs().is_empty());
    }
}
