//! Level 2 towards the broker: through small windows, broken links and dead processes.

use std::collections::BTreeSet;

use serde_json::json;

use super::broker::{Broker, Sent};
use super::sending::{expected, numbers, publishes, sending, session};
use super::support::World;
use crate::connections::{PublishOptions, Qos};
use crate::message::Batch;

const BOTH: [bool; 2] = [false, true];

#[tokio::test]
async fn d05_level_2_goes_through_a_small_window_to_its_end() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new()
            .client(broker.port, &session(&broker, &json!({"maxInflight": 2})))
            .start();
        let _peer = sending(&client, 10, Qos::ExactlyOnce, async {
            let mut peer = broker.welcome(false).await;
            let mut texts = Vec::new();
            let mut open = Vec::new();
            while texts.len() < 10 || !open.is_empty() {
                match peer.granting().await {
                    Sent::Publish {
                        payload,
                        id,
                        qos: 2,
                        ..
                    } => {
                        texts.push(payload);
                        open.push(id);
                        assert!(open.len() <= 2);
                        peer.ack(5, id, 0).await;
                    }
                    Sent::PubRel(id) => {
                        open.retain(|known| *known != id);
                        peer.ack(7, id, 0).await;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(texts, expected(10));
            peer
        })
        .await;
        assert_eq!(client.attempts(), 0);
    }
}

#[tokio::test]
async fn d05b_level_2_goes_on_where_it_stood_when_the_link_broke() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new()
            .client(broker.port, &session(&broker, &json!({})))
            .start();
        sending(&client, 2, Qos::ExactlyOnce, async {
            let mut peer = broker.welcome(false).await;
            let got = publishes(&mut peer, 2).await;
            peer.ack(5, got[0].1, 0).await;
            assert_eq!(peer.granting().await, Sent::PubRel(got[0].1));
            drop(peer);
            let mut peer = broker.welcome(true).await;
            assert_eq!(peer.granting().await, Sent::PubRel(got[0].1));
            let Sent::Publish { id, dup: true, .. } = peer.granting().await else {
                panic!("not sent again")
            };
            assert_eq!(id, got[1].1);
            peer.ack(7, got[0].1, 0).await;
            peer.ack(5, id, 0).await;
            assert_eq!(peer.granting().await, Sent::PubRel(id));
            peer.ack(7, id, 0).await;
        })
        .await;
    }
}

#[tokio::test]
async fn d05c_what_a_dead_process_left_open_at_level_2_is_released_and_its_ids_are_not_used() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let world = World::new();
        let props = session(&broker, &json!({}));
        let client = world.client(broker.port, &props).start();
        let dying = async {
            let mut peer = broker.welcome(false).await;
            let got = publishes(&mut peer, 3).await;
            client.kill();
            got
        };
        let batch = Batch::from(numbers(3));
        let options = PublishOptions {
            qos: Some(Qos::ExactlyOnce),
            ..PublishOptions::default()
        };
        let got = tokio::select! {
            got = dying => got,
            _ = client.publish_batch(&batch, &options) => panic!("nothing was acknowledged"),
        };
        drop(client);
        let client = world.client(broker.port, &props).start();
        let open: BTreeSet<u16> = got.iter().map(|(_, id, _)| *id).collect();
        sending(&client, 1, Qos::ExactlyOnce, async {
            let mut peer = broker.welcome(true).await;
            let mut released = BTreeSet::new();
            loop {
                match peer.granting().await {
                    Sent::PubRel(id) if released.insert(id) => {
                        peer.ack(7, id, if five { 0x92 } else { 0 }).await
                    }
                    Sent::PubRel(id) => peer.ack(7, id, 0).await,
                    Sent::Publish { id, dup, .. } => {
                        assert!(
                            !dup && open.is_subset(&released) && !released.contains(&id),
                            "{id}"
                        );
                        peer.ack(5, id, 0).await;
                        loop {
                            if peer.granting().await == Sent::PubRel(id) {
                                break;
                            }
                        }
                        peer.ack(7, id, 0).await;
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
        })
        .await;
    }
}
