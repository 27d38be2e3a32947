//! What a broker may send, on each version of the protocol: the same packets come out however the bytes come
//! in pieces, and no packet beyond the limit is held.

#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass::connections::mqtt::fuzz::decode;

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (version, piece, bytes) = input;
    let version = 3 + version % 3;
    let most = 512;
    let whole = decode(version, most, bytes.len(), bytes);
    let pieces = decode(version, most, usize::from(piece), bytes);
    assert_eq!(whole, pieces, "the pieces make a difference");
});
