//! Connectors that trap, loop, allocate, leak and lie: R9 to R13. The component is
//! `guests/rust/misbehaving`; a good rule works beside it the whole time.

use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::load::{Publish, Publisher, Subscribe, Subscriber};
use windlass_tests::machine::holds_within;
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::{Flow, median};
use windlass_tests::settings::{START, letters, wait_ready};
use windlass_tests::toolchain::misbehaving;
use windlass_tests::windlass::Windlass;

use crate::trial::{Counted, Trial};

/// What the good rule's messages are, and what offends beside it.
struct Stage {
    broker: Mosquitto,
    far: Subscriber,
    windlass: Windlass,
    publisher: Publisher,
}

/// Number of the first message of the good rule's load.
const FIRST: u64 = 10;

impl Stage {
    /// A good rule at 500 messages/s beside the rules of `add`, which find the stream `bad` (shared) there.
    fn set(trial: &mut Trial, limits: Value, add: impl Fn(Manifest) -> Manifest) -> Self {
        let broker = Mosquitto::start();
        let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
        let manifest = Manifest::new()
            .connector("misbehaving", misbehaving())
            .limits(limits)
            .mqtt("plant", &broker.url())
            .mqtt_stream("demo", "plant", "in/#", 1, false)
            .mqtt_stream("bad", "plant", "bad/#", 1, true)
            .rule("good", "SELECT * FROM demo", publish_to("plant", "out", 1));
        let windlass = Windlass::start(&add(manifest));
        wait_ready(&windlass, &["plant"], &["good"]);
        trial.alive(broker.port(), "in/1", &far, 0);
        let publisher = Publish {
            first: FIRST,
            ..Publish::new(broker.port(), "in/1", 1)
        }
        .rate(500)
        .start();
        Self {
            broker,
            far,
            windlass,
            publisher,
        }
    }

    /// What arrives of the good rule in so many seconds.
    fn watch(&self, seconds: f64) -> Flow {
        let mark = self.far.ledger().mark();
        std::thread::sleep(Duration::from_secs_f64(seconds));
        self.far.ledger().since(mark)
    }

    /// So many messages for the offenders, from this number on, at this rate.
    fn offend(&self, first: u64, count: u64, rate: u32) {
        let sent = Publish {
            first,
            ..Publish::new(self.broker.port(), "bad/1", 1)
        }
        .rate(rate)
        .count(count)
        .start()
        .join();
        assert_eq!(sent.acknowledged.len() as u64, count);
    }

    /// The sum of a counter over rules.
    fn sum(&self, rules: &[String], counter: &str) -> u64 {
        rules
            .iter()
            .filter_map(|rule| self.windlass.counter(rule, counter))
            .sum()
    }

    /// Ends the load: nothing of the good rule is lost, and it kept its pace.
    fn end(self, trial: &mut Trial, own: &[Flow], beside: &[Flow]) -> Windlass {
        let sent = self.publisher.stop();
        let expected: Vec<u64> = (FIRST..FIRST + sent.sent).collect();
        let count = Counted::new("the neighbour", sent.sent, &expected)
            .acknowledged(sent.acknowledged.len() as u64);
        trial.delivered(&self.far, count, Duration::from_secs(20));
        let rates = |flows: &[Flow]| median(flows.iter().map(Flow::rate).collect());
        let tails =
            |flows: &[Flow]| median(flows.iter().map(|flow| flow.percentile_ms(0.99)).collect());
        let ratio = rates(beside) / rates(own);
        trial.check(
            "the neighbour's rate beside its own",
            format!(
                "{ratio:.2} (p99 {:.1} ms beside {:.1} ms)",
                tails(beside),
                tails(own)
            ),
            "0.95 at least",
            ratio >= 0.95,
        );
        trial.alive(
            self.broker.port(),
            "in/1",
            &self.far,
            20 + FIRST + sent.sent,
        );
        self.windlass
    }
}

