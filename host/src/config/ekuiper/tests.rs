//! The readers on files and exports of the shapes that eKuiper documents.

use serde_json::{Value, json};

use super::*;
use crate::config::Manifest;

fn file(path: &str, text: &str) -> EtcFile {
    EtcFile {
        path: path.to_owned(),
        name: path.to_owned(),
        text: text.to_owned(),
    }
}

fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

const MQTT_SOURCE: &str = "#Global MQTT configurations
default:
  qos: 1
  server: \"tcp://127.0.0.1:1883\"
  #username: user1
Demo_Conf: #Conf_key
  qos: 0
  server: tcp://10.211.55.6:1883
  sourceType: stream
";

const CONNECTIONS: &str = "mqtt:
  localConnection:
    server: tcp://127.0.0.1:1883
    password: ${not a variable}
  cloud: { server: tcp://cloud:1883, username: a }
  old: { xOperation: delete }
  odd: { server: tcp://x, xOperation: craete }
  none:
  bad.id: { server: tcp://x }
edgex:
  redisMsgBus: { protocol: tcp, server: 127.0.0.1, port: 6379, optional: { ClientId: me } }
sql:
";

#[test]
fn an_etc_folder_becomes_conf_keys_and_connections_of_every_type_in_their_own_case() {
    let files = [
        file("kuiper.yaml", "basic:\n  restPort: 9081\n  debug: false\n"),
        file("mqtt_source.yaml", MQTT_SOURCE),
        file("sources/edgex.yaml", "default:\n  port: 1883\n"),
        file("connections/connection.yaml", CONNECTIONS),
    ];
    let environment = environment(&[
        ("MQTT_SOURCE__DEFAULT__SERVER", "tcp://broker:1883"),
        ("MQTT_SOURCE__DEMO_CONF__ENABLECLIENTSESSION", "true"),
        ("EDGEX__DEFAULT__PORT", "1884"),
        ("CONNECTION__MQTT__CLOUD__PASSWORD", "a=b=c"),
        ("CONNECTION__SQL__PLANT__DBURL", "sqlite:x.db"),
        ("KUIPER__BASIC__RESTPORT", "9082"),
        ("KUIPER__BASIC__DEBUG", "true"),
        ("WINDLASS__BASIC__RESTPORT", "9083"),
        ("PATH", "/bin"),
    ]);
    let bundle = etc(&files, &environment).unwrap();
    let keys: Vec<_> = bundle
        .conf_keys
        .iter()
        .map(|item| {
            (
                item.typ.as_str(),
                item.key.as_str(),
                Value::from(item.props.clone()),
            )
        })
        .collect();
    assert_eq!(
        keys,
        [
            (
                "mqtt",
                "default",
                json!({"qos": 1, "server": "tcp://broker:1883"})
            ),
            (
                "mqtt",
                "Demo_Conf",
                json!({"qos": 0, "server": "tcp://10.211.55.6:1883", "enableClientSession": true})
            ),
            ("edgex", "default", json!({"port": 1884})),
        ]
    );
    let connections: Vec<_> = bundle
        .connections
        .iter()
        .map(|item| (item.typ.as_str(), item.id.as_str()))
        .collect();
    assert_eq!(
        connections,
        [
            ("mqtt", "localConnection"),
            ("mqtt", "cloud"),
            ("edgex", "redisMsgBus"),
            ("sql", "plant")
        ]
    );
    assert_eq!(bundle.connections[0].props["password"], "${not a variable}");
    assert_eq!(bundle.connections[1].props["password"], "a=b=c");
    assert_eq!(bundle.deleted, [("mqtt".to_owned(), "old".to_owned())]);
    let left: Vec<_> = bundle.left.iter().map(ToString::to_string).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(
        left[0].starts_with("connections/connection.yaml:7:3: connection mqtt/odd: unknown xOperation \"craete\"; did you mean \"create\"?"),
        "{left:?}"
    );
    assert!(left[1].contains("mqtt/none") && left[1].contains("must be a mapping, found nothing"));
    assert!(left[2].contains("mqtt/bad.id") && left[2].contains("invalid characters"));
    let remarks: Vec<_> = bundle.remarks.iter().map(ToString::to_string).collect();
    assert!(
        remarks
            .iter()
            .any(|text| text.contains("mqtt/localConnection: the id keeps its case"))
    );
    assert!(
        remarks
            .iter()
            .any(|text| text.contains("mqtt/Demo_Conf: \"sourceType\" is left out"))
    );
    assert_eq!(
        Value::from(bundle.settings.clone()),
        json!({"basic": {"restPort": 9083, "debug": true}})
    );
    assert!(
        !format!("{bundle:?}").contains("a=b=c"),
        "a secret is shown"
    );
}

#[test]
fn the_mark_of_connection_yaml_follows_its_meaning_and_its_variables() {
    let mark = |text: &str, variables: &[(&str, &str)]| {
        let files = [file("connections/connection.yaml", text)];
        etc(&files, &environment(variables)).unwrap().provision
    };
    let first = mark("mqtt: { a: { server: x, qos: 1 } }", &[]);
    assert_eq!(
        mark(
            "# other words\nmqtt:\n  a:\n    qos: 1\n    server: x\n",
            &[]
        ),
        first
    );
    assert_ne!(mark("mqtt: { a: { server: y, qos: 1 } }", &[]), first);
    assert_ne!(
        mark(
            "mqtt: { a: { server: x, qos: 1 } }",
            &[("CONNECTION__MQTT__A__QOS", "2")]
        ),
        first
    );
    assert_eq!(etc(&[], &[]).unwrap().provision, "");
    assert!(etc(&[], &[]).unwrap().is_empty());
}

#[test]
fn a_folder_is_read_with_its_own_files_and_says_all_that_is_broken() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("mqtt_source.yaml", MQTT_SOURCE);
    write("sources/simulator.yaml", "default: { interval: 10 }\n");
    write("sources/simulator.json", "{}");
    let bundle = read_etc(folder.path(), &[]).unwrap();
    assert_eq!(bundle.conf_keys.len(), 3);
    assert_eq!(bundle.conf_keys[2].typ, "simulator");
    write("mqtt_source.yaml", "default: [\n");
    write("sources/simulator.yaml", "- a\n");
    let errors = read_etc(folder.path(), &[]).unwrap_err();
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert!(
        texts[0].contains("mqtt_source.yaml:") && texts[0].contains("not YAML"),
        "{texts:?}"
    );
    assert!(
        texts[1].ends_with("this file must be a mapping, found a list"),
        "{texts:?}"
    );
    assert!(
        read_etc(&folder.path().join("nowhere"), &[])
            .unwrap()
            .is_empty()
    );
}

/// A data export as eKuiper documents it.
const DATA: &str = r#"{
  "streams": { "demo": "CREATE STREAM demo () WITH (DATASOURCE=\"users\", FORMAT=\"JSON\", CONF_KEY=\"td\")" },
  "tables": { "T110": "\n CREATE TABLE T110\n (\n S1 string\n )\n WITH (DATASOURCE=\"test.json\", FORMAT=\"json\", TYPE=\"file\", KIND=\"scan\", );\n " },
  "rules": {
    "rule1": "{\"id\": \"rule1\",\"sql\": \"SELECT * FROM demo\",\"actions\": [{\"log\": {}}]}",
    "rule2": "{\"sql\": \"SELECT * FROM demo\",\"actions\": [{  \"mqtt\": {\"connectionSelector\": \"conn1\", \"topic\": \"${x}\"}}]}",
    "broken": "{\"id\": ",
    "other": "{\"id\": \"another\"}"
  },
  "nativePlugins": { "functions_image": "{\"name\":\"image\"}" },
  "portablePlugins": {},
  "sourceConfig": { "mqtt": "{\"td\":{\"insecureSkipVerify\":false,\"password\":\"public\",\"qos\":1,\"server\":\"tcp://broker.emqx.io:1883\"},\"test\":{\"qos\":1}}" },
  "sinkConfig": { "edgex": "{\"test\":{\"bufferLength\":1024,\"type\":\"redis\"}}" },
  "connectionConfig": { "mqtt": "{\"conn1\":{\"server\":\"tcp://127.0.0.1:1883\"},\"conn2\":{\"server\":\"tcp://b\"}}", "sql": "not json" },
  "Service": {},
  "Schema": {},
  "uploads": {},
  "scripts": { "area": "{\"id\":\"area\"}" }
}"#;

#[test]
fn a_data_export_is_read_item_by_item() {
    let bundle = read_export("export.json", DATA).unwrap();
    assert_eq!(bundle.streams.len(), 1);
    assert_eq!(bundle.tables[0].name, "T110");
    let rules: Vec<_> = bundle.rules.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(rules, ["rule1", "rule2"]);
    assert_eq!(
        bundle.rules[0].text,
        r#"{"id": "rule1","sql": "SELECT * FROM demo","actions": [{"log": {}}]}"#
    );
    assert_eq!(
        bundle.rules[1].body["id"], "rule2",
        "the key is the id where the text has none"
    );
    let names: Vec<_> = bundle
        .conf_keys
        .iter()
        .map(|item| (item.kind, item.key.as_str()))
        .collect();
    assert_eq!(
        names,
        [
            (ConfKind::Source, "td"),
            (ConfKind::Source, "test"),
            (ConfKind::Sink, "test")
        ]
    );
    assert_eq!(bundle.connections.len(), 2);
    let left: Vec<_> = bundle.left.iter().map(ToString::to_string).collect();
    assert_eq!(left.len(), 5, "{left:?}");
    for (text, part) in left.iter().zip([
        "rule broken: its text is not JSON",
        "rule other: the rule that stands under this id calls itself \"another\"",
        "native plugin functions_image: native plugins are Go code",
        "connection sql: its text is not JSON",
        "script area: the query has no functions",
    ]) {
        assert!(text.contains(part), "{text}: {part}");
    }
}

#[test]
fn what_is_written_is_what_was_read() {
    let bundle = read_export("export.json", DATA).unwrap();
    let data = bundle.to_data();
    let keys: Vec<_> = data
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, Section::ALL.map(Section::key));
    assert!(
        data.as_object()
            .unwrap()
            .values()
            .flat_map(|section| section.as_object().unwrap().values())
            .all(Value::is_string),
        "every item is a text"
    );
    assert_eq!(
        data["connectionConfig"]["mqtt"],
        r#"{"conn1":{"server":"tcp://127.0.0.1:1883"},"conn2":{"server":"tcp://b"}}"#
    );
    let again = read_export("again", &data.to_string()).unwrap();
    assert_eq!(again.to_data(), data);
    let yaml = read_export("yaml", &bundle.to_data_yaml()).unwrap();
    assert!(yaml.left.is_empty(), "{:?}", yaml.left);
    assert_eq!(yaml.connections, bundle.connections);
    assert_eq!(yaml.conf_keys, bundle.conf_keys);
    assert_eq!(yaml.streams, bundle.streams);
    assert_eq!(yaml.rules[1].body, bundle.rules[1].body);
    let ruleset = bundle.to_ruleset();
    let keys: Vec<_> = ruleset.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["streams", "tables", "rules"]);
    assert_eq!(
        read_export("ruleset", &ruleset.to_string())
            .unwrap()
            .to_ruleset(),
        ruleset
    );
}

