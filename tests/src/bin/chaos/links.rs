//! Links that are cut, brokers that are killed, peers that fall silent: R1, R2, R5. For R1 and R2 a
//! bridge of mosquitto goes through the same, before the same oracle.

use std::time::{Duration, Instant};

use serde_json::json;
use windlass_tests::bridge::Bridge;
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::holds_within;
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::oracle::now_ns;
use windlass_tests::proxy::{Direction, Proxy};
use windlass_tests::settings::{wait_ready, warm, warm_ones};
use windlass_tests::sniffer::Sniffer;
use windlass_tests::toolchain::Plain;
use windlass_tests::windlass::Windlass;

use crate::trial::{Counted, Trial, longest, percentile, spread};

/// Unacknowledged messages, both ways together, that one fault may double.
const WINDOWS: u64 = 200;

/// Number of the first message of a load; those before it are fresh ones from before.
const FIRST: u64 = 10;

/// A persistent session that expects all of `out/#`.
fn far_end(broker: &Mosquitto, id: &str, topic: &str) -> Subscriber {
    Subscriber::start(Subscribe {
        clean: false,
        ..Subscribe::new(broker.port(), id, topic, 1)
    })
}

/// Cuts the links so often while so many messages are sent at 1000/s: by a reset, after a silence
/// that swallows a window's worth, within a packet. Answers how many were sent.
fn cut_while_sending(broker: &Mosquitto, proxy: &Proxy, cuts: u32, messages: u64) -> u64 {
    const RATE: u32 = 1000;
    let publisher = Publish {
        first: FIRST,
        ..Publish::new(broker.port(), "in/1", 1)
    }
    .rate(RATE)
    .count(messages)
    .start();
    let pause = Duration::from_secs_f64(messages as f64 / f64::from(RATE) / f64::from(cuts + 1));
    for cut in 0..cuts {
        std::thread::sleep(pause);
        match cut % 4 {
            0 => proxy.cut(),
            1 => proxy.swallow_and_cut(Duration::from_millis(30)),
            2 => proxy.cut_inside(Direction::Down),
            _ => proxy.cut_inside(Direction::Up),
        }
    }
    let sent = publisher.join();
    sent.acknowledged.len() as u64
}

/// Seconds from each loss of a connection to its return.
fn away(windlass: &Windlass, id: &str) -> Vec<f64> {
    let mut gone = None;
    let mut times = Vec::new();
    for (at, whose, status, _) in windlass.changes() {
        if whose != id {
            continue;
        }
        if status != "connected" {
            gone.get_or_insert(at);
        } else if let Some(gone) = gone.take() {
            times.push((at - gone).as_secs_f64());
        }
    }
    times
}

/// R1: cuts of the link in the middle of QoS 1 traffic.
pub(crate) fn cuts(trial: &mut Trial) {
    let (cuts, messages) = trial.pick((20, 10_000), (100, 100_000));
    trial.did(format!(
        "{cuts} cuts (reset, silence of 30 ms before a reset, half a packet down, half a packet up, in turn) \
         in {messages} messages of QoS 1 at 1000/s, MQTT to guest to MQTT, persistent sessions"
    ));
    let shared = |proxy: &Proxy| (proxy.url(), proxy.url());
    // Two names of one address, so that they are two connections.
    let two = |proxy: &Proxy| (proxy.url(), proxy.url().replace("127.0.0.1", "localhost"));
    cuts_of(
        trial,
        cuts,
        messages,
        "source and sink on one connection",
        &["plant"],
        shared,
    );
    cuts_of(
        trial,
        cuts,
        messages,
        "on two connections",
        &["plant", "cloud"],
        two,
    );

    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port());
    let far = far_end(&broker, "far", "out/#");
    let through = (proxy.port(), &broker);
    let bridge = Bridge::between(through, through);
    let sent = cut_while_sending(&broker, &proxy, cuts, messages);
    let all: Vec<u64> = (FIRST..FIRST + sent).collect();
    let count = Counted::new("a bridge of mosquitto", sent, &all).yardstick();
    trial.delivered(&far, count, Duration::from_secs(30));
    drop(bridge);
}

fn cuts_of(
    trial: &mut Trial,
    cuts: u32,
    messages: u64,
    whose: &str,
    connections: &[&str],
    urls: impl Fn(&Proxy) -> (String, String),
) {
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port());
    let far = far_end(&broker, "far", "out");
    let (from, to) = urls(&proxy);
    let windlass = Windlass::start(&warm(&from, &to, 1));
    wait_ready(&windlass, connections, &["warm"]);
    // What is made on the first message is there before the figures are taken.
    trial.alive(broker.port(), "in/1", &far, 0);
    let before = windlass.usage();
    let acknowledged = cut_while_sending(&broker, &proxy, cuts, messages);
    let expected = warm_ones(FIRST..FIRST + acknowledged);
    let count = Counted::new(whose, messages, &expected)
        .acknowledged(acknowledged)
        .bound(u64::from(cuts) * WINDOWS);
    trial.delivered(&far, count, Duration::from_secs(60));
    trial.alive(broker.port(), "in/1", &far, 2 * FIRST + messages);
    let mut times = Vec::new();
    for id in connections {
        times.extend(away(&windlass, id));
    }
    let p99 = percentile(&times, 0.99);
    trial.check(
        "back after a cut",
        format!("{}, p99 {p99:.2} s", spread(&times)),
        "p99 below 2 s",
        p99 < 2.0 && !times.is_empty(),
    );
    trial.grown(&windlass, before, 8);
}

