//! The load generator: publishers and subscribers on blocking sockets, a thread or two each.
//!
//! Made to cost little beside what they measure: many packets per system call, one lock per read.
//! Both dial again by themselves when their broker goes away, until they are ended.

use std::collections::btree_map::{BTreeMap, Entry};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::oracle::{Judge, Ledger, now_ns, write_payload};
use crate::wire::{self, Delivery, Inbox, Packet};

/// A lock whatever happened to its last holder: a failed test must not hide behind another panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects to the broker on this port and exchanges CONNECT and CONNACK. Answers the socket, what
/// was read beyond the CONNACK, and whether the broker had the session.
///
/// # Errors
/// Nobody listens, or the broker refuses; then the text names its return code.
pub fn dial(
    port: u16,
    client_id: &str,
    clean: bool,
    login: Option<(&str, &str)>,
) -> Result<(TcpStream, Inbox, bool)> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(&wire::connect(client_id, clean, login))?;
    let mut inbox = Inbox::default();
    let session = loop {
        read_into(&mut socket, &mut inbox)?;
        match inbox.next_packet().map_err(malformed)? {
            Some(Packet::ConnAck {
                code: 0,
                session_present,
            }) => break session_present,
            Some(other) => {
                return Err(Error::new(
                    ErrorKind::ConnectionRefused,
                    format!("{other:?}"),
                ));
            }
            None => {}
        }
    };
    socket.set_read_timeout(None)?;
    Ok((socket, inbox, session))
}

pub(crate) fn malformed(error: wire::Malformed) -> Error {
    Error::new(ErrorKind::InvalidData, error.0)
}

/// Reads once, as much as there is.
pub(crate) fn read_into(socket: &mut TcpStream, inbox: &mut Inbox) -> Result<()> {
    let mut bytes = [0u8; 32 * 1024];
    let read = socket.read(&mut bytes)?;
    if read == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    inbox.push(&bytes[..read]);
    // A broker writes with Nagle's algorithm on: with delayed acknowledgements of ours it would wait
    // 40 ms for each. The kernel forgets this setting by itself, so it is said anew.
    #[cfg(target_os = "linux")]
    std::os::linux::net::TcpStreamExt::set_quickack(socket, true)?;
    Ok(())
}

/// What to publish, and how.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The broker, on 127.0.0.1.
    pub port: u16,
    /// Its client id.
    pub client_id: String,
    /// Where to.
    pub topic: String,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Messages per second; none: as fast as the window lets it.
    pub rate: Option<u32>,
    /// Unacknowledged messages at QoS 1 and 2. mosquitto 2.0.11 ends a connection with more than 20
    /// at QoS 2 (its `max_inflight_messages`), also one that speaks MQTT 3.1.1.
    pub window: usize,
    /// Number of the first message.
    pub first: u64,
    /// Messages; none: until stopped.
    pub count: Option<u64>,
    /// How far the highest number at the far end may be behind: the flow control that QoS 0 lacks,
    /// so that the broker need not drop.
    pub ahead: Option<(Arc<AtomicU64>, u64)>,
}

impl Publish {
    /// A flood without end from number 0, 100 unacknowledged.
    #[must_use]
    pub fn new(port: u16, topic: &str, qos: u8) -> Self {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        Self {
            port,
            client_id: format!("publisher-{}", NAMES.fetch_add(1, Ordering::Relaxed)),
            topic: topic.to_owned(),
            qos,
            rate: None,
            window: 100,
            first: 0,
            count: None,
            ahead: None,
        }
    }

    /// At so many per second.
    #[must_use]
    pub fn rate(mut self, per_second: u32) -> Self {
        self.rate = Some(per_second);
        self
    }

    /// So many messages.
    #[must_use]
    pub fn count(mut self, messages: u64) -> Self {
        self.count = Some(messages);
        self
    }

