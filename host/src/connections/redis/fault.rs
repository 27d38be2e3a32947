//! What the library's errors mean: for the operator's status, and for whoever wants to publish.

use redis::{ErrorKind, RedisError, ServerError};

use crate::error::ConnectionError;

/// Codes with which a server says that it cannot at present.
const LATER: [&str; 9] = [
    "LOADING",
    "BUSY",
    "TRYAGAIN",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "READONLY",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
];
/// Codes with which it refuses the client itself.
const REFUSED: [&str; 4] = ["WRONGPASS", "NOAUTH", "NOPERM", "DENIED"];

/// Why a link could not be made, or was lost.
pub(super) fn link(error: &RedisError) -> ConnectionError {
    let words = error.to_string();
    let code = error.code().unwrap_or_default();
    if error.kind() == ErrorKind::AuthenticationFailed || REFUSED.contains(&code) {
        let code = if code.is_empty() { "AUTH" } else { code };
        return ConnectionError::disconnected(
            format!("redis:{code}"),
            "the server refused the credentials",
        )
        .caused_by(words)
        .slow();
    }
    match error.kind() {
        ErrorKind::RESP3NotSupported => ConnectionError::disconnected(
            "protocol",
            "the server does not speak RESP3: Redis 6 or newer is needed",
        )
        .slow(),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => not_redis().caused_by(words),
        _ if !code.is_empty() => {
            let error = ConnectionError::disconnected(
                format!("redis:{code}"),
                "the server refused the connection",
            )
            .caused_by(words);
            if LATER.contains(&code) {
                error
            } else {
                error.slow()
            }
        }
        _ if error.is_timeout() => silent(),
        _ => lost().caused_by(words),
    }
}

/// What is there speaks another protocol.
pub(super) fn not_redis() -> ConnectionError {
    ConnectionError::disconnected("protocol", "what answers there is no Redis server").slow()
}

/// Nothing is said in time.
pub(super) fn silent() -> ConnectionError {
    ConnectionError::disconnected(
        "timeout",
        "the server does not answer as a Redis server does",
    )
}

/// The link went away.
pub(super) fn lost() -> ConnectionError {
    ConnectionError::disconnected("closed", "the server closed the connection")
}

/// Why a command did not come to its end.
pub(super) fn command(error: &RedisError) -> ConnectionError {
    match error.code() {
        Some(code) => said(code, error.detail()),
        None if error.is_timeout() => {
            ConnectionError::transient("timeout", "the server did not answer in time")
        }
        None => ConnectionError::disconnected("closed", "the link to the server was lost")
            .caused_by(error.to_string()),
    }
}

/// What the server said to one command.
pub(super) fn refused(error: &ServerError) -> ConnectionError {
    said(error.code(), error.details())
}

fn said(code: &str, detail: Option<&str>) -> ConnectionError {
    let sentence = match code {
        "WRONGTYPE" => "the key holds a value of another type",
        "NOPERM" => "this user may not do that with this key",
        "OOM" => "the server's memory is full",
        "READONLY" => "the server is a replica that only reads",
        _ => "the server did not take the command",
    };
    let name = format!("redis:{code}");
    let error = if LATER.contains(&code) {
        ConnectionError::transient(name, sentence)
    } else {
        ConnectionError::permanent(name, sentence)
    };
    match detail {
        Some(detail) => error.caused_by(detail.to_owned()),
        None => error,
    }
}
