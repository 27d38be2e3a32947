//! A guest that loops without end is stopped within its limits, and its neighbour does not notice. Those
//! that trap or allocate: R9 and R11 of `tests/chaos`.

use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{alone, shared, short_or_long, wait_until};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::Judge;
use windlass_tests::windlass::Windlass;

use crate::settings::{START, expect_all, expect_unhurried, wait_ready};

pub(crate) use windlass_tests::toolchain::{built, misbehaving};

fn misbehave(place: &str, deed: &str) -> Value {
    json!([{ "misbehaving": { "in": place, "do": deed, "sendSingle": true } }])
}

/// A good rule at 1000/s beside one whose sink does this with each message.
fn beside(deed: &str) {
    let _machine = alone();
    let (rounds, seconds) = short_or_long((3, 4), (5, 10));
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let manifest = Manifest::new()
        .connector("misbehaving", misbehaving())
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .mqtt_stream("bad", "plant", "bad/#", 1, false)
        .rule("good", "SELECT * FROM demo", publish_to("plant", "out", 1))
        .rule("bad", "SELECT * FROM bad", misbehave("write", deed));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["good"]);
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(1000).start();
    std::thread::sleep(Duration::from_secs(1));
    let watch = || {
        let mark = far.ledger().mark();
        std::thread::sleep(Duration::from_secs(seconds));
        far.ledger().since(mark)
    };
    let resident = windlass.usage().resident;
    let (mut before, mut beside) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let own = watch();
        let offender = Publish {
            first: round * 1000,
            ..Publish::new(broker.port(), "bad/1", 1)
        }
        .rate(2)
        .start();
        let together = watch();
        let offences = offender.stop().sent;
        println!("{deed}, round {round}: {own}; beside {offences} offences {together}");
        before.push(own);
        beside.push(together);
    }
    let sent = publisher.stop();
    let all: Vec<u64> = (0..sent.sent).collect();
    expect_all(&far, &all, Duration::from_secs(30));
    let grown = windlass.usage().resident.saturating_sub(resident);
    assert!(
        grown < 96 << 20,
        "resident memory grew by {} MiB",
        grown >> 20
    );
    windlass.fresh_metrics();
    // Ended by a trap, or because its time was over.
    let stopped: u64 = ["traps_total", "overtime_total"]
        .iter()
        .filter_map(|name| windlass.counter("bad", &format!("sink_misbehaving_0_0_{name}")))
        .sum();
    assert!(
        stopped > 0,
        "the offender was never stopped: {}",
        windlass.log()
    );
    expect_unhurried(&before, &beside, None);
}

#[test]
fn a_guest_that_loops_does_not_slow_its_neighbour() {
    beside("spin");
}

#[test]
fn the_third_trap_on_a_message_makes_it_a_dead_letter_and_others_go_on() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let manifest = Manifest::new()
        .connector("misbehaving", misbehaving())
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 1, true)
        .rule("good", "SELECT * FROM demo", publish_to("plant", "out", 1))
        .rule("bad", "SELECT * FROM demo", misbehave("write", "panic"));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["good", "bad"]);
    let sent = Publish::new(broker.port(), "in/1", 1)
        .count(1)
        .start()
        .join();
    assert_eq!(sent.acknowledged, [0]);
    far.wait_for(1, Duration::from_secs(5));
    wait_until(
        Duration::from_secs(30),
        "the message is a dead letter",
        || windlass.counter("bad", "deadLetters") == Some(1),
    );
    let log = windlass.log();
    assert!(
        log.contains("on purpose, with words"),
        "the guest's own words are in the log:\n{log}"
    );
}

#[test]
fn a_guest_whose_open_never_returns_holds_nobody_else_up() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe {
        judge: Judge::Exact,
        ..Subscribe::new(broker.port(), "far", "out", 1)
    });
    let manifest = Manifest::new()
        .connector("misbehaving", misbehaving())
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule("good", "SELECT * FROM demo", publish_to("plant", "out", 1))
        .rule("bad", "SELECT * FROM demo", misbehave("open", "spin"));
    let windlass = Windlass::start(&manifest);
    windlass.wait_rule("good", "running", START);
    windlass.wait_connection("plant", "connected", START);
    let sent = Publish::new(broker.port(), "in/1", 1)
        .count(10)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 10);
    far.wait_for(10, Duration::from_secs(10));
}

#[test]
fn a_rule_is_starting_until_its_source_has_opened() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let stream = |name: &str, key: &str| {
        format!(
            "CREATE STREAM {name} () WITH (TYPE=\"misbehaving\", CONF_KEY=\"{key}\", DATASOURCE=\"topic\", FORMAT=\"json\")"
        )
    };
    let manifest = Manifest::new()
        .connector("misbehaving", misbehaving())
        .mqtt("plant", &broker.url())
        .conf_key(
            "misbehaving",
            "never",
            json!({ "connectionSelector": "plant", "in": "open", "do": "error" }),
        )
        .conf_key(
            "misbehaving",
            "well",
            json!({ "connectionSelector": "plant" }),
        )
        .stream(&stream("never", "never"))
        .stream(&stream("well", "well"))
        .rule("waiting", "SELECT * FROM never", json!([{ "nop": {} }]))
        .rule("working", "SELECT * FROM well", json!([{ "nop": {} }]));
    let windlass = Windlass::start(&manifest);
    windlass.wait_rule("working", "running", START);
    for _ in 0..40 {
        let waiting = windlass.rule("waiting").map(|(status, _)| status);
        assert_eq!(waiting.as_deref(), Some("starting"), "{}", windlass.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}
