//! Topics over all buses: MQTT has them as they are, NATS and Redis with dots for slashes. Redis'
//! patterns match more than MQTT's filters do, so what comes in is held against the filter again.

/// The subject of a message as an EdgeX topic, if the filter asks for it.
pub(crate) fn topic(filters: &[String], subject: &str) -> Option<String> {
    // A slash in it: it comes as it is, and a dot is a part of its level, as in `v1.2`.
    let dotted = !subject.contains('/');
    let levels = |text: &str| {
        if dotted {
            text.replace('.', "/")
        } else {
            text.to_owned()
        }
    };
    let topic = levels(subject);
    let asked = filters.iter().any(|filter| {
        let filter: Vec<String> = levels(shared(filter))
            .split('/')
            .map(|level| match level {
                ">" if dotted => "#".to_owned(),
                "*" if dotted => "+".to_owned(),
                other => other.to_owned(),
            })
            .collect();
        matches(&filter, &topic)
    });
    asked.then_some(topic)
}

/// `$share/<group>/<filter>` is about who gets it, not what.
fn shared(filter: &str) -> &str {
    filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'))
        .map_or(filter, |(_group, filter)| filter)
}

fn matches(filter: &[String], topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_of_any_bus_is_a_topic_if_its_filter_asks_for_it() {
        for (filter, subject, topic_wanted) in [
            (
                "edgex/events/#",
                "edgex/events/device/x",
                Some("edgex/events/device/x"),
            ),
            (
                "edgex/events/#",
                "edgex.events.device.x",
                Some("edgex/events/device/x"),
            ),
            ("edgex/events/#", "edgex.events", Some("edgex/events")),
            ("edgex/+/a", "edgex.b.a", Some("edgex/b/a")),
            ("edgex/+/a", "edgex.b.c.a", None),
            (
                "edgex.events.>",
                "edgex.events.a.b",
                Some("edgex/events/a/b"),
            ),
            ("rules-events", "rules-events", Some("rules-events")),
            ("$share/g/a/#", "a/b", Some("a/b")),
            ("a/b", "a/c", None),
            ("a/v1.2", "a/v1.2", Some("a/v1.2")),
            ("a/+", "a/v1.2", Some("a/v1.2")),
            ("a/+/c", "a/v1.2/c", Some("a/v1.2/c")),
            ("a/v1/2", "a/v1.2", None),
            ("$share/g.1/a/+", "a/v1.2", Some("a/v1.2")),
        ] {
            let filters = ["none".to_owned(), filter.to_owned()];
            assert_eq!(
                topic(&filters, subject).as_deref(),
                topic_wanted,
                "{filter} {subject}"
            );
        }
    }
}
