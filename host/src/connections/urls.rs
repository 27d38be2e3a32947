//! A connection in one line: a URL made into a type and its properties, for the command line. One
//! table says which scheme means what; a scheme whose type this program does not have is unknown.
//! Checks no property: whoever builds the connection does.

use std::path::PathBuf;

use serde_json::Value;

use super::properties::nearest;
use super::registry::Registry;
use super::{Properties, PropertyKind};

/// What a URL says.
#[derive(Clone, PartialEq, Eq)]
pub struct Spelled {
    /// The connection type.
    pub typ: String,
    /// Its properties. May hold secrets.
    pub props: Properties,
    /// `file:`: the folder that is granted by it.
    pub root: Option<PathBuf>,
}

/// Shows the names of the properties, never their values.
impl std::fmt::Debug for Spelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.props.keys().collect();
        f.debug_struct("Spelled")
            .field("typ", &self.typ)
            .field("props", &names)
            .finish_non_exhaustive()
    }
}

/// How the parts of a URL become properties.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// `server` is scheme, host, port and path; user, password and the query are properties.
    Server,
    /// One property is the URL as it stands, its query included.
    Whole(&'static str),
    /// Nothing but the scheme.
    Bare,
    /// The rest is a folder.
    Root,
}

/// Scheme, type, shape.
const SCHEMES: [(&str, &str, Shape); 21] = [
    ("mqtt", "mqtt", Shape::Server),
    ("mqtts", "mqtt", Shape::Server),
    ("tcp", "mqtt", Shape::Server),
    ("ssl", "mqtt", Shape::Server),
    ("tls", "mqtt", Shape::Server),
    ("mqtt+ssl", "mqtt", Shape::Server),
    ("ws", "mqtt", Shape::Server),
    ("wss", "mqtt", Shape::Server),
    ("postgres", "sql", Shape::Whole("dburl")),
    ("postgresql", "sql", Shape::Whole("dburl")),
    ("mysql", "sql", Shape::Whole("dburl")),
    ("mariadb", "sql", Shape::Whole("dburl")),
    ("sqlite", "sql", Shape::Whole("dburl")),
    ("sqlite3", "sql", Shape::Whole("dburl")),
    ("ipc", "nng", Shape::Whole("url")),
    ("nng+tcp", "nng", Shape::Whole("url")),
    ("nng+ipc", "nng", Shape::Whole("url")),
    ("http", "http", Shape::Whole("url")),
    ("https", "http", Shape::Whole("url")),
    ("memory", "memory", Shape::Bare),
    ("file", "file", Shape::Root),
];

/// The schemes that mean a type of this program.
#[must_use]
pub fn schemes(registry: Registry) -> Vec<&'static str> {
    SCHEMES
        .iter()
        .filter(|(_, typ, _)| has(registry, typ))
        .map(|(scheme, ..)| *scheme)
        .collect()
}

/// What the pool attaches to a rule stands in no registry.
const ATTACHED: [&str; 2] = ["memory", "file"];

fn has(registry: Registry, typ: &str) -> bool {
    ATTACHED.contains(&typ) || registry.get(typ).is_ok()
}

/// The scheme of a text that is a URL; None: it is something else (a file, JSON).
#[must_use]
pub fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    (scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(plain))
        .then_some(scheme)
}

/// Makes type and properties of a URL: `mqtt://user:password@host:1883?qos=1`. What stands behind
/// `?` are properties by their names, but in the URL of a database, which is its driver's.
///
/// # Errors
/// A sentence on what is wrong, never with the user part of the URL.
pub fn spell(text: &str, registry: Registry) -> Result<Spelled, String> {
    let name = scheme(text).ok_or_else(|| {
        format!(
            "this is no URL; write one such as mqtt://127.0.0.1:1883. Schemes: {}",
            schemes(registry).join(", ")
        )
    })?;
    let lower = name.to_ascii_lowercase();
    let found = SCHEMES
        .iter()
        .find(|(scheme, typ, _)| *scheme == lower && has(registry, typ));
    let Some((_, typ, shape)) = found else {
        let known = schemes(registry);
        let hint = match nearest(&lower, known.iter().copied()) {
            Some(meant) => format!("did you mean \"{meant}\"? "),
            None => String::new(),
        };
        return Err(format!(
            "unknown scheme \"{name}\"; {hint}Allowed: {}",
            known.join(", ")
        ));
    };
    let rest = text.get(name.len() + 1..).unwrap_or_default();
    let mut spelled = Spelled {
        typ: (*typ).to_owned(),
        props: Properties::new(),
        root: None,
    };
    match shape {
        Shape::Server => {
            let is_text = |name: &str| {
                let known = registry.get(typ).map_or(&[][..], |kind| kind.properties());
                let property = known
                    .iter()
                    .find(|known| known.name.eq_ignore_ascii_case(name));
                property.is_some_and(|property| matches!(property.kind, PropertyKind::Text))
            };
            server(&lower, rest, is_text, &mut spelled.props)?;
        }
        Shape::Whole(property) => {
            spelled
                .props
                .insert((*property).to_owned(), Value::from(text));
        }
        Shape::Bare if rest.trim_matches('/').is_empty() => {}
        Shape::Bare => {
            return Err(format!(
                "\"{lower}:\" takes nothing behind it: topics are the connector's configuration"
            ));
        }
        Shape::Root => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() {
                return Err(
                    "\"file:\" needs the folder that is granted, such as file:./inbox".to_owned(),
                );
            }
            spelled.root = Some(PathBuf::from(path));
        }
    }
    Ok(spelled)
}

