//! The index columns: what a configuration says of them, their values, and the checkpoint that keeps
//! these: a JSON object, column by column, that people can read and edit.
//!
//! `{"id":7}`; a number with a fraction or exponent is a float, bytes are `{"base64":"…"}`.

use serde::Deserialize;
use serde_json::{Map, Value as Json};
use windlass_connector::sql::Value;
use windlass_connector::{Error, base64_decode, base64_encode, not_a_number};

use crate::time::normalized;

/// One index column as it is configured.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct IndexConfig {
    pub(crate) index_field: Option<String>,
    pub(crate) index_value: Option<Json>,
    pub(crate) index_field_type: Option<String>,
    pub(crate) date_time_format: Option<String>,
}

/// The index columns' names, and where to begin: nothing means at the first row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Index {
    pub(crate) names: Vec<String>,
    pub(crate) begin: Option<Vec<Value>>,
}

pub(crate) fn wrong(message: impl Into<String>) -> Error {
    Error::misconfigured("config", message)
}

impl Index {
    /// From one column or several; both at once is a mistake.
    ///
    /// # Errors
    /// `misconfigured`, with the property.
    pub(crate) fn new(one: IndexConfig, many: Vec<IndexConfig>) -> Result<Self, Error> {
        let columns = match (&one.index_field, many.is_empty()) {
            (Some(_), false) => {
                return Err(wrong("indexFields: give either indexField or indexFields"));
            }
            (Some(_), true) => vec![one],
            (None, _) if one.index_value.is_some() => {
                return Err(wrong(
                    "indexValue: it needs an indexField that it belongs to",
                ));
            }
            (None, _) => many,
        };
        let mut names: Vec<String> = Vec::with_capacity(columns.len());
        let mut values = Vec::with_capacity(columns.len());
        for column in columns {
            let name = column.index_field.clone().unwrap_or_default();
            if name.is_empty() {
                return Err(wrong("indexField: a column's name is required"));
            }
            if names.contains(&name) {
                return Err(wrong(format!("indexFields: \"{name}\" is there twice")));
            }
            if let Some(value) = first_value(&name, column)? {
                values.push(value);
            }
            names.push(name);
        }
        // An order of several columns has no place between rows unless all are given.
        let begin = match values.len() {
            0 => None,
            given if given == names.len() => Some(values),
            given => {
                return Err(wrong(format!(
                    "indexFields: {given} of {} columns have an indexValue; give it for all or for none",
                    names.len()
                )));
            }
        };
        Ok(Self { names, begin })
    }

    /// The checkpoint for these values.
    pub(crate) fn checkpoint(&self, values: &[Value]) -> String {
        let pairs = self.names.iter().cloned().zip(values.iter().map(to_json));
        Json::Object(pairs.collect()).to_string()
    }

    /// The values of a checkpoint.
    ///
    /// # Errors
    /// `misconfigured`: it is not one of these columns.
    pub(crate) fn resume(&self, checkpoint: &str) -> Result<Vec<Value>, Error> {
        let foreign = || {
            Error::misconfigured(
                "resume",
                format!(
                    "the checkpoint {checkpoint} does not belong to the index columns {}: put the old columns back, or begin anew without it",
                    self.names.join(", ")
                ),
            )
        };
        let mut kept: Map<String, Json> =
            serde_json::from_str(checkpoint).map_err(|_| foreign())?;
        let mut values = Vec::with_capacity(self.names.len());
        for name in &self.names {
            let value = kept.remove(name).ok_or_else(foreign)?;
            values.push(from_json(value).ok_or_else(foreign)?);
        }
        if kept.is_empty() {
            Ok(values)
        } else {
            Err(foreign())
        }
    }
}

fn first_value(name: &str, column: IndexConfig) -> Result<Option<Value>, Error> {
    let is_time = match column.index_field_type.as_deref() {
        None | Some("") => false,
        Some(typ) if typ.eq_ignore_ascii_case("datetime") => true,
        Some(other) => {
            return Err(wrong(format!(
                "indexFieldType: \"{other}\" of \"{name}\" is not DATETIME; leave it out otherwise"
            )));
        }
    };
    let Some(value) = column.index_value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    if is_time {
        let Json::String(text) = &value else {
            return Err(wrong(format!(
                "indexValue: {value} of \"{name}\" is not a text, which DATETIME needs"
            )));
        };
        if let Some(format) = column.date_time_format.filter(|format| !format.is_empty()) {
            let time = normalized(text, &format)
                .map_err(|why| wrong(format!("indexValue of \"{name}\": {why}")))?;
            return Ok(Some(Value::Text(time)));
        }
    }
    from_json(value)
        .map(Some)
        .ok_or_else(|| wrong(format!("indexValue: \"{name}\" needs a number or a text")))
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(value) => Json::from(*value),
        Value::Integer(value) => Json::from(*value),
        Value::Real(value) => not_a_number(*value).map_or_else(|| Json::from(*value), Json::from),
        Value::Text(value) => Json::from(value.clone()),
        Value::Blob(value) => serde_json::json!({ "base64": base64_encode(value) }),
    }
}

