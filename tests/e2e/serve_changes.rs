//! Changes under load: rules, connections and connectors are replaced while messages flow, and nothing
//! is missed; many clients at once leave nothing behind.

use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::load::{Publish, Subscribe, Subscriber, dial};
use windlass_tests::machine::{alone, shared, short_or_long, wait_until};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::rest::Rest;
use windlass_tests::windlass::Windlass;
use windlass_tests::wire::{Delivery, publish};

use crate::settings::expect_all;

const START: Duration = Duration::from_secs(60);

fn set_up(rest: &mut Rest, broker: &Mosquitto, action: Value) {
    let props = json!({ "server": broker.url() });
    rest.must_post(
        "/connections",
        &json!({ "id": "plant", "typ": "mqtt", "props": props }),
        201,
    );
    let conf = json!({ "qos": 1, "connectionSelector": "plant" });
    rest.must_put("/metadata/sources/mqtt/confKeys/k", &conf, 200);
    let sql = r#"CREATE STREAM demo () WITH (DATASOURCE="in/#", CONF_KEY="k", TYPE="mqtt", FORMAT="json")"#;
    rest.must_post("/streams", &json!({ "sql": sql }), 201);
    let rule = json!({ "id": "r", "sql": "SELECT * FROM demo", "actions": [action] });
    rest.must_post("/rules", &rule, 201);
    rest.wait(
        "/rules/r/status",
        START,
        "it runs and is connected",
        |status| status["status"] == "running" && status["source_demo_0_connection_status"] == 1,
    );
    std::thread::sleep(Duration::from_millis(200));
}

fn publish_action(qos: u8) -> Value {
    json!({ "mqtt": { "connectionSelector": "plant", "topic": "out", "qos": qos, "sendSingle": true } })
}

#[test]
fn rules_streams_and_connections_change_under_load_and_no_message_is_missed() {
    let _machine = alone();
    let changes = short_or_long(12, 200);
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let windlass = Windlass::serve(&[]);
    let mut rest = windlass.rest();
    set_up(&mut rest, &broker, publish_action(1));
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(1000).start();
    std::thread::sleep(Duration::from_millis(300));
    for change in 0..changes {
        match change % 4 {
            0 => {
                let (code, text) = rest.post("/rules/r/restart", &json!({}));
                assert_eq!((code, text.as_str()), (200, "Rule r was restarted"));
            }
            1 => {
                let sql = format!("SELECT * FROM demo WHERE seq >= 0 OR seq < {change}");
                let rule = json!({ "id": "r", "sql": sql, "actions": [publish_action(1)] });
                rest.must_put("/rules/r", &rule, 200);
            }
            2 => {
                let sql = format!(
                    r#"CREATE STREAM demo () WITH (DATASOURCE="in/#", CONF_KEY="k", TYPE="mqtt", FORMAT="json", VERSION="{change}")"#
                );
                rest.must_put("/streams/demo", &json!({ "sql": sql }), 200);
            }
            _ => {
                rest.wait(
                    "/rules/r/status",
                    Duration::from_secs(20),
                    "it runs",
                    |status| status["status"] == "running",
                );
            }
        }
    }
    let sent = publisher.stop();
    let all: Vec<u64> = (0..sent.sent).collect();
    expect_all(&far, &all, Duration::from_secs(30));
    println!(
        "{changes} changes in {} messages: {}",
        sent.sent,
        far.ledger().summary()
    );
    assert_eq!(far.ledger().out_of_order(), 0, "{}", far.ledger().summary());
}

