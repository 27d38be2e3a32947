//! Bodies of answers that came packed, unpacked with a bound. Only what this host says that it takes
//! (`Accept-Encoding`); everything else is handed on as it came.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};

use super::sockets::Answer;
use crate::error::ConnectionError;

/// More than this is unpacked on a thread beside, where it holds nobody up.
const LITTLE: usize = 64 * 1024;
/// A window of 8 MiB is the most that may be asked of a client (RFC 9659, section 3).
const WINDOW_LOG: u32 = 23;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zstd,
}

/// Unpacks the body, `most` bytes of it, and takes out the headers that spoke of the packed one.
///
/// # Errors
/// `transient`: it cannot be unpacked.
pub(super) async fn unpack(answer: &mut Answer, most: usize) -> Result<(), ConnectionError> {
    let Some(packing) = packing(answer) else {
        return Ok(());
    };
    let packed = std::mem::take(&mut answer.body);
    let cut = answer.truncated;
    let unpacked = if packed.len() <= LITTLE {
        open(packing, &packed, cut, most)
    } else {
        let beside = tokio::task::spawn_blocking(move || open(packing, &packed, cut, most));
        beside
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    };
    let (body, more) = unpacked.map_err(|error| {
        ConnectionError::transient("http:cut", "the answer broke off or cannot be unpacked")
            .caused_by(error)
    })?;
    answer.headers.remove(CONTENT_ENCODING);
    answer.headers.remove(CONTENT_LENGTH);
    answer.body = body;
    answer.truncated = more;
    Ok(())
}

fn packing(answer: &Answer) -> Option<Packing> {
    let word = answer.headers.get(CONTENT_ENCODING)?;
    if answer.body.is_empty() {
        return None;
    }
    match word.to_str().ok()?.trim().to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => Some(Packing::Gzip),
        "zstd" => Some(Packing::Zstd),
        _ => None,
    }
}

/// `cut`: the packed body was cut, so that its end is missing. True: there is more than `most`.
fn open(packing: Packing, packed: &[u8], cut: bool, most: usize) -> io::Result<(Bytes, bool)> {
    let reader: Box<dyn Read + '_> = match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
            decoder.window_log_max(WINDOW_LOG)?;
            Box::new(decoder)
        }
    };
    let mut out = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    match reader.take(limit).read_to_end(&mut out) {
        Ok(_) => {}
        // What came before the cut stands in `out`.
        Err(_) if cut => {}
        Err(error) => return Err(error),
    }
    let more = cut || out.len() > most;
    out.truncate(most);
    Ok((out.into(), more))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;

    fn packed(word: &str, text: &[u8]) -> Vec<u8> {
        match word {
            "zstd" => zstd::bulk::compress(text, 3).unwrap(),
            _ => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(text).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    fn answer(word: &str, body: Vec<u8>, truncated: bool) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_str(word).unwrap());
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        Answer {
            status: StatusCode::OK,
            headers,
            body: body.into(),
            truncated,
        }
    }

    #[tokio::test]
    async fn a_body_is_unpacked_and_no_header_speaks_of_the_packed_one() {
        let text: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        for word in ["gzip", "X-GZIP", "zstd"] {
            let mut answer = answer(word, packed(word, &text), false);
            assert!(answer.body.len() > LITTLE, "the other thread is asked too");
            unpack(&mut answer, text.len()).await.unwrap();
            assert!(answer.body == text && !answer.truncated, "{word}");
            assert!(answer.headers.is_empty());
        }
        let mut other = answer("br", b"as it came".to_vec(), false);
        unpack(&mut other, 100).await.unwrap();
        assert_eq!(
            (&other.body[..], other.headers.len()),
            (&b"as it came"[..], 2)
        );
        let mut none = answer("gzip", Vec::new(), false);
        unpack(&mut none, 100).await.unwrap();
        assert_eq!(none.headers.len(), 2, "an answer to HEAD");
    }

    #[tokio::test]
    async fn what_is_unpacked_has_a_bound_and_what_was_cut_gives_what_is_there() {
        let text = vec![b'x'; 10_000_000];
        for word in ["gzip", "zstd"] {
            let mut bomb = answer(word, packed(word, &text), false);
            unpack(&mut bomb, 1000).await.unwrap();
            assert_eq!((bomb.body.len(), bomb.truncated), (1000, true), "{word}");
            let noise: Vec<u8> = (0..100_000_u32)
                .flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes())
                .collect();
            let mut half = packed(word, &noise);
            half.truncate(half.len() / 2);
            let mut cut = answer(word, half.clone(), true);
            unpack(&mut cut, noise.len()).await.unwrap();
            assert!(cut.truncated && noise.starts_with(&cut.body), "{word}");
            let mut broken = answer(word, half, false);
            let error = unpack(&mut broken, noise.len()).await.unwrap_err();
            assert_eq!(error.code, "http:cut", "{word}");
            let mut rubbish = answer(word, b"no such thing".to_vec(), false);
            assert!(unpack(&mut rubbish, 100).await.is_err(), "{word}");
        }
    }
}
