//! A POST for each message: what that costs beside publishing it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use windlass_tests::load::Publish;
use windlass_tests::machine::usage;
use windlass_tests::manifest::Manifest;
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::nginx::Nginx;
use windlass_tests::oracle::{median, passes};
use windlass_tests::pusher::Client;

use crate::flood::{WARM_UP, qos1, ready};
use crate::progress;
use crate::table::Row;

const MESSAGES: u64 = 60_000;

/// The requests that nginx has answered, without those that ask for their number.
struct Counter {
    client: Client,
    port: u16,
    asked: u64,
}

impl Counter {
    fn requests(&mut self) -> u64 {
        self.asked += 1;
        let answer = self
            .client
            .send("GET", "/status", &[], b"")
            .expect("nginx answers");
        let numbers = answer.body.lines().nth(2).unwrap_or_default().to_owned();
        let all = numbers
            .split_whitespace()
            .nth(2)
            .and_then(|word| word.parse::<u64>().ok());
        all.unwrap_or_else(|| panic!("nginx on {} says: {}", self.port, answer.body)) - self.asked
    }
}

/// Microseconds of CPU per input message, and messages per second.
fn one_post_each() -> (f64, f64) {
    let broker = Mosquitto::start();
    let nginx = Nginx::start(false, None, "location = /status { stub_status; }");
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule(
            "warm",
            "SELECT * FROM demo WHERE temperature > 50",
            json!([{ "rest": { "url": nginx.url("/in"), "method": "post", "sendSingle": true } }]),
        );
    let windlass = ready(&manifest, &["plant"], &["warm"]);
    let mut counter = Counter {
        client: Client::new(nginx.port()),
        port: nginx.port(),
        asked: 0,
    };
    let start = counter.requests();
    let highest = Arc::new(AtomicU64::new(0));
    let mut send = |first: u64, count: u64| {
        let publish = Publish {
            first,
            ahead: Some((Arc::clone(&highest), 2000)),
            ..Publish::new(broker.port(), "in/1", 1)
        };
        let publisher = publish.count(count).start();
        let expected = (0..first + count).filter(|seq| passes(*seq)).count() as u64;
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let there = counter.requests() - start;
            // Half of all messages pass.
            highest.fetch_max(there * 2, Ordering::Relaxed);
            if there >= expected {
                break;
            }
            assert!(
                Instant::now() < end,
                "{there} of {expected} POSTs: {}",
                windlass.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(publisher.join().sent, count);
    };
    send(0, WARM_UP);
    let (before, begin) = (usage(windlass.pid()).cpu, Instant::now());
    send(WARM_UP, MESSAGES);
    let elapsed = begin.elapsed();
    let cpu = usage(windlass.pid()).cpu - before;
    (
        cpu.as_secs_f64() * 1e6 / MESSAGES as f64,
        MESSAGES as f64 / elapsed.as_secs_f64(),
    )
}

pub(crate) fn posts(rounds: usize) -> Vec<Row> {
    let measured: Vec<(f64, f64, f64)> = (0..rounds)
        .map(|round| {
            progress(&format!("round {} of {rounds}", round + 1));
            let mqtt = qos1(MESSAGES);
            let (http, rate) = one_post_each();
            progress(&format!(
                "HTTP: {http:.2} us/in, {rate:.0} in/s; MQTT QoS 1: {mqtt:.2} us/in"
            ));
            (mqtt, http, rate)
        })
        .collect();
    let middle = |of: &dyn Fn(&(f64, f64, f64)) -> f64| median(measured.iter().map(of).collect());
    let note = format!(
        "{:.1} us/in beside {:.1}; {:.0} in/s",
        middle(&|it| it.1),
        middle(&|it| it.0),
        middle(&|it| it.2)
    );
    vec![Row::new(
        "HTTP, one POST per message, CPU",
        "x QoS 1",
        1.5,
        1.0,
        middle(&|it| it.1 / it.0),
        note,
    )]
}
