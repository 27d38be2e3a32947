//! The way back: a bundle as eKuiper's REST exports it, section by section in its order. What may not
//! be shown is masked by the caller, in the bundle, before.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::super::yaml_text::to_yaml;
use super::sql::stream_option;
use super::{Bundle, ConfItem, ConfKind, RuleItem, Section, StreamItem};

/// What a property must be called to name a connection; the second is a misspelling in circulation.
const SELECTORS: [&str; 2] = ["connectionSelector", "connentionSelector"];

impl Bundle {
    /// As `POST /ruleset/export` answers: `{"streams","tables","rules"}`, names to texts.
    #[must_use]
    pub fn to_ruleset(&self) -> Value {
        let mut ruleset = Map::new();
        ruleset.insert(Section::Streams.key().to_owned(), statements(&self.streams));
        ruleset.insert(Section::Tables.key().to_owned(), statements(&self.tables));
        ruleset.insert(Section::Rules.key().to_owned(), rules(&self.rules));
        Value::Object(ruleset)
    }

    /// As `GET /data/export` answers: twelve sections, each a map of texts. Conf keys and connections
    /// stand under their type as one text with a JSON object from name to properties.
    #[must_use]
    pub fn to_data(&self) -> Value {
        let mut data = Map::new();
        for section in Section::ALL {
            let value = match section {
                Section::Streams => statements(&self.streams),
                Section::Tables => statements(&self.tables),
                Section::Rules => rules(&self.rules),
                Section::SourceConfig | Section::SinkConfig | Section::ConnectionConfig => {
                    Value::Object(self.config_texts(section))
                }
                _ => Value::Object(Map::new()),
            };
            data.insert(section.key().to_owned(), value);
        }
        Value::Object(data)
    }

    /// As `GET /v2/data/export` answers: YAML, with objects where the JSON form has texts. Sections
    /// with nothing in them are left out, but for `streams` and `rules`.
    #[must_use]
    pub fn to_data_yaml(&self) -> String {
        let mut data = Map::new();
        for (section, kind) in [
            (Section::SourceConfig, "sources"),
            (Section::SinkConfig, "sinks"),
            (Section::ConnectionConfig, "connections"),
        ] {
            let items: Map<String, Value> = self
                .config(section)
                .map(|(typ, key, props)| {
                    (format!("{kind}.{typ}.{key}"), Value::Object(props.clone()))
                })
                .collect();
            if !items.is_empty() {
                data.insert(section.key().to_owned(), Value::Object(items));
            }
        }
        let objects = |items: &[StreamItem]| {
            let items = items.iter();
            let sql = |item: &StreamItem| {
                Map::from_iter([("sql".to_owned(), Value::from(item.sql.as_str()))])
            };
            items
                .map(|item| (item.name.clone(), Value::Object(sql(item))))
                .collect::<Map<_, _>>()
        };
        data.insert("streams".to_owned(), Value::Object(objects(&self.streams)));
        if !self.tables.is_empty() {
            data.insert("tables".to_owned(), Value::Object(objects(&self.tables)));
        }
        let rules = self.rules.iter();
        let rules = rules.map(|rule| (rule.id.clone(), Value::Object(rule.body.clone())));
        data.insert("rules".to_owned(), Value::Object(rules.collect()));
        to_yaml(&Value::Object(data))
    }

    /// Type, name and properties of a section of properties.
    fn config(&self, section: Section) -> impl Iterator<Item = (&str, &str, &Map<String, Value>)> {
        let kind = match section {
            Section::SourceConfig => Some(ConfKind::Source),
            Section::SinkConfig => Some(ConfKind::Sink),
            _ => None,
        };
        let keys = self
            .conf_keys
            .iter()
            .filter(move |item| kind == Some(item.kind));
        let keys = keys.map(|item| (item.typ.as_str(), item.key.as_str(), &item.props));
        let connections = match section {
            Section::ConnectionConfig => self.connections.as_slice(),
            _ => &[],
        };
        let connections = connections
            .iter()
            .map(|item| (item.typ.as_str(), item.id.as_str(), &item.props));
        keys.chain(connections)
    }

