//! Where something stands in a manifest, and what is wrong there. Knows nothing of the manifest's
//! meaning; every other file of the room reports through it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// A place in a manifest's file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Place {
    /// The file as it was named to us.
    pub file: Arc<str>,
    /// Counted from 1; 0 means the file as a whole.
    pub line: u32,
    /// Counted from 1, in characters; 0 means the file as a whole.
    pub column: u32,
}

impl Place {
    /// The file as a whole.
    #[must_use]
    pub fn whole(file: Arc<str>) -> Self {
        Self {
            file,
            line: 0,
            column: 0,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}

/// A mistake in a manifest, or a warning about it: the place, and one sentence with what was found
/// and what is allowed. Never the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}: {message}", self.place())]
pub struct ManifestError {
    /// The file as it was named to us.
    pub file: Arc<str>,
    /// Counted from 1; 0 means the file as a whole.
    pub line: u32,
    /// Counted from 1, in characters; 0 means the file as a whole.
    pub column: u32,
    /// JSON Pointer into the merged manifest, where sections are lists in the order of the files.
    /// For a mistake in the YAML itself, the pointer into that one document.
    pub pointer: String,
    /// One sentence.
    pub message: String,
    /// The query's line and a caret below the place, where the mistake is inside a query. Other
    /// lines are not shown: they may hold secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<String>,
}

impl ManifestError {
    /// A mistake at a place.
    pub fn new(place: Place, pointer: impl Into<String>, message: impl Into<String>) -> Self {
        let Place { file, line, column } = place;
        Self {
            file,
            line,
            column,
            pointer: pointer.into(),
            message: message.into(),
            excerpt: None,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            file: self.file.clone(),
            line: self.line,
            column: self.column,
        }
    }

    /// Sorts by place and drops what was said twice, so that output is the same on every run.
    pub(crate) fn arrange(errors: &mut Vec<Self>) {
        errors.sort_by(|a, b| {
            (&a.file, a.line, a.column, &a.message).cmp(&(&b.file, b.line, b.column, &b.message))
        });
        errors.dedup();
    }
}

/// Line and column in the text of one file, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pos {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Pos {
    pub(super) fn in_file(self, file: &Arc<str>) -> Place {
        Place {
            file: file.clone(),
            line: self.line,
            column: self.column,
        }
    }
}

/// How a place inside a scalar's text maps to a place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// Not to be mapped: escapes, folded lines, a variable inside.
    Opaque,
    /// One line, as it stands in the file from here.
    Line(Pos),
    /// A `|` block: its first line's place; the other lines start in the same column.
    Block(Pos),
}

#[derive(Clone, Debug)]
struct Spot {
    file: Arc<str>,
    key: Option<Pos>,
    value: Pos,
    text: Text,
}

/// Places of all nodes of a merged manifest, by JSON Pointer.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    spots: HashMap<String, Spot>,
    files: HashMap<Arc<str>, Arc<str>>,
}

impl Places {
    pub(super) fn add_file(&mut self, file: &Arc<str>, text: &str) {
        self.files.insert(file.clone(), text.into());
    }

    pub(super) fn add(
        &mut self,
        pointer: &str,
        file: &Arc<str>,
        key: Option<Pos>,
        value: Pos,
        text: Text,
    ) {
        let spot = Spot {
            file: file.clone(),
            key,
            value,
            text,
        };
        self.spots.insert(pointer.to_owned(), spot);
    }

    /// The value's place; for a pointer that leads to nothing, the key of what it would be in.
    pub(super) fn locate(&self, pointer: &str) -> Option<Place> {
        if let Some(spot) = self.spots.get(pointer) {
            return Some(spot.value.in_file(&spot.file));
        }
        let mut rest = pointer;
        while let Some((parent, _)) = rest.rsplit_once('/') {
            if let Some(spot) = self.spots.get(parent) {
                return Some(spot.key.unwrap_or(spot.value).in_file(&spot.file));
            }
            rest = parent;
        }
        None
    }

    /// The place of the key itself, of an unknown property for one.
    pub(super) fn locate_key(&self, pointer: &str) -> Option<Place> {
        match self.spots.get(pointer) {
            Some(spot) => Some(spot.key.unwrap_or(spot.value).in_file(&spot.file)),
            None => self.locate(pointer),
        }
    }

    /// The place of a line and column inside a scalar's text (a query), as near as the notation of
    /// the scalar allows, with the line and a caret where it is exact.
    pub(super) fn locate_within(
        &self,
        pointer: &str,
        line: u32,
        column: u32,
    ) -> Option<(Place, Option<String>)> {
        let Some(spot) = self.spots.get(pointer) else {
            return self.locate(pointer).map(|place| (place, None));
        };
        let (line, column) = (line.max(1), column.max(1));
        let pos = match spot.text {
            Text::Opaque => None,
            Text::Line(at) if line == 1 => Some(Pos {
                line: at.line,
                column: at.column.saturating_add(column - 1),
            }),
            Text::Line(_) => None,
            Text::Block(at) => Some(Pos {
                line: at.line.saturating_add(line - 1),
                column: at.column.saturating_add(column - 1),
            }),
        };
        let Some(pos) = pos else {
            return Some((spot.value.in_file(&spot.file), None));
        };
        let excerpt = self.excerpt(&spot.file, pos);
        Some((pos.in_file(&spot.file), excerpt))
    }

    fn excerpt(&self, file: &Arc<str>, pos: Pos) -> Option<String> {
        /// Longer lines are not shown: a terminal would wrap them and the caret would mislead.
        const WIDEST: usize = 160;
        let text = self.files.get(file)?;
        let line = text.lines().nth(pos.line.checked_sub(1)? as usize)?;
        if line.chars().count() > WIDEST {
            return None;
        }
        let before = line.chars().take(pos.column.saturating_sub(1) as usize);
        // A tab stays a tab, so that the caret stands where the terminal puts the character.
        let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let number = pos.line.to_string();
        let margin = " ".repeat(number.len());
        Some(format!(" {number} | {line}\n {margin} | {indent}^"))
    }
}

/// One more step of a JSON Pointer (RFC 6901): `~` and `/` of the name are escaped.
#[must_use]
pub fn pointer_to(parent: &str, name: &str) -> String {
    format!("{parent}/{}", name.replace('~', "~0").replace('/', "~1"))
}
