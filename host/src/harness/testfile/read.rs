//! A test file to cases: which connector, in which role, over which scripted connections, and what is
//! expected. The connector is loaded in between: its slots and its schema say what may stand there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::expect;
use super::fields::Fields;
use crate::config::{Document, ManifestError, pointer_to, unknown};
use crate::connections::{HttpResponse, Interface, Rows, SqlValue};
use crate::harness::properties;
use crate::harness::scripted::{Answer, Script, SqlAnswer};
use crate::message::Message;
use crate::runtime::{Connector, Slot};

/// What a file may say for all its cases, and each case anew.
const KEYS: [&str; 12] = [
    "name",
    "connector",
    "role",
    "config",
    "connections",
    "resume",
    "recycle",
    "reads",
    "settle",
    "timeout",
    "write",
    "expect",
];
/// How long a case may take, in milliseconds, unless it says otherwise.
const TIMEOUT_MS: u64 = 10_000;
/// The longest that it may say.
const LONGEST_MS: u64 = 600_000;

/// The cases of one file, as far as they can be read without the connector.
#[derive(Debug)]
pub struct TestFile {
    document: Document,
    folder: PathBuf,
    /// Where each case stands; the whole file where it has no list of cases.
    cases: Vec<String>,
}

/// Which connector a case is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorName {
    /// As it is written.
    pub word: String,
    /// The file that it would be.
    pub path: PathBuf,
    /// Where it is written.
    pub pointer: String,
}

/// Something to be tried.
#[derive(Debug)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// The line where it begins.
    pub line: u32,
    /// As a source, else as a sink.
    pub is_source: bool,
    /// What the connector gets as its configuration.
    pub config: String,
    /// What is granted: slot, interface, script.
    pub connections: Vec<(String, Interface, Script)>,
    /// The checkpoint at which a source begins.
    pub resume: Option<String>,
    /// A new instance for every call.
    pub recycle: bool,
    /// So many reads, not more and not fewer.
    pub reads: Option<u32>,
    /// What is read is settled.
    pub settle: bool,
    /// How long it may take.
    pub timeout: Duration,
    /// The batches that a sink gets.
    pub write: Vec<Vec<Message>>,
    /// What is expected, checked; compared as JSON.
    pub(super) expect: Value,
}

impl TestFile {
    /// Reads a file.
    ///
    /// # Errors
    /// What is no YAML, and keys that mean nothing.
    pub fn read(path: &Path) -> Result<Self, Vec<ManifestError>> {
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Self::of(Document::read(path)?, folder)
    }

    fn of(document: Document, folder: PathBuf) -> Result<Self, Vec<ManifestError>> {
        let mut fields = Fields::new(&document);
        let mut cases = Vec::new();
        let mut keys = KEYS.to_vec();
        keys.push("cases");
        if let Some(file) = fields.mapping(&document.value, "", &keys) {
            match file.get("cases") {
                None => cases.push(String::new()),
                Some(list) => {
                    for (index, case) in fields
                        .list(list, "/cases")
                        .into_iter()
                        .flatten()
                        .enumerate()
                    {
                        let pointer = format!("/cases/{index}");
                        fields.mapping(case, &pointer, &KEYS);
                        cases.push(pointer);
                    }
                    if cases.is_empty() && fields.errors.is_empty() {
                        fields.wrong("/cases", "there is no case in \"cases\"");
                    }
                }
            }
        }
        let errors = fields.errors;
        if errors.is_empty() {
            Ok(Self {
                document,
                folder,
                cases,
            })
        } else {
            Err(errors)
        }
    }

    /// How many cases it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// It has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// A mistake at a place of this file.
    #[must_use]
    pub fn error(&self, pointer: &str, message: impl Into<String>) -> ManifestError {
        self.document.error(pointer, message)
    }

    /// What a case says under a key, or else the file for all of them.
    fn find(&self, case: &str, key: &str) -> Option<(&Value, String)> {
        [case, ""].into_iter().find_map(|above| {
            let pointer = pointer_to(above, key);
            let value = self.document.value.pointer(&pointer)?;
            Some((value, pointer))
        })
    }

    /// Which connector a case is about; None: it does not say.
    ///
    /// # Errors
    /// It says it in a wrong way.
    pub fn connector(&self, index: usize) -> Result<Option<ConnectorName>, ManifestError> {
        let case = self.cases.get(index).map_or("", String::as_str);
        let Some((value, pointer)) = self.find(case, "connector") else {
            return Ok(None);
        };
        match value.as_str().filter(|word| !word.is_empty()) {
            Some(word) => Ok(Some(ConnectorName {
                word: word.to_owned(),
                path: self.folder.join(word),
                pointer,
            })),
            None => Err(self.error(
                &pointer,
                "\"connector\" must be text: a component's file, or the name of a bundled connector",
            )),
        }
    }

