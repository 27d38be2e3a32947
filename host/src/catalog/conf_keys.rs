//! Conf keys: properties under a name that streams (and one day actions) refer to. Those of kind
//! `connections` are the named connections themselves.

use serde_json::{Map, Value};

use super::{Catalog, CatalogError, Kept, TENANT, kind};
use crate::config::{nearest, validate_id};
use crate::connections::pool::ConnectionDef;
use crate::connections::{Properties, secrets};

/// What a conf key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfKeyKind {
    /// Streams.
    Sources,
    /// Actions.
    Sinks,
}

impl ConfKeyKind {
    /// The word in paths and in exports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Sources => "sources",
            Self::Sinks => "sinks",
        }
    }

    /// The kind of that word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        [Self::Sources, Self::Sinks]
            .into_iter()
            .find(|kind| kind.word() == word)
    }
}

/// Kind, type in lower case, name.
pub(super) type Key = (ConfKeyKind, String, String);

fn stored_id(key: &Key) -> String {
    format!("{}/{}/{}", key.0.word(), key.1, key.2)
}

pub(super) fn key_of(stored: &str) -> Option<Key> {
    let mut parts = stored.splitn(3, '/');
    let kind = ConfKeyKind::of(parts.next()?)?;
    Some((kind, parts.next()?.to_owned(), parts.next()?.to_owned()))
}

impl Catalog {
    /// The conf keys of a type with their properties, secrets masked.
    #[must_use]
    pub fn conf_keys(&self, kind: ConfKeyKind, typ: &str) -> Map<String, Value> {
        let typ = typ.to_ascii_lowercase();
        let book = self.0.book.read();
        let of_type = book
            .conf_keys
            .iter()
            .filter(|((of, name, _), _)| *of == kind && *name == typ);
        let known = self.known_properties(&typ);
        of_type
            .map(|((_, _, key), kept)| {
                (
                    key.clone(),
                    Value::Object(secrets::mask(&kept.value, known)),
                )
            })
            .collect()
    }

    /// All conf keys with their properties, secrets and all: for the export that an administrator asks
    /// for.
    #[must_use]
    pub fn all_conf_keys(&self) -> Vec<(ConfKeyKind, String, String, Properties)> {
        let book = self.0.book.read();
        let entries = book.conf_keys.iter();
        entries
            .map(|((kind, typ, key), kept)| (*kind, typ.clone(), key.clone(), kept.value.clone()))
            .collect()
    }

    /// The conf keys of connections of a type: the named connections with their properties, masked.
    #[must_use]
    pub fn connection_conf_keys(&self, typ: &str) -> Map<String, Value> {
        let typ = self.type_name(typ);
        let listed = self.connections(false).into_iter();
        listed
            .filter(|info| info.typ == typ)
            .map(|info| (info.id, Value::Object(info.props)))
            .collect()
    }

    /// Makes or changes a conf key. Rules that run keep what they were started with.
    ///
    /// # Errors
    /// A name that is none, the store; nothing has changed.
    pub async fn put_conf_key(
        &self,
        of: ConfKeyKind,
        typ: &str,
        name: &str,
        props: Properties,
    ) -> Result<(), CatalogError> {
        valid(name)?;
        self.valid_type(of, typ)?;
        let key = (of, typ.to_ascii_lowercase(), name.to_owned());
        let _turn = self.0.changing.lock().await;
        let props = {
            let book = self.0.book.read();
            match book.conf_keys.get(&key) {
                Some(kept) => secrets::merge(&props, &kept.value),
                None => props,
            }
        };
        let body = Value::Object(props.clone());
        let revision = self.write(kind::CONF_KEY, &stored_id(&key), &body).await?;
        let mut book = self.0.book.write();
        book.conf_keys.insert(
            key,
            Kept {
                revision,
                value: props,
            },
        );
        book.change += 1;
        Ok(())
    }

    /// Makes or changes the connection of that name.
    ///
    /// # Errors
    /// As [`Catalog::create_connection`] and [`Catalog::replace_connection`].
    pub async fn put_connection_conf_key(
        &self,
        typ: &str,
        name: &str,
        props: Properties,
    ) -> Result<(), CatalogError> {
        valid(name)?;
        let def = ConnectionDef {
            id: name.to_owned(),
            typ: typ.to_owned(),
            props,
        };
        if self.pool().stored(TENANT, name).is_some() {
            self.replace_connection(def, super::ANY).await?;
        } else {
            self.create_connection(def).await?;
        }
        Ok(())
    }

    /// Deletes a conf key. One that does not exist is no error, as in eKuiper.
    ///
    /// # Errors
    /// A name that is none; a stream refers to it; the store.
    pub async fn delete_conf_key(
        &self,
        of: ConfKeyKind,
        typ: &str,
        name: &str,
    ) -> Result<(), CatalogError> {
        valid(name)?;
        let key = (of, typ.to_ascii_lowercase(), name.to_owned());
        let _turn = self.0.changing.lock().await;
        let users = self.streams_with_conf_key(of, &key.1, name);
        if !users.is_empty() {
            return Err(CatalogError::Conflict(format!(
                "conf key {name} can't be dropped due to stream references [{}]",
                users.join(" ")
            )));
        }
        self.erase(kind::CONF_KEY, &stored_id(&key)).await?;
        let mut book = self.0.book.write();
        book.conf_keys.remove(&key);
        book.change += 1;
        Ok(())
    }

    fn streams_with_conf_key(&self, of: ConfKeyKind, typ: &str, name: &str) -> Vec<String> {
        if of != ConfKeyKind::Sources {
            return Vec::new();
        }
        let book = self.0.book.read();
        let refers = |statement: &crate::rules::query::StreamStatement| {
            statement.typ.eq_ignore_ascii_case(typ) && statement.conf_key.as_deref() == Some(name)
        };
        book.streams
            .iter()
            .filter(|(_, kept)| refers(&kept.value.statement))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The properties that the connection type of that name knows; none where there is no such type.
    pub(super) fn known_properties(&self, typ: &str) -> &'static [crate::connections::Property] {
        let kind = self.pool().registry().get(typ);
        kind.map_or(&[], |kind| kind.properties())
    }

    /// A connector or a connection type has that name.
    fn valid_type(&self, of: ConfKeyKind, typ: &str) -> Result<(), CatalogError> {
        let known = self.connector_names();
        let is_known = |name: &String| name.eq_ignore_ascii_case(typ);
        if known.iter().any(is_known) || self.pool().has_type(typ) {
            return Ok(());
        }
        let hint = match nearest(typ, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"? "),
            None => String::new(),
        };
        Err(CatalogError::Invalid(format!(
            "unknown type \"{typ}\" of {}; {hint}Known: {}",
            of.word(),
            known.join(", ")
        )))
    }

    fn type_name(&self, typ: &str) -> String {
        let kind = self.pool().registry().get(typ);
        kind.map_or_else(|_| typ.to_ascii_lowercase(), |kind| kind.name().to_owned())
    }
}

fn valid(name: &str) -> Result<(), CatalogError> {
    validate_id(name)
        .map_err(|message| CatalogError::Invalid(format!("Invalid confKey: {message}")))
}
