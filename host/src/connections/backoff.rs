//! How long to wait before a connection is dialled again. A value and a function of what happened
//! and a random number: no clock, no task, no protocol.
//!
//! Full jitter above a floor, doubling up to a cap, for ever. The cap depends on what happened:
//!
//! | what happened | at most |
//! |---|---|
//! | a good session was lost: it lasted 10 s, or settled a message | 1 s |
//! | the other side cannot be reached, for less than 5 minutes | 1 s |
//! | the same for longer, or it accepts and then hangs up | 10 s |
//! | it answered and said no (credentials, identity, taken over) | 30 to 60 s |
//! | it answered that it has no room just now | as the first ones, and 1 s at least |
//!
//! A message that nobody waits for (QoS 0, a channel) is settled when it is taken: else a session of
//! such messages that lasted 9 s would pass for a peer that hangs up.
//!
//! Only a good session starts the count anew: were it any success, a peer that accepts and hangs up
//! would be dialled 600 times a minute.

use std::time::Duration;

use crate::error::Pace;

/// The steps. All of them are lower than a minute; see the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Never less than this.
    pub floor: Duration,
    /// At most this after a good session, and while trouble is young.
    pub quick: Duration,
    /// At most this otherwise.
    pub cap: Duration,
    /// At least this after a refusal; at most twice this.
    pub slow: Duration,
    /// How long trouble is young.
    pub young: Duration,
    /// A session that lasted this long was good.
    pub good: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            floor: Duration::from_millis(50),
            quick: Duration::from_secs(1),
            cap: Duration::from_secs(10),
            slow: Duration::from_secs(30),
            young: Duration::from_secs(5 * 60),
            good: Duration::from_secs(10),
        }
    }
}

/// The longest wait that the other side may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(10 * 60);

/// How an attempt, and the session it perhaps began, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// There was no session.
    Failed,
    /// There was one; how long it lasted, and whether a message was settled in it.
    Lost {
        /// From connected to lost.
        lasted: Duration,
        /// [`super::Connection::was_useful`].
        useful: bool,
    },
}

/// What happened since the last good session. Times are given by the caller, on one steady clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    attempts: u32,
    trouble_since: Option<Duration>,
    hung_up: bool,
    healthy: bool,
}

impl History {
    /// Attempts that ended since the last good session.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Takes note of an end at `now`, a time on the caller's clock.
    #[must_use]
    pub fn after(self, steps: &Backoff, end: End, now: Duration) -> Self {
        match end {
            End::Lost { lasted, useful } if useful || lasted >= steps.good => Self {
                attempts: 1,
                trouble_since: Some(now),
                hung_up: false,
                healthy: true,
            },
            _ => Self {
                attempts: self.attempts.saturating_add(1),
                trouble_since: self.trouble_since.or(Some(now)),
                hung_up: matches!(end, End::Lost { .. }),
                healthy: false,
            },
        }
    }
}

impl Backoff {
    /// The wait after the end that `history` noted last, at `now` on the same clock. `pace` and
    /// `asked` (the least that the other side asks for) are those of its error; `random` is from 0
    /// to 1, and anything else is taken as the nearest of them.
    #[must_use]
    pub fn wait(
        &self,
        history: &History,
        now: Duration,
        pace: Pace,
        asked: Option<Duration>,
        random: f64,
    ) -> Duration {
        let random = if random.is_nan() {
            1.0
        } else {
            random.clamp(0.0, 1.0)
        };
        let wait = match pace {
            Pace::Slow => self.slow + self.slow.mul_f64(random),
            Pace::Quick => {
                let top = self
                    .floor
                    .saturating_mul(1_u32.checked_shl(history.attempts).unwrap_or(u32::MAX))
                    .min(self.limit(history, now))
                    .max(self.floor);
                self.floor + (top - self.floor).mul_f64(random)
            }
        };
        match asked {
            None => wait,
            // What is asked for is asked of everybody at once: spread it.
            Some(asked) => wait.max(asked.min(LONGEST_ASKED).mul_f64(1.0 + random / 4.0)),
        }
    }

