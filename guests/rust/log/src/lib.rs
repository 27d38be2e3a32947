//! `log`: a sink that writes each message as a line of the host's log, which limits the rate.

use serde::Deserialize;
use windlass_connector::log::{self, Level};
use windlass_connector::{Batch, Descriptor, Error, Rejection, Schema, Sink};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "log",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::One(include_str!("../schema.json")),
        slots: &[],
    },
    sink: Log,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    level: Word,
    #[serde(default = "most_bytes")]
    max_length: usize,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Trace,
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

fn most_bytes() -> usize {
    4096
}

#[derive(Debug)]
struct Log {
    level: Level,
    most: usize,
}

impl Sink for Log {
    type Config = Config;

    fn open(config: Config) -> Result<Self, Error> {
        let level = match config.level {
            Word::Trace => Level::Trace,
            Word::Debug => Level::Debug,
            Word::Info => Level::Info,
            Word::Warn => Level::Warn,
            Word::Error => Level::Error,
        };
        Ok(Self {
            level,
            most: config.max_length,
        })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        let columns = batch.columns();
        let mut begin = 0;
        for end in columns.ends {
            let end = end as usize;
            let payload = columns.payloads.get(begin..end).unwrap_or_default();
            log::write(self.level, &line(payload, self.most));
            begin = end;
        }
        Ok(Vec::new())
    }
}

/// A payload as one line of text, cut after `most` bytes; how long it was is said when it was cut.
fn line(payload: &[u8], most: usize) -> String {
    let shown = match payload.get(..most) {
        // A character that the cut goes through is left out.
        Some(head) => match std::str::from_utf8(head) {
            Err(cut) if cut.error_len().is_none() => {
                head.get(..cut.valid_up_to()).unwrap_or_default()
            }
            _ => head,
        },
        None => payload,
    };
    let mut line = String::from_utf8_lossy(shown).replace(['\n', '\r'], " ");
    if shown.len() < payload.len() {
        line.push_str(&format!("... ({} bytes)", payload.len()));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_becomes_one_line() {
        assert_eq!(line(b"{\n1}", 100), "{ 1}");
        assert_eq!(line(b"", 100), "");
    }

    #[test]
    fn a_long_payload_is_cut_between_characters_and_its_length_is_said() {
        assert_eq!(line("abc\u{e9}def".as_bytes(), 4), "abc... (8 bytes)");
        assert_eq!(line("abc\u{e9}def".as_bytes(), 5), "abc\u{e9}... (8 bytes)");
        assert_eq!(line("abc\u{e9}def".as_bytes(), 8), "abc\u{e9}def");
    }

    #[test]
    fn what_is_no_text_is_shown_as_far_as_it_is() {
        assert_eq!(line(b"a\xffb", 100), "a\u{fffd}b");
    }
}
