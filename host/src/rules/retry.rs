//! How often, how long and how soon an action tries a message again that could not be written: what
//! a rule may say of it (`retry`, and eKuiper's `resendInterval`), and the sums. Waits for nothing
//! itself.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::config::duration as duration_of;
use crate::config::schema::{closed, or_variable};
use crate::connections::ConfigError;
use crate::names::unknown;

/// No wait of ours is shorter, unless `delay` is.
const FLOOR: Duration = Duration::from_millis(50);
/// However long the other side asks us to wait, it is asked again after this.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

const RETRY: &str = "retry";
const RESEND_INTERVAL: &str = "resendInterval";
const KEYS: &[&str] = &[
    "attempts",
    "deadline",
    "expireWhileDown",
    "delay",
    "maxDelay",
    "multiplier",
    "jitterFactor",
];
/// Those that say how soon.
const WAITS: &[&str] = &["delay", "maxDelay", "multiplier", "jitterFactor"];

/// When a message that could not be written is tried again, and when it is given up.
///
/// Only a try that reached the other side and failed as `transient` counts: while a connection is
/// down, its circuit open, or no instance of the connector can be made, nothing was tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Tries that count before a message becomes a dead letter; None: for ever.
    pub attempts: Option<u32>,
    /// A message that was taken longer ago (by the wall clock) is given up when a try that counts
    /// has failed; None: never.
    pub deadline: Option<Duration>,
    /// The deadline is looked at while a connection is down too.
    pub expire_while_down: bool,
    /// Before the second try.
    pub delay: Duration,
    /// The longest wait of ours.
    pub max_delay: Duration,
    /// The wait grows by this factor.
    pub multiplier: f64,
    /// Part of the wait that is random, 0 to 1.
    pub jitter_factor: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: None,
            deadline: None,
            expire_while_down: false,
            delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(10),
            multiplier: 2.0,
            jitter_factor: 1.0,
        }
    }
}

