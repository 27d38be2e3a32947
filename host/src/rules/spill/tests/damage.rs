//! R19: whatever stands on disk, a queue opens and loses only what the damage covers.

use super::*;
use crate::rules::spill::record::PREAMBLE;

/// A disk with one closed segment of these messages, and where each record ends.
fn one_segment(count: u64) -> (Faulty, std::path::PathBuf, Vec<u8>, Vec<u64>) {
    let disk = Faulty::default();
    let mut log = open(&disk);
    append_each(&mut log, 0..count, 20);
    let ends = log
        .peek(1000, 1 << 20, &bounds())
        .unwrap()
        .iter()
        .map(|(position, _)| position.end)
        .collect();
    let (path, content) = segments(&disk).pop().unwrap();
    (disk, path, content, ends)
}

/// The record that covers a byte; none for the label.
fn covering(ends: &[u64], byte: usize) -> Option<u64> {
    (byte >= PREAMBLE).then(|| ends.iter().position(|end| (byte as u64) < *end).unwrap() as u64)
}

#[test]
fn any_flipped_byte_costs_at_most_the_record_that_it_is_in_and_is_counted() {
    let (disk, path, content, ends) = one_segment(24);
    for byte in 0..content.len() {
        for flip in [0x01, 0x80, 0xff] {
            let (disk, mut bad) = (disk.copy(), content.clone());
            bad[byte] ^= flip;
            disk.put(&path, bad);
            let mut log = open(&disk);
            let got = drain(&mut log);
            let lost = covering(&ends, byte);
            let expected: Vec<u64> = (0..24).filter(|n| Some(*n) != lost).collect();
            assert_eq!(got, expected, "byte {byte} flipped by {flip:#x}");
            let damage = log.stats().damage;
            assert!(damage.any(), "byte {byte}");
            match lost {
                // Nothing behind the last one tells its number.
                Some(23) => assert_eq!((damage.torn, damage.lost), (1, 0), "byte {byte}"),
                Some(_) => assert_eq!((damage.lost, damage.places), (1, 1), "byte {byte}"),
                None => assert_eq!((damage.mended, damage.lost), (1, 0), "byte {byte}"),
            }
        }
    }
}

#[test]
fn a_file_cut_anywhere_keeps_every_whole_record_before_the_cut() {
    let (disk, path, content, ends) = one_segment(24);
    for cut in 0..content.len() {
        let disk = disk.copy();
        disk.put(&path, content[..cut].to_vec());
        let mut log = open(&disk);
        let whole = ends.iter().filter(|end| **end <= cut as u64).count() as u64;
        let at_a_border = ends.contains(&(cut as u64));
        assert_eq!(
            log.stats().damage.torn,
            u64::from(!at_a_border),
            "cut at {cut}"
        );
        append_each(&mut log, 100..103, 20);
        let expected: Vec<u64> = (0..whole).chain(100..103).collect();
        assert_eq!(drain(&mut log), expected, "cut at {cut}");
    }
}

#[test]
fn zeroed_blocks_cost_the_records_that_they_touch() {
    let (disk, path, content, ends) = one_segment(64);
    for block in [64, 512, 1024] {
        for start in (0..content.len()).step_by(97) {
            let (disk, mut bad) = (disk.copy(), content.clone());
            let end = (start + block).min(bad.len());
            bad[start..end].fill(0);
            disk.put(&path, bad);
            let mut log = open(&disk);
            let touched = |n: &u64| {
                let begin = if *n == 0 {
                    PREAMBLE as u64
                } else {
                    ends[*n as usize - 1]
                };
                begin < end as u64 && (start as u64) < ends[*n as usize]
            };
            let expected: Vec<u64> = (0..64).filter(|n| !touched(n)).collect();
            assert_eq!(drain(&mut log), expected, "{block} bytes from {start}");
            assert!(log.stats().damage.any());
        }
    }
}

/// A disk with three segments of ten messages each.
fn three_segments() -> Faulty {
    let disk = Faulty::default();
    for part in 0..3 {
        append_each(&mut open(&disk), part * 10..part * 10 + 10, 50);
    }
    assert_eq!(segments(&disk).len(), 3);
    disk
}

#[test]
fn swapped_files_of_one_queue_are_read_in_their_true_order() {
    let disk = three_segments();
    let files = segments(&disk);
    disk.put(&files[0].0, files[2].1.clone());
    disk.put(&files[2].0, files[0].1.clone());
    let mut log = open(&disk);
    assert_eq!(drain(&mut log), (0..30).collect::<Vec<_>>());
    assert!(!log.stats().damage.any());
}

#[test]
fn files_that_are_not_of_this_queue_are_set_aside_and_the_gap_is_counted() {
    let other = Faulty::default();
    let key = Key::new("default", "other", "mqtt_0");
    let mut log = Log::new(Arc::new(other.clone()), Path::new(FOLDER).to_owned(), key);
    log.open().unwrap();
    append_each(&mut log, 500..510, 50);
    let foreign = segments(&other).pop().unwrap().1;
    for bad in [foreign, vec![0; 4096], b"not a segment".repeat(100)] {
        let disk = three_segments();
        let files = segments(&disk);
        disk.put(&files[1].0, bad.clone());
        let mut log = open(&disk);
        assert_eq!(drain(&mut log), (0..10).chain(20..30).collect::<Vec<_>>());
        let damage = log.stats().damage;
        assert_eq!((damage.set_aside, damage.lost), (1, 10));
        let aside: Vec<_> = disk
            .files()
            .into_iter()
            .filter(|(path, _)| path.to_string_lossy().contains(".damaged-"))
            .collect();
        assert_eq!(aside.len(), 1);
        assert_eq!(aside[0].1, bad, "what was set aside is whole");
    }
}

