//! The schema against manifests: all that stand in this tree, and typical mistakes.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::*;
use crate::config::{Source, document};
use crate::runtime::RuntimeConfig;

#[test]
fn a_reference_of_a_connector_leads_to_its_own_document() {
    let mut schema = json!({"properties": {"a": {"$ref": "#/$defs/field"}, "b": [{"$ref": "#"}]}});
    assert!(has_references(&schema));
    lead_references(&mut schema, "mine");
    assert_eq!(
        schema,
        json!({"properties": {
            "a": {"$ref": "#/$defs/connector.mine/$defs/field"}, "b": [{"$ref": "#/$defs/connector.mine"}],
        }})
    );
}

#[test]
fn every_property_of_every_connection_type_is_in_the_schema() {
    let schema = whole(&[], Registry::default());
    let validator = jsonschema::validator_for(&schema).unwrap();
    for kind in Registry::default().iter() {
        let properties = &schema["$defs"][format!("connection.{}", kind.name())]["properties"];
        for property in kind.properties() {
            let shown = &properties[property.name];
            assert!(shown.is_object(), "{}.{}", kind.name(), property.name);
            assert_eq!(
                shown["writeOnly"] == true,
                property.secret,
                "{}",
                property.name
            );
        }
        for alias in [kind.name()].iter().chain(kind.aliases()) {
            let known = json!({"connections": [{"id": "a", "typ": alias, "props": {}}]});
            assert!(validator.is_valid(&known), "{alias}");
            let odd = json!({"connections": [{"id": "a", "typ": alias, "props": {"no-such": 1}}]});
            assert!(!validator.is_valid(&odd), "{alias}");
        }
    }
}

/// The schema with all bundled connectors, made once.
fn bundled() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let tokio = tokio::runtime::Runtime::new().unwrap();
        tokio.block_on(async {
            let runtime = Runtime::new(RuntimeConfig {
                cache_dir: folder.path().join("code"),
                compile_command: crate::runtime::tests::compile_command(),
                ..RuntimeConfig::default()
            })
            .unwrap();
            let loaded = load(&Manifest::default(), &runtime, &()).await.unwrap();
            whole(&loaded, Registry::default())
        })
    })
}

fn parsed(text: &str) -> Option<Value> {
    let source = Source {
        name: "m".into(),
        text: text.into(),
        base: PathBuf::new(),
    };
    // Without the environment: what an editor sees is the text.
    document(&source, &|name| Some(format!("${{{name}}}"))).ok()
}

/// The host itself finds no mistake in it.
fn taken(text: &str) -> bool {
    let source = Source {
        name: "m".into(),
        text: text.into(),
        base: PathBuf::new(),
    };
    let (_, errors) = Manifest::parse(&[source], &|name| Some(format!("${{{name}}}")));
    errors.is_empty()
}

fn mistakes(manifest: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(bundled()).unwrap();
    validator
        .iter_errors(manifest)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// Raw strings and YAML blocks that are manifests.
fn manifests_of_the_tree() -> Vec<(String, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let mut add = |name: &str, text: &str| {
        let sections = ["connections:", "streams:", "rules:", "confKeys:"];
        if sections
            .iter()
            .any(|section| text.starts_with(section) || text.contains(&format!("\n{section}")))
        {
            found.push((name.to_owned(), text.to_owned()));
        }
    };
    for entry in std::fs::read_dir(root.join("tests/e2e")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let pieces = text
            .split("r#\"")
            .skip(1)
            .filter_map(|piece| piece.split("\"#").next());
        for piece in pieces.filter(|piece| !piece.contains('{') || piece.contains('\n')) {
            add(&path.display().to_string(), piece);
        }
    }
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    for block in readme
        .split("```yaml")
        .skip(1)
        .filter_map(|block| block.split("```").next())
    {
        add("README.md", block);
    }
    let demo = std::fs::read_to_string(root.join("host/demo/demo.yaml")).unwrap();
    add("demo.yaml", &demo);
    found
}

#[test]
fn the_schema_is_one_and_takes_every_manifest_of_this_tree() {
    assert!(jsonschema::meta::is_valid(bundled()));
    let manifests = manifests_of_the_tree();
    let manifests: Vec<_> = manifests
        .into_iter()
        // Some tests have manifests with mistakes on purpose.
        .filter(|(_, text)| taken(text))
        .collect();
    assert!(manifests.len() >= 2, "the demo's and the tests' own");
    for (name, text) in manifests {
        let manifest = parsed(&text).unwrap_or_else(|| panic!("{name} is no YAML:\n{text}"));
        assert_eq!(mistakes(&manifest), [""; 0], "{name}:\n{text}");
    }
}

#[test]
fn typical_mistakes_do_not_pass() {
    const GOOD: &str = r#"
connections:
  - id: plant
    typ: mqtt
    props: { server: "tcp://h:1", qos: 1 }
confKeys:
  mqtt:
    demo: { connectionSelector: plant, qos: 1 }
  simulator:
    fast: { rate: 20, fields: { n: { kind: sequence } } }
streams:
  - CREATE STREAM demo () WITH (TYPE="mqtt", DATASOURCE="in/#", CONF_KEY="demo")
rules:
  warm:
    sql: SELECT * FROM demo
    options: { bufferLength: 10, restartStrategy: { attempts: 3 } }
    actions:
      - mqtt: { connectionSelector: plant, topic: out, qos: "${QOS:-1}", sendSingle: true, maxDiskBytes: 70000 }
      - log:
files: { root: files }
limits: { diskQueueBytes: 64MiB }
"#;
    assert_eq!(mistakes(&parsed(GOOD).unwrap()), [""; 0]);
    for (from, to) in [
        ("connections:", "conections:"),
        ("typ: mqtt", "typ: mqqt"),
        ("  - id: plant\n    typ", "  - typ"),
        ("server:", "sever:"),
        ("\"tcp://h:1\", qos: 1", "\"tcp://h:1\", qos: 3"),
        ("\"tcp://h:1\"", "17"),
        ("plant, qos: 1 }", "plant, qos: high }"),
        ("rate: 20", "rte: 20"),
        ("kind: sequence", "kind: sequenz"),
        ("CREATE STREAM", "CREATE STEAM"),
        ("    sql:", "    sq:"),
        ("bufferLength", "bufferLenght"),
        ("attempts: 3", "attempts: often"),
        ("      - log:", "      - log: [1]"),
        ("topic: out, ", ""),
        ("topic: out", "topik: out"),
        ("sendSingle: true", "sendSingle: maybe"),
        ("sendSingle", "sendSingel"),
        ("maxDiskBytes: 70000", "maxDiskBytes: 1"),
        ("root: files", "rot: files"),
        ("64MiB", "64 apples"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        let manifest = parsed(&text).unwrap_or_else(|| panic!("no YAML:\n{text}"));
        assert_ne!(mistakes(&manifest), [""; 0], "{to}");
    }
}
