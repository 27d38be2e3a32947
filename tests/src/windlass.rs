//! Windlass as a process: started on a manifest and a data folder, watched through the JSON lines
//! that it prints, stopped, killed, started again.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::machine::{Usage, free_port, holds_within, signal, usage};
use crate::manifest::Manifest;
use crate::rest::Rest;

/// The binary under test: `WINDLASS_BIN`, else the one beside this program in `target/`.
///
/// # Panics
/// There is none.
#[must_use]
pub fn binary() -> PathBuf {
    if let Ok(path) = std::env::var("WINDLASS_BIN") {
        return PathBuf::from(path);
    }
    let this = std::env::current_exe().expect("this program has a path");
    let found = this
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("windlass"))
        .find(|file| file.is_file());
    found.unwrap_or_else(|| {
        panic!("no `windlass` beside {}: build it first (`cargo build --release --workspace`, or tests/run)", this.display())
    })
}

/// What a command that ends by itself said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code; none: a signal ended it, or it was not done in time.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Said {
    /// Both outputs, for a search.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}\n{}", self.out, self.err)
    }

    /// The JSON values that it printed: one document, or one per line.
    #[must_use]
    pub fn json(&self) -> Vec<Value> {
        match serde_json::from_str(&self.out) {
            Ok(Value::Array(values)) => values,
            Ok(value) => vec![value],
            Err(_) => self
                .out
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect(),
        }
    }
}

/// Runs a command to its end, 60 s at most.
///
/// # Panics
/// It cannot be started.
#[must_use]
pub fn command(arguments: &[&str]) -> Said {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    let file = |path: &Path| std::fs::File::create(path).expect("a file for the output");
    let mut child = Command::new(binary())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(file(&out))
        .stderr(file(&err))
        .spawn()
        .expect("windlass can be started");
    let done = holds_within(Duration::from_secs(60), || {
        !matches!(child.try_wait(), Ok(None))
    });
    if !done {
        drop(child.kill());
    }
    let code = child.wait().ok().and_then(|status| status.code());
    let read = |path: &Path| {
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    };
    Said {
        code,
        out: read(&out),
        err: read(&err),
    }
}

/// What a process has printed, newest state first to hand.
#[derive(Debug, Default)]
struct Seen {
    connections: HashMap<String, (String, String)>,
    rules: HashMap<String, (String, String)>,
    /// When, whose, status and err of every change of a connection.
    changes: Vec<(Instant, String, String, String)>,
    /// Every warning of a connection that was ever shown.
    warnings: Vec<(String, String)>,
    metrics: Value,
    metrics_count: u64,
    listening: Option<Instant>,
    stderr: VecDeque<String>,
    /// Lines of its log so far.
    logged: u64,
    odd: Vec<String>,
}

type Shared = Arc<(Mutex<Seen>, Condvar)>;

/// A running (or just stopped) `windlass run`.
#[derive(Debug)]
pub struct Windlass {
    folder: TempDir,
    manifest: PathBuf,
    environment: Vec<(String, String)>,
    /// The port of REST, where it is served; else it runs its manifest.
    rest: Option<u16>,
    /// Further words of the command.
    words: Vec<String>,
    /// The command that starts it and becomes it (`exec`); none: it is started by itself.
    under: Vec<String>,
    child: Option<Child>,
    readers: Vec<JoinHandle<()>>,
    seen: Shared,
    started: Instant,
}

impl Windlass {
    /// Starts it on this manifest with a data folder of its own.
    #[must_use]
    pub fn start(manifest: &Manifest) -> Self {
        Self::with(manifest, &[])
    }

