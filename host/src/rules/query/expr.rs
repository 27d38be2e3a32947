//! Expressions: compiled once, evaluated for each row without a lock and mostly without allocation.
//!
//! A missing field is null. A comparison with null is false. Operands of the wrong kind make the
//! result null and are counted; `AND`, `OR` and `NOT` treat null as SQL does (unknown), and a condition
//! that is not true does not pass. Knows nothing of SQL's text.

use std::borrow::Cow;
use std::cell::Cell;

use super::datum::{Arithmetic, Datum, TypeError};
use super::functions::Function;
use super::json;
use super::rows::Row;

/// What an expression may read beside the row, and what it counts.
#[derive(Debug, Default)]
pub struct Context {
    /// Operations whose operands were of the wrong kind.
    pub type_errors: Cell<u64>,
    /// Milliseconds since the Unix epoch, for `tstamp()`.
    pub now_ms: u64,
}

impl Context {
    fn mistake(&self) -> Datum<'static> {
        self.type_errors.set(self.type_errors.get() + 1);
        Datum::Null
    }
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`, `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterEqual,
}

/// What `meta(...)` reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Meta {
    /// Topic or path.
    Topic,
    /// Level of the delivery.
    Qos,
    /// The broker sent it because it was retained.
    Retained,
    /// The protocol's own id of the delivery.
    MessageId,
    /// When it arrived, in milliseconds.
    Timestamp,
    /// A name beside the payload (MQTT 5 user property, HTTP header).
    Header(Box<str>),
    /// The same, where steps go into it: JSON, if its text is an object or a list. Without such a
    /// header `properties` is the object of all headers, as eKuiper has the user properties of MQTT 5.
    Nested(Box<str>),
    /// All of them, as an object.
    All,
}

/// One step into a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A member of an object.
    Member(Box<str>),
    /// An element of a list; negative counts from the end.
    Index(Box<Expr>),
    /// Some elements of a list, the second bound not among them.
    Slice(Option<Box<Expr>>, Option<Box<Expr>>),
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A constant.
    Constant(Datum<'static>),
    /// A member of the row.
    Field(Box<str>),
    /// Something beside the payload.
    Meta(Meta),
    /// Inside another value.
    Step(Box<Expr>, Step),
    /// `-x`
    Negate(Box<Expr>),
    /// Between numbers; `+` joins texts too.
    Arithmetic(Arithmetic, Box<Expr>, Box<Expr>),
    /// True or false.
    Compare(Comparison, Box<Expr>, Box<Expr>),
    /// Both.
    And(Box<Expr>, Box<Expr>),
    /// At least one.
    Or(Box<Expr>, Box<Expr>),
    /// The contrary; null stays null.
    Not(Box<Expr>),
    /// One of these.
    In(Box<Expr>, Vec<Expr>),
    /// An element of a list.
    InList(Box<Expr>, Box<Expr>),
    /// `%` any characters, `_` one; a backslash takes away their meaning.
    Like(Box<Expr>, Box<Expr>),
    /// Null, or missing.
    IsNull(Box<Expr>),
    /// The first whose condition is true, else the last.
    Case(Vec<(Expr, Expr)>, Option<Box<Expr>>),
    /// A function.
    Call(Function, Vec<Expr>),
}

impl Expr {
    /// Whether this condition holds for a row.
    #[must_use]
    pub fn holds(&self, row: &Row<'_>, context: &Context) -> bool {
        match self.eval(row, context) {
            Datum::Bool(value) => value,
            Datum::Null => false,
            _ => {
                context.mistake();
                false
            }
        }
    }

