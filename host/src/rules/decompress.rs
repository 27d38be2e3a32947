//! Payloads that come compressed: what a stream's `decompression` says, and one payload unpacked within
//! a bound. No queue, no task; the source decides when, and what becomes of a payload that is none.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::output::{METHODS, Method};
use super::query::hint;
use crate::inflate::Inflate;
use crate::message::{Batch, Message};

/// The property, eKuiper's name.
pub const PROPERTY: &str = "decompression";
/// The code of a dead letter that could not be unpacked: as it came, before any query.
pub const PACKED: &str = "decompression";

/// Bytes unpacked before what came of them is handed on.
const PART: usize = 16 * 1024 * 1024;
/// Unpacked bytes of one stream that are not final; what is read beyond them waits.
const UNSETTLED: usize = 64 * 1024 * 1024;
const PIECE: usize = 16 * 1024;
/// A window of 8 MiB is what every encoder may count on (RFC 8878, 3.1.1.1.2).
const ZSTD_WINDOW: u32 = 23;

/// How a stream's payloads are unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decompression(Method);

/// The JSON Schema of the property, for editors.
#[must_use]
pub fn properties() -> Map<String, Value> {
    let words: Vec<&str> = [""]
        .into_iter()
        .chain(METHODS.map(|(name, _)| name))
        .collect();
    let schema = json!({
        "description": "How the payloads are compressed; they are unpacked before anything looks at them.",
        "enum": words,
        "default": "",
    });
    Map::from_iter([(PROPERTY.to_owned(), schema)])
}

/// A mistake in the property: its name as it was spelled, and a sentence.
type Mistake = (String, String);

impl Decompression {
    /// Takes the property out of those of a stream. None: it is not there, or empty, as in eKuiper's
    /// files.
    ///
    /// # Errors
    /// The value is none of those that are known.
    pub fn take_from(properties: &mut Map<String, Value>) -> Result<Option<Self>, Mistake> {
        let mut keys = properties.keys();
        let Some(key) = keys.find(|key| key.eq_ignore_ascii_case(PROPERTY)).cloned() else {
            return Ok(None);
        };
        let allowed = METHODS.map(|(name, _)| name);
        let word = match properties.remove(&key) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(word)) if word.is_empty() => return Ok(None),
            Some(Value::String(word)) => word,
            Some(other) => {
                let all = allowed.join(", ");
                let sentence = format!("{key}: found {other}; it takes a text. Allowed: {all}");
                return Err((key, sentence));
            }
        };
        let known = METHODS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&word));
        match known {
            Some((_, method)) => Ok(Some(Self(*method))),
            None => {
                let (hint, all) = (hint(&word, allowed), allowed.join(", "));
                let sentence = format!("{key}: unknown method \"{word}\"{hint} Allowed: {all}");
                Err((key, sentence))
            }
        }
    }

    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        let named = METHODS.iter().find(|(_, method)| *method == self.0);
        named.map_or("", |(name, _)| name)
    }

    /// A payload unpacked. More than `most` bytes are never held.
    ///
    /// # Errors
    /// A sentence: it is not that, or cut short, or more than `most` bytes come out of it.
    pub fn unpack(self, packed: &[u8], most: usize) -> Result<Vec<u8>, String> {
        let unpacked = match self.0 {
            Method::Gzip => read_all(MultiGzDecoder::new(packed), most),
            Method::Zlib => read_all(Inflate::new(packed, true), most),
            Method::Flate => read_all(Inflate::new(packed, false), most),
            Method::Zstd => zstd::stream::read::Decoder::with_buffer(packed)
                .and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW)?;
                    Ok(decoder)
                })
                .map_err(|_| Broken::Damaged)
                // No frame at all is no error to the decoder.
                .and_then(|decoder| match packed {
                    [] => Err(Broken::Damaged),
                    _ => read_all(decoder, most),
                }),
        };
        unpacked.map_err(|broken| match broken {
            Broken::Damaged => format!("the payload is not {}, or it is cut short", self.word()),
            Broken::TooLarge => format!(
                "the payload has more than {most} bytes when {} is unpacked; {most} are taken in",
                self.word()
            ),
        })
    }
}

enum Broken {
    Damaged,
    TooLarge,
}

fn read_all(mut from: impl Read, most: usize) -> Result<Vec<u8>, Broken> {
    let mut open = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        let count = from.read(&mut piece).map_err(|_| Broken::Damaged)?;
        if count == 0 {
            open.shrink_to_fit();
            return Ok(open);
        }
        if open.len() + count > most {
            return Err(Broken::TooLarge);
        }
        open.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
}

/// Unpacks the batches of one stream, part by part, so that a batch of bombs never lies in memory whole.
#[derive(Debug)]
pub struct Unpacker {
    method: Decompression,
    /// The largest payload that comes out.
    most: usize,
    unsettled: Arc<Unsettled>,
}

/// Bytes that were unpacked and are not final.
#[derive(Debug, Default)]
struct Unsettled {
    bytes: AtomicUsize,
    fewer: Notify,
}

/// A share of the bytes that are unpacked; given back when dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<Unsettled>,
    bytes: usize,
}

/// What was unpacked of a batch, in its order.
#[derive(Debug)]
pub struct Part {
    /// Unpacked.
    pub batch: Batch,
    /// Those that could not be, as they came, and why.
    pub failures: Vec<(Message, String)>,
    /// To be held until all of it is final.
    pub share: Share,
    /// How many messages of the packed batch it took.
    pub took: usize,
}

impl Unpacker {
    /// Payloads of at most `most` bytes come out.
    #[must_use]
    pub fn new(method: Decompression, most: usize) -> Self {
        Self {
            method,
            most,
            unsettled: Arc::default(),
        }
    }

