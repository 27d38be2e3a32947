//! All definitions at once, out and in: as eKuiper's exports have them. An import leaves alone what it
//! has as it is already, takes over live what differs, and says of each item that it cannot take why.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{ANY, Catalog, CatalogError, ConfKeyKind, TENANT, kind};
use crate::config::ekuiper::{
    Bundle, ConfItem, ConfKind, ConnectionItem, RuleItem, Section, StreamItem,
};
use crate::connections::pool::ConnectionDef;
use crate::connections::{Properties, secrets};
use crate::rules::query::StreamStatement;

/// What becomes of what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportMode {
    /// It stays as it is; only what is new is made (`/ruleset/import`).
    New,
    /// It is changed where it differs (`/data/import?partial=1`).
    Partial,
    /// As [`ImportMode::Partial`], and what the import does not have is deleted, unless an item of the
    /// import has failed (`/data/import`). Conf keys of sinks and connectors stay.
    Full,
}

/// What came of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Why items were not taken, by section and id.
    pub failed: BTreeMap<(Section, String), String>,
    /// Streams that were made or changed, or were so already.
    pub streams: usize,
    /// The same of rules.
    pub rules: usize,
    /// What was deleted.
    pub deleted: Vec<(Section, String)>,
}

const CANCELLED: &str = "the import was cancelled before it";

const MASKED: &str = "its secrets are masked (******) and none is stored here for them; export them with secrets=true as an authenticated admin, or give them";

impl Catalog {
    /// All definitions but connectors. With `mask`, secrets are masked.
    #[must_use]
    pub fn export(&self, mask: bool) -> Bundle {
        let shown = |typ: &str, props: Properties| match mask {
            true => secrets::mask(&props, self.known_properties(typ)),
            false => props,
        };
        let mut bundle = Bundle::default();
        for info in self.connections(false) {
            if let Some((typ, props)) = self.pool().stored(TENANT, &info.id) {
                bundle.connections.push(ConnectionItem {
                    props: shown(&typ, props),
                    typ: info.typ,
                    id: info.id,
                });
            }
        }
        for (kind, typ, key, props) in self.all_conf_keys() {
            bundle.conf_keys.push(ConfItem {
                kind: match kind {
                    ConfKeyKind::Sources => ConfKind::Source,
                    ConfKeyKind::Sinks => ConfKind::Sink,
                },
                props: shown(&typ, props),
                typ,
                key,
            });
        }
        let streams = self.stream_statements(mask).into_iter();
        bundle.streams = streams
            .map(|(name, sql)| StreamItem { name, sql })
            .collect();
        for (id, json) in self.rule_texts(mask) {
            let text = json.to_string();
            if let Value::Object(body) = json {
                bundle.rules.push(RuleItem { id, text, body });
            }
        }
        bundle
    }

    /// Takes in what a bundle has. Masks of secrets mean the stored ones.
    pub async fn import(&self, bundle: Bundle, mode: ImportMode) -> Imported {
        self.import_until(bundle, mode, &CancellationToken::new())
            .await
    }

