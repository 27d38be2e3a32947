//! What Windlass costs by being there: memory, start, idling, coming back, its size.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{free_port, holds_within};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::{median, now_ns};
use windlass_tests::windlass::{Windlass, binary};

use crate::flood::{START, ready, warm};
use crate::progress;
use crate::table::Row;

const MIB: f64 = 1024.0 * 1024.0;

fn rest(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

fn resident(windlass: &Windlass) -> f64 {
    windlass.usage().resident as f64
}

pub(crate) fn size() -> Vec<Row> {
    let bytes = std::fs::metadata(binary()).map_or(f64::NAN, |file| file.len() as f64);
    vec![Row::new(
        "binary, stripped",
        "MB",
        40.0,
        25.0,
        bytes / 1e6,
        String::new(),
    )]
}

pub(crate) fn memory() -> Vec<Row> {
    let broker = Mosquitto::start();
    let windlass = ready(&warm(&broker, 1), &["plant"], &["warm"]);
    rest(2);
    let idle = resident(&windlass) / MIB;
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out/#", 1));
    let sent = Publish::new(broker.port(), "in/1", 1)
        .count(50_000)
        .start()
        .join();
    far.wait_for(sent.sent / 2, Duration::from_secs(60));
    rest(2);
    let loaded = resident(&windlass) / MIB;
    let usage = windlass.usage();
    progress(&format!(
        "idle {idle:.1} MiB, after load {loaded:.1} MiB, {} threads",
        usage.threads
    ));
    vec![
        Row::new("resident, idle", "MB", 30.0, 15.0, idle, String::new()),
        Row::new(
            "resident, after load",
            "MB",
            45.0,
            25.0,
            loaded,
            "50 000 messages QoS 1".to_owned(),
        ),
    ]
}

/// Memory with so many connections beside the first one.
fn with_connections(broker: &Mosquitto, further: usize) -> f64 {
    let ids: Vec<String> = (0..further).map(|n| format!("further{n}")).collect();
    let manifest = ids.iter().fold(warm(broker, 1), |manifest, id| {
        manifest.mqtt(id, &broker.url())
    });
    let mut names: Vec<&str> = ids.iter().map(String::as_str).collect();
    names.push("plant");
    let windlass = ready(&manifest, &names, &["warm"]);
    rest(3);
    resident(&windlass)
}

pub(crate) fn connections() -> Vec<Row> {
    const FURTHER: usize = 200;
    let broker = Mosquitto::start();
    let few = with_connections(&broker, 0);
    let many = with_connections(&broker, FURTHER);
    progress(&format!(
        "{:.1} MiB with 1, {:.1} MiB with {} connections",
        few / MIB,
        many / MIB,
        FURTHER + 1
    ));
    let each = (many - few) / FURTHER as f64 / 1024.0;
    vec![Row::new(
        "per further named MQTT connection",
        "KB",
        48.0,
        25.0,
        each,
        String::new(),
    )]
}

/// Rules on one shared stream, each with this action.
fn on_one_stream(
    broker: &Mosquitto,
    rules: usize,
    action: impl Fn(usize) -> serde_json::Value,
) -> (Manifest, Vec<String>) {
    let ids: Vec<String> = (0..rules).map(|n| format!("rule{n}")).collect();
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 1, true);
    let manifest = ids.iter().enumerate().fold(manifest, |manifest, (n, id)| {
        manifest.rule(id, "SELECT * FROM demo WHERE temperature > 50", action(n))
    });
    (manifest, ids)
}

/// Memory with so many rules: while messages come, and when their sinks have been put away.
fn with_rules(broker: &Mosquitto, rules: usize) -> (f64, f64) {
    let (manifest, ids) = on_one_stream(broker, rules, |n| {
        publish_to("plant", &format!("out/{n}"), 0)
    });
    let names: Vec<&str> = ids.iter().map(String::as_str).collect();
    let windlass = ready(&manifest, &["plant"], &names);
    let sent = Publish::new(broker.port(), "in/1", 1)
        .rate(50)
        .count(200)
        .start()
        .join();
    assert_eq!(sent.sent, 200);
    let busy = resident(&windlass);
    rest(15);
    (busy, resident(&windlass))
}

pub(crate) fn rules() -> Vec<Row> {
    const FURTHER: usize = 100;
    let broker = Mosquitto::start();
    let (busy_few, idle_few) = with_rules(&broker, 1);
    let (busy_many, idle_many) = with_rules(&broker, FURTHER + 1);
    let each = |many: f64, few: f64| (many - few) / FURTHER as f64 / 1024.0;
    let note = format!(
        "with messages coming; {:.0} KB when idle",
        each(idle_many, idle_few)
    );
    progress(&format!(
        "{:.1} MiB with 1, {:.1} MiB with {} rules",
        busy_few / MIB,
        busy_many / MIB,
        FURTHER + 1
    ));
    vec![Row::new(
        "per further rule on a shared stream",
        "KB",
        140.0,
        100.0,
        each(busy_many, busy_few),
        note,
    )]
}