fn from_json(value: Json) -> Option<Value> {
    Some(match value {
        Json::Bool(value) => Value::Boolean(value),
        Json::Number(number) => match (number.as_i64(), number.is_u64()) {
            (Some(value), _) => Value::Integer(value),
            (None, true) => Value::Text(number.to_string()),
            (None, false) => Value::Real(number.as_f64()?),
        },
        Json::String(value) => Value::Text(value),
        Json::Object(map) => Value::Blob(base64_decode(map.get("base64")?.as_str()?)?),
        Json::Null | Json::Array(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::{Kind, from_json as parse};

    fn index(one: &str, many: &str) -> Result<Index, Error> {
        Index::new(parse(one).unwrap(), parse(many).unwrap())
    }

    #[test]
    fn a_checkpoint_gives_back_every_kind_of_value_as_it_was() {
        let index = Index {
            names: ["i", "r", "t", "b", "w"].map(str::to_owned).into(),
            begin: None,
        };
        let values = vec![
            Value::Integer(i64::MIN),
            Value::Real(1.0),
            Value::Text("2026-01-01 00:00:00.000001+00 \"ö".to_owned()),
            Value::Blob(vec![0, 255, 7, 9]),
            Value::Boolean(true),
        ];
        let checkpoint = index.checkpoint(&values);
        assert_eq!(index.resume(&checkpoint).unwrap(), values, "{checkpoint}");
        assert_eq!(
            Index {
                names: vec!["id".to_owned()],
                begin: None
            }
            .checkpoint(&[Value::Integer(7)]),
            r#"{"id":7}"#
        );
    }

    #[test]
    fn a_checkpoint_of_other_columns_is_refused_and_shown() {
        let index = index(r#"{"indexField":"id"}"#, "[]").unwrap();
        for checkpoint in [
            r#"{"ts":1}"#,
            r#"{"id":1,"ts":1}"#,
            r#"{"id":null}"#,
            "7",
            "",
        ] {
            let error = index.resume(checkpoint).unwrap_err();
            assert_eq!(error.kind, Kind::Misconfigured);
            assert!(error.message.contains("id"), "{}", error.message);
        }
    }

    #[test]
    fn index_values_are_taken_as_they_stand_and_times_by_their_format() {
        assert_eq!(
            index(
                "{}",
                r#"[{"indexField":"a","indexValue":1.5},{"indexField":"b","indexValue":"x"}]"#
            )
            .unwrap(),
            Index {
                names: vec!["a".to_owned(), "b".to_owned()],
                begin: Some(vec![Value::Real(1.5), Value::Text("x".to_owned())]),
            }
        );
        let time = r#"{"indexField":"t","indexValue":"13.04.2022","indexFieldType":"DATETIME","dateTimeFormat":"dd.MM.YYYY"}"#;
        assert_eq!(
            index(time, "[]").unwrap().begin,
            Some(vec![Value::Text("2022-04-13 00:00:00".to_owned())])
        );
        assert_eq!(index("{}", "[]").unwrap(), Index::default());
    }

    #[test]
    fn index_columns_that_contradict_each_other_are_named() {
        for (one, many, word) in [
            (r#"{"indexField":"a"}"#, r#"[{"indexField":"b"}]"#, "either"),
            (r#"{"indexValue":1}"#, "[]", "indexField"),
            ("{}", r#"[{"indexField":"a"},{"indexField":"a"}]"#, "twice"),
            (
                "{}",
                r#"[{"indexField":"a","indexValue":1},{"indexField":"b"}]"#,
                "all or for none",
            ),
            (
                r#"{"indexField":"a","indexFieldType":"TIME"}"#,
                "[]",
                "DATETIME",
            ),
            (
                r#"{"indexField":"a","indexFieldType":"DATETIME","indexValue":5}"#,
                "[]",
                "text",
            ),
            (
                r#"{"indexField":"a","indexFieldType":"DATETIME","indexValue":"x","dateTimeFormat":"YYYY-MM-dd"}"#,
                "[]",
                "YYYY-MM-dd",
            ),
            (
                r#"{"indexField":"a","indexValue":[]}"#,
                "[]",
                "number or a text",
            ),
            (r#"{"indexField":""}"#, "[]", "required"),
        ] {
            let error = index(one, many).unwrap_err();
            assert_eq!(error.kind, Kind::Misconfigured);
            assert!(
                error.message.contains(word),
                "{one} {many}: {}",
                error.message
            );
        }
    }
}
