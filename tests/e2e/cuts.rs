//! Cut links lose nothing: resets in the middle of QoS 1 traffic, persistent session.

use std::time::Duration;

use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{alone, holds_within, short_or_long};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::proxy::Proxy;
use windlass_tests::windlass::Windlass;

use crate::settings::{expect_alive, expect_all, wait_ready, warm, warm_ones};

/// Unacknowledged messages, both ways together, that one cut may double.
const WINDOWS: u64 = 200;

fn cut(
    source: impl Fn(&Mosquitto, &Proxy) -> String,
    sink: impl Fn(&Mosquitto, &Proxy) -> String,
    connections: &[&str],
) {
    let _machine = alone();
    let (cuts, messages) = short_or_long((20, 10_000), (100, 100_000));
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port());
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let windlass = Windlass::start(&warm(&source(&broker, &proxy), &sink(&broker, &proxy), 1));
    wait_ready(&windlass, connections, &["warm"]);
    let before = windlass.usage();

    let rate = 1000;
    let publisher = Publish::new(broker.port(), "in/1", 1)
        .rate(rate)
        .count(messages)
        .start();
    let pause = Duration::from_secs_f64(messages as f64 / f64::from(rate) / f64::from(cuts + 1));
    for cut in 0..cuts {
        std::thread::sleep(pause);
        if cut % 2 == 0 {
            proxy.cut();
        } else {
            // With a window's worth under way, both ways.
            proxy.swallow_and_cut(Duration::from_millis(30));
        }
    }
    let sent = publisher.join();
    assert_eq!(sent.acknowledged.len() as u64, messages);
    expect_all(&far, &warm_ones(0..messages), Duration::from_secs(60));
    far.settle(Duration::from_millis(500), Duration::from_secs(5));
    {
        let ledger = far.ledger();
        println!("{cuts} cuts in {messages} messages: {}", ledger.summary());
        assert!(
            ledger.duplicates() <= cuts as u64 * WINDOWS,
            "{}",
            ledger.summary()
        );
        assert_eq!(ledger.out_of_order(), 0, "{}", ledger.summary());
    }
    expect_alive(broker.port(), "in/1", &far, messages);
    // Threads that look names up or write to disk stay for 10 s after their work.
    let back = holds_within(Duration::from_secs(20), || {
        let after = windlass.usage();
        after.files <= before.files + 2 && after.threads <= before.threads + 2
    });
    let after = windlass.usage();
    assert!(
        back,
        "{} files and {} threads before, {} and {} after",
        before.files, before.threads, after.files, after.threads
    );
    let reconnected = windlass
        .changes()
        .iter()
        .filter(|(_, _, status, _)| status == "connecting")
        .count();
    assert!(reconnected > 0, "no cut was noticed");
}

#[test]
fn cuts_of_one_shared_connection_lose_nothing() {
    cut(|_, proxy| proxy.url(), |_, proxy| proxy.url(), &["plant"]);
}

#[test]
fn cuts_of_source_and_sink_on_two_connections_lose_nothing() {
    // Two names of one address, so that they are two connections.
    cut(
        |_, proxy| proxy.url(),
        |_, proxy| proxy.url().replace("127.0.0.1", "localhost"),
        &["plant", "cloud"],
    );
}
