//! Ways in which clients hang, spin or give up a link, one test for each.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout};

use super::broker::{Broker, Sent};
use super::support::{PATIENCE, World, message, until};
use crate::connections::Qos;
use crate::connections::mqtt::config::Config;
use crate::connections::mqtt::link::Link;
use crate::connections::mqtt::session::Session;
use crate::error::{ErrorKind, Pace};
use crate::message::Message;

const BOTH: [bool; 2] = [false, true];

#[tokio::test]
async fn d09_a_peer_that_reads_nothing_more_is_found_dead_though_it_goes_on_sending() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new()
            .client(
                broker.port,
                &json!({"protocolVersion": broker.version(), "keepAlive": "2s"}),
            )
            .start();
        let mut peer = broker.welcome(false).await;
        let large: Vec<Message> = (0..64)
            .map(|_| Message {
                subject: "t".into(),
                ..Message::new(vec![0u8; 256 * 1024])
            })
            .collect();
        let begun = Instant::now();
        let flooding = client.publish_all(large, Qos::AtLeastOnce);
        let talking = async {
            while client.attempts() == 0 {
                peer.publish("t", b"still here", 0, 0, false).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = talking => {}
            result = flooding => panic!("{result:?}"),
        }
        let took = begun.elapsed();
        assert_eq!(client.reasons.lock()[0].code, "timeout");
        assert!(
            took > Duration::from_secs(1) && took < Duration::from_millis(3400),
            "{took:?}"
        );
    }
}

#[tokio::test]
async fn d10_a_half_open_link_is_found_within_one_and_a_half_keep_alives() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new()
            .client(
                broker.port,
                &json!({"protocolVersion": broker.version(), "keepAlive": "2s"}),
            )
            .start();
        let _peer = broker.welcome(false).await;
        let begun = Instant::now();
        until("lost", || client.attempts() == 1).await;
        assert_eq!(client.reasons.lock()[0].code, "timeout");
        assert!(
            begun.elapsed() < Duration::from_millis(3100),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test]
async fn d11_one_call_is_one_attempt_and_refusals_ask_for_slow_dialling() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client =
            World::new().client(broker.port, &json!({"protocolVersion": broker.version()}));
        for (code, slow) in if five {
            [(0x87, true), (0x89, false), (0x8A, true)]
        } else {
            [(5, true), (3, false), (4, true)]
        } {
            let refusing = async {
                let mut peer = broker.accept().await;
                assert!(matches!(peer.next().await, Sent::Connect { .. }));
                peer.refuse(code).await;
            };
            let (result, ()) = tokio::join!(client.connection.connect(), refusing);
            let error = result.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Disconnected);
            assert_eq!(error.pace == Pace::Slow, slow, "{error:?}");
            assert!(!error.message.contains("127.0.0.1"));
        }
        assert_eq!(broker.attempts(Duration::from_millis(200)).await, 0);
    }
}

#[tokio::test]
async fn d11b_a_peer_that_accepts_and_says_nothing_ends_the_attempt_at_its_deadline() {
    let broker = Broker::new(false).await;
    let client = World::new().client(broker.port, &json!({"connectTimeout": "300ms"}));
    let (result, _peer) = tokio::join!(client.connection.connect(), broker.accept());
    assert_eq!(result.unwrap_err().code, "timeout");
}

#[tokio::test]
async fn d13_a_flood_in_both_directions_on_one_thread_stands_never_still() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new()
            .client(
                broker.port,
                &json!({"protocolVersion": broker.version(), "maxInflight": 8}),
            )
            .start();
        let taker = client.take("in", Qos::AtLeastOnce);
        let mut peer = broker.welcome(false).await;
        peer.grant().await;
        let echo = async {
            for _ in 0..500 {
                let delivery = taker.next().await;
                client
                    .publish_all(vec![message("out", "x")], Qos::AtLeastOnce)
                    .await
                    .unwrap();
                delivery.take.unwrap().settle();
            }
        };
        let script = async {
            let (mut sent, mut acked) = (0u16, 0u16);
            while acked < 500 {
                // Messages without waiting for anything, as a broker does.
                while sent < 500 && sent < acked + 100 {
                    sent += 1;
                    peer.publish("in", b"x", 1, sent, false).await;
                }
                match peer.next().await {
                    Sent::Publish { id, .. } => peer.ack(4, id, 0).await,
                    Sent::PubAck(id) => {
                        acked += 1;
                        assert_eq!(id, acked);
                    }
                    other => panic!("{other:?}"),
                }
            }
        };
        timeout(PATIENCE * 2, async { tokio::join!(echo, script) })
            .await
            .expect("stands still");
    }
}

