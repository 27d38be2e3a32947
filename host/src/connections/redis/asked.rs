//! What a subscription and a publish ask for: options in, checked values out. Touches no link.

use std::time::Duration;

use crate::connections::properties::{nearest, parse_duration};
use crate::connections::{PublishOptions, SubscribeOptions};
use crate::error::ConnectionError;

/// The field of an entry of a stream that is the payload; the others are headers.
const FIELD: &str = "payload";
/// Entries that another consumer of the group has not settled for this long are taken over.
const CLAIM_IDLE: Duration = Duration::from_secs(300);

/// What is asked for at the server, as far as the server tells it from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wanted {
    /// A channel: what is published while it is subscribed to.
    Channel(String),
    /// A pattern of channels.
    Pattern(String),
    /// A stream, read as a consumer of a group.
    Stream(Group),
}

/// A stream, read as a consumer of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) key: String,
    pub(super) group: String,
    /// None: the connection makes a name that nobody else has.
    pub(super) consumer: Option<String>,
}

/// How a stream is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Where a group that is made begins: `$`, `0` or an id.
    pub(super) from: String,
    pub(super) field: String,
    pub(super) claim_idle: Duration,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            from: "$".to_owned(),
            field: FIELD.to_owned(),
            claim_idle: CLAIM_IDLE,
        }
    }
}

impl Reading {
    /// The options in which another one differs.
    pub(super) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let pairs = [
            ("from", self.from != other.from),
            ("field", self.field != other.field),
            ("claimIdle", self.claim_idle != other.claim_idle),
        ];
        let different = pairs.into_iter().filter(|(_, differs)| *differs);
        different.map(|(name, _)| name).collect()
    }
}

/// What a taker asks for, one thing per filter: with a group they are streams, else channels, or
/// patterns where there is `*`, `?` or `[` in them.
///
/// # Errors
/// `misconfigured`: an empty filter, an option that is unknown or does not fit.
pub(super) fn wanted(
    filters: &[String],
    options: &SubscribeOptions,
) -> Result<Vec<(Wanted, Reading)>, ConnectionError> {
    if filters.is_empty() || filters.iter().any(String::is_empty) {
        return Err(ConnectionError::misconfigured(
            "channel",
            "a channel or a stream is needed",
        ));
    }
    const KNOWN: [&str; 5] = ["group", "consumer", "from", "field", "claimIdle"];
    let (mut group, mut consumer) = (None, None);
    let mut reading = Reading::default();
    for (name, value) in &options.extra {
        let known = *find(name, &KNOWN)?;
        if value.is_empty() {
            return Err(wrong(known, "must not be empty"));
        }
        match known {
            "group" => group = Some(value.clone()),
            "consumer" => consumer = Some(value.clone()),
            "from" => reading.from = start(value)?,
            "field" => reading.field.clone_from(value),
            _ => {
                reading.claim_idle = time(
                    known,
                    value,
                    Duration::from_secs(3),
                    Duration::from_secs(7 * 24 * 3600),
                )?
            }
        }
    }
    let Some(group) = group else {
        if let Some((name, _)) = options.extra.first() {
            return Err(wrong(name, "goes with `group` only: it is about streams"));
        }
        let one = |filter: &String| {
            let wanted = if filter.contains(['*', '?', '[']) {
                Wanted::Pattern(filter.clone())
            } else {
                Wanted::Channel(filter.clone())
            };
            (wanted, Reading::default())
        };
        return Ok(filters.iter().map(one).collect());
    };
    let each = filters.iter().map(|key| {
        let wanted = Wanted::Stream(Group {
            key: key.clone(),
            group: group.clone(),
            consumer: consumer.clone(),
        });
        (wanted, reading.clone())
    });
    Ok(each.collect())
}

