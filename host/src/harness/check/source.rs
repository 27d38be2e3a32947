//! The checks of a source.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::bench::{Bench, KEPT_HANDLES, Rig, odd, words};
use super::{Finding, Promise};
use crate::error::ErrorKind;
use crate::harness::alone::Source;
use crate::message::Message;
use crate::runtime::{GuestError, Read};

pub(super) const PROMISES: [Promise; 9] = [
    (
        "wake",
        "it comes back from a read within a second when the host asks for it",
        "return what you have, or nothing, as soon as `receive` answers with an empty batch; never wait elsewhere",
    ),
    (
        "idle",
        "with nothing to read it leaves the waiting to the host",
        "wait in `receive`, or answer `idle` with the time until there may be more",
    ),
    (
        "recycling",
        "it gives the same messages when it gets a new instance between any two reads",
        "keep no state from read to read but in the checkpoint",
    ),
    (
        "resume",
        "killed after a read, it goes on at its checkpoint: nothing is lost, and only what was not settled comes again",
        "answer with a checkpoint that says where to go on after that batch, and begin there in `open`",
    ),
    (
        "handles",
        "it lets go of the batches of a read that is over",
        "drop every batch that you do not return; keep none in a variable that outlives the read",
    ),
    (
        "memory",
        "its memory does not grow from read to read",
        "free what you allocate; an instance is replaced when it grows, which costs time",
    ),
    (
        "load",
        "1000 messages of 1 KB, and one of 1 MB, stay within its limits of time and memory",
        "look at `columns` or `texts` in place of messages one by one, or hand the batch on as it is",
    ),
    (
        "odd-payloads",
        "no payload makes it trap, whatever is in it",
        "answer with an error of kind permanent, or leave the message out; do not panic or throw",
    ),
    (
        "errors",
        "an error of a connection is handed on with its kind",
        "return the host's error as it is (`?` in Rust, raise or throw it again elsewhere)",
    ),
];

/// After so long without a message it is asked to come back.
const QUIET: Duration = Duration::from_millis(200);
/// A source without a connection is read for so long.
const SPELL: Duration = Duration::from_secs(3);

/// What is compared of a message.
type Line = (Bytes, String, Vec<(String, String)>);

fn line(message: &Message) -> Line {
    let headers = message.headers.pairs().to_vec();
    (
        message.payload.clone(),
        message.subject.to_string(),
        headers,
    )
}

pub(super) async fn look(bench: &Bench, name: &str) -> Finding {
    let found = match name {
        "wake" => wake(bench).await,
        "idle" => idle(bench).await,
        "recycling" => recycling(bench).await,
        "resume" => resume(bench).await,
        "handles" => handles(bench).await,
        "memory" => memory(bench).await,
        "load" => load(bench).await,
        "odd-payloads" => odd_payloads(bench).await,
        _ => errors(bench).await,
    };
    found.unwrap_or_else(|error| Finding::Fail(words(&error)))
}

type Found = Result<Finding, GuestError>;

/// Messages from a number of reads.
#[derive(Debug, Default)]
struct Drained {
    lines: Vec<Line>,
    checkpoint: Option<String>,
    finished: bool,
}

/// Reads until nothing more is there, `most` messages came, or `ends`. Settles unless told not to.
async fn drain(
    source: &mut Source,
    most: usize,
    ends: Instant,
    fed: bool,
    settle: bool,
) -> Result<Drained, GuestError> {
    let mut drained = Drained::default();
    let mut empty = 0;
    while drained.lines.len() < most && Instant::now() < ends && empty < 1000 {
        let (read, woken) = source.read(QUIET).await;
        match read? {
            Read::Messages {
                batch,
                checkpoint,
                takes,
            } => {
                drained.lines.extend(batch.iter().map(line));
                drained.checkpoint = checkpoint.or(drained.checkpoint);
                if settle {
                    takes.settle();
                }
                empty = if batch.is_empty() { empty + 1 } else { 0 };
                if batch.is_empty() && woken && source.waiting() == 0 {
                    break;
                }
            }
            Read::Idle(_) if fed && source.waiting() == 0 => break,
            Read::Idle(wait) => tokio::time::sleep_until((Instant::now() + wait).min(ends)).await,
            Read::Finished => {
                drained.finished = true;
                break;
            }
        }
    }
    Ok(drained)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(15)
}

