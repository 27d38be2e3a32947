//! R20 and R17: power failures at any point, full disks, disks that fail.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::rules::spill::SpillError;

/// What was promised so far.
#[derive(Default)]
struct Promises {
    next: u64,
    /// Appended, answered, and not yet done.
    kept: Vec<u64>,
}

#[test]
fn nothing_acknowledged_is_missing_after_500_random_power_failures() {
    let mut crashes = 0;
    for schedule in 0..500 {
        let mut random = StdRng::seed_from_u64(schedule);
        let mut disk = Faulty::default();
        let mut promises = Promises::default();
        let cycles = random.random_range(1..5);
        for cycle in 0..cycles {
            let mut log = open(&disk);
            for _ in 0..random.random_range(0..40) {
                step(&mut log, &disk, &mut promises, &mut random);
            }
            disk = disk.crash(schedule * 100 + cycle);
            crashes += 1;
        }
        let got = drain(&mut open(&disk));
        assert!(
            got.is_sorted_by(|a, b| a < b),
            "schedule {schedule}: out of order: {got:?}"
        );
        for kept in &promises.kept {
            assert!(
                got.contains(kept),
                "schedule {schedule}: {kept} was acknowledged and is missing: {got:?}"
            );
        }
    }
    assert!(crashes > 500);
}

fn step(log: &mut Log, disk: &Faulty, promises: &mut Promises, random: &mut StdRng) {
    let small = Bounds {
        bytes: 64 * 1024,
        ..bounds()
    };
    match random.random_range(0..20) {
        0..10 => {
            let count = random.random_range(1..6);
            let messages: Vec<_> = (promises.next..promises.next + count)
                .map(|n| numbered(n, random.random_range(0..700)))
                .collect();
            let numbers = promises.next..promises.next + count;
            promises.next += count;
            if append(log, messages, &small).is_ok() {
                promises.kept.extend(numbers);
            }
        }
        10..15 => {
            let got = log.peek(random.random_range(1..10), 4096, &small).unwrap();
            let done = random.random_range(0..=got.len());
            if let Some((position, message)) = done.checked_sub(1).and_then(|last| got.get(last)) {
                // From here on the other side has it.
                let last = number(message);
                promises.kept.retain(|kept| *kept > last);
                log.advance(position);
            }
        }
        15 => disk.fail(|faults| faults.writes = 1),
        16 => disk.fail(|faults| faults.syncs = random.random_range(1..3)),
        17 => disk.fail(|faults| {
            faults.removals = 1;
            faults.cuts = 1;
        }),
        18 => disk.fail(|faults| faults.capacity = random.random_bool(0.5).then_some(20_000)),
        _ => drop(log.close()),
    }
}

#[test]
fn a_full_disk_refuses_whole_batches_and_takes_again_when_there_is_room() {
    let disk = Faulty::default();
    let mut log = open(&disk);
    append_each(&mut log, 0..10, 100);
    let mut next = 10;
    let mut kept: Vec<u64> = (0..10).collect();
    for round in 0..20 {
        let used: usize = disk.files().values().map(Vec::len).sum();
        disk.fail(|faults| faults.capacity = Some(used as u64 + 300));
        let before = segments(&disk);
        let batch = (next..next + 5).map(|n| numbered(n, 100)).collect();
        let error = append(&mut log, batch, &bounds()).unwrap_err();
        assert!(
            matches!(error, SpillError::NoSpace(_)),
            "round {round}: {error}"
        );
        assert_eq!(
            segments(&disk),
            before,
            "round {round}: something half written was left"
        );
        disk.fail(|faults| faults.capacity = None);
        let batch = (next..next + 5).map(|n| numbered(n, 100)).collect();
        append(&mut log, batch, &bounds()).unwrap();
        kept.extend(next..next + 5);
        next += 5;
    }
    assert_eq!(drain(&mut open(&disk.crash(1))), kept);
    assert_eq!(drain(&mut log), kept);
    assert!(!log.stats().damage.any());
}

#[test]
fn a_file_whose_sync_failed_is_never_written_to_again() {
    let disk = Faulty::default();
    let mut log = open(&disk);
    append_each(&mut log, 0..3, 10);
    let first = segments(&disk);
    disk.fail(|faults| faults.syncs = 1);
    let error = append(&mut log, vec![numbered(3, 10)], &bounds()).unwrap_err();
    assert!(
        matches!(
            error,
            SpillError::Io {
                doing: "written",
                ..
            }
        ),
        "{error}"
    );
    append_each(&mut log, 4..6, 10);
    let files = segments(&disk);
    assert_eq!(files.len(), 2);
    assert_eq!(files[0], first[0]);
    assert_eq!(drain(&mut open(&disk.crash(7))), [0, 1, 2, 4, 5]);
    assert_eq!(drain(&mut log), [0, 1, 2, 4, 5]);
}

#[test]
fn a_disk_that_fails_while_a_queue_begins_leaves_it_empty_and_usable() {
    for fault in 0..3 {
        let disk = Faulty::default();
        let mut log = open(&disk);
        disk.fail(|faults| match fault {
            0 => faults.writes = 1,
            1 => faults.syncs = 1,
            _ => faults.capacity = Some(50),
        });
        append(&mut log, vec![numbered(0, 10)], &bounds()).unwrap_err();
        assert_eq!((log.stats().messages, segments(&disk).len()), (0, 0));
        disk.fail(|faults| faults.capacity = None);
        append_each(&mut log, 1..3, 10);
        assert_eq!(drain(&mut open(&disk.crash(2))), [1, 2]);
    }
}

#[test]
fn what_could_not_be_removed_does_not_come_again() {
    let disk = Faulty::default();
    let mut log = open(&disk);
    append_each(&mut log, 0..3, 10);
    disk.fail(|faults| faults.removals = 1);
    assert_eq!(drain(&mut log), [0, 1, 2]);
    assert_eq!(segments(&disk).len(), 1);
    let mut log = open(&disk);
    assert_eq!(drain(&mut log), [0; 0]);
    append_each(&mut log, 3..5, 10);
    assert_eq!(drain(&mut open(&disk)), [3, 4]);
}
