//! Who gets in: tokens as eKuiper's users make them (openssl), roles, TLS, names and pages; and what the
//! server says of itself to those who do: metrics, events, its description.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use windlass_tests::certificates::Certificates;
use windlass_tests::machine::{shared, wait_until};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::pusher::Client;
use windlass_tests::windlass::{Windlass, command};

/// Runs openssl on some input; what it wrote.
fn openssl(words: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(input)
        .expect("read by openssl");
    let output = child.wait_with_output().expect("openssl ends");
    assert!(output.status.success(), "openssl {words:?}");
    output.stdout
}

fn base64url(bytes: &[u8]) -> String {
    let text = openssl(&["base64", "-A"], bytes);
    let text = String::from_utf8(text).expect("base64 is ASCII");
    text.trim_end_matches('=')
        .replace('+', "-")
        .replace('/', "_")
}

/// An issuer with a key of 2048 bits, whose public half lies where the server looks.
struct Issuer(PathBuf);

impl Issuer {
    fn new(folder: &Path, name: &str) -> Self {
        let keys = folder.join("keys");
        std::fs::create_dir_all(&keys).expect("a folder");
        let private = folder.join(format!("{name}.private"));
        let path = private.to_str().expect("UTF-8");
        openssl(&["genrsa", "-out", path, "2048"], b"");
        let public = openssl(&["rsa", "-in", path, "-pubout"], b"");
        std::fs::write(keys.join(name), public).expect("written");
        Self(private)
    }

    /// A token as eKuiper's manual makes it: RS256 over `{"iss", "aud", "exp", ...}`.
    fn token(&self, claims: &Value) -> String {
        let head = base64url(br#"{"typ":"JWT","alg":"RS256"}"#);
        let signed = format!("{head}.{}", base64url(claims.to_string().as_bytes()));
        let key = self.0.to_str().expect("UTF-8");
        let signature = openssl(&["dgst", "-sha256", "-sign", key], signed.as_bytes());
        format!("{signed}.{}", base64url(&signature))
    }
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("after 1970")
        .as_secs()
}

#[test]
fn tokens_open_the_server_over_tls_as_far_as_their_role_goes() {
    let _machine = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let issuer = Issuer::new(folder.path(), "sample_key.pub");
    let certificates = Certificates::new();
    let identity = certificates.identity(&["edge-7.example", "127.0.0.1"]);
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let authority = file("ca.pem", &certificates.authority());
    let (certfile, keyfile) = (
        file("cert.pem", &identity.certificate),
        file("key.pem", &identity.key),
    );
    let settings = json!({ "rest": {
        "keys": folder.path().join("keys"),
        "names": ["edge-7.example"],
        "origins": ["https://ops.example"],
        "tls": { "certfile": certfile, "keyfile": keyfile },
    } });
    let settings = file("settings.yaml", &settings.to_string());
    let windlass = Windlass::serve(&["--config", settings.to_str().expect("UTF-8")]);
    let port = windlass.rest_port();

    let curl = |words: &[&str], path: &str| {
        let output = Command::new("curl")
            .args([
                "-sS",
                "--max-time",
                "20",
                "-w",
                "\n%{http_code}",
                "--cacert",
            ])
            .arg(&authority)
            .args(["--resolve", &format!("edge-7.example:{port}:127.0.0.1")])
            .args(words)
            .arg(format!("https://edge-7.example:{port}{path}"))
            .output()
            .expect("curl");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (status.parse::<u16>().expect("a status"), body.to_owned())
    };
    let good = json!({ "iss": "sample_key.pub", "aud": "eKuiper", "exp": now() + 600 });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        format!("Authorization: {}", issuer.token(&claims))
    };
    let connection = r#"{"id":"plant","typ":"mqtt","props":{"server":"tcp://127.0.0.1:9"}}"#;
    let post = |header: &str| curl(&["-H", header, "-d", connection], "/connections");

