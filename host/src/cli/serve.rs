//! `windlass serve`: a host that is changed through REST and lives in its data folder.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::logs::Logs;
use super::session::{self, Session, Work};
use super::{BAD_CONFIG, output};
use crate::api::{self, guard};
use crate::config::ekuiper::{self, Bundle, ServerSettings};
use crate::config::{Manifest, ManifestError};

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
    /// variables that go over them; taken in when they have changed since the last start. Addresses,
    /// TLS, authentication and the log level of kuiper.yaml count where nothing else says them
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
    let mut etc = None;
    let mut level = None;
    if let Some(folder) = &arguments.etc {
        match read_etc(folder).await {
            Ok((bundle, settings)) => {
                level = settings.log;
                take_settings(&mut manifest, settings, arguments.insecure_no_auth);
                etc = Some(Box::new(bundle));
            }
            Err(errors) => return Ok(session::refuse(&errors)),
        }
    }
    if let Some(level) = level {
        logs.set_level_unless_told(level);
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
            work: Work::Serve { etc },
            hint: None,
        },
        logs,
    )
    .await
}

/// eKuiper's folder, with what it says of the server.
async fn read_etc(folder: &Path) -> Result<(Bundle, ServerSettings), Vec<ManifestError>> {
    let folder = folder.to_owned();
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let read = move || {
        let mut bundle = ekuiper::read_etc(&folder, &environment)?;
        let settings = bundle.server_settings(&folder)?;
        Ok((bundle, settings))
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}

/// Settings of `kuiper.yaml`, where the file of `--config` does not say them. eKuiper listens to
/// everybody, with authentication or without; here that takes one or the flag, and its files are no
/// reason not to start: without either, REST is for this machine alone.
fn take_settings(manifest: &mut Manifest, settings: ServerSettings, insecure: bool) {
    let (rest, push) = (&mut manifest.rest, &mut manifest.push);
    rest.keys = rest.keys.take().or(settings.keys);
    if rest.address.is_none()
        && let Some(address) = settings.rest
    {
        let is_safe = guard::exposure(address, rest.keys.is_some(), insecure);
        rest.address = Some(match is_safe {
            Ok(()) => address,
            Err(exposed) => {
                let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port());
                tracing::warn!("kuiper.yaml: {exposed}; REST listens on {here}");
                here
            }
        });
    }
    rest.tls = rest.tls.take().or(settings.rest_tls);
    push.address = push.address.or(settings.push);
    push.tls = push.tls.take().or(settings.push_tls);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(manifest: &mut Manifest, insecure: bool, keys: bool) -> Option<SocketAddr> {
        let settings = ServerSettings {
            rest: Some("0.0.0.0:9082".parse().unwrap()),
            push: Some("127.0.0.1:10082".parse().unwrap()),
            keys: keys.then(|| PathBuf::from("etc/mgmt")),
            ..ServerSettings::default()
        };
        take_settings(manifest, settings, insecure);
        manifest.rest.address
    }

    #[test]
    fn an_address_of_kuiper_yaml_is_open_to_others_only_with_tokens_or_the_flag() {
        let open = Some("0.0.0.0:9082".parse().unwrap());
        let here = Some("127.0.0.1:9082".parse().unwrap());
        assert_eq!(taken(&mut Manifest::default(), false, false), here);
        assert_eq!(taken(&mut Manifest::default(), false, true), open);
        assert_eq!(taken(&mut Manifest::default(), true, false), open);
    }

    #[test]
    fn what_the_settings_file_says_goes_before_kuiper_yaml() {
        let mut manifest = Manifest::default();
        manifest.rest.address = Some("127.0.0.1:7".parse().unwrap());
        manifest.push.address = Some("127.0.0.1:8".parse().unwrap());
        let own = manifest.rest.address;
        assert_eq!(taken(&mut manifest, true, true), own);
        assert_eq!(manifest.push.address, Some("127.0.0.1:8".parse().unwrap()));
    }
}
