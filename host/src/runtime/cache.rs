//! Compiled code on disk, and the child process that makes it.
//!
//! The serving process never compiles: a Python component takes 361 MB and seconds. An entry's name
//! carries a keyed hash of its bytes, checked before they are loaded: wasmtime notices other versions
//! and truncated files, but would run flipped bits. Writing is one rename.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::Instant;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::engine;
use super::error::LoadError;
use crate::progress::Progress;

/// No component compiles for so long, on any machine this runs on.
const COMPILE_LIMIT: Duration = Duration::from_secs(600);
/// Words of a compiler that failed.
const WORDS_BYTES: u64 = 8 * 1024;
/// Entries kept. Older ones go first.
const MOST_ENTRIES: usize = 256;
const ENTRY: &str = "cwasm";

/// The folder of compiled code.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    key: [u8; 32],
    command: Vec<OsString>,
    /// One compilation at a time.
    compiling: tokio::sync::Mutex<()>,
    temporary: AtomicU64,
    damaged: AtomicU64,
}

/// Compiled code that can run.
pub(super) struct Compiled {
    pub(super) component: Component,
    pub(super) bytes: u64,
}

impl Cache {
    pub(super) fn open(
        dir: PathBuf,
        key: Option<[u8; 32]>,
        command: Vec<OsString>,
    ) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        // Whoever can write here can run native code as this process.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&dir)?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b"tmp-") {
                fs::remove_file(entry.path())?;
            }
        }
        let key = match key {
            Some(key) => key,
            None => kept_key(&dir.join("key"))?,
        };
        Ok(Self {
            dir,
            key,
            command,
            compiling: tokio::sync::Mutex::default(),
            temporary: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        })
    }

    /// Entries found damaged since the start.
    pub(super) fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// The code of a component: from the cache, or compiled now.
    pub(super) async fn get(
        self: &Arc<Self>,
        engine: &Engine,
        name: &str,
        digest: &str,
        wasm: &[u8],
        progress: &dyn Progress,
    ) -> Result<Compiled, LoadError> {
        if let Some(found) = self.look(engine, digest).await {
            return Ok(found);
        }
        let _one_at_a_time = self.compiling.lock().await;
        // Another load of the same component may have been first.
        if let Some(found) = self.look(engine, digest).await {
            return Ok(found);
        }
        let started = Instant::now();
        let done = self.compile(name, digest, wasm, progress, started).await;
        progress.done(name, started.elapsed());
        let path = done?;
        let refused = |error: wasmtime::Error| LoadError::Host {
            name: name.to_owned(),
            attempt: "compiled code is refused",
            source: error.into(),
        };
        self.load(engine, &path).map_err(refused)
    }

    /// As [`Cache::find`], on a thread that may wait for the disk.
    async fn look(self: &Arc<Self>, engine: &Engine, digest: &str) -> Option<Compiled> {
        let (cache, engine, digest) = (Arc::clone(self), engine.clone(), digest.to_owned());
        let found = tokio::task::spawn_blocking(move || cache.find(&engine, &digest)).await;
        found.unwrap_or_default()
    }

    /// A good entry, if there is one. A damaged one is set aside and counted.
    fn find(&self, engine: &Engine, digest: &str) -> Option<Compiled> {
        for path in self.entries(digest) {
            match self.hash(digest, &path) {
                Ok(hash) if path == self.entry(digest, &hash) => match self.load(engine, &path) {
                    Ok(compiled) => return Some(compiled),
                    Err(error) => {
                        tracing::info!(%error, "compiled code is of another version; compiling again");
                        self.remove(&path);
                    }
                },
                Ok(_) => {
                    self.damaged.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(
                        digest,
                        "compiled code in the cache is damaged; set aside, compiling again"
                    );
                    if fs::rename(&path, self.dir.join(format!("{digest}.damaged"))).is_err() {
                        self.remove(&path);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, digest, "compiled code in the cache cannot be read; compiling again");
                }
            }
        }
        None
    }

    #[expect(
        clippy::unused_self,
        reason = "only a cache that has checked an entry's hash may load it"
    )]
    fn load(&self, engine: &Engine, path: &Path) -> wasmtime::Result<Compiled> {
        let bytes = fs::metadata(path)?.len();
        #[allow(
            unsafe_code,
            reason = "the file was made by our own compiler, its keyed hash was checked or it was written \
                      a moment ago, and its folder belongs to this process's user alone"
        )]
        // SAFETY: see the reason above; wasmtime checks version and settings itself.
        let component = unsafe { Component::deserialize_file(engine, path)? };
        Ok(Compiled { component, bytes })
    }

    async fn compile(
        &self,
        name: &str,
        digest: &str,
        wasm: &[u8],
        progress: &dyn Progress,
        started: Instant,
    ) -> Result<PathBuf, LoadError> {
        let host = |attempt: &'static str, error: io::Error| LoadError::Host {
            name: name.to_owned(),
            attempt,
            source: error.into(),
        };
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let input = Temporary(
            self.dir
                .join(format!("tmp-{}-{number}.wasm", std::process::id())),
        );
        let output = Temporary(
            self.dir
                .join(format!("tmp-{}-{number}.out", std::process::id())),
        );
        private(&input.0)
            .and_then(|mut file| file.write_all(wasm))
            .map_err(|e| host("cannot write to the code cache", e))?;

        let Some((program, arguments)) = self.command.split_first() else {
            return Err(host("there is no compiler", io::ErrorKind::NotFound.into()));
        };
        let mut child = Command::new(program)
            .args(arguments)
            .args([&input.0, &output.0])
            // Secrets may stand in the environment; a compiler needs none of it.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| host("the compiler cannot be started", e))?;
        let stderr = child.stderr.take();
        let finished = async {
            let mut words = Vec::new();
            if let Some(mut stderr) = stderr {
                (&mut stderr)
                    .take(WORDS_BYTES)
                    .read_to_end(&mut words)
                    .await?;
                tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
            }
            let status = child.wait().await?;
            io::Result::Ok((status, String::from_utf8_lossy(&words).trim().to_owned()))
        };
        let mut finished = std::pin::pin!(tokio::time::timeout(COMPILE_LIMIT, finished));
        let mut beat = tokio::time::interval(Duration::from_millis(250));
        let status = loop {
            tokio::select! {
                status = &mut finished => break status,
                _ = beat.tick() => progress.compiling(name, started.elapsed()),
            }
        };
        let refused = |reason: String| LoadError::Compile {
            name: name.to_owned(),
            reason,
        };
        match status {
            Ok(Ok((status, _))) if status.success() => {}
            Ok(Ok((status, words))) if words.is_empty() => {
                return Err(refused(format!(
                    "the compiler ended with {status}; was there enough memory?"
                )));
            }
            Ok(Ok((_, words))) => return Err(refused(words)),
            Ok(Err(error)) => return Err(host("the compiler cannot be waited for", error)),
            Err(_elapsed) => {
                return Err(refused(format!(
                    "it took longer than {} s",
                    COMPILE_LIMIT.as_secs()
                )));
            }
        }
        let hash = self
            .hash(digest, &output.0)
            .map_err(|e| host("compiled code cannot be read", e))?;
        let path = self.entry(digest, &hash);
        fs::rename(&output.0, &path).map_err(|e| host("cannot write to the code cache", e))?;
        self.prune(&path, digest);
        Ok(path)
    }

    /// Keyed hash over whose code it is and what it is, so that no entry can stand in for another.
    fn hash(&self, digest: &str, path: &Path) -> io::Result<String> {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(digest.as_bytes());
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = file.read(&mut buffer)?;
            match buffer.get(..read) {
                Some(bytes) if read > 0 => hasher.update(bytes),
                Some(_) | None => return Ok(hasher.finalize().to_hex().to_string()),
            };
        }
    }

    fn entry(&self, digest: &str, hash: &str) -> PathBuf {
        self.dir.join(format!("{digest}.{hash}.{ENTRY}"))
    }

    fn entries(&self, digest: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        let ours = |path: &PathBuf| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            name.starts_with(digest) && name.ends_with(".cwasm")
        };
        entries
            .flatten()
            .map(|entry| entry.path())
            .filter(ours)
            .collect()
    }

    fn prune(&self, newest: &Path, digest: &str) {
        for path in self.entries(digest) {
            if path != newest {
                self.remove(&path);
            }
        }
        let mut all: Vec<_> = self
            .entries("")
            .into_iter()
            .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
            .collect();
        all.sort();
        let over = all.len().saturating_sub(MOST_ENTRIES);
        for (_, path) in all.into_iter().take(over) {
            self.remove(&path);
        }
    }

    #[expect(clippy::unused_self, reason = "removes entries of this cache")]
    fn remove(&self, path: &Path) {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(%error, "an old entry of the code cache cannot be removed");
        }
    }
}

