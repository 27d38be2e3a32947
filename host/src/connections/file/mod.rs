//! Files below a folder that the operator granted: a host type behind `messaging` that is attached to
//! a rule and stands in no list. Touches nothing outside that folder.
//!
//! A subscription's filter is the path of one file; its records arrive with a header `offset`, the
//! place behind them, which `resume` takes. Who subscribes with the option `end` is told when all files
//! are read and will not be read again. A published message is a line at the end of the file that
//! its subject names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::fs::OpenOptions;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::properties::Reader;
use super::{
    ConfigError, Connection, Context, Inbox, Messaging, Properties, Property, PublishOptions, Qos,
    SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::message::{Batch, Message, Rejection};

mod path;
mod read;
mod records;
#[cfg(test)]
mod tests;

/// The `typ`.
pub const NAME: &str = "file";

/// The properties, named as in eKuiper. A subscription's `extra` takes them too, and `resume` and `end`.
pub const PROPERTIES: &[Property] = &[
    Property::plain("path"),
    Property::plain("fileType"),
    Property::plain("interval"),
    Property::plain("sendInterval"),
    Property::plain("loop"),
    Property::plain("ignoreStartLines"),
    Property::plain("ignoreEndLines"),
    Property::plain("hasHeader"),
    Property::plain("columns"),
    Property::plain("delimiter"),
];

/// What eKuiper has and this does not, with what to do instead.
const NOT_HERE: [(&str, &str); 9] = [
    (
        "rollingInterval",
        "files are not rolled here: let logrotate do it, a file that is gone is made anew",
    ),
    (
        "rollingCount",
        "files are not rolled here: let logrotate do it",
    ),
    (
        "rollingSize",
        "files are not rolled here: let logrotate do it",
    ),
    (
        "rollingNamePattern",
        "files are not rolled here: put {{.field}} into the file's name instead",
    ),
    ("actionAfterRead", "files are never removed or moved here"),
    ("moveTo", "files are never removed or moved here"),
    ("decompression", "compressed files are not read here"),
    (
        "compression",
        "files are written as they are; the action's own compression compresses each message",
    ),
    ("parallel", "one file is read in order"),
];

/// How records are cut out of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileType {
    Lines,
    Json,
    Csv,
}

/// How one file is read.
#[derive(Clone, Debug)]
struct Reading {
    kind: FileType,
    /// Read again from the start, this long after the end was reached.
    again: Option<Duration>,
    /// Between two records.
    pause: Duration,
    skip_first: usize,
    skip_last: usize,
    has_header: bool,
    columns: Vec<String>,
    delimiter: u8,
    /// Bytes (lines, csv) or records (json) that were taken earlier.
    resume: u64,
    /// The taker wants to know when nothing more will come.
    end: bool,
}

/// One rule's access to the files.
#[derive(Debug)]
struct Attached {
    root: PathBuf,
    folder: String,
    properties: Properties,
    context: Context,
    runtime: Handle,
    writing: Mutex<()>,
}

/// Attaches a rule to the files below `root`. Reading tasks run on `runtime`.
///
/// # Errors
/// The mistakes in the properties; no folder is granted, or it is not there.
pub(super) fn attach(
    properties: &Properties,
    context: Context,
    root: Option<&Path>,
    runtime: Handle,
) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
    let Some(root) = root else {
        let sentence = "the operator of this host has granted no folder for files";
        return Err(vec![ConfigError::new("/props/path", sentence)]);
    };
    let root = root.canonicalize().map_err(|error| {
        vec![ConfigError::new(
            "/props/path",
            format!("the folder granted for files cannot be used: {error}"),
        )]
    })?;
    let mut reader = Reader::new(properties, PROPERTIES, &root);
    let folder = reader.string("path").unwrap_or_default();
    if !folder.is_empty()
        && let Err(error) = path::below(&root, &format!("{folder}/x"))
    {
        reader.error("path", error.message);
    }
    reading(&mut reader, 0);
    reader
        .finish()
        .map_err(|errors| errors.into_iter().map(say_what_instead).collect::<Vec<_>>())?;
    let properties = properties.clone();
    Ok(Arc::new(Attached {
        root,
        folder,
        properties,
        context,
        runtime,
        writing: Mutex::default(),
    }))
}

