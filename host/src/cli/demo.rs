//! `windlass demo`: the manifest in `demo/demo.yaml`, in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::folder::Folder;
use super::logs::Logs;
use super::session::{self, Session, Work};
use crate::config::{Manifest, ManifestError, Source};

const MANIFEST: &str = include_str!("../../demo/demo.yaml");

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// End by itself after so many seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    seconds: Option<u64>,
    /// Keep everything in this folder, instead of one that is removed at the end
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// One JSON object per line on stdout: changes of state, and counters every second
    #[arg(long)]
    pub(super) json: bool,
    /// Print the demo's manifest and end: a start for one of your own
    #[arg(long, conflicts_with_all = ["seconds", "data", "json"])]
    manifest: bool,
}

pub(super) async fn demo(arguments: Arguments, logs: &Logs) -> anyhow::Result<ExitCode> {
    if arguments.manifest {
        super::output::say(MANIFEST.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let folder = match &arguments.data {
        Some(folder) => Folder::given(folder),
        None => Folder::temporary("windlass-demo")?,
    };
    std::fs::create_dir_all(folder.path().join("files")).with_context(|| {
        format!(
            "the demo's folder {} cannot be made",
            folder.path().display()
        )
    })?;
    let manifest = match manifest(folder.path()) {
        Ok(manifest) => manifest,
        Err(errors) => return Ok(session::refuse(&errors)),
    };
    let title = format!(
        "Windlass {} demo: simulator -> hot (WHERE temperature > 50) -> memory -> alarms -> {}",
        env!("CARGO_PKG_VERSION"),
        folder.path().join("files").join("alarms.jsonl").display(),
    );
    let session = Session {
        manifest,
        data_dir: folder.path().join("data"),
        json: arguments.json,
        title,
        rows: true,
        lasts: arguments.seconds.map(Duration::from_secs),
        work: Work::Run,
    };
    session::run(session, logs).await
}

/// The demo's manifest; what its `file` sink writes is below `folder`.
fn manifest(folder: &Path) -> Result<Manifest, Vec<ManifestError>> {
    let source = Source {
        name: "demo.yaml".to_owned(),
        text: MANIFEST.to_owned(),
        base: folder.to_owned(),
    };
    let (manifest, errors) = Manifest::parse(&[source], &|name| std::env::var(name).ok());
    if errors.is_empty() {
        Ok(manifest)
    } else {
        Err(errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_manifest_is_sound_whatever_is_set() {
        let manifest = manifest(Path::new("/somewhere")).unwrap();
        assert!(manifest.warnings.is_empty(), "{:?}", manifest.warnings);
        assert_eq!(manifest.files.root, Some(PathBuf::from("/somewhere/files")));
        let ids: Vec<_> = manifest.rules.iter().map(|rule| rule.id.as_str()).collect();
        assert_eq!(ids, ["hot", "alarms", "upstream"]);
        assert_eq!(manifest.connections.len(), 1);
    }
}
