//! The scalar functions, with eKuiper's names and results. Null in, null out, except where the table
//! says otherwise. A function sees its arguments only: no row, no state across messages.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::datum::{self, Arithmetic, Datum, TypeError};
use super::expr::Context;
use super::json;

type Outcome<'a> = Result<Datum<'a>, TypeError>;
type Body = for<'a> fn(&[Datum<'a>], &Context) -> Outcome<'a>;

/// One row of the table.
struct Definition {
    name: &'static str,
    least: usize,
    most: usize,
    /// It wants to see nulls.
    nulls: bool,
    body: Body,
}

/// A function by its place in the table.
#[derive(Clone, Copy)]
pub struct Function(&'static Definition);

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Function {
    /// The function of that name, in any case.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        TABLE
            .iter()
            .find(|definition| definition.name.eq_ignore_ascii_case(name))
            .map(Self)
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|definition| definition.name)
    }

    /// Checks how many arguments it gets.
    ///
    /// # Errors
    /// A sentence with the number that it takes.
    pub fn check(self, arguments: usize) -> Result<(), String> {
        let Definition {
            name, least, most, ..
        } = self.0;
        if (*least..=*most).contains(&arguments) {
            return Ok(());
        }
        let takes = match (least, most) {
            (least, &usize::MAX) => format!("{least} or more arguments"),
            (1, 1) => "1 argument".to_owned(),
            (least, most) if least == most => format!("{least} arguments"),
            (least, most) => format!("{least} to {most} arguments"),
        };
        Err(format!("{name} takes {takes}, found {arguments}"))
    }

    /// Calls it.
    ///
    /// # Errors
    /// An argument is of the wrong kind, or there is no result for it.
    pub fn call<'a>(self, arguments: Vec<Datum<'a>>, context: &Context) -> Outcome<'a> {
        if !self.0.nulls && arguments.iter().any(Datum::is_null) {
            return Ok(Datum::Null);
        }
        (self.0.body)(&arguments, context)
    }
}

const fn plain(name: &'static str, arguments: usize, body: Body) -> Definition {
    Definition {
        name,
        least: arguments,
        most: arguments,
        nulls: false,
        body,
    }
}

const fn ranged(name: &'static str, least: usize, most: usize, body: Body) -> Definition {
    Definition {
        name,
        least,
        most,
        nulls: false,
        body,
    }
}

const fn nullable(name: &'static str, least: usize, most: usize, body: Body) -> Definition {
    Definition {
        name,
        least,
        most,
        nulls: true,
        body,
    }
}

const MANY: usize = usize::MAX;

