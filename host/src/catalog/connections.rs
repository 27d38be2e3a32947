//! Named connections: the pool has them, the store keeps them.

use serde_json::{Value, json};

use super::{Catalog, CatalogError, May, TENANT, check_revision, kind};
use crate::connections::Properties;
use crate::connections::pool::{ConnectionDef, Info, PoolError};

/// What stands in the store.
pub(super) fn body(typ: &str, props: &Properties) -> Value {
    json!({ "typ": typ, "props": props })
}

impl Catalog {
    /// The connections, by id; those that rules brought along too if `all`.
    #[must_use]
    pub fn connections(&self, all: bool) -> Vec<Info> {
        self.pool().list(TENANT, all)
    }

    /// One connection, named or not, with its revision (0: it is in no store).
    #[must_use]
    pub fn connection(&self, id: &str) -> Option<(Info, u64)> {
        let info = self.pool().get(TENANT, id)?;
        Some((info, self.connection_revision(id)))
    }

    /// The revision of a named connection; 0: there is none.
    #[must_use]
    pub fn connection_revision(&self, id: &str) -> u64 {
        let book = self.0.book.read();
        book.connections.get(id).copied().unwrap_or_default()
    }

    /// Makes a named connection, which dials at once.
    ///
    /// # Errors
    /// The pool's refusals, the store's; nothing has changed.
    pub async fn create_connection(&self, def: ConnectionDef) -> Result<u64, CatalogError> {
        let _turn = self.0.changing.lock().await;
        self.pool().validate_new(TENANT, &def)?;
        let revision = self
            .write(kind::CONNECTION, &def.id, &body(&def.typ, &def.props))
            .await?;
        let id = def.id.clone();
        if let Err(error) = self.pool().create_named(TENANT, def) {
            self.erase(kind::CONNECTION, &id).await?;
            return Err(error.into());
        }
        self.enter_connection(&id, revision);
        Ok(revision)
    }

    /// Gives a named connection other properties, live; the masks of secrets mean the stored ones.
    ///
    /// # Errors
    /// Unknown, anonymous, mistakes, the store, another revision: the old one runs on.
    pub async fn replace_connection(
        &self,
        def: ConnectionDef,
        may: May<'_>,
    ) -> Result<u64, CatalogError> {
        let _turn = self.0.changing.lock().await;
        let props = self.pool().validate_replacement(TENANT, &def)?;
        check_revision(may, self.connection_revision(&def.id))?;
        let old = self.pool().stored(TENANT, &def.id);
        if let Some((typ, stored)) = &old
            && typ.eq_ignore_ascii_case(&def.typ)
            && *stored == props
        {
            // It is that already: nobody is cut off for nothing.
            return Ok(self.connection_revision(&def.id));
        }
        let revision = self
            .write(kind::CONNECTION, &def.id, &body(&def.typ, &props))
            .await?;
        let def = ConnectionDef { props, ..def };
        if let Err(error) = self.pool().replace(TENANT, &def) {
            if let Some((typ, props)) = old {
                self.write(kind::CONNECTION, &def.id, &body(&typ, &props))
                    .await?;
            }
            return Err(error.into());
        }
        self.enter_connection(&def.id, revision);
        Ok(revision)
    }

    /// Deletes a named connection and what was kept for it. One that does not exist is no error, as in
    /// eKuiper.
    ///
    /// # Errors
    /// Anonymous, in use (with the rules' names), the store, another revision.
    pub async fn delete_connection(&self, id: &str, may: May<'_>) -> Result<(), CatalogError> {
        let _turn = self.0.changing.lock().await;
        check_revision(may, self.connection_revision(id))?;
        let Some(old) = self.pool().stored(TENANT, id) else {
            return match self.pool().get(TENANT, id) {
                Some(_) => Err(PoolError::Anonymous(id.to_owned()).into()),
                None => Ok(()),
            };
        };
        let users = self.pool().get(TENANT, id).map(|info| info.users);
        if let Some(users) = users.filter(|users| !users.is_empty()) {
            let id = id.to_owned();
            return Err(PoolError::InUse { id, users }.into());
        }
        self.erase(kind::CONNECTION, id).await?;
        if let Err(error) = self.pool().delete(TENANT, id) {
            // A rule has taken it in between.
            self.write(kind::CONNECTION, id, &body(&old.0, &old.1))
                .await?;
            return Err(error.into());
        }
        {
            let mut book = self.0.book.write();
            book.connections.remove(id);
            book.change += 1;
        }
        if let Err(error) = self.store().forget(TENANT, id).await {
            tracing::warn!(connection = id, %error, "what was kept for a deleted connection is still there");
        }
        Ok(())
    }

    pub(super) fn enter_connection(&self, id: &str, revision: u64) {
        let mut book = self.0.book.write();
        book.connections.insert(id.to_owned(), revision);
        book.change += 1;
    }
}
