//! Deflate, read to its marked end: `flate2`'s own readers take a stream that was cut for a shorter one. A
//! reader over bytes and nothing else; every room that takes in what somebody packed may use it.

use std::io::{self, BufRead, Read};

use flate2::{Decompress, FlushDecompress, Status};

/// Reads what was packed, as zlib (RFC 1950) or raw (RFC 1951). An error: it is no such thing, it was cut, or
/// something stands behind its end.
#[derive(Debug)]
pub struct Inflate<B> {
    state: Decompress,
    packed: B,
    ended: bool,
}

impl<B: BufRead> Inflate<B> {
    /// Reads from the beginning of a stream.
    #[must_use]
    pub fn new(packed: B, zlib: bool) -> Self {
        Self {
            state: Decompress::new(zlib),
            packed,
            ended: false,
        }
    }

    /// Whether the end of the stream is that of the input, once it is reached.
    fn end(&mut self) -> io::Result<()> {
        if self.ended && !self.packed.fill_buf()?.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }
}

impl<B: BufRead> Read for Inflate<B> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !out.is_empty() {
            let packed = self.packed.fill_buf()?;
            let nothing = packed.is_empty();
            let before = (self.state.total_in(), self.state.total_out());
            let status = self
                .state
                .decompress(packed, out, FlushDecompress::None)
                .map_err(io::Error::other)?;
            let taken = usize::try_from(self.state.total_in() - before.0).unwrap_or(usize::MAX);
            let given = usize::try_from(self.state.total_out() - before.1).unwrap_or(usize::MAX);
            self.packed.consume(taken);
            self.ended = status == Status::StreamEnd;
            self.end()?;
            if given > 0 {
                return Ok(given);
            }
            if nothing && !self.ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

/// RFC 1950, 2.2: method 8, and the first two bytes are a multiple of 31.
#[must_use]
pub fn is_zlib(packed: &[u8]) -> bool {
    match packed {
        [first, second, ..] => {
            first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)).is_multiple_of(31)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write as _};

    use flate2::write::{DeflateEncoder, ZlibEncoder};

    use super::*;

    fn packed(zlib: bool, text: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::default();
        if zlib {
            let mut encoder = ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(text).unwrap();
            return encoder.finish().unwrap();
        }
        let mut encoder = DeflateEncoder::new(Vec::new(), level);
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn read(packed: &[u8], zlib: bool, at_once: usize) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        Inflate::new(BufReader::with_capacity(at_once, packed), zlib).read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn what_was_packed_comes_out_whole_and_what_was_cut_or_goes_on_is_an_error() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for zlib in [true, false] {
            let whole = packed(zlib, &text);
            assert_eq!(is_zlib(&whole), zlib);
            for at_once in [1, 7, 1 << 20] {
                assert_eq!(read(&whole, zlib, at_once).unwrap(), text);
                for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
                    assert!(read(&whole[..cut], zlib, at_once).is_err(), "{zlib} {cut}");
                }
                let more = [whole.as_slice(), b"x"].concat();
                assert!(read(&more, zlib, at_once).is_err());
            }
            assert!(read(b"no such thing", zlib, 4).is_err());
        }
    }
}
