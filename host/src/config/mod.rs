//! The manifest: what a user wants to run, from one or more YAML files (JSON is YAML), merged. Every
//! mistake is found at once and has its file, line and column; what the rest of the host finds later
//! (a query, a property) gets its place from [`Manifest::error`]. Imports nothing of the crate.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

mod document;
pub mod ekuiper;
mod merge;
mod node;
mod place;
mod reader;
mod rule;
mod scalar;
pub mod schema;
#[cfg(test)]
mod tests;
mod variables;
mod yaml;
mod yaml_text;

pub use document::Document;
pub use place::{ManifestError, Place, pointer_to};
pub use reader::duration_of as duration;
pub use rule::{ActionDef, DeadLetters, Overflow, RestartStrategy, RuleDef, RuleOptions, Written};
pub use variables::Lookup;
pub use yaml_text::to_yaml;

pub use crate::names::{nearest, unknown, validate_id};

/// The largest manifest that is read.
const LARGEST_FILE: u64 = 64 * 1024 * 1024;

/// A named connection.
#[derive(Clone)]
pub struct ConnectionDef {
    /// Unique in the manifest.
    pub id: String,
    /// The connection type, as written.
    pub typ: String,
    /// Its properties. May hold secrets.
    pub props: Map<String, Value>,
    /// Where it stands, e.g. `/connections/0`; its properties are at `…/props`.
    pub pointer: String,
}

/// Shows the names of the properties, never their values.
impl fmt::Debug for ConnectionDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.props.keys().collect();
        f.debug_struct("ConnectionDef")
            .field("id", &self.id)
            .field("typ", &self.typ)
            .field("props", &names)
            .finish_non_exhaustive()
    }
}

/// A connector of the user's own.
#[derive(Clone, Debug)]
pub struct ConnectorDef {
    /// A stream's TYPE or an action's key.
    pub name: String,
    /// The component's file, relative paths resolved against the manifest's folder.
    pub path: PathBuf,
    /// Where it stands, e.g. `/connectors/resize`.
    pub pointer: String,
}

/// A stream: `CREATE STREAM …`.
#[derive(Clone)]
pub struct StreamDef {
    /// The statement. Its EXTRA may hold secrets.
    pub sql: String,
    /// Where the statement stands, e.g. `/streams/0/sql`: for [`Manifest::error_within`].
    pub pointer: String,
}

impl fmt::Debug for StreamDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamDef")
            .field("pointer", &self.pointer)
            .finish_non_exhaustive()
    }
}

/// Properties under a name that streams refer to with CONF_KEY.
#[derive(Clone)]
pub struct ConfKeyDef {
    /// The source's type.
    pub typ: String,
    /// The name.
    pub key: String,
    /// The properties. May hold secrets.
    pub props: Map<String, Value>,
    /// Where they stand, e.g. `/confKeys/mqtt/plant`.
    pub pointer: String,
}

impl fmt::Debug for ConfKeyDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.props.keys().collect();
        f.debug_struct("ConfKeyDef")
            .field("typ", &self.typ)
            .field("key", &self.key)
            .field("props", &names)
            .finish_non_exhaustive()
    }
}

/// All conf keys.
#[derive(Clone, Debug, Default)]
pub struct ConfKeys(Vec<ConfKeyDef>);

impl FromIterator<ConfKeyDef> for ConfKeys {
    fn from_iter<I: IntoIterator<Item = ConfKeyDef>>(defs: I) -> Self {
        Self(defs.into_iter().collect())
    }
}

impl ConfKeys {
    /// The properties of that name for that type. As in eKuiper, the type without regard to case;
    /// the name too where none is exactly that, for eKuiper's files have them in lower case.
    #[must_use]
    pub fn get(&self, typ: &str, key: &str) -> Option<&ConfKeyDef> {
        let of_type = || {
            self.0
                .iter()
                .filter(|def| def.typ.eq_ignore_ascii_case(typ))
        };
        of_type()
            .find(|def| def.key == key)
            .or_else(|| of_type().find(|def| def.key.eq_ignore_ascii_case(key)))
    }

    /// All of them, in the order of the manifest.
    pub fn iter(&self) -> impl Iterator<Item = &ConfKeyDef> {
        self.0.iter()
    }
}

/// What the operator grants to the connector `file`.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The folder below which it may read and write; None: nowhere.
    pub root: Option<PathBuf>,
}

/// The data port, where others reach this host by HTTP; None: the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// Where it listens; port 0: any free one.
    pub address: Option<SocketAddr>,
    /// PEM files of the certificate with its chain and of its private key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Clients' connections at once.
    pub max_connections: Option<u64>,
    /// Requests under way at once, over all connections.
    pub max_requests: Option<u64>,
}

