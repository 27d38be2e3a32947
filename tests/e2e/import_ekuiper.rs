//! What an eKuiper has defined, looked at and taken over: an export of its REST and its folder, item
//! by item, and the manifest that is made of them runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::shared;
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::windlass::{Said, command};

use crate::settings::{expect_all, warm_ones};

/// A data export as eKuiper makes one (`GET /data/export`), of what works, what warns, and what is not
/// there.
fn export(server: &str) -> Value {
    let text = |value: Value| Value::String(value.to_string());
    let rule = |id: &str, sql: &str, more: Value| {
        let mut rule = json!({"triggered": true, "id": id, "sql": sql, "actions": [{"log": {}}]});
        for (name, value) in more.as_object().into_iter().flatten() {
            rule[name] = value.clone();
        }
        text(rule)
    };
    let out = json!([{"mqtt": {"connectionSelector": "plant", "topic": "out", "qos": 1, "sendSingle": true}}]);
    json!({
        "streams": {
            "demo": " CREATE STREAM demo ()\n  WITH (DATASOURCE=\"in/#\", FORMAT=\"json\", CONF_KEY=\"plant_key\", TYPE=\"mqtt\", SHARED=\"false\", );",
            "timed": "CREATE STREAM timed (a BIGINT) WITH (DATASOURCE=\"t\", TIMESTAMP=\"ts\", CONF_KEY=\"plant_key\")",
            "cam": "CREATE STREAM cam () WITH (TYPE=\"video\", FORMAT=\"json\")",
            "proto": "CREATE STREAM proto () WITH (DATASOURCE=\"p\", FORMAT=\"protobuf\", SCHEMAID=\"a.B\", CONF_KEY=\"plant_key\")",
            "bus": "CREATE STREAM bus () WITH (TYPE=\"mqtt\", DATASOURCE=\"b\", CONF_KEY=\"bus_key\")",
        },
        "tables": {
            "devices": "CREATE TABLE devices () WITH (DATASOURCE=\"d\", TYPE=\"sql\", KIND=\"lookup\", CONF_KEY=\"x\")",
        },
        "rules": {
            "warm": rule("warm", "SELECT * FROM demo WHERE temperature > 50", json!({"actions": out})),
            "scheduled": rule("scheduled", "SELECT * FROM demo", json!({
                "options": {"cron": "0 0 * * *", "duration": "1h", "isEventTime": false, "sendError": true,
                    "restartStrategy": {"attempts": 0, "delay": 1000, "multiplier": 2, "maxDelay": 30000, "jitterFactor": 0.1}},
            })),
            "windowed": rule("windowed", "SELECT avg(temperature) FROM demo GROUP BY TUMBLINGWINDOW(ss, 10)", json!({})),
            "joined": rule("joined", "SELECT * FROM demo INNER JOIN devices ON demo.id = devices.id", json!({})),
            "on_cam": rule("on_cam", "SELECT * FROM cam", json!({})),
            "odd_function": rule("odd_function", "SELECT upperr(room) FROM demo", json!({})),
            "odd_sink": rule("odd_sink", "SELECT * FROM demo", json!({"actions": [{"tdengine": {"host": "h"}}]})),
            "graph": text(json!({"id": "graph", "name": "g", "graph": {"nodes": {}, "topo": {}}})),
        },
        "nativePlugins": {"sources_video": "{\"name\":\"video\"}"},
        "portablePlugins": {},
        "sourceConfig": {
            "mqtt": text(json!({
                "plant_key": {"connectionSelector": "plant", "qos": 1, "sourceType": "stream"},
                "bus_key": {"connectionSelector": "lake", "qos": 0},
            })),
        },
        "sinkConfig": {"mqtt": text(json!({"k": {"qos": 1}}))},
        "connectionConfig": {
            "mqtt": text(json!({
                "plant": {"server": server, "clientid": "from-ekuiper", "password": "hunter2-hunter2", "username": "u",
                    "insecureSkipVerify": false, "protocolVersion": "3.1.1"},
            })),
            "tdengine": text(json!({"lake": {"host": "h", "port": 6030}})),
        },
        "Service": {}, "Schema": {}, "uploads": {},
        "scripts": {"area": "{\"id\":\"area\",\"script\":\"function area(x, y) { return x * y; }\"}"},
    })
}

