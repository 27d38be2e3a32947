//! What a server costs by what is defined in it: rules that do not run, and the whole of a large plant
//! at once, its list of connections while they all reconnect.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_tests::load::Publish;
use windlass_tests::machine::holds_within;
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::rest::Rest;
use windlass_tests::windlass::Windlass;

use crate::progress;
use crate::table::Row;

const MIB: f64 = 1024.0 * 1024.0;
const STOPPED: usize = 2000;
const CONNECTIONS: usize = 500;
const RUNNING: usize = 300;
/// What takes longer than this has failed.
const LIMIT: Duration = Duration::from_secs(120);

fn resident(windlass: &Windlass) -> f64 {
    windlass.usage().resident as f64
}

fn rest(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

fn connection(id: &str, broker: &Mosquitto) -> Value {
    json!({ "id": id, "typ": "mqtt", "props": { "server": broker.url() } })
}

fn rule(id: &str, action: &Value, triggered: bool) -> Value {
    json!({
        "id": id,
        "sql": "SELECT * FROM demo WHERE temperature > 50",
        "actions": [action],
        "triggered": triggered,
    })
}

/// Rules that do not run.
fn stopped(windlass: &mut Windlass, client: &mut Rest) -> Vec<Row> {
    let action = json!({ "mqtt": { "connectionSelector": "plant", "topic": "out", "qos": 1, "sendSingle": true } });
    // What is compiled and loaded once is there before the count.
    client.must_post("/rules", &rule("first", &action, false), 201);
    rest(1);
    let before = resident(windlass);
    let began = Instant::now();
    for number in 0..STOPPED {
        let id = format!("stopped{number}");
        client.must_post("/rules", &rule(&id, &action, false), 201);
    }
    let each_ms = began.elapsed().as_secs_f64() * 1e3 / STOPPED as f64;
    rest(2);
    let each = (resident(windlass) - before) / STOPPED as f64 / 1024.0;
    assert_eq!(windlass.terminate(Duration::from_secs(12)), Some(0));
    windlass.up();
    windlass.wait_listening(LIMIT);
    let start = windlass.age().as_secs_f64();
    rest(1);
    let again = resident(windlass) / MIB;
    let note = format!("{each_ms:.1} ms to make each; {again:.1} MiB resident after the restart");
    progress(&format!(
        "{each:.2} KB for each stopped rule; {note}; start {start:.3} s"
    ));
    vec![
        Row::new("per stopped rule", "KB", 4.0, 2.0, each, note),
        Row::plain(
            "start with 2000 stopped rules until REST answers",
            "s",
            start,
            String::new(),
        ),
    ]
}

/// All at once: what it takes, and how long its connections take to list while none is up.
fn whole(windlass: &Windlass, client: &mut Rest, broker: &mut Mosquitto) -> Vec<Row> {
    for number in 0..CONNECTIONS {
        client.must_post(
            "/connections",
            &connection(&format!("c{number}"), broker),
            201,
        );
    }
    for number in 0..RUNNING {
        let id = format!("running{number}");
        client.must_post("/rules", &rule(&id, &json!({ "nop": {} }), true), 201);
    }
    client.wait("/connections", LIMIT, "all are up", |all| {
        let all = all.as_array().map_or(&[][..], Vec::as_slice);
        all.len() > CONNECTIONS && all.iter().all(|one| one["status"] == "connected")
    });
    client.wait("/rules", LIMIT, "all run", |all| {
        let all = all.as_array().map_or(&[][..], Vec::as_slice);
        all.iter().filter(|one| one["status"] == "running").count() == RUNNING
    });
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(500).start();
    rest(3);
    let (before, begin) = (windlass.usage().cpu, Instant::now());
    rest(10);
    let share = (windlass.usage().cpu - before).as_secs_f64() / begin.elapsed().as_secs_f64() / 2.0;
    let memory = resident(windlass) / MIB;
    let sent = publisher.stop();
    let read = |client: &mut Rest| {
        let status = client
            .get(&format!("/rules/running{}/status", RUNNING - 1))
            .1;
        status["source_demo_0_records_in_total"].as_u64()
    };
    assert!(
        holds_within(Duration::from_secs(10), || read(client) >= Some(sent.sent)),
        "the last rule has not read all {} messages",
        sent.sent
    );
    broker.kill();
    rest(2);
    let mut times: Vec<f64> = (0..500)
        .map(|_| {
            let began = Instant::now();
            let answered = client
                .try_send("GET", "/connections", b"")
                .expect("an answer");
            assert_eq!(answered.status, 200);
            std::thread::sleep(Duration::from_millis(5));
            (began.elapsed() - Duration::from_millis(5)).as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    progress(&format!(
        "{:.1} % of both cores, {memory:.1} MiB; GET /connections p50 {p50:.2}, p99 {p99:.2} ms",
        share * 100.0
    ));
    let note = "500 connections, 300 rules at 500 msg/s, 2000 stopped rules".to_owned();
    vec![
        Row::plain(
            "a large plant, CPU",
            "% of 2 cores",
            share * 100.0,
            note.clone(),
        ),
        Row::plain("a large plant, resident", "MB", memory, note),
        Row::new(
            "GET /connections with 500 that reconnect, p99",
            "ms",
            20.0,
            5.0,
            p99,
            format!("p50 {p50:.2} ms"),
        ),
    ]
}

pub(crate) fn served() -> Vec<Row> {
    let mut broker = Mosquitto::start();
    let mut windlass = Windlass::serve(&[]);
    let mut client = windlass.rest();
    client.must_post("/connections", &connection("plant", &broker), 201);
    client.must_put(
        "/metadata/sources/mqtt/confKeys/k",
        &json!({ "connectionSelector": "plant", "qos": 1 }),
        200,
    );
    let sql = r#"CREATE STREAM demo () WITH (DATASOURCE="in/#", CONF_KEY="k", TYPE="mqtt", SHARED="TRUE")"#;
    client.must_post("/streams", &json!({ "sql": sql }), 201);
    let mut rows = stopped(&mut windlass, &mut client);
    let mut client = windlass.rest();
    rows.extend(whole(&windlass, &mut client, &mut broker));
    rows
}
