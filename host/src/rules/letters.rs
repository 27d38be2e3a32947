//! What rules keep in the store: dead letters, and the checkpoints of sources.

use std::sync::Arc;

use async_trait::async_trait;

use super::deliver::Graveyard;
use super::settle::Committer;
use crate::error::ConnectionError;
use crate::message::Batch;
use crate::store::{Commit, DeadLetter, Store};

/// The dead letters of one action.
#[derive(Clone, Debug)]
pub struct Letters {
    /// Where they are kept.
    pub store: Store,
    /// The tenant.
    pub tenant: Arc<str>,
    /// The rule's id.
    pub rule: String,
    /// The action's name.
    pub action: String,
    /// The stream they came from.
    pub stream: String,
}

#[async_trait]
impl Graveyard for Letters {
    async fn bury(
        &self,
        batch: &Batch,
        reason: &ConnectionError,
        attempts: u32,
    ) -> Result<(), String> {
        let letters = batch
            .iter()
            .map(|message| DeadLetter {
                tenant: self.tenant.to_string(),
                rule: self.rule.clone(),
                action: self.action.clone(),
                stream: self.stream.clone(),
                message: message.clone(),
                kind: reason.kind.as_str().to_owned(),
                code: reason.code.clone(),
                reason: reason.message.clone(),
                attempts,
                at_ms: super::now_ms(),
            })
            .collect();
        self.store
            .bury(letters)
            .await
            .map(drop)
            .map_err(|error| crate::error::chain(&error))
    }
}

/// The checkpoint of one source.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    /// Where it is kept.
    pub store: Store,
    /// The tenant.
    pub tenant: Arc<str>,
    /// `stream/<name>` for a shared one, else `rule/<id>/<stream>`.
    pub key: String,
}

impl Checkpoints {
    /// The last one kept.
    pub async fn last(&self) -> Option<String> {
        match self.store.checkpoint(&self.tenant, &self.key).await {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                tracing::error!(key = %self.key, error = %crate::error::chain(&error), "the checkpoint cannot be read");
                None
            }
        }
    }
}

#[async_trait]
impl Committer for Checkpoints {
    async fn commit(&self, checkpoint: &str) -> bool {
        let mut tries: u32 = 0;
        loop {
            match self
                .store
                .commit(&self.tenant, &self.key, 0, checkpoint)
                .await
            {
                Ok(Commit::Committed) => return true,
                Ok(Commit::Fenced) => {
                    tracing::error!(key = %self.key, "another owner has taken over this source");
                    return false;
                }
                Err(error) => {
                    // Nothing is acknowledged meanwhile; a full disk is waited for.
                    if tries == 0 {
                        tracing::warn!(key = %self.key, error = %crate::error::chain(&error), "a checkpoint cannot be written yet");
                    }
                    tries += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(250)).await;
                }
            }
        }
    }
}
