//! End to end: a real host, real guests, real brokers. One file per promise; the tools are in
//! `tests/src`. Those that measure take the machine for themselves ([`windlass_tests::machine`]).

mod bad_input;
mod bus_tls;
mod buses;
mod c_connectors;
mod client;
mod dead_letters;
mod dead_sink;
mod delivery;
mod edgex;
mod guests;
mod harness;
mod host_killed;
mod http;
mod http_faults;
mod import_ekuiper;
mod languages;
mod nng;
mod price;
mod push;
mod retries;
mod serve;
mod serve_attacks;
mod serve_changes;
mod serve_doors;
mod settings;
mod sql;
mod sql_tls;
mod sql_types;
mod status;
mod stop;
mod storm;
mod toolchain;
mod tree;
mod trial;
mod websocket;
