//! Manifests for `windlass run`, built piece by piece and written as YAML. The objects are those
//! that eKuiper's REST takes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// A manifest.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    connectors: Map<String, Value>,
    connections: Vec<Value>,
    conf_keys: Map<String, Value>,
    streams: Vec<Value>,
    rules: Vec<Value>,
    more: Vec<(&'static str, Value)>,
    files: Value,
    limits: Value,
}

impl Manifest {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A connector of one's own: the name that streams and actions use, and its file.
    #[must_use]
    pub fn connector(mut self, name: &str, file: &Path) -> Self {
        self.connectors
            .insert(name.to_owned(), json!(file.display().to_string()));
        self
    }

    /// A whole section (`push`, `files`, `limits`).
    #[must_use]
    pub fn section(mut self, name: &'static str, section: Value) -> Self {
        self.more.push((name, section));
        self
    }

    /// A named connection.
    #[must_use]
    pub fn connection(mut self, id: &str, typ: &str, props: Value) -> Self {
        self.connections
            .push(json!({ "id": id, "typ": typ, "props": props }));
        self
    }

    /// A named MQTT connection with a persistent session of its own.
    #[must_use]
    pub fn mqtt(self, id: &str, server: &str) -> Self {
        let props = json!({ "server": server, "clientid": format!("windlass-{id}"), "enableClientSession": true });
        self.connection(id, "mqtt", props)
    }

    /// Grants a folder for files.
    #[must_use]
    pub fn files(mut self, root: &Path) -> Self {
        self.files = json!({ "root": root.display().to_string() });
        self
    }

    /// Bounds of the whole host.
    #[must_use]
    pub fn limits(mut self, limits: Value) -> Self {
        self.limits = limits;
        self
    }

    /// Properties for streams of one source type, by name.
    #[must_use]
    pub fn conf_key(mut self, source: &str, key: &str, props: Value) -> Self {
        let keys = self.conf_keys.entry(source).or_insert_with(|| json!({}));
        if let Some(keys) = keys.as_object_mut() {
            keys.insert(key.to_owned(), props);
        }
        self
    }

    /// A stream by its statement.
    #[must_use]
    pub fn stream(mut self, sql: &str) -> Self {
        self.streams.push(json!({ "sql": sql }));
        self
    }

    /// A JSON stream over a named MQTT connection, with a conf key of the stream's name.
    #[must_use]
    pub fn mqtt_stream(
        self,
        name: &str,
        connection: &str,
        topic: &str,
        qos: u8,
        shared: bool,
    ) -> Self {
        let shared = if shared { r#", SHARED="true""# } else { "" };
        let sql = format!(
            r#"CREATE STREAM {name} () WITH (TYPE="mqtt", DATASOURCE="{topic}", FORMAT="json", CONF_KEY="{name}"{shared})"#
        );
        self.conf_key(
            "mqtt",
            name,
            json!({ "connectionSelector": connection, "qos": qos }),
        )
        .stream(&sql)
    }

    /// A rule by its statement and its actions.
    #[must_use]
    pub fn rule(self, id: &str, sql: &str, actions: Value) -> Self {
        self.rule_with(id, sql, actions, json!({}))
    }

    /// The same with options.
    #[must_use]
    pub fn rule_with(mut self, id: &str, sql: &str, actions: Value, options: Value) -> Self {
        self.rules
            .push(json!({ "id": id, "sql": sql, "actions": actions, "options": options }));
        self
    }

    /// The manifest as YAML.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut out = String::new();
        let parts = [
            ("connectors", Value::from(self.connectors.clone())),
            ("connections", Value::from(self.connections.clone())),
            ("confKeys", Value::from(self.conf_keys.clone())),
            ("streams", Value::from(self.streams.clone())),
            ("rules", Value::from(self.rules.clone())),
            ("files", self.files.clone()),
            ("limits", self.limits.clone()),
        ];
        for (name, part) in parts.into_iter().chain(self.more.iter().cloned()) {
            if part.as_array().is_some_and(|part| !part.is_empty())
                || part.as_object().is_some_and(|part| !part.is_empty())
            {
                write!(out, "{name}:").expect("a string takes all");
                write_yaml(&mut out, &part, 1);
            }
        }
        out
    }

    /// Writes it into a folder.
    ///
    /// # Panics
    /// It cannot be written.
    #[must_use]
    pub fn write(&self, folder: &Path) -> PathBuf {
        let file = folder.join("manifest.yaml");
        std::fs::write(&file, self.yaml()).expect("the manifest can be written");
        file
    }
}

/// An action that publishes each message by itself on a named MQTT connection.
#[must_use]
pub fn publish_to(connection: &str, topic: &str, qos: u8) -> Value {
    json!([{ "mqtt": { "connectionSelector": connection, "topic": topic, "qos": qos, "sendSingle": true } }])
}

/// Appends a value behind `key:` or `-`. A scalar as in JSON, which YAML takes as it is.
fn write_yaml(out: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                write!(out, "\n{indent}{}:", json!(key)).expect("a string takes all");
                write_yaml(out, value, depth + 1);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                write!(out, "\n{indent}-").expect("a string takes all");
                write_yaml(out, value, depth + 1);
            }
        }
        scalar => write!(out, " {scalar}").expect("a string takes all"),
    }
    if depth == 1 {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_yaml_with_a_line_for_each_thing() {
        let manifest = Manifest::new()
            .mqtt("plant", "tcp://127.0.0.1:1883")
            .mqtt_stream("demo", "plant", "in/#", 1, true)
            .rule(
                "warm",
                "SELECT * FROM demo WHERE temperature > 50",
                publish_to("plant", "out", 1),
            );
        let expected = r#"connections:
  -
    "id": "plant"
    "typ": "mqtt"
    "props":
      "server": "tcp://127.0.0.1:1883"
      "clientid": "windlass-plant"
      "enableClientSession": true
confKeys:
  "mqtt":
    "demo":
      "connectionSelector": "plant"
      "qos": 1
streams:
  -
    "sql": "CREATE STREAM demo () WITH (TYPE=\"mqtt\", DATASOURCE=\"in/#\", FORMAT=\"json\", CONF_KEY=\"demo\", SHARED=\"true\")"
rules:
  -
    "id": "warm"
    "sql": "SELECT * FROM demo WHERE temperature > 50"
    "actions":
      -
        "mqtt":
          "connectionSelector": "plant"
          "topic": "out"
          "qos": 1
          "sendSingle": true
    "options": {}
"#;
        assert_eq!(manifest.yaml(), expected);
    }
}
