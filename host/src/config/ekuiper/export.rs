//! What eKuiper's REST exports, and `init.json`: a ruleset (`streams`, `tables`, `rules`), all data,
//! as JSON or as YAML. One reader for all of them: where one form has a text with JSON in it, the
//! other has the object itself, and both are taken in both.

use serde_json::{Map, Value};

use super::super::document::Document;
use super::super::place::{ManifestError, Place};
use super::spelling::UNREAD;
use super::sql::statement_of;
use super::{
    Bundle, ConfItem, ConfKind, ConnectionItem, RuleItem, Section, StreamItem, mistake, what,
};
use crate::names::{nearest, validate_id};

/// Reads an export. `name` is what the text is called in messages.
///
/// An item that cannot be taken stands in [`Bundle::left`], and the others are taken.
///
/// # Errors
/// It is neither JSON nor YAML (with line and column), or no export.
pub fn read_export(name: &str, text: &str) -> Result<Bundle, Vec<ManifestError>> {
    let value = if text.trim_start().starts_with(['{', '[']) {
        serde_json::from_str(text).map_err(|error| not_json(name, &error))?
    } else {
        Document::verbatim(name, text)?.value
    };
    let Value::Object(sections) = value else {
        let found = what(&value);
        return Err(mistake(
            name,
            format!("an export of eKuiper is a mapping of sections, found {found}"),
        ));
    };
    let mut bundle = Bundle::default();
    let mut known = 0;
    for (key, value) in sections {
        let Some(section) = Section::ALL
            .into_iter()
            .find(|section| section.key().eq_ignore_ascii_case(&key))
        else {
            let hint = nearest(&key, Section::ALL.map(Section::key))
                .map(|meant| format!("; did you mean \"{meant}\"?"))
                .unwrap_or_default();
            bundle.leave(
                Section::Settings,
                key.as_str(),
                format!("eKuiper's exports have no section \"{key}\"{hint}"),
            );
            continue;
        };
        known += 1;
        match value {
            Value::Null => {}
            Value::Object(items) => bundle.take(section, items),
            other => {
                return Err(mistake(
                    name,
                    format!("\"{key}\" must be a mapping, found {}", what(&other)),
                ));
            }
        }
    }
    if known == 0 {
        let keys: Vec<_> = Section::ALL.into_iter().map(Section::key).collect();
        return Err(mistake(
            name,
            format!(
                "this is no export of eKuiper: it has none of {}",
                keys.join(", ")
            ),
        ));
    }
    Ok(bundle)
}

fn not_json(name: &str, error: &serde_json::Error) -> Vec<ManifestError> {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let place = Place {
        file: name.into(),
        line: number(error.line()),
        column: number(error.column()),
    };
    // The library's sentence ends with the place, which is said already.
    let text = error.to_string();
    let sentence = text.split(" at line ").next().unwrap_or_default();
    vec![ManifestError::new(
        place,
        "",
        format!("this is not JSON: {sentence}"),
    )]
}

impl Bundle {
    fn take(&mut self, section: Section, items: Map<String, Value>) {
        for (id, value) in items {
            match section {
                Section::Streams | Section::Tables => self.take_stream(section, id, value),
                Section::Rules => self.take_rule(id, value),
                Section::SourceConfig | Section::SinkConfig | Section::ConnectionConfig => {
                    self.take_config(section, id, value);
                }
                _ => self.leave(section, id, foreign(section)),
            }
        }
    }

    /// The statement, or `{sql: …}`.
    fn take_stream(&mut self, section: Section, name: String, value: Value) {
        let sql = match &value {
            Value::String(sql) => Ok(sql.clone()),
            Value::Object(fields) => match fields.get("sql") {
                Some(Value::String(sql)) => Ok(sql.clone()),
                _ => Err("\"sql\" is missing: its CREATE statement".to_owned()),
            },
            other => Err(format!(
                "its CREATE statement must be text, found {}",
                what(other)
            )),
        };
        let sql = match sql {
            Ok(sql) => sql,
            Err(why) => return self.leave(section, name, why),
        };
        if let Some((_, other)) = statement_of(&sql).filter(|(_, other)| *other != name) {
            let why = format!("the statement that stands under this name creates \"{other}\"");
            return self.leave(section, name, why);
        }
        let item = StreamItem { name, sql };
        match section {
            Section::Tables => self.tables.push(item),
            _ => self.streams.push(item),
        }
    }

