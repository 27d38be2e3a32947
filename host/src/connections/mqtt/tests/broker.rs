//! A broker that does exactly what a test says: it reads packets, and answers what it is told to.
//! Both versions; the codec is the library's, so that it is not our own that is tested against itself.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, v4};
use rumqttc::v5::mqttbytes::{self as bytes5, v5};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::support::PATIENCE;

/// What a client sent, the same for both versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Connect {
        clean: bool,
        id: String,
        receive_max: Option<u16>,
    },
    Publish {
        topic: String,
        payload: String,
        qos: u8,
        id: u16,
        dup: bool,
    },
    PubAck(u16),
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
    Subscribe {
        id: u16,
        filters: Vec<(String, u8)>,
    },
    Unsubscribe {
        id: u16,
        filters: Vec<String>,
    },
    Ping,
    Disconnect,
}

pub(super) struct Broker {
    listener: TcpListener,
    pub(super) port: u16,
    five: bool,
}

pub(super) struct Peer {
    pub(super) stream: TcpStream,
    buffer: BytesMut,
    five: bool,
}

/// What a CONNACK of version 5 says beside the code.
pub(super) type Limits = v5::ConnAckProperties;

pub(super) fn limits() -> Limits {
    let mut three = Bytes::from_static(&[3, 0x21, 0xFF, 0xFF]);
    v5::ConnAckProperties::read(&mut three).unwrap().unwrap()
}

impl Broker {
    pub(super) async fn new(five: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self {
            listener,
            port,
            five,
        }
    }

    pub(super) fn version(&self) -> &'static str {
        if self.five { "5" } else { "3.1.1" }
    }

    /// The next client, before its CONNECT.
    pub(super) async fn accept(&self) -> Peer {
        let (stream, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .expect("nobody dials")
            .unwrap();
        stream.set_nodelay(true).unwrap();
        Peer {
            stream,
            buffer: BytesMut::new(),
            five: self.five,
        }
    }

    /// The next client, with its CONNECT answered.
    pub(super) async fn welcome(&self, present: bool) -> Peer {
        self.welcome_with(present, None).await
    }

    pub(super) async fn welcome_with(&self, present: bool, limits: Option<Limits>) -> Peer {
        let mut peer = self.accept().await;
        assert!(matches!(peer.next().await, Sent::Connect { .. }));
        peer.connack(present, limits).await;
        peer
    }

    /// How many dial within a time.
    pub(super) async fn attempts(&self, within: Duration) -> usize {
        let mut count = 0;
        let all = async {
            loop {
                let _held = self.listener.accept().await.unwrap();
                count += 1;
            }
        };
        assert!(timeout(within, all).await.is_err());
        count
    }
}

