//! Topics over all buses: MQTT has them as they are, NATS and Redis with dots for slashes. Redis'
//! patterns match more than MQTT's filters do, so what comes in is held against the filter again.

/// The subject of a message as an EdgeX topic, if the filter asks for it.
pub(crate) fn topic(filters: &[String], subject: &str) -> Option<String> {
    let levels = |text: &str| text.replace('.', "/");
    let asked = filters.iter().any(|filter| {
        let filter: Vec<String> = levels(filter)
            .split('/')
            .map(|level| match level {
                ">" => "#".to_owned(),
                "*" => "+".to_owned(),
                other => other.to_owned(),
            })
            .collect();
        matches(&filter, &levels(subject))
    });
    asked.then(|| {
        if subject.contains('/') {
            subject.to_owned()
        } else {
            levels(subject)
        }
    })
}

fn matches(filter: &[String], topic: &str) -> bool {
    // `$share/<group>/<filter>` is about who gets it, not what.
    let filter = match filter {
        [share, _, rest @ ..] if share == "$share" => rest,
        all => all,
    };
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
