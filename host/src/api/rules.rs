//! `/rules`: definitions, life, status.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, OpenApi, ToSchema};

use super::error::{ApiError, Code, Envelope};
use super::etag::{Conditions, etag};
use super::extract::{Path, Query};
use super::json::{Json, Raw, RawJson, words};
use super::refused::{conditional, refused, refused_change};
use crate::catalog::{Catalog, CatalogError};

#[derive(OpenApi)]
#[openapi(paths(
    list,
    create,
    validate,
    show,
    replace,
    remove,
    start,
    stop,
    restart,
    status,
    status_v2,
    all_statuses,
    topology,
    explain,
    reset_state,
    set_tags,
    add_tags,
    remove_tags,
    tagged,
    bulk_start,
    bulk_stop
))]
pub(super) struct Doc;

/// The routes, over this catalog.
pub fn routes(catalog: Catalog) -> Router {
    Router::new()
        .route("/rules", get(list).post(create))
        .route("/rules/validate", post(validate))
        .route("/rules/status/all", get(all_statuses))
        .route("/rules/tags/match", get(tagged))
        .route("/rules/bulkstart", post(bulk_start))
        .route("/rules/bulkstop", post(bulk_stop))
        .route("/rules/{id}", get(show).put(replace).delete(remove))
        .route("/rules/{id}/start", post(start))
        .route("/rules/{id}/stop", post(stop))
        .route("/rules/{id}/restart", post(restart))
        .route("/rules/{id}/status", get(status))
        .route("/v2/rules/{id}/status", get(status_v2))
        .route("/rules/{id}/topo", get(topology))
        .route("/rules/{id}/explain", get(explain))
        .route("/rules/{id}/reset_state", put(reset_state))
        .route(
            "/rules/{id}/tags",
            put(set_tags).patch(add_tags).delete(remove_tags),
        )
        .with_state(catalog)
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(format!("Rule {id} is not found."))
}

fn wrong(error: CatalogError) -> ApiError {
    refused(error, Code::Rule)
}

/// All rules with their status, by id.
#[utoipa::path(
    get, path = "/rules", tag = "rules",
    responses(
        (status = 200, body = Vec<Object>, description = "id, name, status, version, trace, tags"),
    ),
)]
async fn list(State(catalog): State<Catalog>) -> Response {
    let rules = catalog.rules().into_iter();
    let list: Vec<Value> = rules
        .map(|rule| {
            json!({
                "id": rule.id,
                "name": rule.name,
                "status": rule.status,
                "version": rule.version,
                "trace": false,
                "tags": rule.tags,
            })
        })
        .collect();
    Json(list).into_response()
}

/// Makes a rule, and starts it unless it says `triggered: false`.
#[utoipa::path(
    post, path = "/rules", tag = "rules",
    request_body = Object,
    responses(
        (
            status = 201,
            body = String,
            content_type = "text/plain",
            example = "Rule hot was created successfully.",
        ),
    ),
)]
async fn create(
    State(catalog): State<Catalog>,
    RawJson { value, .. }: RawJson,
) -> Result<Response, ApiError> {
    let id = catalog
        .create_rule(value)
        .await
        .map_err(|error| wrong(error).within("Create rule error"))?;
    let text = format!("Rule {id} was created successfully.");
    Ok(words(StatusCode::CREATED, text))
}

