//! `wit/log.wit`: lines for the host's log.

use super::bindings::windlass::connector::log as wit;
use super::host::Host;
use super::journal::Level;

impl wit::Host for Host {
    fn write(&mut self, level: wit::Level, message: String) -> wasmtime::Result<()> {
        self.count_call()?;
        let level = match level {
            wit::Level::Trace => Level::Trace,
            wit::Level::Debug => Level::Debug,
            wit::Level::Info => Level::Info,
            wit::Level::Warn => Level::Warn,
            wit::Level::Error => Level::Error,
        };
        self.parts.journal.line(level, &message);
        Ok(())
    }
}
