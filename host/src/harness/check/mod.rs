//! The conformance suite: what every connector must do, tried on one over scripted connections. Each
//! check has a name, a promise, and for a connector that breaks it what its author should do.

mod bench;
mod descriptor;
mod sink;
mod source;

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use self::bench::Bench;
use super::alone::Alone;
use super::properties;
use crate::runtime::LoadError;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The promise is kept.
    Passed,
    /// It is broken.
    Failed,
    /// It could not be tried here.
    NotApplicable,
}

/// One check and how it ended.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Its name: `schema`, `source.resume`.
    pub name: String,
    /// What a connector promises.
    pub promise: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen, or why it could not be tried.
    pub reason: String,
    /// What the author should do; empty unless it failed.
    pub advice: &'static str,
}

/// What a check saw.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    Pass(String),
    Fail(String),
    Skip(String),
}

impl Finding {
    fn pass() -> Self {
        Self::Pass(String::new())
    }
}

/// Name, promise, advice.
type Promise = (&'static str, &'static str, &'static str);

const COMPONENT: Promise = (
    "component",
    "it is a component for this version of the contract",
    "build it against the wit folder of this host, for one of its worlds",
);
const DESCRIBE: Promise = (
    "describe",
    "it says what it is within a second, without any grant",
    "let `describe` only return constants",
);

/// Which checks, on what.
#[derive(Debug)]
pub struct Suite {
    /// The connector.
    pub connector: Alone,
    /// How long it took to load it again and to ask it what it is.
    pub described_in: Duration,
    /// The configuration to use; None: one made from the schema.
    pub config: Option<Map<String, Value>>,
    /// `source` or `sink`; None: all that it has.
    pub role: Option<String>,
    /// Payloads of the messages that it gets; none: JSON objects.
    pub samples: Vec<Bytes>,
    /// Only checks whose names begin so; none: all.
    pub only: Vec<String>,
}

/// What a file that cannot be loaded gives: the one check that fails.
#[must_use]
pub fn not_loaded(error: &LoadError) -> Check {
    check("", &COMPONENT, Finding::Fail(error.report()))
}

fn check(role: &str, promise: &Promise, finding: Finding) -> Check {
    let (name, promise, advice) = *promise;
    let (verdict, reason) = match finding {
        Finding::Pass(reason) => (Verdict::Passed, reason),
        Finding::Fail(reason) => (Verdict::Failed, reason),
        Finding::Skip(reason) => (Verdict::NotApplicable, reason),
    };
    Check {
        name: match role {
            "" => name.to_owned(),
            role => format!("{role}.{name}"),
        },
        promise,
        verdict,
        reason,
        advice: if verdict == Verdict::Failed {
            advice
        } else {
            ""
        },
    }
}

impl Suite {
    /// Whether a check is wanted.
    fn wants(&self, role: &str, promise: &Promise) -> bool {
        let full = match role {
            "" => promise.0.to_owned(),
            role => format!("{role}.{}", promise.0),
        };
        self.only.is_empty()
            || self.only.iter().any(|only| {
                full == *only || promise.0 == only || full.starts_with(&format!("{only}."))
            })
    }

    /// The names of all checks, for a misspelt one.
    #[must_use]
    pub fn names() -> Vec<String> {
        let mut names = vec![COMPONENT.0.to_owned(), DESCRIBE.0.to_owned()];
        names.extend(descriptor::PROMISES.map(|promise| promise.0.to_owned()));
        for (role, promises) in [
            ("source", &source::PROMISES[..]),
            ("sink", &sink::PROMISES[..]),
        ] {
            names.extend(
                bench::PROMISES
                    .iter()
                    .chain(promises)
                    .map(|one| format!("{role}.{}", one.0)),
            );
        }
        names
    }

    /// The configuration for a role: the one that was given, else one made from the schema.
    ///
    /// # Errors
    /// What the schema refuses about the given one.
    pub fn config_for(&self, role: &str) -> Result<Option<String>, Vec<properties::Mistake>> {
        match &self.config {
            Some(config) => {
                properties::apply(self.connector.connector(), role, config.clone()).map(Some)
            }
            None => Ok(None),
        }
    }

    /// The roles to be tried.
    #[must_use]
    pub fn roles(&self) -> Vec<&'static str> {
        let connector = self.connector.connector();
        [
            ("source", connector.has_source),
            ("sink", connector.has_sink),
        ]
        .into_iter()
        .filter(|(role, has)| *has && self.role.as_deref().is_none_or(|only| only == *role))
        .map(|(role, _)| role)
        .collect()
    }

    /// Runs the checks one after the other and tells of each when it is done.
    pub async fn run(&self, tell: &mut (dyn FnMut(Check) + Send)) {
        let connector = self.connector.connector();
        if self.wants("", &COMPONENT) {
            tell(check(
                "",
                &COMPONENT,
                Finding::Pass(crate::runtime::Connector::CONTRACT.to_owned()),
            ));
        }
        if self.wants("", &DESCRIBE) {
            let took = self.described_in.as_millis();
            let finding = match self.described_in <= Duration::from_secs(1) {
                true => Finding::Pass(format!("{took} ms, with loading it")),
                false => Finding::Fail(format!("it took {took} ms")),
            };
            tell(check("", &DESCRIBE, finding));
        }
        let roles = self.roles();
        for promise in descriptor::PROMISES
            .iter()
            .filter(|one| self.wants("", one))
        {
            tell(check(
                "",
                promise,
                descriptor::look(promise.0, &connector.descriptor, &roles),
            ));
        }
        for role in roles {
            self.run_role(role, tell).await;
        }
    }

    async fn run_role(&self, role: &'static str, tell: &mut (dyn FnMut(Check) + Send)) {
        let given = match self.config_for(role) {
            Ok(given) => given,
            Err(mistakes) => {
                let words = mistakes
                    .first()
                    .map(|one| one.message.clone())
                    .unwrap_or_default();
                let finding = Finding::Skip(format!(
                    "the given configuration is not for this role: {words}"
                ));
                tell(check(role, &bench::OPEN, finding));
                return;
            }
        };
        let bench = Bench::find(&self.connector, role, given, &self.samples).await;
        let (bench, opened) = match bench {
            Ok((bench, note)) => (Some(bench), Finding::Pass(note)),
            Err(words) => (None, Finding::Fail(words)),
        };
        let why = "it does not open";
        let own: &[Promise] = if role == "source" {
            &source::PROMISES
        } else {
            &sink::PROMISES
        };
        for promise in bench::PROMISES
            .iter()
            .chain(own)
            .filter(|one| self.wants(role, one))
        {
            let finding = match (&bench, promise.0) {
                (_, "open") => opened.clone(),
                (None, _) => Finding::Skip(why.to_owned()),
                (Some(bench), name) => self.try_one(bench, role, name).await,
            };
            tell(check(role, promise, finding));
        }
    }

    /// On the guests' threads, and not for ever.
    async fn try_one(&self, bench: &Bench, role: &str, name: &'static str) -> Finding {
        const LONGEST: Duration = Duration::from_secs(60);
        let (bench, is_source) = (bench.clone(), role == "source");
        let work = async move {
            let tried = async {
                match bench.look(name).await {
                    Some(finding) => finding,
                    None if is_source => source::look(&bench, name).await,
                    None => sink::look(&bench, name).await,
                }
            };
            match tokio::time::timeout(LONGEST, tried).await {
                Ok(finding) => finding,
                Err(_elapsed) => Finding::Fail(format!("not done within {} s", LONGEST.as_secs())),
            }
        };
        let done = self.connector.run(work).await;
        done.unwrap_or_else(|| Finding::Fail("the check itself failed; see the log".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_a_name_of_its_own() {
        let mut names = Suite::names();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!((names.len(), all), (all, names.len()));
        assert!(all > 25, "{all}");
    }
}
