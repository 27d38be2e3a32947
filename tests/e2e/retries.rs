//! How often and how long a message is tried, what becomes of it then, and what the other side can know
//! it by: policies, dead letters that are forwarded, ids and duplicates, the disk's reserve.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::httpd::{Asked, Httpd, Reply};
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{shared, wait_until};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::read_payload;
use windlass_tests::windlass::Windlass;

use crate::settings::{letters, wait_ready};

/// For what takes no longer than a second on an idle machine.
const SOON: Duration = Duration::from_secs(30);

fn number(asked: &Asked) -> u64 {
    read_payload(&asked.body).expect("a numbered payload").0
}

/// All of `in/#` of a broker to a server, with these properties beside.
fn posting(broker: &Mosquitto, server: &Httpd, more: Value) -> Manifest {
    let mut rest = json!({ "connectionSelector": "api", "method": "post", "sendSingle": true });
    if let (Some(rest), Value::Object(more)) = (rest.as_object_mut(), more) {
        rest.extend(more);
    }
    Manifest::new()
        .mqtt("plant", &broker.url())
        .connection("api", "http", json!({ "url": server.url("/in") }))
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule("all", "SELECT * FROM demo", json!([{ "rest": rest }]))
}

fn send(broker: &Mosquitto, count: u64) {
    let sent = Publish::new(broker.port(), "in/1", 1)
        .count(count)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len() as u64, count);
}

#[test]
fn a_message_is_tried_as_often_as_told_and_no_outage_counts() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let tries: Arc<Mutex<BTreeMap<u64, u32>>> = Arc::default();
    let mut server = Httpd::prepare({
        let tries = Arc::clone(&tries);
        move |asked| {
            let number = number(asked);
            *tries.lock().expect("no panic").entry(number).or_default() += 1;
            // Not 5xx: the circuit is not what is looked at here.
            Reply::status(if number % 10 == 3 { 429 } else { 204 })
        }
    });
    let retry = json!({ "retry": { "attempts": 3, "delay": 10, "maxDelay": 40 } });
    let windlass = Windlass::start(&posting(&broker, &server, retry));
    wait_ready(&windlass, &["plant"], &["all"]);
    // The server is not there: whatever is tried in vain meanwhile is no try.
    send(&broker, 100);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(
        letters(&windlass).len(),
        0,
        "an outage makes no dead letter"
    );
    server.up();
    wait_until(SOON, "all are delivered or dead letters", || {
        let tries = tries.lock().expect("no panic");
        tries.len() == 100 && letters(&windlass).len() == 10
    });
    std::thread::sleep(Duration::from_millis(500));
    for (number, tries) in tries.lock().expect("no panic").iter() {
        let expected = if number % 10 == 3 { 3 } else { 1 };
        assert_eq!(*tries, expected, "message {number}");
    }
    for letter in letters(&windlass) {
        assert_eq!(letter["kind"], "transient", "{letter}");
        assert_eq!(letter["code"], "http:429", "{letter}");
        assert_eq!(letter["attempts"], 3, "{letter}");
        let reason = letter["reason"].as_str().unwrap_or_default();
        assert!(reason.starts_with("given up after 3 tries: "), "{letter}");
    }
}

#[test]
fn the_age_of_a_message_counts_over_a_kill_and_its_deadline_makes_it_a_dead_letter() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let server = Httpd::start(|_| Reply::status(429));
    let retry = json!({ "retry": { "deadline": "6s", "delay": 100, "maxDelay": 200 } });
    let mut windlass = Windlass::start(&posting(&broker, &server, retry));
    wait_ready(&windlass, &["plant", "api"], &["all"]);
    send(&broker, 20);
    wait_until(SOON, "all are on disk", || {
        windlass.counter("all", "diskMessages") == Some(20)
    });
    assert_eq!(letters(&windlass).len(), 0);
    windlass.kill();
    std::thread::sleep(Duration::from_secs(6));
    windlass.up();
    wait_ready(&windlass, &["plant", "api"], &["all"]);
    // Each is tried once more, and all of them are older than that by now.
    wait_until(SOON, "all are dead letters", || {
        letters(&windlass).len() == 20
    });
    let letter = &letters(&windlass)[0];
    let reason = letter["reason"].as_str().unwrap_or_default();
    assert!(
        reason.starts_with("given up 6s after it was taken: "),
        "{letter}"
    );
    wait_until(SOON, "nothing waits", || {
        windlass.counter("all", "diskMessages") == Some(0)
    });
}

