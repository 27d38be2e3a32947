//! What can be seen in a connector's own words, without running it.

use serde_json::{Map, Value};

use super::{Finding, Promise};
use crate::config::validate_id;
use crate::harness::properties::{mistakes, names};
use crate::runtime::Descriptor;

pub(super) const PROMISES: [Promise; 5] = [
    (
        "names",
        "its name and its slots' names can be used in a manifest, its version is one, and it says what it is for",
        "names: letters, digits, - and _; version: as in 1.2.3; a description in one sentence",
    ),
    (
        "schema",
        "its schema is a valid JSON Schema of an object",
        "see https://json-schema.org for the keywords",
    ),
    (
        "defaults",
        "the schema's own defaults and examples satisfy it",
        "correct the default, or the rule that it breaks",
    ),
    (
        "descriptions",
        "every required property is described, and stands among the properties",
        "add a \"description\" to it under \"properties\"",
    ),
    (
        "unknown-properties",
        "the schema says what happens to a property that it does not know",
        "add \"additionalProperties\": false, so that a misspelt name is found; or true where any name is meant",
    ),
];

pub(super) fn look(name: &str, said: &Descriptor, roles: &[&str]) -> Finding {
    if name == "names" {
        return named(said);
    }
    // One document for both roles is looked at once.
    let mut schemas: Vec<&Value> = Vec::new();
    for role in roles {
        let whole = &said.config_schema;
        let schema = whole.pointer(&format!("/$defs/{role}")).unwrap_or(whole);
        if !schemas.contains(&schema) {
            schemas.push(schema);
        }
    }
    let found = schemas.into_iter().find_map(|schema| match name {
        "schema" => valid(schema),
        "defaults" => defaults(schema, ""),
        "descriptions" => described(schema),
        _ => unknown(schema),
    });
    found.map_or_else(Finding::pass, Finding::Fail)
}

fn named(said: &Descriptor) -> Finding {
    let wrong = if let Err(why) = validate_id(&said.name) {
        Some(format!("its name: {why}"))
    } else if !is_version(&said.version) {
        Some(format!("its version \"{}\" is none", said.version))
    } else if said.description.trim().is_empty() {
        Some("it does not say what it is for".to_owned())
    } else {
        said.slots.iter().find_map(|slot| {
            let why = validate_id(&slot.name).err()?;
            Some(format!("the slot \"{}\": {why}", slot.name))
        })
    };
    match wrong {
        Some(wrong) => Finding::Fail(wrong),
        None => Finding::Pass(format!("{} {}", said.name, said.version)),
    }
}

/// Three numbers, and after `-` or `+` what one likes.
fn is_version(text: &str) -> bool {
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    numbers.split('.').count() == 3 && numbers.split('.').all(is_number)
}

fn valid(schema: &Value) -> Option<String> {
    if schema == &Value::Bool(true) {
        return Some("it has none: nothing about its configuration can be checked".to_owned());
    }
    if let Err(error) = jsonschema::meta::validate(schema) {
        let at = error.instance_path().to_string();
        return Some(format!("{at}: {error}"));
    }
    if let Err(error) = jsonschema::validator_for(schema) {
        return Some(error.to_string());
    }
    (schema.get("type").and_then(Value::as_str) != Some("object"))
        .then(|| "it does not say \"type\": \"object\"".to_owned())
}

