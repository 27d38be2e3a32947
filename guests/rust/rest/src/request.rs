//! From a configuration and the messages of a batch to requests. Sends nothing.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use windlass_connector::http::Request;
use windlass_connector::{Batch, Error};

use crate::form;

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    /// Behind the connection's URL.
    #[serde(default)]
    path: String,
    #[serde(default = "get")]
    method: String,
    body_type: Option<BodyType>,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    #[serde(default)]
    form_data: BTreeMap<String, Value>,
    #[serde(default = "file")]
    file_field_name: String,
    #[serde(default)]
    pub(crate) response_type: ResponseType,
    #[serde(default)]
    debug_resp: bool,
    #[serde(default)]
    format: Format,
    compression: Option<Compression>,
}

fn get() -> String {
    "GET".to_owned()
}

fn file() -> String {
    "file".to_owned()
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum BodyType {
    None,
    Text,
    Json,
    Html,
    Xml,
    Javascript,
    Form,
    Binary,
    Formdata,
}

impl BodyType {
    fn content_type(self) -> Option<&'static str> {
        Some(match self {
            Self::None | Self::Formdata => return None,
            Self::Text => "text/plain",
            Self::Json => "application/json",
            Self::Html => "text/html",
            Self::Xml => "application/xml",
            Self::Javascript => "application/javascript",
            Self::Form => "application/x-www-form-urlencoded",
            Self::Binary => "application/octet-stream",
        })
    }
}

/// What tells whether it worked.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ResponseType {
    #[default]
    Code,
    Body,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    Binary,
    Delimited,
    Urlencoded,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Compression {
    Gzip,
    Zlib,
    Flate,
    Zstd,
}

/// A value that is the same for all messages, or comes as a header of each, rendered by the host.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Fixed(String),
    Header(String),
}

/// How a batch becomes requests.
#[derive(Debug)]
pub(crate) struct Shape {
    method: String,
    path: Source,
    body: Body,
    headers: Vec<(String, Source)>,
    logs: bool,
}

#[derive(Debug)]
enum Body {
    Payload,
    None,
    Form {
        file: String,
        fields: Vec<(String, Source)>,
    },
}

/// The requests of a batch.
#[derive(Debug)]
pub(crate) enum Plan {
    /// The same for all, with each payload as its body.
    Same(Request),
    /// One each.
    Each(Vec<Request>),
}

impl Shape {
    /// # Errors
    /// `misconfigured`: properties that contradict each other.
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        let wrong = |sentence: &str| Err(Error::misconfigured("config", sentence));
        let method = config.method.to_ascii_uppercase();
        let no_body = matches!(method.as_str(), "GET" | "HEAD");
        let body_type = config.body_type.unwrap_or(if no_body {
            BodyType::None
        } else {
            BodyType::Json
        });
        let wanted = match body_type {
            BodyType::Json => Some(Format::Json),
            BodyType::Form => Some(Format::Urlencoded),
            _ => None,
        };
        if wanted.is_some_and(|wanted| wanted != config.format) {
            return wrong("format must be json if bodyType is json, and urlencoded if it is form");
        }
        if body_type != BodyType::Formdata && !config.form_data.is_empty() {
            return wrong("formData is given, and bodyType is not formdata");
        }
        let mut headers = sources("headers", &config.headers)?;
        let mut add = |name: &str, value: &str| {
            if !headers
                .iter()
                .any(|(known, _)| known.eq_ignore_ascii_case(name))
            {
                headers.push((name.to_owned(), Source::Fixed(value.to_owned())));
            }
        };
        if let Some(content_type) = body_type.content_type() {
            add("content-type", content_type);
        }
        if let Some(compression) = config.compression
            && body_type != BodyType::None
        {
            if body_type == BodyType::Formdata {
                return wrong(
                    "compression is given, and bodyType formdata sends the payload as a file",
                );
            }
            match compression {
                Compression::Gzip => add("content-encoding", "gzip"),
                Compression::Zstd => add("content-encoding", "zstd"),
                Compression::Zlib => add("content-encoding", "deflate"),
                // Raw DEFLATE has no name in HTTP.
                Compression::Flate => {}
            }
        }
        let body = match body_type {
            BodyType::None => Body::None,
            BodyType::Formdata => {
                add("content-type", form::CONTENT_TYPE);
                Body::Form {
                    file: config.file_field_name,
                    fields: sources("formData", &config.form_data)?,
                }
            }
            _ => Body::Payload,
        };
        Ok(Self {
            method,
            path: source(config.path, || "path".to_owned()),
            body,
            headers,
            logs: config.debug_resp,
        })
    }

    /// Answers are to be logged.
    pub(crate) fn logs(&self) -> bool {
        self.logs
    }

    /// The path comes from the messages.
    pub(crate) fn is_rendered(&self) -> bool {
        is_header(&self.path)
    }

    /// The requests of this batch.
    pub(crate) fn plan(&self, batch: &Batch) -> Plan {
        let paths = match &self.path {
            Source::Fixed(_) => None,
            Source::Header(header) => Some(batch.header(header)),
        };
        let read = |sources: &[(String, Source)]| -> Vec<(String, Vec<String>)> {
            let rendered = sources.iter().filter_map(|(name, source)| match source {
                Source::Header(header) => Some((name.clone(), batch.header(header))),
                Source::Fixed(_) => None,
            });
            rendered.collect()
        };
        let headers = read(&self.headers);
        let path_of = |number: usize| match (&self.path, &paths) {
            (Source::Fixed(path), _) => path.clone(),
            (Source::Header(_), paths) => {
                let path = paths.as_ref().and_then(|paths| paths.get(number));
                path.cloned().unwrap_or_default()
            }
        };
        let same_paths = paths.as_ref().is_none_or(|paths| {
            let first = paths.first();
            paths.iter().all(|path| Some(path) == first)
        });
        if same_paths && headers.is_empty() && matches!(self.body, Body::Payload) {
            return Plan::Same(self.request(path_of(0), self.fixed(), Vec::new()));
        }
        let (file, fields) = match &self.body {
            Body::Form { file, fields } => (Some((file, fields)), read(fields)),
            Body::Payload | Body::None => (None, Vec::new()),
        };
        let of = |columns: &[(String, Vec<String>)], number: usize| -> Vec<(String, String)> {
            let texts = columns.iter();
            texts
                .map(|(name, texts)| (name.clone(), texts.get(number).cloned().unwrap_or_default()))
                .collect()
        };
        let columns = batch.columns();
        let requests = columns.each().enumerate().map(|(number, payload)| {
            let mut all = self.fixed();
            all.extend(of(&headers, number));
            let body = match file {
                Some((file, fixed)) => {
                    let fixed = fixed.iter().filter_map(|(name, source)| match source {
                        Source::Fixed(value) => Some((name.clone(), value.clone())),
                        Source::Header(_) => None,
                    });
                    let mut parts: Vec<_> = fixed.collect();
                    parts.extend(of(&fields, number));
                    form::body(&parts, file, payload)
                }
                None if matches!(self.body, Body::None) => Vec::new(),
                None => payload.to_vec(),
            };
            self.request(path_of(number), all, body)
        });
        Plan::Each(requests.collect())
    }

    fn fixed(&self) -> Vec<(String, String)> {
        let fixed = self
            .headers
            .iter()
            .filter_map(|(name, source)| match source {
                Source::Fixed(value) => Some((name.clone(), value.clone())),
                Source::Header(_) => None,
            });
        fixed.collect()
    }

    fn request(&self, path: String, headers: Vec<(String, String)>, body: Vec<u8>) -> Request {
        Request {
            method: self.method.clone(),
            path,
            headers,
            body,
            timeout_ms: None,
        }
    }
}

