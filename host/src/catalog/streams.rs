//! Streams: statements under a name. A stream costs nothing until a rule uses it.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::exchange::with_secrets;
use super::{Catalog, CatalogError, Kept, May, Stream, check_revision, kind};
use crate::config::{nearest, validate_id};
use crate::connections::secrets;
use crate::rules::query::{Field, FieldType, StreamStatement};

/// A stream as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its name.
    pub name: String,
    /// The source connector.
    pub typ: String,
    /// How payloads are decoded.
    pub format: String,
    /// Grows with each change.
    pub revision: u64,
}

fn unknown(name: &str) -> CatalogError {
    CatalogError::NotFound(format!("stream {name} is not found"))
}

impl Catalog {
    /// All streams, by name.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamInfo> {
        let book = self.0.book.read();
        let entries = book.streams.iter();
        entries
            .map(|(name, kept)| StreamInfo {
                name: name.clone(),
                typ: kept.value.statement.typ.clone(),
                format: kept.value.statement.format.clone(),
                revision: kept.revision,
            })
            .collect()
    }

    /// The statement of each stream, by name. It may hold secrets in EXTRA unless `masked`.
    #[must_use]
    pub fn stream_statements(&self, masked: bool) -> Vec<(String, String)> {
        let book = self.0.book.read();
        let entries = book.streams.iter();
        entries
            .map(|(name, kept)| {
                let sql = &kept.value.sql;
                let text = if masked {
                    mask_statement(sql, &kept.value.statement)
                } else {
                    sql.clone()
                };
                (name.clone(), text)
            })
            .collect()
    }

    /// What a stream is, in eKuiper's form, secrets masked, with its revision.
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<(Value, u64)> {
        let book = self.0.book.read();
        let kept = book.streams.get(name)?;
        Some((described(&kept.value.statement), kept.revision))
    }

    /// The columns of a stream, in eKuiper's form.
    #[must_use]
    pub fn stream_schema(&self, name: &str) -> Option<Value> {
        let book = self.0.book.read();
        let statement = &book.streams.get(name)?.value.statement;
        let columns = statement.fields.iter().enumerate();
        let columns = columns.map(|(index, field)| {
            let column =
                json!({ "hasIndex": true, "index": index, "type": field.kind.to_string() });
            (field.name.clone(), column)
        });
        Some(Value::Object(columns.collect()))
    }

    /// Makes a stream of a `CREATE STREAM` statement: its name.
    ///
    /// # Errors
    /// Mistakes in the statement with line and column, a type that does not exist, a name that is
    /// taken, the store; nothing has changed.
    pub async fn create_stream(&self, sql: &str) -> Result<String, CatalogError> {
        let stream = self.parse_stream(sql)?;
        let name = stream.statement.name.clone();
        let _turn = self.0.changing.lock().await;
        if self.0.book.read().streams.contains_key(&name) {
            return Err(CatalogError::Conflict(format!(
                "stream {name} already exists"
            )));
        }
        self.keep_stream(&name, stream).await?;
        Ok(name)
    }

    /// Gives a stream another statement. Rules that run on it are started anew; if one of them could
    /// not be, nothing changes.
    ///
    /// # Errors
    /// As [`Catalog::create_stream`]; unknown; another name in the statement; another revision; a rule
    /// for which it does not do.
    pub async fn replace_stream(
        &self,
        name: &str,
        sql: &str,
        may: May<'_>,
    ) -> Result<(), CatalogError> {
        let stored = self.0.book.read().streams.get(name).cloned();
        let sql = match &stored {
            // The masks of secrets mean the stored ones.
            Some(kept) => with_secrets(sql, &kept.value.sql),
            None => sql.to_owned(),
        };
        let stream = self.parse_stream(&sql)?;
        if stream.statement.name != name {
            return Err(CatalogError::Invalid(format!(
                "the statement is of stream \"{}\", and the path of \"{name}\"",
                stream.statement.name
            )));
        }
        let turn = self.0.changing.lock().await;
        let old = self.0.book.read().streams.get(name).cloned();
        let Some(old) = old else {
            return Err(unknown(name));
        };
        check_revision(may, old.revision)?;
        if old.value.sql == stream.sql {
            return Ok(());
        }
        if old.value.statement.shared != stream.statement.shared {
            return Err(CatalogError::Invalid(format!(
                "SHARED of stream {name} cannot be changed from {} to {}: make another stream",
                old.value.statement.shared, stream.statement.shared
            )));
        }
        let rules = self.rules_on(name);
        for rule in &rules {
            let planned = self.plan_on(rule, &stream).await;
            planned.map_err(|error| {
                CatalogError::Invalid(format!("rule {rule} cannot run on it: {error}"))
            })?;
        }
        self.keep_stream(name, stream).await?;
        drop(turn);
        if old.value.statement.shared {
            self.restart_together(&rules).await;
        } else {
            for rule in rules {
                self.restart_if_running(&rule).await;
            }
        }
        Ok(())
    }

    /// Deletes a stream. With `force` also one that rules refer to, which are then left as they are.
    ///
    /// # Errors
    /// Unknown, in use (with the rules' names), another revision, the store.
    pub async fn delete_stream(
        &self,
        name: &str,
        force: bool,
        may: May<'_>,
    ) -> Result<(), CatalogError> {
        let _turn = self.0.changing.lock().await;
        let present = self.0.book.read().streams.get(name).cloned();
        let Some(present) = present else {
            return Err(unknown(name));
        };
        check_revision(may, present.revision)?;
        let rules = self.rules_on(name);
        if !rules.is_empty() && !force {
            return Err(CatalogError::Conflict(format!(
                "stream {name} has been referenced by other rules [{}]",
                rules.join(" ")
            )));
        }
        self.erase(kind::STREAM, name).await?;
        let mut book = self.0.book.write();
        book.streams.remove(name);
        book.change += 1;
        Ok(())
    }

    pub(super) async fn keep_stream(&self, name: &str, stream: Stream) -> Result<(), CatalogError> {
        let body = json!({ "sql": stream.sql });
        let revision = self.write(kind::STREAM, name, &body).await?;
        let mut book = self.0.book.write();
        let value = Arc::new(stream);
        book.streams
            .insert(name.to_owned(), Kept { revision, value });
        book.change += 1;
        Ok(())
    }

    pub(super) fn parse_stream(&self, sql: &str) -> Result<Stream, CatalogError> {
        let statement = StreamStatement::parse(sql).map_err(|error| {
            CatalogError::Invalid(format!(
                "line {}, column {}: {}",
                error.line, error.column, error.message
            ))
        })?;
        validate_id(&statement.name).map_err(CatalogError::Invalid)?;
        let known = self.connector_names();
        if !known.contains(&statement.typ) {
            let hint = match nearest(&statement.typ, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean \"{near}\"? "),
                None => String::new(),
            };
            return Err(CatalogError::Invalid(format!(
                "unknown TYPE \"{}\"; {hint}Known: {}",
                statement.typ,
                known.join(", ")
            )));
        }
        Ok(Stream {
            sql: sql.to_owned(),
            statement,
        })
    }

    /// The rules whose query is over this stream, by id.
    pub(super) fn rules_on(&self, stream: &str) -> Vec<String> {
        let book = self.0.book.read();
        let on = book
            .rules
            .iter()
            .filter(|(_, kept)| *kept.value.stream == *stream);
        on.map(|(id, _)| id.clone()).collect()
    }
}

