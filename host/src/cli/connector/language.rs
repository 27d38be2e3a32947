//! The languages that connectors are written in, and how a folder shows which one is its own.

use std::path::Path;

use clap::ValueEnum;

use super::build::BuildError;
use crate::kit::World;

/// A language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Language {
    Rust,
    Python,
    Js,
    C,
}

impl Language {
    /// As it is given on the command line.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::Js => "js",
            Self::C => "c",
        }
    }

    /// As people call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::Python => "Python",
            Self::Js => "JavaScript",
            Self::C => "C",
        }
    }

    /// How the unit tests of a new connector are run, in its folder.
    pub(super) fn unit_tests(self) -> &'static str {
        match self {
            Self::Rust => "cargo test",
            Self::Python => "PYTHONPATH=build python3 -m unittest",
            Self::Js => "node --test",
            Self::C => "see README.md",
        }
    }

    /// What is in the folder decides.
    pub(super) fn of(folder: &Path) -> Result<Self, BuildError> {
        let is_there = |name: &str| folder.join(name).is_file();
        let bad = |what: String| BuildError::Folder(format!("{}: {what}", folder.display()));
        if !folder.is_dir() {
            return Err(bad("there is no such folder".to_owned()));
        }
        let manifests: Vec<(Self, &str)> = [
            (Self::Rust, "Cargo.toml"),
            (Self::Python, "pyproject.toml"),
            (Self::Js, "package.json"),
        ]
        .into_iter()
        .filter(|(_, name)| is_there(name))
        .collect();
        match manifests.as_slice() {
            [(language, _)] => Ok(*language),
            [(_, one), (_, other), ..] => Err(bad(format!(
                "there are {one} and {other}: a connector's folder has one of them, so that its language is plain"
            ))),
            [] if !c_sources(folder).is_empty() => Ok(Self::C),
            [] => Err(bad(
                "no connector is here: none of Cargo.toml, pyproject.toml, package.json, *.c. \
                 `windlass connector new` makes one"
                    .to_owned(),
            )),
        }
    }

    /// Which world a connector is built for, where the language's tool must be told.
    pub(super) fn world(self, folder: &Path) -> Result<World, BuildError> {
        let read = |name: &str| {
            std::fs::read_to_string(folder.join(name))
                .map_err(|error| BuildError::Folder(format!("{name}: cannot be read: {error}")))
        };
        let unknown = |file: &str, what: &str| {
            BuildError::Folder(format!("{}: {what}", folder.join(file).display()))
        };
        match self {
            Self::Python => kind_in_toml(&read("pyproject.toml")?).ok_or_else(|| {
                unknown(
                    "pyproject.toml",
                    "[tool.windlass] needs kind = \"source\", \"sink\" or \"both\"",
                )
            }),
            Self::Js => kind_in_json(&read("package.json")?).ok_or_else(|| {
                unknown(
                    "package.json",
                    "needs \"windlass\": {\"kind\": \"source\"}, \"sink\" or \"both\"",
                )
            }),
            Self::Rust | Self::C => {
                let mut code = String::new();
                for file in c_sources(folder) {
                    code.push_str(&without_comments(&read(&file)?));
                }
                World::of(defines(&code, "source_read"), defines(&code, "sink_write"))
                    .ok_or_else(|| unknown("*.c", "neither source_read nor sink_write is defined"))
            }
        }
    }
}

/// The names of what is compiled in a folder of C: `*.c`, without its tests, sorted.
pub(super) fn c_sources(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".c") && !name.ends_with("_test.c"))
        .collect();
    names.sort();
    names
}

fn world(kind: &str) -> Option<World> {
    match kind {
        "source" => Some(World::Source),
        "sink" => Some(World::Sink),
        "both" => Some(World::Both),
        _ => None,
    }
}

