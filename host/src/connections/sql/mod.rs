//! Databases: the connection type `sql` for SQLite, PostgreSQL and MySQL or MariaDB, over `sqlx`.
//! `link.rs` keeps the pool and its life, one file per database how it takes values and gives rows.
//! Knows no wasm and no rules; imports nothing of the other types.

mod config;
mod dburl;
mod error;
mod link;
mod many;
mod mysql;
mod postgres;
mod sqlite;
mod text;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::properties::beyond_call;
use super::{ConfigError, Connection, ConnectionType, Context, Properties, Property};
use config::Config;
use link::Link;
use text::Dialect;

/// The connection type `sql`.
#[derive(Debug)]
pub struct SqlDatabase;

impl ConnectionType for SqlDatabase {
    const NAME: &'static str = "sql";
    const PROPERTIES: &'static [Property] = config::PROPERTIES;

    fn build(
        properties: &Properties,
        context: Context,
    ) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
        let mut config = Config::read(properties, &context.base)?;
        let late = beyond_call(properties, config::PROPERTIES, context.limits.call);
        config
            .warnings
            .extend(late.into_iter().map(|(_, words)| words));
        Ok(match config.dialect {
            Dialect::Sqlite => Arc::new(Link::<sqlite::Driver>::new(config, context)),
            Dialect::Postgres => Arc::new(Link::<postgres::Driver>::new(config, context)),
            Dialect::MySql => Arc::new(Link::<mysql::Driver>::new(config, context)),
        })
    }
}
