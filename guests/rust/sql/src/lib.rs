//! `sql`: reads the rows of a table or of a statement, and writes rows into tables. The database is
//! the host's; values go to it as parameters only, and names are quoted.
//!
//! Source: `query` reads the configuration, `pager` pages through the rows in the order of the index
//! columns, `rows` writes them as JSON. Sink: `row` reads JSON, `plan` puts rows into statements,
//! `statement` writes these. All but `source` and `sink` is pure.

mod index;
mod pager;
mod plan;
mod query;
mod row;
mod rows;
mod sink;
mod source;
mod statement;
mod template;
mod time;

use windlass_connector::{Descriptor, Schema, Slot};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "sql",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::PerRole {
            source: include_str!("../source.schema.json"),
            sink: include_str!("../sink.schema.json"),
        },
        slots: &[Slot::sql("db", "The database.")],
    },
    source: source::SqlSource,
    sink: sink::SqlSink,
}
