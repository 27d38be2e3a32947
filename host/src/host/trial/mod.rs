//! One connector alone, on real connections: the same pool, runtime, checks and delivery as in a
//! rule, without a rule. A source's messages go to a printer and are settled when they are printed; a
//! sink writes lines. Keeps nothing on disk but compiled code.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::{pool_config, runtime};
use crate::config::{Manifest, ManifestError};
use crate::connections::pool::{ConnectionDef, Lease, Pool, Surroundings};
use crate::connections::urls::scalar;
use crate::connections::{Memory, Refused};
use crate::error::{ConnectionError, chain};
use crate::progress::Progress;
use crate::rules::engine::TENANT;
use crate::rules::output::Addressed;
use crate::rules::plan::{GuestPlan, Reach, alone, schema};
use crate::rules::sink::Slots;
use crate::runtime::{Connector, Grant, GuestConfig, GuestLimits, Runtime, RuntimeError};

mod lines;
mod read;
mod wiring;
mod write;

pub use self::lines::Line;
pub use self::read::{Printer, Reading};
pub use self::write::Input;
pub use crate::connectors::{bundled, names as bundled_names};
pub use crate::rules::plan::Role;

/// Who uses the connections, in their list and in the log.
const USER: &str = "trial";

/// What is to be tried, as it was asked for.
#[derive(Clone)]
pub struct TrialConfig {
    /// What the connector is called in sentences; as for a bundled one, the type of a connection
    /// that its own properties may make.
    pub name: String,
    /// The component.
    pub wasm: Bytes,
    /// None: the only one that it has.
    pub role: Option<Role>,
    /// Its configuration.
    pub config: Map<String, Value>,
    /// Single properties over it, `a.b` for one inside another, with their texts.
    pub set: Vec<(String, String)>,
    /// Connections: `slot=URL`, `URL`, `slot=FILE.yaml`, `slot={"typ": …, "props": …}`.
    pub connections: Vec<String>,
    /// Where compiled code is kept.
    pub data_dir: PathBuf,
}

/// Shows no value: configuration and connections may hold secrets.
impl std::fmt::Debug for TrialConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrialConfig")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Why nothing is started.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// What was asked for has these mistakes, a sentence each.
    #[error("{}", .0.join("; "))]
    Config(Vec<String>),
    /// The engine for connectors cannot be set up.
    #[error("connectors cannot be run")]
    Runtime(#[source] RuntimeError),
}

/// Who hears a sentence about what happens.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// How a trial ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Messages printed, or written.
    pub messages: u64,
    /// Lines that were rejected.
    pub rejected: u64,
    /// Lines taken in that were neither written nor rejected.
    pub unwritten: u64,
    /// Where a source may go on.
    pub checkpoint: Option<String>,
    /// Why it ended before its time.
    pub failure: Option<String>,
    /// The printer's own failure.
    pub printer: Option<std::io::Error>,
}

/// A connector that is ready to be tried. Its connections are being dialled.
#[derive(Debug)]
pub struct Trial {
    /// What it is used as.
    pub role: Role,
    /// What is accepted and should be looked at.
    pub warnings: Vec<String>,
    runtime: Runtime,
    pool: Pool,
    connector: Arc<Connector>,
    dynamic: Vec<Addressed>,
    guest: GuestConfig,
    slots: Slots,
}

impl Trial {
    /// Loads the connector, checks everything, and begins to dial. Compiles what is not cached yet.
    ///
    /// # Errors
    /// [`TrialError`]; nothing was started then.
    pub async fn start(config: TrialConfig, progress: &dyn Progress) -> Result<Self, TrialError> {
        let runtime = runtime(&config.data_dir).map_err(TrialError::Runtime)?;
        let started = Self::build(config, &runtime, progress).await;
        if started.is_err() {
            runtime.shutdown(Duration::from_secs(1)).await;
        }
        started.map_err(TrialError::Config)
    }

