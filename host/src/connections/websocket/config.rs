//! The properties of a WebSocket connection, checked: of one that serves a path of the data port, or of
//! one that dials.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::connections::dataport::{Token, check_path};
use crate::connections::properties::{self, Reader, resolve};
use crate::connections::tls::{self, TlsConfig};
use crate::connections::transport::Endpoint;
use crate::connections::{Limits, Properties, Property, PropertyKind};

const OWN: &[Property] = &[
    Property::both("datasource")
        .text()
        .about("Another name of path: a stream's DATASOURCE is it."),
    Property::plain("path")
        .text()
        .about("The path, beginning with /: that the data port serves, or that is dialled."),
    Property::plain("addr")
        .text()
        .about("host:port to dial; without a port that of the scheme, 80 or 443. Without it the host's data port serves the path."),
    Property::plain("scheme")
        .one_of(&["ws", "wss"])
        .default("ws")
        .about("Dialling: wss is over TLS."),
    Property::secret("requestHeader")
        .of(PropertyKind::Any)
        .about("Dialling: headers of the handshake, names with a text or a list of texts."),
    Property::secret("token")
        .about("Serving: who does not send it as a bearer token is refused. Dialling: it is sent."),
    Property::plain("subProtocols")
        .of(PropertyKind::Texts)
        .about("Serving: a client must offer one of them. Dialling: they are offered, and the server must take one."),
    Property::plain("origins")
        .of(PropertyKind::Texts)
        .about("Serving: web pages that may connect, by their Origin (https://host), * for all. Without a token none may unless it is here."),
    Property::plain("keepAlive")
        .duration()
        .default("20s")
        .about("A peer that is silent for long is pinged, and given up after 1.4 times this; 0 for never."),
    Property::plain("connectTimeout")
        .duration()
        .default("5s")
        .about("Dialling: for reaching the server and its handshake."),
    Property::plain("maxMessageBytes")
        .integer(1, i64::MAX)
        .about("Bytes of the largest message, in and out; the host's maxMessageBytes unless told."),
    Property::plain("maxClients")
        .integer(1, 65_535)
        .default("256")
        .about("Serving: clients at once; one more is answered 503."),
    Property::plain("withoutClient")
        .one_of(WITHOUT)
        .default("wait")
        .about("Serving: what becomes of a message while no client is there. wait: it stays in the action's queue; drop: it is dropped, and counted."),
    Property::ignored("checkConnection", "eKuiper does not read it either"),
];

const ALL: [Property; OWN.len() + tls::PROPERTIES.len()] =
    properties::join(&[OWN, tls::PROPERTIES]);

pub(super) const PROPERTIES: &[Property] = &ALL;

const WITHOUT: &[&str] = &["wait", "drop"];
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MOST_CLIENTS: usize = 256;
/// Headers of the handshake itself (RFC 6455, 4.1), and those of the link.
const KEPT_BACK: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "transfer-encoding",
    "upgrade",
];

/// What both ways have.
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// Zero: never.
    pub(super) keep_alive: Duration,
    /// Bytes of the largest message, in and out.
    pub(super) most: usize,
    pub(super) sub_protocols: Vec<String>,
    pub(super) path: String,
}

/// A path of the data port.
#[derive(Clone, Debug)]
pub(super) struct Serving {
    pub(super) common: Common,
    pub(super) token: Option<Token>,
    pub(super) origins: Vec<String>,
    pub(super) most_clients: usize,
    /// A message is dropped while no client is there.
    pub(super) drops: bool,
}

/// A server elsewhere.
#[derive(Clone)]
pub(super) struct Dialling {
    pub(super) common: Common,
    pub(super) endpoint: Endpoint,
    pub(super) tls: TlsConfig,
    /// May hold secrets.
    pub(super) headers: HeaderMap,
    pub(super) connect_timeout: Duration,
}

/// Shows no header.
impl std::fmt::Debug for Dialling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialling")
            .field("common", &self.common)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
pub(super) enum Config {
    Serving(Serving),
    Dialling(Box<Dialling>),
}

/// The path that a connection without `addr` serves: nobody else may.
pub(super) fn endpoint(properties: &Properties) -> Option<String> {
    let text = |name| properties::text(properties, name).filter(|text| !text.is_empty());
    match text("addr") {
        Some(_) => None,
        None => text("path")
            .or_else(|| text("datasource"))
            .map(str::to_owned),
    }
}

