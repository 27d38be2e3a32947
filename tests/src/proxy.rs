//! A TCP proxy that does to a link what networks do: cuts it, also within a packet, swallows it, slows
//! it, closes one half; and that can listen in. It lives on a thread of its own and ends with its owner.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::machine::free_port;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// Who listens in: the number of the connection, the direction, the bytes before they are passed on.
pub type Tap = Arc<dyn Fn(u64, Direction, &[u8]) + Send + Sync>;

/// A proxy in front of one server on 127.0.0.1.
pub struct Proxy {
    port: u16,
    wires: Arc<Wires>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

struct Wires {
    target: AtomicU16,
    /// Counts the cuts: a link whose count is old ends with a reset.
    cuts: watch::Sender<u64>,
    half_closes: watch::Sender<u64>,
    /// Of the next piece in this direction only the first half is passed on.
    halve: Mutex<Option<Direction>>,
    black_hole: watch::Sender<bool>,
    refuse: AtomicBool,
    delay: Mutex<Duration>,
    bytes_per_second: AtomicU64,
    attempts: Mutex<Vec<Instant>>,
    open: AtomicU64,
    tap: Option<Tap>,
}

impl Proxy {
    /// A proxy in front of this port.
    #[must_use]
    pub fn start(target: u16) -> Self {
        Self::with_tap(target, None)
    }

    /// The same with somebody who listens in.
    ///
    /// # Panics
    /// The proxy cannot listen.
    #[must_use]
    pub fn with_tap(target: u16, tap: Option<Tap>) -> Self {
        let port = free_port();
        let wires = Arc::new(Wires {
            target: AtomicU16::new(target),
            cuts: watch::Sender::new(0),
            half_closes: watch::Sender::new(0),
            halve: Mutex::default(),
            black_hole: watch::Sender::new(false),
            refuse: AtomicBool::new(false),
            delay: Mutex::default(),
            bytes_per_second: AtomicU64::new(0),
            attempts: Mutex::default(),
            open: AtomicU64::new(0),
            tap,
        });
        let stop = Arc::new(Notify::new());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = runtime
            .block_on(TcpListener::bind(address))
            .expect("the proxy listens");
        let thread = {
            let (wires, stop) = (Arc::clone(&wires), Arc::clone(&stop));
            std::thread::spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, wires) => {}
                        () = stop.notified() => {}
                    }
                });
            })
        };
        Self {
            port,
            wires,
            stop,
            thread: Some(thread),
        }
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server property of an MQTT connection through it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// Ends every link with a reset (RST), both ways, at once; what is under way is lost.
    pub fn cut(&self) {
        self.wires.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Passes nothing on for so long, then cuts: all that was sent meanwhile is lost, both ways, though
    /// its sender was told that it was written.
    pub fn swallow_and_cut(&self, time: Duration) {
        self.black_hole(true);
        std::thread::sleep(time);
        self.cut();
        // The links end on the proxy's own thread; none of them may see the end of the silence.
        crate::machine::wait_until(Duration::from_secs(2), "the links are cut", || {
            self.open() == 0
        });
        self.black_hole(false);
    }

    /// Passes the first half of the next piece in this direction on, then cuts all links: the other side
    /// has a packet that ends in its middle.
    pub fn cut_inside(&self, direction: Direction) {
        *self
            .wires
            .halve
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(direction);
    }

    /// Closes the half towards the clients (FIN), and goes on forwarding what they send.
    pub fn half_close(&self) {
        self.wires.half_closes.send_modify(|closes| *closes += 1);
    }

    /// True: passes nothing on in either direction, keeps all sockets open, accepts new ones.
    pub fn black_hole(&self, on: bool) {
        self.wires.black_hole.send_replace(on);
    }

    /// True: accepts a new link and resets it at once.
    pub fn refuse(&self, on: bool) {
        self.wires.refuse.store(on, Ordering::Relaxed);
    }

    /// Holds each piece back for so long.
    pub fn delay(&self, by: Duration) {
        *self
            .wires
            .delay
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = by;
    }

    /// Bytes per second, per link and direction; 0 is without limit.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.wires
            .bytes_per_second
            .store(bytes_per_second, Ordering::Relaxed);
    }

    /// When each client dialled.
    #[must_use]
    pub fn attempts(&self) -> Vec<Instant> {
        self.wires
            .attempts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Links that are open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.wires.open.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Wires {
    /// Whether this piece is the one to be halved; there is only one.
    fn is_to_halve(&self, direction: Direction, length: usize) -> bool {
        let mut halve = self.halve.lock().unwrap_or_else(PoisonError::into_inner);
        length > 1 && halve.take_if(|wanted| *wanted == direction).is_some()
    }
}

async fn accept(listener: TcpListener, wires: Arc<Wires>) {
    let mut links = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                wires.attempts.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                if wires.refuse.load(Ordering::Relaxed) {
                    reset(&client);
                    continue;
                }
                number += 1;
                links.spawn(link(number, client, Arc::clone(&wires)));
            }
            Some(_) = links.join_next() => {}
        }
    }
}

/// Makes the drop of this socket a reset.
fn reset(socket: &TcpStream) {
    // It fails only on a socket that is gone already.
    drop(socket.set_zero_linger());
}

