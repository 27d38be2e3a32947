//! What eKuiper's `kuiper.yaml` says of the server itself, as far as it means something here: where it
//! listens, TLS, authentication, the log. The rest is named, with the reason why it changes nothing.
//!
//! Names are matched without regard to case: variables of the environment have none.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::super::place::{ManifestError, Place};
use super::{Bundle, Section, what};
use crate::names::nearest;

/// Where eKuiper keeps the public keys of issuers, below `etc`.
const KEYS: &str = "mgmt";
/// Ports unless told, as in eKuiper.
const REST_PORT: u16 = 9081;
const PUSH_PORT: u16 = 10081;

/// What `kuiper.yaml` says of the server; None: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSettings {
    /// `basic.restIp`, `basic.restPort`.
    pub rest: Option<SocketAddr>,
    /// `basic.restTls`: certificate and key.
    pub rest_tls: Option<(PathBuf, PathBuf)>,
    /// `basic.authentication`: the folder `mgmt` of `etc`, with the issuers' public keys.
    pub keys: Option<PathBuf>,
    /// `source.httpServerIp`, `source.httpServerPort`.
    pub push: Option<SocketAddr>,
    /// `source.httpServerTls`.
    pub push_tls: Option<(PathBuf, PathBuf)>,
    /// `basic.logLevel`, `basic.debug`: a level of the log.
    pub log: Option<&'static str>,
}

/// Names that are read, by section.
const READ: &[(&str, &[&str])] = &[
    (
        "basic",
        &[
            "restIp",
            "restPort",
            "restTls",
            "authentication",
            "logLevel",
            "debug",
            "prometheus",
            "prometheusPort",
        ],
    ),
    (
        "source",
        &["httpServerIp", "httpServerPort", "httpServerTls"],
    ),
];

/// Settings that change nothing, and why. Without a name: the whole section.
const WITHOUT_MEANING: &[(&str, &[&str], &str)] = &[
    (
        "basic",
        &["ip", "port"],
        "eKuiper's own command line is not served; that of windlass speaks REST",
    ),
    (
        "basic",
        &[
            "consoleLog",
            "fileLog",
            "logFormat",
            "logDisableTimestamp",
            "rotateTime",
            "maxAge",
            "rotateSize",
            "rotateCount",
            "syslog",
        ],
        "the log goes to stderr; --log-format json makes it JSON",
    ),
    (
        "basic",
        &[
            "pprof",
            "pprofIp",
            "pprofPort",
            "resourceProfileConfig",
            "metricsDumpConfig",
        ],
        "there is no profiler to serve",
    ),
    (
        "basic",
        &["connection"],
        "connections are dialled until they are up, without an end",
    ),
    (
        "basic",
        &["sql"],
        "each connection of type sql has its own maxConnections",
    ),
    ("basic", &["aesKey"], "payloads are not encrypted here"),
    (
        "basic",
        &["pluginHosts", "enablePrivateNet", "allowExternalFileAccess"],
        "connectors are sandboxed: they reach only the connections that they are given",
    ),
    (
        "basic",
        &["gracefulShutdownTimeout"],
        "a host that stops delivers for 10 s at most",
    ),
    (
        "basic",
        &[
            "ignoreCase",
            "rulePatrolInterval",
            "cfgStorageType",
            "timezone",
            "enableOpenZiti",
            "enableRestAuditLog",
            "naturalConcurrency",
        ],
        "nothing here depends on it",
    ),
    ("rule", &[], "each rule's options say it"),
    (
        "sink",
        &[],
        "each action's properties say it; a disk queue is on unless enableCache is false",
    ),
    ("source", &[], "each stream's conf key says it"),
    ("store", &[], "everything is kept in the folder of --data"),
    ("portable", &[], "there are no portable plugins"),
    ("openTelemetry", &[], "there is no tracing"),
    (
        "security",
        &[],
        "each connection has its own TLS properties",
    ),
    ("secret", &[], "secrets are given as env:NAME or file:PATH"),
];

impl Bundle {
    /// What its settings say of the server. `etc`: the folder that files are relative to. Adds to the
    /// remarks what changes nothing.
    ///
    /// # Errors
    /// Values that are not as they must be, each with its pointer.
    pub fn server_settings(&mut self, etc: &Path) -> Result<ServerSettings, Vec<ManifestError>> {
        let settings = std::mem::take(&mut self.settings);
        let mut reading = Reading {
            settings: &settings,
            etc,
            errors: Vec::new(),
        };
        let read = reading.read();
        let errors = reading.errors;
        for (id, message) in without_meaning(&settings) {
            self.remark(Section::Settings, id, message);
        }
        self.settings = settings;
        if errors.is_empty() {
            Ok(read)
        } else {
            Err(errors)
        }
    }
}

