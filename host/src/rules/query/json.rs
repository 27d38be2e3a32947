//! JSON without a tree: one validating pass over a payload that notes where its members stand, and
//! walkers over text that has passed it. Nothing is decoded before somebody asks for it.
//!
//! Grammar: RFC 8259. As in Go's decoder: of members with one name the last counts, an escaped half
//! of a surrogate pair reads as U+FFFD. Knows nothing of rows, queries or messages.

use std::borrow::Cow;
use std::ops::Range;

/// Deeper nesting is refused, so that no payload can exhaust the stack.
pub const MAX_DEPTH: usize = 128;

/// Why a text is not JSON, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not valid JSON at byte {at}: {what}")]
pub struct JsonError {
    /// Offset of the byte in the payload, from 0.
    pub at: usize,
    /// What was expected, or what is wrong.
    pub what: &'static str,
}

/// A piece of a text, in bytes. 32 bits keep an entry small; longer texts are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Behind the last byte.
    pub end: u32,
}

impl Span {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "`parse` refuses texts beyond u32"
    )]
    fn new(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    /// The piece of `text` that this is; empty if it lies outside.
    #[must_use]
    pub fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }
}

/// A member of a top-level object: where its name (without quotes) and its value stand.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The name, as written.
    pub key: Span,
    /// The value, as written.
    pub value: Span,
    /// The name has escapes in it.
    pub escaped: bool,
}

/// An object of the payload and its members in the list that `parse` filled.
#[derive(Clone, Debug)]
pub struct Object {
    /// The object, braces included.
    pub span: Span,
    /// Its members.
    pub entries: Range<u32>,
}

/// What a payload holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One object.
    Object,
    /// A list of objects.
    List,
}

/// Checks a whole payload and notes its objects and their members. On an error both lists are as
/// they were before.
///
/// # Errors
/// It is not JSON, or neither an object nor a list of objects.
pub fn parse(
    text: &[u8],
    objects: &mut Vec<Object>,
    entries: &mut Vec<Entry>,
) -> Result<Shape, JsonError> {
    let before = (objects.len(), entries.len());
    let result = parse_rows(text, objects, entries);
    if result.is_err() {
        objects.truncate(before.0);
        entries.truncate(before.1);
    }
    result
}

fn parse_rows(
    text: &[u8],
    objects: &mut Vec<Object>,
    entries: &mut Vec<Entry>,
) -> Result<Shape, JsonError> {
    if u32::try_from(text.len()).is_err() {
        return Err(JsonError {
            at: 0,
            what: "longer than 4 GiB",
        });
    }
    if let Err(error) = std::str::from_utf8(text) {
        return Err(JsonError {
            at: error.valid_up_to(),
            what: "not UTF-8",
        });
    }
    let mut scan = Scan { text, at: 0 };
    scan.space();
    let shape = match scan.peek() {
        Some(b'{') => {
            scan.row(0, objects, entries)?;
            Shape::Object
        }
        Some(b'[') => {
            let mut first = true;
            while scan.next_item(&mut first, b']')? {
                if scan.peek() != Some(b'{') {
                    scan.value(1)?;
                    return scan.fail("a list must hold objects only");
                }
                scan.row(1, objects, entries)?;
            }
            Shape::List
        }
        None => return scan.fail("the payload is empty"),
        Some(_) => {
            scan.value(0)?;
            return scan.fail("neither an object nor a list of objects");
        }
    };
    scan.space();
    if scan.at < text.len() {
        return scan.fail("something follows the value");
    }
    Ok(shape)
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, JsonError> {
        Err(JsonError { at: self.at, what })
    }

    #[inline]
    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// Steps to the next item of a list or an object: behind the bracket or comma. False: behind its end.
    #[inline]
    fn next_item(&mut self, first: &mut bool, close: u8) -> Result<bool, JsonError> {
        if *first {
            self.at += 1;
        }
        self.space();
        match self.peek() {
            Some(byte) if byte == close => {
                self.at += 1;
                return Ok(false);
            }
            Some(b',') if !*first => {
                self.at += 1;
                self.space();
                if matches!(self.peek(), Some(b']' | b'}')) {
                    return self.fail("nothing follows the comma");
                }
            }
            _ if *first => {}
            None => return self.fail("the text ends too early"),
            Some(_) => return self.fail("expected a comma or the end of the list or object"),
        }
        *first = false;
        Ok(true)
    }

    /// The name of a member and the colon: the name's place, and whether it has escapes.
    #[inline]
    fn name(&mut self) -> Result<(Span, bool), JsonError> {
        if self.peek() != Some(b'"') {
            return self.fail("expected a name in double quotes");
        }
        let start = self.at + 1;
        let escaped = self.string()?;
        let name = Span::new(start, self.at - 1);
        self.space();
        if self.peek() != Some(b':') {
            return self.fail("expected a colon");
        }
        self.at += 1;
        self.space();
        Ok((name, escaped))
    }

    fn row(
        &mut self,
        depth: usize,
        objects: &mut Vec<Object>,
        entries: &mut Vec<Entry>,
    ) -> Result<(), JsonError> {
        let (start, from) = (self.at, entries.len());
        let mut first = true;
        while self.next_item(&mut first, b'}')? {
            let (key, escaped) = self.name()?;
            let at = self.at;
            self.value(depth + 1)?;
            entries.push(Entry {
                key,
                value: Span::new(at, self.at),
                escaped,
            });
        }
        let members = Span::new(from, entries.len());
        objects.push(Object {
            span: Span::new(start, self.at),
            entries: members.start..members.end,
        });
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth >= MAX_DEPTH {
            return self.fail("nested too deeply");
        }
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'{') => {
                let mut first = true;
                while self.next_item(&mut first, b'}')? {
                    self.name()?;
                    self.value(depth + 1)?;
                }
                Ok(())
            }
            Some(b'[') => {
                let mut first = true;
                while self.next_item(&mut first, b']')? {
                    self.value(depth + 1)?;
                }
                Ok(())
            }
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(_) => self.fail("expected a value"),
            None => self.fail("the text ends too early"),
        }
    }

    fn word(&mut self, word: &'static [u8]) -> Result<(), JsonError> {
        if self
            .text
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(word))
        {
            self.at += word.len();
            return Ok(());
        }
        self.fail("expected true, false or null")
    }

    /// Steps behind the closing quote; true if there are escapes.
    fn string(&mut self) -> Result<bool, JsonError> {
        self.at += 1;
        let mut escaped = false;
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let stop = rest
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
            let Some(stop) = stop else {
                self.at = self.text.len();
                return self.fail("a string does not end");
            };
            self.at += stop;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    self.escape()?;
                }
                _ => return self.fail("a control character stands in a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                let digits = self.text.get(self.at + 1..self.at + 5).unwrap_or_default();
                if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return self.fail("expected four hexadecimal digits");
                }
                self.at += 5;
            }
            _ => return self.fail("unknown escape"),
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) -> Result<(), JsonError> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if from == self.at {
            self.fail("expected a digit")
        } else {
            Ok(())
        }
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.fail("a number starts with 0");
            }
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }
}

