//! The connection type against brokers over real sockets.

mod broker;
mod defects_in;
mod defects_level_2;
mod defects_link;
mod defects_out;
mod mosquitto;
mod probing;
mod sending;
mod support;
