//! The server as a user of eKuiper meets it: connections, conf keys, streams and rules over REST, and
//! what they say of themselves through stop and start of a real broker.

use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{alone, shared, short_or_long, wait_until};
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::rest::Rest;
use windlass_tests::windlass::Windlass;

/// Connectors may have to be compiled once.
const START: Duration = Duration::from_secs(60);

fn status_is<'a>(name: &'a str, value: i64) -> impl Fn(&Value) -> bool + 'a {
    move |status| status[name] == value
}

fn mqtt_action(topic: &str) -> Value {
    json!([{ "mqtt": { "connectionSelector": "mqttcon1", "topic": topic, "qos": 1, "sendSingle": true } }])
}

/// The chapter on connections as its readers type it.
fn type_the_chapter(rest: &mut Rest, broker: &str) {
    let connection = json!({ "id": "mqttcon1", "typ": "mqtt", "props": { "server": broker } });
    assert_eq!(rest.must_post("/connections", &connection, 201), "success");
    let first = json!({ "qos": 1, "connectionSelector": "mqttcon1" });
    rest.must_put("/metadata/sources/mqtt/confKeys/democonf", &first, 200);
    // As it stands in scripts that are in circulation.
    let second = json!({ "qos": 0, "connentionSelector": "mqttcon1" });
    rest.must_put("/metadata/sources/mqtt/confKeys/demo2conf", &second, 200);
    for (name, key) in [("demo", "democonf"), ("demo2", "demo2conf")] {
        let sql = format!(
            r#"CREATE STREAM {name} () WITH (DATASOURCE="in/1", FORMAT="json", CONF_KEY="{key}", TYPE="mqtt")"#
        );
        let text = rest.must_post("/streams", &json!({ "sql": sql }), 201);
        assert_eq!(text, format!("Stream {name} is created."));
    }
    for (id, stream, topic) in [("rule1", "demo", "out/1"), ("rule2", "demo2", "out/2")] {
        let rule = json!({
            "id": id,
            "sql": format!("SELECT * FROM {stream}"),
            "actions": mqtt_action(topic),
        });
        let text = rest.must_post("/rules", &rule, 201);
        assert_eq!(text, format!("Rule {id} was created successfully."));
    }
}

#[test]
fn the_chapter_on_connections_works_as_it_is_typed() {
    let _machine = shared();
    let mut broker = Mosquitto::with(Broker {
        extra: "log_type all\n".to_owned(),
        ..Broker::default()
    });
    let windlass = Windlass::serve(&[]);
    let mut rest = windlass.rest();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out/#", 1));
    type_the_chapter(&mut rest, &broker.url());

    for rule in ["rule1", "rule2"] {
        let path = format!("/rules/{rule}/status");
        rest.wait(&path, START, "it runs", |status| {
            status["status"] == "running"
        });
    }
    let connection = rest.wait("/connections/mqttcon1", START, "it is up", |connection| {
        connection["status"] == "connected"
    });
    assert_eq!(connection["isNamed"], true);
    assert_eq!(connection["users"], json!(["rule1", "rule2"]));
    let keys: Vec<_> = connection
        .as_object()
        .expect("an object")
        .keys()
        .take(5)
        .collect();
    assert_eq!(keys, ["id", "typ", "props", "isNamed", "status"]);
    // One client, whoever uses it, and one subscription of the one filter: the first one's qos.
    assert_eq!(
        broker.logged("New client connected from"),
        2,
        "{}",
        broker.log()
    );
    // That the second rule gets what is retained too, it may be asked for once more as it is.
    assert!(broker.logged("in/1 (QoS 1)") >= 1, "{}", broker.log());
    assert_eq!(broker.logged("in/1 (QoS 0)"), 0, "{}", broker.log());

    let sent = Publish::new(broker.port(), "in/1", 1)
        .count(20)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 20);
    // Each by both rules: the second copy of a message is a duplicate to the ledger.
    wait_until(Duration::from_secs(10), "both rules have sent each", || {
        let ledger = far.ledger();
        (ledger.arrived(), ledger.duplicates()) == (20, 20)
    });

    let status = |rest: &mut Rest, name: &str, value| {
        rest.wait(
            "/rules/rule1/status",
            Duration::from_secs(10),
            &format!("{name} is {value}"),
            status_is(name, value),
        );
    };
    status(&mut rest, "source_demo_0_connection_status", 1);
    status(&mut rest, "source_mqttcon1/in/1_0_connection_status", 1);
    status(&mut rest, "sink_mqtt_0_0_connection_status", 1);
    broker.stop();
    status(&mut rest, "source_demo_0_connection_status", 0);
    let lost = rest.wait("/connections/mqttcon1", START, "it is lost", |connection| {
        connection["status"] == "connecting"
    });
    assert!(
        lost["err"].as_str().is_some_and(|err| !err.is_empty()),
        "{lost}"
    );
    let (_, ready) = rest.get("/readyz");
    assert!(ready.to_string().contains("mqttcon1"), "{ready}");
    broker.restart();
    status(&mut rest, "source_demo_0_connection_status", 1);
    status(&mut rest, "source_mqttcon1/in/1_0_connection_status", 1);

    // In use, it is not deleted, and says by whom.
    let (code, text) = rest.delete("/connections/mqttcon1");
    assert_eq!(code, 400);
    assert_eq!(
        text,
        "{\"error\":1000,\"message\":\"drop connection failed: connection mqttcon1 can't be dropped due to rule references [rule1 rule2]\"}\n"
    );
    for rule in ["rule1", "rule2"] {
        let (code, text) = rest.delete(&format!("/rules/{rule}"));
        assert_eq!(
            (code, text.as_str()),
            (200, format!("Rule {rule} is dropped.").as_str())
        );
    }
    assert_eq!(
        rest.delete("/connections/mqttcon1"),
        (200, "success".to_owned())
    );
    assert_eq!(rest.get("/connections/mqttcon1").0, 404);
    assert_eq!(rest.get("/connections").1, json!([]));
}

