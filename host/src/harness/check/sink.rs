//! The checks of a sink.

use std::time::Duration;

use tokio::time::Instant;

use super::bench::{Bench, KEPT_HANDLES, grown, handed_on, odd, words};
use super::{Finding, Promise};
use crate::connections::SqlValue;
use crate::error::ErrorKind;
use crate::harness::scripted::{Call, Deed};
use crate::message::{Batch, Message, Rejection};
use crate::runtime::GuestError;

pub(super) const PROMISES: [Promise; 8] = [
    (
        "rejections",
        "a rejection points at a message of the batch",
        "count from 0, and only within the batch of this call",
    ),
    (
        "again",
        "a batch that was written may be written again",
        "after a kill the host writes a batch again: overwrite or ignore what is there",
    ),
    (
        "empty-batch",
        "an empty batch is no error",
        "return at once when the batch is empty",
    ),
    (
        "recycling",
        "it does the same when it gets a new instance between any two writes",
        "keep no state from write to write; write all of a batch before you return",
    ),
    (
        "handles",
        "it lets go of the batch of a write that is over",
        "drop the batch that you get, and every one that you make",
    ),
    (
        "memory",
        "its memory does not grow from write to write",
        "free what you allocate; an instance is replaced when it grows, which costs time",
    ),
    (
        "load",
        "1000 messages of 1 KB, one of 1 MB and payloads that nobody expects neither trap nor break its limits",
        "reject a message that you cannot write (kind permanent); do not panic or throw",
    ),
    (
        "errors",
        "an error of a connection is handed on with its kind",
        "return the host's error as it is (`?` in Rust, raise or throw it again elsewhere)",
    ),
];

const SPELL: Duration = Duration::from_secs(3);

type Found = Result<Finding, GuestError>;

pub(super) async fn look(bench: &Bench, name: &str) -> Finding {
    let found = match name {
        "rejections" => rejections(bench).await,
        "again" => again(bench).await,
        "empty-batch" => empty(bench).await,
        "recycling" => recycling(bench).await,
        "handles" => handles(bench).await,
        "memory" => memory(bench).await,
        "load" => load(bench).await,
        _ => errors(bench).await,
    };
    found.unwrap_or_else(|error| Finding::Fail(words(&error)))
}

/// A batch of which some messages can be written and some perhaps not.
fn mixed(bench: &Bench) -> Batch {
    let mut messages = bench.batch(0, 3).to_vec();
    for (_, payload) in odd() {
        messages.push(Message {
            subject: "check/1".into(),
            ..Message::new(payload)
        });
    }
    messages.into()
}

async fn rejections(bench: &Bench) -> Found {
    let rig = bench.rig_of(true);
    let mut sink = bench.sink(&rig).await?;
    // The runtime itself refuses a place outside of the batch.
    let found = sink.write(mixed(bench)).await?;
    Ok(Finding::Pass(format!(
        "{} of 8 messages rejected",
        found.len()
    )))
}

fn first(rejections: &[Rejection]) -> Option<String> {
    let one = rejections.first()?;
    Some(format!(
        "message {} was rejected: {}",
        one.index, one.error.message
    ))
}

async fn again(bench: &Bench) -> Found {
    let rig = bench.rig_of(true);
    let mut sink = bench.sink(&rig).await?;
    let batch = bench.batch(0, 5);
    let before = sink.write(batch.clone()).await?;
    let after = sink.write(batch).await?;
    if after.len() > before.len() {
        let words = first(&after).unwrap_or_default();
        return Ok(Finding::Fail(format!("the second time {words}")));
    }
    Ok(Finding::pass())
}

async fn empty(bench: &Bench) -> Found {
    let rig = bench.rig_of(true);
    let mut sink = bench.sink(&rig).await?;
    let rejected = sink.write(Batch::default()).await?;
    Ok(match rejected.is_empty() {
        true => Finding::pass(),
        false => Finding::Fail("it rejected a message of an empty batch".to_owned()),
    })
}

/// What was asked of the connections, message by message where the order of batches does not matter.
fn deeds(calls: Vec<Call>) -> Vec<String> {
    let sql = |values: &Vec<SqlValue>| format!("{values:?}");
    calls
        .into_iter()
        .flat_map(|call| match call.deed {
            Deed::Subscribe(filters, _) => vec![format!("subscribe {filters:?}")],
            Deed::Publish(batch, options) => batch
                .iter()
                .map(|one| {
                    let subject = options.subject.as_deref().unwrap_or(&one.subject);
                    format!("publish to {subject}: {:?}", one.payload)
                })
                .collect(),
            Deed::Request(request) => vec![format!(
                "{} {}: {:?}",
                request.method, request.path, request.body
            )],
            Deed::Query(statement, params) => vec![format!("{statement} {}", sql(&params))],
            Deed::Execute(statement, rows) => rows
                .iter()
                .map(|row| format!("{statement} {}", sql(row)))
                .collect(),
        })
        .collect()
}

