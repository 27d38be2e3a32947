//! `windlass connector run FILE.wasm|NAME`: one connector alone. A source's messages are lines on
//! stdout, a sink's are lines of stdin; everything else is told on stderr.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::folder::Folder;
use super::session::Signals;
use super::{BAD_CONFIG, FAILED, output};
use crate::config::{Source, document, nearest};
use crate::host::trial::{
    Input, Line, Outcome, Printer, Reading, Role, Tell, Trial, TrialConfig, TrialError,
};
use crate::progress;

/// The longest line of the input.
const LONGEST: u64 = 16 * 1024 * 1024;
/// Lines read ahead.
const AHEAD: usize = 1024;

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// A component, or the name of a connector that comes with windlass
    #[arg(value_name = "FILE.wasm|NAME")]
    connector: String,
    /// What it is to be, where it can be both
    #[arg(long)]
    role: Option<As>,
    /// Its configuration: a YAML or JSON file, or a JSON object
    #[arg(long, value_name = "FILE|JSON")]
    config: Option<String>,
    /// One property, over the configuration; a.b=VALUE for one inside another
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// A connection for a slot: a URL, a file with typ and props, or these as JSON; SLOT= may be
    /// left out where there is only one
    #[arg(long, value_name = "SLOT=URL|FILE")]
    connection: Vec<String>,
    /// Source: go on from this checkpoint
    #[arg(long, value_name = "CHECKPOINT")]
    resume: Option<String>,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    seconds: Option<u64>,
    /// Each line is a JSON object: subject, payload (or base64), headers
    #[arg(long)]
    json: bool,
    /// Where compiled connectors are kept; ./windlass-data if that is there, else a temporary folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum As {
    /// It reads, and prints lines
    Source,
    /// It reads lines, and writes
    Sink,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut mistakes = Vec::new();
    let component = component(&arguments.connector)
        .map_err(|sentence| mistakes.push(sentence))
        .ok();
    let config = configuration(arguments.config.as_deref())
        .map_err(|sentences| mistakes.extend(sentences))
        .unwrap_or_default();
    let Some((name, wasm)) = component.filter(|_| mistakes.is_empty()) else {
        return Ok(refuse(&mistakes));
    };
    let folder = Folder::for_code(arguments.data.as_deref())?;
    let mut signals = Signals::listen()?;
    let config = TrialConfig {
        name,
        wasm,
        role: arguments.role.map(|role| match role {
            As::Source => Role::Source,
            As::Sink => Role::Sink,
        }),
        config,
        set: arguments.set,
        connections: arguments.connection,
        data_dir: folder.path().to_owned(),
    };
    let progress = progress::choose(false);
    let trial = tokio::select! {
        started = Trial::start(config, &*progress) => match started {
            Ok(trial) => trial,
            Err(TrialError::Config(mistakes)) => return Ok(refuse(&mistakes)),
            Err(error) => return Err(error.into()),
        },
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    for warning in &trial.warnings {
        output::complain(&format!("warning: {warning}"));
    }
    let role = trial.role;
    let (stop, tell): (_, Tell) = (CancellationToken::new(), Arc::new(output::complain));
    let stopped = stop.clone();
    let (json, max) = (arguments.json, arguments.max);
    let outcome = async move {
        match role {
            Role::Source => {
                let reading = Reading {
                    resume: arguments.resume,
                    max,
                    json,
                };
                trial.read(Stdout, reading, tell, stopped).await
            }
            Role::Sink => {
                if arguments.resume.is_some() {
                    tell("warning: --resume is for sources and changes nothing here");
                }
                trial.write(stdin(), json, max, tell, stopped).await
            }
        }
    };
    tokio::pin!(outcome);
    let over = async {
        match arguments.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        outcome = &mut outcome => return finish(role, outcome),
        () = signals.next() => {}
        () = over => {}
    }
    stop.cancel();
    tokio::select! {
        outcome = &mut outcome => finish(role, outcome),
        // What is under way is finished; who asks again does not want to wait for that.
        () = signals.next() => Ok(ExitCode::from(FAILED)),
    }
}

fn refuse(mistakes: &[String]) -> ExitCode {
    for mistake in mistakes {
        output::complain(mistake);
    }
    output::complain(&format!(
        "{}; nothing was started",
        output::count(mistakes.len(), "mistake")
    ));
    ExitCode::from(BAD_CONFIG)
}

