//! Takes values out of a tree and says in one sentence what is wrong with them. Every mistake is
//! kept; nothing stops at the first.

use std::sync::Arc;
use std::time::Duration;

use super::node::{Entry, Kind, Node};
use super::place::{ManifestError, Pos, pointer_to};
use crate::names::validate_id;

/// A node on its way into the merged manifest: where it stands and where it goes.
#[derive(Clone, Debug)]
pub(super) struct At<'n> {
    pub(super) node: &'n Node,
    /// The key's place, where it has one.
    pub(super) key: Option<Pos>,
    /// JSON Pointer in the merged manifest.
    pub(super) pointer: String,
}

impl<'n> At<'n> {
    pub(super) fn below(&self, entry: &'n Entry) -> Self {
        let pointer = pointer_to(&self.pointer, &entry.key);
        Self {
            node: &entry.node,
            key: Some(entry.at),
            pointer,
        }
    }

    pub(super) fn item(&self, index: usize, node: &'n Node) -> Self {
        Self {
            node,
            key: None,
            pointer: format!("{}/{index}", self.pointer),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<Self> {
        self.node.get(key).map(|entry| self.below(entry))
    }

    /// The value of that key, or where it would be.
    pub(super) fn child(&self, key: &str) -> Self {
        self.get(key).unwrap_or_else(|| Self {
            node: self.node,
            key: self.key,
            pointer: pointer_to(&self.pointer, key),
        })
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.kind, Kind::Null)
    }
}

/// Collects mistakes and warnings of one file.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) file: &'a Arc<str>,
    pub(super) errors: &'a mut Vec<ManifestError>,
    pub(super) warnings: &'a mut Vec<ManifestError>,
}

