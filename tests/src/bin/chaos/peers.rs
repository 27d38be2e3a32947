//! Peers that refuse, and peers that dawdle: R3, R6.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use windlass_tests::machine::{free_port, holds_within};
use windlass_tests::manifest::Manifest;
use windlass_tests::pusher::Push;
use windlass_tests::settings::START;
use windlass_tests::stand_in::{Script, StandIn};
use windlass_tests::windlass::Windlass;

use crate::trial::Trial;

/// Refuses each CONNECT with these bytes.
#[derive(Debug)]
struct Refuses(Vec<u8>);

impl Script for Refuses {
    fn connect(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn publish(&mut self, _: u8, _: u16, _: &[u8], _: &mut Vec<u8>) {}
}

/// Version, code, whether it will not change by itself, and a word that the reason must have.
const REFUSALS: &[(&str, u8, bool, &str)] = &[
    ("3.1.1", 1, true, "protocol"),
    ("3.1.1", 2, true, "identifier"),
    ("3.1.1", 3, false, "unavailable"),
    ("3.1.1", 4, true, "password"),
    ("3.1.1", 5, true, "authori"),
    ("5", 0x80, false, ""),
    ("5", 0x81, false, ""),
    ("5", 0x84, true, "protocol"),
    ("5", 0x85, true, "identifier"),
    ("5", 0x86, true, "password"),
    ("5", 0x87, true, "authori"),
    ("5", 0x88, false, "unavailable"),
    ("5", 0x89, false, "busy"),
    ("5", 0x8a, true, "banned"),
    ("5", 0x8c, true, ""),
    ("5", 0x95, false, ""),
    ("5", 0x97, false, "quota"),
    ("5", 0x9c, false, ""),
    ("5", 0x9d, false, ""),
    ("5", 0x9f, false, "rate"),
];

/// R3: brokers that refuse, each with its reason.
pub(crate) fn refused(trial: &mut Trial) {
    let seconds = trial.pick(20, 60);
    trial.did(format!(
        "{} brokers, each refusing with another code of MQTT 3.1.1 or 5, for {seconds} s",
        REFUSALS.len()
    ));
    let brokers: Vec<StandIn<Refuses>> = REFUSALS
        .iter()
        .map(|(version, code, ..)| {
            StandIn::start(Refuses(match *version {
                "5" => vec![0x20, 3, 0, *code, 0],
                _ => vec![0x20, 2, 0, *code],
            }))
        })
        .collect();
    let id = |version: &str, code: u8| format!("v{}-{code:02x}", version.len());
    let mut manifest = Manifest::new();
    for (broker, (version, code, ..)) in brokers.iter().zip(REFUSALS) {
        let props = json!({ "server": broker.url(), "clientid": "c", "protocolVersion": version,
            "username": "ann", "password": "wrong" });
        manifest = manifest.connection(&id(version, *code), "mqtt", props);
    }
    let windlass = Windlass::start(&manifest);
    std::thread::sleep(Duration::from_secs(seconds));
    let before = windlass.usage();
    for (broker, (version, code, permanent, word)) in brokers.iter().zip(REFUSALS) {
        let attempts = broker.dialled().len();
        let (status, reason) = windlass.connection(&id(version, *code)).unwrap_or_default();
        // A first attempt, one soon after it at most, and then every 30 to 60 s.
        let most = if *permanent {
            2 + seconds / 30
        } else {
            seconds
        };
        let passed = attempts as u64 <= most
            && attempts > 0
            && status != "connected"
            && !reason.is_empty()
            && reason.to_lowercase().contains(word);
        trial.check(
            &format!("MQTT {version}, code {code:#04x}"),
            format!("{attempts} attempts; {status}: {reason}"),
            format!(
                "{most} attempts at most, a reason{}",
                if word.is_empty() {
                    String::new()
                } else {
                    format!(" with `{word}`")
                }
            ),
            passed,
        );
    }
    let cpu = {
        let begin = windlass.usage().cpu;
        std::thread::sleep(Duration::from_secs(2));
        (windlass.usage().cpu - begin).as_secs_f64() / 2.0
    };
    trial.check(
        "CPU",
        format!("{:.1} % of a core", cpu * 100.0),
        "10 %",
        cpu < 0.1,
    );
    trial.grown(&windlass, before, 8);
}

/// Says a byte a second of what it was given, and notes how long each client bore it.
struct Dawdler {
    port: u16,
    borne: Arc<Mutex<Vec<f64>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dawdler {
    fn start(words: &'static [u8]) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("it listens");
        listener.set_nonblocking(true).expect("set");
        let (borne, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (borne, stop) = (Arc::clone(&borne), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut links = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((socket, _)) => {
                            let (borne, stop) = (Arc::clone(&borne), Arc::clone(&stop));
                            links.push(std::thread::spawn(move || {
                                dawdle(socket, words, &borne, &stop)
                            }));
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(10)),
                    }
                }
                for link in links {
                    drop(link.join());
                }
            })
        };
        Self {
            port,
            borne,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Dawdler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn dawdle(mut socket: TcpStream, words: &[u8], borne: &Mutex<Vec<f64>>, stop: &AtomicBool) {
    let begin = Instant::now();
    drop(socket.set_nonblocking(false));
    drop(socket.set_read_timeout(Some(Duration::from_millis(20))));
    let mut said = 0;
    let mut bytes = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        match socket.read(&mut bytes) {
            Ok(0) => break,
            Err(error)
                if !matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                break;
            }
            _ => {}
        }
        if begin.elapsed().as_secs_f64() > said as f64 + 1.0 && said < words.len() {
            if socket.write_all(&words[said..=said]).is_err() {
                break;
            }
            said += 1;
        }
    }
    if !stop.load(Ordering::Relaxed) {
        borne
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(begin.elapsed().as_secs_f64());
    }
}

