//! The sections of a manifest as JSON Schema, for editors: what the reader in this room takes. What
//! belongs to connection types and connectors is left open, for whoever knows them (`host`).

use serde_json::{Map, Value, json};

use super::rule::{self, RestartStrategy, RuleOptions};

/// What ids look like.
pub const ID: &str = "^[A-Za-z0-9_-]+$";

/// The same schema for a value that may also be given as `${NAME}`, which is filled in before
/// anything is read: text alone may hold it as it is.
#[must_use]
pub fn or_variable(mut schema: Value) -> Value {
    let takes_text = schema.get("enum").is_none()
        && match schema.get("type") {
            None => true,
            Some(Value::String(one)) => matches!(one.as_str(), "string" | "object" | "array"),
            Some(many) => many
                .as_array()
                .is_some_and(|many| many.iter().any(|one| one == "string")),
        };
    if takes_text {
        return schema;
    }
    let mut outer = Map::new();
    if let Some(object) = schema.as_object_mut() {
        for name in ["description", "default", "deprecated"] {
            if let Some(value) = object.shift_remove(name) {
                outer.insert(name.to_owned(), value);
            }
        }
    }
    outer.insert("anyOf".to_owned(), json!([schema, variable()]));
    Value::Object(outer)
}

fn variable() -> Value {
    json!({"type": "string", "pattern": "\\$\\{"})
}

/// Whether this is what [`or_variable`] has put beside a schema.
#[must_use]
pub fn is_variable(schema: &Value) -> bool {
    *schema == variable()
}

/// A list of items or a mapping by id; both may hold `item`. Items of a list must have these.
#[must_use]
pub fn items(item: &Value, needed: &[&str], about: &str) -> Value {
    let listed = if needed.is_empty() {
        item.clone()
    } else {
        json!({"allOf": [item, {"required": needed}]})
    };
    json!({
        "description": about,
        "type": ["array", "object", "null"],
        "items": listed,
        "propertyNames": {"pattern": ID},
        "additionalProperties": item,
    })
}

/// A closed object.
#[must_use]
pub fn closed(properties: impl Into<Value>, required: &[&str]) -> Value {
    json!({
        "type": "object", "properties": properties.into(), "required": required,
        "additionalProperties": false,
    })
}

fn told(mut schema: Value, about: &str) -> Value {
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".to_owned(), about.into());
    }
    or_variable(schema)
}

fn bytes(least: u64) -> Value {
    json!({
        "type": ["integer", "string"], "minimum": least,
        "pattern": "^\\s*[0-9]+\\s*(B|K|KiB|M|MiB|G|GiB|kB|MB|GB)?\\s*$|\\$\\{",
    })
}

fn duration(default: Option<std::time::Duration>) -> Value {
    let mut schema = json!({"type": ["integer", "string"], "minimum": 0});
    if let (Some(object), Some(default)) = (schema.as_object_mut(), default) {
        let ms = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        let text = if ms.is_multiple_of(1000) {
            format!("{}s", ms / 1000)
        } else {
            format!("{ms}ms")
        };
        object.insert("default".to_owned(), text.into());
    }
    schema
}

/// `limits`.
#[must_use]
pub fn limits() -> Value {
    let small = 64 * 1024;
    let properties = json!({
        "diskQueueBytes": told(bytes(1 << 20), "Bytes of one action's disk queue, such as 512MiB; 1 GiB unless told."),
        "diskBytes": told(bytes(1 << 20), "Bytes of all disk queues together; 8 GiB unless told."),
        "diskReserveBytes": told(bytes(0), "What the disk queues leave free on their disk, for the store; 64 MiB, or a sixteenth of a smaller disk, unless told."),
        "deadLetterBytes": told(bytes(1 << 20), "Bytes of all dead letters; 256 MiB unless told."),
        "deadLetterAge": told(duration(None), "How long a dead letter is kept, such as 720h; older ones are removed and counted. For ever unless told."),
        "unsettledMessages": told(
            json!({"type": "integer", "minimum": 1, "maximum": 65535, "default": 65535}),
            "Messages of one connection that are received and not settled."
        ),
        "unsettledBytes": told(bytes(small), "The same in bytes; 64 MiB unless told."),
        "maxMessageBytes": told(bytes(1), "The largest message taken in; 16 MiB unless told."),
        "guestMemoryBytes": told(bytes(1 << 20), "Memory of one instance of a connector."),
        "guestCpu": told(duration(None), "Processor time of one call into a connector: milliseconds, or text such as 1s."),
        "callDeadline": told(duration(None), "How long one call into a connector may take, waiting for data not counted."),
    });
    let mut schema = closed(properties, &[]);
    annotate(&mut schema, "Bounds of this host.");
    nullable(schema)
}

