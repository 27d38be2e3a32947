//! Brings back what the last run has left, and takes in what a manifest says. Nothing that is stored
//! keeps the host from starting: what cannot be used stays as it is, and its status says why.

use std::sync::Arc;

use serde_json::Value;

use super::conf_keys::key_of;
use super::connectors::Definition;
use super::{Catalog, CatalogError, Kept, Stream, TENANT, definition, kind};
use crate::connections::Properties;
use crate::connections::pool::ConnectionDef;
use crate::rules::query::StreamStatement;
use crate::store::Definition as Stored;

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The rules that ran, and are to be started.
    pub run: Vec<String>,
    /// Connections.
    pub connections: usize,
    /// Streams.
    pub streams: usize,
    /// Rules, running or not.
    pub rules: usize,
    /// Definitions that cannot be read; they stay in the store.
    pub broken: usize,
}

impl Catalog {
    /// Enters the definitions of the last run; their connections begin to dial. To be called once, first;
    /// then [`Catalog::start_restored`].
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn restore(&self) -> Result<Restored, CatalogError> {
        let mut restored = Restored::default();
        let broken = |what: &str, id: &str, why: &str| {
            tracing::error!(what, id, why, "a stored definition cannot be used");
        };
        let mut lost = 0;
        for stored in self.stored(kind::CONNECTOR).await? {
            let body: Value = serde_json::from_str(&stored.body).unwrap_or_default();
            let Some(digest) = body.get("digest").and_then(Value::as_str) else {
                broken("connector", &stored.id, "it has no digest");
                lost += 1;
                continue;
            };
            let path = self.0.parts.folder.join(format!("{digest}.wasm"));
            let digest = digest.to_owned();
            self.enter_connector(&stored.id, stored.revision, Definition { digest, path });
        }
        for stored in self.stored(kind::CONF_KEY).await? {
            let props = serde_json::from_str::<Properties>(&stored.body);
            let (Some(key), Ok(value)) = (key_of(&stored.id), props) else {
                broken(
                    "conf key",
                    &stored.id,
                    "it is no object, or its name is none",
                );
                lost += 1;
                continue;
            };
            let revision = stored.revision;
            self.0
                .book
                .write()
                .conf_keys
                .insert(key, Kept { revision, value });
        }
        for stored in self.stored(kind::CONNECTION).await? {
            match self.restore_connection(&stored) {
                Ok(()) => restored.connections += 1,
                Err(why) => {
                    broken("connection", &stored.id, &why);
                    lost += 1;
                }
            }
        }
        for stored in self.stored(kind::STREAM).await? {
            match stream_of(&stored) {
                Ok(stream) => {
                    let (revision, value) = (stored.revision, Arc::new(stream));
                    let kept = Kept { revision, value };
                    self.0.book.write().streams.insert(stored.id, kept);
                    restored.streams += 1;
                }
                Err(why) => {
                    broken("stream", &stored.id, &why);
                    lost += 1;
                }
            }
        }
        let mut run = Vec::new();
        for stored in self.stored(kind::RULE).await? {
            let json: Value = serde_json::from_str(&stored.body).unwrap_or_default();
            match definition::read(json, Some(&stored.id)) {
                Ok((definition, _)) => {
                    if definition.triggered {
                        run.push(stored.id.clone());
                    }
                    let (revision, value) = (stored.revision, Arc::new(definition));
                    let kept = Kept { revision, value };
                    self.0.book.write().rules.insert(stored.id, kept);
                    restored.rules += 1;
                }
                Err(why) => {
                    broken("rule", &stored.id, &why.to_string());
                    lost += 1;
                }
            }
        }
        for id in &run {
            self.seat(id).coming();
        }
        restored.broken = lost;
        restored.run = run;
        Ok(restored)
    }

    /// Starts the rules that ran, one after the other. Compiles what is not cached any more.
    pub async fn start_restored(&self, run: &[String]) {
        for id in run {
            self.revive(id).await;
        }
    }

    async fn stored(&self, kind: &'static str) -> Result<Vec<Stored>, CatalogError> {
        Ok(self.store().definitions(TENANT, kind).await?)
    }

    fn restore_connection(&self, stored: &Stored) -> Result<(), String> {
        let body: Value = serde_json::from_str(&stored.body).map_err(|error| error.to_string())?;
        let (Some(typ), Some(props)) = (
            body.get("typ").and_then(Value::as_str),
            body.get("props").and_then(Value::as_object),
        ) else {
            return Err("it has no \"typ\" or no \"props\"".to_owned());
        };
        let def = ConnectionDef {
            id: stored.id.clone(),
            typ: typ.to_owned(),
            props: props.clone(),
        };
        let mistakes = self
            .pool()
            .restore_named(TENANT, def)
            .map_err(|error| error.to_string())?;
        for mistake in mistakes {
            tracing::error!(connection = stored.id, %mistake, "a stored connection cannot work");
        }
        self.enter_connection(&stored.id, stored.revision);
        Ok(())
    }
}

fn stream_of(stored: &Stored) -> Result<Stream, String> {
    let body: Value = serde_json::from_str(&stored.body).map_err(|error| error.to_string())?;
    let sql = body.get("sql").and_then(Value::as_str);
    let sql = sql.ok_or("it has no \"sql\"")?.to_owned();
    let statement = StreamStatement::parse(&sql).map_err(|error| error.to_string())?;
    Ok(Stream { sql, statement })
}
