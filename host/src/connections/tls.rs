//! TLS for every connection type that dials: the properties as eKuiper names them, a client
//! configuration made anew from the files at each dial (so that rotated files count without a
//! restart), and what a failed handshake means. Dials nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::Property;
use super::properties::{Reader, read_small};
use crate::error::ConnectionError;

mod explain;
mod server;
#[cfg(test)]
mod tests;

pub use explain::explain;
pub use server::ServerTls;

/// The properties; a type adds them to its own with [`super::properties::join`].
pub const PROPERTIES: &[Property] = &[
    Property::plain("certificationPath")
        .text()
        .about("TLS: file of this client's certificate, PEM."),
    Property::plain("privateKeyPath")
        .text()
        .about("TLS: file of its private key, PEM."),
    Property::plain("rootCaPath")
        .text()
        .about("TLS: file of the authorities to be trusted, PEM; without it the system's."),
    Property::plain("certificationRaw")
        .text()
        .about("TLS: this client's certificate itself, PEM or base64 of it."),
    Property::secret("privateKeyRaw").about("TLS: its private key itself, PEM or base64 of it."),
    Property::plain("rootCARaw")
        .text()
        .about("TLS: the authorities themselves, PEM or base64 of it."),
    Property::plain("insecureSkipVerify")
        .boolean()
        .default("false")
        .about("TLS: any server is believed. For a try only."),
    Property::plain("serverName")
        .text()
        .about("TLS: the name that the server must prove; without it the host that is dialled."),
    Property::plain("tlsMinVersion")
        .one_of(&["tls1.2", "tls1.3"])
        .default("tls1.2")
        .about("TLS: the oldest version that is spoken."),
    Property::plain("renegotiationSupport")
        .one_of(&["never"])
        .default("never")
        .about("TLS: there is no renegotiation here."),
    Property::plain("tls")
        .one_of(&[""])
        .about("TLS: eKuiper's server-wide configuration; there is none here."),
    Property::secret("decrypt")
        .about("TLS: encrypted keys are not read here; give the key by file: or env:."),
];

/// The largest file of certificates (1 MiB; all public authorities together are a quarter of it).
const LARGEST_PEM: u64 = 1024 * 1024;
/// How long the system's authorities are kept in memory: reading them takes milliseconds.
const ROOTS_KEPT: Duration = Duration::from_secs(60);

/// Where PEM text comes from.
#[derive(Clone, Debug)]
enum Pem {
    /// Read again at each dial.
    File(PathBuf),
    /// Certificates as text, from the properties.
    Text(String),
    /// A private key as text, from the properties.
    Secret(SecretString),
}

impl Pem {
    fn load(&self) -> Result<SecretString, String> {
        match self {
            Self::Text(text) => Ok(text.clone().into()),
            Self::Secret(text) => Ok(text.clone()),
            Self::File(path) => read_small(path, LARGEST_PEM)
                .and_then(|bytes| {
                    String::from_utf8(bytes).map_err(|_| "it is not PEM text".to_owned())
                })
                .map(SecretString::from),
        }
    }
}

/// What [`TlsConfig::pem_texts`] gives.
#[derive(Debug)]
pub struct PemTexts {
    /// Certificates of the authorities; none: the system's.
    pub authorities: Option<SecretString>,
    /// The client's certificates, its own first, and its private key.
    pub identity: Option<(SecretString, SecretString)>,
    /// The server's certificate is not looked at.
    pub insecure: bool,
}

/// How a connection does TLS. Cheap to clone; holds no open file.
#[derive(Clone, Debug, Default)]
pub struct TlsConfig {
    authorities: Option<Pem>,
    identity: Option<(Pem, Pem)>,
    insecure: bool,
    server_name: Option<String>,
    only_13: bool,
    given: bool,
}

