//! Subjects, and what a subscription asks for: text in, checked values out. Rules of the NATS
//! documentation, "Subject-Based Messaging". Touches no link.

use std::time::Duration;

use crate::connections::properties::{nearest, parse_duration};
use crate::connections::{Qos, SubscribeOptions};
use crate::error::ConnectionError;

/// The longest subject that a server takes in a line of its protocol, with room for the rest of it
/// (`max_control_line` is 4096 unless changed).
const LONGEST: usize = 3_500;
/// Options of a subscription by JetStream.
const JETSTREAM: [&str; 5] = ["stream", "durable", "deliver", "ackWait", "maxAckPending"];
/// Those of a subscription by core NATS.
const CORE: [&str; 1] = ["queue"];
/// How long a delivery may be unsettled before it comes again. The link's task prolongs it all the
/// time, so that only a delivery to a dead host comes again.
const ACK_WAIT: Duration = Duration::from_secs(10);
/// Deliveries unsettled at once (the server's own default).
const MAX_ACK_PENDING: i64 = 1_000;

/// Why nothing can be published to this subject; none: it can.
pub(super) fn publish_fault(subject: &str) -> Option<String> {
    fault(subject).or_else(|| {
        let wild = subject.split('.').any(|token| matches!(token, "*" | ">"));
        wild.then(|| {
            format!(
                "nothing can be published to \"{}\": it has a wildcard",
                shown(subject)
            )
        })
    })
}

/// Why this is no filter; none: it is one.
pub(super) fn filter_fault(filter: &str) -> Option<String> {
    fault(filter).or_else(|| {
        let mut tokens = filter.split('.');
        let early = tokens.by_ref().any(|token| token == ">") && tokens.next().is_some();
        early.then(|| {
            format!(
                "\"{}\" is no subject: \">\" must be its last token",
                shown(filter)
            )
        })
    })
}

fn fault(subject: &str) -> Option<String> {
    let why = if subject.is_empty() {
        return Some("a subject is needed".to_owned());
    } else if subject.len() > LONGEST {
        return Some(format!("a subject is longer than {LONGEST} bytes"));
    } else if subject.contains(|c: char| c.is_whitespace() || c.is_control()) {
        "it has a blank in it"
    } else if subject.split('.').any(str::is_empty) {
        "a token between its dots is empty"
    } else {
        return None;
    };
    Some(format!("\"{}\" is no subject: {why}", shown(subject)))
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Where a consumer that is made begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deliver {
    New,
    All,
    Last,
}

/// What is asked for at the server, as far as the server tells it from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wanted {
    /// A core subscription: what is published while it is there.
    Core {
        subject: String,
        queue: Option<String>,
    },
    /// A durable consumer of a stream.
    Jet(Jet),
}

/// A durable consumer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Jet {
    pub(super) subject: String,
    /// None: the stream that has the subject.
    pub(super) stream: Option<String>,
    /// None: the connection makes a name that nobody else has.
    pub(super) durable: Option<String>,
}

/// How a consumer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Making {
    pub(super) deliver: Deliver,
    pub(super) ack_wait: Duration,
    pub(super) max_ack_pending: i64,
}

impl Default for Making {
    fn default() -> Self {
        Self {
            deliver: Deliver::New,
            ack_wait: ACK_WAIT,
            max_ack_pending: MAX_ACK_PENDING,
        }
    }
}

impl Making {
    /// The options in which another one differs.
    pub(super) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let pairs = [
            ("deliver", self.deliver != other.deliver),
            ("ackWait", self.ack_wait != other.ack_wait),
            (
                "maxAckPending",
                self.max_ack_pending != other.max_ack_pending,
            ),
        ];
        let different = pairs.into_iter().filter(|(_, differs)| *differs);
        different.map(|(name, _)| name).collect()
    }
}