    /// Begins.
    #[must_use]
    pub fn start(self) -> Publisher {
        let shared = Arc::new(Outbox::default());
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || self.run(&shared))
        };
        Publisher {
            shared,
            thread: Some(thread),
        }
    }

    /// Dials, publishes, dials again, until all is sent and acknowledged, or it is stopped.
    fn run(&self, shared: &Arc<Outbox>) -> Duration {
        let start = Instant::now();
        let mut next = self.first;
        let mut pace = Pace {
            start: now_ns(),
            sent: 0,
        };
        while !self.done(shared, next) {
            let Ok((socket, inbox, _)) = dial(self.port, &self.client_id, false, None) else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            let socket = Arc::new(socket);
            lock(&shared.state).socket = Some(Arc::clone(&socket));
            let reader = {
                let (shared, socket) = (Arc::clone(shared), Arc::clone(&socket));
                std::thread::spawn(move || {
                    drop(read_acknowledgements(&shared, &socket, inbox));
                    shared.lose_link(&socket);
                })
            };
            drop(self.session(shared, &socket, &mut next, &mut pace));
            drop((&*socket).write_all(&wire::DISCONNECT));
            shared.lose_link(&socket);
            reader.join().expect("the reader does not panic");
        }
        start.elapsed()
    }

    fn done(&self, shared: &Outbox, next: u64) -> bool {
        let all_sent = shared.stop.load(Ordering::Relaxed)
            || self.count.is_some_and(|count| next >= self.first + count);
        shared.give_up.load(Ordering::Relaxed)
            || (all_sent && lock(&shared.state).in_flight.is_empty())
    }

    /// One connection's life.
    fn session(
        &self,
        shared: &Outbox,
        socket: &Arc<TcpStream>,
        next: &mut u64,
        pace: &mut Pace,
    ) -> Result<()> {
        let mut writer: &TcpStream = socket;
        let mut payload = Vec::new();
        let mut bytes = Vec::with_capacity(64 * 1024);
        // What the last connection left unacknowledged goes first, in its order.
        for (id, seq) in shared.leftovers() {
            write_payload(&mut payload, seq, now_ns());
            wire::publish(
                &mut bytes,
                &self.topic,
                Delivery {
                    qos: self.qos,
                    id,
                    dup: true,
                    retain: false,
                },
                &payload,
            );
        }
        writer.write_all(&bytes)?;
        loop {
            bytes.clear();
            let room = self.room(shared, socket, *next, pace)?;
            if room == 0 && self.done(shared, *next) {
                return Ok(());
            }
            for _ in 0..room {
                let id = if self.qos == 0 {
                    0
                } else {
                    shared.take_id(*next)
                };
                write_payload(&mut payload, *next, now_ns());
                wire::publish(
                    &mut bytes,
                    &self.topic,
                    Delivery {
                        qos: self.qos,
                        id,
                        ..Delivery::default()
                    },
                    &payload,
                );
                *next += 1;
                pace.sent += 1;
            }
            writer.write_all(&bytes)?;
            shared.sent.fetch_add(room as u64, Ordering::Relaxed);
        }
    }

    /// How many may go out now; waits until there is at least one, or nothing more to do.
    fn room(
        &self,
        shared: &Outbox,
        socket: &Arc<TcpStream>,
        next: u64,
        pace: &Pace,
    ) -> Result<usize> {
        const AT_ONCE: usize = 100;
        loop {
            let stopped = shared.stop.load(Ordering::Relaxed);
            let left = self
                .count
                .map_or(u64::MAX, |count| (self.first + count).saturating_sub(next));
            let mut room = if stopped {
                0
            } else {
                AT_ONCE.min(usize::try_from(left).unwrap_or(AT_ONCE))
            };
            let state = lock(&shared.state);
            if state.lost(socket) {
                return Err(ErrorKind::BrokenPipe.into());
            }
            if room == 0 {
                if state.in_flight.is_empty() || shared.give_up.load(Ordering::Relaxed) {
                    return Ok(0);
                }
                drop(
                    shared
                        .changed
                        .wait_timeout(state, Duration::from_millis(50)),
                );
                continue;
            }
            if self.qos > 0 {
                // A flood goes a quarter of a window at a time: fewer, larger writes.
                let least = if self.rate.is_none() {
                    room.min(self.window / 4).max(1)
                } else {
                    1
                };
                room = room.min(self.window.saturating_sub(state.in_flight.len()));
                if room < least {
                    drop(
                        shared
                            .changed
                            .wait_timeout(state, Duration::from_millis(50)),
                    );
                    continue;
                }
            }
            drop(state);
            if let Some((highest, ahead)) = &self.ahead {
                let free = (highest.load(Ordering::Relaxed) + ahead).saturating_sub(next);
                room = room.min(usize::try_from(free).unwrap_or(AT_ONCE));
                if room == 0 {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
            }
            let due = self.rate.map_or(usize::MAX, |rate| pace.due(rate));
            if due > 0 {
                return Ok(room.min(due));
            }
            std::thread::sleep(self.rate.map_or(Duration::ZERO, |rate| pace.wait(rate)));
        }
    }
}

/// Keeps a rate over the whole run, so that a late message is made up for.
#[derive(Debug)]
struct Pace {
    start: u64,
    sent: u64,
}

impl Pace {
    fn due(&self, rate: u32) -> usize {
        let elapsed = now_ns().saturating_sub(self.start);
        let target = (u128::from(elapsed) * u128::from(rate) / 1_000_000_000) as u64 + 1;
        usize::try_from(target.saturating_sub(self.sent)).unwrap_or(usize::MAX)
    }