/// Of a schema and all below it, the first default or example that it refuses itself.
fn defaults(schema: &Value, path: &str) -> Option<String> {
    let given = schema.get("default").into_iter();
    let given = given.chain(
        schema
            .get("examples")
            .and_then(Value::as_array)
            .into_iter()
            .flatten(),
    );
    if let Ok(validator) = jsonschema::validator_for(schema) {
        for value in given {
            if let Some(error) = validator.iter_errors(value).next() {
                let place = if path.is_empty() { "the whole" } else { path };
                return Some(format!("{place}: {value} is refused: {error}"));
            }
        }
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let found = properties
        .into_iter()
        .flatten()
        .find_map(|(name, property)| {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            defaults(property, &path)
        });
    if found.is_some() || !path.is_empty() {
        return found;
    }
    // All together: one may forbid the other.
    let all: Map<String, Value> = properties
        .into_iter()
        .flatten()
        .filter_map(|(name, property)| Some((name.clone(), property.get("default")?.clone())))
        .collect();
    let mut whole = schema.clone();
    ask_for_nothing(&mut whole);
    let wrong = mistakes(&whole, "connector", &all).into_iter().next()?;
    Some(format!(
        "all defaults together are refused: {}",
        wrong.message
    ))
}

/// Takes out what must be given: defaults alone need not hold it, whether it is asked for always, in
/// one of several cases or where a condition holds. A condition itself (`if`, `not`) stays.
fn ask_for_nothing(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    schema.remove("required");
    // Of alternatives that ask for nothing more all would hold, and `oneOf` wants one.
    if schema.get("oneOf").is_some_and(only_requires) {
        schema.remove("oneOf");
    }
    for case in ["then", "else"] {
        if let Some(case) = schema.get_mut(case) {
            ask_for_nothing(case);
        }
    }
    for several in ["allOf", "anyOf", "oneOf"] {
        let cases = schema.get_mut(several).and_then(Value::as_array_mut);
        cases.into_iter().flatten().for_each(ask_for_nothing);
    }
}

/// Alternatives that say no more than what must be given.
fn only_requires(alternatives: &Value) -> bool {
    let requires = |one: &Value| {
        one.as_object()
            .is_some_and(|one| one.len() == 1 && one.contains_key("required"))
    };
    alternatives
        .as_array()
        .is_some_and(|all| all.iter().all(requires))
}

fn described(schema: &Value) -> Option<String> {
    let required = schema.get("required").and_then(Value::as_array);
    let known = names(schema);
    required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .find_map(|name| {
            if !known.contains(&name) {
                return Some(format!(
                    "\"{name}\" is required and does not stand among the properties"
                ));
            }
            let described = schema
                .pointer(&crate::config::pointer_to("/properties", name))
                .and_then(|property| property.get("description"))
                .and_then(Value::as_str)
                .is_some_and(|text| !text.trim().is_empty());
            (!described).then(|| format!("\"{name}\" is required and not described"))
        })
}

fn unknown(schema: &Value) -> Option<String> {
    let says = ["additionalProperties", "unevaluatedProperties"]
        .iter()
        .any(|key| schema.get(key).is_some());
    (!says).then(|| "any name is taken in silence".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(schema: Value) -> Descriptor {
        Descriptor {
            name: "lines".into(),
            version: "0.1.0".into(),
            description: "Cuts lines.".into(),
            config_schema: schema,
            slots: Vec::new(),
        }
    }

    fn fails(name: &str, descriptor: &Descriptor) -> String {
        match look(name, descriptor, &["source", "sink"]) {
            Finding::Fail(reason) => reason,
            other => panic!("{name} should fail: {other:?}"),
        }
    }

    #[test]
    fn a_good_descriptor_passes_all() {
        let good = said(json!({
            "type": "object",
            "properties": { "qos": { "description": "Level.", "type": "integer", "maximum": 2, "default": 1 } },
            "required": ["qos"],
            "additionalProperties": false
        }));
        for (name, ..) in PROMISES {
            let found = look(name, &good, &["source"]);
            assert!(matches!(found, Finding::Pass(_)), "{name}: {found:?}");
        }
    }

    #[test]
    fn names_and_versions_that_are_none_fail() {
        let mut bad = said(json!({}));
        bad.version = "1.0".into();
        assert!(fails("names", &bad).contains("\"1.0\""));
        bad.name = "a b".into();
        assert!(fails("names", &bad).contains("a b"));
        let mut silent = said(json!({}));
        silent.description.clear();
        assert!(fails("names", &silent).contains("what it is for"));
    }

    #[test]
    fn a_schema_that_is_none_fails() {
        assert!(fails("schema", &said(json!({ "type": "objekt" }))).contains("objekt"));
        assert!(fails("schema", &said(json!(true))).contains("none"));
        assert!(fails("schema", &said(json!({}))).contains("object"));
        // Of two documents, either.
        let both = json!({ "$defs": { "source": { "type": "object" }, "sink": { "type": 5 } } });
        assert!(fails("schema", &said(both)).contains('5'));
    }

    #[test]
    fn a_default_that_the_schema_refuses_fails_with_its_name() {
        let schema =
            |property: Value| json!({ "type": "object", "properties": { "qos": property } });
        let alone = schema(json!({ "type": "integer", "maximum": 2, "default": 7 }));
        assert!(fails("defaults", &said(alone)).starts_with("qos: 7 is refused"));
        let example = schema(json!({ "type": "integer", "examples": [1, "x"] }));
        assert!(fails("defaults", &said(example)).contains("\"x\""));
        let together = json!({
            "type": "object",
            "properties": { "a": { "default": 1 }, "b": { "default": 2 } },
            "not": { "required": ["a", "b"] }
        });
        assert!(fails("defaults", &said(together)).contains("together"));
    }

    #[test]
    fn defaults_need_not_hold_what_must_be_given() {
        let schema = |more: Value| {
            let mut schema = json!({ "type": "object", "properties": {
                "raw": { "type": "boolean", "default": false }, "node": { "type": "string" }
            } });
            let both = schema.as_object_mut().zip(more.as_object().cloned());
            if let Some((schema, more)) = both {
                schema.extend(more);
            }
            schema
        };
        let raw = json!({ "properties": { "raw": { "const": true } }, "required": ["raw"] });
        for more in [
            json!({ "required": ["node"] }),
            json!({ "if": raw, "then": {}, "else": { "required": ["node"] } }),
            json!({ "oneOf": [{ "required": ["node"] }, { "required": ["other"] }] }),
            json!({ "anyOf": [{ "required": ["node"] }, raw] }),
        ] {
            let found = look("defaults", &said(schema(more.clone())), &["sink"]);
            assert!(matches!(found, Finding::Pass(_)), "{more}: {found:?}");
        }
        let wrong = json!({ "then": {}, "if": {}, "allOf": [{ "required": ["node"] }, raw] });
        assert!(fails("defaults", &said(schema(wrong))).contains("together"));
    }

    #[test]
    fn a_required_property_without_words_and_an_open_schema_fail() {
        let schema = json!({ "type": "object", "properties": { "a": { "type": "string" } }, "required": ["a"] });
        assert!(fails("descriptions", &said(schema.clone())).contains("\"a\""));
        assert!(fails("unknown-properties", &said(schema)).contains("silence"));
        let missing = json!({ "type": "object", "required": ["b"] });
        assert!(fails("descriptions", &said(missing)).contains("among the properties"));
    }
}