    /// One message unpacked.
    ///
    /// # Errors
    /// Why not, in a sentence.
    pub fn one(&self, message: &Message) -> Result<Message, String> {
        let payload = self.method.unpack(&message.payload, self.most)?;
        Ok(Message {
            payload: payload.into(),
            ..message.clone()
        })
    }

    /// Waits until less is unsettled than may be.
    ///
    /// # Cancel safety
    /// Nothing changes.
    pub async fn room(&self) {
        loop {
            let mut fewer = std::pin::pin!(self.unsettled.fewer.notified());
            fewer.as_mut().enable();
            if !self.is_full() {
                return;
            }
            fewer.await;
        }
    }

    /// As much is unsettled as may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.unsettled.bytes.load(Ordering::Acquire) >= UNSETTLED
    }

    /// Unpacks messages from `start` on, as many as make a part; all that are there in most cases.
    pub async fn part(&self, packed: &Batch, start: usize) -> Part {
        let (mut messages, mut failures) = (Vec::new(), Vec::new());
        let mut share = Share {
            of: Arc::clone(&self.unsettled),
            bytes: 0,
        };
        let mut took = 0;
        for message in packed.iter().skip(start) {
            if share.bytes >= PART {
                break;
            }
            took += 1;
            match self.one(message) {
                Ok(message) => {
                    share.grow(message.payload.len());
                    messages.push(message);
                }
                Err(reason) => failures.push((message.clone(), reason)),
            }
            // One payload takes a moment at most; many of them would stop others on this thread.
            tokio::task::consume_budget().await;
        }
        Part {
            batch: messages.into(),
            failures,
            share,
            took,
        }
    }
}

impl Share {
    fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.of.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// No more may be unpacked before some is final.
    #[must_use]
    pub fn presses(&self) -> bool {
        self.of.bytes.load(Ordering::Acquire) >= UNSETTLED
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.of.fewer.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::output::Compression;

    fn method(word: &str) -> Decompression {
        let mut properties = json!({ "decompression": word })
            .as_object()
            .unwrap()
            .clone();
        let method = Decompression::take_from(&mut properties).unwrap().unwrap();
        assert!(properties.is_empty());
        method
    }

    fn packed(method: Decompression, payload: &[u8]) -> Vec<u8> {
        Compression::of(method.0).apply(payload).unwrap()
    }

    #[test]
    fn what_an_action_compresses_a_stream_unpacks() {
        for (word, _) in METHODS {
            let method = method(&word.to_uppercase());
            for payload in [&b""[..], b"{\"a\":1}", &[7; 100_000]] {
                let packed = packed(method, payload);
                assert_eq!(method.unpack(&packed, 100_000).unwrap(), payload, "{word}");
            }
        }
    }

    #[test]
    fn what_is_cut_damaged_or_something_else_says_so() {
        for (word, _) in METHODS {
            let method = method(word);
            let whole = packed(method, &[b'x'; 5_000]);
            let mut behind = whole.clone();
            behind.extend_from_slice(b"rubbish");
            let cut = &whole[..whole.len() - 3];
            for bad in [b"".as_slice(), b"{\"a\": 1}", cut, &behind] {
                let error = method.unpack(bad, 10_000).unwrap_err();
                assert!(error.contains(&format!("is not {word}")), "{error}");
            }
        }
    }

    #[test]
    fn a_bomb_ends_at_the_bound() {
        for (word, _) in METHODS {
            let method = method(word);
            let bomb = packed(method, &vec![0; 20_000_000]);
            assert!(bomb.len() < 100_000, "{word}");
            let error = method.unpack(&bomb, 1_000_000).unwrap_err();
            assert!(error.contains("more than 1000000 bytes"), "{error}");
        }
    }

    #[test]
    fn another_word_is_refused_with_what_is_allowed() {
        let mistake = |value: Value| {
            let mut properties = Map::from_iter([("Decompression".to_owned(), value)]);
            Decompression::take_from(&mut properties).unwrap_err()
        };
        let (key, sentence) = mistake(json!("gzipp"));
        assert_eq!(key, "Decompression");
        assert!(
            sentence.contains("\"gzipp\"; did you mean \"gzip\"?"),
            "{sentence}"
        );
        assert!(sentence.contains("gzip, zlib, flate, zstd"), "{sentence}");
        assert!(mistake(json!(5)).1.contains("found 5"));
        for none in [
            json!({}),
            json!({"decompression": ""}),
            json!({"decompression": null}),
        ] {
            let mut none = none.as_object().unwrap().clone();
            assert_eq!(Decompression::take_from(&mut none).unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_batch_of_bombs_comes_in_parts_and_waits_for_those_before() {
        let method = method("zstd");
        let bomb = packed(method, &vec![0; 15_000_000]);
        let unpacker = Unpacker::new(method, 16_000_000);
        let batch: Batch = std::iter::repeat_with(|| Message::new(bomb.clone()))
            .take(12)
            .chain([Message::new("rubbish")])
            .collect::<Vec<_>>()
            .into();
        let (mut start, mut parts) = (0, Vec::new());
        while !unpacker.is_full() {
            let part = unpacker.part(&batch, start).await;
            assert_eq!((part.took, part.failures.len()), (2, 0));
            start += part.took;
            parts.push(part);
        }
        assert_eq!(parts.len(), 3);
        assert!(parts[0].share.presses());
        let (_, ()) = tokio::join!(unpacker.room(), async { drop(parts) });
        let last = unpacker.part(&batch, 12).await;
        assert_eq!((last.took, last.batch.len()), (1, 0));
        assert_eq!(last.failures[0].0.payload, "rubbish");
    }
}
