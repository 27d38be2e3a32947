//! EdgeX' properties, as eKuiper has them, and what they mean for the type that speaks the bus'
//! protocol. Opens nothing.

use std::path::Path;

use serde_json::{Value, json};

use crate::connections::properties::Reader;
use crate::connections::{ConfigError, Properties, Property, PropertyKind};

/// Every property.
pub(super) const PROPERTIES: &[Property] = &[
    Property::plain("type")
        .one_of(&TYPES)
        .default("mqtt")
        .about("Which bus it is."),
    Property::plain("protocol")
        .one_of(&PROTOCOLS)
        .default("tcp")
        .about("tcp, or over TLS ssl, tls or tcps; redis and nats mean tcp."),
    Property::plain("host")
        .text()
        .default("localhost")
        .about("The server's name or address."),
    Property::plain("server")
        .text()
        .about("Another name of host, which goes before it."),
    Property::plain("port")
        .integer(1, 65_535)
        .about("The server's port: 1883 (mqtt), 4222 (nats) or 6379 (redis) unless told."),
    Property::plain("optional")
        .of(PropertyKind::Object(OPTIONAL))
        .about("Options of the bus, with EdgeX' names."),
];

const TYPES: [&str; 4] = ["mqtt", "nats-core", "nats-jetstream", "redis"];
const PROTOCOLS: [&str; 6] = ["tcp", "ssl", "tls", "tcps", "redis", "nats"];

/// Names of go-mod-messaging. Values are texts there; numbers and booleans are taken too.
const OPTIONAL: &[Property] = &[
    Property::plain("ClientId").about("MQTT: this client's id. NATS: its name."),
    Property::plain("Username").about("Name to log in with."),
    Property::secret("Password").about("Password to log in with."),
    Property::plain("Qos").about("MQTT: level, 0 unless told."),
    Property::plain("KeepAlive").about("Seconds after which a silent link is looked after."),
    Property::plain("Retained").about("MQTT: the broker keeps the last message of each topic."),
    Property::plain("CleanSession").about("MQTT: false: the broker keeps messages between links."),
    Property::plain("ConnectTimeout").about("Seconds for reaching the server."),
    Property::plain("SkipCertVerify").about("TLS: any server is believed."),
    Property::plain("CertFile").about("TLS: file of this client's certificate."),
    Property::plain("KeyFile").about("TLS: file of its private key."),
    Property::plain("CaFile").about("TLS: file of the authorities to be trusted."),
    Property::plain("CertPEMBlock").about("TLS: this client's certificate itself."),
    Property::secret("KeyPEMBlock").about("TLS: its private key itself."),
    Property::plain("CaPEMBlock").about("TLS: the authorities themselves."),
    Property::plain("Format")
        .about("NATS: nats (the envelope is headers) or json (it is the body)."),
    Property::plain("QueueGroup").about("NATS core: group whose members share the messages."),
    Property::plain("Durable").about("JetStream: name of the durable consumer."),
    Property::plain("Deliver")
        .about("JetStream: where a consumer that is made begins: new, all or last."),
    Property::plain("ExactlyOnce").about("JetStream: level 2 in place of 1."),
    Property::plain("NKeySeedFile").about("NATS: file of the seed to log in with."),
    Property::plain("CredentialsFile").about("NATS: credentials file to log in with."),
    Property::ignored("ConnectionPayload", "EdgeX does not read it either"),
    Property::ignored("AutoReconnect", "a connection is always brought back"),
    Property::ignored("RetryOnFailedConnect", "a connection is always tried again"),
    Property::ignored(
        "DefaultPubRetryAttempts",
        "what was not delivered is tried again until it is",
    ),
    Property::ignored(
        "AutoProvision",
        "streams are not made here: make the stream with NATS' own tools",
    ),
    Property::ignored("Subject", "the subjects are those that sources ask for"),
];