/// REST, where this host is served (`serve`); None: the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// Where it listens; port 0: any free one.
    pub address: Option<SocketAddr>,
    /// PEM files of the certificate with its chain and of its private key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The folder with the public keys of those who issue tokens. None: no authentication.
    pub keys: Option<PathBuf>,
    /// Host names of this server beside loopback and addresses.
    pub names: Vec<String>,
    /// Pages of other servers that may use it, as `https://name[:port]`.
    pub origins: Vec<String>,
    /// Clients' connections at once.
    pub max_connections: Option<u64>,
    /// Bytes of a request's body.
    pub max_body_bytes: Option<u64>,
}

/// Bounds of this host; None: the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostLimits {
    /// Bytes of one action's disk queue.
    pub disk_queue_bytes: Option<u64>,
    /// Bytes of all disk queues together.
    pub disk_bytes: Option<u64>,
    /// Bytes that the disk queues leave free on their disk, for the store.
    pub disk_reserve_bytes: Option<u64>,
    /// How long a dead letter is kept.
    pub dead_letter_age: Option<Duration>,
    /// Bytes of all dead letters.
    pub dead_letter_bytes: Option<u64>,
    /// Messages of one connection that are received and not settled.
    pub unsettled_messages: Option<u64>,
    /// The same in bytes.
    pub unsettled_bytes: Option<u64>,
    /// The largest message taken in.
    pub max_message_bytes: Option<u64>,
    /// Memory of one instance of a connector.
    pub guest_memory_bytes: Option<u64>,
    /// CPU time of one call into a connector.
    pub guest_cpu: Option<Duration>,
    /// How long one call into a connector may take, waiting for data not counted.
    pub call_deadline: Option<Duration>,
}

/// Everything that the files say.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// Named connections.
    pub connections: Vec<ConnectionDef>,
    /// Conf keys of sources.
    pub conf_keys: ConfKeys,
    /// Connectors of the user's own.
    pub connectors: Vec<ConnectorDef>,
    /// Streams.
    pub streams: Vec<StreamDef>,
    /// Rules.
    pub rules: Vec<RuleDef>,
    /// The grant for the connector `file`.
    pub files: Files,
    /// The data port.
    pub push: Push,
    /// REST.
    pub rest: Rest,
    /// Bounds.
    pub limits: HostLimits,
    /// What is accepted and should be looked at.
    pub warnings: Vec<ManifestError>,
    /// False: a definition was too broken to be kept, so that later checks would complain about
    /// what is only missing because of it.
    pub whole: bool,
    /// Where relative paths in properties of connections start: the first file's folder.
    pub base: PathBuf,
    places: place::Places,
}

/// The text of one manifest.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is called in messages.
    pub name: String,
    /// The text.
    pub text: String,
    /// Where its relative paths start.
    pub base: PathBuf,
}

impl Manifest {
    /// Reads and merges these files, with variables from the environment.
    ///
    /// # Errors
    /// All mistakes, in the order of their places.
    pub fn load<P: AsRef<Path>>(paths: &[P]) -> Result<Self, Vec<ManifestError>> {
        let (manifest, errors) = Self::read(paths);
        if errors.is_empty() {
            Ok(manifest)
        } else {
            Err(errors)
        }
    }

    /// As [`Manifest::load`], and keeps what could be read beside the mistakes, so that more can be
    /// checked (see [`Manifest::whole`]).
    pub fn read<P: AsRef<Path>>(paths: &[P]) -> (Self, Vec<ManifestError>) {
        let mut errors = Vec::new();
        let mut sources = Vec::new();
        let mut seen = HashSet::new();
        for path in paths {
            let path = path.as_ref();
            let name = path.display().to_string();
            match read_file(path) {
                Ok(_) if !seen.insert(path.canonicalize().unwrap_or_else(|_| path.to_owned())) => {
                    let place = Place::whole(name.into());
                    errors.push(ManifestError::new(place, "", "this file is given twice"));
                }
                Ok(text) => {
                    let base = path.parent().map(Path::to_owned).unwrap_or_default();
                    sources.push(Source { name, text, base });
                }
                Err((line, column, message)) => {
                    let place = Place {
                        file: name.into(),
                        line,
                        column,
                    };
                    errors.push(ManifestError::new(place, "", message));
                }
            }
        }
        let unread = errors.len();
        let (mut manifest, more) = Self::parse(&sources, &|name| std::env::var(name).ok());
        manifest.whole &= unread == 0;
        errors.extend(more);
        ManifestError::arrange(&mut errors);
        (manifest, errors)
    }

