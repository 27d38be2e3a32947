//! Reads a request's body whole, within bounds of size, time and memory, and takes its
//! `Content-Encoding` away. Nothing of a body that is cut short, too large or too slow goes on.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::CONTENT_ENCODING;
use tokio::time::{Instant, timeout_at};

use crate::inflate::{Inflate, is_zlib};

/// How much of a packed body is unpacked before others have their turn.
const TURN: usize = 256 * 1024;

/// Bounds of one body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Bytes, as sent and when unpacked.
    pub bytes: usize,
    /// For the whole body, from the end of the head.
    pub time: Duration,
}

/// Why a body was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// More than allowed, as sent or unpacked.
    TooLarge(String),
    /// Not there in time.
    TooSlow,
    /// The client ended it before its end.
    Cut,
    /// Encoded in a way that is not known here.
    Unknown(String),
    /// Not what its encoding says.
    Damaged(String),
    /// Too many bodies are in memory.
    NoRoom,
}

impl BodyError {
    /// The status that a client is answered.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::TooLarge(_) => 413,
            Self::TooSlow => 408,
            Self::Cut | Self::Damaged(_) => 400,
            Self::Unknown(_) => 415,
            Self::NoRoom => 503,
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(why) => f.write_str(why),
            Self::TooSlow => f.write_str("the body did not come in time"),
            Self::Cut => f.write_str("the body was cut short"),
            Self::Unknown(what) => write!(
                f,
                "the content encoding \"{what}\" is not known; Allowed: gzip, deflate, zstd, identity"
            ),
            Self::Damaged(what) => write!(f, "the body is no valid {what}"),
            Self::NoRoom => f.write_str("too many bodies are in memory"),
        }
    }
}

/// The memory for bodies that nobody has taken yet, of all requests of a listener together.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    most: usize,
    used: AtomicUsize,
}

impl Budget {
    /// So many bytes at most.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Counted {
            most,
            used: AtomicUsize::new(0),
        }))
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }
}

/// A share of the budget; given back when dropped.
#[derive(Debug)]
pub struct Room {
    budget: Budget,
    bytes: usize,
}

impl Room {
    /// So many bytes more. False: there is no room for them.
    fn grow(&mut self, bytes: usize) -> bool {
        let Counted { most, used } = &*self.budget.0;
        let fits = |now: usize| now.checked_add(bytes).filter(|sum| sum <= most);
        let grown = used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
            .is_ok();
        if grown {
            self.bytes += bytes;
        }
        grown
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The body, unpacked, with its share of the budget.
///
/// # Errors
/// [`BodyError`]; nothing of it may be used then.
pub async fn read_body<B>(
    budget: &Budget,
    headers: &HeaderMap,
    mut body: B,
    limits: BodyLimits,
) -> Result<(Bytes, Room), BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let packings = packings(headers)?;
    let mut room = Room {
        budget: budget.clone(),
        bytes: 0,
    };
    let hint = body.size_hint();
    let least = usize::try_from(hint.lower()).unwrap_or(usize::MAX);
    if least > limits.bytes {
        return Err(too_large(limits, ""));
    }
    let until = Instant::now() + limits.time;
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    loop {
        let frame = timeout_at(until, body.frame())
            .await
            .map_err(|_elapsed| BodyError::TooSlow)?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_broken| BodyError::Cut)?.into_data() else {
            continue;
        };
        let length = all.len() + first.as_ref().map_or(0, Bytes::len) + data.len();
        if length > limits.bytes {
            return Err(too_large(limits, ""));
        }
        if !room.grow(data.len()) {
            return Err(BodyError::NoRoom);
        }
        // Most bodies come in one piece, which needs no copy.
        match first.take() {
            None if all.is_empty() => first = Some(data),
            None => all.extend_from_slice(&data),
            Some(before) => {
                all.reserve(before.len() + data.len().max(least.saturating_sub(before.len())));
                all.extend_from_slice(&before);
                all.extend_from_slice(&data);
            }
        }
    }
    let mut whole = first.unwrap_or_else(|| all.freeze());
    for packing in packings.iter().rev() {
        whole = unpack(*packing, &whole, limits, &mut room).await?;
    }
    Ok((whole, room))
}

fn too_large(limits: BodyLimits, how: &str) -> BodyError {
    BodyError::TooLarge(format!(
        "the body has more than the {} bytes{how} that are taken here",
        limits.bytes
    ))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Deflate,
    Zstd,
}

/// The encodings in the order in which they were applied; three at most, more is nobody's need.
fn packings(headers: &HeaderMap) -> Result<Vec<Packing>, BodyError> {
    let mut found = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        let text = value.to_str().unwrap_or("?");
        for word in text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            let packing = match word.to_ascii_lowercase().as_str() {
                "identity" => continue,
                "gzip" | "x-gzip" => Packing::Gzip,
                "deflate" => Packing::Deflate,
                "zstd" => Packing::Zstd,
                _ => return Err(BodyError::Unknown(word.chars().take(40).collect())),
            };
            if found.len() == 3 {
                return Err(BodyError::Unknown(
                    "more than three, one in another".to_owned(),
                ));
            }
            found.push(packing);
        }
    }
    Ok(found)
}

async fn unpack(
    packing: Packing,
    packed: &[u8],
    limits: BodyLimits,
    room: &mut Room,
) -> Result<Bytes, BodyError> {
    let (name, mut reader): (_, Box<dyn Read + Send + '_>) = match packing {
        Packing::Gzip => ("gzip", Box::new(MultiGzDecoder::new(packed))),
        // "deflate" is zlib (RFC 9110, 8.4.1.2); some send it bare.
        Packing::Deflate => ("deflate", Box::new(Inflate::new(packed, is_zlib(packed)))),
        Packing::Zstd => {
            let damaged = |_| BodyError::Damaged("zstd".to_owned());
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(damaged)?;
            // A window of 8 MiB is what every encoder may count on (RFC 8878, 3.1.1.1.2).
            decoder.window_log_max(23).map_err(damaged)?;
            ("zstd", Box::new(decoder))
        }
    };
    let mut open = Vec::new();
    let mut turn = 0;
    let mut piece = vec![0; 16 * 1024];
    loop {
        let count = reader
            .read(&mut piece)
            .map_err(|_broken| BodyError::Damaged(name.to_owned()))?;
        if count == 0 {
            return Ok(open.into());
        }
        if open.len() + count > limits.bytes {
            return Err(too_large(limits, " unpacked"));
        }
        if !room.grow(count) {
            return Err(BodyError::NoRoom);
        }
        open.extend_from_slice(piece.get(..count).unwrap_or_default());
        turn += count;
        if turn >= TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
}
