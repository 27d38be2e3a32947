//! What manifests say, as items to be sent. Rules are sent as they were written, variables filled in,
//! and not as this program has read them.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Item, What};
use crate::config::{Manifest, ManifestError};

/// Everything that manifests say.
pub(super) struct Desired {
    pub(super) items: Vec<Item>,
    pub(super) warnings: Vec<ManifestError>,
    /// Sections that only a server's own start reads.
    pub(super) local: Vec<&'static str>,
}

/// Reads manifests and the connectors that they name.
pub(super) fn desired(files: &[PathBuf]) -> Result<Desired, Vec<ManifestError>> {
    let manifest = Manifest::load(files)?;
    let mut items = Vec::new();
    let mut errors = Vec::new();
    for def in &manifest.connectors {
        match std::fs::read(&def.path) {
            Ok(wasm) => items.push(Item {
                what: What::Connector,
                id: def.name.clone(),
                body: json!({"digest": blake3::hash(&wasm).to_hex().as_str()}),
                file: Some(def.path.clone()),
            }),
            Err(error) => {
                let message = format!("{} cannot be read: {error}", def.path.display());
                errors.push(manifest.error(&def.pointer, message));
            }
        }
    }
    let mut add = |what, id: String, body| {
        items.push(Item {
            what,
            id,
            body,
            file: None,
        });
    };
    for def in &manifest.connections {
        let body = json!({"typ": def.typ, "props": def.props});
        add(What::Connection, def.id.clone(), body);
    }
    for def in manifest.conf_keys.iter() {
        let id = format!("{}/{}", def.typ.to_lowercase(), def.key);
        add(What::ConfKey, id, Value::Object(def.props.clone()));
    }
    for def in &manifest.streams {
        match crate::config::ekuiper::stream_name(&def.sql) {
            Some(name) => add(What::Stream, name.to_owned(), json!({"sql": def.sql})),
            None => {
                let message = "this is no CREATE STREAM statement with a name";
                errors.push(manifest.error_within(&def.pointer, 1, 1, message));
            }
        }
    }
    for def in &manifest.rules {
        let mut body = def.json.0.clone();
        if let Some(fields) = body.as_object_mut() {
            // Where the rules are a mapping it is the key.
            fields.insert("id".to_owned(), def.id.clone().into());
        }
        add(What::Rule, def.id.clone(), body);
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let local = [
        ("files", manifest.files.root.is_some()),
        ("push", manifest.push != Default::default()),
        ("limits", manifest.limits != Default::default()),
        ("rest", manifest.rest != Default::default()),
    ];
    Ok(Desired {
        items,
        warnings: manifest.warnings,
        local: local
            .into_iter()
            .filter_map(|(name, there)| there.then_some(name))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_items_and_its_rules_stay_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        write("own.wasm", "not looked into");
        let first = write(
            "a.yaml",
            "connections: [{id: plant, typ: mqtt, props: {server: \"tcp://${NOBODY_SETS_THIS:-h}:1\"}}]
confKeys: {MQTT: {line: {qos: 1}}}
connectors: {own: own.wasm}
limits: {diskQueueBytes: 2MiB}
streams: [CREATE STREAM demo () WITH (DATASOURCE=\"t\")]
",
        );
        let second = write(
            "b.yaml",
            "rules:
  hot: {sql: SELECT * FROM demo, actions: [{log: {}}], options: {debug: true, qos: 1}}
---
rules: [{id: cold, sql: SELECT a FROM demo, actions: [{log: null}], triggered: false}]
",
        );
        let wanted = desired(&[first, second]).unwrap_or_else(|errors| panic!("{errors:?}"));
        let items: Vec<_> = wanted
            .items
            .iter()
            .map(|item| (item.what, item.id.as_str()))
            .collect();
        assert_eq!(
            items,
            [
                (What::Connector, "own"),
                (What::Connection, "plant"),
                (What::ConfKey, "mqtt/line"),
                (What::Stream, "demo"),
                (What::Rule, "hot"),
                (What::Rule, "cold"),
            ]
        );
        assert_eq!(wanted.items[1].body["props"]["server"], "tcp://h:1");
        assert_eq!(
            wanted.items[4].body,
            json!({"sql": "SELECT * FROM demo", "actions": [{"log": {}}], "options": {"debug": true, "qos": 1}, "id": "hot"})
        );
        assert_eq!(wanted.items[5].body["actions"], json!([{"log": null}]));
        assert_eq!(wanted.local, ["limits"]);
        assert!(
            wanted
                .warnings
                .iter()
                .any(|warning| warning.message.contains("debug"))
        );
        let broken = write(
            "c.yaml",
            "connectors: {own: nowhere.wasm}\nstreams: [SELECT 1]\n",
        );
        let errors = desired(&[broken]).err().unwrap();
        assert_eq!(errors.len(), 2, "{errors:?}");
    }
}
