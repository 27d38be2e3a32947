//! The connection types, each with a real peer and the load that it takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use windlass_tests::httpd::{Httpd, Reply};
use windlass_tests::load::{Subscribe, Subscriber};
use windlass_tests::machine::free_port;
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mariadb::MariaDb;
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::nats::Nats;
use windlass_tests::oracle::{Judge, Ledger};
use windlass_tests::peer;
use windlass_tests::redis::Redis;
use windlass_tests::sender::{Connect, Store, to_mariadb, to_mqtt, to_nats, to_redis};

use super::{Case, Far, ID, Keeps, Ledgers, Make, Peer, RATE, RULES};

/// In the order of the table.
pub(super) const CASES: &[(&str, Make)] = &[
    ("mqtt, source", mqtt),
    ("nng (neuron), source", nng),
    ("edgex on MQTT, source", edgex_on_mqtt),
    ("edgex on NATS, source", edgex_on_nats),
    ("edgex on Redis, source", edgex_on_redis),
    ("nats JetStream, source", jetstream),
    ("nats core, source", nats_core),
    ("redis stream with group, source", redis_stream),
    ("redis channel, source", redis_channel),
    ("sql (MariaDB), source", sql),
    ("http, httppull", httppull),
    ("http, rest", rest),
    ("websocket dialled, source", websocket),
];

impl Peer for Mosquitto {
    /// As its `autosave_interval` does: without it a killed broker forgets who had subscribed.
    fn save(&mut self) {
        Self::save(self);
    }
    fn kill(&mut self) {
        Self::kill(self);
    }
    fn up(&mut self) -> (Instant, Option<u64>) {
        self.restart();
        (Instant::now(), None)
    }
}

impl Peer for Nats {
    fn kill(&mut self) {
        Self::kill(self);
    }
    fn up(&mut self) -> (Instant, Option<u64>) {
        Self::up(self);
        (Instant::now(), None)
    }
}

impl Peer for Redis {
    fn kill(&mut self) {
        Self::kill(self);
    }
    fn up(&mut self) -> (Instant, Option<u64>) {
        Self::up(self);
        (Instant::now(), None)
    }
}

impl Peer for MariaDb {
    fn kill(&mut self) {
        Self::kill(self);
    }
    fn up(&mut self) -> (Instant, Option<u64>) {
        Self::up(self);
        let accepted = Instant::now();
        // The tests run it so that a kill loses the last second, which no client could know.
        drop(self.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 2"));
        (accepted, None)
    }
}

/// `peer.py`, which listens and sends numbered samples.
struct Script {
    words: Vec<String>,
    runs: Option<peer::Peer>,
    /// The first number of its next life.
    first: u64,
}

impl Script {
    fn new(words: &[&str]) -> Box<Self> {
        Box::new(Self {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            runs: None,
            first: 0,
        })
    }
}

impl Peer for Script {
    fn kill(&mut self) {
        self.runs = None;
    }
    fn up(&mut self) -> (Instant, Option<u64>) {
        const LIFE: u64 = 1_000_000;
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let mut runs = peer::Peer::start(&words);
        let first = self.first;
        self.first += LIFE;
        runs.tell(&format!("flow {RATE} {first}"));
        let accepted = runs.wait("ready");
        self.runs = Some(runs);
        (accepted, Some(first))
    }
}

/// A server of HTTP; `numbered`: the number that it answers next.
struct Server {
    httpd: Httpd,
    numbered: Option<Arc<AtomicU64>>,
}

impl Peer for Server {
    /// Every connection is reset, as by the kernel for a process that is killed.
    fn kill(&mut self) {
        self.httpd.kill();
    }
    fn up(&mut self) -> (Instant, Option<u64>) {
        let numbered = self.numbered.as_ref();
        let first = numbered.map(|next| next.load(Ordering::SeqCst));
        self.httpd.up();
        (Instant::now(), first)
    }
}

/// A source: a stream for each rule, both on the one connection; the rules publish to a broker that stays.
struct Source<'a> {
    typ: &'a str,
    props: Value,
    connector: &'a str,
    datasource: &'a str,
    key: Value,
    select: &'a str,
}

