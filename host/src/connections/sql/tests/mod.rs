//! A connection as the pool has it, against SQLite here, and against real servers.

mod mariadb;
mod postgres;
mod sqlite;
mod support;
