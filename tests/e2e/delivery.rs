//! Messages arrive as they should over everything that a connection can be: each QoS, both versions,
//! TLS, WebSocket, failover, sharing, sizes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_tests::certificates::Certificates;
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{free_port, shared, wait_until};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::oracle::Judge;
use windlass_tests::windlass::Windlass;

use crate::settings::{START, WARM, expect_all, wait_ready, warm_ones};

/// One rule over a connection with these properties, at one QoS: all warm ones arrive, once, in
/// order, unchanged.
fn passes_over(broker: &Mosquitto, props: Value, qos: u8) {
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", qos));
    let manifest = Manifest::new()
        .connection("plant", "mqtt", props)
        .mqtt_stream("demo", "plant", "in/#", qos, false)
        .rule("warm", WARM, publish_to("plant", "out", qos));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["warm"]);
    let highest = far.highest();
    let publish = Publish {
        ahead: Some((highest, 200)),
        window: 20,
        ..Publish::new(broker.port(), "in/1", qos)
    };
    let sent = publish.count(1000).start().join();
    assert_eq!(sent.sent, 1000);
    expect_all(&far, &warm_ones(0..1000), Duration::from_secs(10));
    let ledger = far.ledger();
    assert_eq!(
        (ledger.duplicates(), ledger.out_of_order()),
        (0, 0),
        "QoS {qos}: {}",
        ledger.summary()
    );
    assert_eq!(ledger.arrived(), 500);
}

#[test]
fn each_qos_in_both_versions_delivers_each_message_once_and_in_order() {
    let _machine = shared();
    for version in ["3.1.1", "5"] {
        for qos in [0, 1, 2] {
            let broker = Mosquitto::start();
            let props =
                json!({ "server": broker.url(), "protocolVersion": version, "clientid": "w" });
            passes_over(&broker, props, qos);
        }
    }
}

#[test]
fn tls_with_a_client_certificate_delivers_and_an_unknown_authority_is_refused() {
    let _machine = shared();
    let certificates = Certificates::new();
    let broker = Mosquitto::with(Broker {
        tls: Some(certificates.server(true)),
        ..Broker::default()
    });
    let folder = tempfile::tempdir().expect("a folder");
    let me = certificates.identity(&["windlass"]);
    let file = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).expect("written");
        path.display().to_string()
    };
    let server = format!("ssl://localhost:{}", broker.tls_port());
    let mut props = json!({
        "server": server,
        "clientid": "w",
        "rootCaPath": file("ca.pem", &certificates.authority()),
        "certificationPath": file("me.pem", &me.certificate),
        "privateKeyPath": file("me.key", &me.key),
    });
    passes_over(&broker, props.clone(), 1);

    props["rootCaPath"] = json!(file("other.pem", &Certificates::new().authority()));
    let windlass = Windlass::start(&Manifest::new().connection("plant", "mqtt", props.clone()));
    let why = windlass.wait_connection("plant", "disconnected", START);
    assert!(why.to_lowercase().contains("certificate"), "{why}");
    drop(windlass);

    props["insecureSkipVerify"] = json!(true);
    let windlass = Windlass::start(&Manifest::new().connection("plant", "mqtt", props));
    windlass.wait_connection("plant", "connected", START);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let _machine = shared();
    let certificates = Certificates::new();
    let tls = certificates.server_as(&["elsewhere.example"], false);
    let broker = Mosquitto::with(Broker {
        tls: Some(tls),
        ..Broker::default()
    });
    let folder = tempfile::tempdir().expect("a folder");
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, certificates.authority()).expect("written");
    let props = json!({
        "server": format!("ssl://localhost:{}", broker.tls_port()),
        "rootCaPath": authority.display().to_string(),
    });
    let windlass = Windlass::start(&Manifest::new().connection("plant", "mqtt", props));
    let why = windlass.wait_connection("plant", "disconnected", START);
    assert!(why.to_lowercase().contains("certificate"), "{why}");
}

#[test]
fn web_sockets_deliver() {
    let _machine = shared();
    let port = free_port();
    let extra = String::new();
    let mut broker = Broker {
        extra,
        ..Broker::default()
    };
    broker.extra = format!("listener {port} 127.0.0.1\nprotocol websockets");
    let broker = Mosquitto::with(broker);
    let props = json!({ "server": format!("ws://127.0.0.1:{port}/mqtt"), "clientid": "w" });
    passes_over(&broker, props, 1);
}

