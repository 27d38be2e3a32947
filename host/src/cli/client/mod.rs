//! The command line as a client of a server's REST interface: one file per resource, `apply` for a
//! whole manifest, `status` for everything at once, `context` for which server. Paths and shapes are
//! eKuiper's, so that most of it works against eKuiper too.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value, json};

pub(super) mod apply;
pub(super) mod connections;
pub(super) mod connectors;
pub(super) mod context;
pub(super) mod deadletters;
pub(super) mod http;
pub(super) mod render;
pub(super) mod rules;
pub(super) mod status;
pub(super) mod streams;

use self::context::ServerArguments;
use self::http::{ClientError, Rest};
use super::{BAD_CONFIG, FAILED, output};
use crate::config::{Source, document};

/// The largest file that is sent as a definition.
const LARGEST: u64 = 64 * 1024 * 1024;

/// What every command here takes.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Common {
    #[command(flatten)]
    server: ServerArguments,
    /// JSON on stdout
    #[arg(long)]
    json: bool,
}

impl Common {
    fn connect(&self) -> anyhow::Result<Rest> {
        self.server.connect()
    }

    /// What the server said of something that was done.
    fn done(&self, id: &str, said: &str) -> anyhow::Result<ExitCode> {
        if self.json {
            output::say_json(&json!({"id": id, "ok": true, "message": said}))?;
        } else {
            output::say(&format!("{id}: {}", output::plain(said.trim(), 2000)))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Does something to each of these, and goes on after a refusal.
    async fn each<F: Future<Output = Result<String, ClientError>>>(
        &self,
        ids: &[String],
        mut act: impl FnMut(String) -> F,
    ) -> anyhow::Result<ExitCode> {
        let mut code = ExitCode::SUCCESS;
        for id in ids {
            match act(id.clone()).await {
                Ok(said) => {
                    self.done(id, &said)?;
                }
                // The others would wait for the same.
                Err(error @ ClientError::Unreachable { .. }) => return Err(error.into()),
                Err(error) => {
                    code = ExitCode::from(FAILED);
                    if self.json {
                        let error = error.to_string();
                        output::say_json(&json!({"id": id, "ok": false, "message": error}))?;
                    } else {
                        output::complain(&format!("{id}: {error}"));
                    }
                }
            }
        }
        Ok(code)
    }
}

/// A definition: in a file, or on the command line itself.
#[derive(Args, Clone, Debug, Default)]
struct Given {
    /// A file with it, YAML or JSON ("-": standard input); `${NAME}` stands for a variable
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Given {
    fn text(&self) -> anyhow::Result<Option<(String, String)>> {
        let Some(path) = &self.file else {
            return Ok(None);
        };
        let name = path.display().to_string();
        let mut text = String::new();
        if path == Path::new("-") {
            std::io::stdin()
                .take(LARGEST)
                .read_to_string(&mut text)
                .context("standard input cannot be read as text")?;
        } else {
            std::fs::File::open(path)
                .and_then(|file| file.take(LARGEST).read_to_string(&mut text))
                .with_context(|| format!("{name} cannot be read"))?;
        }
        Ok(Some((name, text)))
    }

    /// The object in the file, or in `inline`; the exit code after mistakes, which were said.
    fn object(
        &self,
        inline: Option<&str>,
        what: &str,
    ) -> anyhow::Result<Result<Map<String, Value>, ExitCode>> {
        let (name, text) = match (self.text()?, inline) {
            (Some(_), Some(_)) => {
                return refuse(&format!(
                    "{what} is given twice: in a file and on the command line"
                ));
            }
            (Some(file), None) => file,
            (None, Some(inline)) => ("command line".to_owned(), inline.to_owned()),
            (None, None) => {
                return refuse(&format!("{what} is missing; give it with --file FILE"));
            }
        };
        let source = Source {
            name: name.clone(),
            text,
            base: PathBuf::new(),
        };
        match document(&source, &|name| std::env::var(name).ok()) {
            Ok(Value::Object(object)) => Ok(Ok(object)),
            Ok(_) => refuse(&format!("{name}: {what} is a mapping")),
            Err(errors) => {
                output::complain_of(output::Kind::Error, &errors);
                Ok(Err(ExitCode::from(BAD_CONFIG)))
            }
        }
    }
}

fn refuse<T>(why: &str) -> anyhow::Result<Result<T, ExitCode>> {
    output::complain(why);
    Ok(Err(ExitCode::from(BAD_CONFIG)))
}

/// `KEY=VALUE`; the value is YAML as a manifest has it, so that `qos=1` is a number.
fn property(text: &str) -> Result<(String, Value), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => (key.to_owned(), value.to_owned()),
        _ => return Err("write it as KEY=VALUE".to_owned()),
    };
    let is_structure = value.starts_with(['{', '[', '"', '\'']);
    let source = Source {
        name: key.clone(),
        text: value.clone(),
        base: PathBuf::new(),
    };
    match document(&source, &|name| std::env::var(name).ok()) {
        Ok(parsed) if is_structure || !(parsed.is_object() || parsed.is_array()) => {
            Ok((key, parsed))
        }
        // `a: b` without brackets is meant as text.
        Ok(_) => Ok((key, value.into())),
        Err(errors) if is_structure => Err(errors
            .first()
            .map(|error| error.message.clone())
            .unwrap_or_default()),
        Err(_) => Ok((key, value.into())),
    }
}

/// The items of a list that a server gave.
fn items(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_has_the_kind_that_a_manifest_would_give_it() {
        for (text, value) in [
            ("server=tcp://h:1883?x=1", json!("tcp://h:1883?x=1")),
            ("qos=1", json!(1)),
            ("clientid=\"007\"", json!("007")),
            ("insecureSkipVerify=true", json!(true)),
            ("tokens={/a: b}", json!({"/a": "b"})),
            ("servers=[tcp://a, tcp://b]", json!(["tcp://a", "tcp://b"])),
            ("clientid=a: b", json!("a: b")),
            ("clientid=*x", json!("*x")),
            ("clientid=", json!(null)),
        ] {
            assert_eq!(property(text).unwrap().1, value, "{text}");
        }
        for bad in ["server", "=x", "tokens={a"] {
            assert!(property(bad).is_err(), "{bad}");
        }
    }
}
