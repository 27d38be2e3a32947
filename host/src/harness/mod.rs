//! One connector alone, without rules, pool or store: what `windlass connector test`, `check`,
//! `bench` and `run` stand on.
//!
//! | file | what it is for |
//! |---|---|
//! | [`alone`] | the driver: opens a loaded connector as a source or a sink, and reads or writes as a rule does |
//! | [`properties`] | the connector's schema applied to a configuration, with the checks of a rule; a configuration made from a schema |
//! | [`scripted`] | connections that answer as they are told and keep a record |
//! | [`testfile`] | `*.test.yaml`: cases, their run, the differences |
//! | [`check`] | the conformance suite |
//! | [`feeder`] | connections that never run dry and keep nothing |
//! | [`mod@bench`] | what messages, calls and instances cost; whether memory stays flat |
//!
//! Sees connections through their traits alone; prints nothing.

pub mod alone;
pub mod bench;
pub mod check;
pub mod feeder;
pub mod properties;
pub mod scripted;
pub mod testfile;
