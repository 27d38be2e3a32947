//! `windlass connector bench FILE.wasm`: what a connector costs, or with `--calls` whether its memory
//! stays flat. Prints what the harness has measured.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::artifact;
use super::check::{component, config};
use crate::cli::folder::Folder;
use crate::cli::{BAD_CONFIG, FAILED, output};
use crate::error::chain;
use crate::harness::alone::Alone;
use crate::harness::bench::{Bench, Footprint, Long, Run, Sample};
use crate::harness::properties;
use crate::host;
use crate::progress;
use crate::runtime::{Connector, GuestError, Runtime};

/// Of so many loads the median counts.
const LOADS: usize = 5;
/// Samples on their way to the screen.
const SAMPLES: usize = 32;

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// The component, the folder of a connector that is built, or the name of a bundled connector
    #[arg(value_name = "FILE.wasm|DIR")]
    file: PathBuf,
    /// Its configuration: a YAML or JSON file, or JSON itself; made from its schema unless given
    #[arg(long, value_name = "FILE|JSON")]
    config: Option<String>,
    /// Only as a source, or only as a sink
    #[arg(long, value_parser = ["source", "sink"])]
    role: Option<String>,
    /// Messages for each call; several with commas between them. 1,100,1000 unless given, with --calls 1
    #[arg(long, value_delimiter = ',', value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: Vec<u32>,
    /// Messages for each batch size, as far as 20 s allow
    #[arg(long, default_value_t = 50_000, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Bytes of each message's payload: a JSON object
    #[arg(long, default_value_t = 100, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(0..=4_194_304))]
    size: u32,
    /// A file with the payload, for a connector that does not understand that object
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    sample: Option<PathBuf>,
    /// So many calls, to see whether memory stays flat; exit code 1 when it grows
    #[arg(long, value_name = "N", conflicts_with = "messages",
          value_parser = clap::value_parser!(u64).range(1..))]
    calls: Option<u64>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

fn bad(words: &str) -> anyhow::Result<ExitCode> {
    output::complain(words);
    Ok(ExitCode::from(BAD_CONFIG))
}

pub(super) async fn bench(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = match config(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(words) => return bad(&words),
    };
    let payload = match &arguments.sample {
        None => payload(arguments.size as usize),
        Some(file) => match std::fs::read(file) {
            Ok(payload) => payload.into(),
            Err(error) => return bad(&format!("{}: cannot be read: {error}", file.display())),
        },
    };
    let file = match arguments.file.is_dir() {
        true => artifact(&arguments.file),
        false => arguments.file.clone(),
    };
    let wasm = match component(&file) {
        Ok(wasm) => wasm,
        Err(words) => return bad(&words),
    };
    // Always a new folder: how long compiling takes is one of the figures.
    let folder = Folder::temporary("windlass-bench")?;
    let runtime = host::runtime(folder.path())?;
    let (connector, loading) = match load(&runtime, &file, wasm).await {
        Ok(loaded) => loaded,
        Err(words) => return bad(&words),
    };
    let roles = match roles(&connector, arguments.role.as_deref(), config.as_ref()) {
        Ok(roles) => roles,
        Err(words) => return bad(&words),
    };
    let alone = Alone::new(&runtime, Arc::clone(&connector));
    let mut report = Report::new(arguments.json, &connector, loading, payload.len());
    report.head()?;
    let mut failed = false;
    for (role, config) in roles {
        let bench = Bench::new(&alone, role == "source", config, payload.clone());
        let done = match arguments.calls {
            Some(calls) => long(&alone, &bench, role, &arguments.batch, calls, &mut report).await,
            None => short(&alone, &bench, role, &arguments, &mut report).await,
        };
        if let Err(error) = done {
            let error = error.downcast::<GuestError>()?;
            output::complain(&format!("{role}: {}", chain(&error)));
            failed = true;
        }
    }
    failed |= report.grew;
    report.finish()?;
    runtime.shutdown(Duration::from_secs(1)).await;
    Ok(match failed {
        true => ExitCode::from(FAILED),
        false => ExitCode::SUCCESS,
    })
}

