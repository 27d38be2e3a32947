//! `enrich`: a sink that uses two connections of different interfaces. It looks each message up in a
//! table (`db: sql`) and publishes it with the columns of its row (`broker: messaging`).
//!
//! One query a batch. A field that the message has itself stays; a message without a row goes on as it
//! is. A batch counts as written when the broker has taken it.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;
use windlass_connector::messaging::{self, PublishOptions, Qos};
use windlass_connector::sql::{self, Rows, Value};
use windlass_connector::{
    Batch, Columns, Descriptor, Dialect, Error, Rejection, Schema, Sink, Slot, write_json_text,
};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "enrich",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::One(include_str!("../schema.json")),
        slots: &[
            Slot::sql("db", "Where the table is."),
            Slot::messaging("broker", "Where messages are published."),
        ],
    },
    sink: Enrich,
}

/// Keys of one query, at most.
const MOST_KEYS: usize = 512;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    table: String,
    key_field: String,
    topic: Option<String>,
    #[serde(default = "at_least_once")]
    qos: u8,
}

fn at_least_once() -> u8 {
    1
}

#[derive(Debug)]
struct Enrich {
    db: sql::Client,
    broker: messaging::Client,
    lookup: Lookup,
    options: PublishOptions,
}

/// The query, and what to look for.
#[derive(Debug)]
struct Lookup {
    dialect: Dialect,
    table: String,
    column: String,
    key_field: String,
}

impl Sink for Enrich {
    type Config = Config;

    fn open(config: Config) -> Result<Self, Error> {
        let options = PublishOptions {
            qos: Some(Qos::try_from(config.qos)?),
            subject: config.topic,
            ..PublishOptions::default()
        };
        let db = sql::Client::open("db")?;
        let lookup = Lookup::new(Dialect::of(&db)?, &config.table, config.key_field)?;
        Ok(Self {
            db,
            broker: messaging::Client::open("broker")?,
            lookup,
            options,
        })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        let columns = batch.columns();
        let (mut messages, mut rejections) = (Vec::new(), Vec::new());
        for (index, payload) in (0..).zip(columns.each()) {
            match Message::new(payload, &self.lookup.key_field) {
                Ok(message) => messages.push((index, message)),
                Err(why) => rejections.push(Error::permanent("row", why).at(index)),
            }
        }
        let mut keys: Vec<&str> = messages
            .iter()
            .map(|(_, message)| message.key.as_str())
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let mut found = HashMap::new();
        for keys in keys.chunks(MOST_KEYS) {
            let (statement, params) = self.lookup.statement(keys);
            self.lookup
                .note(self.db.query(&statement, &params)?, &mut found)?;
        }
        let mut made = Columns::empty();
        for (_, message) in &messages {
            message.write(
                &mut made.payloads,
                found.get(&message.key).map_or(&[], Vec::as_slice),
            );
            made.end_message();
        }
        let kept: Vec<u32> = messages.iter().map(|(index, _)| *index).collect();
        let enriched = batch
            .select(&kept)?
            .with_payloads(&Batch::from_columns(&made)?)?;
        for mut rejection in self.broker.publish(&enriched, &self.options)? {
            let place = usize::try_from(rejection.index)
                .ok()
                .and_then(|place| kept.get(place));
            rejection.index = place.copied().unwrap_or(rejection.index);
            rejections.push(rejection);
        }
        Ok(rejections)
    }
}

impl Lookup {
    fn new(dialect: Dialect, table: &str, key_field: String) -> Result<Self, Error> {
        let wrong =
            |name: &str, why: String| Error::misconfigured("config", format!("{name}: {why}"));
        Ok(Self {
            dialect,
            table: dialect.table(table).map_err(|why| wrong("table", why))?,
            column: dialect
                .name(&key_field)
                .map_err(|why| wrong("keyField", why))?,
            key_field,
        })
    }

    /// The query for these keys, which are JSON. There are as many places as the next power of two, the
    /// last key in the rest, so that a database keeps few statements.
    fn statement(&self, keys: &[&str]) -> (String, Vec<Value>) {
        let mut statement = format!("SELECT * FROM {} WHERE {} IN (", self.table, self.column);
        let values = keys.iter().map(|key| parameter(key));
        let last = keys.last().map(|key| parameter(key));
        let rest = keys.len().next_power_of_two() - keys.len();
        let params: Vec<Value> = values.chain(last.into_iter().cycle().take(rest)).collect();
        for number in 1..=params.len() {
            if number > 1 {
                statement.push_str(", ");
            }
            self.dialect.place(&mut statement, number);
        }
        statement.push(')');
        (statement, params)
    }

