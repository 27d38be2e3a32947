//! NATS and Redis, against real servers, where what one side means something by must not mean something
//! to the other: headers from elsewhere, replays that an operator asks for, what vanishes meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::load::{Subscribe, Subscriber};
use windlass_tests::machine::{free_port, shared, wait_until};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::nats::Nats;
use windlass_tests::proxy::Proxy;
use windlass_tests::redis::{self, Redis};
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
        .rule("copy", "SELECT n FROM demo", to_nats("out.x"))
        .rule("two", "SELECT n FROM demo", json!([
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

/// Payloads that a subscriber has got, by topic, how often each.
fn times(seen: &Subscriber, topic: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for (at, payload) in seen.payloads() {
        if at == topic {
            let text = String::from_utf8_lossy(&payload).into_owned();
            *found.entry(text).or_default() += 1;
        }
    }
    found
}

/// A row as it arrives.
fn row(number: u64) -> String {
    format!(r#"{{"n":{number}}}"#)
}

fn xadd(client: &mut redis::Client, number: u64) {
    let payload = row(number);
    let added = client.command(&[b"XADD", b"entries", b"*", b"payload", payload.as_bytes()]);
    added.expect("added");
}

/// A request to JetStream's interface that must succeed.
fn jetstream(nats: &Nats, what: &str, body: &Value) {
    let answer = nats
        .client()
        .request(&format!("$JS.API.{what}"), body.to_string().as_bytes());
    let answer = answer.expect("an answer of JetStream");
    assert!(answer.get("error").is_none(), "{what}: {answer}");
}

#[test]
fn what_an_operator_sends_anew_arrives_and_what_vanished_meanwhile_is_made_where_it_was() {
    let _machine = shared();
    let far = Mosquitto::start();
    let (nats, redis) = (Nats::start(), Redis::start());
    nats.stream("JET", &["jet.>"]);
    let (to_nats, to_redis) = (Proxy::start(nats.port()), Proxy::start(redis.port()));
    let seen = Subscriber::start(Subscribe::new(far.port(), "seen", "out/#", 1));
    let manifest = Manifest::new()
        .mqtt("far", &far.url())
        .connection("nats", "nats", json!({ "server": format!("nats://127.0.0.1:{}", to_nats.port()) }))
        .connection("redis", "redis", json!({ "address": format!("127.0.0.1:{}", to_redis.port()) }))
        .conf_key("nats", "jet", json!({ "connectionSelector": "nats", "qos": 1, "durable": "d" }))
        .conf_key("redis", "entries", json!({ "connectionSelector": "redis", "group": "g" }))
        .stream(r#"CREATE STREAM jet () WITH (TYPE="nats", DATASOURCE="jet.in", FORMAT="json", CONF_KEY="jet")"#)
        .stream(r#"CREATE STREAM entries () WITH (TYPE="redis", DATASOURCE="entries", FORMAT="json", CONF_KEY="entries")"#)
        .rule("jet", "SELECT * FROM jet", publish_to("far", "out/jet", 1))
        .rule("entries", "SELECT * FROM entries", publish_to("far", "out/entries", 1));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["far", "nats", "redis"], &["jet", "entries"]);
    let groups = |redis: &Redis| {
        let groups = redis.client().say("XINFO GROUPS entries");
        groups.map_or(0, |groups| groups.items().len())
    };
    wait_until(LONG, "consumer and group are there", || {
        !nats.consumers("JET").is_empty() && groups(&redis) == 1
    });
    let mut stored = nats.client();
    let mut added = redis.client();
    let mut send = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            let id = format!("id-{number}");
            let kept = stored.store("jet.in", &id, row(number).as_bytes());
            kept.expect("stored");
            xadd(&mut added, number);
        }
    };
    let arrived = |topic: &str, numbers: std::ops::Range<u64>, often: u64| {
        let times = times(&seen, topic);
        numbers
            .into_iter()
            .all(|number| times.get(&row(number)).is_some_and(|found| *found >= often))
    };
    let settled = |redis: &Redis| {
        let pending = redis.client().say("XPENDING entries g");
        pending
            .map(|answer| answer.items()[0].text())
            .unwrap_or_default()
            == "0"
    };
    send(0..20);
    wait_until(LONG, "all arrive", || {
        arrived("out/jet", 0..20, 1) && arrived("out/entries", 0..20, 1)
    });
    wait_until(LONG, "all is settled", || {
        settled(&redis) && nats.consumers("JET")[0]["num_ack_pending"] == 0
    });

    redis.client().say("XGROUP SETID entries g 0").expect("set");
    let durable = json!({ "stream_name": "JET", "config": {
        "durable_name": "d", "ack_policy": "explicit", "deliver_policy": "all",
        "filter_subject": "jet.in", "max_ack_pending": 1000,
    }});
    jetstream(&nats, "CONSUMER.DELETE.JET.d", &json!({}));
    jetstream(&nats, "CONSUMER.DURABLE.CREATE.JET.d", &durable);
    // The group that was set anew gives its entries with the next one at the latest.
    send(20..21);
    wait_until(LONG, "what is sent anew arrives again", || {
        arrived("out/jet", 0..20, 2) && arrived("out/entries", 0..20, 2)
    });
    wait_until(LONG, "the next ones too", || {
        arrived("out/jet", 20..21, 1) && arrived("out/entries", 20..21, 1)
    });
    wait_until(LONG, "all is settled again", || {
        settled(&redis) && nats.consumers("JET")[0]["num_ack_pending"] == 0
    });

    for proxy in [&to_nats, &to_redis] {
        proxy.refuse(true);
        proxy.cut();
    }
    windlass.wait_connection("nats", "connecting", LONG);
    windlass.wait_connection("redis", "connecting", LONG);
    jetstream(&nats, "CONSUMER.DELETE.JET.d", &json!({}));
    redis.client().say("DEL entries").expect("removed");
    send(30..50);
    for proxy in [&to_nats, &to_redis] {
        proxy.refuse(false);
    }
    wait_until(LONG, "what came meanwhile arrives", || {
        arrived("out/jet", 30..50, 1) && arrived("out/entries", 30..50, 1)
    });
    let often = times(&seen, "out/jet")[&row(0)];
    assert_eq!(often, 2, "a consumer goes on where it was");
}

#[test]
fn sources_that_differ_in_what_the_server_does_not_tell_apart_get_all_of_it_each() {
    let _machine = shared();
    let far = Mosquitto::start();
    let (nats, redis) = (Nats::start(), Redis::start());
    nats.stream("JET", &["jet.>"]);
    let seen = Subscriber::start(Subscribe::new(far.port(), "seen", "out/#", 1));
    let mut manifest = Manifest::new()
        .mqtt("far", &far.url())
        .connection("nats", "nats", json!({ "server": nats.url() }))
        .connection("redis", "redis", json!({ "address": redis.address() }));
    let table = [
        ("nats", "jet1", "jet.in", json!({ "qos": 1 })),
        (
            "nats",
            "jet2",
            "jet.in",
            json!({ "qos": 1, "ackWait": "20s" }),
        ),
        ("redis", "entries1", "entries", json!({ "group": "g" })),
        (
            "redis",
            "entries2",
            "entries",
            json!({ "group": "g", "claimIdle": "1m" }),
        ),
    ];
    for (typ, name, datasource, mut props) in table {
        props["connectionSelector"] = json!(typ);
        let sql = format!(
            r#"CREATE STREAM {name} () WITH (TYPE="{typ}", DATASOURCE="{datasource}", FORMAT="json", CONF_KEY="{name}")"#
        );
        manifest = manifest.conf_key(typ, name, props).stream(&sql).rule(
            name,
            &format!("SELECT * FROM {name}"),
            publish_to("far", &format!("out/{name}"), 1),
        );
    }
    let windlass = Windlass::start(&manifest);
    let rules = ["jet1", "jet2", "entries1", "entries2"];
    wait_ready(&windlass, &["far", "nats", "redis"], &rules);
    wait_until(LONG, "the operator is told", || {
        windlass.warnings("nats").join(" ").contains("ackWait")
            && windlass.warnings("redis").join(" ").contains("claimIdle")
    });
    wait_until(LONG, "consumer and group are there", || {
        let groups = redis.client().say("XINFO GROUPS entries");
        !nats.consumers("JET").is_empty() && groups.is_ok_and(|groups| groups.items().len() == 1)
    });
    let (mut stored, mut added) = (nats.client(), redis.client());
    for number in 0..100 {
        let kept = stored.store("jet.in", &format!("id-{number}"), row(number).as_bytes());
        kept.expect("stored");
        xadd(&mut added, number);
    }
    for rule in rules {
        let topic = format!("out/{rule}");
        wait_until(LONG, "each rule gets all of it", || {
            times(&seen, &topic).len() == 100
        });
    }
    assert_eq!(nats.consumers("JET").len(), 1);
}

#[test]
fn of_what_another_consumer_left_lying_only_so_much_is_taken_over_as_there_is_room_for() {
    const LEFT: u64 = 4000;
    let _machine = shared();
    let redis = Redis::start();
    let mut client = redis.client();
    client
        .say("XGROUP CREATE entries g 0 MKSTREAM")
        .expect("made");
    let payload = format!(r#"{{"n":"{}"}}"#, "x".repeat(2000));
    for _ in 0..LEFT {
        let added = client.command(&[b"XADD", b"entries", b"*", b"payload", payload.as_bytes()]);
        added.expect("added");
    }
    client
        .say(&format!(
            "XREADGROUP GROUP g other COUNT {LEFT} STREAMS entries >"
        ))
        .expect("read");
    std::thread::sleep(Duration::from_secs(4));
    // Nothing can be written, and little goes to disk.
    let manifest = Manifest::new()
        .limits(json!({ "unsettledMessages": 200 }))
        .mqtt("far", &format!("tcp://127.0.0.1:{}", free_port()))
        .connection("redis", "redis", json!({ "address": redis.address() }))
        .conf_key("redis", "entries", json!({ "connectionSelector": "redis", "group": "g", "claimIdle": "3s" }))
        .stream(r#"CREATE STREAM entries () WITH (TYPE="redis", DATASOURCE="entries", FORMAT="json", CONF_KEY="entries")"#)
        .rule("entries", "SELECT * FROM entries", json!([{ "mqtt": {
            "connectionSelector": "far", "topic": "out", "qos": 1, "sendSingle": true,
            "maxDiskBytes": 1_048_576, "overflow": "block",
        } }]));
    let windlass = Windlass::start(&manifest);
    windlass.wait_connection("redis", "connected", LONG);
    let left = || {
        let pending = redis.client().say("XPENDING entries g").expect("pending");
        let mut all = pending.items()[3].items().iter();
        let other = all.find(|one| one.items()[0].text() == "other");
        other.map_or(0, |one| one.items()[1].text().parse::<u64>().unwrap_or(0))
    };
    wait_until(LONG, "some is taken over", || left() < LEFT);
    std::thread::sleep(Duration::from_secs(8));
    assert!(left() > LEFT / 2, "{} of {LEFT} are left", left());
}
