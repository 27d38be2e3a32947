//! Ways in which clients lose or wedge what they send, one test for each: it cannot happen here.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::broker::{Broker, Sent, limits};
use super::sending::{expected, numbers, publishes, sending, session};
use super::support::{PATIENCE, World, message, until};
use crate::connections::{PublishOptions, Qos};
use crate::error::ErrorKind;
use crate::message::{Batch, Message};

const BOTH: [bool; 2] = [false, true];

#[tokio::test]
async fn d01_a_session_the_broker_forgot_loses_neither_publishes_nor_subscriptions() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new()
            .client(broker.port, &session(&broker, &json!({"maxInflight": 10})))
            .start();
        let _taker = client.take("in/#", Qos::AtLeastOnce);
        sending(&client, 50, Qos::AtLeastOnce, async {
            let mut peer = broker.welcome(false).await;
            assert_eq!(publishes(&mut peer, 10).await.len(), 10);
            drop(peer);
            let mut peer = broker.welcome(false).await;
            let (mut texts, mut asked) = (Vec::new(), Vec::new());
            while texts.len() < 50 || asked.is_empty() {
                match peer.next().await {
                    Sent::Publish {
                        payload, id, dup, ..
                    } => {
                        assert!(!dup, "a new session knows no earlier delivery");
                        texts.push(payload);
                        peer.ack(4, id, 0).await;
                    }
                    Sent::Subscribe { id, filters } => {
                        peer.suback(id, &[1]).await;
                        asked.extend(filters);
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(texts, expected(50));
            assert_eq!(asked[0].0, "in/#");
        })
        .await;
    }
}

#[tokio::test]
async fn d02_after_a_resume_the_window_holds_and_nothing_is_lost() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new()
            .client(broker.port, &session(&broker, &json!({"maxInflight": 5})))
            .start();
        sending(&client, 50, Qos::AtLeastOnce, async {
            let mut peer = broker.welcome(false).await;
            publishes(&mut peer, 5).await;
            drop(peer);
            let mut peer = broker.welcome(true).await;
            let mut texts = Vec::new();
            while texts.len() < 50 {
                let got = publishes(&mut peer, 5).await;
                assert_eq!(
                    peer.next_within(Duration::from_millis(20)).await,
                    None,
                    "more than the window"
                );
                for (text, id, _) in got {
                    texts.push(text);
                    peer.ack(4, id, 0).await;
                }
            }
            assert_eq!(texts, expected(50));
        })
        .await;
    }
}

#[tokio::test]
async fn d03_acknowledgements_out_of_order_and_a_lost_session_wedge_nothing() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new()
            .client(broker.port, &session(&broker, &json!({"maxInflight": 3})))
            .start();
        let _peer = sending(&client, 8, Qos::AtLeastOnce, async {
            let mut peer = broker.welcome(false).await;
            let got = publishes(&mut peer, 3).await;
            // The last first, twice, and one that does not exist.
            for id in [got[2].1, got[2].1, 4711] {
                peer.ack(4, id, 0).await;
            }
            publishes(&mut peer, 1).await;
            drop(peer);
            let mut peer = broker.welcome(false).await;
            let mut texts = BTreeSet::new();
            for _ in 0..7 {
                let (text, id, _) = publishes(&mut peer, 1).await.remove(0);
                texts.insert(text);
                peer.ack(4, id, 0).await;
            }
            assert_eq!(texts.len(), 7);
            peer
        })
        .await;
        assert_eq!(client.attempts(), 1);
    }
}

