//! Short ways to make the contract's error record.

use crate::{Error, Kind, Rejection};

impl Error {
    /// An error of this kind. `code` is for programs, `message` for people: never a secret in it.
    pub fn new(kind: Kind, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.into(),
            message: message.into(),
            retry_after_ms: None,
        }
    }

    /// The same call may succeed later.
    pub fn transient(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::Transient, code, message)
    }

    /// This input can never succeed: the host dead-letters it.
    pub fn permanent(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::Permanent, code, message)
    }

    /// This configuration cannot work: the host stops the rule.
    pub fn misconfigured(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::Misconfigured, code, message)
    }

    /// Not before so many milliseconds.
    #[must_use]
    pub fn retry_after(mut self, milliseconds: u32) -> Self {
        self.retry_after_ms = Some(milliseconds);
        self
    }

    /// This error for one message of a batch, by its place in it.
    #[must_use]
    pub fn at(self, index: u32) -> Rejection {
        Rejection { index, error: self }
    }
}
