//! Dead letters.

use super::*;
use crate::message::{Arrival, Message};

fn letter(number: u64, rule: &str) -> DeadLetter {
    DeadLetter {
        tenant: "default".to_owned(),
        rule: rule.to_owned(),
        action: "mqtt_0".to_owned(),
        stream: "s".to_owned(),
        message: Message {
            payload: format!("payload {number}").into(),
            subject: "plant/1".into(),
            headers: vec![("k".to_owned(), "v\u{0}".to_owned())].into(),
            arrival: Arrival {
                qos: 1,
                retained: true,
                message_id: 7,
                at_ms: 3,
                delivery: 0,
            },
        },
        kind: if number.is_multiple_of(2) {
            "permanent"
        } else {
            "trap"
        }
        .to_owned(),
        code: "http:400".to_owned(),
        reason: "no".to_owned(),
        attempts: 3,
        at_ms: 1000 + number,
    }
}

fn filter() -> LetterFilter {
    LetterFilter {
        tenant: "default".to_owned(),
        ..LetterFilter::default()
    }
}

fn ids(letters: &[KeptLetter]) -> Vec<i64> {
    letters.iter().map(|letter| letter.id).collect()
}

#[tokio::test]
async fn a_letter_comes_back_whole_also_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let large = vec![0xfe; 100_000];
    {
        let store = open(folder.path()).await;
        let mut second = letter(1, "r");
        second.message.payload = large.clone().into();
        assert_eq!(
            store.bury(vec![letter(0, "r"), second]).await.unwrap(),
            [1, 2]
        );
    }
    let store = open(folder.path()).await;
    let back = store.letter("default", 1).await.unwrap().unwrap();
    let sent = letter(0, "r");
    assert_eq!(back.letter.message.payload, sent.message.payload);
    assert_eq!(back.letter.message.subject, sent.message.subject);
    assert_eq!(back.letter.message.headers, sent.message.headers);
    assert_eq!(back.letter.message.arrival, sent.message.arrival);
    assert_eq!(
        (back.letter.kind, back.letter.code, back.letter.reason),
        (sent.kind, sent.code, sent.reason)
    );
    assert_eq!(
        (back.letter.attempts, back.letter.at_ms, back.state),
        (3, 1000, LetterState::Kept)
    );
    assert_eq!(
        store
            .letter("default", 2)
            .await
            .unwrap()
            .unwrap()
            .letter
            .message
            .payload,
        large
    );
    let listed = store.letters(&filter(), 10).await.unwrap();
    assert_eq!(
        (
            listed[1].payload_bytes,
            listed[1].letter.message.payload.len()
        ),
        (100_000, 256)
    );
    assert!(store.letter("other", 1).await.unwrap().is_none());
}

#[tokio::test]
async fn filters_and_pages_find_what_they_should() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    for n in 0..10 {
        store
            .bury(vec![letter(n, if n < 5 { "a" } else { "b" })])
            .await
            .unwrap();
    }
    let list =
        async |filter: LetterFilter, limit| ids(&store.letters(&filter, limit).await.unwrap());
    assert_eq!(list(filter(), 3).await, [1, 2, 3]);
    assert_eq!(
        list(
            LetterFilter {
                after: Some(3),
                ..filter()
            },
            3
        )
        .await,
        [4, 5, 6]
    );
    assert_eq!(
        list(
            LetterFilter {
                rule: Some("b".to_owned()),
                ..filter()
            },
            99
        )
        .await,
        [6, 7, 8, 9, 10]
    );
    assert_eq!(
        list(
            LetterFilter {
                kind: Some("trap".to_owned()),
                ..filter()
            },
            99
        )
        .await,
        [2, 4, 6, 8, 10]
    );
    assert_eq!(
        list(
            LetterFilter {
                since_ms: Some(1008),
                ..filter()
            },
            99
        )
        .await,
        [9, 10]
    );
    assert_eq!(
        list(
            LetterFilter {
                action: Some("x".to_owned()),
                ..filter()
            },
            99
        )
        .await,
        [0_i64; 0]
    );
    let span = LetterFilter {
        since_ms: Some(1002),
        until_ms: Some(1004),
        code: Some("http:400".to_owned()),
        stream: Some("s".to_owned()),
        ..filter()
    };
    assert_eq!(store.count_letters(&span).await.unwrap(), 2);
    assert_eq!(list(span, 99).await, [3, 4]);
    for other in [
        LetterFilter {
            code: Some("http:401".to_owned()),
            ..filter()
        },
        LetterFilter {
            stream: Some("t".to_owned()),
            ..filter()
        },
    ] {
        assert_eq!(list(other, 99).await, [0_i64; 0]);
    }
    let both = LetterFilter {
        rule: Some("a".to_owned()),
        kind: Some("permanent".to_owned()),
        ..filter()
    };
    assert_eq!(store.count_letters(&both).await.unwrap(), 3);
    assert_eq!(
        store.count_letters(&LetterFilter::default()).await.unwrap(),
        0,
        "no tenant, no letters"
    );
}