/// Verdict, reasons and warnings of each item, by kind and id.
fn verdicts(said: &Said) -> BTreeMap<String, (String, String)> {
    let answer = said
        .json()
        .pop()
        .unwrap_or_else(|| panic!("no JSON: {}", said.all()));
    let items = answer["items"].as_array().expect("items").iter();
    items
        .map(|item| {
            let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
            let why = format!("{} {}", item["reasons"], item["warnings"]);
            (
                format!("{} {}", text("kind"), text("id")),
                (text("verdict"), why),
            )
        })
        .collect()
}

fn import(from: &Path, more: &[&str]) -> Said {
    let from = from.display().to_string();
    let mut arguments = vec!["import-ekuiper", from.as_str(), "--json"];
    arguments.extend(more);
    command(&arguments)
}

#[test]
fn an_export_is_judged_item_by_item_and_what_works_runs_with_its_messages() {
    let _machine = shared();
    let broker = Mosquitto::with(Broker {
        extra: "log_type subscribe".to_owned(),
        ..Broker::default()
    });
    let folder = tempfile::tempdir().expect("a folder");
    let (from, to) = (
        folder.path().join("export.json"),
        folder.path().join("m.yaml"),
    );
    fs::write(&from, export(&broker.url()).to_string()).expect("written");
    let to_text = to.display().to_string();
    let said = import(&from, &["--output", &to_text]);
    assert_eq!(said.code, Some(1), "some is not supported: {}", said.all());
    assert!(
        !said.all().contains("hunter2-hunter2"),
        "a secret is printed"
    );
    let verdicts = verdicts(&said);
    for (item, verdict, part) in [
        ("connection mqtt/plant", "works", ""),
        (
            "connection tdengine/lake",
            "unsupported",
            "unknown connection type",
        ),
        ("conf key mqtt/plant_key", "warning", "sourceType"),
        (
            "conf key mqtt/bus_key",
            "unsupported",
            "needs the connection \\\"lake\\\", which is not supported",
        ),
        ("sink conf key mqtt/k", "warning", "actions do not read it"),
        ("stream demo", "works", ""),
        ("stream timed", "warning", "TIMESTAMP changes nothing"),
        (
            "stream cam",
            "unsupported",
            "there is no connector \\\"video\\\"",
        ),
        ("stream proto", "unsupported", "protobuf"),
        (
            "stream bus",
            "unsupported",
            "needs the conf key \\\"bus_key\\\"",
        ),
        ("table devices", "unsupported", "tables serve joins"),
        ("rule warm", "works", ""),
        ("rule scheduled", "warning", "cron"),
        ("rule windowed", "unsupported", "downstream"),
        ("rule joined", "unsupported", "JOIN"),
        (
            "rule on_cam",
            "unsupported",
            "needs the stream \\\"cam\\\", which is not supported",
        ),
        ("rule odd_function", "unsupported", "upper"),
        (
            "rule odd_sink",
            "unsupported",
            "there is no connector \\\"tdengine\\\"",
        ),
        ("rule graph", "unsupported", "graph"),
        ("native plugin sources_video", "unsupported", "connector"),
        ("script area", "unsupported", "JavaScript"),
    ] {
        let Some((found, why)) = verdicts.get(item) else {
            panic!("{item} is not judged: {verdicts:#?}")
        };
        assert_eq!(found, verdict, "{item}: {why}");
        assert!(
            why.to_lowercase().contains(&part.to_lowercase()),
            "{item}: {why}"
        );
    }
    assert_eq!(verdicts.len(), 21, "{verdicts:#?}");

    let text = fs::read_to_string(&to).expect("the manifest");
    assert!(text.contains("# left out: rule windowed: "), "{text}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(&to).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "it holds secrets");
    }
    let again = import(&from, &["--output", &to_text]);
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("is there already"), "{}", again.err);

    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let data = folder.path().join("data");
    let mut windlass = std::process::Command::new(windlass_tests::windlass::binary())
        .args(["run", &to_text, "--data"])
        .arg(&data)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("windlass can be started");
    let subscribed = windlass_tests::machine::holds_within(Duration::from_secs(60), || {
        broker.logged("from-ekuiper 1 in/#") > 0
    });
    let sent = Publish::new(broker.port(), "in/1", 1)
        .rate(500)
        .count(200)
        .start()
        .join();
    let expected = warm_ones(0..200);
    let arrived = windlass_tests::machine::holds_within(Duration::from_secs(20), || {
        far.arrived() >= expected.len() as u64
    });
    drop(windlass.kill());
    drop(windlass.wait());
    assert!(subscribed, "the stream subscribes: {}", broker.log());
    assert_eq!(sent.acknowledged.len(), 200);
    assert!(arrived, "{}", far.ledger().summary());
    expect_all(&far, &expected, Duration::from_secs(1));
}

