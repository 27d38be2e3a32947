//! Bodies of REST: what is read is what `serde_json` reads, and no name stands twice.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use windlass::api::json::parse;

fuzz_target!(|text: &str| {
    match (parse(text), serde_json::from_str::<Value>(text)) {
        (Ok(read), Ok(wanted)) => assert_eq!(read, wanted),
        (Ok(_), Err(error)) => panic!("read what is no JSON: {error}"),
        (Err(error), Ok(_)) => assert!(error.to_string().contains("stands twice"), "{error}"),
        (Err(_), Err(_)) => {}
    }
});
