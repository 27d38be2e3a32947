//! `windlass rules …`: the rules of a server.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::render::{Table, field, say_value};
use super::{Common, Given, items};
use crate::cli::{FAILED, output};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// List them with their state
    Ls(List),
    /// Show one as it was written
    Get(One),
    /// Make one and start it, unless it says `triggered: false`
    Create(Define),
    /// Change one; the old one runs on if the new one is refused
    Update(Update),
    /// Delete some, once what is under way is delivered
    Delete(Some_),
    /// Start some
    Start(Some_),
    /// Stop some
    Stop(Some_),
    /// Stop some and start them again
    Restart(Some_),
    /// Show the state and the counters of one; exit code 1 unless it runs
    Status(One),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    common: Common,
    /// Only those with this tag
    #[arg(long)]
    tag: Option<String>,
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
    /// The rule: {"id": …, "sql": …, "actions": […]}
    #[arg(value_name = "JSON")]
    rule: Option<String>,
    #[command(flatten)]
    given: Given,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Update {
    /// Its id
    id: String,
    #[command(flatten)]
    define: Define,
}

pub(in crate::cli) async fn main(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ls(list) => ls(list).await,
        Command::Get(One { common, id }) => {
            let rule = common.connect()?.get(&["rules", &id], &[]).await?;
            say_value(&rule, common.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Create(define) => put(None, define).await,
        Command::Update(Update { id, define }) => put(Some(id), define).await,
        Command::Delete(Some_ { common, ids }) => {
            let rest = common.connect()?;
            let delete = |id: String| {
                let rest = rest.clone();
                async move { rest.call(Method::DELETE, &["rules", &id]).await }
            };
            common.each(&ids, delete).await
        }
        Command::Start(some) => turn(some, "start").await,
        Command::Stop(some) => turn(some, "stop").await,
        Command::Restart(some) => turn(some, "restart").await,
        Command::Status(one) => status(one).await,
    }
}

async fn ls(List { common, tag }: List) -> anyhow::Result<ExitCode> {
    let list = items(common.connect()?.get(&["rules"], &[]).await?);
    let has_tag = |one: &Value| match &tag {
        None => true,
        Some(tag) => one
            .get("tags")
            .and_then(Value::as_array)
            .is_some_and(|tags| tags.iter().any(|own| own.as_str() == Some(tag))),
    };
    let list: Vec<Value> = list.into_iter().filter(has_tag).collect();
    if common.json {
        output::say_json(&list)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["RULE", "STATUS", "TAGS", "NAME"]);
    for one in &list {
        let name = match field(one, "name") {
            name if name == field(one, "id") => String::new(),
            name => name,
        };
        table.row(&[
            &field(one, "id"),
            &field(one, "status"),
            &field(one, "tags"),
            &name,
        ]);
    }
    table.say("no rules")?;
    Ok(ExitCode::SUCCESS)
}

async fn put(id: Option<String>, define: Define) -> anyhow::Result<ExitCode> {
    let Define {
        common,
        rule,
        given,
    } = define;
    let body = match given.object(rule.as_deref(), "a rule")? {
        Ok(body) => Value::Object(body),
        Err(code) => return Ok(code),
    };
    let rest = common.connect()?;
    match id {
        None => {
            let id = field(&body, "id");
            let said = rest.send(Method::POST, &["rules"], body).await?;
            common.done(&id, &said)
        }
        Some(id) => {
            let said = rest.send(Method::PUT, &["rules", &id], body).await?;
            common.done(&id, &said)
        }
    }
}

async fn turn(Some_ { common, ids }: Some_, verb: &'static str) -> anyhow::Result<ExitCode> {
    let rest = common.connect()?;
    let act = |id: String| {
        let rest = rest.clone();
        async move { rest.call(Method::POST, &["rules", &id, verb]).await }
    };
    common.each(&ids, act).await
}

async fn status(One { common, id }: One) -> anyhow::Result<ExitCode> {
    let status = common
        .connect()?
        .get(&["rules", &id, "status"], &[])
        .await?;
    let code = match field(&status, "status").as_str() {
        "running" => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILED),
    };
    if common.json {
        output::say_json(&status)?;
        return Ok(code);
    }
    let mut table = Table::new(&["RULE", &id]);
    for (name, value) in status.as_object().into_iter().flatten() {
        let text = match value {
            Value::Object(_) => value.to_string(),
            _ => field(&status, name),
        };
        if !text.is_empty() {
            table.row(&[name, &text]);
        }
    }
    table.say("")?;
    Ok(code)
}
