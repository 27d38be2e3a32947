//! Files in, files out, compressed payloads: what was acknowledged is there, whoever is killed.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use windlass_tests::load::{Publish, Subscribe, Subscriber, dial};
use windlass_tests::machine::{shared, wait_until};
use windlass_tests::manifest::Manifest;
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::Judge;
use windlass_tests::windlass::{Windlass, command};
use windlass_tests::wire::{Delivery, publish};

use crate::settings::wait_ready;

const START: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(30);

/// As `gzip` packs it: another implementation than the one under test.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip is there");
    let mut stdin = child.stdin.take().expect("a pipe");
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).expect("taken"));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("written");
    output.stdout
}

/// Numbers in the files of a folder, by their field `n`; each file's lines must be whole JSON.
fn numbers(folder: &Path) -> Vec<u64> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        for line in fs::read_to_string(&path).expect("text").lines() {
            let value: Value = serde_json::from_str(line).expect(line);
            found.push(value["n"].as_u64().expect("a number"));
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn a_sink_that_rolls_and_is_killed_loses_nothing_that_was_acknowledged() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let files = tempfile::tempdir().expect("a folder");
    let sink = json!({ "path": "out/rolled.log", "sendSingle": true, "rollingCount": 100,
        "rollingNamePattern": "suffix" });
    let manifest = Manifest::new()
        .files(files.path())
        .connection(
            "plant",
            "mqtt",
            json!({ "server": broker.url(), "clientid": "rolls",
            "enableClientSession": true, "qos": 1 }),
        )
        .mqtt_stream("plant", "plant", "in/1", 1, false)
        .rule(
            "roll",
            "SELECT seq AS n FROM plant",
            json!([{ "file": sink }]),
        );
    let mut windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["roll"]);
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(2000).start();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(700));
        windlass.kill();
        windlass.up();
        wait_ready(&windlass, &["plant"], &["roll"]);
    }
    let sent = publisher.stop();
    let mut wanted = sent.acknowledged.clone();
    wanted.sort_unstable();
    let folder = files.path().join("out");
    let mut missing = Vec::new();
    wait_until(SOON, "every message is in a file", || {
        let found: std::collections::BTreeSet<u64> = whole_numbers(&folder).into_iter().collect();
        missing = wanted
            .iter()
            .filter(|n| !found.contains(n))
            .copied()
            .collect();
        missing.is_empty()
    });
    let count = fs::read_dir(&folder).expect("the folder").count();
    assert!(
        count as u64 >= sent.sent / 100,
        "{count} files of {} messages",
        sent.sent
    );
}

/// As [`numbers`]; a line that a kill has cut off is none.
fn whole_numbers(folder: &Path) -> Vec<u64> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        for line in fs::read_to_string(entry.path()).unwrap_or_default().lines() {
            if let Ok(value) = serde_json::from_str::<Value>(line) {
                found.extend(value["n"].as_u64());
            }
        }
    }
    found
}

