//! A bundle as a manifest of this host, and which of its items stands where in it.

use serde_json::{Map, Value, json};

use super::super::yaml_text::to_yaml;
use super::write::uses;
use super::{Bundle, ConfKind, Section};
use crate::config::pointer_to;

/// A manifest and where its items are.
#[derive(Clone, Debug, Default)]
pub struct ManifestText {
    /// YAML. May hold secrets.
    pub text: String,
    /// Every item that stands in it.
    pub items: Vec<ManifestItem>,
}

/// One item of a manifest that was made of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestItem {
    /// Where it stands: what is said of this JSON Pointer, or of one below it, is said of this item.
    pub pointer: String,
    /// Where it came from.
    pub section: Section,
    /// Its id, as in [`super::Note::id`].
    pub id: String,
}

impl ManifestText {
    /// The item that a pointer leads into.
    #[must_use]
    pub fn item(&self, pointer: &str) -> Option<&ManifestItem> {
        self.items.iter().find(|item| {
            pointer
                .strip_prefix(&item.pointer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

impl Bundle {
    /// Connections, conf keys of sources, streams and rules, but for those that `leave_out` names by
    /// section and id. Tables and conf keys of sinks have no place in a manifest. `default` of a type
    /// that no stream has, which eKuiper's folder brings along for every type, stays out.
    #[must_use]
    pub fn to_manifest(&self, leave_out: &dyn Fn(Section, &str) -> bool) -> ManifestText {
        let mut items = Vec::new();
        let mut enter = |section: Section, id: &str, pointer: String| {
            let id = id.to_owned();
            items.push(ManifestItem {
                pointer,
                section,
                id,
            });
        };
        let mut manifest = Map::new();

        let mut connections = Vec::new();
        for item in &self.connections {
            let id = format!("{}/{}", item.typ, item.id);
            if leave_out(Section::ConnectionConfig, &id) {
                continue;
            }
            enter(
                Section::ConnectionConfig,
                &id,
                format!("/connections/{}", connections.len()),
            );
            connections.push(json!({"id": item.id, "typ": item.typ, "props": item.props}));
        }

        let mut conf_keys = Map::new();
        for item in self
            .conf_keys
            .iter()
            .filter(|item| item.kind == ConfKind::Source)
        {
            let id = format!("{}/{}", item.typ, item.key);
            let unused =
                item.key == "default" && !self.streams.iter().any(|stream| uses(stream, item));
            if unused || leave_out(Section::SourceConfig, &id) {
                continue;
            }
            let pointer = pointer_to(&pointer_to("/confKeys", &item.typ), &item.key);
            enter(Section::SourceConfig, &id, pointer);
            let of_type = conf_keys
                .entry(item.typ.clone())
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(of_type) = of_type {
                of_type.insert(item.key.clone(), Value::Object(item.props.clone()));
            }
        }

        let mut streams = Vec::new();
        for item in &self.streams {
            if !leave_out(Section::Streams, &item.name) {
                enter(
                    Section::Streams,
                    &item.name,
                    format!("/streams/{}", streams.len()),
                );
                streams.push(json!({"sql": item.sql}));
            }
        }

        let mut rules = Vec::new();
        for item in &self.rules {
            if !leave_out(Section::Rules, &item.id) {
                enter(Section::Rules, &item.id, format!("/rules/{}", rules.len()));
                rules.push(Value::Object(rule(&item.id, &item.body)));
            }
        }

        for (name, value) in [
            ("connections", Value::Array(connections)),
            ("confKeys", Value::Object(conf_keys)),
            ("streams", Value::Array(streams)),
            ("rules", Value::Array(rules)),
        ] {
            let empty = match &value {
                Value::Array(items) => items.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if !empty {
                manifest.insert(name.to_owned(), escaped(value));
            }
        }
        ManifestText {
            text: to_yaml(&Value::Object(manifest)),
            items,
        }
    }
}

/// The rule with its id first, and `jitterFactor` under the one of its two names that is read here.
fn rule(id: &str, body: &Map<String, Value>) -> Map<String, Value> {
    let mut rule = Map::new();
    rule.insert("id".to_owned(), id.into());
    rule.extend(
        body.iter()
            .filter(|(name, _)| *name != "id")
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    let strategy = rule
        .get_mut("options")
        .and_then(|options| options.get_mut("restartStrategy"))
        .and_then(Value::as_object_mut);
    if let Some(strategy) = strategy
        && let Some(jitter) = strategy.shift_remove("jitter")
    {
        strategy.entry("jitterFactor").or_insert(jitter);
    }
    rule
}

/// A manifest has variables and eKuiper's texts have none: `${` stays what it is.
fn escaped(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace("${", "$${")),
        Value::Array(items) => items.into_iter().map(escaped).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(name, value)| (name, escaped(value)))
            .collect(),
        other => other,
    }
}
