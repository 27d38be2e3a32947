//! From the catalog's refusals to answers: status, eKuiper's number, sentence. Knows no resource.

use super::error::{ApiError, Code};
use super::etag::Conditions;
use crate::catalog::CatalogError;
use crate::connections::pool::PoolError;

/// A request's conditions as the catalog asks for them.
pub(super) fn conditional(conditions: &Conditions) -> impl Fn(u64) -> bool + Send + Sync + use<'_> {
    |present| {
        let present = (present > 0).then_some(present);
        conditions.may_change(present).is_ok()
    }
}

/// What a refused change of something is answered: 412 with what is there, where the conditions were
/// what failed; else as [`refused`], with words before the message if there are any.
pub(super) fn refused_change(
    error: CatalogError,
    conditions: &Conditions,
    code: Code,
    what: &str,
) -> ApiError {
    match conditions_failed(conditions, &error) {
        Some(failed) => failed,
        None if what.is_empty() => refused(error, code),
        None => refused(error, code).within(what),
    }
}

fn conditions_failed(conditions: &Conditions, error: &CatalogError) -> Option<ApiError> {
    let CatalogError::Revision { present } = error else {
        return None;
    };
    let present = (*present > 0).then_some(*present);
    conditions.may_change(present).err()
}

/// What a refusal is answered. `code`: the resource's number, for mistakes in what was given.
pub(super) fn refused(error: CatalogError, code: Code) -> ApiError {
    let message = error.to_string();
    match error {
        CatalogError::NotFound(_) | CatalogError::Pool(PoolError::Unknown(_)) => {
            ApiError::not_found(message)
        }
        CatalogError::Revision { .. } => ApiError::precondition_failed(message),
        CatalogError::Pool(PoolError::Dial(_)) => ApiError::bad_request(Code::Io, message),
        CatalogError::Pool(PoolError::Stopping) => ApiError::unavailable(message, 1),
        CatalogError::Store(_) | CatalogError::Disk(_) => ApiError::unavailable(message, 5),
        CatalogError::Conflict(_)
        | CatalogError::Invalid(_)
        | CatalogError::Pool(_)
        | CatalogError::Start(_)
        | CatalogError::Load(_) => ApiError::bad_request(code, message),
    }
}
