//! Everything at once, at random, with a seed.

use super::*;

/// Sinks that fail in every way, links that come and go, and restarts of the action in between.
async fn storm(seed: u64) {
    const COUNT: u32 = 300;
    const POISON: u32 = 41;
    let mut dice = StdRng::seed_from_u64(seed);
    let bench = Bench::new(SpillOptions::default()).await;
    let again: Arc<Mutex<BTreeSet<u32>>> = Arc::default();
    let mut sinks = StdRng::seed_from_u64(seed ^ 0xabcd);
    let retried = Arc::clone(&again);
    let calm = Arc::new(AtomicBool::new(false));
    let is_calm = Arc::clone(&calm);
    bench.script.set(move |numbers| {
        let after = Duration::from_millis(
            *[0, 0, 1, 20, 250, 2500]
                .get(sinks.random_range(0..6))
                .unwrap(),
        );
        let arrived = sinks.random_range(0..=numbers.len());
        if numbers.len() == 1 && numbers[0] % POISON == 7 {
            return (
                after,
                Err(WriteError::Said(ConnectionError::permanent(
                    "bad", "poison",
                ))),
                0,
            );
        }
        let answer = match sinks.random_range(0..20) {
            0 => Err(WriteError::Said(ConnectionError::transient("busy", "busy"))),
            1 => Err(WriteError::Said(ConnectionError::disconnected(
                "link",
                "the link is gone",
            ))),
            2 if numbers.len() > 1 => Err(WriteError::Broke("unreachable".into())),
            3 if !is_calm.load(Ordering::Relaxed) => return (FOR_EVER, Ok(Vec::new()), 0),
            _ if numbers.iter().any(|number| number % POISON == 7) => Err(WriteError::Said(
                ConnectionError::permanent("bad", "poison inside"),
            )),
            4 | 5 => {
                let places = (0..).zip(numbers).filter(|_| sinks.random_range(0..4) == 0);
                let rejections = places.map(|(index, number)| {
                    retried.lock().insert(*number);
                    Rejection {
                        index,
                        error: ConnectionError::transient("busy", "this one not now"),
                    }
                });
                Ok(rejections.collect())
            }
            _ => Ok(Vec::new()),
        };
        (after, answer, arrived)
    });
    let mut running = bench.start(dice.random_range(1..64));
    let mut next = 0;
    for _ in 0..20_000 {
        if next == COUNT {
            break;
        }
        for _ in 0..dice.random_range(0..12) {
            if next < COUNT {
                bench.send(&running, next);
                next += 1;
            }
        }
        sleep(Duration::from_millis(dice.random_range(0..60))).await;
        if dice.random_range(0..8) == 0 {
            bench.links.send_replace(dice.random());
        }
        if dice.random_range(0..12) == 0 {
            running
                .end(Duration::from_millis(dice.random_range(0..400)))
                .await;
            assert_eq!(
                bench.settled(),
                all(next),
                "seed {seed}: all that was read is final after a stop"
            );
            running = bench.start(dice.random_range(1..64));
        }
    }
    bench.links.send_replace(true);
    let missing = || {
        // Of a poisoned batch that failed, the poison too may have arrived.
        let mut done: BTreeSet<u32> = bench
            .written()
            .into_iter()
            .filter(|number| number % POISON != 7)
            .collect();
        done.extend(bench.graves.buried.lock().iter());
        (0..COUNT)
            .filter(|number| !done.contains(number))
            .collect::<Vec<_>>()
    };
    // The last one may hang in a write; that ends with its action.
    calm.store(true, Ordering::Relaxed);
    running.end(AT_ONCE).await;
    let running = bench.start(64);
    for _ in 0..1000 {
        if missing().is_empty() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(missing(), [] as [u32; 0], "seed {seed}: lost messages");
    let poison: BTreeSet<u32> = (0..COUNT).filter(|number| number % POISON == 7).collect();
    assert_eq!(
        bench
            .graves
            .buried
            .lock()
            .iter()
            .copied()
            .collect::<BTreeSet<_>>(),
        poison,
        "seed {seed}"
    );
    running.end(Duration::from_secs(1)).await;
    assert_eq!(
        bench.settled(),
        all(COUNT),
        "seed {seed}: each read settles once, in order"
    );
    let again = again.lock();
    let mut seen = BTreeSet::new();
    let first: Vec<u32> = bench
        .written()
        .into_iter()
        .filter(|number| !again.contains(number) && seen.insert(*number))
        .collect();
    assert!(first.is_sorted(), "seed {seed}: out of order: {first:?}");
}

#[tokio::test(start_paused = true)]
async fn whatever_sinks_links_and_restarts_do_nothing_is_lost_and_order_holds() {
    for seed in 0..12 {
        storm(seed).await;
    }
}
