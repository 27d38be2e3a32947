//! Where a connection may go: its base URL and what is below it. Touches no network.
//!
//! Below means: the same scheme, host and port, and a path that begins with the base's. A path is
//! put behind the base's, never resolved against it, so that no text can name another place.

use url::Url;

use crate::connections::properties::nearest;
use crate::error::ConnectionError;

const SCHEMES: [&str; 2] = ["http", "https"];
const MASK: &str = "******";

/// The base URL, without user and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    url: Url,
    /// The path without a slash at its end: what is below begins with it and a slash.
    prefix: String,
}

/// User and password that stood in a URL.
pub(super) type UserInfo = (String, Option<String>);

impl Base {
    /// Reads a base URL.
    ///
    /// # Errors
    /// A sentence on what is wrong, without the user part.
    pub(super) fn parse(text: &str) -> Result<(Self, Option<UserInfo>), String> {
        let mut url = parse(text)?;
        let user = user_of(&url)?;
        // Of a URL with a host none of these fails.
        url.set_username("").ok();
        url.set_password(None).ok();
        url.set_fragment(None);
        if climbs(url.path()) {
            return Err("has \"..\" in its path".to_owned());
        }
        let prefix = url.path().trim_end_matches('/').to_owned();
        Ok((Self { url, prefix }, user))
    }

    /// Host without brackets, port, over TLS.
    pub(super) fn endpoint(&self) -> (String, u16, bool) {
        endpoint(&self.url)
    }

    /// Host and port as they stand in a request's `Host`.
    pub(super) fn authority(&self) -> String {
        authority(&self.url)
    }

    /// The URL of a path and query. Empty: the base itself. The base's own query goes in front.
    ///
    /// # Errors
    /// `denied`: it is not below the base.
    pub(super) fn below(&self, path: &str) -> Result<Url, ConnectionError> {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        if climbs(path) || path.contains(char::is_control) {
            return Err(outside());
        }
        let mut url = self.url.clone();
        if !path.is_empty() {
            let path = path.strip_prefix('/').unwrap_or(path);
            url.set_path(&format!("{}/{path}", self.prefix));
        }
        if let Some(query) = query {
            let joined = match self.url.query().filter(|own| !own.is_empty()) {
                Some(own) if query.is_empty() => own.to_owned(),
                Some(own) => format!("{own}&{query}"),
                None => query.to_owned(),
            };
            url.set_query(Some(&joined));
        }
        if self.holds(&url) {
            Ok(url)
        } else {
            Err(outside())
        }
    }

    /// It is the base, or below it.
    pub(super) fn holds(&self, url: &Url) -> bool {
        let same = url.scheme() == self.url.scheme()
            && url.host() == self.url.host()
            && url.port_or_known_default() == self.url.port_or_known_default()
            && url.username().is_empty()
            && url.password().is_none();
        let path = url.path();
        let below = path == self.url.path()
            || path
                .strip_prefix(self.prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        same && below && !climbs(path)
    }

    /// Where a response of `from` redirects to, if that is below the base.
    ///
    /// # Errors
    /// The target with its origin masked, for a sentence.
    pub(super) fn redirect(&self, from: &Url, location: &str) -> Result<Url, String> {
        let Ok(mut target) = from.join(location) else {
            return Err("what is no URL".to_owned());
        };
        target.set_fragment(None);
        if self.holds(&target) {
            return Ok(target);
        }
        let path: String = target.path().chars().take(100).collect();
        Err(format!("{}://{MASK}{path}", target.scheme()))
    }
}

/// For operators: scheme, host, port and path.
impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}://{}{}",
            self.url.scheme(),
            self.authority(),
            self.prefix
        )
    }
}

/// Host without brackets, port, over TLS.
pub(super) fn endpoint(url: &Url) -> (String, u16, bool) {
    let tls = url.scheme() == "https";
    let host = match url.host() {
        Some(url::Host::Domain(name)) => name.to_owned(),
        Some(url::Host::Ipv4(address)) => address.to_string(),
        Some(url::Host::Ipv6(address)) => address.to_string(),
        None => String::new(),
    };
    let port = url.port_or_known_default();
    (host, port.unwrap_or(if tls { 443 } else { 80 }), tls)
}

/// Host and port as they stand in a request's `Host`.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// An `http` or `https` URL with a host.
///
/// # Errors
/// A sentence without the user part.
pub(super) fn parse(text: &str) -> Result<Url, String> {
    let Some((scheme, _)) = text.split_once("://") else {
        return Err("has no scheme; write it as http://host or https://host".to_owned());
    };
    let lower = scheme.to_ascii_lowercase();
    if !SCHEMES.contains(&lower.as_str()) {
        let hint = match nearest(&lower, SCHEMES) {
            Some(meant) => format!("did you mean \"{meant}\"? "),
            None => String::new(),
        };
        return Err(format!(
            "has the scheme \"{scheme}\"; {hint}Allowed: http, https"
        ));
    }
    Url::parse(text.trim()).map_err(|error| format!("is not a URL: {error}"))
}

/// User and password in a URL, their %-codes decoded.
fn user_of(url: &Url) -> Result<Option<UserInfo>, String> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decode = |text: &str| {
        String::from_utf8(percent_decoded(text))
            .map_err(|_| "has a user part that is not UTF-8".to_owned())
    };
    let password = url.password().map(decode).transpose()?;
    Ok(Some((decode(url.username())?, password)))
}

