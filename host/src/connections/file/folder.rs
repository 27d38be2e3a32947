//! The files of a folder, or one file that goes away when it was read: each is read once, its records
//! carry takes, and when all of them are final that is kept in the connection's memory and the file is
//! left, removed or moved. Whatever kills the host in between, no file goes before its records are final,
//! and what was not final is read again.
//!
//! A file counts as another one when its length or its time of change is another. One that was changed
//! within the last second is not read yet: somebody writes it. Nor is an empty one, nor one whose name
//! begins with a dot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::options::{AfterRead, Reading};
use super::read::{LEAST, Place, Settled, TRY_AGAIN, Taker, Told, once};
use super::settled::{Flow, Outcome, Settling};
use super::{after, path};
use crate::connections::{Context, Inbox};
use crate::error::ConnectionError;
use crate::message::{Delivery, Subject};

/// A file that was changed so lately is still being written.
const QUIET: Duration = Duration::from_secs(1);
/// Files that are read and not final, at most.
const MOST_OPEN: usize = 256;
/// The wait before a file that could not be removed or moved is tried again.
const ACT_AGAIN: Duration = Duration::from_secs(10);

/// By which a file is known: when it was changed (nanoseconds since 1970) and its length.
type Stamp = (u64, u64);

/// The file that was read, and what becomes of each reading of it.
type Readings = (Stamp, Vec<Arc<Outcome>>);

/// What one rule has read of its files, over all its subscriptions.
#[derive(Debug)]
pub(super) struct Shelf {
    pub flow: Arc<Flow>,
    /// Readings of files that somebody may still hold records of.
    outcomes: Mutex<HashMap<PathBuf, Readings>>,
    marks: tokio::sync::Mutex<HashMap<String, Marks>>,
}

/// Files whose records are final, by name; and whether something of them was refused, so that they are
/// not to be removed.
type Marks = BTreeMap<String, (u64, u64, bool)>;

/// One subscription's files that are being read or not final, by subject.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// The subscription has ended: nothing is given any more.
    pub closed: bool,
    of: HashMap<Subject, Weak<Settling>>,
}

impl Open {
    /// Takes back what nobody has read: whoever subscribes next takes it anew.
    pub(super) fn close(open: &Mutex<Self>, inbox: &Inbox) {
        let mut open = open.lock();
        open.closed = true;
        for Delivery { message, .. } in inbox.withdraw_all() {
            if let Some(settling) = open.of.get(&message.subject).and_then(Weak::upgrade) {
                settling.withdraw(message.arrival.delivery);
            }
        }
    }
}

/// Which files of which folder.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub root: PathBuf,
    pub folder: PathBuf,
    /// None: all of them.
    pub only: Option<String>,
    /// How the rule calls them.
    pub filter: String,
}

/// What the reading task works with.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub shelf: Arc<Shelf>,
    pub open: Arc<Mutex<Open>>,
    pub inbox: Arc<Inbox>,
    pub context: Context,
}

impl Shelf {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            flow: Arc::new(Flow::new(context.limits)),
            outcomes: Mutex::default(),
            marks: tokio::sync::Mutex::default(),
        }
    }

    /// Changes the marks of one filter and keeps them.
    async fn mark(
        &self,
        desk: &Desk,
        filter: &str,
        change: impl FnOnce(&mut Marks) -> bool,
    ) -> Result<(), ConnectionError> {
        let mut all = self.marks.lock().await;
        let marks = match all.entry(filter.to_owned()) {
            std::collections::hash_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let kept = desk.context.memory.get(&memory_key(filter)).await?;
                let kept = kept.and_then(|kept| serde_json::from_str(&kept).ok());
                new.insert(kept.unwrap_or_default())
            }
        };
        let mut next = marks.clone();
        if change(&mut next) {
            let text = serde_json::to_string(&next).unwrap_or_default();
            desk.context.memory.put(&memory_key(filter), &text).await?;
        }
        *marks = next;
        Ok(())
    }
}

