//! Everything at once, for long: R30.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::holds_within;
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::ranges;
use windlass_tests::proxy::Proxy;
use windlass_tests::settings::wait_ready;
use windlass_tests::toolchain::misbehaving;
use windlass_tests::windlass::Windlass;

use crate::guests::slope;
use crate::ledger::ledger_server;
use crate::trial::{Counted, Trial};

/// R30: cuts, traps and a slow sink, mixed, at a steady load.
pub(crate) fn soak(trial: &mut Trial) {
    let minutes = trial.pick(5, 30);
    let rate = 500;
    trial.did(format!(
        "{minutes} minutes at {rate} messages/s: a cut every 3 s, a trap every 10 s, an HTTP sink that takes 0.2 s \
         for every request in every second half minute"
    ));
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port());
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let (server, ledger, delay) = ledger_server(0);
    let rest =
        json!([{ "rest": { "connectionSelector": "api", "method": "post", "sendSingle": true } }]);
    let traps =
        json!([{ "misbehaving": { "in": "write", "do": "unreachable", "sendSingle": true } }]);
    let manifest = Manifest::new()
        .connector("misbehaving", misbehaving())
        .mqtt("plant", &proxy.url())
        .connection("api", "http", json!({ "url": server.url("/in") }))
        .mqtt_stream("demo", "plant", "in/#", 1, true)
        .mqtt_stream("bad", "plant", "bad/#", 1, false)
        .rule("all", "SELECT * FROM demo", publish_to("plant", "out", 1))
        .rule("posts", "SELECT * FROM demo", rest)
        .rule("bad", "SELECT * FROM bad", traps);
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant", "api"], &["all", "posts", "bad"]);
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(rate).start();
    let begin = Instant::now();
    let mut before = None;
    let (mut samples, mut files, mut cuts, mut trapped) = (Vec::new(), Vec::new(), 0_u64, 0_u64);
    const STEP: f64 = 3.0;
    let mut bad = windlass_tests::toolchain::Plain::connect(broker.port(), "bad", None);
    while begin.elapsed() < Duration::from_secs(60 * minutes) {
        std::thread::sleep(Duration::from_secs_f64(STEP));
        let seconds = begin.elapsed().as_secs();
        delay.store(
            if seconds / 30 % 2 == 1 { 200 } else { 0 },
            Ordering::Relaxed,
        );
        if cuts % 2 == 0 {
            proxy.cut();
        } else {
            proxy.swallow_and_cut(Duration::from_millis(30));
        }
        cuts += 1;
        if seconds / 10 > trapped {
            trapped += 1;
            bad.publish("bad/1", br#"{"seq":1}"#);
        }
        if seconds > 60 {
            let usage = windlass.usage();
            before.get_or_insert(usage);
            samples.push(usage.resident as f64);
            files.push(usage.files as u64);
        }
    }
    delay.store(0, Ordering::Relaxed);
    let per_hour = slope(&samples, STEP) * 3600.0 / f64::from(1 << 20);
    // The short form's line is drawn through a few minutes: its bar is the growth within them.
    let most = trial.pick(120.0, 10.0);
    trial.check(
        "slope of resident memory",
        format!("{per_hour:.2} MiB/h over {} samples", samples.len()),
        format!("{most} MiB/h (1 MiB/h for two hours alone on a machine)"),
        per_hour < most,
    );
    let (fewest, highest) = (
        files.iter().min().copied().unwrap_or(0),
        files.iter().max().copied().unwrap_or(0),
    );
    trial.note(format!(
        "files open: {fewest} to {highest}; {cuts} cuts, {trapped} messages that trap"
    ));
    let sent = publisher.stop();
    let total = sent.acknowledged.len() as u64;
    let expected: Vec<u64> = (0..sent.sent).collect();
    let count = Counted::new("MQTT to MQTT", sent.sent, &expected)
        .acknowledged(total)
        .bound(cuts * 200);
    trial.delivered(&far, count, Duration::from_secs(60));
    let arrived = || {
        ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .arrived()
    };
    holds_within(Duration::from_secs(180), || {
        std::thread::sleep(Duration::from_millis(50));
        arrived() >= total
    });
    let count = Counted::new("MQTT to HTTP", sent.sent, &expected)
        .acknowledged(total)
        .bound(cuts * 200)
        .any_order();
    let lost = ledger
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .lost(expected.iter().copied());
    if !lost.is_empty() {
        trial.note(format!("not posted: {}", ranges(&lost)));
    }
    trial.enter(
        &ledger.lock().unwrap_or_else(PoisonError::into_inner),
        count,
    );
    trial.alive(broker.port(), "in/1", &far, sent.sent + 10);
    trial.grown(&windlass, before.unwrap_or_default(), 8);
}
