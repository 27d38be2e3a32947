//! Where the commands for dead letters find them: in a data folder, or at a server.

use std::path::Path;

use anyhow::Context as _;
use reqwest::Method;
use serde_json::Value;

use super::context::ServerArguments;
use super::http::{ClientError, Rest};
use crate::store::{KeptLetter, LetterFilter, Store};

/// A data folder's store, or a server.
#[derive(Debug)]
pub(in crate::cli) enum Place {
    Folder(Store),
    Server(Rest),
}

/// What becomes of some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Change {
    Resend,
    Remove,
}

impl Place {
    /// The server, if one was named; else the store of the folder, beside a host that may run on it.
    /// Makes nothing new.
    pub(in crate::cli) async fn open(
        server: &ServerArguments,
        data: &Path,
    ) -> anyhow::Result<Self> {
        if server.server.is_some() || server.context.is_some() {
            return Ok(Self::Server(server.connect()?));
        }
        let store = Store::open_shared(data)
            .await
            .with_context(|| format!("the store in {} cannot be opened", data.display()))?;
        Ok(Self::Folder(store))
    }

    /// At most so many, oldest first.
    pub(in crate::cli) async fn page(
        &self,
        wanted: &LetterFilter,
        limit: u32,
    ) -> anyhow::Result<Vec<KeptLetter>> {
        let rest = match self {
            Self::Folder(store) => {
                let page = store.letters(wanted, limit).await;
                return page.context("the dead letters cannot be read");
            }
            Self::Server(rest) => rest,
        };
        let limit = limit.to_string();
        let after = wanted.after.map(|after| after.to_string());
        let since = wanted.since_ms.map(|since| since.to_string());
        let until = wanted.until_ms.map(|until| until.to_string());
        let mut query = vec![("limit", limit.as_str())];
        for (name, value) in [
            ("rule", &wanted.rule),
            ("action", &wanted.action),
            ("stream", &wanted.stream),
            ("kind", &wanted.kind),
            ("code", &wanted.code),
            ("since", &since),
            ("until", &until),
            ("after", &after),
        ] {
            if let Some(value) = value {
                query.push((name, value));
            }
        }
        let answer = rest.get(&["deadletters"], &query).await?;
        let letters = super::items(answer.get("letters").cloned().unwrap_or_default());
        letters.iter().map(|one| letter(wanted, one)).collect()
    }

    /// One with its whole payload.
    pub(in crate::cli) async fn letter(
        &self,
        tenant: &str,
        id: i64,
    ) -> anyhow::Result<Option<KeptLetter>> {
        match self {
            Self::Folder(store) => {
                let found = store.letter(tenant, id).await;
                found.context("the dead letters cannot be read")
            }
            Self::Server(rest) => {
                let found = rest.find(&["deadletters", &id.to_string()]).await?;
                let wanted = LetterFilter {
                    tenant: tenant.to_owned(),
                    ..LetterFilter::default()
                };
                found.map(|one| letter(&wanted, &one)).transpose()
            }
        }
    }

    /// Marks these to be sent again, or removes them. One that is gone meanwhile is no error.
    pub(in crate::cli) async fn change(
        &self,
        tenant: &str,
        ids: &[i64],
        change: Change,
    ) -> anyhow::Result<()> {
        let rest = match self {
            Self::Folder(store) => {
                let done = match change {
                    Change::Resend => store.mark_resend(tenant, ids).await,
                    Change::Remove => store.remove_letters(tenant, ids).await,
                };
                return done.map(drop).context("they cannot be changed");
            }
            Self::Server(rest) => rest,
        };
        for id in ids {
            let id = id.to_string();
            let done = match change {
                Change::Resend => {
                    rest.call(Method::POST, &["deadletters", &id, "resend"])
                        .await
                }
                Change::Remove => rest.call(Method::DELETE, &["deadletters", &id]).await,
            };
            match done {
                Ok(_) => {}
                Err(ClientError::Refused { status: 404, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(in crate::cli) async fn close(self) {
        if let Self::Folder(store) = self {
            store.close().await;
        }
    }
}

fn letter(wanted: &LetterFilter, one: &Value) -> anyhow::Result<KeptLetter> {
    KeptLetter::from_json(&wanted.tenant, one).context("the server's answer is no dead letter")
}
