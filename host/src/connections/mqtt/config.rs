//! The properties of an MQTT connection: eKuiper's names and defaults, and a few of our own. Reads a
//! JSON object and gives a checked configuration; opens nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};

use super::codec::Will;
use super::packet::Version;
use super::topic;
use crate::connections::properties::{self, Reader};
use crate::connections::tls::{self, TlsConfig};
use crate::connections::transport::Endpoint;
use crate::connections::{ConfigError, Properties, Property, PropertyKind};
use crate::error::ConnectionError;

const OWN: &[Property] = &[
    Property::plain("server").text().about("URL of the broker: tcp://, mqtt://, ssl://, mqtts://, ws://, wss://."),
    Property::plain("servers").of(PropertyKind::Texts).about("URLs of brokers, tried in turn."),
    Property::plain("protocolVersion").of(PropertyKind::Version(VERSIONS)).default("3.1.1").about("Version of MQTT."),
    Property::plain("clientid").text().about("Who the broker knows this client by; without it the host makes one that nobody else has."),
    Property::plain("username").text().about("Name to log in with."),
    Property::secret("password").about("Password to log in with."),
    Property::plain("enableClientSession").boolean().default("false").about("The broker keeps the session, and messages for it, between links."),
    Property::plain("sessionExpiryIntervalSeconds").integer(0, u32::MAX as i64).default("60").about("Version 5: how long the broker keeps the session."),
    Property::plain("keepAlive").duration().default("30s").about("A link silent for this long is looked after; whole seconds, 0 for never."),
    Property::plain("connectTimeout").duration().default("5s").about("For reaching the server, its CONNACK, and its answers to SUBSCRIBE, each."),
    Property::plain("qos").integer(0, 2).about("Level where a source or sink names none."),
    Property::plain("will").of(PropertyKind::Object(WILL)).about("What the broker publishes when this client is gone without a word."),
    Property::plain("receiveMaximum").integer(1, u16::MAX as i64).default("1024").about("Version 5: messages that the broker may send without an acknowledgement."),
    Property::plain("maxInflight").integer(1, u16::MAX as i64).default("1024").about("Messages sent to the broker without an acknowledgement, at most; before version 5, 20 of them of level 2 unless given."),
    Property::ignored(
        "clientStatePath",
        "the host keeps what a session needs by itself",
    ),
    Property::ignored("kubeedgeVersion", "eKuiper 2 does not read it either"),
    Property::ignored("kubeedgeModelFile", "eKuiper 2 does not read it either"),
    Property::ignored("useInt64ForWholeNumber", "numbers keep their kind here"),
];

const ALL: [Property; OWN.len() + tls::PROPERTIES.len()] =
    properties::join(&[OWN, tls::PROPERTIES]);

/// Every property.
pub(super) const PROPERTIES: &[Property] = &ALL;

const WILL: &[Property] = &[
    Property::plain("topic").text().about("Its topic."),
    Property::plain("payload").text().about("Its payload."),
    Property::plain("qos")
        .integer(0, 2)
        .default("0")
        .about("Its level."),
    Property::plain("retained")
        .boolean()
        .default("false")
        .about("It is kept for later subscribers."),
];

/// Spellings of `protocolVersion`.
const VERSIONS: &[&str] = &["3.1", "3", "3.1.1", "4", "5", "5.0"];

/// A session outlives its link by this long unless told (eKuiper's default for version 5).
const SESSION_EXPIRY_S: u32 = 60;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A wish, not a bound: see `Limits::unsettled_messages` for what bounds memory.
const RECEIVE_MAXIMUM: u16 = 1024;
const MAX_INFLIGHT: u16 = 1024;
/// Before version 5 a broker cannot say how many of level 2 it takes at once; mosquitto ends the link
/// beyond `max_inflight_messages`, 20 unless changed.
const MAX_INFLIGHT_2: u16 = 20;

