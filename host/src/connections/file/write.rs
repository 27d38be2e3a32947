//! Writes files piece by piece and begins new ones as a rule says. What is written is on disk before it
//! counts; a file that is finished is whole, and none takes the place of another.
//!
//! A list of JSON stands with its closing bracket at any time; a compressed file is made of pieces that
//! are whole by themselves. What a crash tears off is cut when the file is taken up again, except from
//! lines, which go on below it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom};
use tokio::time::Instant;

use super::after::{rename, with_mark};
use super::options::{FileType, Stamped, Writing, writing};
use super::unpack::{Packing, whole_pieces};
use crate::connections::Properties;
use crate::error::ConnectionError;

/// Files that are remembered, at most: a name may come from the messages.
const MOST_OPEN: usize = 1024;
const LIST_BEGIN: &[u8] = b"[\n";
const LIST_END: &[u8] = b"\n]\n";
/// More than the longest record, twice: what may have to be cut.
const LONGEST_TAIL: u64 = 64 * 1024 * 1024;

/// Options of publishing, and how they say to write.
type Meaning = (Vec<(String, String)>, Arc<Writing>);

/// One rule's files.
#[derive(Debug)]
pub(super) struct Writer {
    root: PathBuf,
    /// The last options, and what they mean.
    how: Option<Meaning>,
    open: HashMap<PathBuf, Current>,
    /// The number of the next file that is finished, by name.
    numbers: HashMap<PathBuf, u32>,
}

/// The file that is written at present under one name.
#[derive(Debug)]
struct Current {
    path: PathBuf,
    /// On disk.
    length: u64,
    /// Before compression.
    written: u64,
    messages: u64,
    since: Instant,
    used: Instant,
    /// The line of the columns' names.
    header: Option<Vec<u8>>,
}

/// What goes into a file at once.
#[derive(Debug, Default)]
struct Piece {
    bytes: Vec<u8>,
    messages: usize,
    header: Option<Vec<u8>>,
}

impl Writer {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            how: None,
            open: HashMap::new(),
            numbers: HashMap::new(),
        }
    }

    /// What the options of publishing mean.
    pub(super) fn how(
        &mut self,
        properties: &Properties,
        extra: &[(String, String)],
    ) -> Result<Arc<Writing>, ConnectionError> {
        if let Some((_, how)) = self.how.as_ref().filter(|(known, _)| known == extra) {
            return Ok(Arc::clone(how));
        }
        let how = Arc::new(writing(properties, extra, &self.root)?);
        self.how = Some((extra.to_vec(), Arc::clone(&how)));
        Ok(how)
    }

    /// Puts payloads at the end of the file of that name, and begins new ones between them. How many of
    /// them are written, and why not all.
    pub(super) async fn append(
        &mut self,
        name: &Path,
        payloads: &[Bytes],
        how: &Writing,
        durable: bool,
    ) -> (usize, Option<io::Error>) {
        let mut done = 0;
        while let Some(rest) = payloads.get(done..).filter(|rest| !rest.is_empty()) {
            match self.some(name, rest, how, durable).await {
                Ok(messages) => done += messages,
                Err(error) => return (done, Some(error)),
            }
        }
        (done, None)
    }

    /// Writes as many as go into the present file; none, where only a new one was begun.
    async fn some(
        &mut self,
        name: &Path,
        payloads: &[Bytes],
        how: &Writing,
        durable: bool,
    ) -> io::Result<usize> {
        let mut current = self.current(name, how).await?;
        let old = how
            .interval
            .is_some_and(|most| current.messages > 0 && current.since.elapsed() >= most);
        if old {
            self.finish(name, current, how).await?;
            return Ok(0);
        }
        let piece = Piece::of(payloads, how, &current);
        if piece.messages == 0 {
            // Other columns need another file.
            self.finish(name, current, how).await?;
            return Ok(0);
        }
        write(&mut current, &piece, how, durable).await?;
        if is_full(&current, how) {
            let messages = piece.messages;
            // It is on disk; what cannot be renamed now is taken up again.
            if let Err(error) = self.finish(name, current, how).await {
                tracing::warn!(file = %name.display(), %error, "a file that is full cannot be finished");
            }
            return Ok(messages);
        }
        self.keep(name, current);
        Ok(piece.messages)
    }

    fn keep(&mut self, name: &Path, current: Current) {
        if self.open.len() >= MOST_OPEN {
            let oldest = self.open.iter().min_by_key(|(_, current)| current.used);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.open.remove(&oldest);
            }
        }
        self.open.insert(name.to_owned(), current);
    }

    /// The file to write to. One that somebody else has changed, or removed, is looked at anew.
    async fn current(&mut self, name: &Path, how: &Writing) -> io::Result<Current> {
        let mut first = true;
        if let Some(current) = self.open.remove(name) {
            let there = fs::metadata(&current.path).await.ok();
            if there.is_some_and(|there| there.len() == current.length) {
                return Ok(current);
            }
            first = false;
        }
        if let Some(folder) = name.parent() {
            fs::create_dir_all(folder).await?;
        }
        if how.stamped == Stamped::Not {
            return self.take_up(name, how).await;
        }
        if first && let Some(left) = newest(name, how.stamped).await? {
            // An earlier run may have ended in the middle of it.
            mend(&left, how).await?;
        }
        let mut time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        // Two files within a millisecond: the second one takes the next.
        let path = loop {
            let wanted = match how.stamped {
                Stamped::Before => {
                    let plain = name.file_name().unwrap_or_default().to_string_lossy();
                    name.with_file_name(format!("{time}-{plain}"))
                }
                _ => with_mark(name, &time.to_string()),
            };
            let mut options = OpenOptions::new();
            match options.create_new(true).write(true).open(&wanted).await {
                Ok(_file) => break wanted,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => time += 1,
                Err(error) => return Err(error),
            }
        };
        sync_folder(&path).await?;
        Ok(Current::new(path))
    }

    /// Goes on with what stands under the name itself.
    async fn take_up(&mut self, name: &Path, how: &Writing) -> io::Result<Current> {
        let mut current = Current::new(name.to_owned());
        match fs::metadata(name).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(there) if there.len() == 0 => return Ok(current),
            Ok(_) => match mend(name, how).await? {
                Some((length, lines)) if length > 0 => {
                    current.length = length;
                    current.written = length;
                    current.messages = lines;
                    if how.kind == FileType::Csv && how.has_header {
                        current.header = first_line(name).await?;
                        current.messages = lines.saturating_sub(1);
                    }
                    return Ok(current);
                }
                Some(_) => return Ok(current),
                // Somebody else's: it keeps what it is.
                None => self.set_aside(name).await?,
            },
        }
        File::options().append(true).create(true).open(name).await?;
        sync_folder(name).await?;
        Ok(current)
    }

    async fn set_aside(&mut self, name: &Path) -> io::Result<()> {
        let number = self.numbers.entry(name.to_owned()).or_insert(1);
        rename(name, name, number).await
    }

    /// The file gets its last name.
    async fn finish(&mut self, name: &Path, current: Current, how: &Writing) -> io::Result<()> {
        match how.stamped {
            // It has it.
            Stamped::Before | Stamped::Behind => Ok(()),
            Stamped::Not => {
                debug_assert_eq!(current.path, name);
                self.set_aside(name).await
            }
        }
    }
}

