//! Connectors: those that come with the host, and components that users bring. A component lies in the
//! data folder under its digest; the definition says which one a name stands for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use super::{Catalog, CatalogError, Kept, May, check_revision, kind};
use crate::config::validate_id;
use crate::connectors::{bundled, is_bundled, names};
use crate::runtime::Connector;
use crate::snapshot::{Inspection, SlotRow};

/// A component that a user brought.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    /// BLAKE3 of the component, in hex.
    pub(super) digest: String,
    /// Its file.
    pub(super) path: PathBuf,
}

/// A connector as it is shown.
#[derive(Clone, Debug)]
pub struct ConnectorInfo {
    /// Under which name streams and actions use it.
    pub name: String,
    /// It comes with the host.
    pub bundled: bool,
    /// BLAKE3 of the component, in hex.
    pub digest: String,
    /// Grows with each change; 0 for one that comes with the host.
    pub revision: u64,
    /// What it says of itself.
    pub inspection: Inspection,
    /// Streams whose TYPE it is.
    pub streams: Vec<String>,
    /// Rules with an action of it.
    pub rules: Vec<String>,
}

/// What a loaded connector says of itself.
#[must_use]
pub fn inspection(connector: &Connector) -> Inspection {
    let descriptor = &connector.descriptor;
    let roles = [
        ("source", connector.has_source),
        ("sink", connector.has_sink),
    ];
    let slots = descriptor.slots.iter();
    Inspection {
        name: descriptor.name.clone(),
        version: descriptor.version.clone(),
        description: descriptor.description.clone(),
        bytes: connector.wasm_size,
        roles: roles
            .iter()
            .filter(|(_, has)| *has)
            .map(|(role, _)| (*role).to_owned())
            .collect(),
        slots: slots
            .map(|slot| SlotRow {
                name: slot.name.clone(),
                interface: slot.interface.as_str().to_owned(),
                optional: slot.optional,
                description: slot.description.clone(),
            })
            .collect(),
        imports: connector.imports.clone(),
        config_schema: descriptor.config_schema.to_string(),
    }
}

fn unknown(name: &str) -> CatalogError {
    CatalogError::NotFound(format!("connector {name} is not found"))
}

impl Catalog {
    /// The names of all connectors, sorted.
    #[must_use]
    pub fn connector_names(&self) -> Vec<String> {
        let book = self.0.book.read();
        let mut all: Vec<String> = names().into_iter().map(str::to_owned).collect();
        all.extend(book.connectors.keys().cloned());
        all.sort();
        all.dedup();
        all
    }

    /// A connector and who uses it. Loads it if no rule has yet.
    ///
    /// # Errors
    /// Unknown; its file cannot be read, or is no connector any more.
    pub async fn connector(&self, name: &str) -> Result<ConnectorInfo, CatalogError> {
        let own = self.0.book.read().connectors.get(name).cloned();
        let connector = self.load_connector(name, own.as_ref()).await?;
        let (streams, rules) = self.connector_users(name);
        Ok(ConnectorInfo {
            name: name.to_owned(),
            bundled: own.is_none(),
            digest: connector.digest.clone(),
            revision: own.map_or(0, |kept| kept.revision),
            inspection: inspection(&connector),
            streams,
            rules,
        })
    }

    async fn load_connector(
        &self,
        name: &str,
        own: Option<&Kept<Definition>>,
    ) -> Result<Arc<Connector>, CatalogError> {
        let loaded = self.0.loaded.lock().get(name).cloned();
        if let Some(loaded) = loaded {
            return Ok(loaded);
        }
        let wasm = match own {
            Some(kept) => tokio::fs::read(&kept.value.path)
                .await
                .map(Bytes::from)
                .map_err(CatalogError::Disk)?,
            None => bundled(name).ok_or_else(|| unknown(name))?,
        };
        let parts = &self.0.parts;
        let connector = parts.runtime.load(name, wasm, &*parts.progress).await?;
        let mut loaded = self.0.loaded.lock();
        Ok(Arc::clone(
            loaded.entry(name.to_owned()).or_insert(connector),
        ))
    }

    /// The streams and the rules that use a connector.
    fn connector_users(&self, name: &str) -> (Vec<String>, Vec<String>) {
        let book = self.0.book.read();
        let streams: Vec<String> = book
            .streams
            .iter()
            .filter(|(_, kept)| kept.value.statement.typ == name)
            .map(|(stream, _)| stream.clone())
            .collect();
        let acts = |actions: &[String]| actions.iter().any(|typ| typ == name);
        let rules = book.rules.iter();
        let rules = rules.filter(|(_, kept)| acts(&kept.value.actions));
        (streams.clone(), rules.map(|(id, _)| id.clone()).collect())
    }

