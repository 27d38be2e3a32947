//! The properties of an HTTP connection, names and defaults as in eKuiper where it has them. Reads a
//! JSON object and gives a checked configuration; opens nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::address::{self, Base, UserInfo};
use super::oauth;
use super::text::Text;
use crate::connections::properties::{self, Reader};
use crate::connections::tls::{self, TlsConfig};
use crate::connections::{ConfigError, Limits, Properties, Property, PropertyKind};
use crate::error::ConnectionError;

const OWN: &[Property] = &[
    Property::plain("url").text().about(
        "Where requests go: http:// or https:// with host, port and path. Paths of sources and sinks stand behind it.",
    ),
    Property::plain("headers")
        .of(PropertyKind::TextMap)
        .about("Headers of every request. With oauth they may hold {{.field}} of the token's answer."),
    Property::plain("timeout").duration_in_call().default("5s").about("For one request and its answer."),
    Property::plain("username").text().about("HTTP Basic: the user."),
    Property::secret("password").about("HTTP Basic: the password."),
    Property::secret("token").about("The bearer token of every request."),
    Property::secret("oauth").of(PropertyKind::Object(OAUTH)).about("OAuth 2: where tokens come from."),
    Property::plain("maxInFlight").integer(1, 1000).default("16").about("Requests under way at once."),
    Property::plain("rateLimit").integer(1, 1_000_000).about("Requests in a second, at most."),
    Property::plain("maxBodyBytes")
        .integer(1, 1 << 30)
        .about("Of a request's body, and of an answer's once it is unpacked, which is cut there; the host's maxMessageBytes unless told."),
];

const OAUTH: &[Property] = &[
    Property::plain("access")
        .of(PropertyKind::Object(ACCESS))
        .about("As in eKuiper: a POST whose answer is the token."),
    Property::plain("refresh")
        .of(PropertyKind::Object(CALL))
        .about("As in eKuiper: a POST that renews it; without it access is asked again."),
    Property::plain("clientCredentials")
        .of(PropertyKind::Object(CLIENT))
        .about("The grant of RFC 6749, section 4.4."),
];

const CALL: &[Property] = &[
    Property::plain("url").text().about("The endpoint."),
    Property::plain("headers")
        .of(PropertyKind::TextMap)
        .about("Headers of the POST."),
    Property::secret("body").about("Body of the POST, JSON as text."),
];

const ACCESS: &[Property] = &[
    Property::plain("url").text().about("The endpoint."),
    Property::plain("headers")
        .of(PropertyKind::TextMap)
        .about("Headers of the POST."),
    Property::secret("body").about("Body of the POST, JSON as text."),
    Property::plain("expire")
        .about("Seconds for which a token is good: a number, or {{.field}} of its answer."),
];

const CLIENT: &[Property] = &[
    Property::plain("url").text().about("The token endpoint."),
    Property::plain("clientId").text().about("Who asks."),
    Property::secret("clientSecret").about("Its secret."),
    Property::plain("scope")
        .text()
        .about("What it asks for, words with spaces between."),
    Property::plain("audience")
        .text()
        .about("For whom the token is meant, where the endpoint wants to know."),
    Property::plain("authStyle")
        .one_of(AUTH_STYLES)
        .default("header")
        .about("How id and secret are sent: HTTP Basic, or in the form."),
];

const AUTH_STYLES: &[&str] = &["header", "body"];

const ALL: [Property; OWN.len() + tls::PROPERTIES.len()] =
    properties::join(&[OWN, tls::PROPERTIES]);

/// Every property.
pub(super) const PROPERTIES: &[Property] = &ALL;

const TIMEOUT: Duration = Duration::from_secs(5);
const IN_FLIGHT: usize = 16;

/// Headers that belong to the connection itself, whoever asks for them.
pub(super) const FRAMING: [&str; 9] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

/// A POST to a token endpoint.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) url: url::Url,
    pub(super) headers: Vec<(HeaderName, Text)>,
    pub(super) body: Text,
}

