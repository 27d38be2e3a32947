//! EdgeX' topics on each bus (go-mod-messaging: `nats/topics.go`; for Redis as it was up to v3). MQTT has
//! them as they are. Back to EdgeX' form they are turned by the connector, which knows what it asked
//! for.

use super::config::Bus;

/// The filters that ask a bus for these topics.
pub(super) fn filters(bus: Bus, topics: &[String]) -> Vec<String> {
    topics.iter().flat_map(|topic| filter(bus, topic)).collect()
}

fn filter(bus: Bus, topic: &str) -> Vec<String> {
    let levels = |one: &str, rest: &str| -> String {
        let level = |level| match level {
            "+" => one.to_owned(),
            "#" => rest.to_owned(),
            other => other.to_owned(),
        };
        topic.split('/').map(level).collect::<Vec<_>>().join(".")
    };
    match bus {
        Bus::Mqtt => vec![topic.to_owned()],
        Bus::NatsCore | Bus::NatsJetStream => {
            let filter = levels("*", ">");
            // `a/#` means `a` too; `a.>` does not.
            let parent = filter.strip_suffix(".>").map(str::to_owned);
            let parent = parent.filter(|_| bus == Bus::NatsCore);
            std::iter::once(filter).chain(parent).collect()
        }
        Bus::Redis => {
            let escaped = |text: &str| text.replace('[', "\\[").replace('?', "\\?");
            let filter = escaped(&levels("*", "*"));
            let parent = topic
                .ends_with("/#")
                .then(|| filter.strip_suffix(".*").map(str::to_owned));
            std::iter::once(filter).chain(parent.flatten()).collect()
        }
    }
}

/// A topic as a subject of NATS, a channel of Redis.
pub(super) fn dotted(topic: &str) -> String {
    topic.replace('/', ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bus_has_its_own_form_of_a_filter() {
        for (bus, topic, wanted) in [
            (Bus::Mqtt, "edgex/+/#", &["edgex/+/#"][..]),
            (Bus::NatsCore, "edgex/+/#", &["edgex.*.>", "edgex.*"]),
            (Bus::NatsJetStream, "edgex/events/#", &["edgex.events.>"]),
            (Bus::NatsCore, "edgex/rules-events", &["edgex.rules-events"]),
            (
                Bus::Redis,
                "edgex/events/#",
                &["edgex.events.*", "edgex.events"],
            ),
            (Bus::Redis, "edgex/+/a", &["edgex.*.a"]),
            (Bus::Redis, "rules-events", &["rules-events"]),
        ] {
            assert_eq!(filters(bus, &[topic.to_owned()]), wanted, "{bus:?} {topic}");
        }
        assert_eq!(dotted("edgex/a/b"), "edgex.a.b");
    }
}
