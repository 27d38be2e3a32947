//! What a test file may expect: names and kinds of values, checked before anything runs.

use serde_json::Value;

use super::fields::{Fields, KINDS};
use crate::config::{pointer_to, unknown};
use crate::error::ErrorKind;

const KEYS: [&str; 11] = [
    "messages",
    "checkpoint",
    "idle",
    "finished",
    "settled",
    "publishes",
    "requests",
    "statements",
    "subscriptions",
    "rejections",
    "error",
];

/// What the items of a list may say.
fn items(list: &str) -> Option<&'static [&'static str]> {
    Some(match list {
        "messages" => &["subject", "json", "text", "base64", "headers"],
        "publishes" => &[
            "connection",
            "subject",
            "json",
            "text",
            "base64",
            "headers",
            "qos",
            "retain",
        ],
        "requests" => &[
            "connection",
            "method",
            "path",
            "json",
            "text",
            "base64",
            "headers",
        ],
        "statements" => &["connection", "statement", "params", "rows"],
        "subscriptions" => &["connection", "filters", "qos", "extra"],
        "rejections" => &["batch", "index", "kind", "code", "message"],
        _ => return None,
    })
}

/// Complains about everything that cannot be expected.
pub(super) fn check(fields: &mut Fields<'_>, expect: &Value, pointer: &str) {
    let Some(map) = fields.mapping(expect, pointer, &KEYS) else {
        return;
    };
    for (key, value) in map {
        let at = pointer_to(pointer, key);
        if let Some(allowed) = items(key) {
            for (index, item) in fields.list(value, &at).into_iter().flatten().enumerate() {
                let at = format!("{at}/{index}");
                let Some(item) = fields.mapping(item, &at, allowed) else {
                    continue;
                };
                if key != "rejections" {
                    // Only whether it can be read.
                    drop(fields.payload(item, &at));
                }
                if let Some(kind) = item.get("kind") {
                    fields.kind(kind, &pointer_to(&at, "kind"));
                }
            }
            continue;
        }
        match key.as_str() {
            "checkpoint" if !value.is_null() => drop(fields.text(value, &at)),
            "finished" => drop(fields.boolean(value, &at)),
            "idle" if !value.is_boolean() => drop(fields.number(value, &at, u32::MAX)),
            "settled" => drop(fields.number(value, &at, u32::MAX)),
            "error" => error(fields, value, &at),
            _ => {}
        }
    }
}

fn error(fields: &mut Fields<'_>, value: &Value, at: &str) {
    let Some(map) = fields.mapping(value, at, &["kind", "code", "message"]) else {
        return;
    };
    for (key, value) in map {
        let at = pointer_to(at, key);
        let Some(word) = fields.text(value, &at) else {
            continue;
        };
        // A guest that fails without an error of its own can be expected too.
        let mut words = KINDS.map(ErrorKind::as_str).to_vec();
        words.extend(["trap", "overtime"]);
        if key == "kind" && !words.contains(&word.as_str()) {
            fields.wrong(&at, unknown("kind of error", &word, &words));
        }
    }
}