#[tokio::test]
async fn a_full_store_refuses_whole_calls_and_takes_again_after_a_removal() {
    let folder = TempDir::new().unwrap();
    let weight = letter(0, "r").message.weight() as u64;
    for options in [
        StoreOptions {
            dead_letters: 3,
            ..StoreOptions::default()
        },
        StoreOptions {
            dead_letter_bytes: weight * 3 + 5,
            ..StoreOptions::default()
        },
    ] {
        let (store, _) = Store::open_with(folder.path(), options).await.unwrap();
        let two = || vec![letter(0, "r"), letter(1, "r")];
        let first = store.bury(two()).await.unwrap();
        let (full, fits) = tokio::join!(store.bury(two()), store.commit("default", "k", 0, "c"));
        assert!(
            matches!(full, Err(StoreError::DeadLettersFull { messages: 2, .. })),
            "{full:?}"
        );
        assert_eq!(
            fits.unwrap(),
            Commit::Committed,
            "others in the same transaction are not refused"
        );
        assert_eq!(store.count_letters(&filter()).await.unwrap(), 2);
        store.bury(vec![letter(2, "r")]).await.unwrap();
        assert_eq!(
            store
                .remove_letters("default", &[first[0], 999_999])
                .await
                .unwrap(),
            1
        );
        let last = store.bury(vec![letter(3, "r")]).await.unwrap();
        assert!(last[0] > first[1] + 1, "no number is used twice");
        // What is being sent again gives its room: it may wait behind what is to be kept.
        assert!(store.bury(vec![letter(4, "r")]).await.is_err());
        store.mark_resend("default", &last).await.unwrap();
        assert!(store.bury(vec![letter(4, "r")]).await.is_err());
        let taken = store.take_resends("default", "r", "mqtt_0", 9).await;
        assert_eq!(taken.unwrap().len(), 1);
        let more = store.bury(vec![letter(4, "r")]).await.unwrap();
        assert!(store.bury(vec![letter(5, "r")]).await.is_err());
        assert_eq!(store.return_resends("default", &last).await.unwrap(), 1);
        assert_eq!(store.remove_letters("default", &more).await.unwrap(), 1);
        let rest = ids(&store.letters(&filter(), 99).await.unwrap());
        assert_eq!(store.remove_letters("default", &rest).await.unwrap(), 3);
    }
}