#[test]
fn a_connection_that_was_never_up_is_disconnected_and_comes_up_with_its_broker() {
    let _machine = shared();
    let mut broker = Mosquitto::start();
    broker.stop();
    let windlass = Windlass::serve(&[]);
    let mut rest = windlass.rest();
    type_the_chapter(&mut rest, &broker.url());
    let down = rest.wait(
        "/connections/mqttcon1",
        START,
        "it says why",
        |connection| connection["status"] == "disconnected",
    );
    assert!(
        down["err"]
            .as_str()
            .is_some_and(|err| err.contains("refused")),
        "{down}"
    );
    assert!(down["attempts"].as_u64() > Some(0), "{down}");
    rest.wait(
        "/rules/rule1/status",
        START,
        "it runs though its connection is down",
        |status| status["status"] == "running" && status["source_demo_0_connection_status"] == -1,
    );
    // A check asked for by the user is an attempt at once.
    let (code, text) = rest.post("/connections/mqttcon1/check", &json!({}));
    assert_eq!(code, 400, "{text}");
    assert!(text.starts_with("{\"error\":1003,"), "{text}");
    broker.restart();
    let (code, text) = rest.post("/connections/mqttcon1/check", &json!({}));
    assert_eq!(code, 200, "{text}");
    let (code, _) = rest.post(
        "/metadata/sources/connection/mqtt",
        &json!({ "server": broker.url() }),
    );
    assert_eq!(code, 200);
}

