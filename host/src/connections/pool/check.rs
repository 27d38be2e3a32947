//! Trying a connection because somebody asks: one that is in the pool, or one that only might be.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::entry::Entry;
use super::{Pool, PoolError};
use crate::connections::Properties;
use crate::connections::status::{State, Status};
use crate::error::ConnectionError;

/// How long a connection may take to say goodbye after a check.
const CLOSE: Duration = Duration::from_millis(1_500);

/// What a check that succeeded found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// The server, without credentials.
    pub peer: Option<String>,
    /// What the operator should read.
    pub warnings: Vec<String>,
    /// How long dialling took.
    pub took: Duration,
}

impl Pool {
    /// Dials once with these properties and closes again. Nothing enters the pool. Where a
    /// connection of this tenant is that very client already, its own state is the answer.
    ///
    /// # Errors
    /// Mistakes, or why it cannot be reached.
    pub async fn check(
        &self,
        tenant: &str,
        typ: &str,
        props: Properties,
    ) -> Result<CheckReport, PoolError> {
        let began = Instant::now();
        let entry = self.prepare(tenant, "check", typ, props, false)?;
        let same = {
            let table = self.shared.table.lock();
            table
                .clash(&entry.tenant, &entry.claims())
                .filter(|other| other.tenant == entry.tenant)
                .cloned()
        };
        if let Some(same) = same {
            let status = self.try_now(&same).await?;
            if !status.is_up() {
                let words = status
                    .err
                    .unwrap_or_else(|| "it is not connected yet".to_owned());
                return Err(PoolError::Dial(ConnectionError::disconnected(
                    "check", words,
                )));
            }
            return Ok(CheckReport {
                peer: status.peer,
                warnings: status.warnings,
                took: began.elapsed(),
            });
        }
        let (connection, scrub) = (entry.present(), entry.scrub());
        let dialled = Arc::clone(&connection);
        let dial = self.shared.config.runtime.spawn(async move {
            let limit = dialled.dial_timeout();
            let result = timeout(limit, dialled.probe()).await.unwrap_or_else(|_| {
                let sentence = format!("no connection within {} s", limit.as_secs_f32());
                Err(ConnectionError::disconnected("timeout", sentence))
            });
            if timeout(CLOSE, dialled.close()).await.is_err() {
                tracing::debug!("a connection did not close in time after a check");
            }
            result
        });
        let result = AbortOnDropHandle::new(dial).await.unwrap_or_else(|ended| {
            let error = ConnectionError::transient("internal", "the check did not end");
            Err(error.caused_by(ended))
        });
        result.map_err(|error| {
            let mut clean = error.clone();
            clean.message = scrub.clean(&error.report());
            PoolError::Dial(ConnectionError::new(clean.kind, clean.code, clean.message))
        })?;
        let warnings = connection
            .warnings()
            .iter()
            .map(|warning| scrub.clean(warning))
            .collect();
        let peer = connection.peer().map(|peer| scrub.clean(&peer));
        Ok(CheckReport {
            peer,
            warnings,
            took: began.elapsed(),
        })
    }

    /// Dials a connection that is not up now, without waiting for its time, and answers how that
    /// ended. One whose configuration could not work, or whose secrets are kept elsewhere, is built
    /// anew first: the file may be there now.
    ///
    /// # Errors
    /// Unknown; mistakes.
    ///
    /// # Cancel safety
    /// The attempt goes on when the future is dropped.
    pub async fn check_now(&self, tenant: &str, id: &str) -> Result<Status, PoolError> {
        let entry = self
            .find(tenant, id)
            .ok_or_else(|| PoolError::Unknown(id.to_owned()))?;
        self.try_now(&entry).await
    }

    async fn try_now(&self, entry: &Arc<Entry>) -> Result<Status, PoolError> {
        let mut status = entry.status.subscribe();
        let before = status.borrow_and_update().clone();
        if matches!(before.state, State::Connected | State::Closed) {
            return Ok(before);
        }
        // The host is starting, and nothing shortens that: the state as it is is the answer.
        let held = self.shared.boot.awaits() && entry.present().waits_for_takers();
        if held && before.attempts == 0 {
            return Ok(before);
        }
        let (kind, typ, props) = entry.definition();
        let refers = props
            .values()
            .filter_map(|value| value.as_str())
            .any(|text| text.starts_with("env:") || text.starts_with("file:"));
        let renew = before.misconfigured || (refers && before.state == State::Waiting);
        // An attempt that is under way is as good as a new one.
        let mut attempt = before.attempts + u32::from(before.state == State::Waiting);
        if renew {
            let kind = match kind {
                Some(kind) => kind,
                None => self
                    .shared
                    .config
                    .registry
                    .get(&typ)
                    .map_err(|m| PoolError::Invalid(vec![m]))?,
            };
            let context = self
                .shared
                .context(&entry.tenant, &entry.id, &entry.traffic);
            let made = self
                .shared
                .make(kind, props, context)
                .map_err(PoolError::Invalid)?;
            self.put_in_place(entry, made)?;
            attempt = 1;
        }
        entry
            .life()
            .nudge
            .send_modify(|count| *count = count.wrapping_add(1));
        let ended = status.wait_for(|status| match status.state {
            State::Connected | State::Closed => true,
            State::Waiting => status.attempts >= attempt && status.err.is_some(),
            State::Connecting | State::Reconnecting => false,
        });
        let limit = entry.present().dial_timeout() + 2 * CLOSE;
        // Without an answer in time, the state as it is then is the answer.
        drop(timeout(limit, ended).await);
        Ok(entry.status.now())
    }
}
