//! What a connector costs: time per message by batch size, memory per instance, and whether memory
//! stays flat over many calls. Over connections that never run dry ([`super::feeder`]).
//!
//! Only the calls are timed: what gives the messages and settles them is not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::alone::{Alone, Counts, Sink, Source};
use super::feeder::Feeder;
use crate::interfaces::Grant;
use crate::message::{Batch, Message};
use crate::runtime::{GuestError, Read};

/// Parts of a run; the median of them counts, so that a moment of a busy machine does not.
const PARTS: usize = 5;
/// Instances whose memory is divided by their number.
const INSTANCES: u32 = 8;
/// How long a read that gives nothing may take before the guest is asked back.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longest pause between two reads of a source that says idle.
const IDLE: Duration = Duration::from_secs(1);
/// Calls one after the other that bring nothing: then there is nothing to measure.
const BARREN: u32 = 20;
/// A run ends after so long, however many messages it has brought.
const SPAN: Duration = Duration::from_secs(20);
/// Longest warm-up.
const WARM: Duration = Duration::from_secs(3);
/// Looks at memory in a long run, and how many of them one sample covers.
const LOOKS: u64 = 200;
const LOOKS_PER_SAMPLE: u64 = 10;
/// Growth of resident memory that is noise: bytes, and a part of what is there.
const NOISE: u64 = 4 << 20;
const NOISE_PART: u64 = 20;

/// A connector in one role, ready to be measured.
#[derive(Clone, Debug)]
pub struct Bench {
    alone: Alone,
    is_source: bool,
    config: String,
    payload: Bytes,
}

/// Figures of one batch size.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Messages given to one call.
    pub batch: usize,
    /// Calls that were timed.
    pub calls: u64,
    /// Messages in them: what a source took, or gave where it takes none; what a sink was given.
    pub messages: u64,
    /// Of them, those that a sink rejected.
    pub rejected: u64,
    /// Microseconds per message, the median of several parts. NaN: there were no messages.
    pub us: f64,
    /// The same on the processor within calls, host functions included.
    pub guest_us: f64,
    /// Instances that were replaced meanwhile.
    pub replaced: u64,
    /// Of them, those whose memory had reached its mark.
    pub for_memory: u64,
    /// Of them, those that kept handles of old batches.
    pub for_handles: u64,
    /// Bytes of linear memory at the end.
    pub linear: u64,
}

/// What a fresh instance takes, after its first call.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    /// Bytes of linear memory.
    pub linear: u64,
    /// Bytes of pages of this process that are each instance's own, connections of the measurement
    /// included. None where the system does not say.
    pub private: Option<u64>,
    /// How long an instance takes to be made and opened.
    pub opened_in: Duration,
}

/// Memory in a stretch of a long run: the most that was seen in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Calls so far.
    pub calls: u64,
    /// Bytes resident of this process. None where the system does not say.
    pub resident: Option<u64>,
    /// Bytes of linear memory.
    pub linear: u64,
    /// Instances replaced so far.
    pub replaced: u64,
    /// Of them, those whose memory had reached its mark.
    pub for_memory: u64,
}

/// A long run that has ended.
#[derive(Clone, Debug)]
pub struct Long {
    /// What was done, as in a short run.
    pub run: Run,
    /// In the order in which they were taken.
    pub samples: Vec<Sample>,
    /// Most resident memory in the first half and in the second. None where the system does not say.
    pub halves: Option<(u64, u64)>,
    /// Memory grew from the first half to the second by more than noise, and not in the guest, whose
    /// memory is held by its limit. None where the system does not say.
    pub grew: Option<bool>,
}

/// What one call did.
#[derive(Clone, Copy, Debug, Default)]
struct Called {
    took: Duration,
    messages: u64,
    rejected: u64,
    finished: bool,
}

/// An open guest with what it is fed by.
enum Guest {
    Source(Source, Vec<Arc<Feeder>>),
    Sink(Sink, Batch),
}

impl Guest {
    async fn call(&mut self, batch: usize) -> Result<Called, GuestError> {
        match self {
            Self::Source(source, feeders) => {
                if source.waiting() == 0 {
                    feeders.iter().for_each(|feeder| feeder.give(batch));
                }
                let waiting = source.waiting();
                let began = Instant::now();
                let (read, woken) = source.read(PATIENCE).await;
                let mut called = Called {
                    took: began.elapsed(),
                    ..Called::default()
                };
                match read? {
                    Read::Messages { batch, takes, .. } => {
                        let taken = match takes.len() {
                            0 => batch.len(),
                            taken => taken,
                        };
                        takes.settle();
                        called.messages = taken as u64;
                    }
                    Read::Idle(wait) => {
                        called.messages = waiting.saturating_sub(source.waiting()) as u64;
                        tokio::time::sleep(wait.min(IDLE)).await;
                    }
                    Read::Finished => called.finished = true,
                }
                if woken && called.messages == 0 {
                    called.took = Duration::ZERO;
                }
                Ok(called)
            }
            Self::Sink(sink, batch) => {
                let given = batch.clone();
                let began = Instant::now();
                let rejected = sink.write(given).await?;
                Ok(Called {
                    took: began.elapsed(),
                    messages: batch.len() as u64,
                    rejected: rejected.len() as u64,
                    finished: false,
                })
            }
        }
    }

