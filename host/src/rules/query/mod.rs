//! What a rule selects from its stream: `SELECT ... FROM ... WHERE ...`, compiled once, run over a batch.
//!
//! Stateless: each row on its own. A payload is looked at only if the query needs it, and then once
//! for all rules of the stream ([`RowBatch`]). Knows nothing of wasm, connections or the store.
//!
//! Differences from eKuiper, on purpose: integers stay exact; `/` of two integers gives an integer only
//! where it divides evenly; a comparison of different kinds is false for that comparison alone, not
//! for the whole condition.

pub mod datum;
pub mod expr;
pub mod functions;
pub mod json;
mod parse;
pub mod rows;
pub mod stream;
pub mod tokens;

use bytes::Bytes;

pub use self::rows::{Delimited, Failure, Format, Row, RowBatch};
pub use self::stream::{Field, FieldType, StreamStatement};
pub use self::tokens::{SyntaxError, hint, nearest};

use self::expr::{Context, Expr};
use self::tokens::Place;

/// A compiled query.
#[derive(Debug)]
pub struct Query {
    stream: String,
    star: Option<Vec<String>>,
    columns: Vec<Column>,
    condition: Option<Expr>,
    fields: Vec<(String, Place)>,
    reads_rows: bool,
    nil_fields: bool,
}

#[derive(Debug)]
struct Column {
    name: String,
    /// `"name":`, ready to be written.
    key: Vec<u8>,
    value: Expr,
    is_path: bool,
}

/// What a query chose from a batch.
#[derive(Clone, Debug)]
pub struct Selection {
    /// What passes.
    pub passing: Passing,
    /// Messages whose payload cannot be parsed: dead letters.
    pub failures: Vec<Failure>,
    /// Operations whose operands were of the wrong kind; they counted as false, or null.
    pub type_errors: u64,
    /// The query looked at the rows, so that a list of rows is no longer one message.
    pub looked_inside: bool,
}

/// Which messages pass, and as what.
#[derive(Clone, Debug)]
pub enum Passing {
    /// All messages, unchanged.
    All,
    /// The messages at these places, unchanged.
    Messages(Vec<u32>),
    /// New rows.
    Rows(Built),
}

/// Rows that a query made, in the order of their messages.
#[derive(Clone, Debug, Default)]
pub struct Built {
    text: Bytes,
    /// Place of the message, and where its row ends in `text`.
    ends: Vec<(u32, u32)>,
}

impl Built {
    /// Place of the message in its batch, and the row as JSON text.
    pub fn rows(&self) -> impl Iterator<Item = (u32, Bytes)> {
        let mut start = 0;
        self.ends.iter().map(move |&(index, end)| {
            let range = start..end as usize;
            start = end as usize;
            (index, self.text.slice(range))
        })
    }

    /// How many rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl Query {
    /// Reads and compiles a statement.
    ///
    /// # Errors
    /// The place in `sql`, and a sentence with what is allowed, or what to use instead.
    pub fn parse(sql: &str) -> Result<Self, SyntaxError> {
        let statement = parse::parse(sql)?;
        let column = |(name, value): (String, Expr)| {
            let mut key = Vec::new();
            json::write_string(&mut key, &name);
            key.push(b':');
            Column {
                name,
                key,
                is_path: value.is_path(),
                value,
            }
        };
        Ok(Self {
            stream: statement.stream,
            star: statement.star,
            columns: statement.columns.into_iter().map(column).collect(),
            condition: statement.condition,
            fields: statement.fields,
            reads_rows: statement.reads_rows,
            nil_fields: false,
        })
    }

    /// Columns without a value are written as `null` instead of being left out (`sendNilField`).
    #[must_use]
    pub fn with_nil_fields(mut self, nil_fields: bool) -> Self {
        self.nil_fields = nil_fields;
        self
    }

    /// The stream that it reads.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Whether it needs the payloads decoded.
    #[must_use]
    pub fn looks_inside(&self) -> bool {
        self.reads_rows
    }

    /// Whether messages pass unchanged, if they pass.
    #[must_use]
    pub fn passes_whole(&self) -> bool {
        self.columns.is_empty() && self.star.as_ref().is_some_and(Vec::is_empty)
    }

    /// Fields that the query reads and that are not among these, the declared ones of its stream:
    /// each with its place and the nearest declared name. To be shown as warnings.
    #[must_use]
    pub fn unknown_fields(&self, declared: &[Field]) -> Vec<SyntaxError> {
        if declared.is_empty() {
            return Vec::new();
        }
        let names = || declared.iter().map(|field| field.name.as_str());
        let unknown = self
            .fields
            .iter()
            .filter(|(name, _)| names().all(|other| other != name));
        unknown
            .map(|(name, place)| {
                let hint = hint(name, names());
                place.error(format!("the stream declares no field \"{name}\"{hint}"))
            })
            .collect()
    }

