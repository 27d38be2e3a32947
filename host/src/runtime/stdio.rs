//! A guest's stdout and stderr: cut into lines for the log, and remembered for a trap's sentence.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::interfaces::{Journal, Level};

/// A line is cut here when no end of line comes.
const LINE_BYTES: usize = 4 * 1024;
/// What a guest may write at once.
const WRITE_BYTES: usize = 64 * 1024;

/// One of the two streams. Guests open it anew for every few bytes; all clones fill one line.
#[derive(Clone, Debug)]
pub(super) struct Words(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    journal: Arc<Journal>,
    level: Level,
    line: Mutex<Vec<u8>>,
}

impl Words {
    pub(super) fn stdout(journal: Arc<Journal>) -> Self {
        Self(Arc::new(Shared {
            journal,
            level: Level::Info,
            line: Mutex::default(),
        }))
    }

    pub(super) fn stderr(journal: Arc<Journal>) -> Self {
        Self(Arc::new(Shared {
            journal,
            level: Level::Warn,
            line: Mutex::default(),
        }))
    }

    fn take(&self, bytes: &[u8]) {
        if self.0.level == Level::Warn {
            self.0.journal.remember(bytes);
        }
        let mut line = self.0.line.lock();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE_BYTES.saturating_sub(line.len());
            line.extend_from_slice(piece.get(..room).unwrap_or(piece));
            if piece.ends_with(b"\n") || line.len() >= LINE_BYTES {
                self.0.finish(&mut line);
            }
        }
    }
}

impl Shared {
    fn finish(&self, line: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(line);
        if !text.trim().is_empty() {
            self.journal.line(self.level, &text);
        }
        line.clear();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut line = std::mem::take(self.line.get_mut());
        self.finish(&mut line);
    }
}

impl IsTerminal for Words {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Words {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Words {
    async fn ready(&mut self) {}
}

#[async_trait::async_trait]
impl OutputStream for Words {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

impl AsyncWrite for Words {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