static TABLE: &[Definition] = &[
    // Numbers
    plain("abs", 1, |a, _| match arg(a, 0) {
        Datum::Float(value) => Ok(Datum::Float(value.abs())),
        other => Ok(Datum::integer(other.as_integer().ok_or(TypeError)?.abs())),
    }),
    plain("ceil", 1, |a, _| round(arg(a, 0), f64::ceil)),
    plain("ceiling", 1, |a, _| round(arg(a, 0), f64::ceil)),
    plain("floor", 1, |a, _| round(arg(a, 0), f64::floor)),
    plain("round", 1, |a, _| round(arg(a, 0), f64::round)),
    plain("sqrt", 1, |a, _| Ok(Datum::float(float(a, 0)?.sqrt()))),
    plain("exp", 1, |a, _| Ok(Datum::float(float(a, 0)?.exp()))),
    plain("ln", 1, |a, _| Ok(Datum::float(float(a, 0)?.ln()))),
    ranged("log", 1, 2, |a, _| match a.len() {
        1 => Ok(Datum::float(float(a, 0)?.log10())),
        _ => Ok(Datum::float(float(a, 1)?.log(float(a, 0)?))),
    }),
    plain("power", 2, |a, _| {
        Ok(Datum::float(float(a, 0)?.powf(float(a, 1)?)))
    }),
    plain("pow", 2, |a, _| {
        Ok(Datum::float(float(a, 0)?.powf(float(a, 1)?)))
    }),
    plain("mod", 2, |a, _| {
        Arithmetic::Remainder.apply(arg(a, 0), arg(a, 1))
    }),
    plain("sign", 1, |a, _| {
        let value = float(a, 0)?;
        Ok(Datum::Int(i64::from(value > 0.0) - i64::from(value < 0.0)))
    }),
    // Texts
    ranged("concat", 1, MANY, |a, _| {
        let mut out = Vec::new();
        a.iter().for_each(|datum| datum.write_plain(&mut out));
        Ok(Datum::text(String::from_utf8(out).unwrap_or_default()))
    }),
    plain("lower", 1, |a, _| {
        Ok(Datum::text(text(a, 0)?.to_lowercase()))
    }),
    plain("upper", 1, |a, _| {
        Ok(Datum::text(text(a, 0)?.to_uppercase()))
    }),
    plain("length", 1, |a, _| count(text(a, 0)?.chars().count())),
    plain("numbytes", 1, |a, _| count(text(a, 0)?.len())),
    ranged("substring", 2, 3, |a, _| {
        let from = index(a, 1)?;
        let taken = match a.len() {
            2 => usize::MAX,
            _ => index(a, 2)?.checked_sub(from).ok_or(TypeError)?,
        };
        Ok(Datum::text(
            text(a, 0)?
                .chars()
                .skip(from)
                .take(taken)
                .collect::<String>(),
        ))
    }),
    plain("trim", 1, |a, _| part(arg(a, 0), str::trim)),
    plain("ltrim", 1, |a, _| part(arg(a, 0), str::trim_start)),
    plain("rtrim", 1, |a, _| part(arg(a, 0), str::trim_end)),
    plain("lpad", 2, |a, _| {
        Ok(Datum::text(" ".repeat(padding(a)?) + text(a, 0)?))
    }),
    plain("rpad", 2, |a, _| {
        Ok(Datum::text(
            text(a, 0)?.to_owned() + &" ".repeat(padding(a)?),
        ))
    }),
    plain("reverse", 1, |a, _| {
        Ok(Datum::text(text(a, 0)?.chars().rev().collect::<String>()))
    }),
    plain("startswith", 2, |a, _| {
        Ok(Datum::Bool(text(a, 0)?.starts_with(text(a, 1)?)))
    }),
    plain("endswith", 2, |a, _| {
        Ok(Datum::Bool(text(a, 0)?.ends_with(text(a, 1)?)))
    }),
    plain("indexof", 2, |a, _| {
        let (whole, part) = (text(a, 0)?, text(a, 1)?);
        match whole.split_once(part) {
            Some((before, _)) => count(before.chars().count()),
            None => Ok(Datum::Int(-1)),
        }
    }),
    plain("split_value", 3, |a, _| {
        let (whole, splitter) = (text(a, 0)?, text(a, 1)?);
        let found = whole.split(splitter).nth(index(a, 2)?).ok_or(TypeError)?;
        Ok(Datum::text(found.to_owned()))
    }),
    // Conversion
    nullable("cast", 2, 2, |a, _| cast(arg(a, 0), text(a, 1)?)),
    plain("to_json", 1, |a, _| {
        let mut out = Vec::new();
        arg(a, 0).write_json(&mut out);
        Ok(Datum::text(String::from_utf8(out).unwrap_or_default()))
    }),
    plain("parse_json", 1, |a, _| {
        let tree: serde_json::Value = serde_json::from_str(text(a, 0)?).map_err(|_| TypeError)?;
        Ok(Datum::from_json(tree.to_string().as_bytes()).into_owned())
    }),
    plain("encode", 2, |a, _| {
        match text(a, 1)?.eq_ignore_ascii_case("base64") {
            true => Ok(Datum::text(BASE64.encode(text(a, 0)?))),
            false => Err(TypeError),
        }
    }),
    plain("decode", 2, |a, _| {
        match text(a, 1)?.eq_ignore_ascii_case("base64") {
            true => {
                let bytes = BASE64.decode(text(a, 0)?).map_err(|_| TypeError)?;
                Ok(Datum::text(
                    String::from_utf8(bytes).map_err(|_| TypeError)?,
                ))
            }
            false => Err(TypeError),
        }
    }),
    // Null
    nullable("coalesce", 1, MANY, |a, _| {
        Ok(a.iter()
            .find(|datum| !datum.is_null())
            .cloned()
            .unwrap_or(Datum::Null))
    }),
    nullable("isnull", 1, 1, |a, _| Ok(Datum::Bool(arg(a, 0).is_null()))),
    // Lists
    plain("cardinality", 1, |a, _| match list(a, 0) {
        Ok(list) => count(json::elements(list).count()),
        Err(TypeError) => count(json::members(object(a, 0)?).count()),
    }),
    nullable("array_contains", 2, 2, |a, _| {
        if arg(a, 0).is_null() {
            return Ok(Datum::Null);
        }
        Ok(Datum::Bool(
            json::elements(list(a, 0)?).any(|item| equal(item, arg(a, 1))),
        ))
    }),
    nullable("array_position", 2, 2, |a, _| {
        if arg(a, 0).is_null() {
            return Ok(Datum::Null);
        }
        match json::elements(list(a, 0)?).position(|item| equal(item, arg(a, 1))) {
            Some(place) => count(place),
            None => Ok(Datum::Int(-1)),
        }
    }),
    ranged("array_join", 2, 3, |a, _| {
        let missing = if a.len() == 3 {
            Some(text(a, 2)?)
        } else {
            None
        };
        let items = json::elements(list(a, 0)?).filter_map(|item| match Datum::from_json(item) {
            Datum::Null => missing.map(str::to_owned),
            other => Some(other.plain().into_owned()),
        });
        Ok(Datum::text(items.collect::<Vec<_>>().join(text(a, 1)?)))
    }),
    plain("element_at", 2, |a, _| {
        let found = match arg(a, 1) {
            Datum::Text(name) => json::find(object(a, 0)?, name),
            _ => json::elements(list(a, 0)?).nth(index(a, 1)?),
        };
        Ok(found.map_or(Datum::Null, |found| Datum::from_json(found).into_owned()))
    }),
    // Objects
    plain("keys", 1, |a, _| {
        let names = json::members(object(a, 0)?).map(|(name, ..)| {
            let mut quoted = vec![b'"'];
            quoted.extend_from_slice(name);
            quoted.push(b'"');
            quoted
        });
        Ok(joined(names))
    }),
    plain("values", 1, |a, _| {
        Ok(joined(
            json::members(object(a, 0)?).map(|(.., value)| value.to_vec()),
        ))
    }),
    nullable("object_construct", 2, MANY, |a, _| {
        let mut out = vec![b'{'];
        for pair in a.chunks(2) {
            let [name, value] = pair else {
                return Err(TypeError);
            };
            let Datum::Text(name) = name else {
                return Err(TypeError);
            };
            if value.is_null() {
                continue;
            }
            if out.len() > 1 {
                out.push(b',');
            }
            json::write_string(&mut out, name);
            out.push(b':');
            value.write_json(&mut out);
        }
        out.push(b'}');
        Ok(Datum::Json(Cow::Owned(out)))
    }),
    // Others
    plain("tstamp", 0, |_, context| {
        Ok(Datum::integer(i128::from(context.now_ms)))
    }),
    plain("newuuid", 0, |_, _| Ok(Datum::text(new_uuid()))),
];

