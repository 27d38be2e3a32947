//! One connector alone, as its author or user tries it: `windlass connector run`. And the schema that
//! an editor checks manifests with.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{holds_within, shared, signal, wait_until};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::read_payload;
use windlass_tests::windlass::{Said, binary, command};

use crate::settings::START;

/// Where all of these tests keep compiled connectors.
fn code() -> &'static str {
    concat!(env!("CARGO_TARGET_TMPDIR"), "/trial")
}

/// Runs a command to its end, with that folder.
fn tried(arguments: &[&str]) -> Said {
    command(&[arguments, &["--data", code()]].concat())
}

/// A `windlass connector run` with its three ends.
struct Trial {
    child: Child,
    folder: tempfile::TempDir,
}

impl Trial {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let err = std::fs::File::create(folder.path().join("err")).expect("a file");
        let child = Command::new(binary())
            .args(["connector", "run"])
            .args(arguments)
            .args(["--data", code()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(err)
            .spawn()
            .expect("windlass can be started");
        Self { child, folder }
    }

    fn err(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("err")).unwrap_or_default()
    }

    /// Waits until stderr says so.
    fn told(&self, words: &str) {
        assert!(
            holds_within(START, || self.err().contains(words)),
            "waited in vain for {words:?}:\n{}",
            self.err()
        );
    }

    /// The next so many lines.
    fn lines(&mut self, count: usize) -> Vec<String> {
        let out = self.child.stdout.as_mut().expect("piped");
        let mut reader = BufReader::with_capacity(1, out);
        (0..count)
            .map(|_| {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a line");
                line.trim_end().to_owned()
            })
            .collect()
    }

    /// What is left on stdout, up to its end.
    fn rest(&mut self) -> String {
        let mut text = String::new();
        let out = self.child.stdout.as_mut().expect("piped");
        out.read_to_string(&mut text).expect("UTF-8");
        text
    }

    fn send(&mut self, lines: &[String]) {
        let mut input = self.child.stdin.take().expect("piped");
        for line in lines {
            writeln!(input, "{line}").expect("it reads");
        }
    }

