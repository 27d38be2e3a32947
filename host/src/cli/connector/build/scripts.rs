//! Python and JavaScript: componentize-py and componentize-qjs put an interpreter and the connector's
//! files into a component. Both run in the connector's folder and find the helpers in `build`.

use std::path::Path;

use tokio::process::Command;

use super::{BuildError, Runner, helpers, write_all};
use crate::cli::connector::language::Language;
use crate::cli::connector::tools::{COMPONENTIZE_PY, COMPONENTIZE_QJS};

/// Below the connector's folder: what [`super::make`] takes up.
const MADE: &str = "build/unchecked.wasm";

pub(super) async fn python(runner: &Runner, folder: &Path) -> Result<(), BuildError> {
    let world = Language::Python.world(folder)?;
    let tool = absolute(&COMPONENTIZE_PY.ready(runner).await?)?;
    write_all(&folder.join("build"), helpers("python", &[".py"]))?;
    let mut command = Command::new(tool);
    command
        .args(["-d", "build/wit", "-w", world.name(), "componentize"])
        .args(["-p", ".", "-p", "build", "entry", "-o", MADE])
        .current_dir(folder)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    runner
        .run("putting Python and the connector together", command)
        .await?;
    Ok(())
}

pub(super) async fn js(runner: &Runner, folder: &Path) -> Result<(), BuildError> {
    let world = Language::Js.world(folder)?;
    let tool = absolute(&COMPONENTIZE_QJS.ready(runner).await?)?;
    write_all(&folder.join("build"), helpers("js", &[".js"]))?;
    let mut command = Command::new(tool);
    command
        .args(["--wit", "build/wit", "--world", world.name()])
        .args([
            "--js",
            "build/entry.js",
            "--sync",
            "--module-root",
            ".",
            "-o",
            MADE,
        ])
        .current_dir(folder);
    runner
        .run("putting QuickJS and the connector together", command)
        .await?;
    Ok(())
}

/// It is run in another folder than this one.
fn absolute(tool: &Path) -> Result<std::path::PathBuf, BuildError> {
    std::path::absolute(tool)
        .map_err(|error| BuildError::io(format!("{} cannot be found", tool.display()), error))
}