#[tokio::test]
async fn letters_marked_by_another_process_are_taken_once_by_the_host() {
    let folder = TempDir::new().unwrap();
    let host = open(folder.path()).await;
    host.bury(
        (0..6)
            .map(|n| letter(n, if n < 4 { "a" } else { "b" }))
            .collect(),
    )
    .await
    .unwrap();
    assert_eq!(host.waiting_resends().await.unwrap(), []);

    let visitor = Store::open_shared(folder.path()).await.unwrap();
    assert_eq!(visitor.letters(&filter(), 99).await.unwrap().len(), 6);
    assert_eq!(
        visitor
            .mark_resend("default", &[1, 2, 3, 5, 77])
            .await
            .unwrap(),
        4
    );
    assert_eq!(
        visitor.mark_resend("default", &[1]).await.unwrap(),
        0,
        "it is marked already"
    );
    assert_eq!(visitor.remove_letters("default", &[6]).await.unwrap(), 1);

    let waiting = host.waiting_resends().await.unwrap();
    let waiting: Vec<_> = waiting
        .iter()
        .map(|one| (one.rule.as_str(), one.letters))
        .collect();
    assert_eq!(waiting, [("a", 3), ("b", 1)]);
    let taken = host
        .take_resends("default", "a", "mqtt_0", 2)
        .await
        .unwrap();
    assert_eq!(ids(&taken), [1, 2]);
    assert_eq!(taken[0].letter.message.payload, "payload 0");
    assert_eq!(
        ids(&host
            .take_resends("default", "a", "mqtt_0", 9)
            .await
            .unwrap()),
        [3]
    );
    assert_eq!(
        ids(&host
            .take_resends("default", "a", "mqtt_0", 9)
            .await
            .unwrap()),
        [0_i64; 0]
    );
    assert_eq!(host.resent("default", &[1]).await.unwrap(), 1);
    assert_eq!(host.keep_resends("default", &[2]).await.unwrap(), 1);
    drop(host);

    let host = open(folder.path()).await;
    let states: Vec<_> = host
        .letters(&filter(), 99)
        .await
        .unwrap()
        .iter()
        .map(|letter| (letter.id, letter.state))
        .collect();
    use LetterState::{Kept, Resend};
    assert_eq!(
        states,
        [(2, Kept), (3, Resend), (4, Kept), (5, Resend)],
        "3 was under way and is sent again"
    );
    assert_eq!(
        host.return_resends(
            "default",
            &ids(&host
                .take_resends("default", "a", "mqtt_0", 9)
                .await
                .unwrap())
        )
        .await
        .unwrap(),
        1
    );
    assert_eq!(host.waiting_resends().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_and_a_visitor_that_write_at_once_do_not_disturb_each_other() {
    let folder = TempDir::new().unwrap();
    let host = open(folder.path()).await;
    let visitor = Store::open_shared(folder.path()).await.unwrap();
    host.bury((0..100).map(|n| letter(n, "r")).collect())
        .await
        .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        for n in 0..100 {
            host.commit("default", "k", 0, &n.to_string())
                .await
                .unwrap();
            host.bury(vec![letter(n, "new")]).await.unwrap();
        }
    });
    let removing = visitor.clone();
    tasks.spawn(async move {
        for id in 1..=100 {
            assert_eq!(removing.remove_letters("default", &[id]).await.unwrap(), 1);
        }
    });
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let left = visitor.letters(&filter(), 1000).await.unwrap();
    assert_eq!(ids(&left), (101..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn letters_that_are_too_old_go_counted_and_make_room_but_not_those_to_be_sent_again() {
    let folder = TempDir::new().unwrap();
    let options = StoreOptions {
        dead_letters: 5,
        dead_letter_age: Some(std::time::Duration::from_millis(100)),
        ..StoreOptions::default()
    };
    let (store, _) = Store::open_with(folder.path(), options).await.unwrap();
    let all: Vec<_> = (0..5).map(|n| letter(n, "r")).collect();
    store.bury(all.clone()).await.unwrap();
    assert!(store.bury(all.clone()).await.is_err(), "it is full");
    assert_eq!(store.mark_resend("default", &[1]).await.unwrap(), 1);
    assert_eq!(store.expire_letters(1000).await.unwrap(), 0);
    // Those of 1000 (to be sent again), 1001 and 1002 are older than that.
    assert_eq!(store.expire_letters(1103).await.unwrap(), 2);
    assert_eq!(ids(&store.letters(&filter(), 10).await.unwrap()), [1, 4, 5]);
    assert_eq!(store.letters_gone().expired, 2);
    store.bury(all[..2].to_vec()).await.unwrap();
    assert!(
        store.bury(all[..1].to_vec()).await.is_err(),
        "its totals are right"
    );
    let forward = store
        .letters_to_forward("default", "r", 4, 10)
        .await
        .unwrap();
    assert_eq!(ids(&forward), [5, 6, 7]);
    assert_eq!(store.forwarded("default", &[5, 6]).await.unwrap(), 2);
    assert_eq!(store.letters_gone().forwarded, 2);
    let (plain, _) = Store::open(TempDir::new().unwrap().path()).await.unwrap();
    plain.bury(all).await.unwrap();
    assert_eq!(
        plain.expire_letters(u64::MAX).await.unwrap(),
        0,
        "without a bound none goes"
    );
}
