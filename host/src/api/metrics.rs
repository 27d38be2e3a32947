//! `GET /metrics`: everything that the host counts, for Prometheus. eKuiper's names where it has them,
//! so that dashboards stay; `windlass_` for ours. `docs/metrics.md` describes each; a test compares.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use utoipa::OpenApi;

use super::auth::Identity;
use super::error::ApiError;
use super::system::{View, cpu_seconds, kilobytes};
use crate::snapshot::{ConnectionRow, GuestRow, OperatorRow, QueueRow, RuleRow, Snapshot};

/// What Prometheus asks for first.
const OPEN_METRICS: &str = "application/openmetrics-text";

#[derive(OpenApi)]
#[openapi(paths(metrics))]
pub(super) struct Doc;

/// The routes, over this view.
pub fn routes(view: Arc<dyn View>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(Source {
            view,
            started: Instant::now(),
        })
}

#[derive(Clone, Debug)]
struct Source {
    view: Arc<dyn View>,
    started: Instant,
}

/// Everything that the host counts, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "system",
    responses(
        (
            status = 200,
            body = String,
            content_type = "text/plain",
            description = "The text format of Prometheus, or OpenMetrics where that is asked for",
        ),
    ),
)]
async fn metrics(
    State(source): State<Source>,
    identity: Identity,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let open = headers
        .get_all(ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|text| text.contains(OPEN_METRICS)));
    let page = Page {
        snapshot: source.view.snapshot(&identity.tenant),
        up_seconds: source.started.elapsed().as_secs_f64(),
    };
    let (kind, body) = if open {
        (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            page.write(true),
        )
    } else {
        (
            "text/plain; version=0.0.4; charset=utf-8",
            page.write(false),
        )
    };
    let body = body.map_err(|error| {
        tracing::error!(%error, "the metrics cannot be written");
        ApiError::internal()
    })?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(kind))], body).into_response())
}

/// Everything at one moment.
#[derive(Debug)]
struct Page {
    snapshot: Snapshot,
    up_seconds: f64,
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// A family of whole numbers: its name, what it says, and where the number stands in a row.
type Family<R> = (&'static str, &'static str, fn(&R) -> u64);

/// Rows of one kind with their labels.
type Rows<'a, R> = Vec<(Labels<'a>, &'a R)>;

impl Page {
    fn write(self, open: bool) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        if open {
            text::encode(&mut text, &registry)?;
        } else {
            prometheus_text::encode(&mut text, &registry)?;
        }
        Ok(text)
    }
}

impl Collector for Page {
    fn encode(&self, out: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(out);
        self.process(&mut out)?;
        self.connections(&mut out)?;
        self.rules(&mut out)?;
        self.operators(&mut out)?;
        self.settlement(&mut out)?;
        self.queues(&mut out)?;
        self.disk(&mut out)?;
        self.letters(&mut out)?;
        self.guests(&mut out)
    }
}

/// Writes families.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauge<'v, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'v>, V)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// A gauge for each of these families. `begin`: put before their names.
    fn gauges<R>(&mut self, begin: &str, all: &[Family<R>], rows: &Rows<'_, R>) -> fmt::Result {
        for (name, help, value) in all {
            let rows = rows.iter();
            let rows = rows.map(|(labels, row)| (labels.clone(), value(row)));
            self.gauge(&format!("{begin}{name}"), help, rows)?;
        }
        Ok(())
    }

    /// A counter for each of these families. `begin`: put before their names.
    fn counters<R>(&mut self, begin: &str, all: &[Family<R>], rows: &Rows<'_, R>) -> fmt::Result {
        for (name, help, value) in all {
            let rows = rows.iter();
            let rows = rows.map(|(labels, row)| (labels.clone(), value(row)));
            self.counter(&format!("{begin}{name}"), help, rows)?;
        }
        Ok(())
    }

    /// `name` without `_total`, which is written behind it.
    fn counter<'v, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'v>, V)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, V, f64>(&value, None)?;
        }
        Ok(())
    }
}

