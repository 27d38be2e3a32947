//! What the store promises: with a sound disk, with a broken one, and with two processes.

mod broken;
mod letters;

use std::path::Path;

use tempfile::TempDir;

use super::*;

async fn open(folder: &Path) -> Store {
    let (store, damage) = Store::open(folder).await.unwrap();
    assert_eq!(damage, []);
    store
}

#[tokio::test]
async fn a_checkpoint_is_there_after_a_restart_and_a_later_epoch_fences_the_earlier() {
    let folder = TempDir::new().unwrap();
    {
        let store = open(folder.path()).await;
        assert_eq!(store.checkpoint("default", "stream/a").await.unwrap(), None);
        assert_eq!(
            store.commit("default", "stream/a", 0, "one").await.unwrap(),
            Commit::Committed
        );
        assert_eq!(
            store.commit("default", "stream/a", 0, "two").await.unwrap(),
            Commit::Committed
        );
        assert_eq!(
            store.commit("other", "stream/a", 0, "three").await.unwrap(),
            Commit::Committed
        );
        assert_eq!(
            store.commit("default", "stream/b", 3, "b").await.unwrap(),
            Commit::Committed
        );
        assert_eq!(
            store
                .commit("default", "stream/b", 2, "late")
                .await
                .unwrap(),
            Commit::Fenced
        );
        // Not closed: as if the process had been killed.
    }
    let store = open(folder.path()).await;
    assert_eq!(
        store
            .checkpoint("default", "stream/a")
            .await
            .unwrap()
            .as_deref(),
        Some("two")
    );
    assert_eq!(
        store
            .checkpoint("other", "stream/a")
            .await
            .unwrap()
            .as_deref(),
        Some("three")
    );
    assert_eq!(
        store
            .checkpoint("default", "stream/b")
            .await
            .unwrap()
            .as_deref(),
        Some("b")
    );
    assert_eq!(
        store
            .commit("default", "stream/b", 2, "late")
            .await
            .unwrap(),
        Commit::Fenced
    );
    store
        .forget_checkpoint("default", "stream/b")
        .await
        .unwrap();
    assert_eq!(store.checkpoint("default", "stream/b").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_meet_are_all_kept() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    let began = tokio::time::Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for n in 0..200_u32 {
        let store = store.clone();
        all.spawn(async move {
            store
                .commit("default", &format!("key {n}"), 0, &n.to_string())
                .await
        });
    }
    while let Some(done) = all.join_next().await {
        assert_eq!(done.unwrap().unwrap(), Commit::Committed);
    }
    let together = began.elapsed();
    let began = tokio::time::Instant::now();
    for n in 0..20 {
        store
            .commit("default", "alone", 0, &n.to_string())
            .await
            .unwrap();
    }
    println!(
        "200 commits at once: {together:?}; one alone: {:?}",
        began.elapsed() / 20
    );
    for n in 0..200_u32 {
        let kept = store
            .checkpoint("default", &format!("key {n}"))
            .await
            .unwrap();
        assert_eq!(kept, Some(n.to_string()));
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_nobody_with_it() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    for round in 0..50_u64 {
        let text = round.to_string();
        let gone = store.commit("default", "gone", 0, &text);
        let stays = store.commit("default", "stays", 0, &text);
        // The first one gets some way into its transaction, with the second behind it.
        let both = async {
            tokio::select! {
                biased;
                done = gone => drop(done),
                () = tokio::time::sleep(std::time::Duration::from_micros(round * 20)) => {}
            }
        };
        let (committed, ()) = tokio::join!(stays, both);
        assert_eq!(committed.unwrap(), Commit::Committed);
        assert_eq!(
            store.checkpoint("default", "stays").await.unwrap(),
            Some(text)
        );
    }
}

#[tokio::test]
async fn the_memory_of_a_connection_survives_and_is_its_own() {
    let folder = TempDir::new().unwrap();
    {
        let store = open(folder.path()).await;
        let plant = store.memory("default", "plant");
        assert_eq!(plant.get("filters").await.unwrap(), None);
        plant.put("filters", "[1]").await.unwrap();
        plant.put("filters", "[1,2]").await.unwrap();
        store
            .memory("other", "plant")
            .put("filters", "[9]")
            .await
            .unwrap();
    }
    let store = open(folder.path()).await;
    assert_eq!(
        store
            .memory("default", "plant")
            .get("filters")
            .await
            .unwrap()
            .as_deref(),
        Some("[1,2]")
    );
    store.forget("default", "plant").await.unwrap();
    let forgotten = store.memory("default", "plant").get("filters").await;
    assert_eq!(forgotten.unwrap(), None);
    assert_eq!(
        store
            .memory("other", "plant")
            .get("filters")
            .await
            .unwrap()
            .as_deref(),
        Some("[9]")
    );
}

#[tokio::test]
async fn a_definition_changes_only_from_the_revision_that_was_seen() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    let put =
        |body: &'static str, expected| store.put_definition("default", "rule", "r", body, expected);
    assert_eq!(put("{}", Some(1)).await.unwrap(), Put::Conflict(0));
    assert_eq!(put("{}", Some(0)).await.unwrap(), Put::Done(1));
    assert_eq!(put("{}", Some(0)).await.unwrap(), Put::Conflict(1));
    assert_eq!(put("{\"a\":1}", Some(1)).await.unwrap(), Put::Done(2));
    assert_eq!(put("{\"a\":2}", None).await.unwrap(), Put::Done(3));
    store
        .put_definition("default", "rule", "a", "[]", None)
        .await
        .unwrap();
    store
        .put_definition("default", "stream", "r", "[]", None)
        .await
        .unwrap();
    let all = store.definitions("default", "rule").await.unwrap();
    let all: Vec<_> = all
        .iter()
        .map(|one| (one.id.as_str(), one.revision, one.body.as_str()))
        .collect();
    assert_eq!(all, [("a", 4, "[]"), ("r", 3, "{\"a\":2}")]);
    assert_eq!(
        store
            .delete_definition("default", "rule", "r", Some(2))
            .await
            .unwrap(),
        Put::Conflict(3)
    );
    assert_eq!(
        store
            .delete_definition("default", "rule", "r", Some(3))
            .await
            .unwrap(),
        Put::Done(3)
    );
    assert_eq!(
        store
            .delete_definition("default", "rule", "r", None)
            .await
            .unwrap(),
        Put::Conflict(0)
    );
    assert_eq!(
        store.definition("default", "rule", "r").await.unwrap(),
        None
    );
    // What is made again is not what it was.
    assert_eq!(put("{}", Some(3)).await.unwrap(), Put::Conflict(0));
    assert_eq!(put("{}", None).await.unwrap(), Put::Done(6));
    let again = store
        .delete_definition("default", "rule", "r", Some(3))
        .await;
    assert_eq!(again.unwrap(), Put::Conflict(6));
    store
        .delete_definition("default", "rule", "r", None)
        .await
        .unwrap();
    assert!(
        store
            .definition("default", "stream", "r")
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_second_host_is_refused_with_the_first_ones_process() {
    let folder = TempDir::new().unwrap();
    let first = open(folder.path()).await;
    let error = Store::open(folder.path()).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Locked { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .ends_with(&format!("is in use by process {}", std::process::id()))
    );
    let id = first.host_id().to_owned();
    assert_eq!(id.len(), 32);
    drop(first);
    assert_eq!(open(folder.path()).await.host_id(), id, "the id stays");
}