#[tokio::test]
async fn d06_what_is_sent_again_says_so_and_keeps_its_id() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new()
            .client(broker.port, &session(&broker, &json!({})))
            .start();
        sending(&client, 3, Qos::AtLeastOnce, async {
            let mut peer = broker.welcome(false).await;
            let first = publishes(&mut peer, 3).await;
            assert!(first.iter().all(|(_, _, dup)| !dup));
            drop(peer);
            let mut peer = broker.welcome(true).await;
            let again = publishes(&mut peer, 3).await;
            for (before, now) in first.iter().zip(&again) {
                assert_eq!((&before.0, before.1, true), (&now.0, now.1, now.2));
                peer.ack(4, now.1, 0).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn d07_a_message_too_large_to_send_is_rejected_and_the_link_stays() {
    let broker = Broker::new(true).await;
    let client = World::new()
        .client(broker.port, &session(&broker, &json!({})))
        .start();
    let mut limits = limits();
    limits.max_packet_size = Some(100);
    let mut peer = broker.welcome_with(false, Some(limits)).await;
    let batch = vec![
        message("t", "a"),
        message("t", &"x".repeat(200)),
        message("t", "b"),
    ];
    let script = async {
        for text in ["a", "b"] {
            let got = publishes(&mut peer, 1).await;
            assert_eq!(got[0].0, text);
            peer.ack(4, got[0].1, 0).await;
        }
    };
    let (result, ()) = tokio::join!(client.publish_all(batch, Qos::AtLeastOnce), script);
    let rejections = result.unwrap();
    assert_eq!(
        (
            rejections.len(),
            rejections[0].index,
            rejections[0].error.kind
        ),
        (1, 1, ErrorKind::Permanent)
    );
    assert_eq!(client.attempts(), 0);
    // The protocol's own limit, in every version; the memory is never touched.
    let large = Message {
        subject: "t".into(),
        ..Message::new(vec![0u8; 268_435_456])
    };
    let broker = Broker::new(false).await;
    let client = World::new()
        .client(broker.port, &session(&broker, &json!({})))
        .start();
    let _peer = broker.welcome(false).await;
    let rejections = client
        .publish_all(vec![large], Qos::AtLeastOnce)
        .await
        .unwrap();
    assert_eq!(rejections[0].error.kind, ErrorKind::Permanent);
    assert_eq!(client.attempts(), 0);
}

#[tokio::test]
async fn d07b_a_limit_that_the_broker_lowers_rejects_what_waits_instead_of_looping() {
    let broker = Broker::new(true).await;
    let client = World::new()
        .client(broker.port, &session(&broker, &json!({})))
        .start();
    let script = async {
        let mut peer = broker.welcome(false).await;
        publishes(&mut peer, 2).await;
        drop(peer);
        let mut limits = limits();
        limits.max_packet_size = Some(100);
        let mut peer = broker.welcome_with(true, Some(limits)).await;
        let got = publishes(&mut peer, 1).await;
        assert_eq!(got[0].0, "small");
        peer.ack(4, got[0].1, 0).await;
        peer
    };
    let batch = vec![message("t", &"x".repeat(200)), message("t", "small")];
    let (result, _peer) = tokio::join!(client.publish_all(batch, Qos::AtLeastOnce), script);
    let rejections = result.unwrap();
    assert_eq!((rejections.len(), rejections[0].index), (1, 0));
    assert_eq!(client.attempts(), 1);
}

#[tokio::test]
async fn a_message_that_the_broker_hangs_up_on_is_given_up_and_its_neighbours_arrive() {
    for present in BOTH {
        let broker = Broker::new(false).await;
        let client = World::new()
            .client(broker.port, &session(&broker, &json!({})))
            .start();
        let large = "x".repeat(200);
        let batch = ["a", &large, "b"].map(|text| message("t", text)).to_vec();
        let mut links = 0;
        let script = async {
            let mut peer = broker.welcome(false).await;
            loop {
                let got = publishes(&mut peer, 1).await;
                if got[0].0 == large {
                    links += 1;
                    drop(peer);
                    peer = broker.welcome(present).await;
                } else {
                    peer.ack(4, got[0].1, 0).await;
                }
            }
        };
        let result = tokio::select! {
            result = client.publish_all(batch, Qos::AtLeastOnce) => result,
            () = script => unreachable!("it has no end"),
        };
        let rejections = result.unwrap();
        assert_eq!((rejections.len(), rejections[0].index), (1, 1));
        assert_eq!(rejections[0].error.code, "hung-up");
        assert_eq!(rejections[0].error.kind, ErrorKind::Permanent);
        assert!((3..12).contains(&links), "{links} links");
    }
}

#[tokio::test]
async fn d15_refused_messages_are_rejected_one_by_one_and_give_the_window_back() {
    let broker = Broker::new(true).await;
    let client = World::new()
        .client(broker.port, &session(&broker, &json!({"maxInflight": 3})))
        .start();
    for (qos, kind) in [(Qos::AtLeastOnce, 4), (Qos::ExactlyOnce, 5)] {
        let script = async {
            if kind == 4 {
                let mut peer = broker.welcome(false).await;
                for n in 0..10 {
                    let got = publishes(&mut peer, 1).await;
                    peer.ack(kind, got[0].1, if n % 2 == 0 { 0x87 } else { 0x97 })
                        .await;
                }
                return;
            }
            let mut peer = broker.welcome(true).await;
            for _ in 0..10 {
                let got = publishes(&mut peer, 1).await;
                peer.ack(kind, got[0].1, 0x99).await;
            }
        };
        let (result, ()) = tokio::join!(client.publish_all(numbers(10), qos), script);
        let rejections = result.unwrap();
        assert_eq!(rejections.len(), 10);
        if kind == 4 {
            assert_eq!(rejections[0].error.kind, ErrorKind::Permanent);
            assert_eq!(rejections[1].error.kind, ErrorKind::Transient);
        }
    }
}

#[tokio::test]
async fn d16_a_receive_maximum_that_the_broker_lowers_is_kept_and_nothing_is_stuck() {
    let broker = Broker::new(true).await;
    let client = World::new()
        .client(broker.port, &session(&broker, &json!({})))
        .start();
    let _peer = sending(&client, 60, Qos::AtLeastOnce, async {
        let with = |max| {
            let mut limits = limits();
            limits.receive_max = Some(max);
            Some(limits)
        };
        let mut peer = broker.welcome_with(false, with(20)).await;
        let got = publishes(&mut peer, 20).await;
        for (_, id, _) in &got[..12] {
            peer.ack(4, *id, 0).await;
        }
        publishes(&mut peer, 12).await;
        drop(peer);
        let mut peer = broker.welcome_with(true, with(5)).await;
        let mut texts = BTreeSet::new();
        while texts.len() < 48 {
            let got = publishes(&mut peer, 5.min(48 - texts.len())).await;
            assert_eq!(
                peer.next_within(Duration::from_millis(10)).await,
                None,
                "more than the maximum"
            );
            for (text, id, _) in got {
                texts.insert(text);
                peer.ack(4, id, 0).await;
            }
        }
        peer
    })
    .await;
    assert_eq!(client.attempts(), 1);
}

#[tokio::test]
async fn d17_ids_of_subscribe_never_meet_those_of_publish() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new()
            .client(broker.port, &session(&broker, &json!({})))
            .start();
        let mut peer = broker.welcome(false).await;
        let script = async {
            let got = publishes(&mut peer, 3).await;
            let _taker = client.take("x", Qos::AtLeastOnce);
            let (id, _) = peer.grant().await;
            assert!(id > 60_000 && got.iter().all(|(_, held, _)| *held <= 60_000));
            for (_, id, _) in got {
                peer.ack(4, id, 0).await;
            }
        };
        sending(&client, 3, Qos::AtLeastOnce, script).await;
    }
}

#[tokio::test]
async fn d19_topics_that_are_none_are_rejected_and_the_stream_stays_whole() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new()
            .client(broker.port, &session(&broker, &json!({})))
            .start();
        let mut peer = broker.welcome(false).await;
        let long = "x".repeat(65_536);
        let batch = vec![
            message("", "a"),
            message("ok", "b"),
            message("a/+", "c"),
            message(&long, "d"),
            message("ok", "e"),
        ];
        let script = async {
            for text in ["b", "e"] {
                let got = publishes(&mut peer, 1).await;
                assert_eq!(got[0].0, text);
                peer.ack(4, got[0].1, 0).await;
            }
        };
        let (result, ()) = tokio::join!(client.publish_all(batch, Qos::AtLeastOnce), script);
        let places: Vec<_> = result
            .unwrap()
            .iter()
            .map(|rejection| rejection.index)
            .collect();
        assert_eq!(places, [0, 2, 3]);
    }
}

