//! `/async/task`: work that a client has begun and asks after later, in eKuiper's words. Knows no
//! resource: whoever has long work takes a place here, and says how it went.
//!
//! Kept in memory: after a restart nobody knows of a task any more, and what it has done is done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::{OpenApi, ToSchema};

use super::error::ApiError;
use super::extract::Path;
use super::json::{Json, words};

/// Tasks that are remembered; the oldest that is over makes room.
const MOST: usize = 100;

#[derive(OpenApi)]
#[openapi(paths(show, cancel))]
pub(super) struct Doc;

/// The routes, over these tasks.
pub fn routes(tasks: Tasks) -> Router {
    Router::new()
        .route("/async/task/{id}", get(show))
        .route("/async/task/{id}/cancel", post(cancel))
        .with_state(tasks)
}

/// All tasks of this process. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Tasks(Arc<Mutex<VecDeque<Known>>>);

#[derive(Debug)]
struct Known {
    task: Task,
    cancelled: CancellationToken,
}

/// Where a task is. The words are eKuiper's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = TaskStatus)]
enum Status {
    /// It waits for its turn.
    Register,
    /// It is at work.
    Running,
    /// It is done.
    Finish,
    /// It has failed, as a whole or in part.
    Error,
    /// It was cancelled: what it had done by then stays.
    Cancel,
}

/// A task.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Task {
    #[schema(example = "dataImport-1764306000")]
    id: String,
    status: Status,
    /// What came of it.
    message: String,
    /// In seconds since 1970; so is the other time.
    created_timestamp: u64,
    /// When its status changed last.
    updated_timestamp: u64,
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

impl Tasks {
    /// A place for work of this kind.
    ///
    /// # Errors
    /// 503: too many are not over.
    pub(super) fn register(&self, kind: &str) -> Result<Registered, ApiError> {
        let mut all = self.0.lock();
        if all.len() >= MOST {
            let over =
                |known: &Known| !matches!(known.task.status, Status::Register | Status::Running);
            let Some(place) = all.iter().position(over) else {
                return Err(ApiError::unavailable("too many tasks are not done yet", 10));
            };
            all.remove(place);
        }
        let now = now_s();
        let base = format!("{kind}-{now}");
        // Several in one second are told apart.
        let id = (1..)
            .map(|number| match number {
                1 => base.clone(),
                number => format!("{base}-{number}"),
            })
            .find(|id| all.iter().all(|known| known.task.id != *id))
            .unwrap_or(base);
        let cancelled = CancellationToken::new();
        all.push_back(Known {
            task: Task {
                id: id.clone(),
                status: Status::Register,
                message: String::new(),
                created_timestamp: now,
                updated_timestamp: now,
            },
            cancelled: cancelled.clone(),
        });
        Ok(Registered {
            tasks: self.clone(),
            id,
            cancelled,
        })
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Known)) -> bool {
        let mut all = self.0.lock();
        let Some(known) = all.iter_mut().find(|known| known.task.id == id) else {
            return false;
        };
        change(known);
        known.task.updated_timestamp = now_s();
        true
    }

    fn enter(&self, id: &str, status: Status, message: String) {
        self.change(id, |known| {
            known.task.status = status;
            known.task.message = message;
        });
    }
}

/// A task's place. Whoever has it says how it goes; dropped before its end, the task has failed.
#[derive(Debug)]
pub(super) struct Registered {
    tasks: Tasks,
    id: String,
    /// Somebody has cancelled it.
    pub(super) cancelled: CancellationToken,
}

impl Registered {
    /// Under which name clients ask after it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Its turn has come.
    pub(super) fn begin(&self) {
        self.tasks.enter(&self.id, Status::Running, String::new());
    }

    /// It is over: done, or with what has failed.
    pub(super) fn end(mut self, result: Result<String, String>) {
        let (status, message) = match result {
            _ if self.cancelled.is_cancelled() => {
                let message = result.unwrap_or_else(|failed| failed);
                (Status::Cancel, message)
            }
            Ok(message) => (Status::Finish, message),
            Err(message) => (Status::Error, message),
        };
        let id = std::mem::take(&mut self.id);
        self.tasks.enter(&id, status, message);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if !self.id.is_empty() {
            let message = "ended by a fault of the host; its log says more".to_owned();
            self.tasks.enter(&self.id, Status::Error, message);
        }
    }
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(format!("async task: {id} not found"))
}

/// Where a task is.
#[utoipa::path(
    get, path = "/async/task/{id}", tag = "import and export",
    params(("id" = String, Path, example = "dataImport-1764306000")),
    responses((status = 200, body = Task)),
)]
async fn show(State(tasks): State<Tasks>, Path(id): Path<String>) -> Result<Json<Task>, ApiError> {
    let all = tasks.0.lock();
    let known = all.iter().find(|known| known.task.id == id);
    let known = known.ok_or_else(|| missing(&id))?;
    Ok(Json(known.task.clone()))
}

/// Cancels a task: what it has not begun is left. One that is over stays as it is.
#[utoipa::path(
    post, path = "/async/task/{id}/cancel", tag = "import and export",
    params(("id" = String, Path, example = "dataImport-1764306000")),
    responses((status = 200, body = String, content_type = "text/plain", example = "cancel success")),
)]
async fn cancel(State(tasks): State<Tasks>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let found = tasks.change(&id, |known| known.cancelled.cancel());
    if !found {
        return Err(missing(&id));
    }
    Ok(words(StatusCode::OK, "cancel success"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(tasks: &Tasks, id: &str) -> Option<(Status, String)> {
        let all = tasks.0.lock();
        let known = all.iter().find(|known| known.task.id == id)?;
        Some((known.task.status, known.task.message.clone()))
    }

    #[test]
    fn a_task_goes_from_word_to_word_and_a_dropped_one_has_failed() {
        let tasks = Tasks::default();
        let one = tasks.register("dataImport").unwrap();
        let id = one.id().to_owned();
        assert!(id.starts_with("dataImport-"), "{id}");
        assert_eq!(status(&tasks, &id), Some((Status::Register, String::new())));
        one.begin();
        assert_eq!(status(&tasks, &id), Some((Status::Running, String::new())));
        one.end(Ok("all".to_owned()));
        assert_eq!(
            status(&tasks, &id),
            Some((Status::Finish, "all".to_owned()))
        );
        let two = tasks.register("dataImport").unwrap();
        let id = two.id().to_owned();
        drop(two);
        assert_eq!(status(&tasks, &id).unwrap().0, Status::Error);
        let three = tasks.register("dataImport").unwrap();
        let id = three.id().to_owned();
        three.cancelled.cancel();
        three.end(Err("some".to_owned()));
        assert_eq!(
            status(&tasks, &id),
            Some((Status::Cancel, "some".to_owned()))
        );
    }

    #[test]
    fn tasks_are_told_apart_and_bounded() {
        let tasks = Tasks::default();
        let mut open: Vec<_> = (0..MOST)
            .map(|_| tasks.register("dataImport").unwrap())
            .collect();
        let ids: std::collections::HashSet<_> =
            open.iter().map(|one| one.id().to_owned()).collect();
        assert_eq!(ids.len(), MOST);
        assert_eq!(tasks.register("dataImport").unwrap_err().status(), 503);
        open.remove(7).end(Ok(String::new()));
        assert!(tasks.register("dataImport").is_ok());
        assert_eq!(tasks.0.lock().len(), MOST);
    }
}
