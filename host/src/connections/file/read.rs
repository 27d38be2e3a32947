//! Reads one file for one taker, record by record. Waits for room in the taker's queue, so that a large
//! file fills no memory and loses nothing.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::fs::File;
use tokio::io::{AsyncBufRead, AsyncReadExt, AsyncSeekExt, BufReader, SeekFrom};
use tokio::time::sleep;

use super::folder::Open;
use super::options::{FileType, Reading};
use super::records::{Line, is_open, next_line, row_object};
use super::settled::{Flow, Settling};
use super::unpack::{Unpacking, unpacking};
use crate::connections::{Context, Inbox};
use crate::error::ConnectionError;
use crate::message::{Delivery, Headers, Message, Subject};

/// The wait before a file that could not be read is tried again.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(1);
/// The least wait before a file is read from its start again: a loop over an empty file must not spin.
pub(super) const LEAST: Duration = Duration::from_millis(100);
const PIECE: usize = 64 * 1024;

/// Reads a file once, or again and again, for a taker whose place in it is a number of bytes or records.
/// A file that is missing or cannot be read is told once and awaited.
pub(super) async fn run(
    file: &Path,
    subject: Subject,
    reading: &Reading,
    inbox: &Inbox,
    context: &Context,
) {
    let resume = reading.resume.as_deref().unwrap_or_default();
    let digits = resume.find(|c: char| !c.is_ascii_digit());
    let mut start = resume
        .get(..digits.unwrap_or(resume.len()))
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0);
    let mut told = Told::default();
    loop {
        let mut taker = Taker {
            subject: &subject,
            inbox,
            context,
            pause: reading.pause,
            settling: None,
            place: None,
            refused: false,
        };
        match once(file, reading, &mut taker, &mut start).await {
            Ok(()) => {
                told = Told::default();
                start = 0;
                let Some(again) = reading.again else { return };
                sleep(again.max(LEAST)).await;
            }
            // What was delivered stays delivered.
            Err(error) => {
                told.cannot_read(file, error, inbox);
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// Whether somebody was told of the present trouble.
#[derive(Debug, Default)]
pub(super) struct Told(bool);

impl Told {
    /// Tells the log and the taker, once.
    pub(super) fn cannot_read(&mut self, file: &Path, error: io::Error, inbox: &Inbox) {
        if self.0 {
            return;
        }
        self.0 = true;
        tracing::warn!(file = %file.display(), %error, "cannot read");
        let code = match error.kind() {
            io::ErrorKind::NotFound => "not-found",
            _ => "io",
        };
        let sentence = "the file cannot be read";
        inbox.fail(ConnectionError::transient(code, sentence).caused_by(error));
    }
}

/// Whose records they are, where they must be settled.
pub(super) struct Place<'a> {
    /// What stands behind the number in the header `offset`.
    pub suffix: &'a (dyn Fn(bool) -> String + Sync),
    /// The header `file`.
    pub file: &'a str,
}

/// Where its records are settled.
pub(super) struct Settled<'a> {
    pub settling: &'a Arc<Settling>,
    pub flow: &'a Flow,
    pub open: &'a Mutex<Open>,
}

impl Settled<'_> {
    /// Gives a record to the taker when there is room for it. Never after the subscription has ended.
    async fn give(&self, mut message: Message, inbox: &Inbox) {
        let weight = message.weight();
        loop {
            self.flow.room().await;
            inbox.room(weight).await;
            match self.offer(message, weight, inbox) {
                None => return,
                Some(back) => message = back,
            }
            // A subscription that has ended aborts this task: here it can be.
            tokio::task::yield_now().await;
        }
    }

    /// Some: there is no room after all, or nobody to take it any more.
    fn offer(&self, mut message: Message, weight: usize, inbox: &Inbox) -> Option<Message> {
        // Closing takes back what was given: nothing may slip in between.
        let open = self.open.lock();
        if open.closed {
            return Some(message);
        }
        let (key, take) = self.settling.take(weight);
        message.arrival.delivery = key;
        let take = Some(take);
        let back = inbox.offer(Delivery { message, take }).err()?;
        self.settling.withdraw(key);
        Some(back.message)
    }
}

