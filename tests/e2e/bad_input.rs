//! Bad input is a sentence: the place, what was found, what is allowed, the nearest valid name. Exit
//! code 78, and nothing was started. What is damaged on disk never keeps it from starting.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::shared;
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::windlass::{Windlass, command};

use crate::settings::{START, expect_alive, expect_all, wait_ready, warm, warm_ones};

/// A manifest without a mistake, against which each row of the table changes one thing.
const GOOD: &str = r#"connections:
  - id: plant
    typ: mqtt
    props:
      server: "tcp://127.0.0.1:1"
confKeys:
  mqtt:
    demo: { connectionSelector: plant, qos: 1 }
streams:
  - sql: CREATE STREAM demo (temperature BIGINT, room STRING) WITH (TYPE="mqtt", DATASOURCE="in/#", FORMAT="json", CONF_KEY="demo")
rules:
  - id: warm
    sql: SELECT temperature, room FROM demo WHERE temperature > 50
    actions:
      - mqtt: { connectionSelector: plant, topic: out, qos: 1, sendSingle: true }
"#;

/// What is changed into what, the line in which the mistake is then, and words that the sentence has.
const MISTAKES: &[(&str, &str, usize, &[&str])] = &[
    (
        "connections:",
        "conections:",
        1,
        &["conections", "did you mean", "connections"],
    ),
    ("typ: mqtt", "typ: mqttt", 3, &["mqttt", "mqtt"]),
    ("server:", "sever:", 5, &["sever", "server"]),
    (r#""tcp://127.0.0.1:1""#, "17", 5, &["server", "17"]),
    (
        r#""tcp://127.0.0.1:1""#,
        r#""http://127.0.0.1:1""#,
        5,
        &["http", "tcp"],
    ),
    (
        "connectionSelector: plant, qos: 1 }",
        "connectionSelector: plan, qos: 1 }",
        8,
        &["plan", "plant"],
    ),
    ("plant, qos: 1 }", "plant, qos: 7 }", 8, &["qos", "7", "2"]),
    (r#"TYPE="mqtt""#, r#"TYPE="mqqt""#, 10, &["mqqt", "mqtt"]),
    (r#"FORMAT="json""#, r#"FORMAT="jsn""#, 10, &["jsn", "json"]),
    (
        r#"CONF_KEY="demo""#,
        r#"CONF_KEY="dmo""#,
        10,
        &["dmo", "demo"],
    ),
    ("CREATE STREAM", "CREATE STEAM", 10, &["STEAM"]),
    ("FROM demo", "FROM dmo", 13, &["dmo", "demo"]),
    ("room FROM", "rom FROM", 13, &["rom", "room"]),
    (
        "temperature, room FROM",
        "uper(room) FROM",
        13,
        &["uper", "upper"],
    ),
    ("WHERE", "WERE", 13, &["WERE"]),
    (
        "temperature > 50",
        "temperature > 50 GROUP BY TUMBLINGWINDOW(ss, 10)",
        13,
        &["window"],
    ),
    ("- mqtt: {", "- mqt: {", 15, &["mqt", "mqtt"]),
    ("topic: out", "topik: out", 15, &["topik", "topic"]),
    ("topic: out", "topic: 5", 15, &["topic", "5"]),
    (
        "sendSingle: true",
        "sendSingle: maybe",
        15,
        &["sendSingle", "maybe"],
    ),
    (
        "sendSingle: true",
        "sendSingel: true",
        15,
        &["sendSingel", "sendSingle"],
    ),
    (
        "sendSingle: true",
        "batchSize: -1",
        15,
        &["batchSize", "-1"],
    ),
    ("  - id: warm", "  - id: war/m", 12, &["war/m"]),
    (
        "rules:",
        "connectors: { mine: missing.wasm }\nrules:",
        11,
        &["missing.wasm"],
    ),
    ("    props:", "    props: [", 0, &[]),
];

/// Writes a manifest, and asks both commands that read one.
fn refused(folder: &Path, text: &str) -> String {
    let file = folder.join("m.yaml");
    fs::write(&file, text).expect("the manifest can be written");
    let (file, data) = (
        file.display().to_string(),
        folder.join("data").display().to_string(),
    );
    let checked = command(&["check", &file]);
    assert_eq!(checked.code, Some(78), "check: {checked:?}\n{text}");
    let run = command(&["run", &file, "--data", &data, "--json"]);
    assert_eq!(run.code, Some(78), "run: {run:?}\n{text}");
    assert!(!run.all().contains("panicked"), "{run:?}");
    checked.all()
}

#[test]
fn each_mistake_in_a_manifest_is_a_sentence_with_its_place_and_ends_it_with_78() {
    let _machine = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("good.yaml");
    fs::write(&file, GOOD).expect("written");
    let good = command(&["check", &file.display().to_string()]);
    assert_eq!(
        good.code,
        Some(0),
        "the base of the table is right: {good:?}"
    );
    let mut wrong = Vec::new();
    for (from, to, line, words) in MISTAKES {
        assert!(GOOD.contains(from), "the table names what is there: {from}");
        let said = refused(folder.path(), &GOOD.replacen(from, to, 1));
        let place = if *line == 0 {
            "m.yaml:".to_owned()
        } else {
            format!("m.yaml:{line}:")
        };
        let mut missing: Vec<&str> = words
            .iter()
            .copied()
            .filter(|word| !said.contains(word))
            .collect();
        if !said.contains(&place) {
            missing.push(&place);
        }
        if !missing.is_empty() {
            wrong.push(format!("{to}: lacks {missing:?} in: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn two_equal_ids_are_refused_with_both_places() {
    let _machine = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let rule = "  - id: warm\n    sql: SELECT * FROM demo\n    actions: [{ log: {} }]\n";
    let said = refused(folder.path(), &format!("{GOOD}{rule}"));
    assert!(
        said.contains("m.yaml:12:") && said.contains("m.yaml:16:") && said.contains("warm"),
        "{said}"
    );
}

#[test]
fn a_file_that_is_no_component_is_refused_with_its_name_and_what_it_is() {
    let _machine = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let name = folder.path().join("mine.wasm");
    let manifest = GOOD
        .replace("rules:", "connectors: { mine: mine.wasm }\nrules:")
        .replace("- mqtt: {", "- mine: {");
    // Nothing, text, a core module, the beginning of a component.
    let kinds: [&[u8]; 4] = [b"", b"hello", b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0\x07"];
    for bytes in kinds {
        fs::write(&name, bytes).expect("written");
        let said = refused(folder.path(), &manifest);
        assert!(said.contains("mine.wasm"), "{bytes:?}: {said}");
    }
}

#[test]
fn a_missing_variable_a_missing_file_and_no_manifest_are_sentences_too() {
    let _machine = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let said = refused(
        folder.path(),
        &GOOD.replace("127.0.0.1:1", "${WINDLASS_TEST_NO_SUCH_VARIABLE}"),
    );
    assert!(
        said.contains("WINDLASS_TEST_NO_SUCH_VARIABLE") && said.contains("m.yaml:5:"),
        "{said}"
    );
    let missing = command(&[
        "check",
        &folder.path().join("none.yaml").display().to_string(),
    ]);
    assert_eq!(missing.code, Some(78), "{missing:?}");
    assert!(missing.err.contains("none.yaml"), "{missing:?}");
}

#[test]
fn payloads_that_are_not_json_become_dead_letters_with_their_reason_and_others_pass() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let windlass = Windlass::start(&warm(&broker.url(), &broker.url(), 1));
    wait_ready(&windlass, &["plant"], &["warm"]);
    let (mut socket, _, _) =
        windlass_tests::load::dial(broker.port(), "rubbish", true, None).expect("the broker is up");
    let mut bytes = Vec::new();
    let rubbish: [&[u8]; 5] = [b"", b"{", b"\xff\xfe", b"{\"temperature\":", b"not json"];
    for payload in rubbish {
        windlass_tests::wire::publish(
            &mut bytes,
            "in/1",
            windlass_tests::wire::Delivery::default(),
            payload,
        );
    }
    std::io::Write::write_all(&mut socket, &bytes).expect("sent");
    expect_alive(broker.port(), "in/1", &far, 0);
    let data = windlass.data().display().to_string();
    let mut letters = Vec::new();
    windlass_tests::machine::wait_until(
        Duration::from_secs(10),
        "all five are dead letters",
        || {
            letters = command(&["deadletters", "ls", "--data", &data, "--json"]).json();
            letters.len() == rubbish.len()
        },
    );
    assert!(
        letters
            .iter()
            .all(|letter| letter.to_string().to_lowercase().contains("json")),
        "{letters:?}"
    );
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path))
        } else {
            found.push(path)
        }
    }
    found
}

#[test]
fn whatever_is_damaged_in_the_data_folder_it_starts_and_messages_pass() {
    let _machine = shared();
    let near = Mosquitto::start();
    let mut remote = Mosquitto::with(Broker {
        persistence: true,
        ..Broker::default()
    });
    let far = Subscriber::start(Subscribe {
        clean: false,
        ..Subscribe::new(remote.port(), "far", "out", 1)
    });
    let mut windlass = Windlass::start(&warm(&near.url(), &remote.url(), 1));
    wait_ready(&windlass, &["plant", "cloud"], &["warm"]);
    // Something for the disk queue.
    remote.stop();
    windlass.wait_connection("cloud", "connecting", Duration::from_secs(5));
    let sent = Publish::new(near.port(), "in/1", 1)
        .count(400)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 400);
    windlass_tests::machine::wait_until(Duration::from_secs(10), "all are on disk", || {
        windlass.counter("warm", "diskMessages") == Some(200)
    });
    windlass.kill();
    let there = files(&windlass.data());
    assert!(
        there.len() >= 3,
        "queue, store and code cache have files: {there:?}"
    );
    let mut fresh = 1000;
    // A byte in the middle, the tail gone, nothing left, the file gone: each file in turn.
    for (file, damage) in there
        .iter()
        .flat_map(|file| [0, 1, 2, 3].map(|damage| (file, damage)))
    {
        let Ok(whole) = fs::read(file) else { continue };
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        match damage {
            0 => bytes
                .iter_mut()
                .skip(middle)
                .take(1)
                .for_each(|byte| *byte ^= 0x55),
            1 => bytes.truncate(middle),
            2 => bytes.iter_mut().for_each(|byte| *byte = 0),
            _ => bytes.clear(),
        }
        fs::write(file, bytes).expect("written");
        if remote.logged("running") == 1 {
            remote.restart();
        }
        windlass.up();
        windlass.wait_rule("warm", "running", START);
        windlass.wait_connection("cloud", "connected", START);
        windlass.wait_connection("plant", "connected", START);
        expect_alive(near.port(), "in/1", &far, fresh);
        fresh += 10;
        assert!(
            !windlass.log().contains("panicked"),
            "{}: {}",
            file.display(),
            windlass.log()
        );
        windlass.kill();
        assert_eq!(
            far.ledger().corrupt(),
            0,
            "{}: a damaged message was delivered",
            file.display()
        );
    }
    println!(
        "{} files damaged in four ways each; {}",
        there.len(),
        far.ledger().summary()
    );
}

#[test]
fn a_queue_whose_tail_is_torn_loses_only_what_was_torn() {
    let _machine = shared();
    let near = Mosquitto::start();
    let mut remote = Mosquitto::with(Broker {
        persistence: true,
        ..Broker::default()
    });
    let far = Subscriber::start(Subscribe {
        clean: false,
        ..Subscribe::new(remote.port(), "far", "out", 1)
    });
    let mut windlass = Windlass::start(&warm(&near.url(), &remote.url(), 1));
    wait_ready(&windlass, &["plant", "cloud"], &["warm"]);
    remote.stop();
    windlass.wait_connection("cloud", "connecting", Duration::from_secs(5));
    let sent = Publish::new(near.port(), "in/1", 1)
        .count(400)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 400);
    windlass_tests::machine::wait_until(Duration::from_secs(10), "all are on disk", || {
        windlass.counter("warm", "diskMessages") == Some(200)
    });
    windlass.kill();
    // The one file that holds the payloads: what a write that a power cut tore looks like.
    let segment = files(&windlass.data())
        .into_iter()
        .max_by_key(|file| {
            let bytes = fs::read(file).unwrap_or_default();
            bytes
                .windows(7)
                .filter(|window| window == b"\"seq\":3" || window == b"\"seq\":1")
                .count()
        })
        .expect("a segment of the disk queue");
    let bytes = fs::read(&segment).expect("read");
    let last = bytes
        .windows(6)
        .rposition(|window| window == b"\"seq\":")
        .expect("payloads in it");
    fs::write(&segment, &bytes[..last + 20]).expect("written");
    remote.restart();
    windlass.up();
    windlass.wait_rule("warm", "running", START);
    // All but the last one; that one was torn.
    expect_all(&far, &warm_ones(0..398), Duration::from_secs(15));
}