    fn code(&mut self) -> Option<i32> {
        let ended = holds_within(START, || !matches!(self.child.try_wait(), Ok(None)));
        assert!(ended, "it does not end:\n{}", self.err());
        self.child.wait().expect("ended").code()
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The numbers of these payloads.
fn numbers(lines: &[String]) -> Vec<u64> {
    let number = |line: &String| read_payload(line.as_bytes()).map(|(seq, _)| seq);
    lines.iter().filter_map(number).collect()
}

fn publish(port: u16, first: u64, count: u64) {
    let load = Publish {
        first,
        ..Publish::new(port, "in/1", 1)
    };
    let sent = load.count(count).start().join();
    assert_eq!(sent.acknowledged.len() as u64, count);
}

/// The mqtt source with a session that outlives it.
fn source<'a>(connection: &'a str, more: &[&'a str]) -> Trial {
    let mut arguments = vec!["mqtt", "--role", "source", "--set", "datasource=in/#"];
    arguments.extend(["--connection", connection]);
    arguments.extend(more);
    Trial::start(&arguments)
}

fn session(broker: &Mosquitto) -> String {
    let port = broker.port();
    format!("broker=mqtt://127.0.0.1:{port}?clientid=trial&enableClientSession=true")
}

#[test]
fn a_simulator_prints_as_many_lines_as_are_wanted() {
    let _machine = shared();
    let said = tried(&[
        "connector",
        "run",
        "simulator",
        "--config",
        r#"{"interval": 0, "batch": 5}"#,
        "--set",
        "fields.n.kind=sequence",
        "--max",
        "7",
    ]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), 7, "{}", said.out);
    assert_eq!(lines[0], r#"{"n":0}"#, "the payload as it is");
    assert!(said.err.contains("7 messages read"), "{}", said.err);
    let wrapped = tried(&[
        "connector",
        "run",
        "simulator",
        "--set",
        "interval=0",
        "--set",
        "datasource=s",
        "--json",
        "--set",
        "count=2",
    ]);
    assert_eq!(wrapped.code, Some(0), "it ends by itself: {}", wrapped.err);
    let values = wrapped.json();
    assert_eq!(values.len(), 2);
    assert_eq!(values[0]["subject"], "s");
    assert!(
        values[0]["payload"]
            .as_str()
            .is_some_and(|text| text.starts_with('{'))
    );
}

#[test]
fn what_a_source_has_printed_is_acknowledged_and_does_not_come_again() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let connection = session(&broker);
    let mut trial = source(&connection, &[]);
    trial.told("connected");
    publish(broker.port(), 0, 10);
    assert_eq!(numbers(&trial.lines(10)), (0..10).collect::<Vec<_>>());
    signal(trial.child.id(), "TERM");
    assert_eq!(trial.code(), Some(0), "{}", trial.err());
    assert!(trial.err().contains("10 messages read"), "{}", trial.err());
    // The session waits for it.
    publish(broker.port(), 10, 10);
    let mut four = source(&connection, &["--max", "4"]);
    assert_eq!(four.code(), Some(0), "{}", four.err());
    let lines: Vec<String> = four.rest().lines().map(str::to_owned).collect();
    assert_eq!(numbers(&lines), [10, 11, 12, 13], "no more than wanted");
    let mut rest = source(&connection, &["--max", "6"]);
    assert_eq!(rest.code(), Some(0), "{}", rest.err());
    let lines: Vec<String> = rest.rest().lines().map(str::to_owned).collect();
    assert_eq!(
        numbers(&lines),
        (14..20).collect::<Vec<_>>(),
        "what was not printed stayed"
    );
}

#[test]
fn what_was_not_written_when_it_was_killed_comes_again() {
    const ALL: u64 = 3000;
    let _machine = shared();
    let broker = Mosquitto::start();
    let connection = session(&broker);
    let mut trial = source(&connection, &[]);
    trial.told("connected");
    // More than a pipe holds: it must wait for its reader, who never comes.
    publish(broker.port(), 0, ALL);
    std::thread::sleep(Duration::from_millis(500));
    drop(trial.child.kill());
    let text = trial.rest();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut seen = numbers(&whole.lines().map(str::to_owned).collect::<Vec<_>>());
    let before = seen.len();
    assert!(
        before > 0 && (before as u64) < ALL,
        "{before} of {ALL} lines fit in the pipe"
    );
    drop(trial);
    let mut again = source(&connection, &[]);
    let mut reader = BufReader::new(again.child.stdout.take().expect("piped"));
    while seen.iter().copied().max() != Some(ALL - 1) {
        let mut line = String::new();
        let count = reader.read_line(&mut line).expect("a line");
        assert!(count > 0, "it ended: {}", again.err());
        seen.extend(numbers(&[line]));
        assert!(seen.len() as u64 <= 3 * ALL, "it has no end");
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len() as u64, ALL, "none is lost");
}

#[test]
fn a_sink_writes_the_lines_and_names_those_that_it_rejects() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out/#", 1));
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    let sink = [
        "mqtt",
        "--role",
        "sink",
        "--connection",
        &url,
        "--set",
        "qos=1",
    ];
    let mut trial = Trial::start(&[&sink[..], &["--set", "topic=out/plain"]].concat());
    trial.send(&(0..10).map(|n| format!("plain {n}")).collect::<Vec<_>>());
    assert_eq!(trial.code(), Some(0), "{}", trial.err());
    assert!(
        trial
            .err()
            .contains("10 written, 0 rejected, 0 not written"),
        "{}",
        trial.err()
    );
    wait_until(Duration::from_secs(5), "ten arrive", || {
        far.payloads().len() == 10
    });
    assert_eq!(
        far.payloads()[9],
        ("out/plain".to_owned(), b"plain 9".to_vec())
    );

