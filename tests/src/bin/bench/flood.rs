//! Messages through the process under test: what each costs it, and how long each takes. The bridge
//! and Windlass take turns, and what counts is the median of the ratios.

use std::sync::atomic::Ordering;
use std::time::Duration;

use windlass_tests::bridge::Bridge;
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{holds_within, usage};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::{median, passes};
use windlass_tests::windlass::Windlass;

use crate::progress;
use crate::table::Row;

/// Before anything is measured: buffers grown, caches warm, code translated.
pub(crate) const WARM_UP: u64 = 5_000;

/// Longest wait for a start: connectors may have to be compiled once.
pub(crate) const START: Duration = Duration::from_secs(90);

/// `in/#` through the query to `out/1`, source and sink on one connection, default options.
pub(crate) fn warm(broker: &Mosquitto, qos: u8) -> Manifest {
    Manifest::new()
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", qos, false)
        .rule(
            "warm",
            "SELECT * FROM demo WHERE temperature > 50",
            publish_to("plant", "out/1", qos),
        )
}

/// Starts it and waits until it is ready.
pub(crate) fn ready(manifest: &Manifest, connections: &[&str], rules: &[&str]) -> Windlass {
    let windlass = Windlass::start(manifest);
    connections
        .iter()
        .for_each(|id| drop(windlass.wait_connection(id, "connected", START)));
    rules
        .iter()
        .for_each(|id| drop(windlass.wait_rule(id, "running", START)));
    windlass
}

/// What a message costs Windlass at QoS 1 in and out, microseconds of CPU.
pub(crate) fn qos1(messages: u64) -> f64 {
    let broker = Mosquitto::start();
    let windlass = Under::Windlass(Box::new(ready(&warm(&broker, 1), &["plant"], &["warm"])));
    send(&broker, &windlass, 1, messages, None).us_in
}

/// What is measured.
enum Under {
    Bridge(Box<Bridge>),
    Windlass(Box<Windlass>),
}

impl Under {
    fn pid(&self) -> u32 {
        match self {
            Self::Bridge(bridge) => bridge.pid(),
            Self::Windlass(windlass) => windlass.pid(),
        }
    }

    /// The bridge passes all, the query every second one.
    fn delivers(&self, seq: u64) -> bool {
        matches!(self, Self::Bridge(_)) || passes(seq)
    }

    fn name(&self) -> &'static str {
        if matches!(self, Self::Bridge(_)) {
            "bridge"
        } else {
            "windlass"
        }
    }
}

/// Figures of one measurement.
#[derive(Clone, Copy, Debug)]
struct Figures {
    /// CPU of the process, microseconds per input message.
    us_in: f64,
    /// Input messages per second.
    rate: f64,
    p50: f64,
    p99: f64,
}

/// Sends messages through one process; all of them must arrive.
fn send(broker: &Mosquitto, under: &Under, qos: u8, messages: u64, rate: Option<u32>) -> Figures {
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out/#", qos));
    let publish = |first: u64, count: u64| {
        // At QoS 0 nothing but this keeps the broker from dropping; at QoS 1 it bounds what waits.
        far.highest().fetch_max(first, Ordering::Relaxed);
        let publish = Publish {
            first,
            ahead: Some((far.highest(), 2000)),
            ..Publish::new(broker.port(), "in/1", qos)
        };
        Publish { rate, ..publish }.count(count).start().join()
    };
    let expected = |to: u64| (0..to).filter(|&seq| under.delivers(seq)).count() as u64;
    let all_there = |to: u64| {
        let there = holds_within(Duration::from_secs(30), || far.arrived() >= expected(to));
        let ledger = far.ledger();
        assert!(
            there,
            "{} of {} lost: {}",
            expected(to) - ledger.arrived(),
            expected(to),
            ledger.summary()
        );
    };
    let warm_up = if rate.is_some() { WARM_UP / 5 } else { WARM_UP };
    let total = warm_up + messages;
    let sent = publish(0, warm_up);
    assert_eq!(sent.sent, warm_up);
    all_there(warm_up);
    let mark = far.ledger().mark();
    let (before, begin) = (usage(under.pid()).cpu, std::time::Instant::now());
    let sent = publish(warm_up, messages);
    assert_eq!(sent.sent, messages);
    all_there(total);
    let elapsed = begin.elapsed();
    let cpu = usage(under.pid()).cpu - before;
    let ledger = far.ledger();
    let flow = ledger.since(mark);
    assert_eq!(ledger.corrupt(), 0);
    let figures = Figures {
        us_in: cpu.as_secs_f64() * 1e6 / messages as f64,
        rate: messages as f64 / elapsed.as_secs_f64(),
        p50: flow.percentile_ms(0.5),
        p99: flow.percentile_ms(0.99),
    };
    progress(&format!(
        "QoS {qos} {:8}: {:6.2} us/in, {:6.0} in/s, p50 {:.2} ms, p99 {:.2} ms, {} duplicates",
        under.name(),
        figures.us_in,
        figures.rate,
        figures.p50,
        figures.p99,
        ledger.duplicates()
    ));
    figures
}

