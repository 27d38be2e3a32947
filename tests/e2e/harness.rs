//! One connector alone: `windlass connector test` says where the outcome is another than expected,
//! and `windlass connector check` finds each broken promise by its name.

use std::fs;
use std::path::Path;

use serde_json::Value;
use windlass_tests::machine::shared;
use windlass_tests::windlass::{Said, command};

use crate::guests::misbehaving;

/// Compiled code is kept between these tests.
fn data() -> &'static str {
    concat!(env!("CARGO_TARGET_TMPDIR"), "/harness-data")
}

fn check(file: &str, more: &[&str]) -> Said {
    fs::create_dir_all(data()).expect("a folder for compiled code");
    let mut arguments = vec!["connector", "check", file, "--json", "--data", data()];
    arguments.extend(more);
    command(&arguments)
}

fn test_file(text: &str) -> (Said, Said) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("case.test.yaml");
    fs::write(&path, text).expect("a test file");
    fs::create_dir_all(data()).expect("a folder for compiled code");
    let path = path.to_str().expect("a path");
    let run = |more: &[&str]| {
        let mut arguments = vec!["connector", "test", path, "--data", data()];
        arguments.extend(more);
        command(&arguments)
    };
    (run(&[]), run(&["--json"]))
}

/// Names of the checks with this verdict, and their reasons.
fn with(said: &Said, verdict: &str) -> Vec<(String, String)> {
    let report = said.json();
    let checks = report
        .first()
        .and_then(|report| report["checks"].as_array());
    let checks = checks.unwrap_or_else(|| panic!("a report: {}", said.all()));
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    checks
        .iter()
        .filter(|check| check["verdict"] == verdict)
        .map(|check| (word(&check["name"]), word(&check["reason"])))
        .collect()
}

