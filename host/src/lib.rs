//! Windlass: a connector host for the edge.
//!
//! The host owns every connection natively; the logic that reads from or writes to them lives in
//! connectors, sandboxed WebAssembly components that name a connection by its id. Rules tie a source
//! to sinks. The map, in the order of who may use whom:
//!
//! | module | what it is for |
//! |---|---|
//! | [`cli`] | the commands; exit codes; what is printed |
//! | [`host`] | builds everything from a configuration, runs it, stops it in order |
//! | [`catalog`] | what users have defined, and the life of it |
//! | [`api`] | REST: one file per resource, and what is the same for all of them |
//! | [`config`] | the manifest, with a place for every mistake |
//! | [`rules`] | streams, queries, actions, settlement, disk queues, dead letters |
//! | [`runtime`] | wasm: compiled code, instances, limits |
//! | [`interfaces`] | the host's side of `wit/`, one file per interface |
//! | [`connections`] | connection types, pool, supervisor; knows nothing of wasm, rules, REST |
//! | [`harness`] | one connector alone, over scripted connections: tests and checks for authors |
//! | [`store`] | definitions, progress, dead letters, in SQLite |
//! | [`connectors`] | the connectors embedded in the binary |
//! | [`kit`] | what authors of connectors need, embedded too: the contract, templates, helpers |
//! | [`snapshot`], [`progress`] | what is shown of a running host and of long work |
//! | [`message`], [`error`] | what flows, and what went wrong: every room may use these |
//! | [`names`] | ids, and the name that a misspelling meant: every room may use it |
//! | [`inflate`] | deflate, read to its end: every room may use it |
//!
//! Invariants: no guest sees an address, a socket or a secret; nothing is acknowledged upstream
//! before it is delivered, filtered, dead-lettered or on disk; every queue is bounded; anything
//! remote may be down at any time, at start too. `tests/e2e/tree.rs` enforces who imports whom.

pub mod api;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod connections;
pub mod connectors;
pub mod error;
pub mod harness;
pub mod host;
pub mod inflate;
pub mod interfaces;
pub mod kit;
pub mod message;
pub mod names;
pub mod progress;
pub mod rules;
pub mod runtime;
pub mod snapshot;
pub mod store;
