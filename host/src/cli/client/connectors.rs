//! `windlass connectors …`: the connectors that a server was given. Making and trying them is
//! `windlass connector …`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::http::Body;
use super::render::{Table, field, say_value};
use super::{Common, items};
use crate::cli::output;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// List them
    Ls(List),
    /// Show what one says of itself: schema, slots, digest
    Get(One),
    /// Give the server a connector, or another version of it: running rules go over to it
    #[command(alias = "update")]
    Create(Create),
    /// Delete some; one that streams or rules use is refused
    Delete(Some_),
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
pub(in crate::cli) struct Create {
    #[command(flatten)]
    common: Common,
    /// What streams (TYPE) and actions are to call it
    name: String,
    /// The component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Some_ {
    #[command(flatten)]
    common: Common,
    /// Their names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub(in crate::cli) async fn main(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ls(List { common }) => {
            let list = common.connect()?.get(&["connectors"], &[]).await?;
            if common.json {
                output::say_json(&list)?;
                return Ok(ExitCode::SUCCESS);
            }
            let mut table = Table::new(&["CONNECTOR", "VERSION", "ROLES", "SLOTS", "DIGEST"]);
            for one in items(list) {
                let slots = one.get("slots").and_then(Value::as_array);
                let slots: Vec<_> = slots
                    .into_iter()
                    .flatten()
                    .map(|slot| format!("{}: {}", field(slot, "name"), field(slot, "interface")))
                    .collect();
                let digest: String = field(&one, "digest").chars().take(16).collect();
                table.row(&[
                    &field(&one, "name"),
                    &field(&one, "version"),
                    &field(&one, "roles"),
                    &slots.join(", "),
                    &digest,
                ]);
            }
            table.say("no connectors")?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Get(One { common, name }) => {
            let one = common.connect()?.get(&["connectors", &name], &[]).await?;
            say_value(&one, common.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Create(Create { common, name, file }) => {
            let wasm = std::fs::read(&file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            let body = Some(Body::Wasm(Bytes::from(wasm)));
            let rest = common.connect()?;
            let said = rest
                .text(Method::PUT, &["connectors", &name], &[], body)
                .await?;
            let said = match serde_json::from_str::<Value>(&said) {
                Ok(one) if one.is_object() => format!("digest {}", field(&one, "digest")),
                _ => said,
            };
            common.done(&name, &said)
        }
        Command::Delete(Some_ { common, names }) => {
            let rest = common.connect()?;
            let delete = |name: String| {
                let rest = rest.clone();
                async move { rest.call(Method::DELETE, &["connectors", &name]).await }
            };
            common.each(&names, delete).await
        }
    }
}
