//! From messages to statements: rows of one table, kind and columns go together, and rows with the
//! same key keep their order.
//!
//! A row may join an earlier group only while no later group has a row with its key. An upsert
//! replaces one of its own group with the same key, because it changes the same columns, and
//! PostgreSQL takes a key only once in a statement.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use windlass_connector::sql::Value;
use windlass_connector::{Dialect, Error, Row, rows};

use crate::index::wrong;
use crate::row::value;
use crate::statement::{Kind, statement};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    table: Option<String>,
    #[serde(default)]
    fields: Vec<String>,
    row_kind_field: Option<String>,
    key_field: Option<Keys>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Keys {
    One(String),
    Many(Vec<String>),
}

/// How rows are written: the configuration, checked.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    dialect: Dialect,
    /// None: the message's subject, which the host rendered.
    table: Option<String>,
    /// The columns, keys among them. Empty: those of the row.
    fields: Vec<String>,
    keys: Vec<String>,
    kind_field: Option<String>,
}

impl Shape {
    /// # Errors
    /// `misconfigured`, with the property.
    pub(crate) fn new(config: Config, dialect: Dialect) -> Result<Self, Error> {
        if let Some(table) = &config.table {
            dialect
                .table(table)
                .map_err(|why| wrong(format!("table: {why}")))?;
        }
        let keys = match config.key_field {
            None => Vec::new(),
            Some(Keys::One(key)) => vec![key],
            Some(Keys::Many(keys)) => keys,
        };
        if config.row_kind_field.is_some() && keys.is_empty() {
            return Err(wrong(
                "keyField: rowKindField needs it: updates and deletes find their row by its key",
            ));
        }
        for (property, names) in [("keyField", &keys), ("fields", &config.fields)] {
            for (place, name) in names.iter().enumerate() {
                dialect
                    .name(name)
                    .map_err(|why| wrong(format!("{property}: {why}")))?;
                if names.iter().take(place).any(|before| before == name) {
                    return Err(wrong(format!("{property}: \"{name}\" is there twice")));
                }
            }
        }
        let mut fields = config.fields;
        if !fields.is_empty() {
            fields.extend(
                keys.iter()
                    .filter(|key| !fields.contains(key))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
        }
        Ok(Self {
            dialect,
            table: config.table,
            fields,
            keys,
            kind_field: config.row_kind_field,
        })
    }

    fn table_of<'a>(&'a self, subject: &'a str) -> Result<&'a str, String> {
        if let Some(table) = &self.table {
            return Ok(table);
        }
        // Made of a message: it may not reach into another schema.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if subject.is_empty() || !subject.bytes().all(is_plain) {
            return Err(format!(
                "the message's table is {subject:?}: a rendered name has only letters, digits and _"
            ));
        }
        Ok(subject)
    }

    fn write<'a>(&'a self, row: &Row<'a>, table: &'a str) -> Result<Write<'a>, String> {
        let kind = self.kind(row)?;
        let mut key = String::new();
        for name in &self.keys {
            let raw = row.get(name).map_or("null", |value| value.get());
            if raw == "null" && kind != Kind::Insert {
                return Err(format!(
                    "the key field \"{name}\" is missing or null, and nothing else says which row is meant"
                ));
            }
            key.push_str(raw);
            key.push('\0');
        }
        let mut columns: Vec<Cow<'a, str>> = if kind == Kind::Delete {
            Vec::new()
        } else if self.fields.is_empty() {
            row.fields
                .iter()
                .map(|(name, _)| name.clone())
                .filter(|name| self.kind_field.as_deref() != Some(name))
                .collect()
        } else {
            self.fields
                .iter()
                .map(|name| Cow::Borrowed(name.as_str()))
                .collect()
        };
        if !kind.is_insert() {
            columns.retain(|name| self.keys.iter().all(|key| key != name));
        }
        if self.fields.is_empty() {
            if let Some(name) = columns
                .iter()
                .find(|name| name.is_empty() || name.contains('\0'))
            {
                return Err(format!("{name:?} cannot be the name of a column"));
            }
            // The same fields in another order are the same statement.
            columns.sort_unstable();
        }
        if columns.is_empty() && kind != Kind::Delete {
            return Err("the row has no field to write".to_owned());
        }
        if !kind.is_insert() {
            columns.extend(self.keys.iter().map(|key| Cow::Borrowed(key.as_str())));
        }
        let mut values = Vec::with_capacity(columns.len());
        for name in &columns {
            values.push(match row.get(name) {
                None => Value::Null,
                Some(raw) => value(raw, self.dialect)
                    .ok_or_else(|| format!("the field \"{name}\" holds half a character"))?,
            });
        }
        Ok(Write {
            table,
            kind,
            columns,
            values,
            key,
        })
    }

    fn kind(&self, row: &Row<'_>) -> Result<Kind, String> {
        let Some(field) = &self.kind_field else {
            return Ok(if self.keys.is_empty() {
                Kind::Insert
            } else {
                Kind::Upsert
            });
        };
        let raw = row.get(field).map_or("null", |value| value.get());
        if raw == "null" {
            return Ok(Kind::Insert);
        }
        let name: Option<String> = serde_json::from_str(raw).ok();
        name.and_then(|name| Kind::named(&name)).ok_or_else(|| {
            format!("{raw} in the field \"{field}\" is not insert, update, upsert or delete")
        })
    }
}

