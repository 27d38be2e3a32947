//! Clients that mean no good, or cannot do better: malformed requests, bodies over the limit, slow and
//! silent ones. Nothing panics, nothing changes, and others do not notice.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_tests::machine::{alone, short_or_long, wait_until};
use windlass_tests::pusher::Client;
use windlass_tests::rest::Rest;
use windlass_tests::windlass::Windlass;

/// A 99th percentile that no busy machine explains, only somebody who waits for somebody else.
const STANDSTILL: Duration = Duration::from_millis(500);

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % most.max(1) as u64).expect("small")
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most) + 1;
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// Another client, which asks all the time and notes how long each answer takes.
struct Bystander {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Bystander {
    fn watch(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut took = Vec::new();
            let mut client = Client::new(port);
            while !ended.load(Ordering::Relaxed) {
                let began = Instant::now();
                // Now and then a new connection, as most clients do.
                if took.len() % 10 == 9 {
                    client = Client::new(port);
                }
                let answered = client
                    .send("GET", "/connections", &[], b"")
                    .expect("it is answered");
                assert_eq!(answered.status, 200, "{}", answered.body);
                took.push(began.elapsed());
                std::thread::sleep(Duration::from_millis(5));
            }
            took
        });
        Self { stop, thread }
    }

    /// Ends it; answers median and 99th percentile.
    fn end(self, what: &str) -> (Duration, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.thread.join().expect("the bystander was answered");
        took.sort();
        let (median, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        println!(
            "{what}: {} requests beside it, p50 {median:?}, p99 {p99:?}, worst {:?}",
            took.len(),
            took[took.len() - 1]
        );
        (median, p99)
    }
}

/// A server with something of everything: a connection that is down, conf keys, a stream, a rule that
/// runs, one that does not.
fn server() -> (Windlass, Rest) {
    let windlass = Windlass::serve(&[]);
    let mut rest = windlass.rest();
    let dead = json!({ "id": "plant", "typ": "mqtt", "props": { "server": "tcp://127.0.0.1:9", "username": "u", "password": "hush-hush" } });
    rest.must_post("/connections", &dead, 201);
    rest.must_put(
        "/metadata/sources/mqtt/confKeys/one",
        &json!({ "qos": 1 }),
        200,
    );
    let sql = r#"CREATE STREAM demo () WITH (TYPE="simulator", FORMAT="json")"#;
    rest.must_post("/streams", &json!({ "sql": sql }), 201);
    for (id, triggered) in [("runs", true), ("rests", false)] {
        let rule = json!({ "id": id, "sql": "SELECT * FROM demo", "triggered": triggered, "tags": ["t"], "actions": [{ "nop": {} }] });
        rest.must_post("/rules", &rule, 201);
    }
    rest.wait(
        "/rules/runs/status",
        Duration::from_secs(60),
        "it has read",
        |status| status["source_demo_0_records_in_total"].as_u64() > Some(0),
    );
    (windlass, rest)
}

/// All that is defined, and what runs.
fn state(rest: &mut Rest) -> Value {
    let mut all = Vec::new();
    let (_, connections) = rest.get("/connections");
    for one in connections.as_array().into_iter().flatten() {
        all.push(json!([one["id"], one["typ"], one["props"], one["users"]]));
    }
    let (_, rules) = rest.get("/rules");
    for one in rules.as_array().into_iter().flatten() {
        let id = one["id"].as_str().unwrap_or_default();
        all.push(json!([one, rest.get(&format!("/rules/{id}")).1]));
    }
    for path in [
        "/streams",
        "/streamdetails",
        "/streams/demo",
        "/connectors",
        "/metadata/sources/yaml/mqtt",
        "/metadata/sinks/yaml/mqtt",
        "/deadletters",
    ] {
        all.push(rest.get(path).1);
    }
    Value::Array(all)
}

/// What a server should hold afterwards: the same, alive, without a panic, and no larger.
fn is_unharmed(windlass: &Windlass, rest: &mut Rest, before: &Value, sockets: usize) {
    assert_eq!(
        state(rest).to_string(),
        before.to_string(),
        "the state is the same"
    );
    let read = |rest: &mut Rest| {
        rest.get("/rules/runs/status").1["source_demo_0_records_in_total"].as_u64()
    };
    let first = read(rest);
    wait_until(Duration::from_secs(10), "the rule goes on", || {
        read(rest) > first
    });
    assert!(!windlass.log().contains("panicked"), "{}", windlass.log());
    assert!(
        !windlass.log().contains("hush-hush"),
        "a secret is in the log"
    );
    wait_until(Duration::from_secs(20), "the sockets are closed", || {
        handles(windlass) <= sockets + 3
    });
}

fn handles(windlass: &Windlass) -> usize {
    windlass.usage().files
}

