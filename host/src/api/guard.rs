//! Who may speak to the port at all, before anything is looked at: `Host` and `Origin` of every
//! request, and whether the port may be open to other machines. Knows no resource and no token.
//!
//! A web page can make its own name resolve to 127.0.0.1 (DNS rebinding); its requests then come from
//! this machine and carry that name as `Host`. So only names that are this server's own are answered.
//! An address instead of a name proves nothing of the kind, and is taken. `Origin` says which page
//! asks: only this server's own pages may, and those that were allowed by name.

use std::net::{IpAddr, SocketAddr};

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST,
    ORIGIN, VARY,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};

use super::error::{ApiError, Code};

/// The flag with which a user says that he means it.
pub const INSECURE_FLAG: &str = "--insecure-no-auth";

/// Whether a port may be opened like this.
///
/// # Errors
/// It would be open to other machines without authentication, and nobody said that this is meant.
pub fn exposure(address: SocketAddr, authenticated: bool, insecure: bool) -> Result<(), Exposed> {
    if address.ip().is_loopback() || authenticated || insecure {
        Ok(())
    } else {
        Err(Exposed { address })
    }
}

/// A port that anybody could use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "other machines could reach {address}, and whoever reaches it could do anything: turn authentication on, or listen on 127.0.0.1, or say {INSECURE_FLAG} if that is meant"
)]
pub struct Exposed {
    /// Where it was to listen.
    pub address: SocketAddr,
}

/// Names and pages that are let in.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    names: Vec<String>,
    origins: Vec<Authority>,
}

/// The page that asks is one of the allowed ones: it needs headers to see the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign(HeaderValue);

impl Guard {
    /// `names`: host names under which this server is known, beside loopback and addresses.
    /// `origins`: pages of other servers that may use it, as `https://name[:port]`.
    ///
    /// # Errors
    /// One of them is none; the sentence names it.
    pub fn new(names: &[String], origins: &[String]) -> Result<Self, BadName> {
        let bad = |text: &String, wanted| BadName {
            text: text.clone(),
            wanted,
        };
        let mut guard = Self::default();
        for name in names {
            let authority: Authority = name
                .parse()
                .map_err(|_| bad(name, "a host name such as edge-7.example.org"))?;
            guard.names.push(authority.host().to_ascii_lowercase());
        }
        for origin in origins {
            let authority = origin_of(origin)
                .ok_or_else(|| bad(origin, "an origin such as https://ops.example.org"))?;
            guard.origins.push(authority);
        }
        Ok(guard)
    }

    /// Looks at a request's head. Some: it comes from an allowed page of another server.
    ///
    /// # Errors
    /// 400: no or several hosts. 421: the host is not this server. 403: the page may not ask.
    pub fn admit<B>(&self, request: &Request<B>) -> Result<Option<Foreign>, ApiError> {
        let host = host(request)?;
        if !self.is_own(host.host()) {
            let name: String = host.host().chars().take(80).collect();
            let sentence = format!(
                "this server is not known as \"{name}\"; its operator can allow the name, or use an address"
            );
            return Err(ApiError::new(
                StatusCode::MISDIRECTED_REQUEST,
                Code::Undefined,
                sentence,
            ));
        }
        let mut origins = request.headers().get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else {
            return Ok(None);
        };
        let asked = origin.to_str().ok().and_then(origin_of);
        match asked {
            _ if origins.next().is_some() => Err(refused("several origins")),
            Some(from) if same(&from, &host) => Ok(None),
            Some(from) if self.origins.iter().any(|allowed| same(allowed, &from)) => {
                Ok(Some(Foreign(origin.clone())))
            }
            Some(from) => Err(refused(from.as_str())),
            None => Err(refused("nowhere")),
        }
    }

    fn is_own(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        bare.parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self.names.contains(&host)
    }
}

