//! `/streams` and `/streamdetails`; `/tables` says that there are none.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{ApiError, Code};
use super::etag::{Conditions, etag};
use super::extract::{Path, Query, flag};
use super::json::{Json, words};
use super::refused::{conditional, conditions_failed, refused};
use crate::catalog::{Catalog, CatalogError};

/// The routes, over this catalog.
pub fn routes(catalog: Catalog) -> Router {
    Router::new()
        .route("/streams", get(list).post(create))
        .route("/streamdetails", get(details))
        .route("/streams/{name}", get(show).put(replace).delete(remove))
        .route("/streams/{name}/schema", get(schema))
        .route("/tables", get(no_tables).post(refuse_table))
        .route("/tabledetails", get(no_tables))
        .route(
            "/tables/{name}",
            get(no_table).put(no_table).delete(no_table),
        )
        .with_state(catalog)
}

/// A statement as a body gives it.
#[derive(Debug, Deserialize)]
struct Statement {
    /// `CREATE STREAM ...`.
    sql: String,
}

#[derive(Debug, Default, Deserialize)]
struct Removal {
    /// `true`: also one that rules refer to.
    force: Option<String>,
}

fn missing(name: &str) -> ApiError {
    ApiError::not_found(format!("stream {name} is not found"))
}

async fn list(State(catalog): State<Catalog>) -> Response {
    let names: Vec<_> = catalog.streams().into_iter().map(|one| one.name).collect();
    Json(names).into_response()
}

async fn details(State(catalog): State<Catalog>) -> Response {
    let streams = catalog.streams().into_iter();
    let list: Vec<Value> = streams
        .map(|one| json!({ "name": one.name, "type": one.typ, "format": one.format }))
        .collect();
    Json(list).into_response()
}

async fn show(
    State(catalog): State<Catalog>,
    Path(name): Path<String>,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    let (stream, revision) = catalog.stream(&name).ok_or_else(|| missing(&name))?;
    if conditions.has(revision) {
        return Ok((StatusCode::NOT_MODIFIED, [etag(revision)]).into_response());
    }
    Ok(([etag(revision)], Json(stream)).into_response())
}

async fn schema(
    State(catalog): State<Catalog>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let schema = catalog.stream_schema(&name).ok_or_else(|| missing(&name))?;
    Ok(Json(schema).into_response())
}

async fn create(
    State(catalog): State<Catalog>,
    Json(Statement { sql }): Json<Statement>,
) -> Result<Response, ApiError> {
    let name = catalog
        .create_stream(&sql)
        .await
        .map_err(|error| wrong(error).within("create stream error"))?;
    let text = format!("Stream {name} is created.");
    Ok(words(StatusCode::CREATED, text))
}

async fn replace(
    State(catalog): State<Catalog>,
    Path(name): Path<String>,
    conditions: Conditions,
    Json(Statement { sql }): Json<Statement>,
) -> Result<Response, ApiError> {
    let may = conditional(&conditions);
    catalog
        .replace_stream(&name, &sql, &may)
        .await
        .map_err(|error| {
            conditions_failed(&conditions, &error)
                .unwrap_or_else(|| wrong(error).within("update stream error"))
        })?;
    Ok(words(StatusCode::OK, format!("Stream {name} is replaced.")))
}

async fn remove(
    State(catalog): State<Catalog>,
    Path(name): Path<String>,
    Query(removal): Query<Removal>,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    let may = conditional(&conditions);
    catalog
        .delete_stream(&name, flag(removal.force.as_deref()), &may)
        .await
        .map_err(|error| {
            conditions_failed(&conditions, &error)
                .unwrap_or_else(|| wrong(error).within("delete stream error"))
        })?;
    Ok(words(StatusCode::OK, format!("Stream {name} is dropped.")))
}

fn wrong(error: CatalogError) -> ApiError {
    refused(error, Code::Stream)
}

async fn no_tables() -> Response {
    Json(json!([])).into_response()
}

async fn no_table(Path(name): Path<String>) -> ApiError {
    ApiError::not_found(format!("table {name} is not found"))
}

async fn refuse_table() -> ApiError {
    ApiError::bad_request(
        Code::Stream,
        "create table error: tables serve joins, which a rule here does not do; write CREATE STREAM, and look values up downstream",
    )
}