impl Page {
    fn process(&self, out: &mut Out<'_>) -> fmt::Result {
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        out.gauge(
            "windlass_build_info",
            "1, with the version as label",
            [(version, 1_i64)],
        )?;
        let up = [(Labels::new(), self.up_seconds)];
        out.gauge(
            "windlass_uptime_seconds",
            "Seconds since REST was opened",
            up,
        )?;
        fn bare<V>(value: V) -> (Labels<'static>, V) {
            (Labels::new(), value)
        }
        let cpu = cpu_seconds().map(bare);
        out.counter("process_cpu_seconds", "Seconds on the processor", cpu)?;
        let resident = kilobytes("/proc/self/status", "VmRSS:").map(|kb| bare(kb * 1024));
        out.gauge("process_resident_memory_bytes", "Bytes resident", resident)?;
        let threads = kilobytes("/proc/self/status", "Threads:").map(bare);
        out.gauge("process_threads", "Threads", threads)?;
        let files = std::fs::read_dir("/proc/self/fd")
            .ok()
            .map(|all| bare(all.count() as u64));
        out.gauge(
            "process_open_fds",
            "Open file handles, sockets among them",
            files,
        )
    }

    fn connections(&self, out: &mut Out<'_>) -> fmt::Result {
        let rows = || self.snapshot.connections.iter();
        out.gauge(
            "kuiper_conn_status_gauge",
            "Named connections: 1 connected, 0 connecting, -1 disconnected",
            rows()
                .filter(|row| row.is_named)
                .map(|row| (vec![("name", &*row.id)], i64::from(row.metric))),
        )?;
        out.gauge(
            "windlass_connection_status",
            "All connections: 1 connected, 0 connecting, -1 disconnected",
            rows().map(|row| (connection(row), i64::from(row.metric))),
        )?;
        let at = self.snapshot.at_ms;
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds within a day or so"
        )]
        let seconds = |ms: u64| ms as f64 / 1000.0;
        out.gauge(
            "windlass_connection_state_seconds",
            "How long it has been in this state",
            rows().map(|row| (connection(row), seconds(at.saturating_sub(row.since_ms)))),
        )?;
        out.gauge(
            "windlass_connection_next_attempt_seconds",
            "Back-off: until the next attempt; only while one is waited for",
            rows().filter_map(|row| {
                let next = row.next_attempt_ms?;
                Some((connection(row), seconds(next.saturating_sub(at))))
            }),
        )?;
        out.gauge(
            "windlass_connection_circuit",
            "Circuit breaker: 0 closed, 1 half open, 2 open; only of types that have one",
            rows().filter_map(|row| Some((connection(row), i64::from(row.circuit?)))),
        )?;
        out.counter(
            "windlass_connection_circuit_opened",
            "How often the circuit has opened",
            rows().filter_map(|row| {
                row.circuit?;
                Some((connection(row), row.circuit_opened))
            }),
        )?;
        let rows = rows().map(|row| (connection(row), row)).collect();
        out.gauges("windlass_connection_", CONNECTION_GAUGES, &rows)?;
        out.counters("windlass_connection_", CONNECTION_COUNTERS, &rows)
    }

    fn rules(&self, out: &mut Out<'_>) -> fmt::Result {
        let rules = || self.snapshot.rules.iter();
        let status = |row: &RuleRow| match &*row.status {
            "running" => 1_i64,
            "stopped by error" => -1,
            _ => 0,
        };
        out.gauge(
            "kuiper_rule_status",
            "1 running, 0 stopped, -1 stopped by error",
            rules().map(|row| (vec![("rule", &*row.id)], status(row))),
        )?;
        let running = rules().filter(|row| status(row) == 1).count() as u64;
        let all = self.snapshot.rules.len() as u64;
        out.gauge(
            "kuiper_rule_count",
            "Rules that run, and that do not",
            [
                (vec![("status", "running")], running),
                (vec![("status", "stop")], all.saturating_sub(running)),
            ],
        )
    }

    /// All operators of all rules that were started.
    fn every(&self) -> impl Iterator<Item = (&RuleRow, &OperatorRow)> {
        let rules = self.snapshot.rules.iter();
        rules.flat_map(|rule| rule.operators.iter().map(move |row| (rule, row)))
    }

    /// eKuiper's families, one for each kind of operator.
    fn operators(&self, out: &mut Out<'_>) -> fmt::Result {
        for kind in ["source", "op", "sink"] {
            let of_kind = || self.every().filter(move |(_, row)| row.kind == kind);
            let rows = of_kind().map(|(rule, row)| (operator(rule, row, &row.name), row));
            let (begin, rows) = (format!("kuiper_{kind}_"), rows.collect());
            out.counters(&begin, OPERATOR_COUNTERS, &rows)?;
            out.gauges(&begin, OPERATOR_GAUGES, &rows)?;
            if kind == "op" {
                continue;
            }
            let links = of_kind().flat_map(|(rule, row)| {
                let names = std::iter::once(&row.name).chain(&row.aliases);
                let metric = row.link.as_ref().map(|link| i64::from(link.metric));
                names.filter_map(move |name| Some((operator(rule, row, name), metric?)))
            });
            out.gauge(
                &format!("kuiper_{kind}_connection_status"),
                "1 connected, 0 connecting, -1 disconnected",
                links,
            )?;
        }
        Ok(())
    }

    fn settlement(&self, out: &mut Out<'_>) -> fmt::Result {
        let rows = || {
            self.every().filter_map(|(rule, row)| {
                Some((rule_and_name(rule, row), row.settlement.as_ref()?))
            })
        };
        out.gauge(
            "windlass_unsettled_reads",
            "Reads that are not final: somebody upstream waits, or a checkpoint",
            rows().map(|(labels, settlement)| (labels, settlement.open_reads)),
        )?;
        out.gauge(
            "windlass_oldest_unsettled_seconds",
            "How long the oldest of them has waited; 0: none waits",
            rows().map(|(labels, settlement)| (labels, milliseconds(settlement.oldest_ms))),
        )?;
        let mut family = out.0.encode_descriptor(
            "windlass_settlement_seconds",
            "From read to final: delivered, filtered, dead-lettered or on disk for every action",
            None,
            MetricType::Histogram,
        )?;
        for (labels, settlement) in rows() {
            let count = settlement.times.iter().map(|(_, count)| count).sum();
            #[expect(clippy::cast_precision_loss, reason = "a sum for averages")]
            let sum = settlement.sum_us as f64 / 1e6;
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(sum, count, &settlement.times, None)?;
        }
        Ok(())
    }

    fn disk(&self, out: &mut Out<'_>) -> fmt::Result {
        let disk = &self.snapshot.disk;
        let one = |value: u64| [(Labels::new(), value)];
        out.gauge(
            "windlass_disk_queues_bytes",
            "Bytes of all disk queues together",
            one(disk.used),
        )?;
        out.gauge(
            "windlass_disk_queues_max_bytes",
            "What they may have together",
            one(disk.max),
        )?;
        out.gauge(
            "windlass_disk_free_bytes",
            "Bytes free on their disk",
            disk.free.map(|free| (Labels::new(), free)),
        )?;
        out.gauge(
            "windlass_disk_reserve_bytes",
            "Bytes that they leave free there, for the store",
            one(disk.reserve),
        )
    }

    fn letters(&self, out: &mut Out<'_>) -> fmt::Result {
        let letters = &self.snapshot.letters;
        out.counter(
            "windlass_dead_letters_expired",
            "Dead letters removed for their age",
            [(Labels::new(), letters.expired)],
        )?;
        out.counter(
            "windlass_dead_letters_forwarded",
            "Dead letters forwarded, and removed with that",
            [(Labels::new(), letters.forwarded)],
        )
    }

    fn queues(&self, out: &mut Out<'_>) -> fmt::Result {
        let rows = || {
            self.every()
                .filter_map(|(rule, row)| Some((rule_and_name(rule, row), row.queue.as_ref()?)))
        };
        out.gauge(
            "windlass_queue_oldest_seconds",
            "How long the oldest message in memory has waited for the action; 0: none waits",
            rows().map(|(labels, queue)| (labels, milliseconds(queue.oldest_ms))),
        )?;
        out.gauge(
            "windlass_queue_blocked",
            "1 while upstream waits for the action: its disk queue takes nothing",
            rows().map(|(labels, queue)| (labels, u64::from(queue.blocked.is_some()))),
        )?;
        let rows = rows().collect();
        out.gauges("windlass_queue_", QUEUE_GAUGES, &rows)?;
        out.counters("windlass_", QUEUE_COUNTERS, &rows)
    }

    fn guests(&self, out: &mut Out<'_>) -> fmt::Result {
        let rows = || {
            self.every()
                .filter_map(|(rule, row)| Some((rule_and_name(rule, row), row.guest.as_ref()?)))
        };
        #[expect(clippy::cast_precision_loss, reason = "seconds with their fractions")]
        let seconds = |ns: u64| ns as f64 / 1e9;
        out.counter(
            "windlass_connector_cpu_seconds",
            "Seconds on the processor inside calls",
            rows().map(|(labels, guest)| (labels, seconds(guest.cpu_ns))),
        )?;
        out.counter(
            "windlass_connector_wait_seconds",
            "Seconds that calls have waited: for messages, for the other side",
            rows().map(|(labels, guest)| (labels, seconds(guest.wait_ns))),
        )?;
        let rows = rows().collect();
        out.gauges("windlass_connector_", GUEST_GAUGES, &rows)?;
        out.counters("windlass_connector_", GUEST_COUNTERS, &rows)
    }
}

