//! A real handshake over an in-memory pipe, with certificates made on the spot.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::explain::utc;
use super::*;
use crate::connections::{ConfigError, Properties};
use crate::error::Pace;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn issuer() -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key as PEM, valid until that year.
fn signed(issuer: &Issuer, name: &str, until: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 2);
    (
        params.signed_by(&key, issuer).unwrap().pem(),
        key.serialize_pem(),
    )
}

fn server(pair: &(String, String), clients: Option<&Issuer>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(issuer) => {
            let mut roots = RootCertStore::empty();
            roots.add(issuer.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = parse_certificates(&pair.0.clone().into()).unwrap();
    let config = builder.with_single_cert(chain, parse_key(&pair.1.clone().into()).unwrap());
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

fn read(props: Value, base: &Path) -> Result<(TlsConfig, Vec<String>), Vec<ConfigError>> {
    let properties: Properties = props.as_object().unwrap().clone();
    let mut reader = Reader::new(&properties, PROPERTIES, base);
    let config = TlsConfig::from_reader(&mut reader);
    reader.finish().map(|warnings| (config, warnings))
}

/// Handshake and one byte back, which TLS 1.3 needs to show a refused client certificate.
async fn handshake(config: &TlsConfig, acceptor: &TlsAcceptor) -> Result<(), ConnectionError> {
    let client = config.client(&[])?;
    let name = config.server_name("broker.test")?;
    let (near, far) = tokio::io::duplex(16 * 1024);
    let serve = async {
        if let Ok(mut stream) = acceptor.accept(far).await {
            stream.write_all(b"x").await.ok();
            stream.shutdown().await.ok();
        }
    };
    let dial = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.read_u8().await.map(|_| ())
    };
    let (dialled, ()) = tokio::join!(dial, serve);
    dialled.map_err(|error| explain(&error).unwrap())
}

#[tokio::test]
async fn a_private_authority_is_trusted_and_a_rotated_file_counts_at_the_next_dial() {
    let (old, new) = (issuer(), issuer());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, old.pem()).unwrap();
    let (config, warnings) = read(json!({"rootCaPath": "ca.pem"}), folder.path()).unwrap();
    assert!(config.is_given() && warnings.is_empty());
    handshake(&config, &server(&signed(&old, "broker.test", 4000), None))
        .await
        .unwrap();

    let rotated = server(&signed(&new, "broker.test", 4000), None);
    let refused = handshake(&config, &rotated).await.unwrap_err();
    assert_eq!(
        refused.message,
        "the server's certificate is signed by an unknown authority"
    );
    std::fs::remove_file(&path).unwrap();
    let missing = handshake(&config, &rotated).await.unwrap_err();
    assert_eq!(
        (missing.code.as_str(), missing.pace),
        ("tls:files", Pace::Quick)
    );
    std::fs::write(&path, new.pem()).unwrap();
    handshake(&config, &rotated).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_expired_or_names_another_host_is_said_so_and_dialled_slowly() {
    let issuer = issuer();
    let raw = base64::engine::general_purpose::STANDARD.encode(issuer.pem());
    let (config, _) = read(json!({"rootCARaw": raw}), Path::new("/")).unwrap();
    let expired = handshake(
        &config,
        &server(&signed(&issuer, "broker.test", 2020), None),
    )
    .await;
    let expired = expired.unwrap_err();
    assert_eq!(
        expired.message,
        "certificate expired at 2020-01-02T00:00:00Z"
    );
    assert_eq!(expired.pace, Pace::Slow);
    let acceptor = server(&signed(&issuer, "other.test", 4000), None);
    let other = handshake(&config, &acceptor).await.unwrap_err();
    assert_eq!(
        other.message,
        "the server's certificate is for another name"
    );
    assert!(!other.message.contains("broker") && other.report().contains("broker.test"));
    let override_name = json!({"rootCARaw": issuer.pem(), "serverName": "other.test"});
    let (config, _) = read(override_name, Path::new("/")).unwrap();
    handshake(&config, &acceptor).await.unwrap();
}

#[tokio::test]
async fn without_verification_any_server_will_do_and_the_operator_is_warned() {
    let acceptor = server(&signed(&issuer(), "nobody.test", 2020), None);
    let (config, warnings) = read(json!({"insecureSkipVerify": true}), Path::new("/")).unwrap();
    handshake(&config, &acceptor).await.unwrap();
    assert!(warnings[0].contains("any server can pretend"));
}

#[tokio::test]
async fn a_client_certificate_opens_the_door_and_an_expired_or_missing_one_is_said_so() {
    let issuer = issuer();
    let acceptor = server(&signed(&issuer, "broker.test", 4000), Some(&issuer));
    let with = |until| {
        let (certificate, key) = signed(&issuer, "device", until);
        let props = json!({
            "rootCARaw": issuer.pem(), "certificationRaw": certificate, "privateKeyRaw": key,
        });
        let (config, _) = read(props, Path::new("/")).unwrap();
        assert!(!format!("{config:?}").contains("PRIVATE KEY"));
        config
    };
    handshake(&with(4000), &acceptor).await.unwrap();
    let expired = handshake(&with(2020), &acceptor).await.unwrap_err();
    assert_eq!(
        expired.message,
        "the server refused the client certificate: it has expired"
    );
    let (none, _) = read(json!({"rootCARaw": issuer.pem()}), Path::new("/")).unwrap();
    let none = handshake(&none, &acceptor).await.unwrap_err();
    assert!(
        none.message
            .ends_with("it wants one and none is configured"),
        "{}",
        none.message
    );
    assert_eq!(none.pace, Pace::Slow);
}

#[test]
fn what_cannot_work_is_refused_when_it_is_read() {
    let props = json!({
        "tlsMinVersion": "tls1.0", "renegotiationSupport": "freely", "tls": "default",
        "decrypt": {"key": "k"}, "rootCaPath": "none.pem", "certificationRaw": "%%",
        "privateKeyRaw": "aGVsbG8=", "serverName": "a b",
    });
    let errors = read(props, Path::new("/nowhere")).unwrap_err();
    let at: Vec<_> = errors.iter().map(|error| error.at.as_str()).collect();
    for name in [
        "tlsMinVersion",
        "renegotiationSupport",
        "tls",
        "decrypt",
        "rootCaPath",
        "certificationRaw",
        "privateKeyRaw",
        "serverName",
    ] {
        assert!(
            at.contains(&format!("/props/{name}").as_str()),
            "{name} in {at:?}"
        );
    }
    let alone = read(json!({"certificationRaw": issuer().pem()}), Path::new("/")).unwrap_err();
    assert!(alone[0].message.contains("without privateKeyPath"));
    assert!(read(json!({"tlsMinVersion": "tls1.3"}), Path::new("/")).is_ok());
}

#[test]
fn seconds_become_a_date() {
    assert_eq!(utc(0), "1970-01-01T00:00:00Z");
    assert_eq!(utc(951_827_696), "2000-02-29T12:34:56Z");
    assert_eq!(utc(1_798_761_599), "2026-12-31T23:59:59Z");
}
