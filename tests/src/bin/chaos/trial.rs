//! One test while it runs: what was done, what was counted, what was measured against which bar.
//! A bar that is missed is noted and the test goes on, so that its report is whole.

use std::fmt::Display;
use std::time::{Duration, Instant};

use windlass_tests::load::{Publish, Subscriber};
use windlass_tests::machine::{Usage, holds_within};
use windlass_tests::oracle::{Ledger, passes, ranges};
use windlass_tests::windlass::Windlass;

use crate::list::Test;
use crate::report::{Check, Delivered, Outcome, Report};

/// A running test.
#[derive(Debug)]
pub(crate) struct Trial {
    long: bool,
    done: Vec<String>,
    delivered: Vec<Delivered>,
    checks: Vec<Check>,
    notes: Vec<String>,
    cannot: Option<String>,
}

impl Trial {
    pub(crate) fn new(long: bool) -> Self {
        Self {
            long,
            done: Vec::new(),
            delivered: Vec::new(),
            checks: Vec::new(),
            notes: Vec::new(),
            cannot: None,
        }
    }

    /// Whether this is the long form.
    pub(crate) fn long(&self) -> bool {
        self.long
    }

    /// The short form's figure, or the long one's.
    pub(crate) fn pick<T>(&self, in_short: T, in_long: T) -> T {
        if self.long { in_long } else { in_short }
    }

    /// What is done to the host.
    pub(crate) fn did(&mut self, words: impl Display) {
        self.done.push(words.to_string());
    }

    /// What is worth saying and decides nothing.
    pub(crate) fn note(&mut self, words: impl Display) {
        self.notes.push(words.to_string());
    }

    /// This machine cannot run it, and why.
    pub(crate) fn cannot(&mut self, reason: impl Display) {
        self.cannot = Some(reason.to_string());
    }

    /// A figure beside its bar.
    pub(crate) fn check(
        &mut self,
        what: &str,
        figure: impl Display,
        bar: impl Display,
        passed: bool,
    ) {
        self.checks.push(Check {
            what: what.to_owned(),
            figure: figure.to_string(),
            bar: bar.to_string(),
            passed,
        });
    }

    /// A time that must not be longer than this many seconds.
    pub(crate) fn within(&mut self, what: &str, seconds: f64, most: f64) {
        self.check(
            what,
            format!("{seconds:.2} s"),
            format!("{most} s at most"),
            seconds <= most,
        );
    }

    /// Waits for `expected` at the far end and enters what came: none lost, none changed, duplicates
    /// within their bound, and in order where that was promised.
    pub(crate) fn delivered(&mut self, far: &Subscriber, count: Counted<'_>, limit: Duration) {
        holds_within(limit, || far.arrived() >= count.expected.len() as u64);
        if !far.ledger().lost(count.expected.iter().copied()).is_empty() {
            // Fewer than expected, or others: a little more time, then the list says which.
            holds_within(limit, || {
                std::thread::sleep(Duration::from_millis(50));
                far.ledger().lost(count.expected.iter().copied()).is_empty()
            });
        }
        far.settle(Duration::from_millis(500), Duration::from_secs(5));
        let ledger = far.ledger();
        self.enter(&ledger, count);
    }

    /// The same for a ledger that is whole.
    pub(crate) fn enter(&mut self, ledger: &Ledger, count: Counted<'_>) {
        let lost = ledger.lost(count.expected.iter().copied());
        let row = Delivered {
            whose: count.whose.to_owned(),
            sent: count.sent,
            acknowledged: count.acknowledged,
            expected: count.expected.len() as u64,
            delivered: ledger.arrived(),
            lost: lost.len() as u64,
            duplicates: ledger.duplicates(),
            bound: count.bound,
            out_of_order: count.in_order.then(|| ledger.out_of_order()),
            judged: count.judged,
        };
        if !lost.is_empty() {
            self.note(format!("{}: lost {}", count.whose, ranges(&lost)));
        }
        if ledger.corrupt() > 0 {
            let corrupt = ledger.corrupt();
            self.check("changed on the way", corrupt, "none", false);
        }
        self.delivered.push(row);
    }

    /// A fresh message passes within 5 s.
    pub(crate) fn alive(&mut self, port: u16, topic: &str, far: &Subscriber, fresh: u64) {
        let begin = Instant::now();
        let sent = Publish {
            first: fresh,
            ..Publish::new(port, topic, 1)
        }
        .count(2)
        .start();
        let number = if passes(fresh) { fresh } else { fresh + 1 };
        let passed = holds_within(Duration::from_secs(5), || far.ledger().has(number));
        let took = begin.elapsed().as_secs_f64();
        drop(sent);
        self.check(
            "a fresh message afterwards",
            if passed {
                format!("{took:.2} s")
            } else {
                "not there".to_owned()
            },
            "5 s at most",
            passed,
        );
    }

