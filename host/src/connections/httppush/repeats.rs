//! `Idempotency-Key`: a push that is repeated with the same key gets what became of the first, also
//! while that is still under way. Kept in memory, for ten minutes, bounded; no clock but tokio's.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pending::{Outcome, Pending};

/// How long a key is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Keys of one connection; with more, the oldest are forgotten sooner.
const MOST: usize = 65_536;

/// Path, method and key, hashed.
type Key = blake3::Hash;

/// The keys of one connection.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    known: HashMap<Key, Known>,
    order: VecDeque<(Instant, Key, u64)>,
}

#[derive(Debug)]
struct Known {
    content: blake3::Hash,
    pending: Arc<Pending>,
}

/// What a key means.
#[derive(Debug)]
pub(super) enum Entered {
    /// It is new: this message is to be given to its takers, or given up.
    New(Arc<Pending>),
    /// This is the first with that key.
    Repeated(Arc<Pending>),
    /// The first with that key was another message.
    Other,
}

impl Repeats {
    /// Enters a push with a key.
    pub(super) fn enter(&mut self, path: &str, method: &str, key: &[u8], body: &[u8]) -> Entered {
        let now = Instant::now();
        self.forget(now);
        let mut hasher = blake3::Hasher::new();
        for part in [method.as_bytes(), path.as_bytes(), key] {
            hasher.update(&part.len().to_le_bytes());
            hasher.update(part);
        }
        let key = hasher.finalize();
        let content = blake3::hash(body);
        if let Some(known) = self.known.get(&key) {
            let again = known
                .pending
                .outcome()
                .is_some_and(|outcome: Outcome| outcome.may_be_tried_again());
            if !again {
                return if known.content == content {
                    Entered::Repeated(Arc::clone(&known.pending))
                } else {
                    Entered::Other
                };
            }
        }
        let pending = Pending::new();
        self.order.push_back((now, key, pending.number()));
        let known = Known {
            content,
            pending: Arc::clone(&pending),
        };
        self.known.insert(key, known);
        Entered::New(pending)
    }

    fn forget(&mut self, now: Instant) {
        while let Some((since, key, number)) = self.order.front() {
            if self.order.len() < MOST && now.duration_since(*since) < REMEMBERED {
                return;
            }
            // A later try with the same key has a place of its own in the order.
            let same = self
                .known
                .get(key)
                .is_some_and(|known| known.pending.number() == *number);
            if same {
                self.known.remove(key);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(repeats: &mut Repeats, key: &str, body: &str) -> Entered {
        repeats.enter("/a", "POST", key.as_bytes(), body.as_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_remembered_for_ten_minutes_with_its_path_and_its_message() {
        let mut repeats = Repeats::default();
        let Entered::New(first) = enter(&mut repeats, "k", "1") else {
            panic!("the first is new");
        };
        let Entered::Repeated(same) = enter(&mut repeats, "k", "1") else {
            panic!("the second is a repetition");
        };
        assert!(Arc::ptr_eq(&first, &same));
        assert!(matches!(enter(&mut repeats, "k", "2"), Entered::Other));
        assert!(matches!(
            repeats.enter("/b", "POST", b"k", b"1"),
            Entered::New(_)
        ));
        tokio::time::advance(REMEMBERED).await;
        assert!(matches!(enter(&mut repeats, "k", "2"), Entered::New(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_that_nobody_took_is_no_reason_to_refuse_the_second() {
        let mut repeats = Repeats::default();
        let Entered::New(first) = enter(&mut repeats, "k", "1") else {
            panic!("the first is new");
        };
        first.give_up();
        let Entered::New(_) = enter(&mut repeats, "k", "1") else {
            panic!("the second is a new try");
        };
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(matches!(
            enter(&mut repeats, "k", "1"),
            Entered::Repeated(_)
        ));
    }

    #[tokio::test]
    async fn keys_are_bounded_and_the_oldest_go_first() {
        let mut repeats = Repeats::default();
        for number in 0..MOST + 10 {
            assert!(matches!(
                enter(&mut repeats, &number.to_string(), ""),
                Entered::New(_)
            ));
        }
        assert!(repeats.known.len() <= MOST && repeats.order.len() <= MOST);
        assert!(matches!(enter(&mut repeats, "0", ""), Entered::New(_)));
        let newest = (MOST + 9).to_string();
        assert!(matches!(
            enter(&mut repeats, &newest, ""),
            Entered::Repeated(_)
        ));
    }
}
