//! The command line as the client of a server: a real `windlass serve`, changed and watched with the
//! commands that a user types, against a real broker.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{holds_within, shared};
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::process::Killed;
use windlass_tests::windlass::{Said, Windlass, binary, command};

use crate::settings::{START, expect_all, warm_ones};

/// A server, and a folder for files that commands read.
struct Server {
    windlass: Windlass,
    folder: tempfile::TempDir,
    url: String,
}

impl Server {
    fn start() -> Self {
        let windlass = Windlass::serve(&[]);
        Self {
            url: format!("http://127.0.0.1:{}", windlass.rest_port()),
            folder: tempfile::tempdir().expect("a folder"),
            windlass,
        }
    }

    fn run(&self, words: &[&str]) -> Said {
        let mut words = words.to_vec();
        words.extend(["--server", &self.url]);
        command(&words)
    }

    /// Runs a command that must succeed; its JSON values.
    fn ok(&self, words: &[&str]) -> Vec<Value> {
        let said = self.run(words);
        assert_eq!(said.code, Some(0), "{words:?}: {}", said.all());
        said.json()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("written");
        path
    }

    /// The command ends with 0 before long.
    fn wait(&self, words: &[&str], limit: Duration) {
        let holds = holds_within(limit, || self.run(words).code == Some(0));
        assert!(holds, "{words:?}: {}", self.run(words).all());
    }

    /// One request as it is: status and body.
    fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let answered = self.windlass.rest().send(method, path, body.as_bytes());
        (answered.status, answered.body)
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn each_resource_is_listed_made_changed_started_stopped_and_deleted_by_commands() {
    let _machine = shared();
    let broker = Mosquitto::with(Broker {
        extra: "log_type subscribe".to_owned(),
        ..Broker::default()
    });
    let server = Server::start();
    let set = format!("server={}", broker.url());
    server.ok(&[
        "connections",
        "create",
        "plant",
        "--typ",
        "mqtt",
        "--set",
        &set,
        "--set",
        "clientid=c1",
        "--set",
        "password=hunter2-hunter2",
        "--set",
        "username=u",
    ]);
    let said = server.run(&[
        "connections",
        "create",
        "plant",
        "--typ",
        "mqtt",
        "--set",
        &set,
    ]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err
            .contains("create connection failed: connection plant already been created"),
        "{}",
        said.err
    );
    let said = server.run(&[
        "connections",
        "create",
        "other",
        "--typ",
        "mqtt",
        "--set",
        "sever=tcp://x",
    ]);
    assert!(
        said.err.contains("did you mean \"server\"?"),
        "the server's own words: {}",
        said.err
    );
    server.wait(&["connections", "status", "plant"], START);
    let get = server.ok(&["connections", "get", "plant", "--json"]);
    assert_eq!(get[0]["props"]["password"], "******");
    let listed = server.run(&["connections", "ls"]);
    assert!(
        listed.out.starts_with("CONNECTION") && listed.out.contains("plant"),
        "{}",
        listed.out
    );

    let sql = "CREATE STREAM demo () WITH (DATASOURCE=\"in/#\", FORMAT=\"json\", EXTRA=\"{\\\"connectionSelector\\\":\\\"plant\\\",\\\"qos\\\":1}\")";
    server.ok(&["streams", "create", sql]);
    assert_eq!(server.ok(&["streams", "ls", "--json"])[0]["name"], "demo");
    let rule = server.write(
        "rule.yaml",
        "id: warm\nsql: SELECT * FROM demo WHERE temperature > 50\ntriggered: false\ntags: [a]\nactions:\n  - mqtt: { connectionSelector: plant, topic: out, qos: 1, sendSingle: true }\n",
    );
    server.ok(&["rules", "create", "-f", &text(&rule)]);
    assert_eq!(
        server.ok(&["rules", "ls", "--tag", "a", "--json"])[0]["status"],
        "stopped"
    );
    assert_eq!(server.ok(&["rules", "ls", "--tag", "b", "--json"]).len(), 0);
    assert_eq!(
        server.run(&["rules", "status", "warm"]).code,
        Some(1),
        "it does not run"
    );
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    server.ok(&["rules", "start", "warm"]);
    server.wait(&["rules", "status", "warm"], START);
    let subscribed = holds_within(Duration::from_secs(10), || broker.logged("c1 1 in/#") > 0);
    assert!(subscribed, "{}", broker.log());
    let sent = Publish::new(broker.port(), "in/1", 1)
        .rate(500)
        .count(100)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 100);
    expect_all(&far, &warm_ones(0..100), Duration::from_secs(20));

