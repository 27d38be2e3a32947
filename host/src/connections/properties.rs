//! Reads a connection's properties: names without regard to case, every mistake at once, secrets
//! from where they are kept. Knows no property by itself and opens nothing but files that a secret
//! refers to.
//!
//! A type makes a [`Reader`], asks for each property by the name in its list, and ends with
//! [`Reader::finish`]. A getter whose property is wrong records the mistake and answers as if it
//! were absent, so that one pass finds them all.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Map, Value};

mod duration;
#[cfg(test)]
mod tests;

pub use duration::parse_duration;
use duration::show_duration;

use super::secrets::redact_url;
use super::{ConfigError, Properties, Property};
pub use crate::names::nearest;

/// The largest file that a secret may refer to (1 MiB: a certificate chain is a few KiB).
const LARGEST_SECRET: u64 = 1024 * 1024;

/// Puts lists of properties behind each other, at compile time:
/// `const ALL: [Property; OWN.len() + tls::PROPERTIES.len()] = join(&[OWN, tls::PROPERTIES]);`
/// `N` must be the sum of the lengths; anything else does not compile.
#[must_use]
#[expect(
    clippy::indexing_slicing,
    reason = "runs in const evaluation, where a bad index does not compile"
)]
pub const fn join<const N: usize>(lists: &[&[Property]]) -> [Property; N] {
    let mut all = [Property::plain(""); N];
    let (mut filled, mut list) = (0, 0);
    while list < lists.len() {
        let mut item = 0;
        while item < lists[list].len() {
            all[filled] = lists[list][item];
            filled += 1;
            item += 1;
        }
        list += 1;
    }
    assert!(filled == N, "N is not the sum of the lengths");
    all
}

/// A property's text by its name, whatever its case, where nothing is checked yet.
#[must_use]
pub fn text<'a>(properties: &'a Properties, name: &str) -> Option<&'a str> {
    let given = properties
        .iter()
        .find(|(given, _)| given.eq_ignore_ascii_case(name));
    given.and_then(|(_, value)| value.as_str())
}

/// Reads one object of properties against the list of those that are known.
pub struct Reader<'a> {
    properties: HashMap<String, (&'a str, &'a Value)>,
    known: &'a [Property],
    at: String,
    base: PathBuf,
    errors: Vec<ConfigError>,
    warnings: Vec<String>,
}