/// What a taker asks for, one thing per filter.
///
/// # Errors
/// `misconfigured`: a filter that is none, an option that is unknown or does not fit.
pub(super) fn wanted(
    filters: &[String],
    options: &SubscribeOptions,
    standard: Qos,
) -> Result<Vec<(Wanted, Making)>, ConnectionError> {
    if let Some(fault) = filters.iter().find_map(|filter| filter_fault(filter)) {
        return Err(ConnectionError::misconfigured("subject", fault));
    }
    if filters.is_empty() {
        return Err(ConnectionError::misconfigured(
            "subject",
            "a subscription needs a subject",
        ));
    }
    let jetstream = options.qos.unwrap_or(standard) != Qos::AtMostOnce;
    let asked = Asked::read(options, jetstream)?;
    if asked.durable.is_some() && filters.len() > 1 {
        return Err(wrong(
            "durable",
            "names one consumer, which has one subject: give one subject, or leave it out",
        ));
    }
    let each = filters.iter().map(|subject| {
        let wanted = if jetstream {
            Wanted::Jet(Jet {
                subject: subject.clone(),
                stream: asked.stream.clone(),
                durable: asked.durable.clone(),
            })
        } else {
            Wanted::Core {
                subject: subject.clone(),
                queue: asked.queue.clone(),
            }
        };
        (wanted, asked.making)
    });
    Ok(each.collect())
}

struct Asked {
    queue: Option<String>,
    stream: Option<String>,
    durable: Option<String>,
    making: Making,
}

impl Asked {
    fn read(options: &SubscribeOptions, jetstream: bool) -> Result<Self, ConnectionError> {
        let mut asked = Self {
            queue: None,
            stream: None,
            durable: None,
            making: Making::default(),
        };
        for (name, value) in &options.extra {
            let known = JETSTREAM.iter().chain(&CORE);
            let Some(known) = known
                .copied()
                .find(|known| known.eq_ignore_ascii_case(name))
            else {
                return Err(unknown(name, &[&CORE[..], &JETSTREAM].concat()));
            };
            if CORE.contains(&known) == jetstream {
                let levels = if jetstream { "0" } else { "1 or 2" };
                return Err(wrong(known, format!("goes with qos {levels} only")));
            }
            match known {
                "queue" => asked.queue = Some(token(known, value, "queue group")?),
                "stream" => asked.stream = Some(token(known, value, "stream")?),
                "durable" => asked.durable = Some(token(known, value, "consumer")?),
                "deliver" => {
                    asked.making.deliver = match value.to_ascii_lowercase().as_str() {
                        "new" => Deliver::New,
                        "all" => Deliver::All,
                        "last" => Deliver::Last,
                        _ => {
                            return Err(wrong(
                                known,
                                format!("found \"{}\"; Allowed: new, all, last", shown(value)),
                            ));
                        }
                    }
                }
                "ackWait" => {
                    let range = Duration::from_secs(2)..=Duration::from_secs(3600);
                    let time = parse_duration(value).filter(|time| range.contains(time));
                    asked.making.ack_wait = time.ok_or_else(|| {
                        wrong(
                            known,
                            format!(
                                "found \"{}\"; it must be a time from 2s to 1h",
                                shown(value)
                            ),
                        )
                    })?;
                }
                _ => {
                    let number = value
                        .parse()
                        .ok()
                        .filter(|number| (1..=65_535).contains(number));
                    asked.making.max_ack_pending = number.ok_or_else(|| {
                        wrong(
                            known,
                            format!(
                                "found \"{}\"; it must be a whole number from 1 to 65535",
                                shown(value)
                            ),
                        )
                    })?;
                }
            }
        }
        Ok(asked)
    }
}

/// A name of a stream, a consumer, a queue group.
fn token(option: &str, value: &str, what: &str) -> Result<String, ConnectionError> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
    if value.is_empty() || value.len() > 255 || value.contains(odd) {
        return Err(wrong(
            option,
            format!(
                "\"{}\" cannot name a {what}: blanks and the characters . * > / \\ may not be in it",
                shown(value)
            ),
        ));
    }
    Ok(value.to_owned())
}

fn wrong(option: &str, why: impl std::fmt::Display) -> ConnectionError {
    ConnectionError::misconfigured("option", format!("the option `{option}`: {why}"))
}