    fn counts(&self) -> Counts {
        match self {
            Self::Source(source, _) => source.counts(),
            Self::Sink(sink, _) => sink.counts(),
        }
    }

    async fn close(&mut self) {
        match self {
            Self::Source(source, _) => source.close().await,
            Self::Sink(sink, _) => sink.close().await,
        }
    }
}

/// Sums over calls.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    calls: u64,
    messages: u64,
    rejected: u64,
    took: Duration,
    barren: u32,
    finished: bool,
}

impl Sum {
    fn add(&mut self, called: Called) {
        self.calls += 1;
        self.messages += called.messages;
        self.rejected += called.rejected;
        self.took += called.took;
        self.finished |= called.finished;
        self.barren = match called.messages {
            0 => self.barren + 1,
            _ => 0,
        };
    }

    /// Nothing more will come.
    fn over(&self) -> bool {
        self.finished || self.barren >= BARREN
    }
}

impl Bench {
    /// It in one role. `config`: see [`super::properties::apply`]; `payload`: that of every message.
    #[must_use]
    pub fn new(alone: &Alone, is_source: bool, config: String, payload: Bytes) -> Self {
        Self {
            alone: alone.clone(),
            is_source,
            config,
            payload,
        }
    }

    async fn open(&self, batch: usize) -> Result<Guest, GuestError> {
        let portion = u32::try_from(batch).unwrap_or(u32::MAX);
        let message = Message::new(self.payload.clone());
        let slots = &self.alone.connector().descriptor.slots;
        let feeders: Vec<Arc<Feeder>> = slots
            .iter()
            .map(|slot| Feeder::new(&slot.name, slot.interface, message.clone(), portion))
            .collect();
        let grants: Arc<[Grant]> = feeders.iter().map(Feeder::grant).collect();
        if self.is_source {
            let mut source = self.alone.source(self.config.clone(), grants);
            source.open(None).await?;
            return Ok(Guest::Source(source, feeders));
        }
        let mut sink = self.alone.sink(self.config.clone(), grants);
        sink.open().await?;
        let message = Message {
            subject: "bench/1".into(),
            ..message
        };
        Ok(Guest::Sink(sink, Batch::from(vec![message; batch])))
    }

    /// Calls with `batch` messages each until `messages` have gone through, 20 s at most, after a
    /// warm-up. Belongs into [`Alone::run`].
    ///
    /// # Errors
    /// What the guest said, or how it failed.
    pub async fn run(self, batch: usize, messages: u64) -> Result<Run, GuestError> {
        let mut guest = self.open(batch).await?;
        let size = (batch as u64).max(1);
        let began = Instant::now();
        for _ in 0..(messages / 10 / size).clamp(20, 2_000) {
            if guest.call(batch).await?.finished || began.elapsed() > WARM {
                break;
            }
        }
        let before = guest.counts();
        let began = Instant::now();
        let part = messages.div_ceil(PARTS as u64).max(1);
        let mut parts = Vec::new();
        let mut all = Sum::default();
        while all.messages < messages && !all.over() && began.elapsed() < SPAN {
            let cpu = guest.counts().cpu;
            let mut sum = Sum::default();
            while sum.messages < part && !sum.over() && began.elapsed() < SPAN {
                let called = guest.call(batch).await?;
                sum.add(called);
                all.add(called);
            }
            if sum.messages > 0 {
                let cpu = guest.counts().cpu.saturating_sub(cpu);
                parts.push((per(sum.took, sum.messages), per(cpu, sum.messages)));
            }
        }
        let run = summary(batch, &all, &parts, before, guest.counts());
        guest.close().await;
        Ok(run)
    }

    /// Makes several instances, each of which has done one call, and sees what they take. Belongs
    /// into [`Alone::run`].
    ///
    /// # Errors
    /// What the guest said, or how it failed.
    pub async fn footprint(self) -> Result<Footprint, GuestError> {
        // The first one brings in what all have in common.
        let mut guests = vec![self.open(1).await?];
        for guest in &mut guests {
            guest.call(1).await?;
        }
        let before = private();
        let mut opening = Duration::ZERO;
        for _ in 0..INSTANCES {
            let began = Instant::now();
            let mut guest = self.open(1).await?;
            opening += began.elapsed();
            guest.call(1).await?;
            guests.push(guest);
        }
        let after = private();
        let linear = guests.last().map_or(0, |guest| guest.counts().memory);
        for guest in &mut guests {
            guest.close().await;
        }
        Ok(Footprint {
            linear,
            private: before
                .zip(after)
                .map(|(before, after)| after.saturating_sub(before) / u64::from(INSTANCES)),
            opened_in: opening / INSTANCES,
        })
    }

