//! TLS where this host is the server: a certificate and its key from files, read again when they have
//! been rotated. Listens to nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::time::Instant;

use super::{Pem, parse_certificates, parse_key, unusable};
use crate::error::ConnectionError;

/// How long the files count before a handshake reads them again.
const KEPT: Duration = Duration::from_secs(10);

/// Certificate and key of a listener. Read at first use, and again while it is used.
#[derive(Debug)]
pub struct ServerTls {
    certificates: PathBuf,
    key: PathBuf,
    alpn: &'static [&'static [u8]],
    kept: Mutex<Option<(Instant, Arc<ServerConfig>)>>,
}

impl ServerTls {
    /// PEM files: the certificate with its chain, and its private key; the protocols offered (ALPN).
    #[must_use]
    pub fn new(certificates: PathBuf, key: PathBuf, alpn: &'static [&'static [u8]]) -> Self {
        Self {
            certificates,
            key,
            alpn,
            kept: Mutex::new(None),
        }
    }

    /// The configuration for the next handshake, from the files as they were 10 s ago at most. While
    /// they cannot be used (a rotation half done), the one before goes on.
    ///
    /// # Errors
    /// `disconnected`: the files cannot be used, and never could.
    pub fn config(&self) -> Result<Arc<ServerConfig>, ConnectionError> {
        let mut kept = self.kept.lock();
        if let Some((read, config)) = &*kept
            && read.elapsed() < KEPT
        {
            return Ok(Arc::clone(config));
        }
        let config = match (self.load(), kept.take()) {
            (Ok(config), _) => config,
            (Err(error), Some((_, before))) => {
                tracing::warn!(error = %error.report(), "rotated TLS files cannot be used; those before go on");
                before
            }
            (Err(error), None) => return Err(error),
        };
        *kept = Some((Instant::now(), Arc::clone(&config)));
        Ok(config)
    }

    fn load(&self) -> Result<Arc<ServerConfig>, ConnectionError> {
        let chain = Pem::File(self.certificates.clone())
            .load()
            .and_then(|text| parse_certificates(&text))
            .map_err(|why| unusable("the listener's certificate cannot be read", why))?;
        let key = Pem::File(self.key.clone())
            .load()
            .and_then(|text| parse_key(&text))
            .map_err(|why| unusable("the listener's private key cannot be read", why))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|error| unusable("the TLS settings cannot be used", error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| {
                unusable(
                    "the listener's certificate and its private key cannot be used together",
                    error,
                )
            })?;
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
}
