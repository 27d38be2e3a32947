//! `/streams` and `/streamdetails`; `/tables` says that there are none.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, OpenApi, ToSchema};

use super::error::{ApiError, Code, Envelope};
use super::etag::{Conditions, etag};
use super::extract::{Path, Query, flag};
use super::json::{Json, words};
use super::refused::{conditional, refused, refused_change};
use crate::catalog::{Catalog, CatalogError};

#[derive(OpenApi)]
#[openapi(paths(
    list,
    details,
    show,
    schema,
    create,
    replace,
    remove,
    list_tables,
    details_of_tables,
    refuse_table,
    show_table,
    replace_table,
    remove_table
))]
pub(super) struct Doc;

/// The routes, over this catalog.
pub fn routes(catalog: Catalog) -> Router {
    Router::new()
        .route("/streams", get(list).post(create))
        .route("/streamdetails", get(details))
        .route("/streams/{name}", get(show).put(replace).delete(remove))
        .route("/streams/{name}/schema", get(schema))
        .route("/tables", get(list_tables).post(refuse_table))
        .route("/tabledetails", get(details_of_tables))
        .route(
            "/tables/{name}",
            get(show_table).put(replace_table).delete(remove_table),
        )
        .with_state(catalog)
}

/// A statement as a body gives it.
#[derive(Debug, Deserialize, ToSchema)]
struct Statement {
    /// `CREATE STREAM ...`.
    sql: String,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Removal {
    /// `true`: also one that rules refer to.
    force: Option<String>,
}

fn missing(name: &str) -> ApiError {
    ApiError::not_found(format!("stream {name} is not found"))
}

/// Names of all streams.
#[utoipa::path(
    get, path = "/streams", tag = "streams",
    responses((status = 200, body = Vec<String>)),
)]
async fn list(State(catalog): State<Catalog>) -> Response {
    let names: Vec<_> = catalog.streams().into_iter().map(|one| one.name).collect();
    Json(names).into_response()
}

/// Names, types and formats of all streams.
#[utoipa::path(
    get, path = "/streamdetails", tag = "streams",
    responses((status = 200, body = Vec<Object>)),
)]
async fn details(State(catalog): State<Catalog>) -> Response {
    let streams = catalog.streams().into_iter();
    let list: Vec<Value> = streams
        .map(|one| json!({ "name": one.name, "type": one.typ, "format": one.format }))
        .collect();
    Json(list).into_response()
}

/// One stream.
#[utoipa::path(
    get, path = "/streams/{name}", tag = "streams",
    params(("name" = String, Path)),
    responses((status = 200, body = Object), (status = 304, description = "As the client has it")),
)]
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

/// Columns of a stream, by name.
#[utoipa::path(
    get, path = "/streams/{name}/schema", tag = "streams",
    params(("name" = String, Path)),
    responses((status = 200, body = Object)),
)]
async fn schema(
    State(catalog): State<Catalog>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let schema = catalog.stream_schema(&name).ok_or_else(|| missing(&name))?;
    Ok(Json(schema).into_response())
}

/// Makes a stream from its statement.
#[utoipa::path(
    post, path = "/streams", tag = "streams",
    request_body = Statement,
    responses(
        (
            status = 201,
            body = String,
            content_type = "text/plain",
            example = "Stream demo is created.",
        ),
    ),
)]
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

/// Gives a stream another statement.
#[utoipa::path(
    put, path = "/streams/{name}", tag = "streams",
    params(("name" = String, Path)),
    request_body = Statement,
    responses(
        (
            status = 200,
            body = String,
            content_type = "text/plain",
            example = "Stream demo is replaced.",
        ),
        (status = 412, body = Envelope, description = "It was changed since"),
    ),
)]
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
        .map_err(|error| refused_change(error, &conditions, Code::Stream, "update stream error"))?;
    Ok(words(StatusCode::OK, format!("Stream {name} is replaced.")))
}

/// Deletes a stream.
#[utoipa::path(
    delete, path = "/streams/{name}", tag = "streams",
    params(("name" = String, Path), Removal),
    responses(
        (
            status = 200,
            body = String,
            content_type = "text/plain",
            example = "Stream demo is dropped.",
        ),
        (status = 412, body = Envelope, description = "It was changed since"),
    ),
)]
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
        .map_err(|error| refused_change(error, &conditions, Code::Stream, "delete stream error"))?;
    Ok(words(StatusCode::OK, format!("Stream {name} is dropped.")))
}

fn wrong(error: CatalogError) -> ApiError {
    refused(error, Code::Stream)
}

/// Names of all tables: there are none.
#[utoipa::path(
    get, path = "/tables", tag = "streams",
    responses((status = 200, body = Vec<String>)),
)]
async fn list_tables() -> Response {
    Json(json!([])).into_response()
}

/// The same: there are none.
#[utoipa::path(
    get, path = "/tabledetails", tag = "streams",
    responses((status = 200, body = Vec<Object>)),
)]
async fn details_of_tables() -> Response {
    Json(json!([])).into_response()
}

fn no_table(name: &str) -> ApiError {
    ApiError::not_found(format!("table {name} is not found"))
}

/// No table is there to be shown.
#[utoipa::path(
    get, path = "/tables/{name}", tag = "streams",
    params(("name" = String, Path)),
    responses((status = 404, body = Envelope)),
)]
async fn show_table(Path(name): Path<String>) -> ApiError {
    no_table(&name)
}

/// No table is there to be changed.
#[utoipa::path(
    put, path = "/tables/{name}", tag = "streams",
    params(("name" = String, Path)),
    responses((status = 404, body = Envelope)),
)]
async fn replace_table(Path(name): Path<String>) -> ApiError {
    no_table(&name)
}

/// No table is there to be deleted.
#[utoipa::path(
    delete, path = "/tables/{name}", tag = "streams",
    params(("name" = String, Path)),
    responses((status = 404, body = Envelope)),
)]
async fn remove_table(Path(name): Path<String>) -> ApiError {
    no_table(&name)
}

/// Refuses a table, and says what to use instead.
#[utoipa::path(
    post, path = "/tables", tag = "streams",
    request_body = Statement,
    responses((status = 400, body = Envelope)),
)]
async fn refuse_table() -> ApiError {
    ApiError::bad_request(
        Code::Stream,
        "create table error: tables serve joins, which a rule here does not do; write CREATE STREAM, and look values up downstream",
    )
}
