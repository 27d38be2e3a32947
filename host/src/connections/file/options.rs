//! What a rule says about its files: the properties' names, and their values as reading and writing
//! need them. Opens nothing.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::path;
use super::unpack::Packing;
use crate::connections::properties::Reader;
use crate::connections::{ConfigError, Properties, Property};
use crate::error::ConnectionError;

/// The properties, named as in eKuiper. The options of a subscription and of publishing are these too,
/// and for a subscription `resume` and `end`.
pub const PROPERTIES: &[Property] = &[
    Property::plain("path"),
    Property::both("fileType"),
    Property::both("hasHeader"),
    Property::both("delimiter"),
    Property::both("interval"),
    Property::both("sendInterval"),
    Property::both("loop"),
    Property::both("ignoreStartLines"),
    Property::both("ignoreEndLines"),
    Property::both("columns"),
    Property::both("actionAfterRead"),
    Property::both("moveTo"),
    Property::both("decompression"),
    Property::both("rollingInterval"),
    Property::both("checkInterval"),
    Property::both("rollingCount"),
    Property::both("rollingSize"),
    Property::both("rollingNamePattern"),
    Property::both("compression"),
];

/// What eKuiper has and this does not, with what to do instead.
const NOT_HERE: [(&str, &str); 4] = [
    ("parallel", "one file is read after the other, in order"),
    (
        "rollingHook",
        "nothing is called when a file is finished: look for finished files in its folder",
    ),
    (
        "rollingHookProps",
        "nothing is called when a file is finished: look for finished files in its folder",
    ),
    ("encryption", "files are written as they are"),
];

/// Properties whose values are texts, whatever they look like.
const TEXTS: [&str; 3] = ["delimiter", "path", "moveTo"];

/// How records are cut out of a file, or put into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileType {
    Lines,
    Json,
    Csv,
    /// The whole file is one record.
    Raw,
}

/// What becomes of a file when every record of it is final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AfterRead {
    Keep,
    Delete,
    /// Into that folder, a path below the root.
    MoveTo(String),
}

/// How files are read.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub kind: FileType,
    /// Looked at again, this long after the end was reached.
    pub again: Option<Duration>,
    /// Between two records.
    pub pause: Duration,
    pub skip_first: usize,
    pub skip_last: usize,
    pub has_header: bool,
    pub columns: Vec<String>,
    pub delimiter: u8,
    pub packing: Option<Packing>,
    pub after: AfterRead,
    /// The header `offset` of the last record that was taken earlier.
    pub resume: Option<String>,
    /// The taker wants to know when nothing more will come.
    pub end: bool,
}

/// Where the time stands in a file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamped {
    Before,
    Behind,
    /// Nowhere: a file that is finished gets a number.
    Not,
}

/// How files are written.
#[derive(Clone, Debug)]
pub(super) struct Writing {
    pub kind: FileType,
    pub has_header: bool,
    pub stamped: Stamped,
    pub interval: Option<Duration>,
    pub count: Option<u64>,
    pub size: Option<u64>,
    pub packing: Option<Packing>,
}

/// Reads everything, to find mistakes early.
pub(super) fn check(properties: &Properties, root: &Path) -> Result<(), Vec<ConfigError>> {
    let mut reader = Reader::new(properties, PROPERTIES, root);
    let folder = reader.string("path").unwrap_or_default();
    if !folder.is_empty()
        && let Err(error) = path::below(root, &format!("{folder}/x"))
    {
        reader.error("path", error.message);
    }
    read_reading(&mut reader, root);
    read_writing(&mut reader);
    finish(reader)
}

fn finish(reader: Reader<'_>) -> Result<(), Vec<ConfigError>> {
    match reader.finish() {
        Ok(_warnings) => Ok(()),
        Err(errors) => Err(errors.into_iter().map(say_what_instead).collect()),
    }
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

fn misconfigured(errors: Vec<ConfigError>) -> ConnectionError {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    ConnectionError::misconfigured("option", texts.join("; "))
}

/// The connection's properties with the options of one call over them.
fn with_options(properties: &Properties, extra: &[(String, String)]) -> Properties {
    let mut properties = properties.clone();
    for (name, text) in extra {
        let same = properties
            .keys()
            .find(|key| key.eq_ignore_ascii_case(name))
            .cloned();
        // Options are texts: what reads as a number, a boolean or a list is meant as one.
        let value = if TEXTS.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            Value::String(text.clone())
        } else {
            serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()))
        };
        properties.insert(same.unwrap_or_else(|| name.clone()), value);
    }
    properties
}