    /// [`Catalog::import`], until it is cancelled: items that it had not come to then have failed, and
    /// nothing is deleted any more.
    pub async fn import_until(
        &self,
        bundle: Bundle,
        mode: ImportMode,
        cancelled: &CancellationToken,
    ) -> Imported {
        let not_yet = || match cancelled.is_cancelled() {
            true => Err(CatalogError::Conflict(CANCELLED.to_owned())),
            false => Ok(()),
        };
        let mut done = Imported::default();
        for note in &bundle.left {
            done.failed
                .insert((note.section, note.id.clone()), note.message.clone());
        }
        for table in &bundle.tables {
            let why =
                "tables serve joins, which a rule here does not do; look values up downstream";
            done.failed
                .insert((Section::Tables, table.name.clone()), why.to_owned());
        }
        let kept = Kept::of(&bundle);
        if mode == ImportMode::Full && done.failed.is_empty() {
            // They could stand in the way of what the import changes.
            for id in self.rules().into_iter().map(|rule| rule.id) {
                if !kept.rules.contains(&id) {
                    let gone = self.delete_rule(&id, ANY).await;
                    done.enter_deletion(Section::Rules, id, gone);
                }
            }
        }
        for item in bundle.connections {
            let key = (
                Section::ConnectionConfig,
                format!("{}/{}", item.typ, item.id),
            );
            let result = match not_yet() {
                Ok(()) => self.import_connection(item, mode).await,
                Err(cancelled) => Err(cancelled),
            };
            done.enter(key, result);
        }
        let mut changed = Vec::new();
        for item in bundle.conf_keys {
            let key = (item.section(), format!("{}/{}", item.typ, item.key));
            let of = (item.typ.clone(), item.key.clone());
            let result = match not_yet() {
                Ok(()) => self.import_conf_key(item, mode).await,
                Err(cancelled) => Err(cancelled),
            };
            if matches!(result, Ok(true)) {
                changed.push(of);
            }
            done.enter(key, result.map(drop));
        }
        for item in bundle.streams {
            let key = (Section::Streams, item.name.clone());
            let result = match not_yet() {
                Ok(()) => self.import_stream(item, mode).await,
                Err(cancelled) => Err(cancelled),
            };
            done.streams += usize::from(matches!(result, Ok(true)));
            done.enter(key, result.map(drop));
        }
        let mut fresh = BTreeSet::new();
        for item in bundle.rules {
            let (key, id) = ((Section::Rules, item.id.clone()), item.id.clone());
            let result = match not_yet() {
                Ok(()) => self.import_rule(item, mode).await,
                Err(cancelled) => Err(cancelled),
            };
            if matches!(result, Ok(true)) {
                done.rules += 1;
                fresh.insert(id);
            }
            done.enter(key, result.map(drop));
        }
        self.restart_on(&changed, &fresh).await;
        if mode == ImportMode::Full && done.failed.is_empty() {
            self.delete_others(&kept, &mut done).await;
        }
        done
    }

    /// Takes in a bundle that comes from a place which is looked at on each start (eKuiper's `etc`,
    /// `init.json`), if it says something else than at the last start. None: it does not.
    ///
    /// # Errors
    /// The store.
    pub async fn import_if_new(
        &self,
        place: &str,
        bundle: Bundle,
    ) -> Result<Option<Imported>, CatalogError> {
        let texts = [
            bundle.to_data().to_string(),
            format!("{:?}", bundle.deleted),
        ];
        let digest = blake3::hash(texts.concat().as_bytes()).to_hex().to_string();
        let known = self.store().definition(TENANT, kind::PLACE, place).await?;
        if known.is_some_and(|known| known.body == digest) {
            return Ok(None);
        }
        let deleted = bundle.deleted.clone();
        let mut imported = self.import(bundle, ImportMode::Partial).await;
        for (typ, id) in deleted {
            if self.connection_conf_keys(&typ).contains_key(&id) {
                let gone = self.delete_connection(&id, ANY).await;
                imported.enter_deletion(Section::ConnectionConfig, id, gone);
            }
        }
        self.store()
            .put_definition(TENANT, kind::PLACE, place, &digest, None)
            .await?;
        Ok(Some(imported))
    }

    async fn import_connection(
        &self,
        item: ConnectionItem,
        mode: ImportMode,
    ) -> Result<(), CatalogError> {
        let mut def = ConnectionDef {
            id: item.id,
            typ: item.typ,
            props: item.props,
        };
        match self.pool().stored(TENANT, &def.id) {
            Some(_) if mode == ImportMode::New => return Ok(()),
            Some((_, props)) => def.props = secrets::merge(&def.props, &props),
            None => {}
        }
        check_masks(&Value::Object(def.props.clone()))?;
        self.apply_connection(def).await
    }