#[test]
fn bad_input_is_a_sentence_in_ekuipers_envelope_and_changes_nothing() {
    let _machine = shared();
    let windlass = Windlass::serve(&[]);
    let mut rest = windlass.rest();
    let broker = "tcp://127.0.0.1:1";
    type_the_chapter(&mut rest, broker);
    let before = state(&mut rest);
    let sql = "SELECT * FROM demo";
    let log = json!([{ "log": {} }]);
    for (method, path, body, status, words) in [
        (
            "POST",
            "/connections",
            json!({ "id": "a b", "typ": "mqtt", "props": {} }),
            400,
            "invalid characters",
        ),
        (
            "POST",
            "/connections",
            json!({ "id": "x" }),
            400,
            "connection id and type should be defined",
        ),
        (
            "POST",
            "/connections",
            json!({ "id": "mqttcon1", "typ": "mqtt", "props": { "server": broker } }),
            400,
            "connection mqttcon1 already been created",
        ),
        (
            "POST",
            "/connections",
            json!({ "id": "x", "typ": "mqqt", "props": {} }),
            400,
            "did you mean \\\"mqtt\\\"?",
        ),
        (
            "POST",
            "/connections",
            json!({ "id": "x", "typ": "mqtt", "props": { "server": broker, "clientId": 7 } }),
            400,
            "/props/clientId",
        ),
        ("POST", "/connections", json!([]), 400, "Invalid body: "),
        (
            "PUT",
            "/connections/none",
            json!({ "typ": "mqtt", "props": { "server": broker } }),
            404,
            "connection none not existed",
        ),
        (
            "PUT",
            "/connections/mqttcon1",
            json!({ "typ": "mqtt", "props": { "server": broker, "qos": 7 } }),
            400,
            "/props/qos",
        ),
        (
            "POST",
            "/streams",
            json!({ "sql": "CREATE STREAM demo () WITH (DATASOURCE=\"x\")" }),
            400,
            "stream demo already exists",
        ),
        (
            "POST",
            "/streams",
            json!({ "sql": "CREATE STREAM y () WITH (TYPE=\"mqqt\")" }),
            400,
            "did you mean \\\"mqtt\\\"?",
        ),
        (
            "POST",
            "/streams",
            json!({ "sql": "CREATE STREAM y () WHIT ()" }),
            400,
            "line 1, column 20",
        ),
        ("POST", "/streams", json!({}), 400, "sql"),
        ("DELETE", "/streams/demo", json!(null), 400, "rule1"),
        (
            "DELETE",
            "/streams/none",
            json!(null),
            404,
            "stream none is not found",
        ),
        (
            "POST",
            "/rules",
            json!({ "id": "rule1", "sql": sql, "actions": log }),
            400,
            "rule rule1 already exists",
        ),
        (
            "POST",
            "/rules",
            json!({ "id": "x", "sql": sql }),
            400,
            "invalid rule json: Missing rule actions.",
        ),
        (
            "POST",
            "/rules",
            json!({ "id": "x", "sql": "SELECT * FROM dem", "actions": log }),
            400,
            "did you mean \\\"demo\\\"?",
        ),
        (
            "POST",
            "/rules",
            json!({ "id": "x", "sql": "SELECT coutn(*) FROM demo", "actions": log }),
            400,
            "/sql",
        ),
        (
            "POST",
            "/rules",
            json!({ "id": "x", "sql": sql, "actions": [{ "lgo": {} }] }),
            400,
            "did you mean \\\"log\\\"?",
        ),
        (
            "POST",
            "/rules",
            json!({ "id": "x", "sql": sql, "actions": [{ "mqtt": { "connectionSelector": "mqttcon2", "topic": "t" } }] }),
            400,
            "did you mean \\\"mqttcon1\\\"?",
        ),
        (
            "PUT",
            "/rules/rule1",
            json!({ "id": "rule2", "sql": sql, "actions": log }),
            400,
            "RuleId is not consistent with rule id.",
        ),
        (
            "DELETE",
            "/rules/none",
            json!(null),
            404,
            "Delete rule error: rule none not found",
        ),
        (
            "POST",
            "/rules/none/start",
            json!(null),
            404,
            "Rule none is not found.",
        ),
        (
            "PUT",
            "/metadata/sources/mqtt/confKeys/in.valid",
            json!({}),
            400,
            "Invalid confKey: ",
        ),
        (
            "PUT",
            "/metadata/sources/mqqt/confKeys/x",
            json!({}),
            400,
            "unknown type",
        ),
        (
            "GET",
            "/nothing/here",
            json!(null),
            404,
            "there is no such path",
        ),
        ("PATCH", "/connections", json!(null), 405, "PATCH"),
    ] {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answered = rest.send(method, path, body.as_bytes());
        assert_eq!(
            answered.status, status,
            "{method} {path} {body}: {}",
            answered.body
        );
        assert!(
            answered.body.contains(words),
            "{method} {path} {body}: {}",
            answered.body
        );
        let envelope: Value = serde_json::from_str(&answered.body).expect("it is JSON");
        assert!(
            envelope["error"].is_u64() && envelope["message"].is_string(),
            "{envelope}"
        );
    }
    for body in ["{\"id\": \"x\",\n \"typ\" \"mqtt\"}", "", "{}{}", "[[[["] {
        let answered = rest.send("POST", "/connections", body.as_bytes());
        assert_eq!(answered.status, 400, "{body}");
        assert!(
            answered.body.contains("Invalid body: "),
            "{}",
            answered.body
        );
    }
    assert_eq!(state(&mut rest), before);
}

