//! `/connectors`: those that come with the host, and components that users bring.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::body_limit;
use super::error::{ApiError, Code, Envelope};
use super::etag::{Conditions, etag};
use super::extract::Path;
use super::json::{Json, Raw, words};
use super::refused::{conditional, refused, refused_change};
use crate::catalog::{Catalog, ConnectorInfo};

/// Bytes of the largest component: those of Python are 18 MB.
const LARGEST: usize = 128 * 1024 * 1024;

#[derive(OpenApi)]
#[openapi(paths(list, show, replace, remove))]
pub(super) struct Doc;

/// The routes, over this catalog.
pub fn routes(catalog: Catalog) -> Router {
    Router::new()
        .route("/connectors", get(list))
        .route(
            "/connectors/{name}",
            get(show).put(replace).post(replace).delete(remove),
        )
        .layer(body_limit(LARGEST))
        .with_state(catalog)
}

fn shown(info: &ConnectorInfo, whole: bool) -> Value {
    let inspection = &info.inspection;
    let mut value = json!({
        "name": info.name,
        "bundled": info.bundled,
        "digest": info.digest,
        "bytes": inspection.bytes,
        "version": inspection.version,
        "description": inspection.description,
        "roles": inspection.roles,
        "slots": inspection.slots,
        "streams": info.streams,
        "rules": info.rules,
    });
    if whole && let Some(fields) = value.as_object_mut() {
        let schema = serde_json::from_str::<Value>(&inspection.config_schema);
        fields.insert("schema".to_owned(), schema.unwrap_or_default());
        fields.insert("imports".to_owned(), json!(inspection.imports));
    }
    value
}

/// All connectors.
#[utoipa::path(
    get, path = "/connectors", tag = "connectors",
    responses(
        (
            status = 200,
            body = Vec<Object>,
            description = "name, bundled, digest, bytes, version, roles, slots, who uses it",
        ),
    ),
)]
async fn list(State(catalog): State<Catalog>) -> Response {
    let mut list = Vec::new();
    for name in catalog.connector_names() {
        match catalog.connector(&name).await {
            Ok(info) => list.push(shown(&info, false)),
            Err(error) => list.push(json!({ "name": name, "err": error.to_string() })),
        }
    }
    Json(list).into_response()
}

/// One connector, with the JSON Schema of its configuration.
#[utoipa::path(
    get, path = "/connectors/{name}", tag = "connectors",
    params(("name" = String, Path)),
    responses((status = 200, body = Object)),
)]
async fn show(
    State(catalog): State<Catalog>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let info = catalog.connector(&name).await;
    let info = info.map_err(|error| refused(error, Code::Undefined))?;
    Ok(([etag(info.revision)], Json(shown(&info, true))).into_response())
}

/// Uploads a component, also in the place of one that rules use.
#[utoipa::path(
    method(put, post), path = "/connectors/{name}", tag = "connectors",
    params(("name" = String, Path)),
    request_body(content = String, content_type = "application/wasm"),
    responses(
        (
            status = 200,
            description = "It was replaced",
            body = String,
            content_type = "text/plain",
            example = "success",
        ),
        (
            status = 201,
            description = "It is new",
            body = String,
            content_type = "text/plain",
            example = "success",
        ),
        (status = 412, body = Envelope, description = "It was changed since"),
    ),
)]
async fn replace(
    State(catalog): State<Catalog>,
    Path(name): Path<String>,
    conditions: Conditions,
    Raw(wasm): Raw,
) -> Result<Response, ApiError> {
    let may = conditional(&conditions);
    let revision = catalog
        .put_connector(&name, wasm, &may)
        .await
        .map_err(|error| refused_change(error, &conditions, Code::Undefined, ""))?;
    let status = match revision {
        0 | 1 => StatusCode::CREATED,
        _ => StatusCode::OK,
    };
    Ok(([etag(revision)], words(status, "success")).into_response())
}

/// Deletes a connector that nothing uses.
#[utoipa::path(
    delete, path = "/connectors/{name}", tag = "connectors",
    params(("name" = String, Path)),
    responses(
        (status = 200, body = String, content_type = "text/plain", example = "success"),
        (status = 412, body = Envelope, description = "It was changed since"),
    ),
)]
async fn remove(
    State(catalog): State<Catalog>,
    Path(name): Path<String>,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    let may = conditional(&conditions);
    catalog
        .delete_connector(&name, &may)
        .await
        .map_err(|error| refused_change(error, &conditions, Code::Undefined, ""))?;
    Ok(words(StatusCode::OK, "success"))
}
