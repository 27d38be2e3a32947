//! All connections of a host: named ones, and those that rules bring along. Shares them, counts who
//! uses them, swaps them live, ends them. Knows no protocol, no rule and no store.
//!
//! Everything is keyed by tenant and id. Named connections are there from `create` to `delete`;
//! anonymous ones from their first lease to their last. `memory` and `file` are attached to a rule:
//! leased like the others, but in no list.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};

use super::backoff::Backoff;
use super::dataport::DataPort;
use super::properties::beyond_call;
use super::registry::Registry;
use super::status::{Status, StatusChange};
use super::{ConfigError, Interface, Limits, Memory, Properties, Refused, Traffic, secrets};
use crate::names::validate_id;

mod check;
mod entry;
mod error;
mod info;
mod lease;
mod lend;
mod shared;
#[cfg(test)]
pub(super) mod tests;

pub use check::CheckReport;
use entry::{Entry, Made};
pub use error::{PoolError, otherwise};
pub use info::{Counts, Info, interfaces};
pub use lease::Lease;
use shared::Shared;

/// What the host gives to every connection.
pub trait Surroundings: Send + Sync + fmt::Debug {
    /// Where a connection keeps its few values.
    fn memory(&self, tenant: &str, id: &str) -> Arc<dyn Memory>;
    /// Where its undeliverable messages go.
    fn refused(&self, tenant: &str, id: &str) -> Arc<dyn Refused>;
}

/// How a pool is set up.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Connections run here, never where guests run.
    pub runtime: Handle,
    /// The types.
    pub registry: Registry,
    /// What connections get from the host.
    pub surroundings: Arc<dyn Surroundings>,
    /// Relative paths in properties start here.
    pub base: PathBuf,
    /// The folder below which `file` may read and write. None: nowhere.
    pub files: Option<PathBuf>,
    /// Bounds of each connection.
    pub limits: Limits,
    /// How soon they are dialled again.
    pub backoff: Backoff,
    /// The HTTP listener of those that others reach.
    pub port: DataPort,
}

/// A named connection as it is defined.
#[derive(Clone)]
pub struct ConnectionDef {
    /// Unique in its tenant.
    pub id: String,
    /// The type's name or alias.
    pub typ: String,
    /// The properties; may hold secrets, or the masks of stored ones.
    pub props: Properties,
}

/// Shows the names of the properties, never their values.
impl fmt::Debug for ConnectionDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.props.keys().collect();
        let mut shown = f.debug_struct("ConnectionDef");
        shown
            .field("id", &self.id)
            .field("typ", &self.typ)
            .field("props", &names)
            .finish()
    }
}

/// What a connection would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// What it offers.
    pub interfaces: Vec<Interface>,
    /// Properties that are accepted and change nothing, each at its place.
    pub warnings: Vec<ConfigError>,
}

