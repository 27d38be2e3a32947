//! The broker's codes in words, and what the host must do about each (MQTT 3.1.1 table 3.1,
//! MQTT 5 table 2-6). Messages name no address and no credential.

use std::time::Duration;

use super::packet::Version;
use crate::error::{ConnectionError, ErrorKind};

/// The least wait after a refusal that will pass by itself.
const BUSY: Duration = Duration::from_secs(1);

/// A text of the broker's own, safe for a status line: printable, at most 200 characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn code(version: Version, number: u8) -> String {
    if version == Version::V5 {
        format!("mqtt:0x{number:02X}")
    } else {
        format!("mqtt:{number}")
    }
}

/// The words of a code of version 5.
fn words(number: u8) -> &'static str {
    match number {
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorized",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8A => "banned",
        0x8B => "server shutting down",
        0x8C => "bad authentication method",
        0x8D => "keep alive timeout",
        0x8E => "session taken over by another client with the same identifier",
        0x8F => "topic filter invalid",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x92 => "packet identifier not found",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9A => "retain not supported",
        0x9B => "level not supported",
        0x9C => "use another server",
        0x9D => "server moved",
        0x9E => "shared subscriptions not supported",
        0x9F => "connection rate exceeded",
        0xA0 => "maximum connect time",
        0xA1 => "subscription identifiers not supported",
        0xA2 => "wildcard subscriptions not supported",
        _ => "a reason that the protocol does not define",
    }
}

fn with_text(sentence: String, text: Option<&str>) -> String {
    match text {
        Some(text) if !text.is_empty() => format!("{sentence} ({})", printable(text)),
        _ => sentence,
    }
}

/// CONNECT was refused.
pub(super) fn refused(version: Version, number: u8, text: Option<&str>) -> ConnectionError {
    let (why, slow) = match (version, number) {
        (Version::V5, 1) => (words(0x84), true),
        (Version::V5, number) => (
            words(number),
            matches!(
                number,
                0x84..=0x87 | 0x8A | 0x8C | 0x8E | 0x95 | 0x9A | 0x9B | 0x9D
            ),
        ),
        (_, 1) => ("unacceptable protocol version", true),
        (_, 2) => ("identifier rejected", true),
        (_, 3) => ("server unavailable", false),
        (_, 4) => ("bad user name or password", true),
        (_, 5) => ("not authorized", true),
        _ => ("a code that the protocol does not define", true),
    };
    let message = with_text(format!("the broker refused the connection: {why}"), text);
    let error = ConnectionError::disconnected(code(version, number), message);
    if slow {
        error.slow()
    } else {
        // It is there and has no room: not asked again at once, as one that cannot be reached is.
        error.retry_after(BUSY)
    }
}

/// The broker said goodbye (version 5).
pub(super) fn disconnected(number: u8, text: Option<&str>) -> ConnectionError {
    let sentence = if number == 0 {
        "the broker closed the connection".to_owned()
    } else {
        format!("the broker closed the connection: {}", words(number))
    };
    let error = ConnectionError::disconnected(code(Version::V5, number), with_text(sentence, text));
    if matches!(number, 0x87 | 0x8E | 0x98 | 0x9D) {
        error.slow()
    } else {
        error
    }
}

/// A filter was refused. `filter` is the taker's own word, no address.
pub(super) fn subscription(version: Version, number: u8, filter: &str) -> ConnectionError {
    let why = if version == Version::V5 {
        words(number)
    } else {
        "the broker does not say why"
    };
    let kind = match number {
        0x87 | 0x8F | 0x9E | 0xA1 | 0xA2 => ErrorKind::Misconfigured,
        0x80 if version != Version::V5 => ErrorKind::Misconfigured,
        _ => ErrorKind::Transient,
    };
    ConnectionError::new(
        kind,
        code(version, number),
        format!("the broker refused the topic filter `{filter}`: {why}"),
    )
}

/// A message was refused (PUBACK or PUBREC of version 5 with 0x80 or more).
pub(super) fn message(number: u8) -> ConnectionError {
    let kind = match number {
        0x80 | 0x83 | 0x91 | 0x92 | 0x96 | 0x97 => ErrorKind::Transient,
        _ => ErrorKind::Permanent,
    };
    ConnectionError::new(
        kind,
        code(Version::V5, number),
        format!("the broker refused the message: {}", words(number)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Pace;

    #[test]
    fn refused_credentials_identities_and_bans_are_dialled_slowly_and_trouble_quickly() {
        for number in [2, 4, 5] {
            assert_eq!(
                refused(Version::V311, number, None).pace,
                Pace::Slow,
                "{number}"
            );
        }
        for number in [0x85, 0x86, 0x87, 0x8A] {
            assert_eq!(
                refused(Version::V5, number, None).pace,
                Pace::Slow,
                "{number}"
            );
        }
        assert_eq!(refused(Version::V311, 3, None).pace, Pace::Quick);
        assert_eq!(refused(Version::V5, 0x89, None).pace, Pace::Quick);
        assert_eq!(refused(Version::V5, 0x89, None).retry_after, Some(BUSY));
        assert_eq!(refused(Version::V5, 0x8A, None).retry_after, None);
        assert_eq!(disconnected(0x8E, None).pace, Pace::Slow);
        assert_eq!(disconnected(0x8B, None).pace, Pace::Quick);
    }

    #[test]
    fn a_text_of_the_broker_is_cut_and_printable() {
        let error = refused(Version::V5, 0x87, Some(&"x\n".repeat(500)));
        assert!(error.message.len() < 400 && !error.message.contains('\n'));
        assert_eq!(error.code, "mqtt:0x87");
    }
}