#[test]
fn the_yaml_form_and_init_json_are_read_by_the_same_reader() {
    let bundle = read_export(
        "export.yaml",
        "sourceConfig:
  sources.mqtt.mqttconf1: { connectionSelector: mqttcon, qos: 1, sourceType: stream }
  sinks.mqtt.wrong: {}
connectionConfig:
  connections.mqtt.mqttcon: { insecureSkipVerify: false, protocolVersion: 3.1.1, server: tcp://127.0.0.1:1883 }
streams:
  mqttstream1:
    sql: ' CREATE STREAM mqttstream1 ()       WITH (DATASOURCE=\"topic1\", FORMAT=\"json\", CONF_KEY=\"mqttconf1\", TYPE=\"mqtt\", SHARED=\"false\", );'
  other:
    sql: CREATE STREAM demo () WITH ()
rules:
  rule1: { triggered: false, id: rule1, sql: select * from mqttstream1, actions: [{ log: {} }] }
",
    )
    .unwrap();
    assert_eq!(bundle.connections[0].id, "mqttcon");
    assert_eq!(bundle.conf_keys[0].key, "mqttconf1");
    assert_eq!(bundle.conf_keys[0].props.get("sourceType"), None);
    assert_eq!(bundle.rules[0].body["triggered"], false);
    let left: Vec<_> = bundle.left.iter().map(ToString::to_string).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left[0].contains("names here begin with \"sources.\""));
    assert!(left[1].contains("creates \"demo\""));

    let init = r#"{"streams": {"s": "CREATE STREAM s () WITH (DATASOURCE=\"t\")"}, "tables": {}, "rules": {"r": {"sql": "SELECT * FROM s", "actions": [{"log": {}}]}}}"#;
    let bundle = read_export("init.json", init).unwrap();
    assert_eq!((bundle.streams.len(), bundle.rules.len()), (1, 1));
}

