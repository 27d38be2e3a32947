//! Expected and got, place by place: each difference has a path that one can find in the test file.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::fields::{payload_value, sql_value};
use super::run::{Failure, Outcome, error_words, qos_number};
use crate::harness::scripted::{Call, Deed};
use crate::message::Message;

/// The longest text that is shown of a value, in characters.
const SHOWN: usize = 400;

/// A place where the outcome is another than expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where, e.g. `messages[0].json.temperature`.
    pub path: String,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub got: String,
}

/// One thing that came out: its fields, and its payload where it has one.
#[derive(Default)]
struct Item {
    fields: Map<String, Value>,
    payload: Option<Vec<u8>>,
}

impl Item {
    fn new(fields: Value, payload: Option<&[u8]>) -> Self {
        let fields = match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        Self {
            fields,
            payload: payload.map(<[u8]>::to_vec),
        }
    }

    /// All of it, as a test file would write it.
    fn value(&self) -> Value {
        let blank = |value: &Value| match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        let mut all: Map<String, Value> = self
            .fields
            .iter()
            .filter(|(_, value)| !blank(value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if let Some(payload) = &self.payload {
            let (key, value) = payload_value(payload);
            all.insert(key.to_owned(), value);
        }
        Value::Object(all)
    }
}

struct Differences(Vec<Difference>);

/// Where the outcome is another than expected.
pub(super) fn compare(expect: &Value, outcome: &Outcome) -> Vec<Difference> {
    let mut found = Differences(Vec::new());
    failure(&mut found, expect.get("error"), outcome.failure.as_ref());
    let lists: [(&str, Vec<Item>); 6] = [
        ("messages", outcome.messages.iter().map(message).collect()),
        ("publishes", publishes(&outcome.calls)),
        ("requests", requests(&outcome.calls)),
        ("statements", statements(&outcome.calls)),
        ("subscriptions", subscriptions(&outcome.calls)),
        ("rejections", rejections(outcome)),
    ];
    for (name, got) in lists {
        match expect.get(name).and_then(Value::as_array) {
            Some(expected) => found.items(name, expected, &got),
            // What was not written must not go unnoticed.
            None if name == "rejections" => found.items(name, &[], &got),
            None => {}
        }
    }
    let checkpoint = outcome
        .checkpoint
        .as_deref()
        .map_or(Value::Null, Value::from);
    let idle = outcome.idle.map_or(Value::Null, |idle| {
        json!(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX))
    });
    if let Some(expected) = expect.get("checkpoint") {
        found.value("checkpoint", expected, &checkpoint);
    }
    match expect.get("idle") {
        Some(Value::Bool(expected)) => {
            found.value("idle", &json!(expected), &json!(outcome.idle.is_some()));
        }
        Some(expected) => found.value("idle", expected, &idle),
        None => {}
    }
    if let Some(expected) = expect.get("finished") {
        found.value("finished", expected, &json!(outcome.finished));
    }
    if let Some(expected) = expect.get("settled") {
        found.value("settled", expected, &json!(outcome.settled));
    }
    found.0
}

fn failure(found: &mut Differences, expected: Option<&Value>, got: Option<&Failure>) {
    match (expected, got) {
        (None | Some(Value::Null), None) => {}
        (None | Some(Value::Null), Some(got)) => {
            let words = format!("{}: {}", got.kind, got.message);
            found.add("error", "none".to_owned(), cut(&words));
        }
        (Some(expected), None) => found.add("error", show(expected), "none".to_owned()),
        (Some(expected), Some(got)) => {
            let fields = json!({ "kind": got.kind, "code": got.code, "message": got.message });
            found.item("error", expected, &Item::new(fields, None));
        }
    }
}

fn headers(pairs: &[(String, String)]) -> Value {
    let mut map = Map::new();
    for (name, value) in pairs {
        // Of several with one name, the first, as a guest would see it.
        if !map.contains_key(name) {
            map.insert(name.clone(), value.as_str().into());
        }
    }
    Value::Object(map)
}

fn message(message: &Message) -> Item {
    let fields =
        json!({ "subject": &*message.subject, "headers": headers(message.headers.pairs()) });
    Item::new(fields, Some(&message.payload))
}

fn publishes(calls: &[Call]) -> Vec<Item> {
    let mut items = Vec::new();
    for call in calls {
        let Deed::Publish(batch, options) = &call.deed else {
            continue;
        };
        for one in batch.iter() {
            let mut item = message(one);
            if let Some(subject) = &options.subject {
                item.fields
                    .insert("subject".to_owned(), subject.as_str().into());
            }
            let qos = options
                .qos
                .map_or(Value::Null, |qos| qos_number(qos).into());
            item.fields.insert("qos".to_owned(), qos);
            item.fields
                .insert("retain".to_owned(), options.retain.into());
            item.fields
                .insert("connection".to_owned(), call.slot.as_str().into());
            items.push(item);
        }
    }
    items
}

fn requests(calls: &[Call]) -> Vec<Item> {
    let item = |call: &Call| match &call.deed {
        Deed::Request(request) => {
            let fields = json!({
                "connection": call.slot,
                "method": request.method,
                "path": request.path,
                "headers": headers(&request.headers),
            });
            Some(Item::new(fields, Some(&request.body)))
        }
        _ => None,
    };
    calls.iter().filter_map(item).collect()
}

fn statements(calls: &[Call]) -> Vec<Item> {
    let row = |row: &Vec<_>| row.iter().map(sql_value).collect::<Value>();
    let item = |call: &Call| {
        let fields = match &call.deed {
            Deed::Query(statement, params) => {
                json!({ "connection": call.slot, "statement": statement, "params": row(params) })
            }
            Deed::Execute(statement, rows) => {
                let rows: Value = rows.iter().map(row).collect();
                json!({ "connection": call.slot, "statement": statement, "rows": rows })
            }
            _ => return None,
        };
        Some(Item::new(fields, None))
    };
    calls.iter().filter_map(item).collect()
}

fn subscriptions(calls: &[Call]) -> Vec<Item> {
    let item = |call: &Call| match &call.deed {
        Deed::Subscribe(filters, options) => {
            let qos = options
                .qos
                .map_or(Value::Null, |qos| qos_number(qos).into());
            let fields = json!({
                "connection": call.slot,
                "filters": filters,
                "qos": qos,
                "extra": headers(&options.extra),
            });
            Some(Item::new(fields, None))
        }
        _ => None,
    };
    calls.iter().filter_map(item).collect()
}

fn rejections(outcome: &Outcome) -> Vec<Item> {
    let item = |(batch, one): &(usize, crate::message::Rejection)| {
        let fields = json!({
            "batch": batch,
            "index": one.index,
            "kind": one.error.kind.as_str(),
            "code": one.error.code,
            "message": one.error.message,
        });
        tracing::debug!(
            batch,
            index = one.index,
            "rejected: {}",
            error_words(&one.error)
        );
        Item::new(fields, None)
    };
    outcome.rejections.iter().map(item).collect()
}

impl Differences {
    fn add(&mut self, path: &str, expected: String, got: String) {
        self.0.push(Difference {
            path: path.to_owned(),
            expected,
            got,
        });
    }

