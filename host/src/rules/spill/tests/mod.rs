//! What the disk queue promises, over a disk that fails and over a real one.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the numbers of a test are small"
)]

mod budget;
mod damage;
mod model;
mod power;
mod use_;

use std::path::Path;
use std::sync::Arc;

use super::Position;
use super::faulty::Faulty;
use super::log::{Bounds, Log};
use super::record::Key;
use crate::config::Overflow;
use crate::message::Message;

const FOLDER: &str = "/spill/default/rule/mqtt_0";

fn bounds() -> Bounds {
    Bounds {
        bytes: 1024 * 1024,
        messages: None,
        age: None,
        overflow: Overflow::Block,
        none: false,
    }
}

/// The queue of one action on that disk, opened.
fn open(disk: &Faulty) -> Log {
    let key = Key::new("default", "rule", "mqtt_0");
    let mut log = Log::new(Arc::new(disk.clone()), Path::new(FOLDER).to_owned(), key);
    log.open().unwrap();
    log
}

/// A message with a number, and as many bytes more.
fn numbered(number: u64, more: usize) -> Message {
    let mut payload = format!("{number}:").into_bytes();
    payload.resize(payload.len() + more, b'x');
    Message {
        subject: "t".into(),
        ..Message::new(payload)
    }
}

fn number(message: &Message) -> u64 {
    let text = std::str::from_utf8(&message.payload).unwrap();
    text.split_once(':').unwrap().0.parse().unwrap()
}

fn append(
    log: &mut Log,
    messages: Vec<Message>,
    bounds: &Bounds,
) -> Result<Position, super::SpillError> {
    log.append(vec![messages], bounds).pop().unwrap()
}

fn append_each(log: &mut Log, numbers: std::ops::Range<u64>, more: usize) {
    for n in numbers {
        append(log, vec![numbered(n, more)], &bounds()).unwrap();
    }
}

/// Reads everything, moving on after each peek.
fn drain(log: &mut Log) -> Vec<u64> {
    let mut all = Vec::new();
    for _ in 0..100_000 {
        let some = log.peek(7, 1 << 20, &bounds()).unwrap();
        let Some((position, _)) = some.last() else {
            assert_eq!(
                log.stats().messages,
                0,
                "an empty answer means an empty queue"
            );
            return all;
        };
        all.extend(some.iter().map(|(_, message)| number(message)));
        log.advance(&position.clone());
    }
    panic!("the queue has no end");
}

fn segments(disk: &Faulty) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    disk.files()
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|ending| ending == "seg"))
        .collect()
}
