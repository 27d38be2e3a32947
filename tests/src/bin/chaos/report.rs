//! What a test found: as text, as JSON, and as a row of tests/RESULTS.md.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::toolchain::root;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    /// This machine cannot run it.
    Impossible,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Impossible => "cannot be run here",
        }
    }
}

/// Messages of one way through the host, or through the yardstick.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) whose: String,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) expected: u64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
    pub(crate) bound: Option<u64>,
    pub(crate) out_of_order: Option<u64>,
    /// False: it is there to compare with.
    pub(crate) judged: bool,
}

impl Delivered {
    pub(crate) fn passed(&self) -> bool {
        !self.judged
            || (self.lost == 0
                && self.bound.is_none_or(|bound| self.duplicates <= bound)
                && self.out_of_order.is_none_or(|count| count == 0))
    }

    fn text(&self) -> String {
        let bound = self
            .bound
            .filter(|_| self.judged)
            .map_or(String::new(), |bound| format!(" of {bound} allowed"));
        let order = self
            .out_of_order
            .map_or(String::new(), |count| format!(", {count} out of order"));
        format!(
            "{} sent, {} acknowledged, {} of {} delivered, {} lost, {} duplicates{bound}{order}",
            self.sent,
            self.acknowledged,
            self.delivered.min(self.expected),
            self.expected,
            self.lost,
            self.duplicates
        )
    }
}

/// A figure beside its bar.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) what: String,
    pub(crate) figure: String,
    pub(crate) bar: String,
    pub(crate) passed: bool,
}

/// All of one test.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) long: bool,
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
    pub(crate) done: Vec<String>,
    pub(crate) delivered: Vec<Delivered>,
    pub(crate) checks: Vec<Check>,
    pub(crate) notes: Vec<String>,
    pub(crate) cannot: Option<String>,
}

impl Report {
    fn form(&self) -> &'static str {
        if self.long { "long" } else { "short" }
    }

    pub(crate) fn text(&self) -> String {
        let mut out = format!(
            "{} {}: {} ({}, {:.0} s)\n",
            self.name,
            self.title,
            self.outcome.word(),
            self.form(),
            self.took.as_secs_f64()
        );
        let mut line = |mark: &str, words: &str| {
            writeln!(out, "  {mark} {words}").expect("a string takes all");
        };
        for done in &self.done {
            line(" ", done);
        }
        if let Some(reason) = &self.cannot {
            line(" ", reason);
        }
        for row in &self.delivered {
            let mark = match (row.judged, row.passed()) {
                (false, _) => " ",
                (_, true) => "+",
                (_, false) => "!",
            };
            line(mark, &format!("{}: {}", row.whose, row.text()));
        }
        for check in &self.checks {
            let mark = if check.passed { "+" } else { "!" };
            line(
                mark,
                &format!("{}: {} [{}]", check.what, check.figure, check.bar),
            );
        }
        for note in &self.notes {
            line(" ", note);
        }
        out
    }

    pub(crate) fn json(&self) -> Value {
        let delivered = self.delivered.iter().map(|row| {
            json!({
                "whose": row.whose, "sent": row.sent, "acknowledged": row.acknowledged,
                "expected": row.expected, "delivered": row.delivered, "lost": row.lost,
                "duplicates": row.duplicates, "bound": row.bound, "outOfOrder": row.out_of_order,
                "judged": row.judged, "passed": row.passed(),
            })
        });
        let checks = self.checks.iter().map(|check| {
            json!({ "what": check.what, "figure": check.figure, "bar": check.bar, "passed": check.passed })
        });
        json!({
            "name": self.name, "title": self.title, "form": self.form(), "outcome": self.outcome.word(),
            "seconds": self.took.as_secs_f64().round(), "done": self.done,
            "delivered": delivered.collect::<Vec<_>>(), "checks": checks.collect::<Vec<_>>(),
            "notes": self.notes, "cannot": self.cannot,
        })
    }

    /// One row of the table: test, form, outcome, figures.
    fn row(&self, date: &str, commit: &str) -> String {
        let mut figures = self.done.clone();
        figures.extend(
            self.delivered
                .iter()
                .map(|row| format!("{}: {}", row.whose, row.text())),
        );
        figures.extend(self.checks.iter().map(|check| {
            let missed = if check.passed { "" } else { "**missed** " };
            format!("{missed}{}: {} ({})", check.what, check.figure, check.bar)
        }));
        figures.extend(self.notes.iter().cloned());
        figures.extend(self.cannot.iter().cloned());
        let form = if self.long { " --long" } else { "" };
        let cell = |text: &str| text.replace('|', "/").replace('\n', " ");
        format!(
            "| {} | {} | {} | {date} | {commit} | {} | `tests/chaos{form} {}` |",
            self.name,
            cell(self.title),
            self.outcome.word(),
            cell(&figures.join("; ")),
            self.name
        )
    }
}

