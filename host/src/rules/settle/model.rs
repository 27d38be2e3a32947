//! Settlement against a model: reads with any number of shares, dropped and abandoned in any order, with
//! and without checkpoints, a committer that is fenced at any time.

use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// A read, with a checkpoint or without.
    Open { checkpoint: bool },
    /// One more share of the n-th open ticket.
    Share(usize),
    /// The n-th share is final.
    Drop(usize),
    /// The n-th share can never be.
    Abandon(usize),
    /// What is ready is written.
    Commit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any::<bool>().prop_map(|checkpoint| Step::Open { checkpoint }),
        4 => (0usize..30).prop_map(Step::Share),
        10 => (0usize..30).prop_map(Step::Drop),
        1 => (0usize..300).prop_map(Step::Abandon),
        3 => Just(Step::Commit),
    ];
    prop::collection::vec(step, 1..120)
}

/// What happened, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Settled(usize),
    Committed(usize),
}

type Log = Arc<Mutex<Vec<Event>>>;

#[derive(Debug)]
struct Take(usize, Log);

impl Settle for Take {
    fn settle(self: Box<Self>) {
        self.1.lock().push(Event::Settled(self.0));
    }
    fn lossless(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Disk {
    log: Log,
    /// Commits until another owner takes over.
    left: AtomicUsize,
}

#[async_trait]
impl Committer for Disk {
    async fn commit(&self, checkpoint: &str) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return false;
        }
        self.left.store(left - 1, Ordering::Relaxed);
        let number = checkpoint.parse().unwrap();
        self.log.lock().push(Event::Committed(number));
        true
    }
}

/// What the ledger must do, in the plainest words.
#[derive(Debug, Default)]
struct Model {
    /// Of each read: shares that are not final, and whether it has a checkpoint.
    reads: Vec<(usize, bool)>,
    /// Reads before this one have left the list of open ones; those in between wait for a write.
    final_to: usize,
    settled_to: usize,
    abandoned: bool,
    fenced: bool,
}

impl Model {
    /// After a share was dropped: what settles at once.
    fn release(&mut self, events: &mut Vec<Event>) {
        while !self.abandoned
            && self
                .reads
                .get(self.final_to)
                .is_some_and(|read| read.0 == 0)
        {
            let waits = self.reads[self.final_to].1 || self.final_to > self.settled_to;
            self.final_to += 1;
            if !waits {
                self.settled_to = self.final_to;
                events.push(Event::Settled(self.final_to - 1));
            }
        }
    }

    fn commit(&mut self, left: &mut usize, events: &mut Vec<Event>) {
        let ready = self.settled_to..self.final_to;
        if ready.is_empty() || self.fenced {
            return;
        }
        if let Some(newest) = ready.clone().rev().find(|read| self.reads[*read].1) {
            if *left == 0 {
                self.abandoned = true;
                self.fenced = true;
                return;
            }
            *left -= 1;
            events.push(Event::Committed(newest));
        }
        events.extend(ready.map(Event::Settled));
        self.settled_to = self.final_to;
        self.release(events);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn reads_settle_in_order_when_they_are_final_and_after_their_checkpoint(steps in steps(), commits in 0usize..20) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let log = Log::default();
        let disk = Disk { log: Arc::clone(&log), left: AtomicUsize::new(commits) };
        let ledger = Ledger::new();
        let mut shares: Vec<(usize, Ticket)> = Vec::new();
        let (mut model, mut expected, mut left) = (Model::default(), Vec::new(), commits);
        for step in steps {
            match step {
                Step::Open { checkpoint } => {
                    let number = model.reads.len();
                    let take = Take(number, Arc::clone(&log));
                    let text = checkpoint.then(|| number.to_string());
                    shares.push((number, ledger.open(Some(Box::new(take)), text, 1)));
                    model.reads.push((1, checkpoint));
                }
                Step::Share(place) if !shares.is_empty() => {
                    let (number, ticket) = &shares[place % shares.len()];
                    let share = (*number, ticket.clone());
                    model.reads[share.0].0 += 1;
                    shares.push(share);
                }
                Step::Drop(place) if !shares.is_empty() => {
                    let (number, ticket) = shares.swap_remove(place % shares.len());
                    drop(ticket);
                    model.reads[number].0 -= 1;
                    model.release(&mut expected);
                }
                Step::Abandon(place) if place < shares.len() => {
                    // The read is given up with its last share; nothing of it is final before.
                    let (number, ticket) = shares.swap_remove(place);
                    ticket.abandon();
                    let of_it = |share: &(usize, Ticket)| share.0 == number;
                    shares.retain(|share| !of_it(share));
                    model.abandoned = true;
                }
                Step::Commit => {
                    runtime.block_on(ledger.commit_ready(&disk));
                    model.commit(&mut left, &mut expected);
                }
                Step::Share(_) | Step::Drop(_) | Step::Abandon(_) => {}
            }
            prop_assert_eq!(&*log.lock(), &expected);
            prop_assert_eq!(ledger.is_abandoned(), model.abandoned);
            prop_assert_eq!(ledger.is_fenced(), model.fenced);
        }
        // Whatever came of it: in order, each once, each after its checkpoint.
        let events = log.lock().clone();
        let settled: Vec<usize> = events
            .iter()
            .filter_map(|event| match event {
                Event::Settled(number) => Some(*number),
                Event::Committed(_) => None,
            })
            .collect();
        prop_assert!(settled.iter().enumerate().all(|(place, number)| place == *number));
        let mut committed = None;
        for event in events {
            match event {
                Event::Committed(number) => committed = Some(number),
                Event::Settled(number) if model.reads[number].1 => {
                    prop_assert!(committed >= Some(number), "{} before its checkpoint", number);
                }
                Event::Settled(_) => {}
            }
        }
    }
}
