//! `/metadata`: conf keys of sources, sinks and connections, and the check whether a connection would
//! come up with some properties.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::{OpenApi, ToSchema};

use super::connections::{came_up, kind_of};
use super::error::{ApiError, Code};
use super::extract::Path;
use super::json::{Json, RawJson};
use super::refused::refused;
use crate::catalog::{Catalog, ConfKeyKind, TENANT};
use crate::connections::Properties;
use crate::connections::registry::Registry;

#[derive(OpenApi)]
#[openapi(paths(names, conf_keys, put_conf_key, delete_conf_key, check))]
pub(super) struct Doc;

/// The routes, over this catalog.
pub fn routes(catalog: Catalog) -> Router {
    Router::new()
        .route("/metadata/{kind}", get(names))
        .route("/metadata/{kind}/yaml/{type}", get(conf_keys))
        .route(
            "/metadata/{kind}/{type}/confKeys/{key}",
            put(put_conf_key).delete(delete_conf_key),
        )
        .route("/metadata/{kind}/connection/{type}", post(check))
        .with_state(catalog)
}

/// The first part of a path below `/metadata`.
#[derive(Clone, Copy)]
enum Kind {
    Keys(ConfKeyKind),
    Connections,
}

impl Kind {
    fn of(word: &str) -> Result<Self, ApiError> {
        match ConfKeyKind::of(word) {
            Some(kind) => Ok(Self::Keys(kind)),
            None if word == "connections" => Ok(Self::Connections),
            None => Err(ApiError::not_found(format!(
                "there is no metadata of \"{word}\"; there is of sources, sinks and connections"
            ))),
        }
    }
}

/// A connector or a connection type.
#[derive(Serialize, ToSchema)]
struct Named {
    #[schema(example = "mqtt")]
    name: String,
}

/// Names of connectors with that role, or of connection types.
#[utoipa::path(
    get, path = "/metadata/{kind}", tag = "conf keys",
    params((
        "kind" = String, Path, example = "sources",
        description = "`sources`, `sinks`, `connections`",
    )),
    responses((status = 200, body = Vec<Named>)),
)]
async fn names(
    State(catalog): State<Catalog>,
    Path(kind): Path<String>,
) -> Result<Json<Vec<Named>>, ApiError> {
    let named = |name: &str| Named {
        name: name.to_owned(),
    };
    let list = match Kind::of(&kind)? {
        Kind::Connections => {
            let types = catalog.pool().registry();
            types.iter().map(|typ| named(typ.name())).collect()
        }
        Kind::Keys(kind) => {
            let role = match kind {
                ConfKeyKind::Sources => "source",
                ConfKeyKind::Sinks => "sink",
            };
            let mut list = Vec::new();
            for name in catalog.connector_names() {
                let Ok(connector) = catalog.connector(&name).await else {
                    continue;
                };
                if connector.inspection.roles.iter().any(|has| has == role) {
                    list.push(named(&name));
                }
            }
            list
        }
    };
    Ok(Json(list))
}

/// Conf keys of a type, with their properties.
#[utoipa::path(
    get, path = "/metadata/{kind}/yaml/{type}", tag = "conf keys",
    params((
            "kind" = String, Path, example = "sources",
            description = "`sources`, `sinks`, `connections`",
        ), ("type" = String, Path, example = "mqtt")),
    responses(
        (
            status = 200,
            body = ref("#/components/schemas/ConfKeys"),
            description = "Properties by conf key, secrets masked",
        ),
    ),
)]
async fn conf_keys(
    State(catalog): State<Catalog>,
    Path((kind, typ)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let keys = match Kind::of(&kind)? {
        Kind::Keys(kind) => catalog.conf_keys(kind, &typ),
        Kind::Connections => catalog.connection_conf_keys(&typ),
    };
    Ok(Json(keys).into_response())
}

fn properties(value: Value) -> Result<Properties, ApiError> {
    match value {
        Value::Object(props) => Ok(props),
        other => Err(ApiError::invalid_body(format_args!(
            "an object of properties is expected, found {}",
            kind_of(&other)
        ))),
    }
}

/// Makes or changes a conf key.
#[utoipa::path(
    put, path = "/metadata/{kind}/{type}/confKeys/{key}", tag = "conf keys",
    params((
            "kind" = String, Path, example = "sources",
            description = "`sources`, `sinks`, `connections`",
        ), ("type" = String, Path, example = "mqtt"), ("key" = String, Path, example = "press")),
    request_body(
        content = ref("#/components/schemas/Properties"),
        example = json!({"connectionSelector": "plant", "qos": 1}),
    ),
    responses((status = 200, description = "Done; the body is empty")),
)]
async fn put_conf_key(
    State(catalog): State<Catalog>,
    Path((kind, typ, key)): Path<(String, String, String)>,
    RawJson { value, .. }: RawJson,
) -> Result<StatusCode, ApiError> {
    let kind = Kind::of(&kind)?;
    let props = properties(value)?;
    let done = match kind {
        Kind::Keys(kind) => catalog.put_conf_key(kind, &typ, &key, props).await,
        Kind::Connections => catalog.put_connection_conf_key(&typ, &key, props).await,
    };
    done.map_err(|error| refused(error, Code::ConfKey))?;
    Ok(StatusCode::OK)
}