/// It takes messages from a connection, which can be given to it.
fn is_fed(rig: &Rig) -> bool {
    rig.record
        .calls()
        .iter()
        .any(|call| matches!(call.deed, crate::harness::scripted::Deed::Subscribe(..)))
}

async fn wake(bench: &Bench) -> Found {
    let rig = bench.rig_of(true);
    let mut source = bench.source(&rig, None).await?;
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        let began = Instant::now();
        let (read, woken) = source.read(QUIET).await;
        let took = began
            .elapsed()
            .saturating_sub(if woken { QUIET } else { Duration::ZERO });
        if matches!(read?, Read::Finished) {
            return Ok(Finding::Pass("it has finished".to_owned()));
        }
        slowest = slowest.max(took);
    }
    let words = format!("within {} ms", slowest.as_millis());
    Ok(match slowest <= Duration::from_secs(1) {
        true => Finding::Pass(words),
        false => Finding::Fail(format!("it came back after {} ms", slowest.as_millis())),
    })
}

async fn idle(bench: &Bench) -> Found {
    const SPAN: Duration = Duration::from_millis(600);
    const MOST: u32 = 100;
    let rig = bench.rig_of(true);
    let mut source = bench.source(&rig, None).await?;
    let ends = Instant::now() + SPAN;
    let mut busy = 0_u32;
    while let Some(left) = ends
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        let (read, woken) = source.read(left).await;
        match read? {
            Read::Messages { batch, takes, .. } => {
                takes.settle();
                // With something to read, the check goes on with what comes after it.
                busy += u32::from(batch.is_empty() && !woken);
            }
            Read::Idle(wait) => {
                busy += u32::from(wait.is_zero());
                tokio::time::sleep(wait.max(Duration::from_millis(1)).min(left)).await;
            }
            Read::Finished => break,
        }
    }
    Ok(match busy > MOST {
        true => Finding::Fail(format!(
            "{busy} reads came back at once with nothing in {} ms",
            SPAN.as_millis()
        )),
        false => Finding::pass(),
    })
}

const PORTIONS: usize = 4;
const PORTION: usize = 3;

/// All messages of a run without an end in between.
async fn whole(bench: &Bench, recycle: bool, most: usize) -> Result<(Vec<Line>, bool), GuestError> {
    let rig = bench.rig_of(true);
    let mut source = bench.source(&rig, None).await?;
    source.recycle_each(recycle);
    let fed = is_fed(&rig);
    let mut lines = Vec::new();
    if fed {
        for portion in 0..PORTIONS {
            rig.give(&bench.messages(portion * PORTION, PORTION));
            lines.extend(
                drain(&mut source, usize::MAX, soon(), true, true)
                    .await?
                    .lines,
            );
        }
    } else {
        let ends = Instant::now() + SPELL;
        lines = drain(&mut source, most, ends, false, true).await?.lines;
        lines.truncate(most);
    }
    source.close().await;
    Ok((lines, fed))
}

/// Two runs that should be the same, or why they cannot be compared.
async fn twice(bench: &Bench) -> Result<Result<(Vec<Line>, bool), Finding>, GuestError> {
    let (first, fed) = whole(bench, false, 4).await?;
    if first.is_empty() {
        return Ok(Err(Finding::Skip(match fed {
            true => {
                "with these messages it gives none; give some that it understands with --sample"
                    .to_owned()
            }
            false => "it gives no message here".to_owned(),
        })));
    }
    let (second, _) = whole(bench, false, first.len()).await?;
    if first != second {
        return Ok(Err(Finding::Skip(
            "two runs do not give the same messages: they depend on time or chance".to_owned(),
        )));
    }
    Ok(Ok((first, fed)))
}

/// The first place where two runs are not the same.
fn differ(expected: &[Line], got: &[Line], how: &str) -> Option<String> {
    let text = |line: Option<&Line>| match line {
        Some((payload, ..)) => format!(
            "{:?}",
            String::from_utf8_lossy(payload)
                .chars()
                .take(80)
                .collect::<String>()
        ),
        None => "nothing".to_owned(),
    };
    (0..expected.len().max(got.len())).find_map(|place| {
        let (one, other) = (expected.get(place), got.get(place));
        (one != other).then(|| {
            format!(
                "message {} of {} is {} {how}, and {} without",
                place + 1,
                expected.len(),
                text(other),
                text(one)
            )
        })
    })
}