    /// Whether it has changed.
    async fn import_conf_key(
        &self,
        item: ConfItem,
        mode: ImportMode,
    ) -> Result<bool, CatalogError> {
        let kind = match item.kind {
            ConfKind::Source => ConfKeyKind::Sources,
            ConfKind::Sink => ConfKeyKind::Sinks,
        };
        let typ = item.typ.to_ascii_lowercase();
        let present = self
            .all_conf_keys()
            .into_iter()
            .find(|(of, other, key, _)| *of == kind && *other == typ && *key == item.key);
        let mut props = item.props;
        if let Some((.., stored)) = present {
            props = secrets::merge(&props, &stored);
            if mode == ImportMode::New || props == stored {
                return Ok(false);
            }
        }
        check_masks(&Value::Object(props.clone()))?;
        self.put_conf_key(kind, &typ, &item.key, props).await?;
        Ok(true)
    }

    /// Whether it counts as imported.
    async fn import_stream(
        &self,
        item: StreamItem,
        mode: ImportMode,
    ) -> Result<bool, CatalogError> {
        let stored = self.stream_statements(false).into_iter();
        let stored = stored.into_iter().find(|(name, _)| *name == item.name);
        let mut sql = item.sql;
        if let Some((_, stored)) = &stored {
            if mode == ImportMode::New {
                return Ok(false);
            }
            sql = with_secrets(&sql, stored);
        }
        if let Ok(statement) = StreamStatement::parse(&sql) {
            check_masks(&Value::Object(statement.extra))?;
        }
        self.apply_stream(&sql).await?;
        Ok(true)
    }

    async fn import_rule(&self, item: RuleItem, mode: ImportMode) -> Result<bool, CatalogError> {
        let stored = self.rule_texts(false).into_iter();
        let stored = stored.into_iter().find(|(id, _)| *id == item.id);
        let mut body = item.body;
        if let Some((_, Value::Object(stored))) = &stored {
            if mode == ImportMode::New {
                return Ok(false);
            }
            body = secrets::merge(&body, stored);
        }
        let json = Value::Object(body);
        check_masks(&json)?;
        self.apply_rule(&item.id, &json).await?;
        Ok(true)
    }

    /// Rules that run read conf keys when they start.
    async fn restart_on(&self, changed: &[(String, String)], fresh: &BTreeSet<String>) {
        if changed.is_empty() {
            return;
        }
        let uses = |sql: &str| {
            StreamStatement::parse(sql).is_ok_and(|statement| {
                changed.iter().any(|(typ, key)| {
                    statement.typ.eq_ignore_ascii_case(typ)
                        && (key == "default"
                            || statement
                                .conf_key
                                .as_ref()
                                .is_some_and(|own| own.eq_ignore_ascii_case(key)))
                })
            })
        };
        let streams: Vec<String> = self
            .stream_statements(false)
            .into_iter()
            .filter_map(|(name, sql)| uses(&sql).then_some(name))
            .collect();
        for stream in streams {
            for rule in self.rules_on(&stream) {
                if !fresh.contains(&rule) {
                    self.restart_if_running(&rule).await;
                }
            }
        }
    }

    /// What the import does not have, in the order in which nothing refers to it any more.
    async fn delete_others(&self, kept: &Kept, done: &mut Imported) {
        for name in self.streams().into_iter().map(|stream| stream.name) {
            if !kept.streams.contains(&name) {
                let gone = self.delete_stream(&name, false, ANY).await;
                done.enter_deletion(Section::Streams, name, gone);
            }
        }
        for (kind, typ, key, _) in self.all_conf_keys() {
            let id = format!("{typ}/{key}");
            if kind == ConfKeyKind::Sources && !kept.conf_keys.contains(&id) {
                let gone = self.delete_conf_key(kind, &typ, &key).await;
                done.enter_deletion(Section::SourceConfig, id, gone);
            }
        }
        for id in self.connections(false).into_iter().map(|info| info.id) {
            if !kept.connections.contains(&id) {
                let gone = self.delete_connection(&id, ANY).await;
                done.enter_deletion(Section::ConnectionConfig, id, gone);
            }
        }
    }
}

