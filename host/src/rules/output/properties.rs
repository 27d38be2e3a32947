//! Reads the common properties of an action. Names as in eKuiper, in any case.

use std::time::Duration;

use serde_json::{Map, Value};

use super::OutputPlan;
use super::batcher::{Bounds, LINGER};
use super::encode::{Compression, METHODS, OutputFormat};
use super::rendered::Rendered;
use super::template::{DynamicProperty, Template};
use crate::connections::ConfigError;
use crate::rules::query::hint;

/// What the properties of an action gave.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The steps.
    pub plan: OutputPlan,
    /// Properties that were used here, spelled as they stand in the action. The rest belongs to the
    /// connector and to the queue.
    pub consumed: Vec<String>,
    /// Properties that change nothing: a sentence each, at its place.
    pub warnings: Vec<ConfigError>,
}

/// The longest `lingerInterval`: what lingers is not settled, and holds the window upstream.
const MOST_LINGER: Duration = Duration::from_secs(3600);
pub(super) const FORMATS: [&str; 4] = ["json", "binary", "delimited", "urlencoded"];
const FOREIGN_FORMATS: [&str; 3] = ["protobuf", "custom", "xml"];

pub(super) const IGNORED: [(&str, &str); 2] = [
    (
        "concurrency",
        "an action writes one batch after the other, so that messages keep their order",
    ),
    ("schemaId", "no format needs a schema"),
];

impl OutputPlan {
    /// Names of all properties that are read here.
    pub const PROPERTIES: [&'static str; 18] = [
        "sendSingle",
        "fields",
        "excludeFields",
        "dataTemplate",
        "dataField",
        "tableDataField",
        "omitIfEmpty",
        "batchSize",
        "lingerInterval",
        "format",
        "delimiter",
        "hasHeader",
        "compression",
        "compressionProps",
        "encryption",
        "encProps",
        "concurrency",
        "schemaId",
    ];

    /// Reads the common properties out of those of an action. `kept` names properties that the
    /// connector reads itself under the same name; they are left alone.
    ///
    /// # Errors
    /// All mistakes at once, each at its JSON Pointer below the action's properties.
    pub fn from_properties(
        properties: &Map<String, Value>,
        kept: &[&str],
    ) -> Result<Planned, Vec<ConfigError>> {
        let mut reader = Reader {
            properties,
            kept,
            consumed: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        };
        let plan = reader.plan();
        if reader.errors.is_empty() {
            return Ok(Planned {
                plan,
                consumed: reader.consumed,
                warnings: reader.warnings,
            });
        }
        Err(reader.errors)
    }
}

/// The properties with `{{...}}` in them, texts or lists of texts, that are not among `consumed`: their
/// names and what to render. For [`OutputPlan::with_dynamic`].
///
/// # Errors
/// All templates that cannot be read, each with the place in it.
pub fn dynamic_properties(
    properties: &Map<String, Value>,
    consumed: &[String],
) -> Result<Vec<(String, Rendered)>, Vec<ConfigError>> {
    let (mut dynamic, mut errors) = (Vec::new(), Vec::new());
    for (name, value) in properties {
        if !is_dynamic(value) || consumed.contains(name) {
            continue;
        }
        let rendered = match value {
            Value::Array(items) => items
                .iter()
                .filter_map(Value::as_str)
                .map(DynamicProperty::parse)
                .collect::<Result<_, _>>()
                .map(Rendered::List),
            other => DynamicProperty::parse(other.as_str().unwrap_or_default()).map(Rendered::Text),
        };
        match rendered {
            Ok(rendered) => dynamic.push((name.clone(), rendered)),
            Err(error) => errors.push(ConfigError::new(pointer(name), error.to_string())),
        }
    }
    if errors.is_empty() {
        Ok(dynamic)
    } else {
        Err(errors)
    }
}

/// Whether a property has to be rendered for each row.
#[must_use]
pub fn is_dynamic(value: &Value) -> bool {
    match value {
        Value::String(text) => DynamicProperty::is_dynamic(text),
        Value::Array(items) => items
            .iter()
            .filter_map(Value::as_str)
            .any(DynamicProperty::is_dynamic),
        _ => false,
    }
}

fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

struct Reader<'a> {
    properties: &'a Map<String, Value>,
    kept: &'a [&'a str],
    consumed: Vec<String>,
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    /// The property of that name; null counts as absent.
    fn take(&mut self, name: &str) -> Option<(&'a str, &'a Value)> {
        if self.kept.iter().any(|kept| kept.eq_ignore_ascii_case(name)) {
            return None;
        }
        let (key, value) = self
            .properties
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        self.consumed.push(key.clone());
        (!value.is_null()).then_some((key.as_str(), value))
    }

    fn fail(&mut self, key: &str, message: impl Into<String>) {
        self.errors.push(ConfigError::new(pointer(key), message));
    }

    fn warn(&mut self, key: &str, message: impl Into<String>) {
        self.warnings.push(ConfigError::new(pointer(key), message));
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.take(name) {
            None => false,
            Some((_, Value::Bool(value))) => *value,
            Some((_, Value::String(text))) if text.eq_ignore_ascii_case("true") => true,
            Some((_, Value::String(text))) if text.eq_ignore_ascii_case("false") => false,
            Some((key, other)) => {
                self.fail(key, format!("{name} takes true or false, found {other}"));
                false
            }
        }
    }

    fn text(&mut self, name: &str) -> Option<(&'a str, &'a str)> {
        let (key, value) = self.take(name)?;
        match value.as_str() {
            Some("") => None,
            Some(text) => Some((key, text)),
            None => {
                self.fail(key, format!("{name} takes a text"));
                None
            }
        }
    }

    fn names(&mut self, name: &str) -> Vec<String> {
        let Some((key, value)) = self.take(name) else {
            return Vec::new();
        };
        let names = value.as_array().map(|items| {
            items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        });
        match names {
            Some(Some(names)) => names,
            _ => {
                self.fail(key, format!("{name} takes a list of names"));
                Vec::new()
            }
        }
    }

    fn plan(&mut self) -> OutputPlan {
        for (name, why) in IGNORED {
            if let Some((key, _)) = self.take(name) {
                self.warn(key, format!("{name} changes nothing here: {why}"));
            }
        }
        self.encryption();
        let fields = self.names("fields");
        let exclude_fields = self.names("excludeFields");
        if !fields.is_empty() && !exclude_fields.is_empty() {
            self.fail(
                "excludeFields",
                "fields and excludeFields cannot both be given",
            );
        }
        let data_field = self.text("dataField").map(|(_, text)| text.to_owned());
        let alias = self.text("tableDataField");
        if let (Some(field), Some((key, alias))) = (&data_field, alias)
            && field != alias
        {
            self.fail(
                key,
                "dataField and tableDataField name the same thing; give one of them",
            );
        }
        let data_template = self.text("dataTemplate").and_then(|(key, text)| {
            Template::parse(text)
                .map_err(|error| self.fail(key, error.to_string()))
                .ok()
        });
        let send_single = self.flag("sendSingle");
        let format = self.format();
        let batching = self.batching();
        let batching = match (&batching, send_single, &format) {
            (Some(_), _, OutputFormat::Urlencoded) => {
                self.fail("batchSize", "forms cannot be put together; take another format, or leave out batchSize and lingerInterval");
                None
            }
            (Some(_), _, OutputFormat::Binary) => {
                self.fail("batchSize", "binary payloads cannot be put together; take another format, or leave out batchSize and lingerInterval");
                None
            }
            (Some(_), true, _) => {
                self.warn("sendSingle", "with sendSingle each row is a payload of its own: batchSize and lingerInterval change nothing");
                None
            }
            _ => batching,
        };
        OutputPlan {
            send_single,
            fields,
            exclude_fields,
            data_template,
            data_field: data_field.or_else(|| alias.map(|(_, text)| text.to_owned())),
            omit_if_empty: self.flag("omitIfEmpty"),
            format,
            compression: self.compression(),
            batching,
            dynamic: Vec::new(),
            key: None,
        }
    }

    /// Nobody may believe that a payload is encrypted when it is not.
    fn encryption(&mut self) {
        let properties = self.take("encProps");
        let encryption = self.text("encryption");
        if let Some((key, _)) = encryption.or(properties.map(|(key, _)| (key, ""))) {
            self.fail(key, "payloads are not encrypted here; use a connection with TLS, or let a connector encrypt, and take this property out");
        }
    }

    fn format(&mut self) -> OutputFormat {
        let delimiter = self.text("delimiter");
        let header = self.flag("hasHeader");
        let Some((key, format)) = self.text("format") else {
            return OutputFormat::Json;
        };
        match format.to_ascii_lowercase().as_str() {
            "json" => OutputFormat::Json,
            "binary" => OutputFormat::Binary,
            "urlencoded" => OutputFormat::Urlencoded,
            "delimited" => OutputFormat::Delimited {
                delimiter: delimiter.map_or(",", |(_, text)| text).to_owned(),
                header,
            },
            foreign if FOREIGN_FORMATS.contains(&foreign) => {
                self.fail(key, format!("format \"{foreign}\" is not written by the host; let the connector write it. Allowed: {}", FORMATS.join(", ")));
                OutputFormat::Json
            }
            other => {
                let hint = hint(other, FORMATS);
                self.fail(
                    key,
                    format!(
                        "unknown format \"{other}\"{hint} Allowed: {}",
                        FORMATS.join(", ")
                    ),
                );
                OutputFormat::Json
            }
        }
    }

    fn batching(&mut self) -> Option<Bounds> {
        let rows = match self.take("batchSize") {
            None => None,
            Some((key, value)) => match value.as_i64() {
                Some(0) => None,
                Some(size) if size > 0 => usize::try_from(size).ok(),
                _ => {
                    self.fail(key, format!("invalid batchSize {value}: it takes a whole number from 0, which means none"));
                    None
                }
            },
        };
        let linger = match self.take("lingerInterval") {
            None => None,
            Some((key, value)) => match duration(value) {
                Some(Duration::ZERO) => None,
                Some(linger) if linger <= MOST_LINGER => Some(linger),
                _ => {
                    self.fail(key, format!("invalid lingerInterval {value}: it takes milliseconds, or a text such as \"500ms\" or \"1m30s\", up to 1h"));
                    None
                }
            },
        };
        (rows.is_some() || linger.is_some()).then(|| Bounds {
            rows,
            linger: linger.unwrap_or(LINGER),
        })
    }

    fn compression(&mut self) -> Option<Compression> {
        let level = self.take("compressionProps");
        let (key, name) = self.text("compression")?;
        let known = METHODS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        let Some((_, method)) = known else {
            let names = METHODS.map(|(name, _)| name);
            let hint = hint(name, names);
            self.fail(
                key,
                format!(
                    "unknown compression \"{name}\"{hint} Allowed: {}",
                    names.join(", ")
                ),
            );
            return None;
        };
        let mut compression = Compression {
            method: *method,
            level: None,
        };
        if let Some((key, value)) = level {
            let most = if name.eq_ignore_ascii_case("zstd") {
                22
            } else {
                9
            };
            for (name, value) in value.as_object().into_iter().flatten() {
                match (name.as_str(), value.as_i64()) {
                    ("level", Some(level)) if (0..=most).contains(&level) => {
                        compression.level = i32::try_from(level).ok();
                    }
                    ("level", _) => self.fail(
                        key,
                        format!("level takes a whole number from 0 to {most}, found {value}"),
                    ),
                    _ => self.warn(
                        key,
                        format!("\"{name}\" changes nothing here; known: level"),
                    ),
                }
            }
        }
        Some(compression)
    }
}

/// Milliseconds, or Go's notation: `1h2m3s`, `500ms`, `1.5s`.
fn duration(value: &Value) -> Option<Duration> {
    if let Some(milliseconds) = value.as_u64() {
        return Some(Duration::from_millis(milliseconds));
    }
    let mut rest = value.as_str()?;
    if let Ok(milliseconds) = rest.parse() {
        return Some(Duration::from_millis(milliseconds));
    }
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, unit) = rest.split_at(digits);
        let end = unit
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(unit.len());
        let (unit, after) = unit.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(
            Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?,
        )?;
        rest = after;
    }
    Some(total)
}