    // What eKuiper leaves open is open; everything else says what is missing.
    assert_eq!(curl(&[], "/ping"), (200, String::new()));
    assert_eq!(curl(&[], "/").0, 200);
    let (status, body) = curl(&[], "/connections");
    assert!(status == 401 && body.contains("missing_token"), "{body}");
    let (status, body) = post(&with("exp", json!(now() - 120)));
    assert!(
        status == 401 && body.contains("validate token error: token is expired"),
        "{body}"
    );
    let (status, body) = post(&with("aud", json!("others")));
    assert!(
        status == 401 && body.contains("audience field should contain eKuiper, but got [others]"),
        "{body}"
    );
    let (status, body) = post(&with("role", json!("read")));
    assert!(status == 403 && body.contains("\\\"admin\\\""), "{body}");
    let stranger = Issuer::new(&folder.path().join("elsewhere"), "sample_key.pub");
    let (status, body) = post(&format!("Authorization: {}", stranger.token(&good)));
    assert!(
        status == 401 && body.contains("signature is invalid"),
        "{body}"
    );

    // As eKuiper's scripts send it, and as everybody else does.
    assert_eq!(post(&with("jti", json!("1"))), (201, "success".to_owned()));
    let bearer = format!("Authorization: Bearer {}", issuer.token(&good));
    let (status, body) = curl(&["-H", &bearer], "/connections/plant");
    assert!(status == 200 && body.contains("\"typ\":\"mqtt\""), "{body}");
    let (status, body) = curl(&["-H", &with("role", json!("read"))], "/metrics");
    assert!(
        status == 200 && body.contains("kuiper_conn_status_gauge{name=\"plant\"}"),
        "{body}"
    );

    // A page of somebody else, one that is allowed, and a name that is not this server's.
    let (status, _) = curl(
        &["-H", &bearer, "-H", "Origin: https://evil.example"],
        "/connections",
    );
    assert_eq!(status, 403);
    let (status, head) = curl(
        &["-i", "-H", &bearer, "-H", "Origin: https://ops.example"],
        "/connections",
    );
    assert!(
        status == 200
            && head
                .to_lowercase()
                .contains("access-control-allow-origin: https://ops.example"),
        "{head}"
    );
    let (status, _) = curl(
        &["-H", &bearer, "-H", "Host: rebound.example"],
        "/connections",
    );
    assert_eq!(status, 421);

    // A key that is replaced counts without a restart.
    let next = Issuer::new(folder.path(), "sample_key.pub");
    let renewed = format!("Authorization: {}", next.token(&good));
    wait_until(Duration::from_secs(15), "the new key counts", || {
        curl(&["-H", &renewed], "/connections").0 == 200
    });
    wait_until(Duration::from_secs(15), "the old one does not", || {
        curl(&["-H", &bearer], "/connections").0 == 401
    });
    let token = bearer.rsplit(' ').next().expect("a token");
    assert!(
        !windlass.log().contains(&token[token.len() - 40..]),
        "a token is in the log"
    );
}

#[test]
fn a_port_for_everybody_without_authentication_needs_a_word() {
    let _machine = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("UTF-8");
    let said = command(&[
        "serve",
        "--data",
        data,
        "--rest",
        "0.0.0.0:0",
        "--push",
        "127.0.0.1:0",
    ]);
    assert_eq!(said.code, Some(78), "{}", said.all());
    assert!(said.err.contains("--insecure-no-auth"), "{}", said.err);
}

/// Events of a server as they come, until `wanted` stands in one.
fn until(lines: &mut impl Iterator<Item = std::io::Result<String>>, wanted: &str) -> Vec<String> {
    let mut seen = Vec::new();
    for line in lines {
        let line = line.expect("the stream goes on");
        let found = line.contains(wanted);
        seen.push(line);
        if found {
            return seen;
        }
    }
    panic!("ended before {wanted}: {seen:?}");
}