    /// Takes a component in under a name, or puts it in the place of the one of that name: the rules
    /// that use it are started anew, one after the other, and miss nothing meanwhile. Its revision, and
    /// whether it is new.
    ///
    /// # Errors
    /// A name that is none or comes with the host; no connector; a rule that could not run with it;
    /// another revision; the disk. Nothing has changed.
    pub async fn put_connector(
        &self,
        name: &str,
        wasm: Bytes,
        may: May<'_>,
    ) -> Result<(u64, bool), CatalogError> {
        validate_id(name).map_err(CatalogError::Invalid)?;
        if is_bundled(name) {
            return Err(CatalogError::Conflict(format!(
                "connector {name} comes with the host; choose another name"
            )));
        }
        let parts = &self.0.parts;
        let connector = parts
            .runtime
            .load(name, wasm.clone(), &*parts.progress)
            .await?;
        let digest = connector.digest.clone();
        let path = parts.folder.join(format!("{digest}.wasm"));
        let turn = self.0.changing.lock().await;
        let old = self.0.book.read().connectors.get(name).cloned();
        let is_new = old.is_none();
        check_revision(may, old.as_ref().map_or(0, |kept| kept.revision))?;
        let file = path.clone();
        tokio::task::spawn_blocking(move || keep_file(&file, &wasm))
            .await
            .unwrap_or_else(|ended| Err(std::io::Error::other(ended)))
            .map_err(CatalogError::Disk)?;
        let value = Definition {
            digest: digest.clone(),
            path,
        };
        self.enter_connector(name, 0, value.clone());
        self.0.loaded.lock().insert(name.to_owned(), connector);
        let (streams, mut rules) = self.connector_users(name);
        rules.extend(streams.iter().flat_map(|stream| self.rules_on(stream)));
        rules.sort();
        rules.dedup();
        let written = match self.plan_all(&rules).await {
            Ok(()) => {
                self.write(kind::CONNECTOR, name, &json!({ "digest": digest }))
                    .await
            }
            Err(error) => Err(error),
        };
        let revision = match written {
            Ok(revision) => revision,
            Err(error) => {
                self.0.loaded.lock().remove(name);
                let mut book = self.0.book.write();
                match old {
                    Some(old) => book.connectors.insert(name.to_owned(), old),
                    None => book.connectors.remove(name),
                };
                return Err(error);
            }
        };
        self.enter_connector(name, revision, value);
        drop(turn);
        for rule in rules {
            self.restart_if_running(&rule).await;
        }
        if let Some(old) = old.filter(|old| old.value.digest != digest) {
            self.drop_file(&old.value);
        }
        Ok((revision, is_new))
    }

    async fn plan_all(&self, rules: &[String]) -> Result<(), CatalogError> {
        for rule in rules {
            let kept = self.0.book.read().rules.get(rule).cloned();
            let Some(kept) = kept else { continue };
            self.plan_kept(&kept.value).await.map_err(|error| {
                CatalogError::Invalid(format!("rule {rule} cannot run with it: {error}"))
            })?;
        }
        Ok(())
    }

    /// Deletes a connector that nothing uses.
    ///
    /// # Errors
    /// Unknown, comes with the host, in use (by which streams and rules), another revision, the store.
    pub async fn delete_connector(&self, name: &str, may: May<'_>) -> Result<(), CatalogError> {
        if is_bundled(name) {
            return Err(CatalogError::Conflict(format!(
                "connector {name} comes with the host"
            )));
        }
        let _turn = self.0.changing.lock().await;
        let present = self.0.book.read().connectors.get(name).cloned();
        let Some(present) = present else {
            return Err(unknown(name));
        };
        check_revision(may, present.revision)?;
        let (streams, rules) = self.connector_users(name);
        if !streams.is_empty() || !rules.is_empty() {
            return Err(CatalogError::Conflict(format!(
                "connector {name} is used by streams [{}] and rules [{}]",
                streams.join(" "),
                rules.join(" ")
            )));
        }
        self.erase(kind::CONNECTOR, name).await?;
        {
            let mut book = self.0.book.write();
            book.connectors.remove(name);
            book.change += 1;
        }
        self.0.loaded.lock().remove(name);
        self.drop_file(&present.value);
        Ok(())
    }

    pub(super) fn enter_connector(&self, name: &str, revision: u64, value: Definition) {
        let mut book = self.0.book.write();
        book.connectors
            .insert(name.to_owned(), Kept { revision, value });
        book.change += 1;
    }

    /// Removes a component's file, unless another name stands for the same one.
    fn drop_file(&self, definition: &Definition) {
        let book = self.0.book.read();
        let used = book
            .connectors
            .values()
            .any(|kept| kept.value.digest == definition.digest);
        drop(book);
        if !used && let Err(error) = std::fs::remove_file(&definition.path) {
            tracing::debug!(%error, "the file of a connector is still there");
        }
    }
}

/// The whole file or none: written beside its place, made durable, and moved there.
fn keep_file(path: &Path, wasm: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let beside = path.with_extension("part");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(wasm)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&beside, path)?;
    std::fs::File::open(folder)?.sync_all()
}
