//! `/rules`: definitions, life, tags. What they show of themselves: `rules/status.rs`.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, OpenApi, ToSchema};

use super::error::{ApiError, Code, Envelope};
use super::etag::Conditions;
use super::extract::{Path, Query};
use super::json::{Json, Raw, RawJson, words};
use super::refused::{conditional, refused, refused_change};
use crate::catalog::{Catalog, CatalogError, RuleInfo};

mod status;

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
    status::status,
    status::status_v2,
    status::all,
    status::topology,
    status::explain,
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
        .route("/rules/status/all", get(status::all))
        .route("/rules/tags/match", get(tagged))
        .route("/rules/bulkstart", post(bulk_start))
        .route("/rules/bulkstop", post(bulk_stop))
        .route("/rules/{id}", get(show).put(replace).delete(remove))
        .route("/rules/{id}/start", post(start))
        .route("/rules/{id}/stop", post(stop))
        .route("/rules/{id}/restart", post(restart))
        .route("/rules/{id}/status", get(status::status))
        .route("/v2/rules/{id}/status", get(status::status_v2))
        .route("/rules/{id}/topo", get(status::topology))
        .route("/rules/{id}/explain", get(status::explain))
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

/// A rule in the list.
#[derive(Serialize, ToSchema)]
struct RuleEntry {
    id: String,
    /// For people.
    name: String,
    /// `running`, `starting`, `stopping`, `stopped`, `stopped by error`.
    #[schema(example = "running")]
    status: &'static str,
    version: String,
    /// Always false: there is no tracing.
    trace: bool,
    tags: Vec<String>,
}

impl From<RuleInfo> for RuleEntry {
    fn from(rule: RuleInfo) -> Self {
        Self {
            id: rule.id,
            name: rule.name,
            status: rule.status,
            version: rule.version,
            trace: false,
            tags: rule.tags,
        }
    }
}

/// All rules with their status, by id.
#[utoipa::path(
    get, path = "/rules", tag = "rules",
    responses((status = 200, body = Vec<RuleEntry>)),
)]
async fn list(State(catalog): State<Catalog>) -> Json<Vec<RuleEntry>> {
    Json(catalog.rules().into_iter().map(RuleEntry::from).collect())
}

/// Makes a rule, and starts it unless it says `triggered: false`.
#[utoipa::path(
    post, path = "/rules", tag = "rules",
    request_body(
        content = ref("#/components/schemas/RuleDefinition"),
        example = json!({
            "id": "hot",
            "sql": "SELECT sequence, temperature FROM demo WHERE temperature > 50",
            "actions": [{"log": {}}],
            "tags": ["press"],
        }),
    ),
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
    let id = catalog.create_rule(value).await.map_err(wrong)?;
    let text = format!("Rule {id} was created successfully.");
    Ok(words(StatusCode::CREATED, text))
}

/// Whether a rule could be made.
#[utoipa::path(
    post, path = "/rules/validate", tag = "rules",
    request_body(
        content = ref("#/components/schemas/RuleDefinition"),
        example = json!({
            "id": "hot",
            "sql": "SELECT sequence, temperature FROM demo WHERE temperature > 50",
            "actions": [{"log": {}}],
            "tags": ["press"],
        }),
    ),
    responses(
        (status = 200, body = Validated),
        (status = 422, body = String, content_type = "text/plain", description = "Why not"),
    ),
)]
async fn validate(State(catalog): State<Catalog>, RawJson { value, .. }: RawJson) -> Response {
    match catalog.validate_rule(value).await {
        Ok((stream, warnings)) => Json(Validated {
            sources: [stream],
            valid: true,
            warnings,
        })
        .into_response(),
        Err(error) => words(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
    }
}

/// A rule that could be made.
#[derive(Serialize, ToSchema)]
struct Validated {
    /// The stream that it reads.
    #[schema(example = json!(["demo"]))]
    sources: [String; 1],
    /// It is.
    valid: bool,
    /// What should be looked at though it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// One rule, as it was given.
#[utoipa::path(
    get, path = "/rules/{id}", tag = "rules",
    params(("id" = String, Path, example = "hot")),
    responses(
        (
            status = 200,
            body = ref("#/components/schemas/Rule"),
            description = "Secrets are masked",
        ),
        (status = 304, description = "As the client has it"),
    ),
)]
async fn show(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    let rule = catalog.rule(&id);
    let (rule, revision) = rule.ok_or_else(|| missing(&id).within("Describe rule error"))?;
    Ok(conditions.show(revision, rule))
}

