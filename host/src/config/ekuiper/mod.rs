//! Definitions as eKuiper keeps and exchanges them, in and out: its `etc` folder ([`read_etc`]), what
//! its REST exports and `init.json` ([`read_export`]), and the same shapes written again
//! ([`Bundle::to_ruleset`], [`Bundle::to_data`], [`Bundle::to_data_yaml`]), or as a manifest
//! ([`Bundle::to_manifest`]).
//!
//! Files and texts in, definitions out. Whether the host can do what they say is for others to check:
//! nothing here knows a connection type, a connector or the query language. Nothing is lost in
//! silence: what is not taken stands in [`Bundle::left`], what is changed in [`Bundle::remarks`].

use std::fmt;

use serde_json::{Map, Value};

use super::place::{ManifestError, Place};

mod environment;
mod etc;
mod export;
mod manifest;
mod settings;
mod spelling;
mod sql;
#[cfg(test)]
mod tests;
mod write;

pub use etc::{EtcFile, etc, read_etc};
pub use export::read_export;
pub use manifest::{ManifestItem, ManifestText};
pub use settings::ServerSettings;
pub use sql::{stream_name, stream_option};

/// A section of eKuiper's data export, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Section {
    /// `streams`
    Streams,
    /// `tables`
    Tables,
    /// `rules`
    Rules,
    /// `nativePlugins`
    NativePlugins,
    /// `portablePlugins`
    PortablePlugins,
    /// `sourceConfig`: conf keys of sources.
    SourceConfig,
    /// `sinkConfig`: conf keys of sinks.
    SinkConfig,
    /// `connectionConfig`: named connections.
    ConnectionConfig,
    /// `Service`
    Service,
    /// `Schema`
    Schema,
    /// `uploads`
    Uploads,
    /// `scripts`
    Scripts,
    /// `kuiper.yaml` and its variables; never part of an export.
    Settings,
}

impl Section {
    /// The sections of a data export, in eKuiper's order.
    pub const ALL: [Self; 12] = [
        Self::Streams,
        Self::Tables,
        Self::Rules,
        Self::NativePlugins,
        Self::PortablePlugins,
        Self::SourceConfig,
        Self::SinkConfig,
        Self::ConnectionConfig,
        Self::Service,
        Self::Schema,
        Self::Uploads,
        Self::Scripts,
    ];

    /// Its key in a data export, and in the answer to an import.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Tables => "tables",
            Self::Rules => "rules",
            Self::NativePlugins => "nativePlugins",
            Self::PortablePlugins => "portablePlugins",
            Self::SourceConfig => "sourceConfig",
            Self::SinkConfig => "sinkConfig",
            Self::ConnectionConfig => "connectionConfig",
            Self::Service => "Service",
            Self::Schema => "Schema",
            Self::Uploads => "uploads",
            Self::Scripts => "scripts",
            Self::Settings => "settings",
        }
    }

    /// What one item of it is called.
    #[must_use]
    pub fn item(self) -> &'static str {
        match self {
            Self::Streams => "stream",
            Self::Tables => "table",
            Self::Rules => "rule",
            Self::NativePlugins => "native plugin",
            Self::PortablePlugins => "portable plugin",
            Self::SourceConfig => "conf key",
            Self::SinkConfig => "sink conf key",
            Self::ConnectionConfig => "connection",
            Self::Service => "service",
            Self::Schema => "schema",
            Self::Uploads => "upload",
            Self::Scripts => "script",
            Self::Settings => "setting",
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// A sentence about one item: why it is not taken, or what was made of it. Never a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where the item belongs.
    pub section: Section,
    /// The item; conf keys and connections as `type/name`, as long as both are known.
    pub id: String,
    /// Where it stands, if that is a file.
    pub place: Option<Place>,
    /// The sentence.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{} {}: {}", self.section.item(), self.id, self.message)
    }
}

/// A named connection.
#[derive(Clone, PartialEq)]
pub struct ConnectionItem {
    /// Its type, as written.
    pub typ: String,
    /// Its id, in its own case.
    pub id: String,
    /// Its properties. May hold secrets.
    pub props: Map<String, Value>,
}

impl fmt::Debug for ConnectionItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        named(f, "ConnectionItem", &self.typ, &self.id, &self.props)
    }
}

