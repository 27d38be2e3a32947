//! `windlass connector check FILE.wasm`: the conformance suite, check by check.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::cli::folder::Folder;
use crate::cli::{BAD_CONFIG, FAILED, output};
use crate::config::{Document, unknown};
use crate::connectors;
use crate::harness::alone::Alone;
use crate::harness::check::{Check, Suite, Verdict, not_loaded};
use crate::host;
use crate::progress;

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// The component, or the name of a bundled connector
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Its configuration: a YAML or JSON file, or JSON itself; made from its schema unless given
    #[arg(long, value_name = "FILE|JSON")]
    config: Option<String>,
    /// Only as a source, or only as a sink
    #[arg(long, value_parser = ["source", "sink"])]
    role: Option<String>,
    /// A payload that it understands, one file each; JSON objects unless given
    #[arg(long, value_name = "FILE")]
    sample: Vec<PathBuf>,
    /// Only these checks: a name as printed, or `source` or `sink`
    #[arg(long, value_name = "CHECK")]
    only: Vec<String>,
    /// Where compiled connectors are kept; ./windlass-data if that is there, else a temporary folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// The bytes of a component: a file, or one that comes with the host.
pub(super) fn component(file: &std::path::Path) -> Result<bytes::Bytes, String> {
    let bundled = file.to_str().and_then(connectors::bundled);
    match (std::fs::read(file), bundled) {
        (Ok(wasm), _) => Ok(wasm.into()),
        (Err(_), Some(wasm)) => Ok(wasm),
        (Err(error), None) if error.kind() == std::io::ErrorKind::NotFound => Err(format!(
            "{}: there is no such file; build it first, or name a bundled connector: {}",
            file.display(),
            connectors::names().join(", ")
        )),
        (Err(error), None) => Err(format!("{}: cannot be read: {error}", file.display())),
    }
}

fn bad(words: &str) -> anyhow::Result<ExitCode> {
    output::complain(words);
    Ok(ExitCode::from(BAD_CONFIG))
}

pub(super) async fn check(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let name = arguments.file.display().to_string();
    let config = match config(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(words) => return bad(&words),
    };
    let mut names = Suite::names();
    names.extend(["source".to_owned(), "sink".to_owned()]);
    let short = |only: &str| {
        names
            .iter()
            .any(|name| name == only || name.split('.').nth(1) == Some(only))
    };
    if let Some(only) = arguments.only.iter().find(|only| !short(only)) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        return bad(&unknown("check", only, &names));
    }
    let mut samples = Vec::new();
    for file in &arguments.sample {
        match std::fs::read(file) {
            Ok(payload) => samples.push(payload.into()),
            Err(error) => return bad(&format!("{}: cannot be read: {error}", file.display())),
        }
    }
    let wasm = match component(&arguments.file) {
        Ok(wasm) => wasm,
        Err(words) => return bad(&words),
    };
    let folder = Folder::for_code(arguments.data.as_deref())?;
    let runtime = host::runtime(folder.path())?;
    let progress = progress::choose(false);
    let mut report = Report::new(arguments.json);
    match runtime.load(&name, wasm.clone(), &*progress).await {
        Err(error) => report.add(not_loaded(&error)),
        Ok(_) => {
            // Once more, from the cache, to see how long it takes to say what it is.
            let began = Instant::now();
            let connector = runtime.load(&name, wasm, &()).await?;
            let described_in = began.elapsed();
            let suite = Suite {
                connector: Alone::new(&runtime, Arc::clone(&connector)),
                described_in,
                config,
                role: arguments.role,
                samples,
                only: arguments.only,
            };
            let roles = suite.roles();
            if roles.is_empty() {
                return bad(&format!(
                    "{name}: it is no {}",
                    suite.role.unwrap_or_default()
                ));
            }
            let refused: Vec<_> = roles
                .iter()
                .filter_map(|role| suite.config_for(role).err())
                .collect();
            if let (Some(mistakes), true) = (refused.first(), refused.len() == roles.len()) {
                for mistake in mistakes {
                    output::complain(&format!("--config: {}", mistake.message));
                }
                return Ok(ExitCode::from(BAD_CONFIG));
            }
            suite.run(&mut |check| report.add(check)).await;
        }
    }
    runtime.shutdown(Duration::from_secs(1)).await;
    report.finish(&name)
}

