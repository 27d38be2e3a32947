//! A rule with all that it refers to, put together as a small manifest and planned: the same checks as
//! for a manifest's rules.

use crate::config::{
    ConfKeyDef, ConnectionDef, ConnectorDef, Manifest, RuleDef, StreamDef, nearest, pointer_to,
};
use crate::rules::plan::{Around, RulePlan, plan_around};
use crate::rules::query::Query;

use super::conf_keys::ConfKeyKind;
use super::definition::Definition;
use super::error::sentence;
use super::{Book, Catalog, CatalogError, Stream, TENANT};

/// A rule that can be started, and what should be looked at though it can.
pub(super) struct Planned {
    pub(super) plan: RulePlan,
    pub(super) warnings: Vec<String>,
}

impl Catalog {
    /// Plans a rule on what is defined now. Compiles connectors that are not cached yet.
    pub(super) async fn plan(&self, def: &RuleDef) -> Result<Planned, CatalogError> {
        let manifest = {
            let book = self.0.book.read();
            let stream = match Query::parse(&def.sql) {
                Ok(query) => Some(
                    book.streams
                        .get(query.stream())
                        .ok_or_else(|| CatalogError::Invalid(no_stream(query.stream(), &book)))?,
                ),
                // The planner says what is wrong with it.
                Err(_mistake) => None,
            };
            self.manifest(&book, def, stream.map(|kept| &*kept.value))
        };
        self.plan_manifest(manifest).await
    }

    /// The same of a rule that is defined.
    pub(super) async fn plan_kept(&self, kept: &Definition) -> Result<Planned, CatalogError> {
        self.plan(&kept.def()?).await
    }

    /// Plans a rule as it would be on another definition of its stream.
    pub(super) async fn plan_on(
        &self,
        rule: &str,
        stream: &Stream,
    ) -> Result<Planned, CatalogError> {
        let manifest = {
            let book = self.0.book.read();
            let kept = book.rules.get(rule);
            let definition =
                kept.ok_or_else(|| CatalogError::NotFound(format!("Rule {rule} is not found.")))?;
            self.manifest(&book, &definition.value.def()?, Some(stream))
        };
        self.plan_manifest(manifest).await
    }

    fn manifest(&self, book: &Book, def: &RuleDef, stream: Option<&Stream>) -> Manifest {
        let mut manifest = Manifest::default();
        manifest.whole = true;
        if let Some(stream) = stream {
            manifest.streams.push(StreamDef {
                sql: stream.sql.clone(),
                pointer: pointer_to("/streams", &stream.statement.name),
            });
            let typ = &stream.statement.typ;
            let of_type = book.conf_keys.iter().filter(|((kind, of, _), _)| {
                *kind == ConfKeyKind::Sources && of.eq_ignore_ascii_case(typ)
            });
            manifest.conf_keys = of_type
                .map(|((_, typ, key), kept)| ConfKeyDef {
                    typ: typ.clone(),
                    key: key.clone(),
                    props: kept.value.clone(),
                    pointer: pointer_to(&pointer_to("/confKeys", typ), key),
                })
                .collect();
        }
        let used = |name: &str| {
            stream.is_some_and(|stream| stream.statement.typ == name)
                || def.actions.iter().any(|action| action.typ == name)
        };
        let connectors = book.connectors.iter().filter(|(name, _)| used(name));
        manifest.connectors = connectors
            .map(|(name, kept)| ConnectorDef {
                name: name.clone(),
                path: kept.value.path.clone(),
                pointer: pointer_to("/connectors", name),
            })
            .collect();
        manifest.rules.push(def.clone());
        manifest
    }

    async fn plan_manifest(&self, mut manifest: Manifest) -> Result<Planned, CatalogError> {
        let parts = &self.0.parts;
        let mut around = Around::default();
        for (id, typ, interfaces) in parts.pool.offers(TENANT) {
            let pointer = pointer_to("/connections", &id);
            around.offers.insert(id.clone(), interfaces);
            manifest.connections.push(ConnectionDef {
                id,
                typ,
                props: serde_json::Map::new(),
                pointer,
            });
        }
        around.loaded = self.0.loaded.lock().clone();
        let (mut plan, errors, warnings) = plan_around(
            &manifest,
            &mut around,
            &parts.runtime,
            &parts.pool,
            &*parts.progress,
        )
        .await;
        self.remember(around);
        if !errors.is_empty() {
            return Err(CatalogError::mistakes(&errors));
        }
        let plan = plan.rules.pop().ok_or_else(|| {
            // The planner has said why for all that it leaves out.
            CatalogError::Invalid("the rule cannot be planned".to_owned())
        })?;
        Ok(Planned {
            plan,
            warnings: warnings.iter().map(sentence).collect(),
        })
    }

    /// Keeps what was loaded, but nothing that was replaced meanwhile.
    fn remember(&self, around: Around) {
        let book = self.0.book.read();
        let mut loaded = self.0.loaded.lock();
        for (name, connector) in around.loaded {
            let present = match book.connectors.get(&name) {
                Some(kept) => kept.value.digest == connector.digest,
                None => crate::connectors::is_bundled(&name),
            };
            if present {
                loaded.insert(name, connector);
            }
        }
    }
}

fn no_stream(name: &str, book: &Book) -> String {
    let hint = match nearest(name, book.streams.keys().map(String::as_str)) {
        Some(near) => format!("; did you mean \"{near}\"?"),
        None if book.streams.is_empty() => "; there is none".to_owned(),
        None => String::new(),
    };
    format!("there is no stream \"{name}\"{hint}")
}