/// Sends these bytes on a connection of their own, and nothing more; the first status of the answer.
fn throw(port: u16, bytes: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a limit");
    // It may refuse in the middle, and close.
    stream.write_all(bytes).ok();
    stream.shutdown(Shutdown::Write).ok();
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while answer.len() < 64 * 1024 {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            Err(error) => {
                let is_late = matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                );
                assert!(
                    !is_late,
                    "neither answered nor closed: {:?}",
                    String::from_utf8_lossy(&bytes[..bytes.len().min(200)])
                );
                break;
            }
        }
    }
    let text = String::from_utf8_lossy(&answer);
    text.strip_prefix("HTTP/1.1 ")
        .or_else(|| text.strip_prefix("HTTP/1.0 "))?
        .get(..3)?
        .parse()
        .ok()
}

/// Requests that are none.
fn raw(dice: &mut Dice) -> Vec<u8> {
    const GOOD: &[u8] = b"POST /connections HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]";
    let head =
        |rest: &str| format!("POST /rules HTTP/1.1\r\nHost: 127.0.0.1\r\n{rest}").into_bytes();
    match dice.below(16) {
        0 => dice.bytes(2000),
        1..=3 => {
            let mut bytes = GOOD.to_vec();
            for _ in 0..=dice.below(4) {
                let at = dice.below(bytes.len());
                bytes[at] = dice.next().to_le_bytes()[0];
            }
            bytes
        }
        4 => GOOD[..dice.below(GOOD.len())].to_vec(),
        5 => head(dice.pick(&[
            "Content-Length: 99999999999999999999\r\n\r\n{}",
            "Content-Length: -1\r\n\r\n{}",
            "Content-Length: 1, 2\r\n\r\n{}",
            "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
            "Content-Length: 0x2\r\n\r\n{}",
            "Content-Length: 18446744073709551615\r\n\r\n{}",
            "Content-Length: 400000000\r\n\r\n{}",
        ])),
        6 => head(dice.pick(&[
            "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
            "Transfer-Encoding: chunked\r\n\r\n2;x=\x01\r\n{}\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
            "Transfer-Encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "Transfer-Encoding: gzip\r\n\r\n{}",
            "Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: \r\n y\r\n\r\n",
        ])),
        7 => format!(
            "GET /{} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            "a".repeat(1 << 20)
        )
        .into_bytes(),
        8 => format!(
            "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: {}\r\n\r\n",
            "a".repeat(1 << 20)
        )
        .into_bytes(),
        9 => format!(
            "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n{}\r\n",
            "X: y\r\n".repeat(2000)
        )
        .into_bytes(),
        10 => head(dice.pick(&[
            "X\0Y: z\r\nContent-Length: 2\r\n\r\n{}",
            "X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
            ": z\r\nContent-Length: 2\r\n\r\n{}",
            "X y: z\r\nContent-Length: 2\r\n\r\n{}",
            "\r\n\r\n\r\n",
            " folded: z\r\nContent-Length: 2\r\n\r\n{}",
            "Expect: 100-continue, nothing\r\nContent-Length: 2\r\n\r\n{}",
            "Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\n{}",
        ])),
        11 => {
            let target = dice.pick(&[
                "*",
                "//",
                "/%00",
                "/%ff%fe",
                "/rules/%2e%2e%2f",
                "/rules/%",
                "/rules/%zz",
                "http://127.0.0.1/rules/x",
                "/..//../etc/passwd",
                "/rules?%ff=%00&&&=",
                "\\rules",
                "/rules/\u{7f}",
            ]);
            let method = dice.pick(&[
                "GET", "DELETE", "PUT", "OPTIONS", "TRACE", "CONNECT", "FOO", "get", "G\0T",
            ]);
            format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
                .into_bytes()
        }
        12 => {
            let version = dice.pick(&[
                "HTTP/0.9",
                "HTTP/1.0",
                "HTTP/3.0",
                "HTTP/1.1x",
                "http/1.1",
                "",
            ]);
            format!("GET /rules {version}\r\nHost: 127.0.0.1\r\n\r\n").into_bytes()
        }
        13 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        14 => b"GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(50),
        // A client that speaks TLS to a port that does not.
        _ => [
            &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..],
            &dice.bytes(500),
        ]
        .concat(),
    }
}