    fn config_texts(&self, section: Section) -> Map<String, Value> {
        let mut types: Map<String, Value> = Map::new();
        for (typ, key, props) in self.config(section) {
            let of_type = types
                .entry(typ.to_owned())
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(of_type) = of_type {
                of_type.insert(key.to_owned(), Value::Object(props.clone()));
            }
        }
        types
            .into_iter()
            .map(|(typ, keys)| (typ, keys.to_string().into()))
            .collect()
    }

    /// These rules and what they need: their streams and tables, the conf keys of these, and the
    /// connections that any of them selects. Ids that there are no rules of come back.
    #[must_use]
    pub fn of_rules(&self, ids: &[String]) -> (Self, Vec<String>) {
        let missing = ids
            .iter()
            .filter(|id| self.rules.iter().all(|rule| rule.id != **id))
            .cloned()
            .collect();
        let rules: Vec<RuleItem> = self
            .rules
            .iter()
            .filter(|rule| ids.contains(&rule.id))
            .cloned()
            .collect();
        let named_in_rules = |item: &&StreamItem| {
            rules.iter().any(|rule| {
                let sql = rule.body.get("sql").and_then(Value::as_str);
                sql.is_some_and(|sql| words(sql).any(|word| word == item.name))
            })
        };
        let streams: Vec<_> = self
            .streams
            .iter()
            .filter(named_in_rules)
            .cloned()
            .collect();
        let tables: Vec<_> = self.tables.iter().filter(named_in_rules).cloned().collect();
        let mut selected = BTreeSet::new();
        let conf_keys: Vec<ConfItem> = self
            .conf_keys
            .iter()
            .filter(|item| item.kind == ConfKind::Source)
            .filter(|item| {
                streams
                    .iter()
                    .chain(&tables)
                    .any(|stream| uses(stream, item))
            })
            .cloned()
            .collect();
        for item in &conf_keys {
            select(&Value::Object(item.props.clone()), &mut selected);
        }
        for rule in &rules {
            select(&Value::Object(rule.body.clone()), &mut selected);
        }
        for stream in streams.iter().chain(&tables) {
            let extra = stream_option(&stream.sql, "EXTRA");
            let extra = extra.and_then(|extra| serde_json::from_str(&extra).ok());
            select(&extra.unwrap_or_default(), &mut selected);
        }
        let connections = self
            .connections
            .iter()
            .filter(|item| selected.contains(&item.id))
            .cloned()
            .collect();
        let part = Self {
            connections,
            conf_keys,
            streams,
            tables,
            rules,
            ..Self::default()
        };
        (part, missing)
    }
}

/// The stream takes its properties from this conf key: its own, or the `default` of its type.
pub(super) fn uses(stream: &StreamItem, item: &ConfItem) -> bool {
    let typ = stream_option(&stream.sql, "TYPE").unwrap_or_else(|| "mqtt".to_owned());
    if !typ.eq_ignore_ascii_case(&item.typ) {
        return false;
    }
    item.key == "default"
        || stream_option(&stream.sql, "CONF_KEY")
            .is_some_and(|key| key.eq_ignore_ascii_case(&item.key))
}

/// Adds the ids of connections that are named anywhere in this value.
fn select(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::String(id) if SELECTORS.contains(&name.as_str()) => {
                        found.insert(id.clone());
                    }
                    Value::Object(slots) if name == "connections" => {
                        found.extend(slots.values().filter_map(Value::as_str).map(str::to_owned));
                    }
                    other => select(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| select(item, found)),
        _ => {}
    }
}

fn words(sql: &str) -> impl Iterator<Item = &str> {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
}

fn statements(items: &[StreamItem]) -> Value {
    let items = items.iter();
    Value::Object(
        items
            .map(|item| (item.name.clone(), item.sql.as_str().into()))
            .collect(),
    )
}

fn rules(items: &[RuleItem]) -> Value {
    let items = items.iter();
    Value::Object(
        items
            .map(|item| (item.id.clone(), item.text.as_str().into()))
            .collect(),
    )
}
