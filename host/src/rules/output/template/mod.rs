//! `dataTemplate` and properties with `{{...}}` in them: a stated subset of Go's templates. What is
//! outside it is refused when the template is read, with its place, and never at run time.
//!
//! In it: fields `{{.a.b}}`, variables, `if / else if / else / end`, `range / else / end` with
//! `$i, $v :=`, `json`, `toJson`, `index`, `len`, `eq ne lt le gt ge`, `and or not`, `printf` with
//! `%d %s %v %f %q %t`, pipes, comments, and trimming with `{{-` and `-}}`. Knows nothing of rows,
//! messages or properties.

mod eval;
mod lex;
mod parse;
mod print;

use std::borrow::Cow;

use serde_json::{Map, Value};

use self::eval::Renderer;
use self::parse::{Command, Node, Operand};
use crate::rules::query::json;

/// A mistake in a template, and its place in the template's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct TemplateError {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What was found and what is allowed.
    pub message: String,
}

impl TemplateError {
    fn at(template: &str, at: usize, message: impl Into<String>) -> Self {
        let before = template.get(..at).unwrap_or(template);
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        Self {
            line,
            column,
            message: message.into(),
        }
    }
}

/// A template cannot be rendered for a value: one sentence, with names of fields and no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RenderError(String);

impl RenderError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// A template that has been read.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    nodes: Vec<Node>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// The place, and what is allowed.
    pub fn parse(template: &str) -> Result<Self, TemplateError> {
        Ok(Self {
            nodes: parse::parse(template)?,
        })
    }

    /// Renders it; what is missing is written `<no value>`, as Go does.
    ///
    /// # Errors
    /// A field of something that has none, an index out of range, kinds that do not compare.
    pub fn render(&self, value: &Value) -> Result<String, RenderError> {
        self.render_with(value, false)
    }

    fn render_with(&self, value: &Value, strict: bool) -> Result<String, RenderError> {
        let mut renderer = Renderer::new(value, strict);
        renderer.nodes(&self.nodes, &Cow::Borrowed(value))?;
        Ok(renderer.out)
    }
}

/// A property of an action with `{{...}}` in it, rendered for each row: a topic, a path.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicProperty {
    template: Template,
    /// Only text and fields: rendered without decoding the row.
    simple: bool,
}

impl DynamicProperty {
    /// Whether a text has to be rendered for each row.
    #[must_use]
    pub fn is_dynamic(text: &str) -> bool {
        text.contains("{{")
    }

    /// Reads the property.
    ///
    /// # Errors
    /// The place, and what is allowed.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let template = Template::parse(text)?;
        let simple = template.nodes.iter().all(|node| match node {
            Node::Text(_) => true,
            Node::Print(pipeline) => {
                matches!(pipeline.as_slice(), [Command::Value(Operand::Dot(path))] if !path.is_empty())
            }
            _ => false,
        });
        Ok(Self { template, simple })
    }

    /// Renders it for a row. A missing field is an error: a topic with `<no value>` in it serves nobody.
    ///
    /// # Errors
    /// A missing field, or as [`Template::render`].
    pub fn render(&self, row: &Map<String, Value>) -> Result<String, RenderError> {
        self.template.render_with(&Value::Object(row.clone()), true)
    }

    /// Renders it for a row that is still JSON text.
    ///
    /// # Errors
    /// As [`DynamicProperty::render`].
    pub fn render_json(&self, row: &[u8]) -> Result<String, RenderError> {
        if !self.simple {
            let value = serde_json::from_slice(row)
                .map_err(|_| RenderError::new("the row cannot be decoded"))?;
            return self.template.render_with(&value, true);
        }
        let mut out = String::new();
        for node in &self.template.nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(pipeline) => {
                    let [Command::Value(Operand::Dot(path))] = pipeline.as_slice() else {
                        continue;
                    };
                    let found = path
                        .iter()
                        .try_fold(row, |object, name| json::find(object, name));
                    let value = found.and_then(|raw| serde_json::from_slice::<Value>(raw).ok());
                    match value {
                        None | Some(Value::Null) => {
                            let path = path.join(".");
                            return Err(RenderError::new(format!("field {path} is missing")));
                        }
                        Some(value) => print::print(&value, &mut out),
                    }
                }
                _ => {}
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