/// The last lines: a table of all.
pub(crate) fn summary(reports: &[Report]) -> String {
    let mut out = format!("{:<5} {:<20} {:>7}  what\n", "test", "outcome", "time");
    for report in reports {
        writeln!(
            out,
            "{:<5} {:<20} {:>5.0} s  {}",
            report.name,
            report.outcome.word(),
            report.took.as_secs_f64(),
            report.title
        )
        .expect("a string takes all");
    }
    let count = |outcome| {
        reports
            .iter()
            .filter(|report| report.outcome == outcome)
            .count()
    };
    // The form of cargo's closing line, which tests/run counts.
    write!(
        out,
        "\ntest result: {}. {} passed; {} failed; {} not possible here",
        if count(Outcome::Failed) == 0 {
            "ok"
        } else {
            "FAILED"
        },
        count(Outcome::Passed),
        count(Outcome::Failed),
        count(Outcome::Impossible)
    )
    .expect("a string takes all");
    out
}

/// Replaces the rows of these tests in tests/RESULTS.md, or adds them.
pub(crate) fn enter_results(reports: &[Report]) -> anyhow::Result<()> {
    let file = root().join("tests/RESULTS.md");
    let (date, commit) = (today()?, commit()?);
    let old = std::fs::read_to_string(&file).unwrap_or_default();
    let form = |row: &str| row.contains("`tests/chaos --long");
    let number = |name: &str| {
        let digits = name.trim_matches(|c: char| !c.is_ascii_digit());
        digits.parse::<u32>().unwrap_or(0)
    };
    let mut rows: Vec<(u32, bool, String)> = old
        .lines()
        .filter(|line| line.starts_with("| R"))
        .filter_map(|line| {
            let name = line.split('|').nth(1)?.trim();
            let replaced = reports
                .iter()
                .any(|report| report.name == name && report.long == form(line));
            (!replaced).then(|| (number(name), form(line), line.to_owned()))
        })
        .collect();
    rows.extend(
        reports
            .iter()
            .map(|report| (number(report.name), report.long, report.row(&date, &commit))),
    );
    rows.sort();
    // What people wrote below the table stays.
    let remarks = old.find(REMARKS).map_or("", |at| &old[at..]);
    write_results(&file, &rows, remarks)
}

const REMARKS: &str = "\n## Remarks\n";

fn write_results(file: &Path, rows: &[(u32, bool, String)], remarks: &str) -> anyhow::Result<()> {
    let mut text = "# What the tests of reliability found\n\n\
        Written by `tests/chaos --results`, which replaces the rows of the tests that it ran and keeps what stands below the table. The tests are \
        described in `tests/src/bin/chaos/`; a bar stands in brackets behind its figure. Where a bridge \
        of mosquitto stands beside Windlass, both went through the same faults in the same run, before the same \
        oracle; it is there to compare with and decides nothing.\n\n\
        | test | what | outcome | date | commit | figures | how to repeat |\n|---|---|---|---|---|---|---|\n"
        .to_owned();
    for (_, _, row) in rows {
        text.push_str(row);
        text.push('\n');
    }
    text.push_str(remarks);
    Ok(std::fs::write(file, text)?)
}

fn today() -> anyhow::Result<String> {
    let said = Command::new("date").args(["-u", "+%F"]).output()?;
    Ok(String::from_utf8(said.stdout)?.trim().to_owned())
}

/// The commit that is checked out, with a mark where the tree differs from it.
fn commit() -> anyhow::Result<String> {
    let said = Command::new("git")
        .args([
            "describe",
            "--always",
            "--dirty=+",
            "--abbrev=9",
            "--exclude=*",
        ])
        .current_dir(root())
        .output()?;
    Ok(String::from_utf8(said.stdout)?.trim().to_owned())
}