/// `push`.
#[must_use]
pub fn push() -> Value {
    let text = |about: &str| told(json!({"type": "string", "minLength": 1}), about);
    let count = |about: &str| told(json!({"type": "integer", "minimum": 1}), about);
    let tls = closed(
        json!({
            "certfile": text("PEM file of the certificate chain, relative to this file's folder."),
            "keyfile": text("PEM file of its private key."),
        }),
        &["certfile", "keyfile"],
    );
    let properties = json!({
        "address": told(json!({"type": "string", "default": "127.0.0.1:10081"}), "Where it listens; port 0 is any free one."),
        "tls": tls,
        "maxConnections": count("Clients at once."),
        "maxRequests": count("Requests under way at once."),
    });
    let mut schema = closed(properties, &[]);
    annotate(&mut schema, "The data port: HTTP push.");
    nullable(schema)
}

/// `rest`.
#[must_use]
pub fn rest() -> Value {
    let text = |about: &str| told(json!({"type": "string", "minLength": 1}), about);
    let texts = |about: &str| told(json!({"type": "array", "items": {"type": "string"}}), about);
    let tls = closed(
        json!({
            "certfile": text("PEM file of the certificate chain, relative to this file's folder."),
            "keyfile": text("PEM file of its private key."),
        }),
        &["certfile", "keyfile"],
    );
    let properties = json!({
        "address": told(json!({"type": "string", "default": "127.0.0.1:9081"}), "Where it listens; port 0 is any free one."),
        "tls": tls,
        "keys": text("The folder with the public keys (PEM) of those who issue tokens, each named as its issuer. With it every request needs a token."),
        "names": texts("Host names of this server beside loopback and addresses."),
        "origins": texts("Pages of other servers that may use it, as https://name[:port]."),
        "maxConnections": told(json!({"type": "integer", "minimum": 1}), "Clients at once."),
        "maxBodyBytes": told(bytes(1024), "The largest body of a request; 16 MiB unless told."),
    });
    let mut schema = closed(properties, &[]);
    annotate(&mut schema, "REST, for `windlass serve`.");
    nullable(schema)
}

/// `files`.
#[must_use]
pub fn files() -> Value {
    let root = told(
        json!({"type": "string", "minLength": 1}),
        "The folder below which they may read and write; relative to this file's folder.",
    );
    let mut schema = closed(json!({"root": root}), &[]);
    annotate(&mut schema, "What is granted to the connector \"file\".");
    nullable(schema)
}

/// `connectors`.
#[must_use]
pub fn connectors() -> Value {
    json!({
        "description": "Connectors of your own: a name for TYPE and actions, and the component's file, relative to this file's folder.",
        "type": ["object", "null"],
        "propertyNames": {"pattern": ID},
        "additionalProperties": {"type": "string", "minLength": 1},
    })
}

/// `streams`.
#[must_use]
pub fn streams() -> Value {
    const CREATE: &str = "^\\s*[Cc][Rr][Ee][Aa][Tt][Ee]\\s+[Ss][Tt][Rr][Ee][Aa][Mm]\\b";
    let sql = json!({
        "description": "CREATE STREAM name (columns) WITH (TYPE=\"…\", DATASOURCE=\"…\", FORMAT=\"json\", CONF_KEY=\"…\", SHARED=\"true\")",
        "type": "string",
        "pattern": CREATE,
    });
    let item = json!({
        "type": ["string", "object"],
        "pattern": CREATE,
        "properties": {"sql": sql},
        "required": ["sql"],
        "additionalProperties": false,
    });
    items(&item, &[], "Streams: their statements.")
}

