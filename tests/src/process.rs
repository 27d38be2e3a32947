//! One server process of a test: started until it answers, ended in order or at once, what it says kept over
//! all its lives. It ends with its owner.

use std::fs::File;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::machine::{holds_within, program, signal};

/// A child that is killed when dropped, also by a test that fails: one that is left would hold the outputs of
/// the test for ever.
#[derive(Debug)]
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A server process, running or not.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Not started yet. What it says goes to the end of this file.
    #[must_use]
    pub fn new(name: &'static str, log: PathBuf) -> Self {
        Self {
            name,
            log,
            child: None,
        }
    }

    /// Starts it and waits until it is ready. One that runs is killed first.
    ///
    /// # Panics
    /// It cannot be started, ends, or is not ready within `limit`.
    pub fn start(
        &mut self,
        command: &mut Command,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) {
        self.kill();
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log file");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.name));
        let mut has_ended = || !matches!(child.try_wait(), Ok(None));
        let answers = holds_within(limit, || ready() || has_ended());
        let runs = !has_ended();
        self.child = Some(child);
        assert!(
            answers && runs,
            "{} did not come up:\n{}",
            self.name,
            self.log()
        );
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error here says that it has ended already.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Ends it with this signal, or at once where it takes longer than `limit`.
    pub fn stop(&mut self, name: &str, limit: Duration) {
        if let Some(child) = &mut self.child {
            signal(child.id(), name);
            holds_within(limit, || !matches!(child.try_wait(), Ok(None)));
            self.kill();
        }
    }

    /// Its number.
    ///
    /// # Panics
    /// It is stopped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let child = self.child.as_ref();
        child
            .unwrap_or_else(|| panic!("{} is stopped", self.name))
            .id()
    }

    /// All it has said, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether something listens there, on 127.0.0.1.
#[must_use]
pub fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Where a server's program is.
///
/// # Panics
/// It is not installed; the sentence says how it is.
#[must_use]
pub fn installed(name: &str, package: &str) -> PathBuf {
    program(name).unwrap_or_else(|| {
        panic!("{name} is not installed: `apt-get install {package}`, or run tests/run")
    })
}