pub(crate) fn many() -> Vec<Row> {
    let broker = Mosquitto::start();
    let (manifest, ids) = on_one_stream(&broker, 300, |_| json!([{ "nop": {} }]));
    let names: Vec<&str> = ids.iter().map(String::as_str).collect();
    let windlass = ready(&manifest, &["plant"], &names);
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(500).start();
    rest(3);
    let (before, begin) = (windlass.usage().cpu, Instant::now());
    rest(10);
    let elapsed = begin.elapsed();
    let usage = windlass.usage();
    let memory = resident(&windlass) / MIB;
    let sent = publisher.stop();
    windlass.fresh_metrics();
    // Every rule has seen every message, or the figure means nothing.
    let shy = ids
        .iter()
        .filter(|id| {
            windlass
                .counter(id, "recordsIn")
                .is_none_or(|read| read < sent.sent)
        })
        .count();
    assert_eq!(
        shy, 0,
        "{shy} of 300 rules have not read all {} messages",
        sent.sent
    );
    let share = (usage.cpu - before).as_secs_f64() / elapsed.as_secs_f64() / 2.0 * 100.0;
    progress(&format!("{share:.1} % of both cores, {memory:.1} MiB"));
    let note = "300 filters, nop sinks, 500 msg/s".to_owned();
    vec![
        Row::new(
            "300 rules on one shared stream, CPU",
            "% of 2 cores",
            40.0,
            15.0,
            share,
            note.clone(),
        ),
        Row::new(
            "300 rules on one shared stream, resident",
            "MB",
            95.0,
            60.0,
            memory,
            note,
        ),
    ]
}

pub(crate) fn start(rounds: usize) -> Vec<Row> {
    let broker = Mosquitto::start();
    let (manifest, ids) =
        on_one_stream(&broker, 10, |n| publish_to("plant", &format!("out/{n}"), 1));
    let mut windlass = Windlass::start(&manifest);
    let until_ready = |windlass: &Windlass| {
        windlass.wait_connection("plant", "connected", START);
        ids.iter()
            .for_each(|id| drop(windlass.wait_rule(id, "running", START)));
        windlass.age().as_secs_f64()
    };
    let first = until_ready(&windlass);
    let mut times = Vec::new();
    for _ in 0..rounds.max(3) {
        assert_eq!(windlass.terminate(Duration::from_secs(12)), Some(0));
        windlass.up();
        times.push(until_ready(&windlass));
        progress(&format!("ready after {:.3} s", times[times.len() - 1]));
    }
    let note = format!("{first:.1} s the first time, with nothing compiled");
    vec![Row::new(
        "start until ready, code cached, 10 rules",
        "s",
        0.3,
        0.1,
        median(times),
        note,
    )]
}

pub(crate) fn comes_back(rounds: usize) -> Vec<Row> {
    let mut broker = Mosquitto::start();
    let windlass = ready(&warm(&broker, 1), &["plant"], &["warm"]);
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out/#", 1));
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(500).start();
    let mut times = Vec::new();
    for _ in 0..rounds.max(5) {
        rest(1);
        broker.kill();
        rest(4);
        broker.restart();
        let back = now_ns();
        let there = holds_within(Duration::from_secs(20), || {
            far.ledger().first_after(back).is_some()
        });
        assert!(there, "nothing within 20 s: {}", windlass.log());
        times.push(
            far.ledger()
                .first_after(back)
                .map_or(f64::NAN, |at| (at - back) as f64 / 1e9),
        );
        progress(&format!(
            "first message after {:.3} s",
            times[times.len() - 1]
        ));
    }
    drop(publisher);
    let worst = times.iter().copied().fold(0.0, f64::max);
    vec![Row::new(
        "broker back -> first message delivered",
        "s",
        2.0,
        0.5,
        median(times),
        format!("worst {worst:.2} s"),
    )]
}

pub(crate) fn down() -> Vec<Row> {
    let manifest = (0..10).fold(Manifest::new(), |manifest, n| {
        manifest.mqtt(
            &format!("c{n}"),
            &format!("tcp://127.0.0.1:{}", free_port()),
        )
    });
    let windlass = Windlass::start(&manifest);
    (0..10).for_each(|n| drop(windlass.wait_connection(&format!("c{n}"), "disconnected", START)));
    rest(5);
    let (before, begin) = (windlass.usage().cpu, Instant::now());
    // Ticks of 10 ms: half a minute resolves 0.03 %.
    rest(30);
    let share =
        (windlass.usage().cpu - before).as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0;
    vec![Row::new(
        "CPU with 10 connections down",
        "% of a core",
        1.0,
        0.2,
        share,
        String::new(),
    )]
}

/// The cost of a call across the sandbox is measured within the host, by a unit test that prints it.
pub(crate) fn guest() -> Vec<Row> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let ran = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "test",
            "--release",
            "--workspace",
            "--lib",
            "--",
            "--nocapture",
            "--test-threads=1",
            "runtime::tests::speed",
        ])
        .current_dir(root)
        .output();
    let printed = ran
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let read = |key: &str| {
        let line = printed
            .lines()
            .find_map(|line| line.split_once(key).map(|(_, rest)| rest.trim()))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let row = |what: &str, must: f64, aim: f64, key: &str| {
        let value = read(key).unwrap_or(f64::NAN);
        let note = if value.is_nan() {
            format!("no test of runtime::tests::speed printed `{key} N us`")
        } else {
            String::new()
        };
        Row::new(what, "us", must, aim, value, note)
    };
    vec![
        row("guest call, 100 B, warm", 3.0, 1.0, "guest call:"),
        row("handle pass-through", 3.0, 0.3, "handle pass-through:"),
    ]
}
