//! Who takes what on one connection: each thing that is asked for at the other side (a filter with
//! what belongs to it) with the inboxes of all who want it, so that it is asked for once. For types
//! that keep no session of their own. Asks for nothing itself: the link's task looks here.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Inbox, SubscriptionGuard};

/// All takers of one connection. `K` is what is asked for at the other side.
#[derive(Debug)]
pub struct Interest<K> {
    table: Mutex<Table<K>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Table<K> {
    next: u64,
    wanted: BTreeMap<K, Vec<(u64, Arc<Inbox>)>>,
}

impl<K> Default for Interest<K> {
    fn default() -> Self {
        Self {
            table: Mutex::new(Table {
                next: 0,
                wanted: BTreeMap::new(),
            }),
            changed: watch::channel(0).0,
        }
    }
}

impl<K> Interest<K>
where
    K: Ord + Clone + Debug + Send + Sync + 'static,
{
    /// Adds a taker of all these until the guard is dropped, which closes its inbox.
    pub fn add(self: &Arc<Self>, keys: Vec<K>, inbox: Arc<Inbox>) -> Box<dyn SubscriptionGuard> {
        let number = {
            let mut table = self.table.lock();
            table.next += 1;
            let number = table.next;
            for key in keys {
                let takers = table.wanted.entry(key).or_default();
                if takers.iter().all(|(known, _)| *known != number) {
                    takers.push((number, Arc::clone(&inbox)));
                }
            }
            number
        };
        self.tell();
        Box::new(Guard {
            takers: Arc::clone(self),
            number,
            inbox,
        })
    }

    /// What is wanted at present.
    #[must_use]
    pub fn wanted(&self) -> Vec<K> {
        self.table.lock().wanted.keys().cloned().collect()
    }

    /// The inboxes of those who want this.
    #[must_use]
    pub fn of(&self, key: &K) -> Vec<Arc<Inbox>> {
        let table = self.table.lock();
        let takers = table.wanted.get(key).into_iter().flatten();
        takers.map(|(_, inbox)| Arc::clone(inbox)).collect()
    }

    /// Changes whenever a taker comes or goes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

#[derive(Debug)]
struct Guard<K: Ord + Clone + Debug + Send + Sync + 'static> {
    takers: Arc<Interest<K>>,
    number: u64,
    inbox: Arc<Inbox>,
}

impl<K: Ord + Clone + Debug + Send + Sync + 'static> SubscriptionGuard for Guard<K> {}

impl<K: Ord + Clone + Debug + Send + Sync + 'static> Drop for Guard<K> {
    fn drop(&mut self) {
        self.takers.table.lock().wanted.retain(|_, takers| {
            takers.retain(|(number, _)| *number != self.number);
            !takers.is_empty()
        });
        self.inbox.close();
        self.takers.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_want_is_wanted_once_and_until_the_last_one_goes() {
        let takers = Arc::new(Interest::<&str>::default());
        let mut changes = takers.changes();
        let one = takers.add(vec!["a", "b", "a"], Arc::default());
        let two = takers.add(vec!["b"], Arc::default());
        assert_eq!(takers.wanted(), ["a", "b"]);
        assert_eq!((takers.of(&"a").len(), takers.of(&"b").len()), (1, 2));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        drop(one);
        assert!(changes.has_changed().unwrap());
        assert_eq!(takers.wanted(), ["b"]);
        drop(two);
        assert!(takers.wanted().is_empty());
    }
}