    let mut trial = Trial::start(&[&sink[..], &["--set", "topic=out/{{.room}}"]].concat());
    let lines = [
        r#"{"room":"a"}"#,
        "no json",
        r##"{"room":"#"}"##,
        r#"{"room":"b"}"#,
    ];
    trial.send(&lines.map(str::to_owned));
    assert_eq!(trial.code(), Some(1), "{}", trial.err());
    let err = trial.err();
    assert!(
        err.contains("2 written, 2 rejected, 0 not written"),
        "{err}"
    );
    assert!(err.contains("line 2: rejected: "), "{err}");
    assert!(err.contains("line 3: rejected: "), "{err}");
    wait_until(Duration::from_secs(5), "both arrive", || {
        far.payloads().len() == 12
    });
    let topics: Vec<String> = far
        .payloads()
        .into_iter()
        .skip(10)
        .map(|(topic, _)| topic)
        .collect();
    assert_eq!(topics, ["out/a", "out/b"]);
}

#[test]
fn lines_of_one_are_lines_for_another() {
    let _machine = shared();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let from = tried(&[
        "connector",
        "run",
        "simulator",
        "--set",
        "interval=0",
        "--max",
        "5",
        "--json",
    ]);
    let files = format!("files=file:{}", folder.path().display());
    let file = [
        "file",
        "--role",
        "sink",
        "--connection",
        &files,
        "--set",
        "path=out.jsonl",
    ];
    let mut into = Trial::start(&[&file[..], &["--json"]].concat());
    into.send(&from.out.lines().map(str::to_owned).collect::<Vec<_>>());
    assert_eq!(into.code(), Some(0), "{}", into.err());
    let written = std::fs::read_to_string(folder.path().join("out.jsonl")).expect("written");
    assert_eq!(written.lines().count(), 5);
    assert!(
        written.starts_with("{\"sequence\":0"),
        "payloads alone: {written}"
    );
    // And back, with a place to go on from.
    let read = |more: &[&str]| {
        let fixed = [
            "connector",
            "run",
            "file",
            "--role",
            "source",
            "--connection",
            &files,
        ];
        let set = ["--set", "datasource=out.jsonl", "--set", "fileType=lines"];
        tried(&[&fixed[..], &set, more].concat())
    };
    let first = read(&["--max", "2"]);
    assert_eq!(
        (first.code, first.out.lines().count()),
        (Some(0), 2),
        "{}",
        first.err
    );
    let place = first
        .err
        .split("--resume '")
        .nth(1)
        .and_then(|rest| rest.split('\'').next());
    let place = place.expect("a checkpoint is told");
    let rest = read(&["--resume", place]);
    assert_eq!(rest.code, Some(0), "it ends by itself: {}", rest.err);
    assert_eq!(format!("{}{}", first.out, rest.out), written);
}

#[test]
fn a_connector_of_ones_own_that_traps_is_told_with_its_own_words() {
    let _machine = shared();
    let wasm = super::guests::misbehaving().display().to_string();
    let config = r#"{"in": "write", "do": "panic"}"#;
    let fixed = [wasm.as_str(), "--role", "sink", "--config", config];
    // Whatever its slots are, it gets the memory of this process for each.
    let listed = tried(&["connector", "inspect", &wasm, "--json"]);
    let slots: Vec<String> = listed.json()[0]["slots"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|slot| slot["optional"] == false)
        .map(|slot| format!("{}=memory:", slot["name"].as_str().unwrap_or_default()))
        .collect();
    let mut arguments = fixed.to_vec();
    for slot in &slots {
        arguments.extend(["--connection", slot]);
    }
    let mut trial = Trial::start(&arguments);
    trial.send(&["one".to_owned()]);
    assert_eq!(trial.code(), Some(1), "{}", trial.err());
    let err = trial.err();
    assert!(
        err.contains("line 1: rejected: ") && err.contains("on purpose, with words"),
        "{err}"
    );
}

#[test]
fn a_peer_that_is_away_is_told_and_waited_for() {
    let _machine = shared();
    let said = tried(&[
        "connector",
        "run",
        "mqtt",
        "--role",
        "source",
        "--set",
        "datasource=t",
        "--connection",
        "mqtt://127.0.0.1:1",
        "--seconds",
        "1",
    ]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), ""),
        "{}",
        said.err
    );
    assert!(
        said.err.contains("not connected") && said.err.contains("0 messages read"),
        "{}",
        said.err
    );
}

