//! What a connection type says of each of its properties: one line each, from which names are
//! checked, secrets are masked and the JSON Schema for editors is made. Reads no value.

use serde_json::{Map, Value, json};

/// One property of a connection type. `plain`, `both`, `secret` and `ignored` begin a line, the other
/// methods say more:
/// `Property::plain("qos").integer(0, 2).default("1").about("Level of delivery.")`.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// Its name, spelled as in eKuiper. Matched without regard to case.
    pub name: &'static str,
    /// Masked wherever it is shown; `env:NAME` and `file:PATH` stand for the value itself.
    pub secret: bool,
    /// Known in eKuiper and accepted here, but without meaning: the reason, shown as a warning.
    pub ignored: Option<&'static str>,
    /// What its value is.
    pub kind: PropertyKind,
    /// Its value where none is given: JSON, or else a text as it stands.
    pub default: Option<&'static str>,
    /// What it is for; empty: nobody has said.
    pub about: &'static str,
    /// Where a source or an action makes its connection itself, the connector gets it too, if it knows
    /// it: an endpoint that the connector chooses and that no two connections may both have.
    pub both: bool,
    /// It bounds what a connector asks for in one call, which has an end of its own.
    pub in_call: bool,
}

/// What the value of a property is. As `properties::Reader` takes it; the schema is made of this.
#[derive(Clone, Copy, Debug)]
pub enum PropertyKind {
    /// Anything: nobody has said.
    Any,
    /// A text.
    Text,
    /// True or false.
    Boolean,
    /// A whole number from the first to the last.
    Integer(i64, i64),
    /// A time: milliseconds, or text such as `1m30s`.
    Duration,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// One of these words, which look like numbers and may be written so.
    Version(&'static [&'static str]),
    /// A list of texts, or one text.
    Texts,
    /// Names with texts.
    TextMap,
    /// An object with properties of its own.
    Object(&'static [Property]),
}

impl Property {
    /// A plain property.
    #[must_use]
    pub const fn plain(name: &'static str) -> Self {
        Self {
            name,
            secret: false,
            ignored: None,
            kind: PropertyKind::Any,
            default: None,
            about: "",
            both: false,
            in_call: false,
        }
    }

    /// A property that is a secret.
    #[must_use]
    pub const fn secret(name: &'static str) -> Self {
        Self {
            secret: true,
            kind: PropertyKind::Text,
            ..Self::plain(name)
        }
    }

    /// A property that eKuiper has and that changes nothing here.
    #[must_use]
    pub const fn ignored(name: &'static str, why: &'static str) -> Self {
        Self {
            ignored: Some(why),
            ..Self::plain(name)
        }
    }

    /// A plain property that is the connector's too.
    #[must_use]
    pub const fn both(name: &'static str) -> Self {
        Self {
            both: true,
            ..Self::plain(name)
        }
    }

    /// Its value is of this kind.
    #[must_use]
    pub const fn of(self, kind: PropertyKind) -> Self {
        Self { kind, ..self }
    }

    /// Its value is a text.
    #[must_use]
    pub const fn text(self) -> Self {
        self.of(PropertyKind::Text)
    }

    /// Its value is true or false.
    #[must_use]
    pub const fn boolean(self) -> Self {
        self.of(PropertyKind::Boolean)
    }

    /// Its value is a whole number from `least` to `most`.
    #[must_use]
    pub const fn integer(self, least: i64, most: i64) -> Self {
        self.of(PropertyKind::Integer(least, most))
    }

    /// Its value is a time.
    #[must_use]
    pub const fn duration(self) -> Self {
        self.of(PropertyKind::Duration)
    }

    /// Its value is a time that a call must leave: see `beyond_call` in `properties.rs`.
    #[must_use]
    pub const fn duration_in_call(self) -> Self {
        Self {
            in_call: true,
            ..self.duration()
        }
    }

