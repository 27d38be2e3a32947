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
/// A pause that brings fewer packets than this was for nothing: there was a burst and no flood, or the
/// broker's window is small and it waits for us. Then there is none for a number of reads, so that what
/// comes alone after a burst is not kept waiting again.
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
    /// When the pause began; until what it brought has been read.
    paused: Option<Instant>,
    brought: usize,
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
            paused: None,
            brought: 0,
            timer: None,
        }
    }

    /// A read brought this many packets. `full`: it had no room for more.
    pub(super) fn read(&mut self, now: Instant, packets: usize, full: bool) {
        if let Some(paused) = self.paused {
            self.brought += packets;
            if full {
                return;
            }
            self.paused = None;
            let brought = std::mem::take(&mut self.brought);
            if brought < WORTH {
                self.exempt = EXEMPT;
            } else {
                self.due = is_flood(brought, now.duration_since(paused));
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
        let now = Instant::now();
        let until = now + PAUSE;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(until),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(until))),
        }
        self.pausing = true;
        self.paused = Some(now);
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
        self.reads = 0;
        self.since = Instant::now();
        Poll::Ready(())
    }
}

/// Each packet a read of its own, these would have been a flood.
fn is_flood(packets: usize, within: Duration) -> bool {
    SPAN.saturating_mul(u32::try_from(packets).unwrap_or(u32::MAX)) > within.saturating_mul(READS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds single messages at a steady rate and gives how many pauses there were.
    async fn pauses(pace: &mut Pace, reads: u32, apart: Duration) -> u32 {
        let mut pauses = 0;
        let mut left = reads;
        while left > 0 {
            tokio::time::advance(apart).await;
            pace.read(Instant::now(), 1, false);
            left -= 1;
            let before = Instant::now();
            if pace.due {
                pauses += 1;
                std::future::poll_fn(|cx| {
                    if pace.due && !pace.begin_pause(cx) {
                        return Poll::Ready(());
                    }
                    pace.poll_pause(cx)
                })
                .await;
                // What came meanwhile is read at once.
                let came = before.elapsed().as_nanos() / apart.as_nanos().max(1);
                let came = u32::try_from(came).unwrap_or(u32::MAX).min(left);
                pace.read(Instant::now(), came as usize, false);
                left -= came;
            }
        }
        pauses
    }

    #[tokio::test(start_paused = true)]
    async fn below_sixteen_thousand_reads_a_second_nothing_waits() {
        for per_second in [1, 100, 2_000, 10_000, 15_000] {
            let mut pace = Pace::new(Instant::now());
            let apart = Duration::from_secs(1) / per_second;
            assert_eq!(pauses(&mut pace, 5_000, apart).await, 0, "{per_second}/s");
        }
        let mut pace = Pace::new(Instant::now());
        let apart = Duration::from_secs(1) / 50_000;
        assert!(pauses(&mut pace, 5_000, apart).await > 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_kept_waiting_once_and_what_comes_alone_after_it_never() {
        let mut pace = Pace::new(Instant::now());
        let burst = pauses(&mut pace, READS * 2, Duration::from_micros(20)).await;
        assert_eq!(burst, 1);
        // One message each half millisecond, ten thousand of them.
        let apart = Duration::from_micros(500);
        assert_eq!(pauses(&mut pace, 10_000, apart).await, 0);
        // A burst that a rate of ten thousand a second follows does not make it a flood either.
        let mut pace = Pace::new(Instant::now());
        let burst = pauses(&mut pace, READS * 2, Duration::from_micros(20)).await;
        let after = pauses(&mut pace, 10_000, Duration::from_micros(100)).await;
        assert!(burst == 1 && after <= 1, "{after}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_pause_brought_counts_also_where_it_takes_several_reads() {
        for (reads, floods) in [(3, false), (8, true)] {
            let mut pace = Pace::new(Instant::now());
            for _ in 0..READS * 2 {
                pace.read(Instant::now(), 1, false);
            }
            std::future::poll_fn(|cx| {
                if pace.due && !pace.begin_pause(cx) {
                    return Poll::Ready(());
                }
                pace.poll_pause(cx)
            })
            .await;
            for _ in 0..reads {
                pace.read(Instant::now(), 4, true);
                assert!(!pace.due);
            }
            pace.read(Instant::now(), 1, false);
            assert_eq!(pace.due, floods, "{reads} full reads");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_flood_is_slowed_and_not_where_it_brings_nothing() {
        let mut pace = Pace::new(Instant::now());
        for _ in 0..1000 {
            tokio::time::advance(Duration::from_micros(100)).await;
            pace.read(Instant::now(), 1, false);
            assert!(!pace.due, "ten reads in a millisecond are no flood");
        }
        for _ in 0..READS * 2 {
            pace.read(Instant::now(), 1, false);
        }
        assert!(pace.due);
        std::future::poll_fn(|cx| {
            if pace.due {
                assert!(pace.begin_pause(cx));
            }
            pace.poll_pause(cx)
        })
        .await;
        pace.read(Instant::now(), 3, false);
        for _ in 0..READS * 10 {
            pace.read(Instant::now(), 1, false);
        }
        assert!(!pace.due, "the broker's window is small");
    }
}