impl Current {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            length: 0,
            written: 0,
            messages: 0,
            since: Instant::now(),
            used: Instant::now(),
            header: None,
        }
    }
}

fn is_full(current: &Current, how: &Writing) -> bool {
    how.count.is_some_and(|most| current.messages >= most)
        || how.size.is_some_and(|most| current.written >= most)
}

impl Piece {
    /// As many payloads as fit into the file. None at all: they have other columns.
    fn of(payloads: &[Bytes], how: &Writing, current: &Current) -> Self {
        let mut piece = Self::default();
        for payload in payloads {
            let messages = current.messages + piece.messages as u64;
            let written = current.written + piece.bytes.len() as u64;
            let full = how.count.is_some_and(|most| messages >= most)
                || how.size.is_some_and(|most| written >= most);
            if (full && piece.messages > 0) || !piece.add(payload, how, current) {
                break;
            }
            piece.messages += 1;
        }
        piece
    }

    fn add(&mut self, payload: &[u8], how: &Writing, current: &Current) -> bool {
        let empty = current.length == 0 && self.messages == 0;
        match how.kind {
            FileType::Json => {
                if let Some(records) = records(payload) {
                    if current.length > 0 || !self.bytes.is_empty() {
                        self.bytes.extend_from_slice(b",\n");
                    }
                    self.bytes.extend_from_slice(&records);
                }
            }
            FileType::Csv if how.has_header => {
                let end = payload.iter().position(|byte| *byte == b'\n');
                let (header, rows) = payload.split_at(end.map_or(payload.len(), |end| end + 1));
                let header = without_line_end(header);
                let known = self.header.as_deref().or(current.header.as_deref());
                match known {
                    Some(known) if known == header => {}
                    None if empty => {
                        self.bytes.extend_from_slice(header);
                        self.bytes.push(b'\n');
                        self.header = Some(header.to_vec());
                    }
                    _ => return false,
                }
                self.rows(rows);
            }
            FileType::Csv => self.rows(payload),
            FileType::Lines | FileType::Raw => {
                self.bytes.extend_from_slice(payload);
                self.bytes.push(b'\n');
            }
        }
        true
    }

