//! The other side of an nng or WebSocket connection, as its own library speaks it: `tests/peers/peer.py`
//! as a process, told what to do line by line, and killed when dropped.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::machine::{signal, wait_until};
use crate::toolchain::root;

/// The interpreter with the libraries, as `tests/run setup` installs it.
fn python() -> PathBuf {
    root().join("target/tools/peers/bin/python3")
}

/// A peer that runs.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    said: Arc<Mutex<Vec<(Instant, String)>>>,
    reader: Option<JoinHandle<()>>,
}

impl Peer {
    /// Starts one; see the head of `peer.py` for the words. Does not wait for anything.
    ///
    /// # Panics
    /// It cannot be started: `tests/run setup` has not been run.
    #[must_use]
    pub fn start(words: &[&str]) -> Self {
        let python = python();
        let child = Command::new(&python)
            .arg(root().join("tests/peers/peer.py"))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child
            .unwrap_or_else(|error| panic!("{}: {error}; run tests/run setup", python.display()));
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let said = Arc::<Mutex<Vec<_>>>::default();
        let heard = Arc::clone(&said);
        let reader = output.map(|output| {
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    lock(&heard).push((Instant::now(), line));
                }
            })
        });
        Self {
            child,
            input,
            said,
            reader,
        }
    }

    /// Starts one and waits until it is ready.
    #[must_use]
    pub fn ready(words: &[&str]) -> Self {
        let peer = Self::start(words);
        peer.wait("ready");
        peer
    }

    /// Tells it what to do.
    ///
    /// # Panics
    /// It has ended.
    pub fn tell(&mut self, words: &str) {
        let input = self.input.as_mut().expect("it runs");
        writeln!(input, "{words}").expect("it listens");
        input.flush().expect("it listens");
    }

    /// What it has said, and when.
    #[must_use]
    pub fn said(&self) -> Vec<(Instant, String)> {
        lock(&self.said).clone()
    }

    /// The messages that it got.
    #[must_use]
    pub fn got(&self) -> Vec<String> {
        let said = lock(&self.said);
        let got = said
            .iter()
            .filter_map(|(_, line)| line.strip_prefix("got "));
        got.map(str::to_owned).collect()
    }

    /// Waits until it says a line that begins so; answers when it did, the first time.
    ///
    /// # Panics
    /// It does not within 30 s.
    pub fn wait(&self, begin: &str) -> Instant {
        self.wait_after(begin, 0)
    }

    /// The same for a line after so many others.
    ///
    /// # Panics
    /// It does not within 30 s.
    pub fn wait_after(&self, begin: &str, lines: usize) -> Instant {
        let mut found = None;
        let limit = Duration::from_secs(30);
        wait_until(
            limit,
            &format!("the peer says \"{begin}\": {:?}", self.short()),
            || {
                let said = lock(&self.said);
                let after = said.iter().skip(lines);
                found = after
                    .filter(|(_, line)| line.starts_with(begin))
                    .map(|(at, _)| *at)
                    .next();
                found.is_some()
            },
        );
        found.unwrap_or_else(Instant::now)
    }

    /// Its last few lines.
    fn short(&self) -> Vec<String> {
        let said = lock(&self.said);
        said.iter()
            .rev()
            .take(5)
            .map(|(_, line)| line.clone())
            .collect()
    }

    /// `kill -STOP`: it takes nothing any more.
    pub fn stop(&self) {
        signal(self.child.id(), "STOP");
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.input = None;
        drop(self.child.kill());
        drop(self.child.wait());
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn lock(said: &Mutex<Vec<(Instant, String)>>) -> MutexGuard<'_, Vec<(Instant, String)>> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}
