//! The host itself is killed, told to stop, asked for one message at a time, started before everything
//! else, kept short of handles: R18, R28, R29, R31, R34.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use windlass_tests::httpd::Httpd;
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{Stalls, free_port, holds_within, signal};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::{now_ns, write_payload};
use windlass_tests::proxy::Proxy;
use windlass_tests::pusher::Client;
use windlass_tests::redis::{Answer, Redis};
use windlass_tests::settings::{START, wait_ready, warm, warm_ones};
use windlass_tests::toolchain::Plain;
use windlass_tests::windlass::Windlass;

use crate::ledger::ledger_server;
use crate::trial::{Counted, Trial, longest, percentile, spread};

/// All of `in/#` of a broker to a server, one request a message.
fn posting(broker: &Mosquitto, server: &Httpd) -> Manifest {
    let rest =
        json!([{ "rest": { "connectionSelector": "api", "method": "post", "sendSingle": true } }]);
    Manifest::new()
        .mqtt("plant", &broker.url())
        .connection("api", "http", json!({ "url": server.url("/in") }))
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule("all", "SELECT * FROM demo", rest)
}

/// R18: kill -9 in the middle of everything, with and without a disk queue at work.
pub(crate) fn killed(trial: &mut Trial) {
    let kills = trial.pick(20_u64, 200);
    let (least, spread_ms) = trial.pick((400, 800), (1000, 2000));
    trial.did(format!(
        "{kills} times kill -9 after {least} to {} ms, MQTT to HTTP at 1000 messages/s, the server quick and \
         slow in turn, so that messages go past the disk queue and through it",
        least + spread_ms
    ));
    let broker = Mosquitto::start();
    let (server, ledger, delay) = ledger_server(5);
    let mut windlass = Windlass::start(&posting(&broker, &server));
    wait_ready(&windlass, &["plant", "api"], &["all"]);
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(1000).start();
    let mut starts = Vec::new();
    let mut damage = 0;
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    for kill in 0..kills {
        delay.store(if kill % 2 == 0 { 5 } else { 60 }, Ordering::Relaxed);
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        std::thread::sleep(Duration::from_millis(least + dice % spread_ms));
        windlass.kill();
        let begin = Instant::now();
        windlass.up();
        windlass.wait_rule("all", "running", START);
        starts.push(begin.elapsed().as_secs_f64());
        damage += windlass
            .log()
            .lines()
            .filter(|line| line.contains("disk queue was damaged"))
            .count();
    }
    delay.store(1, Ordering::Relaxed);
    let sent = publisher.stop();
    let count = sent.acknowledged.len() as u64;
    let arrived = || {
        ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .arrived()
    };
    holds_within(Duration::from_secs(trial.pick(90, 300)), || {
        arrived() >= count
    });
    let mut expected = sent.acknowledged;
    expected.sort_unstable();
    let counted = Counted::new("acknowledged to the publisher", sent.sent, &expected)
        .acknowledged(count)
        .bound(kills * 2048)
        .any_order();
    trial.enter(
        &ledger.lock().unwrap_or_else(PoisonError::into_inner),
        counted,
    );
    trial.check(
        "start until the rule runs",
        spread(&starts),
        "1 s at most",
        longest(&starts) <= 1.0,
    );
    trial.note(format!(
        "torn ends or other damage reported by {damage} of {kills} starts"
    ));
    let mut client = Plain::connect(broker.port(), "fresh", None);
    let fresh = sent.sent + 10;
    let mut payload = Vec::new();
    write_payload(&mut payload, fresh, now_ns());
    client.publish("in/1", &payload);
    let begin = Instant::now();
    let passed = holds_within(Duration::from_secs(5), || {
        ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .has(fresh)
    });
    trial.check(
        "a fresh message afterwards",
        format!("{:.2} s", begin.elapsed().as_secs_f64()),
        "5 s at most",
        passed,
    );
}

