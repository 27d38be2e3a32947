//! What may be shown of a connection's properties: masks, and how a mask that comes back keeps what
//! is stored. Writes nothing anywhere.

use std::fmt;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::properties::resolve;
use super::{Properties, Property, PropertyKind};

/// What stands in place of a secret.
pub const MASK: &str = "******";

/// A shorter secret is not looked for in texts: it would hide half of every sentence.
const SHORTEST: usize = 4;

/// Words in a name that make its value a secret, wherever it stands (headers, objects inside, queries
/// of URLs). `-` and `_` do not count. Not `key` by itself: that of idempotency, a partition or a cache
/// is none.
const SECRET_WORDS: [&str; 20] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "credential",
    "cookie",
    "sessionid",
    "sessid",
    "apikey",
    "accesskey",
    "accountkey",
    "authkey",
    "functionskey",
    "masterkey",
    "privatekey",
    "sharedkey",
    "signingkey",
    "subscriptionkey",
];

/// The same of words that must stand by themselves, since they are in too many others.
const SECRET_PARTS: [&str; 6] = ["bearer", "hmac", "jwt", "pwd", "sig", "signature"];

/// The properties as they may be shown: secrets masked, the user part of each URL masked, and so in
/// objects and lists inside.
#[must_use]
pub fn mask(properties: &Properties, known: &[Property]) -> Properties {
    let shown = properties.iter().map(|(name, value)| {
        let shown = match (value, inner(name, known)) {
            (Value::Object(object), Some(inner)) => Value::Object(mask(object, inner)),
            _ => mask_value(value, is_secret(name, known)),
        };
        (name.clone(), shown)
    });
    shown.collect()
}

/// What a PUT means: where it gives a mask, the value that is stored; everything else as given.
/// Names are matched without regard to case.
#[must_use]
pub fn merge(given: &Properties, stored: &Properties) -> Properties {
    let merged = given.iter().map(|(name, value)| {
        let old = stored
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name));
        (name.clone(), merge_value(value, old.map(|(_, old)| old)))
    });
    merged.collect()
}

fn merge_value(given: &Value, stored: Option<&Value>) -> Value {
    match (given, stored) {
        (Value::String(text), Some(old)) if text == MASK => old.clone(),
        // A URL with a masked user part that is otherwise the stored one.
        (Value::String(text), Some(Value::String(old)))
            if text.contains(MASK) && *text == redact_url(old) =>
        {
            Value::String(old.clone())
        }
        (Value::Object(new), Some(Value::Object(old))) => Value::Object(merge(new, old)),
        (Value::Array(new), Some(Value::Array(old))) => {
            let items = new.iter().enumerate();
            items
                .map(|(place, item)| merge_value(item, old.get(place)))
                .collect()
        }
        _ => given.clone(),
    }
}

/// The properties of a property that is an object of its own.
fn inner(name: &str, known: &[Property]) -> Option<&'static [Property]> {
    let property = known
        .iter()
        .find(|known| known.name.eq_ignore_ascii_case(name))?;
    match property.kind {
        PropertyKind::Object(inner) if !property.secret => Some(inner),
        _ => None,
    }
}

fn is_secret(name: &str, known: &[Property]) -> bool {
    match known
        .iter()
        .find(|known| known.name.eq_ignore_ascii_case(name))
    {
        Some(property) => property.secret,
        None => sounds_secret(name),
    }
}

fn sounds_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let mut parts = lower.split(['-', '_']);
    if parts.clone().any(|part| SECRET_PARTS.contains(&part)) {
        return true;
    }
    // `Auth`, and `X-Auth-` whatever follows.
    let first = parts.next().unwrap_or_default();
    if first == "auth" && parts.clone().next().is_none()
        || first == "x" && parts.next() == Some("auth")
    {
        return true;
    }
    let plain = lower.replace(['-', '_'], "");
    SECRET_WORDS.iter().any(|word| plain.contains(word))
}

fn mask_value(value: &Value, secret: bool) -> Value {
    match value {
        Value::Null => Value::Null,
        // A reference is no secret, and the operator must see where the secret is kept.
        Value::String(text)
            if secret && (text.starts_with("env:") || text.starts_with("file:")) =>
        {
            value.clone()
        }
        _ if secret => Value::String(MASK.to_owned()),
        Value::String(text) => Value::String(redact_url(text)),
        Value::Array(items) => items.iter().map(|item| mask_value(item, false)).collect(),
        Value::Object(object) => {
            let inner = object.iter();
            inner
                .map(|(name, value)| (name.clone(), mask_value(value, sounds_secret(name))))
                .collect()
        }
        other => other.clone(),
    }
}