impl Config {
    pub(super) fn read(reader: &mut Reader<'_>, limits: &Limits) -> Self {
        let addr = reader.string("addr").filter(|addr| !addr.is_empty());
        let common = common(reader, limits, addr.is_none());
        // Read in both cases, so that a mistake in what is not used is told too.
        let tls = TlsConfig::from_reader(reader);
        let scheme = reader.one_of("scheme", &["ws", "wss"]);
        let mut headers = headers(reader);
        let token = reader.secret("token");
        if let Some(token) = &token {
            match HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())) {
                _ if token.expose_secret().is_empty() => {
                    reader.error("token", "is empty; leave it out to do without");
                }
                Ok(mut value) => {
                    value.set_sensitive(true);
                    if headers.insert(http::header::AUTHORIZATION, value).is_some() {
                        let sentence = "is given twice, here and in requestHeader";
                        reader.error("token", sentence);
                    }
                }
                Err(_) => reader.error("token", "holds what no header may hold"),
            }
        }
        let time = Duration::from_millis(100)..=Duration::from_secs(60);
        let connect_timeout = reader.duration("connectTimeout", time);
        let clients = reader.integer("maxClients", 1..=65_535_usize);
        let word = reader.one_of("withoutClient", WITHOUT).unwrap_or("wait");
        let origins = reader.strings("origins").unwrap_or_default();
        let (mine, others): (&[&str], &str) = if addr.is_some() {
            (
                &["origins", "maxClients", "withoutClient"],
                "it dials \"addr\" and serves nothing",
            )
        } else {
            (
                &["scheme", "requestHeader", "connectTimeout"],
                "without \"addr\" it dials nothing: the data port serves the path",
            )
        };
        for name in mine {
            if reader.has(name) {
                reader.warn(format!("\"{name}\" has no effect: {others}"));
            }
        }
        let Some(addr) = addr else {
            return Self::Serving(Serving {
                common,
                token: token.as_ref().map(Token::of),
                origins,
                most_clients: clients.unwrap_or(MOST_CLIENTS),
                drops: word == "drop",
            });
        };
        let scheme = scheme.unwrap_or("ws");
        let url = format!("{scheme}://{addr}{}", common.path);
        let endpoint = if addr.contains(['/', '?', '#']) {
            Err("is host:port and nothing else; give the path as path".to_owned())
        } else {
            Endpoint::parse(&url, None)
        };
        let endpoint = endpoint.unwrap_or_else(|why| {
            reader.error("addr", why);
            // Nobody will dial it.
            Endpoint::new("", 0, false)
        });
        Self::Dialling(Box::new(Dialling {
            common,
            endpoint,
            tls,
            headers,
            connect_timeout: connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        }))
    }
}

fn common(reader: &mut Reader<'_>, limits: &Limits, serves: bool) -> Common {
    let path = reader.string("path").filter(|path| !path.is_empty());
    let source = reader.string("datasource").filter(|path| !path.is_empty());
    if let (Some(path), Some(source)) = (&path, &source)
        && path != source
    {
        reader.error(
            "path",
            format!("found \"{path}\", and \"datasource\" says \"{source}\"; give one of them"),
        );
    }
    let name = if path.is_some() { "path" } else { "datasource" };
    let path = path.or(source).unwrap_or_default();
    if path.is_empty() {
        reader.error("path", "is missing; it is the path, beginning with \"/\"");
    } else if !path.starts_with('/') {
        // eKuiper's words.
        let sentence = format!("websocket endpoint should start with /, found \"{path}\"");
        reader.error(name, sentence);
    } else if serves && let Err(why) = check_path(&path) {
        reader.error(name, why);
    }
    let keep_alive = reader.duration("keepAlive", Duration::ZERO..=Duration::from_secs(3600));
    let most = i64::try_from(limits.max_message_bytes).unwrap_or(i64::MAX);
    let bytes = reader.integer("maxMessageBytes", 1..=most).unwrap_or(most);
    let sub_protocols = reader.strings("subProtocols").unwrap_or_default();
    // A token of RFC 9110, 5.6.2.
    let is_token = |text: &String| HeaderName::from_bytes(text.as_bytes()).is_ok();
    if let Some(wrong) = sub_protocols.iter().find(|name| !is_token(name)) {
        let sentence =
            format!("found \"{wrong}\"; a sub-protocol is one word of letters, digits and -_.+");
        reader.error("subProtocols", sentence);
    }
    Common {
        keep_alive: keep_alive.unwrap_or(KEEP_ALIVE),
        most: usize::try_from(bytes).unwrap_or(limits.max_message_bytes),
        sub_protocols,
        path,
    }
}

/// Headers of the handshake. No sentence shows a value.
fn headers(reader: &mut Reader<'_>) -> HeaderMap {
    const ALLOWED: &str = "must be an object of names, each with a text or a list of texts";
    let mut found = HeaderMap::new();
    let Some(value) = reader.value("requestHeader") else {
        return found;
    };
    let Value::Object(given) = value else {
        reader.error("requestHeader", ALLOWED);
        return found;
    };
    for (name, value) in given {
        let texts: Option<Vec<&str>> = match value {
            Value::String(text) => Some(vec![text]),
            Value::Array(texts) => texts.iter().map(Value::as_str).collect(),
            _ => None,
        };
        let Some(texts) = texts else {
            reader.error("requestHeader", format!("\"{name}\": {ALLOWED}"));
            continue;
        };
        let Ok(key) = HeaderName::from_bytes(name.as_bytes()) else {
            reader.error(
                "requestHeader",
                format!("\"{name}\" is no name of a header"),
            );
            continue;
        };
        if KEPT_BACK.contains(&key.as_str()) {
            let sentence = format!("\"{name}\" belongs to the handshake itself");
            reader.error("requestHeader", sentence);
            continue;
        }
        for text in texts {
            let value = resolve(text, reader.base()).and_then(|text| {
                HeaderValue::from_str(text.expose_secret())
                    .map_err(|_| "holds what no header may hold".to_owned())
            });
            match value {
                Ok(mut value) => {
                    value.set_sensitive(true);
                    found.append(key.clone(), value);
                }
                Err(why) => reader.error("requestHeader", format!("\"{name}\": {why}")),
            }
        }
    }
    found
}