    /// `calls` calls with `batch` messages each; a sample of memory after each twentieth of them.
    /// Belongs into [`Alone::run`].
    ///
    /// # Errors
    /// What the guest said, or how it failed.
    pub async fn long(
        self,
        batch: usize,
        calls: u64,
        tell: mpsc::Sender<Sample>,
    ) -> Result<Long, GuestError> {
        let mut guest = self.open(batch).await?;
        let before = guest.counts();
        let step = calls.div_ceil(LOOKS).max(1);
        let mut all = Sum::default();
        let mut samples = Vec::new();
        let mut sample = Sample::default();
        let mut looks = 0;
        while all.calls < calls && !all.over() {
            all.add(guest.call(batch).await?);
            if !all.calls.is_multiple_of(step) && all.calls < calls {
                continue;
            }
            looks += 1;
            let counts = guest.counts();
            sample = Sample {
                calls: all.calls,
                resident: resident().max(sample.resident),
                linear: counts.memory.max(sample.linear),
                replaced: counts.instances.saturating_sub(before.instances),
                for_memory: counts.for_memory.saturating_sub(before.for_memory),
            };
            if looks % LOOKS_PER_SAMPLE == 0 || all.calls >= calls {
                samples.push(sample);
                // Nobody listens any more: the samples are in the answer too.
                tell.send(sample).await.ok();
                sample = Sample::default();
            }
        }
        let counts = guest.counts();
        let cpu = counts.cpu.saturating_sub(before.cpu);
        let parts = [(per(all.took, all.messages), per(cpu, all.messages))];
        let run = summary(batch, &all, &parts, before, counts);
        guest.close().await;
        let (halves, grew) = verdict(&samples);
        Ok(Long {
            run,
            samples,
            halves,
            grew,
        })
    }
}

fn summary(batch: usize, all: &Sum, parts: &[(f64, f64)], before: Counts, after: Counts) -> Run {
    Run {
        batch,
        calls: all.calls,
        messages: all.messages,
        rejected: all.rejected,
        us: median(parts.iter().map(|part| part.0)),
        guest_us: median(parts.iter().map(|part| part.1)),
        replaced: after.instances.saturating_sub(before.instances),
        for_memory: after.for_memory.saturating_sub(before.for_memory),
        for_handles: after.for_handles.saturating_sub(before.for_handles),
        linear: after.memory,
    }
}

/// Whether memory grew between the halves of a run. A guest that has not yet reached the mark at which
/// it is replaced may grow: by as much as its own memory did.
fn verdict(samples: &[Sample]) -> (Option<(u64, u64)>, Option<bool>) {
    let (first, second) = samples.split_at(samples.len() / 2);
    let resident = |half: &[Sample]| half.iter().filter_map(|one| one.resident).max();
    let linear = |half: &[Sample]| half.iter().map(|one| one.linear).max().unwrap_or(0);
    let Some((one, two)) = resident(first).zip(resident(second)) else {
        return (None, None);
    };
    let allowed = NOISE.max(one / NOISE_PART) + linear(second).saturating_sub(linear(first));
    (Some((one, two)), Some(two > one + allowed))
}

/// Microseconds for each of so many.
fn per(time: Duration, messages: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of messages is far below 2^53"
    )]
    let messages = messages as f64;
    time.as_secs_f64() * 1e6 / messages
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Bytes of this process in memory.
fn resident() -> Option<u64> {
    rollup("Rss:")
}

/// Bytes of this process's pages that it shares with nobody.
fn private() -> Option<u64> {
    rollup("Private_")
}

/// The sum of the lines of this process's memory map that begin so. Linux alone has such a map.
fn rollup(begin: &str) -> Option<u64> {
    let map = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let lines = map.lines().filter(|line| line.starts_with(begin));
    Some(lines.filter_map(kib).sum::<u64>() * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn samples(memory: &[(u64, u64)]) -> Vec<Sample> {
        let sample = |(resident, linear): &(u64, u64)| Sample {
            resident: Some(resident * MIB),
            linear: linear * MIB,
            ..Sample::default()
        };
        memory.iter().map(sample).collect()
    }

    #[test]
    fn memory_that_goes_up_and_down_is_flat_and_a_host_that_grows_is_not() {
        let flat = samples(&[(50, 10), (90, 45), (60, 15), (91, 45)]);
        assert_eq!(verdict(&flat), (Some((90 * MIB, 91 * MIB)), Some(false)));
        let grown = samples(&[(50, 10), (60, 10), (70, 10), (80, 10)]);
        assert_eq!(verdict(&grown).1, Some(true));
    }

    #[test]
    fn a_guest_may_grow_to_its_mark() {
        let young = samples(&[(50, 10), (60, 20), (70, 30), (80, 40)]);
        assert_eq!(verdict(&young).1, Some(false));
    }

    #[test]
    fn where_the_system_says_nothing_there_is_no_verdict() {
        assert_eq!(verdict(&[Sample::default(); 4]), (None, None));
    }

    #[test]
    fn the_middle_part_counts() {
        assert!((median([9.0, 1.0, 2.0].into_iter()) - 2.0).abs() < 1e-9);
        assert!(median(std::iter::empty()).is_nan());
    }
}