/// Which of the options a bus knows, what they are called there, and what the value is.
const MEANING: [(&str, &[Bus], &str, Is); 19] = {
    use Bus::{Mqtt, NatsCore, NatsJetStream, Redis};
    const ALL: &[Bus] = &[Mqtt, NatsCore, NatsJetStream, Redis];
    const NATS: &[Bus] = &[NatsCore, NatsJetStream];
    const MQTT: &[Bus] = &[Mqtt];
    [
        ("ClientId", MQTT, "clientid", Is::Text),
        ("ClientId", NATS, "name", Is::Text),
        ("Username", ALL, "username", Is::Text),
        ("Password", ALL, "password", Is::Text),
        ("Qos", MQTT, "qos", Is::Number),
        ("KeepAlive", MQTT, "keepAlive", Is::Seconds),
        ("KeepAlive", NATS, "pingInterval", Is::Seconds),
        ("KeepAlive", &[Redis], "keepAlive", Is::Seconds),
        ("ConnectTimeout", ALL, "connectTimeout", Is::Seconds),
        ("SkipCertVerify", ALL, "insecureSkipVerify", Is::Truth),
        ("CertFile", ALL, "certificationPath", Is::Text),
        ("KeyFile", ALL, "privateKeyPath", Is::Text),
        ("CaFile", ALL, "rootCaPath", Is::Text),
        ("CertPEMBlock", ALL, "certificationRaw", Is::Text),
        ("KeyPEMBlock", ALL, "privateKeyRaw", Is::Text),
        ("CaPEMBlock", ALL, "rootCARaw", Is::Text),
        ("CleanSession", MQTT, "enableClientSession", Is::Untruth),
        ("NKeySeedFile", NATS, "nkey", Is::File),
        ("CredentialsFile", NATS, "credentials", Is::File),
    ]
};

#[derive(Clone, Copy)]
enum Is {
    Text,
    Number,
    Seconds,
    Truth,
    /// True there is false here.
    Untruth,
    /// A secret that stands in a file.
    File,
}

/// A bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bus {
    Mqtt,
    NatsCore,
    NatsJetStream,
    Redis,
}

impl Bus {
    /// The connection type that speaks its protocol.
    pub(super) fn type_name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::NatsCore | Self::NatsJetStream => "nats",
            Self::Redis => "redis",
        }
    }
}

/// A checked configuration.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) bus: Bus,
    /// Properties of the type underneath; may hold secrets.
    pub(super) inner: Properties,
    /// Options of each subscription there.
    pub(super) subscribe: Vec<(String, String)>,
    pub(super) retained: bool,
    /// On NATS the envelope is headers.
    pub(super) framed: bool,
    pub(super) warnings: Vec<String>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("bus", &self.bus)
            .field("inner", &self.inner.keys())
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Reads and checks all properties; what the type underneath says of its own comes later.
    ///
    /// # Errors
    /// Every mistake, each at its place.
    pub(super) fn read(given: &Properties, base: &Path) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader::new(given, PROPERTIES, base);
        let bus = match reader.one_of("type", &TYPES) {
            Some("nats-core") => Bus::NatsCore,
            Some("nats-jetstream") => Bus::NatsJetStream,
            Some("redis") => Bus::Redis,
            _ => Bus::Mqtt,
        };
        let mut inner = Properties::new();
        address(&mut reader, bus, &mut inner);
        match bus {
            Bus::NatsJetStream => inner.insert("qos".to_owned(), json!(1)),
            Bus::NatsCore | Bus::Mqtt => inner.insert("qos".to_owned(), json!(0)),
            Bus::Redis => None,
        };
        let mut config = Self {
            bus,
            inner,
            subscribe: Vec::new(),
            retained: false,
            framed: matches!(bus, Bus::NatsCore | Bus::NatsJetStream),
            warnings: Vec::new(),
        };
        reader.nested("optional", OPTIONAL, |options| config.options(options));
        config.warnings = reader.finish()?;
        Ok(config)
    }

    fn options(&mut self, options: &mut Reader<'_>) {
        for (name, buses, meant, is) in MEANING {
            let Some(text) = text(options, name).filter(|text| !text.is_empty()) else {
                continue;
            };
            if !buses.contains(&self.bus) {
                let elsewhere = MEANING
                    .iter()
                    .any(|(other, buses, ..)| *other == name && buses.contains(&self.bus));
                if !elsewhere {
                    options.warn(format!("optional.{name} has no meaning on this bus"));
                }
                continue;
            }
            if let Some(value) = value(options, name, &text, is) {
                self.inner.insert(meant.to_owned(), value);
            }
        }
        self.retained = truth(options, "Retained").unwrap_or(false) && self.bus == Bus::Mqtt;
        if let Some(format) = text(options, "Format") {
            match format.to_ascii_lowercase().as_str() {
                "nats" | "" => {}
                "json" => self.framed = false,
                _ => options.error("Format", format!("found \"{format}\"; Allowed: nats, json")),
            }
        }
        if truth(options, "ExactlyOnce") == Some(true) && self.bus == Bus::NatsJetStream {
            self.inner.insert("qos".to_owned(), json!(2));
        }
        let subscribe = [
            ("QueueGroup", Bus::NatsCore, "queue"),
            ("Durable", Bus::NatsJetStream, "durable"),
            ("Deliver", Bus::NatsJetStream, "deliver"),
        ];
        for (name, bus, meant) in subscribe {
            let Some(text) = text(options, name).filter(|text| !text.is_empty()) else {
                continue;
            };
            if bus == self.bus {
                self.subscribe.push((meant.to_owned(), text));
            } else {
                options.warn(format!("optional.{name} has no meaning on this bus"));
            }
        }
    }
}