/// Shows names only: the values may be secrets.
impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("at", &self.at)
            .field("names", &self.properties.keys())
            .field("errors", &self.errors)
            .finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// Starts reading and checks all names: an unknown one, or one given twice in two spellings, is
    /// an error; one that is ignored is a warning. Relative paths start at `base`.
    #[must_use]
    pub fn new(properties: &'a Properties, known: &'a [Property], base: &Path) -> Self {
        Self::at(properties, known, base, "/props".to_owned())
    }

    fn at(properties: &'a Properties, known: &'a [Property], base: &Path, at: String) -> Self {
        let mut reader = Self {
            properties: HashMap::with_capacity(properties.len()),
            known,
            at,
            base: base.to_owned(),
            errors: Vec::new(),
            warnings: Vec::new(),
        };
        for (name, value) in properties {
            reader.admit(name, value);
        }
        reader
    }

    fn admit(&mut self, name: &'a str, value: &'a Value) {
        let at = self.pointer(name);
        let Some(property) = self
            .known
            .iter()
            .find(|known| known.name.eq_ignore_ascii_case(name))
        else {
            let names = self.known.iter().filter(|known| known.ignored.is_none());
            let names: Vec<_> = names.map(|known| known.name).collect();
            let hint = match nearest(name, names.iter().copied()) {
                Some(meant) => format!("did you mean \"{meant}\"? "),
                None => String::new(),
            };
            let sentence = format!("unknown property; {hint}Allowed: {}", names.join(", "));
            self.errors.push(ConfigError::new(at, sentence));
            return;
        };
        if let Some(why) = property.ignored {
            self.warnings
                .push(format!("property \"{}\" is ignored: {why}", property.name));
            return;
        }
        let first = self
            .properties
            .insert(name.to_ascii_lowercase(), (name, value));
        if let Some((first, _)) = first {
            let sentence = format!(
                "the same property is given as \"{first}\" too; names are the same without regard to case"
            );
            self.errors.push(ConfigError::new(at, sentence));
        }
    }

    /// Where a property stands, as the user spelled it.
    #[must_use]
    pub fn pointer(&self, name: &str) -> String {
        let spelled = match self.properties.get(&name.to_ascii_lowercase()) {
            Some((spelled, _)) => spelled,
            None => name,
        };
        format!(
            "{}/{}",
            self.at,
            spelled.replace('~', "~0").replace('/', "~1")
        )
    }

    /// Where relative paths start.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Records a mistake at a property. The sentence says what was found and what is allowed, and
    /// never holds the value of a secret.
    pub fn error(&mut self, name: &str, sentence: impl Into<String>) {
        let at = self.pointer(name);
        self.errors.push(ConfigError::new(at, sentence));
    }

    /// Adds a sentence that the operator should read though the configuration is valid.
    pub fn warn(&mut self, sentence: impl Into<String>) {
        self.warnings.push(sentence.into());
    }

    /// The warnings.
    ///
    /// # Errors
    /// All mistakes.
    pub fn finish(self) -> Result<Vec<String>, Vec<ConfigError>> {
        if self.errors.is_empty() {
            Ok(self.warnings)
        } else {
            Err(self.errors)
        }
    }

    /// The property is given, and not as `null`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// The value as it stands; `null` counts as absent.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        debug_assert!(
            self.known.iter().any(|known| known.name == name),
            "{name} is not in the list"
        );
        let (_, value) = self.properties.get(&name.to_ascii_lowercase())?;
        (!value.is_null()).then_some(*value)
    }

    /// A text.
    pub fn string(&mut self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::String(text) => Some(text.clone()),
            other => self.wrong(name, other, "must be a string"),
        }
    }

    /// A text that must be there and not be empty. Empty when it is not, which is an error.
    pub fn required_string(&mut self, name: &str) -> String {
        match self.value(name) {
            None => self.error(name, "is missing; it must be a string that is not empty"),
            Some(Value::String(text)) if text.is_empty() => {
                self.error(name, "is empty; it must be a string that is not empty");
            }
            Some(_) => return self.string(name).unwrap_or_default(),
        }
        String::new()
    }

    /// One of a few words, without regard to case; answered as it stands in `allowed`.
    pub fn one_of(&mut self, name: &str, allowed: &[&'static str]) -> Option<&'static str> {
        let text = self.string(name)?;
        let found = allowed
            .iter()
            .copied()
            .find(|word| word.eq_ignore_ascii_case(&text));
        if found.is_none() {
            let hint = match nearest(&text, allowed.iter().copied()) {
                Some(meant) => format!("did you mean \"{meant}\"? "),
                None => String::new(),
            };
            let found = shown(&Value::String(text));
            self.error(
                name,
                format!("found {found}; {hint}Allowed: {}", allowed.join(", ")),
            );
        }
        found
    }

    /// True or false.
    pub fn bool(&mut self, name: &str) -> Option<bool> {
        match self.value(name)? {
            Value::Bool(value) => Some(*value),
            other => self.wrong(name, other, "must be true or false"),
        }
    }

    /// A whole number in a range.
    pub fn integer<T>(&mut self, name: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + fmt::Display + Copy,
    {
        let value = self.value(name)?;
        let number = whole(value).and_then(|number| T::try_from(number).ok());
        match number {
            Some(number) if range.contains(&number) => Some(number),
            _ => {
                let allowed = format!(
                    "must be a whole number from {} to {}",
                    range.start(),
                    range.end()
                );
                self.wrong(name, value, &allowed)
            }
        }
    }

    /// A time: `"1m30s"`, `"500ms"`, or a whole number of milliseconds.
    pub fn duration(&mut self, name: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let value = self.value(name)?;
        match time(value) {
            Some(time) if range.contains(&time) => Some(time),
            _ => {
                let (low, high) = (show_duration(*range.start()), show_duration(*range.end()));
                let allowed = format!(
                    "must be a time from {low} to {high}: a string such as \"1m30s\" or \"500ms\", or milliseconds as a number"
                );
                self.wrong(name, value, &allowed)
            }
        }
    }

    /// A list of texts; one text alone is a list of one.
    pub fn strings(&mut self, name: &str) -> Option<Vec<String>> {
        let value = self.value(name)?;
        let texts = match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect(),
            _ => None,
        };
        texts.or_else(|| self.wrong(name, value, "must be a list of strings"))
    }

    /// Names with texts (headers). Numbers and booleans are taken as their text.
    pub fn string_map(&mut self, name: &str) -> Option<Vec<(String, String)>> {
        let value = self.value(name)?;
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(value) => Some(value.to_string()),
            _ => None,
        };
        let pairs = value.as_object().and_then(|object| {
            object
                .iter()
                .map(|(key, item)| Some((key.clone(), text(item)?)))
                .collect()
        });
        pairs.or_else(|| self.wrong(name, value, "must be an object of names and strings"))
    }

    /// An object whose names this reader does not check.
    pub fn object(&mut self, name: &str) -> Option<&'a Map<String, Value>> {
        match self.value(name)? {
            Value::Object(object) => Some(object),
            other => self.wrong(name, other, "must be an object"),
        }
    }

    /// An object with properties of its own; its mistakes and warnings join those of this reader.
    pub fn nested<T>(
        &mut self,
        name: &str,
        known: &[Property],
        read: impl FnOnce(&mut Reader<'_>) -> T,
    ) -> Option<T> {
        let object = self.object(name)?;
        let mut inner = Reader::at(object, known, &self.base, self.pointer(name));
        let value = read(&mut inner);
        self.errors.append(&mut inner.errors);
        self.warnings.append(&mut inner.warnings);
        Some(value)
    }

    /// A secret: the text itself, `env:NAME` for a variable of the host's environment, or
    /// `file:PATH` for a file's content without the line ends behind it. Looked up anew each time.
    pub fn secret(&mut self, name: &str) -> Option<SecretString> {
        let value = self.value(name)?;
        let Value::String(text) = value else {
            self.error(name, format!("found {}; must be a string", article(value)));
            return None;
        };
        match resolve(text, &self.base) {
            Ok(secret) => Some(secret),
            Err(sentence) => {
                self.error(name, sentence);
                None
            }
        }
    }

    fn wrong<T>(&mut self, name: &str, found: &Value, allowed: &str) -> Option<T> {
        let secret = self
            .known
            .iter()
            .any(|known| known.secret && known.name == name);
        let found = if secret {
            article(found).to_owned()
        } else {
            shown(found)
        };
        self.error(name, format!("found {found}; {allowed}"));
        None
    }
}

