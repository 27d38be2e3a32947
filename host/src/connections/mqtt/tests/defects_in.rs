//! Ways in which clients lose, repeat or starve what they receive, one test for each.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::PublishProperties;
use serde_json::{Value, json};

use super::broker::{Broker, Sent};
use super::support::{World, message, until};
use crate::connections::{Inbox, Memory, Qos, SubscribeOptions};
use crate::error::ErrorKind;

const BOTH: [bool; 2] = [false, true];

fn session(broker: &Broker) -> Value {
    json!({"protocolVersion": broker.version(), "clientid": "c", "enableClientSession": true})
}

#[tokio::test]
async fn d04_level_2_is_released_after_a_resume_and_taken_once() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new().client(broker.port, &session(&broker)).start();
        let taker = client.take("#", Qos::ExactlyOnce);
        let mut peer = broker.welcome(false).await;
        peer.grant().await;
        peer.publish("a", b"one", 2, 7, false).await;
        assert_eq!(taker.text().await, "one");
        assert_eq!(peer.next().await, Sent::PubRec(7));
        drop(peer);
        let mut peer = broker.welcome(true).await;
        // The PUBREC was lost on the way: the broker repeats the message, and then releases it.
        peer.publish("a", b"one", 2, 7, true).await;
        assert_eq!(peer.granting().await, Sent::PubRec(7));
        peer.ack(6, 7, 0).await;
        assert_eq!(peer.next().await, Sent::PubComp(7));
        // A release of what nobody knows comes to an end too.
        peer.ack(6, 99, 0).await;
        assert_eq!(peer.next().await, Sent::PubComp(99));
        peer.publish("a", b"two", 2, 7, false).await;
        assert_eq!(taker.text().await, "two");
        assert_eq!(client.attempts(), 1);
    }
}

#[tokio::test]
async fn d08_messages_too_large_to_take_are_skipped_acknowledged_and_reported() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let mut world = World::new();
        world.limits.max_message_bytes = 1000;
        let client = world.client(broker.port, &session(&broker)).start();
        let taker = client.take("#", Qos::ExactlyOnce);
        let mut peer = broker.welcome(false).await;
        peer.grant().await;
        let large = vec![7u8; 200_000];
        peer.publish("good", b"1", 1, 1, false).await;
        for id in 2..12 {
            peer.publish("bad", &large, 1, id, false).await;
        }
        peer.publish("bad", &large, 2, 12, false).await;
        peer.publish("good", b"2", 1, 13, false).await;
        assert_eq!(taker.texts(2).await, ["1", "2"]);
        assert_eq!(peer.next().await, Sent::PubAck(1));
        let early = peer.next_within(Duration::from_millis(100)).await;
        assert_eq!(early, None, "before their dead letters are kept");
        let kept: Vec<_> = world.letters.1.lock().drain(..).collect();
        kept.into_iter().for_each(crate::message::Take::settle);
        for id in 2..12 {
            assert_eq!(peer.next().await, Sent::PubAck(id));
        }
        assert_eq!(peer.next().await, Sent::PubRec(12));
        assert_eq!(peer.next().await, Sent::PubAck(13));
        let letters = world.letters.0.lock().clone();
        assert_eq!(letters.len(), 11);
        assert_eq!(letters[0].0, "bad");
        assert_eq!(world.traffic.refused.load(Ordering::Relaxed), 11);
        assert_eq!(client.attempts(), 0);
    }
}

#[tokio::test]
async fn d12_acknowledgements_pass_a_full_window() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let mut props = session(&broker);
        props["maxInflight"] = json!(1);
        let client = World::new().client(broker.port, &props).start();
        let taker = client.take("in", Qos::AtLeastOnce);
        let mut peer = broker.welcome(false).await;
        peer.grant().await;
        let batch = (0..100).map(|n| message("out", &n.to_string())).collect();
        let script = async {
            let Sent::Publish { id, .. } = peer.next().await else {
                panic!("nothing sent")
            };
            peer.publish("in", b"x", 1, 5, false).await;
            assert_eq!(taker.text().await, "x");
            assert_eq!(peer.next().await, Sent::PubAck(5));
            let mut id = id;
            for _ in 1..100 {
                peer.ack(4, id, 0).await;
                let Sent::Publish { id: next, .. } = peer.next().await else {
                    panic!("no publish")
                };
                id = next;
            }
            peer.ack(4, id, 0).await;
        };
        let (result, ()) = tokio::join!(client.publish_all(batch, Qos::AtLeastOnce), script);
        assert!(result.unwrap().is_empty());
    }
}

