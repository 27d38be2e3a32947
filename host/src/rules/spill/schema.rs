//! The properties of an action's disk queue as JSON Schema, for editors.

use serde_json::{Map, Value, json};

use super::options::SMALLEST;
use crate::config::schema::or_variable;

/// Name to JSON Schema: all of [`super::SpillOptions::PROPERTIES`].
#[must_use]
pub fn properties() -> Map<String, Value> {
    const GOES_AGAIN: &str = "Changes nothing: failed messages go again through the action itself, in order, or to the dead letters.";
    let flag = |about: &str, default: bool| json!({"description": about, "type": ["boolean", "string"], "enum": [true, false, "true", "false"], "default": default});
    let whole = |about: &str, least: u64| {
        json!({
            "description": about, "type": ["integer", "string"], "minimum": least,
            "pattern": "^\\s*[0-9]+\\s*$|\\$\\{",
        })
    };
    let mut all = Map::new();
    let mut add = |name: &str, schema: Value| {
        all.insert(name.to_owned(), or_variable(schema));
    };
    add(
        "enableCache",
        flag(
            "False: nothing is moved to disk, upstream waits instead.",
            true,
        ),
    );
    add(
        "memoryCacheThreshold",
        whole(
            "Messages in memory before the disk queue; as the rule says unless told.",
            1,
        ),
    );
    add(
        "maxDiskCache",
        whole("Messages on disk; bounded by bytes alone unless told.", 1),
    );
    add(
        "maxDiskBytes",
        whole(
            "Bytes on disk; as the rule or the host says unless told.",
            SMALLEST,
        ),
    );
    add(
        "maxDiskAge",
        whole(
            "Milliseconds: older messages are dropped and counted; 0: never.",
            0,
        ),
    );
    add(
        "cleanCacheAtStop",
        flag("The queue is emptied when the rule stops.", false),
    );
    add(
        "overflow",
        json!({
            "description": "When a bound is reached: new messages wait upstream, or the oldest are dropped and counted; as the rule says unless told.",
            "enum": ["block", "drop-oldest"],
        }),
    );
    let mut paged = whole("Changes nothing: messages are not kept in pages here.", 1);
    if let Some(object) = paged.as_object_mut() {
        object.insert("deprecated".to_owned(), true.into());
    }
    add("bufferPageSize", paged);
    for name in [
        "resendAlterQueue",
        "resendPriority",
        "resendIndicatorField",
        "resendDestination",
    ] {
        add(name, json!({"description": GOES_AGAIN, "deprecated": true}));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::SpillOptions;
    use super::*;

    #[test]
    fn every_name_that_is_read_is_in_the_schema_and_no_other() {
        let all = properties();
        let mut names: Vec<_> = all.keys().map(String::as_str).collect();
        names.sort_unstable();
        let mut read = SpillOptions::PROPERTIES.to_vec();
        read.sort_unstable();
        assert_eq!(names, read);
    }

    #[test]
    fn the_schema_and_the_host_agree_on_defaults_and_on_mistakes() {
        let schema =
            json!({"type": "object", "properties": properties(), "additionalProperties": false});
        let validator = jsonschema::validator_for(&schema).unwrap();
        let mut defaults: Map<String, Value> = properties()
            .into_iter()
            .filter_map(|(name, schema)| Some((name, schema.get("default")?.clone())))
            .collect();
        assert_eq!(defaults.len(), 2);
        let read = SpillOptions::take_from(&mut defaults).unwrap();
        assert_eq!(read, SpillOptions::default());
        for (good, value) in [
            (
                true,
                json!({"enableCache": false, "maxDiskBytes": 70000, "overflow": "block"}),
            ),
            (
                true,
                json!({"maxDiskCache": "1000", "cleanCacheAtStop": "true", "resendPriority": -1}),
            ),
            (false, json!({"enableCache": 3})),
            (false, json!({"maxDiskBytes": 1})),
            (false, json!({"maxDiskCache": "many"})),
            (false, json!({"overflow": "drop_oldest"})),
            (false, json!({"bufferPageSize": 0})),
        ] {
            assert_eq!(validator.is_valid(&value), good, "{value}");
            let mut given = value.as_object().unwrap().clone();
            assert_eq!(SpillOptions::take_from(&mut given).is_ok(), good, "{value}");
        }
    }
}