async fn recycling(bench: &Bench) -> Found {
    let (expected, _) = match twice(bench).await? {
        Ok(found) => found,
        Err(skip) => return Ok(skip),
    };
    let (got, _) = whole(bench, true, expected.len()).await?;
    Ok(
        match differ(&expected, &got, "with a new instance for each read") {
            Some(words) => Finding::Fail(words),
            None => Finding::Pass(format!("{} messages", got.len())),
        },
    )
}

async fn resume(bench: &Bench) -> Found {
    let (expected, fed) = match twice(bench).await? {
        Ok(found) => found,
        Err(skip) => return Ok(skip),
    };
    if !fed && bench.has_slots() {
        return Ok(Finding::Skip(
            "what these connections answer does not depend on where it goes on; try it in a test with `resume`".to_owned(),
        ));
    }
    let rig = bench.rig_of(true);
    let mut source = bench.source(&rig, None).await?;
    let mut got = Vec::new();
    let mut checkpoint = None;
    if fed {
        for portion in 0..PORTIONS {
            rig.give(&bench.messages(portion * PORTION, PORTION));
            if portion + 2 < PORTIONS {
                let drained = drain(&mut source, usize::MAX, soon(), true, true).await?;
                got.extend(drained.lines);
                checkpoint = drained.checkpoint.or(checkpoint);
            } else if portion + 2 == PORTIONS {
                // Read and not settled: it comes again after the kill.
                drain(&mut source, usize::MAX, soon(), true, false).await?;
            }
        }
    } else {
        let ends = Instant::now() + SPELL;
        let drained = drain(&mut source, 1, ends, false, true).await?;
        got.extend(drained.lines);
        checkpoint = drained.checkpoint;
        if !drained.finished {
            drain(&mut source, 1, ends, false, false).await?;
        }
        if checkpoint.is_none() {
            return Ok(Finding::Skip(
                "it has no connection and no checkpoint".to_owned(),
            ));
        }
    }
    drop(source);
    let kept = got.len();
    let mut source = bench.source(&rig, checkpoint.clone()).await?;
    let ends = if fed { soon() } else { Instant::now() + SPELL };
    let most = if fed {
        usize::MAX
    } else {
        expected.len().saturating_sub(kept).max(1)
    };
    got.extend(drain(&mut source, most, ends, fed, true).await?.lines);
    source.close().await;
    if !fed {
        got.truncate(expected.len());
    }
    let at = checkpoint.map_or_else(
        || "without a checkpoint".to_owned(),
        |text| format!("at \"{text}\""),
    );
    Ok(
        match differ(&expected, &got, &format!("after a kill, resumed {at},")) {
            Some(words) => Finding::Fail(words),
            None => Finding::Pass(format!(
                "{kept} settled, resumed {at}, {} in all",
                got.len()
            )),
        },
    )
}

/// Reads again and again, each time with messages if it takes some; how many reads that were.
async fn many(
    source: &mut Source,
    bench: &Bench,
    rig: &Rig,
    most: u32,
    span: Duration,
) -> Result<u32, GuestError> {
    let fed = is_fed(rig);
    let ends = Instant::now() + span;
    let mut reads = 0;
    while reads < most && Instant::now() < ends {
        if fed && source.waiting() == 0 {
            rig.give(&bench.messages(0, 10));
        }
        let (read, _) = source.read(QUIET).await;
        reads += 1;
        match read? {
            Read::Messages { takes, .. } => takes.settle(),
            Read::Idle(wait) if !fed => {
                tokio::time::sleep_until((Instant::now() + wait).min(ends)).await
            }
            Read::Idle(_) => {}
            Read::Finished => break,
        }
    }
    Ok(reads)
}

async fn handles(bench: &Bench) -> Found {
    let bench = bench.strict_on_handles();
    let rig = bench.rig_of(true);
    let mut source = bench.source(&rig, None).await?;
    let reads = many(&mut source, &bench, &rig, 200, SPELL).await?;
    let replaced = source.counts().for_handles;
    Ok(match replaced {
        0 if reads <= 2 => Finding::Skip("it gives too little to be seen".to_owned()),
        0 => Finding::Pass(format!("{reads} reads")),
        _ => Finding::Fail(format!(
            "it was replaced {replaced} times in {reads} reads for keeping {KEPT_HANDLES} batches and more"
        )),
    })
}

