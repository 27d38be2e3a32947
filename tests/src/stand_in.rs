//! A broker that misbehaves on purpose: it speaks as much of MQTT 3.1.1 as [`crate::wire`] has, and a
//! script of the test decides what it answers. One thread a link; it ends with its owner.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::machine::free_port;
use crate::wire::{Inbox, Packet};

/// What the broker does. Everything that is not told otherwise it does as a broker should.
pub trait Script: Send + 'static {
    /// The answer to a CONNECT; without a change here it accepts, without a session.
    fn connect(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0x20, 2, 0, 0]);
    }

    /// A message came: its level, its packet id, its payload.
    fn publish(&mut self, qos: u8, id: u16, payload: &[u8], out: &mut Vec<u8>);

    /// A filter was granted.
    fn subscribed(&mut self, _out: &mut Vec<u8>) {}

    /// Another packet came.
    fn other(&mut self, _packet: &Packet<'_>, _out: &mut Vec<u8>) {}

    /// Some 10 ms have passed, or something was read.
    fn tick(&mut self, _out: &mut Vec<u8>) {}
}

/// A running one.
#[derive(Debug)]
pub struct StandIn<S> {
    port: u16,
    shared: Arc<Shared<S>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared<S> {
    script: Mutex<S>,
    stop: AtomicBool,
    open: AtomicU64,
    dialled: Mutex<Vec<Instant>>,
}

impl<S: Script> StandIn<S> {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// It cannot listen.
    #[must_use]
    pub fn start(script: S) -> Self {
        Self::at(free_port(), script)
    }

    /// The same on this port, where another has been.
    ///
    /// # Panics
    /// It cannot listen.
    #[must_use]
    pub fn at(port: u16, script: S) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the stand-in listens");
        listener
            .set_nonblocking(true)
            .expect("a listener that does not block");
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            stop: AtomicBool::new(false),
            open: AtomicU64::new(0),
            dialled: Mutex::default(),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || accept(&listener, &shared))
        };
        Self {
            port,
            shared,
            thread: Some(thread),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server property of a connection to it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// Its script, locked: keep it for a moment only.
    pub fn script(&self) -> MutexGuard<'_, S> {
        lock(&self.shared.script)
    }

    /// When clients dialled.
    #[must_use]
    pub fn dialled(&self) -> Vec<Instant> {
        lock(&self.shared.dialled).clone()
    }

    /// Links that are open.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::Relaxed)
    }
}

impl<S> Drop for StandIn<S> {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const TICK: Duration = Duration::from_millis(10);

fn accept<S: Script>(listener: &TcpListener, shared: &Arc<Shared<S>>) {
    let mut links = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((socket, _)) => {
                lock(&shared.dialled).push(Instant::now());
                let shared = Arc::clone(shared);
                links.push(std::thread::spawn(move || {
                    shared.open.fetch_add(1, Ordering::Relaxed);
                    // However it ends, it is over.
                    drop(link(socket, &shared));
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                }));
            }
            Err(_) => std::thread::sleep(TICK),
        }
    }
    for link in links {
        drop(link.join());
    }
}

fn link<S: Script>(mut socket: TcpStream, shared: &Shared<S>) -> std::io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(TICK))?;
    let mut inbox = Inbox::default();
    let mut bytes = vec![0; 64 * 1024];
    let mut out = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        match socket.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(read) => inbox.push(&bytes[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        let mut script = lock(&shared.script);
        while let Some(packet) = inbox
            .next_packet()
            .map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error.0))?
        {
            answer(&mut *script, &packet, &mut out);
        }
        script.tick(&mut out);
        drop(script);
        if !out.is_empty() {
            socket.write_all(&out)?;
            out.clear();
        }
    }
    Ok(())
}

fn answer(script: &mut impl Script, packet: &Packet<'_>, out: &mut Vec<u8>) {
    match packet {
        Packet::Connect => script.connect(out),
        Packet::Publish {
            qos, id, payload, ..
        } => script.publish(*qos, *id, payload, out),
        Packet::Subscribe(id) => {
            let [high, low] = id.to_be_bytes();
            out.extend_from_slice(&[0x90, 3, high, low, 1]);
            script.subscribed(out);
        }
        Packet::Unsubscribe(id) => {
            let [high, low] = id.to_be_bytes();
            out.extend_from_slice(&[0xb0, 2, high, low]);
        }
        // PINGREQ
        Packet::Other(12) => out.extend_from_slice(&[0xd0, 0]),
        other => script.other(other, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Publish;
    use crate::oracle::{Judge, Ledger};
    use crate::wire::acknowledge;

    struct Takes(Ledger);

    impl Script for Takes {
        fn publish(&mut self, _: u8, id: u16, payload: &[u8], out: &mut Vec<u8>) {
            self.0.enter(payload);
            acknowledge(out, 0x40, id);
        }
    }

    #[test]
    fn a_publisher_takes_it_for_a_broker() {
        let broker = StandIn::start(Takes(Ledger::new(Judge::Exact)));
        let sent = Publish::new(broker.port(), "t", 1)
            .count(300)
            .start()
            .join();
        assert_eq!(sent.acknowledged.len(), 300);
        assert_eq!(broker.script().0.lost(0..300), [0u64; 0]);
        assert_eq!(broker.dialled().len(), 1);
    }
}
