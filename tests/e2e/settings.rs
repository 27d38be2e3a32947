//! The manifests that several tests use, and the checks that end them.

use std::time::Duration;

use serde_json::Value;
use windlass_tests::load::{Publish, Subscriber};
use windlass_tests::machine::wait_until;
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::oracle::{passes, ranges};
use windlass_tests::windlass::{Windlass, command};

/// What half of all messages pass.
pub(crate) const WARM: &str = "SELECT * FROM demo WHERE temperature > 50";

/// Longest wait for a start: connectors may have to be compiled once.
pub(crate) const START: Duration = Duration::from_secs(60);

/// From `in/#` of one broker to `out` of another (or the same), through the query, at this QoS, with
/// source and sink on one connection where both servers are the same.
pub(crate) fn warm(from: &str, to: &str, qos: u8) -> Manifest {
    let manifest = Manifest::new()
        .mqtt("plant", from)
        .mqtt_stream("demo", "plant", "in/#", qos, false);
    if from == to {
        manifest.rule("warm", WARM, publish_to("plant", "out", qos))
    } else {
        manifest
            .mqtt("cloud", to)
            .rule("warm", WARM, publish_to("cloud", "out", qos))
    }
}

/// Waits until these connections are up and this rule runs.
pub(crate) fn wait_ready(windlass: &Windlass, connections: &[&str], rules: &[&str]) {
    for id in connections {
        windlass.wait_connection(id, "connected", START);
    }
    for id in rules {
        windlass.wait_rule(id, "running", START);
    }
    // Its source has subscribed; the broker answers a moment later, and what it gets before that is
    // not for a clean session.
    std::thread::sleep(Duration::from_millis(100));
}

/// Those of these messages that the query lets pass.
pub(crate) fn warm_ones(numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
    numbers.into_iter().filter(|&seq| passes(seq)).collect()
}

/// Waits for all of these at the far end; fails with what is missing.
pub(crate) fn expect_all(far: &Subscriber, expected: &[u64], limit: Duration) {
    windlass_tests::machine::holds_within(limit, || far.arrived() >= expected.len() as u64);
    // Fewer than expected, or others: the list says which.
    let ledger = far.ledger();
    let lost = ledger.lost(expected.iter().copied());
    assert!(
        lost.is_empty(),
        "{} of {} lost: {}; {}",
        lost.len(),
        expected.len(),
        ranges(&lost),
        ledger.summary()
    );
    assert_eq!(
        ledger.corrupt(),
        0,
        "changed on the way: {}",
        ledger.summary()
    );
}

/// A fresh message passes within 5 s: nothing is stuck.
pub(crate) fn expect_alive(port: u16, topic: &str, far: &Subscriber, fresh: u64) {
    let sent = Publish {
        first: fresh,
        ..Publish::new(port, topic, 1)
    }
    .count(2)
    .start()
    .join();
    assert_eq!(sent.acknowledged.len(), 2);
    let number = if passes(fresh) { fresh } else { fresh + 1 };
    wait_until(Duration::from_secs(5), "a fresh message passes", || {
        far.ledger().has(number)
    });
}

/// The dead letters, as JSON, one after the other.
pub(crate) fn letters(windlass: &Windlass) -> Vec<Value> {
    let data = windlass.data().display().to_string();
    let said = command(&["deadletters", "ls", "--data", &data, "--json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    said.json()
}