/// `kind = "..."` of the table `[tool.windlass]`: one line, which needs no reader of TOML.
fn kind_in_toml(text: &str) -> Option<World> {
    let line = text
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "[tool.windlass]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .find_map(|line| line.strip_prefix("kind")?.trim_start().strip_prefix('='))?;
    let value = line.split('#').next().unwrap_or_default().trim();
    world(value.trim_matches(['"', '\'']))
}

fn kind_in_json(text: &str) -> Option<World> {
    let package: serde_json::Value = serde_json::from_str(text).ok()?;
    world(package.get("windlass")?.get("kind")?.as_str()?)
}

fn without_comments(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("/") {
        let (before, from) = rest.split_at(at);
        kept.push_str(before);
        rest = if let Some(comment) = from.strip_prefix("//") {
            comment
                .find('\n')
                .and_then(|end| comment.get(end..))
                .unwrap_or_default()
        } else if let Some(comment) = from.strip_prefix("/*") {
            comment.split_once("*/").map_or("", |(_, rest)| rest)
        } else {
            kept.push('/');
            from.get(1..).unwrap_or_default()
        };
    }
    kept.push_str(rest);
    kept
}

/// Whether this function stands there, as a whole word before its parameters.
fn defines(code: &str, function: &str) -> bool {
    code.match_indices(function).any(|(at, _)| {
        let before = code.get(..at).unwrap_or_default();
        let after = code.get(at + function.len()..).unwrap_or_default();
        let part_of_a_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        !before.ends_with(part_of_a_word) && after.trim_start().starts_with('(')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn what_is_in_the_folder_decides_the_language() {
        for (file, language) in [
            ("Cargo.toml", Language::Rust),
            ("pyproject.toml", Language::Python),
            ("package.json", Language::Js),
            ("x.c", Language::C),
        ] {
            let folder = folder(&[(file, "")]);
            assert_eq!(Language::of(folder.path()).unwrap(), language);
        }
    }

    #[test]
    fn a_folder_without_a_language_or_with_two_is_refused_with_a_sentence() {
        for (files, words) in [
            ([("x_test.c", ""), ("README.md", "")], "connector new"),
            (
                [("Cargo.toml", ""), ("package.json", "")],
                "Cargo.toml and package.json",
            ),
        ] {
            let folder = folder(&files);
            let error = Language::of(folder.path()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let error = Language::of(Path::new("no/such/folder")).unwrap_err();
        assert!(error.to_string().contains("no such folder"));
    }

    #[test]
    fn the_kind_stands_in_the_manifest() {
        let text =
            "[project]\nkind = \"sink\"\n[tool.windlass]\n# x\nkind = \"both\" # y\n[tool.z]";
        assert_eq!(kind_in_toml(text), Some(World::Both));
        assert_eq!(kind_in_toml("[tool.windlass]\n[x]\nkind = \"sink\""), None);
        assert_eq!(
            kind_in_json(r#"{"windlass":{"kind":"sink"}}"#),
            Some(World::Sink)
        );
        assert_eq!(kind_in_json(r#"{"windlass":{"kind":"sinc"}}"#), None);
    }

    #[test]
    fn in_c_the_functions_that_are_there_say_what_a_connector_is() {
        let source = "// no sink_write(here)\n/* sink_write( */ bool source_read (wl_outcome *o) { return 1 / 2; }";
        let folder = folder(&[("a.c", source), ("a_test.c", "sink_write(")]);
        assert_eq!(Language::C.world(folder.path()).unwrap(), World::Source);
        std::fs::write(folder.path().join("b.c"), "bool sink_write(void);").unwrap();
        assert_eq!(Language::C.world(folder.path()).unwrap(), World::Both);
        std::fs::remove_file(folder.path().join("b.c")).unwrap();
        std::fs::write(
            folder.path().join("a.c"),
            "my_source_read(); source_reader()",
        )
        .unwrap();
        assert!(Language::C.world(folder.path()).is_err());
    }
}
