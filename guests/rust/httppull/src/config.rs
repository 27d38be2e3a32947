//! The configuration, checked.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use windlass_connector::{Error, Millis};

use crate::position::Values;
use crate::template::Template;

/// As it was given.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    #[serde(default)]
    datasource: String,
    #[serde(default)]
    path: String,
    #[serde(default = "ten_seconds")]
    interval: Millis,
    #[serde(default = "get")]
    method: String,
    body: Option<Value>,
    body_type: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    #[serde(default)]
    incremental: bool,
    #[serde(default)]
    states: BTreeMap<String, Value>,
    #[serde(default = "code")]
    response_type: String,
}

fn ten_seconds() -> Millis {
    Millis(10_000)
}

fn get() -> String {
    "GET".to_owned()
}

fn code() -> String {
    "code".to_owned()
}

/// What is asked, and how often.
#[derive(Debug)]
pub(crate) struct Pull {
    /// Milliseconds.
    pub(crate) interval: u64,
    pub(crate) method: String,
    pub(crate) path: Template,
    pub(crate) body: Template,
    pub(crate) incremental: bool,
    pub(crate) by_body: bool,
    pub(crate) states: BTreeMap<String, Value>,
    headers: Vec<(String, Template)>,
    subject: String,
}

impl Pull {
    /// # Errors
    /// `misconfigured`, with the property.
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        let names: Vec<&str> = config.states.keys().map(String::as_str).collect();
        let template = |property: &str, text: &str| {
            Template::new(text, &names)
                .map_err(|why| Error::misconfigured("config", format!("{property}: {why}")))
        };
        let path = format!("{}{}", config.path, config.datasource);
        let method = config.method.to_ascii_uppercase();
        let mut headers = Vec::new();
        for (name, value) in &config.headers {
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            headers.push((name.clone(), template("headers", &text)?));
        }
        let default = if method == "GET" { "none" } else { "json" };
        let body_type = config.body_type.as_deref().unwrap_or(default);
        let content_type = match body_type {
            "json" => Some("application/json"),
            "text" => Some("text/plain"),
            "html" => Some("text/html"),
            "xml" => Some("application/xml"),
            "javascript" => Some("application/javascript"),
            "form" => Some("application/x-www-form-urlencoded"),
            _ => None,
        };
        let body = match (&config.body, content_type) {
            (None, _) | (_, None) => String::new(),
            (Some(Value::String(text)), _) => text.clone(),
            (Some(other), _) => other.to_string(),
        };
        let own = |(name, _): &(String, Template)| name.eq_ignore_ascii_case("content-type");
        if let Some(content_type) = content_type
            && !body.is_empty()
            && !headers.iter().any(own)
        {
            headers.push((
                "content-type".to_owned(),
                template("bodyType", content_type)?,
            ));
        }
        Ok(Self {
            interval: config.interval.0.max(1),
            method,
            path: template("path", &path)?,
            body: template("body", &body)?,
            incremental: config.incremental,
            by_body: config.response_type == "body",
            headers,
            subject: config.datasource,
            states: config.states,
        })
    }

    /// The headers of one request.
    pub(crate) fn headers(&self, values: &Values) -> Result<Vec<(String, String)>, Error> {
        let fill =
            |(name, template): &(String, Template)| Ok((name.clone(), template.fill(values)?));
        self.headers.iter().map(fill).collect()
    }

    /// The subject of all messages, as columns have it.
    pub(crate) fn subjects(&self) -> Vec<String> {
        if self.subject.is_empty() {
            Vec::new()
        } else {
            vec![self.subject.clone()]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::from_json;

    fn pull(text: &str) -> Result<Pull, Error> {
        Pull::new(from_json(text)?)
    }

    #[test]
    fn a_get_every_ten_seconds_unless_told() {
        let plain = pull("{}").unwrap();
        assert_eq!((plain.interval, plain.method.as_str()), (10_000, "GET"));
        assert!(plain.headers.is_empty() && plain.subjects().is_empty());
        let told = pull(r#"{"datasource":"/x","path":"a","interval":"1m","method":"post","body":{"from":"{{.LastPullTime}}"}}"#).unwrap();
        let values = Values::from([("LastPullTime".to_owned(), "5".to_owned())]);
        assert_eq!(told.path.fill(&values).unwrap(), "a/x");
        assert_eq!(told.body.fill(&values).unwrap(), r#"{"from":"5"}"#);
        let headers = told.headers(&values).unwrap();
        assert_eq!(
            headers,
            [("content-type".to_owned(), "application/json".to_owned())]
        );
        assert_eq!(
            (told.interval, told.subjects()),
            (60_000, vec!["/x".to_owned()])
        );
    }

    #[test]
    fn a_template_with_a_name_that_is_no_state_is_misconfigured() {
        for text in [
            r#"{"path":"{{.cursor}}"}"#,
            r#"{"headers":{"a":"{{.x}}"},"states":{"y":1}}"#,
            r#"{"method":"POST","body":"{{json .}}"}"#,
        ] {
            assert!(pull(text).is_err(), "{text}");
        }
        assert!(pull(r#"{"path":"{{.cursor}}","states":{"cursor":"0"}}"#).is_ok());
    }
}