/// All connections. Cheap to clone; when the last clone is dropped, every connection ends.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// An empty pool. Persistent sessions wait for their takers: see [`Pool::rules_started`].
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        Self {
            shared: Arc::new(Shared::new(config)),
        }
    }

    /// All rules that ran before have been started: their sources have a minute to subscribe, then
    /// persistent sessions are dialled without them.
    pub fn rules_started(&self) {
        self.shared.boot.rules_started();
        self.shared.config.port.rules_started();
    }

    /// Every source on a stored connection has opened or failed: persistent sessions may be dialled, and
    /// what they have at their servers that nobody takes may go.
    pub fn takers_known(&self) {
        self.shared.boot.takers_known();
        self.shared.config.port.takers_known();
    }

    /// Whether [`Pool::create_named`] would accept it now. Changes nothing.
    ///
    /// # Errors
    /// As [`Pool::create_named`].
    pub fn validate_new(&self, tenant: &str, def: &ConnectionDef) -> Result<(), PoolError> {
        validate_id(&def.id).map_err(PoolError::InvalidId)?;
        if self.find(tenant, &def.id).is_some() {
            return Err(PoolError::Exists(def.id.clone()));
        }
        let entry = self.prepare(tenant, &def.id, &def.typ, def.props.clone(), true)?;
        self.shared
            .table
            .lock()
            .admit(&entry.tenant, None, &entry.claims())
    }

    /// Builds a connection of that type to look at it: what it offers, and which of its properties
    /// have no meaning here, or more than can be honoured. Dials nothing; nothing enters the pool.
    ///
    /// # Errors
    /// All mistakes; one in the type is at `/typ`, the others are at their properties.
    pub fn look_at(
        &self,
        tenant: &str,
        id: &str,
        typ: &str,
        props: &Properties,
    ) -> Result<Look, Vec<ConfigError>> {
        let mistakes = |error: PoolError| match error {
            PoolError::Invalid(mistakes) => mistakes,
            other => vec![ConfigError::new("", other.to_string())],
        };
        let (entry, known) = match self.attached(tenant, id, typ, props).map_err(mistakes)? {
            Some(entry) => (entry, &[][..]),
            None => {
                let kind = self
                    .shared
                    .config
                    .registry
                    .get(typ)
                    .map_err(|mistake| vec![mistake])?;
                let entry = self
                    .prepare(tenant, id, typ, props.clone(), false)
                    .map_err(mistakes)?;
                (entry, kind.properties())
            }
        };
        let ignored = |name: &String| {
            let property = known
                .iter()
                .find(|property| property.name.eq_ignore_ascii_case(name))?;
            let why = property.ignored?;
            Some(ConfigError::new(
                format!("/{name}"),
                format!("\"{name}\" has no meaning here: {why}"),
            ))
        };
        let call = self.shared.config.limits.call;
        let late = beyond_call(props, known, call).into_iter();
        let late = late.map(|(name, words)| ConfigError::new(format!("/{name}"), words));
        Ok(Look {
            interfaces: interfaces(&*entry.present()),
            warnings: props.keys().filter_map(ignored).chain(late).collect(),
        })
    }

    /// The properties that a connection of that type knows; none for a type that does not exist.
    #[must_use]
    pub fn property_names(&self, typ: &str) -> Vec<&'static str> {
        match self.shared.config.registry.get(typ) {
            Ok(kind) => kind
                .properties()
                .iter()
                .map(|property| property.name)
                .collect(),
            Err(_unknown) => Vec::new(),
        }
    }

    /// Those of them that a connector which knows them gets too.
    #[must_use]
    pub fn common_property_names(&self, typ: &str) -> Vec<&'static str> {
        let properties = match self.shared.config.registry.get(typ) {
            Ok(kind) => kind.properties(),
            // Not in the registry: attached to a rule. They are looked at early, too.
            Err(_unknown) if typ.eq_ignore_ascii_case(super::file::NAME) => super::file::PROPERTIES,
            Err(_unknown) => &[],
        };
        properties
            .iter()
            .filter(|property| property.both)
            .map(|property| property.name)
            .collect()
    }

    /// The endpoint that a connection of that type has for itself, if it has one: rules share it.
    #[must_use]
    pub fn exclusive_endpoint(&self, typ: &str, props: &Properties) -> Option<String> {
        let kind = self.shared.config.registry.get(typ).ok()?;
        let endpoint = kind.exclusive_endpoint(props)?;
        Some(format!("{} {endpoint}", kind.name()))
    }

    /// Takes out of the properties of a source or an action what is its connection's though the
    /// connector may know the name too: [`super::ConnectionType::divide`].
    ///
    /// # Errors
    /// Mistakes, at `/<property>`.
    pub fn divide(
        &self,
        typ: &str,
        properties: &mut Properties,
    ) -> Result<Properties, Vec<ConfigError>> {
        match self.shared.config.registry.get(typ) {
            Ok(kind) => kind.divide(properties),
            Err(_unknown) => Ok(Properties::new()),
        }
    }

    /// The header for a message's id over a connection of that type:
    /// [`super::ConnectionType::MESSAGE_ID_HEADER`].
    #[must_use]
    pub fn message_id_header(&self, typ: &str) -> &'static str {
        let kind = self.shared.config.registry.get(typ);
        kind.map_or("message-id", |kind| kind.message_id_header())
    }

    /// Which headers from elsewhere go out over a connection of that type:
    /// [`super::ConnectionType::CARRIES`].
    #[must_use]
    pub fn carries(&self, typ: &str) -> Option<super::Carries> {
        let kind = self.shared.config.registry.get(typ).ok()?;
        kind.carries()
    }

    /// The bounds of every connection.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.config.limits
    }

    /// There is such a type, or it is one that is attached to a rule.
    #[must_use]
    pub fn has_type(&self, typ: &str) -> bool {
        let attached = [super::memory::NAME, super::file::NAME];
        attached.iter().any(|name| name.eq_ignore_ascii_case(typ))
            || self.shared.config.registry.get(typ).is_ok()
    }

    /// The host is about to stop: from now on no filter is unsubscribed when its taker goes.
    pub fn going_down(&self) {
        for entry in self.shared.table.lock().entries.values() {
            entry.keep_filters();
        }
    }

    /// Creates a named connection, which dials at once, in a task of its own, until it is deleted.
    ///
    /// # Errors
    /// The id is not valid or taken, the type is unknown, the properties have mistakes, another
    /// connection is the same client, the host is stopping. Then nothing has changed.
    pub fn create_named(&self, tenant: &str, def: ConnectionDef) -> Result<(), PoolError> {
        validate_id(&def.id).map_err(PoolError::InvalidId)?;
        let entry = self.prepare(tenant, &def.id, &def.typ, def.props, true)?;
        self.shared.enter(&mut self.shared.table.lock(), &entry)
    }

    /// Brings back a stored connection. One that cannot be built any more (a type that is gone, a
    /// missing file) is there all the same, and its status says why: it must not be lost, and it must
    /// not keep the host from starting. The mistakes are answered too.
    ///
    /// # Errors
    /// There is one of that id, or another connection is the same client.
    pub fn restore_named(
        &self,
        tenant: &str,
        def: ConnectionDef,
    ) -> Result<Vec<ConfigError>, PoolError> {
        let (entry, mistakes) =
            match self.prepare(tenant, &def.id, &def.typ, def.props.clone(), true) {
                Ok(entry) => (entry, Vec::new()),
                Err(PoolError::Invalid(mistakes)) => {
                    let kind = self.shared.config.registry.get(&def.typ).ok();
                    let made = Made::broken(&def.typ, kind, def.props, &mistakes);
                    let entry =
                        Entry::new(tenant.into(), def.id.into(), true, Arc::default(), made);
                    (Arc::new(entry), mistakes)
                }
                Err(other) => return Err(other),
            };
        self.shared.enter(&mut self.shared.table.lock(), &entry)?;
        Ok(mistakes)
    }

    fn prepare(
        &self,
        tenant: &str,
        id: &str,
        typ: &str,
        props: Properties,
        named: bool,
    ) -> Result<Arc<Entry>, PoolError> {
        let kind = self
            .shared
            .config
            .registry
            .get(typ)
            .map_err(|mistake| PoolError::Invalid(vec![mistake]))?;
        let (tenant, id): (Arc<str>, Arc<str>) = (tenant.into(), id.into());
        let traffic = Arc::<Traffic>::default();
        let context = self.shared.context(&tenant, &id, &traffic);
        let made = self
            .shared
            .make(kind, props, context)
            .map_err(PoolError::Invalid)?;
        Ok(Arc::new(Entry::new(tenant, id, named, traffic, made)))
    }

    /// Whether [`Pool::replace`] would accept it now, and the properties with the stored secrets in
    /// the place of their masks: what is to be stored.
    ///
    /// # Errors
    /// As [`Pool::replace`].
    pub fn validate_replacement(
        &self,
        tenant: &str,
        def: &ConnectionDef,
    ) -> Result<Properties, PoolError> {
        let (_, made) = self.replacement(tenant, def)?;
        Ok(made.props)
    }

    /// Gives a named connection other properties while it is in use: the old link is closed, then
    /// the new one dialled; leases and subscriptions go on with the new one.
    ///
    /// # Errors
    /// Unknown, anonymous, in use and of another type, mistakes. Then the old one runs on.
    pub fn replace(&self, tenant: &str, def: &ConnectionDef) -> Result<(), PoolError> {
        let (entry, made) = self.replacement(tenant, def)?;
        self.put_in_place(&entry, made)
    }

    fn replacement(
        &self,
        tenant: &str,
        def: &ConnectionDef,
    ) -> Result<(Arc<Entry>, Made), PoolError> {
        let entry = self
            .find(tenant, &def.id)
            .ok_or_else(|| PoolError::Unknown(def.id.clone()))?;
        if !entry.named {
            return Err(PoolError::Anonymous(def.id.clone()));
        }
        let kind = self
            .shared
            .config
            .registry
            .get(&def.typ)
            .map_err(|mistake| PoolError::Invalid(vec![mistake]))?;
        let (old, _, stored) = entry.definition();
        if let Some(old) = old.filter(|old| old.name() != kind.name()) {
            let users = entry.users();
            if !users.is_empty() {
                return Err(PoolError::TypeInUse {
                    id: def.id.clone(),
                    from: old.name(),
                    to: kind.name(),
                    users,
                });
            }
        }
        let props = secrets::merge(&def.props, &stored);
        let context = self
            .shared
            .context(&entry.tenant, &entry.id, &entry.traffic);
        let made = self
            .shared
            .make(kind, props, context)
            .map_err(PoolError::Invalid)?;
        self.shared
            .table
            .lock()
            .admit(&entry.tenant, Some(&entry), &made.claims)?;
        Ok((entry, made))
    }

    fn put_in_place(&self, entry: &Arc<Entry>, made: Made) -> Result<(), PoolError> {
        let table = self.shared.table.lock();
        if self.shared.stopped.is_cancelled() {
            return Err(PoolError::Stopping);
        }
        // Somebody may have deleted it meanwhile, or claimed the same.
        let key = (Arc::clone(&entry.tenant), Arc::clone(&entry.id));
        if !table
            .entries
            .get(&key)
            .is_some_and(|listed| Arc::ptr_eq(listed, entry))
        {
            return Err(PoolError::Unknown(entry.id.to_string()));
        }
        table.admit(&entry.tenant, Some(entry), &made.claims)?;
        let (old, guards) = entry.swap(made);
        self.shared.start(entry, vec![old.done], guards);
        Ok(())
    }

    /// Deletes a named connection, and closes it.
    ///
    /// # Errors
    /// Unknown, anonymous, in use (with the rules' names).
    pub fn delete(&self, tenant: &str, id: &str) -> Result<(), PoolError> {
        let mut table = self.shared.table.lock();
        let key = (tenant.into(), id.into());
        let Some(entry) = table.entries.get(&key).cloned() else {
            return Err(PoolError::Unknown(id.to_owned()));
        };
        if !entry.named {
            return Err(PoolError::Anonymous(id.to_owned()));
        }
        let users = entry.users();
        if !users.is_empty() {
            return Err(PoolError::InUse {
                id: id.to_owned(),
                users,
            });
        }
        Shared::leave(&mut table, &entry);
        Ok(())
    }

    /// The connections of a tenant, by id; the anonymous ones too if `force_all`.
    #[must_use]
    pub fn list(&self, tenant: &str, force_all: bool) -> Vec<Info> {
        let of_tenant =
            |entry: &&Arc<Entry>| *entry.tenant == *tenant && (entry.named || force_all);
        let entries: Vec<_> = self
            .shared
            .table
            .lock()
            .entries
            .values()
            .filter(of_tenant)
            .cloned()
            .collect();
        entries.iter().map(|entry| Info::of(entry)).collect()
    }

    /// All connections of all tenants with their tenant, for the operator's metrics.
    #[must_use]
    pub fn list_all(&self) -> Vec<(Arc<str>, Info)> {
        let entries: Vec<_> = self.shared.table.lock().entries.values().cloned().collect();
        entries
            .iter()
            .map(|entry| (Arc::clone(&entry.tenant), Info::of(entry)))
            .collect()
    }

    /// One connection, named or not.
    #[must_use]
    pub fn get(&self, tenant: &str, id: &str) -> Option<Info> {
        self.find(tenant, id).map(|entry| Info::of(&entry))
    }

    /// One connection's status, to watch.
    #[must_use]
    pub fn status(&self, tenant: &str, id: &str) -> Option<watch::Receiver<Status>> {
        self.find(tenant, id).map(|entry| entry.status.subscribe())
    }

    /// Changes of the status of every connection in the list, named or not, from now on. A listener
    /// that falls behind is told so and asks for the present states.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<StatusChange> {
        self.shared.changes.subscribe()
    }

    /// Id, type and interfaces of each named connection, by id.
    #[must_use]
    pub fn offers(&self, tenant: &str) -> Vec<(String, String, Vec<Interface>)> {
        let table = self.shared.table.lock();
        let named = table
            .entries
            .values()
            .filter(|entry| *entry.tenant == *tenant && entry.named);
        named
            .map(|entry| {
                let (_, typ, _) = entry.definition();
                (
                    entry.id.to_string(),
                    typ.to_string(),
                    interfaces(&*entry.present()),
                )
            })
            .collect()
    }

    /// The properties of a named connection as they are stored, secrets and all: for the export that
    /// an administrator asks for.
    #[must_use]
    pub fn stored(&self, tenant: &str, id: &str) -> Option<(String, Properties)> {
        let entry = self.find(tenant, id).filter(|entry| entry.named)?;
        let (_, typ, props) = entry.definition();
        Some((typ.to_string(), props))
    }

    /// The types that connections can have.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.shared.config.registry
    }

    /// Tasks of connections that run or are closing.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.shared.tasks()
    }

    /// Closes every connection without unsubscribing anything, within `limit`. Nothing can be
    /// created afterwards.
    pub async fn stop(&self, limit: Duration) {
        self.shared.stop(limit).await;
    }

    fn find(&self, tenant: &str, id: &str) -> Option<Arc<Entry>> {
        self.shared
            .table
            .lock()
            .entries
            .get(&(tenant.into(), id.into()))
            .cloned()
    }
}
