//! Tests that stand elsewhere: unit tests of the host, and end-to-end tests. Cargo runs them; here is
//! what they found, by their names.

use std::process::Command;

use windlass_tests::toolchain::root;

use crate::trial::Trial;

/// Where a test stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Unit tests.
    Lib,
    /// End to end.
    E2e,
}

/// Tests of one place, by their full names.
#[derive(Debug)]
pub(crate) struct Tests {
    pub(crate) place: Place,
    pub(crate) names: &'static [&'static str],
    /// What they do.
    pub(crate) what: &'static str,
}

/// Runs them; each must be there and pass. What they print is noted.
pub(crate) fn run(trial: &mut Trial, tests: &[Tests]) {
    for tests in tests {
        trial.did(tests.what);
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["test", "--release", "--workspace"]);
        match tests.place {
            Place::Lib => command.arg("--lib"),
            Place::E2e => command.args(["--test", "e2e"]),
        };
        command
            .args(["--", "--exact", "--show-output"])
            .args(tests.names)
            .current_dir(root())
            .env("CARGO_TERM_PROGRESS_WHEN", "never")
            .env("WINDLASS_LONG", if trial.long() { "1" } else { "0" });
        let said = match command.output() {
            Ok(said) => said,
            Err(error) => {
                trial.check("cargo", error, "runs", false);
                return;
            }
        };
        let out = String::from_utf8_lossy(&said.stdout).into_owned();
        for name in tests.names {
            let verdict = out
                .lines()
                .find_map(|line| {
                    line.strip_prefix("test ")?
                        .strip_prefix(name)?
                        .strip_prefix(" ... ")
                })
                .unwrap_or("not there");
            trial.check(&format!("`{name}`"), verdict, "ok", verdict == "ok");
            for line in printed(&out, name) {
                trial.note(line);
            }
        }
        if out.is_empty() {
            trial.note(String::from_utf8_lossy(&said.stderr).trim());
        }
    }
}

/// What a test printed: the lines below its heading, 40 at most.
fn printed<'a>(out: &'a str, name: &str) -> Vec<&'a str> {
    let heading = format!("---- {name} stdout ----");
    out.lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| {
            !line.starts_with("---- ") && *line != "successes:" && *line != "failures:"
        })
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(40)
        .collect()
}
