//! `windlass connector test [DIR|FILE.test.yaml...]`: runs cases, prints differences.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::check::component;
use crate::cli::folder::Folder;
use crate::cli::output::{self, Kind};
use crate::cli::{BAD_CONFIG, FAILED};
use crate::config::{ManifestError, Place};
use crate::harness::alone::Alone;
use crate::harness::testfile::{Case, Difference, TestFile};
use crate::host;
use crate::progress;
use crate::runtime::Runtime;

/// How deep a folder is searched.
const DEEPEST: usize = 4;
/// Differences of one case that are shown.
const SHOWN: usize = 8;
/// Folders in which nobody keeps tests.
const LEFT_OUT: [&str; 4] = ["target", "node_modules", "__pycache__", "windlass-data"];

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// Test files, or folders that are searched for *.test.yaml
    #[arg(value_name = "DIR|FILE.test.yaml", default_value = ".")]
    paths: Vec<PathBuf>,
    /// The connector, in place of the one that the files name
    #[arg(long, value_name = "FILE.wasm")]
    connector: Option<PathBuf>,
    /// Where compiled connectors are kept; ./windlass-data if that is there, else a temporary folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) async fn test(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut errors = Vec::new();
    let files = find(&arguments.paths, &mut errors);
    let folder = Folder::for_code(arguments.data.as_deref())?;
    let runtime = host::runtime(folder.path())?;
    let mut loading = Loading {
        runtime: runtime.clone(),
        given: arguments.connector,
        loaded: HashMap::new(),
    };
    let mut cases = Vec::new();
    for path in files {
        match TestFile::read(&path) {
            Ok(file) => loading.cases(&path, &file, &mut cases, &mut errors).await,
            Err(found) => errors.extend(found),
        }
    }
    if !errors.is_empty() {
        runtime.shutdown(Duration::from_secs(1)).await;
        // Cases of one file share what stands above them, and its mistakes.
        ManifestError::arrange(&mut errors);
        if arguments.json {
            output::say_json(&json!({ "ok": false, "errors": errors }))?;
        }
        output::complain_of(Kind::Error, &errors);
        return Ok(ExitCode::from(BAD_CONFIG));
    }
    let mut done = Vec::new();
    let coloured = coloured();
    for (file, case, connector) in cases {
        let outcome = case.run(&connector).await;
        let differences = case.judge(&outcome);
        let tried = Tried {
            file: file.display().to_string(),
            case,
            differences,
            notes: outcome.notes,
        };
        if !arguments.json {
            output::say(&tried.text(coloured))?;
        }
        done.push(tried);
    }
    runtime.shutdown(Duration::from_secs(1)).await;
    let failed = done.iter().filter(|one| !one.passed()).count();
    let passed = done.len() - failed;
    if arguments.json {
        let cases: Vec<Value> = done.iter().map(Tried::json).collect();
        output::say_json(&json!({
            "ok": failed == 0,
            "passed": passed,
            "failed": failed,
            "cases": cases,
        }))?;
    } else {
        output::say(&format!("{passed} passed, {failed} failed"))?;
    }
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILED),
    })
}

fn whole(path: &Path, message: impl Into<String>) -> ManifestError {
    let place = Place::whole(path.display().to_string().into());
    ManifestError::new(place, "", message)
}

/// The test files that are meant, in a fixed order.
fn find(paths: &[PathBuf], errors: &mut Vec<ManifestError>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let before = files.len();
        search(path, DEEPEST, &mut files);
        if files.len() == before {
            errors.push(whole(path, "there is no *.test.yaml in this folder"));
        }
    }
    files.sort();
    files.dedup();
    files
}

fn search(folder: &Path, deep: usize, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        // A link is not followed: it may lead in a circle.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            if deep > 0 && !name.starts_with('.') && !LEFT_OUT.contains(&&*name) {
                search(&path, deep - 1, files);
            }
        } else if name.ends_with(".test.yaml") || name.ends_with(".test.yml") {
            // Shown as people would write it.
            let shown = path.strip_prefix("./").map(Path::to_owned);
            files.push(shown.unwrap_or(path));
        }
    }
}

/// Loads each connector once.
struct Loading {
    runtime: Runtime,
    given: Option<PathBuf>,
    loaded: HashMap<PathBuf, Result<Alone, String>>,
}