#[tokio::test]
async fn d18_a_settlement_of_an_earlier_session_acknowledges_nothing_of_this_one() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new().client(broker.port, &session(&broker)).start();
        let taker = client.take("#", Qos::AtLeastOnce);
        let mut peer = broker.welcome(false).await;
        peer.grant().await;
        peer.publish("a", b"old", 1, 1, false).await;
        let old = taker.next().await;
        drop(peer);
        let mut peer = broker.welcome(false).await;
        peer.grant().await;
        peer.publish("a", b"new", 1, 1, false).await;
        let new = taker.next().await;
        old.take.unwrap().settle();
        assert_eq!(
            peer.next_within(Duration::from_millis(100)).await,
            None,
            "a stale acknowledgement"
        );
        new.take.unwrap().settle();
        assert_eq!(peer.next().await, Sent::PubAck(1));
    }
}

#[tokio::test]
async fn what_is_still_in_flight_here_is_not_processed_twice_when_it_comes_again() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new().client(broker.port, &session(&broker)).start();
        let taker = client.take("#", Qos::AtLeastOnce);
        let mut peer = broker.welcome(false).await;
        peer.grant().await;
        for (id, text) in [(1, "a"), (2, "b"), (3, "c")] {
            peer.publish("t", text.as_bytes(), 1, id, false).await;
        }
        let (a, b, c) = (taker.next().await, taker.next().await, taker.next().await);
        drop(peer);
        until("lost", || client.attempts() == 1).await;
        // Settled while away: acknowledged as soon as it comes again.
        b.take.unwrap().settle();
        let mut peer = broker.welcome(true).await;
        // A broker keeps the order; what the id is used for now decides, not the id alone.
        peer.publish("t", b"a", 1, 1, true).await;
        peer.publish("t", b"b", 1, 2, true).await;
        peer.publish("t", b"other", 1, 3, false).await;
        assert_eq!(taker.text().await, "other");
        c.take.unwrap().settle();
        assert_eq!(
            peer.next_within(Duration::from_millis(100)).await,
            None,
            "out of order"
        );
        a.take.unwrap().settle();
        for id in [1, 2, 3] {
            assert_eq!(peer.next().await, Sent::PubAck(id));
        }
        taker.nothing().await;
    }
}

#[tokio::test]
async fn acknowledgements_leave_in_the_order_of_arrival_whatever_settles_first() {
    let broker = Broker::new(false).await;
    let client = World::new().client(broker.port, &session(&broker)).start();
    let (one, two) = (
        client.take("#", Qos::AtLeastOnce),
        client.take("t/+", Qos::AtLeastOnce),
    );
    let mut peer = broker.welcome(false).await;
    peer.grant().await;
    for id in 1..=3 {
        peer.publish("t/x", b"m", 1, id, false).await;
    }
    for _ in 0..3 {
        one.text().await;
    }
    let (first, second, third) = (two.next().await, two.next().await, two.next().await);
    third.take.unwrap().settle();
    second.take.unwrap().settle();
    assert_eq!(peer.next_within(Duration::from_millis(100)).await, None);
    first.take.unwrap().settle();
    for id in 1..=3 {
        assert_eq!(peer.next().await, Sent::PubAck(id));
    }
}

#[tokio::test]
async fn a_taker_that_drops_a_message_does_not_have_it_acknowledged_and_gets_it_again() {
    let broker = Broker::new(false).await;
    let client = World::new().client(broker.port, &session(&broker)).start();
    let taker = client.take("#", Qos::AtLeastOnce);
    let mut peer = broker.welcome(false).await;
    peer.grant().await;
    peer.publish("t", b"m", 1, 1, false).await;
    drop(taker.next().await);
    assert_eq!(peer.next_within(Duration::from_millis(100)).await, None);
    drop(peer);
    let mut peer = broker.welcome(true).await;
    peer.publish("t", b"m", 1, 1, true).await;
    assert_eq!(taker.text().await, "m");
    assert_eq!(peer.next().await, Sent::PubAck(1));
}