/// A sink that does this with each message that it writes.
fn does(deed: &str) -> Value {
    json!([{ "misbehaving": { "in": "write", "do": deed, "sendSingle": true } }])
}

/// R9: traps of every kind, over many rules.
pub(crate) fn traps(trial: &mut Trial) {
    const DEEDS: [&str; 5] = [
        "unreachable",
        "divide",
        "out-of-bounds",
        "overflow",
        "panic-long",
    ];
    // Three traps make a message a dead letter; more than ten of them a minute would stop the rule.
    let (rules_of_each, messages) = trial.pick((4, 8), (20, 17));
    let rules: Vec<String> = (0..DEEDS.len() * rules_of_each)
        .map(|n| format!("bad{n}"))
        .collect();
    let each = rules_of_each * 3 * messages;
    trial.did(format!(
        "{each} traps each of {}, {} rules, three traps a message, beside a rule at 500 messages/s",
        DEEDS.join(", "),
        rules.len()
    ));
    let total = rules.len();
    let stage = Stage::set(trial, json!({}), |mut manifest| {
        for (place, rule) in rules.iter().enumerate() {
            let sql = format!("SELECT * FROM bad WHERE seq % {total} = {place}");
            manifest = manifest.rule(rule, &sql, does(DEEDS[place % DEEDS.len()]));
        }
        manifest
    });
    for rule in &rules {
        stage.windlass.wait_rule(rule, "running", START);
    }
    let rounds = trial.pick(2, 2);
    let (mut own, mut beside) = (Vec::new(), Vec::new());
    // Each kind once before memory is measured.
    stage.offend(0, total as u64, 200);
    holds_within(Duration::from_secs(30), || {
        stage.sum(&rules, "deadLetters") >= total as u64
    });
    let before = stage.windlass.usage();
    let mut first = total as u64;
    let per_round = (messages / rounds * total) as u64;
    for _ in 0..rounds {
        own.push(stage.watch(trial.pick(2.0, 10.0)));
        if trial.long() {
            // At most ten messages a minute for a rule.
            std::thread::sleep(Duration::from_secs(50));
        }
        let mark = stage.far.ledger().mark();
        stage.offend(first, per_round, trial.pick(40, 17));
        beside.push(stage.far.ledger().since(mark));
        first += per_round;
    }
    let arrived = holds_within(Duration::from_secs(30), || {
        stage.sum(&rules, "deadLetters") >= first
    });
    stage.windlass.fresh_metrics();
    let dead = stage.sum(&rules, "deadLetters");
    trial.check("dead letters", dead, first, arrived && dead == first);
    let counted = stage.sum(&rules, "sink_misbehaving_0_0_traps_total");
    // A batch that is halved to find the one at fault traps more often.
    trial.check(
        "traps counted",
        counted,
        format!("{} at least", 3 * first),
        counted >= 3 * first,
    );
    let running = rules
        .iter()
        .filter(|rule| {
            stage
                .windlass
                .rule(rule)
                .is_some_and(|(status, _)| status == "running")
        })
        .count();
    trial.check("rules that still run", running, total, running == total);
    let windlass = stage.end(trial, &own, &beside);
    trial.grown(&windlass, before, 8);
    trial.note("how soon an instance is replaced cannot be seen from outside: tests/bench guest measures it");
}

