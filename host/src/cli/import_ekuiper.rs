//! `windlass import-ekuiper DIR|FILE|URL`: what of an eKuiper works here, item by item, and a manifest
//! of it. Reads eKuiper and changes nothing there.
//!
//! The items become a manifest, which is checked as `windlass check` checks one. What has mistakes is
//! taken out and the rest is checked again, until the rest is sound: so an item that only needs one
//! that is not supported says so.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::client::context::ServerArguments;
use super::client::render::Table;
use super::folder::Folder;
use super::output::{self, Kind};
use super::{BAD_CONFIG, FAILED};
use crate::config::ekuiper::{Bundle, ConfKind, Section, read_etc, read_export};
use crate::config::{Manifest, ManifestError, Place, Source};
use crate::host::Host;
use crate::progress;

/// Each pass takes out what only the one before has shown: a connection, its conf key, the stream on
/// that, the rule on that.
const MOST_PASSES: usize = 8;
/// The largest export that is read.
const LARGEST: u64 = 256 * 1024 * 1024;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// eKuiper's folder or its `etc`, a file that it exported, or the URL of a running one
    #[arg(value_name = "DIR|FILE|URL")]
    from: String,
    /// Write a manifest of what works
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A file with the token of a running eKuiper ("-": standard input)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    /// Where compiled connectors are kept; ./windlass-data if that is there, else a temporary folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// How an item fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Works,
    Warning,
    Unsupported,
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Warning => "works, with a warning",
            Self::Unsupported => "not supported",
        }
    }
}

/// What is said of one item.
#[derive(Clone, Debug, Default)]
struct Said {
    warnings: Vec<String>,
    reasons: Vec<String>,
}

impl Said {
    fn verdict(&self) -> Verdict {
        match (self.reasons.is_empty(), self.warnings.is_empty()) {
            (false, _) => Verdict::Unsupported,
            (true, false) => Verdict::Warning,
            (true, true) => Verdict::Works,
        }
    }
}

/// All items, in the order in which they depend on each other.
#[derive(Debug, Default)]
struct Report(BTreeMap<(usize, Section, String), Said>);

/// What stands first.
fn rank(section: Section) -> usize {
    const ORDER: [Section; 6] = [
        Section::ConnectionConfig,
        Section::SourceConfig,
        Section::SinkConfig,
        Section::Streams,
        Section::Tables,
        Section::Rules,
    ];
    let place = ORDER.iter().position(|one| *one == section);
    place.unwrap_or(ORDER.len())
}

impl Report {
    fn of(&mut self, section: Section, id: &str) -> &mut Said {
        let key = (rank(section), section, id.to_owned());
        self.0.entry(key).or_default()
    }

    fn is_left_out(&self, section: Section, id: &str) -> bool {
        let key = (rank(section), section, id.to_owned());
        self.0
            .get(&key)
            .is_some_and(|said| !said.reasons.is_empty())
    }

    fn refuse(&mut self, section: Section, id: &str, reason: impl Into<String>) {
        let (reason, said) = (reason.into(), self.of(section, id));
        if !said.reasons.contains(&reason) {
            said.reasons.push(reason);
        }
    }

    fn warn(&mut self, section: Section, id: &str, warning: impl Into<String>) {
        let (warning, said) = (warning.into(), self.of(section, id));
        if !said.warnings.contains(&warning) {
            said.warnings.push(warning);
        }
    }

    fn count(&self, verdict: Verdict) -> usize {
        let verdicts = self.0.values().map(Said::verdict);
        verdicts.filter(|one| *one == verdict).count()
    }

    /// The sentence as it is meant: where it misses an item that was left out, that this is why.
    fn because(&self, message: &str) -> String {
        for ((_, section, id), said) in &self.0 {
            let name = id.rsplit('/').next().unwrap_or(id);
            let missed = format!("there is no {} \"{name}\"", section.item());
            if !said.reasons.is_empty() && message.contains(&missed) {
                return format!(
                    "needs the {} \"{name}\", which is not supported",
                    section.item()
                );
            }
        }
        message.to_owned()
    }
}

