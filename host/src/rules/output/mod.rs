//! What an action sends: the steps between the query and the sink, the same for every connector.
//!
//! In this order: `dataTemplate`, `dataField`, `fields` or `excludeFields`, `omitIfEmpty`, `format`,
//! `compression`; `sendSingle` says whether a row goes out as `{...}` or as `[{...}]`. Bytes pass
//! untouched where the query took whole messages and no step changes them. `Batcher` puts several
//! rows into one payload. Pure: knows nothing of sinks, queues, wasm or the store.

mod batcher;
mod encode;
mod properties;
mod rendered;
pub mod schema;
pub mod template;

use std::borrow::Cow;
use std::ops::Deref;

use bytes::Bytes;

pub use self::batcher::{Batched, Batcher};
pub use self::encode::{Compression, OutputFormat};
pub(in crate::rules) use self::encode::{METHODS, Method};
pub use self::properties::{Planned, dynamic_properties, is_dynamic};
pub use self::rendered::{Addressed, Place, Rendered};
pub use self::template::{DynamicProperty, RenderError, Template, TemplateError};

use crate::message::{Batch, Message};
use crate::rules::query::{Failure, Format, Passing, RowBatch, Selection, json};

/// The steps of one action.
#[derive(Clone, Debug, Default)]
pub struct OutputPlan {
    send_single: bool,
    fields: Vec<String>,
    exclude_fields: Vec<String>,
    data_template: Option<Template>,
    data_field: Option<String>,
    omit_if_empty: bool,
    format: OutputFormat,
    compression: Option<Compression>,
    batching: Option<batcher::Bounds>,
    dynamic: Vec<Addressed>,
    key: Option<DynamicProperty>,
}

/// What came of a batch.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// The messages to be sent. The very batch that came in, where all of it passes untouched.
    pub batch: Batch,
    /// For each message the place in the incoming batch that it came from, ascending; a place may
    /// stand several times. None: message by message the same places.
    pub sources: Option<Vec<u32>>,
    /// For each message the dynamic properties, in the order in which they were given to
    /// [`OutputPlan::with_dynamic`]; empty if there are none.
    pub rendered: Vec<Vec<String>>,
    /// For each message what [`OutputPlan::with_key`] asks for; None where a field of it is missing.
    /// Empty if nothing is asked for.
    pub keys: Vec<Option<String>>,
    /// Incoming messages that cannot be sent, by place: dead letters. Those that the selection names
    /// already are not here.
    pub failures: Vec<Failure>,
}

impl OutputPlan {
    /// Properties to be rendered for each message; see [`dynamic_properties`].
    #[must_use]
    pub fn with_dynamic(mut self, dynamic: Vec<Addressed>) -> Self {
        self.dynamic = dynamic;
        self
    }

    /// What makes two rows the same, to be rendered for each message.
    #[must_use]
    pub fn with_key(mut self, key: Option<DynamicProperty>) -> Self {
        self.key = key;
        self
    }

    /// The message with what was rendered for it.
    #[must_use]
    pub fn address(&self, message: Message, rendered: Vec<String>) -> Message {
        let pairs = self.dynamic.iter().zip(rendered);
        pairs.fold(message, |message, (property, text)| {
            property.put(message, text)
        })
    }

    /// Whether several rows go into one payload, so that [`OutputPlan::batcher`] is to be used instead
    /// of [`OutputPlan::apply`].
    #[must_use]
    pub fn is_batching(&self) -> bool {
        self.batching.is_some()
    }

    /// Whether whole messages of that format pass as they are.
    #[must_use]
    pub fn is_untouched(&self, format: &Format) -> bool {
        let no_step = self.fields.is_empty()
            && self.exclude_fields.is_empty()
            && self.data_template.is_none()
            && self.data_field.is_none()
            && !self.omit_if_empty
            && self.compression.is_none()
            && self.batching.is_none();
        no_step
            && match (&self.format, format) {
                (OutputFormat::Json, Format::Json) => self.send_single,
                // There is no list of binary payloads.
                (OutputFormat::Binary, Format::Binary) => true,
                (
                    OutputFormat::Delimited {
                        delimiter,
                        header: false,
                    },
                    Format::Delimited(how),
                ) => self.send_single && *delimiter == how.delimiter,
                _ => false,
            }
    }

