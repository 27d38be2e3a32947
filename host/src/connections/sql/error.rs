//! What a failure of a database means for the host. Keeps what may be an address or a name of an
//! account for the operator: a guest sees the database's own words only where they speak of its
//! statement.

use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;
use sqlx::postgres::PgDatabaseError;

use crate::connections::tls;
use crate::error::{ConnectionError, ErrorKind};

/// Why work on one connection ended.
#[derive(Debug)]
pub(super) enum Failure {
    /// The library's or the database's error.
    Sql(sqlx::Error),
    /// The same while a transaction was being committed.
    Commit(sqlx::Error),
    /// Our own verdict; the connection is as it was.
    Own(ConnectionError),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Self {
        Self::Own(error)
    }
}

impl Failure {
    /// SQLSTATE, or SQLite's number.
    pub(super) fn state(&self) -> Option<String> {
        match self {
            Self::Sql(error) | Self::Commit(error) => {
                Some(error.as_database_error()?.code()?.into_owned())
            }
            Self::Own(_) => None,
        }
    }

    /// The connection can be used for the next statement.
    pub(super) fn leaves_it_usable(&self) -> bool {
        match self {
            Self::Own(_) => true,
            Self::Commit(_) => false,
            Self::Sql(error) => match error {
                sqlx::Error::Database(error) => {
                    of_database(&**error).kind != ErrorKind::Disconnected
                }
                sqlx::Error::Encode(_) => true,
                _ => false,
            },
        }
    }

    /// For the caller.
    pub(super) fn into_error(self) -> ConnectionError {
        match self {
            Self::Own(error) => error,
            Self::Sql(error) => of(error),
            Self::Commit(error) => {
                let mut error = of(error);
                if error.kind == ErrorKind::Disconnected {
                    error.message =
                        "the connection was lost while the transaction was being committed: no row is known to be written"
                            .to_owned();
                }
                error
            }
        }
    }
}

/// What a failure of a statement means.
pub(super) fn of(error: sqlx::Error) -> ConnectionError {
    match error {
        sqlx::Error::Database(error) => of_database(&*error),
        sqlx::Error::Io(error) => {
            ConnectionError::disconnected("io", "the connection to the database was lost")
                .caused_by(error)
        }
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            ConnectionError::disconnected("closed", "the connection to the database was closed")
        }
        sqlx::Error::Tls(error) => {
            ConnectionError::disconnected("tls", "the TLS handshake with the database failed")
                .caused_by(error)
                .slow()
        }
        sqlx::Error::PoolTimedOut => {
            ConnectionError::disconnected("timeout", "the database does not answer")
        }
        sqlx::Error::Protocol(words) if words.contains("parameters were provided") => {
            ConnectionError::permanent(
                "parameters",
                "there are not as many values as the statement has placeholders",
            )
            .caused_by(words)
        }
        sqlx::Error::Protocol(words) => ConnectionError::transient(
            "protocol",
            "the database sent what this program does not understand",
        )
        .caused_by(words),
        sqlx::Error::Encode(error) => {
            ConnectionError::permanent("encode", "a value cannot be sent").caused_by(error)
        }
        other => ConnectionError::permanent("sql", "the statement failed").caused_by(other),
    }
}

/// What a failed attempt to connect means. The database's words may name the host that it sees and
/// the account: they go to the operator only.
pub(super) fn of_dial(error: sqlx::Error) -> ConnectionError {
    match error {
        sqlx::Error::Database(error) => {
            let found = of_database(&*error);
            let number = number(&*error);
            // 28: credentials. 3D, 1044, 1049: no such database, or not for this account.
            let refused = found.code.starts_with("sqlstate:28")
                || found.code.starts_with("sqlstate:3D")
                || matches!(number, 1044 | 1045 | 1049 | 1130 | 1698);
            let sentence = if matches!(number, 1049) || found.code.starts_with("sqlstate:3D") {
                "there is no such database on the server"
            } else if refused {
                "the database refuses the credentials"
            } else {
                "the database refuses the connection"
            };
            let words = error.message().to_owned();
            let failed = ConnectionError::disconnected(found.code, sentence).caused_by(words);
            if refused { failed.slow() } else { failed }
        }
        sqlx::Error::Io(error) => tls::explain(&error).unwrap_or_else(|| {
            ConnectionError::disconnected("connect", "the database cannot be reached")
                .caused_by(error)
        }),
        sqlx::Error::Configuration(error) => ConnectionError::misconfigured(
            "configuration",
            "the properties of the connection cannot be used",
        )
        .caused_by(error),
        sqlx::Error::Protocol(words) => ConnectionError::disconnected(
            "protocol",
            "what answers there does not speak this database's protocol as expected",
        )
        .caused_by(words)
        .slow(),
        other => {
            let mut found = of(other);
            if found.kind != ErrorKind::Misconfigured {
                found.kind = ErrorKind::Disconnected;
            }
            found
        }
    }
}

