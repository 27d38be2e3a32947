//! `simulator`: a source that makes messages up, without any connection: to try a rule, to measure.
//!
//! `data` is a list of objects, sent in turn; `fields` describes objects instead (`fields.rs`), each
//! value following from the message's number, so that a run can be repeated. `interval` and `batch`, or
//! `rate`, say how fast (`pace.rs`). The checkpoint is the number of the next message. `datasource`
//! becomes the messages' subject.

mod fields;
mod pace;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::value::RawValue;
use windlass_connector::{Batch, Columns, Descriptor, Error, Millis, Outcome, Schema, Source};

use self::fields::Fields;
use self::pace::{Pace, Turn};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "simulator",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::One(include_str!("../schema.json")),
        slots: &[],
    },
    source: Simulator,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    datasource: String,
    #[serde(default)]
    data: Vec<Box<RawValue>>,
    fields: Option<Fields>,
    interval: Option<Millis>,
    batch: Option<u32>,
    rate: Option<f64>,
    #[serde(default = "yes", rename = "loop")]
    again: bool,
    count: Option<u64>,
    #[serde(default)]
    seed: u64,
}

fn yes() -> bool {
    true
}

/// Where the messages come from.
#[derive(Debug)]
enum Content {
    /// These texts in turn. Never empty.
    Data(Vec<Box<RawValue>>),
    Fields(Fields),
}

#[derive(Debug)]
struct Simulator {
    content: Content,
    subject: String,
    seed: u64,
    /// The number of the next message.
    next: u64,
    /// Where it ends.
    end: u64,
    pace: Pace,
    started: Instant,
}

impl Source for Simulator {
    type Config = Config;

    fn open(config: Config, resume: Option<String>) -> Result<Self, Error> {
        let next = match resume {
            None => 0,
            Some(text) => text.parse().map_err(|_| {
                Error::misconfigured(
                    "resume",
                    format!("the checkpoint \"{text}\" is not the number of a message"),
                )
            })?,
        };
        let pace = match (config.rate, config.interval, config.batch) {
            (Some(rate), None, None) => Pace::rate(rate),
            (Some(_), _, _) => {
                return Err(Error::misconfigured(
                    "config",
                    "rate: give either rate, or interval and batch",
                ));
            }
            (None, interval, batch) => {
                Pace::interval(interval.unwrap_or(Millis(1000)).0, batch.unwrap_or(1))
            }
        };
        let mut end = config.count.unwrap_or(u64::MAX);
        let content = match (config.data.is_empty(), config.fields) {
            (false, None) => {
                if !config.again {
                    end = end.min(config.data.len() as u64);
                }
                Content::Data(config.data)
            }
            (true, fields) => Content::Fields(fields.unwrap_or_default()),
            (false, Some(_)) => {
                return Err(Error::misconfigured(
                    "config",
                    "fields: give either fields or data",
                ));
            }
        };
        Ok(Self {
            content,
            subject: config.datasource,
            seed: config.seed,
            next,
            end,
            pace,
            started: Instant::now(),
        })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        if self.next >= self.end {
            return Ok(Outcome::Finished);
        }
        match self.pace.turn(self.started.elapsed()) {
            Turn::Wait(milliseconds) => Ok(Outcome::Idle(milliseconds)),
            Turn::Send(count) => {
                let columns = self.make(u64::from(count), unix_milliseconds());
                Ok(Outcome::batch_until(
                    Batch::from_columns(&columns)?,
                    self.next.to_string(),
                ))
            }
        }
    }
}

impl Simulator {
    /// The next `count` messages, fewer at the end.
    fn make(&mut self, count: u64, now: u64) -> Columns {
        let mut payloads = Vec::new();
        let mut ends = Vec::new();
        for number in self.next..self.next.saturating_add(count).min(self.end) {
            match &self.content {
                Content::Data(texts) => {
                    let place = usize::try_from(number % texts.len() as u64).unwrap_or_default();
                    payloads.extend_from_slice(
                        texts.get(place).map_or("", |text| text.get()).as_bytes(),
                    );
                }
                Content::Fields(fields) => fields.write(&mut payloads, number, self.seed, now),
            }
            // A batch is far below the 4 GiB that a guest can hold.
            ends.push(u32::try_from(payloads.len()).unwrap_or(u32::MAX));
            self.next = number + 1;
        }
        let subjects = if self.subject.is_empty() {
            Vec::new()
        } else {
            vec![self.subject.clone()]
        };
        Columns {
            payloads,
            ends,
            subjects,
            subject_of: Vec::new(),
        }
    }
}

fn unix_milliseconds() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::{Kind, from_json};

    fn open(config: &str, resume: Option<&str>) -> Result<Simulator, Error> {
        Simulator::open(from_json(config)?, resume.map(str::to_owned))
    }

    /// The next messages as texts.
    fn make(simulator: &mut Simulator, count: u64) -> Vec<String> {
        let columns = simulator.make(count, 1_700_000_000_000);
        let mut begin = 0;
        let cut = |end: u32| {
            let text = String::from_utf8(columns.payloads[begin..end as usize].to_vec()).unwrap();
            begin = end as usize;
            text
        };
        columns.ends.iter().copied().map(cut).collect()
    }

    #[test]
    fn data_is_sent_in_turn_and_from_the_start_again() {
        let mut simulator = open(r#"{"data":[{"b":1,"a":2},{"c":3}]}"#, None).unwrap();
        assert_eq!(
            make(&mut simulator, 3),
            [r#"{"b":1,"a":2}"#, r#"{"c":3}"#, r#"{"b":1,"a":2}"#]
        );
    }

    #[test]
    fn without_loop_data_is_sent_once_and_then_it_is_finished() {
        let mut simulator = open(
            r#"{"data":[{"a":1},{"a":2}],"loop":false,"interval":0,"batch":5}"#,
            None,
        )
        .unwrap();
        assert_eq!(make(&mut simulator, 5).len(), 2);
        assert!(matches!(simulator.read(), Ok(Outcome::Finished)));
    }

    #[test]
    fn count_ends_it() {
        let mut simulator = open(r#"{"count":3}"#, None).unwrap();
        assert_eq!(make(&mut simulator, 2).len(), 2);
        assert_eq!(make(&mut simulator, 2).len(), 1);
        assert!(matches!(simulator.read(), Ok(Outcome::Finished)));
    }

    #[test]
    fn it_goes_on_at_its_checkpoint_with_the_same_messages() {
        let config = r#"{"fields":{"n":{"kind":"sequence"},"x":{"min":0,"max":9,"decimals":3}}}"#;
        let all = make(&mut open(config, None).unwrap(), 6);
        assert_eq!(make(&mut open(config, Some("4")).unwrap(), 2), all[4..]);
        assert_eq!(
            open(config, Some("four")).unwrap_err().kind,
            Kind::Misconfigured
        );
    }

    #[test]
    fn the_datasource_becomes_the_subject() {
        let mut simulator = open(r#"{"datasource":"plant"}"#, None).unwrap();
        assert_eq!(simulator.make(1, 0).subjects, ["plant"]);
        assert!(open("{}", None).unwrap().make(1, 0).subjects.is_empty());
    }

    #[test]
    fn two_ways_of_saying_the_same_thing_at_once_are_misconfigured() {
        for config in [
            r#"{"rate":5,"interval":10}"#,
            r#"{"rate":5,"batch":10}"#,
            r#"{"data":[{}],"fields":{}}"#,
        ] {
            assert_eq!(
                open(config, None).unwrap_err().kind,
                Kind::Misconfigured,
                "{config}"
            );
        }
    }
}