/// For a property of eKuiper's that is not here, the sentence that helps.
fn say_what_instead(error: ConfigError) -> ConfigError {
    let name = error.at.rsplit('/').next().unwrap_or_default();
    match NOT_HERE
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
    {
        Some((_, instead)) => ConfigError::new(error.at, *instead),
        None => error,
    }
}

fn reading(reader: &mut Reader<'_>, resume: u64) -> Reading {
    let day = Duration::from_secs(24 * 3600);
    let kind = match reader.one_of("fileType", &["json", "csv", "lines"]) {
        Some("csv") => FileType::Csv,
        Some("lines") => FileType::Lines,
        // eKuiper's default.
        _ => FileType::Json,
    };
    let interval = reader
        .duration("interval", Duration::ZERO..=day)
        .filter(|time| !time.is_zero());
    let endless = reader.bool("loop").unwrap_or(false);
    let delimiter = reader.string("delimiter").unwrap_or_else(|| ",".to_owned());
    let byte = match delimiter.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => *byte,
        _ => {
            reader.error(
                "delimiter",
                "must be one ASCII character, not a quote and not a line end",
            );
            b','
        }
    };
    let lines =
        |reader: &mut Reader<'_>, name| reader.integer(name, 0..=1_000_000_u32).unwrap_or(0);
    Reading {
        kind,
        again: interval.or(endless.then_some(Duration::ZERO)),
        pause: reader
            .duration("sendInterval", Duration::ZERO..=day)
            .unwrap_or_default(),
        skip_first: usize::try_from(lines(reader, "ignoreStartLines")).unwrap_or(usize::MAX),
        skip_last: usize::try_from(lines(reader, "ignoreEndLines")).unwrap_or(usize::MAX),
        has_header: reader.bool("hasHeader").unwrap_or(false),
        columns: reader.strings("columns").unwrap_or_default(),
        delimiter: byte,
        resume,
        end: false,
    }
}

impl Attached {
    fn find(&self, name: &str) -> Result<PathBuf, ConnectionError> {
        if self.folder.is_empty() {
            return path::below(&self.root, name);
        }
        // The name alone must be a plain one: `folder/../x` is not below the folder.
        path::below(&self.root, name)?;
        path::below(&self.root, &format!("{}/{name}", self.folder))
    }

    /// The connection's properties with those of one subscription over them.
    fn reading_with(&self, extra: &[(String, String)]) -> Result<Reading, ConnectionError> {
        let mut properties = self.properties.clone();
        let (mut resume, mut end) = (0, false);
        for (name, text) in extra {
            if name.eq_ignore_ascii_case("resume") {
                resume = text.parse().map_err(|_| {
                    ConnectionError::misconfigured(
                        "resume",
                        "resume must be the offset of an earlier record",
                    )
                })?;
                continue;
            }
            if name.eq_ignore_ascii_case("end") {
                end = text.parse().map_err(|_| {
                    ConnectionError::misconfigured("end", "end must be true or false")
                })?;
                continue;
            }
            let same = properties
                .keys()
                .find(|key| key.eq_ignore_ascii_case(name))
                .cloned();
            // Options are texts: what reads as a number, a boolean or a list is meant as one.
            let parsed = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
            let stays_text =
                name.eq_ignore_ascii_case("delimiter") || name.eq_ignore_ascii_case("path");
            let value = if stays_text {
                Value::String(text.clone())
            } else {
                parsed
            };
            properties.insert(same.unwrap_or_else(|| name.clone()), value);
        }
        let mut reader = Reader::new(&properties, PROPERTIES, &self.root);
        let reading = Reading {
            end,
            ..reading(&mut reader, resume)
        };
        reader.finish().map_err(|errors| {
            let texts: Vec<_> = errors
                .into_iter()
                .map(|e| say_what_instead(e).to_string())
                .collect();
            ConnectionError::misconfigured("option", texts.join("; "))
        })?;
        Ok(reading)
    }