#[tokio::test]
async fn past_the_bound_a_persistent_session_hangs_up_and_dials_when_there_is_room() {
    let broker = Broker::new(false).await;
    let mut world = World::new();
    world.limits.unsettled_messages = 8;
    let client = world.client(broker.port, &session(&broker)).start();
    let taker = client.take("#", Qos::AtLeastOnce);
    let mut peer = broker.welcome(false).await;
    peer.grant().await;
    for id in 1..=9 {
        peer.publish("t", b"m", 1, id, false).await;
    }
    peer.hung_up().await;
    until("the reason is told", || {
        client
            .reasons
            .lock()
            .iter()
            .any(|reason| reason.code == "unsettled")
    })
    .await;
    assert_eq!(broker.attempts(Duration::from_millis(300)).await, 0);
    taker.texts(8).await;
    let mut peer = broker.welcome(true).await;
    for id in 1..=8 {
        peer.publish("t", b"m", 1, id, true).await;
        assert_eq!(peer.next().await, Sent::PubAck(id));
    }
    peer.publish("t", b"ninth", 1, 9, false).await;
    assert_eq!(taker.text().await, "ninth");
}

#[tokio::test]
async fn past_the_bound_a_clean_session_drops_the_newest_and_keeps_the_link() {
    let broker = Broker::new(false).await;
    let mut world = World::new();
    world.limits.unsettled_messages = 2;
    let client = world.client(broker.port, &json!({})).start();
    let taker = client.take("#", Qos::AtLeastOnce);
    let mut peer = broker.welcome(false).await;
    peer.grant().await;
    for id in 1..=4 {
        peer.publish("t", id.to_string().as_bytes(), 1, id, false)
            .await;
    }
    assert_eq!(taker.texts(2).await, ["1", "2"]);
    for id in 1..=4 {
        assert_eq!(peer.next().await, Sent::PubAck(id));
    }
    assert_eq!(world.traffic.dropped.load(Ordering::Relaxed), 2);
    assert!(
        client
            .connection
            .warnings()
            .iter()
            .any(|text| text.contains("enableClientSession"))
    );
    assert_eq!(client.attempts(), 0);
}

#[tokio::test]
async fn a_message_without_taker_is_acknowledged_and_counted() {
    let broker = Broker::new(false).await;
    let world = World::new();
    let _client = world.client(broker.port, &session(&broker)).start();
    let mut peer = broker.welcome(true).await;
    peer.publish("t", b"m", 1, 1, false).await;
    assert_eq!(peer.next().await, Sent::PubAck(1));
    assert_eq!(world.traffic.untaken.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_refused_filter_is_told_to_its_taker_and_the_link_stays() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new().client(broker.port, &session(&broker)).start();
        let (bad, good) = (
            client.take("bad", Qos::AtLeastOnce),
            client.take("good", Qos::AtLeastOnce),
        );
        let mut peer = broker.welcome(false).await;
        let mut seen = 0;
        while seen < 2 {
            let Sent::Subscribe { id, filters } = peer.next().await else {
                panic!("no SUBSCRIBE")
            };
            let reasons: Vec<u8> = filters
                .iter()
                .map(|(name, _)| {
                    if name == "bad" {
                        if five { 0x87 } else { 0x80 }
                    } else {
                        1
                    }
                })
                .collect();
            seen += filters.len();
            peer.suback(id, &reasons).await;
        }
        let error = bad.inbox.receive(1).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Misconfigured);
        assert!(
            client
                .connection
                .warnings()
                .iter()
                .any(|text| text.contains("`bad`"))
        );
        peer.publish("good", b"m", 1, 1, false).await;
        assert_eq!(good.text().await, "m");
        assert_eq!(client.attempts(), 0);
    }
}

#[tokio::test]
async fn the_first_taker_decides_the_level_and_the_last_one_unsubscribes() {
    let broker = Broker::new(false).await;
    let world = World::new();
    let client = world.client(broker.port, &session(&broker)).start();
    let one = client.take("f", Qos::AtLeastOnce);
    let mut peer = broker.welcome(false).await;
    assert_eq!(peer.grant().await.1, [("f".to_owned(), 1)]);
    // A later taker waits for retained messages, so the filter is asked for again.
    let two = client.take("f", Qos::ExactlyOnce);
    assert_eq!(peer.grant().await.1, [("f".to_owned(), 1)]);
    assert!(
        client
            .connection
            .warnings()
            .iter()
            .any(|text| text.contains("level 2 is not used"))
    );
    drop(one);
    assert_eq!(peer.next_within(Duration::from_millis(100)).await, None);
    drop(two);
    assert!(matches!(peer.next().await, Sent::Unsubscribe { filters, .. } if filters == ["f"]));
    let three = client.take("g", Qos::AtLeastOnce);
    peer.grant().await;
    world.stopping.store(true, Ordering::Release);
    drop(three);
    assert_eq!(
        peer.next_within(Duration::from_millis(100)).await,
        None,
        "a host that stops unsubscribes nothing"
    );
}