    /// Its value for a row.
    #[must_use]
    pub fn eval<'a>(&'a self, row: &Row<'a>, context: &Context) -> Datum<'a> {
        match self {
            Self::Constant(datum) => datum.borrow(),
            Self::Field(name) => row.field(name).map_or(Datum::Null, Datum::from_json),
            Self::Meta(meta) => meta.read(row),
            Self::Step(from, step) => from.stepped(step, row, context),
            Self::Negate(inner) => match inner.eval(row, context) {
                Datum::Null => Datum::Null,
                Datum::Float(value) => Datum::Float(-value),
                other => match other {
                    Datum::Int(_) | Datum::Uint(_) => {
                        Datum::integer(-other.as_integer().unwrap_or_default())
                    }
                    _ => context.mistake(),
                },
            },
            Self::Arithmetic(operator, a, b) => {
                match (a.eval(row, context), b.eval(row, context)) {
                    (Datum::Null, _) | (_, Datum::Null) => Datum::Null,
                    (Datum::Text(a), Datum::Text(b)) if *operator == Arithmetic::Add => {
                        Datum::text(a.into_owned() + &b)
                    }
                    (a, b) => operator
                        .apply(&a, &b)
                        .unwrap_or_else(|TypeError| context.mistake()),
                }
            }
            Self::Compare(how, a, b) => {
                compare(*how, &a.eval(row, context), &b.eval(row, context), context)
            }
            Self::And(a, b) => match a.truth(row, context) {
                Some(false) => Datum::Bool(false),
                first => match (first, b.truth(row, context)) {
                    (_, Some(false)) => Datum::Bool(false),
                    (Some(true), Some(true)) => Datum::Bool(true),
                    _ => Datum::Null,
                },
            },
            Self::Or(a, b) => match a.truth(row, context) {
                Some(true) => Datum::Bool(true),
                first => match (first, b.truth(row, context)) {
                    (_, Some(true)) => Datum::Bool(true),
                    (Some(false), Some(false)) => Datum::Bool(false),
                    _ => Datum::Null,
                },
            },
            Self::Not(inner) => inner
                .truth(row, context)
                .map_or(Datum::Null, |value| Datum::Bool(!value)),
            Self::In(value, list) => {
                let value = value.eval(row, context);
                let found = !value.is_null()
                    && list
                        .iter()
                        .any(|item| value.same(&item.eval(row, context)) == Ok(true));
                Datum::Bool(found)
            }
            Self::InList(value, list) => {
                match (value.eval(row, context), list.eval(row, context)) {
                    (Datum::Null, _) | (_, Datum::Null) => Datum::Bool(false),
                    (value, Datum::Json(list)) if list.starts_with(b"[") => Datum::Bool(
                        json::elements(&list)
                            .any(|item| value.same(&Datum::from_json(item)) == Ok(true)),
                    ),
                    _ => context.mistake(),
                }
            }
            Self::Like(value, pattern) => {
                match (value.eval(row, context), pattern.eval(row, context)) {
                    (Datum::Null, _) | (_, Datum::Null) => Datum::Bool(false),
                    (Datum::Text(value), Datum::Text(pattern)) => {
                        Datum::Bool(like(&value, &pattern))
                    }
                    _ => context.mistake(),
                }
            }
            Self::IsNull(inner) => Datum::Bool(inner.eval(row, context).is_null()),
            Self::Case(arms, otherwise) => {
                let arm = arms
                    .iter()
                    .find(|(condition, _)| condition.holds(row, context));
                let result = arm.map(|(_, result)| result).or(otherwise.as_deref());
                result.map_or(Datum::Null, |result| result.eval(row, context))
            }
            Self::Call(function, arguments) => {
                let arguments = arguments.iter().map(|argument| argument.eval(row, context));
                function
                    .call(arguments.collect(), context)
                    .unwrap_or_else(|TypeError| context.mistake())
            }
        }
    }

