//! The properties of a database connection: `dburl` as eKuiper has it, and bounds. Reads a JSON
//! object and gives a checked configuration; opens no database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::dburl::{self, Target};
use super::text::Dialect;
use crate::connections::properties::{self, Reader};
use crate::connections::tls::{self, TlsConfig};
use crate::connections::{ConfigError, Properties, Property};
use crate::error::ConnectionError;

const OWN: &[Property] = &[
    // Not a secret as a whole: shown with its user part masked, so that one sees which it is.
    Property::plain("dburl").text().about(
        "The database: postgres://, mysql:// or sqlite: with user, password, host and name. env:NAME and file:PATH stand for it.",
    ),
    Property::plain("url").text().about("Another name of dburl."),
    Property::plain("maxConnections").integer(1, 1000).default("8").about("Connections of the pool."),
    Property::plain("connectTimeout").duration().default("5s").about("For reaching the server and its welcome."),
    Property::plain("timeout").duration_in_call().default("60s").about("For one statement, or one transaction of many."),
    Property::plain("busyTimeout").duration().default("5s").about("How long SQLite waits for a lock."),
    Property::plain("maxRows").integer(1, 1_000_000).default("10000").about("Rows of one answer."),
];

const ALL: [Property; OWN.len() + tls::PROPERTIES.len()] =
    properties::join(&[OWN, tls::PROPERTIES]);

/// Every property.
pub(super) const PROPERTIES: &[Property] = &ALL;

const MAX_CONNECTIONS: u32 = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(60);
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ROWS: usize = 10_000;

/// A checked configuration.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// As written: a reference is looked up again at each dial.
    url: SecretString,
    base: PathBuf,
    pub(super) dialect: Dialect,
    /// Connections of the pool.
    pub(super) max_connections: u32,
    /// For reaching the server and its welcome.
    pub(super) connect_timeout: Duration,
    /// For one statement, or one transaction of many.
    pub(super) timeout: Duration,
    /// How long SQLite waits for a lock.
    pub(super) busy_timeout: Duration,
    /// Rows of one answer.
    pub(super) max_rows: usize,
    pub(super) tls: TlsConfig,
    pub(super) warnings: Vec<String>,
}

impl Config {
    /// Reads and checks all properties.
    ///
    /// # Errors
    /// Every mistake, each at its place.
    pub(super) fn read(given: &Properties, base: &Path) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader::new(given, PROPERTIES, base);
        let name = if reader.has("url") && !reader.has("dburl") {
            "url"
        } else {
            "dburl"
        };
        if name == "dburl" && reader.has("url") {
            reader.error("url", "is another name of dburl, which is given too");
        }
        let url = SecretString::from(reader.required_string(name));
        let mut target = None;
        if !url.expose_secret().is_empty() {
            let mut warnings = Vec::new();
            match resolved(&url, base)
                .and_then(|text| dburl::parse(text.expose_secret(), &mut warnings))
            {
                Ok(found) => target = Some(found),
                Err(sentence) => reader.error(name, sentence),
            }
            warnings
                .into_iter()
                .for_each(|warning| reader.warn(warning));
        }
        let second = Duration::from_secs(1);
        let tenth = Duration::from_millis(100);
        let max_connections = reader
            .integer("maxConnections", 1..=1000)
            .unwrap_or(MAX_CONNECTIONS);
        let connect_timeout = reader
            .duration("connectTimeout", tenth..=120 * second)
            .unwrap_or(CONNECT_TIMEOUT);
        let timeout = reader
            .duration("timeout", tenth..=3600 * second)
            .unwrap_or(TIMEOUT);
        let busy_timeout = reader
            .duration("busyTimeout", Duration::ZERO..=600 * second)
            .unwrap_or(BUSY_TIMEOUT);
        let max_rows = reader.integer("maxRows", 1..=1_000_000_u32);
        let tls = TlsConfig::from_reader(&mut reader);
        for name in ["serverName", "tlsMinVersion"] {
            if reader.has(name) {
                reader.error(name, "cannot be chosen for a database: the host in the URL must be the name in its certificate, and the newest version that both speak is used");
            }
        }
        if let Some(target) = &target {
            check_tls(&mut reader, target, &tls);
        }
        let warnings = reader.finish()?;
        Ok(Self {
            url,
            base: base.to_owned(),
            dialect: target.map_or(Dialect::Sqlite, |target| target.dialect()),
            max_connections,
            connect_timeout,
            timeout,
            busy_timeout,
            max_rows: max_rows
                .and_then(|rows| usize::try_from(rows).ok())
                .unwrap_or(MAX_ROWS),
            tls,
            warnings,
        })
    }

    /// What the URL names now.
    ///
    /// # Errors
    /// `transient`: its file or variable is gone, which may come back. `misconfigured`: it names
    /// another kind of database now, or nothing.
    pub(super) fn target(&self) -> Result<Target, ConnectionError> {
        let text = resolved(&self.url, &self.base)
            .map_err(|why| ConnectionError::transient("dburl", format!("the dburl {why}")))?;
        let mut target = dburl::parse(text.expose_secret(), &mut Vec::new())
            .map_err(|why| ConnectionError::misconfigured("dburl", format!("the dburl {why}")))?;
        if target.dialect() != self.dialect {
            return Err(ConnectionError::misconfigured(
                "dburl",
                "the dburl names another kind of database than before",
            ));
        }
        if let Target::File(file) = &mut target
            && let Some(path) = &mut file.path
        {
            *path = self.base.join(&*path);
        }
        Ok(target)
    }
}