/// Takes the secrets of one connection out of texts that others wrote (a library's error).
#[derive(Clone, Default)]
pub struct Scrubber {
    texts: Vec<SecretString>,
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrubber")
            .field("texts", &self.texts.len())
            .finish()
    }
}

impl Scrubber {
    /// Looks for the secrets in these properties, references resolved.
    #[must_use]
    pub fn new(properties: &Properties, known: &[Property], base: &Path) -> Self {
        let mut scrubber = Self::default();
        scrubber.collect_all(properties, known, base);
        scrubber
    }

    fn collect_all(&mut self, properties: &Properties, known: &[Property], base: &Path) {
        for (name, value) in properties {
            match (value, inner(name, known)) {
                (Value::Object(object), Some(inner)) => self.collect_all(object, inner, base),
                _ => self.collect(value, is_secret(name, known), base),
            }
        }
    }

    fn collect(&mut self, value: &Value, secret: bool, base: &Path) {
        match value {
            Value::String(text) if secret => {
                if let Ok(text) = resolve(text, base) {
                    self.add(text);
                }
            }
            Value::String(text) => {
                if let Some((user, _)) = user_part(text) {
                    let password = user.split_once(':').map_or("", |(_, password)| password);
                    self.add(password.to_owned().into());
                }
            }
            Value::Array(items) => items
                .iter()
                .for_each(|item| self.collect(item, secret, base)),
            Value::Object(object) => {
                for (name, value) in object {
                    self.collect(value, secret || sounds_secret(name), base);
                }
            }
            _ => {}
        }
    }

    fn add(&mut self, text: SecretString) {
        if text.expose_secret().len() >= SHORTEST {
            self.texts.push(text);
        }
    }

    /// The text without the secrets, and without the user part of a URL in it.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let words = text.split(' ').map(|word| {
            if word.contains("://") {
                redact_url(word)
            } else {
                word.to_owned()
            }
        });
        let mut clean = words.collect::<Vec<_>>().join(" ");
        for secret in &self.texts {
            if clean.contains(secret.expose_secret()) {
                clean = clean.replace(secret.expose_secret(), MASK);
            }
        }
        clean
    }
}

/// A text whose URLs have `******` in place of user and password, and in place of the value of query
/// parameters that sound like a secret. Also for `user:password@tcp(host)` without a scheme.
#[must_use]
pub fn redact_url(text: &str) -> String {
    let (mut shown, rest) = match user_part(text) {
        Some((user, rest)) => {
            // The user part stands behind the scheme, if there is one.
            let before = text.len().saturating_sub(user.len() + rest.len());
            (
                text.get(..before).unwrap_or_default().to_owned() + MASK,
                rest,
            )
        }
        None => (String::new(), text),
    };
    match rest.split_once('?') {
        None => shown.push_str(rest),
        Some((path, query)) => {
            shown.push_str(path);
            for (place, pair) in query.split('&').enumerate() {
                shown.push(if place == 0 { '?' } else { '&' });
                match pair.split_once('=') {
                    Some((name, _)) if sounds_secret(name) => {
                        shown.push_str(name);
                        shown.push('=');
                        shown.push_str(MASK);
                    }
                    _ => shown.push_str(pair),
                }
            }
        }
    }
    shown
}

