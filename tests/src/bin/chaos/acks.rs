//! A broker whose acknowledgements come as none should: in any order, late, twice, for nobody. R25.

use std::time::{Duration, Instant};

use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::holds_within;
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::{Judge, Ledger, now_ns, write_payload};
use windlass_tests::settings::wait_ready;
use windlass_tests::stand_in::{Script, StandIn};
use windlass_tests::windlass::Windlass;
use windlass_tests::wire::{Delivery, Packet, acknowledge, publish};

use crate::trial::{Counted, Trial};

/// How a broker acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// A few at a time, in random order.
    Shuffled,
    /// All but one, which waits until it is let go.
    AllButOne,
    /// Each twice, and with each one for an id that nobody used.
    TwiceAndForNobody,
}

#[derive(Debug)]
struct Acknowledges {
    manner: Manner,
    ledger: Ledger,
    waiting: Vec<(Instant, u16)>,
    withheld: Option<u16>,
    /// Messages that came while one acknowledgement was withheld.
    meanwhile: u64,
    dice: u64,
}

impl Acknowledges {
    fn new(manner: Manner) -> Self {
        Self {
            manner,
            ledger: Ledger::new(Judge::Exact),
            waiting: Vec::new(),
            withheld: None,
            meanwhile: 0,
            dice: 0x9e37_79b9_7f4a_7c15,
        }
    }

    fn throw(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice
    }
}

/// Never the id of a message here: ids are given out from below.
const NOBODYS: u16 = 65_000;

impl Script for Acknowledges {
    fn publish(&mut self, _: u8, id: u16, payload: &[u8], out: &mut Vec<u8>) {
        let number = self.ledger.enter(payload);
        match self.manner {
            Manner::Shuffled => self.waiting.push((Instant::now(), id)),
            Manner::AllButOne if self.withheld.is_none() && number == Some(100) => {
                self.withheld = Some(id);
            }
            Manner::AllButOne => {
                self.meanwhile += u64::from(self.withheld.is_some());
                acknowledge(out, 0x40, id);
            }
            Manner::TwiceAndForNobody => {
                for id in [id, id, NOBODYS] {
                    acknowledge(out, 0x40, id);
                }
                // PUBREC, PUBREL and PUBCOMP for nobody as well.
                acknowledge(out, 0x50, NOBODYS);
                acknowledge(out, 0x62, NOBODYS);
                acknowledge(out, 0x70, NOBODYS);
            }
        }
    }

    fn tick(&mut self, out: &mut Vec<u8>) {
        // Eight wait for each other, or 20 ms.
        let old = self
            .waiting
            .first()
            .is_some_and(|(at, _)| at.elapsed() > Duration::from_millis(20));
        if self.waiting.len() < 8 && !old {
            return;
        }
        while !self.waiting.is_empty() {
            let place = usize::try_from(self.throw() % self.waiting.len() as u64).unwrap_or(0);
            let (_, id) = self.waiting.swap_remove(place);
            acknowledge(out, 0x40, id);
        }
    }
}

/// R25: acknowledgements out of order, one withheld, twice, for nobody, and releases after a resume.
pub(crate) fn out_of_order(trial: &mut Trial) {
    let messages = trial.pick(10_000, 50_000);
    trial.did(format!(
        "{messages} messages of QoS 1 to a broker that acknowledges in random order; that withholds one \
         acknowledgement; that acknowledges twice and packet ids of nobody (PUBACK, PUBREC, PUBREL, PUBCOMP)"
    ));
    for (manner, whose) in [
        (Manner::Shuffled, "in random order"),
        (Manner::AllButOne, "one withheld"),
        (Manner::TwiceAndForNobody, "twice, and for nobody"),
    ] {
        acknowledged(trial, manner, whose, messages);
    }
    releases(trial);
}

