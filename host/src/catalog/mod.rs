//! What users have defined - connections, conf keys, streams, rules, connectors - and the life of it:
//! made, changed, deleted, started, stopped, brought back after a restart. The one way to change any of
//! it, for REST, for manifests, for imports.
//!
//! A change is checked whole, then written to the store, then done: what fails changes nothing, and
//! what was answered is on disk. Definitions change one at a time (`changing`), which takes as long as
//! one write to the disk; what takes longer, the stopping of a rule for one, holds up that rule alone
//! (its seat). Nothing that only reads waits for either.
//!
//! Knows no HTTP and no manifest file. Everything is of one tenant until there are more.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use crate::connections::Properties;
use crate::connections::pool::Pool;
use crate::progress::Progress;
use crate::rules::engine::Engine;
use crate::rules::plan::Loaded;
use crate::rules::query::StreamStatement;
use crate::rules::spill::SpillSet;
use crate::runtime::Runtime;
use crate::store::{Put, Store};

mod apply;
mod conf_keys;
mod connections;
mod connectors;
mod definition;
mod error;
mod exchange;
mod planning;
mod restore;
mod rules;
mod seat;
mod show;
mod streams;

pub use conf_keys::ConfKeyKind;
pub use connectors::{ConnectorInfo, inspection};
pub use error::CatalogError;
pub use exchange::{ImportMode, Imported};
pub use restore::Restored;
pub use rules::{RuleInfo, RuleStatus};
use seat::Seat;
pub use show::{connection_row, disk_row, letters_row};
pub use streams::StreamInfo;

pub use crate::rules::engine::TENANT;

/// How long a rule that stops may deliver what is under way.
const DRAIN: Duration = Duration::from_secs(10);

/// Kinds of definitions in the store.
mod kind {
    pub(super) const CONNECTION: &str = "connection";
    pub(super) const CONF_KEY: &str = "confKey";
    pub(super) const STREAM: &str = "stream";
    pub(super) const RULE: &str = "rule";
    pub(super) const CONNECTOR: &str = "connector";
    /// What was last taken in from a place that is looked at on each start.
    pub(super) const PLACE: &str = "place";
}

/// What the catalog works with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Where definitions are kept.
    pub store: Store,
    /// Connections.
    pub pool: Pool,
    /// Rules that run.
    pub engine: Arc<Engine>,
    /// Guests.
    pub runtime: Runtime,
    /// Disk queues.
    pub spills: Arc<SpillSet>,
    /// Who hears of long work.
    pub progress: Arc<dyn Progress>,
    /// Components that were uploaded, by digest.
    pub folder: PathBuf,
    /// False: definitions live only as long as this process (a manifest is where they are kept).
    pub keep: bool,
}

/// All definitions of a host. Clones are the same catalog.
#[derive(Clone)]
pub struct Catalog(Arc<Inner>);

struct Inner {
    parts: Parts,
    /// Held while a definition is checked for the last time, written and entered.
    changing: tokio::sync::Mutex<()>,
    book: RwLock<Book>,
    seats: Mutex<HashMap<String, Arc<Seat>>>,
    /// Connectors by digest, so that a thousand rules load each once.
    loaded: Mutex<Loaded>,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").finish_non_exhaustive()
    }
}

/// The definitions. Connections stand in the pool; here are their revisions.
#[derive(Default)]
struct Book {
    /// Grows with each change of anything.
    change: u64,
    connections: BTreeMap<String, u64>,
    conf_keys: BTreeMap<conf_keys::Key, Kept<Properties>>,
    streams: BTreeMap<String, Kept<Arc<Stream>>>,
    rules: BTreeMap<String, Kept<Arc<definition::Definition>>>,
    connectors: BTreeMap<String, Kept<connectors::Definition>>,
}

/// A definition with its revision.
#[derive(Clone)]
struct Kept<T> {
    revision: u64,
    value: T,
}

/// A stream's statement, as text and as what it says.
struct Stream {
    sql: String,
    statement: StreamStatement,
}

impl Catalog {
    /// An empty catalog: see [`Catalog::restore`] for what an earlier run has left.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            changing: tokio::sync::Mutex::default(),
            book: RwLock::default(),
            seats: Mutex::default(),
            loaded: Mutex::default(),
        }))
    }

    /// The connections, for what only reads or tries.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.0.parts.pool
    }

    /// The store, for dead letters.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.parts.store
    }

    /// The rules that run.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.0.parts.engine
    }

    /// Writes a definition: its revision. `changing` must be held.
    async fn write(&self, kind: &'static str, id: &str, body: &Value) -> Result<u64, CatalogError> {
        if !self.0.parts.keep {
            return Ok(self.0.book.read().change + 1);
        }
        let put = self
            .0
            .parts
            .store
            .put_definition(TENANT, kind, id, &body.to_string(), None)
            .await?;
        match put {
            Put::Done(revision) => Ok(revision),
            Put::Conflict(revision) => Err(CatalogError::Revision { present: revision }),
        }
    }

    /// Deletes a definition; one that is not on disk is as good as deleted.
    async fn erase(&self, kind: &'static str, id: &str) -> Result<(), CatalogError> {
        if self.0.parts.keep {
            self.0
                .parts
                .store
                .delete_definition(TENANT, kind, id, None)
                .await?;
        }
        Ok(())
    }

    fn seat(&self, rule: &str) -> Arc<Seat> {
        Arc::clone(self.0.seats.lock().entry(rule.to_owned()).or_default())
    }
}

/// Whether what has this revision (0: there is nothing) may be changed: the conditions of a request.
pub type May<'a> = &'a (dyn Fn(u64) -> bool + Send + Sync);

/// No condition.
pub const ANY: May<'static> = &|_| true;

fn check_revision(may: May<'_>, present: u64) -> Result<(), CatalogError> {
    if may(present) {
        Ok(())
    } else {
        Err(CatalogError::Revision { present })
    }
}
