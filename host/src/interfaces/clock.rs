//! What one guest call has used: time on the processor, and time that counts towards its deadline.
//!
//! Written by the thread that polls the call, read by whoever watches it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The clock of one instance. Times are nanoseconds since the instance was made.
#[derive(Debug)]
pub struct CallClock {
    base: Instant,
    call_started: AtomicU64,
    poll_started: AtomicU64,
    poll_ended: AtomicU64,
    /// Spent in polls of this call that have ended.
    busy: AtomicU64,
    /// Epoch ticks seen inside the guest in this call.
    ticks: AtomicU64,
    /// Spent inside `receive` in this call.
    received: AtomicU64,
    receiving: AtomicBool,
    receive_started: AtomicU64,
}

impl Default for CallClock {
    fn default() -> Self {
        Self {
            base: Instant::now(),
            call_started: AtomicU64::new(0),
            poll_started: AtomicU64::new(0),
            poll_ended: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            received: AtomicU64::new(0),
            receiving: AtomicBool::new(false),
            receive_started: AtomicU64::new(0),
        }
    }
}

impl CallClock {
    fn since_base(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX)
    }

    /// A call starts: everything is counted from zero.
    pub fn start_call(&self, now: Instant) {
        self.call_started
            .store(self.since_base(now), Ordering::Relaxed);
        for counter in [&self.busy, &self.ticks, &self.received] {
            counter.store(0, Ordering::Relaxed);
        }
        self.receiving.store(false, Ordering::Relaxed);
    }

    /// The guest goes on.
    pub fn start_poll(&self, now: Instant) {
        self.poll_started
            .store(self.since_base(now), Ordering::Relaxed);
    }

    /// The guest waits, or has returned.
    pub fn end_poll(&self, now: Instant) {
        let now = self.since_base(now);
        let spent = now.saturating_sub(self.poll_started.load(Ordering::Relaxed));
        let busy = self.busy.load(Ordering::Relaxed);
        self.busy
            .store(busy.saturating_add(spent), Ordering::Relaxed);
        self.poll_ended.store(now, Ordering::Relaxed);
    }

    /// An epoch tick inside the guest: how many there were in this call, and the time on the
    /// processor so far.
    pub fn tick(&self) -> (u64, Duration) {
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        let now = self.since_base(Instant::now());
        let poll = now.saturating_sub(self.poll_started.load(Ordering::Relaxed));
        (
            ticks,
            Duration::from_nanos(self.busy.load(Ordering::Relaxed).saturating_add(poll)),
        )
    }

    /// Epoch ticks seen inside the guest in this call.
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Nanoseconds of the call that has ended: on the processor, and waiting.
    pub fn used(&self) -> (u64, u64) {
        let busy = self.busy.load(Ordering::Relaxed);
        let passed = self
            .poll_ended
            .load(Ordering::Relaxed)
            .saturating_sub(self.call_started.load(Ordering::Relaxed));
        (busy, passed.saturating_sub(busy))
    }

    /// Since the call started, without the time inside `receive`.
    pub fn counted(&self, now: Instant) -> Duration {
        let now = self.since_base(now);
        let mut excluded = self.received.load(Ordering::Relaxed);
        if self.receiving.load(Ordering::Relaxed) {
            excluded += now.saturating_sub(self.receive_started.load(Ordering::Relaxed));
        }
        let passed = now.saturating_sub(self.call_started.load(Ordering::Relaxed));
        Duration::from_nanos(passed.saturating_sub(excluded))
    }

    /// `receive` begins to wait. Time stops counting until the guard is dropped.
    pub(super) fn receiving(&self) -> Receiving<'_> {
        self.receive_started
            .store(self.since_base(Instant::now()), Ordering::Relaxed);
        self.receiving.store(true, Ordering::Relaxed);
        Receiving(self)
    }
}

pub(super) struct Receiving<'a>(&'a CallClock);

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        let clock = self.0;
        clock.receiving.store(false, Ordering::Relaxed);
        let now = clock.since_base(Instant::now());
        let spent = now.saturating_sub(clock.receive_started.load(Ordering::Relaxed));
        clock.received.fetch_add(spent, Ordering::Relaxed);
    }
}
