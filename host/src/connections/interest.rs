//! Who takes what on one connection: each thing that the other side tells from others (a filter, a
//! consumer) with the inboxes of all who want it, so that it is asked for once. How it is asked for
//! is for all of them as the first of them says: two askings of one consumer would each get a part.
//! For types that keep no session of their own. Asks for nothing itself: the link's task looks here.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Inbox, SubscriptionGuard};

/// All takers of one connection. `K` is what is asked for at the other side, and `O` how.
#[derive(Debug)]
pub struct Interest<K, O> {
    table: Mutex<Table<K, O>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Table<K, O> {
    next: u64,
    wanted: BTreeMap<K, Vec<Taker<O>>>,
}

#[derive(Debug)]
struct Taker<O> {
    number: u64,
    how: O,
    inbox: Arc<Inbox>,
}

impl<K, O> Default for Interest<K, O> {
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

impl<K, O> Interest<K, O>
where
    K: Ord + Clone + Debug + Send + Sync + 'static,
    O: PartialEq + Clone + Debug + Send + Sync + 'static,
{
    /// Adds a taker of all these until the guard is dropped, which closes its inbox.
    pub fn add(
        self: &Arc<Self>,
        wanted: Vec<(K, O)>,
        inbox: Arc<Inbox>,
    ) -> Box<dyn SubscriptionGuard> {
        let number = {
            let mut table = self.table.lock();
            table.next += 1;
            let number = table.next;
            for (key, how) in wanted {
                let takers = table.wanted.entry(key).or_default();
                if takers.iter().all(|taker| taker.number != number) {
                    let inbox = Arc::clone(&inbox);
                    takers.push(Taker { number, how, inbox });
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

    /// What is wanted at present, and how its first taker wants it.
    #[must_use]
    pub fn wanted(&self) -> Vec<(K, O)> {
        let table = self.table.lock();
        let first = |(key, takers): (&K, &Vec<Taker<O>>)| {
            let taker = takers.first()?;
            Some((key.clone(), taker.how.clone()))
        };
        table.wanted.iter().filter_map(first).collect()
    }

    /// Where a later taker wants something in another way than its first one, whose way it is: both ways.
    #[must_use]
    pub fn at_odds(&self) -> Vec<(K, O, O)> {
        let table = self.table.lock();
        let mut found = Vec::new();
        for (key, takers) in &table.wanted {
            let Some((first, others)) = takers.split_first() else {
                continue;
            };
            for other in others.iter().filter(|other| other.how != first.how) {
                found.push((key.clone(), first.how.clone(), other.how.clone()));
            }
        }
        found
    }

    /// The inboxes of those who want this.
    #[must_use]
    pub fn of(&self, key: &K) -> Vec<Arc<Inbox>> {
        let table = self.table.lock();
        let takers = table.wanted.get(key).into_iter().flatten();
        takers.map(|taker| Arc::clone(&taker.inbox)).collect()
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
struct Guard<K, O>
where
    K: Ord + Clone + Debug + Send + Sync + 'static,
    O: PartialEq + Clone + Debug + Send + Sync + 'static,
{
    takers: Arc<Interest<K, O>>,
    number: u64,
    inbox: Arc<Inbox>,
}

impl<K, O> SubscriptionGuard for Guard<K, O>
where
    K: Ord + Clone + Debug + Send + Sync + 'static,
    O: PartialEq + Clone + Debug + Send + Sync + 'static,
{
}

impl<K, O> Drop for Guard<K, O>
where
    K: Ord + Clone + Debug + Send + Sync + 'static,
    O: PartialEq + Clone + Debug + Send + Sync + 'static,
{
    fn drop(&mut self) {
        self.takers.table.lock().wanted.retain(|_, takers| {
            takers.retain(|taker| taker.number != self.number);
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
        let takers = Arc::new(Interest::<&str, ()>::default());
        let mut changes = takers.changes();
        let one = takers.add(vec![("a", ()), ("b", ()), ("a", ())], Arc::default());
        let two = takers.add(vec![("b", ())], Arc::default());
        assert_eq!(takers.wanted(), [("a", ()), ("b", ())]);
        assert_eq!((takers.of(&"a").len(), takers.of(&"b").len()), (1, 2));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        drop(one);
        assert!(changes.has_changed().unwrap());
        assert_eq!(takers.wanted(), [("b", ())]);
        drop(two);
        assert!(takers.wanted().is_empty());
    }

    #[test]
    fn what_two_want_in_different_ways_is_asked_for_once_as_the_first_one_says() {
        let takers = Arc::new(Interest::<&str, u8>::default());
        let first = takers.add(vec![("a", 1)], Arc::default());
        let second = takers.add(vec![("a", 2)], Arc::default());
        let _third = takers.add(vec![("a", 1)], Arc::default());
        assert_eq!(takers.wanted(), [("a", 1)]);
        assert_eq!(takers.of(&"a").len(), 3);
        assert_eq!(takers.at_odds(), [("a", 1, 2)]);
        drop(first);
        assert_eq!(takers.wanted(), [("a", 2)]);
        drop(second);
        assert!(takers.at_odds().is_empty());
    }
}
