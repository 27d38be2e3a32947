//! A manifest's tree: the values of JSON, each with its place in the file.

use std::sync::Arc;

use serde_json::{Map, Number, Value};

use super::place::{Places, Pos, Text, pointer_to};

/// A node and where its value begins.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Pos,
    pub(super) kind: Kind,
    /// How places inside it map to the file.
    pub(super) text: Text,
    /// How many nodes it is, itself among them.
    pub(super) count: usize,
}

/// What a node is: the shapes of JSON.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping, with its place.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Pos,
    pub(super) node: Node,
}

impl Node {
    /// A JSON value that came without a file: no place in it is known.
    pub(super) fn of(value: &Value) -> Self {
        const NOWHERE: Pos = Pos { line: 0, column: 0 };
        let kind = match value {
            Value::Null => Kind::Null,
            Value::Bool(value) => Kind::Bool(*value),
            Value::Number(value) => Kind::Number(value.clone()),
            Value::String(value) => Kind::Text(value.clone()),
            Value::Array(values) => Kind::List(values.iter().map(Self::of).collect()),
            Value::Object(object) => {
                let entry = |(key, value): (&String, &Value)| Entry {
                    key: key.clone(),
                    at: NOWHERE,
                    node: Self::of(value),
                };
                Kind::Map(object.iter().map(entry).collect())
            }
        };
        let below = match &kind {
            Kind::List(nodes) => nodes.iter().map(|node| node.count).sum(),
            Kind::Map(entries) => entries.iter().map(|entry| entry.node.count).sum(),
            _ => 0,
        };
        Self {
            at: NOWHERE,
            kind,
            text: Text::Opaque,
            count: 1 + below,
        }
    }

    /// What it is, for a sentence. Never its value.
    pub(super) fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Number(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    pub(super) fn to_value(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Number(value) => Value::Number(value.clone()),
            Kind::Text(value) => Value::String(value.clone()),
            Kind::List(nodes) => Value::Array(nodes.iter().map(Self::to_value).collect()),
            Kind::Map(entries) => Value::Object(to_object(entries)),
        }
    }

    /// Enters this node and all below it, so that pointers from `pointer` on lead to their places.
    pub(super) fn place_in(
        &self,
        places: &mut Places,
        file: &Arc<str>,
        key: Option<Pos>,
        pointer: &str,
    ) {
        places.add(pointer, file, key, self.at, self.text);
        match &self.kind {
            Kind::List(nodes) => {
                for (index, node) in nodes.iter().enumerate() {
                    node.place_in(places, file, None, &format!("{pointer}/{index}"));
                }
            }
            Kind::Map(entries) => {
                for entry in entries {
                    let below = pointer_to(pointer, &entry.key);
                    entry.node.place_in(places, file, Some(entry.at), &below);
                }
            }
            Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::Text(_) => {}
        }
    }
}

/// The entries as JSON, in their order.
pub(super) fn to_object(entries: &[Entry]) -> Map<String, Value> {
    entries
        .iter()
        .map(|entry| (entry.key.clone(), entry.node.to_value()))
        .collect()
}
