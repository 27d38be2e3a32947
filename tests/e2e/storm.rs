//! Two hundred connections that lose their broker at once do not storm it.

use std::collections::BTreeMap;
use std::time::Duration;

use windlass_tests::machine::{alone, short_or_long, wait_until};
use windlass_tests::manifest::Manifest;
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::proxy::Proxy;
use windlass_tests::windlass::Windlass;

use crate::settings::START;

const CONNECTIONS: u64 = 200;

#[test]
fn two_hundred_connections_come_back_spread_out_and_soon() {
    let _machine = alone();
    let outage = Duration::from_secs(short_or_long(30, 60));
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port());
    let manifest = (0..CONNECTIONS).fold(Manifest::new(), |manifest, n| {
        manifest.mqtt(&format!("c{n}"), &proxy.url())
    });
    let windlass = Windlass::start(&manifest);
    wait_until(START, "all are connected", || proxy.open() == CONNECTIONS);
    let all_say = |status: &str| {
        (0..CONNECTIONS).all(|n| {
            windlass
                .connection(&format!("c{n}"))
                .is_some_and(|(now, _)| now == status)
        })
    };
    wait_until(Duration::from_secs(10), "all say so", || {
        all_say("connected")
    });

    let dialled = proxy.attempts().len();
    proxy.refuse(true);
    proxy.cut();
    let before = windlass.usage();
    std::thread::sleep(outage);
    let after = windlass.usage();
    proxy.refuse(false);
    let attempts = proxy.attempts().split_off(dialled);
    wait_until(Duration::from_secs(15), "all are back", || {
        proxy.open() == CONNECTIONS && all_say("connected")
    });

    let cpu = (after.cpu - before.cpu).as_secs_f64() / outage.as_secs_f64();
    let mut bins: BTreeMap<u128, usize> = BTreeMap::new();
    for attempt in &attempts {
        *bins
            .entry(attempt.duration_since(attempts[0]).as_millis() / 100)
            .or_default() += 1;
    }
    let fullest = bins.values().copied().max().unwrap_or(0) as f64 / attempts.len() as f64;
    println!(
        "{} attempts in {outage:?}, fullest 100 ms: {:.1} %, CPU {:.1} % of a core",
        attempts.len(),
        fullest * 100.0,
        cpu * 100.0
    );
    assert!(attempts.len() as u64 >= CONNECTIONS, "nobody tried");
    assert!(
        fullest <= 0.05,
        "{:.1} % of the attempts came in the same 100 ms",
        fullest * 100.0
    );
    assert!(
        cpu < short_or_long(0.25, 0.10),
        "{:.1} % of a core while the broker is away",
        cpu * 100.0
    );
    assert!(
        after.threads <= before.threads + 2,
        "{} threads, then {}",
        before.threads,
        after.threads
    );
}
