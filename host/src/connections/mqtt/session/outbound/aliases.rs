//! Topic aliases towards the broker (MQTT 5, 3.3.2.3.4): a topic that has one is named once on a link, and then
//! by two bytes. The first topics of a link get them, as many as the broker takes.

use std::collections::HashMap;

use super::Bounds;
use crate::connections::mqtt::codec::{self, Outgoing};
use crate::connections::mqtt::packet::Version;

/// No more than this, whatever the broker takes: each is a text held in memory on both sides.
const MOST: u16 = 256;
/// Bytes of an alias in a packet: a shorter topic is not worth one.
const COST: usize = 3;

/// The aliases of one link.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    by_topic: HashMap<Box<str>, u16>,
}

impl Aliases {
    /// Another link: the broker has forgotten them.
    pub(super) fn clear(&mut self) {
        self.by_topic = HashMap::new();
    }

    /// Names the topic by its alias, or gives it one, where that is possible. The packet is sent then: the broker
    /// learns what is new from it.
    pub(super) fn use_in(&mut self, bounds: &Bounds, outgoing: &mut Outgoing<'_>) {
        let most = bounds.aliases.min(MOST);
        if bounds.version != Version::V5 || most == 0 || outgoing.topic.len() <= COST {
            return;
        }
        if let Some(alias) = self.by_topic.get(outgoing.topic) {
            outgoing.alias = *alias;
            outgoing.topic = "";
            return;
        }
        let next = u16::try_from(self.by_topic.len() + 1).unwrap_or(u16::MAX);
        if next > most {
            return;
        }
        outgoing.alias = next;
        // With both it is larger than without.
        if codec::publish_size(bounds.version, outgoing) > bounds.max_packet {
            outgoing.alias = 0;
        } else {
            self.by_topic.insert(outgoing.topic.into(), next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(aliases: u16, max_packet: usize) -> Bounds {
        Bounds {
            version: Version::V5,
            window: 1,
            window_2: 1,
            max_packet,
            max_qos: 2,
            aliases,
            remember: false,
        }
    }

    fn sent(aliases: &mut Aliases, bounds: &Bounds, topic: &str) -> (String, u16) {
        let mut outgoing = Outgoing {
            topic,
            alias: 0,
            payload: b"x",
            qos: 0,
            retain: false,
            dup: false,
            id: 0,
            headers: &[],
            content_type: None,
            expiry: None,
        };
        aliases.use_in(bounds, &mut outgoing);
        assert!(codec::publish_size(bounds.version, &outgoing) <= bounds.max_packet);
        (outgoing.topic.to_owned(), outgoing.alias)
    }

    #[test]
    fn a_topic_is_named_once_on_a_link_as_far_as_the_broker_takes_aliases() {
        let (mut aliases, two) = (Aliases::default(), bounds(2, 1000));
        for (topic, expected) in [
            ("plant/a", ("plant/a", 1)),
            ("plant/a", ("", 1)),
            ("plant/b", ("plant/b", 2)),
            ("plant/c", ("plant/c", 0)),
            ("plant/b", ("", 2)),
            ("a/b", ("a/b", 0)),
        ] {
            let (name, alias) = sent(&mut aliases, &two, topic);
            assert_eq!((name.as_str(), alias), expected, "{topic}");
        }
        aliases.clear();
        assert_eq!(
            sent(&mut aliases, &two, "plant/b"),
            ("plant/b".to_owned(), 1)
        );
        let none = bounds(0, 1000);
        assert_eq!(
            sent(&mut aliases, &none, "plant/b"),
            ("plant/b".to_owned(), 0)
        );
    }

    #[test]
    fn an_alias_never_makes_a_packet_too_large() {
        let mut aliases = Aliases::default();
        // Fixed header 2, topic 2 + 7, properties 1, payload 1.
        assert_eq!(
            sent(&mut aliases, &bounds(2, 13), "plant/a"),
            ("plant/a".to_owned(), 0)
        );
        assert_eq!(
            sent(&mut aliases, &bounds(2, 16), "plant/a"),
            ("plant/a".to_owned(), 1)
        );
        assert_eq!(
            sent(&mut aliases, &bounds(2, 13), "plant/a"),
            (String::new(), 1)
        );
    }
}