#[test]
fn the_bundled_connectors_keep_every_promise() {
    let _machine = shared();
    for (name, more) in [
        ("mqtt", &[][..]),
        ("nats", &[]),
        ("redis", &["--config", r#"{"channel":"a"}"#]),
        // `edgex` takes events of EdgeX alone, which the check does not have: tests/e2e/edgex.rs.
        ("memory", &[]),
        ("file", &["--config", r#"{"path":"a.json"}"#]),
        ("simulator", &["--config", r#"{"interval":20}"#]),
        ("log", &[]),
        ("nop", &[]),
        ("neuron", &[]),
        ("websocket", &[]),
        ("rest", &["--config", r#"{"method":"POST","path":"in"}"#]),
        ("httppull", &["--config", r#"{"interval":20}"#]),
    ] {
        let said = check(name, more);
        assert_eq!(said.code, Some(0), "{name}: {:?}", with(&said, "failed"));
        assert!(with(&said, "passed").len() >= 10, "{name}: {}", said.out);
    }
}

#[test]
fn each_promise_that_is_broken_is_found_by_its_name() {
    let _machine = shared();
    let file = misbehaving().to_str().expect("a path");
    for (role, place, deed, broken) in [
        ("source", "open", "panic", "open"),
        ("source", "read", "ignore-wakes", "wake"),
        ("source", "read", "busy", "idle"),
        ("source", "read", "number", "recycling"),
        ("source", "read", "lose", "resume"),
        ("source", "read", "keep", "handles"),
        ("source", "read", "leak", "memory"),
        ("source", "read", "spin", "load"),
        ("source", "read", "parse", "odd-payloads"),
        ("source", "read", "blur", "errors"),
        ("sink", "write", "reject-outside", "rejections"),
        ("sink", "write", "never-again", "again"),
        ("sink", "write", "not-empty", "empty-batch"),
        ("sink", "write", "collect", "recycling"),
        ("sink", "write", "keep", "handles"),
        ("sink", "write", "leak", "memory"),
        ("sink", "write", "panic", "load"),
        ("sink", "write", "blur", "errors"),
    ] {
        let config = format!(r#"{{"in":"{place}","do":"{deed}"}}"#);
        let name = format!("{role}.{broken}");
        let said = check(
            file,
            &["--role", role, "--config", &config, "--only", &name],
        );
        let failed = with(&said, "failed");
        assert_eq!(said.code, Some(1), "{name} by {deed}: {}", said.all());
        assert_eq!(failed.len(), 1, "{name} by {deed}: {failed:?}");
        assert_eq!(failed[0].0, name);
        assert!(!failed[0].1.is_empty());
    }
    // Without a deed it keeps them all, but for its schema, which takes any name in silence.
    let said = check(file, &[]);
    let names: Vec<String> = with(&said, "failed")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["unknown-properties"], "{}", said.all());
}

#[test]
fn a_component_for_another_version_of_the_contract_is_a_sentence_with_both() {
    let _machine = shared();
    let mut wasm = fs::read(misbehaving()).expect("the component");
    let (old, new) = (
        b"windlass:connector/messaging@0.1.0",
        b"windlass:connector/messaging@0.2.0",
    );
    let places: Vec<usize> = (0..wasm.len() - old.len())
        .filter(|at| wasm[*at..].starts_with(old))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        wasm[at..at + new.len()].copy_from_slice(new);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("other.wasm");
    fs::write(&path, wasm).expect("a component");
    let said = check(path.to_str().expect("a path"), &[]);
    let failed = with(&said, "failed");
    assert_eq!((said.code, failed.len()), (Some(1), 1), "{}", said.all());
    assert_eq!(failed[0].0, "component");
    assert!(
        failed[0].1.contains("@0.2.0") && failed[0].1.contains("version 0.1.0"),
        "{failed:?}"
    );
    // The same where a manifest names it.
    let manifest = folder.path().join("m.yaml");
    fs::write(&manifest, "connectors: { other: other.wasm }\n").expect("a manifest");
    let said = command(&[
        "check",
        manifest.to_str().expect("a path"),
        "--data",
        data(),
    ]);
    assert_eq!(said.code, Some(78), "{}", said.all());
    for words in ["m.yaml:1:", "other.wasm", "@0.2.0", "version 0.1.0"] {
        assert!(said.err.contains(words), "{words}: {}", said.all());
    }
}

const SOURCE: &str = r#"connector: mqtt
role: source
config: { datasource: "in/#" }
connections:
  broker:
    messages:
      - { subject: in/1, json: { t: 21.5, tags: [a, b] } }
      - { subject: in/2, text: "not JSON", headers: { unit: C } }
cases:
  - name: all of it
    expect:
      messages:
        - { subject: in/1, json: { t: 21.5, tags: [a, b] } }
        - { text: "not JSON", headers: { unit: C } }
      settled: 2
      subscriptions: [ { connection: broker, filters: ["in/#"], qos: 1 } ]
  - name: one by one, in new instances
    recycle: true
    config: { datasource: "in/#", bufferLength: 1 }
    expect:
      messages: [ { subject: in/1 }, { subject: in/2 } ]
  - name: refused
    connections: { broker: { subscribe: { error: { kind: denied, message: "no rights" } } } }
    expect: { error: { kind: denied, message: rights } }
  - name: another than expected
    expect:
      messages: [ { json: { t: 21.6, tags: [a, c] } }, { text: "not JSON" } ]
"#;

#[test]
fn a_source_is_tested_and_a_difference_has_its_path() {
    let _machine = shared();
    let (plain, json) = test_file(SOURCE);
    assert_eq!(plain.code, Some(1), "{}", plain.all());
    assert!(
        plain.out.ends_with("3 passed, 1 failed\n"),
        "{}",
        plain.all()
    );
    assert!(
        plain
            .out
            .contains("case.test.yaml:25  another than expected"),
        "{}",
        plain.out
    );
    let words = "messages[0].json.t\n        expected  21.6\n        got       21.5\n      messages[0].json.tags[1]\n";
    assert!(plain.out.contains(words), "{}", plain.out);
    let report = json.json().remove(0);
    assert_eq!(
        (&report["passed"], &report["failed"]),
        (&3.into(), &1.into())
    );
    assert_eq!(
        report["cases"][3]["differences"].as_array().map(Vec::len),
        Some(2)
    );
}

const SINK: &str = r#"connector: mqtt
role: sink
config: { topic: out, qos: 1 }
cases:
  - name: what is written is published
    write: [ { json: { a: 1 } }, { text: b } ]
    expect:
      publishes:
        - { connection: broker, subject: out, json: { a: 1 }, qos: 1, retain: false }
        - { subject: out, text: b }
  - name: a rejection comes back
    connections: { broker: { publish: [ ok, { reject: [ { index: 1, kind: permanent, message: "too large" } ] } ] } }
    write: [ [ { text: a } ], [ { text: b }, { text: c } ] ]
    expect: { rejections: [ { batch: 1, index: 1, kind: permanent, message: large } ] }
  - name: a lost connection comes back
    connections: { broker: { publish: [ { error: { kind: disconnected } } ] } }
    write: [ { text: a } ]
    expect: { error: { kind: disconnected } }
"#;

#[test]
fn a_sink_is_tested() {
    let _machine = shared();
    let (plain, _) = test_file(SINK);
    assert_eq!(plain.code, Some(0), "{}", plain.all());
    assert!(
        plain.out.ends_with("3 passed, 0 failed\n"),
        "{}",
        plain.all()
    );
}

#[test]
fn a_mistake_in_a_test_file_has_its_place_and_the_nearest_name() {
    let _machine = shared();
    for (from, to, place, words) in [
        (
            "    expect:\n      publishes",
            "    expekt:\n      publishes",
            "7:5",
            "did you mean \"expect\"",
        ),
        ("topic: out", "topik: out", "3:11", "did you mean \"topic\""),
        ("qos: 1 }\ncases", "qos: 7 }\ncases", "3:28", "7"),
        (
            "kind: disconnected } } ] }",
            "kind: disconected } } ] }",
            "16:58",
            "did you mean \"disconnected\"",
        ),
        (
            "broker: { publish: [ ok",
            "brocker: { publish: [ ok",
            "12:20",
            "did you mean \"broker\"",
        ),
        (
            "connector: mqtt",
            "connector: mqqt",
            "1:12",
            "there is no such file",
        ),
        ("role: sink", "role: snik", "2:7", "did you mean \"sink\""),
        (
            "subject: out, text: b",
            "subject: out, text: 5",
            "10:33",
            "put it in quotes",
        ),
        (
            "write: [ { json",
            "write: [ { jsn",
            "6:16",
            "did you mean \"json\"",
        ),
    ] {
        assert!(SINK.contains(from), "{from}");
        let (plain, _) = test_file(&SINK.replace(from, to));
        assert_eq!(plain.code, Some(78), "{to}: {}", plain.all());
        let place = format!("case.test.yaml:{place}: ");
        assert!(plain.err.contains(&place), "{to}: {}", plain.all());
        assert!(plain.err.contains(words), "{to}: {}", plain.all());
    }
    let nowhere = Path::new(data()).join("nowhere.test.yaml");
    let said = command(&["connector", "test", nowhere.to_str().expect("a path")]);
    assert_eq!(said.code, Some(78), "{}", said.all());
}
