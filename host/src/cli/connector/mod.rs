//! `windlass connector`: make connectors, build them, look at them, try them. One file per command;
//! holds no logic of the host.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::{BAD_CONFIG, FAILED, folder, output, session};

mod bench;
mod build;
mod check;
mod inspect;
mod language;
mod new;
mod run;
mod test;
mod tools;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a folder with a new connector that builds, with its schema, tests and README
    New(new::Arguments),
    /// Build the connector in a folder into a component, and check that it is one
    Build(build::Arguments),
    /// What a connector's file says of itself: roles, connections it needs, configuration
    Inspect(inspect::Arguments),
    /// Try whether a connector keeps what every connector promises
    Check(check::Arguments),
    /// What a connector costs: time per message, memory, compiling; or whether its memory stays flat
    Bench(bench::Arguments),
    /// Run *.test.yaml: what the connections give, what must come out
    Test(test::Arguments),
    /// One connector alone, on real connections: a source prints lines, a sink reads them
    Run(run::Arguments),
    /// The tools that building needs in each language: which are there, how to get the others
    Tools(tools::Arguments),
}

impl Command {
    /// Its log shows what happens, not warnings alone.
    pub(super) fn runs(&self) -> bool {
        matches!(self, Self::Run(_))
    }
}

pub(super) async fn main(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::New(arguments) => new::new(&arguments),
        Command::Build(arguments) => build::build(arguments).await,
        Command::Inspect(arguments) => inspect::inspect(arguments).await,
        Command::Check(arguments) => check::check(arguments).await,
        Command::Bench(arguments) => bench::bench(arguments).await,
        Command::Test(arguments) => test::test(arguments).await,
        Command::Run(arguments) => run::run(arguments).await,
        Command::Tools(arguments) => tools::tools(&arguments).await,
    }
}

/// Where `build` leaves the component of a connector's folder: `build/<name of the folder>.wasm`.
fn artifact(folder: &Path) -> PathBuf {
    let name = folder
        .canonicalize()
        .ok()
        .and_then(|path| path.file_name().map(std::ffi::OsStr::to_owned))
        .unwrap_or_else(|| "connector".into());
    let mut file = name;
    file.push(".wasm");
    folder.join("build").join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_called_as_its_folder() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("modbus");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(artifact(&folder), folder.join("build/modbus.wasm"));
    }
}
