//! The properties of a NATS connection. eKuiper has none to go by: the names are those of its MQTT
//! connection where they mean the same. Reads a JSON object and gives a checked configuration; opens
//! nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::connections::properties::{self, Reader};
use crate::connections::tls::{self, TlsConfig};
use crate::connections::transport::Endpoint;
use crate::connections::{ConfigError, Properties, Property, PropertyKind, Qos};
use crate::error::ConnectionError;

const OWN: &[Property] = &[
    Property::plain("server")
        .text()
        .about("URL of the server: nats://, tls://, or host:port."),
    Property::plain("servers")
        .of(PropertyKind::Texts)
        .about("URLs of servers, tried in turn."),
    Property::plain("name")
        .text()
        .about("Name of this client in the server's lists; the connection's id unless told."),
    Property::plain("username")
        .text()
        .about("Name to log in with."),
    Property::secret("password").about("Password to log in with."),
    Property::secret("token").about("Token to log in with."),
    Property::secret("nkey").about("Seed of an nkey to log in with."),
    Property::secret("credentials")
        .about("Content of a credentials file (JWT and seed); file:PATH names the file."),
    Property::plain("domain").text().about("JetStream domain."),
    Property::plain("qos")
        .integer(0, 2)
        .default("0")
        .about("Level where a source or sink names none: 0 is core NATS, 1 and 2 are JetStream."),
    Property::plain("connectTimeout")
        .duration()
        .default("5s")
        .about("For reaching the server and logging in."),
    Property::plain("pingInterval")
        .duration()
        .default("10s")
        .about("A link silent for this long is looked after; three times in vain, and it is lost."),
];

const ALL: [Property; OWN.len() + tls::PROPERTIES.len()] =
    properties::join(&[OWN, tls::PROPERTIES]);

/// Every property.
pub(super) const PROPERTIES: &[Property] = &ALL;

/// The schemes of a server's URL, and whether they mean TLS.
const SCHEMES: &[(&str, bool)] = &[
    ("nats", false),
    ("tcp", false),
    ("tls", true),
    ("ssl", true),
];
const PORT: u16 = 4222;

/// How the client logs in. What is kept are references; secrets are looked up again at each dial.
#[derive(Clone, Debug)]
pub(super) enum Login {
    Nobody,
    User(String, Option<SecretString>),
    Token(SecretString),
    Nkey(SecretString),
    Credentials(SecretString),
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// Tried in turn; at least one.
    pub(super) servers: Vec<Endpoint>,
    pub(super) name: Option<String>,
    pub(super) login: Login,
    base: PathBuf,
    pub(super) domain: Option<String>,
    pub(super) qos: Qos,
    pub(super) tls: TlsConfig,
    pub(super) connect_timeout: Duration,
    pub(super) ping_interval: Duration,
    pub(super) warnings: Vec<String>,
}

impl Config {
    /// Reads and checks all properties.
    ///
    /// # Errors
    /// Every mistake, each at its place.
    pub(super) fn read(given: &Properties, base: &Path) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader::new(given, PROPERTIES, base);
        let servers = servers(&mut reader);
        let login = login(&mut reader);
        let domain = reader.string("domain").filter(|domain| !domain.is_empty());
        if domain
            .as_ref()
            .is_some_and(|domain| domain.contains(|c: char| c.is_whitespace() || ".*>".contains(c)))
        {
            reader.error("domain", "must have no dot, wildcard or blank in it");
        }
        let qos = match reader.integer("qos", 0..=2_u8) {
            None | Some(0) => Qos::AtMostOnce,
            Some(1) => Qos::AtLeastOnce,
            Some(_) => Qos::ExactlyOnce,
        };
        let seconds =
            |least: u64, most: u64| Duration::from_millis(least)..=Duration::from_secs(most);
        let connect_timeout = reader
            .duration("connectTimeout", seconds(100, 120))
            .unwrap_or(Duration::from_secs(5));
        let ping_interval = reader
            .duration("pingInterval", seconds(500, 600))
            .unwrap_or(Duration::from_secs(10));
        let tls = TlsConfig::from_reader(&mut reader);
        if reader.has("serverName") {
            reader.error(
                "serverName",
                "cannot be told to the NATS library: name the server by the host of its certificate",
            );
        }
        let name = reader.string("name").filter(|name| !name.is_empty());
        let warnings = reader.finish()?;
        Ok(Self {
            servers,
            name,
            login,
            base: base.to_owned(),
            domain,
            qos,
            tls,
            connect_timeout,
            ping_interval,
            warnings,
        })
    }

    /// A secret as it is now.
    ///
    /// # Errors
    /// Its file or variable is gone. `transient`: it may come back.
    pub(super) fn resolve(
        &self,
        what: &str,
        reference: &SecretString,
    ) -> Result<SecretString, ConnectionError> {
        properties::resolve(reference.expose_secret(), &self.base)
            .map_err(|why| ConnectionError::transient("secret", format!("the {what} {why}")))
    }
}

