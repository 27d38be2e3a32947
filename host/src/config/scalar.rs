//! The meaning of a YAML scalar without quotes: YAML 1.2.2, core schema, as far as JSON can hold it.

use serde_json::Number;

use super::node::Kind;

/// The value of a scalar without quotes (YAML 1.2.2, section 10.3.2).
pub(super) fn resolve(text: &str) -> Result<Kind, String> {
    let kind = match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" => Kind::Bool(true),
        "false" | "False" | "FALSE" => Kind::Bool(false),
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF"
        | "-.inf" | "-.Inf" | "-.INF" => {
            return Err(format!(
                "{text} is no number here; put it in quotes if it is text"
            ));
        }
        _ => match number(text) {
            Some(Ok(number)) => Kind::Number(number),
            Some(Err(())) => {
                return Err(format!(
                    "{text} does not fit into 64 bits; put it in quotes if it is text"
                ));
            }
            None => Kind::Text(text.to_owned()),
        },
    };
    Ok(kind)
}

/// None: not a number. Err: a number too large to be held exactly.
fn number(text: &str) -> Option<Result<Number, ()>> {
    let digits =
        |text: &str, radix: u32| !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    let unsigned = |text: &str, radix| {
        u64::from_str_radix(text, radix)
            .map(Number::from)
            .map_err(|_| ())
    };
    if let Some(hex) = text.strip_prefix("0x").filter(|hex| digits(hex, 16)) {
        return Some(unsigned(hex, 16));
    }
    if let Some(octal) = text.strip_prefix("0o").filter(|octal| digits(octal, 8)) {
        return Some(unsigned(octal, 8));
    }
    let (negative, body) = match text.strip_prefix('-') {
        Some(body) => (true, body),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits(body, 10) {
        return Some(if negative {
            text.parse::<i64>().map(Number::from).map_err(|_| ())
        } else {
            unsigned(body, 10)
        });
    }
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (body, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let shaped = all_digits(whole)
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| {
            digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent), 10)
        });
    if !shaped {
        return None;
    }
    Some(
        text.parse::<f64>()
            .ok()
            .and_then(Number::from_f64)
            .ok_or(()),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn value(text: &str) -> Value {
        match resolve(text).unwrap() {
            Kind::Null => Value::Null,
            Kind::Bool(value) => json!(value),
            Kind::Number(number) => Value::Number(number),
            Kind::Text(text) => json!(text),
            Kind::List(_) | Kind::Map(_) => panic!("{text} is a scalar"),
        }
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        for (text, expected) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("null", json!(null)),
            ("True", json!(true)),
            ("FALSE", json!(false)),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("+5", json!(5)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("18446744073709551615", json!(u64::MAX)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            ("-1.5E+3", json!(-1500.0)),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_number_is_text() {
        for text in [
            "yes",
            "no",
            "on",
            "2026-01-02",
            "1.2.3.4",
            "--",
            ".",
            "e1",
            "1e",
            "0x",
            "0b1",
            "1_000",
            "+-1",
        ] {
            assert_eq!(value(text), json!(text));
        }
    }

    #[test]
    fn what_json_cannot_hold_is_refused() {
        for text in [
            ".inf",
            "-.INF",
            ".nan",
            "18446744073709551616",
            "-9223372036854775809",
            "1e999",
        ] {
            assert!(
                resolve(text)
                    .unwrap_err()
                    .contains("put it in quotes if it is text"),
                "{text}"
            );
        }
    }
}
