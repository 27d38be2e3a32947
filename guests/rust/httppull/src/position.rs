//! Where a source is: when it last asked, what it was answered, its states. The whole of it is the
//! checkpoint.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use windlass_connector::Error;

/// Names that every template may use.
pub(crate) const TIMES: [&str; 2] = ["PullTime", "LastPullTime"];

/// What templates are filled with.
pub(crate) type Values = BTreeMap<String, String>;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct Position {
    /// Milliseconds since 1970; 0: never.
    last: u64,
    /// Of the last answer.
    digest: String,
    states: BTreeMap<String, Value>,
}

impl Position {
    /// The one kept, or the first. A state that is new in the configuration has its first value; one
    /// that is not there any more is forgotten.
    pub(crate) fn resume(
        states: &BTreeMap<String, Value>,
        resume: Option<&str>,
    ) -> Result<Self, Error> {
        let mut position = match resume {
            None => Self::default(),
            Some(text) => serde_json::from_str(text).map_err(|error| {
                Error::misconfigured(
                    "checkpoint",
                    format!("the checkpoint cannot be read: {error}"),
                )
            })?,
        };
        let kept = std::mem::take(&mut position.states);
        for (name, first) in states {
            let value = kept.get(name).unwrap_or(first);
            position.states.insert(name.clone(), value.clone());
        }
        Ok(position)
    }

    /// As text, to go on from.
    pub(crate) fn checkpoint(&self) -> String {
        // Names, numbers and texts: that is always JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Milliseconds until the next request is due. A clock that was set back does not stop it.
    pub(crate) fn wait(&self, now: u64, interval: u64) -> u64 {
        if now < self.last {
            return 0;
        }
        (self.last + interval).saturating_sub(now)
    }

    /// For a request made now.
    pub(crate) fn values(&self, now: u64) -> Values {
        let states = self.states.iter().map(|(name, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            (name.clone(), text)
        });
        let mut values: Values = states.collect();
        values.insert("PullTime".to_owned(), now.to_string());
        values.insert("LastPullTime".to_owned(), self.last.to_string());
        values
    }

    /// It was answered with this body, whose last element may say states anew.
    pub(crate) fn pulled(&mut self, now: u64, body: &[u8], last: Option<&RawValue>) {
        self.last = now;
        self.digest = digest(body);
        let fields: Option<BTreeMap<String, Value>> =
            last.and_then(|last| serde_json::from_str(last.get()).ok());
        for (name, state) in &mut self.states {
            let told = fields.as_ref().and_then(|fields| fields.get(name));
            if let Some(value @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) = told {
                *state = value.clone();
            }
        }
    }

    /// Both have the same answer.
    pub(crate) fn is_same(&self, before: &Self) -> bool {
        self.digest == before.digest
    }
}

/// FNV-1a of 64 bits, and the length: tells answers apart, and keeps nothing of them.
fn digest(body: &[u8]) -> String {
    let hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}-{}", body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(text: &str) -> BTreeMap<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn states_follow_the_answers_and_survive() {
        let first = states(r#"{"cursor":"0","n":1}"#);
        let mut position = Position::resume(&first, None).unwrap();
        assert_eq!(position.values(9)["cursor"], "0");
        let answer: Box<RawValue> =
            serde_json::from_str(r#"{"cursor":"abc","n":null,"x":2}"#).unwrap();
        position.pulled(1000, answer.get().as_bytes(), Some(&answer));
        let values = position.values(2000);
        assert_eq!(
            (values["cursor"].as_str(), values["n"].as_str()),
            ("abc", "1")
        );
        assert_eq!(
            (values["PullTime"].as_str(), values["LastPullTime"].as_str()),
            ("2000", "1000")
        );
        let again = Position::resume(
            &states(r#"{"cursor":"0","new":true}"#),
            Some(&position.checkpoint()),
        )
        .unwrap();
        assert_eq!(again.values(0)["cursor"], "abc");
        assert_eq!(again.values(0)["new"], "true");
        assert!(!again.values(0).contains_key("n"));
        assert!(Position::resume(&first, Some("nonsense")).is_err());
    }

    #[test]
    fn the_next_request_is_due_an_interval_after_the_last() {
        let mut position = Position::default();
        assert_eq!(position.wait(5000, 1000), 0);
        position.pulled(5000, b"", None);
        assert_eq!(position.wait(5400, 1000), 600);
        assert_eq!(position.wait(6000, 1000), 0);
        assert_eq!(position.wait(10, 1000), 0, "the clock was set back");
    }

    #[test]
    fn answers_that_differ_have_different_digests() {
        let mut one = Position::default();
        one.pulled(1, b"[1]", None);
        let mut other = one.clone();
        other.pulled(2, b"[1]", None);
        assert!(other.is_same(&one));
        other.pulled(3, b"[2]", None);
        assert!(!other.is_same(&one));
    }
}
