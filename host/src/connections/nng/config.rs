//! The properties of an nng connection, checked.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::codec::{Framing, Protocol};
use crate::connections::properties::{self, Reader};
use crate::connections::transport::Endpoint;
use crate::connections::{Limits, Properties, Property};

pub(super) const PROPERTIES: &[Property] = &[
    Property::plain("url")
        .text()
        .default(NEURON)
        .about("Where the other side listens: tcp://host:port or ipc:///path/of/socket. It takes one partner."),
    Property::plain("protocol")
        .one_of(PROTOCOLS)
        .default("pair")
        .about("pair (pair0, both ways) or push (only out)."),
    Property::plain("maxMessageBytes")
        .integer(1, i64::MAX)
        .about("Bytes of the largest message, in and out; the host's maxMessageBytes unless told."),
    Property::plain("connectTimeout")
        .duration()
        .default("5s")
        .about("For reaching the other side and its greeting."),
];

/// Where Neuron listens unless told otherwise, as eKuiper's configuration has it.
const NEURON: &str = "tcp://127.0.0.1:7081";
const PROTOCOLS: &[&str] = &["pair", "push"];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// `sun_path` of Linux less its closing zero; 104 elsewhere.
const LONGEST_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Where the other side listens.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Network(Endpoint),
    Local(PathBuf),
}

impl Place {
    pub(super) fn framing(&self) -> Framing {
        match self {
            Self::Network(_) => Framing::Network,
            Self::Local(_) => Framing::Local,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(endpoint) => write!(f, "tcp://{endpoint}"),
            Self::Local(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

/// One connection's properties.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) place: Place,
    pub(super) protocol: Protocol,
    /// Bytes of the largest message, in and out.
    pub(super) most: usize,
    pub(super) connect_timeout: Duration,
}

impl Config {
    pub(super) fn read(reader: &mut Reader<'_>, limits: &Limits) -> Self {
        let url = reader.string("url").unwrap_or_else(|| NEURON.to_owned());
        let place = place(&url, reader.base()).unwrap_or_else(|why| {
            reader.error("url", why);
            // Nobody will dial it.
            Place::Local(PathBuf::new())
        });
        let word = match reader.string("protocol") {
            // eKuiper has it; a request waits for its answer, and nothing here asks for one.
            Some(word) if word.eq_ignore_ascii_case("req") => {
                reader.error(
                    "protocol",
                    "found \"req\"; requests are not spoken here. Allowed: pair, push",
                );
                "pair"
            }
            _ => reader.one_of("protocol", PROTOCOLS).unwrap_or("pair"),
        };
        let most = i64::try_from(limits.max_message_bytes).unwrap_or(i64::MAX);
        let bytes = reader.integer("maxMessageBytes", 1..=most).unwrap_or(most);
        let time = reader.duration(
            "connectTimeout",
            Duration::from_millis(100)..=Duration::from_secs(60),
        );
        Self {
            place,
            protocol: if word == "push" {
                Protocol::Push
            } else {
                Protocol::Pair0
            },
            most: usize::try_from(bytes).unwrap_or(limits.max_message_bytes),
            connect_timeout: time.unwrap_or(CONNECT_TIMEOUT),
        }
    }
}

/// The other side takes one partner: whoever has the same URL shares its connection.
pub(super) fn endpoint(properties: &Properties) -> String {
    let url = properties::text(properties, "url").unwrap_or(NEURON);
    match place(url, Path::new("")) {
        Ok(place) => place.to_string(),
        Err(_) => url.to_owned(),
    }
}

/// Reads a URL. `nng+tcp` and `nng+ipc` say the same where a scheme has to name its type too.
fn place(url: &str, base: &Path) -> Result<Place, String> {
    const FORMS: &str = "write it as tcp://127.0.0.1:7081 or ipc:///path/of/socket";
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(format!("found \"{}\"; {FORMS}", shown(url)));
    };
    let scheme = scheme.to_ascii_lowercase();
    match scheme.strip_prefix("nng+").unwrap_or(&scheme) {
        "tcp" => Ok(Place::Network(Endpoint::parse(
            &format!("tcp://{rest}"),
            None,
        )?)),
        "ipc" if rest.is_empty() => Err(format!("names no path; {FORMS}")),
        "ipc" => {
            let path = base.join(rest);
            if path.as_os_str().len() > LONGEST_PATH {
                return Err(format!(
                    "has a path of {} bytes; the path of a socket has {LONGEST_PATH} at most",
                    path.as_os_str().len()
                ));
            }
            Ok(Place::Local(path))
        }
        // eKuiper's words for it.
        _ => Err(format!(
            "only tcp and ipc scheme are supported, found \"{}\"; {FORMS}",
            shown(&scheme)
        )),
    }
}

/// A text without control characters, cut short, without what may be credentials.
fn shown(text: &str) -> String {
    let plain = text.rsplit('@').next().unwrap_or_default();
    plain.chars().filter(|c| !c.is_control()).take(60).collect()
}
