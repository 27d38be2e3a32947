//! The token of a path: who sends it as a bearer token may use the path.

use std::fmt;

use hyper::header::{AUTHORIZATION, HeaderMap};
use secrecy::{ExposeSecret, SecretString};

use super::Answer;

/// A token, as its hash: equal ones compare in the same time wherever they differ.
#[derive(Clone)]
pub struct Token(blake3::Hash);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Token {
    /// The token with this text.
    #[must_use]
    pub fn of(secret: &SecretString) -> Self {
        Self(blake3::hash(secret.expose_secret().as_bytes()))
    }

    /// It stands in `Authorization`.
    #[must_use]
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let Some((scheme, given)) = given.and_then(|value| value.split_at_checked(7)) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ") && blake3::hash(given.trim_ascii()) == self.0
    }

    /// What a request without it is answered.
    #[must_use]
    pub fn missing() -> Answer {
        Answer::new(
            401,
            "this path needs its token: Authorization: Bearer <token>",
        )
    }
}