impl Imported {
    fn enter(&mut self, key: (Section, String), result: Result<(), CatalogError>) {
        if let Err(error) = result {
            self.failed.insert(key, error.to_string());
        }
    }

    fn enter_deletion(&mut self, section: Section, id: String, result: Result<(), CatalogError>) {
        match result {
            Ok(()) => self.deleted.push((section, id)),
            Err(error) => {
                let why = format!("it is not in the import and cannot be deleted: {error}");
                self.failed.insert((section, id), why);
            }
        }
    }
}

/// The ids that an import has.
struct Kept {
    connections: BTreeSet<String>,
    /// `type/key`, of sources.
    conf_keys: BTreeSet<String>,
    streams: BTreeSet<String>,
    rules: BTreeSet<String>,
}

impl Kept {
    fn of(bundle: &Bundle) -> Self {
        let sources = bundle
            .conf_keys
            .iter()
            .filter(|item| item.kind == ConfKind::Source);
        Self {
            connections: bundle
                .connections
                .iter()
                .map(|item| item.id.clone())
                .collect(),
            conf_keys: sources
                .map(|item| format!("{}/{}", item.typ.to_ascii_lowercase(), item.key))
                .collect(),
            streams: bundle
                .streams
                .iter()
                .map(|item| item.name.clone())
                .collect(),
            rules: bundle.rules.iter().map(|item| item.id.clone()).collect(),
        }
    }
}

/// The statement, with the stored secrets where its EXTRA has masks.
pub(super) fn with_secrets(sql: &str, stored: &str) -> String {
    if !sql.contains(secrets::MASK) {
        return sql.to_owned();
    }
    let (Ok(new), Ok(old)) = (StreamStatement::parse(sql), StreamStatement::parse(stored)) else {
        return sql.to_owned();
    };
    let extra = secrets::merge(&new.extra, &old.extra);
    if extra == old.extra {
        // What was shown is what is there, to the letter.
        let masked = Value::Object(secrets::mask(&old.extra, &[])).to_string();
        if old.with_extra(stored, &masked) == sql {
            return stored.to_owned();
        }
    }
    new.with_extra(sql, &Value::Object(extra).to_string())
}

/// A mask that is left stands for a secret that nobody has.
fn check_masks(value: &Value) -> Result<(), CatalogError> {
    fn has_mask(value: &Value) -> bool {
        match value {
            // Also as the user part of a URL.
            Value::String(text) => {
                text == secrets::MASK || text.contains(&format!("{}@", secrets::MASK))
            }
            Value::Array(items) => items.iter().any(has_mask),
            Value::Object(map) => map.values().any(has_mask),
            _ => false,
        }
    }
    if has_mask(value) {
        return Err(CatalogError::Invalid(MASKED.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_statement_that_was_shown_masked_comes_back_with_its_secrets() {
        let stored = r#"CREATE STREAM s () WITH (DATASOURCE="t",  EXTRA="{\"password\":\"hush\",\"qos\":1}")"#;
        let statement = StreamStatement::parse(stored).unwrap();
        let masked = Value::Object(secrets::mask(&statement.extra, &[])).to_string();
        let shown = statement.with_extra(stored, &masked);
        assert!(!shown.contains("hush"));
        assert_eq!(with_secrets(&shown, stored), stored);
        let other = shown.replace("\"t\"", "\"u\"");
        let merged = StreamStatement::parse(&with_secrets(&other, stored)).unwrap();
        assert_eq!(
            (merged.datasource.as_str(), &merged.extra["password"]),
            ("u", &json!("hush"))
        );
    }

    #[test]
    fn a_mask_without_a_stored_secret_is_refused() {
        assert!(check_masks(&json!({"a": [{"password": "******"}]})).is_err());
        assert!(check_masks(&json!({"dburl": "mysql://******@h/db"})).is_err());
        assert!(check_masks(&json!({"note": "stars: ****** are no secret"})).is_ok());
    }
}
