//! `/streams` and `/streamdetails`; `/tables` says that there are none.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, OpenApi, ToSchema};

use super::error::{ApiError, Code, Envelope};
use super::etag::Conditions;
use super::extract::{Path, Query, flag};
use super::json::{Json, words};
use super::refused::{conditional, refused, refused_change};
use crate::catalog::{Catalog, CatalogError, StreamInfo};

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
    #[schema(example = "CREATE STREAM demo () WITH (TYPE=\"simulator\", FORMAT=\"json\")")]
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
async fn list(State(catalog): State<Catalog>) -> Json<Vec<String>> {
    Json(catalog.streams().into_iter().map(|one| one.name).collect())
}

/// A stream in the list.
#[derive(Serialize, ToSchema)]
struct StreamEntry {
    name: String,
    /// The connector that reads it.
    #[serde(rename = "type")]
    #[schema(example = "mqtt")]
    typ: String,
    /// How payloads are decoded.
    #[schema(example = "json")]
    format: String,
}

/// Names, types and formats of all streams.
#[utoipa::path(
    get, path = "/streamdetails", tag = "streams",
    responses((status = 200, body = Vec<StreamEntry>)),
)]
async fn details(State(catalog): State<Catalog>) -> Json<Vec<StreamEntry>> {
    let entry = |stream: StreamInfo| StreamEntry {
        name: stream.name,
        typ: stream.typ,
        format: stream.format,
    };
    Json(catalog.streams().into_iter().map(entry).collect())
}

/// One stream.
#[utoipa::path(
    get, path = "/streams/{name}", tag = "streams",
    params(("name" = String, Path, example = "demo")),
    responses(
        (status = 200, body = ref("#/components/schemas/Stream")),
        (status = 304, description = "As the client has it"),
    ),
)]
async fn show(
    State(catalog): State<Catalog>,
    Path(name): Path<String>,
    conditions: Conditions,
) -> Result<Response, ApiError> {
    let stream = catalog.stream(&name);
    let (stream, revision) =
        stream.ok_or_else(|| missing(&name).within("describe stream error"))?;
    Ok(conditions.show(revision, stream))
}

/// Columns of a stream, by name.
#[utoipa::path(
    get, path = "/streams/{name}/schema", tag = "streams",
    params(("name" = String, Path, example = "demo")),
    responses((status = 200, body = ref("#/components/schemas/Columns"))),
)]
async fn schema(
    State(catalog): State<Catalog>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let schema = catalog.stream_schema(&name);
    let schema = schema.ok_or_else(|| missing(&name).within("get schema of stream error"))?;
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
        .map_err(|error| wrong(error).within("Stream command error"))?;
    let text = format!("Stream {name} is created.");
    Ok(words(StatusCode::CREATED, text))
}

/// Gives a stream another statement.
#[utoipa::path(
    put, path = "/streams/{name}", tag = "streams",
    params(("name" = String, Path, example = "demo"), Conditions),
    request_body = Statement,
    responses(
        (
            status = 200,
            body = String,
            content_type = "text/plain",
            example = "Stream demo is replaced.",
        ),
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
        .map_err(|error| {
            refused_change(error, &conditions, Code::Stream, "Stream command error")
        })?;
    Ok(words(StatusCode::OK, format!("Stream {name} is replaced.")))
}

/// Deletes a stream.
#[utoipa::path(
    delete, path = "/streams/{name}", tag = "streams",
    params(("name" = String, Path, example = "demo"), Removal, Conditions),
    responses(
        (
            status = 200,
            body = String,
            content_type = "text/plain",
            example = "Stream demo is dropped.",
        ),
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
async fn list_tables() -> Json<[String; 0]> {
    Json([])
}

/// The same: there are none.
#[utoipa::path(
    get, path = "/tabledetails", tag = "streams",
    responses((status = 200, body = Vec<StreamEntry>)),
)]
async fn details_of_tables() -> Json<[StreamEntry; 0]> {
    Json([])
}

fn no_table(name: &str) -> ApiError {
    ApiError::not_found(format!("table {name} is not found"))
}

/// No table is there to be shown.
#[utoipa::path(
    get, path = "/tables/{name}", tag = "streams",
    params(("name" = String, Path, example = "demo")),
    responses((status = 404, body = Envelope)),
)]
async fn show_table(Path(name): Path<String>) -> ApiError {
    no_table(&name)
}

/// No table is there to be changed.
#[utoipa::path(
    put, path = "/tables/{name}", tag = "streams",
    params(("name" = String, Path, example = "demo")),
    responses((status = 404, body = Envelope)),
)]
async fn replace_table(Path(name): Path<String>) -> ApiError {
    no_table(&name)
}

/// No table is there to be deleted.
#[utoipa::path(
    delete, path = "/tables/{name}", tag = "streams",
    params(("name" = String, Path, example = "demo")),
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
        "Table command error: tables serve joins, which a rule here does not do; write CREATE STREAM, and look values up downstream",
    )
}
