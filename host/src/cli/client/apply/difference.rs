//! What must be done so that a server has what is wanted, and how that differs from what it has. A
//! secret that the server masks cannot be compared: it is sent, and the server knows whether it is new.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{Item, What};
use crate::cli::output;
use crate::config::pointer_to;
use crate::connections::secrets::{MASK, mask, redact_url};

/// Characters of a value in a line.
const SHOWN: usize = 120;

/// In the order in which they must be done.
pub(super) struct Steps(pub(super) Vec<Step>);

/// One thing to be done.
pub(super) enum Step {
    Create(Item),
    Change(Item, Vec<Difference>),
    Delete(Item),
}

impl Step {
    fn item(&self) -> &Item {
        match self {
            Self::Create(item) | Self::Change(item, _) | Self::Delete(item) => item,
        }
    }

    pub(super) fn what(&self) -> What {
        self.item().what
    }

    pub(super) fn id(&self) -> &str {
        &self.item().id
    }

    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Change(..) => "change",
            Self::Delete(_) => "delete",
        }
    }

    pub(super) fn is_deletion(&self) -> bool {
        matches!(self, Self::Delete(_))
    }

    pub(super) fn differences(&self) -> &[Difference] {
        match self {
            Self::Change(_, differences) => differences,
            _ => &[],
        }
    }
}

/// One value that is another. What is shown is masked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    /// JSON Pointer into the definition.
    at: String,
    /// None: it is not there.
    from: Option<Value>,
    to: Option<Value>,
    /// It may be the same: the server does not show it.
    hidden: bool,
}

impl Difference {
    pub(super) fn to_json(&self) -> Value {
        if self.hidden {
            return json!({"path": self.at, "hidden": true});
        }
        json!({"path": self.at, "from": self.from, "to": self.to})
    }

    pub(super) fn to_line(&self) -> String {
        let shown = |value: &Option<Value>| match value {
            None => "nothing".to_owned(),
            Some(value) => output::plain(&value.to_string(), SHOWN),
        };
        if self.hidden {
            return format!(
                "{}: a secret, which cannot be compared; it is sent",
                self.at
            );
        }
        format!("{}: {} -> {}", self.at, shown(&self.from), shown(&self.to))
    }
}

/// What leads from what is there to what is wanted: first what is needed by others, and deletions last,
/// the other way round.
pub(super) fn steps(wanted: &[Item], there: &[Item], prune: bool) -> Steps {
    let present: HashMap<(What, &str), &Item> = there
        .iter()
        .map(|item| ((item.what, item.id.as_str()), item))
        .collect();
    let mut wanted: Vec<&Item> = wanted.iter().collect();
    wanted.sort_by_key(|item| item.what);
    let mut steps = Vec::new();
    for item in &wanted {
        match present.get(&(item.what, item.id.as_str())) {
            None => steps.push(Step::Create((*item).clone())),
            Some(old) => {
                let differences = compare(item.what, &old.body, &item.body);
                if !differences.is_empty() {
                    steps.push(Step::Change((*item).clone(), differences));
                }
            }
        }
    }
    if prune {
        let mut gone: Vec<&Item> = there
            .iter()
            .filter(|old| {
                !wanted
                    .iter()
                    .any(|item| item.what == old.what && item.id == old.id)
            })
            .collect();
        gone.sort_by(|a, b| (b.what, &a.id).cmp(&(a.what, &b.id)));
        steps.extend(gone.into_iter().map(|item| Step::Delete(item.clone())));
    }
    Steps(steps)
}

