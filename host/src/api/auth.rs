//! Who a request is from: a token of eKuiper's kind (JWT), checked with the public key of its issuer.
//! Knows no resource. Tokens and keys stand in no log and no answer.
//!
//! `Authorization: <token>` as in eKuiper, or `Authorization: Bearer <token>`. The claim `iss` names a
//! PEM file in the folder of keys; the kind of that key decides the one algorithm that its tokens may
//! have: RS256, ES256 or EdDSA. `aud` must contain `eKuiper` or `windlass`; `exp` and `nbf` count where
//! they stand. A claim `role` (or `roles`) says what its bearer may do: `read`, `operate`, `admin`; a
//! token without one may do everything, as in eKuiper, whose tokens have none. `tenant` is kept for
//! when there is more than one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, dangerous, decode, decode_header};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use super::error::ApiError;

/// The tenant of everybody, until there are more.
pub const TENANT: &str = "default";
/// Who a token may be for.
const AUDIENCES: [&str; 2] = ["eKuiper", "windlass"];
/// How far the clocks of issuer and host may differ.
const LEEWAY: Duration = Duration::from_secs(30);
/// How long the list of key files counts before it is read again.
const KEPT: Duration = Duration::from_secs(2);
/// The largest key file that is read, in bytes.
const LARGEST_KEY: u64 = 64 * 1024;
/// Key files in the folder; more are not looked at.
const MOST_KEYS: usize = 1024;
/// The longest token.
const LONGEST: usize = 16 * 1024;

/// What a client may do. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Look at everything; secrets are masked.
    Read,
    /// Start, stop and restart rules, try connections, send dead letters again.
    Operate,
    /// Make, change and delete everything; see secrets where they are asked for.
    Admin,
}

impl Role {
    /// The word in a token.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Read, Self::Operate, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
    }

    /// The least role that may do this.
    #[must_use]
    pub fn needed(method: &Method, path: &str) -> Self {
        if method == Method::GET || method == Method::HEAD || method == Method::OPTIONS {
            return Self::Read;
        }
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match (method.as_str(), parts.as_slice()) {
            ("POST", [""] | ["rules", "validate"] | ["ruleset" | "data", "export"]) => Self::Read,
            ("POST", ["rules", "bulkstart" | "bulkstop"])
            | ("POST", ["rules", _, "start" | "stop" | "restart"])
            | ("PUT", ["rules", _, "reset_state"])
            | ("POST", ["connections", _, "check"])
            | ("POST", ["metadata", _, "connection", _])
            | ("POST", ["deadletters", ..]) => Self::Operate,
            _ => Self::Admin,
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whose things it may see.
    pub tenant: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// It has shown a token. Without authentication nobody has, and everybody is `admin`.
    pub authenticated: bool,
}

impl Identity {
    /// Anybody, where there is no authentication.
    #[must_use]
    pub fn anybody() -> Self {
        Self {
            tenant: TENANT.into(),
            role: Role::Admin,
            authenticated: false,
        }
    }

    /// Secrets may be shown to it where it asks for them: it has proved to be an admin.
    #[must_use]
    pub fn may_see_secrets(&self) -> bool {
        self.authenticated && self.role == Role::Admin
    }

    /// # Errors
    /// 403: its role is lower.
    pub fn may(&self, needed: Role) -> Result<(), ApiError> {
        if self.role >= needed {
            return Ok(());
        }
        let (needed, has) = (needed.as_str(), self.role.as_str());
        Err(ApiError::forbidden(format!(
            "this needs the role \"{needed}\"; the token has \"{has}\""
        )))
    }
}

/// How tokens are checked.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// The folder of public keys, PEM, each named as its issuer (`etc/mgmt` in eKuiper).
    pub keys: PathBuf,
}

/// Checks tokens. Key files are read again when they change.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// By name in lower case, as eKuiper finds them.
    files: HashMap<String, PathBuf>,
    listed: Option<Instant>,
    /// None: the file is no key, and that was said.
    keys: HashMap<PathBuf, (Stamp, Option<Arc<Key>>)>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(Option<SystemTime>, u64);

/// A public key, which prints nothing of itself.
struct Key {
    key: DecodingKey,
    algorithm: Algorithm,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({:?})", self.algorithm)
    }
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    aud: Words,
    #[serde(default)]
    role: Words,
    #[serde(default)]
    roles: Words,
}

/// One text, or a list of them.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Words {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl Words {
    fn iter(&self) -> impl Iterator<Item = &str> {
        let words: &[String] = match self {
            Self::None => &[],
            Self::One(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        };
        words.iter().map(String::as_str)
    }
}

impl Authority {
    /// One that looks for keys in this folder. It need not be there yet.
    #[must_use]
    pub fn new(config: &AuthConfig) -> Self {
        Self {
            folder: config.keys.clone(),
            kept: Mutex::default(),
        }
    }