    /// Makes the messages of an action that does not batch: one for each row.
    #[must_use]
    pub fn apply(&self, rows: &RowBatch, selection: &Selection) -> Output {
        let split = selection.looked_inside && rows.has_lists();
        let looks_inside = !self.dynamic.is_empty() || self.key.is_some();
        if self.is_untouched(rows.format()) && !looks_inside && !split {
            match &selection.passing {
                Passing::All => {
                    return Output {
                        batch: rows.batch().clone(),
                        ..Output::default()
                    };
                }
                Passing::Messages(places) => {
                    return Output {
                        batch: rows.batch().select(places).unwrap_or_default(),
                        sources: Some(places.clone()),
                        ..Output::default()
                    };
                }
                Passing::Rows(_) => {}
            }
        }
        let mut made = Made::default();
        let whole = self.is_untouched(rows.format());
        let failures = each_row(rows, selection, |message, index, row| {
            let rendered = self.render_dynamic(&row)?;
            let key = self.key.as_ref().map(|key| key.render_json(&row).ok());
            let payloads = match row {
                // A message with one row that no step changes goes out as it came in.
                Row::Incoming(_) if whole && !is_list(rows.format(), message) => {
                    vec![message.payload.clone()]
                }
                Row::Built(text) if self.is_plain() => vec![text],
                row => self.shape(&[&*row])?,
            };
            for payload in payloads {
                made.messages.push(Message {
                    payload,
                    ..message.clone()
                });
                made.sources.push(index);
                if !self.dynamic.is_empty() {
                    made.rendered.push(rendered.clone());
                }
                made.keys.extend(key.clone());
            }
            Ok(())
        });
        made.forget(&failures);
        Output {
            batch: Batch::from(made.messages),
            sources: Some(made.sources),
            rendered: made.rendered,
            keys: made.keys,
            failures,
        }
    }

    /// JSON rows go out one by one as they are.
    fn is_plain(&self) -> bool {
        self.format == OutputFormat::Json && self.is_untouched(&Format::Json)
    }

    fn render_dynamic(&self, row: &[u8]) -> Result<Vec<String>, String> {
        let render = |property: &Addressed| property.render_json(row);
        self.dynamic
            .iter()
            .map(render)
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())
    }

    /// All steps over rows that go out together: the payloads, none if nothing is left.
    fn shape(&self, rows: &[&[u8]]) -> Result<Vec<Bytes>, String> {
        let mut shaped: Vec<Cow<'_, [u8]>> = Vec::with_capacity(rows.len());
        // What comes out of `dataTemplate` or `dataField` as an object goes out without a list.
        let mut single = self.send_single;
        match &self.data_template {
            None => shaped.extend(rows.iter().map(|row| Cow::Borrowed(*row))),
            Some(template) => {
                let text = self.fill(template, rows)?;
                if self.is_last_step() {
                    return Ok(vec![self.compress(text)?]);
                }
                let value: serde_json::Value = serde_json::from_slice(&text).map_err(
                    |_| "what dataTemplate made is not JSON, which the steps after it need",
                )?;
                single |= value.is_object();
                shaped.extend(
                    objects(&text, "what dataTemplate made")?
                        .into_iter()
                        .map(Cow::Owned),
                );
            }
        }
        if let Some(name) = &self.data_field {
            let mut picked = Vec::with_capacity(shaped.len());
            for row in &shaped {
                let raw = json::find(row, name).unwrap_or(b"null");
                single |= rows.len() == 1 && raw.starts_with(b"{");
                picked.extend(
                    objects(raw, &format!("dataField \"{name}\""))?
                        .into_iter()
                        .map(Cow::Owned),
                );
            }
            shaped = picked;
        }
        if !self.fields.is_empty() || !self.exclude_fields.is_empty() {
            for row in &mut shaped {
                *row = Cow::Owned(self.choose(row));
            }
        }
        if self.omit_if_empty {
            shaped.retain(|row| json::members(row).next().is_some());
            if shaped.is_empty() {
                return Ok(Vec::new());
            }
        }
        let alone = matches!(self.format, OutputFormat::Binary | OutputFormat::Urlencoded);
        if alone || (single && self.batching.is_none()) {
            let each = shaped
                .chunks(1)
                .map(|row| self.compress(self.format.encode(row, &self.fields, true)?));
            return each.collect();
        }
        Ok(vec![self.compress(self.format.encode(
            &shaped,
            &self.fields,
            false,
        )?)?])
    }

    /// `dataTemplate` sees a row with `sendSingle`, else the list of rows.
    fn fill(&self, template: &Template, rows: &[&[u8]]) -> Result<Vec<u8>, String> {
        let values = rows.iter().map(|row| serde_json::from_slice(row));
        let mut values: Vec<serde_json::Value> = values
            .collect::<Result<_, _>>()
            .map_err(|_| "the row cannot be decoded")?;
        let value = match (self.send_single && values.len() == 1, values.pop()) {
            (true, Some(value)) => value,
            (_, last) => {
                values.extend(last);
                serde_json::Value::Array(values)
            }
        };
        let text = template
            .render(&value)
            .map_err(|error| format!("dataTemplate: {error}"))?;
        Ok(text.into_bytes())
    }

    /// Whether a template's text goes out as it is.
    fn is_last_step(&self) -> bool {
        self.fields.is_empty()
            && self.exclude_fields.is_empty()
            && self.data_field.is_none()
            && !matches!(
                self.format,
                OutputFormat::Delimited { .. } | OutputFormat::Urlencoded
            )
    }

    fn choose(&self, row: &[u8]) -> Vec<u8> {
        let mut out = vec![b'{'];
        let mut member = |name: &[u8], value: &[u8]| {
            if out.len() > 1 {
                out.push(b',');
            }
            out.extend_from_slice(name);
            out.push(b':');
            out.extend_from_slice(value);
        };
        for name in &self.fields {
            if let Some(value) = json::find(row, name) {
                let mut written = Vec::new();
                json::write_string(&mut written, name);
                member(&written, value);
            }
        }
        if self.fields.is_empty() {
            for (name, escaped, value) in json::members(row) {
                if !self
                    .exclude_fields
                    .iter()
                    .any(|other| json::same_name(name, escaped, other))
                {
                    member(&[b"\"", name, b"\""].concat(), value);
                }
            }
        }
        out.push(b'}');
        out
    }

    fn compress(&self, payload: Vec<u8>) -> Result<Bytes, String> {
        match self.compression {
            None => Ok(Bytes::from(payload)),
            Some(compression) => match compression.apply(&payload) {
                Ok(packed) => Ok(Bytes::from(packed)),
                Err(error) => Err(format!("the payload cannot be compressed: {error}")),
            },
        }
    }
}

