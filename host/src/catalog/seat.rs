//! Where one rule sits: who may start or stop it now, and what is remembered while it does not run.

use parking_lot::Mutex;

use crate::rules::engine::RuleState;

/// One rule's place. It outlives the rule's runs, and a deleted rule's seat is dropped.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// Held while the rule is made, started, stopped, changed or deleted.
    pub(super) turn: tokio::sync::Mutex<()>,
    past: Mutex<Past>,
}

/// What is known of the runs before.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    /// When it was last started, in milliseconds since the Unix epoch; 0: never.
    pub(super) started_ms: u64,
    /// When it was last stopped; 0: never.
    pub(super) stopped_ms: u64,
    /// It is about to be started, after the host's own start.
    pub(super) coming: bool,
    /// Why it could not be started.
    pub(super) failure: Option<String>,
    /// What should be looked at though it was accepted.
    pub(super) warnings: Vec<String>,
}

impl Past {
    /// The status word while it does not run.
    pub(super) fn word(&self) -> &'static str {
        let state = match &self.failure {
            Some(_) => RuleState::Failed(String::new()),
            None if self.coming => RuleState::Starting,
            None => RuleState::Stopped,
        };
        state.word()
    }
}

impl Seat {
    pub(super) fn coming(&self) {
        self.past.lock().coming = true;
    }

    pub(super) fn past(&self) -> Past {
        self.past.lock().clone()
    }

    pub(super) fn started(&self, warnings: Vec<String>) {
        let mut past = self.past.lock();
        past.started_ms = crate::rules::now_ms();
        past.failure = None;
        past.coming = false;
        past.warnings = warnings;
    }

    pub(super) fn stopped(&self) {
        let mut past = self.past.lock();
        past.stopped_ms = crate::rules::now_ms();
        past.failure = None;
        past.coming = false;
    }

    pub(super) fn failed(&self, reason: String) {
        let mut past = self.past.lock();
        past.failure = Some(reason);
        past.coming = false;
    }
}
