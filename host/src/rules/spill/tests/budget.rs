//! What all queues of a host have together, and what they leave free for the store.

use super::*;
use crate::rules::spill::{HostBounds, Spill, SpillError, SpillOptions, SpillSet};

async fn set(disk: &Faulty, all: Option<u64>, reserve: Option<u64>) -> Arc<SpillSet> {
    let bounds = HostBounds {
        queue_bytes: None,
        all_bytes: all,
        reserve_bytes: reserve,
    };
    SpillSet::over(Arc::new(disk.clone()), "/spill".into(), bounds).await
}

fn queue(set: &SpillSet, rule: &str, overflow: Overflow) -> Arc<dyn Spill> {
    let options = SpillOptions {
        overflow: Some(overflow),
        ..SpillOptions::default()
    };
    set.queue("default", rule, "mqtt_0", options)
}

async fn fill(queue: &dyn Spill) -> SpillError {
    for n in 0..10_000 {
        if let Err(error) = queue.append(vec![numbered(n, 1000)]).await {
            return error;
        }
    }
    panic!("it has no bound");
}

async fn done(queue: &dyn Spill) {
    while let Some((position, _)) = queue.peek(1000, 1 << 20).await.unwrap().pop() {
        queue.advance(position).await.unwrap();
    }
}

#[tokio::test]
async fn all_queues_together_have_one_bound_and_what_one_gives_back_another_may_take() {
    let disk = Faulty::default();
    let set_ = set(&disk, Some(100_000), Some(0)).await;
    let (one, two) = (
        queue(&set_, "one", Overflow::Block),
        queue(&set_, "two", Overflow::Block),
    );
    let error = fill(&*one).await;
    assert!(
        matches!(error, SpillError::HostFull { max: 100_000 }),
        "{error}"
    );
    let used = set_.disk_use().used;
    assert!((90_000..=100_000).contains(&used), "{used}");
    let error = two.append(vec![numbered(0, 5000)]).await.unwrap_err();
    assert!(error.to_string().contains("limits: diskBytes"), "{error}");
    // The rest of an action that ends has no other place.
    one.append_last(vec![numbered(0, 5000)]).await.unwrap();
    done(&*one).await;
    let used = set_.disk_use().used;
    assert!(used < 1000, "{used}");
    fill(&*two).await;
    set_.close().await;
    drop((one, two, set_));
    // After a start it counts before anybody has looked inside.
    let set_ = set(&disk, Some(100_000), Some(0)).await;
    let used = set_.disk_use().used;
    assert!((90_000..=101_000).contains(&used), "{used}");
    assert!(set_.remove("default", "two").await.unwrap() > 80);
    assert_eq!(set_.disk_use().used, 0);
}

#[tokio::test]
async fn with_drop_oldest_a_queue_makes_room_of_its_own_and_of_nobody_elses() {
    let disk = Faulty::default();
    let set = set(&disk, Some(200_000), Some(0)).await;
    let (one, two) = (
        queue(&set, "one", Overflow::Block),
        queue(&set, "two", Overflow::DropOldest),
    );
    for n in 0..50 {
        one.append(vec![numbered(n, 1000)]).await.unwrap();
        two.append(vec![numbered(n, 1000)]).await.unwrap();
    }
    for n in 50..500 {
        two.append(vec![numbered(n, 1000)]).await.unwrap();
    }
    assert!(set.disk_use().used <= 200_000);
    assert_eq!(one.len(), 50);
    assert!(two.stats().dropped > 300, "{:?}", two.stats());
}