impl Foreign {
    /// What lets the page see the answer.
    pub fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.0.clone());
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("ETag, Retry-After"),
        );
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }

    /// Whether a browser only asks if the page may ask.
    #[must_use]
    pub fn is_preflight<B>(request: &Request<B>) -> bool {
        request.method() == Method::OPTIONS
            && request
                .headers()
                .contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The answer to that.
    #[must_use]
    pub fn preflight(&self) -> http::Response<axum::body::Body> {
        let mut response = http::Response::new(axum::body::Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        for (name, value) in [
            (
                ACCESS_CONTROL_ALLOW_METHODS,
                "GET, HEAD, POST, PUT, PATCH, DELETE",
            ),
            (
                ACCESS_CONTROL_ALLOW_HEADERS,
                "Authorization, Content-Type, If-Match, If-None-Match",
            ),
            (ACCESS_CONTROL_MAX_AGE, "600"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// A name or an origin that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not {wanted}")]
pub struct BadName {
    text: String,
    wanted: &'static str,
}

fn refused(from: &str) -> ApiError {
    let from: String = from.chars().take(120).collect();
    ApiError::forbidden(format!(
        "a page of {from} may not use this server; its operator can allow the origin"
    ))
}

/// Whom the request is for (RFC 9112, 3.2): an absolute target goes before `Host`, and then both
/// count here.
fn host<B>(request: &Request<B>) -> Result<Authority, ApiError> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let wrong = |sentence: &str| ApiError::bad_request(Code::Undefined, sentence).close();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(
            host.to_str()
                .ok()
                .and_then(|host| host.parse::<Authority>().ok())
                .filter(|host| !host.as_str().contains('@') && !host.host().is_empty())
                .ok_or_else(|| wrong("the header Host names no host"))?,
        ),
        (Some(_), Some(_)) => return Err(wrong("there is more than one header Host")),
        (None, _) => None,
    };
    match (request.uri().authority(), named) {
        (Some(target), Some(named)) if !same(target, &named) => {
            Err(wrong("the target and the header Host name different hosts"))
        }
        (Some(target), _) => Ok(target.clone()),
        (None, Some(named)) => Ok(named),
        (None, None) => Err(wrong("the header Host is missing")),
    }
}

/// The authority of an origin, its default port left out.
fn origin_of(text: &str) -> Option<Authority> {
    let url = url::Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && matches!(url.path(), "" | "/")
        && url.query().is_none();
    let host = url.host_str().filter(|_| plain)?;
    let written = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    written.parse().ok()
}

/// Equal hosts and ports, where a default port may be written or not.
fn same(one: &Authority, other: &Authority) -> bool {
    let port = |authority: &Authority| {
        authority
            .port_u16()
            .filter(|port| *port != 80 && *port != 443)
    };
    one.host().eq_ignore_ascii_case(other.host()) && port(one) == port(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard::new(
            &["Edge-7.example".to_owned()],
            &["https://ops.example:8443".to_owned()],
        )
        .unwrap()
    }

    fn admit(target: &str, headers: &[(&str, &str)]) -> Result<Option<Foreign>, u16> {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let admitted = guard().admit(&request.body(()).unwrap());
        admitted.map_err(|error| error.status().as_u16())
    }

    #[test]
    fn only_own_names_and_addresses_are_answered() {
        for host in [
            "localhost:9081",
            "LOCALHOST",
            "a.localhost",
            "127.0.0.1:9081",
            "127.9.9.9",
            "[::1]:9081",
            "192.168.1.7:9081",
            "edge-7.example:80",
            "edge-7.example.",
        ] {
            assert_eq!(admit("/", &[("host", host)]), Ok(None), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "2130706433.example",
            "edge-7.example.evil",
        ] {
            assert_eq!(admit("/", &[("host", host)]), Err(421), "{host}");
        }
        for host in ["", "a b", "user@localhost", "http://localhost"] {
            assert_eq!(admit("/", &[("host", host)]), Err(400), "{host}");
        }
        assert_eq!(admit("/", &[]), Err(400));
        assert_eq!(
            admit("/", &[("host", "localhost"), ("host", "localhost")]),
            Err(400)
        );
    }

    #[test]
    fn an_absolute_target_counts_as_host() {
        let host = ("host", "localhost:9081");
        assert_eq!(admit("http://localhost:9081/x", &[host]), Ok(None));
        assert_eq!(admit("http://evil.example/x", &[host]), Err(400));
        assert_eq!(
            admit("http://evil.example/x", &[("host", "evil.example")]),
            Err(421)
        );
        assert_eq!(admit("http://evil.example/x", &[]), Err(421));
    }

    #[test]
    fn only_own_and_allowed_pages_may_ask() {
        let host = ("host", "localhost:9081");
        let from = |origin| admit("/", &[host, ("origin", origin)]);
        assert_eq!(from("http://localhost:9081"), Ok(None));
        assert_eq!(from("https://LOCALHOST:9081"), Ok(None));
        assert!(from("https://ops.example:8443").unwrap().is_some());
        for origin in [
            "null",
            "http://localhost:3000",
            "http://evil.example",
            "https://ops.example",
            "https://ops.example:8443.evil.example",
            "file://",
            "",
        ] {
            assert_eq!(from(origin), Err(403), "{origin}");
        }
        let twice = [
            host,
            ("origin", "http://localhost:9081"),
            ("origin", "http://evil.example"),
        ];
        assert_eq!(admit("/", &twice), Err(403));
    }

    #[test]
    fn names_and_origins_that_are_none_are_refused_with_their_text() {
        let error = Guard::new(&[], &["ops.example".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("ops.example"));
        assert!(Guard::new(&[], &["https://u:p@ops.example".to_owned()]).is_err());
        assert!(Guard::new(&["a b".to_owned()], &[]).is_err());
    }

    #[test]
    fn a_port_for_others_needs_authentication_or_a_word() {
        let open = "0.0.0.0:9081".parse().unwrap();
        assert!(exposure("127.0.0.1:9081".parse().unwrap(), false, false).is_ok());
        assert!(exposure("[::1]:9081".parse().unwrap(), false, false).is_ok());
        let error = exposure(open, false, false).unwrap_err();
        assert!(error.to_string().contains(INSECURE_FLAG));
        assert!(exposure(open, true, false).is_ok() && exposure(open, false, true).is_ok());
    }
}
