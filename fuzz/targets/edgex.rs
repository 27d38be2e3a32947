//! Envelopes and events of EdgeX, in JSON and in CBOR, as a body or with headers of NATS: a row is a JSON object
//! with as many fields as it has readings. The connector is a component of its own, so its modules are taken by
//! their path.

#![no_main]

#[path = "../../guests/rust/edgex/src/cbor.rs"]
mod cbor;
#[path = "../../guests/rust/edgex/src/envelope.rs"]
mod envelope;
#[path = "../../guests/rust/edgex/src/event.rs"]
mod event;
#[path = "../../guests/rust/edgex/src/pairs.rs"]
mod pairs;

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

const CONTENT_TYPES: [&str; 4] = ["", "application/json", "application/cbor", "text/plain"];

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, body) = input;
    let content_type = CONTENT_TYPES[usize::from(kind) % CONTENT_TYPES.len()];
    let _ = cbor::to_json(body).map(|json| serde_json::from_str::<Value>(&json).expect("JSON"));
    let Ok(opened) = envelope::open(body, ("correlation", content_type)) else {
        return;
    };
    let Ok(row) = event::row(&opened.payload, &opened.correlation) else {
        return;
    };
    // Digits beyond what `f64` has are kept in the row.
    let fields: BTreeMap<String, &RawValue> =
        serde_json::from_slice(&row.json).expect("a row is a JSON object");
    assert!(!fields.is_empty(), "a row without a field");
    assert!(
        fields
            .keys()
            .all(|name| row.headers.iter().any(|(known, _)| known == name))
    );
});
