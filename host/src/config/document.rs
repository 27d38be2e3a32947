//! A YAML file that is no manifest: its one value, and the place of everything in it. Knows nothing of
//! what the file is for.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::place::{ManifestError, Place, Places};
use super::variables::Lookup;
use super::{read_file, yaml};

/// The value of a YAML file, with places for its mistakes.
#[derive(Clone, Debug)]
pub struct Document {
    /// What the file says; null for an empty one.
    pub value: Value,
    file: Arc<str>,
    places: Places,
}

impl Document {
    /// Reads a file, with variables from the environment.
    ///
    /// # Errors
    /// What keeps it from being read, or is no YAML, with its places.
    pub fn read(path: &Path) -> Result<Self, Vec<ManifestError>> {
        let name = path.display().to_string();
        match read_file(path) {
            Ok(text) => Self::parse(&name, &text, &|name| std::env::var(name).ok()),
            Err((line, column, message)) => {
                let file = name.into();
                let place = Place { file, line, column };
                Err(vec![ManifestError::new(place, "", message)])
            }
        }
    }

    /// The value of this text; `name` is the file's in messages.
    ///
    /// # Errors
    /// What is no YAML, and more than one document.
    pub fn parse(name: &str, text: &str, lookup: &Lookup<'_>) -> Result<Self, Vec<ManifestError>> {
        Self::of(name, text, Some(lookup))
    }

    /// As [`Document::parse`], for the file of another program: a `${NAME}` in it is text.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn verbatim(name: &str, text: &str) -> Result<Self, Vec<ManifestError>> {
        Self::of(name, text, None)
    }

    fn of(name: &str, text: &str, lookup: Option<&Lookup<'_>>) -> Result<Self, Vec<ManifestError>> {
        let file: Arc<str> = name.into();
        let mut errors = Vec::new();
        let (nodes, _) = yaml::parse(text, &file, lookup, &mut errors);
        let mut places = Places::default();
        if let Some(second) = nodes.get(1) {
            let place = second.at.in_file(&file);
            errors.push(ManifestError::new(
                place,
                "",
                "this file has a second document; one is allowed",
            ));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let value = nodes.first().map_or(Value::Null, |node| {
            node.place_in(&mut places, &file, None, "");
            node.to_value()
        });
        Ok(Self {
            value,
            file,
            places,
        })
    }

    /// The file as it was named to us.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where a JSON Pointer leads; for one that leads to nothing, what it would stand in.
    #[must_use]
    pub fn locate(&self, pointer: &str) -> Place {
        self.places
            .locate(pointer)
            .unwrap_or_else(|| Place::whole(Arc::clone(&self.file)))
    }

    /// A mistake at the value that a JSON Pointer leads to.
    #[must_use]
    pub fn error(&self, pointer: &str, message: impl Into<String>) -> ManifestError {
        ManifestError::new(self.locate(pointer), pointer, message)
    }

    /// A mistake at the key that a JSON Pointer ends with.
    #[must_use]
    pub fn error_at_key(&self, pointer: &str, message: impl Into<String>) -> ManifestError {
        let place = self
            .places
            .locate_key(pointer)
            .unwrap_or_else(|| Place::whole(Arc::clone(&self.file)));
        ManifestError::new(place, pointer, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_in_a_document_has_its_place() {
        let document = Document::parse("t.yaml", "a: 1\nb: [x, { c: 2 }]\n", &|_| None).unwrap();
        assert_eq!(document.value["b"][1]["c"], 2);
        assert_eq!(document.locate("/b/1/c").to_string(), "t.yaml:2:13");
        let error = document.error_at_key("/b/1/c", "no");
        assert_eq!(error.to_string(), "t.yaml:2:10: no");
        assert_eq!(document.error("/a/z", "no").line, 1);
    }

    #[test]
    fn a_verbatim_document_keeps_what_looks_like_a_variable() {
        let document = Document::verbatim("t.yaml", "a: ${HOME}\nb: $${x\n").unwrap();
        assert_eq!(
            document.value,
            serde_json::json!({"a": "${HOME}", "b": "$${x"})
        );
    }

    #[test]
    fn what_is_no_yaml_and_a_second_document_are_mistakes_with_a_place() {
        let wrong = |text| Document::parse("t.yaml", text, &|_| None).unwrap_err()[0].to_string();
        assert!(wrong("a: [").starts_with("t.yaml:"), "{}", wrong("a: ["));
        assert!(wrong("a: 1\n---\nb: 2\n").starts_with("t.yaml:3:1: this file has a second"));
    }
}
