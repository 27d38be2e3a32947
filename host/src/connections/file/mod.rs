//! Files below a folder that the operator granted: a host type behind `messaging` that is attached to
//! a rule and stands in no list. Touches nothing outside that folder.
//!
//! A subscription's filter is the path of a file or a folder; records arrive with a header `offset`, the
//! place behind them, which `resume` takes. The records of a folder, and of a file that is removed or
//! moved when it was read, are settled (`folder`); those of one file that stays are not: its reader keeps
//! the place. Who subscribes with the option `end` is told when all files are read and will not be read
//! again. A published message goes to the end of the file that its subject names (`write`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::{
    ConfigError, Connection, Context, Inbox, Messaging, Properties, PublishOptions, Qos,
    SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::message::{Batch, Message, Rejection};

mod after;
mod folder;
mod options;
mod path;
mod read;
mod records;
mod settled;
#[cfg(test)]
mod tests;
mod unpack;
mod write;

use folder::{Desk, Files, Open, Shelf};
pub use options::PROPERTIES;
use options::{AfterRead, Reading};
use write::Writer;

/// The `typ`.
pub const NAME: &str = "file";

/// One rule's access to the files.
#[derive(Debug)]
struct Attached {
    root: PathBuf,
    folder: String,
    properties: Properties,
    context: Context,
    runtime: Handle,
    shelf: Arc<Shelf>,
    writer: Arc<tokio::sync::Mutex<Writer>>,
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
    options::check(properties, &root)?;
    let folder = super::properties::text(properties, "path");
    Ok(Arc::new(Attached {
        folder: folder.unwrap_or_default().to_owned(),
        properties: properties.clone(),
        shelf: Arc::new(Shelf::new(&context)),
        context,
        runtime,
        writer: Arc::new(tokio::sync::Mutex::new(Writer::new(root.clone()))),
        root,
    }))
}

impl Attached {
    /// The path below the root that a rule calls by this name.
    fn named(&self, name: &str) -> Result<String, ConnectionError> {
        if self.folder.is_empty() {
            return Ok(name.to_owned());
        }
        // The name alone must be a plain one: `folder/../x` is not below the folder.
        path::file_or_folder(&self.root, name)?;
        Ok(format!("{}/{name}", self.folder))
    }

    /// What a subscription's filter means.
    fn files(&self, filter: &str, reading: &Reading) -> Result<Files, ConnectionError> {
        let path = path::file_or_folder(&self.root, &self.named(filter)?)?;
        let name = path.file_name().and_then(std::ffi::OsStr::to_str);
        let (folder, only) = match (path.parent(), name) {
            (Some(parent), Some(name)) if !path.is_dir() => {
                (parent.to_owned(), Some(name.to_owned()))
            }
            _ => (path, None),
        };
        if let AfterRead::MoveTo(to) = &reading.after
            && path::folder(&self.root, to)? == folder
        {
            let sentence = format!(
                "moveTo: found \"{to}\", the folder that is read; files are moved into another one"
            );
            return Err(ConnectionError::misconfigured("option", sentence));
        }
        Ok(Files {
            root: self.root.clone(),
            folder,
            only,
            filter: filter.to_owned(),
        })
    }
}

/// Reads what one filter names. A path that is missing may become a file or a folder.
async fn read(mut files: Files, reading: Reading, desk: Desk) {
    if let Some(name) = &files.only {
        let path = files.folder.join(name);
        let mut told = read::Told::default();
        while let Err(error) = tokio::fs::metadata(&path).await {
            told.cannot_read(&path, error, &desk.inbox);
            tokio::time::sleep(read::TRY_AGAIN).await;
        }
        if path.is_dir() {
            files = Files {
                folder: path,
                only: None,
                ..files
            };
        } else if reading.after == AfterRead::Keep {
            let subject = files.filter.as_str().into();
            return read::run(&path, subject, &reading, &desk.inbox, &desk.context).await;
        }
    }
    folder::run(files, &reading, desk).await;
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
    open: Arc<Mutex<Open>>,
    inbox: Arc<Inbox>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl SubscriptionGuard for Subscription {}

impl Drop for Subscription {
    fn drop(&mut self) {
        Open::close(&self.open, &self.inbox);
    }
}

#[async_trait]
impl Messaging for Attached {
    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        let reading = options::reading(&self.properties, &options.extra, &self.root)?;
        let mut all = Vec::with_capacity(filters.len());
        for filter in filters {
            let files = self
                .files(filter, &reading)
                .map_err(|error| ConnectionError::misconfigured("path", error.message))?;
            all.push(files);
        }
        let open = Arc::<Mutex<Open>>::default();
        let unread = Arc::new(AtomicUsize::new(all.len()));
        let spawn = |files: Files| {
            let desk = Desk {
                shelf: Arc::clone(&self.shelf),
                open: Arc::clone(&open),
                inbox: Arc::clone(&inbox),
                context: self.context.clone(),
            };
            let (unread, end, inbox) = (Arc::clone(&unread), reading.end, Arc::clone(&inbox));
            let task = read(files, reading.clone(), desk);
            AbortOnDropHandle::new(self.runtime.spawn(async move {
                task.await;
                if unread.fetch_sub(1, Ordering::AcqRel) == 1 && end {
                    inbox.end();
                }
            }))
        };
        Ok(Box::new(Subscription {
            _tasks: all.into_iter().map(spawn).collect(),
            open: Arc::clone(&open),
            inbox: Arc::clone(&inbox),
        }))
    }

    async fn publish(
        &self,
        batch: &Batch,
        options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        let durable = options.qos != Some(Qos::AtMostOnce);
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let how = writer.how(&self.properties, &options.extra)?;
        let mut rejections = Vec::new();
        let mut files: BTreeMap<PathBuf, Vec<u32>> = BTreeMap::new();
        for (index, message) in (0_u32..).zip(batch.iter()) {
            let subject = options.subject.as_deref().unwrap_or(&message.subject);
            let path = self
                .named(subject)
                .and_then(|name| path::below(&self.root, &name));
            match path {
                Ok(path) => files.entry(path).or_default().push(index),
                Err(error) => rejections.push(Rejection { index, error }),
            }
        }
        let mut work = Vec::with_capacity(files.len());
        for (path, indices) in files {
            let messages = indices
                .iter()
                .filter_map(|&index| batch.get(index as usize));
            let payloads: Vec<_> = messages.map(|message| message.payload.clone()).collect();
            work.push((path, indices, payloads));
        }
        // Whoever drops this future must not leave a write half-way that the next one runs into.
        let write = self.runtime.spawn(async move {
            let mut ends = Vec::with_capacity(work.len());
            for (path, indices, payloads) in work {
                let (done, error) = writer.append(&path, &payloads, &how, durable).await;
                ends.push((indices, done, error));
            }
            ends
        });
        let ends = write.await.map_err(|error| {
            ConnectionError::transient("io", "the file cannot be written").caused_by(error)
        })?;
        let (mut written, mut failed) = (0, None);
        for (indices, done, error) in ends {
            let (done, left) = indices.split_at(done.min(indices.len()));
            written += done.len();
            self.count_out(batch, done);
            if let Some(error) = error {
                let error =
                    ConnectionError::transient("io", "the file cannot be written").caused_by(error);
                rejections.extend(left.iter().map(|&index| Rejection {
                    index,
                    error: error.clone(),
                }));
                failed = Some(error);
            }
        }
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