    let said = server.run(&["connections", "delete", "plant", "nobody"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("can't be dropped due to rule references"),
        "{}",
        said.err
    );
    let status = server.run(&["status"]);
    assert!(
        status.out.contains("warm") && status.out.contains("plant"),
        "{}",
        status.out
    );
    let snapshot = server.ok(&["status", "--json"]);
    assert_eq!(snapshot[0]["rules"][0]["recordsIn"], 100, "{snapshot:?}");
    server.ok(&["rules", "restart", "warm"]);
    server.ok(&["rules", "stop", "warm"]);
    let said = server.run(&["rules", "stop", "wram", "--json"]);
    assert_eq!(said.code, Some(1));
    assert_eq!(said.json()[0]["ok"], false, "{}", said.all());
    server.ok(&["rules", "delete", "warm"]);
    server.ok(&["streams", "delete", "demo"]);
    server.ok(&["connections", "delete", "plant"]);
    assert_eq!(
        server.run(&["connections", "ls", "--json"]).out.trim(),
        "[]"
    );
    assert!(
        !server.windlass.log().contains("hunter2-hunter2"),
        "a secret is in the log"
    );
}

fn manifest(broker: &str, more: &str) -> String {
    format!(
        "connections:\n  - id: plant\n    typ: mqtt\n    props: {{ server: \"{broker}\", clientid: applied, username: u, password: hunter2-hunter2 }}\n\
         confKeys:\n  mqtt:\n    line: {{ connectionSelector: plant, qos: 1 }}\n\
         streams:\n  - CREATE STREAM demo () WITH (DATASOURCE=\"in/#\", FORMAT=\"json\", CONF_KEY=\"line\")\n\
         rules:\n  - id: warm\n    sql: SELECT * FROM demo WHERE temperature > 50\n    actions:\n      - mqtt: {{ connectionSelector: plant, topic: out, qos: 1, sendSingle: true }}\n{more}"
    )
}

#[test]
fn apply_makes_changes_and_with_prune_deletes_and_says_before_what_it_would_do() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let server = Server::start();
    let old_rule = "  - id: old\n    sql: SELECT * FROM demo\n    actions: [{ log: {} }]\n";
    let file = server.write("m.yaml", &manifest(&broker.url(), old_rule));
    let apply = |more: &[&str]| {
        let path = text(&file);
        let mut words = vec!["apply", "-f", &path];
        words.extend(more);
        server.run(&words)
    };

    let said = apply(&["--dry-run"]);
    assert_eq!(said.code, Some(1), "there is a difference: {}", said.all());
    assert!(said.out.contains("5 would be created"), "{}", said.out);
    assert_eq!(
        server.run(&["rules", "ls", "--json"]).out.trim(),
        "[]",
        "nothing was sent"
    );
    let said = apply(&[]);
    assert_eq!(said.code, Some(0), "{}", said.all());
    server.wait(&["connections", "status", "plant"], START);
    server.wait(&["rules", "status", "warm"], START);

    // The same again cuts nobody off, though the password cannot be compared.
    let said = apply(&[]);
    assert_eq!(said.code, Some(0), "{}", said.all());
    assert!(
        said.out.contains("a secret, which cannot be compared"),
        "{}",
        said.out
    );
    assert!(
        !said.all().contains("hunter2-hunter2"),
        "a secret is printed"
    );
    let connects = broker.logged("as applied ");
    assert_eq!(connects, 1, "one session of the client: {}", broker.log());

    let changed = manifest(&broker.url(), "").replace("temperature > 50", "temperature > 60");
    fs::write(&file, changed).expect("written");
    let said = apply(&["--prune", "--dry-run"]);
    assert!(
        said.out.contains("rule warm: change") && said.out.contains("temperature > 60"),
        "{}",
        said.out
    );
    assert!(said.out.contains("rule old: delete"), "{}", said.out);
    assert_eq!(
        server.ok(&["rules", "ls", "--json"]).len(),
        2,
        "nothing was deleted"
    );
    let said = apply(&[]);
    assert_eq!(said.code, Some(0), "{}", said.all());
    assert_eq!(
        server.ok(&["rules", "ls", "--json"]).len(),
        2,
        "without --prune nothing goes"
    );
    let said = apply(&["--prune"]);
    assert_eq!(said.code, Some(0), "{}", said.all());
    assert!(
        said.out.contains("1 item will be deleted:\n  rule old"),
        "{}",
        said.out
    );
    let rules = server.ok(&["rules", "ls", "--json"]);
    assert_eq!((rules.len(), &rules[0]["id"]), (1, &json!("warm")));
    assert_eq!(
        server.ok(&["rules", "get", "warm", "--json"])[0]["sql"],
        "SELECT * FROM demo WHERE temperature > 60"
    );

