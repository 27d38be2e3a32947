//! NATS and Redis, against real servers: created while the server is down, used by two rules at once,
//! killed for five seconds under load and back; and what is there when it is no such server.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{alone, free_port, holds_within, shared, wait_until};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::nats::Nats;
use windlass_tests::oracle::{now_ns, ranges, write_payload};
use windlass_tests::proxy::Proxy;
use windlass_tests::redis::{self, Answer, Redis};
use windlass_tests::sender::{Connect, Doubt, Sender, Store, to_nats, to_redis};
use windlass_tests::windlass::Windlass;

use crate::settings::{START, wait_ready};

/// One way to take messages in.
struct Way {
    name: &'static str,
    connection: &'static str,
    typ: &'static str,
    datasource: &'static str,
    more: Value,
    /// What the server has acknowledged must arrive.
    lossless: bool,
    connect: Connect,
}

fn ways(nats: u16, redis: u16) -> Vec<Way> {
    vec![
        Way {
            name: "jet",
            connection: "nats",
            typ: "nats",
            datasource: "jet.>",
            more: json!({ "qos": 1 }),
            lossless: true,
            connect: to_nats(nats, "jet.in", true),
        },
        Way {
            name: "core",
            connection: "nats",
            typ: "nats",
            datasource: "core.*",
            more: json!({}),
            lossless: false,
            connect: to_nats(nats, "core.in", false),
        },
        Way {
            name: "entries",
            connection: "redis",
            typ: "redis",
            datasource: "entries",
            more: json!({ "group": "g" }),
            lossless: true,
            connect: to_redis(redis, "entries", true),
        },
        Way {
            name: "channel",
            connection: "redis",
            typ: "redis",
            datasource: "channel.*",
            more: json!({}),
            lossless: false,
            connect: to_redis(redis, "channel.in", false),
        },
    ]
}