struct Reading<'a> {
    settings: &'a Map<String, Value>,
    etc: &'a Path,
    errors: Vec<ManifestError>,
}

/// The value of that name in any case; one that is null is as good as not there.
fn get<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let mut entries = object.iter();
    let found = entries.find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_null());
    found.map(|(_, value)| value)
}

impl Reading<'_> {
    fn read(&mut self) -> ServerSettings {
        let rest = self.address("basic", "restIp", "restPort", REST_PORT);
        let push = self.address("source", "httpServerIp", "httpServerPort", PUSH_PORT);
        let authenticated = self.flag("basic", "authentication");
        let log = if self.flag("basic", "debug") {
            Some("debug")
        } else {
            self.level()
        };
        ServerSettings {
            rest,
            rest_tls: self.tls("basic", "restTls"),
            keys: authenticated.then(|| self.etc.join(KEYS)),
            push,
            push_tls: self.tls("source", "httpServerTls"),
            log,
        }
    }

    fn value(&self, section: &str, name: &str) -> Option<&Value> {
        let section = get(self.settings, section)?;
        get(section.as_object()?, name)
    }

    fn wrong(&mut self, section: &str, name: &str, message: String) {
        let place = Place::whole("kuiper.yaml".into());
        let pointer = format!("/{section}/{name}");
        let message = format!("{section}.{name}: {message}");
        self.errors
            .push(ManifestError::new(place, &pointer, message));
    }

    fn flag(&mut self, section: &str, name: &str) -> bool {
        match self.value(section, name) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                let message = format!("it is true or false, found {}", what(other));
                self.wrong(section, name, message);
                false
            }
        }
    }

    fn text(&mut self, section: &str, name: &str) -> Option<String> {
        match self.value(section, name)? {
            Value::String(text) => Some(text.clone()),
            other => {
                let message = format!("it is text, found {}", what(other));
                self.wrong(section, name, message);
                None
            }
        }
    }

    fn port(&mut self, section: &str, name: &str) -> Option<u16> {
        let value = self.value(section, name)?.clone();
        let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
        if port.is_none() {
            let message = format!("it is a port, from 0 to 65535, found {value}");
            self.wrong(section, name, message);
        }
        port
    }

    /// None where the file names neither.
    fn address(&mut self, section: &str, ip: &str, port: &str, usual: u16) -> Option<SocketAddr> {
        let host = self.text(section, ip);
        let number = self.port(section, port);
        if host.is_none() && number.is_none() {
            return None;
        }
        let host = match host.as_deref() {
            // Unless told otherwise this machine alone.
            None | Some("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some("") => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Some(text) => match text.trim_matches(['[', ']']).parse() {
                Ok(host) => host,
                Err(_) => {
                    let message =
                        format!("it is an address such as 127.0.0.1 or 0.0.0.0, found \"{text}\"");
                    self.wrong(section, ip, message);
                    return None;
                }
            },
        };
        Some(SocketAddr::new(host, number.unwrap_or(usual)))
    }

    fn tls(&mut self, section: &str, name: &str) -> Option<(PathBuf, PathBuf)> {
        let tls = self.value(section, name)?.clone();
        let file = |name: &str| {
            let text = get(tls.as_object()?, name)?.as_str()?;
            (!text.is_empty()).then(|| self.etc.join(text))
        };
        match (file("certfile"), file("keyfile")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) if tls.is_object() => None,
            _ => {
                let message =
                    "it has certfile and keyfile, both PEM, relative to this folder".to_owned();
                self.wrong(section, name, message);
                None
            }
        }
    }

    fn level(&mut self) -> Option<&'static str> {
        let level = self.text("basic", "logLevel")?;
        match level.to_ascii_lowercase().as_str() {
            "" => None,
            "debug" => Some("debug"),
            "info" => Some("info"),
            "warn" | "warning" => Some("warn"),
            "error" | "fatal" | "panic" => Some("error"),
            "trace" => Some("trace"),
            _ => {
                let message = format!(
                    "unknown level \"{level}\"; Allowed: debug, info, warn, error, fatal, panic"
                );
                self.wrong("basic", "logLevel", message);
                None
            }
        }
    }
}

/// What is there and changes nothing: names that have a reason in common, and the reason.
fn without_meaning(settings: &Map<String, Value>) -> Vec<(String, String)> {
    let mut found: Vec<(Vec<String>, String)> = Vec::new();
    let mut add =
        |name: String, why: String| match found.iter_mut().find(|(_, known)| *known == why) {
            Some((names, _)) => names.push(name),
            None => found.push((vec![name], why)),
        };
    for (section, values) in settings {
        let Some(values) = values.as_object() else {
            continue;
        };
        for (name, value) in values.iter().filter(|(_, value)| !value.is_null()) {
            if let Some(why) = reason(section, name, value) {
                add(format!("{section}.{name}"), why);
            }
        }
    }
    let said = |(names, why): (Vec<String>, String)| {
        let verb = if names.len() == 1 {
            "changes"
        } else {
            "change"
        };
        (names.join(", "), format!("{verb} nothing: {why}"))
    };
    found.into_iter().map(said).collect()
}

