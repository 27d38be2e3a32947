//! PostgreSQL. The library sends parameters and takes rows in binary, for which each type needs code
//! of its own. So everything travels as text, in the database's own notation, and the server reads
//! and writes it:
//! - a parameter is a `text` that the statement casts to the type which the server says it has there;
//! - rows come through a cursor: what is fetched from it with a simple query is text, whatever the
//!   type, and not more than asked for. What a cursor cannot do (`INSERT ... RETURNING`) is wrapped in
//!   a `WITH` whose columns are cast to text; anything else without parameters is a simple query.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use parking_lot::Mutex;
use secrecy::ExposeSecret as _;
use sqlx::pool::PoolOptions;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow, PgSslMode, PgTypeInfo, PgValueRef};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _,
    Executor as _, PgConnection, Postgres, Row as _, SqlSafeStr as _, Statement as _,
    TypeInfo as _, ValueRef as _,
};

use super::config::Config;
use super::dburl::{Ssl, Target};
use super::error::Failure;
use super::link::{self, Answer};
use super::many;
use super::text::{Dialect, Statement};
use crate::connections::SqlValue;
use crate::error::ConnectionError;

/// Statements whose parameters are known; more than a connector uses.
const PLANS: usize = 256;

/// The types of a statement's parameters, as SQL writes them.
type Types = Arc<Vec<String>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Driver {
    plans: Mutex<HashMap<String, Types>>,
}

#[async_trait]
impl link::Driver for Driver {
    type Db = Postgres;
    const DIALECT: Dialect = Dialect::Postgres;

    fn options(target: &Target, config: &Config) -> Result<PgConnectOptions, ConnectionError> {
        let Target::Server(server) = target else {
            return Err(ConnectionError::misconfigured(
                "dburl",
                "the dburl names no server",
            ));
        };
        let tls = config.tls.pem_texts()?;
        let ssl = match server.ssl {
            Some(ssl) => ssl,
            None if tls.insecure => Ssl::Require,
            None if config.tls.is_given() => Ssl::VerifyFull,
            None => Ssl::Prefer,
        };
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&server.host)
            .port(server.port)
            .application_name(server.application.as_deref().unwrap_or("windlass"))
            .ssl_mode(match ssl {
                Ssl::Disable => PgSslMode::Disable,
                Ssl::Prefer => PgSslMode::Prefer,
                Ssl::Require => PgSslMode::Require,
                Ssl::VerifyCa => PgSslMode::VerifyCa,
                Ssl::VerifyFull => PgSslMode::VerifyFull,
            })
            .disable_statement_logging();
        if let Some(socket) = &server.socket {
            options = options.socket(socket);
        }
        if let Some(user) = &server.user {
            options = options.username(user);
        }
        if let Some(password) = &server.password {
            options = options.password(password.expose_secret());
        }
        if let Some(database) = &server.database {
            options = options.database(database);
        }
        if let Some(path) = &server.search_path {
            options = options.options([("search_path", path)]);
        }
        if let Some(authorities) = &tls.authorities {
            options =
                options.ssl_root_cert_from_pem(authorities.expose_secret().as_bytes().to_vec());
        }
        if let Some((certificates, key)) = &tls.identity {
            options = options
                .ssl_client_cert_from_pem(certificates.expose_secret())
                .ssl_client_key_from_pem(key.expose_secret());
        }
        Ok(options)
    }

    fn pool(
        pool: PoolOptions<Postgres>,
        _target: &Target,
        config: &Config,
    ) -> PoolOptions<Postgres> {
        // The server ends by itself what nobody waits for any more; and text is read and written as
        // this file expects.
        let limit = config.timeout.as_millis();
        pool.after_connect(move |conn, _| {
            Box::pin(async move {
                let text = format!(
                    "SET statement_timeout = {limit}; SET bytea_output = hex; SET standard_conforming_strings = on"
                );
                sqlx::raw_sql(AssertSqlSafe(text)).execute(conn).await?;
                Ok(())
            })
        })
    }

    async fn query(
        &self,
        conn: &mut PgConnection,
        statement: &Statement<'_>,
        params: Vec<SqlValue>,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        loop {
            let (types, known) = self.types(conn, statement, params.len()).await?;
            match fetch(conn, statement, &types, &params, answer).await {
                Err(failure) if known && answer.rows.rows.is_empty() && may_be_stale(&failure) => {
                    self.forget(conn, statement).await?;
                }
                result => return result,
            }
        }
    }

    async fn execute_many(
        &self,
        conn: &mut PgConnection,
        statement: &Statement<'_>,
        rows: &[Vec<SqlValue>],
    ) -> Result<u64, Failure> {
        let width = rows.first().map_or(0, Vec::len);
        let mut together = true;
        loop {
            let (types, known) = self.types(conn, statement, width).await?;
            match write(conn, statement, &types, rows, together).await {
                // One statement may not update the same row twice; one per row may.
                Err(failure) if together && failure.state().as_deref() == Some("21000") => {
                    together = false;
                }
                Err(failure) if known && may_be_stale(&failure) => {
                    self.forget(conn, statement).await?;
                }
                result => return result,
            }
        }
    }
}