impl Loading {
    async fn cases(
        &mut self,
        path: &Path,
        file: &TestFile,
        cases: &mut Vec<(PathBuf, Case, Alone)>,
        errors: &mut Vec<ManifestError>,
    ) {
        for index in 0..file.len() {
            let (wanted, pointer) = match (&self.given, file.connector(index)) {
                (Some(given), _) => (given.clone(), String::new()),
                (None, Ok(Some(name))) => {
                    // A file beside the test goes before a bundled connector of that name.
                    let is_file = name.path.is_file() || name.word.contains(['.', '/', '\\']);
                    let wanted = if is_file { name.path } else { name.word.into() };
                    (wanted, name.pointer)
                }
                (None, Ok(None)) => {
                    errors.push(file.error(
                        "",
                        "\"connector\" is missing: a component's file, or the name of a bundled connector; or give --connector",
                    ));
                    return;
                }
                (None, Err(error)) => {
                    errors.push(error);
                    continue;
                }
            };
            match self.load(&wanted).await {
                Ok(connector) => match file.case(index, connector.connector()) {
                    Ok(case) => cases.push((path.to_owned(), case, connector)),
                    Err(found) => errors.extend(found),
                },
                Err(words) => errors.push(file.error(&pointer, words)),
            }
        }
    }

    async fn load(&mut self, path: &Path) -> Result<Alone, String> {
        if let Some(loaded) = self.loaded.get(path) {
            return loaded.clone();
        }
        let loaded = match component(path) {
            Ok(wasm) => {
                let name = path.display().to_string();
                let progress = progress::choose(false);
                let loaded = self.runtime.load(&name, wasm, &*progress).await;
                loaded
                    .map(|connector| Alone::new(&self.runtime, Arc::clone(&connector)))
                    .map_err(|error| error.report())
            }
            Err(words) => Err(words),
        };
        self.loaded.insert(path.to_owned(), loaded.clone());
        loaded
    }
}

/// A case that was run.
struct Tried {
    file: String,
    case: Case,
    differences: Vec<Difference>,
    notes: Vec<String>,
}

impl Tried {
    fn passed(&self) -> bool {
        self.differences.is_empty()
    }

    fn title(&self) -> String {
        match self.case.name.as_str() {
            "" => self.file.clone(),
            name => format!("{}:{}  {name}", self.file, self.case.line),
        }
    }

    fn text(&self, coloured: bool) -> String {
        if self.passed() {
            return format!("{}  {}", paint("ok  ", "32", coloured), self.title());
        }
        let mut text = format!("{}  {}", paint("FAIL", "31", coloured), self.title());
        for one in self.differences.iter().take(SHOWN) {
            let expected = paint(&output::plain(&one.expected, 500), "32", coloured);
            let got = paint(&output::plain(&one.got, 500), "31", coloured);
            text.push_str(&format!(
                "\n      {}\n        expected  {expected}\n        got       {got}",
                output::plain(&one.path, 200)
            ));
        }
        if let Some(more) = self
            .differences
            .len()
            .checked_sub(SHOWN)
            .filter(|more| *more > 0)
        {
            text.push_str(&format!(
                "\n      and {}",
                output::count(more, "more difference")
            ));
        }
        for note in &self.notes {
            text.push_str(&format!("\n      note: {}", output::plain(note, 300)));
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "file": self.file,
            "line": self.case.line,
            "name": self.case.name,
            "passed": self.passed(),
            "differences": self.differences,
            "notes": if self.passed() { &[] } else { self.notes.as_slice() },
        })
    }
}

/// Colours are for a terminal, and for those who have not asked for none (NO_COLOR).
pub(super) fn coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// The text in a colour, by its ANSI number.
pub(super) fn paint(text: &str, colour: &str, coloured: bool) -> String {
    if coloured {
        format!("\u{1b}[{colour}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_searched_in_a_fixed_order_and_an_empty_one_is_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("b/target")).unwrap();
        for name in [
            "z.test.yaml",
            "b/a.test.yaml",
            "b/target/x.test.yaml",
            "b/a.yaml",
        ] {
            std::fs::write(root.join(name), "x").unwrap();
        }
        let mut errors = Vec::new();
        let found = find(&[root.to_owned(), root.join("b")], &mut errors);
        assert_eq!(
            found,
            [root.join("b/a.test.yaml"), root.join("z.test.yaml")]
        );
        assert!(errors.is_empty());
        find(
            &[root.join("b/target").join("none"), root.join("b/target")],
            &mut errors,
        );
        assert!(
            errors.is_empty(),
            "a name that is no folder is a file, read later"
        );
        let empty = tempfile::tempdir().unwrap();
        find(&[empty.path().to_owned()], &mut errors);
        assert!(errors[0].message.contains("no *.test.yaml"));
    }
}
