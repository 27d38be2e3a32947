//! The engine, and the ticker that interrupts guests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use wasmtime::{Config, Engine};

/// A guest yields to its neighbours after this long, and its CPU time is counted in these.
pub(super) const TICK: Duration = Duration::from_millis(10);
/// Ticks without a running guest after which the ticker sleeps until there is one.
const IDLE_TICKS: u32 = 3;

/// The settings that compiled code depends on, equal in the host and in the child that compiles.
fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .memory_init_cow(true)
        // The reason of a trap stands on the guest's stderr; names of functions are enough beside it.
        .generate_address_map(false)
        .native_unwind_info(false)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(16));
    if !cfg!(target_arch = "x86_64") {
        // The default reserves 4 GiB of address space for each memory. Common 64-bit kernels of small
        // ARM boards have 39 bits of it: room for a hundred instances only. Checked accesses instead.
        config
            .memory_reservation(128 << 20)
            .memory_guard_size(64 << 10);
    }
    config
}

/// The engine of the serving process. It has no compiler.
pub(super) fn serving() -> wasmtime::Result<Engine> {
    Engine::new(config().enable_compiler(false))
}

/// The engine of the child that compiles.
pub(super) fn compiling() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// Moves the engine's epoch while a guest runs, and sleeps while none does.
#[derive(Debug)]
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    running: AtomicUsize,
    asleep: AtomicBool,
    stop: AtomicBool,
}

impl Ticker {
    pub(super) fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (engine, seen) = (engine.weak(), Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("guest-ticker".into())
            .stack_size(64 << 10)
            .spawn(move || {
                let mut idle = 0;
                while !seen.stop.load(Ordering::Acquire) {
                    thread::sleep(TICK);
                    let Some(engine) = engine.upgrade() else {
                        return;
                    };
                    engine.increment_epoch();
                    drop(engine);
                    idle = if seen.running.load(Ordering::SeqCst) == 0 {
                        idle + 1
                    } else {
                        0
                    };
                    if idle >= IDLE_TICKS {
                        seen.sleep();
                        idle = 0;
                    }
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// A guest runs until the guard is dropped.
    pub(super) fn run(&self) -> Running<'_> {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
        Running(&self.shared)
    }

    fn wake(&self) {
        if self.shared.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
    }

    /// For tests: the ticker does nothing at present.
    #[cfg(test)]
    pub(super) fn is_asleep(&self) -> bool {
        self.shared.asleep.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        // A guest that started before it could see the flag is seen here.
        if self.running.load(Ordering::SeqCst) > 0 {
            self.asleep.store(false, Ordering::SeqCst);
            return;
        }
        while self.asleep.load(Ordering::SeqCst) && !self.stop.load(Ordering::Acquire) {
            thread::park();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // Its last tick at most; it cannot fail.
            drop(thread.join());
        }
    }
}

pub(super) struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ticker_sleeps_while_no_guest_runs_and_wakes_for_the_next() {
        let engine = serving().unwrap();
        let ticker = Ticker::start(&engine).unwrap();
        let asleep = |wanted: bool| {
            for _ in 0..200 {
                if ticker.is_asleep() == wanted {
                    return true;
                }
                thread::sleep(TICK);
            }
            false
        };
        assert!(asleep(true));
        let running = ticker.run();
        assert!(asleep(false));
        thread::sleep(TICK * 10);
        assert!(!ticker.is_asleep());
        drop(running);
        assert!(asleep(true));
    }
}
