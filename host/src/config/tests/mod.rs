//! What a user may write, and the sentence for each mistake: place, found, allowed, nearest name.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

mod sentences;

use super::{Lookup, Manifest, ManifestError, Overflow, Place, Source};

fn source(name: &str, text: &str) -> Source {
    Source {
        name: name.to_owned(),
        text: text.to_owned(),
        base: PathBuf::from("/etc/windlass"),
    }
}

fn variables(name: &str) -> Option<String> {
    (name == "BROKER").then(|| "10.0.0.9".to_owned())
}

fn read(text: &str) -> (Manifest, Vec<ManifestError>) {
    let lookup: &Lookup<'_> = &variables;
    Manifest::parse(&[source("m.yaml", text)], lookup)
}

fn good(text: &str) -> Manifest {
    let (manifest, errors) = read(text);
    assert_eq!(errors, []);
    assert!(manifest.whole);
    manifest
}

fn mistakes(text: &str) -> Vec<String> {
    read(text).1.iter().map(ToString::to_string).collect()
}

const WHOLE: &str = r#"
connections:
  - id: plant
    typ: mqtt
    props:
      server: "tcp://${BROKER}:1883"
      password: hunter2
confKeys:
  mqtt:
    fast: { qos: 1 }
connectors:
  resize: guests/resize.wasm
streams:
  - sql: CREATE STREAM demo () WITH (DATASOURCE="t", TYPE="mqtt", CONF_KEY="fast")
  - CREATE STREAM other () WITH (TYPE="simulator")
rules:
  - id: hot
    name: Too hot
    sql: |
      SELECT *
        FROM demo WHERE temperature > 50
    actions:
      - mqtt: { connectionSelector: plant, topic: alarm, retained: true }
      - log:
        nop: {}
    options:
      qos: 1
      bufferLength: 16
      sendNilField: true
      overflow: drop-oldest
      diskQueueBytes: 64MiB
      restartStrategy: { attempts: 3, delay: 500, maxDelay: 1m30s, multiplier: 1.5, jitterFactor: 0 }
    tags: [a, b]
    triggered: false
files: { root: data }
limits: { guestMemoryBytes: 128 MiB, guestCpu: 2s, callDeadline: 5000, unsettledMessages: 100 }
"#;

#[test]
fn a_whole_manifest_is_read() {
    let m = good(WHOLE);
    assert_eq!(
        (m.connections[0].id.as_str(), m.connections[0].typ.as_str()),
        ("plant", "mqtt")
    );
    assert_eq!(
        m.connections[0].props["server"],
        json!("tcp://10.0.0.9:1883")
    );
    assert_eq!(
        m.conf_keys.get("MQTT", "fast").unwrap().props["qos"],
        json!(1)
    );
    assert!(m.conf_keys.get("mqtt", "slow").is_none());
    assert_eq!(
        m.connectors[0].path,
        PathBuf::from("/etc/windlass/guests/resize.wasm")
    );
    assert_eq!(m.streams.len(), 2);
    assert_eq!(m.files.root, Some(PathBuf::from("/etc/windlass/data")));
    assert_eq!(m.limits.guest_memory_bytes, Some(128 << 20));
    assert_eq!(m.limits.guest_cpu, Some(Duration::from_secs(2)));
    assert_eq!(m.limits.call_deadline, Some(Duration::from_secs(5)));
    assert_eq!(m.limits.unsettled_messages, Some(100));
    let rule = &m.rules[0];
    assert_eq!(
        (rule.id.as_str(), rule.name.as_str(), rule.triggered),
        ("hot", "Too hot", false)
    );
    assert_eq!(rule.tags, ["a", "b"]);
    let typs: Vec<_> = rule
        .actions
        .iter()
        .map(|a| (a.typ.as_str(), a.pointer.as_str()))
        .collect();
    assert_eq!(
        typs,
        [
            ("mqtt", "/rules/0/actions/0/mqtt"),
            ("log", "/rules/0/actions/1/log"),
            ("nop", "/rules/0/actions/1/nop")
        ]
    );
    assert_eq!(rule.actions[0].props["retained"], json!(true));
    let options = &rule.options;
    assert_eq!(
        (options.qos, options.buffer_length, options.send_nil_field),
        (1, 16, true)
    );
    assert_eq!(
        (options.overflow, options.disk_queue_bytes),
        (Overflow::DropOldest, Some(64 << 20))
    );
    let restart = options.restart_strategy.unwrap();
    assert_eq!(
        (restart.attempts, restart.delay),
        (3, Duration::from_millis(500))
    );
    assert_eq!(
        (restart.max_delay, restart.multiplier),
        (Duration::from_secs(90), 1.5)
    );
    assert_eq!(m.warnings, []);
}