/// Whether a rule could be made.
#[utoipa::path(
    post, path = "/rules/validate", tag = "rules",
    request_body = Object,
    responses(
        (status = 200, body = Object, description = "sources, valid, warnings"),
        (status = 422, body = String, content_type = "text/plain", description = "Why not"),
    ),
)]
async fn validate(State(catalog): State<Catalog>, RawJson { value, .. }: RawJson) -> Response {
    match catalog.validate_rule(value).await {
        Ok((stream, warnings)) => {
            let mut answer = json!({ "sources": [stream], "valid": true });
            if !warnings.is_empty()
                && let Some(fields) = answer.as_object_mut()
            {
                fields.insert("warnings".to_owned(), json!(warnings));
            }
            Json(answer).into_response()
        }
        Err(error) => words(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
    }
}

/// One rule, as it was given.
#[utoipa::path(
    get, path = "/rules/{id}", tag = "rules",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = Object, description = "Secrets are masked"),
        (status = 304, description = "As the client has it"),
    ),
)]
async fn show(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    let (rule, revision) = catalog.rule(&id).ok_or_else(|| missing(&id))?;
    if conditions.has(revision) {
        return Ok((StatusCode::NOT_MODIFIED, [etag(revision)]).into_response());
    }
    Ok(([etag(revision)], Json(rule)).into_response())
}

/// Changes a rule, or makes it.
#[utoipa::path(
    put, path = "/rules/{id}", tag = "rules",
    params(("id" = String, Path)),
    request_body = Object,
    responses(
        (
            status = 200,
            body = String,
            content_type = "text/plain",
            example = "Rule hot was updated successfully.",
        ),
        (status = 412, body = Envelope, description = "It was changed since"),
    ),
)]
async fn replace(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
    conditions: Conditions,
    RawJson { value, .. }: RawJson,
) -> Result<Response, ApiError> {
    let may = conditional(&conditions);
    catalog
        .replace_rule(&id, value, &may)
        .await
        .map_err(|error| refused_change(error, &conditions, Code::Rule, "Update rule error"))?;
    let text = format!("Rule {id} was updated successfully.");
    Ok(words(StatusCode::OK, text))
}

/// Deletes a rule with its queues.
#[utoipa::path(
    delete, path = "/rules/{id}", tag = "rules",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = String, content_type = "text/plain", example = "Rule hot is dropped."),
        (status = 412, body = Envelope, description = "It was changed since"),
    ),
)]
async fn remove(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    let may = conditional(&conditions);
    catalog
        .delete_rule(&id, &may)
        .await
        .map_err(|error| refused_change(error, &conditions, Code::Rule, "Delete rule error"))?;
    Ok(words(StatusCode::OK, format!("Rule {id} is dropped.")))
}

/// Starts a rule.
#[utoipa::path(
    post, path = "/rules/{id}/start", tag = "rules",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = String, content_type = "text/plain", example = "Rule hot was started"),
    ),
)]
async fn start(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    catalog.start_rule(&id).await.map_err(wrong)?;
    Ok(words(StatusCode::OK, format!("Rule {id} was started")))
}

/// Stops a rule.
#[utoipa::path(
    post, path = "/rules/{id}/stop", tag = "rules",
    params(("id" = String, Path)),
    responses(
        (
            status = 200,
            body = String,
            content_type = "text/plain",
            example = "Rule hot was stopped.",
        ),
    ),
)]
async fn stop(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    catalog.stop_rule(&id).await.map_err(wrong)?;
    Ok(words(StatusCode::OK, format!("Rule {id} was stopped.")))
}

/// Stops a rule and starts it.
#[utoipa::path(
    post, path = "/rules/{id}/restart", tag = "rules",
    params(("id" = String, Path)),
    responses(
        (
            status = 200,
            body = String,
            content_type = "text/plain",
            example = "Rule hot was restarted",
        ),
    ),
)]
async fn restart(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    catalog.restart_rule(&id).await.map_err(wrong)?;
    Ok(words(StatusCode::OK, format!("Rule {id} was restarted")))
}

/// Indented, as eKuiper writes it.
fn pretty(value: &Value) -> Response {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// A rule's state and its counters, flat.
#[utoipa::path(
    get, path = "/rules/{id}/status", tag = "rules",
    params(("id" = String, Path)),
    responses(
        (
            status = 200,
            body = Object,
            description = "eKuiper's names: `source_demo_0_records_in_total` and so on",
        ),
    ),
)]
async fn status(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let status = catalog.rule_status(&id).ok_or_else(|| missing(&id))?;
    Ok(pretty(&status.to_json()))
}

