//! What a call costs. Prints; the bounds are far away, for a machine that is busy with other things.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::support::{batch, limits, on_guests, sink, source};
use crate::runtime::Read;

#[test]
fn a_warm_write_that_publishes_costs_microseconds() {
    on_guests(async {
        let (mut sink, broker) = sink("", "", limits());
        broker.keeps_nothing.store(true, Ordering::Relaxed);
        let one = batch(&["x".repeat(100).as_str()]);
        let mut best = Duration::MAX;
        for _ in 0..10 {
            let at = Instant::now();
            for _ in 0..10_000 {
                sink.write(one.clone()).await.unwrap();
            }
            best = best.min(at.elapsed() / 10_000);
        }
        println!("guest call: {:.2} us", best.as_secs_f64() * 1e6);
        assert!(best < Duration::from_micros(100), "{best:?}");
    });
}

#[test]
fn a_warm_read_costs_microseconds() {
    on_guests(async {
        let (mut source, broker) = source("", "", limits());
        source.open(None).await.unwrap();
        let mut best = Duration::MAX;
        for _ in 0..10 {
            let mut spent = Duration::ZERO;
            for key in 0..5_000 {
                broker.push(key, "x");
                let at = Instant::now();
                let Ok(Read::Messages { takes, .. }) = source.read().await else {
                    panic!("no messages")
                };
                spent += at.elapsed();
                takes.settle();
            }
            best = best.min(spent / 5_000);
            broker.settled.0.lock().clear();
        }
        println!("handle pass-through: {:.2} us", best.as_secs_f64() * 1e6);
        assert!(best < Duration::from_micros(100), "{best:?}");
    });
}

#[test]
fn an_instance_is_made_in_less_than_milliseconds() {
    on_guests(async {
        let (mut sink, _broker) = sink("", "", limits());
        let mut best = Duration::MAX;
        for _ in 0..50 {
            let at = Instant::now();
            sink.open().await.unwrap();
            best = best.min(at.elapsed());
        }
        println!("closed, made and opened again: {best:?}");
        assert!(best < Duration::from_millis(5), "{best:?}");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_idle_instance_costs_little_memory() {
    /// Resident KiB of this process that are its own.
    fn private_kib() -> u64 {
        let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let of = |line: &str| {
            line.split_whitespace()
                .nth(1)
                .and_then(|kib| kib.parse::<u64>().ok())
        };
        rollup
            .lines()
            .filter(|line| line.starts_with("Private_"))
            .filter_map(of)
            .sum()
    }
    on_guests(async {
        let mut kept = Vec::new();
        let mut make = async || {
            let (mut sink, broker) = sink("", "", limits());
            sink.write(batch(&["x"])).await.unwrap();
            kept.push((sink, broker));
        };
        for _ in 0..10 {
            make().await;
        }
        let before = private_kib();
        for _ in 0..200 {
            make().await;
        }
        let each = private_kib().saturating_sub(before) / 200;
        println!("an idle instance: {each} KiB");
        assert!(each < 1024, "{each}");
    });
}
