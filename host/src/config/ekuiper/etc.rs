//! eKuiper's `etc` folder: `mqtt_source.yaml`, `sources/*.yaml`, `connections/connection.yaml`,
//! `kuiper.yaml`, and the variables of the environment that go over each of them.
//!
//! Unlike eKuiper, conf keys and ids of connections keep their case, a broken entry leaves the others
//! alone, and all connection types are read alike.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::{Map, Value};

use super::super::document::Document;
use super::super::place::{ManifestError, Place, pointer_to};
use super::super::read_file;
use super::environment::{overlay, section_of};
use super::spelling::UNREAD;
use super::{Bundle, ConfItem, ConfKind, ConnectionItem, Note, Section, what};
use crate::names::{nearest, validate_id};

/// What eKuiper is to do with an entry of `connection.yaml`.
const OPERATION: &str = "xOperation";
/// Files of one folder `sources`.
const MOST_FILES: usize = 1000;

/// One file of the folder.
#[derive(Clone, Debug)]
pub struct EtcFile {
    /// Its path below `etc`, with `/`: `sources/edgex.yaml`.
    pub path: String,
    /// What it is called in messages.
    pub name: String,
    /// The text.
    pub text: String,
}

/// Reads the files of this folder, with variables from `environment`.
///
/// # Errors
/// Files that cannot be read, or are no YAML, each with its place.
pub fn read_etc(
    folder: &Path,
    environment: &[(String, String)],
) -> Result<Bundle, Vec<ManifestError>> {
    let mut paths: Vec<String> = [
        "kuiper.yaml",
        "mqtt_source.yaml",
        "connections/connection.yaml",
    ]
    .into_iter()
    .filter(|path| folder.join(path).is_file())
    .map(str::to_owned)
    .collect();
    if let Ok(entries) = std::fs::read_dir(folder.join("sources")) {
        let mut sources: Vec<String> = entries
            .flatten()
            .filter(|entry| {
                let path = entry.path();
                path.is_file() && path.extension() == Some(OsStr::new("yaml"))
            })
            .filter_map(|entry| entry.file_name().into_string().ok())
            .take(MOST_FILES)
            .map(|name| format!("sources/{name}"))
            .collect();
        sources.sort();
        paths.append(&mut sources);
    }
    let (mut files, mut errors) = (Vec::new(), Vec::new());
    for path in paths {
        let full = folder.join(&path);
        let name = full.display().to_string();
        match read_file(&full) {
            Ok(text) => files.push(EtcFile { path, name, text }),
            Err((line, column, message)) => {
                let file = name.into();
                errors.push(ManifestError::new(
                    Place { file, line, column },
                    "",
                    message,
                ));
            }
        }
    }
    match etc(&files, environment) {
        Ok(bundle) if errors.is_empty() => Ok(bundle),
        Ok(_) => Err(errors),
        Err(more) => {
            errors.extend(more);
            ManifestError::arrange(&mut errors);
            Err(errors)
        }
    }
}

/// The definitions of these files, with variables from `environment`. Variables for `mqtt_source` and
/// `connection` count without the file too.
///
/// # Errors
/// What is no YAML, or no mapping of mappings, each with its place.
pub fn etc(
    files: &[EtcFile],
    environment: &[(String, String)],
) -> Result<Bundle, Vec<ManifestError>> {
    let mut reading = Reading {
        environment,
        bundle: Bundle::default(),
        errors: Vec::new(),
    };
    let present = |path: &str| files.iter().find(|file| file.path == path);
    reading.settings(present("kuiper.yaml"));
    reading.source("mqtt", "MQTT_SOURCE", present("mqtt_source.yaml"));
    for file in files {
        let stem = file.path.strip_prefix("sources/");
        if let Some(typ) = stem.and_then(|name| name.strip_suffix(".yaml")) {
            reading.source(typ, &typ.to_uppercase(), Some(file));
        }
    }
    reading.connections(present("connections/connection.yaml"));
    if reading.errors.is_empty() {
        Ok(reading.bundle)
    } else {
        ManifestError::arrange(&mut reading.errors);
        Err(reading.errors)
    }
}

