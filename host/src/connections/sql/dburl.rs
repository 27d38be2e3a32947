//! The URL of a database, in the spellings of xo/dburl that eKuiper's users have in their files.
//! Gives checked parts; opens nothing. No error repeats what may be a password.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;
use url::Url;

use super::text::Dialect;
use crate::connections::properties::nearest;

/// Scheme and what it means.
const SCHEMES: [(&str, Dialect); 13] = [
    ("postgres", Dialect::Postgres),
    ("postgresql", Dialect::Postgres),
    ("pg", Dialect::Postgres),
    ("pgsql", Dialect::Postgres),
    ("mysql", Dialect::MySql),
    ("mariadb", Dialect::MySql),
    ("maria", Dialect::MySql),
    ("percona", Dialect::MySql),
    ("my", Dialect::MySql),
    ("sqlite", Dialect::Sqlite),
    ("sqlite3", Dialect::Sqlite),
    ("sq", Dialect::Sqlite),
    ("file", Dialect::Sqlite),
];

const ALLOWED: &str = "Allowed: postgres://user:password@host:5432/database, mysql://user:password@host:3306/database (mariadb:// too), sqlite:path";

/// How much TLS is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ssl {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// PostgreSQL's words, MySQL's, and those of Go's MySQL driver.
const SSL: [(&str, Ssl); 14] = [
    ("disable", Ssl::Disable),
    ("disabled", Ssl::Disable),
    ("false", Ssl::Disable),
    ("allow", Ssl::Prefer),
    ("prefer", Ssl::Prefer),
    ("preferred", Ssl::Prefer),
    ("require", Ssl::Require),
    ("required", Ssl::Require),
    ("skip-verify", Ssl::Require),
    ("verify-ca", Ssl::VerifyCa),
    ("verify-full", Ssl::VerifyFull),
    ("verify-identity", Ssl::VerifyFull),
    ("true", Ssl::VerifyFull),
    ("custom", Ssl::VerifyFull),
];

/// Where a server is, and as whom it is spoken to.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) dialect: Dialect,
    pub(super) host: String,
    pub(super) port: u16,
    /// A socket in the file system, in place of host and port (PostgreSQL: its folder).
    pub(super) socket: Option<PathBuf>,
    pub(super) user: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) database: Option<String>,
    pub(super) ssl: Option<Ssl>,
    pub(super) search_path: Option<String>,
    pub(super) application: Option<String>,
}

/// A file of SQLite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// None: in memory, gone with the connection.
    pub(super) path: Option<PathBuf>,
    pub(super) read_only: bool,
    /// Made when it is not there.
    pub(super) create: bool,
}

/// What a URL names.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Server(Box<Server>),
    File(File),
}

impl Target {
    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Self::Server(server) => server.dialect,
            Self::File(_) => Dialect::Sqlite,
        }
    }
}

