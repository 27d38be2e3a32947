//! Connectors in Python and JavaScript, built as their authors build them, in a running host: what
//! they decode and encode arrives right, their exceptions are read in the rule's status, and that
//! their instances are replaced is never noticed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{shared, wait_until};
use windlass_tests::manifest::Manifest;
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::Judge;
use windlass_tests::windlass::Windlass;

use crate::settings::{START, expect_all, wait_ready};

/// Longest wait for something that needs an instance of Python, compiled before.
const SOON: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Language {
    Python,
    Js,
}

impl Language {
    fn word(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Js => "js",
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A tool that `tests/run setup` installs, or one that is on the path.
fn tool(folder: &str, name: &str) -> PathBuf {
    let ours = root().join("target/tools").join(folder).join(name);
    if ours.is_file() {
        ours
    } else {
        PathBuf::from(name)
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder to copy").flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a file is copied");
        }
    }
}

/// Builds a connector in a folder of its own, by the commands that its language's page names.
fn build(language: Language, name: &str, world: &str, author: impl Fn(&Path)) -> PathBuf {
    // One at a time: the tools take both processors.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("languages")
        .join(name);
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).expect("a folder");
    author(&folder);
    let sdk = root().join("guests").join(language.word()).join("sdk");
    copy(&sdk, &folder.join("build"));
    copy(&root().join("wit"), &folder.join("build/wit"));
    let out = format!("build/{name}.wasm");
    let mut command = match language {
        Language::Python => {
            let mut command = Command::new(tool("python/bin", "componentize-py"));
            command.args(["-d", "build/wit", "-w", world, "componentize"]);
            command.args(["-p", ".", "-p", "build", "entry", "-o", &out]);
            command
        }
        Language::Js => {
            let mut command = Command::new(tool("node/node_modules/.bin", "componentize-qjs"));
            command.args([
                "--wit",
                "build/wit",
                "--world",
                world,
                "--js",
                "build/entry.js",
            ]);
            command.args(["--sync", "--module-root", ".", "-o", &out]);
            command
        }
    };
    let built = command
        .current_dir(&folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap_or_else(|error| {
            panic!("{command:?} cannot be started ({error}): run `tests/run setup`")
        });
    assert!(
        built.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&built.stderr)
    );
    folder.join(out)
}

/// One of `guests/`.
fn shipped(language: Language, name: &str, world: &str) -> PathBuf {
    let from = root().join("guests").join(language.word()).join(name);
    build(language, name, world, |folder| copy(&from, folder))
}

/// One whose only file of its own is this text.
fn written(language: Language, name: &str, world: &str, text: &str) -> PathBuf {
    let file = match language {
        Language::Python => "app.py",
        Language::Js => "connector.js",
    };
    build(language, name, world, |folder| {
        fs::write(folder.join(file), text).expect("a file is written");
    })
}