struct Reading<'a> {
    environment: &'a [(String, String)],
    bundle: Bundle,
    errors: Vec<ManifestError>,
}

impl Reading<'_> {
    /// The mapping of a file, without variables; None after a mistake.
    fn mapping(
        &mut self,
        file: Option<&EtcFile>,
    ) -> Option<(Option<Document>, Map<String, Value>)> {
        let Some(file) = file else {
            return Some((None, Map::new()));
        };
        match Document::verbatim(&file.name, &file.text) {
            Ok(document) => match document.value.clone() {
                Value::Object(map) => Some((Some(document), map)),
                Value::Null => Some((Some(document), Map::new())),
                other => {
                    let message = format!("this file must be a mapping, found {}", what(&other));
                    self.errors.push(document.error("", message));
                    None
                }
            },
            Err(errors) => {
                self.errors.extend(errors);
                None
            }
        }
    }

    fn overlay(&mut self, tree: &mut Map<String, Value>, prefix: &str, least: usize) {
        for one in overlay(tree, self.environment, prefix, least) {
            self.bundle.left.push(Note {
                section: section_of(prefix),
                id: one.variable,
                place: None,
                message: format!("the variable is not used: {}", one.why),
            });
        }
    }

    fn settings(&mut self, file: Option<&EtcFile>) {
        let Some((_, mut settings)) = self.mapping(file) else {
            return;
        };
        self.overlay(&mut settings, "KUIPER", 1);
        self.overlay(&mut settings, "WINDLASS", 1);
        self.bundle.settings = settings;
    }

    fn source(&mut self, typ: &str, prefix: &str, file: Option<&EtcFile>) {
        let Some((document, mut keys)) = self.mapping(file) else {
            return;
        };
        self.overlay(&mut keys, prefix, 2);
        for (key, value) in keys {
            let pointer = pointer_to("", &key);
            let at = Spot {
                section: Section::SourceConfig,
                id: format!("{typ}/{key}"),
                place: place_of(document.as_ref(), &pointer),
            };
            if let Err(why) = validate_id(&key) {
                self.leave(at, why.replacen("id", "conf key", 1));
                continue;
            }
            match value {
                Value::Object(mut props) => {
                    self.drop_unread(&at, &mut props);
                    self.bundle.conf_keys.push(ConfItem {
                        kind: ConfKind::Source,
                        typ: typ.to_owned(),
                        key,
                        props,
                    });
                }
                Value::Null => self.bundle.conf_keys.push(ConfItem {
                    kind: ConfKind::Source,
                    typ: typ.to_owned(),
                    key,
                    props: Map::new(),
                }),
                other => {
                    let message = format!("a conf key must be a mapping, found {}", what(&other));
                    self.leave(at, message);
                }
            }
        }
    }

    fn drop_unread(&mut self, at: &Spot, props: &mut Map<String, Value>) {
        for (name, why) in UNREAD {
            if props.shift_remove(*name).is_some() {
                self.bundle.remarks.push(Note {
                    section: at.section,
                    id: at.id.clone(),
                    place: at.place.clone(),
                    message: format!("\"{name}\" is left out: {why}"),
                });
            }
        }
    }

    fn connections(&mut self, file: Option<&EtcFile>) {
        let Some((document, mut types)) = self.mapping(file) else {
            return;
        };
        self.overlay(&mut types, "CONNECTION", 3);
        if file.is_some() || !types.is_empty() {
            self.bundle.provision = fingerprint(&Value::Object(types.clone()));
        }
        for (typ, entries) in types {
            let pointer = pointer_to("", &typ);
            let at = Spot {
                section: Section::ConnectionConfig,
                id: typ.clone(),
                place: place_of(document.as_ref(), &pointer),
            };
            match entries {
                Value::Object(entries) => {
                    for (id, entry) in entries {
                        let at = Spot {
                            section: Section::ConnectionConfig,
                            id: format!("{typ}/{id}"),
                            place: place_of(document.as_ref(), &pointer_to(&pointer, &id)),
                        };
                        self.connection(&typ, id, entry, at);
                    }
                }
                Value::Null => {}
                other => {
                    let message = format!(
                        "below a connection type stands a mapping from id to properties, found {}",
                        what(&other)
                    );
                    self.leave(at, message);
                }
            }
        }
    }

    fn connection(&mut self, typ: &str, id: String, entry: Value, at: Spot) {
        if let Err(why) = validate_id(&id) {
            self.leave(at, why);
            return;
        }
        let mut props = match entry {
            Value::Object(props) => props,
            other => {
                let message = format!(
                    "the properties of a connection must be a mapping, found {}",
                    what(&other)
                );
                self.leave(at, message);
                return;
            }
        };
        let operation = props
            .keys()
            .find(|name| name.eq_ignore_ascii_case(OPERATION))
            .cloned();
        let operation = operation.and_then(|name| props.shift_remove(&name));
        match operation.as_ref().map(|operation| operation.as_str()) {
            None | Some(Some("create")) => {
                if id.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    self.bundle.remarks.push(Note {
                        section: at.section,
                        id: at.id.clone(),
                        place: at.place.clone(),
                        message: format!(
                            "the id keeps its case here; eKuiper made it \"{}\": a connectionSelector must say \"{id}\"",
                            id.to_lowercase()
                        ),
                    });
                }
                self.drop_unread(&at, &mut props);
                let typ = typ.to_owned();
                self.bundle
                    .connections
                    .push(ConnectionItem { typ, id, props });
            }
            Some(Some("delete")) => self.bundle.deleted.push((typ.to_owned(), id)),
            Some(Some(other)) => {
                let hint = nearest(other, ["create", "delete"])
                    .map(|meant| format!("did you mean \"{meant}\"? "))
                    .unwrap_or_default();
                let message =
                    format!("unknown {OPERATION} \"{other}\"; {hint}Allowed: create, delete");
                self.leave(at, message);
            }
            Some(None) => {
                let found = operation.as_ref().map_or("nothing", what);
                let message = format!("{OPERATION} must be create or delete, found {found}");
                self.leave(at, message);
            }
        }
    }

    fn leave(&mut self, at: Spot, message: impl Into<String>) {
        self.bundle.left.push(Note {
            section: at.section,
            id: at.id,
            place: at.place,
            message: message.into(),
        });
    }
}

/// An item and where it stands.
struct Spot {
    section: Section,
    id: String,
    place: Option<Place>,
}

/// None where a variable made it.
fn place_of(document: Option<&Document>, pointer: &str) -> Option<Place> {
    let document = document?;
    document.value.pointer(pointer)?;
    Some(document.error_at_key(pointer, "").place())
}

/// Says the same for equal values, whatever the order of their keys.
fn fingerprint(value: &Value) -> String {
    fn add(hasher: &mut blake3::Hasher, value: &Value) {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(key, _)| *key);
                hasher.update(format!("{{{}:", entries.len()).as_bytes());
                for (key, value) in entries {
                    hasher.update(format!("{}:{key}", key.len()).as_bytes());
                    add(hasher, value);
                }
            }
            Value::Array(items) => {
                hasher.update(format!("[{}:", items.len()).as_bytes());
                items.iter().for_each(|item| add(hasher, item));
            }
            other => {
                let text = other.to_string();
                hasher.update(format!("{}:{text}", text.len()).as_bytes());
            }
        }
    }
    let mut hasher = blake3::Hasher::new();
    add(&mut hasher, value);
    hasher.finalize().to_hex().to_string()
}