    fn rows(&mut self, rows: &[u8]) {
        self.bytes.extend_from_slice(without_line_end(rows));
        self.bytes.push(b'\n');
    }
}

fn without_line_end(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.strip_suffix(b"\r").unwrap_or(text)
}

/// A value, or the elements of a list, each in a line: in JSON text a line end is nothing but space.
/// None: an empty list.
fn records(payload: &[u8]) -> Option<Vec<u8>> {
    let elements: Option<Vec<&serde_json::value::RawValue>> = serde_json::from_slice(payload).ok();
    let mut text = match elements {
        Some(elements) if elements.is_empty() => return None,
        Some(elements) => {
            let texts: Vec<_> = elements
                .iter()
                .map(|element| in_a_line(element.get().as_bytes()))
                .collect();
            return Some(texts.join(&b",\n"[..]));
        }
        None => in_a_line(payload),
    };
    if serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_err() {
        // A list must stay one: what is no JSON is kept as a text.
        let words = serde_json::Value::from(String::from_utf8_lossy(payload).into_owned());
        text = words.to_string().into_bytes();
    }
    Some(text)
}

fn in_a_line(text: &[u8]) -> Vec<u8> {
    let space = |byte: &u8| {
        if matches!(byte, b'\n' | b'\r') {
            b' '
        } else {
            *byte
        }
    };
    text.trim_ascii().iter().map(space).collect()
}

/// Puts a piece at the end of its file. What could not be written whole is taken away again.
async fn write(
    current: &mut Current,
    piece: &Piece,
    how: &Writing,
    durable: bool,
) -> io::Result<()> {
    let (mut at, mut bytes) = (current.length, Vec::new());
    match (how.kind, how.packing) {
        (FileType::Json, _) => {
            if piece.bytes.is_empty() {
                return Ok(());
            }
            if at == 0 {
                bytes.extend_from_slice(LIST_BEGIN);
            }
            at = at.saturating_sub(LIST_END.len() as u64);
            bytes.extend_from_slice(&piece.bytes);
            bytes.extend_from_slice(LIST_END);
        }
        (_, Some(packing)) => {
            let open = piece.bytes.clone();
            let packed = tokio::task::spawn_blocking(move || packing.pack(&open));
            bytes = packed.await.map_err(io::Error::other)??;
        }
        (_, None) => bytes.extend_from_slice(&piece.bytes),
    }
    let mut file = OpenOptions::new().write(true).open(&current.path).await?;
    let result = put(&mut file, at, &bytes, durable).await;
    if let Err(error) = result {
        // As far as the disk lets us; the next look at the file does the rest.
        file.set_len(at).await.ok();
        if how.kind == FileType::Json && at > 0 {
            put(&mut file, at, LIST_END, false).await.ok();
        }
        return Err(error);
    }
    current.length = at + bytes.len() as u64;
    current.written += piece.bytes.len() as u64;
    current.messages += piece.messages as u64;
    current.used = Instant::now();
    if piece.header.is_some() {
        current.header.clone_from(&piece.header);
    }
    Ok(())
}

async fn put(file: &mut File, at: u64, bytes: &[u8], durable: bool) -> io::Result<()> {
    file.seek(SeekFrom::Start(at)).await?;
    file.write_all(bytes).await?;
    file.flush().await?;
    if durable {
        file.sync_data().await?;
    }
    Ok(())
}

/// A file that was made is there after a loss of power too.
async fn sync_folder(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(folder) => File::open(folder).await?.sync_all().await,
        None => Ok(()),
    }
}

async fn first_line(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let file = File::open(path).await?;
    file.take(1024 * 1024).read_to_end(&mut text).await?;
    let end = text.iter().position(|byte| *byte == b'\n');
    Ok(text
        .get(..end.unwrap_or(text.len()))
        .map(|line| without_line_end(line).to_vec()))
}

/// Makes a file of an earlier run one that can be written on: its length, and its records where they
/// are counted. None: it is not what this rule writes.
async fn mend(path: &Path, how: &Writing) -> io::Result<Option<(u64, u64)>> {
    match (how.kind, how.packing) {
        (FileType::Json, _) => mend_list(path, how.count.is_some()).await,
        (FileType::Csv, Some(_)) if how.has_header => Ok(None),
        (_, Some(packing)) => mend_pieces(path, packing).await,
        (_, None) => mend_lines(path, how.count.is_some()).await.map(Some),
    }
}