/// R10: endless loops, in `open` and in `write`, alone and with calls into the host.
pub(crate) fn loops(trial: &mut Trial) {
    let loopers = trial.pick(10, 100);
    trial.did(format!(
        "{loopers} rules whose connector never returns from `write`, half of them calling the host in the \
         loop, beside a rule at 500 messages/s"
    ));
    let rules: Vec<String> = (0..loopers).map(|n| format!("bad{n}")).collect();
    let stage = Stage::set(trial, json!({}), |mut manifest| {
        for (place, rule) in rules.iter().enumerate() {
            manifest = manifest.rule(
                rule,
                "SELECT * FROM bad",
                does(["spin", "spin-host"][place % 2]),
            );
        }
        manifest
    });
    let own = [stage.watch(3.0)];
    let before = stage.windlass.usage();
    stage.offend(0, 1, 1);
    let beside = [stage.watch(trial.pick(6.0, 30.0))];
    let all = holds_within(Duration::from_secs(trial.pick(60, 400)), || {
        stage.sum(&rules, "deadLetters") >= loopers
    });
    let overtime = stage.sum(&rules, "sink_misbehaving_0_0_overtime_total")
        + stage.sum(&rules, "sink_misbehaving_0_0_traps_total");
    trial.check(
        "calls that were stopped",
        format!(
            "{overtime}, dead letters {}",
            stage.sum(&rules, "deadLetters")
        ),
        format!("all {loopers} messages are dead letters"),
        all,
    );
    let windlass = stage.end(trial, &own, &beside);
    trial.grown(&windlass, before, 8);
}

/// R11: memory, handles, log lines and messages without end.
pub(crate) fn allocations(trial: &mut Trial) {
    const DEEDS: [&str; 7] = [
        "allocate",
        "handles",
        "pile-up",
        "amplify",
        "huge-argument",
        "error-long",
        "flood",
    ];
    const LIMIT_MIB: u64 = 16;
    // What the host itself needs for one call: copies of what goes in and comes out.
    const OWN_MIB: u64 = 40;
    // What the host keeps for a connector outside of its memory: batches, and the arguments of one call. It
    // is the host's own limit and has no name.
    const KEPT_MIB: u64 = 128 + 32;
    let messages = trial.pick(2, 9);
    trial.did(format!(
        "{messages} times each of {}, guestMemoryBytes {LIMIT_MIB} MiB, one after the other, beside a rule at \
         500 messages/s",
        DEEDS.join(", ")
    ));
    let rules: Vec<String> = DEEDS.iter().map(|deed| (*deed).to_owned()).collect();
    let limits = json!({ "guestMemoryBytes": format!("{LIMIT_MIB}MiB") });
    let total = DEEDS.len();
    let stage = Stage::set(trial, limits, |mut manifest| {
        for (place, deed) in DEEDS.iter().enumerate() {
            let sql = format!("SELECT * FROM bad WHERE seq % {total} = {place}");
            manifest = manifest.rule(deed, &sql, does(deed));
        }
        manifest
    });
    let own = [stage.watch(3.0)];
    let before = stage.windlass.usage();
    let mut beside = Vec::new();
    for (place, deed) in DEEDS.iter().enumerate() {
        let (peak, flow) = peak_of(&stage, |stage| {
            let mark = stage.far.ledger().mark();
            for number in 0..messages {
                stage.offend((number * total + place) as u64, 1, 1000);
                std::thread::sleep(Duration::from_millis(500));
            }
            stage.far.ledger().since(mark)
        });
        beside.push(flow);
        let grown = peak.saturating_sub(before.resident) >> 20;
        let most = LIMIT_MIB + OWN_MIB + if place > 1 { KEPT_MIB } else { 0 };
        trial.check(
            &format!("memory at most during `{deed}`"),
            format!("{grown} MiB more than before"),
            format!("{most} MiB more"),
            grown <= most,
        );
    }
    holds_within(Duration::from_secs(20), || {
        stage.sum(&rules, "deadLetters") >= 3
    });
    stage.windlass.fresh_metrics();
    for rule in ["allocate", "handles", "pile-up"] {
        let name = rule.to_owned();
        let stopped = ["traps_total", "overtime_total"].map(|counter| {
            stage.sum(
                std::slice::from_ref(&name),
                &format!("sink_misbehaving_0_0_{counter}"),
            )
        });
        trial.check(
            &format!("`{rule}` is stopped"),
            format!("{} traps, {} overtime", stopped[0], stopped[1]),
            "each time",
            stopped[0] + stopped[1] > 0,
        );
    }
    let lines = stage.windlass.lines_logged();
    trial.check(
        "lines in the log",
        lines,
        format!("10 000, of {} that were written", 40_000 * messages),
        lines < 10_000,
    );
    let windlass = stage.end(trial, &own, &beside);
    // Whether the memory of batches goes back to the system is R11b's question.
    trial.grown(&windlass, before, KEPT_MIB);
}