#[test]
fn a_damaged_cursor_makes_messages_come_again_and_loses_none() {
    let disk = three_segments();
    let mut log = open(&disk);
    let some = log.peek(15, 1 << 20, &bounds()).unwrap();
    log.advance(&some[14].0);
    log.close().unwrap();
    let path = Path::new(FOLDER).join("cursor");
    let whole = disk.files()[&path].clone();
    assert_eq!(drain(&mut open(&disk.copy())), (15..30).collect::<Vec<_>>());
    for byte in 0..whole.len() {
        let (disk, mut bad) = (disk.copy(), whole.clone());
        bad[byte] ^= 0x10;
        disk.put(&path, bad);
        let got = drain(&mut open(&disk));
        assert_eq!(got, (got[0]..30).collect::<Vec<_>>());
        assert!(
            (10..=15).contains(&got[0]),
            "the files before it are gone, its own file may come again: {}",
            got[0]
        );
    }
    for bad in [Vec::new(), vec![0; 80], vec![0xff; 3], vec![7; 4096]] {
        let disk = disk.copy();
        disk.put(&path, bad);
        assert_eq!(drain(&mut open(&disk)), (10..30).collect::<Vec<_>>());
    }
}

#[test]
fn a_block_that_cannot_be_read_costs_what_is_in_it() {
    let (disk, _, content, _) = one_segment(200);
    assert!(content.len() > 12_288);
    disk.fail(|faults| faults.unreadable = Some(4200..4300));
    let mut log = open(&disk);
    let got = drain(&mut log);
    assert!(got.len() > 120 && got.len() < 190, "{} of 200", got.len());
    let damage = log.stats().damage;
    assert_eq!((damage.lost, damage.places), (200 - got.len() as u64, 1));
}

/// What was set aside.
fn aside(disk: &Faulty) -> Vec<Vec<u8>> {
    let files = disk.files().into_iter();
    files
        .filter(|(path, _)| path.to_string_lossy().contains(".damaged-"))
        .map(|(_, content)| content)
        .collect()
}

#[test]
fn a_disk_that_fails_for_a_moment_makes_the_newest_file_neither_cut_nor_removed() {
    let (disk, path, content, ends) = one_segment(200);
    let whole = content.len() as u64;
    let readable = |from: u64| ends.iter().filter(|end| **end <= from).count() as u64;
    for from in [PREAMBLE as u64, 4200, 9000, whole - 1] {
        let disk = disk.copy();
        disk.fail(|faults| faults.unreadable = Some(from..whole));
        let mut log = open(&disk);
        assert!(
            disk.files().get(&path).is_none_or(|file| *file == content),
            "from {from}: cut"
        );
        assert_eq!(log.stats().damage.places, 1, "from {from}");
        assert_eq!(log.stats().damage.torn, 0, "from {from}");
        disk.fail(|faults| faults.unreadable = None);
        append_each(&mut log, 1000..1003, 20);
        let got = drain(&mut log);
        assert!(got.ends_with(&[1000, 1001, 1002]), "from {from}: {got:?}");
        let before = got.len() as u64 - 3;
        assert!(before <= readable(from), "from {from}: {before}");
        assert!(got[..got.len() - 3].iter().copied().eq(0..before));
        assert_eq!(log.stats().damage.set_aside, 1, "from {from}");
        assert_eq!(aside(&disk), std::slice::from_ref(&content), "from {from}");
    }
}

#[test]
fn a_file_that_could_not_be_read_on_the_way_is_set_aside_when_it_is_done() {
    let disk = three_segments();
    let files = segments(&disk);
    let mut log = open(&disk);
    disk.fail(|faults| faults.unreadable = Some(400..500));
    let got = drain(&mut log);
    assert!(got.len() < 30, "{got:?}");
    let kept: Vec<_> = files.into_iter().map(|(_, content)| content).collect();
    assert_eq!(aside(&disk), kept);
    assert_eq!(log.stats().damage.set_aside, 3);
}

#[test]
fn many_random_damages_never_invent_reorder_or_stop_anything() {
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(19);
    let disk = three_segments();
    let files: Vec<_> = disk.files().into_iter().collect();
    for round in 0..400 {
        let disk = disk.copy();
        for _ in 0..random.random_range(1..6) {
            let (path, content) = &files[random.random_range(0..files.len())];
            let mut bad = content.clone();
            let from = random.random_range(0..=bad.len());
            match random.random_range(0..4) {
                0 => bad.truncate(from),
                1 => bad[from..]
                    .iter_mut()
                    .for_each(|byte| *byte = random.random()),
                2 => bad
                    .splice(from..from, content.iter().copied())
                    .for_each(drop),
                _ => drop(bad.drain(from / 2..from)),
            }
            disk.put(path, bad);
        }
        let got = drain(&mut open(&disk));
        assert!(
            got.is_sorted_by(|a, b| a < b) && got.iter().all(|n| *n < 30),
            "round {round}: {got:?}"
        );
    }
}
