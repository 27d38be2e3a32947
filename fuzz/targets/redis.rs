//! What a Redis server may answer or push: each message is whole, and its payload JSON where the host has made
//! it from several fields.

#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass::connections::redis::fuzz::messages;

fuzz_target!(|bytes: &[u8]| {
    // No entry has a field of that name: all fields are the payload.
    let none = "no such field \u{1}";
    for message in messages(none, bytes).unwrap_or_default() {
        if &*message.subject == "key" {
            let object: serde_json::Value =
                serde_json::from_slice(&message.payload).expect("the host writes JSON");
            assert!(object.is_object());
        }
    }
    messages("payload", bytes);
});
