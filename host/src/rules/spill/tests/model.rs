//! The queue against a list: appends that meet, reads, restarts in good order and bad, writes that are
//! lost and come in another order than they were made.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Appends that meet, of so many messages each, with one sync.
    Append(Vec<usize>),
    /// So many are read, and so many of those are done.
    Read(usize, usize),
    /// The process ends in good order and starts again.
    Restart,
    /// The power fails.
    Crash(u64),
    /// The next sync fails, and what it should have made safe may be lost.
    FailSync,
    /// The next write breaks in the middle.
    FailWrite,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop::collection::vec(1usize..6, 1..4).prop_map(Step::Append),
        8 => (1usize..12, 0usize..12).prop_map(|(read, done)| Step::Read(read, done)),
        2 => Just(Step::Restart),
        1 => any::<u64>().prop_map(Step::Crash),
        1 => Just(Step::FailSync),
        1 => Just(Step::FailWrite),
    ];
    prop::collection::vec(step, 1..80)
}

/// What the queue must hold.
#[derive(Debug, Default)]
struct Model {
    next: u64,
    /// On disk by its own word and not done, in order.
    kept: Vec<u64>,
    /// Appended without a good answer: may be there or not.
    maybe: BTreeSet<u64>,
    /// Done; after a crash some come again.
    done: BTreeSet<u64>,
    /// The process has not ended without its good order since the queue was last read through.
    exact: bool,
}

impl Model {
    fn check(&self, got: &[u64]) -> Result<(), TestCaseError> {
        prop_assert!(got.is_sorted_by(|a, b| a < b), "out of order: {got:?}");
        // From the first that was kept on, nothing that was promised is passed by.
        if let (Some(last), true) = (got.last(), !got.is_empty()) {
            let promised = self.kept.iter().filter(|kept| *kept <= last);
            for kept in promised {
                prop_assert!(got.contains(kept), "{kept} is missing: {got:?}");
            }
        }
        for number in got {
            let known = self.kept.contains(number)
                || self.maybe.contains(number)
                || (!self.exact && self.done.contains(number));
            prop_assert!(known, "{number} comes from nowhere, or again: {got:?}");
        }
        Ok(())
    }
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut disk = Faulty::default();
    let mut log = open(&disk);
    let mut model = Model {
        exact: true,
        ..Model::default()
    };
    let small = Bounds {
        bytes: 256 * 1024,
        ..bounds()
    };
    for step in steps {
        match step {
            Step::Append(sizes) => {
                let mut batches = Vec::new();
                let mut numbers = Vec::new();
                for size in sizes {
                    let range = model.next..model.next + *size as u64;
                    model.next = range.end;
                    batches.push(range.clone().map(|n| numbered(n, 300)).collect());
                    numbers.push(range);
                }
                let answers = log.append(batches, &small);
                prop_assert_eq!(answers.len(), numbers.len());
                for (answer, range) in answers.iter().zip(numbers) {
                    match answer {
                        Ok(_) => model.kept.extend(range),
                        Err(_) => model.maybe.extend(range),
                    }
                }
            }
            Step::Read(read, done) => {
                let got = log.peek(*read, 1 << 20, &small).unwrap();
                let numbers: Vec<u64> = got.iter().map(|(_, message)| number(message)).collect();
                model.check(&numbers)?;
                prop_assert_eq!(numbers.is_empty(), log.stats().messages == 0);
                let last = got.get(..*done.min(&got.len())).and_then(<[_]>::last);
                if let Some((position, message)) = last {
                    let last = number(message);
                    log.advance(position);
                    model
                        .done
                        .extend(model.kept.iter().filter(|kept| **kept <= last));
                    model.kept.retain(|kept| *kept > last);
                }
            }
            Step::Restart => {
                // A disk that fails now would make it a bad end.
                disk.fail(|faults| *faults = crate::rules::spill::faulty::Faults::default());
                log.close().unwrap();
                log = open(&disk);
            }
            Step::Crash(seed) => {
                disk = disk.crash(*seed);
                log = open(&disk);
                model.exact = false;
            }
            Step::FailSync => disk.fail(|faults| faults.syncs = 1),
            Step::FailWrite => disk.fail(|faults| faults.writes = 1),
        }
    }
    let got = drain(&mut log);
    model.check(&got)?;
    for kept in &model.kept {
        prop_assert!(
            got.contains(kept),
            "{kept} was promised and is missing: {got:?}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn it_holds_what_it_promised_in_order_and_nothing_else(steps in steps()) {
        run(&steps)?;
    }
}
