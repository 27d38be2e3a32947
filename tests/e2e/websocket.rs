//! WebSockets both ways, against Python's `websockets`: served by the host, and dialled; away and back;
//! and every peer that is none says so.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_tests::certificates::Certificates;
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{alone, free_port, shared, wait_until};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::Judge;
use windlass_tests::peer::Peer;
use windlass_tests::windlass::Windlass;

use crate::settings::START;

const AGAIN: Duration = Duration::from_secs(10);

fn far(broker: &Mosquitto, topic: &str) -> Subscriber {
    Subscriber::start(Subscribe {
        judge: Judge::Number,
        ..Subscribe::new(broker.port(), &format!("far-{topic}"), topic, 0)
    })
}

fn stream(name: &str, key: &str) -> String {
    format!(r#"CREATE STREAM {name} () WITH (TYPE="websocket", FORMAT="json", CONF_KEY="{key}")"#)
}

fn send_to(props: Value) -> Value {
    let mut props = props;
    props["sendSingle"] = json!(true);
    json!([{ "websocket": props }])
}

#[test]
fn a_server_that_is_away_comes_back_and_both_rules_and_the_sink_go_on() {
    let _machine = alone();
    let broker = Mosquitto::start();
    let (one, two) = (far(&broker, "one"), far(&broker, "two"));
    let port = free_port();
    let place = format!("127.0.0.1:{port}");
    let port = port.to_string();
    let props = json!({
        "addr": place, "path": "/plant?line=7", "keepAlive": "2s",
        "requestHeader": { "X-Plant": ["hunter2"] },
    });
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .connection("hmi", "websocket", props)
        .conf_key("websocket", "hmi", json!({ "connectionSelector": "hmi" }))
        .stream(&stream("a", "hmi"))
        .stream(&stream("b", "hmi"))
        .mqtt_stream("orders", "plant", "orders", 1, false)
        .rule(
            "one",
            "SELECT values->seq AS seq FROM a",
            publish_to("plant", "one", 0),
        )
        .rule("two", "SELECT * FROM b", publish_to("plant", "two", 0))
        .rule(
            "out",
            "SELECT * FROM orders",
            send_to(json!({ "connectionSelector": "hmi" })),
        );
    let windlass = Windlass::start(&manifest);
    let why = windlass.wait_connection("hmi", "disconnected", START);
    assert!(why.to_lowercase().contains("refused"), "{why}");
    windlass.wait_connection("plant", "connected", START);
    let words = ["serve", "127.0.0.1", &port];
    let flows = |peer: &Peer, first: u64| {
        let ready = peer.wait("ready");
        let wanted = |far: &Subscriber| far.ledger().highest().is_some_and(|seq| seq >= first);
        wait_until(AGAIN, "both rules get messages", || {
            wanted(&one) && wanted(&two)
        });
        ready.elapsed()
    };
    let mut peer = Peer::start(&words);
    peer.tell("flow 500 1");
    println!(
        "created while it was down: messages {:?} after it listens",
        flows(&peer, 1)
    );
    windlass.wait_connection("hmi", "connected", AGAIN);
    peer.wait("path /plant?line=7 hunter2");
    let mut order = windlass_tests::toolchain::Plain::connect(broker.port(), "orders", None);
    order.publish("orders", br#"{"n":1}"#);
    peer.wait(r#"got {"n":1}"#);

    let killed = Instant::now();
    peer.kill();
    let why = windlass.wait_connection("hmi", "connecting", AGAIN);
    println!(
        "killed under load, noticed after {:?}: {why}",
        killed.elapsed()
    );
    assert!(!why.is_empty());
    // Meanwhile: an order that waits.
    order.publish("orders", br#"{"n":2}"#);
    std::thread::sleep(Duration::from_secs(5));
    let now = windlass.connection("hmi").expect("its state");
    assert_eq!(now.0, "connecting", "{}", now.1);
    let first = 1_000_000;
    let mut peer = Peer::start(&words);
    peer.tell(&format!("flow 500 {first}"));
    println!(
        "back after 5 s: messages {:?} after it listens",
        flows(&peer, first)
    );
    peer.wait(r#"got {"n":2}"#);
    order.publish("orders", br#"{"n":3}"#);
    peer.wait(r#"got {"n":3}"#);
    // Its end is the protocol's own.
    let mut windlass = windlass;
    assert_eq!(
        windlass.terminate(Duration::from_secs(15)),
        Some(0),
        "{}",
        windlass.log()
    );
    peer.wait("down 1000");
    assert!(!windlass.log().contains("hunter2"), "a header shows");
    assert_eq!(
        (one.ledger().duplicates(), two.ledger().duplicates()),
        (0, 0)
    );
}

#[test]
fn clients_of_the_data_port_come_and_go_and_one_that_stands_still_holds_nobody() {
    let _machine = alone();
    let broker = Mosquitto::start();
    let far = far(&broker, "in");
    let port = free_port();
    let url = format!("ws://127.0.0.1:{port}/hmi");
    // Source and sink name the path, and no connection: it is one.
    let manifest = Manifest::new()
        .section("push", json!({ "address": format!("127.0.0.1:{port}") }))
        .mqtt("plant", &broker.url())
        .stream(r#"CREATE STREAM hmi () WITH (TYPE="websocket", DATASOURCE="/hmi", FORMAT="json", CONF_KEY="own")"#)
        .conf_key("websocket", "own", json!({ "token": "hunter2" }))
        .mqtt_stream("orders", "plant", "orders", 1, false)
        .rule("in", "SELECT * FROM hmi", publish_to("plant", "in", 0))
        .rule("out", "SELECT * FROM orders", send_to(json!({ "path": "/hmi", "token": "hunter2" })));
    let mut windlass = Windlass::start(&manifest);
    windlass.wait_rule("in", "running", START);
    crate::push::wait_served(port, "/hmi");
    let token = "Authorization=Bearer hunter2";
    let connect = |words: &[&str]| {
        let mut all = vec!["connect", url.as_str()];
        all.extend(words);
        Peer::start(&all)
    };
    connect(&["Authorization=Bearer wrong"]).wait("refused 401");
    connect(&[token, "Origin=https://evil.example"]).wait("ready");

    // Nobody is there: messages wait, and come in their order.
    let sent = Publish::new(broker.port(), "orders", 1)
        .count(50)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 50);
    std::thread::sleep(Duration::from_secs(1));
    let mut first = connect(&[token]);
    let numbers = |peer: &Peer| -> Vec<u64> {
        let got = peer.got();
        let rows = got
            .iter()
            .filter_map(|text| serde_json::from_str::<Value>(text).ok());
        rows.filter_map(|row| row["seq"].as_u64()).collect()
    };
    wait_until(Duration::from_secs(20), "what waited arrives", || {
        numbers(&first).len() >= 50
    });
    assert_eq!(numbers(&first), (0..50).collect::<Vec<_>>());
    first.tell(r#"send {"seq":7}"#);
    wait_until(AGAIN, "its message arrives", || far.ledger().has(7));

    // A second client, and a third that is stopped.
    let second = connect(&[token]);
    second.wait("ready");
    let third = connect(&[token]);
    third.wait("ready");
    third.stop();
    let count = 20_000;
    let more = Publish {
        first: 100,
        ..Publish::new(broker.port(), "orders", 1)
    };
    let began = Instant::now();
    let sent = more.count(count).start().join();
    assert_eq!(sent.acknowledged.len() as u64, count);
    for peer in [&first, &second] {
        wait_until(Duration::from_secs(60), "all arrive", || {
            numbers(peer).last() == Some(&(99 + count))
        });
    }
    println!(
        "{count} messages to two clients beside one that stands still: {:?}",
        began.elapsed()
    );
    let all = numbers(&second);
    assert_eq!(
        all,
        (100..100 + count).collect::<Vec<_>>(),
        "none lost, none twice, in order"
    );
    assert_eq!(
        windlass.terminate(Duration::from_secs(15)),
        Some(0),
        "{}",
        windlass.log()
    );
    first.wait("down 1001");
    assert!(!windlass.log().contains("hunter2"), "the token shows");
}

#[test]
fn every_server_that_is_none_is_named() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = far(&broker, "out");
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (right, wrong) = (Certificates::new(), Certificates::new());
    let identity = right.identity(&["localhost", "127.0.0.1"]);
    let certificate = file("cert.pem", &identity.certificate);
    let key = file("key.pem", &identity.key);
    let tls = free_port().to_string();
    let mut peer = Peer::ready(&["serve", "127.0.0.1", &tls, &certificate, &key]);
    let plain = free_port().to_string();
    let _plain = Peer::ready(&["serve", "127.0.0.1", &plain]);
    let silent = TcpListener::bind(("127.0.0.1", free_port())).expect("a port");
    let silent = silent.local_addr().expect("bound").to_string();
    let secure = |authority: &str, name: &str| {
        json!({
            "addr": format!("{name}:{tls}"), "path": "/x", "scheme": "wss", "rootCaPath": authority,
        })
    };
    let (good, bad) = (
        file("good.pem", &right.authority()),
        file("bad.pem", &wrong.authority()),
    );
    let mut named = secure(&good, "127.0.0.1");
    named["serverName"] = json!("other.plant");
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .connection("good", "websocket", secure(&good, "localhost"))
        .connection("bad", "websocket", secure(&bad, "localhost"))
        .connection("name", "websocket", named)
        .connection("plain", "websocket", json!({ "addr": format!("127.0.0.1:{plain}"), "path": "/x", "scheme": "wss", "rootCaPath": good }))
        .connection("silent", "websocket", json!({ "addr": silent, "path": "/x", "connectTimeout": "1s" }))
        .connection("mqtt", "websocket", json!({ "addr": format!("127.0.0.1:{}", broker.port()), "path": "/x", "connectTimeout": "1s" }))
        .connection("nobody", "websocket", json!({ "addr": "no-such-host.invalid:1", "path": "/x" }))
        .conf_key("websocket", "good", json!({ "connectionSelector": "good" }))
        .stream(&stream("a", "good"))
        .rule("r", "SELECT * FROM a", publish_to("plant", "out", 0));
    let windlass = Windlass::start(&manifest);
    for (id, words) in [
        ("bad", "unknown authority"),
        ("name", "another name"),
        ("plain", "TLS"),
        ("silent", "does not answer the handshake"),
        ("mqtt", "handshake"),
        ("nobody", "resolve"),
    ] {
        let why = windlass.wait_connection(id, "disconnected", START);
        println!("{id}: {why}");
        assert!(why.contains(words), "{id}: {why}");
    }
    windlass.wait_connection("good", "connected", START);
    windlass.wait_rule("r", "running", START);
    peer.tell(r#"send {"seq":1}"#);
    wait_until(AGAIN, "a message over TLS", || far.ledger().has(1));
    peer.tell(&format!(
        "hex {}",
        br#"{"seq":2}"#.iter().map(|b| format!("{b:02x}")).collect::<String>()
    ));
    wait_until(AGAIN, "a binary frame", || far.ledger().has(2));
    peer.tell("send not JSON");
    peer.tell(r#"send {"seq":3}"#);
    wait_until(AGAIN, "what cannot be read holds nothing up", || {
        far.ledger().has(3)
    });
}
