//! `kill -9` of Windlass under load loses nothing: the broker's session keeps what was not
//! acknowledged, the disk queue what was. With a sink that answers: R18 of `tests/chaos`.

use std::time::Duration;

use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{alone, short_or_long, wait_until};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::proxy::Proxy;
use windlass_tests::windlass::Windlass;

use crate::settings::{expect_alive, expect_all, wait_ready, warm, warm_ones};

/// What the sink has written is lost with it: only what the far broker acknowledged, and what is on
/// disk, may have been acknowledged to the source.
#[test]
fn kills_while_the_sinks_link_swallows_everything_lose_nothing() {
    let _machine = alone();
    let kills = short_or_long(6, 50);
    let near = Mosquitto::start();
    let remote = Mosquitto::start();
    let proxy = Proxy::start(remote.port());
    let far = Subscriber::start(Subscribe::new(remote.port(), "far", "out", 1));
    let mut windlass = Windlass::start(&warm(&near.url(), &proxy.url(), 1));
    wait_ready(&windlass, &["plant", "cloud"], &["warm"]);
    let publisher = Publish::new(near.port(), "in/1", 1).rate(5000).start();
    for kill in 0..kills {
        std::thread::sleep(Duration::from_millis(400));
        proxy.black_hole(true);
        // Shorter and longer than a message waits before it goes to the disk queue.
        std::thread::sleep(Duration::from_millis(40 + kill % 3 * 100));
        windlass.kill();
        proxy.cut();
        wait_until(Duration::from_secs(2), "the links are cut", || {
            proxy.open() == 0
        });
        proxy.black_hole(false);
        windlass.up();
        wait_ready(&windlass, &["plant", "cloud"], &["warm"]);
    }
    let sent = publisher.stop();
    expect_all(
        &far,
        &warm_ones(sent.acknowledged.iter().copied()),
        Duration::from_secs(60),
    );
    println!(
        "{kills} kills in {} messages: {}",
        sent.sent,
        far.ledger().summary()
    );
    expect_alive(near.port(), "in/1", &far, sent.sent);
}
