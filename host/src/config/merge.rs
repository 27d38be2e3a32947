//! The sections of a manifest, from one or more files, into one [`Manifest`]. Lists go on where the
//! file before ended; equal ids are mistakes that name both places.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::node::{Entry, Kind, Node, to_object};
use super::place::{ManifestError, Place, Pos, Text, pointer_to};
use super::reader::{At, Reader};
use super::variables::Lookup;
use super::yaml;
use super::{ConfKeyDef, ConnectionDef, ConnectorDef, Manifest, Source, StreamDef, rule};
use crate::names::{unknown, validate_id};

pub(super) const SECTIONS: &[&str] = &[
    "connections",
    "confKeys",
    "connectors",
    "streams",
    "rules",
    "files",
    "push",
    "rest",
    "limits",
];
pub(super) const CONNECTION: &[&str] = &["id", "typ", "props"];
pub(super) const PUSH: &[&str] = &["address", "tls", "maxConnections", "maxRequests"];
pub(super) const REST: &[&str] = &[
    "address",
    "tls",
    "keys",
    "names",
    "origins",
    "maxConnections",
    "maxBodyBytes",
];
pub(super) const LIMITS: &[&str] = &[
    "diskQueueBytes",
    "diskBytes",
    "diskReserveBytes",
    "deadLetterBytes",
    "deadLetterAge",
    "unsettledMessages",
    "unsettledBytes",
    "maxMessageBytes",
    "guestMemoryBytes",
    "guestCpu",
    "callDeadline",
];

/// A manifest being put together.
#[derive(Debug)]
pub(super) struct Merge {
    manifest: Manifest,
    errors: Vec<ManifestError>,
    /// Where each id was first given, by kind and id.
    ids: HashMap<(&'static str, String), Place>,
    /// Items seen in each list, kept or not: the next one's index.
    counts: HashMap<&'static str, usize>,
}

impl Merge {
    pub(super) fn new() -> Self {
        let manifest = Manifest {
            whole: true,
            ..Manifest::default()
        };
        Self {
            manifest,
            errors: Vec::new(),
            ids: HashMap::new(),
            counts: HashMap::new(),
        }
    }

    pub(super) fn finish(self) -> (Manifest, Vec<ManifestError>) {
        let Self {
            mut manifest,
            mut errors,
            ..
        } = self;
        ManifestError::arrange(&mut errors);
        ManifestError::arrange(&mut manifest.warnings);
        (manifest, errors)
    }

    pub(super) fn add(&mut self, source: &Source, lookup: &Lookup<'_>) {
        let file: Arc<str> = source.name.as_str().into();
        let places = &mut self.manifest.places;
        places.add_file(&file, &source.text);
        if places.locate("").is_none() {
            places.add("", &file, None, Pos { line: 1, column: 1 }, Text::Opaque);
            self.manifest.base.clone_from(&source.base);
        }
        let (documents, complete) =
            yaml::parse(&source.text, &file, Some(lookup), &mut self.errors);
        self.manifest.whole &= complete;
        if complete && documents.iter().all(|node| matches!(node.kind, Kind::Null)) {
            let message = format!("this file is empty; a manifest has {}", SECTIONS.join(", "));
            self.errors
                .push(ManifestError::new(Place::whole(file), "", message));
            return;
        }
        for document in &documents {
            if !matches!(document.kind, Kind::Null) {
                self.document(document, &file, &source.base);
            }
        }
    }

    fn document(&mut self, node: &Node, file: &Arc<str>, base: &Path) {
        let root = At {
            node,
            key: None,
            pointer: String::new(),
        };
        let Some(entries) = self.reader(file).mapping(&root, "a manifest") else {
            self.manifest.whole = false;
            return;
        };
        for entry in entries {
            let at = root.below(entry);
            if !SECTIONS.contains(&entry.key.as_str()) {
                let message = unknown("section", &entry.key, SECTIONS);
                self.reader(file).wrong_key(&at, message);
                self.manifest.whole = false;
                continue;
            }
            if at.is_null() {
                continue;
            }
            match entry.key.as_str() {
                "connections" => {
                    self.items(&at, "connections", file, Self::connection);
                }
                "streams" => self.items(&at, "streams", file, Self::stream),
                "rules" => self.items(&at, "rules", file, Self::rule),
                "confKeys" => self.conf_keys(&at, file),
                "connectors" => self.connectors(&at, file, base),
                "files" => self.files(&at, file, base),
                "push" => self.push(&at, file, base),
                "rest" => self.rest(&at, file, base),
                _ => self.limits(&at, file),
            }
        }
    }