/// A checked configuration.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// Tried in turn; at least one.
    pub(super) servers: Vec<Endpoint>,
    pub(super) version: Version,
    /// None: made by the host.
    pub(super) client_id: Option<String>,
    pub(super) username: Option<String>,
    password: Option<SecretString>,
    base: PathBuf,
    /// The broker keeps the session between links.
    pub(super) persistent: bool,
    /// Seconds, version 5.
    pub(super) session_expiry: u32,
    pub(super) tls: TlsConfig,
    /// Seconds, 0 for none.
    pub(super) keep_alive: u16,
    /// For reaching the server, its CONNACK, and its answers to SUBSCRIBE, each.
    pub(super) connect_timeout: Duration,
    /// Level where a call names none; None: 1 for takers, 0 for messages, as eKuiper's files have it.
    pub(super) qos: Option<u8>,
    pub(super) will: Option<Will>,
    pub(super) receive_maximum: u16,
    pub(super) max_inflight: u16,
    /// Messages of level 2 that may be under way at once.
    pub(super) max_inflight_2: u16,
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
        let version = version(&mut reader);
        let client_id = reader.string("clientid").filter(|id| !id.is_empty());
        let username = reader.string("username").filter(|name| !name.is_empty());
        // What is kept is the reference; the secret itself is looked up again at each dial.
        let password = match reader.secret("password") {
            Some(_) => reader
                .string("password")
                .filter(|text| !text.is_empty())
                .map(SecretString::from),
            None => None,
        };
        for (name, text) in [("clientid", &client_id), ("username", &username)] {
            if text
                .as_ref()
                .is_some_and(|text| text.len() > topic::LONGEST)
            {
                reader.error(
                    name,
                    format!(
                        "is longer than {} bytes, the most that MQTT allows",
                        topic::LONGEST
                    ),
                );
            }
        }
        if password.is_some() && username.is_none() && version != Version::V5 {
            reader.error(
                "password",
                "needs a `username` with it before protocol version 5",
            );
        }
        let persistent = reader.bool("enableClientSession").unwrap_or(false);
        let session_expiry = reader
            .integer("sessionExpiryIntervalSeconds", 0..=u32::MAX)
            .unwrap_or(SESSION_EXPIRY_S);
        let keep_alive = reader
            .duration("keepAlive", Duration::ZERO..=Duration::from_secs(65_535))
            .unwrap_or(KEEP_ALIVE);
        if !keep_alive.is_zero() && (keep_alive.subsec_nanos() != 0) {
            reader.error("keepAlive", "must be whole seconds, or 0 for none");
        }
        let connect_timeout = reader
            .duration(
                "connectTimeout",
                Duration::from_millis(100)..=Duration::from_secs(120),
            )
            .unwrap_or(CONNECT_TIMEOUT);
        let qos = reader.integer("qos", 0..=2_u8);
        let receive_maximum = reader
            .integer("receiveMaximum", 1..=u16::MAX)
            .unwrap_or(RECEIVE_MAXIMUM);
        let max_inflight = reader.integer("maxInflight", 1..=u16::MAX);
        let max_inflight_2 = if version == Version::V5 {
            u16::MAX
        } else {
            max_inflight.unwrap_or(MAX_INFLIGHT_2)
        };
        let will = reader.nested("will", WILL, read_will).flatten();
        let tls = TlsConfig::from_reader(&mut reader);
        if tls.is_given() && !servers.iter().any(Endpoint::is_tls) {
            reader.warn("TLS properties are given, and no server is reached over TLS (ssl://, tls://, mqtts://, wss://)");
        }
        if persistent && version == Version::V5 && session_expiry == 0 {
            reader.warn("enableClientSession with sessionExpiryIntervalSeconds 0: the broker ends the session with the link");
        }
        if version == Version::V31 && client_id.as_ref().is_some_and(|id| id.len() > 23) {
            reader.warn(
                "MQTT 3.1 allows a clientid of 23 characters; the broker may refuse a longer one",
            );
        }
        let warnings = reader.finish()?;
        Ok(Self {
            servers,
            version,
            client_id,
            username,
            password,
            base: base.to_owned(),
            persistent,
            session_expiry: if persistent { session_expiry } else { 0 },
            tls,
            keep_alive: u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX),
            connect_timeout,
            qos,
            will,
            receive_maximum,
            max_inflight: max_inflight.unwrap_or(MAX_INFLIGHT),
            max_inflight_2,
            warnings,
        })
    }

    /// The password as it is now, where one is given.
    ///
    /// # Errors
    /// Its file or variable is gone. `transient`: it may come back.
    pub(super) fn password(&self) -> Result<Option<String>, ConnectionError> {
        let Some(reference) = &self.password else {
            return Ok(None);
        };
        let secret = properties::resolve(reference.expose_secret(), &self.base)
            .map_err(|why| ConnectionError::transient("password", format!("the password {why}")))?;
        Ok(Some(secret.expose_secret().to_owned()))
    }
}

fn servers(reader: &mut Reader<'_>) -> Vec<Endpoint> {
    let mut named: Vec<(&str, String)> = Vec::new();
    if let Some(server) = reader.string("server").filter(|server| !server.is_empty()) {
        named.push(("server", server));
    }
    for server in reader.strings("servers").unwrap_or_default() {
        if !named.iter().any(|(_, known)| *known == server) {
            named.push(("servers", server));
        }
    }
    if named.is_empty() {
        reader.error(
            "server",
            "is missing; it must be a URL such as tcp://127.0.0.1:1883",
        );
    }
    let mut servers = Vec::new();
    for (property, text) in named {
        match Endpoint::parse(text.trim(), Some((1883, 8883))) {
            Ok(endpoint) => servers.push(endpoint),
            Err(why) => reader.error(property, why),
        }
    }
    servers
}

