//! HTTP push: 200 means delivered or on disk, whatever happens meanwhile; every other answer says what
//! it is.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_tests::certificates::Certificates;
use windlass_tests::load::{Subscribe, Subscriber};
use windlass_tests::machine::{alone, free_port, shared, short_or_long, wait_until};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::oracle::read_payload;
use windlass_tests::pusher::{Client, Push};
use windlass_tests::windlass::{Windlass, command};

use crate::settings::{START, expect_all};
use crate::sql::Lite;

fn manifest(port: u16) -> Manifest {
    Manifest::new().section("push", json!({ "address": format!("127.0.0.1:{port}") }))
}

fn stream(name: &str, path: &str) -> String {
    format!(
        r#"CREATE STREAM {name} () WITH (TYPE="httppush", DATASOURCE="{path}", FORMAT="json", CONF_KEY="{name}")"#
    )
}

/// A stream that makes its connection itself.
fn own(name: &str, path: &str) -> String {
    format!(r#"CREATE STREAM {name} () WITH (TYPE="httppush", DATASOURCE="{path}", FORMAT="json")"#)
}

/// Waits until a path is served.
pub(crate) fn wait_served(port: u16, path: &str) {
    let mut client = Client::new(port);
    wait_until(START, "the path is served", || {
        // A method that no path takes tells without pushing anything.
        client
            .send("DELETE", path, &[], b"")
            .is_ok_and(|answered| answered.status == 405)
    });
}

fn rows_of(file: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| read_payload(line.as_bytes()))
        .map(|(number, _)| number)
        .collect()
}

#[test]
fn every_push_of_32_clients_that_was_answered_200_is_there_through_five_kills() {
    let _machine = alone();
    let count = short_or_long(10_000, 50_000);
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let files = tempfile::tempdir().expect("a folder");
    let table = Lite::new("CREATE TABLE pushed (seq INTEGER PRIMARY KEY, temperature REAL);");
    let port = free_port();
    let manifest = manifest(port)
        .section("files", json!({ "root": files.path() }))
        .mqtt("plant", &broker.url())
        .connection("db", "sql", json!({ "dburl": table.url() }))
        .connection("door", "httppush", json!({}))
        .conf_key("httppush", "demo", json!({ "connectionSelector": "door" }))
        .stream(&stream("demo", "/in"))
        .rule(
            "to-mqtt",
            "SELECT * FROM demo",
            publish_to("plant", "out", 1),
        )
        .rule(
            "to-file",
            "SELECT * FROM demo",
            json!([{ "file": { "path": "out.jsonl", "sendSingle": true } }]),
        )
        .rule(
            "to-sqlite",
            "SELECT * FROM demo",
            json!([{ "sql": {
                "connectionSelector": "db", "table": "pushed", "fields": ["seq", "temperature"],
                // A push that is repeated after a kill is written again, over what is there.
                "keyField": "seq", "sendSingle": true,
            } }]),
        );
    let mut windlass = Windlass::start(&manifest);
    wait_served(port, "/in");
    let began = Instant::now();
    let pushers = Push::new(port, "/in", count).start();
    for kill in 1..=5 {
        let mark = count * kill / 7;
        wait_until(Duration::from_secs(120), "pushes are taken", || {
            pushers.accepted() >= mark
        });
        windlass.kill();
        windlass.up();
    }
    let pushed = pushers.join(Duration::from_secs(180));
    println!(
        "{} pushes in {:.1?}, five kills: {} broke off, others {:?}",
        pushed.accepted.len(),
        began.elapsed(),
        pushed.broken,
        pushed.others
    );
    assert_eq!(pushed.accepted.len() as u64, count, "all came through");
    assert!(!pushed.others.contains_key(&404), "{:?}", pushed.others);
    expect_all(&far, &pushed.accepted, Duration::from_secs(60));
    let file = files.path().join("out.jsonl");
    let all = |numbers: &[u64]| {
        let found: std::collections::BTreeSet<u64> = numbers.iter().copied().collect();
        let missing = (0..count).filter(|number| !found.contains(number));
        missing.collect::<Vec<_>>()
    };
    wait_until(Duration::from_secs(60), "all is in the file", || {
        all(&rows_of(&file)).is_empty()
    });
    // Exactly these: all of them, nothing else, each with what was pushed.
    let rows = "SELECT count(*), min(seq), max(seq), count(temperature) FROM pushed";
    let wanted = format!("{count}\t0\t{}\t{count}", count - 1);
    let mut there = String::new();
    wait_until(Duration::from_secs(60), "all is in the table", || {
        there = table.run(rows);
        there == wanted
    });
    let letters = windlass.counter("to-sqlite", "deadLetters");
    println!("sqlite: {there}, dead letters {letters:?}");
    println!("far: {}", far.ledger().summary());
}