/// R31: one message, its arrival, the next one. A lost wake-up shows where nothing else comes after.
pub(crate) fn one_at_a_time(trial: &mut Trial) {
    const BAR: f64 = 0.05;
    let rounds = trial.pick(2_000, 10_000);
    trial.did(format!(
        "{rounds} times one message and the wait for its arrival, MQTT to MQTT, QoS 1"
    ));
    let broker = Mosquitto::start();
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule("all", "SELECT * FROM demo", publish_to("plant", "out", 1));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["all"]);
    let mut far = Plain::connect(broker.port(), "one-far", Some("out"));
    let mut near = Plain::connect(broker.port(), "one-near", None);
    let stalls = Stalls::watch();
    let (mut times, mut late, mut excused) = (Vec::new(), Vec::new(), 0);
    let mut payload = Vec::new();
    let mut missing = 0;
    let mut before = None;
    for round in 0..rounds {
        write_payload(&mut payload, round, now_ns());
        let begin = Instant::now();
        near.publish("in/1", &payload);
        let arrived = far.receive(Duration::from_secs(5));
        let took = begin.elapsed();
        if arrived.is_none_or(|(_, came)| came != payload) {
            missing += 1;
            continue;
        }
        times.push(took.as_secs_f64());
        if took.as_secs_f64() > BAR {
            // What this machine took from everybody is not the host's.
            let stalled = stalls.since(begin);
            if (took.saturating_sub(stalled)).as_secs_f64() > BAR {
                late.push(took.as_secs_f64());
            } else {
                excused += 1;
            }
        }
        if round == 100 {
            before = Some(windlass.usage());
        }
    }
    trial.check(
        "messages that did not arrive",
        missing,
        "none",
        missing == 0,
    );
    trial.check(
        "on the way",
        format!(
            "middle {:.2} ms, p99 {:.2} ms, longest {:.1} ms",
            percentile(&times, 0.5) * 1e3,
            percentile(&times, 0.99) * 1e3,
            longest(&times) * 1e3
        ),
        "p99 below 50 ms",
        percentile(&times, 0.99) < BAR,
    );
    trial.check(
        "longer than 50 ms",
        format!(
            "{} of {rounds}, and {excused} while this machine stood still",
            late.len()
        ),
        "none",
        late.is_empty(),
    );
    trial.grown(&windlass, before.unwrap_or_default(), 8);
}

/// R34: SIGTERM under full load; and a second one, which means now.
pub(crate) fn stops(trial: &mut Trial) {
    let stops = trial.pick(6, 100);
    trial.did(format!(
        "{stops} times SIGTERM at 3000 messages/s, MQTT to MQTT, QoS 1; then one while the sink is silent, \
         and a second one after a second"
    ));
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port());
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let sink = proxy.url().replace("127.0.0.1", "localhost");
    let mut windlass = Windlass::start(&warm(&broker.url(), &sink, 1));
    wait_ready(&windlass, &["plant", "cloud"], &["warm"]);
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(3000).start();
    let (mut times, mut codes) = (Vec::new(), Vec::new());
    let stop = |windlass: &mut Windlass, times: &mut Vec<f64>, codes: &mut Vec<Option<i32>>| {
        std::thread::sleep(Duration::from_millis(500));
        let begin = Instant::now();
        codes.push(windlass.terminate(Duration::from_secs(11)));
        times.push(begin.elapsed().as_secs_f64());
        windlass.up();
        wait_ready(windlass, &["plant", "cloud"], &["warm"]);
    };
    for _ in 0..stops {
        stop(&mut windlass, &mut times, &mut codes);
    }
    trial.check(
        "SIGTERM until its end",
        spread(&times),
        "10 s at most",
        longest(&times) <= 10.0,
    );
    let well = codes.iter().filter(|code| **code == Some(0)).count();
    trial.check(
        "exit codes",
        format!("{well} times 0"),
        format!("{stops} times 0"),
        well == codes.len(),
    );

    // The sink falls silent: the first one waits for it, the second one does not.
    proxy.black_hole(true);
    std::thread::sleep(Duration::from_millis(50));
    signal(windlass.pid(), "TERM");
    let waits = !holds_within(Duration::from_secs(1), || {
        windlass_tests::machine::usage(windlass.pid()).threads == 0
    });
    let second = Instant::now();
    if waits {
        signal(windlass.pid(), "TERM");
    }
    let code = windlass.exit_within(Duration::from_secs(11));
    let took = second.elapsed().as_secs_f64();
    trial.check(
        "a second SIGTERM until its end",
        format!(
            "{took:.2} s, code {code:?}, the first one alone had {}",
            if waits { "waited" } else { "sufficed" }
        ),
        "1 s at most",
        took <= 1.0,
    );
    proxy.cut();
    holds_within(Duration::from_secs(2), || proxy.open() == 0);
    proxy.black_hole(false);
    windlass.up();
    wait_ready(&windlass, &["plant", "cloud"], &["warm"]);

    let sent = publisher.stop();
    let expected = warm_ones(sent.acknowledged.iter().copied());
    let count = Counted::new("acknowledged to the publisher", sent.sent, &expected)
        .acknowledged(sent.acknowledged.len() as u64)
        .bound((stops + 1) * 2048)
        .any_order();
    trial.delivered(&far, count, Duration::from_secs(30));
    trial.alive(broker.port(), "in/1", &far, sent.sent + 10);
}

