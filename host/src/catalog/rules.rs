//! Rules: their JSON as it was given, and their life. Who starts, stops, changes or deletes a rule has
//! its seat meanwhile, so that a rule is never two things at once.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::definition::{Definition, read};
use super::planning::Planned;
use super::{Catalog, CatalogError, DRAIN, Kept, May, TENANT, check_revision, kind};
use crate::connections::secrets;
use crate::rules::engine::{Before, RuleState};
use crate::snapshot::RuleRow;

/// A rule as a list shows it.
#[derive(Clone, Debug)]
pub struct RuleInfo {
    /// Its id.
    pub id: String,
    /// For people.
    pub name: String,
    /// The status word.
    pub status: &'static str,
    /// As in its JSON.
    pub version: String,
    /// As in its JSON.
    pub tags: Vec<String>,
}

/// Where a rule is.
#[derive(Clone, Debug)]
pub struct RuleStatus {
    /// The status word.
    pub status: &'static str,
    /// Why, where there is a why.
    pub message: String,
    /// When it was last started, in milliseconds since the Unix epoch; 0: never.
    pub started_ms: u64,
    /// When it was last stopped; 0: never.
    pub stopped_ms: u64,
    /// What should be looked at though it works.
    pub warnings: Vec<String>,
    /// Its counters, while it runs.
    pub row: Option<RuleRow>,
}

fn unknown(id: &str) -> CatalogError {
    CatalogError::NotFound(format!("Rule {id} is not found."))
}

/// A rule's JSON as it may be shown: secrets of its actions masked.
fn masked(json: Value) -> Value {
    match json {
        Value::Object(object) => Value::Object(secrets::mask(&object, &[])),
        other => other,
    }
}

impl Catalog {
    fn definition(&self, id: &str) -> Option<Kept<Arc<Definition>>> {
        self.0.book.read().rules.get(id).cloned()
    }

    /// All rules, by id.
    #[must_use]
    pub fn rules(&self) -> Vec<RuleInfo> {
        let kept: Vec<_> = {
            let book = self.0.book.read();
            let entries = book.rules.iter();
            entries
                .map(|(id, kept)| (id.clone(), Arc::clone(&kept.value)))
                .collect()
        };
        kept.into_iter()
            .map(|(id, definition)| RuleInfo {
                status: self.word(&id),
                id,
                name: definition.name.to_string(),
                version: definition.version.to_string(),
                tags: definition.tags.to_vec(),
            })
            .collect()
    }

    /// A rule's JSON, secrets masked, with its revision.
    #[must_use]
    pub fn rule(&self, id: &str) -> Option<(Value, u64)> {
        let kept = self.definition(id)?;
        Some((masked(kept.value.json()), kept.revision))
    }

    /// The JSON of all rules, secrets and all unless `mask`: for exports.
    #[must_use]
    pub fn rule_texts(&self, mask: bool) -> Vec<(String, Value)> {
        let book = self.0.book.read();
        let entries = book.rules.iter();
        entries
            .map(|(id, kept)| {
                let json = kept.value.json();
                (id.clone(), if mask { masked(json) } else { json })
            })
            .collect()
    }

    /// The stream of a rule and the names of its actions.
    #[must_use]
    pub fn rule_topology(&self, id: &str) -> Option<(String, Vec<String>)> {
        let kept = self.definition(id)?;
        let actions = kept.value.actions.iter().enumerate();
        let names = actions.map(|(place, typ)| format!("{typ}_{place}"));
        Some((kept.value.stream.to_string(), names.collect()))
    }