    fn reader<'m>(&'m mut self, file: &'m Arc<str>) -> Reader<'m> {
        Reader {
            file,
            errors: &mut self.errors,
            warnings: &mut self.manifest.warnings,
        }
    }

    /// A list of items, or a mapping from id to item. `take` says whether it kept the item.
    fn items(
        &mut self,
        section: &At<'_>,
        name: &'static str,
        file: &Arc<str>,
        take: fn(&mut Self, &At<'_>, Option<&Entry>, &Arc<str>) -> bool,
    ) {
        let items: Vec<(&Node, Option<&Entry>)> = match &section.node.kind {
            Kind::List(nodes) => nodes.iter().map(|node| (node, None)).collect(),
            Kind::Map(entries) => entries
                .iter()
                .map(|entry| (&entry.node, Some(entry)))
                .collect(),
            _ => {
                let found = section.node.what();
                let message =
                    format!("\"{name}\" must be a list, or a mapping by id, found {found}");
                self.reader(file).wrong(section, message);
                self.manifest.whole = false;
                return;
            }
        };
        for (node, entry) in items {
            let count = self.counts.entry(name).or_default();
            let pointer = format!("/{name}/{count}");
            *count += 1;
            let at = At {
                node,
                key: entry.map(|entry| entry.at),
                pointer,
            };
            node.place_in(&mut self.manifest.places, file, at.key, &at.pointer);
            if !take(self, &at, entry, file) {
                self.manifest.whole = false;
            }
        }
    }

    /// Whether the id is new; else the mistake is noted. `at` is where it stands.
    fn is_new(
        &mut self,
        what: &'static str,
        id: &str,
        at: Pos,
        pointer: &str,
        file: &Arc<str>,
    ) -> bool {
        let place = at.in_file(file);
        match self.ids.get(&(what, id.to_owned())) {
            Some(first) => {
                let message = format!("the {what} '{id}' is defined twice; first at {first}");
                self.errors
                    .push(ManifestError::new(place, pointer, message));
                false
            }
            None => {
                self.ids.insert((what, id.to_owned()), place);
                true
            }
        }
    }

    /// The name of a setting that is one of `names` and stands for the first time; its place is kept.
    /// None: an error was said, with `words` for a key that is unknown and for one that stands twice.
    fn setting(
        &mut self,
        (key, what): (&str, &'static str),
        names: &'static [&'static str],
        entry: &Entry,
        at: &At<'_>,
        file: &Arc<str>,
    ) -> Option<&'static str> {
        let Some(name) = names.iter().copied().find(|name| *name == entry.key) else {
            let message = unknown(key, &entry.key, names);
            self.reader(file).wrong_key(at, message);
            return None;
        };
        if !self.is_new(what, name, entry.at, &at.pointer, file) {
            return None;
        }
        entry
            .node
            .place_in(&mut self.manifest.places, file, Some(entry.at), &at.pointer);
        Some(name)
    }

    fn connection(&mut self, at: &At<'_>, key: Option<&Entry>, file: &Arc<str>) -> bool {
        let mut reader = self.reader(file);
        let Some(entries) = reader.mapping(at, "a connection") else {
            return false;
        };
        for entry in entries
            .iter()
            .filter(|entry| !CONNECTION.contains(&entry.key.as_str()))
        {
            let mut message = unknown("key of a connection", &entry.key, CONNECTION);
            message.push_str("; properties stand below \"props\"");
            reader.wrong_key(&at.below(entry), message);
        }
        let id = reader.id(at, "a connection", key.map(|entry| entry.key.as_str()));
        let typ = reader.required_text(at, "typ", "the connection type, \"mqtt\" for one");
        let props = match at.get("props") {
            None => Some(serde_json::Map::new()),
            Some(props) if props.is_null() => Some(serde_json::Map::new()),
            Some(props) => reader.mapping(&props, "\"props\"").map(to_object),
        };
        let (Some(id), Some(typ), Some(props)) = (id, typ, props) else {
            return false;
        };
        if self.is_new("connection", &id, id_at(at), &at.pointer, file) {
            let pointer = at.pointer.clone();
            self.manifest.connections.push(ConnectionDef {
                id,
                typ,
                props,
                pointer,
            });
        }
        true
    }