/// eKuiper's form of a stream: the keys of its options are those of its own JSON.
fn described(statement: &StreamStatement) -> Value {
    let mut options = Map::new();
    let mut put = |name: &str, value: Value| {
        options.insert(name.to_owned(), value);
    };
    put("datasource", json!(statement.datasource));
    put("type", json!(statement.typ));
    put("format", json!(statement.format));
    if let Some(key) = &statement.conf_key {
        put("confKey", json!(key));
    }
    if statement.shared {
        put("shared", json!(true));
    }
    for (name, value) in [
        ("key", &statement.key),
        ("timestamp", &statement.timestamp),
        ("timestampFormat", &statement.timestamp_format),
        ("schemaId", &statement.schema_id),
        ("version", &statement.version),
    ] {
        if let Some(value) = value {
            put(name, json!(value));
        }
    }
    if statement.strict_validation {
        put("strictValidation", json!(true));
    }
    if statement.format == "delimited" {
        put("delimiter", json!(statement.delimiter));
    }
    if !statement.extra.is_empty() {
        let extra = Value::Object(secrets::mask(&statement.extra, &[]));
        put("extra", json!(extra.to_string()));
    }
    if statement.temp {
        put("temp", json!(true));
    }
    let fields: Value = if statement.fields.is_empty() {
        Value::Null
    } else {
        statement.fields.iter().map(field).collect()
    };
    json!({
        "Name": statement.name,
        "Options": options,
        "Statement": null,
        "StreamFields": fields,
        "StreamType": 0,
    })
}

