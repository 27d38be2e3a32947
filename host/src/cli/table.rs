//! The live table: connections with their state, rules with their counts, newest rows, newest log
//! lines. Redraws itself in place once a second; the last picture stays when the host has stopped.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::SocketAddr;

use crossterm::style::{Attribute, Color, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{Clear, ClearType};
use crossterm::{cursor, queue};

use super::logs::Logs;
use super::output::{plain, size};
use super::view::View;
use crate::snapshot::{Change, Row, Snapshot};

/// Log lines below the table.
const LOG_LINES: usize = 4;

/// Draws on a terminal.
#[derive(Debug)]
pub(super) struct TableView {
    title: String,
    hint: Option<String>,
    rows: bool,
    logs: Logs,
    colors: bool,
    /// Lines of the last picture.
    drawn: u16,
    rates: Rates,
}

impl TableView {
    /// Takes the terminal: from now on log lines stand below the table.
    pub(super) fn new(title: String, rows: bool, logs: Logs) -> Self {
        logs.hold();
        let colors = std::env::var_os("NO_COLOR").is_none();
        Self {
            title,
            hint: None,
            rows,
            logs,
            colors,
            drawn: 0,
            rates: Rates::default(),
        }
    }

    fn draw(&mut self, snapshot: &Snapshot, foot: &str) -> io::Result<()> {
        let (width, height) = crossterm::terminal::size().unwrap_or((80, 24));
        let rates = self.rates.update(snapshot);
        let rows = if self.rows {
            snapshot.rows.as_slice()
        } else {
            &[]
        };
        let page = Page {
            title: &self.title,
            hint: self.hint.as_deref(),
            foot,
            snapshot,
            rates: &rates,
            rows,
            log: &self.logs.newest(LOG_LINES),
        };
        // One line stays free: the cursor stands there, and a full screen would scroll.
        let lines = page.lines(usize::from(width), usize::from(height.saturating_sub(1)));
        let mut out = Vec::with_capacity(8 * 1024);
        if self.drawn > 0 {
            queue!(out, cursor::MoveToPreviousLine(self.drawn))?;
        }
        for line in &lines {
            self.line(&mut out, line)?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        self.drawn = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        let mut terminal = io::stdout().lock();
        terminal.write_all(&out)?;
        terminal.flush()
    }

    fn line(&self, out: &mut Vec<u8>, line: &Line) -> io::Result<()> {
        if self.colors {
            match line.tone {
                Tone::Plain => {}
                Tone::Head => queue!(out, SetAttribute(Attribute::Bold))?,
                Tone::Faint => queue!(out, SetForegroundColor(Color::DarkGrey))?,
                Tone::Good => queue!(out, SetForegroundColor(Color::Green))?,
                Tone::Busy => queue!(out, SetForegroundColor(Color::Yellow))?,
                Tone::Bad => queue!(out, SetForegroundColor(Color::Red))?,
            }
        }
        out.write_all(line.text.as_bytes())?;
        if self.colors && line.tone != Tone::Plain {
            queue!(out, SetAttribute(Attribute::Reset), ResetColor)?;
        }
        queue!(out, Clear(ClearType::UntilNewLine))?;
        out.write_all(b"\r\n")
    }
}

impl View for TableView {
    fn listening(&mut self, address: SocketAddr) -> io::Result<()> {
        self.title.push_str(&format!(", REST on {address}"));
        Ok(())
    }

    fn change(&mut self, _change: &Change) -> io::Result<()> {
        Ok(())
    }

    fn tick(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.draw(snapshot, "Ctrl-C ends it")
    }

    fn hint(&mut self, command: &str) -> io::Result<()> {
        self.hint = Some(command.to_owned());
        Ok(())
    }

    fn stopping(&mut self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "stopping, 10 s at most; Ctrl-C again ends it at once")?;
        self.drawn = self.drawn.saturating_add(1);
        out.flush()
    }

    fn end(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.draw(snapshot, "stopped")
    }
}

/// Messages per second of each rule, from one snapshot to the next.
#[derive(Debug, Default)]
struct Rates {
    at_ms: u64,
    read: HashMap<String, u64>,
    last: HashMap<String, u64>,
}

impl Rates {
    fn update(&mut self, snapshot: &Snapshot) -> HashMap<String, u64> {
        let passed = snapshot.at_ms.saturating_sub(self.at_ms);
        // Two pictures at once (the last one): the rates stay as they were.
        if self.at_ms > 0 && passed >= 200 {
            self.last = snapshot
                .rules
                .iter()
                .map(|rule| {
                    let before = self.read.get(&rule.id).copied().unwrap_or(rule.records_in);
                    let more = rule.records_in.saturating_sub(before);
                    (rule.id.clone(), more.saturating_mul(1000) / passed)
                })
                .collect();
        }
        if self.at_ms == 0 || passed >= 200 {
            self.at_ms = snapshot.at_ms;
            self.read = snapshot
                .rules
                .iter()
                .map(|rule| (rule.id.clone(), rule.records_in))
                .collect();
        }
        self.last.clone()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Plain,
    Head,
    Faint,
    Good,
    Busy,
    Bad,
}

#[derive(Debug)]
struct Line {
    text: String,
    tone: Tone,
}

/// One picture.
#[derive(Debug)]
struct Page<'a> {
    title: &'a str,
    hint: Option<&'a str>,
    foot: &'a str,
    snapshot: &'a Snapshot,
    rates: &'a HashMap<String, u64>,
    rows: &'a [Row],
    log: &'a [String],
}

impl Page<'_> {
    /// The lines, none wider than the terminal, no more than it has. What does not fit is counted:
    /// rules and connections first, rows and the log get what is left.
    fn lines(&self, width: usize, height: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut add = |tone, text: String| {
            lines.push(Line {
                text: plain(&text, width),
                tone,
            })
        };
        add(Tone::Head, self.title.to_owned());
        if let Some(hint) = self.hint {
            // Not cut where the terminal ends: it is to be copied.
            let letters: Vec<char> = hint.chars().collect();
            for part in letters.chunks(width.max(20)) {
                add(Tone::Plain, part.iter().collect());
            }
        }
        let above = lines.len();
        let mut add = |tone, text: String| {
            lines.push(Line {
                text: plain(&text, width),
                tone,
            })
        };
        let (connections, rules) = (&self.snapshot.connections, &self.snapshot.rules);
        // What is above, and the foot; a gap, a head and a count of what does not fit for each of both.
        let room = height.saturating_sub(above + 7).max(2);
        let for_rules = rules
            .len()
            .min(room.saturating_sub(connections.len().min(room / 2)));
        let for_connections = connections.len().min(room.saturating_sub(for_rules));
        if !connections.is_empty() {
            add(Tone::Plain, String::new());
            add(
                Tone::Head,
                format!(
                    "{:<24} {:<10} {:<13} {:>9} {:>9}",
                    "CONNECTION", "TYPE", "STATUS", "IN", "OUT"
                ),
            );
        }
        for row in connections.iter().take(for_connections) {
            let mut text = format!(
                "{:<24} {:<10} {:<13} {:>9} {:>9}",
                plain(&row.id, 24),
                plain(&row.typ, 10),
                row.status,
                row.messages_in,
                row.messages_out
            );
            if let Some(next) = row.next_attempt_ms {
                let wait = next.saturating_sub(self.snapshot.at_ms);
                text.push_str(&format!(
                    "  again in {}.{} s",
                    wait / 1000,
                    wait % 1000 / 100
                ));
            }
            for words in std::iter::once(&row.err)
                .chain(&row.warnings)
                .filter(|words| !words.is_empty())
            {
                text.push_str("  ");
                text.push_str(words);
            }
            let tone = match row.metric {
                1 => Tone::Good,
                0 => Tone::Busy,
                _ => Tone::Bad,
            };
            add(tone, text);
        }
        if connections.len() > for_connections {
            add(
                Tone::Faint,
                format!("… and {} more", connections.len() - for_connections),
            );
        }
        if !rules.is_empty() {
            add(Tone::Plain, String::new());
            add(
                Tone::Head,
                format!(
                    "{:<24} {:<10} {:>8} {:>9} {:>9} {:>9}",
                    "RULE", "STATUS", "PER S", "READ", "SELECTED", "DELIVERED"
                ),
            );
        }
        for rule in rules.iter().take(for_rules) {
            let rate = self.rates.get(&rule.id).copied().unwrap_or_default();
            let mut text = format!(
                "{:<24} {:<10} {rate:>8} {:>9} {:>9} {:>9}",
                plain(&rule.id, 24),
                rule.status,
                rule.records_in,
                rule.selected,
                rule.records_out
            );
            if rule.disk_messages > 0 {
                text.push_str(&format!(
                    "  on disk {} ({})",
                    rule.disk_messages,
                    size(rule.disk_bytes)
                ));
            }
            if rule.dead_letters > 0 {
                text.push_str(&format!("  dead letters {}", rule.dead_letters));
            }
            for words in std::iter::once(&rule.message)
                .chain(&rule.warnings)
                .filter(|words| !words.is_empty())
            {
                text.push_str("  ");
                text.push_str(words);
            }
            let tone = match rule.status.as_str() {
                "running" => Tone::Plain,
                "stopped by error" => Tone::Bad,
                _ => Tone::Busy,
            };
            add(tone, text);
        }
        if rules.len() > for_rules {
            add(
                Tone::Faint,
                format!("… and {} more", rules.len() - for_rules),
            );
        }
        let left = height.saturating_sub(lines.len() + 1);
        let log = self.log.len().min(left.saturating_sub(1));
        let rows = self.rows.len().min(left.saturating_sub(log + 3));
        let mut add = |tone, text: String| {
            lines.push(Line {
                text: plain(&text, width),
                tone,
            })
        };
        if rows > 0 {
            add(Tone::Plain, String::new());
            add(Tone::Head, "NEWEST ROWS".to_owned());
            for row in newest(self.rows, rows) {
                add(
                    Tone::Plain,
                    format!("{:<24} {}", plain(&row.rule, 24), row.text),
                );
            }
        }
        if log > 0 {
            add(Tone::Plain, String::new());
            for line in self.log.iter().skip(self.log.len() - log) {
                add(Tone::Faint, line.clone());
            }
        }
        add(Tone::Faint, self.foot.to_owned());
        lines
    }
}