    /// The JSON text of a value that is only a way into the row, exactly as it stands there.
    #[must_use]
    pub fn raw<'a>(&self, row: &Row<'a>) -> Option<&'a [u8]> {
        match self {
            Self::Field(name) => row.field(name),
            Self::Step(from, Step::Member(name)) => {
                from.raw(row).and_then(|object| json::find(object, name))
            }
            _ => None,
        }
    }

    /// Whether [`Expr::raw`] gives what this expression means.
    #[must_use]
    pub fn is_path(&self) -> bool {
        match self {
            Self::Field(_) => true,
            Self::Step(from, Step::Member(_)) => from.is_path(),
            _ => false,
        }
    }

    /// Whether these are steps into something beside the payload.
    #[must_use]
    pub fn is_of_meta(&self) -> bool {
        match self {
            Self::Meta(Meta::Nested(_)) => true,
            Self::Step(from, _) => from.is_of_meta(),
            _ => false,
        }
    }

    /// How deep evaluation goes.
    #[must_use]
    pub fn height(&self) -> usize {
        let of = |list: &[Self]| list.iter().map(Self::height).max().unwrap_or(0);
        let opt = |inner: &Option<Box<Self>>| inner.as_ref().map_or(0, |inner| inner.height());
        1 + match self {
            Self::Constant(_) | Self::Field(_) | Self::Meta(_) => 0,
            Self::Step(from, Step::Member(_)) => from.height(),
            Self::Step(from, Step::Index(index)) => from.height().max(index.height()),
            Self::Step(from, Step::Slice(a, b)) => from.height().max(opt(a)).max(opt(b)),
            Self::Negate(inner) | Self::Not(inner) | Self::IsNull(inner) => inner.height(),
            Self::Arithmetic(_, a, b)
            | Self::Compare(_, a, b)
            | Self::And(a, b)
            | Self::Or(a, b)
            | Self::InList(a, b)
            | Self::Like(a, b) => a.height().max(b.height()),
            Self::In(value, list) => value.height().max(of(list)),
            Self::Case(arms, otherwise) => {
                let arm = arms
                    .iter()
                    .map(|(when, then)| when.height().max(then.height()));
                arm.max().unwrap_or(0).max(opt(otherwise))
            }
            Self::Call(_, arguments) => of(arguments),
        }
    }

    fn truth(&self, row: &Row<'_>, context: &Context) -> Option<bool> {
        match self.eval(row, context) {
            Datum::Bool(value) => Some(value),
            Datum::Null => None,
            _ => {
                context.mistake();
                None
            }
        }
    }

    fn stepped<'a>(&'a self, step: &'a Step, row: &Row<'a>, context: &Context) -> Datum<'a> {
        let list = match self.eval(row, context) {
            Datum::Null => return Datum::Null,
            Datum::Json(raw) => raw,
            _ => return context.mistake(),
        };
        match (step, list.first()) {
            (Step::Member(name), Some(b'{')) => inside(list, |object| json::find(object, name)),
            (Step::Index(index), Some(b'[')) => {
                let index = index.eval(row, context);
                if index.is_null() {
                    return Datum::Null;
                }
                let Some(index) = index.as_integer() else {
                    return context.mistake();
                };
                let at = place(index, &list);
                inside(list, |list| json::elements(list).nth(at?))
            }
            (Step::Slice(from, to), Some(b'[')) => {
                let bound = |bound: &'a Option<Box<Expr>>| match bound {
                    None => Ok(None),
                    Some(bound) => match bound.eval(row, context).as_integer() {
                        Some(index) => Ok(Some(index)),
                        None => Err(TypeError),
                    },
                };
                match (bound(from), bound(to)) {
                    (Ok(from), Ok(to)) => slice(&list, from.unwrap_or(0), to),
                    _ => context.mistake(),
                }
            }
            _ => context.mistake(),
        }
    }
}

/// Compares; with null it is false.
fn compare(how: Comparison, a: &Datum<'_>, b: &Datum<'_>, context: &Context) -> Datum<'static> {
    if a.is_null() || b.is_null() {
        return Datum::Bool(false);
    }
    let result = match how {
        Comparison::Equal => a.same(b),
        Comparison::NotEqual => a.same(b).map(|same| !same),
        Comparison::Less => a.compare(b).map(std::cmp::Ordering::is_lt),
        Comparison::LessEqual => a.compare(b).map(std::cmp::Ordering::is_le),
        Comparison::Greater => a.compare(b).map(std::cmp::Ordering::is_gt),
        Comparison::GreaterEqual => a.compare(b).map(std::cmp::Ordering::is_ge),
    };
    result.map_or_else(|TypeError| context.mistake(), Datum::Bool)
}

/// A part of a text that is borrowed stays borrowed.
fn inside<'a>(text: Cow<'a, [u8]>, find: impl FnOnce(&[u8]) -> Option<&[u8]>) -> Datum<'a> {
    match text {
        Cow::Borrowed(text) => find(text).map_or(Datum::Null, Datum::from_json),
        Cow::Owned(text) => {
            find(&text).map_or(Datum::Null, |found| Datum::from_json(found).into_owned())
        }
    }
}

/// The place of an element in a list, from its start.
fn place(index: i128, list: &[u8]) -> Option<usize> {
    let index = if index < 0 {
        index + i128::try_from(json::elements(list).count()).ok()?
    } else {
        index
    };
    usize::try_from(index).ok()
}