#[test]
fn what_is_no_export_is_a_sentence_with_its_place() {
    let wrong = |text: &str| read_export("x", text).unwrap_err()[0].to_string();
    assert!(
        wrong("{\"streams\": {\n \"a\": }").starts_with("x:2:7: this is not JSON: expected value")
    );
    assert!(wrong("a: [").contains("this is not YAML"));
    assert_eq!(
        wrong("[1]"),
        "x: an export of eKuiper is a mapping of sections, found a list"
    );
    assert!(wrong("{\"connections\": []}").contains("it has none of streams, tables, rules"));
    assert_eq!(
        wrong("{\"streams\": []}"),
        "x: \"streams\" must be a mapping, found a list"
    );
    let bundle = read_export("x", "{\"stream\": {}, \"rules\": null}").unwrap();
    assert!(
        bundle.left[0]
            .message
            .ends_with("did you mean \"streams\"?")
    );
}

#[test]
fn a_part_of_an_export_is_rules_and_what_they_need() {
    let bundle = read_export("export.json", DATA).unwrap();
    let (part, missing) = bundle.of_rules(&["rule2".to_owned(), "nope".to_owned()]);
    assert_eq!(missing, ["nope"]);
    assert_eq!(part.rules.len(), 1);
    assert_eq!(part.streams[0].name, "demo");
    assert!(part.tables.is_empty());
    assert_eq!(part.conf_keys.len(), 1);
    assert_eq!(part.conf_keys[0].key, "td");
    assert_eq!(part.connections.len(), 1);
    assert_eq!(part.connections[0].id, "conn1");
}