fn field(field: &Field) -> Value {
    json!({ "Name": field.name, "FieldType": field_type(&field.kind) })
}

/// The numbers of eKuiper's data types.
fn number(kind: &FieldType) -> u8 {
    match kind {
        FieldType::Plain("bigint") => 1,
        FieldType::Plain("float") => 2,
        FieldType::Plain("string") => 3,
        FieldType::Plain("bytea") => 4,
        FieldType::Plain("datetime") => 5,
        FieldType::Plain("boolean") => 6,
        FieldType::Array(_) => 7,
        FieldType::Struct(_) => 8,
        FieldType::Plain(_) => 0,
    }
}

fn field_type(kind: &FieldType) -> Value {
    match kind {
        FieldType::Plain(_) => json!({ "Type": number(kind) }),
        FieldType::Array(inner) => match **inner {
            FieldType::Plain(_) => json!({ "Type": number(inner), "FieldType": null }),
            _ => json!({ "Type": number(inner), "FieldType": field_type(inner) }),
        },
        FieldType::Struct(fields) => {
            json!({ "StreamFields": fields.iter().map(field).collect::<Vec<_>>() })
        }
    }
}

/// The statement with the secrets of its EXTRA masked.
fn mask_statement(sql: &str, statement: &StreamStatement) -> String {
    if statement.extra.is_empty() {
        return sql.to_owned();
    }
    let masked = Value::Object(secrets::mask(&statement.extra, &[])).to_string();
    statement.with_extra(sql, &masked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_described_as_ekuiper_does() {
        let sql = r#"CREATE STREAM demo (id BIGINT, tags ARRAY(STRING), pos STRUCT(x FLOAT)) WITH (DATASOURCE="t", CONF_KEY="k", SHARED="TRUE")"#;
        let statement = StreamStatement::parse(sql).unwrap();
        assert_eq!(
            described(&statement).to_string(),
            r#"{"Name":"demo","Options":{"datasource":"t","type":"mqtt","format":"json","confKey":"k","shared":true},"Statement":null,"StreamFields":[{"Name":"id","FieldType":{"Type":1}},{"Name":"tags","FieldType":{"Type":3,"FieldType":null}},{"Name":"pos","FieldType":{"StreamFields":[{"Name":"x","FieldType":{"Type":2}}]}}],"StreamType":0}"#
        );
    }

    #[test]
    fn secrets_in_extra_are_masked_in_the_statement_and_its_description() {
        let sql = r#"CREATE STREAM s () WITH (DATASOURCE="t", EXTRA="{\"password\":\"hush\",\"qos\":1}", TYPE="mqtt")"#;
        let statement = StreamStatement::parse(sql).unwrap();
        let masked = mask_statement(sql, &statement);
        assert!(!masked.contains("hush"), "{masked}");
        let again = StreamStatement::parse(&masked).unwrap();
        assert_eq!(again.extra["password"], secrets::MASK);
        assert_eq!(
            (again.datasource.as_str(), again.typ.as_str()),
            ("t", "mqtt")
        );
        assert!(!described(&statement).to_string().contains("hush"));
    }
}
