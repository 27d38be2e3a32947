//! A manifest over what is defined: each of its definitions is made, or changed where it differs. What
//! the manifest does not name stays as it is.

use crate::config::{Manifest, ManifestError};
use crate::connections::pool::ConnectionDef;
use crate::rules::query::StreamStatement;

use super::{ANY, Catalog, CatalogError, ConfKeyKind, TENANT};

impl Catalog {
    /// Takes in what a manifest defines, in the order in which it refers to itself.
    ///
    /// # Errors
    /// The mistakes, each at its place; what had none was taken in.
    pub async fn apply(&self, manifest: &Manifest) -> Result<(), Vec<ManifestError>> {
        let mut errors = Vec::new();
        let mut note = |pointer: &str, done: Result<(), CatalogError>| {
            if let Err(error) = done {
                errors.push(manifest.error(pointer, error.to_string()));
            }
        };
        for def in &manifest.connectors {
            let done = match tokio::fs::read(&def.path).await {
                Ok(wasm) => self.apply_connector(&def.name, wasm).await,
                Err(error) => Err(CatalogError::Invalid(format!(
                    "{} cannot be read: {error}",
                    def.path.display()
                ))),
            };
            note(&def.pointer, done);
        }
        for def in manifest.conf_keys.iter() {
            let done = self
                .put_conf_key(ConfKeyKind::Sources, &def.typ, &def.key, def.props.clone())
                .await;
            note(&def.pointer, done);
        }
        for def in &manifest.connections {
            let named = ConnectionDef {
                id: def.id.clone(),
                typ: def.typ.clone(),
                props: def.props.clone(),
            };
            note(&def.pointer, self.apply_connection(named).await);
        }
        for def in &manifest.streams {
            note(&def.pointer, self.apply_stream(&def.sql).await);
        }
        for def in &manifest.rules {
            let done = self.apply_rule(&def.id, &def.json.0).await;
            note(&def.pointer, done);
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    async fn apply_connector(&self, name: &str, wasm: Vec<u8>) -> Result<(), CatalogError> {
        let digest = blake3::hash(&wasm).to_hex().to_string();
        let present = self.0.book.read().connectors.get(name).cloned();
        if present.is_some_and(|kept| kept.value.digest == digest) {
            return Ok(());
        }
        self.put_connector(name, wasm.into(), ANY).await.map(drop)
    }

    pub(super) async fn apply_connection(&self, def: ConnectionDef) -> Result<(), CatalogError> {
        match self.pool().stored(TENANT, &def.id) {
            Some((typ, props)) if props == def.props && typ.eq_ignore_ascii_case(&def.typ) => {
                Ok(())
            }
            Some(_) => self.replace_connection(def, ANY).await.map(drop),
            None => self.create_connection(def).await.map(drop),
        }
    }

    pub(super) async fn apply_stream(&self, sql: &str) -> Result<(), CatalogError> {
        let present = match StreamStatement::parse(sql) {
            Ok(statement) => {
                let book = self.0.book.read();
                let kept = book.streams.get(&statement.name);
                kept.map(|kept| (statement.name, kept.value.sql.clone()))
            }
            // Whoever makes it says what is wrong.
            Err(_mistake) => None,
        };
        match present {
            Some((_, text)) if text == sql => Ok(()),
            Some((name, _)) => self.replace_stream(&name, sql, ANY).await,
            None => self.create_stream(sql).await.map(drop),
        }
    }

    pub(super) async fn apply_rule(
        &self,
        id: &str,
        json: &serde_json::Value,
    ) -> Result<(), CatalogError> {
        let present = self.0.book.read().rules.get(id).cloned();
        match present {
            Some(kept) if kept.value.says(json) => Ok(()),
            Some(_) => self.replace_rule(id, json.clone(), ANY).await,
            None => self.create_rule(json.clone()).await.map(drop),
        }
    }
}
