//! How a message stands in a segment file, how a segment file begins, and how the cursor is kept.
//! Bytes only: no files.
//!
//! A record: marker (8), check (8), length of the body (4), number (8), time (8), body. Marker and
//! check depend on the queue's name, so a record of another queue is no record here, and what a
//! payload holds does not look like one. All numbers are little endian.

use bytes::Bytes;

use crate::message::{Arrival, Headers, Message, Subject};

/// Bytes of a record before its body.
pub(super) const HEAD: usize = 36;
/// What the check covers begins here.
const CHECKED: usize = 16;
/// Version of the body.
const VERSION: u8 = 1;
/// Bytes of one copy of a segment's label; it stands there twice.
const LABEL: usize = 48;
/// Bytes of a segment before its first record.
pub(super) const PREAMBLE: usize = 2 * LABEL;
const LABEL_MAGIC: &[u8; 8] = b"WLSPILL1";
/// Bytes of one slot of the cursor file.
pub(super) const SLOT: usize = 40;

/// What tells this queue's bytes from all others.
#[derive(Clone)]
pub(super) struct Key {
    secret: [u8; 32],
    marker: [u8; 8],
    owner: [u8; 8],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

impl Key {
    /// The key of the queue of one action.
    pub(super) fn new(tenant: &str, rule: &str, action: &str) -> Self {
        let mut name = Vec::new();
        for part in [tenant, rule, action] {
            name.extend_from_slice(&(part.len() as u64).to_le_bytes());
            name.extend_from_slice(part.as_bytes());
        }
        let secret = blake3::derive_key("windlass 2026 disk queue", &name);
        let of = |purpose: &[u8]| first_eight(blake3::keyed_hash(&secret, purpose));
        Self {
            marker: of(b"marker"),
            owner: of(b"owner"),
            secret,
        }
    }

    fn check(&self, bytes: &[u8]) -> [u8; 8] {
        first_eight(blake3::keyed_hash(&self.secret, bytes))
    }
}

fn first_eight(hash: blake3::Hash) -> [u8; 8] {
    let mut eight = [0; 8];
    for (to, from) in eight.iter_mut().zip(hash.as_bytes()) {
        *to = *from;
    }
    eight
}

/// The size of a message's record, or none if it is beyond 4 GiB.
pub(super) fn encoded_len(message: &Message) -> Option<u64> {
    let headers: usize = message
        .headers
        .pairs()
        .iter()
        .map(|(name, value)| 8 + name.len() + value.len())
        .sum();
    let body = 12 + 8 + message.subject.len() + headers + message.payload.len();
    u32::try_from(body)
        .ok()
        .map(|body| u64::from(body) + HEAD as u64)
}

/// Adds a message's record to `out`.
pub(super) fn encode(key: &Key, message: &Message, number: u64, at_ms: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&key.marker);
    out.extend_from_slice(&[0; 8]);
    // Sizes were checked by `encoded_len`: a larger message is never given here.
    let body = encoded_len(message).map_or(0, |len| len - HEAD as u64);
    out.extend_from_slice(&length(usize::try_from(body).unwrap_or(usize::MAX)));
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&at_ms.to_le_bytes());
    let Arrival {
        qos,
        retained,
        message_id,
        at_ms,
        delivery: _,
    } = message.arrival;
    out.push(VERSION);
    out.push(qos | u8::from(retained) << 7);
    out.extend_from_slice(&message_id.to_le_bytes());
    out.extend_from_slice(&at_ms.to_le_bytes());
    text(&message.subject, out);
    let headers = message.headers.pairs();
    out.extend_from_slice(&length(headers.len()));
    for (name, value) in headers {
        text(name, out);
        text(value, out);
    }
    out.extend_from_slice(&message.payload);
    let check = key.check(out.get(start + CHECKED..).unwrap_or_default());
    if let Some(place) = out.get_mut(start + 8..start + CHECKED) {
        place.copy_from_slice(&check);
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&length(text.len()));
    out.extend_from_slice(text.as_bytes());
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

/// What stands at the beginning of some bytes.
#[derive(Debug)]
pub(super) enum Parsed {
    /// A whole record: its bytes in all, its number, when it was appended.
    Record {
        bytes: usize,
        number: u64,
        at_ms: u64,
    },
    /// Perhaps the beginning of one that has so many bytes in all.
    Partial(usize),
    /// No record.
    Bad,
}

