//! `windlass completions SHELL`: what a shell needs to complete commands and flags.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, output};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The shell
    shell: Shell,
}

/// To stdout: `windlass completions bash > /etc/bash_completion.d/windlass`.
pub(super) fn completions(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    let mut command = Cli::command();
    clap_complete::generate(arguments.shell, &mut command, "windlass", &mut script);
    output::say(String::from_utf8(script)?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