fn address(reader: &mut Reader<'_>, bus: Bus, inner: &mut Properties) {
    let protocol = reader.one_of("protocol", &PROTOCOLS).unwrap_or("tcp");
    let secure = matches!(protocol, "ssl" | "tls" | "tcps");
    let host = reader.string("host").filter(|host| !host.is_empty());
    let server = reader.string("server").filter(|host| !host.is_empty());
    let host = host.or(server).unwrap_or_else(|| "localhost".to_owned());
    let odd = |c: char| c.is_whitespace() || "/@?#".contains(c);
    if host.contains(odd) {
        let name = if reader.has("host") { "host" } else { "server" };
        reader.error(
            name,
            "must be a name or an address alone: the port stands in `port`",
        );
    }
    let host = if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host
    };
    let (property, plain, tls, standard) = match bus {
        Bus::Mqtt => ("server", "tcp", "ssl", 1883),
        Bus::NatsCore | Bus::NatsJetStream => ("server", "nats", "tls", 4222),
        Bus::Redis => ("address", "redis", "rediss", 6379),
    };
    let port = reader.integer("port", 1..=65_535_i64).unwrap_or(standard);
    let scheme = if secure { tls } else { plain };
    inner.insert(
        property.to_owned(),
        json!(format!("{scheme}://{host}:{port}")),
    );
}

/// An option as the text that EdgeX has.
fn text(options: &mut Reader<'_>, name: &str) -> Option<String> {
    match options.value(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => {
            options.error(name, "must be a text");
            None
        }
    }
}

fn truth(options: &mut Reader<'_>, name: &str) -> Option<bool> {
    let text = text(options, name)?;
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" | "" => Some(false),
        _ => {
            options.error(name, "must be true or false");
            None
        }
    }
}

fn value(options: &mut Reader<'_>, name: &str, text: &str, is: Is) -> Option<Value> {
    let number = |options: &mut Reader<'_>| {
        let number = text.parse::<u32>().ok();
        if number.is_none() {
            options.error(name, "must be a whole number");
        }
        number
    };
    match is {
        Is::Text => Some(text.into()),
        Is::File => Some(format!("file:{text}").into()),
        Is::Number => number(options).map(Value::from),
        // 0 is EdgeX' way to say nothing.
        Is::Seconds => number(options)
            .filter(|seconds| *seconds > 0)
            .map(|seconds| format!("{seconds}s").into()),
        Is::Truth => truth(options, name).map(Value::from),
        Is::Untruth => truth(options, name).map(|value| Value::from(!value)),
    }
}

