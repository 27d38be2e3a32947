//! Disks that are full, files that are damaged: R17, R19.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use windlass_tests::disk::SmallDisk;
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::holds_within;
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::{Broker, Mosquitto};
use windlass_tests::oracle::{Judge, Ledger};
use windlass_tests::settings::{START, wait_ready};
use windlass_tests::stand_in::{Script, StandIn};
use windlass_tests::windlass::Windlass;
use windlass_tests::wire::acknowledge;

use crate::trial::{Counted, Trial, longest, spread};

/// A broker that takes everything.
#[derive(Debug)]
struct Takes(Ledger);

impl Script for Takes {
    fn publish(&mut self, _: u8, id: u16, payload: &[u8], out: &mut Vec<u8>) {
        self.0.enter(payload);
        acknowledge(out, 0x40, id);
    }
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Replaces a folder by a copy of another.
fn restore(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("a folder can be removed");
    }
    for file in files(from) {
        let copy = to.join(file.strip_prefix(from).expect("below"));
        fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder can be made");
        fs::copy(&file, &copy).expect("a file can be copied");
    }
}

/// What is done to the files of the queue, and how many messages that may cost.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(usize),
    Truncate(usize),
    Zero(usize),
    /// The content of two files is exchanged.
    Swap,
}

impl Damage {
    fn kind(self) -> &'static str {
        match self {
            Self::Flip(_) => "a flipped byte",
            Self::Truncate(_) => "a cut",
            Self::Zero(_) => "a page of zeroes",
            Self::Swap => "two files exchanged",
        }
    }

    /// Does it; answers how many messages may be lost.
    fn apply(self, segments: &[(PathBuf, usize)]) -> u64 {
        const PAGE: usize = 4096;
        let (file, records) = &segments[0];
        let mut bytes = fs::read(file).expect("a segment");
        let record = bytes.len() / (*records).max(1);
        let lost = match self {
            Self::Flip(at) => {
                bytes[at] ^= 1 << (at % 8);
                1
            }
            Self::Truncate(at) => {
                let rest = bytes.len() - at;
                bytes.truncate(at);
                rest / record + 2
            }
            Self::Zero(at) => {
                let end = (at + PAGE).min(bytes.len());
                bytes[at..end].fill(0);
                PAGE / record + 2
            }
            Self::Swap => {
                let (other, _) = &segments[1];
                let theirs = fs::read(other).expect("a segment");
                fs::write(other, &bytes).expect("written");
                bytes = theirs;
                0
            }
        };
        fs::write(file, bytes).expect("written");
        lost as u64
    }
}

/// R19: the disk queue of a host that stands still is damaged, a bit here and a page there.
pub(crate) fn damaged(trial: &mut Trial) {
    let (messages, per_kind) = trial.pick((400, 6), (400, 100));
    trial.did(format!(
        "{messages} messages in a disk queue; then {per_kind} times each a byte flipped, the file cut, a page of \
         4 KiB zeroed, each on a fresh copy and followed by a start; every byte and every length of a segment \
         in turn is the unit tests' (rules::spill::tests::damage)"
    ));
    let near = Mosquitto::start();
    let mut far = Some(StandIn::start(Takes(Ledger::new(Judge::Exact))));
    let port = far.as_ref().map_or(0, StandIn::port);
    let manifest = Manifest::new()
        .mqtt("plant", &near.url())
        .mqtt("cloud", &format!("tcp://127.0.0.1:{port}"))
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule("all", "SELECT * FROM demo", publish_to("cloud", "out", 1));
    let mut windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant", "cloud"], &["all"]);
    // The sink is gone, and all that comes is for the disk.
    far = None;
    windlass.wait_connection("cloud", "connecting", Duration::from_secs(10));
    let sent = Publish::new(near.port(), "in/1", 1)
        .count(messages)
        .start()
        .join();
    let on_disk = holds_within(Duration::from_secs(15), || {
        windlass.counter("all", "diskMessages") == Some(messages)
    });
    trial.check(
        "all are on disk",
        sent.acknowledged.len(),
        messages,
        on_disk,
    );
    windlass.kill();
    drop(far);
    let copy = tempfile::tempdir().expect("a folder");
    restore(&windlass.data(), copy.path());
    let segments = segments(&windlass.data());
    let length = segments.first().map_or(0, |(file, _)| {
        fs::metadata(file).map_or(0, |file| file.len())
    });
    let length = usize::try_from(length).unwrap_or(0);
    assert!(
        length > 1000,
        "no segment of the disk queue was found: {segments:?}"
    );
    trial.note(format!(
        "segments: {}, the first has {length} bytes",
        segments.len()
    ));

    let mut damages = vec![];
    for step in 0..per_kind {
        // Spread over the file, never at the same place of a record.
        let at = (step * length / per_kind + step * 37 % 101).min(length - 1);
        damages.extend([Damage::Flip(at), Damage::Truncate(at), Damage::Zero(at)]);
    }
    if segments.len() > 1 {
        damages.push(Damage::Swap);
    }
    let mut starts = Vec::new();
    let mut found = Found::default();
    for damage in damages {
        restore(copy.path(), &windlass.data());
        let bound = damage.apply(&segments);
        let started = one_start(&mut windlass, port, messages - bound.min(messages));
        starts.push(started.seconds);
        found.enter(trial, damage, &started, bound, messages);
    }
    found.report(trial);
    trial.check(
        "start until the rule runs",
        spread(&starts),
        "1 s at most",
        longest(&starts) <= 1.0,
    );
}

