//! What a connection says of itself is true at each step: down, up, cut, refused, gone; and it comes
//! back by itself.

use std::time::Duration;

use serde_json::json;
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{
    alone, free_port, holds_within, long, shared, short_or_long, wait_until,
};
use windlass_tests::manifest::Manifest;
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::oracle::now_ns;
use windlass_tests::proxy::Proxy;
use windlass_tests::windlass::Windlass;

use crate::settings::{START, wait_ready, warm};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn down_up_cut_and_gone_each_show_as_what_they_are() {
    let _machine = shared();
    let mut broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port());
    broker.kill();
    proxy.refuse(true);
    let manifest = Manifest::new().mqtt("plant", &proxy.url());
    let windlass = Windlass::start(&manifest);

    let why = windlass.wait_connection("plant", "disconnected", START);
    assert!(!why.is_empty(), "a connection that was never up says why");

    broker.restart();
    proxy.refuse(false);
    let why = windlass.wait_connection("plant", "connected", SOON);
    assert_eq!(why, "", "a connection that is up has no err");

    let before = windlass.changes().len();
    proxy.cut();
    wait_until(SOON, "the cut shows and is mended", || {
        let changes: Vec<String> = windlass
            .changes()
            .drain(before..)
            .map(|(_, _, status, _)| status)
            .collect();
        changes.first().is_some_and(|first| first == "connecting")
            && changes.last().is_some_and(|last| last == "connected")
    });

    broker.kill();
    let why = windlass.wait_connection("plant", "connecting", SOON);
    assert!(!why.is_empty(), "a connection that was lost says why");
    // It was up once: it stays `connecting`, however often an attempt fails.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(
        windlass.connection("plant").map(|(status, _)| status),
        Some("connecting".to_owned())
    );

    broker.restart();
    let why = windlass.wait_connection("plant", "connected", SOON);
    assert_eq!(why, "");
    assert_eq!(
        windlass.odd_lines(),
        [""; 0],
        "each line of --json is an object with an event"
    );
}

#[test]
fn a_broker_that_nobody_has_ever_heard_of_is_disconnected_with_the_reason() {
    let _machine = shared();
    let manifest = Manifest::new().mqtt("plant", &format!("tcp://127.0.0.1:{}", free_port()));
    let windlass = Windlass::start(&manifest);
    let why = windlass.wait_connection("plant", "disconnected", START);
    assert!(why.to_lowercase().contains("refused"), "{why}");
}

#[test]
fn refused_credentials_show_as_such_and_are_not_tried_in_a_hot_loop() {
    let _machine = shared();
    let users = vec![("ann".to_owned(), "right".to_owned())];
    let broker = Mosquitto::with(Broker {
        users,
        ..Broker::default()
    });
    let proxy = Proxy::start(broker.port());
    let login = |password: &str| json!({ "server": proxy.url(), "username": "ann", "password": password, "clientid": "c" });
    let secret = "wrong-hunter2";
    let windlass = Windlass::start(&Manifest::new().connection("plant", "mqtt", login(secret)));
    let why = windlass.wait_connection("plant", "disconnected", START);
    let words = ["credential", "password", "authori"];
    assert!(
        words.iter().any(|word| why.to_lowercase().contains(word)),
        "{why}"
    );
    std::thread::sleep(Duration::from_secs(8));
    assert!(
        proxy.attempts().len() <= 2,
        "{} attempts in 8 s",
        proxy.attempts().len()
    );
    assert!(
        !why.contains(secret) && !windlass.log().contains(secret),
        "the password shows"
    );
    drop(windlass);

    let windlass = Windlass::start(&Manifest::new().connection("plant", "mqtt", login("right")));
    windlass.wait_connection("plant", "connected", START);
}

#[test]
fn a_peer_that_accepts_and_says_nothing_is_not_taken_for_a_broker() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port());
    proxy.black_hole(true);
    let windlass = Windlass::start(&Manifest::new().mqtt("plant", &proxy.url()));
    let why = windlass.wait_connection("plant", "disconnected", START);
    assert!(!why.is_empty());
    proxy.black_hole(false);
    windlass.wait_connection("plant", "connected", Duration::from_secs(10));
}

#[test]
fn the_first_message_comes_within_two_seconds_of_the_brokers_return() {
    let _machine = alone();
    let mut broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let windlass = Windlass::start(&warm(&broker.url(), &broker.url(), 1));
    wait_ready(&windlass, &["plant"], &["warm"]);
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(200).start();
    let outages: &[u64] = if long() {
        &[1, 5, 30, 120, 300]
    } else {
        &[1, 4, 10]
    };
    let mut took = Vec::new();
    for &seconds in outages {
        std::thread::sleep(Duration::from_millis(500));
        broker.kill();
        std::thread::sleep(Duration::from_secs(seconds));
        broker.restart();
        let back = now_ns();
        let there = holds_within(Duration::from_secs(20), || {
            far.ledger().first_after(back).is_some()
        });
        assert!(there, "nothing within 20 s of the return after {seconds} s");
        took.push(
            far.ledger()
                .first_after(back)
                .map_or(f64::NAN, |at| (at - back) as f64 / 1e9),
        );
    }
    drop(publisher);
    println!("outages of {outages:?} s: first message after {took:.3?} s");
    let most = short_or_long(5.0, 2.0);
    assert!(took.iter().all(|&seconds| seconds < most), "{took:.3?}");
}

#[test]
fn a_broker_that_comes_up_last_needs_no_restart_of_anything() {
    let _machine = shared();
    let mut broker = Mosquitto::start();
    let (port, url) = (broker.port(), broker.url());
    broker.kill();
    let windlass = Windlass::start(&warm(&url, &url, 1));
    windlass.wait_connection("plant", "disconnected", START);
    broker.restart();
    wait_ready(&windlass, &["plant"], &["warm"]);
    let far = Subscriber::start(Subscribe::new(port, "far", "out", 1));
    let sent = Publish::new(port, "in/1", 1)
        .rate(100)
        .count(100)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 100);
    far.wait_for(1, Duration::from_secs(5));
}
