//! MySQL and MariaDB. Rows come in the binary protocol; this file turns what is packed there (times,
//! bits) into the text that the server's own tools show.

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use secrecy::ExposeSecret as _;
use sqlx::mysql::{
    MySqlArguments, MySqlConnectOptions, MySqlDatabaseError, MySqlRow, MySqlSslMode, MySqlTypeInfo,
};
use sqlx::pool::PoolOptions;
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Decode,
    MySql, MySqlConnection, Row as _, Type, TypeInfo as _, ValueRef as _,
};

use super::config::Config;
use super::dburl::{Ssl, Target};
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
    type Db = MySql;
    const DIALECT: Dialect = Dialect::MySql;

    fn options(target: &Target, config: &Config) -> Result<MySqlConnectOptions, ConnectionError> {
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
        let mut options = MySqlConnectOptions::new()
            .host(&server.host)
            .port(server.port)
            .pipes_as_concat(false)
            .ssl_mode(match ssl {
                Ssl::Disable => MySqlSslMode::Disabled,
                Ssl::Prefer => MySqlSslMode::Preferred,
                Ssl::Require => MySqlSslMode::Required,
                Ssl::VerifyCa => MySqlSslMode::VerifyCa,
                Ssl::VerifyFull => MySqlSslMode::VerifyIdentity,
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
        if let Some(authorities) = &tls.authorities {
            options = options.ssl_ca_from_pem(authorities.expose_secret().as_bytes().to_vec());
        }
        if let Some((certificates, key)) = &tls.identity {
            options = options
                .ssl_client_cert_from_pem(certificates.expose_secret())
                .ssl_client_key_from_pem(key.expose_secret());
        }
        Ok(options)
    }

    fn pool(pool: PoolOptions<MySql>, _target: &Target, config: &Config) -> PoolOptions<MySql> {
        // One more than the limit shows that there was more, without the server sending it all. A
        // LIMIT in the statement goes before it.
        let rows = config.max_rows.saturating_add(1);
        pool.after_connect(move |conn, _| {
            Box::pin(async move {
                let text = format!("SET sql_select_limit = {rows}");
                sqlx::raw_sql(AssertSqlSafe(text)).execute(conn).await?;
                Ok(())
            })
        })
    }

    async fn query(
        &self,
        conn: &mut MySqlConnection,
        statement: &Statement<'_>,
        params: Vec<SqlValue>,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        let arguments = || arguments([params.as_slice()]);
        match fetch(conn, statement, arguments()?, answer).await {
            Err(failure) if answer.rows.rows.is_empty() && is_stale(&failure) => {
                conn.clear_cached_statements().await?;
                fetch(conn, statement, arguments()?, answer).await
            }
            result => result,
        }
    }

    async fn execute_many(
        &self,
        conn: &mut MySqlConnection,
        statement: &Statement<'_>,
        rows: &[Vec<SqlValue>],
    ) -> Result<u64, Failure> {
        match write(conn, statement, rows).await {
            Err(failure) if is_stale(&failure) => {
                conn.clear_cached_statements().await?;
                write(conn, statement, rows).await
            }
            result => result,
        }
    }
}

/// A prepared statement that the server does not know any more, or must have again.
fn is_stale(failure: &Failure) -> bool {
    let Failure::Sql(sqlx::Error::Database(error)) = failure else {
        return false;
    };
    error
        .try_downcast_ref::<MySqlDatabaseError>()
        .is_some_and(|error| matches!(error.number(), 1243 | 1615))
}

async fn fetch(
    conn: &mut MySqlConnection,
    statement: &Statement<'_>,
    arguments: MySqlArguments,
    answer: &mut Answer,
) -> Result<(), Failure> {
    let query = sqlx::query_with(AssertSqlSafe(statement.text.to_owned()), arguments);
    let mut rows = query.fetch(conn);
    while let Some(row) = rows.try_next().await? {
        if answer.is_full() {
            break;
        }
        if answer.rows.columns.is_empty() {
            let columns = row.columns().iter();
            answer.rows.columns = columns.map(|column| column.name().to_owned()).collect();
        } else if answer.rows.columns.len() != row.len() {
            // A procedure may answer several times; the first answer counts.
            answer.cut = true;
            break;
        }
        answer.push(values(&row)?);
    }
    Ok(())
}

async fn write(
    conn: &mut MySqlConnection,
    statement: &Statement<'_>,
    rows: &[Vec<SqlValue>],
) -> Result<u64, Failure> {
    let mut transaction = conn.begin().await?;
    let row = statement.row();
    let mut changed = 0;
    let mut rest = rows;
    while !rest.is_empty() {
        let count = match &row {
            Some(_) => many::next(rest, Dialect::MySql),
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
                // A link that is gone cannot be rolled back over; what broke it is the news.
                if let Err(second) = transaction.rollback().await {
                    tracing::debug!(%second, "rollback");
                }
                return Err(error.into());
            }
        }
        rest = later;
    }
    transaction.commit().await.map_err(Failure::Commit)?;
    Ok(changed)
}