const CONNECTION_GAUGES: &[Family<ConnectionRow>] = &[
    ("attempts", "Attempts to dial since it was last up", |row| {
        row.attempts
    }),
    ("users", "Rules that use it", |row| row.users.len() as u64),
];

const CONNECTION_COUNTERS: &[Family<ConnectionRow>] = &[
    ("sessions", "How often it came up", |row| row.sessions),
    ("messages_in", "Messages received", |row| row.messages_in),
    (
        "messages_out",
        "Messages that the other side has taken",
        |row| row.messages_out,
    ),
    ("bytes_in", "Bytes of payload received", |row| row.bytes_in),
    ("bytes_out", "Bytes of payload sent", |row| row.bytes_out),
    (
        "untaken",
        "Messages received for which no taker was there",
        |row| row.untaken,
    ),
    (
        "dropped",
        "Messages received and dropped, which promised nothing",
        |row| row.dropped,
    ),
    ("refused", "Messages received and refused", |row| {
        row.refused
    }),
];

const OPERATOR_COUNTERS: &[Family<OperatorRow>] = &[
    ("records_in", "Messages that came in", |row| row.records_in),
    ("records_out", "Messages that went on", |row| {
        row.records_out
    }),
    ("messages_processed", "Messages that are done with", |row| {
        row.processed
    }),
    ("exceptions", "Failures", |row| row.exceptions),
];

