//! Sinks that are slow: R14.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use windlass_tests::load::Publish;
use windlass_tests::machine::holds_within;
use windlass_tests::manifest::Manifest;
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::settings::wait_ready;
use windlass_tests::windlass::Windlass;

use crate::ledger::ledger_server;
use crate::trial::{Counted, Trial};

/// R14: an HTTP sink that takes a second for each request.
pub(crate) fn slow(trial: &mut Trial) {
    let (seconds, rate) = trial.pick((15_u64, 2000_u32), (120, 5000));
    trial.did(format!(
        "an HTTP sink with a latency of 1 s and 16 requests at once, {rate} messages/s for {seconds} s; then it \
         answers at once"
    ));
    let broker = Mosquitto::start();
    let (server, ledger, delay) = ledger_server(1000);
    let rest =
        json!([{ "rest": { "connectionSelector": "api", "method": "post", "sendSingle": true } }]);
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .connection(
            "api",
            "http",
            json!({ "url": server.url("/in"), "maxInFlight": 16 }),
        )
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule("all", "SELECT * FROM demo", rest);
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant", "api"], &["all"]);
    let mut before = windlass.usage();
    // The pool keeps as many links to the server as were needed at once.
    before.files += 16;
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(rate).start();
    let mut most = 0;
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        most = most.max(windlass.usage().resident);
    }
    windlass.fresh_metrics();
    let on_disk = windlass.counter("all", "diskMessages").unwrap_or(0);
    let through = ledger
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .arrived();
    let mib = |bytes: u64| bytes >> 20;
    let grown = mib(most.saturating_sub(before.resident));
    trial.check(
        "memory at most",
        format!("{grown} MiB more than before"),
        "64 MiB more",
        grown <= 64,
    );
    let sent = publisher.stop();
    let total = sent.acknowledged.len() as u64;
    trial.check(
        "on disk, so that the source is not held up",
        format!(
            "{on_disk} on disk, {through} through, of {} sent",
            sent.sent
        ),
        "all but a memory queue and what is under way",
        on_disk + through + 4096 >= sent.sent,
    );
    delay.store(0, Ordering::Relaxed);
    let mark = ledger.lock().unwrap_or_else(PoisonError::into_inner).mark();
    std::thread::sleep(Duration::from_secs(5));
    let flow = ledger
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .since(mark);
    trial.check(
        "rate in the 5 s after the sink is well again",
        format!("{:.0}/s", flow.rate()),
        "1000/s at least",
        flow.rate() >= 1000.0,
    );
    holds_within(Duration::from_secs(trial.pick(90, 600)), || {
        std::thread::sleep(Duration::from_millis(50));
        ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .arrived()
            >= total
    });
    let expected: Vec<u64> = (0..total).collect();
    let count = Counted::new("to the slow sink", sent.sent, &expected)
        .acknowledged(total)
        .bound(32)
        .any_order();
    trial.enter(
        &ledger.lock().unwrap_or_else(PoisonError::into_inner),
        count,
    );
    let begin = Instant::now();
    let fresh = Publish {
        first: total + 10,
        ..Publish::new(broker.port(), "in/1", 1)
    }
    .count(1)
    .start();
    let passed = holds_within(Duration::from_secs(5), || {
        ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .has(total + 10)
    });
    drop(fresh);
    trial.check(
        "a fresh message afterwards",
        format!("{:.2} s", begin.elapsed().as_secs_f64()),
        "5 s at most",
        passed,
    );
    trial.grown(&windlass, before, 24);
}
