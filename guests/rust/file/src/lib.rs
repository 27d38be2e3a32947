//! `file`: reads files record by record, and writes them. Only below the folder that the operator
//! granted; the host opens and watches, and no record enters the sandbox.
//!
//! Every property but `datasource` and `path` is an option of the host's files, handed on by its name,
//! lengths of time in milliseconds. Source: `path` is a folder and `datasource` a file or folder in it (none
//! or `/`: `path` itself), or one of them alone is the whole path. The checkpoint is the header `offset` of the last
//! message read, given back as the option `resume`; with the option `end`, a failure of that code means
//! that the files are read and will not be read again. Sink: `path` with `{{...}}` in it is rendered by the host, which
//! then gives each message its own subject and takes the property out.

use serde_json::{Map, Value};
use windlass_connector::messaging::{Client, PublishOptions, SubscribeOptions, Subscription};
use windlass_connector::{
    Batch, Descriptor, Error, Millis, Outcome, Rejection, Schema, Sink, Slot, Source,
};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "file",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::PerRole {
            source: include_str!("../source.schema.json"),
            sink: include_str!("../sink.schema.json"),
        },
        slots: &[Slot::messaging("files", "The host's files, below the folder that was granted.")],
    },
    source: FileSource,
    sink: FileSink,
}

/// Properties that are lengths of time.
const TIMES: [&str; 4] = [
    "interval",
    "sendInterval",
    "rollingInterval",
    "checkInterval",
];

/// Messages taken in one read, at most.
const MOST: u32 = 1024;

/// The option that asks for it, and the code with which the host says that nothing more will come.
const END: &str = "end";

type Config = Map<String, Value>;

#[derive(Debug)]
struct FileSource {
    subscription: Subscription,
}

impl Source for FileSource {
    type Config = Config;

    fn open(mut config: Config, resume: Option<String>) -> Result<Self, Error> {
        let path = source_path(
            take_text(&mut config, "path")?,
            take_text(&mut config, "datasource")?,
        )?;
        let mut extra = options(config)?;
        extra.extend(resume.map(|offset| ("resume".to_owned(), offset)));
        extra.push((END.to_owned(), "true".to_owned()));
        let options = SubscribeOptions { qos: None, extra };
        Ok(Self {
            subscription: Client::open("files")?.subscribe(&[path], &options)?,
        })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        let batch = match self.subscription.receive(MOST, None) {
            Err(error) if error.code == END => return Ok(Outcome::Finished),
            batch => batch?,
        };
        let Some(last) = batch.len().checked_sub(1) else {
            return Ok(Outcome::batch(batch));
        };
        let offset = batch
            .select(&[last])?
            .header("offset")
            .pop()
            .filter(|offset| !offset.is_empty());
        Ok(match offset {
            Some(offset) => Outcome::batch_until(batch, offset),
            None => Outcome::batch(batch),
        })
    }
}

/// `datasource` within `path`, or the one that is there.
fn source_path(path: Option<String>, datasource: Option<String>) -> Result<String, Error> {
    match (path, datasource.filter(|name| name != "/")) {
        (Some(folder), Some(name)) => Ok(format!(
            "{}/{}",
            folder.trim_end_matches('/'),
            name.trim_start_matches('/')
        )),
        (Some(path), None) | (None, Some(path)) => Ok(path),
        (None, None) => Err(Error::misconfigured("config", "path: a path is required")),
    }
}

/// Takes a property out. None: it is not there, or empty.
fn take_text(config: &mut Config, name: &str) -> Result<Option<String>, Error> {
    match config.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(other) => Err(Error::misconfigured(
            "config",
            format!("{name}: {other} is not a text"),
        )),
    }
}

/// What is left of a configuration, as options: texts as they are, the rest as JSON.
fn options(config: Config) -> Result<Vec<(String, String)>, Error> {
    let mut options = Vec::with_capacity(config.len());
    for (name, value) in config {
        let text = match value {
            value if TIMES.contains(&name.as_str()) => milliseconds(&name, value)?,
            Value::Null => continue,
            Value::String(text) => text,
            other => other.to_string(),
        };
        options.push((name, text));
    }
    Ok(options)
}

fn milliseconds(name: &str, value: Value) -> Result<String, Error> {
    match serde_json::from_value::<Millis>(value) {
        Ok(Millis(milliseconds)) => Ok(milliseconds.to_string()),
        Err(error) => Err(Error::misconfigured("config", format!("{name}: {error}"))),
    }
}

#[derive(Debug)]
struct FileSink {
    client: Client,
    options: PublishOptions,
}

impl Sink for FileSink {
    type Config = Config;

    fn open(mut config: Config) -> Result<Self, Error> {
        let options = PublishOptions {
            subject: take_text(&mut config, "path")?,
            extra: options(config)?,
            ..PublishOptions::default()
        };
        Ok(Self {
            client: Client::open("files")?,
            options,
        })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        self.client.publish(&batch, &self.options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::{Kind, from_json};

    fn path(path: &str, datasource: &str) -> Result<String, Error> {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        source_path(text(path), text(datasource))
    }

    #[test]
    fn a_datasource_is_a_file_in_the_path_and_either_may_stand_alone() {
        assert_eq!(path("in", "a.json").unwrap(), "in/a.json");
        assert_eq!(path("in/", "/a.json").unwrap(), "in/a.json");
        assert_eq!(path("in", "/").unwrap(), "in");
        assert_eq!(path("", "in/a.json").unwrap(), "in/a.json");
        assert_eq!(path("", "/").unwrap_err().kind, Kind::Misconfigured);
    }

    #[test]
    fn other_properties_are_handed_on_by_name_and_times_as_milliseconds() {
        let config = from_json(
            r#"{"interval":"10s","sendInterval":5,"hasHeader":true,"fileType":"csv","moveTo":null}"#,
        );
        let mut options = options(config.unwrap()).unwrap();
        options.sort();
        let expected = [
            ("fileType", "csv"),
            ("hasHeader", "true"),
            ("interval", "10000"),
            ("sendInterval", "5"),
        ];
        assert_eq!(
            options,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn what_is_no_time_and_no_text_is_misconfigured_and_named() {
        let error = options(from_json(r#"{"interval":"soon"}"#).unwrap()).unwrap_err();
        assert_eq!(error.kind, Kind::Misconfigured);
        assert!(error.message.starts_with("interval: "), "{}", error.message);
        let error = take_text(&mut from_json(r#"{"path":5}"#).unwrap(), "path").unwrap_err();
        assert_eq!(error.message, "path: 5 is not a text");
    }
}
