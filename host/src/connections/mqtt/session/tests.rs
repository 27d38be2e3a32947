//! The session against a small model of a broker: random messages both ways, acknowledgements in any
//! order, links that break at any place, sessions that the broker keeps or forgets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use rumqttc::mqttbytes::v4;

use super::*;
use crate::connections::Memory;
use crate::connections::mqtt::packet::Publish;
use crate::message::{Batch, Delivery, Message};

#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Memory for Nothing {
    async fn get(&self, _name: &str) -> Result<Option<String>, ConnectionError> {
        Ok(None)
    }
    async fn put(&self, _name: &str, _value: &str) -> Result<(), ConnectionError> {
        Ok(())
    }
}

impl Refused for Nothing {
    fn refused(&self, _subject: &str, _head: Bytes, _reason: &ConnectionError) {}
}

fn context() -> Context {
    Context {
        tenant: "t".into(),
        id: "c".into(),
        base: PathBuf::new(),
        memory: Arc::new(Nothing),
        stopping: Arc::default(),
        booting: Arc::default(),
        traffic: Arc::default(),
        refused: Arc::new(Nothing),
        limits: Limits::default(),
        port: crate::connections::dataport::DataPort::default(),
    }
}

/// What the model does next.
#[derive(Clone, Debug)]
enum Step {
    Publish {
        count: u32,
        qos: u8,
    },
    /// The broker answers the n-th of what it has open towards us.
    Answer(usize),
    /// The same, and says it twice.
    AnswerTwice(usize),
    /// The broker answers something that was never asked.
    Stray(u16),
    /// The broker sends a message.
    Deliver {
        qos: u8,
    },
    /// A taker settles the n-th of what it holds.
    Settle(usize),
    /// What we wrote reaches the broker.
    Flow,
    /// The link breaks; what was written and not yet read by the broker is gone.
    Break {
        keeps: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1u32..6, 1u8..3).prop_map(|(count, qos)| Step::Publish { count, qos }),
        8 => (0usize..50).prop_map(Step::Answer),
        1 => (0usize..50).prop_map(Step::AnswerTwice),
        1 => (40_000u16..40_100).prop_map(Step::Stray),
        4 => (1u8..3).prop_map(|qos| Step::Deliver { qos }),
        5 => (0usize..50).prop_map(Step::Settle),
        8 => Just(Step::Flow),
        1 => any::<bool>().prop_map(|keeps| Step::Break { keeps }),
    ];
    prop::collection::vec(step, 1..200)
}

/// The broker's half of the protocol, version 3.1.1.
#[derive(Default)]
struct Model {
    /// From the client: ids at level 2 whose PUBREL is awaited.
    held: BTreeSet<u16>,
    /// Answers that may be given in any order.
    answers: Vec<Packet>,
    got: Vec<String>,
    open_now: BTreeSet<u16>,
    /// Towards the client, in order: id, level, payload, PUBREC seen.
    sent: VecDeque<(u16, u8, String, bool)>,
    next_id: u16,
    produced: u32,
    acknowledged: BTreeSet<String>,
}

struct Bench {
    session: Session,
    settled: Arc<Settled>,
    inbox: Arc<Inbox>,
    wire: BytesMut,
    model: Model,
    held: Vec<Delivery>,
    taken: BTreeMap<String, u32>,
    finished: BTreeSet<String>,
    tickets: Vec<Arc<Ticket>>,
    published: u32,
    window: usize,
}

impl Bench {
    fn new(window: u16) -> Self {
        let settled = Arc::new(Settled::new(10));
        let settings = Settings {
            version: Version::V311,
            persistent: true,
            max_inflight: window,
            max_inflight_2: window,
        };
        let mut session = Session::new(settings, &context(), Arc::clone(&settled));
        let inbox = Arc::new(Inbox::default());
        session.subscribe(&["#".to_owned()], 2, Arc::clone(&inbox));
        let mut bench = Self {
            session,
            settled,
            inbox,
            wire: BytesMut::new(),
            model: Model::default(),
            held: Vec::new(),
            taken: BTreeMap::new(),
            finished: BTreeSet::new(),
            tickets: Vec::new(),
            published: 0,
            window: usize::from(window),
        };
        bench.link(false);
        bench
    }

