//! Nothing on disk keeps the store from opening, and nothing is acknowledged that is not on disk.

use std::time::Duration;

use super::*;

fn file(folder: &TempDir) -> std::path::PathBuf {
    folder.path().join("windlass.db")
}

/// A folder with a database that has something in it, closed in good order.
async fn filled() -> (TempDir, Vec<u8>) {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    for n in 0..40 {
        store
            .commit("default", &format!("key {n}"), 0, &"c".repeat(500))
            .await
            .unwrap();
    }
    store.close().await;
    drop(store);
    let content = std::fs::read(file(&folder)).unwrap();
    assert!(content.len() > 20_000);
    (folder, content)
}

async fn is_usable(store: &Store) {
    assert_eq!(
        store.commit("default", "key", 0, "new").await.unwrap(),
        Commit::Committed
    );
    assert_eq!(
        store.checkpoint("default", "key").await.unwrap().as_deref(),
        Some("new")
    );
}

#[tokio::test]
async fn a_broken_database_is_set_aside_whole_and_a_new_one_made() {
    let (folder, content) = filled().await;
    let mut zeroed = content.clone();
    zeroed[4096..12_288].fill(0);
    let mut scrambled = content.clone();
    scrambled[8192..]
        .iter_mut()
        .for_each(|byte| *byte = byte.wrapping_mul(7).wrapping_add(3));
    for bad in [
        b"not a database at all".repeat(300),
        zeroed,
        scrambled,
        content[..content.len() / 2].to_vec(),
    ] {
        std::fs::write(file(&folder), &bad).unwrap();
        let (store, damage) = Store::open(folder.path()).await.unwrap();
        assert_eq!(damage.len(), 1, "{damage:?}");
        let aside = damage[0].moved_to.clone().unwrap();
        assert!(
            aside
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("windlass.db.damaged-")
        );
        assert_eq!(std::fs::read(aside).unwrap(), bad);
        is_usable(&store).await;
        store.close().await;
        drop(store);
        let store = open(folder.path()).await;
        let kept = store.checkpoint("default", "key").await.unwrap();
        assert_eq!(kept.as_deref(), Some("new"));
        // Its files are about to be overwritten.
        store.close().await;
    }
}

#[tokio::test]
async fn other_things_in_the_place_of_the_database_are_set_aside_too() {
    let (folder, _) = filled().await;
    std::fs::remove_file(file(&folder)).unwrap();
    std::fs::create_dir(file(&folder)).unwrap();
    std::fs::write(folder.path().join("host-id"), "\u{0}\u{0}").unwrap();
    std::fs::write(folder.path().join("windlass.db-wal"), vec![0xee; 9000]).unwrap();
    let (store, damage) = Store::open(folder.path()).await.unwrap();
    let words: Vec<_> = damage.iter().map(ToString::to_string).collect();
    assert_eq!(words.len(), 2, "{words:?}");
    assert!(
        words[0].contains("host-id") && words[1].contains("is a folder"),
        "{words:?}"
    );
    assert_eq!(store.host_id().len(), 32);
    is_usable(&store).await;
    drop(store);

    // A database of somebody else.
    let folder = TempDir::new().unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(file(&folder))
        .create_if_missing(true);
    let other = SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("CREATE TABLE progress (something TEXT)")
        .execute(&other)
        .await
        .unwrap();
    other.close().await;
    let (store, damage) = Store::open(folder.path()).await.unwrap();
    assert_eq!(damage.len(), 1, "{damage:?}");
    is_usable(&store).await;
}

#[tokio::test]
async fn random_damage_never_keeps_the_store_from_opening_and_working() {
    use rand::{Rng, SeedableRng};
    let (folder, content) = filled().await;
    let mut random = rand::rngs::StdRng::seed_from_u64(5);
    for round in 0..60 {
        for ending in ["", "-wal", "-shm"] {
            drop(std::fs::remove_file(
                folder.path().join(format!("windlass.db{ending}")),
            ));
        }
        let mut bad = content.clone();
        for _ in 0..random.random_range(1..4) {
            let from = random.random_range(0..bad.len());
            let end = (from + random.random_range(1..600)).min(bad.len());
            bad[from..end]
                .iter_mut()
                .for_each(|byte| *byte = random.random());
        }
        std::fs::write(file(&folder), &bad).unwrap();
        let (store, _) = Store::open(folder.path()).await.unwrap();
        // What the check at the start did not see shows here at the latest: the call after that works.
        let mut worked = false;
        for _ in 0..3 {
            if store.commit("default", "key 1", 0, "new").await.is_ok() {
                worked = store
                    .checkpoint("default", "key 1")
                    .await
                    .unwrap()
                    .as_deref()
                    == Some("new");
                break;
            }
        }
        assert!(worked, "round {round}");
        store.close().await;
    }
}