fn acknowledged(trial: &mut Trial, manner: Manner, whose: &str, messages: u64) {
    let near = Mosquitto::start();
    let far = StandIn::start(Acknowledges::new(manner));
    let manifest = Manifest::new()
        .mqtt("plant", &near.url())
        .mqtt("cloud", &far.url())
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule("all", "SELECT * FROM demo", publish_to("cloud", "out", 1));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant", "cloud"], &["all"]);
    let before = windlass.usage();
    let begin = Instant::now();
    let sent = Publish::new(near.port(), "in/1", 1)
        .count(messages)
        .start()
        .join();
    if manner == Manner::AllButOne {
        // Until all the others are there, or nothing more comes: the order of an action may hold back
        // what is behind the one.
        let mut seen = (0, Instant::now());
        holds_within(Duration::from_secs(20), || {
            std::thread::sleep(Duration::from_millis(50));
            let now = far.script().ledger.arrived();
            if now != seen.0 {
                seen = (now, Instant::now());
            }
            now >= messages || seen.1.elapsed() > Duration::from_secs(2)
        });
        let mut script = far.script();
        let meanwhile = script.meanwhile;
        script.manner = Manner::Shuffled;
        let withheld = script.withheld.take();
        script.waiting.extend(withheld.map(|id| (begin, id)));
        drop(script);
        trial.note(format!(
            "{meanwhile} messages came while the one acknowledgement was withheld ({:.1} s)",
            begin.elapsed().as_secs_f64()
        ));
    }
    let all: Vec<u64> = (0..messages).collect();
    holds_within(Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_millis(20));
        far.script().ledger.arrived() >= messages
    });
    let took = begin.elapsed().as_secs_f64();
    let count = Counted::new(whose, sent.sent, &all).acknowledged(sent.acknowledged.len() as u64);
    trial.enter(&far.script().ledger, count);
    let links = far.dialled().len();
    trial.check(
        &format!("{whose}: links"),
        format!("{links} in {took:.1} s"),
        "1",
        links == 1,
    );
    // What is final is off the books: the disk queue empties too.
    let empty = holds_within(Duration::from_secs(10), || {
        windlass.fresh_metrics();
        windlass.counter("all", "diskMessages").unwrap_or(0) == 0
    });
    trial.check(
        &format!("{whose}: settled"),
        if empty { "all" } else { "not all" },
        "all",
        empty,
    );
    let fresh = Publish {
        first: messages + 10,
        ..Publish::new(near.port(), "in/1", 1)
    }
    .count(1)
    .start();
    let begin = Instant::now();
    let passed = holds_within(Duration::from_secs(5), || {
        far.script().ledger.has(messages + 10)
    });
    drop(fresh);
    let seconds = begin.elapsed().as_secs_f64();
    trial.check(
        &format!("{whose}: a fresh message afterwards"),
        format!("{seconds:.2} s"),
        "5 s at most",
        passed,
    );
    if manner == Manner::TwiceAndForNobody {
        trial.grown(&windlass, before, 16);
    }
}

/// A broker with a session: it gives messages of QoS 2, releases what it never sent, releases twice.
#[derive(Debug, Default)]
struct Releases {
    completed: Vec<u16>,
    sent: bool,
}

const GIVEN: u16 = 50;

impl Script for Releases {
    fn connect(&mut self, out: &mut Vec<u8>) {
        // It has the session, and the first that it says is the release of something from before.
        out.extend_from_slice(&[0x20, 2, 1, 0]);
        for id in [7_000, 7_001] {
            acknowledge(out, 0x62, id);
        }
        self.give(out);
    }

    fn publish(&mut self, _: u8, _: u16, _: &[u8], _: &mut Vec<u8>) {}

    fn other(&mut self, packet: &Packet<'_>, out: &mut Vec<u8>) {
        match packet {
            Packet::PubRec(id) => {
                acknowledge(out, 0x62, *id);
                acknowledge(out, 0x62, *id);
            }
            Packet::PubComp(id) => self.completed.push(*id),
            _ => {}
        }
    }
}

impl Releases {
    fn give(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.sent, true) {
            return;
        }
        let mut payload = Vec::new();
        for id in 1..=GIVEN {
            write_payload(&mut payload, u64::from(id), now_ns());
            let delivery = Delivery {
                qos: 2,
                id,
                ..Delivery::default()
            };
            publish(out, "in/1", delivery, &payload);
        }
    }
}

fn releases(trial: &mut Trial) {
    let near = StandIn::start(Releases::default());
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let manifest = Manifest::new()
        .mqtt("plant", &near.url())
        .mqtt("cloud", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 2, false)
        .rule("all", "SELECT * FROM demo", publish_to("cloud", "out", 1));
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant", "cloud"], &["all"]);
    let expected: Vec<u64> = (1..=u64::from(GIVEN)).collect();
    let count = Counted::new("QoS 2 after a resume", expected.len() as u64, &expected);
    trial.delivered(&far, count, Duration::from_secs(20));
    let unknown = || {
        let script = near.script();
        [7_000, 7_001]
            .iter()
            .all(|id| script.completed.contains(id))
    };
    let completed = holds_within(Duration::from_secs(5), unknown);
    trial.check(
        "a release of what the client does not know is completed",
        if completed { "yes" } else { "no" },
        "yes (MQTT 4.3.3)",
        completed,
    );
    let links = near.dialled().len();
    trial.check("QoS 2: links", links, "1", links == 1);
}