/// For an operator's status: no user, no password.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => match &file.path {
                Some(path) => write!(f, "{}", path.display()),
                None => f.write_str(":memory:"),
            },
            Self::Server(server) => {
                match &server.socket {
                    Some(socket) => write!(f, "{}", socket.display())?,
                    None if server.host.contains(':') => {
                        write!(f, "[{}]:{}", server.host, server.port)?;
                    }
                    None => write!(f, "{}:{}", server.host, server.port)?,
                }
                match &server.database {
                    Some(database) => write!(f, "/{database}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// The dialect that the scheme names, if it is one of ours.
pub(super) fn dialect(text: &str) -> Option<Dialect> {
    let scheme = text.split(':').next()?;
    SCHEMES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(scheme))
        .map(|(_, dialect)| *dialect)
}

/// Reads a URL. What it says and is not used here is added to `warnings`.
///
/// # Errors
/// A sentence on what is wrong.
pub(super) fn parse(text: &str, warnings: &mut Vec<String>) -> Result<Target, String> {
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err(format!(
            "is not the URL of a database: it has no scheme. {ALLOWED}"
        ));
    };
    match dialect(text) {
        None => {
            let scheme: String = scheme.chars().take(20).collect();
            let names = SCHEMES.iter().map(|(name, _)| *name);
            let hint = nearest(&scheme, names)
                .map(|name| format!("did you mean \"{name}\"? "))
                .unwrap_or_default();
            Err(format!("has the scheme \"{scheme}\"; {hint}{ALLOWED}"))
        }
        Some(Dialect::Sqlite) => file(rest, warnings).map(Target::File),
        Some(dialect) => server(dialect, rest, warnings).map(|s| Target::Server(Box::new(s))),
    }
}

fn file(rest: &str, warnings: &mut Vec<String>) -> Result<File, String> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = percent_decoded(path)?;
    let (mut read_only, mut create, mut memory) = (false, true, path == ":memory:");
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match (&*name, &*value) {
            ("mode", "ro") => (read_only, create) = (true, false),
            ("mode", "rw") => create = false,
            ("mode", "rwc") => create = true,
            ("mode", "memory") => memory = true,
            ("mode", _) => {
                return Err("has a mode that is none; Allowed: ro, rw, rwc, memory".to_owned());
            }
            _ => warnings.push(format!("the URL's parameter \"{name}\" is not used")),
        }
    }
    if path.is_empty() && !memory {
        return Err("names no file; write it as sqlite:path".to_owned());
    }
    Ok(File {
        path: (!memory).then(|| PathBuf::from(path)),
        read_only,
        create,
    })
}

fn percent_decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |place: usize| {
            after
                .get(place)
                .and_then(|digit| char::from(*digit).to_digit(16))
                .and_then(|digit| u8::try_from(digit).ok())
        };
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(high * 16 + low);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 behind its percent signs".to_owned())
}

fn server(dialect: Dialect, rest: &str, warnings: &mut Vec<String>) -> Result<Server, String> {
    let example = match dialect {
        Dialect::Postgres => "postgres://user:password@host:5432/database",
        Dialect::MySql | Dialect::Sqlite => "mysql://user:password@host:3306/database",
    };
    if !rest.starts_with("//") {
        return Err(format!("is not complete; write it as {example}"));
    }
    // A scheme that the parser knows nothing of: it then changes nothing.
    let url = Url::parse(&format!("db:{rest}")).map_err(|error| {
        format!("is not a URL ({error}); write it as {example}, with % and two hexadecimal digits for each of / @ : # ? % in user and password")
    })?;
    let host = match url.host() {
        Some(url::Host::Domain(name)) => percent_decoded(name)?,
        Some(url::Host::Ipv4(address)) => address.to_string(),
        Some(url::Host::Ipv6(address)) => address.to_string(),
        None => String::new(),
    };
    let text = |text: &str| percent_decoded(text).map(|text| (!text.is_empty()).then_some(text));
    let mut server = Server {
        dialect,
        host,
        port: url.port().unwrap_or(match dialect {
            Dialect::Postgres => 5432,
            Dialect::MySql | Dialect::Sqlite => 3306,
        }),
        socket: None,
        user: text(url.username())?,
        password: text(url.password().unwrap_or_default())?.map(SecretString::from),
        database: text(url.path().trim_start_matches('/'))?,
        ssl: None,
        search_path: None,
        application: None,
    };
    for (name, value) in url.query_pairs() {
        parameter(&mut server, &name, &value, warnings)?;
    }
    if server.host.is_empty() {
        server.host = "localhost".to_owned();
    }
    Ok(server)
}