    async fn build(
        config: TrialConfig,
        runtime: &Runtime,
        progress: &dyn Progress,
    ) -> Result<Self, Vec<String>> {
        let name = config.name.as_str();
        let mut mistakes = Vec::new();
        let given = wiring::read(&config.connections, &mut mistakes);
        let connector = match runtime.load(name, config.wasm, progress).await {
            Ok(connector) => connector,
            Err(error) => {
                mistakes.push(chain(&error));
                return Err(mistakes);
            }
        };
        let role = match role(name, &connector, config.role) {
            Ok(role) => role,
            Err(sentence) => {
                mistakes.push(sentence);
                return Err(mistakes);
            }
        };
        let mut props = config.config;
        for (path, text) in &config.set {
            if let Err(sentence) = set(&mut props, &schema(&connector, role), path, text) {
                mistakes.push(sentence);
            }
        }
        let slots = &connector.descriptor.slots;
        let complete = mistakes.is_empty();
        let wired = wiring::assign(name, slots, given, &mut mistakes);
        let mut manifest = Manifest::default();
        manifest.base = std::env::current_dir().unwrap_or_default();
        manifest.files.root = wired.root.clone();
        let pool = Pool::new(pool_config(&manifest, Arc::new(Passing::default())));
        if complete {
            wiring::missing(name, slots, &wired, &props, &pool, &mut mistakes);
        }
        if !wired.by_slot.is_empty() {
            let by_slot: Map<String, Value> = wired
                .by_slot
                .iter()
                .map(|def| (def.id.clone(), Value::from(def.id.clone())))
                .collect();
            props.insert("connections".to_owned(), Value::Object(by_slot));
        }
        manifest.connections.extend(wired.by_slot.iter().cloned());
        let planned = alone(
            &manifest,
            runtime,
            &pool,
            Arc::clone(&connector),
            name,
            role,
            props,
        );
        let planned = match planned {
            Ok(planned) if mistakes.is_empty() => planned,
            Ok(_) => return Err(mistakes),
            // A slot that is empty was spoken of already, with an example.
            Err(errors) => {
                let spoken = !mistakes.is_empty();
                let follows = |error: &ManifestError| {
                    error.message.contains("needs a connection for its slot")
                        || error.message.contains("granted no folder")
                        || error.pointer == "/config/server"
                };
                let more = errors.iter().filter(|error| !(spoken && follows(error)));
                mistakes.extend(more.map(placed));
                return Err(mistakes);
            }
        };
        let leases = lease(&pool, &planned.guest, &wired.by_slot, role)?;
        let grants: Vec<Grant> = leases
            .iter()
            .map(|(slot, lease)| Grant {
                slot: slot.clone(),
                target: Arc::clone(lease) as _,
            })
            .collect();
        Ok(Self {
            role,
            warnings: planned.warnings.iter().map(placed).collect(),
            runtime: runtime.clone(),
            pool,
            connector,
            dynamic: planned.dynamic,
            guest: GuestConfig {
                tenant: TENANT.into(),
                rule: "".into(),
                label: role.word().into(),
                config: planned.guest.config,
                grants: grants.into(),
                limits: GuestLimits::default(),
            },
            slots: Slots::new(leases.into_iter().map(|(_, lease)| lease).collect()),
        })
    }

    /// Closes the connections, unsubscribing nothing, and ends the guests' threads.
    async fn end(self) {
        self.pool.going_down();
        drop(self.guest);
        drop(self.slots);
        self.pool.stop(Duration::from_secs(2)).await;
        self.runtime.shutdown(Duration::from_secs(1)).await;
    }
}

fn role(name: &str, connector: &Connector, asked: Option<Role>) -> Result<Role, String> {
    match (asked, connector.has_source, connector.has_sink) {
        (Some(Role::Source), true, _) | (None, true, false) => Ok(Role::Source),
        (Some(Role::Sink), _, true) | (None, false, true) => Ok(Role::Sink),
        (None, true, true) => Err(format!(
            "\"{name}\" is a source and a sink; say which: --role source or --role sink"
        )),
        (Some(Role::Source), false, true) => Err(format!("\"{name}\" has no source, only a sink")),
        (Some(Role::Sink), true, false) => Err(format!("\"{name}\" has no sink, only a source")),
        (_, false, false) => Err(format!("\"{name}\" has neither a source nor a sink")),
    }
}

/// Puts one property in place. A text that reads as JSON is meant as that, unless the schema takes
/// nothing but text there.
fn set(
    props: &mut Map<String, Value>,
    schema: &Value,
    path: &str,
    text: &str,
) -> Result<(), String> {
    let mut parts: Vec<&str> = path.split('.').collect();
    let last = parts.pop().filter(|last| !last.is_empty());
    let Some(last) = last else {
        return Err(format!("--set {path}: a property's name is missing"));
    };
    let mut place = props;
    let mut known = Some(schema);
    for part in &parts {
        let below = place
            .entry((*part).to_owned())
            .or_insert_with(|| Value::Object(Map::new()));
        known = known.and_then(|known| known.get("properties")?.get(*part));
        place = below
            .as_object_mut()
            .ok_or_else(|| format!("--set {path}: \"{part}\" is no object"))?;
    }
    let own = known.and_then(|known| known.get("properties")?.get(last)?.get("type"));
    let value = if own.is_some_and(|own| own == "string") {
        Value::from(text)
    } else if text.starts_with(['{', '[', '"']) {
        serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
    } else if text == "null" {
        Value::Null
    } else {
        scalar(text)
    };
    place.insert(last.to_owned(), value);
    Ok(())
}

