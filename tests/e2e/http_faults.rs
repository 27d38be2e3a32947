//! HTTP as it is: servers that fail, stall, lie and go away. Nothing is lost, nothing storms, and the
//! status says what is the matter.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_tests::httpd::{Asked, Httpd, Reply};
use windlass_tests::load::Publish;
use windlass_tests::machine::{alone, free_port, holds_within, shared, short_or_long, wait_until};
use windlass_tests::manifest::Manifest;
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::nginx::Nginx;
use windlass_tests::oracle::{ranges, read_payload};
use windlass_tests::windlass::Windlass;

use crate::settings::{START, letters, wait_ready};

/// For what takes no longer than a second on an idle machine.
const SOON: Duration = Duration::from_secs(30);

/// All of `in/#` of a broker to a server, on a connection of the action's own.
fn posting(broker: &Mosquitto, rest: Value) -> Manifest {
    Manifest::new()
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule("all", "SELECT * FROM demo", json!([{ "rest": rest }]))
}

fn number(asked: &Asked) -> u64 {
    read_payload(&asked.body).expect("a numbered payload").0
}

/// A number from 0 to 99 that depends on nothing but these two.
fn chance(number: u64, attempt: u64) -> u64 {
    let mut x =
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ attempt.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    x ^= x >> 31;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x >> 33) % 100
}

/// What a server did to each message.
#[derive(Default)]
struct Deeds {
    attempts: HashMap<u64, u64>,
    taken: HashMap<u64, u64>,
    refused: HashMap<u64, u64>,
    /// Asked to wait a second, and not before it was over came the next try.
    waits: Vec<Duration>,
    asked_to_wait: HashMap<u64, Instant>,
    faults: [u64; 3],
}

#[test]
fn of_a_server_that_fails_a_third_of_all_requests_every_message_is_taken_or_a_dead_letter() {
    let _machine = alone();
    let count = short_or_long(5_000, 50_000);
    let broker = Mosquitto::start();
    let deeds = Arc::new(Mutex::new(Deeds::default()));
    let server = Httpd::start({
        let deeds = Arc::clone(&deeds);
        move |asked| {
            let mut deeds = deeds.lock().expect("no panic");
            let number = number(asked);
            let attempt = deeds.attempts.entry(number).or_default();
            *attempt += 1;
            let chance = chance(number, *attempt);
            if let Some(since) = deeds.asked_to_wait.remove(&number) {
                deeds.waits.push(asked.at - since);
            }
            if number % 997 == 5 {
                *deeds.refused.entry(number).or_default() += 1;
                return Reply::text(422, "no such machine");
            }
            match chance {
                0..30 => {
                    deeds.faults[0] += 1;
                    Reply::text(500, "try later")
                }
                30..35 => {
                    deeds.faults[1] += 1;
                    deeds.asked_to_wait.insert(number, Instant::now());
                    Reply::status(429).header("Retry-After", "1")
                }
                35 => {
                    deeds.faults[2] += 1;
                    Reply::Reset
                }
                _ => {
                    *deeds.taken.entry(number).or_default() += 1;
                    Reply::status(204)
                }
            }
        }
    });
    let rest = json!({ "url": server.url("/in"), "method": "post", "sendSingle": true, "resendInterval": 100 });
    let windlass = Windlass::start(&posting(&broker, rest));
    wait_ready(&windlass, &["plant"], &["all"]);
    let began = Instant::now();
    let sent = Publish::new(broker.port(), "in/1", 1)
        .count(count)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len() as u64, count);
    let refused = (0..count).filter(|number| number % 997 == 5).count();
    let all = || {
        let deeds = deeds.lock().expect("no panic");
        deeds.taken.len() + refused >= usize::try_from(count).expect("small")
    };
    let limit = Duration::from_secs(short_or_long(180, 1800));
    holds_within(limit, || {
        std::thread::sleep(Duration::from_millis(50));
        all()
    });
    let took = began.elapsed();
    let done = deeds.lock().expect("no panic");
    let lost: Vec<u64> = (0..count)
        .filter(|number| number % 997 != 5 && !done.taken.contains_key(number))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {count} lost: {}",
        lost.len(),
        ranges(&lost)
    );
    let doubled = done.taken.values().filter(|times| **times > 1).count();
    let shortest = done.waits.iter().min().copied().unwrap_or_default();
    let longest = done.waits.iter().max().copied().unwrap_or_default();
    println!(
        "{count} messages in {took:.1?}: {} times 500, {} times 429, {} resets; {doubled} twice; Retry-After 1 s kept {} times, {shortest:.2?} to {longest:.2?}",
        done.faults[0],
        done.faults[1],
        done.faults[2],
        done.waits.len()
    );
    // A timer and a network: a hundredth of a second of grace.
    assert!(shortest >= Duration::from_millis(990), "{shortest:?}");
    assert!(
        done.waits.len() as u64 >= count / 50,
        "429 was answered often enough to mean something"
    );
    // Whatever was taken was answered, so that nothing comes twice but by a lost answer; there is none.
    assert_eq!(doubled, 0);
    assert!(
        done.refused.values().all(|times| *times == 1),
        "a refused message is tried once"
    );
    drop(done);
    wait_until(SOON, "what was refused is a dead letter", || {
        letters(&windlass).len() >= refused
    });
    let kept = letters(&windlass);
    assert_eq!(kept.len(), refused);
    for letter in &kept {
        let text = letter.to_string();
        assert!(text.contains("HTTP 422: no such machine"), "{text}");
    }
}