    fn items(&mut self, name: &str, expected: &[Value], got: &[Item]) {
        if expected.len() != got.len() {
            self.add(name, counted(expected.len()), counted(got.len()));
        }
        for (index, one) in expected.iter().enumerate() {
            let path = format!("{name}[{index}]");
            match got.get(index) {
                Some(got) => self.item(&path, one, got),
                None => self.add(&path, show(one), "nothing".to_owned()),
            }
        }
        for (index, got) in got.iter().enumerate().skip(expected.len()) {
            let path = format!("{name}[{index}]");
            self.add(&path, "nothing".to_owned(), show(&got.value()));
        }
    }

    /// Of what came out, what is named.
    fn item(&mut self, path: &str, expected: &Value, got: &Item) {
        for (key, expected) in expected.as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            let field = got.fields.get(key).unwrap_or(&Value::Null);
            match (key.as_str(), &got.payload) {
                ("json", Some(payload)) => match serde_json::from_slice::<Value>(payload) {
                    Ok(got) => self.value(&path, expected, &got),
                    Err(_) => {
                        let (kind, value) = payload_value(payload);
                        let got = format!("no JSON; {kind}: {}", show(&value));
                        self.add(&path, show(expected), got);
                    }
                },
                ("text", Some(payload)) => match std::str::from_utf8(payload) {
                    Ok(got) => self.text(&path, expected, got),
                    Err(_) => {
                        let got = format!("no UTF-8; base64: {}", show(&payload_value(payload).1));
                        self.add(&path, show(expected), got);
                    }
                },
                ("base64", Some(payload)) => {
                    use base64::Engine as _;
                    let got = base64::engine::general_purpose::STANDARD.encode(payload);
                    let trimmed = expected.as_str().map(|text| json!(text.trim()));
                    self.value(&path, trimmed.as_ref().unwrap_or(expected), &json!(got));
                }
                ("headers" | "extra", _) => self.named(&path, expected, field),
                ("message", _) => self.part(&path, expected, field),
                ("statement", _) => {
                    let squeeze = |value: &Value| {
                        let text = value.as_str().unwrap_or_default();
                        json!(text.split_whitespace().collect::<Vec<_>>().join(" "))
                    };
                    self.value(&path, &squeeze(expected), &squeeze(field));
                }
                _ => self.value(&path, expected, field),
            }
        }
    }

