//! Import and export in eKuiper's shapes: `/ruleset`, `/data`, and `/v2/data` in YAML. Secrets are
//! masked, unless an administrator who has shown a token asks for them with `secrets=true`.
//!
//! Unlike eKuiper, an import names every item that it cannot take, takes over live what differs, and
//! reads no file of the server's: `file` is refused.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::{HeaderName, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, OpenApi, ToSchema};

use super::auth::Identity;
use super::error::{ApiError, Code, Envelope};
use super::extract::{Query, flag};
use super::json::{Json, words};
use super::tasks::Tasks;
use super::{Background, body_limit};
use crate::catalog::{Catalog, ImportMode, Imported};
use crate::config::ekuiper::{Bundle, Section, read_export};

/// The largest import, in bytes.
const LARGEST: usize = 64 * 1024 * 1024;

#[derive(OpenApi)]
#[openapi(paths(
    export_ruleset,
    import_ruleset,
    export_data,
    export_part,
    import_data,
    import_data_later,
    last,
    export_yaml,
    import_yaml
))]
pub(super) struct Doc;

/// The routes, over this catalog.
pub fn routes(catalog: Catalog, tasks: Tasks, leave: CancellationToken) -> Router {
    Router::new()
        .route("/ruleset/export", post(export_ruleset))
        .route("/ruleset/import", post(import_ruleset))
        .route("/data/export", get(export_data).post(export_part))
        .route("/data/import", post(import_data))
        .route("/data/import/status", get(last))
        .route("/async/data/import", post(import_data_later))
        .route("/v2/data/export", get(export_yaml))
        .route("/v2/data/import", post(import_yaml))
        .layer(body_limit(LARGEST))
        .with_state(Transfer {
            catalog,
            tasks,
            leave,
            turn: Arc::default(),
            last: Arc::new(Mutex::new(response(&Imported::default()))),
        })
}

#[derive(Clone)]
struct Transfer {
    catalog: Catalog,
    tasks: Tasks,
    /// Ends the process, which its supervisor starts anew.
    leave: CancellationToken,
    /// One import at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What came of the last one.
    last: Arc<Mutex<Value>>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Export {
    /// `true`: with secrets.
    secrets: Option<String>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Import {
    /// `1`: what is not in the import stays.
    partial: Option<String>,
    /// `1`: when all of it was taken in, the process ends with exit code 100, as eKuiper's does.
    /// Nothing here needs that. Means nothing with `partial`.
    stop: Option<String>,
}

impl Import {
    fn mode(&self) -> ImportMode {
        match flag(self.partial.as_deref()) {
            true => ImportMode::Partial,
            false => ImportMode::Full,
        }
    }

    fn stops(&self) -> bool {
        flag(self.stop.as_deref()) && self.mode() == ImportMode::Full
    }
}

/// An export in a body.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Definitions)]
struct Given {
    /// What was exported, as text.
    #[serde(default)]
    content: String,
    /// Not taken: this server reads no files for its clients.
    #[serde(default)]
    file: String,
}

impl Given {
    fn bundle(self) -> Result<Bundle, ApiError> {
        let wrong = |message: String| ApiError::bad_request(Code::Undefined, message);
        match (self.content.is_empty(), self.file.is_empty()) {
            (false, false) => {
                return Err(wrong(
                    "Invalid body: Cannot specify both content and file".to_owned(),
                ));
            }
            (true, true) => {
                return Err(wrong(
                    "Invalid body: must specify content or file".to_owned(),
                ));
            }
            (true, false) => {
                return Err(wrong(
                    "Invalid body: this server reads no files for its clients; send the text itself as \"content\"".to_owned(),
                ));
            }
            (false, true) => {}
        }
        read_export("content", &self.content).map_err(|errors| {
            let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
            wrong(format!("Invalid body: {}", texts.join("; ")))
        })
    }
}

/// Everything, masked unless secrets were asked for by somebody who may see them.
fn exported(transfer: &Transfer, identity: &Identity, export: &Export) -> Result<Bundle, ApiError> {
    let wanted = flag(export.secrets.as_deref());
    if wanted && !identity.may_see_secrets() {
        return Err(ApiError::forbidden(
            "secrets are shown only to an administrator who has shown a token",
        ));
    }
    Ok(transfer.catalog.export(!wanted))
}

/// A file to be kept, as eKuiper sends it.
fn attachment(body: String) -> Response {
    let head: [(HeaderName, HeaderValue); 2] = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("Attachment"),
        ),
    ];
    (head, body).into_response()
}

