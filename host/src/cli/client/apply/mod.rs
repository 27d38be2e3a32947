//! `windlass apply -f FILE`: makes a server have what manifests say. Creates and changes in the order
//! of dependence; deletes what the manifests do not have only with `--prune`, and names it first.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

mod desired;
mod difference;
mod present;
mod send;

use self::desired::desired;
use self::difference::{Step, Steps, steps};
use self::present::present;
use super::Common;
use crate::cli::output::{self, Kind};
use crate::cli::{BAD_CONFIG, FAILED};

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Manifests (YAML or JSON), merged
    #[arg(short, long = "file", required = true, value_name = "FILE", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Delete what the server has and the manifests do not
    #[arg(long)]
    prune: bool,
    /// Only show the difference; exit code 0 if there is none, else 1
    #[arg(long)]
    dry_run: bool,
}

/// What an item is, in the order of dependence: what stands first needs nothing that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum What {
    Connector,
    Connection,
    ConfKey,
    Stream,
    Rule,
}

impl What {
    fn word(self) -> &'static str {
        match self {
            Self::Connector => "connector",
            Self::Connection => "connection",
            Self::ConfKey => "conf key",
            Self::Stream => "stream",
            Self::Rule => "rule",
        }
    }
}

/// One definition, so that two of them can be compared.
#[derive(Clone)]
pub(super) struct Item {
    what: What,
    /// Conf keys as `type/key`.
    id: String,
    /// May hold secrets.
    body: Value,
    /// A connector's file.
    file: Option<PathBuf>,
}

pub(in crate::cli) async fn apply(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments {
        common,
        files,
        prune,
        dry_run,
    } = arguments;
    let wanted = match desired(&files) {
        Ok(wanted) => wanted,
        Err(errors) => {
            output::complain_of(Kind::Error, &errors);
            let mistakes = output::count(errors.len(), "mistake");
            output::complain(&format!("{mistakes}; nothing was sent"));
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    };
    output::complain_of(Kind::Warning, &wanted.warnings);
    for section in wanted.local {
        output::complain(&format!(
            "the section \"{section}\" belongs to the server's own configuration and is not sent"
        ));
    }
    let rest = common.connect()?;
    let there = present(&rest).await?;
    let steps = steps(&wanted.items, &there, prune);
    let json = common.json;
    if dry_run {
        for step in &steps.0 {
            show(step, json, None)?;
        }
        let same = steps.0.is_empty();
        if !json {
            output::say(&summary(&steps, wanted.items.len(), "would be "))?;
        }
        return Ok(if same {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FAILED)
        });
    }
    let deletions = steps.0.iter().filter(|step| step.is_deletion()).count();
    if deletions > 0 && !json {
        output::say(&format!(
            "{} will be deleted:",
            output::count(deletions, "item")
        ))?;
        for step in steps.0.iter().filter(|step| step.is_deletion()) {
            output::say(&format!("  {} {}", step.what().word(), step.id()))?;
        }
    }
    let mut failed = 0_usize;
    for step in &steps.0 {
        if step.is_deletion() && failed > 0 {
            show(
                step,
                json,
                Some(Err(
                    "not deleted, because something before it failed".to_owned()
                )),
            )?;
            continue;
        }
        let done = send::send(&rest, step).await?;
        failed += usize::from(done.is_err());
        show(step, json, Some(done))?;
    }
    if !json {
        output::say(&summary(&steps, wanted.items.len(), ""))?;
    }
    if failed > 0 {
        output::complain(&format!("{} failed", output::count(failed, "step")));
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

/// One step with its differences, and what came of it.
fn show(step: &Step, json: bool, done: Option<Result<String, String>>) -> anyhow::Result<()> {
    if json {
        let differences: Vec<Value> = step.differences().iter().map(|one| one.to_json()).collect();
        let mut line = json!({
            "kind": step.what().word(), "id": step.id(), "action": step.verb(),
            "differences": differences,
        });
        if let (Some(fields), Some(done)) = (line.as_object_mut(), &done) {
            fields.insert("ok".to_owned(), done.is_ok().into());
            let (Ok(said) | Err(said)) = done;
            fields.insert("message".to_owned(), said.trim().into());
        }
        output::say_json(&line)?;
        return Ok(());
    }
    let head = format!("{} {}: {}", step.what().word(), step.id(), step.verb());
    match done {
        None | Some(Ok(_)) => output::say(&head)?,
        Some(Err(why)) => {
            output::say(&format!("{head}: failed"))?;
            output::complain(&format!("{} {}: {why}", step.what().word(), step.id()));
        }
    }
    for one in step.differences() {
        output::say(&format!("    {}", one.to_line()))?;
    }
    Ok(())
}

fn summary(steps: &Steps, wanted: usize, would: &str) -> String {
    let count = |verb: &str| steps.0.iter().filter(|step| step.verb() == verb).count();
    let (new, changed, deleted) = (count("create"), count("change"), count("delete"));
    let same = wanted.saturating_sub(new + changed);
    format!(
        "{new} {would}created, {changed} {would}changed, {deleted} {would}deleted, {same} the same"
    )
}