/// One row, ready to be put into a statement.
#[derive(Debug)]
struct Write<'a> {
    table: &'a str,
    kind: Kind,
    columns: Vec<Cow<'a, str>>,
    values: Vec<Value>,
    /// The key's values. Empty: there is no key.
    key: String,
}

type Signature<'a> = (&'a str, Kind, Vec<Cow<'a, str>>);

#[derive(Debug)]
struct Group<'a> {
    signature: Signature<'a>,
    rows: Vec<Vec<Value>>,
    /// The messages that it has rows of.
    messages: Vec<u32>,
}

/// The rows of a batch, group by group.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    shape: &'a Shape,
    groups: Vec<Group<'a>>,
    newest: HashMap<Signature<'a>, usize>,
    /// Where the newest row of a key stands: group and row.
    keys: HashMap<String, (usize, usize)>,
}

/// One transaction.
#[derive(Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) statement: String,
    pub(crate) params: Vec<Vec<Value>>,
    /// The messages that it has rows of.
    pub(crate) messages: Vec<u32>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(shape: &'a Shape) -> Self {
        Self {
            shape,
            groups: Vec::new(),
            newest: HashMap::new(),
            keys: HashMap::new(),
        }
    }

    /// Adds a message, whole or not at all.
    ///
    /// # Errors
    /// A sentence: it can never be written.
    pub(crate) fn add(
        &mut self,
        message: u32,
        payload: &'a [u8],
        subject: &'a str,
    ) -> Result<(), String> {
        let shape = self.shape;
        let table = shape.table_of(subject)?;
        let rows = rows(payload)?;
        let writes: Result<Vec<Write<'a>>, String> =
            rows.iter().map(|row| shape.write(row, table)).collect();
        for write in writes? {
            self.put(message, write);
        }
        Ok(())
    }

    fn put(&mut self, message: u32, write: Write<'a>) {
        let Write {
            table,
            kind,
            columns,
            values,
            key,
        } = write;
        let before = if key.is_empty() {
            None
        } else {
            self.keys.get(&key).copied()
        };
        let floor = before.map_or(0, |(group, _)| group);
        let last = self.groups.len().saturating_sub(1);
        let fits_last = self.groups.last().is_some_and(|group| {
            let (t, k, c) = &group.signature;
            *t == table && *k == kind && *c == columns
        });
        let signature = (table, kind, columns);
        let known = if fits_last {
            Some(last)
        } else {
            self.newest.get(&signature).copied()
        };
        let place = match known.filter(|place| *place >= floor) {
            Some(place) => place,
            None => {
                self.newest.insert(signature.clone(), self.groups.len());
                self.groups.push(Group {
                    signature,
                    rows: Vec::new(),
                    messages: Vec::new(),
                });
                self.groups.len() - 1
            }
        };
        let Some(group) = self.groups.get_mut(place) else {
            return;
        };
        let mut row = group.rows.len();
        let same = before.filter(|(group, _)| *group == place && kind == Kind::Upsert);
        match same.and_then(|(_, row)| group.rows.get_mut(row).map(|kept| (row, kept))) {
            Some((place, kept)) => {
                *kept = values;
                row = place;
            }
            None => group.rows.push(values),
        }
        group.messages.push(message);
        if !key.is_empty() {
            self.keys.insert(key, (place, row));
        }
    }

    /// The transactions, in order.
    ///
    /// # Errors
    /// A sentence: a name that cannot be one.
    pub(crate) fn steps(self) -> Result<Vec<Step>, String> {
        let Shape { dialect, keys, .. } = self.shape;
        let step = |group: Group<'a>| {
            let (table, kind, columns) = group.signature;
            let columns: Vec<String> = columns.into_iter().map(Cow::into_owned).collect();
            Ok(Step {
                statement: statement(*dialect, kind, table, &columns, keys)?,
                params: group.rows,
                messages: group.messages,
            })
        };
        self.groups.into_iter().map(step).collect()
    }
}

/// The messages of these steps, in order: none of them is wholly written when the first one failed.
pub(crate) fn messages_of(steps: &[Step]) -> Vec<u32> {
    let mut messages: Vec<u32> = steps
        .iter()
        .flat_map(|step| &step.messages)
        .copied()
        .collect();
    messages.sort_unstable();
    messages.dedup();
    messages
}

#[cfg(test)]
mod tests;
