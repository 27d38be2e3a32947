//! Names that lead nowhere, slowly, or to another place: R23.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use windlass_tests::load::{Subscribe, Subscriber};
use windlass_tests::machine::{free_port, holds_within};
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::resolver::{Answer, Resolver};
use windlass_tests::settings::warm;
use windlass_tests::windlass::Windlass;

use crate::trial::Trial;

/// Addresses where nobody answers a SYN: listeners whose backlog is full.
struct Dead {
    _runtime: tokio::runtime::Runtime,
    _listeners: Vec<tokio::net::TcpListener>,
    _waiting: Vec<tokio::net::TcpStream>,
}

impl Dead {
    fn at(addresses: &[Ipv4Addr], port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let (mut listeners, mut waiting) = (Vec::new(), Vec::new());
        runtime.block_on(async {
            for address in addresses {
                let address = SocketAddr::from((*address, port));
                let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
                socket.bind(address).expect("bound");
                listeners.push(socket.listen(0).expect("it listens"));
                for _ in 0..4 {
                    let connect = tokio::net::TcpStream::connect(address);
                    let limit = Duration::from_millis(100);
                    if let Ok(Ok(stream)) = tokio::time::timeout(limit, connect).await {
                        waiting.push(stream);
                    }
                }
            }
        });
        Self {
            _runtime: runtime,
            _listeners: listeners,
            _waiting: waiting,
        }
    }
}

/// R23: no such name, no answer, another address, ten addresses of which nine are dead.
pub(crate) fn names(trial: &mut Trial) {
    let silence = trial.pick(8, 30);
    trial.did(format!(
        "a name server that says there is no such name, nothing for {silence} s, one address and then another, ten \
         addresses of which the last one lives"
    ));
    let folder = tempfile::tempdir().expect("a folder");
    let resolver = match Resolver::start(folder.path(), Answer::NoSuchName) {
        Ok(resolver) => resolver,
        Err(reason) => return trial.cannot(reason),
    };
    // Two brokers on one port and two addresses of this machine.
    let port = free_port();
    let at = |address: &str| {
        Mosquitto::with(Broker {
            extra: format!("listener {port} {address}"),
            ..Broker::default()
        })
    };
    let (one, other) = (at("127.0.4.1"), at("127.0.4.2"));
    let far = [&one, &other]
        .map(|broker| Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1)));
    let url = format!("tcp://broker.test:{port}");
    let command = resolver.command();
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut windlass = Windlass::prepare(&warm(&url, &url, 1)).under(&words);
    windlass.up();
    let why = windlass.wait_connection("plant", "disconnected", Duration::from_secs(60));
    trial.check(
        "no such name",
        &why,
        "a reason that says it",
        why.contains("resolve"),
    );
    let asked = resolver.asked().len();
    std::thread::sleep(Duration::from_secs(4));
    let again = resolver.asked().len() - asked;
    trial.check("asked again in 4 s", again, "with each attempt", again >= 2);

    resolver.answer(Answer::Silence);
    std::thread::sleep(Duration::from_secs(silence));
    let (status, why) = windlass.connection("plant").unwrap_or_default();
    trial.check(
        "no answer",
        format!("{status}: {why}"),
        "a reason that says `resolve`",
        why.contains("resolve") && status != "connected",
    );
    trial.check(
        "it still runs",
        format!("{:?}", windlass.rule("warm")),
        "a rule",
        windlass.rule("warm").is_some(),
    );

    resolver.answer(Answer::Addresses(vec![Ipv4Addr::new(127, 0, 4, 1)]));
    let begin = Instant::now();
    let connected = |limit: u64| {
        holds_within(Duration::from_secs(limit), || {
            windlass
                .connection("plant")
                .is_some_and(|(status, _)| status == "connected")
        })
    };
    let there = connected(20);
    trial.check(
        "an address comes",
        format!("connected after {:.1} s", begin.elapsed().as_secs_f64()),
        "20 s at most",
        there,
    );
    std::thread::sleep(Duration::from_millis(300));
    trial.alive(one.port(), "in/1", &far[0], 0);

    // The name moves: the old place is gone.
    resolver.answer(Answer::Addresses(vec![Ipv4Addr::new(127, 0, 4, 2)]));
    drop(one);
    let begin = Instant::now();
    holds_within(Duration::from_secs(5), || {
        windlass
            .connection("plant")
            .is_some_and(|(status, _)| status != "connected")
    });
    let there = connected(15);
    trial.check(
        "another address",
        format!("connected after {:.1} s", begin.elapsed().as_secs_f64()),
        "15 s at most",
        there,
    );
    std::thread::sleep(Duration::from_millis(300));
    trial.alive(other.port(), "in/1", &far[1], 10);

    // Nine that answer nothing, then the one.
    let nine: Vec<Ipv4Addr> = (1..=9).map(|last| Ipv4Addr::new(127, 0, 5, last)).collect();
    let dead = Dead::at(&nine, port);
    let mut all = nine;
    all.push(Ipv4Addr::new(127, 0, 4, 2));
    resolver.answer(Answer::Addresses(all));
    windlass.kill();
    let begin = Instant::now();
    windlass.up();
    let there = holds_within(Duration::from_secs(30), || {
        windlass
            .connection("plant")
            .is_some_and(|(status, _)| status == "connected")
    });
    let took = begin.elapsed().as_secs_f64();
    trial.check(
        "ten addresses, nine dead",
        format!("connected after {took:.1} s"),
        "9 times 0.25 s and a start: 4 s at most",
        there && took <= 4.0,
    );
    drop(dead);
    if there {
        std::thread::sleep(Duration::from_millis(300));
        trial.alive(other.port(), "in/1", &far[1], 20);
    }
}
