//! The connectors that come with the host: components built by the build script from `guests/rust`
//! and embedded in the binary, packed. Only bytes; loading and running them is the runtime's affair.

use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

// `BUNDLED`, `ARCHIVE` and `UNPACKED`, written by build.rs: the members of guests/rust that say
// `bundled = true`.
include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// The archive, unpacked as long as somebody holds a component of it: a few milliseconds at start, and
/// no memory after that.
#[derive(Debug)]
struct Unpacked(Arc<Vec<u8>>);

impl AsRef<[u8]> for Unpacked {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn archive() -> Option<Bytes> {
    static HELD: Mutex<Weak<Vec<u8>>> = Mutex::new(Weak::new());
    let mut held = HELD.lock();
    let all = match held.upgrade() {
        Some(all) => all,
        // It was packed by the build of this very binary.
        None => Arc::new(zstd::bulk::decompress(ARCHIVE, UNPACKED).ok()?),
    };
    *held = Arc::downgrade(&all);
    Some(Bytes::from_owner(Unpacked(all)))
}

/// The component of that name, if it comes with the host.
#[must_use]
pub fn bundled(name: &str) -> Option<Bytes> {
    let (_, place) = BUNDLED.iter().find(|(bundled, _)| *bundled == name)?;
    Some(archive()?.slice(place.clone()))
}

/// One of that name comes with the host.
#[must_use]
pub fn is_bundled(name: &str) -> bool {
    BUNDLED.iter().any(|(bundled, _)| *bundled == name)
}

/// The names of all that come with the host.
#[must_use]
pub fn names() -> Vec<&'static str> {
    BUNDLED.iter().map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a component begins with: the magic number of wasm, then the component layer's version.
    const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

    #[test]
    fn every_bundled_connector_is_a_component() {
        assert!(!names().is_empty());
        for name in names() {
            let component = bundled(name).unwrap();
            assert!(component.starts_with(&COMPONENT), "{name}");
        }
    }

    #[test]
    fn the_connectors_that_need_no_folder_of_ones_own_are_there_by_name() {
        for name in [
            "edgex",
            "file",
            "httppush",
            "log",
            "memory",
            "mqtt",
            "nats",
            "nop",
            "redis",
            "simulator",
        ] {
            assert!(is_bundled(name), "{name}");
        }
        assert_eq!(bundled("no-such-connector"), None);
    }
}
