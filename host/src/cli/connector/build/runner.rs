//! Runs tools: the step is shown while it lasts, the command with `--verbose`, what a tool said whole
//! where it fails.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::process::Command;

use crate::cli::output;
use crate::kit::EncodeError;
use crate::progress;

/// Runs tools, and shows what they do as far as was asked for.
#[derive(Debug)]
pub(in crate::cli::connector) struct Runner {
    verbose: bool,
}

impl Runner {
    pub(in crate::cli::connector) fn new(verbose: bool) -> Self {
        Self { verbose }
    }

    /// Runs a command to its end; answers its standard output.
    pub(in crate::cli::connector) async fn run(
        &self,
        step: &str,
        mut command: Command,
    ) -> Result<String, BuildError> {
        let line = line(&command);
        if self.verbose {
            output::show(&format!("$ {line}"));
        }
        let shown = progress::step(step);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ended = command.output().await;
        drop(shown);
        let ended = ended.map_err(|error| BuildError::io(format!("cannot run {line}"), error))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&ended.stdout), text(&ended.stderr));
        if !ended.status.success() {
            return Err(BuildError::Failed {
                line,
                status: ended.status,
                said: format!("{out}{err}"),
            });
        }
        if self.verbose {
            output::show(&err);
        }
        Ok(out)
    }

    /// A short question to a tool, which is not shown.
    pub(in crate::cli::connector) async fn ask(
        &self,
        program: &Path,
        arguments: &[&str],
    ) -> Result<String, BuildError> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let ended = command
            .output()
            .await
            .map_err(|error| BuildError::io(format!("cannot run {}", program.display()), error))?;
        let mut said = String::from_utf8_lossy(&ended.stdout).into_owned();
        if said.trim().is_empty() {
            said = String::from_utf8_lossy(&ended.stderr).into_owned();
        }
        Ok(said)
    }
}

/// A command as a person would type it.
fn line(command: &Command) -> String {
    let command = command.as_std();
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(name, value)| {
            let value = value?.to_string_lossy();
            Some(format!("{}={}", name.to_string_lossy(), quoted(&value)))
        })
        .collect();
    let parts = std::iter::once(command.get_program()).chain(command.get_args());
    words.extend(parts.map(|part| quoted(&part.to_string_lossy())));
    let line = words.join(" ");
    match command.get_current_dir() {
        Some(folder) if folder != Path::new(".") => {
            format!("cd {} && {line}", quoted(&folder.to_string_lossy()))
        }
        _ => line,
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli::connector) enum BuildError {
    /// What was given is no connector's folder.
    #[error("{0}")]
    Folder(String),
    /// A tool is not there.
    #[error("{what} is missing: {install}")]
    Missing { what: String, install: &'static str },
    /// A tool is too old.
    #[error("{what} {found} is known not to work, {least} or later is needed: {install}")]
    Version {
        what: String,
        found: String,
        least: String,
        install: &'static str,
    },
    /// A tool failed.
    #[error("it was not built: {line} ended with {status}")]
    Failed {
        line: String,
        status: ExitStatus,
        said: String,
    },
    /// A tool made nothing, or something else.
    #[error("it was not built: {0}")]
    Nothing(String),
    /// The module cannot be made into a component.
    #[error("it was built, but {0}")]
    Component(#[from] EncodeError),
    /// The component is no connector.
    #[error("it was built, but it is no connector of this contract: {0}")]
    NoConnector(String),
    /// The machine refused something.
    #[error("{attempt}: {source}")]
    Io { attempt: String, source: io::Error },
}

impl BuildError {
    pub(in crate::cli::connector) fn io(attempt: String, source: io::Error) -> Self {
        Self::Io { attempt, source }
    }

    /// Says it, after all that the tool said.
    pub(in crate::cli::connector) fn complain(&self) {
        if let Self::Failed { said, .. } = self {
            output::show(said);
        }
        output::complain(&self.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("clang");
        command
            .args(["-O2", "a b.c", "it's"])
            .env("X", "")
            .current_dir("some where");
        assert_eq!(
            line(&command),
            r"cd 'some where' && X='' clang -O2 'a b.c' 'it'\''s'"
        );
    }

    #[tokio::test]
    async fn what_a_failing_tool_said_is_kept_whole() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let error = Runner::new(false).run("trying", command).await.unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        let BuildError::Failed { said, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(said, "out\nerr\n");
    }
}