/// eKuiper's second form: the same counters as objects by operator.
#[utoipa::path(
    get, path = "/v2/rules/{id}/status", tag = "rules",
    params(("id" = String, Path)),
    responses((status = 200, body = Object)),
)]
async fn status_v2(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let status = catalog.rule_status(&id).ok_or_else(|| missing(&id))?;
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

/// States of all rules, by id.
#[utoipa::path(
    get, path = "/rules/status/all", tag = "rules",
    responses((status = 200, body = Object)),
)]
async fn all_statuses(State(catalog): State<Catalog>) -> Response {
    let mut all = Map::new();
    for rule in catalog.rules() {
        let Some(status) = catalog.rule_status(&rule.id) else {
            continue;
        };
        let operators = status.row.iter().flat_map(|row| &row.operators);
        let total: u64 = operators.map(|operator| operator.exceptions).sum();
        let one = json!({
            "status": status.status,
            "last_exception": status.message,
            "exceptions_total": total,
        });
        all.insert(rule.id, one);
    }
    Json(all).into_response()
}

/// The way of a message through a rule.
#[utoipa::path(
    get, path = "/rules/{id}/topo", tag = "rules",
    params(("id" = String, Path)),
    responses((status = 200, body = Object, description = "sources, edges")),
)]
async fn topology(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (stream, actions) = catalog.rule_topology(&id).ok_or_else(|| missing(&id))?;
    let source = format!("source_{stream}");
    let sinks: Vec<_> = actions.iter().map(|name| format!("sink_{name}")).collect();
    Ok(Json(json!({
        "sources": [source],
        "edges": { source: ["op_query"], "op_query": sinks },
    }))
    .into_response())
}

/// The same as text.
#[utoipa::path(
    get, path = "/rules/{id}/explain", tag = "rules",
    params(("id" = String, Path)),
    responses((status = 200, body = String, content_type = "text/plain")),
)]
async fn explain(
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

/// Sets where a source goes on.
#[utoipa::path(
    put, path = "/rules/{id}/reset_state", tag = "rules",
    params(("id" = String, Path)),
    request_body = Object,
    responses((status = 200, body = String, content_type = "text/plain", example = "success")),
)]
async fn reset_state(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
    RawJson { value, .. }: RawJson,
) -> Result<Response, ApiError> {
    let kind = value
        .get("type")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    if kind != 1 {
        let words = format!("unknown stateType:{kind}");
        return Err(ApiError::bad_request(Code::Undefined, words));
    }
    let params = value.get("params");
    let param = |name: &str| params.and_then(|params| params.get(name));
    let Some(stream) = param("streamName").and_then(Value::as_str) else {
        let words = "/params/streamName: the stream's name is missing";
        return Err(ApiError::bad_request(Code::Undefined, words));
    };
    let position = match param("input") {
        // As the connector writes it itself.
        Some(Value::String(text)) => text.clone(),
        Some(object @ Value::Object(_)) => object.to_string(),
        _ => {
            let words =
                "/params/input: the position is missing: an object, or the text of a checkpoint";
            return Err(ApiError::bad_request(Code::Undefined, words));
        }
    };
    catalog
        .reset_position(&id, stream, &position)
        .await
        .map_err(|error| refused(error, Code::Undefined))?;
    Ok(words(StatusCode::OK, "success"))
}

/// Tags as a body gives them.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct Tags {
    #[serde(default)]
    tags: Vec<String>,
}

/// Gives a rule these tags and no others.
#[utoipa::path(
    put, path = "/rules/{id}/tags", tag = "rules",
    params(("id" = String, Path)),
    request_body = Tags,
    responses((status = 200, description = "Done; the body is empty")),
)]
async fn set_tags(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
    Json(given): Json<Tags>,
) -> Result<StatusCode, ApiError> {
    let change = |tags: &mut Vec<String>| *tags = given.tags;
    catalog.tag_rule(&id, change).await.map_err(wrong)?;
    Ok(StatusCode::OK)
}