/// Why a setting changes nothing; None: it does, or it says what is so anyway.
fn reason(section: &str, name: &str, value: &Value) -> Option<String> {
    let same = |known: &&str| known.eq_ignore_ascii_case(name);
    let read = READ
        .iter()
        .find(|(of, _)| of.eq_ignore_ascii_case(section))
        .map_or(&[][..], |(_, names)| *names);
    if read.iter().any(same) {
        let asks_for_port = name.eq_ignore_ascii_case("prometheusPort")
            || (name.eq_ignore_ascii_case("prometheus") && value == &Value::Bool(true));
        return asks_for_port.then(|| {
            "metrics are always at /metrics of REST, and on no port of their own".to_owned()
        });
    }
    let mut listed = WITHOUT_MEANING
        .iter()
        .filter(|(of, _, _)| of.eq_ignore_ascii_case(section));
    if let Some((_, _, why)) =
        listed.find(|(_, names, _)| names.is_empty() || names.iter().any(same))
    {
        return Some((*why).to_owned());
    }
    Some(match nearest(name, read.iter().copied()) {
        Some(near) => format!("it is not known; did you mean {section}.{near}?"),
        None => "it is not known".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(settings: Value) -> (Result<ServerSettings, Vec<String>>, Vec<String>) {
        let Value::Object(settings) = settings else {
            panic!("an object");
        };
        let mut bundle = Bundle {
            settings,
            ..Bundle::default()
        };
        let read = bundle.server_settings(Path::new("/etc/kuiper"));
        let read = read.map_err(|errors| errors.iter().map(ToString::to_string).collect());
        (
            read,
            bundle.remarks.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn addresses_tls_authentication_and_the_level_are_taken() {
        let (read, remarks) = read(json!({
            "basic": {
                "restIp": "0.0.0.0", "restport": 9082, "authentication": true, "logLevel": "WARN",
                "restTls": {"certfile": "rest.crt", "keyfile": "/keys/rest.key"}, "prometheus": false,
            },
            "source": {"httpServerPort": 10082},
        }));
        assert_eq!(
            read.unwrap(),
            ServerSettings {
                rest: Some("0.0.0.0:9082".parse().unwrap()),
                rest_tls: Some(("/etc/kuiper/rest.crt".into(), "/keys/rest.key".into())),
                keys: Some("/etc/kuiper/mgmt".into()),
                push: Some("127.0.0.1:10082".parse().unwrap()),
                push_tls: None,
                log: Some("warn"),
            }
        );
        assert_eq!(remarks, [""; 0]);
        assert_eq!(
            super::tests::read(json!({})).0.unwrap(),
            ServerSettings::default()
        );
    }

    #[test]
    fn what_changes_nothing_is_named_once_with_its_reason() {
        let (read, remarks) = read(json!({
            "basic": {
                "ip": "0.0.0.0", "port": 20498, "debug": true, "prometheus": true, "restPrt": 1,
                "connection": {"backoffMaxElapsedDuration": "3m"},
            },
            "rule": {"qos": 0}, "sink": {"enableCache": false}, "source": {"httpServerTls": {}},
        }));
        assert_eq!(read.unwrap().log, Some("debug"));
        assert_eq!(remarks.len(), 6, "{remarks:#?}");
        assert!(
            remarks[0].contains("basic.ip, basic.port: change nothing"),
            "{remarks:#?}"
        );
        assert!(
            remarks
                .iter()
                .any(|one| one.contains("basic.restPrt")
                    && one.contains("did you mean basic.restPort?")),
            "{remarks:#?}"
        );
        assert!(
            remarks.iter().any(|one| one.contains("/metrics of REST")),
            "{remarks:#?}"
        );
    }

    #[test]
    fn a_wrong_value_is_named_with_its_place() {
        let (read, _) = read(json!({
            "basic": {"restIp": "nowhere", "restPort": 70000, "authentication": "yes", "logLevel": "loud",
                "restTls": {"certfile": "a"}},
        }));
        let errors = read.unwrap_err();
        assert_eq!(errors.len(), 5, "{errors:#?}");
        for (name, words) in [
            ("restIp", "found \"nowhere\""),
            ("restPort", "found 70000"),
            ("authentication", "found text"),
            ("logLevel", "unknown level \"loud\""),
            ("restTls", "certfile and keyfile"),
        ] {
            assert!(
                errors
                    .iter()
                    .any(|error| error.contains(name) && error.contains(words)),
                "{name}: {errors:#?}"
            );
        }
    }
}