/// One rule; `actions` is the schema of its actions.
#[must_use]
pub fn rule(actions: Value) -> Value {
    let text = |about: &str| told(json!({"type": ["string", "null"]}), about);
    let properties = json!({
        "id": told(json!({"type": "string", "pattern": ID}), "Its id, unique."),
        "name": text("For people."),
        "sql": told(
            json!({"type": "string", "pattern": "\\S"}),
            "The query: SELECT columns FROM stream WHERE condition."
        ),
        "actions": actions,
        "options": nullable(options()),
        "triggered": told(json!({"type": "boolean", "default": true}), "False: known, but not started."),
        "tags": {"description": "For grouping.", "type": ["array", "null"], "items": {"type": "string"}},
        "version": text("Any text."),
        "temp": {"description": "Changes nothing: every rule comes from the manifest.", "type": "boolean", "deprecated": true},
    });
    closed(properties, &["sql", "actions"])
}

fn options() -> Value {
    let default = RuleOptions::default();
    let mut properties = json!({
        "qos": told(
            json!({"type": "integer", "minimum": 0, "maximum": 2, "default": default.qos}),
            "What is read is delivered at least once, whatever stands here."
        ),
        "bufferLength": told(
            json!({"type": "integer", "minimum": 1, "maximum": 1_000_000, "default": default.buffer_length}),
            "Messages in the memory queue of each action."
        ),
        "restartStrategy": restart(),
        "sendNilField": told(
            json!({"type": "boolean", "default": default.send_nil_field}),
            "Fields that are null are sent too."
        ),
        "overflow": told(
            json!({"enum": ["block", "drop-oldest"], "default": "block"}),
            "When the disk queue is full: new messages wait upstream, or the oldest are dropped and counted."
        ),
        "diskQueueBytes": told(bytes(1 << 20), "Bytes of each action's disk queue; as limits says unless told."),
        "deadLetters": nullable(dead_letters()),
    });
    if let Some(properties) = properties.as_object_mut() {
        for (name, why) in rule::WITHOUT_MEANING {
            properties.insert(
                (*name).to_owned(),
                json!({"description": format!("Changes nothing: {why}."), "deprecated": true}),
            );
        }
    }
    let mut schema = closed(properties, &[]);
    annotate(&mut schema, "How the rule runs.");
    schema
}

fn dead_letters() -> Value {
    let text = |about: &str| told(json!({"type": "string", "minLength": 1}), about);
    let properties = json!({
        "connectionSelector": text("The id of a connection that offers messaging."),
        "topic": text("Where they are published."),
        "qos": told(json!({"type": "integer", "minimum": 0, "maximum": 2, "default": 1}), "Level of the delivery."),
    });
    let mut schema = closed(properties, &["connectionSelector", "topic"]);
    annotate(
        &mut schema,
        "Dead letters are published there as JSON, and removed when the other side has them; else they stay in the store.",
    );
    schema
}

fn restart() -> Value {
    let default = RestartStrategy::default();
    let properties = json!({
        "attempts": told(
            json!({"type": "integer", "minimum": 0, "maximum": u32::MAX, "default": default.attempts}),
            "How often; 0: never."
        ),
        "delay": told(duration(Some(default.delay)), "Before the first attempt."),
        "maxDelay": told(duration(Some(default.max_delay)), "The longest wait."),
        "multiplier": told(
            json!({"type": "number", "minimum": 1, "maximum": 1000, "default": default.multiplier}),
            "The wait grows by this factor."
        ),
        "jitterFactor": told(
            json!({"type": "number", "minimum": 0, "maximum": 1, "default": default.jitter_factor}),
            "Part of the wait that is random."
        ),
    });
    let mut schema = closed(properties, &[]);
    annotate(
        &mut schema,
        "How it comes back after an error that stopped it.",
    );
    schema
}

fn annotate(schema: &mut Value, about: &str) {
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".to_owned(), about.into());
    }
}

