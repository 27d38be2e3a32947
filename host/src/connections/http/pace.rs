//! No more than so many requests in a second, evenly spaced. Sends nothing.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    spacing: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    /// A request each `spacing`.
    pub(super) fn new(spacing: Duration) -> Self {
        Self {
            spacing,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits for this request's turn. False: it comes after `latest`, and is left to another request.
    ///
    /// # Cancel safety
    /// The turn is lost.
    pub(super) async fn turn(&self, latest: Instant) -> bool {
        let at = {
            let mut next = self.next.lock();
            let at = (*next).max(Instant::now());
            if at > latest {
                return false;
            }
            *next = at + self.spacing;
            at
        };
        sleep_until(at).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_are_spaced_and_a_pause_saves_none_up() {
        let pace = Pace::new(Duration::from_millis(100));
        let begin = Instant::now();
        tokio::time::advance(Duration::from_secs(10)).await;
        let far = begin + Duration::from_secs(100);
        for _ in 0..11 {
            assert!(pace.turn(far).await);
        }
        assert_eq!(begin.elapsed(), Duration::from_secs(11));
        let soon = Instant::now() + Duration::from_millis(50);
        assert!(!pace.turn(soon).await, "its turn is in 100 ms");
        assert!(pace.turn(far).await);
        assert_eq!(
            begin.elapsed(),
            Duration::from_millis(11_100),
            "nobody took it"
        );
    }
}