    /// What the host uses is back where it was: files and threads within 5 % (or two of them), memory
    /// within 5 % (or so many MiB). Threads that look names up or write stay for 10 s after their work.
    pub(crate) fn grown(&mut self, windlass: &Windlass, before: Usage, mebibytes: u64) {
        let most = |figure: u64, least: u64| figure + (figure / 20).max(least);
        let files = most(before.files as u64, 2);
        let threads = most(before.threads, 2);
        let memory = most(before.resident, mebibytes << 20);
        holds_within(Duration::from_secs(20), || {
            std::thread::sleep(Duration::from_millis(50));
            let now = windlass.usage();
            now.files as u64 <= files && now.threads <= threads && now.resident <= memory
        });
        let now = windlass.usage();
        let passed = now.files as u64 <= files && now.threads <= threads && now.resident <= memory;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        self.check(
            "memory, files, threads afterwards",
            format!(
                "{:.1} MiB, {}, {} (before: {:.1} MiB, {}, {})",
                mib(now.resident),
                now.files,
                now.threads,
                mib(before.resident),
                before.files,
                before.threads
            ),
            format!("{:.1} MiB, {files}, {threads}", mib(memory)),
            passed,
        );
    }

    pub(crate) fn report(mut self, test: &Test, took: Duration) -> Report {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load: f64 = load
            .split(' ')
            .next()
            .and_then(|load| load.parse().ok())
            .unwrap_or(0.0);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if load > 3.0 * cores as f64 {
            self.note(format!(
                "others used this machine meanwhile (load {load:.0} on {cores} cores): times mean little"
            ));
        }
        let failed = self.checks.iter().any(|check| !check.passed)
            || self.delivered.iter().any(|row| !row.passed());
        let outcome = match (&self.cannot, failed) {
            (_, true) => Outcome::Failed,
            (Some(_), false) => Outcome::Impossible,
            (None, false) => Outcome::Passed,
        };
        Report {
            name: test.name,
            title: test.title,
            long: self.long,
            outcome,
            took,
            done: self.done,
            delivered: self.delivered,
            checks: self.checks,
            notes: self.notes,
            cannot: self.cannot,
        }
    }
}

/// What to hold a ledger against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted<'a> {
    /// Whose messages.
    pub(crate) whose: &'a str,
    pub(crate) sent: u64,
    /// Of these the source's side was told that they are safe.
    pub(crate) acknowledged: u64,
    /// These must be there.
    pub(crate) expected: &'a [u64],
    /// Duplicates at most; none: any number.
    pub(crate) bound: Option<u64>,
    pub(crate) in_order: bool,
    /// False: it stands in the report for comparison.
    pub(crate) judged: bool,
}

impl<'a> Counted<'a> {
    /// All in order, nothing twice.
    pub(crate) fn new(whose: &'a str, sent: u64, expected: &'a [u64]) -> Self {
        Self {
            whose,
            sent,
            acknowledged: sent,
            expected,
            bound: Some(0),
            in_order: true,
            judged: true,
        }
    }

    pub(crate) fn acknowledged(mut self, count: u64) -> Self {
        self.acknowledged = count;
        self
    }

    pub(crate) fn bound(mut self, duplicates: u64) -> Self {
        self.bound = Some(duplicates);
        self
    }

    pub(crate) fn any_order(mut self) -> Self {
        self.in_order = false;
        self
    }

    /// For comparison only.
    pub(crate) fn yardstick(mut self) -> Self {
        self.judged = false;
        self
    }
}

/// The middle and the longest of some times, for a report.
pub(crate) fn spread(seconds: &[f64]) -> String {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(middle), Some(longest)) => {
            format!(
                "{} times, middle {middle:.2} s, longest {longest:.2} s",
                sorted.len()
            )
        }
        _ => "none".to_owned(),
    }
}

/// The longest of some times; nothing is endless.
pub(crate) fn longest(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(
        if seconds.is_empty() {
            f64::INFINITY
        } else {
            0.0
        },
        f64::max,
    )
}

/// The time that this share of them does not exceed.
pub(crate) fn percentile(seconds: &[f64], share: f64) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len().saturating_sub(1) as f64 * share).ceil() as usize;
    sorted.get(place).copied().unwrap_or(f64::INFINITY)
}
