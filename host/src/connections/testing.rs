//! What unit tests of connection types share: the surroundings of a connection that keeps nothing.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Context, Limits, Memory, Refused, Traffic};
use crate::error::ConnectionError;

#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Memory for Nothing {
    async fn get(&self, _name: &str) -> Result<Option<String>, ConnectionError> {
        Ok(None)
    }
    async fn put(&self, _name: &str, _value: &str) -> Result<(), ConnectionError> {
        Ok(())
    }
}

impl Refused for Nothing {
    fn refused(&self, _subject: &str, _head: Bytes, _reason: &ConnectionError) {}
}

pub(super) fn context(id: &str, base: &Path) -> Context {
    Context {
        tenant: "default".into(),
        id: id.into(),
        base: base.to_owned(),
        memory: Arc::new(Nothing),
        stopping: Arc::default(),
        booting: Arc::default(),
        traffic: Arc::<Traffic>::default(),
        refused: Arc::new(Nothing),
        limits: Limits::default(),
        port: super::dataport::DataPort::default(),
    }
}