const OPERATOR_GAUGES: &[Family<OperatorRow>] = &[
    (
        "process_latency_us",
        "Microseconds from read to settled, of the last read",
        |row| row.latency_us,
    ),
    ("buffer_length", "Messages that wait in memory", |row| {
        row.buffered
    }),
];

const QUEUE_GAUGES: &[Family<QueueRow>] = &[
    ("disk_messages", "Messages on disk", |queue| {
        queue.disk_messages
    }),
    ("disk_bytes", "Bytes on disk", |queue| queue.disk_bytes),
];

const QUEUE_COUNTERS: &[Family<QueueRow>] = &[
    ("queue_spilled", "Messages moved to disk", |queue| {
        queue.spilled
    }),
    (
        "queue_dropped",
        "Messages dropped for want of room",
        |queue| queue.dropped,
    ),
    (
        "queue_expired",
        "Messages on disk dropped because they were too old",
        |queue| queue.expired,
    ),
    (
        "queue_lost",
        "Messages on disk missing because the disk queue was damaged",
        |queue| queue.lost,
    ),
    (
        "queue_set_aside",
        "Files of the disk queue that were no use and got another name",
        |queue| queue.set_aside,
    ),
    (
        "queue_duplicates",
        "Messages left out as duplicates",
        |queue| queue.duplicates,
    ),
    ("dead_letters", "Messages dead-lettered", |queue| {
        queue.dead_letters
    }),
];

const GUEST_GAUGES: &[Family<GuestRow>] = &[(
    "memory_bytes",
    "Memory of the connector's present instance; 0: there is none",
    |guest| guest.memory_bytes,
)];

const GUEST_COUNTERS: &[Family<GuestRow>] = &[
    ("calls", "Calls", |guest| guest.calls),
    ("traps", "Calls that ended in a trap", |guest| guest.traps),
    ("overtime", "Calls that took too long", |guest| {
        guest.overtime
    }),
    ("instances", "Instances made", |guest| guest.instances),
];

/// Our labels of a connection.
fn connection(row: &ConnectionRow) -> Labels<'_> {
    let named = if row.is_named { "true" } else { "false" };
    vec![
        ("connection", &row.id),
        ("type", &row.typ),
        ("named", named),
    ]
}

/// eKuiper's labels of an operator.
fn operator<'a>(rule: &'a RuleRow, row: &'a OperatorRow, name: &'a str) -> Labels<'a> {
    vec![
        ("rule", &rule.id),
        ("type", row.kind),
        ("op", name),
        ("op_instance", "0"),
    ]
}

/// Ours.
fn rule_and_name<'a>(rule: &'a RuleRow, row: &'a OperatorRow) -> Labels<'a> {
    vec![("rule", &rule.id), ("type", row.kind), ("op", &row.name)]
}