/// Deletes a conf key. One that is not there is deleted already.
#[utoipa::path(
    delete, path = "/metadata/{kind}/{type}/confKeys/{key}", tag = "conf keys",
    params((
            "kind" = String, Path, example = "sources",
            description = "`sources`, `sinks`, `connections`",
        ), ("type" = String, Path, example = "mqtt"), ("key" = String, Path, example = "press")),
    responses((status = 200, description = "Done; the body is empty")),
)]
async fn delete_conf_key(
    State(catalog): State<Catalog>,
    Path((kind, typ, key)): Path<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    let done = match Kind::of(&kind)? {
        Kind::Keys(kind) => catalog.delete_conf_key(kind, &typ, &key).await,
        Kind::Connections => {
            // eKuiper's path for it has the type in it: another type's connection is not meant.
            let keys = catalog.connection_conf_keys(&typ);
            match keys.contains_key(&key) {
                true => catalog.delete_connection(&key, crate::catalog::ANY).await,
                false => Ok(()),
            }
        }
    };
    done.map_err(|error| refused(error, Code::ConfKey))?;
    Ok(StatusCode::OK)
}

/// Dials once with these properties; nothing is kept of it.
#[utoipa::path(
    post, path = "/metadata/{kind}/connection/{type}", tag = "conf keys",
    params(
        (
            "kind" = String, Path, example = "connections",
            description = "`sources`, `sinks`, `lookups`, `connections`",
        ),
        ("type" = String, Path, example = "sql"),
    ),
    request_body(
        content = ref("#/components/schemas/Properties"),
        example = json!({"dburl": "sqlite::memory:"}),
    ),
    responses((status = 200, description = "It comes up; the body is empty")),
)]
async fn check(
    State(catalog): State<Catalog>,
    Path((kind, typ)): Path<(String, String)>,
    RawJson { value, .. }: RawJson,
) -> Result<StatusCode, ApiError> {
    // A lookup source is checked as its connection is.
    let kind = if kind == "lookups" { "sources" } else { &kind };
    let kind = Kind::of(kind)?;
    let mut props = properties(value)?;
    let selector = ["connectionSelector", "connentionSelector"]
        .into_iter()
        .find_map(|name| props.remove(name));
    if let Some(selector) = selector {
        let Some(id) = selector.as_str() else {
            let words = format!(
                "\"connectionSelector\" is the id of a connection, text, found {}",
                kind_of(&selector)
            );
            return Err(ApiError::bad_request(Code::Undefined, words));
        };
        let status = catalog
            .pool()
            .check_now(TENANT, id)
            .await
            .map_err(|error| refused(error.into(), Code::Undefined))?;
        return came_up(status).map(|()| StatusCode::OK);
    }
    let registered = catalog.pool().registry().get(&typ);
    let props = match (kind, &registered) {
        // What the connector needs beside its connection is not tried.
        (Kind::Keys(_), Ok(registered)) => Registry::split(*registered, props).0,
        (Kind::Keys(ConfKeyKind::Sources), Err(_)) => {
            let words = format!("source {typ} doesn't support ping connection");
            return Err(ApiError::bad_request(Code::Undefined, words));
        }
        (Kind::Keys(ConfKeyKind::Sinks), Err(_)) => {
            let words = format!("sink {typ} doesn't support ping connection");
            return Err(ApiError::bad_request(Code::Undefined, words));
        }
        (Kind::Connections, _) => props,
    };
    catalog
        .pool()
        .check(TENANT, &typ, props)
        .await
        .map_err(|error| refused(error.into(), Code::Undefined))?;
    Ok(StatusCode::OK)
}