#[test]
fn what_cannot_work_is_a_sentence_with_what_would() {
    let _machine = shared();
    let mqtt = [
        "connector",
        "run",
        "mqtt",
        "--role",
        "source",
        "--set",
        "datasource=t",
    ];
    let with = |more: &[&'static str]| [&mqtt[..], more].concat();
    let url = "mqtt://127.0.0.1:1883";
    for (arguments, words) in [
        (
            with(&[]),
            &[
                "\"broker\" (messaging)",
                "--connection broker=mqtt://127.0.0.1:1883",
            ][..],
        ),
        (
            with(&["--connection", "mqt://u:hunter2@h"]),
            &["unknown scheme \"mqt\"", "did you mean \"mqtt\"?"],
        ),
        (
            with(&["--connection", "broke=mqtt://h"]),
            &["no slot \"broke\"", "did you mean \"broker\"?"],
        ),
        (
            with(&["--connection", "mqtt://u:hunter2@h?clientd=a"]),
            &["connection broker", "clientd", "did you mean \"clientid\"?"],
        ),
        (
            with(&["--connection", "mqtt://u:hunter2@h:port"]),
            &["connection broker", "server"],
        ),
        (
            with(&["--connection", "broker=nothing.yaml"]),
            &["as a file it cannot be read"],
        ),
        (
            with(&["--connection", url, "--set", "datasorce=t"]),
            &["datasorce", "did you mean \"datasource\"?"],
        ),
        (
            with(&["--connection", url, "--set", "qos=7"]),
            &["qos", "7"],
        ),
        (
            vec!["connector", "run", "mqqt"],
            &["no connector \"mqqt\"", "did you mean \"mqtt\"?"],
        ),
        (
            vec!["connector", "run", "./none.wasm"],
            &["none.wasm: cannot be read"],
        ),
        (
            vec!["connector", "run", "mqtt", "--connection", url],
            &["--role source or --role sink"],
        ),
        (
            vec!["connector", "run", "nop", "--role", "source"],
            &["\"nop\" has no source, only a sink"],
        ),
        (
            vec!["connector", "run", "simulator", "--connection", url],
            &["uses no connection"],
        ),
        (
            vec![
                "connector",
                "run",
                "file",
                "--role",
                "sink",
                "--set",
                "path=a",
            ],
            &["--connection files=file:./folder"],
        ),
    ] {
        let said = tried(&arguments);
        assert_eq!(said.code, Some(78), "{arguments:?}: {}", said.all());
        assert_eq!(said.out, "", "{arguments:?}");
        for word in words {
            assert!(
                said.err.contains(word),
                "{arguments:?}: {word:?}:\n{}",
                said.err
            );
        }
        assert!(!said.err.contains("hunter2"), "{}", said.err);
        assert!(said.err.contains("nothing was started"), "{}", said.err);
    }
}

#[test]
fn the_schema_is_printed_for_an_editor_with_connectors_of_ones_own() {
    let _machine = shared();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("m.yaml");
    let wasm = super::guests::misbehaving().display().to_string();
    std::fs::write(
        &file,
        format!("connectors:\n  mine: {}\nruls: []\n", json!(wasm)),
    )
    .expect("written");
    let said = tried(&["schema", &file.display().to_string()]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let schema: Value = serde_json::from_str(&said.out).expect("one JSON document");
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    let actions = &schema["properties"]["rules"]["items"];
    assert!(
        actions.to_string().contains("#/$defs/sink.mine"),
        "{actions}"
    );
    let password = &schema["$defs"]["connection.mqtt"]["properties"]["password"];
    assert_eq!(password["writeOnly"], true);
    let keep_alive = &schema["$defs"]["connection.mqtt"]["properties"]["keepAlive"];
    assert_eq!(keep_alive["default"], "30s");
    let missing = tried(&["schema", "nothing.yaml"]);
    assert_eq!(missing.code, Some(78), "{}", missing.err);
}
