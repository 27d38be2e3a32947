//! The common properties of an action as JSON Schema, for editors.

use serde_json::{Map, Value, json};

use super::encode::METHODS;
use super::properties::{FORMATS, IGNORED};
use crate::config::schema::or_variable;

/// Name to JSON Schema: all of [`super::OutputPlan::PROPERTIES`].
#[must_use]
pub fn properties() -> Map<String, Value> {
    let methods = METHODS.map(|(name, _)| name);
    let names =
        |about: &str| json!({"description": about, "type": "array", "items": {"type": "string"}});
    let text = |about: &str| json!({"description": about, "type": "string"});
    let flag = |about: &str| json!({"description": about, "type": ["boolean", "string"], "enum": [true, false, "true", "false"], "default": false});
    let mut all = Map::new();
    let mut add = |name: &str, schema: Value| {
        all.insert(name.to_owned(), or_variable(schema));
    };
    add(
        "sendSingle",
        flag("Each row is a message {...} of its own; else a list [{...}]."),
    );
    add("fields", names("Only these columns."));
    add("excludeFields", names("All columns but these."));
    add(
        "dataTemplate",
        text("A template that makes the payload: {{.column}}, {{json .}}."),
    );
    add("dataField", text("Send only what stands in this column."));
    add("tableDataField", text("Another spelling of dataField."));
    add(
        "omitIfEmpty",
        flag("Nothing is sent where nothing is left."),
    );
    add(
        "batchSize",
        json!({"description": "Rows in one payload; 0: as they come.", "type": "integer", "minimum": 0}),
    );
    add(
        "lingerInterval",
        json!({"description": "How long rows wait for others: milliseconds, or text such as 500ms; 1h at most.", "type": ["integer", "string"], "minimum": 0}),
    );
    add(
        "format",
        json!({"description": "How payloads are written.", "enum": FORMATS, "default": "json"}),
    );
    add(
        "delimiter",
        json!({"description": "format delimited: what stands between two values.", "type": "string", "default": ","}),
    );
    add(
        "hasHeader",
        flag("format delimited: each payload begins with the names of the columns."),
    );
    add(
        "compression",
        json!({"description": "How payloads are compressed.", "enum": methods}),
    );
    add(
        "compressionProps",
        json!({
            "description": "level: how hard, from 0 to 9 (zstd: 22).", "type": "object",
            "properties": {"level": {"type": "integer", "minimum": 0, "maximum": 22}},
        }),
    );
    for (name, why) in IGNORED {
        add(
            name,
            json!({"description": format!("Changes nothing: {why}."), "deprecated": true}),
        );
    }
    for name in ["encryption", "encProps"] {
        // Refused when it says anything.
        add(
            name,
            json!({"description": "Payloads are not encrypted here.", "enum": ["", null], "deprecated": true}),
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::OutputPlan;
    use super::*;

    #[test]
    fn every_name_that_is_read_is_in_the_schema_and_no_other() {
        let all = properties();
        let mut names: Vec<_> = all.keys().map(String::as_str).collect();
        names.sort_unstable();
        let mut read = OutputPlan::PROPERTIES.to_vec();
        read.sort_unstable();
        assert_eq!(names, read);
    }

    #[test]
    fn a_default_of_the_schema_is_what_happens_without_it() {
        let plan = |given: &Map<String, Value>| {
            let planned = OutputPlan::from_properties(given, &[]).unwrap();
            assert!(planned.warnings.is_empty(), "{:?}", planned.warnings);
            format!("{:?}", planned.plan)
        };
        for (name, schema) in properties() {
            if let Some(default) = schema.get("default") {
                let given = Map::from_iter([(name.clone(), default.clone())]);
                assert_eq!(plan(&given), plan(&Map::new()), "{name}");
            }
        }
    }

    #[test]
    fn the_schema_and_the_host_agree() {
        let schema =
            json!({"type": "object", "properties": properties(), "additionalProperties": false});
        let validator = jsonschema::validator_for(&schema).unwrap();
        for (good, value) in [
            (
                true,
                json!({"sendSingle": true, "fields": ["a"], "format": "delimited", "delimiter": ";"}),
            ),
            (
                true,
                json!({"batchSize": 10, "lingerInterval": "500ms", "compression": "zstd"}),
            ),
            (
                true,
                json!({"compression": "gzip", "compressionProps": {"level": 9}, "concurrency": 4}),
            ),
            (false, json!({"sendSingle": "maybe"})),
            (false, json!({"batchSize": -1})),
            (false, json!({"fields": "a"})),
            (false, json!({"format": "protobuf"})),
            (false, json!({"compression": "zip"})),
            (false, json!({"encryption": "aes"})),
        ] {
            assert_eq!(validator.is_valid(&value), good, "{value}");
            let read = OutputPlan::from_properties(value.as_object().unwrap(), &[]);
            assert_eq!(read.is_ok(), good, "{value}");
        }
    }
}
