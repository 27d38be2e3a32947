//! What a token endpoint may answer: no time in it is beyond the clock.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use url::Url;
use windlass::connections::http::fuzz::is_token;

static ENDPOINT: LazyLock<Url> =
    LazyLock::new(|| Url::parse("http://127.0.0.1/token").expect("a URL"));

fuzz_target!(|answer: &[u8]| {
    if let Ok(fields) = serde_json::from_slice(answer) {
        is_token(&ENDPOINT, fields);
    }
});
