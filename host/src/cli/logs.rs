//! Where log lines go: stderr, as text or as JSON; while a live table holds the terminal, into the
//! table instead.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that a table can show.
const KEPT: usize = 32;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

/// The log's end: stderr, or the lines for a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Logs(Arc<Mutex<Held>>);

/// Puts another filter in the place of the one that is there. The log is one for the process.
static CHANGE: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

#[derive(Debug, Default)]
struct Held {
    /// Somebody has said what is to be logged.
    told: bool,
    /// A table is on the terminal.
    holding: bool,
    lines: VecDeque<String>,
}

impl Logs {
    /// Starts logging: `--log` first, then `RUST_LOG`, then what the command is used to.
    ///
    /// # Errors
    /// A sentence on what is wrong with the directives.
    pub(super) fn start(
        level: Option<&str>,
        format: LogFormat,
        quiet: bool,
        live: bool,
    ) -> Result<Self, String> {
        let environment = std::env::var("RUST_LOG").ok();
        let filter = filter(level, environment.as_deref(), quiet)?;
        let logs = Self::default();
        logs.0.lock().told = level.is_some() || environment.is_some_and(|one| !one.is_empty());
        let colors = io::stderr().is_terminal() && !live && std::env::var_os("NO_COLOR").is_none();
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(logs.clone());
        let started = match format {
            LogFormat::Text => {
                let builder = builder.with_ansi(colors).with_target(false);
                let builder = builder.with_filter_reloading();
                let handle = builder.reload_handle();
                let _first = CHANGE.set(Box::new(move |filter| drop(handle.reload(filter))));
                builder.try_init()
            }
            LogFormat::Json => {
                let builder = builder.json().flatten_event(true).with_filter_reloading();
                let handle = builder.reload_handle();
                let _first = CHANGE.set(Box::new(move |filter| drop(handle.reload(filter))));
                builder.try_init()
            }
        };
        started.map_err(|error| format!("the log cannot be started: {error}"))?;
        Ok(logs)
    }

    /// Logs from this level on, unless the command line or `RUST_LOG` says what to log.
    pub(super) fn set_level_unless_told(&self, level: &str) {
        if self.0.lock().told {
            return;
        }
        if let (Some(change), Ok(filter)) = (CHANGE.get(), EnvFilter::try_new(level)) {
            change(filter);
        }
    }

    /// From now on lines are kept for a table, if stderr is the terminal that it draws on.
    pub(super) fn hold(&self) {
        self.0.lock().holding = io::stderr().is_terminal();
    }

    /// Lines go to stderr again.
    pub(super) fn release(&self) {
        self.0.lock().holding = false;
    }

    /// The newest lines kept, oldest first.
    pub(super) fn newest(&self, count: usize) -> Vec<String> {
        let held = self.0.lock();
        held.lines
            .iter()
            .skip(held.lines.len().saturating_sub(count))
            .cloned()
            .collect()
    }
}

fn filter(
    level: Option<&str>,
    environment: Option<&str>,
    quiet: bool,
) -> Result<EnvFilter, String> {
    let usual = if quiet { "warn" } else { "info" };
    let (from, directives) = match (level, environment) {
        (Some(level), _) => ("--log", level),
        (None, Some(environment)) if !environment.is_empty() => ("RUST_LOG", environment),
        _ => ("", usual),
    };
    EnvFilter::try_new(directives).map_err(|error| {
        format!(
            "{from} \"{directives}\" is neither a level (off, error, warn, info, debug, trace) nor directives \
             like windlass=debug: {error}"
        )
    })
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Logs {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut held = self.0.lock();
        if !held.holding {
            drop(held);
            return io::stderr().lock().write(line);
        }
        // The subscriber writes a line in one piece; whoever else does not, gets several.
        for line in String::from_utf8_lossy(line)
            .lines()
            .filter(|line| !line.is_empty())
        {
            if held.lines.len() == KEPT {
                held.lines.pop_front();
            }
            held.lines.push_back(line.to_owned());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_goes_before_the_environment_and_a_bad_one_is_named() {
        assert_eq!(filter(None, None, true).unwrap().to_string(), "warn");
        assert_eq!(
            filter(None, Some("debug"), true).unwrap().to_string(),
            "debug"
        );
        assert_eq!(
            filter(Some("trace"), Some("debug"), false)
                .unwrap()
                .to_string(),
            "trace"
        );
        let error = filter(Some("windlass=loud"), None, false).unwrap_err();
        assert!(
            error.starts_with("--log \"windlass=loud\" is neither a level"),
            "{error}"
        );
    }

    #[test]
    fn lines_for_a_table_are_bounded() {
        let mut logs = Logs::default();
        logs.0.lock().holding = true;
        for number in 0..100 {
            logs.write_all(format!("line {number}\n").as_bytes())
                .unwrap();
        }
        assert_eq!(logs.newest(2), ["line 98", "line 99"]);
        assert_eq!(logs.newest(1000).len(), KEPT);
    }
}