#[tokio::test]
async fn a_database_that_breaks_while_it_is_used_is_replaced_by_the_next_call() {
    let (folder, content) = filled().await;
    let store = open(folder.path()).await;
    // Nothing was read yet beyond what opening needs; now the pages behind are gone.
    let mut bad = content;
    bad[4096..].fill(0x5a);
    std::fs::write(file(&folder), &bad).unwrap();
    let mut failures = 0;
    for n in 0..40 {
        failures += u32::from(
            store
                .checkpoint("default", &format!("key {n}"))
                .await
                .is_err(),
        );
    }
    assert!(
        (1..40).contains(&failures),
        "the damage is seen, and then it is over: {failures}"
    );
    is_usable(&store).await;
    let aside = std::fs::read_dir(folder.path()).unwrap().flatten();
    let aside = aside.filter(|entry| {
        entry
            .file_name()
            .to_string_lossy()
            .starts_with("windlass.db.damaged-")
    });
    assert!(aside.count() >= 1);
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_opens_degraded_and_works_when_it_can() {
    let folder = TempDir::new().unwrap();
    let blocked = folder.path().join("blocked");
    std::fs::write(&blocked, "a file where a folder should be").unwrap();
    let data = blocked.join("data");
    let (store, damage) = Store::open(&data).await.unwrap();
    assert_eq!(damage.len(), 2, "{damage:?}");
    assert_eq!(store.host_id().len(), 32);
    let error = store.commit("default", "key", 0, "c").await.unwrap_err();
    assert!(matches!(error, StoreError::Folder(_)), "{error}");
    assert!(
        store.checkpoint("default", "key").await.is_err(),
        "it is not known that there is none"
    );
    let memory = store.memory("default", "plant");
    assert_eq!(
        memory.get("x").await.unwrap_err().kind,
        crate::error::ErrorKind::Transient,
        "it is not known that there is none"
    );
    assert_eq!(
        memory.put("x", "y").await.unwrap_err().kind,
        crate::error::ErrorKind::Transient
    );
    std::fs::remove_file(&blocked).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    is_usable(&store).await;
}

#[tokio::test]
async fn a_full_disk_refuses_and_keeps_what_was_committed() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    store.commit("default", "key", 0, "before").await.unwrap();
    let limit = async |pages: &'static str| {
        let pool = store.pool().await.unwrap();
        let (mut one, mut two) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        sqlx::query(pages).execute(&mut *one).await.unwrap();
        sqlx::query(pages).execute(&mut *two).await.unwrap();
    };
    limit("PRAGMA max_page_count = 20").await;
    let large = "c".repeat(100_000);
    let (full, fits) = tokio::join!(
        store.commit("default", "large", 0, &large),
        store.commit("default", "key", 0, "after")
    );
    assert!(matches!(full, Err(StoreError::NoSpace(_))), "{full:?}");
    assert_eq!(
        fits.unwrap(),
        Commit::Committed,
        "what still fits is not refused for what does not"
    );
    assert_eq!(store.checkpoint("default", "large").await.unwrap(), None);
    limit("PRAGMA max_page_count = 100000").await;
    store.commit("default", "large", 0, &large).await.unwrap();
    assert_eq!(
        store.checkpoint("default", "key").await.unwrap().as_deref(),
        Some("after")
    );
}

#[tokio::test]
async fn a_visitor_makes_nothing() {
    let folder = TempDir::new().unwrap();
    let error = Store::open_shared(folder.path()).await.unwrap_err();
    assert!(matches!(error, StoreError::NotThere(_)), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_visitor_waits_for_a_host_that_is_making_the_store() {
    let folder = TempDir::new().unwrap();
    std::fs::File::create(folder.path().join("windlass.db")).unwrap();
    let host = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        Store::open(folder.path()).await.unwrap()
    };
    let (visitor, (_host, damage)) = tokio::join!(Store::open_shared(folder.path()), host);
    drop(visitor.unwrap());
    assert!(damage.is_empty(), "{damage:?}");
}