#[test]
fn a_server_that_is_not_there_goes_away_and_comes_back_loses_nothing_of_two_rules() {
    let _machine = alone();
    let broker = Mosquitto::start();
    let taken = Arc::new(Mutex::new((Vec::<(Instant, u64)>::new(), Vec::new())));
    let mut server = Httpd::prepare({
        let taken = Arc::clone(&taken);
        move |asked| {
            let mut taken = taken.lock().expect("no panic");
            let one = (Instant::now(), number(asked));
            match asked.target.as_str() {
                "/in/a" => taken.0.push(one),
                _ => taken.1.push(one),
            }
            Reply::status(204)
        }
    });
    let action = |path: &str| json!([{ "rest": { "connectionSelector": "api", "path": path, "method": "post", "sendSingle": true } }]);
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .connection("api", "http", json!({ "url": server.url("/in") }))
        .mqtt_stream("demo", "plant", "in/#", 1, true)
        .rule("a", "SELECT * FROM demo", action("a"))
        .rule("b", "SELECT * FROM demo", action("b"));
    let windlass = Windlass::start(&manifest);
    let why = windlass.wait_connection("api", "disconnected", START);
    assert!(
        why.contains("cannot be reached") && why.contains("refused"),
        "{why}"
    );
    wait_ready(&windlass, &["plant"], &["a", "b"]);
    let publisher = Publish::new(broker.port(), "in/1", 1).rate(400).start();
    std::thread::sleep(Duration::from_secs(1));
    // The first that comes after this moment, by both rules.
    let back = |server: &mut Httpd| {
        server.up();
        let up = Instant::now();
        let first = |list: &[(Instant, u64)]| {
            list.iter()
                .find(|(at, _)| *at >= up)
                .map(|(at, _)| *at - up)
        };
        wait_until(SOON, "both rules deliver", || {
            let taken = taken.lock().expect("no panic");
            first(&taken.0).is_some() && first(&taken.1).is_some()
        });
        let taken = taken.lock().expect("no panic");
        first(&taken.0)
            .max(first(&taken.1))
            .expect("both are there")
    };
    let at_first = back(&mut server);
    windlass.wait_connection("api", "connected", SOON);
    std::thread::sleep(Duration::from_secs(1));
    server.kill();
    let why = windlass.wait_connection("api", "connecting", SOON);
    assert!(!why.is_empty());
    std::thread::sleep(Duration::from_secs(5));
    let (status, why) = windlass.connection("api").expect("it is shown");
    assert_eq!(status, "connecting", "{why}");
    assert!(why.contains("cannot be reached"), "{why}");
    let again = back(&mut server);
    let why = windlass.wait_connection("api", "connected", SOON);
    assert_eq!(why, "");
    std::thread::sleep(Duration::from_secs(1));
    let sent = publisher.stop();
    let count = sent.acknowledged.len() as u64;
    let missing = || {
        let taken = taken.lock().expect("no panic");
        [&taken.0, &taken.1].map(|list| {
            let there: std::collections::BTreeSet<u64> =
                list.iter().map(|(_, number)| *number).collect();
            (0..count)
                .filter(|number| !there.contains(number))
                .collect::<Vec<u64>>()
        })
    };
    holds_within(SOON, || missing().iter().all(Vec::is_empty));
    let missing = missing();
    assert!(
        missing.iter().all(Vec::is_empty),
        "of {count}: a lost {}, b lost {}",
        ranges(&missing[0]),
        ranges(&missing[1])
    );
    let extra = taken.lock().expect("no panic").0.len() as u64 - count;
    println!(
        "{count} messages by each rule; first message {at_first:.2?} and {again:.2?} after the server was (back) up; {extra} twice by one rule"
    );
    assert!(at_first < Duration::from_secs(2) && again < Duration::from_secs(2));
    assert!(extra <= 32, "no more than what was under way: {extra}");
}

