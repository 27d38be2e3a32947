//! What an author of a connector needs, embedded in the binary: the contract (`wit/`), the templates
//! (`host/templates`), and the helpers of each language (`guests/<language>/sdk`, for Rust the crate
//! `guests/rust/connector`). Only texts, and the step from a core module to a component; running tools
//! and writing files is the business of the commands.

mod component;

pub use component::{EncodeError, World, component};

// `FILES`, written by build.rs.
include!(concat!(env!("OUT_DIR"), "/kit.rs"));

/// The files below a folder of the tree, by their paths below that folder.
pub fn below(folder: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().filter_map(move |(path, text)| {
        let rest = path.strip_prefix(folder)?.strip_prefix('/')?;
        Some((rest, *text))
    })
}

/// One file of the tree, if it is embedded.
#[must_use]
pub fn file(path: &str) -> Option<&'static str> {
    FILES
        .iter()
        .find(|(known, _)| *known == path)
        .map(|(_, text)| *text)
}

/// The crate for authors in Rust as it is written into a new connector's folder: it stands alone there,
/// with the contract inside it, and inherits nothing from a workspace.
pub fn rust_sdk() -> impl Iterator<Item = (String, String)> {
    let sources = below("guests/rust/connector").map(|(path, text)| {
        let text = match path {
            "Cargo.toml" => stand_alone(text),
            _ => text.replace("../../../wit", "wit"),
        };
        (path.to_owned(), text)
    });
    let contract = below("wit").map(|(path, text)| (format!("wit/{path}"), text.to_owned()));
    sources.chain(contract)
}

/// A manifest of `guests/rust` with what it inherits from the workspace there written out.
fn stand_alone(manifest: &str) -> String {
    const INHERITED: [(&str, &str); 8] = [
        // Before the next one, which is a part of it.
        ("rust-version.workspace = true", r#"rust-version = "1.95""#),
        ("version.workspace = true", r#"version = "0.1.0""#),
        ("edition.workspace = true", r#"edition = "2024""#),
        ("license.workspace = true", r#"license = "Apache-2.0""#),
        ("publish.workspace = true", "publish = false"),
        ("\n[lints]\nworkspace = true\n", ""),
        (
            "serde = { workspace = true }",
            r#"serde = { version = "1", features = ["derive"] }"#,
        ),
        (
            "serde_json = { workspace = true }",
            r#"serde_json = { version = "1", features = ["raw_value"] }"#,
        ),
    ];
    INHERITED
        .iter()
        .fold(manifest.to_owned(), |text, (inherited, own)| {
            text.replace(inherited, own)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_and_the_templates_are_embedded() {
        assert!(file("wit/worlds.wit").is_some_and(|text| text.contains("world source-connector")));
        for language in ["rust", "c"] {
            for kind in ["source", "sink"] {
                let files: Vec<_> = below(&format!("host/templates/{language}/{kind}")).collect();
                assert!(
                    files.iter().any(|(path, _)| *path == "README.md"),
                    "{language} {kind}"
                );
                assert!(
                    files.iter().any(|(path, _)| path.ends_with(".test.yaml")),
                    "{language} {kind}"
                );
            }
        }
    }

    #[test]
    fn the_crate_for_authors_stands_alone() {
        let files: Vec<_> = rust_sdk().collect();
        assert!(files.iter().any(|(path, _)| path == "wit/worlds.wit"));
        let manifest = files.iter().find(|(path, _)| path == "Cargo.toml").unwrap();
        for line in ["version = \"0.1.0\"", "rust-version = \"1.95\""] {
            assert!(
                manifest.1.lines().any(|known| known == line),
                "{}",
                manifest.1
            );
        }
        for (path, text) in files {
            assert!(!text.contains("../wit"), "{path}");
            assert!(!text.contains("workspace"), "{path}:\n{text}");
        }
    }

    #[test]
    fn what_is_written_out_agrees_with_the_workspace_of_the_guests() {
        let workspace = include_str!("../../../guests/rust/Cargo.toml");
        for line in [
            "version = \"0.1.0\"",
            "edition = \"2024\"",
            "rust-version = \"1.95\"",
            "license = \"Apache-2.0\"",
            r#"serde = { version = "1", features = ["derive"] }"#,
            r#"serde_json = { version = "1", features = ["raw_value"] }"#,
        ] {
            assert!(workspace.lines().any(|known| known == line), "{line}");
        }
    }
}