impl Source<'_> {
    fn case(self, peer: Box<dyn Peer>, load: Option<Connect>, keeps: Keeps) -> Case {
        let broker = Mosquitto::start();
        let mut key = self.key;
        key["connectionSelector"] = json!(ID);
        let mut manifest = Manifest::new()
            .mqtt("far", &broker.url())
            .connection(ID, self.typ, self.props)
            .conf_key(self.connector, "key", key);
        for rule in RULES {
            let datasource = match self.datasource {
                "" => String::new(),
                place => format!(r#", DATASOURCE="{place}""#),
            };
            manifest = manifest
                .stream(&format!(
                    r#"CREATE STREAM {rule} () WITH (TYPE="{}", FORMAT="json", CONF_KEY="key"{datasource})"#,
                    self.connector
                ))
                .rule(
                    rule,
                    &format!("SELECT {} FROM {rule}", self.select),
                    publish_to("far", rule, 1),
                );
        }
        let topics = RULES.map(|rule| {
            Subscriber::start(Subscribe {
                judge: Judge::Number,
                ..Subscribe::new(broker.port(), rule, rule, 1)
            })
        });
        Case {
            peer,
            load,
            manifest,
            far: Far::Topics(topics),
            keeps,
            _rest: Box::new(broker),
        }
    }
}

/// A broker that keeps its sessions, and holds nothing back that could cross.
fn mosquitto() -> Mosquitto {
    let mut broker = Mosquitto::with(Broker {
        persistence: true,
        max_inflight: Some(1000),
        ..Broker::default()
    });
    broker.kill();
    broker
}

fn mqtt() -> Case {
    let broker = mosquitto();
    let (url, load) = (broker.url(), to_mqtt(broker.port(), "in/1"));
    let source = Source {
        typ: "mqtt",
        props: json!({ "server": url, "clientid": "windlass", "enableClientSession": true }),
        connector: "mqtt",
        datasource: "in/#",
        key: json!({ "qos": 1 }),
        select: "*",
    };
    source.case(Box::new(broker), Some(load), Keeps::Memory)
}

fn nng() -> Case {
    let url = format!("tcp://127.0.0.1:{}", free_port());
    let peer = Script::new(&["nng", "pair0", &url]);
    let source = Source {
        typ: "neuron",
        props: json!({ "url": url }),
        connector: "neuron",
        datasource: "",
        key: json!({}),
        select: "values->seq AS seq",
    };
    source.case(peer, None, Keeps::Nothing)
}

fn websocket() -> Case {
    let port = free_port().to_string();
    let source = Source {
        typ: "websocket",
        props: json!({ "addr": format!("127.0.0.1:{port}"), "path": "/plant" }),
        connector: "websocket",
        datasource: "",
        key: json!({}),
        select: "values->seq AS seq",
    };
    source.case(
        Script::new(&["serve", "127.0.0.1", &port]),
        None,
        Keeps::Nothing,
    )
}

/// The number as an event of EdgeX.
fn as_events(connect: Connect) -> Connect {
    Box::new(move || {
        let mut store = connect()?;
        Ok(Box::new(move |seq: u64, _: &[u8]| {
            let reading = json!({
                "id": "r", "origin": 1, "deviceName": "d", "resourceName": "seq", "profileName": "p",
                "valueType": "Uint64", "value": seq.to_string(),
            });
            let event = json!({
                "apiVersion": "v3", "id": format!("e-{seq}"), "deviceName": "d", "profileName": "p",
                "sourceName": "s", "origin": 1, "readings": [reading],
            });
            let envelope = json!({
                "apiVersion": "v3", "correlationID": "c", "errorCode": 0, "payload": event,
                "contentType": "application/json",
            });
            store(seq, envelope.to_string().as_bytes())
        }) as Store)
    })
}

fn edgex(bus: &str, port: u16, peer: Box<dyn Peer>, load: Connect) -> Case {
    let source = Source {
        typ: "edgex",
        props: json!({ "host": "127.0.0.1", "port": port, "type": bus, "optional": { "clientid": "windlass" } }),
        connector: "edgex",
        datasource: "",
        key: json!({ "topic": "edgex/events/#" }),
        select: "seq",
    };
    source.case(peer, Some(as_events(load)), Keeps::Nothing)
}

fn edgex_on_mqtt() -> Case {
    let broker = mosquitto();
    let port = broker.port();
    let load = to_mqtt(port, "edgex/events/d");
    edgex("mqtt", port, Box::new(broker), load)
}

