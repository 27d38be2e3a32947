//! SQLite: values by their storage class, one writer at a time, files in WAL mode. What a statement
//! may be at all is decided in `text.rs`: none reaches another file.

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use sqlx::pool::PoolOptions;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous,
};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Decode,
    Row as _, Sqlite, SqliteConnection, TypeInfo as _, ValueRef as _,
};

use super::config::Config;
use super::dburl::Target;
use super::error::Failure;
use super::link::{self, Answer};
use super::many;
use super::text::{Dialect, Statement};
use crate::connections::SqlValue;
use crate::error::ConnectionError;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Driver;

#[async_trait]
impl link::Driver for Driver {
    type Db = Sqlite;
    const DIALECT: Dialect = Dialect::Sqlite;

    fn options(target: &Target, config: &Config) -> Result<SqliteConnectOptions, ConnectionError> {
        let Target::File(file) = target else {
            return Err(ConnectionError::misconfigured(
                "dburl",
                "the dburl names no file of SQLite",
            ));
        };
        let options = SqliteConnectOptions::new()
            .busy_timeout(config.busy_timeout)
            .foreign_keys(true)
            .disable_statement_logging();
        Ok(match &file.path {
            None => options.in_memory(true),
            Some(path) if file.read_only => options.filename(path).read_only(true),
            Some(path) => options
                .filename(path)
                .create_if_missing(file.create)
                .journal_mode(SqliteJournalMode::Wal)
                // What execute_many reports as written stays written when the power fails.
                .synchronous(SqliteSynchronous::Full),
        })
    }

    fn pool(pool: PoolOptions<Sqlite>, target: &Target, _config: &Config) -> PoolOptions<Sqlite> {
        match target {
            // Each connection would have a database of its own, and end with it.
            Target::File(file) if file.path.is_none() => pool
                .max_connections(1)
                .min_connections(1)
                .idle_timeout(None)
                .max_lifetime(None),
            _ => pool,
        }
    }

    async fn query(
        &self,
        conn: &mut SqliteConnection,
        statement: &Statement<'_>,
        params: Vec<SqlValue>,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        let text = statement.text.to_owned();
        let arguments = arguments([params.as_slice()])?;
        // Prepared anew each time: a prepared statement keeps the columns that the table had.
        let query = sqlx::query_with(AssertSqlSafe(text), arguments).persistent(false);
        let mut rows = query.fetch(conn);
        while let Some(row) = rows.try_next().await? {
            if answer.is_full() {
                // The worker stops when nobody takes its rows.
                answer.cut = false;
                break;
            }
            if answer.rows.columns.is_empty() {
                let columns = row.columns().iter();
                answer.rows.columns = columns.map(|column| column.name().to_owned()).collect();
            }
            answer.push(values(&row)?);
        }
        Ok(())
    }

    async fn execute_many(
        &self,
        conn: &mut SqliteConnection,
        statement: &Statement<'_>,
        rows: &[Vec<SqlValue>],
    ) -> Result<u64, Failure> {
        // The lock is taken at once: one that is asked for later may be refused without a wait.
        let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await?;
        let row = statement.row();
        let mut changed = 0;
        let mut rest = rows;
        while !rest.is_empty() {
            let count = match &row {
                Some(_) => many::next(rest, Dialect::Sqlite),
                None => 1,
            };
            let (now, later) = rest.split_at(count);
            let text = match &row {
                Some(row) => row.repeated(count, &|_, _| String::new()),
                None => statement.text.to_owned(),
            };
            let arguments = arguments(now.iter().map(Vec::as_slice))?;
            let query = sqlx::query_with(AssertSqlSafe(text), arguments);
            match query.execute(&mut *transaction).await {
                Ok(done) => changed += done.rows_affected(),
                Err(error) => {
                    transaction.rollback().await?;
                    return Err(error.into());
                }
            }
            rest = later;
        }
        transaction.commit().await.map_err(Failure::Commit)?;
        Ok(changed)
    }
}

fn arguments<'a>(
    rows: impl IntoIterator<Item = &'a [SqlValue]>,
) -> Result<SqliteArguments, Failure> {
    let mut arguments = SqliteArguments::default();
    for value in rows.into_iter().flatten() {
        let added = match value {
            SqlValue::Null => arguments.add(None::<i64>),
            SqlValue::Boolean(value) => arguments.add(i64::from(*value)),
            SqlValue::Integer(value) => arguments.add(*value),
            SqlValue::Real(value) => arguments.add(*value),
            SqlValue::Text(value) => arguments.add(value.clone()),
            SqlValue::Blob(value) => arguments.add(value.clone()),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn values(row: &SqliteRow) -> Result<Vec<SqlValue>, Failure> {
    let mut values = Vec::with_capacity(row.len());
    for place in 0..row.len() {
        let value = row.try_get_raw(place)?;
        if value.is_null() {
            values.push(SqlValue::Null);
            continue;
        }
        let class = value.type_info().name().to_owned();
        let read = match class.as_str() {
            "INTEGER" => <i64 as Decode<'_, Sqlite>>::decode(value).map(SqlValue::Integer),
            "REAL" => <f64 as Decode<'_, Sqlite>>::decode(value).map(SqlValue::Real),
            // What is stored as text need not be UTF-8.
            "TEXT" => <Vec<u8> as Decode<'_, Sqlite>>::decode(value)
                .map(|bytes| SqlValue::Text(String::from_utf8_lossy(&bytes).into_owned())),
            _ => <Vec<u8> as Decode<'_, Sqlite>>::decode(value).map(SqlValue::Blob),
        };
        values.push(read.map_err(|error| unreadable(row.column(place).name(), &class, error))?);
    }
    Ok(values)
}

fn unreadable(
    column: &str,
    kind: &str,
    error: Box<dyn std::error::Error + Send + Sync>,
) -> ConnectionError {
    ConnectionError::permanent(
        "type",
        format!("column \"{column}\" of type {kind} cannot be read"),
    )
    .caused_by(error)
}