/// `$` (what comes from now on), `0` (all there is), or an id of an entry.
fn start(value: &str) -> Result<String, ConnectionError> {
    let id = || {
        let (ms, count) = value.split_once('-').unwrap_or((value, "0"));
        ms.parse::<u64>().is_ok() && count.parse::<u64>().is_ok()
    };
    match value {
        "new" => Ok("$".to_owned()),
        "all" => Ok("0".to_owned()),
        _ if value == "$" || id() => Ok(value.to_owned()),
        _ => Err(wrong("from", "must be new, all, or the id of an entry")),
    }
}

/// What is done with each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Publish,
    Xadd,
    Set,
    Lpush,
    Rpush,
    Del,
    Lpop,
}

const COMMANDS: [(&str, Command); 7] = [
    ("publish", Command::Publish),
    ("xadd", Command::Xadd),
    ("set", Command::Set),
    ("lpush", Command::Lpush),
    ("rpush", Command::Rpush),
    ("del", Command::Del),
    ("lpop", Command::Lpop),
];

/// How a batch is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    pub(super) command: Command,
    /// After this long the key is gone.
    pub(super) expiration: Option<Duration>,
    /// Entries that the stream keeps, about.
    pub(super) max_len: Option<u64>,
    pub(super) field: String,
}

impl Manner {
    /// Reads the options of a publish.
    ///
    /// # Errors
    /// `misconfigured`.
    pub(super) fn read(options: &PublishOptions) -> Result<Self, ConnectionError> {
        const KNOWN: [&str; 4] = ["command", "expiration", "maxLen", "field"];
        let mut manner = Self {
            command: Command::Publish,
            expiration: None,
            max_len: None,
            field: FIELD.to_owned(),
        };
        let mut field = false;
        for (name, value) in &options.extra {
            let known = *find(name, &KNOWN)?;
            match known {
                "command" => {
                    let found = COMMANDS
                        .iter()
                        .find(|(name, _)| name.eq_ignore_ascii_case(value));
                    let Some((_, command)) = found else {
                        let names: Vec<_> = COMMANDS.iter().map(|(name, _)| *name).collect();
                        return Err(wrong(
                            known,
                            format!("found `{}`; Allowed: {}", short(value), names.join(", ")),
                        ));
                    };
                    manner.command = *command;
                }
                "expiration" => {
                    let (least, most) = (
                        Duration::from_millis(1),
                        Duration::from_secs(100 * 365 * 24 * 3600),
                    );
                    manner.expiration = Some(time(known, value, least, most)?);
                }
                "maxLen" => {
                    let number = value.parse().ok().filter(|number| *number > 0);
                    manner.max_len =
                        Some(number.ok_or_else(|| wrong(known, "must be a whole number above 0"))?);
                }
                _ if value.is_empty() => return Err(wrong(known, "must not be empty")),
                _ => {
                    manner.field.clone_from(value);
                    field = true;
                }
            }
        }
        if options.retain {
            return Err(ConnectionError::misconfigured(
                "option",
                "Redis keeps no retained messages: leave `retain` out",
            ));
        }
        let stream = manner.command == Command::Xadd;
        if !stream && (manner.max_len.is_some() || field) {
            return Err(wrong(
                "maxLen",
                "and `field` go with the command `xadd` only",
            ));
        }
        let keeps = matches!(
            manner.command,
            Command::Set | Command::Lpush | Command::Rpush
        );
        if manner.expiration.is_some() && !keeps {
            return Err(wrong(
                "expiration",
                "goes with the commands `set`, `lpush` and `rpush` only",
            ));
        }
        Ok(manner)
    }
}

fn find<'a>(name: &str, known: &'a [&'static str]) -> Result<&'a &'static str, ConnectionError> {
    let found = known.iter().find(|known| known.eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let hint = nearest(name, known.iter().copied())
            .map(|meant| format!("did you mean `{meant}`? "))
            .unwrap_or_default();
        ConnectionError::misconfigured(
            "option",
            format!(
                "Redis knows no option `{}` here; {hint}Allowed: {}",
                short(name),
                known.join(", ")
            ),
        )
    })
}

