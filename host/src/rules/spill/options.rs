//! What a rule may say of an action's disk queue: eKuiper's names, and `overflow`, `maxDiskBytes` and
//! `maxDiskAge` of our own.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::{Overflow, RuleOptions};
use crate::connections::ConfigError;

/// The smallest bound of a queue, in bytes: a few segments.
pub(super) const SMALLEST: u64 = 64 * 1024;

const NAMES: &[&str] = &[
    "enableCache",
    "memoryCacheThreshold",
    "maxDiskCache",
    "bufferPageSize",
    "cleanCacheAtStop",
    "resendAlterQueue",
    "resendPriority",
    "resendIndicatorField",
    "resendDestination",
    "overflow",
    "maxDiskBytes",
    "maxDiskAge",
];

/// How an action's disk queue behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpillOptions {
    /// `enableCache`. False: nothing is moved to disk, upstream waits instead. Default true.
    pub enabled: bool,
    /// `memoryCacheThreshold`: messages in memory before the disk queue; None: as the rule says.
    pub memory_messages: Option<usize>,
    /// `maxDiskCache`: messages on disk; None: bounded by bytes alone.
    pub max_messages: Option<u64>,
    /// `maxDiskBytes`: bytes on disk; None: as the rule or the host says, else 1 GiB.
    pub max_bytes: Option<u64>,
    /// `maxDiskAge` (milliseconds): older messages are dropped and counted; None: never.
    pub max_age: Option<Duration>,
    /// `overflow`: what happens when a bound is reached; None: as the rule says.
    pub overflow: Option<Overflow>,
    /// `cleanCacheAtStop`: the queue is emptied when the rule stops. Default false.
    pub clean_at_stop: bool,
    /// Properties that are accepted and mean nothing here.
    pub warnings: Vec<ConfigError>,
}

impl Default for SpillOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            memory_messages: None,
            max_messages: None,
            max_bytes: None,
            max_age: None,
            overflow: None,
            clean_at_stop: false,
            warnings: Vec::new(),
        }
    }
}

impl SpillOptions {
    /// Names of all properties that are read here.
    pub const PROPERTIES: &'static [&'static str] = NAMES;

    /// Takes the properties of the disk queue out of an action's properties. Names are the same
    /// without regard to case.
    ///
    /// # Errors
    /// All mistakes at once, each with its JSON Pointer below the action's properties. The
    /// properties are taken out all the same.
    pub fn take_from(properties: &mut Map<String, Value>) -> Result<Self, Vec<ConfigError>> {
        let mut options = Self::default();
        let mut errors = Vec::new();
        let spelled: Vec<String> = properties.keys().cloned().collect();
        for name in spelled {
            let Some(known) = NAMES.iter().find(|known| known.eq_ignore_ascii_case(&name)) else {
                continue;
            };
            let Some(value) = properties.shift_remove(&name) else {
                continue;
            };
            let at = format!("/{name}");
            if let Err(sentence) = options.set(known, &value, &at) {
                errors.push(ConfigError::new(at, sentence));
            }
        }
        if errors.is_empty() {
            Ok(options)
        } else {
            Err(errors)
        }
    }

    fn set(&mut self, name: &str, value: &Value, at: &str) -> Result<(), String> {
        match name {
            "enableCache" => self.enabled = boolean(name, value)?,
            "cleanCacheAtStop" => self.clean_at_stop = boolean(name, value)?,
            "memoryCacheThreshold" => {
                let messages = whole(name, value, 1, u64::from(u32::MAX))?;
                self.memory_messages = Some(usize::try_from(messages).unwrap_or(usize::MAX));
            }
            "maxDiskCache" => self.max_messages = Some(whole(name, value, 1, u64::MAX)?),
            "maxDiskBytes" => self.max_bytes = Some(whole(name, value, SMALLEST, u64::MAX)?),
            "maxDiskAge" => self.max_age = duration(whole(name, value, 0, u64::MAX)?),
            "bufferPageSize" => {
                whole(name, value, 1, u64::MAX)?;
                self.ignore(at, "messages are not kept in pages here");
            }
            "overflow" => {
                self.overflow = Some(match value.as_str() {
                    Some("block") => Overflow::Block,
                    Some("drop-oldest") => Overflow::DropOldest,
                    _ => return Err(wrong_overflow(value)),
                });
            }
            _ => self.ignore(at, "failed messages go again through the action itself, in order, or to the dead letters"),
        }
        Ok(())
    }

    fn ignore(&mut self, at: &str, why: &str) {
        self.warnings
            .push(ConfigError::new(at, format!("is ignored: {why}")));
    }

    /// Fills in from the rule what the action does not say itself.
    pub fn adopt(&mut self, rule: &RuleOptions) {
        self.overflow = self.overflow.or(Some(rule.overflow));
        self.max_bytes = self.max_bytes.or(rule.disk_queue_bytes);
    }

    /// What happens when a bound is reached.
    #[must_use]
    pub fn overflow(&self) -> Overflow {
        self.overflow.unwrap_or_default()
    }
}

