//! A door for `fuzz/`, behind the feature `fuzzing`: what a token endpoint may answer.

use serde_json::{Map, Value};
use tokio::time::Instant;
use url::Url;

use super::config::Grant;
use super::oauth;

/// Takes the answer as that to standard client credentials. True: there is a token that is good now.
#[must_use]
pub fn is_token(endpoint: &Url, fields: Map<String, Value>) -> bool {
    let grant = Grant::ClientCredentials {
        url: endpoint.clone(),
        id: String::new(),
        secret: String::new().into(),
        scope: None,
        audience: None,
        in_body: false,
    };
    let now = Instant::now();
    oauth::token(&grant, fields).is_ok_and(|token| {
        let renewed = token.renew_at();
        renewed.is_none_or(|at| at > now) && !token.is_over(now)
    })
}