    fn wait(&self, rate: u32) -> Duration {
        let due = self.start + self.sent * 1_000_000_000 / u64::from(rate);
        Duration::from_nanos(due.saturating_sub(now_ns()).clamp(20_000, 50_000_000))
    }
}

/// What a publisher's two threads share.
#[derive(Debug, Default)]
struct Outbox {
    state: Mutex<Flight>,
    changed: Condvar,
    sent: AtomicU64,
    stop: AtomicBool,
    give_up: AtomicBool,
}

#[derive(Debug, Default)]
struct Flight {
    socket: Option<Arc<TcpStream>>,
    last_id: u16,
    /// Packet id and number of what is not acknowledged, by number.
    in_flight: BTreeMap<u64, u16>,
    numbers: BTreeMap<u16, u64>,
    acknowledged: Vec<u64>,
}

impl Flight {
    fn lost(&self, socket: &Arc<TcpStream>) -> bool {
        !self
            .socket
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, socket))
    }
}

impl Outbox {
    fn take_id(&self, seq: u64) -> u16 {
        let mut state = lock(&self.state);
        loop {
            state.last_id = state.last_id.checked_add(1).unwrap_or(1);
            let id = state.last_id;
            if let Entry::Vacant(free) = state.numbers.entry(id) {
                free.insert(seq);
                state.in_flight.insert(seq, id);
                return id;
            }
        }
    }

    fn leftovers(&self) -> Vec<(u16, u64)> {
        lock(&self.state)
            .in_flight
            .iter()
            .map(|(&seq, &id)| (id, seq))
            .collect()
    }

    fn lose_link(&self, socket: &Arc<TcpStream>) {
        let mut state = lock(&self.state);
        if !state.lost(socket) {
            state.socket = None;
        }
        drop(state);
        // It may be closed already.
        drop(socket.shutdown(Shutdown::Both));
        self.changed.notify_all();
    }
}

fn read_acknowledgements(shared: &Outbox, socket: &Arc<TcpStream>, mut inbox: Inbox) -> Result<()> {
    let mut reader = socket.try_clone()?;
    let mut answers = Vec::new();
    loop {
        read_into(&mut reader, &mut inbox)?;
        answers.clear();
        let mut state = lock(&shared.state);
        while let Some(packet) = inbox.next_packet().map_err(malformed)? {
            match packet {
                Packet::PubAck(id) | Packet::PubComp(id) => {
                    if let Some(seq) = state.numbers.remove(&id) {
                        state.in_flight.remove(&seq);
                        state.acknowledged.push(seq);
                    }
                }
                Packet::PubRec(id) => wire::acknowledge(&mut answers, 0x62, id),
                _ => {}
            }
        }
        drop(state);
        shared.changed.notify_all();
        if !answers.is_empty() {
            reader.write_all(&answers)?;
        }
    }
}

/// A running publisher.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Outbox>,
    thread: Option<JoinHandle<Duration>>,
}

/// What a publisher did.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Messages sent, repetitions not counted.
    pub sent: u64,
    /// Numbers that the broker acknowledged, in that order.
    pub acknowledged: Vec<u64>,
    /// From the first dial to the last acknowledgement.
    pub elapsed: Duration,
}

