//! Stops, errors that end an action, and how it comes back.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_stop_while_a_write_hangs_puts_the_rest_on_disk_and_the_next_start_delivers_it_first() {
    // The queue's bound is smaller than what is left: it gives way this once.
    let options = SpillOptions {
        max_messages: Some(15),
        ..SpillOptions::default()
    };
    let bench = Bench::new(options).await;
    bench.script.set(|_| ok(FOR_EVER));
    let running = bench.start(1024);
    bench.send(&running, 0);
    sleep(Duration::from_millis(10)).await;
    for number in 1..40 {
        bench.send(&running, number);
    }
    let begin = Instant::now();
    running.end(Duration::from_secs(2)).await;
    assert!(
        (2000..2300).contains(&begin.elapsed().as_millis()),
        "after {:?}",
        begin.elapsed()
    );
    assert_eq!((bench.written(), bench.settled()), (Vec::new(), all(40)));
    assert!(!bench.ledger.is_abandoned());

    bench.script.set(|_| ok(Duration::from_millis(1)));
    let running = bench.start(1024);
    for number in 40..60 {
        bench.send(&running, number);
    }
    until("all written", || bench.written().len() >= 60).await;
    assert_eq!((bench.written(), bench.settled()), (all(60), all(60)));
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_on_disk_what_is_there_and_returns_soon() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.links.send_replace(false);
    let running = bench.start(1024);
    for number in 0..20 {
        bench.send(&running, number);
    }
    until("all on disk", || bench.settled().len() == 20).await;
    running.end(Duration::from_secs(1)).await;
    bench.set.close().await;
    bench.links.send_replace(true);
    let running = bench.start(1024);
    bench.send(&running, 20);
    until("all written", || bench.written().len() >= 21).await;
    assert_eq!(bench.written(), all(21));
    running.end(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn after_the_end_nothing_is_taken_in_and_nothing_of_it_is_acknowledged() {
    let bench = Bench::new(SpillOptions::default()).await;
    let running = bench.start(1024);
    let action = Arc::clone(&running.action);
    running.end(Duration::from_secs(1)).await;
    action.accept(numbered(0), vec![bench.ticket(0)], Admission::Always);
    drop(action);
    assert!(bench.ledger.is_abandoned() && bench.settled().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_misconfigured_parks_the_action_and_what_comes_goes_to_disk() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.script.set(|_| {
        said(ConnectionError::misconfigured(
            "topic",
            "the topic is empty",
        ))
    });
    let running = bench.start(1024);
    bench.send(&running, 0);
    until("stopped", || running.action.stopped().is_some()).await;
    for number in 1..30 {
        bench.send(&running, number);
        sleep(Duration::from_millis(1)).await;
    }
    until("all settled", || bench.settled() == all(30)).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(
        bench.script.writing.load(Ordering::Relaxed),
        1,
        "no restart loop"
    );
    assert_eq!(
        *running.changes.lock(),
        [Some("the topic is empty".to_owned())]
    );
    running.end(Duration::from_secs(1)).await;
    bench.script.set(|_| ok(AT_ONCE));
    let _running = bench.start(1024);
    until("all written", || bench.written() == all(30)).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_strategy_tries_again_as_often_as_it_says_and_loses_nothing() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.script.set(|_| said(ConnectionError::denied()));
    let strategy = RestartStrategy {
        attempts: 3,
        ..RestartStrategy::default()
    };
    let action = Action::new("sink_0".to_owned(), 1024, bench.disk()).with_restart(Some(strategy));
    let running = bench.run(action);
    for number in 0..3 {
        bench.send(&running, number);
    }
    sleep(Duration::from_secs(3600)).await;
    let changes = running.changes.lock().clone();
    assert_eq!(
        changes.iter().filter(|change| change.is_some()).count(),
        4,
        "the first time and three more"
    );
    assert!(changes.last().unwrap().is_some() && running.action.stopped().is_some());
    running.end(Duration::from_secs(1)).await;

    let mut failures = 0;
    bench.script.set(move |_| {
        failures += 1;
        if failures < 3 {
            said(ConnectionError::denied())
        } else {
            ok(AT_ONCE)
        }
    });
    let action = Action::new("sink_0".to_owned(), 1024, bench.disk()).with_restart(Some(strategy));
    let running = bench.run(action);
    until("all written", || bench.written() == all(3)).await;
    assert!(running.action.stopped().is_none() && running.changes.lock().last().unwrap().is_none());
}
