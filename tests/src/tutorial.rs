//! The tutorials of a document as their readers follow them. Comments say what a block is for:
//!
//! | comment | the block behind it |
//! |---|---|
//! | `<!-- run: TRACK -->` | commands for a shell, in the folder where the tutorial began |
//! | `<!-- see: TRACK -->` | texts that these commands have printed, in this order |
//! | `<!-- file: TRACK/PATH -->` | a file that the reader is told to write |
//! | `<!-- from: PATH -->` | a part of a file of the tree, as it stands there |
//!
//! A track is a language, or `all`: what every reader does.

use std::path::Path;

use crate::toolchain::{root, shell};

/// What a reader does, and the line of the document where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Counted from 1.
    pub line: usize,
    /// What is done.
    pub act: Act,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Commands.
    Run(String),
    /// What they print.
    See(Vec<String>),
    /// A file below the folder, and its text.
    Write(String, String),
    /// A file below the root of the tree, and what stands in it.
    Quote(String, String),
}

/// The steps of one track, in order.
///
/// # Panics
/// A comment has no block behind it, or commands stand where no comment says whose they are.
#[must_use]
pub fn steps(document: &str, track: &str) -> Vec<Step> {
    let mine = |whose: &str| whose == track || whose == "all";
    let mut found = Vec::new();
    let mut lines = (1..).zip(document.lines());
    let mut mark: Option<(&str, &str)> = None;
    while let Some((line, text)) = lines.next() {
        let comment = text
            .strip_prefix("<!-- ")
            .and_then(|rest| rest.strip_suffix(" -->"))
            .and_then(|rest| rest.split_once(": "));
        if let Some(comment) = comment {
            assert!(mark.is_none(), "line {line}: no block before this comment");
            mark = Some(comment);
            continue;
        }
        let Some(notation) = text.strip_prefix("```") else {
            assert!(
                mark.is_none(),
                "line {line}: no block behind {:?}",
                mark.unwrap_or_default()
            );
            continue;
        };
        let block: Vec<&str> = lines
            .by_ref()
            .map(|(_, text)| text)
            .take_while(|text| *text != "```")
            .collect();
        let whole = || {
            block
                .iter()
                .map(|text| format!("{text}\n"))
                .collect::<String>()
        };
        let act = match mark.take() {
            Some(("run", whose)) => mine(whose).then(|| Act::Run(whole())),
            Some(("see", whose)) => {
                mine(whose).then(|| Act::See(block.iter().map(|text| (*text).to_owned()).collect()))
            }
            Some(("file", place)) => {
                let (whose, path) = place.split_once('/').expect("a track and a path");
                mine(whose).then(|| Act::Write(path.to_owned(), whole()))
            }
            Some(("from", path)) => Some(Act::Quote(path.to_owned(), whole())),
            Some((other, _)) => panic!("line {line}: \"{other}\" is no such comment"),
            None => {
                assert_ne!(notation, "sh", "line {line}: commands that nobody tries");
                None
            }
        };
        found.extend(act.map(|act| Step { line, act }));
    }
    found
}

/// Does these steps in a folder that is empty; answers the commands that were run.
///
/// # Panics
/// A command fails, prints something else, or the document quotes what is not there.
pub fn follow(steps: &[Step], folder: &Path) -> String {
    let (mut commands, mut printed) = (String::new(), String::new());
    for Step { line, act } in steps {
        match act {
            Act::Run(script) => {
                let said = shell(folder, script);
                assert_eq!(said.code, Some(0), "line {line}:\n{script}\n{}", said.all());
                printed = said.out;
                commands.push_str(script);
            }
            Act::See(texts) => {
                let mut rest = printed.as_str();
                for text in texts {
                    let Some((_, behind)) = rest.split_once(text.as_str()) else {
                        panic!("line {line}: \"{text}\" was not printed there:\n{printed}");
                    };
                    rest = behind;
                }
            }
            Act::Write(path, text) => {
                std::fs::write(folder.join(path), text)
                    .unwrap_or_else(|error| panic!("line {line}: {path}: {error}"));
            }
            Act::Quote(path, text) => {
                let whole = std::fs::read_to_string(root().join(path))
                    .unwrap_or_else(|error| panic!("line {line}: {path}: {error}"));
                assert!(whole.contains(text), "line {line}: {path} reads otherwise");
            }
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "# A\n\n<!-- run: all -->\n```sh\nmkdir x\n```\n\n<!-- file: c/x/a.txt -->\n```yaml\na\n```\n\
        <!-- run: c -->\n```sh\ncat x/a.txt\necho b >&2\n```\n<!-- see: c -->\n```text\na\nb\n```\n\
        <!-- run: js -->\n```sh\nexit 1\n```\n```yaml\nno: one's\n```\n";

    #[test]
    fn a_reader_does_what_is_for_all_and_what_is_for_his_track() {
        let steps = steps(DOCUMENT, "c");
        let lines: Vec<usize> = steps.iter().map(|step| step.line).collect();
        assert_eq!(lines, [4, 9, 13, 18]);
        let folder = tempfile::tempdir().expect("a folder");
        let commands = follow(&steps, folder.path());
        assert_eq!(commands, "mkdir x\ncat x/a.txt\necho b >&2\n");
    }

    #[test]
    #[should_panic(expected = "line 23")]
    fn a_command_that_fails_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        follow(&steps(DOCUMENT, "js"), folder.path());
    }

    #[test]
    #[should_panic(expected = "commands that nobody tries")]
    fn commands_without_a_comment_are_found() {
        drop(steps("```sh\nls\n```\n", "c"));
    }

    #[test]
    #[should_panic(expected = "\"b\" was not printed")]
    fn what_is_printed_in_another_order_is_found() {
        let document =
            "<!-- run: c -->\n```sh\necho b; echo a\n```\n<!-- see: c -->\n```text\na\nb\n```\n";
        let folder = tempfile::tempdir().expect("a folder");
        follow(&steps(document, "c"), folder.path());
    }
}
