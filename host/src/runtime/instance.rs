//! One live instance: a store, the exports, and the call that may be under way in it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::component::{Instance as Made, ResourceTable};
use wasmtime::{Store, Trap, UpdateDeadline};
use wasmtime_wasi::WasiCtxBuilder;

use super::connector::{Connector, Linked};
use super::engine::TICK;
use super::error::{GuestError, Overtime, Place, innermost, trap_code};
use super::limits::{GuestLimits, LARGE_MEMORY_BYTES, LARGE_START_BYTES, Limiter, MEMORY_BYTES};
use super::restarts::Restarts;
use super::state::State;
use super::stdio::Words;
use super::{CLOSE_LIMIT, GuestConfig, Runtime};
use crate::interfaces::bindings::windlass::connector::types;
use crate::interfaces::{
    CallClock, GuestStats, Host, HostParts, IgnoredWakes, Journal, Labels, Phase, Role,
    Subscriptions, Wake, from_guest,
};

/// What `random.get-random-bytes` gives at once.
const RANDOM_BYTES: u64 = 64 << 10;
/// A guest whose host call has just been ended at the deadline may have to wait for its turn.
const GRACE: Duration = Duration::from_millis(250);
/// Turns of a tick each that a call takes before it gets a thread of its own. Fewer, and on a machine that
/// is busy with others every second start of an instance gets one: the tick is of the clock on the wall.
const TURNS: u32 = 3;
/// WASI's own handles (streams, pollables).
const WASI_HANDLES: usize = 4_096;

/// One use of a connector: what all its instances have in common.
#[derive(Debug)]
pub(super) struct Use {
    pub(super) runtime: Runtime,
    pub(super) connector: Arc<Connector>,
    pub(super) config: GuestConfig,
    pub(super) role: Role,
    pub(super) stats: Arc<GuestStats>,
    pub(super) journal: Arc<Journal>,
    pub(super) subscriptions: Arc<Subscriptions>,
    pub(super) wake: Arc<Wake>,
    memory_limit: usize,
}

impl Use {
    pub(super) fn new(
        runtime: &Runtime,
        connector: Arc<Connector>,
        config: GuestConfig,
        role: Role,
    ) -> Self {
        let stats = Arc::new(GuestStats::default());
        let labels = Labels {
            tenant: Arc::clone(&config.tenant),
            rule: Arc::clone(&config.rule),
            label: Arc::clone(&config.label),
            connector: Arc::clone(&connector.name),
        };
        let journal = Arc::new(Journal::new(
            labels,
            config.limits.log_lines_per_second,
            Arc::clone(&stats),
        ));
        let large = connector.initial_memory > LARGE_START_BYTES as u64;
        let auto = if large {
            LARGE_MEMORY_BYTES
        } else {
            MEMORY_BYTES
        };
        let memory_limit = config.limits.memory_bytes.unwrap_or(auto);
        Self {
            runtime: runtime.clone(),
            connector,
            config,
            role,
            stats,
            journal,
            subscriptions: Arc::default(),
            wake: Arc::default(),
            memory_limit,
        }
    }

    pub(super) fn limits(&self) -> &GuestLimits {
        &self.config.limits
    }

    fn place(&self, phase: Phase) -> Box<Place> {
        Box::new(Place {
            connector: self.connector.name.to_string(),
            export: match self.role {
                Role::Meta => "meta",
                Role::Source => "source",
                Role::Sink => "sink",
            },
            phase,
            rule: self.config.rule.to_string(),
        })
    }

    pub(super) fn said(&self, phase: Phase, error: crate::error::ConnectionError) -> GuestError {
        GuestError::Said {
            place: self.place(phase),
            error,
        }
    }

    pub(super) fn cannot_start(&self, words: String) -> GuestError {
        GuestError::CannotStart {
            place: self.place(Phase::Start),
            words,
        }
    }