fn servers(reader: &mut Reader<'_>) -> Vec<Endpoint> {
    let mut named: Vec<(&str, String)> = Vec::new();
    named.extend(reader.string("server").map(|server| ("server", server)));
    let more = reader.strings("servers").unwrap_or_default();
    named.extend(more.into_iter().map(|server| ("servers", server)));
    named.retain(|(_, text)| !text.is_empty());
    if named.is_empty() {
        reader.error(
            "server",
            "is missing; it must be a URL such as nats://127.0.0.1:4222",
        );
    }
    let mut servers = Vec::new();
    for (property, text) in named {
        match Endpoint::parse_own(text.trim(), SCHEMES, PORT) {
            Ok(endpoint) if servers.contains(&endpoint) => {}
            Ok(endpoint) => servers.push(endpoint),
            Err(why) => reader.error(property, why),
        }
    }
    servers
}

fn login(reader: &mut Reader<'_>) -> Login {
    // Looked up once, so that a reference to nothing is found now.
    let mut secret = |name: &str| {
        reader.secret(name)?;
        let reference = reader.string(name).filter(|text| !text.is_empty())?;
        Some(SecretString::from(reference))
    };
    let password = secret("password");
    let others: Vec<(&str, Login)> = [
        secret("token").map(|it| ("token", Login::Token(it))),
        secret("nkey").map(|it| ("nkey", Login::Nkey(it))),
        secret("credentials").map(|it| ("credentials", Login::Credentials(it))),
    ]
    .into_iter()
    .flatten()
    .collect();
    let username = reader.string("username").filter(|name| !name.is_empty());
    if username.is_none() && password.is_some() {
        reader.error("password", "needs a `username` with it");
    }
    let mut ways: Vec<(&str, Login)> = Vec::new();
    ways.extend(username.map(|name| ("username", Login::User(name, password))));
    ways.extend(others);
    if ways.len() > 1 {
        let names: Vec<_> = ways.iter().map(|(name, _)| *name).collect();
        let last = names.last().copied().unwrap_or("username");
        reader.error(
            last,
            format!(
                "only one way to log in may be given; found {}",
                names.join(" and ")
            ),
        );
    }
    ways.pop().map_or(Login::Nobody, |(_, login)| login)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<Config, Vec<ConfigError>> {
        Config::read(value.as_object().unwrap(), Path::new("/"))
    }

    #[test]
    fn a_server_is_a_url_or_host_and_port() {
        let of = |text: &str| read(json!({ "server": text })).map(|c| c.servers[0].to_string());
        assert_eq!(of("nats://h").unwrap(), "h:4222");
        assert_eq!(of("h:99").unwrap(), "h:99");
        assert_eq!(of("tls://[::1]:5").unwrap(), "[::1]:5");
        let config = read(json!({"servers": ["nats://a", "tls://b", "a:4222"]})).unwrap();
        assert_eq!(config.servers.len(), 2);
        assert!(!config.servers[0].is_tls() && config.servers[1].is_tls());
        for wrong in ["mqtt://h", "natss://h", "nats://u:p@h", "nats://h/x", ""] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        let why = &of("natss://h").unwrap_err()[0].message;
        assert!(why.contains("did you mean \"nats\""), "{why}");
    }

    #[test]
    fn one_way_to_log_in_and_no_secret_shows() {
        let config = read(json!({"server": "h", "username": "u", "password": "hunter2"})).unwrap();
        assert!(matches!(config.login, Login::User(..)));
        assert!(!format!("{config:?}").contains("hunter2"));
        let wrong = read(json!({"server": "h", "username": "u", "token": "hunter2"})).unwrap_err();
        assert!(wrong[0].message.contains("only one way"), "{wrong:?}");
        assert!(!format!("{wrong:?}").contains("hunter2"));
        for wrong in [
            json!({"server": "h", "password": "x"}),
            json!({"server": "h", "qos": 3}),
            json!({"server": "h", "domain": "a.b"}),
            json!({"server": "h", "serverName": "x"}),
            json!({"server": "h", "token": "env:WINDLASS_NO_SUCH_THING"}),
            json!({}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