#[test]
fn two_rules_on_one_shared_stream_both_get_everything_and_the_broker_sees_one_subscription() {
    let _machine = shared();
    let broker = Mosquitto::with(Broker {
        extra: "log_type subscribe".to_owned(),
        ..Broker::default()
    });
    let one = Subscriber::start(Subscribe::new(broker.port(), "one", "one", 1));
    let two = Subscriber::start(Subscribe::new(broker.port(), "two", "two", 1));
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 1, true)
        .rule("one", "SELECT * FROM demo", publish_to("plant", "one", 1))
        .rule("two", WARM, publish_to("plant", "two", 1));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["one", "two"]);
    let sent = Publish::new(broker.port(), "in/1", 1)
        .count(1000)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 1000);
    expect_all(
        &one,
        &(0..1000).collect::<Vec<u64>>(),
        Duration::from_secs(10),
    );
    expect_all(&two, &warm_ones(0..1000), Duration::from_secs(10));
    assert_eq!(
        broker.logged("windlass-plant 1 in/#"),
        1,
        "{}",
        broker.log()
    );
}

#[test]
fn a_selected_column_is_the_only_one_and_the_list_is_the_default() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe {
        judge: Judge::Number,
        ..Subscribe::new(broker.port(), "far", "out/+", 1)
    });
    let actions =
        json!([{ "mqtt": { "connectionSelector": "plant", "topic": "out/{{.seq}}", "qos": 1 } }]);
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule(
            "few",
            "SELECT seq, temperature * 2 AS twice FROM demo WHERE seq IN (4, 6)",
            actions,
        );
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["few"]);
    let sent = Publish::new(broker.port(), "in/1", 1)
        .count(10)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 10);
    far.wait_for(2, Duration::from_secs(5));
    let (topic, payload) = far.payloads()[0].clone();
    let payload: Value = serde_json::from_slice(&payload).expect("JSON");
    // Message 4: temperature 51 + 28 + 0.5. A whole float is written without a fraction, as by eKuiper.
    assert_eq!(
        (topic.as_str(), payload),
        ("out/4", json!([{ "seq": 4, "twice": 159 }]))
    );
}

#[test]
fn the_second_server_takes_over_when_the_first_is_gone() {
    let _machine = shared();
    let mut first = Mosquitto::start();
    let second = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(second.port(), "far", "out", 1));
    let props = json!({ "servers": [first.url(), second.url()], "clientid": "w", "enableClientSession": true });
    let manifest = Manifest::new()
        .connection("plant", "mqtt", props)
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule("warm", WARM, publish_to("plant", "out", 1));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["warm"]);
    assert!(first.logged("as w ") > 0, "the first one comes first");
    first.kill();
    wait_until(
        Duration::from_secs(5),
        "the second one has the connection",
        || second.logged("as w ") > 0,
    );
    windlass.wait_connection("plant", "connected", Duration::from_secs(5));
    let sent = Publish::new(second.port(), "in/1", 1)
        .rate(200)
        .count(100)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 100);
    expect_all(&far, &warm_ones(50..100), Duration::from_secs(5));
}

#[test]
fn a_message_beyond_the_limit_of_the_link_is_skipped_and_those_around_it_arrive() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule("warm", WARM, publish_to("plant", "out", 1));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["warm"]);
    let before = windlass.changes().len();
    let (mut socket, _, _) =
        windlass_tests::load::dial(broker.port(), "large", true, None).expect("the broker is up");
    let large = vec![b' '; 80 << 20];
    let mut bytes = Vec::new();
    windlass_tests::wire::publish(
        &mut bytes,
        "in/large",
        windlass_tests::wire::Delivery::default(),
        &large,
    );
    std::io::Write::write_all(&mut socket, &bytes).expect("sent");
    let begin = Instant::now();
    let sent = Publish::new(broker.port(), "in/1", 1)
        .count(200)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 200);
    expect_all(&far, &warm_ones(0..200), Duration::from_secs(20));
    println!("80 MiB and 200 messages took {:.1?}", begin.elapsed());
    assert_eq!(
        windlass.changes().len(),
        before,
        "the link stays up: {:?}",
        windlass.changes()
    );
}
