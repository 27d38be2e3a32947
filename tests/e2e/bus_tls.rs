//! TLS to NATS, Redis and the bus of EdgeX: the right authority lets messages through; the wrong one, another
//! name and a certificate that has expired are shown with their reason, and dialled again slowly.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_tests::certificates::{Certificates, Identity};
use windlass_tests::load::{Subscribe, Subscriber, dial};
use windlass_tests::machine::{free_port, shared, wait_until};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::nats::Nats;
use windlass_tests::proxy::Proxy;
use windlass_tests::redis::Redis;
use windlass_tests::windlass::Windlass;
use windlass_tests::wire;

use crate::settings::{START, wait_ready};

/// A server of each kind under one certificate.
struct Servers {
    nats: Nats,
    /// With its port for TLS.
    redis: (Redis, u16),
    broker: Mosquitto,
}

impl Servers {
    fn start(folder: &Path, authority: &Certificates, identity: Identity) -> Self {
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let number = free_port();
        let certificate = file(&format!("{number}.crt"), &identity.certificate);
        let key = file(&format!("{number}.key"), &identity.key);
        let ca = file(&format!("{number}.ca"), &authority.authority());
        let redis_tls = free_port();
        let tls = authority.server_with(identity, false);
        Self {
            nats: Nats::with(&["--tls", "--tlscert", &certificate, "--tlskey", &key]),
            redis: (
                Redis::with(&[
                    "--tls-port",
                    &redis_tls.to_string(),
                    "--tls-cert-file",
                    &certificate,
                    "--tls-key-file",
                    &key,
                    "--tls-ca-cert-file",
                    &ca,
                    "--tls-auth-clients",
                    "no",
                ]),
                redis_tls,
            ),
            broker: Mosquitto::with(Broker {
                tls: Some(tls),
                ..Broker::default()
            }),
        }
    }

    /// The name of each way to connect, and its port.
    fn ways(&self) -> [(&'static str, u16); 5] {
        [
            ("nats", self.nats.port()),
            ("redis", self.redis.1),
            ("edgex-mqtt", self.broker.tls_port()),
            ("edgex-nats", self.nats.port()),
            ("edgex-redis", self.redis.1),
        ]
    }
}

/// Type and properties of a connection by one of these ways.
fn connection(way: &str, port: u16, authority: &str) -> (&'static str, Value) {
    let edgex = |bus: &str| {
        let props = json!({ "host": "127.0.0.1", "port": port, "type": bus, "protocol": "tls",
            "optional": { "CaFile": authority } });
        ("edgex", props)
    };
    match way {
        "nats" => (
            "nats",
            json!({ "server": format!("tls://127.0.0.1:{port}"), "rootCaPath": authority }),
        ),
        "redis" => (
            "redis",
            json!({ "address": format!("rediss://127.0.0.1:{port}"), "rootCaPath": authority }),
        ),
        "edgex-mqtt" => edgex("mqtt"),
        "edgex-nats" => edgex("nats-core"),
        _ => edgex("redis"),
    }
}

/// Sources and sinks of a type by one connection: what comes in from `in/#` of the broker goes through it and
/// back out.
fn loop_through(manifest: Manifest, way: &str, typ: &str) -> Manifest {
    let selector = json!({ "connectionSelector": way });
    let with = |more: Value| {
        let mut props = selector.clone();
        let more = more.as_object().expect("an object").clone();
        props.as_object_mut().expect("an object").extend(more);
        props["sendSingle"] = json!(true);
        json!([{ typ: props }])
    };
    let (action, datasource) = match typ {
        "nats" => (with(json!({ "subject": "loop.tls" })), "loop.tls"),
        "redis" => (with(json!({ "channel": "through-tls" })), "through-tls"),
        _ => (with(json!({ "topic": "through/tls" })), "through/tls"),
    };
    let name = way.replace('-', "_");
    let sql = format!(
        r#"CREATE STREAM {name} () WITH (TYPE="{typ}", DATASOURCE="{datasource}", FORMAT="json", CONF_KEY="{way}")"#
    );
    manifest
        .conf_key(typ, way, selector.clone())
        .stream(&sql)
        .rule(&format!("{way}-in"), "SELECT a FROM demo", action)
        .rule(
            &format!("{way}-out"),
            &format!("SELECT a FROM {name}"),
            publish_to("far", &format!("out/{way}"), 1),
        )
}

#[test]
fn a_bus_over_tls_works_with_its_authority_and_shows_why_not_with_any_other_certificate() {
    let _machine = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, others) = (Certificates::new(), Certificates::new());
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let right = file("ours.pem", ours.authority());
    let wrong = file("others.pem", others.authority());
    let here = ["127.0.0.1"];
    let good = Servers::start(folder.path(), &ours, ours.identity(&here));
    let named = Servers::start(folder.path(), &ours, ours.identity(&["bus.plant"]));
    let expired = Servers::start(folder.path(), &ours, ours.expired(&here));
    let far = Mosquitto::start();
    let mut manifest = Manifest::new()
        .mqtt("far", &far.url())
        .mqtt_stream("demo", "far", "in/#", 1, true);
    let mut rules = Vec::new();
    for (way, port) in good.ways() {
        let (typ, props) = connection(way, port, &right);
        manifest = loop_through(manifest.connection(way, typ, props), way, typ);
        rules.extend([format!("{way}-in"), format!("{way}-out")]);
    }
    let mut faults = Vec::new();
    for (servers, authority, fault, words) in [
        (&good, &wrong, "authority", "signed by an unknown authority"),
        (&named, &right, "name", "is for another name"),
        (&expired, &right, "expired", "certificate expired at "),
    ] {
        for (way, port) in servers.ways() {
            let proxy = Proxy::start(port);
            let (typ, props) = connection(way, proxy.port(), authority);
            let id = format!("{way}-{fault}");
            manifest = manifest.connection(&id, typ, props);
            faults.push((id, words, proxy));
        }
    }
    let seen = Subscriber::start(Subscribe::new(far.port(), "seen", "out/#", 1));
    let windlass = Windlass::start(&manifest);
    let begin = Instant::now();
    let ways: Vec<&str> = good.ways().iter().map(|(way, _)| *way).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    wait_ready(&windlass, &ways, &rules);
    let mut wrong = Vec::new();
    for (id, words, _) in &faults {
        let why = windlass.wait_connection(id, "disconnected", START);
        println!("{id}: {why}");
        if !why.contains(words) {
            wrong.push(format!("{id} does not say that it {words}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (mut socket, _, _) = dial(far.port(), "rows", true, None).expect("the broker is up");
    let mut bytes = Vec::new();
    wire::publish(
        &mut bytes,
        "in/row",
        wire::Delivery::default(),
        br#"{"a":7}"#,
    );
    std::io::Write::write_all(&mut socket, &bytes).expect("sent");
    for way in &ways {
        let topic = format!("out/{way}");
        wait_until(
            Duration::from_secs(10),
            &format!("{topic} has the row"),
            || {
                let payloads = seen.payloads();
                payloads
                    .iter()
                    .any(|(at, payload)| *at == topic && payload == br#"{"a":7}"#)
            },
        );
    }
    // What does not fit does not come to fit by itself: 30 to 60 s between two dials.
    std::thread::sleep(Duration::from_secs(8).saturating_sub(begin.elapsed()));
    for (id, _, proxy) in &faults {
        let attempts = proxy.attempts().len();
        assert!(
            attempts <= 2,
            "{id}: {attempts} dials in {:.1?}",
            begin.elapsed()
        );
    }
}
