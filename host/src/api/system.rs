//! What the host says of itself: `/`, `/ping`, `/healthz`, `/readyz`. Changes nothing, touches no
//! network.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::StatusCode;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::time::Instant;
use utoipa::{OpenApi, ToSchema};

use super::auth::{Identity, TENANT};
use super::json::Json;
use crate::snapshot::{Change, Snapshot};

/// What a host that runs lets others see. Reading it never waits.
pub trait View: Send + Sync + fmt::Debug + 'static {
    /// Everything of a tenant at this moment.
    fn snapshot(&self, tenant: &str) -> Snapshot;
    /// Changes of its states from now on.
    fn changes(&self, tenant: &str) -> broadcast::Receiver<Change>;
}

#[derive(OpenApi)]
#[openapi(paths(information, ping, healthz, readyz))]
pub(super) struct Doc;

/// The routes, over this view.
pub fn routes(view: Arc<dyn View>) -> Router {
    Router::new()
        .route("/", get(information).post(information))
        .route("/ping", get(ping))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(System {
            view,
            started: Instant::now(),
            cpu: Arc::default(),
        })
}

#[derive(Clone, Debug)]
struct System {
    view: Arc<dyn View>,
    started: Instant,
    cpu: Arc<Mutex<Cpu>>,
}

/// What the process had used when it was last asked.
#[derive(Debug, Default)]
struct Cpu {
    at: Option<(Instant, f64)>,
    percent: f64,
}

/// The host and its process.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Information {
    /// Of Windlass.
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// As Go names it.
    #[schema(example = "linux")]
    os: &'static str,
    /// As Go names it.
    #[schema(example = "amd64")]
    arch: &'static str,
    /// Since the start.
    up_time_seconds: u64,
    /// Of one core, since this was last asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "1.25%")]
    cpu_usage: Option<String>,
    /// Bytes resident.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "25808896")]
    memory_used: Option<String>,
    /// Bytes of the machine.
    #[schema(example = "8589934592")]
    memory_total: String,
}

/// The host and its process.
#[utoipa::path(
    method(get, post), path = "/", tag = "system",
    security(()),
    responses((status = 200, body = Information)),
)]
async fn information(State(system): State<System>) -> Json<Information> {
    let os = match std::env::consts::OS {
        "macos" => "darwin",
        os => os,
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        arch => arch,
    };
    Json(Information {
        version: env!("CARGO_PKG_VERSION"),
        os,
        arch,
        up_time_seconds: system.started.elapsed().as_secs(),
        cpu_usage: system.cpu_percent().map(|percent| format!("{percent:.2}%")),
        memory_used: kilobytes("/proc/self/status", "VmRSS:").map(|kb| (kb * 1024).to_string()),
        memory_total: (kilobytes("/proc/meminfo", "MemTotal:").unwrap_or(0) * 1024).to_string(),
    })
}

impl System {
    /// Of one core, between this call and the last one that was a second or more ago.
    fn cpu_percent(&self) -> Option<f64> {
        let used = cpu_seconds()?;
        let mut cpu = self.cpu.lock();
        let (since, before) = cpu.at.unwrap_or((self.started, 0.0));
        let seconds = since.elapsed().as_secs_f64();
        if cpu.at.is_none() || seconds >= 1.0 {
            cpu.percent = (used - before).max(0.0) * 100.0 / seconds.max(0.1);
            cpu.at = Some((Instant::now(), used));
        }
        Some(cpu.percent)
    }
}

/// User and system time of this process (proc(5): fields 14 and 15 of `/proc/self/stat`, in ticks of
/// which Linux shows 100 a second on every machine).
pub(super) fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; behind it stands field 3.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

/// The number in a line `Name:  123 kB` of one of the kernel's files.
pub(super) fn kilobytes(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Whether the server answers.
#[utoipa::path(
    get, path = "/ping", tag = "system",
    security(()),
    responses((status = 200, description = "It does; the body is empty")),
)]
async fn ping() -> StatusCode {
    StatusCode::OK
}

/// Whether the process lives: if not, only a restart helps.
#[utoipa::path(
    get, path = "/healthz", tag = "system",
    security(()),
    responses((status = 200, body = String, content_type = "text/plain", example = "ok")),
)]
async fn healthz() -> &'static str {
    "ok"
}

/// Whether everything is up that should be.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Readiness {
    /// It is.
    ready: bool,
    /// How much is not.
    count: usize,
    /// What is not: named connections, and rules that were started. Only for those who may look.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_up: Option<Vec<NotUp>>,
}

/// Something that is not up.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
struct NotUp {
    /// `connection` or `rule`.
    kind: &'static str,
    /// Its id.
    id: String,
    /// What it is instead.
    status: String,
    /// Why, as far as it is known.
    err: String,
}

/// Whether everything is up that should be.
#[utoipa::path(
    get, path = "/readyz", tag = "system",
    security(()),
    responses(
        (status = 200, body = Readiness),
        (status = 503, body = Readiness, description = "Some things are not up"),
    ),
)]
async fn readyz(State(system): State<System>, identity: Option<Extension<Identity>>) -> Response {
    let tenant = identity
        .as_ref()
        .map_or(TENANT, |identity| &identity.tenant);
    let not_up = not_up(&system.view.snapshot(tenant));
    let status = if not_up.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let readiness = Readiness {
        ready: not_up.is_empty(),
        count: not_up.len(),
        not_up: identity.is_some().then_some(not_up),
    };
    (status, Json(readiness)).into_response()
}

fn not_up(snapshot: &Snapshot) -> Vec<NotUp> {
    let connections = snapshot
        .connections
        .iter()
        .filter(|row| row.is_named && row.metric != 1)
        .map(|row| NotUp {
            kind: "connection",
            id: row.id.clone(),
            status: row.status.clone(),
            err: row.err.clone(),
        });
    let rules = snapshot
        .rules
        .iter()
        .filter(|row| matches!(&*row.status, "starting" | "stopped by error"))
        .map(|row| NotUp {
            kind: "rule",
            id: row.id.clone(),
            status: row.status.clone(),
            err: row.message.clone(),
        });
    connections.chain(rules).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{ConnectionRow, RuleRow};

    #[test]
    fn only_what_should_be_up_and_is_not_keeps_a_host_from_being_ready() {
        let connection = |id: &str, is_named, metric| ConnectionRow {
            id: id.into(),
            is_named,
            metric,
            ..ConnectionRow::default()
        };
        let rule = |id: &str, status: &str| RuleRow {
            id: id.into(),
            status: status.into(),
            ..RuleRow::default()
        };
        let snapshot = Snapshot {
            connections: vec![
                connection("up", true, 1),
                connection("lost", true, 0),
                connection("never", true, -1),
                connection("a-rule's", false, -1),
            ],
            rules: vec![
                rule("runs", "running"),
                rule("rests", "stopped"),
                rule("failed", "stopped by error"),
            ],
            ..Snapshot::default()
        };
        let ids: Vec<_> = not_up(&snapshot).into_iter().map(|one| one.id).collect();
        assert_eq!(ids, ["lost", "never", "failed"]);
    }

    #[test]
    fn the_process_knows_what_it_uses() {
        assert!(cpu_seconds().unwrap() >= 0.0);
        assert!(kilobytes("/proc/self/status", "VmRSS:").unwrap() > 1000);
        assert!(kilobytes("/proc/meminfo", "MemTotal:").unwrap() > 100_000);
    }
}
