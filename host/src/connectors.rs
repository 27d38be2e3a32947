//! The connectors that come with the host: components built by the build script from `guests/rust`
//! and embedded in the binary. Only bytes; loading and running them is the runtime's affair.

// `BUNDLED`, written by build.rs: the members of guests/rust that say `bundled = true`.
include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// The component of that name, if it comes with the host.
#[must_use]
pub fn bundled(name: &str) -> Option<&'static [u8]> {
    BUNDLED
        .iter()
        .find(|(bundled, _)| *bundled == name)
        .map(|(_, component)| *component)
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
        for (name, component) in BUNDLED {
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
            assert!(bundled(name).is_some(), "{name}");
        }
        assert_eq!(bundled("no-such-connector"), None);
    }
}