/// An object alone, or those of a list.
fn objects(text: &[u8], what: &str) -> Result<Vec<Vec<u8>>, String> {
    let (mut objects, mut entries) = (Vec::new(), Vec::new());
    match json::parse(text, &mut objects, &mut entries) {
        Ok(_) => Ok(objects
            .iter()
            .map(|object| object.span.of(text).to_vec())
            .collect()),
        Err(_) => Err(format!("{what} is neither an object nor a list of objects")),
    }
}

/// A row on its way out.
enum Row<'a> {
    /// As it came in.
    Incoming(&'a [u8]),
    /// As the query made it.
    Built(Bytes),
}

impl Deref for Row<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Incoming(text) => text,
            Self::Built(text) => text,
        }
    }
}

impl Row<'_> {
    /// Shares the payload where the row is all of it.
    fn keep(self, message: &Message) -> Bytes {
        match self {
            Self::Built(text) => text,
            Self::Incoming(text) if text == message.payload => message.payload.clone(),
            Self::Incoming(text) => Bytes::copy_from_slice(text),
        }
    }
}

#[derive(Default)]
struct Made {
    messages: Vec<Message>,
    sources: Vec<u32>,
    rendered: Vec<Vec<String>>,
    keys: Vec<Option<String>>,
}

impl Made {
    /// Of a message that failed nothing is sent: its dead letter holds all of its rows.
    fn forget(&mut self, failures: &[Failure]) {
        if failures.is_empty() {
            return;
        }
        let failed = |index: &u32| {
            failures
                .binary_search_by_key(index, |failure| failure.index)
                .is_ok()
        };
        let keep: Vec<bool> = self.sources.iter().map(|index| !failed(index)).collect();
        let mut each = keep.iter();
        self.messages.retain(|_| each.next() == Some(&true));
        let mut each = keep.iter();
        self.rendered.retain(|_| each.next() == Some(&true));
        let mut each = keep.iter();
        self.keys.retain(|_| each.next() == Some(&true));
        self.sources.retain(|index| !failed(index));
    }
}

fn is_list(format: &Format, message: &Message) -> bool {
    *format == Format::Json
        && message
            .payload
            .iter()
            .find(|byte| !byte.is_ascii_whitespace())
            == Some(&b'[')
}

/// Calls `take` for each row that passed, with its message and that message's place, until it fails for
/// one of the message: then the rest of that message is left out. Gives back what failed, and what
/// nobody had looked into before and cannot be decoded.
fn each_row(
    rows: &RowBatch,
    selection: &Selection,
    mut take: impl FnMut(&Message, u32, Row<'_>) -> Result<(), String>,
) -> Vec<Failure> {
    let mut failures: Vec<Failure> = Vec::new();
    let mut row = |index: u32, row: Row<'_>| {
        let Some(message) = rows.batch().get(index as usize) else {
            return;
        };
        if failures.last().is_some_and(|last| last.index == index) {
            return;
        }
        if let Err(reason) = take(message, index, row) {
            failures.push(Failure { index, reason });
        }
    };
    let count = u32::try_from(rows.batch().len()).unwrap_or(u32::MAX);
    match &selection.passing {
        Passing::All => {
            let incoming = (0..count).flat_map(|index| rows.rows(index));
            incoming.for_each(|incoming| row(incoming.index(), Row::Incoming(incoming.object())));
        }
        Passing::Messages(places) => {
            let incoming = places.iter().flat_map(|&index| rows.rows(index));
            incoming.for_each(|incoming| row(incoming.index(), Row::Incoming(incoming.object())));
        }
        Passing::Rows(built) => {
            built
                .rows()
                .for_each(|(index, text)| row(index, Row::Built(text)));
            return failures;
        }
    }
    let known = |failure: &&Failure| {
        selection
            .failures
            .iter()
            .all(|known| known.index != failure.index)
            && match &selection.passing {
                Passing::Messages(places) => places.binary_search(&failure.index).is_ok(),
                _ => true,
            }
    };
    failures.extend(rows.failures().iter().filter(known).cloned());
    failures.sort_by_key(|failure| failure.index);
    failures
}

#[cfg(test)]
mod tests;
