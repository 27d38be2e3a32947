//! A door for `fuzz/`, behind the feature `fuzzing`: what the other side of a WebSocket may send, through the
//! same wire as in use, over a pipe in memory.

use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::wire::{Moved, Next, Side, Wire, settings};

struct Taken(Vec<Bytes>);

impl Side for Taken {
    fn next(&mut self, _cx: &Context<'_>) -> Next {
        Next::Nothing
    }
    fn written(&mut self) {}
    fn arrived(&mut self, payload: Bytes) {
        self.0.push(payload);
    }
}

/// The messages in these bytes, then why the link ended. `server`: as what listens reads them. `most`
/// bounds a message.
///
/// # Errors
/// The pipe broke, which it does not.
pub async fn take(
    server: bool,
    most: usize,
    bytes: &[u8],
) -> std::io::Result<(Vec<Bytes>, String)> {
    let (near, mut far) = tokio::io::duplex(bytes.len() + 64 * 1024);
    far.write_all(bytes).await?;
    far.shutdown().await?;
    let role = if server { Role::Server } else { Role::Client };
    let socket =
        WebSocketStream::from_raw_socket(Moved::new(near), role, Some(settings(most))).await;
    let mut taken = Taken(Vec::new());
    let end = Wire::new(socket, Duration::ZERO, most)
        .run(&mut taken)
        .await;
    Ok((taken.0, end.error().message))
}
