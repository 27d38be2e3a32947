//! Against a real mosquitto: what it can produce of a session's life.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::support::{Client, Mosquitto, World, message, until};
use crate::connections::{PublishOptions, Qos};
use crate::message::{Batch, Headers, Message};

const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
const VERSIONS: [&str; 3] = ["3.1", "3.1.1", "5"];
const NEW: [&str; 2] = ["3.1.1", "5"];
const PERSIST: &str = "persistence true\nautosave_on_changes true\nautosave_interval 1";

fn session(version: &str, id: &str) -> Value {
    json!({"protocolVersion": version, "clientid": id, "enableClientSession": true, "sessionExpiryIntervalSeconds": 300})
}

/// A connection whose takers are there before it dials, as the host does it.
async fn connected(client: Client) -> Client {
    let client = client.start();
    // A publish at level 1 goes out behind every SUBSCRIBE.
    client
        .publish("nobody/takes/this", "x", Qos::AtLeastOnce)
        .await;
    client
}

#[tokio::test]
async fn messages_of_every_level_cross_both_ways_in_every_version() {
    let broker = Mosquitto::start("").await;
    for version in VERSIONS {
        let client = World::new().client(broker.port, &json!({"protocolVersion": version}));
        let takers: Vec<_> = QOS
            .iter()
            .map(|qos| client.take(&format!("{version}/{qos:?}/+"), *qos))
            .collect();
        let client = connected(client).await;
        for (qos, taker) in QOS.into_iter().zip(&takers) {
            let topic = format!("{version}/{qos:?}/x");
            let batch: Vec<_> = (0..200).map(|n| message(&topic, &n.to_string())).collect();
            assert!(client.publish_all(batch, qos).await.unwrap().is_empty());
            let expected: Vec<_> = (0..200).map(|n| n.to_string()).collect();
            assert_eq!(taker.texts(200).await, expected, "{version} {qos:?}");
        }
        assert!(client.connection.was_useful());
        assert_eq!(client.attempts(), 0);
        client.close().await;
    }
}

#[tokio::test]
async fn what_came_while_away_is_delivered_when_the_session_is_resumed() {
    let broker = Mosquitto::start("").await;
    for version in NEW {
        // A session of its own: the acknowledgements of the last round may still be on their way.
        let id = format!("away-{version}");
        let world = World::new();
        let client = world.client(broker.port, &session(version, &id));
        let taker = client.take(&format!("{id}/#"), Qos::AtLeastOnce);
        let client = connected(client).await;
        client.kill();
        world.stopping.store(true, Ordering::Release);
        drop((client, taker));
        // Until the broker has noticed: what it sends into the dead link it repeats behind the rest.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let other = connected(World::new().client(broker.port, &json!({}))).await;
        let batch = (0..50)
            .map(|n| message(&format!("{id}/x"), &n.to_string()))
            .collect();
        other.publish_all(batch, Qos::AtLeastOnce).await.unwrap();
        world.stopping.store(false, Ordering::Release);
        let client = world.client(broker.port, &session(version, &id));
        let taker = client.take(&format!("{id}/#"), Qos::AtLeastOnce);
        let client = client.start();
        let expected: Vec<_> = (0..50).map(|n| n.to_string()).collect();
        let texts = taker.texts(50).await;
        assert_eq!(texts, expected, "{version}");
        client.close().await;
    }
}