impl Peer {
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("the client does not read")
            .unwrap();
    }

    pub(super) async fn connack(&mut self, present: bool, limits: Option<Limits>) {
        let mut buffer = BytesMut::new();
        if self.five {
            let packet = v5::ConnAck {
                session_present: present,
                code: v5::ConnectReturnCode::Success,
                properties: limits,
            };
            packet.write(&mut buffer).unwrap();
        } else {
            v4::ConnAck::new(v4::ConnectReturnCode::Success, present)
                .write(&mut buffer)
                .unwrap();
        }
        self.send(&buffer).await;
    }

    pub(super) async fn refuse(&mut self, code: u8) {
        let bytes: &[u8] = if self.five {
            &[0x20, 3, 0, code, 0]
        } else {
            &[0x20, 2, 0, code]
        };
        self.send(bytes).await;
    }

    pub(super) async fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        id: u16,
        dup: bool,
    ) {
        self.publish_with(topic, payload, qos, id, dup, None).await;
    }

    pub(super) async fn publish_with(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        id: u16,
        dup: bool,
        properties: Option<v5::PublishProperties>,
    ) {
        let mut buffer = BytesMut::new();
        if self.five {
            let mut packet = v5::Publish::new(
                topic,
                bytes5::qos(qos).unwrap(),
                Bytes::copy_from_slice(payload),
                properties,
            );
            (packet.pkid, packet.dup) = (id, dup);
            packet.write(&mut buffer).unwrap();
        } else {
            let mut packet = v4::Publish::new(topic, mqttbytes::qos(qos).unwrap(), payload);
            (packet.pkid, packet.dup) = (id, dup);
            packet.write(&mut buffer).unwrap();
        }
        self.send(&buffer).await;
    }

    /// PUBACK 4, PUBREC 5, PUBREL 6, PUBCOMP 7.
    pub(super) async fn ack(&mut self, kind: u8, id: u16, reason: u8) {
        let [high, low] = id.to_be_bytes();
        let first = (kind << 4) | if kind == 6 { 2 } else { 0 };
        if self.five && reason != 0 {
            self.send(&[first, 3, high, low, reason]).await;
        } else {
            self.send(&[first, 2, high, low]).await;
        }
    }

    pub(super) async fn suback(&mut self, id: u16, reasons: &[u8]) {
        let [high, low] = id.to_be_bytes();
        let extra = usize::from(self.five);
        let mut bytes = vec![
            0x90,
            u8::try_from(2 + extra + reasons.len()).unwrap(),
            high,
            low,
        ];
        bytes.extend(std::iter::repeat_n(0, extra));
        bytes.extend_from_slice(reasons);
        self.send(&bytes).await;
    }

    pub(super) async fn unsuback(&mut self, id: u16) {
        let [high, low] = id.to_be_bytes();
        let bytes: &[u8] = if self.five {
            &[0xB0, 4, high, low, 0, 0]
        } else {
            &[0xB0, 2, high, low]
        };
        self.send(bytes).await;
    }

    /// The next packet of the client.
    pub(super) async fn next(&mut self) -> Sent {
        timeout(PATIENCE, self.read())
            .await
            .expect("the client sends nothing")
            .expect("the client hung up")
    }

    /// The next packet within a time; None: nothing came. A client that hangs up is a failure.
    pub(super) async fn next_within(&mut self, time: Duration) -> Option<Sent> {
        timeout(time, self.read())
            .await
            .ok()
            .map(|sent| sent.expect("the client hung up"))
    }

    /// Waits until the client hangs up.
    pub(super) async fn hung_up(&mut self) {
        let all = async { while self.read().await.is_some() {} };
        timeout(PATIENCE, all).await.expect("the client stays");
    }

    /// The next packet that is no SUBSCRIBE; those are granted.
    pub(super) async fn granting(&mut self) -> Sent {
        loop {
            match self.next().await {
                Sent::Subscribe { id, filters } => {
                    let reasons: Vec<u8> = filters.iter().map(|(_, qos)| *qos).collect();
                    self.suback(id, &reasons).await;
                }
                Sent::Unsubscribe { id, .. } => self.unsuback(id).await,
                other => return other,
            }
        }
    }

    /// Grants the next SUBSCRIBE.
    pub(super) async fn grant(&mut self) -> (u16, Vec<(String, u8)>) {
        let Sent::Subscribe { id, filters } = self.next().await else {
            panic!("no SUBSCRIBE")
        };
        let reasons: Vec<u8> = filters.iter().map(|(_, qos)| *qos).collect();
        self.suback(id, &reasons).await;
        (id, filters)
    }

    async fn read(&mut self) -> Option<Sent> {
        loop {
            if let Some(sent) = self.parse() {
                return Some(sent);
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    fn parse(&mut self) -> Option<Sent> {
        if self.buffer.starts_with(&[0xE0, 0]) {
            drop(self.buffer.split_to(2));
            return Some(Sent::Disconnect);
        }
        if self.five {
            self.parse_5()
        } else {
            self.parse_4()
        }
    }

    fn parse_4(&mut self) -> Option<Sent> {
        let packet = match v4::Packet::read(&mut self.buffer, 1 << 24) {
            Ok(packet) => packet,
            Err(mqttbytes::Error::InsufficientBytes(_)) => return None,
            Err(error) => panic!("the client sent {error}"),
        };
        Some(match packet {
            v4::Packet::Connect(c) => Sent::Connect {
                clean: c.clean_session,
                id: c.client_id,
                receive_max: None,
            },
            v4::Packet::Publish(p) => Sent::Publish {
                topic: p.topic,
                payload: String::from_utf8_lossy(&p.payload).into_owned(),
                qos: p.qos as u8,
                id: p.pkid,
                dup: p.dup,
            },
            v4::Packet::PubAck(a) => Sent::PubAck(a.pkid),
            v4::Packet::PubRec(a) => Sent::PubRec(a.pkid),
            v4::Packet::PubRel(a) => Sent::PubRel(a.pkid),
            v4::Packet::PubComp(a) => Sent::PubComp(a.pkid),
            v4::Packet::Subscribe(s) => Sent::Subscribe {
                id: s.pkid,
                filters: s
                    .filters
                    .into_iter()
                    .map(|f| (f.path, f.qos as u8))
                    .collect(),
            },
            v4::Packet::Unsubscribe(u) => Sent::Unsubscribe {
                id: u.pkid,
                filters: u.topics,
            },
            v4::Packet::PingReq => Sent::Ping,
            v4::Packet::Disconnect => Sent::Disconnect,
            other => panic!("the client sent {other:?}"),
        })
    }

    fn parse_5(&mut self) -> Option<Sent> {
        let packet = match v5::Packet::read(&mut self.buffer, None) {
            Ok(packet) => packet,
            Err(bytes5::Error::InsufficientBytes(_)) => return None,
            Err(error) => panic!("the client sent {error}"),
        };
        Some(match packet {
            v5::Packet::Connect(c, _, _) => Sent::Connect {
                clean: c.clean_start,
                id: c.client_id,
                receive_max: c.properties.and_then(|p| p.receive_maximum),
            },
            v5::Packet::Publish(p) => Sent::Publish {
                topic: String::from_utf8(p.topic.to_vec()).unwrap(),
                payload: String::from_utf8_lossy(&p.payload).into_owned(),
                qos: p.qos as u8,
                id: p.pkid,
                dup: p.dup,
            },
            v5::Packet::PubAck(a) => Sent::PubAck(a.pkid),
            v5::Packet::PubRec(a) => Sent::PubRec(a.pkid),
            v5::Packet::PubRel(a) => Sent::PubRel(a.pkid),
            v5::Packet::PubComp(a) => Sent::PubComp(a.pkid),
            v5::Packet::Subscribe(s) => Sent::Subscribe {
                id: s.pkid,
                filters: s
                    .filters
                    .into_iter()
                    .map(|f| (f.path, f.qos as u8))
                    .collect(),
            },
            v5::Packet::Unsubscribe(u) => Sent::Unsubscribe {
                id: u.pkid,
                filters: u.filters,
            },
            v5::Packet::PingReq(_) => Sent::Ping,
            v5::Packet::Disconnect(_) => Sent::Disconnect,
            other => panic!("the client sent {other:?}"),
        })
    }
}