/// A table may have changed since the types of the parameters were asked for: syntax and names,
/// data that does not fit a type, a plan with other columns, a prepared statement that is gone.
fn may_be_stale(failure: &Failure) -> bool {
    let state = failure.state().unwrap_or_default();
    ["42", "22", "0A", "26"]
        .iter()
        .any(|class| state.starts_with(class))
}

impl Driver {
    /// The types of the parameters, and whether they were known before.
    async fn types(
        &self,
        conn: &mut PgConnection,
        statement: &Statement<'_>,
        count: usize,
    ) -> Result<(Types, bool), Failure> {
        if count == 0 {
            return Ok((Types::default(), false));
        }
        if let Some(types) = self.plans.lock().get(statement.text) {
            return Ok((Arc::clone(types), true));
        }
        // The server tells by name, with the schema where it is needed: no catalogue is read here.
        let prepare = format!("PREPARE windlass_plan AS {}", statement.text);
        sqlx::raw_sql(AssertSqlSafe(prepare))
            .execute(&mut *conn)
            .await?;
        let rows = sqlx::raw_sql(
            "SELECT format_type(t::oid, -1) FROM pg_prepared_statements, \
             unnest(parameter_types) WITH ORDINALITY AS p(t, n) WHERE name = 'windlass_plan' ORDER BY n",
        )
        .fetch_all(&mut *conn)
        .await;
        sqlx::raw_sql("DEALLOCATE windlass_plan")
            .execute(&mut *conn)
            .await?;
        let types: Vec<String> = rows?
            .iter()
            .map(|row| row.try_get_unchecked(0))
            .collect::<Result<_, _>>()?;
        if types.len() != count {
            return Err(Failure::Own(ConnectionError::permanent(
                "parameters",
                format!(
                    "the statement has {} placeholders, and {count} values are given for them",
                    types.len()
                ),
            )));
        }
        let types = Arc::new(types);
        let mut plans = self.plans.lock();
        if plans.len() >= PLANS {
            plans.clear();
        }
        plans.insert(statement.text.to_owned(), Arc::clone(&types));
        Ok((types, false))
    }

    async fn forget(
        &self,
        conn: &mut PgConnection,
        statement: &Statement<'_>,
    ) -> Result<(), Failure> {
        self.plans.lock().remove(statement.text);
        conn.clear_cached_statements().await?;
        Ok(())
    }
}

/// A placeholder as text that the server reads as this type. In parentheses, as the placeholder may
/// be followed by anything.
fn cast(number: usize, kind: Option<&String>) -> String {
    match kind {
        Some(kind) if kind != "text" => format!("((${number}::text)::{kind})"),
        _ => format!("(${number}::text)"),
    }
}

fn rendered(statement: &Statement<'_>, types: &Types) -> String {
    statement.rendered(&|number| cast(number, types.get(number.wrapping_sub(1))))
}

async fn fetch(
    conn: &mut PgConnection,
    statement: &Statement<'_>,
    types: &Types,
    params: &[SqlValue],
    answer: &mut Answer,
) -> Result<(), Failure> {
    let text = rendered(statement, types);
    if matches!(statement.first(), "SELECT" | "VALUES" | "TABLE" | "WITH") {
        match through_cursor(conn, &text, arguments(types, [params])?, answer).await {
            // No cursor for this one: WITH that writes, SELECT INTO.
            Err(failure)
                if matches!(failure.state().as_deref(), Some("0A000" | "42P11"))
                    && answer.rows.rows.is_empty() => {}
            result => return result,
        }
    }
    if params.is_empty() {
        return gather(conn, text, None, &[], answer).await;
    }
    if statement.has_word("RETURNING") && statement.first() != "WITH" {
        return wrapped(conn, text, arguments(types, [params])?, answer).await;
    }
    let arguments = arguments(types, [params])?;
    gather(conn, text, Some(arguments), &[], answer).await
}