/// R2: the source's broker is killed; every second time it has lost its sessions when it comes back.
pub(crate) fn broker_killed(trial: &mut Trial) {
    let kills = trial.pick(10, 50);
    trial.did(format!(
        "{kills} times kill -9 of the source's broker and a start 0.3 s later, every second time without \
         its sessions, at 1000 messages of QoS 1 a second; what counts is what crossed to the host, \
         because the broker itself loses what it had not saved"
    ));
    let mut near = persistent();
    let remote = Mosquitto::start();
    let sniffer = Sniffer::default();
    let proxy = Proxy::with_tap(near.port(), Some(sniffer.tap()));
    let far = far_end(&remote, "far", "out");
    let windlass = Windlass::start(&warm(&proxy.url(), &remote.url(), 1));
    wait_ready(&windlass, &["plant", "cloud"], &["warm"]);
    trial.alive(near.port(), "in/1", &far, 0);
    let before = windlass.usage();
    let killed = kill_while_sending(&mut near, &far, &sniffer, kills);
    let crossed = sniffer.crossed();
    let expected = warm_ones(crossed.iter().copied());
    let count = Counted::new("what crossed to Windlass", killed.sent, &expected)
        .acknowledged(sniffer.acknowledged().len() as u64)
        .bound(kills * 2 * WINDOWS);
    trial.delivered(&far, count, Duration::from_secs(20));
    trial.check(
        "traffic",
        format!("{} crossed", crossed.len()),
        "more than 1000",
        crossed.len() > 1000,
    );
    trial.check(
        "subscribed again after each return without a session",
        format!("{} of {}", killed.subscribed.len(), kills / 2),
        kills / 2,
        killed.subscribed.len() as u64 == kills / 2,
    );
    trial.check(
        "until it subscribed, from when the broker listened",
        spread(&killed.subscribed),
        "1 s at most",
        longest(&killed.subscribed) <= 1.0,
    );
    trial.check(
        "until the first message passed",
        spread(&killed.first),
        "2 s at most",
        longest(&killed.first) <= 2.0,
    );
    trial.alive(near.port(), "in/1", &far, 2_000_000);
    trial.grown(&windlass, before, 8);
    drop((windlass, far, near));

    let mut near = persistent();
    let sniffer = Sniffer::default();
    let proxy = Proxy::with_tap(near.port(), Some(sniffer.tap()));
    let far = far_end(&remote, "far-of-bridge", "out/#");
    let bridge = Bridge::between((proxy.port(), &near), (remote.port(), &remote));
    // It takes its time to come back.
    let killed = kill_while_sending(&mut near, &far, &sniffer, trial.pick(2, kills));
    let crossed = sniffer.crossed();
    let count = Counted::new(
        "what crossed to a bridge of mosquitto",
        killed.sent,
        &crossed,
    )
    .acknowledged(sniffer.acknowledged().len() as u64)
    .yardstick();
    trial.delivered(&far, count, Duration::from_secs(20));
    trial.note(format!(
        "the bridge, after {} kills: until it subscribed {}, until the first message passed {}",
        killed.first.len(),
        spread(&killed.subscribed),
        spread(&killed.first)
    ));
    drop(bridge);
}

fn persistent() -> Mosquitto {
    Mosquitto::with(Broker {
        persistence: true,
        ..Broker::default()
    })
}

/// What was seen of a broker that was killed again and again.
struct Killed {
    sent: u64,
    /// Seconds from the broker's return to the SUBSCRIBE, where it had lost the session.
    subscribed: Vec<f64>,
    /// Seconds from the broker's return to the next arrival.
    first: Vec<f64>,
}

