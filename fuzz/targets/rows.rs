//! Payloads as a query reads them, in each format: JSON is what `serde_json` takes for objects, every row is
//! JSON, and its members are what `serde_json` finds in it.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;
use windlass::message::{Batch, Message};
use windlass::rules::query::rows::{Delimited, Format, RowBatch};

fn rows(format: &Format, payload: &[u8]) -> Option<Vec<Value>> {
    let batch = Batch::from(vec![Message::new(payload.to_vec())]);
    let rows = RowBatch::new(batch, format.clone());
    if !rows.failures().is_empty() {
        assert_eq!(rows.rows(0).count(), 0, "a message that failed has no rows");
        return None;
    }
    let mut found = Vec::new();
    for row in rows.rows(0) {
        serde_json::from_slice::<&RawValue>(row.object()).expect("a row is JSON");
        // What has numbers beyond `f64`, or half of a surrogate pair, `serde_json` makes no value of; the
        // host does, as eKuiper.
        let Ok(object) = serde_json::from_slice::<Value>(row.object()) else {
            found.push(Value::Null);
            continue;
        };
        for (name, value) in object.as_object().expect("a row is an object") {
            let read = row.field(name).expect("each member is found by its name");
            let read: Value = serde_json::from_slice(read).expect("a value is JSON");
            assert_eq!(&read, value, "the member {name}");
        }
        found.push(object);
    }
    Some(found)
}

fuzz_target!(|payload: &[u8]| {
    let found = rows(&Format::Json, payload);
    if let Ok(value) = serde_json::from_slice::<Value>(payload) {
        let wanted = match value {
            Value::Object(_) => Some(vec![value]),
            Value::Array(list) if list.iter().all(Value::is_object) => Some(list),
            _ => None,
        };
        assert_eq!(found, wanted);
    }
    assert_eq!(
        rows(&Format::Binary, payload).map(|rows| rows.len()),
        Some(1)
    );
    let columns = ["bigint", "float", "boolean", "string", "datetime"]
        .map(|kind| (kind.to_owned(), Some(kind.to_owned())));
    let delimited = Delimited {
        delimiter: ",".to_owned(),
        columns: columns.to_vec(),
    };
    rows(&Format::Delimited(Arc::new(delimited)), payload);
});
