//! What a sink does with each message: the command, the key, and in which order.

use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use windlass_connector::messaging::PublishOptions;
use windlass_connector::{Columns, Error, Rejection};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SinkConfig {
    channel: Option<String>,
    stream: Option<String>,
    key: Option<String>,
    field: Option<String>,
    #[serde(default)]
    data_type: DataType,
    expiration: Option<Expiration>,
    rowkind_field: Option<String>,
    max_len: Option<u64>,
    entry_field: Option<String>,
    /// Which of `channel`, `stream` and `key` is given. It is seen; a wrong word is refused.
    mode: Option<Mode>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Channel,
    Stream,
    Key,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum DataType {
    #[default]
    String,
    List,
}

/// Seconds, as eKuiper has it (0 and below: never), or text such as `10m`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Expiration {
    Seconds(i64),
    Text(String),
}

impl Expiration {
    fn option(&self) -> Option<String> {
        match self {
            Self::Seconds(seconds) if *seconds <= 0 => None,
            Self::Seconds(seconds) => Some(format!("{seconds}s")),
            Self::Text(text) => Some(text.clone()),
        }
    }
}

/// What is done with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Write,
    Delete,
}

/// Messages of one command, in their order.
#[derive(Debug)]
pub(crate) struct Run {
    deed: Deed,
    /// How they are published.
    pub(crate) options: PublishOptions,
    /// The messages.
    pub(crate) columns: Columns,
    /// For each the place of its message in the batch.
    pub(crate) of: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct Writer {
    write: PublishOptions,
    delete: PublishOptions,
    field: Option<String>,
    rowkind: Option<String>,
}

impl Writer {
    pub(crate) fn new(config: SinkConfig) -> Result<Self, Error> {
        let wrong = |text: &str| Err(Error::misconfigured("config", text));
        // As in eKuiper, `key` goes before `field`.
        let field = config.field.filter(|_| config.key.is_none());
        let keys = config.key.is_some() || field.is_some();
        let named = [&config.channel, &config.stream, &config.key];
        if named.iter().filter(|name| name.is_some()).count() > 1
            || (field.is_some() && (config.channel.is_some() || config.stream.is_some()))
        {
            return wrong("only one of channel, stream and key (or field) may be given");
        }
        let stream = config.stream.is_some();
        // Without any of them a message's own subject would be the key, and that is its publisher's choice.
        let found = match (keys, stream) {
            (true, _) => Mode::Key,
            (false, true) => Mode::Stream,
            (false, false) if config.channel.is_some() => Mode::Channel,
            (false, false) => return wrong("one of channel, stream, key and field is needed"),
        };
        if config.mode.is_some_and(|mode| mode != found) {
            return wrong("mode is not what is given: channel, stream, or key (or field)");
        }
        if !keys
            && (config.rowkind_field.is_some()
                || config.expiration.is_some()
                || config.data_type == DataType::List)
        {
            return wrong("rowkindField, expiration and dataType go with key or field only");
        }
        if !stream && (config.max_len.is_some() || config.entry_field.is_some()) {
            return wrong("maxLen and entryField go with stream only");
        }
        // What holds a template the host has rendered into the subject of each message.
        let subject = config.key.or(config.stream).or(config.channel);
        let subject = subject.filter(|text| !text.contains("{{"));
        let (write, delete) = match (keys, stream, config.data_type) {
            (true, _, DataType::String) => ("set", "del"),
            (true, _, DataType::List) => ("lpush", "lpop"),
            (false, true, _) => ("xadd", "xadd"),
            (false, false, _) => ("publish", "publish"),
        };
        let options = |command: &str| PublishOptions {
            subject: subject.clone(),
            extra: vec![("command".to_owned(), command.to_owned())],
            ..PublishOptions::default()
        };
        let (mut write, delete) = (options(write), options(delete));
        let more = [
            (
                "expiration",
                config.expiration.as_ref().and_then(Expiration::option),
            ),
            ("maxLen", config.max_len.map(|most| most.to_string())),
            ("field", config.entry_field),
        ];
        for (name, value) in more {
            write
                .extra
                .extend(value.map(|value| (name.to_owned(), value)));
        }
        Ok(Self {
            write,
            delete,
            field,
            rowkind: config.rowkind_field,
        })
    }

    /// Whether a message's payload decides over what is done with it.
    pub(crate) fn looks_inside(&self) -> bool {
        self.field.is_some() || self.rowkind.is_some()
    }

    /// How a batch is published whose payloads decide over nothing.
    pub(crate) fn plain(&self) -> &PublishOptions {
        &self.write
    }