    // A mistake in the file sends nothing; one that only the server can see is named with its item.
    fs::write(&file, "rules: [{ id: a }]\n").expect("written");
    assert_eq!(apply(&[]).code, Some(78));
    fs::write(
        &file,
        "rules: [{ id: a, sql: SELECT * FROM nowhere, actions: [{ log: {} }] }]\n",
    )
    .expect("written");
    let said = apply(&["--prune"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("rule a:") && said.err.contains("nowhere"),
        "{}",
        said.err
    );
    assert_eq!(
        server.ok(&["streams", "ls", "--json"]).len(),
        1,
        "after a failure nothing is deleted"
    );
}

#[test]
fn an_export_of_one_server_is_imported_by_another_and_masks_keep_what_is_stored() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let (from, to) = (Server::start(), Server::start());
    let file = from.write("m.yaml", &manifest(&broker.url(), ""));
    from.ok(&["apply", "-f", &text(&file), "--json"]);
    from.wait(&["connections", "status", "plant"], START);

    // A running server is judged as an eKuiper is, by its export.
    let said = command(&["import-ekuiper", &from.url, "--json"]);
    assert_eq!(said.code, Some(0), "{}", said.all());
    assert_eq!(
        said.json()[0]["items"].as_array().map(Vec::len),
        Some(4),
        "{}",
        said.all()
    );

    let export = from.http("GET", "/data/export", "").1;
    let data: Value = serde_json::from_str(&export).expect("JSON");
    let sections: Vec<&str> = data
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        sections,
        [
            "streams",
            "tables",
            "rules",
            "nativePlugins",
            "portablePlugins",
            "sourceConfig",
            "sinkConfig",
            "connectionConfig",
            "Service",
            "Schema",
            "uploads",
            "scripts"
        ]
    );
    assert!(!export.contains("hunter2-hunter2"), "secrets are masked");
    assert_eq!(
        from.http("GET", "/data/export?secrets=true", "").0,
        403,
        "nobody has proved to be an admin"
    );

    // Back into the same server: nothing changes, nobody is cut off.
    let body = json!({"content": export}).to_string();
    let (status, answer) = from.http("POST", "/data/import?partial=1", &body);
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["ErrorMsg"], "");
    assert!(
        answer["ConfigResponse"]
            .as_object()
            .expect("sections")
            .values()
            .all(|section| *section == json!({}))
    );
    assert_eq!(
        broker.logged("as applied "),
        1,
        "one session of the client: {}",
        broker.log()
    );

    // Into another: its masked secret is nobody's, and what hangs on it says so.
    let (status, answer) = to.http("POST", "/data/import", &body);
    assert_eq!(status, 400, "{answer}");
    let envelope: Value = serde_json::from_str(&answer).expect("an envelope");
    let inner: Value = serde_json::from_str(envelope["message"].as_str().expect("text"))
        .expect("eKuiper's answer");
    let why = &inner["ConfigResponse"]["connectionConfig"]["mqtt/plant"];
    assert!(
        why.as_str().is_some_and(|why| why.contains("masked")),
        "{inner}"
    );
    assert!(
        inner["ConfigResponse"]["rules"]["warm"].is_string(),
        "{inner}"
    );
    let last = to.http("GET", "/data/import/status", "").1;
    assert_eq!(
        serde_json::from_str::<Value>(&last).expect("JSON"),
        inner["ConfigResponse"]
    );

    // With the secret in it, all of it comes, runs, and what the import does not have goes.
    to.ok(&[
        "connections",
        "create",
        "extra",
        "--typ",
        "mqtt",
        "--set",
        "server=tcp://127.0.0.1:1",
        "--set",
        "clientid=x",
    ]);
    let whole = export
        .replace("******", "hunter2-hunter2")
        .replace("applied", "imported");
    let body = json!({"content": whole}).to_string();
    let (status, answer) = to.http("POST", "/data/import", &body);
    assert_eq!(status, 200, "{answer}");
    to.wait(&["connections", "status", "plant"], START);
    to.wait(&["rules", "status", "warm"], START);
    let connections = to.ok(&["connections", "ls", "--json"]);
    assert_eq!(
        connections.len(),
        1,
        "a full import deletes what it does not have: {connections:?}"
    );

    // The YAML form and the ruleset go round too.
    let yaml = to.http("GET", "/v2/data/export", "").1;
    assert!(yaml.contains("connections.mqtt.plant:"), "{yaml}");
    let (status, answer) = to.http(
        "POST",
        "/v2/data/import",
        &json!({"content": yaml}).to_string(),
    );
    assert_eq!((status, answer.as_str()), (200, "success"));
    let ruleset = to.http("POST", "/ruleset/export", "").1;
    to.ok(&["rules", "delete", "warm"]);
    let (status, answer) = to.http(
        "POST",
        "/ruleset/import",
        &json!({"content": ruleset}).to_string(),
    );
    assert_eq!(
        (status, answer.as_str()),
        (200, "imported 0 streams, 0 tables and 1 rules")
    );
    for (body, words) in [
        (
            json!({"content": "{}", "file": "x"}),
            "Cannot specify both content and file",
        ),
        (json!({}), "must specify content or file"),
        (json!({"content": "{\"streams\": "}), "not JSON"),
        (json!({"file": "file:///etc/passwd"}), "reads no files"),
    ] {
        let (status, answer) = to.http("POST", "/data/import", &body.to_string());
        assert_eq!(status, 400);
        assert!(answer.contains(words), "{answer}");
    }
    assert_eq!(
        to.ok(&["rules", "ls", "--json"]).len(),
        1,
        "what is refused changes nothing"
    );
}