#[test]
fn events_metrics_and_the_description_tell_what_happens() {
    let _machine = shared();
    let mut broker = Mosquitto::start();
    let windlass = Windlass::serve(&[]);
    let port = windlass.rest_port();
    let mut rest = windlass.rest();
    let connection = json!({ "id": "plant", "typ": "mqtt", "props": { "server": broker.url() } });
    rest.must_post("/connections", &connection, 201);

    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a limit");
    let asked = "GET /events?kind=connection&id=plant HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    stream.write_all(asked.as_bytes()).expect("sent");
    let mut lines = BufReader::new(stream).lines();
    let first = until(&mut lines, "event: synced").join("\n");
    assert!(
        first.contains("event: connection") && first.contains("\"id\":\"plant\""),
        "{first}"
    );
    if !first.contains("\"status\":\"connected\"") {
        until(&mut lines, "\"status\":\"connected\"");
    }
    broker.stop();
    until(&mut lines, "\"status\":\"connecting\"");

    let metrics = rest.send("GET", "/metrics", b"");
    assert_eq!(
        metrics.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    assert!(
        metrics
            .body
            .contains("kuiper_conn_status_gauge{name=\"plant\"} 0"),
        "{}",
        metrics.body
    );
    assert!(
        metrics
            .body
            .contains("windlass_connection_next_attempt_seconds{connection=\"plant\""),
        "{}",
        metrics.body
    );
    broker.restart();
    until(&mut lines, "\"status\":\"connected\"");
    wait_until(Duration::from_secs(5), "the metrics know too", || {
        rest.send("GET", "/metrics", b"")
            .body
            .contains("kuiper_conn_status_gauge{name=\"plant\"} 1")
    });

    let (status, document) = rest.get("/openapi.json");
    assert!(
        status == 200 && document["paths"]["/connections/{id}"]["put"].is_object(),
        "{document}"
    );
    let page = rest.send("GET", "/docs", b"");
    assert!(
        page.status == 200 && page.body.contains("<!doctype html>"),
        "{}",
        page.body
    );
    let (status, information) = rest.get("/");
    assert!(
        status == 200 && information["upTimeSeconds"].is_u64(),
        "{information}"
    );
    assert!(
        information["memoryUsed"]
            .as_str()
            .is_some_and(|text| text.parse::<u64>().is_ok()),
        "{information}"
    );

    // The stream is no reason not to stop, and ends in order.
    drop(Client::new(port).send("GET", "/ping", &[], b""));
    let mut windlass = windlass;
    assert_eq!(windlass.terminate(Duration::from_secs(20)), Some(0));
    assert!(
        lines.last().is_none_or(|line| line.is_ok()),
        "the stream ends with its last chunk"
    );
}

#[test]
fn kuiper_yaml_says_whether_tokens_are_needed_and_what_changes_nothing_is_named() {
    let _machine = shared();
    let etc = tempfile::tempdir().expect("a temporary folder");
    let settings =
        "basic:\n  authentication: true\n  restIp: 0.0.0.0\n  ip: 0.0.0.0\n  port: 20498\n";
    std::fs::write(etc.path().join("kuiper.yaml"), settings).expect("a file");
    let windlass = Windlass::serve(&["--etc", &etc.path().display().to_string()]);
    let mut rest = windlass.rest();
    assert_eq!(rest.get("/ping").0, 200);
    let answered = rest.send("GET", "/rules", b"");
    assert_eq!(answered.status, 401, "{}", answered.body);
    let log = windlass.log();
    assert!(
        log.contains("basic.ip, basic.port: change nothing: eKuiper's own command line"),
        "{log}"
    );
    // A value that is none is refused before anything starts.
    std::fs::write(etc.path().join("kuiper.yaml"), "basic:\n  restPort: many\n").expect("a file");
    let folder = etc.path().display().to_string();
    let data = etc.path().join("data").display().to_string();
    let said = command(&["serve", "--etc", &folder, "--data", &data]);
    assert_eq!(said.code, Some(78), "{}", said.all());
    assert!(
        said.all().contains("basic.restPort: it is a port"),
        "{}",
        said.all()
    );
}
