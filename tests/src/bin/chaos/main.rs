//! Chaos: the tests of reliability, each by its name, short or long, with a report. What is broken is
//! broken by real means: links are reset, brokers and hosts are killed, disks fill up, clocks jump. The
//! oracle stands outside: it knows what was sent and looks at the far end.
//!
//! One file for each kind of trouble; [`list`] says which test is where. Nothing here looks into the
//! host: only its binary, its sockets, its output.

mod acks;
mod clock;
mod disk;
mod elsewhere;
mod guests;
mod host;
mod ledger;
mod links;
mod list;
mod names;
mod oversize;
mod peers;
mod report;
mod sinks;
mod soak;
mod tls;
mod trial;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;

use self::list::{Means, TESTS, Test};
use self::report::{Outcome, Report};
use self::trial::Trial;

/// Runs tests of reliability and says what was lost.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    /// Which tests: R1, R9, ...; `all`; without a name those that tests/run runs
    names: Vec<String>,
    /// Names and titles of the tests
    #[arg(long)]
    list: bool,
    /// The long forms, with the numbers that the requirement names
    #[arg(long)]
    long: bool,
    /// Writes the report here too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Enters what was found into tests/RESULTS.md
    #[arg(long)]
    results: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.list {
        list::print();
        return Ok(());
    }
    let chosen = choose(&arguments.names)?;
    let long = arguments.long || windlass_tests::machine::long();
    let mut reports = Vec::new();
    for (number, test) in chosen.iter().enumerate() {
        if std::io::stderr().is_terminal() {
            eprintln!(
                "[{}/{}] {} {}",
                number + 1,
                chosen.len(),
                test.name,
                test.title
            );
        }
        let report = run(test, long);
        println!("{}", report.text());
        reports.push(report);
    }
    println!("{}", report::summary(&reports));
    if let Some(file) = &arguments.json {
        let values: Vec<_> = reports.iter().map(Report::json).collect();
        std::fs::write(file, serde_json::to_string_pretty(&values)?)?;
    }
    if arguments.results {
        report::enter_results(&reports)?;
    }
    if reports
        .iter()
        .any(|report| report.outcome == Outcome::Failed)
    {
        std::process::exit(1);
    }
    Ok(())
}

/// The tests of these names, in the order of the list.
fn choose(names: &[String]) -> anyhow::Result<Vec<&'static Test>> {
    if names.is_empty() {
        return Ok(TESTS.iter().filter(|test| test.in_run).collect());
    }
    if names.iter().any(|name| name == "all") {
        return Ok(TESTS.iter().collect());
    }
    for name in names {
        let known = TESTS
            .iter()
            .any(|test| test.name.eq_ignore_ascii_case(name));
        anyhow::ensure!(
            known,
            "no test `{name}`; there are {}",
            TESTS
                .iter()
                .map(|test| test.name)
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    let wanted = |test: &&Test| {
        names
            .iter()
            .any(|name| test.name.eq_ignore_ascii_case(name))
    };
    Ok(TESTS.iter().filter(wanted).collect())
}

/// One test to its end, whatever that is.
fn run(test: &Test, long: bool) -> Report {
    let began = Instant::now();
    let mut trial = Trial::new(long);
    // A part that cannot go on ends its test and not the others.
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match &test.means {
        Means::Here(scenario) => scenario(&mut trial),
        Means::Elsewhere(tests) => elsewhere::run(&mut trial, tests),
        Means::Impossible(reason) => trial.cannot(reason),
    }));
    if let Err(panic) = end {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        trial.check(
            "runs to its end",
            text.unwrap_or_default(),
            "no error",
            false,
        );
    }
    trial.report(test, began.elapsed())
}