async fn mend_lines(path: &Path, count: bool) -> io::Result<(u64, u64)> {
    let mut file = OpenOptions::new().read(true).write(true).open(path).await?;
    let mut length = file.metadata().await?.len();
    if length > 0 {
        file.seek(SeekFrom::End(-1)).await?;
        // A line that a crash cut off must not swallow the next one.
        if file.read_u8().await? != b'\n' {
            file.seek(SeekFrom::End(0)).await?;
            file.write_all(b"\n").await?;
            file.flush().await?;
            length += 1;
        }
    }
    let lines = if count { lines_of(&mut file).await? } else { 1 };
    Ok((length, lines))
}

async fn lines_of(file: &mut File) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0)).await?;
    let (mut piece, mut lines) = (vec![0; 64 * 1024], 0);
    loop {
        let count = file.read(&mut piece).await?;
        if count == 0 {
            return Ok(lines);
        }
        let found = piece.get(..count).unwrap_or_default();
        lines += found.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
}

async fn mend_pieces(path: &Path, packing: Packing) -> io::Result<Option<(u64, u64)>> {
    let owned = path.to_owned();
    let looked = tokio::task::spawn_blocking(move || whole_pieces(&owned, packing));
    let (end, lines) = looked.await.map_err(io::Error::other)??;
    let mut file = OpenOptions::new().read(true).write(true).open(path).await?;
    let length = file.metadata().await?.len();
    if end < length {
        let magic: &[u8] = match packing {
            Packing::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
            _ => &[0x1f, 0x8b],
        };
        let mut behind = Vec::new();
        file.seek(SeekFrom::Start(end)).await?;
        (&mut file)
            .take(magic.len() as u64)
            .read_to_end(&mut behind)
            .await?;
        if !magic.starts_with(&behind) {
            return Ok(None);
        }
        file.set_len(end).await?;
    }
    Ok(Some((end, lines)))
}

async fn mend_list(path: &Path, count: bool) -> io::Result<Option<(u64, u64)>> {
    let mut file = OpenOptions::new().read(true).write(true).open(path).await?;
    let length = file.metadata().await?.len();
    let mut begin = Vec::new();
    (&mut file)
        .take(LIST_BEGIN.len() as u64)
        .read_to_end(&mut begin)
        .await?;
    if !LIST_BEGIN.starts_with(&begin) {
        return Ok(None);
    }
    let from = length.saturating_sub(LONGEST_TAIL);
    file.seek(SeekFrom::Start(from)).await?;
    let mut tail = Vec::new();
    (&mut file)
        .take(LONGEST_TAIL)
        .read_to_end(&mut tail)
        .await?;
    let mut length = length;
    if !tail.ends_with(LIST_END) {
        // Back to the last whole line, and to what stands before its comma. Of the old end a bracket
        // may be left behind that comma.
        let end = tail.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        let mut whole = tail.get(..end).unwrap_or_default();
        for left in [b"\n]", b",]"] {
            whole = whole.strip_suffix(left).unwrap_or(whole);
        }
        while let Some(shorter) = whole.strip_suffix(b"\n").or(whole.strip_suffix(b",")) {
            whole = shorter;
        }
        length = from + whole.len() as u64;
        if length < LIST_BEGIN.len() as u64 {
            file.set_len(0).await?;
            return Ok(Some((0, 0)));
        }
        file.set_len(length).await?;
        put(&mut file, length, LIST_END, true).await?;
        length += LIST_END.len() as u64;
    }
    let lines = if count {
        lines_of(&mut file).await?.saturating_sub(2)
    } else {
        1
    };
    Ok(Some((length, lines)))
}

/// The last file of an earlier run under a name with the time in it.
async fn newest(name: &Path, stamped: Stamped) -> io::Result<Option<PathBuf>> {
    let (stem, plain) = (
        name.file_stem().unwrap_or_default().to_string_lossy(),
        name.file_name().unwrap_or_default().to_string_lossy(),
    );
    let extension = plain.get(stem.len()..).unwrap_or_default();
    let mut newest: Option<(u64, PathBuf)> = None;
    let mut entries = fs::read_dir(name.parent().unwrap_or(Path::new("."))).await?;
    while let Some(entry) = entries.next_entry().await? {
        let found = entry.file_name();
        let Some(found) = found.to_str() else {
            continue;
        };
        let stamp = match stamped {
            Stamped::Before => found
                .strip_suffix(&*plain)
                .and_then(|it| it.strip_suffix('-')),
            _ => found
                .strip_prefix(&*stem)
                .and_then(|it| it.strip_prefix('-')?.strip_suffix(extension)),
        };
        let time = stamp.and_then(|stamp| stamp.parse().ok());
        if let Some(time) = time
            && entry.file_type().await?.is_file()
            && newest.as_ref().is_none_or(|(before, _)| *before <= time)
        {
            newest = Some((time, entry.path()));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

#[cfg(test)]
mod tests;
