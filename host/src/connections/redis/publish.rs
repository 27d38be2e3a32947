//! Messages out: a command for each, the subject as its channel or key, many under way at once.

use std::collections::BTreeSet;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};

use super::asked::{Command, Manner};
use super::{Shared, fault};
use crate::connections::PublishOptions;
use crate::error::ConnectionError;
use crate::message::{Batch, Message, Rejection};

/// Messages whose answers are awaited at once.
const IN_FLIGHT: usize = 256;

/// Publishes a batch over a link.
///
/// # Errors
/// None is known to be published. Where some are, the others are rejected one by one.
pub(super) async fn publish(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
    batch: &Batch,
    options: &PublishOptions,
    manner: &Manner,
) -> Result<Vec<Rejection>, ConnectionError> {
    let mut rejections = Vec::new();
    let messages: Vec<(u32, &Message)> = (0..).zip(batch.iter()).collect();
    for (place, messages) in messages.chunks(IN_FLIGHT).enumerate() {
        let mut pipeline = Pipeline::with_capacity(messages.len());
        // The messages in the pipeline, and how many commands each has there.
        let mut sent = Vec::with_capacity(messages.len());
        for (index, message) in messages {
            let subject = options.subject.as_deref().unwrap_or(&message.subject);
            if subject.is_empty() {
                rejections.push(Rejection {
                    index: *index,
                    error: ConnectionError::permanent("key", "the message has no channel or key"),
                });
                continue;
            }
            let commands = commands(manner, subject, message);
            sent.push((*index, *message, commands.len()));
            for command in commands {
                pipeline.add_command(command);
            }
        }
        let count = pipeline.len();
        let answers = connection.send_packed_commands(&pipeline, 0, count).await;
        let mut answers = match answers {
            Ok(answers) => answers.into_iter(),
            Err(error) => {
                let error = fault::command(&error);
                return unsent(rejections, place * IN_FLIGHT, batch.len(), error);
            }
        };
        for (index, message, commands) in sent {
            let refused = answers
                .by_ref()
                .take(commands)
                .find_map(|answer| match answer {
                    Value::ServerError(error) => Some(fault::refused(&error)),
                    _ => None,
                });
            match refused {
                Some(error) => rejections.push(Rejection { index, error }),
                None => shared.sent(message),
            }
        }
    }
    Ok(rejections)
}

/// What is said of a batch of which the messages from `first` on may not have arrived. If others have,
/// those are not said to have failed: they would come twice.
fn unsent(
    mut rejections: Vec<Rejection>,
    first: usize,
    all: usize,
    error: ConnectionError,
) -> Result<Vec<Rejection>, ConnectionError> {
    if first == 0 {
        return Err(error);
    }
    let places = (first..all).filter_map(|place| u32::try_from(place).ok());
    // One that can never be sent has its rejection already.
    let known: BTreeSet<u32> = rejections.iter().map(|known| known.index).collect();
    let others = places.filter(|place| !known.contains(place));
    rejections.extend(others.map(|index| Rejection {
        index,
        error: error.clone(),
    }));
    Ok(rejections)
}

fn commands(manner: &Manner, subject: &str, message: &Message) -> Vec<Cmd> {
    let payload: &[u8] = &message.payload;
    let named = |name: &str| {
        let mut command = redis::cmd(name);
        command.arg(subject);
        command
    };
    let milliseconds = manner
        .expiration
        .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    match manner.command {
        Command::Publish => vec![named("PUBLISH").arg(payload).take()],
        Command::Del => vec![named("DEL")],
        Command::Lpop => vec![named("LPOP")],
        Command::Set => {
            let mut set = named("SET");
            set.arg(payload);
            if let Some(milliseconds) = milliseconds {
                set.arg("PX").arg(milliseconds);
            }
            vec![set]
        }
        Command::Lpush | Command::Rpush => {
            let name = if manner.command == Command::Lpush {
                "LPUSH"
            } else {
                "RPUSH"
            };
            let mut commands = vec![named(name).arg(payload).take()];
            if let Some(milliseconds) = milliseconds {
                commands.push(named("PEXPIRE").arg(milliseconds).take());
            }
            commands
        }
        Command::Xadd => {
            let mut add = named("XADD");
            if let Some(most) = manner.max_len {
                add.arg("MAXLEN").arg("~").arg(most);
            }
            add.arg("*").arg(&manner.field).arg(payload);
            for (name, value) in message.headers.pairs() {
                if *name != manner.field {
                    add.arg(name).arg(value);
                }
            }
            vec![add]
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn packed(manner: &Manner, message: &Message) -> Vec<String> {
        commands(manner, "k", message)
            .iter()
            .map(|command| {
                let bytes = command.get_packed_command();
                let text = String::from_utf8(bytes).unwrap();
                let words = text
                    .split("\r\n")
                    .filter(|word| !word.starts_with(['*', '$']));
                words.collect::<Vec<_>>().join(" ").trim().to_owned()
            })
            .collect()
    }

    #[test]
    fn what_was_written_before_the_link_broke_is_not_said_to_have_failed() {
        let lost = fault::lost;
        assert!(unsent(Vec::new(), 0, 300, lost()).is_err());
        let refused = |index| Rejection {
            index,
            error: ConnectionError::permanent("key", "no key"),
        };
        let rejected = unsent(vec![refused(7), refused(256)], 256, 300, lost()).unwrap();
        let places: Vec<u32> = rejected.iter().map(|one| one.index).collect();
        assert_eq!(places[..4], [7, 256, 257, 258]);
        assert_eq!(places.len(), 1 + 44);
        assert_eq!(rejected[1].error.code, "key");
    }

    #[test]
    fn each_command_says_what_redis_wants() {
        let message = Message {
            headers: vec![
                ("h".to_owned(), "v".to_owned()),
                ("f".to_owned(), "x".to_owned()),
            ]
            .into(),
            ..Message::new("p")
        };
        let manner = |command, expiration, max_len| Manner {
            command,
            expiration,
            max_len,
            field: "f".to_owned(),
        };
        let second = Some(Duration::from_secs(1));
        for (command, expiration, wanted) in [
            (Command::Publish, None, &["PUBLISH k p"][..]),
            (Command::Set, None, &["SET k p"]),
            (Command::Set, second, &["SET k p PX 1000"]),
            (Command::Lpush, None, &["LPUSH k p"]),
            (Command::Rpush, second, &["RPUSH k p", "PEXPIRE k 1000"]),
            (Command::Del, None, &["DEL k"]),
            (Command::Lpop, None, &["LPOP k"]),
        ] {
            assert_eq!(packed(&manner(command, expiration, None), &message), wanted);
        }
        // The packed form begins with `*`, as does the id; so it is missing here.
        let add = packed(&manner(Command::Xadd, None, Some(9)), &message);
        assert_eq!(add, ["XADD k MAXLEN ~ 9 f p h v"]);
    }
}
