//! `/deadletters`: what could not be delivered, and why; to be read, sent again, removed.

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::{Array, Ref};
use utoipa::{IntoParams, OpenApi, ToSchema};

use super::error::{ApiError, Code};
use super::extract::{Path, Query};
use super::json::Json;
use super::refused::refused;
use crate::catalog::{Catalog, TENANT};
use crate::store::{KeptLetter, LetterFilter, StoreError};

/// Letters of one answer, unless told.
const PAGE: u32 = 100;
/// Letters of one answer at most.
const MOST: u32 = 1000;

#[derive(OpenApi)]
#[openapi(paths(list, show, remove, resend, remove_all, resend_all))]
pub(super) struct Doc;

/// The routes, over this catalog.
pub fn routes(catalog: Catalog) -> Router {
    Router::new()
        .route("/deadletters", get(list).delete(remove_all))
        .route("/deadletters/resend", post(resend_all))
        .route("/deadletters/{id}", get(show).delete(remove))
        .route("/deadletters/{id}/resend", post(resend))
        .with_state(catalog)
}

/// Which letters; all conditions must hold.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Of this rule.
    rule: Option<String>,
    /// Of this action: its type and place, `mqtt_0`.
    action: Option<String>,
    /// Of this stream.
    stream: Option<String>,
    /// Of this kind of failure.
    kind: Option<String>,
    /// With this code.
    code: Option<String>,
    /// Given up then or later, in milliseconds since the Unix epoch.
    since: Option<u64>,
    /// Given up before then.
    until: Option<u64>,
    /// Only higher numbers: for the next page.
    after: Option<i64>,
    /// Letters of one answer: 100 unless told, 1000 at most.
    limit: Option<u32>,
    /// `true`, where all of them are meant.
    all: Option<String>,
}

impl Filter {
    fn wanted(&self) -> LetterFilter {
        LetterFilter {
            tenant: TENANT.to_owned(),
            rule: self.rule.clone(),
            action: self.action.clone(),
            stream: self.stream.clone(),
            kind: self.kind.clone(),
            code: self.code.clone(),
            since_ms: self.since,
            until_ms: self.until,
            after: self.after,
        }
    }

    /// Somebody who changes many must say which.
    fn check_told(&self) -> Result<(), ApiError> {
        let words = [
            &self.rule,
            &self.action,
            &self.stream,
            &self.kind,
            &self.code,
        ];
        let told = words.into_iter().any(Option::is_some)
            || self.since.is_some()
            || self.until.is_some()
            || super::extract::flag(self.all.as_deref());
        if told {
            return Ok(());
        }
        Err(ApiError::bad_request(
            Code::Undefined,
            "which dead letters? Give rule, action, stream, kind, code, since or until in the query, or all=true",
        ))
    }
}

fn failed(error: StoreError) -> ApiError {
    refused(error.into(), Code::Undefined)
}

fn missing(id: i64) -> ApiError {
    ApiError::not_found(format!("there is no dead letter {id}"))
}

/// A page of dead letters.
#[derive(Serialize, ToSchema)]
struct Page {
    /// How many there are that the query takes, on all pages.
    total: u64,
    /// For `after`, to get the next page; null: this is the last one.
    next: Option<i64>,
    /// By number.
    #[schema(schema_with = letters)]
    letters: Vec<Value>,
}

fn letters() -> Array {
    Array::new(Ref::from_schema_name("DeadLetter"))
}

/// How many were deleted.
#[derive(Serialize, ToSchema)]
struct Removed {
    removed: u64,
}

/// How many were marked.
#[derive(Serialize, ToSchema)]
struct Resend {
    resend: u64,
}