    fn stream(&mut self, at: &At<'_>, key: Option<&Entry>, file: &Arc<str>) -> bool {
        let (sql, pointer, sql_at) = match &at.node.kind {
            Kind::Text(sql) => (sql.clone(), at.pointer.clone(), at.node.at),
            Kind::Map(entries) => {
                let mut reader = self.reader(file);
                for entry in entries.iter().filter(|entry| entry.key != "sql") {
                    reader.wrong_key(
                        &at.below(entry),
                        unknown("key of a stream", &entry.key, &["sql"]),
                    );
                }
                let Some(sql) = reader.required_text(at, "sql", "CREATE STREAM …") else {
                    return false;
                };
                let place = at.child("sql");
                (sql, place.pointer, place.node.at)
            }
            _ => {
                let found = at.node.what();
                let message = format!(
                    "a stream must be text (CREATE STREAM …) or {{\"sql\": …}}, found {found}"
                );
                self.reader(file).wrong(at, message);
                return false;
            }
        };
        if let Some(name) = stream_name(&sql) {
            if let Some(entry) = key.filter(|entry| entry.key != name) {
                let message = format!(
                    "the stream '{name}' is not the key '{}' it stands under",
                    entry.key
                );
                self.errors
                    .push(ManifestError::new(sql_at.in_file(file), pointer, message));
                return false;
            }
            if !self.is_new("stream", name, sql_at, &pointer, file) {
                return true;
            }
        }
        self.manifest.streams.push(StreamDef { sql, pointer });
        true
    }

    fn rule(&mut self, at: &At<'_>, key: Option<&Entry>, file: &Arc<str>) -> bool {
        let key = key.map(|entry| entry.key.as_str());
        let Some(rule) = rule::rule(&mut self.reader(file), at, key) else {
            return false;
        };
        if self.is_new("rule", &rule.id, id_at(at), &at.pointer, file) {
            self.manifest.rules.push(rule);
        }
        true
    }

    fn conf_keys(&mut self, section: &At<'_>, file: &Arc<str>) {
        let Some(types) = self.reader(file).mapping(section, "\"confKeys\"") else {
            self.manifest.whole = false;
            return;
        };
        for typ in types {
            let at = section.below(typ);
            let Some(keys) = self.reader(file).mapping(&at, "the conf keys of a type") else {
                self.manifest.whole = false;
                continue;
            };
            for key in keys {
                let at = at.below(key);
                let mut reader = self.reader(file);
                if let Err(message) = validate_id(&key.key) {
                    reader.wrong_key(&at, message.replacen("id", "conf key", 1));
                    self.manifest.whole = false;
                    continue;
                }
                let Some(props) = reader.mapping(&at, "a conf key") else {
                    self.manifest.whole = false;
                    continue;
                };
                let name = format!("{}/{}", typ.key.to_lowercase(), key.key);
                if self.is_new("conf key", &name, key.at, &at.pointer, file) {
                    key.node
                        .place_in(&mut self.manifest.places, file, Some(key.at), &at.pointer);
                    self.manifest.conf_keys.0.push(ConfKeyDef {
                        typ: typ.key.clone(),
                        key: key.key.clone(),
                        props: to_object(props),
                        pointer: at.pointer,
                    });
                }
            }
        }
    }

