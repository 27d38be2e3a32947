//! One dead sink holds nobody up: a second rule on the same connection keeps its rate and its time
//! on the way, and the dead one's messages arrive later, all of them, in order.

use std::time::Duration;

use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{alone, short_or_long};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::oracle::Flow;
use windlass_tests::proxy::Proxy;
use windlass_tests::windlass::Windlass;

use crate::settings::{expect_all, expect_unhurried, wait_ready};

/// What arrives during so many seconds.
fn watch(far: &Subscriber, seconds: u64) -> Flow {
    let mark = far.ledger().mark();
    std::thread::sleep(Duration::from_secs(seconds));
    far.ledger().since(mark)
}

#[test]
fn a_dead_sink_does_not_slow_its_neighbour_and_all_its_messages_arrive_in_order_afterwards() {
    let _machine = alone();
    let (rounds, healthy, dead) = short_or_long((3, 4, 5), (5, 20, 60));
    let near = Mosquitto::start();
    // It keeps the far end's session over its own absence.
    let mut remote = Mosquitto::with(Broker {
        persistence: true,
        ..Broker::default()
    });
    let live = Subscriber::start(Subscribe::new(near.port(), "live", "out", 1));
    let late = Subscriber::start(Subscribe {
        clean: false,
        ..Subscribe::new(remote.port(), "late", "out", 1)
    });
    let manifest = Manifest::new()
        .mqtt("plant", &near.url())
        .mqtt("cloud", &remote.url())
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .mqtt_stream("other", "plant", "in/+", 1, false)
        .rule("local", "SELECT * FROM demo", publish_to("plant", "out", 1))
        .rule(
            "remote",
            "SELECT * FROM other",
            publish_to("cloud", "out", 1),
        );
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant", "cloud"], &["local", "remote"]);
    let publisher = Publish::new(near.port(), "in/1", 1).rate(1000).start();
    std::thread::sleep(Duration::from_secs(1));

    let (mut before, mut beside) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let own = watch(&live, healthy);
        remote.stop();
        let neighbour = watch(&live, dead);
        remote.restart();
        windlass.wait_connection("cloud", "connected", Duration::from_secs(30));
        println!("round {round}: {own}; with the other sink dead {neighbour}");
        before.push(own);
        beside.push(neighbour);
        // What has waited is sent now; the next round begins when it is through.
        windlass_tests::machine::wait_until(
            Duration::from_secs(60),
            "what has waited has arrived",
            || late.arrived() + 200 >= live.arrived(),
        );
    }
    let sent = publisher.stop();
    let all: Vec<u64> = (0..sent.sent).collect();
    expect_all(&live, &all, Duration::from_secs(30));
    expect_all(&late, &all, Duration::from_secs(60));
    println!(
        "live: {}; late: {}",
        live.ledger().summary(),
        late.ledger().summary()
    );
    assert_eq!(
        late.ledger().out_of_order(),
        0,
        "{}",
        late.ledger().summary()
    );
    expect_unhurried(&before, &beside, Some(2.0));
}

/// The sink's broker is there and answers nothing: no error tells anybody.
#[test]
fn a_sink_whose_broker_falls_silent_does_not_slow_its_neighbour() {
    let _machine = alone();
    let near = Mosquitto::start();
    let remote = Mosquitto::start();
    let proxy = Proxy::start(remote.port());
    let live = Subscriber::start(Subscribe::new(near.port(), "live", "out", 1));
    let late = Subscriber::start(Subscribe::new(remote.port(), "late", "out", 1));
    let manifest = Manifest::new()
        .mqtt("plant", &near.url())
        .mqtt("cloud", &proxy.url())
        .mqtt_stream("demo", "plant", "in/#", 1, true)
        .rule("local", "SELECT * FROM demo", publish_to("plant", "out", 1))
        .rule(
            "remote",
            "SELECT * FROM demo",
            publish_to("cloud", "out", 1),
        );
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant", "cloud"], &["local", "remote"]);
    let publisher = Publish::new(near.port(), "in/1", 1).rate(1000).start();
    std::thread::sleep(Duration::from_secs(1));
    let own = watch(&live, 3);
    proxy.black_hole(true);
    let beside = watch(&live, short_or_long(8, 60));
    proxy.black_hole(false);
    let sent = publisher.stop();
    let all: Vec<u64> = (0..sent.sent).collect();
    expect_all(&live, &all, Duration::from_secs(30));
    expect_all(&late, &all, Duration::from_secs(60));
    println!("{own}; with the other sink's broker silent {beside}");
    expect_unhurried(&[own], &[beside], None);
    assert_eq!(
        late.ledger().out_of_order(),
        0,
        "{}",
        late.ledger().summary()
    );
}

/// Telemetry that nobody waits for goes to a sink that is away, alarms that are acknowledged come behind
/// it: neither a rule beside it, nor another stream on the connection, waits for that sink.
#[test]
fn an_alarm_does_not_wait_behind_what_nobody_waits_for() {
    let _machine = alone();
    let near = Mosquitto::start();
    let mut remote = Mosquitto::start();
    let telemetry = r#"meta(topic) LIKE "%telemetry""#;
    let alarms = Subscriber::start(Subscribe::new(near.port(), "alarms", "alarms", 1));
    let others = Subscriber::start(Subscribe::new(near.port(), "others", "others", 1));
    let manifest = Manifest::new()
        .mqtt("plant", &near.url())
        .mqtt("cloud", &remote.url())
        .mqtt_stream("mixed", "plant", "mixed/+", 1, true)
        .mqtt_stream("single", "plant", "single/+", 1, false)
        .mqtt_stream("other", "plant", "other/+", 1, false)
        .rule(
            "remote",
            &format!("SELECT * FROM mixed WHERE {telemetry}"),
            publish_to("cloud", "out", 1),
        )
        .rule(
            "local",
            &format!("SELECT * FROM mixed WHERE NOT ({telemetry})"),
            publish_to("plant", "alarms", 1),
        )
        .rule("all", "SELECT * FROM single", publish_to("cloud", "out", 1))
        .rule(
            "beside",
            "SELECT * FROM other",
            publish_to("plant", "others", 1),
        );
    let windlass = Windlass::start(&manifest);
    wait_ready(
        &windlass,
        &["plant", "cloud"],
        &["remote", "local", "all", "beside"],
    );
    remote.stop();
    windlass.wait_connection("cloud", "connecting", Duration::from_secs(30));
    let send = |topic: &str, qos, count| {
        let publish = Publish::new(near.port(), topic, qos).rate(2000);
        let sent = publish.count(count).start().join();
        assert_eq!(sent.sent, count);
    };
    // More than any queue in memory holds, and then more than the broker lets be unacknowledged.
    for stream in ["mixed", "single"] {
        send(&format!("{stream}/telemetry"), 0, 3000);
        send(&format!("{stream}/alarm"), 1, 300);
    }
    send("other/1", 1, 300);
    let all: Vec<u64> = (0..300).collect();
    expect_all(&alarms, &all, Duration::from_secs(20));
    expect_all(&others, &all, Duration::from_secs(20));
}
