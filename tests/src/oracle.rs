//! The oracle: messages that say which one they are, and a ledger of what arrived at the far end.
//!
//! Every payload can be rebuilt from its number and its time, so a changed byte is found, not only
//! a missing message. Knows nothing of MQTT or of the product.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;
use std::time::Instant;

/// Bytes of a payload.
pub const PAYLOAD: usize = 100;

/// Nanoseconds since the first call in this process: one clock for sender and receiver.
#[must_use]
pub fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Whether `WHERE temperature > 50` lets this message pass: every even number.
#[must_use]
pub fn passes(seq: u64) -> bool {
    seq.is_multiple_of(2)
}

/// Replaces `out` with the payload of message `seq`, sent at `ts`: 100 bytes of JSON.
pub fn write_payload(out: &mut Vec<u8>, seq: u64, ts: u64) {
    use std::io::Write;
    let swing = seq.wrapping_mul(7) % 40;
    let temperature = if passes(seq) { 51 + swing } else { 49 - swing };
    out.clear();
    write!(
        out,
        r#"{{"seq":{seq},"temperature":{temperature}.5,"ts":{ts},"pad":""#
    )
    .expect("a vector takes all");
    out.resize(PAYLOAD - 2, b'.');
    out.extend_from_slice(br#""}"#);
}

/// The number and the time in a payload: `"seq":N` and `"ts":N`, wherever they stand.
#[must_use]
pub fn read_payload(payload: &[u8]) -> Option<(u64, u64)> {
    Some((
        number_after(payload, b"\"seq\":")?,
        number_after(payload, b"\"ts\":").unwrap_or(0),
    ))
}

fn number_after(bytes: &[u8], key: &[u8]) -> Option<u64> {
    let at = bytes.windows(key.len()).position(|window| window == key)? + key.len();
    let mut number = None;
    for &byte in bytes[at..].iter().skip_while(|byte| **byte == b' ') {
        if !byte.is_ascii_digit() {
            break;
        }
        number = Some(number.unwrap_or(0u64) * 10 + u64::from(byte - b'0'));
    }
    number
}

/// How to judge what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// Byte for byte what was sent.
    Exact,
    /// Only the number counts: the rule under test changes the payload.
    Number,
}

/// What arrived at the far end, in the order in which it did.
#[derive(Debug)]
pub struct Ledger {
    judge: Judge,
    counts: Vec<u8>,
    highest: Option<u64>,
    arrived: u64,
    duplicates: u64,
    out_of_order: u64,
    corrupt: u64,
    /// Of each arrival: nanoseconds when, and nanoseconds on the way.
    arrivals: Vec<(u64, u64)>,
    scratch: Vec<u8>,
}

impl Ledger {
    /// An empty one.
    #[must_use]
    pub fn new(judge: Judge) -> Self {
        Self {
            judge,
            counts: Vec::new(),
            highest: None,
            arrived: 0,
            duplicates: 0,
            out_of_order: 0,
            corrupt: 0,
            arrivals: Vec::new(),
            scratch: Vec::with_capacity(PAYLOAD),
        }
    }

    /// Enters one arrival; answers its number.
    pub fn enter(&mut self, payload: &[u8]) -> Option<u64> {
        let Some((seq, ts)) = read_payload(payload) else {
            self.corrupt += 1;
            return None;
        };
        if self.judge == Judge::Exact {
            write_payload(&mut self.scratch, seq, ts);
            if self.scratch != payload {
                self.corrupt += 1;
                return None;
            }
        }
        let now = now_ns();
        self.arrivals.push((now, now.saturating_sub(ts)));
        let index = usize::try_from(seq).expect("numbers are small");
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        let count = &mut self.counts[index];
        *count = count.saturating_add(1);
        if *count > 1 {
            self.duplicates += 1;
            return Some(seq);
        }
        self.arrived += 1;
        match self.highest {
            Some(highest) if seq < highest => self.out_of_order += 1,
            _ => self.highest = Some(seq),
        }
        Some(seq)
    }

    /// Whether this message is there.
    #[must_use]
    pub fn has(&self, seq: u64) -> bool {
        usize::try_from(seq)
            .ok()
            .and_then(|seq| self.counts.get(seq))
            .is_some_and(|&count| count > 0)
    }

    /// Different messages.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Arrivals of a message that was there already.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// First arrivals that came after a higher number.
    #[must_use]
    pub fn out_of_order(&self) -> u64 {
        self.out_of_order
    }

    /// Payloads that nobody sent.
    #[must_use]
    pub fn corrupt(&self) -> u64 {
        self.corrupt
    }

    /// The highest number that arrived.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// All arrivals so far, duplicates too: a mark for [`Ledger::since`].
    #[must_use]
    pub fn mark(&self) -> usize {
        self.arrivals.len()
    }

    /// When the first arrival after `ns` came, in nanoseconds.
    #[must_use]
    pub fn first_after(&self, ns: u64) -> Option<u64> {
        let from = self.arrivals.partition_point(|(at, _)| *at <= ns);
        self.arrivals.get(from).map(|(at, _)| *at)
    }

