//! How values are written: as Go prints them, and `printf`.

use serde_json::{Number, Value};

/// Width and precision of a verb, bounded so that no template can make the host allocate at will.
const MOST_WIDTH: usize = 1000;

/// A piece of a `printf` format.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verb {
    Text(String),
    /// `%d %s %v %f %q %t`
    Value {
        verb: char,
        width: usize,
        precision: Option<usize>,
        left: bool,
        zeros: bool,
    },
}

impl Verb {
    pub(super) fn takes_value(&self) -> bool {
        matches!(self, Self::Value { .. })
    }
}

/// Reads a format.
pub(super) fn verbs(format: &str) -> Result<Vec<Verb>, String> {
    let mut verbs = Vec::new();
    let mut text = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            text.push('%');
            continue;
        }
        let (mut left, mut zeros) = (false, false);
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0')) {
            left |= flag == '-';
            zeros |= flag == '0';
        }
        let number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut value = None;
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                chars.next();
                value = Some((value.unwrap_or(0_usize) * 10 + digit as usize).min(MOST_WIDTH));
            }
            value
        };
        let width = number(&mut chars).unwrap_or(0);
        let precision = chars
            .next_if_eq(&'.')
            .map(|_| number(&mut chars).unwrap_or(0));
        match chars.next() {
            Some(verb @ ('d' | 's' | 'v' | 'f' | 'q' | 't')) => {
                if !text.is_empty() {
                    verbs.push(Verb::Text(std::mem::take(&mut text)));
                }
                verbs.push(Verb::Value {
                    verb,
                    width,
                    precision,
                    left,
                    zeros,
                });
            }
            Some(verb) => {
                return Err(format!(
                    "printf has no verb %{verb} here; allowed: %d %s %v %f %q %t %%"
                ));
            }
            None => return Err("the format of printf ends within a verb".to_owned()),
        }
    }
    if !text.is_empty() {
        verbs.push(Verb::Text(text));
    }
    Ok(verbs)
}

/// Formats; the number of values was checked when the template was read.
pub(super) fn printf<'a>(
    verbs: &[Verb],
    mut values: impl Iterator<Item = &'a Value>,
) -> Result<String, String> {
    let mut out = String::new();
    for verb in verbs {
        let Verb::Value {
            verb,
            width,
            precision,
            left,
            zeros,
        } = verb
        else {
            if let Verb::Text(text) = verb {
                out.push_str(text);
            }
            continue;
        };
        let value = values.next().unwrap_or(&Value::Null);
        let text = match (verb, value) {
            ('d', Value::Number(number)) => integer(number)
                .ok_or_else(|| format!("%d of printf takes an integer, found {number}"))?,
            ('f', Value::Number(number)) => {
                format!(
                    "{:.*}",
                    precision.unwrap_or(6),
                    number.as_f64().unwrap_or_default()
                )
            }
            ('t', Value::Bool(value)) => value.to_string(),
            ('q', Value::String(_)) => value.to_string(),
            ('s', Value::String(text)) => cut(text, *precision),
            ('s' | 'v', _) => {
                let mut text = String::new();
                print(value, &mut text);
                text
            }
            (verb, other) => {
                return Err(format!("%{verb} of printf does not take {}", kind(other)));
            }
        };
        let missing = width.saturating_sub(text.chars().count());
        match (*left, *zeros && matches!(verb, 'd' | 'f')) {
            (true, _) => {
                out.push_str(&text);
                out.extend(std::iter::repeat_n(' ', missing));
            }
            (false, true) => {
                let digits = text.strip_prefix('-');
                out.push_str(if digits.is_some() { "-" } else { "" });
                out.extend(std::iter::repeat_n('0', missing));
                out.push_str(digits.unwrap_or(&text));
            }
            (false, false) => {
                out.extend(std::iter::repeat_n(' ', missing));
                out.push_str(&text);
            }
        }
    }
    Ok(out)
}

fn cut(text: &str, precision: Option<usize>) -> String {
    precision.map_or_else(|| text.to_owned(), |most| text.chars().take(most).collect())
}

fn integer(number: &Number) -> Option<String> {
    if number.is_i64() || number.is_u64() {
        return Some(number.to_string());
    }
    number
        .as_f64()
        .filter(|value| value.fract() == 0.0)
        .map(|value| format!("{value:.0}"))
}

/// The kind of a value, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "a missing value",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Writes a value as Go's templates do: lists as `[a b]`, objects as `map[k:v]` sorted by name.
/// Integers are written in full, where eKuiper falls into exponents.
pub(super) fn print(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<no value>"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => match (number.is_f64(), number.as_f64()) {
            (true, Some(value)) if (1e-4..1e21).contains(&value.abs()) || value == 0.0 => {
                out.push_str(&value.to_string());
            }
            _ => out.push_str(&number.to_string()),
        },
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(' ');
                }
                nested(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut names: Vec<_> = members.iter().collect();
            names.sort_by_key(|(name, _)| *name);
            out.push_str("map[");
            for (place, (name, value)) in names.into_iter().enumerate() {
                if place > 0 {
                    out.push(' ');
                }
                out.push_str(name);
                out.push(':');
                nested(value, out);
            }
            out.push(']');
        }
    }
}

fn nested(value: &Value, out: &mut String) {
    if value.is_null() {
        out.push_str("<nil>")
    } else {
        print(value, out)
    }
}
