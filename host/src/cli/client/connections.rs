//! `windlass connections …`: the named connections of a server.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::render::{Table, field, say_value};
use super::{Common, Given, items, property};
use crate::cli::{FAILED, output};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// List them with their state
    Ls(List),
    /// Show one with its properties, secrets masked
    Get(One),
    /// Make one, which dials at once and until it succeeds
    Create(Define),
    /// Give one other properties, live; a masked secret keeps the stored one
    Update(Define),
    /// Delete some; one that rules use is refused
    Delete(Some_),
    /// Show the state of some; exit code 1 unless all are connected
    Status(Some_),
    /// Dial one now, without waiting for its next attempt
    Check(One),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    common: Common,
    /// Those that rules brought along too
    #[arg(short, long)]
    all: bool,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct One {
    #[command(flatten)]
    common: Common,
    /// Its id
    id: String,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Some_ {
    #[command(flatten)]
    common: Common,
    /// Their ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Define {
    #[command(flatten)]
    common: Common,
    /// Its id; may stand in the file instead
    id: Option<String>,
    /// Its type: mqtt, sql, httppush, …
    #[arg(long)]
    typ: Option<String>,
    /// A property; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = property)]
    set: Vec<(String, Value)>,
    #[command(flatten)]
    given: Given,
}

pub(in crate::cli) async fn main(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ls(list) => ls(list).await,
        Command::Get(one) => {
            let rest = one.common.connect()?;
            let connection = rest.get(&["connections", &one.id], &[]).await?;
            say_value(&connection, one.common.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Create(define) => put(define, true).await,
        Command::Update(define) => put(define, false).await,
        Command::Delete(Some_ { common, ids }) => {
            let rest = common.connect()?;
            let delete = |id: String| {
                let rest = rest.clone();
                async move { rest.call(Method::DELETE, &["connections", &id]).await }
            };
            common.each(&ids, delete).await
        }
        Command::Status(some) => status(some).await,
        Command::Check(One { common, id }) => {
            let rest = common.connect()?;
            let said = rest
                .call(Method::POST, &["connections", &id, "check"])
                .await?;
            let said = if said.trim().is_empty() {
                "checked"
            } else {
                &said
            };
            common.done(&id, said)
        }
    }
}

async fn ls(List { common, all }: List) -> anyhow::Result<ExitCode> {
    let query: &[(&str, &str)] = if all { &[("forceAll", "true")] } else { &[] };
    let list = common.connect()?.get(&["connections"], query).await?;
    if common.json {
        output::say_json(&list)?;
        return Ok(ExitCode::SUCCESS);
    }
    table(&items(list)).say("no connections")?;
    Ok(ExitCode::SUCCESS)
}

fn table(list: &[Value]) -> Table {
    let mut table = Table::new(&["CONNECTION", "TYPE", "STATUS", "USED BY", ""]);
    for one in list {
        let users = match field(one, "users") {
            // eKuiper only counts them.
            users if users.is_empty() => field(one, "refCount"),
            users => users,
        };
        table.row(&[
            &field(one, "id"),
            &field(one, "typ"),
            &field(one, "status"),
            &users,
            &remarks(one),
        ]);
    }
    table
}

/// Why it is not up, and what should be looked at though it is.
fn remarks(one: &Value) -> String {
    let texts = [field(one, "err"), field(one, "warnings")];
    let texts: Vec<_> = texts.into_iter().filter(|text| !text.is_empty()).collect();
    texts.join("; ")
}

async fn put(define: Define, is_new: bool) -> anyhow::Result<ExitCode> {
    let common = define.common.clone();
    let body = match define.body()? {
        Ok(body) => body,
        Err(code) => return Ok(code),
    };
    let id = field(&body, "id");
    let rest = common.connect()?;
    let said = if is_new {
        rest.send(Method::POST, &["connections"], body).await?
    } else {
        rest.send(Method::PUT, &["connections", &id], body).await?
    };
    common.done(&id, &said)
}

impl Define {
    fn body(self) -> anyhow::Result<Result<Value, ExitCode>> {
        let mut whole = if self.given.file.is_some() {
            match self.given.object(None, "a connection")? {
                Ok(whole) => whole,
                Err(code) => return Ok(Err(code)),
            }
        } else {
            Map::new()
        };
        for (name, value) in [("id", self.id), ("typ", self.typ)] {
            if let Some(value) = value {
                whole.insert(name.to_owned(), value.into());
            }
        }
        let props = whole.entry("props").or_insert_with(|| json!({}));
        if let Some(props) = props.as_object_mut() {
            props.extend(self.set);
        }
        for (name, how) in [("id", "as the first word"), ("typ", "with --typ TYPE")] {
            if whole.get(name).and_then(Value::as_str).is_none() {
                return super::refuse(&format!(
                    "a connection needs \"{name}\", a text: give it {how}, or in a file"
                ));
            }
        }
        Ok(Ok(Value::Object(whole)))
    }
}

async fn status(Some_ { common, ids }: Some_) -> anyhow::Result<ExitCode> {
    let rest = common.connect()?;
    let mut found = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for id in &ids {
        match rest.get(&["connections", id], &[]).await {
            Ok(one) => {
                if field(&one, "status") != "connected" {
                    code = ExitCode::from(FAILED);
                }
                found.push(one);
            }
            Err(error) if error.is_missing() => {
                output::complain(&format!("{id}: {error}"));
                code = ExitCode::from(FAILED);
            }
            Err(error) => return Err(error.into()),
        }
    }
    if common.json {
        for one in &found {
            let mut one = one.clone();
            if let Some(fields) = one.as_object_mut() {
                fields.shift_remove("props");
            }
            output::say_json(&one)?;
        }
    } else if !found.is_empty() {
        table(&found).say("")?;
    }
    Ok(code)
}
