//! A broker that is killed and comes back, with its sessions or without: Windlass subscribes again
//! by itself, and whatever crossed to it arrives.

use std::time::Duration;

use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{alone, short_or_long};
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::oracle::now_ns;
use windlass_tests::proxy::Proxy;
use windlass_tests::sniffer::Sniffer;
use windlass_tests::windlass::Windlass;

use crate::settings::{expect_all, wait_ready, warm, warm_ones};

#[test]
fn what_crossed_arrives_though_the_sources_broker_is_killed_half_the_time_without_its_persistence()
{
    let _machine = alone();
    let kills = short_or_long(10, 50);
    let mut near = Mosquitto::with(Broker {
        persistence: true,
        ..Broker::default()
    });
    let remote = Mosquitto::start();
    // The broker itself loses what it had not saved, so what counts is what crossed to Windlass.
    let sniffer = Sniffer::default();
    let proxy = Proxy::with_tap(near.port(), Some(sniffer.tap()));
    let far = Subscriber::start(Subscribe::new(remote.port(), "far", "out", 1));
    let windlass = Windlass::start(&warm(&proxy.url(), &remote.url(), 1));
    wait_ready(&windlass, &["plant", "cloud"], &["warm"]);

    let publisher = Publish::new(near.port(), "in/1", 1).rate(1000).start();
    let mut returns = Vec::new();
    for kill in 0..kills {
        std::thread::sleep(Duration::from_millis(600));
        if kill % 2 == 0 {
            near.save();
            near.kill();
            std::thread::sleep(Duration::from_millis(300));
            near.restart();
        } else {
            near.kill();
            std::thread::sleep(Duration::from_millis(300));
            near.restart_empty();
        }
        let back = now_ns();
        // What is under way from before the kill is no sign of life: it has 100 ms.
        let first = windlass_tests::machine::holds_within(Duration::from_secs(10), || {
            far.ledger().first_after(back + 100_000_000).is_some()
        });
        assert!(
            first,
            "nothing arrived within 10 s of return {kill}; {}",
            windlass.log()
        );
        let at = far
            .ledger()
            .first_after(back + 100_000_000)
            .unwrap_or(u64::MAX);
        returns.push((at - back) as f64 / 1e9);
    }
    let sent = publisher.stop();
    far.settle(Duration::from_secs(1), Duration::from_secs(20));
    let crossed = sniffer.crossed();
    println!(
        "{kills} kills: {} sent, {} crossed, {} acknowledged by Windlass; back after {returns:.2?} s; {}",
        sent.sent,
        crossed.len(),
        sniffer.acknowledged().len(),
        far.ledger().summary()
    );
    assert!(
        crossed.len() > 1000,
        "the test needs traffic: {} crossed",
        crossed.len()
    );
    expect_all(&far, &warm_ones(crossed), Duration::from_secs(10));
    let most = short_or_long(5.0, 2.0);
    assert!(
        returns.iter().all(|&seconds| seconds < most),
        "first message after {returns:.2?} s"
    );
}