/// The schema of an object, or nothing behind the colon.
#[must_use]
pub fn nullable(mut schema: Value) -> Value {
    if let Some(object) = schema.as_object_mut() {
        object.insert("type".to_owned(), json!(["object", "null"]));
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::super::{Manifest, Overflow, Source, merge};
    use super::*;

    fn names(schema: &Value) -> Vec<&str> {
        let properties = schema["properties"].as_object().unwrap();
        let mut names: Vec<_> = properties.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    fn sorted<'a>(names: impl IntoIterator<Item = &'a &'a str>) -> Vec<&'a str> {
        let mut names: Vec<_> = names.into_iter().copied().collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn every_name_that_is_read_is_in_the_schema_and_no_other() {
        assert_eq!(names(&rule(Value::Null)), sorted(rule::RULE));
        let ignored = rule::WITHOUT_MEANING.iter().map(|(name, _)| name);
        assert_eq!(
            names(&options()),
            sorted(rule::OPTIONS.iter().chain(ignored))
        );
        assert_eq!(names(&restart()), sorted(rule::RESTART));
        assert_eq!(names(&dead_letters()), sorted(rule::DEAD_LETTERS));
        assert_eq!(names(&limits()), sorted(merge::LIMITS));
        assert_eq!(names(&files()), ["root"]);
        assert_eq!(names(&push()), sorted(merge::PUSH));
        assert_eq!(names(&rest()), sorted(merge::REST));
    }

    /// Reads a rule with these options as the host does.
    fn read(options: &Value) -> Result<RuleOptions, ()> {
        let text = json!({"rules": [{"id": "r", "sql": "SELECT 1", "actions": [{"log": {}}], "options": options}]});
        let source = Source {
            name: "m".into(),
            text: text.to_string(),
            base: "".into(),
        };
        let (mut manifest, errors) = Manifest::parse(&[source], &|_| None);
        if errors.is_empty() {
            Ok(manifest.rules.remove(0).options)
        } else {
            Err(())
        }
    }

    #[test]
    fn a_default_of_the_schema_is_what_happens_without_it() {
        let default = |schema: &Value| -> Map<String, Value> {
            let all = schema["properties"].as_object().unwrap();
            all.iter()
                .filter_map(|(name, own)| Some((name.clone(), own.get("default")?.clone())))
                .collect()
        };
        let given = default(&options());
        assert!(given.len() >= 4, "{given:?}");
        assert_eq!(read(&Value::Object(given)), Ok(RuleOptions::default()));
        let given = json!({"restartStrategy": default(&restart())});
        assert_eq!(
            read(&given).unwrap().restart_strategy,
            Some(RestartStrategy::default())
        );
        assert_eq!(RuleOptions::default().overflow, Overflow::Block);
    }

    #[test]
    fn the_schema_refuses_options_that_the_host_refuses() {
        let validator = jsonschema::validator_for(&options()).unwrap();
        for (good, value) in [
            (
                true,
                json!({"qos": 1, "bufferLength": 10, "overflow": "drop-oldest", "diskQueueBytes": "64MiB"}),
            ),
            (
                true,
                json!({"restartStrategy": {"attempts": 3, "delay": "2s"}, "debug": true}),
            ),
            (false, json!({"qos": 3})),
            (false, json!({"bufferLength": 0})),
            (false, json!({"overflow": "drop_oldest"})),
            (false, json!({"diskQueueBytes": "5 apples"})),
            (false, json!({"restartStrategy": {"multiplier": 0.5}})),
            (false, json!({"restartStrategy": {"atempts": 3}})),
            (false, json!({"bufferLenght": 3})),
            (
                true,
                json!({"deadLetters": {"connectionSelector": "plant", "topic": "dead"}}),
            ),
            (true, json!({"deadLetters": null})),
            (
                false,
                json!({"deadLetters": {"connectionSelector": "plant"}}),
            ),
            (
                false,
                json!({"deadLetters": {"connectionSelector": "plant", "topic": "dead", "qos": 3}}),
            ),
            (
                false,
                json!({"deadLetters": {"connectionSelector": "plant", "topics": "dead"}}),
            ),
            (false, json!({"deadLetters": "plant"})),
        ] {
            assert_eq!(validator.is_valid(&value), good, "{value}");
            assert_eq!(read(&value).is_ok(), good, "{value}");
        }
        let variable = json!({"qos": "${QOS:-1}", "sendNilField": "${NIL}"});
        assert!(validator.is_valid(&variable));
    }
}