impl Publisher {
    /// Messages sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Messages that the broker has acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        lock(&self.shared.state).acknowledged.len() as u64
    }

    /// Waits until all are sent and acknowledged.
    #[must_use]
    pub fn join(mut self) -> Sent {
        self.collect()
    }

    /// Sends nothing new, waits for what is unacknowledged.
    #[must_use]
    pub fn stop(mut self) -> Sent {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.collect()
    }

    fn collect(&mut self) -> Sent {
        let elapsed = self.thread.take().map_or(Duration::ZERO, |thread| {
            thread.join().expect("the publisher does not panic")
        });
        let acknowledged = std::mem::take(&mut lock(&self.shared.state).acknowledged);
        Sent {
            sent: self.sent(),
            acknowledged,
            elapsed,
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.give_up.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        let socket = lock(&self.shared.state).socket.take();
        if let Some(socket) = socket {
            drop(socket.shutdown(Shutdown::Both));
        }
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What to receive, and how.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// The broker, on 127.0.0.1.
    pub port: u16,
    /// Its client id.
    pub client_id: String,
    /// From where.
    pub filter: String,
    /// 0, 1 or 2.
    pub qos: u8,
    /// False: the broker keeps the session while the subscriber is away.
    pub clean: bool,
    /// How to judge what arrives.
    pub judge: Judge,
}

impl Subscribe {
    /// A clean session that expects what was sent, byte for byte.
    #[must_use]
    pub fn new(port: u16, client_id: &str, filter: &str, qos: u8) -> Self {
        Self {
            port,
            client_id: client_id.to_owned(),
            filter: filter.to_owned(),
            qos,
            clean: true,
            judge: Judge::Exact,
        }
    }
}

/// A running subscriber with its ledger.
#[derive(Debug)]
pub struct Subscriber {
    shared: Arc<Arrivals>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Arrivals {
    ledger: Mutex<Ledger>,
    highest: Arc<AtomicU64>,
    socket: Mutex<Option<TcpStream>>,
    subscribed: AtomicU64,
    session_present: AtomicBool,
    payloads: Mutex<Vec<(String, Vec<u8>)>>,
    stop: AtomicBool,
}

impl Subscriber {
    /// Subscribes, and returns when the broker has granted it.
    ///
    /// # Panics
    /// It does not within 10 s.
    #[must_use]
    pub fn start(options: Subscribe) -> Self {
        let shared = Arc::new(Arrivals {
            ledger: Mutex::new(Ledger::new(options.judge)),
            highest: Arc::default(),
            socket: Mutex::default(),
            subscribed: AtomicU64::new(0),
            session_present: AtomicBool::new(false),
            payloads: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    if shared.session(&options).is_err() {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            })
        };
        let subscriber = Self {
            shared,
            thread: Some(thread),
        };
        crate::machine::wait_until(Duration::from_secs(10), "the far end is subscribed", || {
            subscriber.shared.subscribed.load(Ordering::Relaxed) > 0
        });
        subscriber
    }

    /// The ledger, locked: keep it for a moment only.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.shared.ledger)
    }

    /// Different messages so far.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.ledger().arrived()
    }

    /// Highest number so far, for [`Publish::ahead`].
    #[must_use]
    pub fn highest(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.highest)
    }

    /// Whether the broker had the session when it was last dialled.
    #[must_use]
    pub fn session_present(&self) -> bool {
        self.shared.session_present.load(Ordering::Relaxed)
    }

    /// Topic and payload of the first 1000 arrivals, for tests that look inside.
    #[must_use]
    pub fn payloads(&self) -> Vec<(String, Vec<u8>)> {
        lock(&self.shared.payloads).clone()
    }

    /// Waits for so many different messages.
    ///
    /// # Panics
    /// They do not come in time.
    pub fn wait_for(&self, messages: u64, limit: Duration) {
        let there = crate::machine::holds_within(limit, || self.arrived() >= messages);
        assert!(
            there,
            "expected {messages} messages within {limit:?}: {}",
            self.ledger().summary()
        );
    }

    /// Waits until nothing has arrived for `quiet`, `limit` at most.
    pub fn settle(&self, quiet: Duration, limit: Duration) {
        let end = Instant::now() + limit;
        let mut seen = (self.ledger().mark(), Instant::now());
        while Instant::now() < end && seen.1.elapsed() < quiet {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.ledger().mark();
            if now != seen.0 {
                seen = (now, Instant::now());
            }
        }
    }
}

impl Arrivals {
    /// One connection's life.
    fn session(&self, options: &Subscribe) -> Result<()> {
        const KEPT: usize = 1000;
        let Subscribe {
            port,
            client_id,
            filter,
            qos,
            clean,
            ..
        } = options;
        let (mut socket, mut inbox, session_present) = dial(*port, client_id, *clean, None)?;
        self.session_present
            .store(session_present, Ordering::Relaxed);
        *lock(&self.socket) = Some(socket.try_clone()?);
        if self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        socket.write_all(&wire::subscribe(1, filter, *qos))?;
        let mut answers = Vec::new();
        loop {
            answers.clear();
            let mut ledger = lock(&self.ledger);
            while let Some(packet) = inbox.next_packet().map_err(malformed)? {
                match packet {
                    Packet::Publish {
                        qos,
                        topic,
                        id,
                        payload,
                        ..
                    } => {
                        ledger.enter(payload);
                        let mut payloads = lock(&self.payloads);
                        if payloads.len() < KEPT {
                            payloads.push((topic.to_owned(), payload.to_vec()));
                        }
                        match qos {
                            1 => wire::acknowledge(&mut answers, 0x40, id),
                            2 => wire::acknowledge(&mut answers, 0x50, id),
                            _ => {}
                        }
                    }
                    Packet::PubRel(id) => wire::acknowledge(&mut answers, 0x70, id),
                    Packet::SubAck { code } => {
                        assert!(code < 0x80, "the broker refused the filter `{filter}`");
                        self.subscribed.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
            self.highest
                .store(ledger.highest().unwrap_or(0), Ordering::Relaxed);
            drop(ledger);
            if !answers.is_empty() {
                socket.write_all(&answers)?;
            }
            read_into(&mut socket, &mut inbox)?;
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(socket) = lock(&self.shared.socket).take() {
            drop(socket.shutdown(Shutdown::Both));
        }
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
