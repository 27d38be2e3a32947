//! The properties of a Redis connection: those of eKuiper's sinks and sources of that name, which give
//! them with each use. Reads a JSON object and gives a checked configuration; opens nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::{ProtocolVersion, RedisConnectionInfo};
use secrecy::{ExposeSecret, SecretString};

use crate::connections::properties::{self, Reader};
use crate::connections::tls::{self, TlsConfig};
use crate::connections::transport::Endpoint;
use crate::connections::{ConfigError, Properties, Property};
use crate::error::ConnectionError;

const OWN: &[Property] = &[
    Property::plain("address")
        .text()
        .about("Where the server is: host:port, redis:// or, over TLS, rediss://."),
    Property::plain("addr")
        .text()
        .about("Another spelling of address."),
    Property::plain("username")
        .text()
        .about("Name to log in with (ACL)."),
    Property::secret("password").about("Password to log in with."),
    Property::plain("db")
        .integer(0, 65_535)
        .default("0")
        .about("Number of the database."),
    Property::plain("connectTimeout")
        .duration()
        .default("5s")
        .about("For reaching the server and logging in."),
    Property::plain("timeout")
        .duration()
        .default("5s")
        .about("For the server's answer to a command."),
    Property::plain("keepAlive")
        .duration()
        .default("10s")
        .about("How often a link is looked after; no answer, and it is lost."),
];

const ALL: [Property; OWN.len() + tls::PROPERTIES.len()] =
    properties::join(&[OWN, tls::PROPERTIES]);

/// Every property.
pub(super) const PROPERTIES: &[Property] = &ALL;

/// The schemes of an address, and whether they mean TLS.
const SCHEMES: &[(&str, bool)] = &[("redis", false), ("tcp", false), ("rediss", true)];
const PORT: u16 = 6379;

/// A checked configuration.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) server: Endpoint,
    username: Option<String>,
    /// The reference; the secret itself is looked up again at each dial.
    password: Option<SecretString>,
    base: PathBuf,
    db: i64,
    pub(super) tls: TlsConfig,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
    pub(super) keep_alive: Duration,
    pub(super) warnings: Vec<String>,
}

impl Config {
    /// Reads and checks all properties.
    ///
    /// # Errors
    /// Every mistake, each at its place.
    pub(super) fn read(given: &Properties, base: &Path) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader::new(given, PROPERTIES, base);
        let server = server(&mut reader);
        let username = reader.string("username").filter(|name| !name.is_empty());
        let password = match reader.secret("password") {
            Some(_) => reader
                .string("password")
                .filter(|text| !text.is_empty())
                .map(SecretString::from),
            None => None,
        };
        if username.is_some() && password.is_none() {
            reader.error("username", "needs a `password` with it");
        }
        let db = reader.integer("db", 0..=65_535_i64).unwrap_or(0);
        let mut time = |name: &str, least: u64| {
            let range = Duration::from_millis(least)..=Duration::from_secs(600);
            reader.duration(name, range)
        };
        let connect_timeout = time("connectTimeout", 100).unwrap_or(Duration::from_secs(5));
        let timeout = time("timeout", 100).unwrap_or(Duration::from_secs(5));
        let keep_alive = time("keepAlive", 500).unwrap_or(Duration::from_secs(10));
        let tls = TlsConfig::from_reader(&mut reader);
        let warnings = reader.finish()?;
        let Some(server) = server else {
            // A missing server is a mistake, and was one above.
            return Err(Vec::new());
        };
        let secure = server.is_tls() || tls.is_given();
        let server = Endpoint::new(server.host(), server.port(), secure);
        Ok(Self {
            server,
            username,
            password,
            base: base.to_owned(),
            db,
            tls,
            connect_timeout,
            timeout,
            keep_alive,
            warnings,
        })
    }

    /// How to log in, with the password as it is now. RESP3: pushed messages and answers come over
    /// one link.
    ///
    /// # Errors
    /// The password's file or variable is gone. `transient`: it may come back.
    pub(super) fn login(&self) -> Result<RedisConnectionInfo, ConnectionError> {
        let mut info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name()
            .set_db(self.db);
        if let Some(username) = &self.username {
            info = info.set_username(username);
        }
        if let Some(reference) = &self.password {
            let password =
                properties::resolve(reference.expose_secret(), &self.base).map_err(|why| {
                    ConnectionError::transient("password", format!("the password {why}"))
                })?;
            info = info.set_password(password.expose_secret());
        }
        Ok(info)
    }
}

fn server(reader: &mut Reader<'_>) -> Option<Endpoint> {
    let mut given: Vec<(&str, String)> = ["address", "addr"]
        .into_iter()
        .filter_map(|name| Some((name, reader.string(name).filter(|text| !text.is_empty())?)))
        .collect();
    if given.len() > 1 {
        reader.error("addr", "is another spelling of `address`: give one of them");
    }
    let Some((name, text)) = given.pop() else {
        reader.error(
            "address",
            "is missing; it must be an address such as 127.0.0.1:6379",
        );
        return None;
    };
    match Endpoint::parse_own(text.trim(), SCHEMES, PORT) {
        Ok(endpoint) => Some(endpoint),
        Err(why) => {
            reader.error(name, why);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<Config, Vec<ConfigError>> {
        Config::read(value.as_object().unwrap(), Path::new("/"))
    }

    #[test]
    fn an_address_is_host_and_port_or_a_url_and_rediss_means_tls() {
        let of = |value| read(value).map(|c| (c.server.to_string(), c.server.is_tls()));
        assert_eq!(
            of(json!({"address": "h:1"})).unwrap(),
            ("h:1".to_owned(), false)
        );
        assert_eq!(
            of(json!({"ADDR": "redis://h"})).unwrap(),
            ("h:6379".to_owned(), false)
        );
        assert_eq!(
            of(json!({"addr": "rediss://h"})).unwrap(),
            ("h:6379".to_owned(), true)
        );
        for wrong in [
            json!({}),
            json!({"address": ""}),
            json!({"address": "http://h"}),
            json!({"address": "redis://h/1"}),
            json!({"address": "redis://u:p@h"}),
            json!({"address": "h", "addr": "h"}),
            json!({"address": "h", "db": -1}),
            json!({"address": "h", "username": "u"}),
            json!({"adress": "h"}),
        ] {
            let mistakes = read(wrong.clone()).unwrap_err();
            assert!(!mistakes.is_empty(), "{wrong}");
        }
    }

    #[test]
    fn a_password_shows_nowhere() {
        let config = read(json!({"address": "h", "username": "u", "password": "hunter2"})).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.login().unwrap().password(), Some("hunter2"));
    }
}
