//! `windlass streams …`: the streams of a server.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::render::{Table, field, say_value};
use super::{Common, Given, items};
use crate::cli::output;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// List them
    Ls(List),
    /// Show one
    Get(One),
    /// Make one
    Create(Define),
    /// Change one; its name stands in the statement
    Update(Update),
    /// Delete some; one that rules read is refused
    Delete(Delete),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct One {
    #[command(flatten)]
    common: Common,
    /// Its name
    name: String,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Define {
    #[command(flatten)]
    common: Common,
    /// The statement: CREATE STREAM …
    #[arg(value_name = "SQL")]
    sql: Option<String>,
    #[command(flatten)]
    given: Given,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Update {
    /// Its name
    name: String,
    #[command(flatten)]
    define: Define,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Delete {
    #[command(flatten)]
    common: Common,
    /// Their names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Also where rules read it
    #[arg(long)]
    force: bool,
}

pub(in crate::cli) async fn main(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ls(List { common }) => {
            let list = common.connect()?.get(&["streamdetails"], &[]).await?;
            if common.json {
                output::say_json(&list)?;
                return Ok(ExitCode::SUCCESS);
            }
            let mut table = Table::new(&["STREAM", "TYPE", "FORMAT"]);
            for one in items(list) {
                table.row(&[
                    &field(&one, "name"),
                    &field(&one, "type"),
                    &field(&one, "format"),
                ]);
            }
            table.say("no streams")?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Get(One { common, name }) => {
            let stream = common.connect()?.get(&["streams", &name], &[]).await?;
            say_value(&stream, common.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Create(define) => match define.statement()? {
            Ok(sql) => {
                let body = json!({"sql": sql});
                let rest = define.common.connect()?;
                let said = rest.send(Method::POST, &["streams"], body).await?;
                define.common.done("stream", &said)
            }
            Err(code) => Ok(code),
        },
        Command::Update(Update { name, define }) => match define.statement()? {
            Ok(sql) => {
                let body = json!({"sql": sql});
                let rest = define.common.connect()?;
                let said = rest.send(Method::PUT, &["streams", &name], body).await?;
                define.common.done(&name, &said)
            }
            Err(code) => Ok(code),
        },
        Command::Delete(Delete {
            common,
            names,
            force,
        }) => {
            let rest = common.connect()?;
            let query: &[(&str, &str)] = if force { &[("force", "true")] } else { &[] };
            let delete = |name: String| {
                let rest = rest.clone();
                async move {
                    rest.text(Method::DELETE, &["streams", &name], query, None)
                        .await
                }
            };
            common.each(&names, delete).await
        }
    }
}

impl Define {
    /// The statement: as given, or in a file as it is or as `{sql: …}`.
    fn statement(&self) -> anyhow::Result<Result<String, ExitCode>> {
        if let Some(sql) = &self.sql {
            if self.given.file.is_some() {
                return super::refuse("a stream is given twice: in a file and on the command line");
            }
            return Ok(Ok(sql.clone()));
        }
        if let Some((_, text)) = self.given.text()?
            && text
                .trim_start()
                .get(..6)
                .is_some_and(|word| word.eq_ignore_ascii_case("create"))
        {
            return Ok(Ok(text));
        }
        match self
            .given
            .object(None, "a stream (CREATE STREAM …, or sql: …)")?
        {
            Ok(object) => match object.get("sql").and_then(|sql| sql.as_str()) {
                Some(sql) => Ok(Ok(sql.to_owned())),
                None => super::refuse("a stream needs \"sql\": CREATE STREAM …"),
            },
            Err(code) => Ok(Err(code)),
        }
    }
}