/// The host renders what has a template in it into a header of each message.
fn source(text: String, header: impl FnOnce() -> String) -> Source {
    if text.contains("{{") {
        Source::Header(header())
    } else {
        Source::Fixed(text)
    }
}

fn is_header(source: &Source) -> bool {
    matches!(source, Source::Header(_))
}

/// What the host renders comes as the header `<property>/<name>`.
fn sources(
    property: &str,
    given: &BTreeMap<String, Value>,
) -> Result<Vec<(String, Source)>, Error> {
    let one = |(name, value): (&String, &Value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => {
                return Err(Error::misconfigured(
                    "config",
                    format!("{property}: what stands in \"{name}\" is no text"),
                ));
            }
        };
        Ok((name.clone(), source(text, || format!("{property}/{name}"))))
    };
    given.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::from_json;

    fn shape(text: &str) -> Result<Shape, Error> {
        Shape::new(from_json(text)?)
    }

    #[test]
    fn without_a_word_it_is_a_get_without_body_as_in_ekuiper() {
        let plain = shape("{}").unwrap();
        assert_eq!(plain.method, "GET");
        assert!(matches!(plain.body, Body::None) && plain.headers.is_empty());
        let post = shape(r#"{"method":"post","path":"x"}"#).unwrap();
        assert!(matches!(post.body, Body::Payload));
        let request = post.request("x".to_owned(), post.fixed(), Vec::new());
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("POST", "x")
        );
        let json = ("content-type".to_owned(), "application/json".to_owned());
        assert_eq!(request.headers, [json]);
    }

    #[test]
    fn a_content_type_of_ones_own_stays_and_compression_is_said() {
        let headers = |text: &str| shape(text).unwrap().fixed();
        let own = headers(r#"{"method":"PUT","headers":{"Content-Type":"a/b","n":1}}"#);
        assert_eq!(
            own,
            [
                ("Content-Type".to_owned(), "a/b".to_owned()),
                ("n".to_owned(), "1".to_owned())
            ]
        );
        for (compression, said) in [("gzip", "gzip"), ("zstd", "zstd"), ("zlib", "deflate")] {
            let text = format!(r#"{{"method":"POST","compression":"{compression}"}}"#);
            assert!(
                headers(&text)
                    .iter()
                    .any(|(name, value)| name == "content-encoding" && value == said)
            );
        }
        assert_eq!(
            headers(r#"{"method":"POST","compression":"flate"}"#).len(),
            1
        );
    }

    #[test]
    fn what_is_rendered_is_looked_for_in_the_messages_headers() {
        let shape =
            shape(r#"{"method":"POST","path":"{{.p}}","headers":{"X-Id":"{{.id}}","Y":"y"}}"#)
                .unwrap();
        assert!(
            shape
                .headers
                .contains(&("X-Id".to_owned(), Source::Header("headers/X-Id".to_owned())))
        );
        assert!(shape.is_rendered() && shape.fixed().len() == 2);
    }

    #[test]
    fn what_contradicts_itself_is_misconfigured() {
        for text in [
            r#"{"bodyType":"form"}"#,
            r#"{"bodyType":"json","format":"delimited"}"#,
            r#"{"method":"POST","format":"urlencoded"}"#,
            r#"{"method":"POST","formData":{"a":"b"}}"#,
            r#"{"bodyType":"formdata","compression":"gzip"}"#,
            r#"{"headers":{"a":[]}}"#,
        ] {
            let error = shape(text).unwrap_err();
            assert_eq!(
                error.kind,
                windlass_connector::Kind::Misconfigured,
                "{text}"
            );
        }
    }
}
