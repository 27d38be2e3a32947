//! Gives memory back that was used for a while: the C library's allocator gives each thread an arena of
//! its own, eight for each core, and raises with each large block the size from which blocks go back to the
//! system at once. It reads what it should do from the environment when a process begins, so a host begins
//! once more with that set. Touches nothing else of the process: its number, its arguments and its open
//! files stay.

/// What the allocator reads (mallopt(3)), or where the same may be said.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const DECIDED: [&str; 4] = [
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "GLIBC_TUNABLES",
];

/// Begins this process once more, with an arena for each of its first few cores and with sizes that stay.
/// Returns where that is not to be done: with another allocator, when the operator has decided, and when it
/// has been done.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn limit() {
    use std::os::unix::process::CommandExt as _;

    if DECIDED.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let mut own = std::env::args_os();
    let (Some(name), Ok(path)) = (own.next(), std::env::current_exe()) else {
        return;
    };
    // Two even on one core: the runtime and the guests do not wait for each other.
    let arenas = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4));
    let [most, large, spare, _] = DECIDED;
    // It comes back only if it could not be done, and then more memory is used.
    let _error = std::process::Command::new(path)
        .arg0(name)
        .args(own)
        .env(most, arenas.to_string())
        .env(large, (128 << 10).to_string())
        .env(spare, (1 << 20).to_string())
        .exec();
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn limit() {}
