//! A name server that lies on purpose. One process is made to ask it, and no other: with a file of its
//! own over `/etc/resolv.conf`, in a mount namespace of its own. Only root can do that.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::machine::{is_root, program};

/// What it answers to every name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These addresses, in this order, good for a second.
    Addresses(Vec<Ipv4Addr>),
    /// There is no such name.
    NoSuchName,
    /// Nothing.
    Silence,
}

/// A running one.
#[derive(Debug)]
pub struct Resolver {
    file: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    answer: Mutex<Answer>,
    asked: Mutex<Vec<Instant>>,
    stop: AtomicBool,
}

impl Resolver {
    /// Starts one; `folder` is for its file.
    ///
    /// # Errors
    /// Why that cannot be, as a sentence.
    pub fn start(folder: &Path, answer: Answer) -> Result<Self, String> {
        if !is_root() || program("unshare").is_none() {
            return Err(
                "a process can be given a name server of its own only by root, with `unshare` (util-linux)"
                    .to_owned(),
            );
        }
        // Any address of 127/8 is this machine's; the port must be 53.
        let number = std::process::id();
        let address = Ipv4Addr::new(
            127,
            53,
            u8::try_from(number / 250 % 250).unwrap_or(1) + 1,
            u8::try_from(number % 250).unwrap_or(1) + 1,
        );
        let socket = UdpSocket::bind((address, 53))
            .map_err(|error| format!("no name server can listen on {address}:53: {error}"))?;
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .map_err(|error| error.to_string())?;
        let file = folder.join("resolv.conf");
        std::fs::write(
            &file,
            format!("nameserver {address}\noptions timeout:5 attempts:2\n"),
        )
        .map_err(|error| error.to_string())?;
        let shared = Arc::new(Shared {
            answer: Mutex::new(answer),
            asked: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || serve(&socket, &shared))
        };
        Ok(Self {
            file,
            shared,
            thread: Some(thread),
        })
    }

    /// Answers so from now on.
    pub fn answer(&self, answer: Answer) {
        *lock(&self.shared.answer) = answer;
    }

    /// When a name was asked for.
    #[must_use]
    pub fn asked(&self) -> Vec<Instant> {
        lock(&self.shared.asked).clone()
    }

    /// The command that starts another and makes it ask here.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        let script = format!(
            "mount --bind '{}' /etc/resolv.conf && exec \"$@\"",
            self.file.display()
        );
        ["unshare", "-m", "sh", "-c", &script, "sh"]
            .map(str::to_owned)
            .to_vec()
    }
}

impl Drop for Resolver {
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

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut bytes = [0; 1500];
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut bytes) else {
            continue;
        };
        let answer = lock(&shared.answer).clone();
        if let Some(reply) = reply(&bytes[..length], &answer) {
            drop(socket.send_to(&reply, from));
        }
        lock(&shared.asked).push(Instant::now());
    }
}

/// RFC 1035, 4.1: the question back with its answers.
fn reply(question: &[u8], answer: &Answer) -> Option<Vec<u8>> {
    const A: [u8; 4] = [0, 1, 0, 1];
    if *answer == Answer::Silence {
        return None;
    }
    // The only name begins behind the header and ends with an empty label.
    let end = question.get(12..)?.iter().position(|byte| *byte == 0)? + 13;
    let kind = question.get(end..end + 4)?;
    let addresses: &[Ipv4Addr] = match answer {
        Answer::Addresses(addresses) if kind == A => addresses,
        _ => &[],
    };
    let code = u8::from(*answer == Answer::NoSuchName) * 3;
    let mut out = question.get(..2)?.to_vec();
    out.extend_from_slice(&[
        0x81,
        0x80 | code,
        0,
        1,
        0,
        u8::try_from(addresses.len()).ok()?,
    ]);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(question.get(12..end + 4)?);
    for address in addresses {
        out.extend_from_slice(&[0xc0, 12]);
        out.extend_from_slice(&A);
        out.extend_from_slice(&[0, 0, 0, 1, 0, 4]);
        out.extend_from_slice(&address.octets());
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_comes_back_with_its_addresses() {
        let mut question = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend_from_slice(b"\x06broker\x04test\x00\x00\x01\x00\x01");
        let one = Answer::Addresses(vec![Ipv4Addr::new(127, 0, 0, 9)]);
        let reply_to = |answer: &Answer| reply(&question, answer);
        let bytes = reply_to(&one).expect("an answer");
        assert_eq!(bytes[..8], [7, 9, 0x81, 0x80, 0, 1, 0, 1]);
        assert_eq!(bytes[bytes.len() - 4..], [127, 0, 0, 9]);
        assert_eq!(reply_to(&Answer::NoSuchName).expect("an answer")[3], 0x83);
        assert_eq!(reply_to(&Answer::Silence), None);
    }
}
