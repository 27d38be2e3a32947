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

    /// Waits for this request's turn.
    ///
    /// # Cancel safety
    /// The turn is lost.
    pub(super) async fn turn(&self) {
        let at = {
            let mut next = self.next.lock();
            let at = (*next).max(Instant::now());
            *next = at + self.spacing;
            at
        };
        sleep_until(at).await;
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
        for _ in 0..11 {
            pace.turn().await;
        }
        assert_eq!(begin.elapsed(), Duration::from_secs(11));
    }
}