    /// The rows of a batch in runs of one command each, and the messages that are no rows.
    pub(crate) fn runs(&self, batch: &Columns) -> (Vec<Run>, Vec<Rejection>) {
        let (mut runs, mut rejections) = (Vec::<Run>::new(), Vec::new());
        let mut begin = 0;
        for (index, end) in (0_u32..).zip(&batch.ends) {
            let end = usize::try_from(*end).unwrap_or(usize::MAX);
            let payload = batch.payloads.get(begin..end).unwrap_or_default();
            begin = end;
            let subject = subject(batch, index);
            match self.rows(payload, subject) {
                Ok(rows) => {
                    for (deed, key, row) in rows {
                        self.add(&mut runs, deed, key, row, index);
                    }
                }
                Err(why) => rejections.push(Error::permanent("row", why).at(index)),
            }
        }
        (runs, rejections)
    }

    fn add(&self, runs: &mut Vec<Run>, deed: Deed, key: String, row: &str, index: u32) {
        let fits = runs.last().is_some_and(|run| run.deed == deed);
        if !fits {
            let options = match deed {
                Deed::Write => &self.write,
                Deed::Delete => &self.delete,
            };
            // Each message has its key as its own subject.
            let options = PublishOptions {
                subject: None,
                extra: options.extra.clone(),
                ..PublishOptions::default()
            };
            runs.push(Run {
                deed,
                options,
                columns: Columns {
                    payloads: Vec::new(),
                    ends: Vec::new(),
                    subjects: Vec::new(),
                    subject_of: Vec::new(),
                },
                of: Vec::new(),
            });
        }
        if let Some(run) = runs.last_mut() {
            run.columns.payloads.extend_from_slice(row.as_bytes());
            let end = u32::try_from(run.columns.payloads.len()).unwrap_or(u32::MAX);
            run.columns.ends.push(end);
            let place = u32::try_from(run.columns.subjects.len()).unwrap_or(u32::MAX);
            run.columns.subjects.push(key);
            run.columns.subject_of.push(place);
            run.of.push(index);
        }
    }

    /// A message's rows: what is done, under which key, and the row's own text. A list is many rows.
    fn rows<'a>(
        &self,
        payload: &'a [u8],
        subject: &str,
    ) -> Result<Vec<(Deed, String, &'a str)>, String> {
        let rows: Vec<&'a RawValue> = match payload.iter().find(|byte| !byte.is_ascii_whitespace())
        {
            Some(b'[') => serde_json::from_slice(payload),
            _ => serde_json::from_slice(payload).map(|row| vec![row]),
        }
        .map_err(|error| format!("the message is not JSON: {error}"))?;
        rows.into_iter()
            .map(|row| {
                let fields: BTreeMap<String, &RawValue> = serde_json::from_str(row.get())
                    .map_err(|error| format!("the row is not a JSON object: {error}"))?;
                let deed = self.deed(&fields)?;
                let key = match &self.field {
                    Some(field) => key(fields.get(field).copied(), field)?,
                    None => self
                        .write
                        .subject
                        .clone()
                        .unwrap_or_else(|| subject.to_owned()),
                };
                Ok((deed, key, row.get()))
            })
            .collect()
    }

    fn deed(&self, fields: &BTreeMap<String, &RawValue>) -> Result<Deed, String> {
        let Some(name) = &self.rowkind else {
            return Ok(Deed::Write);
        };
        let Some(kind) = fields.get(name) else {
            return Ok(Deed::Write);
        };
        match kind.get().trim_matches('"').to_ascii_lowercase().as_str() {
            "insert" | "update" | "upsert" => Ok(Deed::Write),
            "delete" => Ok(Deed::Delete),
            _ => {
                let found: String = kind.get().chars().take(60).collect();
                Err(format!(
                    "{name}: found {found}; Allowed: insert, update, upsert, delete"
                ))
            }
        }
    }
}

fn subject(batch: &Columns, index: u32) -> &str {
    let of = usize::try_from(index)
        .ok()
        .and_then(|index| batch.subject_of.get(index));
    let place = of.copied().unwrap_or(0);
    let subject = usize::try_from(place)
        .ok()
        .and_then(|place| batch.subjects.get(place));
    subject.map_or("", String::as_str)
}