/// A mistake that the type underneath found, at the place where the user wrote it.
pub(super) fn in_our_words(mistake: ConfigError) -> ConfigError {
    let name = mistake.at.trim_start_matches("/props/");
    let ours = MEANING.iter().find(|(_, _, meant, _)| *meant == name);
    let at = match (ours, name) {
        (Some((ours, ..)), _) => format!("/props/optional/{ours}"),
        (None, "server" | "address") => "/props/host".to_owned(),
        (None, _) => mistake.at.clone(),
    };
    ConfigError { at, ..mistake }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<Config, Vec<ConfigError>> {
        Config::read(value.as_object().unwrap(), Path::new("/"))
    }

    #[test]
    fn the_address_is_made_of_its_parts_and_host_goes_before_server() {
        for (given, name, wanted) in [
            (json!({}), "server", "tcp://localhost:1883"),
            (
                json!({"server": "a", "host": "b", "port": 1}),
                "server",
                "tcp://b:1",
            ),
            (
                json!({"server": "a", "protocol": "ssl"}),
                "server",
                "ssl://a:1883",
            ),
            (
                json!({"host": "::1", "type": "nats-core"}),
                "server",
                "nats://[::1]:4222",
            ),
            (
                json!({"host": "h", "type": "redis", "protocol": "redis"}),
                "address",
                "redis://h:6379",
            ),
            (
                json!({"host": "h", "type": "nats-jetstream", "protocol": "tls"}),
                "server",
                "tls://h:4222",
            ),
        ] {
            assert_eq!(read(given.clone()).unwrap().inner[name], wanted, "{given}");
        }
    }

    #[test]
    fn options_are_read_in_any_case_and_mean_what_the_bus_has() {
        let config = read(json!({"optional": {
            "clientid": "c", "Username": "u", "PASSWORD": "hunter2", "qos": "1", "KeepAlive": 10,
            "CleanSession": "false", "Retained": "true", "SkipCertVerify": false, "AutoReconnect": "true",
        }}))
        .unwrap();
        let inner = Value::from(config.inner.clone());
        assert_eq!(
            inner,
            json!({"server": "tcp://localhost:1883", "qos": 1, "clientid": "c", "username": "u", "password": "hunter2",
                "keepAlive": "10s", "insecureSkipVerify": false, "enableClientSession": true})
        );
        assert!(config.retained && !config.framed);
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(
            config
                .warnings
                .iter()
                .any(|warning| warning.contains("AutoReconnect"))
        );
        let nats = read(json!({"type": "nats-jetstream", "optional": {"ClientId": "c", "Durable": "d", "Deliver": "all",
            "Format": "json", "CredentialsFile": "c.creds", "QueueGroup": "q", "ExactlyOnce": "true"}}))
        .unwrap();
        assert_eq!(
            (&nats.inner["name"], &nats.inner["qos"]),
            (&json!("c"), &json!(2))
        );
        assert_eq!(nats.inner["credentials"], "file:c.creds");
        let named =
            [("durable", "d"), ("deliver", "all")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(nats.subscribe, named);
        assert!(
            !nats.framed
                && nats
                    .warnings
                    .iter()
                    .any(|warning| warning.contains("QueueGroup"))
        );
    }

    #[test]
    fn mistakes_are_named_where_the_user_wrote_them() {
        for (given, place) in [
            (json!({"type": "zero"}), "/props/type"),
            (json!({"port": 0}), "/props/port"),
            (json!({"host": "tcp://h"}), "/props/host"),
            (json!({"optional": {"Qos": "high"}}), "/props/optional/Qos"),
            (
                json!({"optional": {"Retained": "often"}}),
                "/props/optional/Retained",
            ),
            (
                json!({"optional": {"Usernam": "u"}}),
                "/props/optional/Usernam",
            ),
            (
                json!({"optional": {"Format": "xml"}}),
                "/props/optional/Format",
            ),
        ] {
            let mistakes = read(given.clone()).unwrap_err();
            assert_eq!(mistakes[0].at, place, "{given}");
        }
        let inner = ConfigError::new("/props/clientid", "is too long");
        assert_eq!(in_our_words(inner).at, "/props/optional/ClientId");
    }
}