    /// A case for the connector that it is about.
    ///
    /// # Errors
    /// All its mistakes.
    pub fn case(&self, index: usize, connector: &Connector) -> Result<Case, Vec<ManifestError>> {
        let pointer = self.cases.get(index).map_or("", String::as_str);
        let mut fields = Fields::new(&self.document);
        let case = self.read_case(&mut fields, pointer, index, connector);
        match case {
            Some(case) if fields.errors.is_empty() => Ok(case),
            _ => Err(fields.errors),
        }
    }

    fn read_case(
        &self,
        fields: &mut Fields<'_>,
        case: &str,
        index: usize,
        connector: &Connector,
    ) -> Option<Case> {
        let name = match self.document.value.pointer(&pointer_to(case, "name")) {
            Some(name) => fields.text(name, &pointer_to(case, "name")),
            None if case.is_empty() => Some(String::new()),
            None => Some(format!("case {}", index + 1)),
        };
        let is_source = self.role(fields, case, connector);
        let slots = &connector.descriptor.slots;
        let connections = self.connections(fields, case, slots);
        let resume = self
            .find(case, "resume")
            .filter(|(value, _)| !value.is_null());
        let resume = resume.and_then(|(value, at)| fields.text(value, &at));
        let mut flag = |key: &str, or: bool| match self.find(case, key) {
            Some((value, at)) => fields.boolean(value, &at).unwrap_or(or),
            None => or,
        };
        let (recycle, settle) = (flag("recycle", false), flag("settle", true));
        let reads = self.find(case, "reads");
        let reads = reads.and_then(|(value, at)| fields.number(value, &at, 1_000_000));
        let timeout = match self.find(case, "timeout") {
            Some((value, at)) => duration(fields, value, &at),
            None => TIMEOUT_MS,
        };
        let write = match self.find(case, "write") {
            Some((value, at)) => batches(fields, value, &at),
            None => Vec::new(),
        };
        let expect = match self.find(case, "expect") {
            Some((value, at)) => {
                expect::check(fields, value, &at);
                value.clone()
            }
            None => {
                fields.wrong(case, "\"expect\" is missing: what must come out");
                Value::Null
            }
        };
        let is_source = is_source?;
        self.fits_role(fields, case, is_source);
        let role = if is_source { "source" } else { "sink" };
        let config = self.config(fields, case, connector, role);
        let line = self.document.locate(case).line.max(1);
        Some(Case {
            name: name?,
            line,
            is_source,
            config: config?,
            connections,
            resume,
            recycle,
            reads,
            settle,
            timeout: Duration::from_millis(timeout),
            write,
            expect,
        })
    }

    /// Whether it is a source.
    fn role(&self, fields: &mut Fields<'_>, case: &str, connector: &Connector) -> Option<bool> {
        let has = |is_source| match is_source {
            true => connector.has_source,
            false => connector.has_sink,
        };
        let Some((value, at)) = self.find(case, "role") else {
            if connector.has_source && connector.has_sink {
                fields.wrong(
                    case,
                    "\"role\" is missing: this connector is a source and a sink",
                );
                return None;
            }
            return Some(connector.has_source);
        };
        let word = fields.text(value, &at)?;
        let is_source = match word.as_str() {
            "source" => true,
            "sink" => false,
            other => {
                fields.wrong(&at, unknown("role", other, &["source", "sink"]));
                return None;
            }
        };
        if !has(is_source) {
            fields.wrong(&at, format!("this connector is no {word}"));
            return None;
        }
        Some(is_source)
    }

    /// A source is not written to, and a sink is not read.
    fn fits_role(&self, fields: &mut Fields<'_>, case: &str, is_source: bool) {
        let strangers: &[&str] = match is_source {
            true => &["write"],
            false => &["resume", "reads", "settle"],
        };
        for key in strangers {
            if let Some((_, at)) = self.find(case, key) {
                let other = if is_source { "sink" } else { "source" };
                fields.wrong(&at, format!("\"{key}\" is for a {other}"));
            }
        }
        if !is_source && self.find(case, "write").is_none() {
            fields.wrong(
                case,
                "\"write\" is missing: the messages that the sink gets",
            );
        }
    }

