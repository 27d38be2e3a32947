//! What a server has, from its own export: one request for all definitions, secrets masked.

use serde_json::{Value, json};

use super::{Item, What};
use crate::cli::client::http::{ClientError, Rest};
use crate::cli::client::items;
use crate::config::ekuiper::{Bundle, ConfKind, read_export};

/// All definitions of a server but conf keys of sinks, which no manifest has.
pub(super) async fn present(rest: &Rest) -> anyhow::Result<Vec<Item>> {
    let text = rest
        .text(reqwest::Method::GET, &["data", "export"], &[], None)
        .await?;
    let bundle = read_export(&rest.name(), &text).map_err(|errors| {
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("its export cannot be read: {}", texts.join("; "))
    })?;
    let mut found = connectors(rest).await?;
    found.extend(definitions(bundle));
    Ok(found)
}

/// Those that users brought, by digest. eKuiper has none.
async fn connectors(rest: &Rest) -> Result<Vec<Item>, ClientError> {
    let list = rest.find(&["connectors"]).await?.unwrap_or_default();
    let own = items(list).into_iter().filter(|one| one["bundled"] != true);
    let item = |one: Value| {
        Some(Item {
            what: What::Connector,
            id: one.get("name")?.as_str()?.to_owned(),
            body: json!({"digest": one.get("digest")}),
            file: None,
        })
    };
    Ok(own.filter_map(item).collect())
}

fn definitions(bundle: Bundle) -> Vec<Item> {
    let mut found = Vec::new();
    let mut add = |what, id, body| {
        found.push(Item {
            what,
            id,
            body,
            file: None,
        });
    };
    for item in bundle.connections {
        let body = json!({"typ": item.typ, "props": item.props});
        add(What::Connection, item.id, body);
    }
    for item in bundle.conf_keys {
        if item.kind == ConfKind::Source {
            let id = format!("{}/{}", item.typ.to_lowercase(), item.key);
            add(What::ConfKey, id, Value::Object(item.props));
        }
    }
    for item in bundle.streams {
        add(What::Stream, item.name, json!({"sql": item.sql}));
    }
    for item in bundle.rules {
        add(What::Rule, item.id, Value::Object(item.body));
    }
    found
}