/// All orders of so many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in orders(count - 1) {
        for place in 0..count {
            let mut order = shorter.clone();
            order.insert(place, count - 1);
            all.push(order);
        }
    }
    all
}

/// R28: everything is down at the start and comes up in each order.
pub(crate) fn start_order(trial: &mut Trial) {
    let all = orders(4);
    let step = trial.pick(4, 1);
    let chosen: Vec<_> = all.iter().step_by(step).collect();
    trial.did(format!(
        "source's broker, sink's broker, HTTP server and Redis come up after the host, 0.3 s apart, in {} of \
         the 24 orders",
        chosen.len()
    ));
    let mut times = Vec::new();
    for order in chosen {
        let mut near = Mosquitto::start();
        let mut remote = Mosquitto::start();
        let mut redis = Redis::start();
        let (mut server, ledger, _) = ledger_server(5);
        let rest = json!([{ "rest": { "connectionSelector": "api", "method": "post", "sendSingle": true } }]);
        let list = json!([{ "redis": { "connectionSelector": "cache", "stream": "out", "sendSingle": true } }]);
        let manifest = Manifest::new()
            .mqtt("plant", &near.url())
            .mqtt("cloud", &remote.url())
            .connection("api", "http", json!({ "url": server.url("/in") }))
            .connection("cache", "redis", json!({ "address": redis.address() }))
            .mqtt_stream("demo", "plant", "in/#", 1, true)
            .rule("a", "SELECT * FROM demo", publish_to("cloud", "out", 1))
            .rule("b", "SELECT * FROM demo", rest)
            .rule("c", "SELECT * FROM demo", list);
        near.stop();
        remote.stop();
        redis.kill();
        server.kill();
        let windlass = Windlass::start(&manifest);
        std::thread::sleep(Duration::from_millis(500));
        for which in order {
            match which {
                0 => near.restart(),
                1 => remote.restart(),
                2 => server.up(),
                _ => redis.up(),
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        let begin = Instant::now();
        let far = Subscriber::start(Subscribe::new(remote.port(), "far", "out", 1));
        for id in ["plant", "cloud", "api", "cache"] {
            windlass.wait_connection(id, "connected", Duration::from_secs(30));
        }
        for rule in ["a", "b", "c"] {
            windlass.wait_rule(rule, "running", Duration::from_secs(30));
        }
        times.push(begin.elapsed().as_secs_f64());
        let sent = Publish::new(near.port(), "in/1", 1)
            .count(20)
            .start()
            .join();
        let length = || match redis.client().say("XLEN out") {
            Ok(Answer::Number(length)) => length,
            _ => 0,
        };
        let there = holds_within(Duration::from_secs(5), || {
            far.arrived() == 20
                && ledger
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .arrived()
                    == 20
                && length() >= 20
        });
        if !there || sent.acknowledged.len() != 20 {
            trial.check(
                "20 messages by three rules",
                format!(
                    "{}, {}, {} in the order {order:?}",
                    far.arrived(),
                    ledger
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .arrived(),
                    length()
                ),
                "20, 20, 20",
                false,
            );
        }
    }
    trial.check(
        "all connected after the last came up",
        spread(&times),
        "15 s at most",
        longest(&times) <= 15.0,
    );
}

/// R29: hardly any handles.
pub(crate) fn handles(trial: &mut Trial) {
    trial.did("`ulimit -n 256`, a rule at 200 messages/s, and 400 HTTP clients that hold their connections");
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let port = free_port();
    let manifest = Manifest::new()
        .section(
            "push",
            json!({ "address": format!("127.0.0.1:{port}"), "maxConnections": 10_000 }),
        )
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .stream(
            r#"CREATE STREAM pushed () WITH (TYPE="httppush", DATASOURCE="/in", FORMAT="json")"#,
        )
        .rule("all", "SELECT * FROM demo", publish_to("plant", "out", 1))
        .rule("pushed", "SELECT * FROM pushed", json!([{ "nop": {} }]));
    let mut windlass = Windlass::prepare(&manifest).limited("-n 256");
    windlass.up();
    wait_ready(&windlass, &["plant"], &["all", "pushed"]);
    trial.alive(broker.port(), "in/1", &far, 0);
    let before = windlass.usage();
    let publisher = Publish {
        first: 10,
        ..Publish::new(broker.port(), "in/1", 1)
    }
    .rate(200)
    .start();
    let client = || {
        let mut client = Client::new(port);
        client.patience = Duration::from_millis(500);
        client
    };
    let mut clients: Vec<Client> = (0..400).map(|_| client()).collect();
    let (mut taken, mut refused) = (0, 0);
    let begin = Instant::now();
    for client in &mut clients {
        // Those that get no answer wait for it; a few show it.
        if begin.elapsed() > Duration::from_secs(trial.pick(20, 60)) || refused >= 20 {
            break;
        }
        match client.post("/in", br#"{"a":1}"#) {
            Ok(answered) if answered.status == 200 => taken += 1,
            _ => refused += 1,
        }
    }
    let files = windlass.usage().files;
    trial.note(format!(
        "{taken} clients served, {refused} not, {files} files open"
    ));
    trial.check("new work is refused", refused, "some", refused > 0);
    let log = windlass.log();
    let said = log
        .lines()
        .find(|line| line.to_lowercase().contains("too many open files"));
    trial.check(
        "the log says why",
        said.unwrap_or("nothing").trim(),
        "too many open files",
        said.is_some() || taken >= 380,
    );
    trial.check(
        "lines in the log",
        windlass.lines_logged(),
        "500 at most",
        windlass.lines_logged() < 500,
    );
    std::thread::sleep(Duration::from_secs(1));
    drop(clients);
    let sent = publisher.stop();
    let expected: Vec<u64> = (10..10 + sent.sent).collect();
    let count = Counted::new("the rule that was there before", sent.sent, &expected)
        .acknowledged(sent.acknowledged.len() as u64);
    trial.delivered(&far, count, Duration::from_secs(10));
    trial.alive(broker.port(), "in/1", &far, 30 + sent.sent);
    let again = holds_within(Duration::from_secs(15), || {
        client()
            .post("/in", br#"{"a":1}"#)
            .is_ok_and(|answered| answered.status == 200)
    });
    trial.check(
        "a new client afterwards",
        if again { "served" } else { "not served" },
        "served",
        again,
    );
    trial.grown(&windlass, before, 8);
    trial.note("`ulimit -u` binds no process of root, and this one may run as root: not tried");
}