    fn config(
        &self,
        fields: &mut Fields<'_>,
        case: &str,
        connector: &Connector,
        role: &str,
    ) -> Option<String> {
        let (properties, at) = match self.find(case, "config") {
            Some((Value::Object(map), at)) => (map.clone(), at),
            Some((_, at)) => {
                fields.wrong(&at, "\"config\" must be a mapping of properties");
                return None;
            }
            None => (Map::new(), pointer_to(case, "config")),
        };
        match properties::apply(connector, role, properties) {
            Ok(config) => Some(config),
            Err(mistakes) => {
                for mistake in mistakes {
                    let pointer = format!("{at}{}", mistake.pointer);
                    let error = match mistake.is_name {
                        true => self.document.error_at_key(&pointer, mistake.message),
                        false => self.document.error(&pointer, mistake.message),
                    };
                    fields.errors.push(error);
                }
                None
            }
        }
    }

    fn connections(
        &self,
        fields: &mut Fields<'_>,
        case: &str,
        slots: &[Slot],
    ) -> Vec<(String, Interface, Script)> {
        let names: Vec<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
        let given = match self.find(case, "connections") {
            Some((Value::Object(map), at)) => {
                for name in map.keys().filter(|name| !names.contains(&name.as_str())) {
                    let at = pointer_to(&at, name);
                    let sentence = match names.is_empty() {
                        true => "this connector needs no connection".to_owned(),
                        false => unknown("slot", name, &names),
                    };
                    fields
                        .errors
                        .push(self.document.error_at_key(&at, sentence));
                }
                Some((map, at))
            }
            Some((_, at)) => {
                fields.wrong(
                    &at,
                    "\"connections\" must be a mapping: slot to what it gives",
                );
                None
            }
            None => None,
        };
        let mut connections = Vec::new();
        for slot in slots {
            let written = given
                .as_ref()
                .and_then(|(map, at)| Some((map.get(&slot.name)?, pointer_to(at, &slot.name))));
            let script = match written {
                // Said to be missing, or needed by nobody.
                Some((Value::Null, _)) => continue,
                None if slot.optional => continue,
                None => Script::default(),
                Some((value, at)) => script(fields, slot.interface, value, &at),
            };
            connections.push((slot.name.clone(), slot.interface, script));
        }
        connections
    }
}

/// Milliseconds, or text such as `5s`.
fn duration(fields: &mut Fields<'_>, value: &Value, at: &str) -> u64 {
    let found = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => {
            crate::config::duration(text).and_then(|time| u64::try_from(time.as_millis()).ok())
        }
        _ => None,
    };
    match found.filter(|found| (1..=LONGEST_MS).contains(found)) {
        Some(found) => found,
        None => {
            fields.wrong(
                at,
                "\"timeout\" must be milliseconds or text like \"5s\", 10m at most",
            );
            TIMEOUT_MS
        }
    }
}

/// One batch, or a list of them.
fn batches(fields: &mut Fields<'_>, value: &Value, at: &str) -> Vec<Vec<Message>> {
    let Some(items) = fields.list(value, at) else {
        return Vec::new();
    };
    if !items.is_empty() && items.iter().all(Value::is_array) {
        let each = items.iter().enumerate();
        return each
            .map(|(index, item)| fields.messages(item, &format!("{at}/{index}")))
            .collect();
    }
    vec![fields.messages(value, at)]
}

fn script(fields: &mut Fields<'_>, interface: Interface, value: &Value, at: &str) -> Script {
    let allowed: &[&str] = match interface {
        Interface::Messaging => &["messages", "subscribe", "receive", "publish"],
        Interface::Http => &["answers"],
        Interface::Sql => &["dialect", "answers"],
    };
    let mut script = Script::default();
    let Some(map) = fields.mapping(value, at, allowed) else {
        return script;
    };
    for (key, value) in map {
        let at = pointer_to(at, key);
        match key.as_str() {
            "messages" => script.messages = fields.messages(value, &at),
            "subscribe" => script.subscribe = failure(fields, value, &at),
            "receive" => script.receive = failure(fields, value, &at),
            "publish" => script.publish = publishes(fields, value, &at).into(),
            "dialect" => script.dialect = dialect(fields, value, &at),
            "answers" if interface == Interface::Http => {
                script.http = answers(fields, value, &at, &HTTP, http_answer);
            }
            "answers" if interface == Interface::Sql => {
                script.sql = answers(fields, value, &at, &SQL, sql_answer);
            }
            _ => {}
        }
    }
    script
}

/// `{ error: ... }`.
fn failure(
    fields: &mut Fields<'_>,
    value: &Value,
    at: &str,
) -> Option<crate::error::ConnectionError> {
    let map = fields.mapping(value, at, &["error"])?;
    fields.error_under(map, at)
}

type Published = Result<Vec<crate::message::Rejection>, crate::error::ConnectionError>;