/// A JSON object of so many bytes; below that of the shortest one, a number.
fn payload(size: usize) -> Bytes {
    let object = |pad: usize| format!(r#"{{"id":1,"value":21.5,"pad":"{}"}}"#, "x".repeat(pad));
    match size.checked_sub(object(0).len()) {
        Some(pad) => object(pad).into(),
        None => "1".repeat(size).into(),
    }
}

/// How long it took to get it ready.
#[derive(Clone, Copy, Debug)]
struct Loading {
    /// Compiled into an empty folder, loaded and asked what it is.
    compiled_in: Duration,
    /// Loaded out of that folder and asked what it is.
    loaded_in: Duration,
}

async fn load(
    runtime: &Runtime,
    file: &Path,
    wasm: Bytes,
) -> Result<(Arc<Connector>, Loading), String> {
    let name = file.display().to_string();
    let progress = progress::choose(false);
    let began = Instant::now();
    let refused = |error| format!("{name}: this is no connector: {}", chain(&error));
    let mut connector = runtime
        .load(&name, wasm.clone(), &*progress)
        .await
        .map_err(refused)?;
    let compiled_in = began.elapsed();
    let mut loads = Vec::new();
    for _ in 0..LOADS {
        let began = Instant::now();
        connector = runtime
            .load(&name, wasm.clone(), &())
            .await
            .map_err(refused)?;
        loads.push(began.elapsed());
    }
    loads.sort();
    let loaded_in = loads.get(LOADS / 2).copied().unwrap_or_default();
    Ok((
        connector,
        Loading {
            compiled_in,
            loaded_in,
        },
    ))
}

/// The roles to measure, each with its configuration. A given one that suits one role only leaves the
/// other out.
fn roles(
    connector: &Connector,
    only: Option<&str>,
    given: Option<&Map<String, Value>>,
) -> Result<Vec<(&'static str, String)>, String> {
    let mut found = Vec::new();
    let mut refused = None;
    for (role, has) in [
        ("source", connector.has_source),
        ("sink", connector.has_sink),
    ] {
        if only.is_some_and(|only| only != role) {
            continue;
        }
        if !has {
            if only.is_some() {
                return Err(format!("{}: it is no {role}", connector.name));
            }
            continue;
        }
        let made = || properties::sample(connector.config_schema(role), false);
        let properties = given.cloned().unwrap_or_else(made);
        match properties::apply(connector, role, properties) {
            Ok(config) => found.push((role, config)),
            Err(mistakes) => {
                let words: Vec<String> = mistakes.into_iter().map(|one| one.message).collect();
                let hint = match given {
                    Some(_) => "--config",
                    None => "made from its schema; give one with --config",
                };
                refused.get_or_insert(format!("{hint}: {}", words.join("; ")));
            }
        }
    }
    match (found.is_empty(), refused) {
        (true, Some(words)) => Err(words),
        _ => Ok(found),
    }
}

async fn short(
    alone: &Alone,
    bench: &Bench,
    role: &'static str,
    arguments: &Arguments,
    report: &mut Report,
) -> anyhow::Result<()> {
    let step = progress::step(&format!("{role}: making instances"));
    let footprint = alone.run(bench.clone().footprint()).await;
    let footprint = footprint.ok_or_else(ended)??;
    drop(step);
    let batches = match arguments.batch.as_slice() {
        [] => &[1, 100, 1_000][..],
        given => given,
    };
    let mut runs = Vec::new();
    for &batch in batches {
        let step = progress::step(&format!("{role}: batches of {batch}"));
        let run = bench.clone().run(batch as usize, arguments.messages);
        let run = alone.run(run).await.ok_or_else(ended)??;
        drop(step);
        runs.push(run);
    }
    report.short(role, footprint, &runs)?;
    Ok(())
}

async fn long(
    alone: &Alone,
    bench: &Bench,
    role: &'static str,
    batches: &[u32],
    calls: u64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let batches = match batches {
        [] => &[1][..],
        given => given,
    };
    for &batch in batches {
        let step = progress::step(&format!("{role}: {calls} calls with {batch} messages each"));
        let (tell, mut told) = mpsc::channel(SAMPLES);
        let mut running =
            std::pin::pin!(alone.run(bench.clone().long(batch as usize, calls, tell)));
        let ended_with = loop {
            tokio::select! {
                biased;
                Some(sample) = told.recv() => report.sample(role, &sample)?,
                done = &mut running => break done,
            }
        };
        while let Ok(sample) = told.try_recv() {
            report.sample(role, &sample)?;
        }
        drop(step);
        report.long(role, &ended_with.ok_or_else(ended)??)?;
    }
    Ok(())
}

fn ended() -> anyhow::Error {
    anyhow::anyhow!("the measurement itself ended; see the log")
}

/// What is printed, as it happens, or at the end as JSON.
struct Report {
    json: bool,
    value: Value,
    roles: Vec<Value>,
    words: String,
    grew: bool,
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl Report {
    fn new(json: bool, connector: &Connector, loading: Loading, payload: usize) -> Self {
        let about = &connector.descriptor;
        Self {
            json,
            value: json!({
                "connector": about.name,
                "version": about.version,
                "payloadBytes": payload,
                "wasmBytes": connector.wasm_size,
                "compiledBytes": connector.compiled_size,
                "compileMs": ms(loading.compiled_in),
                "loadMs": ms(loading.loaded_in),
            }),
            roles: Vec::new(),
            words: format!(
                "{} {}  ({}, compiled {}); compiled in {:.0} ms, loaded in {:.1} ms; payloads of {payload} B",
                output::plain(&about.name, 80),
                output::plain(&about.version, 80),
                output::size(connector.wasm_size),
                output::size(connector.compiled_size),
                ms(loading.compiled_in),
                ms(loading.loaded_in),
            ),
            grew: false,
        }
    }

    fn say(&self, line: &str) -> std::io::Result<()> {
        match self.json {
            true => Ok(()),
            false => output::say(line),
        }
    }

    fn head(&self) -> std::io::Result<()> {
        self.say(&self.words)
    }

    fn short(&mut self, role: &str, footprint: Footprint, runs: &[Run]) -> std::io::Result<()> {
        let private = footprint.private.map(output::size);
        self.say(&format!(
            "{role}: an instance has {} of memory ({} pages of its own) and opens in {:.2} ms",
            output::size(footprint.linear),
            private.as_deref().unwrap_or("unknown"),
            ms(footprint.opened_in),
        ))?;
        self.say("  batch   us/message  of it guest   messages     calls  replaced   memory")?;
        for run in runs {
            self.say(&format!(
                "{:>7} {:>12.3} {:>12.3} {:>10} {:>9} {:>9}   {}",
                run.batch,
                run.us,
                run.guest_us,
                run.messages,
                run.calls,
                run.replaced,
                output::size(run.linear)
            ))?;
            self.notes(run)?;
        }
        self.roles.push(json!({
            "role": role,
            "openMs": ms(footprint.opened_in),
            "linearBytes": footprint.linear,
            "privateBytes": footprint.private,
            "runs": runs.iter().map(figures).collect::<Vec<Value>>(),
        }));
        Ok(())
    }

    fn notes(&self, run: &Run) -> std::io::Result<()> {
        if run.messages == 0 {
            self.say("        no messages came: give what it understands with --sample, or another --config")?;
        }
        if run.rejected > 0 {
            self.say(&format!(
                "        it rejected {} of them: give what it understands with --sample",
                run.rejected
            ))?;
        }
        Ok(())
    }

    fn sample(&self, role: &str, sample: &Sample) -> std::io::Result<()> {
        let resident = sample.resident.map(output::size);
        self.say(&format!(
            "{role}: {:>10} calls   resident {:>10}   guest {:>10}   replaced {} ({} for memory)",
            sample.calls,
            resident.as_deref().unwrap_or("unknown"),
            output::size(sample.linear),
            sample.replaced,
            sample.for_memory,
        ))
    }

    fn long(&mut self, role: &str, long: &Long) -> std::io::Result<()> {
        let run = &long.run;
        let halves = long.halves.map_or_else(
            || "this system does not say how much is resident".to_owned(),
            |(first, second)| {
                format!(
                    "at most {} resident in the first half, {} in the second",
                    output::size(first),
                    output::size(second)
                )
            },
        );
        let verdict = match long.grew {
            Some(true) => "memory GREW",
            Some(false) => "memory stayed flat",
            None => "no verdict on memory",
        };
        self.say(&format!(
            "{role}: {verdict} over {} calls with {} messages ({:.3} us each): {halves}; {} instances replaced, {} of them for memory, {} for handles",
            run.calls, run.messages, run.us, run.replaced, run.for_memory, run.for_handles,
        ))?;
        self.notes(run)?;
        self.grew |= long.grew == Some(true);
        let mut figures = figures(run);
        if let Some(fields) = figures.as_object_mut() {
            let sample = |one: &Sample| {
                json!({
                    "calls": one.calls,
                    "residentBytes": one.resident,
                    "linearBytes": one.linear,
                    "replaced": one.replaced,
                    "replacedForMemory": one.for_memory,
                })
            };
            let samples: Vec<Value> = long.samples.iter().map(sample).collect();
            fields.insert("role".to_owned(), role.into());
            fields.insert("flat".to_owned(), long.grew.map(|grew| !grew).into());
            fields.insert(
                "firstHalfBytes".to_owned(),
                long.halves.map(|halves| halves.0).into(),
            );
            fields.insert(
                "secondHalfBytes".to_owned(),
                long.halves.map(|halves| halves.1).into(),
            );
            fields.insert("samples".to_owned(), samples.into());
        }
        self.roles.push(figures);
        Ok(())
    }

    fn finish(mut self) -> std::io::Result<()> {
        if !self.json {
            return Ok(());
        }
        if let Some(fields) = self.value.as_object_mut() {
            fields.insert("roles".to_owned(), self.roles.into());
        }
        output::say_json(&self.value)
    }
}

/// The figures of a run. What is not a number is null.
fn figures(run: &Run) -> Value {
    json!({
        "batch": run.batch,
        "calls": run.calls,
        "messages": run.messages,
        "rejected": run.rejected,
        "usPerMessage": run.us,
        "guestUsPerMessage": run.guest_us,
        "replaced": run.replaced,
        "replacedForMemory": run.for_memory,
        "replacedForHandles": run.for_handles,
        "linearBytes": run.linear,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_the_size_that_was_asked_for_and_is_json() {
        for size in [1, 5, 40, 100, 1000] {
            let payload = payload(size);
            assert_eq!(payload.len(), size);
            assert!(serde_json::from_slice::<Value>(&payload).is_ok(), "{size}");
        }
    }

    #[test]
    fn what_is_not_a_number_is_null() {
        let run = Run {
            batch: 1,
            calls: 0,
            messages: 0,
            rejected: 0,
            us: f64::NAN,
            guest_us: f64::NAN,
            replaced: 0,
            for_memory: 0,
            for_handles: 0,
            linear: 0,
        };
        assert_eq!(figures(&run)["usPerMessage"], Value::Null);
    }
}
