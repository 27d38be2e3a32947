//! `windlass check FILE...`: every mistake at once, nothing started.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::folder::Folder;
use super::output::{self, Kind};
use super::{BAD_CONFIG, FAILED};
use crate::config::{Manifest, ManifestError};
use crate::host::Host;
use crate::progress;
use crate::snapshot::{Checked, Dialled};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Manifests (YAML or JSON), merged
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Try the named connections too, once each
    #[arg(long)]
    dial: bool,
    /// Where compiled connectors are kept; ./windlass-data if that is there, else a temporary folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) async fn check(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (manifest, mut errors) = Manifest::read(&arguments.files);
    let mut checked = Checked::default();
    // With a definition left out, everything that refers to it would be called a mistake too.
    if manifest.whole {
        let folder = Folder::for_code(arguments.data.as_deref())?;
        // Progress goes to stderr: stdout is the one answer.
        let progress = progress::choose(false);
        let dial = arguments.dial && errors.is_empty();
        checked = Host::check(&manifest, folder.path(), dial, &*progress).await?;
    }
    add_new(&mut errors, checked.errors);
    let mut warnings = manifest.warnings.clone();
    warnings.append(&mut checked.warnings);
    ManifestError::arrange(&mut warnings);
    let unreachable = checked
        .dialled
        .iter()
        .filter(|one| one.err.is_some())
        .count();

    if arguments.json {
        output::say_json(&json!({
            "ok": errors.is_empty() && unreachable == 0,
            "errors": errors,
            "warnings": warnings,
            "dialled": checked.dialled,
        }))?;
    } else {
        output::complain_of(Kind::Error, &errors);
        output::complain_of(Kind::Warning, &warnings);
        for one in &checked.dialled {
            output::say(&dialled(one))?;
        }
        if errors.is_empty() {
            output::say(&sound(&manifest))?;
        } else {
            output::complain(&output::count(errors.len(), "mistake"));
        }
    }
    Ok(if !errors.is_empty() {
        ExitCode::from(BAD_CONFIG)
    } else if unreachable > 0 {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

/// More mistakes, without those that only follow from one that was found at the same place.
pub(super) fn add_new(errors: &mut Vec<ManifestError>, more: Vec<ManifestError>) {
    let places: Vec<_> = errors.iter().map(ManifestError::place).collect();
    errors.extend(
        more.into_iter()
            .filter(|error| !places.contains(&error.place())),
    );
    ManifestError::arrange(errors);
}

fn sound(manifest: &Manifest) -> String {
    format!(
        "sound: {}, {}, {}",
        output::count(manifest.connections.len(), "connection"),
        output::count(manifest.streams.len(), "stream"),
        output::count(manifest.rules.len(), "rule"),
    )
}

fn dialled(one: &Dialled) -> String {
    let took = one.took_ms;
    match &one.err {
        None => format!(
            "connection  {} ({})  connected in {took} ms",
            one.id, one.typ
        ),
        Some(err) => format!(
            "connection  {} ({})  failed after {took} ms: {}",
            one.id,
            one.typ,
            output::plain(err, 400)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_a_line() {
        assert_eq!(
            sound(&Manifest::default()),
            "sound: 0 connections, 0 streams, 0 rules"
        );
        let mut one = Dialled {
            id: "plant".into(),
            typ: "mqtt".into(),
            err: None,
            took_ms: 3,
        };
        assert_eq!(dialled(&one), "connection  plant (mqtt)  connected in 3 ms");
        one.err = Some("refused".into());
        assert_eq!(
            dialled(&one),
            "connection  plant (mqtt)  failed after 3 ms: refused"
        );
    }
}
