//! Giving connections to rules: named ones by id, and those that a rule brings along.

use std::sync::Arc;

use super::entry::{Claims, Entry, Made};
use super::{Lease, Pool, PoolError};
use crate::connections::registry::AnyConnectionType;
use crate::connections::status::Event;
use crate::connections::{Properties, Traffic, file, memory};

impl Pool {
    /// The names of properties by which two that name the same endpoint of that type differ.
    #[must_use]
    pub fn differing(&self, typ: &str, one: &Properties, other: &Properties) -> Vec<String> {
        match self.shared.config.registry.get(typ) {
            Ok(kind) => differing(kind, one, other),
            Err(_unknown) => Vec::new(),
        }
    }

    /// Lets a rule use a connection by its id.
    ///
    /// # Errors
    /// Unknown.
    pub fn lease(&self, tenant: &str, id: &str, user: &str) -> Result<Arc<Lease>, PoolError> {
        let table = self.shared.table.lock();
        let Some(entry) = table.entries.get(&(tenant.into(), id.into())) else {
            return Err(PoolError::Unknown(id.to_owned()));
        };
        Ok(self.hold(entry, user))
    }

    /// Lets a rule use a connection that it brings along. Where the type's endpoint is exclusive,
    /// all rules of the tenant share one, whose id is `<type>-<hash>`; else its id is `id`, and a
    /// second lease of the same id, type and properties shares it. `memory` and `file` are attached.
    ///
    /// # Errors
    /// The type is unknown, the properties have mistakes, the id is taken by another connection, a named
    /// connection is the same client or has the same endpoint, or the endpoint is there with other
    /// properties.
    pub fn lease_anonymous(
        &self,
        tenant: &str,
        id: &str,
        typ: &str,
        props: Properties,
        user: &str,
    ) -> Result<Arc<Lease>, PoolError> {
        if let Some(entry) = self.attached(tenant, id, typ, &props)? {
            return Ok(self.hold(&entry, user));
        }
        let kind = self
            .shared
            .config
            .registry
            .get(typ)
            .map_err(|mistake| PoolError::Invalid(vec![mistake]))?;
        let endpoint = kind.exclusive_endpoint(&props);
        let id = match &endpoint {
            Some(endpoint) => format!("{}-{}", kind.name(), short_hash(endpoint)),
            None => id.to_owned(),
        };
        let entry = self.prepare(tenant, &id, typ, props, false)?;
        let mut table = self.shared.table.lock();
        let listed = table
            .entries
            .get(&(Arc::clone(&entry.tenant), Arc::clone(&entry.id)));
        if let Some(listed) = listed {
            let (listed_kind, _, listed_props) = listed.definition();
            let (_, _, props) = entry.definition();
            let same_kind = listed_kind.is_some_and(|listed| listed.name() == kind.name());
            if listed.named || !same_kind || (endpoint.is_none() && listed_props != props) {
                return Err(PoolError::Exists(id));
            }
            let names = differing(kind, &listed_props, &props);
            if !names.is_empty() {
                let users = listed
                    .users()
                    .into_iter()
                    .map(|user| format!("rule {user}"));
                return Err(PoolError::Otherwise {
                    users: users.collect(),
                    names,
                });
            }
            return Ok(self.hold(listed, user));
        }
        self.shared.enter(&mut table, &entry)?;
        Ok(self.hold(&entry, user))
    }

    /// The types that are attached to a rule and stand in no list.
    pub(super) fn attached(
        &self,
        tenant: &str,
        id: &str,
        typ: &str,
        props: &Properties,
    ) -> Result<Option<Arc<Entry>>, PoolError> {
        let (tenant, id): (Arc<str>, Arc<str>) = (tenant.into(), id.into());
        let traffic = Arc::<Traffic>::default();
        let context = || self.shared.context(&tenant, &id, &traffic);
        let (name, connection) = match typ.to_ascii_lowercase().as_str() {
            memory::NAME => (
                memory::NAME,
                memory::attach(props, &context(), &self.shared.bus),
            ),
            file::NAME => {
                let root = self.shared.config.files.as_deref();
                (
                    file::NAME,
                    file::attach(props, context(), root, self.shared.config.runtime.clone()),
                )
            }
            _ => return Ok(None),
        };
        let made = Made {
            typ: name.into(),
            kind: None,
            props: props.clone(),
            connection: connection.map_err(PoolError::Invalid)?,
            claims: Claims::default(),
            stopping: Arc::default(),
            scrub: Arc::default(),
        };
        let entry = Entry::new(Arc::clone(&tenant), Arc::clone(&id), false, traffic, made);
        entry
            .status
            .publish(&Event::Up, &*entry.present(), &entry.scrub());
        Ok(Some(Arc::new(entry)))
    }

    fn hold(&self, entry: &Arc<Entry>, user: &str) -> Arc<Lease> {
        let token = entry.add_user(user);
        Arc::new(Lease {
            entry: Arc::clone(entry),
            shared: Arc::downgrade(&self.shared),
            token,
        })
    }
}

/// The names of properties that are not the same in both, in order; those that only name the endpoint
/// are not looked at.
fn differing(kind: &dyn AnyConnectionType, one: &Properties, other: &Properties) -> Vec<String> {
    let naming = kind.endpoint_properties();
    let names_it = |name: &str| naming.iter().any(|known| known.eq_ignore_ascii_case(name));
    let mut names: Vec<String> = one
        .iter()
        .chain(other)
        .filter(|(name, _)| one.get(*name) != other.get(*name) && !names_it(name))
        .map(|(name, _)| name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

fn short_hash(text: &str) -> String {
    blake3::hash(text.as_bytes())
        .to_hex()
        .chars()
        .take(12)
        .collect()
}