/// The files of the queue and the messages in each.
fn segments(data: &Path) -> Vec<(PathBuf, usize)> {
    let mut found: Vec<(PathBuf, usize)> = files(data)
        .into_iter()
        .filter_map(|file| {
            let bytes = fs::read(&file).ok()?;
            let count = bytes
                .windows(6)
                .filter(|window| window == b"\"seq\":")
                .count();
            (count > 0).then_some((file, count))
        })
        .collect();
    found.sort();
    found
}

/// What one start on damaged files did.
struct Started {
    seconds: f64,
    ledger: Ledger,
    reported: bool,
    panicked: bool,
}

/// Starts it, lets it send what is in the queue, kills it.
fn one_start(windlass: &mut Windlass, port: u16, least: u64) -> Started {
    let far = StandIn::at(port, Takes(Ledger::new(Judge::Exact)));
    let begin = Instant::now();
    windlass.up();
    windlass.wait_rule("all", "running", START);
    let seconds = begin.elapsed().as_secs_f64();
    holds_within(Duration::from_secs(10), || {
        far.script().0.arrived() >= least
    });
    // Whatever else comes.
    let mut seen = (0, Instant::now());
    holds_within(Duration::from_secs(5), || {
        let now = far.script().0.mark();
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        seen.1.elapsed() > Duration::from_millis(250)
    });
    windlass.kill();
    let log = windlass.log();
    let ledger = std::mem::replace(&mut far.script().0, Ledger::new(Judge::Exact));
    Started {
        seconds,
        ledger,
        reported: log.contains("disk queue"),
        panicked: log.contains("panicked"),
    }
}

/// All starts together.
#[derive(Default)]
struct Found {
    starts: u64,
    lost: u64,
    allowed: u64,
    unreported: u64,
    wrong: u64,
}

impl Found {
    fn enter(
        &mut self,
        trial: &mut Trial,
        damage: Damage,
        started: &Started,
        bound: u64,
        messages: u64,
    ) {
        let ledger = &started.ledger;
        let lost = ledger.lost(0..messages).len() as u64;
        self.starts += 1;
        self.lost += lost;
        self.allowed += bound;
        // A file that ends between two records has nothing that could be told from its end.
        let unseen = matches!(damage, Damage::Truncate(_));
        self.unreported += u64::from(lost > 0 && !started.reported && !unseen);
        let wrong =
            lost > bound || ledger.corrupt() > 0 || ledger.out_of_order() > 0 || started.panicked;
        if wrong {
            self.wrong += 1;
            trial.note(format!(
                "{} ({damage:?}): {lost} lost of {bound} that it covered; {}; panic {}",
                damage.kind(),
                ledger.summary(),
                started.panicked
            ));
        }
    }

    fn report(&self, trial: &mut Trial) {
        trial.check("starts", self.starts, "all of them", true);
        trial.check(
            "starts that lost more than was damaged, invented or disordered anything, or panicked",
            self.wrong,
            "none",
            self.wrong == 0,
        );
        trial.check(
            "messages lost",
            self.lost,
            format!("{} that the damage covered", self.allowed),
            self.lost <= self.allowed,
        );
        trial.check(
            "losses that no start reported",
            self.unreported,
            "none",
            self.unreported == 0,
        );
    }
}

