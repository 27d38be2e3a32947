//! Compressed files: read as what is in them, and written piece by piece, each whole by itself.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::path::Path;

use flate2::bufread::{GzDecoder, MultiGzDecoder};
use flate2::write::GzEncoder;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::inflate::Inflate;

const PIECE: usize = 64 * 1024;
/// A window of 8 MiB is what every encoder may count on (RFC 8878, 3.1.1.1.2).
const ZSTD_WINDOW: u32 = 23;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zlib,
    Flate,
    Zstd,
}

impl Packing {
    /// By eKuiper's name.
    pub(super) fn named(word: &str) -> Option<Self> {
        match word {
            "gzip" => Some(Self::Gzip),
            "zlib" => Some(Self::Zlib),
            "flate" => Some(Self::Flate),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zlib => "zlib",
            Self::Flate => "flate",
            Self::Zstd => "zstd",
        }
    }

    /// Bytes compressed to a piece that can be read by itself and behind others.
    pub(super) fn pack(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd => zstd::bulk::compress(bytes, 0),
            _ => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(bytes)?;
                encoder.finish()
            }
        }
    }

    fn reader(self, from: impl BufRead + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(from)),
            Self::Zlib => Box::new(Inflate::new(from, true)),
            Self::Flate => Box::new(Inflate::new(from, false)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(from)?;
                decoder.window_log_max(ZSTD_WINDOW)?;
                Box::new(decoder)
            }
        })
    }
}

/// A compressed file that is read: what is in it comes out of `text`, and at its end [`Unpacking::end`]
/// knows whether that was all.
pub(super) struct Unpacking {
    pub text: tokio::io::BufReader<DuplexStream>,
    task: JoinHandle<io::Result<()>>,
}

/// Begins to read a file. A thread of its own unpacks it, never further ahead than a piece.
pub(super) fn unpacking(file: File, packing: Packing) -> Unpacking {
    let (text, mut into) = tokio::io::duplex(PIECE);
    let handle = Handle::current();
    let task = handle.clone().spawn_blocking(move || {
        let mut reader = packing.reader(BufReader::with_capacity(PIECE, file))?;
        let mut piece = vec![0; PIECE];
        loop {
            let count = match reader.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            // Nobody reads on: that is no fault of the file.
            let whole = piece.get(..count).unwrap_or_default();
            if handle.block_on(into.write_all(whole)).is_err() {
                return Ok(());
            }
        }
    });
    Unpacking {
        text: tokio::io::BufReader::with_capacity(PIECE, text),
        task,
    }
}

impl Unpacking {
    /// The file was read to its end. After `text` has ended.
    ///
    /// # Errors
    /// It is damaged, cut short or something else; what came before is good.
    pub(super) async fn end(self) -> io::Result<()> {
        self.task.await.map_err(io::Error::other)?
    }
}

/// Counts what was read through it.
struct Counted<B> {
    inner: B,
    bytes: u64,
}

impl<B: BufRead> Read for Counted<B> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        self.bytes += u64::try_from(count).unwrap_or(u64::MAX);
        Ok(count)
    }
}

impl<B: BufRead> BufRead for Counted<B> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }
    fn consume(&mut self, amount: usize) {
        self.bytes += u64::try_from(amount).unwrap_or(u64::MAX);
        self.inner.consume(amount);
    }
}

/// Where the last whole piece of a file written by [`Packing::pack`] ends, and how many line ends are in
/// the pieces: behind it stands what a crash has left of one. Blocks.
///
/// # Errors
/// The file cannot be read.
pub(super) fn whole_pieces(path: &Path, packing: Packing) -> io::Result<(u64, u64)> {
    let file = File::open(path)?;
    let mut from = Counted {
        inner: BufReader::with_capacity(PIECE, file),
        bytes: 0,
    };
    let (mut end, mut lines) = (0, 0);
    while !from.fill_buf()?.is_empty() {
        let mut found = 0;
        let read = match packing {
            Packing::Zstd => zstd::stream::read::Decoder::with_buffer(&mut from)
                .and_then(|decoder| count_lines(decoder.single_frame(), &mut found)),
            _ => count_lines(GzDecoder::new(&mut from), &mut found),
        };
        if read.is_err() {
            break;
        }
        (end, lines) = (from.bytes, lines + found);
    }
    Ok((end, lines))
}

fn count_lines(mut from: impl Read, lines: &mut u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = from.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        let found = piece.get(..count).unwrap_or_default();
        *lines += found.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
}

#[cfg(test)]
mod tests {
    use flate2::write::{DeflateEncoder, ZlibEncoder};
    use tokio::io::AsyncReadExt;

    use super::*;

    fn packed(packing: Packing, bytes: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::default();
        match packing {
            Packing::Zlib => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Packing::Flate => {
                let mut encoder = DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            whole => whole.pack(bytes).unwrap(),
        }
    }

    async fn read(path: &Path, packing: Packing) -> (Vec<u8>, io::Result<()>) {
        let mut unpacking = unpacking(File::open(path).unwrap(), packing);
        let mut text = Vec::new();
        unpacking.text.read_to_end(&mut text).await.unwrap();
        (text, unpacking.end().await)
    }

    #[tokio::test]
    async fn a_file_comes_out_whole_and_one_that_was_cut_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let text: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
        for packing in [Packing::Gzip, Packing::Zlib, Packing::Flate, Packing::Zstd] {
            let whole = packed(packing, &text);
            std::fs::write(&path, &whole).unwrap();
            let (found, end) = read(&path, packing).await;
            assert!(found == text && end.is_ok(), "{packing:?}");
            std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
            let (found, end) = read(&path, packing).await;
            assert!(text.starts_with(&found) && end.is_err(), "{packing:?}");
        }
    }

    #[tokio::test]
    async fn who_stops_reading_ends_the_thread() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, packed(Packing::Gzip, &vec![0; 5_000_000])).unwrap();
        let Unpacking { text, task } = unpacking(File::open(&path).unwrap(), Packing::Gzip);
        drop(text);
        task.await.unwrap().unwrap();
    }

    #[test]
    fn the_end_of_the_last_whole_piece_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for packing in [Packing::Gzip, Packing::Zstd] {
            let mut file = packed(packing, b"one\ntwo\n");
            file.extend(packed(packing, b"three\n"));
            let end = file.len() as u64;
            std::fs::write(&path, &file).unwrap();
            assert_eq!(whole_pieces(&path, packing).unwrap(), (end, 3));
            let torn = packed(packing, &[7; 500]);
            file.extend_from_slice(&torn[..torn.len() - 3]);
            std::fs::write(&path, &file).unwrap();
            assert_eq!(whole_pieces(&path, packing).unwrap(), (end, 3));
        }
    }
}
