//! Deliveries that no taker may ever see become dead letters of their connection, however long the store
//! refuses them. Bounded: so many wait, one task keeps them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::connections::Refused;
use crate::error::ConnectionError;
use crate::message::{Batch, Message, Take};
use crate::rules::deliver::Graveyard;

/// So many wait for room among the dead letters; what they hold of a payload is short.
const MOST_WAITING: usize = 1024;
const RETRY: Duration = Duration::from_secs(1);

/// One that waits to be kept.
#[derive(Debug)]
pub(super) struct Waiting {
    message: Message,
    reason: ConnectionError,
    /// Its sender keeps it until this is settled, and sends it again when it is dropped.
    take: Option<Take>,
}

/// Where connections of a host that runs put what they refuse.
#[derive(Clone, Debug)]
pub(super) struct RefusedLetters {
    to: mpsc::Sender<Waiting>,
    lost: Arc<AtomicU64>,
}

/// The place, and what [`keep`] takes from it.
pub(super) fn letters() -> (RefusedLetters, mpsc::Receiver<Waiting>) {
    let (to, waiting) = mpsc::channel(MOST_WAITING);
    let lost = Arc::default();
    (RefusedLetters { to, lost }, waiting)
}

impl RefusedLetters {
    fn hand(&self, subject: &str, head: Bytes, reason: &ConnectionError, take: Option<Take>) {
        let message = Message {
            subject: subject.into(),
            ..Message::new(head)
        };
        let reason = reason.clone();
        let waiting = Waiting {
            message,
            reason,
            take,
        };
        let Err(refused) = self.to.try_send(waiting) else {
            return;
        };
        // With its take it comes again.
        let waiting = refused.into_inner();
        if waiting.take.is_none() {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::error!(subject, reason = %waiting.reason, lost, "a refused message is lost: too many wait to be kept as dead letters");
        }
    }
}

impl Refused for RefusedLetters {
    fn refused(&self, subject: &str, head: Bytes, reason: &ConnectionError) {
        self.hand(subject, head, reason, None);
    }

    fn refused_until_kept(&self, subject: &str, head: Bytes, reason: &ConnectionError, take: Take) {
        self.hand(subject, head, reason, Some(take));
    }
}

/// Keeps what was refused, one after another, until `over`. What is left then is tried once.
pub(super) async fn keep(
    mut waiting: mpsc::Receiver<Waiting>,
    letters: impl Graveyard,
    over: CancellationToken,
) {
    let all = async {
        while let Some(one) = waiting.recv().await {
            let mut told = false;
            while let Err(error) = kept(&letters, &one).await {
                if !told {
                    tracing::error!(%error, reason = %one.reason, "a refused message cannot be kept as a dead letter yet");
                    told = true;
                }
                tokio::time::sleep(RETRY).await;
            }
            settle(one);
        }
    };
    tokio::select! {
        biased;
        () = over.cancelled() => {}
        () = all => {}
    }
    waiting.close();
    while let Ok(one) = waiting.try_recv() {
        match kept(&letters, &one).await {
            Ok(()) => settle(one),
            Err(error) => {
                tracing::error!(%error, reason = %one.reason, "a refused message could not be kept as a dead letter");
            }
        }
    }
}

async fn kept(letters: &impl Graveyard, one: &Waiting) -> Result<(), String> {
    let batch = Batch::from(vec![one.message.clone()]);
    letters.bury(&batch, &one.reason, 0).await
}

fn settle(one: Waiting) {
    if let Some(take) = one.take {
        take.settle();
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::message::Acknowledge;

    /// Refuses until it is told that there is room.
    #[derive(Clone, Debug, Default)]
    struct Full(Arc<Mutex<(bool, Vec<String>)>>);

    #[async_trait::async_trait]
    impl Graveyard for Full {
        async fn bury(
            &self,
            batch: &Batch,
            _reason: &ConnectionError,
            _attempts: u32,
        ) -> Result<(), String> {
            let mut inner = self.0.lock();
            if !inner.0 {
                return Err("full".to_owned());
            }
            let subjects = batch.iter().map(|message| message.subject.to_string());
            inner.1.extend(subjects);
            Ok(())
        }
    }

    #[derive(Debug, Default)]
    struct Settled(Mutex<Vec<u64>>);

    impl Acknowledge for Settled {
        fn settled(&self, key: u64) {
            self.0.lock().push(key);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_acknowledged_when_it_is_kept_and_not_before() {
        let (refused, waiting) = letters();
        let (full, settled, over) = (
            Full::default(),
            Arc::<Settled>::default(),
            CancellationToken::new(),
        );
        let mut keeping = tokio::task::JoinSet::new();
        keeping.spawn(keep(waiting, full.clone(), over.clone()));
        let reason = ConnectionError::permanent("too-large", "too large");
        refused.refused("a", Bytes::new(), &reason);
        let take = Take::new(settled.clone(), 7);
        refused.refused_until_kept("b", Bytes::new(), &reason, take);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(settled.0.lock().is_empty());
        full.0.lock().0 = true;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(full.0.lock().1, ["a", "b"]);
        assert_eq!(*settled.0.lock(), [7]);
        // No more wait than may; those that are not acknowledged come again.
        full.0.lock().0 = false;
        for n in 0..2 * MOST_WAITING as u64 {
            let take = Take::new(settled.clone(), n);
            refused.refused_until_kept("c", Bytes::new(), &reason, take);
            refused.refused("d", Bytes::new(), &reason);
        }
        assert!(refused.lost.load(Ordering::Relaxed) >= MOST_WAITING as u64);
        assert_eq!(settled.0.lock().len(), 1);
        // At the end each has one more chance.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        full.0.lock().0 = true;
        over.cancel();
        keeping.join_next().await.unwrap().unwrap();
        assert!(
            full.0.lock().1.len() >= MOST_WAITING,
            "{}",
            full.0.lock().1.len()
        );
        assert!(settled.0.lock().len() > 400);
    }
}
