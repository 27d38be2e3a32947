//! The queue as an action uses it, on real files.

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::rules::spill::{
    Damage, HostBounds, QueueName, Spill, SpillError, SpillOptions, SpillSet,
};

async fn queue(folder: &TempDir, options: SpillOptions) -> (Arc<SpillSet>, Arc<dyn Spill>) {
    let set = SpillSet::open(folder.path(), HostBounds::default()).await;
    let queue = set.queue("default", "a rule/1", "mqtt_0", options);
    (set, queue)
}

fn numbers(records: &[(Position, Message)]) -> Vec<u64> {
    records.iter().map(|(_, message)| number(message)).collect()
}

async fn drain_queue(queue: &dyn Spill) -> Vec<u64> {
    let mut all = Vec::new();
    for _ in 0..100_000 {
        let some = queue.peek(100, 1 << 20).await.unwrap();
        let Some((position, _)) = some.last() else {
            break;
        };
        all.extend(numbers(&some));
        queue.advance(position.clone()).await.unwrap();
    }
    assert!(queue.is_empty());
    all
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            names.extend(files_below(&entry.path()));
        } else {
            names.push(entry.file_name().into_string().unwrap());
        }
    }
    names
}

#[tokio::test]
async fn a_message_comes_back_with_all_that_it_had() {
    let folder = TempDir::new().unwrap();
    let (_set, queue) = queue(&folder, SpillOptions::default()).await;
    let message = Message {
        headers: vec![("k".to_owned(), "v".to_owned())].into(),
        arrival: crate::message::Arrival {
            qos: 1,
            retained: true,
            message_id: 9,
            at_ms: 77,
            delivery: 0,
        },
        ..numbered(1, 5)
    };
    queue
        .append(vec![message.clone(), Message::default()])
        .await
        .unwrap();
    let got = queue.peek(10, 1000).await.unwrap();
    assert_eq!(got.len(), 2);
    assert_eq!(got[0].1.payload, message.payload);
    assert_eq!(
        (&got[0].1.subject, &got[0].1.headers),
        (&message.subject, &message.headers)
    );
    assert_eq!(got[0].1.arrival, message.arrival);
    assert!(
        queue
            .oldest_at()
            .is_some_and(|at| at.abs_diff(crate::rules::now_ms()) < 60_000)
    );
}

#[tokio::test]
async fn a_restart_goes_on_where_the_last_run_stopped() {
    let folder = TempDir::new().unwrap();
    {
        let (set, queue) = queue(&folder, SpillOptions::default()).await;
        assert!(queue.is_empty());
        queue
            .append((0..50).map(|n| numbered(n, 10)).collect())
            .await
            .unwrap();
        let some = queue.peek(20, 1 << 20).await.unwrap();
        queue.advance(some[9].0.clone()).await.unwrap();
        queue.advance(some[19].0.clone()).await.unwrap();
        queue.advance(some[4].0.clone()).await.unwrap();
        assert_eq!(queue.len(), 30);
        set.close().await;
    }
    let set = SpillSet::open(folder.path(), HostBounds::default()).await;
    let name = QueueName {
        tenant: "default".into(),
        rule: "a rule/1".into(),
        action: "mqtt_0".into(),
    };
    assert_eq!(set.left(), [name]);
    let queue = set.queue("default", "a rule/1", "mqtt_0", SpillOptions::default());
    assert!(set.left().is_empty() && !queue.is_empty());
    queue.append(vec![numbered(50, 0)]).await.unwrap();
    assert_eq!(queue.len(), 31);
    assert_eq!(drain_queue(&*queue).await, (20..51).collect::<Vec<_>>());
    assert_eq!(queue.stats().damage, Damage::default());
}

#[tokio::test]
async fn an_empty_queue_has_no_file_but_its_cursor() {
    let folder = TempDir::new().unwrap();
    let (_set, queue) = queue(&folder, SpillOptions::default()).await;
    assert!(queue.peek(1, 1).await.unwrap().is_empty());
    assert!(
        files_below(folder.path()).is_empty(),
        "nothing is made before it is needed"
    );
    queue
        .append((0..5).map(|n| numbered(n, 10)).collect())
        .await
        .unwrap();
    drain_queue(&*queue).await;
    assert!(
        files_below(folder.path())
            .iter()
            .all(|name| name == "cursor")
    );
    assert_eq!(
        (queue.len(), queue.bytes(), queue.oldest_at()),
        (0, 0, None)
    );
}

