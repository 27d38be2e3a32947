//! Which connection fills which slot, from what was said on the command line. Builds nothing.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::config::{ConnectionDef, Source, document, nearest, unknown, validate_id};
use crate::connections::pool::Pool;
use crate::connections::registry::Registry;
use crate::connections::{Interface, urls};
use crate::runtime::Slot;

/// A connection as it was given.
#[derive(Debug)]
pub(super) struct Given {
    slot: Option<String>,
    typ: String,
    props: Map<String, Value>,
    root: Option<PathBuf>,
}

/// The connections of a trial.
#[derive(Debug, Default)]
pub(super) struct Wired {
    /// Each under its slot's name.
    pub(super) by_slot: Vec<ConnectionDef>,
    /// The folder that is granted to files.
    pub(super) root: Option<PathBuf>,
}

/// Types that are attached to whom they serve.
pub(super) fn is_attached(typ: &str) -> bool {
    ["memory", "file"]
        .iter()
        .any(|name| name.eq_ignore_ascii_case(typ))
}

/// Reads all of them; mistakes are sentences that never hold what was given, which may be a secret.
pub(super) fn read(texts: &[String], mistakes: &mut Vec<String>) -> Vec<Given> {
    let mut given = Vec::new();
    for text in texts {
        let (slot, rest) = match text.split_once('=') {
            Some((slot, rest)) if validate_id(slot).is_ok() => (Some(slot), rest),
            _ => (None, text.as_str()),
        };
        match one(rest) {
            Ok((typ, props, root)) => given.push(Given {
                slot: slot.map(str::to_owned),
                typ,
                props,
                root,
            }),
            Err(sentence) => {
                let slot = slot.map(|slot| format!(" {slot}")).unwrap_or_default();
                mistakes.push(format!("--connection{slot}: {sentence}"));
            }
        }
    }
    given
}

type One = (String, Map<String, Value>, Option<PathBuf>);

/// A URL, an object, or a file with one.
fn one(text: &str) -> Result<One, String> {
    if text.trim_start().starts_with('{') {
        let value =
            serde_json::from_str(text).map_err(|error| format!("this is no JSON: {error}"))?;
        return object(value);
    }
    if urls::scheme(text).is_some() {
        let spelled = urls::spell(text, Registry::default())?;
        return Ok((spelled.typ, spelled.props, spelled.root));
    }
    let file = std::fs::read_to_string(text).map_err(|error| {
        format!(
            "this is neither a URL (mqtt://127.0.0.1:1883) nor JSON, and as a file it cannot be read: {error}. Schemes: {}",
            urls::schemes(Registry::default()).join(", ")
        )
    })?;
    let source = Source {
        name: text.to_owned(),
        text: file,
        base: PathBuf::new(),
    };
    let value = document(&source, &|name| std::env::var(name).ok()).map_err(|errors| {
        let sentences: Vec<_> = errors.iter().map(ToString::to_string).collect();
        sentences.join("; ")
    })?;
    object(value)
}

fn object(value: Value) -> Result<One, String> {
    const KEYS: &[&str] = &["typ", "props", "id"];
    let Value::Object(mut object) = value else {
        return Err("a connection is an object: {\"typ\": \"mqtt\", \"props\": {…}}".to_owned());
    };
    if let Some(odd) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let sentence = unknown("key of a connection", odd, KEYS);
        return Err(format!("{sentence}; properties stand below \"props\""));
    }
    let props = match object.shift_remove("props") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(props)) => props,
        Some(_) => return Err("\"props\" must be an object".to_owned()),
    };
    match object.shift_remove("typ") {
        Some(Value::String(typ)) => Ok((typ, props, None)),
        _ => Err("\"typ\" is missing: the connection type, \"mqtt\" for one".to_owned()),
    }
}

/// Gives each connection its slot.
pub(super) fn assign(
    name: &str,
    slots: &[Slot],
    given: Vec<Given>,
    mistakes: &mut Vec<String>,
) -> Wired {
    let mut wired = Wired::default();
    let names: Vec<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
    for one in given {
        let slot = match (&one.slot, slots) {
            (_, []) => {
                mistakes.push(format!(
                    "\"{name}\" uses no connection; leave --connection out"
                ));
                continue;
            }
            (Some(slot), _) if names.contains(&slot.as_str()) => slot.clone(),
            (Some(slot), _) => {
                let hint = nearest(slot, names.iter().copied())
                    .map(|near| format!("did you mean \"{near}\"? "))
                    .unwrap_or_default();
                mistakes.push(format!(
                    "\"{name}\" has no slot \"{slot}\"; {hint}{}",
                    list(slots)
                ));
                continue;
            }
            (None, [only]) => only.name.clone(),
            (None, _) => {
                mistakes.push(format!(
                    "\"{name}\" has several slots; say which one: --connection SLOT=URL. {}",
                    list(slots)
                ));
                continue;
            }
        };
        if wired.by_slot.iter().any(|def| def.id == slot) {
            mistakes.push(format!("slot \"{slot}\" is given two connections"));
            continue;
        }
        if one.root.is_some() {
            wired.root = one.root;
        }
        wired.by_slot.push(ConnectionDef {
            pointer: format!("/connections/{slot}"),
            id: slot,
            typ: one.typ,
            props: one.props,
        });
    }
    wired
}