/// A field's value as a key: a text, or a number or boolean as it is written.
fn key(value: Option<&RawValue>, field: &str) -> Result<String, String> {
    let value = value
        .ok_or_else(|| format!("{field}: the row has no such field, whose value is the key"))?;
    match serde_json::from_str(value.get()) {
        Ok(Json::String(text)) if !text.is_empty() => Ok(text),
        Ok(Json::Number(_) | Json::Bool(_)) => Ok(value.get().to_owned()),
        _ => Err(format!(
            "{field}: its value is the key, and must be a text or a number"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::{Kind, from_json};

    fn writer(text: &str) -> Result<Writer, Error> {
        Writer::new(from_json(text).unwrap())
    }

    fn batch(payloads: &[&str]) -> Columns {
        let mut columns = Columns {
            payloads: Vec::new(),
            ends: Vec::new(),
            subjects: vec!["own".to_owned()],
            subject_of: Vec::new(),
        };
        for payload in payloads {
            columns.payloads.extend_from_slice(payload.as_bytes());
            columns
                .ends
                .push(u32::try_from(columns.payloads.len()).unwrap());
        }
        columns
    }

    #[test]
    fn each_property_means_its_command() {
        for (text, command, subject, more) in [
            (r#"{"channel":"c"}"#, "publish", Some("c"), None),
            (
                r#"{"stream":"s","maxLen":9}"#,
                "xadd",
                Some("s"),
                Some(("maxLen", "9")),
            ),
            (
                r#"{"key":"k","expiration":10}"#,
                "set",
                Some("k"),
                Some(("expiration", "10s")),
            ),
            (r#"{"key":"k","expiration":-1}"#, "set", Some("k"), None),
            (
                r#"{"key":"k","field":"f","dataType":"list"}"#,
                "lpush",
                Some("k"),
                None,
            ),
            (r#"{"key":"a{{.b}}","mode":"key"}"#, "set", None, None),
            (r#"{"stream":"{{.b}}"}"#, "xadd", None, None),
            (r#"{"channel":"{{.b}}"}"#, "publish", None, None),
        ] {
            let writer = writer(text).unwrap();
            assert!(!writer.looks_inside(), "{text}");
            let options = writer.plain();
            assert_eq!(options.subject.as_deref(), subject, "{text}");
            let mut wanted = vec![("command".to_owned(), command.to_owned())];
            wanted.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
            assert_eq!(options.extra, wanted, "{text}");
        }
        for text in [
            "{}",
            r#"{"mode":"key"}"#,
            r#"{"mode":"stream"}"#,
            r#"{"mode":"channel"}"#,
            r#"{"mode":"key","channel":"{{.a}}"}"#,
            r#"{"channel":"c","key":"k"}"#,
            r#"{"stream":"s","field":"f"}"#,
            r#"{"channel":"c","expiration":5}"#,
            r#"{"channel":"c","rowkindField":"k"}"#,
            r#"{"key":"c","maxLen":5}"#,
        ] {
            assert_eq!(
                writer(text).unwrap_err().kind,
                Kind::Misconfigured,
                "{text}"
            );
        }
    }

    #[test]
    fn rows_go_under_their_fields_value_in_runs_of_one_command() {
        let writer = writer(r#"{"field":"id","rowkindField":"do"}"#).unwrap();
        let (runs, rejections) = writer.runs(&batch(&[
            r#"[{"id":"a","v":1.50},{"id":18446744073709551615}]"#,
            r#"{"id":"c","do":"delete"}"#,
            r#"{"id":"d","do":"upsert"}"#,
            r#"{"v":1}"#,
            r#"{"id":"e","do":"drop"}"#,
            "nonsense",
        ]));
        let seen: Vec<_> = runs
            .iter()
            .map(|run| {
                (
                    run.options.extra[0].1.as_str(),
                    run.columns.subjects.join(" "),
                    run.of.clone(),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("set", "a 18446744073709551615".to_owned(), vec![0, 0]),
                ("del", "c".to_owned(), vec![1]),
                ("set", "d".to_owned(), vec![2]),
            ]
        );
        let text = String::from_utf8(runs[0].columns.payloads.clone()).unwrap();
        assert_eq!(text, r#"{"id":"a","v":1.50}{"id":18446744073709551615}"#);
        let places: Vec<u32> = rejections.iter().map(|rejection| rejection.index).collect();
        assert_eq!(places, [3, 4, 5]);
    }

    #[test]
    fn a_rendered_key_is_the_messages_own_subject() {
        let writer = writer(r#"{"key":"{{.k}}","rowkindField":"do"}"#).unwrap();
        let (runs, _) = writer.runs(&batch(&[r#"{"do":"insert"}"#]));
        assert_eq!(runs[0].columns.subjects, ["own"]);
    }
}