#[test]
fn d14_an_idle_connection_is_small() {
    // Its buffers start at 4 KiB and go back there; its tables start empty.
    assert!(size_of::<Session>() + size_of::<Link>() + size_of::<Config>() < 8 * 1024);
}

#[test]
fn d20_a_keep_alive_that_the_protocol_cannot_say_is_refused() {
    for value in [json!("70000s"), json!("500ms"), json!("1500ms")] {
        let props = json!({"server": "tcp://h:1", "keepAlive": value});
        let errors =
            Config::read(props.as_object().unwrap(), std::path::Path::new("/")).unwrap_err();
        assert_eq!(errors[0].at, "/props/keepAlive");
    }
}

#[tokio::test]
async fn d20b_only_an_idle_link_is_pinged() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let client = World::new()
            .client(
                broker.port,
                &json!({"protocolVersion": broker.version(), "keepAlive": "1s"}),
            )
            .start();
        let mut peer = broker.welcome(false).await;
        let busy = async {
            for n in 0..15 {
                client.publish("t", &n.to_string(), Qos::AtLeastOnce).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let script = async {
            for _ in 0..15 {
                let Sent::Publish { id, .. } = peer.next().await else {
                    panic!("a ping on a busy link")
                };
                peer.ack(4, id, 0).await;
            }
        };
        tokio::join!(busy, script);
        // Idle: pings come, and their answers keep the link.
        for _ in 0..3 {
            assert_eq!(peer.next().await, Sent::Ping);
            peer.send(&[0xD0, 0]).await;
        }
        assert_eq!(client.attempts(), 0);
    }
}

#[tokio::test]
async fn malformed_bytes_end_the_link_with_a_reason_and_no_panic() {
    for five in BOTH {
        for bytes in [
            &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1][..],
            &[0x36, 3, 0, 1, b'a'],
            &[0x00, 0],
            &[0x32, 5, 0, 1, b'a', 0, 0],
            &[0x30, 3, 0, 9, b'a'],
        ] {
            let broker = Broker::new(five).await;
            let client = World::new()
                .client(broker.port, &json!({"protocolVersion": broker.version()}))
                .start();
            let mut peer = broker.welcome(false).await;
            peer.send(bytes).await;
            until("lost", || client.attempts() == 1).await;
            assert_eq!(client.reasons.lock()[0].code, "mqtt:0x81", "{bytes:?}");
        }
    }
}

#[tokio::test]
async fn a_session_taken_over_says_so_and_is_dialled_slowly() {
    let broker = Broker::new(true).await;
    let client = World::new()
        .client(broker.port, &json!({"protocolVersion": "5"}))
        .start();
    let mut peer = broker.welcome(false).await;
    peer.send(&[0xE0, 1, 0x8E]).await;
    until("lost", || client.attempts() == 1).await;
    let reason = client.reasons.lock()[0].clone();
    assert_eq!(
        (reason.code.as_str(), reason.pace),
        ("mqtt:0x8E", Pace::Slow)
    );
}

#[tokio::test]
async fn closing_says_farewell_and_a_persistent_session_keeps_its_identifier() {
    for five in BOTH {
        let broker = Broker::new(five).await;
        let world = World::new();
        let mut ids = Vec::new();
        for _ in 0..2 {
            let props = json!({"protocolVersion": broker.version(), "enableClientSession": true});
            let client = world.client(broker.port, &props).start();
            let mut peer = broker.accept().await;
            let Sent::Connect { clean, id, .. } = peer.next().await else {
                panic!("no CONNECT")
            };
            assert!(!clean);
            ids.push(id);
            peer.connack(true, None).await;
            let taker = client.take("f", Qos::AtLeastOnce);
            peer.grant().await;
            client.close().await;
            assert_eq!(peer.next().await, Sent::Disconnect);
            drop(taker);
        }
        assert_eq!(ids[0], ids[1]);
        assert!(ids[0].starts_with("windlass-plant-"));
    }
}

#[tokio::test]
async fn the_next_server_is_tried_when_one_is_down() {
    let (down, up) = (Broker::new(false).await, Broker::new(false).await);
    let port = down.port;
    drop(down);
    let client = World::new()
        .client(
            port,
            &json!({"servers": [format!("tcp://127.0.0.1:{}", up.port)]}),
        )
        .start();
    let _peer = up.welcome(false).await;
    until("connected", || {
        client
            .connection
            .peer()
            .is_some_and(|peer| peer.ends_with(&up.port.to_string()))
    })
    .await;
}
