//! JSON values as parameters of a statement.
//!
//! A value goes to the database as what it is: an integer of 64 bits as one, a number with more digits
//! than a float keeps as its digits (SQLite has no such numbers: there as a float), an object or a list
//! as JSON text.

use serde_json::value::RawValue;
use windlass_connector::Dialect;
use windlass_connector::sql::Value;

/// Digits of a decimal number that a float keeps.
const FLOAT_DIGITS: usize = 15;

/// A value as a parameter. None: it is text that no database takes (half a character).
pub(crate) fn value(raw: &RawValue, dialect: Dialect) -> Option<Value> {
    let text = raw.get();
    Some(match text.as_bytes().first()? {
        b'n' => Value::Null,
        b't' => Value::Boolean(true),
        b'f' => Value::Boolean(false),
        b'"' => Value::Text(serde_json::from_str(text).ok()?),
        b'{' | b'[' => Value::Text(text.to_owned()),
        _ => number(text, dialect),
    })
}

fn number(text: &str, dialect: Dialect) -> Value {
    if let Ok(integer) = text.parse() {
        return Value::Integer(integer);
    }
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let digits = mantissa
        .trim_start_matches(['-', '0', '.'])
        .bytes()
        .filter(u8::is_ascii_digit)
        .count();
    match text.parse::<f64>() {
        Ok(real) if real.is_finite() && (digits <= FLOAT_DIGITS || dialect == Dialect::Sqlite) => {
            Value::Real(real)
        }
        _ => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(text: &str, dialect: Dialect) -> Value {
        value(serde_json::from_str(text).unwrap(), dialect).unwrap()
    }

    #[test]
    fn values_keep_what_they_are_and_every_digit() {
        for (text, wanted) in [
            ("null", Value::Null),
            ("true", Value::Boolean(true)),
            ("-9223372036854775808", Value::Integer(i64::MIN)),
            (
                "18446744073709551615",
                Value::Text("18446744073709551615".to_owned()),
            ),
            ("1.50", Value::Real(1.5)),
            ("-0.000000000012345", Value::Real(-0.000_000_000_012_345)),
            ("1e3", Value::Real(1000.0)),
            (
                "12345678901.123456789",
                Value::Text("12345678901.123456789".to_owned()),
            ),
            ("1e999", Value::Text("1e999".to_owned())),
            (r#""a\u00f6\"""#, Value::Text("aö\"".to_owned())),
            (r#"{"a": [1]}"#, Value::Text(r#"{"a": [1]}"#.to_owned())),
        ] {
            assert_eq!(value_of(text, Dialect::Postgresql), wanted, "{text}");
        }
        assert_eq!(
            value_of("0.12345678901234567", Dialect::Sqlite),
            Value::Real(0.123_456_789_012_345_67)
        );
        let half: &RawValue = serde_json::from_str(r#""\ud800""#).unwrap();
        assert_eq!(value(half, Dialect::Sqlite), None);
    }
}