#[test]
fn servers_that_are_down_killed_and_back_lose_nothing_that_they_acknowledged() {
    let _machine = alone();
    let far = Mosquitto::start();
    let (mut nats, mut redis) = (Nats::start(), Redis::start());
    let ways = ways(nats.port(), redis.port());
    nats.kill();
    redis.kill();
    let mut manifest = Manifest::new()
        .mqtt("far", &far.url())
        .connection("nats", "nats", json!({ "server": nats.url() }))
        .connection("redis", "redis", json!({ "address": redis.address() }));
    let mut seen = Vec::new();
    for way in &ways {
        let mut props = way.more.clone();
        props["connectionSelector"] = json!(way.connection);
        manifest = manifest.conf_key(way.typ, way.name, props);
        for number in ["1", "2"] {
            let (name, topic) = (
                format!("{}{number}", way.name),
                format!("out/{}{number}", way.name),
            );
            let sql = format!(
                r#"CREATE STREAM {name} () WITH (TYPE="{}", DATASOURCE="{}", FORMAT="json", CONF_KEY="{}")"#,
                way.typ, way.datasource, way.name
            );
            manifest = manifest.stream(&sql).rule(
                &name,
                &format!("SELECT * FROM {name}"),
                publish_to("far", &topic, 1),
            );
            seen.push((
                name.clone(),
                Subscriber::start(Subscribe::new(far.port(), &name, &topic, 1)),
            ));
        }
    }
    let windlass = Windlass::start(&manifest);
    for id in ["nats", "redis"] {
        let why = windlass.wait_connection(id, "disconnected", START);
        assert!(why.to_lowercase().contains("refused"), "{id}: {why}");
    }
    let rules: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
    for rule in &rules {
        windlass.wait_rule(rule, "running", START);
    }
    nats.up();
    nats.stream("JET", &["jet.>"]);
    redis.up();
    wait_ready(&windlass, &["nats", "redis"], &rules);
    wait_until(Duration::from_secs(15), "the consumer is there", || {
        !nats.consumers("JET").is_empty()
    });
    wait_until(Duration::from_secs(10), "the group is there", || {
        redis
            .client()
            .say("XINFO GROUPS entries")
            .is_ok_and(|groups| !groups.items().is_empty())
    });
    std::thread::sleep(Duration::from_secs(1));
    let lossless: Vec<bool> = ways.iter().map(|way| way.lossless).collect();
    let senders: Vec<Sender> = ways
        .into_iter()
        .map(|way| {
            let doubt = if way.lossless {
                Doubt::Again
            } else {
                Doubt::Dropped
            };
            Sender::start(way.connect, 200, doubt)
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    nats.kill();
    redis.kill();
    let begin = windlass.changes().len();
    std::thread::sleep(Duration::from_secs(5));
    for id in ["nats", "redis"] {
        let (status, why) = windlass.connection(id).expect("it is there");
        assert_eq!(
            status, "connecting",
            "{id} was up, and is being brought back: {why}"
        );
        assert!(!why.is_empty(), "{id} says why");
        let attempts = windlass.changes()[begin..]
            .iter()
            .filter(|change| change.1 == id)
            .count();
        println!("{id}: {attempts} changes of state in 5 s, err: {why}");
        assert!(attempts < 60, "{id}: a storm of {attempts}");
    }
    nats.up();
    let nats_back = now_ns();
    redis.up();
    let redis_back = now_ns();
    for id in ["nats", "redis"] {
        let why = windlass.wait_connection(id, "connected", Duration::from_secs(10));
        assert_eq!(why, "", "{id}");
    }
    std::thread::sleep(Duration::from_secs(3));
    let sent: Vec<Vec<(u64, u64)>> = senders.into_iter().map(Sender::end).collect();
    for (place, (name, far)) in seen.iter().enumerate() {
        let taken = &sent[place / 2];
        let back = if place < 4 { nats_back } else { redis_back };
        let numbers: Vec<u64> = taken.iter().map(|(seq, _)| *seq).collect();
        if lossless[place / 2] {
            holds_within(Duration::from_secs(30), || {
                far.ledger().lost(numbers.iter().copied()).is_empty()
            });
        }
        let ledger = far.ledger();
        // What was sent after the return: when did the first of it arrive?
        let first = taken
            .iter()
            .find(|(_, ts)| *ts > back)
            .map(|(_, ts)| *ts)
            .unwrap_or(back);
        let arrived = ledger.first_after(first).unwrap_or(u64::MAX);
        let after = Duration::from_nanos(arrived.saturating_sub(back));
        let lost = ledger.lost(numbers.iter().copied());
        println!(
            "{name}: {} taken by the server, {} arrived, {} lost, {} twice; flows {after:.2?} after the return",
            numbers.len(),
            ledger.arrived(),
            lost.len(),
            ledger.duplicates()
        );
        assert!(
            after < Duration::from_secs(4),
            "{name}: data flows again only after {after:?}"
        );
        assert_eq!(ledger.corrupt(), 0, "{name}");
        if lossless[place / 2] {
            assert!(lost.is_empty(), "{name}: lost {}", ranges(&lost));
            assert!(ledger.duplicates() <= 1000, "{name}: {}", ledger.summary());
        }
    }
    assert_eq!(
        nats.consumers("JET").len(),
        1,
        "two rules share one consumer"
    );
    let pending = |redis: &Redis| {
        redis
            .client()
            .say("XPENDING entries g")
            .map(|answer| answer.items()[0].text())
    };
    wait_until(
        Duration::from_secs(10),
        "all entries are acknowledged",
        || pending(&redis).is_ok_and(|count| count == "0"),
    );
    wait_until(
        Duration::from_secs(10),
        "all deliveries are acknowledged",
        || nats.consumers("JET")[0]["num_ack_pending"] == 0,
    );
}

#[test]
fn what_a_dead_host_had_not_settled_comes_again_and_what_it_had_does_not() {
    let _machine = shared();
    let far = Mosquitto::start();
    let (nats, redis) = (Nats::start(), Redis::start());
    nats.stream("JET", &["jet.>"]);
    let seen = Subscriber::start(Subscribe::new(far.port(), "seen", "out/#", 1));
    let manifest = Manifest::new()
        .mqtt("far", &far.url())
        .connection("nats", "nats", json!({ "server": nats.url() }))
        .connection("redis", "redis", json!({ "address": redis.address() }))
        .conf_key("nats", "jet", json!({ "connectionSelector": "nats", "qos": 1, "ackWait": "2s", "deliver": "all" }))
        .conf_key("redis", "entries", json!({ "connectionSelector": "redis", "group": "g", "from": "all" }))
        .stream(r#"CREATE STREAM jet () WITH (TYPE="nats", DATASOURCE="jet.in", FORMAT="json", CONF_KEY="jet")"#)
        .stream(r#"CREATE STREAM entries () WITH (TYPE="redis", DATASOURCE="entries", FORMAT="json", CONF_KEY="entries")"#)
        .rule("jet", "SELECT * FROM jet", publish_to("far", "out/jet", 1))
        .rule("entries", "SELECT * FROM entries", publish_to("far", "out/entries", 1));
    let mut windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["far", "nats", "redis"], &["jet", "entries"]);
    let ways = ways(nats.port(), redis.port());
    let mut stores: Vec<Store> = [0, 2]
        .iter()
        .map(|place| (ways[*place].connect)().expect("there"))
        .collect();
    let mut send = |numbers: std::ops::Range<u64>| {
        let mut payload = Vec::new();
        for seq in numbers {
            write_payload(&mut payload, seq, now_ns());
            for store in &mut stores {
                store(seq, &payload).expect("stored");
            }
        }
    };
    send(0..150);
    wait_until(
        Duration::from_secs(20),
        "all have arrived over both",
        || seen.payloads().len() >= 300,
    );
    windlass.kill();
    send(150..300);
    windlass.up();
    wait_ready(&windlass, &["far", "nats", "redis"], &["jet", "entries"]);
    let numbers = |topic: &str| {
        let mut found: Vec<u64> = seen
            .payloads()
            .iter()
            .filter(|(at, _)| at == topic)
            .filter_map(|(_, payload)| {
                serde_json::from_slice::<Value>(payload).ok()?["seq"].as_u64()
            })
            .collect();
        let all = found.len();
        found.sort_unstable();
        found.dedup();
        (found, all)
    };
    for topic in ["out/jet", "out/entries"] {
        wait_until(Duration::from_secs(20), "all have arrived", || {
            numbers(topic).0.len() >= 300
        });
        let (found, all) = numbers(topic);
        println!(
            "{topic}: {} of 300 arrived, {} twice",
            found.len(),
            all - found.len()
        );
        assert_eq!(found, (0..300).collect::<Vec<u64>>());
        assert!(
            all - found.len() <= 150,
            "{topic}: what was settled came again"
        );
    }
}

#[test]
fn a_stream_of_each_kind_gets_all_messages_while_its_server_is_killed_and_back() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let (mut nats, mut redis) = (Nats::start(), Redis::start());
    nats.stream("OUT", &["out.>"]);
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .connection("nats", "nats", json!({ "server": nats.url() }))
        .connection("redis", "redis", json!({ "address": redis.address() }))
        .mqtt_stream("demo", "plant", "in/#", 1, true)
        .rule("jet", "SELECT * FROM demo", json!([{ "nats": { "connectionSelector": "nats", "subject": "out.{{.seq}}", "qos": 1, "sendSingle": true } }]))
        .rule("entries", "SELECT * FROM demo", json!([{ "redis": { "connectionSelector": "redis", "stream": "entries", "sendSingle": true } }]));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant", "nats", "redis"], &["jet", "entries"]);
    let publisher = Publish::new(broker.port(), "in/1", 1)
        .rate(400)
        .count(2000)
        .start();
    std::thread::sleep(Duration::from_millis(1500));
    nats.kill();
    redis.kill();
    std::thread::sleep(Duration::from_secs(2));
    nats.up();
    redis.up();
    let sent = publisher.join();
    assert_eq!(sent.acknowledged.len(), 2000);
    let in_stream = |nats: &Nats| {
        let info = nats
            .client()
            .request("$JS.API.STREAM.INFO.OUT", br#"{"subjects_filter":">"}"#);
        let info = info.unwrap_or_default();
        let subjects = info["state"]["num_subjects"].as_u64().unwrap_or(0);
        (subjects, info["state"]["messages"].as_u64().unwrap_or(0))
    };
    wait_until(
        Duration::from_secs(30),
        "the stream of NATS has them all",
        || in_stream(&nats).0 >= 2000,
    );
    let (different, all) = in_stream(&nats);
    let entries = |redis: &Redis| -> Vec<u64> {
        let list = redis.client().say("XRANGE entries - +").expect("entries");
        let payload = |entry: &Answer| entry.items()[1].items()[1].text();
        let number =
            |entry: &Answer| serde_json::from_str::<Value>(&payload(entry)).ok()?["seq"].as_u64();
        list.items().iter().filter_map(number).collect()
    };
    let distinct = |mut list: Vec<u64>| {
        list.sort_unstable();
        list.dedup();
        list
    };
    wait_until(
        Duration::from_secs(30),
        "the stream of Redis has them all",
        || distinct(entries(&redis)).len() >= 2000,
    );
    let list = entries(&redis);
    println!(
        "NATS keeps {all} of 2000, {} twice; Redis keeps {}, {} twice",
        all - different,
        list.len(),
        list.len() - 2000
    );
    assert_eq!(
        (different, all),
        (2000, 2000),
        "the stream knows a message again by its id"
    );
    assert_eq!(distinct(list.clone()), (0..2000).collect::<Vec<u64>>());
    assert!(list.len() <= 2000 + 1024, "duplicates are bounded");
}

#[test]
fn keys_are_set_expire_and_are_deleted_as_rows_say() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let redis = Redis::start();
    let action = |more: Value| {
        let mut props = json!({ "connectionSelector": "redis", "sendSingle": true });
        props
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        json!([{ "redis": props }])
    };
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .connection(
            "redis",
            "redis",
            json!({ "address": redis.address(), "db": 3 }),
        )
        .mqtt_stream("demo", "plant", "in/#", 1, true)
        .rule(
            "field",
            "SELECT * FROM demo",
            action(json!({ "field": "id", "rowkindField": "do", "expiration": 600 })),
        )
        .rule(
            "list",
            "SELECT v FROM demo WHERE v > 0",
            action(json!({ "key": "list", "dataType": "list" })),
        )
        .rule(
            "rendered",
            "SELECT id, v FROM demo WHERE v > 0",
            action(json!({ "key": "r:{{.id}}", "mode": "key" })),
        )
        .rule(
            "channel",
            "SELECT v FROM demo WHERE v > 0",
            action(json!({ "channel": "news" })),
        );
    let windlass = Windlass::start(&manifest);
    wait_ready(
        &windlass,
        &["plant", "redis"],
        &["field", "list", "rendered", "channel"],
    );
    let mut listener = redis.client();
    listener.say("SUBSCRIBE news").expect("subscribed");
    let (mut socket, _, _) =
        windlass_tests::load::dial(broker.port(), "rows", true, None).expect("the broker is up");
    for row in [
        r#"{"id":"a","v":18446744073709551615}"#,
        r#"{"id":"b","v":2}"#,
        r#"{"id":"b","do":"delete","v":0}"#,
    ] {
        let mut bytes = Vec::new();
        windlass_tests::wire::publish(
            &mut bytes,
            "in/rows",
            windlass_tests::wire::Delivery::default(),
            row.as_bytes(),
        );
        std::io::Write::write_all(&mut socket, &bytes).expect("sent");
    }
    let mut client = redis.client();
    client.say("SELECT 3").expect("selected");
    wait_until(
        Duration::from_secs(10),
        "the keys are there and one is gone again",
        || {
            let text =
                |client: &mut redis::Client, words| client.say(words).expect("an answer").text();
            text(&mut client, "GET a") == r#"{"id":"a","v":18446744073709551615}"#
                && text(&mut client, "EXISTS b") == "0"
                && text(&mut client, "LLEN list") == "2"
                && text(&mut client, "GET r:b") == r#"{"id":"b","v":2}"#
        },
    );
    let left = client
        .say("TTL a")
        .expect("an answer")
        .text()
        .parse::<i64>()
        .expect("a number");
    assert!((500..=600).contains(&left), "{left}");
    let news = listener.answer().expect("a message");
    assert_eq!(news.items()[2].text(), r#"{"v":18446744073709551615}"#);
    // A set type under the key: the message can never be written.
    client.say("SADD r:c x").expect("a set");
}

/// A connection to what is no such server, and words of the reason.
struct Wrong {
    id: &'static str,
    typ: &'static str,
    props: Value,
    words: &'static [&'static str],
}

#[test]
fn what_is_no_such_server_shows_why_and_is_not_tried_in_a_hot_loop() {
    let _machine = shared();
    let nats = Nats::with(&["--user", "ann", "--pass", "right"]);
    let redis = Redis::with(&["--requirepass", "right"]);
    let broker = Mosquitto::with(Broker::default());
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_port = silent.local_addr().expect("an address").port();
    let (nats_proxy, redis_proxy) = (Proxy::start(nats.port()), Proxy::start(redis.port()));
    let silent_proxy = Proxy::start(silent_port);
    let secret = "wrong-hunter2";
    let at = |port: u16| format!("127.0.0.1:{port}");
    let quick = |mut props: Value| {
        props["connectTimeout"] = json!("1s");
        props
    };
    let authority = &["refused the credentials"][..];
    let table = [
        Wrong {
            id: "n-refused",
            typ: "nats",
            props: json!({ "server": at(free_port()) }),
            words: &["refused"],
        },
        Wrong {
            id: "n-login",
            typ: "nats",
            props: json!({ "server": at(nats_proxy.port()), "username": "ann", "password": secret }),
            words: authority,
        },
        Wrong {
            id: "n-nobody",
            typ: "nats",
            props: json!({ "server": at(nats.port()) }),
            words: authority,
        },
        Wrong {
            id: "n-redis",
            typ: "nats",
            props: quick(json!({ "server": at(redis.port()) })),
            words: &["does not answer as a NATS server"],
        },
        Wrong {
            id: "n-silent",
            typ: "nats",
            props: quick(json!({ "server": at(silent_proxy.port()) })),
            words: &["does not answer as a NATS server"],
        },
        Wrong {
            id: "n-name",
            typ: "nats",
            props: json!({ "server": "nats://no-such-host.invalid" }),
            words: &["cannot be resolved"],
        },
        Wrong {
            id: "n-tls",
            typ: "nats",
            props: quick(json!({ "server": format!("tls://{}", at(nats.port())) })),
            words: &["TLS", "tls"],
        },
        Wrong {
            id: "r-refused",
            typ: "redis",
            props: json!({ "address": at(free_port()) }),
            words: &["refused"],
        },
        Wrong {
            id: "r-login",
            typ: "redis",
            props: json!({ "address": at(redis_proxy.port()), "password": secret }),
            words: authority,
        },
        Wrong {
            id: "r-nobody",
            typ: "redis",
            props: json!({ "address": at(redis.port()) }),
            words: authority,
        },
        Wrong {
            id: "r-nats",
            typ: "redis",
            props: json!({ "address": at(nats.port()) }),
            words: &["no Redis server"],
        },
        Wrong {
            id: "r-mqtt",
            typ: "redis",
            props: quick(json!({ "address": at(broker.port()) })),
            words: &["closed", "no Redis server"],
        },
        Wrong {
            id: "r-silent",
            typ: "redis",
            props: quick(json!({ "address": at(silent_port) })),
            words: &["does not answer as a Redis server"],
        },
        Wrong {
            id: "r-name",
            typ: "redis",
            props: json!({ "address": "no-such-host.invalid" }),
            words: &["cannot be resolved"],
        },
        Wrong {
            id: "e-refused",
            typ: "edgex",
            props: json!({ "host": "127.0.0.1", "port": free_port(), "type": "nats-core" }),
            words: &["refused"],
        },
        Wrong {
            id: "e-login",
            typ: "edgex",
            props: json!({ "host": "127.0.0.1", "port": redis.port(), "type": "redis", "optional": { "password": secret } }),
            words: authority,
        },
        Wrong {
            id: "e-nats",
            typ: "edgex",
            props: quick_edgex(nats.port()),
            words: &["answer", "closed", "not valid MQTT", "CONNACK"],
        },
    ];
    let mut manifest = Manifest::new();
    for wrong in &table {
        manifest = manifest.connection(wrong.id, wrong.typ, wrong.props.clone());
    }
    let windlass = Windlass::start(&manifest);
    let begin = Instant::now();
    let mut faults = Vec::new();
    for wrong in &table {
        let why = windlass.wait_connection(wrong.id, "disconnected", START);
        println!("{}: {why}", wrong.id);
        if !wrong.words.iter().any(|word| why.contains(word)) {
            faults.push(format!(
                "{}: lacks one of {:?}: {why}",
                wrong.id, wrong.words
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    std::thread::sleep(Duration::from_secs(8).saturating_sub(begin.elapsed()));
    let seconds = usize::try_from(begin.elapsed().as_secs()).expect("not many");
    for (what, proxy, most) in [
        ("NATS login", &nats_proxy, 2),
        ("Redis login", &redis_proxy, 2),
        ("silence", &silent_proxy, 3 + seconds),
    ] {
        let attempts = proxy.attempts().len();
        println!("{what}: {attempts} attempts in {:.1?}", begin.elapsed());
        assert!(attempts <= most, "{what}: {attempts} attempts");
    }
    let changes = windlass.changes().len();
    assert!(changes < 400, "{changes} changes of state");
    assert!(!windlass.log().contains(secret), "a password in the log");
}

fn quick_edgex(port: u16) -> Value {
    json!({ "host": "127.0.0.1", "port": port, "type": "mqtt", "optional": { "connecttimeout": "1" } })
}