    /// A store that grants nothing but what stands in [`Use`].
    fn store(&self) -> Meter {
        let limits = self.limits();
        let clock = Arc::new(CallClock::default());
        let host = Host::new(HostParts {
            role: self.role,
            grants: Arc::clone(&self.config.grants),
            journal: Arc::clone(&self.journal),
            subscriptions: Arc::clone(&self.subscriptions),
            wake: Arc::clone(&self.wake),
            clock: Arc::clone(&clock),
            deadline: limits.call_deadline,
            host_calls: limits.host_calls,
            memory_bytes: self.memory_limit,
            batch_bytes: limits.batch_bytes,
        });
        let mut table = ResourceTable::new();
        table.set_max_capacity(WASI_HANDLES);
        // No folder, no variable, no argument, no network: what is not said here is not given.
        let wasi = WasiCtxBuilder::new()
            .stdout(Words::stdout(Arc::clone(&self.journal)))
            .stderr(Words::stderr(Arc::clone(&self.journal)))
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(RANDOM_BYTES)
            .build();
        let limiter = Limiter::new(limits, self.memory_limit, Arc::clone(&self.stats));
        let mut store = Store::new(
            self.runtime.engine(),
            State {
                host,
                limiter,
                wasi,
                table,
            },
        );
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(limits.hostcall_bytes);
        store.set_max_component_handles(limits.handles);
        // Ticks seen by the guest are not counted while it waits, or while the machine runs others;
        // time between polls is not counted either. Both must be over the limit.
        let (cpu, watched) = (limits.cpu_per_call, Arc::clone(&clock));
        let most = cpu.as_nanos().div_ceil(TICK.as_nanos());
        store.epoch_deadline_callback(move |_| {
            let (ticks, busy) = watched.tick();
            let over = u128::from(ticks) >= most && busy >= cpu;
            Ok(if over {
                UpdateDeadline::Interrupt
            } else {
                UpdateDeadline::Yield(1)
            })
        });
        Meter { store, clock }
    }

    /// What a call that did not come back means. The instance must be dropped with it.
    pub(super) fn failed(&self, phase: Phase, ended: &Ended, meter: &Meter) -> GuestError {
        let place = self.place(phase);
        let mut words = self.journal.last_words();
        let overtime = match ended {
            Ended::Deadline(limit) => Some(Overtime::Deadline(*limit)),
            Ended::Failed(error) if error.is::<IgnoredWakes>() => Some(Overtime::IgnoredWakes),
            Ended::Failed(error) if matches!(error.downcast_ref(), Some(Trap::Interrupt)) => {
                Some(Overtime::Cpu(self.limits().cpu_per_call))
            }
            Ended::Failed(_) => None,
        };
        if let Some(what) = overtime {
            self.stats.overtime.fetch_add(1, Ordering::Relaxed);
            return GuestError::Overtime { place, what, words };
        }
        self.stats.traps.fetch_add(1, Ordering::Relaxed);
        let Ended::Failed(error) = ended else {
            return GuestError::Trapped {
                place,
                code: "host",
                words,
            };
        };
        let trap = error.downcast_ref::<Trap>();
        let code = trap.map_or("host", |trap| trap_code(*trap));
        tracing::debug!(error = format!("{error:?}"), %place, "a guest call trapped");
        let mut add = |sentence: String| {
            if words.is_empty() {
                words = sentence;
            } else {
                words = format!("{sentence}: {words}");
            }
        };
        if trap.is_none() {
            add(innermost(error));
        }
        if let Some(denied) = meter.store.data().limiter.denied() {
            add(denied);
        }
        GuestError::Trapped { place, code, words }
    }

    /// Makes an instance: resolves nothing, compiles nothing.
    async fn instantiate(&self, meter: &mut Meter) -> Result<Made, GuestError> {
        self.stats.instances.fetch_add(1, Ordering::Relaxed);
        let Meter { store, clock } = &mut *meter;
        store.set_epoch_deadline(1);
        let made = self.connector.linked.pre.instantiate_async(&mut *store);
        let made = run(&self.runtime, clock, self.limits().call_deadline, made).await;
        made.map_err(|ended| match self.failed(Phase::Start, &ended, meter) {
            GuestError::Trapped {
                code: "host",
                words,
                ..
            } => self.cannot_start(words),
            other => other,
        })
    }
}