fn kill_while_sending(
    near: &mut Mosquitto,
    far: &Subscriber,
    sniffer: &Sniffer,
    kills: u64,
) -> Killed {
    const LIMIT: Duration = Duration::from_secs(10);
    // What is under way from before the kill is no sign of life: it has 100 ms.
    const UNDER_WAY: u64 = 100_000_000;
    let publisher = Publish {
        first: FIRST,
        ..Publish::new(near.port(), "in/1", 1)
    }
    .rate(1000)
    .start();
    let (mut subscribed, mut first) = (Vec::new(), Vec::new());
    for kill in 0..kills {
        std::thread::sleep(Duration::from_millis(600));
        let with_sessions = kill % 2 == 0;
        if with_sessions {
            near.save();
        }
        near.kill();
        std::thread::sleep(Duration::from_millis(300));
        if with_sessions {
            near.restart();
        } else {
            near.restart_empty();
        }
        let back = now_ns();
        let seconds = |at: u64| (at - back) as f64 / 1e9;
        if !with_sessions {
            let since = || sniffer.subscribed().into_iter().find(|at| *at > back);
            holds_within(LIMIT, || since().is_some());
            subscribed.extend(since().map(seconds));
        }
        let arrival = || far.ledger().first_after(back + UNDER_WAY);
        holds_within(LIMIT, || arrival().is_some());
        first.push(arrival().map_or(f64::INFINITY, seconds));
    }
    let sent = publisher.stop().sent;
    far.settle(Duration::from_secs(1), Duration::from_secs(20));
    Killed {
        sent,
        subscribed,
        first,
    }
}

/// R5: a peer that keeps its sockets open and says nothing any more, also while a write is blocked.
pub(crate) fn half_open(trial: &mut Trial) {
    let rounds = trial.pick(1, 5);
    trial.did(format!(
        "{rounds} times: both links fall silent with open sockets, keepAlive 10 s; one is idle, the other \
         has 256 KiB messages of QoS 0 written to it until its socket takes no more"
    ));
    let near = Mosquitto::start();
    let far_broker = Mosquitto::start();
    let (quiet, blocked) = (Proxy::start(near.port()), Proxy::start(far_broker.port()));
    let far = far_end(&far_broker, "far", "out");
    let mqtt = |url: String, id: &str| json!({ "server": url, "clientid": format!("windlass-{id}"), "enableClientSession": true, "keepAlive": "10s" });
    let manifest = Manifest::new()
        .mqtt("plant", &near.url())
        .connection("quiet", "mqtt", mqtt(quiet.url(), "quiet"))
        .connection("cloud", "mqtt", mqtt(blocked.url(), "cloud"))
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .mqtt_stream("large", "plant", "large/#", 0, false)
        .mqtt_stream("never", "quiet", "never/#", 1, false)
        .rule("all", "SELECT * FROM demo", publish_to("cloud", "out", 1))
        .rule(
            "large",
            "SELECT * FROM large",
            publish_to("cloud", "large", 0),
        )
        .rule(
            "never",
            "SELECT * FROM never",
            publish_to("plant", "never-out", 1),
        );
    let windlass = Windlass::start(&manifest);
    wait_ready(
        &windlass,
        &["plant", "quiet", "cloud"],
        &["all", "large", "never"],
    );
    trial.alive(near.port(), "in/1", &far, 0);
    let before = windlass.usage();
    let publisher = Publish {
        first: FIRST,
        ..Publish::new(near.port(), "in/1", 1)
    }
    .rate(200)
    .start();
    let (mut idle, mut writing) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        std::thread::sleep(Duration::from_secs(1));
        quiet.black_hole(true);
        blocked.black_hole(true);
        let begin = Instant::now();
        let mut client = Plain::connect(near.port(), "large", None);
        let text = format!("{{\"a\":\"{}\"}}", "x".repeat(256 * 1024));
        for _ in 0..60 {
            client.publish("large/1", text.as_bytes());
        }
        for (id, times) in [("quiet", &mut idle), ("cloud", &mut writing)] {
            let down = || {
                let changes = windlass.changes();
                changes
                    .iter()
                    .find(|(at, whose, status, _)| {
                        *at > begin && whose == id && status != "connected"
                    })
                    .map(|(at, ..)| (*at - begin).as_secs_f64())
            };
            holds_within(
                Duration::from_secs(45).saturating_sub(begin.elapsed()),
                || down().is_some(),
            );
            times.push(down().unwrap_or(f64::INFINITY));
        }
        for proxy in [&quiet, &blocked] {
            proxy.cut();
            holds_within(Duration::from_secs(2), || proxy.open() == 0);
            proxy.black_hole(false);
        }
        windlass.wait_connection("quiet", "connected", Duration::from_secs(15));
        windlass.wait_connection("cloud", "connected", Duration::from_secs(15));
    }
    trial.within("noticed on the idle link", longest(&idle), 15.5);
    trial.within("noticed while a write is blocked", longest(&writing), 15.5);
    let sent = publisher.stop();
    let expected: Vec<u64> = (FIRST..FIRST + sent.sent).collect();
    let count = Counted::new(
        "messages of QoS 1 on the blocked link",
        sent.sent,
        &expected,
    )
    .acknowledged(sent.acknowledged.len() as u64)
    .bound(rounds * WINDOWS);
    trial.delivered(&far, count, Duration::from_secs(30));
    trial.alive(near.port(), "in/1", &far, 2_000_000);
    // Some of the large messages are still in the allocator's hands.
    trial.grown(&windlass, before, 64);
}
