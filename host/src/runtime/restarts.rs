//! How soon an instance may be made again after one has failed.

use std::time::Duration;

use tokio::time::Instant;

/// So many failures are forgiven at once: a poison message is found by bisecting, and each step of
/// that may cost an instance.
const FREE: u32 = 30;
const FLOOR: Duration = Duration::from_millis(50);
const CAP: Duration = Duration::from_secs(5);
/// After so long without a failure all are forgotten.
const HEALTHY: Duration = Duration::from_secs(60);

/// The failures of one use of a connector.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    failures: u32,
    last: Option<Instant>,
    not_before: Option<Instant>,
}

impl Restarts {
    /// An instance has failed. `random` is between 0 and 1.
    pub(super) fn failed(&mut self, now: Instant, random: f64) {
        if self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) >= HEALTHY)
        {
            self.failures = 0;
        }
        self.last = Some(now);
        self.failures = self.failures.saturating_add(1);
        self.not_before = self.failures.checked_sub(FREE + 1).map(|over| {
            let span = FLOOR.saturating_mul(1 << over.min(16)).min(CAP);
            now + FLOOR + span.saturating_sub(FLOOR).mul_f64(random.clamp(0.0, 1.0))
        });
    }

    /// Waits until the next instance may be made. No timer when it may be made now: the shortest
    /// one takes a millisecond.
    pub(super) async fn pause(&self) {
        let wait = self.wait(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// How long to wait before the next instance.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.not_before
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failures_cost_no_wait_and_a_loop_of_them_does() {
        let (mut restarts, mut now) = (Restarts::default(), Instant::now());
        for _ in 0..FREE {
            restarts.failed(now, 1.0);
            assert_eq!(restarts.wait(now), Duration::ZERO);
        }
        let mut waits = Vec::new();
        for _ in 0..10 {
            restarts.failed(now, 1.0);
            waits.push(restarts.wait(now));
            now += restarts.wait(now);
        }
        assert_eq!(waits[0], FLOOR);
        assert_eq!(waits[1], FLOOR * 2);
        assert_eq!(waits[9], CAP);
    }

    #[test]
    fn a_minute_of_health_forgets_all_failures() {
        let (mut restarts, now) = (Restarts::default(), Instant::now());
        for _ in 0..100 {
            restarts.failed(now, 0.5);
        }
        assert!(restarts.wait(now) >= FLOOR);
        let later = now + CAP + HEALTHY;
        restarts.failed(later, 0.5);
        assert_eq!(restarts.wait(later), Duration::ZERO);
    }
}