#[test]
fn a_folder_of_ekuiper_is_read_with_its_default_its_connections_and_its_first_rules() {
    let _machine = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("below")).expect("made");
        fs::write(path, text).expect("written");
    };
    write("etc/kuiper.yaml", "basic:\n  restPort: 9081\n");
    write(
        "etc/mqtt_source.yaml",
        "#Global MQTT configurations\ndefault:\n  qos: 1\n  server: \"tcp://127.0.0.1:1883\"\n  #username: user1\n\ndemo_conf: #Conf_key\n  qos: 0\n  connectionSelector: cloud\n",
    );
    write(
        "etc/sources/edgex.yaml",
        "default:\n  protocol: tcp\n  port: 1883\n  server: edgex-mqtt-broker\n",
    );
    write(
        "etc/connections/connection.yaml",
        "mqtt:\n  cloud:\n    server: tcp://127.0.0.1:1884\n    clientid: c1\n  gone:\n    xOperation: delete\n  Mixed:\n    server: tcp://127.0.0.1:1885\n    clientid: c2\n",
    );
    write(
        "data/init.json",
        r#"{"streams": {
            "plain": "CREATE STREAM plain () WITH (DATASOURCE=\"a\")",
            "keyed": "CREATE STREAM keyed () WITH (DATASOURCE=\"b\", CONF_KEY=\"DEMO_CONF\")"},
           "tables": {},
           "rules": {"both": "{\"id\":\"both\",\"sql\":\"SELECT * FROM plain\",\"actions\":[{\"log\":{}}]}"}}"#,
    );
    let said = import(folder.path(), &[]);
    assert_eq!(said.code, Some(0), "{}", said.all());
    let verdicts = verdicts(&said);
    for (item, verdict) in [
        ("connection mqtt/cloud", "works"),
        ("connection mqtt/Mixed", "warning"),
        ("conf key mqtt/default", "works"),
        ("conf key mqtt/demo_conf", "works"),
        ("stream plain", "works"),
        ("stream keyed", "works"),
        ("rule both", "works"),
    ] {
        assert_eq!(
            verdicts.get(item).map(|(found, _)| found.as_str()),
            Some(verdict),
            "{item}: {verdicts:#?}"
        );
    }
    assert_eq!(
        verdicts.len(),
        7,
        "the default of a type that no stream has is not asked about: {verdicts:#?}"
    );

    // What is no eKuiper, and what is broken, is a sentence and exit code 78.
    write("etc/connections/connection.yaml", "mqtt: [\n");
    let said = import(folder.path(), &[]);
    assert_eq!(said.code, Some(78), "{}", said.all());
    assert!(said.err.contains("connection.yaml:"), "{}", said.err);
    let empty = tempfile::tempdir().expect("a folder");
    let said = import(empty.path(), &[]);
    assert_eq!(said.code, Some(78));
    assert!(said.err.contains("no folder of eKuiper"), "{}", said.err);
    let odd = folder.path().join("odd.json");
    fs::write(&odd, "{\"streams\": {\n\"a\": }").expect("written");
    let said = import(&odd, &[]);
    assert_eq!(said.code, Some(78));
    assert!(said.err.contains("odd.json:2:6"), "{}", said.err);
    let said = command(&["import-ekuiper", "http://127.0.0.1:1", "--json"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("cannot be reached"), "{}", said.err);
}