#[test]
fn a_server_that_fails_for_a_while_is_left_alone_and_the_circuit_is_shown() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let well = Arc::new(AtomicBool::new(false));
    let server = Httpd::start({
        let well = Arc::clone(&well);
        move |_| {
            Reply::status(if well.load(Ordering::SeqCst) {
                204
            } else {
                503
            })
        }
    });
    let manifest = Manifest::new()
        .mqtt("plant", &broker.url())
        .connection("api", "http", json!({ "url": server.url("/in"), "maxInFlight": 4 }))
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule(
            "all",
            "SELECT * FROM demo",
            json!([{ "rest": { "connectionSelector": "api", "method": "post", "sendSingle": true } }]),
        );
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant", "api"], &["all"]);
    let sent = Publish::new(broker.port(), "in/1", 1)
        .count(500)
        .start()
        .join();
    assert_eq!(sent.acknowledged.len(), 500);
    wait_until(SOON, "the circuit is open", || {
        let shown = windlass.warnings("api");
        shown
            .iter()
            .any(|it| it.contains("circuit is open") && it.contains("HTTP 503"))
    });
    let at_first = server.count();
    std::thread::sleep(Duration::from_secs(8));
    let tries = server.count() - at_first;
    println!("{at_first} requests until the circuit was open, {tries} in 8 s after that");
    // Five in a row, and what was under way beside them.
    assert!(at_first <= 5 + 4 + 1, "{at_first}");
    assert!((1..=5).contains(&tries), "{tries}");
    let (status, err) = windlass.connection("api").expect("shown");
    assert_eq!(
        (status.as_str(), err.as_str()),
        ("connected", ""),
        "it answers"
    );
    // Half open it is only while its one try is under way.
    assert!(
        windlass
            .warnings("api")
            .iter()
            .any(|it| it.contains("circuit"))
    );
    well.store(true, Ordering::SeqCst);
    let taken = || {
        let asked = server.asked();
        (0..500).all(|n| {
            asked
                .iter()
                .skip(at_first + tries)
                .any(|one| number(one) == n)
        })
    };
    wait_until(SOON, "all is there", || {
        std::thread::sleep(Duration::from_millis(50));
        taken()
    });
    assert!(letters(&windlass).is_empty());
}

