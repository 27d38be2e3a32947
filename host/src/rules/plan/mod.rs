//! From definitions to what runs: every name resolved, every property checked by whom it belongs to,
//! before anything starts. All mistakes at once, each at its place in the manifest.
//!
//! Properties of a stream or an action fall into several hands: the connection they give (or the
//! selector that names one), the output steps, the disk queue and what else the host does for every
//! action (`action`), and the connector, whose JSON Schema checks what is left. Connection properties never reach a guest.

mod action;
mod alone;
mod guest;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

pub use self::alone::{Alone, alone};
pub use self::guest::schema;
use self::guest::{Given, schema_properties};
use super::decompress::{self, Decompression};
use super::duplicates::Deduplicate;
use super::engine::TENANT;
use super::forward::ForwardTo;
use super::output::OutputPlan;
use super::query::{Field, Format, Query, StreamStatement};
use super::retry::RetryPolicy;
use super::spill::SpillOptions;
use crate::config::{ConnectorDef, Manifest, ManifestError, RuleDef, nearest, pointer_to};
use crate::connections::pool::Pool;
use crate::connections::{Carries, ConfigError, Interface, Properties};
use crate::progress::Progress;
use crate::runtime::{Connector, Runtime};

/// Everything that a manifest asks for, ready to start.
#[derive(Debug, Default)]
pub struct Plan {
    /// Streams that a rule uses, or could.
    pub streams: HashMap<String, Arc<StreamPlan>>,
    /// Rules, in the order of the manifest.
    pub rules: Vec<RulePlan>,
}

/// A stream with its source connector.
#[derive(Debug)]
pub struct StreamPlan {
    /// Its name.
    pub name: String,
    /// One source for all its rules.
    pub shared: bool,
    /// How payloads are decoded where a query looks inside.
    pub format: Format,
    /// How payloads are unpacked first.
    pub decompression: Option<Decompression>,
    /// The declared columns; none: whatever comes.
    pub fields: Vec<Field>,
    /// Topic, path, table: as the statement gives it.
    pub datasource: String,
    /// The source.
    pub guest: GuestPlan,
}

/// A rule.
#[derive(Debug)]
pub struct RulePlan {
    /// As it was written.
    pub def: RuleDef,
    /// The query.
    pub query: Arc<Query>,
    /// Its stream.
    pub stream: Arc<StreamPlan>,
    /// Its actions, in order.
    pub actions: Vec<ActionPlan>,
    /// Where its dead letters are forwarded to.
    pub forward: Option<ForwardTo>,
}

/// An action.
#[derive(Debug)]
pub struct ActionPlan {
    /// `<sink type>_<place>`.
    pub name: String,
    /// The common output steps.
    pub output: Arc<OutputPlan>,
    /// Bounds of the disk queue.
    pub spill: SpillOptions,
    /// When a message that could not be written is tried again, and when it is given up.
    pub retry: RetryPolicy,
    /// The headers that its messages' ids stand in: for the connector, and as they come in.
    pub ids: Option<(String, String)>,
    /// What its connections say of headers that came with its messages.
    pub carries: Vec<Carries>,
    /// What it takes for duplicates.
    pub deduplicate: Option<Deduplicate>,
    /// The static topic, for the name of an anonymous connection.
    pub topic: String,
    /// The sink.
    pub guest: GuestPlan,
}

/// A connector with its configuration and the connections it asks for.
#[derive(Debug)]
pub struct GuestPlan {
    /// The compiled connector.
    pub connector: Arc<Connector>,
    /// Its configuration as JSON, checked against its schema.
    pub config: String,
    /// Slot by slot.
    pub slots: Vec<SlotPlan>,
}

/// Which connection fills a slot.
#[derive(Debug, PartialEq)]
pub struct SlotPlan {
    /// The slot's name.
    pub slot: String,
    /// The connection.
    pub reach: Reach,
}

/// How a connection comes to be.
#[derive(Debug, PartialEq)]
pub enum Reach {
    /// By its id in the pool.
    Named(String),
    /// From the properties of the stream or action itself, gone with the rule.
    Anonymous {
        /// Its type.
        typ: String,
        /// Its properties. May hold secrets.
        props: Properties,
    },
}

/// The mark in a connector's schema of a property that the host renders per message.
const RENDER: &str = "x-windlass-render";
/// The mark of a common property of actions that the connector wants to know too.
const SHARED: &str = "x-windlass-shared";
/// The mark of a sink's property that the host fills in where it is not given; `rule`: the rule's id.
const FILLED: &str = "x-windlass-default";

/// The conf key whose properties hold for all streams of its type.
const DEFAULT: &str = "default";

/// What names a connection, and a misspelling of it in circulation.
const SELECTORS: [&str; 2] = ["connectionSelector", "connentionSelector"];