    fn limit(&self, history: &History, now: Duration) -> Duration {
        let trouble = history
            .trouble_since
            .map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let quick = history.healthy || (!history.hung_up && trouble < self.young);
        if quick { self.quick } else { self.cap }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEPS: fn() -> Backoff = Backoff::default;
    const SECOND: Duration = Duration::from_secs(1);

    fn failed(times: u32) -> History {
        (0..times).fold(History::default(), |history, _| {
            history.after(&STEPS(), End::Failed, Duration::ZERO)
        })
    }

    fn longest(history: &History, now: Duration) -> Duration {
        STEPS().wait(history, now, Pace::Quick, None, 1.0)
    }

    #[test]
    fn the_wait_doubles_to_one_second_and_after_five_minutes_to_ten() {
        let longest_ms: Vec<_> = (1..8)
            .map(|times| longest(&failed(times), Duration::ZERO).as_millis())
            .collect();
        assert_eq!(longest_ms, [100, 200, 400, 800, 1000, 1000, 1000]);
        assert_eq!(longest(&failed(400), 299 * SECOND), SECOND);
        assert_eq!(longest(&failed(400), 300 * SECOND), 10 * SECOND);
    }

    #[test]
    fn a_good_session_starts_the_count_anew_and_a_short_one_does_not() {
        let long = End::Lost {
            lasted: 10 * SECOND,
            useful: false,
        };
        let useful = End::Lost {
            lasted: Duration::ZERO,
            useful: true,
        };
        for good in [long, useful] {
            let history = failed(400).after(&STEPS(), good, 1000 * SECOND);
            assert_eq!(longest(&history, 1000 * SECOND), Duration::from_millis(100));
        }
        let short = End::Lost {
            lasted: 9 * SECOND,
            useful: false,
        };
        let history = failed(20).after(&STEPS(), short, SECOND);
        assert_eq!(longest(&history, SECOND), 10 * SECOND);
    }

    #[test]
    fn a_refusal_waits_from_thirty_to_sixty_seconds_from_the_first() {
        let wait = |random| STEPS().wait(&failed(1), Duration::ZERO, Pace::Slow, None, random);
        assert_eq!((wait(0.0), wait(1.0)), (30 * SECOND, 60 * SECOND));
    }

    #[test]
    fn what_the_other_side_asks_for_is_honoured_within_reason() {
        let wait = |asked| STEPS().wait(&failed(1), Duration::ZERO, Pace::Quick, Some(asked), 0.0);
        assert_eq!(wait(20 * SECOND), 20 * SECOND);
        assert_eq!(wait(Duration::MAX), LONGEST_ASKED);
        assert_eq!(wait(Duration::ZERO), Duration::from_millis(50));
    }

    proptest! {
        #[test]
        fn a_wait_is_never_below_the_floor_and_never_above_its_cap(
            ends in proptest::collection::vec((any::<bool>(), 0_u64..20_000, any::<bool>(), 0_u64..400), 0..200),
            random in any::<f64>(),
        ) {
            let steps = STEPS();
            let (mut history, mut now) = (History::default(), Duration::ZERO);
            for (session, lasted, useful, passed) in ends {
                now += Duration::from_secs(passed);
                let end = if session {
                    End::Lost { lasted: Duration::from_millis(lasted), useful }
                } else {
                    End::Failed
                };
                history = history.after(&steps, end, now);
                let quick = steps.wait(&history, now, Pace::Quick, None, random);
                prop_assert!(quick >= steps.floor && quick <= steps.cap);
                let slow = steps.wait(&history, now, Pace::Slow, None, random);
                prop_assert!(slow >= steps.slow && slow <= 2 * steps.slow);
            }
        }

        #[test]
        fn more_attempts_never_shorten_the_longest_wait(times in 1_u32..200, random in 0.0..1.0_f64) {
            let wait = |times| STEPS().wait(&failed(times), Duration::ZERO, Pace::Quick, None, random);
            prop_assert!(wait(times + 1) >= wait(times));
        }
    }
}