/// Bridge and Windlass in turns, each round on a fresh broker.
fn in_turns(qos: u8, rounds: usize, messages: u64, rate: Option<u32>) -> Vec<(Figures, Figures)> {
    (0..rounds)
        .map(|round| {
            progress(&format!("round {} of {rounds}", round + 1));
            let broker = Mosquitto::start();
            let bridge = Under::Bridge(Box::new(Bridge::start(&broker, qos)));
            let yardstick = send(&broker, &bridge, qos, messages, rate);
            drop(bridge);
            let windlass =
                Under::Windlass(Box::new(ready(&warm(&broker, qos), &["plant"], &["warm"])));
            (yardstick, send(&broker, &windlass, qos, messages, rate))
        })
        .collect()
}

fn middle(measured: &[(Figures, Figures)], of: impl Fn(&(Figures, Figures)) -> f64) -> f64 {
    median(measured.iter().map(of).collect())
}

fn messages(qos: u8) -> u64 {
    if qos == 0 { 150_000 } else { 60_000 }
}

pub(crate) fn flood(qos: u8, rounds: usize) -> Vec<Row> {
    let measured = in_turns(qos, rounds, messages(qos), None);
    let note = format!(
        "{:.1} us/in beside {:.1}; {:.0} in/s beside {:.0}",
        middle(&measured, |(_, w)| w.us_in),
        middle(&measured, |(b, _)| b.us_in),
        middle(&measured, |(_, w)| w.rate),
        middle(&measured, |(b, _)| b.rate)
    );
    let (what, must) = if qos == 0 {
        ("QoS 0 flood", 2.0)
    } else {
        ("QoS 1 flood, acknowledged end to end", 1.5)
    };
    vec![Row::new(
        what,
        "x bridge",
        must,
        0.8,
        middle(&measured, |(b, w)| w.us_in / b.us_in),
        note,
    )]
}

pub(crate) fn latency(rounds: usize) -> Vec<Row> {
    let measured = in_turns(1, rounds, 20_000, Some(2000));
    let beside = |of: fn(&Figures) -> f64, unit: &str| {
        format!(
            "{:.2} {unit} beside {:.2}",
            middle(&measured, |(_, w)| of(w)),
            middle(&measured, |(b, _)| of(b))
        )
    };
    let ratio = |of: fn(&Figures) -> f64| middle(&measured, |(b, w)| of(w) / of(b));
    vec![
        Row::new(
            "QoS 1 at 2000/s, p50",
            "x bridge",
            2.3,
            1.6,
            ratio(|f| f.p50),
            beside(|f| f.p50, "ms"),
        ),
        Row::new(
            "QoS 1 at 2000/s, p99",
            "x bridge",
            3.9,
            2.0,
            ratio(|f| f.p99),
            beside(|f| f.p99, "ms"),
        ),
        Row::new(
            "QoS 1 at 2000/s, CPU",
            "x bridge",
            4.9,
            2.2,
            ratio(|f| f.us_in),
            beside(|f| f.us_in, "us/in"),
        ),
    ]
}

/// The yardstick by itself: whether this machine and the tools are fit to measure.
pub(crate) fn bridge_alone(rounds: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for (qos, count, rate, what) in [
        (0, messages(0), None, "bridge, QoS 0 flood"),
        (1, messages(1), None, "bridge, QoS 1 flood"),
        (1, 20_000, Some(2000), "bridge, QoS 1 at 2000/s"),
    ] {
        let measured: Vec<Figures> = (0..rounds)
            .map(|_| {
                let broker = Mosquitto::start();
                let bridge = Under::Bridge(Box::new(Bridge::start(&broker, qos)));
                send(&broker, &bridge, qos, count, rate)
            })
            .collect();
        let middle = |of: fn(&Figures) -> f64| median(measured.iter().map(of).collect());
        let note = format!(
            "{:.0} in/s, p50 {:.2} ms, p99 {:.2} ms",
            middle(|f| f.rate),
            middle(|f| f.p50),
            middle(|f| f.p99)
        );
        rows.push(Row::plain(what, "us/in", middle(|f| f.us_in), note));
    }
    rows
}
