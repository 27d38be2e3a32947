//! `nop`: a sink that takes every message and does nothing, to measure or to try a rule. With `log`
//! it says how many it took.

use serde::Deserialize;
use windlass_connector::log::{self, Level};
use windlass_connector::{Batch, Descriptor, Error, Rejection, Schema, Sink};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "nop",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::One(include_str!("../schema.json")),
        slots: &[],
    },
    sink: Nop,
}

#[derive(Debug, Deserialize)]
struct Nop {
    #[serde(default)]
    log: bool,
}

impl Sink for Nop {
    type Config = Self;

    fn open(config: Self) -> Result<Self, Error> {
        Ok(config)
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        if self.log {
            log::write(Level::Info, &format!("took {} messages", batch.len()));
        }
        Ok(Vec::new())
    }
}