/// Looks for a record at the beginning of `bytes`.
pub(super) fn parse(key: &Key, bytes: &[u8]) -> Parsed {
    let mut reader = Reader(bytes);
    let head = (|| {
        let marker = reader.take::<8>()?;
        if marker != key.marker {
            return Some(Err(()));
        }
        let check = reader.take::<8>()?;
        let body = u32::from_le_bytes(reader.take()?);
        let number = u64::from_le_bytes(reader.take()?);
        let at_ms = u64::from_le_bytes(reader.take()?);
        Some(Ok((check, body, number, at_ms)))
    })();
    match head {
        None if bytes.get(..8.min(bytes.len())) == key.marker.get(..8.min(bytes.len())) => {
            Parsed::Partial(HEAD)
        }
        None | Some(Err(())) => Parsed::Bad,
        Some(Ok((check, body, number, at_ms))) => {
            let whole = usize::try_from(body).map_or(usize::MAX, |body| body.saturating_add(HEAD));
            match bytes.get(CHECKED..whole) {
                None => Parsed::Partial(whole),
                Some(checked) if key.check(checked) == check => Parsed::Record {
                    bytes: whole,
                    number,
                    at_ms,
                },
                Some(_) => Parsed::Bad,
            }
        }
    }
}

/// The offset of the next place after the first byte where a record may begin; a marker cut off by
/// the end of the bytes counts.
pub(super) fn next_marker(key: &Key, bytes: &[u8]) -> Option<usize> {
    let [first, ..] = key.marker;
    let mut from = 1;
    loop {
        let rest = bytes.get(from..)?;
        let place = from + rest.iter().position(|byte| *byte == first)?;
        let found = bytes.get(place..)?;
        let common = found.len().min(8);
        if found.get(..common) == key.marker.get(..common) {
            return Some(place);
        }
        from = place + 1;
    }
}

/// The message of a whole record, sharing its bytes. None: of a version that is not known here.
pub(super) fn decode(record: &Bytes) -> Option<Message> {
    let mut reader = Reader(record.get(HEAD..)?);
    let [version] = reader.take()?;
    if version != VERSION {
        return None;
    }
    let [flags] = reader.take()?;
    let message_id = u16::from_le_bytes(reader.take()?);
    let at_ms = u64::from_le_bytes(reader.take()?);
    let subject = Subject::from(reader.text()?);
    let count = u32::from_le_bytes(reader.take()?);
    let mut headers = Vec::new();
    for _ in 0..count {
        headers.push((reader.text()?.to_owned(), reader.text()?.to_owned()));
    }
    let payload = record.slice(record.len() - reader.0.len()..);
    let arrival = Arrival {
        qos: flags & 0x7f,
        retained: flags & 0x80 != 0,
        message_id,
        at_ms,
        delivery: 0,
    };
    Some(Message {
        payload,
        subject,
        headers: Headers::from(headers),
        arrival,
    })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(u32::from_le_bytes(self.take()?)).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    /// Random, never 0: the cursor names it.
    pub(super) id: u64,
    /// The number of its first record.
    pub(super) first: u64,
    /// When it was made.
    pub(super) made_ms: u64,
}

/// What the beginning of a file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// A segment of this queue; whether both copies of its label are good.
    Ours(Label, bool),
    /// A segment of another queue.
    Foreign,
    /// Nothing that can be read.
    Unknown,
}

/// Adds a segment's label to `out`, twice.
pub(super) fn encode_label(key: &Key, label: Label, out: &mut Vec<u8>) {
    for _ in 0..2 {
        let start = out.len() + 16;
        out.extend_from_slice(LABEL_MAGIC);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&key.owner);
        for number in [label.id, label.first, label.made_ms] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let check = first_eight(blake3::hash(out.get(start..).unwrap_or_default()));
        if let Some(place) = out.get_mut(start - 8..start) {
            place.copy_from_slice(&check);
        }
    }
}

/// Reads a segment's label.
pub(super) fn parse_label(key: &Key, bytes: &[u8]) -> Begins {
    let one = |copy: Option<&[u8]>| -> Option<Result<Label, ()>> {
        let mut reader = Reader(copy?);
        let magic = reader.take::<8>()?;
        let check = reader.take::<8>()?;
        if &magic != LABEL_MAGIC || first_eight(blake3::hash(reader.0)) != check {
            return None;
        }
        if reader.take::<8>()? != key.owner {
            return Some(Err(()));
        }
        let mut number = || reader.take().map(u64::from_le_bytes);
        Some(Ok(Label {
            id: number()?,
            first: number()?,
            made_ms: number()?,
        }))
    };
    let copies = (one(bytes.get(..LABEL)), one(bytes.get(LABEL..PREAMBLE)));
    match copies {
        (Some(Ok(label)), second) => Begins::Ours(label, second == Some(Ok(label))),
        (_, Some(Ok(label))) => Begins::Ours(label, false),
        (Some(Err(())), _) | (_, Some(Err(()))) => Begins::Foreign,
        (None, None) => Begins::Unknown,
    }
}

/// Where reading goes on: kept in two slots that are written in turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Grows with each writing.
    pub(super) turn: u64,
    /// The segment's id.
    pub(super) segment: u64,
    /// The number of the last record that is done.
    pub(super) number: u64,
    /// Where the next one begins.
    pub(super) offset: u64,
}

