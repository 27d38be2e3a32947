//! The disk queues of a host: one folder for each, made when first used.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::budget::{Budget, DiskUse, HostBounds, Share};
use super::log::{Log, SEGMENT};
use super::names::{folder_name, original};
use super::options::SpillOptions;
use super::queue::FileQueue;
use super::record::Key;
use super::storage::{Files, Storage};
use super::{Spill, SpillError};

/// How many queues may wait for the disk at once; more would only take threads from others.
const AT_ONCE: usize = 4;

/// Which action's queue it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName {
    /// The tenant.
    pub tenant: String,
    /// The rule's id.
    pub rule: String,
    /// The action's name.
    pub action: String,
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tenant, self.rule, self.action)
    }
}

impl QueueName {
    fn new(tenant: &str, rule: &str, action: &str) -> Self {
        Self {
            tenant: tenant.to_owned(),
            rule: rule.to_owned(),
            action: action.to_owned(),
        }
    }
}

/// All disk queues below one folder.
#[derive(Debug)]
pub struct SpillSet {
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    max_bytes: Option<u64>,
    budget: Arc<Budget>,
    permits: Arc<Semaphore>,
    queues: Mutex<BTreeMap<QueueName, Arc<FileQueue>>>,
    /// Queues of earlier runs with something in them, by their folders' names, and what they weigh.
    left: Mutex<BTreeMap<[String; 3], Share>>,
}

impl SpillSet {
    /// Looks which queues earlier runs have left below `folder`, and opens none of them. Nothing on
    /// disk makes this fail; a folder that cannot be read is logged, and appends will say so.
    pub async fn open(folder: impl Into<PathBuf>, bounds: HostBounds) -> Arc<Self> {
        Self::over(Arc::new(Files), folder.into(), bounds).await
    }

    /// [`SpillSet::open`] over another kind of storage.
    pub async fn over(storage: Arc<dyn Storage>, folder: PathBuf, bounds: HostBounds) -> Arc<Self> {
        let (looking, below) = (Arc::clone(&storage), folder.clone());
        let left = tokio::task::spawn_blocking(move || left_by_earlier_runs(&*looking, &below));
        let budget = Budget::new(Arc::clone(&storage), folder.clone(), bounds);
        let budget = Arc::new(budget);
        let left = left.await.unwrap_or_default().into_iter();
        let left = left.map(|(names, bytes)| (names, Share::new(Arc::clone(&budget), bytes)));
        Arc::new(Self {
            storage,
            folder,
            max_bytes: bounds.queue_bytes,
            left: Mutex::new(left.collect()),
            budget,
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            queues: Mutex::default(),
        })
    }

    /// What all queues have and may have. Asks the operating system for the free space.
    #[must_use]
    pub fn disk_use(&self) -> DiskUse {
        self.budget.show()
    }

    /// The queue of an action: the same one as long as this lives, with these options from now on.
    #[must_use]
    pub fn queue(
        &self,
        tenant: &str,
        rule: &str,
        action: &str,
        options: SpillOptions,
    ) -> Arc<dyn Spill> {
        let options = &options;
        let name = QueueName::new(tenant, rule, action);
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get(&name) {
            queue.set_options(options, self.max_bytes);
            return Arc::clone(queue) as Arc<dyn Spill>;
        }
        let folders = folders(&name);
        let files = self.left.lock().remove(&folders);
        let key = Key::new(tenant, rule, action);
        let queue = Arc::new(self.make(&folders, key, files, options));
        queues.insert(name, Arc::clone(&queue));
        queue
    }

    /// Queues of earlier runs that nobody has asked for: their rules are gone, or not started.
    #[must_use]
    pub fn left(&self) -> Vec<QueueName> {
        let left = self.left.lock();
        left.keys()
            .map(|[tenant, rule, action]| {
                QueueName::new(&original(tenant), &original(rule), &original(action))
            })
            .collect()
    }

    /// Queues of a rule that hold messages for actions which are not among these: the names of those
    /// actions, and how many messages.
    pub async fn stranded(&self, tenant: &str, rule: &str, actions: &[&str]) -> Vec<(String, u64)> {
        let mut names = self.of_rule(tenant, rule);
        names.retain(|name| !actions.contains(&name.action.as_str()));
        names.sort();
        let mut found = Vec::new();
        for name in names {
            let known = self.queues.lock().get(&name).cloned();
            let queue: Arc<dyn Spill> = match known {
                Some(known) => known,
                None => self.queue(tenant, rule, &name.action, SpillOptions::default()),
            };
            // Opens it, if that has not been done: only then it is known what is in it.
            if let Err(error) = queue.peek(1, 1).await {
                tracing::warn!(queue = %name, %error, "a disk queue whose action is gone cannot be read");
            }
            if !queue.is_empty() {
                found.push((name.action, queue.len()));
            }
        }
        found
    }

