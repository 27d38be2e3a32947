//! Rust: cargo makes a component by itself for wasm32-wasip2.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::{BuildError, Runner};
use crate::cli::connector::tools::{CARGO, RUST_TARGET};

const TARGET: &str = "wasm32-wasip2";

pub(super) async fn build(runner: &Runner, folder: &Path, made: &Path) -> Result<(), BuildError> {
    let cargo = CARGO.ready(runner).await?;
    have_target(runner, &cargo).await?;
    let mut command = Command::new(cargo);
    command
        .args(["build", "--release", "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(folder)
        // Empty goes before flags in the environment and in a configuration file, which are meant for
        // the machine, not for wasm.
        .env("CARGO_ENCODED_RUSTFLAGS", "");
    let said = runner
        .run(
            "compiling with cargo (for the first time it takes a minute)",
            command,
        )
        .await?;
    let component = component(&said).ok_or_else(|| {
        BuildError::Nothing(
            "cargo made no .wasm: Cargo.toml needs [lib] crate-type = [\"cdylib\"]".to_owned(),
        )
    })?;
    std::fs::copy(&component, made).map_err(|error| {
        BuildError::io(format!("{} cannot be taken", component.display()), error)
    })?;
    Ok(())
}

async fn have_target(runner: &Runner, cargo: &Path) -> Result<(), BuildError> {
    let beside = cargo.with_file_name("rustc");
    let rustc = if beside.is_file() {
        beside
    } else {
        PathBuf::from("rustc")
    };
    let folder = runner
        .ask(&rustc, &["--print", "target-libdir", "--target", TARGET])
        .await?;
    if Path::new(folder.trim()).is_dir() {
        return Ok(());
    }
    Err(BuildError::Missing {
        what: format!("Rust's library for {TARGET}"),
        install: RUST_TARGET,
    })
}

/// The last library for wasm among the messages of cargo: the package that was asked for comes last.
fn component(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| {
            message
                .get("reason")
                .is_some_and(|reason| reason == "compiler-artifact")
        })
        .filter_map(|message| {
            let files = message.get("filenames")?.as_array()?;
            let file = files
                .iter()
                .filter_map(serde_json::Value::as_str)
                .find(|file| file.ends_with(".wasm"))?;
            Some(PathBuf::from(file))
        })
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_found_among_the_messages_of_cargo() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","filenames":["/t/libx.rlib"]}"#,
            "\n",
            r#"{"reason":"compiler-artifact","filenames":["/t/my_one.wasm"]}"#,
            "\nnoise\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(component(messages), Some(PathBuf::from("/t/my_one.wasm")));
        assert_eq!(component(""), None);
    }
}
