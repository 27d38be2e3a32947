//! `{{name}}`: a sink that publishes each message with the name of its site beside it. What is no text
//! is refused; the others of its batch go out.

use serde::Deserialize;
use windlass_connector::messaging::{Client, PublishOptions};
use windlass_connector::{Batch, Descriptor, Error, Rejection, Schema, Sink, Slot};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "{{name}}",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::One(include_str!("../schema.json")),
        slots: &[Slot::messaging("broker", "Where the messages go.")],
    },
    sink: Sites,
}

/// As `schema.json` has it.
#[derive(Debug, Deserialize)]
struct Config {
    topic: Option<String>,
    site: String,
}

#[derive(Debug)]
struct Sites {
    client: Client,
    options: PublishOptions,
    site: String,
}

impl Sink for Sites {
    type Config = Config;

    fn open(config: Config) -> Result<Self, Error> {
        // By the name of the slot: which connection that is, the rule says.
        let client = Client::open("broker")?;
        let options = PublishOptions { subject: config.topic, ..PublishOptions::default() };
        Ok(Self { client, options, site: config.site })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        let mut places = Vec::new();
        let mut texts = Vec::new();
        let mut rejected = Vec::new();
        for (place, text) in (0..).zip(batch.texts()) {
            match text {
                Some(text) => {
                    places.push(place);
                    texts.push(with_site(&text, &self.site));
                }
                None => rejected.push(Error::permanent("content", "the payload is not UTF-8").at(place)),
            }
        }
        if !places.is_empty() {
            // Subjects and headers stay those of the messages that go out.
            let out = batch.select(&places)?.with_payloads(&Batch::from_texts(&texts))?;
            for refused in self.client.publish(&out, &self.options)? {
                // Its place among those that went out, and among those that were given.
                let place = usize::try_from(refused.index).ok().and_then(|index| places.get(index));
                rejected.extend(place.map(|place| refused.error.at(*place)));
            }
        }
        Ok(rejected)
    }
}

/// The text of a JSON value with the site beside it.
fn with_site(data: &str, site: &str) -> String {
    format!(r#"{{"site":"{site}","data":{data}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stands_beside_its_site() {
        assert_eq!(with_site(r#"{"a":1}"#, "north"), r#"{"site":"north","data":{"a":1}}"#);
    }
}
