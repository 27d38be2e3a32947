//! `httppull`: asks an HTTP server again and again, and hands on what it answers: a JSON object is one
//! message, a list one for each element. Where it asks, and with what credentials, is the
//! connection's.
//!
//! `config` reads the configuration, `template` fills texts in, `position` is what the checkpoint
//! holds, `answer` takes an answer apart. An answer that is none leaves the position where it was.

mod answer;
mod config;
mod position;
mod template;

use std::time::{SystemTime, UNIX_EPOCH};

use windlass_connector::http::{Client, Request};
use windlass_connector::{Batch, Columns, Descriptor, Error, Outcome, Schema, Slot, Source};

use crate::config::{Config, Pull};
use crate::position::Position;

windlass_connector::export! {
    descriptor: Descriptor {
        name: "httppull",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::One(include_str!("../schema.json")),
        slots: &[Slot::http("server", "The HTTP server.")],
    },
    source: HttpPull,
}

#[derive(Debug)]
struct HttpPull {
    client: Client,
    pull: Pull,
    position: Position,
}

impl Source for HttpPull {
    type Config = Config;

    fn open(config: Config, resume: Option<String>) -> Result<Self, Error> {
        let pull = Pull::new(config)?;
        let position = Position::resume(&pull.states, resume.as_deref())?;
        Ok(Self {
            client: Client::open("server")?,
            pull,
            position,
        })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        let now = now_ms();
        let wait = self.position.wait(now, self.pull.interval);
        if wait > 0 {
            return Ok(Outcome::Idle(u32::try_from(wait).unwrap_or(u32::MAX)));
        }
        let values = self.position.values(now);
        let request = Request {
            method: self.pull.method.clone(),
            path: self.pull.path.fill(&values)?,
            headers: self.pull.headers(&values)?,
            body: self.pull.body.fill(&values)?.into_bytes(),
            timeout_ms: None,
        };
        let response = self.client.send(&request)?;
        let answer = answer::read(&response, self.pull.by_body)?;
        let mut next = self.position.clone();
        next.pulled(now, &response.body, answer.last());
        let same = self.pull.incremental && next.is_same(&self.position);
        self.position = next;
        if same || answer.is_empty() {
            let wait = self.pull.interval.max(1);
            return Ok(Outcome::Idle(u32::try_from(wait).unwrap_or(u32::MAX)));
        }
        let mut columns = Columns {
            payloads: Vec::with_capacity(response.body.len()),
            ends: Vec::with_capacity(answer.len()),
            subjects: self.pull.subjects(),
            subject_of: Vec::new(),
        };
        for element in answer.iter() {
            columns.payloads.extend_from_slice(element.as_bytes());
            let end = u32::try_from(columns.payloads.len());
            columns.ends.push(
                end.map_err(|_| Error::permanent("too-large", "the answer is larger than 4 GiB"))?,
            );
        }
        let batch = Batch::from_columns(&columns)?;
        Ok(Outcome::batch_until(batch, self.position.checkpoint()))
    }
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