#[tokio::test]
async fn a_broker_killed_and_started_again_gets_everything_with_and_without_its_session() {
    for (version, more) in [("3.1.1", ""), ("5", ""), ("3.1.1", PERSIST), ("5", PERSIST)] {
        let mut broker = Mosquitto::start(more).await;
        let client = World::new().client(broker.port, &session(version, "kept"));
        let taker = client.take("k", Qos::AtLeastOnce);
        let client = connected(client).await;
        let sending = async {
            for n in 0..30 {
                client.publish("k", &n.to_string(), Qos::AtLeastOnce).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let killing = async {
            for _ in 0..2 {
                tokio::time::sleep(Duration::from_millis(60)).await;
                if more.is_empty() {
                    broker.kill()
                } else {
                    broker.stop()
                }
                broker.run().await;
            }
        };
        tokio::join!(sending, killing);
        client.publish("k", "last", Qos::AtLeastOnce).await;
        let mut seen = Vec::new();
        while seen.last().is_none_or(|text| text != "last") {
            seen.push(taker.text().await);
        }
        // What was published while we were subscribed cannot all be asked for: a broker killed
        // without persistence forgets what it had not delivered. The publishes all went through.
        if !more.is_empty() {
            let unique: std::collections::BTreeSet<_> =
                seen.iter().filter(|text| *text != "last").collect();
            assert_eq!(unique.len(), 30, "{version} {seen:?}");
        }
        assert!(client.attempts() >= 2);
    }
}

#[tokio::test]
async fn the_will_is_sent_when_a_process_dies_and_not_after_a_farewell() {
    let broker = Mosquitto::start("").await;
    for version in VERSIONS {
        let watcher = World::new().client(broker.port, &json!({}));
        let taker = watcher.take("will/#", Qos::AtLeastOnce);
        let _watcher = connected(watcher).await;
        for (name, dies) in [("farewell", false), ("death", true)] {
            let will = json!({"topic": format!("will/{name}"), "payload": "gone", "qos": 1});
            let client = connected(World::new().client(
                broker.port,
                &json!({"protocolVersion": version, "will": will}),
            ))
            .await;
            if dies {
                client.kill();
                drop(client);
            } else {
                client.close().await;
            }
        }
        let delivery = taker.next().await;
        assert_eq!(&*delivery.message.subject, "will/death", "{version}");
        delivery.take.unwrap().settle();
        taker.nothing().await;
    }
}

#[tokio::test]
async fn a_shared_subscription_divides_and_local_takers_all_get_a_copy() {
    let broker = Mosquitto::start("").await;
    for version in NEW {
        let clients: Vec<_> = (0..2)
            .map(|_| World::new().client(broker.port, &json!({"protocolVersion": version})))
            .collect();
        let filter = format!("$share/g/{version}/s");
        let first = [
            clients[0].take(&filter, Qos::AtLeastOnce),
            clients[0].take(&filter, Qos::AtLeastOnce),
        ];
        let second = clients[1].take(&filter, Qos::AtLeastOnce);
        let mut running = Vec::new();
        for client in clients {
            running.push(connected(client).await);
        }
        let topic = format!("{version}/s");
        let batch = (0..20).map(|n| message(&topic, &n.to_string())).collect();
        running[0]
            .publish_all(batch, Qos::AtLeastOnce)
            .await
            .unwrap();
        until("all divided", || {
            first[0].inbox.len() + second.inbox.len() == 20
        })
        .await;
        assert_eq!(first[0].inbox.len(), first[1].inbox.len());
        assert!(!second.inbox.is_empty() && !first[0].inbox.is_empty());
        for client in running {
            client.close().await;
        }
    }
}

#[tokio::test]
async fn retained_messages_go_to_the_taker_that_joins_and_to_no_other() {
    let broker = Mosquitto::start("").await;
    for version in NEW {
        let topic = format!("{version}/state");
        let options = PublishOptions {
            qos: Some(Qos::AtLeastOnce),
            retain: true,
            ..PublishOptions::default()
        };
        let client =
            connected(World::new().client(broker.port, &json!({"protocolVersion": version}))).await;
        client
            .publish_batch(&Batch::from(vec![message(&topic, "kept")]), &options)
            .await
            .unwrap();
        let one = client.take(&topic, Qos::AtLeastOnce);
        let delivery = one.next().await;
        assert!(delivery.message.arrival.retained);
        delivery.take.unwrap().settle();
        let two = client.take(&topic, Qos::AtLeastOnce);
        assert_eq!(two.text().await, "kept");
        one.nothing().await;
        client.publish(&topic, "live", Qos::AtLeastOnce).await;
        assert_eq!(
            (one.text().await, two.text().await),
            ("live".to_owned(), "live".to_owned())
        );
        client.close().await;
    }
}

#[tokio::test]
async fn overlapping_filters_give_each_taker_one_copy() {
    let broker = Mosquitto::start("").await;
    for version in NEW {
        let client = World::new().client(broker.port, &json!({"protocolVersion": version}));
        let takers = [
            client.take("o/#", Qos::AtLeastOnce),
            client.take("o/+", Qos::AtLeastOnce),
            client.take("o/x", Qos::AtLeastOnce),
        ];
        let client = connected(client).await;
        for n in 0..10 {
            client
                .publish("o/x", &n.to_string(), Qos::AtLeastOnce)
                .await;
        }
        let expected: Vec<_> = (0..10).map(|n| n.to_string()).collect();
        for taker in &takers {
            assert_eq!(taker.texts(10).await, expected, "{version}");
            taker.nothing().await;
        }
        client.close().await;
    }
}

#[tokio::test]
async fn headers_and_content_cross_as_user_properties_in_version_5() {
    let broker = Mosquitto::start("").await;
    let client = World::new().client(broker.port, &json!({"protocolVersion": "5"}));
    let taker = client.take("h", Qos::AtLeastOnce);
    let client = connected(client).await;
    let headers = Headers::from(vec![
        ("a".to_owned(), "1".to_owned()),
        ("a".to_owned(), "2".to_owned()),
    ]);
    let sent = Message {
        headers: headers.clone(),
        payload: Bytes::from(vec![9; 100_000]),
        ..message("h", "")
    };
    let options = PublishOptions {
        qos: Some(Qos::AtLeastOnce),
        extra: vec![
            ("contentType".to_owned(), "x/y".to_owned()),
            ("messageExpiry".to_owned(), "60".to_owned()),
        ],
        ..PublishOptions::default()
    };
    client
        .publish_batch(&Batch::from(vec![sent.clone()]), &options)
        .await
        .unwrap();
    let got = taker.next().await.message;
    assert_eq!(
        (got.headers, got.payload, got.arrival.qos),
        (headers, sent.payload, 1)
    );
}

#[tokio::test]
async fn more_topics_than_the_broker_takes_aliases_for_keep_their_names() {
    // mosquitto takes ten of a client.
    let broker = Mosquitto::start("").await;
    let client = World::new().client(broker.port, &json!({"protocolVersion": "5"}));
    let taker = client.take("plant/line/#", Qos::AtLeastOnce);
    let client = connected(client).await;
    for qos in QOS {
        for round in 0..3 {
            let topics: Vec<String> = (0..25).map(|n| format!("plant/line/{n}")).collect();
            let batch = topics
                .iter()
                .map(|topic| message(topic, &format!("{topic} {round}")));
            client.publish_all(batch.collect(), qos).await.unwrap();
            for topic in &topics {
                let got = taker.next().await;
                assert_eq!(*got.message.subject, **topic, "{qos:?}");
                assert_eq!(&*got.message.payload, format!("{topic} {round}").as_bytes());
                if let Some(take) = got.take {
                    take.settle();
                }
            }
        }
    }
    client.close().await;
}

#[tokio::test]
async fn messages_that_come_one_by_one_arrive_at_once() {
    let broker = Mosquitto::start("").await;
    for qos in QOS {
        let client = World::new().client(broker.port, &json!({}));
        let taker = client.take("single", qos);
        let client = connected(client).await;
        let mut took = Vec::new();
        for n in 0..200 {
            let began = tokio::time::Instant::now();
            let sent = n.to_string();
            let (text, ()) = tokio::join!(taker.text(), client.publish("single", &sent, qos));
            assert_eq!(text, sent);
            took.push(began.elapsed());
        }
        took.sort();
        assert!(took[190] < Duration::from_millis(50), "{qos:?}: {took:?}");
        client.close().await;
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_settled_so_the_brokers_window_stays_shut() {
    let broker = Mosquitto::start("max_inflight_messages 30").await;
    // What mosquitto sends unacknowledged: its own setting, or what we announce in version 5.
    for (version, more, window) in [
        ("3.1.1", json!({}), 30),
        ("5", json!({"receiveMaximum": 70}), 70),
        ("5", json!({}), 1024),
    ] {
        let mut properties = more.clone();
        properties["protocolVersion"] = json!(version);
        let client = World::new().client(broker.port, &properties);
        let taker = client.take("flood", Qos::AtLeastOnce);
        let client = connected(client).await;
        let other = connected(World::new().client(broker.port, &json!({}))).await;
        let batch = (0..1500)
            .map(|n| message("flood", &n.to_string()))
            .collect();
        other.publish_all(batch, Qos::AtLeastOnce).await.unwrap();
        until("the window is full", || taker.inbox.len() >= window).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(taker.inbox.len(), window, "{version} {more}");
        // Out of order: the first is missing, so nothing may be acknowledged.
        let first = taker.next().await;
        assert_eq!(taker.texts(window - 1).await.len(), window - 1);
        taker.nothing().await;
        first.take.unwrap().settle();
        let rest: Vec<_> = (window..1500).map(|n| n.to_string()).collect();
        assert_eq!(taker.texts(1500 - window).await, rest, "{version} {more}");
        client.close().await;
        other.close().await;
    }
}
