//! A loaded component: what it is, what it exports, and whether the host can give it what it needs.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre, Linker};

use super::cache::Compiled;
use super::error::{LoadError, innermost};
use super::state::State;
use crate::connections::Interface;
use crate::interfaces::bindings::exports::windlass::connector::{meta, sink, source};
use crate::names::nearest;

/// The package and version that the host speaks.
const PACKAGE: &str = "windlass:connector/";
const VERSION: &str = "0.1.0";
/// Interfaces of the package that a component may import.
const IMPORTS: [&str; 5] = ["types", "messaging", "http", "sql", "log"];
const MOST_SLOTS: usize = 64;

/// A component that can be used.
#[derive(Clone)]
pub struct Connector {
    /// Its name in the tenant, which need not be the one in the descriptor.
    pub name: Arc<str>,
    /// BLAKE3 of the component, in hex.
    pub digest: String,
    /// What it says of itself.
    pub descriptor: Descriptor,
    /// It exports `source`.
    pub has_source: bool,
    /// It exports `sink`.
    pub has_sink: bool,
    /// Bytes of the component.
    pub wasm_size: u64,
    /// Bytes of its compiled code.
    pub compiled_size: u64,
    /// Bytes of linear memory right after its start.
    pub initial_memory: u64,
    /// Interfaces that it imports, with their versions.
    pub imports: Vec<String>,
    pub(super) linked: Arc<Linked>,
}

impl Connector {
    /// The package and version of the contract that this host speaks.
    pub const CONTRACT: &str = "windlass:connector@0.1.0";

    /// The schema of one role, `source` or `sink`: a connector with two keeps them under `$defs`.
    #[must_use]
    pub fn config_schema(&self, role: &str) -> &Value {
        let whole = &self.descriptor.config_schema;
        whole.pointer(&format!("/$defs/{role}")).unwrap_or(whole)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// What a connector says of itself, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Descriptor {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub description: String,
    /// JSON Schema of its configuration: an object, or `true`.
    pub config_schema: Value,
    /// Connections that it needs.
    pub slots: Vec<Slot>,
}

impl Descriptor {
    /// Of a component that has not been asked yet.
    pub(super) fn unknown() -> Self {
        Self {
            name: String::new(),
            version: String::new(),
            description: String::new(),
            config_schema: Value::Bool(true),
            slots: Vec::new(),
        }
    }
}

/// A connection that a connector needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The name that a rule binds.
    pub name: String,
    /// The interface that the connection must offer.
    pub interface: Interface,
    /// It can work without.
    pub optional: bool,
    /// What it is for.
    pub description: String,
}

/// A component with its imports resolved.
pub(super) struct Linked {
    pub(super) pre: InstancePre<State>,
    pub(super) meta: meta::GuestIndices,
    pub(super) source: Option<source::GuestIndices>,
    pub(super) sink: Option<sink::GuestIndices>,
}

/// What is wrong with bytes that should be a component, before anything is compiled.
pub(super) fn check_header(name: &str, wasm: &[u8]) -> Result<(), LoadError> {
    let reason = match wasm.get(..8) {
        Some([0, b'a', b's', b'm', 0x0d, 0, 1, 0]) => return Ok(()),
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => {
            "is a core WebAssembly module, not a component: build it for `wasm32-wasip2`, or wrap it with `jco new`"
        }
        Some([0, b'a', b's', b'm', ..]) => {
            "is WebAssembly of a version that this host does not know"
        }
        Some([0x7f, b'E', b'L', b'F', ..]) => {
            "is native or precompiled code; give the component itself"
        }
        Some(_) | None if wasm.starts_with(b"(component") => "is WebAssembly text; give the binary",
        Some(_) | None => "is not WebAssembly",
    };
    Err(LoadError::NotAComponent {
        name: name.to_owned(),
        reason: reason.to_owned(),
    })
}