#[tokio::test]
async fn filters_of_an_earlier_run_are_unsubscribed_and_identifiers_stay() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let world = World::new();
        let client = world.client(broker.port, &session(&broker)).start();
        let _takers = [
            client.take("a", Qos::AtLeastOnce),
            client.take("b", Qos::AtLeastOnce),
        ];
        let mut peer = broker.welcome(false).await;
        let mut seen = 0;
        while seen < 2 {
            seen += peer.grant().await.1.len();
        }
        client.kill();
        drop(peer);
        let client = world.client(broker.port, &session(&broker)).start();
        let taker = client.take("b", Qos::AtLeastOnce);
        let mut peer = broker.welcome(true).await;
        assert!(matches!(peer.next().await, Sent::Unsubscribe { filters, .. } if filters == ["a"]));
        assert_eq!(peer.grant().await.1[0].0, "b");
        if five {
            let properties = PublishProperties {
                subscription_identifiers: vec![2],
                ..PublishProperties::default()
            };
            peer.publish_with("b", b"m", 1, 1, false, Some(properties))
                .await;
        } else {
            peer.publish("b", b"m", 1, 1, false).await;
        }
        assert_eq!(taker.text().await, "m");
    }
}

/// A world whose host is starting and had these filters before.
async fn starting(filters: &str) -> World {
    let world = World::new();
    world.memory.put("filters", filters).await.unwrap();
    world.booting.store(true, Ordering::Release);
    world
}

#[tokio::test]
async fn while_the_host_starts_messages_for_a_taker_that_has_not_come_stay_with_the_broker() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let world = starting(r#"{"a":1,"b":2}"#).await;
        let client = world.client(broker.port, &session(&broker)).start();
        let taker_b = client.take("b", Qos::AtLeastOnce);
        let mut peer = broker.welcome(true).await;
        assert_eq!(peer.grant().await.1[0].0, "b", "nothing is unsubscribed");
        peer.publish("a", b"1", 1, 1, false).await;
        peer.publish("b", b"n", 1, 2, false).await;
        assert_eq!(taker_b.text().await, "n");
        // Its source opens, fails, and opens again.
        drop(client.take("a", Qos::AtLeastOnce));
        let taker_a = client.take("a", Qos::AtLeastOnce);
        peer.grant().await;
        peer.publish("a", b"2", 1, 3, false).await;
        let quiet = Duration::from_millis(100);
        assert_eq!(
            peer.next_within(quiet).await,
            None,
            "nothing is acknowledged"
        );
        let early = tokio::time::timeout(quiet, taker_a.next()).await;
        assert!(early.is_err(), "the second before the first");
        world.booting.store(false, Ordering::Release);
        peer.publish("b", b"wakes", 0, 0, false).await;
        peer.hung_up().await;
        let mut peer = broker.welcome(true).await;
        for (topic, payload, id) in [("a", b"1", 1), ("b", b"n", 2), ("a", b"2", 3)] {
            peer.publish(topic, payload, 1, id, true).await;
        }
        assert_eq!(taker_a.text().await, "1");
        assert_eq!(taker_a.text().await, "2");
        for id in 1..=3 {
            assert_eq!(peer.granting().await, Sent::PubAck(id));
        }
        assert_eq!(world.traffic.untaken.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn what_nobody_has_come_for_when_the_host_has_started_is_unsubscribed_and_let_go() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let world = starting(r#"{"a":1}"#).await;
        let client = world.client(broker.port, &session(&broker)).start();
        let mut peer = broker.welcome(true).await;
        peer.publish("a", b"1", 1, 1, false).await;
        assert_eq!(peer.next_within(Duration::from_millis(100)).await, None);
        world.booting.store(false, Ordering::Release);
        peer.publish("x", b"wakes", 0, 0, false).await;
        peer.hung_up().await;
        let mut peer = broker.welcome(true).await;
        let Sent::Unsubscribe { id, filters } = peer.next().await else {
            panic!("no UNSUBSCRIBE")
        };
        assert_eq!(filters, ["a"]);
        peer.unsuback(id).await;
        peer.publish("a", b"1", 1, 1, true).await;
        assert_eq!(peer.next().await, Sent::PubAck(1));
        drop(client);
    }
}

#[tokio::test]
async fn a_memory_that_cannot_be_read_is_waited_for_and_never_written_over() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let world = World::new();
        let kept = [
            ("client-id", "kept-id"),
            ("filters", r#"{"a":1}"#),
            ("qos2-ids", "5 9"),
        ];
        for (name, value) in kept {
            world.memory.put(name, value).await.unwrap();
        }
        let names = kept.map(|(name, _)| name);
        world.memory.unreadable.lock().extend(names);
        let properties = json!({"enableClientSession": true, "protocolVersion": broker.version()});
        let client = world.client(broker.port, &properties).start();
        let taker = client.take("a", Qos::AtLeastOnce);
        let mut peer = broker.accept().await;
        assert!(matches!(peer.next().await, Sent::Connect { id, .. } if id == "kept-id"));
        peer.connack(true, None).await;
        // What may be open from before is released.
        for _ in 5..9 {
            assert!(matches!(peer.granting().await, Sent::PubRel(_)));
        }
        for (name, value) in &kept[..2] {
            assert_eq!(world.memory.value(name).as_deref(), Some(*value), "{name}");
        }
        let reasons = client.reasons.lock().clone();
        assert_eq!(reasons.len(), 3, "{reasons:?}");
        assert!(
            reasons
                .iter()
                .all(|reason| reason.kind == ErrorKind::Transient)
        );
        drop(taker);
    }
}

