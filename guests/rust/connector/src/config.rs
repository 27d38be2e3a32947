//! From the host's JSON to a connector's own configuration.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, Visitor};

use crate::Error;

/// Parses a configuration.
///
/// # Errors
/// `misconfigured`, with the place.
pub fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::misconfigured("config", error.to_string()))
}

/// A length of time in a configuration: a number of milliseconds, or text such as `10s`, `1h30m`, `1.5s`,
/// `500ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MillisVisitor)
    }
}

struct MillisVisitor;

impl Visitor<'_> for MillisVisitor {
    type Value = Millis;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of milliseconds, or a duration such as \"10s\" or \"500ms\"")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Millis, E> {
        Ok(Millis(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Millis, E> {
        duration(value)
            .map(Millis)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Str(value), &self))
    }
}

/// Numbers with units, one after the other; parts of a millisecond are cut off.
fn duration(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(0);
    }
    let mut nanoseconds = 0.0_f64;
    while {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = match unit {
            "ns" => 1.0,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanoseconds += number.parse::<f64>().ok()? * unit;
        rest = tail;
        !rest.is_empty()
    } {}
    let milliseconds = nanoseconds / 1e6;
    // A cast of a float saturates; nothing here is negative or not a number.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "cut off on purpose, never negative"
    )]
    (milliseconds < 1e15).then_some(milliseconds as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_milliseconds_or_text_with_units() {
        for (text, milliseconds) in [
            ("10", 10),
            ("\"10s\"", 10_000),
            ("\"1h30m\"", 5_400_000),
            ("\"1.5s\"", 1500),
            ("\"250us\"", 0),
            ("\"0\"", 0),
        ] {
            assert_eq!(
                from_json::<Millis>(text),
                Ok(Millis(milliseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_misconfigured_and_named() {
        for text in [
            "\"\"",
            "\"10\"",
            "\"10 s\"",
            "\"s\"",
            "\"1.2.3s\"",
            "\"5d\"",
            "-1",
            "true",
        ] {
            let error = from_json::<Millis>(text).unwrap_err();
            assert_eq!(error.kind, crate::Kind::Misconfigured, "{text}");
            assert!(
                error.message.contains("a number of milliseconds"),
                "{text}: {}",
                error.message
            );
        }
    }
}