fn parameter(
    server: &mut Server,
    name: &str,
    value: &str,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let postgres = server.dialect == Dialect::Postgres;
    match name {
        "sslmode" | "ssl-mode" | "ssl_mode" | "tls" => {
            let word = value.to_ascii_lowercase().replace('_', "-");
            let Some((_, ssl)) = SSL.iter().find(|(name, _)| *name == word) else {
                return Err(format!(
                    "has a \"{name}\" that is none; Allowed: disable, prefer, require, verify-ca, verify-full"
                ));
            };
            server.ssl = Some(*ssl);
        }
        "sslrootcert" | "sslcert" | "sslkey" | "ssl-ca" | "ssl-cert" | "ssl-key" => {
            return Err(format!(
                "has the parameter \"{name}\"; give the files as the properties rootCaPath, certificationPath and privateKeyPath"
            ));
        }
        "user" => server.user = Some(value.to_owned()),
        "password" => server.password = Some(SecretString::from(value.to_owned())),
        "dbname" if postgres => server.database = Some(value.to_owned()),
        "host" if postgres && value.starts_with('/') => server.socket = Some(value.into()),
        "host" if postgres => server.host = value.to_owned(),
        "port" if postgres => {
            server.port = value
                .parse()
                .map_err(|_| "has a port that is none".to_owned())?;
        }
        "socket" if !postgres => server.socket = Some(value.into()),
        "application_name" if postgres => server.application = Some(value.to_owned()),
        "search_path" if postgres => server.search_path = Some(value.to_owned()),
        _ => warnings.push(format!("the URL's parameter \"{name}\" is not used")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn read(text: &str) -> (Target, Vec<String>) {
        let mut warnings = Vec::new();
        (parse(text, &mut warnings).unwrap(), warnings)
    }

    fn wrong(text: &str) -> String {
        parse(text, &mut Vec::new()).unwrap_err()
    }

    #[test]
    fn the_spellings_of_dburl_name_the_same_server() {
        for text in [
            "postgres://ann:s%40fe@db.plant/line",
            "postgresql://ann:s%40fe@db.plant:5432/line",
            "pg://ann:s%40fe@db.plant/line?search_path=a,b",
            "pg:///line?host=db.plant&user=ann&password=s%40fe",
        ] {
            let (Target::Server(server), _) = read(text) else {
                panic!("{text}")
            };
            assert_eq!(server.dialect, Dialect::Postgres);
            assert_eq!(
                (server.host.as_str(), server.port),
                ("db.plant", 5432),
                "{text}"
            );
            assert_eq!(server.user.as_deref(), Some("ann"));
            assert_eq!(server.password.as_ref().unwrap().expose_secret(), "s@fe");
            assert_eq!(server.database.as_deref(), Some("line"));
        }
        let (target, warnings) =
            read("mariadb://root:x@[::1]:3307/t?parseTime=true&tls=skip-verify");
        assert_eq!(target.to_string(), "[::1]:3307/t");
        assert_eq!(warnings.len(), 1);
        let Target::Server(server) = target else {
            panic!()
        };
        assert_eq!(
            (server.dialect, server.ssl),
            (Dialect::MySql, Some(Ssl::Require))
        );
        let (target, _) = read("mysql:///t?socket=/run/mysqld.sock");
        assert_eq!(target.to_string(), "/run/mysqld.sock/t");
    }

    #[test]
    fn files_are_named_relative_or_from_the_root() {
        for (text, path) in [
            ("sqlite:a/b.db", "a/b.db"),
            ("sqlite3://a/b.db", "a/b.db"),
            ("sqlite:///a/b%20c.db?mode=rwc", "/a/b c.db"),
            ("file:/a.db", "/a.db"),
        ] {
            let (Target::File(file), _) = read(text) else {
                panic!()
            };
            assert_eq!(file.path, Some(PathBuf::from(path)), "{text}");
            assert!(file.create);
        }
        let (Target::File(file), _) = read("sqlite::memory:") else {
            panic!()
        };
        assert_eq!(file.path, None);
    }

    #[test]
    fn what_is_wrong_is_a_sentence_without_the_password() {
        for (text, word) in [
            ("postgers://u:geheim@h/d", "did you mean \"postgres\"?"),
            ("oracle://u:geheim@h/d", "mariadb://"),
            ("geheim", "no scheme"),
            ("mysql:u:geheim@h/d", "not complete"),
            ("pg://u:geheim@h:99999/d", "not a URL"),
            ("pg://u:geheim@h/d?sslmode=geheim", "verify-full"),
            ("pg://u:geheim@h/d?sslkey=geheim", "privateKeyPath"),
            ("sqlite:", "names no file"),
            ("sqlite:a?mode=geheim", "rwc"),
        ] {
            let sentence = wrong(text);
            assert!(sentence.contains(word), "{text}: {sentence}");
            assert!(!sentence.contains("geheim"), "{sentence}");
        }
    }
}
