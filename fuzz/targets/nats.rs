//! A NATS server's last words, headers, and the envelope that EdgeX has in them: the host finds a reason in any
//! words, and makes no header up. The input: a line of words, lines of headers, an empty line, the payload.

#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass::connections::{edgex, nats};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let (head, payload) = text.split_once("\n\n").unwrap_or((&text, ""));
    let (words, lines) = head.split_once('\n').unwrap_or((head, ""));
    let headers: Vec<(&str, &str)> = lines
        .lines()
        .filter_map(|line| line.split_once(": "))
        .collect();
    let error = nats::fuzz::said(words);
    assert!(error.code.starts_with("nats:") && !error.message.is_empty());
    let message = nats::fuzz::message("subject", &headers, payload.as_bytes());
    assert!(message.headers.pairs().len() <= headers.len());
    assert_eq!(&*message.payload, payload.as_bytes());
    let _headers = edgex::fuzz::headers(payload.as_bytes());
});
