//! What is counted of one use of a connector. Read by metrics and status at any time.

use std::sync::atomic::AtomicU64;

/// Counters of one guest, over all its instances.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct GuestStats {
    /// Guest calls made (`open`, `read`, `write`, `close`).
    pub calls: AtomicU64,
    /// Calls that ended in a trap.
    pub traps: AtomicU64,
    /// Calls ended because they took too long: CPU, deadline, ignored wakes.
    pub overtime: AtomicU64,
    /// Instances made.
    pub instances: AtomicU64,
    /// Instances replaced at the memory watermark.
    pub recycled_memory: AtomicU64,
    /// Instances replaced after so many calls.
    pub recycled_calls: AtomicU64,
    /// Instances replaced because of their age.
    pub recycled_age: AtomicU64,
    /// Instances replaced because they kept too many handles of old batches.
    pub recycled_handles: AtomicU64,
    /// Bytes of linear memory of the present instance, 0 for none.
    pub memory_bytes: AtomicU64,
    /// The most there ever was.
    pub memory_peak_bytes: AtomicU64,
    /// `memory.grow` and `table.grow` that were refused.
    pub denied_grows: AtomicU64,
    /// Nanoseconds on the processor inside calls.
    pub cpu_ns: AtomicU64,
    /// Nanoseconds that calls waited: for messages, for the other side, for their turn.
    pub wait_ns: AtomicU64,
    /// Log lines dropped because there were too many.
    pub log_dropped: AtomicU64,
}