    /// The rule's JSON as text, or the rule itself.
    fn take_rule(&mut self, id: String, value: Value) {
        if let Err(why) = validate_id(&id) {
            return self.leave(Section::Rules, id, why);
        }
        let (text, body) = match value {
            Value::String(text) => match serde_json::from_str(&text) {
                Ok(Value::Object(body)) => (Some(text), body),
                Ok(other) => {
                    let why = format!("a rule must be a JSON object, found {}", what(&other));
                    return self.leave(Section::Rules, id, why);
                }
                Err(error) => {
                    let why = format!("its text is not JSON: {error}");
                    return self.leave(Section::Rules, id, why);
                }
            },
            Value::Object(body) => (None, body),
            other => {
                let why = format!("a rule must be a mapping, found {}", what(&other));
                return self.leave(Section::Rules, id, why);
            }
        };
        let mut body = body;
        match body.get("id") {
            Some(Value::String(own)) if own.is_empty() || *own == id => {}
            Some(Value::String(own)) => {
                let why = format!("the rule that stands under this id calls itself \"{own}\"");
                return self.leave(Section::Rules, id, why);
            }
            Some(other) => {
                let why = format!("its \"id\" must be text, found {}", what(other));
                return self.leave(Section::Rules, id, why);
            }
            None => {}
        }
        let named = body.get("id").and_then(Value::as_str) == Some(id.as_str());
        body.insert("id".to_owned(), id.clone().into());
        let text = match text {
            Some(text) if named => text,
            _ => Value::Object(body.clone()).to_string(),
        };
        self.rules.push(RuleItem { id, text, body });
    }

    /// `mqtt: "{\"key\": {…}}"`, or `sources.mqtt.key: {…}`.
    fn take_config(&mut self, section: Section, name: String, value: Value) {
        let value = match value {
            Value::String(text) => match serde_json::from_str(&text) {
                Ok(value) => value,
                Err(error) => {
                    return self.leave(section, name, format!("its text is not JSON: {error}"));
                }
            },
            other => other,
        };
        let Value::Object(map) = value else {
            let why = format!("it must be a mapping, found {}", what(&value));
            return self.leave(section, name, why);
        };
        let mut parts = name.splitn(3, '.');
        if let (Some(kind), Some(typ), Some(key)) = (parts.next(), parts.next(), parts.next()) {
            let wanted = match section {
                Section::SourceConfig => "sources",
                Section::SinkConfig => "sinks",
                _ => "connections",
            };
            if kind != wanted {
                let why = format!("names here begin with \"{wanted}.\"");
                return self.leave(section, name, why);
            }
            let (typ, key) = (typ.to_owned(), key.to_owned());
            return self.take_entry(section, &typ, key, Value::Object(map));
        }
        for (key, props) in map {
            self.take_entry(section, &name, key, props);
        }
    }

    fn take_entry(&mut self, section: Section, typ: &str, key: String, props: Value) {
        let id = format!("{typ}/{key}");
        if let Err(why) = validate_id(&key) {
            let why = match section {
                Section::ConnectionConfig => why,
                _ => why.replacen("id", "conf key", 1),
            };
            return self.leave(section, id, why);
        }
        let mut props = match props {
            Value::Object(props) => props,
            Value::Null => Map::new(),
            other => {
                let why = format!("its properties must be a mapping, found {}", what(&other));
                return self.leave(section, id, why);
            }
        };
        for (name, why) in UNREAD {
            if props.shift_remove(*name).is_some() {
                self.remark(
                    section,
                    id.as_str(),
                    format!("\"{name}\" is left out: {why}"),
                );
            }
        }
        let typ = typ.to_owned();
        let kind = match section {
            Section::ConnectionConfig => {
                self.connections.push(ConnectionItem {
                    typ,
                    id: key,
                    props,
                });
                return;
            }
            Section::SinkConfig => ConfKind::Sink,
            _ => ConfKind::Source,
        };
        self.conf_keys.push(ConfItem {
            kind,
            typ,
            key,
            props,
        });
    }
}

/// Why an item of a section that has no meaning here is left.
fn foreign(section: Section) -> &'static str {
    match section {
        Section::NativePlugins => {
            "native plugins are Go code for eKuiper itself; a connector does the same in a sandbox: windlass connector new"
        }
        Section::PortablePlugins => {
            "portable plugins are processes beside eKuiper; a connector in Python, Rust, JavaScript or C does the same in a sandbox: windlass connector new"
        }
        Section::Service => {
            "external services are not called from a query; a connector with a slot \"http\" can call them"
        }
        Section::Schema => {
            "no format needs a schema here; take FORMAT=\"binary\" and let a connector decode it"
        }
        Section::Uploads => "files are not kept by the host; put it where the host can read it",
        Section::Scripts => {
            "the query has no functions of one's own; a connector in JavaScript can compute them"
        }
        _ => "it has no meaning here",
    }
}