async fn through_cursor(
    conn: &mut PgConnection,
    text: &str,
    arguments: PgArguments,
    answer: &mut Answer,
) -> Result<(), Failure> {
    let mut transaction = conn.begin().await?;
    let declare = format!("DECLARE windlass_rows NO SCROLL CURSOR FOR {text}");
    let declared = sqlx::query_with(AssertSqlSafe(declare), arguments)
        .persistent(false)
        .execute(&mut *transaction)
        .await;
    let gathered = match declared {
        Err(error) => Err(Failure::Sql(error)),
        Ok(_) => {
            let rows = answer.most_rows().saturating_add(1);
            let fetch = format!("FETCH FORWARD {rows} FROM windlass_rows");
            gather(&mut transaction, fetch, None, &[], answer).await
        }
    };
    match gathered {
        // The rest of the answer is still on its way: the connection ends, and the transaction too.
        Ok(()) if answer.cut && answer.rows.rows.len() < answer.most_rows() => Ok(()),
        Ok(()) => {
            transaction.commit().await.map_err(Failure::Commit)?;
            answer.cut = false;
            Ok(())
        }
        Err(failure) => {
            rolled_back(transaction).await;
            Err(failure)
        }
    }
}

/// A link that is gone cannot be rolled back over; what broke it is the news.
async fn rolled_back(transaction: sqlx::Transaction<'_, Postgres>) {
    if let Err(second) = transaction.rollback().await {
        tracing::debug!(%second, "rollback");
    }
}

/// `INSERT`, `UPDATE`, `DELETE` with `RETURNING`.
async fn wrapped(
    conn: &mut PgConnection,
    text: String,
    arguments: PgArguments,
    answer: &mut Answer,
) -> Result<(), Failure> {
    let prepared = (&mut *conn)
        .prepare(AssertSqlSafe(text.clone()).into_sql_str())
        .await?;
    let columns = prepared.columns();
    answer.rows.columns = columns.iter().map(|c| c.name().to_owned()).collect();
    let kinds: Vec<_> = columns.iter().map(|c| c.type_info().clone()).collect();
    let names: Vec<_> = (0..kinds.len()).map(|place| format!("c{place}")).collect();
    let casts: Vec<_> = names.iter().map(|name| format!("{name}::text")).collect();
    let text = format!(
        "WITH windlass_rows ({}) AS ({text}\n) SELECT {} FROM windlass_rows",
        names.join(", "),
        casts.join(", ")
    );
    gather(conn, text, Some(arguments), &kinds, answer).await
}

/// Runs it and takes the rows up to the bounds. Without arguments all values are text; with them
/// those are which the statement casts, and `kinds` says what they were.
async fn gather(
    conn: &mut PgConnection,
    text: String,
    arguments: Option<PgArguments>,
    kinds: &[PgTypeInfo],
    answer: &mut Answer,
) -> Result<(), Failure> {
    let mut rows = match arguments {
        None => sqlx::raw_sql(AssertSqlSafe(text)).fetch(conn),
        Some(arguments) => conn.fetch(
            sqlx::query_with::<Postgres, _>(AssertSqlSafe(text), arguments).persistent(false),
        ),
    };
    while let Some(row) = rows.try_next().await? {
        if answer.is_full() {
            break;
        }
        if answer.rows.columns.is_empty() {
            let columns = row.columns().iter();
            answer.rows.columns = columns.map(|column| column.name().to_owned()).collect();
        }
        answer.push(values(&row, kinds)?);
    }
    Ok(())
}

async fn write(
    conn: &mut PgConnection,
    statement: &Statement<'_>,
    types: &Types,
    rows: &[Vec<SqlValue>],
    together: bool,
) -> Result<u64, Failure> {
    let mut transaction = conn.begin().await?;
    let row = statement.row().filter(|_| together);
    let width = types.len();
    let alone = rendered(statement, types);
    let mut changed = 0;
    let mut rest = rows;
    while !rest.is_empty() {
        let count = match &row {
            Some(_) => many::next(rest, Dialect::Postgres),
            None => 1,
        };
        let (now, later) = rest.split_at(count);
        let text = match &row {
            Some(row) if count > 1 => row.repeated(count, &|row, number| {
                cast(row * width + number, types.get(number.wrapping_sub(1)))
            }),
            _ => alone.clone(),
        };
        let done = match arguments(types, now.iter().map(Vec::as_slice)) {
            Ok(arguments) => sqlx::query_with(AssertSqlSafe(text), arguments)
                .execute(&mut *transaction)
                .await
                .map_err(Failure::Sql),
            Err(failure) => Err(failure),
        };
        match done {
            Ok(done) => changed += done.rows_affected(),
            Err(failure) => {
                rolled_back(transaction).await;
                return Err(failure);
            }
        }
        rest = later;
    }
    transaction.commit().await.map_err(Failure::Commit)?;
    Ok(changed)
}