fn arguments<'a>(
    rows: impl IntoIterator<Item = &'a [SqlValue]>,
) -> Result<MySqlArguments, Failure> {
    let mut arguments = MySqlArguments::default();
    for value in rows.into_iter().flatten() {
        let added = match value {
            SqlValue::Null => arguments.add(None::<i64>),
            SqlValue::Boolean(value) => arguments.add(i64::from(*value)),
            SqlValue::Integer(value) => arguments.add(*value),
            SqlValue::Real(value) => arguments.add(*value),
            SqlValue::Text(value) => arguments.add(value.as_str()),
            SqlValue::Blob(value) => arguments.add(value.as_slice()),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn values(row: &MySqlRow) -> Result<Vec<SqlValue>, Failure> {
    let mut values = Vec::with_capacity(row.len());
    for place in 0..row.len() {
        let value = row.try_get_raw(place)?;
        let kind = value.type_info().into_owned();
        // Only a NULL has no bytes: a zero date, which the library takes for one, has.
        let Ok(bytes) = <&[u8] as Decode<'_, MySql>>::decode(value) else {
            values.push(SqlValue::Null);
            continue;
        };
        let read = read(&kind, bytes).ok_or_else(|| {
            let column = row.column(place).name();
            let kind = kind.name();
            ConnectionError::permanent(
                "type",
                format!("column \"{column}\" of type {kind} cannot be read"),
            )
        })?;
        values.push(read);
    }
    Ok(values)
}

/// A value of the binary protocol
/// (<https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_binary_resultset.html>).
fn read(kind: &MySqlTypeInfo, bytes: &[u8]) -> Option<SqlValue> {
    let name = kind.name();
    let unsigned = name.ends_with("UNSIGNED")
        // A TINYINT(1) has the same name with and without a sign.
        || (name == "BOOLEAN" && *kind == <u8 as Type<MySql>>::type_info());
    Some(match name {
        "FLOAT" => SqlValue::Real(widened(f32::from_le_bytes(bytes.try_into().ok()?))),
        "DOUBLE" => SqlValue::Real(f64::from_le_bytes(bytes.try_into().ok()?)),
        "YEAR" => SqlValue::Integer(u16::from_le_bytes(bytes.try_into().ok()?).into()),
        "DATE" | "DATETIME" | "TIMESTAMP" => SqlValue::Text(date(bytes, name != "DATE")?),
        "TIME" => SqlValue::Text(time(bytes)?),
        "BIT" => {
            let all = bytes.iter().try_fold(0_u64, |all, byte| {
                Some(all.checked_mul(256)? | u64::from(*byte))
            })?;
            whole(all)
        }
        "GEOMETRY" => SqlValue::Blob(bytes.to_vec()),
        "DECIMAL" | "JSON" | "ENUM" | "SET" => text(bytes),
        _ if name.contains("INT") || name == "BOOLEAN" => integer(bytes, unsigned)?,
        _ if <str as Type<MySql>>::compatible(kind) => text(bytes),
        _ => SqlValue::Blob(bytes.to_vec()),
    })
}

fn text(bytes: &[u8]) -> SqlValue {
    SqlValue::Text(String::from_utf8_lossy(bytes).into_owned())
}

/// The 64-bit number that is written as the 32-bit one is: 0.1 stays 0.1.
fn widened(value: f32) -> f64 {
    value
        .to_string()
        .parse()
        .unwrap_or_else(|_| f64::from(value))
}

fn whole(value: u64) -> SqlValue {
    match i64::try_from(value) {
        Ok(value) => SqlValue::Integer(value),
        Err(_) => SqlValue::Text(value.to_string()),
    }
}

/// Little-endian, of 1 to 8 bytes.
fn integer(bytes: &[u8], unsigned: bool) -> Option<SqlValue> {
    let negative = !unsigned && bytes.last()? & 0x80 != 0;
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(if unsigned {
        whole(u64::from_le_bytes(wide))
    } else {
        SqlValue::Integer(i64::from_le_bytes(wide))
    })
}

/// Length, then year, month, day, and as far as they are not zero hour, minute, second, microseconds.
fn date(bytes: &[u8], with_time: bool) -> Option<String> {
    let part = |place: usize| bytes.get(place).copied().unwrap_or(0);
    let year = u16::from_le_bytes([part(1), part(2)]);
    let mut text = format!("{year:04}-{:02}-{:02}", part(3), part(4));
    if with_time {
        let micros = u32::from_le_bytes([part(8), part(9), part(10), part(11)]);
        text += &format!(" {:02}:{:02}:{:02}", part(5), part(6), part(7));
        text += &fraction(micros);
    }
    Some(text)
}

/// Length, then sign, days, hour, minute, second, microseconds.
fn time(bytes: &[u8]) -> Option<String> {
    let part = |place: usize| bytes.get(place).copied().unwrap_or(0);
    let sign = if part(1) == 0 { "" } else { "-" };
    let days = u32::from_le_bytes([part(2), part(3), part(4), part(5)]);
    let hours = days.checked_mul(24)?.checked_add(u32::from(part(6)))?;
    let micros = u32::from_le_bytes([part(9), part(10), part(11), part(12)]);
    let fraction = fraction(micros);
    Some(format!(
        "{sign}{hours:02}:{:02}:{:02}{fraction}",
        part(7),
        part(8)
    ))
}

/// The protocol does not say how many digits the column has: none, three, or all six.
fn fraction(micros: u32) -> String {
    match (micros, micros % 1000) {
        (0, _) => String::new(),
        (_, 0) => format!(".{:03}", micros / 1000),
        _ => format!(".{micros:06}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_times_are_written_as_the_server_writes_them() {
        assert_eq!(date(&[0], true).as_deref(), Some("0000-00-00 00:00:00"));
        assert_eq!(
            date(&[4, 0xe8, 7, 2, 29], false).as_deref(),
            Some("2024-02-29")
        );
        let full = [11, 0xe8, 7, 2, 29, 23, 59, 58, 0x40, 0xe2, 1, 0];
        assert_eq!(
            date(&full, true).as_deref(),
            Some("2024-02-29 23:59:58.123456")
        );
        assert_eq!(time(&[0]).as_deref(), Some("00:00:00"));
        let long = [8, 1, 34, 0, 0, 0, 22, 59, 59];
        assert_eq!(time(&long).as_deref(), Some("-838:59:59"));
    }

    #[test]
    fn numbers_keep_their_sign_and_every_digit() {
        assert_eq!(integer(&[0xff], false), Some(SqlValue::Integer(-1)));
        assert_eq!(integer(&[0xff], true), Some(SqlValue::Integer(255)));
        assert_eq!(
            integer(&[0xff; 8], true),
            Some(SqlValue::Text(u64::MAX.to_string()))
        );
        assert_eq!(
            integer(&i64::MIN.to_le_bytes(), false),
            Some(SqlValue::Integer(i64::MIN))
        );
        assert_eq!(integer(&[0; 9], false), None);
    }
}
