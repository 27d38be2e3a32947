//! Rules: a stream's source, a query over it, actions. The way of a message through the host.
//!
//! `source` reads batches from a sandboxed source, unpacks what comes compressed (`decompress`), and
//! hands each to every rule of its stream;
//! `query` selects; `output` shapes what an action sends; `action` queues and writes through a
//! sandboxed sink; `deliver` retries (`retry` says how long), bisects and dead-letters; `spill` is the disk queue that a slow
//! action goes to; `forward` hands dead letters on; `settle` acknowledges upstream when all of that is final. Five points stand fixed
//! where a batch can be looked at: read, after the query, before the queue, before write, settled.
//!
//! May use `runtime` (guests), `connections` (leases, status) and `store`; knows nothing of REST or
//! of the command line.

pub mod action;
pub mod decompress;
pub mod deliver;
pub mod duplicates;
pub mod engine;
pub mod fan;
pub mod forward;
pub mod inherited;
pub mod letters;
pub mod message_id;
pub mod metrics;
pub mod output;
pub mod plan;
pub mod query;
pub mod queue;
pub mod resend;
pub mod retry;
pub mod settle;
pub mod sink;
pub mod source;
pub mod spill;

/// Milliseconds since the Unix epoch; 0 when the clock stands before it.
#[must_use]
pub fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}