/// Streams and rules, as a file.
#[utoipa::path(
    post, path = "/ruleset/export", tag = "import and export",
    params(Export),
    responses((status = 200, body = String, content_type = "application/octet-stream")),
)]
async fn export_ruleset(
    State(transfer): State<Transfer>,
    identity: Identity,
    Query(export): Query<Export>,
) -> Result<Response, ApiError> {
    let bundle = exported(&transfer, &identity, &export)?;
    Ok(attachment(bundle.to_ruleset().to_string()))
}

/// Everything that is defined, as a file.
#[utoipa::path(
    get, path = "/data/export", tag = "import and export",
    params(Export),
    responses((status = 200, body = String, content_type = "application/octet-stream")),
)]
async fn export_data(
    State(transfer): State<Transfer>,
    identity: Identity,
    Query(export): Query<Export>,
) -> Result<Response, ApiError> {
    let bundle = exported(&transfer, &identity, &export)?;
    Ok(attachment(bundle.to_data().to_string()))
}

/// Some rules with all that they need, as a file.
#[utoipa::path(
    post, path = "/data/export", tag = "import and export",
    params(Export),
    request_body = Vec<String>,
    responses(
        (status = 200, body = String, content_type = "application/octet-stream"),
        (status = 404, body = Envelope, description = "There is no such rule"),
    ),
)]
async fn export_part(
    State(transfer): State<Transfer>,
    identity: Identity,
    Query(export): Query<Export>,
    Json(rules): Json<Vec<String>>,
) -> Result<Response, ApiError> {
    let bundle = exported(&transfer, &identity, &export)?;
    let (part, missing) = bundle.of_rules(&rules);
    if !missing.is_empty() {
        let message = format!("Rule {} is not found.", missing.join(", "));
        return Err(ApiError::not_found(message));
    }
    Ok(attachment(part.to_data().to_string()))
}

/// Everything that is defined, as YAML.
#[utoipa::path(
    get, path = "/v2/data/export", tag = "import and export",
    params(Export),
    responses((status = 200, body = String, content_type = "application/octet-stream")),
)]
async fn export_yaml(
    State(transfer): State<Transfer>,
    identity: Identity,
    Query(export): Query<Export>,
) -> Result<Response, ApiError> {
    let bundle = exported(&transfer, &identity, &export)?;
    Ok(attachment(bundle.to_data_yaml()))
}

impl Transfer {
    async fn import(&self, given: Given, mode: ImportMode) -> Result<Imported, ApiError> {
        let bundle = given.bundle()?;
        let _turn = self.turn.lock().await;
        Ok(self.take_in(bundle, mode, &CancellationToken::new()).await)
    }

    /// `turn` must be held.
    async fn take_in(
        &self,
        bundle: Bundle,
        mode: ImportMode,
        cancelled: &CancellationToken,
    ) -> Imported {
        let done = self.catalog.import_until(bundle, mode, cancelled).await;
        tracing::info!(
            streams = done.streams,
            rules = done.rules,
            deleted = done.deleted.len(),
            failed = done.failed.len(),
            "definitions were imported"
        );
        *self.last.lock() = response(&done);
        done
    }
}

/// Takes in streams and rules that are not there yet.
#[utoipa::path(
    post, path = "/ruleset/import", tag = "import and export",
    request_body = Given,
    responses(
        (
            status = 200,
            body = String,
            content_type = "text/plain",
            example = "imported 1 streams, 0 tables and 2 rules",
        ),
    ),
)]
async fn import_ruleset(
    State(transfer): State<Transfer>,
    Json(given): Json<Given>,
) -> Result<Response, ApiError> {
    let done = transfer.import(given, ImportMode::New).await?;
    if !done.failed.is_empty() {
        return Err(ApiError::bad_request(Code::Undefined, reasons(&done)));
    }
    let (streams, rules) = (done.streams, done.rules);
    let text = format!("imported {streams} streams, 0 tables and {rules} rules");
    Ok(words(StatusCode::OK, text))
}

