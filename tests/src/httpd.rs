//! A small HTTP/1.1 server that fails on purpose: what it answers to each request is a function of the
//! test. It keeps what it was asked, can go away and come back on its port, and can say nothing, break
//! off, or reset. It lives on a thread of its own and ends with its owner.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::machine::free_port;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When its last byte was there.
    pub at: Instant,
    /// The method.
    pub method: String,
    /// Path and query as they stood in the request.
    pub target: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// The first value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What happens then.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Status, further headers, body with its length.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// The same in chunks of so many bytes.
    Chunked(u16, Vec<(String, String)>, Vec<u8>, usize),
    /// These bytes, then the end of the connection.
    Raw(Vec<u8>),
    /// The connection is reset.
    Reset,
    /// Nothing, for as long as the other side waits.
    Silence,
    /// Another reply, later.
    After(Duration, Box<Self>),
}

impl Reply {
    /// This status, without body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), Vec::new())
    }

    /// This status with a text.
    #[must_use]
    pub fn text(status: u16, text: &str) -> Self {
        Self::Answer(status, Vec::new(), text.as_bytes().to_vec())
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer(_, headers, _) | Self::Chunked(_, headers, ..) = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

type Handler = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// A running (or just stopped) server on 127.0.0.1.
pub struct Httpd {
    port: u16,
    handler: Handler,
    asked: Arc<Mutex<Vec<Asked>>>,
    accepted: Arc<Mutex<Vec<Instant>>>,
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl fmt::Debug for Httpd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Httpd")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Httpd {
    /// Starts one that answers so.
    #[must_use]
    pub fn start(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let mut server = Self::prepare(handler);
        server.up();
        server
    }

    /// One that is not there yet.
    #[must_use]
    pub fn prepare(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self {
            port: free_port(),
            handler: Arc::new(handler),
            asked: Arc::default(),
            accepted: Arc::default(),
            running: None,
        }
    }

    /// Where it listens, or will.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a path on it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// All requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.asked).clone()
    }

    /// How many requests so far.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.asked).len()
    }

    /// When connections were accepted.
    #[must_use]
    pub fn accepted(&self) -> Vec<Instant> {
        lock(&self.accepted).clone()
    }

    /// Up (again) on its port.
    ///
    /// # Panics
    /// It cannot listen.
    pub fn up(&mut self) {
        assert!(self.running.is_none(), "the server runs already");
        let (stop, stopped) = watch::channel(false);
        let (port, handler) = (self.port, Arc::clone(&self.handler));
        let (asked, accepted) = (Arc::clone(&self.asked), Arc::clone(&self.accepted));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = listen(port).await;
                ready.send(()).expect("its owner waits");
                serve(&listener, handler, asked, accepted, stopped).await;
            });
        });
        is_ready.recv().expect("the server listens");
        self.running = Some((stop, thread));
    }

    /// Gone, with every connection: reset, as of a process that was killed.
    pub fn kill(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.send_replace(true);
            drop(thread.join());
        }
    }
}

impl Drop for Httpd {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn listen(port: u16) -> TcpListener {
    for _ in 0..200 {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
        }
    }
    panic!("port {port} is in use");
}

async fn serve(
    listener: &TcpListener,
    handler: Handler,
    asked: Arc<Mutex<Vec<Asked>>>,
    accepted: Arc<Mutex<Vec<Instant>>>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let socket = tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => break,
            socket = listener.accept() => socket,
        };
        let Ok((socket, _)) = socket else { continue };
        lock(&accepted).push(Instant::now());
        let (handler, asked) = (Arc::clone(&handler), Arc::clone(&asked));
        let mut stopped = stopped.clone();
        connections.spawn(async move {
            drop(socket.set_nodelay(true));
            let mut socket = socket;
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => drop(socket.set_zero_linger()),
                () = connection(&mut socket, &handler, &asked) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
    while connections.join_next().await.is_some() {}
}

/// The requests of one connection, one after the other.
async fn connection(socket: &mut TcpStream, handler: &Handler, asked: &Mutex<Vec<Asked>>) {
    let mut got = Vec::new();
    while let Some(request) = read(socket, &mut got).await {
        let mut reply = handler(&request);
        let no_body = request.method == "HEAD";
        lock(asked).push(request);
        while let Reply::After(wait, next) = reply {
            tokio::time::sleep(wait).await;
            reply = *next;
        }
        let bytes = match reply {
            Reply::Answer(status, headers, body) => {
                let length = ("content-length".to_owned(), body.len().to_string());
                let mut bytes = head(status, headers.iter().chain([&length]));
                if !no_body {
                    bytes.extend_from_slice(&body);
                }
                bytes
            }
            Reply::Chunked(status, headers, body, size) => {
                let chunked = ("transfer-encoding".to_owned(), "chunked".to_owned());
                let mut bytes = head(status, headers.iter().chain([&chunked]));
                for chunk in body.chunks(size) {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
                bytes
            }
            Reply::Raw(bytes) => {
                drop(socket.write_all(&bytes).await);
                return;
            }
            Reply::Reset => {
                drop(socket.set_zero_linger());
                return;
            }
            Reply::Silence | Reply::After(..) => {
                // Until the other side goes.
                drop(socket.read(&mut [0; 1]).await);
                return;
            }
        };
        if socket.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

fn head<'a>(status: u16, headers: impl Iterator<Item = &'a (String, String)>) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Status\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// The next request; none: the connection has ended, or what comes is none.
async fn read(socket: &mut TcpStream, got: &mut Vec<u8>) -> Option<Asked> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        if let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&got[..end]).into_owned();
            let mut lines = head.lines();
            let mut words = lines.next()?.split(' ');
            let mut asked = Asked {
                at: Instant::now(),
                method: words.next()?.to_owned(),
                target: words.next()?.to_owned(),
                headers: Vec::new(),
                body: Vec::new(),
            };
            for line in lines {
                let (name, value) = line.split_once(':')?;
                asked
                    .headers
                    .push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            let length: usize = asked.header("content-length").unwrap_or("0").parse().ok()?;
            while got.len() < end + 4 + length {
                let count = socket
                    .read(&mut piece)
                    .await
                    .ok()
                    .filter(|count| *count > 0)?;
                got.extend_from_slice(&piece[..count]);
            }
            asked.body = got[end + 4..end + 4 + length].to_vec();
            asked.at = Instant::now();
            got.drain(..end + 4 + length);
            return Some(asked);
        }
        let count = socket
            .read(&mut piece)
            .await
            .ok()
            .filter(|count| *count > 0)?;
        got.extend_from_slice(&piece[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pusher::Client;

    #[test]
    fn it_answers_as_told_keeps_what_was_asked_and_comes_back() {
        let mut server = Httpd::start(|asked| match asked.target.as_str() {
            "/reset" => Reply::Reset,
            _ => Reply::text(201, &asked.text()).header("x", "y"),
        });
        let mut client = Client::new(server.port());
        let answered = client.post("/a?b", b"body").expect("an answer");
        assert_eq!((answered.status, answered.body.as_str()), (201, "body"));
        assert_eq!(answered.header("x"), Some("y"));
        assert!(client.post("/reset", b"").is_err());
        server.kill();
        assert!(client.post("/a", b"").is_err());
        server.up();
        assert_eq!(client.post("/a", b"").expect("it is back").status, 201);
        let asked = server.asked();
        assert_eq!(asked.len(), 3);
        assert_eq!(
            (asked[0].method.as_str(), asked[0].target.as_str()),
            ("POST", "/a?b")
        );
        assert_eq!(asked[0].header("host"), Some("127.0.0.1"));
    }
}