#[tokio::test]
async fn a_full_queue_refuses_and_keeps_what_it_has() {
    let folder = TempDir::new().unwrap();
    let options = SpillOptions {
        max_bytes: Some(64 * 1024),
        ..SpillOptions::default()
    };
    let (_set, queue) = queue(&folder, options).await;
    let mut kept = 0;
    let error = loop {
        match queue.append(vec![numbered(kept, 1000)]).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 100);
    };
    assert!(
        matches!(
            error,
            SpillError::Full {
                max: 65_536,
                unit: "bytes",
                ..
            }
        ),
        "{error}"
    );
    assert!(kept > 50 && queue.bytes() <= 65_536);
    assert_eq!(queue.len(), kept);
    let some = queue.peek(20, 1 << 20).await.unwrap();
    queue.advance(some[19].0.clone()).await.unwrap();
    queue.append(vec![numbered(kept, 1000)]).await.unwrap();
    assert_eq!(drain_queue(&*queue).await, (20..=kept).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_last_rest_of_an_action_goes_over_the_bound_in_its_order() {
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let folder = TempDir::new().unwrap();
        let options = SpillOptions {
            max_messages: Some(3),
            max_bytes: Some(64 * 1024),
            overflow: Some(overflow),
            ..SpillOptions::default()
        };
        let (_set, queue) = queue(&folder, options).await;
        queue
            .append((0..3).map(|n| numbered(n, 0)).collect())
            .await
            .unwrap();
        queue
            .append_last((3..90).map(|n| numbered(n, 1000)).collect())
            .await
            .unwrap();
        assert_eq!((queue.len(), queue.stats().dropped), (90, 0));
        if overflow == Overflow::Block {
            let error = queue.append(vec![numbered(90, 0)]).await.unwrap_err();
            assert!(matches!(error, SpillError::Full { .. }), "{error}");
        }
        assert_eq!(drain_queue(&*queue).await, (0..90).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn drop_oldest_keeps_the_newest_and_counts_the_rest() {
    let folder = TempDir::new().unwrap();
    let options = SpillOptions {
        max_bytes: Some(64 * 1024),
        overflow: Some(Overflow::DropOldest),
        ..SpillOptions::default()
    };
    let (_set, queue) = queue(&folder, options).await;
    for n in 0..300 {
        queue.append(vec![numbered(n, 1000)]).await.unwrap();
        assert!(queue.bytes() <= 65_536);
    }
    let in_hand = queue.peek(1, 1).await.unwrap();
    queue
        .append((300..310).map(|n| numbered(n, 1000)).collect())
        .await
        .unwrap();
    queue.advance(in_hand[0].0.clone()).await.unwrap();
    let dropped = queue.stats().dropped;
    let got = drain_queue(&*queue).await;
    assert_eq!(
        got,
        (dropped..310).collect::<Vec<_>>(),
        "the newest are there, all others are counted"
    );
    assert!(got.len() > 40);
    queue
        .append((0..200).map(|n| numbered(n, 1000)).collect())
        .await
        .unwrap();
    let dropped = queue.stats().dropped - dropped;
    assert_eq!(
        drain_queue(&*queue).await,
        (dropped..200).collect::<Vec<_>>(),
        "a batch larger than the queue"
    );
}

#[tokio::test]
async fn a_bound_in_messages_and_a_switched_off_queue_refuse() {
    let folder = TempDir::new().unwrap();
    let options = SpillOptions {
        max_messages: Some(3),
        ..SpillOptions::default()
    };
    let (set, queue) = queue(&folder, options).await;
    queue
        .append(vec![numbered(0, 0), numbered(1, 0)])
        .await
        .unwrap();
    let error = queue
        .append(vec![numbered(2, 0), numbered(3, 0)])
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        SpillError::Full {
            used: 2,
            max: 3,
            unit: "messages"
        }
    ));
    let off = SpillOptions {
        enabled: false,
        ..SpillOptions::default()
    };
    let same = set.queue("default", "a rule/1", "mqtt_0", off);
    assert!(matches!(
        same.append(vec![numbered(2, 0)]).await,
        Err(SpillError::Disabled)
    ));
    assert_eq!(
        drain_queue(&*same).await,
        [0, 1],
        "what is there is still delivered"
    );
}

#[tokio::test]
async fn what_is_too_old_is_dropped_and_counted() {
    let folder = TempDir::new().unwrap();
    let options = SpillOptions {
        max_age: Some(Duration::from_millis(200)),
        ..SpillOptions::default()
    };
    let (_set, queue) = queue(&folder, options).await;
    queue
        .append((0..4).map(|n| numbered(n, 0)).collect())
        .await
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    queue.append(vec![numbered(4, 0)]).await.unwrap();
    assert_eq!(drain_queue(&*queue).await, [4]);
    assert_eq!(queue.stats().expired, 4);
}

#[tokio::test]
async fn clean_at_stop_and_removal_of_a_rule_leave_nothing_and_count() {
    let folder = TempDir::new().unwrap();
    let clean = SpillOptions {
        clean_at_stop: true,
        ..SpillOptions::default()
    };
    let (_set, first) = queue(&folder, clean).await;
    first
        .append((0..4).map(|n| numbered(n, 0)).collect())
        .await
        .unwrap();
    first.close().await.unwrap();
    assert_eq!((first.len(), first.stats().dropped), (0, 4));
    first
        .append((0..3).map(|n| numbered(n, 0)).collect())
        .await
        .unwrap();
    drop((first, _set));
    let (set, _) = queue(&folder, SpillOptions::default()).await;
    let other = set.queue("default", "other", "log_0", SpillOptions::default());
    other.append(vec![numbered(0, 0)]).await.unwrap();
    assert_eq!(set.remove("default", "a rule/1").await.unwrap(), 3);
    assert_eq!(
        std::fs::read_dir(folder.path().join("default"))
            .unwrap()
            .count(),
        1
    );
    let set = SpillSet::open(folder.path(), HostBounds::default()).await;
    assert_eq!(set.left().len(), 1, "the other rule's queue is still there");
    for _ in ["before it was opened", "and after"] {
        assert!(
            set.stranded("default", "other", &["log_0"])
                .await
                .is_empty()
        );
        assert!(set.stranded("default", "othe", &[]).await.is_empty());
        let stranded = set.stranded("default", "other", &["log_1"]).await;
        assert_eq!(stranded, [("log_0".to_owned(), 1)]);
    }
    assert_eq!(
        set.remove("default", "other").await.unwrap(),
        1,
        "though nobody has asked for it"
    );
    assert!(files_below(folder.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_while_many_append_and_one_reads() {
    let folder = TempDir::new().unwrap();
    let (_set, queue) = queue(
        &folder,
        SpillOptions {
            max_bytes: Some(1 << 20),
            ..SpillOptions::default()
        },
    )
    .await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4_u64 {
        let queue = Arc::clone(&queue);
        writers.spawn(async move {
            for n in 0..100 {
                let batch: Vec<_> = (0..3)
                    .map(|part| numbered(writer * 1000 + n * 3 + part, 200))
                    .collect();
                loop {
                    match queue.append(batch.clone()).await {
                        Ok(_) => break,
                        Err(SpillError::Full { .. }) => {
                            tokio::time::sleep(Duration::from_millis(1)).await
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
    }
    let mut got: [Vec<u64>; 4] = Default::default();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while got.iter().map(Vec::len).sum::<usize>() < 1200 {
        assert!(tokio::time::Instant::now() < deadline);
        let some = queue.peek(50, 1 << 16).await.unwrap();
        let Some((position, _)) = some.last() else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        for n in numbers(&some) {
            got[(n / 1000) as usize].push(n);
        }
        queue.advance(position.clone()).await.unwrap();
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    for (writer, got) in got.iter().enumerate() {
        let first = writer as u64 * 1000;
        assert_eq!(*got, (first..first + 300).collect::<Vec<_>>());
    }
    assert!(queue.is_empty());
}

#[tokio::test]
async fn appends_that_meet_share_one_sync() {
    let disk = Faulty::default();
    let set = SpillSet::over(
        Arc::new(disk.clone()),
        "/spill".into(),
        HostBounds::default(),
    )
    .await;
    let queue = set.queue("default", "rule", "mqtt_0", SpillOptions::default());
    queue.append(vec![numbered(0, 0)]).await.unwrap();
    // Long enough for all others to come while the first one is under way.
    disk.fail(|faults| faults.delay = Duration::from_millis(50));
    let before = disk.syncs();
    let mut all = tokio::task::JoinSet::new();
    for n in 1..=100 {
        let queue = Arc::clone(&queue);
        all.spawn(async move { queue.append(vec![numbered(n, 0)]).await.unwrap() });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    assert!(
        disk.syncs() - before <= 10,
        "{} syncs for 100 appends",
        disk.syncs() - before
    );
    assert_eq!(drain_queue(&*queue).await.len(), 101);
}

#[tokio::test]
async fn an_append_that_was_given_up_before_its_turn_is_not_written() {
    let folder = TempDir::new().unwrap();
    let (_set, queue) = queue(&folder, SpillOptions::default()).await;
    let mut first = queue.append(vec![numbered(0, 0)]);
    let mut second = queue.append(vec![numbered(1, 0)]);
    // Both are polled once: the first is under way, the second waits for its turn.
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    drop(second);
    first.await.unwrap();
    queue.append(vec![numbered(2, 0)]).await.unwrap();
    let got = drain_queue(&*queue).await;
    assert!(got == [0, 2] || got == [0, 1, 2], "{got:?}");
}

fn poll<F: Future + ?Sized>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_is_printed() {
    let folder = TempDir::new().unwrap();
    let (_set, queue) = queue(&folder, SpillOptions::default()).await;
    let batch: Vec<_> = (0..1000).map(|n| numbered(n, 250)).collect();
    let began = tokio::time::Instant::now();
    for _ in 0..50 {
        queue.append(batch.clone()).await.unwrap();
    }
    let appended = began.elapsed();
    let began = tokio::time::Instant::now();
    let mut count = 0;
    loop {
        let some = queue.peek(1024, 4 << 20).await.unwrap();
        let Some((position, _)) = some.last() else {
            break;
        };
        count += some.len();
        queue.advance(position.clone()).await.unwrap();
    }
    let read = began.elapsed();
    assert_eq!(count, 50_000);
    let began = tokio::time::Instant::now();
    for n in 0..100 {
        queue.append(vec![numbered(n, 250)]).await.unwrap();
    }
    println!(
        "50 batches of 1000: {:.0} messages/s appended and synced, {:.0}/s read; single appends: {:.2} ms each",
        50_000.0 / appended.as_secs_f64(),
        50_000.0 / read.as_secs_f64(),
        began.elapsed().as_secs_f64() * 10.0
    );
}
