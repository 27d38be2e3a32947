//! A value as YAML text that a person would have written: block style, texts without quotes where
//! they need none, statements of several lines as blocks. What is written reads back as the same value
//! ([`super::yaml`], YAML 1.2 core schema), without variables.

use serde_json::{Map, Value};

use super::node::Kind;
use super::scalar::resolve;

/// Deeper values stand in one line, as JSON.
const DEEPEST: usize = 32;

/// The value as one document, ended with a line break.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => entries(&mut out, map, 0),
        Value::Array(items) if !items.is_empty() => list(&mut out, items, 0),
        other => {
            scalar(&mut out, other, 0);
            out.push('\n');
        }
    }
    out
}

fn indent(out: &mut String, depth: usize) {
    (0..depth).for_each(|_| out.push_str("  "));
}

fn entries(out: &mut String, map: &Map<String, Value>, depth: usize) {
    for (place, (key, value)) in map.iter().enumerate() {
        // The first stands behind the dash of a list already.
        if place > 0 || !out.ends_with("- ") {
            indent(out, depth);
        }
        entry(out, key, value, depth);
    }
}

fn entry(out: &mut String, key: &str, value: &Value, depth: usize) {
    if is_plain(key) {
        out.push_str(key);
    } else {
        quoted(out, key);
    }
    out.push(':');
    match value {
        Value::Object(map) if !map.is_empty() && depth < DEEPEST => {
            out.push('\n');
            entries(out, map, depth + 1);
        }
        Value::Array(items) if !items.is_empty() && depth < DEEPEST => {
            out.push('\n');
            list(out, items, depth + 1);
        }
        other => {
            out.push(' ');
            scalar(out, other, depth);
            out.push('\n');
        }
    }
}

fn list(out: &mut String, items: &[Value], depth: usize) {
    for item in items {
        indent(out, depth);
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() && depth < DEEPEST => {
                entries(out, map, depth + 1);
            }
            other => {
                scalar(out, other, depth);
                out.push('\n');
            }
        }
    }
}

/// Whatever has no lines of its own.
fn scalar(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::String(text) if is_block(text) => {
            out.push_str("|-");
            for line in text.split('\n') {
                out.push('\n');
                if !line.is_empty() {
                    indent(out, depth + 1);
                    out.push_str(line);
                }
            }
        }
        Value::String(text) if is_plain(text) => out.push_str(text),
        Value::String(text) => quoted(out, text),
        // JSON is YAML.
        other => out.push_str(&other.to_string()),
    }
}

/// Single quotes where the text has nothing to be escaped, else double ones.
fn quoted(out: &mut String, text: &str) {
    let simple = text.chars().all(|c| !c.is_control() && !is_odd(c));
    if simple && text.contains(['"', '\\']) {
        out.push('\'');
        out.push_str(&text.replace('\'', "''"));
        out.push('\'');
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || is_odd(c) => match u32::from(c) {
                code @ ..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Not printable in YAML, or taken for a line break by an older reader.
fn is_odd(c: char) -> bool {
    matches!(
        c,
        '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
    )
}

/// A text of several lines that a block shows as it is.
fn is_block(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with([' ', '\n', '\t'])
        && !text.ends_with('\n')
        && text.chars().all(|c| c == '\n' || (!c.is_control() && !is_odd(c)))
        // A line of nothing but blanks would lose them in an editor.
        && text.lines().all(|line| line.trim_end() == line)
}

/// A text that stands without quotes and stays a text.
fn is_plain(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '+');
    !text.is_empty()
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '/')
        && text.chars().all(inside)
        // Words that YAML 1.1 readers take for something else.
        && !["yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str())
        && text.parse::<f64>().is_err()
        && matches!(resolve(text), Ok(Kind::Text(_)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::Document;
    use super::*;

    fn back(value: &Value) -> Value {
        let text = to_yaml(value);
        match Document::verbatim("t.yaml", &text) {
            Ok(document) => document.value,
            Err(errors) => panic!("{errors:?}\n{text}"),
        }
    }

    #[test]
    fn a_value_looks_as_if_written_by_hand() {
        let value = json!({
            "connections": [{"id": "plant", "typ": "mqtt", "props": {"server": "tcp://h:1", "qos": 1, "servers": ["a", "b"]}}],
            "streams": [{"sql": "CREATE STREAM demo () WITH (DATASOURCE=\"t\", FORMAT='x')"}],
            "rules": [{"id": "1e3", "sql": "SELECT *\nFROM demo\n\n  WHERE a > 1", "actions": [{"log": {}}], "name": "no"}],
        });
        let text = to_yaml(&value);
        assert_eq!(
            text,
            "connections:\n  - id: plant\n    typ: mqtt\n    props:\n      server: \"tcp://h:1\"\n      qos: 1\n      servers:\n        - a\n        - b\nstreams:\n  - sql: 'CREATE STREAM demo () WITH (DATASOURCE=\"t\", FORMAT=''x'')'\nrules:\n  - id: \"1e3\"\n    sql: |-\n      SELECT *\n      FROM demo\n\n        WHERE a > 1\n    actions:\n      - log: {}\n    name: \"no\"\n"
        );
        assert_eq!(back(&value), value);
    }

    #[test]
    fn what_looks_like_something_else_stays_text() {
        for text in [
            "", " ", "true", "NULL", "~", "1", "0x1f", "1.5", ".5", "-", "- a", "a: b", "a #b",
            "#", "&a", "*a", "!x", "%", "@", "`", "{}", "[", "'", "\"", "\\", "\n", "a\n", "\na",
            "a\n ", "a\n\nb", " a\nb", "a\n\tb", "\t", "\u{7}", "\u{85}", "\u{2028}", "\u{feff}",
            "ä", "😀", "|", ">", "---", "...", "<<", "=", "inf", "nan", "1_000", "${X}", "a\r\nb",
            "? a",
        ] {
            let value = json!({ "k": text, "list": [text, {"a": text}] });
            assert_eq!(back(&value), value, "{text:?}\n{}", to_yaml(&value));
            if !text.is_empty() && text != "<<" {
                let value = json!({ text: 1 });
                assert_eq!(back(&value), value, "{text:?}");
            }
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e6f64..1e6).prop_map(Value::from),
            "[ -~\\n]{0,12}".prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec(("[a-zA-Z0-9_. :#-]{1,8}", inner), 0..5)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_reads_back_as_itself(value in any_value()) {
            prop_assert_eq!(back(&value), value);
        }
    }
}