pub(super) struct Taker<'a> {
    pub subject: &'a Subject,
    pub inbox: &'a Inbox,
    pub context: &'a Context,
    pub pause: Duration,
    pub settling: Option<Settled<'a>>,
    pub place: Option<Place<'a>>,
    /// Something of the file went to the dead letters instead, cut short.
    pub refused: bool,
}

impl Taker<'_> {
    async fn give(&mut self, payload: Bytes, offset: u64) {
        self.context.traffic.received(payload.len());
        let headers = match &self.place {
            None => vec![("offset".to_owned(), offset.to_string())],
            Some(place) => {
                let offset = format!("{offset}{}", (place.suffix)(self.refused));
                vec![
                    ("offset".to_owned(), offset),
                    ("file".to_owned(), place.file.to_owned()),
                ]
            }
        };
        let message = Message {
            subject: self.subject.clone(),
            headers: Headers::from(headers),
            ..Message::new(payload)
        };
        if let Some(settled) = &self.settling {
            settled.give(message, self.inbox).await;
        } else {
            let weight = message.weight();
            let mut delivery = Delivery {
                message,
                take: None,
            };
            while let Err(back) = self.inbox.offer(delivery) {
                delivery = back;
                self.inbox.room(weight).await;
            }
        }
        if !self.pause.is_zero() {
            sleep(self.pause).await;
        }
    }

    fn refuse(&mut self, head: &[u8], code: &str, sentence: &str) {
        self.refused = true;
        self.context.traffic.refused.fetch_add(1, Ordering::Relaxed);
        let head = Bytes::copy_from_slice(head.get(..head.len().min(1024)).unwrap_or_default());
        self.context.refused.refused(
            self.subject,
            head,
            &ConnectionError::permanent(code, sentence),
        );
    }

    fn limit(&self) -> usize {
        self.context.limits.max_message_bytes
    }
}

/// Once from `done` to the end. `done` is the place behind what was delivered: a number of bytes (of
/// what is in a compressed file), or of records in one that is read whole.
pub(super) async fn once(
    path: &Path,
    reading: &Reading,
    taker: &mut Taker<'_>,
    done: &mut u64,
) -> io::Result<()> {
    let file = File::open(path).await?;
    let by_lines = matches!(reading.kind, FileType::Lines | FileType::Csv);
    let mut from = match reading.packing {
        None => {
            if by_lines && *done > file.metadata().await?.len() {
                // It was cut or made anew since: from the start.
                *done = 0;
            }
            From::Plain(BufReader::with_capacity(PIECE, file))
        }
        Some(packing) => From::Packed(unpacking(file.into_std().await, packing)),
    };
    match reading.kind {
        FileType::Json | FileType::Raw => {
            let Some(text) = whole(&mut from, taker).await? else {
                return Ok(());
            };
            if !end(from, reading, taker).await {
                // What could not be unpacked whole is no JSON either.
                return Ok(());
            }
            match reading.kind {
                FileType::Json => json(&text, taker, done).await,
                _ if *done == 0 => {
                    taker.give(text.into(), 1).await;
                    *done = 1;
                }
                _ => {}
            }
        }
        FileType::Lines | FileType::Csv => {
            lines(&mut from, reading, taker, done).await?;
            end(from, reading, taker).await;
        }
    }
    Ok(())
}

/// What is in a file.
enum From {
    Plain(BufReader<File>),
    Packed(Unpacking),
}

impl From {
    fn text(&mut self) -> &mut (dyn AsyncBufRead + Unpin + Send) {
        match self {
            Self::Plain(file) => file,
            Self::Packed(unpacking) => &mut unpacking.text,
        }
    }

    /// Goes on from the place `to`; what was read so far ends at `at`, before it.
    async fn skip(&mut self, at: u64, to: u64) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.seek(SeekFrom::Start(to)).await.map(drop),
            Self::Packed(unpacking) => {
                let mut skipped = (&mut unpacking.text).take(to.saturating_sub(at));
                let copied = tokio::io::copy_buf(&mut skipped, &mut tokio::io::sink()).await;
                copied.map(drop)
            }
        }
    }
}

