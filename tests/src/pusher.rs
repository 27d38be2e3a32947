//! Clients that push by HTTP/1.1: one connection each, kept alive, dialled again when it breaks, and
//! a push that was not answered 200 is tried again until it is.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::oracle::{now_ns, write_payload};

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answered {
    /// The value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key == name).then(|| value.trim())
        })
    }
}

/// One client.
#[derive(Debug)]
pub struct Client {
    port: u16,
    stream: Option<TcpStream>,
    /// How long it waits for an answer.
    pub patience: Duration,
}

impl Client {
    /// A client of the server on this port of 127.0.0.1; dials when it has something to say.
    #[must_use]
    pub fn new(port: u16) -> Self {
        Self {
            port,
            stream: None,
            patience: Duration::from_secs(30),
        }
    }

    /// Sends a request, with its length, and reads the answer.
    ///
    /// # Errors
    /// No connection, or it broke before the answer was there.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answered> {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
        for (name, value) in headers {
            bytes.push_str(&format!("{name}: {value}\r\n"));
        }
        bytes.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        self.raw(&[bytes.as_bytes(), body].concat())
    }

    /// Posts a body.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn post(&mut self, path: &str, body: &[u8]) -> Result<Answered> {
        self.send("POST", path, &[], body)
    }

    /// Sends these bytes and reads one answer.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn raw(&mut self, bytes: &[u8]) -> Result<Answered> {
        let answered = self.exchange(bytes);
        let closed = match &answered {
            Ok(answered) => answered.header("connection") == Some("close"),
            Err(_) => true,
        };
        if closed {
            self.stream = None;
        }
        answered
    }

    fn exchange(&mut self, bytes: &[u8]) -> Result<Answered> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(("127.0.0.1", self.port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(self.patience))?;
                none.insert(stream)
            }
        };
        // A server that refuses early may close before it has read all: its answer still counts.
        let written = stream.write_all(bytes);
        match read_answer(stream) {
            Ok(answered) => Ok(answered),
            Err(error) => written.and(Err(error)),
        }
    }
}

fn read_answer(stream: &mut TcpStream) -> Result<Answered> {
    let odd = |what: &str| Error::new(ErrorKind::InvalidData, what.to_owned());
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&got[..end]).to_lowercase();
            let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
            let mut answered = Answered {
                status: status.ok_or_else(|| odd("no status"))?,
                head,
                body: String::new(),
            };
            let length = answered.header("content-length").unwrap_or("0");
            let length: usize = length.parse().map_err(|_| odd("no length"))?;
            if got.len() >= end + 4 + length {
                let body = &got[end + 4..end + 4 + length];
                answered.body = String::from_utf8_lossy(body).into_owned();
                return Ok(answered);
            }
        }
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        got.extend_from_slice(&piece[..count]);
    }
}

/// Numbered messages by many clients.
#[derive(Clone, Debug)]
pub struct Push {
    /// The server.
    pub port: u16,
    /// The path.
    pub path: String,
    /// Clients at once.
    pub clients: u64,
    /// Messages of all together.
    pub count: u64,
    /// A push that is not answered 200 is tried again until it is.
    pub again: bool,
    /// The least time from one push of a client to its next.
    pub pause: Duration,
}

/// What clients were answered.
#[derive(Clone, Debug, Default)]
pub struct Pushed {
    /// Numbers that were answered 200.
    pub accepted: Vec<u64>,
    /// How often each other status was answered.
    pub others: std::collections::BTreeMap<u16, u64>,
    /// Requests that broke off without an answer.
    pub broken: u64,
}

/// Clients at work.
#[derive(Debug)]
pub struct Pushers {
    threads: Vec<JoinHandle<Pushed>>,
    accepted: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Push {
    /// 32 clients that do not give up.
    #[must_use]
    pub fn new(port: u16, path: &str, count: u64) -> Self {
        Self {
            port,
            path: path.to_owned(),
            clients: 32,
            count,
            again: true,
            pause: Duration::ZERO,
        }
    }

    /// Starts them.
    #[must_use]
    pub fn start(self) -> Pushers {
        let (accepted, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let next = Arc::new(AtomicU64::new(0));
        let threads = (0..self.clients)
            .map(|_| {
                let (push, next) = (self.clone(), Arc::clone(&next));
                let (accepted, stop) = (Arc::clone(&accepted), Arc::clone(&stop));
                std::thread::spawn(move || push.client(&next, &accepted, &stop))
            })
            .collect();
        Pushers {
            threads,
            accepted,
            stop,
        }
    }

    fn client(&self, next: &AtomicU64, accepted: &AtomicU64, stop: &AtomicBool) -> Pushed {
        let mut client = Client::new(self.port);
        let mut pushed = Pushed::default();
        let mut body = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.count {
                return pushed;
            }
            body.clear();
            write_payload(&mut body, number, now_ns());
            loop {
                if stop.load(Ordering::Relaxed) {
                    return pushed;
                }
                let began = Instant::now();
                match client.post(&self.path, &body) {
                    Ok(answered) if answered.status == 200 => {
                        pushed.accepted.push(number);
                        accepted.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(self.pause.saturating_sub(began.elapsed()));
                        break;
                    }
                    Ok(answered) => *pushed.others.entry(answered.status).or_default() += 1,
                    Err(_) => pushed.broken += 1,
                }
                std::thread::sleep(Duration::from_millis(20));
                if !self.again {
                    break;
                }
            }
        }
    }
}

impl Pushers {
    /// How many were answered 200 so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits for all; after `limit` those that are left are stopped.
    #[must_use]
    pub fn join(self, limit: Duration) -> Pushed {
        let all = Mutex::new(Pushed::default());
        crate::machine::holds_within(limit, || self.threads.iter().all(JoinHandle::is_finished));
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let one = thread.join().unwrap_or_default();
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.accepted.extend(one.accepted);
            all.broken += one.broken;
            for (status, count) in one.others {
                *all.others.entry(status).or_default() += count;
            }
        }
        all.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