#[test]
fn status_is_watched_line_by_line_and_contexts_keep_the_server() {
    let _machine = shared();
    let server = Server::start();
    let home = tempfile::tempdir().expect("a folder");
    let with_home = |words: &[&str]| {
        let output = Command::new(binary())
            .args(words)
            .env("XDG_CONFIG_HOME", home.path())
            .env_remove("WINDLASS_SERVER")
            .env_remove("WINDLASS_TOKEN")
            .output()
            .expect("windlass can be started");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let token = server.write("token", "secret-token-1\n");
    let (code, out, _) = with_home(&[
        "context",
        "set",
        "edge",
        "--server",
        &server.url,
        "--token-file",
        &text(&token),
    ]);
    assert_eq!(code, Some(0));
    assert!(!out.contains("secret-token-1"), "{out}");
    let (code, out, err) = with_home(&["connections", "ls", "--json"]);
    assert_eq!((code, out.trim()), (Some(0), "[]"), "{err}");
    let (_, out, _) = with_home(&["context", "ls", "--json"]);
    assert!(
        out.contains("\"current\":true") && !out.contains("secret-token-1"),
        "{out}"
    );
    let (code, _, err) = with_home(&["connections", "ls", "--context", "egde"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("did you mean \"edge\"?"), "{err}");
    let (code, out, _) = with_home(&["completions", "bash"]);
    assert!(code == Some(0) && out.contains("import-ekuiper") && out.contains("_windlass"));

    let mut watching = Command::new(binary())
        .args(["status", "--watch", "--server", &server.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map(Killed)
        .expect("windlass can be started");
    let watching = &mut watching.0;
    let lines = BufReader::new(watching.stdout.take().expect("piped"));
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    server.ok(&[
        "connections",
        "create",
        "nowhere",
        "--typ",
        "mqtt",
        "--set",
        "server=tcp://127.0.0.1:1",
        "--set",
        "clientid=x",
    ]);
    let mut seen = Vec::new();
    let shown = holds_within(Duration::from_secs(20), || {
        seen.extend(receiver.try_iter());
        seen.iter()
            .any(|line: &String| line.contains("nowhere") && line.contains("disconnected"))
    });
    windlass_tests::machine::signal(watching.id(), "TERM");
    let ended = holds_within(Duration::from_secs(10), || {
        !matches!(watching.try_wait(), Ok(None))
    });
    drop(watching.kill());
    let code = watching.wait().ok().and_then(|status| status.code());
    drop(receiver);
    drop(reader.join());
    assert!(shown, "{seen:?}");
    assert!(
        ended && code == Some(0),
        "it ends with the signal: {code:?}"
    );
}
