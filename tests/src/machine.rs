//! The machine that the tests run on: who may use it alone, free ports, signals, and what a
//! process costs (from `/proc`, so Linux only).

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

static MACHINE: RwLock<()> = RwLock::new(());

/// A test that measures rates or times holds this: no other test runs beside it.
#[must_use = "the machine is free again when this is dropped"]
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A test that puts no load on the machine holds this: others of its kind may run beside it.
#[must_use = "the machine is free again when this is dropped"]
pub fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Whether the long forms are asked for: `WINDLASS_LONG=1`.
#[must_use]
pub fn long() -> bool {
    std::env::var("WINDLASS_LONG").is_ok_and(|value| value == "1")
}

/// The short form's figure, or the long one's.
pub fn short_or_long<T>(in_short: T, in_long: T) -> T {
    if long() { in_long } else { in_short }
}

/// A port on 127.0.0.1 on which nobody listens, never given twice in this process.
///
/// Below the range from which the kernel takes the ports of outgoing connections: a client that
/// dials a dead port of that range again and again is one day connected to itself.
///
/// # Panics
/// None is free.
#[must_use]
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 199).expect("below 199") * 100;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + offset.wrapping_add(step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!(
        "no free port on 127.0.0.1 between {FIRST} and {}",
        FIRST + COUNT
    );
}

/// Waits until `condition` holds, looking every 5 ms.
///
/// # Panics
/// It does not within `limit`; `what` says what was waited for.
pub fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    assert!(
        holds_within(limit, &mut condition),
        "waited {limit:?} in vain until {what}"
    );
}

/// Whether `condition` comes true within `limit`, looking every 5 ms.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether this process is root's.
#[must_use]
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Sends a signal (`TERM`, `STOP`, `CONT`, `KILL`) to one process. The shell does it, so that no
/// `unsafe` is needed.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -{name} {pid}"))
        .status();
    assert!(
        sent.is_ok_and(|status| status.success()),
        "could not send SIG{name} to {pid}"
    );
}

/// The full path of a program in `PATH` or in the folders of system programs.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"])
        .map(|folder| Path::new(folder).join(name))
        .find(|file| file.is_file())
}

/// A command that runs as this account where these tests are root's, else as it is: servers of
/// databases refuse root. `setpriv` becomes the program, so that a signal to the child reaches it.
///
/// # Panics
/// There is no `setpriv` (util-linux).
#[must_use]
pub fn as_user(account: &str, binary: &Path) -> Command {
    if !is_root() {
        return Command::new(binary);
    }
    let mut command = Command::new(program("setpriv").expect("setpriv is part of util-linux"));
    command
        .args(["--reuid", account, "--regid", account, "--clear-groups"])
        .arg(binary)
        .current_dir("/");
    command
}

/// A temporary folder that this account may enter and write to.
///
/// # Panics
/// It cannot be made, or there is no such account.
#[must_use]
pub fn open_folder(prefix: &str, account: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir()
        .expect("a temporary folder");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).expect("its mode can be set");
    if is_root() {
        let owned = Command::new("chown")
            .arg(account)
            .arg(folder.path())
            .status();
        assert!(
            owned.is_ok_and(|status| status.success()),
            "the account {account} is not there"
        );
    }
    folder
}

/// A file that only this account may read, as servers want it of their keys.
///
/// # Panics
/// It cannot be written.
pub fn private_file(file: &Path, text: &str, account: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(file, text).expect("the file can be written");
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(file, mode).expect("its mode can be set");
    if is_root() {
        let owned = Command::new("chown").arg(account).arg(file).status();
        assert!(
            owned.is_ok_and(|status| status.success()),
            "the account {account} is not there"
        );
    }
}

/// What one process uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time since its start. The kernel counts in steps of 10 ms.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Open files.
    pub files: usize,
    /// Threads.
    pub threads: u64,
}

/// What the process `pid` uses now; zeroes once it is gone.
#[must_use]
pub fn usage(pid: u32) -> Usage {
    read_usage(pid).unwrap_or_default()
}

fn read_usage(pid: u32) -> Option<Usage> {
    // Fields of proc(5), counted from behind the name, which may hold blanks and brackets.
    const UTIME: usize = 14 - 3;
    const STIME: usize = 15 - 3;
    const THREADS: usize = 20 - 3;
    // USER_HZ: 100 on every architecture that Linux has today.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let field = |place: usize| fields.get(place)?.parse::<u32>().ok();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = resident.trim().trim_end_matches(" kB").parse().ok()?;
    Some(Usage {
        cpu: TICK * (field(UTIME)? + field(STIME)?),
        resident: kilobytes * 1024,
        files: std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
        threads: u64::from(field(THREADS)?),
    })
}

/// Time that each processor of this machine was busy, summed, since its start.
#[must_use]
pub fn machine_busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // All but idle (3) and iowait (4); guest times are in user time already.
    let busy: u64 = ticks
        .iter()
        .take(8)
        .enumerate()
        .filter(|(at, _)| *at != 3 && *at != 4)
        .map(|(_, t)| t)
        .sum();
    Duration::from_millis(busy * 10)
}

/// Notes when this machine stood still for everybody: a thread that only sleeps, and wakes late. Time
/// that a test measures is judged with it.
#[derive(Debug)]
pub struct Stalls {
    found: Arc<Mutex<Vec<(Instant, Duration)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stalls {
    /// Begins to watch, every millisecond.
    #[must_use]
    pub fn watch() -> Self {
        const STEP: Duration = Duration::from_millis(1);
        let found: Arc<Mutex<Vec<(Instant, Duration)>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (found, stop) = (Arc::clone(&found), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    std::thread::sleep(STEP);
                    let late = begin.elapsed().saturating_sub(STEP);
                    if late > STEP * 4 {
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        found.push((Instant::now(), late));
                    }
                }
            })
        };
        Self {
            found,
            stop,
            thread: Some(thread),
        }
    }

    /// How long the machine stood still since then, all stalls together.
    #[must_use]
    pub fn since(&self, begin: Instant) -> Duration {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let since = found.iter().rev().take_while(|(at, _)| *at > begin);
        since.map(|(_, late)| *late).sum()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_of_this_process_is_read() {
        let start = Instant::now();
        let mut sum = 0u64;
        while start.elapsed() < Duration::from_millis(60) {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        std::hint::black_box(sum);
        let usage = usage(std::process::id());
        assert!(usage.cpu >= Duration::from_millis(20), "{usage:?}");
        assert!(
            usage.resident > 500_000 && usage.files > 2 && usage.threads > 0,
            "{usage:?}"
        );
        assert!(machine_busy() > Duration::ZERO);
    }

    #[test]
    fn ports_are_given_once() {
        let ports: std::collections::BTreeSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
    }
}