fn compare(what: What, old: &Value, new: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    let (old, new) = match what {
        What::Rule => (rule(old), rule(new)),
        _ => (old.clone(), new.clone()),
    };
    differ("", &old, &new, &mut found);
    if what == What::Stream {
        // Secrets may stand in EXTRA: what is masked cannot be compared, and nothing of it is shown.
        for one in &mut found {
            let text = |value: &Option<Value>| {
                value
                    .as_ref()
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let (from, to) = (text(&one.from), text(&one.to));
            let has_extra = |sql: &str| sql.to_uppercase().contains("EXTRA");
            if from.contains(MASK) {
                one.hidden = true;
            } else if has_extra(&from) || has_extra(&to) {
                (one.from, one.to) = (Some("…".into()), Some("another statement".into()));
            }
        }
    }
    found
}

/// Without what says the same as its absence.
fn rule(value: &Value) -> Value {
    let mut rule = value.as_object().cloned().unwrap_or_default();
    rule.retain(|name, value| {
        let is_default = match name.as_str() {
            "triggered" => *value == true,
            "temp" => *value == false,
            "name" | "version" => *value == "",
            "tags" => *value == json!([]),
            "options" => *value == json!({}),
            _ => false,
        };
        !(is_default || value.is_null())
    });
    if let Some(Value::Array(actions)) = rule.get_mut("actions") {
        for action in actions.iter_mut().filter_map(Value::as_object_mut) {
            for props in action.values_mut().filter(|props| props.is_null()) {
                *props = Value::Object(Map::new());
            }
        }
    }
    Value::Object(rule)
}

fn differ(at: &str, old: &Value, new: &Value, found: &mut Vec<Difference>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in new {
                let at = pointer_to(at, name);
                // Names of properties have no case.
                let before = old.get(name).or_else(|| {
                    let same = old
                        .iter()
                        .find(|(other, _)| other.eq_ignore_ascii_case(name));
                    same.map(|(_, value)| value)
                });
                match before {
                    Some(before) => differ(&at, before, value, found),
                    None => found.push(Difference {
                        to: Some(shown(&at, value)),
                        at,
                        from: None,
                        hidden: false,
                    }),
                }
            }
            for (name, value) in old {
                if !new.keys().any(|other| other.eq_ignore_ascii_case(name)) {
                    let at = pointer_to(at, name);
                    found.push(Difference {
                        from: Some(shown(&at, value)),
                        at,
                        to: None,
                        hidden: false,
                    });
                }
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (place, (old, new)) in old.iter().zip(new).enumerate() {
                differ(&format!("{at}/{place}"), old, new, found);
            }
        }
        _ if same(old, new) => {}
        _ => {
            let hidden = match (old.as_str(), new.as_str()) {
                (Some(MASK), _) => true,
                // A URL with a masked user part, and otherwise the same.
                (Some(old), Some(new)) => old.contains(MASK) && redact_url(new) == old,
                _ => false,
            };
            found.push(Difference {
                from: Some(shown(at, old)),
                to: Some(shown(at, new)),
                at: at.to_owned(),
                hidden,
            });
        }
    }
}

/// Equal, `1` and `1.0` too, and a type of connection in either case.
fn same(old: &Value, new: &Value) -> bool {
    old == new
        || matches!((old.as_f64(), new.as_f64()), (Some(a), Some(b)) if a.to_bits() == b.to_bits())
}

