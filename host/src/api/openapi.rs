//! `GET /openapi.json`: what can be asked and what is answered, generated from the handlers; and
//! `GET /docs`, a page that shows it with nothing from elsewhere.
//!
//! A handler is described by `#[utoipa::path]` beside it and named in the list of its file. What is the
//! same for all (who may not ask, what is too long) is entered here; a test compares the routes. What no
//! type of the code describes stands in `openapi/schemas.rs`. That answers are as described is for the
//! end-to-end tests, which compare each.

use std::sync::LazyLock;

use axum::Router;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use serde_json::Value;
use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};

use super::error::Envelope;
use super::etag::IF_MATCH;
use super::{
    connections, connectors, deadletters, events, metadata, metrics, rules, streams, system, tasks,
    transfer,
};

/// The scheme under which tokens are described.
const TOKEN: &str = "token";

#[derive(OpenApi)]
#[openapi(
    info(title = "Windlass", description = "eKuiper's connection management and rules over REST. \
        Errors are `{\"error\": <number>, \"message\": \"...\"}` with eKuiper's numbers."),
    paths(openapi, docs),
    components(schemas(Envelope)),
    tags(
        (name = "connections", description = "Named connections, shared by any number of rules"),
        (name = "conf keys", description = "Properties that streams refer to, and the check of a connection"),
        (name = "streams"),
        (name = "rules"),
        (name = "connectors", description = "WebAssembly components, those of the host and those of users"),
        (name = "dead letters", description = "Messages that could not be delivered, and why"),
        (name = "import and export", description = "In the shapes of eKuiper"),
        (name = "events", description = "States as they change"),
        (name = "system"),
    ),
)]
struct Doc;

mod schemas;

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| match described() {
    Ok(document) => document.to_string().into(),
    Err(error) => {
        tracing::error!(%error, "the description of REST cannot be written");
        Bytes::new()
    }
});

/// The routes.
pub fn routes() -> Router {
    Router::new()
        .route("/openapi.json", get(openapi))
        .route("/docs", get(docs))
}

/// This description.
#[utoipa::path(
    get, path = "/openapi.json", tag = "system",
    security(()),
    responses((status = 200, body = ref("#/components/schemas/OpenApi"))),
)]
async fn openapi() -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, kind)], DOCUMENT.clone()).into_response()
}

/// A page that shows this description.
#[utoipa::path(
    get, path = "/docs", tag = "system",
    security(()),
    responses((status = 200, body = String, content_type = "text/html")),
)]
async fn docs() -> Response {
    // Nothing of the page comes from elsewhere, and nothing of it goes there.
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'",
    );
    let page = Html(include_str!("openapi.html"));
    ([(CONTENT_SECURITY_POLICY, policy)], page).into_response()
}

/// All of it.
fn described() -> serde_json::Result<Value> {
    let mut all = serde_json::to_value(document())?;
    let known = all.pointer_mut("/components/schemas");
    if let Some(known) = known.and_then(Value::as_object_mut) {
        known.extend(schemas::all());
        known.sort_keys();
    }
    Ok(all)
}

/// What the code says of itself: one line for each resource.
fn document() -> utoipa::openapi::OpenApi {
    let mut doc = Doc::openapi()
        .merge_from(connections::Doc::openapi())
        .merge_from(metadata::Doc::openapi())
        .merge_from(streams::Doc::openapi())
        .merge_from(rules::Doc::openapi())
        .merge_from(connectors::Doc::openapi())
        .merge_from(deadletters::Doc::openapi())
        .merge_from(transfer::Doc::openapi())
        .merge_from(tasks::Doc::openapi())
        .merge_from(events::Doc::openapi())
        .merge_from(metrics::Doc::openapi())
        .merge_from(system::Doc::openapi());
    doc.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let mut token = Http::new(HttpAuthScheme::Bearer);
    token.bearer_format = Some("JWT".to_owned());
    token.description = Some(
        "Where authentication is on: RS256, ES256 or EdDSA, `aud` with `eKuiper` or `windlass`, \
         `role` one of read, operate, admin. `Bearer ` may be left out."
            .to_owned(),
    );
    doc.components
        .get_or_insert_default()
        .add_security_scheme(TOKEN, SecurityScheme::Http(token));
    for (path, item) in &mut doc.paths.paths {
        let operations = [
            ("get", &mut item.get),
            ("put", &mut item.put),
            ("post", &mut item.post),
            ("delete", &mut item.delete),
            ("patch", &mut item.patch),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                complete(method, path, operation);
            }
        }
    }
    doc
}

