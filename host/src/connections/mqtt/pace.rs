//! How a link reads while a broker floods it. Brokers write packet by packet, and a wake-up for each
//! costs more than everything that is done with it. So where reads follow each other closer than any
//! latency that could be kept, the link waits a moment and takes many packets at once, as network
//! cards do with interrupts. Below that rate it never waits.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// This many reads within [`SPAN`] are a flood: 16 000 a second and more.
const READS: u32 = 16;
const SPAN: Duration = Duration::from_millis(1);
/// The timer's own resolution: it wakes one to two milliseconds later.
const PAUSE: Duration = Duration::from_micros(500);
/// A pause that brings fewer packets than this was for nothing: the broker's window is small and it
/// waits for us. Then there is none for a number of reads.
const WORTH: usize = 12;
const EXEMPT: u32 = 1024;

/// Decides when a link pauses between reads.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    reads: u32,
    exempt: u32,
    /// A pause is due before the next read.
    due: bool,
    pausing: bool,
    /// The next read is the first after a pause.
    after: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            reads: 0,
            exempt: 0,
            due: false,
            pausing: false,
            after: false,
            timer: None,
        }
    }

    /// A read brought this many packets.
    pub(super) fn read(&mut self, now: Instant, packets: usize) {
        if std::mem::take(&mut self.after) {
            if packets < WORTH {
                self.exempt = EXEMPT;
            } else {
                self.due = true;
            }
        }
        if self.exempt > 0 {
            self.exempt -= 1;
            return;
        }
        self.reads += 1;
        if self.reads >= READS {
            self.due |= now.duration_since(self.since) < SPAN;
            self.reads = 0;
            self.since = now;
        }
    }

    /// Starts the pause that is due, if one is: what is to be written has been.
    pub(super) fn begin_pause(&mut self, cx: &mut Context<'_>) -> bool {
        if !std::mem::take(&mut self.due) {
            return false;
        }
        let until = Instant::now() + PAUSE;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(until),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(until))),
        }
        self.pausing = true;
        self.poll_pause(cx).is_pending()
    }

    /// Pending during a pause.
    pub(super) fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.pausing {
            return Poll::Ready(());
        }
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        self.pausing = false;
        self.after = true;
        self.reads = 0;
        self.since = Instant::now();
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_flood_is_slowed_and_not_where_it_brings_nothing() {
        let mut pace = Pace::new(Instant::now());
        for _ in 0..1000 {
            tokio::time::advance(Duration::from_micros(100)).await;
            pace.read(Instant::now(), 1);
            assert!(!pace.due, "ten reads in a millisecond are no flood");
        }
        for _ in 0..READS * 2 {
            pace.read(Instant::now(), 1);
        }
        assert!(pace.due);
        std::future::poll_fn(|cx| {
            if pace.due {
                assert!(pace.begin_pause(cx));
            }
            pace.poll_pause(cx)
        })
        .await;
        pace.read(Instant::now(), 3);
        for _ in 0..READS * 10 {
            pace.read(Instant::now(), 1);
        }
        assert!(!pace.due, "the broker's window is small");
    }
}
