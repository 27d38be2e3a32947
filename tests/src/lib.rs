//! The tools of the end-to-end tests and of the benchmark. They meet the product as a user does:
//! its binary, its files, its sockets.
//!
//! | module | what |
//! |---|---|
//! | [`windlass`] | the process under test |
//! | [`manifest`] | what it is told to do |
//! | [`mosquitto`], [`certificates`] | a real broker, with TLS or without |
//! | [`nats`], [`redis`] | other real brokers, and clients of a few lines |
//! | [`postgres`], [`mariadb`] | real databases |
//! | [`bridge`] | the yardstick of the benchmark |
//! | [`pusher`] | clients that push by HTTP |
//! | [`nginx`], [`httpd`] | a real HTTP server, and one that fails on purpose |
//! | [`rest`], [`described`] | a client of REST, and what the server says of its own REST |
//! | [`peer`] | the other side of nng and of WebSockets, by their own libraries |
//! | [`process`] | a server process, whichever it is: up, killed, ended, its log |
//! | [`load`], [`wire`] | publishers and subscribers on a codec of their own |
//! | [`sender`] | what goes to a server that may be away, each until it is taken |
//! | [`oracle`] | numbered payloads; what was lost, doubled, disordered, changed, late |
//! | [`toolchain`], [`tutorial`] | connectors made and built as an author does it, and as the docs say |
//! | [`settings`] | manifests that many tests use, and the checks that end them |
//! | [`proxy`], [`sniffer`] | faults on the link, and who listens in there |
//! | [`stand_in`] | a broker that misbehaves on purpose |
//! | [`disk`], [`resolver`] | a disk that is soon full, names that lead nowhere |
//! | [`machine`] | whose turn it is, ports, signals, cost of a process |

pub mod bridge;
pub mod certificates;
pub mod described;
pub mod disk;
pub mod httpd;
pub mod load;
pub mod machine;
pub mod manifest;
pub mod mariadb;
pub mod mosquitto;
pub mod nats;
pub mod nginx;
pub mod oracle;
pub mod peer;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod pusher;
pub mod redis;
pub mod resolver;
pub mod rest;
pub mod sender;
pub mod settings;
pub mod sniffer;
pub mod stand_in;
pub mod toolchain;
pub mod tutorial;
pub mod windlass;
pub mod wire;