    /// Chooses from a batch.
    #[must_use]
    pub fn run(&self, rows: &RowBatch) -> Selection {
        let context = Context {
            now_ms: now_ms(),
            ..Context::default()
        };
        let count = u32::try_from(rows.batch().len()).unwrap_or(u32::MAX);
        if !self.reads_rows {
            let passing = match &self.condition {
                None => Passing::All,
                Some(condition) => {
                    let holds = |&(index, message): &(u32, _)| {
                        condition.holds(&RowBatch::bare(message, index), &context)
                    };
                    let messages = (0..count).zip(rows.batch().iter());
                    some(
                        messages.filter(holds).map(|(index, _)| index).collect(),
                        count,
                    )
                }
            };
            return Selection {
                passing,
                failures: Vec::new(),
                type_errors: context.type_errors.get(),
                looked_inside: false,
            };
        }
        let passing = match self.passes_whole() {
            true => self.filter(rows, count, &context),
            false => Passing::Rows(self.build(rows, count, &context)),
        };
        Selection {
            passing,
            failures: rows.failures().to_vec(),
            type_errors: context.type_errors.get(),
            looked_inside: true,
        }
    }

    fn holds(&self, row: &Row<'_>, context: &Context) -> bool {
        self.condition
            .as_ref()
            .is_none_or(|condition| condition.holds(row, context))
    }

    /// Whole messages; rows only where some rows of a list pass and others do not.
    fn filter(&self, rows: &RowBatch, count: u32, context: &Context) -> Passing {
        let mut places = Vec::new();
        let mut chosen: Vec<(u32, Vec<bool>)> = Vec::new();
        for index in 0..count {
            let mut all = rows.rows(index);
            let Some(first) = all.next() else { continue };
            let passes = self.holds(&first, context);
            let mut rest = all.map(|row| self.holds(&row, context)).peekable();
            if rest.peek().is_none() {
                if passes {
                    places.push(index);
                }
                continue;
            }
            let each: Vec<bool> = std::iter::once(passes).chain(rest).collect();
            if each.iter().any(|passes| *passes) {
                places.push(index);
                if !each.iter().all(|passes| *passes) {
                    chosen.push((index, each));
                }
            }
        }
        if chosen.is_empty() {
            return some(places, count);
        }
        let mut built = Builder::default();
        let mut chosen = chosen.into_iter().peekable();
        for index in places {
            let each = chosen
                .next_if(|(place, _)| *place == index)
                .map(|(_, each)| each);
            for (place, row) in rows.rows(index).enumerate() {
                if each
                    .as_ref()
                    .is_none_or(|each| each.get(place) == Some(&true))
                {
                    built.text.extend_from_slice(row.object());
                    built.end(index);
                }
            }
        }
        Passing::Rows(built.done())
    }

    fn build(&self, rows: &RowBatch, count: u32, context: &Context) -> Built {
        let mut built = Builder::default();
        built.text.reserve(
            rows.batch()
                .iter()
                .map(|message| message.payload.len())
                .sum(),
        );
        for index in 0..count {
            for row in rows.rows(index) {
                if self.holds(&row, context) {
                    self.write(&row, context, &mut built.text);
                    built.end(index);
                }
            }
        }
        built.done()
    }

    fn write(&self, row: &Row<'_>, context: &Context, out: &mut Vec<u8>) {
        out.push(b'{');
        let start = out.len();
        let comma = |out: &mut Vec<u8>| {
            if out.len() > start {
                out.push(b',');
            }
        };
        if let Some(except) = &self.star {
            for (key, escaped, value) in row.members() {
                let is = |name: &str| json::same_name(key, escaped, name);
                if except.iter().any(|name| is(name)) || self.columns.iter().any(|c| is(&c.name)) {
                    continue;
                }
                comma(out);
                out.push(b'"');
                out.extend_from_slice(key);
                out.extend_from_slice(b"\":");
                out.extend_from_slice(value);
            }
        }
        for column in &self.columns {
            if column.is_path {
                // As it stands in the payload: no digit of a number is lost.
                match column
                    .value
                    .raw(row)
                    .filter(|raw| self.nil_fields || *raw != b"null")
                {
                    None if !self.nil_fields => {}
                    raw => {
                        comma(out);
                        out.extend_from_slice(&column.key);
                        out.extend_from_slice(raw.unwrap_or(b"null"));
                    }
                }
                continue;
            }
            let value = column.value.eval(row, context);
            if value.is_null() && !self.nil_fields {
                continue;
            }
            comma(out);
            out.extend_from_slice(&column.key);
            value.write_json(out);
        }
        out.push(b'}');
    }
}

/// All, or these.
fn some(places: Vec<u32>, count: u32) -> Passing {
    if places.len() == count as usize {
        Passing::All
    } else {
        Passing::Messages(places)
    }
}

#[derive(Default)]
struct Builder {
    text: Vec<u8>,
    ends: Vec<(u32, u32)>,
}

impl Builder {
    fn end(&mut self, index: u32) {
        self.ends
            .push((index, u32::try_from(self.text.len()).unwrap_or(u32::MAX)));
    }

    fn done(self) -> Built {
        Built {
            text: Bytes::from(self.text),
            ends: self.ends,
        }
    }
}

fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests;
