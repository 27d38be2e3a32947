//! Dialling, waiting, states, stopping.

use std::sync::atomic::Ordering;

use super::*;

#[tokio::test(start_paused = true)]
async fn the_states_are_those_of_the_table_at_each_step() {
    let (pool, far) = (pool(), far("states"));
    far.mode.send_replace(Mode::Refuse);
    create(&pool, "states");
    assert_eq!(pool.get(T, "states").unwrap().status, "connecting");
    let status = until(&pool, "states", "disconnected").await;
    assert_eq!(
        (status.metric(), status.err.unwrap()),
        (-1, "cannot reach the server: states refused ".to_owned())
    );
    far.mode.send_replace(Mode::Up);
    let status = until(&pool, "states", "connected").await;
    assert_eq!(
        (status.metric(), status.err, status.generation),
        (1, None, 1)
    );
    far.mode.send_replace(Mode::Refuse);
    let status = until(&pool, "states", "connecting").await;
    assert_eq!(status.err.as_deref(), Some("the server hung up"));
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(
            pool.get(T, "states").unwrap().metric,
            0,
            "was up: it is being brought back"
        );
    }
    assert!(pool.get(T, "states").unwrap().err.is_some());
    far.mode.send_replace(Mode::Up);
    assert_eq!(until(&pool, "states", "connected").await.generation, 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_accepts_and_hangs_up_is_not_hammered() {
    let (pool, far) = (pool(), far("hangs-up"));
    far.mode.send_replace(Mode::AcceptAndClose);
    create(&pool, "hangs-up");
    tokio::time::sleep(60 * SECOND).await;
    let dials = far.dials.lock().len();
    assert!((8..=30).contains(&dials), "{dials} dials in a minute");
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_tried_at_most_every_half_minute() {
    let (pool, far) = (pool(), far("denies"));
    far.mode.send_replace(Mode::Deny);
    create(&pool, "denies");
    tokio::time::sleep(600 * SECOND).await;
    let dials = far.dials.lock().clone();
    assert!(
        (10..=21).contains(&dials.len()),
        "{} dials in ten minutes",
        dials.len()
    );
    assert!(
        dials
            .windows(2)
            .all(|pair| pair[1] - pair[0] >= 30 * SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_work_is_not_tried_again_until_somebody_asks() {
    let (pool, far) = (pool(), far("never"));
    far.mode.send_replace(Mode::Misconfigured);
    create(&pool, "never");
    tokio::time::sleep(3600 * SECOND).await;
    assert_eq!(far.dials.lock().len(), 1);
    let status = pool.check_now(T, "never").await.unwrap();
    assert!(status.misconfigured && status.err.is_some() && status.next_attempt_ms.is_none());
    assert_eq!(far.dials.lock().len(), 2);
    far.mode.send_replace(Mode::Up);
    assert!(pool.check_now(T, "never").await.unwrap().is_up());
}

#[tokio::test(start_paused = true)]
async fn two_hundred_connections_come_back_without_a_storm() {
    let (pool, far) = (pool(), far("storm"));
    for number in 0..200 {
        pool.create_named(
            T,
            def(&format!("storm-{number}"), json!({"server": "storm"})),
        )
        .unwrap();
    }
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(far.open.load(Ordering::Relaxed), 200);
    far.dials.lock().clear();
    let gone = Instant::now();
    far.mode.send_replace(Mode::Refuse);
    tokio::time::sleep(60 * SECOND).await;
    let back = Instant::now();
    far.mode.send_replace(Mode::Up);
    tokio::time::sleep(15 * SECOND).await;
    assert_eq!(far.open.load(Ordering::Relaxed), 200, "all are back");
    let mut bins = std::collections::BTreeMap::<u128, usize>::new();
    for dial in far.dials.lock().iter().filter(|dial| **dial < back) {
        *bins.entry((*dial - gone).as_millis() / 100).or_default() += 1;
    }
    let (all, most) = (bins.values().sum::<usize>(), *bins.values().max().unwrap());
    assert!(most * 20 <= all, "{most} of {all} attempts within 100 ms");
    // All of them in step would pass that: sixty waves are less than two percent each. Spread over
    // their waits of about half a second, some forty of the two hundred fall into each bin.
    let most = *bins.range(100..).map(|(_, dials)| dials).max().unwrap();
    assert!(most <= 80, "{most} of 200 connections dial within 100 ms");
    assert!(all <= 200 * 130, "{all} attempts in a minute");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_has_a_deadline_and_a_defect_does_not_end_supervision() {
    let (pool, far) = (pool(), far("hangs"));
    far.mode.send_replace(Mode::Hang);
    create(&pool, "hangs");
    let began = Instant::now();
    let status = until(&pool, "hangs", "disconnected").await;
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(status.code.as_deref(), Some("timeout"));
    far.mode.send_replace(Mode::Panic);
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(
        pool.get(T, "hangs").unwrap().code.as_deref(),
        Some("internal")
    );
    far.mode.send_replace(Mode::Up);
    until(&pool, "hangs", "connected").await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_connected_is_deleted_at_once_and_leaves_no_task() {
    for (name, mode) in [
        ("del-refuse", Mode::Refuse),
        ("del-hang", Mode::Hang),
        ("del-deny", Mode::Deny),
    ] {
        let (pool, far) = (pool(), far(name));
        far.mode.send_replace(mode);
        create(&pool, name);
        tokio::time::sleep(7 * SECOND).await;
        pool.delete(T, name).unwrap();
        let began = Instant::now();
        no_tasks(&pool).await;
        assert!(
            began.elapsed() < Duration::from_millis(100),
            "{mode:?}: {:?}",
            began.elapsed()
        );
        let dials = far.dials.lock().len();
        tokio::time::sleep(120 * SECOND).await;
        assert_eq!(far.dials.lock().len(), dials, "no ghost dials");
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_every_connection_fast_and_unsubscribes_nothing() {
    let (pool, waits) = (pool(), far("stop-waits"));
    waits.mode.send_replace(Mode::Deny);
    create(&pool, "stop-waits");
    create(&pool, "stop-up");
    until(&pool, "stop-up", "connected").await;
    let lease = pool.lease(T, "stop-up", "rule").unwrap();
    let (_, guard) = subscribe(&lease, "f");
    let began = Instant::now();
    pool.stop(5 * SECOND).await;
    assert!(
        began.elapsed() < Duration::from_millis(100),
        "{:?}",
        began.elapsed()
    );
    drop((guard, lease));
    let up = far("stop-up");
    assert_eq!(up.unsubscribed.load(Ordering::Relaxed), 0);
    assert_eq!(
        (
            up.closes.load(Ordering::Relaxed),
            up.open.load(Ordering::Relaxed),
            pool.tasks()
        ),
        (1, 0, 0)
    );
    assert_eq!(pool.get(T, "stop-up").unwrap().status, "disconnected");
    let refused = pool.create_named(T, def("late", json!({"server": "late"})));
    assert!(matches!(refused, Err(PoolError::Stopping)));
}

#[tokio::test(start_paused = true)]
async fn a_persistent_session_waits_for_its_takers_but_a_minute_at_most_once_rules_run() {
    let known = booting_pool();
    let persistent = |id: &str| def(id, json!({"server": id, "persistent": true}));
    known.create_named(T, persistent("boot-a")).unwrap();
    tokio::time::sleep(30 * SECOND).await;
    let info = known.get(T, "boot-a").unwrap();
    assert_eq!(
        (info.status, far("boot-a").dials.lock().len()),
        ("connecting", 0)
    );
    known.takers_known();
    until(&known, "boot-a", "connected").await;

    let unknown = booting_pool();
    let began = Instant::now();
    unknown.create_named(T, persistent("boot-b")).unwrap();
    unknown
        .create_named(T, def("boot-c", json!({"server": "boot-c"})))
        .unwrap();
    until(&unknown, "boot-c", "connected").await;
    assert!(began.elapsed() < SECOND, "what keeps nothing does not wait");
    // Rules are still being started, however long that takes, and nobody can shorten it.
    tokio::time::sleep(200 * SECOND).await;
    let asked = unknown.check_now(T, "boot-b").await.unwrap();
    assert!(!asked.is_up());
    assert!(far("boot-b").dials.lock().is_empty());
    let began = Instant::now();
    unknown.rules_started();
    tokio::time::sleep(30 * SECOND).await;
    assert!(!unknown.check_now(T, "boot-b").await.unwrap().is_up());
    until(&unknown, "boot-b", "connected").await;
    assert_eq!(began.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn an_anonymous_persistent_session_is_dialled_with_its_first_subscription() {
    let pool = pool();
    let lease = |id: &str| {
        pool.lease_anonymous(
            T,
            id,
            "fake",
            props(json!({"server": id, "persistent": true})),
            "rule",
        )
        .unwrap()
    };
    let (source, _sink) = (lease("anon-source"), lease("anon-sink"));
    tokio::time::sleep(SECOND).await;
    assert!(far("anon-source").dials.lock().is_empty());
    let subscribed = Instant::now();
    let (_inbox, _guard) = subscribe(&source, "f");
    until(&pool, "anon-source", "connected").await;
    assert!(subscribed.elapsed() < Duration::from_millis(100));
    until(&pool, "anon-sink", "connected").await;
}

#[tokio::test(start_paused = true)]
async fn a_check_ends_the_wait_and_answers_how_the_attempt_ended() {
    let (pool, far) = (pool(), far("nudge"));
    far.mode.send_replace(Mode::Deny);
    create(&pool, "nudge");
    until(&pool, "nudge", "disconnected").await;
    let began = Instant::now();
    assert_eq!(pool.check_now(T, "nudge").await.unwrap().attempts, 2);
    far.mode.send_replace(Mode::Up);
    assert!(pool.check_now(T, "nudge").await.unwrap().is_up());
    assert!(began.elapsed() < SECOND);
    assert!(matches!(
        pool.check_now(T, "nobody").await,
        Err(PoolError::Unknown(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_check_of_properties_dials_once_and_enters_nothing() {
    let (pool, far) = (pool(), far("probe"));
    let check = || {
        pool.check(
            T,
            "fake",
            props(json!({"server": "probe", "password": "hunter2"})),
        )
    };
    assert_eq!(check().await.unwrap().peer.as_deref(), Some("probe"));
    far.mode.send_replace(Mode::Refuse);
    let refused = check().await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "cannot reach the server: probe refused ******"
    );
    far.mode.send_replace(Mode::Hang);
    assert!(
        check()
            .await
            .unwrap_err()
            .to_string()
            .contains("within 10 s")
    );
    assert_eq!(
        (far.dials.lock().len(), far.open.load(Ordering::Relaxed)),
        (3, 0)
    );
    assert!(pool.list(T, true).is_empty());
    let bad = pool
        .check(T, "fake", props(json!({"sever": "x"})))
        .await
        .unwrap_err();
    assert_eq!(bad.mistakes().len(), 2);
}