/// R11b: what the host kept for connectors that piled batches up goes back to the system.
pub(crate) fn given_back(trial: &mut Trial) {
    const DEEDS: [&str; 2] = ["pile-up", "amplify"];
    let (rounds, seconds) = trial.pick((3, 10), (10, 60));
    trial.did(format!(
        "{rounds} rounds of connectors that pile batches up until they are stopped, {seconds} s apart, beside a rule \
         at 500 messages/s"
    ));
    let total = DEEDS.len();
    let stage = Stage::set(trial, json!({}), |mut manifest| {
        for (place, deed) in DEEDS.iter().enumerate() {
            let sql = format!("SELECT * FROM bad WHERE seq % {total} = {place}");
            manifest = manifest.rule(deed, &sql, does(deed));
        }
        manifest
    });
    let own = [stage.watch(2.0)];
    let before = stage.windlass.usage();
    let mark = stage.far.ledger().mark();
    for round in 0..rounds {
        stage.offend(round * 2, 2, 1000);
        std::thread::sleep(Duration::from_secs(seconds));
        let resident = stage.windlass.usage().resident >> 20;
        trial.note(format!(
            "{resident} MiB, {seconds} s after round {}",
            round + 1
        ));
    }
    let beside = [stage.far.ledger().since(mark)];
    let windlass = stage.end(trial, &own, &beside);
    trial.grown(&windlass, before, 8);
}

/// The most memory that the host used meanwhile, and what came of it.
fn peak_of<T>(stage: &Stage, work: impl FnOnce(&Stage) -> T) -> (u64, T) {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let (peak, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let pid = stage.windlass.pid();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(
                    windlass_tests::machine::usage(pid).resident,
                    Ordering::Relaxed,
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let result = work(stage);
        done.store(true, Ordering::Relaxed);
        (peak.load(Ordering::Relaxed), result)
    })
}

/// R12: a connector that leaks.
pub(crate) fn leaks(trial: &mut Trial) {
    let messages = trial.pick(5_000, 60_000);
    trial.did(format!(
        "a connector that leaks 1 MiB a call, {messages} messages at 500/s, beside a rule at 500 messages/s"
    ));
    let stage = Stage::set(trial, json!({}), |manifest| {
        manifest.rule("bad0", "SELECT * FROM bad", does("leak"))
    });
    let rules = ["bad0".to_owned()];
    let own = [stage.watch(3.0)];
    // The first leaks fill what an instance may have.
    stage.offend(0, 1000, 500);
    let before = stage.windlass.usage();
    let mut samples = Vec::new();
    let mut beside = Vec::new();
    for round in 0..10 {
        let mark = stage.far.ledger().mark();
        stage.offend(1000 + round * messages / 10, messages / 10, 500);
        samples.push(stage.windlass.usage().resident as f64);
        beside.push(stage.far.ledger().since(mark));
    }
    let step = messages as f64 / 10.0 / 500.0;
    let slope = slope(&samples, step) / 1024.0;
    // Instances grow and are replaced: a sample finds one at any size up to its limit.
    let swing = samples
        .iter()
        .fold(0.0, |most: f64, sample| most.max(*sample))
        / f64::from(1 << 20);
    let most = trial.pick(4096.0, 64.0);
    trial.check(
        "slope of resident memory",
        format!("{slope:.1} KiB/s, at most {swing:.0} MiB"),
        format!("{most} KiB/s"),
        slope < most,
    );
    stage.windlass.fresh_metrics();
    let instances = stage.sum(&rules, "sink_misbehaving_0_0_instances_total");
    trial.note(format!(
        "{instances} instances in {} calls or fewer",
        messages + 1000
    ));
    let windlass = stage.end(trial, &own, &beside);
    trial.grown(&windlass, before, 64);
}