#[test]
fn a_stalled_sink_gives_disk_or_a_clear_no_and_never_a_lost_200() {
    let _machine = alone();
    for on_disk in [true, false] {
        let mut broker = Mosquitto::with(Broker {
            persistence: true,
            ..Broker::default()
        });
        let far = Subscriber::start(Subscribe {
            clean: false,
            ..Subscribe::new(broker.port(), "far", "out", 1)
        });
        let port = free_port();
        let mut action = publish_to("plant", "out", 1);
        if !on_disk {
            action[0]["mqtt"]["enableCache"] = json!(false);
        }
        let manifest = manifest(port)
            .mqtt("plant", &broker.url())
            .stream(&own("demo", "/in"))
            .rule("r", "SELECT * FROM demo", action);
        let windlass = Windlass::start(&manifest);
        wait_served(port, "/in");
        windlass.wait_connection("plant", "connected", START);
        let first = Push {
            again: false,
            pause: Duration::from_millis(100),
            clients: 8,
            ..Push::new(port, "/in", 40)
        };
        let pushers = first.start();
        wait_until(Duration::from_secs(10), "some are taken", || {
            pushers.accepted() >= 8
        });
        broker.stop();
        let pushed = pushers.join(Duration::from_secs(90));
        println!(
            "disk queue {on_disk}: {} of 40 taken, others {:?}",
            pushed.accepted.len(),
            pushed.others
        );
        if on_disk {
            assert_eq!(
                pushed.accepted.len(),
                40,
                "all on disk: {:?}",
                pushed.others
            );
        } else {
            let no: u64 = [503, 504]
                .iter()
                .filter_map(|status| pushed.others.get(status))
                .sum();
            assert!(no > 0, "{:?}", pushed.others);
            assert_eq!(no + pushed.accepted.len() as u64, 40);
        }
        broker.restart();
        expect_all(&far, &pushed.accepted, Duration::from_secs(60));
    }
}

