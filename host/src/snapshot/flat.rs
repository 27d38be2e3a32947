//! The counters of a rule's operators under eKuiper's flat names (`source_demo_0_records_in_total`).

use serde_json::{Map, Value, json};

use super::OperatorRow;

/// eKuiper's names for all of it, and further ones of ours in the same form.
pub(super) fn flat(operators: &[OperatorRow]) -> Map<String, Value> {
    let mut all = Map::new();
    for row in operators {
        for name in std::iter::once(&row.name).chain(&row.aliases) {
            let prefix = format!("{}_{name}_0", row.kind);
            let mut enter = |name: &str, value: Value| {
                all.insert(format!("{prefix}_{name}"), value);
            };
            enter("records_in_total", json!(row.records_in));
            enter("records_out_total", json!(row.records_out));
            let Some(link) = &row.link else {
                enter("exceptions_total", json!(row.exceptions));
                enter("type_errors_total", json!(row.type_errors));
                continue;
            };
            enter("messages_processed_total", json!(row.processed));
            enter("process_latency_us", json!(row.latency_us));
            enter("buffer_length", json!(row.buffered));
            enter("last_invocation", json!(row.last_invocation_ms));
            enter("exceptions_total", json!(row.exceptions));
            enter("last_exception", json!(row.last_exception));
            enter("last_exception_time", json!(row.last_exception_ms));
            enter("connection_status", json!(link.metric));
            // eKuiper's own times are 0 for never.
            let or_never = |time: Option<u64>| json!(time.unwrap_or_default());
            enter(
                "connection_last_connected_time",
                or_never(link.last_connected_ms),
            );
            enter(
                "connection_last_disconnected_time",
                or_never(link.last_disconnected_ms),
            );
            enter("connection_last_disconnected_message", json!(link.err));
            enter("connection_last_try_time", or_never(link.last_try_ms));
            if let Some(settlement) = &row.settlement {
                enter("unsettled_reads", json!(settlement.open_reads));
                enter("oldest_unsettled_ms", json!(settlement.oldest_ms));
            }
            if let (Some(queue), Some(guest)) = (&row.queue, &row.guest) {
                enter("queue_depth", json!(row.buffered));
                enter("oldest_queued_ms", json!(queue.oldest_ms));
                enter("disk_messages", json!(queue.disk_messages));
                enter("disk_bytes", json!(queue.disk_bytes));
                enter("spilled_total", json!(queue.spilled));
                enter("dropped_total", json!(queue.dropped));
                enter("dead_letters_total", json!(queue.dead_letters));
                enter("traps_total", json!(guest.traps));
                enter("overtime_total", json!(guest.overtime));
                enter("instances_total", json!(guest.instances));
                enter("memory_bytes", json!(guest.memory_bytes));
            }
        }
    }
    all
}
