//! Reads: what is taken, what settles, what comes again, and what survives an instance.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::support::{Broker, limits, on_guests, source};
use crate::message::Batch;
use crate::runtime::{GuestError, GuestLimits, Overtime, Read, Recycle, SourceGuest, Takes};

async fn messages(source: &mut SourceGuest) -> (Batch, Option<String>, Takes) {
    match source.read().await {
        Ok(Read::Messages {
            batch,
            checkpoint,
            takes,
        }) => (batch, checkpoint, takes),
        other => panic!("{other:?}"),
    }
}

fn texts(batch: &Batch) -> Vec<&str> {
    batch
        .iter()
        .map(|message| str::from_utf8(&message.payload).unwrap())
        .collect()
}

#[test]
fn a_read_is_settled_by_its_takes_in_order_and_not_before() {
    on_guests(async {
        let (mut source, broker) = source("", "", limits());
        source.open(None).await.unwrap();
        for key in 1..=3 {
            broker.push(key, "x");
        }
        let (batch, checkpoint, takes) = messages(&mut source).await;
        assert_eq!(
            (batch.len(), checkpoint.as_deref(), takes.len()),
            (3, Some("1"), 3)
        );
        assert!(takes.lossless() && broker.settled().is_empty());
        takes.settle();
        assert_eq!(broker.settled(), [1, 2, 3]);
    });
}

#[test]
fn a_read_that_waits_costs_nothing_and_ends_when_the_host_wakes_it() {
    on_guests(async {
        // Shorter than the wait: the time inside `receive` does not count.
        let (mut source, _broker) = source(
            "",
            "",
            GuestLimits {
                call_deadline: Duration::from_millis(100),
                ..limits()
            },
        );
        source.open(None).await.unwrap();
        let waker = source.waker();
        let waiting = tokio::task::JoinSet::from_iter([async move {
            let (batch, _, takes) = messages(&mut source).await;
            (
                batch.len(),
                takes.is_empty(),
                source.stats().cpu_ns.load(Ordering::Relaxed),
            )
        }]);
        tokio::time::sleep(Duration::from_millis(400)).await;
        let at = Instant::now();
        waker.wake();
        let (len, empty, cpu) = waiting.join_all().await[0];
        assert!(
            at.elapsed() < Duration::from_millis(50),
            "{:?}",
            at.elapsed()
        );
        assert!(len == 0 && empty && cpu < 50_000_000, "{cpu}");
    });
}

#[test]
fn a_wake_between_two_reads_is_not_lost_and_does_not_last() {
    on_guests(async {
        let (mut source, broker) = source("", "", limits());
        source.open(None).await.unwrap();
        source.waker().wake();
        let (batch, _, _takes) = messages(&mut source).await;
        assert!(batch.is_empty());
        broker.push(1, "a");
        let (batch, _, _takes) = messages(&mut source).await;
        assert_eq!(texts(&batch), ["a"]);
    });
}

#[test]
fn a_guest_that_ignores_wakes_is_replaced() {
    on_guests(async {
        let (mut source, _broker) = source("read", "ignore-wakes", limits());
        source.open(None).await.unwrap();
        source.waker().wake();
        let error = source.read().await.unwrap_err();
        assert!(
            matches!(
                error,
                GuestError::Overtime {
                    what: Overtime::IgnoredWakes,
                    ..
                }
            ),
            "{error}"
        );
    });
}

#[test]
fn what_a_read_took_that_failed_comes_again_first_and_in_order() {
    for deed in ["error", "panic", "spin"] {
        on_guests(async move {
            let (mut source, broker) = source("read", deed, limits());
            source.open(None).await.unwrap();
            for (key, text) in [(1, "a"), (2, "b")] {
                broker.push(key, text);
            }
            assert!(source.read().await.is_err());
            assert_eq!(source.waiting(), 2);
            broker.push(3, "c");
            let inbox = Arc::clone(&broker.inboxes.lock()[0]);
            let again = inbox.receive(10).await.unwrap();
            let seen: Vec<_> = again
                .iter()
                .map(|delivery| delivery.message.payload.clone())
                .collect();
            assert_eq!(seen, ["a", "b", "c"], "{deed}");
            assert!(again.iter().all(|delivery| delivery.take.is_some()));
            assert!(broker.settled().is_empty());
        });
    }
}

#[test]
fn a_read_that_is_dropped_half_way_gives_back_and_the_next_one_goes_on() {
    on_guests(async {
        let (mut source, broker) = source(
            "read",
            "spin",
            GuestLimits {
                cpu_per_call: Duration::from_secs(5),
                ..limits()
            },
        );
        source.open(None).await.unwrap();
        broker.push(1, "a");
        let cut = tokio::time::timeout(Duration::from_millis(100), source.read()).await;
        assert!(cut.is_err());
        assert_eq!(source.waiting(), 1);
    });
}