impl Linked {
    /// Resolves imports and exports, or says which of them is the trouble.
    pub(super) fn new(
        engine: &Engine,
        linker: &Linker<State>,
        name: &str,
        compiled: &Compiled,
    ) -> Result<Self, LoadError> {
        let component = &compiled.component;
        let imports = names(
            component
                .component_type()
                .imports(engine)
                .map(|(name, _)| name),
        );
        if let Some(reason) = imports.iter().find_map(|import| unknown_import(import)) {
            return Err(LoadError::Import {
                name: name.to_owned(),
                reason,
            });
        }
        let pre = linker
            .instantiate_pre(component)
            .map_err(|error| LoadError::Import {
                name: name.to_owned(),
                reason: format!("an import has another shape than the host's: {error:#}"),
            })?;
        let exports = names(
            component
                .component_type()
                .exports(engine)
                .map(|(name, _)| name),
        );
        let export = |reason| LoadError::Export {
            name: name.to_owned(),
            reason,
        };
        let wrong = |which: &str, error: &wasmtime::Error| {
            export(format!(
                "its export `{which}` has another shape than in {PACKAGE}{which}@{VERSION}: {}",
                innermost(error)
            ))
        };
        let has = |which: &str| {
            exports
                .iter()
                .any(|export| *export == format!("{PACKAGE}{which}@{VERSION}"))
        };
        if !has("meta") {
            return Err(export(missing_export("meta", &exports)));
        }
        if !has("source") && !has("sink") {
            return Err(export(missing_export("source` or `sink", &exports)));
        }
        let meta = meta::GuestIndices::new(&pre).map_err(|error| wrong("meta", &error))?;
        let source = has("source")
            .then(|| source::GuestIndices::new(&pre))
            .transpose()
            .map_err(|e| wrong("source", &e))?;
        let sink = has("sink")
            .then(|| sink::GuestIndices::new(&pre))
            .transpose()
            .map_err(|e| wrong("sink", &e))?;
        Ok(Self {
            pre,
            meta,
            source,
            sink,
        })
    }
}

pub(super) fn imports(engine: &Engine, component: &Component) -> Vec<String> {
    names(
        component
            .component_type()
            .imports(engine)
            .map(|(name, _)| name),
    )
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.map(str::to_owned).collect()
}

fn missing_export(which: &str, exports: &[String]) -> String {
    let other = exports.iter().find(|export| export.starts_with(PACKAGE));
    let has = match other {
        Some(other) if !other.ends_with(&format!("@{VERSION}")) => {
            format!("; it exports `{other}`, and this host speaks version {VERSION}")
        }
        _ if exports.is_empty() => "; it exports nothing".to_owned(),
        _ => format!("; it exports {}", list(exports)),
    };
    format!(
        "does not export `{which}` of {PACKAGE}*@{VERSION}{has}. Build it for the world `connector`, `source-connector` or `sink-connector`"
    )
}

fn list(names: &[String]) -> String {
    let shown: Vec<_> = names
        .iter()
        .take(8)
        .map(|name| format!("`{name}`"))
        .collect();
    shown.join(", ")
}

/// Why an import cannot be given, or none when it can.
fn unknown_import(import: &str) -> Option<String> {
    let (path, version) = import.split_once('@').unwrap_or((import, ""));
    if let Some(interface) = path.strip_prefix(PACKAGE) {
        if !IMPORTS.contains(&interface) {
            let hint = match nearest(interface, IMPORTS) {
                Some(nearest) => format!("the nearest is `{nearest}`"),
                None => format!("there are {}", list(&IMPORTS.map(str::to_owned))),
            };
            return Some(format!(
                "imports `{import}`, an interface that this host does not have; {hint}"
            ));
        }
        return (version != VERSION)
            .then(|| format!("imports `{import}`, and this host speaks version {VERSION}: build it against that version's wit"));
    }
    if let Some(wasi) = path.strip_prefix("wasi:") {
        let package = wasi.split('/').next().unwrap_or_default();
        if package == "http" {
            return Some(format!(
                "imports `{import}`: requests go through `{PACKAGE}http` and a connection that was granted. \
                 Built with `jco componentize`? Add `--disable http --disable fetch-event`, or use `--backend quickjs`"
            ));
        }
        if !["io", "cli", "clocks", "filesystem", "sockets", "random"].contains(&package) {
            return Some(format!(
                "imports `{import}`, a part of WASI that this host does not have: it has WASI 0.2 without `wasi:http`"
            ));
        }
        return (!version.starts_with("0.2.")).then(|| {
            format!("imports `{import}`, and this host has WASI 0.2: build it for `wasm32-wasip2`")
        });
    }
    Some(format!(
        "imports `{import}`, which this host does not have. A connector may import {PACKAGE}{{{}}}@{VERSION} and WASI 0.2",
        IMPORTS.join(", ")
    ))
}

