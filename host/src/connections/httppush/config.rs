//! The properties of one connection, checked.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use hyper::header::HeaderMap;
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::connections::Limits;
use crate::connections::dataport::{BodyLimits, Token, check_path};
use crate::connections::properties::{Reader, resolve};

const BODY_TIME: Duration = Duration::from_secs(30);
const METHODS: [&str; 2] = ["POST", "PUT"];

/// One connection's properties.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) method: Method,
    /// The only path it serves. None: those that its takers ask for.
    pub(super) path: Option<String>,
    pub(super) body: BodyLimits,
    /// For every path that has none of its own.
    token: Option<Token>,
    tokens: BTreeMap<String, Token>,
}

impl Config {
    pub(super) fn read(reader: &mut Reader<'_>, limits: &Limits) -> Self {
        let word = reader.one_of("method", &METHODS).unwrap_or("POST");
        let path = reader.string("datasource");
        if let Some(path) = &path
            && let Err(why) = check_path(path)
        {
            reader.error("datasource", why);
        }
        let token = reader.secret("token");
        if token
            .as_ref()
            .is_some_and(|token| token.expose_secret().is_empty())
        {
            reader.error("token", "is empty; leave it out to let everybody push");
        }
        let most = i64::try_from(limits.max_message_bytes).unwrap_or(i64::MAX);
        let bytes = reader.integer("maxBodyBytes", 1..=most).unwrap_or(most);
        let time = reader.duration(
            "bodyTimeout",
            Duration::from_millis(100)..=Duration::from_secs(600),
        );
        Self {
            method: if word == "PUT" {
                Method::PUT
            } else {
                Method::POST
            },
            path,
            body: BodyLimits {
                bytes: usize::try_from(bytes).unwrap_or(limits.max_message_bytes),
                time: time.unwrap_or(BODY_TIME),
            },
            token: token.as_ref().map(Token::of),
            tokens: tokens(reader),
        }
    }

    pub(super) fn has_tokens(&self) -> bool {
        self.token.is_some()
    }

    /// Whoever sends these headers may push to this path.
    pub(super) fn admits(&self, path: &str, headers: &HeaderMap) -> bool {
        let token = self.tokens.get(path).or(self.token.as_ref());
        token.is_none_or(|token| token.is_in(headers))
    }
}

/// Tokens by path.
fn tokens(reader: &mut Reader<'_>) -> BTreeMap<String, Token> {
    const ALLOWED: &str = "must be an object of paths and their tokens";
    let mut found = BTreeMap::new();
    let Some(value) = reader.value("tokens") else {
        return found;
    };
    let Value::Object(given) = value else {
        reader.error("tokens", ALLOWED);
        return found;
    };
    for (path, token) in given {
        if let Err(why) = check_path(path) {
            reader.error("tokens", why);
            continue;
        }
        let secret = match token {
            Value::String(text) => resolve(text, reader.base()),
            _ => Err(ALLOWED.to_owned()),
        };
        match secret {
            Ok(secret) if secret.expose_secret().is_empty() => {
                reader.error("tokens", format!("the token of \"{path}\" is empty"));
            }
            Ok(secret) => {
                found.insert(path.clone(), Token::of(&secret));
            }
            Err(why) => reader.error("tokens", why),
        }
    }
    found
}

/// A method that a path can be served with.
pub(super) fn method(word: &str) -> Result<Method, String> {
    match word.to_ascii_uppercase().as_str() {
        "POST" => Ok(Method::POST),
        "PUT" => Ok(Method::PUT),
        _ => Err(format!("found \"{word}\"; Allowed: POST, PUT")),
    }
}
