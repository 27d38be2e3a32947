//! Connectors made, built and tried as an author does it: `windlass connector` run in empty folders,
//! unit tests in each language's own runner, and a plain MQTT client to give bytes and take bytes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::machine::holds_within;
use crate::windlass::{Said, binary};
use crate::wire;

/// The root of the tree.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// What a command may take: compilers run, and other tests beside them.
const LIMIT: Duration = Duration::from_secs(400);

/// Runs a program in a folder to its end, with `windlass` on its path and the tools that
/// `tests/run setup` installs. Rust connectors share one folder for what cargo makes, so that each crate
/// is compiled once.
///
/// # Panics
/// It cannot be started, or does not end.
#[must_use]
pub fn run(folder: &Path, program: &Path, arguments: &[&str]) -> Said {
    let tools = root().join("target/tools");
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let (out, err) = (scratch.path().join("out"), scratch.path().join("err"));
    let file = |path: &Path| std::fs::File::create(path).expect("a file for the output");
    let own = binary().parent().map(Path::to_owned).unwrap_or_default();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    for (name, _) in std::env::vars() {
        // What cargo says to these tests is not for the cargo of the author.
        if name.starts_with("CARGO_")
            && !matches!(name.as_str(), "CARGO_HOME" | "CARGO_TERM_PROGRESS_WHEN")
        {
            command.env_remove(name);
        }
    }
    let mut child = command
        .args(arguments)
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", own.display()))
        .env(
            "CARGO_TARGET_DIR",
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/authors"),
        )
        .env("WINDLASS_TOOLS", &tools)
        .stdin(Stdio::null())
        .stdout(file(&out))
        .stderr(file(&err))
        .spawn()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.display()));
    let done = holds_within(LIMIT, || !matches!(child.try_wait(), Ok(None)));
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

/// Runs a script in a folder until its first command that fails; both its outputs are in `out`, in their
/// order. Whatever it starts ends with its time.
#[must_use]
pub fn shell(folder: &Path, script: &str) -> Said {
    let script = format!("exec 2>&1\n{script}");
    let limit = (LIMIT.as_secs() - 20).to_string();
    let words = ["--kill-after=10", &limit, "sh", "-ec", &script];
    run(folder, Path::new("timeout"), &words)
}

/// `windlass connector ...` in a folder.
#[must_use]
pub fn connector(folder: &Path, arguments: &[&str]) -> Said {
    let words: Vec<&str> = ["connector"].iter().chain(arguments).copied().collect();
    run(folder, &binary(), &words)
}

/// The same, which must succeed.
///
/// # Panics
/// It does not.
pub fn expect_connector(folder: &Path, arguments: &[&str]) -> Said {
    let said = connector(folder, arguments);
    assert_eq!(
        said.code,
        Some(0),
        "connector {arguments:?}:\n{}",
        said.all()
    );
    said
}

/// What `build` leaves.
#[must_use]
pub fn component(folder: &Path) -> PathBuf {
    let name = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    folder.join("build").join(format!("{name}.wasm"))
}

/// The component of `guests/rust/misbehaving`, built once.
#[must_use]
pub fn misbehaving() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built("misbehaving"))
}

/// Builds a component of `guests/rust` that is not bundled.
///
/// # Panics
/// It cannot be built.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let guest = root().join("guests/rust").join(name);
    // Where cargo lets tests put what they make.
    let target = root().join("target/tmp/misbehaving");
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--release",
            "--target",
            "wasm32-wasip2",
            "--manifest-path",
        ])
        .arg(guest.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .output()
        .expect("cargo can be started");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    target
        .join("wasm32-wasip2/release")
        .join(name)
        .with_extension("wasm")
}

/// A client of MQTT 3.1.1 without sessions: publishes at QoS 1, takes what one filter brings.
#[derive(Debug)]
pub struct Plain {
    socket: TcpStream,
    inbox: wire::Inbox,
    next: u16,
}

impl Plain {
    /// Connects, and subscribes where a filter is given.
    ///
    /// # Panics
    /// The broker is not there, or refuses.
    #[must_use]
    pub fn connect(port: u16, id: &str, filter: Option<&str>) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("a broker");
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a timeout");
        socket
            .write_all(&wire::connect(id, true, None))
            .expect("written");
        let mut plain = Self {
            socket,
            inbox: wire::Inbox::default(),
            next: 1,
        };
        let accepted = plain.take(Duration::from_secs(10), |packet| {
            matches!(packet, wire::Packet::ConnAck { code: 0, .. }).then_some(())
        });
        assert!(accepted.is_some(), "the broker did not accept");
        if let Some(filter) = filter {
            plain
                .socket
                .write_all(&wire::subscribe(1, filter, 0))
                .expect("written");
            let subscribed = plain.take(Duration::from_secs(10), |packet| {
                matches!(packet, wire::Packet::SubAck { code: 0 }).then_some(())
            });
            assert!(subscribed.is_some(), "the broker did not subscribe");
        }
        plain
    }

    /// Publishes, and waits until the broker has it.
    ///
    /// # Panics
    /// It does not say so.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) {
        self.next += 1;
        let id = self.next;
        let mut bytes = Vec::new();
        let delivery = wire::Delivery {
            qos: 1,
            id,
            ..wire::Delivery::default()
        };
        wire::publish(&mut bytes, topic, delivery, payload);
        self.socket.write_all(&bytes).expect("written");
        let taken = self.take(Duration::from_secs(10), |packet| {
            matches!(packet, wire::Packet::PubAck(acknowledged) if *acknowledged == id)
                .then_some(())
        });
        assert!(taken.is_some(), "no acknowledgement for {topic}");
    }

    /// The next message: its topic and payload; none within the limit.
    pub fn receive(&mut self, limit: Duration) -> Option<(String, Vec<u8>)> {
        self.take(limit, |packet| match packet {
            wire::Packet::Publish { topic, payload, .. } => {
                Some(((*topic).to_owned(), payload.to_vec()))
            }
            _ => None,
        })
    }

    fn take<T>(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&wire::Packet<'_>) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + limit;
        loop {
            while let Some(packet) = self.inbox.next_packet().expect("MQTT") {
                if let Some(found) = wanted(&packet) {
                    return Some(found);
                }
            }
            if Instant::now() >= end {
                return None;
            }
            let mut bytes = [0; 4096];
            match self.socket.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.inbox.push(&bytes[..count]),
                // Nothing yet: a timeout has two names.
                Err(_) => {}
            }
        }
    }
}