/// Dead letters, a page of them.
#[utoipa::path(
    get, path = "/deadletters", tag = "dead letters",
    params(Filter),
    responses((status = 200, body = Page)),
)]
async fn list(
    State(catalog): State<Catalog>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page>, ApiError> {
    let limit = filter.limit.unwrap_or(PAGE).clamp(1, MOST);
    let wanted = filter.wanted();
    let page = catalog
        .store()
        .letters(&wanted, limit)
        .await
        .map_err(failed)?;
    let every = LetterFilter {
        after: None,
        ..wanted
    };
    let total = catalog
        .store()
        .count_letters(&every)
        .await
        .map_err(failed)?;
    let next = (page.len() == limit as usize)
        .then(|| page.last().map(|kept| kept.id))
        .flatten();
    let letters = page.iter().map(KeptLetter::to_json).collect();
    Ok(Json(Page {
        total,
        next,
        letters,
    }))
}

/// One dead letter with its payload.
#[utoipa::path(
    get, path = "/deadletters/{id}", tag = "dead letters",
    params(("id" = i64, Path)),
    responses((status = 200, body = ref("#/components/schemas/DeadLetter"))),
)]
async fn show(
    State(catalog): State<Catalog>,
    Path(id): Path<i64>,
) -> Result<Json<Value>, ApiError> {
    let kept = catalog.store().letter(TENANT, id).await.map_err(failed)?;
    let kept = kept.ok_or_else(|| missing(id))?;
    Ok(Json(kept.to_json()))
}

/// Deletes a dead letter.
#[utoipa::path(
    delete, path = "/deadletters/{id}", tag = "dead letters",
    params(("id" = i64, Path)),
    responses((status = 200, body = Removed)),
)]
async fn remove(
    State(catalog): State<Catalog>,
    Path(id): Path<i64>,
) -> Result<Json<Removed>, ApiError> {
    let removed = catalog
        .store()
        .remove_letters(TENANT, &[id])
        .await
        .map_err(failed)?;
    if removed == 0 {
        return Err(missing(id));
    }
    Ok(Json(Removed { removed }))
}

/// Marks a dead letter to be sent again.
#[utoipa::path(
    post, path = "/deadletters/{id}/resend", tag = "dead letters",
    params(("id" = i64, Path)),
    responses((status = 200, body = Resend)),
)]
async fn resend(
    State(catalog): State<Catalog>,
    Path(id): Path<i64>,
) -> Result<Json<Resend>, ApiError> {
    let known = catalog.store().letter(TENANT, id).await.map_err(failed)?;
    known.ok_or_else(|| missing(id))?;
    let marked = catalog
        .store()
        .mark_resend(TENANT, &[id])
        .await
        .map_err(failed)?;
    Ok(Json(Resend { resend: marked }))
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Remove,
    Resend,
}

/// Pages through all that the filter takes.
async fn change_all(catalog: &Catalog, filter: &Filter, change: Change) -> Result<u64, ApiError> {
    filter.check_told()?;
    let store = catalog.store();
    let mut wanted = filter.wanted();
    let mut changed = 0;
    loop {
        let page = store.letters(&wanted, MOST).await.map_err(failed)?;
        let Some(last) = page.last() else {
            return Ok(changed);
        };
        wanted.after = Some(last.id);
        let ids: Vec<i64> = page.iter().map(|kept| kept.id).collect();
        let done = match change {
            Change::Remove => store.remove_letters(TENANT, &ids).await,
            Change::Resend => store.mark_resend(TENANT, &ids).await,
        };
        changed += done.map_err(failed)?;
    }
}

/// Deletes all dead letters that the query takes.
#[utoipa::path(
    delete, path = "/deadletters", tag = "dead letters",
    params(Filter),
    responses((status = 200, body = Removed)),
)]
async fn remove_all(
    State(catalog): State<Catalog>,
    Query(filter): Query<Filter>,
) -> Result<Json<Removed>, ApiError> {
    let removed = change_all(&catalog, &filter, Change::Remove).await?;
    Ok(Json(Removed { removed }))
}

/// Marks all dead letters that the query takes to be sent again.
#[utoipa::path(
    post, path = "/deadletters/resend", tag = "dead letters",
    params(Filter),
    responses((status = 200, body = Resend)),
)]
async fn resend_all(
    State(catalog): State<Catalog>,
    Query(filter): Query<Filter>,
) -> Result<Json<Resend>, ApiError> {
    let marked = change_all(&catalog, &filter, Change::Resend).await?;
    Ok(Json(Resend { resend: marked }))
}
