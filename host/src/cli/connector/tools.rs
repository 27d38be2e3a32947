//! The tools that building needs: where they are looked for, which versions work, how to get them.
//! And `windlass connector tools`, which shows that, and installs those of Python and JavaScript.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::build::{BuildError, Runner};
use super::language::Language;
use crate::cli::{FAILED, output};

/// A folder with `python/bin` and `node/node_modules/.bin`, looked into first.
const FOLDER: &str = "WINDLASS_TOOLS";
/// The same in a user's home, looked into last.
const HOME_FOLDER: &str = ".windlass";

/// A program that building needs.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) program: &'static str,
    language: Language,
    /// Older ones are known not to work.
    least: [u32; 3],
    /// What to do where it is missing or too old.
    install: &'static str,
}

pub(super) const CARGO: Tool = Tool {
    program: "cargo",
    language: Language::Rust,
    least: [1, 95, 0],
    install: "install Rust with rustup (https://rustup.rs), then `rustup update stable`",
};
pub(super) const COMPONENTIZE_PY: Tool = Tool {
    program: "componentize-py",
    language: Language::Python,
    least: [0, 25, 0],
    install: "`python3 -m venv ~/.windlass/python && ~/.windlass/python/bin/pip install componentize-py==0.25.1`",
};
pub(super) const COMPONENTIZE_QJS: Tool = Tool {
    program: "componentize-qjs",
    language: Language::Js,
    least: [0, 4, 0],
    install: "`npm install --prefix ~/.windlass/node componentize-qjs@0.4.5`",
};
pub(super) const CLANG: Tool = Tool {
    program: "clang",
    language: Language::C,
    least: [11, 0, 0],
    install: C_PACKAGES,
};
/// Compiler, linker, C library and the compiler's own library, as Debian and Ubuntu have them.
pub(super) const C_PACKAGES: &str = "`apt-get install clang lld wasi-libc libclang-rt-dev-wasm32`, or set WASI_SDK_PATH to a wasi-sdk";
pub(super) const RUST_TARGET: &str = "`rustup target add wasm32-wasip2`";

const ALL: [&Tool; 4] = [&CARGO, &COMPONENTIZE_PY, &COMPONENTIZE_QJS, &CLANG];

impl Tool {
    /// Where it is.
    pub(super) fn find(&self) -> Result<PathBuf, BuildError> {
        self.places()
            .into_iter()
            .map(|folder| folder.join(self.program))
            .find(|file| file.is_file())
            .ok_or(BuildError::Missing {
                what: self.program.to_owned(),
                install: self.install,
            })
    }

    fn places(&self) -> Vec<PathBuf> {
        let home = std::env::home_dir().map(|home| home.join(HOME_FOLDER));
        let given = std::env::var_os(FOLDER).map(PathBuf::from);
        let own = |folder: &PathBuf| match self.language {
            Language::Python => vec![folder.join("python/bin")],
            Language::Js => vec![folder.join("node/node_modules/.bin")],
            Language::Rust | Language::C => Vec::new(),
        };
        let sdk = std::env::var_os("WASI_SDK_PATH").filter(|_| self.language == Language::C);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<PathBuf> = given.iter().flat_map(own).collect();
        places.extend(sdk.map(|sdk| PathBuf::from(sdk).join("bin")));
        places.extend(std::env::split_paths(&path));
        places.extend(home.iter().flat_map(own));
        places
    }

    /// Where it is, if it is of a version that works.
    pub(super) async fn ready(&self, runner: &Runner) -> Result<PathBuf, BuildError> {
        let file = self.find()?;
        let said = runner.ask(&file, &["--version"]).await?;
        match version(&said) {
            Some(found) if found < self.least => Err(BuildError::Version {
                what: self.program.to_owned(),
                found: dotted(found),
                least: dotted(self.least),
                install: self.install,
            }),
            _ => Ok(file),
        }
    }
}

/// The first version in what a program says of itself.
fn version(said: &str) -> Option<[u32; 3]> {
    said.split(|c: char| !c.is_ascii_digit() && c != '.')
        .find_map(|word| {
            let mut parts = word.splitn(4, '.').map(str::parse::<u32>);
            Some([
                parts.next()?.ok()?,
                parts.next()?.ok()?,
                parts.next()?.ok()?,
            ])
        })
}

fn dotted(version: [u32; 3]) -> String {
    version.map(|part| part.to_string()).join(".")
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// Install the tools of Python and JavaScript into this folder, for WINDLASS_TOOLS
    #[arg(long, value_name = "DIR")]
    install: Option<PathBuf>,
    /// Show the commands that are run
    #[arg(long)]
    verbose: bool,
}

pub(super) async fn tools(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runner = Runner::new(arguments.verbose);
    if let Some(folder) = &arguments.install {
        std::fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        if let Err(error) = install(&runner, &folder).await {
            error.complain();
            return Ok(ExitCode::from(FAILED));
        }
        output::say(&format!("export {FOLDER}={}", folder.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut missing = false;
    for tool in ALL {
        let state = match tool.ready(&runner).await {
            Ok(file) => file.display().to_string(),
            Err(error) => {
                missing = true;
                error.to_string()
            }
        };
        output::say(&format!("{:<11} {state}", tool.language.name()))?;
    }
    Ok(ExitCode::from(if missing { FAILED } else { 0 }))
}

/// Puts the tools of Python and JavaScript where [`Tool::find`] looks for them.
async fn install(runner: &Runner, folder: &Path) -> Result<(), BuildError> {
    let python = folder.join("python");
    let node = folder.join("node");
    let steps: [(&str, PathBuf, Vec<OsString>); 3] = [
        (
            "making a virtual environment for Python",
            "python3".into(),
            vec!["-m".into(), "venv".into(), python.clone().into()],
        ),
        (
            "installing componentize-py",
            python.join("bin/pip"),
            vec!["install".into(), "componentize-py==0.25.1".into()],
        ),
        (
            "installing componentize-qjs",
            "npm".into(),
            vec![
                "install".into(),
                "--prefix".into(),
                node.into(),
                "componentize-qjs@0.4.5".into(),
            ],
        ),
    ];
    for (words, program, arguments) in steps {
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).current_dir(folder);
        runner.run(words, command).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_programs_say() {
        for (said, found) in [
            ("componentize-py 0.25.1", Some([0, 25, 1])),
            (
                "Debian clang version 14.0.6\nTarget: x86_64",
                Some([14, 0, 6]),
            ),
            ("cargo 1.95.0 (f2d3ce0bd 2026-03-24)", Some([1, 95, 0])),
            ("0.4.5", Some([0, 4, 5])),
            ("no version", None),
        ] {
            assert_eq!(version(said), found, "{said}");
        }
        assert!([0, 24, 9] < COMPONENTIZE_PY.least && [0, 25, 1] >= COMPONENTIZE_PY.least);
    }

    #[test]
    fn a_missing_tool_names_the_command_that_installs_it() {
        let tool = Tool {
            program: "no-such-tool-anywhere",
            ..COMPONENTIZE_PY
        };
        let error = tool.find().unwrap_err().to_string();
        assert!(
            error.contains("no-such-tool-anywhere") && error.contains("componentize-py==0.25.1"),
            "{error}"
        );
    }
}
