//! `windlass schema [FILE...]`: a JSON Schema of a manifest, for editors.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::folder::Folder;
use super::{output, session};
use crate::config::{Manifest, ManifestError};
use crate::host::StartError;
use crate::host::schema::manifest_schema;
use crate::progress;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Manifests whose own connectors are to be in it too
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where compiled connectors are kept; ./windlass-data if that is there, else a temporary folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) async fn schema(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let manifest = if arguments.files.is_empty() {
        Manifest::default()
    } else {
        let (manifest, errors) = Manifest::read(&arguments.files);
        // Whoever wants help with a manifest has one with mistakes: only its connectors count here.
        let own: Vec<ManifestError> = errors
            .into_iter()
            .filter(|error| error.line == 0 || error.pointer.starts_with("/connectors"))
            .collect();
        if !own.is_empty() {
            return Ok(session::refuse(&own));
        }
        manifest
    };
    let folder = Folder::for_code(arguments.data.as_deref())?;
    let progress = progress::choose(false);
    match manifest_schema(&manifest, folder.path(), &*progress).await {
        Ok(schema) => output::say(&serde_json::to_string_pretty(&schema)?)?,
        Err(StartError::Config(errors)) => return Ok(session::refuse(&errors)),
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}