    fn word(&self, id: &str) -> &'static str {
        match self.engine().rule(id) {
            Some(rule) => rule.state().word(),
            None => self.seat(id).past().word(),
        }
    }

    /// Where a rule is, and its counters.
    #[must_use]
    pub fn rule_status(&self, id: &str) -> Option<RuleStatus> {
        self.definition(id)?;
        let past = self.seat(id).past();
        let running = self.engine().rule(id);
        let mut warnings = past.warnings.clone();
        Some(match running {
            Some(rule) => {
                let row = rule.row();
                warnings.extend(row.warnings.iter().cloned());
                RuleStatus {
                    status: rule.state().word(),
                    message: row.message.clone(),
                    started_ms: rule.started_ms,
                    stopped_ms: past.stopped_ms,
                    warnings,
                    row: Some(row),
                }
            }
            None => {
                let message = match &past.failure {
                    Some(reason) => reason.clone(),
                    None if past.stopped_ms > 0 => RuleState::Stopped.message().to_owned(),
                    None => String::new(),
                };
                RuleStatus {
                    status: past.word(),
                    message,
                    started_ms: past.started_ms,
                    stopped_ms: past.stopped_ms,
                    warnings,
                    row: None,
                }
            }
        })
    }

    /// Whether this rule could be made now: its stream, and what should be looked at.
    ///
    /// # Errors
    /// All mistakes.
    pub async fn validate_rule(&self, json: Value) -> Result<(String, Vec<String>), CatalogError> {
        let (definition, def) = read(json, None)?;
        let planned = self.plan(&def).await?;
        Ok((definition.stream.into(), planned.warnings))
    }

    /// Makes a rule, and starts it unless its JSON says `"triggered": false`: its id.
    ///
    /// # Errors
    /// All mistakes; the id is taken; the store; a connection that cannot be had. Nothing has changed.
    pub async fn create_rule(&self, json: Value) -> Result<String, CatalogError> {
        let (definition, def) = read(json, None)?;
        let id = def.id.clone();
        let seat = self.seat(&id);
        let _turn = seat.turn.lock().await;
        self.check_absent(&id)?;
        // Its connectors are compiled now, before others would have to wait for that.
        self.plan(&def).await?;
        let planned = {
            let _changing = self.0.changing.lock().await;
            self.check_absent(&id)?;
            let planned = self.plan(&def).await?;
            self.keep_rule(&id, definition).await?;
            planned
        };
        if planned.plan.def.triggered
            && let Err(error) = self.run(&id, planned, None)
        {
            let _changing = self.0.changing.lock().await;
            self.forget_rule(&id).await?;
            return Err(error);
        }
        Ok(id)
    }

    /// Changes a rule, or makes it. One that runs is stopped in good order and started as it is now.
    ///
    /// # Errors
    /// All mistakes, a version that is not higher, another revision, the store: the old one runs on.
    pub async fn replace_rule(
        &self,
        id: &str,
        json: Value,
        may: May<'_>,
    ) -> Result<(), CatalogError> {
        let seat = self.seat(id);
        let _turn = seat.turn.lock().await;
        let old = self.definition(id);
        check_revision(may, old.as_ref().map_or(0, |kept| kept.revision))?;
        let json = match (&old, json) {
            // The masks of secrets mean the stored ones.
            (Some(kept), Value::Object(new)) => match kept.value.json() {
                Value::Object(old) => Value::Object(secrets::merge(&new, &old)),
                _ => Value::Object(new),
            },
            (_, json) => json,
        };
        let (definition, def) = read(json, Some(id))?;
        let is_same = old
            .as_ref()
            .is_some_and(|kept| kept.value.json() == definition.json());
        if is_same && self.engine().rule(id).is_some() {
            // It is that already, and runs.
            return Ok(());
        }
        if let Some(kept) = &old {
            check_version(id, &kept.value.version, &definition.version)?;
        }
        self.plan(&def).await?;
        let planned = {
            let _changing = self.0.changing.lock().await;
            let planned = self.plan(&def).await?;
            self.keep_rule(id, definition).await?;
            planned
        };
        let before = self.halt(id, planned.plan.def.triggered).await;
        if planned.plan.def.triggered
            && let Err(error) = self.run(id, planned, before)
        {
            // The definition is good and kept; what it needs is not to be had now.
            seat.failed(error.to_string());
        }
        Ok(())
    }

    /// Deletes a rule: it is stopped, what waits in its disk queues is dropped and counted, its
    /// position is forgotten.
    ///
    /// # Errors
    /// Unknown, another revision, the store; it is as it was then.
    pub async fn delete_rule(&self, id: &str, may: May<'_>) -> Result<(), CatalogError> {
        let seat = self.seat(id);
        let _turn = seat.turn.lock().await;
        let kept = self
            .definition(id)
            .ok_or_else(|| CatalogError::NotFound(format!("rule {id} not found")))?;
        check_revision(may, kept.revision)?;
        {
            let _changing = self.0.changing.lock().await;
            self.forget_rule(id).await?;
        }
        self.engine().stop(id, Instant::now() + DRAIN).await;
        match self.0.parts.spills.remove(TENANT, id).await {
            Ok(0) => {}
            Ok(dropped) => {
                tracing::warn!(
                    rule = id,
                    dropped,
                    "messages in the disk queues of a deleted rule were dropped"
                );
            }
            Err(error) => {
                tracing::warn!(rule = id, %error, "the disk queues of a deleted rule are still there");
            }
        }
        let key = format!("rule/{id}/{}", kept.value.stream);
        if let Err(error) = self.store().forget_checkpoint(TENANT, &key).await {
            tracing::warn!(rule = id, %error, "the position of a deleted rule is still there");
        }
        self.0.seats.lock().remove(id);
        Ok(())
    }

    /// Starts a rule, and remembers that it is to run. One that runs is left alone.
    ///
    /// # Errors
    /// Unknown; what it needs is not there; the store.
    pub async fn start_rule(&self, id: &str) -> Result<(), CatalogError> {
        let seat = self.seat(id);
        let _turn = seat.turn.lock().await;
        let kept = self.definition(id).ok_or_else(|| unknown(id))?;
        match self.engine().rule(id).map(|rule| rule.state()) {
            Some(RuleState::Failed(_)) => {
                self.engine().stop(id, Instant::now() + DRAIN).await;
            }
            Some(_) => return self.trigger(id, &kept, true).await,
            None => {}
        }
        let planned = self.plan_kept(&kept.value).await?;
        self.trigger(id, &kept, true).await?;
        self.run(id, planned, None)
    }

    /// Stops a rule in good order, and remembers that it is not to run.
    ///
    /// # Errors
    /// Unknown; the store: it runs on then.
    pub async fn stop_rule(&self, id: &str) -> Result<(), CatalogError> {
        let seat = self.seat(id);
        let _turn = seat.turn.lock().await;
        let kept = self.definition(id).ok_or_else(|| unknown(id))?;
        self.trigger(id, &kept, false).await?;
        self.engine().stop(id, Instant::now() + DRAIN).await;
        seat.stopped();
        Ok(())
    }

    /// Stops a rule if it runs, and starts it.
    ///
    /// # Errors
    /// As [`Catalog::start_rule`].
    pub async fn restart_rule(&self, id: &str) -> Result<(), CatalogError> {
        let seat = self.seat(id);
        let _turn = seat.turn.lock().await;
        let kept = self.definition(id).ok_or_else(|| unknown(id))?;
        let planned = self.plan_kept(&kept.value).await?;
        self.trigger(id, &kept, true).await?;
        let before = self.halt(id, true).await;
        self.run(id, planned, before)
    }

    /// What a rule was planned on has changed: one that runs is started anew. A failure stands in its
    /// status.
    pub(super) async fn restart_if_running(&self, id: &str) {
        let seat = self.seat(id);
        let _turn = seat.turn.lock().await;
        let (Some(kept), Some(_)) = (self.definition(id), self.engine().rule(id)) else {
            return;
        };
        let planned = self.plan_kept(&kept.value).await;
        let before = self.halt(id, planned.is_ok()).await;
        let started = planned.and_then(|planned| self.run(id, planned, before));
        if let Err(error) = started {
            tracing::error!(rule = id, %error, "a rule could not be started again");
            seat.failed(error.to_string());
        }
    }

    /// The same of rules that share a source, all at once.
    pub(super) async fn restart_together(&self, ids: &[String]) {
        let seats: Vec<_> = ids.iter().map(|id| self.seat(id)).collect();
        let mut turns = Vec::new();
        // In the order of their ids, so that two of these never wait for each other.
        for seat in &seats {
            turns.push(seat.turn.lock().await);
        }
        let mut plans = Vec::new();
        for id in ids {
            let (Some(kept), Some(_)) = (self.definition(id), self.engine().rule(id)) else {
                continue;
            };
            match self.plan_kept(&kept.value).await {
                Ok(planned) => plans.push(planned.plan),
                // It was planned on this stream a moment ago: what has changed since says so itself.
                Err(error) => tracing::error!(rule = id, %error, "a rule is left as it was"),
            }
        }
        let deadline = Instant::now() + DRAIN;
        for (id, started) in self.engine().restart_together(&plans, deadline).await {
            let seat = self.seat(&id);
            seat.stopped();
            match started {
                Ok(()) => seat.started(Vec::new()),
                Err(error) => {
                    tracing::error!(rule = id, %error, "a rule could not be started again");
                    seat.failed(crate::error::chain(&error));
                }
            }
        }
    }

    /// Sets the tags of a rule.
    ///
    /// # Errors
    /// Unknown; the store.
    pub async fn tag_rule(
        &self,
        id: &str,
        change: impl FnOnce(&mut Vec<String>),
    ) -> Result<(), CatalogError> {
        let _changing = self.0.changing.lock().await;
        let kept = self.definition(id).ok_or_else(|| unknown(id))?;
        let mut tags = kept.value.tags.to_vec();
        change(&mut tags);
        let definition = kept.value.with(&[("tags", json!(tags))])?;
        self.keep_rule(id, definition).await
    }

    /// Puts a source at another position, from which it is read anew: the rule is stopped meanwhile.
    ///
    /// # Errors
    /// Unknown, not running, another stream; the store.
    pub async fn reset_position(
        &self,
        id: &str,
        stream: &str,
        position: &str,
    ) -> Result<(), CatalogError> {
        let seat = self.seat(id);
        let _turn = seat.turn.lock().await;
        let kept = self
            .definition(id)
            .ok_or_else(|| CatalogError::NotFound(format!("Rule {id} is not found in registry")))?;
        let Some(running) = self.engine().rule(id) else {
            return Err(CatalogError::Conflict(format!(
                "rule {id} should be running when modify state"
            )));
        };
        if *kept.value.stream != *stream {
            return Err(CatalogError::Invalid(format!(
                "/params/streamName: rule {id} reads stream \"{}\", not \"{stream}\"",
                kept.value.stream
            )));
        }
        let planned = self.plan_kept(&kept.value).await?;
        let key = running.source.key();
        if self.engine().is_shared(&running) {
            return Err(CatalogError::Conflict(format!(
                "stream {stream} is shared with other rules: its position is theirs too"
            )));
        }
        drop(running);
        let before = self.halt(id, true).await;
        let written = self.store().commit(TENANT, &key, 0, position).await;
        let started = self.run(id, planned, before);
        written?;
        started
    }

    /// Stops a rule if it runs. `again`: it is started again at once.
    async fn halt(&self, id: &str, again: bool) -> Option<Before> {
        let ran = self.engine().rule(id).is_some();
        let deadline = Instant::now() + DRAIN;
        let before = if again {
            self.engine().stop_for_another(id, deadline).await
        } else {
            self.engine().stop(id, deadline).await;
            None
        };
        if ran {
            self.seat(id).stopped();
        }
        before
    }

    fn run(&self, id: &str, planned: Planned, before: Option<Before>) -> Result<(), CatalogError> {
        let seat = self.seat(id);
        self.engine().start_after(&planned.plan, before)?;
        seat.started(planned.warnings);
        Ok(())
    }

    /// Brings a rule of the last run back: what keeps it from starting stands in its status.
    pub(super) async fn revive(&self, id: &str) {
        let seat = self.seat(id);
        let _turn = seat.turn.lock().await;
        let Some(kept) = self.definition(id) else {
            return;
        };
        // Somebody may have started it, or stopped it, since the host is up.
        if !kept.value.triggered || self.engine().rule(id).is_some() {
            return;
        }
        let started = match self.plan_kept(&kept.value).await {
            Ok(planned) => self.run(id, planned, None),
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            tracing::error!(rule = id, %error, "a rule could not be started");
            seat.failed(error.to_string());
        }
    }

    async fn trigger(
        &self,
        id: &str,
        kept: &Kept<Arc<Definition>>,
        triggered: bool,
    ) -> Result<(), CatalogError> {
        if kept.value.triggered == triggered {
            return Ok(());
        }
        let _changing = self.0.changing.lock().await;
        // The tags may have been changed since: the present definition is what is kept.
        let present = self.definition(id).ok_or_else(|| unknown(id))?;
        let definition = present.value.with(&[("triggered", triggered.into())])?;
        self.keep_rule(id, definition).await
    }

    fn check_absent(&self, id: &str) -> Result<(), CatalogError> {
        match self.definition(id) {
            Some(_) => Err(CatalogError::Conflict(format!("rule {id} already exists"))),
            None => Ok(()),
        }
    }

    /// Writes and enters a definition. `changing` must be held.
    pub(super) async fn keep_rule(
        &self,
        id: &str,
        definition: Definition,
    ) -> Result<(), CatalogError> {
        let revision = self.write(kind::RULE, id, &definition.json()).await?;
        let mut book = self.0.book.write();
        let value = Arc::new(definition);
        book.rules.insert(id.to_owned(), Kept { revision, value });
        book.change += 1;
        Ok(())
    }

    /// `changing` must be held.
    async fn forget_rule(&self, id: &str) -> Result<(), CatalogError> {
        self.erase(kind::RULE, id).await?;
        let mut book = self.0.book.write();
        book.rules.remove(id);
        book.change += 1;
        Ok(())
    }

    /// The rules with one of these tags, or without tags all of them, by id.
    #[must_use]
    pub fn tagged(&self, tags: &[String]) -> Vec<String> {
        let book = self.0.book.read();
        let tagged = book.rules.iter().filter(|(_, kept)| {
            tags.is_empty() || tags.iter().all(|tag| kept.value.tags.contains(tag))
        });
        tagged.map(|(id, _)| id.clone()).collect()
    }
}