impl RetryPolicy {
    /// Names of all properties that are read here.
    pub const PROPERTIES: &'static [&'static str] = &[RETRY, RESEND_INTERVAL];

    /// The same wait before every try.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self {
            delay: interval,
            max_delay: interval,
            multiplier: 1.0,
            jitter_factor: 0.0,
            ..Self::default()
        }
    }

    /// How long to wait after so many tries in vain: as long as the other side asked, up to an hour,
    /// else what grows from `delay` to `maxDelay`. `random` is from 0 to 1.
    #[must_use]
    pub fn wait(&self, asked: Option<Duration>, in_vain: u32, random: f64) -> Duration {
        if let Some(asked) = asked {
            return asked.min(LONGEST_ASKED);
        }
        let steps = f64::from(in_vain.saturating_sub(1).min(1000));
        let most = self.max_delay.max(self.delay);
        let grown = self.delay.as_secs_f64() * self.multiplier.max(1.0).powf(steps);
        let ceiling = Duration::try_from_secs_f64(grown).map_or(most, |grown| grown.min(most));
        let floor = FLOOR.min(self.delay);
        let spread = ceiling.saturating_sub(floor);
        ceiling - spread.mul_f64(self.jitter_factor.clamp(0.0, 1.0) * random.clamp(0.0, 1.0))
    }

    /// So many tries are all.
    #[must_use]
    pub fn is_used_up(&self, tries: u32) -> bool {
        self.attempts.is_some_and(|most| tries >= most)
    }

    /// Until when (ms since the Unix epoch) a message taken at `taken_ms` is tried; None: for ever.
    #[must_use]
    pub fn until_ms(&self, taken_ms: u64) -> Option<u64> {
        let deadline = u64::try_from(self.deadline?.as_millis()).unwrap_or(u64::MAX);
        Some(taken_ms.saturating_add(deadline))
    }

    /// Takes `retry` and `resendInterval` out of an action's properties.
    ///
    /// # Errors
    /// All mistakes at once, each with its JSON Pointer below the action's properties. The
    /// properties are taken out all the same.
    pub fn take_from(properties: &mut Map<String, Value>) -> Result<Self, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let interval = take(properties, RESEND_INTERVAL).and_then(|(name, value)| {
            match whole(&value, 0, u64::MAX) {
                Some(0) => None,
                Some(milliseconds) => Some((name, Duration::from_millis(milliseconds))),
                None => {
                    let message = format!(
                        "\"{RESEND_INTERVAL}\" is a whole number of milliseconds, not {value}"
                    );
                    errors.push(ConfigError::new(format!("/{name}"), message));
                    None
                }
            }
        });
        let mut policy = interval
            .as_ref()
            .map_or_else(Self::default, |(_, interval)| Self::every(*interval));
        if let Some((name, value)) = take(properties, RETRY) {
            let at = format!("/{name}");
            match value {
                Value::Object(given) => policy.read(&given, &at, interval.is_some(), &mut errors),
                Value::Null => {}
                other => errors.push(ConfigError::new(
                    at,
                    format!("\"{RETRY}\" is an object like {{\"attempts\": 5}}, not {other}"),
                )),
            }
        }
        if errors.is_empty() {
            Ok(policy)
        } else {
            Err(errors)
        }
    }

    fn read(
        &mut self,
        given: &Map<String, Value>,
        at: &str,
        fixed: bool,
        errors: &mut Vec<ConfigError>,
    ) {
        for (name, value) in given {
            let known = KEYS.iter().find(|known| known.eq_ignore_ascii_case(name));
            let result = match known {
                None => Err(unknown("key of \"retry\"", name, KEYS)),
                Some(known) if fixed && WAITS.contains(known) => Err(format!(
                    "\"{known}\" and \"{RESEND_INTERVAL}\" both say how long to wait; give one of them"
                )),
                Some(known) => self.set(known, value),
            };
            if let Err(message) = result {
                errors.push(ConfigError::new(format!("{at}/{name}"), message));
            }
        }
        let at = |name: &str| {
            let mut names = given.keys();
            let spelled = names.find(|given| given.eq_ignore_ascii_case(name));
            spelled.map(|spelled| format!("{at}/{spelled}"))
        };
        if let (true, None, Some(at)) =
            (self.expire_while_down, self.deadline, at("expireWhileDown"))
        {
            let message = "\"expireWhileDown\" needs a \"deadline\": nothing expires without one";
            errors.push(ConfigError::new(at, message));
        }
        if let (true, Some(at)) = (self.max_delay < self.delay, at("maxDelay")) {
            let message = format!(
                "\"maxDelay\" is {} ms, less than \"delay\", which is {} ms",
                self.max_delay.as_millis(),
                self.delay.as_millis()
            );
            errors.push(ConfigError::new(at, message));
        }
        // A first wait beyond the usual longest one is meant.
        self.max_delay = self.max_delay.max(self.delay);
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), String> {
        match name {
            "attempts" => {
                let most = whole(value, 0, u64::from(u32::MAX)).ok_or_else(|| {
                    format!("\"{name}\" is a whole number, 0 for ever, not {value}")
                })?;
                self.attempts = u32::try_from(most).ok().filter(|most| *most > 0);
            }
            "deadline" => {
                self.deadline = Some(duration(name, value)?).filter(|time| !time.is_zero());
            }
            "delay" => self.delay = duration(name, value)?,
            "maxDelay" => self.max_delay = duration(name, value)?,
            "multiplier" => self.multiplier = real(name, value, 1.0, 1000.0)?,
            "jitterFactor" => self.jitter_factor = real(name, value, 0.0, 1.0)?,
            _ => {
                self.expire_while_down = match value {
                    Value::Bool(flag) => *flag,
                    Value::String(text) if text == "true" => true,
                    Value::String(text) if text == "false" => false,
                    _ => return Err(format!("\"{name}\" is true or false, not {value}")),
                };
            }
        }
        Ok(())
    }
}