#[expect(clippy::cast_precision_loss, reason = "an age")]
fn milliseconds(ms: Option<u64>) -> f64 {
    ms.unwrap_or(0) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::snapshot::{LinkRow, SettlementRow};

    fn page() -> Page {
        let source = OperatorRow {
            kind: "source",
            name: "demo".into(),
            aliases: vec!["plant/a\"b".into()],
            records_in: 7,
            link: Some(LinkRow {
                metric: -1,
                ..LinkRow::default()
            }),
            settlement: Some(SettlementRow {
                open_reads: 2,
                oldest_ms: Some(1500),
                sum_us: 2_500_000,
                times: vec![(0.001, 3), (f64::INFINITY, 1)],
            }),
            guest: Some(GuestRow {
                cpu_ns: 1_500_000_000,
                ..GuestRow::default()
            }),
            ..OperatorRow::default()
        };
        let query = OperatorRow {
            kind: "op",
            name: "query".into(),
            ..OperatorRow::default()
        };
        let sink = OperatorRow {
            kind: "sink",
            name: "mqtt_0".into(),
            link: Some(LinkRow::default()),
            queue: Some(QueueRow {
                disk_bytes: 9,
                blocked: Some("full".into()),
                ..QueueRow::default()
            }),
            guest: Some(GuestRow::default()),
            ..OperatorRow::default()
        };
        let rule = |id: &str, status: &str, operators| RuleRow {
            id: id.into(),
            status: status.into(),
            operators,
            ..RuleRow::default()
        };
        Page {
            snapshot: Snapshot {
                at_ms: 10_000,
                connections: vec![ConnectionRow {
                    id: "plant".into(),
                    typ: "mqtt".into(),
                    is_named: true,
                    metric: -1,
                    next_attempt_ms: Some(12_500),
                    messages_in: 5,
                    circuit: Some(2),
                    circuit_opened: 3,
                    ..ConnectionRow::default()
                }],
                rules: vec![
                    rule("hot", "running", vec![source, query, sink]),
                    rule("failed", "stopped by error", Vec::new()),
                    rule("rests", "stopped", Vec::new()),
                ],
                ..Snapshot::default()
            },
            up_seconds: 3.5,
        }
    }

    #[test]
    fn what_dashboards_of_ekuiper_look_for_stands_there() {
        let text = page().write(false).unwrap();
        for line in [
            r#"kuiper_conn_status_gauge{name="plant"} -1"#,
            r#"kuiper_source_connection_status{rule="hot",type="source",op="demo",op_instance="0"} -1"#,
            r#"kuiper_source_connection_status{rule="hot",type="source",op="plant/a\"b",op_instance="0"} -1"#,
            r#"kuiper_source_records_in_total{rule="hot",type="source",op="demo",op_instance="0"} 7"#,
            r#"kuiper_op_exceptions_total{rule="hot",type="op",op="query",op_instance="0"} 0"#,
            r#"kuiper_sink_buffer_length{rule="hot",type="sink",op="mqtt_0",op_instance="0"} 0"#,
            r#"kuiper_rule_status{rule="hot"} 1"#,
            r#"kuiper_rule_status{rule="failed"} -1"#,
            r#"kuiper_rule_count{status="stop"} 2"#,
            r#"windlass_connection_messages_in_total{connection="plant",type="mqtt",named="true"} 5"#,
            r#"windlass_connection_next_attempt_seconds{connection="plant",type="mqtt",named="true"} 2.5"#,
            r#"windlass_connection_circuit{connection="plant",type="mqtt",named="true"} 2"#,
            r#"windlass_connection_circuit_opened_total{connection="plant",type="mqtt",named="true"} 3"#,
            r#"windlass_oldest_unsettled_seconds{rule="hot",type="source",op="demo"} 1.5"#,
            r#"windlass_settlement_seconds_sum{rule="hot",type="source",op="demo"} 2.5"#,
            r#"windlass_settlement_seconds_count{rule="hot",type="source",op="demo"} 4"#,
            r#"windlass_queue_blocked{rule="hot",type="sink",op="mqtt_0"} 1"#,
            r#"windlass_connector_cpu_seconds_total{rule="hot",type="source",op="demo"} 1.5"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains(r#"le="+Inf"} 4"#), "{text}");
        let open = page().write(true).unwrap();
        assert!(
            open.ends_with("# EOF\n") && open.contains("kuiper_rule_status"),
            "{open}"
        );
    }

    #[test]
    fn every_metric_is_in_the_manual_and_nothing_else_is() {
        let manual = include_str!("../../../docs/metrics.md");
        let written = page().write(false).unwrap();
        let found: BTreeSet<&str> = written
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let described: BTreeSet<&str> = manual
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
            .collect();
        assert_eq!(described, found);
    }
}
