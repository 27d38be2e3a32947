//! `windlass deadletters ls|show|resend|rm`: on the store in the data folder, also while a host runs
//! on it, or with `--server` at a server. A letter marked for sending again is taken up by the running
//! host, or by the next one.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand};

use super::client::context::ServerArguments;
use super::client::deadletters::{Change, Place};
use super::{FAILED, folder, output};
use crate::store::{DeadLetter, KeptLetter, LetterFilter};

/// The only one there is today.
const TENANT: &str = "default";
/// Letters read from the store at once.
const PAGE: u32 = 500;
/// Characters of a payload in a list.
const SHOWN: usize = 60;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List them, oldest first
    Ls(List),
    /// Show some with all that is known, the payload too
    Show(Show),
    /// Send some again: the running host takes them up, or the next one
    Resend(Chosen),
    /// Remove some for good
    Rm(Chosen),
}

#[derive(Args, Debug)]
struct Common {
    /// The data folder of the host; not looked at with --server or --context
    #[arg(long, value_name = "DIR", default_value = folder::DATA)]
    data: PathBuf,
    #[command(flatten)]
    server: ServerArguments,
    /// One JSON object per line on stdout
    #[arg(long)]
    json: bool,
}

/// Which letters; all conditions must hold.
#[derive(Args, Clone, Debug, Default)]
struct Filter {
    /// Of this rule
    #[arg(long, value_name = "ID")]
    rule: Option<String>,
    /// Of this action (log_0, mqtt_1)
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// That came from this stream
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Of this kind: permanent, transient, disconnected
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// With this code, such as http:422
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// With this text in the reason or code, in any case
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Given up at this time or later: how long ago (90s, 2h), or milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<u64>,
    /// Given up before this time: as --since
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<u64>,
}

