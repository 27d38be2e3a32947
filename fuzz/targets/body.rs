//! Bodies of HTTP pushes and of REST, packed or not: never more than is allowed, the room for them is given
//! back, and pieces make no difference.

#![no_main]

use std::convert::Infallible;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use windlass::connections::listener::body::{BodyError, BodyLimits, Budget, read_body};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime of one thread")
});

const PACKINGS: [&str; 6] = ["identity", "gzip", "deflate", "zstd", "gzip, zstd", "br"];

fn body(bytes: &[u8], piece: usize) -> BoxBody<Bytes, Infallible> {
    let frames: Vec<_> = bytes
        .chunks(piece.max(1))
        .map(|piece| Ok(http_body::Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    http_body_util::BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

fn read(packing: &str, bytes: &[u8], piece: usize) -> Result<Bytes, BodyError> {
    let limits = BodyLimits {
        bytes: 64 * 1024,
        time: Duration::from_secs(5),
    };
    let headers = HeaderMap::from_iter([(
        CONTENT_ENCODING,
        HeaderValue::from_str(packing).expect("a plain word"),
    )]);
    let budget = Budget::new(256 * 1024);
    let read = RUNTIME.block_on(read_body(&budget, &headers, body(bytes, piece), limits));
    let read = read.map(|(body, _room)| body);
    assert_eq!(budget.used(), 0, "the room is not given back");
    if let Ok(body) = &read {
        assert!(body.len() <= limits.bytes);
    }
    read
}

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (packing, piece, bytes) = input;
    let packing = PACKINGS[usize::from(packing) % PACKINGS.len()];
    let whole = read(packing, bytes, bytes.len());
    assert_eq!(whole, read(packing, bytes, usize::from(piece)));
    if packing == "identity" {
        assert_eq!(whole.as_deref(), Ok(bytes));
    }
});
