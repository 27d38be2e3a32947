//! From a core module, as C compilers make it, to a component of the contract.

use std::error::Error;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, SourceMap};

use super::below;
use crate::error::chain;

/// A world of the contract: what a component exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// A source.
    Source,
    /// A sink.
    Sink,
    /// Both.
    Both,
}

impl World {
    /// Its name in the contract.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source-connector",
            Self::Sink => "sink-connector",
            Self::Both => "connector",
        }
    }

    /// The world of a connector that has these roles; none if it has neither.
    #[must_use]
    pub fn of(source: bool, sink: bool) -> Option<Self> {
        match (source, sink) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::Source),
            (false, true) => Some(Self::Sink),
            (false, false) => None,
        }
    }
}

/// A module that cannot be made into a component.
#[derive(Debug, thiserror::Error)]
#[error("it is no connector of the world `{}`: {reason}", world.name())]
pub struct EncodeError {
    world: World,
    reason: String,
}

/// Wraps a core module, built for WASI preview 1 as a reactor, into a component of this world.
///
/// # Errors
/// The module lacks an export of the world, has one in another shape, or imports what neither the
/// contract nor WASI has.
pub fn component(module: &[u8], world: World) -> Result<Vec<u8>, EncodeError> {
    encode(module, world).map_err(|error| EncodeError {
        world,
        reason: chain(&*error),
    })
}

fn encode(module: &[u8], world: World) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let mut resolve = Resolve::default();
    let mut texts = SourceMap::default();
    for (path, text) in below("wit") {
        texts.push_str(path, text);
    }
    let group = texts.parse().map_err(|(_, error)| error)?;
    let package = resolve.push_group(group)?;
    let id = resolve.select_world(&[package], Some(world.name()))?;
    let mut module = module.to_vec();
    embed_component_metadata(&mut module, &resolve, id, StringEncoding::UTF8)?;
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&module)?
        .adapter(
            WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
            WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
        )?
        .encode()?;
    Ok(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_the_exports_is_refused_with_the_one_that_is_missing() {
        let empty = *b"\0asm\x01\0\0\0";
        let error = component(&empty, World::Source).unwrap_err().to_string();
        assert!(
            error.contains("source-connector") && error.contains("windlass:connector/"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_module_is_refused() {
        assert!(component(b"no wasm", World::Sink).is_err());
    }

    #[test]
    fn a_world_is_chosen_by_the_roles() {
        assert_eq!(World::of(true, false), Some(World::Source));
        assert_eq!(World::of(true, true), Some(World::Both));
        assert_eq!(World::of(false, false), None);
    }
}
