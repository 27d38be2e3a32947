//! `/connectors`: those that come with the host, and components that users bring.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::{OpenApi, ToSchema};

use super::body_limit;
use super::error::{ApiError, Code};
use super::etag::{Conditions, etag};
use super::extract::Path;
use super::json::{Json, Raw, words};
use super::refused::{conditional, refused, refused_change};
use crate::catalog::{Catalog, ConnectorInfo};
use crate::snapshot::SlotRow;

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

/// A connector and who uses it.
#[derive(Serialize, ToSchema)]
struct Connector {
    /// Under which name streams and actions use it.
    #[schema(example = "mqtt")]
    name: String,
    /// It comes with the host.
    bundled: bool,
    /// BLAKE3 of the component, in hex.
    digest: String,
    /// Size of the component.
    bytes: u64,
    version: String,
    description: String,
    /// `source`, `sink` or both.
    #[schema(example = json!(["source", "sink"]))]
    roles: Vec<String>,
    /// The connections it needs.
    slots: Vec<SlotRow>,
    /// Streams whose TYPE it is.
    streams: Vec<String>,
    /// Rules with an action of it.
    rules: Vec<String>,
}

impl From<ConnectorInfo> for Connector {
    fn from(info: ConnectorInfo) -> Self {
        let inspection = info.inspection;
        Self {
            name: info.name,
            bundled: info.bundled,
            digest: info.digest,
            bytes: inspection.bytes,
            version: inspection.version,
            description: inspection.description,
            roles: inspection.roles,
            slots: inspection.slots,
            streams: info.streams,
            rules: info.rules,
        }
    }
}

/// A connector with all that it says of itself.
#[derive(Serialize, ToSchema)]
struct WholeConnector {
    #[serde(flatten)]
    connector: Connector,
    /// The JSON Schema of its configuration; null: it has none.
    schema: Value,
    /// Interfaces it imports, with their versions.
    imports: Vec<String>,
}

/// A connector whose file cannot be used any more.
#[derive(Serialize, ToSchema)]
struct BrokenConnector {
    name: String,
    /// Why.
    err: String,
}

/// A connector in the list.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum ConnectorEntry {
    Good(Connector),
    Broken(BrokenConnector),
}

/// All connectors.
#[utoipa::path(
    get, path = "/connectors", tag = "connectors",
    responses(
        (status = 200, body = Vec<ConnectorEntry>),
    ),
)]
async fn list(State(catalog): State<Catalog>) -> Json<Vec<ConnectorEntry>> {
    let mut list = Vec::new();
    for name in catalog.connector_names() {
        list.push(match catalog.connector(&name).await {
            Ok(info) => ConnectorEntry::Good(info.into()),
            Err(error) => ConnectorEntry::Broken(BrokenConnector {
                name,
                err: error.to_string(),
            }),
        });
    }
    Json(list)
}

/// One connector, with the JSON Schema of its configuration.
#[utoipa::path(
    get, path = "/connectors/{name}", tag = "connectors",
    params(("name" = String, Path, example = "mqtt")),
    responses((status = 200, body = WholeConnector)),
)]
async fn show(
    State(catalog): State<Catalog>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let info = catalog.connector(&name).await;
    let info = info.map_err(|error| refused(error, Code::Undefined))?;
    let revision = etag(info.revision);
    let whole = WholeConnector {
        schema: serde_json::from_str(&info.inspection.config_schema).unwrap_or_default(),
        imports: info.inspection.imports.clone(),
        connector: info.into(),
    };
    Ok(([revision], Json(whole)).into_response())
}

/// Uploads a component, also in the place of one that rules use.
#[utoipa::path(
    method(put, post), path = "/connectors/{name}", tag = "connectors",
    params(("name" = String, Path, example = "mine"), Conditions),
    request_body(
        content = ref("#/components/schemas/Component"),
        content_type = "application/wasm",
        description = "The component",
    ),
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
    ),
)]
async fn replace(
    State(catalog): State<Catalog>,
    Path(name): Path<String>,
    conditions: Conditions,
    Raw(wasm): Raw,
) -> Result<Response, ApiError> {
    let may = conditional(&conditions);
    let (revision, is_new) = catalog
        .put_connector(&name, wasm, &may)
        .await
        .map_err(|error| refused_change(error, &conditions, Code::Undefined, ""))?;
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(([etag(revision)], words(status, "success")).into_response())
}

/// Deletes a connector that nothing uses.
#[utoipa::path(
    delete, path = "/connectors/{name}", tag = "connectors",
    params(("name" = String, Path, example = "mine"), Conditions),
    responses(
        (status = 200, body = String, content_type = "text/plain", example = "success"),
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