/// All definitions, without what changes by itself.
fn state(rest: &mut Rest) -> Value {
    let (_, connections) = rest.get("/connections");
    let connections: Vec<Value> = connections
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| json!([one["id"], one["typ"], one["props"], one["users"]]))
        .collect();
    let rules: Vec<Value> = rest
        .get("/rules")
        .1
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| json!([one["id"], one["version"], one["tags"]]))
        .collect();
    json!([
        connections,
        rest.get("/streams").1,
        rules,
        rest.get("/metadata/sources/yaml/mqtt").1,
        rest.get("/connectors").1,
    ])
}

#[test]
fn secrets_are_masked_wherever_they_are_shown_and_a_mask_keeps_what_is_stored() {
    let _machine = shared();
    let broker = Mosquitto::with(Broker {
        users: vec![("user".into(), "hush-hush".into())],
        ..Broker::default()
    });
    let windlass = Windlass::serve(&[]);
    let mut rest = windlass.rest();
    let props = json!({ "server": broker.url(), "username": "user", "password": "hush-hush" });
    let connection = json!({ "id": "plant", "typ": "mqtt", "props": props });
    rest.must_post("/connections", &connection, 201);
    rest.must_put("/metadata/sources/mqtt/confKeys/key", &props, 200);
    let sql = r#"CREATE STREAM s () WITH (DATASOURCE="t", TYPE="mqtt", EXTRA="{\"server\":\"tcp://127.0.0.1:1\",\"username\":\"user\",\"password\":\"hush-hush\"}")"#;
    rest.must_post("/streams", &json!({ "sql": sql }), 201);
    let action = json!([{ "mqtt": { "server": broker.url(), "username": "user", "password": "hush-hush", "topic": "out" } }]);
    let rule = json!({ "id": "r", "sql": "SELECT * FROM s", "actions": action });
    rest.must_post("/rules", &rule, 201);
    rest.wait("/connections/plant", START, "it is up", |one| {
        one["status"] == "connected"
    });
    for path in [
        "/connections",
        "/connections?forceAll=true",
        "/connections/plant",
        "/metadata/sources/yaml/mqtt",
        "/metadata/connections/yaml/mqtt",
        "/streams/s",
        "/rules/r",
        "/rules/r/status",
    ] {
        let answered = rest.send("GET", path, b"");
        assert_eq!(answered.status, 200, "{path}");
        assert!(!answered.body.contains("hush"), "{path}: {}", answered.body);
    }
    // What was shown comes back as it was shown: the password stays.
    let (_, shown) = rest.get("/connections/plant");
    assert_eq!(shown["props"]["password"], "******");
    rest.must_put("/connections/plant", &shown, 200);
    rest.wait("/connections/plant", START, "it is up again", |one| {
        one["status"] == "connected"
    });
    let (_, rule) = rest.get("/rules/r");
    rest.must_put("/rules/r", &rule, 200);
    rest.wait("/rules/r/status", START, "its sink is up", |status| {
        status["sink_mqtt_0_0_connection_status"] == 1
    });
    assert!(!windlass.log().contains("hush"), "{}", windlass.log());
}

