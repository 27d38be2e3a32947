//! What one use of a connector may take: the numbers, and the limiter that holds a store to them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wasmtime::ResourceLimiter;

use crate::interfaces::GuestStats;

/// Default memory of a guest.
pub const MEMORY_BYTES: usize = 64 << 20;
/// Default memory of a guest whose language brings a large one along (Python, StarlingMonkey).
pub const LARGE_MEMORY_BYTES: usize = 128 << 20;
/// A memory that starts with so much is a large one.
pub(super) const LARGE_START_BYTES: usize = 8 << 20;

/// Limits of one use of a connector.
#[derive(Clone, Debug)]
pub struct GuestLimits {
    /// Bytes of all linear memories together. None: 64 MiB, or 128 MiB when the component starts
    /// with more than 8.
    pub memory_bytes: Option<usize>,
    /// Elements of all tables together.
    pub table_elements: usize,
    /// Handles that the guest may hold at once.
    pub handles: usize,
    /// Time on the processor in one call.
    pub cpu_per_call: Duration,
    /// How long one call may take, without the time inside `receive`.
    pub call_deadline: Duration,
    /// Lines a second for the log.
    pub log_lines_per_second: u32,
    /// Bytes that one host call may bring out of the guest.
    pub hostcall_bytes: usize,
    /// Bytes of batches that one guest call may make the host keep.
    pub batch_bytes: usize,
    /// Host calls that one guest call may make.
    pub host_calls: u32,
    /// When an instance is replaced though nothing is wrong.
    pub recycle: Recycle,
}

impl Default for GuestLimits {
    fn default() -> Self {
        Self {
            memory_bytes: None,
            table_elements: 200_000,
            handles: 2_000,
            cpu_per_call: Duration::from_secs(1),
            call_deadline: Duration::from_secs(10),
            log_lines_per_second: 50,
            hostcall_bytes: 32 << 20,
            batch_bytes: 128 << 20,
            host_calls: 100_000,
            recycle: Recycle::default(),
        }
    }
}

/// When an instance is replaced between two calls, though nothing is wrong.
#[derive(Clone, Debug)]
pub struct Recycle {
    /// Percent of the memory limit.
    pub memory_percent: u8,
    /// Calls. None: any number.
    pub calls: Option<u64>,
    /// Age. None: any.
    pub age: Option<Duration>,
    /// Handles of batches of earlier calls that the guest keeps.
    pub stale_batches: usize,
}

impl Default for Recycle {
    fn default() -> Self {
        Self {
            memory_percent: 70,
            calls: None,
            age: None,
            stale_batches: 1_000,
        }
    }
}

/// Holds a store to its limits: one sum over all memories and one over all tables, because a
/// component may have many of each.
#[derive(Debug)]
pub(super) struct Limiter {
    stats: Arc<GuestStats>,
    memory_limit: usize,
    table_limit: usize,
    memory: usize,
    tables: usize,
    /// The growth allowed last, should the system refuse it.
    growing: usize,
    /// What a refused `memory.grow` wanted, for the sentence when the guest gives up over it.
    denied: Option<usize>,
}

impl Limiter {
    pub(super) fn new(limits: &GuestLimits, memory_limit: usize, stats: Arc<GuestStats>) -> Self {
        Self {
            stats,
            memory_limit,
            table_limit: limits.table_elements,
            memory: 0,
            tables: 0,
            growing: 0,
            denied: None,
        }
    }

    /// Bytes of linear memory now.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// What stands in a trap's sentence if memory was the reason.
    pub(super) fn denied(&self) -> Option<String> {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        self.denied.map(|wanted| {
            format!(
                "it wanted {} MiB of memory and may have {}",
                mib(wanted),
                mib(self.memory_limit)
            )
        })
    }

    fn publish(&self) {
        let bytes = self.memory as u64;
        self.stats.memory_bytes.store(bytes, Ordering::Relaxed);
        self.stats
            .memory_peak_bytes
            .fetch_max(bytes, Ordering::Relaxed);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self.memory.saturating_add(desired.saturating_sub(current));
        if wanted > self.memory_limit {
            self.denied = Some(wanted);
            self.stats.denied_grows.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        }
        self.growing = wanted - self.memory;
        self.memory = wanted;
        self.publish();
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory = self
            .memory
            .saturating_sub(std::mem::take(&mut self.growing));
        self.publish();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self.tables.saturating_add(desired.saturating_sub(current));
        if wanted > self.table_limit {
            self.stats.denied_grows.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        }
        self.tables = wanted;
        Ok(true)
    }

    fn instances(&self) -> usize {
        1_000
    }

    fn tables(&self) -> usize {
        100
    }

    fn memories(&self) -> usize {
        16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_are_limited_together_and_a_refusal_is_counted() {
        let stats = Arc::new(GuestStats::default());
        let mut limiter = Limiter::new(&GuestLimits::default(), 10 << 20, Arc::clone(&stats));
        assert!(limiter.memory_growing(0, 6 << 20, None).unwrap());
        assert!(!limiter.memory_growing(0, 6 << 20, None).unwrap());
        assert!(limiter.memory_growing(6 << 20, 10 << 20, None).unwrap());
        assert_eq!(limiter.memory(), 10 << 20);
        assert_eq!(stats.denied_grows.load(Ordering::Relaxed), 1);
        assert_eq!(
            limiter.denied().unwrap(),
            "it wanted 12 MiB of memory and may have 10"
        );
    }
}