    /// Headers: those that are named, without regard to the case of their names.
    fn named(&mut self, path: &str, expected: &Value, got: &Value) {
        for (name, expected) in expected.as_object().into_iter().flatten() {
            let found = got
                .as_object()
                .into_iter()
                .flatten()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            let path = step(path, name);
            match found {
                Some((_, got)) => self.value(&path, expected, got),
                None => self.add(&path, show(expected), "nothing".to_owned()),
            }
        }
    }

    /// A sentence of which only a part is expected.
    fn part(&mut self, path: &str, expected: &Value, got: &Value) {
        let (wanted, words) = (expected.as_str(), got.as_str());
        let holds = wanted.zip(words).is_some_and(|(part, words)| {
            part.starts_with('<') && is_any(part, got) || words.contains(part)
        });
        if !holds {
            let expected = format!("… {} …", show(expected));
            self.add(path, expected, show(got));
        }
    }

    /// Texts of several lines differ in a line.
    fn text(&mut self, path: &str, expected: &Value, got: &str) {
        let Some(wanted) = expected.as_str() else {
            return self.value(path, expected, &json!(got));
        };
        if wanted == got || is_any(wanted, &json!(got)) {
            return;
        }
        let (mut left, mut right) = (wanted.split('\n'), got.split('\n'));
        if wanted.lines().count() <= 1 && got.lines().count() <= 1 {
            return self.add(path, show(expected), show(&json!(got)));
        }
        for line in 1.. {
            match (left.next(), right.next()) {
                (None, None) => return,
                (one, other) if one == other => {}
                (one, other) => {
                    let show = |line: Option<&str>| {
                        line.map_or("nothing".to_owned(), |line| show(&json!(line)))
                    };
                    return self.add(&format!("{path}, line {line}"), show(one), show(other));
                }
            }
        }
    }

    /// Everything, down to the leaves.
    fn value(&mut self, path: &str, expected: &Value, got: &Value) {
        match (expected, got) {
            (Value::String(word), got) if is_any(word, got) => {}
            (Value::Object(wanted), Value::Object(found)) => {
                for (key, expected) in wanted {
                    let path = step(path, key);
                    match found.get(key) {
                        Some(got) => self.value(&path, expected, got),
                        None => self.add(&path, show(expected), "nothing".to_owned()),
                    }
                }
                for (key, got) in found.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
                    self.add(&step(path, key), "nothing".to_owned(), show(got));
                }
            }
            (Value::Array(wanted), Value::Array(found)) => {
                for index in 0..wanted.len().max(found.len()) {
                    let path = format!("{path}[{index}]");
                    match (wanted.get(index), found.get(index)) {
                        (Some(expected), Some(got)) => self.value(&path, expected, got),
                        (Some(expected), None) => {
                            self.add(&path, show(expected), "nothing".to_owned());
                        }
                        (None, Some(got)) => self.add(&path, "nothing".to_owned(), show(got)),
                        (None, None) => {}
                    }
                }
            }
            (Value::Number(wanted), Value::Number(found)) => {
                let same = wanted == found
                    || wanted.as_f64() == found.as_f64() && !both_whole(wanted, found);
                if !same {
                    self.add(path, show(expected), show(got));
                }
            }
            (Value::String(wanted), Value::String(found)) if wanted.contains('\n') => {
                self.text(path, expected, found);
            }
            _ if expected == got => {}
            _ => self.add(path, show(expected), show(got)),
        }
    }
}

/// Two whole numbers are not compared as floats, which would make large ones equal.
fn both_whole(one: &serde_json::Number, other: &serde_json::Number) -> bool {
    !one.is_f64() && !other.is_f64()
}

/// `<any>`, `<number>` and `<text>` stand for any value of that kind.
fn is_any(word: &str, got: &Value) -> bool {
    match word {
        "<any>" => !got.is_null(),
        "<number>" => got.is_number(),
        "<text>" => got.is_string(),
        _ => false,
    }
}

fn step(path: &str, key: &str) -> String {
    let simple = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "_-".contains(c));
    if simple {
        format!("{path}.{key}")
    } else {
        format!("{path}[{}]", json!(key))
    }
}

fn counted(number: usize) -> String {
    match number {
        0 => "none".to_owned(),
        number => format!("{number} of them"),
    }
}

