//! `/connections`: eKuiper's connection management, with live changes, conditions and reasons.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, OpenApi};

use super::error::{ApiError, Code};
use super::etag::{Conditions, etag};
use super::extract::{Path, Query, flag};
use super::json::{Json, RawJson, words};
use super::refused::{conditional, refused, refused_change};
use crate::catalog::{Catalog, TENANT};
use crate::connections::Properties;
use crate::connections::pool::{ConnectionDef, Info, PoolError};
use crate::connections::status::Status;
use crate::names::validate_id;

#[derive(OpenApi)]
#[openapi(paths(list, show, create, replace, remove, check))]
pub(super) struct Doc;

/// The routes, over this catalog.
pub fn routes(catalog: Catalog) -> Router {
    Router::new()
        .route("/connections", get(list).post(create))
        .route("/connections/{id}", get(show).put(replace).delete(remove))
        .route("/connections/{id}/check", post(check))
        .with_state(catalog)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// `true`: those that rules brought along too.
    #[serde(rename = "forceAll")]
    force_all: Option<String>,
}

/// All connections, by id.
#[utoipa::path(
    get, path = "/connections", tag = "connections",
    params(Listing),
    responses(
        (status = 200, body = Vec<Info>, description = "Secrets are masked"),
    ),
)]
async fn list(State(catalog): State<Catalog>, Query(listing): Query<Listing>) -> Json<Vec<Info>> {
    Json(catalog.connections(flag(listing.force_all.as_deref())))
}

/// One connection. Reading it never touches the network.
#[utoipa::path(
    get, path = "/connections/{id}", tag = "connections",
    params(("id" = String, Path, example = "plant")),
    responses(
        (status = 200, body = Info, description = "Its revision as `ETag`"),
    ),
)]
async fn show(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (info, revision) = catalog
        .connection(&id)
        .ok_or_else(|| ApiError::not_found(PoolError::Unknown(id).to_string()))?;
    // What is shown changes with the state, so that there is no 304: the tag is the definition's.
    Ok(([etag(revision)], Json(info)).into_response())
}

/// A definition as a body gives it.
struct Given {
    id: String,
    typ: String,
    props: Properties,
}

impl Given {
    fn of(value: Value) -> Result<Self, ApiError> {
        let Value::Object(mut object) = value else {
            return Err(ApiError::invalid_body("an object is expected"));
        };
        let mut text = |name: &str| match object.remove(name) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(ApiError::invalid_body(format_args!(
                "\"{name}\" must be text, found {}",
                kind_of(&other)
            ))),
        };
        let (id, typ) = (text("id")?, text("typ")?);
        let props = match object.remove("props") {
            None | Some(Value::Null) => Properties::new(),
            Some(Value::Object(props)) => props,
            Some(other) => {
                return Err(ApiError::invalid_body(format_args!(
                    "\"props\" must be an object, found {}",
                    kind_of(&other)
                )));
            }
        };
        // What `GET` shows beside these may come back with a PUT.
        Ok(Self { id, typ, props })
    }
}

/// What a value is, for a sentence. Never the value.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Makes a named connection, which dials at once and for ever.
#[utoipa::path(
    post, path = "/connections", tag = "connections",
    request_body(
        content = ref("#/components/schemas/ConnectionDefinition"),
        example = json!({"id": "plant", "typ": "mqtt", "props": {"server": "tcp://127.0.0.1:1883"}}),
    ),
    responses((status = 201, body = String, content_type = "text/plain", example = "success")),
)]
async fn create(
    State(catalog): State<Catalog>,
    RawJson { value, .. }: RawJson,
) -> Result<Response, ApiError> {
    const WHAT: &str = "create connection failed";
    let Given { id, typ, props } = Given::of(value)?;
    if id.is_empty() || typ.is_empty() {
        let words = "connection id and type should be defined";
        return Err(ApiError::bad_request(Code::Undefined, words).within(WHAT));
    }
    validate_id(&id).map_err(|message| ApiError::bad_request(Code::Undefined, message))?;
    let def = ConnectionDef { id, typ, props };
    let revision = catalog
        .create_connection(def)
        .await
        .map_err(|error| refused(error, Code::Undefined).within(WHAT))?;
    Ok(([etag(revision)], words(StatusCode::CREATED, "success")).into_response())
}

/// Gives a connection new properties, live; or leaves it as it was and says why.
#[utoipa::path(
    put, path = "/connections/{id}", tag = "connections",
    params(("id" = String, Path, example = "plant"), Conditions),
    request_body(
        content = ref("#/components/schemas/ConnectionChange"),
        example = json!({"typ": "mqtt", "props": {"server": "tcp://127.0.0.1:1884"}}),
    ),
    responses(
        (status = 200, body = String, content_type = "text/plain", example = "success"),
    ),
)]
async fn replace(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
    conditions: Conditions,
    RawJson { value, .. }: RawJson,
) -> Result<Response, ApiError> {
    const WHAT: &str = "update connection failed";
    check_id(&catalog, &id)?;
    let Given { typ, props, .. } = Given::of(value)?;
    if typ.is_empty() {
        let words = "connection id and type should be defined";
        return Err(ApiError::bad_request(Code::Undefined, words).within(WHAT));
    }
    let def = ConnectionDef { id, typ, props };
    let may = conditional(&conditions);
    let revision = catalog
        .replace_connection(def, &may)
        .await
        .map_err(|error| refused_change(error, &conditions, Code::Undefined, WHAT))?;
    Ok(([etag(revision)], words(StatusCode::OK, "success")).into_response())
}

/// Deletes a connection that no rule uses. One that is not there is deleted already.
#[utoipa::path(
    delete, path = "/connections/{id}", tag = "connections",
    params(("id" = String, Path, example = "plant"), Conditions),
    responses(
        (status = 200, body = String, content_type = "text/plain", example = "success"),
    ),
)]
async fn remove(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    const WHAT: &str = "drop connection failed";
    check_id(&catalog, &id)?;
    let may = conditional(&conditions);
    catalog
        .delete_connection(&id, &may)
        .await
        .map_err(|error| refused_change(error, &conditions, Code::Undefined, WHAT))?;
    Ok(words(StatusCode::OK, "success"))
}

/// Dials a connection that is not up, now, and answers how that ended.
#[utoipa::path(
    post, path = "/connections/{id}/check", tag = "connections",
    params(("id" = String, Path, example = "plant")),
    responses((status = 200, body = Info, description = "It is up")),
)]
async fn check(
    State(catalog): State<Catalog>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let status = catalog
        .pool()
        .check_now(TENANT, &id)
        .await
        .map_err(|error| refused(error.into(), Code::Undefined))?;
    came_up(status)?;
    let info = catalog.connection(&id).map(|(info, _)| info);
    Ok(Json(info).into_response())
}

/// 400 with the reason, for a connection that was to come up and has not.
pub(super) fn came_up(status: Status) -> Result<(), ApiError> {
    if status.is_up() {
        return Ok(());
    }
    let words = status.err;
    let words = words.unwrap_or_else(|| "it is not connected".to_owned());
    Err(ApiError::bad_request(Code::Io, words))
}

/// An id that nobody could have given, unless a rule has brought a connection of that name along.
fn check_id(catalog: &Catalog, id: &str) -> Result<(), ApiError> {
    match validate_id(id) {
        Err(message) if catalog.connection(id).is_none() => {
            Err(ApiError::bad_request(Code::Undefined, message))
        }
        _ => Ok(()),
    }
}