/// R17: somebody else fills the disk.
pub(crate) fn full(trial: &mut Trial) {
    let cycles = trial.pick(4, 20);
    trial.did(format!(
        "data folder on a file system of 48 MiB, {cycles} times filled by others to its last byte for 2 s while \
         the sink is away and 1000 messages/s come in, then freed"
    ));
    let near = Mosquitto::start();
    let mut remote = Mosquitto::with(Broker {
        persistence: true,
        ..Broker::default()
    });
    let far = Subscriber::start(Subscribe {
        clean: false,
        ..Subscribe::new(remote.port(), "far", "out", 1)
    });
    let mut windlass = Windlass::prepare(&Manifest::new()).serving();
    let disk = match SmallDisk::mount(&windlass.data(), 48) {
        Ok(disk) => disk,
        Err(reason) => return trial.cannot(reason),
    };
    windlass.up();
    windlass.wait_listening(START);
    let mut rest = windlass.rest();
    for (id, url) in [("plant", near.url()), ("cloud", remote.url())] {
        let props = json!({ "server": url, "clientid": format!("windlass-{id}"), "enableClientSession": true });
        rest.must_post(
            "/connections",
            &json!({ "id": id, "typ": "mqtt", "props": props }),
            201,
        );
    }
    let conf = json!({ "qos": 1, "connectionSelector": "plant" });
    rest.must_put("/metadata/sources/mqtt/confKeys/k", &conf, 200);
    let sql = r#"CREATE STREAM demo () WITH (DATASOURCE="in/#", CONF_KEY="k", TYPE="mqtt", FORMAT="json")"#;
    rest.must_post("/streams", &json!({ "sql": sql }), 201);
    let rule = json!({ "id": "all", "sql": "SELECT * FROM demo", "actions": publish_to("cloud", "out", 1) });
    rest.must_post("/rules", &rule, 201);
    rest.wait("/rules/all/status", START, "it runs", |status| {
        status["status"] == "running" && status["source_demo_0_connection_status"] == 1
    });
    std::thread::sleep(Duration::from_millis(200));
    trial.alive(near.port(), "in/1", &far, 0);
    let before = windlass.usage();
    let publisher = Publish {
        first: 10,
        ..Publish::new(near.port(), "in/1", 1)
    }
    .rate(1000)
    .start();
    let (mut filled, mut answers, mut slowest) = (Vec::new(), 0, 0.0_f64);
    let mut blocked = 0;
    for _ in 0..cycles {
        remote.stop();
        std::thread::sleep(Duration::from_millis(500));
        filled.push(disk.fill());
        let end = Instant::now() + Duration::from_secs(2);
        let mut shown = false;
        while Instant::now() < end {
            // What was freed meanwhile is filled too.
            disk.fill();
            let begin = Instant::now();
            let (code, status) = rest.get("/rules/all/status");
            slowest = slowest.max(begin.elapsed().as_secs_f64());
            answers += u64::from(code != 200);
            shown |= status.to_string().to_lowercase().contains("space")
                || status.to_string().contains("full")
                || status.to_string().contains("\"sink_mqtt_0_0_blocked\":1");
            std::thread::sleep(Duration::from_millis(50));
        }
        blocked += u64::from(shown);
        disk.free();
        remote.restart();
        std::thread::sleep(Duration::from_secs(1));
    }
    let sent = publisher.stop();
    let expected: Vec<u64> = (10..10 + sent.sent).collect();
    let count = Counted::new("through the full disk", sent.sent, &expected)
        .acknowledged(sent.acknowledged.len() as u64)
        .bound(cycles * 2048);
    trial.delivered(&far, count, Duration::from_secs(60));
    trial.check(
        "REST while the disk is full",
        format!("{answers} failures, slowest {slowest:.2} s"),
        "none, 1 s",
        answers == 0 && slowest < 1.0,
    );
    trial.note(format!("the rule's status showed it in {blocked} of {cycles} cycles; the others wrote {} KiB in the middle", filled[filled.len() / 2] / 1024));
    trial.alive(near.port(), "in/1", &far, 30 + sent.sent);
    let log = windlass.log();
    trial.check(
        "panics",
        log.matches("panicked").count(),
        "none",
        !log.contains("panicked"),
    );
    trial.grown(&windlass, before, 16);
    drop(windlass);
    drop(disk);
}