/// The pointer leads into a conf key `default`.
fn is_default(pointer: &str) -> bool {
    let mut parts = pointer.split('/').skip(1);
    parts.next() == Some("confKeys")
        && parts
            .nth(1)
            .is_some_and(|key| key.eq_ignore_ascii_case(DEFAULT))
}

/// Source or sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It reads.
    Source,
    /// It writes.
    Sink,
}

impl Role {
    /// `source` or `sink`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Sink => "sink",
        }
    }
}

/// Makes the plan of a manifest. Compiles connectors that are not cached yet.
///
/// `pool` builds connections to look at them; it opens none.
pub async fn plan(
    manifest: &Manifest,
    runtime: &Runtime,
    pool: &Pool,
    progress: &dyn Progress,
) -> (Plan, Vec<ManifestError>, Vec<ManifestError>) {
    let mut planner = Planner::new(manifest, runtime, pool, progress);
    planner.connections();
    planner.connectors().await;
    let mut plan = Plan::default();
    planner.streams(&mut plan).await;
    planner.rules(&mut plan).await;
    (plan, planner.errors, planner.warnings)
}

/// Connectors that are loaded already, by name.
pub type Loaded = HashMap<String, Arc<Connector>>;

/// What a plan of a few definitions may refer to, where not all of them come from one manifest.
#[derive(Debug, Default)]
pub struct Around {
    /// The interfaces of each named connection, by id. The manifest names their types.
    pub offers: HashMap<String, Vec<Interface>>,
    /// Connectors that need not be loaded again. What is loaded beside them is added.
    pub loaded: Loaded,
}

/// Makes the plan of definitions that refer to connections of the pool. The manifest's connections
/// are those that exist: they are not looked at again.
pub async fn plan_around(
    manifest: &Manifest,
    around: &mut Around,
    runtime: &Runtime,
    pool: &Pool,
    progress: &dyn Progress,
) -> (Plan, Vec<ManifestError>, Vec<ManifestError>) {
    let mut planner = Planner::new(manifest, runtime, pool, progress);
    planner.offers = std::mem::take(&mut around.offers);
    planner.connectors = std::mem::take(&mut around.loaded)
        .into_iter()
        .map(|(name, connector)| (name, Some(connector)))
        .collect();
    let mut plan = Plan::default();
    planner.streams(&mut plan).await;
    planner.rules(&mut plan).await;
    around.loaded = planner
        .connectors
        .into_iter()
        .filter_map(|(name, connector)| Some((name, connector?)))
        .collect();
    (plan, planner.errors, planner.warnings)
}

struct Planner<'a> {
    manifest: &'a Manifest,
    runtime: &'a Runtime,
    pool: &'a Pool,
    progress: &'a dyn Progress,
    /// The interfaces of each named connection that could be built.
    offers: HashMap<String, Vec<Interface>>,
    /// By name; None: it could not be loaded, and that was said.
    connectors: HashMap<String, Option<Arc<Connector>>>,
    /// Which stream or action is being looked at, for sentences of others.
    whose: String,
    /// Endpoints that streams and actions share without a connection of their own: who was first, and
    /// its properties.
    endpoints: HashMap<String, (String, Properties)>,
    errors: Vec<ManifestError>,
    warnings: Vec<ManifestError>,
}