/// Says how it ended, and the exit code for that.
fn finish(role: Role, outcome: Outcome) -> anyhow::Result<ExitCode> {
    let mut failed = false;
    if let Some(failure) = &outcome.failure {
        output::complain(failure);
        failed = true;
    }
    match role {
        Role::Source => output::complain(&format!(
            "{} read",
            output::count(
                usize::try_from(outcome.messages).unwrap_or(usize::MAX),
                "message"
            )
        )),
        Role::Sink => {
            output::complain(&format!(
                "{} written, {} rejected, {} not written",
                outcome.messages, outcome.rejected, outcome.unwritten
            ));
            failed |= outcome.rejected > 0 || outcome.unwritten > 0;
        }
    }
    if let Some(checkpoint) = &outcome.checkpoint {
        output::complain(&format!("go on from there with: --resume '{checkpoint}'"));
    }
    if let Some(error) = outcome.printer {
        return Err(error.into());
    }
    Ok(if failed {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

/// The component and what it is called: a file's name without its ending, or a bundled one's own.
fn component(named: &str) -> Result<(String, Bytes), String> {
    let path = Path::new(named);
    let is_file = named.contains(['/', '\\'])
        || path
            .extension()
            .is_some_and(|extension| extension == "wasm");
    if !is_file && let Some(wasm) = crate::host::trial::bundled(named) {
        return Ok((named.to_owned(), wasm));
    }
    if !is_file && !path.is_file() {
        let known = crate::host::trial::bundled_names();
        let hint = nearest(named, known.iter().copied())
            .map(|near| format!("did you mean \"{near}\"? "))
            .unwrap_or_default();
        return Err(format!(
            "there is no connector \"{named}\"; {hint}There is {}, or name a .wasm file",
            known.join(", ")
        ));
    }
    let wasm = std::fs::read(path).map_err(|error| format!("{named}: cannot be read: {error}"))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok((name.into_owned(), wasm.into()))
}

/// An object: given as such, or in a file.
fn configuration(given: Option<&str>) -> Result<Map<String, Value>, Vec<String>> {
    let Some(given) = given else {
        return Ok(Map::new());
    };
    let source = if given.trim_start().starts_with('{') {
        Source {
            name: "--config".to_owned(),
            text: given.to_owned(),
            base: PathBuf::new(),
        }
    } else {
        let text = std::fs::read_to_string(given)
            .map_err(|error| vec![format!("--config {given}: cannot be read: {error}")])?;
        Source {
            name: given.to_owned(),
            text,
            base: PathBuf::new(),
        }
    };
    let value = document(&source, &|name| std::env::var(name).ok())
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    match value {
        Value::Object(object) => Ok(object),
        Value::Null => Ok(Map::new()),
        _ => Err(vec![format!(
            "{}: a configuration is an object of properties",
            source.name
        )]),
    }
}

/// Standard output, written beside the guests: its reader may be slow.
#[derive(Debug)]
struct Stdout;

#[async_trait]
impl Printer for Stdout {
    async fn print(&mut self, lines: Vec<u8>) -> io::Result<()> {
        let written = tokio::task::spawn_blocking(move || {
            let mut out = io::stdout().lock();
            out.write_all(&lines)?;
            out.flush()
        });
        written
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// The lines of standard input; empty ones are left out. The thread that reads them ends with the
/// input, or with whoever takes them.
fn stdin() -> Input {
    let (sender, input) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut from = io::stdin().lock();
        for number in 1.. {
            let mut text = Vec::new();
            let read = (&mut from).take(LONGEST + 1).read_until(b'\n', &mut text);
            let line = match read {
                Ok(0) => return,
                Ok(count) if count as u64 > LONGEST => Err(io::Error::other(format!(
                    "line {number} is longer than {LONGEST} bytes"
                ))),
                Ok(_) => {
                    while text
                        .last()
                        .is_some_and(|last| matches!(last, b'\n' | b'\r'))
                    {
                        text.pop();
                    }
                    if text.is_empty() {
                        continue;
                    }
                    Ok(Line { number, text })
                }
                Err(error) => Err(error),
            };
            let over = line.is_err();
            if sender.blocking_send(line).is_err() || over {
                return;
            }
        }
    });
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_one_is_answered_with_the_one() {
        let sentence = component("simulatr").unwrap_err();
        assert!(
            sentence.contains("did you mean \"simulator\"?"),
            "{sentence}"
        );
        assert_eq!(component("simulator").unwrap().0, "simulator");
        assert!(
            component("./nothing.wasm")
                .unwrap_err()
                .contains("cannot be read")
        );
    }

    #[test]
    fn a_configuration_is_an_object_in_either_notation() {
        let json = configuration(Some(r#"{"count": 3}"#)).unwrap();
        assert_eq!(json["count"], 3);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.yaml");
        std::fs::write(&file, "count: 3\nfields:\n  t: { kind: ramp }\n").unwrap();
        let yaml = configuration(file.to_str()).unwrap();
        assert_eq!(yaml["fields"]["t"]["kind"], "ramp");
        std::fs::write(&file, "- 1\n").unwrap();
        assert!(configuration(file.to_str()).unwrap_err()[0].contains("object of properties"));
        assert!(configuration(Some("{\"a\": ")).is_err());
    }
}
