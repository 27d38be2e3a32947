//! What handlers take from the head of a request: path, query, identity, conditions. As axum's own,
//! but a mistake is answered in the envelope. Knows no resource.

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::auth::Identity;
use super::error::{ApiError, Code};

/// Parts of the path, decoded.
#[derive(Clone, Debug)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match <axum::extract::Path<T> as FromRequestParts<S>>::from_request_parts(parts, state)
            .await
        {
            Ok(axum::extract::Path(inner)) => Ok(Self(inner)),
            Err(error) => Err(ApiError::bad_request(Code::Undefined, error.body_text())),
        }
    }
}

/// What stands behind the `?`. Names that `T` does not have are ignored, as in eKuiper.
#[derive(Clone, Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match <axum::extract::Query<T> as FromRequestParts<S>>::from_request_parts(parts, state)
            .await
        {
            Ok(axum::extract::Query(inner)) => Ok(Self(inner)),
            Err(error) => Err(ApiError::bad_request(
                Code::Undefined,
                format!("invalid query: {}", error.body_text()),
            )),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Identity {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get().cloned().ok_or_else(|| {
            // Only a free path can be reached without one.
            ApiError::unauthorized("missing_token")
        })
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Identity {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, ApiError> {
        Ok(parts.extensions.get().cloned())
    }
}

/// A flag of a query as eKuiper reads it (Go's `strconv.ParseBool`): `1`, `t`, `T`, `TRUE`, `true`,
/// `True` are yes, everything else is no.
#[must_use]
pub fn flag(value: Option<&str>) -> bool {
    matches!(value, Some("1" | "t" | "T" | "TRUE" | "true" | "True"))
}