    /// Its value is one of these words.
    #[must_use]
    pub const fn one_of(self, words: &'static [&'static str]) -> Self {
        self.of(PropertyKind::OneOf(words))
    }

    /// Its value where none is given.
    #[must_use]
    pub const fn default(self, value: &'static str) -> Self {
        Self {
            default: Some(value),
            ..self
        }
    }

    /// What it is for.
    #[must_use]
    pub const fn about(self, about: &'static str) -> Self {
        Self { about, ..self }
    }

    /// Its default as a value.
    #[must_use]
    pub fn default_value(&self) -> Option<Value> {
        let text = self.default?;
        Some(serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)))
    }

    /// Its JSON Schema.
    #[must_use]
    pub fn schema(&self) -> Value {
        let mut schema = match self.kind {
            PropertyKind::Any => json!({}),
            PropertyKind::Text => json!({"type": "string"}),
            PropertyKind::Boolean => json!({"type": "boolean"}),
            PropertyKind::Integer(least, most) => {
                json!({"type": "integer", "minimum": least, "maximum": most})
            }
            PropertyKind::Duration => json!({"type": ["integer", "string"], "minimum": 0}),
            PropertyKind::OneOf(words) => json!({"enum": words}),
            PropertyKind::Version(words) => {
                let numbers = words
                    .iter()
                    .filter_map(|word| serde_json::from_str(word).ok());
                let all: Vec<Value> = words
                    .iter()
                    .map(|word| json!(word))
                    .chain(numbers)
                    .collect();
                json!({"enum": all})
            }
            PropertyKind::Texts => {
                json!({"type": ["array", "string"], "items": {"type": "string"}})
            }
            PropertyKind::TextMap => json!({
                "type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]},
            }),
            PropertyKind::Object(properties) => json!({
                "type": "object", "properties": schemas(properties), "additionalProperties": false,
            }),
        };
        if let Some(object) = schema.as_object_mut() {
            let about = match self.ignored {
                Some(why) => format!("Has no meaning here: {why}."),
                None if self.secret && self.about.is_empty() => {
                    "A secret; env:NAME and file:PATH stand for it.".to_owned()
                }
                None if self.secret => {
                    format!(
                        "{} A secret; env:NAME and file:PATH stand for it.",
                        self.about
                    )
                }
                None => self.about.to_owned(),
            };
            if !about.is_empty() {
                object.insert("description".to_owned(), about.into());
            }
            if let Some(default) = self.default_value() {
                object.insert("default".to_owned(), default);
            }
            if self.secret {
                object.insert("writeOnly".to_owned(), true.into());
            }
            if self.ignored.is_some() {
                object.insert("deprecated".to_owned(), true.into());
            }
        }
        schema
    }
}

/// Name to JSON Schema, in the order of the list.
#[must_use]
pub fn schemas(properties: &[Property]) -> Map<String, Value> {
    properties
        .iter()
        .map(|property| (property.name.to_owned(), property.schema()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_all_that_an_editor_shows() {
        const INNER: &[Property] = &[Property::plain("topic").text()];
        let line = Property::plain("qos")
            .integer(0, 2)
            .default("1")
            .about("Level.");
        assert_eq!(
            line.schema(),
            json!({"type": "integer", "minimum": 0, "maximum": 2, "description": "Level.", "default": 1})
        );
        let secret = Property::secret("password").about("The password.").schema();
        assert_eq!(secret["writeOnly"], true);
        assert_eq!(secret["type"], "string");
        let ignored = Property::ignored("x", "why not").schema();
        assert_eq!(ignored["deprecated"], true);
        assert_eq!(ignored["description"], "Has no meaning here: why not.");
        assert_eq!(
            Property::plain("will")
                .of(PropertyKind::Object(INNER))
                .schema()["properties"]["topic"],
            json!({"type": "string"})
        );
        let time = Property::plain("t").duration().default("1m30s");
        assert_eq!(time.schema()["default"], "1m30s");
        let version = Property::plain("v").of(PropertyKind::Version(&["3.1", "3.1.1", "5"]));
        assert_eq!(
            version.schema()["enum"],
            json!(["3.1", "3.1.1", "5", 3.1, 5])
        );
    }
}