    /// Merges these texts, with variables from `lookup`; keeps what could be read beside the
    /// mistakes.
    pub fn parse(sources: &[Source], lookup: &Lookup<'_>) -> (Self, Vec<ManifestError>) {
        let mut merge = merge::Merge::new();
        for source in sources {
            merge.add(source, lookup);
        }
        merge.finish()
    }

    /// Where a JSON Pointer leads. For one that leads to nothing (a missing property), what it would
    /// stand in.
    #[must_use]
    pub fn locate(&self, pointer: &str) -> Place {
        self.places
            .locate(pointer)
            .unwrap_or_else(|| self.nowhere())
    }

    /// A mistake at the value that a JSON Pointer leads to.
    #[must_use]
    pub fn error(&self, pointer: &str, message: impl Into<String>) -> ManifestError {
        ManifestError::new(self.locate(pointer), pointer, message)
    }

    /// A mistake at the key that a JSON Pointer ends with: an unknown property.
    #[must_use]
    pub fn error_at_key(&self, pointer: &str, message: impl Into<String>) -> ManifestError {
        let place = self
            .places
            .locate_key(pointer)
            .unwrap_or_else(|| self.nowhere());
        ManifestError::new(place, pointer, message)
    }

    /// A mistake at a line and column (both from 1) inside the text at a JSON Pointer: a query. Where
    /// the text's notation allows it, the place is exact and comes with the line and a caret.
    #[must_use]
    pub fn error_within(
        &self,
        pointer: &str,
        line: u32,
        column: u32,
        message: impl Into<String>,
    ) -> ManifestError {
        let (place, excerpt) = self
            .places
            .locate_within(pointer, line, column)
            .unwrap_or_else(|| (self.nowhere(), None));
        let mut error = ManifestError::new(place, pointer, message);
        // A stream's statement may hold a secret in EXTRA: only queries are shown.
        error.excerpt = excerpt.filter(|_| pointer.starts_with("/rules/"));
        error
    }

    fn nowhere(&self) -> Place {
        self.places
            .locate("")
            .unwrap_or_else(|| Place::whole(Arc::from("manifest")))
    }
}

/// A rule that came as JSON and not in a manifest, through REST for one. Its pointers start at the
/// rule itself; `id` is what it is called where it came from. Beside it, the warnings.
///
/// # Errors
/// All mistakes; none has a place, all have their pointers.
pub fn rule_of(
    value: &Value,
    id: Option<&str>,
) -> Result<(RuleDef, Vec<ManifestError>), Vec<ManifestError>> {
    let file: Arc<str> = Arc::from("rule");
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    let node = node::Node::of(value);
    let at = reader::At {
        node: &node,
        key: None,
        pointer: String::new(),
    };
    let mut reader = reader::Reader {
        file: &file,
        errors: &mut errors,
        warnings: &mut warnings,
    };
    match rule::rule(&mut reader, &at, id) {
        Some(def) if errors.is_empty() => Ok((def, warnings)),
        _ => Err(errors),
    }
}

/// One YAML or JSON document of another kind (a connector's configuration), read as a manifest is,
/// variables and all.
///
/// # Errors
/// All mistakes, in the order of their places.
pub fn document(source: &Source, lookup: &Lookup<'_>) -> Result<Value, Vec<ManifestError>> {
    let file: Arc<str> = source.name.as_str().into();
    let mut errors = Vec::new();
    let (documents, _) = yaml::parse(&source.text, &file, Some(lookup), &mut errors);
    match documents.as_slice() {
        _ if !errors.is_empty() => {
            ManifestError::arrange(&mut errors);
            Err(errors)
        }
        [] => Ok(Value::Null),
        [one] => Ok(one.to_value()),
        many => {
            let message = format!("{} documents stand in it; one is wanted", many.len());
            Err(vec![ManifestError::new(Place::whole(file), "", message)])
        }
    }
}

/// The text, or the line, column and sentence of what is wrong with it.
fn read_file(path: &Path) -> Result<String, (u32, u32, String)> {
    let whole = |message: String| (0, 0, message);
    let data = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => whole("there is no such file".to_owned()),
        _ => whole(format!("cannot be read: {error}")),
    })?;
    if data.is_dir() {
        return Err(whole(
            "this is a folder; name the manifest's files".to_owned(),
        ));
    }
    if data.len() > LARGEST_FILE {
        return Err(whole(format!(
            "{} bytes are too many for a manifest; at most {LARGEST_FILE}",
            data.len()
        )));
    }
    let bytes = std::fs::read(path).map_err(|error| whole(format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let before =
            String::from_utf8_lossy(error.as_bytes().get(..good).unwrap_or_default()).into_owned();
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        let number = |value| u32::try_from(value).unwrap_or(u32::MAX);
        (
            number(line),
            number(column),
            "this is not UTF-8; a manifest is UTF-8 text".to_owned(),
        )
    })
}