    /// Who sent these headers.
    ///
    /// # Errors
    /// 401, in eKuiper's words where it has some.
    pub fn check(&self, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = match (values.next(), values.next()) {
            (None, _) => return Err(ApiError::unauthorized("missing_token")),
            (Some(_), Some(_)) => return Err(invalid("there are several tokens")),
            (Some(value), None) => value,
        };
        let value = value.to_str().map_err(|_| invalid("it is no text"))?.trim();
        let token = match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            Some((scheme, _)) => {
                let scheme: String = scheme.chars().take(20).collect();
                return Err(invalid(&format!(
                    "the scheme \"{scheme}\" is not known; Allowed: Bearer, or the token alone"
                )));
            }
            None if value.eq_ignore_ascii_case("bearer") => "",
            None => value,
        };
        if token.is_empty() {
            return Err(ApiError::unauthorized("missing_token"));
        }
        if token.len() > LONGEST {
            return Err(invalid("it is too long"));
        }
        self.verify(token)
    }

    fn verify(&self, token: &str) -> Result<Identity, ApiError> {
        let malformed = |_| invalid("token is malformed");
        let header = decode_header(token).map_err(malformed)?;
        // RFC 7515, 4.1.11: extensions that must be understood, and are not.
        if header.crit.is_some() {
            return Err(invalid("its header has critical extensions"));
        }
        let claims: Claims = dangerous::insecure_decode_claims(token).map_err(malformed)?;
        if claims.iss.is_empty() {
            return Err(invalid("issuer field not exist in jwt payload"));
        }
        let key = self.key(&claims.iss).ok_or_else(|| {
            let issuer: String = claims.iss.chars().take(80).collect();
            invalid(&format!("there is no key of the issuer \"{issuer}\""))
        })?;
        let mut validation = Validation::new(key.algorithm);
        validation.required_spec_claims.clear();
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        // Looked at below, in eKuiper's words.
        validation.validate_aud = false;
        // From here on the claims are the issuer's own.
        let claims = decode::<Claims>(token, &key.key, &validation)
            .map_err(|error| invalid(&reason(error.kind(), key.algorithm)))?
            .claims;
        if !claims.aud.iter().any(|word| AUDIENCES.contains(&word)) {
            let named: Vec<String> = claims
                .aud
                .iter()
                .take(10)
                .map(|word| word.chars().take(80).collect())
                .collect();
            return Err(ApiError::unauthorized(format!(
                "audience field should contain eKuiper, but got [{}]",
                named.join(" ")
            )));
        }
        let mut named = claims.role.iter().chain(claims.roles.iter()).peekable();
        let role = if named.peek().is_none() {
            Role::Admin
        } else {
            named.filter_map(Role::parse).max().ok_or_else(|| {
                invalid("it has no role that is known; Allowed: read, operate, admin")
            })?
        };
        Ok(Identity {
            tenant: TENANT.into(),
            role,
            authenticated: true,
        })
    }

    /// The key of an issuer. Only files that stand in the folder are found, whatever the name says.
    fn key(&self, issuer: &str) -> Option<Arc<Key>> {
        let mut kept = self.kept.lock();
        if kept.listed.is_none_or(|at| at.elapsed() >= KEPT) {
            kept.files = list(&self.folder);
            kept.listed = Some(Instant::now());
            let Kept { files, keys, .. } = &mut *kept;
            keys.retain(|path, (stamp, _)| {
                files.values().any(|file| file == path) && stamp_of(path) == Some(*stamp)
            });
        }
        let path = kept.files.get(&issuer.to_lowercase())?.clone();
        if let Some((_, key)) = kept.keys.get(&path) {
            return key.clone();
        }
        let stamp = stamp_of(&path).filter(|stamp| stamp.1 <= LARGEST_KEY)?;
        let key = std::fs::read(&path)
            .ok()
            .and_then(|pem| parse(&pem))
            .map(Arc::new);
        if key.is_none() {
            tracing::warn!(file = %path.display(), "this file is no public key; PEM of RSA, P-256 or Ed25519 is read");
        }
        kept.keys.insert(path, (stamp, key.clone()));
        key
    }
}

fn list(folder: &Path) -> HashMap<String, PathBuf> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "the folder of public keys cannot be read: every token is refused");
            return HashMap::new();
        }
    };
    let files = entries.flatten().filter(|entry| entry.path().is_file());
    files
        .take(MOST_KEYS)
        .filter_map(|entry| Some((entry.file_name().to_str()?.to_lowercase(), entry.path())))
        .collect()
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some(Stamp(meta.modified().ok(), meta.len()))
}

type ReadKey = fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>;

/// A public key and the one algorithm of its kind.
fn parse(pem: &[u8]) -> Option<Key> {
    let kinds: [(Algorithm, ReadKey); 3] = [
        (Algorithm::RS256, DecodingKey::from_rsa_pem),
        (Algorithm::ES256, DecodingKey::from_ec_pem),
        (Algorithm::EdDSA, DecodingKey::from_ed_pem),
    ];
    kinds.into_iter().find_map(|(algorithm, read)| {
        let key = read(pem).ok()?;
        Some(Key { key, algorithm })
    })
}

fn invalid(why: &str) -> ApiError {
    ApiError::unauthorized(format!("validate token error: {why}"))
}

/// Never anything of the token itself.
fn reason(kind: &ErrorKind, algorithm: Algorithm) -> String {
    match kind {
        ErrorKind::ExpiredSignature => "token is expired".to_owned(),
        ErrorKind::ImmatureSignature => "token is not valid yet".to_owned(),
        ErrorKind::InvalidSignature => "signature is invalid".to_owned(),
        ErrorKind::InvalidAlgorithm => format!("its issuer's key is for {algorithm:?} only"),
        ErrorKind::InvalidClaimFormat(claim) => format!("the claim \"{claim}\" is no time"),
        _ => "token is malformed".to_owned(),
    }
}
