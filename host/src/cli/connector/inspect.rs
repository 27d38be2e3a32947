//! `windlass connector inspect FILE.wasm`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use crate::cli::folder::Folder;
use crate::cli::{BAD_CONFIG, output};
use crate::error::chain;
use crate::host::{Host, InspectError};
use crate::progress;
use crate::snapshot::Inspection;

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Where compiled connectors are kept; ./windlass-data if that is there, else a temporary folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) async fn inspect(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let name = arguments.file.display().to_string();
    let wasm = match std::fs::read(&arguments.file) {
        Ok(wasm) => wasm,
        Err(error) => {
            output::complain(&format!("{name}: cannot be read: {error}"));
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    };
    let folder = Folder::for_code(arguments.data.as_deref())?;
    let progress = progress::choose(false);
    let inspection = match Host::inspect(&name, wasm.into(), folder.path(), &*progress).await {
        Ok(inspection) => inspection,
        Err(InspectError::Load(error)) => {
            output::complain(&format!("{name}: this is no connector: {}", chain(&error)));
            return Ok(ExitCode::from(BAD_CONFIG));
        }
        Err(error) => return Err(error.into()),
    };
    if arguments.json {
        output::say_json(&inspection)?;
    } else {
        output::say(&describe(&inspection))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(found: &Inspection) -> String {
    let mut text = format!(
        "{} {}  ({})\n",
        found.name,
        found.version,
        output::size(found.bytes)
    );
    if !found.description.is_empty() {
        text.push_str(&format!("{}\n", output::plain(&found.description, 400)));
    }
    text.push_str(&format!("roles: {}\n", found.roles.join(", ")));
    if found.slots.is_empty() {
        text.push_str("connections: it needs none\n");
    }
    for slot in &found.slots {
        let optional = if slot.optional { ", optional" } else { "" };
        let what = output::plain(&slot.description, 200);
        text.push_str(&format!(
            "connection {}: {}{optional}  {what}\n",
            slot.name, slot.interface
        ));
    }
    text.push_str(&format!("imports: {}\n", found.imports.join(", ")));
    // The schema is the connector's own text: shown as JSON where it is JSON.
    let schema = match serde_json::from_str::<Value>(&found.config_schema) {
        Ok(schema) => serde_json::to_string_pretty(&schema).unwrap_or_default(),
        Err(_) if found.config_schema.is_empty() => "none: any property is taken".to_owned(),
        Err(_) => output::plain(&found.config_schema, 4000),
    };
    text.push_str(&format!("configuration: {schema}"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::SlotRow;

    #[test]
    fn it_says_what_a_user_of_the_connector_must_know() {
        let text = describe(&Inspection {
            name: "mqtt".into(),
            version: "0.1.0".into(),
            description: "Publishes.\u{1b}[2J".into(),
            bytes: 150 * 1024,
            roles: vec!["source".into(), "sink".into()],
            slots: vec![SlotRow {
                name: "broker".into(),
                interface: "messaging".into(),
                optional: true,
                description: "where".into(),
            }],
            imports: vec!["windlass:connector/messaging@0.1.0".into()],
            config_schema: r#"{"type":"object"}"#.into(),
        });
        assert!(text.starts_with("mqtt 0.1.0  (150.0 KiB)\nPublishes."));
        assert!(
            text.contains("roles: source, sink\nconnection broker: messaging, optional  where\n")
        );
        assert!(text.contains("\"type\": \"object\"") && !text.contains('\u{1b}'));
    }
}