/// A mistake's sentence, with the slot whose connection it is about.
fn placed(error: &ManifestError) -> String {
    match error.pointer.strip_prefix("/connections/") {
        Some(rest) => {
            let slot = rest.split('/').next().unwrap_or_default();
            format!("connection {slot}: {}", error.message)
        }
        None => error.message.clone(),
    }
}

/// A connection for each slot that has one.
fn lease(
    pool: &Pool,
    plan: &GuestPlan,
    named: &[crate::config::ConnectionDef],
    role: Role,
) -> Result<Vec<(String, Arc<Lease>)>, Vec<String>> {
    let mut leases = Vec::new();
    for slot in &plan.slots {
        let lease = match &slot.reach {
            Reach::Anonymous { typ, props } => pool.lease_anonymous(
                TENANT,
                &format!("{typ}-{}", role.word()),
                typ,
                props.clone(),
                USER,
            ),
            Reach::Named(id) => match named.iter().find(|def| def.id == *id) {
                // What is attached to its user is no connection that could be created.
                Some(def) if wiring::is_attached(&def.typ) => {
                    pool.lease_anonymous(TENANT, id, &def.typ, def.props.clone(), USER)
                }
                Some(def) => {
                    let def = ConnectionDef {
                        id: def.id.clone(),
                        typ: def.typ.clone(),
                        props: def.props.clone(),
                    };
                    pool.create_named(TENANT, def)
                        .and_then(|()| pool.lease(TENANT, id, USER))
                }
                None => pool.lease(TENANT, id, USER),
            },
        };
        let lease =
            lease.map_err(|error| vec![format!("connection {}: {}", slot.slot, chain(&error))])?;
        leases.push((slot.slot.clone(), lease));
    }
    Ok(leases)
}

/// What connections get from a trial: values that are gone with it, and a word on what was refused.
#[derive(Debug, Default)]
struct Passing {
    values: Arc<Values>,
}

impl Surroundings for Passing {
    fn memory(&self, _tenant: &str, _id: &str) -> Arc<dyn Memory> {
        Arc::clone(&self.values) as _
    }
    fn refused(&self, _tenant: &str, _id: &str) -> Arc<dyn Refused> {
        Arc::clone(&self.values) as _
    }
}

#[derive(Debug, Default)]
struct Values(Mutex<HashMap<String, String>>);

#[async_trait]
impl Memory for Values {
    async fn get(&self, name: &str) -> Result<Option<String>, ConnectionError> {
        Ok(self.0.lock().get(name).cloned())
    }
    async fn put(&self, name: &str, value: &str) -> Result<(), ConnectionError> {
        self.0.lock().insert(name.to_owned(), value.to_owned());
        Ok(())
    }
}

impl Refused for Values {
    fn refused(&self, subject: &str, _head: Bytes, reason: &ConnectionError) {
        tracing::warn!(subject, %reason, "a message was refused before the connector could see it");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_single_property_is_what_it_reads_as_unless_it_can_only_be_text() {
        let schema = json!({"properties": {
            "topic": {"type": "string"}, "will": {"properties": {"topic": {"type": "string"}}},
        }});
        let mut props = Map::new();
        for (path, text) in [
            ("qos", "1"),
            ("topic", "17"),
            ("retained", "true"),
            ("will.topic", "5"),
            ("will.qos", "2"),
            ("list", "[1, \"a\"]"),
            ("interval", "10ms"),
            ("odd", "{not json"),
        ] {
            set(&mut props, &schema, path, text).unwrap();
        }
        assert_eq!(
            Value::Object(props.clone()),
            json!({
                "qos": 1, "topic": "17", "retained": true, "will": {"topic": "5", "qos": 2},
                "list": [1, "a"], "interval": "10ms", "odd": "{not json",
            })
        );
        assert!(
            set(&mut props, &schema, "qos.x", "1")
                .unwrap_err()
                .contains("\"qos\" is no object")
        );
        assert!(set(&mut props, &schema, "", "1").is_err());
    }
}