#[test]
fn dead_letters_stay_while_their_connection_is_down_and_go_there_when_it_is_up() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let mut ops = Mosquitto::start();
    let server = Httpd::start(|asked| {
        Reply::status(if number(asked).is_multiple_of(2) {
            204
        } else {
            422
        })
    });
    ops.stop();
    let rest =
        json!([{ "rest": { "url": server.url("/in"), "method": "post", "sendSingle": true } }]);
    let options = json!({ "deadLetters": { "connectionSelector": "ops", "topic": "dead" } });
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .mqtt("ops", &ops.url())
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule_with("all", "SELECT * FROM demo", rest, options);
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["all"]);
    send(&broker, 300);
    wait_until(SOON, "they are in the store", || {
        letters(&windlass).len() == 150
    });
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(letters(&windlass).len(), 150, "they stay while it is down");
    ops.restart();
    let far = Subscriber::start(Subscribe::new(ops.port(), "far", "dead", 1));
    let seen = |far: &Subscriber| {
        let payloads = far.payloads();
        let each = payloads.iter().map(|(_, payload)| {
            let letter: Value = serde_json::from_slice(payload).expect("JSON");
            assert_eq!(letter["rule"], "all", "{letter}");
            assert_eq!(letter["code"], "http:422", "{letter}");
            assert!(
                letter["host"].as_str().is_some_and(|host| host.len() == 32),
                "{letter}"
            );
            let source = letter["payload"].as_str().expect("the payload as text");
            read_payload(source.as_bytes()).expect("as it was sent").0
        });
        each.collect::<BTreeSet<u64>>()
    };
    // What was published before this subscriber was there went to nobody: at least the last comes.
    wait_until(SOON, "the store is empty", || letters(&windlass).is_empty());
    send_odd(&broker, 1001);
    wait_until(SOON, "the new one arrives", || seen(&far).contains(&1001));
    wait_until(SOON, "and is gone from the store", || {
        letters(&windlass).is_empty()
    });
}

/// One message with this number, which the server of the test refuses.
fn send_odd(broker: &Mosquitto, number: u64) {
    let sent = Publish {
        first: number,
        ..Publish::new(broker.port(), "in/1", 1).count(1)
    };
    assert_eq!(sent.start().join().acknowledged, [number]);
}

#[test]
fn a_messages_id_is_the_same_over_retries_and_a_kill() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let server = Httpd::start({
        let well = Arc::clone(&well);
        move |_| {
            let well = well.load(std::sync::atomic::Ordering::SeqCst);
            Reply::status(if well { 204 } else { 429 })
        }
    });
    let more = json!({ "messageId": true, "retry": { "delay": 50, "maxDelay": 100 } });
    let mut windlass = Windlass::start(&posting(&broker, &server, more));
    wait_ready(&windlass, &["plant", "api"], &["all"]);
    send(&broker, 50);
    // Only the first batch is tried; the others wait behind it.
    wait_until(SOON, "all are on disk, and some were tried twice", || {
        let tried: BTreeSet<u64> = server.asked().iter().map(number).collect();
        let on_disk = windlass.counter("all", "diskMessages") == Some(50);
        on_disk && !tried.is_empty() && server.count() >= 2 * tried.len()
    });
    windlass.kill();
    well.store(true, std::sync::atomic::Ordering::SeqCst);
    let before = server.count();
    windlass.up();
    wait_until(SOON, "all are delivered", || {
        let asked = server.asked();
        let numbers: BTreeSet<u64> = asked.iter().skip(before).map(number).collect();
        numbers.len() == 50
    });
    let mut ids: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for asked in server.asked() {
        let id = asked.header("idempotency-key").expect("each has an id");
        ids.entry(number(&asked)).or_default().insert(id.to_owned());
    }
    assert!(
        ids.values().all(|ids| ids.len() == 1),
        "one id for each: {ids:?}"
    );
    let all: BTreeSet<&String> = ids.values().flatten().collect();
    assert_eq!(all.len(), 50, "and no two share one");
}

#[test]
fn of_messages_with_the_same_key_one_arrives_and_all_are_acknowledged() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let mut action = publish_to("plant", "out", 1);
    action[0]["mqtt"]["deduplicate"] = json!({ "key": "seq", "window": "5m" });
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule("all", "SELECT * FROM demo", action);
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["all"]);
    for _ in 0..3 {
        send(&broker, 500);
    }
    far.wait_for(500, SOON);
    wait_until(SOON, "all are settled", || {
        windlass.counter("all", "recordsIn") == Some(1500)
            && windlass.counter("all", "queued") == Some(0)
    });
    far.settle(Duration::from_secs(1), SOON);
    let ledger = far.ledger();
    assert_eq!(
        (ledger.arrived(), ledger.duplicates()),
        (500, 0),
        "{}",
        ledger.summary()
    );
}

#[test]
fn what_is_left_of_the_disk_is_kept_for_the_store_and_the_status_says_so() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let server = Httpd::prepare(|_| Reply::status(204));
    let refusing = Httpd::start(|_| Reply::status(422));
    let refused = json!([{ "rest": { "url": refusing.url("/in"), "method": "post" } }]);
    // More than any disk has free.
    let manifest = posting(&broker, &server, json!({}))
        .limits(json!({ "diskReserveBytes": "1000000GiB" }))
        .rule("refused", "SELECT * FROM demo", refused);
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["all", "refused"]);
    let publisher = Publish::new(broker.port(), "in/1", 1).count(50).start();
    wait_until(SOON, "the status names the reason", || {
        let metrics = windlass.fresh_metrics();
        let shown = metrics["rules"]["all"]["warnings"].to_string();
        shown.contains("kept for the store") && shown.contains("diskReserveBytes")
    });
    assert_eq!(windlass.counter("all", "diskMessages"), Some(0));
    // The store still writes.
    wait_until(SOON, "dead letters are kept", || {
        !letters(&windlass).is_empty()
    });
    drop(publisher.stop());
}
