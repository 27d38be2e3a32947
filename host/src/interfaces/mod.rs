//! The host's side of `wit/`: one file per `.wit` file, and what a call may touch ([`Host`]).
//!
//! Sees connections only through the traits in `connections/mod.rs`: it cannot dial, and knows no
//! address. Knows nothing of stores, limits and instances; `runtime/` embeds a [`Host`] in each.
//!
//! The rule for mistakes: what a guest does wrong with a *value* is an error record, or `permanent`
//! for an index that does not fit; what it does wrong with a *handle*, or too often, is a trap.

mod batches;
mod clock;
mod host;
mod http;
mod journal;
mod log;
mod messaging;
mod sql;
mod stats;
mod subscriptions;
mod types;

pub use clock::CallClock;
pub use host::{Grant, Host, HostParts, Phase, Role, Taken};
pub use journal::{Journal, Labels, Level};
pub(crate) use messaging::IgnoredWakes;
pub use messaging::Wake;
pub use stats::GuestStats;
pub use subscriptions::Subscriptions;
pub(crate) use types::from_guest;

/// What `bindgen!` makes of `wit/`.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::indexing_slicing,
    reason = "generated; described in wit/"
)]
pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "connector",
        imports: {
            "windlass:connector/types": trappable,
            "windlass:connector/log": trappable,
            default: async | trappable,
        },
        exports: { default: async },
        with: {
            "windlass:connector/types.batch": super::types::BatchHandle,
            "windlass:connector/messaging.client": super::messaging::ClientHandle,
            "windlass:connector/messaging.subscription": super::messaging::SubscriptionHandle,
            "windlass:connector/http.client": super::http::ClientHandle,
            "windlass:connector/sql.client": super::sql::ClientHandle,
        },
    });
}