/// The slope of a line through samples that are `step` seconds apart, per second.
pub(crate) fn slope(samples: &[f64], step: f64) -> f64 {
    let count = samples.len() as f64;
    let middle = (count - 1.0) / 2.0 * step;
    let mean = samples.iter().sum::<f64>() / count;
    let mut above = 0.0;
    let mut below = 0.0;
    for (place, sample) in samples.iter().enumerate() {
        let x = place as f64 * step - middle;
        above += x * (sample - mean);
        below += x * x;
    }
    above / below
}

/// R13: a connector that lies: about connections, handles, indices, texts.
pub(crate) fn lies(trial: &mut Trial) {
    // True: the host's answers are as they must be, which the connector itself checks and then takes the
    // message. False: there is no answer, the call ends in a trap.
    const DEEDS: [(&str, bool); 8] = [
        ("forge-ids", true),
        ("out-of-range", true),
        ("contents", true),
        ("outside", true),
        ("subscribe", true),
        ("forge-handle", false),
        ("kept-handle", false),
        ("not-utf8", false),
    ];
    let messages = trial.pick(3, 9);
    trial.did(format!(
        "{messages} times each of {}: ids of other connections, handles that were never given or are over, \
         places beyond the end, no UTF-8, files, sockets, subscriptions of a sink",
        DEEDS.map(|(deed, _)| deed).join(", ")
    ));
    let total = DEEDS.len();
    // What the liars pass on goes to a broker of its own. `plant` is another rule's connection.
    let beyond = Mosquitto::start();
    let stage = Stage::set(trial, json!({}), |manifest| {
        let mut manifest = manifest.mqtt("line", &beyond.url());
        for (place, (deed, _)) in DEEDS.iter().enumerate() {
            let sql = format!("SELECT * FROM bad WHERE seq % {total} = {place}");
            let action = json!([{ "misbehaving": {
                "in": "write", "do": deed, "sendSingle": true, "connectionSelector": "line" } }]);
            manifest = manifest.rule(deed, &sql, action);
        }
        manifest
    });
    let own = [stage.watch(2.0)];
    let before = stage.windlass.usage();
    let mark = stage.far.ledger().mark();
    stage.offend(0, (messages * total) as u64, 20);
    let rules: Vec<String> = DEEDS.iter().map(|(deed, _)| (*deed).to_owned()).collect();
    let settled = |stage: &Stage| {
        stage.sum(&rules, "deadLetters")
            + stage.sum(&rules, "sink_misbehaving_0_0_records_out_total")
    };
    holds_within(Duration::from_secs(30), || {
        settled(&stage) >= (messages * total) as u64
    });
    stage.windlass.fresh_metrics();
    let beside = [stage.far.ledger().since(mark)];
    let dead = letters(&stage.windlass);
    for (deed, answered) in DEEDS {
        let rule = [deed.to_owned()];
        let taken = stage.sum(&rule, "sink_misbehaving_0_0_records_out_total");
        let traps = stage.sum(&rule, "sink_misbehaving_0_0_traps_total");
        let wrong = dead
            .iter()
            .map(Value::to_string)
            .find(|letter| letter.contains(deed) && letter.contains("host-was-wrong"));
        let passed = wrong.is_none()
            && if answered {
                taken == messages as u64 && traps == 0
            } else {
                traps > 0
            };
        trial.check(
            &format!("`{deed}`"),
            wrong.unwrap_or_else(|| format!("{taken} right answers, {traps} traps")),
            if answered { "typed answers" } else { "traps" },
            passed,
        );
    }
    let windlass = stage.end(trial, &own, &beside);
    trial.grown(&windlass, before, 8);
}