#[tokio::test]
async fn the_last_part_of_a_disk_is_left_to_the_store() {
    let disk = Faulty::default();
    disk.fail(|faults| faults.capacity = Some(160_000));
    let set = set(&disk, None, None).await;
    // A sixteenth of a small disk.
    assert_eq!(set.disk_use().reserve, 10_000);
    let one = queue(&set, "one", Overflow::Block);
    let error = fill(&*one).await;
    assert!(
        matches!(error, SpillError::Reserved { reserve: 10_000 }),
        "{error}"
    );
    assert!(error.to_string().contains("kept for the store"), "{error}");
    let free = set.disk_use().free.unwrap();
    assert!((10_000..12_500).contains(&free), "{free}");
    // Others use the disk too.
    done(&*one).await;
    disk.put(Path::new("/elsewhere"), vec![0; 155_000]);
    assert!(one.append(vec![numbered(1, 10)]).await.is_err());
    disk.put(Path::new("/elsewhere"), Vec::new());
    one.append(vec![numbered(1, 10)]).await.unwrap();
    assert!(!one.stats().damage.any());
}

#[tokio::test(start_paused = true)]
async fn drop_oldest_gives_up_little_where_what_it_frees_does_not_show() {
    let disk = Faulty::default();
    disk.fail(|faults| faults.capacity = Some(160_000));
    let set = set(&disk, None, None).await;
    let options = SpillOptions {
        max_bytes: Some(64 * 1024),
        overflow: Some(Overflow::DropOldest),
        ..SpillOptions::default()
    };
    let one = set.queue("default", "one", "mqtt_0", options);
    for n in 0..50 {
        one.append(vec![numbered(n, 1000)]).await.unwrap();
    }
    assert_eq!(one.stats().dropped, 0);
    // Something else fills the disk, and the file system does not show at once what is freed.
    disk.put(Path::new("/elsewhere"), vec![0; 120_000]);
    disk.fail(|faults| faults.unseen = Some(0));
    let mut dropped = 0;
    for n in 50..70 {
        let error = one.append(vec![numbered(n, 1000)]).await.unwrap_err();
        assert!(matches!(error, SpillError::Reserved { .. }), "{error}");
        dropped = one.stats().dropped;
        assert!((1..=16).contains(&dropped), "{dropped}");
    }
    // Still full long after: a little more.
    tokio::time::advance(std::time::Duration::from_secs(31)).await;
    one.append(vec![numbered(50, 1000)]).await.unwrap_err();
    let later = one.stats().dropped;
    assert!((dropped + 1..=2 * dropped).contains(&later), "{later}");
    disk.fail(|faults| faults.unseen = None);
    disk.put(Path::new("/elsewhere"), vec![0; 100_000]);
    one.append(vec![numbered(50, 1000)]).await.unwrap();
    // Where it shows, each message may take the place of older ones.
    disk.put(Path::new("/elsewhere"), vec![0; 130_000]);
    for n in 51..90 {
        one.append(vec![numbered(n, 1000)]).await.unwrap();
    }
    // Empty, it can make no room, and nothing new is dropped for want of it.
    disk.put(Path::new("/elsewhere"), vec![0; 155_000]);
    while one.append(vec![numbered(90, 1000)]).await.is_err() && one.bytes() > 0 {
        tokio::time::advance(std::time::Duration::from_secs(31)).await;
    }
    let dropped = one.stats().dropped;
    one.append(vec![numbered(90, 1000)]).await.unwrap_err();
    assert_eq!(one.stats().dropped, dropped);
}

#[tokio::test]
async fn ten_thousand_appends_under_load_need_a_fraction_of_as_many_syncs() {
    let disk = Faulty::default();
    // About what a solid state disk needs.
    disk.fail(|faults| faults.delay = std::time::Duration::from_millis(1));
    let set = set(&disk, None, None).await;
    let queue = queue(&set, "one", Overflow::Block);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..50 {
        let queue = Arc::clone(&queue);
        writers.spawn(async move {
            for n in 0..200 {
                queue
                    .append(vec![numbered(writer * 200 + n, 100)])
                    .await
                    .unwrap();
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let syncs = disk.syncs();
    println!("{syncs} syncs for 10000 appends by 50 writers");
    assert_eq!(queue.len(), 10_000);
    assert!(syncs < 1000, "{syncs}");
}
