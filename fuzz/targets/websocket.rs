//! What the other side of a WebSocket may send, to what listens and to what has dialled: no message beyond the
//! limit, and an end with a reason.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use windlass::connections::websocket::fuzz::take;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime of one thread")
});

fuzz_target!(|input: (bool, &[u8])| {
    let (server, bytes) = input;
    let most = 200;
    let (messages, end) = RUNTIME
        .block_on(take(server, most, bytes))
        .expect("a pipe in memory");
    assert!(messages.iter().all(|message| message.len() <= most));
    assert!(!end.is_empty());
});
