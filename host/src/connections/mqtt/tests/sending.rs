//! Scripts for brokers that are published to.

use serde_json::{Value, json};

use super::broker::{Broker, Peer, Sent};
use super::support::{Client, message};
use crate::connections::Qos;
use crate::message::Message;

pub(super) fn session(broker: &Broker, more: &Value) -> Value {
    let mut props =
        json!({"protocolVersion": broker.version(), "clientid": "c", "enableClientSession": true});
    for (name, value) in more.as_object().unwrap() {
        props[name] = value.clone();
    }
    props
}

pub(super) fn numbers(count: u32) -> Vec<Message> {
    (0..count).map(|n| message("t", &n.to_string())).collect()
}

pub(super) async fn publishes(peer: &mut Peer, count: usize) -> Vec<(String, u16, bool)> {
    let mut got = Vec::new();
    while got.len() < count {
        if let Sent::Publish {
            payload, id, dup, ..
        } = peer.granting().await
        {
            got.push((payload, id, dup));
        }
    }
    got
}

pub(super) fn expected(count: u32) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

/// Publishes while the broker follows its script; gives the link, which would end otherwise.
pub(super) async fn sending<T>(
    client: &Client,
    count: u32,
    qos: Qos,
    script: impl Future<Output = T>,
) -> T {
    let (result, given) = tokio::join!(client.publish_all(numbers(count), qos), script);
    assert!(result.unwrap().is_empty());
    given
}
