//! `GET /events`: states of connections and rules as they change, as server-sent events. First the
//! present states, then `synced`, then each change. A client that reads too slowly is not told every
//! step in between: it gets `resync` with the number of steps that it was not told, and all present
//! states again.
//!
//! Events have no ids, and `Last-Event-ID` says nothing here: steps are kept for nobody, and who comes
//! back gets the present states first like everybody.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream;
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use utoipa::{IntoParams, OpenApi};

use super::Stopping;
use super::auth::Identity;
use super::error::{ApiError, Code, Envelope};
use super::system::View;
use crate::snapshot::Change;

/// Listeners at once; one more is answered 503.
const CLIENTS: usize = 64;
/// How often a silent stream says that it is still there.
const ALIVE: Duration = Duration::from_secs(15);
/// The kinds of things that change.
const KINDS: [&str; 2] = ["connection", "rule"];
/// Values of one parameter; nobody names more.
const MOST: usize = 256;

#[derive(OpenApi)]
#[openapi(paths(events))]
pub(super) struct Doc;

/// The routes, over this view.
pub fn routes(view: Arc<dyn View>) -> Router {
    Router::new()
        .route("/events", get(events))
        .with_state(Source {
            view,
            places: Arc::new(Semaphore::new(CLIENTS)),
        })
}

#[derive(Clone, Debug)]
struct Source {
    view: Arc<dyn View>,
    places: Arc<Semaphore>,
}

/// What to hear of. Each may be given several times; without any of a name, all.
#[derive(Debug, Default, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// `connection`, `rule`.
    #[param(required = false)]
    kind: Vec<String>,
    /// Ids.
    #[param(required = false)]
    id: Vec<String>,
}

impl Filter {
    fn read(query: Option<&str>) -> Result<Self, ApiError> {
        let mut filter = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "kind" if KINDS.contains(&&*value) => filter.kind.push(value.into_owned()),
                "kind" => {
                    let value: String = value.chars().take(40).collect();
                    let kinds = KINDS.join(", ");
                    let sentence = format!("kind: \"{value}\" is not known; Allowed: {kinds}");
                    return Err(ApiError::bad_request(Code::Undefined, sentence));
                }
                "id" => filter.id.push(value.into_owned()),
                _ => {}
            }
            if filter.kind.len() + filter.id.len() > MOST {
                let sentence = format!("more than {MOST} kinds and ids are named");
                return Err(ApiError::bad_request(Code::Undefined, sentence));
            }
        }
        Ok(filter)
    }

    fn wants(&self, change: &Change) -> bool {
        let among = |list: &[String], value: &str| {
            list.is_empty() || list.iter().any(|wanted| wanted == value)
        };
        among(&self.kind, change.kind()) && among(&self.id, change.id())
    }
}

/// States of connections and rules as they change (server-sent events). `event` is `connection` or
/// `rule` with its state; `synced` after the present states; `resync` when the client was too slow:
/// `missed` changes were not told, and all states follow again. With a filter, changes that it does not
/// take may be among the missed ones.
#[utoipa::path(
    get, path = "/events", tag = "events",
    params(Filter),
    responses(
        (
            status = 200,
            body = String,
            content_type = "text/event-stream",
            example = "event: connection\ndata: {\"event\":\"connection\",\"id\":\"plant\",\"status\":\"connected\",\"err\":\"\"}\n\n",
        ),
        (status = 400, body = Envelope),
        (status = 503, body = Envelope, description = "Too many are listening"),
    ),
)]
async fn events(
    State(source): State<Source>,
    RawQuery(query): RawQuery,
    Extension(Stopping(stop)): Extension<Stopping>,
    identity: Identity,
) -> Result<Response, ApiError> {
    let filter = Filter::read(query.as_deref())?;
    let place = Arc::clone(&source.places)
        .try_acquire_owned()
        .map_err(|_full| ApiError::unavailable("too many are listening to events", 10))?;
    let mut listener = Listener {
        changes: source.view.changes(&identity.tenant),
        tenant: identity.tenant,
        view: source.view,
        filter,
        waiting: VecDeque::new(),
        _place: place,
    };
    listener.states();
    let stream = stream::unfold(listener, move |mut listener| {
        let stop = stop.clone();
        async move {
            tokio::select! {
                event = listener.next() => event.map(|event| (Ok::<_, Infallible>(event), listener)),
                () = stop.cancelled() => None,
            }
        }
    });
    let sse = Sse::new(stream).keep_alive(KeepAlive::new().interval(ALIVE));
    let mut response = sse.into_response();
    // A proxy in between is not to collect them.
    response.headers_mut().insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Ok(response)
}

struct Listener {
    view: Arc<dyn View>,
    tenant: Arc<str>,
    changes: broadcast::Receiver<Change>,
    filter: Filter,
    waiting: VecDeque<Event>,
    _place: OwnedSemaphorePermit,
}

/// What the client was not told, because it did not read.
#[derive(Serialize)]
struct Missed {
    /// Changes of state. Those that were gone before anybody could ask the filter all count.
    missed: u64,
}

impl Listener {
    /// All present states, and that they were all.
    fn states(&mut self) {
        let states = self.view.snapshot(&self.tenant).states();
        let wanted = states.iter().filter(|state| self.filter.wants(state));
        self.waiting
            .extend(wanted.map(|state| event(state.kind(), state)));
        self.waiting
            .push_back(Event::default().event("synced").data("{}"));
    }

    /// Takes what waits, which the present states make up for: how much of it was wanted. Before the
    /// states are read, so that no change falls in between.
    fn pass_over(&mut self) -> u64 {
        let mut passed = 0;
        // Bounded by what the channel holds: those that come meanwhile may wait.
        for _ in 0..self.changes.len() {
            match self.changes.try_recv() {
                Ok(Change::Missed { missed }) => passed += missed,
                Ok(change) => passed += u64::from(self.filter.wants(&change)),
                Err(TryRecvError::Lagged(gone)) => passed += gone,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        passed
    }

    /// # Cancel safety
    /// Nothing is lost.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            let gone = match self.changes.recv().await {
                Ok(Change::Missed { missed }) => missed,
                Ok(change) if self.filter.wants(&change) => {
                    return Some(event(change.kind(), &change));
                }
                Ok(_) => continue,
                Err(RecvError::Lagged(gone)) => gone,
                Err(RecvError::Closed) => return None,
            };
            let missed = gone + self.pass_over();
            self.waiting.push_back(event("resync", &Missed { missed }));
            self.states();
        }
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    // Plain rows can always be written.
    let data = serde_json::to_string(data).unwrap_or_default();
    Event::default().event(name).data(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_each_name_several_times_and_refuses_unknown_kinds() {
        let filter = Filter::read(Some("kind=rule&id=a%2Fb&id=c&x=1")).unwrap();
        let rule = |id: &str| Change::Rule {
            id: id.into(),
            status: "running".into(),
            message: String::new(),
        };
        assert!(
            filter.wants(&rule("a/b")) && filter.wants(&rule("c")) && !filter.wants(&rule("d"))
        );
        let connection = Change::Connection {
            id: "c".into(),
            status: "connected".into(),
            err: String::new(),
            warnings: Vec::new(),
        };
        assert!(!filter.wants(&connection) && Filter::default().wants(&connection));
        let error = Filter::read(Some("kind=rules")).unwrap_err();
        assert!(error.message().contains("Allowed: connection, rule"));
        assert!(Filter::read(Some(&"id=a&".repeat(300))).is_err());
    }
}
