//! Values while a query is evaluated: borrowed from the payload where possible. Comparison,
//! arithmetic, and writing as JSON. Integers are exact over the whole range of `i64` and `u64`.
//!
//! Knows nothing of expressions, rows or messages.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::io::Write as _;

use super::json;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum<'a> {
    /// Missing, or `null`.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer in the range of `i64`.
    Int(i64),
    /// An integer above the range of `i64`.
    Uint(u64),
    /// Any other number. Never NaN or infinite: those become [`Datum::Null`].
    Float(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// A list or an object, as checked JSON text.
    Json(Cow<'a, [u8]>),
}

/// The operation does not fit the kinds of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeError;

/// An operator between numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`: an integer where it divides evenly, else a float.
    Divide,
    /// `%`: the sign of the first, as in Go.
    Remainder,
    /// `&`, integers only
    BitAnd,
    /// `|`, integers only
    BitOr,
    /// `^`, integers only
    BitXor,
}

impl<'a> Datum<'a> {
    /// From checked JSON text. A number beyond the range of a double is null.
    #[must_use]
    pub fn from_json(raw: &'a [u8]) -> Self {
        match raw.first() {
            Some(b'"') => Self::Text(json::unescape(
                raw.get(1..raw.len() - 1).unwrap_or_default(),
            )),
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'{' | b'[') => Self::Json(Cow::Borrowed(raw)),
            Some(b'-' | b'0'..=b'9') => {
                number(std::str::from_utf8(raw).unwrap_or_default()).unwrap_or(Self::Null)
            }
            _ => Self::Null,
        }
    }

    /// A text of one's own.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Text(text.into())
    }

    /// An integer of any of both ranges.
    #[must_use]
    pub fn integer(value: i128) -> Self {
        if let Ok(value) = i64::try_from(value) {
            return Self::Int(value);
        }
        match u64::try_from(value) {
            Ok(value) => Self::Uint(value),
            #[expect(
                clippy::cast_precision_loss,
                reason = "beyond 64 bits only a float is left"
            )]
            Err(_) => Self::Float(value as f64),
        }
    }

    /// A float; null if it is not finite.
    #[must_use]
    pub fn float(value: f64) -> Self {
        if value.is_finite() {
            Self::Float(value)
        } else {
            Self::Null
        }
    }

    /// The value of an integer, and of a float without a fraction.
    #[must_use]
    pub fn as_integer(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(i128::from(*value)),
            Self::Uint(value) => Some(i128::from(*value)),
            #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
            Self::Float(value) if value.fract() == 0.0 && value.abs() < 1e30 => {
                Some(*value as i128)
            }
            _ => None,
        }
    }

    /// The value of any number, as near as a double can be.
    #[must_use]
    pub fn as_float(&self) -> Option<f64> {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "asked for as a double")]
            Self::Int(value) => Some(*value as f64),
            #[expect(clippy::cast_precision_loss, reason = "asked for as a double")]
            Self::Uint(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// Nothing.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Owns all it needs.
    #[must_use]
    pub fn into_owned(self) -> Datum<'static> {
        match self {
            Self::Null => Datum::Null,
            Self::Bool(value) => Datum::Bool(value),
            Self::Int(value) => Datum::Int(value),
            Self::Uint(value) => Datum::Uint(value),
            Self::Float(value) => Datum::Float(value),
            Self::Text(text) => Datum::Text(Cow::Owned(text.into_owned())),
            Self::Json(raw) => Datum::Json(Cow::Owned(raw.into_owned())),
        }
    }

    /// The same, borrowed.
    #[must_use]
    pub fn borrow(&self) -> Datum<'_> {
        match self {
            Self::Null => Datum::Null,
            Self::Bool(value) => Datum::Bool(*value),
            Self::Int(value) => Datum::Int(*value),
            Self::Uint(value) => Datum::Uint(*value),
            Self::Float(value) => Datum::Float(*value),
            Self::Text(text) => Datum::Text(Cow::Borrowed(text)),
            Self::Json(raw) => Datum::Json(Cow::Borrowed(raw)),
        }
    }

    /// Which of two comes first. Integers and floats compare by value, exactly.
    ///
    /// # Errors
    /// They are of different kinds, or of a kind without an order. Null is for the caller.
    pub fn compare(&self, other: &Datum<'_>) -> Result<Ordering, TypeError> {
        match (self, other) {
            (Self::Int(a), Datum::Int(b)) => Ok(a.cmp(b)),
            (Self::Float(a), Datum::Float(b)) => a.partial_cmp(b).ok_or(TypeError),
            (Self::Text(a), Datum::Text(b)) => Ok(a.as_ref().cmp(b.as_ref())),
            (Self::Bool(a), Datum::Bool(b)) => Ok(a.cmp(b)),
            (Self::Float(a), Datum::Int(_) | Datum::Uint(_)) => {
                compare_float(*a, other.as_integer().ok_or(TypeError)?)
            }
            (Self::Int(_) | Self::Uint(_), Datum::Float(b)) => {
                compare_float(*b, self.as_integer().ok_or(TypeError)?).map(Ordering::reverse)
            }
            _ => match (self.as_integer(), other.as_integer()) {
                (Some(a), Some(b)) => Ok(a.cmp(&b)),
                _ => Err(TypeError),
            },
        }
    }

    /// Whether two are the same; lists and objects by their members.
    ///
    /// # Errors
    /// They are of different kinds. Null is for the caller.
    pub fn same(&self, other: &Datum<'_>) -> Result<bool, TypeError> {
        if let (Self::Json(a), Datum::Json(b)) = (self, other) {
            return Ok(a == b || tree(a) == tree(b));
        }
        self.compare(other).map(Ordering::is_eq)
    }

    /// Appends it as JSON. Floats without a fraction are written without a point, as Go does.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => json::write_string(out, text),
            Self::Json(raw) => out.extend_from_slice(raw),
            Self::Null => out.extend_from_slice(b"null"),
            _ => self.write_plain(out),
        }
    }

    /// Appends it as plain text: a text without quotes, null as nothing.
    pub fn write_plain(&self, out: &mut Vec<u8>) {
        // Writing to a `Vec` cannot fail.
        let _written = match self {
            Self::Null => Ok(()),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Int(value) => write!(out, "{value}"),
            Self::Uint(value) => write!(out, "{value}"),
            Self::Float(value) => {
                let size = value.abs();
                if size != 0.0 && !(1e-6..1e21).contains(&size) {
                    write!(out, "{value:e}")
                } else {
                    write!(out, "{value}")
                }
            }
            Self::Text(text) => out.write_all(text.as_bytes()),
            Self::Json(raw) => out.write_all(raw),
        };
    }

    /// As plain text.
    #[must_use]
    pub fn plain(&self) -> Cow<'_, str> {
        if let Self::Text(text) = self {
            return Cow::Borrowed(text);
        }
        let mut out = Vec::new();
        self.write_plain(&mut out);
        Cow::Owned(String::from_utf8(out).unwrap_or_default())
    }
}