/// Checks what the guest said of itself.
pub(super) fn descriptor(name: &str, said: meta::Descriptor) -> Result<Descriptor, LoadError> {
    let wrong = |reason: String| LoadError::Descriptor {
        name: name.to_owned(),
        reason,
    };
    let config_schema: Value = match said.config_schema.trim() {
        "" => Value::Bool(true),
        text => serde_json::from_str(text)
            .map_err(|error| wrong(format!("its config-schema is not JSON: {error}")))?,
    };
    if !matches!(config_schema, Value::Object(_) | Value::Bool(true)) {
        return Err(wrong(
            "its config-schema is no JSON Schema: an object is needed".to_owned(),
        ));
    }
    if said.slots.len() > MOST_SLOTS {
        return Err(wrong(format!(
            "it has {} slots; {MOST_SLOTS} are allowed",
            said.slots.len()
        )));
    }
    let mut slots: Vec<Slot> = Vec::with_capacity(said.slots.len());
    for slot in said.slots {
        if slot.name.is_empty() {
            return Err(wrong("it has a slot without a name".to_owned()));
        }
        if slots.iter().any(|known| known.name == slot.name) {
            return Err(wrong(format!("it has two slots named `{}`", slot.name)));
        }
        let interface = Interface::ALL
            .into_iter()
            .find(|interface| interface.as_str() == slot.interface);
        let interface = interface.ok_or_else(|| {
            let (slot, found) = (&slot.name, &slot.interface);
            wrong(format!("its slot `{slot}` wants the interface `{found}`; there are `messaging`, `http` and `sql`"))
        })?;
        slots.push(Slot {
            name: slot.name,
            interface,
            optional: slot.optional,
            description: slot.description,
        });
    }
    Ok(Descriptor {
        name: said.name,
        version: said.version,
        description: said.description,
        config_schema,
        slots,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_that_the_host_lacks_is_named_with_what_to_do() {
        for (import, words) in [
            ("wasi:http/types@0.2.10", "--disable http"),
            ("wasi:cli/stdout@0.3.0", "wasm32-wasip2"),
            ("wasi:keyvalue/store@0.2.0", "without `wasi:http`"),
            ("windlass:connector/mesaging@0.1.0", "`messaging`"),
            ("windlass:connector/http@0.2.0", "version 0.1.0"),
            ("acme:db/client", "acme:db/client"),
        ] {
            let reason = unknown_import(import).unwrap();
            assert!(
                reason.contains(words) && reason.contains(import),
                "{reason}"
            );
        }
        for import in [
            "wasi:io/streams@0.2.12",
            "wasi:sockets/tcp@0.2.9",
            "windlass:connector/sql@0.1.0",
        ] {
            assert_eq!(unknown_import(import), None);
        }
    }

    #[test]
    fn what_is_no_component_is_refused_before_it_is_compiled() {
        for (bytes, words) in [
            (b"\0asm\x01\0\0\0".as_ref(), "jco new"),
            (b"PK\x03\x04\0\0\0\0\0", "not WebAssembly"),
            (b"", "not WebAssembly"),
            (b"\x7fELF\0\0\0\0", "precompiled"),
            (b"(component)", "text"),
        ] {
            let error = check_header("x", bytes).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("`x`"), "{error}");
        }
    }

    #[test]
    fn a_descriptor_that_cannot_be_is_refused_with_the_place() {
        let slot = |name: &str, interface: &str| meta::Slot {
            name: name.into(),
            interface: interface.into(),
            optional: false,
            description: String::new(),
        };
        let said = |schema: &str, slots| meta::Descriptor {
            name: "n".into(),
            version: "1".into(),
            description: String::new(),
            config_schema: schema.into(),
            slots,
        };
        for (bad, words) in [
            (said("{", vec![]), "not JSON"),
            (said("[]", vec![]), "an object is needed"),
            (
                said("{}", vec![slot("a", "mqtt")]),
                "`mqtt`; there are `messaging`",
            ),
            (
                said("{}", vec![slot("a", "sql"), slot("a", "sql")]),
                "two slots named `a`",
            ),
            (said("{}", vec![slot("", "sql")]), "without a name"),
        ] {
            let error = descriptor("x", bad).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(
            descriptor("x", said("", vec![slot("a", "sql")]))
                .unwrap()
                .slots[0]
                .interface,
            Interface::Sql
        );
    }
}