/// Changes a rule, or makes it.
#[utoipa::path(
    put, path = "/rules/{id}", tag = "rules",
    params(("id" = String, Path, example = "hot"), Conditions),
    request_body(
        content = ref("#/components/schemas/RuleChange"),
        example = json!({"sql": "SELECT * FROM demo", "actions": [{"log": {}}], "tags": ["press"]}),
    ),
    responses(
        (
            status = 200,
            body = String,
            content_type = "text/plain",
            example = "Rule hot was updated successfully.",
        ),
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
    params(("id" = String, Path, example = "hot"), Conditions),
    responses(
        (status = 200, body = String, content_type = "text/plain", example = "Rule hot is dropped."),
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
    params(("id" = String, Path, example = "hot")),
    responses(
        (status = 200, body = String, content_type = "text/plain", example = "Rule hot was started"),
    ),
)]
async fn start(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let started = catalog.start_rule(&id).await;
    started.map_err(|error| wrong(error).within("start rule error"))?;
    Ok(words(StatusCode::OK, format!("Rule {id} was started")))
}

/// Stops a rule.
#[utoipa::path(
    post, path = "/rules/{id}/stop", tag = "rules",
    params(("id" = String, Path, example = "hot")),
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
    let stopped = catalog.stop_rule(&id).await;
    stopped.map_err(|error| wrong(error).within("stop rule error"))?;
    Ok(words(StatusCode::OK, format!("Rule {id} was stopped.")))
}

/// Stops a rule and starts it.
#[utoipa::path(
    post, path = "/rules/{id}/restart", tag = "rules",
    params(("id" = String, Path, example = "hot")),
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
    let restarted = catalog.restart_rule(&id).await;
    restarted.map_err(|error| wrong(error).within("restart rule error"))?;
    Ok(words(StatusCode::OK, format!("Rule {id} was restarted")))
}

/// Sets where a source goes on.
#[utoipa::path(
    put, path = "/rules/{id}/reset_state", tag = "rules",
    params(("id" = String, Path, example = "hot")),
    request_body(
        content = ref("#/components/schemas/Position"),
        example = json!({"type": 1, "params": {"streamName": "demo", "input": {"sequence": 7}}}),
    ),
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
    #[schema(example = json!(["press"]))]
    tags: Vec<String>,
}

/// Gives a rule these tags and no others.
#[utoipa::path(
    put, path = "/rules/{id}/tags", tag = "rules",
    params(("id" = String, Path, example = "hot")),
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
    params(("id" = String, Path, example = "hot")),
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
    params(("id" = String, Path, example = "hot")),
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

/// The rules that were asked for.
#[derive(Serialize, ToSchema)]
struct Tagged {
    /// Their ids; left out, as in eKuiper, where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["hot"]))]
    rules: Vec<String>,
}

/// Ids of the rules that have all of these tags.
#[utoipa::path(
    get, path = "/rules/tags/match", tag = "rules",
    params(Wanted),
    responses(
        (status = 200, body = Tagged),
        (status = 408, body = Envelope),
        (status = 413, body = Envelope),
        (status = 415, body = Envelope),
    ),
)]
async fn tagged(
    State(catalog): State<Catalog>,
    Query(wanted): Query<Wanted>,
    Raw(body): Raw,
) -> Result<Json<Tagged>, ApiError> {
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
    Ok(Json(Tagged {
        rules: catalog.tagged(&tags),
    }))
}

/// Starts the rules that have all of these tags.
#[utoipa::path(
    post, path = "/rules/bulkstart", tag = "rules",
    request_body = Tags,
    responses((status = 200, body = Vec<Outcome>)),
)]
async fn bulk_start(
    State(catalog): State<Catalog>,
    Json(given): Json<Tags>,
) -> Result<Json<Vec<Outcome>>, ApiError> {
    bulk(&catalog, &given, true).await
}

/// Starts or stops each rule that has all of these tags. Without any tag nobody has said which.
async fn bulk(
    catalog: &Catalog,
    given: &Tags,
    running: bool,
) -> Result<Json<Vec<Outcome>>, ApiError> {
    if given.tags.is_empty() {
        let words = "/tags: is missing or empty; it must name one tag at least";
        return Err(ApiError::bad_request(Code::Rule, words));
    }
    let mut done = Vec::new();
    for id in catalog.tagged(&given.tags) {
        let result = match running {
            true => catalog.start_rule(&id).await,
            false => catalog.stop_rule(&id).await,
        };
        done.push(Outcome::of(id, result));
    }
    Ok(Json(done))
}

/// Stops the rules that have all of these tags.
#[utoipa::path(
    post, path = "/rules/bulkstop", tag = "rules",
    request_body = Tags,
    responses((status = 200, body = Vec<Outcome>)),
)]
async fn bulk_stop(
    State(catalog): State<Catalog>,
    Json(given): Json<Tags>,
) -> Result<Json<Vec<Outcome>>, ApiError> {
    bulk(&catalog, &given, false).await
}

/// What became of one rule of many.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    rule_id: String,
    success: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Outcome {
    fn of(rule_id: String, result: Result<(), CatalogError>) -> Self {
        Self {
            rule_id,
            success: result.is_ok(),
            error: result.err().map(|error| error.to_string()),
        }
    }
}