fn slice(list: &[u8], from: i128, to: Option<i128>) -> Datum<'static> {
    let all: Vec<_> = json::elements(list).collect();
    let bound = |index: i128| {
        let length = i128::try_from(all.len()).unwrap_or(i128::MAX);
        let index = if index < 0 { index + length } else { index };
        usize::try_from(index.clamp(0, length)).unwrap_or(0)
    };
    let (from, to) = (bound(from), to.map_or(all.len(), bound));
    let mut out = vec![b'['];
    for (place, item) in all
        .get(from..to.max(from))
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item);
    }
    out.push(b']');
    Datum::Json(Cow::Owned(out))
}

/// Matches with one place to come back to, so that no pattern takes more than quadratic time.
fn like(text: &str, pattern: &str) -> bool {
    let (mut text, mut pattern) = (text.chars(), pattern.chars());
    let mut again: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let mut rest = pattern.clone();
        let matched = match rest.next() {
            Some('%') => {
                again = Some((text.clone(), rest.clone()));
                pattern = rest;
                continue;
            }
            None => {
                if text.clone().next().is_none() {
                    return true;
                }
                false
            }
            Some('_') => text.next().is_some(),
            Some('\\') if rest.clone().next().is_some() => text.next() == rest.next(),
            Some(c) => text.next() == Some(c),
        };
        if matched {
            pattern = rest;
            continue;
        }
        let Some((from, after)) = &mut again else {
            return false;
        };
        if from.next().is_none() {
            return false;
        }
        (text, pattern) = (from.clone(), after.clone());
    }
}

impl Meta {
    fn read<'a>(&self, row: &Row<'a>) -> Datum<'a> {
        let message = row.message();
        let arrival = &message.arrival;
        match self {
            Self::Topic if message.subject.is_empty() => Datum::Null,
            Self::Topic => Datum::text(&*message.subject),
            Self::Qos => Datum::Int(i64::from(arrival.qos)),
            Self::Retained => Datum::Bool(arrival.retained),
            Self::MessageId => Datum::Int(i64::from(arrival.message_id)),
            Self::Timestamp => Datum::integer(i128::from(arrival.at_ms)),
            Self::Header(name) => message.headers.get(name).map_or(Datum::Null, Datum::text),
            Self::Nested(name) => match message.headers.get(name) {
                Some(text) => nested(text),
                None if name.eq_ignore_ascii_case("properties") => {
                    let pairs = message.headers.pairs().iter();
                    let fields = pairs.map(|(name, value)| (name.as_str(), Datum::text(value)));
                    object(fields)
                }
                None => Datum::Null,
            },
            Self::All => {
                let own = [
                    ("topic", Self::Topic.read(row)),
                    ("qos", Self::Qos.read(row)),
                    ("messageId", Self::MessageId.read(row)),
                ];
                let pairs = message.headers.pairs().iter();
                let fields = pairs.map(|(name, value)| (name.as_str(), Datum::text(value)));
                object(own.into_iter().chain(fields))
            }
        }
    }
}

/// A header's text as what it holds, if that is an object or a list.
fn nested(text: &str) -> Datum<'_> {
    let trimmed = text.trim_matches([' ', '\t', '\r', '\n']);
    let holds = trimmed.starts_with(['{', '['])
        && serde_json::from_str::<&serde_json::value::RawValue>(trimmed).is_ok();
    if holds {
        Datum::from_json(trimmed.as_bytes())
    } else {
        Datum::text(text)
    }
}

fn object<'a>(members: impl Iterator<Item = (&'a str, Datum<'a>)>) -> Datum<'static> {
    let mut out = vec![b'{'];
    for (name, value) in members {
        if out.len() > 1 {
            out.push(b',');
        }
        json::write_string(&mut out, name);
        out.push(b':');
        value.write_json(&mut out);
    }
    out.push(b'}');
    Datum::Json(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_matches_whole_texts_and_takes_escapes() {
        for (text, pattern, expected) in [
            ("temperature", "temp%", true),
            ("temperature", "%ture", true),
            ("temperature", "%mp%at%", true),
            ("temperature", "temp", false),
            ("temp", "t__p", true),
            ("temp", "t_p", false),
            ("", "%", true),
            ("", "_", false),
            ("100%", "100\\%", true),
            ("1000", "100\\%", false),
            ("grün", "gr_n", true),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaab", "%a%a%a%a%a%a%c", false),
        ] {
            assert_eq!(like(text, pattern), expected, "{text} LIKE {pattern}");
        }
    }
}