impl Reader<'_> {
    pub(super) fn wrong(&mut self, at: &At<'_>, message: impl Into<String>) {
        let place = at.node.at.in_file(self.file);
        self.errors
            .push(ManifestError::new(place, at.pointer.clone(), message));
    }

    pub(super) fn wrong_key(&mut self, at: &At<'_>, message: impl Into<String>) {
        let place = at.key.unwrap_or(at.node.at).in_file(self.file);
        self.errors
            .push(ManifestError::new(place, at.pointer.clone(), message));
    }

    pub(super) fn warn(&mut self, at: &At<'_>, message: impl Into<String>) {
        let place = at.key.unwrap_or(at.node.at).in_file(self.file);
        self.warnings
            .push(ManifestError::new(place, at.pointer.clone(), message));
    }

    pub(super) fn mapping<'n>(&mut self, at: &At<'n>, what: &str) -> Option<&'n [Entry]> {
        match &at.node.kind {
            Kind::Map(entries) => Some(entries),
            _ => {
                self.wrong(
                    at,
                    format!("{what} must be a mapping, found {}", at.node.what()),
                );
                None
            }
        }
    }

    /// The id of an item: its key in a mapping, or its own `id`; both must agree.
    pub(super) fn id(&mut self, at: &At<'_>, what: &str, from_key: Option<&str>) -> Option<String> {
        let written = match at.get("id") {
            Some(id) => match id.node.text() {
                Some(text) => Some((text, id)),
                None => {
                    let found = id.node.what();
                    self.wrong(
                        &id,
                        format!("the id of {what} must be text, found {found}; put it in quotes"),
                    );
                    return None;
                }
            },
            None => None,
        };
        let (id, place) = match (written, from_key) {
            (Some((id, place)), Some(key)) if id != key => {
                self.wrong(
                    &place,
                    format!("the id '{id}' is not the key '{key}' it stands under"),
                );
                return None;
            }
            (Some((id, place)), _) => (id, place),
            (None, Some(key)) => (
                key,
                At {
                    node: at.node,
                    key: at.key,
                    pointer: at.pointer.clone(),
                },
            ),
            (None, None) => {
                self.wrong(at, format!("{what} needs an \"id\""));
                return None;
            }
        };
        if let Err(message) = validate_id(id) {
            if from_key.is_some() {
                self.wrong_key(&place, message);
            } else {
                self.wrong(&place, message);
            }
            return None;
        }
        Some(id.to_owned())
    }

    pub(super) fn required_text(&mut self, at: &At<'_>, key: &str, what: &str) -> Option<String> {
        let Some(value) = at.get(key) else {
            self.wrong(at, format!("\"{key}\" is missing: {what}"));
            return None;
        };
        match value.node.text() {
            Some(text) if !text.trim().is_empty() => Some(text.to_owned()),
            Some(_) => {
                self.wrong(&value, format!("\"{key}\" is empty: {what}"));
                None
            }
            None => {
                self.wrong(
                    &value,
                    format!("\"{key}\" must be text, found {}", value.node.what()),
                );
                None
            }
        }
    }

    pub(super) fn optional_text(&mut self, at: &At<'_>, key: &str) -> Option<String> {
        let value = at.get(key).filter(|value| !value.is_null())?;
        let text = value.node.text().map(ToOwned::to_owned);
        if text.is_none() {
            let found = value.node.what();
            self.wrong(
                &value,
                format!("\"{key}\" must be text, found {found}; put it in quotes"),
            );
        }
        text
    }

    /// A list of texts; what is none is left out, and said.
    pub(super) fn texts(&mut self, at: &At<'_>) -> Vec<String> {
        let Kind::List(nodes) = &at.node.kind else {
            let found = at.node.what();
            self.wrong(
                at,
                format!("{} must be a list of texts, found {found}", name(at)),
            );
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            match node.text() {
                Some(text) => texts.push(text.to_owned()),
                None => {
                    let message = format!("this must be text, found {}", node.what());
                    self.wrong(&at.item(index, node), message);
                }
            }
        }
        texts
    }

    pub(super) fn optional_bool(&mut self, at: &At<'_>, key: &str) -> Option<bool> {
        let value = at.get(key)?;
        self.boolean(&value)
    }

    pub(super) fn boolean(&mut self, at: &At<'_>) -> Option<bool> {
        match &at.node.kind {
            Kind::Bool(value) => Some(*value),
            _ => {
                self.wrong(
                    at,
                    format!(
                        "{} must be true or false, found {}",
                        name(at),
                        at.node.what()
                    ),
                );
                None
            }
        }
    }

    pub(super) fn number(&mut self, at: &At<'_>, least: u64, most: u64) -> Option<u64> {
        let found = match &at.node.kind {
            Kind::Number(number) => match number.as_u64() {
                Some(value) if (least..=most).contains(&value) => return Some(value),
                _ => number.to_string(),
            },
            _ => at.node.what().to_owned(),
        };
        self.wrong(
            at,
            format!(
                "{} must be a whole number from {least} to {most}, found {found}",
                name(at)
            ),
        );
        None
    }

    pub(super) fn real(&mut self, at: &At<'_>, least: f64, most: f64) -> Option<f64> {
        let found = match &at.node.kind {
            Kind::Number(number) => match number.as_f64() {
                Some(value) if (least..=most).contains(&value) => return Some(value),
                _ => number.to_string(),
            },
            _ => at.node.what().to_owned(),
        };
        self.wrong(
            at,
            format!(
                "{} must be a number from {least} to {most}, found {found}",
                name(at)
            ),
        );
        None
    }

    /// A number of bytes, or text with a unit: `64MiB`.
    pub(super) fn bytes(&mut self, at: &At<'_>, least: u64) -> Option<u64> {
        let (found, value) = match &at.node.kind {
            Kind::Number(number) => (number.to_string(), number.as_u64()),
            Kind::Text(text) => (format!("\"{text}\""), bytes_of(text)),
            _ => (at.node.what().to_owned(), None),
        };
        if let Some(value) = value
            && value >= least
        {
            return Some(value);
        }
        self.wrong(
            at,
            format!(
                "{} must be a number of bytes, at least {least}, with or without a unit (KiB, MiB, GiB), found {found}",
                name(at)
            ),
        );
        None
    }

    /// Milliseconds as a number, or text with units as Go writes them: `1m30s`.
    pub(super) fn duration(&mut self, at: &At<'_>) -> Option<Duration> {
        let (found, value) = match &at.node.kind {
            Kind::Number(number) => (
                number.to_string(),
                number.as_u64().map(Duration::from_millis),
            ),
            Kind::Text(text) => (format!("\"{text}\""), duration_of(text)),
            _ => (at.node.what().to_owned(), None),
        };
        if value.is_none() {
            self.wrong(
                at,
                format!(
                    "{} must be milliseconds or text like \"1m30s\", found {found}",
                    name(at)
                ),
            );
        }
        value
    }

    /// As [`Reader::duration`], and not zero.
    pub(super) fn positive_duration(&mut self, at: &At<'_>) -> Option<Duration> {
        let value = self.duration(at)?;
        if value.is_zero() {
            self.wrong(at, format!("{} must be more than zero", name(at)));
            return None;
        }
        Some(value)
    }
}

fn name(at: &At<'_>) -> String {
    let last = at.pointer.rsplit('/').next().unwrap_or_default();
    format!("\"{last}\"")
}

fn bytes_of(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Go's notation without a sign: numbers with a unit each, `1h2m3.5s`.
pub fn duration_of(text: &str) -> Option<Duration> {
    /// About 292 years, as in Go.
    const LONGEST: f64 = 9.2e9;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let number: f64 = number.parse().ok()?;
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        seconds += number
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = tail;
    }
    (seconds <= LONGEST).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_have_units() {
        assert_eq!(bytes_of("64MiB"), Some(64 << 20));
        assert_eq!(bytes_of("1 GB"), Some(1_000_000_000));
        assert_eq!(bytes_of("5 apples"), None);
        assert_eq!(bytes_of("99999999999999999999"), None);
        assert_eq!(bytes_of("99999999999G"), None);
        assert_eq!(duration_of("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration_of("1.5h"), Some(Duration::from_secs(5400)));
        assert_eq!(duration_of("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "5", "-1s", "1x", "s", "1..2s", "99999999999h"] {
            assert_eq!(duration_of(bad), None, "{bad}");
        }
    }
}
