//! Which server, and with which token: flags, variables, and a file in the user's own folder that
//! only the user can read (`windlass context`). A token goes only to the server that it was kept for.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::http::Rest;
use super::render::Table;
use crate::cli::output;
use crate::config::{nearest, validate_id};

/// Where a server is unless somebody says something else.
const DEFAULT_SERVER: &str = "http://127.0.0.1:9081";
/// The largest file that a token or the contexts may have.
const LARGEST: u64 = 1024 * 1024;

/// Which server. What is not given comes from the variables, then from the context.
#[derive(Args, Clone, Debug, Default)]
pub(in crate::cli) struct ServerArguments {
    /// The server's REST interface [default: WINDLASS_SERVER, the context in use, http://127.0.0.1:9081]
    #[arg(long, value_name = "URL")]
    pub(in crate::cli) server: Option<String>,
    /// A file with the token ("-": standard input) [default: WINDLASS_TOKEN, the context in use]
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) token_file: Option<PathBuf>,
    /// Another context than the one in use
    #[arg(long, value_name = "NAME", conflicts_with = "server")]
    pub(in crate::cli) context: Option<String>,
    /// A PEM file with authorities to be trusted beside the system's
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) ca: Option<PathBuf>,
}

impl ServerArguments {
    /// The server that was meant.
    ///
    /// # Errors
    /// A context that is not there, a file that cannot be read, a URL that is none.
    pub(in crate::cli) fn connect(&self) -> anyhow::Result<Rest> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let target = self.target(&variable, || Contexts::load(&file()?))?;
        Rest::new(&target.server, target.token, target.ca.as_deref())
    }

    fn target(
        &self,
        variable: &dyn Fn(&str) -> Option<String>,
        contexts: impl FnOnce() -> anyhow::Result<Contexts>,
    ) -> anyhow::Result<Target> {
        let given = match &self.server {
            Some(server) => Some(server.clone()),
            None if self.context.is_none() => variable("WINDLASS_SERVER"),
            None => None,
        };
        let mut target = match given {
            Some(server) => Target {
                server,
                token: None,
                ca: None,
            },
            None => {
                let contexts = contexts()?;
                match self.context.as_ref().or(contexts.current.as_ref()) {
                    Some(name) => contexts.get(name)?.target(),
                    None => Target {
                        server: DEFAULT_SERVER.to_owned(),
                        token: None,
                        ca: None,
                    },
                }
            }
        };
        if let Some(path) = &self.token_file {
            target.token = Some(read_token(path)?);
        } else if let Some(token) = variable("WINDLASS_TOKEN") {
            target.token = Some(checked(token, "WINDLASS_TOKEN")?);
        }
        if self.ca.is_some() {
            target.ca.clone_from(&self.ca);
        }
        Ok(target)
    }
}

struct Target {
    server: String,
    token: Option<SecretString>,
    ca: Option<PathBuf>,
}

/// The file's content.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Contexts {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Server>,
}

#[derive(Clone, Deserialize, Serialize)]
struct Server {
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Server {
    fn target(&self) -> Target {
        Target {
            server: self.server.clone(),
            token: self.token.clone().map(SecretString::from),
            ca: self.ca.clone(),
        }
    }
}

impl Contexts {
    fn load(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(error).with_context(|| format!("{shown} cannot be read")),
        };
        let contexts: Self = serde_json::from_slice(&bytes).map_err(|error| {
            // The library's sentence could quote the token.
            anyhow::anyhow!(
                "{shown}:{}:{}: this is not what `windlass context` writes; mend it, or remove it",
                error.line(),
                error.column()
            )
        })?;
        if contexts
            .contexts
            .values()
            .any(|server| server.token.is_some())
        {
            private(path)?;
        }
        Ok(contexts)
    }

    fn save(&self, path: &Path) -> anyhow::Result<()> {
        let shown = path.display();
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)
            .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        let beside = path.with_extension(format!("{:08x}.new", rand::random::<u32>()));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = options.open(&beside).and_then(|mut file| {
            file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        });
        if written.is_err() {
            // It may never have come to be.
            drop(std::fs::remove_file(&beside));
        }
        written.with_context(|| format!("{shown} cannot be written"))
    }

    fn get(&self, name: &str) -> anyhow::Result<&Server> {
        self.contexts.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let hint = match nearest(name, names.iter().copied()) {
                Some(meant) => format!("; did you mean \"{meant}\"?"),
                None if names.is_empty() => {
                    "; there is none: windlass context set NAME --server URL".to_owned()
                }
                None => format!("; there is {}", names.join(", ")),
            };
            anyhow::anyhow!("there is no context \"{name}\"{hint}")
        })
    }
}