impl TlsConfig {
    /// Reads the TLS properties and checks what they refer to once: a file must be there and hold
    /// what its name promises. Mistakes and warnings go to the reader.
    #[must_use]
    pub fn from_reader(reader: &mut Reader<'_>) -> Self {
        let authorities = pem(reader, "rootCaPath", "rootCARaw");
        let certificates = pem(reader, "certificationPath", "certificationRaw");
        let key = pem(reader, "privateKeyPath", "privateKeyRaw");
        for (source, name, what) in [
            (&authorities, "root certificate", "rootCa"),
            (&certificates, "certificate", "certification"),
        ] {
            if let Some((property, pem)) = source
                && let Err(why) = pem.load().and_then(|text| parse_certificates(&text))
            {
                reader.error(property, format!("holds no usable {name} ({what}): {why}"));
            }
        }
        if let Some((property, pem)) = &key
            && let Err(why) = pem.load().and_then(|text| parse_key(&text).map(|_| ()))
        {
            reader.error(property, format!("holds no usable private key: {why}"));
        }
        let identity = match (certificates, key) {
            (Some((_, certificates)), Some((_, key))) => Some((certificates, key)),
            (None, None) => None,
            (Some((property, _)), None) => {
                reader.error(property, "is given without privateKeyPath or privateKeyRaw");
                None
            }
            (None, Some((property, _))) => {
                reader.error(
                    property,
                    "is given without certificationPath or certificationRaw",
                );
                None
            }
        };
        let insecure = reader.bool("insecureSkipVerify");
        if insecure == Some(true) {
            reader.warn("insecureSkipVerify is true: any server can pretend to be this one");
        }
        let server_name = reader.string("serverName").filter(|name| !name.is_empty());
        if let Some(name) = &server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            reader.error(
                "serverName",
                format!("found \"{name}\"; must be a host name or an IP address"),
            );
        }
        refuse_what_there_is_not(reader);
        let version = reader.string("tlsMinVersion");
        Self {
            given: authorities.is_some()
                || identity.is_some()
                || insecure == Some(true)
                || server_name.is_some(),
            authorities: authorities.map(|(_, pem)| pem),
            identity,
            insecure: insecure.unwrap_or(false),
            server_name,
            only_13: version.is_some_and(|version| minimum_is_13(reader, &version)),
        }
    }

    /// The properties name a certificate, an authority, a server name, or no verification. Types
    /// whose URL leaves the choice open (`tcp://`) use TLS then.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.given
    }

    /// The name that the server must prove: `serverName`, else the host that is dialled (without
    /// port and without the brackets of an IPv6 address).
    ///
    /// # Errors
    /// `misconfigured`: neither a host name nor an IP address.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, ConnectionError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(|error| {
            ConnectionError::misconfigured("tls:name", "the server's name is not valid for TLS")
                .caused_by(error)
        })
    }

    /// A client configuration from the files as they are now, offering these protocols (ALPN).
    /// Reads a few small files: call it once per dial.
    ///
    /// # Errors
    /// `disconnected`: a file that cannot be used at present (it may be in the middle of a rotation,
    /// so the next dial looks again). Its pace is quick.
    pub fn client(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, ConnectionError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions: &[&rustls::SupportedProtocolVersion] = if self.only_13 {
            &[&rustls::version::TLS13]
        } else {
            rustls::ALL_VERSIONS
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| unusable("the TLS settings cannot be used", error))?;
        let builder = if self.insecure {
            let verifier = Arc::new(NoVerification { provider });
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificates, key)) => {
                let chain = certificates
                    .load()
                    .and_then(|text| parse_certificates(&text))
                    .map_err(|why| unusable("the client certificate cannot be read", why))?;
                let key = key
                    .load()
                    .and_then(|text| parse_key(&text))
                    .map_err(|why| unusable("the private key cannot be read", why))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    unusable(
                        "the client certificate and its private key cannot be used together",
                        error,
                    )
                })?
            }
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// The same as PEM text, from the files as they are now, for a library that makes a TLS
    /// configuration of its own.
    ///
    /// # Errors
    /// As [`TlsConfig::client`].
    pub fn pem_texts(&self) -> Result<PemTexts, ConnectionError> {
        let load = |pem: &Pem, what: &str| {
            pem.load()
                .map_err(|why| unusable(&format!("the {what} cannot be read"), why))
        };
        let authorities = self.authorities.as_ref();
        let identity = self.identity.as_ref();
        Ok(PemTexts {
            authorities: authorities
                .map(|pem| load(pem, "root certificates"))
                .transpose()?,
            identity: identity
                .map(|(certificates, key)| {
                    Ok::<_, ConnectionError>((
                        load(certificates, "client certificate")?,
                        load(key, "private key")?,
                    ))
                })
                .transpose()?,
            insecure: self.insecure,
        })
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, ConnectionError> {
        let Some(pem) = &self.authorities else {
            return system_roots();
        };
        let certificates = pem
            .load()
            .and_then(|text| parse_certificates(&text))
            .map_err(|why| unusable("the root certificates cannot be read", why))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots
                .add(certificate)
                .map_err(|error| unusable("a root certificate cannot be used", error))?;
        }
        Ok(Arc::new(roots))
    }
}

