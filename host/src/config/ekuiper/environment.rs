//! Variables of the environment that go over eKuiper's files: `<FILE>__<KEY>__<PROPERTY>`. Deeper
//! names reach into objects. Names have no case there; one that the file has keeps the file's.
//!
//! A value with `=` in it is taken whole; eKuiper drops it.

use serde_json::{Map, Number, Value};

use super::Section;
use super::spelling::spelled;

/// Between the parts of a variable's name.
const SEPARATOR: &str = "__";

/// One that cannot be used: its name, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unusable {
    pub(super) variable: String,
    pub(super) why: String,
}

/// Puts all variables that begin with `prefix` over `tree`, in the order of their names, so that the
/// result does not depend on the environment's order. Answers what cannot be used. `least` is how
/// many parts a name must have behind the prefix.
pub(super) fn overlay(
    tree: &mut Map<String, Value>,
    environment: &[(String, String)],
    prefix: &str,
    least: usize,
) -> Vec<Unusable> {
    let start = format!("{prefix}{SEPARATOR}");
    let mut variables: Vec<_> = environment
        .iter()
        .filter_map(|(name, value)| Some((name, name.strip_prefix(&start)?, value)))
        .collect();
    variables.sort();
    let mut unusable = Vec::new();
    for (variable, rest, value) in variables {
        let parts: Vec<&str> = rest.split(SEPARATOR).collect();
        let why = if parts.len() < least || parts.iter().any(|part| part.is_empty()) {
            Err(format!("its name is no path: {prefix}__KEY__PROPERTY"))
        } else {
            put(tree, "", &parts, value)
        };
        if let Err(why) = why {
            let variable = variable.clone();
            unusable.push(Unusable { variable, why });
        }
    }
    unusable
}

fn put(
    tree: &mut Map<String, Value>,
    within: &str,
    parts: &[&str],
    value: &str,
) -> Result<(), String> {
    let Some((first, rest)) = parts.split_first() else {
        return Ok(());
    };
    let key = tree
        .keys()
        .find(|key| key.eq_ignore_ascii_case(first))
        .cloned()
        .unwrap_or_else(|| spelled(first, within));
    if rest.is_empty() {
        tree.insert(key, parsed(value));
        return Ok(());
    }
    let below = tree
        .entry(key.clone())
        .or_insert_with(|| Value::Object(Map::new()));
    if below.is_null() {
        *below = Value::Object(Map::new());
    }
    match below {
        Value::Object(below) => put(below, &key, rest, value),
        _ => Err(format!(
            "\"{key}\" is no mapping, so that nothing can stand in it"
        )),
    }
}

/// A variable's value: `[a,b]` a list, else a whole number, true or false as Go reads them, a
/// number, or text.
pub(super) fn parsed(text: &str) -> Value {
    let text = text.trim_matches(' ');
    match text
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
    {
        Some("") => Value::Array(Vec::new()),
        Some(inner) => inner.split(',').map(|item| scalar(item.trim())).collect(),
        None => scalar(text),
    }
}

fn scalar(text: &str) -> Value {
    if let Ok(number) = text.parse::<i64>() {
        return number.into();
    }
    match text {
        "t" | "T" | "true" | "TRUE" | "True" => return true.into(),
        "f" | "F" | "false" | "FALSE" | "False" => return false.into(),
        _ => {}
    }
    let number = text.parse::<f64>().ok().and_then(Number::from_f64);
    number.map_or_else(|| text.into(), Value::Number)
}

/// The note about one that cannot be used belongs where its file does.
pub(super) fn section_of(prefix: &str) -> Section {
    match prefix {
        "CONNECTION" => Section::ConnectionConfig,
        "KUIPER" | "WINDLASS" => Section::Settings,
        _ => Section::SourceConfig,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn over(tree: Value, variables: &[(&str, &str)]) -> (Value, Vec<Unusable>) {
        let mut tree = tree.as_object().unwrap().clone();
        let environment: Vec<_> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let unusable = overlay(&mut tree, &environment, "MQTT_SOURCE", 2);
        (Value::Object(tree), unusable)
    }

    #[test]
    fn a_variable_goes_over_the_file_and_keeps_the_files_spelling() {
        let (tree, unusable) = over(
            json!({"default": {"server": "tcp://a", "headers": {"X-Key": "a"}}, "Line1": {"qos": 0}}),
            &[
                ("MQTT_SOURCE__DEFAULT__SERVER", "tcp://b:1883?x=1=2"),
                ("MQTT_SOURCE__DEFAULT__INSECURESKIPVERIFY", "TRUE"),
                ("MQTT_SOURCE__DEFAULT__HEADERS__X-KEY", "b"),
                ("MQTT_SOURCE__LINE1__QOS", "2"),
                ("MQTT_SOURCE__NEW__CLIENTID", " c 1 "),
                ("MQTT_SOURCE__NEW__OPTIONAL__CLIENTID", "c"),
                ("MQTT_SOURCES__DEFAULT__SERVER", "not for this file"),
            ],
        );
        assert_eq!(
            tree,
            json!({
                "default": {
                    "server": "tcp://b:1883?x=1=2", "headers": {"X-Key": "b"},
                    "insecureSkipVerify": true,
                },
                "Line1": {"qos": 2},
                "new": {"clientid": "c 1", "optional": {"ClientId": "c"}},
            })
        );
        assert!(unusable.is_empty());
    }

    #[test]
    fn a_variable_that_leads_nowhere_is_named() {
        let (tree, unusable) = over(
            json!({"default": {"server": "tcp://a"}}),
            &[
                ("MQTT_SOURCE__DEFAULT", "x"),
                ("MQTT_SOURCE__DEFAULT__", "x"),
                ("MQTT_SOURCE__DEFAULT__SERVER__PORT", "hush"),
            ],
        );
        assert_eq!(tree, json!({"default": {"server": "tcp://a"}}));
        let named: Vec<_> = unusable.iter().map(|one| one.variable.as_str()).collect();
        assert_eq!(
            named,
            [
                "MQTT_SOURCE__DEFAULT",
                "MQTT_SOURCE__DEFAULT__",
                "MQTT_SOURCE__DEFAULT__SERVER__PORT"
            ]
        );
        assert!(unusable.iter().all(|one| !one.why.contains("hush")));
    }

    #[test]
    fn values_have_the_kinds_that_ekuiper_gives_them() {
        for (text, value) in [
            (
                "[tcp://a:1, 2,true,x y]",
                json!(["tcp://a:1", 2, true, "x y"]),
            ),
            ("[]", json!([])),
            ("7", json!(7)),
            ("-7", json!(-7)),
            ("False", json!(false)),
            ("t", json!(true)),
            ("1.5", json!(1.5)),
            ("NaN", json!("NaN")),
            ("10s", json!("10s")),
            ("", json!("")),
            ("a=b", json!("a=b")),
        ] {
            assert_eq!(parsed(text), value, "{text}");
        }
    }
}