#[test]
fn idle_and_finished_settle_what_the_read_took() {
    on_guests(async {
        let (mut idle, broker) = source("read", "idle", limits());
        idle.open(None).await.unwrap();
        broker.push(1, "a");
        assert!(
            matches!(idle.read().await, Ok(Read::Idle(wait)) if wait == Duration::from_millis(30))
        );
        assert_eq!(broker.settled(), [1]);
        let (mut finish, broker) = source("read", "finish", limits());
        finish.open(None).await.unwrap();
        broker.push(2, "a");
        assert!(matches!(finish.read().await, Ok(Read::Finished)));
        assert_eq!(broker.settled(), [2]);
    });
}

#[test]
fn a_new_instance_has_the_same_subscription_and_goes_on_at_the_newest_checkpoint() {
    on_guests(async {
        let recycle = Recycle {
            calls: Some(2),
            ..Recycle::default()
        };
        let (mut source, broker) = source(
            "",
            "",
            GuestLimits {
                recycle,
                ..limits()
            },
        );
        source.open(Some("40".to_owned())).await.unwrap();
        for key in 1..=7 {
            broker.push(key, "x");
            let (batch, checkpoint, takes) = messages(&mut source).await;
            assert_eq!((batch.len(), checkpoint), (1, Some((40 + key).to_string())));
            takes.settle();
        }
        assert_eq!(source.stats().instances.load(Ordering::Relaxed), 4);
        assert_eq!(broker.subscribed.load(Ordering::SeqCst), 1);
        assert_eq!(broker.ended.load(Ordering::SeqCst), 0);
        source.close().await;
        assert_eq!(broker.ended.load(Ordering::SeqCst), 0);
        broker.push(8, "nobody reads this");
        assert_eq!(source.unsubscribe(), 1);
        assert_eq!(broker.ended.load(Ordering::SeqCst), 1);
        assert_eq!(broker.settled().last(), Some(&8));
    });
}

#[test]
fn a_source_that_is_dropped_settles_nothing() {
    on_guests(async {
        let (mut source, broker) = source("", "", limits());
        source.open(None).await.unwrap();
        broker.push(1, "a");
        drop(source);
        assert_eq!(broker.ended.load(Ordering::SeqCst), 1);
        broker.inboxes.lock().clear();
        assert!(broker.settled().is_empty());
    });
}

#[test]
fn the_batch_of_an_earlier_read_cannot_be_returned() {
    on_guests(async {
        let (mut source, broker) = source("read", "stale", limits());
        source.open(None).await.unwrap();
        broker.push(1, "a");
        messages(&mut source).await.2.settle();
        let error = source.read().await.unwrap_err();
        assert!(
            error.to_string().contains("a batch is good for one call"),
            "{error}"
        );
    });
}

#[test]
fn an_instance_that_keeps_handles_is_recycled() {
    on_guests(async {
        let recycle = Recycle {
            stale_batches: 100,
            ..Recycle::default()
        };
        let (mut source, broker) = source(
            "read",
            "keep",
            GuestLimits {
                recycle,
                ..limits()
            },
        );
        source.open(None).await.unwrap();
        for round in 0..30 {
            for key in 0..10 {
                broker.push(round * 10 + key, "x");
            }
            messages(&mut source).await.2.settle();
        }
        assert_eq!(source.stats().traps.load(Ordering::Relaxed), 0);
        assert_eq!(source.stats().recycled_handles.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn a_source_that_always_traps_is_slowed_down_and_says_how_long() {
    on_guests(async {
        let (mut source, broker) = source("read", "panic", limits());
        source.open(None).await.unwrap();
        broker.push(1, "poison");
        let (mut traps, mut idles) = (0, 0);
        for _ in 0..60 {
            match source.read().await {
                Err(GuestError::Trapped { .. }) => traps += 1,
                Ok(Read::Idle(wait)) => {
                    assert!(!wait.is_zero() && wait <= Duration::from_secs(5));
                    idles += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(traps >= 30 && idles >= 20, "{traps} {idles}");
    });
}

#[test]
fn a_source_whose_open_fails_keeps_its_subscriptions_for_the_next_attempt() {
    on_guests(async {
        let (mut source, broker) = source("", "", limits());
        source.open(None).await.unwrap();
        broker.push(1, "a");
        source.put_away().await;
        let (batch, _, takes) = messages(&mut source).await;
        assert_eq!(texts(&batch), ["a"]);
        takes.settle();
        assert_eq!(broker.subscribed.load(Ordering::SeqCst), 1);
        let broker: Arc<Broker> = broker;
        assert_eq!(broker.settled(), [1]);
    });
}