/// Servers and client id, where one is given: two links with the same ones end each other, whether or
/// not the broker keeps a session. None: the host makes an id that nobody else has.
pub(super) fn identity(given: &Properties) -> Option<String> {
    let mut reader = Reader::new(given, PROPERTIES, Path::new(""));
    let client_id = reader.string("clientid").filter(|id| !id.is_empty())?;
    let mut servers: Vec<String> = servers(&mut reader).iter().map(place).collect();
    servers.sort();
    servers.dedup();
    (!servers.is_empty()).then(|| format!("{} {client_id}", servers.join(",")))
}

/// Host and port, in one spelling for this machine itself.
fn place(endpoint: &Endpoint) -> String {
    let text = endpoint.to_string();
    let own = ["localhost:", "[::1]:"]
        .iter()
        .find_map(|own| text.strip_prefix(own));
    own.map(|port| format!("127.0.0.1:{port}")).unwrap_or(text)
}

/// eKuiper insists on a string; a number is clear enough.
fn version(reader: &mut Reader<'_>) -> Version {
    let text = match reader.value("protocolVersion") {
        Some(serde_json::Value::Number(number)) => number.to_string(),
        Some(serde_json::Value::String(text)) => text.clone(),
        None => return Version::V311,
        Some(_) => String::new(),
    };
    match text.as_str() {
        "3.1" | "3" => Version::V31,
        "3.1.1" | "4" => Version::V311,
        "5" | "5.0" => Version::V5,
        _ => {
            reader.error("protocolVersion", "must be 3.1, 3.1.1, 4 or 5");
            Version::V311
        }
    }
}

