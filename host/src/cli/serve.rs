//! `windlass serve`: a host that is changed through REST and lives in its data folder.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::logs::Logs;
use super::session::{self, Session, Work};
use super::{BAD_CONFIG, output};
use crate::api::{self, guard};
use crate::config::Manifest;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Where everything is kept: definitions, progress, queues, dead letters, compiled connectors
    #[arg(long, value_name = "DIR", default_value = super::folder::DATA)]
    data: PathBuf,
    /// Where REST listens; port 0: any free one [default: 127.0.0.1:9081]
    #[arg(long, value_name = "ADDR")]
    rest: Option<SocketAddr>,
    /// Where HTTP pushes are taken; port 0: any free one [default: 127.0.0.1:10081]
    #[arg(long, value_name = "ADDR")]
    push: Option<SocketAddr>,
    /// Settings: the sections rest, push, files, limits of a manifest
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// eKuiper's folder etc: mqtt_source.yaml, sources/*.yaml, connections/connection.yaml, with the
    /// variables that go over them; taken in when they have changed since the last start
    #[arg(long, value_name = "DIR")]
    etc: Option<PathBuf>,
    /// Manifests whose definitions are made, or changed where they differ, at each start
    #[arg(long, value_name = "FILE")]
    manifest: Vec<PathBuf>,
    /// Listen on an address that other machines reach, though anybody could do anything there
    #[arg(long)]
    insecure_no_auth: bool,
    /// One JSON object per line on stdout: where it listens, changes of state, counters every second
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn serve(arguments: Arguments, logs: &Logs) -> anyhow::Result<ExitCode> {
    let files: Vec<PathBuf> = arguments
        .config
        .iter()
        .chain(&arguments.manifest)
        .cloned()
        .collect();
    let mut manifest = Manifest::default();
    if !files.is_empty() {
        let (read, errors) = Manifest::read(&files);
        if !errors.is_empty() {
            return Ok(session::refuse(&errors));
        }
        manifest = read;
    }
    if arguments.rest.is_some() {
        manifest.rest.address = arguments.rest;
    }
    if arguments.push.is_some() {
        manifest.push.address = arguments.push;
    }
    let address = manifest.rest.address.unwrap_or(api::ADDRESS);
    let authenticated = manifest.rest.keys.is_some();
    if let Err(exposed) = guard::exposure(address, authenticated, arguments.insecure_no_auth) {
        output::complain(&exposed.to_string());
        return Ok(ExitCode::from(BAD_CONFIG));
    }
    session::run(
        Session {
            manifest,
            data_dir: arguments.data,
            json: arguments.json,
            title: format!("Windlass {}", env!("CARGO_PKG_VERSION")),
            rows: false,
            lasts: None,
            work: Work::Serve { etc: arguments.etc },
            hint: None,
        },
        logs,
    )
    .await
}
