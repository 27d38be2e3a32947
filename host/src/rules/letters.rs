//! What rules keep in the store: dead letters, and the checkpoints of sources.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::deliver::Graveyard;
use super::settle::Committer;
use crate::error::ConnectionError;
use crate::message::Batch;
use crate::store::{Commit, DeadLetter, Store};

/// After so long a store that refuses is asked again.
const RETRY: Duration = Duration::from_millis(250);

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
    /// The last one kept. A store that cannot be read is waited for, `refused` hearing of it: a source
    /// that began without its position would begin anew, and its next commit destroy the position.
    pub async fn last(&self, refused: impl Fn(String)) -> Option<String> {
        let mut told = false;
        loop {
            match self.store.checkpoint(&self.tenant, &self.key).await {
                Ok(checkpoint) => return checkpoint,
                Err(error) => {
                    if !told {
                        let error = crate::error::chain(&error);
                        tracing::warn!(key = %self.key, %error, "a checkpoint cannot be read yet");
                        refused(format!("its position cannot be read yet: {error}"));
                        told = true;
                    }
                    tokio::time::sleep(RETRY).await;
                }
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
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn a_position_that_cannot_be_read_is_waited_for() {
        let folder = TempDir::new().unwrap();
        let (before, data) = (folder.path().join("before"), folder.path().join("data"));
        let (store, _) = Store::open(&before).await.unwrap();
        store.commit("default", "stream/s", 0, "7").await.unwrap();
        store.close().await;
        // A folder that cannot be used yet.
        std::fs::write(&data, "a file where a folder should be").unwrap();
        let (store, _) = Store::open(&data).await.unwrap();
        let checkpoints = Checkpoints {
            store,
            tenant: "default".into(),
            key: "stream/s".to_owned(),
        };
        let told = std::cell::Cell::new(0);
        let mut last = std::pin::pin!(checkpoints.last(|_| told.set(told.get() + 1)));
        let early = tokio::time::timeout(Duration::from_millis(600), &mut last).await;
        assert!(early.is_err(), "{early:?}");
        assert_eq!(told.get(), 1);
        std::fs::remove_file(&data).unwrap();
        std::fs::rename(&before, &data).unwrap();
        assert_eq!(last.await.as_deref(), Some("7"));
    }
}