#[test]
fn json_and_mappings_by_id_are_the_same_manifest() {
    let m = good(
        r#"{"connections": {"plant": {"typ": "mqtt", "props": {"server": "tcp://h:1"}}},
            "streams": {"demo": "CREATE STREAM demo () WITH (TYPE=\"nop\")"},
            "rules": {"r1": {"sql": "SELECT * FROM demo", "actions": [{"log": {}}]}}}"#,
    );
    assert_eq!(
        (m.connections[0].id.as_str(), m.rules[0].id.as_str()),
        ("plant", "r1")
    );
    assert_eq!(m.locate("/rules/0/actions/0/log").line, 3);
}

#[test]
fn pointers_lead_to_their_places_and_missing_ones_to_what_they_would_stand_in() {
    let m = good(WHOLE);
    let at = |pointer: &str| {
        let Place { line, column, .. } = m.locate(pointer);
        (line, column)
    };
    assert_eq!(at("/connections/0/props/server"), (6, 15));
    assert_eq!(at("/rules/0/actions/0/mqtt/topic"), (23, 51));
    assert_eq!(
        at("/rules/0/actions/0/mqtt/missing"),
        (23, 9),
        "the key of what it would be in"
    );
    assert_eq!(at("/streams/1"), (15, 5));
    assert_eq!(at("/nowhere/at/all"), (1, 1));
    let key = m.error_at_key("/rules/0/actions/0/mqtt/topic", "unknown property");
    assert_eq!(key.to_string(), "m.yaml:23:44: unknown property");
}

#[test]
fn a_place_inside_a_query_is_mapped_to_the_file_with_a_caret() {
    let m = good(WHOLE);
    let error = m.error_within("/rules/0/sql", 2, 19, "unknown column");
    assert_eq!((error.line, error.column), (21, 25));
    assert_eq!(
        error.excerpt.as_deref(),
        Some(" 21 |         FROM demo WHERE temperature > 50\n    |                         ^")
    );
    let stream = m.error_within("/streams/0/sql", 1, 8, "expected STREAM");
    assert_eq!(
        (stream.line, stream.column, stream.excerpt),
        (14, 17, None),
        "EXTRA may hold secrets"
    );
    for (sql, column) in [
        ("\"SELECT a FROM x\"", 18),
        ("SELECT a FROM x", 17),
        ("'SELECT a FROM x'", 18),
    ] {
        let m = good(&format!(
            "rules:\n  - id: r\n    sql:   {sql}\n    actions: [{{log: {{}}}}]\n"
        ));
        let error = m.error_within("/rules/0/sql", 1, 6, "here");
        assert_eq!((error.line, error.column), (3, column), "{sql}");
    }
    for (sql, line, column) in [
        ("\"SELECT \\\"a\\\" FROM x\"", 3, 10),
        (">\n      SELECT a\n      FROM x", 4, 7),
        ("SELECT ${BROKER}", 3, 10),
    ] {
        let m = good(&format!(
            "rules:\n  - id: r\n    sql: {sql}\n    actions: [{{log: {{}}}}]\n"
        ));
        let error = m.error_within("/rules/0/sql", 1, 9, "here");
        assert_eq!(
            (error.line, error.column, error.excerpt),
            (line, column, None),
            "{sql}"
        );
    }
}

#[test]
fn all_mistakes_come_at_once_each_with_its_place() {
    let text = "conections: []\nrules:\n  - id: a.b\n    sql: \"\"\n    action: []\n  - 7\n";
    assert_eq!(
        mistakes(text),
        [
            "m.yaml:1:1: unknown section \"conections\"; did you mean \"connections\"? \
             Allowed: connections, confKeys, connectors, streams, rules, files, push, rest, limits",
            "m.yaml:3:5: a rule needs \"actions\": a list like [{\"log\": {}}]",
            "m.yaml:3:9: id 'a.b' contains invalid characters: only alphanumeric, hyphens and underscores are allowed",
            "m.yaml:4:10: \"sql\" is empty: the query",
            "m.yaml:5:5: unknown key of a rule \"action\"; did you mean \"actions\"? \
             Allowed: id, name, sql, actions, options, triggered, tags, version, temp",
            "m.yaml:6:5: a rule must be a mapping, found a number",
        ]
    );
    assert!(!read(text).0.whole);
}

