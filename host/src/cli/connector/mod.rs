//! `windlass connector ...`: what authors of connectors need. One file per command.

use std::process::ExitCode;

use clap::Subcommand;

mod check;
mod inspect;
mod test;

#[derive(Debug, Subcommand)]
pub(super) enum Connector {
    /// What a connector's file says of itself: roles, connections it needs, configuration
    Inspect(inspect::Arguments),
    /// Try whether a connector keeps what every connector promises
    Check(check::Arguments),
    /// Run *.test.yaml: what the connections give, what must come out
    Test(test::Arguments),
}

pub(super) async fn main(command: Connector) -> anyhow::Result<ExitCode> {
    match command {
        Connector::Inspect(arguments) => inspect::inspect(arguments).await,
        Connector::Check(arguments) => check::check(arguments).await,
        Connector::Test(arguments) => test::test(arguments).await,
    }
}