fn duration(milliseconds: u64) -> Option<Duration> {
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

fn boolean(name: &str, value: &Value) -> Result<bool, String> {
    match value.as_str() {
        Some("true") => return Ok(true),
        Some("false") => return Ok(false),
        _ => {}
    }
    value
        .as_bool()
        .ok_or_else(|| format!("\"{name}\" is true or false, not {value}"))
}

fn whole(name: &str, value: &Value, least: u64, most: u64) -> Result<u64, String> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_u64(),
    };
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| match most {
            u64::MAX => format!("\"{name}\" is a whole number of at least {least}, not {value}"),
            _ => format!("\"{name}\" is a whole number from {least} to {most}, not {value}"),
        })
}

fn wrong_overflow(value: &Value) -> String {
    const WORDS: [&str; 2] = ["block", "drop-oldest"];
    let meant = value.as_str().and_then(|text| {
        let distance = |word: &&str| strsim::damerau_levenshtein(&text.to_lowercase(), word);
        WORDS
            .into_iter()
            .min_by_key(distance)
            .filter(|word| distance(word) <= 4)
    });
    let hint = meant
        .map(|word| format!("; did you mean \"{word}\"?"))
        .unwrap_or_default();
    format!("\"overflow\" is \"block\" or \"drop-oldest\", not {value}{hint}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(value: Value) -> (Result<SpillOptions, Vec<ConfigError>>, Map<String, Value>) {
        let Value::Object(mut properties) = value else {
            panic!()
        };
        (SpillOptions::take_from(&mut properties), properties)
    }

    #[test]
    fn ekuipers_names_are_taken_out_and_the_rest_stays() {
        let (options, rest) = take(json!({
            "topic": "t", "enableCache": true, "memoryCacheThreshold": 10, "maxDiskCache": "1000",
            "BufferPageSize": 256, "cleanCacheAtStop": "true", "resendPriority": -1,
            "overflow": "drop-oldest", "maxDiskBytes": 1048576, "maxDiskAge": 60000, "server": "x"
        }));
        let options = options.unwrap();
        assert_eq!(Value::Object(rest), json!({"topic": "t", "server": "x"}));
        assert_eq!(
            (options.memory_messages, options.max_messages),
            (Some(10), Some(1000))
        );
        assert_eq!(
            (options.max_bytes, options.overflow()),
            (Some(1_048_576), Overflow::DropOldest)
        );
        assert_eq!(options.max_age, Some(Duration::from_secs(60)));
        assert!(options.clean_at_stop && options.enabled);
        let ignored: Vec<_> = options
            .warnings
            .iter()
            .map(|warning| warning.at.as_str())
            .collect();
        assert_eq!(ignored, ["/BufferPageSize", "/resendPriority"]);
    }

    #[test]
    fn all_mistakes_are_named_with_their_place_and_what_is_allowed() {
        let (errors, _) = take(
            json!({"overflow": "drop_oldest", "maxDiskBytes": 1, "enableCache": 3, "maxDiskCache": -1}),
        );
        let errors: Vec<_> = errors
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            errors,
            [
                "/overflow: \"overflow\" is \"block\" or \"drop-oldest\", not \"drop_oldest\"; did you mean \"drop-oldest\"?",
                "/maxDiskBytes: \"maxDiskBytes\" is a whole number of at least 65536, not 1",
                "/enableCache: \"enableCache\" is true or false, not 3",
                "/maxDiskCache: \"maxDiskCache\" is a whole number of at least 1, not -1",
            ]
        );
    }

    #[test]
    fn the_action_goes_before_the_rule() {
        let rule = RuleOptions {
            overflow: Overflow::DropOldest,
            disk_queue_bytes: Some(5),
            ..RuleOptions::default()
        };
        let (mut own, mut none) = (
            take(json!({"overflow": "block", "maxDiskBytes": 70000}))
                .0
                .unwrap(),
            SpillOptions::default(),
        );
        own.adopt(&rule);
        none.adopt(&rule);
        assert_eq!(
            (own.overflow(), own.max_bytes),
            (Overflow::Block, Some(70_000))
        );
        assert_eq!(
            (none.overflow(), none.max_bytes),
            (Overflow::DropOldest, Some(5))
        );
    }
}