/// The lines of a file, once there are so many.
fn lines(file: &Path, least: usize) -> Vec<String> {
    let read = || {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    wait_until(
        SOON,
        &format!("{} has {least} lines", file.display()),
        || read().len() >= least,
    );
    read()
}

fn jsons(texts: &[String]) -> Vec<Value> {
    let parse = |text: &String| serde_json::from_str(text).expect("JSON");
    texts.iter().map(parse).collect()
}

#[test]
fn modbus_registers_from_a_file_become_named_values() {
    let _machine = shared();
    let files = tempfile::tempdir().expect("a folder");
    let blocks = json!([
        { "unit": 7, "address": 100, "registers": [0xFF85, 0x0001, 0x0002] },
        { "unit": 8, "address": 100, "registers": [250, 0, 0] },
        { "unit": 7, "address": 90, "registers": [1] },
        { "unit": 7, "address": 0, "registers": "none" },
        { "unit": 7, "address": 100, "registers": [300] },
    ]);
    fs::write(files.path().join("blocks.json"), blocks.to_string()).expect("a file");
    let map = json!([
        { "name": "temperature", "address": 100, "type": "int16", "scale": 0.1 },
        { "name": "energy", "address": 101, "type": "uint32", "wordOrder": "little" },
    ]);
    let manifest = Manifest::new()
        .connector("modbus", &shipped(Language::Python, "modbus-map", "source-connector"))
        .files(files.path())
        .conf_key("modbus", "plc", json!({ "connectionSelector": "file", "unit": 7, "map": map }))
        .stream(r#"CREATE STREAM plc () WITH (TYPE="modbus", DATASOURCE="blocks.json", FORMAT="json", CONF_KEY="plc")"#)
        .rule("all", "SELECT * FROM plc", json!([{ "file": { "path": "out", "sendSingle": true } }]));
    let windlass = Windlass::start(&manifest);
    windlass.wait_rule("all", "running", START);
    let found = jsons(&lines(&files.path().join("out"), 2));
    let expected = [
        json!({ "unit": 7, "temperature": -12.3, "energy": 0x0002_0001 }),
        json!({ "unit": 7, "temperature": 30.0 }),
    ];
    assert_eq!(found, expected);
    // The block that cannot be read is kept apart from the others, with its reason.
    wait_until(SOON, "the bad block is a dead letter", || {
        windlass.counter("all", "deadLetters") == Some(1)
    });
    windlass.fresh_metrics();
    let log = windlass.log();
    assert!(log.contains("registers: must be a list"), "{log}");
}

#[test]
fn rows_become_lines_of_the_line_protocol_at_a_broker() {
    let _machine = shared();
    let files = tempfile::tempdir().expect("a folder");
    let rows = "{\"m\":\"press 1\",\"t\":21.5,\"n\":3,\"ts\":1700000000123}\n{\"m\":\"mill\",\"note\":\"a \\\"b\\\"\",\"ts\":1}\n";
    fs::write(files.path().join("rows"), rows).expect("a file");
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe {
        judge: Judge::Number,
        ..Subscribe::new(broker.port(), "far", "influx", 1)
    });
    let sink = json!({ "connectionSelector": "plant", "topic": "influx", "qos": 1, "measurement": "plant",
        "tags": ["m"], "timestamp": "ts", "message": "row", "sendSingle": true });
    let manifest = Manifest::new()
        .connector("lines", &shipped(Language::Python, "line-protocol", "sink-connector"))
        .mqtt("plant", &broker.url())
        .files(files.path())
        .conf_key("file", "rows", json!({ "fileType": "lines" }))
        .stream(r#"CREATE STREAM rows () WITH (TYPE="file", DATASOURCE="rows", FORMAT="json", CONF_KEY="rows")"#)
        .rule("all", "SELECT * FROM rows", json!([{ "lines": sink }]));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["all"]);
    wait_until(SOON, "both lines are at the broker", || {
        far.payloads().len() >= 2
    });
    let found: Vec<String> = far
        .payloads()
        .into_iter()
        .map(|(_, payload)| String::from_utf8(payload).expect("text"))
        .collect();
    let expected = [
        r"plant,m=press\ 1 t=21.5,n=3i 1700000000123000000",
        r#"plant,m=mill note="a \"b\"" 1000000"#,
    ];
    assert_eq!(found, expected);
}

#[test]
fn csv_is_read_from_a_file_row_by_row_and_goes_on_where_it_was() {
    let _machine = shared();
    let files = tempfile::tempdir().expect("a folder");
    let file = files.path().join("in.csv");
    let mut text = String::from("id;name;t\n1;\"a;\n\"\"b\"\"\";1.5\n");
    for id in 2..=500 {
        text += &format!("{id};x;{id}.25\n");
    }
    fs::write(&file, &text).expect("a file");
    let conf = json!({ "connectionSelector": "file", "delimiter": ";", "types": { "id": "integer", "t": "number" } });
    let manifest = Manifest::new()
        .connector("csv", &shipped(Language::Js, "csv-drop", "source-connector"))
        .files(files.path())
        .conf_key("csv", "drop", conf)
        .stream(r#"CREATE STREAM drop () WITH (TYPE="csv", DATASOURCE="in.csv", FORMAT="json", CONF_KEY="drop")"#)
        .rule("all", "SELECT * FROM drop", json!([{ "file": { "path": "out", "sendSingle": true } }]));
    let mut windlass = Windlass::start(&manifest);
    let out = files.path().join("out");
    let found = jsons(&lines(&out, 500));
    assert_eq!(found.len(), 500);
    assert_eq!(
        found.first(),
        Some(&json!({ "id": 1, "name": "a;\n\"b\"", "t": 1.5 }))
    );
    for (row, id) in found.iter().skip(1).zip(2..) {
        assert_eq!(
            row,
            &json!({ "id": id, "name": "x", "t": f64::from(id) + 0.25 })
        );
    }
    // More rows while it is away: the new ones come, with the names of a header read long ago.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(windlass.terminate(Duration::from_secs(15)), Some(0));
    text += "501;y;1\n";
    fs::write(&file, &text).expect("a file");
    windlass.up();
    let found = jsons(&lines(&out, 501));
    assert_eq!(found.len(), 501, "nothing came twice");
    assert_eq!(
        found.last(),
        Some(&json!({ "id": 501, "name": "y", "t": 1 }))
    );
}

#[test]
fn a_deadband_publishes_what_moved() {
    let _machine = shared();
    let files = tempfile::tempdir().expect("a folder");
    let rows = [
        (1, 20.0),
        (1, 20.5),
        (2, 20.0),
        (1, 21.5),
        (1, 21.0),
        (2, 18.0),
    ];
    let text = rows
        .map(|(m, t)| json!({ "m": m, "t": t }).to_string())
        .join("\n");
    fs::write(files.path().join("rows"), text).expect("a file");
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe {
        judge: Judge::Number,
        ..Subscribe::new(broker.port(), "far", "moved/+", 1)
    });
    let sink = json!({ "connectionSelector": "plant", "topic": "moved/{{.m}}", "qos": 1, "key": ["m"],
        "absolute": 1, "sendSingle": true });
    let manifest = Manifest::new()
        .connector("deadband", &shipped(Language::Js, "deadband", "sink-connector"))
        .mqtt("plant", &broker.url())
        .files(files.path())
        .conf_key("file", "rows", json!({ "fileType": "lines" }))
        .stream(r#"CREATE STREAM rows () WITH (TYPE="file", DATASOURCE="rows", FORMAT="json", CONF_KEY="rows")"#)
        .rule("all", "SELECT * FROM rows", json!([{ "deadband": sink }]));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["all"]);
    wait_until(SOON, "all six are handled", || {
        windlass.counter("all", "recordsOut") == Some(6)
    });
    let found: Vec<(String, Value)> = far
        .payloads()
        .into_iter()
        .map(|(topic, payload)| (topic, serde_json::from_slice(&payload).expect("JSON")))
        .collect();
    // JavaScript writes whole numbers without a fraction.
    let expected = [
        (1, json!(20)),
        (2, json!(20)),
        (1, json!(21.5)),
        (2, json!(18)),
    ]
    .map(|(m, t)| (format!("moved/{m}"), json!({ "m": m, "t": t })));
    assert_eq!(found, expected);
}

/// What a rule's status says of the last failure under this flat name.
fn last_exception(windlass: &Windlass, rule: &str, name: &str) -> String {
    let metrics = windlass.fresh_metrics();
    let flat = metrics.pointer(&format!("/rules/{rule}/metrics/{name}_last_exception"));
    flat.and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[test]
fn an_exception_shows_its_own_words_and_its_stack_in_the_status_of_the_rule() {
    let _machine = shared();
    let python = r#"
from windlass import Connector, Sink, Source, messages_of

class Bad(Sink):
    def write(self, batch):
        return self.innermost(batch.texts())

    def innermost(self, texts):
        raise ValueError("the bearing of press 7 is hot")

connector = Connector(name="bad", version="0.1.0", description="Fails.", sink=Bad)
"#;
    let js = r#"
import { connector } from "./build/windlass.js";

class Bad {
  write(batch) {
    return this.innermost(batch.texts());
  }
  innermost(texts) {
    return texts.nothing.here;
  }
}
export default connector({ name: "bad", version: "0.1.0", description: "Fails.", sink: Bad });
"#;
    let js_source = r#"
import { connector } from "./build/windlass.js";

class Bad {
  open() {}
  read() {
    throw new RangeError("no such register");
  }
}
export default connector({ name: "bad", version: "0.1.0", description: "Fails.", source: Bad });
"#;
    let action = |name: &str| json!([{ name: { "sendSingle": true } }]);
    let manifest = Manifest::new()
        .connector("bad_py", &written(Language::Python, "bad_py", "sink-connector", python))
        .connector("bad_js", &written(Language::Js, "bad_js", "sink-connector", js))
        .connector("bad_in", &written(Language::Js, "bad_in", "source-connector", js_source))
        .conf_key("simulator", "demo", json!({ "rate": 5 }))
        .stream(r#"CREATE STREAM demo () WITH (TYPE="simulator", CONF_KEY="demo", FORMAT="json", SHARED="true")"#)
        .stream(r#"CREATE STREAM broken () WITH (TYPE="bad_in", FORMAT="json")"#)
        .rule("in_python", "SELECT * FROM demo", action("bad_py"))
        .rule("in_js", "SELECT * FROM demo", action("bad_js"))
        .rule("from_js", "SELECT * FROM broken", json!([{ "nop": {} }]));
    let windlass = Windlass::start(&manifest);
    windlass.wait_rule("in_python", "running", START);
    let cases = [
        (
            "in_python",
            "sink_bad_py_0_0",
            [
                "ValueError: the bearing of press 7 is hot",
                "line 9, in innermost",
                "line 6, in write",
                "app.py",
            ],
        ),
        (
            "in_js",
            "sink_bad_js_0_0",
            ["TypeError", "innermost", "connector.js:9", "connector.js:6"],
        ),
        (
            "from_js",
            "source_broken_0",
            [
                "RangeError: no such register",
                "read",
                "connector.js:7",
                "source.read",
            ],
        ),
    ];
    for (rule, name, words) in cases {
        wait_until(START, &format!("rule {rule} has failed"), || {
            !last_exception(&windlass, rule, name).is_empty()
        });
        let said = last_exception(&windlass, rule, name);
        println!("{rule}: {said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
        // The sentence is the rule's message too.
        wait_until(
            SOON,
            &format!("the message of {rule} has the words"),
            || {
                windlass.fresh_metrics()["rules"][rule]["message"]
                    .as_str()
                    .is_some_and(|message| message.contains(words[0]))
            },
        );
    }
}

/// A source whose every read leaves memory behind, and a sink that keeps what it gets: instances are
/// replaced many times, and every message passes once, unchanged.
fn recycled(language: Language, connector: &Path, memory: u64) {
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let name = language.word();
    let manifest = Manifest::new()
        .connector(name, connector)
        .limits(json!({ "guestMemoryBytes": memory }))
        .mqtt("plant", &broker.url())
        .conf_key(name, "demo", json!({ "connectionSelector": "plant" }))
        .stream(&format!(
            r#"CREATE STREAM demo () WITH (TYPE="{name}", DATASOURCE="in/#", FORMAT="json", CONF_KEY="demo")"#
        ))
        .rule("pass", "SELECT * FROM demo", json!([{ name: { "connectionSelector": "plant", "sendSingle": true } }]));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["pass"]);
    let sent = Publish {
        window: 200,
        ..Publish::new(broker.port(), "in/1", 1)
    }
    .count(20_000)
    .start()
    .join();
    let all: Vec<u64> = (0..sent.sent).collect();
    expect_all(&far, &all, Duration::from_secs(60));
    {
        let ledger = far.ledger();
        assert_eq!(
            (ledger.duplicates(), ledger.out_of_order()),
            (0, 0),
            "{}",
            ledger.summary()
        );
    }
    windlass.fresh_metrics();
    let sink = format!("sink_{name}_0_0");
    let instances = windlass.counter("pass", &format!("{sink}_instances_total"));
    let traps = windlass.counter("pass", &format!("{sink}_traps_total"));
    println!("{name}: {instances:?} instances of the sink, {traps:?} traps");
    assert!(instances.is_some_and(|count| count >= 2), "{instances:?}");
    assert_eq!(traps, Some(0), "{}", windlass.log());
}

#[test]
fn instances_of_python_are_replaced_and_every_message_passes_once() {
    let _machine = shared();
    let text = r#"
from windlass import Batch, Connector, Message, Sink, Slot, Source, messaging

KEPT = []

class Leaks(Source):
    def open(self, config, resume):
        self.topic = messaging("broker").subscribe([config["datasource"]], qos=1)

    def read(self):
        # Payloads going out as bytes are never given back.
        return Batch([Message(one.payload, one.subject, []) for one in self.topic.receive(50).messages()])

class Keeps(Sink):
    def open(self, config):
        self.broker = messaging("broker")

    def write(self, batch):
        KEPT.extend(text + "." * 400 for text in batch.texts())
        return self.broker.publish(batch, subject="out", qos=1)

connector = Connector(name="leaks", version="0.1.0", description="Leaks.", source=Leaks, sink=Keeps,
    slots=[Slot("broker", "messaging", "All.")])
"#;
    let connector = written(Language::Python, "leaks_py", "connector", text);
    recycled(Language::Python, &connector, 24 << 20);
}

#[test]
fn instances_of_javascript_are_replaced_and_every_message_passes_once() {
    let _machine = shared();
    let text = r#"
import { connector, delivery, messaging, slot } from "./build/windlass.js";

const kept = [];

class Passes {
  open(config) {
    this.topic = messaging("broker").subscribe([config.datasource], { qos: 1 });
  }
  read() {
    const batch = this.topic.receive(50);
    kept.push(batch.texts().join());
    return delivery(batch);
  }
}

class Keeps {
  open() {
    this.broker = messaging("broker");
  }
  write(batch) {
    for (const text of batch.texts()) kept.push(text + ".".repeat(400));
    return this.broker.publish(batch, { subject: "out", qos: 1 });
  }
}

export default connector({ name: "keeps", version: "0.1.0", description: "Keeps.", source: Passes, sink: Keeps,
  slots: [slot("broker", "messaging", "All.")] });
"#;
    let connector = written(Language::Js, "keeps_js", "connector", text);
    recycled(Language::Js, &connector, 6 << 20);
}
