//! A JSON Schema (2020-12) of a whole manifest, for editors: the sections from `config`, the
//! properties of connections from the registry, those of connectors from what each says of itself.
//! Says nothing that is not read somewhere; names are spelled as the documentation spells them,
//! though the host takes properties of connections in any case.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{StartError, runtime};
use crate::config::schema as sections;
use crate::config::{Manifest, ManifestError};
use crate::connections::property::schemas;
use crate::connections::registry::{AnyConnectionType, Registry};
use crate::error::chain;
use crate::progress::Progress;
use crate::rules::output::schema as output;
use crate::rules::plan::{Role, schema as schema_of};
use crate::rules::spill::schema as spill;
use crate::rules::{decompress, duplicates, message_id, retry};
use crate::runtime::{Connector, Runtime};

/// The host types that a source or sink may be given by properties of its own.
const ATTACHED: [&str; 2] = ["memory", "file"];

/// The schema, with the bundled connectors and those that the manifest names. Compiled connectors
/// are kept in `data_dir`.
///
/// # Errors
/// Connectors cannot be run; one of the manifest's own is none.
pub async fn manifest_schema(
    manifest: &Manifest,
    data_dir: &Path,
    progress: &dyn Progress,
) -> Result<Value, StartError> {
    let runtime = runtime(data_dir).map_err(StartError::Runtime)?;
    let loaded = load(manifest, &runtime, progress).await;
    runtime.shutdown(Duration::from_secs(1)).await;
    let connectors = loaded.map_err(StartError::Config)?;
    Ok(whole(&connectors, Registry::default()))
}