/// Looks up `env:NAME` and `file:PATH`; any other text is the secret itself.
///
/// # Errors
/// What is missing, in a sentence that names the reference and never the content.
pub fn resolve(text: &str, base: &Path) -> Result<SecretString, String> {
    if let Some(name) = text.strip_prefix("env:") {
        return match std::env::var(name) {
            Ok(value) => Ok(value.into()),
            Err(std::env::VarError::NotPresent) => Err(format!(
                "refers to the environment variable \"{name}\", which is not set"
            )),
            Err(std::env::VarError::NotUnicode(_)) => Err(format!(
                "refers to the environment variable \"{name}\", which is not UTF-8"
            )),
        };
    }
    if let Some(path) = text.strip_prefix("file:") {
        let read = read_small(&base.join(path), LARGEST_SECRET)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()));
        return match read {
            Ok(content) => Ok(content.trim_end_matches(['\r', '\n']).to_owned().into()),
            Err(why) => Err(format!("refers to the file \"{path}\": {why}")),
        };
    }
    Ok(text.to_owned().into())
}

/// Reads a regular file of at most `limit` bytes; a FIFO or a device would block or never end.
pub(super) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(format!("it is larger than {limit} bytes"));
    }
    Ok(bytes)
}

/// A time as it may be written: a text, or milliseconds.
fn time(value: &Value) -> Option<Duration> {
    match value {
        Value::String(text) => parse_duration(text),
        other => whole(other)
            .and_then(|ms| u64::try_from(ms).ok())
            .map(Duration::from_millis),
    }
}

/// Times that are given and that a call of a connector does not leave: their names as they are
/// written, and a sentence about each. A call that waits for an answer ends a twentieth before its
/// time is up.
pub(super) fn beyond_call<'a>(
    given: &'a Properties,
    known: &[Property],
    call: Duration,
) -> Vec<(&'a str, String)> {
    let most = call * 19 / 20;
    let bounded = |name: &str| {
        let same = |property: &&Property| property.name.eq_ignore_ascii_case(name);
        known.iter().find(same).is_some_and(|it| it.in_call)
    };
    let late = |(name, value): (&'a String, &Value)| {
        let time = time(value).filter(|time| *time > most && bounded(name))?;
        let sentence = format!(
            "\"{name}\" is {}, and a call has no more than {} (the host's \"callDeadline\" of {}, less a twentieth): what takes longer is cut off there, and tried again",
            show_duration(time),
            show_duration(most),
            show_duration(call),
        );
        Some((name.as_str(), sentence))
    };
    given.iter().filter_map(late).collect()
}

/// A whole number, also where JSON wrote it as `1.0`.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        let exact = number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0;
        // Through the text: a cast would be one more place that could truncate.
        exact.then(|| format!("{number:.0}").parse().ok()).flatten()
    })
}

fn article(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What was found, for an error: short, and without the user part of a URL.
fn shown(value: &Value) -> String {
    match value {
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => {
            let text = redact_url(text);
            let short: String = text.chars().take(60).collect();
            let dots = if short.len() < text.len() { "..." } else { "" };
            format!("the string \"{short}{dots}\"")
        }
        other => article(other).to_owned(),
    }
}