/// An option that is none here.
pub(super) fn unknown(name: &str, known: &[&str]) -> ConnectionError {
    let hint = nearest(name, known.iter().copied())
        .map(|meant| format!("did you mean `{meant}`? "))
        .unwrap_or_default();
    let allowed = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    ConnectionError::misconfigured(
        "option",
        format!("NATS knows no option `{name}` here; {hint}Allowed: {allowed}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(qos: Qos, extra: &[(&str, &str)]) -> SubscribeOptions {
        SubscribeOptions {
            qos: Some(qos),
            extra: extra
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn subjects_and_filters_are_checked() {
        for good in ["a", "a.b", "$JS.x", "ü.b"] {
            assert_eq!(
                (publish_fault(good), filter_fault(good)),
                (None, None),
                "{good}"
            );
        }
        for filter in ["a.*", ">", "a.>", "*.b"] {
            assert!(
                filter_fault(filter).is_none() && publish_fault(filter).is_some(),
                "{filter}"
            );
        }
        for bad in ["", "a..b", ".a", "a.", "a b", "a\r\nPUB", ">.a"] {
            assert!(filter_fault(bad).is_some(), "{bad:?}");
        }
        assert!(
            publish_fault("a.x>y*").is_none(),
            "wildcards are whole tokens"
        );
        assert!(publish_fault(&"a".repeat(4000)).is_some());
    }

    #[test]
    fn the_level_decides_between_core_and_jetstream_and_options_go_with_one() {
        let filters = ["in.>".to_owned()];
        let core = wanted(
            &filters,
            &options(Qos::AtMostOnce, &[("queue", "q")]),
            Qos::AtLeastOnce,
        );
        assert!(
            matches!(&core.unwrap()[0].0, Wanted::Core { queue: Some(queue), .. } if queue == "q")
        );
        let extra = [
            ("Stream", "S"),
            ("durable", "d"),
            ("deliver", "all"),
            ("ackWait", "5s"),
            ("maxAckPending", "7"),
        ];
        let jet = wanted(
            &filters,
            &options(Qos::AtLeastOnce, &extra),
            Qos::AtMostOnce,
        )
        .unwrap();
        let (Wanted::Jet(jet), making) = &jet[0] else {
            panic!()
        };
        assert_eq!(
            (jet.stream.as_deref(), jet.durable.as_deref()),
            (Some("S"), Some("d"))
        );
        assert_eq!(
            (making.deliver, making.ack_wait, making.max_ack_pending),
            (Deliver::All, Duration::from_secs(5), 7)
        );
        let others = making.differences(&Making::default());
        assert_eq!(others, ["deliver", "ackWait", "maxAckPending"]);
        let name = [("stream", "S"), ("durable", "d"), ("ackWait", "9s")];
        let same = wanted(&filters, &options(Qos::AtLeastOnce, &name), Qos::AtMostOnce).unwrap();
        assert_eq!(
            same[0].0,
            Wanted::Jet(jet.clone()),
            "the server knows one consumer by that name, however it is to be made"
        );
        for (qos, name, value) in [
            (Qos::AtMostOnce, "stream", "S"),
            (Qos::AtLeastOnce, "queue", "q"),
            (Qos::AtLeastOnce, "durable", "a.b"),
            (Qos::AtLeastOnce, "deliver", "old"),
            (Qos::AtLeastOnce, "ackWait", "1ms"),
            (Qos::AtLeastOnce, "maxAckPending", "0"),
            (Qos::AtLeastOnce, "durabel", "d"),
        ] {
            let error =
                wanted(&filters, &options(qos, &[(name, value)]), Qos::AtMostOnce).unwrap_err();
            assert_eq!(
                error.kind,
                crate::error::ErrorKind::Misconfigured,
                "{name} {value}"
            );
        }
        let two = ["a".to_owned(), "b".to_owned()];
        assert!(
            wanted(
                &two,
                &options(Qos::AtLeastOnce, &[("durable", "d")]),
                Qos::AtMostOnce
            )
            .is_err()
        );
    }
}