/// User and password of a URL, and what follows from the `@` on. Without a scheme only what has a
/// `:` before the `@` counts (`user:password@tcp(host)`).
fn user_part(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = match text.find("://") {
        Some(at) => text.split_at(at + 3),
        None => ("", text),
    };
    let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
    // A password may hold a `/` that nobody escaped: then the last `@` before the query decides.
    let before_query = rest.split(['?', '#', ' ']).next().unwrap_or_default();
    let within = if scheme.is_empty() {
        authority
    } else {
        before_query
    };
    let (user, rest) = rest.split_at(within.rfind('@')?);
    let is_user = user.contains(':') || (!scheme.is_empty() && authority.contains('@'));
    is_user.then_some((user, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const KNOWN: &[Property] = &[
        Property::secret("password"),
        Property::plain("server"),
        Property::plain("headers"),
    ];

    fn props(value: Value) -> Properties {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn secrets_are_masked_wherever_they_stand_and_references_are_shown() {
        let stored = props(json!({
            "PASSWORD": "hunter2", "server": "tcp://me:hunter2@host:1883/x?token=hunter2&a=1",
            "headers": {"Authorization": "Bearer hunter2", "list": ["http://u:hunter2@h/"]},
            "unknownSecret": {"a": "hunter2"}, "qos": 1,
        }));
        let shown = mask(&stored, KNOWN);
        let text = serde_json::to_string(&shown).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(shown["server"], "tcp://******@host:1883/x?token=******&a=1");
        assert_eq!(shown["qos"], 1);
        let referred = mask(&props(json!({"password": "env:PW"})), KNOWN);
        assert_eq!(referred["password"], "env:PW");
    }

    #[test]
    fn headers_that_carry_a_secret_are_known_by_their_names_and_others_stay() {
        let secret = [
            "Authorization",
            "Proxy-Authorization",
            "Cookie",
            "Set-Cookie",
            "Api-Key",
            "X-API-Key",
            "x_api_key",
            "X-Goog-Api-Key",
            "Ocp-Apim-Subscription-Key",
            "X-Functions-Key",
            "X-Auth",
            "X-Auth-User",
            "X-Auth-Key",
            "Auth",
            "X-Access-Key",
            "X-JWT-Assertion",
            "X-Hub-Signature-256",
            "X-Session-Id",
            "Private-Token",
            "PWD",
        ];
        let harmless = [
            "Accept",
            "Content-Type",
            "Idempotency-Key",
            "Partition-Key",
            "Sec-WebSocket-Key",
            "X-Author",
            "Authority",
            "X-Request-Id",
            "X-Design",
            "Cache-Control",
            "keyField",
        ];
        for (names, shown) in [(&secret[..], MASK), (&harmless[..], "hunter2")] {
            for name in names {
                let stored = props(json!({ "headers": { *name: "hunter2" } }));
                assert_eq!(mask(&stored, KNOWN)["headers"][name], shown, "{name}");
                let scrubber = Scrubber::new(&stored, KNOWN, Path::new("/"));
                assert_eq!(scrubber.clean("hunter2"), shown, "{name}");
            }
        }
    }

    #[test]
    fn secrets_of_an_object_are_those_that_its_own_list_names() {
        const INNER: &[Property] = &[
            Property::secret("KeyPEMBlock"),
            Property::plain("TokenTopic"),
        ];
        const OUTER: &[Property] = &[Property::plain("optional").of(PropertyKind::Object(INNER))];
        let stored = props(json!({"optional": {"keypemblock": "hunter2", "tokenTopic": "t/t/t"}}));
        let shown = mask(&stored, OUTER);
        assert_eq!(
            shown["optional"],
            json!({"keypemblock": MASK, "tokenTopic": "t/t/t"})
        );
        assert_eq!(merge(&shown, &stored), stored);
        let scrubber = Scrubber::new(&stored, OUTER, Path::new("/"));
        assert_eq!(scrubber.clean("hunter2 t/t/t"), "****** t/t/t");
    }

    #[test]
    fn a_put_of_what_was_shown_keeps_what_is_stored_and_a_new_value_replaces_it() {
        let stored = props(json!({
            "password": "a", "server": "tcp://u:p@h", "headers": {"X-Token": "t", "b": "c"},
        }));
        assert_eq!(merge(&mask(&stored, KNOWN), &stored), stored);
        let given = props(json!({"Password": "b", "server": "tcp://******@other"}));
        let merged = merge(&given, &stored);
        assert_eq!(merged["Password"], "b");
        assert_eq!(
            merged["server"], "tcp://******@other",
            "another host never gets the stored secret"
        );
    }

    #[test]
    fn a_secret_in_the_words_of_a_library_is_taken_out() {
        let stored = props(json!({
            "password": "hunter2", "server": "tcp://me:s3cret@host", "headers": {"X-Token": "tok3n"},
        }));
        let scrubber = Scrubber::new(&stored, KNOWN, Path::new("/"));
        let text = "login hunter2 at tcp://me:s3cret@host (s3cret), tok3n refused";
        assert_eq!(
            scrubber.clean(text),
            "login ****** at tcp://******@host (******), ****** refused"
        );
        assert!(!format!("{scrubber:?}").contains("hunter2"));
    }

    #[test]
    fn urls_lose_their_user_part_and_other_texts_stay() {
        for (text, shown) in [
            ("tcp://host:1883", "tcp://host:1883"),
            ("mysql://u:p@ss/w@host/db?x=1", "mysql://******@host/db?x=1"),
            ("http://user@host/p", "http://******@host/p"),
            ("u:p@tcp(host:3306)/db", "******@tcp(host:3306)/db"),
            ("http://host/a@b", "http://host/a@b"),
            ("me@example.org", "me@example.org"),
            ("plain text", "plain text"),
            ("", ""),
        ] {
            assert_eq!(redact_url(text), shown, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_password_in_a_url_survives(password in "[a-z0-9:/@]{0,12}QQ[a-z0-9:/@]{0,12}") {
            let shown = redact_url(&format!("mqtt://user:{password}@host:1883/path"));
            prop_assert!(!shown.contains("QQ"), "{}", shown);
        }
    }
}