fn time(
    name: &str,
    value: &str,
    least: Duration,
    most: Duration,
) -> Result<Duration, ConnectionError> {
    let time = parse_duration(value).filter(|time| (least..=most).contains(time));
    time.ok_or_else(|| {
        wrong(
            name,
            format!(
                "found `{}`; it must be a time such as 10s, from {least:?} on",
                short(value)
            ),
        )
    })
}

fn wrong(option: &str, why: impl std::fmt::Display) -> ConnectionError {
    ConnectionError::misconfigured("option", format!("the option `{option}` {why}"))
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(extra: &[(&str, &str)]) -> Vec<(String, String)> {
        extra
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn subscribe(
        filter: &str,
        extra: &[(&str, &str)],
    ) -> Result<(Wanted, Reading), ConnectionError> {
        let options = SubscribeOptions {
            extra: pairs(extra),
            ..SubscribeOptions::default()
        };
        wanted(&[filter.to_owned()], &options).map(|mut wanted| wanted.remove(0))
    }

    #[test]
    fn a_group_makes_it_a_stream_and_wildcards_make_it_a_pattern() {
        assert_eq!(subscribe("a", &[]).unwrap().0, Wanted::Channel("a".into()));
        assert_eq!(
            subscribe("a.*", &[]).unwrap().0,
            Wanted::Pattern("a.*".into())
        );
        let extra = [
            ("Group", "g"),
            ("consumer", "c"),
            ("from", "all"),
            ("field", "f"),
            ("claimIdle", "1m"),
        ];
        let (Wanted::Stream(group), reading) = subscribe("a*", &extra).unwrap() else {
            panic!()
        };
        assert_eq!(
            (
                group.key.as_str(),
                group.group.as_str(),
                reading.from.as_str()
            ),
            ("a*", "g", "0")
        );
        assert_eq!(reading.claim_idle, Duration::from_secs(60));
        assert_eq!(
            reading.differences(&Reading::default()),
            ["from", "field", "claimIdle"]
        );
        let (same, _) = subscribe("a*", &[("group", "g"), ("consumer", "c")]).unwrap();
        assert_eq!(
            same,
            Wanted::Stream(group),
            "the server knows one consumer by that name, however it is read"
        );
        for (filter, extra) in [
            ("", &[][..]),
            ("a", &[("consumer", "c")]),
            ("a", &[("group", "")]),
            ("a", &[("group", "g"), ("from", "yesterday")]),
            ("a", &[("group", "g"), ("claimIdle", "1s")]),
            ("a", &[("grup", "g")]),
        ] {
            let error = subscribe(filter, extra).unwrap_err();
            assert_eq!(
                error.kind,
                crate::error::ErrorKind::Misconfigured,
                "{extra:?}"
            );
        }
        let why = subscribe("a", &[("grup", "g")]).unwrap_err().message;
        assert!(why.contains("did you mean `group`"), "{why}");
    }

    #[test]
    fn a_command_has_the_options_that_make_sense_for_it() {
        let read = |extra: &[(&str, &str)]| {
            Manner::read(&PublishOptions {
                extra: pairs(extra),
                ..PublishOptions::default()
            })
        };
        assert_eq!(read(&[]).unwrap().command, Command::Publish);
        let set = read(&[("command", "SET"), ("expiration", "10s")]).unwrap();
        assert_eq!(
            (set.command, set.expiration),
            (Command::Set, Some(Duration::from_secs(10)))
        );
        let add = read(&[("command", "xadd"), ("maxLen", "1000"), ("field", "f")]).unwrap();
        assert_eq!((add.max_len, add.field.as_str()), (Some(1000), "f"));
        for wrong in [
            &[("command", "get")][..],
            &[("expiration", "10s")],
            &[("command", "set"), ("expiration", "soon")],
            &[("command", "set"), ("maxLen", "1")],
            &[("command", "xadd"), ("maxLen", "0")],
            &[("ttl", "1s")],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
