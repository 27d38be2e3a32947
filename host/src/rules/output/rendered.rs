//! Properties that are rendered for each message, and where the text goes with it: into its subject, or
//! into a header, where the connector finds it.

use super::template::{DynamicProperty, RenderError};
use crate::message::Message;

/// What is rendered: a text, or a list of texts.
#[derive(Clone, Debug, PartialEq)]
pub enum Rendered {
    /// A text.
    Text(DynamicProperty),
    /// A list; what comes out is a JSON list.
    List(Vec<DynamicProperty>),
}

/// Where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The message's subject.
    Subject,
    /// The header of that name, in place of any that the message has.
    Header(String),
}

/// A property with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Addressed {
    /// What is rendered.
    pub rendered: Rendered,
    /// Where it goes.
    pub place: Place,
}

impl Addressed {
    /// Renders it for a row that is still JSON text.
    ///
    /// # Errors
    /// As [`DynamicProperty::render_json`].
    pub fn render_json(&self, row: &[u8]) -> Result<String, RenderError> {
        match &self.rendered {
            Rendered::Text(text) => text.render_json(row),
            Rendered::List(texts) => {
                let texts: Vec<String> = texts
                    .iter()
                    .map(|text| text.render_json(row))
                    .collect::<Result<_, _>>()?;
                Ok(serde_json::Value::from(texts).to_string())
            }
        }
    }

    /// The message with that text in its place.
    #[must_use]
    pub fn put(&self, mut message: Message, text: String) -> Message {
        match &self.place {
            Place::Subject => message.subject = text.into(),
            Place::Header(name) => {
                let others = message.headers.pairs().iter();
                let mut pairs: Vec<_> =
                    others.filter(|(known, _)| known != name).cloned().collect();
                pairs.push((name.clone(), text));
                message.headers = pairs.into();
            }
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_came_with_the_message_does_not_stand_for_what_was_rendered() {
        let texts = ["{{.a}}", "b"].map(|text| DynamicProperty::parse(text).unwrap());
        let tags = Addressed {
            rendered: Rendered::List(texts.into()),
            place: Place::Header("tags".to_owned()),
        };
        let text = tags.render_json(br#"{"a":"x\"y"}"#).unwrap();
        assert_eq!(text, r#"["x\"y","b"]"#);
        let headers = [("tags", "forged"), ("kept", "1")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let message = Message {
            headers: headers.to_vec().into(),
            ..Message::default()
        };
        let put = tags.put(message, text.clone());
        assert_eq!(put.headers.get("tags"), Some(&*text));
        assert_eq!(put.headers.get("kept"), Some("1"));
        assert!(tags.render_json(b"{}").is_err());
    }
}