impl Use {
    /// A new instance, opened. What fails counts in `restarts`, but for what the guest itself says.
    pub(super) async fn start<G: Export>(
        &self,
        restarts: &mut Restarts,
        resume: Option<&str>,
    ) -> Result<Instance<G>, GuestError> {
        let Some(load) = G::load(&self.connector.linked) else {
            return Err(self.cannot_start(format!("it has no {}", G::NAME)));
        };
        let (mut meter, exports) = match self.make(load).await {
            Ok(made) => made,
            Err(error) => {
                restarts.failed(Instant::now(), rand::random());
                return Err(error);
            }
        };
        meter.begin(Phase::Open);
        let opened = {
            let call = exports.open(&mut meter.store, &self.config.config, resume);
            run(
                &self.runtime,
                &meter.clock,
                self.limits().call_deadline,
                call,
            )
            .await
        };
        account(&self.stats, &meter.clock);
        let base = meter.store.data().limiter.memory();
        let mut instance = Instance {
            meter,
            exports,
            born: Instant::now(),
            calls: 0,
            base,
        };
        match opened {
            Ok(Ok(())) => {
                instance.meter.end();
                Ok(instance)
            }
            Ok(Err(error)) => {
                self.stats.memory_bytes.store(0, Ordering::Relaxed);
                Err(self.said(Phase::Open, from_guest(error)))
            }
            Err(ended) => {
                restarts.failed(Instant::now(), rand::random());
                Err(instance.lost(self, Phase::Open, &ended))
            }
        }
    }

    /// A new store, the instance in it, and its exports.
    pub(super) async fn make<G>(
        &self,
        load: impl FnOnce(&mut Store<State>, &Made) -> wasmtime::Result<G>,
    ) -> Result<(Meter, G), GuestError> {
        let mut meter = self.store();
        let made = self.instantiate(&mut meter).await?;
        match load(&mut meter.store, &made) {
            Ok(exports) => Ok((meter, exports)),
            Err(error) => Err(self.cannot_start(format!("{error:#}"))),
        }
    }
}

/// A store with its clock.
pub(super) struct Meter {
    pub(super) store: Store<State>,
    pub(super) clock: Arc<CallClock>,
}

impl Meter {
    /// Before a guest call.
    pub(super) fn begin(&mut self, phase: Phase) {
        self.store.data_mut().host.begin(phase);
        self.store.set_epoch_deadline(1);
    }

    /// After a guest call that came back.
    pub(super) fn end(&mut self) {
        self.store.data_mut().host.end();
    }

    pub(super) fn host(&mut self) -> &mut Host {
        &mut self.store.data_mut().host
    }
}

/// What sources and sinks have in common.
pub(super) trait Export: Sized + Send + Sync {
    /// The interface that is exported.
    const NAME: &'static str;

    /// Finds the export in an instance. None: the connector does not have it.
    fn load(
        linked: &Linked,
    ) -> Option<impl FnOnce(&mut Store<State>, &Made) -> wasmtime::Result<Self> + Send>;

    /// Calls `open`; a sink has nothing to resume.
    fn open(
        &self,
        store: &mut Store<State>,
        config: &str,
        resume: Option<&str>,
    ) -> impl Future<Output = wasmtime::Result<Result<(), types::Error>>> + Send;

    /// Calls `close`.
    fn close(&self, store: &mut Store<State>) -> impl Future<Output = wasmtime::Result<()>> + Send;
}

/// An instance with its exports.
pub(super) struct Instance<G> {
    pub(super) meter: Meter,
    pub(super) exports: G,
    pub(super) born: Instant,
    pub(super) calls: u64,
    /// Linear memory after `open`.
    pub(super) base: usize,
}

/// Why an instance is replaced though nothing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worn {
    Memory,
    Calls,
    Age,
    Handles,
}

impl<G> Instance<G> {
    /// Whether it should be replaced before the next call.
    pub(super) fn worn(&self, of: &Use) -> Option<Worn> {
        let recycle = &of.limits().recycle;
        let state = self.meter.store.data();
        let memory = state.limiter.memory();
        // An instance that starts near its limit must not be replaced at every call.
        let mark = of.memory_limit / 100 * usize::from(recycle.memory_percent);
        let mark = mark.max(
            self.base
                .saturating_add(of.memory_limit.saturating_sub(self.base) / 2),
        );
        if memory >= mark {
            Some(Worn::Memory)
        } else if state.host.stale_batches() >= recycle.stale_batches {
            Some(Worn::Handles)
        } else if recycle.calls.is_some_and(|most| self.calls >= most) {
            Some(Worn::Calls)
        } else if recycle.age.is_some_and(|most| self.born.elapsed() >= most) {
            Some(Worn::Age)
        } else {
            None
        }
    }
}