/// One slot.
pub(super) fn encode_mark(key: &Key, mark: Mark) -> Vec<u8> {
    let mut slot = vec![0; 8];
    for number in [mark.turn, mark.segment, mark.number, mark.offset] {
        slot.extend_from_slice(&number.to_le_bytes());
    }
    let check = key.check(slot.get(8..).unwrap_or_default());
    if let Some(place) = slot.get_mut(..8) {
        place.copy_from_slice(&check);
    }
    slot
}

/// The newest good slot, and whether there was a bad one that was not empty.
pub(super) fn parse_marks(key: &Key, bytes: &[u8]) -> (Option<Mark>, bool) {
    let mut newest: Option<Mark> = None;
    let mut bad = false;
    for slot in bytes.chunks(SLOT) {
        let mark = (|| {
            let mut reader = Reader(slot);
            let check = reader.take::<8>()?;
            if key.check(reader.0) != check {
                return None;
            }
            let mut number = || reader.take().map(u64::from_le_bytes);
            Some(Mark {
                turn: number()?,
                segment: number()?,
                number: number()?,
                offset: number()?,
            })
        })();
        match mark {
            Some(mark) if newest.is_none_or(|newest| newest.turn < mark.turn) => {
                newest = Some(mark)
            }
            Some(_) => {}
            None => bad |= slot.iter().any(|byte| *byte != 0),
        }
    }
    (newest, bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new("default", "rule", "mqtt_0")
    }

    fn message() -> Message {
        Message {
            payload: Bytes::from_static(b"\0payload\xff"),
            subject: "plant/1/temp".into(),
            headers: vec![
                ("a".to_owned(), "é".to_owned()),
                (String::new(), String::new()),
            ]
            .into(),
            arrival: Arrival {
                qos: 2,
                retained: true,
                message_id: 65_535,
                at_ms: u64::MAX,
                delivery: 0,
            },
        }
    }

    #[test]
    fn a_message_comes_back_whole_and_has_the_size_foretold() {
        for message in [message(), Message::default()] {
            let mut out = b"before".to_vec();
            encode(&key(), &message, 7, 9, &mut out);
            let record = Bytes::from(out).slice(6..);
            assert_eq!(encoded_len(&message), Some(record.len() as u64));
            let Parsed::Record {
                bytes,
                number: 7,
                at_ms: 9,
            } = parse(&key(), &record)
            else {
                panic!()
            };
            assert_eq!(bytes, record.len());
            let back = decode(&record).unwrap();
            assert_eq!(
                (back.payload, back.subject),
                (message.payload, message.subject)
            );
            assert_eq!(
                (back.headers, back.arrival),
                (message.headers, message.arrival)
            );
        }
    }

    #[test]
    fn no_flipped_bit_and_no_other_queue_passes_for_a_record() {
        let mut out = Vec::new();
        encode(&key(), &message(), 7, 9, &mut out);
        assert!(matches!(
            parse(&Key::new("default", "rule", "mqtt_1"), &out),
            Parsed::Bad
        ));
        for place in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[place / 8] ^= 1 << (place % 8);
            assert!(
                !matches!(parse(&key(), &bad), Parsed::Record { .. }),
                "bit {place}"
            );
        }
        for end in 0..out.len() {
            assert!(
                matches!(parse(&key(), &out[..end]), Parsed::Partial(_)),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn one_copy_of_a_label_is_enough_and_a_foreign_one_is_known() {
        let label = Label {
            id: 3,
            first: 9,
            made_ms: 12,
        };
        let mut out = Vec::new();
        encode_label(&key(), label, &mut out);
        assert_eq!(out.len(), PREAMBLE);
        assert_eq!(parse_label(&key(), &out), Begins::Ours(label, true));
        assert_eq!(
            parse_label(&Key::new("default", "rule", "mqtt_1"), &out),
            Begins::Foreign
        );
        for place in 0..PREAMBLE {
            let mut bad = out.clone();
            bad[place] ^= 1;
            assert_eq!(
                parse_label(&key(), &bad),
                Begins::Ours(label, false),
                "byte {place}"
            );
        }
        assert_eq!(parse_label(&key(), &[0; 4096]), Begins::Unknown);
    }

    #[test]
    fn the_newest_good_mark_counts() {
        let mark = |turn| Mark {
            turn,
            segment: 5,
            number: turn * 10,
            offset: 77,
        };
        let mut file = encode_mark(&key(), mark(4));
        file.extend(encode_mark(&key(), mark(3)));
        assert_eq!(file.len(), 2 * SLOT);
        assert_eq!(parse_marks(&key(), &file), (Some(mark(4)), false));
        file[20] ^= 1;
        assert_eq!(parse_marks(&key(), &file), (Some(mark(3)), true));
        assert_eq!(parse_marks(&key(), &[0; 2 * SLOT]), (None, false));
    }
}