    /// Keeps the rows of an answer by their key: columns and values, both as JSON.
    fn note(&self, answer: Rows, found: &mut HashMap<String, Found>) -> Result<(), Error> {
        let column = answer
            .columns
            .iter()
            .position(|name| *name == self.key_field);
        let column = column
            .or_else(|| {
                answer
                    .columns
                    .iter()
                    .position(|name| name.eq_ignore_ascii_case(&self.key_field))
            })
            .ok_or_else(|| {
                Error::misconfigured(
                    "config",
                    format!("keyField: the table has no column \"{}\"", self.key_field),
                )
            })?;
        if answer.truncated {
            return Err(Error::misconfigured(
                "size",
                format!(
                    "more rows of one \"{}\" than the connection gives: it must be unique",
                    self.key_field
                ),
            ));
        }
        for row in answer.rows {
            let fields: Found = answer
                .columns
                .iter()
                .zip(&row)
                .map(|(name, value)| (name.clone(), json(value)))
                .collect();
            if let Some(key) = row.get(column) {
                found.insert(json(key), fields);
            }
        }
        Ok(())
    }
}

/// A row: columns and values as JSON.
type Found = Vec<(String, String)>;

fn json(value: &Value) -> String {
    let mut out = Vec::new();
    value.write_json(&mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// A key, which is JSON, as a parameter.
fn parameter(key: &str) -> Value {
    match serde_json::from_str(key) {
        Ok(Json::Bool(value)) => Value::Boolean(value),
        Ok(Json::String(value)) => Value::Text(value),
        Ok(Json::Number(number)) => match number.as_i64() {
            Some(value) => Value::Integer(value),
            None => Value::Text(number.to_string()),
        },
        _ => Value::Null,
    }
}

/// A message and its key, as JSON.
#[derive(Debug)]
struct Message<'a> {
    fields: BTreeMap<String, &'a RawValue>,
    key: String,
}

impl<'a> Message<'a> {
    fn new(payload: &'a [u8], key_field: &str) -> Result<Self, String> {
        let fields: BTreeMap<String, &'a RawValue> =
            serde_json::from_slice(payload).map_err(|error| {
                format!("the message is not a JSON object (is sendSingle set?): {error}")
            })?;
        let key = fields.get(key_field).map_or("null", |value| value.get());
        // Escapes and blanks are written in one way only.
        let key: Json =
            serde_json::from_str(key).map_err(|error| format!("{key_field}: {error}"))?;
        if !(key.is_string() || key.is_number() || key.is_boolean()) {
            return Err(format!(
                "the field \"{key_field}\" is missing, or neither a text nor a number"
            ));
        }
        Ok(Self {
            fields,
            key: key.to_string(),
        })
    }

    /// The message's own fields, then those of the row that it lacks.
    fn write(&self, out: &mut Vec<u8>, row: &[(String, String)]) {
        let own = self.fields.iter().map(|(name, value)| (name, value.get()));
        let new = row
            .iter()
            .filter(|(name, _)| !self.fields.contains_key(name))
            .map(|(name, value)| (name, value.as_str()));
        let mut before = b'{';
        for (name, value) in own.chain(new) {
            out.push(before);
            before = b',';
            write_json_text(out, name);
            out.push(b':');
            out.extend_from_slice(value.as_bytes());
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup() -> Lookup {
        Lookup::new(Dialect::Postgresql, "plant.machines", "id".to_owned()).unwrap()
    }

    #[test]
    fn keys_are_parameters_and_their_number_is_a_power_of_two() {
        let (statement, params) = lookup().statement(&["1", "\"a'b\"", "3"]);
        assert_eq!(
            statement,
            r#"SELECT * FROM "plant"."machines" WHERE "id" IN ($1, $2, $3, $4)"#
        );
        let wanted = [
            Value::Integer(1),
            Value::Text("a'b".to_owned()),
            Value::Integer(3),
            Value::Integer(3),
        ];
        assert_eq!(params, wanted);
    }

    #[test]
    fn a_message_gets_the_columns_that_it_lacks() {
        let mut found = HashMap::new();
        let answer = Rows {
            columns: ["id", "name", "v"].map(str::to_owned).into(),
            rows: vec![vec![
                Value::Text("ö".to_owned()),
                Value::Text("press".to_owned()),
                Value::Integer(7),
            ]],
            truncated: false,
        };
        lookup().note(answer, &mut found).unwrap();
        let message = Message::new(br#"{"v":1.50,"id":"\u00f6"}"#, "id").unwrap();
        let mut out = Vec::new();
        message.write(&mut out, &found[&message.key]);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"id":"\u00f6","v":1.50,"name":"press"}"#
        );
    }

    #[test]
    fn what_has_no_key_is_refused() {
        for payload in [
            "7",
            "[{\"id\":1}]",
            "{}",
            "{\"id\":null}",
            "{\"id\":[]}",
            "{",
        ] {
            assert!(Message::new(payload.as_bytes(), "id").is_err(), "{payload}");
        }
    }

    #[test]
    fn a_table_without_the_key_is_named() {
        let answer = Rows {
            columns: vec!["x".to_owned()],
            rows: Vec::new(),
            truncated: false,
        };
        let error = lookup().note(answer, &mut HashMap::new()).unwrap_err();
        assert!(error.message.contains("\"id\""), "{}", error.message);
    }
}