/// Whom a conf key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConfKind {
    /// Streams: CONF_KEY.
    Source,
    /// Actions: eKuiper keeps these for its own pages only.
    Sink,
}

/// Properties under a name.
#[derive(Clone, PartialEq)]
pub struct ConfItem {
    /// Whom it is for.
    pub kind: ConfKind,
    /// The type of source or sink.
    pub typ: String,
    /// The name. `default` goes below all others of its type.
    pub key: String,
    /// The properties. May hold secrets.
    pub props: Map<String, Value>,
}

impl ConfItem {
    /// The section it belongs to.
    #[must_use]
    pub fn section(&self) -> Section {
        match self.kind {
            ConfKind::Source => Section::SourceConfig,
            ConfKind::Sink => Section::SinkConfig,
        }
    }
}

impl fmt::Debug for ConfItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        named(f, "ConfItem", &self.typ, &self.key, &self.props)
    }
}

/// Shows the names of the properties, never their values.
fn named(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    typ: &str,
    name: &str,
    props: &Map<String, Value>,
) -> fmt::Result {
    let names: Vec<_> = props.keys().collect();
    f.debug_struct(what)
        .field("typ", &typ)
        .field("name", &name)
        .field("props", &names)
        .finish_non_exhaustive()
}

/// A stream or a table.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamItem {
    /// Its name.
    pub name: String,
    /// Its CREATE statement. EXTRA may hold secrets.
    pub sql: String,
}

impl fmt::Debug for StreamItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamItem")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A rule.
#[derive(Clone, PartialEq)]
pub struct RuleItem {
    /// Its id.
    pub id: String,
    /// Its JSON, text for text as it was given where it was given as text.
    pub text: String,
    /// The same, read; `id` is in it. Actions may hold secrets.
    pub body: Map<String, Value>,
}

impl fmt::Debug for RuleItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleItem")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Everything that a folder or an export of eKuiper defines.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// Named connections.
    pub connections: Vec<ConnectionItem>,
    /// `xOperation: delete` of `connection.yaml`: type and id.
    pub deleted: Vec<(String, String)>,
    /// Conf keys.
    pub conf_keys: Vec<ConfItem>,
    /// Streams.
    pub streams: Vec<StreamItem>,
    /// Tables.
    pub tables: Vec<StreamItem>,
    /// Rules.
    pub rules: Vec<RuleItem>,
    /// `kuiper.yaml`, with the variables `KUIPER__…` and over them `WINDLASS__…`.
    pub settings: Map<String, Value>,
    /// What is not taken, and why.
    pub left: Vec<Note>,
    /// What is taken and should be looked at.
    pub remarks: Vec<Note>,
    /// Changes with what `connection.yaml` and its variables say, and with nothing else; empty if
    /// there is none.
    pub provision: String,
}

impl Bundle {
    /// Nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
            && self.deleted.is_empty()
            && self.conf_keys.is_empty()
            && self.streams.is_empty()
            && self.tables.is_empty()
            && self.rules.is_empty()
            && self.left.is_empty()
    }

    /// Adds what another one has: `init.json` beside a folder.
    pub fn absorb(&mut self, other: Self) {
        self.connections.extend(other.connections);
        self.deleted.extend(other.deleted);
        self.conf_keys.extend(other.conf_keys);
        self.streams.extend(other.streams);
        self.tables.extend(other.tables);
        self.rules.extend(other.rules);
        self.settings.extend(other.settings);
        self.left.extend(other.left);
        self.remarks.extend(other.remarks);
        if !other.provision.is_empty() {
            self.provision = other.provision;
        }
    }

    fn leave(&mut self, section: Section, id: impl Into<String>, message: impl Into<String>) {
        self.left.push(Note {
            section,
            id: id.into(),
            place: None,
            message: message.into(),
        });
    }

    fn remark(&mut self, section: Section, id: impl Into<String>, message: impl Into<String>) {
        self.remarks.push(Note {
            section,
            id: id.into(),
            place: None,
            message: message.into(),
        });
    }
}

/// A mistake of a whole file or text.
fn mistake(name: &str, message: impl Into<String>) -> Vec<ManifestError> {
    vec![ManifestError::new(Place::whole(name.into()), "", message)]
}

/// What a JSON value is, for a sentence. Never the value.
fn what(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
