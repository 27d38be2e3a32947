//! `windlass connector new NAME --lang LANGUAGE --kind source|sink`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::language::Language;
use crate::cli::{BAD_CONFIG, output};
use crate::config::validate_id;
use crate::kit;

/// What a new connector begins with.
const FIRST_VERSION: &str = "0.1.0";

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// How it is called: letters, digits, - and _
    #[arg(value_name = "NAME")]
    name: String,
    /// The language it is written in
    #[arg(long, value_name = "LANGUAGE")]
    lang: Language,
    /// What it does
    #[arg(long, value_name = "KIND")]
    kind: Kind,
    /// The folder in which its own folder is made
    #[arg(long, value_name = "DIR", default_value = ".")]
    into: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Brings messages in
    Source,
    /// Takes messages out
    Sink,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Sink => "sink",
        }
    }
}

pub(super) fn new(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let folder = arguments.into.join(&arguments.name);
    let refused = wrong_name(&arguments.name, arguments.lang).or_else(|| occupied(&folder));
    if let Some(sentence) = refused {
        output::complain(&sentence);
        return Ok(ExitCode::from(BAD_CONFIG));
    }
    let (lang, kind) = (arguments.lang.word(), arguments.kind.word());
    let mut files: Vec<(String, String)> = kit::below(&format!("host/templates/{lang}/{kind}"))
        .map(|(path, text)| (hidden(path), fill(text, &arguments.name)))
        .collect();
    anyhow::ensure!(
        !files.is_empty(),
        "this build of Windlass has no template for {lang}"
    );
    if arguments.lang == Language::Rust {
        files.extend(kit::rust_sdk().map(|(path, text)| (format!("sdk/{path}"), text)));
        // The very versions that the connectors of this Windlass are built with.
        let lock = kit::file("guests/rust/Cargo.lock").unwrap_or_default();
        files.push(("Cargo.lock".to_owned(), lock.to_owned()));
    }
    for (path, text) in &files {
        write(&folder.join(path), text)?;
    }
    let place = folder.display();
    output::say(&format!(
        "{place}: a {kind} in {}, {}\n\n  cd {place}\n  windlass connector build\n  {}",
        arguments.lang.name(),
        output::count(files.len(), "file"),
        match arguments.lang {
            Language::C => "README.md says how its unit test is run",
            other => other.unit_tests(),
        }
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let attempt = || format!("{} cannot be written", file.display());
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent).with_context(attempt)?;
    }
    std::fs::write(file, text).with_context(attempt)
}

/// Why a connector cannot be called so.
fn wrong_name(name: &str, language: Language) -> Option<String> {
    if let Err(sentence) = validate_id(name) {
        return Some(format!(
            "a connector cannot be called \"{name}\": {sentence}"
        ));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Some(format!(
            "a connector cannot be called \"{name}\": its name begins with a letter"
        ));
    }
    let taken = [
        "windlass-connector",
        "serde",
        "std",
        "core",
        "alloc",
        "test",
    ];
    (language == Language::Rust && taken.contains(&name)).then(|| {
        format!(
            "a connector in Rust cannot be called \"{name}\": a crate that it uses has that name"
        )
    })
}

/// Why nothing is written there.
fn occupied(folder: &Path) -> Option<String> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some().then(|| {
            format!(
                "{}: the folder is there and not empty; nothing was written",
                folder.display()
            )
        }),
        Err(_) if folder.exists() => Some(format!(
            "{}: a file of that name is in the way",
            folder.display()
        )),
        Err(_) => None,
    }
}

/// A file that would take effect in the tree of Windlass itself stands there under another name.
fn hidden(path: &str) -> String {
    match path {
        "gitignore" => ".gitignore".to_owned(),
        other => other.to_owned(),
    }
}

fn fill(text: &str, name: &str) -> String {
    text.replace("{{name}}", name)
        .replace("{{version}}", FIRST_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(into: &Path, name: &str, lang: Language, kind: Kind) -> ExitCode {
        let arguments = Arguments {
            name: name.to_owned(),
            lang,
            kind,
            into: into.to_owned(),
        };
        new(&arguments).unwrap()
    }

    #[test]
    fn every_placeholder_is_filled_and_the_parts_are_there() {
        for lang in [Language::Rust, Language::C] {
            for kind in [Kind::Source, Kind::Sink] {
                let place = tempfile::tempdir().unwrap();
                assert_eq!(make(place.path(), "my-one", lang, kind), ExitCode::SUCCESS);
                let folder = place.path().join("my-one");
                for name in [
                    "README.md",
                    "schema.json",
                    ".gitignore",
                    "connector.test.yaml",
                ] {
                    let text = std::fs::read_to_string(folder.join(name)).unwrap();
                    assert!(!text.contains("{{name}}") && !text.contains("{{version}}"));
                }
                assert_eq!(Language::of(&folder).unwrap(), lang);
            }
        }
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("mine");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("notes"), "x").unwrap();
        assert!(occupied(&folder).unwrap().contains("not empty"));
        let code = make(place.path(), "mine", Language::C, Kind::Sink);
        assert_eq!(code, ExitCode::from(BAD_CONFIG));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_file(folder.join("notes")).unwrap();
        assert_eq!(occupied(&folder), None, "an empty one may be used");
        assert!(
            occupied(Path::new("Cargo.toml"))
                .unwrap()
                .contains("in the way")
        );
    }

    #[test]
    fn a_bad_name_is_refused_with_a_sentence() {
        for (name, words) in [
            ("", "cannot be empty"),
            ("a b", "only alphanumeric"),
            ("../x", "only alphanumeric"),
            ("1st", "begins with a letter"),
            ("serde", "a crate that it uses"),
        ] {
            let sentence = wrong_name(name, Language::Rust).unwrap();
            assert!(sentence.contains(words), "{sentence}");
        }
        assert_eq!(wrong_name("modbus-2_x", Language::Rust), None);
        assert_eq!(wrong_name("serde", Language::C), None);
    }
}
