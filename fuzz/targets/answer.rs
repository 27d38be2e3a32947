//! Answers that `httppull` asks for, and the wait that a server asks for in them. The
//! input: the status, whether the body has it too, a line with the wait, the body. The connector is a component of
//! its own, so its module is taken by its path.

#![no_main]

#[path = "../../guests/rust/httppull/src/answer.rs"]
mod answer;

use libfuzzer_sys::fuzz_target;
use windlass_connector::http::Response;
use windlass_connector::retry_after_ms;

fuzz_target!(|input: (u16, bool, &[u8])| {
    let (status, by_body, rest) = input;
    let line = rest.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (wait, body) = rest.split_at(line);
    let response = Response {
        status,
        headers: vec![(
            "Retry-After".to_owned(),
            String::from_utf8_lossy(wait).into_owned(),
        )],
        body: body.to_vec(),
        truncated: false,
    };
    let _wait = retry_after_ms(&response.headers);
    if let Ok(answer) = answer::read(&response, by_body) {
        assert_eq!(answer.iter().count(), answer.len());
        assert_eq!(answer.is_empty(), answer.last().is_none());
        for element in answer.iter() {
            serde_json::from_str::<&serde_json::value::RawValue>(element)
                .expect("an element is JSON");
        }
    }
});