fn show(value: &Value) -> String {
    cut(&value.to_string())
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(payloads: &[&[u8]]) -> Outcome {
        let message = |payload: &&[u8]| Message {
            subject: "in/1".into(),
            headers: vec![("unit".to_owned(), "C".to_owned())].into(),
            ..Message::new(payload.to_vec())
        };
        Outcome {
            messages: payloads.iter().map(message).collect(),
            ..Outcome::default()
        }
    }

    fn paths(expect: Value, outcome: &Outcome) -> Vec<String> {
        let line = |one: Difference| format!("{}: {} | {}", one.path, one.expected, one.got);
        compare(&expect, outcome).into_iter().map(line).collect()
    }

    #[test]
    fn a_difference_has_the_path_of_the_leaf() {
        let got = outcome(&[br#"{"a":{"b":[1,2.0]},"c":"x"}"#]);
        let same = json!({ "messages": [
            { "subject": "in/1", "json": { "a": { "b": [1.0, "<number>"] }, "c": "<any>" },
              "headers": { "Unit": "C" } }
        ] });
        assert_eq!(paths(same, &got), [""; 0]);
        let other = json!({ "messages": [
            { "subject": "in/2", "json": { "a": { "b": [1, 3] }, "d": null }, "headers": { "x": "1" } }
        ] });
        assert_eq!(
            paths(other, &got),
            [
                "messages[0].subject: \"in/2\" | \"in/1\"",
                "messages[0].json.a.b[1]: 3 | 2.0",
                "messages[0].json.d: null | nothing",
                "messages[0].json.c: nothing | \"x\"",
                "messages[0].headers.x: \"1\" | nothing",
            ]
        );
    }

    #[test]
    fn what_is_missing_and_what_is_too_much_is_shown() {
        let got = outcome(&[b"one", b"two"]);
        let expect = json!({ "messages": [{ "text": "one" }] });
        assert_eq!(
            paths(expect, &got),
            [
                "messages: 1 of them | 2 of them",
                "messages[1]: nothing | {\"subject\":\"in/1\",\"headers\":{\"unit\":\"C\"},\"text\":\"two\"}",
            ]
        );
        let expect = json!({ "messages": [{ "json": 1 }, { "base64": "dHdv" }, { "text": "x" }] });
        assert_eq!(
            paths(expect, &got),
            [
                "messages: 3 of them | 2 of them",
                "messages[0].json: 1 | no JSON; text: \"one\"",
                "messages[2]: {\"text\":\"x\"} | nothing",
            ]
        );
    }

    #[test]
    fn of_texts_with_lines_the_line_that_differs_is_shown() {
        let got = outcome(&[b"a\nb\nc\n"]);
        let expect = json!({ "messages": [{ "text": "a\nB\nc\n" }] });
        assert_eq!(
            paths(expect, &got),
            ["messages[0].text, line 2: \"B\" | \"b\""]
        );
        let expect = json!({ "messages": [{ "text": "a\nb\nc" }] });
        assert_eq!(
            paths(expect, &got),
            ["messages[0].text, line 4: nothing | \"\""]
        );
    }

    #[test]
    fn an_error_and_a_rejection_that_nobody_expects_are_differences() {
        let got = Outcome {
            failure: Some(Failure {
                kind: "transient",
                code: "asked".into(),
                message: "on purpose".into(),
            }),
            rejections: vec![(
                0,
                crate::message::Rejection {
                    index: 2,
                    error: crate::error::ConnectionError::permanent("x", "no"),
                },
            )],
            ..Outcome::default()
        };
        let found = paths(json!({}), &got);
        assert_eq!(found[0], "error: none | transient: on purpose");
        assert!(
            found[1].starts_with("rejections: none | 1 of them"),
            "{found:?}"
        );
        let expect = json!({
            "error": { "kind": "transient", "message": "purpose" },
            "rejections": [{ "index": 2, "kind": "permanent" }]
        });
        assert_eq!(paths(expect, &got), [""; 0]);
        let expect = json!({ "error": { "kind": "denied", "message": "rights" }, "rejections": [{ "index": 2 }] });
        assert_eq!(
            paths(expect, &got),
            [
                "error.kind: \"denied\" | \"transient\"",
                "error.message: … \"rights\" … | \"on purpose\"",
            ]
        );
    }

    #[test]
    fn large_whole_numbers_are_not_rounded_together() {
        let got = outcome(&[b"9007199254740993"]);
        let expect = json!({ "messages": [{ "json": 9_007_199_254_740_992_u64 }] });
        assert_eq!(paths(expect, &got).len(), 1);
    }
}