    /// The queues of a rule that are known, opened or left by earlier runs. No other is looked at: a host may
    /// start thousands of rules.
    fn of_rule(&self, tenant: &str, rule: &str) -> Vec<QueueName> {
        let open = self.queues.lock();
        let mut names: Vec<_> = open
            .range(QueueName::new(tenant, rule, "")..)
            .map(|(name, _)| name)
            .take_while(|name| name.tenant == tenant && name.rule == rule)
            .cloned()
            .collect();
        let ours = (folder_name(tenant), folder_name(rule));
        let left = self.left.lock();
        let of_ours = left
            .range([ours.0.clone(), ours.1.clone(), String::new()]..)
            .map(|(folders, _)| folders)
            .take_while(|[of_tenant, of_rule, _]| (of_tenant, of_rule) == (&ours.0, &ours.1));
        names.extend(of_ours.map(|[_, _, action]| QueueName::new(tenant, rule, &original(action))));
        names
    }

    /// Deletes the queues of a rule, also those of its actions that are gone: how many messages were
    /// in them.
    ///
    /// # Errors
    /// [`SpillError::Io`]: something is still there.
    pub async fn remove(&self, tenant: &str, rule: &str) -> Result<u64, SpillError> {
        let mut queues = Vec::new();
        self.queues.lock().retain(|name, queue| {
            let goes = name.tenant == tenant && name.rule == rule;
            if goes {
                queues.push(Arc::clone(queue));
            }
            !goes
        });
        let ours = (folder_name(tenant), folder_name(rule));
        let gone =
            {
                let mut left = self.left.lock();
                let (gone, stay) = std::mem::take(&mut *left).into_iter().partition(
                    |([of_tenant, of_rule, _], _)| (of_tenant, of_rule) == (&ours.0, &ours.1),
                );
                *left = stay;
                gone
            };
        let gone: BTreeMap<[String; 3], Share> = gone;
        for (folders, share) in gone {
            let [_, _, action] = &folders;
            let key = Key::new(tenant, rule, &original(action));
            let options = SpillOptions::default();
            queues.push(Arc::new(self.make(&folders, key, Some(share), &options)));
        }
        let mut removed = 0;
        for queue in queues {
            removed += queue.delete().await?;
        }
        Ok(removed)
    }

    fn make(
        &self,
        folders: &[String; 3],
        key: Key,
        left: Option<Share>,
        options: &SpillOptions,
    ) -> FileQueue {
        let files = left.is_some();
        let share = left.unwrap_or_else(|| Share::new(Arc::clone(&self.budget), 0));
        let folder = folders
            .iter()
            .fold(self.folder.clone(), |path, part| path.join(part));
        let log = Log::new(Arc::clone(&self.storage), folder, key).with_share(share);
        FileQueue::new(
            log,
            files,
            Arc::clone(&self.permits),
            options,
            self.max_bytes,
        )
    }

    /// Writes all cursors; to be called when the rules have stopped.
    pub async fn close(&self) {
        let queues: Vec<_> = self
            .queues
            .lock()
            .iter()
            .map(|(name, queue)| (name.clone(), Arc::clone(queue)))
            .collect();
        for (name, queue) in queues {
            if let Err(error) = queue.persist().await {
                tracing::warn!(queue = %name, %error, "the cursor of a disk queue was not written; some messages will come again");
            }
        }
    }
}

fn folders(name: &QueueName) -> [String; 3] {
    [&name.tenant, &name.rule, &name.action].map(|part| folder_name(part))
}

/// The folders `<tenant>/<rule>/<action>` that hold segments, and the bytes of those.
fn left_by_earlier_runs(storage: &dyn Storage, folder: &Path) -> BTreeMap<[String; 3], u64> {
    let list = |path: &Path| {
        storage.list(path).unwrap_or_else(|error: io::Error| {
            tracing::warn!(folder = %path.display(), %error, "a folder of disk queues cannot be read");
            Vec::new()
        })
    };
    let mut left = BTreeMap::new();
    let inside = |path: &Path| {
        list(path)
            .into_iter()
            .filter(|entry| entry.folder)
            .map(|entry| entry.name)
    };
    for tenant in inside(folder) {
        let below = folder.join(&tenant);
        for rule in inside(&below) {
            let below = below.join(&rule);
            for action in inside(&below) {
                let mut files = list(&below.join(&action));
                files.retain(|entry| !entry.folder && entry.name.ends_with(SEGMENT));
                if !files.is_empty() {
                    let bytes = files.iter().map(|entry| entry.bytes).sum();
                    left.insert([tenant.clone(), rule.clone(), action], bytes);
                }
            }
        }
    }
    left
}
