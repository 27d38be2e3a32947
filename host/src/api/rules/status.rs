//! What rules show of themselves: state, counters, the way of a message.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::super::error::ApiError;
use super::super::extract::Path;
use super::super::json::{Json, words};
use super::missing;
use crate::catalog::{Catalog, RuleStatus};

/// Indented, as eKuiper writes it.
fn pretty(value: &Value) -> Response {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

fn status_of(catalog: &Catalog, id: &str) -> Result<RuleStatus, ApiError> {
    let status = catalog.rule_status(id);
    status.ok_or_else(|| missing(id).within("get rule status error"))
}

/// A rule's state and its counters, flat.
#[utoipa::path(
    get, path = "/rules/{id}/status", tag = "rules",
    params(("id" = String, Path, example = "hot")),
    responses(
        (
            status = 200,
            body = ref("#/components/schemas/RuleStatus"),
            description = "eKuiper's names: `source_demo_0_records_in_total` and so on",
        ),
    ),
)]
pub(super) async fn status(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let status = status_of(&catalog, &id)?;
    Ok(pretty(&status.to_json()))
}

/// eKuiper's second form: the same counters as objects by operator.
#[utoipa::path(
    get, path = "/v2/rules/{id}/status", tag = "rules",
    params(("id" = String, Path, example = "hot")),
    responses((status = 200, body = ref("#/components/schemas/RuleStatusV2"))),
)]
pub(super) async fn status_v2(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let status = status_of(&catalog, &id)?;
    let Value::Object(flat) = status.to_json() else {
        return Err(ApiError::internal());
    };
    let mut all = Map::new();
    for (name, value) in flat {
        match by_operator(&name) {
            Some((operator, metric)) => {
                let entry = all.entry(operator).or_insert_with(|| json!({}));
                if let Some(metrics) = entry.as_object_mut() {
                    metrics.insert(metric, value);
                }
            }
            None => {
                all.insert(name, value);
            }
        }
    }
    Ok(pretty(&Value::Object(all)))
}

/// `source_demo_0_records_in_total` to `source_demo_0` and `records_in_total`.
fn by_operator(name: &str) -> Option<(String, String)> {
    let is_operator = ["source_", "op_", "sink_"]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    // The instance is always the first one.
    let (operator, metric) = name.rsplit_once("_0_").filter(|_| is_operator)?;
    Some((format!("{operator}_0"), metric.to_owned()))
}

/// Where one of all rules is.
#[derive(Serialize, ToSchema)]
pub(super) struct RuleState {
    #[schema(example = "running")]
    status: &'static str,
    /// Why, where there is a why.
    last_exception: String,
    /// Failures of its source, its query and its actions since it was started.
    exceptions_total: u64,
}

/// States of all rules, by id.
#[utoipa::path(
    get, path = "/rules/status/all", tag = "rules",
    responses((status = 200, body = BTreeMap<String, RuleState>)),
)]
pub(super) async fn all(State(catalog): State<Catalog>) -> Json<BTreeMap<String, RuleState>> {
    let mut all = BTreeMap::new();
    for rule in catalog.rules() {
        let Some(status) = catalog.rule_status(&rule.id) else {
            continue;
        };
        let operators = status.row.iter().flat_map(|row| &row.operators);
        let total: u64 = operators.map(|operator| operator.exceptions).sum();
        let one = RuleState {
            status: status.status,
            last_exception: status.message,
            exceptions_total: total,
        };
        all.insert(rule.id, one);
    }
    Json(all)
}

/// The way of a message through a rule, from operator to operator.
#[derive(Serialize, ToSchema)]
pub(super) struct Topology {
    /// Where it begins.
    #[schema(example = json!(["source_demo"]))]
    sources: [String; 1],
    /// From each operator to those behind it.
    #[schema(example = json!({"source_demo": ["op_query"], "op_query": ["sink_log_0"]}))]
    edges: BTreeMap<String, Vec<String>>,
}

/// The way of a message through a rule.
#[utoipa::path(
    get, path = "/rules/{id}/topo", tag = "rules",
    params(("id" = String, Path, example = "hot")),
    responses((status = 200, body = Topology)),
)]
pub(super) async fn topology(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
) -> Result<Json<Topology>, ApiError> {
    let way = catalog.rule_topology(&id);
    let (stream, actions) = way.ok_or_else(|| missing(&id).within("get rule topo error"))?;
    let source = format!("source_{stream}");
    let sinks = actions.iter().map(|name| format!("sink_{name}")).collect();
    let query = "op_query".to_owned();
    Ok(Json(Topology {
        sources: [source.clone()],
        edges: BTreeMap::from([(source, vec![query.clone()]), (query, sinks)]),
    }))
}

/// The same as text.
#[utoipa::path(
    get, path = "/rules/{id}/explain", tag = "rules",
    params(("id" = String, Path, example = "hot")),
    responses((status = 200, body = String, content_type = "text/plain")),
)]
pub(super) async fn explain(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (stream, actions) = catalog
        .rule_topology(&id)
        .ok_or_else(|| missing(&id).within("explain rules error"))?;
    let (rule, _) = catalog.rule(&id).ok_or_else(|| missing(&id))?;
    let sql = rule.get("sql").and_then(Value::as_str).unwrap_or_default();
    let mut text = format!("source {stream}\n  query {sql}\n");
    for action in actions {
        text.push_str("    sink ");
        text.push_str(&action);
        text.push('\n');
    }
    Ok(words(StatusCode::OK, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_name_is_its_operator_and_its_metric() {
        let split = |name| by_operator(name);
        assert_eq!(
            split("source_conn1/a_0_b_0_connection_status"),
            Some(("source_conn1/a_0_b_0".into(), "connection_status".into()))
        );
        assert_eq!(
            split("op_query_0_records_in_total"),
            Some(("op_query_0".into(), "records_in_total".into()))
        );
        assert_eq!(split("status"), None);
    }
}