/// MySQL's own number of an error; 0 for others.
fn number(error: &dyn DatabaseError) -> u16 {
    error
        .try_downcast_ref::<MySqlDatabaseError>()
        .map_or(0, MySqlDatabaseError::number)
}

fn of_database(error: &dyn DatabaseError) -> ConnectionError {
    let code = error.code().unwrap_or_default().into_owned();
    if let Some(postgres) = error.try_downcast_ref::<PgDatabaseError>() {
        let kind = of_state(&code);
        let mut words = postgres.message().to_owned();
        if let Some(detail) = postgres.detail() {
            words = format!("{words} ({detail})");
        }
        return worded(kind, format!("sqlstate:{code}"), words);
    }
    if error.try_downcast_ref::<MySqlDatabaseError>().is_some() {
        let kind = match number(error) {
            // Shutdown; connection killed; too many connections.
            1053 | 1927 | 1040 => ErrorKind::Disconnected,
            // The packet is larger than max_allowed_packet: never smaller another time.
            1153 => ErrorKind::Permanent,
            // Lock wait, deadlock, read only, interrupted, full disk or table, statement time.
            1205 | 1213 | 1290 | 1317 | 1836 | 1021 | 1114 | 1969 | 3024 => ErrorKind::Transient,
            _ => of_state(&code),
        };
        let code = if code.is_empty() {
            "HY000".to_owned()
        } else {
            code
        };
        // These name the account and the host that the server sees.
        if matches!(number(error), 1044 | 1045 | 1142 | 1143 | 1227 | 1370) {
            return ConnectionError::new(
                kind,
                format!("sqlstate:{code}"),
                "the database does not allow this to the connection's account",
            )
            .caused_by(error.message().to_owned());
        }
        return worded(kind, format!("sqlstate:{code}"), error.message().to_owned());
    }
    let number: u32 = code.parse().unwrap_or(0);
    // The lower byte is the primary code: https://www.sqlite.org/rescode.html
    let kind = match number & 0xff {
        // BUSY, LOCKED, NOMEM, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL, SCHEMA
        5 | 6 | 7 | 9 | 10 | 13 | 14 | 15 | 17 => ErrorKind::Transient,
        _ => ErrorKind::Permanent,
    };
    ConnectionError::new(kind, format!("sqlite:{number}"), error.message().to_owned())
}

fn worded(kind: ErrorKind, code: String, words: String) -> ConnectionError {
    // The words of a lost connection, and of servers behind the server, are full of addresses.
    let others = code.starts_with("sqlstate:08") || code.starts_with("sqlstate:HV");
    if kind == ErrorKind::Disconnected || others {
        let sentence = if others && kind != ErrorKind::Disconnected {
            "the database cannot reach another one"
        } else {
            "the database ended the connection"
        };
        return ConnectionError::new(kind, code, sentence).caused_by(words);
    }
    ConnectionError::new(kind, code, words)
}

/// By SQLSTATE (PostgreSQL, appendix A; the same classes in MySQL).
fn of_state(state: &str) -> ErrorKind {
    let class = state.get(..2).unwrap_or_default();
    match (class, state) {
        (_, "57014") => ErrorKind::Transient,
        ("08" | "57", _) => ErrorKind::Disconnected,
        // Serialization and deadlock, lock not available, resources, the system, read only.
        ("40" | "55" | "53" | "58", _) | (_, "25006") => ErrorKind::Transient,
        _ => ErrorKind::Permanent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_sqlstate_have_the_kind_that_the_host_acts_on() {
        for (state, kind) in [
            ("08006", ErrorKind::Disconnected),
            ("57P01", ErrorKind::Disconnected),
            ("57P03", ErrorKind::Disconnected),
            ("57014", ErrorKind::Transient),
            ("40001", ErrorKind::Transient),
            ("40P01", ErrorKind::Transient),
            ("55P03", ErrorKind::Transient),
            ("53100", ErrorKind::Transient),
            ("23505", ErrorKind::Permanent),
            ("42601", ErrorKind::Permanent),
            ("22P02", ErrorKind::Permanent),
            ("", ErrorKind::Permanent),
        ] {
            assert_eq!(of_state(state), kind, "{state}");
        }
    }

    #[test]
    fn a_broken_commit_says_that_nothing_is_known_to_be_written() {
        let broken = || sqlx::Error::Io(std::io::Error::other("10.0.0.1:5432 reset"));
        let error = Failure::Commit(broken()).into_error();
        assert_eq!(error.kind, ErrorKind::Disconnected);
        assert!(error.message.contains("no row is known to be written"));
        assert!(!error.message.contains("10.0.0.1") && error.report().contains("10.0.0.1"));
        assert!(!Failure::Sql(broken()).leaves_it_usable());
    }
}
