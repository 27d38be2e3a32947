//! Numbered messages to a server that may be away: each goes until the server has taken it, over as many
//! links as that needs. And the ways to the servers of the tests, by clients of a few lines.

use std::io::{BufRead, BufReader, Error, ErrorKind, Result, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::load;
use crate::oracle::{now_ns, write_payload};
use crate::process::Killed;
use crate::wire::{self, Packet};
use crate::{mariadb, nats, redis};

/// Stores one message (its number, its payload) and comes back when the server has it.
pub type Store = Box<dyn FnMut(u64, &[u8]) -> Result<()>>;
/// Connects anew.
pub type Connect = Box<dyn Fn() -> Result<Store> + Send>;

/// Between two attempts to connect: a server that is back must not wait for its load.
const AGAIN: Duration = Duration::from_millis(20);
/// Further behind than this a sender does not make up for what is late.
const LATE: Duration = Duration::from_millis(100);

/// What becomes of a message of which nobody knows whether it has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It goes again under its number: it may come twice, and must come once.
    Again,
    /// The next one goes: the server keeps nothing anyhow.
    Dropped,
}

/// A thread that sends until it is told to stop, or dropped.
#[derive(Debug)]
pub struct Sender {
    stop: Arc<AtomicBool>,
    next: Arc<AtomicU64>,
    taken: Arc<Mutex<Vec<(u64, u64)>>>,
    thread: Option<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sender {
    /// Begins, with number 0 and about so many messages per second, one at a time.
    #[must_use]
    pub fn start(connect: Connect, rate: u32, doubt: Doubt) -> Self {
        let (stop, next, taken) = (Arc::default(), Arc::default(), Arc::default());
        let mut sender = Self {
            stop: Arc::clone(&stop),
            next: Arc::clone(&next),
            taken: Arc::clone(&taken),
            thread: None,
        };
        let step = Duration::from_secs(1) / rate;
        sender.thread = Some(std::thread::spawn(move || {
            let (mut link, mut payload, mut seq) = (None::<Store>, Vec::new(), 0);
            let mut due = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let Some(store) = &mut link else {
                    link = connect().ok();
                    if link.is_none() {
                        std::thread::sleep(AGAIN);
                    }
                    continue;
                };
                due = (due + step).max(Instant::now().checked_sub(LATE).unwrap_or(due));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let ts = now_ns();
                write_payload(&mut payload, seq, ts);
                let done = store(seq, &payload).is_ok();
                if done {
                    lock(&taken).push((seq, ts));
                } else {
                    link = None;
                }
                seq += u64::from(done || doubt == Doubt::Dropped);
                next.store(seq, Ordering::Relaxed);
            }
        }));
        sender
    }

    /// The number under way, or the next one.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Stops; number and time of what the server has taken.
    ///
    /// # Panics
    /// Its thread did.
    #[must_use]
    pub fn end(mut self) -> Vec<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the sender does not panic");
        }
        std::mem::take(&mut lock(&self.taken))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// To a topic of the MQTT broker on this port, at QoS 1.
#[must_use]
pub fn to_mqtt(port: u16, topic: &str) -> Connect {
    static NAMES: AtomicU64 = AtomicU64::new(0);
    let name = format!("sender-{}", NAMES.fetch_add(1, Ordering::Relaxed));
    let topic = topic.to_owned();
    Box::new(move || {
        let (mut socket, mut inbox, _) = load::dial(port, &name, true, None)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let (topic, mut id, mut bytes) = (topic.clone(), 0_u16, Vec::new());
        Ok(Box::new(move |_: u64, payload: &[u8]| {
            id = id % u16::MAX + 1;
            let delivery = wire::Delivery {
                qos: 1,
                id,
                ..wire::Delivery::default()
            };
            bytes.clear();
            wire::publish(&mut bytes, &topic, delivery, payload);
            socket.write_all(&bytes)?;
            loop {
                while let Some(packet) = inbox.next_packet().map_err(load::malformed)? {
                    if packet == Packet::PubAck(id) {
                        return Ok(());
                    }
                }
                load::read_into(&mut socket, &mut inbox)?;
            }
        }) as Store)
    })
}

/// To a subject of the NATS server on this port; `stored`: a stream of JetStream has it.
#[must_use]
pub fn to_nats(port: u16, subject: &str, stored: bool) -> Connect {
    let subject = subject.to_owned();
    Box::new(move || {
        let mut client = nats::Client::dial(port, json!({}))?;
        let subject = subject.clone();
        Ok(Box::new(move |seq: u64, payload: &[u8]| {
            if stored {
                client.store(&subject, &seq.to_string(), payload)
            } else {
                client.publish(&subject, "", &[], payload)?;
                client.flush()
            }
        }) as Store)
    })
}

/// To a stream of the Redis on this port, or to a channel, which keeps nothing.
#[must_use]
pub fn to_redis(port: u16, key: &str, stream: bool) -> Connect {
    let key = key.to_owned();
    Box::new(move || {
        let mut client = redis::Client::dial(port)?;
        let key = key.clone();
        Ok(Box::new(move |_: u64, payload: &[u8]| {
            let key = key.as_bytes();
            let done = if stream {
                client.command(&[b"XADD", key, b"*", b"payload", payload])
            } else {
                client.command(&[b"PUBLISH", key, payload])
            };
            done.map(drop)
        }) as Store)
    })
}

/// To a table of the MariaDB on this port: its only columns are `seq`, the key, and `ts`.
#[must_use]
pub fn to_mariadb(port: u16, table: &str) -> Connect {
    let table = table.to_owned();
    Box::new(move || {
        // The client takes long to say that nobody is there.
        drop(TcpStream::connect(("127.0.0.1", port))?);
        let mut client = mariadb::client(port);
        let spawned = client
            .args(["--unbuffered", "--skip-reconnect"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut client = Killed(spawned?);
        let (Some(mut input), Some(output)) = (client.0.stdin.take(), client.0.stdout.take())
        else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        let (mut output, table) = (BufReader::new(output), table.clone());
        Ok(Box::new(move |seq: u64, _: &[u8]| {
            // It ends with the first error.
            let _runs = &client;
            let statement = format!(
                "INSERT IGNORE INTO {table} VALUES ({seq}, {}); SELECT {seq};\n",
                now_ns()
            );
            input.write_all(statement.as_bytes())?;
            let mut line = String::new();
            output.read_line(&mut line)?;
            if line.trim_end() == seq.to_string() {
                Ok(())
            } else {
                Err(Error::new(ErrorKind::UnexpectedEof, line))
            }
        }) as Store)
    })
}