fn check_tls(reader: &mut Reader<'_>, target: &Target, tls: &TlsConfig) {
    if !tls.is_given() {
        return;
    }
    match target {
        Target::File(_) => reader.warn("TLS properties are given, and SQLite has no server"),
        Target::Server(server) if server.ssl == Some(dburl::Ssl::Disable) => {
            reader.warn("TLS properties are given, and the URL switches TLS off")
        }
        Target::Server(_) => {}
    }
}

/// The URL behind `env:NAME` or `file:PATH`. `file:` begins both a reference and the URL of a SQLite
/// file: the content decides, and where there is none, whether the name is that of a database.
fn resolved(url: &SecretString, base: &Path) -> Result<SecretString, String> {
    const LARGEST: u64 = 64 * 1024;
    let text = url.expose_secret();
    let Some(path) = text.strip_prefix("file:") else {
        return properties::resolve(text, base);
    };
    let plain = path.split('?').next().unwrap_or_default();
    let plain = plain.strip_prefix("//").unwrap_or(plain);
    let found = properties::read_small(&base.join(plain), LARGEST)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    if found.is_some_and(|content| dburl::dialect(content.trim_start()).is_some()) {
        return properties::resolve(&format!("file:{plain}"), base);
    }
    let known = [".db", ".db3", ".sqlite", ".sqlite3"]
        .iter()
        .any(|ending| plain.to_ascii_lowercase().ends_with(ending));
    if known || path.contains('?') || base.join(plain).is_file() {
        return Ok(url.clone());
    }
    Err(format!(
        "refers to the file \"{plain}\", which is not there; if a SQLite database is meant, write sqlite:{plain}"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<Config, Vec<ConfigError>> {
        Config::read(value.as_object().unwrap(), Path::new("/nowhere"))
    }

    #[test]
    fn every_mistake_is_named_at_its_place_and_no_password_is_shown() {
        let errors = read(json!({
            "dburl": "postgress://u:geheim@h/d", "maxConnections": 0, "maxRows": "x", "timeout": "1ms",
            "serverName": "h", "maxConnection": 3,
        }))
        .unwrap_err();
        let text = format!("{errors:?}");
        for place in [
            "dburl",
            "maxConnections",
            "maxRows",
            "timeout",
            "serverName",
            "maxConnection",
        ] {
            assert!(
                errors.iter().any(|e| e.at == format!("/props/{place}")),
                "{place}: {text}"
            );
        }
        assert!(!text.contains("geheim"), "{text}");
        assert!(format!("{:?}", read(json!({})).unwrap_err()).contains("is missing"));
        assert!(read(json!({"url": "sqlite:a", "dburl": "sqlite:a"})).is_err());
        assert_eq!(
            read(json!({"url": "mariadb://h/d"})).unwrap().dialect,
            Dialect::MySql
        );
    }

    #[test]
    fn a_file_holds_the_url_or_is_the_database() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        std::fs::write(base.join("url"), "pg://u:geheim@h/d\n").unwrap();
        let dialect = |text: &str| {
            Config::read(json!({ "dburl": text }).as_object().unwrap(), base).map(|c| c.dialect)
        };
        assert_eq!(dialect("file:url"), Ok(Dialect::Postgres));
        assert_eq!(dialect("file:data.db"), Ok(Dialect::Sqlite));
        let error = dialect("file:lost").unwrap_err();
        assert!(error[0].message.contains("sqlite:lost"), "{error:?}");
        let config = Config::read(json!({"dburl": "sqlite:x.db"}).as_object().unwrap(), base);
        let target = config.unwrap().target().unwrap();
        assert_eq!(target.to_string(), base.join("x.db").display().to_string());
    }
}
