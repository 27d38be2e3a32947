//! An authority and the certificates that it signs, made anew in each test.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::mosquitto::Tls;

/// An authority of its own.
#[derive(Debug)]
pub struct Certificates {
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key (PKCS 8).
    pub key: String,
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificates {
    /// A new authority.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "test authority");
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
        Self { authority }
    }

    /// PEM of the authority: what a client has to trust.
    #[must_use]
    pub fn authority(&self) -> String {
        self.authority.pem()
    }

    /// A certificate for these names.
    #[must_use]
    pub fn identity(&self, names: &[&str]) -> Identity {
        self.sign(names, None)
    }

    /// A certificate for these names that runs out when so much time has passed.
    #[must_use]
    pub fn identity_until(&self, names: &[&str], life: Duration) -> Identity {
        self.sign(names, Some(SystemTime::now() + life))
    }

    /// A certificate for these names that has run out.
    #[must_use]
    pub fn expired(&self, names: &[&str]) -> Identity {
        self.sign(names, Some(SystemTime::now() - Duration::from_secs(60)))
    }

    fn sign(&self, names: &[&str], until: Option<SystemTime>) -> Identity {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).expect("names of hosts");
        if let Some(until) = until {
            // What is over already has begun before that.
            params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
            params.not_after = until.into();
        }
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, names.join("+"));
        let key = KeyPair::generate().expect("a key");
        let certificate = params
            .signed_by(&key, &self.authority)
            .expect("a certificate");
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// What a broker on 127.0.0.1 needs.
    #[must_use]
    pub fn server(&self, require_certificate: bool) -> Tls {
        self.server_as(&["localhost", "127.0.0.1"], require_certificate)
    }

    /// The same with a certificate that runs out when so much time has passed.
    #[must_use]
    pub fn server_until(&self, life: Duration) -> Tls {
        let Identity { certificate, key } = self.identity_until(&["localhost", "127.0.0.1"], life);
        Tls {
            authority: self.authority(),
            certificate,
            key,
            require_certificate: false,
        }
    }

    /// The same under other names, for the test that a client notices.
    #[must_use]
    pub fn server_as(&self, names: &[&str], require_certificate: bool) -> Tls {
        self.server_with(self.identity(names), require_certificate)
    }

    /// The same with this certificate.
    #[must_use]
    pub fn server_with(&self, identity: Identity, require_certificate: bool) -> Tls {
        let Identity { certificate, key } = identity;
        Tls {
            authority: self.authority(),
            certificate,
            key,
            require_certificate,
        }
    }
}
