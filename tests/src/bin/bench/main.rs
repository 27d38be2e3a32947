//! The benchmark: Windlass with a wasm source, a filter and a wasm sink, beside a mosquitto bridge in
//! the same run, against the bars that the project has set itself. Prints the table at the end and
//! each figure as it is taken.

mod cost;
mod flood;
mod http;
mod languages;
mod outages;
mod served;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use windlass_tests::machine::machine_busy;

use self::table::Row;

/// Measures Windlass beside a mosquitto bridge.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    /// Which rows: qos0, qos1, latency, http, memory, connections, rules, many, start, down, return,
    /// outages, size, guest, languages, stopped; bridge for the yardstick alone. All of them (without bridge) unless named
    rows: Vec<String>,
    /// Of so many measurements the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Writes the figures here too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

type Measure = fn(usize) -> Vec<Row>;

/// Name and measurement, in the order in which they run.
const ROWS: &[(&str, Measure)] = &[
    ("size", |_| cost::size()),
    ("qos0", |rounds| flood::flood(0, rounds)),
    ("qos1", |rounds| flood::flood(1, rounds)),
    ("latency", flood::latency),
    ("http", http::posts),
    ("guest", |_| cost::guest()),
    ("languages", |_| languages::languages()),
    ("memory", |_| cost::memory()),
    ("connections", |_| cost::connections()),
    ("rules", |_| cost::rules()),
    ("many", |_| cost::many()),
    ("stopped", |_| served::served()),
    ("start", cost::start),
    ("return", cost::comes_back),
    ("down", |_| cost::down()),
    ("outages", outages::outages),
];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let known = |name: &String| name == "bridge" || ROWS.iter().any(|(row, _)| row == name);
    if let Some(name) = arguments.rows.iter().find(|name| !known(name)) {
        let names: Vec<&str> = ROWS.iter().map(|(name, _)| *name).collect();
        anyhow::bail!("no row `{name}`; there are {}, bridge", names.join(", "));
    }
    quiet_machine();
    let rounds = arguments.rounds.max(1);
    let mut rows = Vec::new();
    if arguments.rows.iter().any(|name| name == "bridge") {
        rows.extend(flood::bridge_alone(rounds));
    }
    for (name, measure) in ROWS {
        if arguments.rows.is_empty() || arguments.rows.iter().any(|wanted| wanted == name) {
            eprintln!("--- {name}");
            // One row that cannot be measured does not take the others with it.
            match std::panic::catch_unwind(|| measure(rounds)) {
                Ok(measured) => rows.extend(measured),
                Err(_) => rows.push(Row::missing(name)),
            }
        }
    }
    println!("{}", table::render(&rows));
    if let Some(file) = arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&table::json(&rows))?)?;
    }
    Ok(())
}

/// Says so if something else uses the machine: then no time here means much, only ratios do.
fn quiet_machine() {
    let before = machine_busy();
    std::thread::sleep(Duration::from_secs(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let busy = (machine_busy() - before).as_secs_f64() / cores as f64;
    if busy > 0.1 {
        eprintln!(
            "warning: this machine is {:.0} % busy with something else",
            busy * 100.0
        );
    }
}

/// A line while it runs.
pub(crate) fn progress(line: &str) {
    eprintln!("    {line}");
}