/// A file or a text of PEM, with the property that names it. As in eKuiper the path wins over the
/// text; here with a warning.
fn pem(
    reader: &mut Reader<'_>,
    path: &'static str,
    raw: &'static str,
) -> Option<(&'static str, Pem)> {
    let file = reader.string(path).filter(|path| !path.is_empty());
    if let Some(file) = file {
        if reader.has(raw) {
            reader.warn(format!("{raw} is not used because {path} is given too"));
        }
        return Some((path, Pem::File(reader.base().join(file))));
    }
    let secret = raw == "privateKeyRaw";
    let text = if secret {
        reader.secret(raw)?
    } else {
        SecretString::from(reader.string(raw).filter(|text| !text.is_empty())?)
    };
    match decode_raw(text.expose_secret()) {
        Ok(text) if secret => Some((raw, Pem::Secret(text.into()))),
        Ok(text) => Some((raw, Pem::Text(text))),
        Err(why) => {
            reader.error(raw, why);
            None
        }
    }
}

/// PEM text as it is, or PEM text in base64 as eKuiper has it.
fn decode_raw(text: &str) -> Result<String, &'static str> {
    const ALLOWED: &str = "must be PEM text, or the base64 of PEM text";
    if text.trim_start().starts_with("-----BEGIN") {
        return Ok(text.to_owned());
    }
    let packed: String = text.split_ascii_whitespace().collect();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(packed)
        .map_err(|_| ALLOWED)?;
    String::from_utf8(bytes)
        .ok()
        .filter(|text| text.contains("-----BEGIN"))
        .ok_or(ALLOWED)
}

fn parse_certificates(text: &SecretString) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(text.expose_secret().as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(certificates)
}

fn parse_key(text: &SecretString) -> Result<PrivateKeyDer<'static>, String> {
    // The parser's own words could quote the input.
    PrivateKeyDer::from_pem_slice(text.expose_secret().as_bytes())
        .map_err(|_| "there is no PKCS#8, PKCS#1 or SEC1 private key in it".to_owned())
}

fn minimum_is_13(reader: &mut Reader<'_>, version: &str) -> bool {
    match version.to_ascii_lowercase().as_str() {
        "" | "tls1.2" => return false,
        "tls1.3" => return true,
        "tls1.0" | "tls1.1" => reader.error(
            "tlsMinVersion",
            format!("found \"{version}\": TLS 1.0 and 1.1 are broken and not spoken here; use \"tls1.2\" or \"tls1.3\""),
        ),
        _ => reader.error(
            "tlsMinVersion",
            format!("found \"{version}\"; Allowed: tls1.2, tls1.3"),
        ),
    }
    false
}

fn refuse_what_there_is_not(reader: &mut Reader<'_>) {
    if let Some(word) = reader.one_of("renegotiationSupport", &["never", "once", "freely"])
        && word != "never"
    {
        let sentence = format!(
            "found \"{word}\": TLS renegotiation is unsafe and not spoken here; use \"never\""
        );
        reader.error("renegotiationSupport", sentence);
    }
    if reader.string("tls").is_some_and(|word| !word.is_empty()) {
        reader.error("tls", "there is no server-wide TLS configuration here; give the certificates on the connection");
    }
    if reader.has("decrypt") {
        reader.error(
            "decrypt",
            "encrypted key material is not read; give the key by file: or env: instead",
        );
    }
}

fn unusable(
    message: &str,
    why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ConnectionError {
    ConnectionError::disconnected("tls:files", message).caused_by(why)
}

/// The machine's own authorities, read at most once in [`ROOTS_KEPT`].
fn system_roots() -> Result<Arc<RootCertStore>, ConnectionError> {
    static KEPT: Mutex<Option<(Instant, Arc<RootCertStore>)>> = Mutex::new(None);
    let mut kept = KEPT.lock();
    if let Some((read, roots)) = &*kept
        && read.elapsed() < ROOTS_KEPT
    {
        return Ok(Arc::clone(roots));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let error = ConnectionError::disconnected(
            "tls:roots",
            "this machine has no root certificates; install them or give rootCaPath",
        );
        return Err(match found.errors.into_iter().next() {
            Some(cause) => error.caused_by(cause),
            None => error,
        });
    }
    let roots = Arc::new(roots);
    *kept = Some((Instant::now(), Arc::clone(&roots)));
    Ok(roots)
}

/// Accepts every certificate, but still proves that the server holds its key.
#[derive(Debug)]
struct NoVerification {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