/// R6: peers that say a byte a second, and clients that do.
pub(crate) fn dawdlers(trial: &mut Trial) {
    const CLIENTS: u64 = 500;
    trial.did(format!(
        "servers that say a byte a second of their CONNACK, their HTTP head, their nng greeting; and {CLIENTS} clients \
         that say a byte a second of their request to the data port"
    ));
    // A CONNACK of MQTT 5 with a long reason, so that its bytes do not run out.
    let mqtt =
        Dawdler::start(b"\x20\x40\x00\x00\x3d\x1f\x00\x3aslowslowslowslowslowslowslowslowslow");
    let http = Dawdler::start(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    let nng = Dawdler::start(b"\x00SP\x00\x00\x10\x00\x00");
    let port = free_port();
    let pull = json!({ "url": format!("http://127.0.0.1:{}", http.port), "interval": 100 });
    let manifest = Manifest::new()
        .section("push", json!({ "address": format!("127.0.0.1:{port}") }))
        .connection("mqtt", "mqtt", json!({ "server": format!("tcp://127.0.0.1:{}", mqtt.port), "protocolVersion": "5", "clientid": "c" }))
        .connection("nng", "nng", json!({ "url": format!("tcp://127.0.0.1:{}", nng.port) }))
        .conf_key("httppull", "pull", pull)
        .stream(r#"CREATE STREAM pull () WITH (TYPE="httppull", FORMAT="json", CONF_KEY="pull")"#)
        .stream(r#"CREATE STREAM pushed () WITH (TYPE="httppush", DATASOURCE="/in", FORMAT="json")"#)
        .rule("pull", "SELECT * FROM pull", json!([{ "nop": {} }]))
        .rule("pushed", "SELECT * FROM pushed", json!([{ "nop": {} }]));
    let windlass = Windlass::start(&manifest);
    windlass.wait_rule("pushed", "running", START);
    let served = holds_within(Duration::from_secs(10), || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    assert!(served, "the data port listens");
    let before = windlass.usage();
    let push = |count| {
        let begin = Instant::now();
        let pushed = Push {
            clients: 4,
            ..Push::new(port, "/in", count)
        }
        .start()
        .join(Duration::from_secs(30));
        (pushed.accepted.len() as u64, begin.elapsed().as_secs_f64())
    };
    push(200);
    let own = push(2000);
    let slow: Vec<TcpStream> = (0..CLIENTS)
        .filter_map(|_| TcpStream::connect(("127.0.0.1", port)).ok())
        .collect();
    let request = b"POST /in HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}";
    let begin = Instant::now();
    let talking = Arc::new(AtomicBool::new(true));
    let talker = {
        let mut slow: Vec<TcpStream> = slow
            .iter()
            .filter_map(|socket| socket.try_clone().ok())
            .collect();
        let talking = Arc::clone(&talking);
        std::thread::spawn(move || {
            for byte in request {
                if !talking.load(Ordering::Relaxed) {
                    return;
                }
                for socket in &mut slow {
                    drop(socket.write_all(&[*byte]));
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        })
    };
    let beside = push(2000);
    trial.check(
        "2000 pushes by 4 others",
        format!(
            "{} in {:.2} s beside {} in {:.2} s alone",
            beside.0, beside.1, own.0, own.1
        ),
        "all, no more than half as long again and 0.5 s",
        beside.0 == 2000 && beside.1 <= own.1 * 1.5 + 0.5,
    );
    // The listener cuts those whose head does not come.
    let open = |socket: &TcpStream| {
        drop(socket.set_nonblocking(true));
        let mut byte = [0];
        match socket.peek(&mut byte) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    };
    let cut = holds_within(Duration::from_secs(20), || {
        std::thread::sleep(Duration::from_millis(100));
        // An answer (408) may lie before the end.
        slow.iter().all(|socket| {
            let mut bytes = [0; 512];
            drop(socket.set_nonblocking(true));
            while matches!((&*socket).read(&mut bytes), Ok(read) if read > 0) {}
            !open(socket)
        })
    });
    let took = begin.elapsed().as_secs_f64();
    talking.store(false, Ordering::Relaxed);
    drop(talker.join());
    trial.check(
        "the slow clients are cut",
        format!("{cut}, after {took:.1} s"),
        "after 10 s and a little",
        cut && took < 14.0,
    );
    // Each server was borne for its connect timeout (5 s), or its timeout (5 s) for the request.
    holds_within(Duration::from_secs(20), || {
        [&mqtt, &http, &nng].iter().all(|dawdler| {
            dawdler
                .borne
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .len()
                >= 2
        })
    });
    for (name, dawdler) in [("MQTT", &mqtt), ("HTTP", &http), ("nng", &nng)] {
        let borne = dawdler
            .borne
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let longest = crate::trial::longest(&borne);
        trial.check(
            &format!("{name}: a server that dawdles is borne"),
            crate::trial::spread(&borne),
            "5 s and a little",
            longest < 6.5,
        );
    }
    trial.grown(&windlass, before, 16);
}
