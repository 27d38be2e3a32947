//! Writes that go well, and every way in which one can go wrong.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::support::{Broker, batch, config, lab, limits, on_guests, sink};
use crate::error::ErrorKind;
use crate::runtime::{GuestError, GuestLimits, Overtime, Recycle, SinkGuest};

/// Writes one batch with a guest that misbehaves in `write`, and returns how it failed.
fn failure(deed: &'static str) -> GuestError {
    on_guests(async move {
        let (mut sink, _broker) = sink("write", deed, limits());
        sink.open().await.unwrap();
        match sink.write(batch(&["a"])).await {
            Err(error) => error,
            Ok(_) => panic!("{deed} went well"),
        }
    })
}

fn trap(deed: &'static str) -> (&'static str, String) {
    match failure(deed) {
        GuestError::Trapped { code, words, .. } => (code, words),
        other => panic!("{deed}: {other}"),
    }
}

#[test]
fn a_batch_that_passes_through_keeps_its_payloads_in_place() {
    on_guests(async {
        let (mut sink, broker) = sink("", "", limits());
        let batch = batch(&["a", "b"]);
        for _ in 0..3 {
            assert!(sink.write(batch.clone()).await.unwrap().is_empty());
        }
        let published = broker.published.lock();
        assert_eq!(published.len(), 3);
        assert_eq!(published[0][1].payload.as_ptr(), batch[1].payload.as_ptr());
        assert_eq!(sink.stats().instances.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn every_trap_is_named_with_the_guests_own_words() {
    let (code, words) = trap("panic");
    assert_eq!(code, "unreachable");
    assert!(
        words.contains("on purpose, with words") && words.contains("deeds.rs"),
        "{words}"
    );
    for (deed, code) in [
        ("unreachable", "unreachable"),
        ("out-of-bounds", "memory-out-of-bounds"),
        ("divide", "unreachable"),
        ("call-nothing", "table-out-of-bounds"),
        ("overflow", "stack-overflow"),
        ("forge-handle", "host"),
        ("not-utf8", "host"),
        ("exit", "host"),
        ("handles", "host"),
        ("huge-argument", "host"),
        ("host-calls", "host"),
        ("amplify", "host"),
        ("pile-up", "host"),
    ] {
        let (found, words) = trap(deed);
        assert_eq!(found, code, "{deed}: {words}");
    }
    assert!(trap("divide").1.contains("divide by zero"));
    assert!(trap("handles").1.contains("handle limit exceeded"));
    assert!(
        trap("amplify")
            .1
            .contains("more than fits into the guest's memory")
    );
    assert!(
        trap("pile-up")
            .1
            .contains("of batches were made in one call")
    );
    assert!(trap("host-calls").1.contains("more than 100000 host calls"));
}

#[test]
fn a_panic_of_a_megabyte_is_cut() {
    let (_, words) = trap("panic-long");
    assert!(words.len() < 16 << 10, "{}", words.len());
}

#[test]
fn memory_ends_at_the_limit_and_the_trap_says_so() {
    on_guests(async {
        let small = GuestLimits {
            memory_bytes: Some(8 << 20),
            ..limits()
        };
        let (mut sink, _broker) = sink("write", "allocate", small);
        let error = sink.write(batch(&["a"])).await.unwrap_err().to_string();
        assert!(error.contains("may have 8"), "{error}");
        let stats = sink.stats();
        assert!(stats.memory_peak_bytes.load(Ordering::Relaxed) <= 8 << 20);
        assert!(stats.denied_grows.load(Ordering::Relaxed) > 0);
    });
}

#[test]
fn a_guest_larger_than_its_limit_cannot_start_and_says_why() {
    on_guests(async {
        let (mut sink, _broker) = sink(
            "",
            "",
            GuestLimits {
                memory_bytes: Some(64 << 10),
                ..limits()
            },
        );
        let error = sink.open().await.unwrap_err();
        assert!(matches!(error, GuestError::CannotStart { .. }), "{error}");
        assert!(error.to_string().contains("MiB of memory"), "{error}");
    });
}

#[test]
fn a_loop_is_ended_at_its_limit_also_with_host_calls_in_it() {
    for deed in ["spin", "spin-host"] {
        let started = std::time::Duration::from_millis(0);
        let (error, took) = on_guests(async move {
            let (mut sink, _broker) = sink("write", deed, limits());
            sink.open().await.unwrap();
            let at = Instant::now();
            (sink.write(batch(&["a"])).await.unwrap_err(), at.elapsed())
        });
        assert!(
            matches!(
                error,
                GuestError::Overtime {
                    what: Overtime::Cpu(_),
                    ..
                }
            ),
            "{error}"
        );
        assert!(took > started + Duration::from_millis(195), "{took:?}");
        assert!(
            error
                .to_string()
                .contains("connector `misbehaving`, sink.write, rule `rule-1`"),
            "{error}"
        );
    }
}

#[test]
fn a_loop_in_open_or_close_is_ended_too() {
    on_guests(async {
        let (mut opening, _broker) = sink("open", "spin", limits());
        assert!(matches!(
            opening.open().await.unwrap_err(),
            GuestError::Overtime { .. }
        ));
        let (mut closing, _broker) = sink("close", "spin", limits());
        closing.open().await.unwrap();
        closing.close().await;
        assert!(!closing.is_running());
        assert_eq!(closing.stats().overtime.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn loops_do_not_keep_a_neighbour_from_its_turn() {
    on_guests(async {
        let mut loops = tokio::task::JoinSet::new();
        for _ in 0..8 {
            loops.spawn(async {
                let (mut sink, _broker) = sink("write", "spin", limits());
                sink.write(batch(&["a"])).await.is_err()
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (mut neighbour, broker) = sink("", "", limits());
        let at = Instant::now();
        neighbour.write(batch(&["a"])).await.unwrap();
        assert!(
            at.elapsed() < Duration::from_millis(1500),
            "{:?}",
            at.elapsed()
        );
        assert_eq!(broker.published.lock().len(), 1);
        // In turns with eight that take 10 ms each it would be a dozen.
        let mut beside = 0;
        let end = at + Duration::from_secs(20);
        while !loops.is_empty() && Instant::now() < end {
            if let Some(ended) = loops.try_join_next() {
                assert!(ended.unwrap());
                continue;
            }
            neighbour.write(batch(&["a"])).await.unwrap();
            tokio::task::yield_now().await;
            beside += 1;
        }
        assert!(loops.is_empty());
        assert!(beside > 200, "{beside} writes beside the loops");
    });
}

#[test]
fn a_host_call_that_hangs_is_an_error_and_the_instance_lives_on() {
    on_guests(async {
        let short = GuestLimits {
            call_deadline: Duration::from_millis(300),
            ..limits()
        };
        let (mut sink, broker) = sink("", "", short);
        sink.open().await.unwrap();
        broker.hangs.store(true, Ordering::SeqCst);
        let error = sink.write(batch(&["a"])).await.unwrap_err();
        assert_eq!(error.said().unwrap().kind, ErrorKind::Transient, "{error}");
        broker.hangs.store(false, Ordering::SeqCst);
        sink.write(batch(&["a"])).await.unwrap();
        assert_eq!(sink.stats().instances.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn time_in_a_host_call_is_no_time_on_the_processor() {
    on_guests(async {
        let short = GuestLimits {
            cpu_per_call: Duration::from_millis(20),
            call_deadline: Duration::from_millis(400),
            ..limits()
        };
        let (mut sink, broker) = sink("", "", short);
        sink.open().await.unwrap();
        broker.hangs.store(true, Ordering::SeqCst);
        let error = sink.write(batch(&["a"])).await.unwrap_err();
        assert!(error.said().is_some(), "{error}");
        let stats = sink.stats();
        assert!(stats.cpu_ns.load(Ordering::Relaxed) < 20_000_000);
        assert!(stats.wait_ns.load(Ordering::Relaxed) > 300_000_000);
    });
}

#[test]
fn after_a_trap_the_next_write_has_a_new_instance_within_milliseconds() {
    on_guests(async {
        let (mut sink, broker) = sink("write", "poison", limits());
        sink.write(batch(&["good"])).await.unwrap();
        let mut slowest = Duration::ZERO;
        for _ in 0..10 {
            assert!(sink.write(batch(&["poison"])).await.is_err());
            let at = Instant::now();
            sink.write(batch(&["good"])).await.unwrap();
            slowest = slowest.max(at.elapsed());
        }
        println!("replaced and written within {slowest:?}");
        assert!(slowest < Duration::from_millis(100), "{slowest:?}");
        assert_eq!(broker.published.lock().len(), 11);
        let stats = sink.stats();
        assert_eq!(stats.traps.load(Ordering::Relaxed), 10);
        assert_eq!(stats.instances.load(Ordering::Relaxed), 11);
    });
}

#[test]
fn what_a_guest_says_arrives_whole_and_cut_to_size() {
    on_guests(async {
        let (mut sink, _broker) = sink("write", "error-long", limits());
        let error = sink.write(batch(&["a"])).await.unwrap_err();
        let said = error.said().unwrap();
        assert_eq!(
            (said.kind, said.code.as_str()),
            (ErrorKind::Transient, "asked")
        );
        assert_eq!(said.retry_after, Some(Duration::from_millis(7)));
        assert_eq!(said.message.len(), 4096);
        assert!(sink.is_running());
    });
}

#[test]
fn rejections_arrive_and_one_outside_the_batch_fails_it() {
    on_guests(async {
        let (mut first, _broker) = sink("write", "reject-first", limits());
        let rejected = first.write(batch(&["a", "b"])).await.unwrap();
        assert_eq!((rejected.len(), rejected[0].index), (1, 0));
        let (mut outside, _broker) = sink("write", "reject-outside", limits());
        let error = outside.write(batch(&["a", "b"])).await.unwrap_err();
        assert_eq!(error.said().unwrap().code, "rejection-index", "{error}");
    });
}

#[test]
fn lies_are_answered_and_nothing_outside_is_there() {
    on_guests(async {
        for deed in [
            "forge-ids",
            "out-of-range",
            "contents",
            "subscribe",
            "outside",
        ] {
            let (mut sink, _broker) = sink("write", deed, limits());
            if let Err(error) = sink.write(batch(&["a"])).await {
                panic!("{deed}: {error}");
            }
        }
    });
}

#[test]
fn requests_run_at_once_as_many_as_allowed_and_are_answered_in_order() {
    on_guests(async {
        let (mut sink, broker) = sink("write", "http", limits());
        if let Err(error) = sink.write(batch(&["a"])).await {
            panic!("{error}");
        }
        assert_eq!(broker.other.most_at_once.load(Ordering::SeqCst), 4);
    });
}

#[test]
fn values_of_statements_arrive_as_they_are() {
    on_guests(async {
        let (mut sink, _broker) = sink("write", "sql", limits());
        if let Err(error) = sink.write(batch(&["a"])).await {
            panic!("{error}");
        }
    });
}

#[test]
fn a_batch_kept_over_calls_traps_with_a_sentence() {
    on_guests(async {
        let (mut sink, _broker) = sink("write", "kept-handle", limits());
        sink.write(batch(&["a"])).await.unwrap();
        let error = sink.write(batch(&["a"])).await.unwrap_err();
        assert!(
            error.to_string().contains("a batch is good for one call"),
            "{error}"
        );
    });
}

#[test]
fn a_flood_of_lines_is_held_back_and_counted() {
    on_guests(async {
        let (mut sink, _broker) = sink(
            "write",
            "flood",
            GuestLimits {
                cpu_per_call: Duration::from_secs(5),
                call_deadline: Duration::from_secs(10),
                ..limits()
            },
        );
        sink.write(batch(&["a"])).await.unwrap();
        let dropped = sink.stats().log_dropped.load(Ordering::Relaxed);
        assert!(dropped > 39_000, "{dropped}");
    });
}

#[test]
fn an_instance_that_leaks_is_recycled_between_calls_and_nobody_notices() {
    on_guests(async {
        let small = GuestLimits {
            memory_bytes: Some(16 << 20),
            ..limits()
        };
        let (mut sink, broker) = sink("write", "leak", small);
        for _ in 0..100 {
            sink.write(batch(&["a"])).await.unwrap();
        }
        let stats = sink.stats();
        assert_eq!(broker.published.lock().len(), 100);
        assert_eq!(stats.traps.load(Ordering::Relaxed), 0);
        let recycled = stats.recycled_memory.load(Ordering::Relaxed);
        assert!((7..=15).contains(&recycled), "{recycled}");
    });
}

#[test]
fn an_instance_is_recycled_after_so_many_calls_and_at_an_age() {
    on_guests(async {
        let recycle = Recycle {
            calls: Some(10),
            ..Recycle::default()
        };
        let (mut sink, _broker) = sink(
            "",
            "",
            GuestLimits {
                recycle,
                ..limits()
            },
        );
        for _ in 0..25 {
            sink.write(batch(&["a"])).await.unwrap();
        }
        assert_eq!(sink.stats().recycled_calls.load(Ordering::Relaxed), 2);
        let recycle = Recycle {
            age: Some(Duration::ZERO),
            ..Recycle::default()
        };
        let broker = std::sync::Arc::new(Broker::default());
        let config = config(
            &broker,
            "",
            "",
            GuestLimits {
                recycle,
                ..limits()
            },
        );
        let mut old = SinkGuest::new(&lab().runtime, lab().connector.clone(), config);
        for _ in 0..3 {
            old.write(batch(&["a"])).await.unwrap();
        }
        assert_eq!(old.stats().recycled_age.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn an_instance_put_away_costs_no_memory_and_comes_back_on_demand() {
    on_guests(async {
        let (mut sink, broker) = sink("", "", limits());
        sink.write(batch(&["a"])).await.unwrap();
        assert!(sink.stats().memory_bytes.load(Ordering::Relaxed) > 0);
        sink.put_away().await;
        assert_eq!(sink.stats().memory_bytes.load(Ordering::Relaxed), 0);
        sink.write(batch(&["b"])).await.unwrap();
        assert_eq!(broker.published.lock().len(), 2);
    });
}