fn arg<'b, 'a>(arguments: &'b [Datum<'a>], place: usize) -> &'b Datum<'a> {
    arguments.get(place).unwrap_or(&Datum::Null)
}

fn float(arguments: &[Datum<'_>], place: usize) -> Result<f64, TypeError> {
    arg(arguments, place).as_float().ok_or(TypeError)
}

fn text<'b>(arguments: &'b [Datum<'_>], place: usize) -> Result<&'b str, TypeError> {
    match arg(arguments, place) {
        Datum::Text(text) => Ok(text),
        _ => Err(TypeError),
    }
}

fn index(arguments: &[Datum<'_>], place: usize) -> Result<usize, TypeError> {
    let value = arg(arguments, place).as_integer().ok_or(TypeError)?;
    usize::try_from(value).map_err(|_| TypeError)
}

/// Spaces to pad with; bounded, so that no message can make the host allocate without limit.
fn padding(arguments: &[Datum<'_>]) -> Result<usize, TypeError> {
    const MOST: usize = 65_536;
    index(arguments, 1).and_then(|spaces| {
        if spaces > MOST {
            Err(TypeError)
        } else {
            Ok(spaces)
        }
    })
}

fn list<'b>(arguments: &'b [Datum<'_>], place: usize) -> Result<&'b [u8], TypeError> {
    match arg(arguments, place) {
        Datum::Json(raw) if raw.starts_with(b"[") => Ok(raw),
        _ => Err(TypeError),
    }
}

fn object<'b>(arguments: &'b [Datum<'_>], place: usize) -> Result<&'b [u8], TypeError> {
    match arg(arguments, place) {
        Datum::Json(raw) if raw.starts_with(b"{") => Ok(raw),
        _ => Err(TypeError),
    }
}

fn equal(raw: &[u8], wanted: &Datum<'_>) -> bool {
    match Datum::from_json(raw) {
        Datum::Null => wanted.is_null(),
        item => !wanted.is_null() && item.same(wanted) == Ok(true),
    }
}

fn count<'a>(count: usize) -> Outcome<'a> {
    Ok(Datum::Int(i64::try_from(count).unwrap_or(i64::MAX)))
}

fn round<'a>(value: &Datum<'a>, how: fn(f64) -> f64) -> Outcome<'a> {
    match value {
        Datum::Float(value) => Ok(Datum::Float(how(*value))),
        Datum::Int(_) | Datum::Uint(_) => Ok(value.clone()),
        _ => Err(TypeError),
    }
}

fn part<'a>(value: &Datum<'a>, how: fn(&str) -> &str) -> Outcome<'a> {
    match value {
        Datum::Text(Cow::Borrowed(text)) => Ok(Datum::text(how(text))),
        Datum::Text(Cow::Owned(text)) => Ok(Datum::text(how(text).to_owned())),
        _ => Err(TypeError),
    }
}

fn joined<'a>(items: impl Iterator<Item = Vec<u8>>) -> Datum<'a> {
    let mut out = vec![b'['];
    for item in items {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(&item);
    }
    out.push(b']');
    Datum::Json(Cow::Owned(out))
}

/// The types that `cast` knows.
pub const CAST_TYPES: [&str; 4] = ["bigint", "float", "string", "boolean"];

/// Converts as eKuiper's `cast` does.
///
/// # Errors
/// There is no such conversion for this value.
pub fn cast<'a>(value: &Datum<'a>, to: &str) -> Outcome<'a> {
    let no = Err(TypeError);
    match (to.to_ascii_lowercase().as_str(), value) {
        (_, Datum::Null) => Ok(Datum::Null),
        ("bigint", Datum::Int(_) | Datum::Uint(_)) => Ok(value.clone()),
        ("bigint", Datum::Bool(value)) => Ok(Datum::Int(i64::from(*value))),
        ("bigint", Datum::Float(value)) if value.abs() < 1.8e19 => Ok(Datum::integer(
            Datum::Float(value.trunc()).as_integer().ok_or(TypeError)?,
        )),
        ("bigint", Datum::Text(text)) => match datum::number(text.trim()) {
            Some(number @ (Datum::Int(_) | Datum::Uint(_))) => Ok(number),
            _ => no,
        },
        ("float", Datum::Bool(value)) => Ok(Datum::Float(f64::from(u8::from(*value)))),
        ("float", Datum::Text(text)) => {
            let number = datum::number(text.trim()).ok_or(TypeError)?;
            number.as_float().map(Datum::Float).ok_or(TypeError)
        }
        ("float", number) => number.as_float().map(Datum::Float).ok_or(TypeError),
        ("string", Datum::Text(_)) => Ok(value.clone()),
        ("string", other) => Ok(Datum::text(other.plain().into_owned())),
        ("boolean", Datum::Bool(_)) => Ok(value.clone()),
        ("boolean", Datum::Text(text)) => match text.as_ref() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Datum::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Datum::Bool(false)),
            _ => no,
        },
        ("boolean", number) => match number.as_float() {
            Some(value) => Ok(Datum::Bool(value != 0.0)),
            None => no,
        },
        _ => no,
    }
}

/// RFC 9562, version 4.
fn new_uuid() -> String {
    let bits = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (4 << 76) | (2 << 62);
    let hex = format!("{bits:032x}");
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32];
    groups
        .map(|group| hex.get(group).unwrap_or_default())
        .join("-")
}

#[cfg(test)]
mod tests;