/// Every value as text, as the type that it is cast to reads it.
fn arguments<'a>(
    types: &Types,
    rows: impl IntoIterator<Item = &'a [SqlValue]>,
) -> Result<PgArguments, Failure> {
    let mut arguments = PgArguments::default();
    for row in rows {
        for (value, kind) in row.iter().zip(types.iter()) {
            let text = match value {
                SqlValue::Null => None,
                SqlValue::Boolean(value) if is_number(kind) => Some(u8::from(*value).to_string()),
                SqlValue::Boolean(value) => Some(value.to_string()),
                SqlValue::Integer(value) => Some(value.to_string()),
                SqlValue::Real(value) => Some(value.to_string()),
                SqlValue::Text(text) => Some(text.clone()),
                SqlValue::Blob(bytes) if kind == "bytea" => Some(hexadecimal(bytes)),
                SqlValue::Blob(bytes) => Some(String::from_utf8(bytes.clone()).map_err(|_| {
                    ConnectionError::permanent(
                        "encode",
                        format!(
                            "bytes that are not UTF-8 are given for a parameter of type {kind}"
                        ),
                    )
                })?),
            };
            arguments.add(text).map_err(sqlx::Error::Encode)?;
        }
    }
    Ok(arguments)
}

fn is_number(kind: &str) -> bool {
    matches!(
        kind,
        "smallint" | "integer" | "bigint" | "real" | "double precision" | "numeric"
    )
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or('0');
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("\\x");
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

fn values(row: &PgRow, kinds: &[PgTypeInfo]) -> Result<Vec<SqlValue>, Failure> {
    let mut values = Vec::with_capacity(row.len());
    for place in 0..row.len() {
        let value = row.try_get_raw(place)?;
        if value.is_null() {
            values.push(SqlValue::Null);
            continue;
        }
        let kind = match kinds.get(place) {
            Some(kind) => kind.clone(),
            None => value.type_info().into_owned(),
        };
        let read = read(&value, &kind).ok_or_else(|| {
            let column = row.column(place).name();
            let kind = kind.name();
            ConnectionError::permanent(
                "type",
                format!("column \"{column}\" of type {kind} cannot be read; cast it to text"),
            )
        })?;
        values.push(read);
    }
    Ok(values)
}

/// The few types that the contract has values for, by their fixed numbers in `pg_type.dat`; all
/// others stay text.
fn read(value: &PgValueRef<'_>, kind: &PgTypeInfo) -> Option<SqlValue> {
    let is_text = value.format() == sqlx::postgres::PgValueFormat::Text
        || value.type_info().oid().is_some_and(|oid| oid.0 == 25);
    if !is_text {
        return None;
    }
    let text = value.as_str().ok()?;
    Some(match kind.oid().map_or(0, |oid| oid.0) {
        16 => SqlValue::Boolean(text.starts_with('t')),
        20 | 21 | 23 | 26 => SqlValue::Integer(text.parse().ok()?),
        700 | 701 => SqlValue::Real(text.parse().ok()?),
        17 => SqlValue::Blob(bytes(text)?),
        _ => SqlValue::Text(text.to_owned()),
    })
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? * 16 + digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_and_read_as_the_server_does() {
        let all: Vec<u8> = (0..=255).collect();
        let text = hexadecimal(&all);
        assert!(text.starts_with("\\x000102") && text.ends_with("feff"));
        assert_eq!(bytes(&text), Some(all));
        assert_eq!(bytes("\\x0"), None);
    }

    #[test]
    fn a_placeholder_becomes_a_cast_that_stands_by_itself() {
        let types = Arc::new(vec!["integer[]".to_owned(), "text".to_owned()]);
        let statement = Statement::parse("SELECT $1[1], '$1', $2", Dialect::Postgres).unwrap();
        assert_eq!(
            rendered(&statement, &types),
            "SELECT (($1::text)::integer[])[1], '$1', ($2::text)"
        );
    }
}