fn edgex_on_nats() -> Case {
    let mut nats = Nats::start();
    nats.kill();
    let port = nats.port();
    let load = to_nats(port, "edgex.events.d", false);
    edgex("nats-core", port, Box::new(nats), load)
}

fn edgex_on_redis() -> Case {
    let mut redis = Redis::start();
    redis.kill();
    let port = redis.port();
    let load = to_redis(port, "edgex.events.d", false);
    edgex("redis", port, Box::new(redis), load)
}

fn kept(stored: bool) -> Keeps {
    if stored { Keeps::Disk } else { Keeps::Nothing }
}

fn nats(stored: bool) -> Case {
    let mut nats = Nats::start();
    if stored {
        nats.stream("IN", &["in.>"]);
    }
    nats.kill();
    let load = to_nats(nats.port(), "in.1", stored);
    let source = Source {
        typ: "nats",
        props: json!({ "server": nats.url() }),
        connector: "nats",
        datasource: "in.>",
        key: json!({ "qos": u8::from(stored) }),
        select: "*",
    };
    source.case(Box::new(nats), Some(load), kept(stored))
}

fn jetstream() -> Case {
    nats(true)
}

fn nats_core() -> Case {
    nats(false)
}

fn redis(stream: bool) -> Case {
    let mut redis = Redis::start();
    redis.kill();
    let load = to_redis(redis.port(), "in", stream);
    let source = Source {
        typ: "redis",
        props: json!({ "address": redis.address() }),
        connector: "redis",
        datasource: "in",
        key: if stream {
            json!({ "group": "g" })
        } else {
            json!({})
        },
        select: "*",
    };
    source.case(Box::new(redis), Some(load), kept(stream))
}

fn redis_stream() -> Case {
    redis(true)
}

fn redis_channel() -> Case {
    redis(false)
}

fn sql() -> Case {
    let mut server = MariaDb::start();
    drop(server.sql("CREATE TABLE samples (seq BIGINT PRIMARY KEY, ts BIGINT)"));
    server.stop();
    let load = to_mariadb(server.port(), "samples");
    let source = Source {
        typ: "sql",
        props: json!({ "dburl": server.url() }),
        connector: "sql",
        datasource: "samples",
        key: json!({
            "interval": "100ms", "internalSqlQueryCfg": { "table": "samples", "indexField": "seq" },
        }),
        select: "*",
    };
    source.case(Box::new(server), Some(load), Keeps::Disk)
}

fn httppull() -> Case {
    let next = Arc::new(AtomicU64::new(0));
    let numbered = Arc::clone(&next);
    let httpd = Httpd::prepare(move |_| {
        let seq = numbered.fetch_add(1, Ordering::SeqCst);
        Reply::text(200, &json!({ "seq": seq }).to_string())
    });
    let source = Source {
        typ: "http",
        props: json!({ "url": httpd.url("/samples") }),
        connector: "httppull",
        datasource: "",
        // Two rules: 100 answers a second.
        key: json!({ "interval": 20 }),
        select: "*",
    };
    let numbered = Some(next);
    source.case(Box::new(Server { httpd, numbered }), None, Keeps::Nothing)
}

/// A sink: the messages of a broker that stays, by two rules to the one server.
fn rest() -> Case {
    let broker = Mosquitto::start();
    let ledgers: Ledgers = Arc::new(RULES.map(|_| Mutex::new(Ledger::new(Judge::Number))));
    let taken = Arc::clone(&ledgers);
    let httpd = Httpd::prepare(move |asked| {
        let rule = usize::from(asked.target.ends_with(RULES[1]));
        let mut ledger = taken[rule].lock().unwrap_or_else(PoisonError::into_inner);
        ledger.enter(&asked.body);
        Reply::status(204)
    });
    let mut manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .connection(ID, "http", json!({ "url": httpd.url("/in") }))
        .mqtt_stream("demo", "plant", "in/#", 1, true);
    for rule in RULES {
        let action = json!([{ "rest": {
            "connectionSelector": ID, "path": rule, "method": "post", "sendSingle": true,
        } }]);
        manifest = manifest.rule(rule, "SELECT * FROM demo", action);
    }
    Case {
        peer: Box::new(Server {
            httpd,
            numbered: None,
        }),
        load: Some(to_mqtt(broker.port(), "in/1")),
        manifest,
        far: Far::Peer(ledgers),
        keeps: Keeps::Disk,
        _rest: Box::new(broker),
    }
}