impl<'a> Planner<'a> {
    fn new(
        manifest: &'a Manifest,
        runtime: &'a Runtime,
        pool: &'a Pool,
        progress: &'a dyn Progress,
    ) -> Self {
        Self {
            manifest,
            runtime,
            pool,
            progress,
            offers: HashMap::new(),
            connectors: HashMap::new(),
            whose: String::new(),
            endpoints: HashMap::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl Planner<'_> {
    fn error(&mut self, pointer: &str, message: impl Into<String>) {
        self.errors.push(self.manifest.error(pointer, message));
    }

    fn warn(&mut self, pointer: &str, message: impl Into<String>) {
        self.warnings.push(self.manifest.error(pointer, message));
    }

    fn connections(&mut self) {
        for def in &self.manifest.connections {
            match self.pool.look_at(TENANT, &def.id, &def.typ, &def.props) {
                Ok(look) => {
                    for warning in look.warnings {
                        let (at, message) = placed(&warning);
                        self.warn(&format!("{}/props{at}", def.pointer), message);
                    }
                    self.offers.insert(def.id.clone(), look.interfaces);
                }
                Err(errors) => {
                    for error in errors {
                        if error.at == "/typ" {
                            self.error(&format!("{}/typ", def.pointer), error.message);
                            continue;
                        }
                        let (at, message) = placed(&error);
                        self.error(&format!("{}/props{at}", def.pointer), message);
                    }
                }
            }
        }
    }

    async fn streams(&mut self, plan: &mut Plan) {
        for def in &self.manifest.streams {
            let statement = match StreamStatement::parse(&def.sql) {
                Ok(statement) => statement,
                Err(error) => {
                    self.errors.push(self.manifest.error_within(
                        &def.pointer,
                        error.line,
                        error.column,
                        error.message,
                    ));
                    continue;
                }
            };
            for warning in &statement.warnings {
                let warning = self.manifest.error_within(
                    &def.pointer,
                    warning.line,
                    warning.column,
                    &warning.message,
                );
                self.warnings.push(warning);
            }
            if plan.streams.contains_key(&statement.name) {
                self.error(
                    &def.pointer,
                    format!("a stream named \"{}\" is there already", statement.name),
                );
                continue;
            }
            if let Some(stream) = self.stream(&statement, &def.pointer).await {
                plan.streams
                    .insert(statement.name.clone(), Arc::new(stream));
            }
        }
    }

    async fn stream(&mut self, statement: &StreamStatement, pointer: &str) -> Option<StreamPlan> {
        let mut props = Map::new();
        let mut places: HashMap<String, String> = HashMap::new();
        // As in eKuiper: `default` of a type goes below every other conf key of it.
        let manifest = self.manifest;
        let default = manifest.conf_keys.get(&statement.typ, DEFAULT);
        let mut over = |more: &Map<String, Value>, at: &dyn Fn(&str) -> String| {
            for (name, value) in more {
                props.retain(|below, _| !below.eq_ignore_ascii_case(name));
                places.insert(name.clone(), at(name));
                props.insert(name.clone(), value.clone());
            }
        };
        if let Some(def) = default {
            over(&def.props, &|name| pointer_to(&def.pointer, name));
        }
        if let Some(key) = &statement.conf_key {
            if let Some(def) = manifest.conf_keys.get(&statement.typ, key) {
                over(&def.props, &|name| pointer_to(&def.pointer, name));
            } else {
                let known: Vec<&str> = self
                    .manifest
                    .conf_keys
                    .iter()
                    .filter(|def| def.typ.eq_ignore_ascii_case(&statement.typ))
                    .map(|def| def.key.as_str())
                    .collect();
                let message = format!(
                    "there is no conf key \"{key}\" for type \"{}\"{}",
                    statement.typ,
                    among(key, &known)
                );
                self.error(pointer, message);
                return None;
            }
        }
        over(&statement.extra, &|_| pointer.to_owned());
        let connector = self
            .connector(&statement.typ, pointer, Role::Source)
            .await?;
        if default.is_some() && SELECTORS.iter().any(|name| props.contains_key(*name)) {
            // The connection that is selected decides; nobody meant these for it.
            let own = schema_properties(&schema(&connector, Role::Source));
            for name in self.connection_names(&statement.typ, &props, &own) {
                if places.get(&name).is_some_and(|at| is_default(at)) {
                    props.remove(&name);
                }
            }
        }
        if !statement.datasource.is_empty() {
            places.insert("datasource".to_owned(), pointer.to_owned());
            props.insert(
                "datasource".to_owned(),
                Value::from(statement.datasource.clone()),
            );
        }
        let place = |name: &str| {
            places
                .get(name)
                .cloned()
                .unwrap_or_else(|| pointer.to_owned())
        };
        self.whose = format!("stream \"{}\"", statement.name);
        let decompression = self.decompression(&connector, &mut props, &place);
        let divided = self.divided(&connector, &statement.typ, &mut props, &place);
        let guest = self.guest(
            connector,
            &statement.typ,
            Role::Source,
            Given { props, divided },
            pointer,
            &place,
        )?;
        Some(StreamPlan {
            name: statement.name.clone(),
            shared: statement.shared,
            format: statement.row_format(),
            decompression,
            fields: statement.fields.clone(),
            datasource: statement.datasource.clone(),
            guest,
        })
    }

    /// How the stream's payloads are unpacked. A connector that knows the property does it itself.
    fn decompression(
        &mut self,
        connector: &Connector,
        props: &mut Map<String, Value>,
        place: &dyn Fn(&str) -> String,
    ) -> Option<Decompression> {
        let own = schema_properties(&schema(connector, Role::Source));
        if own.iter().any(|name| name == decompress::PROPERTY) {
            return None;
        }
        Decompression::take_from(props).unwrap_or_else(|(key, sentence)| {
            self.error(&place(&key), sentence);
            None
        })
    }

    async fn rules(&mut self, plan: &mut Plan) {
        for def in &self.manifest.rules {
            let sql = format!("{}/sql", def.pointer);
            let query = match Query::parse(&def.sql) {
                Ok(query) => Some(query.with_nil_fields(def.options.send_nil_field)),
                Err(error) => {
                    self.errors.push(self.manifest.error_within(
                        &sql,
                        error.line,
                        error.column,
                        error.message,
                    ));
                    None
                }
            };
            let forward = self.forward(def);
            let mut actions = Vec::new();
            for (place, action) in def.actions.iter().enumerate() {
                if let Some(action) = self.action(action, place, def).await {
                    actions.push(action);
                }
            }
            let Some(query) = query else { continue };
            let Some(stream) = plan.streams.get(query.stream()).cloned() else {
                // A stream that is there but broken was complained about already.
                if self
                    .manifest
                    .streams
                    .iter()
                    .all(|def| !mentions(&def.sql, query.stream()))
                {
                    let known: Vec<&str> = plan.streams.keys().map(String::as_str).collect();
                    let message = format!(
                        "there is no stream \"{}\"{}",
                        query.stream(),
                        among(query.stream(), &known)
                    );
                    self.error(&sql, message);
                }
                continue;
            };
            let unknown = query.unknown_fields(&stream.fields);
            for error in &unknown {
                self.errors.push(self.manifest.error_within(
                    &sql,
                    error.line,
                    error.column,
                    &error.message,
                ));
            }
            if unknown.is_empty() && actions.len() == def.actions.len() {
                plan.rules.push(RulePlan {
                    def: def.clone(),
                    query: Arc::new(query),
                    stream,
                    actions,
                    forward,
                });
            }
        }
    }

    /// A connector by its name: one of the manifest, else a bundled one.
    async fn connector(&mut self, name: &str, pointer: &str, role: Role) -> Option<Arc<Connector>> {
        if !self.connectors.contains_key(name) {
            let loaded = self.load(name, pointer).await;
            self.connectors.insert(name.to_owned(), loaded);
        }
        let connector = self.connectors.get(name).cloned().flatten()?;
        let has = match role {
            Role::Source => connector.has_source,
            Role::Sink => connector.has_sink,
        };
        if !has {
            let other = if role == Role::Source {
                "sink"
            } else {
                "source"
            };
            self.error(
                pointer,
                format!(
                    "connector \"{name}\" has no {}, only a {other}",
                    role.word()
                ),
            );
            return None;
        }
        Some(connector)
    }

    /// The manifest's own connectors, used or not: a file that is missing is a mistake.
    async fn connectors(&mut self) {
        for def in &self.manifest.connectors {
            let loaded = self.load(&def.name, &def.pointer).await;
            self.connectors.insert(def.name.clone(), loaded);
        }
    }

    async fn load(&mut self, name: &str, pointer: &str) -> Option<Arc<Connector>> {
        let own: Option<&ConnectorDef> =
            self.manifest.connectors.iter().find(|def| def.name == name);
        let (wasm, place) = if let Some(def) = own {
            match tokio::fs::read(&def.path).await {
                Ok(bytes) => (Bytes::from(bytes), def.pointer.clone()),
                Err(error) => {
                    let message = format!(
                        "connector \"{name}\": {} cannot be read: {error}",
                        def.path.display()
                    );
                    self.error(&def.pointer, message);
                    return None;
                }
            }
        } else if let Some(wasm) = crate::connectors::bundled(name) {
            (wasm, pointer.to_owned())
        } else {
            let mut known: Vec<&str> = crate::connectors::names();
            known.extend(self.manifest.connectors.iter().map(|def| def.name.as_str()));
            self.error(
                pointer,
                format!("there is no connector \"{name}\"{}", among(name, &known)),
            );
            return None;
        };
        match self.runtime.load(name, wasm, self.progress).await {
            Ok(connector) => Some(connector),
            Err(error) => {
                let file = own
                    .map(|def| format!("{}: ", def.path.display()))
                    .unwrap_or_default();
                self.error(&place, format!("{file}{}", crate::error::chain(&error)));
                None
            }
        }
    }
}

/// `; did you mean "x"?` or the list of what there is.
fn among(found: &str, known: &[&str]) -> String {
    if let Some(near) = nearest(found, known.iter().copied()) {
        return format!("; did you mean \"{near}\"?");
    }
    if known.is_empty() {
        return "; there is none".to_owned();
    }
    let mut names: Vec<_> = known.iter().map(|name| format!("\"{name}\"")).collect();
    names.sort();
    format!("; there is {}", names.join(", "))
}

/// A broken CREATE STREAM may still have been meant for this name.
fn mentions(sql: &str, name: &str) -> bool {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
        .any(|word| word == name)
}

/// A mistake in a property of a connection: its pointer below the properties, and its sentence with
/// the property's name.
fn placed(error: &ConfigError) -> (&str, String) {
    let at = error.at.strip_prefix("/props").unwrap_or(&error.at);
    let name = at.trim_start_matches('/');
    let named = name.is_empty() || error.message.contains(name);
    (
        at,
        if named {
            error.message.clone()
        } else {
            format!("\"{name}\": {}", error.message)
        },
    )
}
