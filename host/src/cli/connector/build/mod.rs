//! `windlass connector build [DIR]`: writes the contract and the language's helpers into `DIR/build`,
//! runs the language's tools, and checks that what they made is a connector. One file per language.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::artifact;
use super::language::Language;
use crate::cli::{BAD_CONFIG, FAILED, output};
use crate::error::chain;
use crate::host::{Host, InspectError};
use crate::kit;
use crate::progress;
use crate::snapshot::Inspection;

mod c;
mod runner;
mod rust;
mod scripts;

pub(super) use runner::{BuildError, Runner};

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// The connector's folder
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Where the component goes; DIR/build/FOLDER.wasm unless told, by the folder's name
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    /// Show the commands that are run, and what they say
    #[arg(long, short)]
    verbose: bool,
}

/// A component that has been built and checked.
#[derive(Debug)]
struct Built {
    file: PathBuf,
    language: Language,
    took: Duration,
    inspection: Inspection,
}

pub(super) async fn build(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let runner = Runner::new(arguments.verbose);
    let file = arguments
        .output
        .unwrap_or_else(|| artifact(&arguments.folder));
    match make(&runner, &arguments.folder, file).await {
        Ok(built) if arguments.json => output::say_json(&built.json())?,
        Ok(built) => output::say(&built.words())?,
        Err(error) => {
            error.complain();
            return Ok(ExitCode::from(error.code()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the connector in a folder; the component stands at `file` only if it is one.
async fn make(runner: &Runner, folder: &Path, file: PathBuf) -> Result<Built, BuildError> {
    let began = Instant::now();
    let language = Language::of(folder)?;
    let build = folder.join("build");
    write_all(&build.join("wit"), kit::below("wit"))?;
    let made = build.join("unchecked.wasm");
    match language {
        Language::Rust => rust::build(runner, folder, &made).await?,
        Language::Python => scripts::python(runner, folder).await?,
        Language::Js => scripts::js(runner, folder).await?,
        Language::C => c::build(runner, folder, &made).await?,
    }
    let took = began.elapsed();
    let inspection = check(&build, &made, &file).await?;
    let attempt = || format!("{} cannot be written", file.display());
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent).map_err(|error| BuildError::io(attempt(), error))?;
    }
    // A copy, not a new name: the place that was given may be on another disk.
    std::fs::copy(&made, &file).map_err(|error| BuildError::io(attempt(), error))?;
    drop(std::fs::remove_file(&made));
    Ok(Built {
        file,
        language,
        took,
        inspection,
    })
}

/// Looks at what was made as `inspect` does; its compiled code stays in `build`, in place of the last.
async fn check(build: &Path, made: &Path, file: &Path) -> Result<Inspection, BuildError> {
    let wasm = std::fs::read(made)
        .map_err(|error| BuildError::io(format!("{} cannot be read", made.display()), error))?;
    drop(std::fs::remove_dir_all(build.join("code")));
    let progress = progress::choose(false);
    let name = file
        .file_stem()
        .map_or_else(|| "connector".into(), std::ffi::OsStr::to_string_lossy);
    Host::inspect(&name, wasm.into(), build, &*progress)
        .await
        .map_err(|error| match error {
            InspectError::Load(error) => BuildError::NoConnector(chain(&error)),
            InspectError::Runtime(_) => BuildError::NoConnector(chain(&error)),
        })
}

/// Writes files of the kit below a folder.
fn write_all<'a>(
    folder: &Path,
    files: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), BuildError> {
    for (path, text) in files {
        write(&folder.join(path), text.as_bytes())?;
    }
    Ok(())
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    let failed = |error| BuildError::io(format!("{} cannot be written", file.display()), error);
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    // What is there already keeps its time, so that nothing is compiled again because of it.
    if std::fs::read(file).is_ok_and(|known| known == bytes) {
        return Ok(());
    }
    std::fs::write(file, bytes).map_err(failed)
}

/// Files of a language's helpers that a connector needs: no tests, no notes, no scripts.
fn helpers<'a>(
    language: &'a str,
    endings: &'a [&'a str],
) -> impl Iterator<Item = (&'static str, &'static str)> + 'a {
    kit::FILES.iter().filter_map(move |(path, text)| {
        let name = path
            .strip_prefix("guests/")?
            .strip_prefix(language)?
            .strip_prefix("/sdk/")?;
        let is_test =
            name.starts_with("test_") || name.contains("_test.") || name.contains(".test.");
        let fits = endings.iter().any(|ending| name.ends_with(ending));
        (fits && !is_test && !name.contains('/')).then_some((name, *text))
    })
}

impl Built {
    fn words(&self) -> String {
        let found = &self.inspection;
        format!(
            "{} {}  ({}, {}, built in {:.1} s)\nroles: {}\nimports: {}\n{}",
            found.name,
            found.version,
            self.language.name(),
            output::size(found.bytes),
            self.took.as_secs_f64(),
            found.roles.join(", "),
            found.imports.join(", "),
            self.file.display()
        )
    }

    fn json(&self) -> serde_json::Value {
        let found = &self.inspection;
        serde_json::json!({
            "file": self.file.display().to_string(),
            "language": self.language.word(),
            "name": found.name,
            "version": found.version,
            "roles": found.roles,
            "bytes": found.bytes,
            "tookMs": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "imports": found.imports,
        })
    }
}

impl BuildError {
    /// The exit code that it means.
    fn code(&self) -> u8 {
        match self {
            Self::Folder(_) => BAD_CONFIG,
            _ => FAILED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_are_what_a_connector_needs_and_nothing_else() {
        let names: Vec<_> = helpers("c", &[".c", ".h"]).map(|(name, _)| name).collect();
        for name in [
            "windlass.h",
            "windlass.c",
            "connector.h",
            "connector.c",
            "json.c",
            "crc.h",
        ] {
            assert!(names.contains(&name), "{name}");
        }
        assert!(
            !names
                .iter()
                .any(|name| name.contains("test") || name.contains("regenerate"))
        );
    }

    #[test]
    fn a_file_that_is_there_already_keeps_its_time() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("a/b");
        write(&file, b"x").unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH;
        let times = std::fs::FileTimes::new().set_modified(old);
        std::fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_times(times)
            .unwrap();
        write(&file, b"x").unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), old);
        write(&file, b"y").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"y");
    }
}
