//! One rule's definition: its JSON as text, and the little of it that lists and other definitions ask
//! for. A host has thousands of rules that do not run; what a run needs is read from the text then.

use serde_json::Value;

use super::CatalogError;
use crate::config::{RuleDef, rule_of};
use crate::rules::query::Query;

/// A rule as it is defined.
pub(super) struct Definition {
    /// The JSON that was given, with the `triggered` of the last start or stop. May hold secrets.
    text: Box<str>,
    pub(super) name: Box<str>,
    pub(super) version: Box<str>,
    pub(super) tags: Box<[String]>,
    pub(super) triggered: bool,
    /// The connectors of its actions, in their order.
    pub(super) actions: Box<[String]>,
    /// The stream that its query is over.
    pub(super) stream: Box<str>,
}

/// Reads a rule's JSON. `id`: what the path says.
pub(super) fn read(json: Value, id: Option<&str>) -> Result<(Definition, RuleDef), CatalogError> {
    let Value::Object(mut object) = json else {
        return Err(CatalogError::Invalid(
            "invalid rule json: a rule is a JSON object".to_owned(),
        ));
    };
    if let Some(id) = id {
        match object.get("id") {
            None => {
                object.insert("id".to_owned(), id.into());
            }
            Some(given) if given.as_str() == Some("") || given.as_str() == Some(id) => {
                object.insert("id".to_owned(), id.into());
            }
            Some(_) => {
                return Err(CatalogError::Invalid(
                    "RuleId is not consistent with rule id.".to_owned(),
                ));
            }
        }
    }
    if object.get("actions").is_none_or(Value::is_null) {
        return Err(CatalogError::Invalid(
            "invalid rule json: Missing rule actions.".to_owned(),
        ));
    }
    let json = Value::Object(object);
    let (def, _warnings) = rule_of(&json, None).map_err(|errors| {
        let CatalogError::Invalid(sentences) = CatalogError::mistakes(&errors) else {
            return CatalogError::mistakes(&errors);
        };
        CatalogError::Invalid(format!("invalid rule json: {sentences}"))
    })?;
    let stream = match Query::parse(&def.sql) {
        Ok(query) => query.stream().to_owned(),
        Err(error) => {
            return Err(CatalogError::Invalid(format!(
                "/sql: line {}, column {}: {}",
                error.line, error.column, error.message
            )));
        }
    };
    let definition = Definition {
        text: json.to_string().into(),
        name: def.name.as_str().into(),
        version: def.version.as_str().into(),
        tags: def.tags.clone().into(),
        triggered: def.triggered,
        actions: def
            .actions
            .iter()
            .map(|action| action.typ.clone())
            .collect(),
        stream: stream.into(),
    };
    Ok((definition, def))
}

impl Definition {
    /// The JSON that was given, with the `triggered` of the last start or stop. May hold secrets.
    pub(super) fn json(&self) -> Value {
        // It was written from a value, and can be read again.
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// All that it says.
    ///
    /// # Errors
    /// None that [`read`] has not said before.
    pub(super) fn def(&self) -> Result<RuleDef, CatalogError> {
        rule_of(&self.json(), None)
            .map(|(def, _warnings)| def)
            .map_err(|errors| CatalogError::mistakes(&errors))
    }

    /// Whether this JSON is what it is, started or not.
    pub(super) fn says(&self, json: &Value) -> bool {
        let plain = |json: &Value| {
            let mut json = json.clone();
            if let Some(object) = json.as_object_mut() {
                object.remove("triggered");
            }
            json
        };
        plain(&self.json()) == plain(json)
    }

    /// The same, with other values of some of its names.
    pub(super) fn with(&self, values: &[(&str, Value)]) -> Result<Self, CatalogError> {
        let mut json = self.json();
        if let Some(object) = json.as_object_mut() {
            for (name, value) in values {
                object.insert((*name).to_owned(), value.clone());
            }
        }
        read(json, None).map(|(definition, _)| definition)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rules_json_is_read_with_the_sentences_of_ekuiper() {
        let wrong = |json: Value, id| match read(json, id) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("it was accepted"),
        };
        let sql = "SELECT * FROM demo";
        assert_eq!(
            wrong(json!({ "id": "a", "sql": sql }), None),
            "invalid rule json: Missing rule actions."
        );
        assert_eq!(
            wrong(
                json!({ "id": "a", "sql": sql, "actions": [{ "log": {} }] }),
                Some("b")
            ),
            "RuleId is not consistent with rule id."
        );
        let odd = wrong(
            json!({ "id": "a.b", "sql": sql, "actions": [{ "log": {} }] }),
            None,
        );
        assert!(
            odd.starts_with("invalid rule json: ") && odd.contains("invalid characters"),
            "{odd}"
        );
        let typo = wrong(
            json!({ "id": "a", "sql": sql, "action": [], "actions": [{ "log": {} }] }),
            None,
        );
        assert!(typo.contains("did you mean \"actions\"?"), "{typo}");
        let read = read(json!({ "sql": sql, "actions": [{ "log": {} }] }), Some("b")).ok();
        assert_eq!(
            read.map(|(rule, def)| (def.id, rule.stream)),
            Some(("b".to_owned(), "demo".into()))
        );
    }
}