#[tokio::test]
async fn filters_that_could_not_be_kept_are_not_subscribed_over_the_next_link_either() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let world = World::new();
        world.memory.unwritable.lock().push("filters");
        let client = world.client(broker.port, &session(&broker)).start();
        let _taker = client.take("f", Qos::AtLeastOnce);
        broker.welcome(false).await.hung_up().await;
        let mut peer = broker.welcome(true).await;
        peer.grant().await;
        assert!(
            world
                .memory
                .value("filters")
                .is_some_and(|kept| kept.contains("\"f\"")),
            "a later process knows what the broker has"
        );
    }
}

#[tokio::test]
async fn a_session_that_is_resumed_is_not_subscribed_again_and_a_new_one_is() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new().client(broker.port, &session(&broker)).start();
        let taker = client.take("f", Qos::AtLeastOnce);
        let mut peer = broker.welcome(false).await;
        peer.grant().await;
        drop(peer);
        let mut peer = broker.welcome(true).await;
        assert_eq!(peer.next_within(Duration::from_millis(100)).await, None);
        drop(peer);
        let mut peer = broker.welcome(false).await;
        peer.grant().await;
        peer.publish("f", b"m", 0, 0, false).await;
        assert_eq!(taker.text().await, "m");
    }
}

#[tokio::test]
async fn filters_and_options_that_cannot_be_are_refused_at_once() {
    let client = World::new().client(1, &json!({}));
    let messaging = client.connection.messaging().unwrap();
    for filter in ["", "a/#/b", "$share/x"] {
        let options = SubscribeOptions::default();
        let error = messaging
            .subscribe(&[filter.to_owned()], &options, Inbox::default().into())
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Misconfigured, "{filter}");
    }
    let options = SubscribeOptions {
        extra: vec![("x".to_owned(), "y".to_owned())],
        ..SubscribeOptions::default()
    };
    let error = messaging
        .subscribe(&["a".to_owned()], &options, Inbox::default().into())
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
}

#[tokio::test]
async fn topic_aliases_of_the_broker_are_understood() {
    let broker = Broker::new(true).await;
    let client = World::new().client(broker.port, &session(&broker)).start();
    let taker = client.take("#", Qos::AtLeastOnce);
    let mut peer = broker.welcome(false).await;
    peer.grant().await;
    let alias = || {
        Some(PublishProperties {
            topic_alias: Some(3),
            ..PublishProperties::default()
        })
    };
    peer.publish_with("long/topic", b"1", 0, 0, false, alias())
        .await;
    peer.publish_with("", b"2", 0, 0, false, alias()).await;
    assert_eq!(&*taker.next().await.message.subject, "long/topic");
    let second = taker.next().await.message;
    assert_eq!(
        (&*second.subject, &*second.payload),
        ("long/topic", &b"2"[..])
    );
}
