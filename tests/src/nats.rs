//! A real nats-server: started on a free port in a folder of its own, with JetStream on disk, killed,
//! restarted on the same port with what it had stored. And a client of a few lines, which knows the
//! protocol's text and nothing of the product. It ends with its owner.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::machine::free_port;
use crate::process::{Process, installed, listens};

/// A running (or just stopped) nats-server.
#[derive(Debug)]
pub struct Nats {
    process: Process,
    folder: TempDir,
    port: u16,
    more: Vec<String>,
}

impl Nats {
    /// Starts one with JetStream, for everybody.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with further arguments, and waits until it listens.
    ///
    /// # Panics
    /// nats-server is not installed, or does not come up within 10 s.
    #[must_use]
    pub fn with(more: &[&str]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("nats-")
            .tempdir()
            .expect("a temporary folder");
        let mut nats = Self {
            process: Process::new("nats-server", folder.path().join("log")),
            folder,
            port: free_port(),
            more: more.iter().map(|word| (*word).to_owned()).collect(),
        };
        nats.up();
        nats
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server property of a connection to it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// All it has logged, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Up again on the same port, with what it has on disk.
    ///
    /// # Panics
    /// It does not come up within 10 s.
    pub fn up(&mut self) {
        let port = self.port;
        let mut command = Command::new(installed("nats-server", "nats-server"));
        command
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
            .arg(self.folder.path().join("store"))
            .args(&self.more);
        let limit = Duration::from_secs(10);
        self.process.start(&mut command, limit, || listens(port));
    }

    /// A client of it.
    ///
    /// # Panics
    /// It cannot be reached.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::dial(self.port, json!({})).expect("nats-server answers")
    }

    /// Makes a stream on disk for these subjects.
    ///
    /// # Panics
    /// The server refuses.
    pub fn stream(&self, name: &str, subjects: &[&str]) {
        let config =
            json!({ "name": name, "subjects": subjects, "storage": "file", "retention": "limits" });
        let answer = self.client().request(
            &format!("$JS.API.STREAM.CREATE.{name}"),
            config.to_string().as_bytes(),
        );
        let answer = answer.expect("an answer of JetStream");
        assert!(answer.get("error").is_none(), "{answer}");
    }

    /// What the server says of a consumer.
    ///
    /// # Panics
    /// It says nothing.
    #[must_use]
    pub fn consumers(&self, stream: &str) -> Vec<Value> {
        let answer = self
            .client()
            .request(&format!("$JS.API.CONSUMER.LIST.{stream}"), b"{}");
        let answer = answer.expect("an answer of JetStream");
        answer["consumers"].as_array().cloned().unwrap_or_default()
    }
}

/// A message that came in.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Its subject.
    pub subject: String,
    /// Its block of headers, empty for none.
    pub headers: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A client that waits for each answer.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    /// Subscriptions made.
    subscriptions: u64,
    /// Where answers come to; empty until one is asked for.
    inbox: String,
}

/// Clients made in this process.
static CLIENTS: AtomicU64 = AtomicU64::new(0);