/// Takes in everything that is defined elsewhere; what is not in it goes, unless `partial`.
#[utoipa::path(
    post, path = "/data/import", tag = "import and export",
    params(Import),
    request_body = Given,
    responses((status = 200, body = ref("#/components/schemas/ImportResult"))),
)]
async fn import_data(
    State(transfer): State<Transfer>,
    Query(import): Query<Import>,
    Json(given): Json<Given>,
) -> Result<Response, ApiError> {
    let done = transfer.import(given, import.mode()).await?;
    match outcome(&done) {
        Ok(answer) => {
            if import.stops() {
                transfer.leave.cancel();
            }
            Ok(Json(answer).into_response())
        }
        Err(answer) => Err(ApiError::bad_request(Code::Undefined, answer.to_string())),
    }
}

/// eKuiper's answer to an import; an error if some items were not taken in.
fn outcome(done: &Imported) -> Result<Value, Value> {
    let answer = |error: &str| json!({ "ErrorMsg": error, "ConfigResponse": response(done) });
    match done.failed.is_empty() {
        true => Ok(answer("")),
        false => Err(answer("process error")),
    }
}

/// A task that was begun.
#[derive(Serialize, ToSchema)]
struct Begun {
    /// For `GET /async/task/{id}`.
    #[schema(example = "dataImport-1764306000")]
    id: String,
}

/// The same, and the answer does not wait for it: `GET /async/task/{id}` says how it goes.
#[utoipa::path(
    post, path = "/async/data/import", tag = "import and export",
    params(Import),
    request_body = Given,
    responses((status = 200, body = Begun)),
)]
async fn import_data_later(
    State(transfer): State<Transfer>,
    Extension(Background(background)): Extension<Background>,
    Query(import): Query<Import>,
    Json(given): Json<Given>,
) -> Result<Json<Begun>, ApiError> {
    // What cannot be read is said at once.
    let bundle = given.bundle()?;
    let task = transfer.tasks.register("dataImport")?;
    let id = task.id().to_owned();
    background.spawn(async move {
        let _turn = transfer.turn.lock().await;
        if task.cancelled.is_cancelled() {
            return task.end(Ok(String::new()));
        }
        task.begin();
        let done = transfer
            .take_in(bundle, import.mode(), &task.cancelled)
            .await;
        let result = outcome(&done);
        let is_whole = result.is_ok();
        task.end(
            result
                .map(|answer| answer.to_string())
                .map_err(|answer| format!("err:process error, response:{answer}")),
        );
        if is_whole && import.stops() {
            transfer.leave.cancel();
        }
    });
    Ok(Json(Begun { id }))
}

/// Takes in YAML; what is not in it stays.
#[utoipa::path(
    post, path = "/v2/data/import", tag = "import and export",
    request_body = Given,
    responses((status = 200, body = String, content_type = "text/plain", example = "success")),
)]
async fn import_yaml(
    State(transfer): State<Transfer>,
    Json(given): Json<Given>,
) -> Result<Response, ApiError> {
    let done = transfer.import(given, ImportMode::Partial).await?;
    if !done.failed.is_empty() {
        let message = format!("import failed: {}", reasons(&done));
        return Err(ApiError::bad_request(Code::Undefined, message));
    }
    Ok(words(StatusCode::OK, "success"))
}

/// What came of the last import.
#[utoipa::path(
    get, path = "/data/import/status", tag = "import and export",
    responses((status = 200, body = ref("#/components/schemas/ImportSections"))),
)]
async fn last(State(transfer): State<Transfer>) -> Response {
    Json(transfer.last.lock().clone()).into_response()
}

/// eKuiper's answer: twelve sections, each with the reasons by item; empty where all is well.
fn response(done: &Imported) -> Value {
    let mut sections = Map::new();
    for section in Section::ALL {
        let reasons: Map<String, Value> = done
            .failed
            .iter()
            .filter(|((of, _), _)| *of == section)
            .map(|((_, id), why)| (id.clone(), why.as_str().into()))
            .collect();
        sections.insert(section.key().to_owned(), Value::Object(reasons));
    }
    Value::Object(sections)
}

/// All reasons in one sentence.
fn reasons(done: &Imported) -> String {
    let reasons = done.failed.iter();
    let texts: Vec<_> = reasons
        .map(|((section, id), why)| format!("{} {id}: {why}", section.item()))
        .collect();
    texts.join("; ")
}