#[test]
fn a_manifest_of_a_bundle_reads_back_and_every_item_has_its_place() {
    let bundle = read_export("export.json", DATA).unwrap();
    let manifest = bundle.to_manifest(&|section, id| section == Section::Rules && id == "rule1");
    let source = crate::config::Source {
        name: "m".to_owned(),
        text: manifest.text.clone(),
        base: std::path::PathBuf::new(),
    };
    let (read, errors) = Manifest::parse(&[source], &|_| None);
    assert!(errors.is_empty(), "{errors:?}\n{}", manifest.text);
    assert_eq!(read.connections.len(), 2);
    assert_eq!(read.streams[0].sql, bundle.streams[0].sql);
    assert_eq!(read.rules.len(), 1);
    assert_eq!(
        read.rules[0].actions[0].props["topic"], "${x}",
        "what looks like a variable stays text"
    );
    assert_eq!(read.conf_keys.iter().count(), 2);
    let of = |pointer: &str| {
        manifest
            .item(pointer)
            .map(|item| (item.section, item.id.as_str()))
    };
    assert_eq!(of("/rules/0/sql"), Some((Section::Rules, "rule2")));
    assert_eq!(
        of("/connections/1/props/server"),
        Some((Section::ConnectionConfig, "mqtt/conn2"))
    );
    assert_eq!(
        of("/confKeys/mqtt/td/qos"),
        Some((Section::SourceConfig, "mqtt/td"))
    );
    assert_eq!(
        of("/confKeys/mqtt/test"),
        Some((Section::SourceConfig, "mqtt/test"))
    );
    assert_eq!(of("/rules/1"), None);
}