impl Client {
    /// Connects and logs in.
    ///
    /// # Errors
    /// The server is not there, or says no.
    pub fn dial(port: u16, login: Value) -> std::io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.set_nodelay(true)?;
        let mut client = Self {
            reader: BufReader::new(socket.try_clone()?),
            writer: socket,
            subscriptions: 0,
            inbox: String::new(),
        };
        client.line()?;
        let mut connect =
            json!({ "verbose": false, "pedantic": false, "headers": true, "no_responders": true });
        if let (Some(connect), Some(login)) = (connect.as_object_mut(), login.as_object()) {
            connect.extend(login.clone());
        }
        client
            .writer
            .write_all(format!("CONNECT {connect}\r\n").as_bytes())?;
        client.flush()?;
        Ok(client)
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Waits until the server has taken all that was sent.
    ///
    /// # Errors
    /// It has gone, or complains.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.writer.write_all(b"PING\r\n")?;
        loop {
            match self.line()?.as_str() {
                "PONG" => return Ok(()),
                "PING" => self.writer.write_all(b"PONG\r\n")?,
                line if line.starts_with("-ERR") => {
                    return Err(std::io::Error::other(line.to_owned()));
                }
                _ => {}
            }
        }
    }

    /// Publishes, with a block of headers or none.
    ///
    /// # Errors
    /// The server has gone.
    pub fn publish(
        &mut self,
        subject: &str,
        reply: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> std::io::Result<()> {
        let mut out = Vec::new();
        if headers.is_empty() {
            write!(out, "PUB {subject} {reply} {}\r\n", payload.len())?;
        } else {
            let mut block = "NATS/1.0\r\n".to_owned();
            for (name, value) in headers {
                block += &format!("{name}: {value}\r\n");
            }
            block += "\r\n";
            write!(
                out,
                "HPUB {subject} {reply} {} {}\r\n{block}",
                block.len(),
                block.len() + payload.len()
            )?;
        }
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
        self.writer.write_all(&out)
    }

    /// Subscribes.
    ///
    /// # Errors
    /// The server has gone.
    pub fn subscribe(&mut self, subject: &str) -> std::io::Result<()> {
        self.subscriptions += 1;
        self.writer
            .write_all(format!("SUB {subject} {}\r\n", self.subscriptions).as_bytes())?;
        self.flush()
    }

    /// The next message of any subscription.
    ///
    /// # Errors
    /// None within 5 s.
    pub fn arrival(&mut self) -> std::io::Result<Arrived> {
        loop {
            let line = self.line()?;
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let number = |word: Option<&&str>| {
                word.and_then(|word| word.parse::<usize>().ok())
                    .unwrap_or(0)
            };
            let (head, total) = match words.first().copied() {
                Some("MSG") => (0, number(words.last())),
                Some("HMSG") => (number(words.get(words.len() - 2)), number(words.last())),
                Some("PING") => {
                    self.writer.write_all(b"PONG\r\n")?;
                    continue;
                }
                _ => continue,
            };
            let mut body = vec![0; total + 2];
            self.reader.read_exact(&mut body)?;
            body.truncate(total);
            let payload = body.split_off(head);
            return Ok(Arrived {
                subject: words[1].to_owned(),
                headers: String::from_utf8_lossy(&body).into_owned(),
                payload,
            });
        }
    }

    /// Asks, and reads the answer as JSON. Only where nothing else is subscribed to.
    ///
    /// # Errors
    /// No answer within 5 s.
    pub fn request(&mut self, subject: &str, payload: &[u8]) -> std::io::Result<Value> {
        self.ask(subject, &[], payload)
    }

    /// Stores a message in a stream under an id, and waits until the stream has it.
    ///
    /// # Errors
    /// It has not.
    pub fn store(&mut self, subject: &str, id: &str, payload: &[u8]) -> std::io::Result<()> {
        let answer = self.ask(subject, &[("Nats-Msg-Id", id)], payload)?;
        if answer.get("seq").is_some() {
            Ok(())
        } else {
            Err(std::io::Error::other(answer.to_string()))
        }
    }

    fn ask(
        &mut self,
        subject: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> std::io::Result<Value> {
        if self.inbox.is_empty() {
            let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
            let inbox = format!("_INBOX.tests-{}-{number}", std::process::id());
            self.subscribe(&inbox)?;
            self.inbox = inbox;
        }
        let reply = self.inbox.clone();
        self.publish(subject, &reply, headers, payload)?;
        let answer = self.arrival()?;
        serde_json::from_slice(&answer.payload).map_err(std::io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_survives_a_kill_and_knows_a_message_again_by_its_id() {
        let mut nats = Nats::start();
        nats.stream("S", &["s.>"]);
        nats.client().store("s.a", "one", b"1").expect("stored");
        nats.kill();
        nats.up();
        let mut client = nats.client();
        client.store("s.a", "one", b"1").expect("stored");
        let info = client
            .request("$JS.API.STREAM.INFO.S", b"")
            .expect("an answer");
        assert_eq!(info["state"]["messages"], 1);
    }
}
