//! What the library's errors mean: for the operator's status, and for whoever wants to publish.

use std::error::Error as StdError;
use std::io;

use async_nats::jetstream::{self, ErrorCode, context::PublishErrorKind};
use async_nats::{ConnectError, ConnectErrorKind, ServerError};

use crate::connections::tls;
use crate::error::ConnectionError;

/// Why an attempt to connect failed.
pub(super) fn connecting(error: &ConnectError) -> ConnectionError {
    let found = causes(error).find_map(|cause| {
        let said = cause.downcast_ref::<ServerError>().map(Said::Server);
        said.or_else(|| cause.downcast_ref::<io::Error>().map(Said::Io))
    });
    let refused = || {
        ConnectionError::disconnected("nats:authorization", "the server refused the credentials")
            .slow()
    };
    match (error.kind(), found) {
        (ConnectErrorKind::AuthorizationViolation, _) => refused().caused_by(error.to_string()),
        (ConnectErrorKind::Authentication, _) => ConnectionError::disconnected(
            "nats:authorization",
            "the nkey or the credentials cannot be used to log in",
        )
        .slow(),
        (ConnectErrorKind::Dns, _) => {
            ConnectionError::disconnected("resolve", "the server's name cannot be resolved")
                .caused_by(error.to_string())
        }
        (ConnectErrorKind::TimedOut, _) => ConnectionError::disconnected(
            "timeout",
            "the server does not answer as a NATS server does",
        ),
        (_, Some(Said::Server(said))) => server(said),
        (kind, Some(Said::Io(cause))) => {
            if let Some(explained) = tls::explain(cause) {
                return explained;
            }
            match cause.kind() {
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => not_nats(error),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                    ConnectionError::disconnected("closed", "the server closed the connection")
                        .caused_by(error.to_string())
                }
                _ if kind == ConnectErrorKind::Tls => {
                    ConnectionError::disconnected("tls", "the TLS handshake failed")
                        .caused_by(error.to_string())
                }
                _ => ConnectionError::disconnected("connect", "the server cannot be reached")
                    .caused_by(error.to_string()),
            }
        }
        (ConnectErrorKind::Tls, None) => {
            ConnectionError::disconnected("tls", "the TLS handshake failed")
                .caused_by(error.to_string())
        }
        // The library tells these by their words alone.
        (_, None)
            if words(error).contains("got nothing") || words(error).contains("broken pipe") =>
        {
            ConnectionError::disconnected("closed", "the server closed the connection")
                .caused_by(error.to_string())
        }
        (_, None) => not_nats(error),
    }
}

enum Said<'a> {
    Server(&'a ServerError),
    Io(&'a io::Error),
}

fn not_nats(error: &ConnectError) -> ConnectionError {
    ConnectionError::disconnected("protocol", "what answers there is no NATS server")
        .caused_by(error.to_string())
        .slow()
}

fn words(error: &ConnectError) -> String {
    causes(error)
        .map(|cause| cause.to_string())
        .collect::<Vec<_>>()
        .join(": ")
}

pub(super) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// The server's own words, as it says them before it ends a link.
pub(super) fn server(said: &ServerError) -> ConnectionError {
    let text = match said {
        ServerError::AuthorizationViolation => "authorization violation".to_owned(),
        ServerError::SlowConsumer(_) => "slow consumer".to_owned(),
        ServerError::Other(text) => text.to_lowercase(),
    };
    if text.contains("authorization") || text.contains("authentication") || text.contains("expired")
    {
        return ConnectionError::disconnected(
            "nats:authorization",
            "the server refused the credentials",
        )
        .caused_by(text)
        .slow();
    }
    let error = ConnectionError::disconnected("nats:error", "the server ended the connection");
    let error = error.caused_by(text.clone());
    if text.contains("maximum") {
        error.slow()
    } else {
        error
    }
}

/// Why a stream has not taken a message.
pub(super) fn publishing(error: jetstream::context::PublishError) -> ConnectionError {
    let code = causes(&error)
        .find_map(|cause| cause.downcast_ref::<jetstream::Error>())
        .map(jetstream::Error::error_code);
    match error.kind() {
        PublishErrorKind::StreamNotFound => ConnectionError::transient(
            "nats:503",
            "no stream of JetStream takes this subject (or JetStream is off)",
        ),
        PublishErrorKind::TimedOut => {
            ConnectionError::transient("timeout", "the stream did not acknowledge in time")
        }
        PublishErrorKind::BrokenPipe => lost(),
        PublishErrorKind::MaxPayloadExceeded => {
            ConnectionError::permanent("too-large", "the message is larger than the server takes")
        }
        _ => match code {
            Some(code @ ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM) => ConnectionError::permanent(
                format!("nats:{}", code.0),
                "the message is larger than the stream takes",
            ),
            Some(code) => ConnectionError::transient(
                format!("nats:{}", code.0),
                "the stream did not take the message",
            )
            .caused_by(error.to_string()),
            None => lost().caused_by(error.to_string()),
        },
    }
}

/// The link went away under a call.
pub(super) fn lost() -> ConnectionError {
    ConnectionError::disconnected("closed", "the link to the server was lost")
}