/// The members of an object: name as written, whether it has escapes, value as written. For text
/// that has been checked; ends early on any other.
pub fn members(object: &[u8]) -> impl Iterator<Item = (&[u8], bool, &[u8])> {
    let mut scan = Scan {
        text: object,
        at: 0,
    };
    let mut first = true;
    scan.space();
    let mut open = scan.peek() == Some(b'{');
    std::iter::from_fn(move || {
        open = open && scan.next_item(&mut first, b'}').unwrap_or(false);
        if !open {
            return None;
        }
        let (name, escaped) = scan.name().ok()?;
        let from = scan.at;
        scan.value(0).ok()?;
        Some((name.of(object), escaped, object.get(from..scan.at)?))
    })
}

/// The elements of a list, as written. For text that has been checked; ends early on any other.
pub fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut scan = Scan { text: list, at: 0 };
    let mut first = true;
    scan.space();
    let mut open = scan.peek() == Some(b'[');
    std::iter::from_fn(move || {
        open = open && scan.next_item(&mut first, b']').unwrap_or(false);
        if !open {
            return None;
        }
        let from = scan.at;
        scan.value(0).ok()?;
        list.get(from..scan.at)
    })
}

/// The value of the member of that name; the last one, where there are several.
#[must_use]
pub fn find<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    members(object)
        .filter(|(key, escaped, _)| same_name(key, *escaped, name))
        .last()
        .map(|(_, _, value)| value)
}

/// Whether a name as written means `name`.
#[inline]
#[must_use]
pub fn same_name(written: &[u8], escaped: bool, name: &str) -> bool {
    if escaped {
        *unescape(written) == *name
    } else {
        written == name.as_bytes()
    }
}

/// The text of a string, from what stands between its quotes.
#[must_use]
pub fn unescape(written: &[u8]) -> Cow<'_, str> {
    let text = std::str::from_utf8(written).unwrap_or_default();
    if !written.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let mut chars = after.chars();
        match chars.next() {
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('u') => {
                let (unit, tail) = code_unit(chars.as_str());
                rest = tail;
                out.push(match unit {
                    0xd800..=0xdbff => match tail.strip_prefix("\\u").map(code_unit) {
                        Some((low @ 0xdc00..=0xdfff, tail)) => {
                            rest = tail;
                            let code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
                        }
                        _ => char::REPLACEMENT_CHARACTER,
                    },
                    _ => char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER),
                });
                continue;
            }
            Some(other) => out.push(other),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn code_unit(text: &str) -> (u32, &str) {
    let (digits, rest) = text.split_at_checked(4).unwrap_or((text, ""));
    (u32::from_str_radix(digits, 16).unwrap_or(0xfffd), rest)
}

/// Appends a string with its quotes and escapes.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))
    {
        let (before, after) = rest.split_at(at);
        out.extend_from_slice(before);
        let Some((byte, after)) = after.split_first() else {
            break;
        };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => {
                out.extend_from_slice(b"\\u00");
                for digit in [other >> 4, other & 15] {
                    let digit = HEX.get(usize::from(digit)).copied().unwrap_or('0');
                    out.extend_from_slice(digit.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[cfg(test)]
mod tests;
