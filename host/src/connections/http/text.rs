//! Texts with `{{.name}}` in them, filled from the answer of a token endpoint. As much of Go's
//! templates as eKuiper's OAuth properties use: a path of fields, nothing else.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// A text that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Plain(String),
    Field(Vec<String>),
}

impl Text {
    /// Reads it.
    ///
    /// # Errors
    /// A sentence; never with what stands outside of the braces.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after
                .split_once("}}")
                .ok_or("holds a \"{{\" that is never closed")?;
            if !before.is_empty() {
                pieces.push(Piece::Plain(before.to_owned()));
            }
            let fits = |name: &str| {
                !name.is_empty()
                    && name
                        .chars()
                        .all(|c| c.is_alphanumeric() || c == '_' || c == '-')
            };
            let path = action.trim().strip_prefix('.');
            let path: Vec<String> = path
                .map(|path| path.split('.').map(str::to_owned).collect())
                .unwrap_or_default();
            if path.is_empty() || !path.iter().all(|name| fits(name)) {
                return Err(format!(
                    "holds \"{{{{{action}}}}}\"; only fields of the token's answer can stand there, as {{{{.access_token}}}}"
                ));
            }
            pieces.push(Piece::Field(path));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Plain(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// Nothing is to be filled in.
    pub(super) fn is_plain(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, Piece::Plain(_)))
    }

    /// With these fields.
    ///
    /// # Errors
    /// The path of the field that is missing, or is neither text, number nor boolean.
    pub(super) fn fill(&self, fields: &Map<String, Value>) -> Result<String, String> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Plain(text) => out.push_str(text),
                Piece::Field(path) => out.push_str(&field(path, fields).ok_or(path.join("."))?),
            }
        }
        Ok(out)
    }
}

fn field<'a>(path: &[String], fields: &'a Map<String, Value>) -> Option<Cow<'a, str>> {
    let (last, objects) = path.split_last()?;
    let object = objects.iter().try_fold(fields, |object, name| {
        object.get(name).and_then(Value::as_object)
    })?;
    match object.get(last)? {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(value) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_filled_in_and_everything_else_is_refused_or_named() {
        let fields = json!({"token": "t0k", "expires_in": 3600, "data": {"id": "x"}});
        let fields = fields.as_object().unwrap();
        for (text, wanted) in [
            ("Bearer {{.token}}", Ok("Bearer t0k")),
            ("{{ .data.id }}/{{.expires_in}}", Ok("x/3600")),
            ("plain", Ok("plain")),
            ("{{.nope}}", Err("nope")),
            ("{{.data}}", Err("data")),
        ] {
            let found = Text::parse(text).unwrap().fill(fields);
            assert_eq!(found, wanted.map(str::to_owned).map_err(str::to_owned));
        }
        assert!(Text::parse("a").unwrap().is_plain() && !Text::parse("{{.a}}").unwrap().is_plain());
        for text in ["{{.a", "{{a}}", "{{.}}", "{{.a | b}}", "{{json .a}}"] {
            assert!(Text::parse(text).is_err(), "{text}");
        }
    }
}
