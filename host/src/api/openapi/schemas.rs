//! Schemas that no type of the code has: definitions as users write them, made of what connection
//! types, the readers of rules and actions say of themselves; and objects whose names are data.
//! Reads no definition.

use serde_json::{Map, Value, json};

use crate::config::ekuiper::Section;
use crate::config::schema::{self as sections, ID};
use crate::connections::property::schemas;
use crate::connections::registry::Registry;
use crate::rules::output::schema as output;
use crate::rules::spill::schema as spill;

/// Name to JSON Schema (2020-12), for `#/components/schemas`.
pub(super) fn all() -> Map<String, Value> {
    let mut all = Map::new();
    let mut add = |name: &str, schema: Value| {
        all.insert(name.to_owned(), schema);
    };
    let registry = Registry::default();
    for kind in registry.iter() {
        let mut schema = sections::closed(schemas(kind.properties()), &[]);
        if let Some(object) = schema.as_object_mut() {
            let about = format!(
                "Properties of a connection of type {}; names in any case.",
                kind.name()
            );
            object.insert("description".to_owned(), about.into());
        }
        add(&of_type(kind.name()), schema);
    }
    add("ConnectionDefinition", connection(registry, &["id", "typ"]));
    add("ConnectionChange", connection(registry, &["typ"]));
    add(
        "Properties",
        open("Properties by name, as their type has them."),
    );
    add(
        "ConfKeys",
        by_name(json!({"type": "object"}), "Properties by conf key."),
    );
    add("RuleDefinition", rule(&["id", "sql", "actions"]));
    add("RuleChange", rule(&["sql", "actions"]));
    add("Rule", shown_rule());
    add(
        "RuleStatus",
        status("^(source|op|sink)_.+_0_[a-z_]+$", counter()),
    );
    let counters = by_name(counter(), "The counters of one operator.");
    add("RuleStatusV2", status("^(source|op|sink)_.+_0$", counters));
    add("Position", position());
    add("Stream", stream());
    add("Columns", columns());
    add("DeadLetter", letter());
    add("ImportSections", import_sections());
    add(
        "ImportResult",
        sections::closed(
            json!({
                "ErrorMsg": {"description": "Empty: everything was taken in.", "type": "string"},
                "ConfigResponse": {"$ref": "#/components/schemas/ImportSections"},
            }),
            &["ErrorMsg", "ConfigResponse"],
        ),
    );
    add(
        "Component",
        json!({
            "description": "A WebAssembly component.",
            "type": "string", "format": "binary", "contentMediaType": "application/wasm",
        }),
    );
    add(
        "OpenApi",
        json!({
            "description": "This description: OpenAPI 3.1.",
            "type": "object",
            "properties": {
                "openapi": {"type": "string"}, "info": {"type": "object"},
                "paths": {"type": "object"}, "components": {"type": "object"},
            },
            "required": ["openapi", "info", "paths", "components"],
        }),
    );
    all
}

fn of_type(name: &str) -> String {
    format!("Properties.{name}")
}

fn open(about: &str) -> Value {
    json!({"description": about, "type": "object", "additionalProperties": true})
}

/// An object whose names are data.
fn by_name(each: Value, about: &str) -> Value {
    json!({"description": about, "type": "object", "additionalProperties": each})
}

fn connection(registry: Registry, required: &[&str]) -> Value {
    let mut types: Vec<&str> = Vec::new();
    let mut branches = Vec::new();
    for kind in registry.iter() {
        let mut names = vec![kind.name()];
        names.extend(kind.aliases());
        branches.push(json!({
            "title": kind.name(),
            "properties": {
                "typ": {"enum": names},
                "props": {"$ref": format!("#/components/schemas/{}", of_type(kind.name()))},
            },
        }));
        types.extend(names);
    }
    json!({
        "description": "A connection as it is to be.",
        "type": "object",
        "required": required,
        "properties": {
            "id": {"description": "Its id, unique. A PUT takes that of the path.", "type": "string", "pattern": ID},
            "typ": {"description": "Its type, in any case.", "enum": types},
            "props": {"description": "The type's properties.", "type": "object"},
        },
        "anyOf": branches,
    })
}

/// A rule as it is given. The host itself fills in no variables: REST takes values as they are.
fn rule(required: &[&str]) -> Value {
    let mut properties = output::properties();
    properties.extend(spill::properties());
    for (name, about) in [
        (
            "connectionSelector",
            "The id of a connection, in place of properties of its own.",
        ),
        (
            "connections",
            "For each slot of the connector the id of a connection.",
        ),
    ] {
        let typ = if name == "connections" {
            "object"
        } else {
            "string"
        };
        properties.insert(name.to_owned(), json!({"description": about, "type": typ}));
    }
    let actions = json!({
        "description": "What happens with the rows: each key is a sink connector with its properties. \
            Those that every action has stand here; those of a connector in `schema` of \
            `GET /connectors/{name}`.",
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"type": ["object", "null"], "properties": properties},
        },
    });
    let mut schema = without_variables(sections::rule(actions));
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".to_owned(), "A rule as it is to be.".into());
        object.insert("required".to_owned(), json!(required));
    }
    schema
}

/// A schema of a manifest without the alternative that a value is `${NAME}`.
fn without_variables(schema: Value) -> Value {
    match schema {
        Value::Object(mut object) => {
            let plain = object
                .get("anyOf")
                .and_then(Value::as_array)
                .filter(|both| both.get(1).is_some_and(sections::is_variable))
                .and_then(|both| both.first())
                .and_then(Value::as_object)
                .cloned();
            if let Some(plain) = plain {
                object.shift_remove("anyOf");
                object.extend(plain);
            }
            let inner = object.into_iter();
            Value::Object(
                inner
                    .map(|(name, value)| (name, without_variables(value)))
                    .collect(),
            )
        }
        Value::Array(items) => items.into_iter().map(without_variables).collect(),
        other => other,
    }
}