fn memory_key(filter: &str) -> String {
    format!("read {filter}")
}

/// A file that was found.
#[derive(Clone, Debug)]
struct Found {
    name: String,
    path: PathBuf,
    stamp: Stamp,
}

/// A place in a file as it stands in the header `offset`: `<offset> <time> <length> <refused> <name>`.
#[derive(Debug, PartialEq, Eq)]
struct Offset {
    at: u64,
    stamp: Stamp,
    refused: bool,
    name: String,
}

impl Offset {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, ' ');
        let mut number = || parts.next()?.parse::<u64>().ok();
        Some(Self {
            at: number()?,
            stamp: (number()?, number()?),
            refused: number()? == 1,
            name: parts.next()?.to_owned(),
        })
    }

    fn suffix(found: &Found, refused: bool) -> String {
        let (changed, length) = found.stamp;
        format!(" {changed} {length} {} {}", u8::from(refused), found.name)
    }
}

/// Reads the files, now and as they come; a single one that is not to be looked at again, once.
pub(super) async fn run(files: Files, reading: &Reading, desk: Desk) {
    let resume = reading.resume.as_deref().and_then(Offset::parse);
    let mut watch = Watch {
        files,
        reading,
        desk,
        resume,
        busy: HashSet::new(),
        finishing: JoinSet::new(),
        seen: HashMap::new(),
        told: Told::default(),
        finished: false,
    };
    watch.run().await;
}

struct Watch<'a> {
    files: Files,
    reading: &'a Reading,
    desk: Desk,
    /// Where an earlier subscription was.
    resume: Option<Offset>,
    /// Read, and not final.
    busy: HashSet<String>,
    finishing: JoinSet<(String, bool)>,
    /// The files of the last look.
    seen: HashMap<String, Stamp>,
    told: Told,
    /// A file was read and dealt with.
    finished: bool,
}