/// A file that is gone when it is not needed any more.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // The output was renamed if all went well.
        drop(fs::remove_file(&self.0));
    }
}

/// The key in this file; made now if there is none, or half of one.
fn kept_key(path: &Path) -> io::Result<[u8; 32]> {
    match fs::read(path) {
        Ok(bytes) => {
            if let Ok(key) = <[u8; 32]>::try_from(bytes) {
                return Ok(key);
            }
            fs::remove_file(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let key: [u8; 32] = rand::random();
    let mut file = private(path)?;
    file.write_all(&key)?;
    file.sync_all()?;
    Ok(key)
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// What the child does: compiles the component in the first file into the second.
///
/// Prints why not to stderr. The only code in the host that starts a compiler.
#[must_use]
pub fn compile_main(arguments: &[OsString]) -> ExitCode {
    let [input, output] = arguments else {
        return complain("two arguments are needed: the component and where its code goes");
    };
    let compiled = || -> Result<(), Box<dyn std::error::Error>> {
        let wasm = fs::read(input)?;
        let code = engine::compiling()?
            .precompile_component(&wasm)
            .map_err(|error| format!("{error:#}"))?;
        private(Path::new(output))?.write_all(&code)?;
        Ok(())
    };
    match compiled() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error.to_string()),
    }
}

fn complain(words: &str) -> ExitCode {
    // Nobody is left to tell if stderr is gone.
    drop(writeln!(io::stderr(), "{words}"));
    ExitCode::FAILURE
}