    fn connectors(&mut self, section: &At<'_>, file: &Arc<str>, base: &Path) {
        let Some(entries) = self.reader(file).mapping(section, "\"connectors\"") else {
            self.manifest.whole = false;
            return;
        };
        for entry in entries {
            let at = section.below(entry);
            let mut reader = self.reader(file);
            let named = validate_id(&entry.key);
            if let Err(message) = &named {
                reader.wrong_key(&at, message.replacen("id", "connector name", 1));
            }
            let Some(path) = path(&mut reader, &at, "the connector's .wasm file", base) else {
                self.manifest.whole = false;
                continue;
            };
            if named.is_err() {
                self.manifest.whole = false;
            } else if self.is_new("connector", &entry.key, entry.at, &at.pointer, file) {
                entry
                    .node
                    .place_in(&mut self.manifest.places, file, Some(entry.at), &at.pointer);
                let pointer = pointer_to("/connectors", &entry.key);
                self.manifest.connectors.push(ConnectorDef {
                    name: entry.key.clone(),
                    path,
                    pointer,
                });
            }
        }
    }

    fn files(&mut self, section: &At<'_>, file: &Arc<str>, base: &Path) {
        let Some(entries) = self.reader(file).mapping(section, "\"files\"") else {
            return;
        };
        for entry in entries {
            let at = section.below(entry);
            if entry.key != "root" {
                let message = unknown("key of \"files\"", &entry.key, &["root"]);
                self.reader(file).wrong_key(&at, message);
            } else if self.is_new("setting", "files.root", entry.at, &at.pointer, file) {
                let what = "the folder that the connector \"file\" may use";
                self.manifest.files.root = path(&mut self.reader(file), &at, what, base);
                entry
                    .node
                    .place_in(&mut self.manifest.places, file, Some(entry.at), &at.pointer);
            }
        }
    }

    fn push(&mut self, section: &At<'_>, file: &Arc<str>, base: &Path) {
        const MOST: u64 = 1_000_000;
        let Some(entries) = self.reader(file).mapping(section, "\"push\"") else {
            return;
        };
        let mut push = self.manifest.push.clone();
        for entry in entries {
            let at = section.below(entry);
            let words = ("key of \"push\"", "setting of push");
            let Some(name) = self.setting(words, PUSH, entry, &at, file) else {
                continue;
            };
            let mut reader = self.reader(file);
            match name {
                "address" => push.address = address(&mut reader, &at),
                "tls" => push.tls = key_pair(&mut reader, &at, base),
                "maxConnections" => push.max_connections = reader.number(&at, 1, MOST),
                _ => push.max_requests = reader.number(&at, 1, MOST),
            }
        }
        self.manifest.push = push;
    }

    fn rest(&mut self, section: &At<'_>, file: &Arc<str>, base: &Path) {
        let Some(entries) = self.reader(file).mapping(section, "\"rest\"") else {
            return;
        };
        let mut rest = self.manifest.rest.clone();
        for entry in entries {
            let at = section.below(entry);
            let words = ("key of \"rest\"", "setting of rest");
            let Some(name) = self.setting(words, REST, entry, &at, file) else {
                continue;
            };
            let mut reader = self.reader(file);
            match name {
                "address" => rest.address = address(&mut reader, &at),
                "tls" => rest.tls = key_pair(&mut reader, &at, base),
                "keys" => {
                    let what = "the folder with the public keys of those who issue tokens";
                    rest.keys = path(&mut reader, &at, what, base);
                }
                "names" => rest.names = reader.texts(&at),
                "origins" => rest.origins = reader.texts(&at),
                "maxConnections" => rest.max_connections = reader.number(&at, 1, 1_000_000),
                _ => rest.max_body_bytes = reader.bytes(&at, 1024),
            }
        }
        self.manifest.rest = rest;
    }

