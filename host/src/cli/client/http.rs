//! Requests to a server's REST interface, and its refusals as errors with its own words. Knows no
//! resource; holds the token, and shows it nowhere.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use url::Url;

/// For reaching the server.
const CONNECT: Duration = Duration::from_secs(5);
/// For one whole request. A connector in Python takes some seconds to compile when it is uploaded.
const REQUEST: Duration = Duration::from_secs(120);
/// The largest answer that is taken.
const LARGEST: usize = 256 * 1024 * 1024;

/// Why a request has not done what was wanted.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ClientError {
    /// Nobody answered.
    #[error("{server} cannot be reached: {why}")]
    Unreachable {
        /// The server, without credentials.
        server: String,
        /// All causes, outermost first.
        why: String,
    },
    /// The server said no.
    #[error("{message}")]
    Refused {
        /// HTTP's word for it.
        status: u16,
        /// The code of the server's envelope.
        code: Option<i64>,
        /// The server's sentence.
        message: String,
    },
    /// The answer is not what such a server gives.
    #[error("{server} does not answer as a Windlass or eKuiper server does: {why}")]
    Odd {
        /// The server, without credentials.
        server: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ClientError {
    /// The server says that there is nothing of that name: 404, or 400 with eKuiper's words.
    pub(in crate::cli) fn is_missing(&self) -> bool {
        match self {
            Self::Refused { status: 404, .. } => true,
            Self::Refused {
                code: Some(1002), ..
            } => true,
            Self::Refused { message, .. } => {
                let lower = message.to_lowercase();
                ["not existed", "not found", "is not found", "doesn't exist"]
                    .iter()
                    .any(|words| lower.contains(words))
            }
            _ => false,
        }
    }
}

/// A server.
#[derive(Clone)]
pub(in crate::cli) struct Rest {
    client: reqwest::Client,
    base: Url,
    token: Option<SecretString>,
    scheme: &'static str,
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest")
            .field("base", &self.name())
            .field("token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

impl Rest {
    /// A client of this server. `ca`: a PEM file with authorities that are trusted beside those of
    /// the system.
    ///
    /// # Errors
    /// The URL is none, or the file cannot be read.
    pub(in crate::cli) fn new(
        server: &str,
        token: Option<SecretString>,
        ca: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let base = base_url(server)?;
        let is_local = match base.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            // A redirect could carry the token somewhere else.
            .redirect(reqwest::redirect::Policy::none())
            .tls_backend_preconfigured(tls(base.scheme() == "https", ca)?);
        if is_local {
            builder = builder.no_proxy();
        } else if token.is_some() && base.scheme() == "http" {
            crate::cli::output::complain(
                "warning: the token goes to another machine in the clear; use https",
            );
        }
        let client = builder
            .build()
            .context("the HTTP client cannot be set up")?;
        Ok(Self {
            client,
            base,
            token,
            scheme: "Bearer ",
        })
    }

    /// The same, with the token by itself, as eKuiper wants it.
    #[must_use]
    pub(in crate::cli) fn with_bare_token(mut self) -> Self {
        self.scheme = "";
        self
    }

    /// The server. User and password are never in it.
    pub(in crate::cli) fn name(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// `segments` are percent-encoded, so that an id may hold anything.
    fn url(&self, segments: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    fn request(&self, method: Method, url: Url) -> reqwest::RequestBuilder {
        let request = self.client.request(method, url);
        let Some(token) = &self.token else {
            return request;
        };
        match HeaderValue::from_str(&format!("{}{}", self.scheme, token.expose_secret())) {
            Ok(mut value) => {
                value.set_sensitive(true);
                request.header(AUTHORIZATION, value)
            }
            // Checked where it was read.
            Err(_) => request,
        }
    }

    /// The answer as text.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(in crate::cli) async fn text(
        &self,
        method: Method,
        segments: &[&str],
        query: &[(&str, &str)],
        body: Option<Body>,
    ) -> Result<String, ClientError> {
        let mut request = self
            .request(method, self.url(segments, query))
            .timeout(REQUEST)
            .header(ACCEPT, "application/json, */*;q=0.1");
        match body {
            Some(Body::Json(value)) => {
                request = request
                    .header(CONTENT_TYPE, "application/json")
                    .body(value.to_string());
            }
            Some(Body::Wasm(bytes)) => {
                request = request.header(CONTENT_TYPE, "application/wasm").body(bytes);
            }
            None => {}
        }
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let text = self.body(response).await?;
        if status.is_success() {
            return Ok(text);
        }
        Err(refusal(status.as_u16(), &text))
    }

    async fn body(&self, mut response: reqwest::Response) -> Result<String, ClientError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unreachable(&error))?
        {
            if bytes.len() + chunk.len() > LARGEST {
                return Err(self.odd(format!("its answer has more than {LARGEST} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        String::from_utf8(bytes).map_err(|_| self.odd("its answer is not UTF-8"))
    }

    /// The answer as JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(in crate::cli) async fn get(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Value, ClientError> {
        let text = self.text(Method::GET, segments, query, None).await?;
        serde_json::from_str(&text).map_err(|error| {
            self.odd(format!(
                "GET /{} gives no JSON: {error}",
                segments.join("/")
            ))
        })
    }

    /// As [`Rest::get`]; None where there is nothing of that name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(in crate::cli) async fn find(
        &self,
        segments: &[&str],
    ) -> Result<Option<Value>, ClientError> {
        match self.get(segments, &[]).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a JSON body; the answer's text.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(in crate::cli) async fn send(
        &self,
        method: Method,
        segments: &[&str],
        body: Value,
    ) -> Result<String, ClientError> {
        self.text(method, segments, &[], Some(Body::Json(body)))
            .await
    }

    /// A request without a body; the answer's text.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(in crate::cli) async fn call(
        &self,
        method: Method,
        segments: &[&str],
    ) -> Result<String, ClientError> {
        self.text(method, segments, &[], None).await
    }

    /// An answer that goes on for ever, as it comes: `GET`, `text/event-stream`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(in crate::cli) async fn stream(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
    ) -> Result<reqwest::Response, ClientError> {
        let request = self
            .request(Method::GET, self.url(segments, query))
            .header(ACCEPT, "text/event-stream");
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = self.body(response).await?;
        Err(refusal(status.as_u16(), &text))
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        // The library's own sentence repeats the URL; what it was caused by says more.
        let mut why = Vec::new();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !why.iter().any(|said: &String| said.contains(&text)) {
                why.push(text);
            }
            cause = inner.source();
        }
        if error.is_timeout() {
            why.insert(0, "it took too long".to_owned());
        }
        if why.is_empty() {
            why.push(error.to_string());
        }
        ClientError::Unreachable {
            server: self.name(),
            why: why.join(": "),
        }
    }

    fn odd(&self, why: impl Into<String>) -> ClientError {
        ClientError::Odd {
            server: self.name(),
            why: why.into(),
        }
    }
}

/// What is sent.
#[derive(Clone, Debug)]
pub(in crate::cli) enum Body {
    /// `application/json`
    Json(Value),
    /// `application/wasm`
    Wasm(bytes::Bytes),
}

/// The server's words: its envelope, else its text, else HTTP's own.
fn refusal(status: u16, text: &str) -> ClientError {
    let envelope: Option<Value> = serde_json::from_str(text).ok();
    let field = |name: &str| envelope.as_ref().and_then(|value| value.get(name));
    let message = match field("message").and_then(Value::as_str) {
        Some(message) => message.to_owned(),
        None if text.trim().is_empty() => "no reason given".to_owned(),
        None => crate::cli::output::plain(text.trim(), 2000),
    };
    let message = match status {
        401 => format!(
            "the server wants a token (401): {message}; see --token-file, WINDLASS_TOKEN, `windlass context`"
        ),
        403 => format!("the token does not allow this (403): {message}"),
        404 if field("message").is_none() => {
            format!("there is nothing at this path (404): {message}")
        }
        _ => message,
    };
    ClientError::Refused {
        status,
        code: field("error").and_then(Value::as_i64),
        message,
    }
}

/// `host`, `host:port` or a URL, with a path or not.
fn base_url(server: &str) -> anyhow::Result<Url> {
    let text = if server.contains("://") {
        server.to_owned()
    } else {
        format!("http://{server}")
    };
    let shown = crate::cli::output::plain(server, 200);
    let url = Url::parse(&text)
        .with_context(|| format!("\"{shown}\" is no server; write it as http://127.0.0.1:9081"))?;
    anyhow::ensure!(
        matches!(url.scheme(), "http" | "https") && url.has_host(),
        "\"{shown}\" is no server: http:// or https://, and a host"
    );
    anyhow::ensure!(
        url.username().is_empty() && url.password().is_none(),
        "a server's URL holds no user and password; give a token with --token-file or WINDLASS_TOKEN"
    );
    Ok(url)
}

/// The system's authorities and those of `ca`. They are not loaded for a server without TLS.
fn tls(is_used: bool, ca: Option<&Path>) -> anyhow::Result<rustls::ClientConfig> {
    use rustls_pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    if is_used {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(path) = ca {
        let shown = path.display();
        let pem = std::fs::read(path).with_context(|| format!("{shown} cannot be read"))?;
        let mut found = 0;
        for certificate in rustls_pki_types::CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| {
                anyhow::anyhow!("{shown} is no PEM file with certificates: {error}")
            })?;
            roots
                .add(certificate)
                .with_context(|| format!("{shown} has a certificate that cannot be used"))?;
            found += 1;
        }
        anyhow::ensure!(found > 0, "{shown} has no certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_in_short_or_as_a_url_and_without_secrets() {
        for (given, name) in [
            ("127.0.0.1:9081", "http://127.0.0.1:9081"),
            ("edge-7", "http://edge-7"),
            ("https://plant.example/edge/", "https://plant.example/edge"),
        ] {
            let rest = Rest::new(given, None, None).unwrap();
            assert_eq!(rest.name(), name);
        }
        for bad in ["", "ftp://x", "http://", "http://me:hush@x", "a b"] {
            let error = format!("{:#}", Rest::new(bad, None, None).unwrap_err());
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn an_id_may_hold_anything() {
        let rest = Rest::new("h:1/below", None, None).unwrap();
        assert_eq!(
            rest.url(&["connections", "a/b c?#%"], &[("forceAll", "true")])
                .as_str(),
            "http://h:1/below/connections/a%2Fb%20c%3F%23%25?forceAll=true"
        );
    }

    #[test]
    fn a_refusal_keeps_the_servers_words_and_knows_what_is_missing() {
        let words = |status, text: &str| refusal(status, text);
        let error = words(
            400,
            "{\"error\":1000,\"message\":\"rule r already exists\"}\n",
        );
        assert_eq!(error.to_string(), "rule r already exists");
        assert!(!error.is_missing());
        for (status, text) in [
            (404, "{\"error\":1002,\"message\":\"Rule x is not found.\"}"),
            (
                400,
                "{\"error\":1000,\"message\":\"connection X not existed\"}",
            ),
            (404, ""),
        ] {
            assert!(words(status, text).is_missing(), "{text}");
        }
        assert!(
            words(401, "missing_token")
                .to_string()
                .contains("--token-file")
        );
        assert_eq!(
            words(422, "plain \u{1b}words").to_string(),
            "plain \u{fffd}words"
        );
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_the_reason_and_no_token_is_shown() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let token = SecretString::from("hush".to_owned());
        let rest = Rest::new(&address.to_string(), Some(token), None).unwrap();
        let error = rest.get(&["ping"], &[]).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&address.to_string()) && text.contains("refused"),
            "{text}"
        );
        assert!(!format!("{rest:?} {error:?}").contains("hush"));
    }
}