/// So many rows, oldest first: the newest one of each rule, so that a busy rule does not push out what
/// another gave once, then the newest of all.
fn newest(rows: &[Row], most: usize) -> Vec<&Row> {
    let mut shown = std::collections::HashSet::new();
    let places = || (0..rows.len()).zip(rows).rev();
    let (first, others): (Vec<_>, Vec<_>) =
        places().partition(|(_, row)| shown.insert(row.rule.as_str()));
    let mut chosen: Vec<_> = first.into_iter().chain(others).take(most).collect();
    chosen.sort_by_key(|(place, _)| *place);
    chosen.into_iter().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{ConnectionRow, RuleRow};

    fn snapshot(connections: usize, rules: usize, rows: u64) -> Snapshot {
        Snapshot {
            push: None,
            at_ms: 1_000,
            connections: (0..connections)
                .map(|index| ConnectionRow {
                    id: format!("connection-{index}"),
                    typ: "mqtt".into(),
                    status: "disconnected".into(),
                    metric: -1,
                    err: "connection refused ".repeat(20),
                    next_attempt_ms: Some(3_450),
                    ..ConnectionRow::default()
                })
                .collect(),
            rules: (0..rules)
                .map(|index| RuleRow {
                    id: format!("rule-{index}"),
                    status: "running".into(),
                    ..RuleRow::default()
                })
                .collect(),
            rows: (0..rows)
                .map(|at_ms| Row {
                    at_ms,
                    rule: "rule-0".into(),
                    text: "ä\u{1b}[31m".repeat(100),
                })
                .collect(),
            ..Snapshot::default()
        }
    }

    const HINT: &str =
        "curl -d '{\"machine\":\"me\",\"temperature\":93}' http://127.0.0.1:10081/demo";

    fn lines(snapshot: &Snapshot, width: usize, height: usize) -> Vec<Line> {
        let log = vec!["a log line".to_owned(); 10];
        let page = Page {
            title: "Windlass",
            hint: Some(HINT),
            foot: "foot",
            snapshot,
            rates: &HashMap::new(),
            rows: &snapshot.rows,
            log: &log,
        };
        page.lines(width, height)
    }

    #[test]
    fn a_picture_fits_every_terminal() {
        for (connections, rules, rows) in [(0, 0, 0), (1, 2, 16), (50, 300, 16)] {
            let snapshot = snapshot(connections, rules, rows);
            for (width, height) in [(40, 12), (80, 23), (200, 60)] {
                let lines = lines(&snapshot, width, height);
                assert!(lines.len() <= height, "{} lines on {height}", lines.len());
                assert!(lines.iter().all(|line| line.text.chars().count() <= width));
                assert!(lines.iter().all(|line| !line.text.contains('\u{1b}')));
                let all: String = lines.iter().map(|line| line.text.as_str()).collect();
                assert!(all.contains(HINT), "to be copied whole: {all}");
            }
        }
    }

    #[test]
    fn it_shows_states_waits_rows_and_what_did_not_fit() {
        let few = lines(&snapshot(1, 2, 3), 120, 40);
        let text: Vec<_> = few.iter().map(|line| line.text.as_str()).collect();
        assert!(
            text.iter()
                .any(|line| line.starts_with("connection-0") && line.contains("again in 2.4 s"))
        );
        assert_eq!(
            text.iter().filter(|line| line.starts_with("rule-")).count(),
            2 + 3
        );
        assert_eq!(text.last().copied(), Some("foot"));
        let many = lines(&snapshot(50, 300, 3), 120, 24);
        assert_eq!(
            many.iter()
                .filter(|line| line.text.starts_with("… and "))
                .count(),
            2
        );
    }

    #[test]
    fn what_a_quiet_rule_gave_stays_beside_the_rows_of_a_busy_one() {
        let row = |at_ms: u64| Row {
            at_ms,
            rule: if at_ms == 3 { "quiet" } else { "busy" }.to_owned(),
            text: String::new(),
        };
        let rows: Vec<Row> = (0..20).map(row).collect();
        let shown = |most| -> Vec<u64> { newest(&rows, most).iter().map(|r| r.at_ms).collect() };
        assert_eq!(shown(4), [3, 17, 18, 19]);
        assert_eq!(shown(1), [19]);
        assert!(shown(0).is_empty());
        assert_eq!(shown(50).len(), 20);
    }

    #[test]
    fn rates_are_per_second_whatever_the_time_between() {
        let mut rates = Rates::default();
        let mut now = snapshot(0, 1, 0);
        assert!(rates.update(&now).is_empty());
        now.at_ms += 2_000;
        now.rules[0].records_in = 500;
        assert_eq!(rates.update(&now)["rule-0"], 250);
        now.at_ms += 1;
        assert_eq!(
            rates.update(&now)["rule-0"],
            250,
            "a moment is too short for a rate"
        );
    }
}