fn outside() -> ConnectionError {
    ConnectionError::new(
        crate::error::ErrorKind::Denied,
        "path",
        "the path is not below the connection's URL",
    )
}

/// Whether a part of it is `..`, also where slashes and dots are written as %-codes: a server may
/// decode them before it looks.
fn climbs(path: &str) -> bool {
    if !path.contains('.') && !path.contains('%') {
        return false;
    }
    percent_decoded(path)
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .any(|part| part == b"..")
}

/// %-codes decoded; what is none stays as it is.
fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit = |at: usize| {
        let byte = bytes.get(at).copied()?;
        char::from(byte).to_digit(16)
    };
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        at += if code.is_some() { 3 } else { 1 };
        out.push(code.unwrap_or(byte));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn base(text: &str) -> Base {
        Base::parse(text).unwrap().0
    }

    #[test]
    fn a_path_stands_behind_the_base_with_one_slash_between() {
        for (url, path, wanted) in [
            ("http://h", "", "http://h/"),
            ("http://h", "x", "http://h/x"),
            ("http://h/", "/x", "http://h/x"),
            ("http://h:8080/api", "/x?y=1", "http://h:8080/api/x?y=1"),
            ("http://h/api/", "x/", "http://h/api/x/"),
            ("http://h/api?key=k", "", "http://h/api?key=k"),
            ("http://h/api?key=k", "?y=1", "http://h/api?key=k&y=1"),
            ("http://h/api?key=k", "x?y=1", "http://h/api/x?key=k&y=1"),
            ("https://[::1]:1/", "a b#c", "https://[::1]:1/a%20b%23c"),
            (
                "http://h/api",
                "http://evil/x",
                "http://h/api/http://evil/x",
            ),
            ("http://h/api", "//evil/x", "http://h/api//evil/x"),
            ("http://h", "@evil", "http://h/@evil"),
            ("http://h/a..b", "c..d", "http://h/a..b/c..d"),
        ] {
            let found = base(url).below(path).map(|url| url.to_string());
            assert_eq!(found.unwrap(), wanted, "{url} {path}");
        }
    }

    #[test]
    fn nothing_climbs_out_of_the_base() {
        let base = base("http://h/api");
        for path in [
            "..",
            "../x",
            "/../x",
            "x/../../y",
            "%2e%2e/x",
            "..%2fx",
            "x%2F..%2F..%2Fy",
            "..\\x",
            "%2E./x",
            "a\r\nb",
            "..%5Cx",
        ] {
            let error = base.below(path).unwrap_err();
            assert_eq!(error.kind, crate::error::ErrorKind::Denied, "{path}");
            assert!(!error.report().contains("h/api"));
        }
    }

    #[test]
    fn redirects_stay_below_the_base_or_are_named_without_their_origin() {
        let base = base("http://h:1/api/");
        let from = base.below("x").unwrap();
        for (location, wanted) in [
            ("y", Ok("http://h:1/api/y")),
            ("/api/z?q#f", Ok("http://h:1/api/z?q")),
            ("http://h:1/api", Ok("http://h:1/api")),
            ("/other", Err("http://******/other")),
            ("/apis", Err("http://******/apis")),
            ("http://h:2/api/y", Err("http://******/api/y")),
            ("https://h:1/api/y", Err("https://******/api/y")),
            ("http://u@h:1/api/y", Err("http://******/api/y")),
            ("//evil/api/y?secret", Err("http://******/api/y")),
            ("../../etc", Err("http://******/etc")),
        ] {
            let found = base.redirect(&from, location).map(|url| url.to_string());
            assert_eq!(
                found,
                wanted.map(str::to_owned).map_err(str::to_owned),
                "{location}"
            );
        }
    }

    #[test]
    fn a_base_url_is_read_with_its_user_and_refused_with_a_sentence() {
        let (plain, user) = Base::parse("https://ann:s%40crt@h/api/").unwrap();
        assert_eq!(user, Some(("ann".to_owned(), Some("s@crt".to_owned()))));
        assert_eq!(plain.to_string(), "https://h/api");
        assert_eq!(plain.endpoint(), ("h".to_owned(), 443, true));
        assert_eq!(base("http://[::1]:8080").endpoint().0, "::1");
        for (text, words) in [
            ("h/x", "has no scheme"),
            ("htp://ann:s3cret@h", "did you mean \"http\"?"),
            ("http://", "is not a URL"),
            ("http://h:99999", "is not a URL"),
        ] {
            let sentence = Base::parse(text).unwrap_err();
            assert!(sentence.contains(words), "{text}: {sentence}");
            assert!(!sentence.contains("s3cret"));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_rendered_the_request_stays_below(path in "[a-z./\\\\%@:?#2eEfF ]{0,24}") {
            let base = base("http://h:1/api");
            if let Ok(url) = base.below(&path) {
                prop_assert!(base.holds(&url), "{}", url);
                prop_assert!(url.as_str().starts_with("http://h:1/api"));
                prop_assert!(url.path().split('/').all(|segment| segment != ".."));
            }
        }
    }
}