/// Gives a rule these tags too.
#[utoipa::path(
    patch, path = "/rules/{id}/tags", tag = "rules",
    params(("id" = String, Path)),
    request_body = Tags,
    responses((status = 200, description = "Done; the body is empty")),
)]
async fn add_tags(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
    Json(given): Json<Tags>,
) -> Result<StatusCode, ApiError> {
    let change = |tags: &mut Vec<String>| {
        for tag in given.tags {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
    };
    catalog.tag_rule(&id, change).await.map_err(wrong)?;
    Ok(StatusCode::OK)
}

/// Takes these tags away.
#[utoipa::path(
    delete, path = "/rules/{id}/tags", tag = "rules",
    params(("id" = String, Path)),
    request_body = Tags,
    responses((status = 200, description = "Done; the body is empty")),
)]
async fn remove_tags(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
    Json(given): Json<Tags>,
) -> Result<StatusCode, ApiError> {
    let change = |tags: &mut Vec<String>| tags.retain(|tag| !given.tags.contains(tag));
    catalog.tag_rule(&id, change).await.map_err(wrong)?;
    Ok(StatusCode::OK)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Separated by commas; a body `{"tags": [...]}` does the same.
    tags: Option<String>,
}

/// Ids of the rules that have all of these tags.
#[utoipa::path(
    get, path = "/rules/tags/match", tag = "rules",
    params(Wanted),
    responses(
        (status = 200, body = Vec<String>),
        (status = 408, body = Envelope),
        (status = 413, body = Envelope),
        (status = 415, body = Envelope),
    ),
)]
async fn tagged(
    State(catalog): State<Catalog>,
    Query(wanted): Query<Wanted>,
    Raw(body): Raw,
) -> Result<Response, ApiError> {
    let mut tags = match body.is_empty() {
        true => Vec::new(),
        false => {
            serde_json::from_slice::<Tags>(&body)
                .map_err(ApiError::invalid_body)?
                .tags
        }
    };
    let listed = wanted.tags.unwrap_or_default();
    tags.extend(
        listed
            .split(',')
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned),
    );
    Ok(Json(catalog.tagged(&tags)).into_response())
}

/// Starts the rules that have all of these tags.
#[utoipa::path(
    post, path = "/rules/bulkstart", tag = "rules",
    request_body = Tags,
    responses((status = 200, body = Vec<Object>, description = "id, success, error")),
)]
async fn bulk_start(
    State(catalog): State<Catalog>,
    Json(given): Json<Tags>,
) -> Result<Response, ApiError> {
    let mut done = Vec::new();
    for id in named_by(&catalog, &given)? {
        let result = catalog.start_rule(&id).await;
        done.push(outcome(&id, result));
    }
    Ok(Json(done).into_response())
}

/// The rules with all of these tags. Without any tag nobody has said which.
fn named_by(catalog: &Catalog, given: &Tags) -> Result<Vec<String>, ApiError> {
    if given.tags.is_empty() {
        let words = "/tags: is missing or empty; it must name one tag at least";
        return Err(ApiError::bad_request(Code::Rule, words));
    }
    Ok(catalog.tagged(&given.tags))
}

/// Stops the rules that have all of these tags.
#[utoipa::path(
    post, path = "/rules/bulkstop", tag = "rules",
    request_body = Tags,
    responses((status = 200, body = Vec<Object>, description = "id, success, error")),
)]
async fn bulk_stop(
    State(catalog): State<Catalog>,
    Json(given): Json<Tags>,
) -> Result<Response, ApiError> {
    let mut done = Vec::new();
    for id in named_by(&catalog, &given)? {
        let result = catalog.stop_rule(&id).await;
        done.push(outcome(&id, result));
    }
    Ok(Json(done).into_response())
}

fn outcome(id: &str, result: Result<(), CatalogError>) -> Value {
    match result {
        Ok(()) => json!({ "id": id, "success": true }),
        Err(error) => json!({ "id": id, "success": false, "error": error.to_string() }),
    }
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
