//! What a store holds.

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::limits::Limiter;
use crate::interfaces::Host;

/// The data of one instance's store.
pub(super) struct State {
    pub(super) host: Host,
    pub(super) limiter: Limiter,
    pub(super) wasi: WasiCtx,
    /// Handles of WASI; the contract's own are in [`Host`].
    pub(super) table: ResourceTable,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}