/// The configuration that was given: JSON, or a file.
pub(super) fn config(given: Option<&str>) -> Result<Option<Map<String, Value>>, String> {
    let Some(given) = given else {
        return Ok(None);
    };
    let value = if given.trim_start().starts_with('{') {
        serde_json::from_str(given)
            .map_err(|error| format!("--config: this is not JSON: {error}"))?
    } else {
        let document = Document::read(std::path::Path::new(given)).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            lines.join("\n")
        })?;
        document.value
    };
    match value {
        Value::Object(map) => Ok(Some(map)),
        _ => Err(format!("--config: {given} holds no object of properties")),
    }
}

/// What is printed, as it happens, or at the end as JSON.
struct Report {
    json: bool,
    coloured: bool,
    checks: Vec<Check>,
    broken: Option<std::io::Error>,
}

impl Report {
    fn new(json: bool) -> Self {
        Self {
            json,
            coloured: super::test::coloured(),
            checks: Vec::new(),
            broken: None,
        }
    }

    fn add(&mut self, check: Check) {
        if !self.json
            && let Err(error) = output::say(&line(&check, self.coloured))
        {
            self.broken.get_or_insert(error);
        }
        self.checks.push(check);
    }

    fn finish(self, name: &str) -> anyhow::Result<ExitCode> {
        if let Some(error) = self.broken {
            return Err(error.into());
        }
        let count = |verdict| {
            self.checks
                .iter()
                .filter(|one| one.verdict == verdict)
                .count()
        };
        let (passed, failed) = (count(Verdict::Passed), count(Verdict::Failed));
        if self.json {
            output::say_json(&json!({
                "connector": name,
                "ok": failed == 0,
                "passed": passed,
                "failed": failed,
                "checks": self.checks,
            }))?;
        } else {
            let skipped = count(Verdict::NotApplicable);
            output::say(&format!(
                "{passed} passed, {failed} failed, {skipped} not applicable"
            ))?;
        }
        Ok(match failed {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::from(FAILED),
        })
    }
}

fn line(check: &Check, coloured: bool) -> String {
    let (word, colour) = match check.verdict {
        Verdict::Passed => ("ok  ", "32"),
        Verdict::Failed => ("FAIL", "31"),
        Verdict::NotApplicable => ("n/a ", "33"),
    };
    let word = super::test::paint(word, colour, coloured);
    let mut text = format!("{word}  {:<22} {}", check.name, check.promise);
    if !check.reason.is_empty() {
        let reason = output::plain(&check.reason, 1_000);
        text.push_str(&format!("\n      {reason}"));
    }
    if !check.advice.is_empty() {
        text.push_str(&format!("\n      to do: {}", check.advice));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_a_line_and_a_failed_one_says_what_to_do() {
        let check = Check {
            name: "sink.again".into(),
            promise: "a batch may be written again",
            verdict: Verdict::Failed,
            reason: "the second time\u{1b}[2J it failed".into(),
            advice: "overwrite",
        };
        assert_eq!(
            line(&check, false),
            "FAIL  sink.again             a batch may be written again\n      the second time\u{fffd}[2J it failed\n      to do: overwrite"
        );
    }

    #[test]
    fn a_configuration_is_json_or_a_file() {
        assert_eq!(config(Some(r#"{"a":1}"#)).unwrap().unwrap()["a"], 1);
        assert!(config(Some("{")).unwrap_err().contains("not JSON"));
        assert!(
            config(Some("nowhere.yaml"))
                .unwrap_err()
                .contains("no such file")
        );
    }
}