#[test]
fn each_peer_that_is_none_shows_why_and_is_not_stormed() {
    let _machine = shared();
    let refuses = Httpd::start(|_| Reply::text(401, "who are you?"));
    let talks = Httpd::start(|_| Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()));
    let silent = Httpd::start(|_| Reply::Silence);
    let plain = Nginx::start(false, None, "");
    let token =
        Httpd::start(|_| Reply::text(400, "{\"error\":\"invalid_client\",\"secret\":\"geheim\"}"));
    let oauth = json!({ "clientCredentials": { "url": token.url("/token"), "clientId": "a", "clientSecret": "geheim" } });
    let props = [
        (
            "gone",
            json!({ "url": format!("http://127.0.0.1:{}", free_port()) }),
        ),
        ("lost", json!({ "url": "http://no-such-host.invalid/" })),
        (
            "clear",
            json!({ "url": plain.url("").replace("http:", "https:") }),
        ),
        (
            "who",
            json!({ "url": refuses.url("/"), "username": "ann", "password": "geheim" }),
        ),
        ("ssh", json!({ "url": talks.url("/") })),
        ("mute", json!({ "url": silent.url("/"), "timeout": 300 })),
        ("token", json!({ "url": plain.url("/"), "oauth": oauth })),
    ];
    let mut manifest = Manifest::new()
        .conf_key("simulator", "demo", json!({ "interval": 100 }))
        .stream(r#"CREATE STREAM demo () WITH (TYPE="simulator", FORMAT="json", CONF_KEY="demo", SHARED="true")"#);
    for (id, props) in props {
        let action =
            json!([{ "rest": { "connectionSelector": id, "method": "post", "sendSingle": true } }]);
        manifest = manifest
            .connection(id, "http", props)
            .rule(id, "SELECT * FROM demo", action);
    }
    let windlass = Windlass::start(&manifest);
    let begin = Instant::now();
    for (id, status, words) in [
        ("gone", "disconnected", "cannot be reached"),
        ("lost", "disconnected", "cannot be resolved"),
        ("clear", "disconnected", "does not speak TLS"),
        (
            "token",
            "disconnected",
            "the token endpoint refuses: HTTP 400",
        ),
        // These take a connection: only a request shows what they are.
        ("who", "connecting", "refuses the credentials"),
        ("ssh", "connecting", "does not speak HTTP"),
        ("mute", "connecting", "does not answer"),
    ] {
        let shown = holds_within(START, || {
            let changes = windlass.changes();
            changes
                .iter()
                .any(|(_, whose, now, why)| whose == id && now == status && why.contains(words))
        });
        assert!(
            shown,
            "{id}: {:?}",
            windlass
                .changes()
                .iter()
                .filter(|it| it.1 == id)
                .collect::<Vec<_>>()
        );
    }
    let seen = begin.elapsed();
    std::thread::sleep(Duration::from_secs(5));
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "all shown after {seen:.1?}; connections taken in {seconds:.0} s: credentials {}, ssh {}, mute {}, token {}",
        refuses.accepted().len(),
        talks.accepted().len(),
        silent.accepted().len(),
        token.count()
    );
    // Slow where somebody has said no: a dial and a request.
    assert!(refuses.count() <= 2 && refuses.accepted().len() <= 4);
    assert!(token.count() <= 2, "{}", token.count());
    assert!((silent.accepted().len() as f64) < 10.0 + 6.0 * seconds);
    assert!(
        !windlass.log().contains("geheim")
            && !format!("{:?}", windlass.changes()).contains("geheim")
    );
    for id in ["gone", "lost", "clear", "who", "ssh", "mute", "token"] {
        let (status, _) = windlass.rule(id).expect("shown");
        assert_eq!(status, "running", "{id}");
    }
    assert!(
        letters(&windlass).is_empty(),
        "nothing is lost to a bad peer"
    );
}

#[test]
fn answers_that_are_too_large_or_malformed_are_bounded_and_tried_again() {
    let _machine = shared();
    // A bomb: 64 MiB of spaces in 64 KiB.
    let bomb = {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "head -c 67108864 /dev/zero | tr '\\0' ' ' | gzip -9"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(child.stdout.as_mut().expect("piped"), &mut bytes)
            .expect("read");
        assert!(child.wait().is_ok_and(|status| status.success()));
        bytes
    };
    assert!(bomb.len() < 200_000);
    let turn = AtomicU64::new(0);
    let server = Httpd::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Answer(200, Vec::new(), bomb.clone()).header("Content-Encoding", "gzip"),
        1 => Reply::text(200, "no gzip at all").header("Content-Encoding", "gzip"),
        2 => Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".to_vec()),
        3 => Reply::Raw([b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 1 << 20]].concat()),
        4 => Reply::Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec()),
        5 => Reply::After(Duration::from_millis(900), Box::new(Reply::text(200, "{}"))),
        _ => Reply::text(200, r#"{"seq":1}"#),
    });
    let sink = Httpd::start(|_| Reply::status(204));
    let manifest = Manifest::new()
        .conf_key("httppull", "pull", json!({ "url": server.url("/"), "interval": 50, "timeout": 500, "maxBodyBytes": 100_000 }))
        .stream(r#"CREATE STREAM pull () WITH (TYPE="httppull", FORMAT="json", CONF_KEY="pull")"#)
        .rule("all", "SELECT * FROM pull", json!([{ "rest": { "url": sink.url("/in"), "method": "post", "sendSingle": true } }]));
    let windlass = Windlass::start(&manifest);
    windlass.wait_rule("all", "running", START);
    wait_until(
        Duration::from_secs(60),
        "a good answer comes through",
        || sink.count() > 0,
    );
    assert!(
        sink.asked()
            .iter()
            .all(|asked| asked.text() == r#"{"seq":1}"#)
    );
    let resident = windlass.usage().resident;
    assert!(resident < 120 << 20, "{resident} bytes");
}