/// After the end of the text: whether that was all. Else it is with the dead letters.
async fn end(from: From, reading: &Reading, taker: &mut Taker<'_>) -> bool {
    let (From::Packed(unpacking), Some(packing)) = (from, reading.packing) else {
        return true;
    };
    let Err(error) = unpacking.end().await else {
        return true;
    };
    let sentence = format!(
        "the file is not {}, or it is damaged or cut short: {error}",
        packing.word()
    );
    taker.refuse(&[], "decompression", &sentence);
    false
}

/// All that is in the file. None: it is too large for one message, and with the dead letters.
async fn whole(from: &mut From, taker: &mut Taker<'_>) -> io::Result<Option<Vec<u8>>> {
    let limit = u64::try_from(taker.limit()).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    from.text()
        .take(limit.saturating_add(1))
        .read_to_end(&mut text)
        .await?;
    if text.len() > taker.limit() {
        taker.refuse(
            &text,
            "too-large",
            "the file is larger than the largest message; use fileType lines",
        );
        return Ok(None);
    }
    Ok(Some(text))
}

/// The whole file is one value: each element of a list is a record, anything else is one record.
async fn json(text: &[u8], taker: &mut Taker<'_>, done: &mut u64) {
    let records: Vec<&RawValue> = match serde_json::from_slice(text)
        .or_else(|_| serde_json::from_slice(text).map(|one| vec![one]))
    {
        Ok(records) => records,
        Err(error) => {
            taker.refuse(text, "json", &format!("the file is not JSON: {error}"));
            return;
        }
    };
    let first = usize::try_from(*done).unwrap_or(usize::MAX);
    for record in records.into_iter().skip(first) {
        let payload = Bytes::copy_from_slice(record.get().as_bytes());
        taker.give(payload, *done + 1).await;
        *done += 1;
    }
}

async fn lines(
    from: &mut From,
    reading: &Reading,
    taker: &mut Taker<'_>,
    done: &mut u64,
) -> io::Result<()> {
    let mut names = reading.columns.clone();
    let mut offset = 0;
    let mut line = Vec::new();
    let limit = taker.limit();
    for _ in 0..reading.skip_first {
        if next_line(&mut from.text(), &mut line, limit, &mut offset).await? == Line::End {
            return Ok(());
        }
    }
    if reading.kind == FileType::Csv && reading.has_header {
        next_line(&mut from.text(), &mut line, limit, &mut offset).await?;
        if names.is_empty() {
            names = super::records::fields(&String::from_utf8_lossy(&line), reading.delimiter);
        }
    }
    if *done > offset {
        from.skip(offset, *done).await?;
        offset = *done;
    }
    // The last lines are held back until it is known that they are not the last.
    let mut held: VecDeque<(Vec<u8>, u64)> = VecDeque::new();
    loop {
        match next_line(&mut from.text(), &mut line, limit, &mut offset).await? {
            Line::End => return Ok(()),
            Line::TooLong => {
                taker.refuse(
                    &line,
                    "too-large",
                    "the line is longer than the largest message",
                );
                continue;
            }
            Line::Whole => {}
        }
        let mut row = std::mem::take(&mut line);
        while reading.kind == FileType::Csv && is_open(&row) && row.len() < limit {
            match next_line(&mut from.text(), &mut line, limit, &mut offset).await? {
                Line::End => break,
                Line::Whole | Line::TooLong => {
                    row.push(b'\n');
                    row.extend_from_slice(&line);
                }
            }
        }
        held.push_back((row, offset));
        if held.len() <= reading.skip_last {
            continue;
        }
        let Some((row, end)) = held.pop_front() else {
            continue;
        };
        if !row.is_empty() {
            let payload = match reading.kind {
                FileType::Csv => match std::str::from_utf8(&row) {
                    Ok(text) => {
                        let object = row_object(
                            text.trim_start_matches('\u{feff}'),
                            reading.delimiter,
                            &names,
                        );
                        Some(Bytes::from(Value::Object(object).to_string()))
                    }
                    Err(_) => {
                        taker.refuse(&row, "utf-8", "the row is not UTF-8");
                        None
                    }
                },
                FileType::Lines | FileType::Json | FileType::Raw => Some(Bytes::from(row)),
            };
            if let Some(payload) = payload {
                taker.give(payload, end).await;
            }
        }
        *done = end;
    }
}
