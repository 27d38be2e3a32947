//! EdgeX over each bus: events of each envelope and each value type, made by an encoder of this test,
//! are read to the last bit; events and commands are written as EdgeX reads them; what is no event is
//! put to the dead letters once.

use std::time::Duration;

use serde_json::{Map, Value, json};
use windlass_tests::load::{Subscribe, Subscriber, dial};
use windlass_tests::machine::{shared, wait_until};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::nats::{self, Nats};
use windlass_tests::redis::{self, Redis};
use windlass_tests::windlass::Windlass;
use windlass_tests::wire;

use crate::settings::{START, letters, wait_ready};

/// Value type, the member of the reading, and the JSON that the row must have.
const VALUES: &[(&str, &str, &str)] = &[
    ("Bool", r#""value":"true""#, "true"),
    ("Int8", r#""value":"-128""#, "-128"),
    ("Int16", r#""value":"-32768""#, "-32768"),
    ("Int32", r#""value":"-2147483648""#, "-2147483648"),
    (
        "Int64",
        r#""value":"-9223372036854775808""#,
        "-9223372036854775808",
    ),
    ("Uint8", r#""value":"255""#, "255"),
    ("Uint16", r#""value":"65535""#, "65535"),
    ("Uint32", r#""value":"4294967295""#, "4294967295"),
    (
        "Uint64",
        r#""value":"18446744073709551615""#,
        "18446744073709551615",
    ),
    ("Float32", r#""value":"1.100000e+00""#, "1.1"),
    ("Float64", r#""value":"-2.5e-07""#, "-2.5e-7"),
    ("String", r#""value":"a \"b\" \u00e4""#, r#""a \"b\" ä""#),
    ("BoolArray", r#""value":"[true, false]""#, "[true,false]"),
    (
        "Int64Array",
        r#""value":"[-9223372036854775808, 9007199254740993]""#,
        "[-9223372036854775808,9007199254740993]",
    ),
    (
        "Uint64Array",
        r#""value":"[18446744073709551615]""#,
        "[18446744073709551615]",
    ),
    (
        "Float64Array",
        r#""value":"[1.5e+00, -2.5e+00]""#,
        "[1.5,-2.5]",
    ),
    ("StringArray", r#""value":"[\"a\", \"b\"]""#, r#"["a","b"]"#),
    (
        "Binary",
        r#""binaryValue":"AQID/w==","mediaType":"application/octet-stream""#,
        r#""AQID/w==""#,
    ),
    (
        "Object",
        r#""objectValue":{"big":9007199254740993,"deep":{"list":[1,null]}}"#,
        r#"{"big":9007199254740993,"deep":{"list":[1,null]}}"#,
    ),
];

/// Beyond 2^53, and not a multiple of anything.
const ORIGIN: i64 = 1_760_000_000_000_000_001;

fn event(id: &str) -> String {
    let readings: Vec<String> = VALUES
        .iter()
        .map(|(kind, member, _)| {
            format!(
                r#"{{"id":"r-{kind}","origin":{},"deviceName":"d1","resourceName":"{kind}","profileName":"p1","valueType":"{kind}",{member}}}"#,
                ORIGIN + 2
            )
        })
        .collect();
    format!(
        r#"{{"apiVersion":"v3","id":"{id}","deviceName":"d1","profileName":"p1","sourceName":"s1","origin":{ORIGIN},"readings":[{}],"tags":{{"site":"a"}}}}"#,
        readings.join(",")
    )
}

/// What a form of a message is: its body, and its headers on NATS.
struct Form {
    name: &'static str,
    body: Vec<u8>,
    headers: Vec<(&'static str, &'static str)>,
}

fn forms() -> Vec<Form> {
    let plain = |name, body: String| Form {
        name,
        body: body.into_bytes(),
        headers: Vec::new(),
    };
    let envelope = |payload: &str, kind: &str| {
        format!(
            r#"{{"apiVersion":"v3","receivedTopic":"","correlationID":"c-1","requestID":"","errorCode":0,"payload":{payload},"contentType":"{kind}"}}"#
        )
    };
    let json = "application/json";
    let request =
        |event: String| format!(r#"{{"apiVersion":"v3","requestId":"q","event":{event}}}"#);
    let quoted = |bytes: &[u8]| format!("\"{}\"", base64(bytes));
    let as_cbor = |text: &str| cbor(&serde_json::from_str(text).expect("JSON"));
    vec![
        plain(
            "v2",
            format!(
                r#"{{"ReceivedTopic":"","CorrelationID":"c-1","ApiVersion":"v2","RequestID":"","ErrorCode":0,"Payload":{},"ContentType":"{json}"}}"#,
                quoted(event("v2").as_bytes())
            ),
        ),
        plain("v3", envelope(&quoted(event("v3").as_bytes()), json)),
        plain(
            "v3-request",
            envelope(&quoted(request(event("v3-request")).as_bytes()), json),
        ),
        plain("v4", envelope(&event("v4"), json)),
        plain("v4-request", envelope(&request(event("v4-request")), json)),
        plain(
            "v3-cbor",
            envelope(&quoted(&as_cbor(&event("v3-cbor"))), "application/cbor"),
        ),
        Form {
            name: "cbor",
            body: as_cbor(&envelope(&event("cbor"), "application/cbor")),
            headers: Vec::new(),
        },
    ]
}

/// The forms that only NATS has: the envelope is headers.
fn framed() -> Vec<Form> {
    let headers = |kind| {
        vec![
            ("X-Correlation-ID", "c-1"),
            ("Content-Type", kind),
            ("ApiVersion", "v3"),
            ("ErrorCode", "0"),
        ]
    };
    vec![
        Form {
            name: "headers",
            body: event("headers").into_bytes(),
            headers: headers("application/json"),
        },
        Form {
            name: "headers-cbor",
            body: cbor(&serde_json::from_str(&event("headers-cbor")).expect("JSON")),
            headers: headers("application/cbor"),
        },
    ]
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
            out.push(if place > group.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    out
}

/// CBOR of RFC 8949, section 3: heads of the shortest form; floats in 64 bits, as Go's library has them.
fn cbor(value: &Value) -> Vec<u8> {
    fn head(out: &mut Vec<u8>, major: u8, number: u64) {
        let major = major << 5;
        match number {
            0..=23 => out.push(major | number as u8),
            24..=0xff => out.extend([major | 24, number as u8]),
            0x100..=0xffff => {
                out.push(major | 25);
                out.extend((number as u16).to_be_bytes());
            }
            0x1_0000..=0xffff_ffff => {
                out.push(major | 26);
                out.extend((number as u32).to_be_bytes());
            }
            _ => {
                out.push(major | 27);
                out.extend(number.to_be_bytes());
            }
        }
    }
    fn put(out: &mut Vec<u8>, value: &Value) {
        match value {
            Value::Null => out.push(0xf6),
            Value::Bool(value) => out.push(if *value { 0xf5 } else { 0xf4 }),
            Value::Number(number) => {
                if let Some(number) = number.as_u64() {
                    head(out, 0, number);
                } else if let Some(number) = number.as_i64() {
                    head(out, 1, !number as u64);
                } else {
                    out.push(0xfb);
                    out.extend(number.as_f64().expect("a float").to_be_bytes());
                }
            }
            Value::String(text) => {
                head(out, 3, text.len() as u64);
                out.extend(text.as_bytes());
            }
            Value::Array(items) => {
                head(out, 4, items.len() as u64);
                items.iter().for_each(|item| put(out, item));
            }
            Value::Object(members) => {
                head(out, 5, members.len() as u64);
                for (name, value) in members {
                    put(out, &Value::from(name.as_str()));
                    put(out, value);
                }
            }
        }
    }
    let mut out = Vec::new();
    put(&mut out, value);
    out
}

/// Sends to a topic of EdgeX on one bus.
type Send = Box<dyn FnMut(&str, &[(&str, &str)], &[u8])>;

struct Servers {
    mqtt: Mosquitto,
    nats: Nats,
    redis: Redis,
}

const BUSES: [&str; 4] = ["mqtt", "nats-core", "nats-jetstream", "redis"];

impl Servers {
    fn start() -> Self {
        let servers = Self {
            mqtt: Mosquitto::start(),
            nats: Nats::start(),
            redis: Redis::start(),
        };
        servers.nats.stream("EDGEX", &["jet.>"]);
        servers
    }

    fn port(&self, bus: &str) -> u16 {
        match bus {
            "mqtt" => self.mqtt.port(),
            "redis" => self.redis.port(),
            _ => self.nats.port(),
        }
    }

    /// A stream of JetStream must not have what core subscribers send, so the base differs.
    fn base(bus: &str) -> &'static str {
        if bus == "nats-jetstream" {
            "jet"
        } else {
            "edgex"
        }
    }

    fn connections(&self, mut manifest: Manifest) -> Manifest {
        for bus in BUSES {
            let props = json!({ "host": "127.0.0.1", "port": self.port(bus), "type": bus, "optional": { "clientid": format!("w-{bus}") } });
            manifest = manifest.connection(bus, "edgex", props);
        }
        manifest
    }

    fn sender(&self, bus: &str) -> Send {
        match bus {
            "mqtt" => {
                let (mut socket, _, _) =
                    dial(self.mqtt.port(), "device", true, None).expect("the broker is up");
                Box::new(move |topic, _, body| {
                    let mut bytes = Vec::new();
                    wire::publish(&mut bytes, topic, wire::Delivery::default(), body);
                    std::io::Write::write_all(&mut socket, &bytes).expect("sent");
                })
            }
            "redis" => {
                let mut client = self.redis.client();
                Box::new(move |topic, _, body| {
                    let channel = topic.replace('/', ".");
                    client
                        .command(&[b"PUBLISH", channel.as_bytes(), body])
                        .expect("published");
                })
            }
            _ => {
                let mut client = self.nats.client();
                Box::new(move |topic, headers, body| {
                    client
                        .publish(&topic.replace('/', "."), "", headers, body)
                        .expect("published");
                    client.flush().expect("taken");
                })
            }
        }
    }
}

fn expected() -> Map<String, Value> {
    VALUES
        .iter()
        .map(|(kind, _, json)| {
            (
                (*kind).to_owned(),
                serde_json::from_str(json).expect("JSON"),
            )
        })
        .collect()
}

#[test]
fn each_value_type_in_each_envelope_arrives_over_each_bus_to_the_last_bit() {
    let _machine = shared();
    let servers = Servers::start();
    let far = Subscriber::start(Subscribe::new(servers.mqtt.port(), "far", "far/#", 1));
    let mut manifest = servers
        .connections(Manifest::new())
        .mqtt("far", &servers.mqtt.url());
    for bus in BUSES {
        let name = bus.replace('-', "_");
        let topic = format!("{}/events/#", Servers::base(bus));
        manifest = manifest
            .conf_key("edgex", &name, json!({ "connectionSelector": bus, "topic": topic }))
            .stream(&format!(r#"CREATE STREAM {name} () WITH (TYPE="edgex", FORMAT="json", CONF_KEY="{name}")"#))
            .rule(
                &name,
                &format!("SELECT *, meta(origin) AS eventOrigin, meta(id) AS eventId, meta(deviceName) AS device, meta(correlationid) AS correlation, meta(topic) AS topic, meta(Int64) AS about FROM {name}"),
                publish_to("far", &format!("far/{bus}"), 1),
            );
    }
    let windlass = Windlass::start(&manifest);
    let rules: Vec<String> = BUSES.iter().map(|bus| bus.replace('-', "_")).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    wait_ready(&windlass, &[&BUSES[..], &["far"][..]].concat(), &rules);
    wait_until(START, "the consumer is there", || {
        !servers.nats.consumers("EDGEX").is_empty()
    });
    let mut wanted = 0;
    for bus in BUSES {
        let topic = format!("{}/events/device/svc/p1/d1/s1", Servers::base(bus));
        let mut send = servers.sender(bus);
        let more = if bus.starts_with("nats") {
            framed()
        } else {
            Vec::new()
        };
        for form in forms().into_iter().chain(more) {
            send(&topic, &form.headers, &form.body);
            wanted += 1;
        }
    }
    wait_until(Duration::from_secs(20), "all events have arrived", || {
        far.payloads().len() >= wanted
    });
    std::thread::sleep(Duration::from_millis(300));
    let arrived = far.payloads();
    assert_eq!(arrived.len(), wanted);
    let mut checked = 0;
    for bus in BUSES {
        let more = if bus.starts_with("nats") {
            framed()
        } else {
            Vec::new()
        };
        for form in forms().into_iter().chain(more) {
            let name = form.name;
            let row = arrived
                .iter()
                .filter(|(topic, _)| *topic == format!("far/{bus}"))
                .filter_map(|(_, payload)| {
                    serde_json::from_slice::<Map<String, Value>>(payload).ok()
                })
                .find(|row| row["eventId"] == *name);
            let mut row = row.unwrap_or_else(|| panic!("{name} over {bus} did not arrive"));
            let mut take = |member: &str| row.shift_remove(member).unwrap_or_default();
            let (origin, device, correlation) =
                (take("eventOrigin"), take("device"), take("correlation"));
            let (topic, about, _) = (take("topic"), take("about"), take("eventId"));
            assert_eq!(origin, ORIGIN.to_string(), "{name} over {bus}");
            assert_eq!(
                (device.as_str(), correlation.as_str()),
                (Some("d1"), Some("c-1")),
                "{name} over {bus}"
            );
            assert_eq!(
                topic,
                format!("{}/events/device/svc/p1/d1/s1", Servers::base(bus)),
                "{name} over {bus}"
            );
            let about: Value =
                serde_json::from_str(about.as_str().unwrap_or_default()).expect("JSON");
            assert_eq!(
                (&about["origin"], &about["valueType"]),
                (&json!(ORIGIN + 2), &json!("Int64"))
            );
            assert_eq!(
                Value::from(row),
                Value::from(expected()),
                "{name} over {bus}"
            );
            checked += VALUES.len();
        }
    }
    println!(
        "{checked} values over {} buses are the same to the last bit",
        BUSES.len()
    );
}

#[test]
fn what_is_no_event_goes_to_the_dead_letters_once_and_those_around_it_arrive() {
    let _machine = shared();
    let servers = Servers::start();
    let far = Subscriber::start(Subscribe::new(servers.mqtt.port(), "far", "far/#", 1));
    let bus = "nats-jetstream";
    let manifest = servers
        .connections(Manifest::new())
        .mqtt("far", &servers.mqtt.url())
        .conf_key(
            "edgex",
            "jet",
            json!({ "connectionSelector": bus, "topic": "jet/events/#" }),
        )
        .stream(r#"CREATE STREAM jet () WITH (TYPE="edgex", FORMAT="json", CONF_KEY="jet")"#)
        .rule(
            "jet",
            "SELECT Int8, meta(id) AS id FROM jet",
            publish_to("far", "far/jet", 1),
        );
    let mut windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &[bus, "far"], &["jet"]);
    wait_until(START, "the consumer is there", || {
        !servers.nats.consumers("EDGEX").is_empty()
    });
    let mut send = servers.sender(bus);
    let good = &forms()[3].body;
    let bad: [&[u8]; 5] = [
        b"nonsense",
        br#"{"temperature":7}"#,
        br#"{"payload":{"readings":[]},"contentType":"application/json"}"#,
        br#"{"errorCode":1,"payload":"device d1 is locked","contentType":"text/plain"}"#,
        &[0xbf, 0x67, b'p', b'a', b'y'],
    ];
    send("jet/events/a", &[], good);
    for body in bad {
        send("jet/events/a", &[], body);
        send("jet/events/a", &[], good);
    }
    wait_until(
        Duration::from_secs(20),
        "the good ones have arrived",
        || far.payloads().len() >= 6,
    );
    wait_until(Duration::from_secs(20), "all are acknowledged", || {
        let consumer = &servers.nats.consumers("EDGEX")[0];
        consumer["num_ack_pending"] == 0 && consumer["num_pending"] == 0
    });
    assert_eq!(far.payloads().len(), 6, "none of the good ones twice");
    assert_eq!(
        windlass.rule("jet").map(|(status, _)| status).as_deref(),
        Some("running")
    );
    assert_eq!(windlass.terminate(Duration::from_secs(15)), Some(0));
    let letters = letters(&windlass);
    assert_eq!(letters.len(), bad.len(), "{letters:?}");
    let said = json!(letters).to_string();
    for words in ["EdgeX envelope", "device d1 is locked", "CBOR"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn events_and_commands_go_out_over_each_bus_as_edgex_reads_them() {
    let _machine = shared();
    let servers = Servers::start();
    let mut manifest = servers
        .connections(Manifest::new())
        .mqtt("plant", &servers.mqtt.url())
        .mqtt_stream("demo", "plant", "in/#", 1, true);
    for bus in BUSES {
        let base = Servers::base(bus);
        let event = json!([{ "edgex": { "connectionSelector": bus, "topicPrefix": format!("{base}/out"), "profileName": "p1", "deviceName": "d1", "sourceName": "s1", "sendSingle": true } }]);
        let set = json!([{ "edgex": { "connectionSelector": bus, "topic": format!("{base}/core/command/request/{{{{.device}}}}/level/set"), "messageType": "command", "sendSingle": true } }]);
        let name = bus.replace('-', "_");
        manifest = manifest
            .rule(
                &format!("event_{name}"),
                "SELECT big, f, level FROM demo",
                event,
            )
            .rule(
                &format!("set_{name}"),
                "SELECT device, level, power FROM demo",
                set,
            );
    }
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &[&BUSES[..], &["plant"][..]].concat(), &[]);
    for bus in BUSES {
        let name = bus.replace('-', "_");
        windlass.wait_rule(&format!("event_{name}"), "running", START);
        windlass.wait_rule(&format!("set_{name}"), "running", START);
    }
    let far = Subscriber::start(Subscribe::new(servers.mqtt.port(), "far", "edgex/#", 1));
    let mut core = servers.nats.client();
    for subject in ["edgex.>", "jet.>"] {
        core.subscribe(subject).expect("subscribed");
    }
    let mut redis = servers.redis.client();
    redis.say("PSUBSCRIBE edgex.*").expect("subscribed");
    let (mut socket, _, _) =
        dial(servers.mqtt.port(), "rows", true, None).expect("the broker is up");
    let mut bytes = Vec::new();
    let row = br#"{"big":9007199254740993,"f":50.5,"level":7,"power":true,"device":"d1"}"#;
    wire::publish(&mut bytes, "in/rows", wire::Delivery::default(), row);
    std::io::Write::write_all(&mut socket, &bytes).expect("sent");

    // (bus, topic with slashes, envelope)
    let mut arrived: Vec<(String, String, Value)> = Vec::new();
    for _ in 0..4 {
        let message: nats::Arrived = core.arrival().expect("a message on NATS");
        let bus = if message.subject.starts_with("jet.") {
            "nats-jetstream"
        } else {
            "nats-core"
        };
        assert!(
            message.headers.contains("Content-Type: application/json"),
            "{}",
            message.headers
        );
        assert!(
            message.headers.contains("X-Correlation-ID: "),
            "{}",
            message.headers
        );
        let payload: Value =
            serde_json::from_slice(&message.payload).expect("the body is the payload");
        let envelope = json!({ "payload": payload, "errorCode": 0, "apiVersion": "v3" });
        arrived.push((bus.to_owned(), message.subject.replace('.', "/"), envelope));
    }
    for _ in 0..2 {
        let message: redis::Answer = redis.answer().expect("a message on Redis");
        let items = message.items();
        let envelope = serde_json::from_str(&items[3].text()).expect("an envelope");
        arrived.push((
            "redis".to_owned(),
            items[2].text().replace('.', "/"),
            envelope,
        ));
    }
    wait_until(
        Duration::from_secs(10),
        "both have arrived over MQTT",
        || far.payloads().len() >= 2,
    );
    for (topic, payload) in far.payloads() {
        arrived.push((
            "mqtt".to_owned(),
            topic,
            serde_json::from_slice(&payload).expect("an envelope"),
        ));
    }
    for bus in BUSES {
        let base = Servers::base(bus);
        let at = |topic: String| {
            let found = arrived.iter().find(|(on, at, _)| on == bus && *at == topic);
            &found
                .unwrap_or_else(|| panic!("{topic} over {bus}: {arrived:?}"))
                .2
        };
        let envelope = at(format!("{base}/out/p1/d1/s1"));
        assert_eq!(
            (&envelope["errorCode"], &envelope["apiVersion"]),
            (&json!(0), &json!("v3"))
        );
        let event = &envelope["payload"];
        let readings: Vec<(&Value, &Value, &Value)> = event["readings"]
            .as_array()
            .expect("readings")
            .iter()
            .map(|reading| {
                (
                    &reading["resourceName"],
                    &reading["valueType"],
                    &reading["value"],
                )
            })
            .collect();
        let wanted = [
            ("big", "Int64", "9007199254740993"),
            ("f", "Float64", "5.05e+01"),
            ("level", "Int64", "7"),
        ];
        let wanted: Vec<(Value, Value, Value)> = wanted
            .iter()
            .map(|(a, b, c)| (json!(a), json!(b), json!(c)))
            .collect();
        assert_eq!(
            readings,
            wanted.iter().map(|(a, b, c)| (a, b, c)).collect::<Vec<_>>(),
            "{bus}"
        );
        for name in ["id", "origin"] {
            assert!(!event[name].is_null(), "{bus}: {event}");
        }
        assert!(
            event["origin"]
                .as_i64()
                .is_some_and(|origin| origin > ORIGIN - 1_000_000_000_000_000_000),
            "{event}"
        );
        let settings = &at(format!("{base}/core/command/request/d1/level/set"))["payload"];
        assert_eq!(
            settings,
            &json!({ "device": "d1", "level": "7", "power": "true" }),
            "{bus}"
        );
    }
}