fn server(
    scheme: &str,
    rest: &str,
    is_text: impl Fn(&str) -> bool,
    props: &mut Properties,
) -> Result<(), String> {
    let Some(rest) = rest.strip_prefix("//").filter(|rest| !rest.is_empty()) else {
        return Err(format!(
            "names no host; write it as {scheme}://127.0.0.1:1883"
        ));
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match place.find('/') {
        Some(at) => place.split_at(at),
        None => (place, ""),
    };
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let path = if path == "/" { "" } else { path };
    props.insert(
        "server".to_owned(),
        Value::from(format!("{scheme}://{host}{path}")),
    );
    if let Some(user) = user {
        let (name, password) = match user.split_once(':') {
            Some((name, password)) => (name, Some(password)),
            None => (user, None),
        };
        props.insert("username".to_owned(), Value::from(decode(name)?));
        if let Some(password) = password {
            props.insert("password".to_owned(), Value::from(decode(password)?));
        }
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
        let name = decode(name)?;
        if props.keys().any(|known| known.eq_ignore_ascii_case(&name)) {
            return Err(format!("gives \"{name}\" twice"));
        }
        let value = decode(value)?;
        let value = if is_text(&name) {
            Value::from(value)
        } else {
            scalar(&value)
        };
        props.insert(name, value);
    }
    Ok(())
}

/// What reads as true, false or a number is meant as one. A number must come out as it stands:
/// `007` and `1.10` are texts.
#[must_use]
pub fn scalar(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Bool(value)) => Value::Bool(value),
        Ok(Value::Number(number)) if number.to_string() == text => Value::Number(number),
        _ => Value::from(text),
    }
}

/// `%41` is `A` (RFC 3986, section 2.1). A plus sign is a plus sign.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let decoded = match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        bytes.push(decoded.ok_or(
            "holds a \"%\" without two hexadecimal digits; write %25 for the character itself",
        )?);
    }
    String::from_utf8(bytes).map_err(|_| "holds %-codes that are no UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn props(text: &str) -> Value {
        Value::Object(spell(text, Registry::default()).unwrap().props)
    }

    #[test]
    fn a_broker_is_a_url_with_its_properties_behind_it() {
        assert_eq!(
            props("mqtt://ann:s%40crt@broker.plant:1884?qos=1&clientid=press&protocolVersion=5"),
            json!({
                "server": "mqtt://broker.plant:1884", "username": "ann", "password": "s@crt",
                "qos": 1, "clientid": "press", "protocolVersion": 5,
            })
        );
        assert_eq!(
            props("wss://h/mqtt?enableClientSession&clientid=17"),
            json!({"server": "wss://h/mqtt", "enableClientSession": true, "clientid": "17"})
        );
        assert_eq!(props("MQTTS://h/"), json!({"server": "mqtts://h"}));
        let spelled = spell("mqtt://u:hunter2@h", Registry::default()).unwrap();
        assert!(!format!("{spelled:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_in_this_process_or_on_its_disk_has_a_scheme_too() {
        assert_eq!(spell("memory:", Registry::default()).unwrap().typ, "memory");
        for (text, root) in [("file:in/box", "in/box"), ("file:///data", "/data")] {
            let spelled = spell(text, Registry::default()).unwrap();
            assert_eq!(
                (spelled.typ.as_str(), spelled.root),
                ("file", Some(root.into()))
            );
        }
    }

    #[test]
    fn every_scheme_makes_a_property_that_its_type_knows() {
        for (scheme, typ, shape) in SCHEMES {
            let Ok(kind) = Registry::default().get(typ) else {
                continue;
            };
            let names: &[&str] = match shape {
                Shape::Server => &["server", "username", "password"],
                Shape::Whole(name) => &[name],
                Shape::Bare | Shape::Root => &[],
            };
            for name in names {
                let known = kind.properties().iter().any(|known| known.name == *name);
                assert!(known, "{scheme}: {typ} knows no {name}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_a_sentence_without_the_password() {
        for (text, words) in [
            ("mqt://u:hunter2@h", "did you mean \"mqtt\"?"),
            ("conn.yaml", "this is no URL"),
            ("mqtt:h", "names no host"),
            ("mqtt://u:hunter2%4@h", "hexadecimal"),
            ("mqtt://u:hunter2@h?qos=1&QoS=2", "gives \"QoS\" twice"),
            ("memory:topic", "takes nothing"),
            ("file:", "needs the folder"),
        ] {
            let sentence = spell(text, Registry::default()).unwrap_err();
            assert!(sentence.contains(words), "{text}: {sentence}");
            assert!(!sentence.contains("hunter2"), "{sentence}");
        }
    }
}
