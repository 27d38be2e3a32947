//! A real redis-server: started on a free port in a folder of its own, writing through to disk, killed,
//! restarted on the same port with what it had. And a client of a few lines (RESP2), which knows nothing
//! of the product. It ends with its owner.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::machine::free_port;
use crate::process::{Process, installed};

/// A running (or just stopped) redis-server.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    folder: TempDir,
    port: u16,
    more: Vec<String>,
}

impl Redis {
    /// Starts one for everybody.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with further arguments, and waits until it listens.
    ///
    /// # Panics
    /// redis-server is not installed, or does not come up within 10 s.
    #[must_use]
    pub fn with(more: &[&str]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("redis-")
            .tempdir()
            .expect("a temporary folder");
        let mut redis = Self {
            process: Process::new("redis-server", folder.path().join("log")),
            folder,
            port: free_port(),
            more: more.iter().map(|word| (*word).to_owned()).collect(),
        };
        redis.up();
        redis
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address property of a connection to it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
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
        let mut command = Command::new(installed("redis-server", "redis-server"));
        command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "always", "--dir"])
            .arg(self.folder.path())
            .args(&self.more);
        // It listens before it has read what it had stored.
        let answers = || {
            let client = Client::dial(port);
            client.is_ok_and(|mut client| match client.say("PING") {
                Ok(_) => true,
                // It may well want a password.
                Err(said) => !said.to_string().contains("LOADING"),
            })
        };
        self.process
            .start(&mut command, Duration::from_secs(10), answers);
    }

    /// A client of it.
    ///
    /// # Panics
    /// It cannot be reached.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::dial(self.port).expect("redis-server answers")
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    Nil,
    /// A number.
    Number(i64),
    /// A text or bytes.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Answer>),
}

impl Answer {
    /// It as a text; empty if it is none.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Number(number) => number.to_string(),
            Self::Nil | Self::List(_) => String::new(),
        }
    }

    /// The items of a list; none if it is none.
    #[must_use]
    pub fn items(&self) -> &[Answer] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }
}

/// A client that waits for each answer.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The server is not there.
    pub fn dial(port: u16) -> std::io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.set_nodelay(true)?;
        Ok(Self {
            reader: BufReader::new(socket.try_clone()?),
            writer: socket,
        })
    }

    /// One command and its answer.
    ///
    /// # Errors
    /// The server has gone, or refuses.
    pub fn command(&mut self, words: &[&[u8]]) -> std::io::Result<Answer> {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            write!(out, "${}\r\n", word.len())?;
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
        self.writer.write_all(&out)?;
        self.answer()
    }

    /// The same in words.
    ///
    /// # Errors
    /// The server has gone, or refuses.
    pub fn say(&mut self, words: &str) -> std::io::Result<Answer> {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        self.command(&words)
    }

    /// The next answer, or the next message of a subscription.
    ///
    /// # Errors
    /// None within 5 s, or a refusal.
    pub fn answer(&mut self) -> std::io::Result<Answer> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at(1);
        let number = || rest.parse::<i64>().map_err(std::io::Error::other);
        Ok(match kind {
            "+" => Answer::Bytes(rest.as_bytes().to_vec()),
            ":" => Answer::Number(number()?),
            "$" => match usize::try_from(number()?) {
                Err(_) => Answer::Nil,
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.reader.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Answer::Bytes(bytes)
                }
            },
            "*" => match usize::try_from(number()?) {
                Err(_) => Answer::Nil,
                Ok(length) => Answer::List(
                    (0..length)
                        .map(|_| self.answer())
                        .collect::<Result<_, _>>()?,
                ),
            },
            _ => return Err(std::io::Error::other(line.to_owned())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_survives_a_kill() {
        let mut redis = Redis::start();
        redis.client().say("SET a 1").expect("set");
        redis.kill();
        redis.up();
        assert_eq!(redis.client().say("GET a").expect("got").text(), "1");
    }
}
