//! A connector's schema applied to a configuration, with the checks and sentences of a rule; and a
//! configuration made from the schema alone.

use serde_json::{Map, Value, json};

use crate::config::{nearest, pointer_to};
use crate::runtime::Connector;

/// With this keyword a property of a sink may hold a template, which the host renders.
const RENDER: &str = "x-windlass-render";
/// With this one the connector gets it all the same.
const SHARED: &str = "x-windlass-shared";

/// What is wrong with a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// JSON Pointer into the configuration; empty: the whole.
    pub pointer: String,
    /// The name itself is the mistake.
    pub is_name: bool,
    /// One sentence.
    pub message: String,
}

/// What the connector gets of these properties as its configuration: as a rule would give it.
///
/// # Errors
/// All that the schema refuses.
pub fn apply(
    connector: &Connector,
    role: &str,
    mut properties: Map<String, Value>,
) -> Result<String, Vec<Mistake>> {
    let schema = connector.config_schema(role);
    let mistakes = mistakes(schema, role, &properties);
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    // What is rendered per message is the host's business: the guest sees the message.
    properties.retain(|name, value| {
        let property = schema.pointer(&pointer_to("/properties", name));
        let render = property.and_then(|property| property.get(RENDER));
        // What is shared the connector gets as it was written, beside what is made of it.
        let shared = property.and_then(|property| property.get(SHARED)) == Some(&Value::Bool(true));
        let gone = match render.and_then(Value::as_str) {
            Some("headers") => true,
            Some(_) => is_template(value),
            None => false,
        };
        shared || !gone
    });
    Ok(Value::Object(properties).to_string())
}

/// A text that is rendered, or a list with one in it.
fn is_template(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("{{"),
        Value::Array(items) => items.iter().any(is_template),
        _ => false,
    }
}

/// Everything that a schema refuses about a configuration.
#[must_use]
pub fn mistakes(schema: &Value, role: &str, properties: &Map<String, Value>) -> Vec<Mistake> {
    let names = names(schema);
    let mut found = Vec::new();
    let mut known = properties.clone();
    if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        for name in properties
            .keys()
            .filter(|name| !names.contains(&name.as_str()))
        {
            known.remove(name);
            let hint = match nearest(name, names.iter().copied()) {
                Some(near) => format!("; did you mean \"{near}\"?"),
                None if names.is_empty() => "; there is none".to_owned(),
                None => format!("; there is {}", names.join(", ")),
            };
            found.push(Mistake {
                pointer: pointer_to("", name),
                is_name: true,
                message: format!("\"{name}\" is no property of this {role}{hint}"),
            });
        }
    }
    let validator = match jsonschema::validator_for(schema) {
        Ok(validator) => validator,
        Err(error) => {
            found.push(Mistake {
                pointer: String::new(),
                is_name: false,
                message: format!("the connector's schema is not valid: {error}"),
            });
            return found;
        }
    };
    for error in validator.iter_errors(&Value::Object(known)) {
        let pointer = error.instance_path().to_string();
        let name = pointer.trim_start_matches('/');
        found.push(Mistake {
            message: match name {
                "" => error.to_string(),
                name => format!("{name}: {error}"),
            },
            pointer,
            is_name: false,
        });
    }
    found
}

/// The names of a schema's properties.
#[must_use]
pub fn names(schema: &Value) -> Vec<&str> {
    schema
        .get("properties")
        .and_then(Value::as_object)
        .map(|properties| properties.keys().map(String::as_str).collect())
        .unwrap_or_default()
}

/// A configuration made from a schema: what is required, with defaults and examples where it has
/// them; with `all`, every property.
#[must_use]
pub fn sample(schema: &Value, all: bool) -> Map<String, Value> {
    if let Some(Value::Object(example)) = schema.pointer("/examples/0") {
        return example.clone();
    }
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let Some(Value::Object(properties)) = schema.get("properties") else {
        return Map::new();
    };
    properties
        .iter()
        .filter(|(name, _)| all || required.contains(&name.as_str()))
        .map(|(name, property)| (name.clone(), value_for(property)))
        .collect()
}

/// A value that such a property may have.
fn value_for(schema: &Value) -> Value {
    let given = ["default", "const"].iter().find_map(|key| schema.get(key));
    let given = given
        .or_else(|| schema.pointer("/examples/0"))
        .or_else(|| schema.pointer("/enum/0"));
    if let Some(value) = given {
        return value.clone();
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(first) = schema.pointer(&format!("/{choice}/0")) {
            return value_for(first);
        }
    }
    let typ = match schema.get("type") {
        Some(Value::Array(types)) => types.first().and_then(Value::as_str),
        Some(typ) => typ.as_str(),
        None => None,
    };
    let number = |key: &str| schema.get(key).and_then(Value::as_f64);
    match typ {
        Some("boolean") => json!(false),
        Some("integer" | "number") => {
            let least = number("minimum").or_else(|| number("exclusiveMinimum").map(|x| x + 1.0));
            let value = least
                .unwrap_or(0.0)
                .max(1.0)
                .min(number("maximum").unwrap_or(f64::MAX));
            if typ == Some("integer") {
                #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
                let whole = value.ceil() as i64;
                json!(whole)
            } else {
                json!(value)
            }
        }
        Some("array") => match schema.get("items") {
            Some(items) if schema.get("minItems").and_then(Value::as_u64) > Some(0) => {
                json!([value_for(items)])
            }
            _ => json!([]),
        },
        Some("object") => Value::Object(sample(schema, false)),
        Some("null") => Value::Null,
        _ => json!("sample"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "topic": { "type": "string", "minLength": 1, "x-windlass-render": "subject" },
                "qos": { "type": "integer", "minimum": 0, "maximum": 2, "default": 1 },
                "rate": { "type": "number", "exclusiveMinimum": 4 },
                "names": { "type": "array", "minItems": 1, "items": { "enum": ["a", "b"] } }
            },
            "required": ["topic", "names"],
            "additionalProperties": false
        })
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest_and_a_wrong_value_its_place() {
        let Value::Object(props) = json!({ "topik": "a", "qos": 7, "names": ["a"] }) else {
            panic!("an object");
        };
        let found = mistakes(&schema(), "sink", &props);
        assert_eq!(found[0].pointer, "/topik");
        assert!(found[0].is_name && found[0].message.contains("did you mean \"topic\"?"));
        assert!(
            found
                .iter()
                .any(|one| one.pointer == "/qos" && one.message.contains('7'))
        );
        assert!(found.iter().any(|one| one.message.contains("topic")));
    }

    #[test]
    fn a_configuration_made_from_a_schema_satisfies_it() {
        for all in [false, true] {
            let made = sample(&schema(), all);
            assert_eq!(mistakes(&schema(), "sink", &made), [], "{made:?}");
            assert_eq!(made.len(), if all { 4 } else { 2 });
        }
    }
}