/// Slots that must be filled and are not, each with an example. One that the configuration itself
/// fills, by properties of a connection, is left to whoever builds it.
pub(super) fn missing(
    name: &str,
    slots: &[Slot],
    wired: &Wired,
    props: &Map<String, Value>,
    pool: &Pool,
    mistakes: &mut Vec<String>,
) {
    let known = pool.property_names(name);
    let brings = ["server", "servers", "dburl", "url", "connectionSelector"]
        .iter()
        .filter(|anchor| known.contains(anchor) || **anchor == "connectionSelector")
        .any(|anchor| props.keys().any(|key| key.eq_ignore_ascii_case(anchor)));
    if name.eq_ignore_ascii_case("memory") || brings {
        return;
    }
    for slot in slots {
        if slot.optional || wired.by_slot.iter().any(|def| def.id == slot.name) {
            continue;
        }
        let about = if slot.description.is_empty() {
            String::new()
        } else {
            format!(": {}", slot.description.trim_end_matches('.'))
        };
        mistakes.push(format!(
            "\"{name}\" needs a connection for its slot \"{}\" ({}){about}. Give it one, such as --connection {}={}",
            slot.name,
            slot.interface.as_str(),
            slot.name,
            example(name, slot.interface),
        ));
    }
}

fn example(name: &str, interface: Interface) -> &'static str {
    match interface {
        Interface::Messaging if name == "file" => "file:./folder",
        Interface::Messaging => "mqtt://127.0.0.1:1883",
        Interface::Sql => "postgres://user:password@127.0.0.1/database",
        Interface::Http => "http://127.0.0.1:8080",
    }
}

fn list(slots: &[Slot]) -> String {
    let all: Vec<_> = slots
        .iter()
        .map(|slot| {
            let optional = if slot.optional { ", optional" } else { "" };
            format!("\"{}\" ({}{optional})", slot.name, slot.interface.as_str())
        })
        .collect();
    format!("Its slots: {}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, optional: bool) -> Slot {
        Slot {
            name: name.to_owned(),
            interface: Interface::Messaging,
            optional,
            description: String::new(),
        }
    }

    fn wire(texts: &[&str], slots: &[Slot]) -> (Wired, Vec<String>) {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        let mut mistakes = Vec::new();
        let given = read(&texts, &mut mistakes);
        let wired = assign("it", slots, given, &mut mistakes);
        (wired, mistakes)
    }

    #[test]
    fn the_name_of_the_only_slot_may_be_left_out() {
        let slots = [slot("broker", false)];
        for text in [
            "mqtt://h:1?qos=1",
            "broker=mqtt://h:1?qos=1",
            r#"{"typ": "mqtt", "props": {"server": "mqtt://h:1", "qos": 1}}"#,
            r#"broker={"typ": "mqtt", "props": {"server": "mqtt://h:1", "qos": 1}}"#,
        ] {
            let (wired, mistakes) = wire(&[text], &slots);
            assert!(mistakes.is_empty(), "{text}: {mistakes:?}");
            let [def] = wired.by_slot.as_slice() else {
                panic!("{text}")
            };
            assert_eq!((def.id.as_str(), def.typ.as_str()), ("broker", "mqtt"));
            assert_eq!(def.props["qos"], 1, "{text}");
        }
    }

    #[test]
    fn a_file_may_hold_the_connection() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("broker.yaml");
        std::fs::write(&file, "typ: mqtt\nprops:\n  server: tcp://h:1\n").unwrap();
        let text = format!("broker={}", file.display());
        let (wired, mistakes) = wire(&[&text], &[slot("broker", false)]);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(wired.by_slot[0].props["server"], "tcp://h:1");
    }

    #[test]
    fn mistakes_name_the_slot_and_what_there_is_and_no_password() {
        let two = [slot("broker", false), slot("backup", true)];
        for (texts, words) in [
            (&["broke=mqtt://h"][..], "did you mean \"broker\"?"),
            (&["mqtt://h"], "say which one"),
            (
                &["broker=mqtt://h", "broker=memory:"],
                "given two connections",
            ),
            (
                &["broker=mqt://u:hunter2@h"],
                "--connection broker: unknown scheme \"mqt\"; did you mean \"mqtt\"?",
            ),
            (&["broker=nothing.yaml"], "as a file it cannot be read"),
            (&[r#"broker={"type": "mqtt"}"#], "did you mean \"typ\"?"),
            (&[r#"broker={"props": {}}"#], "\"typ\" is missing"),
        ] {
            let (_, mistakes) = wire(texts, &two);
            assert_eq!(mistakes.len(), 1, "{texts:?}: {mistakes:?}");
            assert!(mistakes[0].contains(words), "{mistakes:?}");
            assert!(!mistakes[0].contains("hunter2"), "{mistakes:?}");
        }
        let (_, mistakes) = wire(&["mqtt://h"], &[]);
        assert!(mistakes[0].contains("uses no connection"));
    }
}
