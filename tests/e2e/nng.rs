//! Neuron's side of the wire: samples in, writes out, through restarts of the listener, with two rules at
//! once; and every peer that is none says so in the status, without a storm.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{alone, free_port, program, shared, short_or_long, wait_until};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::{Judge, now_ns};
use windlass_tests::peer::Peer;
use windlass_tests::process::Killed;
use windlass_tests::windlass::Windlass;

use crate::settings::START;

/// Data must flow again soon; on a busy machine "soon" is not two seconds.
const AGAIN: Duration = Duration::from_secs(10);

fn stream(name: &str, key: &str) -> String {
    format!(r#"CREATE STREAM {name} () WITH (TYPE="neuron", FORMAT="json", CONF_KEY="{key}")"#)
}

fn far(broker: &Mosquitto, topic: &str) -> Subscriber {
    Subscriber::start(Subscribe {
        judge: Judge::Number,
        ..Subscribe::new(broker.port(), &format!("far-{topic}"), topic, 0)
    })
}

fn writes(connection: &str) -> Value {
    json!([{ "neuron": {
        "connectionSelector": connection, "nodeName": "{{.node}}", "groupName": "group",
        "tags": ["temperature", "{{.tag}}"], "enableCache": false,
    } }])
}

/// `nngcat` that listens as pair0 and sends this every second, or only takes.
fn nngcat(url: &str, data: Option<&str>) -> Killed {
    let mut command = Command::new(program("nngcat").expect("nng-utils is installed"));
    command.args(["--pair0", "--listen", url, "--ascii"]);
    if let Some(data) = data {
        command.args(["--data", data, "--interval", "1"]);
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nngcat can be started");
    Killed(child)
}

/// Kills it; what it printed.
fn end(mut cat: Killed) -> String {
    let output = cat.0.stdout.take();
    drop(cat);
    let mut out = String::new();
    if let Some(mut output) = output {
        drop(output.read_to_string(&mut out));
    }
    out
}

#[test]
fn neuron_that_is_away_comes_back_and_both_rules_and_the_writes_go_on() {
    let _machine = alone();
    let broker = Mosquitto::start();
    let (one, two) = (far(&broker, "one"), far(&broker, "two"));
    let url = format!("tcp://127.0.0.1:{}", free_port());
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .connection("plc", "neuron", json!({ "url": url }))
        .conf_key("neuron", "plc", json!({ "connectionSelector": "plc" }))
        .stream(&stream("a", "plc"))
        .stream(&stream("b", "plc"))
        .mqtt_stream("orders", "plant", "orders", 1, false)
        .rule(
            "one",
            "SELECT values->seq AS seq, values->big AS big FROM a",
            publish_to("plant", "one", 0),
        )
        .rule("two", "SELECT values FROM b", publish_to("plant", "two", 0))
        .rule(
            "out",
            "SELECT node, temperature, tag, x FROM orders",
            writes("plc"),
        );
    let windlass = Windlass::start(&manifest);
    let why = windlass.wait_connection("plc", "disconnected", START);
    assert!(why.to_lowercase().contains("refused"), "{why}");
    windlass.wait_connection("plant", "connected", START);

    let flows = |peer: &Peer, first: u64| {
        let ready = peer.wait("ready");
        let wanted = |far: &Subscriber| far.ledger().highest().is_some_and(|seq| seq >= first);
        wait_until(AGAIN, "both rules get samples", || {
            wanted(&one) && wanted(&two)
        });
        ready.elapsed()
    };
    let mut peer = Peer::start(&["nng", "pair0", &url]);
    peer.tell("flow 500 1");
    println!(
        "created while it was down: samples {:?} after it listens",
        flows(&peer, 1)
    );
    windlass.wait_connection("plc", "connected", AGAIN);
    let (_, payload) = one.payloads().pop().expect("a payload");
    let text = String::from_utf8_lossy(&payload).into_owned();
    assert!(
        text.contains(r#""big":9007199254740993"#),
        "every digit: {text}"
    );

    let mut order = windlass_tests::toolchain::Plain::connect(broker.port(), "orders", None);
    let mut write = |number: u64| {
        let row = json!({ "node": "modbus", "temperature": 25.5, "tag": "x", "x": number });
        order.publish("orders", row.to_string().as_bytes());
    };
    let arrives = |peer: &Peer, number: u64| {
        let wanted = format!(
            r#"{{"group_name":"group","node_name":"modbus","tags":[{{"tag_name":"temperature","value":25.5}},{{"tag_name":"x","value":{number}}}]}}"#
        );
        wait_until(AGAIN, "the write arrives", || peer.got().contains(&wanted));
    };
    write(1);
    arrives(&peer, 1);

    let before = now_ns();
    peer.kill();
    let why = windlass.wait_connection("plc", "connecting", AGAIN);
    println!(
        "killed under load, noticed after {} ms: {why}",
        (now_ns() - before) / 1_000_000
    );
    assert!(!why.is_empty());
    std::thread::sleep(Duration::from_secs(5));
    let now = windlass.connection("plc").expect("its state");
    assert_eq!(now.0, "connecting", "{}", now.1);
    assert!(now.1.to_lowercase().contains("refused"), "{}", now.1);
    write(2);
    let first = 1_000_000;
    let mut peer = Peer::start(&["nng", "pair0", &url]);
    peer.tell(&format!("flow 500 {first}"));
    println!(
        "back after 5 s: samples {:?} after it listens",
        flows(&peer, first)
    );
    windlass.wait_connection("plc", "connected", AGAIN);
    // What was written meanwhile had waited.
    arrives(&peer, 2);
    write(3);
    arrives(&peer, 3);
    assert_eq!(
        (one.ledger().duplicates(), two.ledger().duplicates()),
        (0, 0)
    );
}

#[test]
fn a_listener_that_restarts_again_and_again_is_found_each_time() {
    let _machine = alone();
    let restarts = short_or_long(20, 200);
    let broker = Mosquitto::start();
    let far = far(&broker, "out");
    let url = format!("tcp://127.0.0.1:{}", free_port());
    // Two sources and a sink that make the connection themselves: it is one.
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .conf_key("neuron", "own", json!({ "url": url }))
        .stream(&stream("a", "own"))
        .stream(&stream("b", "own"))
        .mqtt_stream("orders", "plant", "orders", 0, false)
        .rule("r", "SELECT * FROM a", publish_to("plant", "out", 0))
        .rule("s", "SELECT * FROM b", json!([{ "nop": {} }]))
        .rule(
            "w",
            "SELECT * FROM orders",
            json!([{ "neuron": { "url": url, "raw": true } }]),
        );
    let windlass = Windlass::start(&manifest);
    windlass.wait_rule("r", "running", START);
    let mut times = Vec::new();
    for restart in 0..restarts {
        let began = Instant::now();
        let cat = nngcat(&url, Some(&format!(r#"{{"seq":{restart}}}"#)));
        wait_until(AGAIN, "a sample of this listener arrives", || {
            far.ledger().has(restart)
        });
        times.push(began.elapsed());
        end(cat);
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!(
        "{restarts} restarts of nngcat: median {median:?}, worst {:?} until a sample is through",
        times[times.len() - 1]
    );
    windlass.fresh_metrics();
    let connected: Vec<String> = windlass
        .changes()
        .into_iter()
        .filter(|(_, id, status, _)| id.starts_with("nng-") && status == "connected")
        .map(|(_, id, ..)| id)
        .collect();
    // A listener that is gone as soon as its sample is through was not always there for long enough to
    // count.
    assert!(connected.len() as u64 * 2 >= restarts, "{connected:?}");
    assert!(
        connected.iter().all(|id| *id == connected[0]),
        "{connected:?}"
    );
    // A write to nngcat, as it is.
    let cat = nngcat(&url, None);
    let before = connected.len();
    wait_until(AGAIN, "it is connected once more", || {
        let changes = windlass.changes();
        let again = changes
            .iter()
            .filter(|(_, id, status, _)| id.starts_with("nng-") && status == "connected");
        again.count() > before
    });
    let sent = Publish::new(broker.port(), "orders", 1)
        .count(3)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 3);
    std::thread::sleep(Duration::from_secs(1));
    let out = end(cat);
    assert_eq!(out.matches(r#""seq":"#).count(), 3, "{out}");
}

/// Accepts, says this, and then nothing; how often it was dialled.
fn dumb(words: &'static [u8]) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", free_port())).expect("a port");
    let url = format!("tcp://{}", listener.local_addr().expect("bound"));
    let dialled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dialled);
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten().take(1000) {
            count.fetch_add(1, Ordering::Relaxed);
            drop(std::io::Write::write_all(&mut stream, words));
            held.push(stream);
        }
    });
    (url, dialled)
}

#[test]
fn every_peer_that_is_none_is_named_and_none_is_hammered() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = far(&broker, "out");
    let port = || format!("tcp://127.0.0.1:{}", free_port());
    let (taken, other, good) = (port(), port(), port());
    // A listener with a partner: the second one is dropped at once.
    let _listener = Peer::ready(&["nng", "pair0", &taken]);
    let partner = Peer::ready(&["nng", "pair0", &format!("dial:{taken}")]);
    partner.wait("up");
    let _pair1 = Peer::ready(&["nng", "pair1", &other]);
    let mut peer = Peer::ready(&["nng", "pair0", &good]);
    let (silent, silent_dials) = dumb(b"");
    let (http, http_dials) = dumb(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("neuron.ipc");
    let ipc = format!("ipc://{}", socket.display());
    let limited = json!({ "url": good, "maxMessageBytes": 3_000_000 });
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .connection("taken", "nng", json!({ "url": taken }))
        .connection("other", "nng", json!({ "url": other }))
        .connection(
            "silent",
            "nng",
            json!({ "url": silent, "connectTimeout": "1s" }),
        )
        .connection("http", "nng", json!({ "url": http }))
        .connection("local", "nng", json!({ "url": ipc }))
        .connection("good", "nng", limited)
        .conf_key("neuron", "good", json!({ "connectionSelector": "good" }))
        .conf_key("neuron", "local", json!({ "connectionSelector": "local" }))
        .stream(&stream("a", "good"))
        .stream(&stream("l", "local"))
        .rule("r", "SELECT * FROM a", publish_to("plant", "out", 0))
        .rule("l", "SELECT * FROM l", publish_to("plant", "out", 0));
    let windlass = Windlass::start(&manifest);
    let began = Instant::now();
    for (id, words) in [
        ("taken", "another partner"),
        ("other", "pair1"),
        ("silent", "says nothing"),
        ("http", "HTTP/1.1"),
        ("local", "no socket at that path"),
    ] {
        let why = windlass.wait_connection(id, "disconnected", START);
        println!("{id}: {why}");
        assert!(why.contains(words), "{id}: {why}");
    }
    windlass.wait_connection("good", "connected", START);

    // Too large between good ones: skipped by its length, counted, and the link stays.
    peer.tell(r#"send {"seq":1}"#);
    wait_until(AGAIN, "the first one arrives", || far.ledger().has(1));
    peer.tell("size 3500000");
    peer.tell(r#"send {"seq":2}"#);
    wait_until(AGAIN, "the one behind it arrives", || far.ledger().has(2));
    // What cannot be read is a dead letter, and a trace goes off.
    peer.tell("send not JSON");
    let header = "0ace".to_owned() + &"11".repeat(24);
    let traced: String = br#"{"seq":3}"#.iter().map(|byte| format!("{byte:02x}")).collect();
    peer.tell(&format!("hex {header}{traced}"));
    wait_until(AGAIN, "the traced one arrives", || far.ledger().has(3));
    windlass.fresh_metrics();
    assert_eq!(windlass.connection_counter("good", "refused"), Some(1));
    let ups = windlass.changes();
    let ups = ups
        .iter()
        .filter(|(_, id, status, _)| id == "good" && status == "connected");
    assert_eq!(ups.count(), 1, "the link stayed");

    // The local socket comes to be.
    let mut local = Peer::ready(&["nng", "pair0", &ipc]);
    windlass.wait_connection("local", "connected", AGAIN);
    local.tell(r#"send {"seq":4}"#);
    wait_until(AGAIN, "a sample by the local socket", || {
        far.ledger().has(4)
    });

    let most = usize::try_from(began.elapsed().as_secs()).unwrap_or(0) * 2 + 8;
    for (name, dials) in [("silent", &silent_dials), ("http", &http_dials)] {
        let dials = dials.load(Ordering::Relaxed);
        println!("{name}: {dials} dials in {:?}", began.elapsed());
        assert!(
            dials <= most,
            "{name}: {dials} dials in {:?}",
            began.elapsed()
        );
    }
    assert!(
        http_dials.load(Ordering::Relaxed) <= 2,
        "a wrong protocol is dialled slowly"
    );
    // Its partner goes: the next attempt finds it free.
    drop(partner);
}