    /// Rate and times on the way of the arrivals after a mark.
    #[must_use]
    pub fn since(&self, mark: usize) -> Flow {
        let arrivals = &self.arrivals[mark.min(self.arrivals.len())..];
        let span = match (arrivals.first(), arrivals.last()) {
            (Some((first, _)), Some((last, _))) => last - first,
            _ => 0,
        };
        let mut latencies: Vec<u64> = arrivals.iter().map(|(_, latency)| *latency).collect();
        latencies.sort_unstable();
        Flow { span, latencies }
    }

    /// Those of `expected` that did not arrive.
    #[must_use]
    pub fn lost(&self, expected: impl IntoIterator<Item = u64>) -> Vec<u64> {
        expected.into_iter().filter(|&seq| !self.has(seq)).collect()
    }

    /// One line for a report.
    #[must_use]
    pub fn summary(&self) -> String {
        let Self {
            arrived,
            duplicates,
            out_of_order,
            corrupt,
            ..
        } = self;
        format!(
            "{arrived} arrived, {duplicates} duplicates, {out_of_order} out of order, {corrupt} corrupt"
        )
    }
}

/// Arrivals of a stretch of time.
#[derive(Clone, Debug)]
pub struct Flow {
    span: u64,
    latencies: Vec<u64>,
}

impl Flow {
    /// Arrivals.
    #[must_use]
    pub fn count(&self) -> usize {
        self.latencies.len()
    }

    /// Messages per second between the first and the last one.
    #[must_use]
    pub fn rate(&self) -> f64 {
        if self.span == 0 {
            0.0
        } else {
            (self.latencies.len() - 1) as f64 * 1e9 / self.span as f64
        }
    }

    /// The time on the way that this share of the messages did not exceed, in milliseconds.
    #[must_use]
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let place = (last as f64 * share).round() as usize;
        self.latencies
            .get(place)
            .map_or(f64::NAN, |&ns| ns as f64 / 1e6)
    }

    /// Slowest of all, in milliseconds.
    #[must_use]
    pub fn worst_ms(&self) -> f64 {
        self.percentile_ms(1.0)
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0}/s, p50 {:.2}, p99 {:.2}, worst {:.2} ms",
            self.rate(),
            self.percentile_ms(0.5),
            self.percentile_ms(0.99),
            self.worst_ms()
        )
    }
}

/// The middle one of some figures.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => figures[n / 2],
        n => (figures[n / 2 - 1] + figures[n / 2]) / 2.0,
    }
}

/// Runs of numbers as people write them: `3-5, 9`. For the message of a failed test.
#[must_use]
pub fn ranges(numbers: &[u64]) -> String {
    let mut runs: BTreeMap<u64, u64> = BTreeMap::new();
    for &number in numbers {
        match runs.last_entry() {
            Some(mut run) if *run.get() + 1 == number => *run.get_mut() = number,
            _ => {
                runs.insert(number, number);
            }
        }
    }
    let text: Vec<String> = runs
        .iter()
        .take(12)
        .map(|(from, to)| {
            if from == to {
                from.to_string()
            } else {
                format!("{from}-{to}")
            }
        })
        .collect();
    let more = if runs.len() > 12 { ", ..." } else { "" };
    format!("{}{more}", text.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(seq: u64) -> Vec<u8> {
        let mut out = Vec::new();
        write_payload(&mut out, seq, now_ns());
        out
    }

    #[test]
    fn payloads_have_100_bytes_are_json_and_half_of_them_pass() {
        let mut passed = 0;
        for seq in (0..1000).chain([u64::from(u32::MAX)]) {
            let payload = payload(seq);
            assert_eq!(payload.len(), PAYLOAD);
            let json: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
            assert_eq!(json["seq"].as_u64(), Some(seq));
            let warm = json["temperature"].as_f64().expect("a number") > 50.0;
            assert_eq!(warm, passes(seq));
            passed += u64::from(warm && seq < 1000);
        }
        assert_eq!(passed, 500);
    }

    #[test]
    fn the_ledger_finds_what_is_lost_doubled_disordered_and_changed() {
        let mut ledger = Ledger::new(Judge::Exact);
        for seq in [0, 2, 1, 2, 5] {
            ledger.enter(&payload(seq));
        }
        let mut changed = payload(6);
        changed[80] = b'x';
        assert_eq!(ledger.enter(&changed), None);
        assert_eq!(ledger.enter(b"rubbish"), None);
        assert_eq!(ledger.lost(0..7), [3, 4, 6]);
        assert_eq!(
            (ledger.arrived(), ledger.duplicates(), ledger.out_of_order()),
            (4, 1, 1)
        );
        assert_eq!(ledger.corrupt(), 2);
        assert_eq!(ranges(&ledger.lost(0..7)), "3-4, 6");
    }

    #[test]
    fn medians_and_percentiles_are_of_the_right_place() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        let flow = Flow {
            span: 99_000_000_000,
            latencies: (1..=100).map(|ms| ms * 1_000_000).collect(),
        };
        assert_eq!(flow.rate(), 1.0);
        assert_eq!(flow.percentile_ms(0.5), 51.0);
        assert_eq!(flow.worst_ms(), 100.0);
    }
}