impl<G: Export> Instance<G> {
    /// Lets the guest tidy up, and drops it.
    pub(super) async fn close(mut self, of: &Use) {
        self.meter.begin(Phase::Close);
        let call = self.exports.close(&mut self.meter.store);
        let closed = run(&of.runtime, &self.meter.clock, CLOSE_LIMIT, call).await;
        account(&of.stats, &self.meter.clock);
        match closed {
            Ok(()) => {
                drop(self);
                of.stats.memory_bytes.store(0, Ordering::Relaxed);
            }
            Err(ended) => {
                let error = self.lost(of, Phase::Close, &ended);
                tracing::warn!(%error, "a connector failed to close; its instance is gone all the same");
            }
        }
    }

    /// A call did not come back: the instance is gone, and what it took is back in its queues.
    pub(super) fn lost(self, of: &Use, phase: Phase, ended: &Ended) -> GuestError {
        let error = of.failed(phase, ended, &self.meter);
        drop(self);
        of.stats.memory_bytes.store(0, Ordering::Relaxed);
        error
    }
}

impl Worn {
    pub(super) fn count(self, stats: &GuestStats) {
        let counter = match self {
            Self::Memory => &stats.recycled_memory,
            Self::Calls => &stats.recycled_calls,
            Self::Age => &stats.recycled_age,
            Self::Handles => &stats.recycled_handles,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// How a call did not come back.
#[derive(Debug)]
pub(super) enum Ended {
    Failed(wasmtime::Error),
    Deadline(Duration),
}

/// Runs a guest call: counts its time, lets the ticker run while it does, and ends it at its deadline.
///
/// # Cancel safety
/// Dropped half-way it leaves a store that must be dropped too.
pub(super) async fn run<T>(
    runtime: &Runtime,
    clock: &CallClock,
    limit: Duration,
    call: impl Future<Output = wasmtime::Result<T>>,
) -> Result<T, Ended> {
    let mut call = pin!(call);
    let mut timer = None;
    let mut now = Instant::now();
    let mut fresh = true;
    let mut turns = 0_u32;
    clock.start_call(now);
    poll_fn(|cx| {
        if !std::mem::take(&mut fresh) {
            now = Instant::now();
        }
        clock.start_poll(now);
        let running = runtime.ticker().run();
        let ticks = clock.ticks();
        let polled = match (turns >= TURNS).then(|| runtime.aside()).flatten() {
            Some(_aside) => tokio::task::block_in_place(|| call.as_mut().poll(cx)),
            None => call.as_mut().poll(cx),
        };
        drop(running);
        // Stopped by the ticker, it has more to compute: soon its neighbours go on without this thread.
        turns = if clock.ticks() > ticks { turns + 1 } else { 0 };
        now = Instant::now();
        clock.end_poll(now);
        if let Poll::Ready(done) = polled {
            return Poll::Ready(done.map_err(Ended::Failed));
        }
        loop {
            let left = (limit + GRACE).saturating_sub(clock.counted(now));
            if left.is_zero() {
                return Poll::Ready(Err(Ended::Deadline(limit)));
            }
            // Made only for a call that waits: most return at once.
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(now + left)));
            match timer.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                // Time inside `receive` did not count: look again.
                Poll::Ready(()) => {
                    now = Instant::now();
                    let left = (limit + GRACE).saturating_sub(clock.counted(now));
                    timer
                        .as_mut()
                        .reset(now + left.max(Duration::from_millis(1)));
                }
            }
        }
    })
    .await
}

/// Adds a call that has ended to the counters.
pub(super) fn account(stats: &GuestStats, clock: &CallClock) {
    let (busy, waited) = clock.used();
    stats.calls.fetch_add(1, Ordering::Relaxed);
    stats.cpu_ns.fetch_add(busy, Ordering::Relaxed);
    stats.wait_ns.fetch_add(waited, Ordering::Relaxed);
}
