//! A host from start to stop, shown by a view: what `run` and `demo` have in common.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior};

use super::logs::Logs;
use super::output::{self, Kind};
use super::table::TableView;
use super::view::{JsonView, LinesView, ROWS, View};
use super::{BAD_CONFIG, FAILED};
use crate::config::Manifest;
use crate::config::ekuiper::Bundle;
use crate::host::{Host, HostConfig, ServeConfig, StartError};
use crate::progress;
use crate::snapshot::{Change, Snapshot};

/// How long a host that stops may deliver what is under way.
const DRAIN: Duration = Duration::from_secs(10);
/// The exit code when a client has asked to be started anew (`/data/import?stop=1`): eKuiper's.
const START_ANEW: u8 = 100;
/// How often the table is drawn and plain rows are looked for.
const SECOND: Duration = Duration::from_secs(1);

/// What to run and how to show it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) manifest: Manifest,
    pub(super) data_dir: PathBuf,
    pub(super) json: bool,
    /// Above the table, or as the first line.
    pub(super) title: String,
    /// Results of queries are shown too.
    pub(super) rows: bool,
    /// End by itself after this long.
    pub(super) lasts: Option<Duration>,
    pub(super) work: Work,
    /// What to say once pushes are taken, made from where they arrive.
    pub(super) hint: Option<fn(&str) -> String>,
}

/// What a session does with its manifest.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// It runs what the manifest says, and nothing else.
    Run,
    /// It serves REST over its data folder; the manifest has settings, and definitions to take in.
    Serve {
        /// What eKuiper's folder `etc` says.
        etc: Option<Box<Bundle>>,
    },
}

/// Starts the host, shows it, and stops it at a signal or at the end of its time.
pub(super) async fn run(session: Session, logs: &Logs) -> anyhow::Result<ExitCode> {
    let Session {
        manifest,
        data_dir,
        json,
        title,
        rows,
        lasts,
        work,
        hint,
    } = session;
    output::complain_of(Kind::Warning, &manifest.warnings);
    let mut signals = Signals::listen()?;
    let config = HostConfig {
        data_dir,
        progress: progress::choose(json),
        rows: if rows { ROWS } else { 0 },
    };
    let starting = async {
        match work {
            Work::Run => Host::start(config, manifest).await,
            Work::Serve { etc } => {
                let host = config;
                Host::serve(ServeConfig {
                    host,
                    manifest,
                    etc: etc.map(|etc| *etc),
                })
                .await
            }
        }
    };
    let host = tokio::select! {
        started = starting => match started {
            Ok(host) => host,
            Err(StartError::Config(errors)) => return Ok(refuse(&errors)),
            Err(error) => return Err(error.into()),
        },
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let mut view: Box<dyn View> = if json {
        Box::new(JsonView)
    } else if io::IsTerminal::is_terminal(&io::stdout()) {
        Box::new(TableView::new(title, rows, logs.clone()))
    } else {
        output::say(&title)?;
        Box::new(LinesView::new(10, rows))
    };
    if let Some(address) = host.rest_address() {
        view.listening(address)?;
    }
    let shown = show(&host, view.as_mut(), &mut signals, lasts, hint).await;
    // A reader that has gone is no reason to leave the host running, nor to stop it in a hurry.
    let told = shown.and_then(|()| view.stopping());
    let last = host.snapshot();
    let well = match host.is_leaving() {
        true => ExitCode::from(START_ANEW),
        false => ExitCode::SUCCESS,
    };
    let ended = tokio::select! {
        () = host.stop(DRAIN) => well,
        () = signals.next() => ExitCode::from(FAILED),
    };
    logs.release();
    told.and_then(|()| view.end(&last))?;
    Ok(ended)
}

/// Says all mistakes and gives the exit code for them.
pub(super) fn refuse(errors: &[crate::config::ManifestError]) -> ExitCode {
    output::complain_of(Kind::Error, errors);
    output::complain(&format!(
        "{}; nothing was started",
        output::count(errors.len(), "mistake")
    ));
    ExitCode::from(BAD_CONFIG)
}

async fn show(
    host: &Host,
    view: &mut dyn View,
    signals: &mut Signals,
    lasts: Option<Duration>,
    mut hint: Option<fn(&str) -> String>,
) -> io::Result<()> {
    let mut changes = host.changes();
    let mut ticks = tokio::time::interval(SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = lasts.map(|lasts| Instant::now() + lasts);
    let over = async {
        match end {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    // States that were entered before anybody listened.
    for change in host.snapshot().states() {
        view.change(&change)?;
    }
    loop {
        tokio::select! {
            () = signals.next() => return Ok(()),
            () = &mut over => return Ok(()),
            () = host.asked_to_leave() => return Ok(()),
            _ = ticks.tick() => {
                let snapshot = host.snapshot();
                if let Some(address) = takes_pushes(&snapshot)
                    && let Some(hint) = hint.take()
                {
                    view.hint(&hint(address))?;
                }
                view.tick(&snapshot)?;
            }
            change = changes.recv() => match change {
                Ok(change) if !matches!(change, Change::Missed { .. }) => view.change(&change)?,
                // Too many at once: the states as they are now say the same.
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    for change in host.snapshot().states() {
                        view.change(&change)?;
                    }
                }
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

/// Where pushes arrive, once somebody takes them.
fn takes_pushes(snapshot: &Snapshot) -> Option<&str> {
    let starting = snapshot.rules.iter().any(|rule| rule.status == "starting");
    snapshot.push.as_deref().filter(|_| !starting)
}

/// Ctrl-C, and SIGTERM where there is one.
#[derive(Debug)]
pub(super) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    pub(super) fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    #[cfg(unix)]
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    pub(super) async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
