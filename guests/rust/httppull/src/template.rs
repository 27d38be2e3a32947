//! Texts with `{{.name}}` in them: times and states. Nothing else of Go's templates.

use windlass_connector::Error;

use crate::position::{TIMES, Values};

/// A text that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Plain(String),
    Value(String),
}

impl Template {
    /// # Errors
    /// A sentence on what stands between the braces, and what may.
    pub(crate) fn new(text: &str, states: &[&str]) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after.split_once("}}").ok_or("a {{ is never closed")?;
            let name = action.trim().strip_prefix('.').unwrap_or_default();
            if !TIMES.contains(&name) && !states.contains(&name) {
                let known = TIMES.iter().chain(states);
                let known: Vec<String> = known.map(|name| format!("{{{{.{name}}}}}")).collect();
                return Err(format!(
                    "{{{{{action}}}}} is not known here; allowed: {}",
                    known.join(", ")
                ));
            }
            pieces.push(Piece::Plain(before.to_owned()));
            pieces.push(Piece::Value(name.to_owned()));
            rest = after;
        }
        pieces.push(Piece::Plain(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// # Errors
    /// A value is missing; it is there for every name that [`Template::new`] let pass.
    pub(crate) fn fill(&self, values: &Values) -> Result<String, Error> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Plain(text) => out.push_str(text),
                Piece::Value(name) => match values.get(name) {
                    Some(value) => out.push_str(value),
                    None => {
                        return Err(Error::misconfigured(
                            "config",
                            format!("{{{{.{name}}}}} has no value"),
                        ));
                    }
                },
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_where_their_names_stood() {
        let template =
            Template::new("/x?from={{.LastPullTime}}&c={{ .cursor }}", &["cursor"]).unwrap();
        let values = Values::from([
            ("LastPullTime".to_owned(), "17".to_owned()),
            ("cursor".to_owned(), "a b".to_owned()),
        ]);
        assert_eq!(template.fill(&values).unwrap(), "/x?from=17&c=a b");
        assert!(template.fill(&Values::new()).is_err());
        for text in ["{{.nope}}", "{{.cursor", "{{cursor}}", "{{}}"] {
            assert!(Template::new(text, &["cursor"]).is_err(), "{text}");
        }
    }
}