#[test]
fn rules_that_share_a_source_change_under_load_and_neither_misses_a_message() {
    let _machine = alone();
    let changes = short_or_long(8, 120);
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let beside = Subscriber::start(Subscribe::new(broker.port(), "beside", "beside", 1));
    let windlass = Windlass::serve(&[]);
    let mut rest = windlass.rest();
    set_up(&mut rest, &broker, publish_action(1));
    assert_eq!(rest.delete("/rules/r").0, 200);
    assert_eq!(rest.delete("/streams/demo").0, 200);
    let sql = |version: u64| {
        let statement = format!(
            r#"CREATE STREAM demo () WITH (DATASOURCE="in/#", CONF_KEY="k", TYPE="mqtt", SHARED="TRUE", VERSION="{version}")"#
        );
        json!({ "sql": statement })
    };
    rest.must_post("/streams", &sql(0), 201);
    let neighbour = json!({ "mqtt": { "connectionSelector": "plant", "topic": "beside", "qos": 1, "sendSingle": true } });
    for (id, action) in [("r", publish_action(1)), ("n", neighbour)] {
        let rule = json!({ "id": id, "sql": "SELECT * FROM demo", "actions": [action] });
        rest.must_post("/rules", &rule, 201);
        rest.wait(&format!("/rules/{id}/status"), START, "it runs", |status| {
            status["status"] == "running" && status["source_demo_0_connection_status"] == 1
        });
    }
    std::thread::sleep(Duration::from_millis(200));
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(1000).start();
    std::thread::sleep(Duration::from_millis(200));
    for change in 0..changes {
        if change % 4 == 3 {
            rest.must_put("/streams/demo", &sql(change), 200);
        } else {
            assert_eq!(rest.post("/rules/r/restart", &json!({})).0, 200);
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    let sent = publisher.stop();
    let all: Vec<u64> = (0..sent.sent).collect();
    expect_all(&far, &all, Duration::from_secs(30));
    expect_all(&beside, &all, Duration::from_secs(30));
    println!(
        "{changes} changes in {} messages: {}; its neighbour: {}",
        sent.sent,
        far.ledger().summary(),
        beside.ledger().summary()
    );
    assert_eq!(far.ledger().out_of_order(), 0, "{}", far.ledger().summary());
    assert_eq!(
        beside.ledger().out_of_order(),
        0,
        "{}",
        beside.ledger().summary()
    );
}

#[test]
fn a_connector_is_replaced_under_a_running_rule_and_no_message_is_missed() {
    let _machine = alone();
    let own = std::env::current_dir()
        .expect("a folder")
        .join("../target/connectors/checksum.wasm");
    let wasm = std::fs::read(&own).unwrap_or_else(|error| {
        panic!(
            "{} is not there ({error}); tests/run connectors builds it",
            own.display()
        )
    });
    // The same component with a section that means nothing: another digest.
    let other = {
        let mut bytes = wasm.clone();
        // A custom section (id 0) of the component: its size, the length of its name, its name.
        bytes.extend([0, 6, 5, b'o', b't', b'h', b'e', b'r']);
        bytes
    };
    let broker = Mosquitto::start();
    let windlass = Windlass::serve(&[]);
    let mut rest = windlass.rest();
    let answered = rest.send("PUT", "/connectors/mine", &wasm);
    assert_eq!(answered.status, 201, "{}", answered.body);
    let answered = rest.send("PUT", "/connectors/mqtt", &wasm);
    assert_eq!(answered.status, 400, "{}", answered.body);
    assert!(
        answered.body.contains("comes with the host"),
        "{}",
        answered.body
    );
    let answered = rest.send("PUT", "/connectors/broken", b"\0asm\x01\0\0\0");
    assert_eq!(answered.status, 400, "{}", answered.body);
    let (_, listed) = rest.get("/connectors");
    let mine = |listed: &Value| -> Value {
        let mut list = listed.as_array().expect("a list").iter();
        list.find(|one| one["name"] == "mine")
            .cloned()
            .unwrap_or_default()
    };
    let first = mine(&listed);
    assert_eq!(first["bundled"], false, "{listed}");
    assert!(
        first["digest"]
            .as_str()
            .is_some_and(|digest| digest.len() == 64),
        "{first}"
    );

    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    // It puts a frame around each payload: to the oracle each is another message, and is counted so.
    set_up(
        &mut rest,
        &broker,
        json!({ "mine": { "connectionSelector": "plant", "topic": "out", "qos": 1 } }),
    );
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(500).start();
    for round in 0..4 {
        std::thread::sleep(Duration::from_millis(250));
        let body = if round % 2 == 0 { &other } else { &wasm };
        let answered = rest.send("PUT", "/connectors/mine", body);
        assert_eq!(answered.status, 200, "{}", answered.body);
        let (_, listed) = rest.get("/connectors");
        let now = mine(&listed);
        assert_eq!(now["digest"] == first["digest"], round % 2 == 1, "{now}");
    }
    let sent = publisher.stop();
    wait_until(Duration::from_secs(30), "each has arrived", || {
        far.ledger().corrupt() >= sent.sent
    });
    far.settle(Duration::from_millis(500), Duration::from_secs(5));
    println!(
        "4 replacements in {} messages, {} frames",
        sent.sent,
        far.ledger().corrupt()
    );
    assert_eq!(far.ledger().corrupt(), sent.sent, "each once");
    let (code, text) = rest.delete("/connectors/mine");
    assert_eq!(code, 400);
    assert!(
        text.contains("is used by streams [] and rules [r]"),
        "{text}"
    );
    assert_eq!(rest.delete("/rules/r").0, 200);
    assert_eq!(rest.delete("/connectors/mine").0, 200);
}

#[test]
fn dead_letters_are_read_sent_again_and_removed_over_rest() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let windlass = Windlass::serve(&[]);
    let mut rest = windlass.rest();
    set_up(&mut rest, &broker, publish_action(1));
    let rule = json!({ "id": "r", "sql": "SELECT * FROM demo WHERE temperature > 0", "actions": [publish_action(1)] });
    rest.must_put("/rules/r", &rule, 200);
    rest.wait("/rules/r/status", START, "it runs", |status| {
        status["status"] == "running"
    });
    let (mut socket, _, _) = dial(broker.port(), "rubbish", true, None).expect("the broker is up");
    let mut bytes = Vec::new();
    for payload in ["broken one", "broken two"] {
        publish(
            &mut bytes,
            "in/poison",
            Delivery::default(),
            payload.as_bytes(),
        );
    }
    std::io::Write::write_all(&mut socket, &bytes).expect("sent");
    let kept = rest.wait(
        "/deadletters?rule=r",
        Duration::from_secs(20),
        "both are kept",
        |letters| letters["total"] == 2,
    );
    let id = kept["letters"][0]["id"].as_i64().expect("a number");
    let (code, letter) = rest.get(&format!("/deadletters/{id}"));
    assert_eq!(
        (code, &letter["rule"], &letter["payload"]),
        (200, &json!("r"), &json!("broken one"))
    );
    assert!(
        letter["reason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty()),
        "{letter}"
    );
    // Sent again it fails again, and is there again.
    assert_eq!(
        rest.post(&format!("/deadletters/{id}/resend"), &json!({}))
            .0,
        200
    );
    rest.wait(
        "/deadletters?rule=r",
        Duration::from_secs(20),
        "it is kept anew",
        |letters| {
            letters["total"] == 2
                && letters["letters"]
                    .as_array()
                    .is_some_and(|all| all.iter().all(|one| one["state"] == "kept"))
        },
    );
    let (code, text) = rest.delete("/deadletters");
    assert_eq!(code, 400, "{text}");
    assert_eq!(rest.get("/deadletters/999999").0, 404);
    assert_eq!(rest.delete("/deadletters?rule=r").0, 200);
    assert_eq!(rest.get("/deadletters").1["total"], 0);
}

/// A small generator of numbers, so that a run can be repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn many_clients_at_once_leave_nothing_behind() {
    let _machine = alone();
    let (clients, operations) = short_or_long((8, 120), (32, 2000));
    let broker = Mosquitto::start();
    let windlass = Windlass::serve(&[]);
    let mut rest = windlass.rest();
    let simulator = r#"CREATE STREAM sim () WITH (TYPE="simulator", FORMAT="json")"#;
    rest.must_post("/streams", &json!({ "sql": simulator }), 201);
    // What is compiled and opened once is there before the count.
    rest.must_post(
        "/connections",
        &json!({ "id": "warm", "typ": "mqtt", "props": { "server": broker.url() } }),
        201,
    );
    rest.must_post("/rules", &json!({ "id": "warm", "sql": "SELECT * FROM sim", "actions": [{ "mqtt": { "connectionSelector": "warm", "topic": "warm" } }] }), 201);
    rest.wait("/rules/warm/status", START, "it runs", |status| {
        status["sink_mqtt_0_0_connection_status"] == 1
    });
    rest.delete("/rules/warm");
    rest.delete("/connections/warm");
    std::thread::sleep(Duration::from_millis(500));
    let before = windlass.usage();
    let (port, server) = (windlass.rest_port(), broker.url());
    let threads: Vec<_> = (0..clients)
        .map(|client| {
            let server = server.clone();
            std::thread::spawn(move || {
                let mut rest = Rest::new(port);
                let mut numbers = Numbers(client + 1);
                let mut worst = 0;
                for _ in 0..operations {
                    let id = format!("i{}", numbers.below(20));
                    let connection =
                        json!({ "id": id, "typ": "mqtt", "props": { "server": server } });
                    let rule = json!({
                        "id": id, "sql": "SELECT * FROM sim",
                        "actions": [{ "mqtt": { "connectionSelector": id, "topic": "t" } }],
                    });
                    let (code, text) = match numbers.below(8) {
                        0 | 1 => rest.post("/connections", &connection),
                        2 => rest.put(&format!("/connections/{id}"), &connection),
                        3 => rest.delete(&format!("/connections/{id}")),
                        4 => rest.post("/rules", &rule),
                        5 => rest.post(&format!("/rules/{id}/stop"), &json!({})),
                        6 => rest.post(&format!("/rules/{id}/start"), &json!({})),
                        _ => rest.delete(&format!("/rules/{id}")),
                    };
                    worst = worst.max(code);
                    assert!(code < 500, "{code} {text}");
                }
                worst
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a client");
    }
    // The end state is one: each rule's connection is there or its rule does not run.
    let (_, rules) = rest.get("/rules");
    for rule in rules.as_array().into_iter().flatten() {
        let id = rule["id"].as_str().unwrap_or_default();
        assert_eq!(rest.delete(&format!("/rules/{id}")).0, 200);
    }
    let (_, connections) = rest.get("/connections?forceAll=true");
    for connection in connections.as_array().into_iter().flatten() {
        assert!(connection.get("refCount").is_none(), "{connection}");
        assert_eq!(connection["users"], json!([]), "{connection}");
        let id = connection["id"].as_str().unwrap_or_default();
        assert_eq!(
            rest.delete(&format!("/connections/{id}")).0,
            200,
            "{connection}"
        );
    }
    assert_eq!(rest.get("/connections?forceAll=true").1, json!([]));
    drop(rest);
    let calm = windlass_tests::machine::holds_within(Duration::from_secs(10), || {
        let now = windlass.usage();
        now.files <= before.files + 4 && now.threads <= before.threads + 4
    });
    let after = windlass.usage();
    println!(
        "{clients} clients, {operations} operations each; open files {} before, {} after; threads {}, {}; resident {}, {} MB",
        before.files,
        after.files,
        before.threads,
        after.threads,
        before.resident >> 20,
        after.resident >> 20
    );
    assert!(calm, "open files or threads are left");
}

#[test]
fn five_hundred_connections_that_reconnect_are_listed_at_once() {
    let _machine = alone();
    let windlass = Windlass::serve(&[]);
    let mut rest = windlass.rest();
    for number in 0..500 {
        // Nobody listens on port 1: each of them is refused, again and again.
        let connection = json!({
            "id": format!("c{number}"),
            "typ": "mqtt",
            "props": { "server": "tcp://127.0.0.1:1", "password": "hush", "username": "u" },
        });
        rest.must_post("/connections", &connection, 201);
    }
    let idle = windlass.usage();
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let began = std::time::Instant::now();
            let (code, listed) = rest.get("/connections");
            let took = began.elapsed();
            assert_eq!((code, listed.as_array().map(Vec::len)), (200, Some(500)));
            took
        })
        .collect();
    times.sort();
    let busy = windlass.usage().cpu.saturating_sub(idle.cpu);
    println!(
        "500 connections that reconnect: GET p50 {:?}, p99 {:?}; {} MB; {:?} of CPU for 200 lists",
        times[100],
        times[198],
        idle.resident >> 20,
        busy
    );
    // The figure itself is for a quiet machine; on any, nothing waits for a network.
    let most = short_or_long(Duration::from_millis(500), Duration::from_millis(20));
    assert!(times[198] < most, "p99 {:?}", times[198]);
    let (_, one) = rest.get("/connections/c7");
    assert!(
        one["attempts"].as_u64() > Some(0) && one["err"].is_string(),
        "{one}"
    );
}
