//! Messages that are larger than a side takes, in the middle of good ones: R24.

use std::time::Duration;

use serde_json::json;
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::holds_within;
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::settings::{letters, wait_ready};
use windlass_tests::toolchain::Plain;
use windlass_tests::windlass::Windlass;

use crate::trial::{Counted, Trial};

/// Which side does not take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Narrow {
    /// The host's own limit, `maxMessageBytes`.
    Host,
    /// The sink's broker, which announces it (MQTT 5) or hangs up (3.1.1).
    Sink,
}

const LIMIT: usize = 20_000;

/// R24: too large in both directions, where a side has a limit of its own or is told the other's.
pub(crate) fn oversize(trial: &mut Trial) {
    let large = trial.pick(30, 100);
    trial.did(format!(
        "{large} messages of 200 KB between good ones, QoS 1, persistent sessions, MQTT 3.1.1 and 5: the host \
         takes 20 000 bytes; then, with 5, the sink's broker (max_packet_size)"
    ));
    one(trial, "3.1.1", Narrow::Host, large);
    one(trial, "5", Narrow::Host, large);
    one(trial, "5", Narrow::Sink, large);
}

/// R24b: a broker of MQTT 3.1.1 cannot say what it takes, and hangs up.
pub(crate) fn hangs_up(trial: &mut Trial) {
    let large = trial.pick(3, 100);
    trial.did(format!(
        "{large} messages of 200 KB between good ones, QoS 1, persistent sessions, MQTT 3.1.1, to a broker that \
         hangs up on more than 20 000 bytes (max_packet_size)"
    ));
    one(trial, "3.1.1", Narrow::Sink, large);
}

fn one(trial: &mut Trial, version: &str, narrow: Narrow, large: u64) {
    let whose = match narrow {
        Narrow::Host => format!("MQTT {version}, the host takes less"),
        Narrow::Sink => format!("MQTT {version}, the sink's broker takes less"),
    };
    let near = Mosquitto::start();
    let extra = match narrow {
        Narrow::Host => String::new(),
        Narrow::Sink => format!("max_packet_size {LIMIT}"),
    };
    let remote = Mosquitto::with(Broker {
        extra,
        ..Broker::default()
    });
    let far = Subscriber::start(Subscribe::new(remote.port(), "far", "out", 1));
    let mqtt = |url: String, id: &str| {
        json!({ "server": url, "clientid": format!("windlass-{id}"), "protocolVersion": version,
            "enableClientSession": true, "sessionExpiryIntervalSeconds": 300 })
    };
    let limits = match narrow {
        Narrow::Host => json!({ "maxMessageBytes": LIMIT }),
        Narrow::Sink => json!({}),
    };
    let manifest = Manifest::new()
        .limits(limits)
        .connection("plant", "mqtt", mqtt(near.url(), "plant"))
        .connection("cloud", "mqtt", mqtt(remote.url(), "cloud"))
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule("all", "SELECT * FROM demo", publish_to("cloud", "out", 1));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant", "cloud"], &["all"]);
    trial.alive(near.port(), "in/1", &far, 0);
    let before = windlass.usage();
    let changes = windlass.changes().len();
    let publisher = Publish {
        first: 10,
        ..Publish::new(near.port(), "in/1", 1)
    }
    .rate(200)
    .start();
    let mut client = Plain::connect(near.port(), "large", None);
    let text = format!("{{\"large\":\"{}\"}}", "x".repeat(10 * LIMIT));
    for _ in 0..large {
        client.publish("in/large", text.as_bytes());
        std::thread::sleep(Duration::from_millis(20));
    }
    let sent = publisher.stop();
    let expected: Vec<u64> = (10..10 + sent.sent).collect();
    let count = Counted::new(&whose, sent.sent, &expected)
        .acknowledged(sent.acknowledged.len() as u64)
        .bound(if narrow == Narrow::Sink && version == "3.1.1" {
            large * 200
        } else {
            0
        });
    trial.delivered(&far, count, Duration::from_secs(30));
    let noted = || u64::try_from(letters(&windlass).len()).unwrap_or(0);
    holds_within(Duration::from_secs(10), || {
        std::thread::sleep(Duration::from_millis(200));
        noted() >= large
    });
    let noted = noted();
    trial.check(
        &format!("{whose}: dead letters"),
        noted,
        large,
        noted == large,
    );
    let lost = windlass.changes().len() - changes;
    trial.check(
        &format!("{whose}: changes of the connections' states"),
        lost,
        // A broker of 3.1.1 that hangs up is noticed by nothing else.
        if narrow == Narrow::Sink && version == "3.1.1" {
            "no loop: it ends"
        } else {
            "none"
        },
        lost == 0 || (narrow == Narrow::Sink && version == "3.1.1"),
    );
    trial.alive(near.port(), "in/1", &far, 30 + sent.sent);
    if version == "3.1.1" {
        trial.grown(&windlass, before, 16);
    }
}
