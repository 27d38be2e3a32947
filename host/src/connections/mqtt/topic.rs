//! Topics and filters: what is one, and which filter takes which topic (MQTT 4.7). Pure text.

/// The longest string the protocol can carry (MQTT 1.5.3).
pub(super) const LONGEST: usize = 65_535;

/// Why this cannot be published to, or None.
pub(super) fn topic_fault(topic: &str) -> Option<String> {
    if topic.is_empty() {
        return Some("an MQTT message needs a topic".to_owned());
    }
    if topic.len() > LONGEST {
        return Some(format!(
            "the topic has {} bytes; MQTT allows {LONGEST}",
            topic.len()
        ));
    }
    if topic.bytes().any(|byte| matches!(byte, b'+' | b'#')) {
        return Some(format!(
            "the topic `{topic}` contains a wildcard; only filters may"
        ));
    }
    topic
        .contains('\0')
        .then(|| "the topic contains the character U+0000".to_owned())
}

/// Why this cannot be subscribed to, or None.
pub(super) fn filter_fault(filter: &str) -> Option<String> {
    if filter.is_empty() {
        return Some("the topic filter is empty".to_owned());
    }
    if filter.len() > LONGEST {
        return Some(format!(
            "the topic filter has {} bytes; MQTT allows {LONGEST}",
            filter.len()
        ));
    }
    if filter.contains('\0') {
        return Some("the topic filter contains the character U+0000".to_owned());
    }
    let mut plain = filter;
    if let Some(rest) = filter.strip_prefix("$share/") {
        let Some((group, rest)) = rest.split_once('/') else {
            return Some(format!(
                "`{filter}` shares nothing: it must be $share/<group>/<filter>"
            ));
        };
        if group.is_empty() || group.contains(['+', '#']) || rest.is_empty() {
            return Some(format!(
                "`{filter}` has no valid group or filter: it must be $share/<group>/<filter>"
            ));
        }
        plain = rest;
    }
    let last = plain.split('/').count() - 1;
    for (place, level) in plain.split('/').enumerate() {
        if level.contains('#') && (level != "#" || place != last) {
            return Some(format!(
                "in the topic filter `{filter}`, # must be the whole last level"
            ));
        }
        if level.contains('+') && level != "+" {
            return Some(format!(
                "in the topic filter `{filter}`, + must be a whole level"
            ));
        }
    }
    None
}

/// What the broker matches for a filter: without `$share/<group>/`; and whether it is shared.
pub(super) fn pattern(filter: &str) -> (&str, bool) {
    filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'))
        .map_or((filter, false), |(_, pattern)| (pattern, true))
}

/// Wildcards are in it.
pub(super) fn is_wild(pattern: &str) -> bool {
    pattern.bytes().any(|byte| matches!(byte, b'+' | b'#'))
}

/// The pattern takes the topic. `#` takes its parent level too; wildcards at the start take no topic
/// that starts with `$` (MQTT 4.7.2).
pub(super) fn matches(pattern: &str, topic: &str) -> bool {
    let (mut pattern, mut topic) = (pattern.as_bytes(), topic.as_bytes());
    if topic.first() == Some(&b'$') && matches!(pattern.first(), Some(b'+' | b'#')) {
        return false;
    }
    loop {
        let (level, rest) = level(pattern);
        if level == b"#" {
            return true;
        }
        let (name, names) = self::level(topic);
        if level != b"+" && level != name {
            return false;
        }
        match (rest, names) {
            (None, None) => return true,
            (Some(rest), None) => return rest == b"#",
            (None, Some(_)) => return false,
            (Some(rest), Some(names)) => (pattern, topic) = (rest, names),
        }
    }
}

fn level(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|&byte| byte == b'/') {
        Some(end) => (text.get(..end).unwrap_or_default(), text.get(end + 1..)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_take_what_the_specification_says() {
        for (filter, topic, takes) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/ranking",
                true,
            ),
            ("sport/tennis/player1/#", "sport/tennis/player2", false),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("+", "finance", true),
            ("+", "/finance", false),
            ("/+", "/finance", true),
            ("+/+", "/finance", true),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("sport/+/player1", "sport/tennis/player1", true),
            ("a/b", "a/b/c", false),
            ("a/b/c", "a/b", false),
            ("a/+/#", "a/b", true),
            ("a/+/#", "a", false),
            ("A", "a", false),
        ] {
            assert_eq!(matches(filter, topic), takes, "{filter} {topic}");
        }
    }

    #[test]
    fn faults_are_named_and_valid_ones_pass() {
        for filter in [
            "",
            "a/#/b",
            "a#",
            "a+/b",
            "$share/g",
            "$share//x",
            "$share/g/",
            "$share/g+/x",
            "a\0b",
        ] {
            assert!(filter_fault(filter).is_some(), "{filter}");
        }
        assert!(filter_fault(&"x".repeat(65_536)).is_some());
        for filter in ["a", "#", "+", "+/a/#", "/", "$share/g/a/#", "a//b"] {
            assert_eq!(filter_fault(filter), None, "{filter}");
        }
        for topic in ["", "a/+", "#", "a\0"] {
            assert!(topic_fault(topic).is_some(), "{topic}");
        }
        assert!(topic_fault(&"x".repeat(65_536)).is_some());
        assert_eq!(topic_fault("a/b"), None);
        assert_eq!(pattern("$share/g/a/b"), ("a/b", true));
        assert_eq!(pattern("$SYS/a"), ("$SYS/a", false));
    }
}
