//! Samples of Neuron, and rows as writes: a trace is taken off once, and each write is JSON. The connector is a
//! component of its own, so its modules are taken by their path.

#![no_main]

#[path = "../../guests/rust/neuron/src/trace.rs"]
mod trace;
#[path = "../../guests/rust/neuron/src/write.rs"]
mod write;

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use write::{Form, Target};

fuzz_target!(|payload: &[u8]| {
    if let Some(rest) = trace::untraced(payload) {
        assert_eq!(rest.len() + 26, payload.len());
    }
    for tags in [vec![], vec!["a".to_owned(), "tag".to_owned()]] {
        let form = Form::Tags(Target {
            node: "node".to_owned(),
            group: "\"group\"".to_owned(),
            tags,
        });
        let _ = write::each_row(payload, &form, |write| {
            serde_json::from_slice::<&RawValue>(write).expect("a write is JSON");
        });
    }
    let _ = write::each_row(payload, &Form::Raw, |write| {
        assert!(write.len() <= payload.len())
    });
});