    async fn append(&self, file: &Path, lines: &[u8], durable: bool) -> std::io::Result<()> {
        if let Some(folder) = file.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        let mut open = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(file)
            .await?;
        // A line that a crash cut off must not swallow the next one.
        if open.metadata().await?.len() > 0 {
            open.seek(SeekFrom::End(-1)).await?;
            if open.read_u8().await? != b'\n' {
                open.write_all(b"\n").await?;
            }
        }
        open.write_all(lines).await?;
        open.flush().await?;
        if durable {
            open.sync_data().await
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Connection for Attached {
    async fn connect(&self) -> Result<(), ConnectionError> {
        Ok(())
    }
    async fn lost(&self) -> ConnectionError {
        std::future::pending().await
    }
    async fn close(&self) {}
    fn messaging(&self) -> Option<&dyn Messaging> {
        Some(self)
    }
}

/// Ends the reading of a subscription's files when dropped.
#[derive(Debug)]
struct Subscription {
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl SubscriptionGuard for Subscription {}

#[async_trait]
impl Messaging for Attached {
    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        let reading = self.reading_with(&options.extra)?;
        let mut files = Vec::with_capacity(filters.len());
        for filter in filters {
            let file = self
                .find(filter)
                .map_err(|error| ConnectionError::misconfigured("path", error.message))?;
            files.push((filter, file));
        }
        let unread = Arc::new(AtomicUsize::new(files.len()));
        let spawn = |(filter, file): (&String, PathBuf)| {
            let task = read::run(
                file,
                filter.as_str().into(),
                reading.clone(),
                Arc::clone(&inbox),
                self.context.clone(),
            );
            let (unread, end, inbox) = (Arc::clone(&unread), reading.end, Arc::clone(&inbox));
            AbortOnDropHandle::new(self.runtime.spawn(async move {
                task.await;
                if unread.fetch_sub(1, Ordering::AcqRel) == 1 && end {
                    inbox.end();
                }
            }))
        };
        Ok(Box::new(Subscription {
            _tasks: files.into_iter().map(spawn).collect(),
        }))
    }

    async fn publish(
        &self,
        batch: &Batch,
        options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        if let Some((name, _)) = options.extra.first() {
            let sentence = format!("files know no option \"{name}\" for publishing; there is none");
            return Err(ConnectionError::misconfigured("option", sentence));
        }
        let durable = options.qos != Some(Qos::AtMostOnce);
        let mut files: BTreeMap<PathBuf, (Vec<u8>, Vec<u32>)> = BTreeMap::new();
        let mut rejections = Vec::new();
        for (index, message) in (0_u32..).zip(batch.iter()) {
            match self.find(options.subject.as_deref().unwrap_or(&message.subject)) {
                Ok(file) => {
                    let (lines, indices) = files.entry(file).or_default();
                    lines.extend_from_slice(&message.payload);
                    lines.push(b'\n');
                    indices.push(index);
                }
                Err(error) => rejections.push(Rejection { index, error }),
            }
        }
        let writing = self.writing.lock().await;
        let (mut written, mut failed) = (0, None);
        for (file, (lines, indices)) in files {
            if let Err(error) = self.append(&file, &lines, durable).await {
                let error =
                    ConnectionError::transient("io", "the file cannot be written").caused_by(error);
                rejections.extend(indices.iter().map(|&index| Rejection {
                    index,
                    error: error.clone(),
                }));
                failed = Some(error);
            } else {
                written += indices.len();
                self.count_out(batch, &indices);
            }
        }
        drop(writing);
        match failed {
            Some(error) if written == 0 && rejections.len() == batch.len() => Err(error),
            _ => {
                rejections.sort_by_key(|rejection| rejection.index);
                Ok(rejections)
            }
        }
    }
}

impl Attached {
    fn count_out(&self, batch: &[Message], indices: &[u32]) {
        let traffic = &self.context.traffic;
        for message in indices
            .iter()
            .filter_map(|&index| batch.get(index as usize))
        {
            traffic.sent(message.payload.len());
        }
    }
}