/// Where tokens come from.
#[derive(Clone, Debug)]
pub(super) enum Grant {
    /// eKuiper's two calls.
    Access {
        access: Call,
        refresh: Option<Call>,
        expire: Option<Text>,
    },
    /// RFC 6749, section 4.4.
    ClientCredentials {
        url: url::Url,
        id: String,
        secret: SecretString,
        scope: Option<String>,
        audience: Option<String>,
        in_body: bool,
    },
}

/// A secret as it was written: a reference is looked up at each dial.
#[derive(Clone, Debug)]
struct Reference(SecretString);

/// A checked configuration.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) base: Base,
    folder: PathBuf,
    headers: Vec<(HeaderName, Text)>,
    username: Option<String>,
    password: Option<Reference>,
    token: Option<Reference>,
    pub(super) oauth: Option<Grant>,
    pub(super) timeout: Duration,
    pub(super) in_flight: usize,
    /// Time between two requests.
    pub(super) spacing: Option<Duration>,
    /// Of a body, either way.
    pub(super) body_bytes: usize,
    pub(super) tls: TlsConfig,
    pub(super) warnings: Vec<String>,
}

impl Config {
    /// Reads and checks all properties.
    ///
    /// # Errors
    /// Every mistake, each at its place.
    pub(super) fn read(
        given: &Properties,
        folder: &Path,
        limits: &Limits,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader::new(given, PROPERTIES, folder);
        let url = reader.required_string("url");
        let mut base = None;
        let mut user = None;
        if !url.is_empty() {
            match Base::parse(&url) {
                Ok((found, info)) => (base, user) = (Some(found), info),
                Err(sentence) => reader.error("url", sentence),
            }
        }
        let headers = headers(&mut reader, "headers");
        let oauth = oauth(&mut reader);
        if oauth.is_none()
            && let Some((name, _)) = headers.iter().find(|(_, text)| !text.is_plain())
        {
            let sentence = format!(
                "header \"{name}\" holds \"{{{{\": in the headers of a connection only fields of an OAuth token can stand there"
            );
            reader.error("headers", sentence);
        }
        let (username, password) = basic(&mut reader, user);
        let token = reference(&mut reader, "token");
        let ways = [username.is_some(), token.is_some()];
        if ways.iter().filter(|given| **given).count() > 1 {
            reader.error("token", "is given beside username; one of them can be sent");
        }
        let second = Duration::from_secs(1);
        let timeout = reader.duration("timeout", second / 100..=600 * second);
        let in_flight = reader.integer("maxInFlight", 1..=1000_u16);
        let rate = reader.integer("rateLimit", 1..=1_000_000_u32);
        let most = i64::try_from(limits.max_message_bytes).unwrap_or(i64::MAX);
        let body = reader.integer("maxBodyBytes", 1..=most);
        let tls = TlsConfig::from_reader(&mut reader);
        if let Some(base) = &base
            && !base.endpoint().2
        {
            if tls.is_given() {
                reader.warn("TLS properties are given, and the url is http://, which has no TLS");
            }
            if username.is_some() || token.is_some() || oauth.is_some() {
                reader
                    .warn("credentials are sent without TLS: whoever is on the way can read them");
            }
        }
        for (_, sentence) in properties::beyond_call(given, PROPERTIES, limits.call) {
            reader.warn(sentence);
        }
        let warnings = reader.finish()?;
        let Some(base) = base else {
            // `url` has no mistake here, so there is one; the compiler cannot know.
            return Err(vec![ConfigError::new("/props/url", "is missing")]);
        };
        Ok(Self {
            base,
            folder: folder.to_owned(),
            headers,
            username,
            password,
            token,
            oauth,
            timeout: timeout.unwrap_or(TIMEOUT),
            in_flight: in_flight.map_or(IN_FLIGHT, usize::from),
            spacing: rate.map(|rate| second / rate),
            body_bytes: body
                .and_then(|bytes| usize::try_from(bytes).ok())
                .unwrap_or(limits.max_message_bytes),
            tls,
            warnings,
        })
    }

