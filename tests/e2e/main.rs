//! End to end: a real host, real guests, real brokers. One file per promise; the tools are in
//! `tests/src`. Those that measure take the machine for themselves ([`windlass_tests::machine`]).

mod bad_input;
mod broker_killed;
mod c_connectors;
mod cuts;
mod dead_letters;
mod dead_sink;
mod delivery;
mod guests;
mod harness;
mod host_killed;
mod http;
mod http_faults;
mod languages;
mod price;
mod push;
mod settings;
mod sql;
mod status;
mod stop;
mod storm;
mod toolchain;
mod tree;
mod trial;
