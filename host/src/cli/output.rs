//! Everything that is printed goes through here: answers to stdout, complaints to stderr. A reader
//! that has gone (a closed pipe) is an ordinary error, never a panic.

use std::io::{self, Write};

use serde::Serialize;

use crate::config::ManifestError;

/// One line to stdout.
pub(super) fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// One JSON object on a line of its own to stdout.
pub(super) fn say_json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// To stderr. Where that cannot be written, nobody can be told.
pub(super) fn complain(text: &str) {
    drop(writeln!(io::stderr().lock(), "windlass: {text}"));
}

/// What a tool said, or how it was called, to stderr as it is.
pub(super) fn show(text: &str) {
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    drop(write!(io::stderr().lock(), "{text}{end}"));
}

/// Mistakes or warnings to stderr, `file:line:column: sentence` each, a query with its line and a caret.
pub(super) fn complain_of(kind: Kind, found: &[ManifestError]) {
    drop(
        io::stderr()
            .lock()
            .write_all(findings(kind, found).as_bytes()),
    );
}

/// How grave it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Keeps it from starting.
    Error,
    /// Should be looked at.
    Warning,
}

fn findings(kind: Kind, found: &[ManifestError]) -> String {
    let mut text = String::new();
    for one in found {
        let word = if kind == Kind::Warning {
            "warning: "
        } else {
            ""
        };
        text.push_str(&format!("{}: {word}{}\n", one.place(), one.message));
        if let Some(excerpt) = &one.excerpt {
            text.push_str(&format!("{excerpt}\n"));
        }
    }
    text
}

/// Whether the reader of our output has gone: the ordinary end of `windlass … | head`.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// `1 rule`, `2 rules`.
pub(super) fn count(number: usize, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {one}s"),
    }
}

/// The text with control characters made visible, so that a payload cannot drive the terminal, and
/// cut to `width` characters.
pub(super) fn plain(text: &str, width: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(width * 4));
    for (index, c) in text.chars().enumerate() {
        if index == width {
            shown.pop();
            shown.push('…');
            break;
        }
        shown.push(match c {
            '\n' | '\r' | '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        });
    }
    shown
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;

    #[test]
    fn a_finding_is_place_and_sentence_and_a_query_has_its_caret() {
        let place = Place {
            file: "m.yaml".into(),
            line: 4,
            column: 10,
        };
        let mut error = ManifestError::new(place, "/rules/0/sql", "unknown column");
        assert_eq!(
            findings(Kind::Error, std::slice::from_ref(&error)),
            "m.yaml:4:10: unknown column\n"
        );
        error.excerpt = Some(" 4 | sql: x\n   |      ^".to_owned());
        assert_eq!(
            findings(Kind::Warning, &[error]),
            "m.yaml:4:10: warning: unknown column\n 4 | sql: x\n   |      ^\n"
        );
        let whole = ManifestError::new(Place::whole("m.yaml".into()), "", "there is no such file");
        assert_eq!(
            findings(Kind::Error, &[whole]),
            "m.yaml: there is no such file\n"
        );
    }

    #[test]
    fn a_payload_cannot_drive_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\n", 80), "a\u{fffd}[2Jb ");
        assert_eq!(plain("abcdef", 4), "abc…");
        assert_eq!(plain("abcd", 4), "abcd");
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(512), "512 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(1 << 30), "1.0 GiB");
        assert_eq!(size(u64::MAX), "17179869183.9 GiB");
    }
}