/// Bodies that no operation can take: none is an object with all that it needs.
fn body(dice: &mut Dice) -> Vec<u8> {
    let deep = |open: &str, close: &str| {
        format!("{}1{}", open.repeat(10_000), close.repeat(10_000)).into_bytes()
    };
    match dice.below(22) {
        0 => deep("[", "]"),
        1 => deep("{\"a\":", "}"),
        2 => b"{\"id\":\"a\",\"id\":\"b\",\"sql\":\"a\",\"sql\":\"b\"}".to_vec(),
        3 => format!("{{\"id\":\"{}\"}}", "x".repeat(1 << 20)).into_bytes(),
        4 => format!("{{\"{}\":1}}", "x".repeat(1 << 20)).into_bytes(),
        5 => b"{\"id\":\"a\\u0000b\",\"typ\":\"mqtt\\u0000\",\"sql\":\"\\u0000\"}".to_vec(),
        6 => b"{\"id\":\"\xff\xfe\"}".to_vec(),
        7 => b"\xef\xbb\xbf{}".to_vec(),
        8 => b"{\"id\":\"\\ud800\"}".to_vec(),
        9 => b"{\"id\":1e999}".to_vec(),
        10 => b"{\"id\":1,\"typ\":2,\"props\":3,\"sql\":4,\"actions\":5,\"options\":6}".to_vec(),
        11 => b"{\"id\":[],\"typ\":{},\"props\":[],\"sql\":[],\"actions\":{},\"tags\":7}".to_vec(),
        12 => b"{\"id\":null,\"typ\":null,\"sql\":null,\"actions\":null,\"tags\":null}".to_vec(),
        13 => b"{\"id\":\"x\",\"typ\":\"no-such-type\",\"props\":{}}".to_vec(),
        14 => {
            b"{\"id\":\"x\",\"sql\":\"SELECT * FROM nothing\",\"actions\":[{\"nop\":{}}]}".to_vec()
        }
        15 => format!("{{\"sql\":\"CREATE STREAM {} (\"}}", "(".repeat(5000)).into_bytes(),
        16 => format!(
            "{{\"id\":\"x\",\"sql\":\"SELECT {} FROM demo\",\"actions\":[{{\"nop\":{{}}}}]}}",
            "(".repeat(5000)
        )
        .into_bytes(),
        17 => b"nul".to_vec(),
        18 => b"[] []".to_vec(),
        19 => Vec::new(),
        20 => dice.bytes(300),
        _ => format!("[{}]", "0,".repeat(50_000)).into_bytes(),
    }
}

/// Operations as the server describes them; a stream of events has no end, and the check of a
/// connection dials whatever it is told to; and not to be ready is no failure.
fn operations(rest: &mut Rest) -> Vec<(String, String)> {
    let (_, document) = rest.get("/openapi.json");
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("operations").keys() {
            if path != "/events" && path != "/readyz" && !path.ends_with("/check") {
                found.push((method.to_uppercase(), path.clone()));
            }
        }
    }
    assert!(found.len() > 40, "{found:?}");
    found
}

/// The path with odd values in it, none of them the id of anything.
fn filled(dice: &mut Dice, path: &str) -> String {
    let mut text = String::new();
    for part in path.split('/').skip(1) {
        text.push('/');
        if part.starts_with('{') {
            let long = "x".repeat(5000);
            let odd = [
                "nothing",
                "%00",
                "%ff",
                "..%2f..",
                "a%20b",
                "-1",
                "99999999999999999999",
                "%F0%9F%92%A5",
                "'%20OR%201=1--",
                "%7B%7D",
                &long,
            ];
            text.push_str(dice.pick(&odd));
        } else {
            text.push_str(part);
        }
    }
    if dice.below(4) == 0 {
        text.push_str(dice.pick(&[
            "?",
            "?forceAll=maybe",
            "?limit=-1",
            "?limit=99999999999999999999",
            "?after=x&since=y",
            "?%ff=%00",
            "?force=%00",
            "?kind=&kind=",
        ]));
    }
    text
}

