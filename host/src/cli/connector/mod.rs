//! `windlass connector`: one file per command, for whoever writes or tries a connector. Holds no logic
//! of the host.

use std::process::ExitCode;

use clap::Subcommand;

use super::{BAD_CONFIG, FAILED, folder, output, session};

mod inspect;
mod run;

#[derive(Debug, Subcommand)]
pub(super) enum Connector {
    /// What a connector's file says of itself: roles, connections it needs, configuration
    Inspect(inspect::Arguments),
    /// One connector alone, on real connections: a source prints lines, a sink reads them
    Run(run::Arguments),
}

impl Connector {
    /// Its log shows what happens, not warnings alone.
    pub(super) fn runs(&self) -> bool {
        matches!(self, Self::Run(_))
    }
}

pub(super) async fn main(command: Connector) -> anyhow::Result<ExitCode> {
    match command {
        Connector::Inspect(arguments) => inspect::inspect(arguments).await,
        Connector::Run(arguments) => run::run(arguments).await,
    }
}
