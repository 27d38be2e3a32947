//! Listens in at a proxy before an MQTT broker: which messages crossed to the client, and which of
//! them it acknowledged. The oracle for brokers that lose messages themselves.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::oracle::{now_ns, read_payload};
use crate::proxy::{Direction, Tap};
use crate::wire::{Inbox, Packet};

/// What was seen so far. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Sniffer(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    links: HashMap<u64, Link>,
    crossed: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
    sent_up: BTreeSet<u64>,
    subscribed: Vec<u64>,
}

#[derive(Debug, Default)]
struct Link {
    up: Inbox,
    down: Inbox,
    ids: HashMap<u16, u64>,
}

impl Sniffer {
    /// What to give to [`crate::proxy::Proxy::with_tap`].
    #[must_use]
    pub fn tap(&self) -> Tap {
        let seen = Arc::clone(&self.0);
        Arc::new(move |link, direction, bytes| {
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(link, direction, bytes);
        })
    }

    /// Numbers of the messages that crossed to the client whole.
    #[must_use]
    pub fn crossed(&self) -> Vec<u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .crossed
            .iter()
            .copied()
            .collect()
    }

    /// Numbers of those that the client acknowledged (PUBACK).
    #[must_use]
    pub fn acknowledged(&self) -> Vec<u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .acknowledged
            .iter()
            .copied()
            .collect()
    }

    /// When the client subscribed, in nanoseconds of [`now_ns`].
    #[must_use]
    pub fn subscribed(&self) -> Vec<u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .subscribed
            .clone()
    }

    /// Numbers of the messages that the client sent up.
    #[must_use]
    pub fn sent_up(&self) -> Vec<u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sent_up
            .iter()
            .copied()
            .collect()
    }
}

impl Seen {
    fn take(&mut self, number: u64, direction: Direction, bytes: &[u8]) {
        let link = self.links.entry(number).or_default();
        let inbox = if direction == Direction::Up {
            &mut link.up
        } else {
            &mut link.down
        };
        inbox.push(bytes);
        while let Some(packet) = inbox.next_packet().expect("both sides speak MQTT") {
            match (direction, packet) {
                (Direction::Down, Packet::Publish { id, payload, .. }) => {
                    if let Some((seq, _)) = read_payload(payload) {
                        link.ids.insert(id, seq);
                        self.crossed.insert(seq);
                    }
                }
                (Direction::Up, Packet::PubAck(id)) => self.acknowledged.extend(link.ids.get(&id)),
                (Direction::Up, Packet::Subscribe(_)) => self.subscribed.push(now_ns()),
                (Direction::Up, Packet::Publish { payload, .. }) => {
                    self.sent_up
                        .extend(read_payload(payload).map(|(seq, _)| seq));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::{Publish, Subscribe, Subscriber};
    use crate::mosquitto::Mosquitto;
    use crate::proxy::Proxy;

    #[test]
    fn what_crossed_and_what_was_acknowledged_is_what_the_subscriber_saw() {
        let broker = Mosquitto::start();
        let sniffer = Sniffer::default();
        let proxy = Proxy::with_tap(broker.port(), Some(sniffer.tap()));
        let far = Subscriber::start(Subscribe::new(proxy.port(), "far", "t", 1));
        let sent = Publish::new(broker.port(), "t", 1)
            .count(500)
            .start()
            .join();
        assert_eq!(sent.acknowledged.len(), 500);
        far.wait_for(500, Duration::from_secs(5));
        crate::machine::wait_until(Duration::from_secs(2), "all are acknowledged", || {
            sniffer.acknowledged().len() == 500
        });
        assert_eq!(sniffer.crossed(), (0..500).collect::<Vec<u64>>());
        assert!(sniffer.sent_up().is_empty());
        assert_eq!(sniffer.subscribed().len(), 1);
    }
}