async fn run(bench: &Bench, recycle: bool) -> Result<Vec<String>, GuestError> {
    let rig = bench.rig_of(true);
    let mut sink = bench.sink(&rig).await?;
    sink.recycle_each(recycle);
    for number in 0..4 {
        sink.write(bench.batch(number * 3, 3)).await?;
    }
    sink.close().await;
    Ok(deeds(rig.record.take()))
}

async fn recycling(bench: &Bench) -> Found {
    let expected = run(bench, false).await?;
    if expected != run(bench, false).await? {
        return Ok(Finding::Skip(
            "two runs do not do the same: they depend on time or chance".to_owned(),
        ));
    }
    let got = run(bench, true).await?;
    let place =
        (0..expected.len().max(got.len())).find(|place| expected.get(*place) != got.get(*place));
    Ok(match place {
        None => Finding::Pass(format!("{} messages or calls", got.len())),
        Some(place) => {
            let text = |one: Option<&String>| {
                one.map_or_else(
                    || "nothing".to_owned(),
                    |text| text.chars().take(120).collect(),
                )
            };
            Finding::Fail(format!(
                "with a new instance for each write it does {:?}, and without {:?}",
                text(got.get(place)),
                text(expected.get(place))
            ))
        }
    })
}

/// Writes again and again; how many writes that were.
async fn many(
    bench: &Bench,
    sink: &mut crate::harness::alone::Sink,
    rig: &super::bench::Rig,
    most: u32,
) -> Result<u32, GuestError> {
    let ends = Instant::now() + SPELL;
    let batch = bench.batch(0, 10);
    let mut writes = 0;
    while writes < most && Instant::now() < ends {
        sink.write(batch.clone()).await?;
        writes += 1;
        // The record is not what is looked at.
        drop(rig.record.take());
    }
    Ok(writes)
}

async fn handles(bench: &Bench) -> Found {
    let bench = bench.strict_on_handles();
    let rig = bench.rig_of(true);
    let mut sink = bench.sink(&rig).await?;
    let writes = many(&bench, &mut sink, &rig, 200).await?;
    Ok(match sink.counts().for_handles {
        0 => Finding::Pass(format!("{writes} writes")),
        replaced => Finding::Fail(format!(
            "it was replaced {replaced} times in {writes} writes for keeping {KEPT_HANDLES} batches and more"
        )),
    })
}

async fn memory(bench: &Bench) -> Found {
    let rig = bench.rig_of(true);
    let mut sink = bench.sink(&rig).await?;
    many(bench, &mut sink, &rig, 20).await?;
    let before = sink.counts();
    let writes = many(bench, &mut sink, &rig, 2_000).await?;
    Ok(grown(before, sink.counts(), writes, "writes"))
}

async fn load(bench: &Bench) -> Found {
    let padded = |batch: Batch, by: usize| -> Batch {
        let pad = |one: &Message| {
            let mut payload = one.payload.to_vec();
            payload.resize(payload.len() + by, b' ');
            Message {
                payload: payload.into(),
                ..one.clone()
            }
        };
        batch.iter().map(pad).collect::<Vec<_>>().into()
    };
    let mut batches = vec![
        (
            "1000 messages of 1 KB",
            padded(bench.batch(0, 1000), 1 << 10),
        ),
        ("a message of 1 MB", padded(bench.batch(0, 1), 1 << 20)),
    ];
    for (what, payload) in odd() {
        let message = Message {
            subject: "check/1".into(),
            ..Message::new(payload)
        };
        batches.push((what, vec![message].into()));
    }
    let rig = bench.rig_of(true);
    let mut sink = bench.sink(&rig).await?;
    for (what, batch) in batches {
        match sink.write(batch).await {
            Ok(_) => {}
            Err(GuestError::Said { error, .. }) if error.kind == ErrorKind::Permanent => {}
            Err(error) => return Ok(Finding::Fail(format!("{what}: {}", words(&error)))),
        }
    }
    Ok(Finding::Pass(format!(
        "{} ms on the processor",
        sink.counts().cpu.as_millis()
    )))
}

async fn errors(bench: &Bench) -> Found {
    if !bench.has_slots() {
        return Ok(Finding::Skip("it needs no connection".to_owned()));
    }
    let rig = bench.rig_of(false);
    let mut sink = match bench.sink(&rig).await {
        Ok(sink) => sink,
        Err(error) => return Ok(handed_on(Err(error))),
    };
    let written = sink.write(bench.batch(0, 2)).await;
    if rig.record.calls().is_empty() {
        return Ok(Finding::Skip(
            "it asked nothing of its connections".to_owned(),
        ));
    }
    Ok(match written {
        Err(error) => handed_on(Err(error)),
        Ok(rejected)
            if rejected.len() == 2
                && rejected
                    .iter()
                    .all(|one| one.error.kind == ErrorKind::Disconnected) =>
        {
            Finding::Pass("as a rejection of each message".to_owned())
        }
        Ok(rejected) => handed_on(Ok(match first(&rejected) {
            Some(words) => words,
            None => "it says that all is written".to_owned(),
        })),
    })
}