#[test]
fn files_that_are_moved_away_when_they_were_read_have_arrived_though_the_host_is_killed() {
    let _machine = shared();
    let files = tempfile::tempdir().expect("a folder");
    let inbox = files.path().join("in");
    fs::create_dir(&inbox).expect("a folder");
    let (packs, rows) = (40_u64, 200_u64);
    for pack in 0..packs {
        let lines: String = (0..rows)
            .map(|row| format!("{{\"n\":{}}}\n", pack * rows + row))
            .collect();
        let path = inbox.join(format!("pack {pack}.gz"));
        fs::write(&path, gzip(lines.as_bytes())).expect("a file");
        let file = fs::File::options()
            .append(true)
            .open(&path)
            .expect("the file");
        let age = Duration::from_secs(1000 - pack);
        file.set_modified(SystemTime::now() - age).expect("a time");
    }
    let conf = json!({ "fileType": "lines", "decompression": "gzip", "actionAfterRead": 2,
        "moveTo": "done/here", "sendInterval": 0 });
    let manifest = Manifest::new()
        .files(files.path())
        .conf_key("file", "packs", conf)
        .stream(r#"CREATE STREAM packs () WITH (TYPE="file", DATASOURCE="in", FORMAT="json", CONF_KEY="packs")"#)
        .rule("copy", "SELECT * FROM packs", json!([{ "file": { "path": "out/all", "sendSingle": true } }]));
    let mut windlass = Windlass::start(&manifest);
    windlass.wait_rule("copy", "running", START);
    for wait in [100, 300, 500] {
        std::thread::sleep(Duration::from_millis(wait));
        windlass.kill();
        // What is gone from the folder has arrived, or waits in the queue on disk.
        windlass.up();
        windlass.wait_rule("copy", "running", START);
    }
    let done = files.path().join("done/here");
    wait_until(SOON, "all files are moved", || {
        fs::read_dir(&inbox).expect("the folder").count() == 0
    });
    assert_eq!(
        fs::read_dir(&done).expect("the folder").count() as u64,
        packs
    );
    let wanted: Vec<u64> = (0..packs * rows).collect();
    wait_until(SOON, "all rows have arrived", || {
        let mut found = numbers(&files.path().join("out"));
        found.dedup();
        found == wanted
    });
}

#[test]
fn compressed_payloads_are_unpacked_and_a_bomb_and_rubbish_are_dead_letters() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe {
        judge: Judge::Number,
        ..Subscribe::new(broker.port(), "far", "out", 1)
    });
    let conf = json!({ "connectionSelector": "plant", "qos": 1, "decompression": "gzip" });
    let sink =
        json!({ "connectionSelector": "plant", "topic": "out", "qos": 1, "sendSingle": true });
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .limits(json!({ "maxMessageBytes": 1_000_000 }))
        .conf_key("mqtt", "packed", conf)
        .stream(r#"CREATE STREAM packed () WITH (TYPE="mqtt", DATASOURCE="in/#", FORMAT="json", CONF_KEY="packed")"#)
        .rule("open", "SELECT * FROM packed WHERE a > 1", json!([{ "mqtt": sink }]));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["open"]);
    let (mut socket, _, _) = dial(broker.port(), "packer", true, None).expect("the broker is up");
    let mut bytes = Vec::new();
    let bomb = gzip(&vec![b' '; 50_000_000]);
    for payload in [
        gzip(br#"{"a":2}"#),
        bomb,
        b"rubbish".to_vec(),
        gzip(b"no json"),
        gzip(br#"{"a":1}"#),
        gzip(br#"{"a":3}"#),
    ] {
        publish(&mut bytes, "in/x", Delivery::default(), &payload);
    }
    socket.write_all(&bytes).expect("sent");
    wait_until(SOON, "both that pass arrive", || far.payloads().len() >= 2);
    let found: Vec<_> = far
        .payloads()
        .into_iter()
        .map(|(_, payload)| payload)
        .collect();
    assert_eq!(found, [br#"{"a":2}"#, br#"{"a":3}"#]);
    wait_until(SOON, "three dead letters", || {
        windlass.counter("open", "deadLetters") == Some(3)
    });
    let data = windlass.data().display().to_string();
    let letters = command(&["deadletters", "ls", "--data", &data, "--json"]);
    for words in ["more than 1000000 bytes", "is not gzip"] {
        assert!(letters.out.contains(words), "{words} in {}", letters.out);
    }
}

#[test]
fn what_a_file_or_decompression_cannot_be_is_said_before_anything_starts() {
    let files = tempfile::tempdir().expect("a folder");
    let folder = tempfile::tempdir().expect("a folder");
    let stream = |name: &str, typ: &str| {
        format!(
            r#"CREATE STREAM {name} () WITH (TYPE="{typ}", DATASOURCE="in", FORMAT="json", CONF_KEY="bad")"#
        )
    };
    let manifest = Manifest::new()
        .files(files.path())
        .mqtt("plant", "tcp://127.0.0.1:1")
        .conf_key("file", "bad", json!({ "actionAfterRead": 2, "moveTo": "../away", "decompression": "rar" }))
        .conf_key("mqtt", "bad", json!({ "connectionSelector": "plant", "decompression": "gzipp" }))
        .stream(&stream("one", "file"))
        .stream(&stream("two", "mqtt"))
        .rule("r", "SELECT * FROM one", json!([{ "file": { "path": "x", "rollingNamePattern": "middle", "rollingCount": -1 } }]));
    let said = command(&[
        "check",
        &manifest.write(folder.path()).display().to_string(),
    ]);
    let all = said.all();
    assert_eq!(said.code, Some(78), "{all}");
    for words in [
        "moveTo",
        "../away",
        "rar",
        "did you mean \"gzip\"",
        "gzip, zlib, flate, zstd",
        "middle",
        "rollingCount",
    ] {
        assert!(all.contains(words), "{words} in {all}");
    }
}