/// Where the contexts are kept.
fn file() -> anyhow::Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| variable("APPDATA").map(PathBuf::from))
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")))
        .context("there is no HOME: no folder to keep contexts in")?;
    Ok(folder.join("windlass").join("contexts.json"))
}

/// Others must not be able to read it.
#[cfg(unix)]
fn private(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let shown = path.display();
    let mode = std::fs::metadata(path)
        .with_context(|| format!("{shown} cannot be read"))?
        .permissions()
        .mode();
    anyhow::ensure!(
        mode & 0o077 == 0,
        "{shown} holds a token and others can read it: chmod 600 {shown}"
    );
    Ok(())
}

#[cfg(not(unix))]
fn private(_path: &Path) -> anyhow::Result<()> {
    Ok(())
}

/// The token in a file, or on standard input for `-`.
fn read_token(path: &Path) -> anyhow::Result<SecretString> {
    let shown = path.display().to_string();
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin()
            .take(LARGEST)
            .read_to_string(&mut text)
            .context("the token cannot be read from standard input")?;
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(LARGEST).read_to_string(&mut text))
            .with_context(|| format!("the token cannot be read from {shown}"))?;
    }
    checked(text, &shown)
}

/// A token is one word of visible characters.
fn checked(text: String, from: &str) -> anyhow::Result<SecretString> {
    let token = text.trim();
    let token = token.strip_prefix("Bearer ").unwrap_or(token);
    anyhow::ensure!(!token.is_empty(), "{from} has no token in it");
    anyhow::ensure!(
        token.bytes().all(|byte| byte.is_ascii_graphic()),
        "{from} is no token: a token is one word of visible ASCII characters"
    );
    Ok(token.to_owned().into())
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// Make or change a context, and use it
    Set(Set),
    /// Use this one from now on
    Use {
        /// Its name
        name: String,
    },
    /// List them; the one in use has a star
    Ls {
        /// One JSON array on stdout
        #[arg(long)]
        json: bool,
    },
    /// Remove one with its token
    Rm {
        /// Its name
        name: String,
    },
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Set {
    /// Its name
    name: String,
    /// The server's REST interface
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// A file with the token, which is copied from there ("-": standard input)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Forget its token
    #[arg(long, conflicts_with = "token_file")]
    no_token: bool,
    /// A PEM file with authorities to be trusted beside the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// `windlass context …`
pub(in crate::cli) fn main(command: Command) -> anyhow::Result<ExitCode> {
    let path = file()?;
    let mut contexts = Contexts::load(&path)?;
    match command {
        Command::Set(set) => {
            let said = contexts.set(set)?;
            contexts.save(&path)?;
            output::say(&said)?;
        }
        Command::Use { name } => {
            let server = contexts.get(&name)?.server.clone();
            contexts.current = Some(name.clone());
            contexts.save(&path)?;
            output::say(&format!("context {name} is in use: {server}"))?;
        }
        Command::Ls { json } => contexts.list(json)?,
        Command::Rm { name } => {
            contexts.get(&name)?;
            contexts.contexts.remove(&name);
            if contexts.current.as_ref() == Some(&name) {
                contexts.current = None;
            }
            contexts.save(&path)?;
            output::say(&format!("context {name} is removed"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Contexts {
    fn set(&mut self, set: Set) -> anyhow::Result<String> {
        let Set {
            name,
            server,
            token_file,
            no_token,
            ca,
        } = set;
        validate_id(&name).map_err(|why| anyhow::anyhow!(why.replacen("id", "context", 1)))?;
        let token = match &token_file {
            Some(path) => Some(read_token(path)?),
            None => None,
        };
        let old = self.contexts.get(&name).cloned();
        let moved = server.is_some() && old.as_ref().map(|old| &old.server) != server.as_ref();
        let server = server
            .or_else(|| old.as_ref().map(|old| old.server.clone()))
            .context("a new context needs --server URL")?;
        // Says what is wrong with it, if anything is.
        let ca = ca.or_else(|| old.as_ref().and_then(|old| old.ca.clone()));
        let ca = ca.map(std::path::absolute).transpose()?;
        let rest = Rest::new(&server, None, ca.as_deref())?;
        // The token of one server is not for another.
        let kept = old
            .and_then(|old| old.token)
            .filter(|_| !no_token && !moved);
        let token = token
            .map(|token| secrecy::ExposeSecret::expose_secret(&token).to_owned())
            .or(kept);
        let with = if token.is_some() {
            "with a token"
        } else {
            "without a token"
        };
        let said = format!("context {name} is in use: {}, {with}", rest.name());
        let server = rest.name();
        self.contexts
            .insert(name.clone(), Server { server, token, ca });
        self.current = Some(name);
        Ok(said)
    }

    fn list(&self, json: bool) -> anyhow::Result<()> {
        let is_current = |name: &str| self.current.as_deref() == Some(name);
        if json {
            let list: Vec<_> = self
                .contexts
                .iter()
                .map(|(name, server)| {
                    json!({
                        "name": name, "server": server.server, "current": is_current(name),
                        "token": server.token.is_some(), "ca": server.ca,
                    })
                })
                .collect();
            return Ok(output::say_json(&list)?);
        }
        let mut table = Table::new(&["", "CONTEXT", "SERVER", "TOKEN"]);
        for (name, server) in &self.contexts {
            let token = if server.token.is_some() { "yes" } else { "no" };
            let star = if is_current(name) { "*" } else { "" };
            table.row(&[star, name.as_str(), &server.server, token]);
        }
        Ok(table.say("no contexts: windlass context set NAME --server URL")?)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn contexts() -> Contexts {
        let server = |server: &str, token: Option<&str>| Server {
            server: server.to_owned(),
            token: token.map(str::to_owned),
            ca: None,
        };
        Contexts {
            current: Some("plant".to_owned()),
            contexts: BTreeMap::from([
                ("plant".to_owned(), server("https://plant", Some("t-plant"))),
                ("lab".to_owned(), server("http://lab", None)),
            ]),
        }
    }

    fn target(arguments: &ServerArguments, variables: &[(&str, &str)]) -> (String, Option<String>) {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let target = arguments.target(&variable, || Ok(contexts())).unwrap();
        let token = target.token.map(|token| token.expose_secret().to_owned());
        (target.server, token)
    }

    #[test]
    fn flags_go_before_variables_and_these_before_the_context() {
        let none = ServerArguments::default();
        let flag = ServerArguments {
            server: Some("http://flag".to_owned()),
            ..ServerArguments::default()
        };
        let lab = ServerArguments {
            context: Some("lab".to_owned()),
            ..ServerArguments::default()
        };
        let variables = [
            ("WINDLASS_SERVER", "http://variable"),
            ("WINDLASS_TOKEN", "t-variable"),
        ];
        let some =
            |server: &str, token: Option<&str>| (server.to_owned(), token.map(str::to_owned));
        assert_eq!(target(&none, &[]), some("https://plant", Some("t-plant")));
        assert_eq!(
            target(&none, &variables),
            some("http://variable", Some("t-variable"))
        );
        assert_eq!(
            target(&flag, &variables),
            some("http://flag", Some("t-variable"))
        );
        assert_eq!(target(&lab, &variables[..1]), some("http://lab", None));
    }

    #[test]
    fn a_token_goes_only_to_the_server_that_it_was_kept_for() {
        let flag = ServerArguments {
            server: Some("http://elsewhere".to_owned()),
            ..ServerArguments::default()
        };
        assert_eq!(target(&flag, &[]).1, None);
        assert_eq!(
            target(
                &ServerArguments::default(),
                &[("WINDLASS_SERVER", "http://e")]
            )
            .1,
            None
        );
        let mut kept = contexts();
        let set = |server: Option<&str>| Set {
            name: "plant".to_owned(),
            server: server.map(str::to_owned),
            token_file: None,
            no_token: false,
            ca: None,
        };
        kept.set(set(None)).unwrap();
        assert_eq!(kept.contexts["plant"].token.as_deref(), Some("t-plant"));
        kept.set(set(Some("https://other"))).unwrap();
        assert_eq!(kept.contexts["plant"].token, None);
    }

    #[test]
    fn the_file_is_for_its_owner_alone_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/contexts.json");
        contexts().save(&path).unwrap();
        let read = Contexts::load(&path).unwrap();
        assert_eq!(read.contexts["plant"].token.as_deref(), Some("t-plant"));
        assert_eq!(read.current.as_deref(), Some("plant"));
        assert!(!format!("{read:?}").contains("t-plant"));
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&path), 0o600);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            let error = Contexts::load(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
        std::fs::write(&path, "{\"contexts\": {\"plant\": \"t-plant\"}}").unwrap();
        let error = format!("{:#}", Contexts::load(&path).unwrap_err());
        assert!(
            error.contains(":1:") && !error.contains("t-plant"),
            "{error}"
        );
        assert!(
            Contexts::load(&folder.path().join("none"))
                .unwrap()
                .contexts
                .is_empty()
        );
    }

    #[test]
    fn a_context_that_is_not_there_names_the_nearest_and_a_bad_token_is_refused() {
        let error = contexts().get("plan").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no context \"plan\"; did you mean \"plant\"?"
        );
        assert_eq!(
            checked("Bearer abc\n".to_owned(), "f")
                .unwrap()
                .expose_secret(),
            "abc"
        );
        for bad in ["", " \n", "two words", "a\u{7f}"] {
            assert!(checked(bad.to_owned(), "f").is_err(), "{bad:?}");
        }
    }
}
