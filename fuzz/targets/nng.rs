//! What a peer on nanomsg's protocols may send: the same comes out however it comes in pieces, and what is
//! sent reads as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass::connections::nng::fuzz::{decode, encode};

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (local, piece, bytes) = input;
    let most = 64;
    let whole = decode(local, most, bytes.len(), bytes);
    assert_eq!(whole, decode(local, most, usize::from(piece), bytes));
    let sent = decode(
        local,
        bytes.len(),
        usize::from(piece),
        &encode(local, bytes),
    );
    assert_eq!(sent.len(), 2, "a greeting and the message: {sent:?}");
});