    fn limits(&mut self, section: &At<'_>, file: &Arc<str>) {
        const SMALLEST: u64 = 64 * 1024;
        let Some(entries) = self.reader(file).mapping(section, "\"limits\"") else {
            return;
        };
        let mut limits = self.manifest.limits;
        for entry in entries {
            let at = section.below(entry);
            let words = ("limit", "limit");
            let Some(name) = self.setting(words, LIMITS, entry, &at, file) else {
                continue;
            };
            let mut reader = self.reader(file);
            match name {
                "diskQueueBytes" => limits.disk_queue_bytes = reader.bytes(&at, 1 << 20),
                "diskBytes" => limits.disk_bytes = reader.bytes(&at, 1 << 20),
                "diskReserveBytes" => limits.disk_reserve_bytes = reader.bytes(&at, 0),
                "deadLetterAge" => limits.dead_letter_age = reader.positive_duration(&at),
                "deadLetterBytes" => limits.dead_letter_bytes = reader.bytes(&at, 1 << 20),
                "unsettledMessages" => limits.unsettled_messages = reader.number(&at, 1, 65_535),
                "unsettledBytes" => limits.unsettled_bytes = reader.bytes(&at, SMALLEST),
                "maxMessageBytes" => limits.max_message_bytes = reader.bytes(&at, 1),
                "guestMemoryBytes" => limits.guest_memory_bytes = reader.bytes(&at, 1 << 20),
                "guestCpu" => limits.guest_cpu = reader.positive_duration(&at),
                _ => limits.call_deadline = reader.positive_duration(&at),
            }
        }
        self.manifest.limits = limits;
    }
}

/// Where an item's id stands.
fn id_at(item: &At<'_>) -> Pos {
    match (item.get("id"), item.key) {
        (Some(id), _) => id.node.at,
        (None, Some(key)) => key,
        (None, None) => item.node.at,
    }
}

fn path(reader: &mut Reader<'_>, at: &At<'_>, what: &str, base: &Path) -> Option<PathBuf> {
    match at.node.text() {
        Some(text) if !text.is_empty() => Some(base.join(text)),
        _ => {
            reader.wrong(
                at,
                format!("this must be a path: {what}; found {}", at.node.what()),
            );
            None
        }
    }
}

fn address(reader: &mut Reader<'_>, at: &At<'_>) -> Option<SocketAddr> {
    let parsed = at.node.text().and_then(|text| text.parse().ok());
    if parsed.is_none() {
        let found = match at.node.text() {
            Some(text) => format!("\"{text}\""),
            None => at.node.what().to_owned(),
        };
        let message = format!(
            "\"address\" must be an IP address and a port like \"127.0.0.1:10081\" or \"[::]:10081\"; port 0 is any free one; found {found}"
        );
        reader.wrong(at, message);
    }
    parsed
}

/// A certificate and its key, named as in eKuiper.
fn key_pair(reader: &mut Reader<'_>, at: &At<'_>, base: &Path) -> Option<(PathBuf, PathBuf)> {
    const NAMES: [&str; 2] = ["certfile", "keyfile"];
    for entry in reader.mapping(at, "\"tls\"")? {
        if !NAMES.contains(&entry.key.as_str()) {
            let message = unknown("key of \"tls\"", &entry.key, &NAMES);
            reader.wrong_key(&at.below(entry), message);
        }
    }
    let mut file = |name: &str, what: &str| {
        let Some(value) = at.get(name) else {
            reader.wrong(at, format!("\"{name}\" is missing: {what}"));
            return None;
        };
        path(reader, &value, what, base)
    };
    let certificate = file("certfile", "a PEM file with the certificate and its chain");
    let key = file("keyfile", "a PEM file with the certificate's private key");
    certificate.zip(key)
}

/// The name in `CREATE STREAM name (…) WITH (…)`; None where the statement is something else, which
/// whoever reads it in full will say.
pub(super) fn stream_name(sql: &str) -> Option<&str> {
    let rest = word(sql, "create")?;
    let rest = word(rest, "stream").or_else(|| word(rest, "table"))?;
    if let Some(quoted) = rest.strip_prefix('`') {
        return quoted.split_once('`').map(|(name, _)| name);
    }
    let end = rest
        .find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
        .unwrap_or(rest.len());
    rest.get(..end).filter(|name| !name.is_empty())
}

fn word<'t>(text: &'t str, expected: &str) -> Option<&'t str> {
    let text = text.trim_start();
    let found = text.get(..expected.len())?;
    let rest = text.get(expected.len()..)?;
    let ends = rest.starts_with(|c: char| c.is_whitespace() || c == '`');
    (ends && found.eq_ignore_ascii_case(expected)).then(|| rest.trim_start())
}
