//! The one error that crosses rooms: what went wrong with a connection or a connector, and what
//! the host must do about it. Knows nothing of any protocol, of wasm, or of rules.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// The last part of the code of a call that was not made because too many before it have failed.
pub const CIRCUIT_OPEN: &str = "circuit-open";

/// What the host must do about a failure. The same five words as `types.kind` in `wit/types.wit`;
/// closed, because every caller branches on it without a `_` arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The same call may succeed later: time-out, overload, quota. Retry after a wait.
    Transient,
    /// The connection is down and its supervisor is bringing it back. Wait for it.
    Disconnected,
    /// This input can never succeed. Dead-letter it.
    Permanent,
    /// Not granted; the same answer for an id that does not exist.
    Denied,
    /// This configuration cannot work. Stop; do not restart in a loop.
    Misconfigured,
}

impl ErrorKind {
    /// The word as it stands in the contract, in logs and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Disconnected => "disconnected",
            Self::Permanent => "permanent",
            Self::Denied => "denied",
            Self::Misconfigured => "misconfigured",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How soon a supervisor may dial again after this failure (`connections/backoff.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pace {
    /// Network trouble: quick while it is young.
    #[default]
    Quick,
    /// The other side answered and said no (credentials, identity, taken over): 30 to 60 s.
    Slow,
}

/// A failure of a connection, a guest's call on it, or a connector's own verdict.
///
/// `message` is safe for a guest and for a log: **never an address, never a secret**. What an
/// operator needs beyond it (addresses, the operating system's words) is in `source`, which
/// [`ConnectionError::report`] prints and which never crosses into a guest.
#[derive(Debug)]
pub struct ConnectionError {
    /// What to do. Callers decide on this alone.
    pub kind: ErrorKind,
    /// Open vocabulary for programs: `timeout`, `mqtt:0x87`, `http:503`.
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// Not before this long.
    pub retry_after: Option<Duration>,
    /// How soon to dial again, where it ended a connection or an attempt.
    pub pace: Pace,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl ConnectionError {
    /// A failure with its sentence.
    pub fn new(kind: ErrorKind, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.into(),
            message: message.into(),
            retry_after: None,
            pace: Pace::Quick,
            source: None,
        }
    }

    /// May succeed later.
    pub fn transient(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Transient, code, message)
    }

    /// The link is down.
    pub fn disconnected(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Disconnected, code, message)
    }

    /// Can never succeed with this input.
    pub fn permanent(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Permanent, code, message)
    }

    /// Not granted. One text for all cases, so that nobody can probe for ids.
    #[must_use]
    pub fn denied() -> Self {
        Self::new(
            ErrorKind::Denied,
            "denied",
            "no connection of that name is granted",
        )
    }

    /// Can never work with this configuration.
    pub fn misconfigured(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Misconfigured, code, message)
    }

    /// Dial slowly after this one.
    #[must_use]
    pub fn slow(mut self) -> Self {
        self.pace = Pace::Slow;
        self
    }

    /// Not before `wait`.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// What caused it, for operators.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The call has reached the other side, or may have: neither was the link down nor the circuit
    /// open.
    #[must_use]
    pub fn was_tried(&self) -> bool {
        let last = self.code.rsplit(':').next();
        self.kind != ErrorKind::Disconnected && last != Some(CIRCUIT_OPEN)
    }

    /// The message and every cause behind it, for the operator's status and log.
    #[must_use]
    pub fn report(&self) -> String {
        chain(self)
    }
}

/// Clones what a second reader may see; the causes become text.
impl Clone for ConnectionError {
    fn clone(&self) -> Self {
        Self {
            kind: self.kind,
            code: self.code.clone(),
            message: self.message.clone(),
            retry_after: self.retry_after,
            pace: self.pace,
            source: self.source.as_ref().map(|source| chain(&**source).into()),
        }
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for ConnectionError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

/// An error and its causes, joined by `: `. Messages never contain their own source.
#[must_use]
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_stays_without_its_cause_and_the_report_has_both() {
        let error = ConnectionError::disconnected("refused", "cannot reach the broker")
            .caused_by(std::io::Error::other("10.0.0.1:1883 refused"));
        assert_eq!(error.to_string(), "cannot reach the broker");
        assert_eq!(
            error.report(),
            "cannot reach the broker: 10.0.0.1:1883 refused"
        );
        assert_eq!(error.clone().report(), error.report());
    }
}