/// One link's life.
async fn link(number: u64, client: TcpStream, wires: Arc<Wires>) {
    let mut cuts = wires.cuts.subscribe();
    let Ok(server) = TcpStream::connect(("127.0.0.1", wires.target.load(Ordering::Relaxed))).await
    else {
        reset(&client);
        return;
    };
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    wires.open.fetch_add(1, Ordering::Relaxed);
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let cut = tokio::select! {
        _ = cuts.changed() => true,
        _ = async {
            tokio::join!(
                pump(number, Direction::Up, &mut from_client, &mut to_server, &wires),
                pump(number, Direction::Down, &mut from_server, &mut to_client, &wires),
            )
        } => false,
    };
    if cut
        && let (Ok(client), Ok(server)) = (
            from_client.reunite(to_client),
            from_server.reunite(to_server),
        )
    {
        reset(&client);
        reset(&server);
    }
    wires.open.fetch_sub(1, Ordering::Relaxed);
}

/// Passes bytes on until their end, and then the end.
async fn pump(
    number: u64,
    direction: Direction,
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    wires: &Wires,
) {
    let mut bytes = vec![0; 32 * 1024];
    let mut half_closes = wires.half_closes.subscribe();
    let mut black_hole = wires.black_hole.subscribe();
    loop {
        let read = tokio::select! {
            read = from.read(&mut bytes) => read.unwrap_or(0),
            _ = half_closes.changed(), if direction == Direction::Down => 0,
        };
        // The sender's gone only with the proxy itself.
        drop(black_hole.wait_for(|on| !on).await);
        if read == 0 {
            drop(to.shutdown().await);
            return;
        }
        let delay = *wires.delay.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = wires.bytes_per_second.load(Ordering::Relaxed);
        let slowed = if rate == 0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(read as f64 / rate as f64)
        };
        if !(delay + slowed).is_zero() {
            tokio::time::sleep(delay + slowed).await;
        }
        if let Some(tap) = &wires.tap {
            tap(number, direction, &bytes[..read]);
        }
        if wires.is_to_halve(direction, read) {
            drop(to.write_all(&bytes[..read / 2]).await);
            // The half is to be read before the reset comes.
            tokio::time::sleep(Duration::from_millis(5)).await;
            wires.cuts.send_modify(|cuts| *cuts += 1);
            // Not a byte more: behind the half of a packet it would be part of it.
            std::future::pending::<()>().await;
        } else if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::machine::wait_until;

    /// An echo server that ends with the test process.
    fn echo() -> u16 {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut reader = socket.try_clone().expect("a handle");
                    drop(std::io::copy(&mut reader, &mut &socket));
                });
            }
        });
        port
    }

    fn client(proxy: &Proxy) -> std::net::TcpStream {
        let socket =
            std::net::TcpStream::connect(("127.0.0.1", proxy.port())).expect("the proxy listens");
        socket
            .set_read_timeout(Some(Duration::from_millis(300)))
            .expect("set");
        socket
    }

    fn echoes(socket: &mut std::net::TcpStream) -> std::io::Result<()> {
        socket.write_all(b"ping")?;
        socket.read_exact(&mut [0; 4])
    }

    #[test]
    fn a_cut_is_a_reset_and_a_new_link_works() {
        let proxy = Proxy::start(echo());
        let mut socket = client(&proxy);
        echoes(&mut socket).expect("the link works");
        proxy.cut();
        let error = socket.read(&mut [0]).expect_err("the link is cut");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        echoes(&mut client(&proxy)).expect("a new link works");
        assert_eq!(proxy.attempts().len(), 2);
    }

    #[test]
    fn a_cut_inside_a_packet_passes_its_first_half_on() {
        let proxy = Proxy::start(echo());
        let mut socket = client(&proxy);
        echoes(&mut socket).expect("the link works");
        proxy.cut_inside(Direction::Down);
        socket.write_all(b"ping").expect("sent");
        let mut half = [0; 4];
        assert_eq!(socket.read(&mut half).expect("the first half"), 2);
        assert_eq!(&half[..2], b"pi");
        assert!(socket.read(&mut half).is_err(), "then a reset");
        echoes(&mut client(&proxy)).expect("a new link works");
    }

    #[test]
    fn a_black_hole_keeps_the_link_and_gives_everything_back_afterwards() {
        let proxy = Proxy::start(echo());
        let mut socket = client(&proxy);
        echoes(&mut socket).expect("the link works");
        proxy.black_hole(true);
        let error = echoes(&mut socket).expect_err("nothing comes back");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        proxy.black_hole(false);
        socket.read_exact(&mut [0; 4]).expect("what was held back");
    }

    #[test]
    fn a_refusing_proxy_counts_and_a_half_close_is_an_end_of_file() {
        let proxy = Proxy::start(echo());
        let mut socket = client(&proxy);
        echoes(&mut socket).expect("the link works");
        proxy.half_close();
        assert_eq!(socket.read(&mut [0]).expect("an orderly end"), 0);
        proxy.refuse(true);
        let mut refused = client(&proxy);
        wait_until(Duration::from_secs(2), "the attempt is counted", || {
            proxy.attempts().len() == 2
        });
        assert!(echoes(&mut refused).is_err());
    }
}