    /// The same with variables in its environment.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn with(manifest: &Manifest, environment: &[(&str, &str)]) -> Self {
        let mut windlass = Self::prepare(manifest);
        windlass.environment = environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        windlass.up();
        windlass
    }

    /// Serves it, with a data folder of its own, on a free port. `words`: further words of the command.
    ///
    /// # Panics
    /// It is not ready within 60 s.
    #[must_use]
    pub fn serve(words: &[&str]) -> Self {
        let mut windlass = Self::prepare(&Manifest::new());
        windlass.rest = Some(free_port());
        windlass.words = words.iter().map(|word| (*word).to_owned()).collect();
        windlass.up();
        windlass.wait_listening(Duration::from_secs(60));
        windlass
    }

    /// Waits until REST is served; how long after the start that was.
    ///
    /// # Panics
    /// It is not within `limit`.
    pub fn wait_listening(&self, limit: Duration) -> Duration {
        self.wait(limit, "REST is served", |seen| {
            seen.listening.map(|at| at - self.started)
        })
    }

    /// The port of its REST interface.
    ///
    /// # Panics
    /// It is not served.
    #[must_use]
    pub fn rest_port(&self) -> u16 {
        self.rest.expect("it runs a manifest and is not served")
    }

    /// A client of its REST interface.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest::new(self.rest_port())
    }

    /// Folder and manifest, nothing started yet.
    ///
    /// # Panics
    /// The folder cannot be made.
    #[must_use]
    pub fn prepare(manifest: &Manifest) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("windlass-")
            .tempdir()
            .expect("a temporary folder");
        let manifest = manifest.write(folder.path());
        Self {
            folder,
            manifest,
            environment: Vec::new(),
            rest: None,
            words: Vec::new(),
            under: Vec::new(),
            child: None,
            readers: Vec::new(),
            seen: Shared::default(),
            started: Instant::now(),
        }
    }

    /// Starts it (again) on what it has on disk.
    ///
    /// # Panics
    /// It cannot be started, or runs already.
    pub fn up(&mut self) {
        assert!(self.child.is_none(), "windlass runs already");
        self.seen = Shared::default();
        self.started = Instant::now();
        let mut command = match self.under.split_first() {
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(binary());
                command
            }
            None => Command::new(binary()),
        };
        match self.rest {
            Some(port) => {
                let rest = format!("127.0.0.1:{port}");
                command.args(["serve", "--rest", &rest, "--push", "127.0.0.1:0"]);
                command.args(&self.words);
            }
            None => {
                command.arg("run").arg(&self.manifest);
            }
        }
        let mut child = command
            .arg("--data")
            .arg(self.data())
            .arg("--json")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("windlass can be started");
        let (out, err) = (
            child.stdout.take().expect("piped"),
            child.stderr.take().expect("piped"),
        );
        let (for_out, for_err) = (Arc::clone(&self.seen), Arc::clone(&self.seen));
        self.readers = vec![
            std::thread::spawn(move || {
                BufReader::new(out)
                    .lines()
                    .map_while(Result::ok)
                    .for_each(|line| enter(&for_out, &line))
            }),
            std::thread::spawn(move || {
                for line in BufReader::new(err).lines().map_while(Result::ok) {
                    let mut seen = lock(&for_err);
                    if seen.stderr.len() == 400 {
                        seen.stderr.pop_front();
                    }
                    seen.stderr.push_back(line);
                    seen.logged += 1;
                }
            }),
        ];
        self.child = Some(child);
    }

    /// It is to be started by this command, which gets the binary and its words and becomes it: limits,
    /// another clock, other files of the system.
    #[must_use]
    pub fn under(mut self, words: &[&str]) -> Self {
        self.under = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// It is to be started with a limit of the shell's `ulimit` (`-n 256`).
    #[must_use]
    pub fn limited(self, limit: &str) -> Self {
        let script = format!("ulimit {limit} && exec \"$@\"");
        self.under(&["sh", "-c", &script, "sh"])
    }

    /// It is to be started with this variable in its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// It is to serve REST on a free port, in place of a manifest.
    #[must_use]
    pub fn serving(mut self) -> Self {
        self.rest = Some(free_port());
        self
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Path {
        &self.manifest
    }

    /// Its process.
    ///
    /// # Panics
    /// It does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("windlass does not run").id()
    }

    /// What it uses now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        usage(self.pid())
    }

    /// Since it was last started.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        self.join_readers();
    }

    /// SIGTERM; answers its exit code, or none if it was not gone within `limit` and was killed.
    pub fn terminate(&mut self, limit: Duration) -> Option<i32> {
        signal(self.pid(), "TERM");
        self.exit_within(limit)
    }

    /// Waits for its end; answers its exit code, or none if it had to be killed.
    pub fn exit_within(&mut self, limit: Duration) -> Option<i32> {
        let mut child = self.child.take()?;
        let ended = holds_within(limit, || !matches!(child.try_wait(), Ok(None)));
        if !ended {
            drop(child.kill());
        }
        let status = child.wait().ok();
        self.join_readers();
        if ended {
            status.and_then(|status| status.code())
        } else {
            None
        }
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
    }

    /// Status and err of a connection, as last printed.
    #[must_use]
    pub fn connection(&self, id: &str) -> Option<(String, String)> {
        lock(&self.seen).connections.get(id).cloned()
    }

    /// Status and message of a rule, as last printed.
    #[must_use]
    pub fn rule(&self, id: &str) -> Option<(String, String)> {
        lock(&self.seen).rules.get(id).cloned()
    }

    /// When, whose, status and err of every change of a connection since the start.
    #[must_use]
    pub fn changes(&self) -> Vec<(Instant, String, String, String)> {
        lock(&self.seen).changes.clone()
    }

    /// Every warning of a connection that was shown since the start.
    #[must_use]
    pub fn warnings(&self, id: &str) -> Vec<String> {
        let seen = lock(&self.seen);
        let own = seen.warnings.iter().filter(|(whose, _)| whose == id);
        own.map(|(_, warning)| warning.clone()).collect()
    }

    /// Waits until a connection has this status; answers its err.
    ///
    /// # Panics
    /// It does not get there in time.
    pub fn wait_connection(&self, id: &str, status: &str, limit: Duration) -> String {
        self.wait(limit, &format!("connection `{id}` is {status}"), |seen| {
            seen.connections
                .get(id)
                .filter(|(now, _)| now == status)
                .map(|(_, err)| err.clone())
        })
    }

    /// Waits until a rule has this status; answers its message.
    ///
    /// # Panics
    /// It does not get there in time.
    pub fn wait_rule(&self, id: &str, status: &str, limit: Duration) -> String {
        self.wait(limit, &format!("rule `{id}` is {status}"), |seen| {
            seen.rules
                .get(id)
                .filter(|(now, _)| now == status)
                .map(|(_, message)| message.clone())
        })
    }

    /// The newest counter of a rule: one of its own (`recordsIn`) or one under eKuiper's flat name
    /// (`source_demo_0_records_in_total`).
    #[must_use]
    pub fn counter(&self, rule: &str, name: &str) -> Option<u64> {
        let seen = lock(&self.seen);
        let rule = seen.metrics.get("rules")?.get(rule)?;
        rule.get(name)
            .or_else(|| rule.get("metrics")?.get(name))?
            .as_u64()
    }

    /// The same of a connection.
    #[must_use]
    pub fn connection_counter(&self, id: &str, name: &str) -> Option<u64> {
        lock(&self.seen)
            .metrics
            .get("connections")?
            .get(id)?
            .get(name)?
            .as_u64()
    }

    /// Waits for the next two metrics, so that the newest counts all that happened before this call.
    ///
    /// # Panics
    /// None comes within 5 s.
    pub fn fresh_metrics(&self) -> Value {
        let before = lock(&self.seen).metrics_count;
        self.wait(Duration::from_secs(5), "metrics are printed", |seen| {
            (seen.metrics_count >= before + 2).then(|| seen.metrics.clone())
        })
    }

    /// Lines on standard output that are no JSON object with an event.
    #[must_use]
    pub fn odd_lines(&self) -> Vec<String> {
        lock(&self.seen).odd.clone()
    }

    /// How many lines it has logged since its start.
    #[must_use]
    pub fn lines_logged(&self) -> u64 {
        lock(&self.seen).logged
    }

    /// The newest 400 lines of its log.
    #[must_use]
    pub fn log(&self) -> String {
        lock(&self.seen)
            .stderr
            .iter()
            .fold(String::new(), |text, line| text + line + "\n")
    }

    fn wait<T>(&self, limit: Duration, what: &str, mut look: impl FnMut(&Seen) -> Option<T>) -> T {
        let end = Instant::now() + limit;
        let (_, changed) = &*self.seen;
        let mut seen = lock(&self.seen);
        loop {
            if let Some(found) = look(&seen) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let state = format!("connections {:?}, rules {:?}", seen.connections, seen.rules);
                drop(seen);
                panic!(
                    "waited {limit:?} in vain until {what}; {state}; its log:\n{}",
                    self.log()
                );
            }
            seen = changed
                .wait_timeout(seen, left.min(Duration::from_millis(200)))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for Windlass {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            eprintln!(
                "--- log of windlass, its end ---\n{}",
                log.lines()
                    .rev()
                    .take(40)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .collect::<Vec<_>>()
                    .join("\n")
            );
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Seen> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Enters one line of standard output.
fn enter(shared: &Shared, line: &str) {
    let Ok(event) = serde_json::from_str::<Value>(line) else {
        lock(shared).odd.push(line.to_owned());
        return;
    };
    let text = |name: &str| {
        event
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut seen = lock(shared);
    match event.get("event").and_then(Value::as_str) {
        Some("connection") => {
            seen.connections
                .insert(text("id"), (text("status"), text("err")));
            seen.changes
                .push((Instant::now(), text("id"), text("status"), text("err")));
            let warnings = event.get("warnings").and_then(Value::as_array);
            for warning in warnings.into_iter().flatten().filter_map(Value::as_str) {
                seen.warnings.push((text("id"), warning.to_owned()));
            }
        }
        Some("rule") => {
            seen.rules
                .insert(text("id"), (text("status"), text("message")));
        }
        Some("metrics") => {
            seen.metrics = event;
            seen.metrics_count += 1;
        }
        Some("listening") => seen.listening = Some(Instant::now()),
        // Further kinds of events may come; a line without any is odd.
        Some(_) => {}
        None => seen.odd.push(line.to_owned()),
    }
    drop(seen);
    shared.1.notify_all();
}
