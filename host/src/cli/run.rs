//! `windlass run FILE...`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::logs::Logs;
use super::session::{self, Session, Work};
use super::{check, output};
use crate::config::Manifest;
use crate::host::Host;
use crate::progress;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Manifests (YAML or JSON), merged
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where progress, queues, dead letters and compiled connectors are kept
    #[arg(long, value_name = "DIR", default_value = super::folder::DATA)]
    data: PathBuf,
    /// Where HTTP pushes are taken, in place of the manifest's `push.address`; port 0: any free one
    #[arg(long, value_name = "ADDR")]
    push: Option<SocketAddr>,
    /// One JSON object per line on stdout: changes of state, and counters every second
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn run(arguments: Arguments, logs: &Logs) -> anyhow::Result<ExitCode> {
    let (mut manifest, mut errors) = Manifest::read(&arguments.files);
    if !errors.is_empty() {
        if manifest.whole {
            // What else is wrong is said at once too.
            let progress = progress::choose(arguments.json);
            let more = Host::check(&manifest, &arguments.data, false, &*progress).await?;
            check::add_new(&mut errors, more.errors);
        }
        return Ok(session::refuse(&errors));
    }
    if arguments.push.is_some() {
        manifest.push.address = arguments.push;
    }
    let title = format!(
        "Windlass {}: {}, {}",
        env!("CARGO_PKG_VERSION"),
        output::count(manifest.connections.len(), "connection"),
        output::count(manifest.rules.len(), "rule"),
    );
    let Arguments {
        data: data_dir,
        json,
        ..
    } = arguments;
    session::run(
        Session {
            manifest,
            data_dir,
            json,
            title,
            rows: false,
            lasts: None,
            work: Work::Run,
            hint: None,
        },
        logs,
    )
    .await
}
