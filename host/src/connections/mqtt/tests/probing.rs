//! Checks of a connection beside one that runs, against a real mosquitto: they disturb nothing.

use std::time::Duration;

use serde_json::json;

use super::support::{Client, Mosquitto, World, message};
use crate::connections::{Connection, Qos};

const SESSION: [&str; 2] = ["3.1.1", "5"];

async fn running(client: Client) -> Client {
    let client = client.start();
    client
        .publish("nobody/takes/this", "x", Qos::AtLeastOnce)
        .await;
    client
}

async fn check(connection: &dyn Connection) {
    connection.probe().await.unwrap();
    connection.close().await;
}

#[tokio::test]
async fn a_probe_leaves_a_running_session_of_the_same_client_connected() {
    let broker = Mosquitto::start("").await;
    for version in SESSION {
        let properties = json!({
            "protocolVersion": version, "clientid": "press", "enableClientSession": true,
            "will": {"topic": "wills", "payload": "gone"},
        });
        let wills = running(World::new().client(broker.port, &json!({}))).await;
        let will = wills.take("wills", Qos::AtLeastOnce);
        let world = World::new();
        let client = world.client(broker.port, &properties);
        let taker = client.take("line/#", Qos::AtLeastOnce);
        let client = running(client).await;
        // Three are with the client, unacknowledged: a session taken over would bring them again.
        for n in 0..3 {
            client
                .publish("line/1", &n.to_string(), Qos::AtLeastOnce)
                .await;
        }
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(taker.next().await);
        }
        for _ in 0..3 {
            let probing = World::new().build(broker.port, &properties);
            check(&*probing).await;
            assert_eq!(
                probing.peer(),
                Some(format!("127.0.0.1:{}", broker.port)),
                "a report names the server"
            );
        }
        // So does the connection itself while it is up.
        client.connection.probe().await.unwrap();
        client.publish("line/1", "after", Qos::AtLeastOnce).await;
        let after = taker.next().await;
        assert_eq!(&after.message.payload[..], b"after", "{version}");
        taker.nothing().await;
        will.nothing().await;
        assert_eq!(client.attempts(), 0, "{version}: the link was lost");
        for delivery in held.into_iter().chain([after]) {
            delivery.take.unwrap().settle();
        }
        client.close().await;
        wills.close().await;
    }
}

#[tokio::test]
async fn a_probe_leaves_what_is_queued_for_a_session_that_is_away() {
    let broker = Mosquitto::start("").await;
    for version in SESSION {
        // A session of its own: the acknowledgements of the last round may still be on their way.
        let id = format!("away-{version}");
        let properties = json!({
            "protocolVersion": version, "clientid": id, "enableClientSession": true,
            "sessionExpiryIntervalSeconds": 300,
        });
        let world = World::new();
        let client = world.client(broker.port, &properties);
        let taker = client.take(&id, Qos::AtLeastOnce);
        let client = running(client).await;
        client.kill();
        world
            .stopping
            .store(true, std::sync::atomic::Ordering::Release);
        drop((client, taker));
        // Until the broker has noticed: what it sends into the dead link it repeats behind the rest.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let other = running(World::new().client(broker.port, &json!({}))).await;
        let batch = (0..20).map(|n| message(&id, &n.to_string())).collect();
        other.publish_all(batch, Qos::AtLeastOnce).await.unwrap();
        check(&*World::new().build(broker.port, &properties)).await;
        world
            .stopping
            .store(false, std::sync::atomic::Ordering::Release);
        let client = world.client(broker.port, &properties);
        let taker = client.take(&id, Qos::AtLeastOnce);
        let client = client.start();
        let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
        let texts = taker.texts(20).await;
        assert_eq!(texts, expected, "{version}");
        client.close().await;
        other.close().await;
    }
}

#[tokio::test]
async fn a_probe_says_why_it_would_not_work() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwords");
    std::fs::write(&file, "").unwrap();
    let broker = Mosquitto::start(&format!(
        "allow_anonymous false\npassword_file {}",
        file.display()
    ))
    .await;
    let login = json!({"username": "u", "password": "hunter2", "clientid": "press"});
    let connection = World::new().build(broker.port, &login);
    let refused = connection.probe().await.unwrap_err();
    assert_eq!(refused.code, "mqtt:5", "{refused:?}");
    assert!(!refused.report().contains("hunter2"));
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let nobody = World::new().build(free, &json!({"clientid": "press"}));
    assert!(nobody.probe().await.is_err());
}

#[tokio::test]
async fn each_of_several_servers_has_its_time_before_a_dial_is_given_up() {
    let broker = Mosquitto::start("").await;
    // Sockets that take a connection and never answer.
    let silent: Vec<_> = (0..3)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let mut servers: Vec<_> = silent
        .iter()
        .map(|socket| format!("tcp://{}", socket.local_addr().unwrap()))
        .collect();
    let first = silent[0].local_addr().unwrap().port();
    servers.push(format!("tcp://127.0.0.1:{}", broker.port));
    let more = json!({"servers": servers, "connectTimeout": "200ms"});
    let connection = World::new().build(first, &more);
    let limit = connection.dial_timeout();
    assert_eq!(limit, Duration::from_millis(200 * 5 + 1000));
    tokio::time::timeout(limit, connection.connect())
        .await
        .expect("the last server had no time")
        .unwrap();
    connection.close().await;
}
