//! Keeps memory small that many threads have used: the C library's allocator gives each thread an arena
//! of its own, eight for each core, and hardly gives anything back from one that is not the first. It reads
//! their number from the environment when a process begins, so a host begins once more with it set. Touches
//! nothing else of the process: its number, its arguments and its open files stay.

/// What the allocator reads (mallopt(3), `M_ARENA_MAX`), and the setting that may say the same.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SETTINGS: [&str; 2] = ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"];

/// Begins this process once more, with an arena for each of its first few cores. Returns where that is not
/// to be done: with another allocator, when the operator has decided, and when it has been done.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn limit() {
    use std::os::unix::process::CommandExt as _;

    if SETTINGS.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let mut own = std::env::args_os();
    let (Some(name), Ok(path)) = (own.next(), std::env::current_exe()) else {
        return;
    };
    // Two even on one core: the runtime and the guests do not wait for each other.
    let arenas = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4));
    // It comes back only if it could not be done, and then more memory is used.
    let _error = std::process::Command::new(path)
        .arg0(name)
        .args(own)
        .env(SETTINGS[0], arenas.to_string())
        .exec();
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn limit() {}