/// As eKuiper: both empty, or the new one is higher as text.
fn check_version(id: &str, old: &str, new: &str) -> Result<(), CatalogError> {
    if (old.is_empty() && new.is_empty()) || new > old {
        return Ok(());
    }
    Err(CatalogError::Conflict(format!(
        "rule {id} already exists with version ({old}), new version ({new}) is lower"
    )))
}

impl RuleStatus {
    /// eKuiper's status object: state first, then the counters under its flat names.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut all = Map::new();
        all.insert("status".to_owned(), self.status.into());
        all.insert("message".to_owned(), self.message.clone().into());
        all.insert("lastStartTimestamp".to_owned(), self.started_ms.into());
        all.insert("lastStopTimestamp".to_owned(), self.stopped_ms.into());
        all.insert("nextStartTimestamp".to_owned(), 0.into());
        if !self.warnings.is_empty() {
            all.insert("warnings".to_owned(), json!(self.warnings));
        }
        if let Some(row) = &self.row {
            all.extend(row.metrics().into_owned());
        }
        Value::Object(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_only_grow() {
        assert!(check_version("r", "", "").is_ok());
        assert!(check_version("r", "1", "2").is_ok());
        assert!(check_version("r", "", "1").is_ok());
        let error = check_version("r", "2", "2").unwrap_err().to_string();
        assert_eq!(
            error,
            "rule r already exists with version (2), new version (2) is lower"
        );
    }
}
