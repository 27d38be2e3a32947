//! NATS and Redis, against real servers, where what one side means something by must not mean something
//! to the other: headers from elsewhere, replays that an operator asks for, what vanishes meanwhile.

use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::machine::{shared, wait_until};
use windlass_tests::manifest::Manifest;
use windlass_tests::nats::Nats;
use windlass_tests::windlass::Windlass;

use crate::settings::wait_ready;

const LONG: Duration = Duration::from_secs(15);

/// How many messages a stream of NATS has of each subject.
fn count(nats: &Nats, stream: &str, subject: &str) -> u64 {
    let info = nats.client().request(
        &format!("$JS.API.STREAM.INFO.{stream}"),
        br#"{"subjects_filter":">"}"#,
    );
    let info = info.unwrap_or_default();
    info["state"]["subjects"][subject].as_u64().unwrap_or(0)
}

fn to_nats(subject: &str) -> Value {
    json!([{ "nats": { "connectionSelector": "nats", "subject": subject, "qos": 1, "sendSingle": true } }])
}

#[test]
fn headers_that_come_with_a_message_are_no_commands_to_a_stream_and_no_dead_letters() {
    let _machine = shared();
    let nats = Nats::start();
    nats.stream("ALL", &["in.>", "out.>", "two.>"]);
    let manifest = Manifest::new()
        .connection("nats", "nats", json!({ "server": nats.url() }))
        .conf_key("nats", "jet", json!({ "connectionSelector": "nats", "qos": 1, "deliver": "all" }))
        .stream(r#"CREATE STREAM demo () WITH (TYPE="nats", DATASOURCE="in.x", FORMAT="json", CONF_KEY="jet")"#)
        .rule("copy", "SELECT * FROM demo", to_nats("out.x"))
        .rule("two", "SELECT * FROM demo", json!([
            { "nats": { "connectionSelector": "nats", "subject": "two.x", "qos": 1, "sendSingle": true } },
            { "nats": { "connectionSelector": "nats", "subject": "two.own", "qos": 1, "sendSingle": true, "headers": { "Nats-Msg-Id": "own" } } },
        ]));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["nats"], &["copy", "two"]);
    let mut client = nats.client();
    for number in 0..20 {
        // A list is two rows.
        let payload = format!(r#"[{{"n":{number}}},{{"n":{number}}}]"#);
        let id = format!("id-{number}");
        let stored = client.store("in.x", &id, payload.as_bytes());
        stored.expect("stored");
    }
    wait_until(LONG, "every row is in the stream", || {
        count(&nats, "ALL", "out.x") == 40 && count(&nats, "ALL", "two.x") == 40
    });
    // What the action says itself is sent, and the operator is told what came of it.
    wait_until(LONG, "duplicates are told of", || {
        let warnings = windlass.warnings("nats").join(" ");
        warnings.contains("has not kept") && count(&nats, "ALL", "two.own") == 1
    });
    assert_eq!(count(&nats, "ALL", "in.x"), 20);
}