fn publishes(fields: &mut Fields<'_>, value: &Value, at: &str) -> Vec<Published> {
    let items = fields.list(value, at).into_iter().flatten();
    let mut answers = Vec::new();
    for (index, item) in items.enumerate() {
        let at = format!("{at}/{index}");
        if item == "ok" {
            answers.push(Ok(Vec::new()));
            continue;
        }
        if item.is_string() {
            fields.wrong(
                &at,
                "an answer to publishing is ok, { reject: [...] } or { error: ... }",
            );
            continue;
        }
        let Some(map) = fields.mapping(item, &at, &["reject", "error"]) else {
            continue;
        };
        if let Some(error) = fields.error_under(map, &at) {
            answers.push(Err(error));
        } else if let Some(list) = map.get("reject") {
            let list = fields.rejections(list, &pointer_to(&at, "reject"));
            answers.push(Ok(list.unwrap_or_default()));
        }
    }
    answers
}

fn dialect(fields: &mut Fields<'_>, value: &Value, at: &str) -> Option<&'static str> {
    const KNOWN: [&str; 3] = ["sqlite", "postgresql", "mysql"];
    let word = fields.text(value, at)?;
    let found = KNOWN.into_iter().find(|known| *known == word);
    if found.is_none() {
        fields.wrong(at, unknown("dialect", &word, &KNOWN));
    }
    found
}

const HTTP: [&str; 9] = [
    "method", "path", "status", "json", "text", "base64", "headers", "error", "repeat",
];
const SQL: [&str; 6] = ["statement", "columns", "rows", "changed", "error", "repeat"];

type ReadAnswer<T> = fn(&mut Fields<'_>, &Map<String, Value>, &str) -> Option<T>;

fn answers<T>(
    fields: &mut Fields<'_>,
    value: &Value,
    at: &str,
    allowed: &[&str],
    read: ReadAnswer<T>,
) -> Vec<Answer<T>> {
    let items = fields.list(value, at).into_iter().flatten();
    let mut found = Vec::new();
    for (index, item) in items.enumerate() {
        let at = format!("{at}/{index}");
        let Some(map) = fields.mapping(item, &at, allowed) else {
            continue;
        };
        let mut word = |key: &str| {
            let value = map.get(key)?;
            fields.text(value, &pointer_to(&at, key))
        };
        let (method, path, statement) = (word("method"), word("path"), word("statement"));
        let repeat = map
            .get("repeat")
            .is_some_and(|value| fields.boolean(value, &pointer_to(&at, "repeat")) == Some(true));
        let answer = match fields.error_under(map, &at) {
            Some(error) => Err(error),
            None => match read(fields, map, &at) {
                Some(answer) => Ok(answer),
                None => continue,
            },
        };
        found.push(Answer {
            method,
            pattern: path.or(statement),
            repeat,
            used: false,
            answer,
        });
    }
    found
}

fn http_answer(
    fields: &mut Fields<'_>,
    map: &Map<String, Value>,
    at: &str,
) -> Option<HttpResponse> {
    let status = match map.get("status") {
        Some(value) => fields.number(value, &pointer_to(at, "status"), 999)?,
        None => 200,
    };
    let mut headers = fields.headers(map, at);
    for (name, _) in &mut headers {
        name.make_ascii_lowercase();
    }
    let body = fields.payload(map, at).unwrap_or_default();
    Some(HttpResponse {
        status: u16::try_from(status).ok()?,
        headers,
        body: body.into(),
        truncated: false,
    })
}

fn sql_answer(fields: &mut Fields<'_>, map: &Map<String, Value>, at: &str) -> Option<SqlAnswer> {
    let changed = match map.get("changed") {
        Some(value) => Some(fields.number(value, &pointer_to(at, "changed"), u32::MAX)?),
        None => None,
    };
    let mut columns = Vec::new();
    if let Some(value) = map.get("columns") {
        let at = pointer_to(at, "columns");
        for (index, name) in fields.list(value, &at)?.iter().enumerate() {
            columns.push(fields.text(name, &format!("{at}/{index}"))?);
        }
    }
    let mut rows: Vec<Vec<SqlValue>> = Vec::new();
    if let Some(value) = map.get("rows") {
        let at = pointer_to(at, "rows");
        for (index, row) in fields.list(value, &at)?.iter().enumerate() {
            let at = format!("{at}/{index}");
            let mut values = Vec::new();
            for (place, value) in fields.list(row, &at)?.iter().enumerate() {
                values.push(fields.sql(value, &format!("{at}/{place}"))?);
            }
            if values.len() != columns.len() {
                let (found, wanted) = (values.len(), columns.len());
                fields.wrong(
                    &at,
                    format!("this row has {found} values for {wanted} columns"),
                );
                return None;
            }
            rows.push(values);
        }
    }
    Some(SqlAnswer {
        rows: Rows {
            columns,
            rows,
            truncated: false,
        },
        changed,
    })
}