    /// The headers of every request, secrets as they are now, with the fields of the present token.
    ///
    /// # Errors
    /// `disconnected`: a file or a variable is not there at present. Slow besides: the token's answer
    /// does not have the field that a header asks for, or has no token, or what comes out is no header.
    pub(super) fn headers(
        &self,
        token: Option<&Map<String, Value>>,
    ) -> Result<HeaderMap, ConnectionError> {
        let mut map = HeaderMap::new();
        if let Some(user) = &self.username {
            let password = self
                .password
                .as_ref()
                .map(|it| self.look_up(it))
                .transpose()?;
            let password = password.as_ref().map_or("", |text| text.expose_secret());
            let value = basic_value(user, password);
            map.insert(AUTHORIZATION, value);
        }
        if let Some(token) = &self.token {
            let token = self.look_up(token)?;
            map.insert(AUTHORIZATION, bearer(token.expose_secret())?);
        }
        if let Some(fields) = token {
            match fields.get("access_token").and_then(Value::as_str) {
                Some(token) => drop(map.insert(AUTHORIZATION, bearer(token)?)),
                None if self.headers.iter().all(|(_, text)| text.is_plain()) => {
                    // Nothing would carry a token: the answer is none.
                    return Err(oauth::lacks("access_token"));
                }
                None => {}
            }
        }
        let nothing = Map::new();
        for (name, text) in &self.headers {
            let filled = text.fill(token.unwrap_or(&nothing)).map_err(|field| {
                ConnectionError::disconnected(
                    "oauth:field",
                    format!("header \"{name}\" asks for the field \"{field}\", which the token's answer does not have"),
                )
                .slow()
            })?;
            // One without fields was checked where it was read.
            let mut value = HeaderValue::from_str(&filled).map_err(|_| {
                ConnectionError::disconnected(
                    "header",
                    format!("what stands in header \"{name}\" cannot be sent in one"),
                )
                .slow()
            })?;
            value.set_sensitive(!text.is_plain());
            map.append(name.clone(), value);
        }
        Ok(map)
    }

    fn look_up(&self, reference: &Reference) -> Result<SecretString, ConnectionError> {
        properties::resolve(reference.0.expose_secret(), &self.folder).map_err(|why| {
            ConnectionError::disconnected("secret", "a secret of the connection cannot be read")
                .caused_by(why)
        })
    }
}