/// Milliseconds since the Unix epoch, or how long ago as Go writes it.
fn time(text: &str) -> Result<u64, String> {
    if let Ok(at_ms) = text.parse() {
        return Ok(at_ms);
    }
    let ago = crate::config::duration(text)
        .ok_or("a time is how long ago (90s, 15m, 2h), or milliseconds since 1970")?;
    let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
    Ok(now_ms().saturating_sub(ago))
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[derive(Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    filter: Filter,
    /// So many at most
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

#[derive(Args, Debug)]
pub(super) struct Show {
    #[command(flatten)]
    common: Common,
    /// Their numbers, as `ls` shows them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<i64>,
    /// Only the payload, byte for byte
    #[arg(long, conflicts_with = "json")]
    payload: bool,
}

#[derive(Args, Debug)]
pub(super) struct Chosen {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    filter: Filter,
    /// Their numbers, as `ls` shows them
    #[arg(value_name = "ID", conflicts_with_all = ["rule", "action", "stream", "kind", "code", "reason", "since", "until", "all"])]
    ids: Vec<i64>,
    /// All of them
    #[arg(long, conflicts_with_all = ["rule", "action", "stream", "kind", "code", "reason", "since", "until"])]
    all: bool,
}

impl Chosen {
    /// Somebody said which.
    fn is_told(&self) -> bool {
        let Filter {
            rule,
            action,
            stream,
            kind,
            code,
            reason,
            since,
            until,
        } = &self.filter;
        let words = [rule, action, stream, kind, code, reason];
        let filtered = words.into_iter().any(Option::is_some) || since.is_some() || until.is_some();
        self.all || filtered || !self.ids.is_empty()
    }
}

impl Filter {
    /// What the store looks at.
    fn wanted(&self) -> LetterFilter {
        LetterFilter {
            tenant: TENANT.to_owned(),
            rule: self.rule.clone(),
            action: self.action.clone(),
            stream: self.stream.clone(),
            kind: self.kind.clone(),
            code: self.code.clone(),
            since_ms: self.since,
            until_ms: self.until,
            after: None,
        }
    }

    /// Whether the reason fits; for the rest see [`Filter::wanted`].
    fn takes(&self, letter: &DeadLetter) -> bool {
        self.reason.as_deref().is_none_or(|wanted| {
            let wanted = wanted.to_lowercase();
            letter.reason.to_lowercase().contains(&wanted)
                || letter.code.to_lowercase().contains(&wanted)
        })
    }
}

/// Does what the command says.
pub(super) async fn main(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ls(list) => ls(list).await,
        Command::Show(show_) => show(show_).await,
        Command::Resend(chosen) => change(chosen, Change::Resend).await,
        Command::Rm(chosen) => change(chosen, Change::Remove).await,
    }
}

async fn ls(arguments: List) -> anyhow::Result<ExitCode> {
    let store = Place::open(&arguments.common.server, &arguments.common.data).await?;
    let found = select(&store, &arguments.filter, arguments.limit).await?;
    for kept in &found {
        if arguments.common.json {
            output::say_json(&kept.to_json())?;
        } else {
            output::say(&as_line(kept.id, &kept.letter))?;
        }
    }
    if !arguments.common.json {
        output::say(&output::count(found.len(), "dead letter"))?;
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn show(arguments: Show) -> anyhow::Result<ExitCode> {
    let store = Place::open(&arguments.common.server, &arguments.common.data).await?;
    let mut code = ExitCode::SUCCESS;
    for id in arguments.ids {
        let Some(kept) = store.letter(TENANT, id).await? else {
            output::complain(&missing(id));
            code = ExitCode::from(FAILED);
            continue;
        };
        if arguments.payload {
            let mut out = std::io::stdout().lock();
            out.write_all(&kept.letter.message.payload)?;
            out.flush()?;
        } else if arguments.common.json {
            output::say_json(&kept.to_json())?;
        } else {
            output::say(&as_text(id, &kept.letter))?;
        }
    }
    store.close().await;
    Ok(code)
}

async fn change(chosen: Chosen, change: Change) -> anyhow::Result<ExitCode> {
    if !chosen.is_told() {
        output::complain(
            "which? Give their numbers, a filter (--rule, --action, --stream, --kind, --code, --reason, --since, --until), or --all",
        );
        return Ok(ExitCode::from(FAILED));
    }
    let store = Place::open(&chosen.common.server, &chosen.common.data).await?;
    let mut code = ExitCode::SUCCESS;
    let ids = if chosen.ids.is_empty() {
        select(&store, &chosen.filter, usize::MAX)
            .await?
            .into_iter()
            .map(|kept| kept.id)
            .collect()
    } else {
        let mut there = Vec::new();
        for id in chosen.ids {
            if store.letter(TENANT, id).await?.is_some() {
                there.push(id);
            } else {
                output::complain(&missing(id));
                code = ExitCode::from(FAILED);
            }
        }
        there
    };
    for ids in ids.chunks(PAGE as usize) {
        store.change(TENANT, ids, change).await?;
    }
    store.close().await;
    let (word, key) = match change {
        Change::Resend => ("marked to be sent again", "resend"),
        Change::Remove => ("removed", "removed"),
    };
    if chosen.common.json {
        output::say_json(&BTreeMap::from([(key, &ids)]))?;
    } else {
        output::say(&format!(
            "{} {word}",
            output::count(ids.len(), "dead letter")
        ))?;
    }
    Ok(code)
}

fn missing(id: i64) -> String {
    format!("there is no dead letter {id}; `windlass deadletters ls` lists them")
}

async fn select(store: &Place, filter: &Filter, limit: usize) -> anyhow::Result<Vec<KeptLetter>> {
    let mut found = Vec::new();
    let mut wanted = filter.wanted();
    while found.len() < limit {
        let page = store.page(&wanted, PAGE).await?;
        let Some(last) = page.last() else { break };
        wanted.after = Some(last.id);
        found.extend(page.into_iter().filter(|kept| filter.takes(&kept.letter)));
    }
    found.truncate(limit);
    Ok(found)
}

/// One line of a list.
fn as_line(id: i64, letter: &DeadLetter) -> String {
    let message = &letter.message;
    format!(
        "{id:>6}  {}  {}  {}  {}: {}  {}",
        when(letter.at_ms),
        origin(letter),
        output::plain(&message.subject, SHOWN),
        letter.code,
        output::plain(&letter.reason, 160),
        output::plain(&String::from_utf8_lossy(&message.payload), SHOWN),
    )
}

fn as_text(id: i64, letter: &DeadLetter) -> String {
    let message = &letter.message;
    let mut text = format!(
        "dead letter {id}\n  when      {}\n  from      {}\n  stream    {}\n  reason    {} ({}, {})\n  attempts  {}\n  subject   {}\n",
        when(letter.at_ms),
        origin(letter),
        letter.stream,
        output::plain(&letter.reason, 2000),
        letter.kind,
        letter.code,
        letter.attempts,
        output::plain(&message.subject, 2000),
    );
    for (name, value) in message.headers.pairs() {
        text.push_str(&format!(
            "  header    {}: {}\n",
            output::plain(name, 200),
            output::plain(value, 2000)
        ));
    }
    let payload = match std::str::from_utf8(&message.payload) {
        Ok(payload) => output::plain(payload, 4000),
        Err(_) => format!(
            "base64 {}",
            output::plain(&BASE64.encode(&message.payload), 4000)
        ),
    };
    text.push_str(&format!(
        "  payload   {} bytes: {payload}",
        message.payload.len()
    ));
    text
}

/// Rule and action; a message that no rule ever got has none.
fn origin(letter: &DeadLetter) -> String {
    if letter.rule.is_empty() {
        return "(no rule)".to_owned();
    }
    format!("{}/{}", letter.rule, letter.action)
}

/// UTC, to the second: `2026-01-31 23:59:59Z`.
fn when(at_ms: u64) -> String {
    let seconds = at_ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970 to a date of the Gregorian calendar, in eras of 400 years that begin in March
    // (the leap day is the last day of a year then).
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{date:02} {:02}:{:02}:{:02}Z",
        rest / 3600,
        rest % 3600 / 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::message::{Headers, Message};
    use crate::store::LetterState;

    fn letter(rule: &str, reason: &str, payload: &'static [u8]) -> DeadLetter {
        DeadLetter {
            tenant: TENANT.to_owned(),
            rule: rule.to_owned(),
            action: "mqtt_0".to_owned(),
            stream: "demo".to_owned(),
            message: Message {
                subject: "in/1".into(),
                headers: Headers::from(vec![("k".to_owned(), "v".to_owned())]),
                ..Message::new(payload)
            },
            kind: "permanent".to_owned(),
            code: "mqtt:0x90".to_owned(),
            reason: reason.to_owned(),
            attempts: 2,
            at_ms: 1_769_903_999_000,
        }
    }

    #[test]
    fn a_filter_is_asked_of_the_store_but_for_the_text_of_the_reason() {
        let letter = letter("hot", "The topic is not valid", b"x");
        let filter = |reason: Option<&str>| Filter {
            reason: reason.map(str::to_owned),
            ..Filter::default()
        };
        assert!(filter(None).takes(&letter));
        assert!(filter(Some("TOPIC")).takes(&letter));
        assert!(filter(Some("0x90")).takes(&letter));
        assert!(!filter(Some("quota")).takes(&letter));
        assert_eq!(time("1769903999000"), Ok(1_769_903_999_000));
        let ago = now_ms() - time("2h").unwrap();
        assert!((7_200_000..7_260_000).contains(&ago), "{ago}");
        assert!(time("yesterday").unwrap_err().contains("how long ago"));
    }

    #[test]
    fn a_payload_is_text_where_it_is_text_and_base64_where_it_is_not() {
        let kept = |payload: &'static [u8]| KeptLetter {
            id: 7,
            state: LetterState::Kept,
            payload_bytes: payload.len() as u64,
            letter: letter("hot", "no", payload),
        };
        let value = kept(b"broken one").to_json();
        assert_eq!(
            (&value["id"], &value["payload"]),
            (&json!(7), &json!("broken one"))
        );
        for payload in [&b"text"[..], b"\xff\x00"] {
            let value = kept(payload).to_json();
            let back = KeptLetter::from_json(TENANT, &value).unwrap();
            assert_eq!(back.to_json(), value);
            assert_eq!(back.letter.message.payload, payload);
        }
        assert!(KeptLetter::from_json(TENANT, &json!({"id": 7})).is_none());
        assert_eq!(value["subject"], "in/1");
        assert_eq!(value["headers"], json!([["k", "v"]]));
        let value = kept(b"\xff\x00").to_json();
        assert_eq!(
            (&value["payloadBase64"], &value["bytes"]),
            (&json!("/wA="), &json!(2))
        );
        assert!(value.get("payload").is_none());
    }

    #[test]
    fn lines_cannot_drive_the_terminal_and_name_rule_time_and_reason() {
        let line = as_line(7, &letter("hot", "no\u{1b}[2J", b"a\nb\x1b"));
        assert!(
            line.contains("2026-01-31 23:59:59Z  hot/mqtt_0  in/1  mqtt:0x90: no"),
            "{line}"
        );
        assert!(!line.contains('\u{1b}') && !line.contains('\n'));
        let text = as_text(7, &letter("", "no", b"\xff"));
        assert!(
            text.contains("(no rule)") && text.contains("payload   1 bytes: base64 /w=="),
            "{text}"
        );
    }

    #[test]
    fn dates_are_right_at_the_edges_of_months_and_years() {
        for (at_ms, date) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400_000, "2000-02-29 00:00:00Z"),
            (1_709_251_199_000, "2024-02-29 23:59:59Z"),
            (1_735_689_599_999, "2024-12-31 23:59:59Z"),
            (4_107_542_400_000, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(when(at_ms), date);
        }
    }
}