fn read_will(reader: &mut Reader<'_>) -> Option<Will> {
    let topic = reader.required_string("topic");
    if !topic.is_empty()
        && let Some(fault) = topic::topic_fault(&topic)
    {
        reader.error("topic", fault);
    }
    let payload = reader.string("payload").unwrap_or_default();
    if payload.len() > topic::LONGEST {
        reader.error(
            "payload",
            format!(
                "is longer than {} bytes, the most that MQTT allows",
                topic::LONGEST
            ),
        );
    }
    let qos = reader.integer("qos", 0..=2_u8).unwrap_or(0);
    let retained = reader.bool("retained").unwrap_or(false);
    Some(Will {
        topic,
        payload: Bytes::from(payload),
        qos,
        retained,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::connections::property::schemas;

    fn read(value: serde_json::Value) -> Result<Config, Vec<ConfigError>> {
        Config::read(value.as_object().unwrap(), Path::new("/"))
    }

    #[test]
    fn defaults_are_those_of_ekuiper_and_names_are_read_without_regard_to_case() {
        let config = read(json!({"server": "tcp://h:1883", "ClientID": "me"})).unwrap();
        assert_eq!(config.version, Version::V311);
        assert_eq!(config.client_id.as_deref(), Some("me"));
        assert!(!config.persistent);
        assert_eq!(config.keep_alive, 30);
        let config = read(json!({
            "server": "ssl://a", "servers": ["ssl://a", "tcp://b:1"], "protocolVersion": 5, "enableClientSession": true,
            "keepAlive": "10s", "will": {"topic": "w", "payload": "gone", "qos": 1, "retained": true},
        }))
        .unwrap();
        assert_eq!(config.servers.len(), 2);
        assert_eq!(
            (config.version, config.session_expiry, config.keep_alive),
            (Version::V5, 60, 10)
        );
        assert_eq!(config.will.unwrap().qos, 1);
    }

    /// The list and the code cannot drift apart: a default that is written out changes nothing.
    #[test]
    fn a_default_of_the_list_is_what_happens_without_it() {
        let plain = json!({"server": "tcp://h:1"});
        for property in PROPERTIES {
            assert!(
                property.ignored.is_some() || !property.about.is_empty(),
                "{}",
                property.name
            );
            let Some(default) = property.default_value() else {
                continue;
            };
            for version in ["3.1.1", "5"] {
                let mut base = plain.clone();
                if property.name != "protocolVersion" {
                    base["protocolVersion"] = json!(version);
                }
                // The level 2 window of older versions is bound only by what is written.
                if property.name == "maxInflight" && version != "5" {
                    continue;
                }
                let mut given = base.clone();
                given[property.name] = default.clone();
                let shown = |value| format!("{:?}", read(value).unwrap());
                let (without, with) = (shown(base), shown(given));
                assert_eq!(without, with, "{}", property.name);
            }
        }
    }

    /// What the schema refuses, the code refuses: types, ranges, words.
    #[test]
    fn the_schema_of_the_list_and_the_code_agree() {
        let schema = json!({
            "type": "object", "properties": schemas(PROPERTIES), "additionalProperties": false,
        });
        let validator = jsonschema::validator_for(&schema).unwrap();
        for (good, value) in [
            (
                true,
                json!({"qos": 2, "keepAlive": "10s", "protocolVersion": 5}),
            ),
            (
                true,
                json!({"servers": "tcp://b:1", "will": {"topic": "w", "qos": 1}}),
            ),
            (
                true,
                json!({"protocolVersion": "3.1", "tlsMinVersion": "tls1.3", "maxInflight": 65535}),
            ),
            (false, json!({"qos": 3})),
            (false, json!({"qos": "1"})),
            (false, json!({"keepAlive": -1})),
            (false, json!({"keepAlive": true})),
            (false, json!({"protocolVersion": "6"})),
            (false, json!({"enableClientSession": "yes"})),
            (false, json!({"clientid": 7})),
            (false, json!({"will": {"topic": "w", "qos": 4}})),
            (false, json!({"will": {"topic": "w", "retain": true}})),
            (false, json!({"maxInflight": 0})),
            (false, json!({"sever": "x"})),
            (false, json!({"insecureSkipVerify": 1})),
        ] {
            let mut value = value;
            value["server"] = json!("tcp://h:1");
            assert_eq!(validator.is_valid(&value), good, "{value}");
            assert_eq!(read(value.clone()).is_ok(), good, "{value}");
        }
    }

    #[test]
    fn the_same_client_of_the_same_servers_is_one_however_it_is_spelled() {
        let of = |value: serde_json::Value| identity(value.as_object().unwrap());
        let one = of(json!({"server": "tcp://Broker.Plant:1883", "clientid": "press"}));
        assert_eq!(one.as_deref(), Some("broker.plant:1883 press"));
        for same in [
            json!({"SERVER": "mqtt://broker.plant", "ClientId": "press", "enableClientSession": true}),
            json!({"servers": ["tcp://broker.plant:1883", "mqtt://BROKER.plant"], "clientid": "press"}),
        ] {
            assert_eq!(of(same), one);
        }
        for other in [
            json!({"server": "tcp://broker.plant:1884", "clientid": "press"}),
            json!({"server": "tcp://broker.plant:1883", "clientid": "Press"}),
        ] {
            assert!(
                of(other.clone()).is_some_and(|other| Some(other) != one),
                "{other}"
            );
        }
        let ordered = |servers: [&str; 2]| of(json!({"servers": servers, "clientid": "press"}));
        assert_eq!(
            ordered(["tcp://a", "tcp://b"]),
            ordered(["tcp://b", "tcp://a"])
        );
        assert_eq!(
            of(json!({"server": "tcp://localhost:1", "clientid": "x"})),
            of(json!({"server": "tcp://127.0.0.1:1", "clientid": "x"}))
        );
        for anonymous in [
            json!({"server": "tcp://broker.plant:1883"}),
            json!({"server": "tcp://broker.plant:1883", "clientid": ""}),
            json!({"server": "no url", "clientid": "press"}),
        ] {
            assert_eq!(of(anonymous.clone()), None, "{anonymous}");
        }
    }

    #[test]
    fn every_mistake_is_named_at_its_place() {
        let errors = read(json!({
            "protocolVersion": "6", "qos": 3, "keepAlive": "1500ms", "will": {"topic": "a/#"}, "password": "x",
            "receiveMaximum": 0, "usernam": "x", "servers": ["h"],
        }))
        .unwrap_err();
        let at: Vec<_> = errors.iter().map(|error| error.at.as_str()).collect();
        for place in [
            "/props/protocolVersion",
            "/props/qos",
            "/props/keepAlive",
            "/props/will/topic",
            "/props/password",
            "/props/receiveMaximum",
            "/props/usernam",
            "/props/servers",
        ] {
            assert!(at.contains(&place), "{place}: {at:?}");
        }
        assert!(
            read(json!({})).unwrap_err()[0]
                .message
                .contains("tcp://127.0.0.1:1883")
        );
    }

    #[test]
    fn a_password_shows_nowhere() {
        let config =
            read(json!({"server": "tcp://h:1", "username": "u", "password": "hunter2"})).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.password().unwrap().as_deref(), Some("hunter2"));
    }
}
