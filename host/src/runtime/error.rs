//! How a guest call fails, and how a component fails to load: sentences for people.

use std::fmt;
use std::time::Duration;

use crate::error::{ConnectionError, chain};
use crate::interfaces::Phase;

/// Who failed, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The connector's name.
    pub connector: String,
    /// `source` or `sink`, or `meta`.
    pub export: &'static str,
    /// The function.
    pub phase: Phase,
    /// The rule, or empty.
    pub rule: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "connector `{}`, {}.{}",
            self.connector, self.export, self.phase
        )?;
        if !self.rule.is_empty() {
            write!(f, ", rule `{}`", self.rule)?;
        }
        Ok(())
    }
}

/// Which of its times a call has used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overtime {
    /// Time on the processor.
    Cpu(Duration),
    /// Time in all, without the time inside `receive`.
    Deadline(Duration),
    /// It went on receiving though it was told to return.
    IgnoredWakes,
}

impl fmt::Display for Overtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(limit) => write!(
                f,
                "used more than {} ms of processor time in one call",
                limit.as_millis()
            ),
            Self::Deadline(limit) => write!(f, "did not return within {} ms", limit.as_millis()),
            Self::IgnoredWakes => {
                f.write_str("did not return though `receive` had told it to, with an empty batch")
            }
        }
    }
}

/// How a guest call failed. After all but [`GuestError::Said`] the instance is gone; the next call
/// makes a new one.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The guest returned this error. What to do is in its kind.
    #[error("{place}: {error}")]
    Said {
        /// Who and where.
        place: Box<Place>,
        /// What it said.
        error: ConnectionError,
    },
    /// The call trapped: a panic, an exception, a limit.
    #[error("{place}: trapped ({code}){}", Tail(words))]
    Trapped {
        /// Who and where.
        place: Box<Place>,
        /// Name of the trap, as in `unreachable`; `host` when the host ended it, with its sentence.
        code: &'static str,
        /// The guest's own last words on stderr, or the host's sentence.
        words: String,
    },
    /// The call took too long and was ended.
    #[error("{place}: {what}{}", Tail(words))]
    Overtime {
        /// Who and where.
        place: Box<Place>,
        /// Which of its times.
        what: Overtime,
        /// The guest's own last words on stderr.
        words: String,
    },
    /// No instance could be made.
    #[error("{place}: cannot start: {words}")]
    CannotStart {
        /// Who and where.
        place: Box<Place>,
        /// Why.
        words: String,
    },
}

struct Tail<'a>(&'a str);

impl fmt::Display for Tail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        // One line, whatever the guest wrote: it stands in a log beside the lines of others.
        f.write_str(": ")?;
        for (index, line) in self
            .0
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .enumerate()
        {
            write!(f, "{}{line}", if index == 0 { "" } else { " / " })?;
        }
        Ok(())
    }
}

impl GuestError {
    /// Where it happened.
    #[must_use]
    pub fn place(&self) -> &Place {
        match self {
            Self::Said { place, .. }
            | Self::Trapped { place, .. }
            | Self::Overtime { place, .. }
            | Self::CannotStart { place, .. } => place,
        }
    }

    /// It failed while it was made or opened, before it was given anything: no message is to blame.
    #[must_use]
    pub fn is_before_work(&self) -> bool {
        matches!(self, Self::CannotStart { .. })
            || matches!(self.place().phase, Phase::Start | Phase::Open)
    }

    /// What the guest itself said, if it could speak.
    #[must_use]
    pub fn said(&self) -> Option<&ConnectionError> {
        match self {
            Self::Said { error, .. } => Some(error),
            Self::Trapped { .. } | Self::Overtime { .. } | Self::CannotStart { .. } => None,
        }
    }
}

/// The name of a trap.
pub(super) fn trap_code(trap: wasmtime::Trap) -> &'static str {
    use wasmtime::Trap;
    match trap {
        Trap::StackOverflow => "stack-overflow",
        Trap::MemoryOutOfBounds => "memory-out-of-bounds",
        Trap::TableOutOfBounds => "table-out-of-bounds",
        Trap::IndirectCallToNull => "null-function",
        Trap::BadSignature => "bad-signature",
        Trap::IntegerOverflow => "integer-overflow",
        Trap::IntegerDivisionByZero => "division-by-zero",
        Trap::BadConversionToInteger => "bad-conversion",
        Trap::UnreachableCodeReached => "unreachable",
        Trap::Interrupt => "interrupt",
        Trap::AllocationTooLarge => "allocation-too-large",
        Trap::CannotEnterComponent => "cannot-enter",
        _ => "trap",
    }
}

/// The innermost sentence of an error of wasmtime, without its backtrace.
pub(super) fn innermost(error: &wasmtime::Error) -> String {
    error.root_cause().to_string()
}

/// Why a component cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Not a component at all.
    #[error("connector `{name}`: {reason}")]
    NotAComponent {
        /// The connector.
        name: String,
        /// What it is, and what to do.
        reason: String,
    },
    /// The compiler refused it.
    #[error("connector `{name}`: cannot be compiled: {reason}")]
    Compile {
        /// The connector.
        name: String,
        /// The compiler's words.
        reason: String,
    },
    /// It needs something that the host does not have.
    #[error("connector `{name}`: {reason}")]
    Import {
        /// The connector.
        name: String,
        /// Which import, why not, and what to do.
        reason: String,
    },
    /// It lacks an export, or has it in another shape.
    #[error("connector `{name}`: {reason}")]
    Export {
        /// The connector.
        name: String,
        /// Which export, and what to do.
        reason: String,
    },
    /// It cannot say what it is, or says what cannot be.
    #[error("connector `{name}`: {reason}")]
    Descriptor {
        /// The connector.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The host itself failed.
    #[error("connector `{name}`: {attempt}")]
    Host {
        /// The connector.
        name: String,
        /// What was attempted.
        attempt: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl LoadError {
    /// The sentence and every cause behind it.
    #[must_use]
    pub fn report(&self) -> String {
        chain(self)
    }
}

/// The runtime cannot start.
#[derive(Debug, thiserror::Error)]
#[error("the connectors' runtime cannot start: {attempt}")]
pub struct RuntimeError {
    /// What was attempted.
    pub(super) attempt: &'static str,
    /// Why it failed.
    pub(super) source: Box<dyn std::error::Error + Send + Sync>,
}

impl RuntimeError {
    pub(super) fn new(
        attempt: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            attempt,
            source: source.into(),
        }
    }
}
