//! The task that reads one file for one taker: once, or again and again. Waits for room in the
//! taker's queue, so that a large file fills no memory and loses nothing.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, BufReader, SeekFrom};
use tokio::time::sleep;

use super::records::{Line, is_open, next_line, row_object};
use super::{FileType, Reading};
use crate::connections::{Context, Inbox};
use crate::error::ConnectionError;
use crate::message::{Delivery, Headers, Message, Subject};

/// The wait before a file that could not be read is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// The least wait before a file is read from its start again: a loop over an empty file must not spin.
const LEAST: Duration = Duration::from_millis(100);

/// Reads until nothing more is to come. A file that is missing or cannot be read is told once and
/// awaited.
pub(super) async fn run(
    file: PathBuf,
    subject: Subject,
    mut reading: Reading,
    inbox: Arc<Inbox>,
    context: Context,
) {
    let mut told = false;
    loop {
        let mut taker = Taker {
            subject: &subject,
            inbox: &inbox,
            context: &context,
            pause: reading.pause,
        };
        let mut done = reading.resume;
        match once(&file, &reading, &mut taker, &mut done).await {
            Ok(()) => {
                told = false;
                reading.resume = 0;
                let Some(again) = reading.again else { return };
                sleep(again.max(LEAST)).await;
            }
            Err(error) => {
                // What was delivered stays delivered.
                reading.resume = done;
                if !told {
                    tracing::warn!(file = %file.display(), %error, "cannot read");
                    let code = if error.kind() == io::ErrorKind::NotFound {
                        "not-found"
                    } else {
                        "io"
                    };
                    inbox.fail(
                        ConnectionError::transient(code, "the file cannot be read")
                            .caused_by(error),
                    );
                    told = true;
                }
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

struct Taker<'a> {
    subject: &'a Subject,
    inbox: &'a Inbox,
    context: &'a Context,
    pause: Duration,
}

impl Taker<'_> {
    async fn give(&mut self, payload: Bytes, offset: u64) {
        self.context.traffic.received(payload.len());
        let headers = Headers::from(vec![("offset".to_owned(), offset.to_string())]);
        let message = Message {
            subject: self.subject.clone(),
            headers,
            ..Message::new(payload)
        };
        let weight = message.weight();
        let mut delivery = Delivery {
            message,
            take: None,
        };
        while let Err(back) = self.inbox.offer(delivery) {
            delivery = back;
            self.inbox.room(weight).await;
        }
        if !self.pause.is_zero() {
            sleep(self.pause).await;
        }
    }

    fn refuse(&self, head: &[u8], code: &str, sentence: &str) {
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

/// Once from `done` to the end. `done` is the place behind what was delivered.
async fn once(
    file: &PathBuf,
    reading: &Reading,
    taker: &mut Taker<'_>,
    done: &mut u64,
) -> io::Result<()> {
    let mut file = File::open(file).await?;
    match reading.kind {
        FileType::Json => json(&mut file, taker, done).await,
        FileType::Lines | FileType::Csv => {
            let length = file.metadata().await?.len();
            if *done > length {
                // It was cut or made anew since: from the start.
                *done = 0;
            }
            lines(&mut file, reading, taker, done).await
        }
    }
}

/// The whole file is one value: each element of a list is a record, anything else is one record.
async fn json(file: &mut File, taker: &mut Taker<'_>, done: &mut u64) -> io::Result<()> {
    let limit = u64::try_from(taker.limit()).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut text)
        .await?;
    if text.len() > taker.limit() {
        taker.refuse(
            &text,
            "too-large",
            "the JSON file is larger than the largest message; use fileType lines",
        );
        return Ok(());
    }
    let records: Vec<&RawValue> = match serde_json::from_slice(&text)
        .or_else(|_| serde_json::from_slice(&text).map(|one| vec![one]))
    {
        Ok(records) => records,
        Err(error) => {
            taker.refuse(&text, "json", &format!("the file is not JSON: {error}"));
            return Ok(());
        }
    };
    let first = usize::try_from(*done).unwrap_or(usize::MAX);
    for record in records.into_iter().skip(first) {
        let payload = Bytes::copy_from_slice(record.get().as_bytes());
        taker.give(payload, *done + 1).await;
        *done += 1;
    }
    Ok(())
}

async fn lines(
    file: &mut File,
    reading: &Reading,
    taker: &mut Taker<'_>,
    done: &mut u64,
) -> io::Result<()> {
    let mut names = reading.columns.clone();
    let mut offset = 0;
    let mut line = Vec::new();
    let mut from = BufReader::with_capacity(64 * 1024, file);
    let limit = taker.limit();
    for _ in 0..reading.skip_first {
        if next_line(&mut from, &mut line, limit, &mut offset).await? == Line::End {
            return Ok(());
        }
    }
    if reading.kind == FileType::Csv && reading.has_header {
        next_line(&mut from, &mut line, limit, &mut offset).await?;
        if names.is_empty() {
            names = super::records::fields(&String::from_utf8_lossy(&line), reading.delimiter);
        }
    }
    if *done > offset {
        from.seek(SeekFrom::Start(*done)).await?;
        offset = *done;
    }
    // The last lines are held back until it is known that they are not the last.
    let mut held: VecDeque<(Vec<u8>, u64)> = VecDeque::new();
    loop {
        match next_line(&mut from, &mut line, limit, &mut offset).await? {
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
            match next_line(&mut from, &mut line, limit, &mut offset).await? {
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
                FileType::Lines | FileType::Json => Some(Bytes::from(row)),
            };
            if let Some(payload) = payload {
                taker.give(payload, end).await;
            }
        }
        *done = end;
    }
}