async fn memory(bench: &Bench) -> Found {
    let rig = bench.rig_of(true);
    let mut source = bench.source(&rig, None).await?;
    many(&mut source, bench, &rig, 20, SPELL).await?;
    let before = source.counts();
    let reads = many(&mut source, bench, &rig, 2_000, SPELL).await?;
    Ok(super::bench::grown(before, source.counts(), reads, "reads"))
}

async fn load(bench: &Bench) -> Found {
    let rig = bench.rig_of(true);
    let mut source = bench.source(&rig, None).await?;
    if !is_fed(&rig) {
        return Ok(Finding::Skip(
            "it takes no messages from a connection".to_owned(),
        ));
    }
    let began = Instant::now();
    let padding = " ".repeat(1 << 10);
    let padded = |message: Message, padding: &str| {
        let mut payload = message.payload.to_vec();
        payload.extend_from_slice(padding.as_bytes());
        Message {
            payload: payload.into(),
            ..message
        }
    };
    let messages: Vec<Message> = bench
        .messages(0, 1000)
        .into_iter()
        .map(|one| padded(one, &padding))
        .collect();
    rig.give(&messages);
    let small = settle_all(&mut source).await?;
    let padding = " ".repeat(1 << 20);
    let large: Vec<Message> = bench
        .messages(0, 1)
        .into_iter()
        .map(|one| padded(one, &padding))
        .collect();
    rig.give(&large);
    let large = settle_all(&mut source).await?;
    Ok(Finding::Pass(format!(
        "{} messages came out in {} ms, {} on the processor",
        small + large,
        began.elapsed().saturating_sub(QUIET * 2).as_millis(),
        format_args!("{} ms", source.counts().cpu.as_millis()),
    )))
}

/// Reads all that is there. What the guest says about it is no concern of limits.
async fn settle_all(source: &mut Source) -> Result<usize, GuestError> {
    match drain(source, usize::MAX, soon(), true, true).await {
        Ok(drained) => Ok(drained.lines.len()),
        Err(GuestError::Said { error, .. }) if error.kind == ErrorKind::Permanent => Ok(0),
        Err(error) => Err(error),
    }
}

async fn odd_payloads(bench: &Bench) -> Found {
    for (what, payload) in odd() {
        let rig = bench.rig_of(true);
        let mut source = bench.source(&rig, None).await?;
        if !is_fed(&rig) {
            return Ok(Finding::Skip(
                "it takes no messages from a connection".to_owned(),
            ));
        }
        rig.give(&[Message::new(payload)]);
        match drain(&mut source, usize::MAX, soon(), true, true).await {
            Ok(_) => {}
            Err(GuestError::Said { error, .. }) if error.kind == ErrorKind::Permanent => {}
            Err(GuestError::Said { error, .. }) => {
                return Ok(Finding::Fail(format!(
                    "{what}: it says {}, so the host tries again for ever: {}",
                    error.kind, error.message
                )));
            }
            Err(error) => return Ok(Finding::Fail(format!("{what}: {error}"))),
        }
    }
    Ok(Finding::pass())
}

async fn errors(bench: &Bench) -> Found {
    if !bench.has_slots() {
        return Ok(Finding::Skip("it needs no connection".to_owned()));
    }
    let rig = bench.rig_of(false);
    let mut source = match bench.source(&rig, None).await {
        Ok(source) => source,
        Err(error) => return Ok(super::bench::handed_on(Err(error))),
    };
    if is_fed(&rig) {
        rig.give(&bench.messages(0, 2));
    }
    let (read, _) = source.read(QUIET).await;
    let asked = !rig.record.calls().is_empty();
    Ok(match read {
        _ if !asked => Finding::Skip("it asked nothing of its connections".to_owned()),
        Ok(Read::Messages { batch, .. }) => super::bench::handed_on(Ok(format!(
            "it answered with {} messages as if nothing was wrong",
            batch.len()
        ))),
        Ok(Read::Idle(_)) => {
            super::bench::handed_on(Ok("it answered idle as if nothing was wrong".to_owned()))
        }
        Ok(Read::Finished) => {
            super::bench::handed_on(Ok("it says that it has finished".to_owned()))
        }
        Err(error) => super::bench::handed_on(Err(error)),
    })
}