fn tree(raw: &[u8]) -> Option<serde_json::Value> {
    serde_json::from_slice(raw).ok()
}

fn compare_float(float: f64, integer: i128) -> Result<Ordering, TypeError> {
    if float.abs() >= 1e30 {
        return float.partial_cmp(&0.0).ok_or(TypeError);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the range is checked above"
    )]
    let whole = float.trunc() as i128;
    Ok(whole
        .cmp(&integer)
        .then_with(|| float.fract().partial_cmp(&0.0).unwrap_or(Ordering::Equal)))
}

/// A number as JSON and SQL write it. None: not a number, or beyond the range of a double.
#[must_use]
pub fn number(text: &str) -> Option<Datum<'static>> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        if let Ok(value) = text.parse::<i64>() {
            return Some(Datum::Int(value));
        }
        if let Ok(value) = text.parse::<u64>() {
            return Some(Datum::Uint(value));
        }
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    text.parse::<f64>()
        .ok()
        .filter(|value| value.is_finite())
        .map(Datum::Float)
}

impl Arithmetic {
    /// Computes. Division by zero is a type error, as everything else that is no number.
    ///
    /// # Errors
    /// Not numbers, or no result. Null is for the caller.
    pub fn apply(self, a: &Datum<'_>, b: &Datum<'_>) -> Result<Datum<'static>, TypeError> {
        let whole = |datum: &Datum<'_>| match datum {
            Datum::Int(value) => Some(i128::from(*value)),
            Datum::Uint(value) => Some(i128::from(*value)),
            _ => None,
        };
        if let (Some(a), Some(b)) = (whole(a), whole(b)) {
            return self.integers(a, b);
        }
        let (Some(x), Some(y)) = (a.as_float(), b.as_float()) else {
            return Err(TypeError);
        };
        let value = match self {
            Self::Add => x + y,
            Self::Subtract => x - y,
            Self::Multiply => x * y,
            Self::Divide => x / y,
            Self::Remainder => x % y,
            Self::BitAnd | Self::BitOr | Self::BitXor => return Err(TypeError),
        };
        if value.is_finite() {
            Ok(Datum::Float(value))
        } else {
            Err(TypeError)
        }
    }

    /// Operands are of 64 bits, so that only products need care in 128.
    fn integers(self, a: i128, b: i128) -> Result<Datum<'static>, TypeError> {
        let value = match self {
            Self::Add => a + b,
            Self::Subtract => a - b,
            Self::Multiply => match a.checked_mul(b) {
                Some(value) => value,
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "beyond 64 bits only a float is left"
                )]
                None => return Ok(Datum::Float(a as f64 * b as f64)),
            },
            Self::Divide | Self::Remainder if b == 0 => return Err(TypeError),
            Self::Divide if a % b == 0 => a / b,
            #[expect(clippy::cast_precision_loss, reason = "it does not divide evenly")]
            Self::Divide => return Ok(Datum::Float(a as f64 / b as f64)),
            Self::Remainder => a % b,
            Self::BitAnd => a & b,
            Self::BitOr => a | b,
            Self::BitXor => a ^ b,
        };
        Ok(Datum::integer(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_floats_compare_by_value_without_rounding() {
        let max = Datum::Int(i64::MAX);
        assert_eq!(
            max.compare(&Datum::Float(9_223_372_036_854_775_808.0)),
            Ok(Ordering::Less)
        );
        assert_eq!(
            Datum::Int(9_007_199_254_740_993).compare(&Datum::Float(9_007_199_254_740_992.0)),
            Ok(Ordering::Greater)
        );
        assert_eq!(Datum::Uint(u64::MAX).compare(&max), Ok(Ordering::Greater));
        assert_eq!(
            Datum::Int(5).compare(&Datum::Float(5.0)),
            Ok(Ordering::Equal)
        );
        assert_eq!(
            Datum::Float(-0.5).compare(&Datum::Int(0)),
            Ok(Ordering::Less)
        );
        assert_eq!(
            Datum::Float(1e300).compare(&Datum::Uint(u64::MAX)),
            Ok(Ordering::Greater)
        );
        assert_eq!(Datum::Int(5).compare(&Datum::text("5")), Err(TypeError));
    }

    #[test]
    fn integer_arithmetic_is_exact_and_leaves_64_bits_only_as_a_float() {
        let max = Datum::Int(i64::MAX);
        assert_eq!(
            Arithmetic::Add.apply(&max, &Datum::Int(1)),
            Ok(Datum::Uint(1 << 63))
        );
        assert_eq!(
            Arithmetic::Subtract.apply(&Datum::Uint(1 << 63), &Datum::Int(1)),
            Ok(max.clone())
        );
        assert_eq!(
            Arithmetic::Divide.apply(&Datum::Int(5), &Datum::Int(2)),
            Ok(Datum::Float(2.5))
        );
        assert_eq!(
            Arithmetic::Divide.apply(&Datum::Int(4), &Datum::Int(2)),
            Ok(Datum::Int(2))
        );
        assert_eq!(
            Arithmetic::Divide.apply(&Datum::Int(4), &Datum::Int(0)),
            Err(TypeError)
        );
        assert_eq!(
            Arithmetic::Remainder.apply(&Datum::Int(-7), &Datum::Int(3)),
            Ok(Datum::Int(-1))
        );
        assert!(matches!(
            Arithmetic::Multiply.apply(&max, &max),
            Ok(Datum::Float(_))
        ));
        let big = Datum::Uint(u64::MAX);
        assert!(matches!(
            Arithmetic::Multiply.apply(&big, &big),
            Ok(Datum::Float(_))
        ));
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        let plain = |datum: Datum<'_>| datum.plain().into_owned();
        assert_eq!(plain(Datum::Float(20.0)), "20");
        assert_eq!(plain(Datum::Float(20.5)), "20.5");
        assert_eq!(plain(Datum::Float(1e300)), "1e300");
        assert_eq!(plain(Datum::Uint(u64::MAX)), "18446744073709551615");
    }
}