#[tokio::test]
async fn d21_what_is_sent_again_keeps_its_order_whatever_was_acknowledged() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new()
            .client(broker.port, &session(&broker, &json!({})))
            .start();
        sending(&client, 8, Qos::AtLeastOnce, async {
            let mut peer = broker.welcome(false).await;
            let got = publishes(&mut peer, 8).await;
            for place in [6, 0, 3] {
                peer.ack(4, got[place].1, 0).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(peer);
            let mut peer = broker.welcome(true).await;
            let again = publishes(&mut peer, 5).await;
            let texts: Vec<_> = again.iter().map(|(text, _, _)| text.as_str()).collect();
            assert_eq!(texts, ["1", "2", "4", "5", "7"]);
            for (_, id, _) in again {
                peer.ack(4, id, 0).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_publish_without_a_link_ends_after_five_seconds_and_its_repetition_attaches_to_what_was_sent()
 {
    let broker = Broker::new(false).await;
    let client = World::new()
        .client(broker.port, &session(&broker, &json!({})))
        .start();
    let batch = Batch::from(numbers(3));
    let options = PublishOptions {
        qos: Some(Qos::AtLeastOnce),
        ..PublishOptions::default()
    };
    let script = async {
        let mut peer = broker.welcome(false).await;
        let got = publishes(&mut peer, 3).await;
        peer.ack(4, got[0].1, 0).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        got
    };
    let begun = tokio::time::Instant::now();
    let (result, first) = tokio::join!(client.publish_batch(&batch, &options), script);
    assert_eq!(result.unwrap_err().kind, ErrorKind::Disconnected);
    let waited = begun.elapsed();
    assert!(
        waited > Duration::from_secs(4) && waited < PATIENCE,
        "{waited:?}"
    );
    // The same content in new memory, as a guest makes it.
    let again = Batch::from(vec![
        message("t", "1"),
        message("t", "2"),
        message("t", "3"),
    ]);
    let script = async {
        let mut peer = broker.accept().await;
        assert!(matches!(peer.next().await, Sent::Connect { .. }));
        peer.connack(true, None).await;
        let mut got = publishes(&mut peer, 3).await;
        assert_eq!(
            peer.next_within(Duration::from_millis(50)).await,
            None,
            "sent twice"
        );
        for (_, id, _) in &got {
            peer.ack(4, *id, 0).await;
        }
        got.sort();
        got
    };
    let (result, got) = tokio::join!(client.publish_batch(&again, &options), script);
    assert!(result.unwrap().is_empty());
    let texts: Vec<_> = got
        .iter()
        .map(|(text, id, dup)| (text.as_str(), *id, *dup))
        .collect();
    assert_eq!(
        texts[..2],
        [("1", first[1].1, true), ("2", first[2].1, true)]
    );
    assert!(!texts[2].2);
    until("the window is empty", || client.connection.was_useful()).await;
}
