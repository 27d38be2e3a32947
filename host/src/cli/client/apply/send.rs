//! One step as a request.

use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;

use super::What;
use super::difference::Step;
use crate::cli::client::http::{Body, ClientError, Rest};

/// The server's words, or its refusal. That it is gone is an error of the whole command.
pub(super) async fn send(rest: &Rest, step: &Step) -> anyhow::Result<Result<String, String>> {
    match request(rest, step).await {
        Ok(said) => Ok(Ok(said)),
        Err(error @ ClientError::Unreachable { .. }) => Err(error.into()),
        Err(error) => Ok(Err(error.to_string())),
    }
}

async fn request(rest: &Rest, step: &Step) -> Result<String, ClientError> {
    let item = match step {
        Step::Create(item) | Step::Change(item, _) => item,
        Step::Delete(item) => return delete(rest, item.what, &item.id).await,
    };
    let (id, body) = (item.id.as_str(), item.body.clone());
    let is_new = matches!(step, Step::Create(_));
    match item.what {
        What::Connector => {
            let wasm = item.file.as_ref().map(std::fs::read);
            let wasm = match wasm {
                Some(Ok(wasm)) => wasm,
                _ => {
                    return Err(ClientError::Refused {
                        status: 0,
                        code: None,
                        message: "the connector's file cannot be read any more".to_owned(),
                    });
                }
            };
            let body = Some(Body::Wasm(Bytes::from(wasm)));
            rest.text(Method::PUT, &["connectors", id], &[], body).await
        }
        What::Connection => {
            let mut body = body;
            if let Some(fields) = body.as_object_mut() {
                fields.insert("id".to_owned(), id.into());
            }
            put(rest, is_new, "connections", id, body).await
        }
        What::ConfKey => rest.send(Method::PUT, &conf_key(id), body).await,
        What::Stream => put(rest, is_new, "streams", id, body).await,
        What::Rule => put(rest, is_new, "rules", id, body).await,
    }
}

async fn put(
    rest: &Rest,
    is_new: bool,
    resource: &str,
    id: &str,
    body: Value,
) -> Result<String, ClientError> {
    if is_new {
        return rest.send(Method::POST, &[resource], body).await;
    }
    rest.send(Method::PUT, &[resource, id], body).await
}

async fn delete(rest: &Rest, what: What, id: &str) -> Result<String, ClientError> {
    match what {
        What::Connector => rest.call(Method::DELETE, &["connectors", id]).await,
        What::Connection => rest.call(Method::DELETE, &["connections", id]).await,
        What::ConfKey => rest.call(Method::DELETE, &conf_key(id)).await,
        What::Stream => rest.call(Method::DELETE, &["streams", id]).await,
        What::Rule => rest.call(Method::DELETE, &["rules", id]).await,
    }
}

fn conf_key(id: &str) -> [&str; 5] {
    let (typ, key) = id.split_once('/').unwrap_or((id, ""));
    ["metadata", "sources", typ, "confKeys", key]
}