/// How a subscription with these options reads.
pub(super) fn reading(
    properties: &Properties,
    extra: &[(String, String)],
    root: &Path,
) -> Result<Reading, ConnectionError> {
    let (mut resume, mut end, mut rest) = (None, false, Vec::new());
    for (name, text) in extra {
        if name.eq_ignore_ascii_case("resume") {
            if !text.starts_with(|first: char| first.is_ascii_digit()) {
                let sentence = "resume must be the offset of an earlier record";
                return Err(ConnectionError::misconfigured("resume", sentence));
            }
            resume = Some(text.clone());
        } else if name.eq_ignore_ascii_case("end") {
            end = text
                .parse()
                .map_err(|_| ConnectionError::misconfigured("end", "end must be true or false"))?;
        } else {
            rest.push((name.clone(), text.clone()));
        }
    }
    let properties = with_options(properties, &rest);
    let mut reader = Reader::new(&properties, PROPERTIES, root);
    let reading = read_reading(&mut reader, root);
    // Only for reading: what is written comes with its delimiters in it.
    let delimiter = reader.string("delimiter").unwrap_or_else(|| ",".to_owned());
    let delimiter = match delimiter.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => *byte,
        _ => {
            let sentence = "must be one ASCII character, not a quote and not a line end";
            reader.error("delimiter", format!("found \"{delimiter}\"; {sentence}"));
            b','
        }
    };
    finish(reader).map_err(misconfigured)?;
    Ok(Reading {
        delimiter,
        resume,
        end,
        ..reading
    })
}

/// How publishing with these options writes.
pub(super) fn writing(
    properties: &Properties,
    extra: &[(String, String)],
    root: &Path,
) -> Result<Writing, ConnectionError> {
    let properties = with_options(properties, extra);
    let mut reader = Reader::new(&properties, PROPERTIES, root);
    let writing = read_writing(&mut reader);
    finish(reader).map_err(misconfigured)?;
    Ok(writing)
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn read_kind(reader: &mut Reader<'_>, default: FileType) -> FileType {
    match reader.one_of("fileType", &["json", "csv", "lines", "raw"]) {
        Some("csv") => FileType::Csv,
        Some("lines") => FileType::Lines,
        Some("raw") => FileType::Raw,
        Some(_) => FileType::Json,
        None => default,
    }
}

fn read_packing(reader: &mut Reader<'_>, name: &str, allowed: &[&'static str]) -> Option<Packing> {
    // Empty is none, as in eKuiper's own files.
    if reader.value(name).and_then(Value::as_str) == Some("") {
        return None;
    }
    reader.one_of(name, allowed).and_then(Packing::named)
}

fn read_reading(reader: &mut Reader<'_>, root: &Path) -> Reading {
    // eKuiper's default.
    let kind = read_kind(reader, FileType::Json);
    let interval = reader
        .duration("interval", Duration::ZERO..=DAY)
        .filter(|time| !time.is_zero());
    let endless = reader.bool("loop").unwrap_or(false);
    reader.string("delimiter");
    let lines =
        |reader: &mut Reader<'_>, name| reader.integer(name, 0..=1_000_000_u32).unwrap_or(0);
    let move_to = reader.string("moveTo").unwrap_or_default();
    let after = match reader.integer("actionAfterRead", 0..=2_u8) {
        Some(1) => AfterRead::Delete,
        Some(2) if move_to.is_empty() => {
            let sentence = "is missing; with actionAfterRead 2 it must be a folder below the one that is granted";
            reader.error("moveTo", sentence);
            AfterRead::Keep
        }
        Some(2) => AfterRead::MoveTo(move_to),
        _ => AfterRead::Keep,
    };
    if let AfterRead::MoveTo(folder) = &after
        && let Err(error) = path::folder(root, folder)
    {
        reader.error("moveTo", format!("found \"{folder}\"; {}", error.message));
    }
    Reading {
        kind,
        again: interval.or(endless.then_some(Duration::ZERO)),
        pause: reader
            .duration("sendInterval", Duration::ZERO..=DAY)
            .unwrap_or_default(),
        skip_first: usize::try_from(lines(reader, "ignoreStartLines")).unwrap_or(usize::MAX),
        skip_last: usize::try_from(lines(reader, "ignoreEndLines")).unwrap_or(usize::MAX),
        has_header: reader.bool("hasHeader").unwrap_or(false),
        columns: reader.strings("columns").unwrap_or_default(),
        delimiter: b',',
        packing: read_packing(reader, "decompression", &["gzip", "zlib", "flate", "zstd"]),
        after,
        resume: None,
        end: false,
    }
}

fn read_writing(reader: &mut Reader<'_>) -> Writing {
    // eKuiper's default.
    let kind = read_kind(reader, FileType::Lines);
    let stamped = match reader.one_of("rollingNamePattern", &["prefix", "suffix", "none"]) {
        Some("prefix") => Stamped::Before,
        Some("suffix") => Stamped::Behind,
        _ => Stamped::Not,
    };
    let interval = reader.duration("rollingInterval", Duration::ZERO..=DAY * 366);
    // eKuiper's beat for looking at the time; here the time is looked at with each write.
    reader.duration("checkInterval", Duration::ZERO..=DAY * 366);
    let mut number = |name| {
        let number = reader.integer(name, 0..=i64::MAX).unwrap_or_default();
        u64::try_from(number).ok().filter(|number| *number > 0)
    };
    let (count, size) = (number("rollingCount"), number("rollingSize"));
    let packing = read_packing(reader, "compression", &["gzip", "zstd"]);
    if packing.is_some() && kind == FileType::Json {
        let sentence = "goes with the file types lines and csv; a JSON list could not be written piece by piece";
        reader.error("compression", sentence);
    }
    Writing {
        kind,
        has_header: reader.bool("hasHeader").unwrap_or(false),
        stamped,
        interval: interval.filter(|time| !time.is_zero()),
        count,
        size,
        packing,
    }
}
