//! SIGTERM ends it in order: what is under way is delivered or kept, and the exit code is 0. Under load:
//! R34 of `tests/chaos`.

use std::time::Duration;

use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::shared;
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::windlass::Windlass;

use crate::settings::{START, expect_all, wait_ready, warm, warm_ones};

#[test]
fn a_stop_with_a_dead_sink_keeps_what_waits_and_the_next_start_delivers_it_in_order() {
    let _machine = shared();
    let near = Mosquitto::start();
    let mut remote = Mosquitto::with(Broker {
        persistence: true,
        ..Broker::default()
    });
    let late = Subscriber::start(Subscribe {
        clean: false,
        ..Subscribe::new(remote.port(), "late", "out", 1)
    });
    let mut windlass = Windlass::start(&warm(&near.url(), &remote.url(), 1));
    wait_ready(&windlass, &["plant", "cloud"], &["warm"]);
    remote.stop();
    windlass.wait_connection("cloud", "connecting", Duration::from_secs(5));
    let sent = Publish::new(near.port(), "in/1", 1)
        .count(500)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 500);
    // Settled by the disk queue: the source's broker has its acknowledgements.
    windlass_tests::machine::wait_until(Duration::from_secs(10), "all are on disk", || {
        windlass.counter("warm", "diskMessages") == Some(250)
    });
    assert_eq!(windlass.terminate(Duration::from_secs(12)), Some(0));
    remote.restart();
    windlass.up();
    windlass.wait_rule("warm", "running", START);
    expect_all(&late, &warm_ones(0..500), Duration::from_secs(15));
    assert_eq!(
        late.ledger().out_of_order(),
        0,
        "{}",
        late.ledger().summary()
    );
}

#[test]
fn a_second_host_on_the_same_data_is_refused_in_a_sentence() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let first = Windlass::start(&warm(&broker.url(), &broker.url(), 1));
    wait_ready(&first, &["plant"], &["warm"]);
    let (manifest, data) = (
        first.manifest().display().to_string(),
        first.data().display().to_string(),
    );
    let second = windlass_tests::windlass::command(&["run", &manifest, "--data", &data, "--json"]);
    assert!(matches!(second.code, Some(1 | 78)), "{second:?}");
    assert!(
        second.err.contains(&data),
        "it names the folder: {}",
        second.err
    );
}