impl Watch<'_> {
    async fn run(&mut self) {
        let single = self.files.only.is_some() && self.reading.again.is_none();
        let every = self.reading.again.unwrap_or(TRY_AGAIN).max(LEAST);
        loop {
            let mut soon = false;
            match self.look().await {
                Ok((found, waiting)) => {
                    self.told = Told::default();
                    soon = waiting;
                    for found in found {
                        self.take(found).await;
                    }
                }
                Err(error) => self
                    .told
                    .cannot_read(&self.files.folder, error, &self.desk.inbox),
            }
            if single && self.finished {
                return;
            }
            let wait = if soon { every.min(QUIET) } else { every };
            tokio::select! {
                () = sleep(wait) => {}
                Some(end) = self.finishing.join_next() => self.end(end),
            }
            while let Some(end) = self.finishing.try_join_next() {
                self.end(end);
            }
            if single && self.finished {
                return;
            }
        }
    }

    fn end(&mut self, end: Result<(String, bool), tokio::task::JoinError>) {
        if let Ok((name, done)) = end {
            self.busy.remove(&name);
            self.finished |= done;
        }
    }

    /// The files that can be read, oldest first; and whether there are some that cannot yet.
    async fn look(&mut self) -> io::Result<(Vec<Found>, bool)> {
        let files = self.files.clone();
        let found = tokio::task::spawn_blocking(move || list(&files))
            .await
            .map_err(io::Error::other)??;
        let names: HashSet<&str> = found.iter().map(|found| found.name.as_str()).collect();
        let mut marks = Marks::new();
        let shelf = Arc::clone(&self.desk.shelf);
        let kept = shelf
            .mark(&self.desk, &self.files.filter, |all| {
                let before = all.len();
                // What has gone is forgotten, with the next file that is kept.
                all.retain(|name, _| names.contains(name.as_str()));
                marks.clone_from(all);
                before > 1024 && all.len() < before / 2
            })
            .await;
        kept.map_err(io::Error::other)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, nanoseconds);
        let seen: HashMap<_, _> = found
            .iter()
            .map(|found| (found.name.clone(), found.stamp))
            .collect();
        let seen = std::mem::replace(&mut self.seen, seen);
        let (mut ready, mut waiting) = (Vec::new(), false);
        for found in found {
            if self.busy.contains(&found.name) {
                continue;
            }
            let (changed, length) = found.stamp;
            match marks.get(&found.name) {
                Some(&(at, of, kept)) if (at, of) == found.stamp => {
                    if !kept && self.reading.after != AfterRead::Keep {
                        // Final, and the host was killed before it could be dealt with.
                        self.finish(found, Vec::new(), false).await;
                    } else if self.files.only.is_some() {
                        self.finished = true;
                    }
                    continue;
                }
                _ => {}
            }
            let quiet = match now.checked_sub(changed) {
                Some(age) => u128::from(age) >= QUIET.as_nanos(),
                // By a clock that is ahead: unchanged since the last look.
                None => seen.get(&found.name) == Some(&found.stamp),
            };
            if length > 0 && quiet {
                ready.push(found);
            } else {
                waiting = true;
            }
        }
        ready.sort_by(|a, b| (a.stamp.0, &a.name).cmp(&(b.stamp.0, &b.name)));
        Ok((ready, waiting))
    }

    /// Reads a file that nobody is reading.
    async fn take(&mut self, found: Found) {
        while self.finishing.len() >= MOST_OPEN {
            if let Some(end) = self.finishing.join_next().await {
                self.end(end);
            }
        }
        let resume = self
            .resume
            .take_if(|resume| resume.name == found.name && resume.stamp == found.stamp);
        let earlier: Vec<Arc<Outcome>> = match self.desk.shelf.outcomes.lock().get(&found.path) {
            Some((stamp, outcomes)) if *stamp == found.stamp => outcomes
                .iter()
                .filter(|outcome| outcome.ended() != Some(false))
                .cloned()
                .collect(),
            _ => Vec::new(),
        };
        if resume.is_none() && earlier.last().is_some_and(|outcome| outcome.is_whole()) {
            // An earlier subscription has read it, and its records are still on their way.
            let refused = earlier.iter().any(|outcome| outcome.is_refused());
            return self.finish(found, earlier, refused).await;
        }
        let (mut start, refused) = resume.map_or((0, false), |it| (it.at, it.refused));
        let mut outcomes = if start > 0 { earlier } else { Vec::new() };
        let (settling, outcome) = Settling::new(Arc::clone(&self.desk.shelf.flow));
        outcomes.push(outcome);
        // Before the first record goes out: who takes over in the middle must know of those before.
        let kept = (found.stamp, outcomes.clone());
        self.desk
            .shelf
            .outcomes
            .lock()
            .insert(found.path.clone(), kept);
        if let Some(refused) = self.read(&found, &mut start, refused, settling).await {
            self.finish(found, outcomes, refused).await;
        }
    }

    /// Whether something of it was refused. None: it is not there any more.
    async fn read(
        &self,
        found: &Found,
        start: &mut u64,
        refused: bool,
        settling: Arc<Settling>,
    ) -> Option<bool> {
        let subject: Subject = match self.files.only {
            Some(_) => self.files.filter.as_str().into(),
            None => format!("{}/{}", self.files.filter.trim_end_matches('/'), found.name).into(),
        };
        {
            let mut open = self.desk.open.lock();
            open.of.retain(|_, of| of.strong_count() > 0);
            open.of.insert(subject.clone(), Arc::downgrade(&settling));
        }
        let suffix = |refused| Offset::suffix(found, refused);
        let mut taker = Taker {
            subject: &subject,
            inbox: &self.desk.inbox,
            context: &self.desk.context,
            pause: self.reading.pause,
            settling: Some(Settled {
                settling: &settling,
                flow: &self.desk.shelf.flow,
                open: &self.desk.open,
            }),
            place: Some(Place {
                suffix: &suffix,
                file: &found.name,
            }),
            refused,
        };
        let mut told = Told::default();
        loop {
            match once(&found.path, self.reading, &mut taker, start).await {
                Ok(()) => {
                    settling.whole(taker.refused);
                    return Some(taker.refused);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                Err(error) => {
                    told.cannot_read(&found.path, error, &self.desk.inbox);
                    sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    /// Deals with the file when all that was read of it is final.
    async fn finish(&mut self, found: Found, outcomes: Vec<Arc<Outcome>>, refused: bool) {
        self.busy.insert(found.name.clone());
        let (files, after, desk) = (
            self.files.clone(),
            self.reading.after.clone(),
            self.desk.clone(),
        );
        self.finishing.spawn(async move {
            for outcome in outcomes {
                if !outcome.end().await {
                    // Somebody has dropped a record: the whole file comes again.
                    sleep(TRY_AGAIN).await;
                    return (found.name, false);
                }
            }
            let done = finished(&files, &found, refused, &after, &desk).await;
            desk.shelf.outcomes.lock().remove(&found.path);
            (found.name, done)
        });
    }
}

/// All records of a file are final. False: it is another file by now.
async fn finished(
    files: &Files,
    found: &Found,
    refused: bool,
    after: &AfterRead,
    desk: &Desk,
) -> bool {
    let (changed, length) = found.stamp;
    // What was refused is in the dead letters only in part: to remove the file would lose the rest.
    let keep = refused && *after == AfterRead::Delete;
    let entry = (changed, length, keep);
    while let Err(error) = desk
        .shelf
        .mark(desk, &files.filter, |marks| {
            marks.insert(found.name.clone(), entry) != Some(entry)
        })
        .await
    {
        tracing::warn!(file = %found.path.display(), %error, "it cannot be kept that the file was read");
        sleep(TRY_AGAIN).await;
    }
    if keep {
        tracing::warn!(file = %found.path.display(), "the file is not removed: a part of it could not be read and is with the dead letters");
        return true;
    }
    let mut told = false;
    loop {
        if *after != AfterRead::Keep && stamp_of(&found.path) != Some(found.stamp) {
            // Written to since, or gone.
            return false;
        }
        let result = match after {
            AfterRead::Keep => Ok(()),
            AfterRead::Delete => after::delete(&found.path).await,
            AfterRead::MoveTo(folder) => match path::folder(&files.root, folder) {
                Ok(folder) => after::move_into(&found.path, &folder).await,
                Err(error) => Err(io::Error::other(error)),
            },
        };
        let Err(error) = result else { return true };
        if !told {
            told = true;
            tracing::warn!(file = %found.path.display(), %error, "the file was read and cannot be removed");
            let sentence = "a file was read and cannot be removed or moved; it is tried again";
            let error = ConnectionError::transient("io", sentence).caused_by(error);
            desk.inbox.fail(error);
        }
        sleep(ACT_AGAIN).await;
    }
}

fn list(files: &Files) -> io::Result<Vec<Found>> {
    if let Some(name) = &files.only {
        let path = files.folder.join(name);
        let stamp = stamp(&std::fs::metadata(&path)?);
        let name = name.clone();
        return Ok(vec![Found { name, path, stamp }]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&files.folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            tracing::debug!(file = ?entry.path(), "a name that is not UTF-8 is left out");
            continue;
        };
        // Not through links, which may lead anywhere. What has gone meanwhile is left out.
        let Some(metadata) = entry.metadata().ok().filter(std::fs::Metadata::is_file) else {
            continue;
        };
        if !name.starts_with('.') {
            found.push(Found {
                name,
                path: entry.path(),
                stamp: stamp(&metadata),
            });
        }
    }
    Ok(found)
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    std::fs::metadata(path)
        .ok()
        .map(|metadata| stamp(&metadata))
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    let changed = metadata.modified().ok();
    let since = changed.and_then(|changed| changed.duration_since(UNIX_EPOCH).ok());
    (since.map_or(0, nanoseconds), metadata.len())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
