//! How many messages are due. Knows no clock: time is given to it.

use std::time::Duration;

/// Messages in one read, at most, when several ticks are due at once.
const MOST: u32 = 1024;

/// Ticks at a steady distance, the first one at once, with a number of messages for each. Up to a
/// second of delay is made up for; what is beyond is lost.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Seconds from one tick to the next. 0: always due.
    every: f64,
    /// Messages for one tick.
    batch: u32,
    /// Ticks that were sent or lost.
    done: u64,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// So many messages are due.
    Send(u32),
    /// None for so many milliseconds.
    Wait(u32),
}

impl Pace {
    /// `batch` messages every so many milliseconds.
    pub(crate) fn interval(milliseconds: u64, batch: u32) -> Self {
        Self {
            every: Duration::from_millis(milliseconds).as_secs_f64(),
            batch: batch.max(1),
            done: 0,
        }
    }

    /// So many messages in a second.
    pub(crate) fn rate(per_second: f64) -> Self {
        Self {
            every: 1.0 / per_second.max(1e-6),
            batch: 1,
            done: 0,
        }
    }

    /// `elapsed` is the time since the start; it never goes back.
    pub(crate) fn turn(&mut self, elapsed: Duration) -> Turn {
        if self.every == 0.0 {
            return Turn::Send(self.batch);
        }
        let elapsed = elapsed.as_secs_f64();
        let due = whole(elapsed / self.every).saturating_add(1);
        let Some(behind) = due.checked_sub(self.done).filter(|&behind| behind > 0) else {
            #[expect(clippy::cast_precision_loss, reason = "ticks are far fewer than 2^53")]
            let wait = self.done as f64 * self.every - elapsed;
            let milliseconds = whole((wait * 1000.0).ceil()).max(1);
            return Turn::Wait(u32::try_from(milliseconds).unwrap_or(u32::MAX));
        };
        let kept = behind.min(whole(1.0 / self.every).max(1));
        let ticks = u32::try_from(kept)
            .unwrap_or(u32::MAX)
            .min((MOST / self.batch).max(1));
        self.done = due - kept + u64::from(ticks);
        Turn::Send(ticks * self.batch)
    }
}

/// The whole part of a number that is not negative.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, which is what is wanted"
)]
fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_first_batch_is_due_at_once_and_the_next_after_the_interval() {
        let mut pace = Pace::interval(1000, 3);
        assert_eq!(pace.turn(at(0)), Turn::Send(3));
        assert_eq!(pace.turn(at(1)), Turn::Wait(999));
        assert_eq!(pace.turn(at(1000)), Turn::Send(3));
        assert_eq!(pace.turn(at(1500)), Turn::Wait(500));
    }

    #[test]
    fn an_interval_of_zero_is_always_due() {
        let mut pace = Pace::interval(0, 1000);
        assert_eq!(pace.turn(at(0)), Turn::Send(1000));
        assert_eq!(pace.turn(at(0)), Turn::Send(1000));
    }

    #[test]
    fn a_rate_is_kept_over_time_whatever_the_distance_of_the_reads() {
        let mut pace = Pace::rate(10_000.0);
        let mut sent = 0;
        for millisecond in (0..=2000).step_by(7) {
            while let Turn::Send(count) = pace.turn(at(millisecond)) {
                assert!(count <= MOST);
                sent += count;
            }
        }
        assert!((19_900..=20_001).contains(&sent), "{sent}");
    }

    #[test]
    fn more_than_a_second_of_delay_is_not_made_up_for() {
        let mut pace = Pace::rate(100.0);
        let mut sent = 0;
        while let Turn::Send(count) = pace.turn(at(60_000)) {
            sent += count;
        }
        assert_eq!(sent, 100);
        let mut slow = Pace::interval(5000, 1);
        assert_eq!(slow.turn(at(60_000)), Turn::Send(1));
        assert_eq!(slow.turn(at(60_000)), Turn::Wait(5000));
    }
}