#[test]
fn what_was_answered_is_there_after_kills_and_what_was_not_is_whole_or_absent() {
    let _machine = alone();
    let kills = short_or_long(8, 50);
    let mut windlass = Windlass::serve(&[]);
    let mut promised: std::collections::BTreeMap<String, Option<i64>> = Default::default();
    let mut slowest = Duration::ZERO;
    for round in 0..kills {
        let port = windlass.rest_port();
        let pid = windlass.pid();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60 + 37 * (round % 7)));
            windlass_tests::machine::signal(pid, "KILL");
        });
        let mut rest = Rest::new(port);
        let mut step = 0_i64;
        loop {
            let id = format!("c{}", step % 10);
            let body = json!({ "id": id, "typ": "mqtt", "props": { "server": "tcp://127.0.0.1:1", "connectTimeout": 1000 + step } });
            let text = body.to_string();
            let known = promised.get(&id).copied().flatten().is_some();
            let (method, path, after) = match (known, step % 3) {
                (false, _) => ("POST", "/connections".to_owned(), Some(1000 + step)),
                (true, 0) => ("DELETE", format!("/connections/{id}"), None),
                (true, _) => ("PUT", format!("/connections/{id}"), Some(1000 + step)),
            };
            match rest.try_send(method, &path, text.as_bytes()) {
                Ok(answered) => {
                    assert!(
                        (200..300).contains(&answered.status),
                        "{method} {path}: {}",
                        answered.body
                    );
                    promised.insert(id, after);
                }
                Err(_) => {
                    // Not answered: either it happened or it did not.
                    promised.insert(format!("{id}?"), after);
                    break;
                }
            }
            step += 1;
        }
        killer.join().expect("the killer");
        windlass.kill();
        windlass.up();
        slowest = slowest.max(windlass.wait_listening(Duration::from_secs(20)));
        let mut rest = windlass.rest();
        let (_, listed) = rest.get("/connections");
        let mut found = std::collections::BTreeMap::new();
        for one in listed.as_array().into_iter().flatten() {
            let id = one["id"].as_str().unwrap_or_default().to_owned();
            found.insert(id, one["props"]["connectTimeout"].as_i64());
        }
        let open: Vec<(String, Option<i64>)> = promised
            .iter()
            .filter_map(|(id, after)| Some((id.strip_suffix('?')?.to_owned(), *after)))
            .collect();
        promised.retain(|id, _| !id.ends_with('?'));
        for (id, after) in open {
            let now = found.get(&id).copied().flatten();
            let before = promised.get(&id).copied().flatten();
            assert!(
                now == after || now == before,
                "{id} is {now:?}; it was {before:?}, and was to become {after:?}"
            );
            promised.insert(id, now);
        }
        for (id, after) in &promised {
            assert_eq!(
                found.get(id).copied().flatten(),
                *after,
                "{id} after kill {round}"
            );
        }
    }
    println!("{kills} kills; served again after {slowest:?} at the latest");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[test]
fn ekuipers_own_files_are_taken_in_once_and_again_when_they_change() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let etc = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir_all(etc.path().join("connections")).expect("a folder");
    let write = |path: &str, text: String| {
        std::fs::write(etc.path().join(path), text).expect("a file");
    };
    write(
        "mqtt_source.yaml",
        "default:\n  qos: 1\n  server: tcp://127.0.0.1:1\npress:\n  connectionSelector: plant\n"
            .to_owned(),
    );
    let connection = |server: &str| format!("mqtt:\n  plant:\n    server: \"{server}\"\n");
    write("connections/connection.yaml", connection(&broker.url()));
    let folder = etc.path().display().to_string();
    let mut windlass = Windlass::serve(&["--etc", &folder]);
    let mut rest = windlass.rest();
    rest.wait("/connections/plant", START, "it is up", |one| {
        one["status"] == "connected"
    });
    let (_, keys) = rest.get("/metadata/sources/yaml/mqtt");
    assert_eq!(keys["press"]["connectionSelector"], "plant", "{keys}");
    let sql = r#"CREATE STREAM demo () WITH (DATASOURCE="in", CONF_KEY="press", TYPE="mqtt")"#;
    rest.must_post("/streams", &json!({ "sql": sql }), 201);
    let rule = json!({ "id": "r", "sql": "SELECT * FROM demo", "actions": [{ "log": {} }] });
    rest.must_post("/rules", &rule, 201);
    // What was changed through REST stays while the files are as they were.
    rest.must_put(
        "/metadata/sources/mqtt/confKeys/press",
        &json!({ "connectionSelector": "plant", "qos": 2 }),
        200,
    );
    windlass.kill();
    windlass.up();
    windlass.wait_listening(Duration::from_secs(20));
    let mut rest = windlass.rest();
    assert_eq!(rest.get("/metadata/sources/yaml/mqtt").1["press"]["qos"], 2);
    rest.wait("/rules/r/status", START, "it runs again", |status| {
        status["status"] == "running"
    });
    windlass.kill();
    write(
        "connections/connection.yaml",
        connection("tcp://127.0.0.1:1"),
    );
    windlass.up();
    windlass.wait_listening(Duration::from_secs(20));
    let mut rest = windlass.rest();
    let (_, plant) = rest.get("/connections/plant");
    assert_eq!(plant["props"]["server"], "tcp://127.0.0.1:1", "{plant}");
}