/// A property by its name without regard to case, with the name as it was spelled.
pub(super) fn take(properties: &mut Map<String, Value>, name: &str) -> Option<(String, Value)> {
    let spelled = properties
        .keys()
        .find(|key| key.eq_ignore_ascii_case(name))?
        .clone();
    let value = properties.shift_remove(&spelled)?;
    Some((spelled, value))
}

/// A whole number, or text that is one.
pub(super) fn whole(value: &Value, least: u64, most: u64) -> Option<u64> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_u64(),
    };
    number.filter(|number| (least..=most).contains(number))
}

/// Milliseconds, or Go's notation.
pub(super) fn duration(name: &str, value: &Value) -> Result<Duration, String> {
    let text = value.as_str().map(str::trim);
    whole(value, 0, u64::MAX)
        .map(Duration::from_millis)
        .or_else(|| text.and_then(duration_of))
        .ok_or_else(|| {
            format!(
                "\"{name}\" is a number of milliseconds or text like 500ms, 1m, 2h, not {value}"
            )
        })
}

fn real(name: &str, value: &Value, least: f64, most: f64) -> Result<f64, String> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("\"{name}\" is a number from {least} to {most}, not {value}"))
}

/// Name to JSON Schema: all of [`RetryPolicy::PROPERTIES`].
#[must_use]
pub fn properties() -> Map<String, Value> {
    const WHOLE: &str = "^\\s*[0-9]+\\s*$|\\$\\{";
    const TIME: &str = "^\\s*([0-9]+|([0-9.]+(ns|us|µs|ms|s|m|h))+)\\s*$|\\$\\{";
    let told = |about: &str, schema: Value| {
        let mut schema = schema;
        if let Some(object) = schema.as_object_mut() {
            object.insert("description".to_owned(), about.into());
        }
        or_variable(schema)
    };
    let count = json!({"type": ["integer", "string"], "minimum": 0, "pattern": WHOLE});
    let time = |default: Option<&str>| {
        let mut schema = json!({"type": ["integer", "string"], "minimum": 0, "pattern": TIME});
        if let (Some(object), Some(default)) = (schema.as_object_mut(), default) {
            object.insert("default".to_owned(), default.into());
        }
        schema
    };
    let keys = json!({
        "attempts": told(
            "Tries that reached the other side and failed as transient, before a message becomes a dead letter; 0: for ever.",
            json!({"type": ["integer", "string"], "minimum": 0, "maximum": u32::MAX, "pattern": WHOLE, "default": 0})
        ),
        "deadline": told(
            "How long after it was taken a message is tried: milliseconds, or text such as 10m; 0: for ever. Looked at when a try has failed.",
            time(Some("0"))
        ),
        "expireWhileDown": told(
            "The deadline is looked at while a connection is down too, so that a long outage makes dead letters.",
            json!({"type": ["boolean", "string"], "enum": [true, false, "true", "false"], "default": false})
        ),
        "delay": told("The first wait.", time(Some("100ms"))),
        "maxDelay": told("The longest wait; Retry-After may ask for more, up to an hour.", time(Some("10s"))),
        "multiplier": told("The wait grows by this factor.", json!({"type": "number", "minimum": 1, "maximum": 1000, "default": 2})),
        "jitterFactor": told("Part of the wait that is random.", json!({"type": "number", "minimum": 0, "maximum": 1, "default": 1})),
    });
    let mut retry = closed(keys, &[]);
    if let Some(object) = retry.as_object_mut() {
        object.insert(
            "description".to_owned(),
            "How often, how long and how soon a message that could not be written is tried again; then it is a dead letter.".into(),
        );
    }
    let mut all = Map::new();
    all.insert(RETRY.to_owned(), crate::config::schema::nullable(retry));
    all.insert(
        RESEND_INTERVAL.to_owned(),
        told(
            "Milliseconds before a failed write is tried again; what \"retry\" says unless told.",
            count,
        ),
    );
    all
}

#[cfg(test)]
mod tests;