#[test]
fn every_answer_says_what_it_is() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "#", 1));
    let port = free_port();
    let manifest = manifest(port)
        .mqtt("plant", &broker.url())
        .connection(
            "door",
            "httppush",
            json!({ "tokens": { "/secret": "s3cret" }, "maxBodyBytes": 1000, "bodyTimeout": "500ms" }),
        )
        .conf_key("httppush", "open", json!({ "connectionSelector": "door" }))
        .conf_key("httppush", "shut", json!({ "connectionSelector": "door", "method": "PUT" }))
        .stream(&stream("open", "/open"))
        .stream(&stream("shut", "/secret"))
        .rule("warm", "SELECT t FROM open WHERE t > 50", publish_to("plant", "warm", 1))
        .rule("all", "SELECT * FROM shut", publish_to("plant", "all", 1));
    let windlass = Windlass::start(&manifest);
    wait_served(port, "/open");
    wait_served(port, "/secret");
    windlass.wait_connection("plant", "connected", START);
    let mut client = Client::new(port);
    let mut ask = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        client.send(method, path, headers, body).expect("an answer")
    };
    let answered = ask("POST", "/open", &[], br#"{"t":60}"#);
    assert_eq!((answered.status, answered.body.as_str()), (200, "ok"));
    assert_eq!(
        ask("POST", "/open", &[], br#"{"t":40}"#).status,
        200,
        "filtered"
    );
    let answered = ask("POST", "/open", &[], b"{no json");
    let said: Value = serde_json::from_str(&answered.body).expect("JSON");
    assert_eq!((answered.status, said["error"].as_u64()), (400, Some(400)));
    assert!(said["message"].as_str().expect("text").len() > 10, "{said}");
    assert_eq!(ask("POST", "/nowhere", &[], b"{}").status, 404);
    let answered = ask("PUT", "/open", &[], b"{}");
    assert_eq!(
        (answered.status, answered.header("allow")),
        (405, Some("post"))
    );
    for (header, status) in [("Bearer wrong", 401), ("Bearer s3cret", 200)] {
        let headers = [("Authorization", header)];
        assert_eq!(ask("PUT", "/secret", &headers, b"{}").status, status);
    }
    assert_eq!(ask("POST", "/open", &[], &[b' '; 1001]).status, 413);
    let key = [("Idempotency-Key", "k1")];
    assert_eq!(ask("POST", "/open", &key, br#"{"t":77}"#).status, 200);
    assert_eq!(ask("POST", "/open", &key, br#"{"t":77}"#).status, 200);
    assert_eq!(ask("POST", "/open", &key, br#"{"t":78}"#).status, 422);

    // Chunked; then one that is cut, and one that never ends.
    let chunked = "POST /open HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let whole = format!("{chunked}3\r\n{{\"t\r\n5\r\n\":61}}\r\n0\r\n\r\n");
    assert_eq!(client.raw(whole.as_bytes()).expect("an answer").status, 200);
    let mut cut = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    cut.write_all(b"POST /open HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{\"t\":62}")
        .expect("sent");
    drop(cut);
    let slow = format!("{chunked}3\r\n{{");
    assert_eq!(client.raw(slow.as_bytes()).expect("an answer").status, 408);

    // A bomb: 10 MB of zeros in 10 kB, and in less than what may be sent.
    let folder = tempfile::tempdir().expect("a folder");
    let (zeros, small) = (folder.path().join("zeros"), folder.path().join("small"));
    std::fs::write(&zeros, vec![b' '; 500_000]).expect("written");
    std::fs::write(&small, br#"{"t":63}"#).expect("written");
    for (file, status) in [(&zeros, 413), (&small, 200)] {
        let packed = Command::new("gzip")
            .arg("-9c")
            .arg(file)
            .output()
            .expect("gzip");
        assert!(packed.stdout.len() < 1000);
        let headers = [("Content-Encoding", "gzip")];
        let answered = client.send("POST", "/open", &headers, &packed.stdout);
        assert_eq!(answered.expect("an answer").status, status);
    }

    wait_until(Duration::from_secs(10), "all five arrive", || {
        far.payloads().len() >= 5
    });
    far.settle(Duration::from_millis(500), Duration::from_secs(5));
    let got: Vec<(String, String)> = far
        .payloads()
        .into_iter()
        .map(|(topic, payload)| (topic, String::from_utf8_lossy(&payload).into_owned()))
        .collect();
    let expected = [
        ("warm", r#"{"t":60}"#),
        ("all", "{}"),
        ("warm", r#"{"t":77}"#),
        ("warm", r#"{"t":61}"#),
        ("warm", r#"{"t":63}"#),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(topic, payload)| ((*topic).to_owned(), (*payload).to_owned()))
        .collect();
    assert_eq!(got, expected);
    windlass.fresh_metrics();
    assert_eq!(
        windlass.counter("warm", "deadLetters"),
        Some(0),
        "the sender was told"
    );
    assert!(!windlass.log().contains("s3cret"));
}

/// curl against TLS, HTTP/1.1 and 2, on any free port that the metrics tell.
#[test]
fn curl_pushes_over_tls_with_http_1_and_2() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let folder = tempfile::tempdir().expect("a folder");
    let certificates = Certificates::new();
    let identity = certificates.identity(&["localhost", "127.0.0.1"]);
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let authority = file("ca.pem", &certificates.authority());
    let manifest = Manifest::new()
        .section(
            "push",
            json!({
                "address": "127.0.0.1:0",
                "tls": {
                    "certfile": file("cert.pem", &identity.certificate),
                    "keyfile": file("key.pem", &identity.key),
                },
            }),
        )
        .mqtt("plant", &broker.url())
        .stream(&own("demo", "/in"))
        .rule("r", "SELECT * FROM demo", publish_to("plant", "out", 1));
    let windlass = Windlass::start(&manifest);
    windlass.wait_connection("plant", "connected", START);
    let mut address = None;
    wait_until(START, "the metrics say where it listens", || {
        let metrics = windlass.fresh_metrics();
        address = metrics["push"].as_str().map(str::to_owned);
        address.is_some()
    });
    let address = address.expect("known");
    let url = format!("https://{address}/in");
    for version in ["--http1.1", "--http2"] {
        let mut said = String::new();
        wait_until(Duration::from_secs(30), "curl is answered ok", || {
            let output = Command::new("curl")
                .args(["-sS", version, "--max-time", "20", "--cacert"])
                .arg(&authority)
                .args(["-w", " %{http_code} %{http_version}", "-d", "{\"t\":1}"])
                .arg(&url)
                .output()
                .expect("curl");
            said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{output:?}");
            said.starts_with("ok 200")
        });
        println!("{version}: {said}");
        assert!(said.ends_with(if version == "--http2" { " 2" } else { "1.1" }));
    }
    wait_until(Duration::from_secs(10), "both arrive", || {
        far.payloads().len() >= 2
    });
    // Who speaks no TLS is no reason to stop.
    let mut plain = TcpStream::connect(&address).expect("it listens");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
}

#[test]
fn a_port_that_is_taken_prevents_no_start_and_is_got_when_it_is_free() {
    let _machine = shared();
    let port = free_port();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).expect("free");
    let manifest = manifest(port)
        .connection("door", "httppush", json!({}))
        .conf_key("httppush", "demo", json!({ "connectionSelector": "door" }))
        .stream(&stream("demo", "/in"))
        .rule("r", "SELECT * FROM demo", json!([{ "nop": {} }]));
    let windlass = Windlass::start(&manifest);
    windlass.wait_rule("r", "running", START);
    let why = windlass.wait_connection("door", "disconnected", START);
    assert!(why.contains("taken by another program"), "{why}");
    drop(taken);
    windlass.wait_connection("door", "connected", Duration::from_secs(15));
    wait_served(port, "/in");
    let answered = Client::new(port).post("/in", b"{}").expect("an answer");
    assert_eq!(answered.status, 200);
}

#[test]
fn silent_clients_hold_nobody_up_and_are_cut() {
    let _machine = shared();
    let port = free_port();
    let manifest = manifest(port).stream(&own("demo", "/in")).rule(
        "r",
        "SELECT * FROM demo",
        json!([{ "nop": {} }]),
    );
    let windlass = Windlass::start(&manifest);
    wait_served(port, "/in");
    let silent: Vec<_> = (0..300)
        .map(|number| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
            if number % 2 == 0 {
                stream.write_all(b"POST /in HTTP/1.1\r\nHo").expect("sent");
            }
            stream
        })
        .collect();
    let pushed = Push {
        clients: 4,
        ..Push::new(port, "/in", 400)
    }
    .start()
    .join(Duration::from_secs(8));
    assert_eq!(pushed.accepted.len(), 400, "{:?}", pushed.others);
    let open = windlass.usage().files;
    wait_until(Duration::from_secs(20), "the silent are cut", || {
        windlass.usage().files + 290 <= open
    });
    drop(silent);
}

#[test]
fn two_streams_on_one_path_that_want_different_tokens_are_refused_and_both_are_named() {
    let _machine = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("m.yaml");
    let text = |second: &str| {
        format!(
            r#"
confKeys:
  httppush:
    one: {{ token: first-token }}
    two: {{ token: {second} }}
streams:
  - CREATE STREAM one () WITH (TYPE="httppush", DATASOURCE="/in", FORMAT="json", CONF_KEY="one")
  - CREATE STREAM two () WITH (TYPE="httppush", DATASOURCE="/in", FORMAT="json", CONF_KEY="two")
rules:
  - {{ id: a, sql: SELECT * FROM one, actions: [ {{ nop: {{}} }} ] }}
  - {{ id: b, sql: SELECT * FROM two, actions: [ {{ nop: {{}} }} ] }}
"#
        )
    };
    for (second, code) in [("first-token", 0), ("second-token", 78)] {
        std::fs::write(&file, text(second)).expect("written");
        let said = command(&["check", &file.display().to_string()]);
        assert_eq!(said.code, Some(code), "{}", said.all());
        assert!(!said.all().contains("-token"), "{}", said.all());
        if code != 0 {
            for words in ["m.yaml:5:", "stream \"one\"", "value of token"] {
                assert!(said.all().contains(words), "{words}: {}", said.all());
            }
        }
    }
}

#[test]
fn mistakes_in_the_manifest_are_a_sentence_each() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("m.yaml");
    let text = r#"
push: { address: "localhost", adress: 1, tls: { certfile: a.pem } }
connections:
  - { id: door, typ: htppush }
  - { id: gate, typ: httppush, props: { method: GET, token: 7 } }
streams:
  - sql: CREATE STREAM a () WITH (TYPE="httppush", DATASOURCE="in")
"#;
    std::fs::write(&file, text).expect("written");
    let said = command(&["check", &file.display().to_string()]);
    assert_eq!(said.code, Some(78), "{}", said.all());
    for words in [
        "127.0.0.1:10081",
        "did you mean \"address\"",
        "keyfile",
        "did you mean \"httppush\"",
        "Allowed: POST, PUT",
    ] {
        assert!(said.all().contains(words), "{words}: {}", said.all());
    }
}
