//! HTTP as it should be: what an action says is what the server gets, over HTTP/1.1 and HTTP/2; what a
//! server answers is what a rule gets; credentials are the host's alone.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::certificates::Certificates;
use windlass_tests::httpd::{Asked, Httpd, Reply};
use windlass_tests::machine::{holds_within, shared, wait_until};
use windlass_tests::manifest::Manifest;
use windlass_tests::nginx::Nginx;
use windlass_tests::windlass::{Windlass, command};

use crate::settings::{START, letters};

/// For what takes no longer than a second on an idle machine.
const SOON: Duration = Duration::from_secs(30);

/// These rows, once, as the stream `demo`.
fn rows(data: Value) -> Manifest {
    Manifest::new()
        .conf_key(
            "simulator",
            "demo",
            json!({ "data": data, "interval": 20, "loop": false }),
        )
        .stream(r#"CREATE STREAM demo () WITH (TYPE="simulator", FORMAT="json", CONF_KEY="demo")"#)
}

fn rule(manifest: Manifest, id: &str, rest: Value) -> Manifest {
    manifest.rule(id, "SELECT * FROM demo", json!([{ "rest": rest }]))
}

/// Waits for so many requests, in the order of their arrival.
fn requests(server: &Httpd, count: usize) -> Vec<Asked> {
    holds_within(START, || server.count() >= count);
    let asked = server.asked();
    assert_eq!(asked.len(), count, "{asked:#?}");
    asked
}

#[test]
fn what_an_action_says_is_what_the_server_gets() {
    let _machine = shared();
    let server = Httpd::start(|_| Reply::status(204));
    let data = json!([{ "id": 7, "name": "a b", "t": 1.50 }]);
    for (action, method, target, headers, body) in [
        (
            json!({ "url": server.url("/api?key=k"), "method": "post", "sendSingle": true, "headers": { "X-Static": "s", "X-Id": "{{.id}}-{{.name}}" } }),
            "POST",
            "/api?key=k",
            vec![
                ("content-type", "application/json"),
                ("x-static", "s"),
                ("x-id", "7-a b"),
            ],
            r#"{"id":7,"name":"a b","t":1.5}"#.to_owned(),
        ),
        (
            json!({ "url": server.url("/api/{{.id}}/x?n={{.name}}"), "method": "PUT", "bodyType": "text", "dataTemplate": "t={{.t}}", "sendSingle": true }),
            "PUT",
            "/api/7/x?n=a%20b",
            vec![("content-type", "text/plain")],
            "t=1.5".to_owned(),
        ),
        (
            json!({ "url": server.url("/api"), "method": "post", "bodyType": "form", "format": "urlencoded", "fields": ["name", "id"] }),
            "POST",
            "/api",
            vec![("content-type", "application/x-www-form-urlencoded")],
            "name=a+b&id=7".to_owned(),
        ),
        (
            json!({ "url": server.url("/api"), "sendSingle": true }),
            "GET",
            "/api",
            vec![],
            String::new(),
        ),
    ] {
        let before = server.count();
        let _windlass = Windlass::start(&rule(rows(data.clone()), "r", action.clone()));
        let asked = requests(&server, before + 1).remove(before);
        assert_eq!(
            (asked.method.as_str(), asked.target.as_str()),
            (method, target),
            "{action}"
        );
        assert_eq!(asked.text(), body, "{action}");
        for (name, value) in headers {
            assert_eq!(asked.header(name), Some(value), "{action}: {asked:?}");
        }
    }

    let before = server.count();
    let action = json!({ "url": server.url("/api"), "method": "post", "compression": "gzip" });
    let _windlass = Windlass::start(&rule(rows(data.clone()), "r", action));
    let asked = requests(&server, before + 1).remove(before);
    assert_eq!(asked.header("content-encoding"), Some("gzip"));
    assert_eq!(
        gzip(&["-dc"], &asked.body),
        br#"[{"id":7,"name":"a b","t":1.5}]"#
    );

    let before = server.count();
    let action = json!({ "url": server.url("/up"), "method": "post", "bodyType": "formdata", "sendSingle": true, "formData": { "who": "w{{.id}}" } });
    let _windlass = Windlass::start(&rule(rows(data), "r", action));
    let asked = requests(&server, before + 1).remove(before);
    let kind = asked.header("content-type").expect("a type").to_owned();
    let boundary = kind
        .strip_prefix("multipart/form-data; boundary=")
        .expect("a boundary");
    let text = asked.text();
    let parts: Vec<&str> = text.split(boundary).collect();
    assert!(parts[1].contains("name=\"who\"\r\n\r\nw7\r\n"), "{text}");
    assert!(
        parts[2].contains(r#"{"id":7"#) && parts.len() == 4,
        "{text}"
    );
}

/// What gzip makes of these bytes.
fn gzip(arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip is part of every system");
    let mut input = child.stdin.take().expect("piped");
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output().expect("gzip ends");
    writer.join().expect("no panic").expect("gzip reads all");
    output.stdout
}

#[test]
fn what_a_message_says_never_leaves_the_connection_and_what_a_server_says_neither() {
    let _machine = shared();
    let other = Httpd::start(|_| Reply::status(204));
    let away = other.url("/api/stolen");
    let server = Httpd::start(move |asked| match asked.target.as_str() {
        "/api/moved" => Reply::status(307).header("Location", "/api/here"),
        "/api/seen" => Reply::status(303).header("Location", "here?x=1"),
        "/api/away" => Reply::status(307).header("Location", &away),
        "/api/found" => Reply::status(302).header("Location", "/api/here"),
        "/api/ring" => Reply::status(308).header("Location", "/api/ring"),
        _ => Reply::status(204),
    });
    let paths = [
        "ok",
        "../admin",
        "%2e%2e/admin",
        "//evil/x",
        "moved",
        "seen",
        "away",
        "found",
        "ring",
    ];
    let data: Value = paths.iter().map(|path| json!({ "p": path })).collect();
    let action = json!({ "connectionSelector": "api", "path": "{{.p}}", "method": "post", "sendSingle": true });
    let manifest = rows(data).connection("api", "http", json!({ "url": server.url("/api") }));
    let windlass = Windlass::start(&rule(manifest, "r", action));
    wait_until(START, "five of nine are dead letters", || {
        letters(&windlass).len() == 5
    });
    let asked: Vec<(String, String)> = server
        .asked()
        .into_iter()
        .map(|asked| (format!("{} {}", asked.method, asked.target), asked.text()))
        .collect();
    let said: Vec<&str> = asked.iter().map(|(line, _)| line.as_str()).collect();
    for line in [
        "POST /api/ok",
        "POST /api//evil/x",
        "POST /api/moved",
        "POST /api/here",
        "POST /api/seen",
        "GET /api/here?x=1",
    ] {
        assert!(said.contains(&line), "{line}: {said:?}");
    }
    let body = |line: &str| {
        asked
            .iter()
            .find(|(found, _)| found == line)
            .map(|(_, body)| body.clone())
    };
    assert_eq!(body("POST /api/here").as_deref(), Some(r#"{"p":"moved"}"#));
    assert_eq!(
        body("GET /api/here?x=1").as_deref(),
        Some(""),
        "303 is a GET"
    );
    assert!(said.iter().all(|line| line.contains(" /api")), "{said:?}");
    assert_eq!(other.count(), 0, "nobody else was asked");
    let reasons: Vec<String> = letters(&windlass).iter().map(Value::to_string).collect();
    let has = |words: &str| {
        reasons
            .iter()
            .filter(|reason| reason.contains(words))
            .count()
    };
    assert_eq!(has("not below the connection's URL"), 3, "{reasons:#?}");
    assert_eq!(has("HTTP 302"), 1, "{reasons:#?}");
    assert_eq!(has("more than 5 times"), 1, "{reasons:#?}");
    assert!(
        has("http://******/api/stolen") == 1 && has(&format!(":{}", other.port())) == 0,
        "{reasons:#?}"
    );
}

#[test]
fn a_host_that_a_message_would_choose_is_refused_before_anything_starts() {
    let _machine = shared();
    let folder = tempfile::tempdir().expect("a folder");
    for (action, words) in [
        (
            json!({ "url": "http://{{.host}}/x" }),
            "the host of a \\\"url\\\" cannot be rendered",
        ),
        (json!({ "url": "htp://h/x" }), "did you mean \\\"http\\\"?"),
        (
            json!({ "url": "http://h", "methud": "post" }),
            "did you mean \\\"method\\\"?",
        ),
        (
            json!({ "url": "http://h", "method": "{{.m}}" }),
            "is not rendered per message",
        ),
        (
            json!({ "url": "http://h", "oauth": { "acces": {} } }),
            "did you mean \\\"access\\\"?",
        ),
        (json!({ "method": "post" }), "url"),
    ] {
        let file = rule(rows(json!([{}])), "r", action.clone()).write(folder.path());
        let said = command(&["check", file.to_str().expect("a path"), "--json"]);
        assert_eq!(said.code, Some(78), "{action}: {said:?}");
        assert!(said.all().contains(words), "{action}: {}", said.all());
    }
}

#[test]
fn nginx_gets_every_message_over_http_1_and_over_http_2_with_tls_and_says_who_it_is() {
    let _machine = shared();
    let authority = Certificates::new();
    let mut nginx = Nginx::start(
        true,
        Some(&authority.server_as(&["localhost", "plant.example"], false)),
        // For the name that TLS was asked for, and the host that HTTP was.
        "location /named { if ($ssl_server_name != plant.example) { return 421; } \
         if ($host != 127.0.0.1) { return 400; } return 204; }",
    );
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.authority()).expect("written");
    let stranger = folder.path().join("stranger.pem");
    std::fs::write(&stranger, Certificates::new().authority()).expect("written");
    let data: Value = (0..20).map(|n| json!({ "n": n })).collect();
    let secure = |host: &str, more: Value| {
        let mut props = json!({ "url": nginx.tls_url(host, "/h2"), "rootCaPath": ca });
        for (name, value) in more.as_object().expect("an object") {
            props[name] = value.clone();
        }
        props
    };
    let post = |id: &str| json!({ "connectionSelector": id, "method": "post", "sendSingle": true });
    let mut manifest = rows(data)
        .connection("plain", "http", json!({ "url": nginx.url("/h1") }))
        .connection("secure", "rest", secure("localhost", json!({})))
        .connection(
            "named",
            "http",
            secure(
                "127.0.0.1",
                json!({ "serverName": "plant.example", "url": nginx.tls_url("127.0.0.1", "/named") }),
            ),
        )
        .connection(
            "unknown",
            "http",
            secure("localhost", json!({ "rootCaPath": stranger })),
        )
        .connection("other", "http", secure("127.0.0.1", json!({})));
    for id in ["plain", "secure", "named"] {
        manifest = rule(manifest, id, post(id));
    }
    let windlass = Windlass::start(&manifest);
    for id in ["plain", "secure", "named"] {
        windlass.wait_connection(id, "connected", START);
    }
    let why = windlass.wait_connection("unknown", "disconnected", START);
    assert!(why.contains("unknown authority"), "{why}");
    let why = windlass.wait_connection("other", "disconnected", START);
    assert!(why.contains("for another name"), "{why}");
    let arrived = |line: &str| {
        let log = nginx.log();
        (0..20).all(|n| log.contains(&format!("{line} 204 {{\"n\":{n}}}\n")))
    };
    wait_until(START, "all is there over HTTP/1.1", || {
        arrived("HTTP/1.1 POST /h1")
    });
    wait_until(SOON, "and over HTTP/2", || arrived("HTTP/2.0 POST /h2"));
    wait_until(SOON, "and under another name", || {
        nginx.log().matches("HTTP/2.0 POST /named 204").count() == 20
    });
    assert!(letters(&windlass).is_empty());

    nginx.stop();
    let folder = nginx.folder().to_owned();
    assert!(folder.exists());
    nginx.up();
}

/// A token endpoint and an API behind it: tokens are good for so many requests.
#[derive(Default)]
struct Guarded {
    issued: AtomicU64,
    used: AtomicU64,
    forms: Mutex<Vec<(String, String)>>,
}

impl Guarded {
    fn answer(&self, asked: &Asked, good_for: u64) -> Reply {
        if asked.target.starts_with("/token") {
            let number = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
            self.used.store(0, Ordering::SeqCst);
            let login = asked.header("authorization").unwrap_or_default().to_owned();
            self.forms
                .lock()
                .expect("no panic")
                .push((login, asked.text()));
            let body = json!({ "access_token": format!("geheim-{number}"), "refresh": format!("r{number}"), "expires_in": 3600 });
            return Reply::text(200, &body.to_string());
        }
        let token = format!("geheim-{}", self.issued.load(Ordering::SeqCst));
        let fits = asked.header("authorization") == Some(format!("Bearer {token}").as_str());
        if !fits || self.used.fetch_add(1, Ordering::SeqCst) >= good_for {
            return Reply::text(401, "token?");
        }
        Reply::status(204)
    }
}

#[test]
fn tokens_are_fetched_and_renewed_by_the_host_and_shown_to_nobody() {
    let _machine = shared();
    for (oauth, headers, form) in [
        (
            json!({ "clientCredentials": { "clientId": "ann", "clientSecret": "geheim-s", "scope": "write" } }),
            json!({}),
            "grant_type=client_credentials&scope=write",
        ),
        (
            json!({
                "access": { "body": "{\"user\":\"ann\",\"password\":\"geheim-s\"}", "expire": "{{.expires_in}}" },
                "refresh": { "headers": { "X-Refresh": "{{.refresh}}" }, "body": "{\"with\":\"{{.refresh}}\"}" },
            }),
            json!({ "Authorization": "Bearer {{.access_token}}" }),
            "{\"user\":\"ann\",\"password\":\"geheim-s\"}",
        ),
    ] {
        let guarded = std::sync::Arc::new(Guarded::default());
        let server = Httpd::start({
            let guarded = std::sync::Arc::clone(&guarded);
            move |asked| guarded.answer(asked, 5)
        });
        let mut oauth = oauth;
        for (name, call) in oauth.as_object_mut().expect("an object") {
            call["url"] = json!(server.url(&format!("/token/{name}")));
        }
        let data: Value = (0..12).map(|n| json!({ "n": n })).collect();
        let action = json!({ "url": server.url("/api"), "method": "post", "sendSingle": true, "oauth": oauth, "headers": headers, "maxInFlight": 1 });
        let windlass = Windlass::start(&rule(rows(data), "r", action));
        let there = || {
            let asked = server.asked();
            (0..12).all(|n| {
                asked
                    .iter()
                    .any(|one| one.text() == format!("{{\"n\":{n}}}"))
            })
        };
        wait_until(START, "all messages are there", there);
        wait_until(SOON, "the token was renewed", || {
            guarded.issued.load(Ordering::SeqCst) >= 3
        });
        let forms = guarded.forms.lock().expect("no panic").clone();
        assert_eq!(forms[0].1, form);
        if headers.as_object().is_some_and(serde_json::Map::is_empty) {
            assert_eq!(forms[0].0, "Basic YW5uOmdlaGVpbS1z");
        } else {
            assert_eq!(forms[1].1, "{\"with\":\"r1\"}");
        }
        let metrics = windlass.fresh_metrics().to_string();
        for text in [windlass.log(), metrics, format!("{:?}", windlass.changes())] {
            assert!(!text.contains("geheim"), "{text}");
        }
        assert!(letters(&windlass).is_empty(), "{:?}", letters(&windlass));
    }
}

#[test]
fn an_answer_is_pulled_by_its_states_left_out_when_it_is_the_same_and_never_twice_after_a_restart()
{
    let _machine = shared();
    let broken = std::sync::Arc::new(AtomicU64::new(0));
    let server = Httpd::start({
        let broken = std::sync::Arc::clone(&broken);
        move |asked| {
            if asked.target.starts_with("/same") {
                return Reply::text(200, r#"{"same":true}"#);
            }
            let from: u64 = asked
                .target
                .split_once("from=")
                .and_then(|(_, rest)| rest.split('&').next())
                .and_then(|number| number.parse().ok())
                .unwrap_or(0);
            // Each position fails in its own way at first.
            match broken.fetch_add(1, Ordering::SeqCst) {
                1 => return Reply::status(500),
                3 => return Reply::text(200, "<html>"),
                5 => return Reply::Reset,
                _ => {}
            }
            if from >= 40 {
                return Reply::text(200, "[]");
            }
            let list: Value = (from..from + 4)
                .map(|n| json!({ "seq": n, "next": n + 1 }))
                .collect();
            Reply::Chunked(200, Vec::new(), list.to_string().into_bytes(), 7)
        }
    });
    let sink = Httpd::start(|_| Reply::status(204));
    let post =
        json!([{ "rest": { "url": sink.url("/in"), "method": "post", "sendSingle": true } }]);
    let manifest = Manifest::new()
        .connection("api", "http", json!({ "url": server.url("/list") }))
        .conf_key(
            "httppull",
            "list",
            json!({ "connectionSelector": "api", "interval": 30, "states": { "next": 0 }, "path": "?from={{.next}}&at={{.PullTime}}" }),
        )
        .conf_key("httppull", "same", json!({ "url": server.url("/same"), "interval": 30, "incremental": true, "headers": { "Authorization": "Bearer geheim" } }))
        .stream(r#"CREATE STREAM list () WITH (TYPE="httppull", FORMAT="json", CONF_KEY="list")"#)
        .stream(r#"CREATE STREAM same () WITH (TYPE="httppull", DATASOURCE="/x?y=1", FORMAT="json", CONF_KEY="same")"#)
        .rule("list", "SELECT seq FROM list", post.clone())
        .rule("same", "SELECT * FROM same", post);
    let mut windlass = Windlass::start(&manifest);
    let arrived = |words: &str| {
        sink.asked()
            .iter()
            .filter(|asked| asked.text().contains(words))
            .count()
    };
    wait_until(START, "the first half is there", || arrived("seq") >= 20);
    wait_until(SOON, "a checkpoint is kept", || {
        std::thread::sleep(Duration::from_millis(1500));
        true
    });
    assert_eq!(windlass.terminate(Duration::from_secs(20)), Some(0));
    windlass.up();
    wait_until(START, "all is there", || {
        (0..40).all(|n| arrived(&format!("{{\"seq\":{n}}}")) >= 1)
    });
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(arrived("seq"), 40, "none twice");
    assert_eq!(
        arrived("same"),
        1,
        "the same answer is left out, also after a restart"
    );
    let asked = server.asked();
    let same: Vec<&Asked> = asked
        .iter()
        .filter(|asked| asked.target == "/same/x?y=1")
        .collect();
    assert!(
        same.len() > 5
            && same
                .iter()
                .all(|it| it.header("authorization") == Some("Bearer geheim"))
    );
    assert!(!windlass.log().contains("geheim"));
}
