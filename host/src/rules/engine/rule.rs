//! A rule that was started: where it is, and how its actions end. Starts nothing.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::RunningSource;
use crate::rules::fan::RuleInput;
use crate::rules::forward::Forwarder;
use crate::rules::sink::Slots;
use crate::runtime::GuestStats;

/// Where a rule is. The words are eKuiper's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleState {
    /// Its source has not opened yet.
    Starting,
    /// It runs; its connections may be down.
    Running,
    /// It drains.
    Stopping,
    /// It was stopped.
    Stopped,
    /// It ended by itself, for this reason.
    Failed(String),
}

impl RuleState {
    /// The status word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed(_) => "stopped by error",
        }
    }

    /// Why, where there is a why.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Failed(reason) => reason,
            Self::Stopped => "canceled manually",
            Self::Starting | Self::Running | Self::Stopping => "",
        }
    }
}

/// A rule has changed its state.
#[derive(Clone, Debug)]
pub struct RuleChange {
    /// The rule.
    pub rule: String,
    /// Its new state.
    pub state: RuleState,
}

/// A rule that was started.
#[derive(Debug)]
pub struct Rule {
    /// Its id.
    pub id: String,
    /// Its stream's name.
    pub stream: String,
    /// The query's part.
    pub input: Arc<RuleInput>,
    /// The actions' connections, in the order of the actions.
    pub slots: Vec<Slots>,
    /// What each action's guest costs.
    pub guests: Vec<Arc<GuestStats>>,
    /// Its source.
    pub source: Arc<RunningSource>,
    /// Who forwards its dead letters, where somebody does.
    pub forwarder: Option<Arc<Forwarder>>,
    /// Since when it runs (ms since the epoch).
    pub started_ms: u64,
    /// What waits on disk for actions that it has no more.
    pub(in crate::rules) stranded: Mutex<Vec<String>>,
    pub(super) state: watch::Sender<RuleState>,
    pub(super) stop: watch::Sender<Option<Instant>>,
    pub(super) tasks: TaskTracker,
    pub(super) lingering: CancellationToken,
}

impl Rule {
    /// Where it is.
    #[must_use]
    pub fn state(&self) -> RuleState {
        self.state.borrow().clone()
    }

    pub(super) fn enter(&self, state: RuleState, changes: &broadcast::Sender<RuleChange>) {
        let changed = self.state.send_if_modified(|present| {
            // What ended by an error keeps its reason until it is started anew.
            let keeps =
                matches!(present, RuleState::Failed(_)) && !matches!(state, RuleState::Failed(_));
            if keeps || *present == state {
                return false;
            }
            *present = state.clone();
            true
        });
        if changed {
            if let RuleState::Failed(reason) = &state {
                tracing::error!(rule = %self.id, "stopped by error: {reason}");
            }
            // Nobody may be listening.
            let _listeners = changes.send(RuleChange {
                rule: self.id.clone(),
                state,
            });
        }
    }
}

impl Rule {
    /// Why its source has ended by itself.
    pub(super) fn source_trouble(&self) -> Option<String> {
        let reason = self.source.failed.lock().clone()?;
        Some(format!("source {}: {reason}", self.stream))
    }

    /// Where it is as far as its source says.
    pub(super) fn state_by_source(&self) -> RuleState {
        match self.source_trouble() {
            Some(trouble) => RuleState::Failed(trouble),
            None if self.source.is_open() => RuleState::Running,
            None => RuleState::Starting,
        }
    }

    /// An action or the source works again after its error.
    pub(super) fn recover(&self, changes: &broadcast::Sender<RuleChange>) {
        let still = self.source_trouble().or_else(|| {
            self.input.outputs.iter().find_map(|output| {
                Some(format!(
                    "{}: {}",
                    output.action.name,
                    output.action.stopped()?
                ))
            })
        });
        let state = still.map_or_else(|| self.state_by_source(), RuleState::Failed);
        let changed = self.state.send_if_modified(|present| {
            if !matches!(present, RuleState::Failed(_)) || *present == state {
                return false;
            }
            *present = state.clone();
            true
        });
        if changed {
            // Nobody may be listening.
            let _listeners = changes.send(RuleChange {
                rule: self.id.clone(),
                state,
            });
        }
    }
}

impl Rule {
    pub(super) fn tell_actions(&self, deadline: Instant) {
        self.lingering.cancel();
        for output in &self.input.outputs {
            output.flush();
            output.action.close();
        }
        self.stop.send_replace(Some(deadline));
    }

    pub(super) async fn end_actions(&self, deadline: Instant) {
        self.tell_actions(deadline);
        self.tasks.close();
        // A moment beyond the deadline, for what must still go to disk.
        if tokio::time::timeout_at(deadline + Duration::from_secs(2), self.tasks.wait())
            .await
            .is_err()
        {
            tracing::error!(rule = %self.id, "an action did not end in time");
        }
    }
}

/// An action's task: one that panics must not leave a rule that seems to run.
pub(super) struct Watched {
    pub(super) rule: Arc<Rule>,
    pub(super) action: String,
    pub(super) changes: broadcast::Sender<RuleChange>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let words = format!(
                "{}: ended by a fault of the host; the log has more",
                self.action
            );
            self.rule.enter(RuleState::Failed(words), &self.changes);
        }
    }
}