/// The value as it may be shown where it stands.
fn shown(at: &str, value: &Value) -> Value {
    let name = at.rsplit('/').next().unwrap_or_default();
    let one = Map::from_iter([(name.to_owned(), value.clone())]);
    let masked = mask(&one, &[]);
    masked
        .into_iter()
        .next()
        .map(|(_, value)| value)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(what: What, id: &str, body: Value) -> Item {
        Item {
            what,
            id: id.to_owned(),
            body,
            file: None,
        }
    }

    fn lines(what: What, old: Value, new: Value) -> Vec<String> {
        compare(what, &old, &new)
            .iter()
            .map(Difference::to_line)
            .collect()
    }

    #[test]
    fn what_others_need_comes_first_and_goes_last() {
        let wanted = [
            item(What::Rule, "r", json!({"sql": "a"})),
            item(What::Connection, "c", json!({"typ": "mqtt"})),
            item(What::Stream, "s", json!({"sql": "x"})),
            item(What::Connector, "w", json!({"digest": "1"})),
        ];
        let there = [
            item(What::Connector, "old-w", json!({})),
            item(What::Rule, "old-r2", json!({})),
            item(What::Rule, "old-r1", json!({})),
            item(What::Connection, "old-c", json!({})),
            item(What::Stream, "s", json!({"sql": "x"})),
            item(What::Connector, "w", json!({"digest": "2"})),
        ];
        let order = |prune| -> Vec<String> {
            let steps = steps(&wanted, &there, prune);
            steps
                .0
                .iter()
                .map(|step| format!("{} {}", step.verb(), step.id()))
                .collect()
        };
        assert_eq!(order(false), ["change w", "create c", "create r"]);
        assert_eq!(
            order(true)[3..],
            [
                "delete old-r1",
                "delete old-r2",
                "delete old-c",
                "delete old-w"
            ]
        );
        assert!(
            steps(&there, &there, true).0.is_empty(),
            "the same is no step"
        );
    }

    #[test]
    fn a_difference_names_its_place_and_shows_no_secret() {
        let old = json!({"typ": "mqtt", "props": {"server": "tcp://a", "password": "******", "qos": 1, "gone": 1, "list": [1, 2]}});
        let new = json!({"typ": "mqtt", "props": {"Server": "tcp://u:hunter2@b", "password": "hunter2", "qos": 1.0, "token": "hunter2", "list": [1, 3]}});
        let lines = lines(What::Connection, old, new);
        assert_eq!(
            lines,
            [
                "/props/Server: \"tcp://a\" -> \"tcp://******@b\"",
                "/props/password: a secret, which cannot be compared; it is sent",
                "/props/token: nothing -> \"******\"",
                "/props/list/1: 2 -> 3",
                "/props/gone: 1 -> nothing",
            ]
        );
    }

    #[test]
    fn a_masked_url_that_is_otherwise_the_same_may_be_the_same() {
        let masked = json!({"props": {"dburl": "mysql://******@h/db"}});
        let same = json!({"props": {"dburl": "mysql://u:p@h/db"}});
        let other = json!({"props": {"dburl": "mysql://u:p@h2/db"}});
        assert!(lines(What::Connection, masked.clone(), same)[0].contains("cannot be compared"));
        assert!(lines(What::Connection, masked, other)[0].contains("-> \"mysql://******@h2/db\""));
    }

    #[test]
    fn a_rule_that_says_what_goes_without_saying_is_the_same() {
        let written = json!({"id": "r", "sql": "s", "actions": [{"log": null}]});
        let kept = json!({"actions": [{"log": {}}], "id": "r", "sql": "s", "triggered": true, "tags": [], "name": ""});
        assert_eq!(
            lines(What::Rule, kept, written.clone()),
            Vec::<String>::new()
        );
        let stopped = json!({"id": "r", "sql": "s", "actions": [{"log": {}}], "triggered": false});
        assert_eq!(
            lines(What::Rule, stopped, written),
            ["/triggered: false -> nothing"]
        );
    }

    #[test]
    fn a_statement_with_extra_is_not_shown() {
        let sql = |text: &str| json!({"sql": text});
        assert_eq!(
            lines(What::Stream, sql("CREATE a"), sql("CREATE b")),
            ["/sql: \"CREATE a\" -> \"CREATE b\""]
        );
        let shown = lines(
            What::Stream,
            sql("CREATE a"),
            sql("CREATE a WITH (EXTRA=\"{'password':'hunter2'}\")"),
        );
        assert!(!shown[0].contains("hunter2"), "{shown:?}");
        let masked = lines(
            What::Stream,
            sql("x EXTRA=\"******\""),
            sql("x EXTRA=\"hunter2\""),
        );
        assert_eq!(
            masked,
            ["/sql: a secret, which cannot be compared; it is sent"]
        );
    }
}