    fn link(&mut self, present: bool) {
        self.wire.clear();
        self.model.answers.clear();
        self.model.open_now.clear();
        self.session
            .connected(ConnAck {
                session_present: present,
                ..ConnAck::default()
            })
            .unwrap();
        if !present {
            self.model.held.clear();
            self.model.sent.clear();
        }
        // A broker repeats what is open, in order, with its ids.
        let open: Vec<_> = self.model.sent.iter().cloned().collect();
        for (id, qos, payload, recorded) in open {
            if recorded {
                self.give(Packet::Ack(Ack {
                    kind: AckKind::PubRel,
                    id,
                    reason: 0,
                }));
            } else {
                self.give(publish_to_client(id, qos, &payload, true));
            }
        }
    }

    fn give(&mut self, packet: Packet) {
        self.session.receive(packet, 0).unwrap();
        while let Ok(Some(deliveries)) = self.inbox.try_receive(100) {
            for delivery in deliveries {
                let text = String::from_utf8(delivery.message.payload.to_vec()).unwrap();
                *self.taken.entry(text).or_default() += 1;
                self.held.push(delivery);
            }
        }
    }

    /// What the client has to say reaches the broker.
    fn flow(&mut self) {
        let mut outcomes = Vec::new();
        self.settled.fetch(&mut outcomes);
        self.session.outcomes(&outcomes);
        while let Some(keep) = self.session.keep() {
            self.session.kept(&keep);
        }
        self.session.fill(&mut self.wire, 100_000).unwrap();
        self.session.flushed();
        let mut window_before = self.model.open_now.len();
        while let Ok(packet) = v4::Packet::read(&mut self.wire, 1 << 20) {
            match packet {
                v4::Packet::Publish(p) => {
                    let text = String::from_utf8(p.payload.to_vec()).unwrap();
                    self.model.open_now.insert(p.pkid);
                    window_before = window_before.max(self.model.open_now.len());
                    assert!(
                        self.model.open_now.len() <= self.window,
                        "more in flight than the window"
                    );
                    if p.qos as u8 == 1 {
                        self.model.got.push(text);
                        self.model.answers.push(ack(AckKind::PubAck, p.pkid));
                    } else {
                        assert!(
                            p.dup || !self.model.held.contains(&p.pkid),
                            "an open id is used again"
                        );
                        if self.model.held.insert(p.pkid) {
                            self.model.got.push(text);
                        }
                        self.model.answers.push(ack(AckKind::PubRec, p.pkid));
                    }
                }
                v4::Packet::PubRel(a) => {
                    self.model.held.remove(&a.pkid);
                    self.model.answers.push(ack(AckKind::PubComp, a.pkid));
                }
                v4::Packet::PubAck(a) => self.acknowledged(a.pkid, 1),
                v4::Packet::PubRec(a) => {
                    self.acknowledged(a.pkid, 2);
                    if self.model.sent.iter().any(|(id, ..)| *id == a.pkid) {
                        self.give(Packet::Ack(Ack {
                            kind: AckKind::PubRel,
                            id: a.pkid,
                            reason: 0,
                        }));
                    }
                }
                v4::Packet::PubComp(a) => self.model.sent.retain(|(id, ..)| *id != a.pkid),
                v4::Packet::Subscribe(s) => {
                    let reasons = s.filters.iter().map(|filter| filter.qos as u8).collect();
                    self.give(Packet::SubAck {
                        id: s.pkid,
                        reasons,
                    });
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn acknowledged(&mut self, id: u16, qos: u8) {
        let Some(place) = self.model.sent.iter().position(|(known, ..)| *known == id) else {
            return;
        };
        let first = self
            .model
            .sent
            .iter()
            .position(|(_, level, _, recorded)| *level == qos && !recorded);
        let (_, level, payload, recorded) = self.model.sent[place].clone();
        assert_eq!(level, qos);
        assert!(
            recorded || first == Some(place),
            "acknowledged out of order"
        );
        assert!(
            self.finished.contains(&payload),
            "acknowledged before it was settled"
        );
        self.model.acknowledged.insert(payload);
        if qos == 1 {
            self.model.sent.remove(place);
        } else {
            self.model.sent[place].3 = true;
        }
    }

    /// Takes out the n-th answer that the broker has to give.
    fn answer(&mut self, place: usize) -> Option<Packet> {
        if self.model.answers.is_empty() {
            return None;
        }
        let place = place % self.model.answers.len();
        let answer = self.model.answers.swap_remove(place);
        if let Packet::Ack(Ack {
            kind: AckKind::PubAck | AckKind::PubComp,
            id,
            ..
        }) = &answer
        {
            self.model.open_now.remove(id);
        }
        Some(answer)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish { count, qos } => {
                let messages: Vec<_> = (0..*count)
                    .map(|n| Message {
                        subject: "t".into(),
                        ..Message::new((self.published + n).to_string())
                    })
                    .collect();
                self.published += count;
                let manner = Manner {
                    qos: *qos,
                    ..Manner::default()
                };
                let ticket = Arc::new(Ticket::new(Batch::from(messages), manner, Vec::new()));
                self.session.publish(Arc::clone(&ticket), &[]);
                self.tickets.push(ticket);
            }
            Step::Answer(place) => {
                if let Some(answer) = self.answer(*place) {
                    self.give(answer);
                }
            }
            Step::AnswerTwice(place) => {
                if let Some(answer) = self.answer(*place) {
                    // One that ends an exchange: a PUBREC is answered each time it comes.
                    if let Packet::Ack(ack) = &answer
                        && ack.kind != AckKind::PubRec
                    {
                        let again = Packet::Ack(*ack);
                        self.give(answer);
                        self.give(again);
                    } else {
                        self.give(answer);
                    }
                }
            }
            Step::Stray(id) => {
                let kinds = [
                    AckKind::PubAck,
                    AckKind::PubRec,
                    AckKind::PubComp,
                    AckKind::PubRel,
                ];
                self.give(ack(kinds[usize::from(*id) % 4], *id));
            }
            Step::Deliver { qos } => {
                if self.model.sent.len() >= 20 {
                    return;
                }
                loop {
                    self.model.next_id = self.model.next_id % 30 + 1;
                    if !self
                        .model
                        .sent
                        .iter()
                        .any(|(id, ..)| *id == self.model.next_id)
                    {
                        break;
                    }
                }
                self.model.produced += 1;
                let text = format!("in{}", self.model.produced);
                self.model
                    .sent
                    .push_back((self.model.next_id, *qos, text.clone(), false));
                self.give(publish_to_client(self.model.next_id, *qos, &text, false));
            }
            Step::Settle(place) => {
                if self.held.is_empty() {
                    return;
                }
                let delivery = self.held.swap_remove(place % self.held.len());
                self.finished
                    .insert(String::from_utf8(delivery.message.payload.to_vec()).unwrap());
                delivery.take.unwrap().settle();
            }
            Step::Flow => self.flow(),
            Step::Break { keeps } => {
                self.session.lost();
                self.link(*keeps);
            }
        }
    }
}

fn ack(kind: AckKind, id: u16) -> Packet {
    Packet::Ack(Ack {
        kind,
        id,
        reason: 0,
    })
}

fn publish_to_client(id: u16, qos: u8, payload: &str, dup: bool) -> Packet {
    Packet::Publish(Publish {
        dup,
        qos,
        id,
        topic: Bytes::from_static(b"x"),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        ..Publish::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_breaks_nothing_is_lost_and_the_rules_of_the_protocol_hold(steps in steps(), window in 1u16..8) {
        let mut bench = Bench::new(window);
        let mut lost_sessions = 0;
        for step in &steps {
            lost_sessions += u32::from(matches!(step, Step::Break { keeps: false }));
            bench.step(step);
        }
        // The broker stays from here on: everything comes to its end.
        for _ in 0..2000 {
            bench.flow();
            bench.step(&Step::Answer(0));
            bench.step(&Step::Settle(0));
        }
        let got: BTreeSet<_> = bench.model.got.iter().cloned().collect();
        let all: BTreeSet<_> = (0..bench.published).map(|n| n.to_string()).collect();
        prop_assert_eq!(got, all);
        prop_assert!(bench.tickets.iter().all(|ticket| ticket.is_done()));
        prop_assert!(bench.session.is_idle());
        prop_assert_eq!(bench.session.in_flight(), 0);
        prop_assert_eq!(bench.session.unsettled(), 0);
        prop_assert!(bench.model.sent.is_empty());
        // Level 2 is taken twice only where a message was settled and its acknowledgement lost; with
        // no session lost and the link whole, nothing is taken twice.
        let breaks = steps.iter().filter(|step| matches!(step, Step::Break { .. })).count();
        if breaks == 0 {
            prop_assert!(bench.taken.values().all(|count| *count == 1));
            prop_assert_eq!(bench.model.got.len(), bench.published as usize);
        }
        prop_assert_eq!(lost_sessions > 0 || bench.taken.len() == bench.model.produced as usize, true);
    }
}

#[test]
fn a_repeated_publish_of_other_content_is_sent_and_equal_messages_are_never_taken_for_each_other() {
    let mut bench = Bench::new(10);
    bench.flow();
    let batch = |texts: &[&str]| {
        Batch::from(
            texts
                .iter()
                .map(|text| Message {
                    subject: "t".into(),
                    ..Message::new((*text).to_owned())
                })
                .collect::<Vec<_>>(),
        )
    };
    let manner = || Manner {
        qos: 1,
        ..Manner::default()
    };
    let first = Arc::new(Ticket::new(batch(&["a", "a"]), manner(), Vec::new()));
    bench.session.publish(Arc::clone(&first), &[]);
    bench.flow();
    // Its caller still waits: an equal message of somebody else is a message of its own.
    let second = Arc::new(Ticket::new(batch(&["a"]), manner(), Vec::new()));
    bench.session.publish(Arc::clone(&second), &[]);
    bench.flow();
    assert_eq!(bench.model.got.len(), 3);
    bench.session.withdraw(&first);
    let again = Arc::new(Ticket::new(
        batch(&["a", "b", "a", "a"]),
        manner(),
        Vec::new(),
    ));
    bench.session.publish(Arc::clone(&again), &[]);
    bench.flow();
    assert_eq!(bench.model.got, ["a", "a", "a", "b", "a"]);
    for _ in 0..5 {
        bench.step(&Step::Answer(0));
    }
    assert!(again.is_done() && second.is_done() && !first.is_done());
    assert!(bench.session.is_idle());
}

#[test]
fn what_is_withdrawn_before_it_was_sent_is_not_sent() {
    let mut bench = Bench::new(1);
    bench.flow();
    let messages: Vec<_> = (0..5)
        .map(|n| Message {
            subject: "t".into(),
            ..Message::new(n.to_string())
        })
        .collect();
    let ticket = Arc::new(Ticket::new(
        Batch::from(messages),
        Manner {
            qos: 1,
            ..Manner::default()
        },
        Vec::new(),
    ));
    bench.session.publish(Arc::clone(&ticket), &[]);
    bench.flow();
    bench.session.withdraw(&ticket);
    for _ in 0..5 {
        bench.step(&Step::Answer(0));
        bench.flow();
    }
    assert_eq!(bench.model.got, ["0"]);
    assert!(bench.session.is_idle());
}

#[test]
fn a_message_at_level_0_makes_a_link_useful_and_a_retained_copy_does_not() {
    let mut bench = Bench::new(1);
    bench.flow();
    for (retain, useful) in [(true, false), (false, true)] {
        let mut packet = publish_to_client(0, 0, "1", false);
        if let Packet::Publish(publish) = &mut packet {
            publish.retain = retain;
        }
        bench.give(packet);
        assert_eq!(bench.session.was_useful(), useful, "retain {retain}");
    }
}
