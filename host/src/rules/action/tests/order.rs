//! Order, the way to disk, and what waits.

use super::*;

#[tokio::test(start_paused = true)]
async fn with_a_fast_sink_nothing_touches_the_disk_and_reads_settle_in_order() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.script.set(|_| ok(Duration::from_millis(1)));
    let running = bench.start(1024);
    for number in 0..500 {
        bench.send(&running, number);
        if number % 10 == 0 {
            sleep(Duration::from_millis(3)).await;
        }
    }
    until("all settled", || bench.settled().len() == 500).await;
    assert_eq!((bench.written(), bench.settled()), (all(500), all(500)));
    assert_eq!(running.action.spilled.load(Ordering::Relaxed), 0);
    assert_eq!(
        (running.action.disk().len(), running.action.disk().bytes()),
        (0, 0)
    );
    running.end(AT_ONCE).await;
    assert_eq!(bench.script.closed.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn while_links_are_down_everything_is_on_disk_and_settled_and_arrives_once_afterwards() {
    let bench = Bench::new(SpillOptions::default()).await;
    // The batch in hand hangs in its write when the links go.
    bench.script.set(|_| ok(Duration::from_secs(30)));
    let running = bench.start(1024);
    bench.send(&running, 0);
    until("a write", || {
        bench.script.writing.load(Ordering::Relaxed) == 1
    })
    .await;
    bench.links.send_replace(false);
    let begin = Instant::now();
    for number in 1..100 {
        bench.send(&running, number);
        sleep(Duration::from_millis(2)).await;
    }
    until("all settled", || bench.settled().len() == 100).await;
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "after {:?}",
        begin.elapsed()
    );
    assert_eq!((bench.written(), bench.settled()), (Vec::new(), all(100)));
    bench.script.set(|_| ok(AT_ONCE));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(
        bench.written(),
        [0],
        "only the write that was under way has ended"
    );
    bench.links.send_replace(true);
    until("all written", || bench.written().len() >= 100).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.written(), all(100));
    assert!(running.action.disk().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_waits_for_links_alone_is_settled_at_once() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.links.send_replace(false);
    let running = bench.start(1024);
    let begin = Instant::now();
    bench.send(&running, 0);
    until("settled", || bench.settled() == [0]).await;
    assert!(
        begin.elapsed() < Duration::from_millis(50),
        "after {:?}",
        begin.elapsed()
    );
    // And so are those that come one by one, long after.
    for number in 1..5 {
        sleep(Duration::from_secs(3)).await;
        bench.send(&running, number);
        sleep(Duration::from_millis(20)).await;
        assert_eq!(bench.settled(), all(number + 1));
    }
    bench.links.send_replace(true);
    until("all written", || bench.written() == all(5)).await;
}