async fn load(
    manifest: &Manifest,
    runtime: &Runtime,
    progress: &dyn Progress,
) -> Result<Vec<(String, Arc<Connector>)>, Vec<ManifestError>> {
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for def in &manifest.connectors {
        let wasm = match tokio::fs::read(&def.path).await {
            Ok(wasm) => Bytes::from(wasm),
            Err(error) => {
                let path = def.path.display();
                let message = format!("connector \"{}\": {path} cannot be read: {error}", def.name);
                errors.push(manifest.error(&def.pointer, message));
                continue;
            }
        };
        match runtime.load(&def.name, wasm, progress).await {
            Ok(connector) => found.push((def.name.clone(), connector)),
            Err(error) => errors.push(manifest.error(&def.pointer, chain(&error))),
        }
    }
    for name in crate::connectors::names() {
        if found.iter().any(|(own, _)| own == name) {
            continue;
        }
        let wasm = crate::connectors::bundled(name).unwrap_or_default();
        match runtime.load(name, wasm, progress).await {
            Ok(connector) => found.push((name.to_owned(), connector)),
            Err(error) => errors.push(manifest.error("", chain(&error))),
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    if errors.is_empty() {
        Ok(found)
    } else {
        Err(super::arranged(errors))
    }
}

fn whole(connectors: &[(String, Arc<Connector>)], registry: Registry) -> Value {
    let mut defs = Map::new();
    for kind in registry.iter() {
        let schema = sections::closed(connection_properties(kind), &[]);
        defs.insert(format!("connection.{}", kind.name()), schema);
    }
    for (name, connector) in connectors {
        let roles = [
            (Role::Source, connector.has_source),
            (Role::Sink, connector.has_sink),
        ];
        for (role, _) in roles.iter().filter(|(_, has)| *has) {
            let schema = used(name, connector, *role, registry);
            defs.insert(format!("{}.{name}", role.word()), schema);
        }
        if has_references(&connector.descriptor.config_schema) {
            let mut document = connector.descriptor.config_schema.clone();
            lead_references(&mut document, name);
            defs.insert(format!("connector.{name}"), document);
        }
    }
    let named = |role: &str, has: fn(&Connector) -> bool, below: fn(Value) -> Value| {
        connectors
            .iter()
            .filter(|(_, connector)| has(connector))
            .map(|(name, _)| {
                let reference = json!({"$ref": format!("#/$defs/{role}.{name}")});
                (name.clone(), below(reference))
            })
            .collect::<Map<String, Value>>()
    };
    let conf_keys = named(
        "source",
        |connector| connector.has_source,
        |reference| {
            json!({
                "type": "object",
                "propertyNames": {"pattern": sections::ID},
                "additionalProperties": reference,
            })
        },
    );
    let actions = named(
        "sink",
        |connector| connector.has_sink,
        |reference| reference,
    );
    let actions = json!({
        "description": "What happens with the rows: each key is a sink connector with its properties.",
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "minProperties": 1,
            "properties": actions,
            "additionalProperties": {
                "description": "A connector of your own.",
                "type": ["object", "null"],
                "properties": common(),
            },
        },
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Windlass manifest",
        "type": "object",
        "properties": {
            "connections": sections::items(&connection(registry), &["id"], "Named connections."),
            "confKeys": {
                "description": "Properties of sources: by connector, then by the name that CONF_KEY gives.",
                "type": ["object", "null"],
                "properties": conf_keys,
                "additionalProperties": {"type": "object", "additionalProperties": {"type": "object"}},
            },
            "connectors": sections::connectors(),
            "streams": sections::streams(),
            "rules": sections::items(&sections::rule(actions), &["id"], "Rules: a query, and what happens with its rows."),
            "files": sections::files(), "push": sections::push(), "rest": sections::rest(),
            "limits": sections::limits(),
        },
        "additionalProperties": false,
        "$defs": defs,
    })
}

fn connection(registry: Registry) -> Value {
    let mut types: Vec<&str> = Vec::new();
    let mut branches = Vec::new();
    for kind in registry.iter() {
        let names: Vec<&str> = [kind.name()]
            .into_iter()
            .chain(kind.aliases().iter().copied())
            .collect();
        branches.push(json!({
            "if": {"properties": {"typ": {"enum": names}}, "required": ["typ"]},
            "then": {"properties": {"props": {"$ref": format!("#/$defs/connection.{}", kind.name())}}},
        }));
        types.extend(names);
    }
    let typ = sections::or_variable(json!({"description": "The connection type.", "enum": types}));
    let properties = json!({
        "id": {"description": "Its id, unique.", "type": "string", "pattern": sections::ID},
        "typ": typ,
        "props": {"description": "Its properties.", "type": ["object", "null"]},
    });
    let mut schema = sections::closed(properties, &["typ"]);
    if let Some(object) = schema.as_object_mut() {
        object.insert("allOf".to_owned(), Value::Array(branches));
    }
    schema
}

fn connection_properties(kind: &dyn AnyConnectionType) -> Map<String, Value> {
    schemas(kind.properties())
        .into_iter()
        .map(|(name, schema)| (name, sections::or_variable(schema)))
        .collect()
}

/// What an action may say whatever its connector is.
fn common() -> Map<String, Value> {
    let mut properties = output::properties();
    properties.extend(spill::properties());
    properties.extend(retry::properties());
    properties.extend(message_id::properties());
    properties.extend(duplicates::properties());
    properties
}

/// The properties of one use of a connector: those of a connection of its own, the common ones of an
/// action, and its own, which go before all others of the same name.
fn used(name: &str, connector: &Connector, role: Role, registry: Registry) -> Value {
    let mut own = schema_of(connector, role);
    lead_references(&mut own, name);
    let mut properties = Map::new();
    let slots = &connector.descriptor.slots;
    if !slots.is_empty() {
        if let Ok(kind) = registry.get(name) {
            properties.extend(connection_properties(kind));
        }
        let about = "The id of a connection, in place of properties of its own.";
        properties.insert(
            "connectionSelector".to_owned(),
            json!({"description": about, "type": "string"}),
        );
        let by_slot: Map<String, Value> = slots
            .iter()
            .map(|slot| {
                (
                    slot.name.clone(),
                    json!({"description": slot.description, "type": "string"}),
                )
            })
            .collect();
        let mut by_slot = sections::closed(by_slot, &[]);
        if let Some(object) = by_slot.as_object_mut() {
            object.insert(
                "description".to_owned(),
                "For each slot the id of a connection.".into(),
            );
        }
        properties.insert("connections".to_owned(), by_slot);
    }
    match role {
        Role::Source => properties.extend(decompress::properties()),
        Role::Sink => properties.extend(common()),
    }
    let Some(object) = own.as_object_mut() else {
        // Any property is taken.
        return json!({"type": ["object", "null"], "properties": properties});
    };
    if let Some(Value::Object(of_connector)) = object.remove("properties") {
        let of_connector = of_connector
            .into_iter()
            .map(|(name, schema)| (name, sections::or_variable(schema)));
        properties.extend(of_connector);
    }
    object.insert("properties".to_owned(), Value::Object(properties));
    // A conf key may leave to the statement what the source cannot do without.
    let needs = role == Role::Sink && object.get("required").is_some_and(is_filled);
    if !needs {
        object.remove("required");
        if role == Role::Sink || ATTACHED.contains(&name) {
            object.insert("type".to_owned(), json!(["object", "null"]));
        }
    }
    for outer in ["$schema", "$id", "$defs"] {
        object.remove(outer);
    }
    own
}

fn is_filled(list: &Value) -> bool {
    list.as_array().is_some_and(|list| !list.is_empty())
}

fn has_references(schema: &Value) -> bool {
    match schema {
        Value::Object(object) => object
            .iter()
            .any(|(name, value)| name == "$ref" || has_references(value)),
        Value::Array(items) => items.iter().any(has_references),
        _ => false,
    }
}

/// A reference within a connector's own document leads to where that document is kept here.
fn lead_references(schema: &mut Value, name: &str) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                match value.as_str().and_then(|text| text.strip_prefix('#')) {
                    Some(rest) if key == "$ref" => {
                        *value = format!("#/$defs/connector.{name}{rest}").into();
                    }
                    _ => lead_references(value, name),
                }
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| lead_references(item, name)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