#[test]
fn malformed_requests_change_nothing_and_nobody_notices_them() {
    let _machine = alone();
    let count: usize = short_or_long(10_000, 200_000);
    let (windlass, mut rest) = server();
    let port = windlass.rest_port();
    let before = state(&mut rest);
    let operations = operations(&mut rest);
    let sockets = handles(&windlass);
    let quiet = Bystander::watch(port);
    std::thread::sleep(Duration::from_secs(1));
    let (_, calm) = quiet.end("quiet");

    let beside = Bystander::watch(port);
    let began = Instant::now();
    let mut dice = Dice(0x5EED_0F5E_D0F5_EED1);
    let mut statuses: BTreeMap<String, u64> = BTreeMap::new();
    let mut took = Vec::new();
    let mut client = Client::new(port);
    for number in 0..count {
        let status = if number % 3 == 0 {
            throw(port, &raw(&mut dice))
        } else {
            let (method, path) = &operations[dice.below(operations.len())];
            let path = filled(&mut dice, path);
            // What has no body at all would be done.
            let body = body(&mut dice);
            let is_bulk = path.starts_with("/rules/bulk") || path.starts_with("/deadletters");
            if is_bulk && method != "GET" && !path.contains("{id}") {
                continue;
            }
            let encoding: &[(&str, &str)] = match dice.below(12) {
                0 => &[("Content-Encoding", "gzip")],
                1 => &[("Content-Encoding", "br")],
                2 => &[("If-Match", "\"")],
                3 => &[("If-None-Match", "W/\"x\", *")],
                4 => &[("Authorization", "Bearer a.b.c")],
                _ => &[],
            };
            let sent = Instant::now();
            let answered = client.send(method, &path, encoding, &body);
            took.push(sent.elapsed());
            match answered {
                Ok(answered) => {
                    assert!(
                        answered.status < 500,
                        "{method} {path}: {} {}",
                        answered.status,
                        answered.body
                    );
                    let is_error = answered.status >= 400 && answered.status != 422;
                    let envelope = serde_json::from_str::<Value>(&answered.body);
                    assert!(
                        !is_error
                            || envelope.is_ok_and(
                                |body| body["message"].is_string() && body["error"].is_u64()
                            ),
                        "{method} {path}: {} {}",
                        answered.status,
                        answered.body
                    );
                    Some(answered.status)
                }
                // It closed while a long body was on its way.
                Err(_) => None,
            }
        };
        assert!(
            status.is_none_or(|status| status < 500),
            "{number}: {status:?}"
        );
        let name = status.map_or("closed".to_owned(), |status| status.to_string());
        *statuses.entry(name).or_default() += 1;
    }
    took.sort();
    println!(
        "{count} malformed requests in {:?}: {statuses:?}; p50 {:?}, p99 {:?}",
        began.elapsed(),
        took[took.len() / 2],
        took[took.len() * 99 / 100]
    );
    let (_, p99) = beside.end("beside them");
    assert!(
        p99 < STANDSTILL.max(calm * 10),
        "others waited: p99 {p99:?}"
    );
    assert!(
        statuses.keys().filter(|name| name.starts_with('4')).count() >= 3,
        "{statuses:?}"
    );
    is_unharmed(&windlass, &mut rest, &before, sockets);
}

#[test]
fn bodies_over_the_limit_and_slow_or_silent_clients_do_not_hold_up_others() {
    let _machine = alone();
    let (windlass, mut rest) = server();
    let port = windlass.rest_port();
    let before = state(&mut rest);
    let sockets = handles(&windlass);
    let resident = windlass.usage().resident;

    // Over the limit, by word and by deed.
    let head = "POST /rules HTTP/1.1\r\nHost: 127.0.0.1\r\n";
    let promised = format!("{head}Content-Length: 16777217\r\n\r\n{{");
    assert_eq!(throw(port, promised.as_bytes()), Some(413));
    let mut long = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    let mebibyte = [
        b"100000\r\n".to_vec(),
        vec![b' '; 1 << 20],
        b"\r\n".to_vec(),
    ]
    .concat();
    for _ in 0..17 {
        long.extend_from_slice(&mebibyte);
    }
    assert!(matches!(throw(port, &long), Some(413) | None));

    let beside = Bystander::watch(port);
    // More than there are places, half of them with the beginning of a head; and slow bodies, and
    // clients that ask for much and read nothing.
    let mut silent = Vec::new();
    for number in 0..600 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
        if number % 2 == 0 {
            stream
                .write_all(b"GET /rules HTTP/1.1\r\nHos")
                .expect("a few bytes");
        }
        silent.push(stream);
    }
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
        stream
            .write_all(format!("{head}Content-Length: 1000\r\n\r\n").as_bytes())
            .expect("a head");
        slow.push(stream);
    }
    let mut deaf = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
        stream.set_nonblocking(true).expect("a socket");
        let asks = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(200);
        // It takes what fits.
        stream.write_all(&asks).ok();
        deaf.push(stream);
    }
    let until = Instant::now() + Duration::from_secs(short_or_long(5, 45));
    while Instant::now() < until {
        for stream in &mut slow {
            // The server has cut it.
            stream.write_all(b" ").ok();
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    let (_, p99) = beside.end("600 silent, 50 slow, 20 deaf clients");
    assert!(p99 < STANDSTILL, "others waited: p99 {p99:?}");
    if windlass_tests::machine::long() {
        for stream in &mut slow {
            stream
                .set_read_timeout(Some(Duration::from_secs(1)))
                .expect("a limit");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 408");
        }
        wait_until(Duration::from_secs(20), "all of them were cut", || {
            handles(&windlass) <= sockets + 3
        });
    }
    drop((silent, slow, deaf));
    is_unharmed(&windlass, &mut rest, &before, sockets);
    let grown = windlass.usage().resident.saturating_sub(resident);
    println!("resident {} KiB more than before", grown / 1024);
    assert!(grown < 96 << 20, "{grown} bytes more");
}
