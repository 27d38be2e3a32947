//! `{{name}}`: a source that reads numbers as text from topics and gives each on as JSON, under the
//! subject on which it came. What is no number is left out, with a line in the log.

use serde::Deserialize;
use windlass_connector::log::{self, Level};
use windlass_connector::messaging::{Client, SubscribeOptions, Subscription};
use windlass_connector::{Batch, Descriptor, Error, Outcome, Schema, Slot, Source};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "{{name}}",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::One(include_str!("../schema.json")),
        slots: &[Slot::messaging("broker", "Where the readings come from.")],
    },
    source: Readings,
}

/// As `schema.json` has it.
#[derive(Debug, Deserialize)]
struct Config {
    datasource: String,
    #[serde(default = "value")]
    field: String,
}

fn value() -> String {
    "value".to_owned()
}

#[derive(Debug)]
struct Readings {
    subscription: Subscription,
    field: String,
}

impl Source for Readings {
    type Config = Config;

    fn open(config: Config, _resume: Option<String>) -> Result<Self, Error> {
        let topics: Vec<String> = config.datasource.split(',').map(|topic| topic.trim().to_owned()).collect();
        // By the name of the slot: which connection that is, the rule says.
        let subscription = Client::open("broker")?.subscribe(&topics, &SubscribeOptions::default())?;
        Ok(Self { subscription, field: config.field })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        // Waits. An empty batch means that the host wants this call to return.
        let arrived = self.subscription.receive(1000, None)?;
        let mut places = Vec::new();
        let mut readings = Vec::new();
        for (place, text) in (0..).zip(arrived.texts()) {
            match text.as_deref().and_then(|text| reading(text, &self.field)) {
                Some(reading) => {
                    places.push(place);
                    readings.push(reading);
                }
                None => log::write(Level::Warn, "left out what is no number"),
            }
        }
        // Subjects and headers stay those of the messages that go on.
        let batch = arrived.select(&places)?.with_payloads(&Batch::from_texts(&readings))?;
        Ok(Outcome::batch(batch))
    }
}

/// A number as text, as JSON.
fn reading(text: &str, field: &str) -> Option<String> {
    let number: f64 = text.trim().parse().ok().filter(|number: &f64| number.is_finite())?;
    let name: String = field.chars().flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] }).collect();
    Some(format!(r#"{{"{name}":{number}}}"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_becomes_json_and_anything_else_nothing() {
        assert_eq!(reading(" 21.5\n", "value").as_deref(), Some(r#"{"value":21.5}"#));
        assert_eq!(reading("-3", "a\"b").as_deref(), Some(r#"{"a\"b":-3}"#));
        assert_eq!(reading("warm", "value"), None);
        assert_eq!(reading("inf", "value"), None);
    }
}