/// A rule as it was given: what could be given once, and what an older host took.
fn shown_rule() -> Value {
    json!({
        "description": "A rule as it was given, secrets masked.",
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "name": {"type": ["string", "null"]},
            "sql": {"type": "string"},
            "actions": {"type": "array", "items": {"type": "object"}},
            "options": {"type": ["object", "null"]},
            "triggered": {"description": "Whether it is to run.", "type": "boolean"},
            "tags": {"type": ["array", "null"], "items": {"type": "string"}},
            "version": {"type": ["string", "null"]},
        },
        "required": ["id", "sql", "actions"],
    })
}

fn counter() -> Value {
    json!({"description": "A number, or words; times are milliseconds since 1970, 0 for never.", "type": ["integer", "string", "null"]})
}

/// The state of a rule, and entries with such names.
fn status(names: &str, each: Value) -> Value {
    let time = |about: &str| json!({"description": about, "type": "integer", "minimum": 0});
    json!({
        "description": "A rule's state; its counters while it runs.",
        "type": "object",
        "properties": {
            "status": {"enum": ["running", "starting", "stopping", "stopped", "stopped by error", "stopped: waiting for next schedule."]},
            "message": {"description": "Why, where there is a why.", "type": "string"},
            "lastStartTimestamp": time("When it was last started, in milliseconds since 1970; 0: never."),
            "lastStopTimestamp": time("When it was last stopped; 0: never."),
            "nextStartTimestamp": time("Always 0: there are no schedules."),
            "warnings": {"description": "What should be looked at though it works.", "type": "array", "items": {"type": "string"}},
        },
        "patternProperties": {names: each},
        "additionalProperties": false,
        "required": ["status", "message", "lastStartTimestamp", "lastStopTimestamp", "nextStartTimestamp"],
    })
}

fn position() -> Value {
    json!({
        "description": "Where a source is to go on.",
        "type": "object",
        "properties": {
            "type": {"description": "1: the position of a source.", "const": 1},
            "params": {
                "type": "object",
                "properties": {
                    "streamName": {"description": "The stream of the rule.", "type": "string"},
                    "input": {"description": "The position as the connector writes it: an object, or its text.", "type": ["object", "string"]},
                },
                "required": ["streamName", "input"],
            },
        },
        "required": ["type", "params"],
    })
}

fn stream() -> Value {
    let text = json!({"type": "string"});
    let flag = json!({"type": "boolean"});
    json!({
        "description": "A stream as eKuiper describes it.",
        "type": "object",
        "properties": {
            "Name": text,
            "Options": {
                "type": "object",
                "properties": {
                    "datasource": text, "type": text, "format": text, "confKey": text, "shared": flag,
                    "key": text, "timestamp": text, "timestampFormat": text, "schemaId": text,
                    "version": text, "strictValidation": flag, "delimiter": text,
                    "extra": {"description": "JSON as text, secrets masked.", "type": "string"},
                    "temp": flag,
                },
                "required": ["datasource", "type", "format"],
                "additionalProperties": false,
            },
            "Statement": {"type": "null"},
            "StreamFields": {
                "description": "Its columns; null: any.",
                "type": ["array", "null"],
                "items": {
                    "type": "object",
                    "properties": {"Name": text, "FieldType": {"description": "eKuiper's number of the type, or what it is made of.", "type": "object"}},
                    "required": ["Name", "FieldType"],
                },
            },
            "StreamType": {"description": "0: a stream.", "const": 0},
        },
        "required": ["Name", "Options", "Statement", "StreamFields", "StreamType"],
        "additionalProperties": false,
    })
}

fn columns() -> Value {
    by_name(
        sections::closed(
            json!({
                "hasIndex": {"type": "boolean"},
                "index": {"description": "Its place, from 0.", "type": "integer", "minimum": 0},
                "type": {"description": "As in the statement.", "type": "string"},
            }),
            &["hasIndex", "index", "type"],
        ),
        "Columns by name.",
    )
}

fn letter() -> Value {
    let text = |about: &str| json!({"description": about, "type": "string"});
    let whole = |about: &str| json!({"description": about, "type": "integer", "minimum": 0});
    sections::closed(
        json!({
            "id": whole("Its number."),
            "atMs": whole("When it was given up, in milliseconds since 1970."),
            "rule": text("The rule."),
            "action": text("The action that could not deliver it: its type and place. Empty: it was the source or the query."),
            "stream": text("The stream it came from."),
            "kind": text("The kind of failure."),
            "code": text("The connection's or connector's own code of it."),
            "reason": text("Why, for people."),
            "attempts": whole("How often it was tried."),
            "state": {"description": "`resend`: it is to be sent again; `sending`: it is being sent.", "type": "string"},
            "subject": text("Its topic, path or subject."),
            "headers": {
                "type": "array",
                "items": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2},
            },
            "bytes": whole("Size of the payload."),
            "payload": text("The payload, where it is text."),
            "payloadBase64": text("The payload, where it is no text."),
        }),
        &[
            "id", "atMs", "rule", "action", "stream", "kind", "code", "reason", "attempts",
            "state", "subject", "headers", "bytes",
        ],
    )
}

fn import_sections() -> Value {
    let reasons = by_name(
        json!({"type": "string"}),
        "Why an item was not taken in, by its name; empty: all were.",
    );
    let names = Section::ALL.map(Section::key);
    let properties: Map<String, Value> = names
        .iter()
        .map(|name| ((*name).to_owned(), reasons.clone()))
        .collect();
    sections::closed(properties, &names)
}
