//! Why the catalog says no. Where eKuiper has a sentence for it, it is that sentence.

use crate::config::ManifestError;
use crate::connections::pool::PoolError;
use crate::rules::engine::StartError;
use crate::runtime::LoadError;
use crate::store::StoreError;

/// A refusal; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// There is none of that name.
    #[error("{0}")]
    NotFound(String),
    /// There is one of that name, or it is in use.
    #[error("{0}")]
    Conflict(String),
    /// What was given has mistakes: one sentence with all of them.
    #[error("{0}")]
    Invalid(String),
    /// Somebody has changed it since the caller looked: it has this revision now; 0: it is gone.
    #[error("it was changed meanwhile; its revision is {present} now")]
    Revision {
        /// The revision that it has.
        present: u64,
    },
    /// The pool refuses.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A rule could not be started.
    #[error("{}", crate::error::chain(.0))]
    Start(#[from] StartError),
    /// A component is no connector.
    #[error("{}", crate::error::chain(.0))]
    Load(#[from] LoadError),
    /// A component cannot be kept on disk.
    #[error("the component cannot be written to the data folder: {0}")]
    Disk(std::io::Error),
    /// The store cannot be written: nothing was changed.
    #[error("{}", crate::error::chain(.0))]
    Store(#[from] StoreError),
}

impl CatalogError {
    /// All mistakes in one sentence, each with its pointer.
    pub(super) fn mistakes(errors: &[ManifestError]) -> Self {
        let texts: Vec<_> = errors.iter().map(sentence).collect();
        Self::Invalid(texts.join("; "))
    }
}

/// A mistake with its JSON Pointer; the file that it is not from is left out.
pub(super) fn sentence(error: &ManifestError) -> String {
    match error.pointer.as_str() {
        "" => error.message.clone(),
        pointer => format!("{pointer}: {}", error.message),
    }
}
