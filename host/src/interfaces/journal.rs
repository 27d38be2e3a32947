//! Where a guest's words go: the host's log, limited in rate, and a short memory of what it wrote to
//! stderr, because there stand the panic, the traceback, the exception that a trap does not carry.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::stats::GuestStats;

/// Bytes of stderr kept for the sentence of a trap.
const TAIL_BYTES: usize = 4 * 1024;
/// A longer line is cut.
const LINE_BYTES: usize = 4 * 1024;

/// How grave a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the levels of wit/log.wit")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Who speaks: stands on every line.
#[derive(Clone, Debug)]
pub struct Labels {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The rule, or empty.
    pub rule: Arc<str>,
    /// The stream or action, or empty.
    pub label: Arc<str>,
    /// The connector.
    pub connector: Arc<str>,
}

/// The journal of one guest.
#[derive(Debug)]
pub struct Journal {
    labels: Labels,
    lines_per_second: u32,
    stats: Arc<GuestStats>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    filled_at: Instant,
    /// Dropped since the last line that passed.
    dropped: u64,
    tail: VecDeque<u8>,
}

impl Journal {
    /// A journal that lets so many lines a second pass, twice as many at once.
    #[must_use]
    pub fn new(labels: Labels, lines_per_second: u32, stats: Arc<GuestStats>) -> Self {
        let state = State {
            tokens: f64::from(lines_per_second) * 2.0,
            filled_at: Instant::now(),
            dropped: 0,
            tail: VecDeque::new(),
        };
        Self {
            labels,
            lines_per_second,
            stats,
            state: Mutex::new(state),
        }
    }

    /// Who speaks.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Writes a line, or drops and counts it.
    pub fn line(&self, level: Level, text: &str) {
        let Some(dropped) = self.admit() else {
            self.stats.log_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if dropped > 0 {
            self.emit(
                Level::Warn,
                &format!(
                    "{dropped} lines of this connector were dropped: more than {} a second",
                    self.lines_per_second
                ),
            );
        }
        let text = cut(text.trim_end(), LINE_BYTES);
        if text.chars().any(|c| c.is_control() && c != '\t') {
            let clean: String = text
                .chars()
                .map(|c| if c.is_control() && c != '\t' { ' ' } else { c })
                .collect();
            self.emit(level, &clean);
        } else {
            self.emit(level, text);
        }
    }

    /// How many were dropped before this line, or none when this one must be dropped too.
    fn admit(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let rate = f64::from(self.lines_per_second);
        let passed = now.saturating_duration_since(state.filled_at);
        state.filled_at = now;
        state.tokens = (state.tokens + passed.min(Duration::from_secs(10)).as_secs_f64() * rate)
            .min(rate * 2.0);
        if state.tokens < 1.0 {
            state.dropped += 1;
            return None;
        }
        state.tokens -= 1.0;
        Some(std::mem::take(&mut state.dropped))
    }

    fn emit(&self, level: Level, text: &str) {
        let Labels {
            tenant,
            rule,
            label,
            connector,
        } = &self.labels;
        macro_rules! at {
            ($level:ident) => {
                tracing::event!(target: "connector", tracing::Level::$level, %tenant, %rule, %label, %connector, "{text}")
            };
        }
        match level {
            Level::Trace => at!(TRACE),
            Level::Debug => at!(DEBUG),
            Level::Info => at!(INFO),
            Level::Warn => at!(WARN),
            Level::Error => at!(ERROR),
        }
    }

    /// Remembers bytes that the guest wrote to stderr; the oldest go first.
    pub fn remember(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        // A panic's first line says more than the end of a long backtrace's last, but both matter:
        // of one huge write, its beginning is kept.
        let kept = bytes.get(..TAIL_BYTES).unwrap_or(bytes);
        let over = (state.tail.len() + kept.len()).saturating_sub(TAIL_BYTES);
        state.tail.drain(..over);
        state.tail.extend(kept);
    }

    /// What was remembered, as text; the memory is empty then.
    pub fn last_words(&self) -> String {
        let tail: Vec<u8> = std::mem::take(&mut self.state.lock().tail).into();
        let text = String::from_utf8_lossy(&tail);
        let clean: String = text
            .chars()
            .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
            .collect();
        clean.trim().to_owned()
    }
}

/// The beginning of a text, at most so many bytes, ending between two characters.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(rate: u32) -> (Journal, Arc<GuestStats>) {
        let stats = Arc::new(GuestStats::default());
        let none: Arc<str> = "".into();
        let labels = Labels {
            tenant: none.clone(),
            rule: none.clone(),
            label: none.clone(),
            connector: none,
        };
        (Journal::new(labels, rate, Arc::clone(&stats)), stats)
    }

    #[test]
    fn a_flood_of_lines_is_dropped_and_counted() {
        let (journal, stats) = journal(5);
        for _ in 0..1000 {
            journal.line(Level::Info, "x");
        }
        let dropped = stats.log_dropped.load(Ordering::Relaxed);
        assert!((980..=990).contains(&dropped), "{dropped}");
    }

    #[test]
    fn the_last_words_are_bounded_and_end_with_the_newest() {
        let (journal, _) = journal(5);
        for _ in 0..2000 {
            journal.remember(b"old old old\n");
        }
        journal.remember(b"panicked at app.rs:1");
        let words = journal.last_words();
        assert!(words.len() <= TAIL_BYTES);
        assert!(words.ends_with("panicked at app.rs:1"));
        assert!(journal.last_words().is_empty());
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("aäb", 2), "a");
        assert_eq!(cut("abc", 8), "abc");
    }
}