#[tokio::test(start_paused = true)]
async fn behind_a_slow_sink_messages_go_to_disk_after_a_tenth_of_a_second_in_order() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.script.set(|_| ok(Duration::from_millis(300)));
    let running = bench.start(1024);
    bench.send(&running, 0);
    sleep(Duration::from_millis(20)).await;
    bench.send(&running, 1);
    sleep(Duration::from_millis(80)).await;
    assert_eq!(
        bench.settled(),
        [] as [u32; 0],
        "a tenth of a second is not over"
    );
    until("both settled", || bench.settled() == [0, 1]).await;
    assert!(bench.written().is_empty(), "the write is still under way");
    for number in 2..200 {
        bench.send(&running, number);
        sleep(Duration::from_millis(7)).await;
    }
    until("all written", || bench.written().len() >= 200).await;
    assert_eq!((bench.written(), bench.settled()), (all(200), all(200)));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_takes_long_holds_its_own_messages_a_second_at_most() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.script.set(|_| ok(Duration::from_secs(30)));
    let running = bench.start(1024);
    bench.send(&running, 0);
    sleep(Duration::from_millis(900)).await;
    assert!(bench.settled().is_empty());
    sleep(Duration::from_millis(200)).await;
    assert_eq!((bench.settled(), bench.written()), (vec![0], Vec::new()));
    until("written", || bench.written() == [0]).await;
    until("nothing is left on disk", || {
        running.action.disk().is_empty()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_sender_is_at_a_standstill_goes_to_disk_at_once() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.script.set(|_| ok(Duration::from_secs(30)));
    let running = bench.start(1024);
    bench.send(&running, 0);
    sleep(Duration::from_millis(500)).await;
    assert!(bench.settled().is_empty(), "nobody else waits");
    bench.pressing.store(true, Ordering::Relaxed);
    sleep(Duration::from_millis(30)).await;
    assert_eq!((bench.settled(), bench.written()), (vec![0], Vec::new()));
    until("written", || bench.written() == [0]).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_never_goes_to_disk_before_the_batch_in_hand() {
    let options = SpillOptions {
        max_messages: Some(10),
        ..SpillOptions::default()
    };
    let bench = Bench::new(options).await;
    bench.script.set(|_| ok(FOR_EVER));
    let running = bench.start(1024);
    // Twelve in hand do not fit; the three behind them would.
    let many = (0..12)
        .map(|number| Message::new(number.to_string()))
        .collect::<Vec<_>>();
    running
        .action
        .accept(many.into(), vec![bench.ticket(0)], Admission::Always);
    sleep(Duration::from_millis(10)).await;
    for number in 12..15 {
        bench.send(&running, number);
    }
    sleep(Duration::from_secs(5)).await;
    assert!(bench.settled().is_empty());
    running.end(AT_ONCE).await;
    bench.script.set(|_| ok(AT_ONCE));
    let _running = bench.start(1024);
    until("all written", || bench.written().len() >= 15).await;
    assert_eq!(bench.written(), all(15));
}

#[tokio::test(start_paused = true)]
async fn a_write_goes_on_while_the_disk_is_slow_and_nothing_is_lost_when_it_ends_first() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.script.set(|_| ok(Duration::from_millis(1500)));
    let disk = Arc::new(SlowDisk(bench.disk(), Duration::from_secs(1)));
    let running = bench.run(Action::new("sink_0".to_owned(), 1024, disk));
    let begin = Instant::now();
    for number in 0..40 {
        bench.send(&running, number);
        sleep(Duration::from_millis(50)).await;
    }
    // Moving to disk must not stretch the write to the sum of both.
    until("the first written", || !bench.written().is_empty()).await;
    assert!(
        begin.elapsed() <= Duration::from_millis(2100),
        "after {:?}",
        begin.elapsed()
    );
    until("all written", || bench.written().len() >= 40).await;
    assert_eq!((bench.written(), bench.settled()), (all(40), all(40)));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_queue_acknowledges_nothing_and_says_so_and_goes_on_when_there_is_room() {
    let options = SpillOptions {
        max_messages: Some(10),
        overflow: Some(Overflow::Block),
        ..SpillOptions::default()
    };
    let bench = Bench::new(options).await;
    bench.links.send_replace(false);
    let running = bench.start(1024);
    for number in 0..8 {
        bench.send(&running, number);
    }
    until("eight on disk", || bench.settled().len() == 8).await;
    for number in 8..30 {
        bench.send(&running, number);
    }
    sleep(Duration::from_secs(20)).await;
    assert_eq!(bench.settled(), all(8));
    let blocked = running.action.blocked().unwrap();
    assert!(blocked.contains("full"), "{blocked}");
    bench.links.send_replace(true);
    until("all settled", || bench.settled().len() == 30).await;
    assert_eq!(bench.written(), all(30));
    until("it says so no longer", || {
        running.action.blocked().is_none()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn with_the_disk_queue_switched_off_upstream_waits_and_nothing_is_lost() {
    let bench = Bench::new(SpillOptions {
        enabled: false,
        ..SpillOptions::default()
    })
    .await;
    bench.links.send_replace(false);
    let running = bench.start(16);
    for number in 0..50 {
        bench.send(&running, number);
    }
    sleep(Duration::from_secs(5)).await;
    assert!(bench.settled().is_empty() && running.action.blocked().is_some());
    bench.links.send_replace(true);
    until("all settled", || bench.settled() == all(50)).await;
    assert_eq!(bench.written(), all(50));
    // At the end there is no other place for the rest: it is not acknowledged.
    bench.links.send_replace(false);
    bench.send(&running, 50);
    running.end(Duration::from_millis(100)).await;
    assert!(bench.ledger.is_abandoned());
    assert_eq!(bench.settled(), all(50));
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_leaves_a_shared_source_holds_up_nobody_with_what_it_cannot_keep() {
    let bench = Bench::new(SpillOptions {
        enabled: false,
        ..SpillOptions::default()
    })
    .await;
    bench.links.send_replace(false);
    let running = bench.start(16);
    for number in 0..5 {
        bench.send(&running, number);
    }
    let action = Arc::clone(&running.action);
    action.let_go();
    running.end(Duration::from_millis(100)).await;
    assert_eq!((action.dropped(), bench.settled()), (5, all(5)));
    assert!(!bench.ledger.is_abandoned());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_dropped_newest_first_or_waits_and_never_touches_the_disk() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.links.send_replace(false);
    let running = bench.start(10);
    let offer = |number| {
        let ticket = bench.ledger.open(None, None, 1);
        running
            .action
            .accept(numbered(number), vec![ticket], Admission::Offer)
    };
    assert!(offer(0));
    sleep(Duration::from_millis(10)).await;
    let taken = (1..30).filter(|number| offer(*number)).count();
    assert_eq!((taken, running.action.dropped()), (10, 19));
    let full = tokio::time::timeout(Duration::from_secs(60), running.action.room()).await;
    assert!(full.is_err(), "who can wait, waits");
    assert_eq!(running.action.spilled.load(Ordering::Relaxed), 0);
    bench.links.send_replace(true);
    running.action.room().await;
    until("all written", || bench.written() == all(11)).await;
    // What comes again after the drop goes its way.
    assert!(offer(40));
    until("the next written", || bench.written().last() == Some(&40)).await;
    assert_eq!(running.action.spilled.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn an_offer_with_something_in_it_for_which_somebody_waits_is_always_taken() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.links.send_replace(false);
    let running = bench.start(1);
    for number in 0..10 {
        assert!(running.action.accept(
            numbered(number),
            vec![bench.ticket(number)],
            Admission::Offer
        ));
    }
    until("all settled", || bench.settled() == all(10)).await;
    assert_eq!(running.action.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_settle_only_when_they_are_kept_and_wait_for_room() {
    let bench = Bench::new(SpillOptions::default()).await;
    let running = bench.start(1024);
    let bury = |number| {
        let reason = ConnectionError::permanent("payload", "not JSON");
        running
            .action
            .bury(numbered(number), vec![bench.ticket(number)], reason);
    };
    bury(0);
    until("settled", || bench.settled() == [0]).await;
    assert_eq!(*bench.graves.buried.lock(), [0]);
    bench.graves.full.store(true, Ordering::Relaxed);
    bury(1);
    bury(2);
    sleep(Duration::from_secs(100)).await;
    assert_eq!(bench.settled(), [0]);
    // Meanwhile the rest of the action works.
    bench.send(&running, 3);
    until("written", || bench.written() == [3]).await;
    bench.graves.full.store(false, Ordering::Relaxed);
    until("settled", || bench.settled() == [0, 1, 2, 3]).await;
    assert_eq!(running.action.progress.buried.load(Ordering::Relaxed), 3);
    // A stop does not wait for ever for room, and acknowledges nothing then.
    bench.graves.full.store(true, Ordering::Relaxed);
    bury(4);
    running.end(Duration::from_secs(1)).await;
    assert!(bench.ledger.is_abandoned());
    assert_eq!(bench.settled().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_for_which_nobody_waits_are_bounded() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.graves.full.store(true, Ordering::Relaxed);
    let running = bench.start(10);
    for number in 0..1000 {
        let ticket = bench.ledger.open(None, None, 1);
        running.action.bury(
            numbered(number),
            vec![ticket],
            ConnectionError::permanent("payload", "not JSON"),
        );
    }
    assert_eq!(running.action.dropped(), 990);
}

#[tokio::test(start_paused = true)]
async fn an_idle_sink_is_put_away_once_and_serves_the_next_message() {
    let bench = Bench::new(SpillOptions::default()).await;
    let running = bench.start(1024);
    bench.send(&running, 0);
    sleep(Duration::from_secs(9)).await;
    assert_eq!(bench.script.put_away.load(Ordering::Relaxed), 0);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(bench.script.put_away.load(Ordering::Relaxed), 1);
    bench.send(&running, 1);
    until("settled", || bench.settled() == [0, 1]).await;
    running.end(AT_ONCE).await;
}

#[tokio::test(start_paused = true)]
async fn the_resend_interval_is_kept_between_tries() {
    let bench = Bench::new(SpillOptions::default()).await;
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = Arc::clone(&times);
    bench.script.set(move |_| {
        let mut seen = seen.lock();
        seen.push(Instant::now());
        if seen.len() < 5 {
            said(ConnectionError::transient("busy", "busy"))
        } else {
            ok(AT_ONCE)
        }
    });
    let action = Action::new("sink_0".to_owned(), 1024, bench.disk());
    let running = bench.run(action.with_retry(RetryPolicy::every(Duration::from_millis(70))));
    bench.send(&running, 0);
    until("written", || bench.written() == [0]).await;
    let waits: Vec<_> = times
        .lock()
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_millis())
        .collect();
    assert!(
        waits.iter().all(|wait| (70..=72).contains(wait)),
        "{waits:?}"
    );
}