/// What every operation has, and those that have a body, a thing that may be missing, a condition.
fn complete(method: &str, path: &str, operation: &mut Operation) {
    operation.operation_id = Some(name_of(method, path));
    let is_free = operation.security.is_some();
    if !is_free {
        let needed = SecurityRequirement::new::<_, [&str; 0], &str>(TOKEN, []);
        operation.security = Some(vec![needed]);
    }
    let mut failures = vec![
        (400, "Not as it must be; no or several `Host`"),
        (403, "A foreign page asks, or the token's role is too low"),
        (421, "The host name is not this server's"),
        (503, "At present; try again"),
        (504, "It takes too long; what was begun may still happen"),
    ];
    if !is_free {
        failures.push((401, "The token is missing or not good"));
    }
    if path.contains('{') {
        failures.push((404, "There is none"));
    }
    if operation.request_body.is_some() {
        failures.extend([
            (408, "The body does not come"),
            (413, "The body is too large"),
            (415, "The body's encoding is not known"),
        ]);
    }
    let responses = &mut operation.responses.responses;
    let parameters = operation.parameters.iter().flatten();
    let is_conditional = parameters.clone().any(|parameter| match parameter {
        RefOr::T(parameter) => parameter.name == IF_MATCH,
        RefOr::Ref(_) => false,
    });
    if is_conditional {
        failures.push((
            412,
            "`If-Match`, `If-None-Match`: it was changed since, or is there",
        ));
    }
    for (status, why) in failures {
        responses.entry(status.to_string()).or_insert_with(|| {
            let envelope = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("Envelope")))
                .build();
            let response = ResponseBuilder::new()
                .description(why)
                .content("application/json", envelope);
            RefOr::T(response.build())
        });
    }
}

/// `GET /rules/{id}/status` is `get_rules_id_status`.
fn name_of(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    std::iter::once(method)
        .chain(words)
        .collect::<Vec<_>>()
        .join("_")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every `.route("path", get(..).post(..))` in the files of this folder.
    fn routed() -> BTreeSet<(String, String)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api");
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_code = path.extension().is_some_and(|ending| ending == "rs");
            if !is_code || path.ends_with("tests.rs") || path.ends_with("openapi.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for part in text.split(".route(").skip(1) {
                let path = part.split('"').nth(1).unwrap().to_owned();
                // Up to where the call of `route` is closed.
                let (mut depth, mut end) = (1, 0);
                for (at, c) in part.char_indices() {
                    depth += i32::from(c == '(') - i32::from(c == ')');
                    if depth == 0 {
                        end = at;
                        break;
                    }
                }
                let words: Vec<&str> = part[..end]
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .collect();
                for pair in words.windows(2) {
                    if ["get", "post", "put", "delete", "patch"].contains(&pair[0]) {
                        found.insert((pair[0].to_owned(), path.clone()));
                    }
                }
            }
        }
        found
    }

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let document = described().unwrap();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if path != "/openapi.json" && path != "/docs" {
                    described.insert((method.clone(), path.clone()));
                }
                assert!(
                    operation["summary"].is_string(),
                    "{method} {path} says what it does"
                );
                assert!(operation["tags"].is_array(), "{method} {path}");
            }
        }
        assert_eq!(described, routed());
    }

    #[test]
    fn names_of_operations_and_references_are_whole() {
        let document = described().unwrap();
        let text = document.to_string();
        let names: Vec<&str> = text
            .split("\"operationId\":\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
            .collect();
        let unique: BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        for rest in text.split("\"$ref\":\"#").skip(1) {
            let pointer = rest.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }

    /// Calls `each` with the pointer and the value of everything in the document.
    fn walk(value: &Value, pointer: &str, each: &mut impl FnMut(&str, &Value)) {
        each(pointer, value);
        match value {
            Value::Object(object) => {
                for (name, inner) in object {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    walk(inner, &format!("{pointer}/{name}"), each);
                }
            }
            Value::Array(items) => {
                for (place, inner) in items.iter().enumerate() {
                    walk(inner, &format!("{pointer}/{place}"), each);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn every_body_has_a_schema_that_says_something_and_every_example_is_of_its_schema() {
        let document = described().unwrap();
        let mut bodies = 0;
        walk(&document["paths"], "/paths", &mut |pointer, value| {
            let Some(schema) = value.get("schema") else {
                return;
            };
            if !pointer.contains("/content/") {
                return;
            }
            bodies += 1;
            assert_ne!(
                *schema,
                serde_json::json!({ "type": "object" }),
                "{pointer} says nothing"
            );
            // The schema with all that it may refer to.
            let whole = serde_json::json!({
                "$ref": format!("#{pointer}/schema").replace('{', "%7B").replace('}', "%7D"),
                "paths": document["paths"], "components": document["components"],
            });
            let validator = jsonschema::validator_for(&whole)
                .unwrap_or_else(|error| panic!("{pointer}: {error}"));
            let is_json = pointer.ends_with("application~1json");
            let Some(example) = value.get("example").filter(|_| is_json) else {
                return;
            };
            let errors: Vec<_> = validator
                .iter_errors(example)
                .map(|error| error.to_string())
                .collect();
            assert!(errors.is_empty(), "{pointer}: {errors:?}");
        });
        assert!(bodies > 500, "{bodies}");
    }

    #[test]
    fn the_page_takes_nothing_from_elsewhere() {
        let page = include_str!("openapi.html");
        for word in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(word), "{word}");
        }
    }
}