pub(super) async fn import(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let bundle = match read(&arguments).await? {
        Ok(bundle) => bundle,
        Err(errors) => {
            output::complain_of(Kind::Error, &errors);
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    };
    let mut report = enter(&bundle);
    let folder = Folder::for_code(arguments.data.as_deref())?;
    let manifest = examine(&bundle, &mut report, folder.path()).await?;
    if let Some(path) = &arguments.output {
        write(path, &manifest, &arguments.from, &report)?;
    }
    if arguments.json {
        output::say_json(&as_json(&report, arguments.output.as_deref()))?;
    } else {
        show(&report)?;
        if let Some(path) = &arguments.output {
            output::say(&format!(
                "{} is written, for its owner alone: it holds what secrets there were",
                path.display()
            ))?;
        }
    }
    Ok(if report.count(Verdict::Unsupported) > 0 {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

async fn read(arguments: &Arguments) -> anyhow::Result<Result<Bundle, Vec<ManifestError>>> {
    let from = arguments.from.as_str();
    if from.starts_with("http://") || from.starts_with("https://") {
        let server = ServerArguments {
            server: Some(from.to_owned()),
            token_file: arguments.token_file.clone(),
            ..ServerArguments::default()
        };
        let rest = server.connect()?.with_bare_token();
        let text = rest
            .text(reqwest::Method::GET, &["data", "export"], &[], None)
            .await?;
        return Ok(read_export(&rest.name(), &text));
    }
    let path = Path::new(from);
    if path.is_dir() {
        return Ok(read_folder(path));
    }
    Ok(read_text(path).and_then(|text| read_export(from, &text)))
}

fn read_text(path: &Path) -> Result<String, Vec<ManifestError>> {
    let whole = |message: String| {
        let place = Place::whole(path.display().to_string().into());
        vec![ManifestError::new(place, "", message)]
    };
    let size = std::fs::metadata(path).map(|data| data.len());
    match size {
        Ok(size) if size > LARGEST => Err(whole(format!(
            "{size} bytes are too many for an export; at most {LARGEST}"
        ))),
        _ => {
            std::fs::read_to_string(path).map_err(|error| whole(format!("cannot be read: {error}")))
        }
    }
}

/// eKuiper's folder: `etc`, and the `init.json` beside it.
fn read_folder(path: &Path) -> Result<Bundle, Vec<ManifestError>> {
    let etc = match path.join("etc") {
        etc if etc.is_dir() => etc,
        _ => path.to_owned(),
    };
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut bundle = read_etc(&etc, &environment)?;
    for init in [etc.join("init.json"), path.join("data/init.json")] {
        if init.is_file() {
            let text = read_text(&init)?;
            bundle.absorb(read_export(&init.display().to_string(), &text)?);
        }
    }
    let store = path.join("data/sqliteKV.db");
    if store.exists() {
        output::complain(&format!(
            "{} is not read: what was made through eKuiper's REST is in its own format there; import it from the running eKuiper (its URL), or from the answer of GET /data/export",
            store.display()
        ));
    } else if bundle.is_empty() {
        let place = Place::whole(path.display().to_string().into());
        let message = "this is no folder of eKuiper: there is no etc/mqtt_source.yaml, etc/sources/*.yaml, etc/connections/connection.yaml or data/init.json in it";
        return Err(vec![ManifestError::new(place, "", message)]);
    }
    Ok(bundle)
}

/// Every item, with what is known of it without a check.
fn enter(bundle: &Bundle) -> Report {
    let mut report = Report::default();
    for item in &bundle.connections {
        report.of(
            Section::ConnectionConfig,
            &format!("{}/{}", item.typ, item.id),
        );
    }
    // What stands in the manifest; `default` of types that no stream has is no item of anybody's.
    for item in bundle.to_manifest(&|_, _| false).items {
        report.of(item.section, &item.id);
    }
    for item in bundle
        .conf_keys
        .iter()
        .filter(|item| item.kind == ConfKind::Sink)
    {
        let id = format!("{}/{}", item.typ, item.key);
        report.warn(
            Section::SinkConfig,
            &id,
            "left out: actions do not read it, in eKuiper neither",
        );
    }
    for table in &bundle.tables {
        report.refuse(
            Section::Tables,
            &table.name,
            "tables serve joins and lookups, which a rule here does not do; look values up downstream, or in a connector with a slot \"sql\"",
        );
    }
    for note in &bundle.left {
        report.refuse(note.section, &note.id, note.message.as_str());
    }
    for note in &bundle.remarks {
        report.warn(note.section, &note.id, note.message.as_str());
    }
    report
}

/// Checks until nothing is wrong with what is left: that, as a manifest.
async fn examine(bundle: &Bundle, report: &mut Report, code: &Path) -> anyhow::Result<String> {
    for _ in 0..MOST_PASSES {
        let made = bundle.to_manifest(&|section, id| report.is_left_out(section, id));
        if made.items.is_empty() {
            return Ok(String::new());
        }
        let source = Source {
            name: "manifest".to_owned(),
            text: made.text.clone(),
            base: PathBuf::new(),
        };
        let (manifest, mut errors) = Manifest::parse(&[source], &|_| None);
        let mut warnings = manifest.warnings.clone();
        if errors.is_empty() {
            // Progress goes to stderr: stdout is the one answer.
            let progress = progress::choose(false);
            let checked = Host::check(&manifest, code, false, &*progress).await?;
            errors = checked.errors;
            warnings.extend(checked.warnings);
        }
        if errors.is_empty() {
            for warning in warnings {
                if let Some(item) = made.item(&warning.pointer) {
                    report.warn(item.section, &item.id, warning.message);
                }
            }
            return Ok(made.text);
        }
        for error in errors {
            let item = made.item(&error.pointer).with_context(|| {
                format!(
                    "a mistake belongs to no item: {} {}",
                    error.pointer, error.message
                )
            })?;
            let reason = report.because(&error.message);
            report.refuse(item.section, &item.id, reason);
        }
    }
    anyhow::bail!("after {MOST_PASSES} passes there are still mistakes")
}

fn show(report: &Report) -> anyhow::Result<()> {
    let mut table = Table::new(&["WHAT", "ID", "", "WHY"]);
    for ((_, section, id), said) in &report.0 {
        let verdict = said.verdict();
        let words = said.reasons.iter().chain(&said.warnings);
        let mut words = words.map(String::as_str);
        let first = words.next().unwrap_or_default();
        table.row(&[section.item(), id, verdict.words(), first]);
        words.for_each(|more| table.row(&["", "", "", more]));
    }
    table.say("nothing is defined there")?;
    if report.0.is_empty() {
        return Ok(());
    }
    output::say(&format!(
        "{} work, {} with a warning, {} not supported",
        report.count(Verdict::Works),
        report.count(Verdict::Warning),
        report.count(Verdict::Unsupported),
    ))?;
    Ok(())
}

fn as_json(report: &Report, output: Option<&Path>) -> serde_json::Value {
    let items: Vec<_> = report
        .0
        .iter()
        .map(|((_, section, id), said)| {
            json!({
                "kind": section.item(), "id": id, "verdict": said.verdict(),
                "reasons": said.reasons, "warnings": said.warnings,
            })
        })
        .collect();
    json!({
        "items": items,
        "works": report.count(Verdict::Works),
        "warnings": report.count(Verdict::Warning),
        "unsupported": report.count(Verdict::Unsupported),
        "output": output,
    })
}

/// A new file, for its owner alone.
fn write(path: &Path, manifest: &str, from: &str, report: &Report) -> anyhow::Result<()> {
    let mut text = format!("# From {}\n", output::plain(from, 500));
    for ((_, section, id), said) in &report.0 {
        for reason in &said.reasons {
            text.push_str(&format!(
                "# left out: {} {}: {}\n",
                section.item(),
                output::plain(id, 200),
                output::plain(reason, 1000)
            ));
        }
    }
    text.push_str(manifest);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let shown = path.display();
    let mut file = options.open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            anyhow::anyhow!("{shown} is there already; remove it, or name another file")
        }
        _ => anyhow::Error::new(error).context(format!("{shown} cannot be written")),
    })?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("{shown} cannot be written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_an_item_that_is_left_out_says_so() {
        let mut report = Report::default();
        report.refuse(Section::Streams, "cam", "there is no connector \"video\"");
        report.of(Section::Streams, "demo");
        assert_eq!(
            report.because("there is no stream \"cam\"; there is \"demo\""),
            "needs the stream \"cam\", which is not supported"
        );
        let other = "there is no stream \"dmo\"; did you mean \"demo\"?";
        assert_eq!(report.because(other), other);
        report.refuse(
            Section::ConnectionConfig,
            "kafka/bus",
            "unknown connection type",
        );
        assert_eq!(
            report.because("there is no connection \"bus\"; there is none"),
            "needs the connection \"bus\", which is not supported"
        );
    }

    #[test]
    fn items_stand_in_the_order_in_which_they_depend_on_each_other() {
        let mut report = Report::default();
        report.warn(Section::Rules, "r", "a");
        report.refuse(Section::NativePlugins, "p", "b");
        report.of(Section::ConnectionConfig, "mqtt/c");
        report.of(Section::Streams, "s");
        let order: Vec<_> = report.0.keys().map(|(_, section, _)| *section).collect();
        assert_eq!(
            order,
            [
                Section::ConnectionConfig,
                Section::Streams,
                Section::Rules,
                Section::NativePlugins
            ]
        );
        let counts = [Verdict::Works, Verdict::Warning, Verdict::Unsupported]
            .map(|verdict| report.count(verdict));
        assert_eq!(counts, [2, 1, 1]);
    }
}