#[test]
fn equal_ids_name_both_places_also_across_files() {
    let one = source(
        "one.yaml",
        "connections:\n  - {id: plant, typ: mqtt}\nrules: []\n",
    );
    let two = source(
        "two.yaml",
        "connections:\n  plant: {typ: mqtt}\nstreams:\n  - CREATE STREAM s () WITH ()\n  - create stream `s` () WITH ()\n",
    );
    let (manifest, errors) = Manifest::parse(&[one, two], &variables);
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "two.yaml:2:3: the connection 'plant' is defined twice; first at one.yaml:2:10",
            "two.yaml:5:5: the stream 's' is defined twice; first at two.yaml:4:5",
        ]
    );
    assert_eq!((manifest.connections.len(), manifest.streams.len()), (1, 1));
    assert!(manifest.whole, "what is defined twice is still defined");
}

#[test]
fn files_are_merged_and_pointers_go_on() {
    let one = source("one.yaml", "connections:\n  - {id: a, typ: mqtt}\n");
    let two = source(
        "two.yaml",
        "connections:\n  - {id: b, typ: mqtt, props: {server: x}}\n---\nlimits: {guestCpu: 1s}\n",
    );
    let (manifest, errors) = Manifest::parse(&[one, two], &variables);
    assert_eq!(errors, []);
    assert_eq!(manifest.connections[1].pointer, "/connections/1");
    assert_eq!(
        manifest.locate("/connections/1/props/server").to_string(),
        "two.yaml:2:40"
    );
    assert_eq!(manifest.limits.guest_cpu, Some(Duration::from_secs(1)));
}

#[test]
fn a_setting_given_twice_is_a_mistake() {
    let text = "files: {root: a}\n---\nfiles: {root: b}\nlimits: {guestCpu: 1s}\n---\nlimits: {guestCpu: 2s}\n";
    assert_eq!(
        mistakes(text),
        [
            "m.yaml:3:9: the setting 'files.root' is defined twice; first at m.yaml:1:9",
            "m.yaml:6:10: the limit 'guestCpu' is defined twice; first at m.yaml:4:10",
        ]
    );
}

#[test]
fn an_option_without_meaning_warns_and_says_why() {
    let m = good(
        "rules:\n  - id: r\n    sql: s\n    temp: true\n    actions: [{log: {}}]\n    options: {qos: 2, cron: x, isEventTime: false}\n",
    );
    let warnings: Vec<_> = m.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "m.yaml:4:5: \"temp\" changes nothing: every rule comes from the manifest",
            "m.yaml:6:15: qos 2 of a rule is treated as 1: what is read is delivered at least once",
            "m.yaml:6:23: the option \"cron\" changes nothing: rules are not scheduled: it runs always",
            "m.yaml:6:32: the option \"isEventTime\" changes nothing: the query has no windows",
        ]
    );
}

#[test]
fn files_that_cannot_be_read_are_sentences() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let bad = file("latin.yaml", b"rules: []\n# caf\xe9\n");
    let empty = file("empty.yaml", b"# nothing\n");
    let fine = file("fine.yaml", b"rules: []\n");
    let missing = folder.path().join("missing.yaml");
    let errors = Manifest::load(&[
        bad,
        empty,
        fine.clone(),
        fine,
        missing,
        folder.path().to_owned(),
    ])
    .unwrap_err();
    let root = format!("{}/", folder.path().display());
    let mut errors: Vec<_> = errors
        .iter()
        .map(|error| error.to_string().replace(&root, ""))
        .collect();
    errors.sort();
    assert_eq!(errors[1..], [
        "empty.yaml: this file is empty; a manifest has connections, confKeys, connectors, streams, rules, files, push, rest, limits",
        "fine.yaml: this file is given twice",
        "latin.yaml:2:6: this is not UTF-8; a manifest is UTF-8 text",
        "missing.yaml: there is no such file",
    ]
    .map(str::to_owned));
    assert!(errors[0].ends_with("this is a folder; name the manifest's files"));
}

#[test]
fn no_secret_is_shown_when_a_manifest_is_printed_for_debugging() {
    let m = good(WHOLE);
    let shown = format!("{:?} {:?} {:?}", m.connections, m.rules, m.streams);
    assert!(shown.contains("password") && !shown.contains("hunter2"));
}

proptest::proptest! {
    /// Whatever a file holds, reading it ends with a manifest or with sentences.
    #[test]
    fn no_text_makes_it_panic(text in "[a-z\\[\\]{}:,\"'|>&*!#%$~ \n\t0-9-]{0,80}") {
        let (_, errors) = read(&text);
        proptest::prop_assert!(errors.iter().all(|error| !error.message.is_empty()));
    }
}
