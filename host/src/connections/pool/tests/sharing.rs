//! Leases, references, replacement, names, and what may be shown.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_replacement_keeps_subscriptions_and_never_has_two_links() {
    let (pool, far) = (pool(), far("swap"));
    create(&pool, "swap");
    until(&pool, "swap", "connected").await;
    let lease = pool.lease(T, "swap", "rule").unwrap();
    let (inbox, guard) = subscribe(&lease, "plant/#");
    let before = lease.connection();
    pool.replace(
        T,
        &def("swap", json!({"server": "swap", "password": "new"})),
    )
    .unwrap();
    assert!(!Arc::ptr_eq(&before, &lease.connection()));
    until(&pool, "swap", "connected").await;
    {
        let takers = far.takers.lock();
        let (number, filters, its) = takers.values().next().unwrap();
        assert_eq!(
            (takers.len(), *number, filters.as_slice()),
            (1, 1, ["plant/#".to_owned()].as_slice())
        );
        assert!(Arc::ptr_eq(its, &inbox));
    }
    assert_eq!(
        far.unsubscribed.load(Ordering::Relaxed),
        0,
        "the broker keeps the filter meanwhile"
    );
    assert_eq!(
        (
            far.most_open.load(Ordering::Relaxed),
            far.closes.load(Ordering::Relaxed)
        ),
        (1, 1)
    );
    drop(guard);
    assert_eq!(far.unsubscribed.load(Ordering::Relaxed), 1);
    assert_eq!(pool.get(T, "swap").unwrap().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_is_refused_changes_nothing() {
    let (pool, far) = (pool(), far("keep"));
    create(&pool, "keep");
    until(&pool, "keep", "connected").await;
    let _lease = pool.lease(T, "keep", "rule").unwrap();
    assert!(matches!(
        pool.replace(T, &def("keep", json!({"qos": 1}))),
        Err(PoolError::Invalid(_))
    ));
    let other = ConnectionDef {
        typ: "other".to_owned(),
        ..def("keep", json!({"server": "keep"}))
    };
    let refused = pool.replace(T, &other).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "connection keep is used by [rule]: its typ fake can't be changed to other"
    );
    assert!(matches!(
        pool.replace(T, &def("none", json!({"server": "x"}))),
        Err(PoolError::Unknown(_))
    ));
    tokio::time::sleep(SECOND).await;
    assert_eq!(
        (far.dials.lock().len(), pool.get(T, "keep").unwrap().status),
        (1, "connected")
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_use_is_not_deleted_and_the_rules_are_named() {
    let pool = pool();
    create(&pool, "used");
    let leases = ["b", "a", "b"].map(|rule| pool.lease(T, "used", rule).unwrap());
    let refused = pool.delete(T, "used").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "connection used can't be dropped due to rule references [a b]"
    );
    assert_eq!(pool.get(T, "used").unwrap().ref_count, 3);
    drop(leases);
    assert_eq!(pool.get(T, "used").unwrap().ref_count, 0);
    pool.delete(T, "used").unwrap();
    assert_eq!(
        pool.delete(T, "used").unwrap_err().to_string(),
        "connection used not existed"
    );
    assert!(matches!(
        pool.lease(T, "used", "a"),
        Err(PoolError::Unknown(_))
    ));
    no_tasks(&pool).await;
}

#[tokio::test(start_paused = true)]
async fn an_anonymous_connection_lives_as_long_as_its_last_lease() {
    let (pool, far) = (pool(), far("anon"));
    let given = || props(json!({"server": "anon"}));
    let first = pool
        .lease_anonymous(T, "r-s-t/1-mqtt-source", "fake", given(), "r")
        .unwrap();
    let second = pool
        .lease_anonymous(T, "r-s-t/1-mqtt-source", "fake", given(), "r")
        .unwrap();
    until(&pool, "r-s-t/1-mqtt-source", "connected").await;
    assert!(pool.list(T, false).is_empty());
    assert_eq!((pool.list(T, true).len(), first.info().ref_count), (1, 2));
    for refused in [
        pool.delete(T, first.id()),
        pool.replace(T, &def(first.id(), json!({"server": "x"}))),
    ] {
        assert_eq!(
            refused.unwrap_err().to_string(),
            "internal connection r-s-t/1-mqtt-source can't be edit"
        );
    }
    drop(first);
    assert_eq!(second.info().ref_count, 1);
    drop(second);
    assert!(pool.list(T, true).is_empty());
    no_tasks(&pool).await;
    assert_eq!(
        (far.open.load(Ordering::Relaxed), far.dials.lock().len()),
        (0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn rules_share_the_owner_of_an_exclusive_endpoint_also_across_a_restart() {
    let (pool, far) = (pool(), far("pair"));
    let given = || props(json!({"server": "pair", "endpoint": "tcp://h:7081"}));
    let one = pool
        .lease_anonymous(T, "x", "fake", given(), "one")
        .unwrap();
    let two = pool
        .lease_anonymous(T, "y", "fake", given(), "two")
        .unwrap();
    assert_eq!(one.id(), two.id());
    assert!(
        one.id().starts_with("fake-") && !one.id().contains("7081"),
        "{}",
        one.id()
    );
    assert_eq!(one.info().users, ["one", "two"]);
    until(&pool, one.id(), "connected").await;
    let named = pool.create_named(
        T,
        def(
            "named",
            json!({"server": "pair", "endpoint": "tcp://h:7081"}),
        ),
    );
    assert!(matches!(named, Err(PoolError::SameClient { other: Some(id) }) if id == one.id()));
    let refused = pool
        .lease_anonymous(
            T,
            "w",
            "fake",
            props(json!({"server": "pair", "endpoint": "tcp://h:7081", "password": "geheim"})),
            "three",
        )
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("rule one and rule two") && refused.contains("value of password"),
        "{refused}"
    );
    assert!(!refused.contains("geheim"), "{refused}");
    drop((one, two));
    let again = pool
        .lease_anonymous(T, "z", "fake", given(), "three")
        .unwrap();
    until(&pool, again.id(), "connected").await;
    assert_eq!(
        far.most_open.load(Ordering::Relaxed),
        1,
        "the old one is closed before the new one dials"
    );
}

#[tokio::test(start_paused = true)]
async fn a_second_client_of_the_same_name_is_refused_and_the_first_is_named_to_its_tenant_only() {
    let pool = pool();
    let client = || json!({"server": "same", "clientid": "c1"});
    pool.create_named(T, def("first", client())).unwrap();
    let refused = pool.create_named(T, def("second", client())).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("connection first is already this client"),
        "{refused}"
    );
    let refused = pool
        .create_named("other", def("second", client()))
        .unwrap_err();
    assert!(!refused.to_string().contains("first"), "{refused}");
    assert!(matches!(
        pool.lease_anonymous(T, "r", "fake", props(client()), "r"),
        Err(PoolError::SameClient { .. })
    ));
    pool.replace(T, &def("first", client())).unwrap();
    assert_eq!(pool.list(T, true).len(), 1);
    assert!(pool.list("other", true).is_empty() && pool.get("other", "first").is_none());
    assert!(matches!(
        pool.lease("other", "first", "r"),
        Err(PoolError::Unknown(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn names_types_and_properties_are_refused_with_what_is_allowed() {
    let pool = pool();
    let error = |id: &str, typ: &str, value| {
        let def = ConnectionDef {
            id: id.to_owned(),
            typ: typ.to_owned(),
            props: props(value),
        };
        let validated = pool.validate_new(T, &def).unwrap_err().to_string();
        assert_eq!(
            pool.create_named(T, def).unwrap_err().to_string(),
            validated
        );
        validated
    };
    let ok = || json!({"server": "s"});
    assert_eq!(error("", "fake", ok()), "id cannot be empty");
    assert_eq!(
        error("a ", "fake", ok()),
        "id 'a ' contains leading or trailing whitespace"
    );
    assert!(
        error("a/b", "fake", ok())
            .ends_with("only alphanumeric, hyphens and underscores are allowed")
    );
    assert_eq!(
        error("a", "phoney", ok()),
        "/typ: unknown connection type \"phoney\"; did you mean \"phony\"? Allowed: fake, other"
    );
    assert!(
        error("a", "fake", json!({"sever": "s"}))
            .contains("/props/sever: unknown property; did you mean \"server\"?")
    );
    pool.create_named(
        T,
        ConnectionDef {
            typ: "PHONY".to_owned(),
            ..def("a", ok())
        },
    )
    .unwrap();
    assert_eq!(pool.get(T, "a").unwrap().typ, "fake");
    assert_eq!(
        error("a", "fake", ok()),
        "connection a already been created"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stored_connection_that_cannot_be_built_is_there_says_why_and_heals() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool();
    let file = folder.path().join("pw");
    let reference = format!("file:{}", file.display());
    let mistakes = pool
        .restore_named(
            T,
            def("broken", json!({"server": "broken", "password": reference})),
        )
        .unwrap();
    assert_eq!(mistakes[0].at, "/props/password");
    let status = until(&pool, "broken", "disconnected").await;
    assert!(status.misconfigured && status.err.unwrap().contains("No such file"));
    let gone = ConnectionDef {
        typ: "gone".to_owned(),
        ..def("gone", json!({"password": "hunter2"}))
    };
    pool.restore_named(T, gone).unwrap();
    assert_eq!(pool.get(T, "gone").unwrap().props["password"], "******");
    until(&pool, "gone", "disconnected").await;
    assert!(
        pool.check_now(T, "gone")
            .await
            .unwrap_err()
            .to_string()
            .contains("unknown connection type")
    );
    assert!(pool.check_now(T, "broken").await.is_err());
    std::fs::write(file, "pw").unwrap();
    assert!(pool.check_now(T, "broken").await.unwrap().is_up());
    assert_eq!(pool.get(T, "broken").unwrap().props["password"], reference);
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_shown_and_a_mask_that_comes_back_keeps_it() {
    let (pool, far) = (pool(), far("secret"));
    far.mode.send_replace(Mode::Refuse);
    let given = def("secret", json!({"server": "secret", "password": "hunter2"}));
    pool.create_named(T, given.clone()).unwrap();
    until(&pool, "secret", "disconnected").await;
    let lease = pool.lease(T, "secret", "rule").unwrap();
    let shown = serde_json::to_string(&pool.list(T, true)).unwrap();
    let all = format!(
        "{shown}{pool:?}{lease:?}{given:?}{:?}",
        lease.status().borrow()
    );
    assert!(!all.contains("hunter2"), "{all}");
    assert!(shown.starts_with(
        r#"[{"id":"secret","typ":"fake","props":{"server":"secret","password":"******"},"isNamed":true,"status":"disconnected","err":"cannot reach the server: secret refused ******","refCount":1,"#
    ), "{shown}");
    let put = ConnectionDef {
        props: pool.get(T, "secret").unwrap().props,
        ..given
    };
    assert_eq!(
        pool.validate_replacement(T, &put).unwrap()["password"],
        "hunter2"
    );
    pool.replace(T, &put).unwrap();
    let status = until(&pool, "secret", "disconnected").await;
    assert!(
        status.err.unwrap().contains("******"),
        "the secret is still the one that is sent"
    );
}

#[tokio::test(start_paused = true)]
async fn memory_and_file_are_attached_and_stand_in_no_list() {
    let pool = pool();
    let bus = pool
        .lease_anonymous(T, "m", "Memory", Properties::new(), "rule")
        .unwrap();
    assert_eq!(
        (
            bus.status().borrow().word(),
            bus.interfaces().len(),
            &*bus.typ()
        ),
        ("connected", 1, "memory")
    );
    assert!(pool.list(T, true).is_empty() && pool.tasks() == 0);
    let refused = pool
        .lease_anonymous(T, "f", "file", Properties::new(), "rule")
        .unwrap_err();
    assert!(refused.to_string().contains("granted no folder"));
    assert!(matches!(
        pool.create_named(
            T,
            ConnectionDef {
                typ: "memory".to_owned(),
                ..def("m", json!({}))
            }
        ),
        Err(PoolError::Invalid(_))
    ));
}

#[test]
fn random_operations_from_many_threads_leave_no_reference_no_link_and_no_task() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let pool = runtime.block_on(async { pool() });
    let (far, stop) = (far("random"), AtomicBool::new(false));
    let act = |seed: u64| {
        let mut state = seed;
        let mut held = Vec::new();
        for _ in 0..1_500 {
            // A small generator (xorshift), so that a failure can be run again.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let id = format!("random-{}", state % 4);
            let given = || json!({"server": "random", "password": format!("{}", state % 7)});
            match (state >> 8) % 9 {
                0 | 1 => drop(pool.create_named(T, def(&id, given()))),
                2 => drop(pool.delete(T, &id)),
                3 => drop(pool.replace(T, &def(&id, given()))),
                4 | 5 => held.extend(pool.lease(T, &id, "rule").ok().map(|lease| {
                    let taken = subscribe(&lease, "f");
                    (taken, lease)
                })),
                6 => {
                    let id = format!("anon-{}", state % 3);
                    let lease = pool.lease_anonymous(
                        T,
                        &id,
                        "fake",
                        props(json!({"server": "random"})),
                        "rule",
                    );
                    held.extend(lease.ok().map(|lease| (subscribe(&lease, "f"), lease)));
                }
                7 => drop(pool.list(T, true)),
                _ if !held.is_empty() => {
                    drop(held.swap_remove(usize::try_from(state % 97).unwrap() % held.len()))
                }
                _ => {}
            }
            if held.len() > 8 {
                held.clear();
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                far.mode
                    .send_replace([Mode::Up, Mode::Refuse, Mode::AcceptAndClose][turn % 3]);
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let threads: Vec<_> = (1..=4)
            .map(|seed| scope.spawn(move || act(seed * 0x9E37_79B9)))
            .collect();
        let outcomes: Vec<_> = threads
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        stop.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok));
    });
    let left = pool.list(T, true);
    assert!(
        left.iter().all(|info| info.is_named && info.ref_count == 0),
        "{left:?}"
    );
    for info in left {
        pool.delete(T, &info.id).unwrap();
    }
    runtime.block_on(no_tasks(&pool));
    assert_eq!(
        (far.open.load(Ordering::Relaxed), far.takers.lock().len()),
        (0, 0)
    );
}