/// The value of `Authorization` for HTTP Basic (RFC 7617).
pub(super) fn basic_value(user: &str, password: &str) -> HeaderValue {
    use base64::Engine as _;
    let packed = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let mut value = HeaderValue::from_str(&format!("Basic {packed}"))
        .unwrap_or_else(|_| HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

fn bearer(token: &str) -> Result<HeaderValue, ConnectionError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        ConnectionError::disconnected("token", "the token cannot be sent in a header").slow()
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A secret that can be read now; what was written is kept.
fn reference(reader: &mut Reader<'_>, name: &str) -> Option<Reference> {
    let secret = reader.secret(name)?;
    if secret.expose_secret().is_empty() {
        return None;
    }
    let written = reader
        .value(name)
        .and_then(Value::as_str)
        .unwrap_or_default();
    Some(Reference(written.to_owned().into()))
}

fn basic(reader: &mut Reader<'_>, info: Option<UserInfo>) -> (Option<String>, Option<Reference>) {
    let username = reader.string("username").filter(|name| !name.is_empty());
    let password = reference(reader, "password");
    if let Some((user, pass)) = info {
        if username.is_some() || password.is_some() {
            reader.error(
                "url",
                "holds a user, and username or password are given too",
            );
        }
        return (Some(user), pass.map(|text| Reference(text.into())));
    }
    if password.is_some() && username.is_none() {
        reader.error("password", "is given without username");
    }
    if username.as_ref().is_some_and(|name| name.contains(':')) {
        reader.error("username", "must not hold a colon (RFC 7617, section 2)");
    }
    (username, password)
}

fn headers(reader: &mut Reader<'_>, property: &str) -> Vec<(HeaderName, Text)> {
    let mut found = Vec::new();
    for (name, value) in reader.string_map(property).unwrap_or_default() {
        let Ok(header) = name.parse::<HeaderName>() else {
            reader.error(property, format!("\"{name}\" is no name of a header"));
            continue;
        };
        if FRAMING.contains(&header.as_str()) {
            reader.error(
                property,
                format!("\"{name}\" is set by the connection itself"),
            );
            continue;
        }
        match Text::parse(&value) {
            Ok(text) if text.is_plain() && HeaderValue::from_str(&value).is_err() => {
                let sentence = format!("what stands in \"{name}\" cannot be sent in a header");
                reader.error(property, sentence);
            }
            Ok(text) => found.push((header, text)),
            Err(why) => reader.error(property, format!("\"{name}\" {why}")),
        }
    }
    found
}

fn oauth(reader: &mut Reader<'_>) -> Option<Grant> {
    let grants = reader.nested("oauth", OAUTH, |inner| {
        let access = inner.nested("access", ACCESS, |inner| (call(inner), expire(inner)));
        let refresh = inner.nested("refresh", CALL, call);
        let client = inner.nested("clientCredentials", CLIENT, client);
        match (access, refresh, client) {
            (Some(_), _, Some(_)) => {
                inner.error(
                    "clientCredentials",
                    "is given beside access; one of them gives the token",
                );
                None
            }
            (Some((access, expire)), refresh, None) => Some(Grant::Access {
                access: access?,
                refresh: refresh.flatten(),
                expire,
            }),
            (None, Some(_), _) => {
                inner.error("refresh", "is given without access");
                None
            }
            (None, None, Some(client)) => client,
            (None, None, None) => {
                inner.error(
                    "access",
                    "is missing, and so is clientCredentials: one of them gives the token",
                );
                None
            }
        }
    });
    grants.flatten()
}

fn endpoint(reader: &mut Reader<'_>) -> Option<url::Url> {
    let text = reader.required_string("url");
    if text.is_empty() {
        return None;
    }
    match address::parse(&text) {
        Ok(url) => Some(url),
        Err(sentence) => {
            reader.error("url", sentence);
            None
        }
    }
}

fn call(reader: &mut Reader<'_>) -> Option<Call> {
    let url = endpoint(reader);
    let headers = headers(reader, "headers");
    let body = match reader.value("body") {
        None => Some(String::new()),
        // A file may write the JSON itself.
        Some(Value::Object(object)) => Some(Value::Object(object.clone()).to_string()),
        Some(_) => reader
            .secret("body")
            .map(|body| body.expose_secret().to_owned()),
    };
    let body = match Text::parse(&body?) {
        Ok(body) => body,
        Err(why) => {
            reader.error("body", why);
            return None;
        }
    };
    Some(Call {
        url: url?,
        headers,
        body,
    })
}

fn expire(reader: &mut Reader<'_>) -> Option<Text> {
    let text = match reader.value("expire")? {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => {
            reader.error(
                "expire",
                "must be seconds, or {{.field}} of the token's answer",
            );
            return None;
        }
    };
    match Text::parse(&text) {
        Ok(found) if found.is_plain() && seconds(&text).is_none() => {
            reader.error(
                "expire",
                "must be seconds, or {{.field}} of the token's answer",
            );
            None
        }
        Ok(found) => Some(found),
        Err(why) => {
            reader.error("expire", why);
            None
        }
    }
}

/// A number of seconds that is a time.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.trim().parse().ok()?;
    if seconds.is_nan() {
        return None;
    }
    // More than fits is for ever too.
    Duration::try_from_secs_f64(seconds.min(1e18))
        .ok()
        .filter(|time| !time.is_zero())
}

fn client(reader: &mut Reader<'_>) -> Option<Grant> {
    let url = endpoint(reader);
    let id = reader.required_string("clientId");
    if !reader.has("clientSecret") {
        reader.error(
            "clientSecret",
            "is missing; it must be a string that is not empty",
        );
    }
    let secret = reader.secret("clientSecret");
    let scope = reader.string("scope").filter(|scope| !scope.is_empty());
    let audience = reader.string("audience").filter(|it| !it.is_empty());
    let style = reader.one_of("authStyle", AUTH_STYLES);
    Some(Grant::ClientCredentials {
        url: url?,
        id,
        secret: secret?,
        scope,
        audience,
        in_body: style == Some("body"),
    })
}

/// What is the connection's of the properties of a source or an action that makes its connection
/// itself: see [`crate::connections::ConnectionType::divide`]. A header with a template stays with the
/// connector; all of them are the connection's where it has tokens to fill in.
pub(super) fn divide(properties: &mut Properties) -> Result<Properties, Vec<ConfigError>> {
    let mut own = Properties::new();
    let key = |properties: &Properties, name: &str| {
        let mut keys = properties.keys();
        keys.find(|key| key.eq_ignore_ascii_case(name)).cloned()
    };
    let has_tokens = key(properties, "oauth").is_some();
    if let Some(name) = key(properties, "headers")
        && let Some(headers) = properties.get_mut(&name).and_then(Value::as_object_mut)
    {
        let is_ours = |value: &Value| has_tokens || !value.as_str().is_some_and(is_template);
        let names: Vec<String> = headers
            .iter()
            .filter(|(_, value)| is_ours(value))
            .map(|(name, _)| name.clone())
            .collect();
        let mut ours = Map::new();
        for name in names {
            if let Some(value) = headers.shift_remove(&name) {
                ours.insert(name, value);
            }
        }
        if headers.is_empty() {
            properties.shift_remove(&name);
        }
        if !ours.is_empty() {
            own.insert("headers".to_owned(), Value::Object(ours));
        }
    }
    if let Some(name) = key(properties, "url")
        && let Some(url) = properties.get(&name).and_then(Value::as_str)
        && is_template(url)
    {
        let wrong = |sentence: &str| Err(vec![ConfigError::new(format!("/{name}"), sentence)]);
        let (base, path) = match cut(url) {
            Ok((base, path)) => (base.to_owned(), path.to_owned()),
            Err(sentence) => return wrong(sentence),
        };
        if key(properties, "path").is_some() {
            return wrong(
                "\"url\" holds \"{{\", and \"path\" is given too; let one of them say where a message goes",
            );
        }
        properties.shift_remove(&name);
        own.insert(name, Value::from(base));
        properties.insert("path".to_owned(), Value::from(path));
    }
    Ok(own)
}

fn is_template(text: &str) -> bool {
    text.contains("{{")
}

/// A URL with a template in its path: what is before the part that holds it, and the rest.
fn cut(url: &str) -> Result<(&str, &str), &'static str> {
    const WHOLE: &str =
        "the host of a \"url\" cannot be rendered for each message; only what follows it can";
    let authority = url.find("://").map(|at| at + 3).ok_or(WHOLE)?;
    let template = url.find("{{").unwrap_or(url.len());
    let fixed = url.get(authority..template).ok_or(WHOLE)?;
    // A query that begins before the template is of the path's last part too.
    let fixed = fixed.split('?').next().unwrap_or_default();
    let slash = fixed.rfind('/').ok_or(WHOLE)?;
    url.split_at_checked(authority + slash + 1).ok_or(WHOLE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Config, Vec<ConfigError>> {
        Config::read(
            value.as_object().unwrap(),
            Path::new("/nowhere"),
            &Limits::default(),
        )
    }

    #[test]
    fn every_mistake_is_named_at_its_place_and_no_secret_is_shown() {
        let errors = read(json!({
            "url": "htp://h", "headers": {"Host": "x", "a b": "c", "X": "{{.a}}"}, "timeout": "x",
            "maxInFlight": 0, "rateLimit": -1, "password": "geheim", "tokken": "geheim",
            "oauth": {"access": {"url": "h", "body": "{{.geheim"}, "refresh": {}},
        }))
        .unwrap_err();
        let text = format!("{errors:?}");
        for place in [
            "url",
            "headers",
            "timeout",
            "maxInFlight",
            "rateLimit",
            "password",
            "tokken",
            "oauth/access/url",
            "oauth/access/body",
            "oauth/refresh/url",
        ] {
            let at = format!("/props/{place}");
            assert!(errors.iter().any(|error| error.at == at), "{place}: {text}");
        }
        assert!(text.contains("did you mean \\\"token\\\""), "{text}");
        assert!(!text.contains("geheim"), "{text}");
        assert!(read(json!({})).is_err());
        for (oauth, words) in [
            (json!({}), "is missing"),
            (json!({"refresh": {"url": "http://h"}}), "without access"),
            (
                json!({"access": {"url": "http://h"}, "clientCredentials": {"url": "http://h", "clientId": "a", "clientSecret": "b"}}),
                "beside access",
            ),
            (
                json!({"clientCredentials": {"url": "http://h", "clientId": "a"}}),
                "clientSecret",
            ),
        ] {
            let errors = read(json!({"url": "http://h", "oauth": oauth})).unwrap_err();
            assert!(format!("{errors:?}").contains(words), "{oauth}: {errors:?}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let config = read(json!({"url": "http://h/api"})).unwrap();
        assert_eq!((config.timeout, config.in_flight), (TIMEOUT, IN_FLIGHT));
        assert_eq!(
            (config.spacing, config.body_bytes),
            (None, 16 * 1024 * 1024)
        );
        for property in PROPERTIES {
            let (Some(default), false) = (property.default_value(), property.name == "tls") else {
                continue;
            };
            let mut given = json!({"url": "http://h/api"});
            given[property.name] = default;
            let told = read(given).unwrap();
            assert_eq!(
                (told.timeout, told.in_flight),
                (TIMEOUT, IN_FLIGHT),
                "{}",
                property.name
            );
        }
    }

    #[test]
    fn credentials_become_one_header_and_a_header_of_ones_own_goes_before_it() {
        let value = |given: Value, token: Option<Value>| {
            let token = token.as_ref().and_then(Value::as_object);
            let map = read(given).unwrap().headers(token).unwrap();
            let all: Vec<_> = map.get_all("authorization").iter().collect();
            all.iter()
                .map(|it| it.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            value(
                json!({"url": "http://h", "username": "ann", "password": "pw"}),
                None
            ),
            ["Basic YW5uOnB3"]
        );
        assert_eq!(
            value(json!({"url": "http://ann:pw@h"}), None),
            ["Basic YW5uOnB3"]
        );
        assert_eq!(
            value(json!({"url": "http://h", "token": "t"}), None),
            ["Bearer t"]
        );
        let oauth =
            json!({"clientCredentials": {"url": "http://t", "clientId": "a", "clientSecret": "b"}});
        let answer = json!({"access_token": "a1", "token": "b2"});
        assert_eq!(
            value(json!({"url": "http://h", "oauth": oauth}), Some(answer)),
            ["Bearer a1"]
        );
    }

    #[test]
    fn an_actions_properties_are_divided_and_only_what_changes_stays() {
        for (given, ours, rest) in [
            (
                json!({"url": "http://h/api", "method": "post", "headers": {"Authorization": "x", "X-Id": "{{.id}}"}}),
                json!({"headers": {"Authorization": "x"}}),
                json!({"url": "http://h/api", "method": "post", "headers": {"X-Id": "{{.id}}"}}),
            ),
            (
                json!({"Url": "http://h:1/api/{{.id}}/x?y={{.z}}", "headers": {"A": 1}}),
                json!({"headers": {"A": 1}, "Url": "http://h:1/api/"}),
                json!({"path": "{{.id}}/x?y={{.z}}"}),
            ),
            (
                json!({"url": "http://h/api?id={{.id}}", "oauth": {}, "headers": {"A": "{{.token}}"}}),
                json!({"headers": {"A": "{{.token}}"}, "url": "http://h/"}),
                json!({"oauth": {}, "path": "api?id={{.id}}"}),
            ),
        ] {
            let mut left = given.as_object().unwrap().clone();
            let taken = divide(&mut left).unwrap();
            assert_eq!(Value::Object(taken), ours, "{given}");
            assert_eq!(Value::Object(left), rest, "{given}");
        }
        for given in [
            json!({"url": "http://{{.host}}/x"}),
            json!({"url": "{{.url}}"}),
            json!({"url": "http://h/{{.a}}", "path": "b"}),
        ] {
            let errors = divide(&mut given.as_object().unwrap().clone()).unwrap_err();
            assert_eq!(errors[0].at, "/url", "{given}");
        }
    }
}
