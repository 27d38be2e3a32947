//! What takes long before anything runs (compiling or building a connector), shown while it lasts: as
//! bars on a terminal, as plain lines on stderr, or as JSON lines on stdout. Imports nothing of the crate.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;

/// Where the progress of a compilation is shown.
pub trait Progress: fmt::Debug + Send + Sync {
    /// It is being compiled, since so long. Called a few times a second.
    fn compiling(&self, connector: &str, since: Duration);
    /// It has been compiled, or has failed to.
    fn done(&self, connector: &str, took: Duration);
}

/// Shows nothing.
impl Progress for () {
    fn compiling(&self, _connector: &str, _since: Duration) {}
    fn done(&self, _connector: &str, _took: Duration) {}
}

/// The way that fits: JSON lines on stdout if asked for; else on stderr, bars where that is a
/// terminal and lines where it is not.
#[must_use]
pub fn choose(json: bool) -> Arc<dyn Progress> {
    if json {
        Arc::new(Lines::new(Notation::Json))
    } else if io::stderr().is_terminal() {
        Arc::new(Bars::default())
    } else {
        Arc::new(Lines::new(Notation::Plain))
    }
}

#[derive(Clone, Copy, Debug)]
enum Notation {
    Plain,
    Json,
}

/// A line when a compilation begins and one when it ends.
#[derive(Debug)]
struct Lines {
    notation: Notation,
    /// Under way, and said so.
    begun: Mutex<HashSet<String>>,
}

impl Lines {
    fn new(notation: Notation) -> Self {
        Self {
            notation,
            begun: Mutex::default(),
        }
    }

    /// The line for a compilation that lasts, the first time.
    fn begin(&self, connector: &str) -> Option<String> {
        if !self.begun.lock().insert(connector.to_owned()) {
            return None;
        }
        Some(match self.notation {
            Notation::Plain => format!("compiling the connector {connector} ..."),
            Notation::Json => event(connector, "compiling", None),
        })
    }

    /// The line for its end; none where its beginning was not worth one.
    fn end(&self, connector: &str, took: Duration) -> Option<String> {
        if !self.begun.lock().remove(connector) {
            return None;
        }
        Some(match self.notation {
            Notation::Plain => {
                format!("the connector {connector} took {:.1} s", took.as_secs_f64())
            }
            Notation::Json => event(connector, "done", Some(took)),
        })
    }

    fn write(&self, line: Option<String>) {
        let Some(line) = line else { return };
        // Nobody reads any more (a closed pipe): then there is nobody to tell.
        drop(match self.notation {
            Notation::Plain => writeln!(io::stderr().lock(), "{line}"),
            Notation::Json => writeln!(io::stdout().lock(), "{line}"),
        });
    }
}

impl Progress for Lines {
    fn compiling(&self, connector: &str, _since: Duration) {
        self.write(self.begin(connector));
    }

    fn done(&self, connector: &str, took: Duration) {
        self.write(self.end(connector, took));
    }
}

fn event(connector: &str, state: &str, took: Option<Duration>) -> String {
    let mut event =
        serde_json::json!({ "event": "progress", "connector": connector, "state": state });
    if let (Some(took), Some(fields)) = (took, event.as_object_mut()) {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        fields.insert("tookMs".to_owned(), took.into());
    }
    event.to_string()
}

/// A spinner with its seconds for each connector; gone when that is compiled.
#[derive(Debug, Default)]
struct Bars {
    all: MultiProgress,
    running: Mutex<HashMap<String, ProgressBar>>,
}

impl Progress for Bars {
    fn compiling(&self, connector: &str, since: Duration) {
        let mut running = self.running.lock();
        let bar = running.entry(connector.to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new_spinner().with_elapsed(since));
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.set_message(format!("compiling the connector {connector}"));
            bar
        });
        bar.tick();
    }

    fn done(&self, connector: &str, _took: Duration) {
        if let Some(bar) = self.running.lock().remove(connector) {
            bar.finish_and_clear();
        }
    }
}

/// A step of something that a person waits for: a spinner with its seconds on a terminal, gone when this
/// is dropped; elsewhere a line on stderr.
#[derive(Debug)]
pub struct Step(Option<ProgressBar>);

/// Begins a step.
#[must_use]
pub fn step(words: &str) -> Step {
    if !io::stderr().is_terminal() {
        drop(writeln!(io::stderr().lock(), "{words} ..."));
        return Step(None);
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(words.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    Step(Some(bar))
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compilation_is_one_line_at_each_end_however_often_it_reports() {
        let lines = Lines::new(Notation::Plain);
        assert_eq!(
            lines.begin("mqtt").as_deref(),
            Some("compiling the connector mqtt ...")
        );
        assert_eq!(lines.begin("mqtt"), None);
        let took = Duration::from_millis(1_234);
        assert_eq!(
            lines.end("mqtt", took).as_deref(),
            Some("the connector mqtt took 1.2 s")
        );
        assert_eq!(
            lines.end("mqtt", took),
            None,
            "what never lasted is not mentioned"
        );
    }

    #[test]
    fn json_events_say_what_and_how_long() {
        let lines = Lines::new(Notation::Json);
        assert_eq!(
            lines.begin("mqtt").as_deref(),
            Some(r#"{"event":"progress","connector":"mqtt","state":"compiling"}"#)
        );
        assert_eq!(
            lines.end("mqtt", Duration::from_millis(5)).as_deref(),
            Some(r#"{"event":"progress","connector":"mqtt","state":"done","tookMs":5}"#)
        );
    }
}
