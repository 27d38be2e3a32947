//! The manifests that several tests use, and the checks that end them.

use std::time::Duration;

use crate::load::{Publish, Subscriber};
use crate::machine::{long, short_or_long, wait_until};
use crate::manifest::{Manifest, publish_to};
use crate::oracle::{Flow, median, passes, ranges};
use crate::windlass::{Windlass, command};
use serde_json::Value;

/// What half of all messages pass.
pub const WARM: &str = "SELECT * FROM demo WHERE temperature > 50";

/// Longest wait for a start: connectors may have to be compiled once.
pub const START: Duration = Duration::from_secs(60);

/// From `in/#` of one broker to `out` of another (or the same), through the query, at this QoS, with
/// source and sink on one connection where both servers are the same.
#[must_use]
pub fn warm(from: &str, to: &str, qos: u8) -> Manifest {
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

/// A 99th percentile (ms) that no busy machine explains, only somebody who waits for somebody else.
const STANDSTILL_MS: f64 = 500.0;

/// Waits until these connections are up and this rule runs.
///
/// # Panics
/// They do not within [`START`].
pub fn wait_ready(windlass: &Windlass, connections: &[&str], rules: &[&str]) {
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
#[must_use]
pub fn warm_ones(numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
    numbers.into_iter().filter(|&seq| passes(seq)).collect()
}

/// Waits for all of these at the far end; fails with what is missing.
///
/// # Panics
/// One is missing after `limit`, or one was changed on the way.
pub fn expect_all(far: &Subscriber, expected: &[u64], limit: Duration) {
    crate::machine::holds_within(limit, || far.arrived() >= expected.len() as u64);
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

/// What a neighbour in trouble may do to a rule: its rate stays within 10 %, in the middle of all
/// rounds. The longest time on the way is printed by the caller; here it must only not be one that
/// shows a standstill. The strict figure, `p99` times its own, is for the long form, which has the
/// machine for itself and enough rounds.
pub fn expect_unhurried(own: &[Flow], beside: &[Flow], p99: Option<f64>) {
    let ratio = |figure: &dyn Fn(&Flow) -> f64| {
        let pairs = own.iter().zip(beside);
        median(
            pairs
                .map(|(own, beside)| figure(beside) / figure(own))
                .collect(),
        )
    };
    let rate = ratio(&Flow::rate);
    let within = short_or_long(0.7..1.3, 0.9..1.1);
    assert!(
        within.contains(&rate),
        "the neighbour's rate is {rate:.2} of its own"
    );
    let tails = beside.iter().map(|flow| flow.percentile_ms(0.99));
    let tail = median(tails.collect());
    assert!(tail < STANDSTILL_MS, "the neighbour's p99 is {tail:.0} ms");
    if let Some(most) = p99.filter(|_| long()) {
        let tail = ratio(&|flow| flow.percentile_ms(0.99));
        assert!(
            tail < most,
            "the neighbour's p99 is {tail:.2} times its own"
        );
    }
}

/// A fresh message passes within 5 s: nothing is stuck.
///
/// # Panics
/// It does not.
pub fn expect_alive(port: u16, topic: &str, far: &Subscriber, fresh: u64) {
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
///
/// # Panics
/// The command fails.
#[must_use]
pub fn letters(windlass: &Windlass) -> Vec<Value> {
    let data = windlass.data().display().to_string();
    let said = command(&["deadletters", "ls", "--data", &data, "--json"]);
    if said.err.contains("there is no windlass data") {
        // It has only just started.
        return Vec::new();
    }
    assert_eq!(said.code, Some(0), "{said:?}");
    said.json()
}
